"""Real Redis servers for tests: a shared server, and separate ones on free ports that end with their test.

The shared server is at 127.0.0.1:6379 or at the URL ``POWAUTH_TEST_REDIS``. Tests use it with their own prefixes and
never flush it. A test that stops, fills or replicates a server starts a separate one. Its executable is
``POWAUTH_TEST_REDIS_SERVER``, or else the first of redis-server and valkey-server on the PATH.
"""

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from uuid import uuid4

import pytest
import redis
import redis.cluster
from scripts.ports import free_port

EXECUTABLE = (
    os.environ.get("POWAUTH_TEST_REDIS_SERVER") or shutil.which("redis-server") or shutil.which("valkey-server")
)
MISSING = "needs redis-server or valkey-server on the PATH: apt-get install redis-server"
SHARED = os.environ.get("POWAUTH_TEST_REDIS", "redis://127.0.0.1:6379/0")

needs_server = pytest.mark.skipif(EXECUTABLE is None, reason=MISSING)

PATIENCE = 60.0
"""Seconds that an engine is given to start, elect or replicate."""


RUN = uuid4().hex[:12]
"""Of this process: what its tests leave on the shared server is found by it."""


def unique_prefix() -> str:
    return f"test-{RUN}-{uuid4().hex}"


def clear_shared(prefix: str) -> None:
    """Remove what begins with a prefix of ours from the shared server."""
    with redis.Redis.from_url(SHARED) as client:
        for key in client.scan_iter(match=f"{prefix}*", count=1000):
            client.unlink(key)


def shared_answers() -> bool:
    try:
        with redis.Redis.from_url(SHARED, socket_timeout=2, socket_connect_timeout=2) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def free_cluster_port() -> int:
    """A free port whose cluster bus, which Redis 6.2 always places 10,000 ports higher, is free too."""
    while True:
        port = free_port()
        with suppress(OSError), socket.create_server(("127.0.0.1", port + 10_000)):
            return port


def wait_for(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Ask until it holds; an engine that is not there yet counts as no."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except (redis.RedisError, OSError, redis.exceptions.RedisClusterException):
            pass
        time.sleep(0.02)
    raise AssertionError(f"in {patience} s: not {what}")


class Server:
    """One server process, in a directory of its own."""

    def __init__(self, directory: Path, *options: str, port: int | None = None) -> None:
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        self.options = options
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self._asking = self.client()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=5, socket_connect_timeout=5)

    def command(self) -> list[str]:
        assert EXECUTABLE is not None
        base = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory), "--save", ""]
        return [EXECUTABLE, *base, *self.options]

    def start(self) -> None:
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, cwd=self.directory)
        wait_for(self.answers, f"answering at {self.address}: see {self.directory / 'log'}")

    def answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"ended: {(self.directory / 'log').read_text()[-2000:]}")
        with self.client() as client:
            return bool(client.ping())

    def ask(self, *command: object) -> object:
        answer: object = self._asking.execute_command(*command)  # type: ignore[no-untyped-call]
        return answer

    def kill(self) -> None:
        """End it as a crash would."""
        self._asking.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """It keeps its connections and answers nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)


class SentinelServer(Server):
    """A Sentinel that watches one master by the name of ``main``."""

    def __init__(self, directory: Path, master: Server, quorum: int) -> None:
        super().__init__(directory)
        self.config = self.directory / "sentinel.conf"
        self.config.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.directory}\n"
            f"sentinel monitor main 127.0.0.1 {master.port} {quorum}\n"
            "sentinel down-after-milliseconds main 500\n"
            "sentinel failover-timeout main 2000\n"
        )

    def command(self) -> list[str]:
        assert EXECUTABLE is not None
        return [EXECUTABLE, str(self.config), "--sentinel"]


class Proxy:
    """Stands before a server and can lose a reply: the server did what it was told, and the client never learns."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.losing = 0
        self.lost = 0
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def lose_next_reply(self, times: int = 1) -> None:
        self.losing = times

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.server.port))
            for source, sink, replies in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._pump, args=(source, sink, replies), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, replies: bool) -> None:
        try:
            while data := source.recv(65536):
                if replies and self.losing:
                    self.losing -= 1
                    self.lost += 1
                    break
                sink.sendall(data)
        except OSError:
            pass
        finally:
            # Both ends see the connection go; the pump of the other direction ends with it.
            for end in (source, sink):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            source.close()

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self._accepting.join()


class Monitor:
    """Every command that a server carries out: those of clients, and those that scripts run inside it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        self.connection.sendall(b"MONITOR\r\n")
        self.lines = self.connection.makefile("rb")
        assert self.lines.readline() == b"+OK\r\n"

    def since(self) -> tuple[list[str], list[str]]:
        """Names of the commands since the last call: the clients' (but this one's mark), and the scripts'."""
        clients, scripts = self.words_since()
        # The client that set the mark introduced itself.
        names = [words[0].upper() for words in clients]
        return [name for name in names if name not in {"HELLO", "CLIENT"}], [words[0].upper() for words in scripts]

    def words_since(self) -> tuple[list[list[str]], list[list[str]]]:
        """The commands since the last call with their arguments: the clients' (but the mark), and the scripts'."""
        mark = uuid4().hex
        self.server.ask("ECHO", mark)
        clients: list[list[str]] = []
        scripts: list[list[str]] = []
        for line in self.lines:
            if mark.encode() in line:
                break
            head, _, rest = line.decode("latin-1").partition("] ")
            # Quotes inside of a word are escaped, so they are never followed by a blank and another quote.
            words = rest.strip().removeprefix('"').removesuffix('"').split('" "')
            (scripts if head.endswith(" lua") else clients).append(words)
        return clients, scripts

    def close(self) -> None:
        self.lines.close()
        self.connection.close()


@contextmanager
def running(*servers: Server) -> Iterator[None]:
    """Start them; end them whatever happens."""
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.kill)
            server.start()
        yield


@contextmanager
def own_server(directory: Path, *options: str) -> Iterator[Server]:
    server = Server(directory, *options)
    with running(server):
        yield server


@contextmanager
def own_sentinel(directory: Path) -> Iterator[tuple[Server, Server, SentinelServer]]:
    """A master, its replica in step, and a Sentinel that decides alone."""
    master = Server(directory / "master")
    follow = ("--replicaof", "127.0.0.1", str(master.port))
    replica = Server(directory / "replica", *follow, "--repl-diskless-sync-delay", "0")
    master.options = ("--repl-diskless-sync-delay", "0")
    with running(master, replica):
        wait_for(lambda: _is_linked(replica), "a replica in step")
        sentinel = SentinelServer(directory / "sentinel", master, 1)
        with running(sentinel):
            wait_for(lambda: _sentinel_knows(sentinel), "a Sentinel that knows the replica")
            yield master, replica, sentinel


@contextmanager
def own_cluster(directory: Path, masters: int = 3, replicas: int = 0) -> Iterator[list[Server]]:
    """A cluster: masters first, then their replicas in the same order."""
    servers = [
        Server(
            directory / f"node-{number}",
            *("--cluster-enabled", "yes", "--cluster-node-timeout", "1500"),
            *("--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0"),
            port=free_cluster_port(),
        )
        for number in range(masters * (1 + replicas))
    ]
    with running(*servers):
        for number, server in enumerate(servers):
            with suppress(redis.ResponseError):  # on a slow machine the client sends it twice, and it is set already
                server.ask("CLUSTER SET-CONFIG-EPOCH", number + 1)
        bounds = [16384 * number // masters for number in range(masters + 1)]
        for server, first, end in zip(servers[:masters], bounds, bounds[1:], strict=False):
            server.ask("CLUSTER ADDSLOTS", *range(first, end))
        for server in servers[1:]:
            servers[0].ask("CLUSTER MEET", "127.0.0.1", server.port)
        wait_for(lambda: all(_knows(server, len(servers)) for server in servers), "a cluster that knows its nodes")
        for number, server in enumerate(servers[masters:]):
            server.ask("CLUSTER REPLICATE", node_id(servers[number % masters]))
        wait_for(lambda: all(_is_ready(server, masters) for server in servers), "a cluster that is ready")
        for server in servers[masters:]:
            wait_for(lambda s=server: _is_linked(s), "a replica in step")  # type: ignore[misc]
        yield servers


def node_id(server: Server) -> str:
    answer = server.ask("CLUSTER MYID")
    return answer.decode() if isinstance(answer, bytes) else str(answer)


def info(server: Server, section: str) -> dict[str, object]:
    with server.client() as client:
        answer = client.info(section)
        assert isinstance(answer, dict)
        return answer


def wait_for_replica(master: Server) -> None:
    """Wait until a replica has all that was written so far.

    ``WAIT`` looks no further than the last write of its own connection, so it follows one. A publication is replicated
    too, and is in no slot of a cluster.
    """
    with master.client() as client:
        client.publish("powauth-test", b"")
        assert client.wait(1, 5000) == 1


def _knows(server: Server, count: int) -> bool:
    answer = server.ask("CLUSTER INFO")
    assert isinstance(answer, dict)
    return int(answer["cluster_known_nodes"]) == count


def _is_ready(server: Server, masters: int) -> bool:
    answer = server.ask("CLUSTER INFO")
    assert isinstance(answer, dict)
    return answer["cluster_state"] == "ok" and int(answer["cluster_size"]) == masters


def _is_linked(server: Server) -> bool:
    return info(server, "replication").get("master_link_status") == "up"


def _sentinel_knows(sentinel: Server) -> bool:
    answer = sentinel.ask("SENTINEL REPLICAS", "main")
    return isinstance(answer, list) and len(answer) == 1
