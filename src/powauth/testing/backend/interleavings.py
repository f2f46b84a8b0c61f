"""Tests of two parallel verbs. One of them is stopped at each of its steps; see `powauth.testing.stepping`."""

# ruff: noqa: D102 the name of a test is its sentence

import msgspec

from powauth.backends.base import Backend, Record
from powauth.testing.backend.suite import NOW, TTL, Suite, scenario
from powauth.testing.stepping import Race


class _SteppedTests(Suite):
    """Checks that the classes below share."""

    async def _assert_gone(self, backend: Backend, record: Record, now: int = NOW) -> None:
        assert await self.find(backend, record.key, now) is None
        assert await backend.list(record.owner, now) == []

    async def _assert_only(self, backend: Backend, record: Record, now: int = NOW) -> None:
        assert await self.find(backend, record.key, now) == record
        assert await backend.list(record.owner, now) == [record]


class WriteInterleavingTests(_SteppedTests):
    """Two parallel writes of live records."""

    # A sign-in and a revocation

    @scenario
    async def test_rep_61_no_step_of_delete_owner_lets_a_create_slip_past(self, backend: Backend) -> None:
        async def prepare(owner: bytes) -> Race[int, bool]:
            epoch = await backend.epoch(owner, NOW)
            late = self.record(b"late", owner)
            for name in (b"a", b"b"):
                assert await backend.create(self.record(name, owner), None, NOW)

            async def check(went: int, created: bool) -> None:
                await self._assert_gone(backend, late)
                assert went == 2 + created

            return Race(lambda: backend.delete_owner(owner, NOW), lambda: backend.create(late, epoch, NOW), check)

        await self.at_each_step(backend, prepare)

    @scenario
    async def test_rep_61_no_step_of_a_create_lets_it_slip_past_delete_owner(self, backend: Backend) -> None:
        async def prepare(owner: bytes) -> Race[bool, int]:
            epoch = await backend.epoch(owner, NOW)
            late = self.record(b"late", owner)
            assert await backend.create(self.record(b"a", owner), None, NOW)

            async def check(created: bool, went: int) -> None:
                await self._assert_gone(backend, late)
                assert went == 1 + created

            return Race(lambda: backend.create(late, epoch, NOW), lambda: backend.delete_owner(owner, NOW), check)

        await self.at_each_step(backend, prepare)

    @scenario
    async def test_no_step_of_moving_an_epoch_lets_a_create_slip_past(self, backend: Backend) -> None:
        async def prepare(owner: bytes) -> Race[bool, int]:
            epoch = await backend.epoch(owner, NOW)

            async def check(created: bool, moved: int) -> None:
                assert moved != epoch
                assert await backend.create(self.record(b"b", owner), epoch, NOW) is False
                assert len(await backend.list(owner, NOW)) == created

            return Race(
                lambda: backend.create(self.record(b"a", owner), epoch, NOW),
                lambda: backend.epoch(owner, NOW, advance=True),
                check,
            )

        await self.at_each_step(backend, prepare)

    @scenario
    async def test_two_moves_of_an_epoch_give_two_epochs_at_each_step(self, backend: Backend) -> None:
        async def prepare(owner: bytes) -> Race[int, int]:
            before = await backend.epoch(owner, NOW)

            async def check(one: int, another: int) -> None:
                assert len({before, one, another}) == 3
                assert await backend.epoch(owner, NOW) in {one, another}

            return Race(
                lambda: backend.epoch(owner, NOW, advance=True), lambda: backend.epoch(owner, NOW, advance=True), check
            )

        await self.at_each_step(backend, prepare)

    # A renewal, and a sign-out or a revocation

    @scenario
    async def test_no_step_of_a_delete_lets_an_update_revive_the_record(self, backend: Backend) -> None:
        async def prepare(owner: bytes) -> Race[bool, bool]:
            record = self.record(owner=owner)
            renewed = msgspec.structs.replace(record, version=1)
            assert await backend.create(record, None, NOW)

            async def check(deleted: bool, _: bool) -> None:
                assert deleted is True
                await self._assert_gone(backend, record)

            return Race(lambda: backend.delete(record.key, NOW), lambda: backend.update(renewed, 0, NOW), check)

        await self.at_each_step(backend, prepare)

    @scenario
    async def test_no_step_of_an_update_revives_a_deleted_record(self, backend: Backend) -> None:
        async def prepare(owner: bytes) -> Race[bool, bool]:
            record = self.record(owner=owner)
            renewed = msgspec.structs.replace(record, version=1)
            assert await backend.create(record, None, NOW)

            async def check(_: bool, deleted: bool) -> None:
                assert deleted is True
                await self._assert_gone(backend, record)

            return Race(lambda: backend.update(renewed, 0, NOW), lambda: backend.delete(record.key, NOW), check)

        await self.at_each_step(backend, prepare)

    @scenario
    async def test_no_step_of_delete_owner_lets_an_update_revive_a_record(self, backend: Backend) -> None:
        async def prepare(owner: bytes) -> Race[int, bool]:
            record = self.record(owner=owner)
            renewed = msgspec.structs.replace(record, version=1)
            assert await backend.create(record, None, NOW)

            async def check(went: int, _: bool) -> None:
                assert went == 1
                await self._assert_gone(backend, record)

            return Race(lambda: backend.delete_owner(owner, NOW), lambda: backend.update(renewed, 0, NOW), check)

        await self.at_each_step(backend, prepare)

    @scenario
    async def test_no_step_of_an_update_survives_delete_owner(self, backend: Backend) -> None:
        async def prepare(owner: bytes) -> Race[bool, int]:
            record = self.record(owner=owner)
            renewed = msgspec.structs.replace(record, version=1)
            assert await backend.create(record, None, NOW)

            async def check(_: bool, went: int) -> None:
                assert went == 1
                await self._assert_gone(backend, record)

            return Race(lambda: backend.update(renewed, 0, NOW), lambda: backend.delete_owner(owner, NOW), check)

        await self.at_each_step(backend, prepare)

    @scenario
    async def test_the_record_that_delete_owner_keeps_can_be_updated_at_each_step(self, backend: Backend) -> None:
        async def prepare(owner: bytes) -> Race[int, bool]:
            record, other = self.record(b"a", owner), self.record(b"b", owner)
            renewed = msgspec.structs.replace(record, version=1)
            for each in (record, other):
                assert await backend.create(each, None, NOW)

            async def check(went: int, updated: bool) -> None:
                assert (went, updated) == (1, True)
                await self._assert_only(backend, renewed)

            return Race(
                lambda: backend.delete_owner(owner, NOW, keep=record.key),
                lambda: backend.update(renewed, 0, NOW),
                check,
            )

        await self.at_each_step(backend, prepare)

    # Two of a kind

    @scenario
    async def test_one_of_two_creates_wins_at_each_step(self, backend: Backend) -> None:
        async def prepare(owner: bytes) -> Race[bool, bool]:
            one, another = self.record(owner=owner, value=b"one"), self.record(owner=owner, value=b"another")

            async def check(first: bool, second: bool) -> None:
                assert first + second == 1
                await self._assert_only(backend, one if first else another)

            return Race(lambda: backend.create(one, None, NOW), lambda: backend.create(another, None, NOW), check)

        await self.at_each_step(backend, prepare)

    @scenario
    async def test_one_of_two_creates_takes_the_place_of_an_expired_record(self, backend: Backend) -> None:
        now = NOW + TTL

        async def prepare(owner: bytes) -> Race[bool, bool]:
            assert await backend.create(self.record(owner=owner), None, NOW)
            one, another = (
                self.record(owner=owner, created_at=now, expires_at=now + TTL, value=value)
                for value in (b"one", b"another")
            )

            async def check(first: bool, second: bool) -> None:
                assert first + second == 1
                await self._assert_only(backend, one if first else another, now)

            return Race(lambda: backend.create(one, None, now), lambda: backend.create(another, None, now), check)

        await self.at_each_step(backend, prepare)

    @scenario
    async def test_one_of_two_updates_wins_at_each_step(self, backend: Backend) -> None:
        async def prepare(owner: bytes) -> Race[bool, bool]:
            record = self.record(owner=owner)
            assert await backend.create(record, None, NOW)
            one, another = (msgspec.structs.replace(record, version=1, value=value) for value in (b"one", b"another"))

            async def check(first: bool, second: bool) -> None:
                assert first + second == 1
                await self._assert_only(backend, one if first else another)

            return Race(lambda: backend.update(one, 0, NOW), lambda: backend.update(another, 0, NOW), check)

        await self.at_each_step(backend, prepare)

    @scenario
    async def test_one_of_two_deletes_wins_at_each_step(self, backend: Backend) -> None:
        async def prepare(owner: bytes) -> Race[bool, bool]:
            record = self.record(owner=owner)
            assert await backend.create(record, None, NOW)

            async def check(first: bool, second: bool) -> None:
                assert first + second == 1
                await self._assert_gone(backend, record)

            return Race(lambda: backend.delete(record.key, NOW), lambda: backend.delete(record.key, NOW), check)

        await self.at_each_step(backend, prepare)


class ReadInterleavingTests(_SteppedTests):
    """A write during a read, or during the removal of expired records."""

    # Expired records

    @scenario
    async def test_no_step_of_a_read_removes_what_takes_the_place_of_an_expired_record(self, backend: Backend) -> None:
        now = NOW + TTL

        async def prepare(owner: bytes) -> Race[Record | None, bool]:
            assert await backend.create(self.record(owner=owner), None, NOW)
            new = self.record(owner=owner, created_at=now, expires_at=now + TTL)

            async def check(found: Record | None, created: bool) -> None:
                assert created is True
                assert found in {None, new}
                await self._assert_only(backend, new, now)

            return Race(lambda: backend.get(new.key, now), lambda: backend.create(new, None, now), check)

        await self.at_each_step(backend, prepare)

    @scenario
    async def test_no_step_of_a_purge_removes_what_takes_the_place_of_an_expired_record(self, backend: Backend) -> None:
        now = NOW + TTL

        async def prepare(owner: bytes) -> Race[int, bool]:
            await self.drain(backend, now, 1_000)
            assert await backend.create(self.record(owner=owner), None, NOW)
            new = self.record(owner=owner, created_at=now, expires_at=now + TTL)

            async def check(_: int, created: bool) -> None:
                assert created is True
                await self._assert_only(backend, new, now)

            return Race(lambda: backend.purge(10, now), lambda: backend.create(new, None, now), check)

        await self.at_each_step(backend, prepare)

    @scenario
    async def test_no_step_of_a_purge_removes_what_a_clock_behind_has_renewed(self, backend: Backend) -> None:
        async def prepare(owner: bytes) -> Race[int, bool]:
            await self.drain(backend, NOW + TTL, 1_000)
            record = self.record(owner=owner)
            renewed = msgspec.structs.replace(record, version=1, expires_at=NOW + 2 * TTL)
            assert await backend.create(record, None, NOW)

            async def check(_: int, updated: bool) -> None:
                if updated:
                    await self._assert_only(backend, renewed, NOW + TTL)
                else:
                    await self._assert_gone(backend, record, NOW + TTL)

            return Race(lambda: backend.purge(10, NOW + TTL), lambda: backend.update(renewed, 0, NOW), check)

        await self.at_each_step(backend, prepare)

    # Readers

    @scenario
    async def test_a_read_that_is_overtaken_leaves_no_old_copy(self, backend: Backend) -> None:
        async def prepare(owner: bytes) -> Race[Record | None, bool]:
            record = self.record(owner=owner)
            renewed = msgspec.structs.replace(record, version=1, value=b"changed")
            assert await backend.create(record, None, NOW)

            async def check(found: Record | None, updated: bool) -> None:
                assert updated is True
                assert found in {record, renewed}
                await self._assert_only(backend, renewed)

            return Race(lambda: backend.get(record.key, NOW), lambda: backend.update(renewed, 0, NOW), check)

        await self.at_each_step(backend, prepare)

    @scenario
    async def test_rep_60_a_read_that_a_revocation_overtakes_leaves_no_copy(self, backend: Backend) -> None:
        async def prepare(owner: bytes) -> Race[Record | None, int]:
            record = self.record(owner=owner)
            assert await backend.create(record, None, NOW)

            async def check(_: Record | None, went: int) -> None:
                assert went == 1
                await self._assert_gone(backend, record)

            return Race(lambda: backend.get(record.key, NOW), lambda: backend.delete_owner(owner, NOW), check)

        await self.at_each_step(backend, prepare)

    @scenario
    async def test_a_reader_sees_an_update_whole_or_not_at_all(self, backend: Backend) -> None:
        async def prepare(owner: bytes) -> Race[bool, tuple[Record | None, list[Record]]]:
            record = self.record(owner=owner)
            renewed = msgspec.structs.replace(record, version=1, value=b"changed", expires_at=NOW + 2 * TTL)
            assert await backend.create(record, None, NOW)

            async def read() -> tuple[Record | None, list[Record]]:
                return await backend.get(record.key, NOW), await backend.list(owner, NOW)

            async def check(updated: bool, seen: tuple[Record | None, list[Record]]) -> None:
                assert updated is True
                assert seen[0] in {record, renewed}
                assert seen[1] in ([record], [renewed])

            return Race(lambda: backend.update(renewed, 0, NOW), read, check)

        await self.at_each_step(backend, prepare)

    @scenario
    async def test_a_list_that_is_overtaken_misses_no_record_that_stays(self, backend: Backend) -> None:
        async def prepare(owner: bytes) -> Race[list[Record], bool]:
            stays, goes = self.record(b"a", owner), self.record(b"b", owner)
            for record in (stays, goes):
                assert await backend.create(record, None, NOW)

            async def check(seen: list[Record], deleted: bool) -> None:
                assert deleted is True
                assert seen in ([goes, stays], [stays])

            return Race(lambda: backend.list(owner, NOW), lambda: backend.delete(goes.key, NOW), check)

        await self.at_each_step(backend, prepare)


class InterleavingTests(WriteInterleavingTests, ReadInterleavingTests):
    """Two parallel verbs, with one stopped at each of its steps."""
