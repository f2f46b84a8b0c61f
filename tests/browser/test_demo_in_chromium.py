"""Passkeys in the demo, in a real browser: its two apps are two origins of one relying party."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from scripts.page_images import ARGUMENTS, CHROMIUM, fill, press

from harness.demo_support import Demo

if not CHROMIUM.exists():
    pytest.skip("Chromium is not installed: scripts/system_packages.sh", allow_module_level=True)

PASSWORD = "nine grey herons wade"
PATIENCE_MS = 20_000
DEVICE = {
    "protocol": "ctap2",
    "transport": "internal",
    "hasResidentKey": True,
    "hasUserVerification": True,
    "isUserVerified": True,
    "automaticPresenceSimulation": True,
}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    running = Demo(tmp_path_factory.mktemp("demo") / "data", WORKERS="1")
    yield running
    running.stop()


@pytest.fixture(params=[0, 1], ids=["fastapi then flask", "flask then fastapi"])
def both(demo: Demo, request: pytest.FixtureRequest) -> tuple[str, str]:
    urls = demo.public_urls
    return urls[request.param], urls[1 - request.param]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Iterator[Page]:
    """A page of a browser with a virtual authenticator, which waits for the button."""
    context = chromium.new_context()
    context.set_default_timeout(PATIENCE_MS)
    context.add_init_script("PublicKeyCredential.isConditionalMediationAvailable = async () => false")
    made = context.new_page()
    cdp = context.new_cdp_session(made)
    cdp.send("WebAuthn.enable", {"enableUI": False})
    cdp.send("WebAuthn.addVirtualAuthenticator", {"options": DEVICE})
    yield made
    context.close()


def email_of(app: str) -> str:
    return f"mia{app.rpartition(':')[2]}@example.org"


def test_a_browser_makes_a_passkey_on_one_app_and_signs_in_with_it_on_the_other(
    both: tuple[str, str], page: Page
) -> None:
    one, other = both
    email = email_of(one)
    page.goto(f"{one}/register")
    fill(page, "register", email=email, password=PASSWORD)
    page.goto(f"{one}/account")
    page.get_by_role("link", name="Passkeys", exact=True).click()
    page.locator("#passkey-label").fill("Laptop")
    press(page, "Add a passkey")
    expect(page.get_by_role("status")).to_contain_text("Your passkey has been added.")
    press(page, "Sign out")
    page.goto(f"{other}/")
    assert page.url.startswith(f"{other}/login")
    press(page, "Sign in with a passkey")
    expect(page.locator(".who")).to_have_text(f"Signed in as {email}")
    assert page.url == f"{other}/account"
    press(page, "Sign out")
    page.goto(f"{other}/login")
    fill(page, "login", email=email, password=PASSWORD)
    assert page.url.startswith(f"{other}/login/factor"), "the passkey is a second factor, too"
    press(page, "Use your passkey")
    expect(page.locator(".who")).to_have_text(f"Signed in as {email}")
