"""Throttling of sign-in: how often a password may be guessed, for one account and from one source.

Attempts are counted before the password is looked at, so that guesses sent at once cannot overtake the counter, and
given back where they turn out not to be wrong: a success forgets the account's failures, and takes nothing from its
source. Each counter is one record of the session backend, in the namespace ``<namespace>.throttle``, changed by
compare-and-set: no increment is lost, whatever number of processes count. Its window is fixed: it begins with the first
attempt and does not slide, so attempts that are refused prolong nothing, and after it the same limit holds again.

A counter is found under a keyed hash. A copy of the store tells neither whose account nor which address was counted.

Sources: NIST SP 800-63B-4, section 3.2.2 (at most 100 failures in a row); OWASP ASVS 5.0.0, 6.3.1 and 15.4.2.
"""

import contextlib
from collections.abc import Callable
from datetime import timedelta
from typing import Final, NamedTuple

import msgspec

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
"""What the counters' key is derived for."""

MAX_PER_ACCOUNT = 100
"""Failures in a row that one account may take: NIST SP 800-63B-4, section 3.2.2."""

COUNT_ATTEMPTS = 64
"""How often counting is tried again after another attempt was faster. Each loss is an attempt that was counted."""

GIVE_BACK_ATTEMPTS = 8
"""The same for giving back, where the worst is that one attempt too many stays counted."""

LINGER: Millis = 1000
"""How long a counter that has come back to zero is kept."""


class Limit(NamedTuple):
    """So many attempts within a period; the period starts with the first of them.

    Attributes:
        attempts: how many, from 1.
        period: how long; at least a second.
    """

    attempts: int
    period: timedelta

    def __str__(self) -> str:
        return f"{self.attempts} in {self.period.total_seconds():g} s"


PER_ACCOUNT: Final = Limit(10, timedelta(minutes=15))
"""Room for who mistypes, and under a thousand guesses a day."""

PER_SOURCE: Final = Limit(100, timedelta(minutes=15))
"""Room for an office behind one address."""


class Throttle:
    """How often sign-in may be tried.

    Args:
        per_account: failures for one user id, whether or not there is such a user; at most 100. Anybody who knows a
            user id can use it up, and keep its owner from signing in (never from a session that they have) until the
            period is over. ``None`` counts no accounts.
        per_source: failures from one address, or one IPv6 network of 64 bits. Clients behind one address share it. A
            server that stands behind a proxy and was not told so takes the proxy for the source of everything: tell
            it, or give ``None``.

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
        self.per_account = _checked("per_account", per_account)
        self.per_source = _checked("per_source", per_source)
        if self.per_account is not None and self.per_account.attempts > MAX_PER_ACCOUNT:
            raise ConfigError(f"per_account may allow {MAX_PER_ACCOUNT} attempts at most (NIST SP 800-63B-4)")

    def __repr__(self) -> str:
        return f"<Throttle per_account={self.per_account} per_source={self.per_source}>"


def _checked(name: str, limit: Limit | None) -> Limit | None:
    if limit is None:
        return None
    if not isinstance(limit, Limit) or type(limit.attempts) is not int or limit.attempts < 1:
        raise ConfigError(
            f"{name} must be a Limit of 1 attempt or more, such as Limit(10, timedelta(minutes=15)), or None"
        )
    duration(f"the period of {name}", limit.period, at_least=1000)
    return limit


DEFAULT_THROTTLE: Final = Throttle()
"""10 failures for an account and 100 from a source, each in 15 minutes."""


class Admission:
    """An attempt that was let through, and may be counted. Unless told otherwise it stays counted."""

    __slots__ = ()

    def forgiveness(self) -> list[Change]:
        """What `succeed` begins with: changes for whoever has one of the same store to make, and `forgiven` after it.

        So that a sign-in that makes its session and takes its count back waits for the disk once.
        """
        return []

    def forgiven(self, made: int) -> None:
        """The first ``made`` changes of `forgiveness` were made, and then one was not; or all were."""

    async def succeed(self) -> None:
        """The password was right: forget the account's failures, and give the source its attempt back.

        Best effort: what a store that fails here does not forget runs out by itself.
        """

    async def undo(self) -> None:
        """The password was never looked at: nobody learnt anything, so nothing is counted. Best effort."""


UNCOUNTED: Final = Admission()
"""Nothing is counted."""


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

    def forgiveness(self) -> list[Change]:
        changes: list[Change] = []
        if self._account is not None:
            changes.append(Delete(self._account.key))
        if self._source is not None and not self._source_moved:
            given_back = _given_back(self._source, self._now())
            assert given_back is not None  # noqa: S101 - it counts this attempt
            changes.append(Update(given_back, self._source.version))
        return changes

    def forgiven(self, made: int) -> None:
        if self._account is not None:
            self._account = None
            if not made:  # it was gone already, and the source's turn did not come
                return
            made -= 1
        if made:
            self._source = None
        else:
            self._source_moved = True

    async def succeed(self) -> None:
        with contextlib.suppress(StoreUnavailable):
            while changes := self.forgiveness():
                self.forgiven(await make_changes(self._backend, changes, self._now()))
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
            if found is None or found.created_at != counted.created_at:  # another period's
                return
            given_back = _given_back(found, now)
            if given_back is None or await self._backend.update(given_back, found.version, now):
                return
            found = await self._backend.get(counted.key, now)


class _Counter:
    """One counter, and the change that counts one more."""

    __slots__ = ("_attempts", "_first", "_period", "change", "full", "record", "scope")

    def __init__(self, scope: str, key: bytes, owner: bytes, limit: Limit, now: Millis) -> None:
        self.scope = scope
        self._attempts, self._period = limit.attempts, duration("period", limit.period)
        # Versions of different periods differ, so that what is given back late cannot land in a later one.
        self.record = self._first = Record(key, owner, now, now, now + self._period, _ONE)
        self.change: Change = Create(self._first)
        self.full = False

    def guess(self, backend: ReadsInPlace, now: Millis) -> None:
        """Begin from what a glance at the store finds. That it is full, if it is, is found out in its turn."""
        try:
            self.go_on(backend.get_at_once(self.record.key, now), now)
        except WouldWaitError:
            return
        except Throttled:
            self.full = True
        if self.full:
            self.go_on(None, now)

    def go_on(self, found: Record | None, now: Millis) -> None:
        """Count one more than what was found. ``full`` says that the change does not let the attempt through.

        Raises:
            Throttled: if there were too many, and there is nothing to change.
        """
        self.full = False
        if found is None:
            self.record, self.change = self._first, Create(self._first)
            return
        count = _count_of(found)
        # What cannot be read counts as full; and nothing stays so longer than a period, should a clock go wrong.
        self.full = count is None or count >= self._attempts
        ends = now + self._period if count == 0 else min(found.expires_at, now + self._period)
        if self.full and ends == found.expires_at:
            raise _throttled(self.scope, ends - now)
        self.record = _changed(found, self._attempts if count is None or self.full else count + 1, ends)
        self.change = Update(self.record, found.version)


class Counters:
    """A `Throttle` at work: its counters, in one namespace.

    Raises:
        ConfigError: if the namespace leaves no room for the counters' own.
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
        """Count an attempt to sign in. The source comes first: one that is throttled adds no counters to the store.

        Args:
            backend: where to count.
            now: the clock.
            account: the user id in its one form; ``None`` if what was sent cannot be one.
            source: the client's address; ``None`` if the server knows none.

        Raises:
            Throttled: if there were too many.
            StoreUnavailable: if nobody can tell.
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

    async def admit_proof(self, backend: Backend, now: Callable[[], Millis], user_key: str) -> Admission:
        """Count a ``current_password`` that a signed-in user gives.

        By a counter of its own, and not the account's: who guesses at the sign-in page from outside must not keep
        the user from changing the password.

        Raises:
            Throttled: if there were too many.
            StoreUnavailable: if nobody can tell.
        """
        if self._throttle.per_account is None:
            return UNCOUNTED
        begun = now()
        counter = self._counter("proof", user_key, self._throttle.per_account, begun)
        await _count(backend, [counter], begun)
        return _Counted(backend, now, counter.record)

    async def admit_second_factor(self, backend: Backend, now: Callable[[], Millis], account: str) -> None:
        """Count a right password for which a hook asked for a second factor: at most `MAX_PER_ACCOUNT` in a period.

        Nothing gives the count back. It bounds the guesses at a second factor if a hook asks for the factor again
        where it should refuse a wrong one. It is far above the number of sign-ins of a user.

        Raises:
            Throttled: if there were too many.
            StoreUnavailable: if nobody can tell.
        """
        if self._throttle.per_account is not None:
            begun = now()
            limit = Limit(MAX_PER_ACCOUNT, self._throttle.per_account.period)
            await _count(backend, [self._counter("factor", account, limit, begun)], begun)

    async def forget(self, backend: Backend, account: str, now: Millis) -> bool:
        """Forget an account's failures; whether there were any."""
        await backend.delete(self._names("factor", account)[0], now)
        return await backend.delete(self._names("account", account)[0], now)

    def _names(self, scope: str, subject: str) -> tuple[bytes, bytes]:
        """Key and owner of a counter."""
        code = self._mac.sign(f"{scope}:{subject}".encode("utf-8", "surrogatepass"))
        owner = make_owner(self._namespace, code.hex())
        return make_key(self._namespace, shard_of(owner) + code), owner

    def _counter(self, scope: str, subject: str, limit: Limit, now: Millis) -> _Counter:
        return _Counter(scope, *self._names(scope, subject), limit, now)


async def _count(backend: Backend, counters: list[_Counter], now: Millis) -> None:
    """Count with each counter, and with none that follows one which is full.

    All are changed at once, on the guess that there is none of them yet, or of how they stand where a glance at the
    store costs next to nothing. What proves wrong is read and changed anew.

    Raises:
        Throttled: if one is full.
    """
    if reads_engine_in_place(backend):
        for each in counters:
            each.guess(backend, now)
    left, losses = counters, 0
    while left:
        first = left[0]
        made = await make_changes(backend, [first.change] if first.full else [each.change for each in left], now)
        if made and first.full:
            raise _throttled(first.scope, first.record.expires_at - now)
        left, losses = left[made:], 0 if made else losses
        if left:
            if losses == COUNT_ATTEMPTS:
                raise _throttled(left[0].scope, LINGER)
            losses += 1
            left[0].go_on(await backend.get(left[0].record.key, now), now)


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
    """A counter with one less; ``None`` if it stands at nothing, or cannot be read."""
    count = _count_of(record)
    if not count:
        return None
    return _changed(record, count - 1, record.expires_at if count > 1 else min(record.expires_at, now + LINGER))


def _throttled(scope: str, millis: Millis) -> Throttled:
    return Throttled(scope=scope, retry_after=timedelta(seconds=max(1, -(-millis // 1000))))
