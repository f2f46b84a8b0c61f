"""Engines with one connection for all threads or tasks, as an SQLite database in memory has: the work takes turns."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool

from harness.users_databases import PASSWORD, BareUser, Base, cheap_hasher, memory_engine, table_name
from powauth.accounts.base import Account
from powauth.accounts.sqlalchemy import SQLAlchemyUsers
from powauth.backends.base import Record, drive, make_key, make_owner, shard_of
from powauth.backends.sql import SQLBackend


class Member(BareUser, Base):
    __tablename__ = table_name()


Users = SQLAlchemyUsers[Member, Any]

TABLES: Any = [Member.__table__]
TASKS = 50
NOW = 1_900_000_000_000


def users_of(engine: sa.Engine | AsyncEngine) -> Users:
    return SQLAlchemyUsers(engine, Member, hasher=cheap_hasher())


async def registered(users: Users, name: str) -> Account[Any]:
    made = await users.create({"email": f"{name}@example.com", "password": PASSWORD})
    assert isinstance(made, Account)
    return made


def test_a_read_in_another_thread_undoes_no_write() -> None:
    """Each use of a connection ends with a rollback, which once undid what had been written and not committed."""
    with memory_engine(Member) as engine, ThreadPoolExecutor(1) as pool:
        users = users_of(engine)
        mia = drive(registered(users, "mia"))
        reads: list[Future[Account[Any] | None]] = []

        def read_in_between(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            if statement.startswith("INSERT"):
                reads.append(pool.submit(drive, users.get(mia.key)))
                wait(reads, timeout=0.2)  # the read must wait: without turns it has ended by now

        sa.event.listen(engine, "after_cursor_execute", read_in_between)
        ada = drive(registered(users, "ada"))
        assert [read.result(60) for read in reads] == [mia]
        assert drive(users.get(ada.key)) == ada


async def over_one_connection(engine: AsyncEngine, scenario: Callable[[AsyncEngine], Awaitable[None]]) -> None:
    try:
        async with engine.begin() as connection:
            await connection.run_sync(Member.metadata.create_all, TABLES)
        await scenario(engine)
    finally:
        await engine.dispose()


async def read_until(stop: asyncio.Event, users: Users, account: Account[Any]) -> None:
    while not stop.is_set():
        assert await users.get(account.key) == account


def test_a_read_in_another_task_undoes_no_write() -> None:
    async def scenario(engine: AsyncEngine) -> None:
        users = users_of(engine)
        mia = await registered(users, "mia")
        stop = asyncio.Event()
        reading = asyncio.create_task(read_until(stop, users, mia))
        made = await asyncio.gather(*(registered(users, f"user{number}") for number in range(TASKS)))
        assert [await users.get(each.key) for each in made] == made
        stop.set()
        await reading  # a cancelled task would leave its last read to run on while the engine closes

    asyncio.run(over_one_connection(create_async_engine("sqlite+aiosqlite://"), scenario))


def test_a_second_event_loop_has_turns_of_its_own() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")

    async def scenario(engine: AsyncEngine) -> None:
        made = await asyncio.gather(*(registered(users_of(engine), f"user{number}") for number in range(TASKS)))
        assert len(made) == TASKS

    for _ in range(2):
        asyncio.run(over_one_connection(engine, scenario))


def test_a_listener_may_call_powauth_in_the_middle_of_a_read() -> None:
    with memory_engine(Member) as engine:
        users = users_of(engine)
        mia = drive(registered(users, "mia"))
        calls: list[str] = []
        found: list[Account[Any] | None] = []

        def look(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            if not calls:
                calls.append(statement)
                found.append(drive(users.get(mia.key)))

        sa.event.listen(engine, "before_cursor_execute", look)
        assert drive(users.get(mia.key)) == mia
        assert found == [mia]


def test_sessions_and_users_take_turns_too(tmp_path: Path) -> None:
    """The commit of a session would commit half of a registration, too."""
    engine = sa.create_engine(
        f"sqlite:///{tmp_path}/db", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    Member.metadata.create_all(engine, TABLES)
    backend, users = SQLBackend(engine), users_of(engine)
    drive(backend.create_tables())
    owner = make_owner("credentials", "mia")
    record = Record(make_key("credentials", shard_of(owner) + b"one"), owner, 0, NOW, NOW + 1, b"value")
    with ThreadPoolExecutor(1) as pool:
        writes: list[Future[Any]] = []

        def write_in_between(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            if statement.startswith(f"INSERT INTO {Member.__tablename__}"):
                writes.append(pool.submit(drive, backend.create(record, None, NOW)))
                assert wait(writes, timeout=0.2).done == set()

        sa.event.listen(engine, "after_cursor_execute", write_in_between)
        ada = drive(registered(users, "ada"))
        assert [write.result(60) for write in writes] == [True]
        assert drive(users.get(ada.key)) == ada
        assert drive(backend.get(record.key, NOW)) == record
    drive(backend.close())
    engine.dispose()
