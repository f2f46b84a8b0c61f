"""`powauth.testing.sign_in`: every client, every kind of app, and what it says when it cannot."""

from typing import Any

import flask
import httpx
import httpx2
import litestar
import litestar.testing
import pytest
from fastapi import FastAPI
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from harness.support import SECRET, Clock, CountingBackend, Me, MemoryUsers, User
from powauth import (
    AnyOf,
    BearerCarrier,
    ConfigError,
    CookieCarrier,
    FrameworkSessionCarrier,
    NotSignedIn,
    SessionAuth,
)
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.errors import ConfigWarning
from powauth.integrations import asgi, wsgi
from powauth.integrations.flask import PowAuth
from powauth.integrations.flask import current_user as flask_user
from powauth.integrations.litestar import PowAuthPlugin
from powauth.testing import async_sign_in, sign_in


class Parts:
    """A SessionAuth with two users, on a clock."""

    def __init__(self, **options: Any) -> None:
        self.users = MemoryUsers()
        self.ada, self.bob = self.users.add("ada@example.org"), self.users.add("bob@example.org")
        self.clock = Clock()
        self.backend = CountingBackend(MemoryBackend())
        chosen: dict[str, Any] = {"secret_key": SECRET, "users": self.users, "backend": self.backend}
        self.auth: SessionAuth[User, Me] = SessionAuth(**chosen | {"clock": self.clock} | options)

    @property
    def count(self) -> int:
        return drive(self.auth.store.count(self.auth.now()))


async def whoami(request: Request) -> Response:
    user: User | None = request.state.current_user
    return JSONResponse({"user": None if user is None else user.email})


@litestar.get("/")
async def lite_whoami(request: litestar.Request[User | None, Any, Any]) -> dict[str, str | None]:
    return {"user": None if request.user is None else request.user.email}


def starlette_app(auth: SessionAuth[Any, Any]) -> Any:
    return Starlette(routes=[Route("/", whoami)], middleware=[Middleware(asgi.SessionAuthMiddleware, auth=auth)])


def fastapi_app(auth: SessionAuth[Any, Any]) -> Any:
    app = FastAPI()
    app.add_middleware(asgi.SessionAuthMiddleware, auth=auth)
    app.add_route("/", whoami)
    return app


def wrapped_app(auth: SessionAuth[Any, Any]) -> Any:
    return asgi.SessionAuthMiddleware(Starlette(routes=[Route("/", whoami)]), auth)


def flask_app(auth: SessionAuth[Any, Any]) -> flask.Flask:
    app = flask.Flask("app")
    app.secret_key = "flask's own, for its session"
    PowAuth(app, auth)
    app.add_url_rule("/", view_func=lambda: flask.jsonify(user=flask_user.email if flask_user else None))
    return app


def litestar_app(auth: SessionAuth[Any, Any]) -> litestar.Litestar:
    return litestar.Litestar([lite_whoami], plugins=[PowAuthPlugin(auth)], logging_config=None)


CLIENTS: dict[str, Any] = {
    "starlette": lambda auth: TestClient(starlette_app(auth)),
    "fastapi": lambda auth: TestClient(fastapi_app(auth)),
    "a wrapped app": lambda auth: TestClient(wrapped_app(auth)),
    "https": lambda auth: TestClient(starlette_app(auth), base_url="https://app.example"),
    "litestar": lambda auth: litestar.testing.TestClient(litestar_app(auth)),
    "flask": lambda auth: flask_app(auth).test_client(),
    "httpx": lambda auth: httpx.Client(transport=httpx.WSGITransport(flask_app(auth)), base_url="http://app.example"),
    "httpx2": lambda auth: httpx2.Client(
        transport=httpx2.WSGITransport(flask_app(auth)), base_url="http://app.example"
    ),
}


def who(client: Any) -> Any:
    response = client.get("/")
    assert response.status_code == 200
    return (response.get_json() if hasattr(response, "get_json") else response.json())["user"]


@pytest.mark.parametrize("name", CLIENTS)
def test_a_client_is_signed_in_as_by_the_apps_own_sign_in(name: str) -> None:
    parts = Parts()
    client = CLIENTS[name](parts.auth)
    assert who(client) is None
    assert sign_in(client, parts.ada).email == parts.ada.email
    assert who(client) == parts.ada.email
    assert parts.count == 1
    parts.clock.advance(900)
    assert "set-cookie" in client.get("/").headers, "renewed, and kept"
    parts.clock.advance(60)
    for _ in range(2):
        assert who(client) == parts.ada.email
    assert "set-cookie" not in client.get("/").headers


@pytest.mark.parametrize("name", CLIENTS)
def test_signing_in_as_another_ends_the_session_before(name: str) -> None:
    parts = Parts()
    client = CLIENTS[name](parts.auth)
    sign_in(client, parts.ada)
    sign_in(client, parts.bob)
    assert who(client) == parts.bob.email
    assert parts.count == 1


@pytest.mark.parametrize("name", CLIENTS)
def test_a_cookie_that_needs_no_https_gets_none(name: str) -> None:
    with pytest.warns(ConfigWarning):
        parts = Parts(carrier=CookieCarrier(insecure_http=True))
    client = CLIENTS[name](parts.auth)
    before = str(getattr(client, "base_url", ""))
    sign_in(client, parts.ada)
    assert who(client) == parts.ada.email
    assert str(getattr(client, "base_url", "")) == before


def test_two_clients_have_two_sessions() -> None:
    parts = Parts()
    app = starlette_app(parts.auth)
    one, two = TestClient(app), TestClient(app)
    sign_in(one, parts.ada)
    assert who(two) is None
    sign_in(two, parts.bob)
    assert (who(one), who(two), parts.count) == (parts.ada.email, parts.bob.email, 2)


def test_who_may_not_sign_in_is_not_signed_in() -> None:
    parts = Parts()
    client = TestClient(starlette_app(parts.auth))
    locked = parts.users.add("eve@example.org", locked=True)
    for user in (locked, User("unknown", "nobody@example.org")):
        with pytest.raises(NotSignedIn, match="not know this user"):
            sign_in(client, user)
    assert who(client) is None


@pytest.mark.parametrize("base_url", [None, "https://shop.example"])
@pytest.mark.parametrize("carrier", [CookieCarrier(), FrameworkSessionCarrier(), CookieCarrier(domain="shop.example")])
def test_flasks_client_with_any_carrier_and_address(base_url: str | None, carrier: Any) -> None:
    parts = Parts(carrier=carrier)
    app = flask_app(parts.auth)
    if base_url is None:
        app.config["SERVER_NAME"] = "shop.example"
    client = app.test_client()
    sign_in(client, parts.ada, base_url=base_url)
    assert client.get("/", base_url="https://shop.example").get_json()["user"] == parts.ada.email
    parts.clock.advance(900)
    assert "set-cookie" in client.get("/", base_url="https://shop.example").headers
    assert client.get("/", base_url="https://shop.example").get_json()["user"] == parts.ada.email


BOTH = AnyOf(CookieCarrier(), BearerCarrier())


@pytest.mark.parametrize("name", ["starlette", "litestar", "flask", "httpx"])
def test_a_client_gets_a_token_as_a_program_has_it(name: str) -> None:
    parts = Parts(carrier=BOTH)
    client = CLIENTS[name](parts.auth)
    assert sign_in(client, parts.ada, bearer=True).email == parts.ada.email
    assert who(client) == parts.ada.email
    sign_in(client, parts.bob, bearer=True)
    assert who(client) == parts.bob.email
    assert parts.count == 1, "the session before has ended"


@pytest.mark.parametrize("name", ["starlette", "litestar", "flask", "httpx"])
def test_beside_a_bearer_carrier_a_client_gets_the_cookie_like_a_browser(name: str) -> None:
    parts = Parts(carrier=BOTH)
    client = CLIENTS[name](parts.auth)
    sign_in(client, parts.ada)
    assert who(client) == parts.ada.email
    parts.clock.advance(900)
    assert "set-cookie" in client.get("/").headers


def test_an_app_with_tokens_alone_gives_tokens_in_its_own_scheme() -> None:
    parts = Parts(carrier=BearerCarrier(scheme="Token"))
    client = TestClient(starlette_app(parts.auth))
    sign_in(client, parts.ada)
    assert client.headers["authorization"].startswith("Token pow_")
    assert who(client) == parts.ada.email


def test_several_authenticators_are_told_apart() -> None:
    people = Parts()
    admins = Parts(session_key="admin", current_user_key="current_admin")
    app = starlette_app(people.auth)
    app.add_middleware(asgi.SessionAuthMiddleware, auth=admins.auth)
    client = TestClient(app)
    sign_in(client, people.ada)
    sign_in(client, admins.bob, current_user_key="current_admin")
    assert (people.count, admins.count) == (1, 1)
    sign_in(client, admins.bob, auth=admins.auth)
    assert (people.count, admins.count) == (1, 1)
    with pytest.raises(ConfigError, match="no authenticator for 'nobody'"):
        sign_in(client, people.ada, current_user_key="nobody")


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asynchronous_clients(library: Any, anyio_backend: str) -> None:
    parts = Parts()
    transport = library.ASGITransport(starlette_app(parts.auth))
    async with library.AsyncClient(transport=transport, base_url="http://app.example") as client:
        assert (await async_sign_in(client, parts.ada)).email == parts.ada.email
        assert (await client.get("/")).json()["user"] == parts.ada.email
    programs = Parts(carrier=BOTH)
    transport = library.ASGITransport(starlette_app(programs.auth))
    async with library.AsyncClient(transport=transport, base_url="http://app.example") as client:
        await async_sign_in(client, programs.ada, bearer=True)
        assert (await client.get("/")).json()["user"] == programs.ada.email
    async with litestar.testing.AsyncTestClient(litestar_app(parts.auth)) as lite:
        await async_sign_in(lite, parts.bob)
        assert (await lite.get("/")).json()["user"] == parts.bob.email


class Base(DeclarativeBase): ...


class Account(UserMixin, Base):
    __tablename__ = "accounts"


@pytest.mark.parametrize("entered", [True, False])
@pytest.mark.parametrize("kind", ["starlette", "litestar"])
def test_parts_that_need_an_event_loop_get_the_clients(kind: str, entered: bool, tmp_path: Any) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/users")
    Base.metadata.create_all(engine)
    params = {"email": "ada@example.org", "password": "five brown owls hoot"}
    account = drive(SQLAlchemyUsers(engine, Account).create(params))
    engine.dispose()
    asynchronous = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/users")
    auth = SessionAuth(secret_key=SECRET, users=SQLAlchemyUsers(asynchronous, Account), backend="memory://")
    client: Any = CLIENTS[kind](auth)
    if entered:
        client.__enter__()
    assert sign_in(client, account).email == "ada@example.org"
    assert who(client) == "ada@example.org"
    if entered:
        client.__exit__(None, None, None)
    drive_to_end(asynchronous)
    flask_client = CLIENTS["flask"](Parts().auth)
    with pytest.raises(ConfigError, match="async_sign_in"):
        sign_in(flask_client, account, auth=auth)


def drive_to_end(engine: Any) -> None:
    import asyncio

    asyncio.run(engine.dispose())


def test_what_cannot_be_is_said() -> None:
    parts = Parts()
    with pytest.raises(ConfigError, match="not a test client"):
        sign_in(object(), parts.ada)
    with pytest.raises(ConfigError, match="no authenticator on"):
        sign_in(TestClient(Starlette()), parts.ada)
    with pytest.raises(ConfigError, match="no authenticator on"):
        sign_in(httpx.Client(base_url="https://app.example"), parts.ada)
    with pytest.raises(ConfigError, match="base_url"):
        sign_in(httpx.Client(transport=httpx.WSGITransport(flask_app(parts.auth))), parts.ada)
    with pytest.raises(ConfigError, match="https only"):
        sign_in(httpx.Client(base_url="http://127.0.0.1:1"), parts.ada, auth=parts.auth)
    elsewhere = Parts(carrier=CookieCarrier(domain="example.org"))
    with pytest.raises(ConfigError, match="Domain"):
        sign_in(TestClient(starlette_app(elsewhere.auth)), elsewhere.ada)
    with pytest.raises(ConfigError, match="BearerCarrier"):
        sign_in(TestClient(starlette_app(parts.auth)), parts.ada, bearer=True)
    framework = Parts(carrier=FrameworkSessionCarrier())
    with pytest.raises(ConfigError, match="framework's session"):
        sign_in(TestClient(starlette_app(framework.auth)), framework.ada)


def test_a_wsgi_app_in_its_middleware_is_found() -> None:
    parts = Parts()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "application/json")])
        return [b'{"user": "%s"}' % wsgi.request_auth(environ).require_user().email.encode()]

    inner = flask.Flask("app")
    inner.wsgi_app = wsgi.SessionAuthMiddleware(app, parts.auth)  # type: ignore[method-assign]
    for target in (inner, wsgi.SessionAuthMiddleware(app, parts.auth)):
        client = httpx.Client(transport=httpx.WSGITransport(target), base_url="https://app.example")
        sign_in(client, parts.ada)
        assert who(client) == parts.ada.email
