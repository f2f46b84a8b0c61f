"""`ConfirmEmailMixin`: the columns that `ConfirmEmail` needs in the app's user model."""

from datetime import datetime

from powauth._extras import needs

with needs("users", "ConfirmEmailMixin", "sqlalchemy"):
    from sqlalchemy.orm import Mapped, mapped_column

from powauth.accounts.sqlalchemy import UTCDateTime, exact_string

MAX_ADDRESS_CHARS = 254
"""The longest e-mail address (RFC 5321, section 4.5.3.1, with RFC 3696, erratum 1690)."""


class ConfirmEmailMixin:
    """The columns ``email_confirmed_at`` and ``unconfirmed_email``.

    ``email_confirmed_at`` is the time at which the user proved to receive mail at ``email``, or ``None``.
    ``unconfirmed_email`` is a new address that waits for its confirmation, or ``None``. It is no user id: nobody can
    sign in with it, and it is not unique.

    The page about this extension has the SQL statement that confirms existing users.

    >>> from sqlalchemy.orm import DeclarativeBase
    >>> from powauth.accounts.sqlalchemy import UserMixin
    >>> class Base(DeclarativeBase):
    ...     pass
    >>> class User(ConfirmEmailMixin, UserMixin, Base):
    ...     __tablename__ = "users"
    >>> "email_confirmed_at" in User.__table__.columns
    True
    """

    email_confirmed_at: Mapped[datetime | None] = mapped_column(UTCDateTime(), sort_order=2)
    unconfirmed_email: Mapped[str | None] = mapped_column(exact_string(MAX_ADDRESS_CHARS), sort_order=2)
