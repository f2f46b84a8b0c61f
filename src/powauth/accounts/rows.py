"""The rows of the app's users, in the app's own SQLAlchemy sessions."""

from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.exc import StatementError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker

from powauth._options import wrong_type
from powauth.accounts._database import Database, is_incomparable, refuses_values
from powauth.accounts._mapped import MappedUsers, plain_key
from powauth.accounts._reading import AccountReader
from powauth.accounts.base import Rows, Standing, U
from powauth.accounts.identity import Key
from powauth.errors import ConfigError

T = TypeVar("T")

_KEY = "powauth_key"
"""The name of the parameter in the statement for a row. The app's filters may add parameters of their own."""

_UNKNOWN = (orm.LoaderCallableStatus.NO_VALUE, orm.LoaderCallableStatus.NEVER_SET)


class SQLAlchemyRows(Rows[U], Generic[U]):
    """Rows in sessions of SQLAlchemy, Flask-SQLAlchemy or SQLModel; see `Rows`.

    Args:
        users: the model.
        reader: computes proofs.
        database: powauth's own connections.
    """

    def __init__(self, users: MappedUsers[U], reader: AccountReader[U, Any], database: Database) -> None:
        self._users = users
        self._reader = reader
        self._database = database
        self.mode = database.mode
        own = [users.key, *users.user_ids, users.password_hash, *users.restricting]
        if "is_active" in users.mapper.column_attrs:
            own.append("is_active")
        self._names = own
        # A password hash may be deferred. Without the option it would take a second SELECT.
        self._options = [orm.undefer(users.attribute(name)) for name in own if users.mapper.column_attrs[name].deferred]
        key = sa.bindparam(_KEY, type_=users.mapper.primary_key[0].type)
        self._query = sa.select(users.model).options(*self._options).where(users.attribute(users.key) == key)

    # --- the app's sessions -------------------------------------------------------------------------------------------

    def source(self, given: object) -> Callable[[], object]:
        """See `Rows.source`: a ``scoped_session`` such as Flask-SQLAlchemy's ``db.session``, or a function."""
        if isinstance(given, orm.sessionmaker | async_sessionmaker | type):
            raise ConfigError(
                f"session={_called(given)} opens a new session at each call: give db.session, a scoped_session, or a "
                "function that returns the session of the current request"
            )
        if isinstance(given, orm.Session | AsyncSession):
            raise ConfigError(
                "session is one database session for all requests: give db.session, a scoped_session, or a function "
                "that returns the session of the current request"
            )
        if not callable(given):
            raise wrong_type(
                "session",
                "db.session, a scoped_session, or a function that returns the session of the current request",
                given,
            )
        return cast("Callable[[], object]", given)

    def plain(self, db: object) -> orm.Session | None:
        """See `Rows.plain`."""
        if isinstance(db, orm.scoped_session):
            db = db()
        if isinstance(db, orm.Session):
            return db
        if isinstance(db, AsyncSession | async_scoped_session):
            return None
        raise ConfigError(f"a row needs a database session, such as Session or AsyncSession, not {_called(db)}")

    async def run(self, db: object, work: Callable[[Any], T]) -> T:
        """See `Rows.run`."""
        session: AsyncSession = db() if isinstance(db, async_scoped_session) else cast("AsyncSession", db)
        return await session.run_sync(work)

    def name(self, session: orm.Session) -> int:
        """See `Rows.name`."""
        return session.hash_key

    # --- rows ---------------------------------------------------------------------------------------------------------

    def holds(self, session: orm.Session, row: U) -> bool:
        """See `Rows.holds`."""
        state = orm.attributes.instance_state(row)
        if not state.persistent or orm.object_session(row) is not session:
            return False
        if not state.expired or state.identity is None:
            return True
        with session.no_autoflush:
            return session.get(self._users.model, state.identity) is row

    def read(self, session: orm.Session, key: Key, *, again: bool = False) -> tuple[U, Standing] | None:
        """See `Rows.read`."""
        users = self._users
        try:
            value = users.columns[users.key].check_key(key)
        except ValueError:
            return None
        # Reading the current user must not write what the handler has not finished.
        with session.no_autoflush:
            row = self._row(session, value)
            if row is None:
                return None
            values: Mapping[str, Any] | None = (
                self._selected(session.execute, value)
                if again
                else {name: _committed(row, name) for name in self._names}
            )
            if values is None:
                return None
            active = values["is_active"] if "is_active" in values else getattr(row, "is_active")  # noqa: B009
            return row, self._standing(values, active=active)

    async def standing(self, key: Key) -> Standing | None:
        """See `Rows.standing`. One SELECT, and another one if ``is_active`` is a property of the model."""
        users = self._users
        try:
            value = users.columns[users.key].check_key(key)
        except ValueError:
            return None

        def work(session: orm.Session) -> Standing | None:
            # A connection runs no listener of ``do_orm_execute``, where filters such as "of this tenant" are added.
            values = self._selected(session.connection().execute, value)
            if values is None:
                return None
            active = values["is_active"] if "is_active" in values else self._property(session, value)
            return self._standing(values, active=active)

        try:
            return await self._database.run(work)
        except StatementError as error:
            if refuses_values(error) or is_incomparable(error):  # no row can have this key
                return None
            raise

    def proof_in(self, connection: sa.Connection, key: Key) -> bytes | None:
        """Return the proof of a user in a transaction of the app; ``None`` if there is no such user. One SELECT."""
        try:
            value = self._users.columns[self._users.key].check_key(key)
        except ValueError:
            return None
        values = self._selected(connection.execute, value)
        return None if values is None else self._reader.proof(values)

    def _row(self, session: orm.Session, value: object) -> U | None:
        """Return the row that ``session.get`` would return. One SELECT, and none if the session holds the row.

        ``get`` builds its statement at each call, and SQLAlchemy computes the cache key of each new statement. That
        takes as long as the rest of the query on SQLite. SQLAlchemy remembers the key of the same statement object.
        """
        users = self._users
        if users.mapper.identity_key_from_primary_key((value,)) in session.identity_map:
            return session.get(users.model, value, options=self._options)
        found: U | None = session.scalars(self._query, {_KEY: value}).unique().one_or_none()
        return found

    def _property(self, session: orm.Session, value: object) -> object:
        """Return the property ``is_active``. A row that a filter hides counts as active: nothing proves otherwise."""
        row = session.get(self._users.model, value)
        return True if row is None else getattr(row, "is_active")  # noqa: B009

    def _selected(self, execute: Callable[..., Any], value: object) -> Mapping[str, Any] | None:
        selected = [self._users.attribute(name).label(name) for name in self._names]
        found = execute(sa.select(*selected).where(self._users.attribute(self._users.key) == value)).one_or_none()
        return None if found is None else found._mapping

    def _standing(self, values: Mapping[str, Any], *, active: object) -> Standing:
        is_active = self._reader.is_active(active, values)
        return Standing(plain_key(values[self._users.key]), self._reader.proof(values), is_active)


def _committed(row: object, name: str) -> Any:
    """Return the value of an attribute as the database has it, and not one that the handler has just set."""
    before = orm.attributes.instance_state(row).committed_state.get(name, orm.LoaderCallableStatus.NO_VALUE)
    return getattr(row, name) if before in _UNKNOWN else before


def _called(value: object) -> str:
    return value.__name__ if isinstance(value, type) else type(value).__name__
