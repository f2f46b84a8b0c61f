"""`UserRecords`: the sessions of users and the counters of their attempts, as the flows of accounts see them.

The flows of `powauth.accounts.service` count attempts there, and tell it about changes of accounts.
"""

from typing import Any, Generic

import msgspec

from powauth.accounts.base import Account, Params
from powauth.accounts.identity import I, Key
from powauth.accounts.throttle import UNCOUNTED, Admission
from powauth.backends.base import Millis
from powauth.sessions.record import Session


class Attempt(msgspec.Struct, frozen=True):
    """An attempt to sign in, from its admission until its session exists.

    Attributes:
        admission: the admission, which can take the count back.
        begun: the time at which it was admitted.
        epoch: the latest epoch of all users at that time, read before any user. ``None`` if it cannot be used.
        counted_as: the key under which its failure is counted; ``None`` if it is not counted for an account.
        everyone: the epoch of everyone, read before any user; see `powauth.sessions.manager.SessionManager.begin`.
    """

    admission: Admission = UNCOUNTED
    begun: Millis = 0
    epoch: int | None = None
    counted_as: str | None = None
    everyone: int = 0

    __repr__ = object.__repr__  # error reporters record what local variables look like


class UserRecords(Generic[I]):
    """The records of an authenticator about users: their sessions, and the counters of their attempts.

    This class is for an authenticator that stores nothing. Another one gives `Authenticator` an object of a subclass.
    """

    async def admit_sign_in(self, request: Any, params: Params, *, waits: bool) -> Attempt:
        """Count an attempt to sign in, before ``params`` are checked.

        ``waits``: a hook may take time between the look-up of the user and the new session.

        Raises:
            Throttled: if there were too many.
            StoreUnavailable: if the attempt cannot be counted.
        """
        del request, params, waits
        return Attempt()

    async def admit_current_password(self, request: Any, key: Key) -> Admission:
        """Count a ``current_password`` that a signed-in user gives, before it is checked.

        Raises:
            Throttled: if there were too many.
            StoreUnavailable: if the attempt cannot be counted.
        """
        del request, key
        return UNCOUNTED

    async def admit_second_factor(self, request: Any, params: Params) -> None:
        """Count a sign-in with the right password for which a hook asked for a second factor.

        Raises:
            Throttled: if there were too many.
            StoreUnavailable: if it cannot be counted.
        """
        del request, params

    async def forget_failures_of(self, counted_as: str) -> bool:
        """Reset the failed sign-ins under a key; see `Attempt`. Return whether there were any.

        Raises:
            StoreUnavailable: if the store cannot be reached.
        """
        del counted_as
        return False

    async def check_ready(self, key: Key) -> None:
        """Check, before a change of an account, that the user's records can follow it.

        Raises:
            StoreUnavailable: if they cannot.
        """
        del key

    async def accept_proof(self, account: Account[I], proof: bytes) -> None:
        """Accept a second proof of an account in its sessions: its password is about to get a stronger hash.

        Raises:
            StoreUnavailable: if the store cannot be reached.
        """
        del account, proof

    async def refresh(self, key: Key) -> None:
        """Update a user's identity in all of their sessions.

        Raises:
            StoreUnavailable: if the store cannot be reached.
        """
        del key

    async def end_sessions(self, key: Key, why: str, keep: Session | None = None, request: Any = None) -> int:
        """End all sessions of a user but ``keep``. Return how many ended. Apps call `credentials_changed` instead.

        ``request`` is the request that caused it. Its event says so.

        Raises:
            StoreUnavailable: if any may still be live.
        """
        del key, why, keep, request
        return 0
