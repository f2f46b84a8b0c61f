"""The databases of the SQL tests. It has the URLs of those that answer. Tests of the others are skipped with advice."""

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import URL, Engine, create_engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from harness.tcp_proxy import Proxy
from powauth.backends.base import drive
from powauth.backends.sql import SQLBackend

DEFAULTS = {
    "postgresql": ("POWAUTH_TEST_POSTGRESQL", "//postgres@127.0.0.1:5432/test"),
    "mariadb": ("POWAUTH_TEST_MARIADB", "//root@127.0.0.1:3306/test"),
}
"""Kind of server to the environment variable that names one (with or without a driver), and where else to look."""

DRIVERS = {
    "sqlite": "sqlite",
    "aiosqlite": "sqlite+aiosqlite",
    "psycopg": "postgresql+psycopg",
    "psycopg_async": "postgresql+psycopg_async",
    "psycopg2": "postgresql+psycopg2",
    "asyncpg": "postgresql+asyncpg",
    "pymysql": "mysql+pymysql",
    "mariadb_pymysql": "mariadb+pymysql",
    "asyncmy": "mariadb+asyncmy",
}
"""A short name for each combination that is tested."""

ASYNC = {"aiosqlite", "psycopg_async", "asyncpg", "asyncmy"}
"""The drivers for event loops."""

NETWORKED = ["psycopg", "psycopg_async", "asyncpg", "mariadb_pymysql", "asyncmy"]
"""The drivers that reach their server over a network."""

SYNC = {"sqlite": "sqlite", "postgresql": "psycopg", "mariadb": "mariadb_pymysql"}
"""Kind of server to the driver that tests use to look behind the backend's back."""


@dataclass(frozen=True)
class Database:
    """A database as one driver sees it; the same ``server`` through another is `through`."""

    kind: str
    server: URL

    def through(self, driver: str) -> str:
        """Its URL for a driver of `DRIVERS`."""
        return self.server.set(drivername=DRIVERS[driver]).render_as_string(hide_password=False)

    @contextmanager
    def engine(self) -> Iterator[Engine]:
        """A plain synchronous engine, as an app would make it."""
        engine = create_engine(self.through(SYNC[self.kind]))
        try:
            yield engine
        finally:
            engine.dispose()

    def drop(self, *tables: str) -> None:
        """Drop tables, if they are there."""
        with self.engine() as engine, engine.begin() as connection:
            for table in tables:
                connection.execute(text(f"DROP TABLE IF EXISTS {table}"))


def kind_of(driver: str) -> str:
    """``sqlite``, ``postgresql`` or ``mariadb``."""
    return DRIVERS[driver].partition("+")[0].replace("mysql", "mariadb")


@cache
def _answers(kind: str) -> tuple[URL, str | None]:
    variable, default = DEFAULTS[kind]
    given = os.environ.get(variable, default)
    driver = DRIVERS[SYNC[kind]]
    url = make_url(f"{driver}:{given}" if given.startswith("//") else given).set(drivername=driver)
    engine = create_engine(url, connect_args={"connect_timeout": 3})
    try:
        with engine.connect():
            return url, None
    except (SQLAlchemyError, OSError) as error:
        reason = str(error).partition("\n")[0]
        return (
            url,
            f"no {kind} at {url.host}:{url.port} ({reason}): start one, or set {variable} to //user@host:port/db",
        )
    finally:
        engine.dispose()


def database(kind: str, directory: Path) -> Database:
    """The database of a kind; skips the test if its server does not answer. SQLite is a new file in the directory."""
    if kind == "sqlite":
        return Database(kind, URL.create("sqlite", database=str(directory / f"{uuid4().hex}.db")))
    url, reason = _answers(kind)
    if reason is not None:
        pytest.skip(reason)
    return Database(kind, url)


def unique_table() -> str:
    """A name that no other test uses."""
    return f"powauth_{uuid4().hex[:12]}"


@contextmanager
def own_database(driver: str) -> Iterator[str]:
    """The URL of a new database with the tables of sessions, for a driver of `DRIVERS`; it is dropped at the end."""
    server, name = database(kind_of(driver), Path()), unique_table()

    def order(words: str) -> None:
        with server.engine() as engine, engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text(f"{words} DATABASE {name}"))

    order("CREATE")
    try:
        own = Database(server.kind, server.server.set(database=name))
        with own.engine() as engine:
            drive(SQLBackend(engine).create_tables())
        yield own.through(driver)
    finally:
        order("DROP")


_never_closed: set[threading.Thread] = set()
"""Threads for which `aiosqlite_ends` has waited in vain."""


async def aiosqlite_ends(patience: float = 60.0) -> None:
    """Wait for the threads of aiosqlite's connections, all of which the caller has closed.

    Nobody awaits the end of the thread of a failed attempt to connect. A thread that outlives the event loop dies of an
    error, which pytest blames on the test that runs by then. One thread fails one test. The next ones do not
    wait for it, because they would all fail.
    """
    for thread in threading.enumerate():
        # Before aiosqlite 0.22 a connection was its own thread.
        is_one = "_connection_worker_thread" in thread.name or type(thread).__module__.startswith("aiosqlite")
        if is_one and thread not in _never_closed:
            await asyncio.to_thread(thread.join, patience)
            if thread.is_alive():
                _never_closed.add(thread)
                raise AssertionError(f"a connection that nobody closed: {thread.name}")


def through_proxy(driver: str, directory: Path, work: Callable[[str, str, Proxy], Coroutine[Any, Any, None]]) -> None:
    """Run ``work`` with the URL of a database behind a proxy, the name of a table that exists there, and the proxy."""
    where = database(kind_of(driver), directory)
    table = unique_table()
    with where.engine() as engine:
        drive(SQLBackend(engine, table=table).create_tables())
    try:
        with Proxy(where.server.host or "127.0.0.1", where.server.port or 0) as proxy:
            url = make_url(where.through(driver)).set(host="127.0.0.1", port=proxy.port)
            coroutine = work(url.render_as_string(hide_password=False), table, proxy)
            if driver in ASYNC:
                asyncio.run(coroutine)
            else:
                drive(coroutine)
    finally:
        where.drop(table, f"{table}_epochs")
