"""An app below a prefix sends people to its own sign-in page, and back, whoever has taken the prefix off."""

import warnings
from typing import Annotated, Any

import flask
import litestar
import pytest
import starlette
from fastapi import Depends, FastAPI
from hypothesis import given
from hypothesis import strategies as st
from litestar.testing import TestClient as LitestarClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import Client

from harness.core_support import Site
from harness.live_servers import send_raw, serving
from harness.pages_support import EMAIL, PASSWORD
from harness.pages_support import site as pages_site
from harness.support import User
from powauth import SessionAuth
from powauth.backends.memory import MemoryBackend
from powauth.http.guards import require_user
from powauth.http.own_path import own_path, path_below
from powauth.integrations import wsgi
from powauth.integrations.asgi import SessionAuthMiddleware
from powauth.integrations.fastapi import Auth
from powauth.integrations.flask import PowAuth
from powauth.integrations.litestar import PowAuthPlugin
from powauth.integrations.litestar import require_user as litestar_guard
from powauth.integrations.starlette import request_auth
from powauth.pages import Routes

PAGE = {"accept": "text/html"}
OPTIONS: dict[str, Any] = {"sign_in_path": "/login"}
HTTPS = "https://app.example"


@pytest.fixture
def auth() -> SessionAuth[User, Any]:
    return Site(MemoryBackend()).auth


def asked(app: Any, path: str, root: str = "") -> str:
    """Where an ASGI app sends somebody who asks for a page."""
    client = TestClient(app, base_url=HTTPS, root_path=root, follow_redirects=False)
    response = client.get(path, headers=PAGE)
    assert response.status_code == 303, response.text
    location: str = response.headers["location"]
    return location


def wsgi_asked(app: Any, path: str, script_name: str = "", **headers: str) -> str:
    """Where a WSGI app sends somebody who asks for a page."""
    response = Client(app).get(path, headers={**PAGE, **headers}, environ_overrides={"SCRIPT_NAME": script_name})
    assert response.status_code == 303, response.text
    return response.headers["Location"]


# --- ASGI -----------------------------------------------------------------------------------------------------------


def fastapi_app(auth: SessionAuth[User, Any], **options: Any) -> FastAPI:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The `root_path`")  # of ``root_path`` as an option; servers have one
        app = FastAPI(**options)

    @app.get("/guard")
    async def guard(user: Annotated[User, Depends(Auth(auth).identity)]) -> str:
        return user.email

    @app.get("/handler")
    async def handler(request: Request) -> str:
        return str(require_user(request_auth(request)).email)

    return app


@pytest.mark.parametrize("page", ["guard", "handler"])
@pytest.mark.parametrize("how", ["option", "server"])
@pytest.mark.parametrize("stripped", [True, False])
def test_rep_46_fastapi_keeps_its_root_path(auth: SessionAuth[User, Any], how: str, page: str, stripped: bool) -> None:
    app = fastapi_app(auth, **({"root_path": "/api"} if how == "option" else {}))
    app.add_middleware(SessionAuthMiddleware, auth=auth, **OPTIONS)
    path = f"/{page}" if stripped else f"/api/{page}"
    root = "/api" if how == "server" else ""
    assert asked(app, f"{path}?a=b", root) == f"/api/login?next=/api/{page}%3Fa%3Db"


def test_rep_46_fastapi_keeps_its_root_path_also_from_a_middleware_around_it(auth: SessionAuth[User, Any]) -> None:
    app = SessionAuthMiddleware(fastapi_app(auth, root_path="/api"), auth, **OPTIONS)
    assert asked(app, "/guard") == "/api/login?next=/api/guard"
    assert asked(app, "/api/guard") == "/api/login?next=/api/guard"


def test_rep_46_a_sign_in_path_that_names_the_prefix_stays_as_it_is(auth: SessionAuth[User, Any]) -> None:
    app = fastapi_app(auth)
    app.add_middleware(SessionAuthMiddleware, auth=auth, sign_in_path="/api/login")
    assert asked(app, "/guard", "/api/") == "/api/login?next=/api/guard"
    assert asked(app, "/guard") == "/api/login?next=/guard"


@pytest.mark.parametrize("path", ["/login", "/api/login"])
def test_rep_46_the_sign_in_page_below_a_prefix_leads_nowhere_itself(auth: SessionAuth[User, Any], path: str) -> None:
    async def login(request: Request) -> Response:
        return PlainTextResponse(require_user(request_auth(request)).email)

    app = Starlette(routes=[Route("/login", login)])
    app.add_middleware(SessionAuthMiddleware, auth=auth, **OPTIONS)
    client = TestClient(app, base_url=HTTPS, root_path="/api", follow_redirects=False)
    assert client.get(path, headers=PAGE).status_code == 401


def test_rep_46_a_real_server_with_a_root_path(auth: SessionAuth[User, Any]) -> None:
    app = fastapi_app(auth)
    app.add_middleware(SessionAuthMiddleware, auth=auth, **OPTIONS)
    with serving(app, "asgi", root_path="/api") as address:
        response = send_raw(address, "GET", "/guard", ("Host", "app.example"), ("Accept", "text/html"))
    assert response.headers["location"] == "/api/login?next=/api/guard"


async def guarded(request: Request) -> Response:
    return PlainTextResponse(require_user(request_auth(request)).email)


@pytest.mark.parametrize("root", ["", "/api"])
def test_rep_46_a_mount_inside_of_the_middleware_moves_the_page_and_not_the_sign_in(
    auth: SessionAuth[User, Any], root: str
) -> None:
    inner = [Mount("/deep", routes=[Route("/guard", guarded)])]
    app = Starlette(routes=[Route("/guard", guarded), Mount("/sub", routes=inner), Mount("/fast", fastapi_app(auth))])
    app.add_middleware(SessionAuthMiddleware, auth=auth, **OPTIONS)
    for path in ("/guard", "/sub/deep/guard", "/fast/guard", "/fast/handler"):
        assert asked(app, root + path, root) == f"{root}/login?next={root}{path}"


@pytest.mark.parametrize("root", ["", "/api"])
def test_rep_46_a_mount_outside_of_the_middleware_moves_both(auth: SessionAuth[User, Any], root: str) -> None:
    fast = fastapi_app(auth)
    plain = Starlette(routes=[Mount("/deep", routes=[Route("/guard", guarded)])])
    for app in (fast, plain):
        app.add_middleware(SessionAuthMiddleware, auth=auth, **OPTIONS)
    outer = Starlette(routes=[Mount("/sub", fast), Mount("/plain", plain)])
    assert asked(outer, f"{root}/sub/guard", root) == f"{root}/sub/login?next={root}/sub/guard"
    assert asked(outer, f"{root}/plain/deep/guard", root) == f"{root}/plain/login?next={root}/plain/deep/guard"


@litestar.get("/guard", guards=[litestar_guard])
async def litestar_page() -> str:
    return "page"


def litestar_asked(app: litestar.Litestar, path: str, root: str = "") -> str:
    with LitestarClient(app, base_url=HTTPS, root_path=root) as client:
        return client.get(path, headers=PAGE, follow_redirects=False).headers["location"]


def test_rep_46_litestar_keeps_its_path_and_the_servers(auth: SessionAuth[User, Any]) -> None:
    def make(path: str = "", **options: Any) -> litestar.Litestar:
        plugin = PowAuthPlugin(auth, **OPTIONS | options)
        return litestar.Litestar([litestar_page], path=path, plugins=[plugin], openapi_config=None)

    assert litestar_asked(make(), "/guard") == "/login?next=/guard"
    for path in ("/shop", "shop"):
        assert litestar_asked(make(path), "/shop/guard") == "/shop/login?next=/shop/guard"
    assert litestar_asked(make("/shop", sign_in_path="/shop/login"), "/shop/guard") == "/shop/login?next=/shop/guard"
    assert litestar_asked(make("/{tenant:str}"), "/x/guard") == "/login?next=/x/guard"
    assert litestar_asked(make(), "/guard", "/api") == "/api/login?next=/api/guard"
    assert litestar_asked(make("/shop"), "/shop/guard", "/api") == "/api/shop/login?next=/api/shop/guard"


def test_rep_46_two_apps_with_one_litestar_plugin_have_their_own_paths(auth: SessionAuth[User, Any]) -> None:
    plugin = PowAuthPlugin(auth, **OPTIONS)
    paths = ("/one", "/two", "")
    apps = [litestar.Litestar([litestar_page], path=path, plugins=[plugin], openapi_config=None) for path in paths]
    for path, app in zip(paths, apps, strict=True):
        assert litestar_asked(app, f"{path}/guard") == f"{path}/login?next={path}/guard"


# --- WSGI -----------------------------------------------------------------------------------------------------------


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    user = require_user(wsgi.request_auth(environ))
    start_response("200 OK", [])
    return [user.email.encode()]


@pytest.mark.parametrize("root", ["", "/api"])
def test_rep_46_wsgi_keeps_the_script_name(auth: SessionAuth[User, Any], root: str) -> None:
    app = wsgi.SessionAuthMiddleware(wsgi_app, auth, **OPTIONS)
    assert wsgi_asked(app, "/guard?a=b", root) == f"{root}/login?next={root}/guard%3Fa%3Db"
    inside: Any = wsgi.SessionAuthMiddleware(DispatcherMiddleware(wsgi_app, {"/sub": wsgi_app}), auth, **OPTIONS)
    assert wsgi_asked(inside, "/sub/guard", root) == f"{root}/login?next={root}/sub/guard"
    outside = DispatcherMiddleware(wsgi_app, {"/sub": app})
    assert wsgi_asked(outside, "/sub/guard", root) == f"{root}/sub/login?next={root}/sub/guard"


def flask_app(auth: SessionAuth[User, Any]) -> flask.Flask:
    app = flask.Flask(__name__)
    extension = PowAuth(app, auth, **OPTIONS)
    blueprint = flask.Blueprint("shop", __name__, url_prefix="/shop")

    @app.get("/guard")
    @blueprint.get("/guard")
    @extension.login_required
    def guard() -> str:
        return "page"

    app.register_blueprint(blueprint)
    return app


@pytest.mark.parametrize("root", ["", "/api"])
def test_rep_46_flask_keeps_the_script_name(auth: SessionAuth[User, Any], root: str) -> None:
    app = flask_app(auth)
    assert wsgi_asked(app, "/guard", root) == f"{root}/login?next={root}/guard"
    assert wsgi_asked(app, "/shop/guard", root) == f"{root}/login?next={root}/shop/guard"
    outside = DispatcherMiddleware(wsgi_app, {"/sub": app})
    assert wsgi_asked(outside, "/sub/guard", root) == f"{root}/sub/login?next={root}/sub/guard"


def test_rep_46_a_prefix_that_a_trusted_proxy_sends_counts(auth: SessionAuth[User, Any]) -> None:
    for app in (flask_app(auth), wsgi.SessionAuthMiddleware(wsgi_app, auth, **OPTIONS)):
        behind: Any = ProxyFix(app, x_prefix=1)
        assert wsgi_asked(behind, "/guard", X_Forwarded_Prefix="/api") == "/api/login?next=/api/guard"


# --- the pages ------------------------------------------------------------------------------------------------------


def _below_on_asgi(app: Any) -> Any:
    async def outer(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "root_path": "/api"}, receive, send)

    return outer


@pytest.mark.parametrize("framework", ["asgi", "starlette", "fastapi", "wsgi", "flask"])
def test_rep_46_where_the_pages_lead_is_below_the_prefix(framework: str, tmp_path: Any) -> None:
    routes = Routes(after_login="/dashboard", after_register="/welcome", after_logout="/bye")
    with pages_site(framework, tmp_path, routes=routes) as site:
        transport: Any = site.transport
        if framework in ("wsgi", "flask"):
            transport.script_name = "/api"
        else:
            transport.inner.app = _below_on_asgi(transport.inner.app)
        browser = site.browser()
        form = {"email": EMAIL, "password": PASSWORD}
        assert browser.get("/account").location == "/api/login?next=/api/account"
        assert browser.post("/register", form).location == "/api/welcome"
        assert browser.post("/logout", {}).location == "/api/bye"
        assert browser.post("/login", form).location == "/api/dashboard"
        assert browser.post("/logout", {}).location == "/api/bye"
        assert browser.post("/login", {**form, "next": "/api/account"}).location == "/api/account"


# --- no way to another origin -----------------------------------------------------------------------------------------

EVIL = [
    "//evil.example",
    "///evil.example",
    "/\\evil.example",
    "https://evil.example",
    "evil.example",
    "/\t/evil",
    "/a\r\nb: c",
]


@pytest.mark.parametrize("root", EVIL)
def test_rep_46_no_prefix_leads_to_another_origin(auth: SessionAuth[User, Any], root: str) -> None:
    if "\\" in root and tuple(map(int, starlette.__version__.split(".")[:2])) < (0, 41):
        pytest.skip("this release of Starlette takes the prefix for a regular expression")
    app = fastapi_app(auth)
    app.add_middleware(SessionAuthMiddleware, auth=auth, **OPTIONS)
    found = [
        asked(app, "/guard", root),
        wsgi_asked(flask_app(auth), "/guard", root),
        wsgi_asked(wsgi.SessionAuthMiddleware(wsgi_app, auth, **OPTIONS), "/guard", root),
    ]
    for location in found:
        assert own_path(location) == location
        assert location.partition("?")[0].endswith("/login")


def test_rep_46_a_prefix_of_a_client_leads_to_no_other_origin(auth: SessionAuth[User, Any]) -> None:
    behind: Any = ProxyFix(flask_app(auth), x_prefix=1)
    assert wsgi_asked(behind, "/guard", X_Forwarded_Prefix="//evil.example") == "/login"
    assert wsgi_asked(behind, "/guard", X_Forwarded_Prefix="https://evil.example") == "/login"


@given(st.text(max_size=30), st.sampled_from(["/login", "/", "/a/b?c=d"]))
def test_rep_46_whatever_the_prefix_the_path_is_of_this_origin(prefix: str, path: str) -> None:
    joined = path_below(prefix, path)
    assert own_path(joined) == joined
    assert joined.endswith(path)


@given(st.from_regex(r"(/[a-z]{1,4}){1,3}", fullmatch=True), st.from_regex(r"(/[a-z]{1,4}){1,3}", fullmatch=True))
def test_rep_46_a_prefix_is_put_before_a_path_once(prefix: str, path: str) -> None:
    joined = path_below(prefix, path)
    assert joined in (path, prefix + path)
    assert path_below(prefix, joined) == joined
    assert path_below(f"{prefix}/", path) == joined
