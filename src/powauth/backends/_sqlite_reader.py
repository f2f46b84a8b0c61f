"""The read of an authenticated request on SQLite, beside SQLAlchemy and its pool: `powauth.backends.sql` uses it.

In WAL mode who reads waits neither for the writer nor for others who read, and touches no network. So an event loop can
look a record up itself, in the time of a few function calls, where a worker thread would cost ten times as much. What
could wait all the same is left to such a thread: a connection is opened there, and takes part once it has shown that it
reads in WAL mode; none is waited for; and whatever goes wrong ends in `powauth.backends.sql`'s own way to read, with
its time limits and its errors. What stays is what a read of any file can meet: a page that the system has to fetch from
the disk, and after the crash of a process that wrote, once, the recovery of the write-ahead log.

Each statement is a transaction of its own that sees the last commit of any process: nothing is remembered.
"""

import contextlib
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
"""Connections kept for the next read: as many threads can read at once before one of them takes the longer way."""

Rows = list[tuple[Any, ...]]


class Opened(NamedTuple):
    """A connection of the driver's, and when it has served its time (by the monotonic clock)."""

    connection: Any
    until: float


class SQLiteReader:
    """Connections that only read, made by an engine and taken out of its pool.

    Args:
        engine: of a SQLite file; `suits` says whether it is one for this. Disposing of it closes them.
        statement: a ``SELECT`` of at most one row with the parameters ``p_key`` and ``p_now``, in this order.
    """

    def __init__(self, engine: Engine, statement: Statement) -> None:
        compiled: Any = statement.executable.compile(dialect=engine.dialect)  # type: ignore[attr-defined]
        assert compiled.positiontup == ["p_key", "p_now"]  # noqa: S101 else the wrong things would be compared
        self._sql = str(compiled)
        self._engine = engine
        self._error: type[Exception] = engine.dialect.loaded_dbapi.Error
        # Any thread appends and pops: each is atomic.
        self._idle: deque[Opened] = deque()
        self._retired: deque[Opened] = deque()
        self._closed = False
        event.listen(engine, "engine_disposed", lambda _engine: self.drain())
        _forks.on_fork(self, SQLiteReader.drain)

    @staticmethod
    def suits(engine: Engine) -> bool:
        """Whether the engine's connections may leave its pool, and mean the same without it."""
        return (
            engine.dialect.driver == "pysqlite"
            and isinstance(engine.pool, QueuePool | NullPool)
            and "schema_translate_map" not in engine.get_execution_options()
        )

    @property
    def _observed(self) -> bool:
        """Whether somebody wants to see each statement: then it goes by SQLAlchemy, which tells them."""
        dispatch = self._engine.dispatch
        return bool(dispatch.before_cursor_execute or dispatch.after_cursor_execute)

    def read(self, key: bytes, now: Millis) -> Rows | None:
        """The rows, or ``None`` if they cannot be had at once: ask in the usual way, then `prepare`."""
        _forks.check()
        if self._observed:
            return None
        try:
            opened = self._idle.pop()
        except IndexError:
            return None
        if monotonic() > opened.until:
            self._retired.append(opened)
            return None
        try:
            # All rows, though there is one at most: only a statement that is through lets go of its snapshot.
            rows: Rows = opened.connection.execute(self._sql, (key, now)).fetchall()
        except self._error:
            self._retired.append(opened)
            return None
        self._keep(opened)
        return rows

    def prepare(self) -> bool:
        """Open a connection for the next read, where waiting is allowed; ``False`` if none will ever do here."""
        # Not where they were retired: the last connection to close writes the log back into the file.
        self._close_all(self._retired)
        if self._closed or self._observed or self._engine.echo or len(self._idle) >= MAX_IDLE:
            return True
        pool = self._engine.pool
        if isinstance(pool, QueuePool) and pool.checkedout() >= pool.size():
            return True  # others need what is left more urgently
        try:
            pooled = self._engine.raw_connection()
            connection: Any = pooled.dbapi_connection
            pooled.detach()
        except (SQLAlchemyError, OSError):
            return True
        try:
            able = self._make_ready(connection)
        except self._error:  # busy, perhaps
            connection.close()
            return True
        if not able:
            connection.close()
            return False
        self._keep(Opened(connection, monotonic() + POOL_RECYCLE_SECONDS))
        return True

    def _make_ready(self, connection: Any) -> bool:
        """Set the connection up, and try it; whether it is one for this."""
        connection.row_factory = None  # an app's own may give what is no sequence
        ((mode,),) = connection.execute("PRAGMA journal_mode").fetchall()
        connection.execute("PRAGMA query_only=ON")
        connection.execute("PRAGMA busy_timeout=0").fetchall()
        connection.execute(self._sql, (b"", 0)).fetchall()
        # A driver told to have a transaction open at all times would show the state at its beginning for ever.
        return bool(mode == "wal") and not connection.in_transaction

    def _keep(self, opened: Opened) -> None:
        self._idle.append(opened)
        if self._closed:
            self.drain()

    def drain(self) -> None:
        """Close what is idle; later reads open anew.

        In a child, too: see `powauth.backends._sql_forks`.
        """
        self._close_all(self._idle)
        self._close_all(self._retired)

    def close(self) -> None:
        """Close all, for good."""
        self._closed = True
        self.drain()

    def _close_all(self, waiting: deque[Opened]) -> None:
        while waiting:
            # Another thread may be quicker; and an app's connections may be bound to the thread that opened them.
            with contextlib.suppress(IndexError, self._error):
                waiting.pop().connection.close()
