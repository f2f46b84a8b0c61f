"""Acts as a user of a page's program: register, sign in, be recognised, sign out, be rejected."""

import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any, NamedTuple

from scripts.empty_environments import Failed, outcome_of_command
from scripts.page_programs import Page, Program
from scripts.ports import free_port

STEPS = ("register", "sign in", "be recognised", "sign out", "be rejected")
"""The steps of a user with a served program."""

START_SECONDS = 180
"""Maximum time for a server to start on a busy machine, and for each of its answers."""

PORTS = {"uvicorn": "--port={}", "flask": "--port={}", "gunicorn": "--bind=127.0.0.1:{}"}
"""The option of each server for its port."""

UNAUTHORIZED = 401


class Answer(NamedTuple):
    """A response."""

    status: int
    text: str

    @property
    def ok(self) -> bool:
        """True if the status is a success."""
        return 200 <= self.status < 300  # noqa: PLR2004


class Browser:
    """A client with a cookie jar. It uses http, but sends ``Secure`` cookies as if TLS were in front of the server."""

    def __init__(self, port: int, cookies: Mapping[str, str] | None = None) -> None:
        self._port = port
        self.cookies = dict(cookies or {})

    def ask(self, method: str, path: str, params: Mapping[str, Any] | None = None) -> Answer:
        """Send a request with a JSON body, as a program does, and keep the cookies of the response."""
        headers = {"accept": "application/json"}
        if self.cookies:
            headers["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        body = None
        if method != "GET":
            body, headers["content-type"] = json.dumps(params or {}), "application/json"
        connection = HTTPConnection("127.0.0.1", self._port, timeout=START_SECONDS)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            for field in response.headers.get_all("set-cookie", []):
                # SimpleCookie reads no cookie with this attribute before Python 3.14.
                for name, morsel in SimpleCookie(field.replace("; Partitioned", "")).items():
                    self.cookies[name] = morsel.value
                    if not morsel.value or morsel["max-age"] == "0":
                        del self.cookies[name]
            return Answer(response.status, response.read().decode())
        finally:
            connection.close()

    def elsewhere(self, port: int) -> "Browser":
        """Return a browser with the same cookies for another server."""
        return Browser(port, self.cookies)


PlaceOf = Callable[[tuple[str, ...]], Path]
"""A function that takes requirements, and returns the folder of commands of an environment with them."""


def follow(page: Page, place_of: PlaceOf, folder: Path, *, tests: bool = True) -> Iterator[tuple[Program, str]]:
    """Follow the instructions of a page in an empty folder.

    Args:
        page: the page.
        place_of: returns the folder of the commands.
        folder: the empty folder.
        tests: whether to run the page's tests, too.

    Yields:
        Each program with its outcome: "ok", or the failure.
    """
    page.write(folder)
    environment = os.environ | {"SECRET_KEY": secrets.token_urlsafe(48)}
    environment.pop("PYTHONPATH", None)
    served = [program for program in page.programs if program.is_served]
    with ExitStack() as stack:
        ports: list[int] = []
        for program in served:
            place = place_of(program.requirements)
            try:
                ports.append(stack.enter_context(serving(program, place, folder, environment)))
            except Failed as failure:
                yield program, f"FAILED: {failure}"
                return
        for program, port in zip(served, ports, strict=True):
            yield program, outcome_of(port, [other for other in ports if other != port])
    for program in page.programs:
        if not program.is_served and (tests or not program.is_test):
            yield program, script(program, place_of(program.requirements), folder, environment)


@contextmanager
def serving(program: Program, place: Path, folder: Path, environment: dict[str, str]) -> Iterator[int]:
    """Run a server with the page's command, on a free port.

    Raises:
        Failed: if it does not start.
    """
    name, *arguments = program.command.split()
    port = free_port()
    log = folder / f"{program.name}.log"
    with log.open("wb") as output:
        command = [str(place / name), *arguments, PORTS[name].format(port)]
        server = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(port):
            if server.poll() is not None or time.monotonic() > deadline:
                raise Failed(program.command, f"no server: {' '.join(log.read_text().split())[-400:]}")
            time.sleep(0.05)
        yield port
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def answers(port: int) -> bool:
    """Return whether a server answers."""
    try:
        Browser(port).ask("GET", "/")
    except (OSError, HTTPException):
        return False
    return True


def outcome_of(port: int, others: list[int]) -> str:
    """Return the outcome of `journey`. A server that stops answering is a failure."""
    try:
        return journey(port, others)
    except (OSError, HTTPException) as error:
        return f"FAILED: the server does not answer: {error}"


def journey(port: int, others: list[int]) -> str:
    """Take all steps of a user with one program. The other programs of the page share its users and sessions."""
    who = {"email": f"{secrets.token_hex(4)}@example.org", "password": "five brown owls hoot"}
    browser = Browser(port)
    own = "/me" if browser.ask("GET", "/me").status == UNAUTHORIZED else "/account"

    def is_known(at: int) -> bool:
        found = browser.elsewhere(at).ask("GET", own)
        return found.ok and who["email"] in found.text

    everywhere = [port, *others]
    registered = browser.ask("POST", "/register", who).ok and is_known(port)
    first_out = browser.ask("POST", "/logout").ok
    wrong = browser.ask("POST", "/login", {**who, "password": "six brown owls hoot"}).status
    signed_in = browser.ask("POST", "/login", who).ok
    recognised = all(is_known(each) for each in everywhere)
    stolen = Browser(port, browser.cookies)
    signed_out = browser.ask("POST", "/logout").ok
    rejected = [client.elsewhere(each).ask("GET", own).status for client in (browser, stolen) for each in everywhere]
    outcomes = dict(
        zip(
            STEPS,
            [
                registered,
                wrong == UNAUTHORIZED and signed_in,
                recognised and bool(stolen.cookies),
                first_out and signed_out,
                set(rejected) == {UNAUTHORIZED},
            ],
            strict=True,
        )
    )
    failed = [step for step, outcome in outcomes.items() if not outcome]
    return f"FAILED: {', '.join(failed)}" if failed else "ok"


def script(program: Program, place: Path, folder: Path, environment: dict[str, str]) -> str:
    """Run a script or a test file."""
    name, *arguments = program.command.split()
    return outcome_of_command([str(place / name), *arguments], folder, environment=environment)
