"""A million records: the cost of listing, revoking and cleaning, and its effect on other requests of the process."""

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.servers import RedisServer, running
from powauth.backends.base import Backend, Record, drive, make_key, make_owner, shard_of
from powauth.backends.lmdb import LMDBBackend
from powauth.backends.redis import RedisBackend
from powauth.backends.sql import SQLBackend

PER_OWNER = 10
"""The number of sessions of an ordinary user."""

CROWDED = 10_000
"""The number of sessions of the one user with very many, or a hundredth of all if that is less."""

EXPIRED = 0.1
"""The share of expired records. `purge` removes them, except in Redis, which does so itself."""

VALUE = bytes(range(200))

PURGE_STEP = 100
"""The limit of one call of `purge`. Between two calls an event loop serves other tasks."""

SLOW_MICROSECONDS = 10_000
"""The time from which Redis writes a command into its slow log."""

LONGEST_PAUSE = 0.005
"""The most seconds of a read beside any verb, without the time in which other processes had the processor."""


@dataclass
class Cost:
    """One row of the table.

    Attributes:
        took: seconds of each call.
        waits: seconds of each concurrent read of the other thread, and of these the seconds in which neither thread
            waited for a processor that other processes had.
        slow: entries in Redis's slow log, which also counts the time in which other processes had the processor.
        worked: seconds of the server's processor time for each call.
    """

    engine: str
    verb: str
    calls: int = 0
    took: list[float] = field(default_factory=list)
    waits: list[tuple[float, float]] = field(default_factory=list)
    slow: int | None = None
    worked: list[float] = field(default_factory=list)


def owner_of(number: int) -> bytes:
    return make_owner("credentials", str(number))


def records(count: int, now: int) -> Iterator[Record]:
    """Yield ``count`` records: of one user with very many, and of ordinary users."""
    crowded = min(CROWDED, count // 100)
    for number in range(count):
        owner = owner_of(0 if number < crowded else 1 + number // PER_OWNER)
        expired = number % round(1 / EXPIRED) == 0 and number >= crowded
        key = make_key("credentials", shard_of(owner) + number.to_bytes(16, "big"))
        expires_at = now - 1 if expired else now + 1_800_000
        yield Record(key, owner, 0, now - 1000 + number % 1000, expires_at, VALUE)


class Reader:
    """Another thread of the process that reads a record every millisecond."""

    def __init__(self, backend: Backend, key: bytes, now: int) -> None:
        self.waits: list[tuple[float, float]] = []
        self._beside = threading.get_native_id()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, args=(backend, key, now))

    def _read(self, backend: Backend, key: bytes, now: int) -> None:
        drive(backend.get(key, now))
        threads = (threading.get_native_id(), self._beside)
        while not self._over.wait(0.001):
            queued, begun = _queued(*threads), time.perf_counter()
            assert drive(backend.get(key, now)) is not None
            wait = time.perf_counter() - begun
            self.waits.append((wait, max(0.0, wait - (_queued(*threads) - queued))))

    def __enter__(self) -> list[tuple[float, float]]:
        self._thread.start()
        time.sleep(0.05)
        self.waits.clear()
        return self.waits

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def measure(
    engine: str, backend: Backend, reading: Backend, count: int, now: int, server: RedisServer | None = None
) -> Iterator[Cost]:
    """Measure each verb on a store of that many records, with a reader beside it."""
    crowded = min(CROWDED, count // 100)
    owners = iter(range(crowded, count // PER_OWNER))
    untouched = owner_of(1 + (count - 1) // PER_OWNER)
    key = next(iter(drive(backend.list(untouched, now)))).key

    def verb(name: str, work: Callable[[], Any], calls: int) -> Cost:
        cost = Cost(engine, name, calls)
        with Reader(reading, key, now) as waits:
            for _ in range(calls):
                busy, begun = _busy(server), time.perf_counter()
                work()
                cost.took.append(time.perf_counter() - begun)
                cost.worked.append(_busy(server) - busy)
            if not waits:
                time.sleep(0.01)
            cost.waits = list(waits)
        if server is not None:
            cost.slow = int(server.ask("SLOWLOG", "LEN"))
            server.ask("SLOWLOG", "RESET")
        return cost

    yield verb("nothing", lambda: time.sleep(0.001), 500)
    yield verb("list", lambda: drive(backend.list(owner_of(next(owners)), now)), 500)
    yield verb(f"list of {crowded}", lambda: drive(backend.list(owner_of(0), now)), 3)
    yield verb("delete_owner", lambda: drive(backend.delete_owner(owner_of(next(owners)), now)), 500)
    yield verb(f"delete_owner of {crowded}", lambda: drive(backend.delete_owner(owner_of(0), now)), 1)
    yield verb(f"purge({PURGE_STEP})", lambda: drive(backend.purge(PURGE_STEP, now)), 500)


def _queued(*threads: int) -> float:
    """Return the seconds in which threads of this process were ready but had no processor (proc(5), schedstat)."""
    files = (Path(f"/proc/self/task/{thread}/schedstat") for thread in threads)
    return sum(int(file.read_text().split()[1]) for file in files) / 1e9


def _busy(server: RedisServer | None) -> float:
    return 0.0 if server is None or server.process is None else server.busy_seconds()


def lmdb_costs(folder: Path, count: int) -> Iterator[Cost]:
    from powauth.backends._ordered_records import encode, put
    from powauth.backends.ordered import Transaction

    now = int(time.time() * 1000)
    backend = LMDBBackend(folder / "sessions", map_size=1 << 33)
    filling = records(count, now)

    def fill(txn: Transaction) -> int:
        batch = list(itertools.islice(filling, 20_000))
        for record in batch:
            put(txn, record, encode(record), None)
        return len(batch)

    while backend.write(fill):
        pass
    yield from measure("LMDB", backend, backend, count, now)
    drive(backend.close())


def sqlite_costs(folder: Path, count: int) -> Iterator[Cost]:
    import sqlite3

    now = int(time.time() * 1000)
    path = folder / "sessions.db"
    backend, reading = SQLBackend(f"sqlite:///{path}"), SQLBackend(f"sqlite:///{path}")
    drive(backend.create_tables())
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA synchronous=OFF")
    insert = (
        "INSERT INTO powauth_sessions (key, owner, version, created_at, expires_at, value) VALUES (?, ?, ?, ?, ?, ?)"
    )
    with connection:
        connection.executemany(
            insert, ((r.key, r.owner, r.version, r.created_at, r.expires_at, r.value) for r in records(count, now))
        )
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    yield from measure("SQLite", backend, reading, count, now)
    drive(backend.close())
    drive(reading.close())


def redis_costs(folder: Path, count: int) -> Iterator[Cost]:
    from powauth.backends._redis_scripts import HEADER, MARKS, RECORD

    server = RedisServer(folder, durable=False)
    now = int(time.time() * 1000)
    with running(server):
        # Send raw commands without replies: a client's pipeline would take minutes.
        feed = socket.create_connection(("127.0.0.1", server.port))
        feed.sendall(b"CLIENT REPLY OFF\r\n")
        backend, reading = RedisBackend(server.url), RedisBackend(server.url)
        lines: list[bytes] = []

        def command(*parts: bytes) -> None:
            lines.append(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(each), each) for each in parts))

        def send() -> None:
            feed.sendall(b"".join(lines))
            lines.clear()

        for record in records(count, now):
            if record.expires_at <= now:
                continue
            place, identifier = backend._locate(record.key)
            user = record.owner.partition(b":")[2]
            header = HEADER.pack(record.version, record.created_at, record.expires_at, len(user))
            ttl = b"%d" % (record.expires_at - now)
            packed = RECORD + bytes(MARKS - len(RECORD)) + header + user + record.value
            command(b"SET", place.records + identifier, packed, b"PX", ttl)
            command(b"ZADD", place.indexes + user, b"%d" % record.expires_at, identifier)
            if len(lines) >= 20_000:
                send()
        send()
        live = [record.owner for record in records(count, now) if record.expires_at > now]
        expected, owners = len(live), len(set(live))
        while int(server.ask("DBSIZE")) < expected + owners:
            time.sleep(0.05)
        feed.close()
        server.ask("CONFIG", "SET", "slowlog-log-slower-than", SLOW_MICROSECONDS)
        server.ask("SLOWLOG", "RESET")

        yield from measure("Redis", backend, reading, count, now, server)
        drive(backend.close())
        drive(reading.close())


ENGINES: dict[str, Callable[[Path, int], Iterator[Cost]]] = {
    "LMDB": lmdb_costs,
    "SQLite": sqlite_costs,
    "Redis": redis_costs,
}

HEAD = (
    "engine",
    "verb",
    "calls",
    "median",
    "longest",
    "reads beside",
    "99 %",
    "longest",
    "undisturbed",
    "slow log",
    "longest work",
)


def row(cost: Cost) -> tuple[object, ...]:
    took, waits = sorted(cost.took), sorted(wait for wait, _ in cost.waits) or [0.0]

    def milliseconds(seconds: float) -> str:
        return f"{seconds * 1000:.2f} ms"

    return (
        cost.engine,
        cost.verb,
        cost.calls,
        milliseconds(took[len(took) // 2]),
        milliseconds(took[-1]),
        len(cost.waits),
        milliseconds(waits[len(waits) * 99 // 100]),
        milliseconds(waits[-1]),
        milliseconds(max((undisturbed for _, undisturbed in cost.waits), default=0.0)),
        "" if cost.slow is None else cost.slow,
        "" if cost.slow is None else milliseconds(max(cost.worked)),
    )
