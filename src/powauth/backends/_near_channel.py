"""The common part of all engines' channels: their start, where they run, their end, and their log messages.

A channel is a conversation on one connection. It runs as a task of the event loop (`LoopChannel`) or as a daemon thread
(`ThreadChannel`). A read that finds no running channel starts one.
"""

import asyncio
import contextlib
import contextvars
import logging
import threading
from abc import ABC, abstractmethod
from typing import Any

from powauth import _forks
from powauth.backends.near_cache import RETRY_INTERVAL, NearCache, clock

logger = logging.getLogger("powauth")


class ChannelLost(Exception):
    """The server's answer is not valid on a channel. The text is for the log and holds no value."""


class NearChannel(ABC):
    """A channel. A cache has one at a time.

    Args:
        cache: the cache that receives the reported changes.
        timeout: seconds for making the connection.
    """

    store: str
    """The engine's name in the log."""
    telling: tuple[type[BaseException], ...] = (ChannelLost,)
    """Errors whose text goes into the log, because it helps the operator and holds no value."""

    def __init__(self, cache: NearCache, timeout: float) -> None:
        self._cache = cache
        self._timeout = timeout
        self._retry_at = 0.0
        self._complained = False
        self._closed = False
        cache.channel = self

    @abstractmethod
    def ensure(self) -> None:
        """See `powauth.backends.near_cache.Channel`."""

    @abstractmethod
    def forget(self) -> None:
        """See `powauth.backends.near_cache.Channel`."""

    @abstractmethod
    async def close(self) -> None:
        """End the channel and drop every copy. No other channel starts."""

    def _is_due(self) -> bool:
        at = clock()
        if self._closed or at < self._retry_at:
            return False
        self._retry_at = at + RETRY_INTERVAL
        return True

    def _stands(self, generation: int, sent: float) -> None:
        self._cache.heard(generation, sent)
        if self._complained:
            self._complained = False
            logger.info("powauth: the near cache is on again")

    def _end(self) -> None:
        self._closed = True
        self._cache.close()

    def _complain(self, error: BaseException) -> None:
        """Log a warning once per outage: the cache is an optimisation, and every read reaches the server meanwhile."""
        if self._complained or self._closed:
            return
        self._complained = True
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        logger.warning(
            "powauth: the near cache is off and each request asks %s, until a connection that reports changes "
            "stands again (%s%s)",
            self.store,
            type(error).__name__,
            f": {error}" if isinstance(error, self.telling) else "",
        )


class LoopChannel(NearChannel):
    """A channel that is a task of the first read's event loop, and ends with that loop."""

    _task: "asyncio.Task[None] | None" = None
    _loop: asyncio.AbstractEventLoop | None = None

    @abstractmethod
    async def _run(self) -> None:
        """Hold the conversation until it ends."""

    def ensure(self) -> None:
        """See `powauth.backends.near_cache.Channel`."""
        alive = self._task is not None and not self._task.done()
        if (alive and self._loop is not None and not self._loop.is_closed()) or not self._is_due():
            return
        self._loop = asyncio.get_running_loop()
        # An empty context, because the task outlives the request that starts it.
        self._task = self._loop.create_task(self._run(), name="powauth near cache", context=contextvars.Context())

    def forget(self) -> None:
        """See `powauth.backends.near_cache.Channel`."""
        _forks.keep(self._task, self._loop)  # the child may share the selector, so nothing may leave it
        self._task = self._loop = None
        self._retry_at = 0.0

    async def close(self) -> None:
        """See `NearChannel.close`."""
        self._end()
        task, loop = self._task, self._loop
        if task is None or loop is None or task.done() or loop.is_closed():
            return
        if loop is asyncio.get_running_loop():
            task.cancel()
            await asyncio.wait([task])
        else:
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(task.cancel)


class ThreadChannel(NearChannel):
    """A channel that is a daemon thread, for a synchronous client."""

    _thread: threading.Thread | None = None
    _line: Any = None

    def __init__(self, cache: NearCache, timeout: float) -> None:
        super().__init__(cache, timeout)
        self._starting = threading.Lock()

    @abstractmethod
    def _run(self) -> None:
        """Hold the conversation on ``self._line`` until it ends."""

    @abstractmethod
    def _wake(self, line: Any) -> None:
        """Wake the thread that waits on the line, so that it ends."""

    @abstractmethod
    def _abandon(self, line: Any) -> None:
        """Close the descriptors in a forked child. Send nothing to the server: the connection is the parent's."""

    def ensure(self) -> None:
        """See `powauth.backends.near_cache.Channel`."""
        if self._thread is not None and self._thread.is_alive():
            return
        with self._starting:
            if (self._thread is None or not self._thread.is_alive()) and self._is_due():
                self._thread = threading.Thread(target=self._run, name="powauth near cache", daemon=True)
                self._thread.start()

    def forget(self) -> None:
        """See `powauth.backends.near_cache.Channel`."""
        self._starting = threading.Lock()
        self._thread = None
        self._retry_at = 0.0
        line, self._line = self._line, None
        if line is not None:
            with contextlib.suppress(Exception):
                self._abandon(line)

    async def close(self) -> None:
        """See `NearChannel.close`."""
        self._end()
        with self._starting:
            thread, line = self._thread, self._line
        if thread is not None and thread.is_alive():
            if line is not None:
                with contextlib.suppress(Exception):
                    self._wake(line)
            thread.join(self._timeout)
