"""Tests of engines that are closed, unreachable or broken, and of cancelled calls."""

# ruff: noqa: D102 the name of a test is its sentence

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar
from unittest import SkipTest

import msgspec

from powauth.backends.base import (
    Backend,
    CountsEpochs,
    Create,
    Delete,
    ReadsInPlace,
    Record,
    ServesCopies,
    Transactional,
    Update,
    WouldWaitError,
)
from powauth.errors import StoreUnavailable
from powauth.testing.backend.suite import NOW, Suite, scenario
from powauth.testing.stepping import stepping

T = TypeVar("T")

ATTEMPTS = 50
PAUSE = 0.02
"""Attempts to use a backend after a cancelled verb, and seconds between them. The verb may still take effect."""

Verbs = dict[str, Callable[[], Coroutine[Any, Any, object]]]


class FaultTests(Suite):
    """If the engine does not answer, every verb raises `StoreUnavailable` and no other error."""

    def _verbs(self, backend: Backend, record: Record) -> Verbs:
        """Return every verb, in all variants that a backend may implement separately."""
        owner, renewed = record.owner, msgspec.structs.replace(record, version=1)
        verbs: Verbs = {
            "create": lambda: backend.create(self.record(b"b", owner), None, NOW),
            "create at an epoch": lambda: backend.create(self.record(b"c", owner), 0, NOW),
            "get": lambda: backend.get(self.record(b"absent", owner).key, NOW),
            "list": lambda: backend.list(owner, NOW),
            "epoch": lambda: backend.epoch(owner, NOW),
            "scan": lambda: backend.scan(self.namespace, None, 10, NOW),
            "count": lambda: backend.count(self.namespace, NOW),
            "update": lambda: backend.update(renewed, 0, NOW),
            "delete": lambda: backend.delete(self.record(b"b", owner).key, NOW),
            "epoch, advanced": lambda: backend.epoch(owner, NOW, advance=True),
            "delete_owner": lambda: backend.delete_owner(owner, NOW),
            "purge": lambda: backend.purge(10, NOW),
        }
        if isinstance(backend, ServesCopies):
            verbs["get_fresh"] = lambda: backend.get_fresh(record.key, NOW)
        if isinstance(backend, CountsEpochs):
            verbs["latest_epoch"] = lambda: backend.latest_epoch(NOW)
        if isinstance(backend, Transactional):
            changes = (Create(self.record(b"d", owner)), Update(renewed, 0), Delete(record.key))
            for each in changes:
                verbs[f"change to {type(each).__name__.lower()}"] = lambda each=each: backend.change([each], NOW)  # type: ignore[misc]
        return verbs

    async def _assert_unavailable(self, backend: Backend, record: Record, why: str, *, caused: bool) -> None:
        # If the engine itself removes expired records, `purge` need not ask it.
        unasked = {("purge", 0)} if self.engine_expires and caused else set()
        for name, verb in self._verbs(backend, record).items():
            try:
                answer = await verb()
            except StoreUnavailable as error:
                found = error.__cause__
            except Exception as error:
                raise AssertionError(f"{name} of a backend {why} raises {type(error).__name__}") from error
            else:
                assert (name, answer) in unasked, f"{name} of a backend {why} answers {answer!r}"
                continue
            assert found is not None or not caused, f"{name} hides the error of the engine: it has no cause"
        self._assert_no_read_at_once(backend, record, why)

    def _assert_no_read_at_once(self, backend: Backend, record: Record, why: str) -> None:
        if not isinstance(backend, ReadsInPlace):
            return
        try:
            backend.get_at_once(self.record(b"absent", record.owner).key, NOW)
        except (StoreUnavailable, WouldWaitError):
            return
        raise AssertionError(f"a backend {why} reads in place")

    @scenario
    async def test_a_closed_backend_is_unavailable(self, backend: Backend) -> None:
        record = self.record()
        assert await backend.create(record, None, NOW)
        assert await backend.get(record.key, NOW) == record
        await backend.close()
        await backend.close()
        await self._assert_unavailable(backend, record, "that is closed", caused=False)
        if isinstance(backend, ReadsInPlace):
            with suppress(StoreUnavailable, WouldWaitError):
                backend.get_at_once(record.key, NOW)
                raise AssertionError("a backend that is closed still serves a record")

    def test_rep_61_an_engine_out_of_reach_is_unavailable(self) -> None:
        async def scenario(backend: Backend) -> None:
            for _ in range(2):
                await self._assert_unavailable(backend, self.record(), "whose engine is out of reach", caused=True)

        async def close(backend: Backend) -> None:
            await backend.close()

        self.run_on(self.make_unreachable, scenario, close)

    @scenario
    async def test_rep_61_an_engine_that_breaks_is_unavailable_until_it_is_mended(self, backend: Backend) -> None:
        record = self.record()
        assert await backend.create(record, await backend.epoch(self.owner(), NOW), NOW)
        assert await self.find(backend, record.key, NOW) == record
        await self.break_engine(backend)
        try:
            await self._assert_unavailable(backend, record, "whose engine is broken", caused=True)
        finally:
            await self.mend_engine(backend)
        after = self.record(b"after")
        assert await backend.create(after, await backend.epoch(self.owner(), NOW), NOW) is True
        assert await self.find(backend, after.key, NOW) == after
        assert await backend.delete_owner(self.owner(), NOW) >= 1
        assert await backend.list(self.owner(), NOW) == []

    @scenario
    async def test_a_verb_that_is_cancelled_leaves_a_backend_that_works(self, backend: Backend) -> None:
        if backend.mode != "async":
            raise SkipTest("nobody can cancel a verb of a backend that is not async")
        names = list(self._verbs(backend, self.record()))
        for number, name in enumerate(names):
            suspensions = 1
            while await self._cancel(backend, f"{number}-{suspensions}", name, suspensions):
                suspensions += 1

    async def _cancel(self, backend: Backend, user_key: str, name: str, suspensions: int) -> bool:
        """Cancel a verb after a number of suspensions. Return whether it had as many."""
        owner = self.owner(user_key)
        record = self.record(user_key.encode(), owner)  # owners may share a shard
        assert await backend.create(record, None, NOW)
        passed = 0

        def cancel() -> None:
            nonlocal passed
            passed += 1
            if passed == suspensions:
                task.cancel()

        verb = self._verbs(backend, record)[name]()
        task: asyncio.Task[object] = asyncio.ensure_future(_awaited(stepping(verb, suspending=cancel)))
        await asyncio.wait([task])
        error = None if task.cancelled() else task.exception()
        assert error is None, f"{name}, cancelled, raises {error!r}"
        await self._assert_working(backend, owner, f"after {name} was cancelled at its suspension {suspensions}")
        return passed >= suspensions

    async def _assert_working(self, backend: Backend, owner: bytes, when: str) -> None:
        """Check that records can be created and deleted. The cancelled verb may still take effect meanwhile."""
        for attempt in range(ATTEMPTS):
            probe = self.record(b"probe %d" % attempt, owner)
            try:
                created = await backend.create(probe, await backend.epoch(owner, NOW), NOW)
                found = await backend.get(probe.key, NOW)
                listed = await backend.list(owner, NOW)
                if created and found == probe and probe in listed and await backend.delete(probe.key, NOW):
                    return
            except StoreUnavailable as error:
                raise AssertionError(f"the engine is unavailable {when}") from error
            await asyncio.sleep(PAUSE)
        raise AssertionError(f"no record can be created and deleted {when}")


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable
