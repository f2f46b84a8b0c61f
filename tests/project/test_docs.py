"""The programs in ``docs/``: every page says what to install, and its programs run as printed, with their own tests."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import types
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import flask
import pytest
from scripts.page_journeys import follow, journey, serving
from scripts.page_programs import ROOT, Page, read_page, read_pages, uncounted_lines
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Session
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient
from werkzeug.security import generate_password_hash

from harness.rows import ALCHEMY_SUITS_LITESTAR
from harness.support import SECRET, Clock, FakeConnection, MemoryUsers
from powauth import RequestAuth, SessionAuth
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.base import drive
from powauth.integrations.asgi import SessionAuthMiddleware
from powauth.integrations.flask import PowAuth, current_user
from powauth.testing import sign_in

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
WITH_PROGRAMS = [page for page in read_pages() if page.programs]
BIN = Path(sys.executable).parent

TRIED = ("fastapi", "flask", "starlette", "litestar", "plain")
"""The pages that print commands to try their programs."""

NEEDED_BY = {
    "fastapi": r"from fastapi import",
    "starlette": r"from starlette\.applications import",
    "litestar": r"from litestar import",
    "flask": r"from flask import",
    "users": r"from powauth\.accounts\.(sqlalchemy|passwords|identifiers|schemes) import",
    "lmdb": r"backend=\"lmdb:",
    "pages": r"from powauth\.pages\.",
    "totp": r"import .*\bTotp\b",
    "passkeys": r"from powauth\.extensions\.passkeys import",
}
"""Extras to what a program has that needs one."""


ALCHEMY = "advanced_alchemy.extensions.litestar"


def named(page: Page) -> str:
    return page.name


def run(page: str, *only: str) -> dict[str, Any]:
    """The names that a page's programs define, all of them or some, run one after the other as one module."""
    module = types.ModuleType(f"docs_{page.removesuffix('.md')}")
    sys.modules[module.__name__] = module  # frameworks look up annotations there
    for program in read_page(DOCS / page).programs:
        if not only or program.name in only:
            exec(compile(program.text, page, "exec"), vars(module))
    return vars(module)


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_every_block_compiles(page: Path) -> None:
    for block in blocks(page.name):
        compile(block, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
        assert link.startswith("https://") or (page.parent / link).exists(), link


@pytest.mark.parametrize("page", WITH_PROGRAMS, ids=named)
def test_the_programs_run_and_their_own_tests_pass(page: Page, tmp_path: Path) -> None:
    programs = [each for each in page.programs if ALCHEMY_SUITS_LITESTAR or ALCHEMY not in each.text]
    found = follow(page._replace(programs=programs), lambda _: BIN, tmp_path)
    assert {program.name: outcome for program, outcome in found} == {program.name: "ok" for program in programs}


@pytest.mark.parametrize("page", read_pages(), ids=named)
def test_a_page_with_a_program_says_what_to_install_and_how_to_run_it(page: Page) -> None:
    assert page.strays == []
    assert page.lines
    assert page.programs
    for program in page.programs:
        assert any(line.startswith("powauth") for line in program.requirements), program.name
        command = program.command.partition(" ")[0]
        assert command in {*program.requirements, "flask", "python"}, program.name


@pytest.mark.parametrize("page", WITH_PROGRAMS, ids=named)
def test_a_page_names_the_extras_that_its_programs_need_and_no_others(page: Page) -> None:
    text = "\n".join(program.text for program in page.programs)
    asked = {
        extra for line in page.lines for found in re.findall(r"powauth\[(.+?)\]", line) for extra in found.split(",")
    }
    assert asked == {extra for extra, pattern in NEEDED_BY.items() if re.search(pattern, text)}


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: str(page.name))
def test_no_page_hides_an_install_line_in_its_prose(page: Path) -> None:
    assert uncounted_lines(page) == 0


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: str(page.name))
def test_a_page_whose_program_reads_a_secret_says_how_to_make_one(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    if 'os.environ["SECRET_KEY"]' in text:
        assert "> secret_key\n    export SECRET_KEY=$(cat secret_key)\n" in text


COMMAND = re.compile(r"^    ((?:curl|uvicorn|flask|gunicorn) .+)$", re.MULTILINE)
PRINTED_PORTS = {"uvicorn": "8000", "flask": "5000", "gunicorn": "8001"}


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is missing: install the Debian package curl")
@pytest.mark.parametrize(
    "page", [read_page(ROOT / name) for name in ("README.md", *(f"docs/{each}.md" for each in TRIED))], ids=named
)
def test_the_printed_commands_reach_a_signed_in_user(page: Page, tmp_path: Path) -> None:
    """A new user copies the programs, the commands of the servers and those of curl."""
    commands = COMMAND.findall((ROOT / page.name).read_text(encoding="utf-8"))
    servers = [command.replace(" --bind localhost:8001", "") for command in commands if not command.startswith("curl")]
    page.write(tmp_path)
    environment = os.environ | {"SECRET_KEY": SECRET}
    answers = []
    with ExitStack() as stack:
        ports = {}
        for program in page.programs:
            if program.command in servers:
                port = stack.enter_context(serving(program, BIN, tmp_path, environment))
                ports[PRINTED_PORTS[program.command.partition(" ")[0]]] = str(port)
        assert len(ports) == len(servers)
        for command in commands:
            if command.startswith("curl"):
                line = re.sub(r"localhost:(\d+)", lambda found: f"localhost:{ports[found[1]]}", command)
                done = subprocess.run(
                    [*shlex.split(line), "-sSf"], check=False, cwd=tmp_path, capture_output=True, text=True
                )
                assert done.returncode == 0, f"{command}: {done.stderr}"
                answers.append((command, done.stdout))
    known = [text for command, text in answers if command.endswith("/me") and "-X" not in command]
    assert known
    assert all("mia@example.org" in text for text in known)


# --- the reader of the pages and the user's way through a program ---------------------------------------------------

SAMPLE = """# A page

    pip install 'powauth[users]' uvicorn

```python
# app.py: uvicorn app:app
first = 1
```

Words.

```python
second = first
```

    pip install pytest

```python
# test_app.py: pytest test_app.py
third = 3
```
"""


def test_a_page_is_read_from_top_to_bottom(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(SAMPLE)
    page = read_page(tmp_path / "page.md")
    assert page.lines == ["'powauth[users]' uvicorn", "pytest"]
    app, test = page.programs
    assert app[:3] == ("app.py", "uvicorn app:app", ("powauth[users]", "uvicorn"))
    assert app.text.splitlines() == ["# app.py: uvicorn app:app", "first = 1", "", "second = first"]
    assert (app.is_served, app.is_test, test.is_served, test.is_test) == (True, False, False, True)
    assert test.requirements == ("powauth[users]", "uvicorn", "pytest")


class Careless(BaseHTTPRequestHandler):
    """A server that lets everybody in as whoever registered last."""

    who = ""

    def do_GET(self) -> None:
        self.answer(200 if self.who else 401)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path == "/register":
            type(self).who = json.loads(body)["email"]
        self.answer(200)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("set-cookie", "session=1")
        self.end_headers()
        self.wfile.write(self.who.encode())

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def test_a_program_that_lets_everybody_in_is_found_out() -> None:
    with HTTPServer(("127.0.0.1", 0), Careless) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            assert journey(server.server_port, []) == "FAILED: sign in, be rejected"
        finally:
            server.shutdown()
            thread.join()


# --- extending.md ---------------------------------------------------------------------------------------------------


def test_the_suite_of_extending_md_tests_the_backend_that_it_is_given() -> None:
    suite = run("extending.md", "test_backend.py")["TestMyBackend"]
    suite().test_what_was_created_is_read_back_unchanged()
    suite().test_rep_61_no_step_of_delete_owner_lets_a_create_slip_past()


def test_the_subclass_of_extending_md_does_what_it_says() -> None:
    names = run("extending.md", "office_hours.py")
    users, clock = MemoryUsers(), Clock(12 * 3600.0)  # noon
    ada, bo = users.add("ada@example.org"), users.add("bo@example.org", name="night watch")

    office_hours: type[SessionAuth[Any, Any]] = names["OfficeHours"]
    auth = office_hours(secret_key=SECRET, users=users, backend="memory://", clock=clock)
    app = flask.Flask("extended")
    PowAuth(app, auth)
    app.add_url_rule("/", view_func=lambda: {"user": current_user.email if current_user else None})
    client = app.test_client()
    sign_in(client, ada)
    assert client.get("/").json == {"user": ada.email}
    clock.advance(6 * 3600 + 1 - 30 * 60)
    sign_in(client, ada)
    assert client.get("/").json == {"user": ada.email}
    clock.advance(30 * 60 - 1)
    assert client.get("/").json == {"user": None}, "after office hours"
    night_watch = app.test_client()
    sign_in(night_watch, bo)
    assert night_watch.get("/").json == {"user": bo.email}


@pytest.mark.parametrize("name", ["audit_log", "aiohttp_integration"])
def test_extending_md_shows_the_programs_of_the_examples(name: str) -> None:
    (shown,) = (program for program in read_page(DOCS / "extending.md").programs if program.name == f"{name}.py")
    header, _, text = shown.text.partition("\n")
    assert header == f"# {name}.py: python {name}.py"
    assert text == (ROOT / "examples" / f"{name}.py").read_text()


# --- migrating.md ---------------------------------------------------------------------------------------------------


class Base(DeclarativeBase): ...


class Account(UserMixin, Base):
    __tablename__ = "accounts"


@pytest.mark.parametrize("method", ["scrypt:1024:8:1", "pbkdf2:sha256:1000"])
def test_old_hashes_sign_in_once_and_are_replaced(method: str) -> None:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    program = run("migrating.md")
    hasher = program["hasher"]
    users = SQLAlchemyUsers(engine, Account, hasher=hasher)
    params: dict[str, object] = {"email": "mia@example.org", "password": "five brown owls hoot"}
    drive(users.create(params))
    with Session(engine) as session, session.begin():
        account = session.scalars(select(Account)).one()
        account.password_hash = generate_password_hash(str(params["password"]), method)
    auth = SessionAuth(secret_key=SECRET, users=users, backend="memory://")
    assert drive(RequestAuth(auth, FakeConnection()).sign_in({**params, "password": "six brown owls hoot"})) is None
    with Session(engine) as session:
        assert "$argon2id$" not in str(session.scalars(select(Account)).one().password_hash)
    for _ in range(2):
        assert drive(RequestAuth(auth, FakeConnection()).sign_in(params)) is not None
        with Session(engine) as session:
            assert "$argon2id$" in str(session.scalars(select(Account)).one().password_hash)
    engine.dispose()
    program["engine"].dispose()
    hasher.close()


def test_flasks_old_sessions_move_in_once() -> None:
    users = MemoryUsers()
    ada = users.add("ada@example.org")
    app = flask.Flask("moving")
    app.secret_key = "flask's own, for its session"
    auth = SessionAuth(secret_key=SECRET, users=users, backend="memory://")
    PowAuth(app, auth)
    run("migrating-flask.md", "moving.py")["move_in"](app, users.rows.get)
    app.add_url_rule("/", view_func=lambda: {"user": current_user.email if current_user else None})
    client = app.test_client()
    with client.session_transaction() as session:
        session["_user_id"], session["cart"] = ada.id, "full"
    assert client.get("/").json == {"user": ada.email}
    with client.session_transaction() as session:
        assert dict(session) == {"cart": "full"}
    assert client.get("/").json == {"user": ada.email}
    drive(auth.revoke_user(ada))
    assert client.get("/").json == {"user": None}
    with client.session_transaction() as session:
        session["_user_id"] = "unknown"
    assert client.get("/").json == {"user": None}


@pytest.mark.parametrize("cookie", ["", "old"])
def test_starlettes_old_sessions_move_in_once(cookie: str) -> None:
    users = MemoryUsers()
    ada = users.add("ada@example.org")
    auth = SessionAuth(secret_key=SECRET, users=users, backend="memory://")

    async def whoami(request: Request) -> Response:
        user = request.state.current_user
        return JSONResponse({"user": None if user is None else user.email})

    async def old_login(request: Request) -> Response:
        request.session.update(user_id=ada.id, cart="full")
        return JSONResponse({})

    async def old_user(scope: Any) -> Any:
        return users.rows.get(scope["session"].pop("user_id", None))

    move_in = run("migrating-asgi.md", "moving.py")["MoveIn"]
    session = Middleware(SessionMiddleware, secret_key="starlette's own", https_only=True)
    old = Starlette(routes=[Route("/", old_login)], middleware=[session])
    new = Starlette(
        routes=[Route("/", whoami)],
        middleware=[
            session,
            Middleware(SessionAuthMiddleware, auth=auth),
            Middleware(move_in, old_user=old_user, cookie=cookie),
        ],
    )
    before, after = TestClient(old, base_url="https://app.example"), TestClient(new, base_url="https://app.example")
    before.get("/")
    after.cookies.update(before.cookies)
    after.cookies.set("old", "1", domain="app.example")
    assert after.get("/").json() == {"user": ada.email}
    assert after.get("/").json() == {"user": ada.email}
    assert ("old" in after.cookies) is (cookie == "")
    drive(auth.revoke_user(ada))
    assert after.get("/").json() == {"user": None}


def test_the_readme_names_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in PAGES if f"docs/{page.name}" not in readme and not is_include(page)] == []


def is_include(page: Path) -> bool:
    """Whether a page only puts a file of the root on the site: the README or the changelog."""
    return page.read_text().startswith("```{include} ../")
