"""No connection of a backend crosses a fork, on any engine, whether Python forks or a server in C."""

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.sentinel
import redis.cluster
import redis.sentinel
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

import harness
from harness import redis_servers
from harness.engines import DRIVERS, SYNC, database, kind_of, unique_table
from harness.forks import BOTH, children, fork_in_c, fork_in_python, in_children, needs_fork
from harness.redis_servers import PATIENCE, own_cluster, own_sentinel
from powauth._running import store_threads as in_thread  # to use the threads that a fork does not copy
from powauth.backends.base import Backend, Millis, Record, ServesCopies, drive, make_key, make_owner, shard_of
from powauth.backends.lmdb import LMDBBackend
from powauth.backends.offloaded import OffloadedBackend
from powauth.backends.redis import RedisBackend
from powauth.backends.sql import SQLBackend

pytestmark = needs_fork

T = TypeVar("T")
Fork = Callable[[], int]
Ending = Callable[[], Coroutine[Any, Any, object]]

NOW: Millis = 1_900_000_000_000
CHILDREN = 3
ROUNDS = 15

SQL = ("sqlite", "psycopg", "psycopg_async", "asyncpg", "mariadb_pymysql", "asyncmy")
"""Drivers of the engines that a URL makes, and that an app makes."""

REDIS = tuple(f"{kind}{mode}" for kind in ("redis", "sentinel", "cluster") for mode in ("", "_async"))
"""Kinds of Redis; with ``app_`` before the name through a client of the app's own."""

ALL = (
    *("lmdb", *SQL, *REDIS, "redis_near", "redis_near_async"),
    *(f"app_{name}" for name in (*SQL, *REDIS, "single", "single_async")),
)


def record(name: bytes) -> Record:
    owner = make_owner("app", name.decode())
    return Record(make_key("app", shard_of(owner) + name), owner, 0, NOW, NOW + 1_800_000, b"value of " + name)


class Opened:
    """A backend, and a way to run its coroutines: an asynchronous one keeps its event loop."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.loop = asyncio.new_event_loop() if backend.mode == "async" else None

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return drive(work) if self.loop is None else self.loop.run_until_complete(work)

    def run_in_child(self, work: Coroutine[Any, Any, T]) -> T:
        """On an event loop of the child's own: it shares its parent's."""
        return drive(work) if self.loop is None else asyncio.run(work)

    def close(self) -> None:
        self.run(self.backend.close())
        if self.loop is not None:
            self.loop.close()


class Engines:
    """Makes backends of each kind; starts a cluster, and a Sentinel, when they are first needed."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self._addresses: dict[str, list[tuple[str, int]]] = {}

    @contextmanager
    def opened(self, name: str) -> Iterator[Opened]:
        """A backend that has been used; its records are those of `record`, under a prefix or table of its own."""
        kind = name.removeprefix("app_")
        if kind == "lmdb":
            yield from self._used(LMDBBackend(self._folder / unique_table(), durable=False))
        elif kind in DRIVERS:
            yield from self._sql(kind, name.startswith("app_"))
        else:
            yield from self._redis(kind, name.startswith("app_"))

    def _used(
        self, backend: Backend, ending: Callable[[], Coroutine[Any, Any, object]] | None = None
    ) -> Iterator[Opened]:
        opened = Opened(backend)
        assert opened.run(backend.create(record(b"parent"), None, NOW))
        assert opened.run(backend.get(record(b"parent").key, NOW)) == record(b"parent")
        yield opened
        if ending is not None:
            opened.run(ending())
        opened.close()

    def _sql(self, driver: str, apps: bool) -> Iterator[Opened]:
        where, table = database(kind_of(driver), self._folder), unique_table()
        with where.engine() as engine:
            drive(SQLBackend(engine, table=table).create_tables())
        url = where.through(driver)
        try:
            if not apps:
                yield from self._used(SQLBackend(url, table=table, timeout=timedelta(seconds=PATIENCE)))
            elif driver.endswith("_async") or driver in {"asyncpg", "asyncmy"}:
                asynchronous = create_async_engine(url)
                yield from self._used(
                    SQLBackend(asynchronous, table=table, timeout=timedelta(seconds=PATIENCE)), asynchronous.dispose
                )
            else:
                engine = create_engine(url)
                yield from self._used(SQLBackend(engine, table=table, timeout=timedelta(seconds=PATIENCE)))
                engine.dispose()
        finally:
            where.drop(table, f"{table}_epochs")

    def _redis(self, name: str, apps: bool) -> Iterator[Opened]:
        prefix = f"test-{unique_table()}"
        asynchronous = name.endswith("_async")
        kind = name.removesuffix("_async").removesuffix("_near")
        near = 100 if "_near" in name else None
        addresses = self._servers(kind)
        try:
            if apps:
                client = _client(kind, asynchronous, addresses)
                yield from self._used(
                    RedisBackend(client, prefix=prefix, timeout=timedelta(seconds=PATIENCE)), lambda: _close(client)
                )
                return
            where = ",".join(f"{host}:{port}" for host, port in addresses)
            url = {"sentinel": f"redis+sentinel://{where}/main", "cluster": f"redis+cluster://{where}"}.get(
                kind, redis_servers.SHARED
            )
            made = RedisBackend(
                url, prefix=prefix, timeout=timedelta(seconds=PATIENCE), asynchronous=asynchronous, near_cache=near
            )
            yield from self._used(made)
        finally:
            if not addresses:
                redis_servers.clear_shared(prefix)

    def _servers(self, kind: str) -> list[tuple[str, int]]:
        if kind in {"redis", "single"}:
            if not redis_servers.shared_answers():
                pytest.skip(f"no Redis at {redis_servers.SHARED}: start one, or set POWAUTH_TEST_REDIS")
            return []
        if redis_servers.EXECUTABLE is None:
            pytest.skip(redis_servers.MISSING)
        if kind not in self._addresses:
            if kind == "cluster":
                nodes = self._stack.enter_context(own_cluster(self._folder / "cluster"))
                ports = [node.port for node in nodes]
            else:
                _, _, sentinel = self._stack.enter_context(own_sentinel(self._folder / "sentinel"))
                ports = [sentinel.port]
            self._addresses[kind] = [("127.0.0.1", port) for port in ports]
        return self._addresses[kind]


def _client(kind: str, asynchronous: bool, addresses: list[tuple[str, int]]) -> Any:
    """A client as an app makes it."""
    module: Any = redis.asyncio if asynchronous else redis
    if kind == "cluster":
        nodes = [module.cluster.ClusterNode(*address) for address in addresses]
        return module.cluster.RedisCluster(startup_nodes=nodes, socket_timeout=PATIENCE)
    if kind == "sentinel":
        return module.sentinel.Sentinel(addresses, socket_timeout=PATIENCE).master_for("main", socket_timeout=PATIENCE)
    options: dict[str, Any] = {"socket_timeout": PATIENCE, "single_connection_client": kind == "single"}
    return module.Redis.from_url(redis_servers.SHARED, **options)


async def _close(client: Any) -> None:
    """As an app does, with the clients that ask Sentinels."""
    manager = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    for each in (client, *(manager.sentinels if manager else ())):
        if isinstance(each, redis.asyncio.Redis | redis.asyncio.RedisCluster):
            await each.aclose()
        else:
            each.close()


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    memory = Path("/dev/shm")  # the disk is no matter to these tests, and SQLite waits for it at each write
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None))
        yield Engines(Path(folder), stack)


async def work(backend: Backend, name: bytes) -> list[str]:
    """Begin, renew and end sessions as a request does; what was answered wrongly."""
    wrong: list[str] = []

    def expect(what: str, answer: object, right: object) -> None:
        if answer != right:
            wrong.append(f"{what}: {answer!r}")

    for number in range(ROUNDS):
        mine = record(b"%b-%d" % (name, number))
        renewed = msgspec.structs.replace(mine, version=1, value=b"renewed")
        expect("create", await backend.create(mine, None, NOW), True)
        expect("get", await backend.get(mine.key, NOW), mine)
        expect("the parent's", await backend.get(record(b"parent").key, NOW), record(b"parent"))
        expect("update", await backend.update(renewed, 0, NOW), True)
        fresh = backend.get_fresh if isinstance(backend, ServesCopies) else backend.get
        expect("get fresh", await fresh(mine.key, NOW), renewed)
        expect("delete", await backend.delete(mine.key, NOW), True)
        expect("get after delete", await backend.get(mine.key, NOW), None)
    return wrong


def go_on(opened: Opened, fork: Fork) -> None:
    """Parent and children work on one backend at the same time; nobody is answered wrongly, nor the parent after it."""

    def child(number: int) -> list[str]:
        return opened.run_in_child(work(opened.backend, b"child-%d" % number))

    with children(child, fork, CHILDREN) as results:
        assert opened.run(work(opened.backend, b"parent")) == []
        assert results() == [[]] * CHILDREN
    assert opened.run(work(opened.backend, b"afterwards")) == []


@pytest.mark.parametrize("name", ALL)
def test_rep_10_processes_that_python_forked_have_connections_of_their_own(engines: Engines, name: str) -> None:
    with engines.opened(name) as opened:
        go_on(opened, fork_in_python)


IN_C = [name for name in ALL if name != "redis_near"]
"""All but the near cache with a listening thread: the interpreter itself stops in a child that C forked while other
threads ran, unless the server tells Python of the fork. ``docs/backends.md`` names the setting (``lazy-apps``)."""


@pytest.mark.parametrize("name", IN_C)
def test_rep_11_processes_that_a_server_forked_in_c_have_connections_of_their_own(engines: Engines, name: str) -> None:
    with engines.opened(name) as opened:
        go_on(opened, fork_in_c)


@BOTH
@pytest.mark.parametrize("driver", ["psycopg", "mariadb_pymysql"])
def test_rep_19_no_read_of_an_apps_own_engine_gives_the_record_of_another_key(
    engines: Engines, driver: str, fork: Fork
) -> None:
    with engines.opened(f"app_{driver}") as opened:
        records = [record(b"%d" % number) for number in range(CHILDREN)]
        for each in records:
            assert opened.run(opened.backend.create(each, None, NOW))

        def child(number: int) -> int:
            mine = records[number]
            return sum(drive(opened.backend.get(mine.key, NOW)) == mine for _ in range(200))

        assert in_children(child, fork, CHILDREN) == [200] * CHILDREN


# A child that ends, or closes the backend, leaves its parent's connections alone


SCRIPT = """
import os, sys
from harness.forks import fork_in_c, fork_in_python
from powauth.backends.base import drive
from powauth.backends.redis import RedisBackend
from powauth.backends.sql import SQLBackend
from powauth._running import store_threads as in_thread  # to use the threads that a fork does not copy

kind, url, name, way, end = sys.argv[1:]
if kind == "redis":
    backend = RedisBackend(url, prefix=name)
    def connection():
        return drive(backend._commands.ask("CLIENT ID"))
else:
    from sqlalchemy import text
    question = text("SELECT pg_backend_pid()" if kind == "postgresql" else "SELECT CONNECTION_ID()")
    backend = SQLBackend(url, table=name)
    def connection():
        with backend._engine.connect() as connected:
            return connected.scalar(question)

drive(backend.get(b"app:00", 0))
mine = connection()
if not (child := {"c": fork_in_c, "python": fork_in_python}[way]()):
    if end == "exits":
        drive(backend.get(b"app:00", 0))
        assert connection() != mine
    else:
        drive(backend.close())
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert connection() == mine
drive(backend.close())
"""


@pytest.mark.parametrize("end", ["exits", "closes"])
@pytest.mark.parametrize("way", ["python", "c"])
@pytest.mark.parametrize("kind", ["postgresql", "mariadb", "redis"])
def test_rep_10_a_child_that_ends_closes_nothing_of_its_parents(kind: str, way: str, end: str, tmp_path: Path) -> None:
    """The script needs private names: no backend tells which connection it uses."""
    if kind == "redis":
        if not redis_servers.shared_answers():
            pytest.skip(f"no Redis at {redis_servers.SHARED}: start one, or set POWAUTH_TEST_REDIS")
        run_script(kind, redis_servers.SHARED, redis_servers.unique_prefix(), way, end)
        return
    where, table = database(kind, tmp_path), unique_table()
    with where.engine() as engine:
        drive(SQLBackend(engine, table=table).create_tables())
    try:
        run_script(kind, where.through(SYNC[kind]), table, way, end)
    finally:
        where.drop(table, f"{table}_epochs")


def run_script(*arguments: str) -> None:
    path = os.pathsep.join([str(Path(harness.__file__).parents[1]), *sys.path])
    subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], check=True, env=os.environ | {"PYTHONPATH": path}, timeout=60
    )


# What is beside the connections


def test_rep_10_a_command_that_waits_for_its_turn_takes_no_turn_from_a_child(engines: Engines) -> None:
    """Over asyncio at most 100 commands are under way. Those of the parent must not count in the child."""
    with engines.opened("cluster_async") as opened:
        backend = opened.backend

        async def fork_among_commands() -> list[Any]:
            reads = [asyncio.ensure_future(backend.get(record(b"parent").key, NOW)) for _ in range(150)]
            await asyncio.sleep(0)  # they have taken all turns, and 50 wait
            answers = await asyncio.to_thread(in_children, child, fork_in_python)
            assert await asyncio.gather(*reads) == [record(b"parent")] * 150
            return answers

        def child(_: int) -> bool:
            asyncio.events._set_running_loop(None)  # as a child does that starts a loop of its own
            return asyncio.run(backend.get(record(b"parent").key, NOW)) == record(b"parent")

        assert opened.run(fork_among_commands()) == [True]


@BOTH
@pytest.mark.parametrize("name", ["lmdb", "sqlite", "psycopg", "redis"])
def test_rep_11_a_blocking_backend_in_worker_threads(engines: Engines, name: str, fork: Fork) -> None:
    """An event loop has ended before the fork, and its worker threads with it."""
    with engines.opened(name) as opened:
        offloaded = OffloadedBackend(opened.backend, in_thread)
        assert asyncio.run(work(offloaded, b"before")) == []
        assert in_children(lambda number: asyncio.run(work(offloaded, b"%d" % number)), fork, 2) == [[], []]
        assert asyncio.run(work(offloaded, b"after")) == []


def test_rep_10_what_aiosqlite_cannot_do_is_said(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    backend = SQLBackend(f"sqlite+aiosqlite:///{tmp_path / 'app.db'}")

    async def use() -> None:
        await backend.create_tables()
        await backend.get(record(b"parent").key, NOW)

    def child(_: int) -> list[str]:
        return [each.getMessage() for each in caplog.records]

    loop = asyncio.new_event_loop()
    loop.run_until_complete(use())
    ((told,),) = in_children(child, fork_in_python)
    assert "lazy-apps" in told
    loop.run_until_complete(backend.close())
    loop.close()
    assert in_children(child, fork_in_python) == [[]], "nothing is said of an engine that has no connection"
