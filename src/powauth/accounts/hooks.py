"""Hooks and extensions, which run before and after each flow.

>>> def only_confirmed_users(step: Step[Any]) -> None:
...     if not step.identity.confirmed:
...         raise Refused("confirm your e-mail address first")
>>> hooks = Hooks(before_sign_in=only_confirmed_users)

A hook before a flow may refuse it by raising `Refused`. The response is then a 403 with its message. Any other error
ends the flow, too. ``before_sign_in`` asks for a second factor by raising `MoreNeeded`. The response is then a 401 with
the factors. A hook after a flow cannot undo the flow: powauth only logs its error.

Hooks are plain functions or coroutine functions. A plain function runs where the request runs, so it must not block an
event loop. A coroutine function needs an event loop.
"""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Generic, Literal, Self

from powauth._options import wrong
from powauth.accounts.base import UsersContext
from powauth.accounts.identity import I, Key
from powauth.backends.base import Backend, Millis
from powauth.errors import ConfigError, MoreNeeded, Refused
from powauth.events import EventName, log
from powauth.sessions.keyring import Keyring

__all__ = ["Extension", "Flow", "FlowHooks", "Hook", "Hooks", "MoreNeeded", "Parts", "Refused", "Step"]

Flow = Literal["authentication", "sign_in", "sign_out", "registration", "update", "deletion"]


@dataclass(frozen=True, kw_only=True)
class Step(Generic[I]):
    """The state of a flow.

    Attributes:
        flow: the name of the flow.
        request: the request and its coming response: a `powauth.http.connection.Connection`.
        key: the key of the flow's user; ``None`` before a registration and an authentication.
        identity: the identity of that user.
        params: the client's parameters, before ``authentication``, ``registration``, ``update`` and ``deletion``. They
            contain passwords, so ``repr`` leaves them out. Do not log them. ``None`` after a flow.
    """

    flow: Flow
    request: Any
    key: Key | None = None
    identity: I | None = None
    params: Mapping[str, object] | None = field(default=None, repr=False)


Hook = Callable[[Step[I]], object]
"""A function or coroutine function that takes a `Step`. Its result is ignored."""


@dataclass(frozen=True, kw_only=True)
class Hooks(Generic[I]):
    """An app's functions, which run before and after each flow.

    Attributes:
        before_authentication: a password is about to be checked. Check a CAPTCHA here, but nothing that can be guessed:
            a refusal here is not counted. There is no ``after``: ``before_sign_in`` or the event ``sign_in_refused``
            follows.
        before_sign_in: the user is proven and about to get a session, by a password, a registration, a change of
            password or `RequestAuth.sign_in_user`. Ask for a second factor here. Raise `MoreNeeded` if it is missing:
            this is not counted as a failure. Raise `Refused` if it is wrong: this is counted. The hook may run again
            if the user changes meanwhile.
        after_sign_in: the user has a new session.
        before_sign_out: a request asks to sign out.
        after_sign_out: the user was signed out.
        before_registration: somebody is about to register.
        after_registration: the user exists, and is not signed in yet.
        before_update: the user is about to change their account.
        after_update: the account was changed.
        before_deletion: the user is about to delete their account.
        after_deletion: the account was deleted.

    Raises:
        ConfigError: if a hook is no function.
    """

    before_authentication: Hook[I] | None = None
    before_sign_in: Hook[I] | None = None
    after_sign_in: Hook[I] | None = None
    before_sign_out: Hook[I] | None = None
    after_sign_out: Hook[I] | None = None
    before_registration: Hook[I] | None = None
    after_registration: Hook[I] | None = None
    before_update: Hook[I] | None = None
    after_update: Hook[I] | None = None
    before_deletion: Hook[I] | None = None
    after_deletion: Hook[I] | None = None

    def __post_init__(self) -> None:
        for name, hook in self.given():
            if not callable(hook):
                raise wrong(f"the hook {name}", "a function of a Step", hook)

    def given(self) -> list[tuple[str, Hook[I]]]:
        """Return the names and functions of the hooks that the app has given."""
        found = [(each.name, getattr(self, each.name)) for each in fields(self)]
        return [(name, hook) for name, hook in found if hook is not None]


@dataclass(frozen=True, kw_only=True)
class Parts(Generic[I]):
    """The parts of an authenticator that its extensions may use; see `Extension.bind`.

    Attributes:
        backend: the storage of the sessions' records. Coroutines and plain functions can call it.
        namespace: the namespace of the sessions. An extension's records belong under ``<namespace>.<name>``.
        keyring: derives a key for each purpose.
        users: the users context.
        now: the time in milliseconds since the Unix epoch.
        emit: emits an event. Its arguments are the event's name, the user's key or ``None``, and a detail or ``None``.
    """

    backend: Backend
    namespace: str
    keyring: Keyring
    users: UsersContext[Any, I]
    now: Callable[[], Millis]
    emit: Callable[[EventName, Key | None, str | None], None]


class Extension(Generic[I]):
    """A feature around the plug. The core knows extensions only through this interface.

    Await only the backend, the users context, a mailer and an HTTP client. Under WSGI, powauth can then run each
    coroutine in one step.

    Attributes:
        name: the purpose of its keys, and the last part of its namespace. It must not be ``"throttle"``, nor the
            ``session_key`` of another authenticator over the same store.
        needs: mixins that the app's model must have. `SessionAuth` raises `ConfigError` if one is missing.
    """

    name: ClassVar[str] = ""
    needs: ClassVar[tuple[type, ...]] = ()

    def bind(self, parts: Parts[I]) -> Self:
        """Return this extension bound to an authenticator. The bound extension must not change.

        Raises:
            ConfigError: if the users or the store lack what it needs.
        """
        del parts
        return self

    async def before(self, step: Step[I]) -> None:
        """Run before a flow. Raise `Refused` to refuse it."""

    async def after(self, step: Step[I]) -> None:
        """Run after a flow."""

    async def credentials_changed(self, key: Key, why: str) -> None:
        """End everything that this extension holds for a user.

        powauth calls it when the credentials change, the account is locked or deleted, or all sessions of the user are
        revoked. It ends the sessions afterwards.

        Raises:
            StoreUnavailable: if anything may still be valid.
        """

    def pages(self) -> Sequence[Any]:
        """Return the `powauth.pages.Page` objects to mount with the ready-made pages."""
        return ()


class FlowHooks(Generic[I]):
    """Runs the extensions in order, and then the app's own hooks."""

    def __init__(self, hooks: Hooks[I], extensions: Sequence[Extension[I]]) -> None:
        self.hooks = hooks
        self.extensions = tuple(extensions)
        self._steps = {name for name, _ in hooks.given()}

    def runs_before(self, flow: Flow) -> bool:
        """Return whether an extension or a hook runs before a flow."""
        return bool(self.extensions) or f"before_{flow}" in self._steps

    async def before(self, step: Step[I]) -> None:
        """Run the extensions and the hook before a flow.

        Raises:
            Refused: if an extension or a hook refuses it.
        """
        for extension in self.extensions:
            await extension.before(step)
        await self._call(f"before_{step.flow}", step)

    async def after(self, step: Step[I]) -> None:
        """Run the extensions and the hook after a flow, and log their errors."""
        for extension in self.extensions:
            try:
                await extension.after(step)
            except Exception as error:
                log(logging.ERROR, "the extension %s failed after %s", extension.name, step.flow, error=error)
        name = f"after_{step.flow}"
        try:
            await self._call(name, step)
        except Exception as error:
            log(logging.ERROR, "the hook %s failed; the flow before it stands", name, error=error)

    async def credentials_changed(self, key: Key, why: str) -> None:
        """Call `Extension.credentials_changed` of every extension, even if one of them fails.

        Raises:
            Exception: the first error of an extension.
        """
        failure: Exception | None = None
        for extension in self.extensions:
            try:
                await extension.credentials_changed(key, why)
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def check_plain(self) -> None:
        """Refuse hooks that need an event loop.

        Raises:
            ConfigError: if a hook is a coroutine function.
        """
        for name, hook in self.hooks.given():
            if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(getattr(hook, "__call__", None)):  # noqa: B004
                raise ConfigError(f"a WSGI app needs plain functions as hooks, and {name} is a coroutine function")

    async def _call(self, name: str, step: Step[I]) -> None:
        if name not in self._steps:
            return
        hook: Hook[I] = getattr(self.hooks, name)
        result = hook(step)
        if inspect.isawaitable(result):
            await result
