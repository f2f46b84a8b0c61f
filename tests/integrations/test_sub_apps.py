"""Errors of powauth get their documented answers also from a sub-app that has its own error handling."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any

import flask
import flask.sansio.scaffold
import litestar
import pytest
import starlette
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.test import Client

from harness.core_support import Site
from harness.live_servers import send_raw, serving
from harness.support import User
from powauth import (
    ConfigError,
    CrossSiteRequest,
    InvalidParams,
    NotSignedIn,
    Overloaded,
    PowauthError,
    Refused,
    SessionAuth,
    StoreUnavailable,
    Throttled,
)
from powauth.backends.memory import MemoryBackend
from powauth.integrations import flask as powauth_flask
from powauth.integrations import wsgi
from powauth.integrations.asgi import MAX_HELD_BYTES, SessionAuthMiddleware
from powauth.integrations.fastapi import Auth
from powauth.integrations.flask import PowAuth
from powauth.integrations.litestar import PowAuthPlugin
from powauth.integrations.litestar import require_user as litestar_guard
from powauth.integrations.starlette import request_auth

HTTPS = "https://app.example"

ERRORS: dict[str, Callable[[], Exception]] = {
    "invalid": lambda: InvalidParams({"email": ["is taken"]}),
    "throttled": lambda: Throttled(scope="account", retry_after=timedelta(seconds=7)),
    "store": lambda: StoreUnavailable("down"),
    "overloaded": lambda: Overloaded("busy", retry_after=timedelta(seconds=3)),
    "anonymous": lambda: NotSignedIn("sign in first"),
    "refused": lambda: Refused("not today"),
    "cross_site": lambda: CrossSiteRequest("from elsewhere"),
}

DOCUMENTED: dict[str, tuple[int, object, str | None]] = {
    "invalid": (422, {"errors": {"email": ["is taken"]}}, None),
    "throttled": (429, {"error": "throttled"}, "7"),
    "store": (503, {"error": "store_unavailable"}, "5"),
    "overloaded": (503, {"error": "overloaded"}, "3"),
    "anonymous": (401, {"error": "not_signed_in"}, None),
    "refused": (403, {"error": "refused", "reason": "not today"}, None),
    "cross_site": (403, {"error": "cross_site_request"}, None),
}
"""Status, body and ``Retry-After`` of each."""

FAULTS: dict[str, Callable[[], Exception]] = {
    "bug": lambda: RuntimeError("a mistake of the app"),
    "config": lambda: ConfigError("a mistake of the app"),
}


def fail(name: str) -> None:
    """Raise the error of that name; ``late``: a mistake after an error that the app has dealt with."""
    try:
        raise (ERRORS | FAULTS).get(name, ERRORS["invalid"])()
    except InvalidParams:
        if name != "late":
            raise
    raise RuntimeError("a mistake of the app")


# --- ASGI -----------------------------------------------------------------------------------------------------------


async def failing(request: Request) -> Response:
    fail(request.path_params["name"])
    raise AssertionError


async def own_page(request: Request, error: Exception) -> Response:
    del request, error
    return PlainTextResponse("the sub-app's own page", 500)


ROUTE = Route("/fail/{name}", failing, methods=["GET", "POST"])


def starlette_sub(**options: Any) -> Starlette:
    return Starlette(routes=[ROUTE], **options)


def fastapi_sub(**options: Any) -> FastAPI:
    app = FastAPI(**options)

    @app.get("/fail/{name}")
    async def fail_at(name: str) -> None:
        fail(name)

    return app


def litestar_sub(**options: Any) -> litestar.Litestar:
    @litestar.get("/fail/{name:str}")
    async def fail_at(request: litestar.Request[Any, Any, Any]) -> None:
        fail(request.path_params["name"])

    return litestar.Litestar([fail_at], openapi_config=None, logging_config=None, **options)


def litestar_page(request: Any, error: Exception) -> Any:
    del request, error
    return litestar.Response("the sub-app's own page", status_code=500, media_type="text/plain")


class CatchAll:
    """A sub-app with a middleware of its own that answers every error."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def nowhere(message: Any) -> None:
            del message

        try:
            await self.app(scope, receive, nowhere)
        except Exception:
            await PlainTextResponse("the sub-app's own page", 500)(scope, receive, send)


async def passing(request: Request, call_next: Any) -> Any:
    return await call_next(request)


BETWEEN = [Middleware(BaseHTTPMiddleware, dispatch=passing)]

SUB_APPS: dict[str, Callable[[], Any]] = {
    "starlette": starlette_sub,
    "starlette, debug": lambda: starlette_sub(debug=True),
    "starlette, handler of Exception": lambda: starlette_sub(exception_handlers={Exception: own_page}),
    "starlette, handler of 500": lambda: starlette_sub(exception_handlers={500: own_page}),
    "starlette, middleware": lambda: starlette_sub(middleware=BETWEEN),
    "starlette in starlette": lambda: Starlette(routes=[Mount("/", starlette_sub())]),
    "fastapi": fastapi_sub,
    "fastapi, debug": lambda: fastapi_sub(debug=True),
    "fastapi, handler of Exception": lambda: fastapi_sub(exception_handlers={Exception: own_page}),
    "fastapi in starlette": lambda: Starlette(routes=[Mount("/", fastapi_sub())], middleware=BETWEEN),
    "litestar": litestar_sub,
    "litestar, debug": lambda: litestar_sub(debug=True),
    "litestar, handler of Exception": lambda: litestar_sub(exception_handlers={Exception: litestar_page}),
    "litestar, handler of 500": lambda: litestar_sub(exception_handlers={500: litestar_page}),
    "a middleware that answers every error": lambda: CatchAll(starlette_sub()),
}


def inside(app: Any, auth: SessionAuth[User, Any], outer: str) -> Any:
    """The sub-app behind powauth's middleware, which is outside of it."""
    if outer == "alone":
        mounted: Any = Starlette(routes=[Mount("/sub", app)])
        return SessionAuthMiddleware(mounted, auth)
    if outer == "litestar":
        plugins = [PowAuthPlugin(auth)]
        mount = litestar.asgi("/sub", is_mount=True, copy_scope=True)(as_litestar_takes_it(app))
        return litestar.Litestar([mount], plugins=plugins, openapi_config=None, logging_config=None)
    if outer == "fastapi":
        parent: Starlette = FastAPI()
        parent.mount("/sub", app)
    else:
        parent = Starlette(routes=[Mount("/sub", app)])
    if outer == "between":
        parent.add_middleware(BaseHTTPMiddleware, dispatch=passing)
    parent.add_middleware(SessionAuthMiddleware, auth=auth)
    return parent


def as_litestar_takes_it(app: Any) -> Any:
    async def mounted(scope: litestar.types.Scope, receive: litestar.types.Receive, send: litestar.types.Send) -> None:
        path = scope["path"].rstrip("/") or "/"  # Litestar has put a slash behind it
        await app({**scope, "path": path}, receive, send)

    return mounted


@pytest.fixture
def auth() -> SessionAuth[User, Any]:
    return Site(MemoryBackend()).auth


OUTER = ["starlette", "fastapi", "alone", "between", "litestar"]
SILENT = {name for name in SUB_APPS if name.startswith(("litestar", "a middleware"))}
"""Sub-apps that raise nothing to what is outside, so that only what they do while they send tells of the error."""

UNKNOWABLE = {*((name, "between") for name in SILENT), ("fastapi in starlette", "litestar")}
"""Starlette's ``BaseHTTPMiddleware`` sends from another task, where nothing tells of the error of a silent app."""

LOSES_ERRORS = tuple(int(part) for part in starlette.__version__.split(".")[:3]) < (0, 46, 1)
WITH_BASE_MIDDLEWARE = {"starlette, middleware", "fastapi in starlette", "between"}


def skip_what_starlette_loses(*names: str) -> None:
    """Skip what old releases of Starlette cannot do."""
    if LOSES_ERRORS and not WITH_BASE_MIDDLEWARE.isdisjoint(names):
        pytest.skip("Starlette before 0.46.1 loses an error behind its BaseHTTPMiddleware once a response was sent")


COMBINED = [(sub, outer) for sub in SUB_APPS for outer in OUTER if (sub, outer) not in UNKNOWABLE]


@pytest.mark.parametrize(("sub_app", "outer"), COMBINED)
def test_rep_44_a_mounted_app_gives_the_documented_answers(
    auth: SessionAuth[User, Any], sub_app: str, outer: str
) -> None:
    skip_what_starlette_loses(sub_app, outer)
    client = TestClient(inside(SUB_APPS[sub_app](), auth, outer), base_url=HTTPS)
    for name, (status, body, retry) in DOCUMENTED.items():
        response = client.get(f"/sub/fail/{name}")
        assert (response.status_code, response.json(), response.headers.get("retry-after")) == (status, body, retry)
        assert response.headers["cache-control"] == "no-store"
        assert response.headers.get_list("content-type") == ["application/json"]


@pytest.mark.parametrize("outer", ["starlette", "between", "litestar"])
@pytest.mark.parametrize("sub_app", SUB_APPS)
@pytest.mark.parametrize("fault", ["bug", "config", "late"])
def test_rep_44_a_mistake_of_the_app_stays_its_own(
    auth: SessionAuth[User, Any], sub_app: str, outer: str, fault: str
) -> None:
    skip_what_starlette_loses(sub_app, outer)
    app = SUB_APPS[sub_app]()
    alone = TestClient(app, base_url=HTTPS, raise_server_exceptions=False).get(f"/fail/{fault}")
    client = TestClient(inside(app, auth, outer), base_url=HTTPS, raise_server_exceptions=False)
    response = client.get(f"/sub/fail/{fault}")
    assert (response.status_code, response.headers["content-type"]) == (500, alone.headers["content-type"])
    if "debug" not in sub_app:  # that page shows the request
        assert response.content == alone.content


def test_rep_44_the_answers_over_a_real_server(auth: SessionAuth[User, Any]) -> None:
    app = inside(fastapi_sub(), auth, "starlette")
    with serving(app, "asgi", log_level="critical") as address:
        for name, (status, body, _) in DOCUMENTED.items():
            response = send_raw(address, "GET", f"/sub/fail/{name}", ("Host", "app.example"))
            assert (response.status_code, response.json()) == (status, body)
        response = send_raw(address, "GET", "/sub/fail/bug", ("Host", "app.example"))
        assert (response.status_code, response.text) == (500, "Internal Server Error")


def test_rep_44_guards_of_a_mounted_app_send_people_to_sign_in(auth: SessionAuth[User, Any]) -> None:
    sub = FastAPI()

    @sub.get("/me")
    async def me(user: Annotated[User, Depends(Auth(auth).identity)]) -> str:
        return user.email

    @litestar.get("/me", guards=[litestar_guard])
    async def litestar_me() -> None: ...

    other = litestar.Litestar([litestar_me], openapi_config=None, logging_config=None)
    mounts: list[tuple[str, Any]] = [("/sub", sub), ("/other", other)]
    app = Starlette(routes=[Mount(path, mounted) for path, mounted in mounts])
    app.add_middleware(SessionAuthMiddleware, auth=auth, sign_in_path="/login")
    client = TestClient(app, base_url=HTTPS, follow_redirects=False)
    for path in ("/sub/me", "/other/me"):
        assert client.get(path).status_code == 401
        people = client.get(path, headers={"accept": "text/html"})
        assert (people.status_code, people.headers["location"]) == (303, f"/login?next={path}")


class Teapot(Exception):
    """An error of the app."""


async def teapot(request: Request, error: Exception) -> Response:
    del request
    return PlainTextResponse(type(error).__name__, 503 if isinstance(error, StoreUnavailable) else 418)


async def chosen(request: Request) -> Response:
    try:
        fail(request.path_params["name"])
    except PowauthError as error:
        raise HTTPException(500, "on purpose") from error
    raise AssertionError


def test_rep_44_what_a_sub_app_answers_to_these_errors_on_purpose_stays(auth: SessionAuth[User, Any]) -> None:
    handled = starlette_sub(exception_handlers={PowauthError: teapot})
    for outer in ("starlette", "between", "litestar"):
        client = TestClient(inside(handled, auth, outer), base_url=HTTPS)
        assert (client.get("/sub/fail/invalid").status_code, client.get("/sub/fail/invalid").text) == (
            418,
            "InvalidParams",
        )
        response = client.get("/sub/fail/store")
        assert (response.status_code, response.text) == (503, "StoreUnavailable")
        purpose = Starlette(routes=[Route("/fail/{name}", chosen)])
        response = TestClient(inside(purpose, auth, outer), base_url=HTTPS).get("/sub/fail/invalid")
        assert (response.status_code, response.text) == (500, "on purpose")


@pytest.mark.parametrize("size", [0, 10, MAX_HELD_BYTES, MAX_HELD_BYTES + 1, 3 * MAX_HELD_BYTES])
@pytest.mark.parametrize("parts", [1, 7])
def test_rep_44_a_response_of_status_500_arrives_whole(auth: SessionAuth[User, Any], size: int, parts: int) -> None:
    async def broken(request: Request) -> Response:
        del request
        body = b"x" * size
        pieces = [body[start : start + size // parts + 1] for start in range(0, size, size // parts + 1)]

        async def stream() -> Any:
            for piece in pieces:
                yield piece

        return StreamingResponse(stream(), 500, headers={"x-own": "1"})

    client = TestClient(inside(Starlette(routes=[Route("/", broken)]), auth, "starlette"), base_url=HTTPS)
    response = client.get("/sub/")
    assert (response.status_code, response.headers["x-own"], len(response.content)) == (500, "1", size)
    assert response.headers["vary"] == "Cookie"


def test_rep_44_an_error_after_a_long_body_of_status_500_cannot_be_answered(auth: SessionAuth[User, Any]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * (MAX_HELD_BYTES + 1), "more_body": True})
        raise StoreUnavailable("too late")

    client = TestClient(SessionAuthMiddleware(app, auth), base_url=HTTPS)
    with pytest.raises(StoreUnavailable):
        client.get("/")


def test_rep_44_an_app_that_starts_a_second_response_is_heard(auth: SessionAuth[User, Any]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await PlainTextResponse("first", 500)(scope, receive, send)
        await PlainTextResponse("second", 404)(scope, receive, send)

    response = TestClient(SessionAuthMiddleware(app, auth), base_url=HTTPS).get("/")
    assert (response.status_code, response.text) == (404, "second")


def test_rep_44_an_answer_carries_no_renewed_id() -> None:
    site = Site(MemoryBackend())

    async def renew(request: Request) -> Response:
        assert request_auth(request).current_user is not None
        raise InvalidParams({"email": ["is taken"]})

    app = inside(Starlette(routes=[Route("/", renew)]), site.auth, "starlette")
    cookies = site.signed_in().jar
    site.clock.advance(1_000)
    response = TestClient(app, base_url=HTTPS, cookies=cookies).get("/sub/")
    assert (response.status_code, response.headers.get("set-cookie")) == (422, None)


# --- WSGI -----------------------------------------------------------------------------------------------------------


def flask_sub(blueprint: bool = False, catch: type[Exception] | int | None = None) -> flask.Flask:
    app = flask.Flask(__name__)
    part: flask.sansio.scaffold.Scaffold = flask.Blueprint("part", __name__) if blueprint else app

    @part.get("/fail/<name>")
    def fail_at(name: str) -> str:
        fail(name)
        return ""

    if catch is not None:

        @part.errorhandler(catch)
        def own(error: Exception) -> Any:
            return "the sub-app's own page", 500

    if isinstance(part, flask.Blueprint):
        app.register_blueprint(part)
    return app


def generated(environ: Any, start_response: Any) -> Any:
    fail(environ["PATH_INFO"].rpartition("/")[2])
    start_response("200 OK", [])
    yield b""


def catching(app: Any, *, with_info: bool) -> Any:
    """A WSGI middleware that answers every error."""

    def caught(environ: Any, start_response: Any) -> Any:
        try:
            return [*app(environ, start_response)]
        except Exception as error:
            information = (type(error), error, error.__traceback__) if with_info else None
            write = start_response("500 Internal Server Error", [("Content-Type", "text/plain")], information)
            write(b"the sub-app's ")
            return [b"own page"]

    return caught


def not_found(environ: Any, start_response: Any) -> list[bytes]:
    start_response("404 Not Found", [])
    return []


WSGI_SUB_APPS: dict[str, Callable[[], Any]] = {
    "flask": flask_sub,
    "flask, blueprint": lambda: flask_sub(blueprint=True),
    "flask, handler of 500": lambda: flask_sub(catch=500),
    "generator": lambda: generated,
    "a middleware that answers every error": lambda: catching(generated, with_info=False),
    "a middleware that tells of every error": lambda: catching(generated, with_info=True),
}


@pytest.mark.parametrize("sub_app", WSGI_SUB_APPS)
def test_rep_44_a_dispatched_app_gives_the_documented_answers(auth: SessionAuth[User, Any], sub_app: str) -> None:
    dispatcher: Any = DispatcherMiddleware(not_found, {"/sub": WSGI_SUB_APPS[sub_app]()})
    client = Client(wsgi.SessionAuthMiddleware(dispatcher, auth))
    for name, (status, body, retry) in DOCUMENTED.items():
        response = client.get(f"/sub/fail/{name}")
        assert (response.status_code, json.loads(response.data)) == (status, body)
        assert (response.headers.get("Retry-After"), response.headers["Cache-Control"]) == (retry, "no-store")


@pytest.mark.parametrize("sub_app", [name for name in WSGI_SUB_APPS if name != "generator"])
@pytest.mark.parametrize("fault", ["bug", "config", "late"])
def test_rep_44_a_mistake_of_a_dispatched_app_stays_its_own(
    auth: SessionAuth[User, Any], sub_app: str, fault: str
) -> None:
    dispatcher: Any = DispatcherMiddleware(not_found, {"/sub": WSGI_SUB_APPS[sub_app]()})
    found = []
    for app in (dispatcher, wsgi.SessionAuthMiddleware(dispatcher, auth)):
        with serving(app, "wsgi") as address:
            response = send_raw(address, "GET", f"/sub/fail/{fault}", ("Host", "app.example"))
            found.append((response.status_code, response.text))
    assert found == [(500, found[0][1])] * 2


@pytest.mark.parametrize("blueprint", [True, False])
@pytest.mark.parametrize("catch", [None, Exception, 500])
def test_rep_44_flask_gives_the_documented_answers(
    auth: SessionAuth[User, Any], blueprint: bool, catch: type[Exception] | int | None
) -> None:
    sub = flask_sub(blueprint, catch)
    PowAuth(sub, auth)
    dispatcher: Any = DispatcherMiddleware(not_found, {"/sub": sub})
    for app in (dispatcher, wsgi.SessionAuthMiddleware(dispatcher, auth)):
        client = Client(app)
        for name, (status, body, retry) in DOCUMENTED.items():
            response = client.get(f"/sub/fail/{name}")
            assert (response.status_code, json.loads(response.data)) == (status, body)
            assert response.headers.get("Retry-After") == retry
        for fault in FAULTS:
            assert client.get(f"/sub/fail/{fault}").status_code == 500


def test_rep_44_what_a_blueprint_answers_to_these_errors_on_purpose_stays(auth: SessionAuth[User, Any]) -> None:
    app = flask.Flask(__name__)
    PowAuth(app, auth)
    part = flask.Blueprint("part", __name__)

    @part.get("/<name>")
    @powauth_flask.login_required
    def never(name: str) -> str:
        return name

    @part.errorhandler(NotSignedIn)
    def own(error: NotSignedIn) -> Any:
        return "who are you?", 418

    app.register_blueprint(part)
    response = app.test_client().get("/x")
    assert (response.status_code, response.text) == (418, "who are you?")


def test_rep_44_flasks_guards_work_behind_the_wsgi_middleware_alone(auth: SessionAuth[User, Any]) -> None:
    app = flask.Flask(__name__)

    @app.get("/me")
    @powauth_flask.login_required
    def me() -> str:
        return "me"

    client = Client(wsgi.SessionAuthMiddleware(app, auth, sign_in_path="/login"))
    assert (client.get("/me").status_code, client.get("/me").json) == (401, {"error": "not_signed_in"})
    assert client.get("/me", headers={"accept": "text/html"}).headers["Location"] == "/login?next=/me"
