"""Calls of a users context that are cancelled while aiosqlite carries out a statement, which it cannot stop."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase

from harness.users_databases import cheap_hasher
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.testing.stepping import stepping

PASSWORD = "seven red herons"


class Base(DeclarativeBase):
    pass


class Member(UserMixin, Base):
    __tablename__ = "members"


def params(name: str, **others: str) -> dict[str, str]:
    return {"email": f"{name}@example.com", "password": PASSWORD, **others}


Call = Callable[[SQLAlchemyUsers[Any, Any], Any], Coroutine[Any, Any, object]]
CALLS: dict[str, Call] = {
    "create": lambda users, _: users.create(params("noa")),
    "authenticate": lambda users, _: users.authenticate(params("mia")),
    "update": lambda users, mia: users.update(mia.key, {"password": "eleven grey geese"}, trusted=True),
    "delete": lambda users, mia: users.delete(mia.key),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_cancelled_call_leaves_no_lock(call: Call, quick_path: Path) -> None:
    async def cancelled_after(suspensions: int) -> bool:
        """Cancel the call at a suspension, and use the database; whether the call had as many suspensions."""
        url = f"sqlite+aiosqlite:///{quick_path / f'{suspensions}.db'}"
        engine = create_async_engine(url, connect_args={"timeout": 1})
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        users = SQLAlchemyUsers(engine, Member, hasher=hasher)
        mia = await users.create(params("mia"))
        passed = 0

        def suspending() -> None:
            nonlocal passed
            passed += 1
            if passed == suspensions:
                task.cancel()

        async def stepped() -> object:
            return await stepping(call(users, mia), suspending=suspending)

        task = asyncio.ensure_future(stepped())
        await asyncio.wait([task])
        assert task.cancelled() is (passed >= suspensions)
        assert await users.create(params("tom")) is not None  # `task` keeps alive what would hold the lock
        await engine.dispose()
        return passed >= suspensions

    async def all_suspensions() -> None:
        suspensions = 1
        while await cancelled_after(suspensions):
            suspensions += 1
        assert suspensions > 1

    hasher = cheap_hasher()
    asyncio.run(all_suspensions())
    hasher.close()
