"""Every order of the steps of concurrent requests, on the real core; see `harness.interleavings`."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from harness.broken_cores import BROKEN, FOUND
from harness.interleavings import explore, find_violation
from harness.remembered_scenarios import ALL
from powauth.backends.base import Backend
from powauth.backends.lmdb import LMDBBackend
from powauth.backends.memory import MemoryBackend

pytestmark = pytest.mark.untraced

BACKENDS: dict[str, Callable[[Path], Backend]] = {
    "memory": lambda _: MemoryBackend(),
    "lmdb": lambda path: LMDBBackend(path / "sessions", durable=False),
}
"""Any backend whose coroutines do not suspend can be added here."""


@pytest.mark.parametrize("engine", BACKENDS)
@pytest.mark.parametrize("name", ALL)
def test_no_order_of_steps_does_harm(name: str, engine: str, quick_path: Path, report: Callable[[str], None]) -> None:
    begun = time.perf_counter()
    found = explore(ALL[name], BACKENDS[engine](quick_path))
    seconds = time.perf_counter() - begun
    stand_for = f", one for each class of {found.stand_for}" if ALL[name].reduced else ""
    report(f"interleavings: {name} ({engine}): {found.orders} orders{stand_for}, {seconds:.1f} s")


@pytest.mark.parametrize("name", [name for name, scenario in ALL.items() if not scenario.reduced])
def test_one_order_of_each_class_finds_what_all_orders_find(name: str) -> None:
    """The reduction is sound: the classes hold all orders, and come to all that these come to."""
    every = explore(ALL[name], MemoryBackend())
    reduced = explore(replace(ALL[name], reduced=True), MemoryBackend())
    assert reduced.stand_for == every.orders
    assert reduced.outcomes == every.outcomes
    assert reduced.orders <= every.orders


# What is wrong with these is found


@pytest.mark.parametrize(("broken", "name"), [(broken, name) for broken, names in FOUND.items() for name in names])
def test_what_is_broken_is_found(broken: str, name: str) -> None:
    assert find_violation(ALL[name], MemoryBackend(), BROKEN[broken]) is not None


def test_every_scenario_can_fail() -> None:
    assert {name for names in FOUND.values() for name in names} == set(ALL)
    assert set(FOUND) == set(BROKEN)
