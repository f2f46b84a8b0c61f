"""The environment behind `powauth.backends.lmdb`: opened once per process, grown when full, closed before a fork."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias, TypeVar

from powauth import _forks
from powauth._extras import needs
from powauth._outages import Failure, one_line, unavailable
from powauth.backends._lmdb_files import DATA, prepare
from powauth.backends._ordered_records import LAYOUT, Transaction
from powauth.errors import ConfigError, StoreUnavailable

_OLDEST_LMDB: Final = 3

with needs("lmdb", "LMDBBackend", "lmdb"):
    import lmdb

if int(lmdb.__version__.partition(".")[0]) < _OLDEST_LMDB:
    # In older versions a read during a change of the map could crash, and only the path identified an environment.
    raise ConfigError(f"LMDBBackend needs lmdb {_OLDEST_LMDB} or newer: pip install -U 'powauth[lmdb]'")

T = TypeVar("T")

RawTransaction: TypeAlias = "lmdb.Transaction[bytes]"

EngineError = lmdb.Error

MIN_MAP_SIZE: Final = 256 * 1024
"""Bytes. A smaller map has no room for a transaction beside the pages that the previous one has just freed."""

MAX_MAP_SIZE: Final = 1 << 46
"""Bytes. The address space of a process ends here or soon after."""

HEADROOM: Final = 16 * 1024 * 1024
"""Bytes beyond ``max_map_size`` that only removals may use: deleting from a copy-on-write tree needs pages first."""

_MAX_READERS: Final = 2048
"""The most concurrent reads of all processes. Each takes 64 bytes of the lock file."""

READER_CHECK: Final = 256
"""Writes of one process between two checks for killed readers."""

_ATTEMPTS: Final = 64
"""The most attempts at a verb while the map changes: more than the doublings from the smallest map to the largest."""

fork_patience = 10.0
"""Seconds that a fork waits for a write of another thread to finish."""

_LAYOUT_KEY: Final = b"!layout"
CLOSED: Final = "the LMDB store has been closed"


class Options(NamedTuple):
    """The options of `powauth.backends.lmdb.LMDBBackend`, which all backends on one directory share."""

    map_size: int
    max_map_size: int
    durable: bool
    group_access: bool


class LMDBTransaction(Transaction):
    """A transaction of LMDB, as `powauth.backends.ordered` uses it."""

    __slots__ = ("_txn",)

    def __init__(self, txn: RawTransaction) -> None:
        self._txn = txn

    def get(self, key: bytes) -> bytes | None:
        return self._txn.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self._txn.put(key, value)

    def delete(self, key: bytes) -> bool:
        return self._txn.delete(key)

    def ascending(self, start: bytes) -> Iterator[tuple[bytes, bytes]]:
        with self._txn.cursor() as cursor:
            if cursor.set_range(start):
                yield from cursor

    def descending(self, end: bytes) -> Iterator[tuple[bytes, bytes]]:
        with self._txn.cursor() as cursor:
            if cursor.prev() if cursor.set_range(end) else cursor.last():
                yield from cursor.iterprev()


class Engine:
    """One LMDB environment. All backends of this process on one directory share it: LMDB does not allow a second one.

    Reads take no lock here. An operation that invalidates them (resizing the map, closing the files for a fork) holds
    ``lock`` and increments ``generation``. py-lmdb then raises an error in the read, which is retried. Writers hold
    ``lock`` throughout, so none is in flight when the map changes or the process forks.
    """

    def __init__(self, path: Path, options: Options) -> None:
        self.path = path
        self.options = options
        self.users = 0
        self.lock = threading.Lock()
        self.generation = 0
        self.writes = 0
        self.opened = False
        self.ended: str | None = None  # the reason why all verbs fail from now on
        self.reaches_beyond = False  # whether the map is larger than max_map_size, after a removal from a full store
        self.env: lmdb.Environment
        self.open()

    def open(self) -> None:
        """Open the files. The caller holds the lock, unless the object is new."""
        map_size, _, durable, group_access = self.options
        prepare(self.path, group_access=group_access)
        try:
            env = lmdb.Environment(
                str(self.path),
                map_size=map_size,
                metasync=durable,
                mode=0o600,
                create=False,
                max_readers=_MAX_READERS,
            )
        except (lmdb.VersionMismatchError, lmdb.InvalidError) as error:
            sentence = f"the LMDB store at {self.path} is damaged, or not LMDB's: restore or remove its files"
            raise unavailable(Failure(sentence), error) from error
        except lmdb.MemoryError as error:
            raise ConfigError(f"no address space for map_size={map_size}: give a smaller one") from error
        except lmdb.Error as error:
            raise _unavailable(error) from error
        try:
            _restore_length(env, self.path)
            env.reader_check()
            _check_layout(env, self.path)
        except (lmdb.Error, OSError) as error:
            env.close()
            raise _unavailable(error) from error
        except BaseException:
            env.close()
            raise
        self.env = env
        self.begin = env.begin
        self.generation += 1
        self.opened = True
        self.reaches_beyond = False

    def shut(self) -> None:
        """Close the files. The caller holds the lock. The next verb opens them again, unless ``ended`` is set."""
        self.opened = False
        self.env.close()

    def read(self, work: Callable[[RawTransaction], T]) -> T:
        """Return the result of ``work`` in a read transaction. ``work`` may be called more than once."""
        _forks.check()
        for _ in range(_ATTEMPTS):
            generation = self.generation
            try:
                with self.begin() as txn:
                    return work(txn)
            except lmdb.Error as error:
                self._recover(error, generation)
        raise unavailable(Failure("the LMDB store changes its size faster than it can be read"))

    def _recover(self, error: lmdb.Error, generation: int) -> None:
        """Return if the failed read may be retried. Otherwise raise `StoreUnavailable`."""
        with self.lock:
            self._ready()
            if self.generation != generation:
                return
            try:
                if isinstance(error, lmdb.MapResizedError):
                    self._resize(0)
                    return
                if isinstance(error, lmdb.PanicError):
                    self.shut()
                    return
                if isinstance(error, lmdb.ReadersFullError) and self.env.reader_check():
                    return
            except lmdb.Error as another:
                raise _unavailable(another) from another
            raise _unavailable(error) from error

    def write(self, work: Callable[[RawTransaction], T], *, removes: bool = False) -> T:
        """Return the result of ``work`` in a committed write transaction. ``work`` may be called more than once."""
        _forks.check()
        if not _no_fork.is_set():
            _no_fork.wait(fork_patience)  # the lock is not fair: busy writers would starve the fork
        with self.lock:
            try:
                for _ in range(_ATTEMPTS):
                    try:
                        return self._commit(work, removes)
                    except lmdb.MapFullError:
                        if not self._make_room(removes):
                            raise
                    except lmdb.MapResizedError:
                        self._resize(0)
                    except lmdb.PanicError:
                        self.shut()  # an earlier commit failed half-way: the file is valid, this environment is not
                raise unavailable(Failure("the LMDB store changes its size faster than it can be written"))
            except lmdb.Error as error:
                raise _unavailable(error) from error

    def _commit(self, work: Callable[[RawTransaction], T], removes: bool) -> T:
        self._ready()
        if self.reaches_beyond and not removes:
            self._resize(self.options.max_map_size)
            self.reaches_beyond = False
        self.writes += 1
        if not self.writes % READER_CHECK:
            self.env.reader_check()
        with self.begin(write=True) as txn:
            return work(txn)

    def _ready(self) -> None:
        if self.ended is not None:
            raise unavailable(Failure(self.ended))
        if not self.opened:
            try:
                self.open()
            except ConfigError as error:
                raise unavailable(Failure("the LMDB store cannot be opened again", str(error)), error) from error

    def _make_room(self, removes: bool) -> bool:
        if self.env.reader_check():
            return True
        size = self.env.info()["map_size"]
        limit = self.options.max_map_size + (HEADROOM if removes else 0)
        if size >= limit:
            return False
        self._resize(min(2 * size, limit))
        return True

    def _resize(self, size: int) -> None:
        """Change the map's size. 0 adopts the size that another process has set."""
        try:
            self.env.set_mapsize(size)
        except lmdb.Error:
            self.shut()
            raise
        finally:
            self.generation += 1  # at the end: a read that failed meanwhile has noted an earlier generation
        self.reaches_beyond = self.env.info()["map_size"] > self.options.max_map_size


_SENTENCES: Final[tuple[tuple[type[lmdb.Error], str], ...]] = (
    (lmdb.MapFullError, "is full: purge it, or raise max_map_size"),
    (lmdb.DiskError, "has no space left on its disk"),
    (lmdb.ReadersFullError, f"has {_MAX_READERS} reads under way, and no place for another"),
    (lmdb.MemoryError, "finds no address space for its map: give a smaller map_size"),
    (lmdb.LockError, "cannot lock its files: they must be on a local file system, not on NFS"),
    (lmdb.ReadonlyError, "cannot be written: check the owner and the mode of its files"),
)


def _unavailable(error: lmdb.Error | OSError) -> StoreUnavailable:
    """Log the cause of the engine's failure, and return the error to raise."""
    sentence = next((words for kind, words in _SENTENCES if isinstance(error, kind)), None)
    if sentence is not None:
        return unavailable(Failure(f"the LMDB store {sentence}"), error)
    if isinstance(error, PermissionError) or "Permission denied" in str(error):
        return unavailable(
            Failure("the LMDB store does not let this process in: check the owner and the mode of its files"), error
        )
    # LMDB's own messages name only its functions and the path.
    return unavailable(Failure("the LMDB store failed", one_line(error)), error)


def _restore_length(env: lmdb.Environment, path: Path) -> None:
    """Lengthen a truncated file: pages of zeros give an error, but missing pages would kill the process."""
    data = path / DATA
    if _shortfall(env, data):
        with env.begin(write=True):
            if missing := _shortfall(env, data):
                os.truncate(data, data.stat().st_size + missing)


def _shortfall(env: lmdb.Environment, data: Path) -> int:
    length = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    return max(0, length - data.stat().st_size)


def _check_layout(env: lmdb.Environment, path: Path) -> None:
    with env.begin() as txn:
        layout, entries = txn.get(_LAYOUT_KEY), txn.stat()["entries"]
    if layout is None and not entries:
        with env.begin(write=True) as txn:
            txn.put(_LAYOUT_KEY, bytes([LAYOUT]), overwrite=False)
            layout = txn.get(_LAYOUT_KEY)
    if layout is None:
        raise ConfigError(f"{path} holds the data of another program: give the backend a directory of its own")
    if layout != bytes([LAYOUT]):
        raise ConfigError(
            f"{path} has layout {layout.hex()}, and this powauth reads {LAYOUT:02x}: use the newer powauth"
        )


# One environment per file and process, and none across a fork

_registry: dict[tuple[int, int], Engine] = {}
_registry_lock = threading.Lock()
abandoned: deque[Engine] = deque()
"""One entry for each backend that was closed or collected. Adding one takes no lock, so a finalizer may do it."""


def acquire(path: Path, options: Options) -> Engine:
    release_abandoned()
    with _registry_lock:
        identity = prepare(path, group_access=options.group_access)
        engine = _registry.get(identity)
        if engine is None:
            engine = _registry[identity] = Engine(path, options)
        elif engine.options != options:
            raise ConfigError(f"{path} is open in this process with other options: give all backends on it the same")
        engine.users += 1
        return engine


def release_abandoned() -> None:
    _forks.check()
    with _registry_lock:
        while abandoned:
            engine = abandoned.popleft()
            engine.users -= 1
            if not engine.users:
                for identity in [identity for identity, other in _registry.items() if other is engine]:
                    del _registry[identity]
                with engine.lock:
                    engine.ended = CLOSED
                    engine.shut()


_no_fork = threading.Event()
"""Set while no fork is under way or waits for writes to end."""
_no_fork.set()

fork_lock = threading.Lock()
"""Allows one fork at a time."""

_quiet: list[threading.Lock] | None = None
"""The locks that the current fork holds; ``None`` if there is no fork."""


def _before_fork() -> None:
    """Close every environment between two writes: a child must inherit neither LMDB's environment nor a transaction."""
    global _quiet  # noqa: PLW0603
    _forks.check()
    fork_lock.acquire()
    _quiet = [fork_lock]
    _no_fork.clear()
    if _registry_lock.acquire(timeout=fork_patience):
        _quiet.append(_registry_lock)
    for engine in list(_registry.values()):
        if engine.lock.acquire(timeout=fork_patience):
            _quiet.append(engine.lock)
            if engine.opened:
                engine.shut()


def _after_fork_in_parent() -> None:
    global _quiet
    held, _quiet = _quiet or [], None
    _no_fork.set()
    for lock in reversed(held):
        lock.release()


class _Environments:
    """Represents all environments of this process to `powauth._forks`."""

    def leave_to_parent(self) -> None:
        global _quiet, _registry_lock, fork_lock, _no_fork  # noqa: PLW0603
        held, _quiet = _quiet, None
        _registry_lock = threading.Lock()
        fork_lock = threading.Lock()
        _no_fork = threading.Event()
        _no_fork.set()
        for engine in _registry.values():
            lock, engine.lock = engine.lock, threading.Lock()
            # A fork in C does not run `_before_fork`, so nobody waited for the writes of other threads.
            writing = lock.locked() if held is None else lock not in held
            if writing:
                _forks.keep(engine.env)  # closing it would wait for that thread, which is not in this process
                engine.ended = (
                    "this process was forked while another thread wrote to the LMDB store: open it after the fork"
                )
            elif engine.opened:
                engine.shut()


_environments = _Environments()
_forks.on_fork(_environments, _Environments.leave_to_parent)
os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent)
