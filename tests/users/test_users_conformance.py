"""`UsersConformance` on `SQLAlchemyUsers`, over every database that answers."""

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from powauth.backends.base import drive
from powauth.testing import UsersConformance
from powauth.users.base import UsersContext
from powauth.users.sqlalchemy import SQLAlchemyUsers, UserMixin
from users_databases import ASYNC, BLOCKING, Base, blocking_engine, cheap_hasher, run_async, table_name

Scenario = Callable[[UsersContext[Any]], Coroutine[Any, Any, None]]


class Member(UserMixin, Base):
    __tablename__ = table_name()

    is_active: Mapped[bool] = mapped_column(sa.Boolean, default=True)


class Common(UsersConformance):
    @pytest.fixture(autouse=True)
    def _with_driver(self, driver: str, tmp_path: Any) -> None:
        self.driver = driver
        self.folder = str(tmp_path)

    def users(self, engine: Any) -> SQLAlchemyUsers[Member]:
        return SQLAlchemyUsers(engine, Member, hasher=cheap_hasher())

    async def deactivate(self, users: UsersContext[Any], user: Any) -> Any:
        return await users.update(user, {"is_active": False}, trusted=True)


@pytest.mark.parametrize("driver", BLOCKING)
class TestBlocking(Common):
    def run(self, scenario: Scenario) -> None:
        with blocking_engine(self.driver, self.folder, Member) as engine:
            drive(scenario(self.users(engine)))


@pytest.mark.parametrize("driver", ASYNC)
class TestAsync(Common):
    def run(self, scenario: Scenario) -> None:
        async def over(engine: Any) -> None:
            users = self.users(engine)
            await scenario(users)
            users._hasher.close()

        run_async(self.driver, self.folder, [Member], over)
