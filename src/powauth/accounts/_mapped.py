"""An app's declarative model, as powauth uses it."""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Generic
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.exc import NoInspectionAvailable

from powauth._options import wrong
from powauth.accounts._columns import fields_of
from powauth.accounts.base import U
from powauth.accounts.identity import Key, loaded_key, stored_key
from powauth.accounts.restrictions import restrictions_of
from powauth.errors import ConfigError

TIMES = ("created_at", "updated_at")
"""Columns that powauth sets by its own clock if the model has them."""


class MappedUsers(Generic[U]):
    """The model and its columns.

    Args:
        model: the declarative class.
        user_id: the name of the user id's attribute, or several names.
        password_hash: the name of the password hash's attribute.
        dialect: the dialect of the database.

    Attributes:
        columns: the mapped columns by attribute name.
        user_id: the name of the first user id's attribute.
        user_ids: the names of all user ids' attributes. At a sign-in, an earlier one takes precedence.
        key: the name of the primary key's attribute.
        table_name: the table of the primary key, with its schema; ``None`` if the model is of no plain table.
        times: the names of the columns that powauth sets by its clock.
        restrictions: the conditions besides ``is_active``.
        restricting: the names of the columns that these depend on.

    Raises:
        ConfigError: if powauth cannot work with the model. The message says what to do.
    """

    def __init__(self, model: type[U], user_id: str | Sequence[str], password_hash: str, dialect: sa.Dialect) -> None:
        self.model = model
        self.mapper = _mapper_of(model)
        # Not the engine's own dialect: it keeps what it learns of a type, and before its first connection it does not
        # know the server. MariaDB has a type for UUIDs, and MySQL has none.
        self.columns = fields_of(self.mapper, type(dialect)())
        self.user_ids = _names_of(user_id)
        self.user_id = self.user_ids[0]
        self.password_hash = password_hash
        self.key = self._primary_key()
        self.table_name: str | None = getattr(self.mapper.primary_key[0].table, "fullname", None)
        self.times = tuple(
            name for name in TIMES if name in self.columns and self.columns[name].type in (datetime, None)
        )
        self.restrictions = restrictions_of(model)
        self.restricting = tuple(dict.fromkeys(name for each in self.restrictions for name in each.columns))
        self._check()

    def made(self, values: Mapping[str, Any]) -> U:
        """Return a new row with values by attribute. A dataclass may leave some out of its constructor."""
        fields = dataclasses.fields(self.model) if dataclasses.is_dataclass(self.model) else ()
        later = {field.name for field in fields if not field.init}
        user = self.model(**{name: value for name, value in values.items() if name not in later})
        for name in later & values.keys():
            setattr(user, name, values[name])
        return user

    def time_for(self, name: str, now: datetime) -> datetime:
        """Return the aware time ``now`` as a column of ``times`` takes it: naive, in UTC, if it has no time zone.

        A driver may refuse an aware time for such a column, or store it in the time zone of its connection.
        """
        kind = self.mapper.columns[name].type
        return now.astimezone(UTC).replace(tzinfo=None) if isinstance(kind, sa.DateTime) and not kind.timezone else now

    def _primary_key(self) -> str:
        name = self.model.__name__
        if self.mapper.polymorphic_on is not None:
            raise ConfigError(f"{name} has subclasses in its table (polymorphic_on); give a class without them")
        if len(self.mapper.primary_key) != 1:
            raise ConfigError(f"{name} must have one primary key column; it has {len(self.mapper.primary_key)}")
        key = self.mapper.get_property_by_column(self.mapper.primary_key[0]).key
        column = self.columns[key]
        # Only the values of a decorated column show its type.
        if not column.decorated and column.type not in {UUID, int, str, None}:
            raise ConfigError(f"{name}.{key}, the primary key, must be a UUID, an integer or text")
        return key

    def _check(self) -> None:
        name = self.model.__name__
        needed = [("user_id_field", "the user id", attribute) for attribute in self.user_ids]
        for option, purpose, attribute in (*needed, ("hash_field", "the password hash", self.password_hash)):
            if not isinstance(attribute, str) or attribute not in self.columns:
                raise ConfigError(
                    f"{name} has no column {attribute!r} for {purpose}: give the name of its column as {option}, "
                    "or derive the model from UserMixin"
                )
            if self.columns[attribute].type is not str:
                raise ConfigError(f"{name}.{attribute} must be a column of text")
        for attribute in self.restricting:
            if attribute not in self.columns:
                raise ConfigError(f"{name} has no column {attribute!r}, on which a restriction of it depends")
        for attribute in self.user_ids:
            if not self.columns[attribute].unique:
                raise ConfigError(f"{name}.{attribute} must be unique in the database: add unique=True to its column")
        if not hasattr(self.model, "is_active"):
            raise ConfigError(
                f"{name} needs is_active, a property or column that is True for users who may sign in; "
                "write is_active = True if the app locks nobody"
            )

    def check_room_for_hash(self, length: int) -> None:
        """Refuse a column that is too short for the hashes of the hasher. Some databases would cut them.

        Raises:
            ConfigError: if it is too short.
        """
        room = self.columns[self.password_hash].length
        if room is not None and room < length:
            raise ConfigError(
                f"{self.model.__name__}.{self.password_hash} has room for {room} characters, and a new hash has "
                f"{length}: make the column longer, such as String(255)"
            )

    def is_allowed(self, values: Mapping[str, Any], now: datetime) -> bool:
        """Return whether all restrictions allow a user with these values, by attribute name, to sign in now."""
        return all(
            each.allows({name: values[name] for name in each.columns}, now) is True for each in self.restrictions
        )

    def attribute(self, name: str) -> "orm.InstrumentedAttribute[Any]":
        """Return a mapped attribute of the model."""
        found: orm.InstrumentedAttribute[Any] = getattr(self.model, name)
        return found

    def key_of_row(self, row: U) -> Key | None:
        """Return the primary key of a row; ``None`` if it was never saved. This makes no query."""
        state = orm.attributes.instance_state(row)
        value = state.identity[0] if state.identity else state.dict.get(self.key)
        return None if value is None else plain_key(value)


def plain_key(value: Any) -> Key:
    """Return a key as a plain type. Drivers and TypeDecorators may return subclasses.

    Raises:
        ConfigError: if the value is no key.
    """
    return loaded_key(stored_key(value))


def _names_of(user_id: object) -> tuple[str, ...]:
    names = (user_id,) if isinstance(user_id, str) else tuple(user_id) if isinstance(user_id, Sequence) else ()
    if not names or len(set(names)) < len(names):
        raise wrong("user_id_field", "a name, or a tuple of different names", user_id)
    return names


def _mapper_of(model: type[U]) -> "orm.Mapper[U]":
    try:
        mapper = sa.inspect(model)
    except NoInspectionAvailable:
        mapper = None
    if not isinstance(mapper, orm.Mapper):
        raise wrong("model", "a SQLAlchemy declarative class, such as class User(UserMixin, Base)", model)
    return mapper
