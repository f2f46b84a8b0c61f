"""`Follower`: lets sessions follow changes of users that the app's own code makes."""

from typing import Any

from powauth.accounts.changes import FOLLOWED, Change
from powauth.accounts.fan_out import FanOut
from powauth.accounts.identity import I, Key, stored_key
from powauth.accounts.service import AccountService
from powauth.http.connection import Connection
from powauth.http.visit import current_connection, track_requests
from powauth.plug.current_session import CurrentSession
from powauth.plug.event_log import EventLog
from powauth.sessions.manager import SessionManager
from powauth.sessions.record import Session


class Follower(FanOut[I]):
    """The `ChangeListener` of a `SessionAuth`.

    If a request changes its own user, its session stays: a handler that sets its user's new password does not sign that
    user out.

    Args:
        accounts: the flows, which end everything that a user holds.
        sessions: ends sessions.
        current: knows and re-seals the session of a request.
        events: emits them to the log and the app's listener.
        auth: the authenticator, to find its part of the request that is served.
    """

    def __init__(
        self,
        accounts: AccountService[I],
        sessions: SessionManager,
        current: CurrentSession[I],
        events: EventLog,
        auth: object,
    ) -> None:
        super().__init__(accounts)
        self._sessions = sessions
        self._store = sessions.store
        self._current = current
        self._events = events
        self._auth = auth

    def track_requests(self) -> None:
        """See `ChangeListener.track_requests`."""
        track_requests()

    def check_waitable(self) -> None:
        """See `ChangeListener.check_waitable`."""
        self._store.check_off_loop()

    def end_in_transaction(self, connection: Any, key: Key) -> bool:
        """See `ChangeListener.end_in_transaction`."""
        _, own = self._own(key)
        keep = None if own is None else own.sid
        return self._store.delete_sessions_in(connection, stored_key(key), self._sessions.now(), keep) is not None

    def keeps(self, key: Key) -> bool:
        """See `ChangeListener.keeps`."""
        return self._own(key)[1] is not None

    def accept_in_transaction(self, connection: Any, key: Key, proof: bytes) -> None:
        """See `ChangeListener.accept_in_transaction`."""
        _, own = self._own(key)
        if own is not None:
            self._current.accept_in(connection, own, proof)

    async def before_commit(self, key: Key, *, joined: bool, locked: bool, proof: bytes | None) -> None:
        """See `ChangeListener.before_commit`."""
        request, own = self._own(key)
        if locked:
            await self._accounts.records.end_sessions(key, FOLLOWED, own)
        elif joined:
            await self._accounts.hooks.credentials_changed(key, FOLLOWED)
        else:
            await self._accounts.credentials_changed(key, FOLLOWED, own)
        if not joined and request is not None and own is not None and proof is not None:
            await self._current.accept(request, own, proof)

    async def after_commit(self, key: Key, change: Change, *, joined: bool) -> None:
        """See `ChangeListener.after_commit`."""
        if change is Change.IDENTITY:
            await self._store.mark_stale(stored_key(key), self._sessions.now())
            return
        request, own = self._own(key)
        try:
            await self._end(key, own, joined=joined)
        finally:
            if joined:
                self._events.emit("revoked", request, own, user_key=stored_key(key), detail=FOLLOWED)
            if request is not None and own is not None and not await self._current.seal(request, own):
                await self._store.delete(own.sid, self._sessions.now())

    async def _end(self, key: Key, own: Session | None, *, joined: bool) -> None:
        """End what a user holds. The sessions of a ``joined`` store have ended in the app's transaction."""
        if not joined:
            await self._accounts.credentials_changed(key, FOLLOWED, own)
            return
        try:
            await self._accounts.hooks.credentials_changed(key, FOLLOWED)
        finally:
            await self._accounts.hooks.sessions_ended(key, FOLLOWED)

    def _own(self, key: Key) -> tuple[Connection | None, Session | None]:
        """Return the request that is served here, and its session if that is one of this user."""
        request = current_connection(self._auth)
        return request, None if request is None else self._current.session_of(request, key)
