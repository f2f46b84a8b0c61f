"""Reads accounts from the app's table.

If an account needs only columns, a query selects these columns alone. If it needs a property of the model, the query
loads the row. The session of that row is closed before any other code can see the row.
"""

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic

import msgspec
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.exc import StatementError

from powauth.accounts._database import is_incomparable, lacks_characters, refuses_values
from powauth.accounts._mapped import MappedUsers, plain_key
from powauth.accounts.base import Account, U
from powauth.accounts.identity import I, IdentityCodec, Key, default_identity
from powauth.accounts.spellings import MOST_SPELLINGS, TypedId
from powauth.errors import ConfigError

_ACTIVE = "is_active"


@dataclass(frozen=True, slots=True)
class Found(Generic[U]):
    """The result of a query for a user.

    Attributes:
        key: the primary key.
        user_ids: the user ids. All but the first may be missing.
        password_hash: the stored hash.
        values: the columns that were selected, by attribute name.
        row: the row, if the account needs it. It is detached when the work in the database is done.
    """

    key: Key
    user_ids: tuple[str | None, ...]
    password_hash: str | None = field(repr=False)
    values: Mapping[str, Any] = field(repr=False)
    row: U | None = field(repr=False)

    @property
    def user_id(self) -> str | None:
        """The first user id."""
        return self.user_ids[0]

    @property
    def proof(self) -> bytes:
        """The account's proof."""
        return proof_of(self.user_ids, self.password_hash)


class AccountReader(Generic[U, I]):
    """Finds users and makes their accounts.

    Args:
        users: the model.
        identity: the identity class. ``None`` makes one.
        clock: returns the current time as an aware datetime.

    Attributes:
        identity: the identity class.
        needs_row: whether an account needs a property of the model.
        names: the attributes of the model that an account needs.

    Raises:
        ConfigError: if the identity class is wrong for this model.
    """

    def __init__(self, users: MappedUsers[U], identity: type[I] | None, clock: Callable[[], datetime]) -> None:
        self._users = users
        self._clock = clock
        self._makes_identity = identity is None
        self.identity: type[I] = default_identity(users.key, *users.user_ids) if identity is None else identity
        self._codec = IdentityCodec(self.identity)
        self._check_fields()
        names = [users.key, *users.user_ids, users.password_hash, *users.restricting, *self._codec.field_names]
        # If the class has a plain constant, nothing needs to be read.
        self._always = isinstance(inspect.getattr_static(users.model, _ACTIVE), bool)
        self.names = tuple(dict.fromkeys(names if self._always else [*names, _ACTIVE]))
        self.needs_row = not all(name in users.mapper.column_attrs for name in self.names)
        self._queries: dict[tuple[str, ...], sa.Select[Any]] = {}
        self._typed_query: sa.Select[Any] | None = None

    def _check_fields(self) -> None:
        users, name = self._users, self.identity.__name__
        for each in self._codec.field_names:
            if each == users.password_hash:
                raise ConfigError(f"the identity {name} must not hold {each}: sessions never carry what proves a user")
            if not hasattr(users.model, each):
                raise ConfigError(f"the identity {name} has a field {each!r}, and {users.model.__name__} has none")
        if users.key not in self._codec.field_names:
            raise ConfigError(f"the identity {name} must have a field {users.key!r}: the primary key tells users apart")

    def find(self, session: orm.Session, wanted: Mapping[str, object], also: Iterable[str] = ()) -> Found[U] | None:
        """Return the one user whose columns have the wanted values; ``None`` if there is no such user, or several.

        Args:
            session: a session of the caller.
            wanted: values by attribute name. No value may be ``None``.
            also: further columns to read.
        """
        names = dict.fromkeys([*self.names, *wanted, *also])
        parameters = {f"wanted_{name}": value for name, value in wanted.items()}
        try:
            # A client chooses the further columns, so statements with them are not cached.
            query = self._query(wanted, names) if also else self._kept_query(tuple(wanted))
            result = session.execute(query, parameters)
        except StatementError as error:
            # No row can have this value, or the key column now has another type.
            if refuses_values(error) or (self._users.key in wanted and is_incomparable(error)):
                return None
            raise
        rows = self._rows(result, names)
        if len(rows) != 1:
            return None
        # A collation may find "mike" for a name with a dotless i or trailing spaces. Accept only the exact value.
        if any(isinstance(value, str) and _differs(rows[0][0][name], value) for name, value in wanted.items()):
            return None
        return self._found(*rows[0])

    def find_typed(self, session: orm.Session, typed: TypedId) -> Found[U] | None:
        """Return the user whom a typed user id means; ``None`` if there is no such user. One SELECT.

        A second one if the column cannot hold a spelling outside ASCII.

        An earlier column takes precedence over a later one, and then an earlier spelling over a later one. So each of
        two users whose ids differ only by case signs in with the exact one. If a user name equals the e-mail address
        of another user, the user with the address is found.
        """
        if self._typed_query is None:
            self._typed_query = self._query_of_typed()
        parameters = {
            f"{name}_{number}": text for name, texts in typed.spellings.items() for number, text in enumerate(texts)
        }
        try:
            result = session.execute(self._typed_query, parameters)
        except StatementError as error:
            if not refuses_values(error):
                raise
            in_ascii = typed.in_ascii() if lacks_characters(error) else None
            return None if in_ascii is None else self.find_typed(session, in_ascii)
        rows = self._rows(result, self.names)
        for name, texts in typed.spellings.items():
            for text in texts:
                exact = [each for each in rows if each[0][name] == text]  # a collation may find others
                if exact:
                    return self._found(*exact[0]) if len(exact) == 1 else None
        return None

    def _rows(self, result: "sa.Result[Any]", names: Iterable[str]) -> list[tuple[dict[str, Any], U | None]]:
        """Return the values of each row by attribute name, and the row itself if accounts need it."""
        if not self.needs_row:
            return [(dict(zip(names, each, strict=True)), None) for each in result.all()]
        columns = [name for name in names if name in self._users.columns]
        return [({name: getattr(row, name) for name in columns}, row) for (row,) in result.unique().all()]

    def _found(self, values: Mapping[str, Any], row: U | None) -> Found[U]:
        users = self._users
        return Found(
            plain_key(values[users.key]),
            tuple(self._text(values, name) for name in users.user_ids),
            self._text(values, users.password_hash),
            values,
            row,
        )

    def account(self, found: Found[U], session: orm.Session | None = None) -> Account[I]:
        """Make the account of a user.

        Args:
            found: the user.
            session: a session in which to read properties of the row. It is needed if the account needs the row.
        """
        if found.row is not None and session is not None:
            session.add(found.row)
        active = self._value(found, _ACTIVE)
        if self._makes_identity:
            own = {**dict(zip(self._users.user_ids, found.user_ids, strict=True)), self._users.key: found.key}
            identity = self._codec.of(own.__getitem__)
        else:
            identity = self._codec.of(lambda name: self._value(found, name))
        return Account(
            key=found.key,
            identity=identity,
            proof=found.proof,
            active=self.is_active(active, found.values),
        )

    def is_active(self, active: object, values: Mapping[str, Any]) -> bool:
        """Return whether a user may sign in, whose ``is_active`` and columns have these values."""
        # Accept no other truthy value (CVE-2022-24880).
        return active is True and self._users.is_allowed(values, self._clock())

    def proof(self, values: Mapping[str, Any]) -> bytes:
        """Return the proof of a user, whose columns have these values by attribute name."""
        user_ids = tuple(self._text(values, name) for name in self._users.user_ids)
        return proof_of(user_ids, self._text(values, self._users.password_hash))

    def _value(self, found: Found[U], name: str) -> object:
        if name == _ACTIVE and self._always:
            return getattr(self._users.model, name)
        return found.values[name] if found.row is None else getattr(found.row, name)

    def _text(self, values: Mapping[str, Any], name: str) -> str | None:
        value = values[name]
        if value is None:
            return None
        if not isinstance(value, str):
            raise ConfigError(f"{self._users.model.__name__}.{name} must hold text, not {type(value).__name__}")
        return str.__str__(value)

    # The type is quoted, because `Select` has other parameters in SQLAlchemy 2.0 than in 2.1.
    def _kept_query(self, wanted: tuple[str, ...]) -> "sa.Select[Any]":
        """Return the cached statement for look-ups by some columns.

        SQLAlchemy builds a cache key from the whole statement, which takes longer than SQLite's answer. It remembers
        the key of the same statement object.
        """
        query = self._queries.get(wanted)
        if query is None:
            query = self._queries[wanted] = self._query(wanted, (*self.names, *wanted))
        return query

    def _query(self, wanted: Iterable[str], names: Iterable[str]) -> "sa.Select[Any]":
        """Return a statement for at most two users. Two rows are enough to see that the user is not unique."""
        clauses = (self._users.attribute(name) == sa.bindparam(f"wanted_{name}") for name in wanted)
        return self._selection(names).where(*clauses).limit(2)

    def _query_of_typed(self) -> "sa.Select[Any]":
        """Return the statement for sign-ins. All values are in one statement, so its time does not tell which fits."""
        names = self._users.user_ids
        clauses = [
            self._users.attribute(name) == sa.bindparam(f"{name}_{number}")
            for name in names
            for number in range(MOST_SPELLINGS)
        ]
        # Unique columns have at most one row for each value.
        return self._selection(self.names).where(sa.or_(*clauses)).limit(len(clauses) + 1)

    def _selection(self, names: Iterable[str]) -> "sa.Select[Any]":
        users = self._users
        selected = [users.attribute(name) for name in dict.fromkeys(names) if name in users.mapper.column_attrs]
        if self.needs_row:
            undeferred = (orm.undefer(attribute) for attribute in selected)
            return sa.select(users.model).options(*undeferred).execution_options(populate_existing=True)
        return sa.select(*selected)


def proof_of(user_ids: tuple[str | None, ...], password_hash: str | None) -> bytes:
    """Return an account's proof: a hash of its user ids and its password hash."""
    proof = msgspec.msgpack.encode((*user_ids, password_hash))
    return hashlib.blake2b(proof, digest_size=32, person=b"powauth users").digest()


def _differs(found: object, wanted: str) -> bool:
    return isinstance(found, str) and found != wanted
