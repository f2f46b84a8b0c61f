"""An empty store on each engine that powauth supports, by name, for tests that run on all engines.

If an engine is not available, its tests are skipped, and the message says how to get it. Slow engines (a cluster, a
Sentinel with its master and replica) are started once for each test module. Each store has its own prefix or table.
"""

import asyncio
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import text

from harness import redis_servers
from harness.engines import DRIVERS, Database, database, kind_of, unique_table
from powauth.backends.base import Backend, Mode, ServesCopies, drive
from powauth.backends.lmdb import LMDBBackend
from powauth.backends.memory import MemoryBackend
from powauth.backends.redis import RedisBackend
from powauth.backends.sql import SQLBackend
from powauth.backends.wrapping import BackendWrapper

T = TypeVar("T")

LOCAL = ("memory", "lmdb")
"""Engines within the process."""

SYNC = ("sqlite", "psycopg", "mariadb_pymysql", "redis", "redis_near", "cluster", "sentinel")
"""Engines through a driver for threads: for WSGI."""

ASYNC = (
    *("aiosqlite", "psycopg_async", "asyncpg", "asyncmy"),
    *("redis_async", "redis_near_async", "cluster_async", "sentinel_async"),
)
"""Engines through a driver for an event loop: for ASGI."""


class Bridge(BackendWrapper):
    """An asynchronous backend, whose connections live on an event loop of their own, for whoever asks.

    Awaited on another loop it suspends until its own loop has the answer. Without a running loop, as in a test's look
    into the store, it waits and never suspends.
    """

    mode: Mode = "anywhere"
    abilities = (ServesCopies,)

    def __init__(self, inner: Backend) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._waits = False
        self.inner = inner
        assert inner.mode == "async"

    @property
    def waiting(self) -> "Bridge":
        """The same store for a look at it from within an event loop: it waits, whatever runs."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__, _waits=True)
        return twin

    def here(self) -> Backend:
        return self.inner

    async def ask(self, verb: str, call: Callable[[Backend], Coroutine[Any, Any, T]]) -> T:
        del verb
        answer = asyncio.run_coroutine_threadsafe(call(self.inner), self._loop)
        if self._waits or asyncio._get_running_loop() is None:
            return answer.result(redis_servers.PATIENCE)
        return await asyncio.wrap_future(answer)

    async def close(self) -> None:
        await super().close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def wait_for_near_cache(backend: Backend) -> None:
    """Read until the channel stands; what follows goes through the near cache."""
    inner = backend.inner if isinstance(backend, Bridge) else backend
    assert isinstance(inner, RedisBackend)
    cache = inner.near_cache
    assert cache is not None
    await backend.get(b"near:cache", 0)
    redis_servers.wait_for(lambda: cache.up, "a near cache with its channel")


class Stores:
    """Makes empty stores; starts what they need when it is first needed, and ends it at its own end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ends = ExitStack()
        self._urls: dict[str, str] = {}
        self._tables: dict[str, tuple[Backend, Database, str]] = {}
        self._stem = redis_servers.unique_prefix()
        self._made = 0

    def close(self) -> None:
        self._ends.close()

    @contextmanager
    def store(self, name: str, folder: Path) -> Iterator[Backend]:
        """An empty store on the engine of that name; ``folder`` is for the files of those that have some."""
        if name in LOCAL:
            backend: Backend = MemoryBackend() if name == "memory" else LMDBBackend(folder / "db", durable=False)
            yield backend
            drive(backend.close())
        elif name in DRIVERS:
            yield self._table(name)
        else:
            kind = name.removesuffix("_async")
            near = 1000 if kind.endswith("_near") else None
            url = self._redis(kind.removesuffix("_near"))
            self._made += 1
            prefix = f"{self._stem[:50]}-{self._made}"
            asynchronous = name.endswith("_async")

            def make() -> Backend:
                return RedisBackend(
                    url,
                    prefix=prefix,
                    timeout=timedelta(seconds=redis_servers.PATIENCE),
                    asynchronous=asynchronous,
                    near_cache=near,
                )

            backend = Bridge(make()) if asynchronous else make()
            try:
                if near is not None:
                    drive(wait_for_near_cache(backend))
                yield backend
            finally:
                drive(backend.close())

    def _table(self, driver: str) -> Backend:
        """The driver's table, emptied; its backend stays open, for to connect takes longer than most tests."""
        if driver not in self._tables:
            where, table = database(kind_of(driver), self._folder), unique_table()
            with where.engine() as engine:
                drive(SQLBackend(engine, table=table).create_tables())
            self._ends.callback(where.drop, table, f"{table}_epochs")

            def make() -> Backend:
                return SQLBackend(where.through(driver), table=table, timeout=timedelta(seconds=redis_servers.PATIENCE))

            backend = Bridge(make()) if driver in ASYNC else make()
            self._ends.callback(lambda: drive(backend.close()))
            self._tables[driver] = backend, where, table
        else:
            backend, where, table = self._tables[driver]
            with where.engine() as engine, engine.begin() as connection:
                for each in (table, f"{table}_epochs"):
                    connection.execute(text(f"DELETE FROM {each}"))
        return backend

    def _redis(self, kind: str) -> str:
        if kind not in self._urls:
            self._urls[kind] = self._start(kind)
        return self._urls[kind]

    def _start(self, kind: str) -> str:
        if kind == "redis":
            if not redis_servers.shared_answers():
                pytest.skip(f"no Redis at {redis_servers.SHARED}: start one, or set POWAUTH_TEST_REDIS")
            self._ends.callback(redis_servers.clear_shared, self._stem[:50])
            return redis_servers.SHARED
        if redis_servers.EXECUTABLE is None:
            pytest.skip(redis_servers.MISSING)
        if kind == "cluster":
            nodes = self._ends.enter_context(redis_servers.own_cluster(self._folder / "cluster"))
            return "redis+cluster://" + ",".join(node.address for node in nodes)
        _, _, sentinel = self._ends.enter_context(redis_servers.own_sentinel(self._folder / "sentinel"))
        return f"redis+sentinel://{sentinel.address}/main"


@pytest.fixture(scope="module")
def stores() -> Iterator[Stores]:
    memory = Path("/dev/shm")
    # The disk is no matter to these tests, and SQLite waits for it at each write.
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        made = Stores(Path(folder))
        yield made
        made.close()
