"""Authenticator apps and recovery codes in a real browser, with scripts and without; axe looks at each page."""

import importlib.resources
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from scripts.page_images import ARGUMENTS, CHROMIUM, fill, press

from harness.authenticators import Authenticated, authenticated
from harness.https_server import HttpsServer
from harness.pages_support import EMAIL, ORIGIN, PASSWORD

if not CHROMIUM.exists():
    pytest.skip("Chromium is not installed: scripts/system_packages.sh", allow_module_level=True)

AXE = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
LOOKS = [(320, "light"), (1280, "dark")]
"""Widths of the window in pixels, each with a colour scheme (WCAG 2.2, 1.4.10)."""

PATIENCE_MS = 20_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpsServer]:
    running = HttpsServer(None, [ORIGIN.removeprefix("https://")], tmp_path_factory.mktemp("certificate"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def chromium(server: HttpsServer) -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, *server.arguments])
        yield browser
        browser.close()


@pytest.fixture
def required() -> bool:
    """Whether each user must have a factor."""
    return False


@pytest.fixture
def here(server: HttpsServer, tmp_path: Path, required: bool) -> Iterator[Authenticated]:
    with ThreadPoolExecutor(1) as away:  # Playwright runs an event loop in this thread
        made = authenticated("wsgi", tmp_path, required=required)
        site = away.submit(made.__enter__).result()
        away.submit(site.member).result()
        transport: Any = site.site.transport
        server.app = transport.app
        yield site
        away.submit(made.__exit__, None, None, None).result()


@pytest.fixture(params=[True, False], ids=["scripts", "no scripts"])
def scripts(request: pytest.FixtureRequest) -> bool:
    allowed: bool = request.param
    return allowed


@pytest.fixture
def page(scripts: bool, chromium: Browser, here: Authenticated) -> Iterator[Page]:
    context = chromium.new_context(java_script_enabled=scripts)
    context.set_default_timeout(PATIENCE_MS)
    said: list[str] = []
    context.on("console", lambda message: said.append(message.text))
    opened = context.new_page()
    yield opened
    context.close()
    assert [each for each in said if "Security Policy" in each] == []


@pytest.fixture
def look(scripts: bool) -> Callable[[Page], None]:
    """Lets axe look at a page. Without scripts it cannot."""
    return examined if scripts else lambda page: None


def examined(page: Page) -> None:
    page.evaluate(AXE)
    for width, scheme in LOOKS:
        page.set_viewport_size({"width": width, "height": 640})
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{page.url} is wider than {width}"
        found = page.evaluate("axe.run({resultTypes: ['violations'], preload: false})")
        assert [f"{each['id']}: {each['help']}" for each in found["violations"]] == [], page.url


def sign_in(page: Page) -> None:
    page.goto(f"{ORIGIN}/login")
    fill(page, "login", email=EMAIL, password=PASSWORD)


def secret_on(page: Page) -> str:
    expect(page.locator("svg")).to_be_visible()
    return str(page.locator("code").inner_text())


def test_a_user_sets_up_an_app_and_signs_in_with_it(
    page: Page, here: Authenticated, look: Callable[[Page], None]
) -> None:
    sign_in(page)
    page.get_by_role("link", name="Sign-in security").click()
    look(page)
    page.get_by_role("link", name="Set up an authenticator app").click()
    look(page)
    press(page, "Show the QR code")
    secret = secret_on(page)
    look(page)
    fill(page, "totp", code=here.code(secret), label="Mia's phone")
    expect(page.get_by_role("status")).to_contain_text("The second factor is on.")
    expect(page.get_by_role("heading", name="Mia's phone")).to_be_visible()
    look(page)
    page.get_by_role("link", name="Make recovery codes").click()
    look(page)
    press(page, "Make new codes")
    codes = page.locator("code").all_inner_texts()
    assert len(codes) == 10
    look(page)
    page.goto(f"{ORIGIN}/account")
    press(page, "Sign out")
    here.clock.now += 60
    sign_in(page)
    expect(page).to_have_url(f"{ORIGIN}/login/factor")
    look(page)
    fill(page, "factor-totp", code="000000")
    expect(page.get_by_role("alert")).to_contain_text("That was wrong.")
    look(page)
    fill(page, "factor-totp", code=here.code(secret))
    expect(page).to_have_url(f"{ORIGIN}/account")
    press(page, "Sign out")
    sign_in(page)
    fill(page, "factor-recovery_code", code=codes[0])
    expect(page).to_have_url(f"{ORIGIN}/account")
    page.goto(f"{ORIGIN}/account/factors")
    expect(page.get_by_text("9 left")).to_be_visible()


class TestRequired:
    @pytest.fixture
    def scripts(self) -> bool:
        return True

    @pytest.fixture
    def required(self) -> bool:
        return True

    def test_a_factor_is_set_up_during_the_sign_in(
        self, page: Page, here: Authenticated, look: Callable[[Page], None]
    ) -> None:
        sign_in(page)
        secret = secret_on(page)
        look(page)
        fill(page, "factor-totp", code=here.code(secret), label="")
        expect(page).to_have_url(f"{ORIGIN}/account")
