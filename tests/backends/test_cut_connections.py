"""Connections that the server, or something in between, has cut: the next use works, and no write is made twice."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
from sqlalchemy import create_engine, event, text
from sqlalchemy.ext.asyncio import create_async_engine

from harness import redis_servers
from harness.engines import ASYNC, NETWORKED, database, kind_of, through_proxy
from harness.internals import async_sql_engine_of, sql_engine_of
from harness.tcp_proxy import Proxy
from powauth.backends.base import Backend, Record, drive, make_key, make_owner, shard_of
from powauth.backends.redis import RedisBackend
from powauth.backends.sql import SQLBackend
from powauth.errors import StoreUnavailable

NOW = 1_900_000_000_000
TTL = 1_800_000
OWNER = make_owner("credentials", "42")
PATIENT = timedelta(seconds=60)

Verb = Callable[[], Coroutine[Any, Any, object]]
Scenario = Callable[[SQLBackend, Proxy], Coroutine[Any, Any, None]]

EACH_ENGINE = pytest.mark.parametrize(
    ("driver", "own_engine"),
    [
        *((driver, own) for driver in NETWORKED for own in (False, True)),
        ("psycopg2", True),  # powauth makes no engine for it
    ],
)


def record(name: bytes = b"a", version: int = 0, value: bytes = b"") -> Record:
    return Record(make_key("credentials", shard_of(OWNER) + name), OWNER, version, NOW, NOW + TTL, value)


def on_sql(driver: str, folder: Path, scenario: Scenario, *, own_engine: bool) -> None:
    """Run a scenario on a backend that reaches its server through a proxy."""

    async def work(url: str, table: str, proxy: Proxy) -> None:
        closing: Callable[[], Awaitable[None] | None]
        if not own_engine:
            backend = SQLBackend(url, table=table, timeout=PATIENT)
            closing = backend.close
        elif driver in ASYNC:
            asynchronous = create_async_engine(url)
            backend, closing = SQLBackend(asynchronous, table=table, timeout=PATIENT), asynchronous.dispose
        else:
            plain = create_engine(url)
            backend, closing = SQLBackend(plain, table=table, timeout=PATIENT), plain.dispose
        try:
            await scenario(backend, proxy)
        finally:
            closed = closing()
            if closed is not None:
                await closed

    through_proxy(driver, folder, work)


class Step(NamedTuple):
    """One verb of a record's life, and what it answers on Redis and on SQL."""

    verb: Verb
    answer: object
    unsure: bool = False
    """Whether SQL cannot tell the answer after the connection broke under it."""


def life_of_a_record(backend: Backend, epoch: int = 0) -> list[Step]:
    """Verbs in an order in which each has something to do."""
    return [
        Step(lambda: backend.create(record(), epoch, NOW), True),
        Step(lambda: backend.get(record().key, NOW), record()),
        Step(lambda: backend.list(OWNER, NOW), [record()]),
        Step(lambda: backend.update(record(version=1), 0, NOW), True),
        Step(lambda: backend.update(record(version=1), 0, NOW), False),
        Step(lambda: backend.count("credentials", NOW), 1),
        Step(lambda: backend.delete(record().key, NOW), True),
        Step(lambda: backend.delete(record(b"b").key, NOW), False, unsure=True),
        Step(lambda: backend.create(record(b"b"), None, NOW), True),
        Step(lambda: backend.delete_owner(OWNER, NOW), 1),
        Step(lambda: backend.purge(10, NOW), 0),
        Step(lambda: backend.get(record(b"b").key, NOW), None),
    ]


@EACH_ENGINE
def test_a_connection_that_is_not_cut_is_used_again(driver: str, own_engine: bool, tmp_path: Path) -> None:
    async def scenario(backend: SQLBackend, proxy: Proxy) -> None:
        for _ in range(2):
            for verb, answer, _ in life_of_a_record(backend, await backend.epoch(OWNER, NOW)):
                assert await verb() == answer
        assert proxy.connections == 1

    on_sql(driver, tmp_path, scenario, own_engine=own_engine)


# The server has closed the connection while it was idle


@EACH_ENGINE
def test_rep_13_the_first_use_after_idle_connections_were_cut_works(
    driver: str, own_engine: bool, tmp_path: Path
) -> None:
    async def scenario(backend: SQLBackend, proxy: Proxy) -> None:
        sent: list[str] = []
        event.listen(
            sql_engine_of(backend), "before_cursor_execute", lambda _c, _d, statement, *_: sent.append(statement)
        )

        async def statements(cut: bool) -> list[int]:
            epoch = await backend.epoch(OWNER, NOW)
            counts = []
            for verb, answer, _ in life_of_a_record(backend, epoch):
                if cut:
                    proxy.cut()
                before = len(sent)
                assert await verb() == answer
                counts.append(len(sent) - before)
            return counts

        await statements(cut=False)
        usual = await statements(cut=False)
        assert await statements(cut=True) == usual, "nothing more is sent: neither a ping nor a second try"

    on_sql(driver, tmp_path, scenario, own_engine=own_engine)


@EACH_ENGINE
def test_rep_13_all_idle_connections_of_a_pool_were_cut(driver: str, own_engine: bool, tmp_path: Path) -> None:
    async def scenario(backend: SQLBackend, proxy: Proxy) -> None:
        pool: Any = sql_engine_of(backend).pool
        if driver in ASYNC:
            opened = [await async_sql_engine_of(backend).connect() for _ in range(4)]
            for connection in opened:
                await connection.close()
        else:
            plain = [sql_engine_of(backend).connect() for _ in range(4)]
            for each in plain:
                each.close()
        assert pool.checkedin() == 4
        proxy.cut()
        assert await backend.create(record(), 0, NOW) is True
        assert await backend.delete(record().key, NOW) is True

    on_sql(driver, tmp_path, scenario, own_engine=own_engine)


PROCESS = {"postgresql": "SELECT pg_backend_pid()", "mariadb": "SELECT connection_id()"}
END = {"postgresql": "SELECT pg_terminate_backend(:process)", "mariadb": "KILL :process"}


@EACH_ENGINE
def test_rep_13_an_administrator_ended_the_connection(driver: str, own_engine: bool, tmp_path: Path) -> None:
    where = database(kind_of(driver), tmp_path)

    async def scenario(backend: SQLBackend, proxy: Proxy) -> None:
        async def process() -> int:
            question = text(PROCESS[where.kind])
            if backend.mode != "async":
                with sql_engine_of(backend).connect() as connection:
                    return int(connection.execute(question).scalar_one())
            async with async_sql_engine_of(backend).connect() as asynchronous:
                return int((await asynchronous.execute(question)).scalar_one())

        with where.engine() as engine, engine.connect() as administrator:
            for verb, answer, _ in life_of_a_record(backend):
                before = await process()
                administrator.execute(text(END[where.kind]), {"process": before})
                administrator.commit()
                redis_servers.wait_for(lambda: proxy.clients == 0, "the end of the connection")
                assert await verb() == answer
                assert await process() != before

    on_sql(driver, tmp_path, scenario, own_engine=own_engine)


# The connection breaks when it is used: nothing was executed, and nobody knows it


@pytest.mark.parametrize("own_engine", [False, True], ids=["url", "engine"])
@pytest.mark.parametrize("driver", NETWORKED)
def test_rep_13_a_connection_that_is_reset_at_its_first_use(driver: str, own_engine: bool, tmp_path: Path) -> None:
    async def scenario(backend: SQLBackend, proxy: Proxy) -> None:
        assert await backend.get(record().key, NOW) is None
        for verb, answer, unsure in life_of_a_record(backend):
            proxy.reset_next()
            if unsure:
                with pytest.raises(StoreUnavailable):  # it may have been there, and removed by the first try
                    await verb()
            else:
                assert await verb() == answer

    on_sql(driver, tmp_path, scenario, own_engine=own_engine)


# The statement was executed, and the answer is lost


async def prepare_statements(backend: SQLBackend) -> None:
    """Drivers prepare a statement before they execute it for the first or the fifth time on a connection."""
    for _ in range(7):
        for epoch in (1, None):
            await backend.create(record(b"warm"), epoch, NOW)
            await backend.update(record(b"warm", 1), 0, NOW)
            await backend.delete(record(b"warm").key, NOW)
            await backend.epoch(make_owner("credentials", "43"), NOW, advance=True)


@pytest.mark.parametrize("driver", NETWORKED)
def test_a_write_whose_answer_was_lost_is_not_made_twice(driver: str, tmp_path: Path) -> None:
    async def scenario(backend: SQLBackend, proxy: Proxy) -> None:
        async def lost(verb: Verb) -> object:
            await prepare_statements(backend)
            proxy.lose_next_reply()
            answer = await verb()
            assert not proxy.losing
            return answer

        assert await backend.epoch(OWNER, NOW, advance=True) == 1  # so that a `create` is one statement everywhere
        assert await lost(lambda: backend.create(record(), 1, NOW)) is True, (
            "the record there is the one that was to be made"
        )
        assert await backend.list(OWNER, NOW) == [record()]
        assert await lost(lambda: backend.create(record(value=b"other"), 1, NOW)) is False
        assert await lost(lambda: backend.create(record(b"counter"), None, NOW)) is False, (
            "another may have made an equal one"
        )
        assert await backend.get(record(b"counter").key, NOW) == record(b"counter")

        assert await lost(lambda: backend.update(record(version=1, value=b"new"), 0, NOW)) is False, (
            "the caller reads again"
        )
        assert await backend.get(record().key, NOW) == record(version=1, value=b"new")

        with pytest.raises(StoreUnavailable) as caught:  # nobody can tell whether it was there
            await lost(lambda: backend.delete(record().key, NOW))
        assert caught.value.__cause__ is not None
        assert await backend.get(record().key, NOW) is None

        assert await lost(lambda: backend.epoch(OWNER, NOW, advance=True)) == 3
        assert await lost(lambda: backend.create(record(b"late"), 1, NOW)) is False, "begun before the revocation"
        assert await backend.get(record(b"late").key, NOW) is None

    on_sql(driver, tmp_path, scenario, own_engine=False)


@pytest.mark.parametrize("driver", NETWORKED)
def test_a_sign_in_does_not_revive_a_session_that_was_revoked_while_its_answer_was_lost(
    driver: str, tmp_path: Path
) -> None:
    where = database(kind_of(driver), tmp_path)

    async def scenario(backend: SQLBackend, proxy: Proxy) -> None:
        assert await backend.epoch(OWNER, NOW, advance=True) == 1
        await prepare_statements(backend)
        with where.engine() as engine:
            other = SQLBackend(engine, table=backend.tables.sessions.name)

            def revoke(_connection: object) -> None:
                # The connection of the second try: the record was made, and the client was not told.
                if not proxy.losing and not revoked:
                    revoked.append(drive(other.delete_owner(OWNER, NOW)))

            revoked: list[int] = []
            proxy.lose_next_reply()
            event.listen(sql_engine_of(backend), "engine_connect", revoke)
            assert await backend.create(record(), 1, NOW) is False
            assert revoked == [1]
            assert await backend.list(OWNER, NOW) == []

    on_sql(driver, tmp_path, scenario, own_engine=False)


# Redis

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "asyncio"])


def on_redis(
    scenario: Callable[[RedisBackend, Proxy, redis.Redis], Coroutine[Any, Any, None]], asynchronous: bool
) -> None:
    if not redis_servers.shared_answers():
        pytest.skip(f"no Redis at {redis_servers.SHARED}: start one, or set POWAUTH_TEST_REDIS")
    prefix = redis_servers.unique_prefix()[:60]
    with redis.Redis.from_url(redis_servers.SHARED) as administrator:
        address = administrator.connection_pool.connection_kwargs
        with Proxy(address["host"], address["port"]) as proxy:
            url = f"redis://127.0.0.1:{proxy.port}/{address.get('db', 0)}"
            backend = RedisBackend(url, prefix=prefix, timeout=PATIENT, asynchronous=asynchronous)

            async def whole() -> None:
                try:
                    await scenario(backend, proxy, administrator)
                finally:
                    await backend.close()

            if asynchronous:
                asyncio.run(whole())
            else:
                drive(whole())
    redis_servers.clear_shared(prefix)


@both
@pytest.mark.parametrize("how", ["cut", "killed", "reset"])
def test_rep_13_redis_the_first_use_after_a_connection_was_cut_works(how: str, asynchronous: bool) -> None:
    async def scenario(backend: RedisBackend, proxy: Proxy, administrator: redis.Redis) -> None:
        for verb, answer, _ in life_of_a_record(backend):
            assert await backend.get(record(b"warm").key, NOW) is None
            if how == "cut":
                proxy.cut()
            elif how == "killed":
                for client in administrator.client_list():
                    if int(client["addr"].rpartition(":")[2]) in proxy.ports:
                        administrator.client_kill_filter(_id=client["id"])
                redis_servers.wait_for(lambda: proxy.clients == 0, "the end of the connection")
            else:
                proxy.reset_next()
            assert await verb() == answer

    on_redis(scenario, asynchronous)
