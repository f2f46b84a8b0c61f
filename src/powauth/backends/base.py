"""The protocol of a backend: a map of opaque records, each with an owner and an expiry.

A backend knows nothing of sessions. It keeps `Record` values under keys, one owner each. It has ten verbs: seven for a
request (`Backend.create`, `get`, `update`, `delete`, `list`, `epoch`, `delete_owner`), `purge`, and two for an
administrator (`scan`, `count`). Each verb is atomic and returns only once the engine has acknowledged it. Absence is an
answer (``None``, ``False``, ``0``). The only error is `StoreUnavailable`.

Time is an argument: every verb that depends on it takes ``now`` in milliseconds since the Unix epoch, so one clock
governs all parts. Anyone may write a backend. powauth's own pass the suite `powauth.testing.BackendConformance`.

**Keys** are ``namespace ":" shard(2) rest``. `check_namespace` guarantees that a namespace holds no ``:``. The encoding
is therefore injective, and no namespace can name a record of another. The shard is a hash of the owner: in a cluster
all records of one owner, and their index, are on one node.

**Epochs** close the race between a revocation and a sign-in in flight. `delete_owner` advances the owner's epoch.
`create` succeeds only if the epoch is still the one that its caller read before it loaded the user. A backend may
forget an epoch (and answer 0) `EPOCH_LIFETIME` after it last advanced, because a caller abandons a sign-in that takes
longer than that.

**Abilities** are features of some engines beyond the verbs. Each is a small class that a backend inherits from besides
`Backend`. Callers test for it with ``isinstance``:

=================  ==========================================  ======================================================
ability            adds                                        a backend has it if
=================  ==========================================  ======================================================
`ReadsInPlace`     ``peek``, ``record_of``                     a read needs no wait, so an event loop can make it
`ServesCopies`     ``get_fresh``                               ``get`` may answer from a copy near the process
`Transactional`    ``change``                                  it makes several changes in one transaction
`CountsEpochs`     ``latest_epoch``                            the epochs of all owners come from one count
`PerProcess`       nothing                                     each process has records of its own
=================  ==========================================  ======================================================

`JoinsTransactions` is one more. It is not for callers of the verbs, so a `BackendWrapper` does not take it over.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from datetime import timedelta
from typing import Any, Literal, TypeGuard, TypeVar

import msgspec

from powauth._options import short_name
from powauth._overrides import bypasses
from powauth._running import on_event_loop
from powauth.errors import ConfigError

T = TypeVar("T")

Millis = int
"""Milliseconds: a time since the Unix epoch, or a duration."""

Mode = Literal["inline", "blocking", "async", "anywhere"]
"""The behaviour of a component's coroutines.

- ``inline`` never suspends and does not wait on a network.
- ``blocking`` never suspends but waits on a network, so an event loop must run it in a worker thread.
- ``async`` suspends, so only an event loop can run it.
- ``anywhere`` suspends on an event loop, and only there.
"""

EPOCH_LIFETIME: Millis = 3_600_000
"""The least time for which a backend remembers an epoch that advanced: an hour, many times the longest sign-in."""

MAX_TIMEOUT = timedelta(hours=1)
"""The longest limit for a verb of a backend. A longer one would exceed `EPOCH_LIFETIME`."""

MAX_VALUE_BYTES = 65_536
"""The longest value that a backend must accept. A session is a few hundred bytes; its variable parts are bounded."""

MAX_OWNER_BYTES = 320
"""The longest owner that a backend must accept: the namespace, a colon, and a user's key of up to 255 bytes."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record. It is immutable: to change it, pass a new record to `Backend.update`.

    Attributes:
        key: ``namespace ":" shard(2) rest``; see `make_key`.
        owner: ``namespace ":" user's key``; see `make_owner`. Never changes for a key.
        version: the number of changes. `Backend.update` compares it.
        created_at: milliseconds since the Unix epoch. It orders `Backend.list` and never changes for a key.
        expires_at: milliseconds since the Unix epoch. From then on the record counts as absent.
        value: opaque bytes.
    """

    key: bytes
    owner: bytes
    version: int
    created_at: Millis
    expires_at: Millis
    value: bytes

    def __repr__(self) -> str:  # without the value: it holds secrets, and error reporters store the repr of variables
        return f"<Record {self.key!r} of {self.owner!r} version {self.version}>"


class ScanPage(msgspec.Struct, frozen=True):
    """One step of `Backend.scan`: some live records, and the cursor of the next step (``None`` at the end)."""

    records: list[Record]
    cursor: str | None


class Create(msgspec.Struct, frozen=True, gc=False):
    """A `Backend.create`, as an argument of `make_changes`."""

    record: Record
    epoch: int | None = None


class Update(msgspec.Struct, frozen=True, gc=False):
    """A `Backend.update`, as an argument of `make_changes`."""

    record: Record
    expected_version: int


class Delete(msgspec.Struct, frozen=True, gc=False):
    """A `Backend.delete`, as an argument of `make_changes`."""

    key: bytes


Change = Create | Update | Delete


class Backend(ABC):
    """The storage of records. Several threads or tasks may call its methods at once.

    Attributes:
        mode: the behaviour of its coroutines; see `Mode`.

    Raises:
        StoreUnavailable: from any verb, if the engine cannot be reached, refuses, or is full. The engine's error is the
            cause. After it the caller does not know whether a write took effect.
    """

    mode: Mode

    @abstractmethod
    async def create(self, record: Record, epoch: int | None, now: Millis) -> bool:
        """Add a record. Return ``False`` if the key holds a live record, or the owner's epoch is not ``epoch``.

        ``epoch`` is an earlier result of `epoch` for the owner, or of `CountsEpochs.latest_epoch`. ``None`` skips the
        comparison: it is for records that no revocation concerns.
        """

    @abstractmethod
    async def get(self, key: bytes, now: Millis) -> Record | None:
        """Return one live record. An expired record counts as absent, even before a sweep. This may remove it."""

    @abstractmethod
    async def update(self, record: Record, expected_version: int, now: Millis) -> bool:
        """Replace the live record of the same key if its version is ``expected_version``. Never creates."""

    @abstractmethod
    async def delete(self, key: bytes, now: Millis) -> bool:
        """Remove a record. Return whether a live one existed, so that the winner of a race knows that it won."""

    @abstractmethod
    async def list(self, owner: bytes, now: Millis) -> list[Record]:
        """Return all live records of an owner, newest ``created_at`` first, ties by key descending."""

    @abstractmethod
    async def epoch(self, owner: bytes, now: Millis, *, advance: bool = False) -> int:
        """Return the owner's epoch. With ``advance`` it advances first, so that no `create` begun earlier succeeds."""

    @abstractmethod
    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        """Advance the owner's epoch and remove all its records but the one under ``keep``.

        Return the number of live records that were removed.
        """

    @abstractmethod
    async def purge(self, limit: int, now: Millis) -> int:
        """Remove up to ``limit`` expired records and epochs, and return their number.

        No pause grows with the size of the store.
        """

    @abstractmethod
    async def scan(self, namespace: str, cursor: str | None, limit: int, now: Millis) -> ScanPage:
        """Return one page of a namespace's live records, from ``cursor`` (``None`` is the start). For administrators.

        The pages hold each record that is live during the whole scan at least once, even if it is updated meanwhile.
        They may hold others. A page holds at most ``limit`` records, and may hold fewer before the end of the scan.

        Raises:
            ValueError: if ``cursor`` does not come from a page of this namespace. The message says so.
        """

    @abstractmethod
    async def count(self, namespace: str, now: Millis) -> int:
        """Return the number of the namespace's live records, in time that may grow with it. For administrators."""

    async def close(self) -> None:
        """Close files and connections. Calls after it raise `StoreUnavailable`."""


class WouldWaitError(Exception):
    """`ReadsInPlace.peek` cannot answer without waiting. Callers then call `Backend.get` where they may wait.

    A signal between a backend and powauth: it never reaches an app.
    """


class ReadsInPlace(ABC):
    """An ability: an event loop's own thread can read the backend, because a read takes no wait.

    A subclass that overrides ``get`` must override ``peek``, too. Otherwise the inherited ``peek`` would bypass the new
    ``get``. To have every read call ``get``, raise `WouldWaitError` in ``peek``.
    """

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if bypasses(cls, "get", "peek"):
            raise TypeError(
                f"{cls.__name__} overrides get, and the inherited peek would bypass it: override peek, too; "
                "raise WouldWaitError in it to have every read call get"
            )

    @abstractmethod
    def peek(self, key: bytes, now: Millis) -> object:
        """Return the stored value of ``key``, for `record_of`; ``None`` if there is none.

        The result is opaque. It equals an earlier one until somebody writes under the key, so a caller can detect that
        nothing has changed without decoding it. An expired record may be there or not.

        Raises:
            WouldWaitError: if the read takes a wait for a network, a lock or a connection, now or always.
            StoreUnavailable: if the backend is closed.
        """

    @abstractmethod
    def record_of(self, key: bytes, seen: Any, now: Millis) -> Record | None:
        """Return the live record in a result of `peek`; ``None`` if it has expired or cannot be read."""

    def get_at_once(self, key: bytes, now: Millis) -> Record | None:
        """Return the same as `Backend.get`, by `peek` and `record_of`.

        Raises:
            WouldWaitError: if that takes a wait.
            StoreUnavailable: if the backend is closed.
        """
        seen = self.peek(key, now)
        return None if seen is None else self.record_of(key, seen, now)


class ServesCopies(ABC):
    """An ability: ``get`` may answer from a copy near the process, which lags behind the engine by a message."""

    @abstractmethod
    async def get_fresh(self, key: bytes, now: Millis) -> Record | None:
        """Return the same as `Backend.get`, read from the engine itself."""


class Transactional(ABC):
    """An ability: several changes are one transaction. Others see all of them or none, after one wait for the disk."""

    @abstractmethod
    async def change(self, changes: Sequence[Change], now: Millis) -> int:
        """Make changes in order, up to the first for which its verb would return ``False``. Return how many it made.

        The changes before that one take effect together.
        """


class CountsEpochs(ABC):
    """An ability: the epochs of all owners come from one count.

    A sign-in can use its present number before the user is known.
    """

    @abstractmethod
    async def latest_epoch(self, now: Millis) -> int:
        """Return a number that is at least every present epoch, and below every epoch that advances from now on.

        A `Backend.create` with it succeeds for any owner whose epoch has not advanced after this call.
        """


class JoinsTransactions(ABC):
    """An ability: a transaction of the app can end sessions, if the app's database is the backend's own."""

    @abstractmethod
    def shares_database(self, connection: Any) -> bool:
        """Return whether a SQLAlchemy ``Connection`` is one of the backend's database, and takes part in transactions.

        The answer is ``False`` if that is not certain.
        """

    @abstractmethod
    def delete_owner_in(self, session: Any, owner: bytes, now: Millis, keep: bytes | None = None) -> Any:
        """Do the same as `Backend.delete_owner` in the transaction of ``session``.

        powauth passes a SQLAlchemy ``Connection`` for which `shares_database` holds. `SQLBackend` also takes sessions
        of the app, and returns an awaitable for an asynchronous one.

        Raises:
            StoreUnavailable: if the database refuses.
        """

    @abstractmethod
    def get_in(self, connection: Any, key: bytes, now: Millis) -> "Record | None":
        """Do the same as `Backend.get` in such a transaction.

        Raises:
            StoreUnavailable: if the database refuses.
        """

    @abstractmethod
    def update_in(self, connection: Any, record: "Record", expected_version: int, now: Millis) -> bool:
        """Do the same as `Backend.update` in such a transaction. If the database refuses, the transaction goes on.

        Raises:
            StoreUnavailable: if the database refuses.
        """


class PerProcess(ABC):  # noqa: B024 - it adds nothing to implement
    """The opposite of an ability: each process has its own records, so it serves only an app of one process."""


def reads_engine_in_place(backend: object) -> TypeGuard[ReadsInPlace]:
    """Return whether the backend reads the engine itself in place, and not only copies."""
    return isinstance(backend, ReadsInPlace) and not isinstance(backend, ServesCopies)


async def make_changes(backend: Backend, changes: Sequence[Change], now: Millis) -> int:
    """Make changes in order, up to the first for which its verb returns ``False``. Return how many it made.

    A `Transactional` backend makes them in one transaction. In any case the changes before the failed one stay.
    """
    if isinstance(backend, Transactional):
        return await backend.change(changes, now)
    return await make_one_by_one(backend, changes, now)


async def make_one_by_one(backend: Backend, changes: Sequence[Change], now: Millis) -> int:
    """Do what `make_changes` does, with one verb for each change."""
    for made, change in enumerate(changes):
        if not await _make(backend, change, now):
            return made
    return len(changes)


async def _make(backend: Backend, change: Change, now: Millis) -> bool:
    match change:
        case Create(record, epoch):
            return await backend.create(record, epoch, now)
        case Update(record, expected_version):
            return await backend.update(record, expected_version, now)
        case Delete(key):
            return await backend.delete(key, now)


def check_namespace(namespace: object) -> str:
    """Return the namespace if it is valid: 1 to 63 of ``A-Z a-z 0-9 _ . -``, the first a letter or digit.

    >>> check_namespace("credentials")
    'credentials'

    Raises:
        ConfigError: if it is not.
    """
    return short_name("namespace", namespace)


def make_owner(namespace: str, user_key: str) -> bytes:
    """Return the owner of a user's records in a namespace.

    >>> make_owner("credentials", "42")
    b'credentials:42'
    """
    return b"%b:%b" % (namespace.encode(), user_key.encode())


def make_key(namespace: str, identifier: bytes) -> bytes:
    """Return the key of the record ``identifier``. The first two bytes of ``identifier`` are `shard_of` its owner."""
    return b"%b:%b" % (namespace.encode(), identifier)


def split_key(key: bytes) -> tuple[str, bytes]:
    """Return namespace and identifier of a key (or namespace and user's key of an owner)."""
    namespace, _, identifier = key.partition(b":")
    return namespace.decode(), identifier


def key_in_cursor(cursor: str, namespace: str) -> bytes:
    """Return the key in a cursor, for a backend whose cursors are keys in hexadecimal digits.

    >>> key_in_cursor(b"app:k".hex(), "app")
    b'app:k'

    Raises:
        ValueError: if the cursor holds no key of the namespace.
    """
    try:
        key = bytes.fromhex(cursor)
    except ValueError as error:
        raise ValueError("the cursor is not one that a page of this scan came with") from error
    if not key.startswith(namespace.encode() + b":"):
        raise ValueError("the cursor is not one that a page of this namespace came with")
    return key


def shard_of(owner: bytes) -> bytes:
    """Return two bytes that spread owners evenly over 65,536 shards. Every key of the owner has them after the colon.

    >>> len(shard_of(make_owner("credentials", "42")))
    2
    """
    return hashlib.blake2b(owner, digest_size=2, person=b"powauth shard").digest()


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends to its end, in one step and without an event loop.

    WSGI and the worker threads of ASGI run the one asynchronous code path in this way.

    Raises:
        ConfigError: if the coroutine suspends: a component is ``async`` or suspends against its declared `Mode`,
            or this thread runs an event loop, which blocking work would stop.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    coroutine.close()
    if on_event_loop():
        raise ConfigError("this call would block the event loop of its thread: make it in a worker thread, or await it")
    raise ConfigError("a component waits on an event loop that is not there: give a WSGI app synchronous components")
