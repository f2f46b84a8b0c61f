"""`OrderedBackend`: the base class of a backend over an engine with ordered keys and transactions.

Such an engine is a map from bytes to bytes that is sorted by key: LMDB, a table of SQLite, RocksDB, FoundationDB. A
subclass provides the transaction, and `OrderedBackend` has the ten verbs and two abilities.
`powauth.backends.lmdb.LMDBBackend` is such a subclass, and ``examples/backend.py`` is another one.

All entries are in one map. The first byte of a key names the table:

====== ============================== ============================================== ==============================
table  key                            value                                          for
====== ============================== ============================================== ==============================
``!``  ``epoch``                      the last epoch given to any owner              ``latest_epoch``
``r``  record's key                   header, owner, value                           ``get``, ``scan``
``o``  digest of owner, created, key  nothing                                        ``list``, ``delete_owner``
``x``  expiry, key                    digest of owner, created                       ``purge``
``e``  owner                          epoch, moved at                                ``epoch``
``m``  moved at, owner                nothing                                        ``purge`` of epochs
====== ============================== ============================================== ==============================

Numbers in keys are big-endian, so the map sorts them. A record and its entries in the indexes change in one
transaction. A subclass may store further entries of its own whose keys begin with ``!``, but not ``!epoch``.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from powauth.backends import _ordered_records as tree
from powauth.backends._ordered_records import MAX_KEY_BYTES, MAX_OWNER_BYTES, Transaction
from powauth.backends.base import (
    Backend,
    Change,
    CountsEpochs,
    Create,
    Delete,
    Millis,
    Record,
    ScanPage,
    Transactional,
)

__all__ = ["MAX_KEY_BYTES", "MAX_OWNER_BYTES", "OrderedBackend", "Transaction"]

T = TypeVar("T")

_PURGE_STEP: Final = 256
"""The most records that one transaction of `OrderedBackend.purge` removes, so that other writers get their turn."""

_PURGE_AT_CREATE: Final = 2
"""Expired records that each `create` removes: more than it adds, so a store that nobody purges does not grow."""

_COUNT_STEP: Final = 10_000
"""The most records that one transaction of `OrderedBackend.count` reads, so that none of them lasts long."""


class OrderedBackend(Backend, Transactional, CountsEpochs):
    """Records in an ordered map. A subclass implements `read`, `write` and `close`, and sets ``mode``.

    ``mode`` is ``"blocking"`` if a transaction waits for a disk or a network, and otherwise ``"inline"``. On an event
    loop powauth calls a ``blocking`` backend in worker threads, so `read` and `write` are plain functions.

    A key longer than `MAX_KEY_BYTES` counts as absent. `create` raises `ValueError` for it, for an owner longer than
    `MAX_OWNER_BYTES`, and for numbers that are negative or beyond 63 bits. An unreadable record counts as absent.
    """

    @abstractmethod
    def read(self, work: Callable[[Transaction], T]) -> T:
        """Return the result of ``work`` in a transaction that only reads: it sees the map as it is at one moment.

        ``work`` may be called more than once.

        Raises:
            StoreUnavailable: if the engine fails. Its error is the cause.
        """

    @abstractmethod
    def write(self, work: Callable[[Transaction], T], *, removes: bool = False) -> T:
        """Return the result of ``work`` in a transaction, after its commit.

        The result is as if write transactions ran one after the other: no other one commits between the first read and
        the commit. If ``work`` raises an error, nothing is written. ``work`` may be called more than once.

        Args:
            work: the function that reads and changes the map.
            removes: whether ``work`` removes more than it adds. An engine with a limit on its size should allow this
                even if it is full.

        Raises:
            StoreUnavailable: if the engine fails. Its error is the cause.
        """

    async def create(self, record: Record, epoch: int | None, now: Millis) -> bool:
        """See `Backend.create`. Removes a few expired records in the same transaction."""
        return await self.change([Create(record, epoch)], now) == 1

    async def get(self, key: bytes, now: Millis) -> Record | None:
        """See `Backend.get`. It leaves an expired record to `create` and `purge`."""
        record = self.read(lambda txn: tree.find(txn, key)) if len(key) <= MAX_KEY_BYTES else None
        return record if record is not None and record.expires_at > now else None

    async def update(self, record: Record, expected_version: int, now: Millis) -> bool:
        """See `Backend.update`."""
        return self.write(tree.updating(record, expected_version, now))

    async def delete(self, key: bytes, now: Millis) -> bool:
        """See `Backend.delete`."""
        return self.write(tree.deleting(key, now), removes=True)

    async def change(self, changes: Sequence[Change], now: Millis) -> int:
        """See `Transactional.change`: one transaction, and one wait for the disk."""
        works = [tree.changing(change, now) for change in changes]
        kinds = [type(change) for change in changes]
        removes, creates = kinds.count(Delete), kinds.count(Create)

        def work(txn: Transaction) -> int:
            made = 0
            for each in works:
                if not each(txn):
                    break
                made += 1
            if made and creates:
                tree.purge(txn, _PURGE_AT_CREATE * creates, now)
            return made

        return self.write(work, removes=removes == len(works))

    async def list(self, owner: bytes, now: Millis) -> list[Record]:
        """See `Backend.list`."""

        def work(txn: Transaction) -> list[Record]:
            return [record for _, record in tree.owned(txn, owner) if record is not None and record.expires_at > now]

        return self.read(work)

    async def epoch(self, owner: bytes, now: Millis, *, advance: bool = False) -> int:
        """See `Backend.epoch`. Each advance of any owner's epoch gives a new number."""
        tree.check_owner(owner)
        if advance:
            return self.write(lambda txn: tree.advance(txn, owner, now), removes=True)
        return self.read(lambda txn: tree.epoch_of(txn, owner)[0])

    async def latest_epoch(self, now: Millis) -> int:
        """See `CountsEpochs.latest_epoch`."""
        del now
        return self.read(tree.latest_epoch)

    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        """See `Backend.delete_owner`."""
        tree.check_owner(owner)

        def work(txn: Transaction) -> int:
            tree.advance(txn, owner, now)
            live = 0
            for entry, record in tree.owned(txn, owner):
                if record is None:
                    txn.delete(entry)
                elif record.key != keep:
                    tree.remove(txn, record)
                    live += record.expires_at > now
            return live

        return self.write(work, removes=True)

    async def purge(self, limit: int, now: Millis) -> int:
        """See `Backend.purge`. Each transaction removes up to 256 records."""
        left = limit
        while left > 0:
            step = min(left, _PURGE_STEP)
            went = self.write(lambda txn, step=step: tree.purge(txn, step, now), removes=True)  # type: ignore[misc]
            left -= went
            if went < step:
                break
        return limit - left

    async def scan(self, namespace: str, cursor: str | None, limit: int, now: Millis) -> ScanPage:
        """See `Backend.scan`. Any page may hold fewer records than ``limit``.

        Raises:
            ValueError: if ``cursor`` does not come from a page of this namespace, or ``limit`` is not positive.
        """
        prefix = tree.prefix(namespace)
        start = prefix if cursor is None else prefix + tree.from_cursor(cursor) + b"\0"
        if limit < 1 or len(start) > tree.MAX_ENTRY_BYTES:
            raise ValueError("limit must be positive, and cursor one of a page")

        def work(txn: Transaction) -> ScanPage:
            records: list[Record] = []
            last = b""
            for visited, (entry, raw) in enumerate(tree.walk(txn, start, prefix)):
                if visited == limit:
                    return ScanPage(records, tree.to_cursor(last[len(prefix) :]))
                record = tree.decode(entry[1:], raw)
                if record is not None and record.expires_at > now:
                    records.append(record)
                last = entry
            return ScanPage(records, None)

        return self.read(work)

    async def count(self, namespace: str, now: Millis) -> int:
        """See `Backend.count`. Each transaction reads up to 10,000 records."""
        prefix = tree.prefix(namespace)
        total = 0
        start: bytes | None = prefix

        def work(txn: Transaction, start: bytes) -> tuple[int, bytes | None]:
            live = 0
            for visited, (entry, raw) in enumerate(tree.walk(txn, start, prefix)):
                if visited == _COUNT_STEP:
                    return live, entry
                record = tree.decode(entry[1:], raw)
                live += record is not None and record.expires_at > now
            return live, None

        while start is not None:
            live, start = self.read(lambda txn, start=start: work(txn, start))  # type: ignore[misc]
            total += live
        return total
