"""`Signer`: signs accounts in and out on a request, and makes the changes to its response."""

import contextlib
from collections.abc import Callable
from itertools import chain
from typing import Any, Generic

import msgspec

from powauth.accounts.base import Account, UsersContext
from powauth.accounts.grant import Grant, times_of
from powauth.accounts.identity import I, stored_key
from powauth.accounts.records import Attempt
from powauth.accounts.service import SIGN_IN_ATTEMPTS
from powauth.accounts.throttle import UNCOUNTED
from powauth.backends.base import EPOCH_LIFETIME, Millis
from powauth.errors import ConfigError, StoreUnavailable
from powauth.http.carriers import BearerCarrier
from powauth.http.connection import NO_EFFECTS, Connection, Effects
from powauth.http.metadata import MetadataSource
from powauth.plug.event_log import EventLog
from powauth.plug.reader import Channel, RequestReader
from powauth.plug.subjects import Subjects
from powauth.sessions.ids import encode_sid
from powauth.sessions.info import checked_metadata
from powauth.sessions.manager import SessionManager
from powauth.sessions.presence import Began, Ended, Recognized, State, sids_in, stored_in
from powauth.sessions.recognition import NeedsRead
from powauth.sessions.record import Metadata, Outcome, Session, StoredKey, expires_at
from powauth.sessions.store import Stored


class Signer(Generic[I]):
    """Signs accounts in and out.

    Args:
        reader: the state of requests.
        sessions: begins and continues sessions.
        subjects: turns accounts into the fields of records.
        users: reads accounts again.
        events: emits them to the log and the app's listener.
        metadata: returns the metadata of a new session.
        now: the time in milliseconds.
    """

    def __init__(
        self,
        reader: RequestReader[I],
        sessions: SessionManager,
        subjects: Subjects[I],
        users: UsersContext[Any, I],
        events: EventLog,
        metadata: MetadataSource | None,
        now: Callable[[], Millis],
    ) -> None:
        self._reader = reader
        self._channels = reader.channels
        self._sessions = sessions
        self._store = sessions.store
        self._subjects = subjects
        self._users = users
        self._events = events
        self._metadata = metadata
        self._now = now

    # --- signing in ---------------------------------------------------------------------------------------------------

    async def create(self, connection: Connection, account: Account[I], grant: Grant) -> Account[I] | None:
        """Make a session for an account; see `SessionAuth.create`."""
        channel = self._channel_for(connection, grant)
        replaced = await self._replaced_by(connection, channel)
        key = stored_key(account.key)
        remembered = self._to_remember(grant, key, replaced)
        channel.carrier.prepare(connection, self._subjects.mark(account.key))
        begun = await self._begin(connection, account, grant, remembered=remembered)
        if begun is None:
            return None
        stored, current = begun
        try:
            for sid in chain.from_iterable(map(sids_in, replaced)):
                await self._store.delete(sid, self._now())
            await self._sessions.end_oldest(key, self._events.about(connection))
        except StoreUnavailable:
            with contextlib.suppress(StoreUnavailable):  # no client gets its id, so do not leave it in the store
                await self._store.delete(stored.session.sid, self._now())
            raise
        self._reader.set_presence(connection, Began(stored, current.identity, channel.position))
        self._events.emit("signed_in", connection, stored.session)
        return current

    async def with_epoch(self, account: Account[I], grant: Grant) -> tuple[Account[I], Grant] | None:
        """Read the epoch of a user's sessions, then the account. Return the account, and the grant with the epoch.

        This is for a sign-in whose hooks take time. Return ``None`` if the account is gone or locked, or lost the proof
        that was checked.

        Raises:
            StoreUnavailable: if the store or the users cannot be reached.
        """
        attempt, begun = grant.attempt or Attempt(), self._now()
        everyone = await self._sessions.epoch_of_everyone()
        epoch = await self._store.epoch(stored_key(account.key), begun)
        current = await self._read_again(account, same_proof=grant.same_proof)
        if current is None:
            return None
        attempt = msgspec.structs.replace(attempt, begun=begun, epoch=epoch, everyone=everyone)
        return current, msgspec.structs.replace(grant, attempt=attempt, once=True)

    async def _begin(
        self, connection: Connection, account: Account[I], grant: Grant, *, remembered: bool
    ) -> tuple[Stored, Account[I]] | None:
        """Make the session, if the epoch that was read before the account is still valid.

        The first try uses the latest epoch of all users, if the attempt has one: it was read before the look-up of the
        user. Later tries read the user's own epoch, then the account.
        """
        attempt = grant.attempt or Attempt()
        begun, epoch, everyone, admission = attempt.begun, attempt.epoch, attempt.everyone, attempt.admission
        metadata = self._metadata_of(connection)
        for _ in range(SIGN_IN_ATTEMPTS):
            current: Account[I] | None = account if account.active is True else None
            if epoch is None:
                begun, everyone = self._now(), await self._sessions.epoch_of_everyone()
                epoch = await self._store.epoch(stored_key(account.key), begun)
                current = await self._read_again(account, same_proof=grant.same_proof)
            if current is None:
                return None
            if self._now() - begun <= EPOCH_LIFETIME // 2:
                # Only in one transaction: once the session exists, the counters must not fail the sign-in.
                also = admission.success_changes() if self._store.transactional else []
                subject = self._subjects.subject(current)
                stored, made_too = await self._sessions.begin(
                    subject,
                    epoch,
                    metadata,
                    also,
                    everyone=everyone,
                    remembered=remembered,
                    fresh=grant.fresh,
                    amr=times_of(grant),
                )
                if stored is not None:
                    if also:
                        admission.note_made(made_too)
                    return stored, current
            if grant.once:
                return None
            epoch, admission = None, UNCOUNTED
        raise StoreUnavailable("the user's sessions were revoked again and again during the sign-in; try again")

    async def _replaced_by(self, connection: Connection, channel: Channel[I]) -> list[State[I]]:
        """Return the states that a sign-in replaces: a session that the request began, and the one on the channel.

        A request begins one session at most, so a second sign-in ends the session of the first, on any carrier. A
        response sends only one id. The list of the user's sessions would otherwise show one that no client can use.

        Raises:
            StoreUnavailable: if the present session cannot be determined.
        """
        presence = self._reader.presence(connection)
        if isinstance(presence, Began | Ended):
            if presence.channel == channel.position:
                return [presence]  # it has replaced the session presented there
            return [presence, await self._reader.state_on(connection, channel)]
        if channel is self._reader.channel_of(connection):
            return [await self._reader.known_or_read(connection)]
        return [await self._reader.state_on(connection, channel)]

    def _own_channel(self, connection: Connection) -> Channel[I]:
        """Return the channel of a request's session: the one where it began or ended, or the one in use."""
        presence = self._reader.presence(connection)
        if isinstance(presence, Began | Ended):
            return self._channels[presence.channel]
        return self._reader.channel_of(connection)

    def _channel_for(self, connection: Connection, grant: Grant) -> Channel[I]:
        """Return the channel for a new session."""
        if grant.bearer is None:
            return self._own_channel(connection)
        channel = self._channels[-1 if grant.bearer else 0]
        if grant.bearer and not isinstance(channel.carrier, BearerCarrier):
            raise ConfigError("bearer=True needs SessionAuth(carrier=AnyOf(CookieCarrier(), BearerCarrier()))")
        return channel

    def _to_remember(self, grant: Grant, key: StoredKey, replaced: list[State[I]]) -> bool:
        """Return whether to remember a new session: as the grant says, or as the user's replaced session was."""
        offered = self._sessions.policy.remembered is not None
        if grant.remember is None:
            sessions = [stored.session for stored in map(stored_in, replaced) if stored is not None]
            return offered and any(before.remembered and before.user_key == key for before in sessions)
        if grant.remember and not offered:
            raise ConfigError("remember=True needs SessionAuth(remember=Remember())")
        return grant.remember

    async def _read_again(self, account: Account[I], *, same_proof: bool) -> Account[I] | None:
        """Return an account as it is now; ``None`` if it is gone or locked, or lost the proof that was checked."""
        current = await self._users.get(account.key)
        if not isinstance(current, Account) or current.active is not True:
            return None
        return current if not same_proof or current.proof == account.proof else None

    def _metadata_of(self, connection: Connection) -> Metadata:
        if self._metadata is None:
            return {}
        return checked_metadata({"first_seen": self._now(), **self._metadata(connection)})

    # --- signing out --------------------------------------------------------------------------------------------------

    async def delete(self, connection: Connection) -> None:
        """End a request's session; see `SessionAuth.delete`."""
        presence = self._reader.presence(connection)
        if presence is None or isinstance(presence, NeedsRead):
            try:
                presence = await self._reader.known_or_read(connection)
            except StoreUnavailable:
                presence = self._reader.presence(connection)
        channel = self._own_channel(connection)
        sids, stored = sids_in(presence), stored_in(presence)
        self._reader.set_presence(connection, Ended(channel.position, sids))
        channel.carrier.forget(connection)
        if not sids:
            return
        for sid in sids:
            try:
                await self._store.delete(sid, self._now())
            except StoreUnavailable:
                self._events.emit("sign_out_failed", connection, detail=encode_sid(sid))
                raise
        self._reader.set_presence(connection, Ended(channel.position))
        self._events.emit("signed_out", connection, None if stored is None else stored.session)

    # --- the response -------------------------------------------------------------------------------------------------

    async def respond(self, connection: Connection, *, failed: bool) -> Effects:
        """Return the changes to a response; see `SessionAuth.respond`."""
        effects = await self._respond(connection, failed=failed)
        cookies = self._reader.cookies_noted(connection)
        return effects._replace(cookies=(*effects.cookies, *cookies), no_store=True) if cookies else effects

    async def _respond(self, connection: Connection, *, failed: bool) -> Effects:
        presence = self._reader.presence(connection)
        if isinstance(presence, Ended):
            return self._channels[presence.channel].carrier.clear(connection)
        if failed:
            return NO_EFFECTS
        emit = self._events.about(connection)
        if isinstance(presence, Began):
            session = presence.stored.session
            alive = await self._sessions.seen_alive(session, emit)
            return self._sent(connection, self._channels[presence.channel], session) if alive else NO_EFFECTS
        if isinstance(presence, Recognized) and presence.outcome is not Outcome.CURRENT:
            carried = self._sessions.carry_on(presence.stored, presence.presented, emit, proven=presence.proven)
            stored, to_send = await carried
            self._reader.set_presence(connection, msgspec.structs.replace(presence, stored=stored))
            if to_send is not None:
                return self._sent(connection, self._reader.channel_of(connection), to_send)
        return NO_EFFECTS

    def _sent(self, connection: Connection, channel: Channel[I], session: Session) -> Effects:
        policy, max_age = self._sessions.policy, None
        if session.remembered and policy.remembered is not None:
            max_age = max(1, (expires_at(session, policy) - self._now()) // 1000)
        value = channel.ids.encode(session.sid, session.salt, session.generation)
        return channel.carrier.write(connection, value, max_age)

    def access_token(self, connection: Connection) -> str:
        """Return the bearer token of a session that began in this request; see `SessionAuth.access_token`."""
        presence = self._reader.presence(connection)
        if isinstance(presence, Began):
            channel, session = self._channels[presence.channel], presence.stored.session
            if isinstance(channel.carrier, BearerCarrier):
                value = channel.ids.encode(session.sid, session.salt, session.generation)
                return channel.carrier.token(value)
        raise ConfigError(
            "there is a token only for a session that began in this request, with bearer=True: check that the sign-in "
            "did not return None (wrong credentials, or a user who is locked or not yet committed)"
        )
