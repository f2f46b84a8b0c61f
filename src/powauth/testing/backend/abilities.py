"""Tests of what a backend may offer beyond the verbs. Where it does not, they are skipped and say so."""

# ruff: noqa: D102 the name of a test is its sentence

from collections.abc import Callable, Coroutine
from typing import Any
from unittest import SkipTest

import msgspec

from powauth.backends.base import EPOCH_LIFETIME, Backend, Create, Delete, Millis, Record, Update, WouldWaitError
from powauth.testing.backend.suite import MINUTE, NOW, TTL, Suite, scenario
from powauth.testing.stepping import Race

_ABSENT = object()


class AbilityTests(Suite):
    """Reads in place (`Backend.peek`), a common count of epochs (`latest_epoch`), transactions (`change`)."""

    # Reads in place

    async def _peek(self, backend: Backend, key: bytes, now: Millis) -> object:
        """Return what `Backend.peek` has after a `get`, which some backends need before."""
        await backend.get(key, now)
        try:
            return backend.peek(key, now)
        except WouldWaitError:
            return _ABSENT

    async def _seen(self, backend: Backend, key: bytes, now: Millis) -> object:
        """Return what `Backend.peek` sees of a record that is there; skip the test if it never sees anything."""
        await self._peek(backend, key, now)
        seen = await self._peek(backend, key, now)  # some see nothing before the second read
        if seen is _ABSENT:
            raise SkipTest("this backend does not read in place: its peek always raises WouldWaitError")
        return seen

    def _assert_unseen(self, backend: Backend, key: bytes, now: Millis) -> None:
        try:
            assert backend.peek(key, now) is None, "peek still serves a record that is gone"
        except WouldWaitError:
            return

    @scenario
    async def test_what_can_be_seen_is_the_same_until_somebody_writes(self, backend: Backend) -> None:
        record = self.record()
        assert await backend.create(record, None, NOW)
        await self._seen(backend, record.key, NOW)
        seen: list[object] = []
        for version in range(1, 4):
            now_seen = await self._peek(backend, record.key, NOW)
            if now_seen is not _ABSENT:
                assert now_seen is not None
                assert now_seen == backend.peek(record.key, NOW + 1)
                assert now_seen not in seen
                seen.append(now_seen)
                assert backend.record_of(record.key, now_seen, NOW) == await backend.get(record.key, NOW)
            assert await backend.update(self.record(version=version, value=b"changed"), version - 1, NOW)

    @scenario
    async def test_what_was_seen_expires_to_the_millisecond(self, backend: Backend) -> None:
        record = self.record()
        assert await backend.create(record, None, NOW)
        seen = await self._seen(backend, record.key, NOW)
        assert backend.record_of(record.key, seen, record.expires_at - 1) == record
        for now in (record.expires_at, record.expires_at + TTL):
            try:
                assert backend.get_at_once(record.key, now) is None
            except WouldWaitError:
                continue

    @scenario
    async def test_rep_60_nothing_is_seen_of_a_record_once_it_is_gone(self, backend: Backend) -> None:
        record, kept = self.record(b"a"), self.record(b"b")
        removals: list[Callable[[], Coroutine[Any, Any, object]]] = [
            lambda: backend.delete_owner(record.owner, NOW),
            lambda: backend.delete_owner(record.owner, NOW, keep=kept.key),
            lambda: backend.delete(record.key, NOW),
            lambda: backend.change([Delete(record.key)], NOW),
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
        assert await backend.change([Update(changed, 1)], NOW) == 1
        assert await self.find(backend, old.key, NOW) == changed
        later = NOW + MINUTE
        replaced = self.record(value=b"new", created_at=later, expires_at=later + TTL)
        assert await backend.create(replaced, None, later)
        assert await self.find(backend, old.key, later) == replaced
        assert await backend.delete(old.key, later)
        again = self.record(value=b"again", created_at=later, expires_at=later + TTL)
        assert await backend.change([Create(again)], later) == 1
        assert await self.find(backend, old.key, later) == again

    @scenario
    async def test_a_backend_that_reads_at_once_sees_what_others_write(self, backend: Backend) -> None:
        if not backend.reads_at_once:
            raise SkipTest("this backend does not say that it reads the engine itself in place (reads_at_once)")
        other = self.second(backend)
        try:
            record = self.record()
            assert await backend.create(record, None, NOW)
            await self._seen(backend, record.key, NOW)
            renewed = msgspec.structs.replace(record, version=1)
            assert await other.update(renewed, 0, NOW)
            assert backend.get_at_once(record.key, NOW) == renewed
            assert await other.delete_owner(record.owner, NOW) == 1
            assert backend.get_at_once(record.key, NOW) is None
            assert await other.create(record, None, NOW)
            assert backend.get_at_once(record.key, NOW) == record
        finally:
            await other.close()

    # A common count of epochs

    async def _latest(self, backend: Backend, now: Millis = NOW) -> int:
        latest = await backend.latest_epoch(now)
        if latest is None:
            raise SkipTest("this backend has no count common to all owners: its latest_epoch is None")
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
        # Nor if the clock has been set back, or if the owner has had no epoch yet.
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
            return -await backend.change([Create(record, epoch)], NOW)

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

    # Transactions

    def _is_transactional(self, backend: Backend) -> None:
        if not backend.changes_at_once:
            raise SkipTest("this backend makes no transaction of several changes (changes_at_once)")

    @scenario
    async def test_a_reader_sees_all_changes_of_a_transaction_or_none(self, backend: Backend) -> None:
        self._is_transactional(backend)

        async def prepare(owner: bytes) -> Race[int, list[Record]]:
            old, a, b = (self.record(name, owner) for name in (b"old", b"a", b"b"))
            changed = msgspec.structs.replace(a, version=1)
            assert await backend.create(old, None, NOW)

            async def check(made: int, seen: list[Record]) -> None:
                assert made == 4
                assert seen in ([old], [b, changed])

            return Race(
                lambda: backend.change([Create(a), Delete(old.key), Update(changed, 0), Create(b)], NOW),
                lambda: backend.list(owner, NOW),
                check,
            )

        await self.at_each_step(backend, prepare)

    @scenario
    async def test_no_step_of_a_transaction_lets_its_creates_slip_past_delete_owner(self, backend: Backend) -> None:
        self._is_transactional(backend)

        async def prepare(owner: bytes) -> Race[int, int]:
            epoch = await backend.epoch(owner, NOW)
            a, b = (self.record(name, owner) for name in (b"a", b"b"))

            async def check(made: int, went: int) -> None:
                assert made == went
                assert made in {0, 2}
                assert await backend.list(owner, NOW) == []

            return Race(
                lambda: backend.change([Create(a, epoch), Create(b, epoch)], NOW),
                lambda: backend.delete_owner(owner, NOW),
                check,
            )

        await self.at_each_step(backend, prepare)
