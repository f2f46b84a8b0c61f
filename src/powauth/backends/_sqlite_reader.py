"""The fast read of one record on SQLite, beside SQLAlchemy and its pool. `powauth.backends.sql` uses it.

In WAL mode a reader waits neither for the writer nor for other readers, and there is no network. So an event loop can
read a record itself, in the time of a few function calls. A worker thread would cost ten times as much.

Steps that could wait still run in such a thread: it opens the connections, and checks that each reads in WAL mode. A
read never waits for a connection. If anything goes wrong, `powauth.backends.sql` reads in its usual way, with its time
limits and errors. A read can still wait for a page from the disk, as with any file. After the crash of a process that
wrote, one read also recovers the write-ahead log.

Each statement is its own transaction and sees the last commit of any process. Nothing is cached.
"""

import contextlib
import threading
from collections import deque
from time import monotonic
from typing import Any, NamedTuple

from powauth import _forks
from powauth.backends._sql_engine import POOL_RECYCLE_SECONDS
from powauth.backends._sql_statements import Statement
from powauth.backends.base import Millis

# isort: split
# The modules above say what to install where SQLAlchemy is missing.
from sqlalchemy import Engine, NullPool, QueuePool, event
from sqlalchemy.exc import SQLAlchemyError

MAX_IDLE = 16
"""The most idle connections. This many threads can read at once. Further ones read in the usual way."""

Rows = list[tuple[Any, ...]]


class Opened(NamedTuple):
    """A connection of the driver, and the time when it must be replaced (by the monotonic clock)."""

    connection: Any
    until: float


class SQLiteReader:
    """Read-only connections that an engine has made and that were detached from its pool.

    Args:
        engine: the engine of a SQLite file for which `suits` is true. Disposing of it closes the connections.
        statement: a ``SELECT`` of at most one row with the parameters ``p_key`` and ``p_now``, in this order.
    """

    def __init__(self, engine: Engine, statement: Statement) -> None:
        compiled: Any = statement.executable.compile(dialect=engine.dialect)  # type: ignore[attr-defined]
        assert compiled.positiontup == ["p_key", "p_now"]  # noqa: S101 otherwise the parameters would be swapped
        self._sql = str(compiled)
        self._engine = engine
        self._error: type[Exception] = engine.dialect.loaded_dbapi.Error
        # Any thread appends and pops: each is atomic.
        self._idle: deque[Opened] = deque()
        self._retired: deque[Opened] = deque()
        self._tried = False
        self._closed = False
        event.listen(engine, "engine_disposed", lambda _engine: self.drain())
        _forks.on_fork(self, SQLiteReader.drain)

    @staticmethod
    def suits(engine: Engine) -> bool:
        """Return whether the engine's connections can leave its pool and work the same without it."""
        return (
            engine.dialect.driver == "pysqlite"
            and isinstance(engine.pool, QueuePool | NullPool)
            and "schema_translate_map" not in engine.get_execution_options()
        )

    @property
    def _observed(self) -> bool:
        """True if a listener wants to see each statement. SQLAlchemy must then execute it."""
        dispatch = self._engine.dispatch
        return bool(dispatch.before_cursor_execute or dispatch.after_cursor_execute)

    def read(self, key: bytes, now: Millis) -> Rows | None:
        """Return the rows, or ``None`` if no connection is ready: then read in the usual way and call `prepare`."""
        _forks.check()
        if self._observed:
            return None
        try:
            opened = self._idle.pop()
        except IndexError:
            return None
        if monotonic() > opened.until:
            self._put(self._retired, opened)
            return None
        try:
            # Fetch all rows, though there is at most one: a statement keeps its snapshot until it is exhausted.
            rows: Rows = opened.connection.execute(self._sql, (key, now)).fetchall()
        except self._error:
            self._put(self._retired, opened)
            return None
        self._put(self._idle, opened)
        return rows

    def prepare(self) -> bool:
        """Open a connection for the next read. This may wait. Return ``False`` if the engine is not suitable."""
        # Close them here, not at the read: the last connection to close writes the log back into the file.
        self._close_all(self._retired)
        if self._closed or self._observed or self._engine.echo or len(self._idle) >= MAX_IDLE:
            return True
        pool = self._engine.pool
        if isinstance(pool, QueuePool) and pool.checkedout() >= pool.size():
            return True  # leave the rest of the pool to others
        try:
            pooled = self._engine.raw_connection()
            connection: Any = pooled.dbapi_connection
            pooled.detach()
        except (SQLAlchemyError, OSError):
            return True
        try:
            able = self._make_ready(connection) and (self._tried or self._serves_all_threads(connection))
        except (self._error, RuntimeError):  # the database may be busy, or the process may have no room for a thread
            connection.close()
            return True
        if not able:
            connection.close()
            return False
        self._tried = True
        self._put(self._idle, Opened(connection, monotonic() + POOL_RECYCLE_SECONDS))
        return True

    def _make_ready(self, connection: Any) -> bool:
        """Set up the connection and try it. Return whether it can serve."""
        connection.row_factory = None  # an app's own factory may return something else than a sequence
        ((mode,),) = connection.execute("PRAGMA journal_mode").fetchall()
        connection.execute("PRAGMA query_only=ON")
        connection.execute("PRAGMA busy_timeout=0").fetchall()
        connection.execute(self._sql, (b"", 0)).fetchall()
        # A driver that keeps a transaction open would always show the state at its beginning.
        return bool(mode == "wal") and not connection.in_transaction

    def _serves_all_threads(self, connection: Any) -> bool:
        """Return whether a thread may use and close a connection that another one has opened.

        The app decides by ``check_same_thread``. The driver tells only a thread that tries. So one tries once for all
        connections of the engine. Without this, no other thread could close the connection, and it would stay open.
        """
        refused: list[Exception] = []

        def attempt() -> None:
            try:
                connection.cursor().close()
            except self._error as error:
                refused.append(error)

        thread = threading.Thread(target=attempt, name="powauth-sqlite-threads")
        thread.start()
        thread.join()
        return not refused

    def _put(self, where: deque[Opened], opened: Opened) -> None:
        """Put a connection among the idle or the retired ones. Close it if another thread has closed the reader."""
        where.append(opened)
        if self._closed:
            self.drain()

    def drain(self) -> None:
        """Close the idle connections. Later reads open new ones.

        This also runs in a child: see `powauth.backends._sql_forks`.
        """
        self._close_all(self._idle)
        self._close_all(self._retired)

    def close(self) -> None:
        """Close all connections, and open no more."""
        self._closed = True
        self.drain()

    def _close_all(self, waiting: deque[Opened]) -> None:
        while waiting:
            # Another thread may take the last one.
            with contextlib.suppress(IndexError, self._error):
                waiting.pop().connection.close()
