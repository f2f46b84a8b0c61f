"""The README's programs, run as printed, and what it says to install."""

import re
import sys
import tomllib
from pathlib import Path

from scripts.page_journeys import follow
from scripts.page_programs import ROOT, read_page

README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = read_page(ROOT / "README.md")
BIN = Path(sys.executable).parent


def test_each_program_is_under_50_lines() -> None:
    assert [program.name for program in PAGE.programs] == ["app.py", "web.py"]
    for program in PAGE.programs:
        assert len(program.text.splitlines()) < 50


def test_the_first_commands_are_demo_and_test() -> None:
    assert re.findall(r"^    (make \w+)", README, re.MULTILINE)[:2] == ["make demo", "make test"]


def test_rep_05_the_first_program_alone_registers_signs_in_and_signs_out(tmp_path: Path) -> None:
    """In an empty folder, with what the README says to install."""
    first = PAGE._replace(programs=PAGE.programs[:1])
    ((program, outcome),) = follow(first, lambda _: BIN, tmp_path)
    assert (program.name, outcome) == ("app.py", "ok")
    assert "powauth[fastapi,flask,users,lmdb]" in program.requirements
    assert "uvicorn" in program.requirements


def test_the_programs_run_as_printed_and_share_their_users(tmp_path: Path) -> None:
    assert {outcome for _, outcome in follow(PAGE, lambda _: BIN, tmp_path)} == {"ok"}


def test_the_extras_are_those_of_the_project() -> None:
    table = README.partition("| extra | for |")[2].partition("\n\n")[0]
    named = [
        name for line in table.splitlines() for name in re.findall(r"`([\w-]+)`", line.partition("|")[2].split("|")[0])
    ]
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert sorted(named) == sorted(extras.keys() - {"demo"})
