"""One backend for coroutines on an event loop, on a second event loop, and for plain functions under WSGI.

`anywhere` wraps the app's backend: an object for threads, an object for event loops, or a URL that has a driver for
each. At each call the wrapper checks whether an event loop is running, and chooses the driver.
"""

import asyncio
import logging
from typing import Any, cast

from powauth._running import on_event_loop, store_threads
from powauth.backends import backend_from_url
from powauth.backends._per_loop import PerLoop
from powauth.backends.base import Backend, Millis, Mode, ReadsInPlace, Record, reads_engine_in_place
from powauth.backends.offloaded import OffloadedBackend
from powauth.backends.wrapping import BackendWrapper
from powauth.errors import ConfigError

logger = logging.getLogger("powauth")


def anywhere(backend: Backend | str) -> Backend:
    """Return a backend that works in threads and on event loops. An ``inline`` object is returned unchanged.

    Raises:
        ConfigError: if the URL names no backend.
    """
    if isinstance(backend, str):
        return AnywhereBackend(backend_from_url(backend), backend)
    if backend.mode in ("inline", "anywhere"):
        return backend
    return AnywhereBackend(backend)


class AnywhereBackend(BackendWrapper):
    """See the module. A backend made from a URL opens on first use, even after `close`.

    Attributes:
        given: the wrapped backend, or one that was made from the URL and has opened nothing.
    """

    mode: Mode = "anywhere"

    def __init__(self, given: Backend, url: str | None = None) -> None:
        self._url = url
        self.given = given
        self.given_mode: Mode = given.mode
        self._reads_in_place = reads_engine_in_place(given)
        self._async: Backend | None = given if given.mode == "async" and url is None else None
        self._of_loops = PerLoop()
        self._has_native = url is not None and not self._reads_in_place and given.mode != "inline"
        self._blocking: Backend | None = None
        self._offloaded: Backend | None = None
        self._reader: ReadsInPlace | None = None
        if given.mode != "async":
            self._hold(given)

    def _hold(self, blocking: Backend) -> Backend:
        """Keep the backend for threads. If it reads in place, event loops also read through it."""
        self._blocking = blocking
        self._offloaded = blocking if blocking.mode == "inline" else OffloadedBackend(blocking, store_threads)
        self._reader = blocking if reads_engine_in_place(blocking) else None
        return blocking

    # --- which one ----------------------------------------------------------------------------------------------------

    def here(self) -> Backend:
        """Return the backend for the calling thread and its event loop, if any.

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
        """True if each read on an event loop takes a worker thread, because there is no driver for event loops."""
        return self._url is None and self.given_mode == "blocking" and not self._reads_in_place

    def check_off_loop(self) -> None:
        """Refuse a backend that needs an event loop; see `here`.

        Raises:
            ConfigError: if it needs one.
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
        """Return the backend of the URL's asynchronous driver for the running event loop; ``None`` if not installed."""
        if self._url is None or not self._has_native:
            return None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # the loop is trio's, and the drivers are for asyncio
            return None
        found = self._of_loops.get(loop)
        if found is None:
            try:
                found = backend_from_url(self._url, asynchronous=True)
            except ConfigError:
                self._has_native = False
                logger.warning(
                    "the backend's asynchronous driver is not installed: each read or write takes a worker thread"
                )
                return None
            if found.mode != "async":
                self._has_native = False
                return None
            self._of_loops.hold(loop, found)
        return found

    # --- the verbs ----------------------------------------------------------------------------------------------------

    def peek(self, key: bytes, now: Millis) -> object:
        """See `ReadsInPlace.peek`. A backend that reads the engine in place serves threads and event loops alike."""
        reader = self._reader
        return (cast("ReadsInPlace", self.here()) if reader is None else reader).peek(key, now)

    def record_of(self, key: bytes, seen: Any, now: Millis) -> Record | None:
        """See `ReadsInPlace.record_of`."""
        reader = self._reader
        return (cast("ReadsInPlace", self.here()) if reader is None else reader).record_of(key, seen, now)

    async def close(self) -> None:
        """Close the backends made from the URL. The app's own object stays open."""
        if self._url is None:
            return
        blocking, self._blocking, self._offloaded, self._reader = self._blocking, None, None, None
        await self._of_loops.close()
        if blocking is not None:
            await blocking.close()
