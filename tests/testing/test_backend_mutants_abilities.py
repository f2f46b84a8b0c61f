"""Backends with a planted fault in what they offer beyond the verbs, or in how they fail.

See `test_backend_mutants`.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
import pytest

from harness.mutants import Mutant, Mutants, assert_caught
from harness.small_backend import DriverError, NearBackend, SmallBackend, SmallTransactional, Store
from harness.small_suites import small, small_async
from powauth.backends.base import (
    Change,
    Create,
    Millis,
    Mode,
    ReadsInPlace,
    Record,
    ScanPage,
    Transactional,
    WouldWaitError,
    make_one_by_one,
)
from powauth.errors import StoreUnavailable

mutants = Mutants(small=small)
races = Mutants(threads=small, tasks=small_async)


# Copies


@mutants.caught_by("test_rep_60_nothing_is_seen_of_a_record_once_it_is_gone")
class CopySurvivesDeleteOwner(NearBackend):
    """A copy that peek serves survives delete_owner."""

    def remove_owned(self, store: Store, owner: bytes, now: Millis, keep: bytes | None) -> int:
        copies = dict(self.copies)
        went = super().remove_owned(store, owner, now, keep)
        self.copies |= copies
        return went


@mutants.caught_by("test_rep_60_nothing_is_seen_of_many_records_once_they_are_revoked")
class SomeCopiesSurviveDeleteOwner(NearBackend):
    """delete_owner drops the copies of the last ten records alone."""

    def remove_owned(self, store: Store, owner: bytes, now: Millis, keep: bytes | None) -> int:
        owned = [record.key for record in self.owned(store, owner)]
        survivors = {key: self.copies[key] for key in owned[:-10] if key in self.copies}
        went = super().remove_owned(store, owner, now, keep)
        self.copies |= survivors
        return went


@mutants.caught_by("test_rep_60_nothing_is_seen_of_a_record_once_it_is_gone")
class CopySurvivesDelete(NearBackend):
    """A copy that peek serves survives delete."""

    async def delete(self, key: bytes, now: Millis) -> bool:
        copy = self.copies.get(key)
        deleted = await super().delete(key, now)
        if copy is not None:
            self.copies[key] = copy
        return deleted


@mutants.caught_by("test_no_older_state_is_seen_of_a_record_after_a_change")
class CopySurvivesUpdate(NearBackend):
    """A copy that peek serves survives an update."""

    async def update(self, record: Record, expected_version: int, now: Millis) -> bool:
        copy = self.copies.get(record.key)
        updated = await super().update(record, expected_version, now)
        if copy is not None:
            self.copies[record.key] = copy
        return updated


@mutants.caught_by("test_no_older_state_is_seen_of_a_record_after_a_change")
class CopySurvivesChange(NearBackend, Transactional):
    """A copy that peek serves survives a change."""

    async def change(self, changes: Sequence[Change], now: Millis) -> int:
        copies = dict(self.copies)
        made = await make_one_by_one(self, changes, now)
        self.copies |= copies
        return made


@mutants.caught_by("test_no_older_state_is_seen_of_a_record_after_a_change")
class CopySurvivesItsReplacement(NearBackend):
    """The copy of an expired record survives a create in its place."""

    async def create(self, record: Record, epoch: int | None, now: Millis) -> bool:
        copy = self.copies.get(record.key)
        created = await super().create(record, epoch, now)
        if copy is not None:
            self.copies[record.key] = msgspec.structs.replace(copy, expires_at=record.expires_at)
        return created


@races.caught_by("test_a_read_that_is_overtaken_leaves_no_old_copy")
class KeepsWhatWasOvertaken(NearBackend):
    """A read keeps a copy of what it found, whatever was written meanwhile."""

    async def get(self, key: bytes, now: Millis) -> Record | None:
        found = await SmallBackend.get(self, key, now)
        if found is not None:
            self.copies[key] = found
        return found

    peek = NearBackend.peek  # right for this `get`, too


@races.caught_by("test_rep_60_a_read_that_a_revocation_overtakes_leaves_no_copy")
class KeepsWhatWasRevoked(KeepsWhatWasOvertaken):
    """A read keeps a copy of what it found, whatever was revoked meanwhile."""


@mutants.caught_by("test_what_was_seen_expires_to_the_millisecond")
class CopiesDoNotExpire(NearBackend):
    """A copy is served after its expiry."""

    def record_of(self, key: bytes, seen: Any, now: Millis) -> Record | None:
        return super().record_of(key, seen, 0)


@mutants.caught_by("test_what_can_be_seen_is_the_same_until_somebody_writes")
class SeesTheKeyAlone(NearBackend):
    """What peek sees of a record is the same after a write."""

    def peek(self, key: bytes, now: Millis) -> object:
        super().peek(key, now)
        return key

    def record_of(self, key: bytes, seen: Any, now: Millis) -> Record | None:
        return super().record_of(key, self.copies[key], now)


@mutants.caught_by("test_what_can_be_seen_is_the_same_until_somebody_writes")
class SeesATime(NearBackend):
    """What peek sees of a record changes by itself."""

    def peek(self, key: bytes, now: Millis) -> object:
        return super().peek(key, now), now

    def record_of(self, key: bytes, seen: Any, now: Millis) -> Record | None:
        return super().record_of(key, seen[0], now)


@mutants.caught_by("test_a_backend_that_serves_no_copies_sees_in_place_what_others_write")
class SaysThatCopiesAreTheEngine(SmallBackend, ReadsInPlace):
    """peek serves copies, and the backend does not say so: it is no ServesCopies."""

    def __init__(self, store: Store | None = None, mode: Mode = "inline") -> None:
        super().__init__(store, mode)
        self.near = NearBackend(self.store, mode)

    async def get(self, key: bytes, now: Millis) -> Record | None:
        return await self.near.get(key, now)

    def peek(self, key: bytes, now: Millis) -> object:
        return self.near.peek(key, now)

    def record_of(self, key: bytes, seen: Any, now: Millis) -> Record | None:
        return self.near.record_of(key, seen, now)


@mutants.caught_by("test_a_fresh_read_sees_what_others_write")
class FreshReadsServeCopies(NearBackend):
    """get_fresh serves copies."""

    async def get_fresh(self, key: bytes, now: Millis) -> Record | None:
        copy = self.copies.get(key)
        return copy if copy is not None and self.is_live(copy, now) else await self.get(key, now)


# A common count of epochs


@mutants.caught_by("test_no_epoch_is_above_the_latest")
class LatestIsBehind(SmallBackend):
    """The latest epoch is the one before."""

    async def latest_epoch(self, now: Millis) -> int:
        return max(0, await super().latest_epoch(now) - 1)


@mutants.caught_by("test_the_latest_epoch_serves_whoever_the_owner_is")
class LatestIsAhead(SmallBackend):
    """The latest epoch is one that has not been given, and that a create accepts."""

    async def latest_epoch(self, now: Millis) -> int:
        return await super().latest_epoch(now) + 1

    def is_current(self, store: Store, owner: bytes, epoch: int) -> bool:
        return self.epoch_of(store, owner) <= epoch


@mutants.caught_by("test_the_latest_epoch_is_never_given_again")
class CountsAnewAfterAPurge(SmallBackend):
    """The count of epochs begins again when the last epoch is forgotten."""

    async def purge(self, limit: int, now: Millis) -> int:
        went = await super().purge(limit, now)
        with self.command() as store:
            store.moves = max((epoch for epoch, _ in store.epochs.values()), default=0)
        return went


@mutants.caught_by("test_the_latest_epoch_serves_whoever_the_owner_is")
class OwnersCountApart(SmallBackend):
    """Each owner has a count of its own, so the latest epoch says nothing of the others."""

    def advance(self, store: Store, owner: bytes, now: Millis) -> int:
        epoch = self.epoch_of(store, owner) + 1
        store.moves = max(store.moves, epoch)
        store.epochs[owner] = (epoch, now)
        return epoch


# Several changes


@mutants.caught_by("test_changes_are_made_in_order_up_to_the_first_that_cannot_be")
class GoesOnAfterAFailure(SmallTransactional):
    """A change that cannot be made is left out, and those after it are made."""

    async def change(self, changes: Sequence[Change], now: Millis) -> int:
        return sum([await make_one_by_one(self, [each], now) for each in changes])


@mutants.caught_by("test_changes_are_made_in_order_up_to_the_first_that_cannot_be")
class UndoesAllAfterAFailure(SmallTransactional):
    """A change that cannot be made undoes those before it."""

    async def change(self, changes: Sequence[Change], now: Millis) -> int:
        with self.command() as store:
            before = dict(store.records)
            made = await super().change(changes, now)
            if made < len(changes):
                store.records = before
            return made


@mutants.caught_by("test_changes_see_those_before_them_and_ask_for_the_epoch")
class ChangesIgnoreEpochs(SmallTransactional):
    """A create among several changes does not look at the epoch."""

    async def change(self, changes: Sequence[Change], now: Millis) -> int:
        unguarded = [Create(each.record) if isinstance(each, Create) else each for each in changes]
        return await super().change(unguarded, now)


@races.caught_by("test_a_reader_sees_all_changes_of_a_transaction_or_none")
class SaysThatItHasTransactions(SmallTransactional):
    """The backend says that it is Transactional, and makes changes one by one."""

    async def change(self, changes: Sequence[Change], now: Millis) -> int:
        return await make_one_by_one(self, changes, now)


# An engine that fails


@mutants.caught_by("test_a_closed_backend_is_unavailable")
class WorksAfterClosing(SmallBackend):
    """A closed backend goes on."""

    async def close(self) -> None:
        return


@mutants.caught_by("test_a_closed_backend_is_unavailable")
class ServesCopiesAfterClosing(NearBackend):
    """A closed backend still serves its copies."""

    def peek(self, key: bytes, now: Millis) -> object:
        if key not in self.copies:
            raise WouldWaitError
        return self.copies[key]


class _Leaks(SmallBackend):
    async def count(self, namespace: str, now: Millis) -> int:
        with self.store.command() as store:
            if self.closed:
                raise StoreUnavailable("closed")
            return len(self.in_namespace(store, namespace, now))


@mutants.caught_by("test_rep_61_an_engine_out_of_reach_is_unavailable")
class LeaksAtFirst(_Leaks):
    """The driver's error leaks from count if the engine is out of reach."""


@mutants.caught_by("test_rep_61_an_engine_that_breaks_is_unavailable_until_it_is_mended")
class LeaksLater(_Leaks):
    """The driver's error leaks from count if the engine breaks."""


@mutants.caught_by("test_rep_61_an_engine_that_breaks_is_unavailable_until_it_is_mended")
class LeaksFromAMove(SmallBackend):
    """The driver's error leaks if an epoch is moved."""

    async def epoch(self, owner: bytes, now: Millis, *, advance: bool = False) -> int:
        if advance and not self.closed:
            with self.store.command():
                pass
        return await super().epoch(owner, now, advance=advance)


@mutants.caught_by("test_rep_61_an_engine_out_of_reach_is_unavailable")
class HidesTheCause(SmallBackend):
    """StoreUnavailable comes without the driver's error as its cause."""

    async def scan(self, namespace: str, cursor: str | None, limit: int, now: Millis) -> ScanPage:
        try:
            return await super().scan(namespace, cursor, limit, now)
        except StoreUnavailable:
            raise StoreUnavailable("the store did not answer") from None


@mutants.caught_by("test_rep_61_an_engine_that_breaks_is_unavailable_until_it_is_mended")
class OutageIsAbsence(SmallBackend):
    """A read answers None during an outage, which signs everybody out."""

    async def get(self, key: bytes, now: Millis) -> Record | None:
        with suppress(StoreUnavailable):
            return await super().get(key, now)
        return None


@mutants.caught_by("test_rep_61_an_engine_out_of_reach_is_unavailable")
class OutageIsNoRecord(SmallBackend):
    """A count answers 0 during an outage."""

    async def count(self, namespace: str, now: Millis) -> int:
        with suppress(StoreUnavailable):
            return await super().count(namespace, now)
        return 0


@mutants.caught_by("test_rep_61_an_engine_that_breaks_is_unavailable_until_it_is_mended")
class NeverReconnects(SmallBackend):
    """After an outage the backend stays unavailable."""

    async def get(self, key: bytes, now: Millis) -> Record | None:
        try:
            return await super().get(key, now)
        except StoreUnavailable:
            self.closed = True
            raise


@mutants.caught_by("test_a_verb_that_is_cancelled_leaves_a_backend_that_works", tasks=small_async)
class CancelledHoldsALock(SmallBackend):
    """A cancelled verb never gives its lock back."""

    def __init__(self, store: Store | None = None, mode: Mode = "inline") -> None:
        super().__init__(store, mode)
        self._held = False

    async def delete(self, key: bytes, now: Millis) -> bool:
        if self._held:
            raise StoreUnavailable("all connections are in use") from DriverError()
        self._held = True
        deleted = await super().delete(key, now)
        self._held = False
        return deleted


@mutants.caught_by("test_a_verb_that_is_cancelled_leaves_a_backend_that_works", tasks=small_async)
class CancellationIsAnOutage(SmallBackend):
    """A cancelled read raises another error."""

    async def get(self, key: bytes, now: Millis) -> Record | None:
        try:
            return await super().get(key, now)
        except asyncio.CancelledError as error:
            raise DriverError from error


# A second connection


@mutants.caught_by("test_sto_06_a_second_connection_sees_each_change_at_once")
class ReadsItsOwnCopies(SmallBackend):
    """A read serves copies, which other connections do not know of, and the backend is no ServesCopies."""

    def __init__(self, store: Store | None = None, mode: Mode = "inline") -> None:
        super().__init__(store, mode)
        self.copies: dict[bytes, Record] = {}

    async def get(self, key: bytes, now: Millis) -> Record | None:
        copy = self.copies.get(key)
        if copy is not None and self.is_live(copy, now):
            return copy
        found = await super().get(key, now)
        if found is not None:
            self.copies[key] = found
        return found


@mutants.caught_by("test_sto_06_a_second_connection_sees_each_change_at_once")
class EpochsOfItsOwn(SmallBackend):
    """Each connection has epochs of its own."""

    def __init__(self, store: Store | None = None, mode: Mode = "inline") -> None:
        super().__init__(store, mode)
        self._epochs: dict[bytes, int] = {}

    def epoch_of(self, store: Store, owner: bytes) -> int:
        return self._epochs.get(owner, 0)

    def advance(self, store: Store, owner: bytes, now: Millis) -> int:
        self._epochs[owner] = super().advance(store, owner, now)
        return self._epochs[owner]


@pytest.mark.untraced
@pytest.mark.parametrize("mutant", [*mutants.all, *races.all], ids=str)
def test_the_suite_catches_every_mutant_every_time(mutant: Mutant) -> None:
    assert_caught(mutant)
