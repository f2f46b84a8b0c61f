"""Makes the screenshots of the pages in ``docs/images``: ``python -m scripts.page_images``. It needs Chromium.

The browser tests also use `walk`, which shows every page in every state that looks different.
"""

import logging
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from playwright.sync_api import Browser, BrowserContext, Page, Playwright, sync_playwright

from .small_png import small

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
FOLDER = Path(__file__).parent.parent / "docs" / "images"
WIDTHS = (320, 1280)
SCHEMES: Final = ("light", "dark")
EMAIL = "mia@example.org"
PASSWORD = "nine grey herons wade"  # noqa: S105 - of a user who is created and deleted here
PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 Version/18.5 Mobile Safari/604.1"
LAPTOP = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"

SHOWN = ("register", "login", "login-refused", "account", "sessions", "failure")
"""The states of `walk` of which screenshots are kept. Those of `walk_suite` are all kept."""

ADMINISTRATOR = "ada@example.org"
TOKEN = "#token"  # noqa: S105 - any text: a page looks at the token when the form is sent


def launch(playwright: Playwright, *, keeps_pages: bool = False) -> Browser:
    """Start Debian's Chromium without a window.

    Args:
        playwright: drives the browser.
        keeps_pages: whether the browser keeps whole pages for the back button, as users' browsers do. Each kept page
            takes a process.
    """
    without = ["--disable-back-forward-cache"] if keeps_pages else []
    return playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS), ignore_default_args=without)


def fill(page: Page, form: str, **fields: str) -> None:
    """Fill the fields of a form by name, send the form, and wait for the next page."""
    for name, value in fields.items():
        page.locator(f"#{form}-{name}").fill(value)
    with page.expect_navigation():
        page.locator("form", has=page.locator(f"#{form}-{next(iter(fields))}")).get_by_role("button").click()


def press(page: Page, name: str) -> None:
    """Press a button, and wait for the next page."""
    with page.expect_navigation():
        page.get_by_role("button", name=name, exact=True).click()


def walk(page: Page, elsewhere: BrowserContext, url: str, user_id: str = EMAIL, field: str = "email") -> Iterator[str]:
    """Bring the page into each state, and yield the name of the state. Delete the account at the end.

    Args:
        page: a page of a browser that is not signed in.
        elsewhere: another browser, as another device.
        url: the URL of an app with the pages.
        user_id: the user id of a new user.
        field: the name of its field.
    """
    who = {field: user_id}
    page.goto(f"{url}/register")
    yield "register"
    fill(page, "register", **who, password="short")  # noqa: S106 - is refused
    yield "register-refused"
    fill(page, "register", **who, password=PASSWORD)
    yield "account-registered"
    page.goto(f"{url}/account")
    yield "account"
    page.locator("#password-current_password").fill("not the password")
    fill(page, "password", password="short")  # noqa: S106 - is refused
    yield "account-refused"
    fill(page, "delete", current_password="not the password")  # noqa: S106 - is refused
    yield "account-delete-refused"
    page.goto(f"{url}/account/sessions")
    yield "sessions-one"
    other = elsewhere.new_page()
    other.goto(f"{url}/login")
    fill(other, "login", **who, password=PASSWORD)
    other.close()
    page.goto(f"{url}/account/sessions")
    yield "sessions"
    press(page, "Sign out all other devices")
    yield "sessions-ended"
    page.goto(f"{url}/login?next=/account")
    yield "login-again"
    press(page, "Sign out")
    yield "login-signed-out"
    page.goto(f"{url}/logout")
    yield "failure"
    page.goto(f"{url}/account")
    yield "login-first"
    page.goto(f"{url}/login")
    yield "login"
    fill(page, "login", **who, password="not the password")  # noqa: S106 - is refused
    yield "login-refused"
    fill(page, "login", **who, password=PASSWORD)
    fill(page, "delete", current_password=PASSWORD)
    yield "login-deleted"


def walk_suite(page: Page, url: str) -> Iterator[str]:
    """Bring the page into the states of the extensions' pages, and yield their names.

    Args:
        page: a page of a browser that is not signed in.
        url: the URL of the demo, where nobody has registered yet.
    """
    page.goto(f"{url}/register")
    fill(page, "register", email=ADMINISTRATOR, password=PASSWORD)
    page.goto(f"{url}/account/invitations")
    for address in ("leo@example.org", "kim@example.org"):
        fill(page, "invite", email=address)
    press(page, "Make a link")
    yield "invitations"
    page.goto(f"{url}/account/keys")
    fill(page, "key", name="Nightly report")
    page.goto(f"{url}/account/keys")
    fill(page, "key", name="Backup")
    yield "keys"
    page.goto(f"{url}/account")
    fill(page, "user_id", email="ada@new.example", current_password=PASSWORD)
    page.goto(f"{url}/confirm-email/change{TOKEN}")
    yield "confirm-change"
    while page.goto(f"{url}/account/activity"):  # entries are written in the background
        if page.get_by_text("You signed in").count():
            break
    yield "activity"
    press(page, "Sign out")
    page.goto(f"{url}/login")
    page.get_by_role("link", name="Forgot your password?").click()
    yield "forgot"
    for state, path in {
        "reset": "/password/reset",
        "confirm": "/confirm-email",
        "undo": "/confirm-email/undo",
        "invitation": "/invitation",
    }.items():
        page.goto(f"{url}{path}{TOKEN}")
        yield state


def serve(data: str) -> str:
    """Run the demo's Flask app in a thread of this process. Return its URL."""
    os.environ["POWAUTH_DEMO_DATA"] = data
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    from demo.config import prepare, settings
    from werkzeug.serving import make_server

    prepare(settings())
    from demo.flask_app import app

    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.port}"


def take(page: Page, state: str) -> None:
    """Take the screenshots of a state."""
    for width in WIDTHS:
        for scheme in SCHEMES:
            page.set_viewport_size({"width": width, "height": 640})
            page.emulate_media(color_scheme=scheme)
            file = FOLDER / f"{state}-{width}-{scheme}.png"
            file.write_bytes(small(page.screenshot(full_page=True)))


def main() -> int:
    """Take all screenshots."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data, sync_playwright() as playwright:
        url = serve(data)
        browser = launch(playwright)
        page, phone = browser.new_context(user_agent=LAPTOP).new_page(), browser.new_context(user_agent=PHONE)
        for state in walk_suite(page, url):
            take(page, state)
        for state in walk(page, phone, url):
            if state in SHOWN:
                take(page, state)
        browser.close()
    print(f"{sum(path.stat().st_size for path in FOLDER.glob('*.png')) / 1024:.0f} KiB in {FOLDER}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
