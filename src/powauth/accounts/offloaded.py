"""A blocking users context on an event loop: calls that use the database or hash a password run in worker threads."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from powauth._running import InThread
from powauth.accounts.base import Account, Params, Rehash, UsersContext
from powauth.accounts.delegating import DelegatingUsers
from powauth.accounts.identity import I, Key
from powauth.backends.base import Mode, drive


class OffloadedUsers(DelegatingUsers[I]):
    """Wraps a users context whose coroutines block. The wrapper's coroutines suspend instead.

    Args:
        users: the users context.
        in_thread: runs a function in a worker thread.
        hashing: does the same for the calls that hash a password. ``None`` is ``in_thread``.
    """

    mode: Mode = "async"

    def __init__(self, users: UsersContext[Any, I], in_thread: InThread, hashing: InThread | None = None) -> None:
        super().__init__(users)
        self._in_thread = in_thread
        self._hashing = in_thread if hashing is None else hashing

    async def authenticate(self, params: Params) -> Account[I] | None:
        """See `UsersContext.authenticate`. The worker threads also write the stronger hash."""
        account = await self._hashing(lambda: drive(self._users.authenticate(params)))
        if account is None or account.rehash is None:
            return account
        rehash = account.rehash

        async def write() -> bool:
            return await self._in_thread(lambda: drive(_written(rehash)))

        return msgspec.structs.replace(account, rehash=Rehash(rehash.proof, write))

    async def create(self, params: Params) -> Account[I]:
        """See `UsersContext.create`."""
        return await self._hashing(lambda: drive(self._users.create(params)))

    async def update(
        self, key: Key, params: Params, *, trusted: bool = False, proof: bytes | None = None
    ) -> Account[I]:
        """See `UsersContext.update`."""
        return await self._hashing(lambda: drive(self._users.update(key, params, trusted=trusted, proof=proof)))

    async def set_first_password(self, key: Key, params: Params) -> Account[I] | None:
        """See `UsersContext.set_first_password`."""
        return await self._hashing(lambda: drive(self._users.set_first_password(key, params)))

    async def has_password(self, key: Key) -> bool:
        """See `UsersContext.has_password`."""
        return await self._in_thread(lambda: drive(self._users.has_password(key)))

    async def delete(self, key: Key, params: Params | None = None) -> bool:
        """See `UsersContext.delete`."""
        return await self._hashing(lambda: drive(self._users.delete(key, params)))

    async def get(self, key: Key) -> Account[I] | None:
        """See `UsersContext.get`."""
        return await self._in_thread(lambda: drive(self._users.get(key)))

    async def read(self, key: Key, names: Sequence[str]) -> tuple[Account[I], Mapping[str, Any]] | None:
        """See `UsersContext.read`."""
        return await self._in_thread(lambda: drive(self._users.read(key, names)))

    async def find(self, user_id: object) -> Account[I] | None:
        """See `UsersContext.find`."""
        return await self._in_thread(lambda: drive(self._users.find(user_id)))

    async def throttle_key(self, params: Params) -> str | None:
        """See `UsersContext.throttle_key`."""
        return await self._in_thread(lambda: drive(self._users.throttle_key(params)))

    async def close(self) -> None:
        """See `UsersContext.close`."""
        await self._in_thread(lambda: drive(self._users.close()))


async def _written(rehash: Rehash) -> bool:
    return await rehash.write()
