"""PgBouncer before a PostgreSQL server, for tests of a pooler that gives each transaction another connection."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from benchmarks.servers import directory, free_port, wait_for
from sqlalchemy import NullPool, create_engine

from harness.engines import Database


@contextmanager
def pooler(server: Database, mode: Literal["session", "transaction", "statement"]) -> Iterator[int]:
    """Start PgBouncer before a server and yield its port on 127.0.0.1. Skip the test where PgBouncer is missing."""
    executable = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    if not Path(executable).exists():
        pytest.skip("needs PgBouncer: apt-get install pgbouncer")
    port, address = free_port(), server.server
    with directory() as folder:
        users = folder / "users"
        users.write_text(f'"{address.username}" ""\n')
        configuration = folder / "pgbouncer.ini"
        configuration.write_text(
            f"[databases]\n* = host={address.host} port={address.port or 5432}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {users}\npool_mode = {mode}\n"
        )
        # PgBouncer refuses to run as root.
        user = ["--user", "postgres"] if os.geteuid() == 0 else []
        process = subprocess.Popen([executable, "-q", *user, configuration], stderr=subprocess.DEVNULL)
        try:
            engine = create_engine(address.set(host="127.0.0.1", port=port), poolclass=NullPool)

            def answers() -> bool:
                try:
                    with engine.connect():
                        return True
                except Exception:
                    return False

            wait_for(answers, "a pooler")
            yield port
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
