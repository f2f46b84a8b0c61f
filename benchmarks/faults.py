"""The effect of engine failures on signed-in clients: ``make faults``.

For Redis, PostgreSQL and LMDB, 1,000 clients are signed in and 100 have signed out. All of them keep sending requests
while the engine is stopped, killed, cut off, slow, full or read-only. The table shows the number of clients that were
wrongly signed out or in (0), the answers during the fault, and the time from the engine's return until every client had
been served.

If the engine is reached over a network, the time limit for a verb is one second (`TIMEOUT`).
"""

import argparse
import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from itertools import takewhile
from pathlib import Path

import msgspec
from scripts.ports import free_port

from benchmarks import revocation, scale
from benchmarks.load import PATIENCE_SECONDS, Crowd, Fault, Findings
from benchmarks.proxy import Proxy, proxy
from benchmarks.servers import PostgresServer, RedisServer, directory, running
from benchmarks.site import Client, Site, sign_in, site
from benchmarks.tables import table
from powauth.backends.base import Record, drive, make_key, make_owner
from powauth.backends.lmdb import LMDBBackend
from powauth.backends.ordered import Transaction
from powauth.backends.redis import RedisBackend
from powauth.backends.sql import SQLBackend
from powauth.errors import StoreUnavailable

TIMEOUT = timedelta(seconds=1)
"""Seconds that a verb may take."""

VICTIMS = 50
"""The number of clients whose records are overwritten with values that are not their sessions."""

FULL_FILE = 1 << 20
"""The largest file of PostgreSQL, in bytes, while its disk is full. It is the size of a segment of its log here."""

Report = Callable[[Findings], None]


def held(seconds: float, begin: Callable[[], object], end: Callable[[], object]) -> Fault:
    """Return a fault that lasts for some seconds. Its steps block, so they run in a thread."""

    def whole() -> float:
        begin()
        time.sleep(seconds)
        end()
        return time.monotonic()

    return lambda: asyncio.to_thread(whole)


def nothing() -> None:
    """Do nothing, for faults that only begin or only end."""


def resets(through: Proxy, seconds: float) -> Fault:
    async def whole() -> float:
        through.resets = 0.2
        await asyncio.sleep(seconds)
        through.resets = 0.0
        assert through.broken, "some replies were cut"
        return time.monotonic()

    return whole


def delays(through: Proxy, seconds: float) -> Fault:
    async def whole() -> float:
        through.delay = 1.5 * TIMEOUT.total_seconds()
        await asyncio.sleep(seconds)
        through.delay = 0.0
        return time.monotonic()

    return whole


def foreign(number: int, own: bytes, others: bytes) -> bytes:
    """Return a value that is not the client's session: noise, nothing, a part, another schema, or another's session."""
    return [os.urandom(200), b"", own[: len(own) // 2], msgspec.msgpack.encode({"schema": 9, "sid": own}), others][
        number % 5
    ]


async def victims(site: Site) -> list[Client]:
    """Sign in clients whose names begin with ``victim-``, so that their records can be found by name."""
    made: list[Client] = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while len(made) < VICTIMS:
            client = await sign_in(site, f"victim-{len(made):03}")
            if client is not None:  # the engine is well, but the machine may be busy
                made.append(client)
    return made


async def garbage(crowd: Crowd, site: Site, engine: str, plant: Callable[[], int]) -> Findings:
    """Overwrite the victims' records. This must sign nobody in, cause no error, and not affect other clients."""
    overwritten = await victims(site)

    async def fault() -> float:
        assert await asyncio.to_thread(plant) >= VICTIMS  # a sign-in without an answer may have left one more
        for _ in range(2):
            for client in overwritten:
                answer = await site.ask("/private", client.cookie)
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while answer.status == 503:  # the engine works, but the machine may be busy
                        answer = await site.ask("/private", client.cookie)
                found.signed_in += answer.status == 200
                if answer.status != 401:
                    found.errors.append(f"planted: {answer}")
        return time.monotonic()

    found = Findings(engine, "")
    under = await crowd.during(site, engine, f"{VICTIMS} records garbage or foreign", fault)
    under.signed_in += found.signed_in
    under.errors += found.errors
    return under


# --- Redis ------------------------------------------------------------------------------------------------------------


def _plant_redis(server: RedisServer) -> int:
    planted = 0
    found = {key: server.ask("GET", key) for key in server.ask("KEYS", "*:r:*")}
    others = next(value for value in found.values() if b"user-" in value)
    for key, value in found.items():
        if b"victim-" in value:
            planted += 1
            if planted % 7 == 0:
                server.ask("DEL", key)
                server.ask("HSET", key, "field", "value")
            elif planted % 7 == 1:
                server.ask("SET", key, b"P9" + value[2:])
            else:
                server.ask("SET", key, foreign(planted, value, others))
    return planted


async def redis_faults(folder: Path, clients: int, hold: float, report: Report, *, brief: bool = False) -> None:
    """Test one Redis server that never loses acknowledged writes (``appendfsync always``)."""
    server = RedisServer(folder)
    with running(server):
        async with (
            proxy(server.port) as through,
            site(RedisBackend(server.url, timeout=TIMEOUT, asynchronous=True)) as direct,
            site(RedisBackend(f"redis://127.0.0.1:{through.port}/0", timeout=TIMEOUT, asynchronous=True)) as proxied,
        ):
            crowd = Crowd()
            await crowd.gather(direct, clients, clients // 10)

            def restart() -> None:
                server.start()

            faults: list[tuple[Site, str, Fault]] = [
                (direct, "none", held(hold, nothing, nothing)),
                (direct, "stopped and continued", held(hold, server.pause, server.resume)),
                (direct, "killed and restarted", held(hold / 2, server.kill, restart)),
                (proxied, "connections reset mid-reply", resets(through, hold)),
                (proxied, "answers late", delays(through, hold + TIMEOUT.total_seconds())),
                (
                    direct,
                    "memory full",
                    held(
                        hold,
                        lambda: server.ask("CONFIG", "SET", "maxmemory", "1"),
                        lambda: server.ask("CONFIG", "SET", "maxmemory", "0"),
                    ),
                ),
                (
                    direct,
                    "read-only replica",
                    held(
                        hold,
                        lambda: server.ask("REPLICAOF", "127.0.0.1", free_port()),
                        lambda: server.ask("REPLICAOF", "NO", "ONE"),
                    ),
                ),
            ]
            for where, name, fault in faults[1:4] if brief else faults:
                report(await crowd.during(where, "Redis", name, fault))
            report(await garbage(crowd, direct, "Redis", lambda: _plant_redis(server)))


LOSS = "killed, nothing on disk"
"""The only fault that signs out: the engine is configured to keep nothing."""


async def redis_loss(folder: Path, clients: int, hold: float, report: Report) -> None:
    """Kill a Redis server that keeps nothing on the disk. This loses every session, and has no other effect."""
    server = RedisServer(folder, durable=False)
    with running(server):
        async with site(RedisBackend(server.url, timeout=TIMEOUT, asynchronous=True)) as direct:
            crowd = Crowd()
            await crowd.gather(direct, clients, clients // 10)
            fault = held(hold / 2, server.kill, server.start)
            report(await crowd.during(direct, "Redis", LOSS, fault))


# --- PostgreSQL -------------------------------------------------------------------------------------------------------


def disk_full(server: PostgresServer, seconds: float) -> Fault:
    """Return a fault in which no table can grow. Space that vacuum and updates free is filled again at once."""

    def whole() -> float:
        deadline = time.monotonic() + seconds
        while True:
            _fill_postgres(server)
            if time.monotonic() > deadline:
                break
        server.limit_files(None)
        server.ask("DELETE FROM powauth_sessions WHERE owner = 'filler:1'")
        return time.monotonic()

    return lambda: asyncio.to_thread(whole)


_FILLER = """
INSERT INTO powauth_sessions (key, owner, version, created_at, expires_at, value)
SELECT ('filler:' || %s::bigint + n)::bytea, 'filler:1', 0, 0, 1, convert_to(repeat('x', 400), 'UTF8')
FROM generate_series(1, %s) AS n
"""


def _fill_postgres(server: PostgresServer) -> None:
    import psycopg

    server.limit_files(max(FULL_FILE, int(server.ask("SELECT pg_relation_size('powauth_sessions')")[0][0])))
    number = time.monotonic_ns()
    with server.connect() as connection:
        for rows in (200, 20, 1):
            with suppress(psycopg.InternalError, psycopg.OperationalError):
                while True:
                    connection.execute(_FILLER, (number, rows))
                    number += rows
            number += rows


def _read_only(server: PostgresServer, *, on: bool) -> None:
    server.ask(
        "ALTER SYSTEM SET default_transaction_read_only = on"
        if on
        else "ALTER SYSTEM RESET default_transaction_read_only"
    )
    server.ask("SELECT pg_reload_conf()")


def _plant_postgres(server: PostgresServer) -> int:
    with server.connect() as connection:
        rows = "SELECT key, value FROM powauth_sessions WHERE position(%s in owner) = 1"
        found = connection.execute(rows, (make_owner("credentials", "victim-"),)).fetchall()
        others = connection.execute(rows + " LIMIT 1", (make_owner("credentials", "user-"),)).fetchall()[0][1]
        for number, (key, value) in enumerate(found):
            planted = (foreign(number, value, others), key)
            connection.execute("UPDATE powauth_sessions SET value = %s WHERE key = %s", planted)
    return len(found)


async def postgres_faults(folder: Path, clients: int, hold: float, report: Report, *, brief: bool = False) -> None:
    """Test PostgreSQL with its defaults, through asyncpg."""
    server = await asyncio.to_thread(PostgresServer, folder)
    driver = "postgresql+asyncpg"
    with running(server):
        # A server that has just started may need longer for its first tables than a request may take.
        patient = SQLBackend(server.url(driver), timeout=timedelta(seconds=PATIENCE_SECONDS))
        await patient.create_tables()
        await patient.close()
        async with (
            proxy(server.port) as through,
            site(SQLBackend(server.url(driver), timeout=TIMEOUT)) as direct,
            site(SQLBackend(server.url(driver, through.port), timeout=TIMEOUT)) as proxied,
        ):
            crowd = Crowd()
            await crowd.gather(direct, clients, clients // 10)
            faults: list[tuple[Site, str, Fault]] = [
                (direct, "none", held(hold, nothing, nothing)),
                (direct, "stopped and continued", held(hold, server.pause, server.resume)),
                (direct, "killed and restarted", held(hold / 2, server.kill, server.start)),
                (proxied, "connections reset mid-reply", resets(through, hold)),
                (proxied, "answers late", delays(through, hold + TIMEOUT.total_seconds())),
                (direct, "disk full", disk_full(server, hold)),
                (
                    direct,
                    "read-only",
                    held(hold, lambda: _read_only(server, on=True), lambda: _read_only(server, on=False)),
                ),
            ]
            for where, name, fault in faults[1:4] if brief else faults:
                report(await crowd.during(where, "PostgreSQL", name, fault))
            report(await garbage(crowd, direct, "PostgreSQL", lambda: _plant_postgres(server)))


# --- LMDB -------------------------------------------------------------------------------------------------------------

_WRITER = """
import lmdb, os, signal, sys
env = lmdb.Environment(sys.argv[1], map_size=int(sys.argv[2]), create=False, max_readers=2048)
with env.begin(write=True) as txn:
    txn.put(b"z", b"unfinished" * 1000)
    os.kill(os.getpid(), signal.SIGSTOP)
    txn.abort()
"""
"""The program of another worker process of the app, in the middle of a write."""

LMDB_SIZE = 8 << 20
"""The largest size of the store in bytes: about 10,000 sessions."""


class Writer:
    """A process that is stopped inside a write transaction, so that every other writer waits."""

    def __init__(self, path: Path) -> None:
        self.command = [sys.executable, "-c", _WRITER, str(path), str(LMDB_SIZE)]
        self.process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        self.process = subprocess.Popen(self.command)
        _, status = os.waitpid(self.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def end(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait()


def map_full(site: Site, backend: LMDBBackend, seconds: float) -> Fault:
    """Return a fault in which the store is full. Freed space is filled again, and sign-ins are tried until refused."""

    def empty(filled: list[bytes]) -> None:
        for key in filled:
            drive(backend.delete(key, int(time.time() * 1000)))

    async def whole() -> float:
        filled = await asyncio.to_thread(_fill_lmdb, backend, (60_000, 2_000, 100))
        deadline = time.monotonic() + seconds
        refused = False
        async with asyncio.timeout(seconds + PATIENCE_SECONDS):
            while time.monotonic() < deadline or not refused:
                filled += await asyncio.to_thread(_fill_lmdb, backend, (100,))
                refused |= await sign_in(site, "latecomer") is None
                await asyncio.sleep(0.005)
        await asyncio.to_thread(empty, filled)
        return time.monotonic()

    return whole


def _fill_lmdb(backend: LMDBBackend, sizes: tuple[int, ...]) -> list[bytes]:
    """Create records until the store is full, and return their keys."""
    owner, now = make_owner("filler", "1"), int(time.time() * 1000)
    keys: list[bytes] = []
    for size in sizes:
        while True:
            key = make_key("filler", b"00" + os.urandom(12))
            keys.append(key)
            try:
                drive(backend.create(Record(key, owner, 0, now, now + 3_600_000, bytes(size)), None, now))
            except StoreUnavailable:
                break
    return keys


def _plant_lmdb(path: Path, backend: LMDBBackend) -> int:
    def work(txn: Transaction) -> int:
        found = dict(takewhile(lambda entry: entry[0].startswith(b"r"), txn.ascending(b"r")))
        others = next(value for value in found.values() if b"user-" in value)
        marked = [(key, value) for key, value in found.items() if b"victim-" in value]
        for number, (key, value) in enumerate(marked):
            txn.put(key, b"\x09" + value[1:] if number % 7 == 1 else foreign(number, value, others))
        return len(marked)

    return backend.write(work)


async def lmdb_faults(folder: Path, clients: int, hold: float, report: Report, *, brief: bool = False) -> None:
    """Test durable LMDB. The other process is another worker of the same app."""
    path = folder / "sessions"
    backend = LMDBBackend(path, map_size=LMDB_SIZE, max_map_size=LMDB_SIZE)
    async with site(backend) as direct:
        crowd = Crowd()
        await crowd.gather(direct, clients, clients // 10)
        writer = Writer(path)
        faults: list[tuple[str, Fault]] = [
            ("none", held(hold, nothing, nothing)),
            ("a writer stopped in a write", held(hold, writer.begin, lambda: writer.end(signal.SIGCONT))),
            ("a writer killed in a write", held(0, writer.begin, lambda: writer.end(signal.SIGKILL))),
            ("map full", map_full(direct, backend, hold)),
        ]
        for name, fault in faults[1:] if brief else faults:
            report(await crowd.during(direct, "LMDB", name, fault))
        report(await garbage(crowd, direct, "LMDB", lambda: _plant_lmdb(path, backend)))


# --- the table --------------------------------------------------------------------------------------------------------

HEAD = (
    "engine",
    "fault",
    "requests",
    "signed out",
    "signed in",
    "503",
    "other 5xx",
    "public page",
    "sign-ins",
    "sign-outs",
    "slowest",
    "all served after",
)


def row(found: Findings) -> tuple[object, ...]:
    """Return a row of the table. Sign-ins and sign-outs are shown as acknowledged and refused."""
    return (
        found.engine,
        found.fault,
        found.requests,
        found.signed_out,
        found.signed_in,
        found.refused,
        len(found.errors),
        found.public_failures,
        "{} + {}".format(*found.sign_ins),
        "{} + {}".format(*found.sign_outs),
        f"{found.slowest:.2f} s",
        f"{found.served_after:.2f} s",
    )


def quiet() -> None:
    """Silence the logs of asyncio and of SQLAlchemy's pool, which also report broken connections."""
    for name in ("asyncio", "sqlalchemy.pool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


async def every_fault(clients: int, hold: float, report: Report) -> None:
    for faults in (redis_faults, postgres_faults, lmdb_faults):
        with directory() as folder:
            await faults(folder, clients, hold, report)
    with directory() as folder:
        await redis_loss(folder, clients, hold, report)


def at_scale(count: int) -> int:
    """Measure and print the third table. Filling the stores takes minutes."""
    rows: list[scale.Cost] = []
    for name, costs in scale.ENGINES.items():
        print(f"  {name}: filling with {count} records", file=sys.stderr, flush=True)
        with directory() as folder:
            rows += costs(folder, count)
    print(f"{count} records, and a thread that reads one of them every millisecond beside each verb")
    print(table(scale.HEAD, [scale.row(cost) for cost in rows]))
    paused = any(undisturbed > scale.LONGEST_PAUSE for cost in rows for _, undisturbed in cost.waits)
    return 1 if paused or any(cost.slow for cost in rows) else 0


def one_revocation(engine: str, sessions: int) -> revocation.Revocation:
    with directory() as folder:
        return asyncio.run(revocation.revoke_on(engine, folder, sessions))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__.partition("\n")[0])
    parser.add_argument("--clients", type=int, default=1000, help="how many are signed in (default: %(default)s)")
    parser.add_argument("--sessions", type=int, default=10_000, help="of one user, to revoke (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long a fault lasts (default: %(default)s)")
    parser.add_argument("--scale", type=int, nargs="?", const=1_000_000, help="so many records instead: a million")
    options = parser.parse_args()
    if options.scale:
        return at_scale(options.scale)
    quiet()
    rows: list[Findings] = []

    def report(found: Findings) -> None:
        rows.append(found)
        verdict = "ok" if found.harmless else "all lost, as is to be expected" if found.fault == LOSS else "HARM"
        print(f"  {found.engine}, {found.fault}: {verdict}", file=sys.stderr, flush=True)
        for error in found.errors[:3]:
            print(f"    {error}", file=sys.stderr)

    asyncio.run(every_fault(options.clients, options.seconds, report))
    print(f"{options.clients} clients signed in, {options.clients // 10} had left; faults last {options.seconds} s")
    print("Sign-ins and sign-outs: acknowledged + refused. Row 'none' is the same load on an engine that is well.")
    print(table(HEAD, [row(found) for found in rows]))
    revoked = [one_revocation(engine, options.sessions) for engine in revocation.ENGINES]
    print(f"\nAll sessions of one user revoked while {revocation.SIGNING_IN} clients sign in as that user")
    print(table(revocation.HEAD, [revocation.row(found, options.sessions) for found in revoked]))
    if any(found.survivors or found.lost for found in revoked):
        return 1
    return 0 if all(found.harmless or (found.fault == LOSS and not found.signed_in) for found in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
