"""`FlowHooks`: runs the extensions and the app's hooks before and after a flow."""

import inspect
import logging
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, Generic

from powauth._options import instance
from powauth.accounts.hooks import Diversion, Extension, Flow, Hook, Hooks, Step
from powauth.accounts.identity import I, Key
from powauth.errors import ConfigError
from powauth.events import EventKind, log


def check_events(extensions: Sequence[Extension[Any]]) -> None:
    """Check the events that extensions declare.

    Raises:
        ConfigError: if a declaration is no `EventKind`, or two extensions declare different events of one name.
    """
    declared: dict[str, tuple[EventKind, str]] = {}
    for extension in extensions:
        for kind in extension.events:
            instance(f"each of the events of {extension.name}", kind, EventKind, "an EventKind")
            first, owner = declared.setdefault(kind.name, (kind, extension.name))
            if first != kind:
                raise ConfigError(
                    f"the extensions {owner!r} and {extension.name!r} have an event {kind.name!r} each: rename one"
                )


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

    async def diverted(self, step: Step[I]) -> list[Diversion[I]]:
        """Return the parts of a flow that extensions take over, in their order. The last one has the remaining params.

        Raises:
            Accepted: if an extension has taken over the whole flow.
        """
        found = []
        for extension in self.extensions:
            diversion = await extension.divert(step)
            if diversion is not None:
                found.append(diversion)
                step = replace(step, params=diversion.params)
        return found

    def registers_with(self) -> Sequence[str] | None:
        """Return the first answer of an extension to `Extension.registers_with` that is not ``None``."""
        answers = (extension.registers_with() for extension in self.extensions)
        return next((each for each in answers if each is not None), None)

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

    async def password_errors(self, password: str, request: Any) -> list[str]:
        """Return what the extensions find wrong with a password."""
        return [text for extension in self.extensions for text in await extension.check_password(password, request)]

    async def credentials_changed(self, key: Key, why: str) -> None:
        """Call `Extension.credentials_changed` of every extension, even if one of them fails.

        Raises:
            Exception: the first error of an extension.
        """
        await self._tell_all(lambda extension: extension.credentials_changed(key, why))

    async def sessions_ended(self, key: Key, why: str) -> None:
        """Call `Extension.sessions_ended` of every extension, even if one of them fails.

        Raises:
            Exception: the first error of an extension.
        """
        await self._tell_all(lambda extension: extension.sessions_ended(key, why))

    async def may_continue(self, key: Key) -> bool:
        """Return whether no extension refuses a user; see `Extension.may_continue`."""
        for extension in self.extensions:
            if not await extension.may_continue(key):
                return False
        return True

    async def fresh_methods(self, key: Key) -> list[Collection[str]]:
        """Return the answers of the extensions to `Extension.fresh_methods`, without the empty ones."""
        answers = [await extension.fresh_methods(key) for extension in self.extensions]
        return [methods for methods in answers if methods]

    async def may_be_claimed(self, key: Key, address: str) -> bool:
        """Return whether an extension lets an account be taken over; see `Extension.may_be_claimed`."""
        for extension in self.extensions:
            if await extension.may_be_claimed(key, address):
                return True
        return False

    async def is_reserved(self, address: object) -> bool:
        """Return whether an extension keeps an address for a user; see `Extension.reserves`."""
        for extension in self.extensions:
            if await extension.reserves(address):
                return True
        return False

    async def address_proven(self, key: Key, address: str) -> None:
        """Call `Extension.address_proven` of every extension, and log their errors."""
        for extension in self.extensions:
            try:
                await extension.address_proven(key, address)
            except Exception as error:
                log(logging.ERROR, "the extension %s failed on a proven address", extension.name, error=error)

    async def aclose(self) -> None:
        """Call `Extension.aclose` of every extension, and log their errors."""
        for extension in self.extensions:
            try:
                await extension.aclose()
            except Exception as error:
                log(logging.ERROR, "the extension %s failed to close", extension.name, error=error)

    def check_plain(self) -> None:
        """Refuse hooks that need an event loop.

        Raises:
            ConfigError: if a hook is a coroutine function.
        """
        for name, hook in self.hooks.given():
            if inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(getattr(hook, "__call__", None)):  # noqa: B004
                raise ConfigError(f"a WSGI app needs plain functions as hooks, and {name} is a coroutine function")

    async def _tell_all(self, tell: Callable[[Extension[I]], Awaitable[None]]) -> None:
        """Tell every extension, even if one of them fails. Raise the first error at the end."""
        failure: Exception | None = None
        for extension in self.extensions:
            try:
                await tell(extension)
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure

    async def _call(self, name: str, step: Step[I]) -> None:
        if name not in self._steps:
            return
        hook: Hook[I] = getattr(self.hooks, name)
        result = hook(step)
        if inspect.isawaitable(result):
            await result
