"""One backend for coroutines on an event loop, on a second event loop, and for plain functions under WSGI.

`anywhere` wraps what an app gives: an object for threads, an object for event loops, or a URL that has a driver for
each. The wrapper chooses at each call, by whether an event loop is running.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from powauth._running import on_event_loop, store_threads
from powauth.backends import backend_from_url
from powauth.backends._per_loop import PerLoop
from powauth.backends.base import Backend, Change, Millis, Mode, Page, Record
from powauth.backends.offloaded import OffloadedBackend
from powauth.errors import ConfigError

logger = logging.getLogger("powauth")


def anywhere(backend: Backend | str) -> Backend:
    """Return a backend that works wherever it is called; an ``inline`` object works everywhere as it is.

    Raises:
        ConfigError: if the URL names no backend.
    """
    if isinstance(backend, str):
        return AnywhereBackend(backend_from_url(backend), backend)
    if backend.mode in ("inline", "anywhere"):
        return backend
    return AnywhereBackend(backend)


class AnywhereBackend(Backend):
    """See the module. What was made of a URL is opened when it is first used, also after `close`."""

    mode: Mode = "anywhere"

    def __init__(self, given: Backend, url: str | None = None) -> None:
        self._url = url
        self.shared = given.shared
        self.given_mode: Mode = given.mode
        self.reads_at_once = given.reads_at_once
        self.changes_at_once = given.changes_at_once
        self._async: Backend | None = given if given.mode == "async" and url is None else None
        self._of_loops = PerLoop()
        self._blocking: Backend | None = None
        self._offloaded: Backend | None = None
        if given.mode != "async":
            self._hold(given)

    def _hold(self, blocking: Backend) -> Backend:
        """Keep the backend for threads. One that reads in place does so on event loops too, without a detour."""
        self._blocking = blocking
        self._offloaded = blocking if blocking.mode == "inline" else OffloadedBackend(blocking, store_threads)
        if blocking.reads_at_once:
            self.peek, self.record_of = blocking.peek, blocking.record_of  # type: ignore[method-assign]
        return blocking

    # --- which one ----------------------------------------------------------------------------------------------------

    def here(self) -> Backend:
        """Return the backend for where this is called.

        Raises:
            ConfigError: if there is no event loop, and the backend needs one.
        """
        if not on_event_loop():
            return self._off_loop()
        if self._async is not None:
            return self._async
        native = self._native()
        if native is not None:
            return native
        self._off_loop()
        assert self._offloaded is not None  # noqa: S101 - `_hold` has set it
        return self._offloaded

    @property
    def takes_threads(self) -> bool:
        """Whether each read takes a worker thread on an event loop: there is no driver for one."""
        return self._url is None and self.given_mode == "blocking" and not self.reads_at_once

    def check_off_loop(self) -> None:
        """Refuse a backend that needs an event loop; see `here`.

        Raises:
            ConfigError: if it does.
        """
        if self._url is None:
            self._off_loop()

    def _off_loop(self) -> Backend:
        if self._blocking is not None:
            return self._blocking
        if self._url is None:
            raise ConfigError(
                "the backend needs an event loop, and there is none here: a WSGI app needs a synchronous backend; give "
                "it an Engine, a synchronous Redis client, or a URL"
            )
        return self._hold(backend_from_url(self._url, asynchronous=False))

    def _native(self) -> Backend | None:
        """Return the backend of the URL's asynchronous driver for the running event loop, if that is installed."""
        if self._url is None or self.reads_at_once or self.given_mode == "inline":
            return None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # trio's; the drivers are asyncio's
            return None
        found = self._of_loops.get(loop)
        if found is None:
            try:
                found = backend_from_url(self._url, asynchronous=True)
            except ConfigError:
                logger.warning(
                    "the backend's asynchronous driver is not installed: each read or write takes a worker thread"
                )
                return None
            if found.mode != "async":
                return None
            self._of_loops.hold(loop, found)
        return found

    # --- the verbs ----------------------------------------------------------------------------------------------------

    async def create(self, record: Record, epoch: int | None, now: Millis) -> bool:
        """See `Backend.create`."""
        return await self.here().create(record, epoch, now)

    async def get(self, key: bytes, now: Millis) -> Record | None:
        """See `Backend.get`."""
        return await self.here().get(key, now)

    async def get_fresh(self, key: bytes, now: Millis) -> Record | None:
        """See `Backend.get_fresh`."""
        return await self.here().get_fresh(key, now)

    def peek(self, key: bytes, now: Millis) -> object:
        """See `Backend.peek`."""
        return self.here().peek(key, now)

    def record_of(self, key: bytes, seen: Any, now: Millis) -> Record | None:
        """See `Backend.record_of`."""
        return self.here().record_of(key, seen, now)

    async def update(self, record: Record, expected_version: int, now: Millis) -> bool:
        """See `Backend.update`."""
        return await self.here().update(record, expected_version, now)

    async def delete(self, key: bytes, now: Millis) -> bool:
        """See `Backend.delete`."""
        return await self.here().delete(key, now)

    async def change(self, changes: Sequence[Change], now: Millis) -> int:
        """See `Backend.change`."""
        return await self.here().change(changes, now)

    async def list(self, owner: bytes, now: Millis) -> list[Record]:
        """See `Backend.list`."""
        return await self.here().list(owner, now)

    async def epoch(self, owner: bytes, now: Millis, *, advance: bool = False) -> int:
        """See `Backend.epoch`."""
        return await self.here().epoch(owner, now, advance=advance)

    async def latest_epoch(self, now: Millis) -> int | None:
        """See `Backend.latest_epoch`."""
        return await self.here().latest_epoch(now)

    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        """See `Backend.delete_owner`."""
        return await self.here().delete_owner(owner, now, keep)

    async def purge(self, limit: int, now: Millis) -> int:
        """See `Backend.purge`."""
        return await self.here().purge(limit, now)

    async def scan(self, namespace: str, cursor: str | None, limit: int, now: Millis) -> Page:
        """See `Backend.scan`."""
        return await self.here().scan(namespace, cursor, limit, now)

    async def count(self, namespace: str, now: Millis) -> int:
        """See `Backend.count`."""
        return await self.here().count(namespace, now)

    async def close(self) -> None:
        """Close what was made of the URL. An object that the app gave stays open."""
        if self._url is None:
            return
        blocking, self._blocking, self._offloaded = self._blocking, None, None
        for name in ("peek", "record_of"):
            self.__dict__.pop(name, None)
        await self._of_loops.close()
        if blocking is not None:
            await blocking.close()
