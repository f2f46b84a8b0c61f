"""Hooks: an app's own functions before and after each flow.

>>> def only_the_confirmed(step: Step[Any]) -> None:
...     if not step.user.confirmed:
...         raise Refused("confirm your e-mail address first")
>>> hooks = Hooks(before_sign_in=only_the_confirmed)

A hook before a flow may refuse it by raising `Refused`, which is answered 403 with its message; any other error ends
it too. ``before_sign_in`` asks for a second factor by raising `MoreNeeded`, which is answered 401 with the factors. A
hook after a flow cannot undo what has happened: an error in it is logged, and that is all. Hooks are plain functions
or coroutine functions. A plain one runs where the request does, so on an event loop it must not wait; a coroutine
function needs an event loop.
"""

import inspect
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Generic, Literal

from powauth.accounts.base import U
from powauth.errors import ConfigError, MoreNeeded, Refused
from powauth.events import log
from powauth.http.connection import Connection

__all__ = ["Flow", "Hook", "Hooks", "MoreNeeded", "Refused", "Step"]

Flow = Literal["authentication", "sign_in", "sign_out", "registration", "update", "deletion"]


@dataclass(frozen=True, kw_only=True)
class Step(Generic[U]):
    """Where a flow stands.

    Attributes:
        flow: which one.
        connection: the request and its response to come.
        user: who it is about; before a registration and an authentication nobody knows.
        params: what the client sent, before `authentication`, `registration`, `update` and `deletion`: passwords too,
            so it is left out of the representation, and belongs in no log. Not given after a flow.
    """

    flow: Flow
    connection: Connection
    user: U | None = None
    params: Mapping[str, object] | None = field(default=None, repr=False)


Hook = Callable[[Step[U]], object]
"""A function, or a coroutine function, of a `Step`; what it returns is ignored."""


@dataclass(frozen=True, kw_only=True)
class Hooks(Generic[U]):
    """What an app does before and after each flow.

    Attributes:
        before_authentication: a password is about to be checked: the place for a CAPTCHA, and for nothing that can be
            guessed, because what is refused here is not counted. There is no ``after``: what comes of it is
            ``before_sign_in``, or the event ``sign_in_refused``.
        before_sign_in: ``user`` is proven and about to get a session, by whichever door: a password, a registration, a
            change of password, `RequestAuth.sign_in`. The place to ask for a second factor: raise `MoreNeeded` if it
            is missing, which is not counted as a failure, and `Refused` if it is wrong, which is. It may be asked
            again if the user changes meanwhile.
        after_sign_in: ``user`` has a new session on this connection.
        before_sign_out: a request to sign out.
        after_sign_out: ``user`` was signed out.
        before_registration: somebody is about to register.
        after_registration: ``user`` exists, and is not signed in yet.
        before_update: ``user`` is about to be changed by themselves.
        after_update: ``user`` as it now is.
        before_deletion: ``user`` is about to delete their account.
        after_deletion: ``user`` as it was.

    Raises:
        ConfigError: if one is no function.
    """

    before_authentication: Hook[U] | None = None
    before_sign_in: Hook[U] | None = None
    after_sign_in: Hook[U] | None = None
    before_sign_out: Hook[U] | None = None
    after_sign_out: Hook[U] | None = None
    before_registration: Hook[U] | None = None
    after_registration: Hook[U] | None = None
    before_update: Hook[U] | None = None
    after_update: Hook[U] | None = None
    before_deletion: Hook[U] | None = None
    after_deletion: Hook[U] | None = None

    def __post_init__(self) -> None:
        for name, hook in self._given():
            if not callable(hook):
                raise ConfigError(f"the hook {name} must be a function of a Step, not {hook!r}")

    async def before(self, step: Step[U]) -> None:
        """Call the hook before a flow."""
        await self._call(f"before_{step.flow}", step)

    async def after(self, step: Step[U]) -> None:
        """Call the hook after a flow; log its error."""
        name = f"after_{step.flow}"
        try:
            await self._call(name, step)
        except Exception as error:
            log(logging.ERROR, "the hook %s failed; what it came after stands", name, error=error)

    def check_plain(self) -> None:
        """Refuse hooks that need an event loop.

        Raises:
            ConfigError: if there is one.
        """
        for name, hook in self._given():
            if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(getattr(hook, "__call__", None)):  # noqa: B004
                raise ConfigError(f"a WSGI app needs plain functions as hooks, and {name} is a coroutine function")

    def _given(self) -> list[tuple[str, Any]]:
        given = [(each.name, getattr(self, each.name)) for each in fields(self)]
        return [(name, hook) for name, hook in given if hook is not None]

    async def _call(self, name: str, step: Step[U]) -> None:
        hook: Hook[U] | None = getattr(self, name, None)
        if hook is not None:
            result = hook(step)
            if inspect.isawaitable(result):
                await result
