"""Records of another machine's store, near at hand in the process, for as long as that store tells of every change.

A `NearCache` is what a backend's ``get`` looks into first. It does no I/O: the backend gives it what was read and drops
what it writes; a *channel*, a connection on which the engine reports every change of a record, drops what others write.
What is served is right but for the time that a message is under way, by five rules:

1. **A copy is kept only if no change was reported since the read of it was sent** (`NearCache.begin`, ``end``), else an
   old value could be stored after the message that it is old. Absence is never kept.
2. **Own writes drop the copy** before they are sent and again when they have returned, failed or been cancelled.
3. **The channel proves that it is alive**: a request on it every `HEARTBEAT_INTERVAL`. Its messages come in order, so
   the reply to a request sent at a time says that every change until then has been heard of. Copies are served up to
   `HEARTBEAT_INTERVAL` and `HEARTBEAT_TIMEOUT` after that time and no longer, whatever the channel's task or thread is
   doing: a network that swallows all, or a process that was stopped for a while, serves nothing older than that.
4. **A channel lost loses everything**, and nothing is kept until another one stands: what was changed in between
   nobody will tell.
5. **No copy is older than `MAX_AGE`**, should an engine, or something between it and us, fail to report a change.

A process after ``fork`` has none of its parent's copies, whose channel it does not hear.
"""

import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Protocol

from powauth import _forks
from powauth.backends.base import Millis, Record
from powauth.errors import ConfigError

HEARTBEAT_INTERVAL = 0.5
"""Seconds from one answer on the channel to the next request."""

HEARTBEAT_TIMEOUT = 0.5
"""Seconds that the engine has for the answer; then the channel counts as lost."""

STALENESS = HEARTBEAT_INTERVAL + HEARTBEAT_TIMEOUT
"""Seconds for which a change can at most remain unseen: where a connection dies without a sign."""

MAX_AGE = 60.0
"""Seconds after which a copy is read again: a bound on what no rule foresees, for one read a session and minute."""

RETRY_INTERVAL = 0.25
"""Seconds from one attempt to make a channel to the next, which the next read begins."""

EVICTED = 16
"""What part of a full cache makes room, oldest first: the sixteenth."""

clock = partial(time.clock_gettime, time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic
"""Seconds that go on while the machine sleeps, where there are such: it hears no message meanwhile."""


class Channel(Protocol):
    """What reports changes to a `NearCache`."""

    def ensure(self) -> None:
        """Make the connection in the background if there is none; returns at once, fails never."""
        ...

    def forget(self) -> None:
        """After a fork, in the child: let go of what is the parent's."""
        ...


class Ticket:
    """A read under way, whose result may be kept if nobody takes its place."""

    __slots__ = ("begun", "key")

    def __init__(self, key: bytes, begun: float) -> None:
        self.key = key
        self.begun = begun


class NearCache:
    """Up to ``max_records`` records by key; safe to use from several threads and event loops.

    Args:
        max_records: how many; when full, the oldest sixteenth makes room.
        clock: seconds; the time that the channel gives to `heard` is of the same clock.

    Raises:
        ConfigError: if ``max_records`` is not a number from 1.
    """

    def __init__(self, max_records: int, clock: Callable[[], float] = clock) -> None:
        if isinstance(max_records, bool) or not isinstance(max_records, int) or max_records < 1:
            raise ConfigError(
                f"near_cache is the number of records to keep in the process, 1 or more; got {max_records!r}"
            )
        self._max = max_records
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
        """How many records it holds."""
        return len(self._copies)

    @property
    def up(self) -> bool:
        """Whether a channel stands, so that copies are kept and served."""
        return self._clock() < self._trusted_until

    # For the backend

    def get(self, key: bytes, now: Millis) -> Record | None:
        """The copy of a live record, if there is one to be trusted."""
        _forks.check()
        found = self._copies.get(key)
        if found is None:
            return None
        # Without the lock: whoever drops a copy takes it out of the dictionary, and nobody changes one.
        record, deadline = found
        at = self._clock()
        return record if at < self._trusted_until and at < deadline and now < record.expires_at else None

    def begin(self, key: bytes) -> Ticket | None:
        """To be called before a read is sent: what `end` wants; ``None`` while there is no channel."""
        at = self._clock()
        with self._lock:
            if at >= self._trusted_until:
                return None
            ticket = self._reading[key] = Ticket(key, at)
            return ticket

    def end(self, ticket: Ticket, record: Record | None) -> None:
        """To be called after the read, also if it failed: keeps the record unless it was reported changed meanwhile."""
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
            # First, lest there is a copy of which `drop_owner` does not know.
            self._owned.setdefault(record.owner, set()).add(ticket.key)
            self._copies[ticket.key] = (record, ticket.begun + MAX_AGE)

    def drop(self, key: bytes) -> None:
        """The record has changed, or is about to."""
        _forks.check()
        with self._lock:
            self._reading.pop(key, None)
            self._take_out(key)

    def drop_owner(self, owner: bytes) -> None:
        """All of an owner's records have changed, or are about to."""
        _forks.check()
        with self._lock:
            # Whose record is being read is not known before it is there.
            self._reading.clear()
            for key in self._owned.pop(owner, ()):
                del self._copies[key]

    # For the channel

    def opened(self) -> int:
        """A new channel is in the making, and no other counts any more; what it is called in the other methods."""
        with self._lock:
            self._clear()
            return self._generation

    def heard(self, generation: int, sent: float) -> None:
        """The channel has answered what was sent at this time: each change from the first of these times is known."""
        with self._lock:
            if generation == self._generation:
                self._trusted_until = sent + STALENESS

    def flushed(self) -> None:
        """Anything may have changed."""
        with self._lock:
            self._forget_all()

    def lost(self, generation: int) -> None:
        """The channel is gone."""
        with self._lock:
            if generation == self._generation:
                self._clear()

    def close(self) -> None:
        """Drop everything; no channel that there has been counts any more."""
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
