"""`SessionAuth`: the session plug. It composes sessions, accounts and a carrier."""

import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Final, get_args

import msgspec

from powauth._options import whole_number
from powauth._times import duration
from powauth.accounts.anywhere import anywhere
from powauth.accounts.base import Account, U, UsersContext
from powauth.accounts.hooks import Extension, Hooks, Parts
from powauth.accounts.identity import I, Key, key_text, loaded_key, stored_key
from powauth.accounts.service import AS_BEFORE, Attempt, Grant
from powauth.accounts.throttle import DEFAULT_THROTTLE, UNCOUNTED, Admission, Counters, Throttle
from powauth.backends.base import Backend, Millis, PerProcess
from powauth.errors import ConfigError, NotSignedIn, StoreUnavailable, Throttled
from powauth.events import EventName, Listener, log
from powauth.http.carriers import AnyOf, Carrier, CookieCarrier, SeveralIds, each_of
from powauth.http.connection import MISSING, Connection, Effects
from powauth.http.metadata import MetadataSource, default_metadata
from powauth.plug.authenticator import Authenticator, check_extension, check_users
from powauth.plug.event_log import EventLog
from powauth.plug.options import Remember, policy_of, short, store_of
from powauth.plug.reader import Channel, RequestReader
from powauth.plug.signing import Signer
from powauth.plug.subjects import Subjects
from powauth.sessions.ids import IdCodec, decode_sid
from powauth.sessions.info import SessionInfo, session_info
from powauth.sessions.keyring import Keyring, Secrets
from powauth.sessions.manager import SessionManager
from powauth.sessions.presence import Began, Presence, Recognized, last_moment, stored_in
from powauth.sessions.recognition import NO_ID, Recognizer, Unchanged
from powauth.sessions.record import Metadata, OnReuse, Outcome, Session, is_fresh
from powauth.sessions.store import CredentialsCache, Stored

DEFAULT_SESSION_KEY = "auth"

SESSION_PURPOSE = "session"
PROOF_PURPOSE = "proof"
"""The purposes of two derived keys. Each purpose has its own key."""


class SessionAuth(Authenticator[U, I]):
    """The session plug. The client holds a random id, a store holds the session, and ids in use are renewed.

    One object works in coroutines, in plain functions under WSGI, and on a second event loop.

    Args:
        secret_key: one secret or several, the signing one first; or a `Keyring`.
        users: the users context.
        backend: where sessions live: a `Backend` or its URL. Or give ``store``.
        store: a `CredentialsCache`, to choose its ttl, namespace or reloading.
        session_key: the name of the cookie, or of the key in the framework's session. Sessions of different names are
            kept apart.
        app_name: put before ``session_key`` and before the id, where several apps share a host.
        current_user_key: the name under which the current user is assigned to a request.
        session_ttl_renewal: the age at which an id is renewed. ``None`` means never, zero means at every request.
        max_lifetime: the longest life of a session, even in constant use (NIST SP 800-63B, section 4.2.3: 12 hours).
        remember: the lifetimes of sessions that `sign_in` is asked to remember. ``None`` offers no such sessions.
        grace: how long an id is accepted after its successor was first presented, for requests in flight.
        on_reuse: the action when a client presents an older id than that: ``"revoke"`` ends the session, because
            either its user or a thief presented it; ``"reject"`` refuses the request only.
        max_sessions: the most sessions per user. A further one ends the oldest. ``None`` means no limit.
        carrier: moves the id between client and server. The default is a `CookieCarrier`.
        hooks: the app's own functions before and after each flow.
        extensions: features around the plug.
        throttle: the limits of sign-in attempts per account and per source. ``None`` turns them off.
        metadata: returns the metadata of a new session from the request that signs in. ``None`` keeps none, and events
            then have no address.
        on_event: called with every `Event`, in addition to the ``powauth`` logger.
        clock: returns the time in seconds since the Unix epoch, as `time.time` does. powauth calls it at every request.
            Tests pass their own. Apps see `datetime` and `timedelta` everywhere else.

    Raises:
        ConfigError: if an option is wrong or contradicts another.
    """

    def __init__(
        self,
        *,
        secret_key: Secrets | Keyring,
        users: UsersContext[U, I],
        backend: Backend | str | None = None,
        store: CredentialsCache | None = None,
        session_key: str = DEFAULT_SESSION_KEY,
        app_name: str | None = None,
        current_user_key: str = "current_user",
        session_ttl_renewal: timedelta | None = timedelta(minutes=15),
        max_lifetime: timedelta = timedelta(hours=12),
        remember: Remember | None = None,
        grace: timedelta = timedelta(seconds=30),
        on_reuse: OnReuse = "revoke",
        max_sessions: int | None = None,
        carrier: Carrier | AnyOf | None = None,
        hooks: Hooks[I] | None = None,
        extensions: Sequence[Extension[I]] = (),
        throttle: Throttle | None = DEFAULT_THROTTLE,
        metadata: MetadataSource | None = default_metadata,
        on_event: Listener | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_users(users)
        if on_reuse not in get_args(OnReuse):
            raise ConfigError(f"on_reuse must be 'revoke' or 'reject', not {on_reuse!r}")
        if max_sessions is not None:
            whole_number("max_sessions", max_sessions)
        if throttle is not None and not isinstance(throttle, Throttle):
            raise ConfigError(f"throttle must be a Throttle, or None, not {type(throttle).__name__}")
        if carrier is not None and not isinstance(carrier, Carrier | AnyOf):
            raise ConfigError(f"carrier must be a carrier such as CookieCarrier(), not {type(carrier).__name__}")
        self._clock: Final = clock
        self.keyring: Final = secret_key if isinstance(secret_key, Keyring) else Keyring(secret_key)
        name = session_key if app_name is None else f"{app_name}_{session_key}"
        given = store_of(backend, store)
        self.carrier: Final[Carrier | AnyOf] = (carrier or CookieCarrier()).named(name)
        self.store: Final = given if name == DEFAULT_SESSION_KEY else given.within(short(name))
        self.policy: Final = policy_of(self.store.ttl, session_ttl_renewal, max_lifetime, grace, remember)
        super().__init__(
            users, current_user_key=current_user_key, hooks=hooks, extensions=self._bound(extensions, users)
        )
        self.vary, self.secure = self.carrier.vary, self.carrier.secure
        self.sessions: Final = SessionManager(self.store, self.policy, on_reuse, max_sessions, self.now)
        self._counters: Final = None if throttle is None else Counters(throttle, self.keyring, self.store.namespace)
        self._log: Final = EventLog(self.now, on_event, with_ip=metadata is not None)
        everywhere = self.accounts.users
        subjects: Subjects[I] = Subjects(users, self.keyring.mac(PROOF_PURPOSE, self.store.namespace))
        channels = self._channels(name, "" if app_name is None else f"{app_name}.")
        reader = RequestReader(channels, self.sessions, subjects, everywhere, self._log, self.now)
        self._subjects: Final = subjects
        self._reader: Final = reader
        self._signer: Final = Signer(reader, self.sessions, subjects, everywhere, self._log, metadata, self.now)
        self._sealed = True

    def _bound(self, extensions: Sequence[Extension[I]], users: UsersContext[U, I]) -> list[Extension[I]]:
        parts: Parts[I] = Parts(
            backend=self.store.backend,
            namespace=self.store.namespace,
            keyring=self.keyring,
            users=anywhere(users),
            now=self.now,
            emit=lambda event, key, detail: self.note(event, None, key=key, detail=detail),
        )
        return [check_extension(each, users).bind(parts) for each in extensions]

    def _channels(self, name: str, prefix: str) -> list[Channel[I]]:
        channels: list[Channel[I]] = []
        for position, each in enumerate(each_of(self.carrier)):
            ids = IdCodec(self.keyring.mac(SESSION_PURPOSE, self.store.namespace, each.kind, name), prefix)
            channels.append(Channel(position, each, ids, Recognizer(self.store, ids, self.policy)))
        return channels

    def __init_subclass__(cls, **options: object) -> None:
        """Reject a subclass whose own `fetch`, `do_fetch` or `call` would not be called for every request."""
        super().__init_subclass__(**options)
        own = [name for name in ("fetch", "do_fetch", "call") if name in cls.__dict__]
        if own and "call_at_once" not in cls.__dict__:
            raise ConfigError(
                f"{cls.__name__} overrides {own[0]}, which is not called for a session that has not changed: "
                "override admits instead, or call_at_once as well"
            )

    def __repr__(self) -> str:
        return f"<SessionAuth {self.carrier.name!r} in {self.store.namespace!r}>"

    def now(self) -> Millis:
        """Return the time in milliseconds, by the clock that all parts of this authenticator use."""
        return int(self._clock() * 1000)

    def admits(self, connection: Connection, identity: I) -> bool:
        """Return whether to accept the user of a valid session. Override this to refuse some requests.

        powauth calls this for every request of a signed-in user, so it must be quick and must not wait.
        """
        del connection, identity
        return True

    # --- the plug -----------------------------------------------------------------------------------------------------

    def call_at_once(self, connection: Connection) -> bool:
        """See `Authenticator.call_at_once`. This works if the record is unchanged, or there is no valid id."""
        key = self.current_user_key
        if connection.assigned(key) is not MISSING:
            return True
        presence = self._reader.look_at_once(connection)
        if presence is None:
            return False
        connection.assign(key, self._identity_in(connection, presence))
        return True

    async def fetch(self, connection: Connection) -> I | None:
        """Return the identity of the request's user. Takes one read of the store, and none without a valid id."""
        return self._identity_in(connection, await self._reader.look_again(connection))

    def _identity_in(self, connection: Connection, presence: Presence[I]) -> I | None:
        identity = presence.identity
        return identity if identity is not None and self.admits(connection, identity) else None

    async def create(self, connection: Connection, account: Account[I], grant: Grant = AS_BEFORE) -> Account[I] | None:
        """Sign an account in. A new session with a new id replaces the one that the request presented.

        powauth adopts nothing from the client, and the presented session has ended once this returns. powauth reads the
        epoch of the user's sessions before the account, and makes the session only if the epoch has not changed since.
        So it misses no change of the user and no revocation.
        """
        return await self._signer.create(connection, account, grant)

    async def delete(self, connection: Connection) -> None:
        """Sign out: delete the record first, then the cookie.

        If the store cannot be reached, the client still loses its id, but the call raises an error. No user may see
        "signed out" while the session may still be live.

        Raises:
            StoreUnavailable: if the record may still be there.
        """
        await self._signer.delete(connection)

    def is_due(self, connection: Connection) -> bool:
        """See `Authenticator.is_due`. If a subclass's `respond` changes more responses, override this too."""
        presence = self._reader.presence(connection)
        return presence is not None and presence.is_due

    async def respond(self, connection: Connection, *, failed: bool = False) -> Effects:
        """Return the id for the response: a new session's id, a renewed id, the current id again, or its removal.

        Renewal is best effort: if the store is unreachable, the client's present id stays valid.
        """
        return await self._signer.respond(connection, failed=failed)

    def access_token(self, connection: Connection) -> str:
        """Return the bearer token of a session that began in this request, for the body of its response.

        Raises:
            ConfigError: for any other session. Otherwise a script could read an id that HttpOnly hides.
        """
        return self._signer.access_token(connection)

    # --- connections that last ----------------------------------------------------------------------------------------

    def is_presented(self, connection: Connection) -> bool:
        """See `Authenticator.is_presented`. True if there is any value under the name of an ambient carrier."""
        channel = self._reader.channel_of(connection)
        try:
            return channel.carrier.ambient and channel.carrier.read(connection) is not None
        except SeveralIds:
            return True

    async def recheck(self, connection: Connection) -> bool:
        """See `Authenticator.recheck`. Takes one read, and neither renews nor prolongs the session.

        After a result of false, nobody is signed in on this connection.
        """
        presence: Presence[I] | None = self._reader.presence(connection)
        if presence is None:
            return True  # the user, if any, was not signed in by a powauth session
        stored = stored_in(presence)
        if self.current_identity(connection) is None or stored is None:
            return False
        alive = await self.sessions.alive(stored.session)
        if alive is not None and self.store.reload:
            confirmed = await self._reader.confirm(connection, alive, keep=False)
            alive = None if confirmed is None else alive
        if self._reader.presence(connection) is not presence:
            return await self.recheck(connection)  # a sign-in or sign-out meanwhile has precedence
        if alive is None:
            self._reader.set_presence(connection, NO_ID)
            self.assign(connection, None)
            return False
        self._replace_stored(connection, alive)
        return True

    def is_expired(self, connection: Connection) -> bool:
        """See `Authenticator.is_expired`: by the record as it was last read."""
        presence: Presence[I] | None = self._reader.presence(connection)
        if presence is None:
            return False
        last = last_moment(presence)
        return last is None or self.now() >= last

    # --- the current user's sessions ----------------------------------------------------------------------------------

    def session(self, connection: Connection) -> SessionInfo | None:
        """Return the session of this connection, as its user may see it; ``None`` if nobody is signed in."""
        stored = stored_in(self._reader.presence(connection))
        return None if stored is None else session_info(self.sessions.in_force(stored), current=True)

    def is_fresh(self, connection: Connection, within: timedelta) -> bool:
        """Return whether the user entered the password, for this session, no longer than ``within`` ago.

        Raises:
            ConfigError: if ``within`` is no length of time.
        """
        longest = duration("within", within, at_least=1)
        stored = stored_in(self._reader.presence(connection))
        return stored is not None and is_fresh(stored.session, longest, self.now(), self.policy)

    async def list_sessions(self, connection: Connection) -> list[SessionInfo]:
        """Return the current user's live sessions, newest first.

        Raises:
            NotSignedIn: if nobody is signed in.
        """
        current = self._current(connection).session
        found = await self.sessions.live(current.user_key)
        return [session_info(stored, current=stored.session.sid == current.sid) for stored in found]

    async def revoke(self, connection: Connection, session_id: object) -> bool:
        """End one of the current user's sessions, and return whether there was one.

        The result is the same for another user's session and for no session. Revoking the current one signs out.

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
        return await self.sessions.end_one(current.user_key, sid, self._log.note(connection))

    async def revoke_others(self, connection: Connection) -> int:
        """End all of the current user's sessions but this one, and sign-ins in flight. Return how many ended.

        Raises:
            NotSignedIn: if nobody is signed in.
        """
        current = self._current(connection).session
        note = self._log.note(connection)
        return await self.sessions.end_all(current.user_key, note, "all others", keep=current)

    async def revoke_all(self, connection: Connection) -> int:
        """End all of the current user's sessions, this one among them. Return how many ended.

        Raises:
            NotSignedIn: if nobody is signed in.
        """
        current = self._current(connection).session
        ended = await self.sessions.end_all(current.user_key, self._log.note(connection), "all")
        await self.do_delete(connection)
        return ended

    async def update_metadata(self, connection: Connection, changes: Metadata) -> Metadata:
        """Change the current session's metadata. ``None`` removes a key. Return all of the metadata.

        Raises:
            NotSignedIn: if nobody is signed in, or the session has ended meanwhile.
            MetadataTooLarge: if it would be over 4096 bytes.
            TypeError: if a value is not of JSON's plain types.
        """
        done = await self.sessions.change_metadata(self._current(connection), changes)
        self._replace_stored(connection, done)
        return done.session.metadata

    async def reseal(self, connection: Connection) -> None:
        """Write the current proof of the user into this session, after a handler has changed its own user's password.

        Raises:
            NotSignedIn: if nobody is signed in, or the user is gone or locked.
        """
        current = self._current(connection)
        account = await self.accounts.users.get(loaded_key(current.session.user_key))
        if account is None or account.active is not True:
            raise NotSignedIn("the account no longer exists, or is locked")
        session = self._subjects.resealed(current.session, account)
        done = await self.store.update(current, session, current.expires_at, self.now())
        if done is None:
            raise StoreUnavailable("the session was changed at the same time; try again")
        self._replace_stored(connection, done)

    # --- for the app's own code ---------------------------------------------------------------------------------------

    async def revoke_user(self, user: object) -> int:
        """End all sessions and tokens of any user. Return how many sessions ended.

        ``user`` is an identity, a row, or a key.
        """
        return await self.accounts.credentials_changed(self.key_of(user), "all")

    async def revoke_everyone(self) -> int:
        """End all sessions of all users. Return how many ended. This reads every session once."""
        return await self.sessions.end_everyone(self._log.note(None))

    async def forget_failures(self, params: Mapping[str, object] | None = None, /, **fields: object) -> bool:
        """Reset an account's failed sign-ins, so that it can sign in at once. Return whether there were any.

        The mapping or the keywords hold its user id. This is for the app's own code, after support has spoken with the
        owner.
        """
        account = await self.users.throttle_key({**(params or {}), **fields})
        if self._counters is None or account is None:
            return False
        return await self._counters.forget(self.store.backend, account, self.now())

    @asynccontextmanager
    async def lifespan(self, app: object = None) -> AsyncIterator[None]:
        """Close powauth's own connections when the app ends: ``FastAPI(lifespan=auth.lifespan)``.

        An app can enter it again, also after `aclose`.
        """
        del app
        try:
            yield
        finally:
            await self.aclose()

    async def aclose(self) -> None:
        """Close the connections that powauth opened, not those of the app. Later use opens them again."""
        await self.store.close()
        await self.accounts.users.close()

    # --- for the accounts; see `SignInPort` ---------------------------------------------------------------------------

    def current_key(self, request: Connection) -> Key | None:
        """See `Authenticator.current_key`: the key in the session's record."""
        identity = self.current_identity(request)
        stored = stored_in(self._reader.presence(request))
        if identity is None or stored is None:
            return super().current_key(request)
        return loaded_key(stored.session.user_key)

    def is_current(self, request: Connection, account: Account[I]) -> bool:
        """See `Authenticator.is_current`: whether the account has the proof in the session's record."""
        stored = stored_in(self._reader.presence(request))
        return account.active if stored is None else self._subjects.proves(account, stored.session)

    async def end_sessions(self, key: Key, why: str) -> int:
        """See `Authenticator.end_sessions`."""
        return await self.sessions.end_all(stored_key(key), self._log.note(None), why)

    async def refresh(self, key: Key) -> None:
        """See `Authenticator.refresh`: merge the identity into the records of all of the user's sessions."""

        async def load() -> Account[I] | None:
            return await self.accounts.users.get(key)

        await self.store.rewrite(stored_key(key), load, self._subjects.merged, self.now())

    async def admit_second_factor(self, request: Connection, params: Mapping[str, object]) -> None:
        """See `Authenticator.admit_second_factor`."""
        account = None if self._counters is None else await self.users.throttle_key(params)
        if self._counters is None or account is None:
            return
        try:
            await self._counters.admit_second_factor(self.store.backend, self.now, account)
        except Throttled as error:
            self._log.emit("throttled", request, detail=error.scope)
            raise

    def is_ambient(self, connection: Connection) -> bool:
        """See `Authenticator.is_ambient`: only programs send a bearer token."""
        return self._reader.channel_of(connection).carrier.ambient

    async def accept_proof(self, account: Account[I], proof: bytes) -> None:
        """See `Authenticator.accept_proof`: re-seal the user's records, so that they accept both proofs."""

        async def load() -> bytes:
            return proof

        def change(session: Session, proof: bytes) -> Session:
            return self._subjects.accepting(session, account, proof)

        await self.store.rewrite(stored_key(account.key), load, change, self.now())

    async def check_ready(self, key: Key) -> None:
        """See `Authenticator.check_ready`: one small read."""
        await self.store.epoch(stored_key(key), self.now())

    async def admit_sign_in(self, request: Connection, params: Mapping[str, object]) -> Attempt:
        """See `Authenticator.admit_sign_in`. Takes one change of the store, if neither counter exists yet.

        It also reads the latest epoch of all users for `create`, whichever user the attempt is for. It does not if the
        store has no such epoch, or if a hook takes time between the look-up of the user and the new session.
        """
        admission = UNCOUNTED
        if self._counters is not None:
            account, source = await self.users.throttle_key(params), request.client_ip()
            try:
                admission = await self._counters.admit(self.store.backend, self.now, account=account, source=source)
            except Throttled as error:
                self._log.emit("throttled", request, detail=error.scope)
                raise
        begun = self.now()
        if self.accounts.hooks.runs_before("sign_in"):
            return Attempt(admission, begun)
        try:
            return Attempt(admission, begun, await self.store.latest_epoch(begun))
        except StoreUnavailable:
            await admission.undo()
            raise

    async def admit_proof(self, request: Connection, key: Key) -> Admission:
        """See `Authenticator.admit_proof`."""
        if self._counters is None:
            return UNCOUNTED
        text = key_text(stored_key(key))
        try:
            return await self._counters.admit_proof(self.store.backend, self.now, text)
        except Throttled as error:
            self._log.emit("throttled", request, user_key=stored_key(key), detail=error.scope)
            raise

    def check_asgi(self) -> None:
        """See `Authenticator.check_asgi`."""
        super().check_asgi()
        self._warn_about_memory()
        if self.store.takes_threads:
            log(
                logging.WARNING,
                "the backend is synchronous: on ASGI each read or write takes a worker thread; "
                "its asynchronous client would spare that",
            )

    def check_wsgi(self) -> None:
        """See `Authenticator.check_wsgi`."""
        super().check_wsgi()
        self._warn_about_memory()
        self.store.check_off_loop()

    # --- inside -------------------------------------------------------------------------------------------------------

    def note(
        self, name: EventName, request: Connection | None, *, key: Key | None = None, detail: str | None = None
    ) -> None:
        """See `Authenticator.note`. The event names the session if it belongs to this user."""
        stored = None if request is None else stored_in(self._reader.presence(request))
        owner = None if key is None else stored_key(key)
        session = stored.session if stored is not None and stored.session.user_key == owner else None
        self._log.emit(name, request, session, user_key=owner, detail=detail)

    def _current(self, connection: Connection) -> Stored:
        if self.current_identity(connection) is None:
            raise NotSignedIn("sign in first")
        stored = stored_in(self._reader.presence(connection))
        if stored is None:
            raise NotSignedIn("the current user was not signed in by a session")
        return stored

    def _replace_stored(self, connection: Connection, stored: Stored) -> None:
        presence = self._reader.presence(connection)
        if isinstance(presence, Unchanged):
            presence = Recognized(presence.presented, stored, presence.identity, Outcome.CURRENT)
        elif isinstance(presence, Recognized | Began):
            presence = msgspec.structs.replace(presence, stored=stored)
        else:
            return  # a sign-out meanwhile has precedence
        self._reader.set_presence(connection, presence)

    def _warn_about_memory(self) -> None:
        if isinstance(self.store.backend, PerProcess):
            log(
                logging.WARNING,
                "sessions live in this process's memory: other worker processes do not know them, and sign-out and "
                "renewal stay in this one; use lmdb:///, a database or Redis for more than one process",
            )
