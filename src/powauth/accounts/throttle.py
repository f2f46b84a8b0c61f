"""Throttling of sign-in: limits on wrong passwords, for each account and for each source.

An attempt is counted before the password is checked, so parallel guesses cannot get past the counter. If the password
is right, the account's failures are forgotten and the source gets its attempt back.

Each counter is one record of the session backend, in the namespace ``<namespace>.throttle``. It is changed by
compare-and-set, so any number of processes can count and no increment is lost. Its window is fixed: it begins with the
first attempt and does not slide. Refused attempts do not prolong it. After it, the full limit applies again.

The key of a counter is a keyed hash. A copy of the store does not reveal which accounts and addresses were counted.

Sources: NIST SP 800-63B-4, section 3.2.2 (at most 100 failures in a row); OWASP ASVS 5.0.0, 6.3.1 and 15.4.2.
"""

import contextlib
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Final, NamedTuple

import msgspec

from powauth._options import instance, whole_number
from powauth._times import duration
from powauth.accounts.addresses import source_network
from powauth.backends.base import (
    Backend,
    Change,
    Create,
    Delete,
    Millis,
    ReadsInPlace,
    Record,
    Update,
    WouldWaitError,
    check_namespace,
    make_changes,
    make_key,
    make_owner,
    reads_engine_in_place,
    shard_of,
)
from powauth.errors import ConfigError, StoreUnavailable, Throttled
from powauth.sessions.keyring import Keyring

PURPOSE = "throttle"
"""The purpose for which the keyring derives the counters' key."""

MAX_PER_ACCOUNT = 100
"""The most failures in a row that an account may allow (NIST SP 800-63B-4, section 3.2.2)."""

COUNT_ATTEMPTS = 64
"""Retries of a count that another attempt overtook. Each retry means that another attempt was counted."""

GIVE_BACK_ATTEMPTS = 8
"""Tries to give an attempt back. If all fail, one attempt too many stays counted."""

SCOPE_OF_EXTENSION: Final = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z0-9_]+)+\Z")
"""A scope of an extension: its name, a dot and a word. No scope of the throttle itself has a dot."""

LINGER: Millis = 1000
"""Milliseconds for which a counter is kept after it has returned to zero."""


class Limit(NamedTuple):
    """A number of attempts within a period. The period starts with the first attempt.

    Attributes:
        attempts: the number, at least 1.
        period: the length of the period, at least a second.
    """

    attempts: int
    period: timedelta

    def __str__(self) -> str:
        return f"{self.attempts} in {self.period.total_seconds():g} s"


PER_ACCOUNT: Final = Limit(10, timedelta(minutes=15))
"""Users may mistype, and an attacker gets under a thousand guesses a day."""

PER_SOURCE: Final = Limit(100, timedelta(minutes=15))
"""Enough for an office behind one address."""


class Throttle:
    """The limits on failed sign-ins.

    Args:
        per_account: failures for one user id, whether or not the user exists; at most 100. Anybody who knows a user id
            can use up its limit. The owner then cannot sign in until the period is over, but keeps existing sessions.
            ``None`` counts no accounts.
        per_source: failures from one address, or one IPv6 network of 64 bits. Clients behind one address share it. If
            the server stands behind a proxy and is not configured for it, all attempts seem to come from the proxy:
            configure the server, or give ``None``.

    Raises:
        ConfigError: if a limit is wrong.
    """

    __slots__ = ("per_account", "per_source")

    def __init__(
        self,
        *,
        per_account: Limit | None = PER_ACCOUNT,
        per_source: Limit | None = PER_SOURCE,
    ) -> None:
        self.per_account = optional_limit("per_account", per_account, at_most=MAX_PER_ACCOUNT)
        self.per_source = optional_limit("per_source", per_source)

    def __repr__(self) -> str:
        return f"<Throttle per_account={self.per_account} per_source={self.per_source}>"


def checked_limit(name: str, limit: Limit, *, at_most: int | None = None) -> Limit:
    """Return an option that is a limit.

    Raises:
        ConfigError: if it is none.
    """
    instance(name, limit, Limit, "a Limit, such as Limit(10, timedelta(minutes=15))")
    whole_number(f"the attempts of {name}", limit.attempts, at_most=at_most)
    duration(f"the period of {name}", limit.period, at_least=1000)
    return limit


def optional_limit(name: str, limit: Limit | None, *, at_most: int | None = None) -> Limit | None:
    """Return an option that is a limit, or ``None``.

    Raises:
        ConfigError: if it is neither.
    """
    instance(name, limit, Limit | None, "a Limit, such as Limit(10, timedelta(minutes=15)), or None")
    return None if limit is None else checked_limit(name, limit, at_most=at_most)


DEFAULT_THROTTLE: Final = Throttle()
"""10 failures for an account and 100 from a source, each in 15 minutes."""


class Admission:
    """An admitted attempt. If it was counted, it stays counted until a method takes it back."""

    __slots__ = ()

    def success_changes(self) -> list[Change]:
        """Return the changes with which `succeed` begins.

        A caller can make them in one transaction with its own change of the store, and then call `note_made`. A sign-in
        then waits for the disk once, for the session and the counters together.
        """
        return []

    def note_made(self, made: int) -> None:
        """Note that the first ``made`` of `success_changes` were made. If any are left, the next one failed."""

    async def succeed(self) -> None:
        """Forget the account's failures, and give the source its attempt back, because the password was right.

        Best effort: if the store fails, the counts stay until their period ends.
        """

    async def undo(self) -> None:
        """Give the attempt back, because it revealed no wrong password. Best effort."""


UNCOUNTED: Final = Admission()
"""An attempt that is not counted."""


class _Counted(Admission):
    __slots__ = ("_account", "_backend", "_now", "_source", "_source_moved")

    def __init__(
        self, backend: Backend, now: Callable[[], Millis], account: Record | None, source: Record | None = None
    ) -> None:
        self._backend = backend
        self._now = now
        self._account = account
        self._source = source
        self._source_moved = False

    def success_changes(self) -> list[Change]:
        changes: list[Change] = []
        if self._account is not None:
            changes.append(Delete(self._account.key))
        if self._source is not None and not self._source_moved:
            given_back = _given_back(self._source, self._now())
            assert given_back is not None  # noqa: S101 - it counts this attempt
            changes.append(Update(given_back, self._source.version))
        return changes

    def note_made(self, made: int) -> None:
        if self._account is not None:
            self._account = None
            if not made:  # the account's counter was gone already, so the source's change was not tried
                return
            made -= 1
        if made:
            self._source = None
        else:
            self._source_moved = True

    async def succeed(self) -> None:
        with contextlib.suppress(StoreUnavailable):
            while changes := self.success_changes():
                self.note_made(await make_changes(self._backend, changes, self._now()))
            await self._give_back(self._source, moved=self._source_moved)

    async def undo(self) -> None:
        with contextlib.suppress(StoreUnavailable):
            await self._give_back(self._account)
            await self._give_back(self._source)

    async def _give_back(self, counted: Record | None, *, moved: bool = False) -> None:
        if counted is None:
            return
        found = await self._backend.get(counted.key, self._now()) if moved else counted
        for _ in range(GIVE_BACK_ATTEMPTS):
            now = self._now()
            if found is None or found.created_at != counted.created_at:  # a counter of another period
                return
            given_back = _given_back(found, now)
            if given_back is None or await self._backend.update(given_back, found.version, now):
                return
            found = await self._backend.get(counted.key, now)


class _Counter:
    """A counter and the change that increments it."""

    __slots__ = ("_attempts", "_first", "_period", "change", "full", "record", "scope")

    def __init__(self, scope: str, key: bytes, owner: bytes, limit: Limit, now: Millis) -> None:
        self.scope = scope
        self._attempts, self._period = limit.attempts, duration("period", limit.period)
        # The first version is the time, so a late give-back cannot change the counter of a later period.
        self.record = self._first = Record(key, owner, now, now, now + self._period, _ONE)
        self.change: Change = Create(self._first)
        self.full = False

    def prepare_in_place(self, backend: ReadsInPlace, now: Millis) -> None:
        """Prepare the change from the stored counter, if it can be read without waiting.

        A full counter is treated as missing. The change then fails, and `_count` reads the counter in its turn.
        """
        try:
            self.prepare_increment(backend.get_at_once(self.record.key, now), now)
        except WouldWaitError:
            return
        except Throttled:
            self.full = True
        if self.full:
            self.prepare_increment(None, now)

    def prepare_increment(self, found: Record | None, now: Millis) -> None:
        """Prepare the change that adds one to the counter found. If ``full`` is set, the change admits no attempt.

        Raises:
            Throttled: if the counter is full and needs no change.
        """
        self.full = False
        if found is None:
            self.record, self.change = self._first, Create(self._first)
            return
        count = _count_of(found)
        # An unreadable counter counts as full. It stays full for at most a period, even if a clock was wrong.
        self.full = count is None or count >= self._attempts
        ends = now + self._period if count == 0 else min(found.expires_at, now + self._period)
        if self.full and ends == found.expires_at:
            raise _throttled(self.scope, ends - now)
        self.record = _changed(found, self._attempts if count is None or self.full else count + 1, ends)
        self.change = Update(self.record, found.version)


class Counters:
    """The counters of a `Throttle`, in one namespace.

    Raises:
        ConfigError: if the namespace is too long to append ``.throttle``.
    """

    __slots__ = ("_mac", "_namespace", "_throttle")

    def __init__(self, throttle: Throttle, keyring: Keyring, namespace: str) -> None:
        self._throttle = throttle
        self._mac = keyring.mac(PURPOSE, namespace)
        try:
            self._namespace = check_namespace(f"{namespace}.{PURPOSE}")
        except ConfigError as error:
            raise ConfigError("the namespace must leave room for '.throttle': shorten it, or throttle=None") from error

    async def admit(
        self, backend: Backend, now: Callable[[], Millis], *, account: str | None, source: str | None
    ) -> Admission:
        """Count an attempt to sign in. The source comes first, so a throttled source adds no counters to the store.

        Args:
            backend: stores the counters.
            now: the clock.
            account: the normalised user id; ``None`` if the client sent no valid one.
            source: the client's address; ``None`` if the server knows none.

        Raises:
            Throttled: if there were too many attempts.
            StoreUnavailable: if the store cannot count.
        """
        per_source, per_account = self._throttle.per_source, self._throttle.per_account
        begun = now()
        network = source_network(source)
        by_source = by_account = None
        if per_source is not None and network is not None:
            by_source = self._counter("source", network, per_source, begun)
        if per_account is not None and account is not None:
            by_account = self._counter("account", account, per_account, begun)
        await _count(backend, [each for each in (by_source, by_account) if each is not None], begun)
        return _Counted(
            backend,
            now,
            None if by_account is None else by_account.record,
            None if by_source is None else by_source.record,
        )

    async def admit_current_password(self, backend: Backend, now: Callable[[], Millis], user_key: str) -> Admission:
        """Count a ``current_password`` that a signed-in user gives.

        It has a separate counter: guesses at the sign-in page must not keep the user from changing the password.

        Raises:
            Throttled: if there were too many attempts.
            StoreUnavailable: if the store cannot count.
        """
        if self._throttle.per_account is None:
            return UNCOUNTED
        begun = now()
        counter = self._counter("current_password", user_key, self._throttle.per_account, begun)
        await _count(backend, [counter], begun)
        return _Counted(backend, now, counter.record)

    async def admit_second_factor(self, backend: Backend, now: Callable[[], Millis], account: str) -> None:
        """Count a right password for which a hook asked for a second factor: at most `MAX_PER_ACCOUNT` in a period.

        Nothing gives the count back. A hook may wrongly ask again when it should refuse a wrong factor, and this bounds
        the guesses. The limit is far above the number of sign-ins of a user.

        Raises:
            Throttled: if there were too many attempts.
            StoreUnavailable: if the store cannot count.
        """
        if self._throttle.per_account is not None:
            begun = now()
            limit = Limit(MAX_PER_ACCOUNT, self._throttle.per_account.period)
            await _count(backend, [self._counter("factor", account, limit, begun)], begun)

    async def admit_for(
        self, backend: Backend, now: Callable[[], Millis], scope: str, subject: str, limit: Limit
    ) -> Admission:
        """Count an attempt of an extension; see `powauth.accounts.attempts.AttemptLimits`.

        Raises:
            Throttled: if there were too many attempts.
            StoreUnavailable: if the store cannot count.
        """
        begun = now()
        counter = self._counter(scope, subject, limit, begun)
        await _count(backend, [counter], begun)
        return _Counted(backend, now, counter.record)

    async def forget(self, backend: Backend, account: str, now: Millis) -> bool:
        """Forget an account's failures. Return whether there were any."""
        await backend.delete(self._names("factor", account)[0], now)
        return await backend.delete(self._names("account", account)[0], now)

    async def forget_for(self, backend: Backend, scope: str, subject: str, now: Millis) -> bool:
        """Forget the attempts of an extension. Return whether there were any."""
        return await backend.delete(self._names(scope, subject)[0], now)

    def _names(self, scope: str, subject: str) -> tuple[bytes, bytes]:
        """Return the key and the owner of a counter."""
        code = self._mac.sign(f"{scope}:{subject}".encode("utf-8", "surrogatepass"))
        owner = make_owner(self._namespace, code.hex())
        return make_key(self._namespace, shard_of(owner) + code), owner

    def _counter(self, scope: str, subject: str, limit: Limit, now: Millis) -> _Counter:
        return _Counter(scope, *self._names(scope, subject), limit, now)


async def _count(backend: Backend, counters: list[_Counter], now: Millis) -> None:
    """Increment each counter, up to the first that is full.

    The first try changes all counters at once. It assumes that none exists, or uses the stored ones if the backend
    reads its engine in place. If a change fails, its counter is read and changed again.

    Raises:
        Throttled: if a counter is full.
    """
    if reads_engine_in_place(backend):
        for each in counters:
            each.prepare_in_place(backend, now)
    left, losses = counters, 0
    while left:
        first = left[0]
        # The change of a full counter only corrects its end. It admits no attempt, so make no other change with it.
        changes = [first.change] if first.full else [each.change for each in left]
        made = await make_changes(backend, changes, now)
        if made and first.full:
            raise _throttled(first.scope, first.record.expires_at - now)
        left = left[made:]
        if made:
            losses = 0
        if not left:
            return
        # The change of the next counter failed: it exists already, or another attempt was faster.
        if losses == COUNT_ATTEMPTS:
            raise _throttled(left[0].scope, LINGER)
        losses += 1
        left[0].prepare_increment(await backend.get(left[0].record.key, now), now)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(int)
_ONE: Final = _encoder.encode(1)


def _count_of(record: Record) -> int | None:
    try:
        count = _decoder.decode(record.value)
    except msgspec.MsgspecError:
        return None
    return count if count >= 0 else None


def _changed(record: Record, count: int, expires_at: Millis) -> Record:
    return msgspec.structs.replace(
        record, version=record.version + 1, expires_at=expires_at, value=_encoder.encode(count)
    )


def _given_back(record: Record, now: Millis) -> Record | None:
    """Return a counter with one attempt less; ``None`` if it is zero or unreadable."""
    count = _count_of(record)
    if not count:
        return None
    return _changed(record, count - 1, record.expires_at if count > 1 else min(record.expires_at, now + LINGER))


def _throttled(scope: str, millis: Millis) -> Throttled:
    return Throttled(scope=scope, retry_after=timedelta(seconds=max(1, -(-millis // 1000))))
