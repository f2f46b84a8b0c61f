"""Remembered users in a real browser: restarts of the browser and of all workers, lost responses, theft, and locks."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page, Playwright, expect, sync_playwright
from scripts.page_images import ARGUMENTS, CHROMIUM, fill, launch, press

from harness.demo_support import Demo
from harness.smtp import Server, smtp_server
from harness.suite_site import TITLE, Suite, apart, suite
from powauth.backends.base import drive
from powauth.extensions.lock import Lock

if not CHROMIUM.exists():
    pytest.skip("Chromium is not installed: scripts/system_packages.sh", allow_module_level=True)

PASSWORD, NEW_PASSWORD = "nine grey herons wade", "ten grey herons wade"
PATIENCE_MS = 10_000
MINUTE, HOUR, DAY = 60, 3600, 86_400
TABS = 20
ALERT = "A device was signed out, because an old copy of its sign-in was used."
REFUSED = "That e-mail address and password do not match an account."
NUMBERS = count()


@pytest.fixture(scope="module")
def mail() -> Iterator[Server]:
    with smtp_server() as server:
        yield server


@pytest.fixture(scope="module")
def driver(mail: Server) -> Iterator[Playwright]:
    del mail  # its event loop must start before that of Playwright
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def chromium(driver: Playwright) -> Iterator[Browser]:
    browser = launch(driver)
    yield browser
    browser.close()


@pytest.fixture(scope="module", params=["wsgi", "asgi"])
def site(request: pytest.FixtureRequest, mail: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    folder: Path = tmp_path_factory.mktemp("suite")
    with suite(request.param, folder, mail, password="at_registration") as made:
        yield made


@pytest.fixture
def mia(site: Suite) -> str:
    email = f"mia.{next(NUMBERS)}@example.org"
    site.member(email, PASSWORD)
    return email


Opener = Callable[[], BrowserContext]


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Opener]:
    """Opens browsers that know nothing of each other."""
    opened: list[BrowserContext] = []

    def make() -> BrowserContext:
        context = chromium.new_context()
        context.set_default_timeout(PATIENCE_MS)
        opened.append(context)
        return context

    yield make
    for context in opened:
        context.close()


def sign_in(page: Page, url: str, email: str, password: str = PASSWORD, *, remember: bool = True) -> None:
    page.goto(f"{url}/login")
    if remember:
        page.get_by_label("Stay signed in on this device").check()
    fill(page, "login", email=email, password=password)


def shows_account(page: Page, email: str) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text("Your account")
    expect(page.locator(".who")).to_have_text(f"Signed in as {email}")


def shows_sign_in(page: Page) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")


def ids(context: BrowserContext) -> set[str]:
    return {cookie.get("value", "") for cookie in context.cookies() if cookie.get("name") == "auth"}


@pytest.mark.parametrize("remember", [True, False])
def test_rem_01_a_restart_of_the_browser(
    driver: Playwright, site: Suite, mia: str, tmp_path: Path, *, remember: bool
) -> None:
    def start() -> BrowserContext:
        return driver.chromium.launch_persistent_context(tmp_path, executable_path=CHROMIUM, args=list(ARGUMENTS))

    context = start()
    page = context.new_page()
    sign_in(page, site.url, mia, remember=remember)
    shows_account(page, mia)
    context.close()
    if remember:
        site.clock.advance(20 * DAY)
    context = start()
    page = context.new_page()
    page.goto(f"{site.url}/account")
    if remember:
        shows_account(page, mia)
        page.goto(f"{site.url}/account/sessions")
        expect(page.locator(".device")).to_contain_text("Stays signed in")
    else:
        shows_sign_in(page)
    context.close()


def test_rem_02_a_return_whose_response_is_lost(site: Suite, mia: str, browser: Opener) -> None:
    context = browser()
    page = context.new_page()
    sign_in(page, site.url, mia)
    before = ids(context)
    site.clock.advance(20 * DAY)
    site.responses.path, site.responses.lost = "/account", 3
    for _ in range(3):
        page.goto(f"{site.url}/account")
        expect(page.locator("body")).to_have_text("lost")
    assert ids(context) == before
    page.goto(f"{site.url}/account")
    shows_account(page, mia)
    assert len(ids(context) - before) == 1
    site.clock.advance(HOUR / 2)
    page.goto(f"{site.url}/account")
    shows_account(page, mia)


def test_rem_02_twenty_first_requests_at_once(site: Suite, mia: str, browser: Opener) -> None:
    context = browser()
    page = context.new_page()
    sign_in(page, site.url, mia)
    before = ids(context)
    page.goto(site.url)
    site.clock.advance(20 * DAY)
    script = """async (tabs) => {
        const answers = await Promise.all(Array.from({length: tabs}, () => fetch('/account')));
        return await Promise.all(answers.map(async (answer) => [answer.status, answer.url, await answer.text()]));
    }"""
    answers = page.evaluate(script, TABS)
    assert [(status, url, mia in text) for status, url, text in answers] == [(200, f"{site.url}/account", True)] * TABS
    assert len(ids(context)) == 1
    assert not ids(context) & before
    page.goto(f"{site.url}/account/sessions")
    expect(page.locator(".device")).to_have_count(1)


@pytest.mark.parametrize("first", ["owner", "thief"])
def test_rem_02_a_stolen_cookie_ends_the_session_and_the_person_is_told(
    site: Suite, mia: str, browser: Opener, first: str
) -> None:
    """Whoever of both uses the cookie later, with an old id, ends the session for both."""
    contexts = {"owner": browser(), "thief": browser()}
    pages = {name: context.new_page() for name, context in contexts.items()}
    sign_in(pages["owner"], site.url, mia)
    cookies: Any = contexts["owner"].cookies()
    contexts["thief"].add_cookies(cookies)
    second = "thief" if first == "owner" else "owner"
    for _ in range(2):  # the first one gets a new id, and uses it
        site.clock.advance(HOUR)
        pages[first].goto(f"{site.url}/account")
        shows_account(pages[first], mia)
    site.clock.advance(MINUTE)
    for name in (second, first):
        pages[name].goto(f"{site.url}/account")
        shows_sign_in(pages[name])
    owner = pages["owner"]
    fill(owner, "login", email=mia, password=PASSWORD)
    shows_account(owner, mia)
    expect(owner.get_by_role("status").filter(has_text=ALERT)).to_be_visible()
    with owner.expect_navigation():
        owner.get_by_role("link", name=ALERT).click()
    expect(owner.locator(".device").nth(1)).to_contain_text("An old copy of a sign-in was used")
    expect(owner.locator(".device").first).to_contain_text("This device")
    pages["thief"].goto(f"{site.url}/account")
    shows_sign_in(pages["thief"])
    sign_in(pages["thief"], site.url, mia)  # the next sign-in is told of nothing
    expect(pages["thief"].get_by_text(ALERT)).to_have_count(0)


def test_rem_03_a_change_of_the_password_elsewhere_ends_it(site: Suite, mia: str, browser: Opener) -> None:
    here, elsewhere = browser().new_page(), browser().new_page()
    sign_in(here, site.url, mia)
    sign_in(elsewhere, site.url, mia)
    elsewhere.locator("#password-current_password").fill(PASSWORD)
    fill(elsewhere, "password", password=NEW_PASSWORD)
    expect(elsewhere.get_by_role("status")).to_contain_text("Your password has been changed.")
    for idle in (0, 20 * DAY):
        site.clock.advance(idle)
        here.goto(f"{site.url}/account")
        shows_sign_in(here)
    elsewhere.goto(f"{site.url}/account")
    shows_account(elsewhere, mia)


def test_rem_05_after_a_return_the_devices_are_ended_only_with_the_password(
    site: Suite, mia: str, browser: Opener
) -> None:
    page = browser().new_page()
    sign_in(page, site.url, mia)
    sign_in(browser().new_page(), site.url, mia)
    site.clock.advance(2 * DAY)
    page.goto(f"{site.url}/account/sessions")
    press(page, "Sign out all other devices")
    expect(page.get_by_role("status").last).to_have_text("Confirm that it is you: enter your password again.")
    expect(page.get_by_label("Stay signed in on this device")).to_have_count(0)
    fill(page, "login", email=mia, password=PASSWORD)
    press(page, "Sign out all other devices")
    expect(page.get_by_role("status")).to_have_text("All other devices have been signed out.")


def test_a_lock_signs_out_and_looks_like_a_wrong_password(site: Suite, mia: str, browser: Opener) -> None:
    page, lock = browser().new_page(), site.auth.extension(Lock)
    sign_in(page, site.url, mia)
    key = apart(lambda: drive(site.auth.users.find(mia))).key  # type: ignore[union-attr]
    apart(lambda: drive(lock.lock(key, "spam")))
    page.goto(f"{site.url}/account")
    shows_sign_in(page)
    fill(page, "login", email=mia, password=PASSWORD)
    locked = page.content()
    expect(page.get_by_role("alert")).to_contain_text(REFUSED)
    apart(lambda: drive(lock.unlock(key)))
    fill(page, "login", email=mia, password="a wrong pass phrase")
    assert page.content() == locked
    fill(page, "login", email=mia, password=PASSWORD)
    expect(page).to_have_title(f"Your account \u2013 {TITLE}")


def test_recent_activity_has_what_the_user_did_and_nothing_of_others(site: Suite, mia: str, browser: Opener) -> None:
    page, other = browser().new_page(), browser().new_page()
    site.member(stranger := f"leo.{next(NUMBERS)}@example.org", PASSWORD)
    sign_in(other, site.url, stranger)
    sign_in(page, site.url, mia)
    press(page, "Sign out")
    sign_in(page, site.url, mia)
    with page.expect_navigation():
        page.get_by_role("link", name="Recent activity").click()
    expect(page.locator(".device h2")).to_have_text(
        ["You signed in This device", "You signed out", "You signed in", "You created your account"]
    )


# --- the workers ------------------------------------------------------------------------------------------------------


def children(pid: int) -> set[int]:
    return {int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def workers(master: int) -> set[int]:
    """The processes below a server that answer requests, not those that only keep books."""
    return {pid for pid in children(master) if "resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_text()}


def test_a_rolling_restart_of_all_workers_signs_nobody_out(chromium: Browser, tmp_path: Path) -> None:
    """Uvicorn and gunicorn replace their workers one after the other, while a remembered user reads pages."""
    demo = Demo(tmp_path / "data", RENEWAL="0")
    try:
        with httpx.Client() as program:
            fields = {"email": "mia@example.org", "password": PASSWORD}
            assert program.post(f"{demo.urls[0]}/registration", json=fields).status_code == 201
        page = chromium.new_context().new_page()
        sign_in(page, demo.urls[0], fields["email"])
        masters = sorted(children(demo.process.pid))
        before = {master: workers(master) for master in masters}
        assert [len(each) for each in before.values()] == [2, 2]
        for master in masters:
            os.kill(master, signal.SIGHUP)
        deadline = time.monotonic() + 240
        while any(workers(master) & before[master] or len(workers(master)) < 2 for master in masters):
            assert time.monotonic() < deadline, demo.log.read_text()
            for url in demo.urls:
                reads(page, url, fields["email"])
        for url in demo.urls:
            assert reads(page, url, fields["email"])
        page.goto(f"{demo.urls[0]}/account/sessions")
        expect(page.locator(".device")).to_have_count(2)  # the program's session is the other one
        expect(page.locator(".device", has_text="Stays signed in")).to_have_count(1)
        page.context.close()
    finally:
        demo.stop()


def reads(page: Page, url: str, email: str) -> bool:
    """Read the account page. Between two workers, a server may refuse a connection, but it never signs anybody out."""
    try:
        page.goto(f"{url}/account")
    except Error as error:
        if "net::ERR_" not in str(error):
            raise
        return False
    shows_account(page, email)
    return True
