"""Shared parts of the near cache's tests: functions that wait until another task or thread sees a change."""

import asyncio
import contextlib
import time
from collections.abc import Callable

from harness.redis_servers import PATIENCE
from powauth.backends.base import Backend, Millis, Record, make_key, make_owner, shard_of
from powauth.backends.near_cache import NearCache
from powauth.backends.redis import RedisBackend
from powauth.errors import StoreUnavailable

NOW: Millis = 1_900_000_000_000
OWNER = make_owner("credentials", "42")
OTHERS = make_owner("credentials", "43")


def record(name: bytes = b"a", owner: bytes = OWNER, *, version: int = 0, value: bytes = b"value") -> Record:
    return Record(make_key("credentials", shard_of(owner) + name), owner, version, NOW, NOW + 1_800_000, value)


def cache_of(backend: Backend) -> NearCache:
    assert isinstance(backend, RedisBackend)
    assert backend.near_cache is not None
    return backend.near_cache


async def until(backend: Backend, condition: Callable[[], bool], what: str) -> None:
    """Wait for what another task, or thread, is about to see."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        await pause(backend)


async def channel_stands(backend: Backend) -> None:
    """Read until the channel is up: each attempt to make it begins with a read."""
    deadline = time.monotonic() + PATIENCE
    while not cache_of(backend).up:
        assert time.monotonic() < deadline, "a channel"
        with contextlib.suppress(StoreUnavailable):
            await backend.get(b"credentials:none", NOW)
        await pause(backend)


async def pause(backend: Backend) -> None:
    """Let others go on."""
    if backend.mode == "async":
        await asyncio.sleep(0.001)
    else:
        time.sleep(0.001)  # noqa: ASYNC251 there is no event loop here
