"""The table of passkeys: its columns, and the statements over them.

Each statement commits at once. The unique column ``credential_id`` decides which of two parallel registrations wins.
"""

import secrets
import uuid
from datetime import datetime
from typing import Any, Final, TypeVar

import msgspec

from powauth._extras import needs

with needs("users", "Passkeys", "sqlalchemy"):
    import sqlalchemy as sa
    from sqlalchemy.dialects import mysql
    from sqlalchemy.exc import IntegrityError
    from sqlalchemy.orm import Mapped, mapped_column

from powauth.accounts._database import Database, check_model, database_of
from powauth.accounts._models import UTCDateTime, exact_string, user_key_string
from powauth.accounts.identity import Key
from powauth.accounts.user_keys import user_key_in, user_key_text
from powauth.extensions.passkeys.answers import MAX_CREDENTIAL_ID_BYTES
from powauth.extensions.passkeys.ceremonies import HANDLE_BYTES, MAX_PUBLIC_KEY_BYTES, Credential, NewCredential, Use

T = TypeVar("T")

MAX_LABEL_CHARS: Final = 64
"""The longest label."""

_MARIADB: Final = ("mysql", "mariadb")


def _binary(length: int) -> sa.LargeBinary:
    """Return a type of bytes that every database can index and compares byte by byte."""
    return sa.LargeBinary(length).with_variant(mysql.VARBINARY(length), *_MARIADB)


class PasskeyMixin:
    """The columns of the passkeys, for a separate table.

    ``user_key`` names the user; see `powauth.accounts.user_keys`. ``user_created_at`` is the time at which the user was
    created, if the model of the users has ``created_at``.

    >>> from sqlalchemy.orm import DeclarativeBase
    >>> class Base(DeclarativeBase):
    ...     pass
    >>> class Passkey(PasskeyMixin, Base):
    ...     __tablename__ = "passkeys"
    >>> [column.name for column in Passkey.__table__.columns][:6]
    ['id', 'credential_id', 'user_key', 'user_created_at', 'user_handle', 'public_key']
    """

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
    credential_id: Mapped[bytes] = mapped_column(_binary(MAX_CREDENTIAL_ID_BYTES), unique=True)
    user_key: Mapped[str] = mapped_column(user_key_string(), index=True)
    user_created_at: Mapped[datetime | None] = mapped_column(UTCDateTime())
    user_handle: Mapped[bytes] = mapped_column(_binary(HANDLE_BYTES))
    public_key: Mapped[bytes] = mapped_column(_binary(MAX_PUBLIC_KEY_BYTES))
    sign_count: Mapped[int] = mapped_column(sa.BigInteger())
    label: Mapped[str] = mapped_column(exact_string(MAX_LABEL_CHARS))
    backed_up: Mapped[bool]
    transports: Mapped[str] = mapped_column(sa.String(64))
    created_at: Mapped[datetime] = mapped_column(UTCDateTime())
    last_used_at: Mapped[datetime | None] = mapped_column(UTCDateTime())


class StoredPasskey(msgspec.Struct, frozen=True, kw_only=True):
    """A passkey as the table has it.

    Attributes:
        id: the name of the passkey for its user. It opens nothing.
        credential_id: the id that the authenticator chose.
        user_key: the key of its user, as `powauth.accounts.user_keys.user_key_text` writes it.
        user_created_at: the time at which the user was created, or ``None``.
        user_handle: the handle of its user.
        public_key: the public key in COSE.
        sign_count: the highest counter of signatures that was seen.
        label: the name that its user has given it.
        backed_up: whether other devices of the user have it, too.
        transports: the ways to reach the authenticator, with spaces between them.
        created_at: the time of its registration, in UTC.
        last_used_at: the time of its last use, in UTC; ``None`` before the first.
    """

    id: uuid.UUID
    credential_id: bytes
    user_key: str
    user_created_at: datetime | None
    user_handle: bytes
    public_key: bytes
    sign_count: int
    label: str
    backed_up: bool
    transports: str
    created_at: datetime
    last_used_at: datetime | None

    @property
    def credential(self) -> Credential:
        """The part that a browser or a check needs."""
        return Credential(
            credential_id=self.credential_id,
            public_key=self.public_key,
            user_handle=self.user_handle,
            transports=tuple(self.transports.split()),
        )

    @property
    def key(self) -> Key:
        """The key of its user."""
        return user_key_in(self.user_key)


class PasskeyTable:
    """Reads and writes the table of a model, in transactions of its own.

    Args:
        engine: an ``Engine`` or ``AsyncEngine``.
        model: a declarative class with `PasskeyMixin`.

    Attributes:
        engine: the engine.
        model: the model.
        database: runs the statements.

    Raises:
        ConfigError: if the engine is no engine, or the model has no `PasskeyMixin`.
    """

    def __init__(self, engine: object, model: type[PasskeyMixin]) -> None:
        check_model("the model of the passkeys", model, PasskeyMixin)
        self.engine: Final = engine
        self.model: Final = model
        self.database: Final[Database] = database_of(engine)
        self._model: Final[Any] = model
        self._columns: Final = [getattr(model, name) for name in StoredPasskey.__struct_fields__]

    async def find(self, credential_id: bytes) -> StoredPasskey | None:
        """Return the passkey with this id of its authenticator; ``None`` if there is none.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """
        query = sa.select(*self._columns).where(self._model.credential_id == credential_id)
        found = await self.database.connected(lambda connection: self._rows(connection, query))
        return found[0] if found else None

    async def of_user(self, key: Key) -> list[StoredPasskey]:
        """Return the passkeys of a user, oldest first.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """
        return await self.database.connected(lambda connection: self._rows(connection, self._own(key)))

    async def add(
        self, key: Key, born: datetime | None, handle: bytes, new: NewCredential, label: str, now: datetime
    ) -> StoredPasskey | None:
        """Add a passkey and return it; ``None`` if any user has a passkey of this id.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """
        row = StoredPasskey(
            id=uuid.UUID(bytes=secrets.token_bytes(16), version=4),
            credential_id=new.credential_id,
            user_key=user_key_text(key),
            user_created_at=born,
            user_handle=handle,
            public_key=new.public_key,
            sign_count=new.sign_count,
            label=label,
            backed_up=new.backed_up,
            transports=" ".join(new.transports),
            created_at=now,
            last_used_at=None,
        )

        def work(connection: sa.Connection) -> StoredPasskey | None:
            try:
                connection.execute(sa.insert(self._model).values(msgspec.structs.asdict(row)))
            except IntegrityError:
                return None
            connection.commit()
            return row

        return await self.database.connected(work)

    async def used(self, passkey: StoredPasskey, use: Use, now: datetime) -> bool:
        """Note a use of a passkey. Return whether it still exists. The counter never falls.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """
        model = self._model
        highest = sa.case((model.sign_count < use.sign_count, use.sign_count), else_=model.sign_count)
        values = {"sign_count": highest, "backed_up": use.backed_up, "last_used_at": now}
        own = (model.id == passkey.id, model.user_key == passkey.user_key)
        return await self._changes(sa.update(model).where(*own).values(values))

    async def rename(self, key: Key, name: uuid.UUID, label: str) -> bool:
        """Change the label of a user's passkey. Return whether the user has it.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """
        own = (self._model.id == name, self._model.user_key == user_key_text(key))
        return await self._changes(sa.update(self._model).where(*own).values(label=label))

    async def remove(self, key: Key, name: uuid.UUID, *, keep_one: bool) -> StoredPasskey | None:
        """Remove a passkey of a user and return it; ``None`` if the user does not have it, or it must stay.

        The rows of the user are locked first. So two parallel removals cannot take the last two passkeys of a user who
        needs one.

        Args:
            key: the key of the user.
            name: the name of the passkey.
            keep_one: whether the last passkey of the user must stay.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """

        def work(connection: sa.Connection) -> StoredPasskey | None:
            if connection.dialect.name == "sqlite":  # it has no row locks: a write takes the lock of the file
                connection.execute(sa.update(self._model).where(self._model.id == name).values(label=self._model.label))
            found = self._rows(connection, self._own(key).with_for_update())
            wanted = [each for each in found if each.id == name]
            if not wanted or (keep_one and len(found) == 1):
                return None
            connection.execute(sa.delete(self._model).where(self._model.id == name))
            connection.commit()
            return wanted[0]

        return await self.database.connected(work)

    async def remove_all(self, key: Key) -> int:
        """Remove all passkeys of a user, and return how many there were.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """

        def work(connection: sa.Connection) -> int:
            result = connection.execute(sa.delete(self._model).where(self._model.user_key == user_key_text(key)))
            connection.commit()
            return result.rowcount

        return await self.database.connected(work)

    def _own(self, key: Key) -> Any:
        model = self._model
        return (
            sa.select(*self._columns).where(model.user_key == user_key_text(key)).order_by(model.created_at, model.id)
        )

    @staticmethod
    def _rows(connection: sa.Connection, query: Any) -> list[StoredPasskey]:
        names = StoredPasskey.__struct_fields__
        return [StoredPasskey(**dict(zip(names, row, strict=True))) for row in connection.execute(query)]

    async def _changes(self, statement: Any) -> bool:
        def work(connection: sa.Connection) -> bool:
            result = connection.execute(statement)
            connection.commit()
            return bool(result.rowcount)

        return await self.database.connected(work)
