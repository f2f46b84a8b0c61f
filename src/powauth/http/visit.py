"""The life of one request: begin, bind, answer, end. ASGI, WSGI and the frameworks' own integrations share it.

An integration makes a `Connection` for its protocol and a `Visits` for its middleware. It then takes these steps:

1. ``visits.enter(holder)`` begins a `Visit`. It returns ``None`` if this authenticator already handles the request.
2. ``await visit.begin()`` assigns the current user. If ``auth.call_at_once(visit.connection)`` has done it, skip this
   step: most requests then need no coroutine.
3. ``await visit.headers(…)`` returns the headers when the response starts. ``visit.effects(…)`` returns the changes.
4. ``visit.answer(error)`` returns the answer to a powauth error that the app did not handle.

``holder`` is the mapping that a protocol passes along with a request: an ASGI scope or a WSGI environ.
"""

import weakref
from collections.abc import Callable, Iterable, MutableMapping
from contextvars import ContextVar
from typing import Any, Protocol

import msgspec

from powauth.backends.base import drive
from powauth.errors import ConfigError, PowauthError
from powauth.http.answers import Answer, Answers, chosen
from powauth.http.connection import NO_EFFECTS, Connection, Effects, States, amended, vary_on

HOLDER_KEY = "powauth"
"""The key in a holder of the mapping from each ``current_user_key`` to a `Bound`; see `bound_in`."""

Holder = MutableMapping[str, Any]


Connect = Callable[[Any, States], Connection]
"""A function that makes a connection from a holder and the states."""


class Plug(Protocol):
    """The part of an authenticator that a visit uses."""

    @property
    def current_user_key(self) -> str:
        """The name under which the current user is assigned."""
        ...

    @property
    def vary(self) -> tuple[bytes, ...]:
        """The request headers that identify the user, for ``Vary``."""
        ...

    @property
    def places(self) -> frozenset[tuple[str, str]]:
        """The places in which clients keep its ids: the kind of each carrier, and its ``session_key``."""
        ...

    def challenge(self, connection: Connection) -> str | None:
        """Return the challenge in the ``WWW-Authenticate`` of a 401; ``None`` if there is none."""
        ...

    def call_at_once(self, connection: Connection) -> bool:
        """Assign the current user if that needs no waiting. Return whether it is done."""
        ...

    async def call(self, connection: Connection) -> None:
        """Assign the current user."""
        ...

    def is_due(self, connection: Connection) -> bool:
        """Return whether `respond` may change the response."""
        ...

    async def respond(self, connection: Connection, *, failed: bool = False) -> Effects:
        """Return the changes to the response."""
        ...


def check_places(auth: Plug, others: Iterable[Plug]) -> None:
    """Refuse an authenticator beside others of one app that keep their ids in the same place.

    Raises:
        ConfigError: if one does. If they share a store and a secret, each accepts the ids of the other: a customer of
            a shop could be signed in to the administrators' app. Otherwise a sign-in to one ends the other.
    """
    if any(not auth.places.isdisjoint(other.places) for other in others if other is not auth):
        raise ConfigError(
            "two authenticators of this app have the same session_key, so each could accept the users of the other: "
            "give one of them its own session_key"
        )


class Visit(msgspec.Struct, weakref=True):
    """One request in front of one authenticator."""

    auth: Plug
    connection: Connection
    holder: Holder
    answers: Answers

    __repr__ = object.__repr__

    async def begin(self) -> None:
        """Assign the current user."""
        await self.auth.call(self.connection)

    async def effects(self, *, failed: bool) -> Effects:
        """Return the changes to the response. ``failed``: its status is 500 or more, or the handler raised."""
        if not self.auth.is_due(self.connection):
            return NO_EFFECTS
        return await self.auth.respond(self.connection, failed=failed)

    def blocking_effects(self, *, failed: bool) -> Effects:
        """Return the result of `effects`, without an event loop."""
        if not self.auth.is_due(self.connection):  # most responses: no coroutine is made
            return NO_EFFECTS
        return drive(self.auth.respond(self.connection, failed=failed))

    async def headers(self, headers: Iterable[tuple[str, str]], *, failed: bool) -> list[tuple[str, str]]:
        """Return the headers of a response with the changes made. ``failed`` has the meaning of `effects`."""
        return amended(headers, await self.effects(failed=failed), vary_on(self.auth.vary))

    def answer(self, error: PowauthError) -> Answer | None:
        """Return the answer to an error that the app did not handle; ``None`` if the error is the app's own mistake."""
        return chosen(answers_in(self.holder), error, self.answers)(error, self.connection)


class Visits:
    """Begins the visits of one middleware.

    Args:
        auth: the authenticator.
        connection_type: makes a connection from a holder and the states.
        answers: makes the responses to errors.
    """

    __slots__ = ("_key", "answers", "auth", "connect")

    def __init__(self, auth: Plug, connection_type: Connect, answers: Answers) -> None:
        self.auth: Any = auth
        self.connect = connection_type
        self.answers = answers.with_challenge(auth.challenge)
        self._key = auth.current_user_key

    def enter(self, holder: Holder) -> Visit | None:
        """Begin the visit of a request. Return ``None`` if this authenticator already handles the request.

        Raises:
            ConfigError: if another authenticator uses the same ``current_user_key`` or ``session_key``. Its users would
                count as this one's: a shop's customers would be signed in to the administrators' app.
        """
        states: States = {}
        bound: dict[str, Bound] | None = holder.get(HOLDER_KEY)
        if bound is None:
            holder[HOLDER_KEY] = {self._key: (self, states)}
        elif self._key not in bound:
            check_places(self.auth, [visits.auth for visits, _ in bound.values()])
            bound[self._key] = (self, states)
        elif bound[self._key][0].auth is self.auth:
            return None
        else:
            raise ConfigError(
                f"another authenticator assigns {self._key!r} already: give each its own current_user_key"
            )
        visit = Visit(self.auth, self.connect(holder, states), holder, self.answers)
        if _tracking:
            _current.set(weakref.ref(visit))
        return visit


_current: ContextVar["weakref.ref[Visit] | None"] = ContextVar("powauth visit", default=None)
"""The latest visit that began in this context. Frameworks run a request's handlers in it, also in worker threads.

The reference is weak. A task that a request has started keeps a copy of the context, perhaps for ever. When the request
is over, its visit is gone, and the task acts for no request.
"""

_tracking = False
"""Whether `track_requests` was called."""


def track_requests() -> None:
    """Let `current_connection` work, from the next request on. It costs each request a little time."""
    global _tracking  # noqa: PLW0603 - it changes once, and only to True
    _tracking = True


def current_connection(auth: object) -> Connection | None:
    """Return an authenticator's connection of the request that the calling code serves; ``None`` if it serves none.

    This is for code that is not given the request, such as an event of a database session.
    """
    reference = _current.get()
    visit = None if reference is None else reference()
    if visit is None:
        return None
    bound: dict[str, Bound] = visit.holder[HOLDER_KEY]
    for visits, states in bound.values():
        if visits.auth is auth:
            return visits.connect(visit.holder, states)
    return None


Bound = tuple[Visits, States]
"""The part of a visit that a holder keeps: enough to make a connection again.

It has no connection. A connection refers to its holder, and a reference cycle would wait for the garbage collector.
"""


def bound_in(holder: Holder, current_user_key: str, hint: str) -> Bound:
    """Return the part of a visit that a middleware has bound to a request.

    Raises:
        ConfigError: if no middleware with that ``current_user_key`` has run. A protected route then serves nobody. The
            message ends with ``hint``.
    """
    bound: Bound | None = holder.get(HOLDER_KEY, {}).get(current_user_key)
    if bound is None:
        raise ConfigError(f"no SessionAuthMiddleware has run for {current_user_key!r}: {hint}")
    return bound


def answers_in(holder: Holder) -> dict[str, Answers]:
    """Return the `Answers` of each middleware that has run, by its ``current_user_key``."""
    bound: dict[str, Bound] = holder.get(HOLDER_KEY, {})
    return {key: visits.answers for key, (visits, _) in bound.items()}
