"""The latency of reads beside sign-ins: one uvicorn worker with reads at a steady rate, without and with sign-ins.

Requests are sent at planned times, even if earlier ones are not answered yet. An answer's time counts from the planned
time, so a server that stops for a while is measured correctly. The load comes from one processor. The worker may use
all, because hashing has its own threads. One processor cannot hash 50 sign-ins a second: the others wait and some are
refused (503), by the defaults of `PasswordHasher`.
"""

import argparse
import asyncio
import itertools
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any, NamedTuple

from scripts.ports import free_port

from benchmarks.contenders.base import PASSWORD
from benchmarks.contenders.plain import asgi_app
from benchmarks.contenders.powauth_users import SECRET, Base, User
from benchmarks.figures import Spread, spread
from benchmarks.servers import Server
from benchmarks.tables import table
from benchmarks.workers import cores, quiet

ROOT = Path(__file__).parent.parent

READS = 1_000
"""Reads per second."""

SIGN_INS = 50
"""Sign-ins per second."""

CONNECTIONS = {"reads": 64, "sign-ins": 128}
"""The number of connections. More than are in use at once while reads are answered: at most about 65 sign-ins wait."""

SECONDS, ROUNDS = 10.0, 3
"""Seconds of each half of a round (one without sign-ins, one with them), and the number of rounds."""

ACCOUNTS = 500
"""The number of accounts: enough that no account has so many concurrent sign-ins that it is throttled."""

BACKENDS = ("memory", "lmdb")
DEFAULT_PASSES = 4
PASSES = (DEFAULT_PASSES, 2)
"""Argon2id's passes over 19 MiB: powauth's default, and the minimum that OWASP recommends."""

OK, OVERLOADED = 200, 503


class Beside(NamedTuple):
    """The results of one setting, in milliseconds.

    Attributes:
        passes: Argon2id's passes.
        alone, alone_late: median and 99th percentile of the reads without sign-ins, for each round.
        beside, beside_late: the same with sign-ins.
        times_later: the ratio of a round's 99th percentiles, with sign-ins to without.
        sign_in, sign_in_late: median and 99th percentile of all successful sign-ins.
        refused, asked: the number of sign-ins answered 503, and of all sign-ins.
    """

    backend: str
    passes: int
    alone: Spread
    alone_late: Spread
    beside: Spread
    beside_late: Spread
    times_later: Spread
    sign_in: float
    sign_in_late: float
    refused: int
    asked: int


# --- The worker -------------------------------------------------------------------------------------------------------


def _email(number: int) -> str:
    return f"user-{number % ACCOUNTS}@example.org"


def _served(directory: Path, kind: str, passes: int) -> Any:
    """Return an app: ``/<number>`` signs that account in, and ``/me`` is for signed-in users."""
    from sqlalchemy import create_engine
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.orm import Session

    from powauth import SessionAuth, Throttle
    from powauth.accounts.passwords import PasswordHasher
    from powauth.accounts.sqlalchemy import SQLAlchemyUsers
    from powauth.backends.base import Backend
    from powauth.backends.lmdb import LMDBBackend
    from powauth.backends.memory import MemoryBackend
    from powauth.integrations.asgi import SessionAuthMiddleware, request_auth

    path = directory / "app.sqlite3"
    hasher = PasswordHasher(time_cost=passes)
    stored = hasher.hash(PASSWORD)
    engine = create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add_all(User(email=_email(number), password_hash=stored) for number in range(ACCOUNTS))
    engine.dispose()
    users = SQLAlchemyUsers(create_async_engine(f"sqlite+aiosqlite:///{path}"), User, hasher=hasher)
    backend: Backend = MemoryBackend() if kind == "memory" else LMDBBackend(directory / "sessions")
    # All of the load comes from one address, unlike that of a real site.
    auth = SessionAuth(secret_key=SECRET, users=users, backend=backend, throttle=Throttle(per_source=None))

    def email_of(scope: Any) -> str | None:
        user = scope["state"]["current_user"]
        return None if user is None else user.email

    async def sign_in(scope: Any) -> list[tuple[str, str]]:
        params = {"email": _email(int(scope["path"][1:])), "password": PASSWORD}
        assert await request_auth(scope).sign_in(params) is not None
        return []

    return SessionAuthMiddleware(asgi_app(email_of, sign_in), auth)


class Worker(Server):
    """A server in its own process, on all processors."""

    def __init__(self, directory: Path, kind: str, passes: int) -> None:
        self.port = free_port()
        environment = ["env", f"PYTHONPATH={ROOT / 'src'}{os.pathsep}{ROOT}"]
        options = [f"--serve={self.port}", f"--backend={kind}", f"--passes={passes}"]
        super().__init__(directory, [*environment, sys.executable, "-m", "benchmarks.beside_sign_ins", *options])

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port)):
                return True
        except OSError:
            return False


# --- The load ---------------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """An answer: its status, the cookie that it sets, and the milliseconds since the planned time."""

    status: int
    cookie: str
    milliseconds: float


class Client:
    """A persistent connection for one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, request: bytes, planned: float) -> Answer:
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        fields = dict(line.split(": ", 1) for line in head.lower().split("\r\n")[1:-2])
        if "content-length" in fields:
            await self._reader.readexactly(int(fields["content-length"]))
        else:  # in chunks, the last of which is empty
            await self._reader.readuntil(b"0\r\n\r\n")
        cookie = head.partition("set-cookie: ")[2].partition(";")[0]
        return Answer(int(head.split(" ", 2)[1]), cookie, (asyncio.get_running_loop().time() - planned) * 1e3)

    def close(self) -> None:
        self._writer.close()


Clients = asyncio.Queue[Client]


async def _clients(port: int, count: int) -> Clients:
    free = Clients()
    for _ in range(count):
        free.put_nowait(Client(*await asyncio.open_connection("127.0.0.1", port)))
    return free


async def _steadily(free: Clients, request: Callable[[int], bytes], rate: float, seconds: float) -> list[Answer]:
    """Send requests at a steady rate and return the answers."""
    now = asyncio.get_running_loop().time
    begun = now() + 0.01
    answers: list[Answer] = []

    async def one(number: int, planned: float) -> None:
        client = await free.get()
        answers.append(await client.ask(request(number), planned))
        free.put_nowait(client)

    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            planned = begun + number / rate
            if (wait := planned - now()) > 0:
                await asyncio.sleep(wait)
            group.create_task(one(number, planned))
    return answers


def _login(number: int) -> bytes:
    return b"POST /%d HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n" % number


def times(answers: Sequence[Answer], *statuses: int) -> tuple[float, float]:
    """Return the median and the 99th percentile of the answers with status 200.

    Raises:
        RuntimeError: if there is an answer of another status than ``statuses``.
    """
    if others := {answer.status for answer in answers} - set(statuses):
        raise RuntimeError(f"answered {others}, not {statuses}")
    parts = quantiles([answer.milliseconds for answer in answers if answer.status == OK], n=100, method="inclusive")
    return parts[49], parts[98]


async def _load(port: int, kind: str, passes: int, *, rounds: int, seconds: float) -> Beside:
    reading, signing = [await _clients(port, count) for count in CONNECTIONS.values()]
    try:
        first = signing.get_nowait()
        signed_in = await first.ask(_login(0), asyncio.get_running_loop().time())
        signing.put_nowait(first)
        read = f"GET /me HTTP/1.1\r\nHost: localhost\r\nCookie: {signed_in.cookie}\r\n\r\n".encode()

        async def reads(seconds: float) -> tuple[float, float]:
            return times(await _steadily(reading, lambda _: read, READS, seconds), OK)

        await reads(1)
        alone, beside, sign_ins = [], [], []
        for _ in range(rounds):
            alone.append(await reads(seconds))
            found, done = await asyncio.gather(reads(seconds), _steadily(signing, _login, SIGN_INS, seconds))
            beside.append(found)
            sign_ins += done
            await asyncio.sleep(0.5)  # let the last sign-ins end before the next round
    finally:
        for free in (reading, signing):
            while not free.empty():
                free.get_nowait().close()
    (middle, late), (middle_beside, late_beside) = zip(*alone, strict=True), zip(*beside, strict=True)
    return Beside(
        kind,
        passes,
        spread(middle),
        spread(late),
        spread(middle_beside),
        spread(late_beside),
        spread([with_them / without for with_them, without in zip(late_beside, late, strict=True)]),
        *times(sign_ins, OK, OVERLOADED),
        sum(answer.status == OVERLOADED for answer in sign_ins),
        len(sign_ins),
    )


@contextmanager
def _on(processors: set[int]) -> Iterator[None]:
    """Move this process to these processors. Its children stay on theirs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def measure(*, rounds: int = ROUNDS, seconds: float = SECONDS) -> list[Beside]:
    """Measure each backend with each number of passes."""
    return [
        measure_one(kind, passes, rounds=rounds, seconds=seconds)
        for kind, passes in itertools.product(BACKENDS, PASSES)
    ]


def measure_one(kind: str, passes: int, *, rounds: int, seconds: float) -> Beside:
    """Measure one setting, with a new worker."""
    with tempfile.TemporaryDirectory(prefix="powauth-bench-") as directory:
        worker = Worker(Path(directory), kind, passes)
        try:
            worker.start()
            with _on(cores()[1]):
                return asyncio.run(_load(worker.port, kind, passes, rounds=rounds, seconds=seconds))
        finally:
            worker.kill()


HEAD = [
    "backend",
    "Argon2id",
    "alone: median ms",
    "p99 ms",
    "beside sign-ins: median ms",
    "p99 ms",
    "p99 to alone",
    "sign-in: median ms",
    "p99 ms",
    "refused",
]


def rows(measured: Sequence[Beside]) -> list[list[str]]:
    """Return the rows of the table."""
    return [
        [
            each.backend,
            f"{each.passes} passes",
            *(part.text() for part in (each.alone, each.alone_late, each.beside, each.beside_late, each.times_later)),
            f"{each.sign_in:.0f}",
            f"{each.sign_in_late:.0f}",
            f"{each.refused} of {each.asked}",
        ]
        for each in measured
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print. With the worker's argument, run the worker in the current directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=float, default=SECONDS, help="of each half of a round")
    for name in ("--serve", "--backend", "--passes"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve is None:
        print(table(HEAD, rows(measure(rounds=options.rounds, seconds=options.seconds))))
        return
    import uvicorn

    quiet()
    app = _served(Path.cwd(), options.backend, int(options.passes))
    port = int(options.serve)
    uvicorn.run(app, port=port, log_level="error", access_log=False, lifespan="off", timeout_keep_alive=600)


if __name__ == "__main__":
    main()
