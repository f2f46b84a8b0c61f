"""`SQLAlchemyUsers` over an engine that was used before a fork: no sign-in finds the account of another."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from harness.forks import BOTH, children, in_children, needs_fork
from harness.users_databases import BLOCKING, PASSWORD, Base, cheap_hasher, memory_engine, table_name, url_of
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.base import drive

pytestmark = needs_fork

T = TypeVar("T")
Fork = Callable[[], int]
Run = Callable[[Coroutine[Any, Any, T]], T]

CHILDREN = 3
ROUNDS = 40

ASYNC = ["postgresql+psycopg", "postgresql+asyncpg", "mariadb+asyncmy"]
"""Without aiosqlite, whose threads have no successors in a child; see ``docs/backends.md``."""


class User(UserMixin, Base):
    __tablename__ = table_name()


TABLES: Any = [User.__table__]


def email(number: int) -> str:
    return f"user-{number}@example.com"


async def sign_in_again_and_again(users: SQLAlchemyUsers[User, Any], number: int) -> int:
    """How often the account that signed in was the right one."""
    right = 0
    for _ in range(ROUNDS):
        found = await users.authenticate({"email": email(number), "password": PASSWORD})
        right += found is not None and found.identity.email == email(number)
    return right


def go_on(users: SQLAlchemyUsers[User, Any], fork: Fork, run: Run[Any], run_in_child: Run[Any]) -> None:
    """Parent and children sign in at the same time."""
    for number in range(CHILDREN + 1):
        run(users.create({"email": email(number), "password": PASSWORD}))

    def child(number: int) -> Any:
        return run_in_child(sign_in_again_and_again(users, number))

    with children(child, fork, CHILDREN) as results:
        assert run(sign_in_again_and_again(users, CHILDREN)) == ROUNDS
        assert results() == [ROUNDS] * CHILDREN
    assert run(sign_in_again_and_again(users, CHILDREN)) == ROUNDS


@BOTH
@pytest.mark.parametrize("driver", BLOCKING)
def test_rep_10_accounts_of_processes_that_share_an_engine(driver: str, fork: Fork, tmp_path: Path) -> None:
    engine = sa.create_engine(url_of(driver, str(tmp_path)))
    Base.metadata.create_all(engine, TABLES)
    try:
        go_on(SQLAlchemyUsers(engine, User, hasher=cheap_hasher()), fork, drive, drive)
    finally:
        Base.metadata.drop_all(engine, TABLES)
        engine.dispose()


@BOTH
@pytest.mark.parametrize("driver", ASYNC)
def test_rep_10_accounts_of_processes_that_share_an_asynchronous_engine(
    driver: str, fork: Fork, tmp_path: Path
) -> None:
    engine = create_async_engine(url_of(driver, str(tmp_path)))
    loop = asyncio.new_event_loop()
    run: Run[Any] = loop.run_until_complete
    run(_tables(engine, Base.metadata.create_all))
    users = SQLAlchemyUsers(engine, User, hasher=cheap_hasher())
    try:
        go_on(users, fork, run, asyncio.run)
    finally:
        run(_tables(engine, Base.metadata.drop_all))
        run(users.close())
        run(engine.dispose())
        loop.close()


async def _tables(engine: AsyncEngine, change: Callable[..., None]) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(lambda inner: change(inner, TABLES))


@BOTH
def test_a_child_keeps_its_copy_of_a_database_in_memory(fork: Fork) -> None:
    with memory_engine(User) as engine:
        users = SQLAlchemyUsers(engine, User, hasher=cheap_hasher())
        drive(users.create({"email": email(0), "password": PASSWORD}))
        assert in_children(lambda _: drive(sign_in_again_and_again(users, 0)), fork) == [ROUNDS]


@BOTH
def test_a_child_does_not_wait_for_a_thread_of_its_parent(fork: Fork) -> None:
    """In the parent a thread uses the one connection during the fork. The child has no such thread."""
    began, go_on = threading.Event(), threading.Event()

    def hold(*_: object) -> None:
        if not began.is_set():
            began.set()
            assert go_on.wait(60)

    with memory_engine(User) as engine, ThreadPoolExecutor(1) as pool:
        users = SQLAlchemyUsers(engine, User, hasher=cheap_hasher())
        drive(users.create({"email": email(0), "password": PASSWORD}))
        sa.event.listen(engine, "before_cursor_execute", hold)
        held = pool.submit(drive, sign_in_again_and_again(users, 0))
        assert began.wait(60)
        assert in_children(lambda _: drive(sign_in_again_and_again(users, 0)), fork) == [ROUNDS]
        go_on.set()
        assert held.result(60) == ROUNDS
