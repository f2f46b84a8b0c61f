"""Apps for the tests of ``powauth --app``: modules in a folder, over real databases and stores."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from harness.engines import DRIVERS, database, kind_of, unique_table
from harness.support import SECRET
from powauth.cli import main

MODULE = """
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import NullPool

from powauth import Extension, SessionAuth
from powauth.accounts.passwords import PasswordHasher
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.sql import SQLBackend


class Base(DeclarativeBase):
    pass


class User(UserMixin, Base):
    __tablename__ = {table!r}
    name: Mapped[str] = mapped_column(sa.String(80))
    age: Mapped[int | None]
    {active}


class Noting(Extension):
    name = "noting"
    told = []

    async def credentials_changed(self, key, why):
        self.told.append((key, why))


made = sa.create_engine({sync!r}, poolclass=NullPool)
Base.metadata.create_all(made)
url = {url!r}
engine = create_async_engine(url, poolclass=NullPool) if {waits!r} else sa.create_engine(url, poolclass=NullPool)
hasher = PasswordHasher(time_cost=1, memory_cost=64, max_concurrent=2, cheap_and_unsafe=True)
events = []
auth = SessionAuth(
    secret_key={secret!r},
    users=SQLAlchemyUsers(engine, User, fields=["name", "age"], hasher=hasher),
    backend={backend},
    extensions=[Noting()] if {extended!r} else [],
    on_event=events.append,
)


def create_auth():
    return auth
"""

ACTIVE = "is_active: Mapped[bool] = mapped_column(default=True)"


@dataclass
class App:
    """An app's module ``shop_app`` in a folder, and the command with ``--app shop_app:auth``."""

    folder: Path
    table: str
    server: sa.URL
    capsys: pytest.CaptureFixture[str]

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command as a new process would: the module is imported anew."""
        forget()
        status = main(["--app", "shop_app:auth", *arguments])
        printed = self.capsys.readouterr()
        return status, printed.out, printed.err

    def users(self, *arguments: str) -> tuple[int, str, str]:
        return self.run("users", *arguments)

    def rows(self, statement: str, **values: object) -> list[tuple[object, ...]]:
        """Run a statement on the users' table, past powauth."""
        engine = sa.create_engine(self.server)
        try:
            with engine.begin() as connection:
                result = connection.execute(sa.text(statement.format(users=self.table)), values)
                return [tuple(row) for row in result] if result.returns_rows else []
        finally:
            engine.dispose()


def forget() -> None:
    """Let the next import of the app make a new module."""
    sys.modules.pop("shop_app", None)


@contextmanager
def app_in(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    driver: str = "sqlite",
    backend: str = "'lmdb:store'",
    active: str = ACTIVE,
    extended: bool = False,
    change: Callable[[str], str] = lambda text: text,
) -> Iterator[App]:
    """Write the app into a folder, which must be the current directory."""
    where, table = database(kind_of(driver), folder), unique_table()
    sync = where.through({"sqlite": "sqlite", "postgresql": "psycopg", "mariadb": "mariadb_pymysql"}[where.kind])
    waits = driver in {"aiosqlite", "psycopg_async", "asyncpg", "asyncmy"}
    text = MODULE.format(
        table=table,
        active=active,
        sync=sync,
        url=where.server.set(drivername=DRIVERS[driver]).render_as_string(hide_password=False),
        waits=waits,
        secret=SECRET,
        backend=backend,
        extended=extended,
    )
    (folder / "shop_app.py").write_text(change(text))
    try:
        yield App(folder, table, sa.make_url(sync), capsys)
    finally:
        forget()
        where.drop(table)
