"""Tests of a backend's abilities beyond the verbs. Tests of a missing ability are skipped with a message."""

# ruff: noqa: D102 the name of a test is its sentence

from collections.abc import Callable, Coroutine
from typing import Any
from unittest import SkipTest

import msgspec

from powauth.backends.base import (
    EPOCH_LIFETIME,
    Backend,
    Change,
    CountsEpochs,
    Create,
    Delete,
    Millis,
    ReadsInPlace,
    Record,
    ServesCopies,
    Transactional,
    Update,
    WouldWaitError,
    make_changes,
)
from powauth.testing.backend.suite import MINUTE, NOW, TTL, Suite, scenario
from powauth.testing.stepping import Race

_ABSENT = object()


class InPlaceTests(Suite):
    """Tests of `ReadsInPlace` and `ServesCopies`."""

    def _in_place(self, backend: Backend) -> ReadsInPlace:
        """Return the backend; skip the test if it lacks the ability."""
        if not isinstance(backend, ReadsInPlace):
            raise SkipTest("this backend does not read in place: it is no ReadsInPlace")
        return backend

    async def _peek(self, backend: Backend, key: bytes, now: Millis) -> object:
        """Return the result of `ReadsInPlace.peek` after a `get`, which some backends need first."""
        in_place = self._in_place(backend)
        await backend.get(key, now)
        try:
            return in_place.peek(key, now)
        except WouldWaitError:
            return _ABSENT

    async def _seen(self, backend: Backend, key: bytes, now: Millis) -> object:
        """Return the result of ``peek`` for an existing record. Skip the test if it never sees the record."""
        await self._peek(backend, key, now)
        seen = await self._peek(backend, key, now)  # some backends see nothing before the second read
        if seen is _ABSENT:
            raise SkipTest("this backend does not read in place as it is set up: its peek always raises WouldWaitError")
        return seen

    def _assert_unseen(self, backend: Backend, key: bytes, now: Millis) -> None:
        try:
            assert self._in_place(backend).peek(key, now) is None, "peek still serves a record that is gone"
        except WouldWaitError:
            return

    @scenario
    async def test_what_can_be_seen_is_the_same_until_somebody_writes(self, backend: Backend) -> None:
        in_place, record = self._in_place(backend), self.record()
        assert await backend.create(record, None, NOW)
        await self._seen(backend, record.key, NOW)
        seen: list[object] = []
        for version in range(1, 4):
            now_seen = await self._peek(backend, record.key, NOW)
            if now_seen is not _ABSENT:
                assert now_seen is not None
                assert now_seen == in_place.peek(record.key, NOW + 1)
                assert now_seen not in seen
                seen.append(now_seen)
                assert in_place.record_of(record.key, now_seen, NOW) == await backend.get(record.key, NOW)
            assert await backend.update(self.record(version=version, value=b"changed"), version - 1, NOW)

    @scenario
    async def test_what_was_seen_expires_to_the_millisecond(self, backend: Backend) -> None:
        in_place, record = self._in_place(backend), self.record()
        assert await backend.create(record, None, NOW)
        seen = await self._seen(backend, record.key, NOW)
        assert in_place.record_of(record.key, seen, record.expires_at - 1) == record
        for now in (record.expires_at, record.expires_at + TTL):
            try:
                assert in_place.get_at_once(record.key, now) is None
            except WouldWaitError:
                continue

    @scenario
    async def test_rep_60_nothing_is_seen_of_a_record_once_it_is_gone(self, backend: Backend) -> None:
        record, kept = self.record(b"a"), self.record(b"b")
        removals: list[Callable[[], Coroutine[Any, Any, object]]] = [
            lambda: backend.delete_owner(record.owner, NOW),
            lambda: backend.delete_owner(record.owner, NOW, keep=kept.key),
            lambda: backend.delete(record.key, NOW),
            lambda: make_changes(backend, [Delete(record.key)], NOW),
        ]
        for remove in removals:
            for each in (record, kept):
                await backend.create(each, None, NOW)
                await self._seen(backend, each.key, NOW)
            assert await remove()
            self._assert_unseen(backend, record.key, NOW)
            assert await self.find(backend, record.key, NOW) is None
            left = await backend.list(record.owner, NOW)
            assert left in ([], [kept])
            assert await self.find(backend, kept.key, NOW) == (kept if left else None)

    @scenario
    async def test_rep_60_nothing_is_seen_of_many_records_once_they_are_revoked(self, backend: Backend) -> None:
        records = [self.record(b"%d" % number) for number in range(30)]
        for record in records:
            assert await backend.create(record, None, NOW)
        for record in records:
            await self._seen(backend, record.key, NOW)
        assert await backend.delete_owner(self.owner(), NOW) == len(records)
        for record in records:
            self._assert_unseen(backend, record.key, NOW)
            assert await self.find(backend, record.key, NOW) is None

    @scenario
    async def test_no_older_state_is_seen_of_a_record_after_a_change(self, backend: Backend) -> None:
        old = self.record(value=b"old")
        assert await backend.create(old, None, NOW)
        await self._seen(backend, old.key, NOW)
        updated = self.record(version=1, value=b"updated", expires_at=NOW + MINUTE)
        changed = self.record(version=2, value=b"changed", expires_at=NOW + MINUTE)
        assert await backend.update(updated, 0, NOW)
        assert await self.find(backend, old.key, NOW) == updated
        assert await make_changes(backend, [Update(changed, 1)], NOW) == 1
        assert await self.find(backend, old.key, NOW) == changed
        later = NOW + MINUTE
        replaced = self.record(value=b"new", created_at=later, expires_at=later + TTL)
        assert await backend.create(replaced, None, later)
        assert await self.find(backend, old.key, later) == replaced
        assert await backend.delete(old.key, later)
        again = self.record(value=b"again", created_at=later, expires_at=later + TTL)
        assert await make_changes(backend, [Create(again)], later) == 1
        assert await self.find(backend, old.key, later) == again

    @scenario
    async def test_a_backend_that_serves_no_copies_sees_in_place_what_others_write(self, backend: Backend) -> None:
        in_place = self._in_place(backend)
        if isinstance(backend, ServesCopies):
            raise SkipTest("this backend serves copies, so it need not see at once what others write")
        other = self.second(backend)
        try:
            record = self.record()
            assert await backend.create(record, None, NOW)
            await self._seen(backend, record.key, NOW)
            renewed = msgspec.structs.replace(record, version=1)
            assert await other.update(renewed, 0, NOW)
            assert in_place.get_at_once(record.key, NOW) == renewed
            assert await other.delete_owner(record.owner, NOW) == 1
            assert in_place.get_at_once(record.key, NOW) is None
            assert await other.create(record, None, NOW)
            assert in_place.get_at_once(record.key, NOW) == record
        finally:
            await other.close()

    # Copies

    @scenario
    async def test_a_fresh_read_sees_what_others_write(self, backend: Backend) -> None:
        if not isinstance(backend, ServesCopies):
            raise SkipTest("this backend serves no copies: it is no ServesCopies")
        other = self.second(backend)
        try:
            record = self.record()
            assert await backend.create(record, None, NOW)
            for _ in range(2):
                assert await backend.get(record.key, NOW) == record
            renewed = msgspec.structs.replace(record, version=1)
            assert await other.update(renewed, 0, NOW)
            assert await backend.get_fresh(record.key, NOW) == renewed
            assert await other.delete_owner(record.owner, NOW) == 1
            assert await backend.get_fresh(record.key, NOW) is None
        finally:
            await other.close()


class LatestEpochTests(Suite):
    """Tests of `CountsEpochs`."""

    async def _latest(self, backend: Backend, now: Millis = NOW) -> int:
        if not isinstance(backend, CountsEpochs):
            raise SkipTest("this backend has no count common to all owners: it is no CountsEpochs")
        latest = await backend.latest_epoch(now)
        assert type(latest) is int
        return latest

    @scenario
    async def test_the_latest_epoch_serves_whoever_the_owner_is(self, backend: Backend) -> None:
        latest = await self._latest(backend)
        mine, others = self.record(b"a"), self.record(b"b", self.owner("2"))
        assert await backend.create(mine, latest, NOW) is True
        assert await backend.delete_owner(others.owner, NOW) == 0
        assert await backend.create(others, latest, NOW) is False
        assert await backend.create(self.record(b"c"), latest, NOW) is True
        later = await self._latest(backend)
        assert later > latest
        assert await backend.create(others, later, NOW) is True
        assert await backend.epoch(self.owner(), NOW, advance=True) > later
        assert await backend.create(self.record(b"d"), later, NOW) is False
        assert await backend.create(self.record(b"d"), await self._latest(backend), NOW) is True

    @scenario
    async def test_no_epoch_is_above_the_latest(self, backend: Backend) -> None:
        await self._latest(backend)
        for number in range(5):
            owner = self.owner(str(number % 3))
            moved = await backend.epoch(owner, NOW, advance=True)
            latest = await self._latest(backend)
            assert moved <= latest
            assert await backend.create(self.record(b"%d" % number, owner), latest + 1, NOW) is False

    @scenario
    async def test_the_latest_epoch_is_never_given_again(self, backend: Backend) -> None:
        await self._latest(backend)
        await backend.delete_owner(self.owner(), NOW + MINUTE)
        later = await self._latest(backend, NOW + MINUTE)
        now = NOW + 3 * EPOCH_LIFETIME
        await self.drain(backend, now)
        assert await self._latest(backend, now) == later
        # This also holds if the clock was set back, or if the owner has had no epoch yet.
        for owner in (self.owner(), self.owner("2")):
            moved = await backend.epoch(owner, NOW, advance=True)
            assert moved > later
            assert await backend.create(self.record(b"a", owner), later, NOW) is False
            later = await self._latest(backend)

    @scenario
    async def test_sto_05_no_create_with_the_latest_epoch_slips_past_delete_owner(self, backend: Backend) -> None:
        epoch = await self._latest(backend)
        records = [self.record(b"%d" % number) for number in range(self.contenders)]

        async def create(record: Record) -> int:
            return -await make_changes(backend, [Create(record, epoch)], NOW)

        starts: list[Callable[[], Coroutine[Any, Any, int]]] = [lambda r=record: create(r) for record in records]  # type: ignore[misc]
        starts.insert(len(starts) // 2, lambda: backend.delete_owner(self.owner(), NOW))
        assert sum(await self.race(backend, starts)) == 0, "as many went as had been created"
        assert await backend.list(self.owner(), NOW) == []

    @scenario
    async def test_no_step_of_delete_owner_lets_a_create_with_the_latest_epoch_slip_past(
        self, backend: Backend
    ) -> None:
        await self._latest(backend)

        async def prepare(owner: bytes) -> Race[int, bool]:
            record = self.record(owner=owner)
            assert await backend.create(self.record(b"old", owner), None, NOW)
            latest = await self._latest(backend)

            async def check(went: int, created: bool) -> None:
                assert went == 1 + created
                assert await backend.list(owner, NOW) == []

            return Race(lambda: backend.delete_owner(owner, NOW), lambda: backend.create(record, latest, NOW), check)

        await self.at_each_step(backend, prepare)


class TransactionTests(Suite):
    """Tests of `Transactional`."""

    def _transactional(self, backend: Backend) -> Transactional:
        """Return the backend; skip the test if it lacks the ability."""
        if not isinstance(backend, Transactional):
            raise SkipTest("this backend makes no transaction of several changes: it is no Transactional")
        return backend

    @scenario
    async def test_changes_are_made_in_order_up_to_the_first_that_cannot_be(self, backend: Backend) -> None:
        transactional = self._transactional(backend)
        a, b, c = (self.record(name) for name in (b"a", b"b", b"c"))
        changed = msgspec.structs.replace(a, version=1, value=b"changed")
        assert await transactional.change([], NOW) == 0
        assert await transactional.change([Create(a), Create(b, await backend.epoch(b.owner, NOW))], NOW) == 2
        assert await transactional.change([Update(changed, 0), Delete(b.key), Create(c)], NOW) == 3
        assert await self.find(backend, a.key, NOW) == changed
        assert await self.find(backend, b.key, NOW) is None
        assert await self.find(backend, c.key, NOW) == c
        fails: Change
        for fails in (Create(c), Update(changed, 0), Delete(self.record(b"d").key)):
            assert await transactional.change([fails, Delete(c.key)], NOW) == 0
            assert await self.find(backend, c.key, NOW) == c
            assert await transactional.change([Create(b), fails, Delete(c.key)], NOW) == 1
            assert await backend.list(self.owner(), NOW) == [c, b, changed]
            assert await backend.delete(b.key, NOW) is True

    @scenario
    async def test_changes_see_those_before_them_and_ask_for_the_epoch(self, backend: Backend) -> None:
        transactional = self._transactional(backend)
        record, epoch = self.record(), await backend.epoch(self.owner(), NOW)
        changed = msgspec.structs.replace(record, version=1, value=b"changed")
        changes: list[Change] = [
            Create(record, epoch),
            Update(changed, 0),
            Delete(record.key),
            Create(record, epoch),
        ]
        assert await transactional.change(changes, NOW) == 4
        assert await self.find(backend, record.key, NOW) == record
        await backend.delete_owner(self.owner(), NOW)
        assert await transactional.change([Create(record, epoch), Create(self.record(b"b"))], NOW) == 0
        assert await backend.list(self.owner(), NOW) == []

    @scenario
    async def test_a_reader_sees_all_changes_of_a_transaction_or_none(self, backend: Backend) -> None:
        transactional = self._transactional(backend)

        async def prepare(owner: bytes) -> Race[int, list[Record]]:
            old, a, b = (self.record(name, owner) for name in (b"old", b"a", b"b"))
            changed = msgspec.structs.replace(a, version=1)
            assert await backend.create(old, None, NOW)

            async def check(made: int, seen: list[Record]) -> None:
                assert made == 4
                assert seen in ([old], [b, changed])

            return Race(
                lambda: transactional.change([Create(a), Delete(old.key), Update(changed, 0), Create(b)], NOW),
                lambda: backend.list(owner, NOW),
                check,
            )

        await self.at_each_step(backend, prepare)

    @scenario
    async def test_no_step_of_a_transaction_lets_its_creates_slip_past_delete_owner(self, backend: Backend) -> None:
        transactional = self._transactional(backend)

        async def prepare(owner: bytes) -> Race[int, int]:
            epoch = await backend.epoch(owner, NOW)
            a, b = (self.record(name, owner) for name in (b"a", b"b"))

            async def check(made: int, went: int) -> None:
                assert made == went
                assert made in {0, 2}
                assert await backend.list(owner, NOW) == []

            return Race(
                lambda: transactional.change([Create(a, epoch), Create(b, epoch)], NOW),
                lambda: backend.delete_owner(owner, NOW),
                check,
            )

        await self.at_each_step(backend, prepare)


class AbilityTests(InPlaceTests, LatestEpochTests, TransactionTests):
    """Tests of all abilities."""
