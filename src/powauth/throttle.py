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
import ipaddress
from collections.abc import Callable
from datetime import timedelta
from typing import Final, NamedTuple

import msgspec

from powauth.backends.base import Backend, Millis, Record, check_namespace, make_key, make_owner, shard_of
from powauth.credentials import Duration, duration
from powauth.errors import ConfigError, StoreUnavailable, Throttled
from powauth.keyring import Keyring

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

IPV6_PREFIX = 64
"""One customer has a whole network of this length (RFC 6177), and may send from every address in it."""


class Limit(NamedTuple):
    """So many attempts within a period; the period starts with the first of them.

    Attributes:
        attempts: how many, from 1.
        period: how long; a number is seconds.
    """

    attempts: int
    period: Duration


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
        self.per_account = None if per_account is None else _Checked.of("per_account", per_account)
        self.per_source = None if per_source is None else _Checked.of("per_source", per_source)
        if self.per_account is not None and self.per_account.attempts > MAX_PER_ACCOUNT:
            raise ConfigError(f"per_account may allow {MAX_PER_ACCOUNT} attempts at most (NIST SP 800-63B-4)")

    def __repr__(self) -> str:
        return f"<Throttle per_account={self.per_account} per_source={self.per_source}>"


class _Checked(NamedTuple):
    attempts: int
    period: Millis

    def __repr__(self) -> str:
        return f"{self.attempts} in {self.period / 1000:g} s"

    @classmethod
    def of(cls, name: str, limit: Limit) -> "_Checked":
        if not isinstance(limit, Limit) or type(limit.attempts) is not int or limit.attempts < 1:
            raise ConfigError(f"{name} must be a Limit of 1 attempt or more, such as Limit(10, 900), or None")
        return cls(limit.attempts, duration(f"the period of {name}", limit.period, at_least=1000))


DEFAULT_THROTTLE: Final = Throttle()
"""10 failures for an account and 100 from a source, each in 15 minutes."""


class Admission:
    """An attempt that was let through, and may be counted. Unless told otherwise it stays counted."""

    __slots__ = ()

    async def succeed(self) -> None:
        """The password was right: forget the account's failures, and give the source its attempt back.

        Best effort: what a store that fails here does not forget runs out by itself.
        """

    async def undo(self) -> None:
        """The password was never looked at: nobody learnt anything, so nothing is counted. Best effort."""


UNCOUNTED: Final = Admission()
"""Nothing is counted."""


class _Counted(Admission):
    __slots__ = ("_account", "_backend", "_now", "_source")

    def __init__(
        self, backend: Backend, now: Callable[[], Millis], account: Record | None, source: Record | None = None
    ) -> None:
        self._backend = backend
        self._now = now
        self._account = account
        self._source = source

    async def succeed(self) -> None:
        with contextlib.suppress(StoreUnavailable):
            if self._account is not None:
                await self._backend.delete(self._account.key, self._now())
            await self._give_back(self._source)

    async def undo(self) -> None:
        with contextlib.suppress(StoreUnavailable):
            await self._give_back(self._account)
            await self._give_back(self._source)

    async def _give_back(self, counted: Record | None) -> None:
        if counted is None:
            return
        found: Record | None = counted
        for _ in range(GIVE_BACK_ATTEMPTS):
            now = self._now()
            if found is None or found.created_at != counted.created_at:  # another period's
                return
            count = _count_of(found)
            if count is None or count == 0:
                return
            ends = found.expires_at if count > 1 else min(found.expires_at, now + LINGER)
            if await self._backend.update(_changed(found, count - 1, ends), found.version, now):
                return
            found = await self._backend.get(counted.key, now)


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
        by_source = by_account = None
        network = source_network(source)
        if per_source is not None and network is not None:
            by_source = await self._count(backend, "source", network, per_source, now())
        if per_account is not None and account is not None:
            by_account = await self._count(backend, "account", account, per_account, now())
        return _Counted(backend, now, by_account, by_source)

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
        counted = await self._count(backend, "proof", user_key, self._throttle.per_account, now())
        return _Counted(backend, now, counted)

    async def forget(self, backend: Backend, account: str, now: Millis) -> bool:
        """Forget an account's failures; whether there were any."""
        return await backend.delete(self._names("account", account)[0], now)

    def _names(self, scope: str, subject: str) -> tuple[bytes, bytes]:
        """Key and owner of a counter."""
        code = self._mac.sign(f"{scope}:{subject}".encode("utf-8", "surrogatepass"))
        owner = make_owner(self._namespace, code.hex())
        return make_key(self._namespace, shard_of(owner) + code), owner

    async def _count(self, backend: Backend, scope: str, subject: str, limit: _Checked, now: Millis) -> Record:
        key, owner = self._names(scope, subject)
        # Versions of different periods differ, so that what is given back late cannot land in a later one.
        first = Record(key, owner, now, now, now + limit.period, _encoder.encode(1))
        found = None
        for _ in range(COUNT_ATTEMPTS):
            if found is None and await backend.create(first, None, now):
                return first
            found = await backend.get(key, now)
            if found is None:
                continue
            count = _count_of(found)
            # What cannot be read counts as full; and nothing stays so longer than a period, should a clock go wrong.
            full = count is None or count >= limit.attempts
            ends = now + limit.period if count == 0 else min(found.expires_at, now + limit.period)
            if full and ends == found.expires_at:
                raise _throttled(scope, ends - now)
            changed = _changed(found, limit.attempts if count is None or full else count + 1, ends)
            if await backend.update(changed, found.version, now):
                if full:
                    raise _throttled(scope, ends - now)
                return changed
        raise _throttled(scope, LINGER)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(int)


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


def _throttled(scope: str, millis: Millis) -> Throttled:
    return Throttled(scope=scope, retry_after=max(1, -(-millis // 1000)))


def source_network(address: str | None) -> str | None:
    """What counts as one source: an IPv4 address, an IPv6 network of 64 bits, or a name that is no address.

    >>> source_network("::ffff:192.0.2.1"), source_network("2001:db8:1:2:a::1")
    ('192.0.2.1', '2001:db8:1:2::/64')
    """
    if not address:
        return None
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed), IPV6_PREFIX), strict=False))
