"""``--app``: finds the app as servers do, says what failed, and runs as a process."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cli_apps import App, app_in, forget
from powauth.cli import Status, main

COMMAND = str(Path(sys.executable).with_name("powauth"))
PATIENCE = 120
PASSWORD = "seven red herons"


@pytest.fixture(autouse=True)
def _in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    forget()


@pytest.fixture
def app(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[App]:
    with app_in(tmp_path, capsys) as made:
        yield made


def powauth(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    given: dict[str, object] = {"capture_output": True, "text": True, "timeout": PATIENCE} | options
    return subprocess.run([COMMAND, *arguments], check=False, **given)  # type: ignore[call-overload, no-any-return]


def named(name: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The status and the errors of ``users list`` with this ``--app``."""
    forget()
    status = main(["--app", name, "users", "list", "--json"])
    printed = capsys.readouterr()
    assert printed.out == ""
    return status, printed.err


# --- finding it -------------------------------------------------------------------------------------------------------

FRAMEWORKS = """
import types
from flask import Flask
from starlette.applications import Starlette
from powauth.integrations.asgi import SessionAuthMiddleware
from powauth.integrations.flask import PowAuth

state = types.SimpleNamespace(auth=auth)


def create_flask():
    made = Flask("shop")
    PowAuth(made, auth)
    return made


starlette = Starlette()
starlette.add_middleware(SessionAuthMiddleware, auth=auth)

admin = SessionAuth(secret_key=auth.keyring, users=auth.users, backend="lmdb:store", session_key="admin",
                    current_user_key="admin")
staff = SessionAuth(secret_key=auth.keyring, users=auth.users, backend="lmdb:store", session_key="staff",
                    current_user_key="staff")
both = Starlette()
both.add_middleware(SessionAuthMiddleware, auth=auth)
both.add_middleware(SessionAuthMiddleware, auth=admin)
others = Starlette()
others.add_middleware(SessionAuthMiddleware, auth=staff)
others.add_middleware(SessionAuthMiddleware, auth=admin)


def failing():
    raise RuntimeError("the database is closed")


class Leaving:
    def __call__(self):
        raise SystemExit(3)


leaving = Leaving()
"""


@pytest.fixture
def frameworks(app: App) -> App:
    module = app.folder / "shop_app.py"
    module.write_text(module.read_text() + FRAMEWORKS)
    return app


@pytest.mark.parametrize(
    "path", ["auth", "create_auth()", "state.auth", "create_flask()", "starlette", "both", "admin"]
)
def test_the_app_may_be_named_in_many_ways(frameworks: App, capsys: pytest.CaptureFixture[str], path: str) -> None:
    assert named(f"shop_app:{path}", capsys) == (Status.DONE, "")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nope", "shop_app has no 'nope'; --app is package.module:auth, or package.module:factory()"),
        ("state.nope", "shop_app:state has no 'nope'; --app is package.module:auth, or package.module:factory()"),
        ("events", "shop_app:events is a list, and neither a SessionAuth nor an app with one"),
        ("create_auth", "if it is a factory, write shop_app:create_auth()"),
        ("others", "shop_app:others has several SessionAuth (admin, staff): name the one that you mean"),
    ],
)
def test_what_is_no_app(frameworks: App, capsys: pytest.CaptureFixture[str], path: str, said: str) -> None:
    status, err = named(f"shop_app:{path}", capsys)
    assert status == Status.APP
    assert "Traceback" not in err
    assert said in err


@pytest.mark.parametrize("name", ["", ":", "shop_app", ":auth", "shop app:auth", "shop_app.py", ".shop:auth", "a:b("])
def test_what_is_no_name(app: App, capsys: pytest.CaptureFixture[str], name: str) -> None:
    status, err = named(name, capsys) if name else (Status.APP, "--app is package.module:auth")
    assert (status, "--app is package.module:auth" in err) == (Status.APP, True)


@pytest.mark.parametrize("name", ["nope:auth", "nope.deeper:auth", "shop_app.deeper:auth", "shop_app.py:auth"])
def test_a_module_that_is_not_there(app: App, capsys: pytest.CaptureFixture[str], name: str) -> None:
    status, err = named(name, capsys)
    (line,) = err.splitlines()
    assert (status, line.startswith("powauth: there is no module '")) == (Status.APP, True)


def test_an_error_of_the_app_has_the_apps_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text, error in {
        "import nope_of_the_app": "ModuleNotFoundError",
        "from os import nope": "ImportError",
        "raise RuntimeError('no DATABASE_URL')": "RuntimeError",
        "from powauth import SessionAuth\nSessionAuth(secret_key='x', users=None)": "ConfigError",
        "import sys\nsys.exit(3)": "SystemExit",
        "def f(:": "SyntaxError",
    }.items():
        (tmp_path / "shop_app.py").write_text(text)
        status, err = named("shop_app:auth", capsys)
        assert status == Status.APP
        assert f"powauth: importing shop_app failed with {error}; the traceback above is the app's" in err
        assert error in err.partition("powauth: importing")[0]
        assert "importlib" not in err
        assert "cli/app.py" not in err


@pytest.mark.parametrize(("path", "error"), [("failing()", "RuntimeError"), ("leaving()", "SystemExit")])
def test_an_error_of_a_factory(frameworks: App, capsys: pytest.CaptureFixture[str], path: str, error: str) -> None:
    status, err = named(f"shop_app:{path}", capsys)
    assert status == Status.APP
    assert f"powauth: calling shop_app:{path} failed with {error}" in err
    assert err.startswith("Traceback")


# --- as a process -----------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", "aiosqlite", "asyncpg"])
def pooled(request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[App]:
    """An app as people write it: its engine has a pool, and it prints while it is imported."""

    def change(text: str) -> str:
        return text.replace("(url, poolclass=NullPool)", "(url)") + "\nprint('the shop is open')\n"

    with app_in(tmp_path, capsys, driver=request.param, change=change) as made:
        yield made


def test_rep_07_the_command_ends_cleanly_whatever_the_app_leaves_open(pooled: App) -> None:
    done = powauth("users", "create", "mia@example.com", "--set", "name=Mia", "--password-stdin",
                   "--app", "shop_app:auth", input=PASSWORD)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "the shop is open\n")
    listed = powauth("users", "--app", "shop_app:auth", "list", "--json")
    assert (listed.returncode, listed.stderr) == (0, "the shop is open\n")
    assert json.loads(listed.stdout)["user_id"] == "mia@example.com"


def fill(app: App, count: int) -> None:
    assert app.users("list")[0] == 0  # the app makes its table
    columns = "(id, email, name, is_active, created_at, updated_at)"
    values = ", ".join(
        f"('{number:032x}', 'user{number}@example.com', 'Mia', 1, '2026-01-01', '2026-01-01')"
        for number in range(count)
    )
    app.rows(f"INSERT INTO {{users}} {columns} VALUES {values}")


def test_rep_07_list_into_head_ends_quietly(app: App) -> None:
    fill(app, 4000)
    command = f"'{COMMAND}' --app shop_app:auth users list --limit 0 | head -2"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False,
                          timeout=PATIENCE)  # fmt: skip
    assert (done.returncode, done.stderr) == (Status.PIPE_CLOSED, "")
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize("extended", [False, True], ids=["without a loop", "on a loop"])
def test_rep_07_ctrl_c_ends_a_list_quietly(tmp_path: Path, capsys: pytest.CaptureFixture[str], extended: bool) -> None:
    with app_in(tmp_path, capsys, extended=extended) as app:
        fill(app, 4000)
        # Started in the background of a shell, the tests ignore SIGINT, and what they start would do so, too.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(
            [COMMAND, "--app", "shop_app:auth", "users", "list", "--limit", "0", "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        signal.signal(signal.SIGINT, before)
        assert process.stdout is not None
        process.stdout.readline()  # the pipe fills up, and the command waits
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
        assert (process.returncode, err) == (Status.INTERRUPTED, "")


def test_a_password_is_not_shown_while_it_is_typed(app: App) -> None:
    fill(app, 1)
    read, shown = os.pipe()
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover - the child becomes the command
        os.dup2(shown, 1)
        os.execv(COMMAND, [COMMAND, "--app", "shop_app:auth", "users", "set-password", "user0@example.com"])
    os.close(shown)
    seen = b""
    for prompt in (b"New password of user0@example.com: ", b"The same again: "):
        while prompt not in seen:
            seen += os.read(terminal, 1024)
        time.sleep(0)
        os.write(terminal, PASSWORD.encode() + b"\n")
    with os.fdopen(read) as output:
        assert output.read() == "changed\n"
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)
    assert PASSWORD.encode() not in seen


def test_without_a_terminal_no_password_is_asked(app: App) -> None:
    done = powauth("--app", "shop_app:auth", "users", "set-password", "mia@example.com", stdin=subprocess.DEVNULL,
                   start_new_session=True)  # fmt: skip
    said = "powauth: there is no terminal to ask for the password: use --password-stdin\n"
    assert (done.returncode, done.stdout, done.stderr) == (Status.USAGE, "", said)
