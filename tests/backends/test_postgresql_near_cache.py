"""The near cache of `SQLBackend` on PostgreSQL: what others change, and every way to lose what tells of it."""

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from benchmarks.servers import PostgresServer, directory, free_port, postgresql_binaries, running, wait_for
from sqlalchemy import Connection, Engine, NullPool, create_engine, event, make_url, text
from sqlalchemy.dialects.postgresql import psycopg2
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Session

from harness.engines import DRIVERS, Database, database, unique_table
from harness.http_support import App
from harness.near_support import NOW, OTHERS, OWNER, cache_of, channel_stands, record, until
from harness.redis_servers import PATIENCE
from harness.tcp_proxy import Proxy
from powauth.backends._postgresql_notifications import ThreadNotifications, kind_for
from powauth.backends._postgresql_triggers import MESSAGE
from powauth.backends.base import MAX_OWNER_BYTES, Backend, Millis, Record, drive
from powauth.backends.sql import SQLBackend, create_tables, report_changes
from powauth.errors import ConfigError, StoreUnavailable
from powauth.testing import BackendConformance

ASYNC = {"psycopg_async", "asyncpg"}

every_driver = pytest.mark.parametrize("driver", ["psycopg", "psycopg_async", "asyncpg"])

needs_own_server = pytest.mark.skipif(postgresql_binaries() is None, reason="needs PostgreSQL's initdb")

Scenario = Callable[[SQLBackend], Coroutine[Any, Any, None]]


class Place:
    """Tables with triggers, and what happens to them from elsewhere."""

    def __init__(self, where: Database, table: str) -> None:
        self.where = where
        self.table = table
        self.engine = create_engine(where.through("psycopg"), poolclass=NullPool)
        self.other = SQLBackend(self.engine, table=table)
        create_tables(self.engine, self.other.tables)
        report_changes(self.engine, self.other.tables)

    def drop(self) -> None:
        self.where.drop(self.table, f"{self.table}_epochs")
        self.sql(f"DROP FUNCTION IF EXISTS {self.table}_report() CASCADE")

    def sql(self, statement: str, **values: object) -> list[Any]:
        """A statement of somebody's who knows nothing of powauth; the rows."""
        with self.engine.begin() as connection:
            result = connection.execute(text(statement), values)
            return list(result) if result.returns_rows else []

    @property
    def channel(self) -> str:
        """The channel of the table."""
        ((number,),) = self.sql(f"SELECT '{self.table}'::regclass::oid")
        return f"powauth_{number}"

    def notify(self, message: str) -> None:
        self.sql("SELECT pg_notify(:channel, :message)", channel=self.channel, message=message)

    def run(self, driver: str, scenario: Scenario, **options: Any) -> None:
        """The scenario on a backend whose channel stands."""

        async def whole() -> None:
            backend = self.backend(driver, **options)
            try:
                await channel_stands(backend)
                await scenario(backend)
            finally:
                await backend.close()

        asyncio.run(whole()) if driver in ASYNC else drive(whole())

    def backend(
        self, driver: str, *, kind: type[SQLBackend] = SQLBackend, port: int | None = None, **options: Any
    ) -> SQLBackend:
        url = make_url(self.where.through(driver))
        if port is not None:
            url = url.set(host="127.0.0.1", port=port)
        options = {"near_cache": 100, "timeout": PATIENCE, **options}
        return kind(url.render_as_string(hide_password=False), table=self.table, **options)

    async def settle(self, backend: SQLBackend) -> None:
        """Wait until all that was notified up to now has arrived: messages come in order; the last is of this key."""
        ticket = cache_of(backend).begin(b"credentials:\0barrier")
        assert ticket is not None
        self.notify(ticket.key.hex())
        await until(backend, lambda: ticket.key not in cache_of(backend)._reading, "the last message")

    async def keep(self, backend: SQLBackend, *records: Record) -> None:
        """Have copies of these near at hand."""
        for each in records:
            await backend.create(each, None, NOW)
        await self.settle(backend)
        for each in records:
            assert await backend.get(each.key, NOW) == each
            assert cache_of(backend).get(each.key, NOW) == each


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(database("postgresql", tmp_path), unique_table())
    yield made
    made.drop()


@contextmanager
def own_server() -> Iterator[tuple[PostgresServer, Place]]:
    """A server that a test may stop."""
    with directory() as folder:
        server = PostgresServer(folder)
        with running(server):
            yield server, Place(Database("postgresql", make_url(server.url("postgresql+psycopg"))), "near")


def statements(backend: SQLBackend) -> list[str]:
    """What the backend's engine is given to send, from now on."""
    core = backend._engine if backend._async_engine is None else backend._async_engine.sync_engine
    assert core is not None
    sent: list[str] = []
    event.listen(core, "before_cursor_execute", lambda _c, _d, statement, *_: sent.append(statement))
    return sent


def process_of(place: Place, backend: SQLBackend) -> int:
    """The server's process that serves the connection on which this backend listens."""
    assert backend._notifications is not None
    pid = backend._notifications.process
    rows = place.sql("SELECT application_name FROM pg_stat_activity WHERE pid = :pid", pid=pid)
    assert rows == [("powauth near cache",)]
    return pid


def is_served(place: Place, pid: int) -> bool:
    return place.sql("SELECT 1 FROM pg_stat_activity WHERE pid = :pid", pid=pid) != []


# The suite


class NearConformance(BackendConformance):
    driver: str
    contenders = 20

    @pytest.fixture(scope="class")
    @classmethod
    def shared(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
        place = Place(database("postgresql", tmp_path_factory.mktemp("near")), unique_table())
        yield place
        place.drop()

    @pytest.fixture(autouse=True)
    def empty(self, shared: Place) -> None:
        self.place = shared
        self.place.sql(f"DELETE FROM {shared.table}")
        self.place.sql(f"DELETE FROM {shared.table}_epochs")

    async def make_backend(self) -> Backend:
        backend = self.place.backend(self.driver, near_cache=30)
        await channel_stands(backend)
        return backend

    # What a second connection does is seen within the time of a message: below.


class TestPsycopg(NearConformance):
    driver = "psycopg"


class TestPsycopgAsync(NearConformance):
    driver = "psycopg_async"


class TestAsyncpg(NearConformance):
    driver = "asyncpg"


# Hits


@every_driver
def test_a_record_at_hand_costs_no_statement(place: Place, driver: str) -> None:
    async def scenario(backend: SQLBackend) -> None:
        await place.keep(backend, record())
        sent = statements(backend)
        for _ in range(100):
            assert await backend.get(record().key, NOW) == record()
        assert sent == []
        assert await backend.get_fresh(record().key, NOW) == record()
        assert len(sent) == 1

    place.run(driver, scenario)


@pytest.mark.parametrize("driver", sorted(ASYNC))
def test_an_authenticated_request_costs_no_statement(place: Place, driver: str) -> None:
    async def scenario(backend: SQLBackend) -> None:
        app = App(backend, "asgi")
        browser = app.browser()

        async def visit(path: str) -> Any:
            response = await browser.send_asgi(path, browser.cookie_header(), {})
            browser.take(response)
            return response.json()

        await visit("/login")
        await visit("/")
        await place.settle(backend)
        await visit("/")
        sent = statements(backend)
        assert await visit("/") == {"user": app.user.email}
        assert sent == []
        await visit("/logout")
        assert await visit("/") == {"user": None}

    place.run(driver, scenario)


@every_driver
def test_sto_06_an_expired_copy_is_not_served(place: Place, driver: str) -> None:
    async def scenario(backend: SQLBackend) -> None:
        await place.keep(backend, record())
        assert await backend.get(record().key, record().expires_at - 1) == record()
        assert await backend.get(record().key, record().expires_at) is None

    place.run(driver, scenario)


def test_sto_12_the_cache_is_bounded(place: Place) -> None:
    async def scenario(backend: SQLBackend) -> None:
        for number in range(40):
            await place.keep(backend, record(b"%d" % number))
            assert len(cache_of(backend)) <= 16
        assert len(cache_of(backend)) >= 15

    place.run("psycopg", scenario, near_cache=16)


# What others change


@every_driver
def test_sto_06_what_another_process_changes_is_dropped(place: Place, driver: str) -> None:
    async def scenario(backend: SQLBackend) -> None:
        cache = cache_of(backend)
        bystander = record(b"bystander", OTHERS)
        await place.keep(backend, record(), record(b"b"), record(b"c"), record(b"d"), bystander)
        assert drive(place.other.delete(record().key, NOW))
        await until(backend, lambda: cache.get(record().key, NOW) is None, "a delete")
        assert await backend.get(record().key, NOW) is None
        newer = record(b"b", version=1, value=b"newer")
        assert drive(place.other.update(newer, 0, NOW))
        await until(backend, lambda: cache.get(newer.key, NOW) is None, "an update")
        assert await backend.get(newer.key, NOW) == newer
        assert drive(place.other.delete_owner(OWNER, NOW, keep=record(b"d").key)) == 2
        await until(backend, lambda: len(cache) == 2, "a delete of all but one")
        assert await backend.get(newer.key, NOW) is None
        assert drive(place.other.purge(100, record().expires_at)) == 2
        await until(backend, lambda: len(cache) == 0, "a purge")
        assert cache.up

    place.run(driver, scenario)


@pytest.mark.parametrize("driver", ["psycopg"])
@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM {table} WHERE owner = :owner",
        "UPDATE {table} SET expires_at = 0 WHERE owner = :owner",
        "UPDATE {table} SET key = key || '\\x00'::bytea WHERE owner = :owner",
        "TRUNCATE {table}",
        "WITH gone AS (DELETE FROM {table} WHERE owner = :owner RETURNING key) SELECT count(*) FROM gone",
    ],
)
def test_sto_06_what_plain_sql_changes_is_dropped(place: Place, driver: str, statement: str) -> None:
    async def scenario(backend: SQLBackend) -> None:
        await place.keep(backend, record())
        place.sql(statement.format(table=place.table), **({"owner": OWNER} if ":owner" in statement else {}))
        await until(backend, lambda: len(cache_of(backend)) == 0, "a change")
        assert await backend.get(record().key, NOW) is None

    place.run(driver, scenario)


def test_sto_06_nor_is_anything_overlooked_where_other_triggers_are_off(place: Place) -> None:
    async def scenario(backend: SQLBackend) -> None:
        await place.keep(backend, record())
        with place.engine.begin() as connection:
            connection.execute(text("SET LOCAL session_replication_role = replica"))
            connection.execute(text(f"DELETE FROM {place.table}"))
        await until(backend, lambda: len(cache_of(backend)) == 0, "a change")

    place.run("psycopg", scenario)


@every_driver
def test_sto_06_a_transaction_is_heard_of_with_its_commit(place: Place, driver: str) -> None:
    async def scenario(backend: SQLBackend) -> None:
        cache = cache_of(backend)
        await place.keep(backend, record())
        with Session(place.engine) as session:
            place.other.delete_owner_in(session, OWNER, NOW)
            session.rollback()
        await place.settle(backend)
        assert cache.get(record().key, NOW) == record()
        with Session(place.engine) as session:
            place.other.delete_owner_in(session, OWNER, NOW)
            await place.settle(backend)
            assert await backend.get(record().key, NOW) == record(), "nothing has happened yet"
            session.commit()
        await until(backend, lambda: cache.get(record().key, NOW) is None, "the commit")
        assert await backend.get(record().key, NOW) is None

    place.run(driver, scenario)


def test_a_change_of_many_records_comes_in_messages_of_bounded_length(place: Place) -> None:
    longest = [
        Record(b"credentials:" + b"%03d" % number + b"x" * (MAX_OWNER_BYTES - 15), OWNER, 0, NOW, NOW + 1000, b"")
        for number in range(100)
    ]
    heard: list[str] = []

    async def scenario(backend: SQLBackend) -> None:
        notifications = backend._notifications
        assert isinstance(notifications, ThreadNotifications)
        assert notifications._line is not None
        await place.keep(backend, *longest)
        take = notifications._line._take

        def listen(message: str) -> None:
            heard.append(message)
            take(message)

        notifications._line._take = listen
        place.sql(f"DELETE FROM {place.table}")
        await until(backend, lambda: len(cache_of(backend)) == 0, "all messages")

    place.run("psycopg", scenario)
    named = [name for message in heard for name in message.split(",")]
    assert sorted(named) == sorted(each.key.hex() for each in longest)
    assert len(heard) == -(-100 * 641 // MESSAGE)
    assert max(map(len, heard)) < 8000


def test_a_key_that_is_no_records_is_no_obstacle(place: Place) -> None:
    async def scenario(backend: SQLBackend) -> None:
        await place.keep(backend, record())
        planted = "INSERT INTO {0} VALUES (convert_to(repeat('x', 100000), 'utf8'), '', 0, 0, 0, '')"
        with place.engine.begin() as connection:
            connection.execute(text(f"ALTER TABLE {place.table} DROP CONSTRAINT {place.table}_pkey"))
            connection.execute(text(planted.format(place.table)))
        place.sql(f"DELETE FROM {place.table} WHERE length(key) > 1000")
        await until(backend, lambda: len(cache_of(backend)) == 0, "that anything may have changed")
        assert cache_of(backend).up

    place.run("psycopg", scenario)


def test_new_records_are_no_news(place: Place) -> None:
    with place.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text(f"LISTEN {place.channel}"))
        assert drive(place.other.create(record(), None, NOW))
        assert not drive(place.other.update(record(version=8), 7, NOW)), "what changes nothing is no news either"
        assert drive(place.other.delete(record().key, NOW))
        driver: Any = connection.connection.driver_connection
        told = [each.payload for each in driver.notifies(timeout=PATIENCE, stop_after=1)]
        assert told == [record().key.hex()]


@every_driver
def test_sto_06_a_change_reported_between_a_read_and_its_keeping_is_not_overwritten(place: Place, driver: str) -> None:
    witness = record(b"witness", OTHERS)

    class Overtaken(SQLBackend):
        overtaken = False

        async def get_fresh(self, key: bytes, now: Millis) -> Record | None:
            read = await super().get_fresh(key, now)
            if self.overtaken:
                drive(place.other.update(record(version=1), 0, NOW))
                drive(place.other.delete(witness.key, NOW))
                # Messages come in order.
                await until(self, lambda: cache_of(self).get(witness.key, NOW) is None, "both messages")
            return read

    async def scenario(backend: SQLBackend) -> None:
        assert isinstance(backend, Overtaken)
        await place.keep(backend, witness)
        assert drive(place.other.create(record(), None, NOW))
        backend.overtaken = True
        assert await backend.get(record().key, NOW) == record()
        assert cache_of(backend).get(record().key, NOW) is None
        backend.overtaken = False
        assert await backend.get(record().key, NOW) == record(version=1)
        assert cache_of(backend).get(record().key, NOW) == record(version=1)

    place.run(driver, scenario, kind=Overtaken)


@every_driver
def test_sto_06_a_read_sent_after_a_change_was_heard_of_sees_it(place: Place, driver: str) -> None:
    async def scenario(backend: SQLBackend) -> None:
        await place.keep(backend, record())
        for version in range(1, 200):
            assert drive(place.other.update(record(version=version), version - 1, NOW))
            await until(backend, lambda: cache_of(backend).get(record().key, NOW) is None, "an update")
            # The copy is of this version, or a later one has dropped it.
            read = await backend.get(record().key, NOW)
            assert read is not None
            assert read.version == version

    place.run(driver, scenario)


@every_driver
def test_own_writes_drop_the_copy_before_they_return(place: Place, driver: str) -> None:
    async def scenario(backend: SQLBackend) -> None:
        await place.keep(backend, record(), record(b"b"), record(b"c"))
        assert await backend.update(record(version=1), 0, NOW)
        assert await backend.get(record().key, NOW) == record(version=1)
        assert await backend.delete(record().key, NOW)
        assert await backend.get(record().key, NOW) is None
        assert await backend.delete_owner(OWNER, NOW, keep=record(b"b").key) == 1
        assert await backend.get(record(b"c").key, NOW) is None
        await place.keep(backend, record(b"b"))
        assert await backend.purge(10, record().expires_at) == 1
        assert await backend.get(record(b"b").key, NOW) is None

    place.run(driver, scenario)


@pytest.mark.parametrize("driver", sorted(ASYNC))
def test_sto_08_cancelled_verbs_leave_no_copy_and_no_ticket(place: Place, driver: str) -> None:
    async def scenario(backend: SQLBackend) -> None:
        cache = cache_of(backend)
        for verb in (
            lambda: backend.get(record(b"unread").key, NOW),
            lambda: backend.update(record(version=1), 0, NOW),
            lambda: backend.delete(record().key, NOW),
            lambda: backend.delete_owner(OWNER, NOW),
        ):
            await channel_stands(backend)
            if await backend.get(record().key, NOW) is None:
                await place.keep(backend, record())
            with place.engine.begin() as connection:
                connection.execute(text(f"LOCK TABLE {place.table} IN ACCESS EXCLUSIVE MODE"))
                task = asyncio.ensure_future(verb())
                await asyncio.sleep(0.05)
                assert not task.done()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert cache._reading == {}
        assert cache.get(record().key, NOW) is None

    place.run(driver, scenario)


# The channel is lost


@every_driver
def test_sto_07_a_killed_channel_loses_all_and_comes_back(place: Place, driver: str) -> None:
    async def scenario(backend: SQLBackend) -> None:
        cache = cache_of(backend)
        await place.keep(backend, record())
        listening = process_of(place, backend)
        assert place.sql("SELECT pg_terminate_backend(:pid)", pid=listening) == [(True,)]
        await until(backend, lambda: not cache.up and len(cache) == 0, "the loss")
        drive(place.other.delete(record().key, NOW))
        assert await backend.get(record().key, NOW) is None
        await channel_stands(backend)
        assert process_of(place, backend) != listening
        await place.keep(backend, record())
        drive(place.other.delete(record().key, NOW))
        await until(backend, lambda: len(cache) == 0, "a delete")

    place.run(driver, scenario)


@needs_own_server
@every_driver
def test_sto_07_a_server_that_died_is_no_reason_to_serve_a_copy(driver: str, caplog: pytest.LogCaptureFixture) -> None:
    with own_server() as (server, place):

        async def scenario(backend: SQLBackend) -> None:
            cache = cache_of(backend)
            await place.keep(backend, record())
            server.kill()
            await until(backend, lambda: not cache.up, "the loss")
            assert len(cache) == 0
            with pytest.raises(StoreUnavailable):
                await backend.get(record().key, NOW)
            server.start()
            place.sql(f"DELETE FROM {place.table}")
            await channel_stands(backend)
            assert await backend.get(record().key, NOW) is None

        with caplog.at_level(logging.INFO, logger="powauth"):
            place.run(driver, scenario)
    told = [each.getMessage() for each in caplog.records if "near cache" in each.getMessage()]
    assert [("is off" in line, "is on again" in line) for line in told] == [(True, False), (False, True)]


@needs_own_server
@every_driver
def test_sto_07_a_stopped_server_is_noticed_by_the_heartbeat(driver: str) -> None:
    with own_server() as (server, place):

        async def scenario(backend: SQLBackend) -> None:
            await place.keep(backend, record())
            server.pause()
            await until(backend, lambda: not cache_of(backend).up, "the loss")
            with pytest.raises(StoreUnavailable):
                await backend.get(record().key, NOW)
            server.resume()
            await channel_stands(backend)
            assert await backend.get(record().key, NOW) == record()

        place.run(driver, scenario, timeout=2)


@every_driver
def test_sto_07_a_network_that_swallows_all_serves_no_revoked_session(place: Place, driver: str) -> None:
    with Proxy(place.where.server.host or "127.0.0.1", place.where.server.port or 5432) as proxy:

        async def scenario(backend: SQLBackend) -> None:
            await place.keep(backend, record())
            proxy.stall()
            assert drive(place.other.delete(record().key, NOW))
            await until(backend, lambda: not cache_of(backend).up, "the loss")
            with pytest.raises(StoreUnavailable):
                await backend.get(record().key, NOW)
            proxy.stall(stalled=False)
            await channel_stands(backend)
            assert await backend.get(record().key, NOW) is None

        place.run(driver, scenario, port=proxy.port, timeout=2)


@pytest.mark.parametrize("driver", ["psycopg"])
@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE {0} DISABLE TRIGGER ALL",
        "ALTER TABLE {0} ENABLE TRIGGER {0}_report_delete",
        "DROP TRIGGER {0}_report_truncate ON {0}",
        "DROP FUNCTION {0}_report() CASCADE",
        "CREATE OR REPLACE FUNCTION {0}_report() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TABLE {0}_heir () INHERITS ({0})",
        "ALTER TABLE {0} RENAME TO {0}_away",
    ],
)
def test_sto_07_triggers_that_are_gone_are_noticed_by_the_heartbeat(place: Place, driver: str, change: str) -> None:
    async def scenario(backend: SQLBackend) -> None:
        await place.keep(backend, record())
        place.sql(change.format(place.table))
        await until(backend, lambda: not cache_of(backend).up and len(cache_of(backend)) == 0, "the loss")

    try:
        place.run(driver, scenario)
    finally:
        place.sql(f"DROP TABLE IF EXISTS {place.table}_heir, {place.table}_away CASCADE")


@every_driver
def test_sto_07_a_table_made_anew_is_listened_to_anew(place: Place, driver: str) -> None:
    async def scenario(backend: SQLBackend) -> None:
        await place.keep(backend, record())
        before = place.channel
        place.sql(f"DROP TABLE {place.table}")
        await backend.create_tables()
        assert place.channel != before
        await until(backend, lambda: not cache_of(backend).up, "the loss")
        await channel_stands(backend)
        await place.keep(backend, record(version=1))
        assert drive(place.other.delete(record().key, NOW))
        await until(backend, lambda: len(cache_of(backend)) == 0, "a delete")

    place.run(driver, scenario)


@pytest.mark.parametrize("driver", sorted(ASYNC))
def test_a_connection_that_does_not_listen_any_more_is_given_up(place: Place, driver: str) -> None:
    async def scenario(backend: SQLBackend) -> None:
        await place.keep(backend, record())
        before = process_of(place, backend)
        notifications = backend._notifications
        assert notifications is not None
        if driver == "asyncpg":
            await notifications._line._connection.execute("UNLISTEN *")
        else:
            notifications._line._pg.send_query(b"UNLISTEN *")
        await until(backend, lambda: not cache_of(backend).up, "the loss")
        await channel_stands(backend)
        assert process_of(place, backend) != before

    place.run(driver, scenario)


@every_driver
def test_a_forged_notification_can_only_drop_copies(place: Place, driver: str) -> None:
    async def scenario(backend: SQLBackend) -> None:
        cache = cache_of(backend)
        bystander = record(b"bystander", OTHERS)
        for message, left in (
            (record().key.hex(), [bystander]),
            ("proof 00", [record(), bystander]),
            ("", []),
            ("no key", []),
            (f"{record().key.hex()},{'é' * 100}", []),
        ):
            await place.keep(backend, record(), bystander)
            place.notify(message)
            await place.settle(backend)
            assert [each for each in (record(), bystander) if cache.get(each.key, NOW)] == left
            assert cache.up

    place.run(driver, scenario)


# Where it cannot be


@every_driver
def test_without_triggers_every_read_asks_the_server_and_the_log_says_what_to_do(
    tmp_path: Path, driver: str, caplog: pytest.LogCaptureFixture
) -> None:
    place = Place(database("postgresql", tmp_path), unique_table())
    place.sql(f"DROP FUNCTION {place.table}_report() CASCADE")

    async def whole() -> None:
        backend = place.backend(driver)
        await backend.create(record(), None, NOW)
        assert await backend.get(record().key, NOW) == record()
        await until(backend, lambda: bool(caplog.records), "a complaint")
        sent = statements(backend)
        for _ in range(10):
            assert await backend.get(record().key, NOW) == record()
        assert len(sent) == 10, "and there is no further attempt for a while"
        assert len(cache_of(backend)) == 0
        await backend.create_tables()
        assert backend._notifications is not None
        backend._notifications._retry_at = 0.0
        await channel_stands(backend)
        await place.keep(backend, record())
        await backend.close()

    with caplog.at_level(logging.INFO, logger="powauth"):
        asyncio.run(whole()) if driver in ASYNC else drive(whole())
    off, on = [each.getMessage() for each in caplog.records]
    assert "create_tables()" in off
    assert place.table in off
    assert "on again" in on
    place.drop()


def test_create_tables_of_a_near_cached_backend_installs_what_reports(tmp_path: Path) -> None:
    where, table = database("postgresql", tmp_path), unique_table()
    with where.engine() as engine, engine.connect() as connection:
        schema = f"S{table}"
        connection.execute(text(f'CREATE SCHEMA "{schema}"'))
        connection.commit()
        backend = SQLBackend(where.through("psycopg"), table="Sessions", schema=schema, near_cache=10)
        drive(backend.create_tables())
        try:
            drive(channel_stands(backend))
        finally:
            drive(backend.close())
            connection.execute(text(f'DROP SCHEMA "{schema}" CASCADE'))
            connection.commit()


def test_report_changes_that_finds_all_in_place_locks_no_table(place: Place) -> None:
    with place.engine.begin() as busy, place.engine.begin() as connection:
        busy.execute(text(f"LOCK TABLE {place.table} IN ROW EXCLUSIVE MODE"))
        connection.execute(text("SET LOCAL lock_timeout = '1ms'"))
        report_changes(connection, place.other.tables)
    drive(place.other.create(record(), None, NOW))


def test_report_changes_is_postgresqls(tmp_path: Path) -> None:
    with database("sqlite", tmp_path).engine() as engine, pytest.raises(ConfigError, match="PostgreSQL"):
        report_changes(engine)


@contextmanager
def pooler(server: Database, mode: str) -> Iterator[int]:
    """PgBouncer before a server; its port."""
    executable = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    if not Path(executable).exists():
        pytest.skip("needs PgBouncer: apt-get install pgbouncer")
    port, address = free_port(), server.server
    with directory() as folder:
        users = folder / "users"
        users.write_text(f'"{address.username}" ""\n')
        configuration = folder / "pgbouncer.ini"
        configuration.write_text(
            f"[databases]\n* = host={address.host} port={address.port or 5432}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {users}\npool_mode = {mode}\n"
        )
        # It refuses to run as root.
        user = ["--user", "postgres"] if os.geteuid() == 0 else []
        process = subprocess.Popen([executable, "-q", *user, configuration], stderr=subprocess.DEVNULL)
        try:
            engine = create_engine(address.set(host="127.0.0.1", port=port), poolclass=NullPool)

            def answers() -> bool:
                try:
                    with engine.connect():
                        return True
                except Exception:
                    return False

            wait_for(answers, "a pooler")
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def through_pooler(place: Place, driver: str, port: int) -> Engine | AsyncEngine:
    url = make_url(place.where.through(driver)).set(host="127.0.0.1", port=port)
    options: dict[str, Any] = {"connect_args": {"prepare_threshold": None}} if "psycopg" in driver else {}
    if driver == "asyncpg":
        url = url.update_query_dict({"prepared_statement_cache_size": "0"})
        options = {"connect_args": {"statement_cache_size": 0, "prepared_statement_name_func": lambda: ""}}
    return create_async_engine(url, **options) if driver in ASYNC else create_engine(url, **options)


@every_driver
@pytest.mark.parametrize("mode", ["transaction", "session"])
def test_behind_a_pooler_it_is_on_only_if_messages_arrive(
    place: Place, driver: str, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def whole(port: int) -> None:
        engine = through_pooler(place, driver, port)
        backend = SQLBackend(engine, table=place.table, near_cache=10, timeout=1)
        await backend.create(record(), None, NOW)
        assert await backend.get(record().key, NOW) == record()
        if mode == "session":
            await channel_stands(backend)
            await place.keep(backend, record())
            assert drive(place.other.delete(record().key, NOW))
            await until(backend, lambda: len(cache_of(backend)) == 0, "a delete")
        else:
            await until(backend, lambda: bool(caplog.records), "a complaint")
            assert "pooler" in caplog.records[0].getMessage()
            assert not cache_of(backend).up
        await backend.close()
        if isinstance(engine, Engine):
            engine.dispose()
        else:
            await engine.dispose()

    with pooler(place.where, mode) as port, caplog.at_level(logging.INFO, logger="powauth"):
        asyncio.run(whole(port)) if driver in ASYNC else drive(whole(port))


# Engines, processes, loops, ends


@every_driver
def test_an_apps_engine_whose_hooks_send_statements(place: Place, driver: str) -> None:
    async def whole() -> None:
        url = place.where.through(driver)
        engine = create_async_engine(url) if driver in ASYNC else create_engine(url)
        core = engine if isinstance(engine, Engine) else engine.sync_engine

        @event.listens_for(core, "connect")
        def on_connect(connection: Any, _: object) -> None:
            cursor = connection.cursor()
            cursor.execute("SET application_name = 'shop'")
            cursor.close()
            if "psycopg" in driver:  # else it could not be put into autocommit
                connection.commit()

        @event.listens_for(core, "begin")
        def on_begin(connection: Connection) -> None:
            connection.exec_driver_sql("SELECT 1")

        backend = SQLBackend(engine, table=place.table, near_cache=10, timeout=PATIENCE)
        await channel_stands(backend)
        await place.keep(backend, record())
        assert drive(place.other.delete(record().key, NOW))
        await until(backend, lambda: len(cache_of(backend)) == 0, "a delete")
        await backend.close()
        if isinstance(engine, Engine):
            engine.dispose()
        else:
            await engine.dispose()

    asyncio.run(whole()) if driver in ASYNC else drive(whole())


@every_driver
def test_the_connection_that_listens_is_none_of_the_pools(place: Place, driver: str) -> None:
    async def whole() -> None:
        url = place.where.through(driver)
        options: dict[str, Any] = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 1}
        engine = create_async_engine(url, **options) if driver in ASYNC else create_engine(url, **options)
        backend = SQLBackend(engine, table=place.table, near_cache=10, timeout=PATIENCE)
        await channel_stands(backend)
        await place.keep(backend, record())
        assert cache_of(backend).up
        await backend.close()
        if isinstance(engine, Engine):
            engine.dispose()
        else:
            await engine.dispose()

    asyncio.run(whole()) if driver in ASYNC else drive(whole())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_trusts_nothing_of_its_parents(place: Place) -> None:
    async def scenario(backend: SQLBackend) -> None:
        await place.keep(backend, record())
        listening = process_of(place, backend)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads beside a fork: that is what is tested
            child = os.fork()
        if child == 0:
            status = 1
            try:
                assert backend._engine is not None
                backend._engine.dispose(close=False)  # as SQLAlchemy says of a fork
                cache = cache_of(backend)
                assert not cache.up
                assert len(cache) == 0
                drive(channel_stands(backend))
                assert process_of(place, backend) != listening
                assert drive(backend.get(record().key, NOW)) == record()
                assert cache.get(record().key, NOW) == record()
                drive(place.other.delete(record().key, NOW))
                drive(until(backend, lambda: len(cache) == 0, "a delete"))
                drive(backend.close())
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0  # noqa: ASYNC222
        await until(backend, lambda: len(cache_of(backend)) == 0, "the child's delete")
        assert cache_of(backend).up, "the parent's channel is none of the child's business"
        assert process_of(place, backend) == listening

    place.run("psycopg", scenario)


@pytest.mark.parametrize("driver", sorted(ASYNC))
def test_a_second_event_loop_makes_a_channel_of_its_own(place: Place, driver: str) -> None:
    engine = create_async_engine(place.where.through(driver), poolclass=NullPool)
    backend = SQLBackend(engine, table=place.table, near_cache=10)
    pids: list[int] = []

    async def visit() -> None:
        assert not cache_of(backend).up
        await channel_stands(backend)
        pids.append(process_of(place, backend))
        await place.keep(backend, record())
        await backend.delete(record().key, NOW)

    for _ in range(2):
        asyncio.run(visit())
        assert not cache_of(backend).up
        wait_for(lambda: not is_served(place, pids[-1]), "an end of the connection")
    assert len(set(pids)) == 2


@every_driver
def test_sto_07_after_close_no_copy_is_served_and_no_connection_left(place: Place, driver: str) -> None:
    async def scenario(backend: SQLBackend) -> None:
        await place.keep(backend, record())
        listening = process_of(place, backend)
        await backend.close()
        with pytest.raises(StoreUnavailable):
            await backend.get(record().key, NOW)
        await until(backend, lambda: not is_served(place, listening), "an end of the connection")

    place.run(driver, scenario)


# Options


def test_databases_and_drivers_that_cannot_report_are_refused(tmp_path: Path) -> None:
    sqlite = f"sqlite:///{tmp_path / 'sessions.db'}"
    for url in (sqlite, f"{sqlite}?near_cache=10", "mariadb+pymysql://root@h/db?near_cache=10"):
        with pytest.raises(ConfigError, match="PostgreSQL"):
            SQLBackend(url, near_cache=None if "?" in url else 10)
    with pytest.raises(ConfigError, match="psycopg2"):
        kind_for(psycopg2.dialect())  # type: ignore[no-untyped-call]


def test_wrong_numbers_are_refused() -> None:
    url = "postgresql+psycopg://app:secret-word@h/db"
    for number in (0, -1, True, 1.5, "10"):
        with pytest.raises(ConfigError, match="near_cache") as refused:
            SQLBackend(url, near_cache=number)  # type: ignore[arg-type]
        assert "secret-word" not in str(refused.value)
    for option in ("", "many", "1&near_cache=2"):
        with pytest.raises(ConfigError, match="near_cache"):
            SQLBackend(f"{url}?near_cache={option}")
    with pytest.raises(ConfigError, match="twice"):
        SQLBackend(f"{url}?near_cache=1", near_cache=1)


@every_driver
def test_a_url_can_ask_for_it(driver: str) -> None:
    url = f"{DRIVERS[driver]}://u@127.0.0.1/db"
    assert SQLBackend(url).near_cache is None
    assert SQLBackend(f"{url}?near_cache=10").near_cache is not None
