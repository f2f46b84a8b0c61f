"""A blocking backend on an event loop: each verb runs in a worker thread, but for reads that need not wait."""

from collections.abc import Sequence

from powauth._running import InThread
from powauth.backends.base import Backend, Change, Millis, Mode, Page, Record, WouldWaitError, drive


class OffloadedBackend(Backend):
    """A backend whose coroutines block, made to suspend instead."""

    mode: Mode = "async"

    def __init__(self, backend: Backend, in_thread: InThread) -> None:
        self.shared = backend.shared
        self._backend = backend
        self._in_thread = in_thread
        self.reads_at_once = backend.reads_at_once
        self.changes_at_once = backend.changes_at_once
        # The very ones, for they are on the way of every request.
        self.peek, self.record_of = backend.peek, backend.record_of  # type: ignore[method-assign]

    async def create(self, record: Record, epoch: int | None, now: Millis) -> bool:
        """See `Backend.create`."""
        return await self._in_thread(lambda: drive(self._backend.create(record, epoch, now)))

    async def get(self, key: bytes, now: Millis) -> Record | None:
        """See `Backend.get`: in place, if the engine answers at once or a copy is nearby."""
        try:
            return self._backend.get_at_once(key, now)
        except WouldWaitError:
            return await self._in_thread(lambda: drive(self._backend.get(key, now)))

    async def get_fresh(self, key: bytes, now: Millis) -> Record | None:
        """See `Backend.get_fresh`: in place, if the engine answers at once; a backend with copies does not say so."""
        if self.reads_at_once:
            return await self.get(key, now)
        return await self._in_thread(lambda: drive(self._backend.get_fresh(key, now)))

    async def update(self, record: Record, expected_version: int, now: Millis) -> bool:
        """See `Backend.update`."""
        return await self._in_thread(lambda: drive(self._backend.update(record, expected_version, now)))

    async def delete(self, key: bytes, now: Millis) -> bool:
        """See `Backend.delete`."""
        return await self._in_thread(lambda: drive(self._backend.delete(key, now)))

    async def change(self, changes: Sequence[Change], now: Millis) -> int:
        """See `Backend.change`."""
        return await self._in_thread(lambda: drive(self._backend.change(changes, now)))

    async def list(self, owner: bytes, now: Millis) -> list[Record]:
        """See `Backend.list`."""
        return await self._in_thread(lambda: drive(self._backend.list(owner, now)))

    async def epoch(self, owner: bytes, now: Millis, *, advance: bool = False) -> int:
        """See `Backend.epoch`."""
        return await self._in_thread(lambda: drive(self._backend.epoch(owner, now, advance=advance)))

    async def latest_epoch(self, now: Millis) -> int | None:
        """See `Backend.latest_epoch`."""
        return await self._in_thread(lambda: drive(self._backend.latest_epoch(now)))

    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        """See `Backend.delete_owner`."""
        return await self._in_thread(lambda: drive(self._backend.delete_owner(owner, now, keep)))

    async def purge(self, limit: int, now: Millis) -> int:
        """See `Backend.purge`."""
        return await self._in_thread(lambda: drive(self._backend.purge(limit, now)))

    async def scan(self, namespace: str, cursor: str | None, limit: int, now: Millis) -> Page:
        """See `Backend.scan`."""
        return await self._in_thread(lambda: drive(self._backend.scan(namespace, cursor, limit, now)))

    async def count(self, namespace: str, now: Millis) -> int:
        """See `Backend.count`."""
        return await self._in_thread(lambda: drive(self._backend.count(namespace, now)))

    async def close(self) -> None:
        """See `Backend.close`."""
        await self._in_thread(lambda: drive(self._backend.close()))
