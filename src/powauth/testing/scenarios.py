"""Runs tests that are coroutines, with or without an event loop, as the component under test requires."""

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

from powauth.backends.base import drive
from powauth.testing.stepping import Component

C = TypeVar("C", bound=Component)
S = TypeVar("S", bound="Runs")


class Runs(Protocol):
    """A suite, which makes its own component."""

    def run(self, scenario: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        """Make a component, run the scenario on it, and dispose of it."""
        ...


def scenario(method: Callable[[S, Any], Coroutine[Any, Any, None]]) -> Callable[[S], None]:
    """Turn a coroutine function that takes a component into a test of a suite."""

    @functools.wraps(method)
    def test(self: S) -> None:
        self.run(lambda component: method(self, component))

    # pytest takes a test's parameters for fixtures, and would follow `functools.wraps` to the method's parameters.
    test.__signature__ = inspect.Signature([inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)])  # type: ignore[attr-defined]
    return test


def run_scenario(
    make: Callable[[], C | Awaitable[C]],
    scenario: Callable[[C], Coroutine[Any, Any, None]],
    dispose: Callable[[C], Coroutine[Any, Any, None]],
) -> None:
    """Make a component, run a scenario on it, and dispose of it. An ``async`` component uses one event loop for all."""

    async def whole(component: C) -> None:
        try:
            await scenario(component)
        finally:
            await dispose(component)

    async def begin() -> C | None:
        made = make()
        component = await made if inspect.isawaitable(made) else made
        assert component.mode in {"inline", "blocking", "async"}
        if component.mode != "async":
            return component
        await whole(component)
        return None

    synchronous = asyncio.run(begin())
    if synchronous is not None:
        drive(whole(synchronous))
