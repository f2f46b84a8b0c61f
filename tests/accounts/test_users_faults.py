"""`SQLAlchemyUsers` when its database has cut connections, lacks a table, or fails: and what the log says."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool

from harness.tcp_proxy import Proxy
from harness.users_databases import PASSWORD, Base, blocking_engine, cheap_hasher, table_name, url_of
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.base import drive
from powauth.errors import ConfigError, StoreMissing, StoreUnavailable

MIA: dict[str, object] = {"email": "mia@example.com", "password": PASSWORD}
LEO: dict[str, object] = {"email": "leo@example.com", "password": PASSWORD}
SYNC = {"postgresql": "postgresql+psycopg", "mariadb": "mariadb+pymysql"}
DRIVERS = [*SYNC.values(), "postgresql+psycopg_async", "postgresql+asyncpg", "mariadb+asyncmy"]


class Member(UserMixin, Base):
    __tablename__ = table_name()


class Missing(UserMixin, Base):
    """A model whose table nobody creates."""

    __tablename__ = table_name()


pytestmark = pytest.mark.usefixtures("new_outage_log")

Scenario = Callable[[SQLAlchemyUsers[Member, Any], Proxy], Coroutine[Any, Any, None]]


def on_proxy(driver: str, folder: Path, scenario: Scenario) -> None:
    """Run a scenario on users whose database is reached through a proxy, over an engine with SQLAlchemy's defaults."""
    with blocking_engine(SYNC[driver.partition("+")[0]], str(folder), Member):
        url = sa.make_url(url_of(driver, str(folder)))
        with Proxy(url.host or "127.0.0.1", url.port or 0) as proxy:
            through = url.set(host="127.0.0.1", port=proxy.port)

            async def whole() -> None:
                engine = create_async_engine(through)
                try:
                    await scenario(SQLAlchemyUsers(engine, Member, hasher=cheap_hasher()), proxy)
                finally:
                    await engine.dispose()

            if driver in SYNC.values():
                engine = sa.create_engine(through)
                drive(scenario(SQLAlchemyUsers(engine, Member, hasher=cheap_hasher()), proxy))
                engine.dispose()
            else:
                asyncio.run(whole())


@pytest.mark.parametrize("driver", DRIVERS)
def test_rep_13_the_first_sign_in_after_idle_connections_were_cut_works(driver: str, tmp_path: Path) -> None:
    async def scenario(users: SQLAlchemyUsers[Member, Any], proxy: Proxy) -> None:
        await users.create(MIA)
        proxy.cut()
        assert await users.authenticate(MIA) is not None
        proxy.cut()
        await users.create(LEO)
        proxy.cut()
        assert await users.get_by(email="leo@example.com") is not None
        proxy.reset_next()
        assert await users.authenticate(MIA) is not None
        proxy.lose_next_reply()
        assert await users.authenticate(MIA) is not None

    on_proxy(driver, tmp_path, scenario)


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_registration_whose_answer_was_lost_is_not_repeated(driver: str, tmp_path: Path) -> None:
    async def scenario(users: SQLAlchemyUsers[Member, Any], proxy: Proxy) -> None:
        assert await users.get_by(email="mia@example.com") is None
        proxy.reset_next()
        with pytest.raises(StoreUnavailable):
            await users.create(MIA)
        await users.create(MIA)

    on_proxy(driver, tmp_path, scenario)


Rivalry = Callable[[SQLAlchemyUsers[Member, Any], sa.Engine, sa.Engine], Coroutine[Any, Any, None]]


def beside_a_rival(driver: str, folder: Path, scenario: Rivalry, **options: Any) -> None:
    """Run a scenario on users, their engine (the one for events), and an engine of another program."""
    with blocking_engine(SYNC[driver.partition("+")[0]], str(folder), Member) as rival:
        url = url_of(driver, str(folder))
        if driver in SYNC.values():
            engine = sa.create_engine(url, **options)
            drive(scenario(SQLAlchemyUsers(engine, Member, hasher=cheap_hasher()), engine, rival))
            engine.dispose()
            return

        async def whole() -> None:
            asynchronous = create_async_engine(url, **options)
            try:
                users = SQLAlchemyUsers(asynchronous, Member, hasher=cheap_hasher())
                await scenario(users, asynchronous.sync_engine, rival)
            finally:
                await asynchronous.dispose()

        asyncio.run(whole())


def before_the_first(verb: str, engine: sa.Engine, work: Callable[[sa.Connection], None]) -> None:
    """Do something on the connection of the first statement with that verb, before it."""
    done: list[bool] = []

    def listen(connection: sa.Connection, cursor: object, statement: str, *rest: object) -> None:
        if statement.startswith(verb) and not done:
            done.append(True)
            work(connection)

    sa.event.listen(engine, "before_cursor_execute", listen)


@pytest.mark.parametrize("driver", [each for each in DRIVERS if each.startswith("postgresql")])
def test_a_change_that_cannot_be_serialised_is_repeated(driver: str, tmp_path: Path) -> None:
    """In this isolation level, PostgreSQL refuses to change a row that has changed since the transaction began."""

    async def scenario(users: SQLAlchemyUsers[Member, Any], engine: sa.Engine, rival: sa.Engine) -> None:
        account = await users.create(MIA)

        def overtake(connection: sa.Connection) -> None:
            connection.exec_driver_sql("SELECT 1")  # the transaction sees the state of this moment
            with rival.begin() as theirs:
                theirs.execute(sa.update(Member).values(created_at=datetime(2026, 1, 1, tzinfo=UTC)))

        before_the_first("UPDATE", engine, overtake)
        changed = await users.update(account.key, {"email": "mia@example.org"}, trusted=True)
        assert changed.key == account.key
        assert await users.get_by(email="mia@example.org") is not None

    beside_a_rival(driver, tmp_path, scenario, isolation_level="REPEATABLE READ")


@pytest.mark.parametrize("driver", [each for each in DRIVERS if each.startswith("mariadb")])
def test_a_change_that_loses_a_deadlock_is_repeated(driver: str, tmp_path: Path) -> None:
    """MariaDB ends a deadlock by rolling back the transaction that has changed fewer rows."""

    async def scenario(users: SQLAlchemyUsers[Member, Any], engine: sa.Engine, rival: sa.Engine) -> None:
        mia, leo, *others = [
            await users.create({**MIA, "email": f"{name}@example.com"}) for name in ("mia", "leo", *"abcdef")
        ]
        moment = {"created_at": datetime(2026, 1, 1, tzinfo=UTC)}
        with rival.connect() as theirs, ThreadPoolExecutor(1) as pool:
            for each in (leo, *others):
                theirs.execute(sa.update(Member).where(Member.id == each.key).values(moment))

            def take_mia() -> None:
                theirs.execute(sa.update(Member).where(Member.id == mia.key).values(moment))
                theirs.commit()

            def cross(connection: sa.Connection) -> None:
                connection.execute(sa.select(Member.id).where(Member.id == mia.key).with_for_update())
                running.append(pool.submit(take_mia))
                connection.execute(sa.select(Member.id).where(Member.id == leo.key).with_for_update())

            running: list[Future[None]] = []
            before_the_first("UPDATE", engine, cross)
            changed = await users.update(mia.key, {"email": "mia@example.org"}, trusted=True)
            running[0].result()
        assert changed.key == mia.key
        assert await users.get_by(email="mia@example.org") is not None

    beside_a_rival(driver, tmp_path, scenario)


def test_rep_06_a_missing_users_table_is_named_with_what_creates_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for driver in ("sqlite", *SYNC.values()):
        engine = sa.create_engine(url_of(driver, str(tmp_path)))
        caplog.clear()
        with pytest.raises(StoreMissing) as caught:
            drive(SQLAlchemyUsers(engine, Missing, hasher=cheap_hasher()).authenticate(MIA))
        engine.dispose()
        for text in (str(caught.value), caplog.text):
            assert "the users' database lacks a table: run the app's migrations" in text
            assert "metadata.create_all(engine)" in text
            assert Missing.__tablename__ in text
            assert "mia" not in text
        (line,) = caplog.records
        assert (line.name, line.levelno, line.exc_info) == ("powauth", logging.ERROR, None)


def test_rep_06_a_missing_column_of_the_users_table_is_a_migration_that_did_not_run(tmp_path: Path) -> None:
    for driver in ("sqlite", *SYNC.values()):
        with blocking_engine(driver, str(tmp_path), Member) as engine:
            with engine.begin() as connection:
                connection.execute(sa.text(f"ALTER TABLE {Member.__tablename__} RENAME COLUMN password_hash TO was"))
            with pytest.raises(StoreMissing, match="a migration has not run") as caught:
                drive(SQLAlchemyUsers(engine, Member, hasher=cheap_hasher()).authenticate(MIA))
            assert "metadata.create_all, adds no column to one that exists" in str(caught.value)


def test_a_connection_of_another_thread_is_a_wrong_engine() -> None:
    engine = sa.create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine, [Base.metadata.tables[Member.__tablename__]])
    with closing(engine.raw_connection()) as borrowed:
        connection = borrowed.driver_connection
    assert connection is not None
    users = SQLAlchemyUsers(engine, Member, hasher=cheap_hasher())
    with ThreadPoolExecutor(1) as pool, pytest.raises(StoreUnavailable, match="check_same_thread=False"):
        pool.submit(drive, users.authenticate(MIA)).result()
    engine.dispose()
    connection.close()  # the other thread has dropped it from the pool, and could not close it


def test_an_error_of_the_apps_own_engine_is_not_an_outage(tmp_path: Path) -> None:
    with blocking_engine("sqlite", str(tmp_path), Member) as engine:
        users = SQLAlchemyUsers(engine, Member, hasher=cheap_hasher())

        def fails(*_: object) -> None:
            raise LookupError("a mistake of the app's own")

        for name in ("before_cursor_execute", "do_connect"):
            engine.dispose()
            sa.event.listen(engine, name, fails)
            with pytest.raises(LookupError):
                drive(users.authenticate(MIA))
            sa.event.remove(engine, name, fails)


@pytest.mark.parametrize("driver", ["postgresql+asyncpg", "mariadb+asyncmy"])
def test_an_engine_of_another_event_loop_is_refused_with_the_reason(driver: str, tmp_path: Path) -> None:
    with blocking_engine(SYNC[driver.partition("+")[0]], str(tmp_path), Member):
        engine = create_async_engine(url_of(driver, str(tmp_path)))
        users = SQLAlchemyUsers(engine, Member, hasher=cheap_hasher())
        with asyncio.Runner() as first:
            assert first.run(users.authenticate(MIA)) is None
            with asyncio.Runner() as second:
                for _ in range(2):
                    with pytest.raises(ConfigError, match="used on another event loop"):
                        second.run(users.authenticate(MIA))
            assert first.run(users.authenticate(MIA)) is None
            first.run(engine.dispose())
        with asyncio.Runner() as third:  # a pool of its own, since the engine was disposed of
            assert third.run(users.authenticate(MIA)) is None
            third.run(engine.dispose())
