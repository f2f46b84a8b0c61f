"""The session record and its life: pure functions of (record, presented id, now, policy).

Nothing here does I/O or reads a clock. `decide` says what a request that presents an id is to get; `renewed`,
`confirmed` and `forwarded` are the only ways in which a record's generation moves. The rows that outcomes are named
after are the table "The life of a session" in ``docs/design.md``.
"""

import binascii
import enum
import hmac
import re
import secrets
from typing import Annotated, Literal

import msgspec

from powauth.backends.base import Millis, shard_of
from powauth.sessions.keyring import MAC_BYTES, Mac

SHARD_BYTES = 2
SID_BYTES = SHARD_BYTES + 16
"""Two bytes of shard, then 128 random bits (ASVS 7.2.3)."""

SALT_BYTES = 16
"""128 random bits that only the client and the record hold."""

GENERATION_BYTES = 4
ID_BYTES = SID_BYTES + SALT_BYTES + GENERATION_BYTES + MAC_BYTES
ID_CHARS = ID_BYTES * 4 // 3
"""54 bytes are 72 characters of base64url exactly: no padding, no spare bits, so an id has one spelling."""

SID_CHARS = SID_BYTES * 4 // 3

_GENERATION_AT = SID_BYTES + SALT_BYTES
_MAC_AT = _GENERATION_AT + GENERATION_BYTES

MAX_GENERATION = 2 ** (8 * GENERATION_BYTES) - 1
"""The last generation; its id is not renewed."""

MAX_TIME: Millis = 2**47
"""The latest time that a record may hold: the year 6429, which a `datetime` can show."""

CLOCK_TOLERANCE: Millis = 300_000
"""How far a record may lie in the future, for machines whose clocks differ: five minutes."""

GRACE_STEPS = 4
"""The grace is remembered in steps of a quarter, so it lasts at most a quarter longer than asked."""

_SID = re.compile(rf"[A-Za-z0-9_-]{{{SID_CHARS}}}\Z")
_TO_STANDARD = bytes.maketrans(b"-_+/", b"+/!!")
"""The URL-safe alphabet as the standard one, whose own two characters become what no decoder takes: one spelling."""
_TO_URLSAFE = bytes.maketrans(b"+/", b"-_")

Metadata = dict[str, str | int | float | bool | None]
"""What an app keeps about a session: flat, of JSON's plain types."""


class PresentedId(msgspec.Struct, frozen=True, gc=False):
    """What a well-formed id says once its code has been verified."""

    sid: bytes
    salt: bytes
    generation: int

    def __repr__(self) -> str:  # without the salt: error reporters keep what local variables look like
        return f"<PresentedId {encode_sid(self.sid)} generation {self.generation}>"


Generation = Annotated[int, msgspec.Meta(ge=0, le=MAX_GENERATION)]
Instant = Annotated[Millis, msgspec.Meta(ge=0, le=MAX_TIME)]


class Policy(msgspec.Struct, frozen=True, gc=False):
    """The times that govern a session, in milliseconds.

    Attributes:
        ttl: from the last renewal to the end of an idle session.
        renewal: age of an id at which it is renewed; ``None`` is never.
        max_lifetime: from sign-in to the end, however busy the session is.
        grace: how long an id is still answered after its successor was first seen.
    """

    ttl: Millis
    renewal: Millis | None
    max_lifetime: Millis
    grace: Millis


class Session(msgspec.Struct, frozen=True, array_like=True, tag=1, forbid_unknown_fields=True, gc=False):
    """One session, as the store keeps it. The tag is the schema's version: another one does not decode.

    Nor does a value outside of its bounds, so that nothing a record may hold fails later, while a request is answered.

    Attributes:
        sid: names the session for its whole life; safe to log and to list.
        salt: secret between client and record.
        generation: counts the renewals.
        user_key: who; see `UsersContext.key`.
        created_at: when the session began; no renewal moves it.
        renewed_at: when the current generation was made.
        authenticated_at: when the user last proved who they are; no renewal moves it.
        settled: the highest generation whose first use lies longer back than the grace, or is no longer known.
        recent: (generation, time of its first use), ascending, for later ones; bounded (see `_with_confirmation`).
        metadata: the app's, and where the session was begun.
        user: the snapshot that the users context took.
    """

    sid: Annotated[bytes, msgspec.Meta(min_length=SID_BYTES, max_length=SID_BYTES)]
    salt: Annotated[bytes, msgspec.Meta(min_length=SALT_BYTES, max_length=SALT_BYTES)]
    generation: Generation
    user_key: Annotated[str, msgspec.Meta(min_length=1)]
    created_at: Instant
    renewed_at: Instant
    authenticated_at: Instant
    settled: Generation
    recent: Annotated[tuple[tuple[Generation, Instant], ...], msgspec.Meta(max_length=GRACE_STEPS + 2)]
    metadata: Metadata
    user: bytes

    def __repr__(self) -> str:
        return f"<Session {encode_sid(self.sid)} generation {self.generation}>"

    @property
    def confirmed(self) -> bool:
        """Whether the current generation has been presented."""
        return self.generation <= self.settled or (bool(self.recent) and self.recent[-1][0] >= self.generation)


class Outcome(enum.Enum):
    """What a presented id comes to; the numbers are rows of the table."""

    STRANGER = "the salt is not the record's, or the record lies in the future: anonymous, nothing touched (2)"
    CURRENT = "the user; nothing to write (3)"
    CONFIRM = "the user; the record is marked confirmed (4)"
    RENEW = "the user; the next generation is made (5)"
    RESEND = "the user; the current id is sent again (6, 7)"
    REUSE = "an old id came back after its grace: the session is revoked (8, 9)"
    AHEAD = "the user; the store had lost a write and is brought forward (10)"
    EXPIRED = "anonymous; the record is deleted (11)"

    @property
    def accepted(self) -> bool:
        """Whether the request is the user's."""
        return self in _ACCEPTED


_ACCEPTED = frozenset({Outcome.CURRENT, Outcome.CONFIRM, Outcome.RENEW, Outcome.RESEND, Outcome.AHEAD})

OnReuse = Literal["revoke", "reject"]


def new_session(owner: bytes, user_key: str, user: bytes, now: Millis, metadata: Metadata) -> Session:
    """A session that has just been signed in to: a new sid and salt from the system's generator, nothing adopted.

    Generation 0 has no predecessor, so nothing ever asks when it was confirmed: it counts as confirmed from the start.
    """
    return Session(
        sid=shard_of(owner) + secrets.token_bytes(SID_BYTES - SHARD_BYTES),
        salt=secrets.token_bytes(SALT_BYTES),
        generation=0,
        user_key=user_key,
        created_at=now,
        renewed_at=now,
        authenticated_at=now,
        settled=0,
        recent=(),
        metadata=metadata,
        user=user,
    )


def expires_at(session: Session, policy: Policy) -> Millis:
    """When the session ends if it is not renewed."""
    idle, oldest = session.renewed_at + policy.ttl, session.created_at + policy.max_lifetime
    return min(oldest, idle)


def decide(session: Session, presented: PresentedId, now: Millis, policy: Policy) -> Outcome:
    """What a request that presents ``presented`` at ``now`` comes to. The id's code must have been verified."""
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
    for generation, first_used_at in session.recent:
        if generation >= successor:
            return Outcome.RESEND if now - first_used_at <= policy.grace else Outcome.REUSE
    return Outcome.RESEND


def current_between(session: Session, policy: Policy) -> tuple[Millis, Millis]:
    """From when on, and until when, `decide` says `Outcome.CURRENT` of what it has once said it of."""
    until = expires_at(session, policy)
    if policy.renewal is not None and session.generation < MAX_GENERATION:
        until = min(until, session.renewed_at + policy.renewal)
    return session.created_at - CLOCK_TOLERANCE, until


def confirmed(session: Session, now: Millis, policy: Policy) -> Session:
    """The record once its current generation has been presented."""
    settled, recent = _with_confirmation(session, now, policy.grace)
    return msgspec.structs.replace(session, settled=settled, recent=recent)


def renewed(session: Session, now: Millis, policy: Policy) -> Session:
    """The record's next generation, unconfirmed; the present one is confirmed, for it was just presented."""
    settled, recent = _with_confirmation(session, now, policy.grace)
    return msgspec.structs.replace(
        session, generation=session.generation + 1, renewed_at=now, settled=settled, recent=recent
    )


def forwarded(session: Session, generation: int, now: Millis, policy: Policy) -> Session:
    """The record brought forward to a generation whose making the store has lost; that generation is confirmed now.

    When the lost generations between were first used nobody knows any more: they count as first used now.
    """
    moved = msgspec.structs.replace(session, generation=generation, renewed_at=now)
    return confirmed(moved, now, policy)


def _with_confirmation(session: Session, now: Millis, grace: Millis) -> tuple[int, tuple[tuple[int, Millis], ...]]:
    """``settled`` and ``recent`` with the current generation's first use noted, if it is not yet.

    First uses in the same step of the grace are kept as one, the last, and those older than the grace settle: so
    there are never more than `GRACE_STEPS` + 2 of them, however often the session is renewed, and none is ever taken
    for older than it is. Times that a clock set back has left in the future count from now.
    """
    settled = session.settled
    step = max(1, -(-grace // GRACE_STEPS))
    recent: list[tuple[int, Millis]] = []
    uses = session.recent if session.confirmed else (*session.recent, (session.generation, now))
    for generation, noted_at in uses:
        first_used_at = min(noted_at, now)
        if now - first_used_at > grace:
            settled, recent = generation, []
        elif recent and recent[-1][1] // step == first_used_at // step:
            recent[-1] = (generation, max(first_used_at, recent[-1][1]))
        else:
            recent.append((generation, first_used_at))
    return settled, tuple(recent)


def encode_id(session: Session, mac: Mac, prefix: str = "") -> str:
    """The id that the client holds for the record's current generation: determined by record and key.

    Every process that hands out this generation's id hands out the same one.
    """
    body = session.sid + session.salt + session.generation.to_bytes(GENERATION_BYTES)
    return prefix + _b64(body + mac.sign(body))


def decode_id(value: str, mac: Mac, prefix: str = "") -> PresentedId | None:
    """What an id says, or ``None`` for anything that is not exactly an id that `encode_id` made with one of the keys.

    Does no I/O, raises nothing, and looks no further than the length of a value that is too long.
    """
    if prefix:
        if not value.startswith(prefix):
            return None
        value = value[len(prefix) :]
    if len(value) != ID_CHARS:
        return None
    try:
        raw = binascii.a2b_base64(value.encode("ascii").translate(_TO_STANDARD), strict_mode=True)
    except ValueError:  # characters that no id has; a lone surrogate among them
        return None
    body = raw[:_MAC_AT]
    if not mac.verify(body, raw[_MAC_AT:]):
        return None
    return PresentedId(raw[:SID_BYTES], raw[SID_BYTES:_GENERATION_AT], int.from_bytes(raw[_GENERATION_AT:_MAC_AT]))


def encode_sid(sid: bytes) -> str:
    """The sid as people and programs may see it: 24 characters."""
    return _b64(sid)


def decode_sid(value: object) -> bytes | None:
    """The sid that `encode_sid` spelled, or ``None``."""
    if not isinstance(value, str) or not _SID.match(value):
        return None
    return binascii.a2b_base64(value.encode().translate(_TO_STANDARD))


def _b64(raw: bytes) -> str:
    return binascii.b2a_base64(raw, newline=False).translate(_TO_URLSAFE).decode()
