"""The tables of authenticator apps and recovery codes: mixins with their columns, and the stores over them."""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from powauth._extras import needs
from powauth.accounts.anywhere import call_anywhere

with needs("users", "the tables of factors", "sqlalchemy"):
    import sqlalchemy as sa
    from sqlalchemy.exc import IntegrityError
    from sqlalchemy.orm import Mapped, mapped_column

from powauth.accounts._database import check_model, database_of
from powauth.accounts._models import UTCDateTime, exact_string, user_key_string
from powauth.accounts.base import UsersContext
from powauth.accounts.user_tables import bind_to_users
from powauth.errors import StoreUnavailable
from powauth.extensions.second_factor.stores import RecoveryCodeStore, TotpRecord, TotpStore

T = TypeVar("T")

MAX_LABEL_CHARS: Final = 64
ID_CHARS: Final = 24
HASH_BYTES: Final = 32


class TotpMixin:
    """The columns of authenticator apps, for a separate table. A user has at most one row.

    >>> from sqlalchemy.orm import DeclarativeBase
    >>> class Base(DeclarativeBase):
    ...     pass
    >>> class Authenticator(TotpMixin, Base):
    ...     __tablename__ = "authenticators"
    >>> [column.name for column in Authenticator.__table__.columns]
    ['user_key', 'name', 'label', 'seed', 'step', 'created_at', 'last_used_at']
    """

    user_key: Mapped[str] = mapped_column(user_key_string(), primary_key=True)
    name: Mapped[str] = mapped_column(exact_string(ID_CHARS))
    label: Mapped[str] = mapped_column(exact_string(MAX_LABEL_CHARS))
    seed: Mapped[bytes] = mapped_column(sa.LargeBinary())
    step: Mapped[int] = mapped_column(sa.BigInteger())
    created_at: Mapped[datetime] = mapped_column(UTCDateTime())
    last_used_at: Mapped[datetime | None] = mapped_column(UTCDateTime())


class RecoveryCodeMixin:
    """The columns of recovery codes, for a separate table. A user has a row for each code.

    >>> from sqlalchemy.orm import DeclarativeBase
    >>> class Base(DeclarativeBase):
    ...     pass
    >>> class RecoveryCode(RecoveryCodeMixin, Base):
    ...     __tablename__ = "recovery_codes"
    >>> [column.name for column in RecoveryCode.__table__.columns]
    ['user_key', 'code_hash', 'created_at']
    """

    user_key: Mapped[str] = mapped_column(user_key_string(), primary_key=True)
    code_hash: Mapped[str] = mapped_column(exact_string(2 * HASH_BYTES), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(UTCDateTime())


class FactorTable:
    """Runs statements over the table of one model, each in a transaction of its own.

    Args:
        engine: an ``Engine`` or ``AsyncEngine``.
        model: a declarative class with the mixin.
        mixin: the mixin.

    Raises:
        ConfigError: if the engine is no engine, or the model lacks the mixin.
    """

    def __init__(self, engine: object, model: type[Any], mixin: type[Any]) -> None:
        check_model("the model of a factor", model, mixin)
        self.model: Any = model
        self.engine: Final = engine
        self.database: Final = database_of(engine)

    def bind(self, users: UsersContext[Any, Any]) -> None:
        """Note the users of the rows.

        Raises:
            ConfigError: if the table has rows of users in another table.
        """
        bind_to_users(self.model, users, self.engine)

    async def run(self, work: Callable[[sa.Connection], T]) -> T:
        """Return the result of work, and commit it.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """

        def committed(connection: sa.Connection) -> T:
            result = work(connection)
            connection.commit()
            return result

        return await call_anywhere(self.database.mode, lambda: self.database.connected(committed))

    async def changed(self, statement: Any) -> int:
        """Execute a statement, and return how many rows it changed."""
        return await self.run(lambda connection: connection.execute(statement).rowcount)

    async def replaced(self, user: str, rows: Sequence[dict[str, Any]]) -> None:
        """Put rows in the place of all rows of a user.

        Raises:
            StoreUnavailable: also if another call has put rows at the same time.
        """

        def work(connection: sa.Connection) -> None:
            connection.execute(sa.delete(self.model).where(self.model.user_key == user))
            connection.execute(sa.insert(self.model), list(rows))

        try:
            await self.run(work)
        except IntegrityError as error:
            raise StoreUnavailable("the factors of the user were changed at the same time; try again") from error


_COLUMNS: Final = ("name", "label", "seed", "step", "created_at", "last_used_at")


def _record(row: Sequence[Any]) -> TotpRecord:
    name, label, seed, step, created_at, last_used_at = row
    return TotpRecord(
        id=name, label=label, seed=bytes(seed), step=step, created_at=created_at, last_used_at=last_used_at
    )


def _row(user: str, record: TotpRecord) -> dict[str, Any]:
    return {
        "user_key": user,
        "name": record.id,
        "label": record.label,
        "seed": record.seed,
        "step": record.step,
        "created_at": record.created_at,
        "last_used_at": record.last_used_at,
    }


class SQLTotpStore(TotpStore):
    """A `TotpStore` over the table of a model with `TotpMixin`. The arguments are those of `FactorTable`."""

    def __init__(self, engine: object, model: type[TotpMixin]) -> None:
        self._table: Final = FactorTable(engine, model, TotpMixin)
        self._model: Any = model

    def bind(self, users: UsersContext[Any, Any]) -> None:
        """See `TotpStore.bind`."""
        self._table.bind(users)

    async def get(self, user: str) -> TotpRecord | None:
        """See `TotpStore.get`."""
        model = self._model
        query = sa.select(*(getattr(model, name) for name in _COLUMNS)).where(model.user_key == user)

        def work(connection: sa.Connection) -> TotpRecord | None:
            row = connection.execute(query).one_or_none()
            return None if row is None else _record(row)

        return await self._table.run(work)

    async def put(self, user: str, record: TotpRecord) -> None:
        """See `TotpStore.put`.

        One statement replaces the record. So a sign-in always finds one, also with an engine in autocommit.
        """
        model, values = self._model, _row(user, record)
        replaced = await self._table.changed(sa.update(model).where(model.user_key == user).values(values))
        if not replaced and not await self.add(user, record):
            raise StoreUnavailable("the app of the user was changed at the same time; try again")

    async def add(self, user: str, record: TotpRecord) -> bool:
        """See `TotpStore.add`."""
        try:
            await self._table.changed(sa.insert(self._model).values(_row(user, record)))
        except IntegrityError:
            return False
        return True

    async def accept(self, user: str, id: str, step: int, at: datetime) -> bool:  # noqa: A002
        """See `TotpStore.accept`."""
        model = self._model
        own = sa.update(model).where(model.user_key == user, model.name == id, model.step < step)
        return await self._table.changed(own.values(step=step, last_used_at=at)) == 1

    async def reseal(self, user: str, id: str, old: bytes, new: bytes) -> bool:  # noqa: A002
        """See `TotpStore.reseal`."""
        model = self._model
        own = sa.update(model).where(model.user_key == user, model.name == id, model.seed == old)
        return await self._table.changed(own.values(seed=new)) == 1

    async def delete(self, user: str, id: str | None = None) -> bool:  # noqa: A002
        """See `TotpStore.delete`."""
        model = self._model
        own = sa.delete(model).where(model.user_key == user)
        return await self._table.changed(own if id is None else own.where(model.name == id)) == 1

    async def page(self, after: str | None, limit: int) -> Sequence[tuple[str, TotpRecord]]:
        """See `TotpStore.page`."""
        model = self._model
        query: Any = sa.select(model.user_key, *(getattr(model, name) for name in _COLUMNS))
        if after is not None:
            query = query.where(model.user_key > after)
        query = query.order_by(model.user_key).limit(limit)

        def work(connection: sa.Connection) -> list[tuple[str, TotpRecord]]:
            return [(row[0], _record(row[1:])) for row in connection.execute(query)]

        return await self._table.run(work)


class SQLRecoveryCodeStore(RecoveryCodeStore):
    """A `RecoveryCodeStore` over the table of a model with `RecoveryCodeMixin`; see `FactorTable`."""

    def __init__(self, engine: object, model: type[RecoveryCodeMixin]) -> None:
        self._table: Final = FactorTable(engine, model, RecoveryCodeMixin)
        self._model: Any = model

    def bind(self, users: UsersContext[Any, Any]) -> None:
        """See `RecoveryCodeStore.bind`."""
        self._table.bind(users)

    async def put(self, user: str, hashes: Collection[bytes], at: datetime) -> None:
        """See `RecoveryCodeStore.put`.

        Parallel calls may not see each other's rows. So each call counts the rows after its commit. If there are other
        rows, it deletes its own. All parallel calls may fail. Then the user has no codes.
        """
        rows = [{"user_key": user, "code_hash": each.hex(), "created_at": at} for each in hashes]
        await self._table.replaced(user, rows)
        if (await self.left(user))[0] > len(rows):
            model = self._model
            own = model.code_hash.in_([each["code_hash"] for each in rows])
            await self._table.changed(sa.delete(model).where(model.user_key == user, own))
            raise StoreUnavailable("other codes were made at the same time; try again")

    async def take(self, user: str, hash: bytes) -> bool:  # noqa: A002
        """See `RecoveryCodeStore.take`."""
        model = self._model
        own = sa.delete(model).where(model.user_key == user, model.code_hash == hash.hex())
        return await self._table.changed(own) == 1

    async def left(self, user: str) -> tuple[int, datetime | None]:
        """See `RecoveryCodeStore.left`."""
        model = self._model
        query = sa.select(model.created_at).where(model.user_key == user)

        def work(connection: sa.Connection) -> tuple[int, datetime | None]:
            found = list(connection.scalars(query))
            return len(found), max(found, default=None)

        return await self._table.run(work)

    async def delete(self, user: str) -> int:
        """See `RecoveryCodeStore.delete`."""
        model = self._model
        return await self._table.changed(sa.delete(model).where(model.user_key == user))
