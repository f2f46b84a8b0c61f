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

VERIFIED_ROWS = "rows"
"""The key in a connection's states of the `VerifiedRows`."""

Run = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine to its end."""


class VerifiedRows(msgspec.Struct, Generic[U]):
    """The verified rows of one user. They stay referenced until the request ends: a database session holds rows weakly.

    Attributes:
        key: the user's key.
        rows: the rows, by the number of the database session.
    """

    key: Key
    rows: dict[int, U]

    __repr__ = object.__repr__


class LookUp(msgspec.Struct, Generic[U], frozen=True):
    """The result of looking for the current user's row in a database session.

    Attributes:
        row: the current user's row, verified; ``None`` if there is none.
        mismatch: somebody is signed in, and the database session has no row with the proof of powauth's session.
    """

    row: U | None = None
    mismatch: bool = False


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
        found = await self._look_up_in(db)
        if found.mismatch and await self._should_retry():
            found = await self._look_up_in(db)
            if found.mismatch:
                self._make_anonymous()
        return found.row

    def load_blocking(self, db: object, run: Run) -> U | None:
        """Return the result of `load` without a coroutine. ``run`` does what needs one."""
        plain = self._rows.plain(db)
        if plain is None:
            row: U | None = run(self.load(db))
            return row
        found = self._look_up(plain)
        if found.mismatch and run(self._should_retry()):
            found = self._look_up(plain)
            if found.mismatch:
                self._make_anonymous()
        return found.row

    async def _look_up_in(self, db: object) -> LookUp[U]:
        plain = self._rows.plain(db)
        return await self._rows.run(db, self._look_up) if plain is None else self._look_up(plain)

    def _look_up(self, session: object) -> LookUp[U]:
        key = self._auth.current_key(self._connection)
        if key is None:
            return LookUp()
        verified: VerifiedRows[U] | None = self._connection.states.get(VERIFIED_ROWS)
        if verified is None or verified.key != key:
            verified = self._connection.states[VERIFIED_ROWS] = VerifiedRows(key, {})
        name = self._rows.name(session)
        row = verified.rows.get(name)
        if row is not None and self._rows.holds(session, row):
            return LookUp(row)
        # The session may hold an older row than the database, for example after `update_user`. So look twice.
        for again in (False, True):
            found = self._rows.read(session, key, again=again)
            if found is None:
                break
            row, standing = found
            if self._is_current(standing):
                verified.rows[name] = row
                return LookUp(row)
        return LookUp(mismatch=True)

    def _is_current(self, standing: Standing) -> bool:
        account = self._account(standing)
        return account is not None and self._auth.is_current(self._connection, account)

    def _account(self, standing: Standing) -> Account[I] | None:
        identity = self._auth.current_identity(self._connection)
        if identity is None:
            return None
        return Account(key=standing.key, identity=identity, proof=standing.proof, active=standing.active)

    def _make_anonymous(self) -> None:
        self._auth.assign(self._connection, None)

    async def _should_retry(self) -> bool:
        """Return whether to look the row up again, after powauth has read the user itself.

        1. powauth finds the user unchanged: the app only hides the row, by a filter for the current tenant or an older
           snapshot. The request becomes anonymous. The session stays.
        2. The user has changed: the session ends, and the request becomes anonymous.
        3. The session accepts the user's new proof by now: look the row up again.
        """
        key = self._auth.current_key(self._connection)
        if key is None:
            return False
        standing = await call_anywhere(self._rows.mode, lambda: self._rows.standing(key))
        if standing is not None and self._is_current(standing):
            self._make_anonymous()
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
