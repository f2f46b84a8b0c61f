"""Runs a coroutine to its end inside a plain function that SQLAlchemy calls: an event of a database session."""

import contextvars
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

from powauth._running import on_event_loop, on_loop_of_worker
from powauth.backends.base import drive

T = TypeVar("T")


def needs_blocking() -> bool:
    """Return whether `wait_for` needs a store that works without an event loop.

    This is so if a plain ``Session`` commits on the event loop's own thread: the loop cannot run anything meanwhile.
    """
    return not in_greenlet() and on_event_loop()


def wait_for(work: Callable[[], Coroutine[Any, Any, T]], *, blocking: bool) -> T:
    """Return the result of ``work()``. An ``AsyncSession`` suspends meanwhile. A plain ``Session`` blocks its thread.

    Args:
        work: makes the coroutine.
        blocking: whether the coroutine also runs without an event loop.

    Raises:
        ConfigError: if the coroutine needs an event loop, and none can run it.
    """
    if in_greenlet():
        return await_only(work())
    if on_event_loop():
        return _in_thread(lambda: drive(work()))
    return drive(work()) if blocking else on_loop_of_worker(work)


def _in_thread(work: Callable[[], T]) -> T:
    """Run blocking work in a thread without an event loop, so that it chooses drivers that block."""
    done: list[T] = []
    failed: list[BaseException] = []
    context = contextvars.copy_context()

    def run() -> None:
        try:
            done.append(context.run(work))
        except BaseException as error:  # raised again in the caller's thread
            failed.append(error)

    thread = threading.Thread(target=run, name="powauth follow")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]
