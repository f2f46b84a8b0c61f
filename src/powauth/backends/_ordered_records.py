"""Records and their indexes in an ordered map, within a transaction. See `powauth.backends.ordered` for the layout."""

import base64
import binascii
import hashlib
import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import islice, takewhile
from typing import Final

from powauth.backends.base import (
    EPOCH_LIFETIME,
    Change,
    Create,
    Delete,
    Millis,
    Record,
    Update,
    check_namespace,
)

LAYOUT: Final = 1
"""The version of the layout that this module reads and writes."""

MAX_ENTRY_BYTES: Final = 511
"""The longest key of an entry in the map. It is LMDB's limit."""

MAX_KEY_BYTES: Final = MAX_ENTRY_BYTES - 1 - 16 - 8
"""The longest key of a record: that limit, minus the bytes before the key in the index of owners."""

MAX_OWNER_BYTES: Final = MAX_ENTRY_BYTES - 1 - 8
"""The longest owner: that limit, minus the bytes before the owner in the index of epochs."""

_NUMBER_END: Final = 1 << 63

_HEADER: Final = struct.Struct(">BQQQH")  # layout, version, created_at, expires_at, bytes of owner
_PLACE: Final = struct.Struct(">16sQ")  # digest of owner, created_at
_EPOCH: Final = struct.Struct(">QQ")  # epoch, moved_at

_LATEST_EPOCH: Final = b"!epoch"
_LATEST_EPOCH_BYTES: Final = 8


class Transaction(ABC):
    """One transaction of an ordered map from bytes to bytes. The order is that of the bytes, as Python compares them.

    powauth changes nothing while it iterates, and it may end an iteration early.
    """

    __slots__ = ()

    @abstractmethod
    def get(self, key: bytes) -> bytes | None:
        """Return the value under a key; ``None`` if there is none."""

    @abstractmethod
    def put(self, key: bytes, value: bytes) -> None:
        """Store a value under a key, also over an older one. A key has at most 511 bytes."""

    @abstractmethod
    def delete(self, key: bytes) -> bool:
        """Remove a key, and return whether it existed."""

    @abstractmethod
    def ascending(self, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the keys from ``start`` on with their values, the least key first."""

    @abstractmethod
    def descending(self, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield the keys below ``end`` with their values, the greatest key first."""


def check_owner(owner: bytes) -> None:
    if len(owner) > MAX_OWNER_BYTES:
        raise ValueError(f"an owner has at most {MAX_OWNER_BYTES} bytes")


def encode(record: Record) -> bytes:
    if not (
        0 <= record.version < _NUMBER_END
        and 0 <= record.created_at < _NUMBER_END
        and 0 <= record.expires_at < _NUMBER_END
    ):
        raise ValueError("version and times of a record must be from 0 to 2**63 - 1")
    header = _HEADER.pack(LAYOUT, record.version, record.created_at, record.expires_at, len(record.owner))
    return header + record.owner + record.value


def decode(key: bytes, raw: bytes) -> Record | None:
    try:
        layout, version, created_at, expires_at, owner_bytes = _HEADER.unpack_from(raw)
    except struct.error:
        return None
    end = _HEADER.size + owner_bytes
    if layout != LAYOUT or len(raw) < end:
        return None
    return Record(key, raw[_HEADER.size : end], version, created_at, expires_at, raw[end:])


Work = Callable[[Transaction], bool]


def changing(change: Change, now: Millis) -> Work:
    match change:
        case Create(record, epoch):
            return creating(record, epoch, now)
        case Update(record, expected_version):
            return updating(record, expected_version, now)
        case Delete(key):
            return deleting(key, now)


def creating(record: Record, epoch: int | None, now: Millis) -> Work:
    if len(record.key) > MAX_KEY_BYTES:
        raise ValueError(f"a key has at most {MAX_KEY_BYTES} bytes")
    check_owner(record.owner)
    value = encode(record)

    def work(txn: Transaction) -> bool:
        old = find(txn, record.key)
        if old is not None and old.expires_at > now:
            return False
        if epoch is not None:
            moved_to = epoch_of(txn, record.owner)[0]
            # A number above both comes from another store, or from writes that this store has lost.
            if not moved_to <= epoch <= max(moved_to, latest_epoch(txn)):
                return False
        put(txn, record, value, old)
        return True

    return work


def updating(record: Record, expected_version: int, now: Millis) -> Work:
    if len(record.key) > MAX_KEY_BYTES:
        return lambda _: False
    check_owner(record.owner)
    value = encode(record)

    def work(txn: Transaction) -> bool:
        old = find(txn, record.key)
        if old is None or old.version != expected_version or old.expires_at <= now:
            return False
        put(txn, record, value, old)
        return True

    return work


def deleting(key: bytes, now: Millis) -> Work:
    if len(key) > MAX_KEY_BYTES:
        return lambda _: False

    def work(txn: Transaction) -> bool:
        record = find(txn, key)
        if record is None:
            txn.delete(b"r" + key)  # remove an unreadable record, too; `purge` removes its entries later
            return False
        remove(txn, record)
        return record.expires_at > now

    return work


def find(txn: Transaction, key: bytes) -> Record | None:
    raw = txn.get(b"r" + key)
    return None if raw is None else decode(key, raw)


def place_of(owner: bytes, created_at: Millis) -> bytes:
    return _PLACE.pack(hashlib.blake2b(owner, digest_size=16, person=b"powauth owner").digest(), created_at)


def put(txn: Transaction, record: Record, value: bytes, old: Record | None) -> None:
    """Write a record and its entries. Delete the outdated entries of the record that it replaces."""
    place = place_of(record.owner, record.created_at)
    if old is not None:
        if (old.owner, old.created_at) != (record.owner, record.created_at):
            txn.delete(b"o" + place_of(old.owner, old.created_at) + record.key)
            old_expiry = None
        else:
            old_expiry = old.expires_at
        if old_expiry != record.expires_at:
            txn.delete(expiry(old))
    txn.put(b"r" + record.key, value)
    txn.put(b"o" + place + record.key, b"")
    txn.put(expiry(record), place)


def expiry(record: Record) -> bytes:
    return b"x" + record.expires_at.to_bytes(8, "big") + record.key


def remove(txn: Transaction, record: Record) -> None:
    txn.delete(b"r" + record.key)
    txn.delete(b"o" + place_of(record.owner, record.created_at) + record.key)
    txn.delete(expiry(record))


def remove_version(txn: Transaction, key: bytes, version: int, now: Millis) -> None:
    record = find(txn, key)
    if record is not None and record.version == version and record.expires_at <= now:
        remove(txn, record)


def owned(txn: Transaction, owner: bytes) -> list[tuple[bytes, Record | None]]:
    """Return an owner's entries in the index, newest first, with records: ``None`` for a missing or unreadable one."""
    prefix = b"o" + place_of(owner, 0)[:16]
    found: list[tuple[bytes, Record | None]] = []
    for entry, _ in txn.descending(prefix + b"\xff" * 8):
        if not entry.startswith(prefix):
            break
        record = find(txn, entry[25:])
        if record is None:
            found.append((entry, None))
        elif record.owner == owner and record.created_at.to_bytes(8, "big") == entry[17:25]:
            found.append((entry, record))
    return found


def epoch_of(txn: Transaction, owner: bytes) -> tuple[int, Millis]:
    raw = txn.get(b"e" + owner)
    if raw is None or len(raw) != _EPOCH.size:
        return 0, 0
    epoch, moved_at = _EPOCH.unpack(raw)
    return epoch, moved_at


def latest_epoch(txn: Transaction) -> int:
    raw = txn.get(_LATEST_EPOCH)
    return int.from_bytes(raw, "big") if raw is not None and len(raw) == _LATEST_EPOCH_BYTES else 0


def advance(txn: Transaction, owner: bytes, now: Millis) -> int:
    """Advance an epoch beyond all earlier ones. It is at least the present time, in case the last one is unreadable."""
    epoch, moved_at = epoch_of(txn, owner)
    epoch = max(latest_epoch(txn) + 1, epoch + 1, now)
    txn.put(_LATEST_EPOCH, epoch.to_bytes(_LATEST_EPOCH_BYTES, "big"))
    txn.delete(b"m" + moved_at.to_bytes(8, "big") + owner)
    txn.put(b"e" + owner, _EPOCH.pack(epoch, now))
    txn.put(b"m" + now.to_bytes(8, "big") + owner, b"")
    return epoch


def purge(txn: Transaction, limit: int, now: Millis) -> int:
    went = 0
    for entry, place in until(txn, b"x", now, limit):
        key = entry[9:]
        raw = txn.get(b"r" + key)
        record = None if raw is None else decode(key, raw)
        txn.delete(entry)
        alive = record is not None and record.expires_at > now
        if record is None or not alive or place != place_of(record.owner, record.created_at):
            txn.delete(b"o" + place + key)
        if not alive:  # otherwise the entries were left by an unreadable record, which this one has replaced
            went += txn.delete(b"r" + key)
    for entry, _ in until(txn, b"m", now - EPOCH_LIFETIME, limit - went):
        txn.delete(entry)
        went += txn.delete(b"e" + entry[9:])
    return went


def until(txn: Transaction, table: bytes, end: Millis, limit: int) -> list[tuple[bytes, bytes]]:
    """Return the first entries of a table that is ordered by time, up to and including ``end``."""
    entries = takewhile(lambda entry: int.from_bytes(entry[0][1:9], "big") <= end, walk(txn, table, table))
    return list(islice(entries, max(limit, 0)))


def walk(txn: Transaction, start: bytes, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
    return takewhile(lambda entry: entry[0].startswith(prefix), txn.ascending(start))


def prefix(namespace: str) -> bytes:
    return b"r%b:" % check_namespace(namespace).encode()


def to_cursor(identifier: bytes) -> str:
    return base64.urlsafe_b64encode(identifier).decode()


def from_cursor(cursor: str) -> bytes:
    try:
        identifier = base64.b64decode(cursor.encode(), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError("the cursor is not one that a page of this scan came with") from error
    if not identifier:
        raise ValueError("the cursor is not one that a page of this scan came with")
    return identifier
