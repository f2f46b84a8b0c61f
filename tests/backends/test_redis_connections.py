"""The connections of `RedisBackend` made from a URL: nobody reads another's reply, nobody waits longer than asked."""

import asyncio
import gc
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis

from harness.internals import commands_of, send
from harness.redis_servers import PATIENCE, Server, needs_server, own_sentinel, own_server, wait_for

# These tests put the connections of a backend into states that only a fault or a race makes.
from powauth.backends._redis_connections import LoopConnections, Slot, ThreadConnections
from powauth.backends.base import Millis, Record, drive, make_key, make_owner, shard_of
from powauth.backends.redis import RedisBackend
from powauth.errors import ConfigWarning, StoreUnavailable

pytestmark = needs_server

NOW: Millis = 1_900_000_000_000
OWNER = make_owner("credentials", "42")

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "asyncio"])

Scenario = Callable[[RedisBackend], Coroutine[Any, Any, None]]


def record(name: bytes = b"a") -> Record:
    return Record(make_key("credentials", shard_of(OWNER) + name), OWNER, 0, NOW, NOW + 1_800_000, b"value of " + name)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with own_server(tmp_path / "server") as started:
        yield started


def run(url: str, scenario: Scenario, asynchronous: bool, timeout: float = PATIENCE) -> None:
    """The scenario on a backend of two records, ``a`` and ``b``."""

    async def whole() -> None:
        backend = RedisBackend(url, timeout=timedelta(seconds=timeout), asynchronous=asynchronous)
        try:
            for name in (b"a", b"b"):
                await backend.create(record(name), None, NOW)
            await scenario(backend)
        finally:
            await backend.close()

    asyncio.run(whole()) if asynchronous else drive(whole())


def made(server: Server) -> int:
    """Connections that the server has ever been made."""
    found = server.ask("INFO", "stats")
    assert isinstance(found, dict)
    return int(found["total_connections_received"])


def threads_of(backend: RedisBackend) -> ThreadConnections:
    commands = commands_of(backend)
    assert isinstance(commands, ThreadConnections)
    return commands


def loop_of(backend: RedisBackend) -> LoopConnections:
    commands = commands_of(backend)
    assert isinstance(commands, LoopConnections)
    return commands


def idle(backend: RedisBackend) -> list[Any]:
    """The connections that wait for a command, that of the next one last."""
    if isinstance(commands_of(backend), LoopConnections):
        return [slot.connection for slot in commands_of(backend).free]
    return [*threads_of(backend).free]


async def finished(result: Any) -> Any:
    return await result if asyncio.iscoroutine(result) else result


async def both_are_right(backend: RedisBackend) -> None:
    for name in (b"b", b"a", b"b"):
        assert await backend.get(record(name).key, NOW) == record(name)


# STO-08: whose reply it is


def is_open(connection: Any) -> bool:
    """Synchronous connections of redis-py say so themselves only from release 8 on."""
    # "_sock": see above.
    return bool(connection._sock if isinstance(connection, redis.Connection) else connection.is_connected)


@both
def test_sto_08_what_lies_unread_on_a_connection_is_read_by_nobody(server: Server, asynchronous: bool) -> None:
    async def scenario(backend: RedisBackend) -> None:
        await both_are_right(backend)
        (connection,) = idle(backend)
        before = made(server)
        # Whoever broke the rule has left the reply to a command of theirs.
        await finished(connection.send_command("ECHO", "somebody else's"))
        deadline = time.monotonic() + PATIENCE
        reader: Any = connection._reader if asynchronous else None  # redis-py cannot tell without a read
        while not (reader._buffer if asynchronous else connection.can_read()):  # as above
            assert time.monotonic() < deadline
            await asyncio.sleep(0.001) if asynchronous else time.sleep(0.001)  # noqa: ASYNC251
        await both_are_right(backend)
        assert made(server) == before + 1

    run(server.url, scenario, asynchronous)


@both
def test_sto_08_a_refusal_is_a_reply_and_keeps_the_connection(server: Server, asynchronous: bool) -> None:
    async def scenario(backend: RedisBackend) -> None:
        before = made(server)
        for _ in range(3):
            with pytest.raises(redis.ResponseError, match="wrong number"):
                await send(backend, "GET", refusable=True)
            await both_are_right(backend)
        assert made(server) == before

    run(server.url, scenario, asynchronous)


@both
def test_sto_08_a_late_reply_is_read_by_nobody(server: Server, asynchronous: bool) -> None:
    async def scenario(backend: RedisBackend) -> None:
        server.pause()
        try:
            with pytest.raises(StoreUnavailable):
                await backend.get(record(b"a").key, NOW)
        finally:
            server.resume()
        wait_for(server.answers, "awake again")
        await both_are_right(backend)

    run(server.url, scenario, asynchronous, timeout=1)


class Interruption(BaseException):
    """Something from outside: a signal, a worker's end, a timeout of gevent's."""


def test_sto_08_a_thread_that_is_interrupted_leaves_its_reply_to_nobody(server: Server, tmp_path: Path) -> None:
    async def interrupted(backend: RedisBackend) -> None:
        await both_are_right(backend)
        server.pause()
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Interruption):
                await backend.get(record(b"a").key, NOW)
        finally:
            signal.signal(signal.SIGALRM, before)
            server.resume()
        wait_for(server.answers, "awake again")
        await both_are_right(backend)

    def interrupt(number: int, frame: object) -> None:
        raise Interruption

    run(server.url, interrupted, asynchronous=False)


@both
def test_sto_08_between_sending_and_reading_nothing_may_happen(server: Server, asynchronous: bool) -> None:
    """redis-py closes what fails while it reads, but knows nothing of what comes between its calls."""

    async def scenario(backend: RedisBackend) -> None:
        (connection,) = idle(backend)

        def interrupt() -> None:
            raise Interruption

        connection.read_response = interrupt
        with pytest.raises(Interruption):
            await backend.get(record(b"a").key, NOW)
        assert not is_open(connection)
        del connection.read_response
        await both_are_right(backend)

    run(server.url, scenario, asynchronous)


def test_sto_08_cancelled_requests_with_few_connections_lose_none(server: Server) -> None:
    """Those that wait are cancelled too, also in the very moment in which a slot is given to them."""

    async def scenario(backend: RedisBackend) -> None:
        done = cancelled = 0
        for step in range(400):
            names = [b"ab"[number % 2 : number % 2 + 1] for number in range(8)]
            tasks = [asyncio.create_task(backend.get(record(name).key, NOW)) for name in names]
            for task in tasks[step % 3 :: 2]:
                for _ in range(step % 7):
                    await asyncio.sleep(0)
                task.cancel()
            for name, found in zip(names, await asyncio.gather(*tasks, return_exceptions=True), strict=True):
                if isinstance(found, asyncio.CancelledError):
                    cancelled += 1
                else:
                    assert found == record(name)
                    done += 1
        assert done > 400
        assert cancelled > 400
        connections = loop_of(backend)
        assert (len(connections.free), len(connections.busy), len(connections.waiting)) == (2, 0, 0)
        await both_are_right(backend)

    run(server.url + "?max_connections=2", scenario, asynchronous=True)


# STO-07: how long it takes


def test_sto_07_waiting_for_a_connection_counts(server: Server) -> None:
    async def scenario(backend: RedisBackend) -> None:
        connections = loop_of(backend)
        slot = connections.free.pop()
        started = time.monotonic()
        with pytest.raises(StoreUnavailable) as caught:
            await backend.get(record().key, NOW)
        assert isinstance(caught.value.__cause__, TimeoutError)
        assert 1 <= time.monotonic() - started < PATIENCE
        waiting = asyncio.create_task(backend.get(record().key, NOW))
        await asyncio.sleep(0)
        assert not waiting.done()
        connections.give_back(slot)
        assert await waiting == record()

    run(server.url + "?max_connections=1", scenario, asynchronous=True, timeout=1)


def test_sto_07_who_waited_has_only_what_is_left(server: Server) -> None:
    """On one connection to a server that hangs: each is given it when the one before gives up, and is late at once."""

    async def scenario(backend: RedisBackend) -> None:
        async def outcome() -> float:
            started = time.monotonic()
            with pytest.raises(StoreUnavailable):
                await backend.get(record().key, NOW)
            return time.monotonic() - started

        server.pause()
        try:
            took = await asyncio.gather(*(outcome() for _ in range(5)))
        finally:
            server.resume()
        assert max(took) < 4
        wait_for(server.answers, "awake again")
        await both_are_right(backend)

    run(server.url + "?max_connections=1", scenario, asynchronous=True, timeout=1)


def test_sto_07_an_earlier_command_is_due_first(server: Server) -> None:
    """The timer is set for the command that is due first, though it was given its slot last."""

    async def scenario(backend: RedisBackend) -> None:
        connections, loop = loop_of(backend), asyncio.get_running_loop()
        await backend.get(record().key, NOW)
        later, sooner = connections.free.pop(), Slot(loop)
        start = loop.time()
        connections.timer.cancel()  # type: ignore[union-attr]
        connections.timer = None
        connections.watch(later, loop, start + 100)
        connections.watch(sooner, loop, start + 50)
        assert connections.timer.when() == start + 50  # type: ignore[attr-defined]
        connections.watch(later, loop, start + 100)
        assert connections.timer.when() == start + 50  # type: ignore[attr-defined]
        connections.busy.clear()
        connections.look(loop)
        assert connections.timer is None
        connections.give_back(later)

    run(server.url, scenario, asynchronous=True)


def test_one_timer_looks_after_all_commands(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(backend: RedisBackend) -> None:
        loop = asyncio.get_running_loop()
        await backend.get(record().key, NOW)
        set_at: list[float] = []
        call_at = loop.call_at

        def counted(when: float, *arguments: Any, **options: Any) -> Any:
            set_at.append(when)
            return call_at(when, *arguments, **options)

        monkeypatch.setattr(loop, "call_at", counted)
        for _ in range(20):
            await asyncio.gather(*(backend.get(record().key, NOW) for _ in range(5)))
        assert len(set_at) <= 4 * 2, "a new connection has a time limit of its own, and closing it"

    run(server.url, scenario, asynchronous=True)


def test_sto_07_who_is_cancelled_and_late_at_once_is_cancelled(server: Server) -> None:
    async def scenario(backend: RedisBackend) -> None:
        connections, loop = loop_of(backend), asyncio.get_running_loop()
        server.pause()
        try:
            for cancel, error in ((True, asyncio.CancelledError), (False, StoreUnavailable)):
                task = asyncio.create_task(backend.get(record().key, NOW))
                await asyncio.sleep(0)
                assert len(connections.busy) == 1
                for slot in connections.busy:
                    slot.until = loop.time()
                connections.look(loop)
                connections.look(loop)  # once is enough
                if cancel:
                    task.cancel()
                with pytest.raises(error):
                    await task
                assert task.cancelling() == (1 if cancel else 0)
        finally:
            server.resume()
        wait_for(server.answers, "awake again")
        await both_are_right(backend)

    run(server.url, scenario, asynchronous=True)


def test_sto_07_no_more_threads_than_the_url_allows(server: Server) -> None:
    async def scenario(backend: RedisBackend) -> None:
        connection = threads_of(backend).free.pop()
        with pytest.raises(StoreUnavailable) as caught:
            await backend.get(record().key, NOW)
        assert "Too many connections" in str(caught.value.__cause__)
        threads_of(backend).give_back(connection)
        await both_are_right(backend)

    run(server.url + "?max_connections=1", scenario, asynchronous=False)


@both
def test_sto_07_a_restart_between_two_requests_is_not_noticed(server: Server, asynchronous: bool) -> None:
    async def scenario(backend: RedisBackend) -> None:
        for _ in range(3):
            await backend.get(record().key, NOW)
            server.kill()
            server.start()
            if asynchronous:
                await asyncio.sleep(0.01)  # the loop hears of the end
            assert await backend.get(record().key, NOW) is None

    run(server.url, scenario, asynchronous)


@both
def test_what_was_connected_to_a_former_master_is_not_asked(tmp_path: Path, asynchronous: bool) -> None:
    with own_sentinel(tmp_path) as (master, _, sentinel):

        async def scenario(backend: RedisBackend) -> None:
            (connection,) = idle(backend)
            before = made(master)
            await both_are_right(backend)
            assert made(master) == before
            connection.connection_pool.master_address = ("127.0.0.1", 1)
            await both_are_right(backend)
            assert made(master) == before + 1

        run(f"redis+sentinel://{sentinel.address}/main", scenario, asynchronous)


# Loops, processes, ends

left_open = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
"""A loop that is closed before its connections are leaves them to the garbage collector, with these warnings."""


@left_open
def test_another_event_loop_begins_anew(server: Server) -> None:
    backend = RedisBackend(server.url, asynchronous=True)

    async def use() -> None:
        await backend.create(record(), None, NOW)
        assert await backend.get(record().key, NOW) == record()
        assert len(loop_of(backend).free) == 1

    async def close() -> None:
        await use()
        await backend.close()

    asyncio.run(use())
    asyncio.run(close())
    gc.collect()


def test_a_loop_that_is_over_looks_after_nothing(server: Server) -> None:
    async def scenario(backend: RedisBackend) -> None:
        connections = loop_of(backend)
        timer = connections.timer
        assert timer is not None
        other = asyncio.new_event_loop()
        connections.look(other)
        other.close()
        assert connections.timer is timer

    run(server.url, scenario, asynchronous=True)


def forked(in_child: Callable[[], None]) -> int:
    """The exit code of a child that does this."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads beside a fork
        child = os.fork()
    if child == 0:
        status = 1
        try:
            in_child()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_sto_08_a_forked_process_has_connections_of_its_own(server: Server) -> None:
    async def scenario(backend: RedisBackend) -> None:
        (mine,) = idle(backend)
        before = made(server)

        def child() -> None:
            assert idle(backend) == []
            drive(both_are_right(backend))

        assert forked(child) == 0
        assert made(server) == before + 1
        await both_are_right(backend)
        assert idle(backend) == [mine]
        assert made(server) == before + 1, "the parent's connection was left alone"

    run(server.url + "?max_connections=1", scenario, asynchronous=False)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_sto_08_a_forked_process_has_connections_of_its_own_asyncio(server: Server) -> None:
    backend = RedisBackend(server.url, asynchronous=True)
    unused = RedisBackend(server.url)
    loop = asyncio.new_event_loop()
    for name in (b"a", b"b"):
        loop.run_until_complete(backend.create(record(name), None, NOW))
    before = made(server)

    def child() -> None:
        assert idle(backend) == []
        asyncio.run(both_are_right(backend))
        drive(unused.get(record().key, NOW))

    assert forked(child) == 0
    assert made(server) == before + 2
    loop.run_until_complete(both_are_right(backend))
    assert made(server) == before + 2, "the parent's connection was left alone"
    loop.run_until_complete(backend.close())
    loop.close()


def test_a_connection_in_use_at_the_end_is_closed_by_its_thread(server: Server) -> None:
    backend = RedisBackend(server.url)
    drive(backend.create(record(), None, NOW))
    (connection,) = idle(backend)
    found: list[Record | None] = []
    server.pause()
    thread = threading.Thread(target=lambda: found.append(drive(backend.get(record().key, NOW))))
    try:
        thread.start()
        wait_for(lambda: not idle(backend), "the thread's command")
        drive(backend.close())
    finally:
        server.resume()
    thread.join()
    assert found == [record()]
    assert idle(backend) == []
    assert not is_open(connection)
    with pytest.raises(StoreUnavailable, match="closed"):
        drive(backend.get(record().key, NOW))


def test_what_is_under_way_at_the_end_fails(server: Server) -> None:
    async def scenario(backend: RedisBackend) -> None:
        connections = loop_of(backend)
        server.pause()
        try:
            tasks = [asyncio.create_task(backend.get(record().key, NOW)) for _ in range(3)]
            tasks[2].cancel()
            await asyncio.sleep(0)
            assert (len(connections.busy), len(connections.waiting)) == (1, 1)
            tasks += [asyncio.create_task(backend.get(record().key, NOW))]
            await asyncio.sleep(0)
            tasks[3].cancel()
            await backend.close()
            for task in (tasks[0], tasks[1]):
                with pytest.raises(StoreUnavailable):
                    await task
            assert connections.free == []
        finally:
            server.resume()
        with pytest.raises(StoreUnavailable, match="closed"):
            await backend.get(record().key, NOW)

    run(server.url + "?max_connections=1", scenario, asynchronous=True)


def test_a_connection_made_while_the_backend_is_closed_does_not_stay(server: Server) -> None:
    async def scenario(backend: RedisBackend) -> None:
        connections = loop_of(backend)
        slot = connections.free.pop()
        task = asyncio.create_task(backend.get(record().key, NOW))  # on a new one
        await asyncio.sleep(0)
        (new,) = connections.busy
        await backend.close()
        await slot.connection.disconnect()
        assert await task == record()
        assert not is_open(new.connection)
        assert connections.free == []

    run(server.url, scenario, asynchronous=True)


@left_open
def test_closing_on_another_loop_leaves_the_connections_to_theirs(server: Server) -> None:
    backend = RedisBackend(server.url, asynchronous=True)
    asyncio.run(backend.get(record().key, NOW))
    asyncio.run(backend.close())
    assert idle(backend) == []
    gc.collect()


@both
def test_the_older_protocol(server: Server, asynchronous: bool) -> None:
    async def scenario(backend: RedisBackend) -> None:
        await both_are_right(backend)
        assert await backend.get(record(b"none").key, NOW) is None
        assert len(await backend.list(OWNER, NOW)) == await backend.count("credentials", NOW) == 2
        server.ask("CONFIG SET", "maxmemory-policy", "allkeys-lru")
        with pytest.warns(ConfigWarning, match="allkeys-lru"):
            await backend.check()
        assert await backend.delete_owner(OWNER, NOW) == 2
        assert await backend.list(OWNER, NOW) == []

    run(server.url + "?protocol=2", scenario, asynchronous)
