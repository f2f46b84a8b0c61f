"""The pages inside a base template of an app, with a style sheet of another origin, in a real browser (REP-34)."""

import importlib.resources
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import flask
import jinja2
import pytest
import sqlalchemy as sa
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright
from scripts.page_images import CHROMIUM, SCHEMES, WIDTHS, launch, walk
from werkzeug.serving import make_server

from harness.support import SECRET
from harness.users_databases import Base, blocking_engine, cheap_hasher, table_name
from powauth import CookieCarrier, SessionAuth
from powauth.accounts.sqlalchemy import AccountMixin, SQLAlchemyUsers, UsernameMixin
from powauth.backends.memory import MemoryBackend
from powauth.errors import ConfigWarning
from powauth.integrations.flask import PowAuth
from powauth.pages.flask import pages

if not CHROMIUM.exists():
    pytest.skip("Chromium is not installed: scripts/system_packages.sh", allow_module_level=True)

LAYOUT = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{% block title %}{% endblock %} - Heronry</title>
<link rel="stylesheet" href="{{ cdn }}/site.css"></head>
<body><header><a href="{{ url_for('home') }}">Heronry</a></header>
<main>{% block content %}{% endblock %}</main><footer><p>Open all year</p></footer></body></html>
"""
BOOTSTRAP = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{% block title %}{% endblock %} - Heronry</title>
<link rel="stylesheet" href="{{ cdn }}/bootstrap.css"></head>
<body class="d-flex flex-column min-vh-100">
<nav class="navbar bg-body-tertiary border-bottom"><div class="container">
<a class="navbar-brand" href="{{ url_for('home') }}">Heronry</a></div></nav>
<main class="container py-4 flex-grow-1">{% block content %}{% endblock %}</main>
<footer class="container py-3 border-top text-body-secondary">Open all year</footer></body></html>
"""
BOOTSTRAP_SHEET = importlib.resources.files("flask_bootstrap") / "static" / "bootstrap5" / "css" / "bootstrap.min.css"
SHEET = """
:root { color-scheme: light dark; --powauth-accent: light-dark(#5b21b6, #c4b5fd) }
body { margin: 0; font-family: monospace; background: Canvas; color: CanvasText }
header, footer { padding: 1rem; border: 0 solid; border-block-width: 1px }
header a { color: inherit }
h1 { font-size: 7rem }
"""
ACCENT = "rgb(91, 33, 182)"


class Keeper(UsernameMixin, AccountMixin, Base):
    __tablename__ = table_name()


@contextmanager
def serving(app: flask.Flask) -> Iterator[str]:
    """Serve an app in a thread of this process, and return its origin."""
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def cdn() -> Iterator[str]:
    """Another origin: a server with two style sheets."""
    app = flask.Flask("cdn")
    for name, sheet in {"site.css": SHEET, "bootstrap.css": BOOTSTRAP_SHEET.read_text("utf-8")}.items():
        app.add_url_rule(f"/{name}", name, partial(flask.Response, sheet, mimetype="text/css"))
    with serving(app) as origin:
        yield origin


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = launch(driver)
        yield browser
        browser.close()


@contextmanager
def heronry(engine: sa.Engine, cdn: str, layout: str = LAYOUT, **options: Any) -> Iterator[str]:
    """An app whose users have user names, with the pages in its layout."""
    users = SQLAlchemyUsers(engine, Keeper, user_id_field="username", hasher=cheap_hasher())
    with pytest.warns(ConfigWarning, match="insecure_http"):
        carrier = CookieCarrier(insecure_http=True)
    auth = SessionAuth(secret_key=SECRET, users=users, backend=MemoryBackend(), carrier=carrier)
    app = flask.Flask("heronry")
    app.jinja_loader = jinja2.DictLoader({"layout.html": layout})
    app.jinja_env.globals["cdn"] = cdn
    PowAuth(app, auth)
    app.register_blueprint(pages(auth, base="layout.html", **options))
    app.add_url_rule("/", "home", lambda: "Welcome")
    with serving(app) as origin:
        yield origin


def texts_of_the_console(page: Page) -> list[str]:
    """Return a list that grows with the messages of the browser's console."""
    found: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        found.append(message.text)

    page.on("console", listen)
    return found


def style_of(page: Page, selector: str, name: str) -> str:
    found: str = page.eval_on_selector(selector, "(element, name) => getComputedStyle(element)[name]", name)
    return found


@pytest.mark.parametrize(
    ("driver", "layout"),
    [("sqlite", LAYOUT), ("postgresql+psycopg", BOOTSTRAP)],
    ids=["a layout of its own, SQLite", "Bootstrap, PostgreSQL"],
)
def test_rep_34_the_pages_are_whole_in_a_layout_with_user_names(
    chromium: Browser, cdn: str, driver: str, layout: str, tmp_path: Path
) -> None:
    """Every page in every state: nothing says "e-mail", axe finds nothing, and nothing breaks the policy."""
    axe = importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")
    found: list[str] = []
    seen: set[str] = set()
    with (
        blocking_engine(driver, str(tmp_path), Keeper) as engine,
        heronry(engine, cdn, layout, csp={"style-src": [cdn]}) as app,
        chromium.new_context(bypass_csp=False) as context,
        chromium.new_context() as elsewhere,
    ):
        page = context.new_page()
        complaints = texts_of_the_console(page)
        for state in walk(page, elsewhere, app, f"mia_{secrets.token_hex(4)}", "username"):
            seen.add(state)
            if "mail" in page.content().lower():
                found.append(f"{state}: speaks of e-mail")
            if page.title().removeprefix("Error: ") != f"{page.locator('h1').inner_text()} - Heronry":
                found.append(f"{state}: {page.title()}")
            page.evaluate(axe)
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 640})
                if page.evaluate("document.documentElement.scrollWidth") > width:
                    found.append(f"{state} {width}: wider than the window")
                for scheme in SCHEMES:
                    page.emulate_media(color_scheme=scheme)
                    result = page.evaluate("axe.run({resultTypes: ['violations'], preload: false})")
                    found += [
                        f"{state} {width} {scheme}: {wrong['id']}: {wrong['help']}" for wrong in result["violations"]
                    ]
    found += [text for text in complaints if "Content Security Policy" in text]
    assert not found, "\n".join(found)
    assert len(seen) == 16


def test_rep_34_c_a_style_sheet_of_another_origin_needs_a_wider_policy(
    chromium: Browser, cdn: str, tmp_path: Path
) -> None:
    """The layout keeps its own look, and powauth's rules stay in their part."""
    with blocking_engine("sqlite", str(tmp_path), Keeper) as engine, chromium.new_context() as context:
        for csp, loaded in (({}, False), ({"style-src": [cdn]}, True)):
            page = context.new_page()
            page.emulate_media(color_scheme="light")
            refused = texts_of_the_console(page)
            with heronry(engine, cdn, csp=csp) as app:
                page.goto(f"{app}/login")
                assert bool([text for text in refused if "site.css" in text]) is not loaded
                assert ("monospace" in style_of(page, "body", "fontFamily")) is loaded
                assert ("monospace" in style_of(page, "main h1", "fontFamily")) is loaded
                button = style_of(page, "main button", "backgroundColor")
                assert (button == ACCENT) is loaded
                assert style_of(page, "header a", "color") != button
                page.close()
