"""One users context for coroutines on an event loop and for plain functions under WSGI."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from powauth._running import on_event_loop, password_threads, users_threads
from powauth.accounts.base import Account, Params, UsersContext
from powauth.accounts.delegating import DelegatingUsers
from powauth.accounts.identity import I, Key
from powauth.accounts.offloaded import OffloadedUsers
from powauth.backends.base import Mode, drive
from powauth.errors import ConfigError

T = TypeVar("T")


def anywhere(users: UsersContext[Any, I]) -> UsersContext[Any, I]:
    """Return a users context that works with and without an event loop. An ``inline`` one is returned unchanged."""
    return users if users.mode in ("inline", "anywhere") else AnywhereUsers(users)


async def call_anywhere(mode: Mode, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Await a call of a users context. On an event loop, a ``blocking`` one runs in a worker thread."""
    if mode == "blocking" and on_event_loop():
        return await users_threads(lambda: drive(call()))
    return await call()


class AnywhereUsers(DelegatingUsers[I]):
    """Checks at each call whether an event loop is running, and calls the wrapped users context accordingly."""

    mode: Mode = "anywhere"

    def __init__(self, users: UsersContext[Any, I]) -> None:
        super().__init__(users)
        self._offloaded = OffloadedUsers(users, users_threads, password_threads) if users.mode == "blocking" else None

    def _here(self) -> UsersContext[Any, I]:
        if on_event_loop():
            return self._offloaded or self._users
        if self._offloaded is None:
            raise ConfigError(
                "the users context needs an event loop, and there is none here: give SQLAlchemyUsers an Engine"
            )
        return self._users

    async def authenticate(self, params: Params) -> Account[I] | None:
        """See `UsersContext.authenticate`."""
        return await self._here().authenticate(params)

    async def create(self, params: Params) -> Account[I]:
        """See `UsersContext.create`."""
        return await self._here().create(params)

    async def update(
        self, key: Key, params: Params, *, trusted: bool = False, proof: bytes | None = None
    ) -> Account[I]:
        """See `UsersContext.update`."""
        return await self._here().update(key, params, trusted=trusted, proof=proof)

    async def set_first_password(self, key: Key, params: Params) -> Account[I] | None:
        """See `UsersContext.set_first_password`."""
        return await self._here().set_first_password(key, params)

    async def has_password(self, key: Key) -> bool:
        """See `UsersContext.has_password`."""
        return await self._here().has_password(key)

    async def delete(self, key: Key, params: Params | None = None) -> bool:
        """See `UsersContext.delete`."""
        return await self._here().delete(key, params)

    async def get(self, key: Key) -> Account[I] | None:
        """See `UsersContext.get`."""
        return await self._here().get(key)

    async def read(self, key: Key, names: Sequence[str]) -> tuple[Account[I], Mapping[str, Any]] | None:
        """See `UsersContext.read`."""
        return await self._here().read(key, names)

    async def find(self, user_id: object) -> Account[I] | None:
        """See `UsersContext.find`."""
        return await self._here().find(user_id)

    async def throttle_key(self, params: Params) -> str | None:
        """See `UsersContext.throttle_key`."""
        return await self._here().throttle_key(params)

    async def close(self) -> None:
        """See `UsersContext.close`."""
        await self._here().close()
