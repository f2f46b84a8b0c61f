"""No sign-in slips past a revocation in `SQLBackend`: both overlap, in each order, on each database."""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from harness.engines import Database, database, kind_of, unique_table
from harness.internals import create_statement_of, sql_engine_of
from powauth.backends.base import Record, drive, make_key, make_owner, shard_of
from powauth.backends.sql import SQLBackend
from powauth.errors import ConfigError, StoreUnavailable

NOW = 1_900_000_000_000
TTL = 1_800_000
OWNER = make_owner("credentials", "42")
SERVERS = ["postgresql", "mariadb"]
LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
PATIENT = timedelta(seconds=60)
"""Seconds: a time limit that only a hang exceeds, on however busy a machine."""


def record(name: bytes = b"a", owner: bytes = OWNER, value: bytes = b"") -> Record:
    return Record(make_key("credentials", shard_of(owner) + name), owner, 0, NOW, NOW + TTL, value)


def default_isolation(kind: str, level: str) -> dict[str, str]:
    """Connect arguments under which statements in autocommit, too, run at an isolation level."""
    if kind == "mariadb":
        return {"init_command": f"SET SESSION TRANSACTION ISOLATION LEVEL {level}"}
    escaped = level.lower().replace(" ", "\\ ")
    return {"options": f"-c default_transaction_isolation={escaped}"}


class Bench:
    """A database with the tables, and things to do to them."""

    def __init__(self, where: Database) -> None:
        self.where = where
        self.table = unique_table()
        self.opened: list[SQLBackend] = []
        self.engines: list[Engine] = []
        self.backend = self.another()
        drive(self.backend.create_tables())
        self.pool = ThreadPoolExecutor(4)

    def another(self, engine: Engine | None = None) -> SQLBackend:
        """A backend of its own engine, of one that an app made, or of a plain URL."""
        sync = {"sqlite": "sqlite", "postgresql": "psycopg", "mariadb": "mariadb_pymysql"}[self.where.kind]
        made = SQLBackend(engine or self.where.through(sync), table=self.table, timeout=PATIENT)
        self.opened.append(made)
        return made

    def engine(self, **options: Any) -> Engine:
        """An engine as an app makes it."""
        sync = {"sqlite": "sqlite", "postgresql": "psycopg", "mariadb": "mariadb_pymysql"}[self.where.kind]
        engine = create_engine(self.where.through(sync), **options)
        self.engines.append(engine)
        return engine

    def epoch(self, moved: bool) -> int:
        """The owner's epoch: of one who was revoked before, or never was."""
        return drive(self.backend.epoch(OWNER, NOW, advance=moved))

    def live(self) -> list[Record]:
        return drive(self.backend.list(OWNER, NOW))

    def until_blocked(self, future: Future[Any]) -> None:
        """Return when the server says that a statement on the tables waits for a lock."""
        ends = time.monotonic() + PATIENT.total_seconds()
        with self.where.engine() as engine, engine.connect() as connection:
            while time.monotonic() < ends:
                assert not future.done(), f"did not wait: {future.exception() or future.result()!r}"
                if self._some_statement_waits(connection):
                    return
                connection.rollback()
                threading.Event().wait(0.02)
        raise AssertionError("never waited for a lock")

    def _some_statement_waits(self, connection: Connection) -> bool:
        if self.where.kind == "postgresql":
            waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE :table")
            return bool(connection.execute(waiting, {"table": f"%{self.table}%"}).scalar_one())
        # The table innodb_trx is not made anew while somebody looks at it often.
        status: str = connection.execute(text("SHOW ENGINE INNODB STATUS")).one()[2]
        return any("LOCK WAIT" in each and self.table in each for each in status.split("---TRANSACTION"))

    def close(self) -> None:
        self.pool.shutdown()
        for backend in self.opened:
            drive(backend.close())
        for engine in self.engines:
            engine.dispose()
        self.where.drop(self.table, f"{self.table}_epochs", f"{self.table}_users")


@pytest.fixture
def bench(kind: str, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(database(kind, tmp_path))
    yield made
    made.close()


# Both at once, step by step


@contextmanager
def hook(engine: Engine, word: str, act: Callable[[], None]) -> Iterator[None]:
    """Do something just before the first statement that has the word in it is sent."""
    waiting = [act]

    def before(_c: object, _d: object, statement: str, *_: object) -> None:
        if word in statement and waiting:
            waiting.pop()()

    event.listen(engine, "before_cursor_execute", before)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", before)
    assert not waiting, f"no statement with {word}"


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("made_by", ["url", "app"])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("outcome", ["commit", "rollback"])
@pytest.mark.parametrize("kind", SERVERS)
def test_a_create_waits_for_a_revocation_that_has_begun(
    bench: Bench, outcome: str, level: str, made_by: str, moved: bool
) -> None:
    epoch = bench.epoch(moved)
    assert drive(bench.backend.create(record(b"old"), epoch, NOW))
    creator = bench.backend if made_by == "url" else bench.another(bench.engine(isolation_level=level))
    with bench.engine(isolation_level=level).connect() as connection:
        assert bench.backend.delete_owner_in(connection, OWNER, NOW) == 1
        late = bench.pool.submit(lambda: drive(creator.create(record(b"late"), epoch, NOW)))
        bench.until_blocked(late)
        getattr(connection, outcome)()
        if outcome == "commit":
            assert late.result() is False
            assert bench.live() == []
        else:
            assert late.result() is True
            assert {found.key for found in bench.live()} == {record(b"old").key, record(b"late").key}


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", SERVERS)
def test_a_create_between_the_two_statements_of_a_revocation_waits_for_both(
    bench: Bench, level: str, moved: bool
) -> None:
    epoch = bench.epoch(moved)
    creator = bench.another(bench.engine(connect_args=default_isolation(bench.where.kind, level)))
    late: list[Future[bool]] = []
    revoker = bench.another()

    def sign_in() -> None:
        late.append(bench.pool.submit(lambda: drive(creator.create(record(), epoch, NOW))))
        bench.until_blocked(late[0])

    with hook(sql_engine_of(revoker), "DELETE", sign_in):
        assert drive(revoker.delete_owner(OWNER, NOW)) == 0
    assert late[0].result() is False
    assert bench.live() == []


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("kind", SERVERS)
def test_a_revocation_waits_for_a_create_that_has_begun_and_removes_its_record(
    bench: Bench, moved: bool, level: str
) -> None:
    epoch = bench.epoch(moved)
    create = create_statement_of(bench.backend)
    with bench.engine(isolation_level=level).connect() as connection:
        if create.prepare is not None and epoch == 0:
            create.prepare(connection, owner=OWNER, now=NOW)
        fields = {name: getattr(record(), name) for name in Record.__struct_fields__}
        insert = create.at_epoch if epoch else create.at_zero
        assert insert(connection, **fields, epoch=epoch, now=NOW).first() is not None
        revocation = bench.pool.submit(lambda: drive(bench.backend.delete_owner(OWNER, NOW)))
        bench.until_blocked(revocation)
        connection.commit()
    assert revocation.result() == 1
    assert bench.live() == []


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("made_by", ["url", "app"])
@pytest.mark.parametrize("kind", ["sqlite", *SERVERS])
def test_a_revocation_between_reading_the_epoch_and_inserting_is_noticed(
    bench: Bench, made_by: str, moved: bool
) -> None:
    engine = bench.engine() if made_by == "app" else None
    creator = bench.another(engine)
    epoch = bench.epoch(moved)

    def revoke() -> None:
        if made_by == "url" or bench.where.kind != "mariadb":
            drive(bench.backend.delete_owner(OWNER, NOW))
            return
        # The app's engine has an open transaction, whose first statement holds the row already: it comes first.
        waiting.append(bench.pool.submit(lambda: drive(bench.backend.delete_owner(OWNER, NOW))))
        if not moved:
            bench.until_blocked(waiting[0])
        else:
            waiting[0].result()

    waiting: list[Future[int]] = []
    with hook(sql_engine_of(creator), f"INSERT INTO {bench.table} ", revoke):
        created = drive(creator.create(record(), epoch, NOW))
    for each in waiting:
        assert each.result() == created
    assert created is bool(waiting and not moved)
    assert bench.live() == []


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", SERVERS)
def test_a_revocation_whose_snapshot_is_older_than_the_sign_in_does_not_overlook_it(
    bench: Bench, level: str, moved: bool
) -> None:
    epoch = bench.epoch(moved)
    with bench.engine(isolation_level=level).connect() as connection:
        # The app's transaction has looked about before the user signs in.
        connection.execute(bench.backend.tables.epochs.select().limit(1))
        if bench.where.kind == "mariadb" and level == "SERIALIZABLE":
            connection.rollback()  # reads lock there: the sign-in would wait for the transaction
            connection.execute(text("SELECT 1"))
        assert drive(bench.backend.create(record(), epoch, NOW)) is True
        try:
            bench.backend.delete_owner_in(connection, OWNER, NOW)
        except StoreUnavailable:
            assert level != "READ COMMITTED"
            connection.rollback()
            assert bench.live() == [record()]
        else:
            assert bench.where.kind == "mariadb" or level == "READ COMMITTED"
            connection.commit()
            assert bench.live() == []
    drive(bench.backend.delete_owner(OWNER, NOW))
    assert bench.live() == []


@pytest.mark.parametrize("kind", ["sqlite"])
def test_on_sqlite_a_create_cannot_begin_before_an_open_revocation_ends(bench: Bench) -> None:
    hasty = SQLBackend(bench.where.through("sqlite"), table=bench.table, timeout=timedelta(milliseconds=50))
    for outcome, created in (("rollback", True), ("commit", False)):
        with bench.engine().connect() as connection:
            bench.backend.delete_owner_in(connection, OWNER, NOW)
            with pytest.raises(StoreUnavailable):
                drive(hasty.create(record(), 0, NOW))
            getattr(connection, outcome)()
        assert drive(bench.backend.create(record(), 0, NOW)) is created  # without a short time limit
        assert bench.live() == ([record()] if created else [])
    drive(hasty.close())


# Both at once, at random


class Stress:
    """Sign-ins that note when they had read the epoch, and revocations that look for what they should have stopped."""

    def __init__(self) -> None:
        self.clock = itertools.count(1)
        self.created = 0
        self.refused = 0

    async def sign_in(self, backend: SQLBackend, name: str) -> None:
        for number in range(12):
            epoch = await backend.epoch(OWNER, NOW)
            read = next(self.clock)
            new = record(f"{name}.{number}".encode(), value=b"%d" % read)
            if await backend.create(new, epoch, NOW):
                self.created += 1
            else:
                self.refused += 1

    async def revoke(self, backend: SQLBackend, number: int) -> None:
        for _ in range(5 + number % 2):
            begun = next(self.clock)
            await backend.delete_owner(OWNER, NOW)
            for survivor in await backend.list(OWNER, NOW):
                assert int(survivor.value) > begun, "its epoch was read before the revocation began"


DRIVERS = ["sqlite", "aiosqlite", "psycopg", "psycopg_async", "asyncpg", "mariadb_pymysql", "asyncmy"]


@pytest.mark.parametrize("driver", DRIVERS)
def test_sto_05_random_sign_ins_and_revocations(driver: str, tmp_path: Path) -> None:
    where = database(kind_of(driver), tmp_path)
    table = unique_table()
    stress = Stress()

    async def tasks() -> None:
        backend = SQLBackend(where.through(driver), table=table, timeout=PATIENT)
        await backend.create_tables()
        await asyncio.gather(
            *(stress.sign_in(backend, str(number)) for number in range(6)),
            *(stress.revoke(backend, number) for number in range(2)),
        )
        await backend.close()

    try:
        if driver in {"aiosqlite", "psycopg_async", "asyncpg", "asyncmy"}:
            asyncio.run(tasks())
        else:
            _in_threads(stress, SQLBackend(where.through(driver), table=table, timeout=PATIENT))
    finally:
        where.drop(table, f"{table}_epochs")
    assert stress.created + stress.refused == 72
    assert stress.created > 0


def _in_threads(stress: Stress, backend: SQLBackend) -> None:
    drive(backend.create_tables())
    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(lambda n=n: drive(stress.sign_in(backend, str(n)))) for n in range(6)]  # type: ignore[misc]
        running += [pool.submit(lambda n=n: drive(stress.revoke(backend, n))) for n in range(2)]  # type: ignore[misc]
        for each in running:
            each.result()
    drive(backend.close())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("kind", SERVERS)
def test_sto_05_random_sign_ins_and_revocations_whatever_the_servers_default_isolation(
    bench: Bench, level: str
) -> None:
    setting = default_isolation(bench.where.kind, level)
    stress = Stress()
    _in_threads(stress, bench.another(bench.engine(connect_args=setting, pool_size=8)))
    assert stress.created > 0


@pytest.mark.parametrize("kind", ["postgresql"])
def test_what_fails_to_serialise_is_tried_again_on_an_event_loop_too(bench: Bench) -> None:
    async def scenario() -> list[int]:
        strict = {"server_settings": {"default_transaction_isolation": "serializable"}}
        engine = create_async_engine(bench.where.through("asyncpg"), connect_args=strict, pool_size=10)
        backend = SQLBackend(engine, table=bench.table, timeout=PATIENT)
        moved = await asyncio.gather(*(backend.epoch(OWNER, NOW, advance=True) for _ in range(40)))
        await engine.dispose()
        return moved

    assert sorted(asyncio.run(scenario())) == list(range(1, 41))


# Deadlocks


def _deadlocked(bench: Bench) -> bool:
    """Let a revocation and another transaction wait for each other. Return whether the revocation was given up.

    InnoDB gives up the transaction that has changed less. PostgreSQL gives up the one that has waited for a second. On
    a busy machine that can be the other one.
    """
    drive(bench.backend.delete_owner(OWNER, NOW))
    assert drive(bench.backend.create(record(), drive(bench.backend.epoch(OWNER, NOW)), NOW))
    sessions, epochs = bench.backend.tables
    with bench.engine().connect() as connection:
        connection.execute(
            sessions.insert(),
            [
                {"key": b"k%d" % n, "owner": b"o", "version": 0, "created_at": 0, "expires_at": 0, "value": b""}
                for n in range(50)
            ],
        )
        connection.execute(sessions.update().where(sessions.c.key == record().key).values(version=1))
        revocation = bench.pool.submit(lambda: drive(bench.backend.delete_owner(OWNER, NOW)))
        bench.until_blocked(revocation)
        try:
            connection.execute(epochs.update().where(epochs.c.owner == OWNER).values(epoch=7))
        except DBAPIError:
            connection.rollback()
            assert revocation.result() == 1
            return False
        connection.commit()
    assert revocation.result() == 1
    assert drive(bench.backend.epoch(OWNER, NOW)) == 8
    return True


@pytest.mark.parametrize("kind", SERVERS)
def test_a_deadlock_is_tried_again(bench: Bench) -> None:
    assert any(_deadlocked(bench) for _ in range(10))


# In the app's own transaction


def _users(bench: Bench, connection: Connection) -> None:
    connection.execute(text(f"CREATE TABLE IF NOT EXISTS {bench.table}_users (id INTEGER, password VARCHAR(20))"))
    connection.execute(text(f"DELETE FROM {bench.table}_users"))
    connection.execute(text(f"INSERT INTO {bench.table}_users VALUES (42, 'old')"))


@pytest.mark.parametrize("outcome", ["commit", "rollback"])
@pytest.mark.parametrize("way", ["Connection", "Session"])
@pytest.mark.parametrize("kind", ["sqlite", *SERVERS])
def test_a_change_of_password_and_the_revocation_commit_together_or_not_at_all(
    bench: Bench, way: str, outcome: str
) -> None:
    engine = bench.engine()
    with engine.begin() as connection:
        _users(bench, connection)
    for name in (b"a", b"b", b"kept"):
        assert drive(bench.backend.create(record(name), 0, NOW))
    with Session(engine) if way == "Session" else engine.connect() as session:
        session.execute(text(f"UPDATE {bench.table}_users SET password = 'new'"))
        assert bench.backend.delete_owner_in(session, OWNER, NOW, keep=record(b"kept").key) == 2
        getattr(session, outcome)()
    with engine.connect() as connection:
        password = connection.execute(text(f"SELECT password FROM {bench.table}_users")).scalar_one()
    done = outcome == "commit"
    assert password == ("new" if done else "old")
    assert {found.key for found in bench.live()} == {
        record(name).key for name in ([b"kept"] if done else [b"a", b"b", b"kept"])
    }
    assert drive(bench.backend.epoch(OWNER, NOW)) == int(done)
    assert drive(bench.backend.create(record(b"late"), 0, NOW)) is not done


@pytest.mark.parametrize("outcome", ["commit", "rollback"])
@pytest.mark.parametrize("way", ["AsyncConnection", "AsyncSession"])
@pytest.mark.parametrize("driver", ["aiosqlite", "psycopg_async", "asyncpg", "asyncmy"])
def test_the_same_with_asyncio(driver: str, way: str, outcome: str, tmp_path: Path) -> None:
    where = database(kind_of(driver), tmp_path)
    bench = Bench(where)

    async def scenario() -> None:
        engine = create_async_engine(where.through(driver))
        async with engine.begin() as connection:
            await connection.run_sync(lambda inner: _users(bench, inner))
        backend = SQLBackend(engine, table=bench.table, timeout=PATIENT)
        assert await backend.create(record(), 0, NOW)
        session: AsyncSession | AsyncConnection
        session = AsyncSession(engine) if way == "AsyncSession" else await engine.connect()
        await session.execute(text(f"UPDATE {bench.table}_users SET password = 'new'"))
        assert await backend.delete_owner_in(session, OWNER, NOW) == 1
        await getattr(session, outcome)()
        await session.close()
        async with engine.connect() as connection:
            password = (await connection.execute(text(f"SELECT password FROM {bench.table}_users"))).scalar_one()
        assert password == ("new" if outcome == "commit" else "old")
        assert await backend.list(OWNER, NOW) == ([] if outcome == "commit" else [record()])
        await engine.dispose()

    try:
        asyncio.run(scenario())
    finally:
        bench.close()


@pytest.mark.parametrize("kind", ["sqlite"])
def test_delete_owner_in_refuses_what_is_not_a_connection_to_the_same_kind_of_database(bench: Bench) -> None:
    with pytest.raises(ConfigError, match="not object"):
        bench.backend.delete_owner_in(object(), OWNER, NOW)  # type: ignore[call-overload]
    other = SQLBackend(create_engine("postgresql+psycopg://127.0.0.1:1/none"))
    with bench.engine().connect() as connection, pytest.raises(ConfigError, match="to sqlite"):
        other.delete_owner_in(connection, OWNER, NOW)
