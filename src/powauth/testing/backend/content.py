"""Tests of hostile names and values, and of sizes."""

# ruff: noqa: D102 the name of a test is its sentence

import msgspec

from powauth.backends.base import MAX_OWNER_BYTES, MAX_VALUE_BYTES, Backend, make_owner, shard_of
from powauth.testing.backend.suite import NOW, Suite, scenario

HOSTILE = (
    b"",
    b"\x00",
    b"\x00\x00",
    b"\xff",
    b"\xff\xff\xff",
    b"a",
    b"A",
    b"a ",
    b"a\x00",
    b"ab",
    b"a:b",
    b"a*",
    b"a?",
    b"[a-z]",
    b"{a}",
    b"}{",
    b"%",
    b"_",
    b"\\",
    b"'; DROP TABLE sessions; --",
    b"../../etc/passwd",
    b"a\r\nDEL a\r\n",
    b"\xed\xa0\x80",
    bytes(range(48)),
)
"""Names that engines may misinterpret: delimiters, wildcards, letter case, trailing space, quotes, paths, NUL, half a
surrogate, and prefixes of other names."""


class ContentTests(Suite):
    """The content that records may have."""

    @scenario
    async def test_hostile_names_are_only_names(self, backend: Backend) -> None:
        records = [self.record(name, created_at=NOW + number, value=name) for number, name in enumerate(HOSTILE)]
        now = NOW + len(records)
        for record in records:
            assert await self.find(backend, record.key, now) is None
            assert await backend.create(record, None, now) is True
        for record in records:
            assert await self.find(backend, record.key, now) == record
        assert await backend.list(self.owner(), now) == records[::-1]
        assert await backend.count(self.namespace, now) == len(records)
        seen = await self.walk(backend, self.namespace, now)
        assert {record.key for record in seen} == {record.key for record in records}
        for number, record in enumerate(records):
            assert await backend.update(msgspec.structs.replace(record, version=1), 0, now) is True
            assert await backend.delete(record.key, now) is True
            assert len(await backend.list(self.owner(), now)) == len(records) - number - 1

    @scenario
    async def test_hostile_owners_are_only_owners(self, backend: Backend) -> None:
        prefix = make_owner(self.namespace, "")
        owners = [prefix + name for name in HOSTILE]
        epochs = [await backend.epoch(owner, NOW) for owner in owners]
        for owner, epoch in zip(owners, epochs, strict=True):
            assert await backend.create(self.record(owner[-8:], owner), epoch, NOW) is True
        for owner in owners:
            assert await backend.list(owner, NOW) == [self.record(owner[-8:], owner)]
        for owner in owners:
            assert await backend.delete_owner(owner, NOW) == 1
            assert await backend.list(owner, NOW) == []

    @scenario
    async def test_any_shard_will_do(self, backend: Backend) -> None:
        # The shard is a hash, so its bytes may contain any delimiter of an engine.
        records = [
            self.record(
                b"x", next(owner for owner in map(self.owner, map(str, range(100_000))) if byte in shard_of(owner))
            )
            for byte in (b"\x00", b"\xff", b"{", b"}", b":", b"*", b"\n", b"'", b"\\")
        ]
        unique = {record.key: record for record in records}
        for record in unique.values():
            assert await backend.create(record, await backend.epoch(record.owner, NOW), NOW) is True
        for record in unique.values():
            assert await self.find(backend, record.key, NOW) == record
            assert await backend.list(record.owner, NOW) == [record]
            assert await backend.delete_owner(record.owner, NOW) == 1

    @scenario
    async def test_values_and_owners_up_to_the_limits(self, backend: Backend) -> None:
        longest = make_owner(self.namespace, "").ljust(MAX_OWNER_BYTES - 1, b"\xff")
        namespace = self.namespace.ljust(63, "n")
        values = [b"", b"\x00", b"\xff" * 10, bytes(range(256)) * (MAX_VALUE_BYTES // 256)]
        records = [
            self.record(b"%d" % number, owner, value=value)
            for owner in (longest + b"0", longest + b"1", make_owner(namespace, "u" * 255))
            for number, value in enumerate(values)
        ]
        for record in records:
            assert await backend.create(record, None, NOW) is True
        for record in records:
            assert await self.find(backend, record.key, NOW) == record
        assert await backend.list(longest + b"0", NOW) == records[:4][::-1]
        smaller = msgspec.structs.replace(records[3], version=1, value=b"")
        assert await backend.update(smaller, 0, NOW) is True
        assert await self.find(backend, smaller.key, NOW) == smaller
        assert await backend.delete_owner(longest + b"1", NOW) == 4
        assert await backend.delete_owner(longest + b"0", NOW) == 4
        assert await backend.count(namespace, NOW) == 4

    @scenario
    async def test_large_numbers_are_kept(self, backend: Backend) -> None:
        end_of_9999 = 253_402_300_799_000
        record = self.record(version=2**40, expires_at=end_of_9999)
        assert await backend.create(record, None, NOW) is True
        assert await self.find(backend, record.key, end_of_9999 - 1) == record
        assert await backend.update(msgspec.structs.replace(record, version=2**40 + 1), 2**40, NOW) is True
        assert await backend.update(record, 2**40, NOW) is False
        assert await self.find(backend, record.key, end_of_9999) is None

    @scenario
    async def test_rep_61_no_page_of_many_records_is_cut(self, backend: Backend) -> None:
        records = [self.record(b"%05d" % number, created_at=NOW + number) for number in range(self.many)]
        others = [self.record(b"%d" % number, self.owner("2")) for number in range(3)]
        now = NOW + self.many
        await self.fill(backend, records + others, now)
        total = self.many + len(others)
        assert await backend.list(self.owner(), now) == records[::-1]
        assert await backend.count(self.namespace, now) == total
        for limit in (100, total, 10 * total):
            seen = await self.walk(backend, self.namespace, now, limit)
            assert {record.key for record in seen} == {record.key for record in records + others}
        kept = records[self.many // 2]
        assert await backend.delete_owner(self.owner(), now, keep=kept.key) == self.many - 1
        assert await backend.list(self.owner(), now) == [kept]
        assert await backend.count(self.namespace, now) == 1 + len(others)
        for record in (records[0], records[-1]):
            assert await self.find(backend, record.key, now) is None
