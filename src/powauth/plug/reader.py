"""`RequestReader`: finds the user of a request, and keeps the request's state (`powauth.sessions.presence`)."""

from collections.abc import Callable, Sequence
from typing import Any, Generic

import msgspec

from powauth.accounts.base import Account, UsersContext
from powauth.accounts.identity import I, loaded_key
from powauth.backends.base import Millis
from powauth.errors import StoreUnavailable
from powauth.http.carriers import AnyOf, Carrier, SeveralIds, each_of
from powauth.http.connection import Connection, Credentials
from powauth.plug.event_log import EventLog
from powauth.plug.subjects import Subjects
from powauth.sessions.ids import IdCodec, PresentedId, encode_sid
from powauth.sessions.keyring import Keyring
from powauth.sessions.manager import SessionManager
from powauth.sessions.presence import (
    Began,
    Ended,
    Noted,
    Presence,
    Recognized,
    SeveralLive,
    State,
    Unknown,
    state_of,
    stored_in,
)
from powauth.sessions.recognition import FORGED, NO_ID, Anonymous, NeedsRead, Recognizer, Unchanged
from powauth.sessions.record import Outcome, Session, resumes
from powauth.sessions.store import Stored, UnreadableRecord

SESSION_PURPOSE = "session"
"""The purpose of the keys that sign ids."""

MAX_SESSIONS = 8
"""The most sessions that powauth reads for one cookie name."""


class Channel(msgspec.Struct, Generic[I], frozen=True):
    """One carrier, with the decoder and the recognizer of its ids."""

    position: int
    carrier: Carrier
    ids: IdCodec
    recognizer: Recognizer[I]


def channels_of(
    carrier: Carrier | AnyOf, sessions: SessionManager, keyring: Keyring, name: str, app_name: str | None
) -> list[Channel[I]]:
    """Return the channels of a carrier. Each has its own key, so an id is valid on one channel only.

    ``name`` is the name of the sessions. Each id begins with ``app_name`` and a dot.
    """
    prefix = "" if app_name is None else f"{app_name}."
    channels: list[Channel[I]] = []
    for position, each in enumerate(each_of(carrier)):
        ids = IdCodec(keyring.mac(SESSION_PURPOSE, sessions.store.namespace, each.kind, name), prefix)
        channels.append(Channel(position, each, ids, Recognizer(sessions.store, ids, sessions.policy)))
    return channels


class RequestReader(Generic[I]):
    """Finds the users of requests.

    Args:
        channels: the carriers: the one for browsers first, then the bearer if there is one.
        sessions: carries out decisions.
        subjects: decodes identities and compares proofs.
        users: loads accounts.
        events: emits them to the log and the app's listener.
        now: the time in milliseconds.
    """

    def __init__(
        self,
        channels: Sequence[Channel[I]],
        sessions: SessionManager,
        subjects: Subjects[I],
        users: UsersContext[Any, I],
        events: EventLog,
        now: Callable[[], Millis],
    ) -> None:
        self.channels = tuple(channels)
        self._only = self.channels[0] if len(self.channels) == 1 else None
        self._sessions = sessions
        self._store = sessions.store
        self._reload = sessions.store.reload
        self._subjects = subjects
        self._users = users
        self._events = events
        self._now = now

    def presence(self, connection: Connection) -> State[I] | None:
        """Return the state of a request; ``None`` if it is not known yet."""
        return state_of(connection.states.get(self))

    def set_presence(self, connection: Connection, presence: State[I]) -> None:
        """Replace the state of a request. The cookies that were noted stay."""
        noted: Presence[I] | None = connection.states.get(self)
        connection.states[self] = Noted(presence, noted.cookies) if isinstance(noted, Noted) else presence

    def note_cookie(self, connection: Connection, name: str, cookie: str) -> None:
        """Note a ``Set-Cookie`` for the response. A later one of the same name replaces it."""
        noted: Presence[I] | None = connection.states.get(self)
        cookies = noted.cookies if isinstance(noted, Noted) else {}
        connection.states[self] = Noted(state_of(noted), {**cookies, name: cookie})

    def cookies_noted(self, connection: Connection) -> tuple[str, ...]:
        """Return the cookies that were noted for the response."""
        noted: Presence[I] | None = connection.states.get(self)
        return tuple(noted.cookies.values()) if isinstance(noted, Noted) else ()

    def channel_of(self, connection: Connection) -> Channel[I]:
        """Return the channel of a request: the bearer's if the request presents a token, else the browser's."""
        return self._channel(connection, connection.credentials()) if self._only is None else self._only

    def _channel(self, connection: Connection, credentials: Credentials) -> Channel[I]:
        browser, bearer = self.channels
        return browser if bearer.carrier.find(connection, credentials) is None else bearer

    def recognize_at_once(self, connection: Connection, credentials: Credentials) -> State[I] | None:
        """Return the state of a request, and keep it, if that needs no waiting; ``None`` if it does.

        ``credentials`` are those of the request.
        """
        if self._reload:
            return None
        channel = self._channel(connection, credentials) if self._only is None else self._only
        # The steps of `_recognize`, without a call: most requests end here.
        try:
            value = channel.carrier.find(connection, credentials)
        except SeveralIds:
            return None
        presence = channel.recognizer.recognize(value, self._now())
        if presence is FORGED:
            self._events.emit("forged_id", connection)
        connection.states[self] = presence
        return None if presence.needs_read else presence

    async def known_or_read(self, connection: Connection) -> State[I]:
        """Return the state of a request. Read the store if the state is not known yet.

        Raises:
            StoreUnavailable: if the user cannot be determined. The next call tries again.
        """
        presence = self.presence(connection)
        return await self.read_state(connection) if presence is None or presence.needs_read else presence

    async def read_state(self, connection: Connection) -> State[I]:
        """Read the state of a request, for the first time or once more, and keep it.

        A sign-in or sign-out during the request has precedence.

        Raises:
            StoreUnavailable: if the user cannot be determined.
        """
        found: Presence[I] | None = connection.states.get(self)
        if isinstance(found, NeedsRead):  # `recognize_at_once` has verified the id
            presence = await self._read(connection, self.channel_of(connection), found)
            connection.states[self] = presence
        else:
            known = state_of(found)
            if isinstance(known, Began | Ended):
                return known
            presence = await self.state_on(connection, self.channel_of(connection))
            self.set_presence(connection, presence)
        if isinstance(presence, Unknown) and presence.cause is not None:
            raise StoreUnavailable(str(presence.cause)) from presence.cause
        return presence

    async def state_on(self, connection: Connection, channel: Channel[I]) -> State[I]:
        """Return the state that a request has on a channel, without keeping it."""
        try:
            presence: State[I] = self._recognize(connection, channel)
        except SeveralIds as several:
            return await self._one_of(connection, channel, several.values)
        if isinstance(presence, NeedsRead):
            return await self._read(connection, channel, presence)
        return presence

    async def check_proof(self, connection: Connection, stored: Stored, *, merge: bool) -> tuple[Stored, I] | None:
        """Load the user of a session from the users context, and compare the proof: row 12.

        If the user is gone, is locked, or has a proof that the record does not accept either when it is read again, end
        the session and return ``None``. With ``merge``, merge the current identity into the one in the record, which
        workers of another version may have written.

        Raises:
            StoreUnavailable: if the store or the users cannot be reached.
        """
        account = await self._users.get(loaded_key(stored.session.user_key))
        kept = await self._keep_or_end(connection, stored, account)
        if kept is None or account is None:
            return None
        stored, session = kept, kept.session
        merged = self._subjects.merged(session, account) if merge else session
        if merged != session:
            done = await self._store.update(stored, merged, stored.expires_at, self._now())
            stored = stored if done is None else done
        return stored, account.identity

    async def dismiss(self, connection: Connection, account: Account[I] | None) -> Stored | None:
        """End the session of a request whose user no longer has its proof: row 12.

        Return the session if it stays: the record accepts the account's proof when it is read again.

        Raises:
            StoreUnavailable: if the store cannot be reached.
        """
        stored = stored_in(self.presence(connection))
        if stored is None:
            return None
        kept = await self._keep_or_end(connection, stored, account)
        if kept is None:
            self.set_presence(connection, NO_ID)
        return kept

    async def _keep_or_end(self, connection: Connection, stored: Stored, account: Account[I] | None) -> Stored | None:
        """Return a session that accepts an account's proof. Otherwise end it and return ``None``.

        The record may have been read before a change that has let it accept the new proof, and the account after it. So
        the record is read again before it is deleted.
        """
        if isinstance(account, Account) and account.active is True:
            if self._subjects.proves(account, stored.session):
                return stored
            again = await self._store.get_fresh(stored.session.sid, self._now())
            if again is not None and self._subjects.proves(account, again.session):
                return again
        await self._drop(connection, stored.session)
        return None

    async def _drop(self, connection: Connection, session: Session) -> None:
        await self._store.delete(session.sid, self._now())
        self._events.emit("revoked", connection, session, detail="user gone, locked or changed")

    def _recognize(self, connection: Connection, channel: Channel[I]) -> Anonymous | Unchanged[I] | NeedsRead[I]:
        presence = channel.recognizer.recognize(channel.carrier.read(connection), self._now())
        if presence is FORGED:
            self._events.emit("forged_id", connection)
        return presence

    async def _read(self, connection: Connection, channel: Channel[I], needs: NeedsRead[I]) -> State[I]:
        presented = needs.known.presented
        try:
            found = await channel.recognizer.read(needs, self._now())
            if found is None:
                self._events.emit("unknown_id", connection, sid=presented.sid)
                return NO_ID
            return await self._decided(connection, channel, needs, *found)
        except UnreadableRecord:
            self._events.emit("unreadable_record", connection, detail=encode_sid(presented.sid))
            return Unknown(presented)
        except StoreUnavailable as error:
            self._events.emit("store_unavailable", connection, detail="fetch")
            return Unknown(presented, error)

    async def _decided(
        self, connection: Connection, channel: Channel[I], needs: NeedsRead[I], stored: Stored, outcome: Outcome
    ) -> State[I]:
        session = stored.session
        if not outcome.accepted:
            await self._sessions.reject(session, outcome, self._events.about(connection))
            return NO_ID
        identity = self._subjects.identity_in(session)
        presented = needs.known.presented
        if identity is None or self._reload or resumes(session, self._now(), self._sessions.policy):
            kept = await self.check_proof(connection, stored, merge=not self._reload)
            return NO_ID if kept is None else Recognized(presented, *kept, outcome, proven=True)
        if outcome is Outcome.CURRENT:
            channel.recognizer.keep(needs, stored, identity)
        return Recognized(presented, stored, identity, outcome)

    async def _one_of(self, connection: Connection, channel: Channel[I], values: Sequence[str]) -> State[I]:
        """Return the state of a request with several values of one cookie: row 13.

        A change of the cookie's ``domain`` or ``path`` leaves browsers with two cookies. The one with a live session
        counts. Of two values of one session the later generation counts: the earlier one is a leftover, not reuse.
        Invalid ids cost no read, so they cannot hide the user's own, however many there are.
        """
        now = self._now()
        newest: dict[bytes, Unchanged[I] | NeedsRead[I]] = {}
        for value in values:
            presence = channel.recognizer.recognize(value, now)
            if isinstance(presence, Anonymous):
                continue
            presented = _presented_in(presence)
            earlier = newest.get(presented.sid)
            if earlier is None and len(newest) == MAX_SESSIONS:
                continue
            if earlier is None or _presented_in(earlier).generation < presented.generation:
                newest[presented.sid] = presence
        if not newest:  # several values, and none of them is a valid id: report them once, not one by one
            self._events.emit("conflicting_ids", connection)
            return NO_ID
        live: list[Unchanged[I] | Recognized[I]] = []
        for presence in newest.values():
            seen: State[I] = presence
            if isinstance(presence, NeedsRead):
                seen = await self._read(connection, channel, presence)
            if isinstance(seen, Unknown) and seen.cause is not None:
                return seen
            if isinstance(seen, Unchanged | Recognized):
                live.append(seen)
        if not live:
            return NO_ID
        if len(live) == 1:
            return live[0]
        self._events.emit("conflicting_ids", connection)
        return SeveralLive(tuple(each.stored.session.sid for each in live))


def _presented_in(presence: Unchanged[Any] | NeedsRead[Any]) -> PresentedId:
    return presence.presented if isinstance(presence, Unchanged) else presence.known.presented
