"""PGE-01 to PGE-09: what the pages reflect, redirect to, and withstand."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import httpx
import pytest

from harness.pages_support import EMAIL, FORM, HOST, MOUNTS, ORIGIN, PASSWORD, Browser, Page, Site, SyncASGI, site
from powauth import CookieCarrier
from powauth.errors import ConfigWarning, StoreUnavailable
from powauth.http.connection import Connection
from powauth.integrations import wsgi
from powauth.integrations.asgi import SessionAuthMiddleware
from powauth.pages import BasePages, Messages
from powauth.pages.asgi import PagesApp
from powauth.pages.request import MAX_BODY_BYTES
from powauth.pages.wsgi import PagesApp as WSGIPages


@pytest.fixture(params=MOUNTS)
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with site(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def browser(here: Site) -> Browser:
    signed_in = here.browser()
    signed_in.register()
    return signed_in


HOSTILE = [
    "https://evil.example",
    "http:evil.example",
    "//evil.example",
    "///evil.example",
    "////evil.example",
    "/\\evil.example",
    "\\/evil.example",
    "\\\\evil.example",
    "/\t/evil.example",
    "/\n/evil.example",
    "/\r\n/evil.example",
    "\t//evil.example",
    " //evil.example",
    "/ /evil.example",
    "/x\x00",
    "/x\x7f",
    "/x\x85",
    "javascript:alert(1)",
    "data:text/html,x",
    "evil.example",
    "@evil.example",
    "?next=//evil.example",
    "#//evil.example",
    "",
    "/" + "x" * 2048,
]
TAME = [
    "/",
    "/reports",
    "/reports?x=1&y=%2F#z",
    "/%2F%2Fevil.example",
    "/%5Cevil.example",
    "/?u=https://evil.example",
    "/é",
]


def leads_home(location: str) -> bool:
    """Whether a browser that follows it from a page of ours stays on our origin."""
    there = urlsplit(urljoin(f"{ORIGIN}/login", location))
    return (there.scheme, there.netloc) == ("https", HOST)


def test_pge_01_next_leads_to_the_own_origin_or_to_the_default(here: Site, browser: Browser) -> None:
    for target in HOSTILE:
        asked = browser.get(f"/login?next={quote(target)}")
        assert (asked.status, asked.location) == (303, "/account"), target
        done = browser.post("/login", {"email": EMAIL, "password": PASSWORD, "next": target})
        assert (done.status, done.location) == (303, "/account"), target
        page = here.browser().get(f"/register?next={quote(target)}")
        assert not page.find("input", name="next"), target
        assert "evil.example" not in page.html
    for target in TAME:
        page = browser.get(f"/login?next={quote(target)}")
        done = browser.send(page, email=EMAIL, password=PASSWORD)
        assert done.location == quote(target, safe="/?&=%#:"), target
        assert leads_home(str(done.location))


def test_pge_01_next_is_looked_at_again_when_it_is_used(browser: Browser) -> None:
    page = browser.get("/login?next=/reports")
    assert browser.send(page, email=EMAIL, password=PASSWORD, next="//evil.example").location == "/account"


def test_pge_01_neither_two_of_them_nor_the_referer_say_where_to_go(here: Site, browser: Browser) -> None:
    assert browser.get("/login?next=/a&next=/b").location == "/account"
    fields = {"email": EMAIL, "password": PASSWORD}
    assert browser.post("/login", fields, referer="https://evil.example/").location == "/account"
    assert browser.post("/login?next=/elsewhere", fields).location == "/account"
    sent = browser.client.post(
        "/login",
        content=b"email=mia%40example.com&password=seven+red+herons&next=/a&next=/b",
        headers={"content-type": FORM, "origin": ORIGIN},
    )
    assert sent.status_code == 400
    assert here.program().post("/login", json={**fields, "next": "//evil.example"}).status_code == 200


def test_pge_02_after_a_form_the_next_request_is_a_get_of_a_path(here: Site) -> None:
    browser = here.browser()
    forged = {"host": "evil.example", "origin": "https://evil.example", "x-forwarded-host": "evil.example"}
    answers = [
        browser.client.post("/register", data={"email": EMAIL, "password": PASSWORD}, headers=forged),
        browser.client.get("/login", headers=forged),
        browser.client.post("/account/sessions", data={"action": "end_others"}, headers=forged),
        browser.client.post("/logout", headers=forged),
        browser.client.get("/account", headers=forged),
    ]
    for answer in answers:
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/")
        assert "evil" not in str(answer.headers)
        assert answer.content == b""


def test_pge_02_nothing_that_is_sent_becomes_a_header(here: Site) -> None:
    browser = here.browser()
    split = "/x\r\nSet-Cookie: a=b\r\nX-Injected: yes"
    for name in ("next", "email", "done"):
        got = browser.get(f"/login?{name}={quote(split)}")
        posted = browser.post("/login", {"email": EMAIL, "password": PASSWORD, name: split})
        for page in (got, posted):
            assert page.header("x-injected") is None
            assert page.header("set-cookie") is None
    assert browser.post("/register", {"email": f"mia@example.com{split}", "password": PASSWORD}).status == 422


PRODUCT = "{{7777777*7777777}}"
"""Its result stands on no page by chance, as 49 may in a session's id."""

PAYLOADS = [
    '"><script>alert(1)</script>',
    "'onfocus=alert(1) autofocus='",
    PRODUCT,
    "{% include 'base.html' %}",
    "{0.__class__}",
    "{browser.__class__}",
    "%s%n%(name)s",
    "javascript:alert(1)",
    "</title><script>",
    "<!--",
    "&lt;b&gt;",
]


def is_text_only(page: Page, payload: str) -> bool:
    """Whether the payload made no tag, no attribute and no arithmetic."""
    attributes = {name for _, found in page.tags for name in found}
    evaluated = payload == PRODUCT and str(7_777_777**2) in page.html
    return not page.find("script") and not {"onfocus", "'onfocus"} & attributes and not evaluated


@pytest.mark.parametrize("payload", PAYLOADS)
def test_pge_03_what_is_reflected_is_text(here: Site, payload: str) -> None:
    browser = here.browser(**{"user-agent": payload})
    page = browser.post("/login", {"email": payload, "password": payload, "next": "/" + payload.replace(" ", "")})
    assert page.status == 401
    assert page.by_id("login-email")["value"] == payload
    assert is_text_only(page, payload)
    page = browser.post("/register", {"email": payload, "password": "short", payload: payload})
    assert page.by_id("register-email")["value"] == payload
    assert is_text_only(page, payload)
    for query in (f"next=/{quote(payload)}", f"done={quote(payload)}", f"{quote(payload)}=1"):
        assert is_text_only(browser.get(f"/login?{query}"), payload)
    assert is_text_only(browser.get(f"/{quote(payload)}"), payload)


@pytest.mark.parametrize("payload", PAYLOADS)
def test_pge_03_what_is_stored_is_text(here: Site, payload: str) -> None:
    browser, other = here.browser(), here.browser(**{"user-agent": payload})
    browser.register()
    other.sign_in()
    page = browser.get("/account/sessions")
    assert payload in page.text
    assert f"Sign out {payload}, signed in" in str([found.get("aria-label") for found in page.find("button")])
    assert is_text_only(page, payload)


def test_pge_03_the_apps_own_texts_are_escaped_too(tmp_path: Path) -> None:
    evil = '<script>"{{7*7}}'
    with site("wsgi", tmp_path, title=evil, messages=Messages(sign_in=evil, labels={"email": evil})) as here:
        page = here.browser().get("/login")
        assert is_text_only(page, evil)
        assert page.text.count(evil) == 5


WANTED = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'; object-src 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}


def test_pge_04_every_answer_has_the_headers(here: Site, browser: Browser) -> None:
    program, nobody = here.program(), here.browser()
    answers = [
        *[nobody.get(path).response for path in ("/login", "/register", "/account", "/logout")],
        *[browser.get(path).response for path in ("/account", "/account/sessions", "/login?next=/x")],
        nobody.post("/login", {"email": EMAIL, "password": "wrong"}).response,
        nobody.post("/register", {"email": "", "password": ""}).response,
        nobody.post("/register", {}, sec_fetch_site="cross-site").response,
        browser.send(browser.get("/account"), "delete", current_password="wrong").response,
        browser.post("/account/sessions", {"action": "end", "id": "A" * 24}).response,
        program.get("/account"),
        program.get("/login"),
        program.post("/login", json={}),
        program.post("/login", content=b"{", headers={"content-type": "application/json"}),
        program.post("/login", content=b"{", headers={"origin": ORIGIN}),
        browser.post("/logout", {}).response,
    ]
    statuses = set()
    for answer in answers:
        statuses.add(answer.status_code)
        assert WANTED.items() <= dict(answer.headers).items(), (answer.request.url, answer.headers)
        assert "accept" in answer.headers["vary"].lower()
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert statuses == {200, 303, 400, 401, 403, 404, 405, 415, 422}


def test_pge_04_password_fields_are_fit_for_managers(browser: Browser, here: Site) -> None:
    nobody = here.browser()
    for page, tokens in (
        (nobody.get("/login"), ["current-password"]),
        (nobody.get("/register"), ["new-password"]),
        (browser.get("/account"), ["current-password", "current-password", "new-password", "current-password"]),
    ):
        fields = page.find("input", type="password")
        assert [field["autocomplete"] for field in fields] == tokens
        for field in fields:
            assert "maxlength" not in field
            assert "value" not in field
            assert not [name for name in field if name.startswith("on")]
        assert page.find("input", autocomplete="username")
        assert "script" not in {tag for tag, _ in page.tags}


SECRETS = ("Traceback", "secret-dsn", "argon2", PASSWORD, "RuntimeError", "/src/")


def test_pge_05_a_failure_within_tells_nothing(here: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("postgresql://u:secret-dsn@db/x $argon2id$ " + str(args))

    logging.getLogger("powauth").setLevel(logging.CRITICAL)
    for name in ("authenticate", "create"):
        monkeypatch.setattr(type(here.users), name, broken)
    for path in ("/login", "/register"):
        page = here.browser().post(path, {"email": EMAIL, "password": PASSWORD})
        answer = here.program().post(path, json={"email": EMAIL, "password": PASSWORD})
        assert page.status == answer.status_code == 500
        assert answer.json() == {"error": "internal_error"}
        assert "Something went wrong" in page.text
        for each in (page.html, answer.text):
            assert not [secret for secret in SECRETS if secret in each]


def test_pge_05_an_outage_is_503_and_nobody_is_signed_out(here: Site, browser: Browser) -> None:
    before = browser.cookies
    here.backend.fail["*"] = StoreUnavailable("redis://:secret-dsn@db")
    for path in ("/account", "/account/sessions", "/login", "/register"):
        page = browser.get(path)
        assert page.status == 503
        assert page.header("retry-after")
        assert "not signed out" in page.text
        assert "secret-dsn" not in page.html
    signing_in = here.browser().post("/login", {"email": EMAIL, "password": PASSWORD})
    assert signing_in.status == 503
    program = here.program()
    program.cookies.update(before)
    answer = program.get("/account")
    assert (answer.status_code, answer.json()) == (503, {"error": "store_unavailable"})
    assert browser.cookies == before
    here.backend.fail.clear()
    assert browser.is_signed_in()


@pytest.mark.parametrize("framework", MOUNTS)
def test_pge_05_a_broken_template_tells_nothing(framework: str, tmp_path: Path) -> None:
    folder = tmp_path / "templates"
    folder.mkdir()
    (folder / "login.html").write_text("secret-dsn {{ nothing_of_this_name.at_all }}")
    (folder / "register.html").write_text("secret-dsn {% broken")
    with site(framework, tmp_path, templates=folder) as here:
        logging.getLogger("powauth").setLevel(logging.CRITICAL)
        for path in ("/login", "/register"):
            page = here.browser().get(path)
            assert page.status == 500
            assert "Something went wrong" in page.text
            assert not [secret for secret in (*SECRETS, "nothing_of") if secret in page.html]
    (folder / "failure.html").write_text("{% broken")
    with site(framework, tmp_path, templates=folder) as here:
        logging.getLogger("powauth").setLevel(logging.CRITICAL)
        page = here.browser().get("/login")
        assert (page.status, page.html) == (500, "Something went wrong.")
        assert page.header("cache-control") == "no-store"


def test_pge_06_what_is_too_much_is_refused(here: Site) -> None:
    browser, program = here.browser(), here.program()
    json_type, form_type = {"content-type": "application/json"}, {"content-type": FORM, "origin": ORIGIN}
    many = "&".join(f"f{number}=x" for number in range(100_000)).encode()
    cases = [
        (browser.client, b"email=" + b"x" * 10_000_000, form_type, 413),
        (browser.client, b"email=" + b"x" * MAX_BODY_BYTES, form_type, 413),
        (browser.client, many, form_type, 413),
        (browser.client, many[:60_000], form_type, 400),
        (browser.client, b"a=b", {"content-type": "multipart/form-data; boundary=x", "origin": ORIGIN}, 415),
        (browser.client, b"email=%ff&password=x", form_type, 400),
        (browser.client, b"email=\xff&password=x", form_type, 400),
        (browser.client, b"email=a&email=b", form_type, 400),
        (browser.client, b"email%5B%5D=a&email%5B%5D=b", form_type, 400),
        (browser.client, b"[" * 60_000 + b"=x", form_type, 401),
        (program, b"[" * 50_000, json_type, 400),
        (program, b'{"a":' * 10_000 + b"1" + b"}" * 10_000, json_type, 400),
        (program, b'{"a": "' + b"x" * MAX_BODY_BYTES + b'"}', json_type, 413),
        (program, b"{" + b",".join(b'"f%d": 1' % number for number in range(101)) + b"}", json_type, 400),
        (program, b'{"email": "a", "email": "b"}', json_type, 400),
        (program, b"[]", json_type, 400),
        (program, b"null", json_type, 400),
        (program, b"\xff\xfe", json_type, 400),
        (program, b"\xef\xbb\xbf{}", json_type, 400),
        (program, b'{"email": "\\ud800"}', json_type, 400),
        (program, b'{"\\udfff": 1}', json_type, 400),
        (program, b'{"email": NaN}', json_type, 400),
        (program, b'{"email": ' + b"9" * 60_000 + b"}", json_type, 400),
        (program, b'{"email": ["a"], "password": {"$ne": 1}}', json_type, 401),
        (program, b'{"email": "a\\u0000b", "password": true}', json_type, 401),
    ]
    for client, body, headers, status in cases:
        answer = client.post("/login", content=body, headers=headers)
        assert answer.status_code == status, (body[:40], answer.status_code)
    assert "too_large" in program.post("/login", content=b"x" * 70_000, headers=json_type).text


@pytest.mark.parametrize("length", ["-1", "1e3", " 12x", "9" * 5000])
def test_pge_06_a_length_that_is_none_is_refused(here: Site, length: str) -> None:
    headers = {"content-type": "application/json", "content-length": length}
    answer = here.program().post("/login", content=b"{}", headers=headers)
    assert answer.status_code in (400, 413)


def test_pge_06_a_body_is_read_no_further_than_the_limit(tmp_path: Path) -> None:
    part = b"x" * 10_000
    with site("asgi", tmp_path) as here:
        app = SessionAuthMiddleware(PagesApp(here.auth), here.auth)
        asked: list[int] = []
        sent: list[Any] = []

        async def receive() -> Any:
            asked.append(1)
            return {"type": "http.request", "body": part, "more_body": True}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"content-type", b"application/json"), (b"host", HOST.encode())]
        scope = {"type": "http", "method": "POST", "path": "/login", "query_string": b"", "headers": headers}
        asyncio.run(app(scope, receive, send))
        assert sent[0]["status"] == 413
        assert len(asked) == MAX_BODY_BYTES // len(part) + 1

        async def gone() -> Any:
            return {"type": "http.disconnect"}

        sent.clear()
        asyncio.run(app({**scope, "state": {}}, gone, send))
        assert sent[0]["status"] == 400


def test_pge_06_wsgi_reads_what_was_announced_and_no_more(tmp_path: Path) -> None:
    class Stream:
        """Would wait for ever after what was announced, as a socket does."""

        def __init__(self, body: bytes) -> None:
            self.body = body

        def read(self, size: int) -> bytes:
            assert size <= len(self.body), "read beyond the body"
            part, self.body = self.body[:size], self.body[size:]
            return part

    body = b'{"email": "a", "password": "b"}'
    with site("wsgi", tmp_path) as here:
        app = wsgi.SessionAuthMiddleware(WSGIPages(here.auth), here.auth)
        environ: Any = {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": "/login",
            "HTTP_HOST": HOST,
            "CONTENT_TYPE": "application/json",
            "CONTENT_LENGTH": str(len(body)),
            "wsgi.input": Stream(body),
        }
        started: list[str] = []

        def start_response(status: str, headers: Any, exc_info: Any = None) -> Any:
            started.append(status)

        assert list(app(environ, start_response))
        assert started == ["401 Unauthorized"]


def test_pge_07_without_confirmation_registering_tells_that_an_address_is_taken(here: Site, browser: Browser) -> None:
    # What docs/security.md says of it: only a mail can tell nobody but the owner.
    page = here.browser().post("/register", {"email": EMAIL, "password": PASSWORD})
    assert (page.status, "E-mail has already been taken." in page.text) == (422, True)
    assert here.emails == [EMAIL]


@pytest.mark.parametrize("path", ["/account", "/account/sessions"])
def test_pge_08_no_spelling_of_a_path_gets_around_the_sign_in(here: Site, browser: Browser, path: str) -> None:
    nobody = here.browser()
    spelled = [
        f"/{path}",
        f"{path}/",
        f"{path};a",
        f"{path};a=b",
        path.replace("account", "%61ccount"),
        path.replace("account", "ACCOUNT"),
        path.replace("account", "x/../account"),
        path.replace("account", "%2e/account"),
        path + "%00",
        path + "%20",
        path + "?",
        path + "#x",
    ]
    for each in spelled:
        url = ORIGIN + each
        for method in ("GET", "HEAD", "OPTIONS"):
            answer = nobody.client.request(method, url)
            assert answer.status_code in (303, 307, 308, 400, 404, 405), (each, method, answer.status_code)
            assert EMAIL not in answer.text
            if answer.status_code == 303:
                assert answer.headers["location"].startswith("/login?next=/account")
    assert browser.get(path).status == 200


def test_pge_08_a_mount_that_names_another_host_has_no_pages(tmp_path: Path) -> None:
    for mount in ("//evil.example", "/\\evil.example", "/a b"):
        with site("asgi", tmp_path) as here:
            pages = PagesApp(here.auth)

            async def app(scope: Any, receive: Any, send: Any, mount: str = mount, pages: Any = pages) -> None:
                await pages({**scope, "root_path": mount, "path": mount + scope["path"]}, receive, send)

            here.transport = SyncASGI(SessionAuthMiddleware(app, here.auth))
            page = here.browser().get("/login")
            assert page.status == (404 if mount.startswith("//") else 200)
            assert not [link for link in page.find("a") if str(link["href"]).startswith(("//", "/\\"))]


def test_pge_08_other_scopes_crash_nothing(tmp_path: Path) -> None:
    with site("asgi", tmp_path) as here:
        app = SessionAuthMiddleware(PagesApp(here.auth), here.auth)
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def run(scope: Any, *messages: str) -> list[str]:
            sent.clear()
            waiting = [{"type": message} for message in messages]

            async def receive() -> Any:
                return waiting.pop(0)

            await app(scope, receive, send)
            return [message["type"] for message in sent]

        websocket = {
            "type": "websocket",
            "path": "/account",
            "headers": [(b"origin", ORIGIN.encode()), (b"host", b"x")],
        }
        assert "websocket.accept" not in asyncio.run(run(websocket, "websocket.connect"))
        assert asyncio.run(run({"type": "lifespan"}, "lifespan.startup", "lifespan.shutdown")) == [
            "lifespan.startup.complete",
            "lifespan.shutdown.complete",
        ]


@pytest.mark.parametrize(
    "forged",
    [
        {},
        {"x-forwarded-proto": "https", "x-forwarded-host": HOST, "x-forwarded-for": "203.0.113.9"},
        {"forwarded": f"proto=https;host={HOST};for=203.0.113.9"},
    ],
)
def test_pge_09_on_plain_http_nobody_signs_in(here: Site, forged: dict[str, str]) -> None:
    # What a browser sends from a page on plain http: no Sec-Fetch-Site, and the page's origin.
    plain = httpx.Client(transport=here.transport, base_url=f"http://{HOST}", headers={"accept": "text/html", **forged})
    here.browser().register()
    fields = {"email": EMAIL, "password": PASSWORD}
    for headers in ({"origin": f"http://{HOST}"}, {"referer": f"http://{HOST}/login"}):
        answer = plain.post("/login", data=fields, headers=headers)
        assert (answer.status_code, "set-cookie" in answer.headers) == (403, False)
    program = plain.post("/login", json=fields)
    assert "; Secure" in program.headers["set-cookie"]
    sessions = here.browser()
    sessions.sign_in()
    assert "203.0.113.9" not in sessions.get("/account/sessions").text


def test_pge_09_in_development_mode_the_own_origin_is_on_http(tmp_path: Path) -> None:
    with pytest.warns(ConfigWarning, match="insecure_http"):
        carrier = CookieCarrier(insecure_http=True)
    with site("asgi", tmp_path, auth_options={"carrier": carrier}) as here:
        plain = httpx.Client(
            transport=here.transport, base_url="http://127.0.0.1:8000", headers={"accept": "text/html"}
        )
        fields = {"email": EMAIL, "password": PASSWORD}
        assert plain.post("/register", data=fields, headers={"origin": ORIGIN}).status_code == 403
        assert plain.post("/register", data=fields, headers={"origin": "http://127.0.0.1:8000"}).status_code == 303


def test_flows_alone_serve_programs_and_need_no_template_engine(tmp_path: Path) -> None:
    with site("wsgi", tmp_path, flows=BasePages) as here:
        browser = here.browser()
        assert browser.get("/powauth.css").status == 404
        assert browser.get("/account").response.json() == {"error": "not_signed_in"}
        assert here.program().post("/register", json={"email": EMAIL, "password": PASSWORD}).status_code == 201


def test_messages_may_depend_on_who_asks(tmp_path: Path) -> None:
    german = Messages(
        lang="de",
        sign_in="Anmelden",
        labels={"email": "E-Mail-Adresse", "password": "Passwort"},
        errors={"can't be blank": "darf nicht leer sein"},
    )

    def choose(connection: Connection) -> Messages:
        return german if (connection.header("accept-language") or "").startswith("de") else Messages()

    with site("asgi", tmp_path, messages=choose) as here:
        assert "Sign in" in here.browser().get("/login").text
        browser = here.browser(**{"accept-language": "de-AT"})
        assert browser.get("/login").find("html", lang="de")
        page = browser.send(browser.get("/register"), email="", password="")
        assert "Passwort darf nicht leer sein." in page.text
