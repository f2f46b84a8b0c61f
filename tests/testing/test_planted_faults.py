"""How many faults are planted to try the published suites; the modules ``test_*_mutants*`` see each one caught.

Each of them runs `harness.mutants.assert_caught` on each of its mutants: caught in `RUNS` runs of `RUNS`.
"""

import importlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.mutants import RUNS, Mutant

HERE = Path(__file__).parent


def faults(kind: str) -> dict[str, Mutant]:
    """The mutants of a kind of component by the names of their classes, without variants of the suite."""
    found: dict[str, Mutant] = {}
    for path in sorted(HERE.glob(f"test_{kind}_mutants*.py")):
        module = importlib.import_module(f"testing.{path.stem}")
        tests = (each for name, each in vars(module).items() if name.startswith("test_the_suite_catches"))
        marks = [mark for test in tests for mark in test.pytestmark if mark.name == "parametrize"]
        for mutant in (mutant for mark in marks for mutant in mark.args[1]):
            found[mutant.name.partition("-")[0]] = mutant
    return found


@pytest.mark.parametrize(("kind", "least"), [("backend", 60), ("users", 30)])
def test_rep_60_to_64_so_many_faults_are_planted(kind: str, least: int, report: Callable[[str], None]) -> None:
    planted = faults(kind)
    report(f"published suite of {kind}: {len(planted)} planted faults, each caught in {RUNS} runs of {RUNS}")
    assert RUNS == 3
    assert len(planted) >= least
    assert len({mutant.wrong for mutant in planted.values()}) == len(planted), "each is another fault"


@pytest.mark.parametrize(("kind", "number"), [("backend", "60"), ("backend", "61"), ("users", "62"), ("users", "63")])
def test_rep_60_to_63_faults_of_each_report_are_among_them(kind: str, number: str) -> None:
    tests = {mutant.caught_by for mutant in faults(kind).values()}
    assert any(re.match(rf"test_rep_{number}_", test) for test in tests)
