"""The programs of ``docs/spa.md`` in a real browser: pages of other origins and other sites call the API."""

import importlib
import json
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, sync_playwright
from scripts.page_images import ARGUMENTS, CHROMIUM
from scripts.page_programs import ROOT, read_page

from harness.live_servers import serving

if not CHROMIUM.exists():
    pytest.skip("Chromium is not installed: scripts/system_packages.sh", allow_module_level=True)

SPA = ROOT / "docs" / "spa.md"
(SCRIPT,) = re.findall(r"^```js\n(.*?)^```", SPA.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
API = "https://api.example.com"
PASSWORD = "nine grey herons wade"
FORM = f'<form method="post" action="{API}/logout"><button>Win a prize</button></form>'
OPTIONS = ["-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2", "-subj", "/CN=test"]

Opener = Callable[[str, str], Page]


class WithPages:
    """Serves a page at ``/page`` of every host, beside the API."""

    def __init__(self, api: Any) -> None:
        self.api = api

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != "/page":
            await self.api(scope, receive, send)
            return
        body = f"<script>let signIns = 0; function showSignIn() {{ signIns += 1; }}\n{SCRIPT}</script>{FORM}".encode()
        headers = [(b"content-type", b"text/html"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture
def open_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opener]:
    """Serves a program of the page on https for every host name, and opens a page of one of them."""
    page = read_page(SPA)
    page.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SECRET_KEY", secrets.token_urlsafe(48))
    command = ["openssl", "req", "-x509", *OPTIONS, "-keyout", "key.pem", "-out", "certificate.pem"]
    subprocess.run(command, check=True, capture_output=True)
    names = [program.name.removesuffix(".py") for program in page.programs]
    with ExitStack() as stack:
        yield lambda name, url: stack.enter_context(opened(name, url))
    for name in names:
        sys.modules.pop(name, None)


@contextmanager
def opened(name: str, url: str) -> Iterator[Page]:
    app = importlib.import_module(name).app
    tls = {"ssl_certfile": "certificate.pem", "ssl_keyfile": "key.pem", "lifespan": "on"}
    with serving(WithPages(app), "asgi", **tls) as (host, port), sync_playwright() as driver:
        arguments = [*ARGUMENTS, f"--host-resolver-rules=MAP *:443 {host}:{port}", "--test-third-party-cookie-phaseout"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_context(ignore_https_errors=True).new_page()
        page.goto(f"{url}/page")
        yield page
        browser.close()


def call(page: Page, method: str, path: str, params: object = None) -> Any:
    """Call the API with the script of the page. Return the result, or the message of the error."""
    given = "undefined" if params is None else json.dumps(params)
    return page.evaluate(f"call({method!r}, {path!r}, {given}).catch(error => error.message)")


def is_signed_in(page: Page) -> bool:
    return isinstance(call(page, "GET", "/me"), dict)


@pytest.mark.filterwarnings("ignore:same_site='None'")
@pytest.mark.parametrize(
    ("program", "own"), [("same_site", "https://app.example.com"), ("other_site", "https://shop.example.net")]
)
def test_a_page_of_an_allowed_origin_signs_in_and_out(open_page: Opener, program: str, own: str) -> None:
    who = {"email": "mia@example.org", "password": PASSWORD}
    page = open_page(program, own)
    assert call(page, "GET", "/me") == "GET /me: 401", "the page can read the answer"
    assert page.evaluate("signIns") == 1
    assert call(page, "POST", "/register", who)["email"] == who["email"]
    assert is_signed_in(page)
    assert page.evaluate("document.cookie") == ""
    assert call(page, "POST", "/register", {**who, "password": "short"}) == "POST /register: 422"
    assert call(page, "POST", "/logout") is None
    assert not is_signed_in(page)
    assert call(page, "POST", "/login", who)["email"] == who["email"]
    page.reload()
    assert is_signed_in(page)


def test_a_page_of_a_sibling_host_can_do_nothing(open_page: Opener) -> None:
    page = open_page("same_site", "https://app.example.com")
    call(page, "POST", "/register", {"email": "mia@example.org", "password": PASSWORD})
    page.goto("https://evil.example.com/page")
    assert call(page, "GET", "/me") == "Failed to fetch", "it cannot read the answer"
    assert call(page, "POST", "/logout") == "Failed to fetch"
    with page.expect_response(f"{API}/logout") as found:
        page.get_by_role("button").click()
    assert "__Host-auth=" in found.value.request.all_headers()["cookie"], "the browser sent the user's cookie"
    assert found.value.status == 403
    page.goto("https://app.example.com/page")
    assert is_signed_in(page)


@pytest.mark.filterwarnings("ignore:same_site='None'")
def test_a_partitioned_cookie_is_for_one_site(open_page: Opener) -> None:
    page = open_page("other_site", "https://shop.example.net")
    call(page, "POST", "/register", {"email": "mia@example.org", "password": PASSWORD})
    assert is_signed_in(page)
    page.goto(f"{API}/page")
    assert not is_signed_in(page), "the user is not signed in below another site"
    page.goto("https://evil.example.org/page")
    with page.expect_response(f"{API}/logout") as found:
        page.get_by_role("button").click()
    assert found.value.status == 403
    page.goto("https://shop.example.net/page")
    assert is_signed_in(page)
