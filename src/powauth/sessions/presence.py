"""The state of one request, as a tagged union.

`Recognizer.recognize` returns the first state of a request. A read, a sign-in or a sign-out replaces it.

All states have these attributes, so that most code need not distinguish the states:

- ``identity`` and ``stored``: the user, and the session by which the user is signed in; ``None`` if nobody is.
- ``is_due``: the response must continue, begin or end a session.
- ``needs_read``: the user is unknown until the store is read.

The last two are fields with a default. Every request reads them, and Python finds a field faster than a class variable.
"""

from collections.abc import Mapping
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
    """The request belongs to a user, by the record that was just read.

    Attributes:
        presented: the id.
        stored: the session.
        identity: the user's identity.
        outcome: the action at the response.
        proven: whether the account was loaded, and its proof compared.
    """

    presented: PresentedId
    stored: Stored
    identity: I
    outcome: Outcome
    proven: bool = False

    needs_read: bool = False

    __repr__ = object.__repr__  # error reporters record the repr of local variables

    @property
    def is_due(self) -> bool:
        """True if the response must continue the session."""
        return self.outcome is not Outcome.CURRENT


class Unknown(msgspec.Struct, frozen=True):
    """The id is valid, but it is unknown whether it has a session: the record could not be read.

    Attributes:
        presented: the id.
        cause: the error, if the store did not answer. An unreadable record has no cause: it counts as absent.
    """

    presented: PresentedId
    cause: StoreUnavailable | None = None

    is_due: bool = False
    stored: ClassVar[None] = None
    identity: ClassVar[None] = None

    @property
    def needs_read(self) -> bool:
        """True if another read may help, because the store did not answer."""
        return self.cause is not None


class SeveralLive(msgspec.Struct, frozen=True):
    """The request presents several live sessions under one name, so it is anonymous.

    Attributes:
        sids: the sessions. A sign-in or a sign-out ends them all. Otherwise the browser would still send all of them.
    """

    sids: tuple[bytes, ...]

    needs_read: bool = False
    is_due: bool = False
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

    needs_read: bool = False
    is_due: bool = True

    __repr__ = object.__repr__


class Ended(msgspec.Struct, frozen=True):
    """The user signed out during this request.

    Attributes:
        channel: the position of the carrier whose id the response removes.
        sids: the sessions that may still be live, because the store did not answer.
    """

    channel: int
    sids: tuple[bytes, ...] = ()

    needs_read: bool = False
    is_due: bool = True
    stored: ClassVar[None] = None
    identity: ClassVar[None] = None


class Elsewhere(msgspec.Struct, Generic[I], frozen=True):
    """The request presents credentials that are no session's. Another authenticator has looked at them.

    Attributes:
        identity: the identity of the user; ``None`` if the credentials are not valid.
    """

    identity: I | None

    needs_read: bool = False
    is_due: bool = False
    stored: ClassVar[None] = None

    __repr__ = object.__repr__


class Noted(msgspec.Struct, Generic[I], frozen=True):
    """A state, and further changes to the response, such as a cookie of an extension.

    Attributes:
        state: the state; ``None`` if it is not known yet.
        cookies: cookies for the response, by name.
    """

    state: "State[I] | None"
    cookies: Mapping[str, str]

    is_due: bool = True

    __repr__ = object.__repr__

    @property
    def needs_read(self) -> bool:
        """See the state's."""
        return self.state is None or self.state.needs_read

    @property
    def stored(self) -> Stored | None:
        """See the state's."""
        return None if self.state is None else self.state.stored

    @property
    def identity(self) -> I | None:
        """See the state's."""
        return None if self.state is None else self.state.identity


State = (
    Anonymous | Unchanged[I] | NeedsRead[I] | Recognized[I] | Unknown | SeveralLive | Began[I] | Ended | Elsewhere[I]
)

Presence = State[I] | Noted[I]


def state_of(presence: Presence[I] | None) -> State[I] | None:
    """Return the state without the further changes to the response."""
    return presence.state if isinstance(presence, Noted) else presence


def stored_in(presence: Presence[I] | None) -> Stored | None:
    """Return the session by which the request's user is signed in."""
    return None if presence is None else presence.stored


def sids_in(presence: Presence[I] | None) -> tuple[bytes, ...]:
    """Return the sids of the request's sessions, including those whose records could not be read.

    Call this only after the read: the sessions of a `NeedsRead` are not known yet.
    """
    presence = state_of(presence)
    if isinstance(presence, Unchanged | Recognized | Began):
        return (presence.stored.session.sid,)
    if isinstance(presence, Unknown):
        return (presence.presented.sid,)
    return presence.sids if isinstance(presence, SeveralLive | Ended) else ()


def last_moment(presence: Presence[I] | None) -> Millis | None:
    """Return the end of the session, by the record as it was last read; ``None`` if there is no session."""
    stored = stored_in(presence)
    return None if stored is None else stored.expires_at
