"""A blocking users context on an event loop: whatever reaches the database, or hashes, runs in a worker thread."""

from collections.abc import Mapping

from powauth.accounts.base import U, UsersContext
from powauth.backends.base import Mode, drive
from powauth.backends.offloaded import InThread


class OffloadedUsers(UsersContext[U]):
    """A users context whose coroutines block, made to suspend instead."""

    mode: Mode = "async"

    def __init__(self, users: UsersContext[U], in_thread: InThread) -> None:
        self._users = users
        self._in_thread = in_thread
        self.user_type = users.user_type
        self.user_id_field = users.user_id_field
        self.authenticates_current = users.authenticates_current
        self.immutable = users.immutable

    def key(self, user: U) -> str:
        """See `UsersContext.key`."""
        return self._users.key(user)

    def fingerprint(self, user: U) -> bytes:
        """See `UsersContext.fingerprint`."""
        return self._users.fingerprint(user)

    def is_active(self, user: U) -> bool:
        """See `UsersContext.is_active`."""
        return self._users.is_active(user)

    def snapshot(self, user: U) -> bytes:
        """See `UsersContext.snapshot`."""
        return self._users.snapshot(user)

    def restore(self, snapshot: bytes) -> U:
        """See `UsersContext.restore`."""
        return self._users.restore(snapshot)

    async def authenticate(self, params: Mapping[str, object]) -> U | None:
        """See `UsersContext.authenticate`."""
        return await self._in_thread(lambda: drive(self._users.authenticate(params)))

    def login_key(self, params: Mapping[str, object]) -> str | None:
        """See `UsersContext.login_key`."""
        return self._users.login_key(params)

    async def create(self, params: Mapping[str, object]) -> U:
        """See `UsersContext.create`."""
        return await self._in_thread(lambda: drive(self._users.create(params)))

    async def update(self, user: U, params: Mapping[str, object], *, trusted: bool = False) -> U:
        """See `UsersContext.update`."""
        return await self._in_thread(lambda: drive(self._users.update(user, params, trusted=trusted)))

    async def delete(self, user: U, params: Mapping[str, object] | None = None) -> bool:
        """See `UsersContext.delete`."""
        return await self._in_thread(lambda: drive(self._users.delete(user, params)))

    async def get_by(self, **clauses: object) -> U | None:
        """See `UsersContext.get_by`."""
        return await self._in_thread(lambda: drive(self._users.get_by(**clauses)))

    async def reload(self, user: U) -> U | None:
        """See `UsersContext.reload`."""
        return await self._in_thread(lambda: drive(self._users.reload(user)))

    def change(self, params: Mapping[str, object], user: U | None = None) -> Mapping[str, list[str]]:
        """See `UsersContext.change`."""
        return self._users.change(params, user)

    async def close(self) -> None:
        """See `UsersContext.close`."""
        await self._in_thread(lambda: drive(self._users.close()))
