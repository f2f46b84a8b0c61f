"""Tests of `purge`, `scan` and `count`."""

# ruff: noqa: D102 the name of a test is its sentence

import msgspec

from powauth.backends.base import Backend, make_owner
from powauth.testing.backend.suite import MINUTE, NOW, TTL, Suite, scenario


class AdministrationTests(Suite):
    """Verbs for the whole store."""

    @scenario
    async def test_purge_removes_what_expired_and_nothing_that_lives(self, backend: Backend) -> None:
        dying = [
            self.record(b"d%d" % number, self.owner(str(number % 7)), expires_at=NOW + MINUTE + number)
            for number in range(25)
        ]
        living = [self.record(b"l%d" % number, self.owner(str(number % 7))) for number in range(10)]
        for record in [*dying, *living]:
            assert await backend.create(record, None, NOW)
        assert await self.drain(backend, NOW + MINUTE - 1) == 0
        await self.expect_purged(backend, dying, NOW + MINUTE + 24)
        for record in living:
            assert await self.find(backend, record.key, NOW) == record
            assert record in await backend.list(record.owner, NOW)
        if not self.engine_expires:
            assert await backend.count(self.namespace, NOW) == 10

    @scenario
    async def test_purge_removes_no_more_than_its_limit(self, backend: Backend) -> None:
        for number in range(7):
            assert await backend.create(self.record(b"%d" % number, expires_at=NOW + MINUTE), None, NOW)
        steps = [await backend.purge(3, NOW + MINUTE) for _ in range(4)]
        assert all(0 <= step <= 3 for step in steps)
        assert sum(steps) <= 7
        if not self.engine_expires:
            assert steps == [3, 3, 1, 0]

    @scenario
    async def test_purge_does_not_count_what_was_deleted_before(self, backend: Backend) -> None:
        for number in range(6):
            assert await backend.create(self.record(b"%d" % number, expires_at=NOW + MINUTE), None, NOW)
        for number in range(4):
            assert await backend.delete(self.record(b"%d" % number).key, NOW)
        left = [self.record(b"%d" % number, expires_at=NOW + MINUTE) for number in (4, 5)]
        await self.expect_purged(backend, left, NOW + MINUTE)

    @scenario
    async def test_purge_follows_many_renewals(self, backend: Backend) -> None:
        record = self.record(expires_at=NOW + MINUTE)
        assert await backend.create(record, None, NOW)
        for version in range(1, 30):
            now = NOW + version * (MINUTE // 2)
            record = msgspec.structs.replace(record, version=version, expires_at=now + MINUTE)
            assert await backend.update(record, version - 1, now)
            assert await self.drain(backend, now) == 0
            assert await self.find(backend, record.key, now) == record
        await self.expect_purged(backend, [record], record.expires_at)

    @scenario
    async def test_scan_sees_every_live_record_of_its_namespace_alone(self, backend: Backend) -> None:
        suffixes = ("", "1", ".x", "_x", "-x", "xx", "X", "x")  # "." and "_" are wildcards to some engines
        names = [self.namespace + suffix for suffix in suffixes]
        records = {
            name: [self.record(b"%d" % number, make_owner(name, str(number % 5))) for number in range(20)]
            for name in names
        }
        for batch in records.values():
            for record in batch:
                assert await backend.create(record, None, NOW)
        gone = self.record(b"gone", expires_at=NOW + MINUTE)
        assert await backend.create(gone, None, NOW)
        now = NOW + MINUTE
        for name in names:
            for limit in (1, 3, 20, 1000):
                seen = await self.walk(backend, name, now, limit)
                assert {record.key: record for record in seen} == {record.key: record for record in records[name]}
            assert await backend.count(name, now) == 20
        assert await self.walk(backend, self.namespace + "2") == []
        assert await backend.count(self.namespace + "2", now) == 0
        assert await backend.count(self.namespace[:-1], now) == 0

    @scenario
    async def test_scan_sees_what_stays_while_other_records_come_and_go(self, backend: Backend) -> None:
        staying = [self.record(b"s%d" % number, self.owner(str(number))) for number in range(20)]
        leaving = [self.record(b"l%d" % number, self.owner(str(number))) for number in range(20)]
        for record in [*staying, *leaving]:
            assert await backend.create(record, None, NOW)
        coming = 0

        async def meanwhile(backend: Backend) -> None:
            nonlocal coming
            for _ in range(2):
                if leaving:
                    assert await backend.delete(leaving.pop().key, NOW)
                if coming < 40:
                    coming += 1
                    newcomer = self.record(b"c%d" % coming, self.owner(f"c{coming}"))
                    assert await backend.create(newcomer, None, NOW)

        seen = await self.walk(backend, self.namespace, meanwhile=meanwhile)
        assert {record.key for record in staying} <= {record.key for record in seen}

    @scenario
    async def test_scan_misses_nothing_if_what_it_has_shown_goes(self, backend: Backend) -> None:
        records = [self.record(b"%d" % number, self.owner(str(number))) for number in range(20)]
        for record in records:
            assert await backend.create(record, None, NOW)
        seen: set[bytes] = set()
        cursor: str | None = None
        while True:
            page = await backend.scan(self.namespace, cursor, 3, NOW)
            for record in page.records:
                seen.add(record.key)
                await backend.delete(record.key, NOW)  # a page may repeat a record
            cursor = page.cursor
            if cursor is None:
                break
        assert seen == {record.key for record in records}

    @scenario
    async def test_scan_sees_what_is_renewed_meanwhile(self, backend: Backend) -> None:
        records = [self.record(b"%d" % turn, self.owner(str(turn)), expires_at=NOW + TTL + turn) for turn in range(20)]
        for record in records:
            assert await backend.create(record, None, NOW)
        left = list(records)

        async def meanwhile(backend: Backend) -> None:
            for _ in range(4):
                if left:
                    record = left.pop(0)
                    renewed = msgspec.structs.replace(record, version=1, expires_at=record.expires_at + TTL)
                    assert await backend.update(renewed, 0, NOW)

        seen = await self.walk(backend, self.namespace, meanwhile=meanwhile)
        assert {record.key for record in seen} == {record.key for record in records}

    @scenario
    async def test_no_page_of_a_scan_is_longer_than_the_limit(self, backend: Backend) -> None:
        for number in range(20):
            assert await backend.create(self.record(b"%d" % number, self.owner(str(number))), None, NOW)
        for limit in (1, 3, 7, 20, 100):
            cursor: str | None = None
            while True:
                page = await backend.scan(self.namespace, cursor, limit, NOW)
                assert len(page.records) <= limit
                cursor = page.cursor
                if cursor is None:
                    break

    @scenario
    async def test_a_cursor_that_no_page_came_with_is_refused(self, backend: Backend) -> None:
        assert await backend.create(self.record(), None, NOW)
        for cursor in ("", "garbage", "no cursor", "\N{SNOWMAN}"):
            says = None
            try:
                await backend.scan(self.namespace, cursor, 3, NOW)
            except ValueError as error:
                says = str(error)
            assert says is not None, f"the cursor {cursor!r} is not refused"
            assert "cursor" in says, f"the error of the cursor {cursor!r} does not name it: {says}"
