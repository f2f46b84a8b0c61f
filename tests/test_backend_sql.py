"""`SQLBackend` on the engines themselves: SQLite, PostgreSQL, MariaDB, through each driver, sync and async."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from engines import Database, database, kind_of, unique_table
from sqlalchemy import text

from powauth.backends.base import Backend, drive
from powauth.backends.sql import SQLBackend
from powauth.testing import BackendConformance


class Conformance(BackendConformance):
    """The suite through one driver, in tables of the test class, emptied before each test."""

    driver: str
    contenders = 20

    @pytest.fixture(scope="class")
    @classmethod
    def shared(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Database, str]]:
        where = database(kind_of(cls.driver), tmp_path_factory.mktemp("sql"))
        table = unique_table()
        yield where, table
        where.drop(table, f"{table}_epochs")

    @pytest.fixture(autouse=True)
    def empty(self, shared: tuple[Database, str]) -> None:
        self.where, self.table = shared
        with self.where.engine() as engine:
            backend = SQLBackend(engine, table=self.table)
            drive(backend.create_tables())
            with engine.begin() as connection:
                for table in backend.tables:
                    connection.execute(table.delete())

    def make_backend(self) -> Backend:
        return SQLBackend(self.where.through(self.driver), table=self.table)

    def second(self, backend: Backend) -> Backend:
        return self.make_backend()


class TestSQLite(Conformance):
    driver = "sqlite"


class TestAiosqlite(Conformance):
    driver = "aiosqlite"


class TestPsycopg(Conformance):
    driver = "psycopg"


class TestPsycopgAsync(Conformance):
    driver = "psycopg_async"


class TestAsyncpg(Conformance):
    driver = "asyncpg"


class TestPyMySQL(Conformance):
    driver = "pymysql"


class TestMariaDBPyMySQL(Conformance):
    driver = "mariadb_pymysql"


class TestAsyncmy(Conformance):
    driver = "asyncmy"
