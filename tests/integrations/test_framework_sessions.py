"""The id in the framework's own session: in the client's cookie, or on the server under an id of the framework's."""

import base64
import json
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import flask
import httpx
import pytest
from flask.sessions import SecureCookieSession, SessionInterface
from starlette.applications import Starlette
from starlette.middleware import Middleware, sessions
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient

from harness.support import SECRET, Clock, MemoryUsers
from powauth import ConfigError, FrameworkSessionCarrier, SessionAuth
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.integrations.flask import PowAuth, current_user, request_auth
from powauth.integrations.starlette import SessionAuthMiddleware
from powauth.integrations.starlette import request_auth as starlette_auth

BASE = "https://shop.example"

Kept = dict[str, dict[str, Any]]
"""Sessions on the server, by their id in the client's cookie ``sid``."""


class OnServer(SessionInterface):
    """Flask's session on the server, without a way to give it another id."""

    def __init__(self, kept: Kept) -> None:
        self.kept = kept

    def open_session(self, app: flask.Flask, request: flask.Request) -> SecureCookieSession:
        sid = request.cookies.get("sid") or secrets.token_hex(16)  # it adopts what the client brings
        session = SecureCookieSession(self.kept.get(sid))
        session.sid = sid  # type: ignore[attr-defined]
        return session

    def save_session(self, app: flask.Flask, session: Any, response: flask.Response) -> None:
        self.kept[session.sid] = dict(session)
        response.set_cookie("sid", session.sid, secure=True)


class Regenerating(OnServer):
    """As Flask-Session does it: ``regenerate``, which leaves an empty session as it is."""

    def regenerate(self, session: Any) -> None:
        if session:
            self.kept.pop(session.sid, None)
            session.sid = secrets.token_hex(16)


class OnServerMiddleware:
    """Starlette's ``scope["session"]`` on the server, without a way to give it another id."""

    def __init__(self, app: Any, kept: Kept) -> None:
        self.app, self.kept = app, kept

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        self.enter(scope, Request(scope).cookies.get("sid") or secrets.token_hex(16))

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                self.kept[scope["sid"]] = dict(scope["session"])
                message["headers"] = [
                    *message["headers"],
                    (b"set-cookie", f"sid={scope['sid']}; Path=/; Secure".encode()),
                ]
            await send(message)

        await self.app(scope, receive, sending)

    def enter(self, scope: Any, sid: str) -> None:
        scope["sid"], scope["session"] = sid, ServerSession(self.kept.get(sid, {}))


class ServerSession(dict[str, Any]):
    """A session of a class that powauth does not know."""


class PlainDictMiddleware(OnServerMiddleware):
    """Starlette's session on the server as a plain dict, as middlewares without a class of their own have it."""

    def enter(self, scope: Any, sid: str) -> None:
        scope["sid"], scope["session"] = sid, dict(self.kept.get(sid, {}))


class EarlySessionMiddleware:
    """Starlette's own before release 1.0, without the signature: a plain dict that is whole in the cookie."""

    __module__, __qualname__ = SessionMiddleware.__module__, SessionMiddleware.__qualname__

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        cookie = Request(scope).cookies.get("session", "")
        scope["session"] = json.loads(base64.urlsafe_b64decode(cookie) or "{}")

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                content = base64.urlsafe_b64encode(json.dumps(scope["session"]).encode())
                cookie = b"session=%b; Path=/; Secure" % content
                message["headers"] = [*message["headers"], (b"set-cookie", cookie)]
            await send(message)

        await self.app(scope, receive, sending)


class OtherCookieMiddleware(EarlySessionMiddleware):
    """A middleware that powauth does not know."""


class Handler:
    """As starsessions does it: ``scope["session_handler"].regenerate_id()``."""

    def __init__(self, scope: Any, kept: Kept) -> None:
        self.scope, self.kept = scope, kept

    def regenerate_id(self) -> str:
        self.kept.pop(self.scope["sid"], None)
        self.scope["sid"] = secrets.token_hex(16)
        sid: str = self.scope["sid"]
        return sid


class RegeneratingMiddleware(OnServerMiddleware):
    """Starlette's session on the server, with a handler of its id."""

    def enter(self, scope: Any, sid: str) -> None:
        super().enter(scope, sid)
        scope["session_handler"] = Handler(scope, self.kept)


class Shop:
    """An app with two users and a cart, whose framework keeps the session."""

    def __init__(self, kind: str, carrier: FrameworkSessionCarrier | None = None, *, mounted: bool = False) -> None:
        self.kept: Kept = {}
        self.mounted = mounted
        self.clock = Clock()
        self.users = MemoryUsers()
        self.ada, self.grace = self.users.add("ada@example.org"), self.users.add("grace@example.org")
        self.auth = SessionAuth(
            secret_key=SECRET,
            users=self.users,
            backend=MemoryBackend(),
            carrier=carrier or FrameworkSessionCarrier(),
            clock=self.clock,
        )
        framework, _, where = kind.partition(", ")
        self.client = self._flask(where) if framework == "flask" else self._starlette(where)

    def _flask(self, where: str) -> Callable[[], httpx.Client]:
        app = flask.Flask("shop")
        app.secret_key = "a secret of flask's own, for its session"
        app.config["PROPAGATE_EXCEPTIONS"] = True
        interfaces = {"server": Regenerating, "server without renewal": OnServer}
        if where in interfaces:
            app.session_interface = interfaces[where](self.kept)
        PowAuth(app, self.auth)

        @app.get("/sign-in/<email>")
        def sign_in(email: str) -> Any:
            return {"signed in": request_auth().sign_in(email=email, password="correct horse") is not None}

        @app.get("/sign-out")
        def sign_out() -> Any:
            request_auth().sign_out()
            return {}

        @app.get("/put/<item>")
        def put(item: str) -> Any:
            flask.session["cart"] = item
            return {}

        @app.get("/")
        def look() -> Any:
            return [current_user.email if current_user else None, flask.session.get("cart")]

        return lambda: httpx.Client(transport=httpx.WSGITransport(app), base_url=BASE)

    def _starlette(self, where: str) -> Callable[[], httpx.Client]:
        async def sign_in(request: Request) -> JSONResponse:
            email = request.path_params["email"]
            user = await starlette_auth(request).sign_in(email=email, password="correct horse")
            return JSONResponse({"signed in": user is not None})

        async def sign_out(request: Request) -> JSONResponse:
            await starlette_auth(request).sign_out()
            return JSONResponse({})

        async def put(request: Request) -> JSONResponse:
            request.session["cart"] = request.path_params["item"]
            return JSONResponse({})

        async def look(request: Request) -> JSONResponse:
            user = request.state.current_user
            return JSONResponse([user.email if user else None, request.session.get("cart")])

        handlers: dict[str, Callable[[Request], Awaitable[JSONResponse]]] = {
            "/sign-in/{email}": sign_in,
            "/sign-out": sign_out,
            "/put/{item}": put,
            "/": look,
        }
        session: Middleware = {
            "cookie": Middleware(SessionMiddleware, secret_key="a secret of starlette's own", https_only=True),
            "server": Middleware(RegeneratingMiddleware, kept=self.kept),
            "early cookie": Middleware(EarlySessionMiddleware),
            "other cookie": Middleware(OtherCookieMiddleware),
            "server without renewal": Middleware(OnServerMiddleware, kept=self.kept),
            "plain dict on the server": Middleware(PlainDictMiddleware, kept=self.kept),
        }[where]
        routes: list[Any] = [Route(path, handler) for path, handler in handlers.items()]
        app = Starlette(
            routes=[Mount("/", Starlette(routes=routes))] if self.mounted else routes,
            middleware=[session, Middleware(SessionAuthMiddleware, auth=self.auth)],
        )
        return lambda: TestClient(app, base_url=BASE)  # type: ignore[return-value]

    def copy(self, client: httpx.Client) -> httpx.Client:
        """Another client with the same cookies."""
        other = self.client()
        for cookie in client.cookies.jar:
            other.cookies.jar.set_cookie(cookie)
        return other

    @property
    def count(self) -> int:
        """How many live sessions there are."""
        return drive(self.auth.store.count(self.auth.now()))


def look(client: httpx.Client) -> list[str | None]:
    """Who a client is, and what is in its cart."""
    found: list[str | None] = client.get("/").json()
    return found


def sign_in(client: httpx.Client, who: str) -> None:
    assert client.get(f"/sign-in/{who}@example.org").json() == {"signed in": True}


@pytest.fixture(params=["flask, cookie", "flask, server", "starlette, cookie", "starlette, server"])
def shop(request: pytest.FixtureRequest) -> Shop:
    return Shop(request.param)


def check_that_a_planted_session_stays_anonymous(shop: Shop) -> None:
    """An attacker plants a session. The victim signs in with its data, and the attacker is not signed in."""
    attacker = shop.client()
    attacker.get("/put/bait")
    victim = shop.copy(attacker)
    sign_in(victim, "ada")
    assert look(victim) == ["ada@example.org", "bait"]
    assert look(attacker)[0] is None


def test_rep_40_a_session_that_an_attacker_has_planted_is_not_the_one_that_is_signed_in(shop: Shop) -> None:
    check_that_a_planted_session_stays_anonymous(shop)


@pytest.mark.parametrize("kind", ["flask, server", "starlette, server"])
def test_rep_40_an_id_that_names_no_session_yet_can_be_planted_as_little(kind: str) -> None:
    shop = Shop(kind)
    attacker = shop.client()
    look(attacker)
    victim = shop.copy(attacker)
    sign_in(victim, "ada")
    assert look(victim)[0] == "ada@example.org"
    assert look(attacker)[0] is None


def test_rep_40_the_frameworks_session_gets_another_id_at_each_sign_in_on_the_server() -> None:
    for kind in ("flask, server", "starlette, server"):
        shop = Shop(kind)
        client = shop.client()
        client.get("/put/apples")
        seen = [client.cookies["sid"]]
        for who in ("ada", "ada", "grace"):
            sign_in(client, who)
            assert client.cookies["sid"] not in seen
            seen.append(client.cookies["sid"])
        assert set(shop.kept) == {seen[-1]}


UNKNOWN = [
    "flask, server without renewal",
    "starlette, server without renewal",
    "starlette, plain dict on the server",
    "starlette, other cookie",
]


@pytest.mark.parametrize("kind", UNKNOWN)
def test_rep_40_a_session_of_an_unknown_kind_refuses_to_sign_in(kind: str) -> None:
    shop = Shop(kind)
    client = shop.client()
    client.get("/put/apples")
    with pytest.raises(ConfigError, match="session fixation"):
        client.get("/sign-in/ada@example.org")
    assert look(client) == [None, "apples"]
    assert shop.count == 0


@pytest.mark.parametrize("kind", UNKNOWN)
def test_rep_40_an_app_can_say_that_its_session_is_whole_in_the_cookie(kind: str) -> None:
    shop = Shop(kind, FrameworkSessionCarrier(client_side=True))
    client = shop.client()
    client.get("/put/apples")
    sign_in(client, "ada")
    assert look(client) == ["ada@example.org", "apples"]


def test_rep_40_an_id_that_can_be_renewed_is_renewed_whatever_an_app_says() -> None:
    for kind in ("flask, server", "starlette, server"):
        shop = Shop(kind, FrameworkSessionCarrier(client_side=True))
        client = shop.client()
        client.get("/put/apples")
        before = client.cookies["sid"]
        sign_in(client, "ada")
        assert client.cookies["sid"] != before


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Starlette look like a release before 1.0."""
    monkeypatch.delattr(sessions, "Session", raising=False)


@pytest.mark.usefixtures("early")
@pytest.mark.parametrize("mounted", [False, True])
def test_rep_40_starlettes_own_session_before_release_1_is_known(mounted: bool) -> None:
    check_that_a_planted_session_stays_anonymous(Shop("starlette, early cookie", mounted=mounted))


@pytest.mark.usefixtures("early")
@pytest.mark.parametrize("where", ["plain dict on the server", "other cookie"])
def test_rep_40_a_plain_dict_of_another_middleware_is_not_taken_for_starlettes(where: str) -> None:
    client = Shop(f"starlette, {where}").client()
    with pytest.raises(ConfigError, match="session fixation"):
        client.get("/sign-in/ada@example.org")


@pytest.mark.skipif(not hasattr(sessions, "Session"), reason="this release of Starlette has sessions that are dicts")
def test_rep_40_from_release_1_on_a_plain_dict_is_not_starlettes() -> None:
    client = Shop("starlette, early cookie").client()
    with pytest.raises(ConfigError, match="session fixation"):
        client.get("/sign-in/ada@example.org")


def test_rep_41_the_cart_of_a_visitor_stays_at_sign_in(shop: Shop) -> None:
    client = shop.client()
    client.get("/put/apples")
    sign_in(client, "ada")
    assert look(client) == ["ada@example.org", "apples"]
    sign_in(client, "ada")
    assert look(client) == ["ada@example.org", "apples"]


@pytest.mark.parametrize("ended", ["expired", "revoked"])
@pytest.mark.parametrize("who", ["ada", "grace"])
def test_rep_41_a_cart_stays_for_its_own_user_alone_after_the_session_has_ended(
    shop: Shop, ended: str, who: str
) -> None:
    client = shop.client()
    sign_in(client, "ada")
    client.get("/put/apples")
    if ended == "expired":
        shop.clock.advance(1801)
    else:
        drive(shop.auth.revoke_user(shop.ada))
    assert look(client) == [None, "apples"]
    sign_in(client, who)
    assert look(client) == [f"{who}@example.org", "apples" if who == "ada" else None]


def test_rep_41_the_cart_of_another_user_goes(shop: Shop) -> None:
    client = shop.client()
    sign_in(client, "ada")
    client.get("/put/apples")
    sign_in(client, "grace")
    assert look(client) == ["grace@example.org", None]
    client.get("/put/pears")
    client.get("/sign-out")
    assert look(client) == [None, None]


def test_rep_41_what_the_session_keeps_of_its_user_does_not_tell_who_it_is(shop: Shop) -> None:
    client = shop.client()
    sign_in(client, "ada")
    kept = str(shop.kept) + str(dict(client.cookies))
    assert shop.ada.id not in kept
    assert "ada@" not in kept
