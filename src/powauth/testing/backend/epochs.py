"""Tests of the epochs of owners."""

# ruff: noqa: D102 the name of a test is its sentence

from powauth.backends.base import EPOCH_LIFETIME, Backend, make_owner
from powauth.testing.backend.suite import MINUTE, NOW, TTL, Suite, scenario


class EpochTests(Suite):
    """An epoch for each owner."""

    @scenario
    async def test_an_epoch_stays_the_same_until_it_is_moved(self, backend: Backend) -> None:
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

    @scenario
    async def test_create_wants_the_present_epoch(self, backend: Backend) -> None:
        before = await backend.epoch(self.owner(), NOW)
        moved = await backend.epoch(self.owner(), NOW, advance=True)
        for wrong in (before, moved + 1):
            assert await backend.create(self.record(), wrong, NOW) is False
            assert await self.find(backend, self.record().key, NOW) is None
            assert await backend.list(self.owner(), NOW) == []
        assert await backend.create(self.record(), moved, NOW) is True
        assert await self.find(backend, self.record().key, NOW) == self.record()

    @scenario
    async def test_create_wants_the_present_epoch_also_where_none_was_moved(self, backend: Backend) -> None:
        before = await backend.epoch(self.owner(), NOW)
        assert await backend.create(self.record(), before + 1, NOW) is False
        assert await self.find(backend, self.record().key, NOW) is None

    @scenario
    async def test_create_without_an_epoch_is_not_guarded(self, backend: Backend) -> None:
        await backend.epoch(self.owner(), NOW, advance=True)
        assert await backend.create(self.record(), None, NOW) is True
        assert await self.find(backend, self.record().key, NOW) == self.record()

    @scenario
    async def test_a_create_that_began_before_delete_owner_does_not_survive_it(self, backend: Backend) -> None:
        earlier = await backend.epoch(self.owner(), NOW)
        assert await backend.create(self.record(b"a"), earlier, NOW)
        assert await backend.delete_owner(self.owner(), NOW + 1) == 1
        assert await backend.create(self.record(b"b"), earlier, NOW + 2) is False
        assert await backend.list(self.owner(), NOW + 2) == []
        later = await backend.epoch(self.owner(), NOW + 2)
        assert later != earlier
        assert await backend.create(self.record(b"b"), later, NOW + 2) is True

    @scenario
    async def test_delete_owner_moves_the_epoch_also_where_there_is_nothing_to_delete(self, backend: Backend) -> None:
        earlier = await backend.epoch(self.owner(), NOW)
        assert await backend.delete_owner(self.owner(), NOW) == 0
        assert await backend.create(self.record(), earlier, NOW) is False

    @scenario
    async def test_an_epoch_is_remembered_for_its_lifetime(self, backend: Backend) -> None:
        earlier = await backend.epoch(self.owner(), NOW)
        assert await backend.delete_owner(self.owner(), NOW) == 0
        now = NOW + EPOCH_LIFETIME - 1
        assert await self.drain(backend, now) == 0
        assert await backend.epoch(self.owner(), now) != earlier
        assert await backend.create(self.record(expires_at=now + TTL), earlier, now) is False

    @scenario
    async def test_moving_an_epoch_again_renews_its_lifetime(self, backend: Backend) -> None:
        await backend.epoch(self.owner(), NOW, advance=True)
        between = NOW + EPOCH_LIFETIME - MINUTE
        earlier = await backend.epoch(self.owner(), between)
        moved = await backend.epoch(self.owner(), between, advance=True)
        now = between + EPOCH_LIFETIME - 1
        assert await self.drain(backend, now) == 0
        assert await backend.epoch(self.owner(), now) == moved
        assert await backend.create(self.record(expires_at=now + TTL), earlier, now) is False

    @scenario
    async def test_a_forgotten_epoch_leaves_an_owner_that_works(self, backend: Backend) -> None:
        await backend.delete_owner(self.owner(), NOW)
        now = NOW + 3 * EPOCH_LIFETIME
        await self.drain(backend, now)
        epoch = await backend.epoch(self.owner(), now)
        assert await backend.epoch(self.owner(), now) == epoch
        record = self.record(created_at=now, expires_at=now + TTL)
        assert await backend.create(record, epoch, now) is True
        assert await backend.delete_owner(self.owner(), now) == 1
        assert await backend.create(record, epoch, now) is False

    @scenario
    async def test_epochs_are_apart_for_each_owner_and_namespace(self, backend: Backend) -> None:
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
