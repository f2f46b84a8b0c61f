"""`SQLBackend` behind PgBouncer in transaction mode: the whole suite with its races, and the reason where it cannot."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import Engine, NullPool, create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from harness.engines import Database, database, unique_table
from harness.pgbouncer import PgBouncer, needs_pgbouncer, own_pgbouncer
from powauth.backends.base import Backend, Record, drive, make_key, make_owner, shard_of
from powauth.backends.sql import SQLBackend
from powauth.errors import ConfigError, StoreUnavailable
from powauth.testing import BackendConformance

pytestmark = needs_pgbouncer

NOW = 1_900_000_000_000
TTL = 1_800_000
OWNER = make_owner("credentials", "42")
PATIENT = timedelta(seconds=60)
ASYNC = {"psycopg_async", "asyncpg"}

Made = Engine | AsyncEngine | str


def record(name: bytes = b"a", version: int = 0) -> Record:
    return Record(make_key("credentials", shard_of(OWNER) + name), OWNER, version, NOW, NOW + TTL, b"value")


def by_url(driver: str) -> Callable[[PgBouncer], Made]:
    return lambda pooler: f"{pooler.url(driver)}?pooler=transaction"


def psycopg_engine(pooler: PgBouncer) -> Engine:
    return create_engine(pooler.url("psycopg"), connect_args={"prepare_threshold": None})


def psycopg_async_engine(pooler: PgBouncer) -> AsyncEngine:
    return create_async_engine(pooler.url("psycopg_async"), connect_args={"prepare_threshold": None})


def asyncpg_recipe(pooler: PgBouncer) -> AsyncEngine:
    """SQLAlchemy's recipe, as its page on asyncpg has it."""
    return create_async_engine(
        pooler.url("asyncpg"),
        poolclass=NullPool,
        connect_args={
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"__asyncpg_{uuid4()}__",
        },
    )


class Conformance(BackendConformance):
    """The suite through a pooler, in tables of the test class, emptied before each test."""

    make: Callable[[PgBouncer], Made]
    contenders = 20

    @pytest.fixture(scope="class")
    @classmethod
    def shared(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[PgBouncer, Database, str]]:
        where = database("postgresql", tmp_path_factory.mktemp("sql"))
        table = unique_table()
        with own_pgbouncer(where) as pooler:
            yield pooler, where, table
        where.drop(table, f"{table}_epochs")

    @pytest.fixture(autouse=True)
    def empty(self, shared: tuple[PgBouncer, Database, str]) -> Iterator[None]:
        self.pooler, self.where, self.table = shared
        self.engines: list[Engine] = []
        with self.where.engine() as engine:
            backend = SQLBackend(engine, table=self.table)
            drive(backend.create_tables())
            with engine.begin() as connection:
                for table in backend.tables:
                    connection.execute(table.delete())
        yield
        for each in self.engines:
            each.dispose()

    def make_backend(self) -> Backend:
        made = type(self).make(self.pooler)
        if isinstance(made, Engine):
            self.engines.append(made)
        return SQLBackend(made, table=self.table, timeout=PATIENT)

    def second(self, backend: Backend) -> Backend:
        return self.make_backend()

    def make_unreachable(self) -> Backend:
        return SQLBackend("postgresql+psycopg://127.0.0.1:1/test?pooler=transaction", table=self.table)

    async def break_engine(self, backend: Backend) -> None:
        self._rename("", "_away")

    async def mend_engine(self, backend: Backend) -> None:
        self._rename("_away", "")

    def _rename(self, before: str, after: str) -> None:
        with self.where.engine() as engine, engine.begin() as connection:
            for table in (self.table, f"{self.table}_epochs"):
                connection.execute(text(f"ALTER TABLE {table}{before} RENAME TO {table}{after}"))


class TestPsycopgByUrl(Conformance):
    make = staticmethod(by_url("psycopg"))


class TestPsycopgAsyncByUrl(Conformance):
    make = staticmethod(by_url("psycopg_async"))


class TestAsyncpgByUrl(Conformance):
    make = staticmethod(by_url("asyncpg"))


class TestPsycopgEngine(Conformance):
    make = staticmethod(psycopg_engine)


class TestAsyncpgRecipe(Conformance):
    make = staticmethod(asyncpg_recipe)


# Many clients at once, on few connections of the server


@pytest.fixture
def pooler(tmp_path: Path) -> Iterator[PgBouncer]:
    with own_pgbouncer(database("postgresql", tmp_path)) as pooler:
        yield pooler


@pytest.fixture
def table(tmp_path: Path) -> Iterator[str]:
    where = database("postgresql", tmp_path)
    name = unique_table()
    with where.engine() as engine:
        drive(SQLBackend(engine, table=name).create_tables())
    yield name
    where.drop(name, f"{name}_epochs")


async def every_verb(backend: SQLBackend, number: int) -> None:
    """Each verb, with the answers that it must have if nobody else touches this owner."""
    owner = make_owner("credentials", f"owner {number}")
    epoch = await backend.epoch(owner, NOW)
    for each in range(15):
        made = Record(make_key("credentials", shard_of(owner) + b"%d" % each), owner, 0, NOW, NOW + TTL, b"%d" % number)
        assert await backend.create(made, epoch, NOW)
        assert await backend.get(made.key, NOW) == made
        assert await backend.update(made, 0, NOW)
        assert await backend.list(owner, NOW) == [made]
        if each % 2:
            assert await backend.delete(made.key, NOW)
        else:
            assert await backend.delete_owner(owner, NOW) == 1
            epoch = await backend.epoch(owner, NOW)
        await backend.purge(10, NOW)
        await backend.scan("credentials", None, 10, NOW)
    assert await backend.list(owner, NOW) == []


WAYS = {
    "psycopg-url": by_url("psycopg"),
    "psycopg_async-url": by_url("psycopg_async"),
    "asyncpg-url": by_url("asyncpg"),
    "psycopg-engine": psycopg_engine,
    "psycopg_async-engine": psycopg_async_engine,
    "asyncpg-recipe": asyncpg_recipe,
}


async def dispose(made: Made) -> None:
    if isinstance(made, AsyncEngine):
        await made.dispose()
    elif isinstance(made, Engine):
        made.dispose()


@pytest.mark.parametrize("way", WAYS)
def test_rep_14_many_clients_lose_no_prepared_statement(way: str, pooler: PgBouncer, table: str) -> None:
    clients = 12

    async def together() -> None:
        made = WAYS[way](pooler)
        backend = SQLBackend(made, table=table, timeout=PATIENT)
        await asyncio.gather(*(every_verb(backend, number) for number in range(clients)))
        await backend.close()
        await dispose(made)

    if any(driver in way for driver in ASYNC):
        asyncio.run(together())
        return
    made = WAYS[way](pooler)
    backend = SQLBackend(made, table=table, timeout=PATIENT)
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            drive(every_verb(backend, number))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    drive(backend.close())
    drive(dispose(made))
    assert errors == []


@pytest.mark.parametrize("way", WAYS)
def test_rep_13_a_pooler_that_restarted_is_noticed_by_no_verb(way: str, pooler: PgBouncer, table: str) -> None:
    async def scenario() -> None:
        made = WAYS[way](pooler)
        backend = SQLBackend(made, table=table, timeout=PATIENT)
        assert await backend.get(record().key, NOW) is None
        for verb in (
            lambda: backend.create(record(), 0, NOW),
            lambda: backend.update(record(version=1), 0, NOW),
            lambda: backend.delete(record().key, NOW),
        ):
            pooler.stop()
            pooler.start()
            assert await verb() is True  # type: ignore[no-untyped-call]
        await backend.close()
        await dispose(made)

    if any(driver in way for driver in ASYNC):
        asyncio.run(scenario())
    else:
        drive(scenario())


@pytest.mark.parametrize("way", WAYS)
def test_rep_13_the_server_behind_the_pooler_ended_its_connections(
    way: str, pooler: PgBouncer, table: str, tmp_path: Path
) -> None:
    where = database("postgresql", tmp_path)
    question = text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE pid <> pg_backend_pid() AND query LIKE :part"
    )

    async def scenario() -> None:
        made = WAYS[way](pooler)
        backend = SQLBackend(made, table=table, timeout=PATIENT)
        for version in range(3):
            assert await backend.create(record(b"%d" % version), 0, NOW)
            with where.engine() as engine, engine.begin() as administrator:
                administrator.execute(question, {"part": f"%{table}%"})
        assert len(await backend.list(OWNER, NOW)) == 3
        await backend.close()
        await dispose(made)

    if any(driver in way for driver in ASYNC):
        asyncio.run(scenario())
    else:
        drive(scenario())


# What cannot work is refused with the reason


@pytest.mark.parametrize("driver", ["psycopg", "psycopg_async", "asyncpg"])
def test_rep_14_a_url_that_does_not_say_pooler_is_refused_with_the_option(driver: str, pooler: PgBouncer) -> None:
    async def scenario() -> None:
        backend = SQLBackend(pooler.url(driver), timeout=PATIENT)
        with pytest.raises(StoreUnavailable, match="add pooler=transaction to the URL"):
            await backend.get(record().key, NOW)
        await backend.close()

    if driver in ASYNC:
        asyncio.run(scenario())
    else:
        drive(scenario())


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
def test_rep_14_an_engine_that_prepares_statements_is_refused_with_the_reason(
    driver: str, pooler: PgBouncer, table: str
) -> None:
    engine = create_engine(pooler.url("psycopg"), poolclass=NullPool)
    with engine.connect() as first, engine.connect() as second:  # at once, so that the pooler opens two connections
        for connection in (first, second):
            connection.execute(text("SELECT 1"))

    async def scenario() -> None:
        made: Any = create_async_engine(pooler.url(driver)) if driver in ASYNC else create_engine(pooler.url(driver))
        backend = SQLBackend(made, table=table, timeout=PATIENT)

        async def until_it_fails() -> None:
            for _ in range(100):  # a statement is prepared at its fifth use, and the next transaction is elsewhere
                await backend.get(record().key, NOW)

        try:
            with pytest.raises(StoreUnavailable, match="lost a prepared statement, as behind a pooler"):
                await until_it_fails()
        finally:
            await dispose(made)

    if driver in ASYNC:
        asyncio.run(scenario())
    else:
        drive(scenario())


@pytest.mark.parametrize("driver", ["psycopg", "psycopg_async", "asyncpg"])
def test_rep_14_in_session_mode_the_settings_of_the_docs_suffice(driver: str, table: str, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "backends.md").read_text()
    ignored = "options" if driver != "asyncpg" else "statement_timeout, default_transaction_isolation"
    assert ignored in " ".join(page.split())
    settings = f"ignore_startup_parameters = {ignored}"
    with own_pgbouncer(database("postgresql", tmp_path), "session", settings) as pooler:

        async def scenario() -> None:
            backend = SQLBackend(pooler.url(driver), table=table, timeout=PATIENT)
            for number in range(10):
                await every_verb(backend, number)
            await backend.close()

        if driver in ASYNC:
            asyncio.run(scenario())
        else:
            drive(scenario())


def test_a_pooler_is_for_postgresql(tmp_path: Path) -> None:
    for url in (f"sqlite:///{tmp_path}/app.db", "mariadb+pymysql://host/db"):
        with pytest.raises(ConfigError, match="is for PostgreSQL"):
            SQLBackend(f"{url}?pooler=transaction")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ConfigError, match="the one value of this option"):
        SQLBackend("postgresql+psycopg://h/db?pooler=session")
