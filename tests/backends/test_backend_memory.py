"""The memory backend: the suite that every backend passes, and its own bounds, leaks and threads.

These tests look into the private structures: no verb shows what a removed record leaves behind.
"""

import multiprocessing
import random
import threading

import msgspec
import pytest

from harness.forks import fork_in_python, in_children, needs_fork
from harness.internals import expiries_of, tables_of
from powauth.backends.base import EPOCH_LIFETIME, Backend, PerProcess, Record, drive, make_key, make_owner, shard_of
from powauth.backends.memory import MemoryBackend
from powauth.errors import ConfigError, StoreUnavailable
from powauth.testing import BackendConformance

NOW = 1_900_000_000_000
TTL = 1_800_000


def make_record(number: int, *, user: int | None = None, version: int = 0, expires_at: int = NOW + TTL) -> Record:
    owner = make_owner("app", str(number if user is None else user))
    key = make_key("app", shard_of(owner) + number.to_bytes(16))
    return Record(key, owner, version, NOW, expires_at, b"%d of %d" % (version, number))


def create(backend: Backend, record: Record, now: int = NOW) -> bool:
    return drive(backend.create(record, None, now))


def held(backend: MemoryBackend) -> int:
    """Records in memory, expired ones among them."""
    return len(tables_of(backend).records.values)


def assert_empty(backend: MemoryBackend) -> None:
    """Nothing is left in any structure."""
    assert tables_of(backend).owners == {}
    for table in (tables_of(backend).records, tables_of(backend).epochs):
        assert table.values == {}
        assert expiries_of(table) == []


def assert_whole(backend: MemoryBackend) -> None:
    """The keys of owners and the expiries agree with the records, and no more than a share of expiries is stale."""
    records = tables_of(backend).records.values
    assert {key for keys in tables_of(backend).owners.values() for key in keys} == set(records)
    assert all(records[key].owner == owner for owner, keys in tables_of(backend).owners.items() for key in keys)
    for table in (tables_of(backend).records, tables_of(backend).epochs):
        assert {(value.expires_at, key) for key, value in table.values.items()} <= set(expiries_of(table))


class TestMemoryBackend(BackendConformance):
    def make_backend(self) -> Backend:
        return MemoryBackend()


class TestBoundedMemoryBackend(BackendConformance):
    def make_backend(self) -> Backend:
        return MemoryBackend(max_records=10_000)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "many"])
def test_a_bound_that_is_none_is_refused(wrong: object) -> None:
    with pytest.raises(ConfigError, match="max_records"):
        MemoryBackend(max_records=wrong)  # type: ignore[arg-type]


def test_sto_12_at_the_bound_no_live_session_makes_room() -> None:
    backend = MemoryBackend(max_records=100)
    for number in range(100):
        assert create(backend, make_record(number))
    with pytest.raises(StoreUnavailable, match="raise max_records"):
        create(backend, make_record(100))
    assert drive(backend.count("app", NOW)) == 100
    for number in range(100):
        assert drive(backend.get(make_record(number).key, NOW)) == make_record(number)
    assert create(backend, make_record(7)) is False, "an answer, not an error"
    assert drive(backend.list(make_record(100).owner, NOW)) == []

    assert drive(backend.delete(make_record(3).key, NOW))
    assert create(backend, make_record(100))


def test_sto_12_at_the_bound_expired_ones_make_room() -> None:
    backend = MemoryBackend(max_records=50)
    for number in range(50):
        assert create(backend, make_record(number, expires_at=NOW + 60_000 + number))
    for number in range(50, 100):
        assert create(backend, make_record(number), NOW + 60_050)
    assert drive(backend.count("app", NOW)) == 50
    with pytest.raises(StoreUnavailable):
        create(backend, make_record(100), NOW + 60_050)


def test_sto_12_what_is_returned_cannot_be_changed_into_the_store() -> None:
    backend = MemoryBackend()
    create(backend, make_record(1))
    for found in (
        drive(backend.get(make_record(1).key, NOW)),
        *drive(backend.list(make_record(1).owner, NOW)),
        *drive(backend.scan("app", None, 10, NOW)).records,
    ):
        assert found is not None
        with pytest.raises(AttributeError):
            found.expires_at = 0  # type: ignore[misc]
        assert type(found.value) is type(found.key) is type(found.owner) is bytes
    drive(backend.list(make_record(1).owner, NOW)).clear()
    assert drive(backend.list(make_record(1).owner, NOW)) == [make_record(1)]


def test_sto_12_a_buffer_given_as_value_is_copied() -> None:
    backend = MemoryBackend()
    value = bytearray(b"before")
    record = msgspec.structs.replace(make_record(1), value=value)
    create(backend, record)
    value[:] = b"after!"
    found = drive(backend.get(record.key, NOW))
    assert found is not None
    assert found.value == b"before"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_sto_12_each_process_has_a_memory_of_its_own() -> None:
    backend = MemoryBackend()
    create(backend, make_record(1))
    assert isinstance(backend, PerProcess)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()

    def worker() -> None:
        answers.put((drive(backend.delete(make_record(1).key, NOW)), create(backend, make_record(2))))

    process = context.Process(target=worker)
    process.start()
    assert answers.get(timeout=30) == (True, True)
    process.join(30)
    assert drive(backend.get(make_record(1).key, NOW)) == make_record(1)
    assert drive(backend.get(make_record(2).key, NOW)) is None


@needs_fork
def test_rep_10_a_fork_while_another_thread_changes_the_store() -> None:
    """The child waits for nobody, and keeps no half of that thread's change."""
    backend = MemoryBackend()
    create(backend, make_record(1))
    held, done = threading.Event(), threading.Event()

    def change() -> None:
        with backend._lock:  # as each verb that changes something does
            held.set()
            done.wait(60)

    thread = threading.Thread(target=change)
    thread.start()
    assert held.wait(60)

    def child(_: int) -> tuple[bool, bool, int]:
        found = drive(backend.get(make_record(1).key, NOW)) is not None
        return found, create(backend, make_record(2)), drive(backend.count("app", NOW))

    assert in_children(child, fork_in_python) == [(False, True, 1)]
    done.set()
    thread.join(60)
    assert drive(backend.get(make_record(1).key, NOW)) == make_record(1)


def test_sto_06_expired_is_absent_before_any_sweep_and_still_held() -> None:
    backend = MemoryBackend()
    create(backend, make_record(1))
    assert drive(backend.get(make_record(1).key, NOW + TTL)) is None
    assert held(backend) == 1
    assert drive(backend.purge(10, NOW + TTL)) == 1
    assert_empty(backend)


def test_sto_05_readers_without_a_lock_see_whole_records_while_threads_write() -> None:
    backend = MemoryBackend()
    numbers = range(40)
    for number in numbers:
        create(backend, make_record(number, user=number % 5))
    done = threading.Event()
    wrong: list[object] = []

    def read(seed: int) -> None:
        chooser = random.Random(seed)
        seen = dict.fromkeys(numbers, 0)
        while not done.is_set():
            number = chooser.choice(numbers)
            found = drive(backend.get(make_record(number, user=number % 5).key, NOW))
            if found is None or found.version < seen[number] or found.value != b"%d of %d" % (found.version, number):
                wrong.append((number, seen[number], found))
                return
            seen[number] = found.version

    def write(start: int) -> None:
        for version in range(1, 150):
            for number in range(start, 40, 4):
                changed = make_record(number, user=number % 5, version=version, expires_at=NOW + TTL + version)
                if not drive(backend.update(changed, version - 1, NOW)):
                    wrong.append(changed)

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    writers = [threading.Thread(target=write, args=(start,)) for start in range(4)]
    for thread in readers + writers:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    assert wrong == []


def test_sto_05_threads_that_do_everything_at_once_leave_the_structures_whole() -> None:
    backend = MemoryBackend()
    errors: list[BaseException] = []

    def work(seed: int) -> None:
        chooser = random.Random(seed)
        try:
            for _ in range(200):
                record = make_record(chooser.randrange(20), user=chooser.randrange(4), version=chooser.randrange(3))
                record = msgspec.structs.replace(record, expires_at=NOW + chooser.randrange(3))
                now = NOW + chooser.randrange(2)
                drive(backend.create(record, None, now))
                drive(backend.update(record, chooser.randrange(3), now))
                drive(backend.list(record.owner, now))
                drive(backend.scan("app", None, 5, now))
                drive(backend.purge(3, now))
                if chooser.random() < 0.3:
                    drive(backend.delete(record.key, now))
                if chooser.random() < 0.05:
                    drive(backend.delete_owner(record.owner, now, keep=record.key))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert_whole(backend)
    drive(backend.purge(1_000, NOW + 2 * EPOCH_LIFETIME))
    assert_empty(backend)


@pytest.mark.parametrize("seed", range(3))
def test_any_sequence_of_verbs_answers_as_a_plain_dict_would(seed: int) -> None:
    chooser = random.Random(seed)
    backend = MemoryBackend()
    model: dict[bytes, Record] = {}
    now = NOW
    for _ in range(3_000):
        now += chooser.randrange(4)
        number = chooser.randrange(40)
        lifetime = chooser.choice([0, 3, 30, 300])
        record = make_record(number, user=number % 6, version=chooser.randrange(3), expires_at=now + lifetime)
        live = {key: kept for key, kept in model.items() if kept.expires_at > now}
        owned = [kept for kept in live.values() if kept.owner == record.owner]
        old = live.get(record.key)
        match chooser.randrange(8):
            case 0 | 1:
                assert create(backend, record, now) is (old is None)
                model[record.key] = record if old is None else old
            case 2 | 3:
                expected = chooser.randrange(3)
                matches = old is not None and old.version == expected
                assert drive(backend.update(record, expected, now)) is matches
                if matches:
                    model[record.key] = record
            case 4:
                assert drive(backend.delete(record.key, now)) is (old is not None)
                model.pop(record.key, None)
            case 5:
                went = [kept for kept in owned if kept.key != record.key]
                keep = record.key if chooser.random() < 0.9 else None
                if keep is None:
                    went = owned
                assert drive(backend.delete_owner(record.owner, now, keep)) == len(went)
                for kept in went:
                    del model[kept.key]
            case 6:
                drive(backend.purge(chooser.randrange(4), now))
            case _:
                assert drive(backend.get(record.key, now)) == old
                newest_first = sorted(owned, key=lambda kept: (kept.created_at, kept.key), reverse=True)
                assert drive(backend.list(record.owner, now)) == newest_first
                assert drive(backend.count("app", now)) == len(live)
    assert_whole(backend)


def test_renewals_and_removals_do_not_fill_the_memory() -> None:
    backend = MemoryBackend()
    create(backend, make_record(0))
    for number in range(1, 5_000):
        assert drive(backend.update(make_record(0, version=number, expires_at=NOW + TTL + number), number - 1, NOW))
        create(backend, make_record(number))
        assert drive(backend.delete(make_record(number).key, NOW))
        assert len(expiries_of(tables_of(backend).records)) < 100
    assert_whole(backend)
    assert drive(backend.purge(100, NOW + TTL + 4_998)) == 0
    assert drive(backend.purge(100, NOW + TTL + 4_999)) == 1
    assert_empty(backend)


def test_an_owner_with_very_many_records_is_revoked_and_leaves_the_others_alone() -> None:
    backend = MemoryBackend()
    create(backend, make_record(10_000, user=2))
    for number in range(10_000):
        create(backend, make_record(number, user=1))
    assert drive(backend.delete_owner(make_record(1, user=1).owner, NOW, keep=make_record(7, user=1).key)) == 9_999
    assert drive(backend.list(make_record(1, user=1).owner, NOW)) == [make_record(7, user=1)]
    assert drive(backend.list(make_record(10_000, user=2).owner, NOW)) == [make_record(10_000, user=2)]
    assert drive(backend.count("app", NOW)) == 2


def test_nothing_is_left_of_sessions_that_lived_renewed_and_expired() -> None:
    backend = MemoryBackend()
    for number in range(20_000):
        record = make_record(number, user=number // 2)
        create(backend, record)
        if number % 2:
            renewed = make_record(number, user=number // 2, version=1, expires_at=NOW + 2 * TTL)
            assert drive(backend.update(renewed, 0, NOW))
        if number % 5 == 0:
            assert drive(backend.delete(record.key, NOW))
        if number % 100 == 0:
            drive(backend.delete_owner(record.owner, NOW))
    purged = 0
    while went := drive(backend.purge(100, NOW + EPOCH_LIFETIME)):
        purged += went
    assert purged == 20_000 - 4_000 + 200, "all but the deleted, and the epochs"
    assert_empty(backend)


def test_creates_alone_keep_a_store_clean_that_nobody_purges() -> None:
    backend = MemoryBackend()
    for number in range(20_000):
        now = NOW + number
        create(backend, make_record(number, expires_at=now + 500), now)
        drive(backend.epoch(make_record(number).owner, now - EPOCH_LIFETIME, advance=True))
        assert held(backend) <= 502
    assert_whole(backend)
    assert len(tables_of(backend).epochs.values) <= 2


def test_sign_outs_everywhere_over_and_over_take_the_room_of_one() -> None:
    backend = MemoryBackend()
    epochs = {drive(backend.epoch(make_record(1).owner, NOW + number, advance=True)) for number in range(1_000)}
    assert len(epochs) == 1_000
    assert len(tables_of(backend).epochs.values) == 1
    assert len(expiries_of(tables_of(backend).epochs)) < 100
    drive(backend.purge(10, NOW + 999 + EPOCH_LIFETIME))
    assert_empty(backend)


def test_scan_pages_hold_no_more_than_the_limit() -> None:
    backend = MemoryBackend()
    for number in range(500):
        create(backend, make_record(number))
    for limit in (0, 1, 7, 500):
        seen: list[bytes] = []
        cursor: str | None = None
        while True:
            page = drive(backend.scan("app", cursor, limit, NOW))
            assert len(page.records) <= max(limit, 1)
            seen += [record.key for record in page.records]
            cursor = page.cursor
            if cursor is None:
                break
        assert len(seen) == len(set(seen)) == 500


def test_scan_goes_on_after_a_key_that_has_gone_meanwhile() -> None:
    backend = MemoryBackend()
    records = [make_record(number) for number in range(10)]
    for record in records:
        create(backend, record)
    page = drive(backend.scan("app", None, 4, NOW))
    assert drive(backend.delete(page.records[-1].key, NOW))
    rest = drive(backend.scan("app", page.cursor, 100, NOW))
    assert {record.key for record in page.records + rest.records} == {record.key for record in records}


@pytest.mark.parametrize("cursor", ["", "x", "zz", b"other:key".hex()])
def test_scan_refuses_a_cursor_that_is_not_its_own(cursor: str) -> None:
    with pytest.raises(ValueError, match="the cursor is not one"):
        drive(MemoryBackend().scan("app", cursor, 10, NOW))


def test_update_for_another_owner_is_refused() -> None:
    backend = MemoryBackend()
    create(backend, make_record(1))
    stolen = msgspec.structs.replace(make_record(1), owner=make_owner("app", "2"), version=1)
    assert drive(backend.update(stolen, 0, NOW)) is False
    assert drive(backend.list(make_record(1).owner, NOW)) == [make_record(1)]


def test_closing_frees_the_records() -> None:
    backend = MemoryBackend()
    create(backend, make_record(1))
    drive(backend.close())
    assert_empty(backend)
    with pytest.raises(StoreUnavailable, match="closed"):
        drive(backend.get(make_record(1).key, NOW))
