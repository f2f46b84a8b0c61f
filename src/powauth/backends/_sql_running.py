"""The execution of a verb on a SQL database: connections, transactions, retries and the time limit.

`powauth.backends.sql` explains the retries.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from random import uniform
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, TypeVar

from powauth import _forks
from powauth._outages import Failure, unavailable
from powauth.backends._sql_connections import LoopCheck, needs_transaction, renew_if_cut, uncancelled
from powauth.backends._sql_errors import FailedDatabase, broke, is_failure, sql_unavailable, was_rolled_back
from powauth.backends._sql_statements import Statement
from powauth.backends._sql_turns import async_connection_of, connection_of
from powauth.errors import ConfigError

# isort: split
# The modules above say what to install where SQLAlchemy is missing.
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, StatementError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

T = TypeVar("T")

MAX_ATTEMPTS = 30
"""The most attempts at a verb that the server rolls back each time. The time limit may end them earlier."""

MAX_PAUSE_SECONDS = 0.1
"""The longest pause between two attempts. The bound doubles each time. Each pause is random, to separate rivals."""

_NO_BACKSLASH_ESCAPES = 512
"""MariaDB's SERVER_STATUS_NO_BACKSLASH_ESCAPES."""


class NotCommittedError(Exception):
    """A transaction failed before its commit was sent: it has had no effect. ``__cause__`` is the reason."""


class AnswerLostError(Exception):
    """A connection broke after a write was sent. Nobody can tell whether the write took effect."""


class Runner:
    """Executes work on the connections of an engine.

    Args:
        engine: the engine for threads, or the one for an event loop.
        seconds: the longest time that a verb may take.
        database: the database that error messages name.
        commits: whether each write ends with a commit, because autocommit is not certain.
    """

    def __init__(
        self, engine: "Engine | AsyncEngine", seconds: float, database: FailedDatabase, *, commits: bool
    ) -> None:
        self._engine: Engine | None = engine if isinstance(engine, Engine) else None
        self._async_engine: AsyncEngine | None = None if isinstance(engine, Engine) else engine
        self._dialect = engine.dialect
        self._is_maria = engine.dialect.name in {"mysql", "mariadb"}
        self._seconds = seconds
        self._failed_database = database
        self._commits = commits
        self._loops = LoopCheck()
        self._closed = False

    def close(self) -> None:
        """Refuse all later work."""
        self._closed = True

    async def read(self, statement: Statement, **values: object) -> Sequence[Sequence[Any]]:
        def work(connection: Connection) -> Sequence[Sequence[Any]]:
            return statement(connection, **values).all()

        return await self.run(work, again=work)

    async def write(self, work: Callable[[Connection], T], *, again: Callable[[Connection], T] | None = None) -> T:
        def committed(work: Callable[[Connection], T]) -> Callable[[Connection], T]:
            def whole(connection: Connection) -> T:
                result = work(connection)
                if self._commits:
                    # Under autocommit this sends nothing. An app's hooks on its engine may have begun a transaction.
                    connection.commit()
                return result

            return whole

        return await self.run(committed(work), again=None if again is None else committed(again))

    def transaction(self, connection: Connection, work: Callable[[], T]) -> T:
        explicit = False
        try:
            if self._dialect.name == "postgresql":
                connection.execution_options(isolation_level="READ COMMITTED")
            connection.begin()
            if self._is_maria:
                connection.exec_driver_sql("START TRANSACTION")
                explicit = True
            elif self._dialect.name == "sqlite" and not _in_sqlite_transaction(connection):
                connection.exec_driver_sql("BEGIN IMMEDIATE")
                explicit = True
            result = work()
        except BaseException as error:
            if explicit:
                # SQLAlchemy does not know this transaction. Close the connection to end it. SQLite ends it only with
                # the last cursor, and keeps its lock until then.
                if self._dialect.name == "sqlite":
                    with contextlib.suppress(DBAPIError):
                        connection.exec_driver_sql("ROLLBACK")
                connection.invalidate()
            if isinstance(error, StatementError):
                raise NotCommittedError from error
            raise
        if explicit:
            try:
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                connection.invalidate()
                raise
        else:
            connection.commit()
        return result

    def check_server(self, connection: Connection) -> None:
        if not self._is_maria:
            return
        if not getattr(connection.dialect, "is_mariadb", False):
            raise ConfigError("SQLBackend serves MariaDB, which has RETURNING; not MySQL")
        driver = connection.connection.driver_connection
        if connection.dialect.driver == "asyncmy" and getattr(driver, "server_status", 0) & _NO_BACKSLASH_ESCAPES:
            raise ConfigError("asyncmy does not escape under sql_mode NO_BACKSLASH_ESCAPES: take it out of sql_mode")

    async def run(self, work: Callable[[Connection], T], *, again: Callable[[Connection], T] | None = None) -> T:
        """Borrow a connection, do the work, and turn the database's errors into `StoreUnavailable`.

        Args:
            work: a function of the connection.
            again: the function to call instead, once, if the connection broke and ``work`` may have taken effect. If it
                is ``None``, that failure is an error.
        """
        if self._closed:
            raise unavailable(Failure("the SQL backend is closed"))
        try:
            if self._async_engine is None:
                return await self._attempts(work, again)
            _forks.check()  # gives a forked process its own pool
            self._loops.check(self._async_engine.sync_engine)
            async with asyncio.timeout(self._seconds):
                attempts = self._attempts(work, again)
                return await uncancelled(attempts, self._dialect)
        except (NotCommittedError, AnswerLostError) as error:
            raise sql_unavailable(error.__cause__, self._failed_database) from error.__cause__
        except Exception as error:
            # An OSError may be a TimeoutError, or a socket's error that the driver passes on.
            if is_failure(error):
                raise sql_unavailable(error, self._failed_database) from error
            raise

    async def _attempts(self, work: Callable[[Connection], T], again: Callable[[Connection], T] | None) -> T:
        deadline = monotonic() + self._seconds
        attempt = 0
        lost: StatementError | None = None
        while True:
            attempt += 1
            try:
                return await self._once(work)
            except AnswerLostError as error:
                raise error from lost
            except (StatementError, NotCommittedError) as error:
                uncommitted = isinstance(error, NotCommittedError)  # the work has had no effect
                cause = error.__cause__ if uncommitted else error
                repeat = isinstance(cause, StatementError) and was_rolled_back(cause)
                if isinstance(cause, StatementError) and broke(cause) and lost is None:
                    lost = cause  # the connection broke for the first time
                    if uncommitted:
                        repeat = True
                    elif again is not None:  # the work may have had an effect
                        work, repeat = again, True
                if not repeat or attempt == MAX_ATTEMPTS or monotonic() > deadline:
                    raise
            if attempt > 1:
                pause = uniform(0, min(MAX_PAUSE_SECONDS, 0.001 * 2**attempt))  # noqa: S311 not a secret
                if self._async_engine is None:
                    sleep(pause)  # noqa: ASYNC251 no event loop runs this
                else:
                    await asyncio.sleep(pause)

    async def _once(self, work: Callable[[Connection], T]) -> T:
        _forks.check()

        def checked(connection: Connection) -> T:
            renew_if_cut(connection)
            self.check_server(connection)
            if not needs_transaction(connection):
                return work(connection)
            connection.execution_options(isolation_level="READ COMMITTED")
            result = work(connection)
            connection.commit()
            return result

        if self._engine is not None:
            with connection_of(self._engine) as connection:
                return checked(connection)
        assert self._async_engine is not None  # noqa: S101 one of the two is there
        async with async_connection_of(self._async_engine) as asynchronous:
            return await asynchronous.run_sync(checked)


def _in_sqlite_transaction(connection: Connection) -> bool:
    return bool(getattr(connection.connection.driver_connection, "in_transaction", False))
