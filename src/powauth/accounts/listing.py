"""`ListsUsers`: the ability of a users context to list its users and to check them, for ``powauth users``."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from datetime import datetime

import msgspec

from powauth.accounts.checking import UserIdProblem
from powauth.accounts.identity import Key

PAGE = 500
"""Users in one page of a list, unless the caller asks for another number."""


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A user in a list. It holds no hash and no other secret.

    Attributes:
        key: the user's primary key.
        user_id: the user id as it is stored.
        active: whether the user may sign in and stay signed in.
        has_password: whether the user has a password. ``NULL``, an empty hash, and one that begins with "!" are none.
        is_readable: whether the hash, if any, is of a format that a sign-in can verify.
        hash_format: the format of the hash: ``"Argon2id"``, or the name of a scheme of `powauth.accounts.schemes`. The
            hasher may lack that scheme. ``None`` if there is no password, or the format is unknown.
        created_at: the time of registration; ``None`` if the users have no such time.
    """

    key: Key
    user_id: str | None
    active: bool
    has_password: bool
    is_readable: bool = True
    hash_format: str | None = None
    created_at: datetime | None = None


class ListsUsers(ABC):
    """The ability of a users context to list its users. A context of your own may implement it, too."""

    @abstractmethod
    async def list_users(self, after: Key | None = None, limit: int = PAGE) -> Sequence[Listed]:
        """Return up to ``limit`` users in the order of their keys, from the first one after the key ``after``.

        Fewer users than ``limit`` mean that there are no more. A page costs the same, however many users precede it.

        Raises:
            StoreUnavailable: if the users cannot be reached.
        """

    async def check_user_ids(self, *, batch: int = 1000) -> AsyncIterator[UserIdProblem]:
        """Yield the stored user ids that need attention, reading ``batch`` users at a time. By default there are none.

        Raises:
            StoreUnavailable: if the users cannot be reached.
        """
        del batch
        nothing: Sequence[UserIdProblem] = ()
        for problem in nothing:
            yield problem

    async def columns_not_unique(self) -> Sequence[str]:
        """Return the columns of user ids of which the database accepts a value twice. By default there are none.

        Raises:
            StoreUnavailable: if the users cannot be reached.
        """
        return ()
