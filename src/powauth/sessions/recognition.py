"""The hot path: from the value that a carrier read to the session that it names.

`Recognizer.recognize` turns the value into one of three states. `Recognizer` owns the caches of verified ids and of the
sessions in their records. It still checks the store at each request, so it never serves a session that has ended.

The three are the first states of a request. `powauth.sessions.presence` has the others and their common attributes.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import ClassVar, Final, Generic, TypeVar

import msgspec

from powauth.backends.base import Millis, ReadsInPlace, Record, WouldWaitError
from powauth.errors import StoreUnavailable
from powauth.sessions.ids import IdCodec, PresentedId
from powauth.sessions.record import Outcome, Policy, current_between, decide
from powauth.sessions.store import CredentialsCache, Stored

I = TypeVar("I")  # noqa: E741 - the identity

CACHED_IDS = 4096
"""The most ids that are cached: those presented last."""

MAX_CACHED_BYTES = 2048
"""The longest record that is cached. A session with its identity has a few hundred bytes."""


class Anonymous(msgspec.Struct, frozen=True):
    """The request presents no id, or one that powauth did not make. Nothing was read.

    Attributes:
        forged: whether there was a value that is not a valid id.
    """

    forged: bool = False

    needs_read: bool = False
    is_due: bool = False
    stored: ClassVar[None] = None
    identity: ClassVar[None] = None


NO_ID: Final = Anonymous()
FORGED: Final = Anonymous(forged=True)
"""The state for every value that is no valid id. Callers compare by identity, because every request does it."""


class Unchanged(msgspec.Struct, Generic[I], frozen=True):
    """The record has not changed since it was found current. All requests with the id share this object until it does.

    Attributes:
        presented: the id.
        stored: the session.
        identity: the user's identity.
        seen: the record's value in place at that time, for comparison.
        since: the time from which the record is current.
        until: the time at which it is current no longer.
    """

    presented: PresentedId
    stored: Stored
    identity: I
    seen: object
    since: Millis
    until: Millis

    needs_read: bool = False
    is_due: bool = False

    __repr__ = object.__repr__  # ``seen`` holds secrets: error reporters record the repr of local variables


class KnownId(msgspec.Struct, Generic[I]):
    """A verified id, the key of its record, and the session last found there."""

    presented: PresentedId
    key: bytes
    unchanged: Unchanged[I] | None = None

    __repr__ = object.__repr__


class NeedsRead(msgspec.Struct, Generic[I]):
    """The id is valid. A read, a decision, or both must follow.

    Attributes:
        known: the id.
        seen: the record's value, read in place; ``None`` if there is none, or it cannot be read without waiting.
        record: the record in it.
        missing: whether the store was read in place and has no such record.
    """

    known: KnownId[I]
    seen: object = None
    record: Record | None = None
    missing: bool = False

    needs_read: bool = True
    is_due: bool = False
    stored: ClassVar[None] = None
    identity: ClassVar[None] = None

    __repr__ = object.__repr__


class Recognizer(Generic[I]):
    """Recognizes the ids of one carrier.

    Args:
        store: the store of the sessions.
        ids: decodes ids.
        policy: the times of a session.
    """

    __slots__ = ("_in_place", "_known", "_length", "_policy", "_store")

    def __init__(self, store: CredentialsCache, ids: IdCodec, policy: Policy) -> None:
        self._store = store
        self._in_place = store.backend if isinstance(store.backend, ReadsInPlace) else None
        self._policy = policy
        self._length = ids.length
        self._known: Callable[[str], KnownId[I] | None] = lru_cache(maxsize=CACHED_IDS)(_verify(ids, store))

    def recognize(self, value: str | None, now: Millis) -> Anonymous | Unchanged[I] | NeedsRead[I]:
        """Return the state that a value gives a request, as far as it is known without waiting."""
        if not value:
            return NO_ID
        # Reject a value of the wrong length before it reaches the cache. Otherwise junk could fill the cache.
        known = self._known(value) if len(value) == self._length else None
        if known is None:
            return FORGED
        backend = self._in_place
        if backend is None:
            return NeedsRead(known)
        try:
            seen = backend.peek(known.key, now)
            unchanged = known.unchanged
            if unchanged is not None and unchanged.since <= now < unchanged.until and unchanged.seen == seen:
                return unchanged
            record = None if seen is None else backend.record_of(known.key, seen, now)
        except (WouldWaitError, StoreUnavailable):
            return NeedsRead(known)
        return NeedsRead(known, seen, record, missing=record is None)

    def keep(self, needs: NeedsRead[I], stored: Stored, identity: I) -> None:
        """Cache the session, if the store can show in place whether the record has changed."""
        record = needs.record
        if needs.seen is None or record is None or len(record.value) > MAX_CACHED_BYTES:
            return
        since, until = current_between(stored.session, self._policy)
        known = needs.known
        known.unchanged = Unchanged(known.presented, stored, identity, needs.seen, since, min(until, record.expires_at))

    async def read(self, needs: NeedsRead[I], now: Millis) -> tuple[Stored, Outcome] | None:
        """Read the record that the id names, and decide. Return ``None`` if there is none.

        Raises:
            UnreadableRecord: if there is a record, but no session in it.
            StoreUnavailable: if the store cannot be reached.
        """
        record = needs.record
        if record is None:
            if needs.missing:
                return None
            record = await self._store.backend.get(needs.known.key, now)  # the key is cached with the id
            if record is None:
                return None
        stored = self._store.read(record)
        return stored, decide(stored.session, needs.known.presented, now, self._policy)


def _verify(ids: IdCodec, store: CredentialsCache) -> Callable[[str], KnownId[I] | None]:
    def verify(value: str, /) -> KnownId[I] | None:
        presented = ids.decode(value)
        return None if presented is None else KnownId(presented, store.key(presented.sid))

    return verify
