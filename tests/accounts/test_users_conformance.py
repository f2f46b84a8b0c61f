"""`UsersConformance` on `SQLAlchemyUsers`, over every database that answers."""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Mapped, mapped_column

from harness.users_databases import ASYNC, BLOCKING, Base, cheap_hasher, table_name, url_of
from powauth.accounts.base import Account
from powauth.accounts.passwords import PasswordHasher
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.testing import UsersConformance
from powauth.testing.users import GOOD, Users


class Member(UserMixin, Base):
    __tablename__ = table_name()

    is_active: Mapped[bool] = mapped_column(sa.Boolean, default=True)
    role: Mapped[str] = mapped_column(sa.String(20), default="user")
    is_admin: Mapped[bool] = mapped_column(default=False)
    name: Mapped[str | None] = mapped_column(sa.String(20))


class Numbered(Base):
    """A user with a key that the database gives, and a property that says who is active."""

    __tablename__ = table_name()

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(sa.String(254), unique=True)
    password_hash: Mapped[str | None] = mapped_column(sa.String(255))
    locked: Mapped[bool] = mapped_column(default=False)

    @property
    def is_active(self) -> bool:
        return not self.locked


class Me(msgspec.Struct, frozen=True, kw_only=True):
    id: UUID
    email: str
    role: str
    is_admin: bool


TABLES: list[Any] = [Member.__table__, Numbered.__table__]
LOCKED: dict[type[Any], dict[str, object]] = {Member: {"is_active": False}, Numbered: {"locked": True}}
WEAK = cheap_hasher(memory_cost=32)
_WORKS = {"_database", "_table"}
PURE = [
    f"powauth.accounts.{path.stem}"
    for path in Path(inspect.getfile(SQLAlchemyUsers)).parent.glob("*.py")
    if path.stem not in _WORKS
]
"""Modules in which nothing happens that another call could see: only these two reach the database."""


class CountingHasher(PasswordHasher):
    """Counts the verifications: each of them costs the same, whatever it verifies."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=64, max_concurrent=8, cheap_and_unsafe=True)
        self.verified = 0

    def verify(self, stored: object, password: object) -> bool:
        self.verified += 1
        return super().verify(stored, password)


class Common(UsersConformance):
    """What the suite asks of a context over the tables above."""

    forbidden = {"role": "admin", "is_admin": True, "name": "Mia"}  # noqa: RUF012 - as in the suite
    model: type[Any] = Member
    identity: type[Any] | None = Me
    steps_over = PURE

    @pytest.fixture(autouse=True)
    def _with_driver(self, driver: str, quick_path: Path) -> None:
        self.driver = driver
        self.folder = str(quick_path)
        self.hasher = CountingHasher()

    def users_of(self, engine: Any) -> Users:
        return SQLAlchemyUsers(engine, self.model, identity=self.identity, hasher=self.hasher)

    async def deactivate(self, users: Users, account: Account[Any]) -> None:
        await users.update(account.key, LOCKED[self.model], trusted=True)

    async def remove_password(self, users: Users, account: Account[Any]) -> None:
        await users.update(account.key, {"password_hash": None}, trusted=True)

    async def store_user_id(self, users: Users, account: Account[Any], user_id: str) -> None:
        own = self.model.id == account.key
        await self.write(sa.update(self.model).where(own).values(email=user_id))

    async def write(self, statement: sa.Update) -> None:
        raise NotImplementedError

    async def weaken_hash(self, users: Users, account: Account[Any]) -> None:
        await users.update(account.key, {"password_hash": WEAK.hash(GOOD)}, trusted=True)

    def hashing_work(self, users: Users) -> int:
        return self.hasher.verified


class Blocking(Common):
    async def write(self, statement: sa.Update) -> None:
        with self.engine.begin() as connection:
            connection.execute(statement)

    def make_users(self) -> Users:
        self.engine = sa.create_engine(url_of(self.driver, self.folder))
        Base.metadata.create_all(self.engine, TABLES)
        return self.users_of(self.engine)

    def second(self, users: Users) -> Users:
        return self.users_of(sa.create_engine(self.engine.url, poolclass=sa.NullPool))

    async def dispose(self, users: Users) -> None:
        Base.metadata.drop_all(self.engine, TABLES)
        self.engine.dispose()
        self.hasher.close()

    async def stored(self, users: Users, account: Account[Any]) -> Mapping[str, object]:
        with orm.Session(self.engine) as session:
            row = session.get(self.model, account.key)
            return {name: getattr(row, name) for name in sa.inspect(self.model).columns.keys()}  # noqa: SIM118 - no dict

    async def break_database(self, users: Users) -> None:
        Base.metadata.drop_all(self.engine, TABLES)

    async def mend_database(self, users: Users) -> None:
        Base.metadata.create_all(self.engine, TABLES)


class Async(Common):
    async def write(self, statement: sa.Update) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(statement)

    async def make_users(self) -> Users:
        self.engine = create_async_engine(url_of(self.driver, self.folder))
        await self.mend_database(None)
        return self.users_of(self.engine)

    async def second(self, users: Users) -> Users:
        return self.users_of(create_async_engine(self.engine.url, poolclass=sa.NullPool))

    async def dispose(self, users: Users) -> None:
        await self.break_database(users)
        await self.engine.dispose()
        self.hasher.close()

    async def break_database(self, users: Users) -> None:
        async with self.engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all, TABLES)

    async def mend_database(self, users: Users | None) -> None:
        async with self.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all, TABLES)


@pytest.mark.parametrize("driver", [*BLOCKING, "postgresql+psycopg2"])
class TestBlocking(Blocking):
    pass


@pytest.mark.parametrize("driver", ASYNC)
class TestAsync(Async):
    pass


class OfNumbered(Common):
    forbidden = {"locked": True}  # noqa: RUF012 - as in the suite
    model = Numbered
    identity = None


@pytest.mark.parametrize("driver", ["sqlite", "postgresql+psycopg"])
class TestBlockingNumbered(OfNumbered, Blocking):
    pass


@pytest.mark.parametrize("driver", ["postgresql+asyncpg"])
class TestAsyncNumbered(OfNumbered, Async):
    pass
