"""`UserPasskeys`: the passkeys of users, and the users of passkeys."""

from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar

from powauth.accounts.anywhere import call_anywhere
from powauth.accounts.base import Account, UsersContext
from powauth.accounts.identity import I, Key
from powauth.extensions.passkeys.answers import CeremonyFailed
from powauth.extensions.passkeys.table import PasskeyTable, StoredPasskey

T = TypeVar("T")


class UserPasskeys(Generic[I]):
    """Finds the passkeys of users, and the users of passkeys. It ignores those of an earlier user with the same key.

    Args:
        users: the users context.
        table: the passkeys.

    Attributes:
        table: the passkeys.
    """

    def __init__(self, users: UsersContext[Any, I], table: PasskeyTable) -> None:
        self.table: Final = table
        self._users: Final = users
        self._born: Final = [*({"created_at"} & {*users.columns})]

    async def of_user(self, key: Key) -> list[StoredPasskey]:
        """Return the passkeys of a user, oldest first. Those of an earlier user of the key are not among them.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """
        own = await self.call(lambda: self.table.of_user(key))
        if not own or not self._born:
            return own
        _, born = await self.account(key)
        return [each for each in own if each.user_created_at in (None, born)]

    async def owner(self, passkey: StoredPasskey) -> Account[I]:
        """Return the active account of a passkey.

        Raises:
            CeremonyFailed: if its user is gone or locked.
            StoreUnavailable: if the users cannot be reached.
        """
        account, born = await self.account(passkey.key)
        if account is None or account.active is not True:
            raise CeremonyFailed("account")
        if passkey.user_created_at is not None and passkey.user_created_at != born:
            raise CeremonyFailed("account")
        return account

    async def account(self, key: Key) -> tuple[Account[I] | None, datetime | None]:
        """Return a user, and the time at which the user was created, if the model has it.

        Raises:
            StoreUnavailable: if the users cannot be reached.
        """
        if not self._born:
            return await self._users.get(key), None
        read = await self._users.read(key, self._born)
        if read is None:
            return None, None
        values: Mapping[str, Any] = read[1]
        at = values["created_at"]
        if not isinstance(at, datetime):
            return read[0], None
        return read[0], (at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC))

    async def call(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return the result of a coroutine of the table. On an event loop, a blocking one runs in a worker thread."""
        return await call_anywhere(self.table.database.mode, work)
