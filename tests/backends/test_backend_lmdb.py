import gc
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import lmdb
import msgspec
import pytest

import powauth.backends.ordered as module
from harness import lmdb_processes as processes
from harness.internals import environment_of
from harness.lmdb_processes import (
    NOW,
    TINY,
    TTL,
    Child,
    ElsewhereBackend,
    check_indexes,
    engine_of,
    entries,
    plant,
    record,
)
from harness.support import SECRET, FakeConnection, MemoryUsers
from powauth import RequestAuth, SessionAuth
from powauth._running import store_threads  # to fill the threads that the backend shares
from powauth.backends import _lmdb_engine as engines  # its constants are the bounds that these tests cross
from powauth.backends import _ordered_records as tree  # to damage the indexes of a file, entry by entry
from powauth.backends.base import EPOCH_LIFETIME, Backend, ReadsInPlace, Record, WouldWaitError, drive, make_owner
from powauth.backends.lmdb import LMDBBackend
from powauth.backends.ordered import MAX_KEY_BYTES, MAX_OWNER_BYTES
from powauth.errors import ConfigError, StoreUnavailable
from powauth.testing.backend import BackendConformance

T = TypeVar("T")


class _Conformance(BackendConformance):
    options: dict[str, Any]

    def make_backend(self) -> Backend:
        self.path = Path(tempfile.mkdtemp(prefix="powauth-lmdb-"))
        return LMDBBackend(self.path, **self.options)

    async def dispose(self, backend: Backend) -> None:
        await backend.close()
        shutil.rmtree(self.path)

    def second(self, backend: Backend) -> Backend:
        return ElsewhereBackend(self.path, **self.options)


class TestLMDB(_Conformance):
    options = {}  # noqa: RUF012


class TestLMDBOnAMapThatGrows(_Conformance):
    options = {"map_size": TINY, "max_map_size": 1 << 26, "durable": False}  # noqa: RUF012


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def backend(path: Path) -> Iterator[LMDBBackend]:
    backend = LMDBBackend(path, durable=False)
    yield backend
    drive(backend.close())


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def in_time(work: Callable[[], T], seconds: float = 20) -> T:
    """The work's result; an assertion if it hangs."""
    results: list[T] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert results, "it hangs, or raised"
    return results[0]


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o7777


# Options


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"path": 5}, "path must be"),
        ({"path": b"/tmp/bytes"}, "path must"),
        ({"path": ""}, "path must"),
        ({"path": "a\0b"}, "NUL"),
        ({"map_size": TINY - 1}, "map_size must"),
        ({"map_size": True}, "map_size must"),
        ({"map_size": 1.5e9}, "map_size must"),
        ({"max_map_size": 1 << 60}, "max_map_size must"),
        ({"map_size": 1 << 30, "max_map_size": 1 << 20}, "must not be smaller"),
        ({"durable": 1}, "durable must"),
        ({"group_access": "yes"}, "group_access must"),
    ],
)
def test_options_are_checked(path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        LMDBBackend(**{"path": path, **options})
    assert not path.exists()


def _import_engine_again() -> None:
    assert engines.__file__ is not None
    spec = importlib.util.spec_from_file_location("engine_again", engines.__file__)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ConfigError, match=r"pip install 'powauth\[lmdb\]'"):
        _import_engine_again()


def test_a_package_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb, "__version__", "2.3.0")
    with pytest.raises(ConfigError, match="lmdb 3 or newer"):
        _import_engine_again()


def test_a_relative_path_stays_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    backend = LMDBBackend("store")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with engine_of(backend).lock:
        engine_of(backend).shut()
    assert drive(backend.create(record(), None, NOW))
    assert not list((tmp_path / "elsewhere").iterdir())
    drive(backend.close())


# STO-11: files


@pytest.mark.parametrize("mask", [0, 0o077, 0o777])
def test_sto_11_directory_0700_and_files_0600_whatever_the_umask(path: Path, mask: int) -> None:
    with umask(mask):
        backend = LMDBBackend(path)
    assert drive(backend.create(record(), None, NOW))
    assert mode_of(path) == 0o700
    assert {file.name: mode_of(file) for file in path.iterdir()} == {"data.mdb": 0o600, "lock.mdb": 0o600}
    drive(backend.close())


@pytest.mark.parametrize("name", [".", "data.mdb", "lock.mdb"])
@pytest.mark.parametrize("mode", [0o020, 0o002])
def test_sto_11_what_others_can_write_is_refused(path: Path, name: str, mode: int) -> None:
    drive(LMDBBackend(path).close())
    target = path / name
    target.chmod(mode_of(target) | mode)
    with pytest.raises(ConfigError, match="chmod go-w"):
        LMDBBackend(path)
    target.chmod(mode_of(target) & ~mode)
    drive(LMDBBackend(path).close())


def test_sto_11_what_belongs_to_someone_else_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drive(LMDBBackend(path).close())
    someone = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: someone)
    with pytest.raises(ConfigError, match=f"this process is {someone}"):
        LMDBBackend(path)


@pytest.mark.parametrize("name", ["data.mdb", "lock.mdb"])
def test_sto_11_links_are_not_followed(path: Path, tmp_path: Path, name: str) -> None:
    path.mkdir(mode=0o700)
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (path / name).symlink_to(victim)
    with pytest.raises(ConfigError, match="regular file"):
        LMDBBackend(path)
    assert victim.read_bytes() == b"precious"


def test_sto_11_a_path_that_cannot_be_used_is_said_at_construction(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        LMDBBackend(tmp_path / "missing" / "store")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="must be a directory"):
        LMDBBackend(tmp_path / "file")


def test_sto_11_ids_never_form_a_path(backend: LMDBBackend, path: Path) -> None:
    names = [b"../../etc/passwd", b"/etc/passwd", b"..", b"C:\\windows", b"\\\\host\\share", b"data.mdb", b"\x00/"]
    for name in names:
        assert drive(backend.get(record(name).key, NOW)) is None
        assert drive(backend.create(record(name, "../../x"), None, NOW))
        assert drive(backend.delete(record(name, "../../x").key, NOW))
    assert sorted(file.name for file in path.iterdir()) == ["data.mdb", "lock.mdb"]
    assert [file.name for file in path.parent.iterdir()] == ["store"]


def test_sto_11_a_key_that_is_too_long_is_a_miss(backend: LMDBBackend) -> None:
    longest = record(key=b"app:".ljust(MAX_KEY_BYTES, b"k"))
    assert drive(backend.create(longest, None, NOW))
    assert drive(backend.get(longest.key, NOW)) == longest
    assert drive(backend.list(longest.owner, NOW)) == [longest]
    page = drive(backend.scan("app", None, 1, NOW))
    assert page.records == [longest]
    for length in (MAX_KEY_BYTES + 1, 510, 511, 512, 100_000):
        longer = record(key=b"app:".ljust(length, b"k"))
        assert drive(backend.get(longer.key, NOW)) is None
        assert drive(backend.update(longer, 0, NOW)) is False
        assert drive(backend.delete(longer.key, NOW)) is False
        with pytest.raises(ValueError, match="at most"):
            drive(backend.create(longer, None, NOW))
    assert check_indexes(backend) == {longest.key: longest}


def test_an_owner_that_is_too_long_is_refused(backend: LMDBBackend) -> None:
    longest = record(owner=b"app:".ljust(MAX_OWNER_BYTES, b"o"))
    assert drive(backend.create(longest, drive(backend.epoch(longest.owner, NOW)), NOW))
    assert drive(backend.delete_owner(longest.owner, NOW)) == 1
    longer = record(owner=longest.owner + b"o")
    assert drive(backend.list(longer.owner, NOW)) == []
    verbs: list[Callable[[], Coroutine[Any, Any, object]]] = [
        lambda: backend.create(longer, None, NOW),
        lambda: backend.update(longer, 0, NOW),
        lambda: backend.epoch(longer.owner, NOW),
        lambda: backend.delete_owner(longer.owner, NOW),
    ]
    for verb in verbs:
        with pytest.raises(ValueError, match="at most"):
            drive(verb())


@pytest.mark.parametrize("changes", [{"version": -1}, {"created_at": -1}, {"expires_at": 1 << 63}])
def test_numbers_that_the_layout_cannot_hold_are_refused(backend: LMDBBackend, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="from 0 to"):
        drive(backend.create(record(**changes), None, NOW))


def test_sto_11_another_programs_file_is_refused(path: Path) -> None:
    path.mkdir(mode=0o700)
    with lmdb.open(str(path), mode=0o600) as env, env.begin(write=True) as txn:
        txn.put(b"theirs", b"data")
    with pytest.raises(ConfigError, match="another program"):
        LMDBBackend(path)
    with lmdb.open(str(path)) as env, env.begin() as txn:
        assert txn.stat()["entries"] == 1


@pytest.mark.parametrize("layout", [b"\x02", b"\xff", b"", b"\x01\x00"])
def test_sto_11_a_newer_layout_is_refused(path: Path, layout: bytes) -> None:
    backend = LMDBBackend(path)
    plant(backend, b"!layout", layout)
    drive(backend.close())
    for _ in range(2):
        with pytest.raises(ConfigError, match="newer powauth"):
            LMDBBackend(path)


@pytest.mark.parametrize("damage", ["short", "pages", "zeros", "garbage"])
def test_sto_11_a_damaged_file_is_an_error_and_not_a_crash(path: Path, damage: str) -> None:
    child = Child(processes.damaged, path, damage)
    assert "refused" in child.receive() or damage != "garbage"
    child.finish()


def test_a_file_cut_within_its_head_is_refused(path: Path) -> None:
    drive(LMDBBackend(path).close())
    os.truncate(path / "data.mdb", 100)
    with pytest.raises(StoreUnavailable, match="damaged"):
        LMDBBackend(path)


# Unreadable records


@pytest.mark.parametrize(
    "raw", [b"", b"\x01", b"\x80\x04\x95", b"\xff" * 200, b"\x02" + bytes(100), b"\x01" + b"\xff" * 40]
)
def test_sto_02_an_unreadable_record_is_a_miss_and_goes_at_its_time(backend: LMDBBackend, raw: bytes) -> None:
    for name in (b"a", b"b", b"c", b"d"):
        assert drive(backend.create(record(name), None, NOW))
        plant(backend, b"r" + record(name).key, raw)
    bad = record()
    assert drive(backend.get(bad.key, NOW)) is None
    assert drive(backend.update(record(version=1), 0, NOW)) is False
    assert drive(backend.list(bad.owner, NOW)) == []
    assert drive(backend.count("app", NOW)) == 0
    assert drive(backend.scan("app", None, 10, NOW)).records == []
    assert drive(backend.delete(bad.key, NOW)) is False
    again = record(created_at=NOW + 5, expires_at=NOW + 2 * TTL)
    assert drive(backend.create(again, None, NOW)) is True
    assert drive(backend.list(bad.owner, NOW)) == [again]
    assert drive(backend.purge(10, NOW + TTL)) == 3
    assert drive(backend.get(again.key, NOW)) == again
    assert drive(backend.list(bad.owner, NOW)) == [again]
    assert drive(backend.delete_owner(bad.owner, NOW)) == 1
    assert not {key for key in entries(backend) if key[:1] in b"rox"}


def test_delete_owner_clears_entries_whose_record_is_unreadable(backend: LMDBBackend) -> None:
    assert drive(backend.create(record(), None, NOW))
    plant(backend, b"r" + record().key, b"junk")
    assert drive(backend.delete_owner(record().owner, NOW)) == 0
    assert drive(backend.purge(10, NOW + TTL)) == 1
    assert not {key for key in entries(backend) if key[:1] in b"rox"}


def test_an_entry_that_does_not_fit_its_record_is_not_listed(backend: LMDBBackend) -> None:
    assert drive(backend.create(record(), None, NOW))
    plant(backend, b"o" + tree.place_of(record().owner, NOW + 9) + record().key, b"")
    plant(backend, b"o" + tree.place_of(make_owner("app", "2"), NOW) + record().key, b"")
    assert drive(backend.list(record().owner, NOW)) == [record()]
    assert drive(backend.list(make_owner("app", "2"), NOW)) == []
    assert drive(backend.delete_owner(make_owner("app", "2"), NOW)) == 0
    assert drive(backend.get(record().key, NOW)) == record()


def test_an_unreadable_epoch_counts_as_none(backend: LMDBBackend) -> None:
    owner = record().owner
    plant(backend, b"e" + owner, b"junk")
    assert drive(backend.epoch(owner, NOW)) == 0
    assert drive(backend.epoch(owner, NOW, advance=True)) > 0


@pytest.mark.parametrize("junk", [None, b"", b"junk", b"nine bytes"], ids=["gone", "empty", "short", "long"])
def test_an_unreadable_latest_epoch_lets_no_create_slip_past(backend: LMDBBackend, junk: bytes | None) -> None:
    first, other = record().owner, make_owner("app", "2")
    moved = drive(backend.epoch(first, NOW, advance=True))
    if junk is None:
        with environment_of(backend).begin(write=True) as txn:
            txn.delete(b"!epoch")
    else:
        plant(backend, b"!epoch", junk)
    latest = drive(backend.latest_epoch(NOW))
    assert latest == 0
    assert not drive(backend.create(record(), latest, NOW))
    assert drive(backend.epoch(other, NOW - 1, advance=True)) > latest
    assert drive(backend.epoch(first, NOW - 1, advance=True)) > max(moved, latest)
    assert drive(backend.create(record(), drive(backend.latest_epoch(NOW)), NOW))


# Verbs


def test_an_update_that_moves_a_record_moves_its_entries(backend: LMDBBackend) -> None:
    assert drive(backend.create(record(), None, NOW))
    moved = record(version=1, owner=make_owner("app", "2"), created_at=NOW + 1)
    assert drive(backend.update(moved, 0, NOW))
    assert drive(backend.list(record().owner, NOW)) == []
    assert drive(backend.list(moved.owner, NOW)) == [moved]
    check_indexes(backend)


def test_get_removes_what_expired_unless_it_was_renewed_meanwhile(backend: LMDBBackend) -> None:
    old = record(expires_at=NOW + 1)
    assert drive(backend.create(old, None, NOW))
    renewed = record(version=1)
    assert drive(backend.update(renewed, 0, NOW))
    backend.write(lambda txn: tree.remove_version(txn, old.key, 0, NOW + 1))
    backend.write(lambda txn: tree.remove_version(txn, old.key, 1, NOW + 1))
    backend.write(lambda txn: tree.remove_version(txn, record(b"none").key, 0, NOW + 1))
    assert drive(backend.get(old.key, NOW)) == renewed
    assert drive(backend.get(old.key, renewed.expires_at)) is None
    assert set(entries(backend)) == {b"!layout"}


def test_sto_06_a_read_in_place_finds_what_get_finds_and_leaves_the_rest_to_it(backend: LMDBBackend) -> None:
    assert backend.mode == "blocking"
    assert isinstance(backend, ReadsInPlace)
    assert drive(backend.create(record(), None, NOW))
    assert backend.get_at_once(record().key, NOW) == record()
    assert backend.get_at_once(record(b"none").key, NOW) is None
    assert backend.get_at_once(b"x" * (MAX_KEY_BYTES + 1), NOW) is None
    assert backend.get_at_once(record().key, record().expires_at) is None
    assert backend.get_at_once(record().key, NOW) == record(), "to remove it would be a write"
    assert drive(backend.get(record().key, record().expires_at)) is None
    assert backend.get_at_once(record().key, NOW) is None
    drive(backend.close())
    with pytest.raises(WouldWaitError):
        backend.get_at_once(record().key, NOW)
    with pytest.raises(StoreUnavailable):
        drive(backend.get(record().key, NOW))


def test_sto_06_a_map_that_another_process_has_grown_is_not_for_a_read_in_place(path: Path) -> None:
    backend = LMDBBackend(path, map_size=TINY, max_map_size=1 << 26, durable=False)
    elsewhere = ElsewhereBackend(path, map_size=TINY, max_map_size=1 << 26, durable=False)
    assert drive(backend.create(record(), None, NOW))
    for number in range(40):
        assert drive(elsewhere.create(record(b"%d" % number, value=bytes(20_000)), None, NOW))
    with pytest.raises(WouldWaitError):
        backend.get_at_once(record().key, NOW)
    assert drive(backend.get(record().key, NOW)) == record()
    assert backend.get_at_once(record().key, NOW) == record()
    drive(elsewhere.close())
    drive(backend.close())


@pytest.mark.anyio
async def test_sto_07_a_writer_that_is_stopped_stops_no_event_loop(backend: LMDBBackend) -> None:
    users = MemoryUsers()
    auth = SessionAuth(secret_key=SECRET, users=users, backend=backend)
    user = users.add("ada@example.org")
    signed_in = FakeConnection()
    assert await RequestAuth(auth, signed_in).sign_in_user(user) is not None
    (cookie,) = (await auth.respond(signed_in)).cookies
    release = threading.Event()
    entered = threading.Event()

    def stopped(txn: engines.RawTransaction) -> None:
        entered.set()
        assert release.wait(60)

    async with anyio.create_task_group() as group:
        group.start_soon(store_threads, lambda: engine_of(backend).write(stopped))
        assert await anyio.to_thread.run_sync(lambda: entered.wait(60))
        group.start_soon(RequestAuth(auth, FakeConnection()).sign_in_user, user)  # it waits for the writer
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
            connection = FakeConnection([cookie.partition(";")[0]])
            assert await auth.fetch(connection) == auth.current_identity(signed_in)
        release.set()
    assert len(await auth.store.sessions(user.id, auth.now())) == 2


def test_purge_and_count_go_in_steps(backend: LMDBBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PURGE_STEP", 3)
    monkeypatch.setattr(module, "_COUNT_STEP", 4)
    for number in range(20):
        assert drive(backend.create(record(b"%d" % number, str(number), expires_at=NOW + 10 + number), None, NOW))
        drive(backend.epoch(make_owner("app", str(number)), NOW, advance=True))
    assert drive(backend.count("app", NOW)) == 20
    assert drive(backend.purge(7, NOW + 28)) == 7
    assert drive(backend.count("app", NOW)) == 13
    assert drive(backend.purge(100, NOW + 28)) == 12
    assert drive(backend.purge(0, NOW + 100)) == 0
    check_indexes(backend)
    assert drive(backend.purge(100, NOW + EPOCH_LIFETIME)) == 21
    assert set(entries(backend)) == {b"!layout", b"!epoch"}


def test_an_epoch_that_was_forgotten_does_not_come_again(backend: LMDBBackend) -> None:
    owner = record().owner
    first = drive(backend.epoch(owner, NOW, advance=True))
    second = drive(backend.epoch(owner, NOW, advance=True))
    assert drive(backend.purge(10, NOW + EPOCH_LIFETIME)) == 1
    assert drive(backend.epoch(owner, NOW + EPOCH_LIFETIME)) == 0
    assert drive(backend.epoch(owner, NOW + EPOCH_LIFETIME, advance=True)) not in {0, first, second}


@pytest.mark.parametrize("cursor", ["!", "AA", "é", "A" * 1000])
def test_scan_refuses_what_is_no_cursor(backend: LMDBBackend, cursor: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        drive(backend.scan("app", cursor, 10, NOW))


def test_scan_wants_a_limit_and_a_namespace(backend: LMDBBackend) -> None:
    with pytest.raises(ValueError, match="limit"):
        drive(backend.scan("app", None, 0, NOW))
    for namespace in ("app:", "", "*"):
        with pytest.raises(ConfigError, match="namespace"):
            drive(backend.scan(namespace, None, 1, NOW))
        with pytest.raises(ConfigError, match="namespace"):
            drive(backend.count(namespace, NOW))


# STO-05: processes


def test_sto_05_processes_compare_and_set_one_record(backend: LMDBBackend, path: Path) -> None:
    assert drive(backend.create(record(), None, NOW))
    drive(backend.close())
    children = [Child(processes.count_up, path, 500) for _ in range(3)]
    for child in children:
        assert child.receive() == "ready"
    for child in children:
        child.connection.send("go")
    won = sum(child.receive() for child in children)
    for child in children:
        child.finish()
    again = LMDBBackend(path)
    found = drive(again.get(record().key, NOW))
    assert found is not None
    assert found.version == won >= 500
    check_indexes(again)
    drive(again.close())


# STO-07: full


def test_sto_07_a_full_map_refuses_reads_on_and_recovers_without_a_restart(path: Path) -> None:
    limit = 1 << 20
    backend = LMDBBackend(path, map_size=TINY, max_map_size=limit, durable=False)
    made, error = processes.fill(backend, 20_000)
    more, _ = processes.fill(backend, 0, b"small")
    assert isinstance(error.__cause__, lmdb.MapFullError)
    assert "max_map_size" in str(error)
    assert (path / "data.mdb").stat().st_size <= limit
    for each in [*made, *more]:
        assert drive(backend.get(each.key, NOW)) == each
    assert drive(backend.count("app", NOW)) == len(made) + len(more)
    # Removing works at any time; what it frees can be used, and no more than that.
    for each in made[:10]:
        assert drive(backend.delete(each.key, NOW)) is True
        check_indexes(backend)
    assert drive(backend.epoch(made[0].owner, NOW, advance=True)) > 0
    assert drive(backend.delete_owner(made[0].owner, NOW)) > 10
    assert drive(backend.create(record(b"again", value=bytes(20_000)), None, NOW))
    assert drive(backend.purge(100_000, NOW + TTL)) > 10
    assert (path / "data.mdb").stat().st_size <= limit + engines.HEADROOM
    again, _ = processes.fill(backend, 20_000)
    assert len(again) > len(made) // 2, "its room came back, if in pieces"
    check_indexes(backend)
    drive(backend.close())


def test_sto_07_the_largest_file_allowed(path: Path) -> None:
    processes.in_process(processes.full_disk, path, True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_sto_07_a_full_disk(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        processes.in_process(processes.full_disk, disk / "store", False)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_sto_07_no_address_space(path: Path) -> None:
    processes.in_process(processes.no_address_space, path)


def test_sto_07_a_commit_that_fails_half_way(path: Path) -> None:
    processes.in_process(processes.failed_commit, path)


def test_sto_07_a_directory_that_becomes_unusable_and_usable_again(backend: LMDBBackend, path: Path) -> None:
    assert drive(backend.create(record(), None, NOW))
    engine = engine_of(backend)
    with engine.lock:
        engine.shut()
    path.chmod(0o770)
    verbs: list[Callable[[], Coroutine[Any, Any, object]]] = [
        lambda: backend.get(record().key, NOW),
        lambda: backend.list(record().owner, NOW),
        lambda: backend.delete(record().key, NOW),
    ]
    for verb in verbs:
        with pytest.raises(StoreUnavailable) as caught:
            drive(verb())
        assert isinstance(caught.value.__cause__, ConfigError)
    path.chmod(0o700)
    assert drive(backend.get(record().key, NOW)) == record()


def test_sto_07_all_places_of_readers_taken(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_MAX_READERS", 1)
    backend = LMDBBackend(path)
    assert drive(backend.create(record(), None, NOW))
    transaction = engine_of(backend).begin()
    with pytest.raises(StoreUnavailable) as caught:
        drive(backend.get(record().key, NOW))
    assert isinstance(caught.value.__cause__, lmdb.ReadersFullError)
    transaction.abort()
    del transaction
    assert drive(backend.get(record().key, NOW)) == record()
    child = Child(processes.hold_read, path)
    child.receive()
    child.kill()
    assert drive(backend.get(record().key, NOW)) == record()
    drive(backend.close())


# Killed and stopped processes


def test_a_writer_killed_with_the_lock_does_not_hang_the_others(backend: LMDBBackend, path: Path) -> None:
    assert drive(backend.create(record(), None, NOW))
    drive(backend.close())
    again = LMDBBackend(path)
    child = Child(processes.hold_write, path)
    child.receive()
    assert drive(again.get(record().key, NOW)) == record(), "readers do not wait for a writer"
    child.kill()
    assert in_time(lambda: drive(again.create(record(b"b"), None, NOW)))
    assert drive(again.get(record(b"half").key, NOW)) is None
    check_indexes(again)
    drive(again.close())


def test_readers_that_were_killed_do_not_make_the_file_grow(path: Path) -> None:
    backend = LMDBBackend(path, durable=False)
    big = record(value=bytes(20_000))
    assert drive(backend.create(big, None, NOW))

    def renew(times: int) -> int:
        for _ in range(times):
            found = drive(backend.get(big.key, NOW))
            assert found is not None
            assert drive(backend.update(msgspec.structs.replace(found, version=found.version + 1), found.version, NOW))
        return (path / "data.mdb").stat().st_size

    renew(5)
    children = [Child(processes.hold_read, path) for _ in range(2)]
    pids = [child.receive() for child in children]
    engine = engine_of(backend)
    for child in children:
        child.kill()
    assert all(str(pid) in engine.env.readers() for pid in pids)
    renew(engines.READER_CHECK)
    assert not any(str(pid) in engine.env.readers() for pid in pids)
    size = renew(10)
    assert renew(2 * engines.READER_CHECK) == size

    child = Child(processes.hold_read, path)
    pid = child.receive()
    child.kill()
    other = path.with_name("link")
    other.symlink_to(path)
    assert str(pid) in engine.env.readers()
    with engine.lock:
        engine.shut()
        engine.open()
    assert str(pid) not in engine.env.readers(), "also at open"
    drive(backend.close())


def test_a_full_map_gets_the_pages_back_that_a_killed_reader_held(path: Path) -> None:
    backend = LMDBBackend(path, map_size=1 << 20, max_map_size=1 << 20, durable=False)
    made, _ = processes.fill(backend, 20_000)
    child = Child(processes.hold_read, path)
    child.receive()
    for each in made:
        assert drive(backend.delete(each.key, NOW))
    with pytest.raises(StoreUnavailable):
        drive(backend.create(record(b"again", value=bytes(20_000)), None, NOW))
    child.kill()
    assert drive(backend.create(record(b"again", value=bytes(20_000)), None, NOW))
    drive(backend.close())


# The map grows


@pytest.fixture
def many_switches() -> Iterator[None]:
    """Threads take turns 500 times as often: more interleavings, and no wait for one that is busy."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("many_switches")
def test_threads_lose_no_write_while_the_map_grows(path: Path) -> None:
    backend = LMDBBackend(path, map_size=TINY, max_map_size=1 << 30, durable=False)
    anchor = record(b"anchor", "anchor")
    assert drive(backend.create(anchor, None, NOW))
    errors: list[BaseException] = []
    acknowledged: list[Record] = []
    stop = threading.Event()

    def write(user: str) -> None:
        try:
            for number in range(150):
                each = record(b"%d" % number, user, value=bytes(20_000))
                assert drive(backend.create(each, None, NOW))
                acknowledged.append(each)
        except BaseException as error:
            errors.append(error)

    def read() -> None:
        try:
            while not stop.is_set():
                assert drive(backend.get(anchor.key, NOW)) == anchor
                assert drive(backend.list(anchor.owner, NOW)) == [anchor]
                assert drive(backend.count("app", NOW)) >= 1
        except BaseException as error:
            errors.append(error)

    generation = engine_of(backend).generation
    writers = [threading.Thread(target=write, args=(str(number),)) for number in range(3)]
    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in [*writers, *readers]:
        thread.start()
    for thread in writers:
        thread.join(60)
    stop.set()
    for thread in readers:
        thread.join(60)
    assert not errors, errors
    assert engine_of(backend).generation - generation >= 5, "the map has grown several times"
    assert len(acknowledged) == 450
    assert check_indexes(backend) == {each.key: each for each in [anchor, *acknowledged]}
    drive(backend.close())


def test_processes_lose_no_write_while_the_map_grows(path: Path) -> None:
    backend = LMDBBackend(path, map_size=TINY, max_map_size=1 << 30, durable=False)
    assert drive(backend.create(record(), None, NOW))
    children = [Child(processes.create_many, path, str(number), 200, 10_000) for number in range(2, 4)]
    for child in children:
        assert child.receive() == "ready"
    for child in children:
        child.connection.send("go")
    mine = [record(b"%d" % number, value=bytes(10_000)) for number in range(200)]
    for each in mine:
        assert drive(backend.create(each, None, NOW))
        assert drive(backend.get(record().key, NOW)) == record()
    expected = {record().key, *(each.key for each in mine)}
    for child in children:
        expected.update(child.receive())
        child.finish()
    assert len(expected) == 601
    assert set(check_indexes(backend)) == expected
    drive(backend.close())


@pytest.mark.parametrize("verb", ["get", "list", "create", "delete"])
def test_growth_by_another_process_is_taken_on(path: Path, verb: str) -> None:
    backend = LMDBBackend(path, map_size=TINY, max_map_size=1 << 30, durable=False)
    assert drive(backend.create(record(), None, NOW))
    child = Child(processes.create_many, path, "2", 60, 20_000)
    assert child.receive() == "ready"
    child.connection.send("go")
    assert len(child.receive()) == 60
    child.finish()
    if verb == "get":
        assert drive(backend.get(record(b"59", "2").key, NOW)) is not None
    elif verb == "list":
        assert len(drive(backend.list(make_owner("app", "2"), NOW))) == 60
    elif verb == "create":
        assert drive(backend.create(record(b"b"), None, NOW))
    else:
        assert drive(backend.delete(record(b"59", "2").key, NOW))
    assert len(check_indexes(backend)) >= 60
    drive(backend.close())


# One environment in a process


def test_backends_on_one_directory_share_it(path: Path, tmp_path: Path) -> None:
    first = LMDBBackend(path)
    link = tmp_path / "link"
    link.symlink_to(path)
    second, third = LMDBBackend(link), LMDBBackend(str(path))
    assert drive(first.create(record(), None, NOW))
    assert drive(second.get(record().key, NOW)) == record()
    drive(first.close())
    drive(first.close())
    assert drive(second.delete(record().key, NOW))
    drive(second.close())
    assert drive(third.create(record(), None, NOW))
    drive(third.close())
    with pytest.raises(StoreUnavailable):
        drive(third.get(record().key, NOW))
    again = LMDBBackend(path, durable=False)
    assert drive(again.get(record().key, NOW)) == record()
    drive(again.close())


def test_a_path_through_a_link_and_its_parent_is_the_one_that_the_system_finds(tmp_path: Path) -> None:
    (tmp_path / "far" / "inner").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "inner")
    drive(LMDBBackend(f"{tmp_path}/link/../store").close())
    assert (tmp_path / "far" / "store" / "data.mdb").is_file()
    assert not (tmp_path / "store").exists()


def test_backends_on_one_directory_have_the_same_options(path: Path) -> None:
    backend = LMDBBackend(path)
    with pytest.raises(ConfigError, match="other options"):
        LMDBBackend(path, durable=False)
    drive(backend.close())


def test_threads_open_and_close_one_directory(path: Path) -> None:
    errors: list[BaseException] = []

    def body(number: int) -> None:
        try:
            for each in range(20):
                backend = LMDBBackend(path, durable=False)
                assert drive(backend.create(record(b"%d-%d" % (number, each)), None, NOW))
                drive(backend.close())
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=body, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors, errors
    backend = LMDBBackend(path)
    assert drive(backend.count("app", NOW)) == 80
    drive(backend.close())


def test_a_backend_that_was_dropped_lets_go_of_its_files(path: Path) -> None:
    backend = LMDBBackend(path)
    assert drive(backend.create(record(), None, NOW))
    del backend
    gc.collect()
    again = LMDBBackend(path, durable=False)
    assert drive(again.get(record().key, NOW)) == record()
    drive(again.close())


def test_a_verb_that_outlives_close_is_unavailable(backend: LMDBBackend) -> None:
    engine = engine_of(backend)
    drive(backend.close())
    with pytest.raises(StoreUnavailable, match="closed"):
        engine.read(lambda txn: txn.get(b"!layout"))
    with pytest.raises(StoreUnavailable, match="closed"):
        engine.write(lambda txn: txn.get(b"!layout"))


def test_a_directory_made_anew_is_a_new_store(path: Path) -> None:
    old = LMDBBackend(path)
    assert drive(old.create(record(), None, NOW))
    shutil.rmtree(path)
    new = LMDBBackend(path)
    assert drive(new.get(record().key, NOW)) is None
    assert drive(new.create(record(b"new"), None, NOW))
    assert drive(old.get(record().key, NOW)) == record()
    drive(old.close())
    assert drive(new.get(record(b"new").key, NOW)) == record(b"new")
    drive(new.close())


# Forks


def test_fork_after_open(path: Path) -> None:
    processes.in_process(processes.fork_after_open, path)


def test_fork_among_threads(path: Path) -> None:
    processes.in_process(processes.fork_among_threads, path, measured=False)


def test_fork_from_several_threads(path: Path) -> None:
    processes.in_process(processes.fork_from_threads, path, measured=False)


def test_fork_during_a_write_that_does_not_end(path: Path) -> None:
    processes.in_process(processes.fork_during_write, path, measured=False)


def test_fork_in_c(path: Path) -> None:
    processes.in_process(processes.fork_announced_in_c, path)


def test_rep_11_fork_in_c_without_a_word(path: Path) -> None:
    processes.in_process(processes.fork_in_c_without_a_word, path)


def test_rep_11_fork_in_c_during_a_write(path: Path) -> None:
    processes.in_process(processes.fork_in_c_during_write, path, measured=False)
