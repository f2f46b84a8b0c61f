"""`SQLAlchemyUsers` on databases that fail, and what its errors and logs show."""

import asyncio
import logging

import pytest
import sqlalchemy as sa
from scripts.ports import free_port
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import QueuePool

from harness.people import MIA, Person, errors_of, people
from powauth.backends.base import drive
from powauth.errors import InvalidParams, StoreUnavailable


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "mariadb+pymysql"])
def test_a_database_that_does_not_answer_is_store_unavailable(driver: str) -> None:
    engine = sa.create_engine(f"{driver}://root@127.0.0.1:{free_port()}/test")
    users = people(engine)
    for attempt in (users.authenticate(MIA), users.create(MIA), users.find("mia@example.com")):
        with pytest.raises(StoreUnavailable) as refused:
            drive(attempt)
        assert refused.value.__cause__ is not None
        assert "root" not in str(refused.value)


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "postgresql+asyncpg", "mariadb+asyncmy"])
def test_an_asynchronous_database_that_does_not_answer_is_store_unavailable(driver: str) -> None:
    async def main() -> None:
        engine = create_async_engine(f"{driver}://root@127.0.0.1:{free_port()}/test")
        with pytest.raises(StoreUnavailable):
            await people(engine).authenticate(MIA)
        await engine.dispose()

    asyncio.run(main())


def test_a_table_that_is_not_there_is_store_unavailable() -> None:
    engine = sa.create_engine("sqlite://")
    with pytest.raises(StoreUnavailable, match="lacks a table"):
        drive(people(engine).authenticate(MIA))
    engine.dispose()


def test_a_pool_without_a_free_connection_is_store_unavailable(engine: sa.Engine) -> None:
    small = sa.create_engine(engine.url, poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.01)
    with small.connect(), pytest.raises(StoreUnavailable, match="no free connection"):
        drive(people(small).authenticate(MIA))
    drive(people(small).create(MIA))
    assert drive(people(small).authenticate(MIA)) is not None
    small.dispose()


def test_a_connection_that_breaks_is_store_unavailable_and_the_next_one_works(engine: sa.Engine) -> None:
    users = people(engine)
    drive(users.create(MIA))

    def breaks(*_: object) -> None:
        raise OSError("cut off")

    sa.event.listen(engine, "before_cursor_execute", breaks)
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        drive(users.authenticate(MIA))
    sa.event.remove(engine, "before_cursor_execute", breaks)
    assert drive(users.authenticate(MIA)) is not None


def test_a_refusal_is_logged_without_values(engine: sa.Engine, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "powauth.accounts"):
        errors_of(people(engine).create(MIA | {"age": 500}))
    assert "IntegrityError" in caplog.text
    assert "mia" not in caplog.text


def test_no_error_shows_the_values_of_a_statement(engine: sa.Engine) -> None:
    users = people(engine)
    drive(users.create(MIA))
    with pytest.raises(InvalidParams) as taken:
        drive(users.create(MIA))
    with engine.begin() as connection:
        connection.execute(sa.text(f"DROP TABLE {Person.__tablename__}"))
    with pytest.raises(StoreUnavailable) as gone:
        drive(users.create(MIA))
    for refused in (taken.value, gone.value):
        assert "argon2" not in str(refused.__cause__)
        assert "mia@example.com" not in str(refused.__cause__)
