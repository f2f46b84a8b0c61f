"""A blocking users context on an event loop: it keeps its promises, and blocks nobody."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from harness.people import MIA, people, people_engine
from harness.small_users import SmallUsers, Store
from harness.small_users_suites import SmallSuite
from harness.users_databases import OTHER_PASSWORD, PASSWORD, cheap_hasher
from powauth._running import users_threads  # to fill the threads that users contexts share
from powauth.accounts.anywhere import AnywhereUsers
from powauth.accounts.base import UsersContext
from powauth.accounts.identifiers import UsernameIdentifier
from powauth.accounts.offloaded import OffloadedUsers
from powauth.accounts.passwords import PasswordHasher
from powauth.backends.base import Mode, drive
from powauth.errors import Overloaded
from powauth.testing.users import Users


class BlockingUsers(SmallUsers):
    mode: Mode = "blocking"


class TestOffloadedUsers(SmallSuite):
    kind = BlockingUsers

    def make_users(self) -> Users:
        return OffloadedUsers(super().make_users(), users_threads)

    def second(self, users: Users) -> Users:
        return OffloadedUsers(BlockingUsers(self.store), users_threads)


class Noting(PasswordHasher):
    """Notes the threads in which it works."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=64, cheap_and_unsafe=True)
        self.threads: set[int] = set()

    def verify(self, stored: object, password: object) -> bool:
        self.threads.add(threading.get_ident())
        return super().verify(stored, password)

    def hash(self, password: str) -> str:
        self.threads.add(threading.get_ident())
        return super().hash(password)


@pytest.fixture
def threads_of_queries(tmp_path: Path) -> Any:
    with people_engine(tmp_path) as engine:
        seen: set[int] = set()
        sa.event.listen(engine, "before_cursor_execute", lambda *_: seen.add(threading.get_ident()))
        yield engine, seen


def test_everything_that_blocks_runs_in_worker_threads(threads_of_queries: tuple[sa.Engine, set[int]]) -> None:
    engine, queries = threads_of_queries
    hasher = Noting()

    async def scenario() -> None:
        users = OffloadedUsers(people(engine, hasher=hasher), users_threads)
        assert users.mode == "async"
        mia = await users.create(MIA)
        weak = people(engine, hasher=cheap_hasher(memory_cost=32))
        await OffloadedUsers(weak, users_threads).update(mia.key, {"password": PASSWORD}, trusted=True)
        found = await users.authenticate(MIA)
        assert found is not None
        assert found.rehash is not None
        assert await found.rehash.write() is True
        assert await users.get(mia.key) == await users.find(MIA["email"])
        await users.update(mia.key, {"current_password": PASSWORD, "password": OTHER_PASSWORD})
        assert await users.delete(mia.key, {"current_password": OTHER_PASSWORD}) is True
        await users.close()

    asyncio.run(scenario())
    assert queries
    assert hasher.threads
    assert threading.get_ident() not in queries | hasher.threads


def test_what_cannot_block_runs_at_once(tmp_path: Path) -> None:
    with people_engine(tmp_path) as engine:
        inner = people(engine)

        async def refuse(_: object) -> Any:
            raise AssertionError("a worker thread was taken")

        users = OffloadedUsers(inner, refuse)
        assert users.identity is inner.identity
        assert users.user_id_field == "email"
        assert users.login_key(MIA) == "mia@example.com"
        assert dict(users.validate(MIA)) == {}
        assert users.key_of(None) is None


@pytest.mark.parametrize("kind", [AnywhereUsers, OffloadedUsers])
def test_a_wrapper_passes_on_every_method_of_a_users_context(kind: type[Any]) -> None:
    methods = [name for name in vars(UsersContext) if not name.startswith("_") and callable(vars(UsersContext)[name])]
    assert {"registration_fields", "add_listener", "has_password"} <= {*methods}
    assert [name for name in methods if getattr(kind, name) is getattr(UsersContext, name)] == []


@pytest.mark.parametrize("wrap", [AnywhereUsers, lambda users: OffloadedUsers(users, users_threads)])
def test_a_wrapper_describes_the_same_users(wrap: Any, tmp_path: Path) -> None:
    with people_engine(tmp_path) as engine:
        inner = people(
            engine, fields=[], user_id_field=("email", "nickname"), identifier={"nickname": UsernameIdentifier()}
        )
        users: Any = wrap(inner)
        described = [name for name in UsersContext.__annotations__ if name != "mode"]
        assert {"table_name", "row_reader"} <= {*described}
        for name in described:
            assert getattr(users, name) == getattr(inner, name), name
        assert [each.name for each in users.registration_fields()] == ["email", "nickname"]


def test_pwd_10_sign_ins_that_wait_are_bounded_and_hold_no_reader_up() -> None:
    """ASVS 15.2.2, for a blocking users context on an event loop."""
    may_go_on = threading.Event()
    inner = BlockingUsers(Store())
    drive(inner.create(MIA))

    class Waiting(BlockingUsers):
        async def authenticate(self, params: Any) -> Any:
            may_go_on.wait()
            return await super().authenticate(params)

    users = AnywhereUsers(Waiting(inner.store))

    async def scenario() -> None:
        attempts = [asyncio.create_task(users.authenticate(MIA)) for _ in range(300)]
        refused = 0
        while refused == 0:
            await asyncio.sleep(0)
            refused = sum(each.done() for each in attempts)
        assert await users.find("mia@example.com") is not None  # with all threads for passwords taken
        may_go_on.set()
        done = await asyncio.gather(*attempts, return_exceptions=True)
        kinds = {type(each) for each in done}
        assert Overloaded in kinds
        assert 40 <= sum(not isinstance(each, Exception) for each in done) < 300
        assert await users.authenticate(MIA) is not None  # and there is room again

    asyncio.run(scenario())
