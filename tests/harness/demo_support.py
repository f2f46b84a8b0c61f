"""Starts the demo with its documented command."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from scripts.ports import free_port

ROOT = Path(__file__).parents[2]


class Demo:
    """One run of the demo."""

    def __init__(self, data: Path, **settings: str) -> None:
        self.port, self.flask_port = free_port(), free_port()
        named = {"PORT": str(self.port), "FLASK_PORT": str(self.flask_port), "DATA": str(data), **settings}
        self.data = data
        self.log = data.with_suffix(".log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "demo"],
                cwd=ROOT,
                env=os.environ | {f"POWAUTH_DEMO_{name}": value for name, value in named.items()},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + 60
        while "Ctrl-C stops it" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    @property
    def urls(self) -> tuple[str, str]:
        return f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.flask_port}"

    @property
    def public_urls(self) -> tuple[str, str]:
        """The addresses in links, and those for which browsers make passkeys."""
        return f"http://localhost:{self.port}", f"http://localhost:{self.flask_port}"

    def link(self, email: str, path: str) -> str:
        """The newest link to a path in the mail that the demo has printed for an address. It waits for the link."""
        deadline = time.monotonic() + 30
        while True:
            mails = self.log.read_text().split("--- mail ---")
            links = [re.search(rf"http://localhost:\d+{path}#\S+", each) for each in mails if f"To: {email}\n" in each]
            if found := [link[0] for link in links if link is not None]:
                return found[-1]
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def children(self) -> list[int]:
        """Every process below the demo's own."""
        parents: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                if fields[0] != "Z":
                    parents.setdefault(int(fields[1]), []).append(int(entry.name))
        found, todo = [], [self.process.pid]
        while todo:
            below = parents.get(todo.pop(), [])
            found += below
            todo += below
        return found

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)
