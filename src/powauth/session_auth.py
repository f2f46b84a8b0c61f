"""`SessionAuth`: the session plug. It carries out, for one request, what `powauth.sessions.record` decides."""

import logging
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import lru_cache, partial
from typing import Final, Self, TypeGuard, cast, final, get_args

import msgspec

from powauth.accounts.base import U, UsersContext
from powauth.accounts.throttle import DEFAULT_THROTTLE, UNCOUNTED, Admission, Counters, Throttle
from powauth.authenticator import SIGN_IN_ATTEMPTS, Authenticator, Unreachable
from powauth.backends.base import EPOCH_LIFETIME, Backend, Millis, Record, WouldWaitError
from powauth.backends.offloaded import InThread, OffloadedBackend
from powauth.errors import ConfigError, NotSignedIn, StoreUnavailable, Throttled
from powauth.events import Event, EventName, Listener, emit, log
from powauth.hooks import Hooks
from powauth.http.carriers import Carrier, ConflictingIds, CookieCarrier
from powauth.http.connection import MISSING, NO_EFFECTS, Connection, Effects, Later
from powauth.http.metadata import (
    MetadataSource,
    SessionInfo,
    changed_metadata,
    checked_metadata,
    default_metadata,
    session_info,
    shown_address,
)
from powauth.sessions.keyring import Keyring, Secrets
from powauth.sessions.record import (
    CLOCK_TOLERANCE,
    ID_CHARS,
    Metadata,
    OnReuse,
    Outcome,
    Policy,
    PresentedId,
    Session,
    confirmed,
    current_between,
    decide,
    decode_id,
    decode_sid,
    encode_id,
    encode_sid,
    expires_at,
    forwarded,
    new_session,
    renewed,
)
from powauth.sessions.store import CredentialsCache, Duration, Stored, UnreadableRecord, duration

logger = logging.getLogger("powauth")

RESPONSE_ATTEMPTS = 8
"""How often a response looks again after losing a compare-and-set. Two losses are rare: the winner's id is resent."""

METADATA_ATTEMPTS = 16
"""How often a change of metadata is tried again after another writer was faster."""

VERIFIED_IDS = 4096
"""How many of the ids presented last are remembered: whether their code was right, and what their record said."""

REMEMBERED_BYTES = 2048
"""The longest value of a record that is remembered; a session with its user is a few hundred bytes."""

SESSION_PURPOSE = "session"
"""What the ids' key is derived for; other purposes have other keys."""


_WAY_OF_A_SIGN_IN: Final = ("authenticate_user", "do_create", "create")
"""A subclass that has a say in one of them may bring another user, or an older copy."""


@final
class _Sight(msgspec.Struct, frozen=True):
    """What was seen in the store when an id was found current in it, and from when until when it remains so.

    As long as the store shows the very same, it need not be taken apart and decided about again. It is also all that is
    remembered of a request that finds it, until more is asked of `SessionAuth._state`.

    Attributes:
        user: the session's, if one can serve all requests; else what makes another one for each.
    """

    seen: object
    stored: Stored
    since: Millis
    until: Millis
    user: object

    __repr__ = object.__repr__  # what was seen holds secrets: error reporters keep what local variables look like


class _KnownId(msgspec.Struct):
    """What an id says that has been verified, the key of its record, and what was seen there last."""

    presented: PresentedId
    key: bytes
    sight: _Sight | None = None

    def __repr__(self) -> str:
        return repr(self.presented)


class _State(msgspec.Struct, gc=False):
    """What `SessionAuth` remembers of a request until its response.

    Attributes:
        fetched: the request has been looked at.
        known: its id, if that is one of ours.
        seen: what could be seen in the store at once.
        record: the record in it.
        stored: the session that the user is signed in by.
        due: the response has something to do: the session to carry on, to begin or to end.
        unseen: there may be a session, which could not be read.
        signed_in: the session was made during this request.
        cleared: the client is to lose its id.
        user: as just loaded, under ``reload``, or restored to see that it can be done.
    """

    fetched: bool = False
    known: _KnownId | None = None
    seen: object = None
    record: Record | None = None
    stored: Stored | None = None
    due: bool = False
    unseen: bool = False
    signed_in: bool = False
    cleared: bool = False
    user: object = None

    __repr__ = object.__repr__  # as of a `_Sight`


class _Attempt(msgspec.Struct, gc=False, frozen=True):
    """What `SessionAuth` remembers of an attempt to sign in from its admission until the session is made.

    Attributes:
        admission: that it was counted.
        begun: when it was admitted.
        epoch: the latest of all users then, before anybody was looked up; ``None`` if it is not to be relied on.
    """

    admission: Admission
    begun: Millis
    epoch: int | None


class SessionAuth(Authenticator[U]):
    """The session plug: a random id with the client, the user's session in a store, ids renewed while in use.

    Args:
        secret_key: one secret or several, newest first; see `Keyring`.
        users: who the users are.
        backend: where sessions live: a `Backend` or its URL. Or give ``store``.
        store: a `CredentialsCache`, to choose its ttl, namespace or reloading.
        session_key: the name of the cookie, or of the key in the framework's session.
        app_name: put before ``session_key`` and before the id, where several apps share a host.
        current_user_key: the name under which the current user is assigned to a request.
        session_ttl_renewal: the age at which an id is renewed; ``None`` is never, zero is at every request.
        max_lifetime: how long a session lives at most, however busy (NIST SP 800-63B, section 4.2.3: 12 hours).
        grace: how long an id is answered after its successor was first seen, for requests that were under way.
        on_reuse: what an older id than that comes to: ``"revoke"`` ends the session, for either its user or a thief
            presented it; ``"reject"`` refuses the request only.
        max_sessions: how many sessions a user may have; the oldest ends for the newest. ``None`` is no limit.
        carrier: where the client keeps the id; the default is a `CookieCarrier`.
        hooks: the app's own functions before and after each flow.
        throttle: how often sign-in may be tried for an account and from a source; ``None`` leaves that to others.
        metadata: what to keep of a request that signs in; ``None`` keeps nothing.
        on_event: told of every `Event`, besides the ``powauth`` logger.
        clock: the time, in seconds since the Unix epoch.

    Raises:
        ConfigError: if an option is wrong or contradicts another.
    """

    def __init__(
        self,
        *,
        secret_key: Secrets,
        users: UsersContext[U],
        backend: Backend | str | None = None,
        store: CredentialsCache | None = None,
        session_key: str = "auth",
        app_name: str | None = None,
        current_user_key: str = "current_user",
        session_ttl_renewal: Duration | None = timedelta(minutes=15),
        max_lifetime: Duration = timedelta(hours=12),
        grace: Duration = timedelta(seconds=30),
        on_reuse: OnReuse = "revoke",
        max_sessions: int | None = None,
        carrier: Carrier | None = None,
        hooks: Hooks[U] | None = None,
        throttle: Throttle | None = DEFAULT_THROTTLE,
        metadata: MetadataSource | None = default_metadata,
        on_event: Listener | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(users, current_user_key=current_user_key, hooks=hooks)
        keyring = Keyring(secret_key)
        if (backend is None) == (store is None):
            raise ConfigError("give either backend (a Backend or a URL) or store (a CredentialsCache)")
        if on_reuse not in get_args(OnReuse):
            raise ConfigError(f"on_reuse must be 'revoke' or 'reject', not {on_reuse!r}")
        if max_sessions is not None and (type(max_sessions) is not int or max_sessions < 1):
            raise ConfigError(f"max_sessions must be a whole number from 1, or None, not {max_sessions!r}")
        self.store = (
            CredentialsCache(backend) if store is None and backend is not None else cast("CredentialsCache", store)
        )
        if not isinstance(self.store, CredentialsCache):
            raise ConfigError(f"store must be a CredentialsCache, not {type(store).__name__}")
        self.policy: Final = _policy(self.store.ttl, session_ttl_renewal, max_lifetime, grace)
        self.on_reuse: Final = on_reuse
        self.max_sessions: Final = max_sessions
        name = session_key if app_name is None else f"{app_name}_{session_key}"
        self.carrier: Final = (carrier or CookieCarrier()).named(name)
        if throttle is not None and not isinstance(throttle, Throttle):
            raise ConfigError(f"throttle must be a Throttle, or None, not {type(throttle).__name__}")
        self._counters = None if throttle is None else Counters(throttle, keyring, self.store.namespace)
        self.on_event: Final = on_event
        self._metadata = metadata
        self._clock = clock
        self._id_prefix = "" if app_name is None else f"{app_name}."
        self._id_length = len(self._id_prefix) + ID_CHARS
        self._mac = keyring.mac(SESSION_PURPOSE, self.store.namespace)
        decode = partial(decode_id, mac=self._mac, prefix=self._id_prefix)
        self._known_id = lru_cache(maxsize=VERIFIED_IDS)(partial(_known_id, decode, self.store.key))
        # A subclass with a say in who is fetched, or in what is sent, is asked every time.
        own = type(self)
        self._asks_at_once = own.fetch is not SessionAuth.fetch or own.do_fetch is not Authenticator.do_fetch
        self._may_glance = not self._asks_at_once and own.call is SessionAuth.call
        self._always_due = own.respond is not SessionAuth.respond
        # Whether the user of an attempt comes to `create` as `authenticate` has read them.
        self._reads_once = (
            users.authenticates_current
            and self.hooks.before_sign_in is None
            and all(getattr(own, name) is getattr(SessionAuth, name) for name in _WAY_OF_A_SIGN_IN)
        )
        self._attempt: Final = object()  # under which a connection's states hold one
        self._seal()

    def __repr__(self) -> str:
        return f"<SessionAuth {self.carrier.name!r} in {self.store.namespace!r}>"

    def now(self) -> Millis:
        """The time by the clock that governs all of this authenticator's parts."""
        clock = self._clock  # see `Later.value`
        return int(clock() * 1000)

    def for_asgi(self, in_thread: InThread, users_in_thread: InThread | None = None) -> Self:
        """See `Authenticator.for_asgi`.

        A backend that was given as a URL gets its asynchronous driver; the verbs of a blocking one take a worker thread
        each.
        """
        adapted = super().for_asgi(in_thread, users_in_thread)
        self._warn_about_memory()
        store = self.store.on_event_loop()
        if store.backend.mode == "blocking":
            if not store.backend.reads_at_once:
                logger.warning(
                    "the backend is synchronous: on ASGI each read or write takes a worker thread, some 50 to 100 "
                    "microseconds and a place in the pool; its asynchronous client would spare that"
                )
            store = store.on(OffloadedBackend(store.backend, in_thread))
        return adapted if store is self.store else adapted._with(store=store)

    def for_wsgi(self) -> Self:
        """See `Authenticator.for_wsgi`. A backend that was given as a URL gets its synchronous driver."""
        adapted = super().for_wsgi()
        self._warn_about_memory()
        store = self.store.off_event_loop()
        if store.backend.mode == "async":
            raise ConfigError("a WSGI app needs a synchronous backend: give an Engine or a synchronous Redis client")
        return adapted if store is self.store else adapted._with(store=store)

    # --- the plug's three functions ---------------------------------------------------------------------------------

    def call_at_once(self, connection: Connection) -> bool:
        """See `Authenticator.call_at_once`: does it for whom nothing has to be waited for and nothing has changed."""
        if not self._may_glance:
            return False
        key = self.current_user_key
        if connection.assigned(key) is not MISSING:
            return True
        found = self._glance(connection)
        if type(found) is _Sight:
            if type(found.user) is Later:
                connection.assign_later(key, found.user)
            else:
                connection.assign(key, found.user)
            return True
        if found.fetched:
            connection.assign(key, None)
        return found.fetched

    async def call(self, connection: Connection) -> None:
        """See `Authenticator.call`. The user is made of the session's snapshot when somebody asks for it.

        A subclass that has a say in who is fetched is asked at once.
        """
        if self._asks_at_once:
            await super().call(connection)
            return
        key = self.current_user_key
        if connection.assigned(key) is not MISSING:
            return
        try:
            state = await self._look(connection)
        except StoreUnavailable as error:
            connection.assign(key, Unreachable(error))
            return
        if state.stored is None:
            connection.assign(key, None)
        else:
            connection.assign_later(key, Later(self._user_of, state))

    async def fetch(self, connection: Connection) -> U | None:
        """Whose the request is: one read of the store, and none for a request without an id or with a forged one."""
        state = self._state(connection)
        if not (state.signed_in and state.stored is not None):
            state = await self._look(connection)
        return self._user_of(state)

    async def _look(self, connection: Connection) -> _State:
        """Look at what the request presents; what there is to remember of it."""
        state = self._state(connection)
        if state.known is None or state.fetched:
            self._glance(connection)
            state = self._state(connection)
        if not state.fetched and state.known is not None:
            await self._read(connection, state, state.known)
        return state

    def _glance(self, connection: Connection) -> _State | _Sight:
        """As much of `_look` as takes no wait; of a state ``fetched`` tells whether that was all."""
        try:
            value = self.carrier.read(connection)
        except ConflictingIds:
            self._emit("conflicting_ids", connection)
            value = None
        # What has not the length of an id is none, and takes no room among those that are remembered.
        known_id = self._known_id  # see `Later.value`
        known = known_id(value) if value is not None and len(value) == self._id_length else None
        if known is None:
            if value:
                self._emit("forged_id", connection)
            state = self._anew(connection, None)
            state.fetched = True
            return state
        now = self.now()
        try:
            seen = self.store.backend.peek(known.key, now)
            sight = known.sight
            if sight is not None and sight.since <= now < sight.until and sight.seen == seen:
                if self.identity not in connection.states:
                    connection.states[self.identity] = sight
                    return sight
                state = self._anew(connection, known)
                state.stored, state.fetched = sight.stored, True
                return state
            record = None if seen is None else self.store.backend.record_of(known.key, seen, now)
        except (WouldWaitError, StoreUnavailable):
            return self._anew(connection, known)
        state = self._anew(connection, known)
        if record is None:
            self._emit("unknown_id", connection, sid=known.presented.sid)
            state.fetched = True
        state.seen, state.record = seen, record
        return state

    def _anew(self, connection: Connection, known: _KnownId | None) -> _State:
        """The state of a look that is about to be taken."""
        state = self._state(connection)
        if state.fetched:  # once more: only what is found now counts; and a sign-out, if there was one
            state.fetched = False
            state.seen = state.record = state.stored = state.user = None
            state.due = state.cleared
        state.known = known
        return state

    async def _read(self, connection: Connection, state: _State, known: _KnownId) -> None:
        """The rest of `_look`, for an id that is one."""
        state.fetched = True
        presented, now = known.presented, self.now()
        try:
            record = state.record
            if record is None:
                record = await self.store.backend.get(known.key, now)
            if record is None:
                self._emit("unknown_id", connection, sid=presented.sid)
                return
            stored = self.store.read(record)
            outcome = decide(stored.session, presented, now, self.policy)
            if not outcome.accepted:
                await self._refuse(connection, stored.session, outcome, now)
                return
            if outcome is not Outcome.CURRENT:
                state.due = True
            if self.store.reload:
                state.user = await self._fetch_reloaded(connection, state, stored, self._restored(stored.session))
                if state.user is None:
                    return
            elif state.seen is not None and not state.due and len(record.value) <= REMEMBERED_BYTES:
                state.user = self._restored(stored.session)  # what could be restored once can be again
                since, until = current_between(stored.session, self.policy)
                user = state.user if self.users.immutable else Later(self._restored, stored.session)
                known.sight = _Sight(state.seen, stored, since, min(until, record.expires_at), user)
        except UnreadableRecord:
            state.unseen = True
            self._emit("unreadable_record", connection, detail=encode_sid(presented.sid))
            return
        except StoreUnavailable:
            state.unseen = True
            self._emit("store_unavailable", connection, detail="fetch")
            raise
        state.stored = stored

    def _user_of(self, state: _State) -> U | None:
        """The user of the request's session; ``None``, and no session, if what that keeps of them is unreadable."""
        if state.stored is None:
            return None
        if state.user is not None:
            return cast("U", state.user)
        session = state.stored.session
        try:
            return self._restored(session)
        except UnreadableRecord:
            state.stored, state.unseen = None, True
            self._emit("unreadable_record", None, detail=encode_sid(session.sid))
            return None

    async def create(self, connection: Connection, user: U, *, proof: bytes | None = None) -> U | None:
        """Sign a user in: a new session with a new id, in the place of the one that the request presented.

        Nothing is adopted from the client, and the session presented is dead once this returns. The user is read after
        the epoch of their sessions, and the session is only made while that epoch stands: so no change of the user,
        and no revocation, can slip in between unseen. What `admit_sign_in` has read before the user was looked up
        serves as that epoch, at the first try.
        """
        state = self._state(connection)
        if not state.fetched:
            await self.fetch(connection)
        key = self.users.key(user)
        attempt: _Attempt | None = None if proof is None else connection.states.pop(self._attempt, None)
        admission = UNCOUNTED if attempt is None else attempt.admission
        epoch = None if attempt is None else attempt.epoch
        for _ in range(SIGN_IN_ATTEMPTS):
            if attempt is not None and epoch is not None:
                begun, fresh = attempt.begun, user if self._may_sign_in(user) else None
            else:
                begun = self.now()
                epoch = await self.store.epoch(key, begun)
                fresh = await self._still(user, proof)
            if fresh is None:
                return None
            now = self.now()
            if now - begun <= EPOCH_LIFETIME // 2:
                session = self._new_session(connection, key, fresh, now)
                ends = expires_at(session, self.policy)
                # Only together: a session that is there must not fail for the counters' sake.
                also = admission.forgiveness() if self.store.backend.changes_at_once else []
                made = await self.store.create(session, epoch, ends, now, also)
                if made:
                    if also:
                        admission.forgiven(made - 1)
                    break
            attempt = epoch = None
        else:
            raise StoreUnavailable("the user's sessions were revoked again and again during the sign-in; try again")
        await self._replace_presented(connection, state, key, now)
        state.stored = Stored(session, 0, ends)
        state.known = state.user = None
        state.signed_in, state.cleared, state.due = True, False, True
        if self.max_sessions is not None:
            await self._end_oldest(key, self.max_sessions, now)
        self._emit("signed_in", connection, session)
        return fresh

    async def delete(self, connection: Connection) -> None:
        """Sign out: the record goes first, then the cookie.

        If the store cannot be reached the cookie is cleared all the same and the call raises: the client is not told
        "signed out" while the session may live on.

        Raises:
            StoreUnavailable: if the record may still be there.
        """
        state = self._state(connection)
        if not state.fetched:
            try:
                await self.fetch(connection)
            except StoreUnavailable:
                log(logging.DEBUG, "signing out without having seen the session")
        sid = self._sid(state)
        state.signed_in, state.cleared, state.due, state.user = False, True, True, None
        self.carrier.forget(connection)
        if sid is None:
            return
        try:
            await self.store.delete(sid, self.now())
        except StoreUnavailable:
            self._emit("sign_out_failed", connection, detail=encode_sid(sid))
            raise
        session = None if state.stored is None else state.stored.session
        state.stored = None
        self._emit("signed_out", connection, session)

    def is_due(self, connection: Connection) -> bool:
        """See `Authenticator.is_due`."""
        state = connection.states.get(self.identity)
        return (type(state) is _State and state.due) or self._always_due

    async def respond(self, connection: Connection, *, failed: bool = False) -> Effects:
        """What the response is to carry: a new session's id, a renewed id, the current id again, or its end.

        Renewing is best effort: if the store is out of reach the id that the client has stays good.
        """
        state = connection.states.get(self.identity)
        if type(state) is not _State or not state.due:
            return NO_EFFECTS
        if state.cleared:
            return Effects(self.carrier.clear(connection), no_store=True)
        if failed or state.stored is None:
            return NO_EFFECTS
        if state.signed_in:
            session: Session | None = state.stored.session
            if self.max_sessions is not None:
                session = await self._seen_alive(connection, state.stored.session)
        else:
            session = await self._to_send(connection, state)
        if session is None:
            return NO_EFFECTS
        cookie = self.carrier.write(connection, encode_id(session, self._mac, self._id_prefix))
        return Effects(cookie, no_store=True)

    # --- connections that last --------------------------------------------------------------------------------------

    def is_presented(self, connection: Connection) -> bool:
        """See `Authenticator.is_presented`: whether there is anything under the carrier's name."""
        try:
            return self.carrier.read(connection) is not None
        except ConflictingIds:
            return True

    async def recheck(self, connection: Connection) -> bool:
        """See `Authenticator.recheck`: one read. It renews nothing, and is no use of the session that would prolong it.

        Once it has said no, nobody is signed in on this connection.
        """
        if self.identity not in connection.states:
            return True  # whoever is signed in, it was not by a session of ours
        state = self._state(connection)
        if self.current_user(connection) is None or state.stored is None:
            return False
        alive = await self._seen_again(connection, state, state.stored.session)
        if not alive:
            state.stored = None
            connection.assign(self.current_user_key, None)
        return alive

    def is_expired(self, connection: Connection) -> bool:
        """See `Authenticator.is_expired`: by the record as it was last read."""
        state: _State | _Sight | None = connection.states.get(self.identity)
        if state is None:
            return False
        return state.stored is None or self.now() >= expires_at(state.stored.session, self.policy)

    async def _seen_again(self, connection: Connection, state: _State, session: Session) -> bool:
        now = self.now()
        try:
            stored = await self.store.get(session.sid, now)
            if stored is None:
                return False
            current = PresentedId(session.sid, session.salt, stored.session.generation)
            if not decide(stored.session, current, now, self.policy).accepted:
                return False
            user = self._restored(stored.session)
        except UnreadableRecord:
            return False
        if self.store.reload and await self._fetch_reloaded(connection, state, stored, user) is None:
            return False
        state.stored = stored
        return True

    # --- sessions ---------------------------------------------------------------------------------------------------

    def session(self, connection: Connection) -> SessionInfo | None:
        """The session of this connection, as its user may see it; ``None`` if nobody is signed in."""
        stored = self._state(connection).stored
        return None if stored is None else session_info(stored, current=True)

    def is_fresh(self, connection: Connection, within: Duration) -> bool:
        """Whether the user proved who they are, for this session, no longer than ``within`` ago.

        Raises:
            ConfigError: if ``within`` is no length of time.
        """
        longest = duration("within", within, at_least=1)
        stored = self._state(connection).stored
        if stored is None:
            return False
        return -CLOCK_TOLERANCE <= self.now() - stored.session.authenticated_at <= longest

    async def sessions(self, connection: Connection) -> list[SessionInfo]:
        """The current user's live sessions, newest first.

        Raises:
            NotSignedIn: if nobody is signed in.
        """
        current = self._current(connection).session
        found = await self.store.sessions(current.user_key, self.now())
        return [session_info(stored, current=stored.session.sid == current.sid) for stored in found]

    async def revoke(self, connection: Connection, session_id: object) -> bool:
        """End one of the current user's sessions; whether there was one.

        Another user's session gets the same answer as one that never was. The current one is signed out of.

        Raises:
            NotSignedIn: if nobody is signed in.
        """
        current = self._current(connection).session
        sid = decode_sid(session_id)
        if sid is None:
            return False
        if sid == current.sid:
            await self.do_delete(connection)
            return True
        now = self.now()
        try:
            found = await self.store.get(sid, now)
        except UnreadableRecord:
            found = None
        if found is None or found.session.user_key != current.user_key:
            return False
        existed = await self.store.delete(sid, now)
        self._emit("revoked", connection, found.session)
        return existed

    async def revoke_others(self, connection: Connection) -> int:
        """End all of the current user's sessions but this one, and sign-ins in flight; how many ended.

        Raises:
            NotSignedIn: if nobody is signed in.
        """
        current = self._current(connection).session
        ended = await self.store.delete_user(current.user_key, self.now(), keep=current.sid)
        self._emit("revoked", connection, current, detail=f"all others: {ended}")
        return ended

    async def revoke_all(self, connection: Connection) -> int:
        """End all of the current user's sessions, this one among them; how many ended.

        Raises:
            NotSignedIn: if nobody is signed in.
        """
        current = self._current(connection).session
        ended = await self.store.delete_user(current.user_key, self.now())
        self._emit("revoked", connection, current, detail=f"all: {ended}")
        await self.do_delete(connection)
        return ended

    async def revoke_user(self, user: U) -> int:
        """End all sessions of any user, for the app's own code; how many ended."""
        key = self.users.key(user)
        ended = await self.store.delete_user(key, self.now())
        self._emit("revoked", None, user_key=key, detail=f"all: {ended}")
        return ended

    async def revoke_everyone(self) -> int:
        """End all sessions of all users, for the app's own code; how many ended. Reads every session once."""
        ended = 0
        async for key in self.store.users(self.now()):
            ended += await self.store.delete_user(key, self.now())
        self._emit("revoked", None, detail=f"everyone: {ended}")
        return ended

    async def update_metadata(self, connection: Connection, /, **changes: str | int | float | bool | None) -> Metadata:
        """Add to, change or remove what the current session keeps, and return all of it as it now is.

        ``None`` removes a key, also one that powauth wrote, such as ``ip``. The other keys stay as they are.

        Raises:
            NotSignedIn: if nobody is signed in, or the session has ended meanwhile.
            MetadataTooLarge: if it would be over 4096 bytes.
            TypeError: if a value is not of JSON's plain types.
        """
        state = self._state(connection)
        stored: Stored | None = self._current(connection)
        for _ in range(METADATA_ATTEMPTS):
            if stored is None:
                raise NotSignedIn("the session has ended")
            merged = changed_metadata(stored.session.metadata, changes)
            session = msgspec.structs.replace(stored.session, metadata=merged)
            done = await self.store.update(stored, session, stored.expires_at, self.now())
            if done is not None:
                state.stored = done
                return merged
            stored = await self._read_again(stored.session.sid)
        raise StoreUnavailable("the session changed too fast to take the metadata; try again")

    # --- what a change of a user brings about -----------------------------------------------------------------------

    async def user_updated(self, before: U, after: U) -> bool:
        """End all sessions if what proves the user changed or the user is locked; else refresh their snapshots."""
        key = self.users.key(after)
        if self.users.fingerprint(before) != self.users.fingerprint(after) or not self.users.is_active(after):
            ended = await self.store.delete_user(key, self.now())
            self._emit("revoked", None, user_key=key, detail=f"credentials changed: {ended}")
            return True

        async def load() -> bytes | None:
            user = await self.users.reload(after)
            return None if user is None else self.users.snapshot(user)

        await self.store.refresh(key, load, self.now())
        return False

    async def user_deleted(self, user: U) -> None:
        """End all sessions of a deleted user."""
        key = self.users.key(user)
        ended = await self.store.delete_user(key, self.now())
        self._emit("revoked", None, user_key=key, detail=f"user deleted: {ended}")

    async def check_ready(self, user: U) -> None:
        """See `Authenticator.check_ready`: one small read."""
        await self.store.epoch(self.users.key(user), self.now())

    # --- throttling -------------------------------------------------------------------------------------------------

    async def authenticate_user(self, connection: Connection, params: Mapping[str, object]) -> U | None:
        """See `Authenticator.authenticate_user`."""
        try:
            return await super().authenticate_user(connection, params)
        finally:
            connection.states.pop(self._attempt, None)  # or it might be taken for one for somebody read before it

    async def admit_sign_in(self, connection: Connection, params: Mapping[str, object]) -> Admission:
        """See `Authenticator.admit_sign_in`: one change of the store, if neither counter is there yet.

        Whoever the attempt is for, their epoch as it stands now is remembered for `create`, if that is to be had.
        """
        admission = UNCOUNTED
        if self._counters is not None:
            account, source = self.users.login_key(params), connection.client_ip()
            try:
                admission = await self._counters.admit(self.store.backend, self.now, account=account, source=source)
            except Throttled as error:
                self._emit("throttled", connection, detail=error.scope)
                raise
        begun = self.now()
        try:
            epoch = await self.store.backend.latest_epoch(begun) if self._reads_once else None
        except StoreUnavailable:
            await admission.undo()
            raise
        connection.states[self._attempt] = _Attempt(admission, begun, epoch)
        return admission

    async def admit_proof(self, connection: Connection, user: U) -> Admission:
        """See `Authenticator.admit_proof`."""
        if self._counters is None:
            return UNCOUNTED
        key = self.users.key(user)
        try:
            return await self._counters.admit_proof(self.store.backend, self.now, key)
        except Throttled as error:
            self._emit("throttled", connection, user_key=key, detail=error.scope)
            raise

    async def admit_second_factor(self, connection: Connection, params: Mapping[str, object]) -> None:
        """See `Authenticator.admit_second_factor`."""
        account = self.users.login_key(params)
        if self._counters is None or account is None:
            return
        try:
            await self._counters.admit_second_factor(self.store.backend, self.now, account)
        except Throttled as error:
            self._emit("throttled", connection, detail=error.scope)
            raise

    async def forget_failures(self, params: Mapping[str, object]) -> bool:
        """Let an account be signed in to again at once, for the app's own code; whether it had failures.

        ``params`` hold its user id: after support has spoken with its owner, or a reset of the password.
        """
        account = self.users.login_key(params)
        if self._counters is None or account is None:
            return False
        return await self._counters.forget(self.store.backend, account, self.now())

    # --- inside -----------------------------------------------------------------------------------------------------

    def _state(self, connection: Connection) -> _State:
        state = connection.states.get(self.identity)
        if type(state) is not _State:
            stored = None if state is None else state.stored
            state = connection.states[self.identity] = _State(stored is not None, stored=stored)
        return state

    def _current(self, connection: Connection) -> Stored:
        if self.current_user(connection) is None:
            raise NotSignedIn("sign in first")
        stored = self._state(connection).stored
        if stored is None:
            raise NotSignedIn("the current user was not signed in by a session")
        return stored

    @staticmethod
    def _sid(state: _State) -> bytes | None:
        """The session that the request is to lose: the one it has, or may have if its record could not be seen."""
        if state.stored is not None:
            return state.stored.session.sid
        return state.known.presented.sid if state.known is not None and state.unseen else None

    def _restored(self, session: Session) -> U:
        try:
            user = self.users.restore(session.user)
        except ValueError as error:
            raise UnreadableRecord from error
        if not isinstance(user, self.users.user_type):
            raise UnreadableRecord
        return user

    def _may_sign_in(self, user: U | None) -> TypeGuard[U]:
        """Whether a users context's answer is an active user, and not merely something that is not ``None``."""
        return isinstance(user, self.users.user_type) and self.users.is_active(user)

    async def _still(self, user: U, proof: bytes | None) -> U | None:
        """The user as they are now; ``None`` if they may not sign in, or no longer have the fingerprint ``proof``."""
        fresh = await self.users.reload(user)
        if not self._may_sign_in(fresh):
            return None
        return fresh if proof is None or self.users.fingerprint(fresh) == proof else None

    async def _fetch_reloaded(self, connection: Connection, state: _State, stored: Stored, user: U) -> U | None:
        fresh = await self.users.reload(user)
        if not self._may_sign_in(fresh):
            await self.store.delete(stored.session.sid, self.now())
            self._emit("revoked", connection, stored.session, detail="user gone or locked")
            return None
        state.stored = stored
        return fresh

    async def _refuse(self, connection: Connection, session: Session, outcome: Outcome, now: Millis) -> None:
        if outcome is Outcome.REUSE:
            if self.on_reuse == "revoke":
                await self.store.delete(session.sid, now)
            self._emit("reuse_detected", connection, session, detail=self.on_reuse)
        elif outcome is Outcome.EXPIRED:
            await self.store.delete(session.sid, now)
            self._emit("expired", connection, session)
        else:  # a stranger to the record
            self._emit("unknown_id", connection, session)

    async def _to_send(self, connection: Connection, state: _State) -> Session | None:
        """Carry out at the response what was decided at the request; the session whose id is to be sent, if any.

        Whoever loses a compare-and-set reads again and decides again, so all end with the same id. No id is sent
        that was not seen alive just now: a late response must not overwrite a new sign-in.
        """
        # Who has been let in by a session has presented its id.
        stored, presented = cast("Stored", state.stored), cast("_KnownId", state.known).presented
        read_again = False
        try:
            for _ in range(RESPONSE_ATTEMPTS):
                now = self.now()
                session = stored.session
                outcome = decide(session, presented, now, self.policy)
                if outcome is Outcome.RENEW:
                    changed = renewed(session, now, self.policy)
                elif outcome is Outcome.CONFIRM:
                    changed = confirmed(session, now, self.policy)
                elif outcome is Outcome.AHEAD:
                    changed = forwarded(session, presented.generation, now, self.policy)
                elif outcome is Outcome.RESEND:
                    if read_again:
                        return session
                    changed = None
                else:
                    return None
                if changed is not None:
                    done = await self.store.update(stored, changed, expires_at(changed, self.policy), now)
                    if done is not None:
                        state.stored = done
                        return self._changed(connection, outcome, changed)
                again = await self._read_again(session.sid)
                if again is None:
                    return None
                stored, read_again = again, True
        except StoreUnavailable:
            self._emit("store_unavailable", connection, detail="respond")
        return None

    async def _seen_alive(self, connection: Connection, session: Session) -> Session | None:
        """The session that the request has signed in to, unless `max_sessions` has ended it for a newer one already.

        Two sign-ins of one browser may overlap: the dead id of one must not overwrite the other's.
        """
        try:
            return None if await self._read_again(session.sid) is None else session
        except StoreUnavailable:
            # The store acknowledged it a moment ago: the id is sent, or the client would lose what it was promised.
            self._emit("store_unavailable", connection, detail="respond")
            return session

    def _changed(self, connection: Connection, outcome: Outcome, session: Session) -> Session | None:
        if outcome is Outcome.RENEW:
            self._emit("renewed", connection, session)
            return session
        if outcome is Outcome.AHEAD:
            self._emit("forwarded", connection, session)
        return None

    async def _read_again(self, sid: bytes) -> Stored | None:
        try:
            return await self.store.get_fresh(sid, self.now())
        except UnreadableRecord:
            return None

    def _new_session(self, connection: Connection, key: str, user: U, now: Millis) -> Session:
        metadata: Metadata = {}
        if self._metadata is not None:
            metadata = checked_metadata({"first_seen": now, **self._metadata(connection)})
        return new_session(self.store.owner(key), key, self.users.snapshot(user), now, metadata)

    async def _replace_presented(self, connection: Connection, state: _State, key: str, now: Millis) -> None:
        replaced = self._sid(state)
        if replaced is not None:
            await self.store.delete(replaced, now)
        if state.stored is None or state.stored.session.user_key != key:
            self.carrier.forget(connection)

    async def _end_oldest(self, key: str, keep: int, now: Millis) -> None:
        # Sign-ins that overlap all trim, and all by the same order, so the last one leaves exactly the newest.
        for extra in (await self.store.sessions(key, now))[keep:]:
            await self.store.delete(extra.session.sid, now)
            self._emit("revoked", None, extra.session, detail="over max_sessions")

    def _note(
        self, name: EventName, connection: Connection | None, user: U | None = None, *, detail: str | None = None
    ) -> None:
        stored = None if connection is None else self._state(connection).stored
        session = None if stored is None else stored.session
        key = None if user is None else self.users.key(user)
        if session is not None and session.user_key != key:
            session = None
        self._emit(name, connection, session, user_key=key, detail=detail)

    def _warn_about_memory(self) -> None:
        if not self.store.backend.shared:
            logger.warning(
                "sessions live in this process's memory: other worker processes do not know them, and sign-out and "
                "renewal stay in this one; use lmdb:///, a database or Redis for more than one process"
            )

    def _emit(
        self,
        name: EventName,
        connection: Connection | None,
        session: Session | None = None,
        *,
        user_key: str | None = None,
        sid: bytes | None = None,
        detail: str | None = None,
    ) -> None:
        if session is not None:
            user_key, sid = session.user_key, session.sid
        event = Event(
            name=name,
            at=self.now(),
            user_key=user_key,
            session_id=None if sid is None else encode_sid(sid),
            ip=shown_address(connection) if connection is not None and self._metadata is not None else None,
            detail=detail,
        )
        emit(event, self.on_event)


def _known_id(
    decode: Callable[[str], PresentedId | None], key: Callable[[bytes], bytes], value: str, /
) -> _KnownId | None:
    presented = decode(value)
    return None if presented is None else _KnownId(presented, key(presented.sid))


def _policy(ttl: Millis, renewal: Duration | None, max_lifetime: Duration, grace: Duration) -> Policy:
    policy = Policy(
        ttl=ttl,
        renewal=None if renewal is None else duration("session_ttl_renewal", renewal),
        max_lifetime=duration("max_lifetime", max_lifetime, at_least=1),
        grace=duration("grace", grace),
    )
    if policy.renewal is not None and policy.renewal >= ttl:
        raise ConfigError("session_ttl_renewal must be shorter than ttl, or a session ends before it is renewed")
    if policy.max_lifetime < ttl:
        raise ConfigError("max_lifetime must be at least as long as ttl")
    if policy.grace >= ttl:
        raise ConfigError("grace must be shorter than ttl")
    return policy
