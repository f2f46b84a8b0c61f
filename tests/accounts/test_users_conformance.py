"""`UsersConformance` on `SQLAlchemyUsers`, over every database that answers."""

from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import Mapped, mapped_column

from harness.support import MemoryUsers, User
from harness.users_databases import ASYNC, BLOCKING, Base, cheap_hasher, table_name, url_of
from powauth.accounts.base import UsersContext
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.testing import UsersConformance


class Member(UserMixin, Base):
    __tablename__ = table_name()

    is_active: Mapped[bool] = mapped_column(sa.Boolean, default=True)


TABLES: list[Any] = [Member.__table__]


class Common(UsersConformance):
    @pytest.fixture(autouse=True)
    def _with_driver(self, driver: str, tmp_path: Any) -> None:
        self.driver = driver
        self.folder = str(tmp_path)

    def users(self, engine: Any) -> SQLAlchemyUsers[Member]:
        self.hasher = cheap_hasher()
        return SQLAlchemyUsers(engine, Member, hasher=self.hasher)

    async def deactivate(self, users: UsersContext[Any], user: Any) -> Any:
        return await users.update(user, {"is_active": False}, trusted=True)


@pytest.mark.parametrize("driver", BLOCKING)
class TestBlocking(Common):
    def make_users(self) -> UsersContext[Any]:
        self.engine = sa.create_engine(url_of(self.driver, self.folder))
        Base.metadata.create_all(self.engine, TABLES)
        return self.users(self.engine)

    async def dispose(self, users: UsersContext[Any]) -> None:
        Base.metadata.drop_all(self.engine, TABLES)
        self.engine.dispose()
        self.hasher.close()


@pytest.mark.parametrize("driver", ASYNC)
class TestAsync(Common):
    async def make_users(self) -> UsersContext[Any]:
        self.engine = create_async_engine(url_of(self.driver, self.folder))
        async with self.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all, TABLES)
        return self.users(self.engine)

    async def dispose(self, users: UsersContext[Any]) -> None:
        async with self.engine.begin() as connection:
            await connection.run_sync(Base.metadata.drop_all, TABLES)
        await self.engine.dispose()
        self.hasher.close()


@dataclass
class Mutable:
    id: str
    email: str


class Liars(MemoryUsers):
    """Says of its users that nobody can change them, though anybody can."""

    immutable = True

    def restore(self, snapshot: bytes) -> User:
        user = super().restore(snapshot)
        return Mutable(user.id, user.email)  # type: ignore[return-value]


class Frozen(MemoryUsers):
    immutable = True


class Suite(UsersConformance):
    def __init__(self, kind: type[MemoryUsers]) -> None:
        self.kind = kind

    def make_users(self) -> UsersContext[Any]:
        return self.kind()


def test_the_suite_finds_out_who_is_not_as_immutable_as_they_say() -> None:
    Suite(Frozen).test_users_who_are_said_to_be_immutable_are()
    with pytest.raises(AssertionError, match="could be set"):
        Suite(Liars).test_users_who_are_said_to_be_immutable_are()
