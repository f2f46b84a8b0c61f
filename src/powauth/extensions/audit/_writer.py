"""Writers of the audit log: a bounded queue with a thread, or with a task of the event loop, and a direct one.

No writer raises an error. Only the direct writer waits for the database. Each writer counts the entries that it could
not write.
"""

import asyncio
import atexit
import contextvars
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final
from weakref import WeakSet

from powauth import _forks
from powauth._running import WorkerThreads, on_event_loop
from powauth.backends.base import drive
from powauth.events import log
from powauth.extensions.audit._table import AuditTable

Row = dict[str, Any]

BATCH: Final = 100
"""The most rows of one transaction."""

LINGER: Final = 5.0
"""Seconds for which an idle thread waits for the next entry before it ends."""

FULL: Final = "the queue is full"

_threads = WorkerThreads("audit")


class Losses:
    """Counts the entries that were not written, and reports each gap in the log twice: when it begins and ends.

    Args:
        report: is called with a reason when a gap begins, and with the number of lost entries when it ends.

    Attributes:
        total: the number of lost entries in this process.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self.total = 0
        self._gap = 0
        self._report = report
        self._lock = threading.Lock()

    def add(self, count: int, reason: str) -> None:
        """Count lost entries."""
        with self._lock:
            begins, self._gap = self._gap == 0, self._gap + count
            self.total += count
        if begins:
            self._report(reason)

    def end_gap(self) -> int:
        """Report the end of a gap after a successful write. Return the number of lost entries."""
        if not self._gap:
            return 0
        with self._lock:
            lost, self._gap = self._gap, 0
        self._report(f"{lost} entries lost")
        return lost


class Writer(ABC):
    """Takes rows and writes them to a table.

    Args:
        table: the table.
        losses: counts what could not be written.
        capacity: the most rows that wait.
        closing: the longest time in seconds for which `aclose` waits.
    """

    def __init__(self, table: AuditTable, losses: Losses, capacity: int, closing: float) -> None:
        self._table = table
        self._losses = losses
        self._capacity = capacity
        self._closing = closing

    @abstractmethod
    def put(self, row: Row) -> None:
        """Take a row."""

    @abstractmethod
    async def aclose(self) -> None:
        """Write the rows in the queue. Count the rows that could not be written in time."""

    async def _write(self, rows: Sequence[Row]) -> None:
        try:
            await self._table.write(rows)
        except Exception as error:
            log(logging.ERROR, "the audit log could not be written", error=error)
            self._losses.add(len(rows), type(error).__name__)
        else:
            self._losses.end_gap()


class DirectWriter(Writer):
    """Writes each row at once, in the thread that emits the event."""

    def put(self, row: Row) -> None:
        """See `Writer.put`. This waits for the database."""
        drive(self._write([row]))

    async def aclose(self) -> None:
        """See `Writer.aclose`. Nothing waits."""


class ThreadWriter(Writer):
    """Writes in a thread, over an ``Engine``. A forked process has its own queue and thread."""

    def __init__(self, table: AuditTable, losses: Losses, capacity: int, closing: float) -> None:
        super().__init__(table, losses, capacity, closing)
        self._reset()
        _forks.on_fork(self, ThreadWriter._reset)
        _all.add(self)

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Row] = deque()
        self._thread: threading.Thread | None = None
        self._closes = False

    def put(self, row: Row) -> None:
        """See `Writer.put`. This takes microseconds."""
        _forks.check()
        reason = None
        with self._changed:
            if len(self._waiting) >= self._capacity:
                reason = FULL
            else:
                self._waiting.append(row)
                if self._thread is None:
                    reason = self._start()
                self._changed.notify()
        if reason is not None:
            self._losses.add(1, reason)

    def _start(self) -> str | None:
        thread = threading.Thread(target=self._work, name="powauth audit", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the process is ending, or has as many threads as it may
            self._waiting.pop()
            return "no thread can start"
        self._thread = thread
        return None

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._waiting and not self._closes:
                    self._changed.wait(LINGER)
                rows = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                if not rows:
                    self._thread = None
                    return
            drive(self._write(rows))

    async def aclose(self) -> None:
        """See `Writer.aclose`."""
        if on_event_loop():
            await _threads(self.close)
        else:
            self.close()

    def close(self) -> None:
        """Do what `aclose` does, without an event loop."""
        _forks.check()
        with self._changed:
            thread, self._closes = self._thread, True
            self._changed.notify()
        if thread is not None:
            thread.join(self._closing)
        with self._changed:
            self._closes = False
            left = len(self._waiting)
            self._waiting.clear()
        if left:
            self._losses.add(left, "not written before the app ended")


class LoopWriter(Writer):
    """Writes in a task of the event loop, over an ``AsyncEngine``. A forked process has its own queue."""

    def __init__(self, table: AuditTable, losses: Losses, capacity: int, closing: float) -> None:
        super().__init__(table, losses, capacity, closing)
        self._reset()
        _forks.on_fork(self, LoopWriter._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Row] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None

    def put(self, row: Row) -> None:
        """See `Writer.put`. For an event in a worker thread, the event loop of the last event writes the row."""
        _forks.check()
        with self._lock:
            if len(self._waiting) < self._capacity:
                self._waiting.append(row)
                full = False
            else:
                full = True
        if full:
            self._losses.add(1, FULL)
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            if self._loop is not None and not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._start)
            return
        self._start()

    def _start(self) -> None:
        loop = asyncio.get_running_loop()
        task = self._task
        if task is None or task.done() or task.get_loop() is not loop:
            self._task = loop.create_task(self._work(), context=contextvars.Context())

    async def _work(self) -> None:
        while rows := self._next():
            try:
                await self._write(rows)
            except asyncio.CancelledError:  # the loop is ending
                self._losses.add(len(rows), "not written before the app ended")
                raise

    def _next(self) -> list[Row]:
        with self._lock:
            return [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]

    async def aclose(self) -> None:
        """See `Writer.aclose`."""
        deadline = time.monotonic() + self._closing
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                task = self._task
                if task is not None and not task.done() and task.get_loop() is asyncio.get_running_loop():
                    await task
                await self._work()
        except TimeoutError:
            left = 0
            while rows := self._next():
                left += len(rows)
            if left:
                self._losses.add(left, "not written before the app ended")


_all: WeakSet[ThreadWriter] = WeakSet()


def _close_all() -> None:
    """Close all writers at the end of the process. Otherwise their threads would end in the middle of a write."""
    for writer in list(_all):
        writer.close()


atexit.register(_close_all)
