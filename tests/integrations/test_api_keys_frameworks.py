"""API-06: keys, guards by credentials and scope, and the 401 of programs, under every framework."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastapi
import flask
import httpx
import litestar
import pytest
import sqlalchemy as sa
import starlette.applications
from litestar.testing import TestClient as LitestarClient
from starlette.authentication import requires
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from harness.keys_support import ApiKey, KeySite, Member
from harness.support import SECRET
from harness.tables_support import ADA
from harness.users_databases import blocking_engine
from powauth import AnyOf, BearerCarrier, ConfigError, CookieCarrier, SessionAuth
from powauth.extensions.api_keys import ApiKeys
from powauth.http.guards import require_access
from powauth.integrations import asgi, wsgi
from powauth.integrations.fastapi import Auth
from powauth.integrations.flask import PowAuth, access_required, current_identity
from powauth.integrations.litestar import PowAuthPlugin
from powauth.integrations.litestar import require_access as litestar_access
from powauth.integrations.starlette import SessionAuthBackend, request_auth

HTTPS = "https://testserver.local"
ROUTES = {"/any": {}, "/read": {"scope": "read"}, "/session": {"by": "session"}, "/key": {"by": "api_key"}}
"""The routes of each app, and the options of their guards."""


def _handler_of(session: Auth[Any, Any]) -> Any:
    async def handler(auth: Any = fastapi.Depends(session.request_auth)) -> dict[str, str]:  # noqa: B008
        return {"user": auth.require_user().email}

    return handler


def _fastapi(auth: SessionAuth[Any, Any], **options: Any) -> Any:
    app = fastapi.FastAPI()
    app.add_middleware(asgi.SessionAuthMiddleware, auth=auth, **options)
    session = Auth(auth)
    for path, guard in ROUTES.items():
        if guard.get("by") in (None, *auth.credentials):
            app.get(path, dependencies=[fastapi.Depends(session.access(**guard))])(_handler_of(session))
    return TestClient(app, base_url=HTTPS, follow_redirects=False)


def _starlette(auth: SessionAuth[Any, Any], **options: Any) -> Any:
    def route(path: str, guard: dict[str, str]) -> Route:
        async def handler(request: Any) -> JSONResponse:
            return JSONResponse({"user": require_access(request_auth(request, auth), **guard).email})

        return Route(path, handler)

    app = starlette.applications.Starlette(routes=[route(*each) for each in ROUTES.items()])
    app.add_middleware(asgi.SessionAuthMiddleware, auth=auth, **options)
    return TestClient(app, base_url=HTTPS, follow_redirects=False)


def _litestar(auth: SessionAuth[Any, Any], **options: Any) -> Any:
    plugin = PowAuthPlugin(auth, **options)

    def route(path: str, guard: dict[str, str]) -> Any:
        required = plugin.require_access if path == "/read" else litestar_access

        @litestar.get(path, guards=[required(**guard)], name=path, sync_to_thread=False)
        def handler(request: litestar.Request[Any, Any, Any]) -> dict[str, str]:
            return {"user": request.user.email}

        return handler

    app = litestar.Litestar([route(*each) for each in ROUTES.items()], plugins=[plugin])
    client = LitestarClient(app, base_url=HTTPS)
    client.follow_redirects = False
    return client


def _flask(auth: SessionAuth[Any, Any], **options: Any) -> Any:
    app = flask.Flask("keys")
    extension = PowAuth(app, auth, **options)
    for path, guard in ROUTES.items():
        required = extension.access_required if path == "/read" else access_required
        view = required(**guard)(lambda: flask.jsonify(user=current_identity.email))
        app.add_url_rule(path, path, view)
    return httpx.Client(transport=httpx.WSGITransport(app), base_url=HTTPS)


def _asgi(auth: SessionAuth[Any, Any], **options: Any) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        user = require_access(asgi.request_auth(scope, auth), **ROUTES[scope["path"]])
        await JSONResponse({"user": user.email})(scope, receive, send)

    return TestClient(asgi.SessionAuthMiddleware(app, auth, **options), base_url=HTTPS, follow_redirects=False)


def _wsgi(auth: SessionAuth[Any, Any], **options: Any) -> Any:
    def app(environ: Any, start_response: Any) -> Any:
        user = require_access(wsgi.request_auth(environ, auth), **ROUTES[environ["PATH_INFO"]])
        start_response("200 OK", [("Content-Type", "application/json")])
        return [f'{{"user": "{user.email}"}}'.encode()]

    middleware: Any = wsgi.SessionAuthMiddleware(app, auth, **options)
    return httpx.Client(transport=httpx.WSGITransport(middleware), base_url=HTTPS)


FRAMEWORKS = {
    "fastapi": _fastapi,
    "starlette": _starlette,
    "litestar": _litestar,
    "flask": _flask,
    "asgi": _asgi,
    "wsgi": _wsgi,
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sa.Engine]:
    with blocking_engine("sqlite", str(tmp_path_factory.mktemp("keys")), Member, ApiKey) as engine:
        yield engine


@pytest.fixture
def site(engine: sa.Engine) -> KeySite:
    with engine.begin() as connection:
        connection.execute(sa.delete(Member))
        connection.execute(sa.delete(ApiKey))
    return KeySite("wsgi", engine)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_guards_accept_either_or_one_and_a_scope(framework: str, site: KeySite) -> None:
    key, bare = site.a_key(scopes=["read"]), site.a_key()
    cookie = site.browser(signed_in=True).cookie_header() or ""
    client = FRAMEWORKS[framework](site.auth)

    def answers(**headers: str) -> list[int]:
        found = [client.get(path, headers={"accept": "application/json", **headers}) for path in ROUTES]
        assert all(each.json() == {"user": ADA} for each in found if each.status_code == 200)
        assert not any("set-cookie" in each.headers for each in found)
        return [each.status_code for each in found]

    assert answers(authorization=f"Bearer {key}") == [200, 200, 403, 200]
    assert answers(authorization=f"Bearer {bare}") == [200, 403, 403, 200]
    assert answers(cookie=cookie) == [200, 200, 200, 403]
    assert answers() == [401] * 4
    refused = client.get("/session", headers={"authorization": f"Bearer {key}"}).json()
    assert "session_required" in (refused.get("error"), refused.get("detail"))
    refused = client.get("/read", headers={"authorization": f"Bearer {bare}"}).json()
    assert "insufficient_scope" in (refused.get("error"), refused.get("detail"))


@pytest.mark.parametrize("framework", ["fastapi", "starlette", "litestar", "asgi"])
def test_api_02_two_headers_or_a_key_in_the_query_or_the_body_are_refused(framework: str, site: KeySite) -> None:
    """Under WSGI a server joins two headers before the app sees them."""
    key = site.a_key(scopes=["read"])
    cookie = site.browser(signed_in=True).cookie_header() or ""
    client = FRAMEWORKS[framework](site.auth)
    bearer, basic = ("authorization", f"Bearer {key}"), ("authorization", "Basic YTpi")
    for headers in ([bearer, bearer], [basic, bearer], [bearer, basic]):
        for sent in (headers, [*headers, ("cookie", cookie)]):
            assert client.get("/any", headers=sent).status_code == 401
    for name in ("access_token", "api_key", "key", "token"):
        assert client.get("/any", params={name: key}).status_code == 401
        assert client.request("GET", "/any", data={name: key}).status_code == 401
    assert client.get("/any", headers=[bearer]).status_code == 200


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_api_06_a_program_that_is_not_signed_in_gets_401_in_json_with_a_challenge(
    framework: str, site: KeySite, engine: sa.Engine
) -> None:
    bearer: Any = AnyOf(CookieCarrier(), BearerCarrier())
    keys: ApiKeys[Any] = ApiKeys(engine, ApiKey)
    auths = {
        'Bearer realm="api_key"': site.auth,
        'Bearer realm="auth"': SessionAuth(secret_key=SECRET, users=site.users, backend="memory://", carrier=bearer),
        'Bearer realm="both"': SessionAuth(
            secret_key=SECRET,
            users=site.users,
            backend="memory://",
            carrier=bearer,
            session_key="both",
            extensions=[keys],
        ),
    }
    for challenge, auth in auths.items():
        client = FRAMEWORKS[framework](auth, sign_in_path="/login")
        for headers in ({}, {"accept": "application/json"}, {"authorization": "Basic YTpi"}):
            answer = client.get("/any", headers=headers)
            assert answer.status_code == 401
            assert answer.headers["content-type"].startswith("application/json")
            assert answer.headers["www-authenticate"].removesuffix(", APIKey") == challenge
            assert "location" not in answer.headers
        plain = client.get("http://testserver.local/any")
        assert plain.status_code == 401, "no silent redirect to https"
        person = client.get("/any", headers={"accept": "text/html"})
        assert (person.status_code, person.headers["location"]) == (303, "/login?next=/any")
        assert "www-authenticate" not in person.headers


@pytest.mark.parametrize("framework", [each for each in FRAMEWORKS if each != "fastapi"])
def test_api_06_without_tokens_there_is_no_challenge(framework: str, site: KeySite) -> None:
    """Programs have no credentials of their own then. FastAPI names the cookie's scheme."""
    auth: SessionAuth[Any, Any] = SessionAuth(secret_key=SECRET, users=site.users, backend="memory://")
    answer = FRAMEWORKS[framework](auth).get("/any")
    assert (answer.status_code, answer.headers.get("www-authenticate")) == (401, None)


def test_the_openapi_document_has_the_credentials_that_count(site: KeySite) -> None:
    client = FRAMEWORKS["fastapi"](site.auth)
    document = client.get("/openapi.json").json()
    cookie = site.auth.carrier.name
    assert document["components"]["securitySchemes"] == {
        cookie: {"type": "apiKey", "in": "cookie", "name": cookie},
        "api_key": {"type": "http", "scheme": "bearer", "bearerFormat": "powkey_<key>"},
    }
    shown = {path: [*each["get"]["security"]] for path, each in document["paths"].items()}
    assert shown["/any"] == [{cookie: []}, {"api_key": []}]
    assert shown["/session"] == [{cookie: []}]
    assert shown["/key"] == [{"api_key": []}]


def test_starlettes_requires_sees_the_scopes_of_the_request(site: KeySite) -> None:
    key, bare = site.a_key(scopes=["read"]), site.a_key()
    cookie = site.browser(signed_in=True).cookie_header() or ""

    @requires(["authenticated", "read"])
    async def read(request: Any) -> JSONResponse:
        return JSONResponse({"user": request.user.email, "scopes": request.auth.scopes})

    def client(backend: SessionAuthBackend) -> TestClient:
        middleware = [
            Middleware(asgi.SessionAuthMiddleware, auth=site.auth),
            Middleware(AuthenticationMiddleware, backend=backend),
        ]
        app = starlette.applications.Starlette(routes=[Route("/", read)], middleware=middleware)
        return TestClient(app, base_url=HTTPS)

    roles = SessionAuthBackend(scopes=lambda user: ["read", "admin"])
    for backend, of_session in ((SessionAuthBackend(), ["read", "write"]), (roles, ["read", "admin"])):
        get = client(backend).get
        with_key = get("/", headers={"authorization": f"Bearer {key}"}).json()
        assert with_key == {"user": ADA, "scopes": ["authenticated", "read"]}
        assert get("/", headers={"authorization": f"Bearer {bare}"}).status_code == 403
        assert get("/", headers={"cookie": cookie}).json()["scopes"] == ["authenticated", *of_session]


def test_the_row_of_a_request_with_a_key(site: KeySite) -> None:
    """``load_user`` and Flask's ``current_user`` give the owner's row, and none of a locked owner."""
    from sqlalchemy.orm import Session, scoped_session, sessionmaker

    from powauth.integrations.flask import current_user

    key = site.a_key()
    session = scoped_session(sessionmaker(site.engine))
    app = flask.Flask("rows")
    PowAuth(app, site.auth, session=session)

    @app.get("/")
    def view() -> dict[str, str]:
        assert isinstance(session(), Session)
        return {"rights": current_user.rights, "kind": current_user.__class__.__name__}

    client = httpx.Client(transport=httpx.WSGITransport(app), base_url=HTTPS)
    assert client.get("/", headers={"authorization": f"Bearer {key}"}).json() == {
        "rights": "read write",
        "kind": "Member",
    }
    session.remove()


def test_by_must_name_credentials_of_the_app(site: KeySite) -> None:
    for make in (Auth(site.auth).access, PowAuthPlugin(site.auth).require_access):
        with pytest.raises(ConfigError, match="by must be one of 'session', 'api_key', not 'cookie'"):
            make(by="cookie")


def test_a_guard_with_a_scope_needs_scopes(tmp_path: Path) -> None:
    with blocking_engine("sqlite", str(tmp_path), Member, ApiKey) as engine:
        _guard_without_scopes(KeySite("wsgi", engine, scopes=None))


def _guard_without_scopes(bare: KeySite) -> None:
    drive_in = bare.browser(signed_in=True)

    async def work(request: Any) -> object:
        assert request.bound.scopes is None
        with pytest.raises(ConfigError, match="needs an extension that knows the scopes"):
            require_access(request.bound, scope="read")
        return {}

    assert bare.do(drive_in, work).status == 200
