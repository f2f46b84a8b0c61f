"""The interfaces of stores for authenticator apps and recovery codes, for apps that keep them in no SQL table.

All methods are coroutine functions. For an app under WSGI, they must not wait for an event loop. They name a user by
`powauth.accounts.user_keys.user_key_text`: a text of at most 511 printable characters of ASCII.

`powauth.testing.factors` has a suite for each store.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import msgspec

from powauth.accounts.base import UsersContext
from powauth.accounts.user_tables import bind_to_users


class TotpRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The authenticator app of a user. A user has at most one.

    Attributes:
        id: a name of this enrolment, never used twice.
        label: the name that the user gave it.
        seed: the sealed seed.
        step: the time step of the last code that was accepted.
        created_at: when it was enrolled, in UTC.
        last_used_at: when a code was last accepted, in UTC; ``None`` if none was since the enrolment.
    """

    id: str
    label: str
    seed: bytes
    step: int
    created_at: datetime
    last_used_at: datetime | None = None

    __repr__ = object.__repr__  # error reporters record what local variables look like


class TotpStore(ABC):
    """Stores the authenticator apps of users. All methods raise `StoreUnavailable` if the store cannot be reached."""

    def bind(self, users: UsersContext[Any, Any]) -> None:
        """Note the users whose apps the store has. An authenticator calls it once, when it is made.

        By default it refuses a store that has those of users in another table. Override it if your store keeps them
        apart.

        Raises:
            ConfigError: if authenticators with different users must not share the store.
        """
        bind_to_users(self, users)

    @abstractmethod
    async def get(self, user: str) -> TotpRecord | None:
        """Return the record of a user; ``None`` if there is none."""

    @abstractmethod
    async def put(self, user: str, record: TotpRecord) -> None:
        """Store the record of a user, in place of an older one."""

    @abstractmethod
    async def add(self, user: str, record: TotpRecord) -> bool:
        """Store the record of a user who has none, and return whether that was done. Look and write in one step."""

    @abstractmethod
    async def accept(self, user: str, id: str, step: int, at: datetime) -> bool:  # noqa: A002 - the field's name
        """Set ``step`` and ``last_used_at`` if the stored step is lower, and return whether that was done.

        Compare and write in one step (RFC 6238, section 5.2): of any number of parallel calls with one step, exactly
        one returns true. If the user has no record of this ``id``, return false.
        """

    @abstractmethod
    async def reseal(self, user: str, id: str, old: bytes, new: bytes) -> bool:  # noqa: A002 - the field's name
        """Set ``seed`` to ``new`` if it is ``old``, in one step, and return whether that was done."""

    @abstractmethod
    async def delete(self, user: str, id: str | None = None) -> bool:  # noqa: A002 - the field's name
        """Delete the record of a user, and return whether there was one. With ``id``, delete no other one."""

    @abstractmethod
    async def page(self, after: str | None, limit: int) -> Sequence[tuple[str, TotpRecord]]:
        """Return users and their records in the order of the users, from the first one after ``after``.

        Return at most ``limit``. `Totp.reseal` reads all records in this way.
        """


class RecoveryCodeStore(ABC):
    """Stores hashes of recovery codes. All methods raise `StoreUnavailable` if the store cannot be reached."""

    def bind(self, users: UsersContext[Any, Any]) -> None:
        """Note the users whose codes the store has. An authenticator calls it once, when it is made.

        By default it refuses a store that has those of users in another table. Override it if your store keeps them
        apart.

        Raises:
            ConfigError: if authenticators with different users must not share the store.
        """
        bind_to_users(self, users)

    @abstractmethod
    async def put(self, user: str, hashes: Collection[bytes], at: datetime) -> None:
        """Store hashes of 32 bytes as the codes of a user, in place of all older ones, in one step.

        If calls for one user overlap, the codes of at most one are left. The others may raise `StoreUnavailable`.
        """

    @abstractmethod
    async def take(self, user: str, hash: bytes) -> bool:  # noqa: A002 - the name of the value
        """Delete a hash, and return whether the user had it. Of any number of parallel calls, exactly one is true."""

    @abstractmethod
    async def left(self, user: str) -> tuple[int, datetime | None]:
        """Return how many codes a user has, and when they were made; ``None`` if there are none."""

    @abstractmethod
    async def delete(self, user: str) -> int:
        """Delete all codes of a user, and return how many there were."""
