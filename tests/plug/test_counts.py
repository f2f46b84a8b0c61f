"""What a request costs, counted: reads, writes, queries of the users' database, headers."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from harness.core_support import a_mac, encode_id
from harness.http_support import COMBINATION_IDS, COMBINATIONS, App, apps
from harness.internals import environment_of
from harness.support import (
    OTHER_SECRET,
    SECRET,
    Browser,
    Clock,
    CountingBackend,
    FakeConnection,
    Kind,
    MemoryUsers,
    Request,
    Response,
)
from harness.support import make_app as small_app
from powauth import Hooks, Limit, RequestAuth, SessionAuth, Throttle
from powauth.accounts.passwords import PasswordHasher
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.base import drive, reads_engine_in_place
from powauth.backends.lmdb import LMDBBackend
from powauth.backends.memory import MemoryBackend
from powauth.sessions.ids import ID_CHARS

MakeApp = Callable[..., App]


@pytest.fixture(params=COMBINATIONS, ids=COMBINATION_IDS)
def make_app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeApp]:
    with apps(request.param, tmp_path) as make:
        yield make


def cost(app: App, browser: Browser, path: str = "/") -> tuple[list[str], int, int]:
    """The verbs, the queries and the cookies of one request."""
    before = app.users.queries
    response, verbs = app.visit(browser, path)
    assert response.status == 200
    return verbs, app.users.queries - before, len(response.set_cookies)


def asked(app: App, verbs: list[str]) -> list[str]:
    """Without the glances at counters that an attempt begins with, where a read waits for nothing."""
    first = next((at for at, verb in enumerate(verbs) if verb != "get"), len(verbs))
    assert first == 0 or reads_engine_in_place(app.backend)
    return verbs[first:]


def test_an_authenticated_request_is_one_read(make_app: MakeApp) -> None:
    app = make_app()
    browser = app.signed_in()
    for _ in range(5):
        assert cost(app, browser) == (["get"], 0, 0)
        assert cost(app, browser, "/private") == (["get"], 0, 0)
        app.clock.advance(60)


def test_an_anonymous_or_forged_request_is_nothing(make_app: MakeApp) -> None:
    app = make_app()
    app.signed_in()
    assert cost(app, app.browser()) == ([], 0, 0)
    for value in ("", "A" * ID_CHARS, "B" * 10_000, encode_id(app.session, a_mac(OTHER_SECRET))):
        assert cost(app, Browser(app.app, app.kind, {app.cookie_name: value})) == ([], 0, 0)


def test_a_renewal_is_one_read_and_one_write(make_app: MakeApp) -> None:
    app = make_app()
    browser = app.signed_in()
    app.clock.advance(900)
    assert cost(app, browser) == (["get", "update"], 0, 1)
    assert cost(app, browser) == (["get", "update"], 0, 0)
    assert cost(app, browser) == (["get"], 0, 0)


def test_reload_is_one_query_more(make_app: MakeApp) -> None:
    app = make_app(reload=True)
    browser = app.signed_in()
    assert cost(app, browser) == (["get"], 1, 0)


def test_a_sign_in_is_three_round_trips_and_one_query(make_app: MakeApp) -> None:
    app = make_app(throttle=None)
    assert cost(app, app.browser(), "/login") == (["epoch", "create", "epoch"], 1, 1)


def nothing(step: object) -> None:
    """A hook."""


def test_a_hook_that_may_change_the_user_is_one_query_more(make_app: MakeApp) -> None:
    app = make_app(throttle=None, hooks=Hooks(before_sign_in=nothing))
    assert cost(app, app.browser(), "/login") == (["epoch", "create", "epoch"], 2, 1)


def test_throttling_a_sign_in_is_four_round_trips_more(make_app: MakeApp) -> None:
    app = make_app(throttle=Throttle())
    for _ in range(2):
        verbs, queries, cookies = cost(app, app.browser(), "/login")
        assert asked(app, verbs) == ["create", "create", "epoch", "create", "epoch", "delete", "update"]
        assert (queries, cookies) == (1, 1)
        app.clock.advance(2)
    assert cost(app, app.signed_in(), "/private")[0] == ["get"]


@pytest.mark.parametrize(
    ("throttle", "before", "after"),
    [
        (Throttle(per_source=None), ["create"], ["delete"]),
        (Throttle(per_account=None), ["create"], ["update"]),
        (Throttle(per_account=None, per_source=None), [], []),
    ],
    ids=["account", "source", "neither"],
)
def test_each_counter_is_two_of_them(
    make_app: MakeApp, throttle: Throttle, before: list[str], after: list[str]
) -> None:
    app = make_app(throttle=throttle)
    verbs, queries, cookies = cost(app, app.browser(), "/login")
    assert (asked(app, verbs), queries, cookies) == ([*before, "epoch", "create", "epoch", *after], 1, 1)


def test_a_failed_sign_in_is_three_round_trips_and_seven_after_the_first(make_app: MakeApp) -> None:
    app = make_app(throttle=Throttle(per_account=Limit(3, timedelta(minutes=15))))

    async def fail(request: Request) -> object:
        params = {"email": app.user.email, "password": "six black herons"}
        return await request.call("sign_in", params)

    counted = ["update"] if reads_engine_in_place(app.backend) else ["create", "get", "update"]
    assert asked(app, app.run(app.browser(), fail)[1]) == ["create", "create", "epoch"]
    for _ in range(2):
        assert asked(app, app.run(app.browser(), fail)[1]) == [*counted, *counted, "epoch"]
    response, verbs = app.run(app.browser(), fail)
    assert (response.status, asked(app, verbs)) == (429, [*counted, "create", "get"])


@pytest.mark.parametrize(
    ("throttle", "commits"),
    [
        (None, 1),
        (Throttle(), 2),
        (Throttle(per_source=None), 2),
        (Throttle(per_account=None), 2),
        (Throttle(per_source=None, per_account=None), 1),
    ],
    ids=str,
)
def test_on_lmdb_a_sign_in_waits_for_the_disk_once_and_once_for_being_counted(
    throttle: Throttle | None, commits: int, tmp_path: Path
) -> None:
    users, clock, backend = MemoryUsers(), Clock(), LMDBBackend(tmp_path / "sessions")
    user = users.add("ada@example.org")
    auth = SessionAuth(secret_key=SECRET, users=users, backend=backend, clock=clock, throttle=throttle)

    def sign_in(password: str = "correct horse", ip: str = "192.0.2.1") -> int:
        connection = FakeConnection()
        connection.ip = ip
        before = environment_of(backend).info()["last_txnid"]
        found = drive(RequestAuth(auth, connection).sign_in({"email": user.email, "password": password}))
        assert (found is not None) == (password == "correct horse")
        return int(environment_of(backend).info()["last_txnid"] - before)

    assert sign_in() == commits
    clock.advance(2)
    assert sign_in() == commits  # there was a session of the user, and there are no counters
    for _ in range(2):
        assert sign_in("wrong") == commits - 1
    assert sign_in(ip="192.0.2.2") == commits  # there is a counter of the account, and none of the source
    assert sign_in() == commits  # and the other way round
    drive(backend.close())


class Base(DeclarativeBase):
    pass


class Account(UserMixin, Base):
    __tablename__ = "accounts_of_counts"


@pytest.mark.parametrize(
    ("kind", "driver"),
    [("asgi", "sqlite"), ("asgi", "sqlite+aiosqlite"), ("wsgi", "sqlite")],
    ids=["asgi", "asgi-async", "wsgi"],
)
def test_with_a_database_an_authenticated_request_sends_no_sql(kind: Kind, driver: str, tmp_path: Path) -> None:
    async def scenario() -> None:
        url = f"{driver}:///{tmp_path / 'users'}"
        table = create_engine(f"sqlite:///{tmp_path / 'users'}")
        Base.metadata.create_all(table)
        table.dispose()
        engine = create_async_engine(url) if "aio" in driver else create_engine(url)
        statements: list[str] = []

        def note(connection: Any, cursor: Any, statement: str, *more: Any) -> None:
            del connection, cursor, more
            statements.append(statement)

        event.listen(engine.sync_engine if isinstance(engine, AsyncEngine) else engine, "before_cursor_execute", note)
        hasher = PasswordHasher(time_cost=1, memory_cost=8, cheap_and_unsafe=True)
        users = SQLAlchemyUsers(engine, Account, hasher=hasher)
        backend = CountingBackend(MemoryBackend())
        clock = Clock()
        auth = SessionAuth(secret_key=SECRET, users=users, backend=backend, clock=clock)

        async def register(request: Request) -> object:
            params = {"email": "ada@example.org", "password": "five brown owls hoot"}
            return (await request.call("register", params)).email

        browser = Browser(small_app(kind, auth, {"/register": register}), kind)

        async def get(path: str) -> tuple[Response, list[str], list[str]]:
            statements.clear()
            with backend.counting() as verbs:
                if kind == "asgi":
                    response = await browser.send_asgi(path, browser.cookie_header(), {})
                    browser.take(response)
                else:
                    response = browser.get(path)
            return response, verbs, list(statements)

        response, _, sql = await get("/register")
        assert response.json() == "ada@example.org"
        assert sql
        for path in ("/", "/private"):
            response, verbs, sql = await get(path)
            assert response.json() == {"user": "ada@example.org"}
            assert (verbs, sql, response.set_cookies) == (["get"], [], [])
        clock.advance(900)
        response, verbs, sql = await get("/")
        assert (verbs, sql, len(response.set_cookies)) == (["get", "update"], [], 1)
        browser.jar.clear()
        response, verbs, sql = await get("/")
        assert (response.json(), verbs, sql) == ({"user": None}, [], [])
        await users.close()
        if isinstance(engine, AsyncEngine):
            await engine.dispose()
        else:
            engine.dispose()

    if kind == "asgi":
        asyncio.run(scenario())
    else:
        drive(scenario())
