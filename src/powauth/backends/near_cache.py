"""A cache in the process of records that a store on another machine holds. The store reports every change of a record.

A backend's ``get`` reads from the `NearCache` first. The cache does no I/O. The backend adds the records that it has
read and drops those that it writes. A *channel* is a connection on which the engine reports changes. It drops the
records that other processes write. A copy can be out of date only while such a message is under way. Five rules ensure
that:

1. **Keep a copy only if the engine has reported no change since the read was sent** (`NearCache.begin`, ``end``).
   Otherwise the cache could keep an old value after the message that it has changed. Never cache absence.
2. **Drop the copy before each own write**, and again when the write has returned, failed or been cancelled.
3. **The channel proves that it is alive** by a request every `HEARTBEAT_INTERVAL`. Its messages arrive in order. So the
   reply to a request shows that every change before that request has been reported. The cache serves copies for
   `HEARTBEAT_INTERVAL` plus `HEARTBEAT_TIMEOUT` after that request, and no longer, whatever the channel's task or
   thread does. So a network that drops everything, or a process that was stopped, serves nothing older.
4. **Drop all copies when the channel is lost**, and keep none until a new one is open: changes in between go
   unreported.
5. **Drop a copy after `MAX_AGE`**, in case a change was not reported.

After a fork, a child has none of its parent's copies, because it does not receive the messages of the parent's channel.
"""

import contextlib
import re
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from itertools import islice
from typing import Protocol

from powauth import _forks
from powauth._options import whole_number
from powauth.backends.base import Millis, Record
from powauth.errors import ConfigError

HEARTBEAT_INTERVAL = 0.5
"""Seconds from one reply on the channel to the next request."""

HEARTBEAT_TIMEOUT = 0.5
"""Seconds that the engine has for the reply. After that the channel counts as lost."""

STALENESS = HEARTBEAT_INTERVAL + HEARTBEAT_TIMEOUT
"""The most seconds for which a change can go unnoticed, if the connection dies unnoticed."""

MAX_AGE = 60.0
"""Seconds after which a record is read again. It bounds unforeseen errors, for one read per session and minute."""

RETRY_INTERVAL = 0.25
"""Seconds between two attempts to open a channel. A read starts the next attempt."""

EVICTED = 16
"""A full cache drops one part in this many of its records, oldest first."""

clock = partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
"""A clock in seconds that continues while the machine sleeps, where there is one. No message arrives then."""


class Channel(Protocol):
    """The connection that reports changes to a `NearCache`."""

    def ensure(self) -> None:
        """Open the connection in the background if there is none. Return at once, and never raise."""
        ...

    def forget(self) -> None:
        """Drop the parent's connection, in a child after a fork."""
        ...


class Ticket:
    """A read under way. The cache keeps its result unless a change or a later read voids the ticket."""

    __slots__ = ("begun", "key")

    def __init__(self, key: bytes, begun: float) -> None:
        self.key = key
        self.begun = begun


class NearCache:
    """Up to ``max_records`` records by key. Safe to use from several threads and event loops.

    Args:
        max_records: the number of records. A full cache drops its oldest sixteenth.
        clock: returns seconds. The channel uses the same clock for `heard`.

    Raises:
        ConfigError: if ``max_records`` is not a number of 1 or more.
    """

    def __init__(self, max_records: int, clock: Callable[[], float] = clock) -> None:
        self._max = whole_number("near_cache", max_records)
        self._clock = clock
        self._lock = threading.Lock()
        self._generation = 0
        self._copies: dict[bytes, tuple[Record, float]] = {}
        self._owned: dict[bytes, set[bytes]] = {}
        self._reading: dict[bytes, Ticket] = {}
        self._trusted_until = 0.0
        self.channel: Channel | None = None
        _forks.on_fork(self, NearCache._after_fork)

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self._copies)

    @property
    def up(self) -> bool:
        """True if a channel is open, so that the cache keeps and serves copies."""
        return self._clock() < self._trusted_until

    # For the backend

    def get(self, key: bytes, now: Millis) -> Record | None:
        """Return the copy of a live record, if there is one and it may be served."""
        _forks.check()
        found = self._copies.get(key)
        if found is None:
            return None
        # No lock is needed: dropping a copy removes it from the dictionary, and a copy never changes.
        record, deadline = found
        at = self._clock()
        return record if at < self._trusted_until and at < deadline and now < record.expires_at else None

    def begin(self, key: bytes) -> Ticket | None:
        """Return the ticket of a read, for `end`. Call this before the read is sent. ``None`` if no channel is open."""
        at = self._clock()
        with self._lock:
            if at >= self._trusted_until:
                return None
            ticket = self._reading[key] = Ticket(key, at)
            return ticket

    def end(self, ticket: Ticket, record: Record | None) -> None:
        """Keep the record unless a change was reported meanwhile. Call this after the read, even if it failed."""
        with self._lock:
            # A later read of the same key, or a change, has voided the ticket.
            if self._reading.get(ticket.key) is not ticket:
                return
            del self._reading[ticket.key]
            if record is None:
                return
            if len(self._copies) >= self._max:
                for key in [*islice(self._copies, -(-self._max // EVICTED))]:
                    self._take_out(key)
            # Note the owner first: `drop_owner` must know every copy.
            self._owned.setdefault(record.owner, set()).add(ticket.key)
            self._copies[ticket.key] = (record, ticket.begun + MAX_AGE)

    def drop(self, key: bytes) -> None:
        """Drop a record that has changed or is about to change."""
        _forks.check()
        with self._lock:
            self._reading.pop(key, None)
            self._take_out(key)

    def drop_owner(self, owner: bytes) -> None:
        """Drop all records of an owner, because they have changed or are about to."""
        _forks.check()
        with self._lock:
            # The owner of a record is not known until its read returns, so void all reads.
            self._reading.clear()
            for key in self._owned.pop(owner, ()):
                del self._copies[key]

    # For the channel

    def opened(self) -> int:
        """Drop everything because a new channel is being opened. Return its number, for the other methods."""
        with self._lock:
            self._clear()
            return self._generation

    def heard(self, generation: int, sent: float) -> None:
        """Trust copies for a while: the channel has replied to a request that was sent at this time."""
        with self._lock:
            if generation == self._generation:
                self._trusted_until = sent + STALENESS

    def flushed(self) -> None:
        """Drop everything because any record may have changed."""
        with self._lock:
            self._forget_all()

    def lost(self, generation: int) -> None:
        """Drop everything because the channel is lost."""
        with self._lock:
            if generation == self._generation:
                self._clear()

    def close(self) -> None:
        """Drop everything, and ignore the channel from now on."""
        _forks.check()
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        self._generation += 1
        self._trusted_until = 0.0
        self._forget_all()

    def _forget_all(self) -> None:
        self._reading.clear()
        self._copies.clear()
        self._owned.clear()

    def _take_out(self, key: bytes) -> None:
        found = self._copies.pop(key, None)
        if found is None:
            return
        owner = found[0].owner
        keys = self._owned[owner]
        keys.discard(key)
        if not keys:
            del self._owned[owner]

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # another thread of the parent may have held it
        self._clear()
        if self.channel is not None:
            self.channel.forget()


@contextlib.contextmanager
def changing(near: NearCache | None, name: bytes, *, whole: bool = False) -> Iterator[None]:
    """Drop the copies of a record, or of all records of an owner, before and after a change that may fail.

    Args:
        near: the cache, if there is one.
        name: the key of the record, or the owner.
        whole: whether ``name`` is an owner.
    """
    if near is None:
        yield
        return
    drop = near.drop_owner if whole else near.drop
    drop(name)
    try:
        yield
    finally:
        drop(name)


async def read_and_keep(near: NearCache, key: bytes, read: Callable[[], Awaitable[Record | None]]) -> Record | None:
    """Read a record that the cache lacks, and keep a copy unless a change of it is reported meanwhile."""
    if not near.up and near.channel is not None:
        near.channel.ensure()
    ticket = near.begin(key)
    if ticket is None:
        return await read()
    record = None
    try:
        record = await read()
    finally:
        near.end(ticket, record)
    return record


def near_cache_option(url: str, given: int | None) -> tuple[str, int | None]:
    """Return the URL without its option ``near_cache``, and the number of records from the option or the argument.

    >>> near_cache_option("redis://127.0.0.1:6379/0?near_cache=10000&client_name=web", None)
    ('redis://127.0.0.1:6379/0?client_name=web', 10000)

    Raises:
        ConfigError: if the option is not a number, or is given twice.
    """
    address, _, query = url.partition("?")
    options = query.split("&") if query else []
    found = [option.partition("=")[2] for option in options if option.partition("=")[0] == "near_cache"]
    if not found:
        return url, given
    if len(found) > 1 or given is not None:
        raise ConfigError("near_cache is given twice: give it once, in the URL or as an argument")
    if not re.fullmatch(r"[0-9]{1,9}", found[0]):
        raise ConfigError("near_cache in the URL of a backend is a number of records: ?near_cache=10000")
    rest = "&".join(option for option in options if option.partition("=")[0] != "near_cache")
    return f"{address}?{rest}" if rest else address, int(found[0])
