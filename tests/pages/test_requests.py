"""What the flows make of a request, in its corners."""

import asyncio
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import litestar
import pytest
from litestar.config.csrf import CSRFConfig

from harness.pages_support import EMAIL, HOST, MOUNTS, ORIGIN, PASSWORD, SyncASGI, User, site
from harness.support import SECRET, MemoryUsers
from powauth import SessionAuth
from powauth.errors import ConfigError
from powauth.integrations import wsgi
from powauth.integrations.asgi import SessionAuthMiddleware
from powauth.integrations.litestar import PowAuthPlugin
from powauth.pages import litestar as litestar_pages
from powauth.pages.asgi import PagesApp, full_path
from powauth.pages.wsgi import PagesApp as WSGIPages

ACCEPT = [
    ("", False),
    ("*/*", False),
    ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", False),
    ("application/json", True),
    ("Application/JSON; charset=utf-8", True),
    ("application/json, text/plain, */*", True),
    ("text/html, application/json", False),
    ("text/html;q=0.5, application/json;q=0.9", True),
    ("text/html, application/json;q=0.9", False),
    ("application/json;q=0", False),
    ("application/json;q=many", False),
    ("text/html;q=nan, application/json", True),
    ("application/*", False),
    (",;,", False),
]


@pytest.mark.parametrize(("accept", "is_program"), ACCEPT)
def test_who_asks_for_json_gets_it(accept: str, is_program: bool, tmp_path: Path) -> None:
    with site("wsgi", tmp_path) as here:
        answer = here.browser().client.get("/login", headers={"accept": accept})
        assert answer.headers["content-type"].startswith("application/json") is is_program


def test_a_query_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    with site("asgi", tmp_path) as here:
        browser = here.browser()
        for query in ("next=%ff", "next=/a&next=/b", "&".join(["next=/a"] + ["x=1"] * 200), "next", "="):
            page = browser.get(f"/login?{query}")
            assert page.status == 200
            assert not page.find("input", name="next")


def test_a_body_without_a_length_is_read_where_the_server_says_that_it_ends(tmp_path: Path) -> None:
    body = b'{"email": "mia@example.com", "password": "seven red herons"}'
    with site("wsgi", tmp_path) as here:
        app = wsgi.SessionAuthMiddleware(WSGIPages(here.auth), here.auth)
        environ: Any = {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": "/register",
            "HTTP_HOST": HOST,
            "CONTENT_TYPE": "application/json",
        }
        started: list[str] = []

        def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
            started.append(status)

        list(app({**environ, "wsgi.input": BytesIO(body)}, start_response))
        assert started.pop().startswith("422 ")
        list(app({**environ, "wsgi.input": BytesIO(body), "wsgi.input_terminated": True}, start_response))
        assert started.pop() == "201 Created"
        cut = {**environ, "wsgi.input": BytesIO(body[:20]), "CONTENT_LENGTH": str(len(body))}
        list(app(cut, start_response))
        assert started.pop() == "400 Bad Request"


A_FORM = b"email=mia%40example.com&password=seven+red+herons+and+more"
PART = A_FORM[:-9]


@pytest.mark.parametrize("announced", [True, False])
def test_a_form_of_which_only_a_part_arrives_changes_nothing(announced: bool, tmp_path: Path) -> None:
    headers = {"host": HOST, "content-type": "application/x-www-form-urlencoded", "sec-fetch-site": "same-origin"}
    if announced:
        headers["content-length"] = str(len(A_FORM))
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/register", "query_string": b"", "headers": raw}
    end = {"type": "http.request", "body": b""} if announced else {"type": "http.disconnect"}
    messages = [{"type": "http.request", "body": PART, "more_body": True}, end]
    statuses: list[int] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    with site("asgi", tmp_path) as here:
        app = SessionAuthMiddleware(PagesApp(here.auth), here.auth)
        asyncio.run(app({**scope}, receive, send))
        assert (statuses.pop(), here.emails) == (400, [])
        messages[:] = [{"type": "http.request", "body": A_FORM}]
        asyncio.run(app({**scope}, receive, send))
        assert (statuses.pop(), here.emails) == (303, [EMAIL])


def test_a_form_of_which_a_wsgi_server_reads_only_a_part_changes_nothing(tmp_path: Path) -> None:
    environ: Any = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": "/register",
        "HTTP_HOST": HOST,
        "HTTP_SEC_FETCH_SITE": "same-origin",
        "CONTENT_TYPE": "application/x-www-form-urlencoded",
        "CONTENT_LENGTH": str(len(A_FORM)),
    }
    statuses: list[str] = []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
        statuses.append(status)

    with site("wsgi", tmp_path) as here:
        app = wsgi.SessionAuthMiddleware(WSGIPages(here.auth), here.auth)
        list(app({**environ, "wsgi.input": BytesIO(PART)}, start_response))
        assert (statuses.pop(), here.emails) == ("400 Bad Request", [])
        list(app({**environ, "wsgi.input": BytesIO(A_FORM)}, start_response))
        assert (statuses.pop(), here.emails) == ("303 See Other", [EMAIL])


@pytest.mark.parametrize("framework", MOUNTS)
def test_an_account_that_must_be_activated_first(
    framework: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(User, "is_active", property(lambda user: False))
    with site(framework, tmp_path) as here:
        browser = here.browser()
        page = browser.follow(browser.send(browser.get("/register"), email=EMAIL, password=PASSWORD))
        assert "once it has been activated" in page.text
        assert browser.cookies == {}
        made = here.program().post("/register", json={"email": "bo@example.com", "password": PASSWORD})
        assert (made.status_code, made.json()) == (201, {"user": None, "session": None})
        assert here.emails == ["bo@example.com", EMAIL]


def test_who_registers_while_signed_in_keeps_the_account(tmp_path: Path) -> None:
    with site("asgi", tmp_path) as here:
        browser = here.browser()
        form = browser.get("/register")
        browser.register()
        assert browser.send(form, email="bo@example.com", password=PASSWORD).location == "/account"
        assert here.emails == [EMAIL]


def test_a_mistake_of_the_app_is_logged_and_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def misconfigured(*args: Any, **kwargs: Any) -> None:
        raise ConfigError("no such option")

    with site("asgi", tmp_path) as here:
        monkeypatch.setattr(type(here.users), "authenticate", misconfigured)
        page = here.browser().post("/login", {"email": EMAIL, "password": PASSWORD})
        assert (page.status, "no such option" in page.html) == (500, False)
        assert "no such option" in caplog.text
        assert PASSWORD not in caplog.text


def test_pages_without_the_middleware_refuse(tmp_path: Path) -> None:
    scope = {"type": "http", "method": "GET", "path": "/account", "query_string": b"", "headers": []}
    with site("asgi", tmp_path) as here:
        app: Any = PagesApp(here.auth)
        with pytest.raises(ConfigError, match="SessionAuthMiddleware"):
            asyncio.run(app(scope, None, None))


@pytest.mark.parametrize(
    ("path", "root", "full"),
    [
        ("/login", "", "/login"),
        ("/auth/login", "/auth", "/auth/login"),
        ("/login", "/auth", "/auth/login"),
        ("/auth/login", "/auth/", "/auth/login"),
        ("/authority/login", "/auth", "/auth/authority/login"),
        ("/auth", "/auth", "/auth"),
    ],
)
def test_the_whole_path_is_known_however_a_router_cut_it(path: str, root: str, full: str) -> None:
    assert full_path({"path": path, "root_path": root}) == full


def test_other_kinds_of_scopes_are_left_alone(tmp_path: Path) -> None:
    with site("asgi", tmp_path) as here:
        app = SessionAuthMiddleware(PagesApp(here.auth), here.auth)
        asyncio.run(app({"type": "something new"}, None, None))  # type: ignore[arg-type]


def test_the_pages_of_a_litestar_app_need_no_token_of_its_own_csrf_defence() -> None:
    auth = SessionAuth(secret_key=SECRET, users=MemoryUsers(), backend="memory://")
    app = litestar.Litestar(
        [litestar_pages.pages(auth)],
        plugins=[PowAuthPlugin(auth)],
        csrf_config=CSRFConfig(secret="a secret of Litestar's own defence"),
        openapi_config=None,
        logging_config=None,
    )
    client = httpx.Client(transport=SyncASGI(app), base_url=ORIGIN)
    refused = client.post("/login", json={"email": "mia@example.com", "password": "six red herons"})
    assert (refused.status_code, refused.json()) == (401, {"error": "invalid_credentials"})
