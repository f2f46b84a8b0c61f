"""A thief changes factors while the owner ends everything: powauth reads the session and the account again."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from harness.authenticators import Authenticated, Code, authenticated, secret_on
from harness.pages_support import EMAIL, Browser
from harness.slow_bodies import during_the_body
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.testing.extension.suite import BreakableBackend

STEPS = 60
"""More calls of the store than an answer takes."""


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Authenticated]:
    with authenticated("wsgi", tmp_path) as made:
        yield made


def revocation(one: Authenticated) -> None:
    drive(one.auth.revoke_user(one.key_of()))


def new_password(one: Authenticated) -> None:
    drive(one.auth.update_account(one.key_of(), password="eleven grey geese"))


def reset(one: Authenticated) -> None:
    drive(one.factors.reset(one.key_of()))


def deletion(one: Authenticated) -> None:
    drive(one.auth.delete_account(one.key_of()))


ENDINGS = [revocation, new_password, reset, deletion]


@contextmanager
def before_statement(one: Authenticated, beginning: str, work: Callable[[], object]) -> Iterator[None]:
    """Do work once, right before a statement."""
    waiting = [work]

    def look(connection: Any, cursor: Any, statement: str, *rest: object) -> None:
        if statement.startswith(beginning) and waiting:
            waiting.pop()()

    sa.event.listen(one.engine, "before_cursor_execute", look)
    yield
    sa.event.remove(one.engine, "before_cursor_execute", look)
    assert not waiting, f"there was no {beginning}"


def removal_of(one: Authenticated, email: str = EMAIL) -> dict[str, str]:
    (found,) = [each for each in drive(one.factors.enrolled(one.key_of(email))) if each.factor == "totp"]
    return {"action": "remove", "factor": "totp", "id": found.id}


def test_trm_01_a_session_that_ends_during_a_slow_request_removes_no_factor(one: Authenticated) -> None:
    thief = one.signed_in()
    one.enrol(thief)
    fields = removal_of(one)
    with during_the_body(one.site, lambda: revocation(one)):
        answer = thief.post("/account/factors", fields)
    assert len(one.rows()) == 1
    assert (answer.status, answer.location) == (303, "/login?next=/account/factors")


def test_trm_01_a_session_that_ends_during_a_slow_request_replaces_no_codes(one: Authenticated) -> None:
    thief = one.signed_in()
    one.enrol(thief)
    one.codes(thief)
    before = one.rows(Code)
    with during_the_body(one.site, lambda: revocation(one)):
        answer = thief.post("/account/factors/recovery", {"action": "make"})
    assert one.rows(Code) == before
    assert (answer.status, answer.location) == (303, "/login?next=/account/factors/recovery")


def test_trm_01_a_factor_does_not_sign_in_a_session_that_ends_during_a_slow_request(one: Authenticated) -> None:
    """A challenge for a signed-in user belongs to the session. The thief may have the code of the factor."""
    thief = one.signed_in()
    secret = one.enrol(thief)
    one.clock.now += 60
    assert thief.get("/login/factor").status == 200
    owner = one.browser()
    assert one.sign_in(owner, secret).status == 303
    one.clock.now += 60

    def end_others() -> None:
        assert owner.post("/account/sessions", {"action": "end_others"}).status == 303

    with during_the_body(one.site, end_others):
        answer = one.answer(thief, one.code(secret))
    assert (answer.status, answer.location) == (303, "/login?done=challenge_invalid")
    assert not thief.is_signed_in()
    assert owner.is_signed_in()


@pytest.mark.parametrize("end", ENDINGS, ids=lambda end: end.__name__)
def test_trm_02_a_session_that_ends_meanwhile_leaves_no_codes(
    one: Authenticated, end: Callable[[Authenticated], None]
) -> None:
    thief = one.signed_in()
    one.enrol(thief)
    with before_statement(one, "DELETE FROM recovery_codes", lambda: end(one)):
        answer = thief.post("/account/factors/recovery", {"action": "make"})
    assert (answer.status, answer.location) == (303, "/login?next=/account/factors/recovery")
    assert one.rows(Code) == []


@pytest.mark.parametrize("end", ENDINGS, ids=lambda end: end.__name__)
def test_trm_02_a_session_that_ends_meanwhile_turns_no_app_on(
    one: Authenticated, end: Callable[[Authenticated], None]
) -> None:
    thief = one.signed_in()
    page = thief.post("/account/factors/totp", {"action": "begin"})
    code = one.code(page.html.partition("<code>")[2].partition("</code>")[0])
    with before_statement(one, "UPDATE authenticators", lambda: end(one)):
        answer = thief.post("/account/factors/totp", {"action": "confirm", "code": code})
    assert (answer.status, answer.location) == (303, "/login?next=/account/factors/totp")
    assert one.rows() == []
    assert not thief.is_signed_in()


def test_a_sign_in_turns_no_second_app_on(tmp_path: Path) -> None:
    """A thief who knows only the password sets an app up, and the owner is faster by a moment."""
    with authenticated("wsgi", tmp_path, required=True) as one:
        one.member()
        thief, owner = one.browser(), one.browser()
        for browser in (thief, owner):
            assert browser.sign_in().location == "/login/factor"
        code = one.code(secret_on(thief.get("/login/factor")))

        def first() -> None:
            page = owner.get("/login/factor")
            assert one.answer(owner, one.code(secret_on(page))).status == 303

        with before_statement(one, "INSERT INTO authenticators", first):
            late = one.answer(thief, code)
        assert late.location == "/login?done=challenge_invalid"
        assert (owner.is_signed_in(), thief.is_signed_in()) == (True, False)
        assert len(one.rows()) == 1


def remove(owner: Browser, one: Authenticated, email: str) -> None:
    assert owner.post("/account/factors", removal_of(one, email)).location == "/account/factors?done=factor_removed"


def end_others(owner: Browser, one: Authenticated, email: str) -> None:
    assert owner.post("/account/sessions", {"action": "end_others"}).status == 303


@pytest.mark.parametrize(
    ("factor", "stepping_up", "end"),
    [
        ("totp", False, remove),
        ("recovery_code", False, remove),
        ("totp", True, remove),
        ("recovery_code", True, remove),
        ("totp", True, end_others),
    ],
)
def test_mfa_an_answer_in_flight_does_not_survive_the_end(
    factor: str, stepping_up: bool, end: Callable[[Browser, Authenticated, str], None], tmp_path: Path
) -> None:
    """A thief has the password and the lost device. The owner acts at any step of the thief's answer, and at none."""
    backend = BreakableBackend(MemoryBackend())
    with authenticated("wsgi", tmp_path, auth={"backend": backend, "throttle": None}) as one:
        for step in range(STEPS):
            email = f"mia{step}@example.com"
            owner, thief, acts = one.signed_in(email), one.browser(), list[str]()
            secret = one.enrol(owner)
            codes = one.codes(owner)
            one.clock.now += 60
            assert thief.sign_in(email).location == "/login/factor"
            if stepping_up:
                assert one.answer(thief, one.code(secret)).status == 303
                one.clock.now += 60
                assert thief.get("/login/factor").status == 200

            async def act(owner: Browser = owner, email: str = email, acts: list[str] = acts) -> None:
                end(owner, one, email)
                acts.append(email)

            backend.run_before(step, act)
            answer = one.answer(thief, one.code(secret) if factor == "totp" else codes[0], factor)
            backend.run_before(0, act)
            if step == 0:
                assert (answer.status, thief.is_signed_in(), owner.is_signed_in()) == (303, True, True)
                continue
            if not acts:  # the answer has fewer steps than that
                assert step > 5
                break
            assert (step, thief.is_signed_in(), owner.is_signed_in()) == (step, False, True)
        else:
            pytest.fail("the answer has more steps than this test tries")
