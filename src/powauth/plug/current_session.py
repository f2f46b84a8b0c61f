"""`CurrentSession`: the session by which the user of a connection is signed in, and the user's other sessions."""

from collections.abc import Collection
from datetime import timedelta
from functools import partial
from typing import Any, Generic

import msgspec

from powauth._running import uncancellable
from powauth._times import duration
from powauth.accounts.base import Account
from powauth.accounts.changes import REVOKED
from powauth.accounts.grant import checked_methods
from powauth.accounts.identity import I, Key, loaded_key, stored_key
from powauth.errors import NotSignedIn
from powauth.events import EventKind, EventName
from powauth.http.connection import Connection
from powauth.plug.authenticator import Authenticator
from powauth.plug.event_log import EventLog
from powauth.plug.reader import RequestReader
from powauth.plug.subjects import Subjects
from powauth.sessions.ids import decode_sid
from powauth.sessions.info import SessionInfo, session_info
from powauth.sessions.manager import SessionManager
from powauth.sessions.presence import Began, Recognized, State, last_moment, stored_in
from powauth.sessions.recognition import NO_ID, Unchanged
from powauth.sessions.record import Metadata, Outcome, Session, is_fresh, stale
from powauth.sessions.store import Stored


class CurrentSession(Generic[I]):
    """Answers for the session of a connection, changes it, and ends sessions of its user.

    Args:
        auth: knows the current user of a connection, and signs out.
        reader: the state of requests.
        sessions: lists and ends sessions.
        subjects: compares accounts with sessions.
        events: emits them to the log and the app's listener.
    """

    def __init__(
        self,
        auth: Authenticator[Any, I],
        reader: RequestReader[I],
        sessions: SessionManager,
        subjects: Subjects[I],
        events: EventLog,
    ) -> None:
        self._auth = auth
        self._reader = reader
        self._sessions = sessions
        self._store = sessions.store
        self._subjects = subjects
        self._events = events

    # --- as it was last read ------------------------------------------------------------------------------------------

    def info(self, connection: Connection) -> SessionInfo | None:
        """Return the session, as its user may see it; ``None`` if nobody is signed in."""
        stored = stored_in(self._reader.presence(connection))
        return None if stored is None else session_info(self._sessions.in_force(stored), current=True)

    def key(self, connection: Connection) -> Key | None:
        """Return the user's key in the session's record; ``None`` if the user was not signed in by a session."""
        stored = stored_in(self._reader.presence(connection))
        return None if stored is None else loaded_key(stored.session.user_key)

    def session_of(self, connection: Connection, key: Key) -> Session | None:
        """Return the session in the record, if it is one of this user."""
        stored = stored_in(self._reader.presence(connection))
        return stored.session if stored is not None and stored.session.user_key == stored_key(key) else None

    def is_of(self, connection: Connection, account: Account[I]) -> bool:
        """Return whether an account has the proof in the session's record, or without a session, is active."""
        stored = stored_in(self._reader.presence(connection))
        return account.active if stored is None else self._subjects.proves(account, stored.session)

    def is_fresh(self, connection: Connection, within: timedelta, methods: Collection[str] | None = None) -> bool:
        """See `RequestAuth.is_fresh`."""
        longest = duration("within", within, at_least=1)
        names = None if methods is None else checked_methods(methods)
        stored, sessions = stored_in(self._reader.presence(connection)), self._sessions
        return stored is not None and is_fresh(stored.session, longest, sessions.now(), sessions.policy, names)

    def is_expired(self, connection: Connection) -> bool:
        """See `SessionAuth.is_expired`."""
        presence: State[I] | None = self._reader.presence(connection)
        if presence is None:
            return False
        last = last_moment(presence)
        return last is None or self._sessions.now() >= last

    def emit(
        self,
        event: EventName | EventKind,
        key: Key | None = None,
        detail: str | None = None,
        *,
        request: Connection | None = None,
        actor: Key | None = None,
    ) -> None:
        """Emit an event about a user; see `EmitEvent`. It names the session of the request if that is the user's."""
        session = None if request is None or key is None else self.session_of(request, key)
        owner = None if key is None else stored_key(key)
        who = None if actor is None else stored_key(actor)
        self._events.emit(event, request, session, user_key=owner, detail=detail, actor=who)

    # --- another look -------------------------------------------------------------------------------------------------

    async def recheck(self, connection: Connection) -> bool:
        """See `SessionAuth.recheck`."""
        presence: State[I] | None = self._reader.presence(connection)
        if presence is None:
            return True  # the user, if any, was not signed in by a powauth session
        stored = stored_in(presence)
        if self._auth.current_identity(connection) is None or stored is None:
            return False
        alive = await self._sessions.alive(stored.session)
        if alive is not None and (self._store.reload or self._subjects.identity_in(alive.session) is None):
            kept = await self._reader.check_proof(connection, alive, merge=not self._store.reload)
            alive = None if kept is None else kept[0]
        if self._reader.presence(connection) is not presence:
            return await self.recheck(connection)  # a sign-in or sign-out meanwhile has precedence
        if alive is None:
            self._reader.set_presence(connection, NO_ID)
            self._auth.assign(connection, None)
            return False
        self.replace(connection, alive)
        return True

    # --- the user's sessions ------------------------------------------------------------------------------------------

    async def list_all(self, connection: Connection) -> list[SessionInfo]:
        """See `RequestAuth.sessions`."""
        current = self._required(connection).session
        found = await self._sessions.live(current.user_key)
        return [session_info(stored, current=stored.session.sid == current.sid) for stored in found]

    @uncancellable
    async def revoke(self, connection: Connection, sid: object) -> bool:
        """See `RequestAuth.revoke`."""
        current = self._required(connection).session
        found = decode_sid(sid)
        if found is None:
            return False
        if found == current.sid:
            await self._auth.do_delete(connection)
            return True
        return await self._sessions.end_one(current.user_key, found, self._events.about(connection))

    @uncancellable
    async def revoke_others(self, connection: Connection) -> int:
        """See `RequestAuth.revoke_others`."""
        current = self._required(connection).session
        emit = self._events.about(connection)
        return await self._sessions.end_all(current.user_key, emit, "all others", keep=current)

    @uncancellable
    async def revoke_all(self, connection: Connection) -> int:
        """See `RequestAuth.revoke_all`."""
        key = self._required(connection).session.user_key
        ended = await self._auth.accounts.credentials_changed(loaded_key(key), REVOKED, request=connection)
        await self._auth.do_delete(connection)
        return ended

    # --- changes of the session ---------------------------------------------------------------------------------------

    async def update_metadata(self, connection: Connection, changes: Metadata) -> Metadata:
        """See `RequestAuth.update_metadata`."""
        done = await self._sessions.change_metadata(self._required(connection), changes)
        self.replace(connection, done)
        return done.session.metadata

    async def reseal(self, connection: Connection) -> None:
        """See `RequestAuth.reseal`."""
        if not await self.seal(connection, self._required(connection).session):
            raise NotSignedIn("the session has ended, or the account is gone or locked")

    async def seal(self, connection: Connection, session: Session) -> bool:
        """Write the user's present proof into a session of the connection, and mark its identity stale.

        Return ``False`` if the session has ended, or its user is gone or locked.

        Raises:
            StoreUnavailable: if the store or the users cannot be reached.
        """

        async def load() -> Account[I] | None:
            account = await self._auth.accounts.users.get(loaded_key(session.user_key))
            return account if isinstance(account, Account) and account.active is True else None

        def change(session: Session, account: Account[I]) -> Session:
            return stale(self._subjects.resealed(session, account))

        done = await self._store.rewrite_one(session.sid, load, change, self._sessions.now())
        if done is not None:
            self.replace(connection, done)
        return done is not None

    async def accept(self, connection: Connection, session: Session, proof: bytes) -> None:
        """Let a session of the connection also accept a proof, which its user is about to have.

        Raises:
            StoreUnavailable: if the store cannot be reached.
        """

        async def load() -> bytes:
            return proof

        done = await self._store.rewrite_one(session.sid, load, self._subjects.also_accepting, self._sessions.now())
        if done is not None:
            self.replace(connection, done)

    def accept_in(self, connection: Any, session: Session, proof: bytes) -> None:
        """Do the same in the app's transaction, on its SQLAlchemy connection, if the sessions are in that database.

        If the session changes at the same moment, this does nothing: the app's transaction must not fail for it.
        """
        change = partial(self._subjects.also_accepting, proof=proof)
        self._store.rewrite_in(connection, session.sid, change, self._sessions.now())

    def _required(self, connection: Connection) -> Stored:
        self._auth.check_session(connection)
        if self._auth.current_identity(connection) is None:
            raise NotSignedIn("sign in first")
        stored = stored_in(self._reader.presence(connection))
        if stored is None:
            raise NotSignedIn("the current user was not signed in by a session")
        return stored

    def replace(self, connection: Connection, stored: Stored) -> None:
        """Note that the session of a connection is in the store as given."""
        presence = self._reader.presence(connection)
        if isinstance(presence, Unchanged):
            presence = Recognized(presence.presented, stored, presence.identity, Outcome.CURRENT)
        elif isinstance(presence, Recognized | Began):
            presence = msgspec.structs.replace(presence, stored=stored)
        else:
            return  # a sign-out meanwhile has precedence
        self._reader.set_presence(connection, presence)
