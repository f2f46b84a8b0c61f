"""A blocking backend on an event loop: each verb runs in a worker thread, but for reads that need not wait."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from powauth.backends.base import Backend, Millis, Mode, Page, Record, WouldWaitError, drive

T = TypeVar("T")

GetAtOnce = Callable[[bytes, Millis], Record | None]
Get = Callable[[bytes, Millis], Coroutine[Any, Any, Record | None]]


class InThread(Protocol):
    """Runs a function in a worker thread and gives its result; the integration knows which event loop it is on."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]:
        """Run ``function`` elsewhere; what it raises is raised here."""
        ...


class OffloadedBackend(Backend):
    """A backend whose coroutines block, made to suspend instead."""

    mode: Mode = "async"

    def __init__(self, backend: Backend, in_thread: InThread) -> None:
        self.shared = backend.shared
        self._backend = backend
        self._in_thread = in_thread
        self.reads_at_once = backend.reads_at_once

    async def create(self, record: Record, epoch: int | None, now: Millis) -> bool:
        """See `Backend.create`."""
        return await self._in_thread(lambda: drive(self._backend.create(record, epoch, now)))

    def get(self, key: bytes, now: Millis) -> Coroutine[Any, Any, Record | None]:
        """See `Backend.get`: in place if a copy is nearby, or the engine answers at once."""
        at_once = self._backend.get_at_once if self.reads_at_once else self._get_copy
        return self._read(at_once, self._backend.get, key, now)

    def get_fresh(self, key: bytes, now: Millis) -> Coroutine[Any, Any, Record | None]:
        """See `Backend.get_fresh`: in place if the engine answers at once, and never from a copy."""
        return self._read(self._backend.get_at_once, self._backend.get_fresh, key, now)

    def get_at_once(self, key: bytes, now: Millis) -> Record | None:
        """See `Backend.get_at_once`."""
        return self._backend.get_at_once(key, now)

    def get_nearby(self, key: bytes, now: Millis) -> Record | None:
        """See `Backend.get_nearby`."""
        return self._backend.get_nearby(key, now)

    def _get_copy(self, key: bytes, now: Millis) -> Record | None:
        record = self._backend.get_nearby(key, now)
        if record is None:
            raise WouldWaitError
        return record

    async def _read(self, at_once: GetAtOnce, get: Get, key: bytes, now: Millis) -> Record | None:
        try:
            return at_once(key, now)
        except WouldWaitError:
            pass
        return await self._in_thread(lambda: drive(get(key, now)))

    async def update(self, record: Record, expected_version: int, now: Millis) -> bool:
        """See `Backend.update`."""
        return await self._in_thread(lambda: drive(self._backend.update(record, expected_version, now)))

    async def delete(self, key: bytes, now: Millis) -> bool:
        """See `Backend.delete`."""
        return await self._in_thread(lambda: drive(self._backend.delete(key, now)))

    async def list(self, owner: bytes, now: Millis) -> list[Record]:
        """See `Backend.list`."""
        return await self._in_thread(lambda: drive(self._backend.list(owner, now)))

    async def epoch(self, owner: bytes, now: Millis, *, advance: bool = False) -> int:
        """See `Backend.epoch`."""
        return await self._in_thread(lambda: drive(self._backend.epoch(owner, now, advance=advance)))

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
