"""Bounds how many passwords are hashed at once."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from powauth import _forks
from powauth.errors import Overloaded

T = TypeVar("T")


class Gate:
    """Runs a bounded number of jobs at once, lets a bounded number wait, and refuses the rest.

    Threads of the app wait in `turn`. Jobs from an event loop wait in the queue of the gate's own threads. Both kinds
    count.
    """

    def __init__(self, concurrent: int, waiting: int) -> None:
        self._concurrent = concurrent
        self._most = concurrent + waiting
        self._inside = threading.local()
        self.reset()
        _forks.on_fork(self, Gate.reset)

    def reset(self) -> None:
        """Reset the state. A forked process has its parent's counts, but neither its threads nor its waiting jobs."""
        self._lock = threading.Lock()
        self._free = threading.Semaphore(self._concurrent)
        self._admitted = 0
        self._pool: ThreadPoolExecutor | None = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, and hold it during the block. A block inside a turn needs no other."""
        if getattr(self._inside, "turn", False):  # inside a job that has a turn already
            yield
            return
        self._admit()
        try:
            with self._within():
                yield
        finally:
            self._leave()

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Run a job in one of the gate's own threads, in a turn."""

        def work() -> T:
            with self._within():
                return job()

        self._admit()
        try:
            future = self._threads().submit(work)
        except BaseException:
            self._leave()
            raise
        # The callback also runs if the waiting task was cancelled before its turn.
        future.add_done_callback(lambda _: self._leave())
        return future

    def close(self) -> None:
        """Close the threads. Jobs that have begun run to their end."""
        _forks.check()
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    @contextmanager
    def _within(self) -> Iterator[None]:
        with self._free:
            self._inside.turn = True
            try:
                yield
            finally:
                self._inside.turn = False

    def _admit(self) -> None:
        _forks.check()
        with self._lock:
            if self._admitted >= self._most:
                raise Overloaded("too many passwords are waiting to be hashed; try again later")
            self._admitted += 1

    def _leave(self) -> None:
        with self._lock:
            self._admitted -= 1

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._concurrent, thread_name_prefix="powauth-password")
            return self._pool
