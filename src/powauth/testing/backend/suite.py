"""The base of the suite: the methods that a subclass provides, and the tools that the tests share."""

import asyncio
import itertools
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import timedelta
from functools import cached_property
from typing import Any, TypeVar
from unittest import SkipTest
from uuid import uuid4

from powauth.backends.base import (
    Backend,
    Create,
    Millis,
    ReadsInPlace,
    Record,
    ServesCopies,
    WouldWaitError,
    check_namespace,
    drive,
    make_changes,
    make_key,
    make_owner,
    shard_of,
)
from powauth.testing.scenarios import run_scenario, scenario
from powauth.testing.stepping import PATIENCE, Own, Race, run_at_each_step

__all__ = ["MINUTE", "NOW", "TTL", "Scenario", "Suite", "scenario"]

T = TypeVar("T")

Scenario = Callable[[Backend], Coroutine[Any, Any, None]]
"""A test: a coroutine function that takes a backend."""

NOW: Millis = 1_900_000_000_123
"""The current time of the suite, in 2030. It is no whole second, so that rounding is noticed."""

MINUTE: Millis = 60_000
TTL: Millis = 30 * MINUTE
"""Default lifetime of a record."""

BATCH = 50
"""Records that `Suite.fill` creates in one call of `make_changes`."""


class Suite:
    """The methods that a subclass of `powauth.testing.BackendConformance` provides, and the tools of its tests.

    Attributes:
        contenders: threads or tasks that compete for one record in the tests of concurrency.
        many: records of one owner in the tests of size. Set it above the largest page that your engine or its driver
            returns.
        engine_expires: set it if the engine removes expired records by its own clock, so that `Backend.purge` need not.
            The suite then requires only that ``purge`` stays within its limit and removes no live record.
        steps_into: names of further modules or packages in which the tests of interleavings stop. They always stop in
            the packages of the backend's classes. An ``async`` backend does not need it: it is stopped where it
            suspends.
        patience: the time that a verb gets while another verb is stopped. After that, the suite assumes that it waits
            for the other. A higher value finds more on a slow engine, and takes longer.
    """

    contenders: int = 50
    many: int = 1_200
    engine_expires: bool = False
    steps_into: Sequence[str] = ()
    patience: timedelta = PATIENCE

    # What a subclass provides

    def make_backend(self) -> Backend | Awaitable[Backend]:
        """Return an empty backend that no other test sees, not even through ``purge``. May be ``async def``.

        An event loop runs during the call. The test of an ``async`` backend runs in the same loop.
        """
        raise NotImplementedError

    async def dispose(self, backend: Backend) -> None:
        """Clean up after a test. Remove everything that `make_backend` made on a shared engine."""
        await backend.close()

    def second(self, backend: Backend) -> Backend:
        """Return another connection to the same data, like another process has. The suite closes it.

        Without this method, its tests are skipped.
        """
        del backend
        raise SkipTest("this suite makes no second connection: override `second` if the engine can have one")

    def make_unreachable(self) -> Backend | Awaitable[Backend]:
        """Return a backend whose engine cannot be reached, such as one at a port without a server.

        Each of its verbs must raise `StoreUnavailable` within seconds. The suite closes it. Without this method, the
        test is skipped.
        """
        raise SkipTest("this suite has no unreachable engine: override `make_unreachable`")

    async def break_engine(self, backend: Backend) -> None:
        """Make the engine of a working backend fail without the backend's knowledge: stop it, or drop its table.

        Undo it in `mend_engine`. Without this method the tests of a broken engine are skipped.
        """
        del backend
        raise SkipTest("this suite cannot break its engine: override `break_engine` and `mend_engine`")

    async def mend_engine(self, backend: Backend) -> None:
        """Undo `break_engine`. The earlier content of the backend may be lost."""
        del backend
        raise NotImplementedError

    # What the tests use

    @cached_property
    def namespace(self) -> str:
        """The namespace of this test. It is unique, because pytest makes an object for each test."""
        return check_namespace(f"t{uuid4().hex[:16]}")

    def owner(self, user_key: str = "1") -> bytes:
        """Return an owner in this test's namespace."""
        return make_owner(self.namespace, user_key)

    def record(
        self,
        name: bytes = b"a",
        owner: bytes | None = None,
        *,
        version: int = 0,
        created_at: Millis = NOW,
        expires_at: Millis = NOW + TTL,
        value: bytes = b"value",
    ) -> Record:
        """Return a record whose key has its owner's shard.

        The key holds only the shard of the owner. Two owners can have the same shard, so give their records different
        names.
        """
        owner = self.owner() if owner is None else owner
        namespace = owner.partition(b":")[0].decode()
        key = make_key(namespace, shard_of(owner) + name)
        return Record(key, owner, version, created_at, expires_at, value)

    def run(self, scenario: Scenario) -> None:
        """Make a backend, run the scenario on it, and dispose of it. If it is ``async``, all run in one event loop."""
        self.run_on(self.make_backend, scenario, self.dispose)

    def run_on(self, make: Callable[[], Backend | Awaitable[Backend]], scenario: Scenario, dispose: Scenario) -> None:
        """Run a scenario like `run`, on another backend than that of `make_backend`."""
        assert self.namespace  # computed before threads read it: `cached_property` takes no lock
        run_scenario(make, scenario, dispose)

    async def find(self, backend: Backend, key: bytes, now: Millis) -> Record | None:
        """Read a record in every way that the backend supports. All ways must agree, in every order."""
        found = [
            *self._find_at_once(backend, key, now),  # first, because `get` might drop an outdated copy
            await backend.get(key, now),
            *([await backend.get_fresh(key, now)] if isinstance(backend, ServesCopies) else []),
            *self._find_at_once(backend, key, now),
            await backend.get(key, now),
        ]
        assert all(each == found[0] for each in found), f"two ways to read one record differ: {found}"
        record = found[0]
        assert record is None or record.key == key
        for each in found:
            if each is not None:
                assert_types(each)
        return record

    def _find_at_once(self, backend: Backend, key: bytes, now: Millis) -> list[Record | None]:
        if not isinstance(backend, ReadsInPlace):
            return []
        try:
            return [backend.get_at_once(key, now)]
        except WouldWaitError:
            return []

    async def fill(self, backend: Backend, records: Sequence[Record], now: Millis) -> None:
        """Create many records in batches, all batches in parallel."""
        batches = [records[start : start + BATCH] for start in range(0, len(records), BATCH)]

        async def create(batch: Sequence[Record]) -> None:
            assert await make_changes(backend, [Create(record) for record in batch], now) == len(batch)

        await self.race(backend, [lambda batch=batch: create(batch) for batch in batches])  # type: ignore[misc]

    async def expect_purged(self, backend: Backend, records: Sequence[Record], now: Millis) -> None:
        """Purge, and check that exactly these records were removed, also for a clock that is behind."""
        total = await self.drain(backend, now)
        if not self.engine_expires:
            assert total == len(records)
            for record in records:
                assert await self.find(backend, record.key, record.created_at) is None
                assert record not in await backend.list(record.owner, record.created_at)

    async def race(self, backend: Backend, starts: Sequence[Callable[[], Coroutine[Any, Any, T]]]) -> list[T]:
        """Run all calls in parallel, in threads or tasks as the backend's mode requires. Return the results."""
        if backend.mode == "async":
            return list(await asyncio.gather(*(start() for start in starts)))
        results: dict[int, T] = {}
        errors: list[BaseException] = []
        barrier = threading.Barrier(len(starts))

        def body(position: int, start: Callable[[], Coroutine[Any, Any, T]]) -> None:
            try:
                barrier.wait(timeout=60)
                results[position] = drive(start())
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=body, args=item) for item in enumerate(starts)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return [results[position] for position in range(len(starts))]

    async def at_each_step(
        self, backend: Backend, prepare: Callable[[bytes], Coroutine[Any, Any, Race[Any, Any]]]
    ) -> None:
        """Stop a verb at each of its steps in turn and run another one there; see `powauth.testing.stepping`.

        Args:
            backend: the backend.
            prepare: sets up one race for the given owner. Each step has another owner.
        """
        numbers, shards = itertools.count(), set[bytes]()

        async def next_race() -> Race[Any, Any]:
            # A key contains the owner's shard, not the owner. Two owners with one shard would share keys.
            owner = next(owner for owner in (self.owner(f"{n}") for n in numbers) if shard_of(owner) not in shards)
            shards.add(shard_of(owner))
            return await prepare(owner)

        await run_at_each_step(backend, Own(Backend, self.steps_into), next_race, self.patience)

    async def drain(self, backend: Backend, now: Millis, limit: int = 10) -> int:
        """Purge until a step finds nothing. Return the number of removed records and epochs."""
        total = 0
        while went := await backend.purge(limit, now):
            assert 0 < went <= limit
            total += went
        return total

    async def walk(
        self, backend: Backend, namespace: str, now: Millis = NOW, limit: int = 3, meanwhile: Scenario | None = None
    ) -> list[Record]:
        """Return the records of all pages of a scan. ``meanwhile`` runs after each page."""
        seen: list[Record] = []
        cursor: str | None = None
        for _ in range(10_000):
            page = await backend.scan(namespace, cursor, limit, now)
            seen += page.records
            cursor = page.cursor
            if cursor is None:
                for record in seen:
                    assert_types(record)
                return seen
            assert isinstance(cursor, str)
            if meanwhile is not None:
                await meanwhile(backend)
        raise AssertionError("the scan does not end")


def assert_types(record: Record) -> None:
    """Check that the fields of a record have the declared types. A ``memoryview``, for example, equals ``bytes``."""
    assert type(record) is Record
    for name, kind in Record.__annotations__.items():
        expected = int if kind is Millis else kind
        assert type(getattr(record, name)) is expected, f"{name} is a {type(getattr(record, name)).__name__}"
