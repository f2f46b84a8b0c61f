"""The ``powauth`` command as operators run it: a process with pipes, signals and exit statuses."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import make_url, text

from harness import redis_servers
from harness.cli_support import fill
from harness.engines import database
from powauth.backends import backend_from_url
from powauth.backends.base import drive
from powauth.backends.lmdb import LMDBBackend
from powauth.cli import Status
from powauth.cli.status import MEANINGS

COMMAND = [str(Path(sys.executable).with_name("powauth"))]
PATIENCE = 120
OWN_VARIABLES = ("POWAUTH_BACKEND", "PYTHONUNBUFFERED")
"""Variables of whoever runs the tests that would change what the command does."""

DOCS = Path(__file__).parents[2] / "docs"


def powauth(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    environment = {name: value for name, value in os.environ.items() if name not in OWN_VARIABLES}
    given: dict[str, object] = {"env": environment, "capture_output": True, "text": True, "timeout": PATIENCE} | options
    return subprocess.run([*COMMAND, *arguments], check=False, **given)  # type: ignore[call-overload, no-any-return]


def sessions(url: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return powauth("sessions", "--backend", url, *arguments, **options)


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """What the command said on its one line of errors."""
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("powauth: ")
    return line.removeprefix("powauth: ")


@pytest.fixture
def url(tmp_path: Path) -> str:
    """An LMDB store without sessions."""
    drive(LMDBBackend(tmp_path / "db").close())
    return f"lmdb://{tmp_path}/db"


@pytest.fixture
def full_url(tmp_path: Path) -> str:
    """A store with more sessions than a pipe holds lines of."""
    url = f"lmdb://{tmp_path}/full"
    fill(url, users=10, each=200)
    return url


# Causes and statuses


def test_rep_03_a_missing_driver_is_one_sentence_with_its_extra_and_a_status_of_its_own() -> None:
    without = {
        "redis": ("redis://127.0.0.1/0", "redis"),
        "psycopg": ("postgresql+psycopg://root@127.0.0.1/test", "postgresql"),
        "asyncpg": ("postgresql+asyncpg://root@127.0.0.1/test", "asyncpg"),
        "pymysql": ("mariadb+pymysql://root@127.0.0.1/test", "mariadb"),
        "sqlalchemy": ("sqlite:////tmp/nobody-has-made-it.db", "users"),
        "lmdb": ("lmdb:///tmp/nobody-has-made-it", "lmdb"),
    }
    for package, (url, extra) in without.items():
        program = (
            "import sys\n"
            "class Missing:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            f"        if name.partition('.')[0] == {package!r}:\n"
            f"            raise ModuleNotFoundError('No module named {package}', name={package!r})\n"
            "sys.meta_path.insert(0, Missing())\n"
            "from powauth.cli import main\n"
            "sys.exit(main())\n"
        )
        command = [sys.executable, "-c", program, "sessions", "--backend", url, "count"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert done.returncode == Status.MISSING_DRIVER
        assert f"needs the package {package}: pip install 'powauth[{extra}]'" in sentence(done)


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "postgresql+asyncpg", "mariadb+pymysql", "redis", "rediss"])
def test_rep_07_a_store_out_of_reach_names_the_cause(scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    name = "" if scheme.startswith("redis") else "somebody"
    done = sessions(f"{scheme}://{name}:geheim@127.0.0.1:{port}/0", "count")
    assert done.returncode == Status.UNREACHABLE
    assert re.search(r"cannot be reached: check that the server runs.*(refused|Connect call failed)", sentence(done))
    assert "geheim" not in done.stderr


@pytest.fixture(params=["sqlite", "postgresql+psycopg", "postgresql+asyncpg", "mariadb+pymysql", "mariadb+asyncmy"])
def empty_database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database that exists and has no table."""
    kind = request.param.partition("+")[0]
    if kind == "sqlite":
        (tmp_path / "app.db").touch()
        yield f"sqlite:///{tmp_path}/app.db"
        return
    where = database(kind, tmp_path)
    name = f"powauth_{uuid4().hex[:8]}"
    with where.engine() as engine, engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text(f"CREATE DATABASE {name}"))
    try:
        url = make_url(where.through("psycopg")).set(drivername=request.param, database=name)
        yield url.render_as_string(hide_password=False)
    finally:
        with where.engine() as engine, engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text(f"DROP DATABASE {name}"))


def test_rep_07_missing_tables_name_the_command_that_creates_them_and_it_does(empty_database: str) -> None:
    done = sessions(empty_database, "count")
    assert done.returncode == Status.STORE_MISSING
    assert "`powauth sessions --backend URL create-tables`" in sentence(done)
    for _ in range(2):
        done = sessions(empty_database, "create-tables")
        assert (done.returncode, done.stdout, done.stderr) == (Status.DONE, "the tables are there\n", "")
    assert sessions(empty_database, "count").stdout == "0\n"


@pytest.mark.parametrize("action", [["count"], ["list"], ["purge"], ["revoke-user", "42"], ["show", "x" * 24]])
@pytest.mark.parametrize("form", ["lmdb:nope", "lmdb:///{here}/nope", "sqlite:///nope.db", "sqlite:///{here}/no/pe.db"])
def test_rep_07_a_typo_creates_no_store(form: str, action: list[str], tmp_path: Path) -> None:
    done = sessions(form.replace("/{here}", str(tmp_path)), *action, cwd=tmp_path)
    assert done.returncode == Status.STORE_MISSING
    assert re.search("there is no (LMDB store|SQLite file).*check the path", sentence(done))
    assert "nope" in done.stderr or "no/pe" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_rep_07_create_tables_makes_a_sqlite_file_and_no_lmdb_store(tmp_path: Path) -> None:
    assert sessions("sqlite:///new.db", "create-tables", cwd=tmp_path).returncode == Status.DONE
    assert (tmp_path / "new.db").stat().st_mode & 0o777 == 0o600
    assert sessions("sqlite:///new.db", "--json", "count", cwd=tmp_path).stdout == '{"count":0}\n'
    assert sessions("lmdb:new", "create-tables", cwd=tmp_path).returncode == Status.STORE_MISSING
    drive(LMDBBackend(tmp_path / "db").close())
    done = sessions("lmdb:db", "create-tables", cwd=tmp_path)
    assert done.returncode == Status.CONFIGURATION
    assert "create-tables is for SQL" in sentence(done)


@pytest.mark.parametrize("scheme", ["sqlite+aiosqlite", "postgresql+psycopg_async"])
def test_a_command_closes_its_connections_and_ends(scheme: str, tmp_path: Path) -> None:
    url = f"{scheme}:///{tmp_path}/sessions.db"
    if not scheme.startswith("sqlite"):
        url = database("postgresql", tmp_path).through("psycopg_async")
    assert sessions(url, "create-tables").returncode == 0
    done = sessions(url, "count")
    assert (done.returncode, done.stderr) == (0, "")


def test_an_app_still_creates_its_store_by_url(tmp_path: Path) -> None:
    for url in (f"lmdb://{tmp_path}/new", f"sqlite:///{tmp_path}/new.db"):
        drive(backend_from_url(url).close())
    assert {path.name for path in tmp_path.iterdir()} >= {"new", "new.db"}


def test_rep_07_mistakes_in_the_configuration_have_a_status_of_their_own(tmp_path: Path) -> None:
    for url in ("nonsense", "memory://", "lmdb:", "redis://127.0.0.1:port/0", f"lmdb://{tmp_path}?x=1"):
        done = sessions(url, "count")
        assert done.returncode == Status.CONFIGURATION, url
        assert sentence(done)
    drive(LMDBBackend(tmp_path / "db").close())
    (tmp_path / "db").chmod(0o777)
    done = sessions(f"lmdb://{tmp_path}/db", "count")
    assert done.returncode == Status.CONFIGURATION
    assert "can be written by anybody" in sentence(done)


def test_rep_07_usage(url: str) -> None:
    for arguments in ([], ["sessions"], ["nonsense"], ["sessions", "--backend", url, "list", "--limit", "-1"]):
        done = powauth(*arguments)
        assert done.returncode == Status.USAGE
        assert done.stderr.startswith("usage: powauth")
    done = powauth("sessions", "count")
    assert done.returncode == Status.USAGE
    assert "POWAUTH_BACKEND" in sentence(done)


def test_no_such_session(url: str) -> None:
    for action in ("show", "revoke"):
        done = sessions(url, action, "A" * 24)
        assert (done.returncode, sentence(done)) == (Status.NO_SESSION, "no such session")


def test_rep_07_the_statuses_are_in_the_help_and_in_the_docs() -> None:
    page = (DOCS / "operating.md").read_text()
    for arguments in (["--help"], ["sessions", "--help"]):
        shown = powauth(*arguments)
        assert shown.returncode == Status.DONE
        for status in Status:
            assert f"{status:>3}  {MEANINGS[status]}" in shown.stdout
            assert f"| {status:d} | {MEANINGS[status]} |" in page


def test_rep_07_the_version() -> None:
    done = powauth("--version")
    assert (done.returncode, done.stdout) == (Status.DONE, f"powauth {metadata.version('powauth')}\n")


def test_rep_07_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "powauth"]
    done = subprocess.run([*command, "secret"], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert (done.returncode, len(done.stdout.split()), done.stderr) == (Status.DONE, 1, "")
    done = subprocess.run([*command, "sessions"], capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == Status.USAGE
    assert "powauth sessions: error: " in done.stderr


# Options


@pytest.mark.parametrize("arguments", [["--json", "list"], ["list", "--json"], ["--json", "list", "--json"]])
def test_rep_07_json_before_or_after_the_action(full_url: str, arguments: list[str]) -> None:
    done = sessions(full_url, *arguments, "--limit", "3")
    assert done.returncode == Status.DONE
    assert [set(json.loads(line)) >= {"sid", "user"} for line in done.stdout.splitlines()] == [True] * 3


def test_rep_07_every_common_option_may_stand_before_or_after_the_action(url: str) -> None:
    drive_count = ['{"count":0}\n'] * 3
    found = [
        powauth("sessions", "--backend", url, "--namespace", "admins", "--json", "count"),
        powauth("sessions", "count", "--backend", url, "--namespace", "admins", "--json"),
        powauth("sessions", "--namespace", "admins", "count", "--backend", url, "--json"),
    ]
    assert [done.stdout for done in found] == drive_count
    after = powauth("sessions", "--backend", "lmdb:nope", "count", "--backend", url)
    assert after.stdout == "0\n", "the later one counts"


# Pipes and signals


@pytest.mark.parametrize("arguments", [["list", "--limit", "0"], ["list", "--limit", "0", "--json"]])
def test_rep_07_a_reader_that_leaves_ends_the_command_quietly(full_url: str, arguments: list[str]) -> None:
    process = subprocess.Popen(
        [*COMMAND, "sessions", "--backend", full_url, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stderr is not None
    for _ in range(2):
        assert process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(PATIENCE) == Status.PIPE_CLOSED
    assert errors == b""


@pytest.mark.parametrize(
    "arguments", [["secret"], ["--help"], ["--version"], ["sessions", "count", "--backend", "URL"]]
)
def test_rep_07_a_reader_that_was_never_there(url: str, arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    words = [word.replace("URL", url) for word in arguments]
    done = powauth(*words, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (Status.PIPE_CLOSED, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_an_output_that_cannot_be_written_is_said(url: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = sessions(url, "count", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == Status.OUTPUT
    assert sentence(done) == "cannot write the output: No space left on device"


def test_a_closed_output_is_no_mistake(url: str) -> None:
    done = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *COMMAND, "sessions", "--backend", url, "count"],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert "Traceback" not in done.stderr
    assert done.returncode == Status.DONE


def test_what_a_terminal_cannot_show_is_escaped(tmp_path: Path) -> None:
    url = f"lmdb://{tmp_path}/full"
    fill(url, users=1, each=1, agent="Grüße, 世界")
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = sessions(url, "list", env=environment)
    assert done.returncode == Status.DONE
    assert r"Gr\xfc\xdfe" in done.stdout


class Silent:
    """A server that takes connections and never says a word."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.connected = threading.Event()
        self._kept: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self._kept.append(connection)
            self.connected.set()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._thread.join()
        for connection in self._kept:
            connection.close()


@pytest.mark.parametrize(
    "scheme", ["redis", "postgresql+psycopg", "postgresql+psycopg_async", "postgresql+asyncpg", "mariadb+pymysql"]
)
def test_rep_07_ctrl_c_while_the_store_does_not_answer_is_quiet(scheme: str) -> None:
    server = Silent()
    # The two seconds of the Redis backend may pass before a busy machine sends the signal.
    options = "?socket_timeout=60&socket_connect_timeout=60" if scheme == "redis" else ""
    # Started in the background of a shell, the tests ignore SIGINT, and what they start would do so, too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [*COMMAND, "sessions", "--backend", f"{scheme}://127.0.0.1:{server.port}/0{options}", "count"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    try:
        assert server.connected.wait(PATIENCE)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
        server.close()
    assert (process.returncode, out) == (Status.INTERRUPTED, "")
    assert "Traceback" not in errors


@redis_servers.needs_server
def test_rep_07_redis_names_what_it_refuses(tmp_path: Path) -> None:
    with redis_servers.own_server(tmp_path / "server") as server:
        server.ask("CONFIG SET", "requirepass", "geheim")
        done = sessions(server.url, "count")
        assert done.returncode == Status.UNREACHABLE
        assert "Redis wants a password" in sentence(done)
        done = sessions(f"redis://:falsch@127.0.0.1:{server.port}/0", "count")
        assert "refused the user name or the password" in sentence(done)
        assert "falsch" not in done.stderr
        done = sessions(f"redis://:geheim@127.0.0.1:{server.port}/0", "count")
        assert (done.returncode, done.stdout) == (Status.DONE, "0\n")
