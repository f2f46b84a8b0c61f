"""A PgBouncer for one test, on a free port, in front of the PostgreSQL that all tests share."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from scripts.ports import free_port
from sqlalchemy import make_url

from harness.engines import DRIVERS, Database

EXECUTABLE = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
MISSING = "needs pgbouncer: apt-get install pgbouncer"

needs_pgbouncer = pytest.mark.skipif(EXECUTABLE is None, reason=MISSING)

SERVERS = 3
"""Connections to PostgreSQL, fewer than clients. Each transaction takes the one that has rested longest, so that two
transactions of one client are hardly ever on the same."""

PATIENCE = 60.0


class PgBouncer:
    """One PgBouncer.

    Args:
        behind: the database that it leads to.
        folder: for its configuration.
        mode: ``transaction`` or ``session``.
        settings: more lines of its configuration.
    """

    def __init__(self, behind: Database, folder: Path, mode: str = "transaction", settings: str = "") -> None:
        self.port = free_port()
        self._server = behind.server
        self._process: subprocess.Popen[bytes] | None = None
        self._config = folder / "pgbouncer.ini"
        server = make_url(behind.server)
        password = f" password={server.password}" if server.password else ""
        self._config.write_text(
            f"[databases]\n{server.database} = host={server.host} port={server.port or 5432} user={server.username}"
            f"{password}\n"
            "[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {self.port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\n"
            f"default_pool_size = {SERVERS}\nserver_round_robin = 1\nmax_client_conn = 200\n{settings}\n"
        )

    def url(self, driver: str) -> str:
        """The URL of the database through this pooler."""
        through = make_url(self._server).set(drivername=DRIVERS[driver], host="127.0.0.1", port=self.port)
        return through.render_as_string(hide_password=False)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        assert EXECUTABLE is not None
        user = ["-u", "nobody"] if os.geteuid() == 0 else []  # as root it does not run
        with (self._config.parent / "log").open("ab") as log:
            self._process = subprocess.Popen([EXECUTABLE, *user, str(self._config)], stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
                return
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise AssertionError((self._config.parent / "log").read_text()) from None
                time.sleep(0.02)

    def stop(self) -> None:
        """End it at once: it closes all connections."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def own_pgbouncer(behind: Database, mode: str = "transaction", settings: str = "") -> Iterator[PgBouncer]:
    """A PgBouncer that runs, and ends with the block."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # it gives up root's rights before it reads its configuration again
        pooler = PgBouncer(behind, Path(folder), mode, settings)
        pooler.start()
        try:
            yield pooler
        finally:
            pooler.stop()
