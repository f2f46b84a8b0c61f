"""The users' table: each method of `UserTable` is one unit of work in the database."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.exc import DBAPIError, StatementError

from powauth.accounts._database import Database
from powauth.accounts._mapped import MappedUsers
from powauth.accounts._reading import AccountReader, Found
from powauth.accounts.base import Account, U
from powauth.accounts.identity import I
from powauth.errors import InvalidParams

log = logging.getLogger("powauth.accounts")

TAKEN = "has already been taken"


class UserTable(Generic[U, I]):
    """Reads and writes users.

    Args:
        database: runs the work.
        users: the model.
        reader: makes accounts.
        own: names of the attributes that users set themselves. If another user has the value already, the error says
            so.
    """

    def __init__(
        self, database: Database, users: MappedUsers[U], reader: AccountReader[U, I], own: Sequence[str]
    ) -> None:
        self._database = database
        self._users = users
        self._reader = reader
        self._own = own

    # --- reading ------------------------------------------------------------------------------------------------------

    async def find(self, wanted: Mapping[str, object] | None) -> Found[U] | None:
        """Return a user without the account. This reads no property of the model, which could take extra time."""
        return None if wanted is None else await self._database.run(lambda session: self._reader.find(session, wanted))

    async def account(self, found: Found[U]) -> Account[I]:
        """Return the account of a user whom `find` returned. It runs a statement only if a property does."""
        if not self._reader.needs_row:
            return self._reader.account(found)
        return await self._database.run(lambda session: self._reader.account(found, session))

    async def read(
        self, wanted: Mapping[str, object] | None, also: Sequence[str] = ()
    ) -> tuple[Found[U], Account[I]] | None:
        """Return a user and the account. ``also`` names further columns to read."""

        def work(session: orm.Session) -> tuple[Found[U], Account[I]] | None:
            found = None if wanted is None else self._reader.find(session, wanted, also)
            return None if found is None else (found, self._reader.account(found, session))

        return None if wanted is None else await self._database.run(work)

    # --- writing ------------------------------------------------------------------------------------------------------

    async def insert(self, values: Mapping[str, Any]) -> Account[I]:
        """Insert a user.

        Raises:
            InvalidParams: if the database refuses the values.
        """

        def work(session: orm.Session) -> Account[I] | None:
            user = self._users.model(**values)
            session.add(user)
            session.flush()
            (key,) = orm.attributes.instance_state(user).identity or (None,)
            return self._committed(session, key)

        account = await self._write(work, values, None)
        if account is None:
            raise InvalidParams({"base": ["could not be saved"]})
        return account

    async def change(self, found: Found[U], changes: Mapping[str, Any]) -> Account[I] | None:
        """Change a user's columns and return the account; ``None`` if the user is gone or the hash has changed.

        Raises:
            InvalidParams: if the database refuses the values.
        """
        key = self._key(found)

        def work(session: orm.Session) -> Account[I] | None:
            return self._committed(session, key) if self._update(session, found, changes) else None

        return await self._write(work, changes, key)

    async def replace_hash(self, found: Found[U], stronger: str) -> bool:
        """Write another hash of the same password, and return whether it was written.

        Nothing is written if the user is gone or the hash has changed. ``updated_at`` stays: the user changed nothing.
        """
        changes: dict[str, Any] = {self._users.password_hash: stronger}
        if "updated_at" in self._users.times:
            changes["updated_at"] = self._users.attribute("updated_at")

        def work(session: orm.Session) -> bool:
            written = self._update(session, found, changes)
            session.commit()
            return written

        return await self._database.run(work)

    async def delete(self, found: Found[U]) -> bool:
        """Delete a user, and return whether the user was deleted. The model's cascades apply.

        Nothing is deleted if the user is gone or the password hash has changed.

        Raises:
            InvalidParams: if other rows need the user.
        """
        model, hash_name = self._users.model, self._users.password_hash
        this = self._users.attribute(self._users.key) == self._key(found)

        def work(session: orm.Session) -> bool:
            # This locks the row on every database, and checks that the verified password hash is still the stored one.
            if not self._update(session, found, {hash_name: self._users.attribute(hash_name)}):
                return False
            user = session.scalars(sa.select(model).where(this)).unique().one_or_none()
            if user is None:
                return False
            session.delete(user)
            session.commit()
            return True

        try:
            return await self._database.run(work)
        except DBAPIError as error:
            raise InvalidParams({"base": ["cannot be deleted while other records need it"]}) from error

    # --- inside -------------------------------------------------------------------------------------------------------

    def _key(self, found: Found[U]) -> object:
        """Return the key as the column's type returned it."""
        return found.values[self._users.key]

    def _update(self, session: orm.Session, found: Found[U], changes: Mapping[str, Any]) -> bool:
        """Update a user if the password hash is still the one found. Return whether a row was updated."""
        users = self._users
        this = users.attribute(users.key) == self._key(found)
        statement = (
            sa.update(users.model)
            .where(this, users.attribute(users.password_hash) == found.password_hash)
            .values({users.attribute(name): value for name, value in changes.items()})
            .execution_options(synchronize_session=False)
        )
        result = session.execute(statement)
        return isinstance(result, sa.CursorResult) and result.rowcount == 1

    def _committed(self, session: orm.Session, key: object) -> Account[I] | None:
        """Read the written account, then commit. The database may return other types than were written."""
        found = self._reader.find(session, {self._users.key: key})
        if found is None:  # a listener of the app hides the user, so nothing is written
            return None
        account = self._reader.account(found, session)
        session.commit()
        return account

    async def _write(
        self, work: Callable[[orm.Session], Account[I] | None], values: Mapping[str, Any], key: object
    ) -> Account[I] | None:
        try:
            return await self._database.run(work)
        except StatementError as error:
            taken = await self._database.run(lambda session: self._taken(session, values, key))
            if not taken:
                log.warning("the database refused a user's values: %s", type(error).__name__)
            raise InvalidParams({name: [TAKEN] for name in taken} or {"base": ["could not be saved"]}) from error

    def _taken(self, session: orm.Session, values: Mapping[str, Any], key: object) -> list[str]:
        """Return the names of unique columns whose value a user with another key has already."""
        own = self._users.attribute(self._users.key)
        found = []
        for name in self._own:
            # Any number of rows may have ``None`` in a unique column.
            if values.get(name) is None or not self._users.columns[name].unique:
                continue
            others = sa.select(own).where(self._users.attribute(name) == values[name])
            if key is not None:
                others = others.where(own != key)
            if session.scalars(others.limit(1)).first() is not None:
                found.append(name)
        return found
