"""`SQLBackend` on the engines themselves: SQLite, PostgreSQL, MariaDB, through each driver, sync and async."""

import asyncio
import os
import re
import socket
import sqlite3
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import MetaData, NullPool, StaticPool, create_engine, create_mock_engine, event, inspect, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from harness.engines import Database, aiosqlite_ends, database, kind_of, unique_table
from harness.internals import sql_engine_of
from powauth.backends.base import Backend, Record, drive, make_key, make_owner, shard_of
from powauth.backends.sql import SQLBackend, create_tables, sessions_table
from powauth.errors import ConfigError, StoreUnavailable
from powauth.testing import BackendConformance
from powauth.testing.backend import Scenario

NOW = 1_900_000_000_000
TTL = 1_800_000
OWNER = make_owner("credentials", "42")
PATIENT = timedelta(seconds=60)
"""Seconds: a time limit that only a hang exceeds, on however busy a machine."""


def record(name: bytes = b"a", value: bytes = b"") -> Record:
    return Record(make_key("credentials", shard_of(OWNER) + name), OWNER, 0, NOW, NOW + TTL, value)


class Conformance(BackendConformance):
    """The suite through one driver, in tables of the test class, emptied before each test."""

    driver: str
    contenders = 20

    @pytest.fixture(scope="class")
    @classmethod
    def shared(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, str]]:
        where = database(kind_of(cls.driver), tmp_path_factory.mktemp("sql"))
        table = unique_table()
        yield where, table
        where.drop(table, f"{table}_epochs")

    @pytest.fixture(autouse=True)
    def empty(self, shared: tuple[Database, str]) -> None:
        self.where, self.table = shared
        with self.where.engine() as engine:
            backend = SQLBackend(engine, table=self.table)
            drive(backend.create_tables())
            with engine.begin() as connection:
                for table in backend.tables:
                    connection.execute(table.delete())

    def make_backend(self) -> Backend:
        return SQLBackend(self.where.through(self.driver), table=self.table, timeout=PATIENT)

    def second(self, backend: Backend) -> Backend:
        return self.make_backend()

    def make_unreachable(self) -> Backend:
        url = make_url(self.where.through(self.driver))
        if self.where.kind != "sqlite":
            return SQLBackend(url.set(port=1).render_as_string(hide_password=False), table=self.table)
        missing = url.set(database="/nonexistent/sessions.db")
        return SQLBackend(create_engine(missing) if self.driver == "sqlite" else create_async_engine(missing))

    async def break_engine(self, backend: Backend) -> None:
        await self._rename(backend, "", "_away")

    async def mend_engine(self, backend: Backend) -> None:
        await self._rename(backend, "_away", "")

    async def _rename(self, backend: Backend, before: str, after: str) -> None:
        def rename() -> None:
            with self.where.engine() as engine, engine.begin() as connection:
                for table in (self.table, f"{self.table}_epochs"):
                    connection.execute(text(f"ALTER TABLE {table}{before} RENAME TO {table}{after}"))

        # The event loop goes on meanwhile: a connection that is being closed may need it to let go of a lock.
        if backend.mode == "async":
            await asyncio.to_thread(rename)
        else:
            rename()


class TestSQLite(Conformance):
    driver = "sqlite"


class TestAiosqlite(Conformance):
    driver = "aiosqlite"

    def run_on(self, make: Callable[[], Backend | Awaitable[Backend]], scenario: Scenario, dispose: Scenario) -> None:
        async def dispose_and_wait(backend: Backend) -> None:
            await dispose(backend)
            await aiosqlite_ends()

        super().run_on(make, scenario, dispose_and_wait)


class TestPsycopg(Conformance):
    driver = "psycopg"


class TestPsycopgAsync(Conformance):
    driver = "psycopg_async"


class TestAsyncpg(Conformance):
    driver = "asyncpg"


class TestPyMySQL(Conformance):
    driver = "pymysql"


class TestMariaDBPyMySQL(Conformance):
    driver = "mariadb_pymysql"


class TestAsyncmy(Conformance):
    driver = "asyncmy"


class TestSerializable(Conformance):
    """An app's engine on a server whose default isolation is the strictest: what fails to serialise is tried again."""

    driver = "psycopg"
    contenders = 8

    def make_backend(self) -> Backend:
        level = {"options": "-c default_transaction_isolation=serializable"}
        self.engine = create_engine(self.where.through("psycopg"), connect_args=level)
        return SQLBackend(self.engine, table=self.table, timeout=PATIENT)

    async def dispose(self, backend: Backend) -> None:
        await backend.close()
        self.engine.dispose()

    def second(self, backend: Backend) -> Backend:
        return SQLBackend(self.where.through("psycopg"), table=self.table, timeout=PATIENT)


class TestAppsMariaDB(Conformance):
    """An app's plain engine on MariaDB, with transactions of its own."""

    driver = "mariadb_pymysql"
    contenders = 8

    def make_backend(self) -> Backend:
        self.engine = create_engine(self.where.through(self.driver))
        return SQLBackend(self.engine, table=self.table, timeout=PATIENT)

    async def dispose(self, backend: Backend) -> None:
        await backend.close()
        self.engine.dispose()

    def second(self, backend: Backend) -> Backend:
        return SQLBackend(create_engine(self.engine.url, poolclass=NullPool), table=self.table, timeout=PATIENT)

    def make_unreachable(self) -> Backend:
        return SQLBackend(create_engine(make_url(self.where.through(self.driver)).set(port=1)), table=self.table)


class TestAppsPsycopg2(TestAppsMariaDB):
    """An app's plain engine with a driver for which powauth makes none."""

    driver = "psycopg2"


class TestAppsSQLite(Conformance):
    """An app's engine on SQLite whose hooks begin every transaction, as SQLAlchemy's manual advises."""

    driver = "sqlite"
    contenders = 8

    def make_backend(self) -> Backend:
        self.engine = create_engine(self.where.through("sqlite"), connect_args={"timeout": PATIENT.total_seconds()})

        def connect(connection: Any, _: object) -> None:
            connection.isolation_level = None

        event.listen(self.engine, "connect", connect)
        event.listen(self.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        return SQLBackend(self.engine, table=self.table, timeout=PATIENT)

    async def dispose(self, backend: Backend) -> None:
        await backend.close()
        self.engine.dispose()

    def second(self, backend: Backend) -> Backend:
        return SQLBackend(self.where.through("sqlite"), table=self.table, timeout=PATIENT)


# Construction


@pytest.mark.parametrize(
    ("url", "extra", "missing"),
    [
        ("sqlite+aiosqlite:///{}/a.db", "async", "aiosqlite"),
        ("sqlite+aiosqlite:///{}/a.db", "async", "greenlet"),
        ("postgresql+psycopg://u:secret@h/d", "postgresql", "psycopg"),
        ("postgresql+psycopg_async://u:secret@h/d", "async,postgresql", "psycopg"),
        ("postgresql+asyncpg://u:secret@h/d", "asyncpg", "asyncpg"),
        ("mariadb+pymysql://u:secret@h/d", "mariadb", "pymysql"),
        ("mysql+asyncmy://u:secret@h/d", "mariadb-async", "asyncmy"),
    ],
)
def test_a_missing_driver_is_named_with_what_installs_it(
    url: str, extra: str, missing: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for loaded in [name for name in sys.modules if name.partition(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError) as caught:
        SQLBackend(url.format(tmp_path))
    assert f"pip install 'powauth[{extra}]'" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ("postgresql+psycopg2://u:secret@h/d", "no settings for 'postgresql+psycopg2'"),
        ("oracle://u:secret@h/d", "no settings for"),
        ("u:secret@h", "cannot be read"),
        ("sqlite://", "memory://"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:///file:x?mode=memory&uri=true", "memory://"),
        ("sqlite:///file:x.db?uri=true", "a plain path"),
        ("sqlite:////nowhere/at/all.db", "No such file"),
        (42, "not int"),
    ],
)
def test_an_engine_that_cannot_serve_is_refused(engine: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        SQLBackend(engine)
    assert "secret" not in str(caught.value)


def test_an_engine_on_sqlite_in_memory_is_refused() -> None:
    engine = create_engine("sqlite://", poolclass=StaticPool)
    with pytest.raises(ConfigError, match="memory"):
        SQLBackend(engine)


def test_an_engine_on_another_database_is_refused() -> None:
    engine = create_mock_engine("mssql+pyodbc://", lambda *_: None)
    with pytest.raises(ConfigError, match="not MockConnection"):
        SQLBackend(engine)  # type: ignore[arg-type]
    sqlite = create_engine("sqlite:///unused.db")
    sqlite.dialect.name = "firebird"
    with pytest.raises(ConfigError, match="not 'firebird'"):
        SQLBackend(sqlite)


def test_sqlite_that_is_too_old_is_refused(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/a.db")
    engine.dialect.dbapi = SimpleNamespace(sqlite_version_info=(3, 34, 1))  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="too old"):
        SQLBackend(engine)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg_async", "asyncpg", "pymysql", "asyncmy"])
@pytest.mark.parametrize("wrong", ["database", "port"])
def test_sto_07_a_connection_that_cannot_be_made_is_unavailability(driver: str, wrong: str, tmp_path: Path) -> None:
    url = make_url(database(kind_of(driver), tmp_path).through(driver))
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    url = url.set(database=unique_table()) if wrong == "database" else url.set(host="127.0.0.1", port=port)

    async def scenario() -> None:
        backend = SQLBackend(url.render_as_string(hide_password=False), timeout=PATIENT)
        with pytest.raises(StoreUnavailable) as caught:
            await backend.get(b"credentials:", NOW)
        assert caught.value.__cause__ is not None
        await backend.close()

    if driver in {"psycopg", "pymysql"}:
        drive(scenario())
    else:
        asyncio.run(scenario())


@pytest.mark.parametrize("timeout", [timedelta(0), timedelta(seconds=-1), timedelta(hours=2)])
def test_a_timeout_out_of_range_is_refused(timeout: timedelta, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="timeout must be more than zero and at most 1:00:00"):
        SQLBackend(f"sqlite:///{tmp_path}/a.db", timeout=timeout)


@pytest.mark.parametrize("timeout", [5, 0.5, float("nan"), True, "5", None])
def test_a_timeout_is_a_timedelta(timeout: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="timeout must be a timedelta"):
        SQLBackend(f"sqlite:///{tmp_path}/a.db", timeout=timeout)  # type: ignore[arg-type]


@pytest.mark.parametrize("table", ["", "a b", "a;--", "1a", "a" * 41, "ä", "a\n"])
def test_a_table_name_that_is_none_is_refused(table: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="table must be"):
        SQLBackend(f"sqlite:///{tmp_path}/a.db", table=table)


def test_the_mode_follows_the_engine(tmp_path: Path) -> None:
    assert SQLBackend(f"sqlite:///{tmp_path}/a.db", timeout=timedelta(seconds=1)).mode == "blocking"
    assert SQLBackend(f"sqlite+aiosqlite:///{tmp_path}/a.db").mode == "async"
    assert SQLBackend(create_engine(f"sqlite:///{tmp_path}/a.db")).mode == "blocking"
    assert SQLBackend(create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/a.db")).mode == "async"


def test_a_sqlite_file_is_made_behind_a_link_and_not_in_place_of_a_folder(tmp_path: Path) -> None:
    link = tmp_path / "link.db"
    link.symlink_to(tmp_path / "target.db")
    SQLBackend(f"sqlite:///{link}")
    assert (tmp_path / "target.db").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="must be one that this process may read and write"):
        SQLBackend(f"sqlite:///{tmp_path}")
    with pytest.raises(ConfigError, match="No such file or directory"):
        SQLBackend(f"sqlite:///{tmp_path}/no/such/folder.db")


def test_sqlite_files_belong_to_their_owner_alone_and_are_durable(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    mask = os.umask(0)
    try:
        backend = SQLBackend(f"sqlite:///{path}")
        drive(backend.create_tables())
        assert {each.name: each.stat().st_mode & 0o777 for each in tmp_path.iterdir()} == {
            "sessions.db": 0o600,
            "sessions.db-wal": 0o600,
            "sessions.db-shm": 0o600,
        }
    finally:
        os.umask(mask)
    with sql_engine_of(backend).connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 5000
    drive(backend.close())


def test_an_engine_of_the_app_stays_open_and_keeps_its_isolation(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/a.db")
    backend = SQLBackend(engine)
    drive(backend.create_tables())
    drive(backend.close())
    with engine.connect() as connection:
        connection.execute(text("CREATE TABLE other (a INTEGER)"))
        connection.execute(text("INSERT INTO other VALUES (1)"))
        connection.rollback()
        assert connection.execute(text("SELECT count(*) FROM other")).scalar() == 0
    engine.dispose()


# Tables


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb"])
def test_workers_that_start_at_once_create_the_tables_once(kind: str, tmp_path: Path) -> None:
    where = database(kind, tmp_path)
    name = unique_table()
    barrier = threading.Barrier(6)

    def start(number: int) -> None:
        with where.engine() as engine:
            backend = SQLBackend(engine, table=name, timeout=PATIENT)
            barrier.wait()
            if number % 2:
                drive(backend.create_tables())
            else:
                create_tables(engine, backend.tables)

    try:
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(start, range(6)))
        with where.engine() as engine:
            found = inspect(engine)
            described = sessions_table(MetaData(), name)
            for table in described:
                columns = {column["name"]: column["nullable"] for column in found.get_columns(table.name)}
                assert columns == {column.name: column.nullable for column in table.columns}
                indexes = {index["name"]: index["column_names"] for index in found.get_indexes(table.name)}
                assert indexes == {index.name: [column.name for column in index.columns] for index in table.indexes}
                assert found.get_pk_constraint(table.name)["constrained_columns"] == [next(iter(table.c)).name]
    finally:
        where.drop(name, f"{name}_epochs")


def test_an_apps_own_metadata_describes_the_same_tables(tmp_path: Path) -> None:
    app = MetaData()
    tables = sessions_table(app, "logins", schema="auth")
    assert [table.fullname for table in app.sorted_tables] == ["auth.logins", "auth.logins_epochs"]
    theirs = sessions_table(MetaData())
    engine = create_engine(f"sqlite:///{tmp_path}/a.db")
    theirs.sessions.metadata.create_all(engine)
    backend = SQLBackend(engine)
    assert drive(backend.create(record(), 0, NOW)) is True
    create_tables(engine)  # finds them
    assert drive(backend.get(record().key, NOW)) == record()
    assert tables.sessions.c.keys() == theirs.sessions.c.keys()
    engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_tables_in_a_schema(driver: str, tmp_path: Path) -> None:
    where = database("postgresql", tmp_path)
    schema = unique_table()

    async def scenario() -> None:
        backend = SQLBackend(where.through(driver), schema=schema, timeout=PATIENT)
        await backend.create_tables()
        assert await backend.create(record(), 0, NOW) is True
        assert await backend.purge(10, NOW + TTL) == 1
        assert await backend.delete_owner(OWNER, NOW) == 0
        await backend.close()

    with where.engine() as engine:
        with engine.begin() as connection:
            connection.execute(text(f"CREATE SCHEMA {schema}"))
        try:
            if driver == "asyncpg":
                asyncio.run(scenario())
            else:
                drive(scenario())
        finally:
            with engine.begin() as connection:
                connection.execute(text(f"DROP SCHEMA {schema} CASCADE"))


def test_sto_07_missing_tables_are_unavailability_and_the_error_hides_the_session(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/a.db")  # an app's own, which would show parameters
    backend = SQLBackend(engine)
    secret = b"the" + b" salt"
    with pytest.raises(StoreUnavailable) as caught:
        drive(backend.create(record(value=secret), 0, NOW))
    assert "no such table" in str(caught.value.__cause__)
    assert repr(secret) not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(StoreUnavailable) as caught:
        drive(backend.delete_owner(OWNER, NOW))
    assert "no such table" in str(caught.value.__cause__)
    with engine.connect() as connection, pytest.raises(StoreUnavailable) as caught:
        backend.delete_owner_in(connection, OWNER, NOW)
    assert repr(OWNER) not in "".join(traceback.format_exception(caught.value))
    engine.dispose()


def test_no_statement_reads_all_sessions(sqlite: SQLBackend) -> None:
    sent: list[tuple[str, Any]] = []
    event.listen(
        sql_engine_of(sqlite), "before_cursor_execute", lambda _c, _d, what, values, *_: sent.append((what, values))
    )

    async def every_verb() -> None:
        for epoch in (None, 0, 1):
            await sqlite.create(record(), epoch, NOW)
        await sqlite.get(record().key, NOW)
        await sqlite.update(record(), 0, NOW)
        await sqlite.list(OWNER, NOW)
        for advance in (False, True):
            await sqlite.epoch(OWNER, NOW, advance=advance)
        for keep in (None, record().key):
            await sqlite.delete_owner(OWNER, NOW, keep)
        await sqlite.delete(record().key, NOW)
        await sqlite.purge(10, NOW)
        await sqlite.scan("credentials", None, 10, NOW)
        await sqlite.count("credentials", NOW)

    drive(every_verb())
    statements = [each for each in sent if each[0].split()[0] in {"SELECT", "INSERT", "UPDATE", "DELETE"}]
    assert len(statements) == 17
    with sql_engine_of(sqlite).connect() as connection:
        for statement, values in statements:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
            assert not any(step[3].startswith("SCAN powauth") for step in plan), (statement, plan)


# Rows


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[SQLBackend]:
    backend = SQLBackend(f"sqlite:///{tmp_path}/rows.db", timeout=PATIENT)
    drive(backend.create_tables())
    yield backend
    drive(backend.close())


@pytest.mark.parametrize(
    ("column", "planted"),
    [
        ("value", "text"),
        ("value", 5),
        ("owner", "text"),
        ("version", "text"),
        ("version", b"blob"),
        ("created_at", 1.5),
        ("expires_at", "text"),
    ],
)
def test_sto_02_a_row_of_other_types_is_a_miss(sqlite: SQLBackend, column: str, planted: object) -> None:
    for name in (b"bad", b"good"):
        assert drive(sqlite.create(record(name), 0, NOW))
    with sql_engine_of(sqlite).connect() as connection:
        connection.exec_driver_sql(
            f"UPDATE powauth_sessions SET {column} = ? WHERE key = ?", (planted, record(b"bad").key)
        )
    assert drive(sqlite.get(record(b"bad").key, NOW)) is None
    assert drive(sqlite.list(OWNER, NOW)) == [record(b"good")]
    assert drive(sqlite.scan("credentials", None, 10, NOW)).records == [record(b"good")]
    assert drive(sqlite.delete(record(b"bad").key, NOW)) is (column != "expires_at")
    assert drive(sqlite.delete_owner(OWNER, NOW)) == 1


@pytest.mark.parametrize(
    "driver", ["sqlite", "aiosqlite", "psycopg", "psycopg_async", "asyncpg", "pymysql", "mariadb_pymysql", "asyncmy"]
)
def test_sto_09_names_are_compared_byte_by_byte(driver: str, tmp_path: Path) -> None:
    where = database(kind_of(driver), tmp_path)
    table = unique_table()
    name = b"Ab\x7f\xe4"
    others = [b"ab\x7f\xe4", b"AB\x7f\xe4", name + b" ", name + b"\x00", name[:-1], b"Ab\x7f\xed\xa0\x80", b" " + name]
    others += [b"' OR 1=1--", b"%", b"_", b"Ab%", b"\\", b"", bytes(range(256))]

    async def scenario() -> None:
        backend = SQLBackend(where.through(driver), table=table, timeout=PATIENT)
        await backend.create_tables()
        mine = make_owner("credentials", "Ann")
        new = Record(make_key("credentials", name), mine, 0, NOW, NOW + TTL, bytes(range(256)))
        assert await backend.create(new, 0, NOW)
        for other in others:
            key = make_key("credentials", other)
            assert await backend.get(key, NOW) is None
            assert await backend.update(Record(key, mine, 1, NOW, NOW + TTL, b""), 0, NOW) is False
            assert await backend.delete(key, NOW) is False
        for other in (b"credentials:ann", b"credentials:Ann ", b"credentials:Ann\x00", b"credentials:' OR 1=1--"):
            assert await backend.list(other, NOW) == []
            assert await backend.delete_owner(other, NOW) == 0
        assert await backend.get(new.key, NOW) == new
        await backend.close()

    try:
        if "async" in driver or driver == "aiosqlite":
            asyncio.run(scenario())
        else:
            drive(scenario())
    finally:
        where.drop(table, f"{table}_epochs")


def test_a_key_or_owner_that_no_column_holds_is_refused(sqlite: SQLBackend) -> None:
    long = Record(b"credentials:" + b"x" * 400, OWNER, 0, NOW, NOW + TTL, b"")
    with pytest.raises(StoreUnavailable, match="longer than 320"):
        drive(sqlite.create(long, None, NOW))


def test_a_cursor_of_another_namespace_is_refused(sqlite: SQLBackend) -> None:
    for name in (b"a", b"b"):
        assert drive(sqlite.create(record(name), None, NOW))
    cursor = drive(sqlite.scan("credentials", None, 1, NOW)).cursor
    assert cursor is not None
    with pytest.raises(ValueError, match="not one that a page of this namespace"):
        drive(sqlite.scan("admins", cursor, 1, NOW))
    with pytest.raises(ValueError):
        drive(sqlite.scan("credentials", "not hexadecimal", 1, NOW))


# MariaDB


@pytest.fixture
def maria(tmp_path: Path) -> Iterator[tuple[Database, str]]:
    where = database("mariadb", tmp_path)
    table = unique_table()
    with where.engine() as engine:
        drive(SQLBackend(engine, table=table).create_tables())
    yield where, table
    where.drop(table, f"{table}_epochs")


def test_on_mariadb_the_quicker_one_takes_the_place_of_an_expired_record(maria: tuple[Database, str]) -> None:
    where, table = maria
    slow, quick = (SQLBackend(where.through("pymysql"), table=table, timeout=PATIENT) for _ in range(2))
    assert drive(slow.create(record(), None, NOW - 2 * TTL)) is True
    now = NOW + TTL
    winner = Record(record().key, OWNER, 0, now, now + TTL, b"winner")
    inserts = 0

    def before(_c: object, _d: object, statement: str, *_: object) -> None:
        nonlocal inserts
        inserts += statement.startswith(f"INSERT INTO {table} ")
        if inserts == 2:
            inserts += 1
            assert drive(quick.create(winner, None, now)) is True

    event.listen(sql_engine_of(slow), "before_cursor_execute", before)
    assert drive(slow.create(Record(record().key, OWNER, 0, now, now + TTL, b"loser"), None, now)) is False
    assert drive(quick.get(record().key, now)) == winner
    for backend in (slow, quick):
        drive(backend.close())


def test_on_mariadb_a_purge_may_remove_the_expired_record_first(maria: tuple[Database, str]) -> None:
    where, table = maria
    slow, quick = (SQLBackend(where.through("pymysql"), table=table, timeout=PATIENT) for _ in range(2))
    assert drive(slow.create(record(), None, NOW - 2 * TTL)) is True
    now = NOW + TTL
    new = Record(record().key, OWNER, 0, now, now + TTL, b"new")
    purged = []

    def before(_c: object, _d: object, statement: str, *_: object) -> None:
        if statement.startswith(f"DELETE FROM {table} "):
            purged.append(drive(quick.purge(10, now)))

    event.listen(sql_engine_of(slow), "before_cursor_execute", before)
    assert drive(slow.create(new, None, now)) is True
    assert purged == [1]
    assert drive(quick.get(record().key, now)) == new
    for backend in (slow, quick):
        drive(backend.close())


def test_mysql_is_refused(maria: tuple[Database, str]) -> None:
    where, table = maria
    backend = SQLBackend(where.through("pymysql"), table=table, timeout=PATIENT)
    assert drive(backend.get(b"credentials:", NOW)) is None
    sql_engine_of(backend).dialect.is_mariadb = False  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="not MySQL"):
        drive(backend.get(b"credentials:", NOW))
    drive(backend.close())


def test_sto_09_asyncmy_is_refused_in_the_mode_for_which_it_does_not_escape(maria: tuple[Database, str]) -> None:
    where, table = maria
    mode = {"init_command": "SET SESSION sql_mode='NO_BACKSLASH_ESCAPES'"}

    async def scenario() -> None:
        engine = create_async_engine(where.through("asyncmy"), connect_args=mode)
        async with engine.connect() as connection:
            # Why: what is bound leaves its quotes.
            with pytest.raises(DBAPIError):
                await connection.execute(text("SELECT :name"), {"name": b"'"})
        backend = SQLBackend(engine, table=table, timeout=PATIENT)
        with pytest.raises(ConfigError, match="NO_BACKSLASH_ESCAPES"):
            await backend.get(b"credentials:'", NOW)
        await engine.dispose()

    asyncio.run(scenario())


def test_asyncmy_is_not_given_the_time_limit_with_which_it_misses_replies(maria: tuple[Database, str]) -> None:
    """With ``read_timeout`` asyncmy 0.2.13 misses some on Python 3.11, and waits until the server gives up."""
    where, table = maria
    given: list[dict[str, Any]] = []

    async def scenario() -> None:
        backend = SQLBackend(where.through("asyncmy"), table=table, timeout=PATIENT)
        event.listen(sql_engine_of(backend), "do_connect", lambda _d, _r, _arguments, named: given.append(dict(named)))
        assert await backend.get(record().key, NOW) is None
        await backend.close()

    asyncio.run(scenario())
    assert [("connect_timeout" in each, "read_timeout" in each) for each in given] == [(True, False)]


@pytest.mark.parametrize("driver", ["sqlite", "sqlite+aiosqlite"])
def test_a_write_that_failed_leaves_no_lock_on_the_file(driver: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        backend = SQLBackend(f"{driver}:///{tmp_path}/sessions.db")
        await backend.create_tables()
        other = sqlite3.connect(tmp_path / "sessions.db", timeout=0, isolation_level=None)
        other.execute("ALTER TABLE powauth_sessions RENAME TO away")
        kept = []  # an error keeps the cursor that raised it
        for _ in range(5):
            with pytest.raises(StoreUnavailable) as caught:
                await backend.delete_owner(OWNER, NOW)
            kept.append(caught)
            other.execute("BEGIN IMMEDIATE")
            other.execute("ROLLBACK")
        other.close()
        await backend.close()

    asyncio.run(scenario())
