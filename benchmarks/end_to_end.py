"""The throughput behind a real server: uvicorn and gunicorn under wrk, one processor each.

All servers of a kind run at once. Each round measures one after the other, and the rest are idle.
"""

import argparse
import http.client
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from scripts.ports import free_port

from benchmarks.contenders import contenders
from benchmarks.contenders.base import READ_PATH
from benchmarks.figures import Spread, spread
from benchmarks.requests import OTHER_COOKIE, cookie_header
from benchmarks.servers import Server
from benchmarks.tables import table
from benchmarks.workers import cores

ROOT = Path(__file__).parent.parent

CONNECTIONS = 64
SECONDS = 2
ROUNDS = 9
MISSING_WRK = "wrk is missing: apt-get install wrk"

APPS = {
    "uvicorn": (
        "bare-asgi",
        "floor",
        "bare-asgi-vary",
        *(f"powauth-{store}{read}" for store in ("memory", "lmdb") for read in ("-unread", "")),
    ),
    "gunicorn": ("bare-wsgi", "floor-wsgi", "powauth-wsgi-memory", "powauth-wsgi-lmdb"),
}
"""The apps of each server: without authentication, with the floor, and with powauth."""

NO_COOKIE = ", no cookie sent"
"""Marks requests without a ``Cookie`` header to the app without authentication, to show the cost of receiving it."""


class Throughput(NamedTuple):
    """The results of one app behind one server.

    Attributes:
        per_second: requests answered per second, for each round.
        of_bare: ``per_second`` divided by that of the app without authentication in the same round.
        of_floor: ``per_second`` divided by that of the floor.
        added: microseconds of a request, minus those of one with the same cookie to the app without authentication.
        busy: microseconds of the server's processor for a request, including the kernel's work.
        busy_added: ``busy``, minus that of the app without authentication.
    """

    server: str
    app: str
    per_second: Spread
    of_bare: Spread
    of_floor: Spread
    added: Spread
    busy: Spread
    busy_added: Spread


class Visit(NamedTuple):
    """The results of one app in one round; see `Throughput`."""

    per_second: float
    busy: float


class Target(NamedTuple):
    """An app behind its server, and the cookie of a signed-in user."""

    server: "AppServer"
    cookie: str


class AppServer(Server):
    """A server with one worker process on the app's processor."""

    def __init__(self, kind: str, name: str, directory: Path) -> None:
        self.port = free_port()
        address = f"127.0.0.1:{self.port}"
        if kind == "uvicorn":
            command = ["uvicorn", "benchmarks.served:make", "--factory", "--port", str(self.port), *UVICORN]
        else:
            command = ["gunicorn", "benchmarks.served:make()", "--bind", address, *GUNICORN]
        pinned = ["taskset", "--cpu-list", str(min(cores()[0]))]
        environment = ["env", f"POWAUTH_BENCH_APP={name}", f"PYTHONPATH={ROOT / 'src'}{os.pathsep}{ROOT}"]
        super().__init__(directory, [*pinned, *environment, sys.executable, "-m", *command])

    def answers(self) -> bool:
        try:
            self.ask("GET", READ_PATH)
        except OSError:
            return False
        return True

    def ask(self, method: str, path: str, cookie: str = "") -> tuple[int, bytes, str]:
        """Send a request. Return the status, the body, and the cookies that the answer sets."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, headers={"Cookie": cookie} if cookie else {})
            response = connection.getresponse()
            body = response.read()
            return response.status, body, cookie_header(response.headers.get_all("set-cookie", []))
        finally:
            connection.close()


UVICORN = ["--no-access-log", "--log-level", "warning", "--lifespan", "off", "--http", "httptools", "--loop", "uvloop"]
GUNICORN = ["--worker-class", "gthread", "--threads", "4", "--log-level", "warning", "--keep-alive", "30"]
"""One worker with four threads. Gunicorn's ``sync`` worker would close the connection after each request."""


def wrk(target: Target, seconds: float) -> Visit:
    """Send requests for a time with wrk. All of them must be answered with 200."""
    port, cookie = target.server.port, target.cookie
    before = target.server.busy_seconds()
    command = ["taskset", "--cpu-list", str(min(cores()[1])), "wrk", "--threads", "1"]
    command += ["--connections", str(CONNECTIONS), "--duration", f"{seconds:g}s"]
    command += ["--header", f"Cookie: {cookie}"] if cookie else []
    command += [f"http://127.0.0.1:{port}{READ_PATH}"]
    text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60 + seconds).stdout
    if (failed := re.search(r"Non-2xx.*|Socket errors: .*[1-9].*", text)) is not None:
        raise RuntimeError(f"wrk: {failed.group()}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    requests = re.search(r"(\d+) requests in", text)
    if rate is None or requests is None:
        raise RuntimeError(f"wrk said: {text}")
    busy = target.server.busy_seconds() - before
    return Visit(float(rate.group(1)), 1e6 * busy / int(requests.group(1)))


@contextmanager
def served(kind: str, names: Sequence[str]) -> Iterator[dict[str, Target]]:
    """Start a server for each app, and yield it with the cookie of a signed-in user.

    Apps without authentication get the cookies of the last app, because a server must receive them in any case. The
    first of them is in the result a second time, without cookies.
    """
    with tempfile.TemporaryDirectory(prefix="powauth-bench-") as parent, ExitStack() as stack:
        found = {}
        for name in names:
            directory = Path(parent) / name
            directory.mkdir()
            server = AppServer(kind, name, directory)
            stack.callback(server.kill)
            server.start()
            cookie = OTHER_COOKIE
            if not name.startswith("bare"):
                status, _, cookies = server.ask("POST", "/login")
                assert (status, bool(cookies)) == (200, True), f"{name}: the sign-in was answered {status}"
                cookie = f"{OTHER_COOKIE}; {cookies}"
                if contenders()[name].guarded:
                    assert server.ask("GET", READ_PATH)[0] == 401, f"{name} lets in who is not signed in"
            assert server.ask("GET", READ_PATH, cookie)[0] == 200, f"{name} does not let in who is signed in"
            found[name] = Target(server, cookie)
        bare, last = names[0], names[-1]
        for name in names:
            if name.startswith(bare):
                found[name] = Target(found[name].server, found[last].cookie)
        found[bare + NO_COOKIE] = Target(found[bare].server, "")
        yield found


def measure(kind: str, *, rounds: int = ROUNDS, seconds: float = SECONDS) -> list[Throughput]:
    """Measure all apps behind one server, in rounds. The first round warms them up and does not count."""
    bare, floor, *others = APPS[kind]
    names = (bare + NO_COOKIE, bare, floor, *others)
    rates: dict[str, list[float]] = {name: [] for name in names}
    busy: dict[str, list[float]] = {name: [] for name in names}
    with served(kind, APPS[kind]) as targets:
        for number in range(-1, rounds):
            for name in names if number % 2 == 0 else reversed(names):
                visit = wrk(targets[name], seconds if number >= 0 else 1)
                if number >= 0:
                    rates[name].append(visit.per_second)
                    busy[name].append(visit.busy)
    return [
        Throughput(
            kind,
            name,
            spread(rates[name]),
            _of(rates[name], rates[bare]),
            _of(rates[name], rates[floor]),
            spread([1e6 / rate - 1e6 / other for rate, other in zip(rates[name], rates[bare], strict=True)]),
            spread(busy[name]),
            spread([one - other for one, other in zip(busy[name], busy[bare], strict=True)]),
        )
        for name in names
    ]


def _of(rates: Sequence[float], others: Sequence[float]) -> Spread:
    return spread([rate / other for rate, other in zip(rates, others, strict=True)])


def missing() -> str | None:
    """Return the reason why this cannot be measured here; ``None`` if it can."""
    return None if shutil.which("wrk") else MISSING_WRK


HEAD = [
    "server",
    "app",
    "requests/s",
    "quartiles",
    "of no authentication",
    "of the floor",
    "added µs",
    "on the processor µs",
    "added there µs",
]


def rows(measured: Sequence[Throughput]) -> list[list[str]]:
    """Return the rows of the table."""
    return [
        [
            each.server,
            each.app,
            f"{each.per_second.median:.0f}",
            f"{each.per_second.low:.0f} - {each.per_second.high:.0f}",
            _percent(each.of_bare),
            _percent(each.of_floor),
            each.added.text(1),
            each.busy.text(1),
            each.busy_added.text(1),
        ]
        for each in measured
    ]


def _percent(found: Spread) -> str:
    return f"{found.median * 100:.1f} % ({found.low * 100:.1f} - {found.high * 100:.1f})"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("servers", nargs="*", default=list(APPS), help=" or ".join(APPS))
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each app in each round")
    options = parser.parse_args(arguments)
    if (reason := missing()) is not None:
        sys.exit(reason)
    found = [each for kind in options.servers for each in measure(kind, rounds=options.rounds, seconds=options.seconds)]
    print(table(HEAD, rows(found)))


if __name__ == "__main__":
    os.sched_setaffinity(0, cores()[1])
    main()
