"""The columns of an app's model: what a value for one must be."""

import enum
import math
import re
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import BigInteger, Column, Index, Integer, SmallInteger, String, UniqueConstraint
from sqlalchemy.orm import ColumnProperty, Mapper
from sqlalchemy.types import TypeDecorator

from powauth.errors import ConfigError

SCALARS = (str, bool, int, float, Decimal, bytes, datetime, date, time, timedelta, UUID, enum.Enum)
"""What a value that comes from outside, or goes into a snapshot, may be."""

_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


class Field:
    """One mapped column.

    Attributes:
        name: The attribute's name on the model.
        type: The Python type of its values; ``None`` if it is no scalar, or unknown.
        nullable: Whether the column takes ``None``.
        required: Whether a new row needs a value for it.
        unique: Whether the database lets no two rows share a value.
    """

    def __init__(self, name: str, column: "Column[Any]") -> None:
        self.name = name
        kind = column.type.impl_instance if isinstance(column.type, TypeDecorator) else column.type
        try:
            python_type = kind.python_type
        except NotImplementedError:
            python_type = object
        self.type: type | None = python_type if issubclass(python_type, SCALARS) else None
        self.nullable = bool(column.nullable)
        self.required = not (column.nullable or column.default or column.server_default or column.identity)
        self.unique = _is_unique(column)
        self._length = kind.length if isinstance(kind, String) else None
        bits = 16 if isinstance(kind, SmallInteger) else 64 if isinstance(kind, BigInteger) else 32
        self._range = range(-(2 ** (bits - 1)), 2 ** (bits - 1)) if isinstance(kind, Integer) else None

    def check(self, value: object) -> object:
        """The value as the column takes it: text for a date or a UUID becomes one, as in JSON.

        Raises:
            ValueError: it does not fit; the message is for a form.
        """
        if self.type is None:
            return value  # the app's own type, in the app's own code: outside values never come here
        try:
            found = value if type(value) is self.type else msgspec.convert(value, self.type, strict=True)
        except (msgspec.ValidationError, ValueError, RecursionError):
            raise ValueError("is invalid") from None
        if isinstance(found, str):
            if _UNSTORABLE.search(found):
                raise ValueError("holds a character that is not allowed")
            if self._length is not None and len(found) > self._length:
                raise ValueError(f"should be at most {self._length} characters")
        if isinstance(found, float | Decimal) and not math.isfinite(found):
            raise ValueError("is invalid")
        if self._range is not None and found not in self._range:
            raise ValueError("is out of range")
        return found


def fields_of(mapper: Mapper[Any]) -> dict[str, Field]:
    """The mapped columns of a model, by attribute name; computed ones are left out.

    Raises:
        ConfigError: an attribute joins several columns.
    """
    found = {}
    for attribute in mapper.column_attrs:
        if not isinstance(attribute, ColumnProperty) or not isinstance(attribute.columns[0], Column):
            continue
        if len(attribute.columns) > 1:
            raise ConfigError(
                f"{mapper.class_.__name__}.{attribute.key} joins columns of two tables; use a single table"
            )
        found[attribute.key] = Field(attribute.key, attribute.columns[0])
    return found


def _is_unique(column: "Column[Any]") -> bool:
    table = column.table
    alone = [constraint.columns for constraint in table.constraints if isinstance(constraint, UniqueConstraint)]
    alone += [index.columns for index in table.indexes if isinstance(index, Index) and index.unique]
    return bool(column.unique) or any(list(columns) == [column] for columns in [*alone, table.primary_key.columns])
