"""The users' table: each method of `UserTable` is one unit of work in the database."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.exc import DBAPIError, StatementError

from powauth.accounts._database import Database, lacks_characters
from powauth.accounts._forms import UserForm
from powauth.accounts._mapped import MappedUsers
from powauth.accounts._reading import AccountReader, Found
from powauth.accounts.base import Account, U
from powauth.accounts.forms import TAKEN
from powauth.accounts.identity import I
from powauth.accounts.spellings import TypedId, capitals_of, lowered, other_forms
from powauth.errors import InvalidParams

log = logging.getLogger("powauth.accounts")

_MOST_OTHERS = 100
"""Rows to look at for another spelling. A collation without accents may find more rows than it should."""

Wanted = Mapping[str, object] | TypedId
"""Values by attribute name, or a user id as somebody typed it."""


class UserTable(Generic[U, I]):
    """Reads and writes users.

    Args:
        database: runs the work.
        users: the model.
        reader: makes accounts.
        form: names the attributes that users set themselves. If another user has the value already, the error says so.
    """

    def __init__(self, database: Database, users: MappedUsers[U], reader: AccountReader[U, I], form: UserForm) -> None:
        self._database = database
        self._users = users
        self._reader = reader
        self._own = form.own
        self._identifiers = form.identifiers

    # --- reading ------------------------------------------------------------------------------------------------------

    async def find(self, wanted: Wanted | None) -> Found[U] | None:
        """Return a user without the account. This reads no property of the model, which could take extra time."""
        return None if wanted is None else await self._database.run(lambda session: self._look_up(session, wanted))

    async def account(self, found: Found[U]) -> Account[I]:
        """Return the account of a user whom `find` returned. It runs a statement only if a property does."""
        if not self._reader.needs_row:
            return self._reader.account(found)
        return await self._database.run(lambda session: self._reader.account(found, session))

    async def read(self, wanted: Wanted | None, also: Sequence[str] = ()) -> tuple[Found[U], Account[I]] | None:
        """Return a user and the account. ``also`` names further columns to read."""

        def work(session: orm.Session) -> tuple[Found[U], Account[I]] | None:
            found = None if wanted is None else self._look_up(session, wanted, also)
            return None if found is None else (found, self._reader.account(found, session))

        return None if wanted is None else await self._database.run(work)

    async def page(self, after: object, size: int) -> list[tuple[Any, ...]]:
        """Return the keys and user ids of the next users in the order of their keys.

        Args:
            after: the last key of the page before; ``None`` for the first page.
            size: the number of users.
        """
        users = self._users
        key = users.attribute(users.key)
        query = sa.select(key, *(users.attribute(name) for name in users.user_ids)).order_by(key).limit(size)
        if after is not None:
            query = query.where(key > after)
        return await self._database.run(lambda session: [tuple(row) for row in session.execute(query)])

    # --- writing ------------------------------------------------------------------------------------------------------

    async def insert(self, values: Mapping[str, Any]) -> Account[I]:
        """Insert a user.

        Raises:
            InvalidParams: if the database refuses the values.
        """

        def work(session: orm.Session) -> Account[I] | None:
            user = self._users.made(values)
            session.add(user)
            session.flush()
            (key,) = orm.attributes.instance_state(user).identity or (None,)
            self._refuse_other_spellings(session, values, key)
            return self._committed(session, key)

        account = await self._write(work, values, None)
        if account is None:
            raise InvalidParams({"base": ["could not be saved"]})
        return account

    async def change(
        self, found: Found[U], changes: Mapping[str, Any], *, proof: bytes | None = None
    ) -> Account[I] | None:
        """Change a user's columns and return the account; ``None`` if the user is gone or the hash has changed.

        With ``proof``, the result is also ``None`` if the account has another proof, or is not active.

        Raises:
            InvalidParams: if the database refuses the values.
        """
        key = self._key(found)

        def work(session: orm.Session) -> Account[I] | None:
            if proof is not None and not self._locked_with(session, found, proof):
                return None
            if not self._update(session, found, changes):
                return None
            self._refuse_other_spellings(session, changes, key)
            return self._committed(session, key)

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
        model = self._users.model
        this = self._users.attribute(self._users.key) == self._key(found)

        def work(session: orm.Session) -> bool:
            if not self._locked(session, found):
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

    def _look_up(self, session: orm.Session, wanted: Wanted, also: Sequence[str] = ()) -> Found[U] | None:
        if isinstance(wanted, TypedId):
            return self._reader.find_typed(session, wanted)
        return self._reader.find(session, wanted, also)

    def _refuse_other_spellings(self, session: orm.Session, values: Mapping[str, Any], key: object) -> None:
        """Refuse user ids that another user has in another spelling, or in another column.

        A unique column compares exactly in most databases, so it would allow "mia@example.com" beside an old row with
        "Mia@Example.com". This runs after the write and in its transaction: on SQLite no other writer can come between.
        On other databases only a unique index on the lower-case value prevents a row that another program adds at the
        same moment.

        Raises:
            InvalidParams: which user ids have been taken.
        """
        users = self._users
        wanted = {name: values[name] for name in users.user_ids if isinstance(values.get(name), str)}
        if not wanted:
            return
        columns = [users.attribute(name) for name in users.user_ids]
        forms = {
            name: {lowered(each) for each in (value, *other_forms(self._identifiers[name], value))}
            for name, value in wanted.items()
        }
        others = sa.select(*columns).where(users.attribute(users.key) != key).limit(_MOST_OTHERS)
        every = sorted(set().union(*forms.values()))
        rows = _rows_with(session, others, columns, every)
        found = {lowered(each) for row in rows for each in row if isinstance(each, str)}
        taken = {name: [TAKEN] for name, each in forms.items() if each & found}
        if taken:
            raise InvalidParams(taken)

    def _key(self, found: Found[U]) -> object:
        """Return the key as the column's type returned it."""
        return found.values[self._users.key]

    def _locked(self, session: orm.Session, found: Found[U]) -> bool:
        """Lock a user's row on every database, and return whether the password hash is still the one found."""
        hash_name = self._users.password_hash
        return self._update(session, found, {hash_name: self._users.attribute(hash_name)})

    def _locked_with(self, session: orm.Session, found: Found[U], proof: bytes) -> bool:
        """Lock a user's row, and return whether the account is active and has this proof.

        The row is read, because a database may compare user ids without regard to case.
        """
        if not self._locked(session, found):
            return False
        now = self._reader.find(session, {self._users.key: self._key(found)})
        return now is not None and now.proof == proof and self._reader.account(now, session).active

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
            try:
                taken = session.scalars(others.limit(1)).first() is not None
            except StatementError as error:
                if not lacks_characters(error):
                    raise
                taken = False  # the column cannot hold this value
            if taken:
                found.append(name)
        return found


def _rows_with(
    session: orm.Session, others: "sa.Select[Any]", columns: Sequence[Any], texts: Sequence[str]
) -> Sequence[Any]:
    """Return the rows in which a column, in lower case, has one of the texts.

    If a column cannot hold all the characters, no row has them, and fewer are compared.
    """
    for capitals in (capitals_of(texts), []):
        try:
            return session.execute(others.where(_any_of(columns, texts, capitals))).all()
        except StatementError as error:
            if not lacks_characters(error):
                raise
    return session.execute(others.where(_any_of(columns, [each for each in texts if each.isascii()], []))).all()


def _any_of(
    columns: Sequence[Any], texts: Sequence[str], capitals: Sequence[tuple[str, str]]
) -> "sa.ColumnElement[bool]":
    """Return the condition that a column, in lower case, has one of the texts."""
    same = [sa.func.lower(column).in_(texts) for column in columns]
    if capitals:
        same += [_in_lower_case(column, capitals).in_(texts) for column in columns]
    return sa.or_(*same)


def _in_lower_case(column: Any, capitals: Sequence[tuple[str, str]]) -> "sa.ColumnElement[str]":
    """Return a column in lower case, in every database the same for these letters outside ASCII."""
    expression: sa.ColumnElement[str] = sa.func.lower(column)
    for capital, lower in capitals:
        expression = sa.func.replace(expression, capital, lower)
    return expression
