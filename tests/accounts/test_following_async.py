"""Asynchronous database sessions, and plain ones on an event loop and in threads."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest
import redis.asyncio
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from harness.following import EMAILS, HASHER, NEW_HASH, Citizen, Me, following_app, who
from harness.redis_servers import SHARED, clear_shared, shared_answers, unique_prefix
from harness.support import SECRET, Browser, Clock, make_app
from harness.users_databases import PASSWORD, run_async, table_name
from powauth import SessionAuth
from powauth.accounts.sqlalchemy import SQLAlchemyUsers
from powauth.backends.base import Backend
from powauth.backends.memory import MemoryBackend
from powauth.backends.redis import RedisBackend
from powauth.backends.sql import SQLBackend
from powauth.errors import ConfigError, StoreUnavailable

MIA, NOA = EMAILS
ASYNC = ["sqlite+aiosqlite", "postgresql+psycopg", "postgresql+asyncpg"]


class World:
    """An app on an event loop: its users and sessions, and browsers for it."""

    def __init__(self, engine: AsyncEngine, backend: Backend | str) -> None:
        self.users = SQLAlchemyUsers(engine, Citizen, identity=Me, hasher=HASHER)
        self.auth = SessionAuth(secret_key=SECRET, users=self.users, backend=backend, throttle=None, clock=Clock())
        self.maker = async_sessionmaker(engine, expire_on_commit=False)
        self.handlers: dict[str, Any] = {"/sign-in": self._sign_in, "/name": self._name}

    async def _sign_in(self, request: Any) -> object:
        return await request.call("sign_in", email=request.bound.connection.header("email"), password=PASSWORD) is None

    async def _name(self, request: Any) -> object:
        return None if request.user is None else request.user.name

    async def register(self) -> None:
        for email in EMAILS:
            await self.users.create({"email": email, "password": PASSWORD})

    async def browser(self, email: str = MIA) -> Browser:
        browser = Browser(make_app("asgi", self.auth, self.handlers), "asgi")
        browser.take(await browser.send_asgi("/sign-in", None, {"email": email}))
        return browser

    async def user(self, session: AsyncSession) -> Any:
        return (await session.scalars(sa.select(Citizen).where(Citizen.email == MIA))).one()


async def shown(browser: Browser, path: str = "/") -> Any:
    found = await browser.send_asgi(path, browser.cookie_header(), {})
    return found.json()["user"] if path == "/" else found.json()


def play(driver: str, folder: Path, scenario: Callable[[World], Awaitable[None]], kind: str = "memory") -> None:
    async def main(engine: AsyncEngine) -> None:
        backend: Backend = MemoryBackend()
        if kind == "shared":
            backend = SQLBackend(engine, table="s" + table_name()[-30:])
            await backend.create_tables()
        world = World(engine, backend)
        await world.register()
        world.users.follow(world.maker)
        await scenario(world)
        await world.users.close()
        if isinstance(backend, SQLBackend):
            async with engine.begin() as connection:
                for table in reversed(backend.tables):
                    await connection.run_sync(table.drop)
            await backend.close()

    run_async(driver, str(folder), [Citizen], main)


@pytest.mark.parametrize("kind", ["memory", "shared"])
@pytest.mark.parametrize("driver", ASYNC)
def test_rep_27_an_asynchronous_session_is_followed(driver: str, kind: str, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        first, other = await world.browser(), await world.browser(NOA)
        async with world.maker() as session:
            (await world.user(session)).name = "Mia"
            await session.commit()
        assert await shown(first, "/name") == "Mia"
        async with world.maker() as session:
            (await world.user(session)).password_hash = NEW_HASH
            await session.flush()
            await session.rollback()
        assert await shown(first) == MIA
        async with world.maker.begin() as session:
            (await world.user(session)).password_hash = NEW_HASH
        assert (await shown(first), await shown(other)) == (None, NOA)

    play(driver, tmp_path, scenario, kind)


@pytest.mark.parametrize("driver", ["sqlite+aiosqlite", "postgresql+asyncpg"])
def test_a_view_keeps_its_session_on_an_event_loop(driver: str, tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        async def change(request: Any) -> object:
            async with world.maker() as session:
                (await world.user(session)).password_hash = NEW_HASH
                await session.commit()
            await request.call("reseal")  # does no harm, though it is not needed
            return request.user.email

        world.handlers["/change"] = change
        own, other = await world.browser(), await world.browser()
        assert await shown(own, "/change") == MIA
        assert (await shown(own), await shown(other)) == (MIA, None)

    play(driver, tmp_path, scenario)


def test_a_commit_that_is_cancelled_while_the_store_waits_changes_nothing(tmp_path: Path) -> None:
    class Slow(MemoryBackend):
        async def delete_owner(self, *arguments: Any) -> int:
            await asyncio.Event().wait()
            return 0

    async def main(engine: AsyncEngine) -> None:
        world = World(engine, Slow())
        await world.register()
        world.users.follow(world.maker)

        async def change() -> None:
            async with world.maker() as session:
                (await world.user(session)).password_hash = NEW_HASH
                await session.commit()

        task = asyncio.ensure_future(change())
        await asyncio.wait([task], timeout=0.2)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        async with world.maker() as session:
            assert (await world.user(session)).password_hash != NEW_HASH
        await world.users.close()

    run_async("sqlite+aiosqlite", str(tmp_path), [Citizen], main)


def test_only_the_sessions_of_the_maker_are_followed(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        world.users.follow(world.maker)  # again
        browser = await world.browser()
        async with AsyncSession(world.maker.kw["bind"]) as session:
            (await world.user(session)).password_hash = NEW_HASH
            await session.commit()
        assert await shown(browser) == MIA

    play("sqlite+aiosqlite", tmp_path, scenario)


# --- plain sessions beside an event loop ------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["sqlite", "postgresql+psycopg"])
def test_a_plain_session_on_the_event_loops_thread(driver: str, tmp_path: Path) -> None:
    with following_app(driver, str(tmp_path), f"lmdb://{tmp_path}/sessions") as app:
        first, second = app.browser(), app.browser()

        async def commit(hashed: bool) -> None:
            with app.maker() as session:
                user = app.user(session)
                if hashed:
                    user.password_hash = NEW_HASH
                user.name = "Mia"
                session.commit()

        asyncio.run(commit(hashed=False))
        assert first.get("/name").json() == "Mia"
        asyncio.run(commit(hashed=True))
        assert (who(first), who(second)) == (None, None)


def test_an_outage_fails_the_commit_of_a_plain_session_on_the_event_loops_thread(tmp_path: Path) -> None:
    with following_app("sqlite", str(tmp_path), MemoryBackend()) as app:
        before = app.row()

        async def commit() -> None:
            with app.maker() as session:
                app.user(session).password_hash = NEW_HASH
                await app.auth.store.given_backend.close()
                with pytest.raises(StoreUnavailable):
                    session.commit()

        asyncio.run(commit())
        assert app.row() == before


def test_a_plain_session_where_the_store_needs_an_event_loop(tmp_path: Path) -> None:
    """On the loop's own thread it is refused, in a worker thread of the loop it works, elsewhere it is refused."""
    if not shared_answers():
        pytest.skip("needs Redis")
    prefix = unique_prefix()

    def commit() -> None:
        with app.maker() as session:
            app.user(session).password_hash = NEW_HASH
            session.commit()

    async def main(browser_of: Callable[[], Awaitable[Browser]]) -> None:
        browser = await browser_of()
        with pytest.raises(ConfigError, match="use an AsyncSession"):
            commit()
        assert await shown(browser) == MIA
        await anyio.to_thread.run_sync(commit)
        assert await shown(browser) is None
        await client.aclose()

    with following_app("sqlite", str(tmp_path)) as app:
        client = redis.asyncio.Redis.from_url(SHARED)
        auth = app.another_auth(backend=RedisBackend(client, prefix=prefix))

        async def browser_of() -> Browser:
            browser = Browser(make_app("asgi", auth, app.handlers), "asgi")
            browser.take(await browser.send_asgi("/sign-in", None, {"email": MIA, "password": PASSWORD}))
            return browser

        asyncio.run(main(browser_of))
        with pytest.raises(ConfigError, match="needs an event loop"):
            commit_other(app)
        clear_shared(prefix)


def commit_other(app: Any) -> None:
    with orm.sessionmaker.__call__(app.maker) as session:
        app.user(session, NOA).password_hash = NEW_HASH
        session.commit()


def test_an_outage_on_an_event_loop_fails_the_commit(tmp_path: Path) -> None:
    async def scenario(world: World) -> None:
        async with world.maker() as session:
            (await world.user(session)).password_hash = NEW_HASH
            await world.auth.store.given_backend.close()
            with pytest.raises(StoreUnavailable):
                await session.commit()
            await session.rollback()
        async with world.maker() as session:
            assert (await world.user(session)).password_hash != NEW_HASH

    play("sqlite+aiosqlite", tmp_path, scenario)
