"""Backends on real engines with a planted fault, each of which the suite must catch in every run.

The faults are compositions of the backend's own verbs, so that each can be planted in every engine.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest

from harness.engines import Database, database, kind_of, unique_table
from harness.mutants import Mutant, assert_caught
from harness.near_support import cache_of, channel_stands
from harness.redis_servers import SHARED, clear_shared, shared_answers
from powauth.backends.base import Backend, Millis, Record
from powauth.backends.lmdb import LMDBBackend
from powauth.backends.memory import MemoryBackend
from powauth.backends.redis import RedisBackend
from powauth.backends.sql import SQLBackend
from powauth.errors import StoreUnavailable
from powauth.testing import BackendConformance

# Engines


class OnMemory(BackendConformance):
    contenders = 8
    kind: ClassVar[type[Any]] = MemoryBackend

    def make_backend(self) -> Backend:
        made: Backend = self.kind()
        return made


class OnLMDB(BackendConformance):
    contenders = 8
    kind: ClassVar[type[Any]] = LMDBBackend

    def make_backend(self) -> Backend:
        self.path = Path(tempfile.mkdtemp(prefix="powauth-mutant-"))
        made: Backend = self.kind(self.path, durable=False)
        return made

    async def dispose(self, backend: Backend) -> None:
        await backend.close()
        shutil.rmtree(self.path)


class OnSQL(BackendConformance):
    contenders = 8
    kind: ClassVar[type[Any]] = SQLBackend
    driver: ClassVar[str]

    async def make_backend(self) -> Backend:
        self.path = Path(tempfile.mkdtemp(prefix="powauth-mutant-"))
        self.where: Database = database(kind_of(self.driver), self.path)
        self.table = unique_table()
        made: SQLBackend = self.kind(self.where.through(self.driver), table=self.table, timeout=timedelta(seconds=60))
        await made.create_tables()
        return made

    async def dispose(self, backend: Backend) -> None:
        await backend.close()
        self.where.drop(self.table, f"{self.table}_epochs")
        shutil.rmtree(self.path)

    def make_unreachable(self) -> Backend:
        made: Backend = self.kind(f"{self.driver_url}://127.0.0.1:1/none")
        return made

    driver_url: ClassVar[str] = ""


class OnRedis(BackendConformance):
    contenders = 8
    engine_expires = True
    asynchronous: ClassVar[bool] = False
    near_cache: ClassVar[int | None] = None
    kind: ClassVar[type[Any]] = RedisBackend

    async def make_backend(self) -> Backend:
        if not shared_answers():
            pytest.skip(f"no Redis at {SHARED}")
        made: RedisBackend = self.kind(
            SHARED,
            prefix=self.namespace,
            timeout=timedelta(seconds=60),
            asynchronous=self.asynchronous,
            near_cache=self.near_cache,
        )
        if self.near_cache is not None:
            await channel_stands(made)
        return made

    async def dispose(self, backend: Backend) -> None:
        await backend.close()
        clear_shared(f"{self.namespace}:")

    def make_unreachable(self) -> Backend:
        made: Backend = self.kind("redis://127.0.0.1:1/0", asynchronous=self.asynchronous)
        return made


ENGINES: dict[str, tuple[type[BackendConformance], dict[str, object]]] = {
    "memory": (OnMemory, {}),
    "lmdb": (OnLMDB, {}),
    "sqlite": (OnSQL, {"driver": "sqlite"}),
    "aiosqlite": (OnSQL, {"driver": "aiosqlite"}),
    "psycopg": (OnSQL, {"driver": "psycopg", "driver_url": "postgresql+psycopg"}),
    "psycopg_async": (OnSQL, {"driver": "psycopg_async", "driver_url": "postgresql+psycopg_async"}),
    "asyncpg": (OnSQL, {"driver": "asyncpg", "driver_url": "postgresql+asyncpg"}),
    "pymysql": (OnSQL, {"driver": "mariadb_pymysql", "driver_url": "mariadb+pymysql"}),
    "asyncmy": (OnSQL, {"driver": "asyncmy", "driver_url": "mariadb+asyncmy"}),
    "redis": (OnRedis, {}),
    "redis_async": (OnRedis, {"asynchronous": True}),
    "redis_near": (OnRedis, {"near_cache": 100}),
    "redis_near_async": (OnRedis, {"near_cache": 100, "asynchronous": True}),
}


# Faults


class MovesTheEpochAfterwards(Backend):
    """delete_owner moves the epoch after the deletion, in a command of its own."""

    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        keys = [record.key for record in await self.list(owner, now) if record.key != keep]
        went = sum([await self.delete(key, now) for key in keys])
        await self.epoch(owner, now, advance=True)
        return went


class ChecksTheEpochBefore(Backend):
    """A create asks for the epoch in a command of its own."""

    async def create(self, record: Record, epoch: int | None, now: Millis) -> bool:
        if epoch is not None and await self.epoch(record.owner, now) > epoch:
            return False
        return await super().create(record, None, now)  # type: ignore[safe-super]


class CutsTheExpiry(Backend):
    """The expiry is cut to whole seconds."""

    async def create(self, record: Record, epoch: int | None, now: Millis) -> bool:
        cut = msgspec.structs.replace(record, expires_at=record.expires_at // 1000 * 1000)
        return await super().create(cut, epoch, now)  # type: ignore[safe-super]


class ListsAPage(Backend):
    """A list holds 500 records at most."""

    async def list(self, owner: bytes, now: Millis) -> list[Record]:
        return (await super().list(owner, now))[:500]  # type: ignore[safe-super]


class LeaksTheDriversError(Backend):
    """The driver's error leaks from count."""

    async def count(self, namespace: str, now: Millis) -> int:
        try:
            return await super().count(namespace, now)  # type: ignore[safe-super]
        except StoreUnavailable as error:
            raise error.__cause__ or error from None


class CopySurvivesDeleteOwner(Backend):
    """A copy in the near cache, which peek serves, survives delete_owner."""

    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        near = cache_of(self)
        copies = [copy for record in await self.list(owner, now) if (copy := near.get(record.key, now)) is not None]
        went = await super().delete_owner(owner, now, keep)  # type: ignore[safe-super]
        for copy in copies:
            ticket = near.begin(copy.key)
            assert ticket is not None
            near.end(ticket, copy)
        return went


PLANTED: list[tuple[type[Any], str, tuple[str, ...]]] = [
    (
        MovesTheEpochAfterwards,
        "test_rep_61_no_step_of_delete_owner_lets_a_create_slip_past",
        tuple(name for name in ENGINES if "near" not in name),
    ),
    (
        ChecksTheEpochBefore,
        "test_rep_61_no_step_of_a_create_lets_it_slip_past_delete_owner",
        tuple(name for name in ENGINES if "near" not in name),
    ),
    (
        CutsTheExpiry,
        "test_rep_61_an_expiry_is_exact_to_the_millisecond",
        ("memory", "lmdb", "sqlite", "psycopg", "redis"),
    ),
    (ListsAPage, "test_rep_61_no_page_of_many_records_is_cut", ("memory", "lmdb", "redis_async")),
    (
        LeaksTheDriversError,
        "test_rep_61_an_engine_out_of_reach_is_unavailable",
        ("psycopg", "asyncpg", "pymysql", "redis", "redis_async"),
    ),
    (
        CopySurvivesDeleteOwner,
        "test_rep_60_nothing_is_seen_of_a_record_once_it_is_gone",
        ("redis_near", "redis_near_async"),
    ),
]
"""Each fault, the test that catches it, and the engines that it is planted in."""


def planted() -> Iterator[Mutant]:
    for fault, test, engines in PLANTED:
        for engine in engines:
            yield Mutant(f"{fault.__name__}-{engine}", fault.__doc__ or "", _suite(fault, engine), test)


def _suite(fault: type[Any], engine: str) -> Callable[[], BackendConformance]:
    suite, options = ENGINES[engine]
    sound: type[Any] = suite.kind  # type: ignore[attr-defined]
    mutant = type(f"{fault.__name__}On{sound.__name__}", (fault, sound), {})
    slow = {"patience": timedelta(milliseconds=50)}  # an engine on a busy machine is slow
    return type(f"{mutant.__name__}Suite", (suite,), {**slow, **options, "kind": mutant})


@pytest.mark.untraced
@pytest.mark.parametrize("mutant", list(planted()), ids=str)
def test_the_suite_catches_every_mutant_every_time(mutant: Mutant) -> None:
    assert_caught(mutant)
