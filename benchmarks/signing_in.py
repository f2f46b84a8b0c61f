"""What a sign-in costs apart from the password's hash: on LMDB, with durable writes, as powauth has them unasked.

A sign-in counts the attempt, looks the user up, makes the session, and takes the count back. Each change of the store
is a commit that waits for the disk, so the disk's own part is told apart: the same commits, by lmdb alone.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from benchmarks.contenders.base import PASSWORD, Place
from benchmarks.contenders.powauth_users import SECRET, User, cheap_hasher, create_user_table
from benchmarks.contenders.powauth_wsgi import plain
from benchmarks.figures import Spread, spread
from benchmarks.requests import ask_wsgi, wsgi_environ
from benchmarks.tables import table

TIMES = 200
WARM_UP = 20
PAGE_BYTES = 4_096
RECORD_BYTES = 300
TXNID = 144
"""Where in a meta page the number of its transaction is (LMDB's ``MDB_meta``)."""


class SignIn(NamedTuple):
    """Microseconds, and the commits of a sign-in.

    Attributes:
        title: which throttling.
        commits: transactions of LMDB that changed something, by its own count.
        whole: all of the request, the hash included; the cheapest hash there is, for it is taken off again.
        hashing: checking the password alone.
        syncing: the same number of commits of a record by lmdb alone, durably; in turn with the sign-ins.
        rest: what is neither the hash nor those commits.
    """

    title: str
    commits: float
    whole: Spread
    hashing: Spread
    syncing: Spread
    rest: Spread


def measure(times: int = TIMES) -> list[SignIn]:
    """With powauth's throttling as it is unasked, and without."""
    return [_measure(title, throttled, times) for title, throttled in (("throttled", True), ("not throttled", False))]


def _measure(title: str, throttled: bool, times: int) -> SignIn:
    import lmdb
    from sqlalchemy import create_engine

    from powauth import SessionAuth, Throttle
    from powauth.backends.base import drive
    from powauth.backends.lmdb import LMDBBackend
    from powauth.users.sqlalchemy import SQLAlchemyUsers

    with tempfile.TemporaryDirectory(prefix="powauth-bench-") as directory:
        place = Place(Path(directory))
        engine = create_engine(f"sqlite:///{create_user_table(place.directory)}")
        hasher = cheap_hasher()
        users = SQLAlchemyUsers(engine, User, hasher=hasher)
        path = place.directory / "sessions"
        backend = LMDBBackend(path)
        auth = SessionAuth(secret_key=SECRET, users=users, backend=backend, throttle=Throttle() if throttled else None)
        app = plain(auth)
        stored = hasher.hash(PASSWORD)

        def sign_in() -> None:
            answer = ask_wsgi(app, wsgi_environ("/login", method="POST"))
            assert (answer.status, bool(answer.cookies)) == (200, True), answer

        with lmdb.open(str(place.directory / "bare"), map_size=1 << 26) as bare:

            def commit() -> None:
                for _ in range(round(commits)):
                    with bare.begin(write=True) as transaction:
                        transaction.put(os.urandom(16), bytes(RECORD_BYTES))

            try:
                before = commits_so_far(path)
                _each(sign_in, WARM_UP)
                commits = (commits_so_far(path) - before) / WARM_UP
                whole, syncing = [], []
                for _ in range(times):
                    whole += _each(sign_in, 1)
                    syncing += _each(commit, 1)
                hashing = _each(lambda: hasher.verify(stored, PASSWORD), times)
            finally:
                drive(backend.close())
                engine.dispose()
    hash_alone = spread(hashing)
    rest = [one - other - hash_alone.median for one, other in zip(whole, syncing, strict=True)]
    return SignIn(title, commits, spread(whole), hash_alone, spread(syncing), spread(rest))


def disk_sync(times: int = TIMES) -> Spread:
    """Microseconds of writing one page and waiting for the disk: the least that a durable change can cost here."""
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
    """How many transactions have changed the database in a directory, read from its two meta pages.

    For a database that this process has open already, and must not open again.
    """
    with (path / "data.mdb").open("rb") as file:
        pages = file.read(2 * PAGE_BYTES)
    return max(int.from_bytes(pages[start : start + 8], "little") for start in (TXNID, PAGE_BYTES + TXNID))


HEAD = ["sign-in", "commits", "whole µs", "hash µs", "those commits by lmdb alone µs", "the rest µs"]


def rows(measured: Sequence[SignIn]) -> list[list[str]]:
    """For the table."""
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
