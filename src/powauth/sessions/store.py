"""`CredentialsCache`: the typed store of sessions and their users over a backend.

It turns sessions into records and back, and knows which records are a user's. It decides nothing about a session's
life; `powauth.sessions.record` does. Values are MessagePack, decoded into one typed struct or not at all.
"""

import contextlib
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Self

import msgspec

from powauth.backends import backend_from_url
from powauth.backends.base import (
    Backend,
    Change,
    Create,
    Millis,
    Record,
    check_namespace,
    make_key,
    make_owner,
    split_key,
)
from powauth.errors import ConfigError, ConfigWarning, PowauthError, StoreUnavailable
from powauth.sessions.record import MAX_TIME, Session

Duration = timedelta | float
"""A length of time; a plain number is seconds."""

RECOMMENDED_MAX_TTL: Millis = 30 * 60 * 1000
"""OWASP Session Management, "Idle Timeout": 15 to 30 minutes for low-risk apps; Pow warns above it too."""

REFRESH_ATTEMPTS = 16
"""How often a refresh tries again after another writer, such as a renewal, was faster: each loss is its progress."""

MAX_DURATION: Millis = 100 * 365 * 24 * 3600 * 1000
"""A hundred years: anything longer is a mistake of units."""

SCAN_STEP = 500
"""Records read at a time where all are."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Session)


class UnreadableRecord(PowauthError):
    """A record's value is garbage or of another version of the schema: its session counts as absent."""


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A session as it was read, the version that a change must still find, and when the record expires."""

    session: Session
    version: int
    expires_at: Millis


class CredentialsCache:
    """Sessions and their users, over a backend.

    Args:
        backend: where records live, or the URL of one (see `powauth.backends.backend_from_url`).
        ttl: how long an idle session lives; a number is seconds. Over 30 minutes gets a `ConfigWarning`.
        namespace: separates this cache's sessions from all others in the same backend: admins from users, staging
            from production.
        reload: load the user from the users context on every request, instead of taking the session's snapshot.

    Raises:
        ConfigError: if an option is wrong.
    """

    def __init__(
        self,
        backend: Backend | str,
        *,
        ttl: Duration = timedelta(minutes=30),
        namespace: str = "credentials",
        reload: bool = False,
    ) -> None:
        self._url = backend if isinstance(backend, str) else None
        self.backend = backend_from_url(backend) if isinstance(backend, str) else backend
        if not isinstance(self.backend, Backend):
            raise ConfigError(f"backend must be a Backend or a URL such as 'memory://', not {type(backend).__name__}")
        self.namespace = check_namespace(namespace)
        self._prefix = make_key(self.namespace, b"")
        self.ttl = duration("ttl", ttl, at_least=1)
        self.reload = bool(reload)
        if self.ttl > RECOMMENDED_MAX_TTL:
            warnings.warn(
                "ttl is over 30 minutes, the longest that OWASP advises for an idle session; set a shorter one",
                ConfigWarning,
                stacklevel=2,
            )

    def on(self, backend: Backend) -> Self:
        """The same cache over another backend."""
        return self._over(backend, None)

    def on_event_loop(self) -> Self:
        """The same cache with the driver for an event loop, if it was made of a URL that has one installed."""
        if self._url is None or self.backend.mode != "blocking" or self.backend.reads_at_once:
            return self
        try:
            return self._over(backend_from_url(self._url, asynchronous=True), self._url)
        except ConfigError:  # the other driver works; it costs a thread, and that is logged
            return self

    def off_event_loop(self) -> Self:
        """The same cache with the driver for threads, if it was made of a URL."""
        if self._url is None or self.backend.mode != "async":
            return self
        return self._over(backend_from_url(self._url, asynchronous=False), self._url)

    def _over(self, backend: Backend, url: str | None) -> Self:
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, backend=backend, _url=url)
        return copy

    def owner(self, user_key: str) -> bytes:
        """Whose records a user's sessions are, in the backend's terms."""
        return make_owner(self.namespace, user_key)

    async def epoch(self, user_key: str, now: Millis, *, advance: bool = False) -> int:
        """The epoch that `create` must name; read it before the user is read. ``advance`` ends sign-ins in flight."""
        return await self.backend.epoch(self.owner(user_key), now, advance=advance)

    async def create(
        self, session: Session, epoch: int, expires_at: Millis, now: Millis, also: Sequence[Change] = ()
    ) -> int:
        """Add a new session, and make ``also``, changes of the same store; how many of all these were made.

        0 if the user's sessions were revoked, or the user changed, since ``epoch``. See `Backend.change`.
        """
        return await self.backend.change([Create(self._record(session, 0, expires_at), epoch), *also], now)

    async def get(self, sid: bytes, now: Millis) -> Stored | None:
        """The live session named ``sid``: one read.

        Raises:
            UnreadableRecord: if there is a record, but no session in it.
        """
        record = await self.backend.get(self.key(sid), now)
        return None if record is None else self.read(record)

    async def get_fresh(self, sid: bytes, now: Millis) -> Stored | None:
        """`get` from the engine itself, never from a copy nearby: for whoever lost a compare-and-set, or sends an id.

        Raises:
            UnreadableRecord: if there is a record, but no session in it.
        """
        record = await self.backend.get_fresh(self.key(sid), now)
        return None if record is None else self.read(record)

    async def update(self, stored: Stored, session: Session, expires_at: Millis, now: Millis) -> Stored | None:
        """Put ``session`` in the place of ``stored``; ``None`` if that is no longer what the store holds."""
        version = stored.version + 1
        done = await self.backend.update(self._record(session, version, expires_at), stored.version, now)
        return Stored(session, version, expires_at) if done else None

    async def delete(self, sid: bytes, now: Millis) -> bool:
        """Remove a session; whether it was still there."""
        return await self.backend.delete(self.key(sid), now)

    async def sessions(self, user_key: str, now: Millis) -> list[Stored]:
        """All live sessions of a user, newest first; unreadable ones are left out."""
        found = []
        for record in await self.backend.list(self.owner(user_key), now):
            try:
                found.append(self.read(record))
            except UnreadableRecord:
                continue
        return found

    async def delete_user(self, user_key: str, now: Millis, keep: bytes | None = None) -> int:
        """End all sessions of a user but the one named ``keep``, and all sign-ins in flight; how many went."""
        kept = None if keep is None else self.key(keep)
        return await self.backend.delete_owner(self.owner(user_key), now, kept)

    async def refresh(self, user_key: str, load: Callable[[], Awaitable[bytes | None]], now: Millis) -> int:
        """Bring the snapshot in all of a user's sessions up to date; how many sessions there were.

        ``load`` reads the user and takes the snapshot (``None`` if the user is gone). Each session's version is read
        before the user is, so a snapshot never overwrites a newer one; and a sign-in that read the old user before
        this call cannot create its session after it, because the epoch has moved.

        Raises:
            StoreUnavailable: if the store cannot be reached, or a session changes too fast to be refreshed.
        """
        await self.epoch(user_key, now, advance=True)
        pending = await self.sessions(user_key, now)
        total = len(pending)
        for _ in range(REFRESH_ATTEMPTS):
            if not pending:
                break
            snapshot = await load()
            if snapshot is None:
                return total
            lost = []
            for stored in pending:
                session = msgspec.structs.replace(stored.session, user=snapshot)
                if session != stored.session and await self.update(stored, session, stored.expires_at, now) is None:
                    lost.append(session.sid)
            pending = [again for sid in lost if (again := await self._get_readable(sid, now)) is not None]
        if pending:
            raise StoreUnavailable("a session changed too fast to take the new snapshot; try again")
        return total

    async def users(self, now: Millis) -> AsyncIterator[str]:
        """The keys of all users with a live session, each once. For administrators: reads every session.

        An owner that is no text is nobody's: no sign-in makes one, and it hides no other.
        """
        seen: set[bytes] = set()
        async for record in self._records(now):
            if record.owner not in seen:
                seen.add(record.owner)
                with contextlib.suppress(UnicodeDecodeError):
                    yield split_key(record.owner)[1].decode()

    async def scan(self, now: Millis) -> AsyncIterator[Stored]:
        """All live sessions that can be read, in no order. For administrators: reads every session."""
        async for record in self._records(now):
            with contextlib.suppress(UnreadableRecord):
                yield self.read(record)

    async def count(self, now: Millis) -> int:
        """How many live sessions there are. For administrators."""
        return await self.backend.count(self.namespace, now)

    async def _records(self, now: Millis) -> AsyncIterator[Record]:
        cursor: str | None = None
        while True:
            page = await self.backend.scan(self.namespace, cursor, SCAN_STEP, now)
            for record in page.records:
                yield record
            cursor = page.cursor
            if cursor is None:
                return

    async def purge(self, limit: int, now: Millis) -> int:
        """One bounded step of cleaning; how many records went."""
        return await self.backend.purge(limit, now)

    async def close(self) -> None:
        """Close the backend."""
        await self.backend.close()

    async def _get_readable(self, sid: bytes, now: Millis) -> Stored | None:
        try:
            return await self.get_fresh(sid, now)
        except UnreadableRecord:
            return None

    def _record(self, session: Session, version: int, expires_at: Millis) -> Record:
        return Record(
            key=self.key(session.sid),
            owner=self.owner(session.user_key),
            version=version,
            created_at=session.created_at,
            expires_at=expires_at,
            value=_encoder.encode(session),
        )

    def key(self, sid: bytes) -> bytes:
        """Under which key the session named ``sid`` is, in the backend's terms."""
        return self._prefix + sid

    def read(self, record: Record) -> Stored:
        """The session in a record.

        Raises:
            UnreadableRecord: if there is none in it.
        """
        try:
            session = _decoder.decode(record.value)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise UnreadableRecord from error
        # A value moved under another key is not this session; nor is one that its user's revocation cannot reach.
        prefix = self._prefix
        if record.key != prefix + session.sid or record.owner != prefix + session.user_key.encode():
            raise UnreadableRecord
        if not 0 <= record.expires_at <= MAX_TIME:
            raise UnreadableRecord
        return Stored(session, record.version, record.expires_at)


def duration(name: str, value: object, *, at_least: Millis = 0) -> Millis:
    """An option that is a length of time, in milliseconds.

    >>> duration("ttl", timedelta(minutes=30)), duration("ttl", 1.5)
    (1800000, 1500)

    Raises:
        ConfigError: if it is no length of time, not finite, too short, or over a hundred years.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise ConfigError(f"{name} must be a timedelta or a number of seconds, not {value!r}")
    # The range is checked first: only then is the product finite, and NaN lies in no range.
    if 0 <= seconds <= MAX_DURATION // 1000 and (millis := round(seconds * 1000)) >= at_least:
        return millis
    bound = "more than zero" if at_least else "zero or more"
    raise ConfigError(f"{name} must be {bound}, and at most a hundred years, not {value!r}")
