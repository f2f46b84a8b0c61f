"""The cost of a session in LMDB: space, reads, sign-ins, and the longest pause of cleaning.

Each row is measured in its own process, so that no row reuses memory that another has freed.
"""

import argparse
import gc
import importlib.util
import itertools
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.tables import table
from powauth.backends.base import Backend, Record, drive, make_key, make_owner, shard_of

NOW = 1_900_000_000_000
TTL = 1_800_000
VALUE_BYTES = 200
SAMPLE = 10_000
"""Keys read in one round. The median of three rounds counts. They read different keys if there are enough."""

RAM_DISK = Path("/dev/shm")
"""The directory of LMDB's files, if it exists: on a disk, a million commits would wait for the disk."""

Read = Callable[[bytes], object]


class Row(NamedTuple):
    """The results for one number of sessions.

    Attributes:
        name: the name of the backend.
        sessions: the number of sessions, with a value of 200 bytes each. Every second user has two.
        bytes_per_session: the size of the files on disk, per session.
        read_ns: median of a `Backend.get` of a random live session, key and all unique.
        bare_ns: median of a plain ``get`` of lmdb in a read transaction, for the same keys.
        create_us: mean of a `Backend.create`.
        longest_create_ms: the longest of them, in processor time, so that other programs do not count.
        longest_purge_ms: the same of a ``purge(100)``, while all sessions have expired and are removed.
    """

    name: str
    sessions: int
    bytes_per_session: int
    read_ns: int
    bare_ns: int
    create_us: float
    longest_create_ms: float
    longest_purge_ms: float


def bench_backend(name: str, make: Callable[[], Backend], sizes: Sequence[int], directory: Path) -> list[Row]:
    """Return one row for each number of sessions.

    Args:
        name: the backend's name in the table.
        make: returns an empty backend that is not ``async``. Another process calls it, so it must be picklable.
        sizes: the numbers of sessions.
        directory: the directory of the backend's files. It is made before ``make`` is called, and removed afterwards.
    """
    rows = []
    for size in sizes:
        directory.mkdir(mode=0o700)
        try:
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
                rows.append(pool.submit(_measure, name, make, size, directory).result())
        finally:
            shutil.rmtree(directory)
    return rows


def _measure(name: str, make: Callable[[], Backend], size: int, directory: Path) -> Row:
    backend = make()
    keys = []
    every = max(size // (3 * SAMPLE), 1)
    spent = longest_create = 0.0
    for number, record in enumerate(_records(size)):
        start, start_of_pause = time.perf_counter(), time.thread_time()
        drive(backend.create(record, 0, NOW))
        longest_create = max(longest_create, time.thread_time() - start_of_pause)
        spent += time.perf_counter() - start
        if number % every == 0:
            keys.append(bytes(bytearray(record.key)))
    gc.collect()
    used = _file_bytes(directory)
    random.Random(1).shuffle(keys)
    read_ns = _time_reads(lambda key: drive(backend.get(key, NOW)), keys)
    longest_purge = 0.0
    removed = 0
    while removed < size:
        start_of_pause = time.thread_time()
        removed += drive(backend.purge(100, NOW + 2 * TTL))
        longest_purge = max(longest_purge, time.thread_time() - start_of_pause)
    drive(backend.close())
    with _bare(size, directory) as read:
        bare_ns = _time_reads(read, keys)
    return Row(
        name,
        size,
        used // size,
        read_ns,
        bare_ns,
        round(spent / size * 1e6, 1),
        round(longest_create * 1e3, 2),
        round(longest_purge * 1e3, 2),
    )


def _records(size: int) -> Iterator[Record]:
    """Yield the same records each time: users in turn have one session and two."""
    content = random.Random(2)
    numbers = (user for user in itertools.count(10_000_000) for _ in range(1 + user % 2))
    for user in itertools.islice(numbers, size):
        owner = make_owner("credentials", str(user))
        key = make_key("credentials", shard_of(owner) + content.randbytes(16))
        yield Record(key, owner, 0, NOW, NOW + content.randrange(TTL // 2, TTL), content.randbytes(VALUE_BYTES))


def _time_reads(read: Read, keys: Sequence[bytes]) -> int:
    """Return the nanoseconds of a read that hits: the median of three rounds."""
    per_round = max(len(keys) // 3, 1)
    rounds = []
    for part in range(3):
        batch = [bytes(bytearray(key)) for key in keys[part * per_round : (part + 1) * per_round]]
        start = time.perf_counter()
        for key in batch:
            read(key)
        rounds.append((time.perf_counter() - start) / len(batch))
        assert all(read(key) is not None for key in batch)
    return round(median(rounds) * 1e9)


@contextmanager
def _bare(size: int, directory: Path) -> Iterator[Read]:
    """Yield a function that reads the engine itself, with the same records in it."""
    import lmdb

    path = directory / "bare"
    with lmdb.open(str(path), map_size=1 << 32, sync=False) as environment:
        with environment.begin(write=True) as transaction:
            for record in _records(size):
                transaction.put(record.key, record.value)

        def read(key: bytes) -> object:
            with environment.begin() as transaction:
                return transaction.get(key)

        yield read


def _file_bytes(directory: Path) -> int:
    """Return the bytes on disk. Of a sparse file only the allocated blocks count."""
    return sum(path.stat().st_blocks * 512 for path in directory.rglob("*") if path.is_file())


def lmdb_backend(path: Path) -> Backend:
    """Return an LMDB backend with its default durability."""
    from powauth.backends.lmdb import LMDBBackend

    return LMDBBackend(path)


HEAD = [
    "backend",
    "sessions",
    "bytes/session",
    "read ns",
    "bare read ns",
    "create µs",
    "longest create ms",
    "longest purge ms",
]


def measure(sizes: Sequence[int]) -> list[Row]:
    """Measure LMDB at each number of sessions. It is the only backend without a server that is meant for so many."""
    if importlib.util.find_spec("lmdb") is None:
        return []
    with tempfile.TemporaryDirectory(dir=RAM_DISK if RAM_DISK.is_dir() else None) as parent:
        directory = Path(parent) / "store"
        return bench_backend("lmdb", partial(lmdb_backend, directory / "sessions"), sizes, directory)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sizes", type=int, nargs="*", default=[1_000, 1_000_000], help="numbers of sessions")
    print(table(HEAD, measure(parser.parse_args(arguments).sizes)))


if __name__ == "__main__":
    main()
