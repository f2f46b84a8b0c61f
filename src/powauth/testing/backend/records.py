"""Tests of single records: `create`, `get`, `update`, `delete`, and the ways to read."""

# ruff: noqa: D102 the name of a test is its sentence

import msgspec

from powauth.backends.base import Backend, Millis, Record
from powauth.testing.backend.suite import MINUTE, NOW, TTL, Suite, scenario


class RecordTests(Suite):
    """One record under one key."""

    @scenario
    async def test_what_was_created_is_read_back_unchanged(self, backend: Backend) -> None:
        record = self.record(version=3, created_at=NOW - 5)
        assert await backend.create(record, None, NOW) is True
        assert await self.find(backend, record.key, NOW) == record

    @scenario
    async def test_every_way_to_read_says_the_same(self, backend: Backend) -> None:
        record = self.record()

        async def check(found: Record | None, now: Millis) -> None:
            assert await self.find(backend, record.key, now) == found

        await check(None, NOW)
        assert await backend.create(record, None, NOW)
        await check(record, NOW)
        await check(None, record.expires_at)
        changed = self.record(version=1, expires_at=record.expires_at + TTL)
        if await backend.update(changed, 0, NOW):  # unless a read removed it as expired
            await check(changed, NOW)
            assert await backend.delete(record.key, NOW)
        await check(None, NOW)

    @scenario
    async def test_absence_is_an_answer_and_not_an_error(self, backend: Backend) -> None:
        record = self.record()
        assert await self.find(backend, record.key, NOW) is None
        assert await backend.update(record, 0, NOW) is False
        assert await backend.delete(record.key, NOW) is False
        assert await backend.list(record.owner, NOW) == []
        assert await backend.delete_owner(record.owner, NOW) == 0
        assert await backend.delete_owner(record.owner, NOW, keep=record.key) == 0
        assert await backend.purge(10, NOW) == 0
        assert await self.walk(backend, self.namespace) == []
        assert await backend.count(self.namespace, NOW) == 0

    @scenario
    async def test_create_refuses_a_key_that_holds_a_live_record(self, backend: Backend) -> None:
        record = self.record(value=b"first")
        assert await backend.create(record, None, NOW)
        late = record.expires_at - 1
        other = self.record(value=b"second", version=7, created_at=late, expires_at=late + TTL)
        assert await backend.create(other, None, late) is False
        assert await self.find(backend, record.key, late) == record
        assert await backend.list(record.owner, late) == [record]

    @scenario
    async def test_create_takes_the_place_of_an_expired_record(self, backend: Backend) -> None:
        old = self.record(value=b"old", version=9)
        assert await backend.create(old, None, NOW)
        now = old.expires_at
        new = self.record(value=b"new", created_at=now, expires_at=now + TTL)
        assert await backend.create(new, None, now) is True
        assert await self.find(backend, new.key, now) == new
        assert await backend.list(new.owner, now) == [new]
        await self.drain(backend, now)
        assert await self.find(backend, new.key, now) == new
        assert await backend.list(new.owner, now) == [new]

    @scenario
    async def test_create_after_delete_starts_afresh(self, backend: Backend) -> None:
        old = self.record(value=b"old", expires_at=NOW + MINUTE)
        new = self.record(value=b"new", created_at=NOW + 1)
        assert await backend.create(old, None, NOW)
        assert await backend.delete(old.key, NOW)
        assert await backend.create(new, None, NOW + 1) is True
        assert await backend.list(new.owner, NOW + 1) == [new]
        assert await self.drain(backend, NOW + 2 * MINUTE) == 0
        assert await self.find(backend, new.key, NOW + 2 * MINUTE) == new

    @scenario
    async def test_sto_06_get_counts_expired_as_absent_before_any_sweep(self, backend: Backend) -> None:
        record = self.record()
        assert await backend.create(record, None, NOW)
        assert await self.find(backend, record.key, record.expires_at - 1) == record
        assert await self.find(backend, record.key, record.expires_at) is None
        assert await self.find(backend, record.key, record.expires_at + TTL) is None

    @scenario
    async def test_rep_61_an_expiry_is_exact_to_the_millisecond(self, backend: Backend) -> None:
        second = NOW - NOW % 1_000 + MINUTE
        records = [
            self.record(b"%d" % expires_at, self.owner(f"{expires_at}"), expires_at=expires_at)
            for expires_at in (second, second + 1, second + 499, second + 500, second + 999)
        ]
        for record in records:
            assert await backend.create(record, None, NOW)
        for position, record in enumerate(records):
            last, renewed = record.expires_at - 1, msgspec.structs.replace(record, version=1)
            assert await self.find(backend, record.key, last) == record
            assert await backend.list(record.owner, last) == [record]
            assert await backend.count(self.namespace, last) == len(records) - position
            assert record in await self.walk(backend, self.namespace, last)
            assert await backend.create(renewed, None, last) is False
            assert await self.drain(backend, last) == 0
            assert await backend.update(renewed, 0, last) is True
            assert await self.find(backend, record.key, record.expires_at) is None
            assert await backend.list(record.owner, record.expires_at) == []
            assert await backend.count(self.namespace, record.expires_at) == len(records) - position - 1
            assert renewed not in await self.walk(backend, self.namespace, record.expires_at)
            assert await backend.update(renewed, 1, record.expires_at) is False
            await backend.purge(10, record.expires_at)

    @scenario
    async def test_rep_61_a_removal_counts_what_lives_to_the_millisecond(self, backend: Backend) -> None:
        second = NOW - NOW % 1_000 + MINUTE
        for expires_at in (second, second + 1, second + 500, second + 999):
            for now, live in ((expires_at - 1, 1), (expires_at, 0)):
                record = self.record(owner=self.owner(f"{expires_at}.{live}"), expires_at=expires_at)
                assert await backend.create(record, None, NOW)
                assert await backend.delete(record.key, now) is bool(live)
                assert await backend.create(record, None, NOW)
                assert await backend.delete_owner(record.owner, now) == live

    @scenario
    async def test_every_verb_counts_expired_as_absent_before_any_sweep(self, backend: Backend) -> None:
        names = [b"a", b"b", b"c", b"d", b"e", b"f"]
        for name in names:
            assert await backend.create(self.record(name), None, NOW)
        now = NOW + TTL
        assert await backend.count(self.namespace, now) == 0
        assert await self.walk(backend, self.namespace, now) == []
        assert await backend.list(self.owner(), now) == []
        renewed = self.record(b"a", version=1, expires_at=now + TTL)
        assert await backend.update(renewed, 0, now) is False
        assert await self.find(backend, renewed.key, now) is None
        assert await backend.delete(self.record(b"b").key, now) is False
        assert await backend.delete_owner(self.owner(), now) == 0

    @scenario
    async def test_a_record_born_expired_is_never_seen(self, backend: Backend) -> None:
        for expires_at in (NOW, NOW - 1, NOW - TTL):
            record = self.record(created_at=NOW - 2 * TTL, expires_at=expires_at)
            await backend.create(record, None, NOW)
            assert await self.find(backend, record.key, NOW) is None
            assert await backend.list(record.owner, NOW) == []
            assert await backend.count(self.namespace, NOW) == 0
        live = self.record()
        assert await backend.create(live, None, NOW) is True
        assert await self.find(backend, live.key, NOW) == live

    @scenario
    async def test_update_replaces_the_record_whose_version_is_expected(self, backend: Backend) -> None:
        first = self.record(version=4, value=b"four")
        second = msgspec.structs.replace(first, version=5, value=b"five", expires_at=first.expires_at + MINUTE)
        third = msgspec.structs.replace(second, version=6, value=b"")
        assert await backend.create(first, None, NOW)
        assert await backend.update(second, 4, NOW) is True
        assert await self.find(backend, first.key, NOW) == second
        assert await backend.update(third, 5, NOW) is True
        assert await self.find(backend, first.key, NOW) == third

    @scenario
    async def test_update_with_another_version_changes_nothing(self, backend: Backend) -> None:
        record = self.record(version=4)
        assert await backend.create(record, None, NOW)
        for expected in (0, 3, 5, -1):
            changed = msgspec.structs.replace(record, version=5, value=b"changed", expires_at=NOW + 2 * TTL)
            assert await backend.update(changed, expected, NOW) is False
            assert await self.find(backend, record.key, NOW) == record
        assert await self.find(backend, record.key, record.expires_at) is None

    @scenario
    async def test_update_never_creates(self, backend: Backend) -> None:
        record = self.record()
        changed = msgspec.structs.replace(record, version=1)
        assert await backend.update(changed, 0, NOW) is False
        assert await backend.create(record, None, NOW)
        assert await backend.delete(record.key, NOW)
        assert await backend.update(changed, 0, NOW) is False
        assert await self.find(backend, record.key, NOW) is None
        assert await backend.list(record.owner, NOW) == []
        assert await backend.count(self.namespace, NOW) == 0

    @scenario
    async def test_update_does_not_revive_an_expired_record(self, backend: Backend) -> None:
        record = self.record()
        assert await backend.create(record, None, NOW)
        now = record.expires_at
        assert await backend.update(self.record(version=1, expires_at=now + TTL), 0, now) is False
        assert await self.find(backend, record.key, now) is None
        assert await backend.list(record.owner, now) == []

    @scenario
    async def test_update_keeps_the_record_in_its_owners_list_and_order(self, backend: Backend) -> None:
        older = self.record(b"a", created_at=NOW)
        newer = self.record(b"b", created_at=NOW + 1)
        for record in (older, newer):
            assert await backend.create(record, None, NOW + 1)
        for version in range(1, 6):
            older = msgspec.structs.replace(older, version=version, expires_at=older.expires_at + MINUTE)
            assert await backend.update(older, version - 1, NOW + 1 + version)
            assert await backend.list(older.owner, NOW + 10) == [newer, older]
        assert await backend.count(self.namespace, NOW + 10) == 2
        assert await backend.delete_owner(older.owner, NOW + 10) == 2

    @scenario
    async def test_a_renewal_that_extends_the_life_is_honoured(self, backend: Backend) -> None:
        record = self.record(expires_at=NOW + MINUTE)
        assert await backend.create(record, None, NOW)
        longer = msgspec.structs.replace(record, version=1, expires_at=NOW + 3 * MINUTE)
        assert await backend.update(longer, 0, NOW)
        now = NOW + 2 * MINUTE
        assert await self.drain(backend, now) == 0
        assert await self.find(backend, record.key, now) == longer
        assert await backend.list(record.owner, now) == [longer]
        assert await backend.count(self.namespace, now) == 1
        now = longer.expires_at
        assert await self.find(backend, record.key, now - 1) == longer
        await self.expect_purged(backend, [longer], now)

    @scenario
    async def test_a_renewal_that_shortens_the_life_is_honoured(self, backend: Backend) -> None:
        record = self.record(expires_at=NOW + 3 * MINUTE)
        assert await backend.create(record, None, NOW)
        shorter = msgspec.structs.replace(record, version=1, expires_at=NOW + MINUTE)
        assert await backend.update(shorter, 0, NOW)
        now = shorter.expires_at
        assert await self.drain(backend, now - 1) == 0
        assert await self.find(backend, record.key, now - 1) == shorter
        assert await backend.list(record.owner, now) == []
        assert await backend.count(self.namespace, now) == 0
        await self.expect_purged(backend, [shorter], now)
        assert await self.drain(backend, NOW + 4 * MINUTE) == 0

    @scenario
    async def test_delete_tells_whether_a_live_record_existed(self, backend: Backend) -> None:
        record, other = self.record(b"a"), self.record(b"b")
        for each in (record, other):
            assert await backend.create(each, None, NOW)
        assert await backend.delete(record.key, NOW) is True
        assert await self.find(backend, record.key, NOW) is None
        assert await backend.list(record.owner, NOW) == [other]
        assert await backend.delete(record.key, NOW) is False
        assert await self.find(backend, other.key, NOW) == other

    @scenario
    async def test_delete_of_an_expired_record_finds_nothing(self, backend: Backend) -> None:
        record = self.record()
        assert await backend.create(record, None, NOW)
        assert await backend.delete(record.key, record.expires_at) is False
        assert await self.find(backend, record.key, record.expires_at) is None
