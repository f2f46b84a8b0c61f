"""Passkeys in a real browser with virtual authenticators, which the DevTools protocol makes.

The app is on https in this process, and the browser is told where to find https://app.example.test.
"""

import base64
import importlib.resources
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser, BrowserContext, CDPSession, Page, expect, sync_playwright
from scripts.page_images import ARGUMENTS, CHROMIUM, fill, press

from harness.https_server import HttpsServer
from harness.passkey_sites import ADA, EVE, MODELS, ORIGIN, PasskeyRow, PasskeySite
from harness.users_databases import PASSWORD, blocking_engine
from powauth.accounts.user_keys import user_key_text
from powauth.extensions.passkeys import Passkeys
from powauth.extensions.second_factor import SecondFactor

if not CHROMIUM.exists():
    pytest.skip("Chromium is not installed: scripts/system_packages.sh", allow_module_level=True)

HOST, EVIL, SHOP = "app.example.test", "evil.example.test", "shop.example.test"
PATIENCE_MS = 20_000
DEVICE = {
    "protocol": "ctap2",
    "transport": "internal",
    "hasResidentKey": True,
    "hasUserVerification": True,
    "isUserVerified": True,
    "automaticPresenceSimulation": True,
}
ADD, USE, CONFIRM = "Add a passkey", "Sign in with a passkey", "Confirm with a passkey"
CANCELLED = "No passkey was used. Try again, or sign in with your password."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpsServer]:
    running = HttpsServer(None, [HOST, EVIL, SHOP], tmp_path_factory.mktemp("certificate"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def chromium(server: HttpsServer) -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, *server.arguments])
        yield browser
        browser.close()


@pytest.fixture
def passkeys() -> dict[str, Any]:
    """Options of `Passkeys`."""
    return {}


@pytest.fixture
def factor() -> dict[str, Any] | None:
    """Options of `SecondFactor`, whose factors are passkeys; ``None`` is no such extension."""
    return None


@pytest.fixture
def site(
    server: HttpsServer, tmp_path: Path, passkeys: dict[str, Any], factor: dict[str, Any] | None
) -> Iterator[PasskeySite]:
    with blocking_engine("sqlite", str(tmp_path), *MODELS) as engine, ThreadPoolExecutor(1) as away:
        more = [] if factor is None else [SecondFactor[Any](Passkeys(engine, PasskeyRow).factor(), **factor)]
        # Playwright runs an event loop in this thread, so the site is made in another one.
        made = away.submit(PasskeySite, "wsgi", engine, more, passkeys).result()
        server.app = made.app
        yield made


class Window:
    """A browser with a page, which must keep to its own policy."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        self.context: BrowserContext = browser.new_context(**options)
        self.context.set_default_timeout(PATIENCE_MS)
        self.complaints: list[str] = []
        self.context.on("console", lambda message: self.complaints.append(message.text))
        self.page: Page = self.context.new_page()
        self.cdp: CDPSession = self.context.new_cdp_session(self.page)
        self.cdp.send("WebAuthn.enable", {"enableUI": False})

    def device(self, **options: Any) -> str:
        """Add a virtual authenticator."""
        made = self.cdp.send("WebAuthn.addVirtualAuthenticator", {"options": {**DEVICE, **options}})
        name: str = made["authenticatorId"]
        return name

    def send(self, command: str, device: str, **parameters: Any) -> Any:
        return self.cdp.send(f"WebAuthn.{command}", {"authenticatorId": device, **parameters})

    def passkeys(self, device: str) -> list[dict[str, Any]]:
        """The passkeys in an authenticator, with their private keys."""
        found: list[dict[str, Any]] = self.send("getCredentials", device)["credentials"]
        return found

    def close(self) -> None:
        self.context.close()
        assert [said for said in self.complaints if "Security Policy" in said] == []


@pytest.fixture
def window(chromium: Browser, site: PasskeySite) -> Iterator[Window]:
    made = Window(chromium)
    yield made
    made.close()


def sign_in(page: Page, email: str = ADA) -> None:
    page.goto(f"{ORIGIN}/login")
    fill(page, "login", email=email, password=PASSWORD)


def add(page: Page, label: str = "") -> None:
    page.goto(f"{ORIGIN}/account/passkeys")
    page.locator("#passkey-label").fill(label)
    press(page, ADD)
    expect(page.get_by_role("status")).to_contain_text("Your passkey has been added.")


def sign_out(page: Page) -> None:
    press(page, "Sign out")


def no_suggestions(page: Page) -> None:
    """Leave the button alone, and make no use of the suggestions for the user name."""
    page.add_init_script("PublicKeyCredential.isConditionalMediationAvailable = async () => false")


def signed_in(page: Page, email: str = ADA) -> None:
    expect(page.locator(".who")).to_have_text(f"Signed in as {email}")


def refused(page: Page) -> None:
    expect(page.get_by_role("alert")).to_contain_text("That passkey was not accepted.")
    assert page.locator(".who").count() == 0


def test_registering_and_signing_in_without_a_user_name(window: Window, site: PasskeySite) -> None:
    page, device = window.page, window.device()
    no_suggestions(page)
    sign_in(page)
    add(page, "Laptop")
    expect(page.get_by_role("heading", level=2)).to_have_text("Laptop")
    sign_out(page)
    press(page, USE)
    signed_in(page)
    assert page.url == f"{ORIGIN}/account"
    [passkey] = window.passkeys(device)
    assert (passkey["isResidentCredential"], passkey["rpId"], passkey["signCount"]) == (True, HOST, 2)
    [row] = site.rows()
    assert base64.b64decode(passkey["userHandle"]) == row.user_handle
    assert base64.b64decode(passkey["credentialId"]) == row.credential_id
    assert row.sign_count == 2
    assert site.names() == [("passkey_added", None), ("passkey_used", "sign_in")]


def test_the_browser_offers_passkeys_for_the_user_name(window: Window, site: PasskeySite) -> None:
    page = window.page
    sign_in(page)
    window.device()
    add(page)
    page.context.clear_cookies()
    page.goto(f"{ORIGIN}/login?next=/account/sessions")
    page.wait_for_url(f"{ORIGIN}/account/sessions")  # the virtual authenticator chooses the suggestion
    signed_in(page)
    assert site.names()[-1] == ("passkey_used", "sign_in")


def test_the_field_of_the_user_name_asks_for_passkeys(window: Window) -> None:
    page = window.page
    window.device()  # without a passkey, so the request behind the suggestions waits
    with page.expect_response(f"{ORIGIN}/login/passkey"):
        page.goto(f"{ORIGIN}/login")
    expect(page.locator("#login-email")).to_have_attribute("autocomplete", "username webauthn")
    expect(page.get_by_role("button", name=USE)).to_be_visible()


def test_an_open_page_asks_for_a_new_challenge_before_the_old_one_expires(window: Window, site: PasskeySite) -> None:
    page = window.page
    sign_in(page)
    device = window.device()
    add(page)
    [passkey] = window.passkeys(device)
    window.send("removeCredential", device, credentialId=passkey["credentialId"])  # so the suggestions wait
    sign_out(page)
    asked: list[str] = []
    page.on("response", lambda answer: asked.append(answer.url) if answer.url.endswith("/login/passkey") else None)
    page.clock.install()
    with page.expect_response(f"{ORIGIN}/login/passkey"):
        page.goto(f"{ORIGIN}/login")
    site.clock.advance(121)
    for _ in range(100):  # the timer begins a moment after the first answer
        page.clock.fast_forward(110_000)
        page.wait_for_timeout(100)  # so that the answer can arrive on a busy machine
        if len(asked) > 1:
            break
    assert len(asked) > 1
    window.send("addCredential", device, credential=passkey)
    press(page, USE)
    signed_in(page)
    assert site.names()[-1] == ("passkey_used", "sign_in")


def faults(page: Page) -> list[str]:
    """The names of the rules that a page breaks."""
    page.evaluate(importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8"))
    return [each["id"] for each in page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]]


def test_the_pages_have_no_fault_that_axe_finds(chromium: Browser, site: PasskeySite) -> None:
    window = Window(chromium, bypass_csp=True)  # axe is a script in the page
    page = window.page
    no_suggestions(page)
    page.goto(f"{ORIGIN}/login")
    found = [faults(page)]
    sign_in(page)
    window.device()
    add(page)
    found.append(faults(page))
    sign_out(page)
    page.goto(f"{ORIGIN}/login/passkey")
    found.append(faults(page))
    assert found == [[], [], []]
    window.close()


def test_confirming_with_a_passkey(window: Window, site: PasskeySite) -> None:
    page = window.page
    no_suggestions(page)
    sign_in(page)
    window.device()
    add(page)
    site.clock.advance(16 * 60)
    page.goto(f"{ORIGIN}/account/passkeys")
    assert page.get_by_role("button", name=ADD).count() == 0
    with page.expect_navigation():
        page.get_by_role("link", name="Confirm that it is you").click()
    press(page, CONFIRM)
    assert page.url == f"{ORIGIN}/account/passkeys"
    expect(page.get_by_role("button", name=ADD)).to_be_visible()
    assert site.names()[-1] == ("passkey_used", "confirm")


def test_a_page_that_became_too_old_asks_to_confirm(window: Window, site: PasskeySite) -> None:
    page = window.page
    no_suggestions(page)
    sign_in(page)
    window.device()
    page.goto(f"{ORIGIN}/account/passkeys")
    site.clock.advance(16 * 60)
    press(page, ADD)
    expect(page.get_by_role("status")).to_contain_text("Confirm that it is you")
    assert page.url == f"{ORIGIN}/login?next=/account/passkeys"


def test_a_passkey_of_another_user_confirms_nothing(window: Window, site: PasskeySite) -> None:
    page, device = window.page, window.device()
    no_suggestions(page)
    sign_in(page, EVE)
    add(page)
    sign_out(page)
    sign_in(page)
    add(page)
    [ada] = [row for row in site.rows() if row.user_key == user_key_text(site.key())]
    window.send("removeCredential", device, credentialId=base64.b64encode(ada.credential_id).decode())
    page.goto(f"{ORIGIN}/login?next=/account")
    page.get_by_role("button", name=CONFIRM).click()
    expect(page.get_by_text(CANCELLED)).to_be_visible()  # the browser offers Eve's passkey to nobody
    signed_in(page)


def test_two_authenticators(window: Window, site: PasskeySite) -> None:
    page, first = window.page, window.device()
    no_suggestions(page)
    sign_in(page)
    add(page, "First")
    page.get_by_role("button", name=ADD).click()
    expect(page.get_by_text("This passkey is registered already.")).to_be_visible()  # the list of excluded ones
    window.send("removeVirtualAuthenticator", first)
    second = window.device(transport="usb")
    add(page, "Second")
    assert sorted(page.get_by_role("heading", level=2).all_inner_texts()) == ["First", "Second"]
    sign_out(page)
    press(page, USE)
    signed_in(page)
    assert len(window.passkeys(second)) == 1
    assert {row.label for row in site.rows() if row.last_used_at is not None} == {"Second"}


def test_a_removed_passkey(window: Window, site: PasskeySite) -> None:
    page = window.page
    no_suggestions(page)
    sign_in(page)
    window.device()
    add(page, "Lost phone")
    press(page, "Remove Lost phone")
    expect(page.get_by_role("status")).to_contain_text("Your passkey has been removed.")
    sign_out(page)
    press(page, USE)
    refused(page)
    assert site.names()[-1] == ("passkey_refused", "unknown passkey")


def test_renaming(window: Window) -> None:
    page = window.page
    sign_in(page)
    window.device()
    add(page, "Old")
    page.locator("#rename1-label").fill("New")
    press(page, "Rename Old")
    expect(page.get_by_role("heading", level=2)).to_have_text("New")


def test_cancelling(window: Window, site: PasskeySite) -> None:
    page = window.page
    no_suggestions(page)
    sign_in(page)
    device = window.device()
    add(page)
    sign_out(page)
    window.send("setUserVerified", device, isUserVerified=False)  # the finger does not fit, and the user gives up
    page.get_by_role("button", name=USE).click()
    expect(page.get_by_text(CANCELLED)).to_be_visible()
    expect(page.get_by_role("button", name=USE)).to_be_enabled()
    assert page.url.startswith(f"{ORIGIN}/login")
    window.send("setUserVerified", device, isUserVerified=True)
    press(page, USE)
    signed_in(page)


RAW = """
async (options) => {
  const bytes = (text) => Uint8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
  const publicKey = { ...options, challenge: bytes(options.challenge) };
  try {
    return (await navigator.credentials.get({ publicKey })).toJSON();
  } catch (error) {
    return error.name;
  }
}
"""
ASK = """
async () => {
  const headers = { "Content-Type": "application/json", Accept: "application/json" };
  const answer = await fetch("/login/passkey", { method: "POST", headers, body: '{"action": "options"}' });
  return (await answer.json()).publicKey;
}
"""
ANSWER = """
async (credential) => {
  const headers = { "Content-Type": "application/json", Accept: "application/json" };
  const answer = await fetch("/login/passkey", { method: "POST", headers, body: JSON.stringify({ credential }) });
  return [answer.status, (await answer.json()).error ?? null];
}
"""


def with_passkey(window: Window, *, to: str = "/login/passkey", **options: Any) -> str:
    """Add a passkey, and go to a page that may ask for options by a script."""
    no_suggestions(window.page)
    sign_in(window.page)
    device = window.device(**options)
    add(window.page)
    sign_out(window.page)
    window.page.goto(f"{ORIGIN}{to}")
    return device


def test_a_wrong_domain(window: Window, site: PasskeySite) -> None:
    with_passkey(window)
    page = window.page
    options = page.evaluate(ASK)
    page.goto(f"https://{EVIL}/login/passkey")
    assert page.evaluate(RAW, options) == "SecurityError"  # the browser: it is not the domain of this page
    assert page.evaluate(RAW, options | {"rpId": EVIL}) == "NotAllowedError"  # there is no passkey for that domain
    assert site.names() == [("passkey_added", None)]


class TestOneDomainAboveAllHosts:
    @pytest.fixture
    def passkeys(self) -> dict[str, Any]:
        return {"rp_id": "example.test", "origins": [f"https://{SHOP}"]}

    def test_a_wrong_origin(self, window: Window, site: PasskeySite) -> None:
        with_passkey(window)
        page = window.page
        for host, answer, names in (
            (EVIL, [401, "invalid_passkey"], ("passkey_refused", "origin")),
            (SHOP, [200, None], ("passkey_used", "sign_in")),
        ):
            page.goto(f"{ORIGIN}/login/passkey")
            options = page.evaluate(ASK)
            page.goto(f"https://{host}/login/passkey")
            credential = page.evaluate(RAW, options)  # the browser allows it
            page.goto(f"{ORIGIN}/login/passkey")
            assert page.evaluate(ANSWER, credential) == answer
            assert site.names()[-1] == names


def test_a_replayed_assertion(window: Window, site: PasskeySite) -> None:
    with_passkey(window)
    page = window.page
    credential = page.evaluate(RAW, page.evaluate(ASK))
    assert page.evaluate(ANSWER, credential) == [200, None]
    assert page.evaluate(ANSWER, credential) == [401, "invalid_passkey"]
    page.context.clear_cookies(name="__Host-auth")
    assert page.evaluate(ANSWER, credential) == [401, "invalid_passkey"]
    assert site.names()[-2:] == [("passkey_refused", "challenge")] * 2


def test_an_answer_in_another_browser(window: Window, site: PasskeySite) -> None:
    with_passkey(window)
    page = window.page
    credential = page.evaluate(RAW, page.evaluate(ASK))
    page.context.clear_cookies()
    assert page.evaluate(ANSWER, credential) == [401, "invalid_passkey"]
    assert site.names()[-1] == ("passkey_refused", "challenge")


def test_missing_user_verification(window: Window, site: PasskeySite) -> None:
    device = with_passkey(window)
    page = window.page
    window.send("setUserVerified", device, isUserVerified=False)
    options = page.evaluate(ASK)
    assert page.evaluate(RAW, options | {"timeout": 2000}) == "NotAllowedError"
    credential = page.evaluate(RAW, options | {"userVerification": "discouraged"})
    assert page.evaluate(ANSWER, credential) == [401, "invalid_passkey"]
    assert site.names()[-1] == ("passkey_refused", "user not verified")


def test_a_cloned_counter(window: Window, site: PasskeySite) -> None:
    device = with_passkey(window)
    page = window.page
    [clone] = window.passkeys(device)
    for _ in range(2):
        assert page.evaluate(ANSWER, page.evaluate(RAW, page.evaluate(ASK))) == [200, None]
        page.context.clear_cookies(name="__Host-auth")
    assert "passkey_counter" not in [name for name, _ in site.names()]
    window.send("removeCredential", device, credentialId=clone["credentialId"])
    window.send("addCredential", device, credential=clone)  # with the counter of the time when it was copied
    assert page.evaluate(ANSWER, page.evaluate(RAW, page.evaluate(ASK))) == [200, None]
    assert site.names()[-2:] == [("passkey_counter", None), ("passkey_used", "sign_in")]
    assert [row.sign_count for row in site.rows()] == [3]


def test_a_synced_passkey_without_a_counter(window: Window, site: PasskeySite) -> None:
    device = with_passkey(window, defaultBackupEligibility=True, defaultBackupState=True)
    page = window.page
    [passkey] = window.passkeys(device)
    window.send("removeCredential", device, credentialId=passkey["credentialId"])
    window.send("addCredential", device, credential={**passkey, "signCount": 0})
    site.sql(sa.update(PasskeyRow).values(sign_count=0))
    assert page.evaluate(ANSWER, page.evaluate(RAW, page.evaluate(ASK))) == [200, None]
    assert [row.backed_up for row in site.rows()] == [True]


def test_without_scripts_the_password_works(chromium: Browser, site: PasskeySite) -> None:
    window = Window(chromium, java_script_enabled=False)
    page = window.page
    page.goto(f"{ORIGIN}/login")
    expect(page.get_by_role("button", name=USE)).to_be_hidden()
    fill(page, "login", email=ADA, password=PASSWORD)
    signed_in(page)
    page.goto(f"{ORIGIN}/account/passkeys")
    expect(page.get_by_text("Passkeys need JavaScript")).to_be_visible()
    expect(page.get_by_role("button", name=ADD)).to_be_hidden()
    window.close()


def test_a_browser_without_passkeys(chromium: Browser, site: PasskeySite) -> None:
    window = Window(chromium)
    page = window.page
    page.add_init_script("delete window.PublicKeyCredential")
    page.goto(f"{ORIGIN}/login")
    expect(page.locator("#login-email")).to_have_attribute("autocomplete", "username")
    expect(page.get_by_role("button", name=USE)).to_be_hidden()
    page.goto(f"{ORIGIN}/login/passkey")
    expect(page.get_by_text("Passkeys need JavaScript")).to_be_visible()
    window.close()


class TestSecondFactor:
    @pytest.fixture
    def factor(self) -> dict[str, Any]:
        return {"required": lambda identity: identity.email == "mia@example.org"}

    def test_a_passkey_after_a_password(self, window: Window, site: PasskeySite) -> None:
        page = window.page
        no_suggestions(page)
        sign_in(page)
        window.device()
        add(page)
        sign_out(page)
        page.goto(f"{ORIGIN}/login")
        fill(page, "login", email=ADA, password=PASSWORD)
        assert page.url.startswith(f"{ORIGIN}/login/factor")
        press(page, "Use your passkey")
        signed_in(page)
        assert site.names()[-1] == ("passkey_used", "second_factor")
        sign_out(page)
        press(page, USE)  # alone, it is two factors
        signed_in(page)

    def test_a_user_who_must_have_a_factor_makes_a_passkey_during_the_sign_in(
        self, window: Window, site: PasskeySite
    ) -> None:
        page = window.page
        no_suggestions(page)
        window.device()
        page.goto(f"{ORIGIN}/register")
        fill(page, "register", email="mia@example.org", password=PASSWORD)
        page.goto(f"{ORIGIN}/login")
        fill(page, "login", email="mia@example.org", password=PASSWORD)
        press(page, "Use your passkey")
        signed_in(page, "mia@example.org")
        assert site.names() == [("passkey_added", None)]
        sign_out(page)
        press(page, USE)
        signed_in(page, "mia@example.org")


def test_the_answer_holds_only_what_the_server_needs(window: Window) -> None:
    with_passkey(window, to="/login")
    page = window.page
    with page.expect_request(lambda request: request.is_navigation_request()) as sent:
        press(page, USE)
    fields = dict(parse_qsl(str(sent.value.post_data)))
    credential = json.loads(fields["credential"])
    assert sorted(credential) == ["id", "rawId", "response", "type"]
    assert sorted(credential["response"]) == ["authenticatorData", "clientDataJSON", "signature", "userHandle"]
