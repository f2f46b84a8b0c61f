"""One `SessionAuth` wherever it is called: on one event loop after another, on two at once, and after it was closed."""

import asyncio
import gc
import threading
import warnings
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pytest
import sqlalchemy as sa
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from harness import redis_servers
from harness.engines import database, own_database
from harness.support import SECRET, FakeConnection, MemoryUsers, account_of
from harness.tcp_proxy import Proxy
from powauth import CredentialsCache, SessionAuth
from powauth.accounts.passwords import PasswordHasher
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.base import drive
from powauth.backends.sql import SQLBackend
from powauth.integrations.starlette import SessionAuthMiddleware, request_auth

T = TypeVar("T")

ADA = "ada@example.org"

SERVERS = ("asyncpg", "psycopg_async", "asyncmy", "redis")
"""Engines whose connections belong to an event loop."""


@contextmanager
def url_of(engine: str, folder: Path) -> Iterator[str]:
    """The URL of a store that an app could have."""
    if engine == "lmdb":
        yield f"lmdb://{folder}/db"
    elif engine == "sqlite":
        where = database("sqlite", folder)
        with where.engine() as made:
            drive(SQLBackend(made).create_tables())
        yield where.through("sqlite")
    elif engine == "redis":
        if not redis_servers.shared_answers():
            pytest.skip(f"no Redis at {redis_servers.SHARED}: start one, or set POWAUTH_TEST_REDIS")
        yield redis_servers.SHARED
    else:
        with own_database(engine) as url:
            yield url


class Shop:
    """An app over a store that is given by its URL, in a namespace of its own."""

    def __init__(self, url: str, users: Any = None, **options: Any) -> None:
        self.users: Any = users or MemoryUsers()
        if users is None:
            self.users.add(ADA)
        store = CredentialsCache(url, namespace=f"n{uuid4().hex[:12]}")
        self.auth: SessionAuth[Any, Any] = SessionAuth(secret_key=SECRET, users=self.users, store=store, throttle=None)
        routes = [
            Route("/sign-in", self.sign_in, methods=["POST"]),
            Route("/sign-out", self.sign_out, methods=["POST"]),
            Route("/", self.look),
        ]
        middleware = [Middleware(SessionAuthMiddleware, auth=self.auth)]
        self.app = Starlette(routes=routes, middleware=middleware, **options)

    @staticmethod
    async def sign_in(request: Request) -> JSONResponse:
        user = await request_auth(request).sign_in(email=ADA, password="correct horse")
        return JSONResponse(user and user.email)

    @staticmethod
    async def sign_out(request: Request) -> JSONResponse:
        await request_auth(request).sign_out()
        return JSONResponse(None)

    @staticmethod
    async def look(request: Request) -> JSONResponse:
        user = request.state.current_user
        return JSONResponse(user and user.email)

    def client(self) -> TestClient:
        return TestClient(self.app, base_url="https://shop.example")


def use(client: TestClient, times: int = 3) -> None:
    """Sign in, come back some times, and sign out."""
    assert client.post("/sign-in").json() == ADA
    for _ in range(times):
        assert client.get("/").json() == ADA
    assert client.post("/sign-out").status_code == 200
    assert client.get("/").json() is None


def connections_to(url: str) -> int:
    """How many connections a server has to the database of a URL, but for the one that asks."""
    where = make_url(url)
    if where.get_backend_name() == "postgresql":
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = :name AND pid <> pg_backend_pid()"
        drivername = "postgresql+psycopg"
    else:
        query = "SELECT count(*) FROM information_schema.processlist WHERE db = :name AND id <> connection_id()"
        drivername = "mariadb+pymysql"
    engine = sa.create_engine(where.set(drivername=drivername), poolclass=sa.NullPool)
    with engine.connect() as connection:
        return int(connection.execute(sa.text(query), {"name": where.database}).scalar_one())


def gone(url: str) -> bool:
    """Whether the server has no connection of the app's any more. It notices the end of one a moment later."""
    redis_servers.wait_for(lambda: connections_to(url) == 0, "a server without connections")
    return True


# --- REP-12: a plain TestClient runs each request on an event loop of its own -------------------------------------


@pytest.mark.parametrize("engine", [*SERVERS, "sqlite", "lmdb"])
def test_rep_12_each_request_may_have_an_event_loop_of_its_own(engine: str, tmp_path: Path) -> None:
    with url_of(engine, tmp_path) as url:
        shop = Shop(url)
        use(shop.client(), times=6)
        if engine in SERVERS and engine != "redis":
            assert gone(url)  # each loop has taken its connections with it
        asyncio.run(shop.auth.aclose())
        gc.collect()  # what was left open would warn


@pytest.mark.parametrize("engine", SERVERS)
def test_rep_12_an_event_loop_that_lasts_and_short_ones_beside_it(engine: str, tmp_path: Path) -> None:
    with url_of(engine, tmp_path) as url:
        shop = Shop(url)
        with shop.client() as lasting:
            assert lasting.post("/sign-in").json() == ADA
            for _ in range(2):
                use(shop.client(), times=1)
                assert lasting.get("/").json() == ADA


# redis-py 5 fails in `__del__` if the loop of a connection is closed. Python prints that, and nothing else happens.
@pytest.mark.filterwarnings("ignore:.*AbstractConnection.__del__:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("engine", SERVERS)
def test_rep_12_an_event_loop_that_was_closed_at_once_is_no_harm_to_the_next(engine: str, tmp_path: Path) -> None:
    """A loop that nobody shut down leaves its connections to the garbage collector."""
    with url_of(engine, tmp_path) as url:
        shop = Shop(url)
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(shop.auth.store.count(0)) == 0
        loop.close()
        del loop
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            assert asyncio.run(shop.auth.store.count(0)) == 0
            gc.collect()
        use(shop.client())


@pytest.mark.parametrize("engine", SERVERS)
def test_rep_12_plain_functions_and_coroutines_share_one_store(engine: str, tmp_path: Path) -> None:
    with url_of(engine, tmp_path) as url:
        shop = Shop(url)
        client = shop.client()
        client.post("/sign-in")
        user = next(iter(shop.users.rows.values()))
        assert drive(shop.auth.revoke_user(user)) == 1  # as a handler of a WSGI app does
        assert client.get("/").json() is None
        drive(shop.auth.aclose())


# --- REP-17: closed, and used again -------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [*SERVERS, "sqlite", "lmdb"])
def test_rep_17_the_app_can_be_entered_again(engine: str, tmp_path: Path) -> None:
    with url_of(engine, tmp_path) as url:
        made: list[SessionAuth[Any, Any]] = []

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            async with made[0].lifespan(app):
                yield

        shop = Shop(url, lifespan=lifespan)
        made.append(shop.auth)
        for _ in range(3):
            with shop.client() as client:
                use(client)
            if engine in SERVERS and engine != "redis":
                assert gone(url)


@pytest.mark.parametrize("engine", [*SERVERS, "sqlite", "lmdb"])
def test_rep_17_a_session_outlives_the_closing_of_its_store(engine: str, tmp_path: Path) -> None:
    with url_of(engine, tmp_path) as url:
        shop = Shop(url)
        client = shop.client()
        client.post("/sign-in")

        async def close_twice() -> None:
            async with shop.auth.lifespan():
                assert await shop.auth.store.count(shop.auth.now()) == 1
            await shop.auth.aclose()
            assert await shop.auth.store.count(shop.auth.now()) == 1  # used in the same loop after it was closed
            await shop.auth.aclose()

        asyncio.run(close_twice())
        drive(shop.auth.aclose())
        assert client.get("/").json() == ADA
        drive(shop.auth.aclose())
        gc.collect()


@pytest.mark.parametrize("engine", ["asyncpg", "redis"])
def test_rep_17_closing_reaches_the_event_loops_of_other_threads(engine: str, tmp_path: Path) -> None:
    with url_of(engine, tmp_path) as url:
        shop = Shop(url)
        for close in (asyncio.run, drive):
            with shop.client() as lasting:  # whose event loop runs in a thread of its own
                assert lasting.post("/sign-in").json() == ADA
                close(shop.auth.aclose())
                if engine != "redis":
                    assert gone(url)
                assert lasting.get("/").json() == ADA


class Base(sa.orm.DeclarativeBase):
    pass


class Person(UserMixin, Base):
    __tablename__ = "users"


def test_rep_17_what_the_app_owns_stays_open(tmp_path: Path) -> None:
    """The app's engine of its users, and that of its sessions; the threads of the hasher begin again."""

    async def work() -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/app.db")
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        backend = SQLBackend(engine)
        await backend.create_tables()
        hasher = PasswordHasher(time_cost=1, memory_cost=64, cheap_and_unsafe=True)
        for users in (SQLAlchemyUsers(engine, Person, hasher=hasher), SQLAlchemyUsers(engine, Person)):
            auth = SessionAuth(secret_key=SECRET, users=users, backend=backend, throttle=None)
            pool = engine.pool
            for number in range(2):
                async with auth.lifespan():
                    found = await auth.users.create(
                        {"email": f"ada{uuid4().hex}@example.org", "password": "a long one!"}
                    )
                    assert await auth.do_create(FakeConnection(), found) is not None
                assert await auth.store.count(auth.now()) > number
                assert engine.pool is pool
        await engine.dispose()

    asyncio.run(work())


# --- REP-18: a call in a coroutine keeps the event loop free ------------------------------------------------------


@contextmanager
def held(engine: str, folder: Path) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """A store by its URL, and what makes it stand still and go on."""
    if engine == "sqlite":
        where = database("sqlite", folder)
        with where.engine() as made:
            drive(SQLBackend(made).create_tables())
            with made.connect() as connection:

                def lock() -> None:
                    connection.exec_driver_sql("BEGIN IMMEDIATE")

                yield where.through("sqlite"), lock, connection.rollback
        return
    with url_of("redis" if engine == "redis" else engine, folder) as url:
        where_to = make_url(url)
        with Proxy(where_to.host or "", where_to.port or 6379) as proxy:
            through = where_to.set(host="127.0.0.1", port=proxy.port).render_as_string(hide_password=False)
            yield through, proxy.stall, lambda: proxy.stall(stalled=False)


@pytest.mark.parametrize(
    "engine", ["redis", "psycopg", "psycopg_async", "asyncpg", "mariadb_pymysql", "asyncmy", "sqlite"]
)
def test_rep_18_a_call_in_a_coroutine_keeps_the_event_loop_free(engine: str, tmp_path: Path) -> None:
    """While the store stands still, other tasks run: one of them lets the store go on."""
    with held(engine, tmp_path) as (url, stand_still, go_on):
        shop = Shop(url)
        user = next(iter(shop.users.rows.values()))

        async def work() -> None:
            calls: list[Callable[[], Coroutine[Any, Any, object]]] = [
                lambda: shop.auth.revoke_user(user),
                lambda: shop.auth.update_account(user, name="Ada"),
                lambda: shop.auth.create(FakeConnection(), account_of(user)),
                lambda: shop.auth.delete_account(user),
            ]
            await shop.auth.store.count(shop.auth.now())  # connected
            for call in calls:
                stand_still()
                task = asyncio.ensure_future(call())
                for _ in range(20):
                    await asyncio.sleep(0)
                assert not task.done()
                go_on()
                await task
            await shop.auth.aclose()

        asyncio.run(work())


@pytest.mark.parametrize("engine", ["redis", "asyncpg", "asyncmy", "sqlite", "lmdb"])
def test_rep_18_the_same_object_in_a_coroutine_in_a_thread_of_it_and_in_a_plain_function(
    engine: str, tmp_path: Path
) -> None:
    with url_of(engine, tmp_path) as url:
        shop = Shop(url)
        user = next(iter(shop.users.rows.values()))
        ended: list[int] = []

        def in_a_thread() -> None:
            drive(shop.auth.create(FakeConnection(), account_of(user)))
            ended.append(drive(shop.auth.revoke_user(user)))

        async def work() -> None:
            await shop.auth.create(FakeConnection(), account_of(user))
            ended.append(await shop.auth.revoke_user(user))
            await asyncio.to_thread(in_a_thread)
            await shop.auth.aclose()

        in_a_thread()
        asyncio.run(work())
        thread = threading.Thread(target=in_a_thread)
        thread.start()
        thread.join()
        assert ended == [1, 1, 1, 1]
        drive(shop.auth.aclose())
