"""Changes of users that the app's own code makes, and the part of an authenticator that hears of them.

A users context over the app's own database may notice such changes; see `powauth.accounts.following`. It tells every
authenticator that uses it. The sessions then follow.
"""

import enum
from typing import Any, Protocol

from powauth.accounts.identity import Key


class Change(enum.IntEnum):
    """The kind of a change. Of two changes of one user the higher one counts."""

    IDENTITY = 1
    """The identity may be out of date."""

    CREDENTIALS = 2
    """The password, the user id or the active flag may have changed, or the user was deleted."""


class ChangeListener(Protocol):
    """An authenticator, as the users context sees it. The calls for one transaction come in the order of the methods.

    The session of the request that makes a change of its own user's credentials stays, and gets the new proof.
    """

    def track_requests(self) -> None:
        """Find out which request makes a change, from now on. This is called when the users context begins to notice.

        It takes a little of every request's time, so authenticators do not do it before.
        """
        ...

    def check_waitable(self) -> None:
        """Check that the store works for a caller without an event loop.

        Raises:
            ConfigError: if it does not.
        """
        ...

    def end_in_transaction(self, connection: Any, key: Key) -> bool:
        """End the user's sessions in the transaction of a SQLAlchemy connection.

        Return ``False``, and do nothing, if the sessions do not live in that database.

        Raises:
            StoreUnavailable: if the database refuses.
        """
        ...

    async def before_commit(self, key: Key, *, joined: bool) -> None:
        """End everything that the user holds. The change of the credentials is not committed yet.

        ``joined``: `end_in_transaction` has ended the sessions already.

        Raises:
            StoreUnavailable: if anything may still be valid.
        """
        ...

    async def after_commit(self, key: Key, change: Change, *, joined: bool) -> None:
        """Let the sessions follow a change that was just committed.

        After a change of the credentials, end everything once more: somebody may have signed in meanwhile. After any
        other change, mark the identities stale.

        Raises:
            StoreUnavailable: if the sessions may not have followed.
        """
        ...
