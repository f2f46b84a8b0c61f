"""Sessions in an LMDB file: the embedded default for one machine with any number of worker processes.

LMDB is a memory-mapped B+ tree. Readers never wait for the writer. One write transaction runs at a time on the whole
machine. Transactions are atomic, even if a process is killed at any point. `LMDBBackend` adds a map that grows, safe
forks, and errors that are `StoreUnavailable`.

Costs and limits:

- A read is a look-up in shared memory. It takes 1.5 microseconds and waits for nothing.
- A write waits for the disk (0.3 ms where this was measured, several on a slow disk, 0.02 ms without the disk) and for
  the one other writer, if there is one. So the mode is ``blocking``. On an event loop, sign-ins, sign-outs and renewals
  take a worker thread, and reads are made in place (`ReadsInPlace`).
  ``durable=False`` saves one of two flushes of the disk's cache (0.2 ms). On a RAM disk (``/dev/shm``) both are free.
- It works on one machine, in one PID namespace. LMDB's locks work neither on a network file system nor between
  containers with separate PID namespaces.
- A process that is stopped (not killed) in the middle of a write makes all other writers wait. One that is stopped in
  the middle of a read prevents the reuse of old pages, so the file grows. LMDB has no time limit for either. A killed
  process leaves nothing behind: its lock passes to the next writer, and its reader slot is cleared.
- Only this module may touch the files while a process has them open. Above all, do not delete ``lock.mdb``.

`powauth.backends.ordered` describes the layout of the entries. One more is ``!layout``: a single byte, ``LAYOUT``, by
which an older powauth refuses the files of a newer one. There are no named databases for the tables, because each
look-up would first have to find their root.
"""

import contextlib
import os
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from powauth import _forks
from powauth._options import flag, whole_number, wrong, wrong_type
from powauth._outages import Failure, unavailable
from powauth.backends import _ordered_records as tree
from powauth.backends._lmdb_engine import (
    CLOSED,
    MAX_MAP_SIZE,
    MIN_MAP_SIZE,
    Engine,
    EngineError,
    LMDBTransaction,
    Options,
    abandoned,
    acquire,
    release_abandoned,
)
from powauth.backends._lmdb_files import check_exists
from powauth.backends.base import Millis, Mode, ReadsInPlace, Record, WouldWaitError
from powauth.backends.ordered import MAX_KEY_BYTES, OrderedBackend, Transaction
from powauth.errors import ConfigError, StoreUnavailable

T = TypeVar("T")


class LMDBBackend(OrderedBackend, ReadsInPlace):
    """Records in a directory of this machine, shared by every process that opens it. The module lists the costs.

    >>> import tempfile
    >>> from powauth.backends.base import Record, drive
    >>> directory = tempfile.TemporaryDirectory()
    >>> backend = LMDBBackend(Path(directory.name) / "sessions")
    >>> record = Record(b"app:k", b"app:42", 0, 1_000, 2_000, b"value")
    >>> drive(backend.create(record, None, now=1_000))
    True
    >>> drive(backend.get(b"app:k", now=1_500)) == record
    True
    >>> drive(backend.close())
    >>> directory.cleanup()

    Open it before or after a fork. It closes its files before Python forks. Parent and child open them again at their
    next call. If a server forks in C, the child closes the files that it inherited. Such a server must not fork while
    another thread is in a verb.
    Objects on the same directory share one environment within a process, and must have the same options.

    Args:
        path: the directory. If it is missing, it is made with mode 0700 (its parent must exist), and its files with
            0600, under any umask. It is refused if it or one of its files belongs to someone else, or if the group or
            others may write to it: whoever can write to the store can sign in as anyone.
        map_size: the initial address space in bytes. It is not disk space: the file grows with its content. A full map
            is doubled. Reads in flight then start over, so begin with a large map.
        max_map_size: the largest size of the store in bytes. At that size, `create` and `update` raise
            `StoreUnavailable` until something is removed. Removals may use 16 MiB beyond it. A full disk has the same
            effect, and removals then work while there are free pages within the file.
        durable: whether a write is on the disk when its verb returns. If not, a loss of power may undo the last write,
            even a sign-out, but the file stays valid. The end of the process alone loses nothing either way.
        group_access: whether the group of the directory may write to it, too. All members of that group can then sign
            in as anybody, so this process must be a member. It is for volumes of Kubernetes with ``fsGroup``. New files
            get mode 0660 and a new directory 2770. A directory or file that everybody may write to is still refused.

    Unreadable pages make a verb raise `StoreUnavailable`. `OrderedBackend` describes the limits of keys and owners.

    Raises:
        ConfigError: if an option is wrong, or the directory cannot be used: it belongs to another user or program, or
            has a layout that a newer powauth wrote.
        StoreUnavailable: if the engine cannot open the file: it is damaged, or the disk is full.
    """

    mode: Mode = "blocking"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        map_size: int = 1 << 30,
        max_map_size: int = 1 << 36,
        durable: bool = True,
        group_access: bool = False,
    ) -> None:
        try:
            directory = Path(path).absolute()  # keeps "..": after a symbolic link, only the system knows its parent
        except TypeError:
            raise wrong_type("path", "a str or a path", path) from None
        if isinstance(path, bytes) or not os.fspath(path) or "\0" in os.fspath(path):
            raise wrong("path", "the name of a directory, a str or a path without NUL", path)
        for name, size in (("map_size", map_size), ("max_map_size", max_map_size)):
            whole_number(name, size, at_least=MIN_MAP_SIZE, at_most=MAX_MAP_SIZE)
        if max_map_size < map_size:
            raise ConfigError(f"max_map_size ({max_map_size}) must not be smaller than map_size ({map_size})")
        flag("durable", durable)
        flag("group_access", group_access)
        engine = acquire(directory, Options(map_size, max_map_size, durable, group_access))
        self._engine: Engine | None = engine
        self._abandon = weakref.finalize(self, abandoned.append, engine)
        self._abandon.atexit = False

    def read(self, work: Callable[[Transaction], T]) -> T:
        """See `OrderedBackend.read`."""
        return self._open().read(lambda txn: work(LMDBTransaction(txn)))

    def write(self, work: Callable[[Transaction], T], *, removes: bool = False) -> T:
        """See `OrderedBackend.write`. A removal may use 16 MiB beyond ``max_map_size``."""
        return self._open().write(lambda txn: work(LMDBTransaction(txn)), removes=removes)

    async def get(self, key: bytes, now: Millis) -> Record | None:  # noqa: D102
        try:
            raw = LMDBBackend.peek(self, key, now)  # never a subclass's, which may refuse to answer at once
        except WouldWaitError:
            raw = self.read(lambda txn: txn.get(b"r" + key)) if len(key) <= MAX_KEY_BYTES else None
        record = None if raw is None else tree.decode(key, raw)
        if record is None or record.expires_at > now:
            return record
        with contextlib.suppress(StoreUnavailable):  # it has expired in any case, and purge will remove it
            version = record.version
            self.write(lambda txn: tree.remove_version(txn, key, version, now), removes=True)
        return None

    def peek(self, key: bytes, now: Millis) -> bytes | None:  # noqa: D102
        _forks.check()
        engine = self._engine
        if engine is None:
            raise WouldWaitError
        try:
            txn = engine.begin()
            try:
                raw: bytes | None = txn.get(b"r" + key)
            finally:
                txn.abort()  # now, not when the last traceback is freed: an open transaction holds back old pages
        except EngineError:
            raise WouldWaitError from None
        return raw

    def record_of(self, key: bytes, seen: bytes, now: Millis) -> Record | None:  # noqa: D102
        record = tree.decode(key, seen)
        # `get`, `create` and `purge` remove expired records: a removal is a write.
        return record if record is not None and record.expires_at > now else None

    async def close(self) -> None:  # noqa: D102
        self._engine = None
        self._abandon()
        release_abandoned()

    def _open(self) -> Engine:
        if self._engine is None:
            raise unavailable(Failure(CLOSED))
        return self._engine


def from_url(url: str, *, asynchronous: bool | None = None, create: bool = True) -> LMDBBackend:
    """Return an `LMDBBackend`; see `powauth.backends.backend_from_url`."""
    del asynchronous
    parts = urlsplit(url)
    if parts.netloc or parts.path in ("", "/"):
        raise ConfigError("an LMDB URL is lmdb:/// and a path, lmdb:///var/lib/app/sessions, or lmdb:relative/path")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    group_access = options.pop("group_access", "0")
    if options or group_access not in ("0", "1"):
        raise ConfigError("an LMDB URL has no option but group_access=1; for others, make the LMDBBackend yourself")
    path = Path(unquote(parts.path))
    if not create:
        check_exists(path.absolute())
    return LMDBBackend(path, group_access=group_access == "1")
