"""Every order of the steps of takes, issues and ends of one-time tokens; see `harness.interleavings`."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.all_backends import ASYNC, LOCAL, SYNC, Stores, stores
from harness.interleavings import Core, Scenario, explore, find_violation, sample
from harness.support import Me
from harness.token_scenarios import TOKEN_SCENARIOS, Tokens, issue_at_once, scenarios
from powauth.backends.memory import MemoryBackend
from powauth.extensions import Claim

__all__ = ["stores"]

pytestmark = pytest.mark.untraced

SEED = 20_260_101
FEW = 6
"""The most orders of a scenario on an engine outside of the process. `sample` takes that many where there are more."""

MANY = {name for name, scenario in TOKEN_SCENARIOS.items() if scenario.reduced} | {
    name for name in TOKEN_SCENARIOS if name.startswith("two tokens") or "change" in name or "lock" in name
}


@pytest.mark.parametrize("name", TOKEN_SCENARIOS)
def test_no_order_of_steps_does_harm(name: str, report: Callable[[str], None]) -> None:
    found = explore(TOKEN_SCENARIOS[name], MemoryBackend())
    stand_for = f", one for each class of {found.stand_for}" if TOKEN_SCENARIOS[name].reduced else ""
    report(f"interleavings of one-time tokens: {name}: {found.orders} orders{stand_for}")


def test_three_tokens_at_once() -> None:
    """Too many orders to try all of them each time."""
    three = Scenario("three", issue_at_once("one", "two", "three"), TOKEN_SCENARIOS["two takes"].options)
    assert sample(three, MemoryBackend(), 500, SEED).orders == 500


@pytest.mark.parametrize("engine", [*LOCAL[1:], *SYNC, *ASYNC])
def test_no_order_of_steps_does_harm_on_an_engine(engine: str, tmp_path: Path, stores: Stores) -> None:
    with stores.store(engine, tmp_path) as backend:
        for name, scenario in TOKEN_SCENARIOS.items():
            if name in MANY:
                sample(scenario, backend, FEW, SEED)
            else:
                explore(replace(scenario, reduced=True), backend)


# --- what is wrong is found -------------------------------------------------------------------------------------------


class TakesWithoutDeleting(Tokens):
    async def take(self, token: object, *, request: Any = None) -> Claim[Me] | None:
        return await self.find(token)


class IgnoresWhoDeleted(Tokens):
    async def take(self, token: object, *, request: Any = None) -> Claim[Me] | None:
        claim = await self.find(token)
        await super().take(token)
        return claim


class ReadsTheAccountFirst(Tokens):
    """The user may change after the account was read and before the token is used up."""

    async def take(self, token: object, *, request: Any = None) -> Claim[Me] | None:
        claim, taken = await self.find(token), await super().take(token)
        return claim if claim is not None and taken is None else taken


class KeepsTheOlderToken(Tokens):
    async def issue(self, key: Any, address: str, *, request: Any = None) -> str | None:
        del key, address
        return "x" * 72


class EndsNothing(Tokens):
    async def end(self, key: Any) -> int:
        del key
        return 0


BROKEN: dict[type[Tokens], list[str]] = {
    TakesWithoutDeleting: ["two takes", "three takes", "two takes and a newer token"],
    IgnoresWhoDeleted: ["two takes", "three takes"],
    ReadsTheAccountFirst: [
        "a take and a change of password",
        "a take and a change of address",
        "a take and a lock",
        "a take and a deletion",
        "a take and a change elsewhere",
    ],
    KeepsTheOlderToken: ["a take and a newer token", "two tokens at once"],
    EndsNothing: [
        "a take and a revoke-all",
        "a take and a sign-out everywhere",
        "a new token and an end",
        "a new token and a revoke-all",
    ],
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in BROKEN.items() for name in names])
def test_what_is_broken_is_found(kind: type[Tokens], name: str) -> None:
    assert find_violation(scenarios(kind)[name], MemoryBackend(), Core()) is not None


def test_every_scenario_can_fail() -> None:
    assert {name for names in BROKEN.values() for name in names} == set(TOKEN_SCENARIOS)
