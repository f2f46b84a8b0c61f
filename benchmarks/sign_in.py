"""``python -m benchmarks.sign_in``: what a sign-in costs beside its password's hash, and what others notice of it.

The first table takes a sign-in apart: in one process, through the ASGI middleware, over LMDB with durable writes, with
users whose password is proved by nothing. What the disk takes for itself is measured beside it, and all of it again on
a file system in memory, where a sync costs nothing: what is left there is the processor's.

The second is one uvicorn worker that answers reads at a steady rate, alone and with sign-ins beside them. The load
comes from another process at planned times, and a response's time counts from its planned time, so a server that stands
still is not spared. The load's process is pinned to the last CPU; the worker may use all.
"""

import argparse
import asyncio
import logging
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Session

from benchmarks.servers import directory, free_port
from benchmarks.site import COOKIE, People
from benchmarks.tables import table
from powauth import SessionAuth, Throttle
from powauth.backends.base import Backend
from powauth.backends.lmdb import LMDBBackend
from powauth.backends.memory import MemoryBackend
from powauth.integrations.asgi import SessionAuthMiddleware, request_auth
from powauth.users.base import UsersContext
from powauth.users.passwords import PasswordHasher
from powauth.users.sqlalchemy import SQLAlchemyUsers, UserMixin

SECRET = "q0V9p-3rTzK7wYdN5sXhB8mLcJ2fRgUa4eQiZ6vO1yt"
PASSWORD = "seven red herons"
ACCOUNTS = 500
"""Enough that no account is signed in to from so many sides at once that it is throttled."""

READS = 1000
"""A second."""

CONNECTIONS = 64


class Base(DeclarativeBase):
    pass


class User(UserMixin, Base):
    __tablename__ = "users"


def email(number: int) -> str:
    return f"user-{number % ACCOUNTS}@example.com"


# --- One sign-in, taken apart -----------------------------------------------------------------------------------------


def microseconds(work: Callable[[int], object], times: int) -> float:
    """The median of so many calls, after a tenth as many for warmth."""
    for number in range(times // 10):
        work(number)
    taken = []
    for number in range(times):
        begun = time.perf_counter()
        work(number)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken) * 1e6


def sync_cost(folder: Path, times: int) -> float:
    """Appending 4 KiB to a file and waiting for the disk."""
    block = bytes(4096)
    descriptor = os.open(folder / "appended", os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def append(_: int) -> None:
        os.write(descriptor, block)
        os.fdatasync(descriptor)

    try:
        return microseconds(append, times)
    finally:
        os.close(descriptor)


def commit_cost(folder: Path, times: int) -> float:
    """Putting one value into a bare LMDB environment, durably."""
    import lmdb

    with lmdb.Environment(str(folder / "bare"), map_size=1 << 28) as env:

        def put(number: int) -> None:
            with env.begin(write=True) as txn:
                txn.put(b"%d" % (number % 1000), bytes(200))

        return microseconds(put, times)


class NoPassword(People):
    """People who are whom they say, under the name that the throttle counts."""

    def login_key(self, params: Any) -> str | None:
        return str(params["name"])


def sign_in_cost(backend: Backend, users: UsersContext[Any], params: Any, times: int, **options: Any) -> float:
    """Signing in through the middleware, apart from what reads the request's body."""
    auth = SessionAuth(secret_key=SECRET, users=users, backend=backend, **options)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert await request_auth(scope).authenticate_user(params(scope["number"])) is not None
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    middleware = SessionAuthMiddleware(app, auth)

    async def send(message: Any) -> None:
        pass

    async def once(number: int) -> None:
        scope = {"type": "http", "method": "POST", "path": "/", "headers": [], "client": ("192.0.2.1", 1)}
        await middleware(scope | {"number": number}, None, send)  # type: ignore[arg-type]

    with asyncio.Runner() as runner:
        return microseconds(lambda number: runner.run(once(number)), times)


def apart(folder: Path, memory: Path, times: int) -> list[tuple[object, ...]]:
    """The rows of the first table, in microseconds: on the disk, and in memory."""

    def params(number: int) -> Any:
        return {"name": f"user-{number % ACCOUNTS}"}

    rows: list[tuple[object, ...]] = []

    def row(name: str, cost: Callable[[Path], float]) -> None:
        rows.append((name, *(f"{cost(where):.0f}" for where in (folder, memory))))

    def lmdb(where: Path, name: str) -> Backend:
        return LMDBBackend(where / name, map_size=1 << 28)

    row("append 4 KiB and fdatasync", lambda where: sync_cost(where, times))
    row("one bare LMDB commit", lambda where: commit_cost(where, times))
    row(
        "sign-in, no throttle", lambda where: sign_in_cost(lmdb(where, "a"), NoPassword(), params, times, throttle=None)
    )
    row("sign-in, throttled", lambda where: sign_in_cost(lmdb(where, "b"), NoPassword(), params, times))
    row("sign-in, memory backend", lambda where: sign_in_cost(MemoryBackend(), NoPassword(), params, times))

    return rows


def async_users(path: Path, hasher: PasswordHasher) -> SQLAlchemyUsers[User]:
    """Users in SQLite, through an `AsyncEngine`; all are made, with one password."""
    engine = create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    stored = hasher.hash(PASSWORD)
    with Session(engine) as session:
        session.add_all(User(email=email(number), password_hash=stored) for number in range(ACCOUNTS))
        session.commit()
    engine.dispose()
    return SQLAlchemyUsers(create_async_engine(f"sqlite+aiosqlite:///{path}"), User, hasher=hasher)


# --- Reads beside sign-ins --------------------------------------------------------------------------------------------


def serve(folder: Path, port: int, kind: str, concurrent: int | None, passes: int) -> None:
    """One worker: ``POST /login/<number>`` signs in, ``GET /`` is for users."""
    import uvicorn

    hasher = PasswordHasher(max_concurrent=concurrent, time_cost=passes)
    users = async_users(folder / f"users-{port}.db", hasher)
    backend: Backend = MemoryBackend() if kind == "memory" else LMDBBackend(folder / f"sessions-{port}")
    # All of the load comes from one address, which no site's does.
    auth = SessionAuth(secret_key=SECRET, users=users, backend=backend, throttle=Throttle(per_source=None))

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        bound = request_auth(scope)
        if scope["method"] == "POST":
            number = int(scope["path"].rpartition("/")[2])
            user = await bound.authenticate_user({"email": email(number), "password": PASSWORD})
            body = b"no" if user is None else b"yes"
        else:
            body = bound.require_user().email.encode()
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    middleware = SessionAuthMiddleware(app, auth)
    uvicorn.run(
        middleware,
        host="127.0.0.1",
        port=port,
        log_level="error",
        access_log=False,
        lifespan="off",
        timeout_keep_alive=600,
    )


class Answer(NamedTuple):
    """Status, and seconds since the planned time."""

    status: int
    seconds: float


class Client:
    """A connection that is kept; one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, request: bytes, planned: float) -> Answer:
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        await self._reader.readexactly(length)
        return Answer(int(head.split(" ", 2)[1]), time.perf_counter() - planned)


async def clients(port: int, count: int) -> asyncio.Queue[Client]:
    free: asyncio.Queue[Client] = asyncio.Queue()
    for _ in range(count):
        free.put_nowait(Client(*await asyncio.open_connection("127.0.0.1", port)))
    return free


async def steadily(
    free: asyncio.Queue[Client], request: Callable[[int], bytes], rate: float, seconds: float
) -> list[Answer]:
    """Requests at a steady rate, whether or not the ones before have been answered."""
    begun = time.perf_counter() + 0.01
    answers: list[Answer] = []

    async def one(number: int, planned: float) -> None:
        client = await free.get()
        answers.append(await client.ask(request(number), planned))
        free.put_nowait(client)

    async with asyncio.TaskGroup() as group:
        for number in range(int(rate * seconds)):
            planned = begun + number / rate
            wait = planned - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            group.create_task(one(number, planned))
    return answers


def login(number: int) -> bytes:
    return b"POST /login/%d HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n" % number


class Found(NamedTuple):
    """Median and 99th percentile in milliseconds: of the reads of each round, and of the sign-ins that were done."""

    alone: list[tuple[float, float]]
    beside: list[tuple[float, float]]
    sign_ins: tuple[float, float]
    refused: int
    asked: int


async def load(port: int, sign_ins: float, seconds: float, rounds: int) -> Found:
    """Rounds without and with sign-ins in turn; milliseconds."""
    reading, signing = await clients(port, CONNECTIONS), await clients(port, 128)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(login(0))
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    cookie = head.partition(f"{COOKIE}=")[2].partition(";")[0]
    read = f"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: {COOKIE}={cookie}\r\n\r\n".encode()
    alone: list[list[float]] = []
    beside: list[list[float]] = []
    signed: list[Answer] = []
    await steadily(reading, lambda _: read, READS, 1)
    for _ in range(rounds):
        found = await steadily(reading, lambda _: read, READS, seconds)
        assert all(answer.status == 200 for answer in found)
        alone.append([answer.seconds * 1e3 for answer in found])
        both = await asyncio.gather(
            steadily(reading, lambda _: read, READS, seconds), steadily(signing, login, sign_ins, seconds)
        )
        assert all(answer.status == 200 for answer in both[0])
        beside.append([answer.seconds * 1e3 for answer in both[0]])
        signed += both[1]
        await asyncio.sleep(0.5)
    done = [answer.seconds * 1e3 for answer in signed if answer.status == 200]
    return Found(
        [quantiles(each) for each in alone],
        [quantiles(each) for each in beside],
        quantiles(done or [0.0]),
        len(signed) - len(done),
        len(signed),
    )


def quantiles(values: Sequence[float]) -> tuple[float, float]:
    """The median, and what one in a hundred exceeds."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


@contextmanager
def worker(folder: Path, kind: str, concurrent: int | None, passes: int) -> Iterator[int]:
    """A worker process; its port."""
    port = free_port()
    options = [f"--{name}={value}" for name, value in (("hashes", concurrent), ("passes", passes)) if value]
    command = [sys.executable, "-m", "benchmarks.sign_in", f"--serve={port}", f"--kind={kind}", str(folder), *options]
    process = subprocess.Popen(command)
    try:
        for _ in range(600):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            if process.poll() is not None:
                raise RuntimeError("the worker did not start")
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def beside(folder: Path, seconds: float, rounds: int, hashes: int | None, passes: int) -> list[tuple[object, ...]]:
    """The rows of the second table."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rows: list[tuple[object, ...]] = []
    for kind in ("memory", "LMDB"):
        for rate in (50, 20, 10):
            with worker(folder, kind, hashes, passes) as port:
                found = asyncio.run(load(port, rate, seconds, rounds))
            reads = (" ".join(f"{median:.1f}/{late:.1f}" for median, late in each) for each in found[:2])
            sign_ins = "{:.0f}/{:.0f}".format(*found.sign_ins)
            ratio = statistics.median(late for _, late in found.beside) / statistics.median(
                late for _, late in found.alone
            )
            rows.append((kind, rate, *reads, f"{ratio:.1f}", sign_ins, f"{found.refused} of {found.asked}"))
    return rows


def main() -> None:
    """Measure, or be the worker that is measured."""
    parser = argparse.ArgumentParser(description="What a sign-in costs, and what others notice of it.")
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--serve", type=int, metavar="PORT", help="be the worker")
    parser.add_argument("--kind", default="memory")
    parser.add_argument("--hashes", type=int, help="max_concurrent of the hasher; its default if not given")
    parser.add_argument("--passes", type=int, default=4, help="time_cost of the hasher")
    parser.add_argument("--times", type=int, default=500, help="sign-ins for each figure of the first table")
    parser.add_argument("--seconds", type=float, default=3, help="of each round of the second")
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    logging.getLogger("powauth").setLevel(logging.CRITICAL)
    if wanted.serve is not None:
        serve(wanted.folder, wanted.serve, wanted.kind, wanted.hashes, wanted.passes)
        return
    memory = Path("/dev/shm")
    with directory() as folder, TemporaryDirectory(dir=memory if memory.is_dir() else None) as quick:
        print(table(("microseconds, median", "disk", "memory"), apart(folder, Path(quick), wanted.times)), end="\n\n")
        head = ("backend", "sign-ins/s", "reads alone, p50/p99 ms", "beside", "p99 ratio", "sign-ins", "refused")
        print(table(head, beside(folder, wanted.seconds, wanted.rounds, wanted.hashes, wanted.passes)))


if __name__ == "__main__":
    main()
