"""Tests of verbs that run in parallel."""

# ruff: noqa: D102 the name of a test is its sentence

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from powauth.backends.base import Backend, Millis, Record, ServesCopies
from powauth.testing.backend.suite import NOW, Suite, scenario


class ConcurrencyTests(Suite):
    """Many threads or tasks, and a second connection."""

    @scenario
    async def test_sto_05_one_of_many_creates_wins(self, backend: Backend) -> None:
        records = [self.record(value=b"%d" % number) for number in range(self.contenders)]
        won = await self.race(backend, [lambda r=record: backend.create(r, None, NOW) for record in records])  # type: ignore[misc]
        assert sum(won) == 1
        winner = records[won.index(True)]
        assert await self.find(backend, winner.key, NOW) == winner
        assert await backend.list(winner.owner, NOW) == [winner]

    @scenario
    async def test_sto_05_one_of_many_updates_wins(self, backend: Backend) -> None:
        assert await backend.create(self.record(), None, NOW)
        records = [self.record(version=1, value=b"%d" % number) for number in range(self.contenders)]
        won = await self.race(backend, [lambda r=record: backend.update(r, 0, NOW) for record in records])  # type: ignore[misc]
        assert sum(won) == 1
        winner = records[won.index(True)]
        assert await self.find(backend, winner.key, NOW) == winner
        assert await backend.list(winner.owner, NOW) == [winner]

    @scenario
    async def test_sto_05_one_of_many_deletes_wins(self, backend: Backend) -> None:
        record = self.record()
        assert await backend.create(record, None, NOW)
        won = await self.race(backend, [lambda: backend.delete(record.key, NOW)] * self.contenders)
        assert sum(won) == 1
        assert await self.find(backend, record.key, NOW) is None
        assert await backend.list(record.owner, NOW) == []

    @scenario
    async def test_sto_05_an_update_that_races_a_delete_does_not_revive_the_record(self, backend: Backend) -> None:
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
        assert await self.find(backend, record.key, NOW) is None
        assert await backend.list(record.owner, NOW) == []

    @scenario
    async def test_sto_05_no_create_slips_past_delete_owner(self, backend: Backend) -> None:
        epoch = await backend.epoch(self.owner(), NOW)
        records = [self.record(b"%d" % number) for number in range(self.contenders)]

        async def create(record: Record) -> int:
            return -int(await backend.create(record, epoch, NOW))

        starts: list[Callable[[], Coroutine[Any, Any, int]]] = [lambda r=record: create(r) for record in records]  # type: ignore[misc]
        starts.insert(len(starts) // 2, lambda: backend.delete_owner(self.owner(), NOW))
        assert sum(await self.race(backend, starts)) == 0, "as many went as had been created"
        assert await backend.list(self.owner(), NOW) == []
        for record in records:
            assert await self.find(backend, record.key, NOW) is None
        assert await backend.count(self.namespace, NOW) == 0

    @scenario
    async def test_sto_05_many_advances_give_as_many_epochs(self, backend: Backend) -> None:
        epochs = await self.race(backend, [lambda: backend.epoch(self.owner(), NOW, advance=True)] * self.contenders)
        assert len(set(epochs)) == self.contenders
        assert await backend.epoch(self.owner(), NOW) in epochs

    @scenario
    async def test_sto_05_an_owners_list_survives_concurrent_sign_ins_and_outs(self, backend: Backend) -> None:
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

    async def _fresh(self, backend: Backend, key: bytes, now: Millis) -> Record | None:
        """Read the record from the engine, because a copy may be outdated."""
        return await (
            backend.get_fresh(key, now) if isinstance(backend, ServesCopies) else self.find(backend, key, now)
        )

    @scenario
    async def test_sto_06_a_second_connection_sees_each_change_at_once(self, backend: Backend) -> None:
        other = self.second(backend)
        try:
            for here, there in [(backend, other), (other, backend)] * 3:
                assert await self._fresh(there, self.record().key, NOW) is None
                epoch = await there.epoch(self.owner(), NOW)
                assert await here.epoch(self.owner(), NOW) == epoch
                assert await here.create(self.record(), epoch, NOW) is True
                assert await self._fresh(there, self.record().key, NOW) == self.record()
                assert await there.list(self.owner(), NOW) == [self.record()]
                assert await there.count(self.namespace, NOW) == 1
                assert await there.create(self.record(), epoch, NOW) is False
                renewed = self.record(version=1, value=b"renewed")
                assert await here.update(renewed, 0, NOW) is True
                assert await there.update(renewed, 0, NOW) is False
                assert await self._fresh(there, renewed.key, NOW) == renewed
                assert await here.delete(renewed.key, NOW) is True
                assert await self._fresh(there, renewed.key, NOW) is None
                assert await there.delete(renewed.key, NOW) is False
                assert await there.create(self.record(b"b"), epoch, NOW) is True
                assert await here.delete_owner(self.owner(), NOW) == 1
                assert await there.list(self.owner(), NOW) == []
                assert await there.epoch(self.owner(), NOW) != epoch
                assert await there.create(self.record(), epoch, NOW) is False
        finally:
            await other.close()
