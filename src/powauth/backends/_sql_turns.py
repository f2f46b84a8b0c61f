"""Borrow a connection of an engine. If all threads and tasks share one connection, they take turns.

SQLAlchemy's ``StaticPool`` has one connection, and ``create_async_engine`` chooses this pool for an SQLite database in
memory. A connection has one transaction. SQLAlchemy rolls it back after each use, so without turns the end of a read
would undo what another thread has written and not yet committed: a user who registers, or the end of a key.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from powauth import _forks
from powauth._extras import needs

with needs("users", "SQLBackend", "sqlalchemy"):
    from sqlalchemy import Connection, Engine, Pool, StaticPool

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_Tasks = WeakKeyDictionary[Pool, asyncio.Lock]


class _Turns:
    """One lock for each pool with one connection: for threads, or for the tasks of an event loop.

    The lock of a thread lets the same thread in again, because the app's listeners may call powauth.
    """

    def __init__(self) -> None:
        self._reset()
        _forks.on_fork(self, _Turns._reset)

    def _reset(self) -> None:
        self._guard = threading.Lock()
        self._threads: WeakKeyDictionary[Pool, threading.RLock] = WeakKeyDictionary()
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Tasks] = WeakKeyDictionary()

    def of_threads(self, pool: Pool) -> threading.RLock:
        with self._guard:
            return self._threads.setdefault(pool, threading.RLock())

    def of_tasks(self, pool: Pool) -> asyncio.Lock:
        with self._guard:
            tasks = self._loops.setdefault(asyncio.get_running_loop(), WeakKeyDictionary())
            return tasks.setdefault(pool, asyncio.Lock())


_turns = _Turns()


def connection_of(engine: Engine) -> AbstractContextManager[Connection]:
    """Borrow a connection. First call `powauth._forks.check`: in a child, nobody releases the parent's locks."""
    return _in_turn(engine) if isinstance(engine.pool, StaticPool) else engine.connect()


def async_connection_of(engine: "AsyncEngine") -> "AbstractAsyncContextManager[AsyncConnection]":
    """Borrow a connection on the running event loop. First call `powauth._forks.check`, as for `connection_of`."""
    return _async_in_turn(engine) if isinstance(engine.pool, StaticPool) else engine.connect()


@contextmanager
def _in_turn(engine: Engine) -> Iterator[Connection]:
    with _turns.of_threads(engine.pool), engine.connect() as connection:
        yield connection


@asynccontextmanager
async def _async_in_turn(engine: "AsyncEngine") -> "AsyncIterator[AsyncConnection]":
    async with _turns.of_tasks(engine.pool), engine.connect() as connection:
        yield connection
