"""A backend over `sqlite3` of the standard library. Make it in each worker process: a connection survives no fork."""

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from powauth import StoreUnavailable
from powauth.backends.base import Mode
from powauth.backends.ordered import OrderedBackend, Transaction

T = TypeVar("T")


class FileTransaction(Transaction):
    def __init__(self, file: sqlite3.Connection) -> None:
        self._file = file

    def get(self, key: bytes) -> bytes | None:
        found = self._file.execute("SELECT value FROM entries WHERE key = ?", (key,)).fetchone()
        return None if found is None else bytes(found[0])

    def put(self, key: bytes, value: bytes) -> None:
        self._file.execute("INSERT OR REPLACE INTO entries VALUES (?, ?)", (key, value))

    def delete(self, key: bytes) -> bool:
        return self._file.execute("DELETE FROM entries WHERE key = ?", (key,)).rowcount > 0

    def ascending(self, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        yield from self._file.execute("SELECT * FROM entries WHERE key >= ? ORDER BY key", (start,))

    def descending(self, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        yield from self._file.execute("SELECT * FROM entries WHERE key < ? ORDER BY key DESC", (end,))


class FileBackend(OrderedBackend):
    mode: Mode = "blocking"  # it waits for the disk, and never suspends

    def __init__(self, path: str) -> None:
        self._lock = threading.Lock()
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # only the app's user may read sessions
        self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._file.execute("PRAGMA journal_mode = WAL")
        self._file.execute("CREATE TABLE IF NOT EXISTS entries (key PRIMARY KEY, value) WITHOUT ROWID")

    def read(self, work: Callable[[Transaction], T]) -> T:
        return self._run("BEGIN", work)

    def write(self, work: Callable[[Transaction], T], *, removes: bool = False) -> T:
        return self._run("BEGIN IMMEDIATE", work)  # other writers, also of other processes, wait for the commit

    def _run(self, begin: str, work: Callable[[Transaction], T]) -> T:
        try:
            with self._lock, self._file:
                self._file.execute(begin)
                return work(FileTransaction(self._file))
        except sqlite3.Error as error:
            raise StoreUnavailable("the file of the sessions cannot be read or written") from error

    async def close(self) -> None:
        self._file.close()


def from_url(url: str, *, asynchronous: bool | None = None, create: bool = True) -> FileBackend:
    """Open ``file:///path``; an entry point in pyproject.toml names this function."""
    return FileBackend(url.removeprefix("file://"))
