"""Each link in mail in a real browser, from the first click to the last: with scripts under WSGI, without under ASGI.

Before its owner uses it, a scanner follows each link, and another presses all buttons in a browser of its own.
"""

import importlib.resources
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any, Literal

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from scripts.page_images import CHROMIUM, SCHEMES, WIDTHS, fill, launch, press

from harness.smtp import Server, smtp_server
from harness.suite_site import INVITER, TITLE, Suite, suite

if not CHROMIUM.exists():
    pytest.skip("Chromium is not installed: scripts/system_packages.sh", allow_module_level=True)

PASSWORD, NEW_PASSWORD = "nine grey herons wade", "ten grey herons wade"
PATIENCE_MS = 10_000
NINE_DAYS = 9 * 86_400
"""No link is valid for longer."""

VOID = re.compile("is no longer valid|is invalid or has expired")
LOOKS: tuple[tuple[int, Literal["light", "dark"]], ...] = tuple(zip(WIDTHS, SCHEMES, strict=True))
AXE = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
NUMBERS = count()
SEEN: set[tuple[str, int]] = set()
"""The states that axe has looked at: the address of a page, and the number of its parts."""


@pytest.fixture(scope="module")
def mail() -> Iterator[Server]:
    with smtp_server() as server:
        yield server


@pytest.fixture(scope="module")
def chromium(mail: Server) -> Iterator[Browser]:
    del mail  # its event loop must start before that of Playwright
    with sync_playwright() as driver:
        browser = launch(driver)
        yield browser
        browser.close()


@pytest.fixture(scope="module", params=["wsgi", "asgi"], ids=["with scripts, wsgi", "without scripts, asgi"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def early(kind: Any, mail: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A site where a registration creates the account at once."""
    with suite(kind, tmp_path_factory.mktemp("early"), mail, password="at_registration") as site:
        site.member(INVITER, PASSWORD)
        yield site


@pytest.fixture(scope="module")
def late(kind: Any, mail: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Suite]:
    """A site where a registration begins with a mail."""
    with suite(kind, tmp_path_factory.mktemp("late"), mail) as site:
        yield site


class Person:
    """Somebody at a browser of their own, on a site. It notes what breaks the policy of a page, and what axe finds."""

    def __init__(self, context: BrowserContext, site: Suite, *, scripts: bool) -> None:
        context.set_default_timeout(PATIENCE_MS)
        self.context, self.site, self.scripts = context, site, scripts
        self.page = context.new_page()
        self.wrong: list[str] = []
        context.on("console", lambda said: self.wrong.extend([said.text] if "Security Policy" in said.text else []))

    def go(self, path: str) -> Page:
        self.page.goto(self.site.url + path)
        return self.page

    def open(self, link: str) -> Page:
        """Open a link in a new tab. Without scripts, the person pastes the link into the form."""
        self.page = self.context.new_page()
        self.page.goto(link)
        code = self.page.locator("[data-powauth-token] input")
        if self.scripts:
            expect(code).to_be_hidden()
            assert "#" not in self.page.url, "the token is in no history"
        elif code.count():
            code.fill(link)
        self.look()
        return self.page

    def look(self) -> None:
        """Let axe look at the page, and check that it fits into a narrow window. Once is enough for each state."""
        state = (self.page.url.partition("?")[0].partition("#")[0], self.page.locator("main [class]").count())
        if not self.scripts or state in SEEN:
            return
        SEEN.add(state)
        self.page.evaluate(AXE)
        for width, scheme in LOOKS:
            self.page.set_viewport_size({"width": width, "height": 640})
            self.page.emulate_media(color_scheme=scheme)
            if self.page.evaluate("document.documentElement.scrollWidth") > width:
                self.wrong.append(f"{self.page.url} is wider than {width}")
            found = self.page.evaluate("axe.run({resultTypes: ['violations'], preload: false})")
            self.wrong += [f"{self.page.url} {width} {each['id']}: {each['help']}" for each in found["violations"]]

    def registers(self, email: str) -> None:
        self.go("/register")
        fill(self.page, "register", email=email, password=PASSWORD)

    def signs_in(self, email: str, password: str = PASSWORD) -> None:
        self.go("/login")
        fill(self.page, "login", email=email, password=password)
        expect(self.page).to_have_title(f"Your account \u2013 {TITLE}")

    def is_told(self, text: str | re.Pattern[str]) -> None:
        expect(self.page.get_by_role("status")).to_contain_text(text)

    def is_refused(self, text: str | re.Pattern[str]) -> None:
        expect(self.page.get_by_role("alert")).to_contain_text(text)
        self.look()


Opener = Callable[..., Person]
WITH_SCRIPTS = pytest.mark.parametrize("kind", ["wsgi"], indirect=True, ids=["with scripts, wsgi"])


@pytest.fixture
def person(chromium: Browser, kind: Any) -> Iterator[Opener]:
    """Makes people with browsers of their own."""
    opened: list[Person] = []

    def make(site: Suite, *, scripts: bool = kind == "wsgi") -> Person:
        opened.append(Person(chromium.new_context(java_script_enabled=scripts), site, scripts=scripts))
        return opened[-1]

    yield make
    wrong = [each for one in opened for each in one.wrong]
    for each in opened:
        each.context.close()
    assert not wrong, "\n".join(wrong)


# --- the links --------------------------------------------------------------------------------------------------------


def asks_for_a_reset(owner: Person, email: str) -> None:
    owner.site.member(email, PASSWORD)
    owner.go("/login")
    with owner.page.expect_navigation():
        owner.page.get_by_role("link", name="Forgot your password?").click()
    fill(owner.page, "forgot", email=email)
    owner.is_told("a mail is on its way")


def begins_a_registration(owner: Person, email: str) -> None:
    owner.go("/register")
    fill(owner.page, "register", email=email)
    owner.is_told("we have sent a mail to it")


def is_invited(owner: Person, email: str) -> None:
    owner.signs_in(INVITER)
    with owner.page.expect_navigation():
        owner.page.get_by_role("link", name="Invite others").click()
    owner.look()
    fill(owner.page, "invite", email=email)
    owner.is_told("Your invitation is on its way.")


def changes_the_address(owner: Person, email: str) -> None:
    """Change from another address, which is confirmed, to this one."""
    owner.site.member(f"old.{email}", PASSWORD, email_confirmed_at=datetime.now(UTC))
    owner.signs_in(f"old.{email}")
    fill(owner.page, "user_id", email=email, current_password=PASSWORD)
    owner.is_told("We have sent a mail to the new address.")
    expect(owner.page.locator(".who")).to_have_text(f"Signed in as old.{email}")


def loses_the_address(thief: Person, email: str) -> None:
    """Somebody who knows the password changes the address from this one to another, and completes the change."""
    thief.site.member(email, PASSWORD, email_confirmed_at=datetime.now(UTC))
    thief.signs_in(email)
    fill(thief.page, "user_id", email=f"thief.{email}", current_password=PASSWORD)
    thief.open(thief.site.mail.link(f"thief.{email}", "/confirm-email/change"))
    press(thief.page, "Use the new address")
    thief.is_told("Your e-mail address has been changed.")


@dataclass(frozen=True)
class Kind:
    """A kind of link.

    Attributes:
        path: the path of its page.
        prepare: does what leads to the mail, in a browser.
        button: the name of the button on its page.
        done: a part of what the page says afterwards.
        late: whether it is on the site where a registration begins with a mail.
        own: whether it must be used where the user is signed in.
        password: the password with which the user signs in afterwards.
    """

    path: str
    prepare: Callable[[Person, str], None]
    button: str
    done: str
    late: bool = False
    own: bool = False
    password: str = NEW_PASSWORD


KINDS = {
    "reset": Kind("/password/reset", asks_for_a_reset, "Set the password", "Your password has been changed."),
    "confirmation": Kind("/confirm-email", Person.registers, "Confirm", "Your e-mail address is confirmed."),
    "registration": Kind("/register/complete", begins_a_registration, "Create account", "Welcome.", late=True),
    "invitation": Kind("/invitation", is_invited, "Create account", "Welcome."),
    "undo": Kind("/confirm-email/undo", loses_the_address, "Keep the old address", "Your account has its old address"),
    "change": Kind(
        "/confirm-email/change",
        changes_the_address,
        "Use the new address",
        "Your e-mail address has been changed.",
        own=True,
        password=PASSWORD,
    ),
}


def uses(user: Person, link: str, kind: Kind, *, errs: bool = False) -> None:
    """Open a link, enter a new password if the page asks for one, and press the button. First err, if asked."""
    page = user.open(link)
    password = page.get_by_label("New password").or_(page.get_by_label("Password", exact=True))
    if password.count():
        if errs:
            password.fill("short")
            press(page, kind.button)
            user.is_refused("should be at least 8 characters")
        password.fill(NEW_PASSWORD)
    press(page, kind.button)


def scan(link: str, scanner: Person | None) -> None:
    """Follow a link as programs do that look into mail: by GET and HEAD, and in a browser that presses all buttons."""
    address, _, token = link.partition("#")
    for url in (link, f"{address}?token={token}", f"{address}/{token}"):
        for method in ("GET", "HEAD", "OPTIONS"):
            httpx.request(method, url, headers={"accept": "text/html"})
    if scanner is None:
        return
    buttons = scanner.open(link).get_by_role("button")
    for number in range(buttons.count()):
        page = scanner.open(link)
        page.evaluate("() => { for (const form of document.forms) form.noValidate = true }")
        with page.expect_navigation():
            page.get_by_role("button").nth(number).click()
        assert scanner.context.cookies() == [], "the scanner is signed in"


@pytest.mark.parametrize("name", KINDS)
def test_a_link_from_the_first_click_to_the_last(
    early: Suite, late: Suite, person: Opener, mail: Server, name: str
) -> None:
    link_kind = KINDS[name]
    site = late if link_kind.late else early
    email = f"{name}.{next(NUMBERS)}@example.org"
    owner = person(site)
    link_kind.prepare(owner, email)
    link = mail.link(email, link_kind.path)
    assert link.startswith(f"{site.url}{link_kind.path}#")
    scan(link, person(site, scripts=True) if owner.scripts else None)
    other = person(site)
    if link_kind.own:
        other.open(link)
        expect(other.page.get_by_text("Sign in to your account first.")).to_be_visible()
    user = owner if link_kind.own else other
    uses(user, link, link_kind, errs=True)
    user.is_told(link_kind.done)
    user.look()
    assert site.column(email, "email_confirmed_at") is not None
    signed_in = person(site)
    signed_in.signs_in(email, link_kind.password)
    again = signed_in if link_kind.own else person(site)
    uses(again, link, link_kind)
    again.is_refused(VOID)


@WITH_SCRIPTS
@pytest.mark.parametrize("name", KINDS)
def test_a_link_after_its_time(early: Suite, late: Suite, person: Opener, mail: Server, name: str) -> None:
    link_kind = KINDS[name]
    site = late if link_kind.late else early
    email = f"{name}.{next(NUMBERS)}@example.org"
    owner = person(site)
    link_kind.prepare(owner, email)
    link = mail.link(email, link_kind.path)
    site.clock.advance(NINE_DAYS)
    user = person(site)
    if link_kind.own:
        user.signs_in(f"old.{email}")
    uses(user, link, link_kind)
    user.is_refused(VOID)


@WITH_SCRIPTS
def test_a_confirmation_in_the_browser_of_the_registration_is_one_click(
    early: Suite, person: Opener, mail: Server
) -> None:
    email = f"mia.{next(NUMBERS)}@example.org"
    owner = person(early)
    owner.registers(email)
    page = owner.open(mail.link(email, "/confirm-email"))
    assert not page.locator("input[type=password]").count()
    press(page, "Confirm")
    owner.is_told("Your e-mail address is confirmed.")
    expect(page.locator(".who")).to_have_text(f"Signed in as {email}")


@WITH_SCRIPTS
def test_a_confirmation_elsewhere_signs_out_whoever_registered(early: Suite, person: Opener, mail: Server) -> None:
    email = f"mia.{next(NUMBERS)}@example.org"
    first, owner = person(early), person(early)
    first.registers(email)
    uses(owner, mail.link(email, "/confirm-email"), KINDS["confirmation"])
    owner.is_told("Your e-mail address is confirmed.")
    first.go("/account")
    expect(first.page.get_by_role("heading", level=1)).to_have_text("Sign in")


@WITH_SCRIPTS
def test_an_invitation_by_a_link_and_one_that_ends(early: Suite, person: Opener) -> None:
    early.clock.advance(NINE_DAYS)
    inviter, guest, other = person(early), person(early), person(early)
    inviter.signs_in(INVITER)
    inviter.go("/account/invitations")
    links = []
    for _ in range(2):
        press(inviter.page, "Make a link")
        inviter.look()
        links.append(inviter.page.locator("code").inner_text())
        inviter.go("/account/invitations")
        assert links[-1] not in inviter.page.content(), "the link is shown once"
    email = f"mia.{next(NUMBERS)}@example.org"
    page = guest.open(links[0])
    fill(page, "invitation", email=email, password=NEW_PASSWORD)
    guest.is_told("Welcome.")
    assert early.column(email, "email_confirmed_at") is None, "nobody has proven this address"
    for _ in links:
        inviter.go("/account/invitations")
        ends = inviter.page.get_by_role("button", name="End", exact=True)
        if ends.count():
            with inviter.page.expect_navigation():
                ends.first.click()
    page = other.open(links[1])
    fill(page, "invitation", email=f"leo.{next(NUMBERS)}@example.org", password=NEW_PASSWORD)
    other.is_refused(VOID)
