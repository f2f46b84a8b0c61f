"""Backends whose fault shows with two verbs at once; see `test_backend_mutants`.

Each fault is planted twice: in a backend whose verbs run in threads, and in an ``async`` one.
"""

import msgspec
import pytest

from harness.mutants import Mutant, Mutants, assert_caught
from harness.small_backend import SmallBackend, Store
from harness.small_suites import small, small_async
from powauth.backends.base import Millis, Record

races = Mutants(threads=small, tasks=small_async)


# A sign-in and a revocation


@races.caught_by("test_rep_61_no_step_of_delete_owner_lets_a_create_slip_past")
class MovesTheEpochAfterwards(SmallBackend):
    """delete_owner moves the epoch after the deletion, in a second command."""

    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        with self.command() as store:
            went = self.remove_owned(store, owner, now, keep)
        await self.wait()
        with self.command() as store:
            self.advance(store, owner, now)
        return went


@races.caught_by("test_rep_61_no_step_of_delete_owner_lets_a_create_slip_past")
class LooksBeforeTheEpochMoves(SmallBackend):
    """delete_owner removes the records that it found before it moved the epoch."""

    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        with self.command() as store:
            found = [record for record in self.owned(store, owner) if record.key != keep]
        await self.wait()
        with self.command() as store:
            self.advance(store, owner, now)
            for record in found:
                self.drop(store, record.key)
        return sum(self.is_live(record, now) for record in found)


@races.caught_by("test_rep_61_no_step_of_a_create_lets_it_slip_past_delete_owner")
class ChecksTheEpochBefore(SmallBackend):
    """A create looks at the epoch, and adds the record in a second command."""

    async def create(self, record: Record, epoch: int | None, now: Millis) -> bool:
        with self.command() as store:
            if epoch is not None and not self.is_current(store, record.owner, epoch):
                return False
        return await super().create(record, None, now)


@races.caught_by("test_rep_61_no_step_of_a_create_lets_it_slip_past_delete_owner")
class ListsTheRecordAfterwards(SmallBackend):
    """A create adds the record to its owner's list in a second command."""

    def owned(self, store: Store, owner: bytes) -> list[Record]:
        listed: set[bytes] = store.__dict__.setdefault("listed", set())
        return [record for record in super().owned(store, owner) if record.key in listed]

    async def create(self, record: Record, epoch: int | None, now: Millis) -> bool:
        created = await super().create(record, epoch, now)
        with self.command() as store:
            store.__dict__.setdefault("listed", set()).add(record.key)
        return created


@races.caught_by("test_no_step_of_moving_an_epoch_lets_a_create_slip_past")
class CreatesAndThenAsks(SmallBackend):
    """A create adds the record first, and takes it away again if the epoch has moved."""

    async def create(self, record: Record, epoch: int | None, now: Millis) -> bool:
        created = await super().create(record, None, now)
        with self.command() as store:
            if created and epoch is not None and not self.is_current(store, record.owner, epoch):
                return False
        return created


@races.caught_by("test_two_moves_of_an_epoch_give_two_epochs_at_each_step")
class ReadsAndThenMoves(SmallBackend):
    """An epoch is read in one command, and written in another."""

    async def epoch(self, owner: bytes, now: Millis, *, advance: bool = False) -> int:
        epoch = await super().epoch(owner, now)
        if advance:
            epoch += 1
            with self.command() as store:
                store.moves = max(store.moves, epoch)
                store.epochs[owner] = (epoch, now)
        return epoch


# A renewal, and a sign-out or a revocation


class _ReadsAndThenWrites(SmallBackend):
    async def update(self, record: Record, expected_version: int, now: Millis) -> bool:
        with self.command() as store:
            if not self.may_update(store, record, expected_version, now):
                return False
        await self.wait()
        with self.command() as store:
            self.put(store, record)
        return True


@races.caught_by("test_no_step_of_an_update_revives_a_deleted_record")
class RevivesTheDeleted(_ReadsAndThenWrites):
    """An update reads in one command and writes in another, whatever was deleted meanwhile."""


@races.caught_by("test_no_step_of_an_update_survives_delete_owner")
class RevivesTheRevoked(_ReadsAndThenWrites):
    """An update reads in one command and writes in another, whatever was revoked meanwhile."""


@races.caught_by("test_one_of_two_updates_wins_at_each_step")
class BothUpdatesWin(_ReadsAndThenWrites):
    """An update compares the version in one command and writes in another."""


@races.caught_by("test_no_step_of_a_delete_lets_an_update_revive_the_record")
class DeletesWhatItHasRead(SmallBackend):
    """A delete reads the record, and removes it only if it is still the same."""

    async def delete(self, key: bytes, now: Millis) -> bool:
        found = await self.get(key, now)
        with self.command() as store:
            if store.records.get(key) == found:
                self.drop(store, key)
        return found is not None


@races.caught_by("test_no_step_of_delete_owner_lets_an_update_revive_a_record")
class RevokesWhatItHasRead(SmallBackend):
    """delete_owner reads the records, and removes those that are still the same."""

    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        await self.epoch(owner, now, advance=True)
        found = [record for record in await self.list(owner, now) if record.key != keep]
        with self.command() as store:
            for record in found:
                if store.records.get(record.key) == record:
                    self.drop(store, record.key)
        return len(found)


@races.caught_by("test_the_record_that_delete_owner_keeps_can_be_updated_at_each_step")
class KeepsByWritingAgain(SmallBackend):
    """delete_owner removes all records, and writes the kept one again."""

    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        kept = None if keep is None else await self.get(keep, now)
        went = await super().delete_owner(owner, now)
        await self.wait()
        if kept is not None and kept.owner == owner:
            with self.command() as store:
                self.put(store, kept)
            went -= 1
        return went


# Two of a kind


class _LooksAndThenCreates(SmallBackend):
    async def create(self, record: Record, epoch: int | None, now: Millis) -> bool:
        with self.command() as store:
            if not self.may_create(store, record, epoch, now):
                return False
        await self.wait()
        with self.command() as store:
            self.put(store, record)
        return True


@races.caught_by("test_one_of_two_creates_wins_at_each_step")
class BothCreatesWin(_LooksAndThenCreates):
    """A create looks whether there is a record in one command, and adds it in another."""


@races.caught_by("test_one_of_two_creates_takes_the_place_of_an_expired_record")
class BothReplaceTheExpired(SmallBackend):
    """A create removes an expired record in one command, and adds the new one in another."""

    async def create(self, record: Record, epoch: int | None, now: Millis) -> bool:
        with self.command() as store:
            has_expired = record.key in store.records and self.live(store, record.key, now) is None
        await self.wait()
        if has_expired:
            with self.command() as store:
                self.drop(store, record.key)
        return await super().create(record, epoch, now)


@races.caught_by("test_one_of_two_deletes_wins_at_each_step")
class BothDeletesWin(SmallBackend):
    """A delete looks whether there is a record in one command, and removes it in another."""

    async def delete(self, key: bytes, now: Millis) -> bool:
        found = await self.get(key, now)
        await super().delete(key, now)
        return found is not None


# What has expired


@races.caught_by("test_no_step_of_a_read_removes_what_takes_the_place_of_an_expired_record")
class ReadRemovesByKey(SmallBackend):
    """A read that finds an expired record removes what is under its key, in a second command."""

    async def get(self, key: bytes, now: Millis) -> Record | None:
        found = await super().get(key, now)
        if found is None:
            with self.command() as store:
                self.drop(store, key)
        return found


@races.caught_by("test_no_step_of_a_purge_removes_what_takes_the_place_of_an_expired_record")
class PurgeRemovesByKey(SmallBackend):
    """A purge removes what is under the keys that it found expired, in a second command."""

    async def purge(self, limit: int, now: Millis) -> int:
        with self.command() as store:
            keys = self.expired(store, now)[:limit]
        await self.wait()
        with self.command() as store:
            for key in keys:
                self.drop(store, key)
        return len(keys)


@races.caught_by("test_no_step_of_a_purge_removes_what_a_clock_behind_has_renewed")
class PurgeRemovesTheRenewed(PurgeRemovesByKey):
    """A purge removes what was renewed, by a clock that is behind, since it looked."""


# Readers


@races.caught_by("test_a_reader_sees_an_update_whole_or_not_at_all")
class WritesTheExpiryAfterwards(SmallBackend):
    """An update writes the value in one command, and the expiry in another."""

    async def update(self, record: Record, expected_version: int, now: Millis) -> bool:
        old = await self.get(record.key, now)
        expires_at = record.expires_at if old is None else old.expires_at
        updated = await super().update(msgspec.structs.replace(record, expires_at=expires_at), expected_version, now)
        if updated:
            with self.command() as store:
                self.put(store, record)
        return updated


@races.caught_by("test_a_reader_sees_an_update_whole_or_not_at_all")
class UpdatesByReplacing(SmallBackend):
    """An update deletes the old record in one command, and adds the new one in another."""

    async def update(self, record: Record, expected_version: int, now: Millis) -> bool:
        with self.command() as store:
            if not self.may_update(store, record, expected_version, now):
                return False
            self.drop(store, record.key)
        await self.wait()
        return await self.create(record, None, now)


@races.caught_by("test_a_list_that_is_overtaken_misses_no_record_that_stays")
class ListsByPosition(SmallBackend):
    """A list is read record by record, by position."""

    async def list(self, owner: bytes, now: Millis) -> list[Record]:
        found: list[Record] = []
        while True:
            listed = await super().list(owner, now)
            if len(found) >= len(listed):
                return found
            found.append(listed[len(found)])


@races.caught_by("test_a_list_that_is_overtaken_misses_no_record_that_stays")
class ListStopsAtAGap(SmallBackend):
    """A list reads the keys first, and ends at the first record that is gone."""

    async def list(self, owner: bytes, now: Millis) -> list[Record]:
        found = []
        for each in await super().list(owner, now):
            record = await self.get(each.key, now)
            if record is None:
                break
            found.append(record)
        return found


@pytest.mark.untraced
@pytest.mark.parametrize("mutant", races.all, ids=str)
def test_the_suite_catches_every_mutant_every_time(mutant: Mutant) -> None:
    assert_caught(mutant)
