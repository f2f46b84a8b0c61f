"""The gate: what an authenticated request costs, in instructions, may not grow by more than 5 % unnoticed."""

from collections.abc import Callable

import pytest
from benchmarks import instructions
from benchmarks.instruction_scenarios import ADDED, BLOCKS, FLOOR, REQUESTS

NEEDLESS = "ASGI, memory, needless"
"""The scenario whose middleware does a piece of work too much."""

BEFORE = {FLOOR: 20_000, "ASGI, memory": 100_000, "WSGI, memory": 120_000}


@pytest.fixture(scope="module")
def counted() -> instructions.Counts:
    reason = instructions.unavailable()
    if reason is not None:
        pytest.skip(f"instructions cannot be counted: {reason}")
    return instructions.count()


@pytest.fixture(scope="module")
def recorded(counted: instructions.Counts) -> instructions.Counts:
    found = instructions.records().get(instructions.build())
    if found is None:
        pytest.skip(f"no record for {instructions.build()}: python -m benchmarks.instructions --record")
    return found


def test_a_request_costs_no_more_than_is_on_record(
    counted: instructions.Counts, recorded: instructions.Counts, report: Callable[[str], None]
) -> None:
    assert recorded.keys() == ADDED.keys(), "scenarios have changed: python -m benchmarks.instructions --record"
    times, changes = instructions.ratios(counted), instructions.changes(recorded, counted)
    for name, number in counted.items():
        report(f"{name}: {number:,} instructions added, {times[name]:.2f} x the floor, {changes[name]:+.1%} on record")
    assert instructions.dearer(recorded, counted) == []


def test_a_needless_piece_of_work_is_counted_and_caught(
    counted: instructions.Counts, recorded: instructions.Counts
) -> None:
    careless = counted | {"ASGI, memory": counted[NEEDLESS]}
    assert careless["ASGI, memory"] > counted["ASGI, memory"]
    (found,) = instructions.dearer(recorded, careless)
    assert found.startswith(f"ASGI, memory: {counted[NEEDLESS]:,} instructions")


def test_the_counts_are_of_what_the_scenarios_say(counted: instructions.Counts) -> None:
    assert 0 < counted[FLOOR] < counted["ASGI, memory"]
    # All requests share one identity, whoever the users are.
    assert counted["ASGI, memory, SQLAlchemy"] == pytest.approx(counted["ASGI, memory"], rel=0.02)
    assert 0 < counted["ASGI, anonymous"] < counted["ASGI, memory"] < counted["ASGI, LMDB"]
    assert counted["ASGI, anonymous"] < counted["ASGI, forged"], "an event is told of"


def test_up_to_five_percent_more_passes_and_any_more_fails_with_the_figure() -> None:
    assert instructions.dearer(BEFORE, BEFORE | {"ASGI, memory": 104_999}) == []
    assert instructions.dearer(BEFORE, BEFORE | {"ASGI, memory": 105_100}) == [
        "ASGI, memory: 105,100 instructions a request where 100,000 are on record, +5.1%"
    ]
    assert instructions.dearer(BEFORE, BEFORE | {"WSGI, memory": 1_000}) == []


def test_another_build_is_compared_by_the_yardstick() -> None:
    twice = {name: 2 * number for name, number in BEFORE.items()}
    assert instructions.dearer(BEFORE, twice) == []
    assert instructions.dearer(BEFORE, twice | {"WSGI, memory": 253_000}) == [
        "WSGI, memory: 253,000 instructions a request where 240,000 are on record, +5.4%"
    ]


def test_the_middle_block_counts_less_the_app_alone() -> None:
    names = list(dict.fromkeys([*ADDED.values(), *ADDED]))
    totals = [9_999_999]
    for number, _ in enumerate(names, 1):
        blocks = [1_000 * number * REQUESTS] * BLOCKS
        blocks[0] += 77_777  # what happened once
        totals += [*blocks, 8_888_888]
    added = instructions.added(names, totals)
    assert added == {name: 1_000 * (names.index(name) - names.index(bare)) for name, bare in ADDED.items()}


def test_without_valgrind_the_reason_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert instructions.unavailable() == "valgrind is not installed"


def test_a_scenario_that_fails_is_an_error_and_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = instructions.unavailable()
    if reason is not None:
        pytest.skip(f"instructions cannot be counted: {reason}")
    monkeypatch.setattr(instructions, "SCENARIOS", "benchmarks.no_such_module")
    with pytest.raises(RuntimeError, match="no_such_module"):
        instructions.count()
