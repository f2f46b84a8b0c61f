"""More requests at once than redis-py has connections are no outage."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest

from harness import redis_servers
from powauth.backends._redis_connections import MAX_AT_ONCE  # the bound that these tests cross
from powauth.backends.base import drive, make_key
from powauth.backends.redis import RedisBackend

NOW = 1_900_000_000_000

AT_ONCE = 4 * MAX_AT_ONCE


@pytest.fixture(params=["single", "sentinel", "cluster"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if redis_servers.EXECUTABLE is None:
        pytest.skip(redis_servers.MISSING)
    if request.param == "single":
        with redis_servers.own_server(tmp_path) as server:
            yield server.url
    elif request.param == "sentinel":
        with redis_servers.own_sentinel(tmp_path) as (_, _, sentinel):
            yield f"redis+sentinel://{sentinel.address}/main"
    else:
        with redis_servers.own_cluster(tmp_path) as nodes:
            yield f"redis+cluster://{nodes[0].address}"


def test_sto_07_a_burst_of_requests_waits_for_connections(url: str) -> None:
    async def burst() -> None:
        backend = RedisBackend(url, asynchronous=True, timeout=timedelta(seconds=redis_servers.PATIENCE))
        key = make_key("credentials", b"00nobody")
        assert await asyncio.gather(*(backend.get(key, NOW) for _ in range(AT_ONCE))) == [None] * AT_ONCE
        await backend.close()

    asyncio.run(burst())


def test_sto_07_a_burst_of_threads_gets_a_connection_each(url: str) -> None:
    backend = RedisBackend(url, timeout=timedelta(seconds=redis_servers.PATIENCE))
    key = make_key("credentials", b"00nobody")
    with ThreadPoolExecutor(2 * MAX_AT_ONCE) as threads:
        found = list(threads.map(lambda _: drive(backend.get(key, NOW)), range(AT_ONCE)))
    assert found == [None] * AT_ONCE
    drive(backend.close())
