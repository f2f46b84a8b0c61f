"""The table of the audit log: its columns, and the statements over them."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from powauth._extras import needs
from powauth.events import Event

with needs("users", "Audit", "sqlalchemy"):
    import sqlalchemy as sa
    from sqlalchemy.orm import Mapped, mapped_column

from powauth.accounts._database import Database, check_model, database_of
from powauth.accounts._models import UTCDateTime, exact_string, user_key_string
from powauth.accounts.identity import Key
from powauth.accounts.user_keys import user_key_text

MAX_TEXT_CHARS: Final = 255

BEGINNINGS: Final = ("deleted", "registered")
"""Events after which a key may belong to another user. Older entries are not shown to this user."""


class AuditMixin:
    """The columns of an audit log, for a separate table.

    >>> from sqlalchemy.orm import DeclarativeBase
    >>> class Base(DeclarativeBase):
    ...     pass
    >>> class Activity(AuditMixin, Base):
    ...     __tablename__ = "activity"
    >>> [column.name for column in Activity.__table__.columns]
    ['id', 'at', 'event', 'user_key', 'actor', 'sid', 'ip', 'detail']
    """

    id: Mapped[int] = mapped_column(sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True)
    at: Mapped[datetime] = mapped_column(UTCDateTime(), index=True)
    event: Mapped[str] = mapped_column(exact_string(64))
    user_key: Mapped[str | None] = mapped_column(user_key_string(), index=True)
    actor: Mapped[str | None] = mapped_column(user_key_string())
    sid: Mapped[str | None] = mapped_column(exact_string(64))
    ip: Mapped[str | None] = mapped_column(exact_string(64))
    detail: Mapped[str | None] = mapped_column(exact_string(MAX_TEXT_CHARS))


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the audit log, with the fields of `powauth.Event`. All texts are printable ASCII.

    ``user_key`` and ``actor`` name users by `powauth.accounts.user_keys.user_key_text`.
    """

    at: datetime
    event: str
    user_key: str | None
    actor: str | None
    sid: str | None
    ip: str | None
    detail: str | None


def printable(text: str | None, most: int = MAX_TEXT_CHARS) -> str | None:
    r"""Return a text in printable ASCII, with escapes for all other characters, cut to ``most`` characters.

    Line breaks, terminal escapes and characters that reverse the text have no effect where an entry is shown.

    >>> printable("a\r\n\x1b[2J\u202e")
    'a\\r\\n\\x1b[2J\\u202e'
    """
    if text is None:
        return None
    return "".join(each if " " <= each <= "~" and each != "\\" else ascii(each)[1:-1] for each in text)[:most]


def row_of(event: Event) -> dict[str, Any]:
    """Return the row of an event."""
    return {
        "at": event.at,
        "event": event.name,
        "user_key": None if event.user_key is None else user_key_text(event.user_key),
        "actor": None if event.actor is None else user_key_text(event.actor),
        "sid": printable(event.sid, 64),
        "ip": printable(event.ip, 64),
        "detail": printable(event.detail),
    }


class AuditTable:
    """Writes and reads the table of a model, in transactions of its own.

    Args:
        engine: an ``Engine`` or ``AsyncEngine``.
        model: a declarative class with `AuditMixin`.

    Attributes:
        engine: the engine.
        model: the model.
        database: runs the statements.

    Raises:
        ConfigError: if the engine is no engine, or the model has no `AuditMixin`.
    """

    def __init__(self, engine: object, model: type[AuditMixin]) -> None:
        check_model("the model of the audit log", model, AuditMixin)
        self.engine = engine
        self.model = model
        self.database: Database = database_of(engine)
        self._model: Any = model

    async def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert rows in one transaction.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.insert(self._model), [dict(row) for row in rows])
            connection.commit()

        await self.database.connected(work)

    async def recent(self, key: Key | None, events: Collection[str] | None, limit: int) -> list[Entry]:
        """Return the newest entries, newest first.

        Args:
            key: the key of a user; ``None`` is everybody's entries. A user's older entries are left out if the
                key has belonged to another user.
            events: the names of the events; ``None`` is all of them.
            limit: the most entries.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """
        model, names = self._model, Entry.__struct_fields__
        query: Any = sa.select(*(getattr(model, name) for name in names)).order_by(model.id.desc()).limit(limit)
        if key is not None:
            own = model.user_key == user_key_text(key)
            begun = sa.select(sa.func.max(model.id)).where(own, model.event.in_(BEGINNINGS)).scalar_subquery()
            query = query.where(own, model.id >= sa.func.coalesce(begun, 0), model.event != BEGINNINGS[0])
        if events is not None:
            query = query.where(model.event.in_(sorted(events)))

        def work(connection: sa.Connection) -> list[Entry]:
            return [Entry(**dict(zip(names, row, strict=True))) for row in connection.execute(query)]

        return await self.database.connected(work)

    async def purge(self, before: datetime) -> int:
        """Delete the entries before a time, and return how many there were.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """

        def work(connection: sa.Connection) -> int:
            result = connection.execute(sa.delete(self._model).where(self._model.at < before))
            connection.commit()
            return result.rowcount

        return await self.database.connected(work)
