"""Records in this process's memory: for tests, and for an app that runs as one process.

Each worker process has its own memory. With two workers, a session of one is unknown to the other, and a sign-out
reaches only one of them. A fork copies the records; after it, parent and child share nothing. The end of the process
ends all sessions. For several processes on one machine, use `powauth.backends.lmdb`.
"""

import threading
from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush, nsmallest
from typing import Final, Generic, TypeVar

import msgspec

from powauth import _forks
from powauth._options import whole_number
from powauth.backends.base import (
    EPOCH_LIFETIME,
    Backend,
    CountsEpochs,
    Millis,
    Mode,
    PerProcess,
    ReadsInPlace,
    Record,
    ScanPage,
    key_in_cursor,
)
from powauth.errors import ConfigError, StoreUnavailable

_SWEEP_ON_CREATE: Final = 2
"""Expired records that each `create` removes: more than it adds, so that a store that nobody purges stays small."""

_SPARE: Final = 64
"""The number of entries beyond two per value that a heap of expiries may have before it is rebuilt."""


class _Epoch(msgspec.Struct, frozen=True, gc=False):
    number: int
    expires_at: Millis


T = TypeVar("T", Record, _Epoch)


class _ExpiringMap(Generic[T]):
    """Values by key, with a heap of their expiries that finds the expired ones.

    A value that is replaced or removed leaves its entry in the heap. `take_expired` skips such entries, and `put`
    rebuilds the heap when they are the majority.
    """

    __slots__ = ("_expiries", "values")

    def __init__(self) -> None:
        self.values: dict[bytes, T] = {}
        self._expiries: list[tuple[Millis, bytes]] = []

    def put(self, key: bytes, value: T) -> None:
        self.values[key] = value
        heappush(self._expiries, (value.expires_at, key))
        if len(self._expiries) > 2 * len(self.values) + _SPARE:
            self._expiries = [(each.expires_at, key) for key, each in self.values.items()]
            heapify(self._expiries)

    def take_expired(self, limit: int, now: Millis) -> Iterator[T]:
        """Remove and yield up to ``limit`` expired values."""
        while limit > 0 and self._expiries and self._expiries[0][0] <= now:
            _, key = heappop(self._expiries)
            value = self.values.get(key)
            if value is not None and value.expires_at <= now:
                del self.values[key]
                limit -= 1
                yield value


class MemoryBackend(Backend, ReadsInPlace, CountsEpochs, PerProcess):
    """A backend in this process's memory, safe for any number of threads.

    Writers take one lock. Readers of a single record take none: a look-up in a dict is atomic (under the interpreter's
    lock, or the dict's own lock in free-threaded builds), and a record is immutable.

    `purge` and `create` find expired records without a search. `scan` and `count` examine every record.

    >>> from powauth.backends.base import drive, make_key, make_owner, shard_of
    >>> backend, owner = MemoryBackend(max_records=100_000), make_owner("credentials", "42")
    >>> key = make_key("credentials", shard_of(owner) + b"sixteen bytes...")
    >>> drive(backend.create(Record(key, owner, 0, 1000, 61_000, b"value"), epoch=None, now=1000))
    True
    >>> drive(backend.get(key, now=60_999)).value
    b'value'
    >>> drive(backend.get(key, now=61_000)) is None
    True

    Args:
        max_records: the largest number of records; ``None`` sets no bound. When the backend is full, it removes expired
            records. If none has expired, `create` raises `StoreUnavailable`. A new session never replaces a live one:
            otherwise anyone who signs in often could sign out everybody else.

    Raises:
        ConfigError: if ``max_records`` is not a positive number.
    """

    mode: Mode = "inline"

    def __init__(self, *, max_records: int | None = None) -> None:
        self._max_records = None if max_records is None else whole_number("max_records", max_records)
        self._lock = threading.Lock()
        self._closed = False
        self._moves = 0
        self._clear()
        _forks.on_fork(self, MemoryBackend._renew_lock)

    def _clear(self) -> None:
        self._records = _ExpiringMap[Record]()
        self._epochs = _ExpiringMap[_Epoch]()
        self._owners: dict[bytes, set[bytes]] = {}

    def _renew_lock(self) -> None:
        """Renew the lock in a forked child. Another thread of the parent may have held it at the fork."""
        if self._lock.locked():  # the records and their indexes may hold half a change
            self._clear()
        self._lock = threading.Lock()

    async def create(self, record: Record, epoch: int | None, now: Millis) -> bool:
        """See `Backend.create`. Removes a few expired records.

        Raises:
            StoreUnavailable: if ``max_records`` live records are held, or the backend is closed.
        """
        new = _frozen(record)
        with self._lock:
            self._check_open()
            old = self._records.values.get(record.key)
            if old is not None and old.expires_at > now:
                return False
            if epoch is not None and not self._epoch(record.owner) <= epoch <= self._moves:
                return False
            if old is not None:
                self._remove(old)
            self._sweep(_SWEEP_ON_CREATE, now)
            held = len(self._records.values)
            if self._max_records is not None and held >= self._max_records:
                raise StoreUnavailable(
                    f"the memory backend holds {held} live records, as many as max_records allows: raise "
                    "max_records, shorten the sessions' ttl, or move to a backend on disk such as lmdb"
                )
            self._records.put(new.key, new)
            self._owners.setdefault(new.owner, set()).add(new.key)
            return True

    async def get(self, key: bytes, now: Millis) -> Record | None:
        """See `Backend.get`. Takes no lock."""
        stored = MemoryBackend.peek(self, key, now)  # never a subclass's, which may refuse to answer at once
        return None if stored is None or stored.expires_at <= now else stored

    def peek(self, key: bytes, now: Millis) -> Record | None:
        """See `ReadsInPlace.peek`."""
        del now
        stored = self._records.values.get(key)
        if stored is None:
            self._check_open()  # `close` marks the backend closed before it removes the records
        return stored

    def record_of(self, key: bytes, seen: Record, now: Millis) -> Record | None:
        """See `ReadsInPlace.record_of`."""
        del key
        return seen if seen.expires_at > now else None

    async def update(self, record: Record, expected_version: int, now: Millis) -> bool:
        """See `Backend.update`. The owner must be the same, too."""
        new = _frozen(record)
        with self._lock:
            self._check_open()
            old = self._records.values.get(record.key)
            if old is None or old.expires_at <= now:
                return False
            if old.version != expected_version or old.owner != record.owner:
                return False
            self._records.put(new.key, new)
            return True

    async def delete(self, key: bytes, now: Millis) -> bool:
        """See `Backend.delete`."""
        with self._lock:
            self._check_open()
            record = self._records.values.get(key)
            if record is None:
                return False
            self._remove(record)
            return record.expires_at > now

    async def list(self, owner: bytes, now: Millis) -> list[Record]:
        """See `Backend.list`."""
        with self._lock:
            self._check_open()
            found = [record for record in self._of(owner) if record.expires_at > now]
        found.sort(key=lambda record: (record.created_at, record.key), reverse=True)
        return found

    async def epoch(self, owner: bytes, now: Millis, *, advance: bool = False) -> int:
        """See `Backend.epoch`. Each advance of any owner's epoch gives a new number."""
        with self._lock:
            self._check_open()
            if advance:
                self._advance(owner, now)
            return self._epoch(owner)

    async def latest_epoch(self, now: Millis) -> int:
        """See `CountsEpochs.latest_epoch`. It is the number of advances of all owners' epochs."""
        del now
        with self._lock:
            self._check_open()
            return self._moves

    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        """See `Backend.delete_owner`."""
        with self._lock:
            self._check_open()
            self._advance(owner, now)
            gone = [record for record in self._of(owner) if record.key != keep]
            for record in gone:
                self._remove(record)
            return sum(record.expires_at > now for record in gone)

    async def purge(self, limit: int, now: Millis) -> int:
        """See `Backend.purge`."""
        with self._lock:
            self._check_open()
            return self._sweep(limit, now)

    async def scan(self, namespace: str, cursor: str | None, limit: int, now: Millis) -> ScanPage:
        """See `Backend.scan`. It goes in the order of the keys. Each step examines every record of the store.

        Raises:
            ValueError: if the cursor is not from a page of this namespace.
        """
        prefix = namespace.encode() + b":"
        after = prefix if cursor is None else key_in_cursor(cursor, namespace)
        limit = max(limit, 1)
        rest = (record for record in self._live(prefix, now) if record.key > after)
        found = nsmallest(limit + 1, rest, key=lambda record: record.key)
        return ScanPage(found[:limit], found[limit - 1].key.hex() if len(found) > limit else None)

    async def count(self, namespace: str, now: Millis) -> int:
        """See `Backend.count`. It examines every record of the store."""
        return sum(1 for _ in self._live(namespace.encode() + b":", now))

    async def close(self) -> None:
        """Drop all records. Calls after it raise `StoreUnavailable`. Closing again does nothing."""
        with self._lock:
            self._closed = True
            self._clear()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the memory backend is closed")

    def _live(self, prefix: bytes, now: Millis) -> Iterator[Record]:
        """Return the live records of a namespace at the time of the call, in no order."""
        with self._lock:
            self._check_open()
            records = list(self._records.values.values())
        return (record for record in records if record.expires_at > now and record.key.startswith(prefix))

    # The callers of the following methods hold the lock.

    def _of(self, owner: bytes) -> Sequence[Record]:
        return [self._records.values[key] for key in self._owners.get(owner, ())]

    def _remove(self, record: Record) -> None:
        del self._records.values[record.key]
        self._disown(record)

    def _disown(self, record: Record) -> None:
        """Remove the key of a removed record from its owner's keys."""
        keys = self._owners[record.owner]
        keys.remove(record.key)
        if not keys:
            del self._owners[record.owner]

    def _sweep(self, limit: int, now: Millis) -> int:
        gone = list(self._records.take_expired(limit, now))
        for record in gone:
            self._disown(record)
        return len(gone) + len(list(self._epochs.take_expired(limit - len(gone), now)))

    def _epoch(self, owner: bytes) -> int:
        epoch = self._epochs.values.get(owner)
        return 0 if epoch is None else epoch.number

    def _advance(self, owner: bytes, now: Millis) -> None:
        self._moves += 1
        self._epochs.put(owner, _Epoch(self._moves, now + EPOCH_LIFETIME))


def _frozen(record: Record) -> Record:
    """Copy the value if the caller gave a buffer that could change in the store."""
    if type(record.value) is bytes:
        return record
    return msgspec.structs.replace(record, value=bytes(record.value))


def from_url(url: str, *, asynchronous: bool | None = None, create: bool = True) -> MemoryBackend:
    """Return a `MemoryBackend`; see `powauth.backends.backend_from_url`."""
    del asynchronous, create
    if url != "memory://":
        raise ConfigError("the URL of a memory backend has neither a path nor options: did you mean memory://?")
    return MemoryBackend()
