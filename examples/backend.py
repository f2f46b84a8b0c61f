"""A backend over `sqlite3` of the standard library. Make it in each worker process: a connection survives no fork."""

import sqlite3
import threading
from typing import Any

import msgspec

from powauth import StoreUnavailable
from powauth.backends.base import EPOCH_LIFETIME, Backend, Millis, Mode, Record, ScanPage, key_in_cursor

TABLES = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS records (key PRIMARY KEY, owner, version, created_at, expires_at, value);
CREATE INDEX IF NOT EXISTS owners ON records (owner);
CREATE TABLE IF NOT EXISTS epochs (owner PRIMARY KEY, epoch, moved_at);
"""
ADVANCE = """INSERT INTO epochs VALUES (:owner, :now, :now) ON CONFLICT DO UPDATE
    SET epoch = max(epoch + 1, :now), moved_at = :now RETURNING epoch"""
CREATE = """INSERT INTO records SELECT :key, :owner, :version, :created_at, :expires_at, :value
    WHERE :epoch IS NULL OR :epoch = coalesce((SELECT epoch FROM epochs WHERE owner = :owner), 0)
    ON CONFLICT DO UPDATE SET owner = :owner, version = :version, created_at = :created_at, expires_at = :expires_at,
        value = :value WHERE expires_at <= :now RETURNING 1"""
UPDATE = """UPDATE records SET version = :version, expires_at = :expires_at, value = :value
    WHERE key = :key AND version = :expected AND expires_at > :now RETURNING 1"""
DELETE_OWNER = "DELETE FROM records WHERE owner = :owner AND key IS NOT :keep RETURNING expires_at"
PURGE = (
    """DELETE FROM records WHERE key IN (SELECT key FROM records WHERE expires_at <= :now LIMIT :limit) RETURNING 1"""
)
FORGET = (
    """DELETE FROM epochs WHERE owner IN (SELECT owner FROM epochs WHERE moved_at <= :now LIMIT :limit) RETURNING 1"""
)
LIVE = "FROM records WHERE expires_at > :now AND"


class FileBackend(Backend):
    mode: Mode = "blocking"  # it waits for the disk, and never suspends

    def __init__(self, path: str) -> None:
        self._lock = threading.Lock()
        self._file = sqlite3.connect(path, isolation_level="IMMEDIATE", check_same_thread=False)
        self._file.executescript(TABLES)

    def _run(self, *statements: str, **values: Any) -> list[Any]:
        """Run statements in one transaction, and return the rows of the last one."""
        rows: list[Any] = []
        try:
            with self._lock, self._file:
                for statement in statements:
                    rows = self._file.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise StoreUnavailable("the file of the sessions cannot be read or written") from error
        return rows

    async def create(self, record: Record, epoch: int | None, now: Millis) -> bool:
        return bool(self._run(CREATE, **msgspec.structs.asdict(record), epoch=epoch, now=now))

    async def get(self, key: bytes, now: Millis) -> Record | None:
        return next((Record(*row) for row in self._run(f"SELECT * {LIVE} key = :key", key=key, now=now)), None)

    async def update(self, record: Record, expected_version: int, now: Millis) -> bool:
        return bool(self._run(UPDATE, **msgspec.structs.asdict(record), expected=expected_version, now=now))

    async def delete(self, key: bytes, now: Millis) -> bool:
        gone = self._run("DELETE FROM records WHERE key = :key RETURNING expires_at", key=key)
        return any(expires_at > now for (expires_at,) in gone)

    async def list(self, owner: bytes, now: Millis) -> list[Record]:
        newest_first = f"SELECT * {LIVE} owner = :owner ORDER BY created_at DESC, key DESC"
        return [Record(*row) for row in self._run(newest_first, owner=owner, now=now)]

    async def epoch(self, owner: bytes, now: Millis, *, advance: bool = False) -> int:
        read = "SELECT coalesce(max(epoch), 0) FROM epochs WHERE owner = :owner"
        return int(self._run(ADVANCE if advance else read, owner=owner, now=now)[0][0])

    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        gone = self._run(ADVANCE, DELETE_OWNER, owner=owner, now=now, keep=keep)
        return sum(expires_at > now for (expires_at,) in gone)

    async def purge(self, limit: int, now: Millis) -> int:
        went = len(self._run(PURGE, now=now, limit=limit))
        return went + len(self._run(FORGET, now=now - EPOCH_LIFETIME, limit=limit - went))

    async def scan(self, namespace: str, cursor: str | None, limit: int, now: Millis) -> ScanPage:
        after = f"{namespace}:".encode() if cursor is None else key_in_cursor(cursor, namespace)
        rest = f"SELECT * {LIVE} key > :after AND key < :end ORDER BY key LIMIT :limit"
        rows = self._run(rest, after=after, end=f"{namespace};".encode(), limit=limit, now=now)
        return ScanPage([Record(*row) for row in rows], rows[-1][0].hex() if len(rows) == limit else None)

    async def count(self, namespace: str, now: Millis) -> int:
        first, end = f"{namespace}:".encode(), f"{namespace};".encode()
        return int(
            self._run(f"SELECT count(*) {LIVE} key > :first AND key < :end", first=first, end=end, now=now)[0][0]
        )

    async def close(self) -> None:
        self._file.close()


def from_url(url: str, *, asynchronous: bool | None = None, create: bool = True) -> FileBackend:
    """Open ``file:///path``; an entry point in pyproject.toml names this function."""
    return FileBackend(url.removeprefix("file://"))
