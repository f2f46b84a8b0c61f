"""A forgotten password in a real browser, against the running demo: with scripts, and without."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from scripts.page_images import CHROMIUM, PASSWORD, fill, launch, press

from harness.demo_support import Demo

if not CHROMIUM.exists():
    pytest.skip("Chromium is not installed: scripts/system_packages.sh", allow_module_level=True)

NEW_PASSWORD = "ten grey herons wade"
PATIENCE_MS = 10_000


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    running = Demo(tmp_path_factory.mktemp("demo") / "data", WORKERS="1")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = launch(driver)
        yield browser
        browser.close()


def ask_for_a_link(page: Page, app: str, email: str) -> None:
    page.goto(f"{app}/register")
    fill(page, "register", email=email, password=PASSWORD)
    press(page, "Sign out")
    with page.expect_navigation():
        page.get_by_role("link", name="Forgot your password?").click()
    fill(page, "forgot", email=email)
    expect(page.get_by_role("status")).to_contain_text("a mail is on its way")


@pytest.mark.parametrize("scripts", [True, False], ids=["with scripts", "without scripts"])
@pytest.mark.parametrize("app", [0, 1], ids=["fastapi", "flask"])
def test_from_a_forgotten_password_to_a_sign_in(demo: Demo, chromium: Browser, *, scripts: bool, app: int) -> None:
    url, email = demo.public_urls[app], f"mia{app}{scripts:d}@example.org"
    context = chromium.new_context(java_script_enabled=scripts)
    context.set_default_timeout(PATIENCE_MS)
    requests: list[str] = []
    complaints: list[str] = []
    context.on("request", lambda request: requests.append(request.url + str(request.headers)))
    context.on("console", lambda message: complaints.append(message.text))
    page = context.new_page()
    ask_for_a_link(page, url, email)
    link = demo.link(email, "/password/reset")
    token = link.partition("#")[2]
    page.goto(link)
    code = page.locator("#reset-token")
    if scripts:
        expect(code).to_be_hidden()
        expect(code).to_have_value(token)
        assert page.url == f"{url}/password/reset"  # the token is in no history
    else:
        expect(code).to_be_visible()
        code.fill(link)
    fill(page, "reset", password="short")
    expect(page.locator("#reset-password-error")).to_be_visible()
    fill(page, "reset", password=NEW_PASSWORD)
    expect(page.get_by_role("status")).to_contain_text("Your password has been changed.")
    with page.expect_navigation():
        page.get_by_role("link", name="Go to the sign-in page").click()
    fill(page, "login", email=email, password=NEW_PASSWORD)
    expect(page).to_have_title("Your account \u2013 powauth demo")
    assert [sent for sent in requests if token in sent.replace(link, "")] == []
    assert [said for said in complaints if "Security Policy" in said] == []
    context.close()
