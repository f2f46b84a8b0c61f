"""Redis and PostgreSQL servers for one benchmark: on free ports, in new directories, ended with the benchmark."""

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, LiteralString

import redis
from scripts.ports import free_port

if TYPE_CHECKING:
    import psycopg

PATIENCE = 60.0
"""The most seconds for a server to start or to end."""

MISSING_REDIS = "redis-server is missing: apt-get install redis-server"
MISSING_POSTGRESQL = "PostgreSQL's initdb is missing: apt-get install postgresql"


def redis_executable() -> str | None:
    """Return the path of a Redis or Valkey server, if there is one."""
    return shutil.which("redis-server") or shutil.which("valkey-server")


def postgresql_binaries() -> Path | None:
    """Return the directory of PostgreSQL's programs, of the newest installed version."""
    found = shutil.which("initdb")
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return Path(found).parent if found else versions[-1].parent if versions else None


def wait_for(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.01)
    raise TimeoutError(f"in {PATIENCE} s: not {what}")


def family(pid: int) -> Iterator[int]:
    """Yield a process and all its descendants, parents first. A caller that stops each at once misses no new child."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in children.read_text().split():
                yield from family(int(child))


class Server:
    """A server as a process, with its child processes."""

    def __init__(self, directory: Path, command: list[str], *, user: str | None = None) -> None:
        self.directory = directory
        self.command = command
        self.identity = _identity(user)
        self.process: subprocess.Popen[bytes] | None = None

    def answers(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        """Start the server, and return when it answers."""
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, cwd=self.directory, **self.identity)

        def up() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                raise RuntimeError(f"the server ended: {(self.directory / 'log').read_text()[-2000:]}")
            return self.answers()

        wait_for(up, f"an answer of {self.command[0]}")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all its processes."""
        assert self.process is not None
        for pid in family(self.process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def pin(self, cores: set[int]) -> None:
        """Restrict all its processes and threads to these processors."""
        assert self.process is not None
        for pid in family(self.process.pid):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), cores)

    def busy_seconds(self) -> float:
        """Return the seconds in which the threads of all its processes had a processor (proc(5), schedstat)."""
        assert self.process is not None
        files = [file for pid in family(self.process.pid) for file in Path(f"/proc/{pid}/task").glob("*/schedstat")]
        return sum(int(file.read_text().split()[0]) for file in files) / 1e9

    def pause(self) -> None:
        """Stop its processes. It keeps its connections, and answers nothing."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a crash would."""
        if self.process is not None:
            # Stop the processes before listing them, so that no new one starts. List them before killing any, because
            # orphans are not children of these processes any more.
            self.pause()
            pids = list(family(self.process.pid))
            for pid in pids:
                with suppress(ProcessLookupError):  # the process may have ended already
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
            wait_for(lambda: not any(_runs(pid) for pid in pids), "an end of its processes")


def _identity(user: str | None) -> dict[str, Any]:
    """Return arguments of `subprocess` that make a child run as another user."""
    return {} if user is None else {"user": user, "extra_groups": []}


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class RedisServer(Server):
    """A Redis server. By default it is durable: acknowledged writes are on the disk."""

    def __init__(self, directory: Path, *, durable: bool = True) -> None:
        executable = redis_executable()
        if executable is None:
            raise FileNotFoundError(MISSING_REDIS)
        self.port = free_port()
        file = ["--appendonly", "yes", "--appendfsync", "always"] if durable else ["--appendonly", "no"]
        base = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(directory), "--save", ""]
        super().__init__(directory, [executable, *base, *file])

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def answers(self) -> bool:
        try:
            return bool(self.ask("PING"))
        except redis.RedisError:
            return False

    def ask(self, *command: object) -> Any:
        with redis.Redis(port=self.port, socket_timeout=30) as client:
            return client.execute_command(*command)


class PostgresServer(Server):
    """A PostgreSQL cluster with the default settings, but without automatic clean-up during the benchmark."""

    def __init__(self, directory: Path) -> None:
        binaries = postgresql_binaries()
        if binaries is None:
            raise FileNotFoundError(MISSING_POSTGRESQL)
        self.port = free_port()
        # initdb refuses root.
        user = "postgres" if os.geteuid() == 0 else None
        self.name = user or pwd.getpwuid(os.geteuid()).pw_name
        data = directory / "data"
        if user is not None:
            shutil.chown(directory, user)
        initdb = [str(binaries / "initdb"), "-D", str(data), "-U", self.name, "-A", "trust", "--no-sync"]
        subprocess.run(
            [*initdb, "--wal-segsize=1"], check=True, stdout=subprocess.DEVNULL, cwd=directory, **_identity(user)
        )
        options = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": directory,
            "autovacuum": "off",
        }
        arguments = [argument for name, value in options.items() for argument in ("-c", f"{name}={value}")]
        super().__init__(directory, [str(binaries / "postgres"), "-D", str(data), *arguments], user=user)

    def url(self, driver: str, port: int | None = None) -> str:
        return f"{driver}://{self.name}@127.0.0.1:{port or self.port}/postgres"

    def answers(self) -> bool:
        import psycopg

        try:
            self.ask("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def connect(self) -> "psycopg.Connection[Any]":
        import psycopg

        address: dict[str, Any] = {"host": "127.0.0.1", "port": self.port, "user": self.name, "dbname": "postgres"}
        return psycopg.connect(**address, autocommit=True, connect_timeout=5)

    def ask(self, statement: LiteralString) -> list[tuple[Any, ...]]:
        with self.connect() as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def limit_files(self, size: int | None) -> None:
        """Let no file grow beyond ``size`` bytes. Existing files then behave as on a full disk."""
        assert self.process is not None
        limit = f"--fsize={'unlimited' if size is None else size}:unlimited"
        for pid in family(self.process.pid):
            # Run it as the server's user: a container's root may not do this. A process may have ended meanwhile.
            subprocess.run(
                ["prlimit", "--pid", str(pid), limit], stderr=subprocess.DEVNULL, check=False, **self.identity
            )


@contextmanager
def directory() -> Iterator[Path]:
    """Yield a new directory that other users may pass through, because PostgreSQL's own user must."""
    path = Path(mkdtemp(prefix="powauth-bench-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def running(server: Server) -> Iterator[None]:
    """Start a server, and end it in any case."""
    try:
        server.start()
        yield
    finally:
        server.kill()
