"""Real servers with several processes, each on each engine, driven by clients that count what went wrong.

``python -m harness.process_servers`` (``make processes``) prints a table of servers and engines. Each cell has the
number of a signed-in client's requests that were answered as anonymous or as another user, of sign-outs that did not
end the session, and of server errors (5xx or no answer).

The app uses its store and the database of its users once during its import; see `harness.process_app`.
"""

import argparse
import http.client
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import redis
from scripts.ports import free_port
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

TESTS = Path(__file__).parents[1]
APP = "harness.process_app"
CLIENTS = 4
WORKERS = 3
PATIENCE = 180.0
"""Seconds that a server has to start, on however busy a machine."""

END_PATIENCE = 3.0
"""Seconds that a server has to end before it is killed. One that waits for its clients would hold up the table."""

EXAMPLES = 3
"""How many of the things that went wrong in a cell are told."""

NEAR_CACHE_PATIENCE = 5.0
"""Seconds that a sign-out has to reach the near caches of other processes; ``docs/backends.md`` promises 1."""


@dataclass(frozen=True)
class Server:
    """A server, and how it is started.

    Attributes:
        package: what it is installed by.
        command: its executable and arguments; ``{address}``, ``{port}`` are filled in.
        forks: whether it loads the app before it makes its workers.
        near: further arguments that it needs where the near cache runs.
        ending: the signal that ends it and its workers.
    """

    name: str
    package: str
    command: tuple[str, ...]
    forks: bool = False
    near: tuple[str, ...] = ()
    ending: signal.Signals = signal.SIGTERM

    @property
    def executable(self) -> str | None:
        """Where it is: beside this interpreter, or on the path."""
        beside = Path(sys.executable).parent / self.command[0]
        return str(beside) if beside.exists() else shutil.which(self.command[0])

    def arguments(self, port: int, near: bool) -> list[str]:
        assert self.executable is not None
        rest = [each.format(address=f"127.0.0.1:{port}", port=port) for each in self.command[1:]]
        return [self.executable, *rest, *(self.near if near else ())]


def _servers() -> Iterator[Server]:
    workers = str(WORKERS)
    gunicorn = ("gunicorn", "--preload", "--workers", workers, "--bind", "{address}")
    yield Server("gunicorn --preload, sync", "gunicorn", (*gunicorn, f"{APP}:wsgi"), forks=True)
    uvicorn_worker = "uvicorn_worker.UvicornWorker"
    asgi = (*gunicorn, "--worker-class", uvicorn_worker, f"{APP}:asgi")
    yield Server("gunicorn --preload, uvicorn", "uvicorn-worker", asgi, forks=True)
    uwsgi = ("uwsgi", "--master", "--processes", workers, "--http-socket", "{address}", "--wsgi", f"{APP}:wsgi")
    lazy = ("--lazy-apps", "--enable-threads")
    # It takes SIGTERM for a reload.
    yield Server("uWSGI", "uwsgi", (*uwsgi, "--need-app"), forks=True, near=lazy, ending=signal.SIGINT)
    # Uvicorn kills a worker that does not answer within 5 seconds, unless it is told to wait longer.
    uvicorn = ("uvicorn", "--workers", workers, "--timeout-worker-healthcheck", "60", "--port", "{port}", f"{APP}:asgi")
    yield Server("uvicorn", "uvicorn", uvicorn)
    granian = ("granian", "--interface", "asgi", "--workers", workers, "--port", "{port}", f"{APP}:asgi")
    yield Server("granian", "granian", granian)
    yield Server("hypercorn", "hypercorn", ("hypercorn", "--workers", workers, "--bind", "{address}", f"{APP}:asgi"))


SERVERS = {server.name: server for server in _servers()}

POSTGRESQL = os.environ.get("POWAUTH_TEST_POSTGRESQL", "//postgres@127.0.0.1:5432/test")
MARIADB = os.environ.get("POWAUTH_TEST_MARIADB", "//root@127.0.0.1:3306/test")
REDIS = os.environ.get("POWAUTH_TEST_REDIS", "redis://127.0.0.1:6379/0")

ENGINES = {
    "PostgreSQL": ("postgresql", "{database}"),
    "PostgreSQL, the app's engine": ("postgresql", "engine"),
    "MariaDB": ("mariadb", "{database}"),
    "MariaDB, the app's engine": ("mariadb", "engine"),
    "Redis": ("sqlite", REDIS),
    "Redis, near cache": ("sqlite", f"{REDIS}?near_cache=1000"),
    "LMDB": ("sqlite", "lmdb:{folder}/sessions"),
    "SQLite": ("sqlite", "{database}"),
}
"""The name of an engine to the database of its users, and the URL of its store."""


@dataclass
class Counts:
    """What came of the requests to one server on one engine."""

    requests: int = 0
    anonymous: int = 0
    undead: int = 0
    errors: int = 0
    processes: set[int] = field(default_factory=set)
    imported_in: set[int] = field(default_factory=set)
    near: bool = False
    examples: list[str] = field(default_factory=list)

    @property
    def wrong(self) -> int:
        """How many requests went wrong, of any kind."""
        return self.anonymous + self.undead + self.errors

    def __str__(self) -> str:
        return f"{self.anonymous} / {self.undead} / {self.errors} of {self.requests}"


def database_url(kind: str, folder: Path) -> str:
    """The URL of a database, with the driver for threads."""
    if kind == "sqlite":
        return f"sqlite:///{folder}/app.db"
    given = POSTGRESQL if kind == "postgresql" else MARIADB
    driver = "postgresql+psycopg" if kind == "postgresql" else "mariadb+pymysql"
    return f"{driver}://{given.partition('://')[2] or given.removeprefix('//')}"


def left_out(server: Server, engine: str) -> str | None:
    """Why a cell cannot be run here; ``None`` if it can."""
    if server.executable is None:
        return f"{server.package} is not installed"
    kind, store = ENGINES[engine]
    try:
        if store.startswith("redis"):
            with redis.Redis.from_url(REDIS, socket_timeout=2, socket_connect_timeout=2) as client:
                client.ping()
        if kind != "sqlite":
            probe = create_engine(database_url(kind, Path()), connect_args={"connect_timeout": 3})
            with probe.connect():
                pass
            probe.dispose()
    except (redis.RedisError, SQLAlchemyError, OSError) as error:
        return f"{engine} does not answer ({type(error).__name__})"
    return None


def run(server: Server, engine: str, rounds: int) -> Counts:
    """Serve the app on an engine, and drive it: each of `CLIENTS` clients signs in and out ``rounds`` times."""
    name = f"processes_{uuid4().hex[:12]}"
    kind, store = ENGINES[engine]
    counts = Counts()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = database_url(kind, folder)
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")])),
            "POWAUTH_PROCESSES_NAME": name,
            "POWAUTH_PROCESSES_USERS": database,
            "POWAUTH_PROCESSES_STORE": store.format(database=database, folder=folder),
            "POWAUTH_PROCESSES_ASGI": "yes" if server.forks and f"{APP}:asgi" in server.command else "",
        }
        stack.callback(clean_up, name, database, store)
        made = subprocess.run(
            [sys.executable, "-m", APP], check=False, env=environment, timeout=PATIENCE, capture_output=True, text=True
        )
        assert made.returncode == 0, made.stderr
        port = stack.enter_context(serving(server, environment, folder, near="near_cache" in store))
        patience = NEAR_CACHE_PATIENCE if "near_cache" in store else 0.0
        use(port, rounds, counts, patience)
        deadline = time.monotonic() + PATIENCE
        while len(counts.processes) < 2 and not counts.wrong and time.monotonic() < deadline:
            use(port, 1, counts, patience)  # on a busy machine one process may have answered all
    return counts


def suspicious(server: Server, engine: str, counts: Counts) -> list[str]:
    """Why the counts may not say what they should."""
    found = []
    if len(counts.processes) < 2:
        found.append("one process answered all requests")
    near = "near cache" in engine
    if server.forks and counts.processes & counts.imported_in and not (near and server.near):
        found.append("the app was not loaded before the fork")
    if near and not counts.near:
        found.append("the near cache was never on")
    return found


@contextmanager
def serving(server: Server, environment: dict[str, str], folder: Path, *, near: bool) -> Iterator[int]:
    """The server's port, once it answers."""
    port = free_port()
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            server.arguments(port, near),
            env=environment,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            assert process.poll() is None, f"{server.name} ended: {log.read_text()[-3000:]}"
            assert time.monotonic() < deadline, f"{server.name} does not answer: {log.read_text()[-3000:]}"
            with suppress(OSError, http.client.HTTPException):
                if request(port, "GET", "/me", timeout=5).status == 200:
                    break
            time.sleep(0.05)
        yield port
    finally:
        process.send_signal(server.ending)
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_PATIENCE)
        # Its workers are in the group that it began.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Answer(NamedTuple):
    """A response of `harness.process_app`."""

    status: int
    body: str
    cookie: str

    @property
    def content(self) -> dict[str, Any]:
        return json.loads(self.body) if self.status == 200 else {}

    @property
    def user(self) -> str | None:
        return self.content.get("user")

    @property
    def processes(self) -> set[int]:
        return {self.content["process"]} if self.content else set()

    @property
    def imported_in(self) -> set[int]:
        return {self.content["imported_in"]} if self.content else set()

    @property
    def near(self) -> bool:
        return bool(self.content.get("near"))


def request(port: int, method: str, path: str, cookie: str = "", *, timeout: float = 30) -> Answer:
    """Send a request over a connection of its own, which any worker may take."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        headers = {"Connection": "close"} | ({"Cookie": cookie} if cookie else {})
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        sent = (answer.headers.get("Set-Cookie") or "").partition(";")[0]
        return Answer(answer.status, answer.read().decode(), sent)
    finally:
        connection.close()


def use(port: int, rounds: int, counts: Counts, patience: float) -> None:
    """Let the clients work side by side."""
    lock = threading.Lock()
    threads = [
        threading.Thread(target=Client(port, number, counts, lock, patience).work, args=(rounds,))
        for number in range(CLIENTS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Client:
    """One user's client."""

    def __init__(self, port: int, number: int, counts: Counts, lock: threading.Lock, patience: float) -> None:
        self._port = port
        self._email = f"client-{number}@example.com"
        self._counts = counts
        self._lock = lock
        self._patience = patience

    def work(self, rounds: int) -> None:
        """Sign in, be recognised again and again, sign out, and see that the session has ended."""
        for _ in range(rounds):
            answer = self._ask("POST", f"/login?{self._email}")
            self._expect(answer, "POST /login")
            if answer is None or not answer.cookie:
                continue
            for _ in range(6):
                self._expect(self._ask("GET", "/me", answer.cookie), "GET /me")
            if self._ask("POST", "/logout", answer.cookie) is not None and self._lives_on(answer.cookie):
                self._note("undead", "a session lives on after its sign-out")

    def _expect(self, answer: "Answer | None", what: str) -> None:
        if answer is not None and answer.user != self._email:
            self._note("anonymous", f"{what}: {answer.status}, {answer.user} in place of {self._email}")

    def _lives_on(self, cookie: str) -> bool:
        """Whether a session that was signed out still counts; other processes may hold a near copy for a moment."""
        deadline = time.monotonic() + self._patience
        while True:
            answers = [self._ask("GET", "/me", cookie) for _ in range(3)]
            if all(answer is None or answer.user is None for answer in answers):
                return False
            if time.monotonic() >= deadline:
                return True
            time.sleep(0.05)

    def _ask(self, method: str, path: str, cookie: str = "") -> "Answer | None":
        """The answer, unless it is an error of the server."""
        with self._lock:
            self._counts.requests += 1
        try:
            answer = request(self._port, method, path, cookie)
        except (OSError, http.client.HTTPException) as error:
            self._note("errors", f"{method} {path}: {error!r}")
            return None
        if answer.status >= 500:
            self._note("errors", f"{method} {path}: {answer.status} {' '.join(answer.body.split())[:100]}")
            return None
        with self._lock:
            self._counts.processes |= answer.processes
            self._counts.imported_in |= answer.imported_in
            self._counts.near |= answer.near
        return answer

    def _note(self, what: str, example: str) -> None:
        with self._lock:
            setattr(self._counts, what, getattr(self._counts, what) + 1)
            if len(self._counts.examples) < EXAMPLES:
                self._counts.examples.append(example)


def clean_up(name: str, database: str, store: str) -> None:
    """Remove what is left on shared servers."""
    if store.startswith("redis"):
        with redis.Redis.from_url(REDIS) as client:
            for key in client.scan_iter(match=f"{name}*", count=1000):
                client.unlink(key)
    if not database.startswith("sqlite"):
        engine = create_engine(database)
        with engine.begin() as connection:
            for table in (f"{name}_users", name, f"{name}_epochs"):
                connection.execute(text(f"DROP TABLE IF EXISTS {table}"))
        engine.dispose()


def versions() -> str:
    """What the table was made with: packages, and engines that answer."""
    packages = ["gunicorn", "uvicorn", "uvicorn-worker", "uwsgi", "granian", "hypercorn"]
    found = [f"Python {sys.version.split()[0]}"]
    for package in (*packages, "psycopg", "pymysql", "asyncmy", "redis", "lmdb"):
        with suppress(metadata.PackageNotFoundError):
            found.append(f"{package} {metadata.version(package)}")
    for kind, question in (("postgresql", "SHOW server_version"), ("mariadb", "SELECT version()")):
        with suppress(SQLAlchemyError):
            engine = create_engine(database_url(kind, Path()), connect_args={"connect_timeout": 3})
            with engine.connect() as connection:
                found.append(f"{kind} {str(connection.scalar(text(question))).partition(' ')[0]}")
            engine.dispose()
    with suppress(redis.RedisError), redis.Redis.from_url(REDIS, socket_connect_timeout=2) as client:
        found.append(f"redis-server {client.info('server')['redis_version']}")
    return ", ".join([*found, f"SQLite {sqlite3.sqlite_version}"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; 1 if anything in it went wrong."""
    parser = argparse.ArgumentParser(prog="make processes", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=8, help="sign-ins of each of the 4 clients in each cell")
    parser.add_argument("--server", action="append", choices=[*SERVERS], help="only this one; may be repeated")
    parser.add_argument("--engine", action="append", choices=[*ENGINES], help="only this one; may be repeated")
    chosen = parser.parse_args(arguments)
    servers = [SERVERS[name] for name in chosen.server or SERVERS]
    engines = [*(chosen.engine or ENGINES)]
    print(f"{versions()}; {CLIENTS} clients, {WORKERS} workers, {chosen.rounds} sign-ins of each client", flush=True)
    print("anonymous although signed in / signed in although signed out / 5xx, of how many requests\n", flush=True)
    print("| server | " + " | ".join(engines) + " |", flush=True)
    print("|---" * (len(engines) + 1) + "|", flush=True)
    wrong = 0
    notes: list[str] = []
    for server in servers:
        print(f"| {server.name}", end="", flush=True)
        for engine in engines:
            reason = left_out(server, engine)
            if reason is not None:
                print(" | left out", end="", flush=True)
                notes.append(f"left out: {server.name} on {engine}: {reason}")
                continue
            try:
                counts = run(server, engine, chosen.rounds)
            except (AssertionError, subprocess.TimeoutExpired) as error:  # it did not start
                wrong += 1
                notes.append(str(error))
                print(" | did not start", end="", flush=True)
                continue
            doubts = suspicious(server, engine, counts)
            wrong += counts.wrong + len(doubts)
            notes += [f"{server.name} on {engine}: {each}" for each in (*counts.examples, *doubts)]
            print(f" | {counts}", end="", flush=True)
        print(" |", flush=True)
    print("\n" + "\n".join(dict.fromkeys(notes)) if notes else "\nnothing went wrong", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
