"""A model with many types of columns, a users context over it, and functions that use its table directly."""

import datetime as dt
import enum
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Mapped, mapped_column

from harness.users_databases import PASSWORD, Base, blocking_engine, cheap_hasher, table_name
from powauth.accounts.base import Account, UsersContext
from powauth.accounts.passwords import PasswordHasher
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin, UTCDateTime
from powauth.backends.base import drive
from powauth.errors import InvalidParams

HASHER = cheap_hasher()
MIA: dict[str, object] = {"email": "mia@example.com", "password": PASSWORD}


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Person(UserMixin, Base):
    """A user model with columns of many kinds."""

    __tablename__ = table_name()

    name: Mapped[str | None] = mapped_column(sa.String(20))
    nickname: Mapped[str | None] = mapped_column(sa.String(20), unique=True)
    age: Mapped[int | None]
    height: Mapped[float | None]
    balance: Mapped[Decimal | None] = mapped_column(sa.Numeric(10, 2))
    colour: Mapped[Colour | None] = mapped_column(
        sa.Enum(Colour, native_enum=False)
    )  # a type would have one name for all
    birthday: Mapped[dt.date | None]
    seen_at: Mapped[dt.datetime | None] = mapped_column(UTCDateTime())
    token: Mapped[uuid.UUID | None]
    picture: Mapped[bytes | None]
    settings: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON)
    role: Mapped[str] = mapped_column(sa.String(20), default="user")
    is_admin: Mapped[bool] = mapped_column(default=False)
    locked: Mapped[bool] = mapped_column(default=False)
    visits: Mapped[int] = mapped_column(server_default="0")
    __table_args__ = (sa.CheckConstraint("age < 200"),)

    @property
    def is_active(self) -> bool:
        return not self.locked


class Me(msgspec.Struct, frozen=True, kw_only=True):
    """Identity of a `Person`."""

    id: uuid.UUID
    email: str
    name: str | None
    age: int | None
    colour: Colour | None
    role: str
    locked: bool
    updated_at: dt.datetime


class Pet(Base):
    __tablename__ = table_name()

    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey(Person.id))


FIELDS = ["name", "nickname", "age", "height", "balance", "colour", "birthday", "seen_at", "token"]


@contextmanager
def people_engine(folder: Path) -> Iterator[sa.Engine]:
    """An SQLite engine with the tables of persons and pets, which enforces foreign keys."""
    with blocking_engine("sqlite", str(folder), Person, Pet) as engine:
        sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))
        engine.dispose()  # the connections that were made before
        yield engine


def people(engine: sa.Engine | AsyncEngine, **options: Any) -> SQLAlchemyUsers[Person, Me]:
    chosen: dict[str, Any] = {"fields": FIELDS, "identity": Me, "hasher": HASHER} | options
    return SQLAlchemyUsers(engine, Person, **chosen)


def errors_of(attempt: Any) -> dict[str, list[str]]:
    with pytest.raises(InvalidParams) as refused:
        drive(attempt)
    return refused.value.errors


def row_of(engine: sa.Engine, account: Account[Any]) -> Any:
    with engine.connect() as connection:
        return connection.execute(sa.select(Person.__table__).where(Person.__table__.c.id == account.key)).one()


def set_row(engine: sa.Engine, account: Account[Any], **values: object) -> None:
    """Change a row as the app's own code would, without the context."""
    with orm.Session(engine) as session:
        session.execute(sa.update(Person).where(Person.id == account.key).values(**values))
        session.commit()


async def signed_in(users: UsersContext[Any, Any], params: dict[str, object]) -> Account[Any] | None:
    """Authenticate, and write a stronger hash as the sign-in does; ``None`` if somebody changed the hash meanwhile."""
    account = await users.authenticate(params)
    if account is None or account.rehash is None:
        return account
    if not await account.rehash.write():
        return None
    return msgspec.structs.replace(account, proof=account.rehash.proof, rehash=None)


class Meanwhile(PasswordHasher):
    """Does something else between reading a hash and writing the next one."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=64, cheap_and_unsafe=True)
        self.todo: list[Callable[[], object]] = []

    def hash(self, password: str) -> str:
        if self.todo:
            self.todo.pop(0)()
        return super().hash(password)
