"""One request's life: begin, bind, answer, end. ASGI, WSGI and the frameworks' own integrations share it.

An integration makes a `Connection` for its protocol and a `Visits` for its middleware. A `Visit` then says what to do:

1. ``visits.enter(holder)`` begins one; ``None`` says that this authenticator is in front of the request already.
2. ``await visit.begin()``: who is it? ``visit.begin_at_once()`` first spares most requests a coroutine.
3. ``await visit.headers(…)`` when the response starts, or ``visit.effects(…)`` alone: what does it carry?
4. ``visit.answer(error)`` for an error of powauth's that the app let through.

``holder`` is the mapping that a protocol hands around with a request: an ASGI scope or a WSGI environ.
"""

from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, Protocol

import msgspec

from powauth.errors import ConfigError, PowauthError
from powauth.http.answers import Answer, Answers, chosen
from powauth.http.connection import NO_EFFECTS, Connection, Effects, States, amended

HOLDER_KEY = "powauth"
"""Where in a holder what `bound_in` finds is, by ``current_user_key``."""

Holder = MutableMapping[str, Any]


Connect = Callable[[Any, States], Connection]
"""Makes a connection of a holder and the states."""


class Plug(Protocol):
    """What a visit needs of an authenticator."""

    @property
    def current_user_key(self) -> str:
        """The name under which the current user is assigned."""
        ...

    @property
    def vary(self) -> tuple[bytes, ...]:
        """The request headers that tell users apart."""
        ...

    def call_at_once(self, connection: Connection) -> bool:
        """Assign the current user, if that takes no wait."""
        ...

    async def call(self, connection: Connection) -> None:
        """Assign the current user."""
        ...

    def is_due(self, connection: Connection) -> bool:
        """Return whether `respond` has anything to say."""
        ...

    async def respond(self, connection: Connection, *, failed: bool = False) -> Effects:
        """Return what the response carries."""
        ...


class Bound(msgspec.Struct, frozen=True):
    """What makes a request-bound object of a holder that a middleware has seen."""

    auth: Any
    connection_type: Connect
    states: States
    answers: Answers

    __repr__ = object.__repr__  # the states hold secrets: error reporters record what local variables look like


class Visit(msgspec.Struct):
    """One request in front of one authenticator."""

    auth: Plug
    connection: Connection
    holder: Holder
    answers: Answers

    __repr__ = object.__repr__

    def begin_at_once(self) -> bool:
        """Assign the current user, if that takes no wait. Return whether it was done."""
        return self.auth.call_at_once(self.connection)

    async def begin(self) -> None:
        """Assign the current user."""
        await self.auth.call(self.connection)

    @property
    def is_due(self) -> bool:
        """Whether `effects` has anything to say."""
        return self.auth.is_due(self.connection)

    async def effects(self, *, failed: bool) -> Effects:
        """Return what the response carries. ``failed``: its status is 500 or more, or the handler raised."""
        return await self.auth.respond(self.connection, failed=failed) if self.is_due else NO_EFFECTS

    async def headers(self, headers: Iterable[tuple[str, str]], *, failed: bool) -> list[tuple[str, str]]:
        """Return the headers of a response that starts, with what it carries. ``failed`` is that of `effects`."""
        return amended(headers, await self.effects(failed=failed), self.auth.vary)

    def answer(self, error: PowauthError) -> Answer | None:
        """Return the answer to an error that the app let through; ``None`` if the error is the app's own mistake."""
        return chosen(answers_in(self.holder), error, self.answers)(error, self.connection)


class Visits:
    """Begins the visits of one middleware.

    Args:
        auth: the authenticator.
        connection_type: makes a connection of a holder and the states.
        answers: what it answers to errors.
    """

    __slots__ = ("_answers", "_auth", "_connect", "_key")

    def __init__(self, auth: Plug, connection_type: Connect, answers: Answers) -> None:
        self._auth = auth
        self._connect = connection_type
        self._answers = answers
        self._key = auth.current_user_key

    def enter(self, holder: Holder) -> Visit | None:
        """Begin the visit of a request; ``None`` if this authenticator is in front of it already.

        Raises:
            ConfigError: if another authenticator is there under this one's ``current_user_key``. It would lend its
                users to this one: the shop's customers to the administrators' app.
        """
        bound: dict[str, Bound] | None = holder.get(HOLDER_KEY)
        if bound is None:
            bound = holder[HOLDER_KEY] = {}
        elif self._key in bound:
            if bound[self._key].auth is not self._auth:
                raise ConfigError(
                    f"another authenticator assigns {self._key!r} already: give each its own current_user_key"
                )
            return None
        states: States = {}
        bound[self._key] = Bound(self._auth, self._connect, states, self._answers)
        return Visit(self._auth, self._connect(holder, states), holder, self._answers)


def bound_in(holder: Holder, current_user_key: str, hint: str) -> Bound:
    """Return what a middleware has bound to a request.

    Raises:
        ConfigError: if no middleware with that ``current_user_key`` has run: so a protected route refuses. The message
            ends with ``hint``.
    """
    bound: Bound | None = holder.get(HOLDER_KEY, {}).get(current_user_key)
    if bound is None:
        raise ConfigError(f"no SessionAuthMiddleware has run for {current_user_key!r}: {hint}")
    return bound


def answers_in(holder: Holder) -> dict[str, Answers]:
    """Return the `Answers` of each middleware that has run, by its ``current_user_key``."""
    bound: dict[str, Bound] = holder.get(HOLDER_KEY, {})
    return {key: each.answers for key, each in bound.items()}
