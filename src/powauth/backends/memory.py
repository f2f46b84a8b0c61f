"""Records in this process's memory: for tests, and for an app that runs as one process.

Each worker process has a memory of its own. With two of them a session made by one is unknown to the other, and a
sign-out reaches one alone; forking copies what was there and shares nothing afterwards. All of it is gone when the
process ends. `powauth.backends.lmdb` is the choice for several processes on one machine.

**Pauses.** A single dict of a million entries stands still for tens of milliseconds when it grows, and a list of all
expiries would have to be searched or rebuilt. Here everything lies in many small groups, chosen by Python's own hash,
whose seed no client knows; each step works on single groups. A group of records is a 16,384th of the store (61 at a
million, searched in two microseconds), and a group of owners a 32,768th. An owner with very many records makes `list`
and `delete_owner` slow for itself and for the few owners of its group, and no other verb for anyone. `count` looks at
everything: tenths of a second at a million, for administrators.

**Space.** A record is kept as one `bytes` object, a third smaller than a `Record` with its parts: some 440 bytes in
all for a session with 200 bytes of value. Up to Python 3.13 the garbage collector does not look into dicts that hold
nothing but bytes, so its full collections stay short as well.
"""

import struct
import threading
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Final

from powauth.backends.base import EPOCH_LIFETIME, Backend, Millis, Mode, Page, Record
from powauth.errors import ConfigError, StoreUnavailable

_RECORD_GROUPS: Final = 16_384
"""61 records each at a million; empty, they cost 400 KB."""

_OWNER_GROUPS: Final = 32_768
"""30 records each at a million; empty, they cost 260 KB."""

_EPOCH_GROUPS: Final = 1_024
"""Only the epochs of the last hour are there."""

_SWEEP_ON_CREATE: Final = 2
"""Expired records that each `create` removes: more than it adds, so that a store nobody purges does not grow."""

_SCAN_STEP: Final = 1_000
"""Records that one step of `scan` looks at beyond its limit, in search of a namespace's."""

_NEVER: Final = 2**64 - 1

_EXPIRY: Final = struct.Struct(">Q")
"""Every stored value begins with its expiry, big end first: values compare as their expiries do."""

_HEAD: Final = struct.Struct(">QqqH")
"""Of a record: expiry, creation, version, length of the owner; then owner and value."""

_EPOCH: Final = struct.Struct(">QQ")
"""Of an epoch: when it may be forgotten, and its number."""

_OWNER_AT: Final = _HEAD.size
_LENGTH_AT: Final = _HEAD.size - 2


class _ExpiringMap:
    """Bytes under bytes, in groups, with the soonest expiry of each group in a tree of minima over them.

    The tree is exact after each change, so whatever has expired is found without looking at what has not, and there
    are no leftovers of renewed or deleted values that would have to be cleaned away.

    ``soonest[1]`` is the root, node ``n`` has the children ``2n`` and ``2n + 1``, and the leaf of group ``g`` is
    ``size + g``. The number of groups is fixed, so a reader needs no lock: see `MemoryBackend`.
    """

    __slots__ = ("groups", "mask", "size", "soonest")

    def __init__(self, size: int) -> None:
        self.size = size
        self.mask = size - 1
        self.groups: list[dict[bytes, bytes] | None] = [None] * size
        self.soonest = array("Q", [_NEVER]) * (2 * size)

    def get(self, key: bytes) -> bytes | None:
        group = self.groups[hash(key) & self.mask]
        return None if group is None else group.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        position = hash(key) & self.mask
        group = self.groups[position]
        if group is None:
            self.groups[position] = {key: value}
        else:
            group[key] = value
        self._settle(position)

    def remove(self, key: bytes) -> None:
        position = hash(key) & self.mask
        group = self.groups[position]
        if group is not None and group.pop(key, None) is not None:
            self._settle(position)

    def take_expired(self, limit: int, now: Millis) -> Iterator[tuple[bytes, bytes]]:
        """Remove up to ``limit`` values that have expired, and give them out; a group at a time."""
        bound = _EXPIRY.pack(now + 1)
        tree = self.soonest
        while limit > 0 and tree[1] <= now:
            node = 1
            while node < self.size:
                node *= 2
                if tree[node] > now:
                    node += 1
            group = self.groups[node - self.size] or {}
            expired = [item for item in group.items() if item[1] < bound][:limit]
            for key, _ in expired:
                del group[key]
            self._settle(node - self.size)
            limit -= len(expired)
            yield from expired

    def _settle(self, position: int) -> None:
        """Bring the tree up to date with a group that has changed; a group left empty goes."""
        group = self.groups[position]
        if group:
            soonest = _EXPIRY.unpack_from(min(group.values()))[0]
        else:
            soonest = _NEVER
            self.groups[position] = None
        tree = self.soonest
        node = self.size + position
        while node and tree[node] != soonest:
            tree[node] = soonest
            soonest = min(soonest, tree[node ^ 1])
            node >>= 1


class MemoryBackend(Backend):
    """A backend in this process's memory, safe for any number of threads.

    Writers take one lock, briefly. Readers of a single record take none: they index a list that never changes its
    length, and ask a dict of bytes for bytes. Both steps are atomic (under the interpreter's lock, and in builds
    without it by the lock that each list and dict has of its own), no Python code runs inside them, and what they find
    is immutable: the whole record as it was before or after a change, never a mixture.

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
        max_records: how many records to hold at most; ``None`` is no bound. When that many are held, expired ones make
            room, and if none has expired `create` raises `StoreUnavailable`: no live session is ever pushed out by
            another, because then anyone who can sign in often could sign out everybody else.

    Raises:
        ConfigError: if ``max_records`` is not a positive number.
    """

    mode: Mode = "inline"
    shared: bool = False
    reads_at_once: bool = True

    def __init__(self, *, max_records: int | None = None) -> None:
        if max_records is not None and (not isinstance(max_records, int) or max_records < 1):
            raise ConfigError(f"max_records must be a positive whole number, or None for no bound; got {max_records!r}")
        self._max_records = max_records
        self._lock = threading.Lock()
        self._closed = False
        self._held = 0
        self._moves = 0
        self._clear()

    def _clear(self) -> None:
        self._records = _ExpiringMap(_RECORD_GROUPS)
        self._epochs = _ExpiringMap(_EPOCH_GROUPS)
        # Sets of keys, by their owner's hash. Dicts, because the garbage collector looks into every set and tuple.
        self._owners: list[dict[bytes, None] | None] = [None] * _OWNER_GROUPS

    async def create(self, record: Record, epoch: int | None, now: Millis) -> bool:
        """Add a record, and remove a few expired ones.

        Raises:
            StoreUnavailable: if ``max_records`` live ones are held, or the backend is closed.
            ValueError: if a number is beyond 63 bits or ``expires_at`` negative, or the owner longer than 64 KiB.
        """
        new = _pack(record)
        with self._lock:
            self._check_open()
            old = self._records.get(record.key)
            if old is not None and _expires_at(old) > now:
                return False
            if epoch is not None and not self._epoch(record.owner) <= epoch <= self._moves:
                return False
            if old is not None:
                self._remove(record.key, old)
            self._sweep(_SWEEP_ON_CREATE, now)
            if self._max_records is not None and self._held >= self._max_records:
                raise StoreUnavailable(
                    f"the memory backend holds {self._held} live records, as many as max_records allows: raise "
                    "max_records, shorten the sessions' ttl, or move to a backend on disk such as lmdb"
                )
            self._records.put(record.key, new)
            self._enlist(record.owner, record.key)
            self._held += 1
            return True

    async def get(self, key: bytes, now: Millis) -> Record | None:
        """Read one live record; without a lock."""
        stored = MemoryBackend.peek(self, key, now)  # whatever a subclass has in its place
        return None if stored is None else self.record_of(key, stored, now)

    def peek(self, key: bytes, now: Millis) -> bytes | None:
        """See `Backend.peek`: it is as short as this."""
        records = self._records
        group = records.groups[hash(key) & records.mask]
        stored = None if group is None else group.get(key)
        if stored is None:
            self._check_open()  # `close` says that it is closed before it empties the groups
        return stored

    def record_of(self, key: bytes, seen: bytes, now: Millis) -> Record | None:
        """See `Backend.record_of`."""
        record = _unpack(key, seen)
        return record if record.expires_at > now else None

    async def update(self, record: Record, expected_version: int, now: Millis) -> bool:
        """Replace the live record of the same key, and of the same owner, if its version is the expected one."""
        new = _pack(record)
        with self._lock:
            self._check_open()
            stored = self._records.get(record.key)
            if stored is None or _expires_at(stored) <= now:
                return False
            old = _unpack(record.key, stored)
            if old.version != expected_version or old.owner != record.owner:
                return False
            self._records.put(record.key, new)
            return True

    async def delete(self, key: bytes, now: Millis) -> bool:
        """Remove a record; whether a live one existed."""
        with self._lock:
            self._check_open()
            stored = self._records.get(key)
            if stored is None:
                return False
            self._remove(key, stored)
            return _expires_at(stored) > now

    async def list(self, owner: bytes, now: Millis) -> list[Record]:
        """All live records of an owner, newest first; looks at the records of the owner's group."""
        with self._lock:
            self._check_open()
            found = [_unpack(key, stored) for key, stored in self._of(owner) if _expires_at(stored) > now]
        found.sort(key=lambda record: (record.created_at, record.key), reverse=True)
        return found

    async def epoch(self, owner: bytes, now: Millis, *, advance: bool = False) -> int:
        """The owner's epoch; no two moves of any owners' ever give the same number."""
        with self._lock:
            self._check_open()
            if advance:
                self._advance(owner, now)
            return self._epoch(owner)

    async def latest_epoch(self, now: Millis) -> int:
        """How often epochs were moved: each was given the number of its move."""
        del now
        with self._lock:
            self._check_open()
            return self._moves

    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        """Move the owner's epoch on and remove all its records but the one under ``keep``; how many live ones went."""
        with self._lock:
            self._check_open()
            self._advance(owner, now)
            went = 0
            for key, stored in self._of(owner):
                if key != keep:
                    self._remove(key, stored)
                    went += _expires_at(stored) > now
            return went

    async def purge(self, limit: int, now: Millis) -> int:
        """Remove up to ``limit`` expired records and epochs; looks at no more than that many groups."""
        with self._lock:
            self._check_open()
            return self._sweep(limit, now)

    async def scan(self, namespace: str, cursor: str | None, limit: int, now: Millis) -> Page:
        """One step through a namespace's live records, group by group and in the order of the keys within each.

        A page holds up to ``limit`` records, and may hold fewer, or none, before the end.

        Raises:
            ValueError: if the cursor is not from a page of this backend.
        """
        prefix = namespace.encode() + b":"
        limit = max(limit, 1)
        position, after = _read_cursor(cursor)
        found: list[Record] = []
        looked_at = 0
        while (position := self._occupied(position)) < _RECORD_GROUPS:
            with self._lock:
                group = sorted((self._records.groups[position] or {}).items())
            start = 0 if after is None else bisect_right(group, after, key=lambda item: item[0])
            for key, stored in group[start:]:
                if key.startswith(prefix) and _expires_at(stored) > now:
                    if len(found) >= limit:
                        return Page(found, f"{position}.{after.hex()}" if after is not None else f"{position}")
                    found.append(_unpack(key, stored))
                after = key
            position, after = position + 1, None
            looked_at += len(group)
            if looked_at >= _SCAN_STEP + limit and position < _RECORD_GROUPS:
                return Page(found, f"{position}")
        return Page(found, None)

    async def count(self, namespace: str, now: Millis) -> int:
        """How many live records the namespace holds; looks at every record of the store."""
        prefix = namespace.encode() + b":"
        bound = _EXPIRY.pack(now + 1)
        total = position = 0
        while (position := self._occupied(position)) < _RECORD_GROUPS:
            with self._lock:
                group = self._records.groups[position] or {}
                total += len([key for key, stored in group.items() if stored >= bound and key.startswith(prefix)])
            position += 1
        return total

    async def close(self) -> None:
        """Forget everything. Calls after it raise `StoreUnavailable`; closing again does nothing."""
        with self._lock:
            self._closed = True
            self._held = 0
            self._clear()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the memory backend is closed")

    def _occupied(self, position: int) -> int:
        """The first group from ``position`` on that holds records, or the number of groups; without the lock."""
        groups = self._records.groups
        while position < _RECORD_GROUPS and groups[position] is None:
            position += 1
        self._check_open()
        return position

    # With the lock held

    def _remove(self, key: bytes, stored: bytes) -> None:
        self._records.remove(key)
        self._strike(key, stored)

    def _sweep(self, limit: int, now: Millis) -> int:
        went = 0
        for key, stored in self._records.take_expired(limit, now):
            self._strike(key, stored)
            went += 1
        return went + sum(1 for _ in self._epochs.take_expired(limit - went, now))

    def _epoch(self, owner: bytes) -> int:
        stored = self._epochs.get(owner)
        return 0 if stored is None else int(_EPOCH.unpack(stored)[1])

    def _advance(self, owner: bytes, now: Millis) -> None:
        self._moves += 1
        self._epochs.put(owner, _EPOCH.pack(now + EPOCH_LIFETIME, self._moves))

    def _enlist(self, owner: bytes, key: bytes) -> None:
        position = hash(owner) & (_OWNER_GROUPS - 1)
        group = self._owners[position]
        if group is None:
            self._owners[position] = {key: None}
        else:
            group[key] = None

    def _strike(self, key: bytes, stored: bytes) -> None:
        """Take a removed record out of its owner's group and out of the count."""
        self._held -= 1
        position = hash(_owner(stored)) & (_OWNER_GROUPS - 1)
        group = self._owners[position] or {}
        group.pop(key, None)
        if not group:
            self._owners[position] = None

    def _of(self, owner: bytes) -> Sequence[tuple[bytes, bytes]]:
        """Keys and stored records of one owner, expired ones among them."""
        start = _HEAD.pack(0, 0, 0, len(owner))[_LENGTH_AT:] + owner
        keys = self._owners[hash(owner) & (_OWNER_GROUPS - 1)] or ()
        pairs = [(key, self._records.get(key) or b"") for key in keys]
        return [pair for pair in pairs if pair[1].startswith(start, _LENGTH_AT)]


def _pack(record: Record) -> bytes:
    try:
        head = _HEAD.pack(record.expires_at, record.created_at, record.version, len(record.owner))
    except struct.error as error:
        raise ValueError("a number of the record is out of range, or its owner longer than 64 KiB") from error
    return b"%b%b%b" % (head, record.owner, record.value)


def _unpack(key: bytes, stored: bytes) -> Record:
    expires_at, created_at, version, length = _HEAD.unpack_from(stored)
    value_at = _OWNER_AT + length
    return Record(key, stored[_OWNER_AT:value_at], version, created_at, expires_at, stored[value_at:])


def _expires_at(stored: bytes) -> Millis:
    return int.from_bytes(stored[:8])


def _owner(stored: bytes) -> bytes:
    return stored[_OWNER_AT : _OWNER_AT + int.from_bytes(stored[_LENGTH_AT:_OWNER_AT])]


def _read_cursor(cursor: str | None) -> tuple[int, bytes | None]:
    """The group that a scan goes on with, and the key in it that was the last one seen."""
    if cursor is None:
        return 0, None
    position, dot, after = cursor.partition(".")
    try:
        group, key = int(position), bytes.fromhex(after) if dot else None
    except ValueError:
        group, key = -1, None
    if not 0 <= group < _RECORD_GROUPS:
        raise ValueError("the cursor is not from a page of the memory backend")
    return group, key
