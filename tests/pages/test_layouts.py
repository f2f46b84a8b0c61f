"""The pages inside a base template of the app, and the policy that the app widens for it (REP-34)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flask
import httpx
import jinja2
import litestar
import pytest
from flask import render_template_string
from litestar.template import TemplateConfig
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.templating import Jinja2Templates

from harness.pages_support import EMAIL, PASSWORD, Browser, Page, Site, SyncASGI, site
from powauth import Extension, SessionAuth
from powauth.errors import ConfigError
from powauth.integrations import asgi
from powauth.integrations.flask import PowAuth
from powauth.pages import Page as ExtensionPage
from powauth.pages import PageAnswer, Pages, PageVisit
from powauth.pages import asgi as asgi_pages
from powauth.pages import flask as flask_pages
from powauth.pages import litestar as litestar_pages
from powauth.pages import starlette as starlette_pages
from powauth.pages import wsgi as wsgi_pages

try:
    from litestar.plugins.jinja import JinjaTemplateEngine
except ImportError:  # an older Litestar
    from litestar.contrib.jinja import JinjaTemplateEngine

LAYOUT = """<!doctype html>
<html lang="en"><head><title>{% block title %}{% endblock %} - Heronry</title>
<link rel="stylesheet" href="https://cdn.example/site.css"></head>
<body><header><a href="{{ home }}">Home</a> {{ visitor }}</header>
<main>{% block content %}{% endblock %}</main></body></html>
"""
BARE = {"layout.html": "<title>{% block title %}{% endblock %}</title>{% block content %}{% endblock %}"}


def environment(templates: dict[str, str] = BARE, **options: Any) -> jinja2.Environment:
    return jinja2.Environment(loader=jinja2.DictLoader(templates), **{"autoescape": True, **options})


def browser_of(transport: httpx.BaseTransport, mount: str = "") -> Browser:
    found = Site("", transport, None, None, None, None, None, mount)  # type: ignore[arg-type] # a browser needs no more
    return found.browser()


def goes_through_the_pages(browser: Browser, home: str) -> list[Page]:
    """Register and sign in, and return the pages: each must be a part of the layout."""
    refused = browser.send(browser.get("/register"), email="<b>x</b>", password="short")
    account = browser.follow(browser.send(refused, email=EMAIL, password=PASSWORD))
    shown = [refused, account, browser.get("/account/sessions")]
    browser.post("/logout", {})
    shown += [browser.get("/login"), browser.get("/logout")]
    for page in shown:
        assert page.html.count("<html") == page.html.count("<main") == page.html.count("<h1") == 1
        assert f'<a href="{home}">Home</a>' in page.html
        assert page.find("link", href="https://cdn.example/site.css")
        assert page.html.index("<main>") < page.html.index('class="powauth part"') < page.html.index("</main>")
    assert "<title>Error: Create your account - Heronry</title>" in refused.html
    assert refused.by_id("register-email")["value"] == "<b>x</b>"
    assert "<b>x</b>" not in refused.html
    assert "<title>Your devices - Heronry</title>" in shown[2].html
    assert shown[4].status == 405
    return shown


def test_rep_34_c_under_flask_the_layout_has_the_context_of_the_request(tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    layout = LAYOUT.replace("{{ home }}", "{{ url_for('home') }}").replace(
        "<main>", "{% for each in get_flashed_messages() %}<p>{{ each }}</p>{% endfor %}<main>"
    )
    (tmp_path / "templates" / "layout.html").write_text(layout)
    with site("asgi", tmp_path) as here:
        app = flask.Flask(__name__, root_path=str(tmp_path))
        app.secret_key = "a secret of the app"
        PowAuth(app, here.auth)
        app.register_blueprint(flask_pages.pages(here.auth, base="layout.html"), url_prefix="/auth")

        @app.context_processor
        def visitor() -> dict[str, object]:
            return {"visitor": f"<{flask.request.path}>"}

        @app.get("/home")
        def home() -> str:
            flask.flash("Welcome & hello")
            return render_template_string("")

        browser = browser_of(httpx.WSGITransport(app), "/auth")
        shown = goes_through_the_pages(browser, "/home")
        assert "&lt;/auth/account/sessions&gt;" in shown[2].html
        browser.client.get("/home")
        assert ["Welcome &amp; hello" in browser.get("/login").html for _ in range(2)] == [True, False]


def test_rep_34_c_under_starlette_the_layout_has_the_request(tmp_path: Path) -> None:
    (tmp_path / "layout.html").write_text(LAYOUT.replace("{{ home }}", "{{ url_for('home').path }}"))
    templates = Jinja2Templates(tmp_path)
    with site("asgi", tmp_path) as here:
        pages = starlette_pages.pages(here.auth, base="layout.html", environment=templates.env)
        home = Route("/home", lambda _: PlainTextResponse(""), name="home")
        app = Starlette(routes=[home, Mount("/auth", routes=pages)])
        app.add_middleware(asgi.SessionAuthMiddleware, auth=here.auth)
        goes_through_the_pages(browser_of(SyncASGI(app), "/auth"), "/home")


def test_rep_34_c_under_litestar_the_layout_has_the_request(tmp_path: Path) -> None:
    (tmp_path / "layout.html").write_text(LAYOUT.replace("{{ home }}", "{{ url_for('home') }}"))
    engine = JinjaTemplateEngine(tmp_path)

    @litestar.get("/home", name="home", sync_to_thread=False)
    def home() -> str:
        return ""

    with site("asgi", tmp_path) as here:
        pages = litestar_pages.pages(here.auth, path="/auth", base="layout.html", environment=engine.engine)
        config: Any = TemplateConfig(instance=engine)
        app = litestar.Litestar([home, pages], template_config=config, openapi_config=None)
        transport = SyncASGI(asgi.SessionAuthMiddleware(app, here.auth))  # type: ignore[arg-type]
        goes_through_the_pages(browser_of(transport, "/auth"), "/home")


@pytest.mark.parametrize("framework", ["asgi", "wsgi"])
def test_rep_34_c_without_a_framework_the_layout_has_its_environment(framework: str, tmp_path: Path) -> None:
    own = environment({"layout.html": LAYOUT}, block_start_string="{%", line_statement_prefix="##")
    own.globals.update(home="/", visitor="anybody")
    with site(framework, tmp_path, base="layout.html", environment=own) as here:
        goes_through_the_pages(here.browser(), "/")


def test_a_layout_with_other_delimiters(tmp_path: Path) -> None:
    templates = {"layout.html": "<title>[% block title %][% endblock %]</title>[% block content %][% endblock %]"}
    own = environment(
        templates,
        block_start_string="[%",
        block_end_string="%]",
        variable_start_string="[[",
        variable_end_string="]]",
    )
    with site("asgi", tmp_path, base="layout.html", environment=own) as here:
        assert "<title>Sign in</title>" in here.browser().get("/login").html


def test_own_templates_and_those_of_extensions_are_parts_of_the_layout(tmp_path: Path) -> None:
    own, theirs = tmp_path / "own", tmp_path / "theirs"
    own.mkdir()
    theirs.mkdir()
    (own / "login.html").write_text('{% extends "powauth/login.html" %}{% block heading %}Ask Bo{% endblock %}')
    (theirs / "extra.html").write_text('{% extends "base.html" %}{% block heading %}Extra{% endblock %}')

    class Extra(Extension[Any]):
        name = "extra"

        async def show(self, visit: PageVisit) -> PageAnswer:
            del visit
            return PageAnswer()

        def pages(self) -> list[ExtensionPage]:
            return [ExtensionPage(name="extra", path="/extra", get=self.show, template="extra", folder=theirs)]

    options: Any = {"templates": own, "auth_options": {"extensions": [Extra()]}}
    with site("asgi", tmp_path, base="layout.html", environment=environment(), **options) as here:
        browser = here.browser()
        assert browser.get("/login").html.startswith("<title>Ask Bo</title>")
        assert browser.get("/extra").html.startswith("<title>Extra</title>")


def test_a_layout_without_the_block_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with site("asgi", tmp_path, base="layout.html", environment=environment({"layout.html": "Hi"})) as here:
        page = here.browser().get("/login")
        assert (page.status, page.text) == (500, "Something went wrong.")
        assert "{% block content %}{% endblock %}" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": "layout.html", "environment": environment(autoescape=False)}, "does not escape what it prints"),
        (
            {"base": "layout.html", "environment": environment(autoescape=jinja2.select_autoescape(["xml"]))},
            "autoescape=jinja2.select_autoescape",
        ),
        ({"base": "layout.html", "environment": environment(enable_async=True)}, "enable_async=False"),
        ({"base": "other.html", "environment": environment()}, "no template 'other.html'"),
        ({"base": "layout.html", "environment": Jinja2Templates(env=environment())}, "not Jinja2Templates"),
        ({"base": 7, "environment": environment()}, "base must be the name of a template"),
        ({"base": ""}, "base must be the name of a template"),
        ({"environment": environment()}, "environment needs base"),
        ({"csp": {"style": ["'self'"]}}, "cannot widen 'style'"),
        ({"csp": {"frame-ancestors": ["'self'"]}}, "cannot widen 'frame-ancestors'"),
        ({"csp": {"style-src": "https://cdn.example"}}, "which is no list"),
        ({"routes": "/login"}, "routes must be Routes"),
        ({"title": 5}, "title must be a text"),
        ({"defence": "https://a.example"}, "defence must be a CrossSiteDefence"),
        ({"messages": "Hello"}, "messages must be Messages"),
        ({"fresh": 15}, "fresh must be a timedelta"),
        ({"csp": {"style-src": 7}}, "which is no list"),
        ({"csp": ["style-src"]}, "not list"),
        ({"csp": {"style-src": ["https://a.example https://b.example"]}}, "one source in each text"),
        ({"csp": {"style-src": ["https://a.example; script-src *"]}}, "one source in each text"),
        ({"csp": {"style-src": ["https://a.example\nSet-Cookie:"]}}, "one source in each text"),
        ({"csp": {"style-src": ["https://a.example\n"]}}, "one source in each text"),
        ({"csp": {"style-src": ["https://a.example,"]}}, "one source in each text"),
        ({"csp": {"style-src": ["https://é.example"]}}, "one source in each text"),
        ({"csp": {"style-src": [""]}}, "one source in each text"),
        ({"csp": {"style-src": [7]}}, "one source in each text"),
        ({"csp": {"style-src": ["'none'"]}}, "only adds sources"),
        *(
            ({"csp": {name: [source]}}, f"csp refuses {source} in {name}".replace("*", r"\*"))
            for name in ("script-src", "worker-src")
            for source in ("'unsafe-inline'", "'Unsafe-Eval'", "*", "*:443", "https:", "http://*", "data:", "blob:")
        ),
    ],
)
def test_rep_34_c_options_that_are_wrong_fail_at_construction(
    options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with site("asgi", tmp_path) as here, pytest.raises(ConfigError, match=message):
        Pages(here.auth, **options)


def test_a_base_and_a_base_template_among_the_own_templates_contradict(tmp_path: Path) -> None:
    (tmp_path / "base.html").write_text("")
    with site("asgi", tmp_path) as here, pytest.raises(ConfigError, match="not both"):
        Pages(here.auth, templates=tmp_path, base="layout.html", environment=environment())


@pytest.mark.parametrize(
    "mounted", [asgi_pages.PagesApp, wsgi_pages.PagesApp, starlette_pages.pages, litestar_pages.pages]
)
def test_only_flask_has_an_environment_of_its_own(
    mounted: Callable[[SessionAuth[Any, Any] | Pages], object], tmp_path: Path
) -> None:
    with site("asgi", tmp_path) as here:
        with pytest.raises(ConfigError, match="base needs environment"):
            mounted(Pages(here.auth, base="layout.html"))
        mounted(Pages(here.auth))


def test_rep_34_c_an_environment_of_flask_that_does_not_escape_is_refused(tmp_path: Path) -> None:
    with site("asgi", tmp_path) as here:
        app = flask.Flask(__name__)
        with pytest.raises(ConfigError, match="does not escape"):
            app.register_blueprint(flask_pages.pages(here.auth, base="layout.txt"))
        app.jinja_env.autoescape = False
        with pytest.raises(ConfigError, match="does not escape"):
            app.register_blueprint(flask_pages.pages(here.auth, name="two", base="layout.html"))


def test_rep_34_c_the_app_widens_the_policy_of_all_pages(tmp_path: Path) -> None:
    csp = {
        "style-src": ["https://cdn.example", "'unsafe-inline'", "'self'"],
        "script-src": ("'self'", "https://cdn.example/site.js"),
        "font-src": ["data:"],
    }
    with site("asgi", tmp_path, csp=csp) as here:
        browser = here.browser()
        for path in ("/login", "/register", "/nowhere"):
            policy = str(browser.get(path).header("content-security-policy")).split("; ")
            assert policy == [
                "default-src 'none'",
                "style-src 'self' https://cdn.example 'unsafe-inline'",
                "img-src 'self'",
                "form-action 'self'",
                "base-uri 'none'",
                "frame-ancestors 'none'",
                "object-src 'none'",
                "script-src 'self' https://cdn.example/site.js",
                "font-src data:",
            ]
        program = here.program().get("/login")
        assert "https:" not in program.headers["content-security-policy"], "JSON loads nothing"
