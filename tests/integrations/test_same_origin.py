"""The ready-made defence for an app's own handlers: other sites change nothing, in every framework."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import flask
import httpx
import litestar
import pytest
from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse as FastAPIResponse
from litestar.testing import TestClient as LitestarClient
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from harness.support import SECRET, MemoryUsers, User
from powauth import (
    Account,
    Authenticator,
    ConfigWarning,
    CookieCarrier,
    CrossSiteDefence,
    CrossSiteRequest,
    SessionAuth,
)
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.http.answers import Answer
from powauth.http.connection import Connection
from powauth.http.guards import require_same_origin
from powauth.integrations import asgi, wsgi
from powauth.integrations import flask as flask_auth
from powauth.integrations import litestar as litestar_auth
from powauth.integrations import starlette as starlette_auth
from powauth.integrations.asgi import SessionAuthMiddleware
from powauth.integrations.fastapi import Auth
from powauth.integrations.flask import PowAuth
from powauth.integrations.litestar import PowAuthPlugin
from powauth.request_auth import RequestAuth
from powauth.testing import sign_in

ORIGIN = "https://app.example"
PARTNER = CrossSiteDefence(["https://partner.example"])
REFUSED = {"error": "cross_site_request"}

Client = Any


def make_auth(**options: Any) -> SessionAuth[User, Any]:
    users = MemoryUsers()
    users.add("ada@example.org")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)
        carrier = CookieCarrier(same_site="None")
    return SessionAuth(secret_key=SECRET, users=users, backend=MemoryBackend(), carrier=carrier, **options)


# Each app has ``/logout`` behind the defence as it is, and ``/partner`` behind one that allows another origin. Both
# sign out on POST, and do nothing on GET.


async def end(bound: Any) -> None:
    if bound.connection.method() == "POST":
        await bound.sign_out()


@contextmanager
def on_asgi(auth: SessionAuth[User, Any]) -> Iterator[Client]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        bound = asgi.request_auth(scope)
        if scope["path"] == "/partner":
            require_same_origin(bound, PARTNER)
        else:
            require_same_origin(bound)
        await end(bound)
        await Response()(scope, receive, send)

    yield TestClient(SessionAuthMiddleware(app, auth), base_url=ORIGIN)


@contextmanager
def on_wsgi(auth: SessionAuth[User, Any]) -> Iterator[Client]:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        bound = wsgi.request_auth(environ)
        if environ["PATH_INFO"] == "/partner":
            require_same_origin(bound, PARTNER)
        else:
            require_same_origin(bound)
        if environ["REQUEST_METHOD"] == "POST":
            bound.sign_out()
        start_response("200 OK", [])
        return []

    with httpx.Client(transport=httpx.WSGITransport(wsgi.SessionAuthMiddleware(app, auth)), base_url=ORIGIN) as client:
        yield client


@contextmanager
def on_starlette(auth: SessionAuth[User, Any]) -> Iterator[Client]:
    @starlette_auth.same_origin_required
    async def logout(request: Request) -> Response:
        await end(starlette_auth.request_auth(request))
        return Response()

    class Partner(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            return Response()

        @starlette_auth.same_origin_required(defence=PARTNER)
        async def post(self, request: Request) -> Response:
            await end(starlette_auth.request_auth(request))
            return Response()

    app = Starlette(routes=[Route("/logout", logout, methods=["GET", "POST"]), Route("/partner", Partner)])
    app.add_middleware(SessionAuthMiddleware, auth=auth)
    yield TestClient(app, base_url=ORIGIN)


@contextmanager
def on_starlette_in_threads(auth: SessionAuth[User, Any]) -> Iterator[Client]:
    def work(request: Request) -> Response:
        if request.method == "POST":
            starlette_auth.blocking_request_auth(request).sign_out()
        return Response()

    routes = [
        Route("/logout", starlette_auth.same_origin_required(work), methods=["GET", "POST"]),
        Route("/partner", starlette_auth.same_origin_required(defence=PARTNER)(work), methods=["GET", "POST"]),
    ]
    app = Starlette(routes=routes)
    app.add_middleware(SessionAuthMiddleware, auth=auth)
    yield TestClient(app, base_url=ORIGIN)


@contextmanager
def on_fastapi(auth: SessionAuth[User, Any]) -> Iterator[Client]:
    session = Auth(auth)
    app = FastAPI()
    app.add_middleware(SessionAuthMiddleware, auth=auth)
    bound_auth = Annotated[RequestAuth[User, Any], Depends(session.request_auth)]

    async def logout(bound: bound_auth) -> None:
        await end(bound)

    for path, dependency in (("/logout", session.same_origin()), ("/partner", session.same_origin(PARTNER))):
        app.api_route(path, methods=["GET", "POST"], dependencies=[Depends(dependency)])(logout)
    yield TestClient(app, base_url=ORIGIN)


@contextmanager
def on_litestar(auth: SessionAuth[User, Any]) -> Iterator[Client]:
    plugin = PowAuthPlugin(auth)

    def handler(path: str, guard: Any) -> Any:
        async def logout(request: litestar.Request[Any, Any, Any]) -> None:
            await end(asgi.request_auth(request.scope))  # type: ignore[call-overload]

        return litestar.route(path, http_method=["GET", "POST"], guards=[guard], status_code=200)(logout)

    handlers = [
        handler("/logout", litestar_auth.require_same_origin()),
        handler("/partner", plugin.require_same_origin(PARTNER)),
    ]
    app = litestar.Litestar(handlers, plugins=[plugin], openapi_config=None)
    with LitestarClient(app, base_url=ORIGIN) as client:
        yield client


@contextmanager
def on_flask(auth: SessionAuth[User, Any]) -> Iterator[Client]:
    app = flask.Flask(__name__)
    extension = PowAuth(app, auth)

    def logout() -> str:
        if flask.request.method == "POST":
            flask_auth.request_auth().sign_out()
        return ""

    views = {
        "/logout": flask_auth.same_origin_required(logout),
        "/partner": extension.same_origin_required(defence=PARTNER)(logout),
    }
    for path, view in views.items():
        app.add_url_rule(path, path, view, methods=["GET", "POST"])
    with httpx.Client(transport=httpx.WSGITransport(app), base_url=ORIGIN) as client:
        yield client


@contextmanager
def on_flask_before_each_request(auth: SessionAuth[User, Any]) -> Iterator[Client]:
    app = flask.Flask(__name__)
    extension = PowAuth(app, auth)
    app.before_request(extension.refuse_cross_site)
    app.before_request(flask_auth.refuse_cross_site)

    @app.route("/logout", methods=["GET", "POST"])
    def logout() -> str:
        if flask.request.method == "POST":
            extension.request_auth().sign_out()
        return ""

    with httpx.Client(transport=httpx.WSGITransport(app), base_url=ORIGIN) as client:
        yield client


APPS = [
    on_asgi,
    on_wsgi,
    on_starlette,
    on_starlette_in_threads,
    on_fastapi,
    on_litestar,
    on_flask,
    on_flask_before_each_request,
]


def is_signed_in(client: Client, auth: SessionAuth[User, Any]) -> bool:
    """Whether the client still has a session in the store."""
    return drive(auth.store.count(auth.now())) == 1


@pytest.fixture(params=APPS)
def app(request: pytest.FixtureRequest) -> Callable[[SessionAuth[User, Any]], Any]:
    make: Callable[[SessionAuth[User, Any]], Any] = request.param
    return make


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
        {"sec-fetch-site": "same-site", "origin": "https://other.app.example"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"referer": "https://evil.example/form"},
        {"origin": "https://partner.example"},
        {},
    ],
)
def test_rep_51_a_cross_site_logout_without_a_body_is_refused(app: Any, headers: dict[str, str]) -> None:
    auth = make_auth()
    with app(auth) as client:
        (user,) = auth.users.rows.values()  # type: ignore[attr-defined]
        sign_in(client, user)
        response = client.post("/logout", headers=headers)
        assert (response.status_code, response.headers.get("set-cookie")) == (403, None)
        assert response.json() in (REFUSED, {"detail": "cross_site_request"})
        assert is_signed_in(client, auth)


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "same-origin", "origin": ORIGIN},
        {"sec-fetch-site": "none"},
        {"origin": ORIGIN},
        {"referer": f"{ORIGIN}/account"},
        {"content-type": "application/json"},
    ],
)
def test_rep_51_the_own_pages_and_programs_pass(app: Any, headers: dict[str, str]) -> None:
    auth = make_auth()
    with app(auth) as client:
        (user,) = auth.users.rows.values()  # type: ignore[attr-defined]
        sign_in(client, user)
        assert client.get("/logout", headers={"sec-fetch-site": "cross-site"}).status_code == 200
        assert is_signed_in(client, auth)
        assert client.post("/logout", headers=headers).status_code in (200, 201, 204)
        assert not is_signed_in(client, auth)


@pytest.mark.parametrize("app", APPS[:-1])
def test_rep_51_another_origin_can_be_allowed(app: Any) -> None:
    auth = make_auth()
    with app(auth) as client:
        (user,) = auth.users.rows.values()  # type: ignore[attr-defined]
        sign_in(client, user)
        for origin in ("https://evil.example", "http://partner.example"):
            assert (
                client.post("/partner", headers={"sec-fetch-site": "cross-site", "origin": origin}).status_code == 403
            )
        assert is_signed_in(client, auth)
        headers = {"sec-fetch-site": "cross-site", "origin": "https://partner.example"}
        assert client.post("/partner", headers=headers).status_code in (200, 201, 204)
        assert not is_signed_in(client, auth)


def test_rep_51_fastapi_gives_the_app_an_http_exception() -> None:
    auth = make_auth()
    seen: list[Exception] = []

    async def note(request: Request, error: Exception) -> Response:
        seen.append(error)
        return FastAPIResponse({"own": True}, 403)

    app = FastAPI(dependencies=[Depends(Auth(auth).same_origin())], exception_handlers={CrossSiteRequest: note})
    app.add_middleware(SessionAuthMiddleware, auth=auth)

    @app.post("/save")
    async def save() -> None: ...

    assert TestClient(app, base_url=ORIGIN).post("/save").json() == {"own": True}
    assert [error.status_code for error in seen] == [403]  # type: ignore[attr-defined]


def test_rep_51_on_error_is_asked_first() -> None:
    auth = make_auth()

    def on_error(error: Exception, connection: Connection) -> Any:
        return Answer(451, "No", [], type(error).__name__.encode())

    app = FastAPI(dependencies=[Depends(Auth(auth).same_origin())])
    app.add_middleware(SessionAuthMiddleware, auth=auth, on_error=on_error)

    @app.post("/save")
    async def save() -> None: ...

    response = TestClient(app, base_url=ORIGIN).post("/save")
    assert (response.status_code, response.text) == (451, "CrossSiteRequest")


def test_rep_51_in_development_the_own_origin_is_on_http() -> None:
    users = MemoryUsers()
    with pytest.warns(ConfigWarning, match="insecure_http"):
        carrier = CookieCarrier(insecure_http=True)
    auth = SessionAuth(secret_key=SECRET, users=users, backend=MemoryBackend(), carrier=carrier)
    with on_asgi(auth) as client:
        client.base_url = "http://localhost:8000"
        assert client.post("/logout", headers={"origin": "http://localhost:8000"}).status_code == 200
        assert client.post("/logout", headers={"origin": "https://localhost:8000"}).status_code == 403


class Nobody(Authenticator[User, Any]):
    """An authenticator of an app's own, which has no cookie."""

    async def fetch(self, connection: Connection) -> Any:
        return None

    async def create(self, connection: Connection, account: Account[Any], grant: Any = None) -> Account[Any] | None:
        return None

    async def delete(self, connection: Connection) -> None: ...


def test_rep_51_another_kind_of_authenticator_has_the_defence_too() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        require_same_origin(asgi.request_auth(scope))
        await Response()(scope, receive, send)

    client = TestClient(SessionAuthMiddleware(app, Nobody(MemoryUsers())), base_url=ORIGIN)
    assert client.post("/", headers={"origin": ORIGIN}).status_code == 200
    assert client.post("/", headers={"origin": "https://evil.example"}).json() == REFUSED
