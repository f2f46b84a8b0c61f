"""The suite that every backend passes: ours, and one that you write.

Subclass `BackendConformance` in your own tests, say how to make a backend, and pytest collects the rest::

    class TestMyBackend(BackendConformance):
        def make_backend(self) -> Backend:
            return MyBackend(prefix=self.namespace)

The suite needs nothing from pytest but its collecting: each test is a plain method with plain asserts, so do not run it
under ``python -O``. No test waits for time to pass: the clock is an argument of the verbs, and records live for a
minute at least, so that an engine with an expiry of its own (told ``expires_at - now``) keeps them meanwhile.
"""

# ruff: noqa: D102 the name of a test is its sentence

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import cached_property
from typing import Any, TypeVar
from uuid import uuid4

import msgspec

from powauth.backends.base import (
    EPOCH_LIFETIME,
    MAX_OWNER_BYTES,
    MAX_VALUE_BYTES,
    Backend,
    Change,
    Create,
    Delete,
    Millis,
    Record,
    Update,
    WouldWaitError,
    check_namespace,
    drive,
    make_key,
    make_owner,
    shard_of,
)
from powauth.errors import StoreUnavailable

T = TypeVar("T")

Scenario = Callable[[Backend], Coroutine[Any, Any, None]]
"""What a test does with a backend."""

NOW: Millis = 1_900_000_000_000
"""The suite's present: a time of the right magnitude (2030), so that nothing is taken for seconds."""

MINUTE: Millis = 60_000
TTL: Millis = 30 * MINUTE
"""How long a record of the suite lives unless a test says otherwise."""

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
"""Names that engines may trip over: delimiters, wildcards, letter case, trailing space, quotes, paths, NUL, half a
surrogate, and names that begin other names."""


class BackendConformance:
    """What `powauth.backends.base.Backend` promises, sentence by sentence; subclass it as ``Test…``.

    Attributes:
        contenders: how many threads, or tasks, fight over one record in the tests of concurrency.
        engine_expires: set it where the engine removes expired records by its own clock, so that `Backend.purge` need
            not: the suite then asks of ``purge`` only that it stays within its limit and takes nothing that lives.
    """

    contenders: int = 50
    engine_expires: bool = False

    # What a subclass says

    def make_backend(self) -> Backend | Awaitable[Backend]:
        """A backend with nothing in it, which no other test sees, not even through ``purge``; may be ``async def``.

        Called with an event loop running, which is the one that the test of an ``async`` backend runs in.
        """
        raise NotImplementedError

    async def dispose(self, backend: Backend) -> None:
        """Clean up after a test; drop what `make_backend` made on a shared engine here."""
        await backend.close()

    def second(self, backend: Backend) -> Backend | None:
        """Another connection to the same data, as another process would have; ``None`` where there can be none.

        The suite closes it.
        """
        return None

    # What the tests use

    @cached_property
    def namespace(self) -> str:
        """A namespace of this test alone (pytest makes an object for each test)."""
        return check_namespace(f"t{uuid4().hex[:16]}")

    def owner(self, user_key: str = "1") -> bytes:
        """An owner in this test's namespace."""
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
        """A record with the key that its owner's shard demands."""
        owner = self.owner() if owner is None else owner
        namespace = owner.partition(b":")[0].decode()
        key = make_key(namespace, shard_of(owner) + name)
        return Record(key, owner, version, created_at, expires_at, value)

    def run(self, scenario: Scenario) -> None:
        """Make a backend, run the scenario on it, dispose of it: all in one event loop if the backend is ``async``."""

        async def whole(backend: Backend) -> None:
            try:
                await scenario(backend)
            finally:
                await self.dispose(backend)

        async def make() -> Backend | None:
            made = self.make_backend()
            backend = await made if inspect.isawaitable(made) else made
            assert backend.mode in {"inline", "blocking", "async"}
            if backend.mode != "async":
                return backend
            await whole(backend)
            return None

        synchronous = asyncio.run(make())
        if synchronous is not None:
            drive(whole(synchronous))

    async def race(self, backend: Backend, starts: Sequence[Callable[[], Coroutine[Any, Any, T]]]) -> list[T]:
        """All of them at once, in threads or in tasks as the backend's mode asks for; the results in order."""
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

    async def drain(self, backend: Backend, now: Millis, limit: int = 10) -> int:
        """Purge until a step finds nothing; how many went in all."""
        total = 0
        while went := await backend.purge(limit, now):
            assert 0 < went <= limit
            total += went
        return total

    async def walk(
        self, backend: Backend, namespace: str, now: Millis = NOW, limit: int = 3, meanwhile: Scenario | None = None
    ) -> list[Record]:
        """All pages of a scan, with something else going on after each."""
        seen: list[Record] = []
        cursor: str | None = None
        for _ in range(10_000):
            page = await backend.scan(namespace, cursor, limit, now)
            seen += page.records
            cursor = page.cursor
            if cursor is None:
                return seen
            assert isinstance(cursor, str)
            if meanwhile is not None:
                await meanwhile(backend)
        raise AssertionError("the scan does not end")

    # create and get

    def test_what_was_created_is_read_back_unchanged(self) -> None:
        async def scenario(backend: Backend) -> None:
            record = self.record(version=3, created_at=NOW - 5)
            assert await backend.create(record, None, NOW) is True
            assert await backend.get(record.key, NOW) == record

        self.run(scenario)

    def test_what_can_be_seen_is_the_same_until_somebody_writes(self) -> None:
        async def scenario(backend: Backend) -> None:
            record = self.record()
            assert await backend.create(record, None, NOW)
            seen: list[object] = []
            for version in range(1, 4):
                await backend.get(record.key, NOW)  # some see only what was read
                try:
                    now_seen = backend.peek(record.key, NOW)
                    assert now_seen == backend.peek(record.key, NOW + 1)
                except WouldWaitError:
                    now_seen = None
                if now_seen is not None:
                    assert now_seen not in seen
                    seen.append(now_seen)
                    found = backend.record_of(record.key, now_seen, NOW)
                    assert found == await backend.get(record.key, NOW)
                assert await backend.update(self.record(version=version, value=b"changed"), version - 1, NOW)

        self.run(scenario)

    def test_every_way_to_read_says_the_same(self) -> None:
        async def scenario(backend: Backend) -> None:
            record = self.record()

            async def check(found: Record | None, now: Millis) -> None:
                assert await backend.get(record.key, now) == found
                assert await backend.get_fresh(record.key, now) == found
                try:
                    at_once = backend.get_at_once(record.key, now)
                except WouldWaitError:
                    return
                assert at_once == found

            await check(None, NOW)
            assert await backend.create(record, None, NOW)
            await check(record, NOW)
            await check(None, record.expires_at)
            changed = self.record(version=1, expires_at=record.expires_at + TTL)
            if await backend.update(changed, 0, NOW):  # unless it was removed when it was found expired
                await check(changed, NOW)
                assert await backend.delete(record.key, NOW)
            await check(None, NOW)

        self.run(scenario)

    def test_absence_is_an_answer_and_not_an_error(self) -> None:
        async def scenario(backend: Backend) -> None:
            record = self.record()
            assert await backend.get(record.key, NOW) is None
            assert await backend.update(record, 0, NOW) is False
            assert await backend.delete(record.key, NOW) is False
            assert await backend.list(record.owner, NOW) == []
            assert await backend.delete_owner(record.owner, NOW) == 0
            assert await backend.delete_owner(record.owner, NOW, keep=record.key) == 0
            assert await backend.purge(10, NOW) == 0
            assert await self.walk(backend, self.namespace) == []
            assert await backend.count(self.namespace, NOW) == 0

        self.run(scenario)

    def test_create_refuses_a_key_that_holds_a_live_record(self) -> None:
        async def scenario(backend: Backend) -> None:
            record = self.record(value=b"first")
            assert await backend.create(record, None, NOW)
            late = record.expires_at - 1
            other = self.record(value=b"second", version=7, created_at=late, expires_at=late + TTL)
            assert await backend.create(other, None, late) is False
            assert await backend.get(record.key, late) == record
            assert await backend.list(record.owner, late) == [record]

        self.run(scenario)

    def test_create_takes_the_place_of_an_expired_record(self) -> None:
        async def scenario(backend: Backend) -> None:
            old = self.record(value=b"old", version=9)
            assert await backend.create(old, None, NOW)
            now = old.expires_at
            new = self.record(value=b"new", created_at=now, expires_at=now + TTL)
            assert await backend.create(new, None, now) is True
            assert await backend.get(new.key, now) == new
            assert await backend.list(new.owner, now) == [new]
            await self.drain(backend, now)
            assert await backend.get(new.key, now) == new
            assert await backend.list(new.owner, now) == [new]

        self.run(scenario)

    def test_create_after_delete_starts_afresh(self) -> None:
        async def scenario(backend: Backend) -> None:
            old = self.record(value=b"old", expires_at=NOW + MINUTE)
            new = self.record(value=b"new", created_at=NOW + 1)
            assert await backend.create(old, None, NOW)
            assert await backend.delete(old.key, NOW)
            assert await backend.create(new, None, NOW + 1) is True
            assert await backend.list(new.owner, NOW + 1) == [new]
            assert await self.drain(backend, NOW + 2 * MINUTE) == 0
            assert await backend.get(new.key, NOW + 2 * MINUTE) == new

        self.run(scenario)

    def test_sto_06_get_counts_expired_as_absent_before_any_sweep(self) -> None:
        async def scenario(backend: Backend) -> None:
            record = self.record()
            assert await backend.create(record, None, NOW)
            assert await backend.get(record.key, record.expires_at - 1) == record
            assert await backend.get(record.key, record.expires_at) is None
            assert await backend.get(record.key, record.expires_at + TTL) is None

        self.run(scenario)

    def test_every_verb_counts_expired_as_absent_before_any_sweep(self) -> None:
        async def scenario(backend: Backend) -> None:
            names = [b"a", b"b", b"c", b"d", b"e", b"f"]
            for name in names:
                assert await backend.create(self.record(name), None, NOW)
            now = NOW + TTL
            assert await backend.count(self.namespace, now) == 0
            assert await self.walk(backend, self.namespace, now) == []
            assert await backend.list(self.owner(), now) == []
            renewed = self.record(b"a", version=1, expires_at=now + TTL)
            assert await backend.update(renewed, 0, now) is False
            assert await backend.get(renewed.key, now) is None
            assert await backend.delete(self.record(b"b").key, now) is False
            assert await backend.delete_owner(self.owner(), now) == 0

        self.run(scenario)

    def test_a_record_born_expired_is_never_seen(self) -> None:
        async def scenario(backend: Backend) -> None:
            for expires_at in (NOW, NOW - 1, NOW - TTL):
                record = self.record(created_at=NOW - 2 * TTL, expires_at=expires_at)
                await backend.create(record, None, NOW)
                assert await backend.get(record.key, NOW) is None
                assert await backend.list(record.owner, NOW) == []
                assert await backend.count(self.namespace, NOW) == 0
            live = self.record()
            assert await backend.create(live, None, NOW) is True
            assert await backend.get(live.key, NOW) == live

        self.run(scenario)

    # update

    def test_update_replaces_the_record_whose_version_is_expected(self) -> None:
        async def scenario(backend: Backend) -> None:
            first = self.record(version=4, value=b"four")
            second = msgspec.structs.replace(first, version=5, value=b"five", expires_at=first.expires_at + MINUTE)
            third = msgspec.structs.replace(second, version=6, value=b"")
            assert await backend.create(first, None, NOW)
            assert await backend.update(second, 4, NOW) is True
            assert await backend.get(first.key, NOW) == second
            assert await backend.update(third, 5, NOW) is True
            assert await backend.get(first.key, NOW) == third

        self.run(scenario)

    def test_update_with_another_version_changes_nothing(self) -> None:
        async def scenario(backend: Backend) -> None:
            record = self.record(version=4)
            assert await backend.create(record, None, NOW)
            for expected in (0, 3, 5, -1):
                changed = msgspec.structs.replace(record, version=5, value=b"changed", expires_at=NOW + 2 * TTL)
                assert await backend.update(changed, expected, NOW) is False
                assert await backend.get(record.key, NOW) == record
            assert await backend.get(record.key, record.expires_at) is None

        self.run(scenario)

    def test_update_never_creates(self) -> None:
        async def scenario(backend: Backend) -> None:
            record = self.record()
            changed = msgspec.structs.replace(record, version=1)
            assert await backend.update(changed, 0, NOW) is False
            assert await backend.create(record, None, NOW)
            assert await backend.delete(record.key, NOW)
            assert await backend.update(changed, 0, NOW) is False
            assert await backend.get(record.key, NOW) is None
            assert await backend.list(record.owner, NOW) == []
            assert await backend.count(self.namespace, NOW) == 0

        self.run(scenario)

    def test_update_does_not_revive_an_expired_record(self) -> None:
        async def scenario(backend: Backend) -> None:
            record = self.record()
            assert await backend.create(record, None, NOW)
            now = record.expires_at
            assert await backend.update(self.record(version=1, expires_at=now + TTL), 0, now) is False
            assert await backend.get(record.key, now) is None
            assert await backend.list(record.owner, now) == []

        self.run(scenario)

    def test_update_keeps_the_record_in_its_owners_list_and_order(self) -> None:
        async def scenario(backend: Backend) -> None:
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

        self.run(scenario)

    def test_a_renewal_that_extends_the_life_is_honoured(self) -> None:
        async def scenario(backend: Backend) -> None:
            record = self.record(expires_at=NOW + MINUTE)
            assert await backend.create(record, None, NOW)
            longer = msgspec.structs.replace(record, version=1, expires_at=NOW + 3 * MINUTE)
            assert await backend.update(longer, 0, NOW)
            now = NOW + 2 * MINUTE
            assert await self.drain(backend, now) == 0
            assert await backend.get(record.key, now) == longer
            assert await backend.list(record.owner, now) == [longer]
            assert await backend.count(self.namespace, now) == 1
            now = longer.expires_at
            assert await backend.get(record.key, now - 1) == longer
            await self._expect_purged(backend, [longer], now)

        self.run(scenario)

    def test_a_renewal_that_shortens_the_life_is_honoured(self) -> None:
        async def scenario(backend: Backend) -> None:
            record = self.record(expires_at=NOW + 3 * MINUTE)
            assert await backend.create(record, None, NOW)
            shorter = msgspec.structs.replace(record, version=1, expires_at=NOW + MINUTE)
            assert await backend.update(shorter, 0, NOW)
            now = shorter.expires_at
            assert await self.drain(backend, now - 1) == 0
            assert await backend.get(record.key, now - 1) == shorter
            assert await backend.list(record.owner, now) == []
            assert await backend.count(self.namespace, now) == 0
            await self._expect_purged(backend, [shorter], now)
            assert await self.drain(backend, NOW + 4 * MINUTE) == 0

        self.run(scenario)

    # delete

    def test_delete_tells_whether_a_live_record_existed(self) -> None:
        async def scenario(backend: Backend) -> None:
            record, other = self.record(b"a"), self.record(b"b")
            for each in (record, other):
                assert await backend.create(each, None, NOW)
            assert await backend.delete(record.key, NOW) is True
            assert await backend.get(record.key, NOW) is None
            assert await backend.list(record.owner, NOW) == [other]
            assert await backend.delete(record.key, NOW) is False
            assert await backend.get(other.key, NOW) == other

        self.run(scenario)

    def test_delete_of_an_expired_record_finds_nothing(self) -> None:
        async def scenario(backend: Backend) -> None:
            record = self.record()
            assert await backend.create(record, None, NOW)
            assert await backend.delete(record.key, record.expires_at) is False
            assert await backend.get(record.key, record.expires_at) is None

        self.run(scenario)

    # list

    def test_list_is_newest_first_and_ties_go_by_key_descending(self) -> None:
        async def scenario(backend: Backend) -> None:
            records = [
                self.record(name, created_at=NOW + offset)
                for name, offset in [(b"m", 0), (b"z", 1), (b"a", 1), (b"\xff", 1), (b"\x00", 1), (b"c", 2), (b"q", 0)]
            ]
            for record in records:
                assert await backend.create(record, None, NOW + 2)
            expected = sorted(records, key=lambda record: (record.created_at, record.key), reverse=True)
            assert await backend.list(self.owner(), NOW + 2) == expected

        self.run(scenario)

    def test_list_holds_only_live_records(self) -> None:
        async def scenario(backend: Backend) -> None:
            short = self.record(b"a", expires_at=NOW + MINUTE)
            long = self.record(b"b", expires_at=NOW + TTL)
            for record in (short, long):
                assert await backend.create(record, None, NOW)
            assert await backend.list(self.owner(), NOW + MINUTE - 1) == [long, short]
            assert await backend.list(self.owner(), NOW + MINUTE) == [long]
            assert await backend.list(self.owner(), NOW + TTL) == []

        self.run(scenario)

    def test_list_holds_only_the_owners_records(self) -> None:
        async def scenario(backend: Backend) -> None:
            owners = [
                make_owner(namespace, user_key)
                for namespace in (self.namespace, self.namespace + "1", self.namespace + ".a")
                for user_key in ("", "1", "10", "1:0", "1\x00", "*", "?", "a", "A", "a ", "é", "e\u0301")
            ]
            for owner in owners:
                assert await backend.create(self.record(owner[-8:], owner), None, NOW)
            for owner in owners:
                assert await backend.list(owner, NOW) == [self.record(owner[-8:], owner)]

        self.run(scenario)

    def test_list_of_an_owner_with_many_records(self) -> None:
        async def scenario(backend: Backend) -> None:
            records = [self.record(b"%03d" % number, created_at=NOW + number) for number in range(150)]
            for record in records:
                assert await backend.create(record, None, NOW + 150)
            assert await backend.list(self.owner(), NOW + 150) == records[::-1]
            assert await backend.delete_owner(self.owner(), NOW + 150, keep=records[70].key) == 149
            assert await backend.list(self.owner(), NOW + 150) == [records[70]]

        self.run(scenario)

    # epochs

    def test_an_epoch_stays_the_same_until_it_is_moved(self) -> None:
        async def scenario(backend: Backend) -> None:
            before = await backend.epoch(self.owner(), NOW)
            assert await backend.create(self.record(), before, NOW) is True
            assert await backend.update(self.record(version=1), 0, NOW) is True
            assert await backend.delete(self.record().key, NOW) is True
            await backend.purge(10, NOW)
            assert await backend.epoch(self.owner(), NOW + MINUTE) == before
            moved = await backend.epoch(self.owner(), NOW + MINUTE, advance=True)
            assert moved != before
            assert await backend.epoch(self.owner(), NOW + MINUTE) == moved
            again = await backend.epoch(self.owner(), NOW + MINUTE, advance=True)
            assert again not in {before, moved}

        self.run(scenario)

    def test_create_wants_the_present_epoch(self) -> None:
        async def scenario(backend: Backend) -> None:
            before = await backend.epoch(self.owner(), NOW)
            moved = await backend.epoch(self.owner(), NOW, advance=True)
            for wrong in (before, moved + 1):
                assert await backend.create(self.record(), wrong, NOW) is False
                assert await backend.get(self.record().key, NOW) is None
                assert await backend.list(self.owner(), NOW) == []
            assert await backend.create(self.record(), moved, NOW) is True
            assert await backend.get(self.record().key, NOW) == self.record()

        self.run(scenario)

    def test_create_wants_the_present_epoch_also_where_none_was_moved(self) -> None:
        async def scenario(backend: Backend) -> None:
            before = await backend.epoch(self.owner(), NOW)
            assert await backend.create(self.record(), before + 1, NOW) is False
            assert await backend.get(self.record().key, NOW) is None

        self.run(scenario)

    def test_create_without_an_epoch_is_not_guarded(self) -> None:
        async def scenario(backend: Backend) -> None:
            await backend.epoch(self.owner(), NOW, advance=True)
            assert await backend.create(self.record(), None, NOW) is True
            assert await backend.get(self.record().key, NOW) == self.record()

        self.run(scenario)

    def test_the_latest_epoch_serves_whoever_the_owner_is(self) -> None:
        async def scenario(backend: Backend) -> None:
            latest = await backend.latest_epoch(NOW)
            if latest is None:  # this backend has no count common to all owners
                return
            mine, others = self.record(b"a"), self.record(b"b", self.owner("2"))
            assert await backend.create(mine, latest, NOW) is True
            assert await backend.delete_owner(others.owner, NOW) == 0
            assert await backend.create(others, latest, NOW) is False
            assert await backend.create(self.record(b"c"), latest, NOW) is True
            later = await backend.latest_epoch(NOW)
            assert later is not None
            assert later > latest
            assert await backend.create(others, later, NOW) is True
            assert await backend.epoch(self.owner(), NOW, advance=True) > later
            assert await backend.create(self.record(b"d"), later, NOW) is False
            assert await backend.create(self.record(b"d"), await backend.latest_epoch(NOW), NOW) is True

        self.run(scenario)

    def test_the_latest_epoch_is_never_given_again(self) -> None:
        async def scenario(backend: Backend) -> None:
            latest = await backend.latest_epoch(NOW)
            if latest is None:
                return
            await backend.delete_owner(self.owner(), NOW + MINUTE)
            later = await backend.latest_epoch(NOW + MINUTE)
            now = NOW + 3 * EPOCH_LIFETIME
            await self.drain(backend, now)
            assert await backend.latest_epoch(now) == later
            # Nor should the clock have been set back, or an owner come that has had no epoch yet.
            for owner in (self.owner(), self.owner("2")):
                moved = await backend.epoch(owner, NOW, advance=True)
                assert later is not None
                assert moved > later
                assert await backend.create(self.record(b"a", owner), later, NOW) is False
                later = await backend.latest_epoch(NOW)

        self.run(scenario)

    # several changes

    def test_changes_are_made_in_order_up_to_the_first_that_cannot_be(self) -> None:
        async def scenario(backend: Backend) -> None:
            a, b, c = (self.record(name) for name in (b"a", b"b", b"c"))
            changed = msgspec.structs.replace(a, version=1, value=b"changed")
            assert await backend.change([], NOW) == 0
            assert await backend.change([Create(a), Create(b, await backend.epoch(b.owner, NOW))], NOW) == 2
            assert await backend.change([Update(changed, 0), Delete(b.key), Create(c)], NOW) == 3
            assert await backend.get(a.key, NOW) == changed
            assert await backend.get(b.key, NOW) is None
            assert await backend.get(c.key, NOW) == c
            fails: Change
            for fails in (Create(c), Update(changed, 0), Delete(self.record(b"d").key)):
                assert await backend.change([fails, Delete(c.key)], NOW) == 0
                assert await backend.get(c.key, NOW) == c
                assert await backend.change([Create(b), fails, Delete(c.key)], NOW) == 1
                assert await backend.list(self.owner(), NOW) == [c, b, changed]
                assert await backend.delete(b.key, NOW) is True

        self.run(scenario)

    def test_changes_see_those_before_them_and_ask_for_the_epoch(self) -> None:
        async def scenario(backend: Backend) -> None:
            record, epoch = self.record(), await backend.epoch(self.owner(), NOW)
            changed = msgspec.structs.replace(record, version=1, value=b"changed")
            changes: list[Change] = [
                Create(record, epoch),
                Update(changed, 0),
                Delete(record.key),
                Create(record, epoch),
            ]
            assert await backend.change(changes, NOW) == 4
            assert await backend.get(record.key, NOW) == record
            await backend.delete_owner(self.owner(), NOW)
            assert await backend.change([Create(record, epoch), Create(self.record(b"b"))], NOW) == 0
            assert await backend.list(self.owner(), NOW) == []

        self.run(scenario)

    def test_a_create_that_began_before_delete_owner_does_not_survive_it(self) -> None:
        async def scenario(backend: Backend) -> None:
            earlier = await backend.epoch(self.owner(), NOW)
            assert await backend.create(self.record(b"a"), earlier, NOW)
            assert await backend.delete_owner(self.owner(), NOW + 1) == 1
            assert await backend.create(self.record(b"b"), earlier, NOW + 2) is False
            assert await backend.list(self.owner(), NOW + 2) == []
            later = await backend.epoch(self.owner(), NOW + 2)
            assert later != earlier
            assert await backend.create(self.record(b"b"), later, NOW + 2) is True

        self.run(scenario)

    def test_delete_owner_moves_the_epoch_also_where_there_is_nothing_to_delete(self) -> None:
        async def scenario(backend: Backend) -> None:
            earlier = await backend.epoch(self.owner(), NOW)
            assert await backend.delete_owner(self.owner(), NOW) == 0
            assert await backend.create(self.record(), earlier, NOW) is False

        self.run(scenario)

    def test_an_epoch_is_remembered_for_its_lifetime(self) -> None:
        async def scenario(backend: Backend) -> None:
            earlier = await backend.epoch(self.owner(), NOW)
            assert await backend.delete_owner(self.owner(), NOW) == 0
            now = NOW + EPOCH_LIFETIME - 1
            assert await self.drain(backend, now) == 0
            assert await backend.epoch(self.owner(), now) != earlier
            assert await backend.create(self.record(expires_at=now + TTL), earlier, now) is False

        self.run(scenario)

    def test_moving_an_epoch_again_renews_its_lifetime(self) -> None:
        async def scenario(backend: Backend) -> None:
            await backend.epoch(self.owner(), NOW, advance=True)
            between = NOW + EPOCH_LIFETIME - MINUTE
            earlier = await backend.epoch(self.owner(), between)
            moved = await backend.epoch(self.owner(), between, advance=True)
            now = between + EPOCH_LIFETIME - 1
            assert await self.drain(backend, now) == 0
            assert await backend.epoch(self.owner(), now) == moved
            assert await backend.create(self.record(expires_at=now + TTL), earlier, now) is False

        self.run(scenario)

    def test_a_forgotten_epoch_leaves_an_owner_that_works(self) -> None:
        async def scenario(backend: Backend) -> None:
            await backend.delete_owner(self.owner(), NOW)
            now = NOW + 3 * EPOCH_LIFETIME
            await self.drain(backend, now)
            epoch = await backend.epoch(self.owner(), now)
            assert await backend.epoch(self.owner(), now) == epoch
            record = self.record(created_at=now, expires_at=now + TTL)
            assert await backend.create(record, epoch, now) is True
            assert await backend.delete_owner(self.owner(), now) == 1
            assert await backend.create(record, epoch, now) is False

        self.run(scenario)

    def test_epochs_are_apart_for_each_owner_and_namespace(self) -> None:
        async def scenario(backend: Backend) -> None:
            others = [
                make_owner(self.namespace, "10"),
                make_owner(self.namespace, ""),
                make_owner(self.namespace + "1", "1"),
            ]
            before = [await backend.epoch(owner, NOW) for owner in others]
            await backend.epoch(self.owner("1"), NOW, advance=True)
            await backend.delete_owner(self.owner("1"), NOW)
            assert [await backend.epoch(owner, NOW) for owner in others] == before
            for owner, epoch in zip(others, before, strict=True):
                assert await backend.create(self.record(b"a", owner), epoch, NOW) is True

        self.run(scenario)

    # delete_owner

    def test_delete_owner_removes_that_owners_records_alone(self) -> None:
        async def scenario(backend: Backend) -> None:
            mine = [self.record(name) for name in (b"a", b"b", b"c")]
            others = [
                self.record(b"a", make_owner(namespace, user_key))
                for namespace, user_key in [
                    (self.namespace, "10"),
                    (self.namespace, "1:"),
                    (self.namespace, "*"),
                    (self.namespace, ""),
                    (self.namespace + "1", "1"),
                ]
            ]
            for record in [*mine, *others]:
                assert await backend.create(record, None, NOW)
            assert await backend.delete_owner(make_owner(self.namespace, "?"), NOW) == 0
            assert await backend.delete_owner(self.owner(), NOW) == 3
            for record in mine:
                assert await backend.get(record.key, NOW) is None
            assert await backend.list(self.owner(), NOW) == []
            for record in others:
                assert await backend.get(record.key, NOW) == record
                assert await backend.list(record.owner, NOW) == [record]
            assert await backend.delete_owner(make_owner(self.namespace, "*"), NOW) == 1
            assert await backend.count(self.namespace, NOW) == 3

        self.run(scenario)

    def test_delete_owner_keeps_the_one_record_it_is_told_to_keep(self) -> None:
        async def scenario(backend: Backend) -> None:
            records = [self.record(name) for name in (b"a", b"b", b"c")]
            for record in records:
                assert await backend.create(record, None, NOW)
            earlier = await backend.epoch(self.owner(), NOW)
            assert await backend.delete_owner(self.owner(), NOW, keep=records[1].key) == 2
            assert await backend.list(self.owner(), NOW) == [records[1]]
            assert await backend.get(records[0].key, NOW) is None
            assert await backend.get(records[1].key, NOW) == records[1]
            assert await backend.epoch(self.owner(), NOW) != earlier
            renewed = msgspec.structs.replace(records[1], version=1)
            assert await backend.update(renewed, 0, NOW) is True
            assert await backend.delete_owner(self.owner(), NOW, keep=records[1].key) == 0
            assert await backend.delete_owner(self.owner(), NOW, keep=records[0].key) == 1
            assert await backend.list(self.owner(), NOW) == []

        self.run(scenario)

    def test_delete_owner_keeps_nothing_that_is_another_owners(self) -> None:
        async def scenario(backend: Backend) -> None:
            mine, other = self.record(b"a"), self.record(b"a", self.owner("2"))
            for record in (mine, other):
                assert await backend.create(record, None, NOW)
            assert await backend.delete_owner(mine.owner, NOW, keep=other.key) == 1
            assert await backend.get(mine.key, NOW) is None
            assert await backend.list(mine.owner, NOW) == []
            assert await backend.list(other.owner, NOW) == [other]

        self.run(scenario)

    def test_delete_owner_counts_the_live_ones(self) -> None:
        async def scenario(backend: Backend) -> None:
            for name, lifetime in [(b"a", MINUTE), (b"b", MINUTE), (b"c", TTL), (b"d", TTL), (b"e", TTL)]:
                assert await backend.create(self.record(name, expires_at=NOW + lifetime), None, NOW)
            now = NOW + MINUTE
            assert await backend.delete_owner(self.owner(), now, keep=self.record(b"d").key) == 2
            assert await backend.list(self.owner(), now) == [self.record(b"d")]

        self.run(scenario)

    # purge

    async def _expect_purged(self, backend: Backend, records: Sequence[Record], now: Millis) -> None:
        """Purging removes exactly these, also from the sight of a clock that is behind."""
        total = await self.drain(backend, now)
        if not self.engine_expires:
            assert total == len(records)
            for record in records:
                assert await backend.get(record.key, record.created_at) is None
                assert record not in await backend.list(record.owner, record.created_at)

    def test_purge_removes_what_expired_and_nothing_that_lives(self) -> None:
        async def scenario(backend: Backend) -> None:
            dying = [
                self.record(b"d%d" % number, self.owner(str(number % 7)), expires_at=NOW + MINUTE + number)
                for number in range(25)
            ]
            living = [self.record(b"l%d" % number, self.owner(str(number % 7))) for number in range(10)]
            for record in [*dying, *living]:
                assert await backend.create(record, None, NOW)
            assert await self.drain(backend, NOW + MINUTE - 1) == 0
            await self._expect_purged(backend, dying, NOW + MINUTE + 24)
            for record in living:
                assert await backend.get(record.key, NOW) == record
                assert record in await backend.list(record.owner, NOW)
            if not self.engine_expires:
                assert await backend.count(self.namespace, NOW) == 10

        self.run(scenario)

    def test_purge_removes_no_more_than_its_limit(self) -> None:
        async def scenario(backend: Backend) -> None:
            for number in range(7):
                assert await backend.create(self.record(b"%d" % number, expires_at=NOW + MINUTE), None, NOW)
            steps = [await backend.purge(3, NOW + MINUTE) for _ in range(4)]
            assert all(0 <= step <= 3 for step in steps)
            assert sum(steps) <= 7
            if not self.engine_expires:
                assert steps == [3, 3, 1, 0]

        self.run(scenario)

    def test_purge_does_not_count_what_was_deleted_before(self) -> None:
        async def scenario(backend: Backend) -> None:
            for number in range(6):
                assert await backend.create(self.record(b"%d" % number, expires_at=NOW + MINUTE), None, NOW)
            for number in range(4):
                assert await backend.delete(self.record(b"%d" % number).key, NOW)
            left = [self.record(b"%d" % number, expires_at=NOW + MINUTE) for number in (4, 5)]
            await self._expect_purged(backend, left, NOW + MINUTE)

        self.run(scenario)

    def test_purge_follows_many_renewals(self) -> None:
        async def scenario(backend: Backend) -> None:
            record = self.record(expires_at=NOW + MINUTE)
            assert await backend.create(record, None, NOW)
            for version in range(1, 30):
                now = NOW + version * (MINUTE // 2)
                record = msgspec.structs.replace(record, version=version, expires_at=now + MINUTE)
                assert await backend.update(record, version - 1, now)
                assert await self.drain(backend, now) == 0
                assert await backend.get(record.key, now) == record
            await self._expect_purged(backend, [record], record.expires_at)

        self.run(scenario)

    # scan and count

    def test_scan_sees_every_live_record_of_its_namespace_alone(self) -> None:
        async def scenario(backend: Backend) -> None:
            names = [self.namespace, self.namespace + "1", self.namespace + ".x"]
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

        self.run(scenario)

    def test_scan_sees_what_stays_while_other_records_come_and_go(self) -> None:
        async def scenario(backend: Backend) -> None:
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

        self.run(scenario)

    # hostile content

    def test_hostile_names_are_only_names(self) -> None:
        async def scenario(backend: Backend) -> None:
            records = [self.record(name, created_at=NOW + number, value=name) for number, name in enumerate(HOSTILE)]
            now = NOW + len(records)
            for record in records:
                assert await backend.get(record.key, now) is None
                assert await backend.create(record, None, now) is True
            for record in records:
                assert await backend.get(record.key, now) == record
            assert await backend.list(self.owner(), now) == records[::-1]
            assert await backend.count(self.namespace, now) == len(records)
            seen = await self.walk(backend, self.namespace, now)
            assert {record.key for record in seen} == {record.key for record in records}
            for number, record in enumerate(records):
                assert await backend.update(msgspec.structs.replace(record, version=1), 0, now) is True
                assert await backend.delete(record.key, now) is True
                assert len(await backend.list(self.owner(), now)) == len(records) - number - 1

        self.run(scenario)

    def test_hostile_owners_are_only_owners(self) -> None:
        async def scenario(backend: Backend) -> None:
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

        self.run(scenario)

    def test_any_shard_will_do(self) -> None:
        async def scenario(backend: Backend) -> None:
            # The shard is a hash: its bytes may be any delimiter of an engine's.
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
                assert await backend.get(record.key, NOW) == record
                assert await backend.list(record.owner, NOW) == [record]
                assert await backend.delete_owner(record.owner, NOW) == 1

        self.run(scenario)

    def test_values_and_owners_up_to_the_limits(self) -> None:
        async def scenario(backend: Backend) -> None:
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
                assert await backend.get(record.key, NOW) == record
            assert await backend.list(longest + b"0", NOW) == records[:4][::-1]
            smaller = msgspec.structs.replace(records[3], version=1, value=b"")
            assert await backend.update(smaller, 0, NOW) is True
            assert await backend.get(smaller.key, NOW) == smaller
            assert await backend.delete_owner(longest + b"1", NOW) == 4
            assert await backend.delete_owner(longest + b"0", NOW) == 4
            assert await backend.count(namespace, NOW) == 4

        self.run(scenario)

    def test_large_numbers_are_kept(self) -> None:
        async def scenario(backend: Backend) -> None:
            end_of_9999 = 253_402_300_799_000
            record = self.record(version=2**40, expires_at=end_of_9999)
            assert await backend.create(record, None, NOW) is True
            assert await backend.get(record.key, end_of_9999 - 1) == record
            assert await backend.update(msgspec.structs.replace(record, version=2**40 + 1), 2**40, NOW) is True
            assert await backend.update(record, 2**40, NOW) is False
            assert await backend.get(record.key, end_of_9999) is None

        self.run(scenario)

    # closing

    def test_a_closed_backend_is_unavailable(self) -> None:
        async def scenario(backend: Backend) -> None:
            record = self.record()
            assert await backend.create(record, None, NOW)
            await backend.close()
            await backend.close()
            verbs: list[Callable[[], Coroutine[Any, Any, object]]] = [
                lambda: backend.create(self.record(b"b"), None, NOW),
                lambda: backend.get(record.key, NOW),
                lambda: backend.update(record, 0, NOW),
                lambda: backend.delete(record.key, NOW),
                lambda: backend.change([Create(record)], NOW),
                lambda: backend.list(record.owner, NOW),
                lambda: backend.epoch(record.owner, NOW),
                lambda: backend.epoch(record.owner, NOW, advance=True),
                lambda: backend.delete_owner(record.owner, NOW),
                lambda: backend.purge(10, NOW),
                lambda: backend.scan(self.namespace, None, 10, NOW),
                lambda: backend.count(self.namespace, NOW),
            ]
            for number, verb in enumerate(verbs):
                try:
                    await verb()
                except StoreUnavailable:
                    continue
                raise AssertionError(f"verb {number} of a closed backend answered")

        self.run(scenario)

    # concurrency

    def test_sto_05_one_of_many_creates_wins(self) -> None:
        async def scenario(backend: Backend) -> None:
            records = [self.record(value=b"%d" % number) for number in range(self.contenders)]
            won = await self.race(backend, [lambda r=record: backend.create(r, None, NOW) for record in records])  # type: ignore[misc]
            assert sum(won) == 1
            winner = records[won.index(True)]
            assert await backend.get(winner.key, NOW) == winner
            assert await backend.list(winner.owner, NOW) == [winner]

        self.run(scenario)

    def test_sto_05_one_of_many_updates_wins(self) -> None:
        async def scenario(backend: Backend) -> None:
            assert await backend.create(self.record(), None, NOW)
            records = [self.record(version=1, value=b"%d" % number) for number in range(self.contenders)]
            won = await self.race(backend, [lambda r=record: backend.update(r, 0, NOW) for record in records])  # type: ignore[misc]
            assert sum(won) == 1
            winner = records[won.index(True)]
            assert await backend.get(winner.key, NOW) == winner
            assert await backend.list(winner.owner, NOW) == [winner]

        self.run(scenario)

    def test_sto_05_one_of_many_deletes_wins(self) -> None:
        async def scenario(backend: Backend) -> None:
            record = self.record()
            assert await backend.create(record, None, NOW)
            won = await self.race(backend, [lambda: backend.delete(record.key, NOW)] * self.contenders)
            assert sum(won) == 1
            assert await backend.get(record.key, NOW) is None
            assert await backend.list(record.owner, NOW) == []

        self.run(scenario)

    def test_sto_05_an_update_that_races_a_delete_does_not_revive_the_record(self) -> None:
        async def scenario(backend: Backend) -> None:
            record = self.record()
            assert await backend.create(record, None, NOW)

            async def renew() -> bool:
                for _ in range(5):
                    found = await backend.get(record.key, NOW)
                    if found is None:
                        return False
                    changed = msgspec.structs.replace(found, version=found.version + 1)
                    await backend.update(changed, found.version, NOW)
                return False

            starts: list[Callable[[], Coroutine[Any, Any, bool]]] = [renew] * (self.contenders - 1)
            starts.insert(self.contenders // 2, lambda: backend.delete(record.key, NOW))
            assert sum(await self.race(backend, starts)) == 1
            assert await backend.get(record.key, NOW) is None
            assert await backend.list(record.owner, NOW) == []

        self.run(scenario)

    def test_sto_05_no_create_slips_past_delete_owner(self) -> None:
        async def scenario(backend: Backend) -> None:
            epoch = await backend.epoch(self.owner(), NOW)
            records = [self.record(b"%d" % number) for number in range(self.contenders)]

            async def create(record: Record) -> int:
                return -int(await backend.create(record, epoch, NOW))

            starts: list[Callable[[], Coroutine[Any, Any, int]]] = [lambda r=record: create(r) for record in records]  # type: ignore[misc]
            starts.insert(len(starts) // 2, lambda: backend.delete_owner(self.owner(), NOW))
            assert sum(await self.race(backend, starts)) == 0, "as many went as had been created"
            assert await backend.list(self.owner(), NOW) == []
            for record in records:
                assert await backend.get(record.key, NOW) is None
            assert await backend.count(self.namespace, NOW) == 0

        self.run(scenario)

    def test_sto_05_no_create_with_the_latest_epoch_slips_past_delete_owner(self) -> None:
        async def scenario(backend: Backend) -> None:
            epoch = await backend.latest_epoch(NOW)
            if epoch is None:
                return
            records = [self.record(b"%d" % number) for number in range(self.contenders)]

            async def create(record: Record) -> int:
                return -await backend.change([Create(record, epoch)], NOW)

            starts: list[Callable[[], Coroutine[Any, Any, int]]] = [lambda r=record: create(r) for record in records]  # type: ignore[misc]
            starts.insert(len(starts) // 2, lambda: backend.delete_owner(self.owner(), NOW))
            assert sum(await self.race(backend, starts)) == 0, "as many went as had been created"
            assert await backend.list(self.owner(), NOW) == []

        self.run(scenario)

    def test_sto_05_many_advances_give_as_many_epochs(self) -> None:
        async def scenario(backend: Backend) -> None:
            epochs = await self.race(
                backend, [lambda: backend.epoch(self.owner(), NOW, advance=True)] * self.contenders
            )
            assert len(set(epochs)) == self.contenders
            assert await backend.epoch(self.owner(), NOW) in epochs

        self.run(scenario)

    def test_sto_05_an_owners_list_survives_concurrent_sign_ins_and_outs(self) -> None:
        async def scenario(backend: Backend) -> None:
            async def come_and_go(number: int) -> None:
                stays, goes = self.record(b"s%d" % number), self.record(b"g%d" % number)
                assert await backend.create(goes, None, NOW)
                assert await backend.create(stays, None, NOW)
                assert await backend.update(msgspec.structs.replace(stays, version=1), 0, NOW)
                assert await backend.delete(goes.key, NOW)

            await self.race(backend, [lambda n=number: come_and_go(n) for number in range(self.contenders)])  # type: ignore[misc]
            staying = [self.record(b"s%d" % number, version=1) for number in range(self.contenders)]
            assert await backend.list(self.owner(), NOW) == sorted(staying, key=lambda r: r.key, reverse=True)
            assert await backend.count(self.namespace, NOW) == self.contenders
            assert await backend.delete_owner(self.owner(), NOW) == self.contenders

        self.run(scenario)

    # a second connection

    def test_sto_06_a_second_connection_sees_each_change_at_once(self) -> None:
        async def scenario(backend: Backend) -> None:
            other = self.second(backend)
            if other is None:
                return
            try:
                for here, there in [(backend, other), (other, backend)] * 3:
                    assert await there.get(self.record().key, NOW) is None
                    epoch = await there.epoch(self.owner(), NOW)
                    assert await here.epoch(self.owner(), NOW) == epoch
                    assert await here.create(self.record(), epoch, NOW) is True
                    assert await there.get(self.record().key, NOW) == self.record()
                    assert await there.list(self.owner(), NOW) == [self.record()]
                    assert await there.count(self.namespace, NOW) == 1
                    assert await there.create(self.record(), epoch, NOW) is False
                    renewed = self.record(version=1, value=b"renewed")
                    assert await here.update(renewed, 0, NOW) is True
                    assert await there.update(renewed, 0, NOW) is False
                    assert await there.get(renewed.key, NOW) == renewed
                    assert await here.delete(renewed.key, NOW) is True
                    assert await there.get(renewed.key, NOW) is None
                    assert await there.delete(renewed.key, NOW) is False
                    assert await there.create(self.record(b"b"), epoch, NOW) is True
                    assert await here.delete_owner(self.owner(), NOW) == 1
                    assert await there.list(self.owner(), NOW) == []
                    assert await there.epoch(self.owner(), NOW) != epoch
                    assert await there.create(self.record(), epoch, NOW) is False
            finally:
                await other.close()

        self.run(scenario)
