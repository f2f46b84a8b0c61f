"""`SQLBackend`: records in the database that an app already has: SQLite, PostgreSQL or MariaDB, over SQLAlchemy Core.

**One code path.** Each verb is written once, as a function of a SQLAlchemy ``Connection``. With an ``Engine`` the verb
calls it directly, and the coroutine never suspends. With an ``AsyncEngine``, SQLAlchemy's ``run_sync`` runs it.

**One statement per verb**, in autocommit, so that a `SQLBackend.get` is one round trip. Exceptions: `delete_owner`
(a transaction of two), `purge` (a second for the epochs), and `create` on MariaDB (two; see below).

**A sign-in cannot slip past a revocation**, at any isolation level. `create` and `delete_owner` both lock the owner's
row in the table of epochs. The second one waits there and then sees the changes of the first:

- PostgreSQL: `create` inserts or rewrites that row, if its epoch is the expected one, in the same statement (a CTE)
  that inserts the record. A lock would be enough at READ COMMITTED. The write also protects a revocation inside an
  app's own REPEATABLE READ transaction: it fails to serialise instead of missing a record that its snapshot hides.
- MariaDB: `create` makes sure that the row exists, then inserts the record from a locking read of the row. It locks an
  existing row and not a gap, so it does not depend on the isolation level.
- SQLite: a statement that writes excludes all other writers.

Afterwards `delete_owner` removes the records in a separate statement, which sees all earlier commits.

**Failures.** Errors of the database, its driver or the pool become `StoreUnavailable`.
`powauth.backends._sql_errors` supplies the messages. If the server rolls a verb back (a deadlock, a serialisation
failure), the verb is retried within the time limit.

**Cut connections.** If the server has closed a pooled connection (it was restarted, or cuts idle ones), the connection
is replaced before the first statement; see `powauth.backends._sql_connections`. If a connection breaks later, nobody
knows whether the server has executed the statement. The verb is then repeated once on a new connection:

- Reads, `purge` and `epoch` are repeated unchanged: advancing an epoch twice does no harm.
- `update` compares versions. If the first attempt took effect, the second answers ``False``, and its caller reads.
- `create` reads the record back if the second attempt finds the key taken. If it is the same record, it was created.
  Without an epoch the answer is ``False``, because counters of two callers may be equal.
- `delete` raises `StoreUnavailable` if the second attempt finds nothing: nobody can tell who removed the record.
- `delete_owner` is repeated only if its commit was not sent yet.

**SQLite in WAL mode.** `SQLBackend.get` reads through connections outside the pool, which never wait: see
`powauth.backends._sqlite_reader`. So ``mode`` is ``"blocking"`` only because of the writes, and an event loop may read
in place. Over an ``Engine`` for SQLite, ``SQLBackend(engine)`` is a `SQLiteBackend`, which has that ability. The app's
own ``Engine`` has it, too, if its pool is a ``QueuePool`` (the default) or ``NullPool``, its file is in WAL mode, and
its statements have no listeners and are not logged.

**Replicas.** Always point this backend at the primary. A replica that lags shows sessions that were signed out, and
hides new ones.

**An engine of your own** (to share the app's pool) keeps its settings. Give it the settings that a URL would get: time
limits for connecting, for statements and for answers, and ``hide_parameters=True``. Further:

- SQLite: ``PRAGMA journal_mode=WAL``, ``PRAGMA synchronous=FULL``, and ``connect_args={"timeout": 5}``. Nobody else may
  write to the file (a URL makes a new one with mode 0600, and does not change the mode of an existing one).
- MariaDB: ``isolation_level="AUTOCOMMIT"`` with ``skip_autocommit_rollback=True``. Otherwise each verb also waits for a
  ``COMMIT`` or ``ROLLBACK``. A second engine, made from a URL, is often the better choice there.
- PostgreSQL behind a pooler in transaction mode: see **Poolers** below.

**Poolers.** A pooler in transaction mode, such as PgBouncer, gives each transaction another connection of the server.
Add ``?pooler=transaction`` to the URL. An engine of your own needs psycopg's ``prepare_threshold=None``, or
SQLAlchemy's recipe for asyncpg (``prepared_statement_name_func``). Over asyncpg each verb then is a transaction, which
takes two more round trips.

**Migrations.** `SQLBackend.create_tables` makes the tables. An app that uses Alembic calls `sessions_table` on its own
metadata instead, in the module from which ``env.py`` takes ``target_metadata``. ``alembic revision --autogenerate``
then finds the tables like any other::

    class Base(DeclarativeBase):
        pass

    sessions_table(Base.metadata)
"""

from collections.abc import Awaitable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from msgspec.structs import asdict

from powauth import _forks
from powauth._options import wrong, wrong_type
from powauth._times import duration
from powauth.backends._sql_drivers import driver_for
from powauth.backends._sql_engine import check_exists, engine_from_url, is_memory
from powauth.backends._sql_errors import FailedDatabase, sql_unavailable
from powauth.backends._sql_forks import separate_processes
from powauth.backends._sql_running import AnswerLostError, Runner
from powauth.backends._sql_sharing import joins
from powauth.backends._sql_statements import Tables, build_statements, create_tables, sessions_table
from powauth.backends._sqlite_reader import SQLiteReader
from powauth.backends.base import (
    EPOCH_LIFETIME,
    MAX_OWNER_BYTES,
    MAX_TIMEOUT,
    Backend,
    JoinsTransactions,
    Millis,
    Mode,
    ReadsInPlace,
    Record,
    ScanPage,
    WouldWaitError,
    check_namespace,
    key_in_cursor,
    make_key,
)
from powauth.errors import ConfigError, StoreUnavailable

# isort: split
# The modules above say what to install where SQLAlchemy is missing.
from sqlalchemy import Connection, Engine, MetaData
from sqlalchemy.exc import DBAPIError, IntegrityError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
    from sqlalchemy.orm import Session

__all__ = ["SQLBackend", "SQLiteBackend", "Tables", "create_tables", "sessions_table"]

T = TypeVar("T")

DEFAULT_TABLE = "powauth_sessions"
"""The table of sessions, unless the app names another."""


class SQLBackend(Backend, JoinsTransactions):
    """Records in SQLite, PostgreSQL or MariaDB. The module's docstring explains the design and an engine's options.

    Args:
        engine: an ``Engine`` (then ``mode`` is ``"blocking"``; over SQLite the object is mostly a `SQLiteBackend`), an
            ``AsyncEngine`` (``"async"``; for one event loop), or a URL, which makes a tuned engine with time limits.
            Drivers of a URL: ``sqlite``, ``sqlite+aiosqlite``, ``postgresql+psycopg``, ``postgresql+psycopg_async``,
            ``postgresql+asyncpg``, ``mariadb+pymysql``, ``mariadb+asyncmy``. An engine may have others, such as
            psycopg2. MariaDB from 10.5, SQLite from 3.35.
        table: the name of the table. The table of epochs has ``_epochs`` appended.
        schema: the schema of both tables; the database's default if ``None``.
        timeout: the longest time for a verb, at most an hour. It bounds every wait over an ``AsyncEngine``
            and over an engine made from a URL. Your own ``AsyncEngine`` over psycopg may take ten seconds more, to
            cancel a query that the server does not answer. Your own ``Engine`` needs its own limits.

    Raises:
        ConfigError: if an option is wrong, the driver is missing, or the database is not supported.
    """

    mode: Mode

    def __new__(cls, engine: "Engine | AsyncEngine | str", **_: Any) -> "SQLBackend":
        """Return a `SQLiteBackend` if the engine allows it, otherwise an object of this class."""
        return super().__new__(SQLiteBackend if cls is SQLBackend and _is_sqlite_for_threads(engine) else cls)

    def __init__(
        self,
        engine: "Engine | AsyncEngine | str",
        *,
        table: str = DEFAULT_TABLE,
        schema: str | None = None,
        timeout: timedelta = timedelta(seconds=5),
    ) -> None:
        self._seconds = duration("timeout", timeout, at_least=1, at_most=MAX_TIMEOUT) / 1000
        self.tables = sessions_table(MetaData(), table, schema)
        self._owned = isinstance(engine, str)
        made = engine_from_url(engine, self._seconds) if isinstance(engine, str) else engine
        core = made if isinstance(made, Engine) else getattr(made, "sync_engine", None)
        if not isinstance(core, Engine):
            raise wrong_type("engine", "an Engine, an AsyncEngine or a URL", engine)
        dialect = core.dialect
        if dialect.name not in {"sqlite", "postgresql", "mysql", "mariadb"}:
            raise wrong("the database", "SQLite, PostgreSQL or MariaDB", dialect.name)
        if dialect.name == "sqlite":
            if is_memory(core.url):
                raise ConfigError("SQLite in memory cannot be shared by threads: use 'memory://', or give a file")
            version = getattr(dialect.dbapi, "sqlite_version_info", (3, 35))
            if version < (3, 35):
                raise ConfigError("SQLite is too old: SQLBackend needs 3.35 or later")
        separate_processes(core)
        self._statements = build_statements(self.tables, dialect)
        self._dialect = dialect
        if not self._owned and dialect.name not in {"mysql", "mariadb"}:
            # This costs nothing here. On MariaDB it would cost several round trips.
            made = made.execution_options(isolation_level="AUTOCOMMIT")
        self._engine: Engine | None = made if isinstance(made, Engine) else None
        self._async_engine: AsyncEngine | None = None if isinstance(made, Engine) else made
        self.mode = "async" if self._engine is None else "blocking"
        self._failed_database = FailedDatabase("the session database", self._how_to_create())
        self._runner = Runner(made, self._seconds, self._failed_database, commits=not self._owned)

    async def create(self, record: Record, epoch: int | None, now: Millis) -> bool:
        """See `Backend.create`. PostgreSQL and SQLite: one statement; MariaDB: two if ``epoch`` is 0, else one."""
        if len(record.key) > MAX_OWNER_BYTES or len(record.owner) > MAX_OWNER_BYTES:
            raise StoreUnavailable(f"key or owner is longer than {MAX_OWNER_BYTES} bytes")
        how = self._statements.create
        insert = how.unguarded if epoch is None else how.at_epoch if epoch else how.at_zero
        values: dict[str, Any] = {**asdict(record), "now": now}
        if epoch is not None:
            values["epoch"] = epoch

        def work(connection: Connection) -> bool:
            if epoch == 0 and how.prepare is not None:
                how.prepare(connection, owner=record.owner, now=now)
            try:
                return insert(connection, **values).first() is not None
            except IntegrityError:
                if how.make_room is None:
                    return False
            # The key is taken. Remove an expired record. A purge may have removed it already, so insert in any case.
            how.make_room(connection, key=record.key, now=now)
            try:
                return insert(connection, **values).first() is not None
            except IntegrityError:  # a live record stays
                return False

        def was_mine(connection: Connection) -> bool:
            rows = () if epoch is None else self._statements.get(connection, key=record.key, now=now).all()
            return any(_record(row) == record for row in rows)

        return await self._runner.write(work, again=lambda connection: work(connection) or was_mine(connection))

    async def get(self, key: bytes, now: Millis) -> Record | None:
        """See `Backend.get`. One statement."""
        rows = await self._runner.read(self._statements.get, key=key, now=now)
        return _record(rows[0]) if rows else None

    async def update(self, record: Record, expected_version: int, now: Millis) -> bool:
        """See `Backend.update`. One statement."""

        def work(connection: Connection) -> bool:
            return self._update(connection, record, expected_version, now)

        return await self._runner.write(work, again=work)

    def _update(self, connection: Connection, record: Record, expected_version: int, now: Millis) -> bool:
        changed = self._statements.update(
            connection,
            key=record.key,
            version=record.version,
            expires_at=record.expires_at,
            value=record.value,
            expected=expected_version,
            now=now,
        )
        return changed.rowcount > 0

    async def delete(self, key: bytes, now: Millis) -> bool:
        """See `Backend.delete`. One statement."""

        def work(connection: Connection) -> bool:
            return _count_live(self._statements.delete(connection, key=key).scalars().all(), now) > 0

        def again(connection: Connection) -> bool:
            if not work(connection):
                raise AnswerLostError
            return True

        return await self._runner.write(work, again=again)

    async def list(self, owner: bytes, now: Millis) -> list[Record]:
        """See `Backend.list`. One statement."""
        rows = await self._runner.read(self._statements.list_owner, owner=owner, now=now)
        return [record for row in rows if (record := _record(row)) is not None]

    async def epoch(self, owner: bytes, now: Millis, *, advance: bool = False) -> int:
        """See `Backend.epoch`. One statement."""
        if not advance:
            rows = await self._runner.read(self._statements.epoch, owner=owner)
            return int(rows[0][0]) if rows else 0

        def work(connection: Connection) -> int:
            return int(self._statements.advance(connection, owner=owner, now=now).scalar_one())

        # Advancing it twice does no harm: no caller has received the first number.
        return await self._runner.write(work, again=work)

    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        """See `Backend.delete_owner`. A transaction of two statements. `delete_owner_in` uses your own transaction."""
        runner = self._runner
        return await runner.run(
            lambda connection: runner.transaction(connection, lambda: self._delete_owner(connection, owner, now, keep))
        )

    @overload
    def delete_owner_in(
        self, session: "Connection | Session", owner: bytes, now: Millis, keep: bytes | None = None
    ) -> int: ...
    @overload
    def delete_owner_in(
        self, session: "AsyncConnection | AsyncSession", owner: bytes, now: Millis, keep: bytes | None = None
    ) -> Awaitable[int]: ...
    def delete_owner_in(
        self,
        session: "Connection | Session | AsyncConnection | AsyncSession",
        owner: bytes,
        now: Millis,
        keep: bytes | None = None,
    ) -> int | Awaitable[int]:
        """Do `delete_owner` in the caller's transaction: it takes effect with the commit, or not at all.

        A change of password and its revocation then commit together. Sign-ins of this owner wait until the transaction
        ends, so end it soon. Await the result if the argument is asynchronous.

        Args:
            session: a connection or session on the tables' database, in a transaction (not autocommit).
            owner: the owner of the records to remove.
            now: milliseconds since the Unix epoch.
            keep: the key of a record that stays.

        Raises:
            StoreUnavailable: from the database's error, which is its ``__cause__``: roll back. At REPEATABLE READ and
                SERIALIZABLE it may be a serialisation failure (a concurrent sign-in): retry the whole transaction.
            ConfigError: if the argument is of another kind, or on another kind of database.
        """
        from sqlalchemy.orm import Session

        if isinstance(session, Session):
            return self.delete_owner_in(session.connection(), owner, now, keep)
        if not isinstance(session, Connection):
            run_sync = getattr(session, "run_sync", None)
            if run_sync is None:
                raise wrong_type("session", "a connection or session of SQLAlchemy", session)
            return cast("Awaitable[int]", run_sync(lambda inner: self.delete_owner_in(inner, owner, now, keep)))
        if session.dialect.name.replace("mariadb", "mysql") != self._dialect.name.replace("mariadb", "mysql"):
            raise ConfigError(
                f"the connection is to {session.dialect.name}, the backend's tables to {self._dialect.name}"
            )
        try:
            self._runner.check_server(session)
            return self._delete_owner(session, owner, now, keep)
        except DBAPIError as error:
            raise sql_unavailable(error, self._failed_database) from error

    def shares_database(self, connection: Connection) -> bool:
        """See `JoinsTransactions.shares_database`. The engines may differ, if their URLs name the same database."""
        return joins(connection, self._engine if self._engine is not None else self._async_engine)

    def get_in(self, connection: Connection, key: bytes, now: Millis) -> Record | None:
        """See `JoinsTransactions.get_in`. One statement."""
        try:
            row = self._statements.get(connection, key=key, now=now).first()
        except DBAPIError as error:
            raise sql_unavailable(error, self._failed_database) from error
        return None if row is None else _record(row)

    def update_in(self, connection: Connection, record: Record, expected_version: int, now: Millis) -> bool:
        """See `JoinsTransactions.update_in`. One statement in a savepoint."""
        try:
            with connection.begin_nested():
                return self._update(connection, record, expected_version, now)
        except DBAPIError as error:
            raise sql_unavailable(error, self._failed_database) from error

    async def purge(self, limit: int, now: Millis) -> int:
        """See `Backend.purge`. One statement, and one for the epochs if the first removes fewer than ``limit``."""

        def work(connection: Connection) -> int:
            went = self._statements.purge(connection, now=now, limit=limit).rowcount
            if went < limit:
                went += self._statements.forget(connection, now=now - EPOCH_LIFETIME, limit=limit - went).rowcount
            return went

        return await self._runner.write(work, again=work)

    async def scan(self, namespace: str, cursor: str | None, limit: int, now: Millis) -> ScanPage:
        """See `Backend.scan`. One statement that reads ``limit`` records. A page has fewer if some have expired.

        Raises:
            ValueError: if the cursor does not come from a page of this namespace.
        """
        first = make_key(check_namespace(namespace), b"")
        start = first if cursor is None else key_in_cursor(cursor, namespace)
        rows = await self._runner.read(self._statements.scan, start=start, end=_after(first), limit=limit)
        records = [record for row in rows if (record := _record(row)) is not None and record.expires_at > now]
        # The cursor is the least key that is greater than the last one.
        return ScanPage(records, (bytes(rows[-1][0]) + b"\x00").hex() if len(rows) == limit else None)

    async def count(self, namespace: str, now: Millis) -> int:
        """See `Backend.count`. One statement."""
        first = make_key(check_namespace(namespace), b"")
        rows = await self._runner.read(self._statements.count, start=first, end=_after(first), now=now)
        return int(rows[0][0])

    async def create_tables(self) -> None:
        """Create the tables and indexes that do not exist. Several workers may call it at once.

        Raises:
            StoreUnavailable: if the database cannot be reached, or refuses.
        """

        def work(connection: Connection) -> None:
            create_tables(connection, self.tables)

        await self._runner.run(lambda connection: self._runner.transaction(connection, lambda: work(connection)))

    async def close(self) -> None:
        """See `Backend.close`. The app's own engine stays open."""
        _forks.check()
        self._runner.close()
        if self._owned and self._engine is not None:
            self._engine.dispose()
        elif self._owned and self._async_engine is not None:
            await self._async_engine.dispose()

    # Inside

    def _how_to_create(self) -> str:
        table = self.tables.sessions.fullname
        if not self._owned or table != DEFAULT_TABLE:
            return f"create {table} with SQLBackend.create_tables(), or with sessions_table() in a migration"
        command = "powauth sessions --backend URL create-tables"
        return f"create {table} with `{command}`, or with sessions_table() in a migration"

    def _delete_owner(self, connection: Connection, owner: bytes, now: Millis, keep: bytes | None) -> int:
        self._statements.advance(connection, owner=owner, now=now)
        # A separate statement: at READ COMMITTED it sees the commits that happened while the first one waited.
        if keep is None:
            gone = self._statements.delete_owner(connection, owner=owner)
        else:
            gone = self._statements.delete_owner_but_one(connection, owner=owner, key=keep)
        return _count_live(gone.scalars().all(), now)


class SQLiteBackend(SQLBackend, ReadsInPlace):
    """Records in a SQLite file, through an ``Engine``: in WAL mode, an event loop can read them in place.

    ``SQLBackend(engine)`` makes one, as ``Path()`` makes a ``PosixPath``. See `powauth.backends._sqlite_reader`.
    """

    def __init__(
        self,
        engine: "Engine | AsyncEngine | str",
        *,
        table: str = DEFAULT_TABLE,
        schema: str | None = None,
        timeout: timedelta = timedelta(seconds=5),
    ) -> None:
        super().__init__(engine, table=table, schema=schema, timeout=timeout)
        # Use the app's engine, not the copy with options: disposing of it must close these connections, too.
        made = engine if isinstance(engine, Engine) else self._engine
        if made is None or not SQLiteReader.suits(made):
            raise ConfigError("SQLiteBackend serves a SQLite file over an Engine: use SQLBackend")
        self._reader: SQLiteReader | None = SQLiteReader(made, self._statements.get)

    async def get(self, key: bytes, now: Millis) -> Record | None:
        """See `Backend.get`. One statement."""
        rows = None if self._reader is None else self._reader.read(key, now)
        if rows is not None:
            return _record(rows[0]) if rows else None
        found = await super().get(key, now)
        if self._reader is not None and not self._reader.prepare():
            self._reader = None
        return found

    def peek(self, key: bytes, now: Millis) -> object:
        """See `ReadsInPlace.peek`. It works from the second read on."""
        rows = None if self._reader is None else self._reader.read(key, now)
        if rows is None:
            raise WouldWaitError
        return rows[0] if rows else None

    def record_of(self, key: bytes, seen: Any, now: Millis) -> Record | None:
        """See `ReadsInPlace.record_of`."""
        del key, now  # `peek` has compared them
        return _record(seen)

    async def close(self) -> None:
        """See `SQLBackend.close`."""
        if self._reader is not None:
            self._reader.close()
        await super().close()


def _is_sqlite_for_threads(engine: object) -> bool:
    if isinstance(engine, str):
        return engine.partition(":")[0] in {"sqlite", "sqlite+pysqlite"}
    return isinstance(engine, Engine) and SQLiteReader.suits(engine)


def _record(row: Sequence[Any]) -> Record | None:
    """Return the record in a row; ``None`` if a column has another type (SQLite does not check types)."""
    key, owner, version, created_at, expires_at, value = row
    if isinstance(key, memoryview):  # psycopg2 has no other type for bytes
        key, owner, value = bytes(key), bytes(owner), bytes(value)
    numbers = (version, created_at, expires_at)
    if all(isinstance(part, bytes) for part in (key, owner, value)) and all(isinstance(n, int) for n in numbers):
        return Record(key, owner, version, created_at, expires_at, value)
    return None


def _count_live(expiries: Sequence[Any], now: Millis) -> int:
    return sum(isinstance(expires_at, int) and expires_at > now for expires_at in expiries)


def _after(prefix: bytes) -> bytes:
    """Return the end of the range of keys that begin with the prefix, a namespace and its colon."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def from_url(url: str, *, asynchronous: bool | None = None, create: bool = True) -> SQLBackend:
    """Return an `SQLBackend`; see `powauth.backends.backend_from_url`."""
    scheme, _, rest = url.partition(":")
    dialect = scheme.partition("+")[0]
    if not rest.startswith("//") or (dialect == "sqlite" and rest[2:3] not in ("", "/", "?")):
        begins = "sqlite:/// and a path" if dialect == "sqlite" else f"{scheme}://user@host/database"
        raise ConfigError(f"the backend URL misses slashes: did you mean {begins}?")
    url = f"{driver_for(scheme, asynchronous=asynchronous)}:{rest}"
    if not create:
        check_exists(url)
    return SQLBackend(url)
