"""The protocol of a backend: a map of opaque records, each with an owner and an expiry.

A backend knows nothing of sessions. It keeps `Record` values under keys, one owner each, and answers seven verbs
(`Backend.create`, `get`, `update`, `delete`, `list`, `delete_owner`, `purge`), one question (`epoch`), and two of an
administrator (`scan`, `count`). Each verb is atomic and returns only once the engine has acknowledged it. Absence is an
answer (``None``, ``False``, ``0``); the only error is `StoreUnavailable`.

Time is an argument: every verb that depends on it takes ``now`` in milliseconds since the Unix epoch, so one clock
governs all parts. Anyone may write a backend; `powauth.testing.BackendConformance` is the suite that ours pass.

**Keys** are ``namespace ":" shard(2) rest``. The namespace is checked once (`check_namespace`) and holds no ``:``: the
encoding is injective and no namespace can name another's record. The shard is a hash of the owner: in a cluster all
records of one owner, and their index, live in one place.

**Epochs** close the race between a revocation and a sign-in in flight. `delete_owner` moves the owner's epoch on, and
`create` succeeds only while the epoch is the one that its caller had read before it looked at the user. An epoch need
not be kept for ever: `EPOCH_LIFETIME` after its last move a backend may forget it (and answer 0), because a
caller gives up a sign-in that takes longer than that. Where a backend draws the epochs of all owners from one count,
the last of them serves before anybody knows whose sign-in it is (`Backend.latest_epoch`).

**Beyond the verbs** there is what some engines do better than by a verb each: `Backend.get_fresh`, `peek` with
`record_of`, `change` and `latest_epoch`. What stands here in their place is right for every backend.
"""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from typing import Any, Literal, TypeVar

import msgspec

from powauth._running import on_event_loop
from powauth.errors import ConfigError

T = TypeVar("T")

Millis = int
"""Milliseconds: a time since the Unix epoch, or a duration."""

Mode = Literal["inline", "blocking", "async", "anywhere"]
"""How a component's coroutines behave: ``inline`` never suspends and does not wait on a network; ``blocking`` never
suspends but waits on a network, so an event loop must run it in a worker thread; ``async`` suspends, so only an event
loop can run it; ``anywhere`` suspends on an event loop, and only there."""

EPOCH_LIFETIME: Millis = 3_600_000
"""How long a moved epoch is remembered at least: an hour, many times the longest sign-in."""

MAX_VALUE_BYTES = 65_536
"""The longest value a backend must take; a session is a few hundred bytes, and its variable parts are bounded."""

MAX_OWNER_BYTES = 320
"""The longest owner a backend must take: the namespace, a colon, and a user's key of up to 255 bytes."""

_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z")


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record. Immutable: a change is a new record given to `Backend.update`.

    Attributes:
        key: ``namespace ":" shard(2) rest``; see `make_key`.
        owner: ``namespace ":" user's key``; see `make_owner`. Never changes for a key.
        version: counts the changes; `Backend.update` compares it.
        created_at: Milliseconds since the epoch; orders `Backend.list`. Never changes for a key.
        expires_at: Milliseconds since the epoch; from then on the record counts as absent.
        value: opaque bytes.
    """

    key: bytes
    owner: bytes
    version: int
    created_at: Millis
    expires_at: Millis
    value: bytes

    def __repr__(self) -> str:  # without the value, which holds secrets: error reporters keep what variables look like
        return f"<Record {self.key!r} of {self.owner!r} version {self.version}>"


class Page(msgspec.Struct, frozen=True):
    """One step of `Backend.scan`: some live records, and where to go on (``None`` at the end)."""

    records: list[Record]
    cursor: str | None


class Create(msgspec.Struct, frozen=True, gc=False):
    """For `Backend.change`: what `Backend.create` does."""

    record: Record
    epoch: int | None = None


class Update(msgspec.Struct, frozen=True, gc=False):
    """For `Backend.change`: what `Backend.update` does."""

    record: Record
    expected_version: int


class Delete(msgspec.Struct, frozen=True, gc=False):
    """For `Backend.change`: what `Backend.delete` does."""

    key: bytes


Change = Create | Update | Delete


class WouldWaitError(Exception):
    """`Backend.peek` cannot answer without waiting: call `Backend.get` where waiting is allowed."""


class Backend(ABC):
    """Where records live. Every method is safe to call from several threads, or several tasks, at once.

    Raises:
        StoreUnavailable: from any verb, if the engine cannot be reached, refuses, or is full; its own error is the
            cause. After it the caller does not know whether a write took effect.
    """

    mode: Mode
    shared: bool = True
    """Whether other processes see the same records; an app of several workers needs that."""
    reads_at_once: bool = False
    """Whether `peek` sees the engine itself, not merely a copy nearby: an event loop may so read a ``blocking`` one."""
    changes_at_once: bool = False
    """Whether `change` is one transaction: what it says it has made is there together, or none of it."""

    def __init_subclass__(cls, **options: Any) -> None:
        """A subclass with a `get` of its own is asked by that one: no `peek` that it inherits passes it by."""
        super().__init_subclass__(**options)
        if "get" in cls.__dict__ and "peek" not in cls.__dict__:
            cls.reads_at_once = False
            cls.peek = Backend.peek  # type: ignore[method-assign]

    @abstractmethod
    async def create(self, record: Record, epoch: int | None, now: Millis) -> bool:
        """Add a record; ``False`` if the key holds a live record, or the owner's epoch has moved on from ``epoch``.

        ``epoch`` is what `epoch` has answered for the owner, or `latest_epoch`. ``None`` asks for no epoch: for records
        that no revocation concerns.
        """

    @abstractmethod
    async def get(self, key: bytes, now: Millis) -> Record | None:
        """Read one live record. Expired counts as absent, also before any sweep; it may be removed on the way."""

    async def get_fresh(self, key: bytes, now: Millis) -> Record | None:
        """`get` from the engine itself, for a backend whose `get` may answer from a copy nearby; elsewhere the same."""
        return await self.get(key, now)

    def peek(self, key: bytes, now: Millis) -> object:
        """What `get` would find under ``key``, for `record_of`; ``None`` if nothing is there.

        Opaque: it equals what was there before for as long as nobody has written under the key, which can so be told
        without taking it apart. What has expired may be there or not.

        Raises:
            WouldWaitError: if to look takes a wait for a network, a lock or a connection, for now or ever, and is so
                not fit for an event loop's own thread.
        """
        raise WouldWaitError

    def record_of(self, key: bytes, seen: Any, now: Millis) -> Record | None:
        """The live record in what `peek` has seen under ``key``; ``None`` if it has expired, or cannot be read."""
        raise NotImplementedError  # of a backend that has a `peek`

    def get_at_once(self, key: bytes, now: Millis) -> Record | None:
        """`get`, by `peek` and `record_of`.

        Raises:
            WouldWaitError: if that takes a wait.
        """
        seen = self.peek(key, now)
        return None if seen is None else self.record_of(key, seen, now)

    @abstractmethod
    async def update(self, record: Record, expected_version: int, now: Millis) -> bool:
        """Replace the live record of the same key if its version is ``expected_version``. Never creates."""

    @abstractmethod
    async def delete(self, key: bytes, now: Millis) -> bool:
        """Remove a record; whether a live one existed, so that the winner of a race knows it won."""

    async def change(self, changes: Sequence[Change], now: Millis) -> int:
        """Make several changes, in order and up to the first that its verb would answer with ``False``; how many.

        What was made stays made. An engine that has transactions makes them in one, so that they are there together or
        not at all, after one wait for the disk; here they are made one by one.
        """
        for made, change in enumerate(changes):
            if not await self._make(change, now):
                return made
        return len(changes)

    async def _make(self, change: Change, now: Millis) -> bool:
        match change:
            case Create(record, epoch):
                return await self.create(record, epoch, now)
            case Update(record, expected_version):
                return await self.update(record, expected_version, now)
            case Delete(key):
                return await self.delete(key, now)

    @abstractmethod
    async def list(self, owner: bytes, now: Millis) -> list[Record]:
        """All live records of an owner, newest ``created_at`` first, ties by key descending."""

    @abstractmethod
    async def epoch(self, owner: bytes, now: Millis, *, advance: bool = False) -> int:
        """The owner's epoch. With ``advance`` it is moved on first, so that no `create` begun earlier succeeds."""

    async def latest_epoch(self, now: Millis) -> int | None:
        """A number that no owner's epoch is above now, and every epoch that is moved from now on will be.

        A `create` with it lands unless the owner's epoch was moved after this was read, whoever the owner is.
        ``None`` is the answer of a backend that has no count common to all owners.
        """
        del now
        return None

    @abstractmethod
    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        """Move the owner's epoch on and remove all its records but the one under ``keep``; how many live ones went."""

    @abstractmethod
    async def purge(self, limit: int, now: Millis) -> int:
        """Remove up to ``limit`` expired records and forgotten epochs; how many went. No pause grows with the store."""

    @abstractmethod
    async def scan(self, namespace: str, cursor: str | None, limit: int, now: Millis) -> Page:
        """For administrators: one step through a namespace's live records, from ``cursor`` (``None`` is the start).

        A record present during the whole scan is seen at least once; others may be.
        """

    @abstractmethod
    async def count(self, namespace: str, now: Millis) -> int:
        """For administrators: how many live records the namespace holds. May take time in proportion to them."""

    async def close(self) -> None:
        """Let go of files and connections. Calls after it raise `StoreUnavailable`."""


def check_namespace(namespace: object) -> str:
    """The namespace, if it is one: 1 to 63 of ``A-Z a-z 0-9 _ . -``, the first a letter or digit.

    >>> check_namespace("credentials")
    'credentials'

    Raises:
        ConfigError: if it is anything else.
    """
    if not isinstance(namespace, str) or not _NAMESPACE.match(namespace):
        raise ConfigError(
            "namespace must be 1 to 63 characters of A-Z, a-z, 0-9, '_', '.', '-', the first a letter or digit; "
            f"got {namespace!r}"
        )
    return namespace


def make_owner(namespace: str, user_key: str) -> bytes:
    """The owner of a user's records in a namespace.

    >>> make_owner("credentials", "42")
    b'credentials:42'
    """
    return b"%b:%b" % (namespace.encode(), user_key.encode())


def make_key(namespace: str, identifier: bytes) -> bytes:
    """The key of the record named ``identifier``, whose first two bytes are `shard_of` its owner."""
    return b"%b:%b" % (namespace.encode(), identifier)


def split_key(key: bytes) -> tuple[str, bytes]:
    """Namespace and identifier of a key (or namespace and user's key of an owner)."""
    namespace, _, identifier = key.partition(b":")
    return namespace.decode(), identifier


def shard_of(owner: bytes) -> bytes:
    """Two bytes that spread owners evenly over 65,536 places; every key of the owner holds them after the colon.

    >>> len(shard_of(make_owner("credentials", "42")))
    2
    """
    return hashlib.blake2b(owner, digest_size=2, person=b"powauth shard").digest()


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends to its end, without an event loop: one step, one result.

    This is how the one asynchronous code path serves WSGI, and the worker threads of ASGI.

    Raises:
        ConfigError: if the coroutine suspends after all: a component is ``async``, or says that it is not but waits, or
            this thread runs an event loop, which blocking work would stop.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    coroutine.close()
    if on_event_loop():
        raise ConfigError("this call would block the event loop of its thread: make it in a worker thread, or await it")
    raise ConfigError("a component waits on an event loop that is not there: give a WSGI app synchronous components")
