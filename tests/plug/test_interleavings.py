"""Every order of the steps of concurrent requests, on the real core; see `harness.interleavings`."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.broken_cores import BROKEN, FOUND
from harness.interleavings import explore, find_violation
from harness.remembered_scenarios import ALL
from powauth.backends.lmdb import LMDBBackend
from powauth.backends.memory import MemoryBackend

pytestmark = pytest.mark.untraced


@pytest.mark.parametrize("name", ALL)
def test_no_order_of_steps_does_harm(name: str, report: Callable[[str], None]) -> None:
    begun = time.perf_counter()
    scenario = ALL[name]
    found = explore(scenario, MemoryBackend())
    stand_for = f", one for each class of {found.stand_for}" if scenario.reduced else ""
    if not scenario.reduced:
        # The reduction is sound: the classes hold all orders, and come to all that these come to.
        classes = explore(replace(scenario, reduced=True), MemoryBackend())
        assert classes.stand_for == found.orders
        assert classes.outcomes == found.outcomes
        assert classes.orders <= found.orders
    seconds = time.perf_counter() - begun
    report(f"interleavings: {name} (memory): {found.orders} orders{stand_for}, {seconds:.1f} s")


@pytest.mark.parametrize("name", ALL)
def test_no_order_of_steps_does_harm_on_lmdb(name: str, quick_path: Path, report: Callable[[str], None]) -> None:
    """One order of each class: the other orders run on memory."""
    begun = time.perf_counter()
    found = explore(replace(ALL[name], reduced=True), LMDBBackend(quick_path / "sessions", durable=False))
    seconds = time.perf_counter() - begun
    report(
        f"interleavings: {name} (lmdb): one order for each class of {found.stand_for}: {found.orders}, {seconds:.1f} s"
    )


# What is wrong with these is found


@pytest.mark.parametrize(("broken", "name"), [(broken, name) for broken, names in FOUND.items() for name in names])
def test_what_is_broken_is_found(broken: str, name: str) -> None:
    assert find_violation(ALL[name], MemoryBackend(), BROKEN[broken]) is not None


def test_every_scenario_can_fail() -> None:
    assert {name for names in FOUND.values() for name in names} == set(ALL)
    assert set(FOUND) == set(BROKEN)
