"""Orders of the steps of concurrent requests on real engines, through each of their drivers; see `interleavings`.

Every order that matters of a scenario that has few, and so many taken at random (the same ones every time) of one that
has more: an engine takes many times as long for an order as the process's own memory, on which all of them run.
"""

import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from harness.all_backends import ASYNC, SYNC, Stores, stores
from harness.interleavings import Report, explore, sample
from harness.remembered_scenarios import ALL
from powauth.backends.memory import MemoryBackend

__all__ = ["stores"]

pytestmark = pytest.mark.untraced

ENGINES = (*SYNC, *ASYNC)

ORDERS = {"psycopg": 10, "mariadb_pymysql": 10, "redis": 40, "sqlite": 40}
"""How many orders of a scenario an engine is given; ``POWAUTH_TEST_ORDERS`` multiplies it."""

FEW = 6
"""Of every other: one driver of an engine orders the engine's steps as the next does."""

SEED = 20_260_101


@cache
def count_of(name: str, limit: int) -> int | None:
    """How many orders of a scenario's steps differ; ``None`` for more than so many."""
    try:
        return explore(replace(ALL[name], reduced=True), MemoryBackend(), limit=limit).orders
    except RuntimeError:
        return None


@pytest.mark.parametrize("engine", ENGINES)
def test_no_order_of_steps_does_harm_on_an_engine(
    engine: str,
    tmp_path: Path,
    stores: Stores,
    report: Callable[[str], None],
) -> None:
    begun = time.perf_counter()
    limit = ORDERS.get(engine, FEW) * int(os.environ.get("POWAUTH_TEST_ORDERS", "1"))
    whole = orders = 0
    with stores.store(engine, tmp_path) as backend:
        for name, scenario in ALL.items():
            if count_of(name, limit) is None:
                found: Report = sample(scenario, backend, limit, SEED)
            else:
                found = explore(replace(scenario, reduced=True), backend)
                whole += 1
            assert found.orders
            orders += found.orders
    seconds = time.perf_counter() - begun
    report(
        f"interleavings on engines: {engine}: {orders} orders of {len(ALL)} scenarios, {whole} of them in every "
        f"order that matters, {seconds:.1f} s"
    )
