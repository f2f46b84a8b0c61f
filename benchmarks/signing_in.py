"""The cost of a sign-in without the password's hash: on LMDB, with durable writes, which are powauth's default.

A sign-in counts the attempt, looks the user up, makes the session, and removes the count again. Each change of the
store is a commit that waits for the disk. The disk's part is measured separately: the same commits, by lmdb alone.

Only the app's work on a request is timed. Making the environ is a server's work, and reading the cookie from the answer
is a browser's. Checking the password is timed within each sign-in. After a wait for the disk the processor's caches are
cold, so the check takes longer there than many checks in a row.

The time of a disk's sync varies by more than all the rest. So the measurement is repeated with the files in memory,
where a sync costs nothing and lmdb works as before. The remaining time is powauth's own.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from benchmarks.contenders.base import Place
from benchmarks.contenders.powauth_users import SECRET, User, create_user_table
from benchmarks.contenders.powauth_wsgi import plain
from benchmarks.figures import Spread, spread
from benchmarks.requests import wsgi_environ
from benchmarks.tables import table
from powauth.accounts.passwords import PasswordHasher

TIMES = 200
WARM_UP = 20
PAGE_BYTES = 4_096
RECORD_BYTES = 300
MEMORY = Path("/dev/shm")
"""The directory of files in memory, on Linux."""

TXNID = 144
"""The offset of the transaction's number in a meta page (LMDB's ``MDB_meta``)."""


class TimedHasher(PasswordHasher):
    """A hasher like `cheap_hasher` that notes the time of each check."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, cheap_and_unsafe=True)
        self.spent: list[float] = []

    def verify(self, stored: object, password: object) -> bool:
        start = perf_counter()
        correct = super().verify(stored, password)
        self.spent.append((perf_counter() - start) * 1e6)
        return correct


class SignIn(NamedTuple):
    """Microseconds and commits of a sign-in.

    Attributes:
        title: the throttling, and the location of the files.
        commits: transactions of LMDB that changed something, by its own count.
        whole: the whole request. It includes the hash, which is the cheapest one because it is subtracted again.
        hashing: the check of the password within it.
        syncing: the same number of durable commits of a record by lmdb alone, alternating with the sign-ins.
        rest: the time that is neither the hash nor those commits.
    """

    title: str
    commits: float
    whole: Spread
    hashing: Spread
    syncing: Spread
    rest: Spread


def measure(times: int = TIMES) -> list[SignIn]:
    """Measure with powauth's default throttling and without it, on this disk and in memory."""
    places: list[tuple[str, Path | None]] = [("on this disk", None)]
    if os.access(MEMORY, os.W_OK):
        places.append(("files in memory", MEMORY))
    return [
        _measure(f"{title}, {where}", throttled, parent, times)
        for where, parent in places
        for title, throttled in (("throttled", True), ("not throttled", False))
    ]


def _measure(title: str, throttled: bool, parent: Path | None, times: int) -> SignIn:
    import lmdb
    from sqlalchemy import create_engine

    from powauth import SessionAuth, Throttle
    from powauth.accounts.sqlalchemy import SQLAlchemyUsers
    from powauth.backends.base import drive
    from powauth.backends.lmdb import LMDBBackend

    with tempfile.TemporaryDirectory(prefix="powauth-bench-", dir=parent) as directory:
        place = Place(Path(directory))
        engine = create_engine(f"sqlite:///{create_user_table(place.directory)}")
        hasher = TimedHasher()
        users = SQLAlchemyUsers(engine, User, hasher=hasher)
        path = place.directory / "sessions"
        backend = LMDBBackend(path)
        auth = SessionAuth(secret_key=SECRET, users=users, backend=backend, throttle=Throttle() if throttled else None)
        app = plain(auth)

        def sign_in() -> float:
            environ = wsgi_environ("/login", method="POST")
            started: list[tuple[str, list[tuple[str, str]]]] = []
            start = perf_counter()
            b"".join(app(environ, lambda status, headers, _=None: started.append((status, headers))))
            spent = (perf_counter() - start) * 1e6
            ((status, headers),) = started
            assert (status[:3], any(name.lower() == "set-cookie" for name, _ in headers)) == ("200", True), started
            return spent

        with lmdb.open(str(place.directory / "bare"), map_size=1 << 26) as bare:

            def commit() -> None:
                for _ in range(round(commits)):
                    with bare.begin(write=True) as transaction:
                        transaction.put(os.urandom(16), bytes(RECORD_BYTES))

            try:
                before = commits_so_far(path)
                for _ in range(WARM_UP):
                    sign_in()
                commits = (commits_so_far(path) - before) / WARM_UP
                hasher.spent.clear()
                whole, syncing = [], []
                for _ in range(times):
                    whole.append(sign_in())
                    syncing += _each(commit, 1)
            finally:
                drive(backend.close())
                engine.dispose()
    rest = [one - two - three for one, two, three in zip(whole, hasher.spent, syncing, strict=True)]
    return SignIn(title, commits, spread(whole), spread(hasher.spent), spread(syncing), spread(rest))


def disk_sync(times: int = TIMES) -> Spread:
    """Return the microseconds of writing and syncing one page: the least cost of a durable change here."""
    with tempfile.NamedTemporaryFile(prefix="powauth-bench-", buffering=0) as file:
        page = os.urandom(PAGE_BYTES)

        def write() -> None:
            file.seek(0)
            file.write(page)
            os.fdatasync(file.fileno())

        return spread(_each(write, times))


def _each(call: Callable[[], object], times: int) -> list[float]:
    spent = []
    for _ in range(times):
        start = perf_counter()
        call()
        spent.append((perf_counter() - start) * 1e6)
    return spent


def commits_so_far(path: Path) -> int:
    """Return the number of transactions that have changed a database, read from its two meta pages.

    This process has the database open already, and must not open it again.
    """
    with (path / "data.mdb").open("rb") as file:
        pages = file.read(2 * PAGE_BYTES)
    return max(int.from_bytes(pages[start : start + 8], "little") for start in (TXNID, PAGE_BYTES + TXNID))


HEAD = ["sign-in", "commits", "whole µs", "hash µs", "those commits by lmdb alone µs", "the rest µs"]


def rows(measured: Sequence[SignIn]) -> list[list[str]]:
    """Return the rows of the table."""
    return [
        [
            each.title,
            f"{each.commits:g}",
            each.whole.text(0),
            each.hashing.text(0),
            each.syncing.text(0),
            each.rest.text(0),
        ]
        for each in measured
    ]


def main() -> None:
    """Measure and print."""
    print(table(HEAD, rows(measure())))
    print(f"a page to the disk: {disk_sync().text(0)} µs")


if __name__ == "__main__":
    main()
