"""The gate on coverage: one line or branch of the core that no test reaches closes it."""

from pathlib import Path
from typing import Any

from scripts.coverage_gate import CORE, ELSEWHERE_PERCENT, failures, missing_lines, percent_elsewhere

SOURCES = Path(__file__).parents[2] / "src"


def a_file(lines: int = 8, branches: int = 2, missing: int = 0, missed_branches: int = 0) -> dict[str, Any]:
    """What ``coverage json`` says of a file."""
    return {
        "summary": {
            "num_statements": lines,
            "covered_lines": lines - missing,
            "num_branches": branches,
            "covered_branches": branches - missed_branches,
        },
        "missing_lines": list(range(1, missing + 1)),
        "missing_branches": [[line, line + 1] for line in range(1, missed_branches + 1)],
    }


def whole() -> dict[str, dict[str, Any]]:
    """A report of a run that covers all of the core, and of one more file."""
    names = [f"{part}a_file.py" if part.endswith("/") else part for part in CORE]
    return {f"src/{name}": a_file() for name in [*names, "powauth/cli/output.py"]}


def test_a_run_that_covers_all_is_good() -> None:
    assert failures(whole()) == []
    assert missing_lines(whole()) == []


def test_one_line_of_the_core_closes_the_gate_whatever_else_is_covered() -> None:
    for missed in ({"missing": 1}, {"missed_branches": 1}):
        files = whole() | {"src/powauth/plug/a_file.py": a_file(lines=10_000, **missed)}
        (reason,) = failures(files)
        assert reason.startswith("src/powauth/plug/a_file.py: 99.99 % of a file of the core")
        (line,) = missing_lines(files)
        assert line.startswith("CORE src/powauth/plug/a_file.py: 99.99 %, lines ")
        assert line.endswith("lines [1], branches " if "missing" in missed else "lines [], branches 1->2")


def test_the_rest_is_measured_as_one() -> None:
    files = whole() | {"src/powauth/pages/site.py": a_file(lines=90, missing=6)}
    assert percent_elsewhere(files) == 100 * 96 / 102
    assert failures(files) == [f"94.12 % outside of the core, which needs {ELSEWHERE_PERCENT:.0f} %"]
    files["src/powauth/pages/site.py"] = a_file(lines=90, missing=5)
    assert failures(files) == []


def test_a_file_that_left_the_core_closes_the_gate() -> None:
    files = whole()
    files["src/powauth/anything.py"] = files.pop("src/powauth/request_auth.py")
    assert failures(files) == ["no file of the core is at powauth/request_auth.py: correct CORE"]


def test_the_core_is_in_the_package() -> None:
    assert [part for part in CORE if not (SOURCES / part).exists()] == []
