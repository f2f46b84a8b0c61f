"""Changes of users: the reasons that extensions hear, and how an authenticator hears of changes by the app's own code.

The constants are the values of ``why`` of `Extension.credentials_changed`. An app that calls
`powauth.Authenticator.credentials_changed` may give any other text.

A users context over the app's own database may notice such changes; see `powauth.accounts.following`. It tells every
authenticator that uses it. The sessions then follow.
"""

import enum
from typing import Any, Final, Protocol

from powauth.accounts.identity import Key

CHANGED: Final = "credentials changed"
"""The reason after a new password, a new user id or a lock, if there is no other one."""

FOLLOWED: Final = "changed in the app's database"
"""The reason if the users context has noticed a change or a deletion that the app's own code makes."""

CREATED: Final = "user created"
"""The reason after a new account. Its integer key may have been that of a former user whom another program has deleted.
So this ends everything that is left of the former user."""

BY_APP: Final = "changed by the app"
"""The reason if the app calls `powauth.Authenticator.credentials_changed` and gives none."""

DELETED: Final = "user deleted"
"""The reason after `AccountService.delete_user` and `AccountService.delete_account`."""

REVOKED: Final = "all"
"""The reason if all sessions and tokens of a user are ended, by the user or by the app, and the account stays as it is.

The event ``revoked`` has it as its detail, with the number of sessions.
"""

RECOVERED: Final = "account recovered"
"""The reason of a change by which the owner takes an account back, such as by a link in a mail. Somebody else may have
used the account. So this also ends what outlives an ordinary change of the password, such as API keys."""

CLAIMED: Final = "address claimed"
"""The reason if a person proves an address for the first time, and somebody else may have made the account with it. So
this ends everything that was made with the account."""


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

    def keeps(self, key: Key) -> bool:
        """Return whether the request that is served here has a session of this user, which stays."""
        ...

    def accept_in_transaction(self, connection: Any, key: Key, proof: bytes) -> None:
        """Let that session accept a proof in the transaction in which `end_in_transaction` has ended the others."""
        ...

    async def before_commit(self, key: Key, *, joined: bool, locked: bool, proof: bytes | None) -> None:
        """End everything that the user holds. The change of the credentials is not committed yet.

        ``joined``: `end_in_transaction` has ended the sessions already.

        ``locked``: the transaction has locked the whole database, and the sessions are elsewhere. End only the
        sessions: the table of an extension may be in the database, and a statement on another connection would wait for
        the lock. `after_commit` does the rest.

        ``proof`` is the user's proof after the commit, if a session stays that must accept it. Another request of the
        same client may load the user between the commit and `after_commit`.

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
