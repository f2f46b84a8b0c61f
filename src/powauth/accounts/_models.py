"""Declarative mixins for an app's user model."""

import uuid
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import DateTime, Dialect, String
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import Mapped, MappedColumn, mapped_column
from sqlalchemy.types import TypeDecorator, TypeEngine

_MARIADB = ("mysql", "mariadb")


def utc_now() -> datetime:
    """The time now, aware, in UTC."""
    return datetime.now(UTC)


class UTCDateTime(TypeDecorator[datetime]):
    """A time to the microsecond that is aware and in UTC on every database, also where the column knows no zone.

    Refuses naive values, which mean another time on each machine.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """MariaDB keeps whole seconds unless asked for more."""
        if dialect.name in _MARIADB:
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Into UTC, without the zone where the column has none."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone: give an aware datetime, such as datetime.now(UTC)")
        moment = value.astimezone(UTC)
        return moment if dialect.name == "postgresql" else moment.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Aware again."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def exact_string(length: int) -> String:
    """Text that the database compares character by character.

    MariaDB's usual collations take a dotless i for an i, and "A" for "a": one user id would reach another's account.
    """
    return String(length).with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), *_MARIADB)


class AccountMixin:
    """What every user model needs but the user id: ``id``, ``password_hash``, ``created_at``, ``updated_at``.

    The id is random, so that it is never given to anybody else, and tells nothing. ``password_hash`` is ``None`` for a
    user who cannot sign in with a password.
    """

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4, sort_order=-2)
    password_hash: Mapped[str | None] = mapped_column(exact_string(255), sort_order=-1)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime(), default=utc_now, sort_order=1)
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime(), default=utc_now, onupdate=utc_now, sort_order=1)

    @property
    def is_active(self) -> bool:
        """Whether the user may sign in and stay signed in. Override it, or map a boolean column in its place."""
        return True


def _identifying(length: int) -> MappedColumn[str]:
    return mapped_column(exact_string(length), unique=True, sort_order=-1)


class EmailMixin:
    """A unique ``email``, kept as `powauth.accounts.identifiers.EmailIdentifier` writes it."""

    email: Mapped[str] = _identifying(254)


class UsernameMixin:
    """A unique ``username``, kept as `powauth.accounts.identifiers.UsernameIdentifier` writes it."""

    username: Mapped[str] = _identifying(64)


class UserMixin(EmailMixin, AccountMixin):
    """A user with an e-mail address as user id: `EmailMixin` and `AccountMixin`.

    For user names instead, combine `UsernameMixin` and `AccountMixin`; for both, `UsernameMixin` and `UserMixin`.

    >>> from sqlalchemy.orm import DeclarativeBase
    >>> class Base(DeclarativeBase):
    ...     pass
    >>> class User(UserMixin, Base):
    ...     __tablename__ = "users"
    >>> [column.name for column in User.__table__.columns]
    ['id', 'email', 'password_hash', 'created_at', 'updated_at']
    """
