"""The near cache of `RedisBackend` against real servers: what others change, and every way to lose the channel."""

import asyncio
import logging
import os
import warnings
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
import redis
import redis.asyncio

from harness.http_support import App
from harness.internals import cache_tables, send
from harness.lmdb_processes import in_process
from harness.near_support import NOW, OTHERS, OWNER, cache_of, channel_stands, record, until
from harness.redis_servers import Monitor, Server, needs_server, own_sentinel, own_server, wait_for
from harness.tcp_proxy import Proxy
from powauth.backends.base import Backend, Millis, ReadsInPlace, Record, ServesCopies, WouldWaitError, drive
from powauth.backends.offloaded import OffloadedBackend
from powauth.backends.redis import RedisBackend
from powauth.errors import ConfigError, StoreUnavailable
from powauth.testing import BackendConformance

pytestmark = needs_server

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "asyncio"])

T = TypeVar("T")

Scenario = Callable[[RedisBackend], Coroutine[Any, Any, None]]


async def settle(backend: RedisBackend) -> None:
    """Wait until all that was reported up to now has arrived: messages come in order, and the last is of this key."""
    name = b"\0\0barrier"
    ticket = cache_of(backend).begin(b"credentials:" + name)
    assert ticket is not None
    await send(backend, "SET", b"powauth:{credentials.0000}:r:" + name, b"", "PX", 60_000)
    await until(backend, lambda: ticket.key not in cache_tables(cache_of(backend)).reading, "the last message")


async def keep(backend: RedisBackend, *records: Record) -> None:
    """Have copies of these near at hand."""
    for each in records:
        await backend.create(each, None, NOW)
    await settle(backend)
    for each in records:
        assert await backend.get(each.key, NOW) == each
        assert cache_of(backend).get(each.key, NOW) == each


def run(url: str, scenario: Scenario, asynchronous: bool, timeout: float = 10, near_cache: int = 100) -> None:
    """The scenario on a backend whose channel stands."""

    async def whole() -> None:
        backend = RedisBackend(
            url, timeout=timedelta(seconds=timeout), asynchronous=asynchronous, near_cache=near_cache
        )
        try:
            await channel_stands(backend)
            await scenario(backend)
        finally:
            await backend.close()

    asyncio.run(whole()) if asynchronous else drive(whole())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with own_server(tmp_path / "server") as started:
        yield started


@pytest.fixture
def other(server: Server) -> Iterator[RedisBackend]:
    """Another process's view of the same records."""
    backend = RedisBackend(server.url)
    yield backend
    drive(backend.close())


def channels(server: Server) -> list[bytes]:
    """Ids of the connections that listen."""
    clients = server.ask("CLIENT LIST")
    assert isinstance(clients, list | bytes)
    found = clients if isinstance(clients, list) else []
    return [client["id"] for client in found if "B" in client["flags"]]


# The suite


class NearConformance(BackendConformance):
    engine_expires = True
    asynchronous = False
    contenders = 20

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _server(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with own_server(tmp_path_factory.mktemp("near")) as server:
            cls.server, cls.url = server, server.url
            yield

    server: Server
    url = ""

    def make_unreachable(self) -> Backend:
        return RedisBackend("redis://127.0.0.1:1/0", asynchronous=self.asynchronous, near_cache=30)

    async def break_engine(self, backend: Backend) -> None:
        self.server.kill()

    async def mend_engine(self, backend: Backend) -> None:
        self.server.start()

    async def make_backend(self) -> Backend:
        backend = RedisBackend(
            self.url,
            prefix=self.namespace,
            timeout=timedelta(seconds=10),
            asynchronous=self.asynchronous,
            near_cache=30,
        )
        await channel_stands(backend)
        return backend

    def second(self, backend: Backend) -> Backend:
        return RedisBackend(
            self.url,
            prefix=self.namespace,
            timeout=timedelta(seconds=10),
            asynchronous=self.asynchronous,
            near_cache=30,
        )


class TestNear(NearConformance):
    pass


class TestNearAsyncio(NearConformance):
    asynchronous = True


# Hits


@both
def test_a_record_at_hand_costs_no_round_trip(server: Server, asynchronous: bool) -> None:
    async def scenario(backend: RedisBackend) -> None:
        await keep(backend, record())
        monitor = Monitor(server)
        monitor.since()
        for _ in range(100):
            assert await backend.get(record().key, NOW) == record()
        assert monitor.since() == ([], [])
        assert await backend.get_fresh(record().key, NOW) == record()
        assert monitor.since() == (["GET"], [])
        monitor.close()

    run(server.url, scenario, asynchronous)


def test_on_an_event_loop_a_record_at_hand_takes_no_thread(server: Server, other: RedisBackend) -> None:
    """A blocking client's copy is served in place; whoever wants the server's word gets a thread, and that word."""
    threads: list[object] = []

    def in_thread(function: Callable[[], T], /) -> Awaitable[T]:
        threads.append(function)
        return asyncio.to_thread(function)

    async def scenario(inner: RedisBackend, backend: OffloadedBackend) -> None:
        assert isinstance(backend, ReadsInPlace)
        assert isinstance(backend, ServesCopies)
        assert await backend.get(record().key, NOW) == record()
        assert backend.get_at_once(record().key, NOW) == inner.get_at_once(record().key, NOW) == record()
        assert backend.peek(record().key, NOW) is inner.peek(record().key, NOW)
        assert threads == []
        assert await backend.get_fresh(record().key, NOW) == record()
        assert len(threads) == 1
        assert await backend.get(record(b"none").key, NOW) is None
        assert len(threads) == 2
        with pytest.raises(WouldWaitError):
            backend.peek(record(b"none").key, NOW)
        assert await backend.delete(record().key, NOW)
        with pytest.raises(WouldWaitError):
            backend.peek(record().key, NOW)
        assert await backend.get(record().key, NOW) is None

    inner = RedisBackend(server.url, timeout=timedelta(seconds=10), near_cache=100)
    drive(channel_stands(inner))
    drive(keep(inner, record()))
    asyncio.run(scenario(inner, OffloadedBackend(inner, in_thread)))
    drive(inner.close())
    with pytest.raises(WouldWaitError):  # where there is no near cache
        other.peek(record().key, NOW)


def test_an_authenticated_request_costs_no_round_trip(server: Server) -> None:
    async def scenario() -> None:
        backend = RedisBackend(server.url, asynchronous=True, near_cache=100)
        app = App(backend, "asgi")
        await channel_stands(backend)
        browser = app.browser()

        async def visit(path: str) -> Any:
            response = await browser.send_asgi(path, browser.cookie_header(), {})
            browser.take(response)
            return response.json()

        await visit("/login")
        await visit("/")
        await settle(backend)
        await visit("/")
        monitor = Monitor(server)
        monitor.since()
        assert await visit("/") == {"user": app.user.email}
        assert monitor.since() == ([], [])
        monitor.close()
        await visit("/logout")
        assert await visit("/") == {"user": None}
        await backend.close()

    asyncio.run(scenario())


@both
def test_sto_06_an_expired_copy_is_not_served(server: Server, asynchronous: bool) -> None:
    async def scenario(backend: RedisBackend) -> None:
        await keep(backend, record())
        assert await backend.get(record().key, record().expires_at - 1) == record()
        assert await backend.get(record().key, record().expires_at) is None

    run(server.url, scenario, asynchronous)


@both
def test_sto_12_the_cache_is_bounded(server: Server, asynchronous: bool) -> None:
    async def scenario(backend: RedisBackend) -> None:
        for number in range(24):
            await keep(backend, record(b"%d" % number))
            assert len(cache_of(backend)) <= 16
        assert len(cache_of(backend)) >= 15

    run(server.url, scenario, asynchronous, near_cache=16)


# What others change


@both
def test_sto_06_what_another_client_changes_is_dropped(server: Server, other: RedisBackend, asynchronous: bool) -> None:
    async def scenario(backend: RedisBackend) -> None:
        cache = cache_of(backend)
        bystander = record(b"bystander", OTHERS)
        await keep(backend, record(), record(b"b"), record(b"c"), bystander)
        assert drive(other.delete(record().key, NOW))
        await until(backend, lambda: cache.get(record().key, NOW) is None, "a delete")
        assert await backend.get(record().key, NOW) is None
        newer = record(b"b", version=1, value=b"newer")
        assert drive(other.update(newer, 0, NOW))
        await until(backend, lambda: cache.get(newer.key, NOW) is None, "an update")
        assert await backend.get(newer.key, NOW) == newer
        assert drive(other.delete_owner(OWNER, NOW)) == 2
        await until(backend, lambda: len(cache) == 1, "a delete of all")
        assert await backend.get(newer.key, NOW) is None
        assert cache.get(bystander.key, NOW) == bystander
        server.ask("FLUSHALL")
        await until(backend, lambda: len(cache) == 0, "FLUSHALL")
        assert await backend.get(bystander.key, NOW) is None
        assert cache.up

    run(server.url, scenario, asynchronous)


@both
def test_sto_06_a_change_reported_between_a_read_and_its_keeping_is_not_overwritten(
    server: Server, other: RedisBackend, asynchronous: bool
) -> None:
    witness = record(b"witness", OTHERS)

    class Overtaken(RedisBackend):
        overtaken = False

        async def get_fresh(self, key: bytes, now: Millis) -> Record | None:
            read = await super().get_fresh(key, now)
            if self.overtaken:
                drive(other.update(record(version=1), 0, NOW))
                drive(other.delete(witness.key, NOW))
                # Messages come in order.
                await until(self, lambda: cache_of(self).get(witness.key, NOW) is None, "both messages")
            return read

    async def scenario() -> None:
        backend = Overtaken(server.url, timeout=timedelta(seconds=10), asynchronous=asynchronous, near_cache=10)
        await channel_stands(backend)
        assert drive(other.create(record(), None, NOW))
        await keep(backend, witness)
        backend.overtaken = True
        assert await backend.get(record().key, NOW) == record()
        assert cache_of(backend).get(record().key, NOW) is None
        backend.overtaken = False
        assert await backend.get(record().key, NOW) == record(version=1)
        await backend.close()

    asyncio.run(scenario()) if asynchronous else drive(scenario())


@both
def test_own_writes_drop_the_copy_before_they_return(server: Server, asynchronous: bool) -> None:
    async def scenario(backend: RedisBackend) -> None:
        await keep(backend, record(), record(b"b"), record(b"c"))
        assert await backend.update(record(version=1), 0, NOW)
        assert await backend.get(record().key, NOW) == record(version=1)
        assert await backend.delete(record().key, NOW)
        assert await backend.get(record().key, NOW) is None
        assert await backend.delete_owner(OWNER, NOW, keep=record(b"b").key) == 1
        assert await backend.get(record(b"c").key, NOW) is None
        assert await backend.get(record(b"b").key, NOW) == record(b"b")

    run(server.url, scenario, asynchronous)


def test_sto_08_cancelled_verbs_leave_no_copy_and_no_ticket(server: Server) -> None:
    async def scenario(backend: RedisBackend) -> None:
        cache = cache_of(backend)
        for verb in (
            lambda: backend.get(record(b"unread").key, NOW),
            lambda: backend.update(record(version=1), 0, NOW),
            lambda: backend.delete(record().key, NOW),
            lambda: backend.delete_owner(OWNER, NOW),
        ):
            await channel_stands(backend)
            if await backend.get(record().key, NOW) is None:
                await keep(backend, record())
            server.pause()
            task = asyncio.ensure_future(verb())
            for _ in range(10):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            server.resume()
            assert cache_tables(cache).reading == {}
        assert cache.get(record().key, NOW) is None

    run(server.url, scenario, asynchronous=True)


# The channel is lost


@both
def test_sto_07_a_killed_channel_loses_all_and_comes_back(
    server: Server, other: RedisBackend, asynchronous: bool
) -> None:
    async def scenario(backend: RedisBackend) -> None:
        cache = cache_of(backend)
        await keep(backend, record())
        (listening,) = channels(server)
        server.ask("CLIENT KILL", "ID", listening)
        await until(backend, lambda: not cache.up and len(cache) == 0, "the loss")
        drive(other.delete(record().key, NOW))
        assert await backend.get(record().key, NOW) is None
        await channel_stands(backend)
        assert channels(server) != [listening]
        await keep(backend, record())
        drive(other.delete(record().key, NOW))
        await until(backend, lambda: len(cache) == 0, "a delete")

    run(server.url, scenario, asynchronous)


@both
def test_sto_07_a_server_that_died_is_no_reason_to_serve_a_copy(
    server: Server, asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(backend: RedisBackend) -> None:
        cache = cache_of(backend)
        await keep(backend, record())
        server.kill()
        await until(backend, lambda: not cache.up, "the loss")
        assert len(cache) == 0
        with pytest.raises(StoreUnavailable):
            await backend.get(record().key, NOW)
        server.start()
        await channel_stands(backend)
        assert await backend.get(record().key, NOW) is None, "it kept nothing"

    with caplog.at_level(logging.INFO, logger="powauth"):
        run(server.url, scenario, asynchronous)
    told = [each.getMessage() for each in caplog.records if "near cache" in each.getMessage()]
    assert [("is off" in line, "is on again" in line) for line in told] == [(True, False), (False, True)]


@both
def test_sto_07_a_stopped_server_is_noticed_by_the_heartbeat(server: Server, asynchronous: bool) -> None:
    async def scenario(backend: RedisBackend) -> None:
        await keep(backend, record())
        server.pause()
        await until(backend, lambda: not cache_of(backend).up, "the loss")
        with pytest.raises(StoreUnavailable):
            await backend.get(record().key, NOW)
        server.resume()
        await channel_stands(backend)
        assert await backend.get(record().key, NOW) == record()

    run(server.url, scenario, asynchronous, timeout=1)


@both
def test_sto_07_a_network_that_swallows_all_serves_no_revoked_session(
    server: Server, other: RedisBackend, asynchronous: bool
) -> None:
    with Proxy("127.0.0.1", server.port) as proxy:

        async def scenario(backend: RedisBackend) -> None:
            await keep(backend, record())
            proxy.stall()
            assert drive(other.delete(record().key, NOW))
            await until(backend, lambda: not cache_of(backend).up, "the loss")
            with pytest.raises(StoreUnavailable):
                await backend.get(record().key, NOW)
            proxy.stall(stalled=False)
            await channel_stands(backend)
            assert await backend.get(record().key, NOW) is None

        run(f"redis://127.0.0.1:{proxy.port}/0", scenario, asynchronous, timeout=1)


@both
def test_a_master_that_became_a_replica_is_not_listened_to(server: Server, asynchronous: bool) -> None:
    async def scenario(backend: RedisBackend) -> None:
        await keep(backend, record())
        server.ask("REPLICAOF", "127.0.0.1", "1")
        await until(backend, lambda: not cache_of(backend).up, "the loss")
        assert len(cache_of(backend)) == 0
        server.ask("REPLICAOF", "NO", "ONE")
        await channel_stands(backend)

    run(server.url, scenario, asynchronous)


@both
def test_a_failover_moves_the_channel_to_the_new_master(tmp_path: Path, asynchronous: bool) -> None:
    with own_sentinel(tmp_path) as (_, replica, sentinel):
        url = f"redis+sentinel://{sentinel.address}/main"

        async def scenario(backend: RedisBackend) -> None:
            await keep(backend, record())
            # It refuses until it knows the replica well enough.
            wait_for(lambda: bool(sentinel.ask("SENTINEL FAILOVER", "main")), "a failover")
            await until(backend, lambda: not cache_of(backend).up, "the loss")
            await until(backend, lambda: b"master" in str(replica.ask("ROLE")).encode(), "a new master")
            await channel_stands(backend)
            assert len(channels(replica)) == 1
            await keep(backend, record(b"b"))
            elsewhere = RedisBackend(replica.url)
            drive(elsewhere.delete(record(b"b").key, NOW))
            await until(backend, lambda: cache_of(backend).get(record(b"b").key, NOW) is None, "a delete")
            drive(elsewhere.close())

        run(url, scenario, asynchronous)


@both
def test_without_the_right_to_listen_every_read_asks_the_server(
    server: Server, asynchronous: bool, caplog: pytest.LogCaptureFixture
) -> None:
    # Redis 6.2 can take away only the whole command.
    server.ask("ACL SETUSER", "app", "on", ">secret-word", "~*", "+@all", "-client")

    async def scenario() -> None:
        url = f"redis://app:secret-word@127.0.0.1:{server.port}/0?near_cache=10"
        backend = RedisBackend(url, asynchronous=asynchronous)
        await backend.create(record(), None, NOW)
        assert await backend.get(record().key, NOW) == record()
        await until(backend, lambda: bool(caplog.records), "a complaint")
        assert await backend.get(record().key, NOW) == record()
        assert len(cache_of(backend)) == 0
        await backend.close()

    with caplog.at_level(logging.INFO, logger="powauth"):
        asyncio.run(scenario()) if asynchronous else drive(scenario())
    (told,) = [each.getMessage() for each in caplog.records]
    assert "NOPERM" in told
    assert "secret-word" not in told


# Processes, loops, ends


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_trusts_nothing_of_its_parents(server: Server, other: RedisBackend) -> None:
    async def scenario(backend: RedisBackend) -> None:
        await keep(backend, record())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads beside a fork: that is what is tested
            child = os.fork()
        if child == 0:
            status = 1
            try:
                cache = cache_of(backend)
                assert not cache.up
                assert len(cache) == 0
                drive(channel_stands(backend))
                assert drive(backend.get(record().key, NOW)) == record()
                assert cache.get(record().key, NOW) == record()
                drive(other.delete(record().key, NOW))
                drive(until(backend, lambda: len(cache) == 0, "a delete"))
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0  # noqa: ASYNC222
        await until(backend, lambda: len(cache_of(backend)) == 0, "the child's delete")
        assert cache_of(backend).up, "the parent's channel is none of the child's business"

    run(server.url, scenario, asynchronous=False)


def test_a_second_event_loop_makes_a_channel_of_its_own(server: Server) -> None:
    async def visit(backend: RedisBackend, client: redis.asyncio.Redis) -> None:
        assert not cache_of(backend).up
        await channel_stands(backend)
        await keep(backend, record())
        await backend.delete(record().key, NOW)
        await client.aclose()

    client = redis.asyncio.Redis(port=server.port)
    backend = RedisBackend(client, near_cache=10)
    for _ in range(2):
        asyncio.run(visit(backend, client))
        assert not cache_of(backend).up
        assert channels(server) == []


def test_a_loop_that_ends_while_the_channel_is_being_made(server: Server) -> None:
    """As in `asyncio.run` with a single read: it waits for all tasks that it has cancelled, the channel's too."""
    in_process(_read_once_on_many_loops, server.url)


def _read_once_on_many_loops(_: object, url: str) -> None:
    async def read(pauses: int) -> None:
        backend = RedisBackend(url, near_cache=10, asynchronous=True)
        await backend.get(record().key, NOW)
        for _ in range(pauses):
            await asyncio.sleep(0)

    for number in range(24):
        asyncio.run(read(number % 12))


@both
def test_sto_07_after_close_no_copy_is_served_and_no_connection_left(server: Server, asynchronous: bool) -> None:
    async def scenario(backend: RedisBackend) -> None:
        await keep(backend, record())
        await backend.close()
        with pytest.raises(StoreUnavailable):
            await backend.get(record().key, NOW)
        await until(backend, lambda: channels(server) == [], "no connection")

    run(server.url, scenario, asynchronous)


# Options


def test_a_cluster_and_wrong_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match="cluster"):
        RedisBackend("redis+cluster://127.0.0.1:6379", near_cache=10)
    for number in (0, -1, True, 1.5, "10"):
        with pytest.raises(ConfigError, match="near_cache"):
            RedisBackend("redis://127.0.0.1", near_cache=number)  # type: ignore[arg-type]
    for url in ("redis://h/0?near_cache=", "redis://h/0?near_cache=many", "redis://h/0?near_cache=1&near_cache=2"):
        with pytest.raises(ConfigError, match="near_cache"):
            RedisBackend(url)
    with pytest.raises(ConfigError, match="twice"):
        RedisBackend("redis://h/0?near_cache=1", near_cache=1)


@pytest.mark.parametrize("url", ["redis://127.0.0.1", "redis+sentinel://127.0.0.1/main", "unix:///tmp/none"])
def test_a_url_can_ask_for_it(url: str) -> None:
    assert RedisBackend(url).near_cache is None
    assert RedisBackend(f"{url}?near_cache=10").near_cache is not None
