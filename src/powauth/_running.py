"""Detection of a running event loop, and worker threads for code that would block it."""

import asyncio
import inspect
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar

from powauth import _forks
from powauth._extras import is_missing
from powauth.errors import ConfigError, Overloaded

P = ParamSpec("P")
T = TypeVar("T")

THREADS = 40
"""The most worker threads on each event loop. Frameworks run plain handlers in other threads. If both shared their
threads, and waiting handlers took all of them, each handler would wait forever for one more."""


class InThread(Protocol):
    """Runs a function in a worker thread and returns its result."""

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]:
        """Run ``function`` in a worker thread. Raise its errors here."""
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
    """At most `THREADS` worker threads on each event loop, of asyncio or trio.

    Args:
        name: their name.
        waiting: the most calls of the process that wait or run in them. ``None`` is no limit.
    """

    def __init__(self, name: str, waiting: int | None = None) -> None:
        self._name = name
        self._limiter: Any = None
        self._waiting = waiting
        self._reset()
        if waiting is not None:
            _forks.on_fork(self, WorkerThreads._reset)

    def _reset(self) -> None:
        self._calls = 0
        self._lock = threading.Lock()

    async def __call__(self, function: Callable[[], T], /) -> T:
        """Run ``function`` in one of them.

        Raises:
            Overloaded: if too many calls wait already.
        """
        if self._waiting is None:
            return await self._run(function)
        _forks.check()
        with self._lock:
            if self._calls >= self._waiting:
                raise Overloaded(f"too many calls wait for the threads of {self._name}; try again later")
            self._calls += 1
        try:
            return await self._run(function)
        finally:
            with self._lock:
                self._calls -= 1

    async def _run(self, function: Callable[[], T]) -> T:
        try:
            import anyio
            import anyio.lowlevel
            import anyio.to_thread
        except ImportError as error:  # frameworks without anyio run on asyncio
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
"""Threads in which a blocking users context reads: sign-ins that wait for a hash must not delay other requests."""

password_threads = WorkerThreads("passwords", waiting=100)
"""Threads in which a blocking users context hashes passwords. The hasher's own limit is never reached there, because a
call counts only once it has a thread. This limit also counts the calls that wait for a thread."""

_unfinished: set[asyncio.Future[Any]] = set()
"""Tasks that must not be collected: an event loop holds its tasks weakly."""


async def shielded(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await ``coroutine``, and let it complete even if the caller is cancelled. Without an event loop, only await it.

    A change of a user must end the sessions that it makes invalid, even if the client hangs up meanwhile. If the caller
    is closed before the work has begun, the work is not done: `drive` cannot wait for it, and raises an error.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        if not on_event_loop():
            return await coroutine
        import anyio

        with anyio.CancelScope(shield=True):
            return await coroutine
    # Neither an anyio scope nor `Task.cancel` can cancel a separate task.
    task = asyncio.ensure_future(coroutine)
    _unfinished.add(task)
    task.add_done_callback(_unfinished.discard)
    try:
        return await asyncio.shield(task)
    except GeneratorExit:
        if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
            task.cancel()
        raise


async def calls_ended(seconds: float) -> bool:
    """Wait, at most so many seconds, for this event loop's calls of `shielded`. Return whether all have ended.

    Elsewhere there is nothing to wait for: without an event loop and on trio, every caller waits itself.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return True
    calls = [call for call in tuple(_unfinished) if call.get_loop() is loop]
    return not calls or not (await asyncio.wait(calls, timeout=seconds))[1]


def uncancellable(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Return a coroutine function each of whose calls completes even if its caller is cancelled; see `shielded`."""

    @wraps(method)
    async def call(*args: P.args, **kwargs: P.kwargs) -> T:
        return await shielded(method(*args, **kwargs))

    return call


def on_loop_of_worker(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on the event loop that runs this worker thread, and wait for it.

    Raises:
        ConfigError: if this is no worker thread of anyio. Frameworks run plain handlers in such threads.
    """
    why = "this needs an event loop, and there is none here: use an AsyncSession, or give powauth a synchronous store"
    try:
        import anyio.from_thread
    except ImportError as error:
        if not is_missing(error, "anyio"):
            raise
        raise ConfigError(why) from error
    began = False

    async def run() -> T:
        nonlocal began
        began = True
        return await work()

    try:
        return anyio.from_thread.run(run)
    except RuntimeError as error:
        if began:
            raise
        raise ConfigError(why) from error
