"""Other processes that use an LMDB store, for the tests of the LMDB backend."""

import ctypes
import fcntl
import gc
import hashlib
import multiprocessing
import os
import random
import resource
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

import coverage
import lmdb
import msgspec
import pytest

from harness.forks import fork_in_c, in_children
from powauth.backends import _lmdb_engine as engines  # to hold its locks at the moment of a fork
from powauth.backends._ordered_records import decode, place_of  # to check the indexes of a file, entry by entry
from powauth.backends.base import Backend, Millis, Mode, Record, ScanPage, drive, make_key, make_owner, shard_of
from powauth.backends.lmdb import LMDBBackend
from powauth.errors import ConfigError, StoreUnavailable

T = TypeVar("T")

NOW: Millis = 1_900_000_000_000
TTL: Millis = 1_800_000
TINY = engines.MIN_MAP_SIZE

_context = multiprocessing.get_context("spawn")


def record(name: bytes = b"a", user: str = "1", **changes: Any) -> Record:
    """A live record of the namespace ``app``."""
    owner = make_owner("app", user)
    made = Record(make_key("app", shard_of(owner) + name), owner, 0, NOW, NOW + TTL, b"value")
    return msgspec.structs.replace(made, **changes)


def engine_of(backend: LMDBBackend) -> engines.Engine:
    """Return the engine of a backend, which a test holds in a state that only a crash or a race makes."""
    engine = backend._engine
    assert engine is not None
    return engine


def entries(backend: LMDBBackend) -> dict[bytes, bytes]:
    """Everything in the file."""
    return backend.read(lambda txn: dict(txn.ascending(b"!")))


def plant(backend: LMDBBackend, key: bytes, value: bytes) -> None:
    """Write below the backend."""
    backend.write(lambda txn: txn.put(key, value))


def check_indexes(backend: LMDBBackend) -> dict[bytes, Record]:
    """Assert that records, and entries in indexes, are one for one; the records."""
    content = entries(backend)
    records: dict[bytes, Record] = {}
    owners: set[bytes] = set()
    expiries: dict[bytes, bytes] = {}
    moves: set[bytes] = set()
    for key, value in content.items():
        if key[:1] == b"r":
            found = decode(key[1:], value)
            assert found is not None, f"unreadable record {key!r}"
            records[key[1:]] = found
            place = place_of(found.owner, found.created_at)
            owners.add(b"o" + place + found.key)
            expiries[b"x" + found.expires_at.to_bytes(8, "big") + found.key] = place
        elif key[:1] == b"e":
            moves.add(b"m" + value[8:] + key[1:])
    assert {key for key in content if key[:1] == b"o"} == owners
    assert {key: value for key, value in content.items() if key[:1] == b"x"} == expiries
    assert {key for key in content if key[:1] == b"m"} == moves
    return records


# One function in a fresh process, and its answer


def _coverage_options() -> dict[str, Any] | None:
    """How to measure coverage in a child, if it is measured here."""
    here = coverage.Coverage.current()
    if here is None:
        return None
    return {"data_file": here.config.data_file, "data_suffix": True, "config_file": here.config.config_file}


def _measured(function: Callable[..., None], options: dict[str, Any] | None, *arguments: object) -> None:
    if options is not None:
        coverage.Coverage(**options).start()
    try:
        function(*arguments)
    finally:
        _save_coverage()


def _save_coverage() -> None:
    if (here := coverage.Coverage.current()) is not None:
        here.stop()
        here.save()


class Child:
    """A fresh process that runs ``function(connection, *arguments)``."""

    def __init__(self, function: Callable[..., None], *arguments: object, measured: bool = True) -> None:
        self.connection, theirs = _context.Pipe()
        arguments = (function, _coverage_options() if measured else None, theirs, *arguments)
        self.process = _context.Process(target=_measured, args=arguments, daemon=True)
        self.process.start()
        theirs.close()

    def receive(self) -> Any:
        """The next thing it sends."""
        assert self.connection.poll(60), "the process does not answer"
        return self.connection.recv()

    def kill(self) -> None:
        """As the kernel does when memory runs out."""
        self.process.kill()
        self.process.join(60)

    def finish(self) -> None:
        """Wait for its end, which must be a good one."""
        self.process.join(60)
        assert self.process.exitcode == 0
        self.connection.close()


def in_process(function: Callable[..., None], *arguments: object, measured: bool = True) -> None:
    """Run ``function(connection, *arguments)`` in a fresh process; it fails if that does.

    One that forks while other threads run must not be measured: coverage's own locks do not survive that.
    """
    Child(function, *arguments, measured=measured).finish()


# A backend that is elsewhere


class ElsewhereBackend(Backend):
    """The verbs, carried out by another process on the same directory."""

    mode: Mode = "inline"

    def __init__(self, path: Path, **options: object) -> None:
        self.child = Child(serve, path, options)

    def _call(self, verb: str, *arguments: object, **named: object) -> Any:
        self.child.connection.send((verb, arguments, named))
        result = self.child.receive()
        if isinstance(result, Exception):
            raise result
        return result

    async def create(self, record: Record, epoch: int | None, now: Millis) -> bool:
        return bool(self._call("create", record, epoch, now))

    async def get(self, key: bytes, now: Millis) -> Record | None:
        found = self._call("get", key, now)
        assert found is None or isinstance(found, Record)
        return found

    async def update(self, record: Record, expected_version: int, now: Millis) -> bool:
        return bool(self._call("update", record, expected_version, now))

    async def delete(self, key: bytes, now: Millis) -> bool:
        return bool(self._call("delete", key, now))

    async def list(self, owner: bytes, now: Millis) -> list[Record]:
        return msgspec.convert(self._call("list", owner, now), list[Record])

    async def epoch(self, owner: bytes, now: Millis, *, advance: bool = False) -> int:
        return int(self._call("epoch", owner, now, advance=advance))

    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        return int(self._call("delete_owner", owner, now, keep))

    async def purge(self, limit: int, now: Millis) -> int:
        return int(self._call("purge", limit, now))

    async def scan(self, namespace: str, cursor: str | None, limit: int, now: Millis) -> ScanPage:
        page = self._call("scan", namespace, cursor, limit, now)
        assert isinstance(page, ScanPage)
        return page

    async def count(self, namespace: str, now: Millis) -> int:
        return int(self._call("count", namespace, now))

    async def close(self) -> None:
        if self.child.process.is_alive():
            self._call("close")
            self.child.finish()


def serve(connection: Connection, path: Path, options: dict[str, Any]) -> None:
    """Answer the calls of an `ElsewhereBackend`."""
    backend = LMDBBackend(path, **options)
    verb = ""
    while verb != "close":
        verb, arguments, named = connection.recv()
        try:
            connection.send(drive(getattr(backend, verb)(*arguments, **named)))
        except StoreUnavailable as error:
            connection.send(error)


# Processes that misbehave


def hold_read(connection: Connection, path: Path) -> None:
    """Sit in a read transaction until killed."""
    engine = engine_of(LMDBBackend(path))
    transaction = engine.begin()
    transaction.get(b"!layout")
    connection.send(os.getpid())
    signal.pause()


def hold_write(connection: Connection, path: Path) -> None:
    """Sit in a write transaction, half done, until killed."""
    engine = engine_of(LMDBBackend(path))
    with engine.begin(write=True) as transaction:
        transaction.put(b"r" + record(b"half").key, b"half")
        connection.send(os.getpid())
        signal.pause()


def create_many(connection: Connection, path: Path, user: str, number: int, size: int) -> None:
    """Create records on a map that begins tiny; say which were acknowledged."""
    backend = LMDBBackend(path, map_size=TINY, max_map_size=1 << 30, durable=False)
    made = [record(b"%d" % each, user, value=bytes(size)) for each in range(number)]
    connection.send("ready")
    connection.recv()
    connection.send([each.key for each in made if drive(backend.create(each, None, NOW))])


def count_up(connection: Connection, path: Path, number: int) -> None:
    """Compare-and-set one record's version upwards; say how often it won."""
    backend = LMDBBackend(path, durable=False)
    connection.send("ready")
    connection.recv()
    won = 0
    for _ in range(number):
        found = drive(backend.get(record().key, NOW))
        assert found is not None
        won += drive(backend.update(msgspec.structs.replace(found, version=found.version + 1), found.version, NOW))
    connection.send(won)


# Scenarios that must not happen in the process of the tests: forks, limits, damage


def _in_fork(work: Callable[[], None], fork: Callable[[], int] = os.fork) -> None:
    """Run the work in a fork of this process, and expect it to succeed."""
    in_c = fork is not os.fork
    if in_c:
        # Python 3.13 ends a child that calls PyOS_AfterFork_Child without this.
        ctypes.pythonapi.PyOS_BeforeFork()
    pid = fork()
    if pid == 0:
        code = 1
        try:
            if in_c:
                ctypes.pythonapi.PyOS_AfterFork_Child()
            work()
            code = 0
        finally:
            _save_coverage()
            os._exit(code)
    if in_c:
        ctypes.pythonapi.PyOS_AfterFork_Parent()
    assert os.waitpid(pid, 0)[1] == 0


def fork_after_open(connection: Connection, path: Path) -> None:
    """A master opens the store, its workers use it, and so does it."""
    backend = LMDBBackend(path)
    assert drive(backend.create(record(b"parent"), None, NOW))

    def worker(name: bytes) -> None:
        assert drive(backend.get(record(b"parent").key, NOW)) == record(b"parent")
        assert drive(backend.create(record(name), None, NOW))
        assert drive(backend.delete(record(b"once").key, NOW)) is (name == b"0")
        _in_fork(lambda: worker_of_worker(name))

    def worker_of_worker(name: bytes) -> None:
        assert drive(backend.get(record(name).key, NOW)) == record(name)
        drive(backend.close())

    assert drive(backend.create(record(b"once"), None, NOW))
    for number in range(4):
        _in_fork(lambda name=b"%d" % number: worker(name))  # type: ignore[misc]
        assert drive(backend.get(record(b"%d" % number).key, NOW)) == record(b"%d" % number)
    assert drive(backend.count("app", NOW)) == 5
    workers = []
    for number in range(4):
        pid = os.fork()
        if pid == 0:
            done = all(drive(backend.create(record(b"%d-%d" % (number, each)), None, NOW)) for each in range(20))
            os._exit(0 if done else 1)
        workers.append(pid)
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in workers)
    assert drive(backend.count("app", NOW)) == 85
    check_indexes(backend)
    readers = engine_of(backend).env.readers()
    assert str(os.getpid()) in readers or "no active readers" in readers


def fork_among_threads(connection: Connection, path: Path) -> None:
    """Fork again and again while threads read and write; no thread notices, no child is broken."""
    backend = LMDBBackend(path, durable=False)
    assert drive(backend.create(record(), None, NOW))
    stop = threading.Event()
    errors: list[BaseException] = []
    written: list[int] = [0, 0]

    def until_stopped(step: Callable[[], None]) -> None:
        try:
            while not stop.is_set():
                step()
        except BaseException as error:
            errors.append(error)

    def read() -> None:
        assert drive(backend.get(record().key, NOW)) is not None
        assert len(drive(backend.list(record().owner, NOW))) == 1

    def write(place: int) -> None:
        name = b"%d-%d" % (place, written[place])
        assert drive(backend.create(record(name, "2"), None, NOW))
        written[place] += 1

    steps: list[Callable[[], None]] = [read, read, lambda: write(0), lambda: write(1)]
    threads = [threading.Thread(target=until_stopped, args=(step,)) for step in steps]
    for thread in threads:
        thread.start()

    def child(number: int) -> None:
        read()
        assert drive(backend.create(record(b"%d" % number, "3"), None, NOW))

    for number in range(25):
        _in_fork(lambda number=number: child(number))  # type: ignore[misc]
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not errors, errors
    assert drive(backend.count("app", NOW)) == 1 + sum(written) + 25
    check_indexes(backend)


def fork_from_threads(connection: Connection, path: Path) -> None:
    """Several threads fork at once."""
    backend = LMDBBackend(path, durable=False)
    errors: list[BaseException] = []

    def forks(user: str) -> None:
        try:
            for number in range(8):
                each = record(b"%d" % number, user)
                _in_fork(lambda each=each: create(each))  # type: ignore[misc]
                assert drive(backend.get(each.key, NOW)) == each
        except BaseException as error:
            errors.append(error)

    def create(each: Record) -> None:
        assert drive(backend.create(each, None, NOW))

    threads = [threading.Thread(target=forks, args=(str(number),)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors, errors
    assert drive(backend.count("app", NOW)) == 24
    assert engines.fork_lock.acquire(blocking=False)
    assert engine_of(backend).lock.acquire(blocking=False)


def fork_during_write(connection: Connection, path: Path) -> None:
    """A write of another thread does not end in time: the child says so, the parent goes on."""
    backend = LMDBBackend(path)
    engines.fork_patience = 0.05
    begun, done = threading.Event(), threading.Event()

    def slow(txn: "lmdb.Transaction[bytes]") -> None:
        begun.set()
        assert done.wait(60)

    thread = threading.Thread(target=lambda: engine_of(backend).write(slow))
    thread.start()
    assert begun.wait(60)

    def child() -> None:
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="forked"):
                drive(backend.create(record(), None, NOW))

    _in_fork(child)
    done.set()
    thread.join(60)
    assert drive(backend.create(record(), None, NOW))
    assert drive(backend.get(record().key, NOW)) == record()


def fork_announced_in_c(connection: Connection, path: Path) -> None:
    """A server that forks in C and tells Python only in the child."""
    backend = LMDBBackend(path)
    assert drive(backend.create(record(), None, NOW))

    def child() -> None:
        assert drive(backend.get(record().key, NOW)) == record()
        assert drive(backend.create(record(b"child"), None, NOW))

    _in_fork(child, fork_in_c)
    assert drive(backend.get(record(b"child").key, NOW)) == record(b"child")
    assert drive(backend.create(record(b"parent"), None, NOW))
    check_indexes(backend)


def fork_in_c_without_a_word(connection: Connection, path: Path) -> None:
    """A server that forks in C and never tells Python. The child exits as a program does."""
    backend = LMDBBackend(path)
    assert drive(backend.create(record(), None, NOW))

    def child(number: int) -> tuple[bool, bool]:
        mine = record(b"%d" % number)
        found = drive(backend.get(record().key, NOW)) == record() and drive(backend.create(mine, None, NOW))
        with engine_of(backend).begin():
            return found, str(os.getpid()) in engine_of(backend).env.readers()

    assert in_children(child, fork_in_c, 3) == [(True, True)] * 3
    assert drive(backend.count("app", NOW)) == 4
    pid = fork_in_c()
    if pid == 0:
        assert drive(backend.get(record().key, NOW)) == record()
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    assert drive(backend.create(record(b"parent"), None, NOW))
    check_indexes(backend)


def fork_in_c_during_write(connection: Connection, path: Path) -> None:
    """A fork in C waits for no other thread's write: the child says so, and can end."""
    backend = LMDBBackend(path)
    begun, done = threading.Event(), threading.Event()

    def slow(txn: "lmdb.Transaction[bytes]") -> None:
        begun.set()
        assert done.wait(60)

    thread = threading.Thread(target=lambda: engine_of(backend).write(slow), daemon=True)
    thread.start()
    assert begun.wait(60)
    pid = fork_in_c()
    if pid == 0:
        with pytest.raises(StoreUnavailable, match="forked"):
            drive(backend.create(record(), None, NOW))
        sys.exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    done.set()
    thread.join(60)
    assert drive(backend.create(record(), None, NOW))
    assert drive(backend.get(record().key, NOW)) == record()


def fill(backend: LMDBBackend, size: int, name: bytes = b"fill") -> tuple[list[Record], StoreUnavailable]:
    """Create records until the store refuses."""
    made: list[Record] = []
    for number in range(100_000):
        each = record(name + b"%d" % number, str(number % 3), value=bytes(size))
        try:
            assert drive(backend.create(each, None, NOW))
        except StoreUnavailable as error:
            return made, error
        made.append(each)
    raise AssertionError("the store does not fill")


def full_disk(connection: Connection, path: Path, limit: bool) -> None:
    """Fill the disk (or reach the largest file allowed), read, remove, and recover."""
    backend = LMDBBackend(path)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
    made, error = fill(backend, 2000)
    assert isinstance(error.__cause__, lmdb.Error)
    assert len(made) > 50
    if not limit:
        assert isinstance(error.__cause__, lmdb.DiskError)
        assert "disk" in str(error)
    for each in made:
        assert drive(backend.get(each.key, NOW)) == each
    check_indexes(backend)
    removed = sum(_delete(backend, each) for each in made[:20])
    assert removed >= 18, "there are free pages within the file"
    check_indexes(backend)
    again = sum(_create(backend, record(b"again%d" % number)) for number in range(10))
    assert again == 10, "it recovers without a restart"
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert all(_create(backend, record(b"more%d" % number, value=bytes(2000))) for number in range(100))
    check_indexes(backend)


def _create(backend: LMDBBackend, each: Record) -> bool:
    try:
        return drive(backend.create(each, None, NOW))
    except StoreUnavailable:
        return False


def _delete(backend: LMDBBackend, each: Record) -> bool:
    try:
        return drive(backend.delete(each.key, NOW))
    except StoreUnavailable:
        return False


def no_address_space(connection: Connection, path: Path) -> None:
    """The process may not map more memory: no map to begin with, and none to grow into."""
    backend = LMDBBackend(path, map_size=TINY, durable=False)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20), resource.RLIM_INFINITY))
    with pytest.raises(ConfigError, match="map_size"):
        LMDBBackend(path.with_name("other"), map_size=1 << 32)
    made, refused = fill(backend, 60_000)
    assert isinstance(refused.__cause__, lmdb.Error)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    for each in made:
        assert drive(backend.get(each.key, NOW)) == each
    assert _create(backend, record(b"again", value=bytes(60_000)))
    check_indexes(backend)


def failed_commit(connection: Connection, path: Path) -> None:
    """The write that makes a transaction valid fails: the file is sound, and the next verb works."""
    backend = LMDBBackend(path)
    assert drive(backend.create(record(b"old", expires_at=NOW + 1), None, NOW))
    assert drive(backend.create(record(), None, NOW))

    def break_commit() -> None:
        for link in Path("/proc/self/fd").iterdir():
            try:
                target = link.readlink()
                synchronous = fcntl.fcntl(int(link.name), fcntl.F_GETFL) & os.O_DSYNC
            except OSError:
                continue
            if target == path / "data.mdb" and synchronous:
                os.close(int(link.name))
                return
        raise AssertionError

    break_commit()
    assert drive(backend.get(record(b"old").key, NOW + 1)) is None, "a removal that fails is not the reader's matter"
    assert drive(backend.get(record().key, NOW)) == record()
    assert drive(backend.create(record(b"b"), None, NOW))
    break_commit()
    with pytest.raises(StoreUnavailable) as caught:
        drive(backend.create(record(b"c"), None, NOW))
    assert isinstance(caught.value.__cause__, lmdb.Error)
    assert drive(backend.create(record(b"d"), None, NOW))
    assert drive(backend.get(record(b"d").key, NOW)) == record(b"d")
    check_indexes(backend)


def damaged(connection: Connection, path: Path, damage: str) -> None:
    """The file is damaged while nobody has it open: errors, and never a crash or a wrong answer."""
    backend = LMDBBackend(path)
    made = [record(b"%d" % number, str(number % 50), value=bytes([number % 256]) * 500) for number in range(400)]
    for each in made:
        assert drive(backend.create(each, None, NOW))
    drive(backend.close())
    data = path / "data.mdb"
    size = data.stat().st_size
    if damage == "short":
        os.truncate(data, size // 8 // 4096 * 4096)
    elif damage == "pages":
        with data.open("r+b") as file:
            file.seek(2 * 4096)
            file.write(b"\xa5" * (size - 2 * 4096))
    elif damage == "zeros":
        with data.open("r+b") as file:
            file.seek(2 * 4096)
            file.write(bytes(size - 2 * 4096))
    else:
        data.write_bytes(b"garbage" * 10_000)
    try:
        backend = LMDBBackend(path)
    except StoreUnavailable:
        connection.send("refused at open")
        return
    failed = 0

    def read_all() -> None:
        assert all(drive(backend.get(each.key, NOW)) in (each, None) for each in made)

    verbs: list[Callable[[], object]] = [
        read_all,
        lambda: [drive(backend.list(each.owner, NOW)) for each in made],
        lambda: drive(backend.create(record(b"new"), None, NOW)),
        lambda: drive(backend.delete(made[0].key, NOW)),
        lambda: drive(backend.delete_owner(made[0].owner, NOW)),
        lambda: drive(backend.purge(100, NOW + 2 * TTL)),
        lambda: drive(backend.count("app", NOW)),
    ]
    for verb in verbs:
        try:
            verb()
        except StoreUnavailable:
            failed += 1
    assert failed, "damage goes unnoticed"
    connection.send(f"{failed} verbs failed")


# What is killed


@dataclass
class Operation:
    """What a worker is about to do, or has done."""

    verb: str
    record: Record
    keep: bytes | None = None


def worker(descriptor: int, path: Path, seed: int, user: str) -> None:
    """Write for ever; say on the descriptor, one line each, what begins and what was acknowledged."""
    chance = random.Random(seed)
    backend = LMDBBackend(path, map_size=TINY, max_map_size=1 << 30)
    owner = make_owner("app", user)
    state = {each.key: each for each in drive(backend.list(owner, NOW))}
    encoder = msgspec.json.Encoder()
    while True:
        operation = choose(chance, state, user)
        os.write(descriptor, encoder.encode(["begin", operation]) + b"\n")
        perform(backend, operation)
        apply(state, operation)
        os.write(descriptor, encoder.encode(["done", operation]) + b"\n")


def content(key: bytes, version: int) -> bytes:
    """The value that a version of a record must have: of any length, also beyond a page."""
    digest = hashlib.blake2b(key + b"%d" % version).digest()
    return digest * (1 + digest[0] % 90)


def choose(chance: random.Random, state: dict[bytes, Record], user: str) -> Operation:
    """Something to do that must succeed."""
    keys = sorted(state)
    verb = chance.choices(["create", "update", "delete", "delete_owner"], [5, 6, 3, 1])[0]
    if not keys or (verb == "create" and len(keys) < 40):
        name = b"%016d" % chance.getrandbits(50)
        made = record(name, user, created_at=NOW - chance.randrange(1000))
        return Operation("create", msgspec.structs.replace(made, value=content(made.key, 0)))
    old = state[chance.choice(keys)]
    if verb == "delete_owner":
        return Operation(verb, old, old.key if chance.random() < 0.7 else None)
    if verb == "delete":
        return Operation(verb, old)
    version, expires_at = old.version + 1, old.expires_at + chance.randrange(-500, 1000)
    return Operation(
        "update",
        msgspec.structs.replace(old, version=version, expires_at=expires_at, value=content(old.key, version)),
    )


def perform(backend: LMDBBackend, operation: Operation) -> None:
    """Do it."""
    each = operation.record
    if operation.verb == "create":
        assert drive(backend.create(each, None, NOW))
    elif operation.verb == "update":
        assert drive(backend.update(each, each.version - 1, NOW))
    elif operation.verb == "delete":
        assert drive(backend.delete(each.key, NOW))
    else:
        drive(backend.delete_owner(each.owner, NOW, operation.keep))


def apply(state: dict[bytes, Record], operation: Operation) -> None:
    """What it does to the records of one owner."""
    if operation.verb in {"create", "update"}:
        state[operation.record.key] = operation.record
    elif operation.verb == "delete":
        del state[operation.record.key]
    else:
        for key in [key for key in state if key != operation.keep]:
            del state[key]


def nursery(connection: Connection) -> None:
    """Fork a worker for each message, quickly; answer with its process id. The pipes are named ones."""
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while (order := connection.recv()) is not None:
        fifo, path, seed, user = order
        pid = os.fork()
        if pid == 0:
            try:
                worker(os.open(fifo, os.O_WRONLY), path, seed, user)
            finally:
                os._exit(1)
        connection.send(pid)
