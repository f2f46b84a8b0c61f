"""Declarative mixins for an app's user model."""

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import DateTime, Dialect, String
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import Mapped, MappedColumn, mapped_column
from sqlalchemy.types import TypeDecorator, TypeEngine

from powauth.accounts.user_keys import MAX_USER_KEY_CHARS

_MARIADB = ("mysql", "mariadb")


def utc_now() -> datetime:
    """Return the time now, aware, in UTC."""
    return datetime.now(UTC)


class UTCDateTime(TypeDecorator[datetime]):
    """An aware time in UTC, to the microsecond. This holds on every database, even if the column has no time zone.

    It refuses naive values, because they mean a different time on each machine.

    In a migration it is `powauth.accounts.sqlalchemy.UTCDateTime`; see `powauth.accounts.migrations`.
    """

    __module__ = "powauth.accounts.sqlalchemy"  # the public name, which migrations import

    impl = DateTime(timezone=True)
    cache_ok = True

    def __repr__(self) -> str:
        return "UTCDateTime()"

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the type for a database. MariaDB stores whole seconds unless the column type asks for fractions."""
        if dialect.name in _MARIADB:
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the time in UTC. The zone is removed if the column has none."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone: give an aware datetime, such as datetime.now(UTC)")
        moment = value.astimezone(UTC)
        return moment if dialect.name == "postgresql" else moment.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the time as an aware time in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def exact_string(length: int) -> String:
    """Return a type of text that the database compares character by character.

    In MariaDB's usual collations, a dotless i equals an i, and "A" equals "a". One user id would then find the account
    of another.
    """
    return String(length).with_variant(mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"), *_MARIADB)


def user_key_string() -> String:
    """Return the type of a column that names a user by `powauth.accounts.user_keys.user_key_text`."""
    return exact_string(MAX_USER_KEY_CHARS)


class AccountMixin:
    """The columns that every user model needs, except the user id.

    These are ``id``, ``password_hash``, ``created_at`` and ``updated_at``. The id is random: it reveals nothing, and is
    never used for another user. ``password_hash`` is ``None`` for a user who cannot sign in with a password.
    """

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4, sort_order=-2)
    password_hash: Mapped[str | None] = mapped_column(exact_string(255), sort_order=-1)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime(), default=utc_now, sort_order=1)
    updated_at: Mapped[datetime] = mapped_column(UTCDateTime(), default=utc_now, onupdate=utc_now, sort_order=1)

    # Type checkers do not see it: a model may have a boolean column or a property of this name. The constant says that
    # every user is active, and powauth need not load a row to read it.
    if not TYPE_CHECKING:
        is_active = True


def _identifying(length: int) -> MappedColumn[str]:
    return mapped_column(exact_string(length), unique=True, sort_order=-1)


class EmailMixin:
    """A unique ``email``, stored as `powauth.accounts.identifiers.EmailIdentifier` normalises it."""

    email: Mapped[str] = _identifying(254)


class UsernameMixin:
    """A unique ``username``, stored as `powauth.accounts.identifiers.UsernameIdentifier` normalises it."""

    username: Mapped[str] = _identifying(64)


class UserMixin(EmailMixin, AccountMixin):
    """A user with an e-mail address as user id: `EmailMixin` and `AccountMixin`.

    For user names instead, combine `UsernameMixin` and `AccountMixin`. For both, combine `UsernameMixin` and
    `UserMixin`.

    >>> from sqlalchemy.orm import DeclarativeBase
    >>> class Base(DeclarativeBase):
    ...     pass
    >>> class User(UserMixin, Base):
    ...     __tablename__ = "users"
    >>> [column.name for column in User.__table__.columns]
    ['id', 'email', 'password_hash', 'created_at', 'updated_at']
    """
