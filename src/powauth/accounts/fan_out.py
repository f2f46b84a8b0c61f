"""`FanOut`: ends what a user holds after changes that the app's own code makes."""

from typing import Any, Generic

from powauth.accounts.changes import FOLLOWED, Change
from powauth.accounts.identity import I, Key
from powauth.accounts.service import AccountService


class FanOut(Generic[I]):
    """The `ChangeListener` of an authenticator without sessions: it calls `AccountService.credentials_changed`."""

    def __init__(self, accounts: AccountService[I]) -> None:
        self._accounts = accounts

    def track_requests(self) -> None:
        """See `ChangeListener.track_requests`."""

    def check_waitable(self) -> None:
        """See `ChangeListener.check_waitable`."""

    def end_in_transaction(self, connection: Any, key: Key) -> bool:
        """See `ChangeListener.end_in_transaction`."""
        del connection, key
        return False

    def keeps(self, key: Key) -> bool:
        """See `ChangeListener.keeps`."""
        del key
        return False

    def accept_in_transaction(self, connection: Any, key: Key, proof: bytes) -> None:
        """See `ChangeListener.accept_in_transaction`."""

    async def before_commit(self, key: Key, *, joined: bool, locked: bool, proof: bytes | None) -> None:
        """See `ChangeListener.before_commit`."""
        del joined, proof
        if not locked:
            await self._accounts.credentials_changed(key, FOLLOWED)

    async def after_commit(self, key: Key, change: Change, *, joined: bool) -> None:
        """See `ChangeListener.after_commit`."""
        del joined
        if change is Change.CREDENTIALS:
            await self._accounts.credentials_changed(key, FOLLOWED)
