"""PGE-08: protection is decided on the path that the router uses, however the path is spelled."""

import asyncio
from typing import Annotated, Any
from urllib.parse import unquote

import flask
import litestar
import pytest
from fastapi import Depends, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from harness.support import SECRET, Me, MemoryUsers, User
from powauth import SessionAuth
from powauth.http.guards import require_user as guard
from powauth.integrations import asgi, wsgi
from powauth.integrations.asgi import SessionAuthMiddleware
from powauth.integrations.fastapi import auth_dependency
from powauth.integrations.flask import PowAuth, login_required
from powauth.integrations.litestar import PowAuthPlugin, require_user
from powauth.integrations.starlette import SessionAuthBackend, request_auth
from powauth.testing import sign_in

SECRET_PAGE = "the secret page"

SPELLINGS = [
    "/secret",
    "//secret",
    "///secret",
    "/secret/",
    "/secret//",
    "/./secret",
    "/x/../secret",
    "/secret;a=b",
    "/;a/secret",
    "/%73ecret",
    "/%2573ecret",
    "/%2Fsecret",
    "/secret%2F",
    "/secret%00",
    "/secret%20",
    "/SECRET",
    "/Secret",
    "/secret.html",
    "/secret?x=/public",
    "/public/../secret",
    "/public;/../secret",
    "/s\u0435cret",
    "/mounted/secret",
    "//mounted/secret",
    "/mounted//secret",
    "/mounted/secret/",
    "/mounted/../secret",
    "secret",
    "",
    "*",
    "http://app.example/secret",
]

METHODS = ["GET", "HEAD", "OPTIONS", "POST", "get", "TRACE", "CONNECT", "SECRET"]


def an_auth() -> tuple[SessionAuth[User, Me], User]:
    users = MemoryUsers()
    return SessionAuth(secret_key=SECRET, users=users, backend="memory://"), users.add("ada@example.org")


def fastapi_app(auth: SessionAuth[User, Me]) -> Any:
    def add(app: FastAPI) -> FastAPI:
        @app.get("/secret")
        async def secret(user: Annotated[User, Depends(auth_dependency)]) -> Response:
            assert user is not None
            return PlainTextResponse(SECRET_PAGE)

        @app.websocket("/socket")
        async def socket(websocket: WebSocket, user: Annotated[User, Depends(auth_dependency)]) -> None:
            assert user is not None
            await websocket.accept()

        app.get("/public")(lambda: None)
        return app

    app = add(FastAPI())
    app.mount("/mounted", add(FastAPI()))
    app.add_middleware(SessionAuthMiddleware, auth=auth)
    return app


def starlette_app(auth: SessionAuth[User, Me]) -> Any:
    @requires("authenticated", status_code=401)
    async def secret(request: Request) -> Response:
        return PlainTextResponse(SECRET_PAGE)

    async def guarded(request: Request) -> Response:
        guard(request_auth(request))
        return PlainTextResponse(SECRET_PAGE)

    return Starlette(
        routes=[Route("/secret", secret), Mount("/mounted", routes=[Route("/secret", guarded)])],
        middleware=[
            Middleware(SessionAuthMiddleware, auth=auth),
            Middleware(AuthenticationMiddleware, backend=SessionAuthBackend()),
        ],
    )


def litestar_app(auth: SessionAuth[User, Me]) -> Any:
    @litestar.get("/secret", guards=[require_user])
    async def secret() -> str:
        return SECRET_PAGE

    @litestar.websocket("/socket", guards=[require_user])
    async def socket(socket: litestar.WebSocket[Any, Any, Any]) -> None:
        await socket.accept()

    @litestar.asgi("/mounted", is_mount=True, copy_scope=True)
    async def mounted(scope: litestar.types.Scope, receive: litestar.types.Receive, send: litestar.types.Send) -> None:
        inner: Any = scope
        guard(asgi.request_auth(inner))
        response: Any = PlainTextResponse(SECRET_PAGE)
        await response(scope, receive, send)

    return litestar.Litestar([secret, socket, mounted], plugins=[PowAuthPlugin(auth)], logging_config=None)


def plain_asgi_app(auth: SessionAuth[User, Me]) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await send({"type": "lifespan.startup.complete"})
            return
        if scope["path"] in ("/secret", "/socket", "/mounted/secret"):
            guard(asgi.request_auth(scope))
        await PlainTextResponse(SECRET_PAGE if scope["path"].endswith("/secret") else "")(scope, receive, send)

    return SessionAuthMiddleware(app, auth)


def flask_app(auth: SessionAuth[User, Me]) -> Any:
    app = flask.Flask("app")
    PowAuth(app, auth)
    blueprint = flask.Blueprint("mounted", "mounted", url_prefix="/mounted")
    app.add_url_rule("/secret", "secret", login_required(lambda: SECRET_PAGE))
    blueprint.add_url_rule("/secret", "secret", login_required(lambda: SECRET_PAGE))
    app.register_blueprint(blueprint)
    app.add_url_rule("/public", "public", lambda: "")
    return app


def plain_wsgi_app(auth: SessionAuth[User, Me]) -> Any:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        found = environ["PATH_INFO"] in ("/secret", "/mounted/secret")
        if found:
            guard(wsgi.request_auth(environ))
        start_response("200 OK" if found else "404 Not Found", [])
        return [SECRET_PAGE.encode() if found else b""]

    return wsgi.SessionAuthMiddleware(app, auth)


ASGI_APPS = [fastapi_app, starlette_app, litestar_app]
WSGI_APPS = [flask_app, plain_wsgi_app]


async def ask(app: Any, scope_type: str, path: str, method: str = "GET", headers: Any = ()) -> list[Any]:
    """Everything that an app sends for one scope."""
    sent: list[Any] = []
    raw, _, query = path.encode().partition(b"?")
    scope = {
        "type": scope_type,
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "https" if scope_type == "http" else "wss",
        "path": unquote(raw.decode()),
        "raw_path": raw,
        "root_path": "",
        "query_string": query,
        "headers": [(b"host", b"app.example"), *headers],
        "client": ("192.0.2.1", 1),
        "server": ("app.example", 443),
        "extensions": {},
        "state": {},
    }
    if scope_type == "http":
        scope["method"] = method
    incoming = iter([{"type": "websocket.connect"} if scope_type == "websocket" else {"type": "http.request"}])

    async def receive() -> Any:
        return next(incoming, {"type": "websocket.disconnect", "code": 1000})

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent


def asgi_answer(app: Any, path: str, method: str, headers: Any = ()) -> tuple[int, bytes]:
    sent = asyncio.run(ask(app, "http", path, method, headers))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def wsgi_answer(app: Any, path: str, method: str, cookie: str = "") -> tuple[int, bytes]:
    started: list[str] = []
    raw, _, query = path.partition("?")
    environ = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote(raw).encode().decode("latin-1"),
        "QUERY_STRING": query,
        "SERVER_NAME": "app.example",
        "SERVER_PORT": "443",
        "HTTP_COOKIE": cookie,
        "wsgi.url_scheme": "https",
    }
    body = b"".join(app(environ, lambda status, headers, exc_info=None: started.append(status)))
    return int(started[-1][:3]), body


@pytest.mark.parametrize("make", ASGI_APPS, ids=lambda make: str(make.__name__))
@pytest.mark.parametrize("method", METHODS)
def test_pge_08_no_spelling_gets_around_a_guard_on_asgi(make: Any, method: str) -> None:
    app = make(an_auth()[0])
    for path in SPELLINGS:
        status, body = asgi_answer(app, path, method)
        assert SECRET_PAGE.encode() not in body, path
        assert status in {401, 404, 405, 307, 308} or method == "OPTIONS", (path, status)
    assert asgi_answer(app, "/secret", "GET")[0] == 401
    assert asgi_answer(app, "/secret", "HEAD")[0] in {401, 405}
    assert asgi_answer(app, "/mounted/secret", "GET")[0] == 401


@pytest.mark.parametrize("make", WSGI_APPS, ids=lambda make: str(make.__name__))
@pytest.mark.parametrize("method", METHODS)
def test_pge_08_no_spelling_gets_around_a_guard_on_wsgi(make: Any, method: str) -> None:
    app = make(an_auth()[0])
    for path in SPELLINGS:
        status, body = wsgi_answer(app, path, method)
        assert SECRET_PAGE.encode() not in body, path
        assert status in {401, 404, 405, 308} or method == "OPTIONS", (path, status)
    assert wsgi_answer(app, "/secret", "GET")[0] == 401
    assert wsgi_answer(app, "/secret", "HEAD")[0] == 401
    assert wsgi_answer(app, "/mounted/secret", "GET")[0] == 401


@pytest.mark.parametrize("make", [*ASGI_APPS, flask_app], ids=lambda make: str(make.__name__))
def test_pge_08_who_is_signed_in_gets_what_the_router_finds(make: Any) -> None:
    auth, ada = an_auth()
    app = make(auth)
    cookie = cookie_of(auth, ada)
    for path in ("/secret", "/mounted/secret", "/%73ecret"):
        if make is flask_app:
            answer = wsgi_answer(app, path, "GET", cookie)
        else:
            answer = asgi_answer(app, path, "GET", [(b"cookie", cookie.encode())])
        assert answer == (200, SECRET_PAGE.encode()), path


def cookie_of(auth: SessionAuth[User, Me], user: User) -> str:
    client = flask_app(auth).test_client()
    sign_in(client, user)
    name = auth.carrier.name
    return f"{name}={client.get_cookie(name).value}"


@pytest.mark.parametrize("make", [fastapi_app, litestar_app, plain_asgi_app], ids=lambda make: str(make.__name__))
def test_pge_08_a_websocket_is_guarded_too(make: Any) -> None:
    app = make(an_auth()[0])
    for path in ("/socket", "/%73ocket"):
        sent = asyncio.run(ask(app, "websocket", path))
        assert [message["type"] for message in sent] == ["websocket.close"], path
        assert sent[0]["code"] == 1008
    for path in ("//socket", "/SOCKET", "/secret"):
        sent = asyncio.run(ask(app, "websocket", path))
        assert "websocket.accept" not in [message["type"] for message in sent], path


@pytest.mark.parametrize("make", [*ASGI_APPS, plain_asgi_app], ids=lambda make: str(make.__name__))
def test_pge_08_a_lifespan_scope_is_the_apps(make: Any) -> None:
    app = make(an_auth()[0])
    sent: list[Any] = []
    incoming = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

    async def receive() -> Any:
        return next(incoming)

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(app({"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}, receive, send))
    assert sent[0] == "lifespan.startup.complete"


def test_pge_08_a_guard_without_its_middleware_refuses() -> None:
    app = FastAPI()
    app.get("/secret", dependencies=[Depends(auth_dependency)])(lambda: SECRET_PAGE)
    with pytest.raises(Exception, match="no SessionAuthMiddleware"):
        asgi_answer(app, "/secret", "GET")
    site = flask.Flask("app")
    site.add_url_rule("/secret", "secret", login_required(lambda: SECRET_PAGE))
    assert wsgi_answer(site, "/secret", "GET")[0] == 500
