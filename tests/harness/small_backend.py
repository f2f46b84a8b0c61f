"""A small backend over a small store, from which the tests make their mutants.

`Store` plays the engine. It runs one command at a time, and can be down. `SmallBackend` is its client. It is correct,
but not made for speed. In mode ``async`` it suspends before and after each command. `NearBackend` keeps copies, and its
`peek` reads them.
"""

import asyncio
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from powauth.backends.base import (
    EPOCH_LIFETIME,
    Backend,
    Change,
    CountsEpochs,
    Millis,
    Mode,
    ReadsInPlace,
    Record,
    ScanPage,
    ServesCopies,
    Transactional,
    WouldWaitError,
    drive,
    make_one_by_one,
)
from powauth.errors import StoreUnavailable


class DriverError(Exception):
    """What the driver of the store raises."""


class Store:
    """Records and epochs, in the order of their creation."""

    def __init__(self) -> None:
        self.records: dict[bytes, Record] = {}
        self.epochs: dict[bytes, tuple[int, Millis]] = {}
        self.moves = 0
        self.is_up = True
        self._lock = threading.RLock()

    @contextmanager
    def command(self) -> Iterator["Store"]:
        with self._lock:
            if not self.is_up:
                raise DriverError("connection refused")
            yield self


class SmallBackend(Backend, CountsEpochs):
    """Each verb is one command."""

    def __init__(self, store: Store | None = None, mode: Mode = "inline") -> None:
        self.mode = mode
        self.store = store or Store()
        self.closed = False

    @contextmanager
    def command(self) -> Iterator[Store]:
        if self.closed:
            raise StoreUnavailable("the backend is closed")
        try:
            with self.store.command() as store:
                yield store
        except DriverError as error:
            raise StoreUnavailable("the store did not answer") from error

    async def wait(self) -> None:
        """Wait for the network."""
        if self.mode == "async":
            await asyncio.sleep(0)

    # Within a command

    def is_live(self, record: Record, now: Millis) -> bool:
        return record.expires_at > now

    def live(self, store: Store, key: bytes, now: Millis) -> Record | None:
        record = store.records.get(key)
        return record if record is not None and self.is_live(record, now) else None

    def owned(self, store: Store, owner: bytes) -> list[Record]:
        return [record for record in store.records.values() if record.owner == owner]

    def in_namespace(self, store: Store, namespace: str, now: Millis) -> list[Record]:
        prefix = namespace.encode() + b":"
        return [record for key, record in store.records.items() if key.startswith(prefix) and self.is_live(record, now)]

    def ordered(self, records: list[Record]) -> list[Record]:
        return sorted(records, key=lambda record: (record.created_at, record.key), reverse=True)

    def is_current(self, store: Store, owner: bytes, epoch: int) -> bool:
        return self.epoch_of(store, owner) <= epoch <= store.moves

    def epoch_of(self, store: Store, owner: bytes) -> int:
        return store.epochs.get(owner, (0, 0))[0]

    def advance(self, store: Store, owner: bytes, now: Millis) -> int:
        store.moves += 1
        store.epochs[owner] = (store.moves, now)
        return store.moves

    def put(self, store: Store, record: Record) -> None:
        store.records[record.key] = record

    def drop(self, store: Store, key: bytes) -> None:
        store.records.pop(key, None)

    def may_create(self, store: Store, record: Record, epoch: int | None, now: Millis) -> bool:
        if self.live(store, record.key, now) is not None:
            return False
        return epoch is None or self.is_current(store, record.owner, epoch)

    def may_update(self, store: Store, record: Record, expected_version: int, now: Millis) -> bool:
        old = self.live(store, record.key, now)
        return old is not None and old.version == expected_version

    # The verbs

    async def create(self, record: Record, epoch: int | None, now: Millis) -> bool:
        await self.wait()
        with self.command() as store:
            created = self.may_create(store, record, epoch, now)
            if created:
                self.drop(store, record.key)
                self.put(store, record)
        await self.wait()
        return created

    async def get(self, key: bytes, now: Millis) -> Record | None:
        await self.wait()
        with self.command() as store:
            found = self.live(store, key, now)
        await self.wait()
        return found

    async def update(self, record: Record, expected_version: int, now: Millis) -> bool:
        await self.wait()
        with self.command() as store:
            updated = self.may_update(store, record, expected_version, now)
            if updated:
                self.put(store, record)
        await self.wait()
        return updated

    async def delete(self, key: bytes, now: Millis) -> bool:
        await self.wait()
        with self.command() as store:
            deleted = self.live(store, key, now) is not None
            self.drop(store, key)
        await self.wait()
        return deleted

    async def list(self, owner: bytes, now: Millis) -> list[Record]:
        await self.wait()
        with self.command() as store:
            found = [record for record in self.owned(store, owner) if self.is_live(record, now)]
        await self.wait()
        return self.ordered(found)

    async def epoch(self, owner: bytes, now: Millis, *, advance: bool = False) -> int:
        await self.wait()
        with self.command() as store:
            epoch = self.advance(store, owner, now) if advance else self.epoch_of(store, owner)
        await self.wait()
        return epoch

    async def latest_epoch(self, now: Millis) -> int:
        await self.wait()
        with self.command() as store:
            latest = store.moves
        await self.wait()
        return latest

    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        await self.wait()
        with self.command() as store:
            self.advance(store, owner, now)
            went = self.remove_owned(store, owner, now, keep)
        await self.wait()
        return went

    def remove_owned(self, store: Store, owner: bytes, now: Millis, keep: bytes | None) -> int:
        went = [record for record in self.owned(store, owner) if record.key != keep]
        for record in went:
            self.drop(store, record.key)
        return sum(self.is_live(record, now) for record in went)

    async def purge(self, limit: int, now: Millis) -> int:
        await self.wait()
        with self.command() as store:
            expired = self.expired(store, now)[:limit]
            for key in expired:
                self.drop(store, key)
            forgotten = self.forgotten(store, now)[: limit - len(expired)]
            for owner in forgotten:
                del store.epochs[owner]
        await self.wait()
        return len(expired) + len(forgotten)

    def expired(self, store: Store, now: Millis) -> Sequence[bytes]:
        return [key for key, record in store.records.items() if not self.is_live(record, now)]

    def forgotten(self, store: Store, now: Millis) -> Sequence[bytes]:
        return [owner for owner, (_, moved_at) in store.epochs.items() if moved_at + EPOCH_LIFETIME <= now]

    async def scan(self, namespace: str, cursor: str | None, limit: int, now: Millis) -> ScanPage:
        await self.wait()
        after = b"" if cursor is None else self.key_in(cursor)
        with self.command() as store:
            found = sorted(self.in_namespace(store, namespace, now), key=lambda record: record.key)
        await self.wait()
        rest = [record for record in found if record.key > after]
        page = rest[:limit]
        return ScanPage(page, page[-1].key.hex() if len(rest) > limit else None)

    def key_in(self, cursor: str) -> bytes:
        if not re.fullmatch("([0-9a-f]{2})+", cursor):
            raise ValueError("not a cursor of this backend")
        return bytes.fromhex(cursor)

    async def count(self, namespace: str, now: Millis) -> int:
        await self.wait()
        with self.command() as store:
            total = len(self.in_namespace(store, namespace, now))
        await self.wait()
        return total

    async def close(self) -> None:
        self.closed = True


class SmallTransactional(SmallBackend, Transactional):
    """Several changes are one command, too."""

    async def change(self, changes: Sequence[Change], now: Millis) -> int:
        with self.command():
            inner = type(self)(self.store)  # waits for no network between the changes
            made = drive(make_one_by_one(inner, changes, now))
        await self.wait()
        return made


class PlacedBackend(SmallBackend, ReadsInPlace):
    """An event loop can look into the store itself."""

    def peek(self, key: bytes, now: Millis) -> object:
        with self.command() as store:
            return store.records.get(key)

    def record_of(self, key: bytes, seen: Any, now: Millis) -> Record | None:
        return seen if self.is_live(seen, now) else None


class NearBackend(SmallBackend, ReadsInPlace, ServesCopies):
    """Keeps a copy of what it has read, unless something was written meanwhile."""

    def __init__(self, store: Store | None = None, mode: Mode = "inline") -> None:
        super().__init__(store, mode)
        self.copies: dict[bytes, Record] = {}
        self.writes = 0

    def put(self, store: Store, record: Record) -> None:
        super().put(store, record)
        self.forget(record.key)

    def drop(self, store: Store, key: bytes) -> None:
        super().drop(store, key)
        self.forget(key)

    def forget(self, key: bytes) -> None:
        self.writes += 1
        self.copies.pop(key, None)

    async def get(self, key: bytes, now: Millis) -> Record | None:
        with self.command():
            writes = self.writes
        found = await super().get(key, now)
        with self.command():
            if found is not None and writes == self.writes:
                self.copies[key] = found
        return found

    async def get_fresh(self, key: bytes, now: Millis) -> Record | None:
        return await super().get(key, now)

    def peek(self, key: bytes, now: Millis) -> object:
        with self.command():
            copy = self.copies.get(key)
        if copy is None:
            raise WouldWaitError
        return copy

    def record_of(self, key: bytes, seen: Any, now: Millis) -> Record | None:
        return seen if self.is_live(seen, now) else None
