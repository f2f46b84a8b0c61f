"""Databases for the tests of users (SQLite, and PostgreSQL and MariaDB if they answer), cheap hashes and counters."""

import asyncio
import os
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import NullPool, StaticPool

from powauth.accounts.passwords import PasswordHasher

T = TypeVar("T")

POSTGRESQL = os.environ.get("POWAUTH_TEST_POSTGRESQL", "//root@127.0.0.1:5432/test")
MARIADB = os.environ.get("POWAUTH_TEST_MARIADB", "//root@127.0.0.1:3306/test")

BLOCKING = ["sqlite", "postgresql+psycopg", "mariadb+pymysql"]
ASYNC = ["sqlite+aiosqlite", "postgresql+psycopg", "postgresql+asyncpg", "mariadb+asyncmy"]

PASSWORD = "seven red herons"
OTHER_PASSWORD = "eleven grey geese"


class Base(DeclarativeBase):
    """Of all models of these tests; each class has its table to itself."""


class BareUser:
    """The least columns of a user, as a program without powauth's mixins has them."""

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(sa.String(254), unique=True)
    password_hash: Mapped[str | None] = mapped_column(sa.String(255))
    is_active: Mapped[bool] = mapped_column(default=True)


def table_name() -> str:
    return f"users_{uuid.uuid4().hex}"


def cheap_hasher(**options: Any) -> PasswordHasher:
    parameters = {"time_cost": 1, "memory_cost": 64, "max_concurrent": 2, "cheap_and_unsafe": True} | options
    return PasswordHasher(**parameters)


def url_of(driver: str, folder: str) -> str:
    """The URL of a database, or a skipped test that says how to get one."""
    if driver.startswith("sqlite"):
        return f"{driver}:///{folder}/{uuid.uuid4().hex}.db"
    name, where, sync = (
        ("PostgreSQL", POSTGRESQL, "postgresql+psycopg")
        if driver.startswith("postgresql")
        else ("MariaDB", MARIADB, "mariadb+pymysql")
    )
    probe = sa.create_engine(f"{sync}:{where}", poolclass=NullPool)
    try:
        probe.connect().close()
    except DBAPIError as error:
        how = f"set POWAUTH_TEST_{name.upper()}=//user@host:port/database"
        pytest.skip(f"{name} does not answer at {where} ({type(error).__name__}); {how}")
    return f"{driver}:{where}"


@contextmanager
def blocking_engine(driver: str, folder: str, *models: type[Base]) -> Iterator[sa.Engine]:
    engine = sa.create_engine(url_of(driver, folder))
    tables = [model.__table__ for model in models]
    Base.metadata.create_all(engine, tables)  # type: ignore[arg-type]
    try:
        yield engine
    finally:
        Base.metadata.drop_all(engine, tables)  # type: ignore[arg-type]
        engine.dispose()


@contextmanager
def memory_engine(*models: type[DeclarativeBase]) -> Iterator[sa.Engine]:
    """An engine of an SQLite database in memory, which all threads share, with the tables of some models."""
    engine = sa.create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    try:
        for model in models:
            model.metadata.create_all(engine, [model.__table__])  # type: ignore[list-item]
        yield engine
    finally:
        engine.dispose()


def run_async(
    driver: str, folder: str, models: list[type[Base]], scenario: Callable[[AsyncEngine], Coroutine[Any, Any, T]]
) -> T:
    """Run a scenario over an asynchronous engine, in an event loop of its own."""
    url = url_of(driver, folder)
    tables = [model.__table__ for model in models]

    async def main() -> T:
        engine = create_async_engine(url)
        try:
            async with engine.begin() as connection:
                await connection.run_sync(lambda inner: Base.metadata.create_all(inner, tables))  # type: ignore[arg-type]
            try:
                return await scenario(engine)
            finally:
                async with engine.begin() as connection:
                    await connection.run_sync(lambda inner: Base.metadata.drop_all(inner, tables))  # type: ignore[arg-type]
        finally:
            await engine.dispose()

    return asyncio.run(main())


@contextmanager
def statements(engine: sa.Engine) -> Iterator[list[str]]:
    """The first words of all statements that reach the database meanwhile."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        seen.append(statement.split(maxsplit=1)[0])

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)
