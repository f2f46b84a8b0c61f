"""The demo's tables."""

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.schema import CreateColumn

from powauth.accounts.sqlalchemy import UserMixin
from powauth.extensions.api_keys import ApiKeyMixin
from powauth.extensions.audit import AuditMixin
from powauth.extensions.confirm_email import ConfirmEmailMixin
from powauth.extensions.lock import LockMixin
from powauth.extensions.passkeys import PasskeyMixin
from powauth.extensions.second_factor import RecoveryCodeMixin, TotpMixin


class Base(DeclarativeBase):
    """The demo's tables."""


class User(ConfirmEmailMixin, LockMixin, UserMixin, Base):
    """The demo's users. The first one who registers is the administrator: the database decides who that is."""

    __tablename__ = "users"

    administrator: Mapped[bool] = mapped_column(
        default=sa.literal_column("NOT EXISTS (SELECT 1 FROM users)"), server_default=sa.false(), sort_order=3
    )


class Activity(AuditMixin, Base):
    """The demo's audit log."""

    __tablename__ = "activity"


class ApiKey(ApiKeyMixin, Base):
    """The keys of users' programs."""

    __tablename__ = "api_keys"


class Authenticator(TotpMixin, Base):
    """The authenticator apps of users."""

    __tablename__ = "authenticators"


class RecoveryCode(RecoveryCodeMixin, Base):
    """The codes that replace a lost authenticator app."""

    __tablename__ = "recovery_codes"


class Passkey(PasskeyMixin, Base):
    """The passkeys of users."""

    __tablename__ = "passkeys"


def create_tables(connection: sa.Connection) -> None:
    """Create the tables that do not exist, and the columns that the users of an older demo lack."""
    Base.metadata.create_all(connection)
    table = Base.metadata.tables[User.__tablename__]
    existing = {each["name"] for each in sa.inspect(connection).get_columns(table.name)}
    for column in table.columns:
        if column.name not in existing:
            added = CreateColumn(column).compile(connection)
            connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {added}")


def appoint(connection: sa.Connection, address: str) -> bool:
    """Make the user with an address administrator. Return whether there is such a user."""
    statement = sa.update(User).where(User.email == address.strip().lower()).values(administrator=True)
    return connection.execute(statement).rowcount == 1
