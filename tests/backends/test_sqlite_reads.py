"""`get` on SQLite past SQLAlchemy's pool: when it may, what it sees, and what it leaves to a thread."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any, ClassVar, TypeVar

import pytest
from sqlalchemy import Engine, NullPool, create_engine, event, text

from harness.forks import BOTH, children, in_children, needs_fork
from harness.internals import sql_engine_of
from powauth.backends import _sqlite_reader  # to put a file system in its place that has no shared memory
from powauth.backends._sql_engine import POOL_RECYCLE_SECONDS  # the age to advance a clock by
from powauth.backends.base import (
    Backend,
    Mode,
    ReadsInPlace,
    Record,
    WouldWaitError,
    drive,
    make_key,
    make_owner,
    shard_of,
)
from powauth.backends.memory import MemoryBackend
from powauth.backends.offloaded import OffloadedBackend
from powauth.backends.sql import SQLBackend, SQLiteBackend
from powauth.backends.wrapping import BackendWrapper
from powauth.errors import StoreUnavailable

NOW = 1_900_000_000_000
TTL = 1_800_000
OWNER = make_owner("credentials", "42")
KEY = make_key("credentials", shard_of(OWNER) + b"a")

T = TypeVar("T")


def record(version: int = 0, value: bytes = b"") -> Record:
    return Record(KEY, OWNER, version, NOW, NOW + TTL, value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app.db"


def signed_in(engine: Engine | str, **options: Any) -> SQLBackend:
    """A backend with one record, which has been read once."""
    backend = SQLBackend(engine, **options)
    drive(backend.create_tables())
    assert drive(backend.create(record(), None, NOW))
    assert drive(backend.get(KEY, NOW)) == record()
    return backend


@pytest.fixture
def backend(path: Path) -> Iterator[SQLBackend]:
    made = signed_in(f"sqlite:///{path}")
    yield made
    drive(made.close())


def connections(backend: SQLBackend) -> list[sqlite3.Connection]:
    assert isinstance(backend, SQLiteBackend)
    reader = backend._reader  # only the connections themselves show whether a descriptor is shared
    assert reader is not None
    return [opened.connection for opened in reader._idle]  # as above


def at_once(backend: Backend, now: int) -> Record | None:
    assert isinstance(backend, ReadsInPlace)
    return backend.get_at_once(KEY, now)


def would_wait(backend: SQLBackend) -> bool:
    try:
        at_once(backend, NOW)
    except WouldWaitError:
        return True
    return False


# What it sees


def test_a_read_is_one_statement(backend: SQLBackend) -> None:
    (connection,) = connections(backend)
    sent: list[str] = []
    connection.set_trace_callback(sent.append)
    for _ in range(3):
        assert drive(backend.get(KEY, NOW)) == at_once(backend, NOW) == record()
    assert len(sent) == 6
    assert {statement.split()[0] for statement in sent} == {"SELECT"}
    assert connections(backend) == [connection]
    plan = connection.execute(f"EXPLAIN QUERY PLAN {sent[0]}").fetchall()
    assert [step[3].split()[0] for step in plan] == ["SEARCH"]


def test_sto_06_a_read_at_once_sees_what_others_have_committed(backend: SQLBackend, path: Path) -> None:
    other = SQLBackend(f"sqlite:///{path}")
    assert drive(other.update(record(1, b"new"), 0, NOW))
    assert at_once(backend, NOW) == record(1, b"new")
    assert drive(other.delete_owner(OWNER, NOW)) == 1
    assert at_once(backend, NOW) is None
    drive(other.close())


def test_sto_06_expired_counts_as_absent(backend: SQLBackend) -> None:
    assert at_once(backend, NOW + TTL - 1) == record()
    assert at_once(backend, NOW + TTL) is None


@pytest.mark.parametrize("column", ["version", "value", "owner"])
def test_sto_02_a_row_of_other_types_is_a_miss(backend: SQLBackend, path: Path, column: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE powauth_sessions SET {column} = 'text'")
    connection.close()
    assert at_once(backend, NOW) is None


def test_it_cannot_write(backend: SQLBackend) -> None:
    (connection,) = connections(backend)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("DELETE FROM powauth_sessions")


# What it does not wait for


def test_sto_07_a_writer_holds_up_no_read(backend: SQLBackend, path: Path) -> None:
    with sqlite3.connect(path, isolation_level=None) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        writer.execute("DELETE FROM powauth_sessions")
        assert at_once(backend, NOW) == record()
        writer.execute("COMMIT")
        assert at_once(backend, NOW) is None
    writer.close()


def test_a_read_keeps_no_snapshot_that_would_hold_up_a_checkpoint(backend: SQLBackend, path: Path) -> None:
    assert at_once(backend, NOW) == record()
    with sqlite3.connect(path, isolation_level=None) as writer:
        writer.execute("UPDATE powauth_sessions SET version = 7")
        ((busy, left, moved),) = writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    writer.close()
    assert (busy, left, moved) == (0, 0, 0)
    assert at_once(backend, NOW) == record(7)


def test_what_goes_wrong_at_once_ends_in_the_usual_way(backend: SQLBackend, path: Path) -> None:
    with sqlite3.connect(path) as other:
        other.execute("ALTER TABLE powauth_sessions RENAME TO elsewhere")
    other.close()
    assert would_wait(backend)
    with pytest.raises(StoreUnavailable) as caught:
        drive(backend.get(KEY, NOW))
    assert "no such table" in str(caught.value.__cause__)
    with sqlite3.connect(path) as other:
        other.execute("ALTER TABLE elsewhere RENAME TO powauth_sessions")
    other.close()
    assert drive(backend.get(KEY, NOW)) == record()
    assert not would_wait(backend)


def test_a_closed_backend_reads_nothing(path: Path) -> None:
    backend = signed_in(f"sqlite:///{path}")
    (connection,) = connections(backend)
    drive(backend.close())
    assert would_wait(backend)
    with pytest.raises(StoreUnavailable, match="closed"):
        drive(backend.get(KEY, NOW))
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


def test_a_connection_that_has_served_its_time_is_replaced(
    backend: SQLBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = connections(backend)
    later = monotonic() + POOL_RECYCLE_SECONDS + 1
    monkeypatch.setattr(_sqlite_reader, "monotonic", lambda: later)
    assert would_wait(backend)
    assert drive(backend.get(KEY, NOW)) == record()
    assert len(connections(backend)) == 1
    assert connections(backend) != before
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        before[0].execute("SELECT 1")


# Which engines


def wal(connection: Any, _: object) -> None:
    connection.execute("PRAGMA journal_mode=WAL")


def test_an_engine_of_the_app_in_wal_mode_will_do_and_its_disposal_closes_all(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")
    event.listen(engine, "connect", wal)
    backend = signed_in(engine)
    (connection,) = connections(backend)
    assert not would_wait(backend)
    engine.dispose()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
    assert would_wait(backend)
    assert drive(backend.get(KEY, NOW)) == record()
    assert not would_wait(backend)
    engine.dispose()


def test_an_engine_without_a_pool_will_do(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)
    event.listen(engine, "connect", wal)
    backend = signed_in(engine)
    assert not would_wait(backend)
    engine.dispose()


def test_sto_07_another_journal_mode_is_left_to_a_thread(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")
    backend = signed_in(engine)
    assert would_wait(backend)
    assert drive(backend.get(KEY, NOW)) == record()
    assert would_wait(backend)
    engine.dispose()


def test_sto_06_connections_that_are_always_in_a_transaction_are_left_alone(path: Path) -> None:
    """As the driver's ``autocommit=False`` makes them from Python 3.12 on: they would see no later commit."""
    sqlite3.connect(path).close()
    engine = create_engine(f"sqlite:///{path}", poolclass=NullPool)

    def begin(connection: Any, _: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
        connection.execute("BEGIN")

    backend = signed_in(f"sqlite:///{path}")
    event.listen(engine, "connect", begin)
    always = SQLBackend(engine)
    assert drive(always.get(KEY, NOW)) == record()
    assert drive(backend.delete(KEY, NOW))
    assert would_wait(always)
    assert drive(always.get(KEY, NOW)) is None
    drive(backend.close())
    engine.dispose()


class Watched(sqlite3.Connection):
    """Tells whether it is open."""

    made: ClassVar[list["Watched"]] = []

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.is_open = True
        self.made.append(self)

    def close(self) -> None:
        super().close()
        self.is_open = False


@pytest.mark.parametrize("bound", [True, False], ids=["bound to its thread", "of all threads"])
def test_a_connection_that_is_bound_to_its_thread_is_left_alone_and_closed(
    path: Path, bound: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread could neither read with it nor close it."""
    monkeypatch.setattr(Watched, "made", [])
    options = {"check_same_thread": bound, "factory": Watched}
    engine = create_engine(f"sqlite:///{path}", connect_args=options, poolclass=NullPool)
    event.listen(engine, "connect", wal)
    backend = signed_in(engine)
    assert would_wait(backend) is bound

    def elsewhere() -> list[Record | None]:
        return [drive(backend.get(KEY, NOW)) for _ in range(3)]

    with ThreadPoolExecutor(1) as threads:
        for _ in range(2):
            assert threads.submit(elsewhere).result() == [record()] * 3
            assert drive(backend.get(KEY, NOW)) == record()
    assert sum(each.is_open for each in Watched.made) == (0 if bound else 1)
    engine.dispose()
    assert not any(each.is_open for each in Watched.made)


def test_a_process_without_room_for_a_thread_reads_in_the_usual_way(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", full)
        backend = signed_in(f"sqlite:///{path}")
        assert would_wait(backend)
    assert drive(backend.get(KEY, NOW)) == record()
    assert not would_wait(backend)
    drive(backend.close())


def test_whoever_listens_to_the_engine_hears_of_each_read(backend: SQLBackend) -> None:
    heard: list[str] = []
    event.listen(sql_engine_of(backend), "before_cursor_execute", lambda _c, _d, statement, *_: heard.append(statement))
    assert would_wait(backend)
    for count in (1, 2):
        assert drive(backend.get(KEY, NOW)) == record()
        assert len(heard) == count


def test_an_engine_whose_tables_are_renamed_on_the_way_is_left_alone(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}", execution_options={"schema_translate_map": {None: "main"}})
    event.listen(engine, "connect", wal)
    backend = signed_in(engine)
    assert not isinstance(backend, ReadsInPlace)
    assert drive(backend.get(KEY, NOW)) == record()
    engine.dispose()


# On an event loop


class Threads:
    """Counts what is sent to a worker thread."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, function: Callable[[], T], /) -> Awaitable[T]:
        self.count += 1
        return asyncio.to_thread(function)


def test_on_an_event_loop_reads_stay_and_writes_go(path: Path) -> None:
    async def scenario() -> None:
        inner = SQLBackend(f"sqlite:///{path}")
        threads = Threads()
        backend = OffloadedBackend(inner, threads)
        assert backend.mode == "async"
        assert isinstance(backend, ReadsInPlace)
        await asyncio.to_thread(drive, inner.create_tables())
        assert await backend.create(record(), None, NOW)
        assert await backend.get(KEY, NOW) == record()
        assert threads.count == 2, "the first read opens a connection, which may wait"
        for _ in range(3):
            assert await backend.get(KEY, NOW) == record()
            assert at_once(backend, NOW) == record()
        assert threads.count == 2
        assert await backend.update(record(1), 0, NOW)
        assert await backend.get(KEY, NOW) == record(1)
        assert threads.count == 3
        await backend.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await backend.get(KEY, NOW)

    asyncio.run(scenario())


class Asked(BackendWrapper):
    """A backend that cannot be read in place."""

    abilities = ()
    mode: Mode = "blocking"

    def here(self) -> Backend:
        return self.inner

    def __init__(self, inner: Backend) -> None:
        self.inner = inner


def test_a_backend_that_does_not_read_in_place_gets_a_thread_each_time() -> None:
    async def scenario() -> None:
        threads = Threads()
        backend = OffloadedBackend(Asked(MemoryBackend()), threads)
        assert not isinstance(backend, ReadsInPlace)
        assert await backend.get(KEY, NOW) is None
        assert threads.count == 1

    asyncio.run(scenario())


# Forks


def locks_of_this_process() -> list[str]:
    """The locks on files that the system knows of this process."""
    return [line for line in Path("/proc/locks").read_text().splitlines() if f" {os.getpid()} " in line]


@needs_fork
@BOTH
@pytest.mark.parametrize("own", [False, True], ids=["url", "engine"])
def test_rep_11_a_child_has_locks_of_its_own(path: Path, fork: Callable[[], int], own: bool) -> None:
    """SQLite keeps a list of its process's locks, and a child inherits the list without the locks."""
    if not Path("/proc/locks").exists():
        pytest.skip("the system does not tell who holds a lock")
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        connection.execute(text("PRAGMA journal_mode=WAL"))
    backend = signed_in(engine if own else f"sqlite:///{path}")
    assert drive(backend.get(KEY, NOW)) == record()

    def child(_: int) -> int:
        for _ in range(2):
            assert drive(backend.get(KEY, NOW)) == record()
        return len(locks_of_this_process())

    assert locks_of_this_process()
    assert in_children(child, fork, 2) >= [1, 1]
    assert locks_of_this_process()
    drive(backend.close())
    engine.dispose()


@needs_fork
@BOTH
def test_rep_11_what_a_child_writes_outlives_its_parents_connections(path: Path, fork: Callable[[], int]) -> None:
    """The last process to close the file removes the log. It must see that the child has the log open."""
    url = f"sqlite:///{path}"
    backend = signed_in(url)
    told_reading, told_writing = os.pipe()
    go_reading, go_writing = os.pipe()
    early, late = (
        Record(make_key("credentials", shard_of(OWNER) + name), OWNER, 0, NOW, NOW + TTL, b"")
        for name in (b"early", b"late")
    )

    def child(_: int) -> bool:
        assert drive(backend.get(KEY, NOW)) == record()
        assert drive(backend.create(early, None, NOW))
        os.write(told_writing, b"!")
        os.read(go_reading, 1)
        return drive(backend.create(late, None, NOW))

    with children(child, fork, 1) as results:
        os.read(told_reading, 1)
        drive(backend.close())
        assert read_anew(url, KEY) == record()
        os.write(go_writing, b"!")
        assert results() == [True]
    assert (read_anew(url, early.key), read_anew(url, late.key)) == (early, late)
    for descriptor in (told_reading, told_writing, go_reading, go_writing):
        os.close(descriptor)


@pytest.mark.parametrize("scheme", ["sqlite", "sqlite+aiosqlite"])
def test_rep_11_a_second_backend_of_a_process_leaves_the_locks_of_the_first(
    backend: SQLBackend, path: Path, scheme: str
) -> None:
    """Closing any descriptor of the file would drop them, and then the next process to leave removes the log."""
    early, late = (
        Record(make_key("credentials", shard_of(OWNER) + name), OWNER, 0, NOW, NOW + TTL, b"")
        for name in (b"early", b"late")
    )
    assert drive(backend.create(early, None, NOW))
    SQLBackend(f"{scheme}:///{path}")
    look = f"import sqlite3; c = sqlite3.connect({str(path)!r}); c.execute('SELECT count(*) FROM powauth_sessions')"
    subprocess.run([sys.executable, "-c", f"{look}; c.close()"], check=True)
    assert drive(backend.create(late, None, NOW))
    read = "from test_sqlite_reads import *; print(read_anew(sys.argv[1], bytes.fromhex(sys.argv[2])).key.hex())"
    done = subprocess.run(
        [sys.executable, "-c", read, f"sqlite:///{path}", late.key.hex()],
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == late.key.hex()


def read_anew(url: str, key: bytes) -> Record | None:
    """What a process that opens the file and closes it again reads."""
    backend = SQLBackend(url)
    found = drive(backend.get(key, NOW))
    drive(backend.close())
    return found
