"""WebSockets of a real server: the session ends in another process, and the socket is closed within a second."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from harness import socket_server
from harness.engines import database
from harness.redis_servers import SHARED, clear_shared, shared_answers
from harness.session_processes import ANN
from harness.support import FakeConnection, Me, User, account_of
from powauth import CredentialsCache, SessionAuth
from powauth.backends.base import drive
from powauth.backends.sql import SQLBackend

ENGINES = ("lmdb", "sqlite", "redis", "postgresql")

WITHIN = 1.0
"""Seconds from the end of a session to the close of its sockets, as promised."""

MARGIN = 1.0
"""Seconds more, for a machine that is busy with other tests."""


def store_url(engine: str, folder: Path) -> str:
    """Where the sessions of a test are."""
    if engine == "lmdb":
        return f"lmdb://{folder / 'sessions'}"
    if engine == "redis":
        if not shared_answers():
            pytest.skip(f"no Redis at {SHARED}")
        return SHARED
    driver = {"sqlite": "sqlite", "postgresql": "psycopg"}[engine]
    url = database(engine, folder).through(driver)
    backend = SQLBackend(url)
    drive(backend.create_tables())
    drive(backend.close())
    return url


class Server:
    """A server in a process of its own, and this process's view of its store."""

    def __init__(self, port: int, auth: SessionAuth[User, Me], process: "subprocess.Popen[str]") -> None:
        self.port = port
        self.auth = auth
        self.process = process

    def sign_in(self) -> str:
        """A new session, made here; the cookie that opens it there."""
        connection = FakeConnection()
        drive(self.auth.do_create(connection, account_of(ANN)))
        (set_cookie,) = drive(self.auth.respond(connection)).cookies
        return set_cookie.partition(";")[0]

    def connect(self, cookie: str, origin: str | None = None) -> ClientConnection:
        headers = {"Cookie": cookie, "Origin": origin or f"https://127.0.0.1:{self.port}"}
        return connect(f"ws://127.0.0.1:{self.port}/", additional_headers=headers, open_timeout=20)

    def printed(self) -> list[str]:
        """End the server; what it printed since its start."""
        self.process.terminate()
        output, _ = self.process.communicate(timeout=30)
        return output.splitlines()


@pytest.fixture(params=ENGINES)
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    url = store_url(request.param, tmp_path)
    namespace = f"test-{uuid4().hex}"
    store = CredentialsCache(url, namespace=namespace)
    with serving(url, namespace, socket_server.make_auth(store)) as running:
        yield running
    drive(store.backend.delete_owner(store.owner(ANN.id), running.auth.now()))
    drive(store.close())
    if request.param == "redis":
        clear_shared(namespace)


@contextmanager
def serving(url: str, namespace: str, auth: SessionAuth[User, Me]) -> Iterator[Server]:
    command = [sys.executable, "-W", "ignore", socket_server.__file__, url, namespace]
    environment = os.environ | {"PYTHONPATH": str(Path(socket_server.__file__).parents[1])}  # the harness
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().removeprefix("port "))
            yield Server(port, auth, process)
        finally:
            process.kill()


def test_trm_07_revoked_in_another_process_closed_within_a_second(
    server: Server, report: Callable[[str], None], request: pytest.FixtureRequest
) -> None:
    with server.connect(server.sign_in()) as ended:
        assert ended.recv(timeout=20) == ANN.email
        ended.send("hello")
        assert ended.recv(timeout=20) == "hello"
        drive(server.auth.revoke_user(ANN))
        start = time.monotonic()
        with pytest.raises(ConnectionClosed) as closed:
            ended.recv(timeout=20)
        took = time.monotonic() - start
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "session ended")
    assert took < WITHIN + MARGIN
    report(f"WebSocket closed {took:.2f} s after its session ended in another process ({request.node.callspec.id})")
    assert server.printed() == ["heard hello", "left 1008"]


def test_trm_07_only_the_sockets_of_the_session_that_ended_are_closed(server: Server) -> None:
    cookies = [server.sign_in(), server.sign_in()]
    with server.connect(cookies[0]) as kept, server.connect(cookies[1]) as ended:
        assert [kept.recv(timeout=20), ended.recv(timeout=20)] == [ANN.email, ANN.email]
        connection = FakeConnection([cookies[1]])
        drive(server.auth.do_delete(connection))
        with pytest.raises(ConnectionClosed):
            ended.recv(timeout=20)
        kept.send("still here")
        assert kept.recv(timeout=20) == "still here"


@pytest.mark.parametrize("server", ["lmdb"], indirect=True)
def test_csr_07_a_real_handshake_from_elsewhere_is_a_403(server: Server) -> None:
    cookie = server.sign_in()
    for origin in ("null", "https://evil.example", f"http://127.0.0.1:{server.port}"):
        with pytest.raises(InvalidStatus) as refused:
            server.connect(cookie, origin)
        assert refused.value.response.status_code == 403
    with server.connect(cookie) as accepted:
        assert accepted.recv(timeout=20) == ANN.email
