"""Backends with a planted fault in a verb, each of which the suite must catch in every run.

The docstring of a class says what is wrong with it, and the decorator names the test that catches it. Further mutants:

- `test_backend_mutants_stores`: faults in what concerns owners, epochs or the whole store.
- `test_backend_mutants_at_once`: faults that need two verbs at once.
- `test_backend_mutants_abilities`: faults in what a backend offers beyond the verbs, and in how it fails.
- `test_backend_mutants_engines`: faults of real engines.
"""

import re

import msgspec
import pytest

from harness.mutants import Mutant, Mutants, assert_caught
from harness.small_backend import SmallBackend, Store
from harness.small_suites import small
from powauth.backends.base import Millis, Mode, Record

mutants = Mutants(small=small)

MILLISECOND_TEST = "test_rep_61_an_expiry_is_exact_to_the_millisecond"
PAGES_TEST = "test_rep_61_no_page_of_many_records_is_cut"


def replace(record: Record, **changes: object) -> Record:
    return msgspec.structs.replace(record, **changes)


# What expires


@mutants.caught_by(MILLISECOND_TEST)
class ComparesSeconds(SmallBackend):
    """An expiry is compared in whole seconds."""

    def is_live(self, record: Record, now: Millis) -> bool:
        return record.expires_at // 1000 > now // 1000


@mutants.caught_by(MILLISECOND_TEST)
class ComparesSecondsRoundedUp(SmallBackend):
    """An expiry is compared in seconds that are rounded up."""

    def is_live(self, record: Record, now: Millis) -> bool:
        return -(-record.expires_at // 1000) * 1000 > now


@mutants.caught_by(MILLISECOND_TEST)
class StoresSeconds(SmallBackend):
    """The expiry is stored in whole seconds."""

    def put(self, store: Store, record: Record) -> None:
        super().put(store, replace(record, expires_at=record.expires_at // 1000 * 1000))


@mutants.caught_by("test_rep_61_a_removal_counts_what_lives_to_the_millisecond")
class DeletesBySeconds(SmallBackend):
    """What is deleted counts as live up to the end of its second."""

    async def delete(self, key: bytes, now: Millis) -> bool:
        return await super().delete(key, now // 1000 * 1000)


@mutants.caught_by("test_rep_61_a_removal_counts_what_lives_to_the_millisecond")
class CountsDeletedBySeconds(SmallBackend):
    """What delete_owner counts is compared in whole seconds."""

    def remove_owned(self, store: Store, owner: bytes, now: Millis, keep: bytes | None) -> int:
        return super().remove_owned(store, owner, now // 1000 * 1000, keep)


@mutants.caught_by("test_sto_06_get_counts_expired_as_absent_before_any_sweep")
class LivesAMillisecondLonger(SmallBackend):
    """A record lives at the very time of its expiry."""

    def is_live(self, record: Record, now: Millis) -> bool:
        return record.expires_at >= now


@mutants.caught_by("test_sto_06_get_counts_expired_as_absent_before_any_sweep")
class ReadsWhatHasExpired(SmallBackend):
    """A record is readable until it is purged."""

    async def get(self, key: bytes, now: Millis) -> Record | None:
        with self.command() as store:
            return store.records.get(key)


@mutants.caught_by("test_update_does_not_revive_an_expired_record")
class RenewsWhatHasExpired(SmallBackend):
    """An expired record can be updated until it is purged."""

    def may_update(self, store: Store, record: Record, expected_version: int, now: Millis) -> bool:
        old = store.records.get(record.key)
        return old is not None and old.version == expected_version


@mutants.caught_by("test_create_takes_the_place_of_an_expired_record")
class ExpiredInTheWay(SmallBackend):
    """An expired record is in the way of a new one until it is purged."""

    def may_create(self, store: Store, record: Record, epoch: int | None, now: Millis) -> bool:
        return record.key not in store.records and super().may_create(store, record, epoch, now)


@mutants.caught_by("test_delete_of_an_expired_record_finds_nothing")
class DeletesWhatHasExpired(SmallBackend):
    """To delete an expired record answers True."""

    async def delete(self, key: bytes, now: Millis) -> bool:
        return await super().delete(key, 0)


@mutants.caught_by("test_a_record_born_expired_is_never_seen")
class AtLeastASecond(SmallBackend):
    """A record that is born expired lives for a second."""

    def put(self, store: Store, record: Record) -> None:
        super().put(store, replace(record, expires_at=max(record.expires_at, record.created_at + 2 * 1_800_000 + 1000)))


# create, update, delete


@mutants.caught_by("test_create_refuses_a_key_that_holds_a_live_record")
class CreateOverwrites(SmallBackend):
    """To create a record that lives replaces it."""

    def may_create(self, store: Store, record: Record, epoch: int | None, now: Millis) -> bool:
        return epoch is None or self.is_current(store, record.owner, epoch)


@mutants.caught_by("test_update_never_creates")
class UpdateCreates(SmallBackend):
    """To update a record that is absent creates it."""

    def may_update(self, store: Store, record: Record, expected_version: int, now: Millis) -> bool:
        return record.key not in store.records or super().may_update(store, record, expected_version, now)


@mutants.caught_by("test_update_with_another_version_changes_nothing")
class UpdateComparesNothing(SmallBackend):
    """An update does not look at the version."""

    def may_update(self, store: Store, record: Record, expected_version: int, now: Millis) -> bool:
        return self.live(store, record.key, now) is not None


@mutants.caught_by("test_update_with_another_version_changes_nothing")
class UpdateAcceptsLaterVersions(SmallBackend):
    """An update accepts an expected version above the present one."""

    def may_update(self, store: Store, record: Record, expected_version: int, now: Millis) -> bool:
        old = self.live(store, record.key, now)
        return old is not None and old.version <= expected_version


class _Merges(SmallBackend):
    def merged(self, old: Record, new: Record) -> Record:
        raise NotImplementedError

    def put(self, store: Store, record: Record) -> None:
        old = store.records.get(record.key)
        super().put(store, record if old is None else self.merged(old, record))


@mutants.caught_by("test_a_renewal_that_extends_the_life_is_honoured")
class UpdateKeepsTheExpiry(_Merges):
    """An update does not write the expiry."""

    def merged(self, old: Record, new: Record) -> Record:
        return replace(new, expires_at=old.expires_at)


@mutants.caught_by("test_a_renewal_that_shortens_the_life_is_honoured")
class UpdateNeverShortens(_Merges):
    """An update keeps the later of the two expiries."""

    def merged(self, old: Record, new: Record) -> Record:
        return replace(new, expires_at=max(old.expires_at, new.expires_at))


@mutants.caught_by("test_update_replaces_the_record_whose_version_is_expected")
class UpdateKeepsAnEmptyValue(_Merges):
    """An update with an empty value keeps the old value."""

    def merged(self, old: Record, new: Record) -> Record:
        return replace(new, value=new.value or old.value)


@mutants.caught_by("test_update_replaces_the_record_whose_version_is_expected")
class UpdateCountsOnItsOwn(_Merges):
    """An update does not write the version."""

    def merged(self, old: Record, new: Record) -> Record:
        return replace(new, version=old.version)


@mutants.caught_by("test_update_keeps_the_record_in_its_owners_list_and_order")
class UpdateMakesNewer(_Merges):
    """An updated record moves to the head of its owner's list."""

    def merged(self, old: Record, new: Record) -> Record:
        return replace(new, created_at=old.created_at + 1000)


@mutants.caught_by("test_delete_tells_whether_a_live_record_existed")
class DeleteAlwaysWins(SmallBackend):
    """To delete what is absent answers True."""

    async def delete(self, key: bytes, now: Millis) -> bool:
        await super().delete(key, now)
        return True


@mutants.caught_by("test_delete_tells_whether_a_live_record_existed")
class DeleteAnswersWithANumber(SmallBackend):
    """To delete answers 1 or 0 and no truth value."""

    async def delete(self, key: bytes, now: Millis) -> bool:
        return int(await super().delete(key, now))  # type: ignore[return-value]


@mutants.caught_by("test_create_after_delete_starts_afresh")
class DeleteOnlyHides(SmallBackend):
    """A deleted record stays in the way of a new one until it expires."""

    def __init__(self, store: Store | None = None, mode: Mode = "inline") -> None:
        super().__init__(store, mode)
        self._hidden: dict[bytes, Millis] = {}

    async def delete(self, key: bytes, now: Millis) -> bool:
        record = await self.get(key, now)
        if record is not None:
            self._hidden[key] = record.expires_at
        return await super().delete(key, now)

    def may_create(self, store: Store, record: Record, epoch: int | None, now: Millis) -> bool:
        return self._hidden.get(record.key, 0) <= now and super().may_create(store, record, epoch, now)


# What a record holds


@mutants.caught_by("test_what_was_created_is_read_back_unchanged")
class ReadsViews(SmallBackend):
    """A value is read as a memoryview, which equals the bytes and is none."""

    def live(self, store: Store, key: bytes, now: Millis) -> Record | None:
        found = super().live(store, key, now)
        return None if found is None else replace(found, value=memoryview(found.value))


@mutants.caught_by("test_what_was_created_is_read_back_unchanged")
class RoundsTheCreation(SmallBackend):
    """The time of creation is stored in whole seconds."""

    def put(self, store: Store, record: Record) -> None:
        super().put(store, replace(record, created_at=record.created_at // 1000 * 1000))


@mutants.caught_by("test_large_numbers_are_kept")
class ShortNumbers(SmallBackend):
    """Versions have 32 bits."""

    def put(self, store: Store, record: Record) -> None:
        super().put(store, replace(record, version=record.version % 2**32))


@mutants.caught_by("test_large_numbers_are_kept")
class EndsIn2038(SmallBackend):
    """Times end in 2038, with 32 bits of seconds."""

    def put(self, store: Store, record: Record) -> None:
        super().put(store, replace(record, expires_at=min(record.expires_at, (2**31 - 1) * 1000)))


@mutants.caught_by("test_values_and_owners_up_to_the_limits")
class CutsValues(SmallBackend):
    """Values are cut at 65,535 bytes."""

    def put(self, store: Store, record: Record) -> None:
        super().put(store, replace(record, value=record.value[:65_535]))


class _Spells(SmallBackend):
    """Keys are stored in another spelling."""

    def spell(self, key: bytes) -> bytes:
        raise NotImplementedError

    def live(self, store: Store, key: bytes, now: Millis) -> Record | None:
        return super().live(store, self.spell(key), now)

    def put(self, store: Store, record: Record) -> None:
        store.records[self.spell(record.key)] = record

    def drop(self, store: Store, key: bytes) -> None:
        super().drop(store, self.spell(key))


@mutants.caught_by("test_hostile_names_are_only_names")
class IgnoresCase(_Spells):
    """Keys are compared without letter case."""

    def spell(self, key: bytes) -> bytes:
        return key[:20] + key[20:].lower()


@mutants.caught_by("test_hostile_names_are_only_names")
class StripsBlanks(_Spells):
    """Blanks at the end of a key do not count."""

    def spell(self, key: bytes) -> bytes:
        return key.rstrip(b" ")


@mutants.caught_by("test_hostile_names_are_only_names")
class EndsAtNul(_Spells):
    """A key ends at its first NUL."""

    def spell(self, key: bytes) -> bytes:
        return key[:20] + key[20:].partition(b"\0")[0]


@mutants.caught_by("test_hostile_names_are_only_names")
class DecodesKeys(_Spells):
    """What is no UTF-8 in a key is replaced."""

    def spell(self, key: bytes) -> bytes:
        return key[:20] + key[20:].decode(errors="replace").encode()


@mutants.caught_by("test_any_shard_will_do")
class MatchesLines(SmallBackend):
    """A key with a line break is not found, as by a pattern whose dot stands for anything else."""

    def live(self, store: Store, key: bytes, now: Millis) -> Record | None:
        return super().live(store, key, now) if re.fullmatch(b".*", key) else None


@pytest.mark.untraced
@pytest.mark.parametrize("mutant", mutants.all, ids=str)
def test_the_suite_catches_every_mutant_every_time(mutant: Mutant) -> None:
    assert_caught(mutant)
