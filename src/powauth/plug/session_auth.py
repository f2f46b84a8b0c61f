"""`SessionAuth`: the session plug. It composes sessions, accounts and a carrier."""

import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from math import floor
from typing import ClassVar, Final, get_args

from powauth._options import callable_or_none, choice, instance, whole_number, wrong
from powauth._overrides import bypasses
from powauth._running import calls_ended, uncancellable
from powauth.accounts.anywhere import anywhere
from powauth.accounts.base import Account, U, UsersContext
from powauth.accounts.changes import REVOKED
from powauth.accounts.hooks import Extension, Hooks
from powauth.accounts.identity import I, Key
from powauth.accounts.service import AS_BEFORE, SIGN_IN_ATTEMPTS, Grant
from powauth.accounts.throttle import DEFAULT_THROTTLE, Counters, Throttle
from powauth.backends.base import Backend, Millis, PerProcess
from powauth.errors import ConfigError, Refused, StoreUnavailable
from powauth.events import EventName, Listener, log
from powauth.http.carriers import AnyOf, BearerCarrier, Carrier, CookieCarrier, SeveralIds, each_of
from powauth.http.connection import MISSING, Connection, Effects
from powauth.http.guards import FRESH
from powauth.http.metadata import MetadataSource, default_metadata
from powauth.plug.authenticator import Authenticator, check_extensions, check_users
from powauth.plug.current_session import CurrentSession
from powauth.plug.event_log import EventLog
from powauth.plug.following import Follower
from powauth.plug.options import DEFAULT_SESSION_KEY, Remember, policy_of, public_url_of, store_of
from powauth.plug.others import Others
from powauth.plug.parts import extension_parts
from powauth.plug.reader import Channel, RequestReader, channels_of
from powauth.plug.signing import Signer
from powauth.plug.subjects import Subjects
from powauth.plug.user_records import StoredUserRecords
from powauth.sessions.keyring import Keyring, Secrets
from powauth.sessions.manager import SessionManager
from powauth.sessions.presence import Presence
from powauth.sessions.record import OnReuse
from powauth.sessions.store import CredentialsCache

PROOF_PURPOSE = "proof"
"""The purpose of the key that seals proofs. Each purpose has its own key."""

CLOSING = 10
"""Maximum seconds for which `SessionAuth.aclose` waits for calls. Servers give a process some 30 seconds to end."""


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
            either its user or a thief presented it; ``"reject"`` treats only this request as anonymous.
        max_sessions: the most sessions per user. A further sign-in ends the session with the oldest sign-in, even if
            that is in use or remembered. ``None`` means no limit.
        carrier: moves the id between client and server. The default is a `CookieCarrier`.
        hooks: the app's own functions before and after each flow.
        extensions: features around the plug.
        public_url: the address below which the pages are mounted, such as ``"https://example.org/auth"``. Links in mail
            begin with it. Extensions that send links need it. It must be on https, except on ``localhost``.
        throttle: the limits of sign-in attempts per account and per source. ``None`` turns them off.
        metadata: returns the metadata of a new session from the request that signs in. ``None`` keeps none, and events
            then have no address.
        on_event: called with every `Event`, in addition to the ``powauth`` logger.
        clock: returns the time in seconds since the Unix epoch, as `time.time` does. powauth calls it at every request.
            Tests pass their own. Apps see `datetime` and `timedelta` everywhere else.

    Attributes:
        sessions: begins, continues, lists and ends sessions, by the key of a user.
        current_session: the session of a connection, and its user's other sessions.

    Raises:
        ConfigError: if an option is wrong or contradicts another.
    """

    credential: ClassVar[str] = "session"
    _frozen = False

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
        public_url: str | None = None,
        throttle: Throttle | None = DEFAULT_THROTTLE,
        metadata: MetadataSource | None = default_metadata,
        on_event: Listener | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        check_users(users)
        choice("on_reuse", on_reuse, *get_args(OnReuse))
        if max_sessions is not None:
            whole_number("max_sessions", max_sessions)
        instance("throttle", throttle, Throttle | None, "a Throttle or None")
        instance("carrier", carrier, Carrier | AnyOf | None, "a carrier such as CookieCarrier()")
        callable_or_none("metadata", metadata, "a function of a connection that returns a dict, or None")
        callable_or_none("on_event", on_event, "a function of an Event, or None")
        if not callable(clock):
            raise wrong("clock", "a function that returns the time in seconds", clock)
        self._clock: Final = clock
        self.keyring: Final = secret_key if isinstance(secret_key, Keyring) else Keyring(secret_key)
        name = session_key if app_name is None else f"{app_name}_{session_key}"
        self.carrier: Final[Carrier | AnyOf] = (carrier or CookieCarrier()).named(name)
        # Without the prefix of the cookie's name: an id is also valid in a cookie with another prefix.
        self.places = frozenset((each.kind, name) for each in each_of(self.carrier))
        self.store: Final = store_of(backend, store, name)
        self.policy: Final = policy_of(self.store.ttl, session_ttl_renewal, max_lifetime, grace, remember)
        self.sessions: Final = SessionManager(self.store, self.policy, on_reuse, max_sessions, self.now)
        everywhere = anywhere(users)
        self._events: Final = EventLog(self.now, on_event, with_ip=metadata is not None)
        counters = None if throttle is None else Counters(throttle, self.keyring, self.store.namespace)
        subjects: Subjects[I] = Subjects(users, self.keyring.mac(PROOF_PURPOSE, self.store.namespace))
        self._records: Final = StoredUserRecords(self.sessions, counters, subjects, everywhere, self._events, self.now)
        channels: list[Channel[I]] = channels_of(self.carrier, self.sessions, self.keyring, name, app_name)
        self._reader: Final = RequestReader(channels, self.sessions, subjects, everywhere, self._events, self.now)
        self.current_session: Final = CurrentSession(self, self._reader, self.sessions, subjects, self._events)
        super().__init__(
            users,
            current_user_key=current_user_key,
            hooks=hooks,
            extensions=self._bound(extensions, users, public_url, name, current_user_key),
            records=self._records,
            following=lambda flows: Follower(flows, self.sessions, self.current_session, self._events, self),
        )
        self._events.deliver_to(self.accounts.hooks.extensions)
        found = [each.authenticator for each in self.accounts.hooks.extensions if each.authenticator is not None]
        self._others: Final[Others[I]] = Others(self._reader, self.credential, found)
        self._entry: Final = self._others if found else self._reader
        self._asks_always: Final = not all(each.in_authorization for each in found)
        self.others = self._others.authenticators
        self.vary, self.secure = self._others.vary(self.carrier.vary), self.carrier.secure
        self._signer: Final = Signer(
            self._reader, self.sessions, subjects, everywhere, self._events, metadata, self.now
        )
        self._frozen = True

    def _bound(
        self,
        extensions: Sequence[Extension[I]],
        users: UsersContext[U, I],
        public_url: str | None,
        name: str,
        current_user_key: str,
    ) -> list[Extension[I]]:
        address = public_url_of(public_url)
        check_extensions(extensions, users)
        if not extensions:
            return []
        parts = extension_parts(
            self,
            users,
            self.store,
            self.keyring,
            self.now,
            self.current_session.emit,
            address,
            current=self.current_session,
            reader=self._reader,
            carrier=each_of(self.carrier)[0],
            session_key=name,
            current_user_key=current_user_key,
        )
        return [each.bind(parts) for each in extensions]

    def __init_subclass__(cls, **options: object) -> None:
        """Reject a subclass whose own `fetch`, `do_fetch`, `call` or `assign` would not be called for every request."""
        super().__init_subclass__(**options)
        for name in ("fetch", "do_fetch", "call", "assign"):
            if bypasses(cls, name, "call_at_once"):
                raise ConfigError(
                    f"{cls.__name__} overrides {name}, which is not called for a session that has not changed: "
                    "override admits instead, or call_at_once as well"
                )

    def __setattr__(self, name: str, value: object) -> None:
        if self._frozen:
            raise AttributeError(f"{type(self).__name__} cannot be changed after it was made; make another one")
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"<SessionAuth {self.carrier.name!r} in {self.store.namespace!r}>"

    def now(self) -> Millis:
        """Return the time in milliseconds, by the clock that all parts of this authenticator use."""
        return floor(self._clock() * 1000)

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
        credentials = connection.credentials()
        asks = credentials[1] is not None or self._asks_always
        if asks and self.others and self._others.of(connection) is not None:
            return False
        presence = self._reader.recognize_at_once(connection, credentials)
        if presence is None:
            return False
        identity = presence.identity
        connection.assign(key, identity if identity is not None and self.admits(connection, identity) else None)
        return True

    async def fetch(self, connection: Connection) -> I | None:
        """Return the identity of the request's user. Takes one read of the store, and none without a valid id."""
        identity = (await self._entry.read_state(connection)).identity
        return identity if identity is not None and self.admits(connection, identity) else None

    async def do_create(self, connection: Connection, account: Account[I], grant: Grant = AS_BEFORE) -> I | None:
        """See `Authenticator.do_create`.

        A hook decides on the account as it is after powauth has read the epoch of the user's sessions. If the sessions
        are revoked after that, the hook runs again. So a change that ends the sessions, such as that of a second
        factor, lets no sign-in through that the hook allowed before it.
        """
        if not self.accounts.hooks.runs_before("sign_in"):
            return await super().do_create(connection, account, grant)
        for _ in range(SIGN_IN_ATTEMPTS):
            prepared = await self._signer.with_epoch(account, grant)
            if prepared is None:
                return None
            identity = await super().do_create(connection, *prepared)
            if identity is not None:
                return identity
        raise StoreUnavailable("the user's sessions were revoked again and again during the sign-in; try again")

    def proven_methods(self, connection: Connection, key: Key, grant: Grant) -> Mapping[str, Millis]:
        """See `Authenticator.proven_methods`."""
        if grant.amr is None:
            session = self.current_session.session_of(connection, key)
            return {} if session is None else session.amr
        now = self.now()
        return {method: now if at is None else at for method, at in grant.amr.items()}

    async def create(self, connection: Connection, account: Account[I], grant: Grant = AS_BEFORE) -> Account[I] | None:
        """Sign an account in. A new session with a new id replaces the one that the request presented.

        powauth adopts nothing from the client, and the presented session has ended once this returns. powauth reads the
        epoch of the user's sessions before the account, and makes the session only if the epoch has not changed since.
        So it misses no change of the user and no revocation.

        Raises:
            Refused: if the request presents credentials of another kind. They never lead to a session.
        """
        self.check_session(connection)
        return await self._signer.create(connection, account, grant)

    async def delete(self, connection: Connection) -> None:
        """Sign out: delete the record first, then the cookie.

        If the store cannot be reached, the client still loses its id, but the call raises an error. No user may see
        "signed out" while the session may still be live.

        Raises:
            StoreUnavailable: if the record may still be there.
            Refused: if the request presents credentials of another kind. They are not signed out.
        """
        self.check_session(connection)
        await self._signer.delete(connection)

    def is_due(self, connection: Connection) -> bool:
        """See `Authenticator.is_due`. If a subclass's `respond` changes more responses, override this too."""
        presence: Presence[I] | None = connection.states.get(self._reader)  # one call fewer for every response
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
        """See `Authenticator.is_presented`. True if there is any value under the name of an ambient carrier.

        If the request presents credentials of an extension's authenticator, that authenticator answers.
        """
        other = self._others.of(connection)
        if other is not None:
            return other.is_presented(connection)
        channel = self._reader.channel_of(connection)
        try:
            return channel.carrier.ambient and channel.carrier.read(connection) is not None
        except SeveralIds:
            return True

    async def recheck(self, connection: Connection) -> bool:
        """See `Authenticator.recheck`. Takes one read, and neither renews nor prolongs the session.

        After a result of false, nobody is signed in on this connection.
        """
        if self._others.of(connection) is None:
            alive = await self.current_session.recheck(connection)
            identity = self.current_identity(connection) if alive else None
            alive = alive and (identity is None or self.admits(connection, identity))
        else:
            alive = self.current_identity(connection) is not None and await self.fetch(connection) is not None
        if not alive:
            self.assign(connection, None)
        return alive

    def is_expired(self, connection: Connection) -> bool:
        """See `Authenticator.is_expired`: by the record as it was last read."""
        other = self._others.of(connection)
        return self.current_session.is_expired(connection) if other is None else other.is_expired(connection)

    # --- credentials of other kinds -----------------------------------------------------------------------------------

    @property
    def credentials(self) -> tuple[str, ...]:
        """See `Authenticator.credentials`."""
        return self._others.credentials

    def credential_of(self, connection: Connection) -> str:
        """See `Authenticator.credential_of`."""
        other = self._others.of(connection)
        return self.credential if other is None else other.credential

    def scopes_of(self, identity: I) -> frozenset[str] | None:
        """See `Authenticator.scopes_of`. An extension knows them."""
        return self._others.scopes_of(identity)

    def scopes(self, connection: Connection) -> frozenset[str] | None:
        """See `Authenticator.scopes`. A session has all scopes of its user."""
        other = self._others.of(connection)
        return super().scopes(connection) if other is None else other.scopes(connection)

    def check_session(self, request: Connection) -> None:
        """See `Authenticator.check_session`."""
        if self._others.of(request) is not None:
            raise Refused("this needs a sign-in", code="session_required", current_user_key=self.current_user_key)

    def challenge(self, connection: Connection) -> str | None:
        """See `Authenticator.challenge`: that of the credentials in the request, else of the first kind of token."""
        other = self._others.of(connection)
        if other is None:
            for carrier in each_of(self.carrier):
                if isinstance(carrier, BearerCarrier):
                    return carrier.challenge(connection)
        found = self.others if other is None else (other,)
        return next((text for each in found if (text := each.challenge(connection)) is not None), None)

    # --- for the app's own code ---------------------------------------------------------------------------------------

    async def revoke_user(self, user: object) -> int:
        """End all sessions and tokens of any user. Return how many sessions ended.

        ``user`` is an identity, a row, or a key.
        """
        return await self.accounts.credentials_changed(self.key_of(user), REVOKED)

    @uncancellable
    async def revoke_everyone(self) -> int:
        """End all sessions of all users, and sign-ins in flight. Return how many ended. This reads every session once.

        Raises:
            StoreUnavailable: if any may still be live. Then try again.
        """
        return await self.sessions.end_everyone(self._events.about(None))

    async def forget_failures(self, params: Mapping[str, object] | None = None, /, **fields: object) -> bool:
        """Reset an account's failed sign-ins, so that it can sign in at once. Return whether there were any.

        The mapping or the keywords hold its user id. This is for the app's own code, after support has spoken with the
        owner.
        """
        return await self._records.forget_failures({**(params or {}), **fields})

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
        """Close the extensions, and the connections that powauth opened, not those of the app.

        A change of a user runs to its end even if its client has hung up. This waits for such changes first, at most
        10 seconds. Later use opens the connections again.
        """
        if not await calls_ended(CLOSING):
            log(
                logging.WARNING,
                "a call has not ended %d seconds after the app began to close, and its connections close now; "
                "if it changes a user, sessions that it should end may stay: repeat the change",
                CLOSING,
            )
        await self.accounts.hooks.aclose()
        await self.store.close()
        await self.accounts.users.close()

    # --- for the accounts; see `SignInPort` ---------------------------------------------------------------------------

    def current_key(self, request: Connection) -> Key | None:
        """See `Authenticator.current_key`: the key in the session's record."""
        key = None if self.current_identity(request) is None else self.current_session.key(request)
        return super().current_key(request) if key is None else key

    def is_current(self, request: Connection, account: Account[I]) -> bool:
        """See `Authenticator.is_current`: whether the account has the proof in the session's record."""
        return self.current_session.is_of(request, account)

    def emit(
        self, name: EventName, request: Connection | None, *, key: Key | None = None, detail: str | None = None
    ) -> None:
        """See `Authenticator.emit`. The event names the session if it belongs to this user."""
        self.current_session.emit(name, key, detail, request=request)

    def signed_in_recently(self, request: Connection) -> bool:
        """See `Authenticator.signed_in_recently`: within `powauth.http.guards.FRESH`."""
        return self.current_session.is_fresh(request, FRESH)

    async def dismiss(self, connection: Connection, account: Account[I] | None = None) -> bool:
        """See `Authenticator.dismiss`. This ends the session: row 12."""
        kept = await self._reader.dismiss(connection, account)
        if kept is None:
            return await super().dismiss(connection)
        self.current_session.replace(connection, kept)
        return False

    def is_ambient(self, connection: Connection) -> bool:
        """See `Authenticator.is_ambient`: only programs send a bearer token."""
        other = self._others.of(connection)
        if other is not None:
            return other.is_ambient(connection)
        return self._reader.channel_of(connection).carrier.ambient

    def check_asgi(self) -> None:
        """See `Authenticator.check_asgi`."""
        super().check_asgi()
        _warn_about_memory(self.store)
        if self.store.takes_threads:
            log(
                logging.WARNING,
                "the backend is synchronous: each read or write on ASGI takes a worker thread; "
                "its asynchronous client needs none",
            )

    def check_wsgi(self) -> None:
        """See `Authenticator.check_wsgi`."""
        super().check_wsgi()
        for other in self.others:
            other.check_wsgi()
        _warn_about_memory(self.store)
        self.store.check_off_loop()


def _warn_about_memory(store: CredentialsCache) -> None:
    if isinstance(store.backend, PerProcess):
        log(
            logging.WARNING,
            "sessions live in this process's memory: other worker processes do not know them, and sign-out and "
            "renewal stay in this one; use lmdb:///, a database or Redis for more than one process",
        )
