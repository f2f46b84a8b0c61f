"""What an app may put in the place of what powauth brings: templates, texts, paths, destinations."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from harness.pages_support import EMAIL, MOUNTS, ORIGIN, PASSWORD, SyncASGI, site
from harness.support import SECRET, Clock, MemoryUsers
from powauth import CredentialsCache, SessionAuth
from powauth.backends.memory import MemoryBackend
from powauth.cli import main
from powauth.errors import ConfigError
from powauth.integrations.asgi import SessionAuthMiddleware
from powauth.pages import Messages, Pages, Routes
from powauth.pages.devices import device_name
from powauth.pages.shipped import SHIPPED
from powauth.pages.site import PagesOptions
from powauth.pages.starlette import pages as starlette_pages


@pytest.mark.parametrize("framework", MOUNTS)
def test_paths_and_destinations(framework: str, tmp_path: Path) -> None:
    routes = Routes(
        login="/users/sign-in",
        logout="/users/sign-out",
        account="/me",
        after_register="/welcome",
        after_login="/dashboard",
        after_logout="/bye",
        after_delete="/",
    )
    with site(framework, tmp_path, routes=routes, mount="/auth") as here:
        browser = here.browser()
        assert browser.get("/login").status == 404
        assert browser.send(browser.get("/register"), email=EMAIL, password=PASSWORD).location == "/welcome"
        assert browser.post("/users/sign-out", {}).location == "/bye"
        assert browser.get("/me").location == "/auth/users/sign-in?next=/auth/me"
        assert browser.send(browser.get("/users/sign-in"), email=EMAIL, password=PASSWORD).location == "/dashboard"
        assert browser.send(browser.get("/me"), "delete", current_password=PASSWORD).location == "/"


@pytest.mark.parametrize(
    "wrong",
    [
        {"login": "login"},
        {"login": "/login/"},
        {"login": "//login"},
        {"login": "/{login}"},
        {"login": "/a/../b"},
        {"login": ""},
        {"login": None},
        {"login": "/register"},
        {"after_login": "https://evil.example"},
        {"after_login": "//evil.example"},
        {"after_login": ""},
        {"after_logout": "/é"},
    ],
)
def test_paths_that_are_none_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Routes(**wrong)


def test_a_template_of_the_app_goes_before_the_shipped_one(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "login.html").write_text(
        '{% extends "powauth/login.html" %}{% block form_fields %}{{ super() }}<p>Ask Bo.</p>{% endblock %}'
    )
    (folder / "style.css").write_text("body { color: teal }")
    with site("asgi", tmp_path, templates=folder) as here:
        browser = here.browser()
        page = browser.get("/login")
        assert "Ask Bo." in page.text
        assert page.find("input", type="password")
        assert "Ask Bo." not in browser.get("/register").text
        assert browser.get("/powauth.css").html == "body { color: teal }"
        shipped = (SHIPPED / "style.css").read_text()
    with site("asgi", tmp_path) as here:
        plain = here.browser().get("/login")
        assert plain.find("link")[0]["href"] != page.find("link")[0]["href"], "no cache shows one for the other"
        assert here.browser().get("/powauth.css").html == shipped


def test_more_fields_need_a_template_and_no_code(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "account.html").write_text(
        '{% extends "powauth/account.html" %}{% block more_sections %}'
        '<form method="post" action="{{ links.account }}"><input type="hidden" name="action" value="update">'
        '<input name="email"><input type="password" name="current_password"></form>{% endblock %}'
    )
    with site("asgi", tmp_path, templates=folder) as here:
        browser = here.browser()
        browser.register()
        done = browser.send(browser.get("/account"), "update", email="bo@example.com", current_password=PASSWORD)
        assert "Your account has been changed" in browser.follow(done).text
        assert here.emails == ["bo@example.com"]
        refused = browser.send(browser.get("/account"), "update", email="bo", current_password="wrong")
        assert (refused.status, "E-mail has invalid format" in refused.text) == (422, True)


def test_every_text_comes_from_the_messages(tmp_path: Path) -> None:
    """Nothing of the shipped templates is left in English once all messages are in another language."""
    english = Messages()
    silent: dict[str, Any] = {}
    for name in Messages.__dataclass_fields__:
        value = getattr(english, name)
        if isinstance(value, dict):
            silent[name] = dict.fromkeys(value, "§")
        elif name not in ("lang", "direction", "time_format"):
            silent[name] = "§"
    with site("wsgi", tmp_path, messages=Messages(**silent), title="§") as here:
        browser = here.browser(**{"user-agent": ""})
        pages = [browser.get("/login"), browser.get("/register"), browser.get("/nowhere")]
        browser.register()
        here.browser(**{"user-agent": ""}).sign_in()
        pages += [browser.get("/account"), browser.get("/account/sessions")]
        pages += [browser.send(pages[-2], "delete", current_password="x"), browser.get("/login?next=/x")]
        for page in pages:
            words = page.text.replace(EMAIL, "").replace("2030-03-17 17:46 UTC", "").replace("127.0.0.1", "")
            assert not [character for character in words if character.isalpha()], page.text
            assert not [found for _, found in page.tags if found.get("aria-label") not in (None, "§")]


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/140.0 Safari/537.36 Edg/140.0", "Edge on Windows"),
        ("Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537.36 Chrome/140.0 Safari/537.36 OPR/120", "Opera on Windows"),
        (
            "Mozilla/5.0 (Linux; Android 15) SamsungBrowser/28 Chrome/130 Mobile Safari/537.36",
            "Samsung Internet on Android",
        ),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) CriOS/140 Mobile Safari/604.1", "Chrome on iPhone"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) Version/18.5 Safari/605.1.15", "Safari on macOS"),
        ("Mozilla/5.0 (X11; CrOS x86_64) AppleWebKit/537.36 Chrome/140.0 Safari/537.36", "Chrome on ChromeOS"),
        ("Firefox/1", "Firefox"),
        ("x" * 300, "x" * 80),
        (" ", "Unknown device"),
        (None, "Unknown device"),
        (7, "Unknown device"),
    ],
)
def test_devices_go_by_the_browser_and_its_system(agent: object, name: str) -> None:
    assert device_name(agent, Messages()) == name


def test_options_that_are_wrong_are_refused(tmp_path: Path) -> None:
    with site("asgi", tmp_path) as here:
        with pytest.raises(ConfigError, match="SessionAuth"):
            Pages(object())  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="folder"):
            Pages(here.auth, templates=tmp_path / "nowhere")


def test_the_command_copies_the_templates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "deep" / "templates"
    assert main(["templates", str(folder)]) == 0
    written = capsys.readouterr().out.split()
    assert written == [str(folder / path.name) for path in sorted(SHIPPED.iterdir())]
    for path in SHIPPED.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    (folder / "login.html").write_text("mine")
    (folder / "base.html").unlink()
    assert main(["templates", str(folder)]) == 2
    assert "already" in capsys.readouterr().err
    assert not (folder / "base.html").exists()
    assert (folder / "login.html").read_text() == "mine"
    assert main(["templates", "--force", str(folder)]) == 0
    assert (folder / "login.html").read_text() != "mine"
    assert main(["templates", str(folder / "login.html" / "below")]) == 2
    with site("asgi", tmp_path, templates=folder) as here:
        assert here.browser().get("/login").status == 200


def test_what_is_missing_is_named_with_its_extra() -> None:
    """Each framework, and Jinja2, is asked for where it is used, and not before."""
    code = """
import importlib, sys
missing, module = sys.argv[1:]
sys.modules[missing] = None
from powauth.pages import BasePages, Messages, Routes
from powauth.pages.asgi import PagesApp
from powauth.pages.wsgi import PagesApp
try:
    importlib.import_module(module)
except ValueError as error:
    print(error)
"""
    for missing, module, extra in (
        ("jinja2", "powauth.pages.rendering", "pages"),
        ("starlette.routing", "powauth.pages.starlette", "starlette"),
        ("fastapi", "powauth.pages.fastapi", "fastapi"),
        ("litestar", "powauth.pages.litestar", "litestar"),
        ("flask", "powauth.pages.flask", "flask"),
    ):
        command = [sys.executable, "-c", code, missing, module]
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
        assert f"powauth[{extra}]" in done.stdout


def test_two_kinds_of_users_have_pages_of_their_own() -> None:
    """Users and admins in one app, one browser signed in to both, and nothing shared."""
    auths = {}
    for kind in ("user", "admin"):
        store = CredentialsCache(MemoryBackend(), namespace=kind)
        auths[kind] = SessionAuth(
            secret_key=SECRET,
            users=MemoryUsers(),
            store=store,
            session_key=kind,
            current_user_key=f"current_{kind}",
            clock=Clock(),
        )
    app = Starlette(routes=[Mount(f"/{kind}", routes=starlette_pages(auth)) for kind, auth in auths.items()])
    for auth in auths.values():
        app.add_middleware(SessionAuthMiddleware, auth=auth)
    client = httpx.Client(transport=SyncASGI(app), base_url=ORIGIN, headers={"accept": "application/json"})
    for kind in auths:
        made = client.post(f"/{kind}/register", json={"email": f"{kind}@example.com", "password": PASSWORD})
        assert made.status_code == 201
    assert set(client.cookies) == {"__Host-user", "__Host-admin"}
    for kind in auths:
        assert client.get(f"/{kind}/account").json()["user"]["email"] == f"{kind}@example.com"
    assert client.post("/admin/logout", headers={"origin": ORIGIN}).status_code == 204
    assert client.get("/admin/account").status_code == 401
    assert client.get("/user/account").status_code == 200


def test_the_template_in_the_documentation_works(tmp_path: Path) -> None:
    page = Path(__file__).parent.parent.parent / "docs" / "pages.md"
    templates = re.findall(r"```jinja\n(.*?)```", page.read_text(), re.DOTALL)
    (source,) = (each for each in templates if "powauth/register.html" in each)
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "register.html").write_text(source)
    with site("asgi", tmp_path, templates=folder) as here:
        browser = here.browser()
        refused = browser.send(browser.get("/register"), email="x", password=PASSWORD, name="<Mia>")
        assert refused.by_id("register-name")["value"] == "<Mia>"
        assert refused.by_id("register-password")["autocomplete"] == "new-password"


def test_every_option_and_path_is_documented() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "pages.md").read_text()
    for name in (*PagesOptions.__annotations__, *Routes.__dataclass_fields__):
        assert f"`{name}`" in page
    for template in SHIPPED.glob("*.html"):
        assert f"`{template.name}`" in page
        for block in re.findall(r"{% block (\w+)", template.read_text()):
            assert f"`{block}`" in page
