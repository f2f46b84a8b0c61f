"""`Lock`: the app locks users, for good or until a time. A locked user cannot tell the lock from a wrong password."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar, Self

from powauth._extras import needs
from powauth._options import wrong
from powauth._times import moment
from powauth.accounts.base import key_of_user
from powauth.accounts.hooks import Extension, Parts
from powauth.accounts.identity import I
from powauth.accounts.restrictions import Restriction
from powauth.errors import InvalidParams
from powauth.events import EventKind

with needs("users", "Lock", "sqlalchemy"):
    from sqlalchemy import String
    from sqlalchemy.orm import Mapped, mapped_column

from powauth.accounts.sqlalchemy import UTCDateTime

__all__ = ["Lock", "LockMixin"]

LOCKED = EventKind("account_locked", "the app locked a user; `detail` is the end of the lock, if it has one")
UNLOCKED = EventKind("account_unlocked", "the app took the lock of a user back")

MAX_REASON_CHARS = 255
"""The longest reason of a lock."""


def _allows(values: Mapping[str, Any], now: datetime) -> bool:
    at, until = values["locked_at"], values["locked_until"]
    if until is not None:
        return bool(now >= until)  # also if another program sets this column alone
    return at is None


class LockMixin:
    """The columns ``locked_at``, ``locked_reason`` and ``locked_until``.

    A user is locked if ``locked_until`` is later than now, or if it is ``None`` and ``locked_at`` has a time. This
    holds whoever wrote the columns, and without the extension `Lock`, too.

    >>> from sqlalchemy.orm import DeclarativeBase
    >>> from powauth.accounts.sqlalchemy import UserMixin
    >>> class Base(DeclarativeBase):
    ...     pass
    >>> class User(LockMixin, UserMixin, Base):
    ...     __tablename__ = "users"
    >>> [column.name for column in User.__table__.columns if column.name.startswith("locked")]
    ['locked_at', 'locked_reason', 'locked_until']
    """

    locked_at: Mapped[datetime | None] = mapped_column(UTCDateTime(), sort_order=2)
    locked_reason: Mapped[str | None] = mapped_column(String(MAX_REASON_CHARS), sort_order=2)
    locked_until: Mapped[datetime | None] = mapped_column(UTCDateTime(), sort_order=2)

    lock_restriction: ClassVar = Restriction(("locked_at", "locked_until"), _allows)


class Lock(Extension[I]):
    """Locks users. The app decides who may call it, such as an administrator's view.

    A lock ends everything that the user holds, such as sessions and tokens. A locked user cannot sign in in any way.
    powauth answers a right password like a wrong one, in the same time (ASVS 6.3.8).

    A lock with an end needs no second call: the user can sign in again once the time has passed.
    """

    name: ClassVar[str] = "lock"
    needs: ClassVar[tuple[type, ...]] = (LockMixin,)
    events: ClassVar[tuple[EventKind, ...]] = (LOCKED, UNLOCKED)

    _parts: Parts[I]

    def bind(self, parts: Parts[I]) -> Self:
        """See `Extension.bind`."""
        bound = type(self)()
        bound._parts = parts
        return bound

    async def lock(
        self, user: object, reason: str, *, until: datetime | None = None, by: object = None, request: Any = None
    ) -> None:
        """Lock a user, and end everything that the user holds. A second lock replaces the first.

        Args:
            user: an identity, a row, an account, or a key.
            reason: the reason, for the app's administrators. powauth shows it to nobody.
            until: the end of the lock, as an aware time. ``None`` is a lock without an end.
            by: the user who locks, for the event.
            request: the request in which this happens, for the event.

        Raises:
            InvalidParams: if the user does not exist (``base``), the reason is blank or too long (``locked_reason``),
                or the end has passed (``locked_until``).
            ConfigError: if ``until`` is no aware time, or ``user`` is no user.
            StoreUnavailable: if the user is not locked, or may still hold something that is valid. Then try again.
        """
        key, now = key_of_user(self._parts.users, user), moment(self._parts.now())
        if until is not None and (not isinstance(until, datetime) or until.tzinfo is None):
            raise wrong("until", "an aware time, such as datetime.now(UTC) + timedelta(days=7), or None", until)
        if not isinstance(reason, str) or not reason.strip():
            raise InvalidParams({"locked_reason": ["can't be blank"]})
        if until is not None and until <= now:
            raise InvalidParams({"locked_until": ["must be in the future"]})
        columns = {"locked_at": now, "locked_reason": reason, "locked_until": until}
        await self._parts.change(key, columns)
        end = None if until is None else until.isoformat(timespec="seconds")
        self._parts.emit(
            LOCKED, key, end, request=request, actor=None if by is None else key_of_user(self._parts.users, by)
        )

    async def unlock(self, user: object, *, by: object = None, request: Any = None) -> None:
        """Take a lock back. The user can sign in again. Sessions and tokens that have ended stay so.

        The arguments are those of `lock`.

        Raises:
            InvalidParams: if the user does not exist (``base``).
            ConfigError: if ``user`` is no user.
            StoreUnavailable: if the user is still locked.
        """
        key = key_of_user(self._parts.users, user)
        await self._parts.change(key, {"locked_at": None, "locked_reason": None, "locked_until": None})
        self._parts.emit(
            UNLOCKED, key, request=request, actor=None if by is None else key_of_user(self._parts.users, by)
        )
