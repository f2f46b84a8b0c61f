"""Backends with a planted fault in what concerns owners, epochs or the whole store; see `test_backend_mutants`."""

from collections.abc import Sequence

import pytest

from harness.mutants import Mutant, Mutants, assert_caught
from harness.small_backend import SmallBackend, Store
from harness.small_suites import small
from powauth.backends.base import EPOCH_LIFETIME, Millis, Mode, Record, ScanPage

mutants = Mutants(small=small)

MILLISECOND_TEST = "test_rep_61_an_expiry_is_exact_to_the_millisecond"
PAGES_TEST = "test_rep_61_no_page_of_many_records_is_cut"


# Owners


@mutants.caught_by("test_list_is_newest_first_and_ties_go_by_key_descending")
class OldestFirst(SmallBackend):
    """A list begins with the oldest record."""

    def ordered(self, records: list[Record]) -> list[Record]:
        return super().ordered(records)[::-1]


@mutants.caught_by("test_list_is_newest_first_and_ties_go_by_key_descending")
class TiesAscending(SmallBackend):
    """Records of one time are listed in the order of their keys."""

    def ordered(self, records: list[Record]) -> list[Record]:
        return sorted(sorted(records, key=lambda record: record.key), key=lambda record: -record.created_at)


@mutants.caught_by("test_list_is_newest_first_and_ties_go_by_key_descending")
class OrderedBySeconds(SmallBackend):
    """Records of one second are listed in the order of their keys."""

    def ordered(self, records: list[Record]) -> list[Record]:
        return sorted(records, key=lambda record: (record.created_at // 1000, record.key), reverse=True)


@mutants.caught_by("test_list_holds_only_live_records")
class ListsWhatHasExpired(SmallBackend):
    """A list holds expired records until they are purged."""

    async def list(self, owner: bytes, now: Millis) -> list[Record]:
        return await super().list(owner, 0)


@mutants.caught_by("test_list_holds_only_the_owners_records")
class ListsByPrefix(SmallBackend):
    """A list holds the records of owners whose name begins like the owner's."""

    def owned(self, store: Store, owner: bytes) -> list[Record]:
        return [record for record in store.records.values() if record.owner.startswith(owner)]


@mutants.caught_by("test_list_holds_only_the_owners_records")
class OwnersWithoutCase(SmallBackend):
    """Owners are compared without letter case."""

    def owned(self, store: Store, owner: bytes) -> list[Record]:
        return [record for record in store.records.values() if record.owner.lower() == owner.lower()]


@mutants.caught_by("test_values_and_owners_up_to_the_limits")
class CutsOwners(SmallBackend):
    """Owners are compared by their first 255 bytes."""

    def owned(self, store: Store, owner: bytes) -> list[Record]:
        return [record for record in store.records.values() if record.owner[:255] == owner[:255]]


@mutants.caught_by(PAGES_TEST)
class ListsAPage(SmallBackend):
    """A list holds 500 records at most."""

    async def list(self, owner: bytes, now: Millis) -> list[Record]:
        return (await super().list(owner, now))[:500]


@mutants.caught_by(PAGES_TEST)
class DeletesAPage(SmallBackend):
    """delete_owner removes the first 500 records."""

    def owned(self, store: Store, owner: bytes) -> list[Record]:
        return super().owned(store, owner)[:500]

    async def list(self, owner: bytes, now: Millis) -> list[Record]:
        with self.command() as store:
            return self.ordered([each for each in SmallBackend.owned(self, store, owner) if self.is_live(each, now)])


@mutants.caught_by("test_delete_owner_removes_that_owners_records_alone")
class DeletesByPattern(SmallBackend):
    """delete_owner takes the user's key for a pattern."""

    def remove_owned(self, store: Store, owner: bytes, now: Millis, keep: bytes | None) -> int:
        if not owner.endswith((b"*", b"?")):
            return super().remove_owned(store, owner, now, keep)
        owners = {record.owner for record in store.records.values() if record.owner.startswith(owner[:-1])}
        return sum(super(DeletesByPattern, self).remove_owned(store, each, now, keep) for each in owners)


@mutants.caught_by("test_delete_owner_keeps_the_one_record_it_is_told_to_keep")
class KeepsNothing(SmallBackend):
    """delete_owner removes the record that it was told to keep."""

    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        return await super().delete_owner(owner, now)


@mutants.caught_by("test_delete_owner_keeps_the_one_record_it_is_told_to_keep")
class KeepsTheEpoch(SmallBackend):
    """delete_owner leaves the epoch as it is if it is told to keep a record."""

    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        if keep is None:
            return await super().delete_owner(owner, now)
        with self.command() as store:
            return self.remove_owned(store, owner, now, keep)


@mutants.caught_by("test_delete_owner_keeps_nothing_that_is_another_owners")
class KeepsAllForAnother(SmallBackend):
    """delete_owner removes nothing if the record to keep is another owner's."""

    def remove_owned(self, store: Store, owner: bytes, now: Millis, keep: bytes | None) -> int:
        kept = store.records.get(keep or b"")
        return 0 if kept is not None and kept.owner != owner else super().remove_owned(store, owner, now, keep)


@mutants.caught_by("test_delete_owner_counts_the_live_ones")
class CountsWhatHasExpired(SmallBackend):
    """delete_owner counts expired records too."""

    def remove_owned(self, store: Store, owner: bytes, now: Millis, keep: bytes | None) -> int:
        return super().remove_owned(store, owner, 0, keep)


@mutants.caught_by("test_delete_owner_removes_what_has_expired_too")
class LeavesWhatHasExpired(SmallBackend):
    """delete_owner leaves expired records, which a process whose clock is behind still accepts."""

    def remove_owned(self, store: Store, owner: bytes, now: Millis, keep: bytes | None) -> int:
        went = [each for each in self.owned(store, owner) if each.key != keep and self.is_live(each, now)]
        for record in went:
            self.drop(store, record.key)
        return len(went)


# Epochs


@mutants.caught_by("test_create_wants_the_present_epoch")
class IgnoresEpochs(SmallBackend):
    """A create does not look at the epoch."""

    def is_current(self, store: Store, owner: bytes, epoch: int) -> bool:
        return True


@mutants.caught_by("test_create_wants_the_present_epoch_also_where_none_was_moved")
class AcceptsLaterEpochs(SmallBackend):
    """A create accepts an epoch that was never given."""

    def is_current(self, store: Store, owner: bytes, epoch: int) -> bool:
        return epoch >= self.epoch_of(store, owner)


@mutants.caught_by("test_create_without_an_epoch_is_not_guarded")
class GuardsWithoutAnEpoch(SmallBackend):
    """A create without an epoch asks for epoch 0."""

    def may_create(self, store: Store, record: Record, epoch: int | None, now: Millis) -> bool:
        return super().may_create(store, record, epoch or 0, now)


@mutants.caught_by("test_delete_owner_moves_the_epoch_also_where_there_is_nothing_to_delete")
class MovesOnlyWithRecords(SmallBackend):
    """delete_owner leaves the epoch of an owner without records."""

    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        with self.command() as store:
            if not self.owned(store, owner):
                return 0
        return await super().delete_owner(owner, now, keep)


@mutants.caught_by("test_a_create_that_began_before_delete_owner_does_not_survive_it")
class NeverMoves(SmallBackend):
    """delete_owner never moves the epoch."""

    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        with self.command() as store:
            return self.remove_owned(store, owner, now, keep)


@mutants.caught_by("test_sto_05_many_advances_give_as_many_epochs")
class EpochsAreTimes(SmallBackend):
    """An epoch is the time of its move, so two moves in one millisecond give one."""

    def advance(self, store: Store, owner: bytes, now: Millis) -> int:
        store.moves = now
        store.epochs[owner] = (now, now)
        return now


@mutants.caught_by("test_epochs_are_apart_for_each_owner_and_namespace")
class OneEpochForAll(SmallBackend):
    """All owners share one epoch."""

    def epoch_of(self, store: Store, owner: bytes) -> int:
        return store.moves


@mutants.caught_by("test_an_epoch_stays_the_same_until_it_is_moved")
class CreateMovesTheEpoch(SmallBackend):
    """Each create moves the epoch."""

    def put(self, store: Store, record: Record) -> None:
        super().put(store, record)
        self.advance(store, record.owner, record.created_at)


@mutants.caught_by("test_an_epoch_is_remembered_for_its_lifetime")
class ForgetsTooEarly(SmallBackend):
    """A purge forgets an epoch a minute before its time."""

    def forgotten(self, store: Store, now: Millis) -> Sequence[bytes]:
        return super().forgotten(store, now + 60_000)


@mutants.caught_by("test_moving_an_epoch_again_renews_its_lifetime")
class ForgetsByTheFirstMove(SmallBackend):
    """The lifetime of an epoch begins with the first move."""

    def advance(self, store: Store, owner: bytes, now: Millis) -> int:
        first = store.epochs.get(owner, (0, now))[1]
        moved = super().advance(store, owner, now)
        store.epochs[owner] = (moved, first)
        return moved


@mutants.caught_by("test_a_forgotten_epoch_leaves_an_owner_that_works")
class ForgetsForGood(SmallBackend):
    """An owner whose epoch was forgotten gets no new record."""

    def may_create(self, store: Store, record: Record, epoch: int | None, now: Millis) -> bool:
        forgotten = bool(store.moves) and record.owner not in store.epochs and now > record.created_at - EPOCH_LIFETIME
        return not (forgotten and epoch is not None) and super().may_create(store, record, epoch, now)


# purge, scan, count


@mutants.caught_by("test_purge_removes_what_expired_and_nothing_that_lives")
class PurgesTheLiving(SmallBackend):
    """A purge removes what expires within a second."""

    def expired(self, store: Store, now: Millis) -> Sequence[bytes]:
        return super().expired(store, now + 1000)


@mutants.caught_by("test_purge_removes_what_expired_and_nothing_that_lives")
class PurgesNothing(SmallBackend):
    """A purge removes nothing."""

    async def purge(self, limit: int, now: Millis) -> int:
        return 0


@mutants.caught_by("test_purge_removes_no_more_than_its_limit")
class PurgesAll(SmallBackend):
    """A purge does not know its limit."""

    async def purge(self, limit: int, now: Millis) -> int:
        return await super().purge(10_000, now)


@mutants.caught_by("test_purge_follows_many_renewals")
class PurgesByTheFirstExpiry(SmallBackend):
    """A purge goes by the expiry that a record was created with."""

    def __init__(self, store: Store | None = None, mode: Mode = "inline") -> None:
        super().__init__(store, mode)
        self._first: dict[bytes, Millis] = {}

    def put(self, store: Store, record: Record) -> None:
        super().put(store, record)
        self._first.setdefault(record.key, record.expires_at)

    def expired(self, store: Store, now: Millis) -> Sequence[bytes]:
        return [key for key in store.records if self._first[key] <= now]


@mutants.caught_by("test_purge_does_not_count_what_was_deleted_before")
class PurgeCountsTheDeleted(SmallBackend):
    """A purge counts what was deleted before."""

    def __init__(self, store: Store | None = None, mode: Mode = "inline") -> None:
        super().__init__(store, mode)
        self._deleted = 0

    async def delete(self, key: bytes, now: Millis) -> bool:
        self._deleted += 1
        return await super().delete(key, now)

    async def purge(self, limit: int, now: Millis) -> int:
        counted, self._deleted = min(limit, self._deleted), 0
        return await super().purge(limit - counted, now) + counted


@mutants.caught_by("test_scan_sees_every_live_record_of_its_namespace_alone")
class ScansByPrefix(SmallBackend):
    """A namespace holds the records of namespaces whose name begins like its own."""

    def in_namespace(self, store: Store, namespace: str, now: Millis) -> list[Record]:
        names = {key.partition(b":")[0].decode() for key in store.records}
        return [
            record
            for name in names
            if name.startswith(namespace)
            for record in super(ScansByPrefix, self).in_namespace(store, name, now)
        ]


@mutants.caught_by("test_scan_sees_every_live_record_of_its_namespace_alone")
class ScansByPattern(SmallBackend):
    """An underscore in a namespace stands for any character."""

    def in_namespace(self, store: Store, namespace: str, now: Millis) -> list[Record]:
        names = {key.partition(b":")[0].decode() for key in store.records}
        alike = [name for name in names if name.replace("x", "_") == namespace.replace("x", "_")]
        return [record for name in alike for record in super(ScansByPattern, self).in_namespace(store, name, now)]


@mutants.caught_by("test_every_verb_counts_expired_as_absent_before_any_sweep")
class CountsAllThereIs(SmallBackend):
    """count counts expired records."""

    async def count(self, namespace: str, now: Millis) -> int:
        return await super().count(namespace, 0)


@mutants.caught_by(MILLISECOND_TEST)
class ScansWhatHasExpired(SmallBackend):
    """A scan shows expired records."""

    async def scan(self, namespace: str, cursor: str | None, limit: int, now: Millis) -> ScanPage:
        return await super().scan(namespace, cursor, limit, 0)


@mutants.caught_by(PAGES_TEST)
class CountsAPage(SmallBackend):
    """count counts 500 records at most."""

    async def count(self, namespace: str, now: Millis) -> int:
        return min(500, await super().count(namespace, now))


@mutants.caught_by(PAGES_TEST)
class ScansAPage(SmallBackend):
    """A page that was cut at 500 records counts as the last one."""

    async def scan(self, namespace: str, cursor: str | None, limit: int, now: Millis) -> ScanPage:
        page = await super().scan(namespace, cursor, limit, now)
        return ScanPage(page.records[:500], page.cursor)


@mutants.caught_by("test_scan_sees_every_live_record_of_its_namespace_alone")
class SkipsBetweenPages(SmallBackend):
    """The record after each page is skipped."""

    async def scan(self, namespace: str, cursor: str | None, limit: int, now: Millis) -> ScanPage:
        page = await super().scan(namespace, cursor, limit + 1, now)
        return ScanPage(page.records[:limit], page.cursor)


@mutants.caught_by("test_scan_misses_nothing_if_what_it_has_shown_goes")
class ScansByPosition(SmallBackend):
    """A cursor is a number of records, so what leaves before it makes a scan skip others."""

    async def scan(self, namespace: str, cursor: str | None, limit: int, now: Millis) -> ScanPage:
        with self.command() as store:
            found = sorted(self.in_namespace(store, namespace, now), key=lambda record: record.key)
        start = int(cursor or 0)
        return ScanPage(found[start : start + limit], str(start + limit) if start + limit < len(found) else None)


@mutants.caught_by("test_scan_sees_every_live_record_of_its_namespace_alone")
class ScansForEver(SmallBackend):
    """A scan of nothing begins again."""

    async def scan(self, namespace: str, cursor: str | None, limit: int, now: Millis) -> ScanPage:
        page = await super().scan(namespace, cursor, limit, now)
        return ScanPage(page.records, page.cursor or f"{namespace}:".encode().hex())


@mutants.caught_by("test_scan_sees_what_is_renewed_meanwhile")
class ScansByExpiry(SmallBackend):
    """A scan goes by the expiry, so a record that is renewed meanwhile leaves its way."""

    async def scan(self, namespace: str, cursor: str | None, limit: int, now: Millis) -> ScanPage:
        with self.command() as store:
            found = sorted(self.in_namespace(store, namespace, now), key=lambda record: -record.expires_at)
        if cursor is not None:
            found = [record for record in found if record.expires_at < int(cursor)]
        page = found[:limit]
        return ScanPage(page, str(page[-1].expires_at) if len(found) > limit else None)


@mutants.caught_by("test_no_page_of_a_scan_is_longer_than_the_limit")
class ScansMoreThanTheLimit(SmallBackend):
    """A page holds a record more than was asked for."""

    async def scan(self, namespace: str, cursor: str | None, limit: int, now: Millis) -> ScanPage:
        return await super().scan(namespace, cursor, limit + 1, now)


@mutants.caught_by("test_a_cursor_that_no_page_came_with_is_refused")
class BeginsAgainAtGarbage(SmallBackend):
    """A cursor that cannot be read begins the scan again."""

    async def scan(self, namespace: str, cursor: str | None, limit: int, now: Millis) -> ScanPage:
        try:
            return await super().scan(namespace, cursor, limit, now)
        except ValueError:
            return await super().scan(namespace, None, limit, now)


@mutants.caught_by("test_a_cursor_that_no_page_came_with_is_refused")
class SaysOnlyThatADigitIsWrong(SmallBackend):
    """The error of a cursor that cannot be read is the decoder's own."""

    async def scan(self, namespace: str, cursor: str | None, limit: int, now: Millis) -> ScanPage:
        bytes.fromhex(cursor or "")
        return await super().scan(namespace, cursor, limit, now)


@mutants.caught_by("test_a_cursor_that_no_page_came_with_is_refused")
class EndsAtGarbage(SmallBackend):
    """A cursor that cannot be read is the end of the scan."""

    async def scan(self, namespace: str, cursor: str | None, limit: int, now: Millis) -> ScanPage:
        try:
            return await super().scan(namespace, cursor, limit, now)
        except ValueError:
            return ScanPage([], None)


@pytest.mark.untraced
@pytest.mark.parametrize("mutant", mutants.all, ids=str)
def test_the_suite_catches_every_mutant_every_time(mutant: Mutant) -> None:
    assert_caught(mutant)
