"""Detect that this process is a child of the one that opened a connection.

A connection must never cross a fork: if parent and child read from one socket, each takes the other's answers.
Python's at-fork hooks cannot prevent that alone, because a server that forks in C (uWSGI) does not run them. So
each object that holds connections, threads or locks registers itself with `on_fork`, and calls `check` each time before
it takes one of them. In a child the first call of `check` releases the parent's objects.

`check` reads a page of memory that the kernel wipes in each child (``MADV_WIPEONFORK``, Linux 4.14). This takes 50 ns.
Elsewhere it compares the process id, which takes 250 ns.
"""

import mmap
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

try:
    from ctypes import py_object, pythonapi
except ImportError:  # pragma: no cover: a Python that was built without libffi
    pythonapi = None  # type: ignore[assignment]

T = TypeVar("T")

_WIPE_ON_FORK: Final = 18
"""Linux's MADV_WIPEONFORK. The module ``mmap`` does not name it."""

_REFUSED: Final = -1
"""An advice value that no kernel knows."""


def wiped_page() -> mmap.mmap | None:
    """Return a page that the kernel wipes in each child, or ``None`` if this system has no such page."""
    if sys.platform != "linux":
        return None
    page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # Some emulators accept every advice and ignore it. They would accept this one, too.
    return page if not _accepts(page, _REFUSED) and _accepts(page, _WIPE_ON_FORK) else None


def _accepts(page: mmap.mmap, advice: int) -> bool:
    try:
        page.madvise(advice)
    except OSError:
        return False
    return True


_page = wiped_page()
_process = os.getpid()
"""The process that released everything, or the first one."""

_registered: WeakKeyDictionary[Any, Callable[[Any], None]] = WeakKeyDictionary()

_locks: dict[int, threading.RLock] = {}
"""One lock for each process id: a child cannot use its parent's, which a thread may have held during the fork."""

_releasing: int | None = None
"""The process whose release is under way."""

_parents: list[object] = []
"""Objects of the parent that this process neither uses nor closes."""


def check() -> None:
    """Release the parent's objects, if this process is a child that has not done so yet.

    Call it before each use of a connection, a thread, or a lock that is kept from one call to the next.
    """
    if os.getpid() != _process if _page is None else not _page[0]:
        _release()


def on_fork(thing: T, release: Callable[[T], None]) -> None:
    """Have ``release(thing)`` called once in each child, for as long as ``thing`` lives.

    If the release of one thing raises an error, `check` raises it, and the next `check` releases all things again.
    """
    check()
    with _lock():
        _registered[thing] = release


def keep(*things: object) -> None:
    """Keep objects of the parent until the process has ended.

    Closing or deleting one could send a message to the server over the parent's socket. At its exit Python deletes the
    objects that modules hold, so the list of these objects gets one reference that is never released.
    """
    if not _parents and pythonapi is not None:
        pythonapi.Py_IncRef(py_object(_parents))
    _parents.extend(things)


def _lock() -> threading.RLock:
    return _locks.setdefault(os.getpid(), threading.RLock())


def _release() -> None:
    global _process, _releasing  # noqa: PLW0603
    with _lock():
        here = os.getpid()
        done = here == _process if _page is None else bool(_page[0])  # by another thread of this child
        if done or _releasing == here:
            return
        _releasing = here
        try:
            for thing, release in list(_registered.items()):
                release(thing)
        finally:
            _releasing = None
        _process = here
        if _page is not None:
            _page[0] = 1


if _page is not None:
    _page[0] = 1

if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=check)
