"""`SQLBackend` when servers restart, stall or refuse, and tasks are cancelled; and what each verb costs."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.ext.asyncio import create_async_engine

from harness.engines import ASYNC, NETWORKED, database, kind_of, through_proxy, unique_table
from harness.internals import sql_engine_of
from harness.tcp_proxy import Proxy
from powauth.backends.base import Record, make_key, make_owner, shard_of
from powauth.backends.sql import SQLBackend
from powauth.errors import StoreUnavailable

NOW = 1_900_000_000_000
TTL = 1_800_000
OWNER = make_owner("credentials", "42")
PATIENT = timedelta(seconds=60)

Scenario = Callable[[SQLBackend, Proxy], Coroutine[Any, Any, None]]


def record(name: bytes = b"a", version: int = 0, value: bytes = b"") -> Record:
    return Record(make_key("credentials", shard_of(OWNER) + name), OWNER, version, NOW, NOW + TTL, value)


def on_proxy(
    driver: str, directory: Path, scenario: Scenario, *, timeout: timedelta = PATIENT, own_engine: bool = False
) -> None:
    """Run a scenario on a backend that reaches its server through a proxy."""

    async def work(url: str, table: str, proxy: Proxy) -> None:
        engine = create_async_engine(url) if driver in ASYNC else create_engine(url)
        backend = SQLBackend(engine if own_engine else url, table=table, timeout=timeout)
        try:
            await scenario(backend, proxy)
        finally:
            await backend.close()
            disposing: Awaitable[None] | None = engine.dispose()
            if disposing is not None:
                await disposing

    through_proxy(driver, directory, work)


# What a verb costs


@pytest.mark.parametrize("own_engine", [False, True])
@pytest.mark.parametrize("driver", NETWORKED)
def test_round_trips_and_statements_of_each_verb(driver: str, own_engine: bool, tmp_path: Path) -> None:
    maria = kind_of(driver) == "mariadb"
    # An engine of the app's own, without autocommit on MariaDB: a ROLLBACK after each verb, a COMMIT after each write.
    reading, writing = (1, 2) if maria and own_engine else (0, 0)
    expected = {
        "get": (1, 1 + reading),
        "list": (1, 1 + reading),
        "epoch": (1, 1 + reading),
        "scan": (1, 1 + reading),
        "count": (1, 1 + reading),
        "create": (1, 1 + writing),
        "create at 0": (2, 2 + writing) if maria else (1, 1),
        "create at 1": (1, 1 + writing),
        "update": (1, 1 + writing),
        "delete": (1, 1 + writing),
        "advance": (1, 1 + writing),
        "purge": (2, 2 + writing),
        # With BEGIN and COMMIT, which only MariaDB's drivers send as statements.
        "delete_owner": (4, 5 if own_engine else 4) if maria else (2, 4),
    }
    found: dict[str, tuple[float, float]] = {}

    async def scenario(backend: SQLBackend, proxy: Proxy) -> None:
        sent: list[str] = []
        event.listen(
            sql_engine_of(backend), "before_cursor_execute", lambda _c, _d, statement, *_: sent.append(statement)
        )
        names = (b"%d" % number for number in range(1000))
        kept = record()
        assert await backend.create(kept, None, NOW)
        other, moved = make_owner("credentials", "other"), make_owner("credentials", "moved")
        await backend.epoch(moved, NOW, advance=True)

        def new(owner: bytes) -> Record:
            return Record(make_key("credentials", b"00" + next(names)), owner, 0, NOW, NOW + TTL, b"")

        verbs: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
            "get": lambda: backend.get(kept.key, NOW),
            "list": lambda: backend.list(OWNER, NOW),
            "epoch": lambda: backend.epoch(OWNER, NOW),
            "scan": lambda: backend.scan("credentials", None, 10, NOW),
            "count": lambda: backend.count("credentials", NOW),
            "create": lambda: backend.create(new(other), None, NOW),
            "create at 0": lambda: backend.create(new(other), 0, NOW),
            "create at 1": lambda: backend.create(new(moved), 1, NOW),
            "update": lambda: backend.update(kept, 0, NOW),
            "delete": lambda: backend.delete(b"credentials:", NOW),
            "advance": lambda: backend.epoch(OWNER, NOW, advance=True),
            "purge": lambda: backend.purge(10, NOW),
            "delete_owner": lambda: backend.delete_owner(b"credentials:nobody", NOW),
        }
        for name, verb in verbs.items():
            for _ in range(7):  # psycopg prepares a statement when it comes for the fifth time
                await verb()
            before = len(sent), proxy.round_trips
            for _ in range(4):
                await verb()
            found[name] = (len(sent) - before[0]) / 4, (proxy.round_trips - before[1]) / 4
        assert not any("credentials" in statement for statement in sent), "values are bound, never written"

    on_proxy(driver, tmp_path, scenario, own_engine=own_engine)
    assert found == expected


# Servers


@pytest.mark.parametrize("own_engine", [False, True])
@pytest.mark.parametrize("driver", NETWORKED)
def test_sto_07_a_server_that_restarted_is_noticed_by_no_verb_that_may_be_repeated(
    driver: str, own_engine: bool, tmp_path: Path
) -> None:
    async def scenario(backend: SQLBackend, proxy: Proxy) -> None:
        assert await backend.create(record(), 0, NOW)
        for verb, answer in (
            (lambda: backend.get(record().key, NOW), record()),
            (lambda: backend.list(OWNER, NOW), [record()]),
            (lambda: backend.epoch(OWNER, NOW), 0),
            (lambda: backend.epoch(OWNER, NOW, advance=True), 1),
            (lambda: backend.count("credentials", NOW), 1),
            (lambda: backend.purge(10, NOW), 0),
            (lambda: backend.delete_owner(OWNER, NOW), 1),
        ):
            proxy.cut()
            assert await verb() == answer

    on_proxy(driver, tmp_path, scenario, own_engine=own_engine)


@pytest.mark.parametrize("driver", NETWORKED)
def test_a_revocation_cut_off_before_its_commit_is_repeated_and_one_cut_off_at_it_is_not(
    driver: str, tmp_path: Path
) -> None:
    async def scenario(backend: SQLBackend, proxy: Proxy) -> None:
        cuts = ["DELETE"]

        def before(_c: object, _d: object, statement: str, *_: object) -> None:
            if cuts and statement.startswith(cuts[0]):
                cuts.pop(0)
                proxy.cut()

        def at_commit(_connection: object) -> None:
            before(None, None, "COMMIT")

        event.listen(sql_engine_of(backend), "before_cursor_execute", before)
        event.listen(sql_engine_of(backend), "commit", at_commit)
        assert await backend.create(record(), 0, NOW)
        assert await backend.delete_owner(OWNER, NOW) == 1
        assert cuts == []
        assert await backend.epoch(OWNER, NOW) == 1, "the first attempt left nothing behind"

        assert await backend.create(record(), 1, NOW)
        cuts.append("COMMIT")
        with pytest.raises(StoreUnavailable):
            await backend.delete_owner(OWNER, NOW)
        assert cuts == []
        assert await backend.list(OWNER, NOW) == [record()]

    on_proxy(driver, tmp_path, scenario)


async def is_unavailable_while_stalled(backend: SQLBackend, proxy: Proxy) -> None:
    """Read while the server says nothing. The time limit of the backend is one second."""
    proxy.stall()
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        await backend.get(record().key, NOW)
    assert time.monotonic() - began < 10, "the limit, and some patience with a busy machine"
    proxy.stall(stalled=False)


@pytest.mark.parametrize("driver", NETWORKED)
def test_sto_07_a_server_that_does_not_greet_costs_no_more_than_the_time_limit(driver: str, tmp_path: Path) -> None:
    async def scenario(backend: SQLBackend, proxy: Proxy) -> None:
        await is_unavailable_while_stalled(backend, proxy)

    on_proxy(driver, tmp_path, scenario, timeout=timedelta(seconds=1))


@pytest.mark.parametrize("driver", NETWORKED)
def test_sto_07_a_server_that_stalls_costs_no_more_than_the_time_limit(driver: str, tmp_path: Path) -> None:
    async def scenario(backend: SQLBackend, proxy: Proxy) -> None:
        assert await backend.create(record(), 0, NOW)
        await is_unavailable_while_stalled(backend, proxy)
        for _ in range(20):
            try:
                assert await backend.get(record().key, NOW) == record()
            except StoreUnavailable:  # the machine may be busier than a second
                continue
            break
        else:
            raise AssertionError("did not recover")

    on_proxy(driver, tmp_path, scenario, timeout=timedelta(seconds=1))


@pytest.mark.parametrize("driver", NETWORKED)
def test_sto_07_a_server_that_refuses_is_unavailable_until_it_is_back(driver: str, tmp_path: Path) -> None:
    async def scenario(backend: SQLBackend, proxy: Proxy) -> None:
        assert await backend.create(record(), 0, NOW)
        proxy.refuse()
        proxy.cut()
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await backend.get(record().key, NOW)
        proxy.refuse(refusing=False)
        assert await backend.get(record().key, NOW) == record()

    on_proxy(driver, tmp_path, scenario)


# Cancellation


@pytest.mark.parametrize("driver", sorted(ASYNC))
def test_sto_08_after_300_cancellations_no_caller_has_read_anothers_reply(driver: str, tmp_path: Path) -> None:
    where = database(kind_of(driver), tmp_path)
    table = unique_table()
    dice = random.Random(8)
    outcomes: Counter[str] = Counter()

    async def scenario() -> None:
        backend = SQLBackend(where.through(driver), table=table, timeout=PATIENT)
        await backend.create_tables()
        records = [record(b"%d" % number, value=b"value %d" % number) for number in range(10)]
        for each in records:
            assert await backend.create(each, None, NOW)

        async def ask(number: int) -> None:
            owner = make_owner("credentials", f"owner {number}")
            for _ in range(3):
                assert await backend.get(records[number].key, NOW) == records[number]
                assert await backend.update(records[number], 1, NOW) is False
                assert await backend.list(owner, NOW) == []
                assert await backend.delete_owner(owner, NOW) == 0

        while outcomes["cancelled"] < 300:
            tasks = [asyncio.create_task(ask(dice.randrange(10))) for _ in range(8)]
            for task in tasks[1:]:
                for _ in range(dice.randrange(12)):
                    await asyncio.sleep(0)
                task.cancel()
            for answer in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(answer, asyncio.CancelledError):
                    outcomes["cancelled"] += 1
                else:
                    assert answer is None, repr(answer)
                    outcomes["answered"] += 1
        for number in range(10):
            await ask(number)
        pool: Any = sql_engine_of(backend).pool
        while pool.checkedout():  # noqa: ASYNC110 connections come back in tasks of SQLAlchemy
            await asyncio.sleep(0)
        await backend.close()

    try:
        asyncio.run(asyncio.wait_for(scenario(), 120))
    finally:
        where.drop(table, f"{table}_epochs")
    assert outcomes["answered"] >= 40
