"""`CurrentRow`: the row of the current user, in a database session of the app."""

from collections.abc import Callable, Coroutine
from typing import Any, Generic

import msgspec

from powauth.accounts.anywhere import call_anywhere
from powauth.accounts.base import Account, Rows, Standing, U
from powauth.accounts.identity import I, Key
from powauth.errors import ConfigError
from powauth.http.connection import Connection
from powauth.plug.authenticator import Authenticator

HELD = "rows"
"""The key in a connection's states of the `Held` rows."""

Run = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine to its end."""


class Held(msgspec.Struct, Generic[U]):
    """The verified rows of one user. They stay referenced until the request ends: a database session holds rows weakly.

    Attributes:
        key: the user's key.
        rows: the rows, by the number of the database session.
    """

    key: Key
    rows: dict[int, U]

    __repr__ = object.__repr__


class Looked(msgspec.Struct, Generic[U], frozen=True):
    """The result of a look into a database session.

    Attributes:
        row: the current user's row.
        doubted: somebody is signed in, but the row is missing or is not what the session of powauth was made for.
    """

    row: U | None = None
    doubted: bool = False


class CurrentRow(Generic[U, I]):
    """Loads the row of a request's user, once per request and database session, and compares it with the session.

    Args:
        auth: the authenticator.
        connection: the request.

    Raises:
        ConfigError: if the users context has no rows.
    """

    __slots__ = ("_auth", "_connection", "_rows")

    def __init__(self, auth: Authenticator[U, I], connection: Connection) -> None:
        self._auth = auth
        self._connection = connection
        self._rows: Rows[U] = rows_of(auth)

    async def load(self, db: object) -> U | None:
        """Return the row in a database session; ``None`` if nobody is signed in, or the user is gone or has changed.

        An asynchronous session is awaited. A plain session is used in this thread.

        Raises:
            StoreUnavailable: if the current user cannot be determined.
        """
        looked = await self._look_in(db)
        if looked.doubted and await self._settle():
            looked = self._last(await self._look_in(db))
        return looked.row

    def load_blocking(self, db: object, run: Run) -> U | None:
        """Return the result of `load` without a coroutine. ``run`` does what needs one."""
        plain = self._rows.plain(db)
        if plain is None:
            row: U | None = run(self.load(db))
            return row
        looked = self._look(plain)
        if looked.doubted and run(self._settle()):
            looked = self._last(self._look(plain))
        return looked.row

    async def _look_in(self, db: object) -> Looked[U]:
        plain = self._rows.plain(db)
        return await self._rows.run(db, self._look) if plain is None else self._look(plain)

    def _last(self, looked: Looked[U]) -> Looked[U]:
        """Return the result of the last look. If it is doubted, the request is anonymous."""
        if looked.doubted:
            self._auth.assign(self._connection, None)
        return looked

    def _look(self, session: object) -> Looked[U]:
        key = self._auth.current_key(self._connection)
        if key is None:
            return Looked()
        held: Held[U] | None = self._connection.states.get(HELD)
        if held is None or held.key != key:
            held = self._connection.states[HELD] = Held(key, {})
        name = self._rows.name(session)
        row = held.rows.get(name)
        if row is not None and self._rows.holds(session, row):
            return Looked(row)
        # The session may hold an older row than the database, for example after `update_user`. So look twice.
        for again in (False, True):
            found = self._rows.read(session, key, again=again)
            if found is None:
                break
            row, standing = found
            if self._is_current(standing):
                held.rows[name] = row
                return Looked(row)
        return Looked(doubted=True)

    def _is_current(self, standing: Standing) -> bool:
        account = self._account(standing)
        return account is not None and self._auth.is_current(self._connection, account)

    def _account(self, standing: Standing) -> Account[I] | None:
        identity = self._auth.current_identity(self._connection)
        if identity is None:
            return None
        return Account(key=standing.key, identity=identity, proof=standing.proof, active=standing.active)

    async def _settle(self) -> bool:
        """Make the request anonymous. End its session only if powauth's own read confirms that the user has changed.

        The app may only hide the row: a filter for the current tenant, or an older snapshot.

        Return whether to look again instead: the session has just learnt of the user's new proof.
        """
        key = self._auth.current_key(self._connection)
        if key is None:
            return False
        standing = await call_anywhere(self._rows.mode, lambda: self._rows.standing(key))
        if standing is not None and self._is_current(standing):
            self._auth.assign(self._connection, None)
            return False
        account = None if standing is None else self._account(standing)
        return not await self._auth.dismiss(self._connection, account)


def rows_of(auth: Authenticator[U, Any]) -> Rows[U]:
    """Return the reader of rows of an authenticator.

    Raises:
        ConfigError: if its users are not rows of a table.
    """
    rows = auth.users.row_reader
    if rows is None:
        raise ConfigError(
            f"{type(auth.users).__name__} has no rows: use SQLAlchemyUsers, or load the user by the key of the identity"
        )
    return rows
