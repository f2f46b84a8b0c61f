"""Runs work in a database, in the same way for an `Engine` and an `AsyncEngine`.

The work is a plain function of a `Session`. With an `AsyncEngine`, SQLAlchemy runs it in a greenlet and suspends the
coroutine around each round trip. With an `Engine` the coroutine never suspends.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ClassVar, Final, TypeVar

from sqlalchemy import Connection, Engine, inspect
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, NoInspectionAvailable, StatementError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Mapper, Session

from powauth import _forks
from powauth._options import wrong, wrong_type
from powauth.backends._sql_connections import LoopCheck, renew_if_cut, uncancelled
from powauth.backends._sql_errors import FailedDatabase, broke, is_failure, sql_unavailable, sqlstate, was_rolled_back
from powauth.backends._sql_forks import separate_processes
from powauth.backends._sql_sharing import are_same
from powauth.backends._sql_turns import async_connection_of, connection_of
from powauth.backends.base import Mode

T = TypeVar("T")

_MARIADB_OTHER_CHARACTERS = frozenset({1267, 1270, 1271, 1977})
"""ER_CANT_AGGREGATE_2COLLATIONS, …_3COLLATIONS, …_NCOLLATIONS, ER_CANNOT_CONVERT_CHARACTER."""

_MARIADB_CONSTRAINT_FAILED = 4025
_DATA_EXCEPTION = "22"
"""Class of the SQLSTATEs for values that do not fit. asyncpg reports them without a specific error class."""

_POSTGRESQL_OTHER_TYPE = ("42883", "42846")
"""SQLSTATEs: undefined_function, cannot_coerce."""

OWN: Final = "powauth"
"""The key in ``Session.info`` of powauth's own database sessions. `powauth.accounts.following` passes them over."""

MAX_ROLLBACKS: Final = 10
"""The most repetitions of work that the server rolls back each time."""

_USERS = FailedDatabase("the users' database", "run the app's migrations, or its metadata.create_all(engine)")


class Database(ABC):
    """Runs each piece of work in a new session."""

    mode: ClassVar[Mode]

    async def connected(self, work: Callable[[Connection], T]) -> T:
        """Return the result of work on a connection. Uncommitted changes are rolled back.

        The work runs again if the server rolled it back to end a deadlock, or if the connection was cut at a SELECT. So
        it must commit nothing before its last statement.

        Raises:
            StoreUnavailable: if there is no connection, or the database failed.
            StatementError: if the database works but refused a value.
        """
        _forks.check()  # gives a forked process its own pool
        repetitions = {was_rolled_back: MAX_ROLLBACKS, _is_cut_read: 1}
        with _translated():
            while True:
                try:
                    return await self._once(work)
                except StatementError as error:
                    reason = next((each for each in repetitions if each(error)), None)
                    if reason is None or not repetitions[reason]:
                        raise
                    repetitions[reason] -= 1

    @abstractmethod
    async def _once(self, work: Callable[[Connection], T]) -> T: ...

    async def run(self, work: Callable[[Session], T]) -> T:
        """Return the result of work in a session, and close the session. It raises the errors of `connected`."""
        return await self.connected(lambda connection: _in_session(work, connection))


class SyncDatabase(Database):
    """Runs work over an `Engine`."""

    mode = "blocking"

    def __init__(self, engine: Engine) -> None:
        separate_processes(engine)
        self._engine = engine

    async def _once(self, work: Callable[[Connection], T]) -> T:
        with connection_of(self._engine) as connection:
            renew_if_cut(connection)
            return work(connection)


class AsyncDatabase(Database):
    """Runs work over an `AsyncEngine`."""

    mode = "async"

    def __init__(self, engine: AsyncEngine) -> None:
        separate_processes(engine.sync_engine)
        self._engine = engine
        self._loops = LoopCheck()

    async def _once(self, work: Callable[[Connection], T]) -> T:
        def checked(connection: Connection) -> T:
            renew_if_cut(connection)
            return work(connection)

        async def connected() -> T:
            async with async_connection_of(self._engine) as connection:
                return await connection.run_sync(checked)

        self._loops.check(self._engine.sync_engine)
        return await uncancelled(connected(), self._engine.dialect)


def database_of(engine: object) -> Database:
    """Return the database of an engine.

    Raises:
        ConfigError: if ``engine`` is no engine.
    """
    if isinstance(engine, Engine):
        return SyncDatabase(engine)
    if isinstance(engine, AsyncEngine):
        return AsyncDatabase(engine)
    raise wrong_type("engine", "a SQLAlchemy Engine or AsyncEngine", engine)


def have_one_table(one: Engine, other: Engine) -> bool:
    """Return whether a table of a model is the same through two engines, as far as their URLs tell."""
    maps = [each.get_execution_options().get("schema_translate_map") for each in (one, other)]
    return maps[0] == maps[1] and are_same(one, other)


def refuses_values(error: StatementError) -> bool:
    """Return whether the database, or the type of a column, only refused the values. The database itself works."""
    return (
        not isinstance(error, DBAPIError)
        or isinstance(error, IntegrityError | DataError)
        # MariaDB's drivers report a failed CHECK as an operational error.
        or (error.orig is not None and error.orig.args[:1] == (_MARIADB_CONSTRAINT_FAILED,))
        or (sqlstate(error.orig) or "").startswith(_DATA_EXCEPTION)
        or lacks_characters(error)
    )


def lacks_characters(error: StatementError) -> bool:
    """Return whether MariaDB cannot compare a value with a column whose character set lacks one of its characters.

    Many older tables are in latin1 or in utf8mb3.
    """
    number = error.orig.args[0] if error.orig is not None and error.orig.args else None
    return isinstance(number, int) and number in _MARIADB_OTHER_CHARACTERS


def is_incomparable(error: StatementError) -> bool:
    """Return whether PostgreSQL cannot compare a value with a column because their types differ."""
    return sqlstate(error.orig) in _POSTGRESQL_OTHER_TYPE


def _in_session(work: Callable[[Session], T], connection: Connection) -> T:
    with Session(connection, expire_on_commit=False, autoflush=False, info={OWN: True}) as session:
        return work(session)


def _is_cut_read(error: StatementError) -> bool:
    """Return whether the connection broke at a SELECT. The work may then run again."""
    return broke(error) and (error.statement or "").lstrip()[:6].upper() == "SELECT"


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if isinstance(error, StatementError):
            error.hide_parameters = True  # they include a password hash, and tracebacks are logged
        if not is_failure(error) or (isinstance(error, StatementError) and refuses_values(error)):
            raise
        raise sql_unavailable(error, _USERS) from error


def check_model(what: str, model: object, mixin: type) -> None:
    """Check that a model has a mixin, and so the columns that an extension reads and writes.

    Raises:
        ConfigError: if it is no declarative class with the mixin.
    """
    try:
        mapper = inspect(model)
    except NoInspectionAvailable:
        mapper = None
    if not isinstance(mapper, Mapper) or not issubclass(mapper.class_, mixin):
        raise wrong(what, f"a declarative class with {mixin.__name__}", model)
