"""The whole life of sessions, in any order of events; see `harness.life_of_sessions`."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from harness.broken_cores import BROKEN
from harness.interleavings import Core
from harness.life_of_sessions import LifeOfSessions, RememberedSessions
from powauth.backends.base import Backend, Millis, drive
from powauth.backends.lmdb import LMDBBackend
from powauth.backends.memory import MemoryBackend
from powauth.plug import reader
from powauth.sessions import manager, recognition
from powauth.sessions.ids import PresentedId
from powauth.sessions.record import Outcome, Policy, Session, decide

pytestmark = pytest.mark.untraced


@pytest.fixture(params=["memory", "lmdb"])
def backend(request: pytest.FixtureRequest, quick_path: Path) -> Iterator[Backend]:
    made: Backend = MemoryBackend() if request.param == "memory" else LMDBBackend(quick_path / "db", durable=False)
    yield made
    drive(made.close())


def run(
    backend: Backend, kind: type[LifeOfSessions] = LifeOfSessions, core: Core | None = None, **changes: object
) -> None:
    memory = isinstance(backend, MemoryBackend)
    machine = type("Machine", (kind,), {"backend": backend, "rolls_back": memory, "core": core or Core()})
    options = {
        "max_examples": 180,
        "stateful_step_count": 40,
        "deadline": None,
        "database": None,
        "derandomize": bool(os.environ.get("CI")),
        "suppress_health_check": list(HealthCheck),
        **changes,
    }
    with patch.object(logging.getLogger("powauth"), "disabled", True):
        run_state_machine_as_test(machine, settings=settings(**options))  # type: ignore[arg-type]


FIRST_FOUND: dict[str, Any] = {"phases": [Phase.generate], "derandomize": True, "report_multiple_bugs": False}
"""Settings for a machine that must fail."""


@contextmanager
def deciding(rule: Callable[[Session, PresentedId, Millis, Policy], Outcome]) -> Iterator[None]:
    """Put a rule in the place of `decide`, at the request and at the response."""
    with patch.object(recognition, "decide", rule), patch.object(manager, "decide", rule):
        yield


def test_any_life_of_sessions_is_as_the_table_says(backend: Backend) -> None:
    """And it comes to each row of the table."""
    outcomes: Counter[Outcome] = Counter()

    def counting(session: Session, presented: PresentedId, now: Millis, policy: Policy) -> Outcome:
        outcome = decide(session, presented, now, policy)
        outcomes[outcome] += 1
        return outcome

    with deciding(counting):
        run(backend)
    # No id is a stranger's here, and these backends never hand out an expired record.
    never = {Outcome.STRANGER, Outcome.EXPIRED} | (set() if isinstance(backend, MemoryBackend) else {Outcome.AHEAD})
    assert set(outcomes) == set(Outcome) - never


def test_any_life_of_remembered_sessions_is_as_the_page_says(backend: Backend) -> None:
    """REM-01 to REM-03, and REM-05: pauses of days, restored ids, step-ups, and durations that are shortened."""
    run(backend, RememberedSessions, max_examples=120)


@pytest.mark.parametrize(
    "broken", ["NeverAsksAgain", "ForgetsThePause", "ForgetsTheFlag", "UpdatesBlindly", "UpdateCreates"]
)
def test_a_mistake_with_remembered_sessions_is_found(broken: str) -> None:
    with pytest.raises(AssertionError):
        run(MemoryBackend(), RememberedSessions, BROKEN[broken], **FIRST_FOUND)


def test_durations_that_come_too_late_are_found() -> None:
    """If a record kept its durations, shortening them would not be in force at once."""

    def by_the_record(session: Session, presented: PresentedId, now: Millis, policy: Policy) -> Outcome:
        outcome = decide(session, presented, now, policy)
        return Outcome.CURRENT if outcome is Outcome.EXPIRED else outcome

    with deciding(by_the_record), pytest.raises(AssertionError):
        run(MemoryBackend(), RememberedSessions, **FIRST_FOUND)


def test_a_return_that_loads_nobody_is_found() -> None:
    with patch.object(reader, "resumes", lambda *_: False), pytest.raises(AssertionError):
        run(MemoryBackend(), RememberedSessions, **FIRST_FOUND)


def instead(wrong: Outcome, right: Outcome) -> Callable[[Session, PresentedId, Millis, Policy], Outcome]:
    def rule_of_the_table(session: Session, presented: PresentedId, now: Millis, policy: Policy) -> Outcome:
        outcome = decide(session, presented, now, policy)
        return wrong if outcome is right else outcome

    return rule_of_the_table


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (Outcome.REUSE, Outcome.RESEND),
        (Outcome.REUSE, Outcome.STRANGER),
        (Outcome.RESEND, Outcome.REUSE),
        (Outcome.RESEND, Outcome.CURRENT),
        (Outcome.RENEW, Outcome.CURRENT),
        (Outcome.CONFIRM, Outcome.CURRENT),
        (Outcome.AHEAD, Outcome.STRANGER),
        (Outcome.AHEAD, Outcome.CURRENT),
    ],
)
def test_a_row_that_is_carried_out_wrongly_is_found(right: Outcome, wrong: Outcome) -> None:
    with (
        deciding(instead(wrong, right)),
        pytest.raises(AssertionError),
    ):
        run(MemoryBackend(), **FIRST_FOUND)
