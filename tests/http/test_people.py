"""What people are told when a request is refused, under every framework."""

from collections.abc import Callable
from datetime import timedelta
from html.parser import HTMLParser
from traceback import format_exception
from typing import Annotated, Any

import flask
import pytest
from fastapi import APIRouter, Depends, FastAPI
from litestar import Litestar, get, post
from litestar.testing import TestClient as LitestarClient
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from werkzeug.test import Client

from harness.support import SECRET, FakeConnection, MemoryUsers
from powauth import ConfigError, SessionAuth
from powauth.errors import (
    AlreadySignedIn,
    CrossSiteRequest,
    InvalidParams,
    MoreNeeded,
    NotFresh,
    NotSignedIn,
    Overloaded,
    PowauthError,
    Refused,
    StoreUnavailable,
    Throttled,
)
from powauth.http.answers import Answers, answer_to
from powauth.http.own_path import own_path
from powauth.http.people import for_people
from powauth.integrations import asgi, wsgi
from powauth.integrations.asgi import SessionAuthMiddleware
from powauth.integrations.fastapi import Auth
from powauth.integrations.flask import PowAuth, login_required
from powauth.integrations.litestar import PowAuthPlugin, require_user

PAGE = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
PROGRAM = {"accept": "application/json"}
SHOP = "https://shop.example"
THROTTLED = Throttled(scope="account", retry_after=timedelta(minutes=14))
OUTAGE = StoreUnavailable("down")


class Page(HTMLParser):
    """The tags, the language, and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.lang: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "html":
            self.lang = dict(attrs)["lang"]


def new_auth(**options: Any) -> SessionAuth[Any, Any]:
    users = MemoryUsers()
    users.add("ada@example.org")
    chosen: dict[str, Any] = {"secret_key": SECRET, "users": users, "backend": "memory://"}
    return SessionAuth(**chosen | options)


def shown(error: PowauthError, sign_in_path: str | None = None, **headers: str) -> tuple[int, dict[str, str], str]:
    class Sent(FakeConnection):
        def method(self) -> str:
            return "PUT"

    fields: dict[str, Any] = {"accept": "text/html"} | headers
    answer = Answers(None, sign_in_path)(error, Sent(**fields))
    assert answer is not None
    return answer.status, dict(answer.fields), answer.body.decode()


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (NotSignedIn("x"), 401, "people who are signed in"),
        (NotFresh("x"), 403, "sign in again"),
        (MoreNeeded(["totp"]), 401, "second confirmation"),
        (AlreadySignedIn("x"), 403, "signed in already"),
        (Refused("Only <b>editors</b>"), 403, "Only &lt;b&gt;editors&lt;/b&gt;"),
        (Refused(), 403, "You may not do this."),
        (CrossSiteRequest("x"), 403, "own pages"),
        (
            InvalidParams({"name": ["is <odd>"], "base": ["No."]}),
            422,
            "<p>Name: is &lt;odd&gt;</p><p>No.</p>",
        ),
        (THROTTLED, 429, "Try again in 14 minutes."),
        (Throttled(scope="account", retry_after=timedelta(seconds=1)), 429, "Try again in 2 seconds."),
        (Throttled(scope="account", retry_after=timedelta(hours=3)), 429, "Try again in 3 hours."),
        (StoreUnavailable("secret://engine"), 503, "You are not signed out"),
        (Overloaded("busy", retry_after=timedelta(seconds=7)), 503, "Too much is going on"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, PowauthError) else None,
)
def test_rep_33_c_a_person_gets_a_page_that_says_what_to_do(error: PowauthError, status: int, words: str) -> None:
    found, headers, text = shown(error)
    assert (found, headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert words in text
    assert "secret://" not in text
    page = Page(text)
    assert page.lang == "en"
    assert [page.tags.count(tag) for tag in ("title", "h1", "main", "script", "a")] == [1, 1, 1, 0, 0]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    assert int(headers["content-length"]) == len(text.encode())
    program = answer_to(error)
    assert program is not None
    assert dict(program.fields).get("retry-after") == headers.get("retry-after")


def test_the_page_links_to_the_sign_in_page_where_signing_in_helps() -> None:
    assert '<a href="/login">' in shown(NotSignedIn("x"), "/login")[2]
    assert "<a " not in shown(THROTTLED, "/login")[2]


def test_a_mistake_in_the_app_gets_no_page() -> None:
    assert Answers()(ConfigError("x"), FakeConnection(accept="text/html")) is None


@pytest.mark.parametrize(
    ("headers", "person"),
    [
        ({"accept": "text/html"}, True),
        ({"accept": "text/html;q=0.9,application/json;q=0.8"}, True),
        ({"accept": "text/html;q=nonsense"}, False),
        ({"accept": "application/json, text/html"}, False),
        ({"accept": "*/*"}, False),
        ({}, False),
        ({"accept": "text/html", "content_type": "application/json"}, False),
        ({"accept": "text/html", "x_requested_with": "XMLHttpRequest"}, False),
    ],
    ids=str,
)
def test_a_person_is_who_accepts_pages_and_wants_no_json(headers: dict[str, Any], person: bool) -> None:
    assert for_people(FakeConnection(**headers)) is person


def test_an_app_can_give_json_to_everybody() -> None:
    answers = Answers(lambda error, connection: answer_to(error))
    assert answers(NotSignedIn("x"), FakeConnection(accept="text/html")) == answer_to(NotSignedIn("x"))


# --- every framework ------------------------------------------------------------------------------------------------


def of_asgi(auth: SessionAuth[Any, Any], **options: Any) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        _do(scope["path"], lambda: asgi.request_auth(scope).require_user())
        raise AssertionError

    return TestClient(SessionAuthMiddleware(app, auth, **options), SHOP, follow_redirects=False)


def of_starlette(auth: SessionAuth[Any, Any], **options: Any) -> Any:
    async def serve(request: Request) -> PlainTextResponse:
        _do(request.url.path, lambda: asgi.request_auth(request.scope).require_user())
        raise AssertionError

    async def login(request: Request) -> PlainTextResponse:
        return PlainTextResponse("sign in")

    middleware = [Middleware(SessionAuthMiddleware, auth=auth, **options)]
    routes = [
        Mount("/auth", routes=[Route("/login", login, name="login")], name="auth"),
        Route("/{name}", serve, methods=["GET", "POST"]),
    ]
    return TestClient(Starlette(routes=routes, middleware=middleware), SHOP, follow_redirects=False)


def of_fastapi(auth: SessionAuth[Any, Any], **options: Any) -> Any:
    app = FastAPI()
    app.add_middleware(SessionAuthMiddleware, auth=auth, **options)
    router = APIRouter(prefix="/auth")

    @router.get("/login", name="auth:login")
    async def login() -> str:
        return "sign in"

    @app.api_route("/user", methods=["GET", "POST"])
    async def user(me: Annotated[Any, Depends(Auth(auth).identity)]) -> str:
        raise AssertionError(me)

    @app.get("/throttled")
    async def throttled() -> str:
        raise THROTTLED

    @app.get("/outage")
    async def outage() -> str:
        raise OUTAGE

    app.include_router(router)
    return TestClient(app, SHOP, follow_redirects=False)


def of_litestar(auth: SessionAuth[Any, Any], **options: Any) -> Any:
    @get("/user", guards=[require_user])
    async def user() -> str:
        raise AssertionError

    @post("/user", guards=[require_user])
    async def change() -> str:
        raise AssertionError

    @get("/throttled")
    async def throttled() -> str:
        raise THROTTLED

    @get("/outage")
    async def outage() -> str:
        raise OUTAGE

    @get("/auth/login", name="auth:login")
    async def login() -> str:
        return "sign in"

    app = Litestar([user, change, throttled, outage, login], plugins=[PowAuthPlugin(auth, **options)])
    client: Any = LitestarClient(app, SHOP)
    client.follow_redirects = False
    return client


def of_flask(auth: SessionAuth[Any, Any], **options: Any) -> Any:
    return FlaskClient(flask_app(auth, **options))


def flask_app(auth: SessionAuth[Any, Any], **options: Any) -> flask.Flask:
    app = flask.Flask("shop")
    app.testing = True
    PowAuth(app, auth, **options)
    blueprint = flask.Blueprint("auth", "auth", url_prefix="/auth")

    @blueprint.get("/login", endpoint="login")
    def login() -> str:
        return "|".join(map(str, flask.get_flashed_messages(category_filter=["warning"])))

    @app.route("/user", methods=["GET", "POST"])
    @login_required
    def user() -> str:
        raise AssertionError

    @app.get("/throttled")
    def throttled() -> str:
        raise THROTTLED

    @app.get("/outage")
    def outage() -> str:
        raise OUTAGE

    app.register_blueprint(blueprint)
    return app


def of_wsgi(auth: SessionAuth[Any, Any], **options: Any) -> Any:
    def app(environ: Any, start_response: Any) -> Any:
        _do(environ["PATH_INFO"], lambda: wsgi.request_auth(environ).require_user())
        raise AssertionError

    return FlaskClient(wsgi.SessionAuthMiddleware(app, auth, **options))


class FlaskClient:
    """Werkzeug's client with the signatures of httpx."""

    def __init__(self, app: Any) -> None:
        self._client = Client(app)

    def get(self, path: str, headers: dict[str, str]) -> Any:
        return self._client.get(path, base_url=SHOP, headers=headers)

    def post(self, path: str, headers: dict[str, str]) -> Any:
        return self._client.post(path, base_url=SHOP, headers=headers)


def _do(path: str, guard: Callable[[], object]) -> None:
    if path.endswith("/throttled"):
        raise THROTTLED
    if path.endswith("/outage"):
        raise OUTAGE
    guard()


EVERY = [of_asgi, of_starlette, of_fastapi, of_litestar, of_flask, of_wsgi]


@pytest.mark.parametrize("client_of", EVERY)
def test_rep_33_c_under_every_framework(client_of: Callable[..., Any]) -> None:
    client = client_of(new_auth())
    page = client.get("/user", headers=PAGE)
    assert (page.status_code, page.headers["content-type"]) == (401, "text/html; charset=utf-8")
    assert "<h1>Sign in first</h1>" in page.text
    throttled = client.get("/throttled", headers=PAGE)
    assert (throttled.status_code, throttled.headers["retry-after"]) == (429, "840")
    assert "Try again in 14 minutes." in throttled.text
    assert '{"error":"throttled"}' in client.get("/throttled", headers=PROGRAM).text.replace(" ", "")
    outage = client.get("/outage", headers=PAGE)
    assert (outage.status_code, outage.headers["retry-after"]) == (503, "5")
    assert "You are not signed out" in outage.text


@pytest.mark.parametrize("client_of", EVERY)
def test_rep_33_c_a_refused_form_leads_to_the_sign_in_page(client_of: Callable[..., Any]) -> None:
    client = client_of(new_auth(), sign_in_path="/auth/login")
    form = PAGE | {"referer": f"{SHOP}/posts/3"}
    sent = client.post("/user", headers=form)
    assert (sent.status_code, sent.headers["location"]) == (303, "/auth/login?next=/posts/3")
    assert client.post("/user", headers=PROGRAM).status_code == 401


# --- the name of the sign-in page's route ----------------------------------------------------------------------------

NAMED = [
    (of_starlette, "auth:login"),
    (of_fastapi, "auth:login"),
    (of_litestar, "auth:login"),
    (of_flask, "auth.login"),
]


@pytest.mark.parametrize(("client_of", "name"), NAMED)
def test_the_sign_in_page_is_a_route_by_its_name(client_of: Callable[..., Any], name: str) -> None:
    client = client_of(new_auth(), sign_in_endpoint=name)
    assert client.get("/user", headers=PAGE).headers["location"] == "/auth/login?next=/user"


PREFIXES = {
    "/shop": "/shop/auth/login?next=/shop/user",
    "/über": "/%C3%BCber/auth/login?next=/%25C3%25BCber/user",
    "/a b": "/a%20b/auth/login?next=/a%2520b/user",
    "/a?b=": "/a%3Fb%3D/auth/login?next=/a%253Fb%253D/user",
    "//evil.example": "/auth/login",
    "evil.example": "/auth/login",
    "/x\r\nset: a": "/x%0D%0Aset%3A%20a/auth/login?next=/x%250D%250Aset%253A%2520a/user",
}


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("options", [{"sign_in_endpoint": "auth.login"}, {"sign_in_path": "/auth/login"}], ids=str)
def test_the_sign_in_page_is_below_the_prefix_of_a_flask_app_whatever_a_proxy_says(
    prefix: str, options: dict[str, str]
) -> None:
    """A proxy may pass on a prefix that a client has sent."""
    client = Client(flask_app(new_auth(), **options))
    script_name = prefix.encode().decode("latin-1")  # PEP 3333
    response = client.get("/user", headers=PAGE, environ_overrides={"SCRIPT_NAME": script_name})
    assert (response.status_code, response.headers["location"]) == (303, PREFIXES[prefix])


@pytest.mark.parametrize("prefix", ["//evil.example", "/\\evil.example", "/x\r\nset-cookie: a=b"])
@pytest.mark.parametrize(("client_of", "name"), [each for each in NAMED if each[0] in (of_starlette, of_fastapi)])
def test_the_sign_in_page_is_on_this_origin_whatever_a_proxy_says(
    client_of: Callable[..., Any], name: str, prefix: str
) -> None:
    app = client_of(new_auth(), sign_in_endpoint=name).app
    client = TestClient(app, SHOP, root_path=prefix, follow_redirects=False)
    response = client.get("/user", headers=PAGE)
    location = response.headers["location"]
    assert (response.status_code, own_path(location)) == (303, location)


@pytest.mark.parametrize(("client_of", "name"), [each for each in NAMED if each[0] is not of_litestar])
def test_a_name_that_no_route_has_is_reported_at_the_first_request(client_of: Callable[..., Any], name: str) -> None:
    client = client_of(new_auth(), sign_in_endpoint=f"{name}s")
    with pytest.raises(ConfigError, match="no route has this"):
        client.get("/throttled", headers=PAGE)


def test_litestar_reports_it_when_the_app_starts() -> None:
    client = of_litestar(new_auth(), sign_in_endpoint="nowhere")
    with pytest.raises(BaseException) as raised, client:
        raise AssertionError
    assert "no handler has this name" in "".join(format_exception(raised.value))


@pytest.mark.parametrize("client_of", [of_asgi, *(client_of for client_of, _ in NAMED)])
def test_the_sign_in_page_has_one_name(client_of: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="not both"):
        client_of(new_auth(), sign_in_endpoint="x", sign_in_path="/x").get("/user", headers=PAGE)
    with pytest.raises(ConfigError, match="the name of a route"):
        client_of(new_auth(), sign_in_endpoint=7).get("/user", headers=PAGE)


def test_an_app_without_named_routes_takes_a_path() -> None:
    with pytest.raises(ConfigError, match="give sign_in_path instead"):
        of_asgi(new_auth(), sign_in_endpoint="login")
    with pytest.raises(ConfigError, match="give sign_in_path instead"):
        Answers(sign_in_endpoint="login")


def test_an_endpoint_whose_path_is_no_page_is_refused() -> None:
    answers = Answers(sign_in_endpoint="login", resolve=lambda name, connection: f"https://evil.example/{name}")
    with pytest.raises(ConfigError, match="no page of this origin"):
        answers(NotSignedIn("x"), FakeConnection(accept="text/html"))


# --- flash messages -------------------------------------------------------------------------------------------------


def test_rep_33_c_flask_flashes_a_message() -> None:
    app = flask_app(new_auth(), sign_in_endpoint="auth.login", flash="warning")
    app.secret_key = "a secret of flask's own, for its session"
    client = app.test_client()
    sent = client.post("/user", base_url=SHOP, headers=PAGE)
    assert sent.headers["Location"] == "/auth/login"
    told = client.get(sent.headers["Location"], base_url=SHOP)
    assert told.text == "This page is for people who are signed in."
    assert client.get("/auth/login", base_url=SHOP).text == ""
    client.get("/throttled", base_url=SHOP, headers=PAGE)
    assert client.get("/auth/login", base_url=SHOP).text == ""


@pytest.mark.parametrize(("secret", "category"), [(None, "warning"), ("a secret of flask's own", None)])
def test_flask_flashes_nothing_without_a_session_or_unless_told(secret: str | None, category: str | None) -> None:
    app = flask_app(new_auth(), sign_in_path="/auth/login", flash=category)
    app.secret_key = secret
    client = app.test_client()
    assert client.get("/user", base_url=SHOP, headers=PAGE).status_code == 303
    assert client.get("/auth/login", base_url=SHOP).text == ""


def test_flask_flashes_a_text_of_the_app_to_people_alone() -> None:
    def text(error: PowauthError) -> str:
        return f"{type(error).__name__}: bitte anmelden, {flask.request.path}"

    app = flask_app(new_auth(), sign_in_endpoint="auth.login", flash="warning", flash_text=text)
    app.secret_key = "a secret of flask's own, for its session"
    client = app.test_client()
    assert client.get("/user", base_url=SHOP, headers={"accept": "*/*"}).status_code == 401
    assert client.get("/auth/login", base_url=SHOP).text == ""
    assert client.get("/user", base_url=SHOP, headers=PAGE).status_code == 303
    assert client.get("/auth/login", base_url=SHOP).text == "NotSignedIn: bitte anmelden, /user"


@pytest.mark.parametrize(("given", "said"), [("Please sign in.", "a function of an error"), (str, "needs flash")])
def test_a_flash_text_is_a_function_beside_a_category(given: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        PowAuth(sign_in_path="/login", flash="info" if said != "needs flash" else None, flash_text=given)


def test_a_flash_category_is_a_text() -> None:
    with pytest.raises(ConfigError, match="flash"):
        PowAuth(flash="")


def test_fastapi_leaves_the_page_to_the_apps_own_handler() -> None:
    client = of_fastapi(new_auth())

    async def handler(request: Request, error: Exception) -> HTMLResponse:
        return HTMLResponse("our own page", 401)

    client.app.add_exception_handler(401, handler)
    assert client.get("/user", headers=PAGE).text == "our own page"
