"""Child processes of the test process, forked by Python or in C. They work in parallel and report results."""

import ctypes
import os
import pickle
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

PATIENCE = 60.0
"""Seconds that a child has to report; only a hang takes as long."""


def fork_in_c() -> int:
    """Fork as uWSGI does: Python runs no at-fork hook, neither in the parent nor in the child.

    If another thread has asked for the interpreter's lock, the child waits for ever for that thread to take it. So
    threads ask late, those that have asked get it before the fork, and the fork waits until all of them rest.
    """
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1.0)
    try:
        deadline = monotonic() + PATIENCE
        sleep(2 * interval)
        while not _others_rest() and monotonic() < deadline:
            sleep(2 * interval)
        return ctypes.PyDLL(None).fork()  # type: ignore[no-any-return]
    finally:
        sys.setswitchinterval(interval)


def _others_rest() -> bool:
    """Return whether no other thread of this process runs, or waits for a processor of a busy machine."""
    own = str(threading.get_native_id())
    others = [each for each in Path("/proc/self/task").glob("*/stat") if each.parent.name != own]
    states: list[str] = []
    for each in others:
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            states.append(each.read_text().rpartition(")")[2].split()[0])
    return "R" not in states


def fork_in_python() -> int:
    """Fork as gunicorn does."""
    return os.fork()


BOTH = pytest.mark.parametrize("fork", [fork_in_python, fork_in_c], ids=["python", "c"])
"""The two ways, for a test of each."""


def in_children(work: Callable[[int], Any], fork: Callable[[], int], count: int = 1) -> list[Any]:
    """Return what ``work(number)`` gave in each of ``count`` children, which begin together.

    Raises:
        AssertionError: if a child raised an error or was ended; the message holds its traceback.
    """
    with children(work, fork, count) as results:
        return results()


@contextmanager
def children(work: Callable[[int], Any], fork: Callable[[], int], count: int) -> Iterator[Callable[[], list[Any]]]:
    """As `in_children`, but this process goes on beside them; the value gives their results once they are there."""
    start_reading, start_writing = os.pipe()
    made: list[tuple[int, int]] = []
    for number in range(count):
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads beside a fork
            child = fork()
        if child == 0:
            _report(work, number, start_reading, start_writing, writing)
        os.close(writing)
        made.append((child, reading))
    os.close(start_writing)  # which each child waits for
    os.close(start_reading)
    results: list[Any] = []

    def collect() -> list[Any]:
        while made:
            child, reading = made.pop(0)
            received = b""
            while piece := os.read(reading, 65_536):
                received += piece
            os.close(reading)
            _, status = os.waitpid(child, 0)
            assert received, f"a child ended with status {status}"
            error, result = pickle.loads(received)
            assert error is None, error
            results.append(result)
        return results

    try:
        yield collect
    finally:
        collect()


def _report(work: Callable[[int], Any], number: int, start_reading: int, start_writing: int, writing: int) -> None:
    try:
        os.close(start_writing)
        os.read(start_reading, 1)
        try:
            answer: tuple[str | None, Any] = (None, work(number))
        except BaseException:
            answer = (traceback.format_exc(), None)
        os.write(writing, pickle.dumps(answer))
    finally:
        os._exit(0)
