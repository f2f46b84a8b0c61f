"""Orders of the steps of a reset and of another change of the same user; see `harness.interleavings`."""

from collections.abc import Callable
from typing import Any

import pytest

from harness.interleavings import Core, find_violation, sample
from harness.reset_scenarios import RESET_SCENARIOS, scenarios
from powauth import Account
from powauth.backends.memory import MemoryBackend
from powauth.extensions.letters import Words
from powauth.extensions.reset_password import ResetPassword

pytestmark = pytest.mark.untraced

SEED = 20_260_101
ORDERS = 120
"""The most orders of a scenario. `sample` tries all if there are fewer."""


@pytest.mark.parametrize("name", RESET_SCENARIOS)
def test_no_order_of_steps_does_harm(name: str, report: Callable[[str], None]) -> None:
    found = sample(RESET_SCENARIOS[name], MemoryBackend(), ORDERS, SEED)
    report(f"interleavings of resets: {name}: {found.orders} orders")


class WritesWithoutProof(ResetPassword):
    """The token is taken, and the password is written over whatever came between."""

    async def reset(self, token: object, password: object, words: Words, request: Any = None) -> Account[Any] | None:
        claim = await self.tokens.take(token, request=request)
        if claim is None:
            return None
        return await self.parts.change(claim.account.key, {"password": password})


class OnlyFinds(ResetPassword):
    """The token is looked up and not used up. The proof alone decides."""

    async def reset(self, token: object, password: object, words: Words, request: Any = None) -> Account[Any] | None:
        claim = await self.tokens.find(token)
        return None if claim is None else await self.parts.change(claim.account.key, {"password": password})


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (WritesWithoutProof, "a reset and a change of password"),
        (WritesWithoutProof, "a reset and a change elsewhere"),
        (WritesWithoutProof, "a reset and a lock"),
        (OnlyFinds, "two resets"),
    ],
)
def test_what_is_broken_is_found(kind: type[ResetPassword], name: str) -> None:
    assert find_violation(scenarios(kind)[name], MemoryBackend(), Core()) is not None
