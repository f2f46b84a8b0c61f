"""One way to run a piece of work in a database, for `Engine` and `AsyncEngine` alike.

The work is an ordinary function of a `Connection`, or of a `Session` on one. With an `AsyncEngine` SQLAlchemy runs it
in a greenlet and suspends the coroutine around each round trip; with an `Engine` the coroutine never suspends.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import ClassVar, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from powauth import _forks
from powauth.backends._sql_forks import separate_processes
from powauth.backends.base import Mode
from powauth.errors import ConfigError, StoreUnavailable

T = TypeVar("T")

_MARIADB_CONSTRAINT_FAILED = 4025


class Database(ABC):
    """Where work runs."""

    mode: ClassVar[Mode]

    @abstractmethod
    async def connected(self, work: Callable[[Connection], T]) -> T:
        """The result of work on a connection. What it does not commit is rolled back.

        Raises:
            StoreUnavailable: no connection could be had, or the database failed.
            StatementError: the database is well and refused a value.
        """

    async def run(self, work: Callable[[Session], T]) -> T:
        """The result of work in an ORM session. Its objects are detached; else as `connected`."""
        return await self.connected(lambda connection: _in_session(work, connection))


class SyncDatabase(Database):
    """Over an `Engine`."""

    mode = "blocking"

    def __init__(self, engine: Engine) -> None:
        separate_processes(engine)
        self._engine = engine

    async def connected(self, work: Callable[[Connection], T]) -> T:
        """See `Database.connected`."""
        _forks.check()
        with _translated():
            with _connecting():
                connection = self._engine.connect()
            with connection:
                return work(connection)


class AsyncDatabase(Database):
    """Over an `AsyncEngine`."""

    mode = "async"

    def __init__(self, engine: AsyncEngine) -> None:
        separate_processes(engine.sync_engine)
        self._engine = engine

    async def connected(self, work: Callable[[Connection], T]) -> T:
        """See `Database.connected`."""
        _forks.check()
        with _translated():
            async with AsyncExitStack() as stack:
                with _connecting():
                    connection = await stack.enter_async_context(self._engine.connect())
                return await connection.run_sync(work)


def database_of(engine: object) -> Database:
    """The database behind an engine.

    Raises:
        ConfigError: it is no engine.
    """
    if isinstance(engine, Engine):
        return SyncDatabase(engine)
    if isinstance(engine, AsyncEngine):
        return AsyncDatabase(engine)
    raise ConfigError(f"engine must be a SQLAlchemy Engine or AsyncEngine; got {type(engine).__name__}")


def _is_about_values(error: DBAPIError) -> bool:
    """Whether the database is well and only refused what it was given: a constraint, or a value out of range."""
    return isinstance(error, IntegrityError | DataError) or (
        # MariaDB's CHECK, which its drivers take for an operational error.
        error.orig is not None and error.orig.args[:1] == (_MARIADB_CONSTRAINT_FAILED,)
    )


def _in_session(work: Callable[[Session], T], connection: Connection) -> T:
    with Session(connection, expire_on_commit=False, autoflush=False) as session:
        return work(session)


@contextmanager
def _connecting() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each driver has errors of its own here, which SQLAlchemy does not wrap
        raise StoreUnavailable("the users' database cannot be reached") from error


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except StatementError as error:
        error.hide_parameters = True  # a password hash among them; tracebacks are logged
        if not isinstance(error, DBAPIError) or _is_about_values(error):
            raise
        raise StoreUnavailable("the users' database failed") from error
    except (PoolTimeout, OSError) as error:
        raise StoreUnavailable("the users' database cannot be reached") from error
