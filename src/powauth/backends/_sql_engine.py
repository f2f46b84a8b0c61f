"""The engine that `powauth.backends.sql.SQLBackend` makes from a URL: its driver and its time limits.

It has three settings that an engine made by hand often lacks:

- **Autocommit.** Nearly every verb is one statement, so there is no ``BEGIN``, ``COMMIT`` or ``ROLLBACK`` to wait for.
- **Time limits** of one length: on connecting, on a statement (in the server) and on an answer (in the client).
- **No secrets in errors**: SQLAlchemy leaves the parameters out of its messages and logs.
"""

import asyncio
import contextlib
import math
import os
from collections.abc import Callable, Generator
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from selectors import DefaultSelector
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from uuid import uuid4

from powauth._extras import needs
from powauth.backends._sql_drivers import with_driver
from powauth.errors import ConfigError, StoreMissing

with needs("users", "SQLBackend", "sqlalchemy"):
    from sqlalchemy import URL, Engine, create_engine, event, make_url
    from sqlalchemy.exc import ArgumentError

if TYPE_CHECKING:
    from psycopg.abc import PQGen
    from psycopg.pq.abc import PGconn
    from sqlalchemy.engine.interfaces import DBAPIConnection
    from sqlalchemy.ext.asyncio import AsyncEngine

T = TypeVar("T")

POOL_RECYCLE_SECONDS = 300
"""The age at which a pooled connection is replaced. Firewalls and servers drop idle ones after about ten minutes."""


class Driver(NamedTuple):
    """A driver that a URL may name.

    Attributes:
        extra: the extra that installs it: ``pip install 'powauth[extra]'``.
        arguments: returns the driver's connect arguments for a time limit in seconds.
        options: further arguments of ``create_engine``.
        is_async: whether it needs an ``AsyncEngine``.
        pooled: ``arguments`` for a pooler in transaction mode; ``None`` if no such arguments are known to work.
    """

    extra: str
    arguments: Callable[[float], dict[str, Any]]
    options: dict[str, Any]
    is_async: bool
    pooled: Callable[[float], dict[str, Any]] | None = None


def _sqlite(seconds: float) -> dict[str, Any]:
    return {"timeout": seconds}


def _libpq(seconds: float) -> dict[str, Any]:
    milliseconds = math.ceil(seconds * 1000)
    return {
        "connect_timeout": max(2, math.ceil(seconds)),  # libpq takes whole seconds, at least two
        "options": f"-c statement_timeout={milliseconds} -c default_transaction_isolation=read\\ committed",
        "tcp_user_timeout": milliseconds,
    }


def _asyncpg(seconds: float) -> dict[str, Any]:
    settings = {
        "statement_timeout": str(math.ceil(seconds * 1000)),
        "default_transaction_isolation": "read committed",
    }
    return {"timeout": seconds, "command_timeout": seconds, "server_settings": settings}


# A pooler in transaction mode gives each transaction another connection to the server, and a prepared statement exists
# on one of these only. The pooler refuses settings that are sent while connecting. So the administrator sets the
# server's time limit, and only the client's is set here.


def _libpq_pooled(seconds: float) -> dict[str, Any]:
    arguments = {name: value for name, value in _libpq(seconds).items() if name != "options"}
    return {**arguments, "prepare_threshold": None}


def _asyncpg_pooled(seconds: float) -> dict[str, Any]:
    return {
        "timeout": seconds,
        "command_timeout": seconds,
        "statement_cache_size": 0,
        "prepared_statement_cache_size": 0,
        "prepared_statement_name_func": lambda: f"powauth_{uuid4().hex}",
    }


def _mariadb(seconds: float) -> dict[str, Any]:
    # A strict mode, so that no value is truncated. Without NO_BACKSLASH_ESCAPES, because asyncmy ignores that mode.
    command = (
        f"SET SESSION sql_mode='STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', "
        f"innodb_lock_wait_timeout={math.ceil(seconds)} /*M!100000 , max_statement_time={seconds:f} */"
    )
    return {"connect_timeout": seconds, "init_command": command}


def _pymysql(seconds: float) -> dict[str, Any]:
    # asyncmy gets no `read_timeout`: on Python 3.11 its release 0.2.13 then misses some replies
    # (https://github.com/long2ice/asyncmy/issues/155). The runner limits the time of asynchronous reads.
    return {**_mariadb(seconds), "read_timeout": seconds, "write_timeout": seconds}


DRIVERS = {
    "sqlite": Driver("users", _sqlite, {}, False),
    "sqlite+pysqlite": Driver("users", _sqlite, {}, False),
    "sqlite+aiosqlite": Driver("async", _sqlite, {}, True),
    "postgresql+psycopg": Driver("postgresql", _libpq, {"use_native_hstore": False}, False, _libpq_pooled),
    "postgresql+psycopg_async": Driver("async,postgresql", _libpq, {"use_native_hstore": False}, True, _libpq_pooled),
    "postgresql+asyncpg": Driver("asyncpg", _asyncpg, {}, True, _asyncpg_pooled),
    "mysql+pymysql": Driver("mariadb", _pymysql, {}, False),
    "mariadb+pymysql": Driver("mariadb", _pymysql, {}, False),
    "mysql+asyncmy": Driver("mariadb-async", _mariadb, {}, True),
    "mariadb+asyncmy": Driver("mariadb-async", _mariadb, {}, True),
}
"""The drivers that a URL may name. For any other driver, an app makes the engine itself."""


def is_memory(url: URL) -> bool:
    """Return whether a SQLite URL names a database in memory, which threads cannot share safely."""
    database = url.database or ""
    return database in {"", ":memory:"} or ":memory:" in database or url.query.get("mode") == "memory"


def engine_from_url(url: str, seconds: float) -> "Engine | AsyncEngine":
    """Return an engine for the URL. Its waits end after ``seconds``.

    Options in the URL's query take precedence. ``pooler=transaction`` declares a pooler in transaction mode, such as
    PgBouncer.

    Raises:
        ConfigError: if the URL cannot be read, or its driver is unknown or not installed. The message does not repeat
            the URL, which may hold a password.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigError("the database URL cannot be read: write dialect+driver://user@host/database") from None
    parsed = parsed.set(drivername=with_driver(parsed.drivername))
    driver = DRIVERS.get(parsed.drivername)
    if driver is None:
        meant = "".join(f"did you mean {each}://? " for each in get_close_matches(parsed.drivername, DRIVERS, 1))
        raise ConfigError(
            f"no settings for {parsed.drivername!r}: {meant}use one of {', '.join(DRIVERS)}, "
            "or make the engine yourself"
        )
    defaults = driver.arguments
    if "pooler" in parsed.query:
        if parsed.query["pooler"] != "transaction" or driver.pooled is None:
            raise ConfigError("pooler=transaction is the one value of this option, and is for PostgreSQL")
        parsed, defaults = parsed.difference_update_query(["pooler"]), driver.pooled
    if parsed.get_backend_name() == "sqlite":
        _prepare_file(parsed)
    arguments = {name: value for name, value in defaults(seconds).items() if name not in parsed.query}
    options: dict[str, Any] = {
        "connect_args": arguments,
        "hide_parameters": True,
        "isolation_level": "AUTOCOMMIT",
        "skip_autocommit_rollback": True,
        "pool_timeout": seconds,
        "pool_recycle": POOL_RECYCLE_SECONDS,
        "pool_use_lifo": True,
        **driver.options,
    }
    if "prepared_statement_name_func" in arguments:
        del options["isolation_level"]  # see `powauth.backends._sql_connections.needs_transaction`
    package = parsed.get_driver_name().removesuffix("_async")
    with needs(driver.extra, f"the URL {parsed.drivername}://", package, "greenlet"):
        engine = _create_async(parsed, options) if driver.is_async else create_engine(parsed, **options)
    core = engine if isinstance(engine, Engine) else engine.sync_engine
    if parsed.get_backend_name() == "sqlite":
        event.listen(core, "connect", _sqlite_pragmas)
    elif "psycopg" in parsed.drivername:
        _bound_psycopg(core, seconds, is_async=driver.is_async)
    return engine


def check_exists(url: str) -> None:
    """Refuse the URL of a SQLite file that does not exist. The first statement checks a server.

    Raises:
        StoreMissing: if the file does not exist. `engine_from_url` reports a folder that this process may not read.
    """
    with contextlib.suppress(ArgumentError, PermissionError):
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite" or is_memory(parsed):
            return
        try:
            Path(str(parsed.database)).stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StoreMissing(
                f"there is no SQLite file {parsed.database}: the app creates it, or create-tables does; check the path"
            ) from error


def _create_async(url: URL, options: dict[str, Any]) -> "AsyncEngine":
    import_module("greenlet")  # SQLAlchemy would report it missing only at the first connection
    from sqlalchemy.ext.asyncio import create_async_engine

    return create_async_engine(url, **options)


def _prepare_file(url: URL) -> None:
    """Make the file if there is none, readable only by its owner. SQLite gives the WAL the same mode.

    This never opens an existing file. When a process closes any descriptor of a file, the system drops all locks of
    that process on the file, also those of its open SQLite connections. Another process could then delete the WAL that
    those connections write to, and their commits would be lost.

    Raises:
        ConfigError: if the file cannot be made, or cannot be read and written.
    """
    if is_memory(url):
        raise ConfigError("SQLite in memory cannot be shared by threads: use 'memory://', or give a file")
    path = str(url.database)
    if path.startswith("file:"):
        raise ConfigError("give SQLite a plain path (sqlite:///sessions.db), or make the engine yourself")
    path = os.path.realpath(path)  # O_EXCL makes no file behind a symbolic link
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600))
    except FileExistsError as error:
        if not Path(path).is_file() or not os.access(path, os.R_OK | os.W_OK):
            raise ConfigError(
                "cannot open the SQLite file: it must be one that this process may read and write"
            ) from error
    except OSError as error:
        raise ConfigError(f"cannot open the SQLite file: {error.strerror}") from error


def _sqlite_pragmas(connection: "DBAPIConnection", _: object) -> None:
    try:
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")  # readers and the writer do not wait for each other
        cursor.execute("PRAGMA synchronous=FULL")  # an acknowledged sign-out survives a power cut
        cursor.close()
    except BaseException:
        connection.close()  # the pool does not know it yet, and a connection of aiosqlite has a thread
        raise


def _is_ready(descriptor: int, wanted: int) -> bool:
    """Return whether a socket is ready for what psycopg waits for. Its numbers for that are those of ``selectors``.

    psycopg's own answer does not tell. Before version 3.3, its C code calls the end of a polling interval "ready".
    """
    with DefaultSelector() as selector:
        selector.register(descriptor, wanted)
        return bool(selector.select(0))


def _bound_psycopg(engine: Engine, seconds: float, *, is_async: bool) -> None:
    """Limit the time that psycopg waits for an answer.

    The server's ``statement_timeout`` does not help if the server itself stalls, or the network drops packets.
    """
    import psycopg
    from psycopg import waiting

    def bounded(generator: "PQGen[T]", connection: "PGconn") -> Generator[Any, Any, T]:
        deadline = monotonic() + seconds
        try:
            wanted = next(generator)
            while True:
                ready = yield wanted
                # The driver comes back at its polling interval, a tenth of a second, too.
                if monotonic() > deadline and not _is_ready(connection.socket, wanted):
                    connection.finish()
                    raise psycopg.OperationalError("the server did not answer in time")
                wanted = generator.send(ready)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    class Connection(psycopg.Connection[Any]):
        def wait(self, gen: "PQGen[T]", *args: Any, **kwargs: Any) -> T:
            return super().wait(bounded(gen, self.pgconn), *args, **kwargs)

    class AsyncConnection(psycopg.AsyncConnection[Any]):
        async def wait(self, gen: "PQGen[T]", interval: float = 0.1, timeout: float | None = None) -> T:  # noqa: ASYNC109 psycopg's name
            try:
                return await waiting.wait_async(bounded(gen, self.pgconn), self.pgconn.socket, interval=interval)
            except (asyncio.CancelledError, KeyboardInterrupt):
                # Do not wait until the server confirms the cancellation. Close the connection, so that no later caller
                # can read the answer.
                self.pgconn.finish()
                raise

    def connect(_dialect: object, _record: object, args: list[Any], kwargs: dict[str, Any]) -> "DBAPIConnection | None":
        if is_async:
            kwargs["async_creator_fn"] = AsyncConnection.connect
            return None
        return Connection.connect(*args, **kwargs)  # type: ignore[return-value]

    event.listen(engine, "do_connect", connect)
