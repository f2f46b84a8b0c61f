"""Tests of one owner's records: `list` and `delete_owner`."""

# ruff: noqa: D102 the name of a test is its sentence

import msgspec

from powauth.backends.base import Backend, make_owner
from powauth.testing.backend.suite import MINUTE, NOW, TTL, Suite, scenario


class OwnerTests(Suite):
    """The records of one owner."""

    @scenario
    async def test_list_is_newest_first_and_ties_go_by_key_descending(self, backend: Backend) -> None:
        records = [
            self.record(name, created_at=NOW + offset)
            for name, offset in [(b"m", 0), (b"z", 1), (b"a", 1), (b"\xff", 1), (b"\x00", 1), (b"c", 2), (b"q", 0)]
        ]
        for record in records:
            assert await backend.create(record, None, NOW + 2)
        expected = sorted(records, key=lambda record: (record.created_at, record.key), reverse=True)
        assert await backend.list(self.owner(), NOW + 2) == expected

    @scenario
    async def test_list_holds_only_live_records(self, backend: Backend) -> None:
        short = self.record(b"a", expires_at=NOW + MINUTE)
        long = self.record(b"b", expires_at=NOW + TTL)
        for record in (short, long):
            assert await backend.create(record, None, NOW)
        assert await backend.list(self.owner(), NOW + MINUTE - 1) == [long, short]
        assert await backend.list(self.owner(), NOW + MINUTE) == [long]
        assert await backend.list(self.owner(), NOW + TTL) == []

    @scenario
    async def test_list_holds_only_the_owners_records(self, backend: Backend) -> None:
        owners = [
            make_owner(namespace, user_key)
            for namespace in (self.namespace, self.namespace + "1", self.namespace + ".a")
            for user_key in ("", "1", "10", "1:0", "1\x00", "*", "?", "a", "A", "a ", "é", "e\u0301")
        ]
        for owner in owners:
            assert await backend.create(self.record(owner[-8:], owner), None, NOW)
        for owner in owners:
            assert await backend.list(owner, NOW) == [self.record(owner[-8:], owner)]

    @scenario
    async def test_list_of_an_owner_with_many_records(self, backend: Backend) -> None:
        records = [self.record(b"%03d" % number, created_at=NOW + number) for number in range(150)]
        for record in records:
            assert await backend.create(record, None, NOW + 150)
        assert await backend.list(self.owner(), NOW + 150) == records[::-1]
        assert await backend.delete_owner(self.owner(), NOW + 150, keep=records[70].key) == 149
        assert await backend.list(self.owner(), NOW + 150) == [records[70]]

    @scenario
    async def test_delete_owner_removes_that_owners_records_alone(self, backend: Backend) -> None:
        mine = [self.record(name) for name in (b"a", b"b", b"c")]
        owners = [
            *(make_owner(self.namespace, user_key) for user_key in ("10", "1:", "*", "")),
            make_owner(self.namespace + "1", "1"),
        ]
        others = [self.record(b"other %d" % number, owner) for number, owner in enumerate(owners)]
        for record in [*mine, *others]:
            assert await backend.create(record, None, NOW)
        assert await backend.delete_owner(make_owner(self.namespace, "?"), NOW) == 0
        assert await backend.delete_owner(self.owner(), NOW) == 3
        for record in mine:
            assert await self.find(backend, record.key, NOW) is None
        assert await backend.list(self.owner(), NOW) == []
        for record in others:
            assert await self.find(backend, record.key, NOW) == record
            assert await backend.list(record.owner, NOW) == [record]
        assert await backend.delete_owner(make_owner(self.namespace, "*"), NOW) == 1
        assert await backend.count(self.namespace, NOW) == 3

    @scenario
    async def test_delete_owner_keeps_the_one_record_it_is_told_to_keep(self, backend: Backend) -> None:
        records = [self.record(name) for name in (b"a", b"b", b"c")]
        for record in records:
            assert await backend.create(record, None, NOW)
        earlier = await backend.epoch(self.owner(), NOW)
        assert await backend.delete_owner(self.owner(), NOW, keep=records[1].key) == 2
        assert await backend.list(self.owner(), NOW) == [records[1]]
        assert await self.find(backend, records[0].key, NOW) is None
        assert await self.find(backend, records[1].key, NOW) == records[1]
        assert await backend.epoch(self.owner(), NOW) != earlier
        renewed = msgspec.structs.replace(records[1], version=1)
        assert await backend.update(renewed, 0, NOW) is True
        assert await backend.delete_owner(self.owner(), NOW, keep=records[1].key) == 0
        assert await backend.delete_owner(self.owner(), NOW, keep=records[0].key) == 1
        assert await backend.list(self.owner(), NOW) == []

    @scenario
    async def test_delete_owner_keeps_nothing_that_is_another_owners(self, backend: Backend) -> None:
        mine, other = self.record(b"a"), self.record(b"b", self.owner("2"))
        for record in (mine, other):
            assert await backend.create(record, None, NOW)
        assert await backend.delete_owner(mine.owner, NOW, keep=other.key) == 1
        assert await self.find(backend, mine.key, NOW) is None
        assert await backend.list(mine.owner, NOW) == []
        assert await backend.list(other.owner, NOW) == [other]

    @scenario
    async def test_delete_owner_removes_what_has_expired_too(self, backend: Backend) -> None:
        # Otherwise a process whose clock is behind would still accept the record.
        short, long = self.record(b"a", expires_at=NOW + MINUTE), self.record(b"b")
        for record in (short, long):
            assert await backend.create(record, None, NOW)
        assert await backend.delete_owner(self.owner(), NOW + MINUTE) == 1
        assert await self.find(backend, short.key, NOW) is None
        assert await backend.list(self.owner(), NOW) == []

    @scenario
    async def test_delete_owner_counts_the_live_ones(self, backend: Backend) -> None:
        for name, lifetime in [(b"a", MINUTE), (b"b", MINUTE), (b"c", TTL), (b"d", TTL), (b"e", TTL)]:
            assert await backend.create(self.record(name, expires_at=NOW + lifetime), None, NOW)
        now = NOW + MINUTE
        assert await backend.delete_owner(self.owner(), now, keep=self.record(b"d").key) == 2
        assert await backend.list(self.owner(), now) == [self.record(b"d")]
