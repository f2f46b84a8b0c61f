"""Measure the one read of an authenticated request beside the bare driver's: ``python -m benchmarks.reads``.

Blocks of the two alternate, so that both meet the same processor and the same server. Each ratio compares adjacent
blocks, and their median counts. Redis and PostgreSQL are those on their usual ports of this machine. A server that does
not answer is left out.
"""

import argparse
import asyncio
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any
from uuid import uuid4

from sqlalchemy import create_engine

from benchmarks.tables import table
from powauth.backends.anywhere import AnywhereBackend
from powauth.backends.base import Backend, Record, drive, make_key, make_owner, shard_of
from powauth.backends.redis import RedisBackend
from powauth.backends.sql import SQLBackend
from powauth.errors import StoreUnavailable

OWNER = make_owner("credentials", "42")
KEY = make_key("credentials", shard_of(OWNER) + bytes(16))
NOW = int(time.time() * 1000)
RECORD = Record(KEY, OWNER, 0, NOW, NOW + 600_000, bytes(300))
POSTGRESQL = "postgresql+{}://postgres@127.0.0.1:5432/test"
READS = 200
"""The number of reads in a block."""

Read = Callable[[], Awaitable[object]]


async def seconds(read: Read) -> float:
    began = time.perf_counter()
    for _ in range(READS):
        await read()
    return (time.perf_counter() - began) / READS


async def compare(ours: Read, bare: Read, blocks: int) -> tuple[float, float, float]:
    """Return the medians of powauth's read and the bare one in microseconds, and of their ratios."""
    pairs = [(await seconds(ours), await seconds(bare)) for _ in range(blocks + 1)][1:]
    return median(a for a, _ in pairs) * 1e6, median(b for _, b in pairs) * 1e6, median(a / b for a, b in pairs)


def as_read(call: Callable[[], object]) -> Read:
    async def read() -> object:
        return call()

    return read


@asynccontextmanager
async def redis_asyncio(_: Path) -> AsyncIterator[tuple[Read, Read]]:
    import redis.asyncio

    prefix = f"bench-{uuid4().hex[:8]}"
    async with redis.asyncio.Redis() as client:
        backend = RedisBackend("redis://127.0.0.1", prefix=prefix, asynchronous=True)
        await backend.create(RECORD, None, NOW)
        (key,) = [key async for key in client.scan_iter(f"{prefix}:*:r:*", count=1000)]
        yield (lambda: backend.get(KEY, NOW)), (lambda: client.mget(key))
        await backend.delete_owner(OWNER, NOW)
        await backend.close()


@asynccontextmanager
async def redis_threads(_: Path) -> AsyncIterator[tuple[Read, Read]]:
    import redis

    prefix = f"bench-{uuid4().hex[:8]}"
    with redis.Redis() as client:
        backend = RedisBackend("redis://127.0.0.1", prefix=prefix)
        drive(backend.create(RECORD, None, NOW))
        (key,) = client.scan_iter(f"{prefix}:*:r:*", count=1000)
        yield (lambda: backend.get(KEY, NOW)), as_read(lambda: client.mget(key))
        drive(backend.delete_owner(OWNER, NOW))
        drive(backend.close())


@asynccontextmanager
async def sqlite(folder: Path) -> AsyncIterator[tuple[Read, Read]]:
    backend = SQLBackend(f"sqlite:///{folder / 'reads.db'}")
    async with made(backend):
        bare = sqlite3.connect(folder / "reads.db", isolation_level=None)
        statement = f"SELECT * FROM {backend.tables.sessions} WHERE key = ? AND expires_at > ?"
        on_loop: Backend = AnywhereBackend(backend)
        yield (
            (lambda: on_loop.get(KEY, NOW)),
            as_read(lambda: bare.execute(statement, (KEY, NOW)).fetchall()),
        )
        bare.close()


@asynccontextmanager
async def psycopg(_: Path) -> AsyncIterator[tuple[Read, Read]]:
    import psycopg as driver

    backend = SQLBackend(POSTGRESQL.format("psycopg"), table=f"bench_{uuid4().hex[:8]}")
    async with made(backend):
        with driver.connect("postgresql://postgres@127.0.0.1:5432/test", autocommit=True) as bare:
            statement: Any = f"SELECT * FROM {backend.tables.sessions} WHERE key = %s AND expires_at > %s"
            yield (
                (lambda: backend.get(KEY, NOW)),
                as_read(lambda: bare.execute(statement, (KEY, NOW)).fetchall()),
            )


@asynccontextmanager
async def asyncpg(_: Path) -> AsyncIterator[tuple[Read, Read]]:
    import asyncpg as driver  # type: ignore[import-untyped]

    backend = SQLBackend(POSTGRESQL.format("asyncpg"), table=f"bench_{uuid4().hex[:8]}")
    async with made(backend):
        bare: Any = await driver.connect("postgresql://postgres@127.0.0.1:5432/test")
        statement = f"SELECT * FROM {backend.tables.sessions} WHERE key = $1 AND expires_at > $2"
        yield (lambda: backend.get(KEY, NOW)), (lambda: bare.fetch(statement, KEY, NOW))
        await bare.close()


@asynccontextmanager
async def made(backend: SQLBackend) -> AsyncIterator[None]:
    """Create the backend's tables with one record in them, and drop them at the end."""
    await backend.create_tables()
    await backend.create(RECORD, None, NOW)
    try:
        yield
    finally:
        await backend.close()
        if backend.tables.sessions.name != "powauth_sessions":
            engine = create_engine(POSTGRESQL.format("psycopg"))
            backend.tables.sessions.metadata.drop_all(engine)
            engine.dispose()


ROWS = {
    "Redis, asyncio": (redis_asyncio, "redis-py's MGET"),
    "Redis, threads": (redis_threads, "redis-py's MGET"),
    "SQLite, on an event loop": (sqlite, "sqlite3"),
    "PostgreSQL, psycopg": (psycopg, "psycopg"),
    "PostgreSQL, asyncpg": (asyncpg, "asyncpg"),
}


async def run(blocks: int) -> None:
    rows = []
    for name, (engine, beside) in ROWS.items():
        try:
            with tempfile.TemporaryDirectory() as folder:
                async with engine(Path(folder)) as (ours, bare):
                    us, them, ratio = await compare(ours, bare, blocks)
        except (StoreUnavailable, OSError) as error:
            rows.append((name, beside, type(error).__name__, "", ""))
            continue
        rows.append((name, beside, f"{us:.1f}", f"{them:.1f}", f"{ratio:.2f}"))
    print(table(("engine", "beside", "get, µs", "bare, µs", "ratio"), rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--blocks", type=int, default=20, help="pairs of blocks; default 20")
    asyncio.run(run(parser.parse_args().blocks))
