"""The near cache of Redis: its lag, the cost of a hit, its memory, and the cost of listeners to the server.

Run it with ``python -m benchmarks.near_cache``. It starts its own server.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import redis.asyncio

from benchmarks.servers import RedisServer, directory, family, running
from powauth.backends.base import Record, make_key, make_owner, shard_of
from powauth.backends.near_cache import NearCache
from powauth.backends.redis import RedisBackend

TRIALS = 2_000
"""The number of deletes whose lag is measured."""

CALLS = 100_000
"""The number of hits in one timing."""

WRITES = 5_000
"""The number of timed writes for each number of listeners."""

LISTENERS = (0, 1, 8, 32)

SECONDS = 4
"""The time over which the cost of heartbeats is measured."""

NOW = int(time.time() * 1000)
VALUE = bytes(300)
"""A value of about the size of a session."""

OWNER = make_owner("credentials", "1")


def record(number: int) -> Record:
    key = make_key("credentials", shard_of(OWNER) + number.to_bytes(16, "big"))
    return Record(key, OWNER, 0, NOW, NOW + 3_600_000, VALUE)


def backend_of(url: str, near_cache: int | None = None) -> RedisBackend:
    """Return an asynchronous backend."""
    return RedisBackend(url, asynchronous=True, near_cache=near_cache)


async def follow(url: str) -> None:
    """Run the other process: keep a copy of each record named on stdin, and print the time when the copy is gone."""
    backend = backend_of(url, 1000)
    cache = await connected(backend)
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := await lines.readline():
        kept = record(int(line))
        while cache.get(kept.key, NOW) is None:
            await backend.get(kept.key, NOW)
        gone = loop.create_future()
        drop = cache.drop

        def dropped(key: bytes, drop: Any = drop, kept: Record = kept, gone: Any = gone) -> None:
            drop(key)
            if key == kept.key and not gone.done():
                gone.set_result(time.monotonic_ns())

        cache.drop = dropped  # type: ignore[method-assign]
        print("kept", flush=True)
        print(await gone, flush=True)
        cache.drop = drop  # type: ignore[method-assign]
    await backend.close()


async def connected(backend: RedisBackend) -> NearCache:
    """Return the backend's cache when its channel is open."""
    cache = backend.near_cache
    assert cache is not None
    while not cache.up:
        await backend.get(b"credentials:none", NOW)
        await asyncio.sleep(0.001)
    return cache


async def lags(url: str) -> list[float]:
    """Return the seconds from a delete's acknowledgement to the drop of the copy in another process.

    A negative time means that the copy was dropped earlier.
    """
    command = [sys.executable, "-m", "benchmarks.near_cache", "--follow", url]
    other = await asyncio.create_subprocess_exec(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdin is not None
    assert other.stdout is not None
    backend = backend_of(url)
    found = []
    for number in range(TRIALS):
        await backend.create(record(number), None, NOW)
        await asyncio.sleep(0.001)  # the report of the creation must arrive before the copy is made
        other.stdin.write(b"%d\n" % number)
        assert await other.stdout.readline() == b"kept\n"
        await backend.delete(record(number).key, NOW)
        acknowledged = time.monotonic_ns()
        found.append((int(await other.stdout.readline()) - acknowledged) / 1e9)
    other.stdin.close()
    await other.wait()
    await backend.close()
    return found


async def hit(url: str) -> tuple[float, float, float, float]:
    """Return the seconds of a hit, of an empty coroutine, of a read of the server, and of such a read by redis-py."""
    backend = backend_of(url, 1000)
    await connected(backend)
    kept = record(1 << 40)
    await backend.create(kept, None, NOW)
    await asyncio.sleep(0.05)
    await backend.get(kept.key, NOW)

    async def nothing(key: bytes, now: int) -> None:
        return None

    async def timed(function: Any, calls: int) -> float:
        best = float("inf")
        for _ in range(5):
            begun = time.perf_counter()
            for _ in range(calls):
                await function(kept.key, NOW)
            best = min(best, (time.perf_counter() - begun) / calls)
            await asyncio.sleep(0.01)  # let the heartbeat run
        return best

    client = redis.asyncio.Redis.from_url(url)
    place, identifier = backend._locate(kept.key)
    name = place.records + identifier

    async def by_redis_py(key: bytes, now: int) -> None:
        assert await client.get(name)

    bare = await timed(by_redis_py, CALLS // 100)
    await client.aclose()
    result = (
        await timed(backend.get, CALLS),
        await timed(nothing, CALLS),
        await timed(backend.get_fresh, CALLS // 100),
        bare,
    )
    await backend.close()
    return result


def memory(records: int = 10_000) -> float:
    """Return the bytes of a copy of a record whose value has 300 bytes."""
    cache = NearCache(records)
    cache.heard(cache.opened(), 1e12)
    tracemalloc.start()
    for number in range(records):
        # A record from the network shares no object with another.
        each = record(number)
        fresh = Record(bytes(bytearray(each.key)), bytes(bytearray(OWNER)), 0, NOW, each.expires_at, bytes(300))
        ticket = cache.begin(fresh.key)
        assert ticket is not None
        cache.end(ticket, fresh)
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return used / records


def processor(server: RedisServer) -> float:
    """Return the processor seconds that the server has used, without processes that have ended."""
    assert server.process is not None
    ticks = 0
    for pid in family(server.process.pid):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


async def listeners_cost(server: RedisServer, url: str, listeners: int) -> tuple[float, float, float]:
    """Return the cost of listeners: the idle server's processors (1 is a whole one), and seconds per write.

    The seconds are those of the server's processor, and those of this process, for all listeners together.
    """
    backend = backend_of(url)
    near = [backend_of(url, 10) for _ in range(listeners)]
    for each in near:
        await connected(each)
    await backend.create(record(0), None, NOW)
    before = processor(server)
    await asyncio.sleep(SECONDS)
    idle = (processor(server) - before) / SECONDS
    before, here = processor(server), time.process_time()
    first = record(0)
    for version in range(WRITES):
        changed = Record(first.key, first.owner, version + 1, NOW, first.expires_at, VALUE)
        assert await backend.update(changed, version, NOW)
    used, here = processor(server) - before, time.process_time() - here
    await backend.delete(record(0).key, NOW)
    for other in (backend, *near):
        await other.close()
    return idle, used / WRITES, here / WRITES


async def main(server: RedisServer, url: str) -> None:
    found = sorted(await lags(url))
    print(f"lag of a delete in another process ({TRIALS} trials, from its acknowledgement)")
    print(f"    median {statistics.median(found) * 1e6:8.0f} µs")
    print(f"    p99    {found[int(len(found) * 0.99)] * 1e6:8.0f} µs")
    print(f"    most   {found[-1] * 1e6:8.0f} µs")
    near, nothing, far, bare = await hit(url)
    print(
        f"get, near at hand    {near * 1e9:8.0f} ns, of which a coroutine that does nothing takes {nothing * 1e9:.0f}"
    )
    print(f"get, from the server {far * 1e9:8.0f} ns")
    print(f"    by redis-py      {bare * 1e9:8.0f} ns, with its client's own defaults")
    print(f"memory of a record   {memory():8.0f} bytes, with a value of {len(VALUE)}")
    first = 0.0
    for listeners in LISTENERS:
        idle, used, here = await listeners_cost(server, url, listeners)
        first = first or here
        each = (here - first) / listeners if listeners else 0.0
        print(
            f"{listeners:2} listeners: {idle * 100:4.1f} % of a processor of the server's at rest; a write "
            f"{used * 1e6:6.1f} µs of the server's processor, {each * 1e6:6.1f} µs of each listener's"
        )


def run() -> None:
    with directory() as folder:
        server = RedisServer(folder, durable=False)
        with running(server):
            asyncio.run(main(server, f"redis://127.0.0.1:{server.port}/0"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--follow"]:
        asyncio.run(follow(sys.argv[2]))
    else:
        run()
