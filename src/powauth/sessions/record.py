"""The session record and its life: pure functions of (record, presented id, now, policy).

Nothing here does I/O or reads a clock. `decide` returns the action for a request that presents an id. Only `renewed`,
`confirmed` and `forwarded` change a record's generation or its confirmations. The numbers of outcomes are the rows of
the table "The life of a session" in ``docs/design.md``.
"""

import enum
import hmac
import secrets
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

import msgspec

from powauth.backends.base import Millis, shard_of
from powauth.sessions.ids import MAX_GENERATION, SALT_BYTES, SHARD_BYTES, SID_BYTES, PresentedId, encode_sid

MAX_TIME: Millis = 2**47
"""The latest time that a record may hold: the year 6429, which a `datetime` can show."""

CLOCK_TOLERANCE: Millis = 300_000
"""Five minutes: how far a record may lie in the future, for machines whose clocks differ."""

GRACE_STEPS = 4
"""Confirmation times are kept in steps of a quarter of the grace, so the grace lasts at most a quarter longer."""

MAX_PROOFS = 2
"""A record holds the proof of the present password hash, and of a stronger hash that is about to be written."""

Metadata = dict[str, str | int | float | bool | None]
"""The values that an app keeps about a session: flat, of JSON's plain types."""

StoredKey = int | str | bytes
"""The key of a user as a record holds it, in MessagePack's own types. A UUID is its 16 bytes."""

Methods = dict[str, Millis]
"""Ways in which a user has proven who they are, such as ``"pwd"`` and ``"otp"`` (RFC 8176), with the time of each."""

Generation = Annotated[int, msgspec.Meta(ge=0, le=MAX_GENERATION)]
Instant = Annotated[Millis, msgspec.Meta(ge=0, le=MAX_TIME)]

OnReuse = Literal["revoke", "reject"]


def key_text(key: StoredKey) -> str:
    """Return a user's key as text: for owners of records, events and the command line.

    >>> key_text(7), key_text("ann"), key_text(bytes(16))
    ('7', 'ann', '00000000000000000000000000000000')
    """
    return key.hex() if isinstance(key, bytes) else str(key)


class Remembered(msgspec.Struct, frozen=True, gc=False):
    """The times of remembered sessions, in milliseconds; see `Policy`."""

    ttl: Millis
    max_lifetime: Millis


class Policy(msgspec.Struct, frozen=True, gc=False):
    """The times that govern a session, in milliseconds.

    Attributes:
        ttl: from the last renewal to the end of an idle session.
        renewal: age of an id at which it is renewed; ``None`` means never.
        max_lifetime: from sign-in to the end, even in constant use.
        grace: how long an id is still accepted after its successor was first presented.
        remembered: the longer times of remembered sessions; ``None`` gives them the times of all others.
    """

    ttl: Millis
    renewal: Millis | None
    max_lifetime: Millis
    grace: Millis
    remembered: Remembered | None = None


class Session(msgspec.Struct, frozen=True, array_like=True, tag=2, forbid_unknown_fields=True, gc=False):
    """One session, as the store keeps it. The tag is the version of the schema: another version does not decode.

    A value outside of its bounds does not decode either, so nothing in a record can fail later, during a request.

    Attributes:
        sid: names the session for its whole life; safe to log and to list.
        salt: secret between client and record.
        generation: counts the renewals.
        user_key: the user's key, a `StoredKey`. msgspec cannot decode that union, so the store checks the type.
        proofs: keyed hashes of the user's proof. A user with another proof has changed the password or the user id.
        created_at: when the session began; no renewal moves it.
        renewed_at: when the current generation was made.
        authenticated_at: when the user last proved who they are: by a password, a passkey, or the app's own means. No
            renewal moves it. 0 if powauth does not know.
        settled: the highest generation that was confirmed longer ago than the grace, or at a time no longer known.
        recent: (generation, time of its confirmation), ascending, for later ones; bounded (see `_with_confirmation`).
        remembered: whether the session outlives the browser's own; see `Policy.remembered`.
        resumed_at: when a remembered session was last used again after more than the short ttl.
        metadata: the app's own values, and the origin of the sign-in.
        names: a hash of the field names with which ``identity`` was written.
        identity: the identity as an encoded map.
        amr: the ways in which the user has proven who they are, for this session. No renewal moves the times.
    """

    sid: Annotated[bytes, msgspec.Meta(min_length=SID_BYTES, max_length=SID_BYTES)]
    salt: Annotated[bytes, msgspec.Meta(min_length=SALT_BYTES, max_length=SALT_BYTES)]
    generation: Generation
    user_key: Any
    proofs: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=MAX_PROOFS)]
    created_at: Instant
    renewed_at: Instant
    authenticated_at: Instant
    settled: Generation
    recent: Annotated[tuple[tuple[Generation, Instant], ...], msgspec.Meta(max_length=GRACE_STEPS + 2)]
    remembered: bool
    resumed_at: Instant
    metadata: Metadata
    names: bytes
    identity: bytes
    amr: dict[str, Instant] = {}

    def __repr__(self) -> str:
        return f"<Session {encode_sid(self.sid)} generation {self.generation}>"

    @property
    def confirmed(self) -> bool:
        """True if the current generation has been presented."""
        return self.generation <= self.settled or (bool(self.recent) and self.recent[-1][0] >= self.generation)


class Outcome(enum.Enum):
    """The action for a request that presents an id. The numbers are rows of the table."""

    STRANGER = "the salt is not the record's, or the record lies in the future: anonymous, nothing touched (2)"
    CURRENT = "the user; nothing to write (3)"
    CONFIRM = "the user; the record is marked confirmed (4)"
    RENEW = "the user; the next generation is made (5)"
    RESEND = "the user; the current id is sent again (6, 7)"
    REUSE = "anonymous: an old id came back after its grace, and on_reuse says what happens to the session (8, 9)"
    AHEAD = "the user; the store had lost a write and is brought forward (10)"
    EXPIRED = "anonymous; the record is deleted (11)"

    @property
    def accepted(self) -> bool:
        """True if the request counts as the user's."""
        return self in _ACCEPTED


_ACCEPTED = frozenset({Outcome.CURRENT, Outcome.CONFIRM, Outcome.RENEW, Outcome.RESEND, Outcome.AHEAD})


class Subject(msgspec.Struct, frozen=True, gc=False):
    """The user of a session, as the session layer knows them. See the fields of `Session`."""

    user_key: StoredKey
    proof: bytes
    names: bytes
    identity: bytes

    __repr__ = object.__repr__


def new_session(
    owner: bytes,
    subject: Subject,
    now: Millis,
    metadata: Metadata,
    *,
    remembered: bool = False,
    fresh: bool = True,
    amr: Mapping[str, Millis] | None = None,
) -> Session:
    """Make the session of a sign-in, with a new sid and salt from the system's random generator.

    Generation 0 has no predecessor, so its confirmation time is never needed: it counts as confirmed from the start.
    Without ``fresh`` the user has not proven who they are just now, and no `is_fresh` accepts the session.
    """
    return Session(
        sid=shard_of(owner) + secrets.token_bytes(SID_BYTES - SHARD_BYTES),
        salt=secrets.token_bytes(SALT_BYTES),
        generation=0,
        user_key=subject.user_key,
        proofs=(subject.proof,),
        created_at=now,
        renewed_at=now,
        authenticated_at=now if fresh else 0,
        settled=0,
        recent=(),
        remembered=remembered,
        resumed_at=now,
        metadata=metadata,
        names=subject.names,
        identity=subject.identity,
        amr=dict(amr or {}),
    )


def stale(session: Session) -> Session:
    """Return the record without its identity. The next request reads the user, and compares the proof.

    Values that workers of other versions stored are out of date, too, so all of them go.
    """
    return msgspec.structs.replace(session, names=b"", identity=b"")


def expires_at(session: Session, policy: Policy) -> Millis:
    """Return the time at which the session ends if it is not renewed."""
    times: Policy | Remembered = policy
    if session.remembered and policy.remembered is not None:
        times = policy.remembered
    return min(session.created_at + times.max_lifetime, session.renewed_at + times.ttl)


def resumes(session: Session, now: Millis, policy: Policy) -> bool:
    """Return whether the session lives only because it is remembered: it was idle for longer than the short ttl."""
    return session.remembered and policy.remembered is not None and now - session.renewed_at >= policy.ttl


def is_fresh(
    session: Session, within: Millis, now: Millis, policy: Policy, methods: Collection[str] | None = None
) -> bool:
    """Return whether the user proved who they are at most ``within`` ago, and the session has not paused since.

    With ``methods``, the user must also have proven one of them within that time.
    """
    if resumes(session, now, policy) or session.resumed_at > session.authenticated_at:
        return False
    times = [session.authenticated_at]
    if methods is not None:
        times.append(max((session.amr.get(method, 0) for method in methods), default=0))
    return all(-CLOCK_TOLERANCE <= now - time <= within for time in times)


def decide(session: Session, presented: PresentedId, now: Millis, policy: Policy) -> Outcome:
    """Return the action for a request that presents an id at ``now``. The id's MAC must have been verified."""
    if not hmac.compare_digest(session.salt, presented.salt):
        return Outcome.STRANGER
    if now >= expires_at(session, policy):
        return Outcome.EXPIRED
    if session.created_at > now + CLOCK_TOLERANCE:
        return Outcome.STRANGER
    if presented.generation == session.generation:
        renewal = policy.renewal
        if renewal is not None and now - session.renewed_at >= renewal and session.generation < MAX_GENERATION:
            return Outcome.RENEW
        return Outcome.CURRENT if session.confirmed else Outcome.CONFIRM
    if presented.generation > session.generation:
        return Outcome.AHEAD
    successor = presented.generation + 1
    if successor <= session.settled:
        return Outcome.REUSE
    for generation, confirmed_at in session.recent:
        if generation >= successor:
            return Outcome.RESEND if now - confirmed_at <= policy.grace else Outcome.REUSE
    return Outcome.RESEND


def current_between(session: Session, policy: Policy) -> tuple[Millis, Millis]:
    """Return the times between which `decide` returns `Outcome.CURRENT`, once it has returned that."""
    until = expires_at(session, policy)
    if policy.renewal is not None and session.generation < MAX_GENERATION:
        until = min(until, session.renewed_at + policy.renewal)
    return session.created_at - CLOCK_TOLERANCE, until


def confirmed(session: Session, now: Millis, policy: Policy) -> Session:
    """Return the record with its current generation confirmed: it was just presented."""
    settled, recent = _with_confirmation(session, now, policy.grace)
    return msgspec.structs.replace(session, settled=settled, recent=recent)


def renewed(session: Session, now: Millis, policy: Policy) -> Session:
    """Return the record's next generation, unconfirmed. The present one is confirmed: it was just presented."""
    settled, recent = _with_confirmation(session, now, policy.grace)
    return msgspec.structs.replace(
        session,
        generation=session.generation + 1,
        renewed_at=now,
        resumed_at=now if resumes(session, now, policy) else session.resumed_at,
        settled=settled,
        recent=recent,
    )


def forwarded(session: Session, generation: int, now: Millis, policy: Policy) -> Session:
    """Return the record at a later generation, whose write the store has lost. That generation is confirmed now.

    The confirmation times of the lost generations in between are unknown, so these also count as confirmed now.
    """
    resumed_at = now if resumes(session, now, policy) else session.resumed_at
    moved = msgspec.structs.replace(session, generation=generation, renewed_at=now, resumed_at=resumed_at)
    return confirmed(moved, now, policy)


def _with_confirmation(session: Session, now: Millis, grace: Millis) -> tuple[int, tuple[tuple[int, Millis], ...]]:
    """Return ``settled`` and ``recent`` with the current generation's confirmation, if they lack it.

    Of the confirmations in one step of the grace, only the last is kept. Those older than the grace move to
    ``settled``. So ``recent`` has at most `GRACE_STEPS` + 2 entries, however often the session is renewed, and no
    confirmation counts as older than it is. A time in the future, because a clock was set back, counts as now.
    """
    settled = session.settled
    step = max(1, -(-grace // GRACE_STEPS))
    recent: list[tuple[int, Millis]] = []
    times = session.recent if session.confirmed else (*session.recent, (session.generation, now))
    for generation, noted_at in times:
        confirmed_at = min(noted_at, now)
        if now - confirmed_at > grace:
            settled, recent = generation, []
        elif recent and recent[-1][1] // step == confirmed_at // step:
            recent[-1] = (generation, max(confirmed_at, recent[-1][1]))
        else:
            recent.append((generation, confirmed_at))
    return settled, tuple(recent)
