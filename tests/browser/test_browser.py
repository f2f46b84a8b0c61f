"""The pages in a real browser, against the running demo."""

import importlib.resources
import secrets
from collections.abc import Callable, Iterator
from typing import Any, Literal

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright, expect, sync_playwright
from scripts.page_images import CHROMIUM, PASSWORD, SCHEMES, WIDTHS, fill, launch, press, walk

from harness.demo_support import Demo

if not CHROMIUM.exists():
    pytest.skip("Chromium is not installed: scripts/system_packages.sh", allow_module_level=True)

HINT = "At least 8 characters. A few unrelated words make a good one."
ADMINISTRATOR = "ada@example.org"
"""The first user of the demo."""
NEW_PASSWORD = "ten grey herons wade"
REFUSED = "That e-mail address and password do not match an account."
PATIENCE_MS = 10_000

Opener = Callable[..., BrowserContext]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Every request renews its session: nothing here may mind."""
    running = Demo(tmp_path_factory.mktemp("demo") / "data", RENEWAL="0", WORKERS="1")
    first = httpx.post(f"{running.urls[0]}/registration", json={"email": ADMINISTRATOR, "password": PASSWORD})
    assert first.status_code == 201
    yield running
    running.stop()


@pytest.fixture(scope="module")
def driver() -> Iterator[Playwright]:
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def chromium(driver: Playwright) -> Iterator[Browser]:
    browser = launch(driver)
    yield browser
    browser.close()


@pytest.fixture
def open_browser(chromium: Browser) -> Iterator[Opener]:
    """Makes browsers that know nothing of each other, whose pages must keep to their own policy."""
    opened: list[BrowserContext] = []
    complaints: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        if "Content Security Policy" in message.text:
            complaints.append(message.text)

    def make(**options: Any) -> BrowserContext:
        context = chromium.new_context(**options)
        context.set_default_timeout(PATIENCE_MS)
        context.on("console", listen)
        opened.append(context)
        return context

    yield make
    for context in opened:
        context.close()
    assert not complaints


@pytest.fixture(params=["fastapi", "flask", "fastapi without scripts"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which app, and whether the browser runs scripts; the apps' pages are the same bytes."""
    name: str = request.param
    return name


@pytest.fixture
def app(demo: Demo, kind: str) -> str:
    return demo.public_urls[0 if kind.startswith("fastapi") else 1]


@pytest.fixture
def scripts(kind: str) -> bool:
    return not kind.endswith("without scripts")


@pytest.fixture
def browser(open_browser: Opener, scripts: bool) -> BrowserContext:
    return open_browser(java_script_enabled=scripts)


@pytest.fixture
def page(browser: BrowserContext) -> Page:
    return browser.new_page()


def new_email() -> str:
    return f"{secrets.token_hex(8)}@example.org"


def register(page: Page, app: str) -> str:
    email = new_email()
    page.goto(f"{app}/register")
    fill(page, "register", email=email, password=PASSWORD)
    shows_account(page, app, email)
    return email


def sign_in(page: Page, app: str, email: str, password: str = PASSWORD) -> None:
    page.goto(f"{app}/login")
    fill(page, "login", email=email, password=password)


def shows_account(page: Page, app: str, email: str) -> None:
    expect(page).to_have_title("Your account \u2013 powauth demo")
    assert page.url.startswith(f"{app}/account")
    expect(page.locator(".who")).to_have_text(f"Signed in as {email}")


def shows_sign_in(page: Page, app: str, email: str) -> None:
    """The sign-in page, and nothing of the account."""
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    assert page.url.startswith(f"{app}/login")
    assert email not in page.content()


def signed_in(page: Page, app: str, email: str) -> bool:
    page.goto(f"{app}/account")
    known = page.url == f"{app}/account"
    (shows_account if known else shows_sign_in)(page, app, email)
    return known


def no_session(page: Page) -> bool:
    """Return whether the browser has no cookie of a session. The sign-in page may offer a passkey, with a cookie."""
    return {each.get("name") for each in page.context.cookies()} <= {"auth_passkeys"}


def confirmed(page: Page, demo: Demo, app: str, wanted: str) -> str:
    """Follow the link in the mail to a new address."""
    expect(page.get_by_role("status")).to_contain_text("We have sent a mail to the new address.")
    link = demo.link(wanted, "/confirm-email/change")
    page.goto(link)
    code = page.locator("#confirm_email_change-token")
    if code.is_visible():
        code.fill(link)
    press(page, "Use the new address")
    expect(page.get_by_role("status")).to_have_text("Your e-mail address has been changed.")
    shows_account(page, app, wanted)
    return wanted


def test_register_sign_out_wrong_password_sign_in(page: Page, app: str) -> None:
    email = register(page, app)
    expect(page.get_by_role("status")).to_have_text("Welcome. Your account is ready.")
    press(page, "Sign out")
    shows_sign_in(page, app, email)
    expect(page.get_by_role("status")).to_have_text("You are signed out.")
    assert no_session(page)
    for address, password in ((email, "a wrong pass phrase"), (new_email(), PASSWORD)):
        sign_in(page, app, address, password)
        expect(page.get_by_role("alert")).to_contain_text(REFUSED)
        expect(page.get_by_label("E-mail")).to_have_value(address)
        expect(page.get_by_label("Password")).to_have_value("")
        assert no_session(page)
    fill(page, "login", email=email.upper(), password=PASSWORD)
    shows_account(page, app, email)
    (cookie,) = (each for each in page.context.cookies() if each.get("name") == "auth")
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Lax", "/")


def test_wrong_fields_are_said_beside_them_and_focused(page: Page, app: str) -> None:
    page.goto(f"{app}/register")
    fill(page, "register", email=new_email(), password="short")
    password = page.get_by_label("Password")
    expect(password).to_have_attribute("aria-invalid", "true")
    expect(password).to_have_accessible_description("Password should be at least 8 characters. " + HINT)
    alert = page.get_by_role("alert")
    expect(alert).to_be_focused()
    alert.get_by_role("link").click()
    expect(password).to_be_focused()


def goes_back_to_no_account(page: Page, app: str) -> None:
    email = register(page, app)
    page.goto(f"{app}/account/sessions")
    page.goto(f"{app}/account")
    press(page, "Sign out")
    shows_sign_in(page, app, email)
    for _ in range(2):
        page.go_back()
        shows_sign_in(page, app, email)


def test_the_back_button_after_sign_out_shows_no_account(page: Page, app: str) -> None:
    goes_back_to_no_account(page, app)


def test_the_back_button_of_a_browser_that_keeps_pages_shows_no_account(driver: Playwright, demo: Demo) -> None:
    browser = launch(driver, keeps_pages=True)
    for app in demo.public_urls:
        goes_back_to_no_account(browser.new_context().new_page(), app)
    browser.close()


def test_two_tabs_over_renewals(browser: BrowserContext, demo: Demo, app: str) -> None:
    one, two = browser.new_page(), browser.new_page()
    email = register(one, app)
    other = next(url for url in demo.public_urls if url != app)
    for tab, url in ((one, app), (two, other)) * 3:
        before = {cookie["value"] for cookie in browser.cookies()}
        assert signed_in(tab, url, email)
        assert before.isdisjoint(cookie["value"] for cookie in browser.cookies()), "not renewed"
    fill(one, "user_id", email=(wanted := new_email()), current_password=PASSWORD)  # a form from before the renewals
    shows_account(one, app, email)
    email = confirmed(one, demo, app, wanted)
    assert signed_in(two, other, email)


def test_two_tabs_that_renew_at_once(open_browser: Opener, demo: Demo) -> None:
    browser = open_browser()
    tabs = [browser.new_page() for _ in range(2)]
    email = register(tabs[0], demo.public_urls[0])
    for tab, url in zip(tabs, demo.public_urls, strict=True):
        assert signed_in(tab, url, email)
    for _ in range(5):
        with tabs[0].expect_navigation(), tabs[1].expect_navigation():
            for tab in tabs:
                tab.evaluate("() => { setTimeout(() => location.reload()) }")
        for tab, url in zip(tabs, demo.public_urls, strict=True):
            shows_account(tab, url, email)
    (cookie,) = browser.cookies()
    assert cookie["name"] == "auth"


def test_two_browsers_and_one_ends_all_others(page: Page, open_browser: Opener, scripts: bool, app: str) -> None:
    email = register(page, app)
    others = [open_browser(java_script_enabled=scripts).new_page() for _ in range(2)]
    for other in others:
        sign_in(other, app, email)
        shows_account(other, app, email)
    page.goto(f"{app}/account/sessions")
    expect(page.locator(".device")).to_have_count(3)
    expect(page.locator(".device", has_text="This device")).to_have_count(1)
    page.get_by_role("button", name="Sign out Chrome on Linux").first.click()
    expect(page.locator(".device")).to_have_count(2)
    assert sorted(signed_in(other, app, email) for other in others) == [False, True]
    page.goto(f"{app}/account/sessions")
    press(page, "Sign out all other devices")
    expect(page.get_by_role("status")).to_have_text("All other devices have been signed out.")
    expect(page.locator(".device")).to_have_count(1)
    assert not any(signed_in(other, app, email) for other in others)
    assert signed_in(page, app, email)


def test_a_session_that_ends_in_another_window_mid_form(
    page: Page, open_browser: Opener, scripts: bool, app: str
) -> None:
    email, wanted = register(page, app), new_email()
    page.goto(f"{app}/account")
    page.locator("#user_id-email").fill(wanted)
    elsewhere = open_browser(java_script_enabled=scripts).new_page()
    sign_in(elsewhere, app, email)
    elsewhere.goto(f"{app}/account/sessions")
    press(elsewhere, "Sign out all other devices")
    fill(page, "user_id", current_password=PASSWORD)
    shows_sign_in(page, app, email)
    expect(page.get_by_role("status")).to_have_text("Sign in to go on.")
    fill(page, "login", email=email, password=PASSWORD)
    shows_account(page, app, email)  # where the form was, and nothing changed by it
    assert page.url == f"{app}/account"


def test_the_account_is_edited(page: Page, open_browser: Opener, demo: Demo, scripts: bool, app: str) -> None:
    email = register(page, app)
    elsewhere = open_browser(java_script_enabled=scripts).new_page()
    sign_in(elsewhere, app, email)
    shows_account(elsewhere, app, email)
    fill(page, "user_id", email=(changed := new_email()), current_password="not the password")
    expect(page.locator("#user_id-current_password")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#user_id-email")).to_have_value(changed)
    expect(page.locator("#password-current_password")).not_to_have_attribute("aria-invalid", "true")
    fill(page, "user_id", current_password=PASSWORD)
    confirmed(page, demo, app, changed)
    page.locator("#password-current_password").fill(PASSWORD)
    fill(page, "password", password=NEW_PASSWORD)
    expect(page.get_by_role("status")).to_contain_text("Your password has been changed.")
    assert signed_in(page, app, changed)
    assert not signed_in(elsewhere, app, changed)
    sign_in(elsewhere, app, changed)
    expect(elsewhere.get_by_role("alert")).to_contain_text(REFUSED)
    sign_in(elsewhere, app, changed, NEW_PASSWORD)
    shows_account(elsewhere, app, changed)


def test_the_account_is_deleted(page: Page, open_browser: Opener, scripts: bool, app: str) -> None:
    email = register(page, app)
    elsewhere = open_browser(java_script_enabled=scripts).new_page()
    sign_in(elsewhere, app, email)
    shows_account(elsewhere, app, email)
    fill(page, "delete", current_password="not the password")
    expect(page.locator("#delete-current_password")).to_have_attribute("aria-invalid", "true")
    page.goto(f"{app}/account")  # back to the answer of a form is the browser's own question
    fill(page, "delete", current_password=PASSWORD)
    shows_sign_in(page, app, email)
    expect(page.get_by_role("status")).to_have_text("Your account has been deleted.")
    assert no_session(page)
    page.go_back()
    shows_sign_in(page, app, email)
    assert not signed_in(elsewhere, app, email)
    sign_in(page, app, email)
    expect(page.get_by_role("alert")).to_contain_text(REFUSED)


def test_the_administrator_locks_a_user_who_is_then_signed_out(
    page: Page, open_browser: Opener, scripts: bool, app: str
) -> None:
    administrator = open_browser(java_script_enabled=scripts).new_page()
    email = register(page, app)
    sign_in(administrator, app, ADMINISTRATOR)
    with administrator.expect_navigation():
        administrator.get_by_role("link", name="Administration").click()
    press(administrator, f"Lock {email}")
    expect(administrator.get_by_role("status")).to_have_text("That user is locked, and signed out everywhere.")
    page.goto(f"{app}/account")
    shows_sign_in(page, app, email)
    fill(page, "login", email=email, password=PASSWORD)
    expect(page.get_by_role("alert")).to_contain_text(REFUSED)
    press(administrator, f"Unlock {email}")
    expect(administrator.get_by_role("status")).to_have_text("That user can sign in again.")
    fill(page, "login", email=email, password=PASSWORD)
    shows_account(page, app, email)
    if scripts:
        assert violations(administrator, LOOKS) == []


def violations(page: Page, looks: list[tuple[int, Literal["light", "dark"]]]) -> list[str]:
    """Return what axe finds wrong with a page, and whether it is wider than the window."""
    axe = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
    page.evaluate(axe)
    found: list[str] = []
    for width, scheme in looks:
        page.set_viewport_size({"width": width, "height": 640})
        page.emulate_media(color_scheme=scheme)
        if page.evaluate("document.documentElement.scrollWidth") > width:
            found.append(f"{width}: wider than the window")
        result = page.evaluate("axe.run({resultTypes: ['violations']})")
        found += [
            f"{width} {scheme}: {wrong['id']}: {wrong['help']}: {node['target']}"
            for wrong in result["violations"]
            for node in wrong["nodes"]
        ]
    return found


LOOKS: list[tuple[int, Literal["light", "dark"]]] = [(width, scheme) for width in WIDTHS for scheme in SCHEMES]


@pytest.mark.parametrize(("kind", "looks"), [("fastapi", LOOKS), ("flask", LOOKS[::3])], ids=["fastapi", "flask"])
def test_axe_finds_no_violation_and_nothing_is_wider_than_the_window(
    open_browser: Opener, app: str, looks: list[tuple[int, Literal["light", "dark"]]]
) -> None:
    """Every page in every state, light and dark, at the least and an ordinary width (WCAG 2.2, 1.4.10)."""
    page = open_browser().new_page()
    found: list[str] = []
    seen: set[str] = set()
    for state in walk(page, open_browser(), app, new_email()):
        seen.add(state)
        found += [f"{state} {each}" for each in violations(page, looks)]
    assert not found, "\n".join(found)
    assert len(seen) == 16


@pytest.mark.parametrize("number", [0, 1], ids=["fastapi", "flask"])
def test_without_scripts_axe_finds_no_violation_on_the_pages_of_keys_and_of_the_administrator(
    open_browser: Opener, demo: Demo, number: int
) -> None:
    """The pages are as a browser without scripts shows them. Scripts are allowed only while axe runs."""
    page, app, other = open_browser().new_page(), demo.public_urls[number], new_email()
    assert httpx.post(f"{app}/registration", json={"email": other, "password": PASSWORD}).status_code == 201
    chromium = page.context.new_cdp_session(page)
    found: list[str] = []

    def allow_scripts(allowed: bool) -> None:
        chromium.send("Emulation.setScriptExecutionDisabled", {"value": not allowed})

    def look(state: str) -> None:
        assert page.evaluate("matchMedia('(scripting: none)').matches")
        allow_scripts(True)
        found.extend(f"{state} {each}" for each in violations(page, LOOKS))
        allow_scripts(False)

    allow_scripts(False)
    sign_in(page, app, ADMINISTRATOR)
    page.goto(f"{app}/account/keys")
    look("keys")
    fill(page, "key", name="Nightly report", expires_in_days="0")
    expect(page.locator("#key-expires_in_days")).to_have_attribute("aria-invalid", "true")
    look("keys-refused")
    fill(page, "key", expires_in_days="30")
    expect(page.get_by_role("status")).to_contain_text("It is not shown again")
    look("keys-made")
    press(page, "End the key Nightly report")
    expect(page.get_by_role("status")).to_have_text("The key is no longer valid.")
    look("keys-ended")
    page.goto(f"{app}/account")
    with page.expect_navigation():
        page.get_by_role("link", name="Administration").click()
    look("administration")
    press(page, f"Lock {other}")
    look("administration-locked")
    assert not found, "\n".join(found)
