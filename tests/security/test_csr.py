"""CSR-01 to CSR-06 over HTTP: the pages and their JSON twins, on every framework."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.pages_support import EMAIL, FORM, HOST, MOUNTS, ORIGIN, PASSWORD, Browser, Site, site
from powauth.http.cross_site import CrossSiteDefence

STRANGER = {"email": "eve@example.com", "password": "nine grey herons"}
CROSS_SITE = {"sec-fetch-site": "cross-site", "origin": "https://attacker.example"}
UNSAFE: list[tuple[str, dict[str, str]]] = [
    ("/register", STRANGER),
    ("/login", {"email": EMAIL, "password": PASSWORD}),
    ("/logout", {}),
    ("/account", {"action": "user_id", "email": "eve@example.com", "current_password": PASSWORD}),
    ("/account", {"action": "password", "password": "nine grey herons", "current_password": PASSWORD}),
    ("/account", {"action": "delete", "current_password": PASSWORD}),
    ("/account/sessions", {"action": "end_others"}),
    ("/account/sessions", {"action": "end", "id": "A" * 24}),
]


@pytest.fixture(params=MOUNTS)
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with site(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def browser(here: Site) -> Browser:
    """Signed in, and so is another of the same user."""
    signed_in, other = here.browser(), here.browser()
    signed_in.register()
    other.sign_in()
    return signed_in


def sessions(here: Site, browser: Browser) -> int:
    client = httpx.Client(transport=here.transport, base_url=ORIGIN, cookies=browser.client.cookies)
    found: list[Any] = client.get("/account/sessions", headers={"accept": "application/json"}).json()["sessions"]
    return len(found)


def refused(here: Site, browser: Browser, path: str, fields: dict[str, str], headers: dict[str, str]) -> httpx.Response:
    """Send a form, see it refused, and find everything as it was."""
    cookies = browser.cookies
    with here.backend.counting() as verbs:
        response = browser.client.post(path, data=fields, headers={"content-type": FORM, **headers})
    assert response.status_code == 403, (path, headers)
    assert verbs in ([], ["get"]), "the store was only asked who is signed in"
    assert (browser.cookies, "set-cookie" in response.headers) == (cookies, False)
    assert here.emails == [EMAIL]
    return response


def test_csr_01_what_does_not_say_where_it_comes_from_changes_nothing(here: Site, browser: Browser) -> None:
    cookie = "; ".join([f"{name}={value}" for name, value in browser.cookies.items()] + [f"origin={ORIGIN}"])
    for path, fields in UNSAFE:
        refused(here, browser, path, fields, {})
        page = refused(here, browser, path, fields, CROSS_SITE)
        assert "not come from this site" in page.text
        # A word in the query, in the body or in a cookie is nothing: only the browser's own headers count.
        written = {**fields, "csrf_token": "x", "origin": ORIGIN}
        refused(here, browser, f"{path}?csrf_token=x&origin={ORIGIN}", written, {})
        refused(here, browser, path, fields, {"x-csrf-token": "x", "x-requested-with": "XMLHttpRequest"})
        refused(here, browser, path, fields, {"cookie": cookie})
    assert sessions(here, browser) == 2


def test_csr_01_programs_are_refused_like_people(here: Site, browser: Browser) -> None:
    headers = {"accept": "application/json", **CROSS_SITE}
    for path, fields in UNSAFE:
        response = browser.client.post(path, json=fields, headers=headers)
        assert (response.status_code, response.json()) == (403, {"error": "cross_site_request"})
    assert (here.emails, sessions(here, browser)) == ([EMAIL], 2)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        CROSS_SITE,
        {"origin": "https://attacker.example"},
        {"origin": "null"},
        {"referer": "https://attacker.example/"},
        {"sec-fetch-site": "same-site", "origin": f"https://blog.{HOST}"},
    ],
)
def test_csr_02_no_other_site_signs_a_browser_in_or_registers_it(here: Site, headers: dict[str, str]) -> None:
    here.browser().register()
    victim = here.browser()
    for path, fields in (("/login", {"email": EMAIL, "password": PASSWORD}), ("/register", STRANGER)):
        refused(here, victim, path, fields, headers)
    assert victim.cookies == {}


def test_csr_03_there_is_nothing_to_fix_in_advance(here: Site) -> None:
    browser = here.browser()
    credentials = {"email": EMAIL, "password": PASSWORD}
    before = browser.get("/login")
    assert [field["name"] for field in before.find("input")] == ["email", "password"]
    browser.register()
    # What another site may not do before a sign-in it may not do after it, nor after the sign-out;
    refused(here, browser, "/logout", {}, CROSS_SITE)
    # and a page that was open across both still works, since it carries no token of a session that is no more.
    first = browser.cookies
    assert browser.send(before, **credentials).status == 303
    assert browser.cookies != first
    browser.post("/logout", {})
    refused(here, browser, "/login", credentials, CROSS_SITE)
    assert browser.send(before, **credentials).status == 303


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        f"https://{HOST}.attacker.tld",
        "https://attackerapp.example",
        f"https://{HOST}:8443",
        f"http://{HOST}",
        f"https://www.{HOST}",
        f"https://{HOST}@attacker.example",
    ],
)
def test_csr_04_origins_are_compared_whole(here: Site, browser: Browser, origin: str) -> None:
    refused(here, browser, "/logout", {}, {"origin": origin})
    refused(here, browser, "/logout", {}, {"referer": f"{origin}/page"})
    refused(here, browser, "/logout", {}, {"origin": origin, "referer": f"{ORIGIN}/page"})
    assert browser.is_signed_in()


@pytest.mark.parametrize("headers", [{"origin": ORIGIN}, {"referer": f"{ORIGIN}/account"}, {"origin": f"{ORIGIN}:443"}])
def test_csr_04_old_browsers_are_known_by_their_origin(here: Site, headers: dict[str, str]) -> None:
    browser = here.browser()
    browser.register()
    assert browser.client.post("/logout", headers={"content-type": FORM, **headers}).status_code == 303
    assert browser.cookies == {}


def test_csr_04_it_works_behind_a_tls_proxy(here: Site) -> None:
    # The proxy speaks plain http to the app, and passes the host on.
    behind = httpx.Client(transport=here.transport, base_url=f"http://{HOST}")
    headers = {"origin": ORIGIN, "accept": "text/html"}
    assert behind.post("/register", data=STRANGER, headers=headers).status_code == 303
    assert here.emails == [STRANGER["email"]]


@pytest.mark.parametrize("framework", MOUNTS)
def test_csr_04_an_origin_may_be_allowed(framework: str, tmp_path: Path) -> None:
    with site(framework, tmp_path, defence=CrossSiteDefence(["https://shop.example"])) as here:
        browser = here.browser()
        allowed = {"sec_fetch_site": "cross-site", "origin": "https://shop.example"}
        assert browser.post("/register", STRANGER, **allowed).status == 303
        assert browser.post("/logout", {}, **{**allowed, "origin": "http://shop.example"}).status == 403


TYPES = [
    "text/plain",
    "text/plain; x=application/json",
    FORM,
    "multipart/form-data; boundary=x",
    "application/json5",
    None,
]


@pytest.mark.parametrize(
    "content_type", [*TYPES, "application/json; charset=utf-16", "application/json;charset=latin-1"]
)
def test_csr_05_programs_send_json_and_nothing_else(here: Site, content_type: str | None) -> None:
    program = here.program(origin=ORIGIN)
    program.post("/register", json={"email": EMAIL, "password": PASSWORD})
    body = b'{"email": "eve@example.com", "password": "nine grey herons", "current_password": "seven red herons"}'
    headers = {} if content_type is None else {"content-type": content_type}
    before = dict(program.cookies)
    for path in ("/register", "/login", "/account", "/account/sessions"):
        response = program.post(path, content=body, headers=headers)
        assert (response.status_code, response.json()) == (415, {"error": "unsupported_media_type"})
    assert (dict(program.cookies), here.emails) == (before, [EMAIL])


@pytest.mark.parametrize(
    "content_type", ["text/plain", "multipart/form-data; boundary=x", f"{FORM}; charset=utf-16", None]
)
def test_csr_05_people_send_forms_and_nothing_else(here: Site, content_type: str | None) -> None:
    headers = {"origin": ORIGIN} | ({} if content_type is None else {"content-type": content_type})
    body = b"email=eve%40example.com&password=nine+grey+herons"
    response = here.browser().client.post("/register", content=body, headers=headers)
    assert (response.status_code, here.emails) == (415, [])


def test_csr_05_utf_8_may_be_named(here: Site) -> None:
    program = here.program()
    body = b'{"email": "mia@example.com", "password": "seven red herons"}'
    headers = {"content-type": 'Application/JSON; charset="UTF-8"'}
    assert program.post("/register", content=body, headers=headers).status_code == 201
    headers = {"content-type": f"{FORM};charset=utf-8", "origin": ORIGIN}
    body = b"email=mia%40example.com&password=seven+red+herons"
    assert here.browser().client.post("/login", content=body, headers=headers).status_code == 303


METHODS = {
    "/register": "GET, HEAD, POST",
    "/login": "GET, HEAD, POST",
    "/logout": "POST",
    "/account": "GET, HEAD, POST",
    "/account/sessions": "GET, HEAD, POST",
    "/powauth.css": "GET, HEAD",
}


def send(client: httpx.Client, method: str, path: str, **headers: str) -> httpx.Response:
    request = client.build_request(method, path, headers=headers)
    request.method = method  # the client would write it in upper case
    return client.send(request)


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "post", "get", "BREW"])
def test_csr_06_other_methods_are_405_and_say_which_there_are(here: Site, browser: Browser, method: str) -> None:
    for path, allowed in METHODS.items():
        response = send(browser.client, method, path, **{"sec-fetch-site": "same-origin"})
        assert (response.status_code, response.headers["allow"]) == (405, allowed), path
    assert (here.emails, sessions(here, browser)) == ([EMAIL], 2)


@pytest.mark.parametrize("override", ["DELETE", "PUT", "GET", "HEAD"])
def test_csr_06_no_method_is_overridden(here: Site, browser: Browser, override: str) -> None:
    headers = {"X-HTTP-Method-Override": override, "X-HTTP-Method": override, "X-Method-Override": override}
    hidden = {"_method": override}
    # A GET with "POST" written on it signs nobody out, and a POST with "GET" on it is checked as the POST that it is.
    written = dict.fromkeys(headers, "POST")
    assert browser.client.get("/logout?_method=POST", headers=written).status_code == 405
    refused(here, browser, "/logout", hidden, headers)
    same = {"sec-fetch-site": "same-origin", **headers}
    assert (
        browser.client.post(f"/account?_method={override}", data={**hidden, "action": "x"}, headers=same).status_code
        == 422
    )
    assert browser.is_signed_in()


def test_csr_06_head_runs_the_checks_of_get(here: Site, browser: Browser) -> None:
    assert send(browser.client, "HEAD", "/logout").status_code == 405
    assert send(browser.client, "HEAD", "/account").status_code == 200
    assert send(here.browser().client, "HEAD", "/account").status_code == 303
    assert send(here.program(), "HEAD", "/account").status_code == 401
