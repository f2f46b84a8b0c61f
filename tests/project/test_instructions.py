"""The gate on the instructions of a request, without the counting: `make gate` counts, under valgrind."""

import re
from pathlib import Path

import pytest
from benchmarks import instructions
from benchmarks.instruction_scenarios import ADDED, BLOCKS, FLOOR, REQUESTS

BEFORE = {FLOOR: 20_000, "ASGI, memory": 100_000, "WSGI, memory": 120_000}


COUNTS = {
    FLOOR: 20_000,
    "ASGI, memory, user not read": 36_500,
    "ASGI, memory": 36_000,
    "ASGI, memory, needless": 48_000,
    "ASGI, memory, SQLAlchemy": 36_100,
    "ASGI, LMDB": 41_000,
    "ASGI, anonymous": 30_000,
    "ASGI, forged": 55_000,
    "WSGI, memory": 33_000,
    "Flask, memory": 80_000,
}


def test_each_record_is_of_the_scenarios_and_passes_its_own_gate() -> None:
    for counts in instructions.records().values():
        assert counts.keys() == ADDED.keys(), "scenarios have changed: python -m benchmarks.instructions --record"
        assert instructions.verdict(counts, counts) == []


def test_the_page_has_the_counts_on_record() -> None:
    records = instructions.records()
    page = Path("docs/performance.md").read_text(encoding="utf-8")
    head, *rows = (line for line in page.splitlines() if re.match(r"\| (added|ASGI|WSGI|Flask)", line))
    builds = [f"cpython-{version} x86_64" for version in re.findall(r"Python (\d+\.\d+)", head)]
    assert sorted(builds) == sorted(records)
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    found = {name: [int(number.replace(",", "")) for number in numbers] for name, *numbers in cells}
    assert found.keys() == ADDED.keys() - {instructions.NEEDLESS}
    assert found == {name: [records[build][name] for build in builds] for name in found}


def test_each_supported_version_of_python_has_a_record() -> None:
    classifiers = re.findall(r"Python :: (3\.\d+)", Path("pyproject.toml").read_text(encoding="utf-8"))
    assert {f"cpython-{version} x86_64" for version in classifiers} == instructions.records().keys()


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"ASGI, memory": 19_000}, "more than the floor"),
        ({"ASGI, memory, SQLAlchemy": 37_000}, "users in a table"),
        ({"ASGI, anonymous": 36_001}, "nobody costs less"),
        ({"ASGI, LMDB": 35_000}, "memory less than LMDB"),
        ({"ASGI, forged": 29_000}, "emits an event"),
        ({"ASGI, memory, needless": 37_000}, "needless piece of work is caught"),
    ],
)
def test_counts_that_cannot_be_so_fail_the_gate(changed: dict[str, int], what: str) -> None:
    assert instructions.verdict(COUNTS, COUNTS) == []
    assert any(what in line for line in instructions.verdict(COUNTS, COUNTS | changed))


def test_a_build_or_a_scenario_without_a_record_fails_the_gate() -> None:
    (failure,) = instructions.verdict(None, COUNTS)
    assert "--record" in failure
    assert instructions.verdict({FLOOR: 20_000}, COUNTS) == [failure]


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
