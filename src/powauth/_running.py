"""Where code runs: whether an event loop is running here, and threads for what would block it."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from powauth._extras import is_missing

T = TypeVar("T")

THREADS = 40
"""Worker threads at once on each event loop. They are not those in which frameworks run plain handlers: a handler that
waits for one of its own kind would wait for ever while such handlers have taken all of them."""


class InThread(Protocol):
    """Runs a function in a worker thread and returns its result."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]:
        """Run ``function`` elsewhere. What it raises is raised here."""
        ...


def on_event_loop() -> bool:
    """Return whether an event loop of asyncio or trio is running in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        trio = sys.modules.get("trio")
        return trio is not None and bool(trio.lowlevel.in_trio_run())
    return True


class WorkerThreads:
    """At most `THREADS` worker threads on each event loop, of asyncio or trio."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._limiter: Any = None

    async def __call__(self, function: Callable[[], T], /) -> T:
        """Run ``function`` in one of them."""
        try:
            import anyio
            import anyio.lowlevel
            import anyio.to_thread
        except ImportError as error:  # frameworks that do without it run on asyncio
            if not is_missing(error, "anyio"):
                raise
            return await asyncio.to_thread(function)
        if self._limiter is None:
            self._limiter = anyio.lowlevel.RunVar[Any](f"powauth {self._name}")
        limiter = self._limiter.get(None)
        if limiter is None:
            limiter = anyio.CapacityLimiter(THREADS)
            self._limiter.set(limiter)
        return await anyio.to_thread.run_sync(function, limiter=limiter)


store_threads = WorkerThreads("store")
"""Threads in which a blocking store is read and written."""

users_threads = WorkerThreads("users")
"""Threads in which a blocking users context works: sign-ins that wait for a hash must not delay a sign-out."""

_unfinished: set[asyncio.Future[Any]] = set()
"""Tasks that must not be collected: an event loop holds its tasks weakly."""


async def shielded(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await ``coroutine``, and let it go on to its end if the caller is cancelled. Without an event loop, await it.

    A change of a user, once begun, must end the sessions that it voids, although a client hung up meanwhile.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        if not on_event_loop():
            return await coroutine
        import anyio

        with anyio.CancelScope(shield=True):
            return await coroutine
    # A task of its own is out of reach of a scope of anyio's and of `Task.cancel` alike.
    task = asyncio.ensure_future(coroutine)
    _unfinished.add(task)
    task.add_done_callback(_unfinished.discard)
    return await asyncio.shield(task)
