"""Who is present: the state of one request, as a tagged union.

A request begins with what `Recognizer.recognize` says. A read, a sign-in or a sign-out replaces its state.

Each state answers the questions that every request asks, so that none of them has to tell the states apart:

- ``identity`` and ``stored``: the user, and the session by which the user is signed in; ``None`` if nobody is.
- ``is_due``: the response has something to do, which is a session to carry on, to begin or to end.
- ``needs_read``: the store must be read before anybody can tell who the user is.
"""

from typing import ClassVar, Generic, TypeVar

import msgspec

from powauth.backends.base import Millis
from powauth.errors import StoreUnavailable
from powauth.sessions.ids import PresentedId
from powauth.sessions.recognition import Anonymous, NeedsRead, Unchanged
from powauth.sessions.record import Outcome
from powauth.sessions.store import Stored

I = TypeVar("I")  # noqa: E741 - the identity


class Recognized(msgspec.Struct, Generic[I], frozen=True):
    """The request is a user's, as its record was just read.

    Attributes:
        presented: the id.
        stored: the session.
        identity: the user's identity.
        outcome: what to do at the response.
    """

    presented: PresentedId
    stored: Stored
    identity: I
    outcome: Outcome

    needs_read: ClassVar[bool] = False

    __repr__ = object.__repr__  # error reporters record what local variables look like

    @property
    def is_due(self) -> bool:
        """Whether the session is carried on at the response."""
        return self.outcome is not Outcome.CURRENT


class Unknown(msgspec.Struct, frozen=True):
    """The id is valid, and nobody can tell whether it has a session: the record could not be read.

    Attributes:
        presented: the id.
        cause: why, if the store did not answer. A record without a readable session has no cause: it counts as absent.
    """

    presented: PresentedId
    cause: StoreUnavailable | None = None

    is_due: ClassVar[bool] = False
    stored: ClassVar[None] = None
    identity: ClassVar[None] = None

    @property
    def needs_read(self) -> bool:
        """Whether another read may help: the store did not answer."""
        return self.cause is not None


class SeveralLive(msgspec.Struct, frozen=True):
    """Several live sessions are presented under one name, so the request is nobody's.

    Attributes:
        sids: the sessions. A sign-in or a sign-out ends them all: otherwise the browser would go on to send both.
    """

    sids: tuple[bytes, ...]

    needs_read: ClassVar[bool] = False
    is_due: ClassVar[bool] = False
    stored: ClassVar[None] = None
    identity: ClassVar[None] = None


class Began(msgspec.Struct, Generic[I], frozen=True):
    """The user signed in during this request.

    Attributes:
        stored: the new session.
        identity: the user's identity.
        channel: the position of the carrier that the id is for.
    """

    stored: Stored
    identity: I
    channel: int

    needs_read: ClassVar[bool] = False
    is_due: ClassVar[bool] = True

    __repr__ = object.__repr__


class Ended(msgspec.Struct, frozen=True):
    """The user signed out during this request.

    Attributes:
        channel: the position of the carrier that the client's id is taken from.
        sids: the sessions that may live on, because the store did not answer.
    """

    channel: int
    sids: tuple[bytes, ...] = ()

    needs_read: ClassVar[bool] = False
    is_due: ClassVar[bool] = True
    stored: ClassVar[None] = None
    identity: ClassVar[None] = None


Presence = Anonymous | Unchanged[I] | NeedsRead[I] | Recognized[I] | Unknown | SeveralLive | Began[I] | Ended


def stored_in(presence: Presence[I] | None) -> Stored | None:
    """Return the session by which the request's user is signed in."""
    return None if presence is None else presence.stored


def sids_in(presence: Presence[I] | None) -> tuple[bytes, ...]:
    """Return the sids of the sessions that the request has, or may have if their records could not be seen.

    The request must have been looked at: of a `NeedsRead` nobody knows anything yet.
    """
    if isinstance(presence, Unchanged | Recognized | Began):
        return (presence.stored.session.sid,)
    if isinstance(presence, Unknown):
        return (presence.presented.sid,)
    return presence.sids if isinstance(presence, SeveralLive | Ended) else ()


def last_moment(presence: Presence[I] | None) -> Millis | None:
    """Return when the session ends by the record as it was last read; ``None`` if there is none."""
    stored = stored_in(presence)
    return None if stored is None else stored.expires_at
