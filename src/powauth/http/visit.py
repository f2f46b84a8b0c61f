"""One request's life: begin, bind, answer, end. ASGI, WSGI and the frameworks' own integrations share it.

An integration makes a `Connection` for its protocol and a `Visits` for its middleware. A `Visit` then says what to do:

1. ``visits.enter(holder)`` begins one; ``None`` says that this authenticator is in front of the request already.
2. ``await visit.begin()``: who is it? ``auth.call_at_once(visit.connection)`` first spares most requests a coroutine.
3. ``await visit.headers(…)`` when the response starts, or ``visit.effects(…)`` alone: what does it carry?
4. ``visit.answer(error)`` for an error of powauth's that the app let through.

``holder`` is the mapping that a protocol hands around with a request: an ASGI scope or a WSGI environ.
"""

from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, Protocol

import msgspec

from powauth.backends.base import drive
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


class Visit(msgspec.Struct):
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
        """Return what the response carries. ``failed``: its status is 500 or more, or the handler raised."""
        if not self.auth.is_due(self.connection):
            return NO_EFFECTS
        return await self.auth.respond(self.connection, failed=failed)

    def blocking_effects(self, *, failed: bool) -> Effects:
        """Return what `effects` does, where there is no event loop."""
        if not self.auth.is_due(self.connection):  # most responses: no coroutine is made
            return NO_EFFECTS
        return drive(self.auth.respond(self.connection, failed=failed))

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

    __slots__ = ("_key", "answers", "auth", "connect")

    def __init__(self, auth: Plug, connection_type: Connect, answers: Answers) -> None:
        self.auth: Any = auth
        self.connect = connection_type
        self.answers = answers
        self._key = auth.current_user_key

    def enter(self, holder: Holder) -> Visit | None:
        """Begin the visit of a request; ``None`` if this authenticator is in front of it already.

        Raises:
            ConfigError: if another authenticator is there under this one's ``current_user_key``. It would lend its
                users to this one: the shop's customers to the administrators' app.
        """
        states: States = {}
        bound: dict[str, Bound] | None = holder.get(HOLDER_KEY)
        if bound is None:
            holder[HOLDER_KEY] = {self._key: (self, states)}
        elif self._key not in bound:
            bound[self._key] = (self, states)
        elif bound[self._key][0].auth is self.auth:
            return None
        else:
            raise ConfigError(
                f"another authenticator assigns {self._key!r} already: give each its own current_user_key"
            )
        return Visit(self.auth, self.connect(holder, states), holder, self.answers)


Bound = tuple[Visits, States]
"""What a holder keeps of a visit: enough to make a connection again.

It holds no connection. The connection holds the holder, and a circle would wait for the garbage collector.
"""


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
    return {key: visits.answers for key, (visits, _) in bound.items()}
