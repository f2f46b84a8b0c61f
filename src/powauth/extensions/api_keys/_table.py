"""The table of API keys: its columns, and the statements over them."""

from collections.abc import Collection
from datetime import datetime
from typing import Any, Final

import msgspec

from powauth._extras import needs
from powauth.extensions.api_keys.form import ID_CHARS

with needs("users", "ApiKeys", "sqlalchemy"):
    import sqlalchemy as sa
    from sqlalchemy.orm import Mapped, mapped_column

from powauth.accounts._database import Database, check_model, database_of
from powauth.accounts._models import UTCDateTime, exact_string, user_key_string

MAX_NAME_CHARS: Final = 64


class ApiKeyMixin:
    """The columns of API keys, for a separate table in the database of the users.

    >>> from sqlalchemy.orm import DeclarativeBase
    >>> class Base(DeclarativeBase):
    ...     pass
    >>> class ApiKey(ApiKeyMixin, Base):
    ...     __tablename__ = "api_keys"
    >>> [column.name for column in ApiKey.__table__.columns][:6]
    ['id', 'public_id', 'secret_hash', 'namespace', 'user_key', 'user_created_at']
    """

    id: Mapped[int] = mapped_column(sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True)
    public_id: Mapped[str] = mapped_column(exact_string(ID_CHARS), unique=True)
    secret_hash: Mapped[str] = mapped_column(exact_string(64))
    namespace: Mapped[str] = mapped_column(exact_string(63))
    user_key: Mapped[str] = mapped_column(user_key_string(), index=True)
    user_created_at: Mapped[datetime | None] = mapped_column(UTCDateTime())
    proof: Mapped[str] = mapped_column(exact_string(64))
    name: Mapped[str] = mapped_column(exact_string(MAX_NAME_CHARS))
    scopes: Mapped[str] = mapped_column(sa.Text())
    created_at: Mapped[datetime] = mapped_column(UTCDateTime())
    last_used_at: Mapped[datetime | None] = mapped_column(UTCDateTime())
    expires_at: Mapped[datetime | None] = mapped_column(UTCDateTime())


class KeyRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table, without its number.

    Attributes:
        public_id: the public id of the key.
        secret_hash: the hash of the key.
        namespace: the namespace of the sessions beside which the key is valid.
        user_key: the key of the user, as `powauth.accounts.user_keys.user_key_text` writes it.
        user_created_at: the time at which the user was created, if the model has it. A number that was a deleted
            user's key may be another user's key by now.
        proof: a hash of the user's proof at the time when the key was made; see `proof_hash` of the authenticator.
        name: the name that the user has given it.
        scopes: its scopes, in order, with a space between two.
        created_at, last_used_at, expires_at: times in UTC.
    """

    public_id: str
    secret_hash: str
    namespace: str
    user_key: str
    user_created_at: datetime | None
    proof: str
    name: str
    scopes: str
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None

    __repr__ = object.__repr__  # error reporters record the repr of local variables

    @property
    def scope_set(self) -> frozenset[str]:
        """The scopes."""
        return frozenset(self.scopes.split())

    def has_expired(self, now: datetime) -> bool:
        """Return whether the key has expired."""
        return self.expires_at is not None and now >= self.expires_at


class KeyTable:
    """Reads and writes the table of a model, in transactions of its own. It sees the keys of one namespace.

    Args:
        engine: an ``Engine`` or ``AsyncEngine``.
        model: a declarative class with `ApiKeyMixin`.
        namespace: the namespace of the sessions.

    Attributes:
        engine: the engine.
        model: the model.
        database: runs the statements.

    Raises:
        ConfigError: if the engine is no engine, or the model has no `ApiKeyMixin`.
    """

    def __init__(self, engine: object, model: type[ApiKeyMixin], namespace: str) -> None:
        check_model("the model of API keys", model, ApiKeyMixin)
        self.engine = engine
        self.model = model
        self.database: Database = database_of(engine)
        self._namespace: Final = namespace
        self._model: Any = model
        self._columns = [getattr(model, name) for name in KeyRow.__struct_fields__]

    async def add(self, row: KeyRow, most: int, now: datetime) -> bool:
        """Insert a key, and delete the expired ones of its owner. Return ``False`` if the owner has ``most`` already.

        Each call counts the rows again after its commit. If there are too many, it deletes its own row. So parallel
        calls never leave more than ``most`` rows. All of them may fail.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """
        own, model = self._own(row.user_key), self._model
        count = sa.select(sa.func.count()).select_from(model).where(*own)
        one = sa.delete(model).where(*own, model.public_id == row.public_id)

        def insert(connection: sa.Connection) -> bool:
            fits = connection.execute(count).scalar_one() < most
            if fits:
                connection.execute(sa.insert(model), [msgspec.structs.asdict(row)])
            connection.commit()
            return fits

        def recount(connection: sa.Connection) -> bool:
            fits = connection.execute(count).scalar_one() <= most
            if not fits:
                connection.execute(one)
                connection.commit()
            return fits

        await self._change(sa.delete(model).where(*own, model.expires_at <= now))  # alone: MariaDB locks gaps
        return await self.database.connected(insert) and await self.database.connected(recount)

    async def find(self, public_id: str) -> KeyRow | None:
        """Return the key with this public id; ``None`` if there is none.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """
        found = await self._rows(self._model.public_id == public_id, self._model.namespace == self._namespace)
        return found[0] if found else None

    async def of(self, user_key: str) -> list[KeyRow]:
        """Return the keys of a user, newest first, the expired ones among them.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """
        return await self._rows(*self._own(user_key))

    async def delete(self, user_key: str, public_id: str | None = None) -> int:
        """Delete a key of a user, or all keys of the user. Return how many there were.

        Raises:
            StoreUnavailable: if any may still be there.
        """
        which = [] if public_id is None else [self._model.public_id == public_id]
        return await self._change(sa.delete(self._model).where(*self._own(user_key), *which))

    async def purge(self, now: datetime) -> int:
        """Delete the expired keys of all users, and return how many there were.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """
        model = self._model
        return await self._change(sa.delete(model).where(model.namespace == self._namespace, model.expires_at <= now))

    async def note_use(self, public_id: str, now: datetime, before: datetime) -> None:
        """Write the time of the last use, unless there was a use after ``before``.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """
        model = self._model
        late = sa.or_(model.last_used_at.is_(None), model.last_used_at <= before)
        own = (model.public_id == public_id, model.namespace == self._namespace)
        await self._change(sa.update(model).where(*own, late).values(last_used_at=now))

    def _own(self, user_key: str) -> Collection[Any]:
        return (self._model.namespace == self._namespace, self._model.user_key == user_key)

    async def _rows(self, *conditions: Any) -> list[KeyRow]:
        names = KeyRow.__struct_fields__
        query = sa.select(*self._columns).where(*conditions).order_by(self._model.id.desc())

        def work(connection: sa.Connection) -> list[KeyRow]:
            return [KeyRow(**dict(zip(names, row, strict=True))) for row in connection.execute(query)]

        return await self.database.connected(work)

    async def _change(self, statement: Any) -> int:
        def work(connection: sa.Connection) -> int:
            result = connection.execute(statement)
            connection.commit()
            return result.rowcount

        return await self.database.connected(work)
