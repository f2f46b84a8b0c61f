"""`CredentialsCache`: the typed store of sessions over a backend.

It turns sessions into records and back, and finds the records of a user. `powauth.sessions.record` decides about a
session's life. Values are MessagePack. They are decoded into one typed struct or not at all.
"""

import contextlib
import copy
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import msgspec

from powauth._options import flag, wrong_type
from powauth._times import duration
from powauth.backends.anywhere import AnywhereBackend, anywhere
from powauth.backends.base import (
    Backend,
    Change,
    CountsEpochs,
    Create,
    JoinsTransactions,
    Millis,
    Record,
    ServesCopies,
    Transactional,
    check_namespace,
    make_changes,
    make_key,
    make_owner,
    split_key,
)
from powauth.errors import ConfigError, ConfigWarning, PowauthError, StoreUnavailable
from powauth.sessions.record import MAX_TIME, Session, StoredKey, key_text, stale

T = TypeVar("T")

RECOMMENDED_MAX_TTL = timedelta(minutes=30)
"""OWASP Session Management, "Idle Timeout": 15 to 30 minutes for low-risk apps. Pow warns above it too."""

REWRITE_ATTEMPTS = 16
"""The most attempts of a rewrite while other writers, such as renewals, are faster."""

SCAN_STEP = 500
"""Records in one page of a read of all records."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Session)


class UnreadableRecord(PowauthError):
    """A record's value is garbage or of another version of the schema. Its session counts as absent."""


class Stored(msgspec.Struct, frozen=True, gc=False):
    """A session as it was read, with the record's version for compare-and-set and the record's expiry time."""

    session: Session
    version: int
    expires_at: Millis


class CredentialsCache:
    """The store of sessions: it turns them into records of a backend, and back.

    The name is Pow's, for its store of who is signed in. It is no cache of yours to clear: it holds the only copy of
    each session, and no password.

    Args:
        backend: where records live, or the URL of one (see `powauth.backends.backend_from_url`).
        ttl: how long an idle session lives. Over 30 minutes gets a `ConfigWarning`.
        namespace: separates this cache's sessions from all others in the same backend: admins from users, staging
            from production.
        reload: load the account from the users context on every request, and compare its proof.

    Attributes:
        backend: the backend that powauth calls. It wraps one that works only on an event loop, or only without one.
        given_backend: the object that the app gave, with its abilities beyond `Backend`. For a URL it is ``backend``.
        transactional: whether several changes of the store can be one transaction.

    Raises:
        ConfigError: if an option is wrong.
    """

    def __init__(
        self,
        backend: Backend | str,
        *,
        ttl: timedelta = timedelta(minutes=30),
        namespace: str = "credentials",
        reload: bool = False,
    ) -> None:
        if not isinstance(backend, Backend | str):
            raise wrong_type("backend", "a Backend or a URL such as 'memory://'", backend)
        self._opened = isinstance(backend, str)
        self._use(anywhere(backend), check_namespace(namespace))
        self.given_backend: Backend = backend if isinstance(backend, Backend) else self.backend
        duration("ttl", ttl, at_least=1)
        self.ttl = ttl
        self.reload = flag("reload", reload)
        if self.ttl > RECOMMENDED_MAX_TTL:
            warnings.warn(
                "ttl is over 30 minutes, the longest that OWASP advises for an idle session; set a shorter one",
                ConfigWarning,
                stacklevel=2,
            )

    def within(self, part: str) -> "CredentialsCache":
        """Return a cache over the same backend. Its namespace is this one's, a dot and ``part``.

        Raises:
            ConfigError: if that is no valid namespace.
        """
        try:
            namespace = check_namespace(f"{self.namespace}.{part}")
        except ConfigError as error:
            raise ConfigError(f"the namespace must leave room for '.{part}': shorten it") from error
        cache = copy.copy(self)
        cache._use(self.backend, namespace)
        return cache

    def _use(self, backend: Backend, namespace: str) -> None:
        self.backend = backend
        self._copies = backend if isinstance(backend, ServesCopies) else None
        self._epochs = backend if isinstance(backend, CountsEpochs) else None
        self.transactional = isinstance(backend, Transactional)
        given = backend.given if isinstance(backend, AnywhereBackend) else backend
        self._joins = given if isinstance(given, JoinsTransactions) else None
        self.namespace = namespace
        self._prefix = make_key(namespace, b"")

    def owner(self, user_key: StoredKey) -> bytes:
        """Return the owner of a user's sessions, in the backend's terms."""
        return make_owner(self.namespace, key_text(user_key))

    async def epoch(self, user_key: StoredKey, now: Millis, *, advance: bool = False) -> int:
        """Return the epoch for `create`. Read it before the user. ``advance`` ends sign-ins in flight."""
        return await self.backend.epoch(self.owner(user_key), now, advance=advance)

    async def epoch_of_everyone(self, now: Millis, *, advance: bool = False) -> int:
        """Return the epoch that a revocation of everyone advances; 0 if there was none for `EPOCH_LIFETIME`.

        It is the epoch of the owner without a user's key.
        """
        return await self.backend.epoch(make_owner(self.namespace, ""), now, advance=advance)

    async def latest_epoch(self, now: Millis) -> int | None:
        """Return an epoch that `create` accepts for any user; ``None`` if the backend has no such epoch.

        See `powauth.backends.base.CountsEpochs`.
        """
        return None if self._epochs is None else await self._epochs.latest_epoch(now)

    async def create(
        self, session: Session, epoch: int, expires_at: Millis, now: Millis, also: Sequence[Change] = ()
    ) -> int:
        """Add a new session, and make the changes ``also`` of the same store. Return how many of all these were made.

        Return 0 if the user's sessions were revoked, or the user changed, since ``epoch``. See `make_changes`.
        """
        return await make_changes(self.backend, [Create(self._record(session, 0, expires_at), epoch), *also], now)

    async def get(self, sid: bytes, now: Millis) -> Stored | None:
        """Return the live session named ``sid``: one read.

        Raises:
            UnreadableRecord: if there is a record, but no session in it.
        """
        record = await self.backend.get(self.key(sid), now)
        return None if record is None else self.read(record)

    async def get_fresh(self, sid: bytes, now: Millis) -> Stored | None:
        """Return the live session named ``sid``, read from the engine and not a near cache; ``None`` if unreadable.

        Use this after a lost compare-and-set, and before an id is sent.
        """
        key = self.key(sid)
        read = self.backend.get if self._copies is None else self._copies.get_fresh
        record = await read(key, now)
        try:
            return None if record is None else self.read(record)
        except UnreadableRecord:
            return None

    async def update(self, stored: Stored, session: Session, expires_at: Millis, now: Millis) -> Stored | None:
        """Replace ``stored`` by ``session``. Return ``None`` if the store no longer holds ``stored``."""
        version = stored.version + 1
        done = await self.backend.update(self._record(session, version, expires_at), stored.version, now)
        return Stored(session, version, expires_at) if done else None

    async def delete(self, sid: bytes, now: Millis) -> bool:
        """Remove a session, and return whether it was still there."""
        return await self.backend.delete(self.key(sid), now)

    async def sessions(self, user_key: StoredKey, now: Millis) -> list[Stored]:
        """Return all live sessions of a user, newest first. Unreadable ones are left out."""
        found = []
        for record in await self.backend.list(self.owner(user_key), now):
            try:
                found.append(self.read(record))
            except UnreadableRecord:
                continue
        return found

    async def delete_sessions(self, user_key: StoredKey, now: Millis, keep: bytes | None = None) -> int:
        """End all sessions of a user but the one named ``keep``, and all sign-ins in flight. Return how many ended."""
        kept = None if keep is None else self.key(keep)
        return await self.backend.delete_owner(self.owner(user_key), now, kept)

    def delete_sessions_in(
        self, connection: Any, user_key: StoredKey, now: Millis, keep: bytes | None = None
    ) -> int | None:
        """Do the same as `delete_sessions` in the app's transaction, on its SQLAlchemy connection.

        Return ``None``, and do nothing, if the sessions are not in that database.

        Raises:
            StoreUnavailable: if the database refuses.
        """
        if self._joins is None or not self._joins.shares_database(connection):
            return None
        kept = None if keep is None else self.key(keep)
        ended: int = self._joins.delete_owner_in(connection, self.owner(user_key), now, kept)
        return ended

    async def rewrite(
        self,
        user_key: StoredKey,
        load: Callable[[], Awaitable[T | None]],
        change: Callable[[Session, T], Session],
        now: Millis,
    ) -> int:
        """Change all of a user's sessions with the result of ``load``. Return how many sessions there were.

        ``load`` reads the user, or returns ``None`` if there is nothing to change any more. Each session's version is
        read before ``load`` runs, so an older value never replaces a newer one. The epoch advances first, so a sign-in
        that read the user before this call cannot create its session after it.

        Raises:
            StoreUnavailable: if the store cannot be reached, or a session changes too fast.
        """
        await self.epoch(user_key, now, advance=True)
        found = await self.sessions(user_key, now)
        await self._rewrite(found, load, change, now)
        return len(found)

    async def rewrite_one(
        self,
        sid: bytes,
        load: Callable[[], Awaitable[T | None]],
        change: Callable[[Session, T], Session],
        now: Millis,
    ) -> Stored | None:
        """Change one session with the result of ``load``. Return it; ``None`` if it has ended or nothing was loaded.

        Unlike `rewrite`, this does not advance the user's epoch: sign-ins in flight continue.

        Raises:
            StoreUnavailable: if the store cannot be reached, or the session changes too fast.
        """
        found = await self.get_fresh(sid, now)
        done = await self._rewrite([] if found is None else [found], load, change, now)
        return done[0] if done else None

    def rewrite_in(self, connection: Any, sid: bytes, change: Callable[[Session], Session], now: Millis) -> None:
        """Change a session in the app's transaction, on its SQLAlchemy connection, if it is in that database.

        If the database refuses, or the session changes at the same moment, it stays as it is.
        """
        if self._joins is None or not self._joins.shares_database(connection):
            return
        with contextlib.suppress(StoreUnavailable, UnreadableRecord):
            record = self._joins.get_in(connection, self.key(sid), now)
            if record is not None:
                stored = self.read(record)
                changed = self._record(change(stored.session), stored.version + 1, stored.expires_at)
                self._joins.update_in(connection, changed, stored.version, now)

    async def mark_stale(self, user_key: StoredKey, now: Millis) -> int:
        """Drop the identities in all of a user's sessions, so that each next request reads the user.

        This writes no value of the user. If two changes race, the requests after them read what the database has. Every
        record gets a new version, so a request that has read the user before cannot write an older identity.

        Raises:
            StoreUnavailable: if the store cannot be reached, or a session changes too fast.
        """

        async def load() -> bool:
            return True

        await self.epoch(user_key, now, advance=True)
        found = await self.sessions(user_key, now)
        await self._rewrite(found, load, lambda session, _: stale(session), now, always=True)
        return len(found)

    async def _rewrite(
        self,
        pending: list[Stored],
        load: Callable[[], Awaitable[T | None]],
        change: Callable[[Session, T], Session],
        now: Millis,
        *,
        always: bool = False,
    ) -> list[Stored]:
        """Change sessions, and return those that there still are. ``always``: write also a session that stays equal."""
        done: list[Stored] = []
        for _ in range(REWRITE_ATTEMPTS):
            if not pending:
                return done
            loaded = await load()
            if loaded is None:
                return []
            lost = []
            for stored in pending:
                session = change(stored.session, loaded)
                unchanged = session == stored.session and not always
                written = stored if unchanged else await self.update(stored, session, stored.expires_at, now)
                if written is None:
                    lost.append(session.sid)
                else:
                    done.append(written)
            pending = [again for sid in lost if (again := await self.get_fresh(sid, now)) is not None]
        if pending:
            raise StoreUnavailable("a session changed too fast to be rewritten; try again")
        return done

    async def users(self, now: Millis) -> AsyncIterator[StoredKey]:
        """Yield the keys of all users with a live session, each once. For administrators: reads every session.

        If the first record of a user cannot be read, the key is yielded as text.
        """
        seen: set[bytes] = set()
        async for record in self._records(now):
            if record.owner in seen:
                continue
            seen.add(record.owner)
            try:
                yield self.read(record).session.user_key
            except UnreadableRecord:
                with contextlib.suppress(UnicodeDecodeError):
                    yield split_key(record.owner)[1].decode()

    async def scan(self, now: Millis) -> AsyncIterator[Stored]:
        """Yield all live sessions that can be read, in no order. For administrators: reads every session."""
        async for record in self._records(now):
            with contextlib.suppress(UnreadableRecord):
                yield self.read(record)

    async def count(self, now: Millis) -> int:
        """Return the number of live sessions. For administrators."""
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
        """Remove up to ``limit`` expired records, and return how many were removed."""
        return await self.backend.purge(limit, now)

    @property
    def takes_threads(self) -> bool:
        """True if each read takes a worker thread on an event loop."""
        return isinstance(self.backend, AnywhereBackend) and self.backend.takes_threads

    def check_off_loop(self) -> None:
        """Check that the backend works without an event loop.

        Raises:
            ConfigError: if it does not.
        """
        if isinstance(self.backend, AnywhereBackend):
            self.backend.check_off_loop()

    async def close(self) -> None:
        """Close the backend, if it was given as a URL. Its next use opens it again. An object stays open."""
        if self._opened:
            await self.backend.close()

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
        """Return the key of the session named ``sid``, in the backend's terms."""
        return self._prefix + sid

    def read(self, record: Record) -> Stored:
        """Return the session in a record.

        Raises:
            UnreadableRecord: if there is none in it.
        """
        try:
            session = _decoder.decode(record.value)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise UnreadableRecord from error
        # Reject a value that was moved to another key, or to an owner where its user's revocation cannot reach it.
        prefix = self._prefix
        if type(session.user_key) not in (int, str, bytes):
            raise UnreadableRecord
        if record.key != prefix + session.sid or record.owner != prefix + key_text(session.user_key).encode():
            raise UnreadableRecord
        if not 0 <= record.expires_at <= MAX_TIME:
            raise UnreadableRecord
        return Stored(session, record.version, record.expires_at)
