"""Processes that serve requests on one LMDB store, for `test_parallel_processes`."""

import contextlib
import os
import random
import select
import signal
import time
import traceback
from datetime import timedelta
from multiprocessing.connection import Connection as Pipe
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import NamedTuple

from harness.support import SECRET, START, Clock, FakeConnection, Me, MemoryUsers, User, cheap_hash
from powauth import CredentialsCache, RequestAuth, SessionAuth
from powauth.backends.base import Backend, drive, make_owner
from powauth.backends.lmdb import LMDBBackend

ANN = User("0123456789abcdef", "ann@example.org", cheap_hash("correct horse"), name="Ann")
"""The same row in every process."""

ROUNDS = 200
CARRIED_ON = 5
"""Sessions of earlier rounds that each round renews too."""


class Answer(NamedTuple):
    """Who a request was found to be from, and the id that its response carried."""

    user: str | None
    sent: str | None


def make_auth(backend: Backend, clock: Clock, *, renewal: float = 900, grace: float = 30) -> SessionAuth[User, Me]:
    """The plug as each process makes it."""
    users = MemoryUsers()
    users.rows[ANN.id] = ANN
    return SessionAuth(
        secret_key=SECRET,
        users=users,
        store=CredentialsCache(backend),
        session_ttl_renewal=timedelta(seconds=renewal),
        grace=timedelta(seconds=grace),
        metadata=None,
        clock=clock,
    )


def ask(auth: SessionAuth[User, Me], value: str | None, *, sign_in: bool = False) -> Answer:
    """One request and its response."""
    connection = FakeConnection([] if value is None else [f"{auth.carrier.name}={value}"])
    drive(auth.call(connection))
    if sign_in:
        drive(RequestAuth(auth, connection).sign_in_user(ANN))
    user = auth.current_identity(connection)
    effects = drive(auth.respond(connection))
    sent = effects.cookies[0].partition(";")[0].partition("=")[2] if effects.cookies else None
    return Answer(None if user is None else user.email, sent or None)


def serve(pipe: Pipe, path: Path, barrier: Barrier, value: str, at: float, count: int) -> None:
    """A worker: at the barrier's fall, ``count`` requests with the same id."""
    backend = LMDBBackend(path, durable=False)
    auth = make_auth(backend, Clock(at))
    drive(backend.get(b"credentials:warm up", 0))
    barrier.wait(60)
    pipe.send([ask(auth, value) for _ in range(count)])
    drive(backend.close())


# Killed, again and again


def kill_again_and_again(pipe: Pipe, path: Path, seed: int) -> None:
    """`ROUNDS` times: fork a worker, kill it at a random moment, look at the store. Sends what was wrong."""
    chance = random.Random(seed)
    clients: dict[int, str] = {}
    answered = signed_in = 0
    wrong: list[str] = []
    for number in range(ROUNDS):
        carried_on = {
            client: clients[client] for client in chance.sample(sorted(clients), min(CARRIED_ON, len(clients)))
        }
        for client, value in _run_and_kill(path, number, carried_on, chance.uniform(0.0, 0.02)):
            signed_in += client not in clients
            answered += 1
            clients[client] = value
        backend = LMDBBackend(path)
        wrong += [f"round {number}: {what}" for what in _look(backend, clients if number % 20 == 19 else carried_on)]
        drive(backend.close())
    pipe.send((wrong, answered, signed_in, len(clients)))


def _run_and_kill(path: Path, number: int, clients: dict[int, str], after: float) -> list[tuple[int, str]]:
    """What a worker had acknowledged, to which client and with which id, when it was killed ``after`` some seconds."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.close(reading)
            _work(path, writing, number, clients)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(writing)
    select.select([reading], [], [], 60)  # its first answer, or its end
    time.sleep(after)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    received = b""
    while piece := os.read(reading, 65_536):
        received += piece
    os.close(reading)
    if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
        raise RuntimeError("the worker ended by itself")
    lines = received.decode().split("\n")[:-1]
    return [(int(client), value) for client, _, value in (line.partition(" ") for line in lines)]


def _work(path: Path, writing: int, number: int, clients: dict[int, str]) -> None:
    """Sign in, and renew at each request, without end; one line for each answer once it is known."""
    auth = make_auth(LMDBBackend(path), Clock(START + number), renewal=0, grace=600)
    chance = random.Random(number)
    upcoming = number * 10_000
    while True:
        if not clients or chance.random() < 0.2:
            client, answer = upcoming, ask(auth, None, sign_in=True)
            upcoming += 1
        else:
            client = chance.choice(sorted(clients))
            answer = ask(auth, clients[client])
        if answer.user != ANN.email or answer.sent is None:
            raise RuntimeError(f"client {client} got {answer}")
        clients[client] = answer.sent
        os.write(writing, f"{client} {answer.sent}\n".encode())


def _look(backend: Backend, clients: dict[int, str]) -> list[str]:
    """What is wrong with the store."""
    clock = Clock(START + ROUNDS)
    auth = make_auth(backend, clock, renewal=0, grace=600)
    found = []
    for client, value in clients.items():
        connection = FakeConnection([f"{auth.carrier.name}={value}"])
        if drive(auth.fetch(connection)) is None:
            found.append(f"client {client} is signed out")
    records = drive(backend.list(make_owner("credentials", ANN.id), auth.now()))
    sessions = drive(auth.store.sessions(ANN.id, auth.now()))
    scanned = set()
    cursor: str | None = None
    while True:
        page = drive(backend.scan("credentials", cursor, 1000, auth.now()))
        scanned |= {record.key for record in page.records}
        cursor = page.cursor
        if cursor is None:
            break
    if len(sessions) != len(records):
        found.append("a record is unreadable")
    if scanned != {record.key for record in records}:
        found.append("the index of the user's sessions is not what the store holds")
    with contextlib.suppress(StopIteration):
        stale = next(stored for stored in sessions if stored.version != stored.session.generation)
        found.append(f"{stale.session} was written {stale.version} times")
    return found
