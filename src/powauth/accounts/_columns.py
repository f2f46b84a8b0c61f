"""The columns of an app's model: the values that fit each of them."""

import dataclasses
import enum
import math
import re
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import BigInteger, Column, Dialect, Index, Integer, SmallInteger, String, UniqueConstraint
from sqlalchemy.orm import ColumnProperty, Mapper
from sqlalchemy.types import TypeDecorator, TypeEngine

from powauth.errors import ConfigError

SCALARS = (str, bool, int, float, Decimal, bytes, datetime, date, time, timedelta, UUID, enum.Enum)
"""Types of values that may come from outside."""

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")

_INT64 = range(-(2**63), 2**63)
"""The integers of 64 bits, which are the largest in the databases. SQLite's INTEGER always has 64 bits."""


class Field:
    """One mapped column.

    Attributes:
        name: the attribute's name on the model.
        type: the Python type of its values; ``None`` if it is unknown or no scalar.
        decorated: whether a TypeDecorator converts its values. ``type`` is then a guess.
        nullable: whether the column takes ``None``.
        required: whether a new row needs a value for it: it is ``NOT NULL``, and has no default.
        unique: whether the database refuses a value that another row has.
        length: the maximum length of its text; ``None`` if it has none.
    """

    def __init__(self, name: str, column: "Column[Any]", dialect: Dialect) -> None:
        self.name = name
        kind: TypeEngine[Any] = column.type.dialect_impl(dialect)  # a type may have a variant for this database
        self.decorated = isinstance(kind, TypeDecorator)
        self.type = _scalar_type(kind)
        if isinstance(kind, TypeDecorator):
            kind = kind.impl_instance
            self.type = self.type or _scalar_type(kind)
        self.nullable = bool(column.nullable)
        self.required = not (column.nullable or column.default or column.server_default or column.identity)
        self.unique = _is_unique(column)
        self.length = kind.length if isinstance(kind, String) else None
        big = isinstance(kind, BigInteger) or isinstance(column.type, BigInteger)
        bits = 64 if big else 16 if isinstance(kind, SmallInteger) else 32
        self._range = range(-(2 ** (bits - 1)), 2 ** (bits - 1)) if isinstance(kind, Integer) else None

    def check(self, value: object, *, trusted: bool = False) -> object:
        """Return the value in the column's type. Text is converted to a date or a UUID, as in JSON.

        A value from the app's own code (``trusted``) may have a type that only the column's TypeDecorator knows.

        Raises:
            ValueError: if the value does not fit. The message is for a form.
        """
        if self.type is None:
            return value  # a type of the app's own: values from outside are never assigned to such a column
        try:
            found = self._converted(value)
        except ValueError:
            if trusted and self.decorated:
                return value
            raise
        if isinstance(found, str):
            if _UNSTORABLE.search(found):
                raise ValueError("holds a character that is not allowed")
            if self.length is not None and len(found) > self.length:
                raise ValueError(f"should be at most {self.length} characters")
        if isinstance(found, float | Decimal) and not math.isfinite(found):
            raise ValueError("is invalid")
        if self._range is not None and isinstance(found, int) and found not in self._range:
            raise ValueError("is out of range")
        return found

    def check_key(self, value: object) -> object:
        """Return a user's key in the type that a look-up needs.

        Raises:
            ValueError: if no row can have this key.
        """
        if isinstance(value, bool) or not isinstance(value, int | str | UUID):
            raise ValueError("is invalid")
        if isinstance(value, str) and _UNSTORABLE.search(value):
            raise ValueError("holds a character that is not allowed")
        if isinstance(value, int) and value not in _INT64:
            raise ValueError("is out of range")
        # Only a TypeDecorator knows its own values.
        return value if self.decorated or self.type is None else self._converted(value)

    def _converted(self, value: object) -> object:
        try:
            return value if type(value) is self.type else msgspec.convert(value, self.type, strict=True)
        except (msgspec.ValidationError, ValueError, RecursionError):
            raise ValueError("is invalid") from None


def fields_of(mapper: Mapper[Any], dialect: Dialect) -> dict[str, Field]:
    """Return the mapped columns of a model by attribute name. Computed columns are left out.

    Raises:
        ConfigError: if an attribute joins several columns.
    """
    found = {}
    made = _made_by_the_orm(mapper)
    for attribute in mapper.column_attrs:
        if not isinstance(attribute, ColumnProperty) or not isinstance(attribute.columns[0], Column):
            continue
        if len(attribute.columns) > 1:
            raise ConfigError(
                f"{mapper.class_.__name__}.{attribute.key} joins columns of two tables; use a single table"
            )
        field = Field(attribute.key, attribute.columns[0], dialect)
        field.required &= attribute.key not in made
        found[attribute.key] = field
    return found


def _made_by_the_orm(mapper: Mapper[Any]) -> set[str]:
    """Return the attributes whose first values come from the ORM: the counter of versions, and a dataclass's defaults.

    A dataclass's defaults are not defaults of the columns.
    """
    given = dataclasses.fields(mapper.class_) if dataclasses.is_dataclass(mapper.class_) else ()
    made = {each.name for each in given if each.default_factory is not dataclasses.MISSING}
    counter = mapper.version_id_col
    return made if counter is None else made | {mapper.get_property_by_column(counter).key}


def _scalar_type(kind: TypeEngine[Any]) -> type | None:
    try:
        python_type: object = kind.python_type
    except NotImplementedError:
        return None
    # A type may declare any object here, such as an annotated type, which is no class.
    return python_type if isinstance(python_type, type) and issubclass(python_type, SCALARS) else None


def _is_unique(column: "Column[Any]") -> bool:
    table = column.table
    alone = [constraint.columns for constraint in table.constraints if isinstance(constraint, UniqueConstraint)]
    alone += [index.columns for index in table.indexes if isinstance(index, Index) and index.unique]
    return bool(column.unique) or any(list(columns) == [column] for columns in [*alone, table.primary_key.columns])
