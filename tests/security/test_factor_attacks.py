"""AUT-06: the attacks of ``python -m scripts.factor_attacks``, each against one of the demo's servers, in turns."""

from pathlib import Path

import pytest
from scripts.factor_attacks import __main__ as command
from scripts.factor_attacks import arena, running

from harness.demo_support import ROOT

ENOUGH = 40


def test_aut_06_no_attack_on_second_factors_and_passkeys_succeeds(tmp_path: Path) -> None:
    rows: list[str] = []
    outcomes = running.run_all(tmp_path, lambda each: rows.append(running.row(each)), quick=True)
    assert [row for row in rows if not row.endswith("| held |")] == []
    assert len({each.attack.name for each in outcomes}) == len(outcomes) == len(arena.ATTACKS) >= ENOUGH


def test_an_attack_that_succeeds_and_a_control_that_fails_are_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def succeeds(here: arena.Arena, one: str, other: str) -> str:
        thief = here.client(one)
        arena.control(thief.get("/account").status_code == 401, "a path that is there")
        arena.refused(thief.get("/login"), 401)
        return "never"

    def shows_nothing(here: arena.Arena, one: str, other: str) -> str:
        arena.control(here.client(one).get("/acount").status_code == 200, "a path with a typing error")
        return "never"

    def fails(here: arena.Arena, one: str, other: str) -> str:
        here.client(one).cookie("auth")
        return "never"

    def is_held(here: arena.Arena, one: str, other: str) -> str:
        arena.refused(here.client(one).get("/account"), 401, error="not_signed_in")
        return "401"

    runs = [succeeds, shows_nothing, fails, is_held]
    for run in runs:
        run.__module__ = running.MODULES[0].__name__
    made = [arena.Attack(run.__name__, "all", run, once=run is succeeds) for run in runs]
    monkeypatch.setattr(arena, "ATTACKS", made)
    monkeypatch.setattr(running, "ATTACKS", made)
    monkeypatch.setattr("sys.argv", ["factor_attacks"])
    assert command.main() == 1
    printed = capsys.readouterr().out
    assert "| 1 | succeeds | all | Flask: the answer is GET /login: 200" in printed
    assert "FastAPI: the control failed: a path with a typing error; Flask: the control failed" in printed
    assert "the control failed: there are 0 cookies 'auth'" in printed
    assert "| 4 | is_held | all | 401 | held |" in printed
    assert "4 attacks in" in printed
    assert "1 held, 3 broken" in printed


def test_the_page_on_security_has_the_number_of_attacks() -> None:
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    assert f"in {len(arena.ATTACKS)} ways" in " ".join(page.split())
