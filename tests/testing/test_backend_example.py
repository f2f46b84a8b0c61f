"""The backend of ``examples/backend.py`` passes the suite."""

import runpy
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from powauth.backends.base import Backend, drive
from powauth.testing import BackendConformance

PROGRAM = Path(__file__).parents[2] / "examples" / "backend.py"
NAMES = runpy.run_path(str(PROGRAM))
FileBackend: Callable[[str], Backend] = NAMES["FileBackend"]


def test_the_docs_show_this_program() -> None:
    page = (PROGRAM.parents[1] / "docs" / "extending.md").read_text()
    assert f"```python\n# backend.py: python backend.py\n{PROGRAM.read_text()}```" in page


class TestFileBackend(BackendConformance):
    contenders = 20

    @pytest.fixture(autouse=True)
    def _folder(self) -> Iterator[None]:
        memory = Path("/dev/shm")
        # The disk is no matter to these tests, and SQLite waits for it at each write.
        with TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
            self.path = f"{folder}/sessions.db"
            yield

    def make_backend(self) -> Backend:
        return FileBackend(self.path)

    def second(self, backend: Backend) -> Backend:
        made: Backend = NAMES["from_url"](f"file://{self.path}", asynchronous=None, create=True)
        return made

    def make_unreachable(self) -> Backend:
        backend = FileBackend(f"{self.path}-closed")
        drive(backend.close())
        return backend

    async def break_engine(self, backend: Backend) -> None:
        with sqlite3.connect(self.path) as file:
            file.execute("ALTER TABLE entries RENAME TO entries_away")
        file.close()

    async def mend_engine(self, backend: Backend) -> None:
        with sqlite3.connect(self.path) as file:
            file.execute("ALTER TABLE entries_away RENAME TO entries")
        file.close()
