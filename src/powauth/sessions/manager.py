"""`SessionManager`: carries out the decisions of `powauth.sessions.record` on the sessions in a store.

It knows only sessions: no users and no requests. It reports events to an `Emit`.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec

from powauth.backends.base import Change, Millis
from powauth.errors import NotSignedIn, StoreUnavailable
from powauth.events import EventName
from powauth.sessions.ids import PresentedId
from powauth.sessions.info import changed_metadata
from powauth.sessions.record import (
    Metadata,
    OnReuse,
    Outcome,
    Policy,
    Session,
    StoredKey,
    Subject,
    confirmed,
    decide,
    expires_at,
    forwarded,
    new_session,
    renewed,
    resumes,
)
from powauth.sessions.store import CredentialsCache, Stored, UnreadableRecord

RESPONSE_ATTEMPTS = 8
"""The most compare-and-sets that a response tries. Two losses are rare: after the first, it resends the winner's id."""

METADATA_ATTEMPTS = 16
"""The most attempts to change metadata while other writers are faster."""


class Emit(Protocol):
    """A function that emits an `Event`, for example about one request."""

    def __call__(
        self,
        name: EventName,
        session: Session | None = None,
        *,
        user_key: StoredKey | None = None,
        sid: bytes | None = None,
        detail: str | None = None,
    ) -> None:
        """Emit the event."""
        ...


class SessionManager:
    """Begins, continues, ends and lists sessions.

    Args:
        store: the store of the sessions.
        policy: the times of a session.
        on_reuse: whether reuse of an old id ends its session.
        max_sessions: the most sessions per user; a further one ends the oldest.
        now: the time in milliseconds.
    """

    def __init__(
        self,
        store: CredentialsCache,
        policy: Policy,
        on_reuse: OnReuse,
        max_sessions: int | None,
        now: Callable[[], Millis],
    ) -> None:
        self.store = store
        self.policy = policy
        self.on_reuse = on_reuse
        self.max_sessions = max_sessions
        self.now = now
        self._reads_everyone = False

    async def epoch_of_everyone(self) -> int:
        """Return the epoch of everyone for `begin`. Read it before the user.

        A store has none, unless everyone was revoked within `powauth.backends.base.EPOCH_LIFETIME`. So this reads the
        store only if the last sign-in of this process has found one.

        Raises:
            StoreUnavailable: if the store cannot be reached.
        """
        return await self.store.epoch_of_everyone(self.now()) if self._reads_everyone else 0

    async def begin(
        self,
        subject: Subject,
        epoch: int,
        metadata: Metadata,
        also: list[Change],
        *,
        everyone: int,
        remembered: bool,
        fresh: bool = True,
        amr: Mapping[str, Millis] | None = None,
    ) -> tuple[Stored | None, int]:
        """Make a session if the user's epoch is still ``epoch``. Return it, and how many changes of ``also`` were made.

        powauth adopts nothing from the client: sid and salt are new. If everyone was revoked since ``everyone`` was
        read, this ends the session again and returns ``None`` for it. No client has its id yet.

        Raises:
            StoreUnavailable: if the store cannot be reached.
        """
        now = self.now()
        owner = self.store.owner(subject.user_key)
        session = new_session(owner, subject, now, metadata, remembered=remembered, fresh=fresh, amr=amr)
        ends = expires_at(session, self.policy)
        made = await self.store.create(session, epoch, ends, now, also)
        if not made:
            return None, 0
        if not await self._revoked_meanwhile(session, everyone):
            return Stored(session, 0, ends), made - 1
        return None, made - 1

    async def _revoked_meanwhile(self, session: Session, everyone: int) -> bool:
        """Return whether everyone was revoked before a session began, but after ``everyone`` was read. Then end it.

        `end_everyone` advances the epoch first and then looks for sessions. So it finds a session that begins before
        this read, or this read finds the new epoch.
        """
        try:
            present = await self.store.epoch_of_everyone(self.now())
        except StoreUnavailable:
            with contextlib.suppress(StoreUnavailable):  # no client gets its id, so do not leave it in the store
                await self.store.delete(session.sid, self.now())
            raise
        self._reads_everyone = present != 0
        if present == everyone:
            return False
        await self.store.delete(session.sid, self.now())
        return True

    async def reject(self, session: Session, outcome: Outcome, emit: Emit) -> None:
        """Carry out an outcome that leaves the request anonymous: rows 2, 8, 9 and 11."""
        now = self.now()
        if outcome is Outcome.REUSE:
            if self.on_reuse == "revoke":
                await self.store.delete(session.sid, now)
            emit("reuse_detected", session, detail=self.on_reuse)
        elif outcome is Outcome.EXPIRED:
            await self.store.delete(session.sid, now)
            emit("expired", session)
        else:
            emit("unknown_id", session)

    async def carry_on(
        self, stored: Stored, presented: PresentedId, emit: Emit, *, proven: bool
    ) -> tuple[Stored, Session | None]:
        """Carry out at the response the decision of the request: rows 4 to 7 and 10.

        A request that loses a compare-and-set reads and decides again, so all requests end with the same id.

        If a remembered session has begun to pause during the request, the account was not loaded (``proven``), and no
        other request has resumed the session, this changes nothing. The next request loads the account, and resumes
        the session if its proof is still the user's.

        Returns:
            The session as it is now, and the session whose id is to be sent, if any. An id is sent only if its session
            was just seen alive: a late response must not overwrite the cookie of a new sign-in.
        """
        read_again = False
        try:
            for _ in range(RESPONSE_ATTEMPTS):
                now = self.now()
                session = stored.session
                outcome = decide(session, presented, now, self.policy)
                pauses = not proven and resumes(session, now, self.policy)
                if pauses and read_again:
                    return stored, None
                if outcome is Outcome.RESEND and read_again:
                    return stored, session
                changed = None if pauses else self._next(session, outcome, presented, now)
                if changed is None and outcome is not Outcome.RESEND and not pauses:
                    return stored, None
                if changed is not None:
                    done = await self.store.update(stored, changed, expires_at(changed, self.policy), now)
                    if done is not None:
                        return done, _told(emit, outcome, changed)
                again = await self.store.get_fresh(session.sid, now)
                if again is None:
                    return stored, None
                stored, read_again = again, True
        except StoreUnavailable:
            emit("store_unavailable", detail="respond")
        return stored, None

    def _next(self, session: Session, outcome: Outcome, presented: PresentedId, now: Millis) -> Session | None:
        if outcome is Outcome.RENEW:
            return renewed(session, now, self.policy)
        if outcome is Outcome.CONFIRM:
            return confirmed(session, now, self.policy)
        if outcome is Outcome.AHEAD:
            return forwarded(session, presented.generation, now, self.policy)
        return None

    async def seen_alive(self, session: Session, emit: Emit) -> bool:
        """Return whether a session that has just begun still exists. ``max_sessions`` may have ended it for a newer.

        Two sign-ins of one browser may overlap. The id of an ended session must not overwrite the other id.
        """
        if self.max_sessions is None:
            return True
        try:
            return await self.store.get_fresh(session.sid, self.now()) is not None
        except StoreUnavailable:
            # The store has just acknowledged the session. Send its id, or the client would lose the session.
            emit("store_unavailable", detail="respond")
            return True

    async def end_oldest(self, user_key: StoredKey, emit: Emit) -> None:
        """End the sessions over ``max_sessions``.

        Overlapping sign-ins all do so in the same order, so the last one leaves exactly the newest sessions.
        """
        if self.max_sessions is None:
            return
        for extra in (await self.live(user_key))[self.max_sessions :]:
            await self.store.delete(extra.session.sid, self.now())
            emit("revoked", extra.session, detail="over max_sessions")

    def in_force(self, stored: Stored) -> Stored:
        """Return a session with its end under the current policy. Its record may be written under longer times."""
        ends = min(stored.expires_at, expires_at(stored.session, self.policy))
        return msgspec.structs.replace(stored, expires_at=ends)

    async def live(self, user_key: StoredKey) -> list[Stored]:
        """Return the live sessions of a user, newest first."""
        now = self.now()
        found = map(self.in_force, await self.store.sessions(user_key, now))
        return [stored for stored in found if now < stored.expires_at]

    async def alive(self, session: Session) -> Stored | None:
        """Return a session as it is now; ``None`` if it has ended. This does not count as use: it renews nothing."""
        now = self.now()
        try:
            stored = await self.store.get(session.sid, now)
        except UnreadableRecord:
            return None
        if stored is None:
            return None
        current = PresentedId(session.sid, session.salt, stored.session.generation)
        return stored if decide(stored.session, current, now, self.policy).accepted else None

    async def end_one(self, user_key: StoredKey, sid: bytes, emit: Emit) -> bool:
        """End one session of a user, and return whether there was one. Another user's session counts as none."""
        now = self.now()
        try:
            found = await self.store.get(sid, now)
        except UnreadableRecord:
            found = None
        if found is None or found.session.user_key != user_key:
            return False
        existed = await self.store.delete(sid, now)
        emit("revoked", found.session)
        return existed

    async def end_all(
        self, user_key: StoredKey, emit: Emit, why: str, *, keep: Session | None = None, expected: bool = True
    ) -> int:
        """End all sessions of a user but ``keep``, and sign-ins in flight. Return how many ended.

        If no session is ``expected``, such as of a new user, it emits an event only if there was one.
        """
        ended = await self.store.delete_sessions(user_key, self.now(), None if keep is None else keep.sid)
        if expected or ended:
            emit("revoked", keep, user_key=user_key, detail=f"{why}: {ended}")
        return ended

    async def end_everyone(self, emit: Emit) -> int:
        """End all sessions of all users, and sign-ins in flight. Return how many ended. This reads every session once.

        Raises:
            StoreUnavailable: if any may still be live. Then try again.
        """
        await self.store.epoch_of_everyone(self.now(), advance=True)
        ended = 0
        async for key in self.store.users(self.now()):
            ended += await self.store.delete_sessions(key, self.now())
        emit("revoked", detail=f"everyone: {ended}")
        return ended

    async def change_metadata(self, stored: Stored, changes: Metadata) -> Stored:
        """Change the metadata of a session. ``None`` removes a key. Return the session as it is now.

        Raises:
            NotSignedIn: if the session has ended.
            MetadataTooLarge: if the metadata would be too large.
            TypeError: if a value is not of JSON's plain types.
        """
        found: Stored | None = stored
        for _ in range(METADATA_ATTEMPTS):
            if found is None:
                raise NotSignedIn("the session has ended")
            kept = changed_metadata(found.session.metadata, changes)
            session = msgspec.structs.replace(found.session, metadata=kept)
            done = await self.store.update(found, session, found.expires_at, self.now())
            if done is not None:
                return done
            found = await self.store.get_fresh(session.sid, self.now())
        raise StoreUnavailable("the session changed too fast to take the metadata; try again")


def _told(emit: Emit, outcome: Outcome, session: Session) -> Session | None:
    """Emit the event of a write. Return the session whose id is to be sent, if any."""
    if outcome is Outcome.RENEW:
        emit("renewed", session)
        return session
    if outcome is Outcome.AHEAD:
        emit("forwarded", session)
    return None
