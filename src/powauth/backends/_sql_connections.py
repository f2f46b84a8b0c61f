"""Check a pooled connection before its use: the server may have cut it, or it may belong to another event loop.

Servers, firewalls and restarts cut idle connections. A statement that is sent on such a connection fails, and nobody
can tell for certain that it was not executed. So `renew_if_cut` first asks the operating system whether the server
has closed its end. This sends nothing and takes two microseconds.
"""

import asyncio
import contextlib
import select
import socket
from collections.abc import Coroutine
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

from powauth._extras import needs
from powauth._running import shielded
from powauth.errors import ConfigError

with needs("users", "SQLBackend", "sqlalchemy"):
    from sqlalchemy import Connection, Dialect, Engine, NullPool, Pool, QueuePool

T = TypeVar("T")

_HUNG_UP: Final = getattr(select, "POLLRDHUP", 0)
"""The flag for a connection that the other side has closed. Only Linux has it, and reports it only on request."""

_BOUND_TO_A_LOOP: Final = frozenset({"asyncpg", "asyncmy", "aiomysql"})
"""Drivers whose connections work on the event loop that opened them, and on no other."""


async def uncancelled(work: Coroutine[Any, Any, T], dialect: Dialect) -> T:
    """Await work on a connection. On SQLite the work continues to its end even if the caller is cancelled.

    aiosqlite cannot stop a statement. A connection that is closed in the middle of one keeps SQLite's lock until
    Python's garbage collector finds the cursor. Until then nobody else could write.
    """
    return await (shielded(work) if dialect.name == "sqlite" else work)


def renew_if_cut(connection: Connection) -> None:
    """Replace the DBAPI connection by a new one, if the server has closed the old one.

    Call it before the first statement, so that nothing can have been executed.
    """
    if connection.dialect.name == "sqlite":
        return
    pool = connection.engine.pool
    idle = pool.checkedin() if isinstance(pool, QueuePool) else 0
    for _ in range(idle + 1):  # all idle ones may have been cut
        if not _is_cut(connection.connection.driver_connection):
            return
        connection.invalidate()  # the next check takes another connection of the pool, or opens one


def needs_transaction(connection: Connection) -> bool:
    """Return whether each piece of work must be in a transaction, because there is a pooler in transaction mode.

    asyncpg executes a statement in several steps, which must all use one connection of the server. Only a transaction
    prevents the pooler from changing it in between. A function that names each prepared statement, from SQLAlchemy's
    recipe for PgBouncer, shows that there is a pooler.
    """
    if connection.dialect.driver != "asyncpg":
        return False
    name = getattr(connection.connection.dbapi_connection, "_prepared_statement_name_func", None)
    return name is not None and name() is not None


def _is_cut(driver_connection: Any) -> bool:
    descriptor = _descriptor(driver_connection)
    if descriptor is None:
        return False
    if descriptor < 0:
        return True
    if not hasattr(select, "poll"):  # Windows
        return False
    poll = select.poll()
    poll.register(descriptor, _HUNG_UP)
    return bool(poll.poll(0))  # poll always reports hang-ups and errors


def _descriptor(connection: Any) -> int | None:
    """Return the socket's descriptor: -1 if the driver has closed it already, ``None`` if the driver is unknown."""
    with contextlib.suppress(AttributeError):
        closed = connection.closed
        if isinstance(closed, int):  # psycopg; psycopg2 and mysqlclient, whose value is a number
            return -1 if closed else int(connection.fileno())
    transport = getattr(connection, "_transport", None)  # asyncpg and asyncmy
    if transport is not None:
        opened = transport.get_extra_info("socket")
        return -1 if opened is None or transport.is_closing() else int(opened.fileno())
    opened = getattr(connection, "_sock", None)  # PyMySQL
    return int(opened.fileno()) if isinstance(opened, socket.socket) else None


class LoopCheck:
    """Refuses an ``AsyncEngine`` on a second event loop. Its driver would fail there with an obscure error."""

    def __init__(self) -> None:
        self._loops: WeakKeyDictionary[Pool, asyncio.AbstractEventLoop] = WeakKeyDictionary()

    def check(self, engine: Engine) -> None:
        """Note the running loop as the loop of the engine's pool, or compare it with the noted one.

        Raises:
            ConfigError: if the pool was used on another event loop.
        """
        pool = engine.pool
        if engine.dialect.driver not in _BOUND_TO_A_LOOP or isinstance(pool, NullPool):
            return
        running = asyncio.get_running_loop()
        if self._loops.setdefault(pool, running) is not running:
            raise ConfigError(
                f"this {engine.dialect.driver} engine was used on another event loop, and its connections work only "
                "there: dispose of the engine (or close the backend) before that loop ends, make one engine for each "
                "loop, or give the engine poolclass=NullPool. A test client keeps one loop in 'with TestClient(app)'"
            )
