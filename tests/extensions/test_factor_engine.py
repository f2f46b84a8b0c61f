"""`SecondFactor`: the engine, with factors of the tests."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from harness.factors import WORD, Factored, factored
from harness.pages_support import EMAIL, PASSWORD, Browser, Page
from harness.support import FakeConnection
from powauth import ConfigError, NotFresh, NotSignedIn, Remember, RequestAuth, StoreUnavailable
from powauth.backends.base import drive
from powauth.http.answers import answer_to
from powauth.http.guards import require_all_fresh, require_fresh

FRAMEWORKS = ("asgi", "wsgi")


@pytest.fixture(params=FRAMEWORKS)
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Factored]:
    with factored(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Factored]:
    with factored("wsgi", tmp_path, two=True) as made:
        yield made


def test_a_password_and_a_factor_sign_in(here: Factored) -> None:
    here.member()
    browser = here.browser()
    page = here.password(browser)
    assert page.status == 200
    assert not browser.is_signed_in()
    wrong = here.answer(browser, "close sesame")
    assert (wrong.status, "Try again" in wrong.text) == (401, True)
    done = here.answer(browser, WORD)
    assert (done.status, done.location) == (303, "/account"), done.text
    assert browser.is_signed_in()


def test_the_json_twin_does_the_same(here: Factored) -> None:
    here.member()
    program = here.program()
    asked = program.post("/login", json={"email": EMAIL, "password": PASSWORD})
    assert (asked.status_code, asked.json()) == (401, {"error": "second_factor_required", "factors": ["word"]})
    assert program.get("/login/factor").json() == {"factors": ["word"], "options": {}}
    wrong = program.post("/login/factor", json={"code": "x"})
    assert (wrong.status_code, wrong.json()) == (401, {"error": "second_factor_refused", "factors": ["word"]})
    assert program.get("/account").status_code == 401
    done = program.post("/login/factor", json={"code": WORD})
    assert done.status_code == 200
    assert done.json()["user"]["email"] == EMAIL
    assert program.get("/account").status_code == 200
    again = program.post("/login/factor", json={"code": WORD})
    assert (again.status_code, again.json()["error"]) == (403, "challenge_invalid")


# --- guessing ---------------------------------------------------------------------------------------------------------


def throttled(page: Page) -> bool:
    return page.status == 429 and page.header("retry-after") is not None


def test_guesses_over_challenges_sources_and_factors_count_together(one: Factored) -> None:
    """A limit for each challenge is none: an attacker begins another one."""
    one.member()
    for number in range(10):
        browser = one.browser()
        one.password(browser)
        factor = "word" if number % 2 else "other"
        one.site.clock.now += 1
        assert one.answer(browser, "wrong", factor=factor).status == 401
    for factor in ("word", "other"):
        browser = one.browser()
        one.password(browser)
        assert throttled(one.answer(browser, "wrong", factor=factor))
        assert throttled(one.answer(browser, WORD)), "the eleventh answer was checked"
    one.site.clock.now += 15 * 60
    owner = one.browser()
    one.password(owner)
    assert one.answer(owner, WORD).status == 303


def test_parallel_guesses_count_too(one: Factored) -> None:
    one.member()
    browsers = [one.browser() for _ in range(25)]
    for browser in browsers:
        one.password(browser)
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda browser: one.answer(browser, "wrong").status, browsers))
    assert (statuses.count(401), statuses.count(429)) == (10, 15)


def test_the_owners_success_gives_a_guesser_no_new_attempts(one: Factored) -> None:
    one.member()
    guesser, owner = one.browser(), one.browser()
    one.password(guesser)
    for _ in range(9):
        assert one.answer(guesser, "wrong").status == 401
    one.password(owner)
    assert one.answer(owner, WORD).status == 303
    assert one.answer(guesser, "wrong").status == 401
    assert throttled(one.answer(guesser, "wrong"))


def test_a_step_up_counts_with_the_sign_ins(one: Factored) -> None:
    """An open browser must not be another way to guess."""
    one.member()
    inside, guesser = one.browser(), one.browser()
    one.password(inside)
    one.answer(inside, WORD)
    one.password(guesser)
    for _ in range(10):
        assert one.answer(guesser, "wrong").status == 401
    assert inside.get("/login/factor").status == 200
    assert throttled(one.answer(inside, WORD))
    assert inside.is_signed_in()


def test_support_forgets_the_failures_of_a_user(one: Factored) -> None:
    me, browser = one.member(), one.browser()
    one.password(browser)
    for _ in range(10):
        one.answer(browser, "wrong")
    assert drive(one.engine.forget_failures(me)) is True
    assert drive(one.engine.forget_failures(me)) is False
    assert one.answer(browser, WORD).status == 303


def test_what_is_no_answer_is_no_guess(one: Factored) -> None:
    one.member()
    browser = one.browser()
    one.password(browser)
    for _ in range(20):
        assert one.answer(browser, "").status == 422
        assert one.answer(browser, "x", factor="another").status == 422
    assert one.answer(browser, WORD).status == 303


def test_passwords_are_guessed_no_longer_because_of_right_ones(one: Factored) -> None:
    """The right password is no failure. The failures are forgotten only with the last factor."""
    one.member()
    browser = one.browser()
    for _ in range(9):
        assert browser.sign_in(password="wrong").status == 401
    one.password(browser)
    assert browser.sign_in(password="wrong").status == 401
    assert throttled(browser.sign_in())
    one.site.clock.now += 15 * 60
    for _ in range(9):
        assert browser.sign_in(password="wrong").status == 401
    one.password(browser)
    assert one.answer(browser, WORD).status == 303
    for _ in range(10):
        assert one.browser().sign_in(password="wrong").status == 401


# --- challenges -------------------------------------------------------------------------------------------------------


def challenge_of(browser: Browser) -> str:
    (value,) = [value for name, value in browser.cookies.items() if name.endswith("_factor")]
    return value


def test_the_cookie_of_a_challenge_has_the_rules_of_the_sessions(one: Factored) -> None:
    one.member()
    page = one.browser().sign_in()
    (cookie,) = page.response.headers.get_list("set-cookie")
    name, _, rest = cookie.partition("=")
    attributes = sorted(rest.split("; ")[1:])
    assert name == "__Host-auth_factor"
    assert attributes == ["HttpOnly", "Max-Age=300", "Path=/", "SameSite=Lax", "Secure"]
    assert page.header("cache-control") == "no-store"


def test_a_challenge_ends_after_five_minutes(one: Factored) -> None:
    one.member()
    browser = one.browser()
    one.password(browser)
    one.site.clock.now += 301
    late = one.answer(browser, WORD)
    assert (late.status, late.location) == (303, "/login?done=challenge_invalid")
    assert "start again" in browser.follow(late).text
    assert not browser.is_signed_in()


def test_a_challenge_is_good_for_one_success(one: Factored) -> None:
    one.member()
    browser, thief = one.browser(), one.browser()
    one.password(browser)
    thief.client.cookies.update(browser.client.cookies)
    assert one.answer(browser, WORD).status == 303
    assert one.answer(thief, WORD).location == "/login?done=challenge_invalid"
    assert not thief.is_signed_in()


def test_of_parallel_answers_one_signs_in(one: Factored) -> None:
    one.member()
    browser = one.browser()
    one.password(browser)
    browsers = [one.browser() for _ in range(20)]
    for each in browsers:
        each.client.cookies.update(browser.client.cookies)
    with ThreadPoolExecutor(20) as pool:
        list(pool.map(lambda each: one.answer(each, WORD), browsers))
    assert [each.is_signed_in() for each in browsers].count(True) == 1


def change_password(one: Factored, me: Any) -> None:
    drive(one.auth.update_account(me, password="eleven grey geese"))


def change_it_elsewhere(one: Factored, me: Any) -> None:
    drive(one.auth.users.update(one.auth.key_of(me), {"password": "eleven grey geese"}, trusted=True))


def revoke(one: Factored, me: Any) -> None:
    drive(one.auth.revoke_user(me))


def lock(one: Factored, me: Any) -> None:
    one.site.change(locked=True)


def turn_off(one: Factored, me: Any) -> None:
    one.words.words.clear()


def reset(one: Factored, me: Any) -> None:
    drive(one.engine.reset(me))


def delete(one: Factored, me: Any) -> None:
    drive(one.auth.delete_account(me))


ENDS = [change_password, change_it_elsewhere, lock, revoke, turn_off, reset, delete]


@pytest.mark.parametrize("change", ENDS, ids=lambda change: change.__name__)
def test_trm_a_challenge_does_not_survive(one: Factored, change: Callable[[Factored, Any], None]) -> None:
    """TRM-02, TRM-03, TRM-04: also if another program makes the change, or the factor is off meanwhile."""
    me, browser = one.member(), one.browser()
    one.password(browser)
    change(one, me)
    assert one.answer(browser, WORD).location == "/login?done=challenge_invalid"
    assert not browser.is_signed_in()


def test_two_cookies_of_one_name_are_no_challenge(one: Factored) -> None:
    """A sibling host planted one. Nobody knows which of them is the browser's own."""
    one.member()
    browser = one.browser()
    one.password(browser)
    own = challenge_of(browser)
    browser.client.cookies.clear()
    headers = {"cookie": f"__Host-auth_factor={own}; __Host-auth_factor={own[::-1]}"}
    planted = browser.post("/login/factor", {"code": WORD}, **headers)
    assert planted.location == "/login?done=challenge_invalid"


def test_an_attackers_challenge_does_not_take_the_victims_word(one: Factored) -> None:
    """Session fixation: the attacker plants the cookie of a challenge, and waits for the victim to complete it."""
    one.member("eve@example.com", word="the word of eve")
    one.member()
    attacker, victim = one.browser(), one.browser()
    attacker.sign_in("eve@example.com")
    victim.client.cookies.update(attacker.client.cookies)
    assert one.answer(victim, WORD).status == 401
    planted = challenge_of(victim)
    one.password(victim)
    assert challenge_of(victim) != planted, "a sign-in adopts what was planted"
    assert one.answer(victim, WORD).status == 303
    attacker.client.cookies.update({"__Host-auth_factor": planted})
    assert not attacker.is_signed_in()


@pytest.mark.parametrize("value", ["", "x", "x" * 72, "\u00e9" * 72, ["x"], {}, 7, True])
def test_aut_04_a_challenge_of_any_kind_is_refused(one: Factored, value: object) -> None:
    program = one.program()
    refused = program.post("/login/factor", json={"code": WORD, "challenge": value})
    assert (refused.status_code, refused.json()["error"]) == (403, "challenge_invalid")


def test_a_challenge_of_one_carrier_is_invalid_for_the_other(one: Factored) -> None:
    one.member()
    browser = one.browser()
    one.password(browser)
    program = one.program()
    refused = program.post("/login/factor", json={"code": WORD, "challenge": challenge_of(browser)})
    assert refused.status_code == 403


def test_cross_site_requests_answer_nothing(one: Factored) -> None:
    one.member()
    browser = one.browser()
    one.password(browser)
    refused = browser.post("/login/factor", {"code": WORD}, sec_fetch_site="cross-site", origin="https://evil.example")
    assert (refused.status, browser.is_signed_in()) == (403, False)


def test_the_store_of_factors_is_away(one: Factored) -> None:
    me = one.member(word=None)
    one.words.broken = True
    program = one.program()
    asked = program.post("/login", json={"email": EMAIL, "password": PASSWORD})
    assert (asked.status_code, asked.json()["error"]) == (503, "store_unavailable")
    one.words.broken = False
    assert program.post("/login", json={"email": EMAIL, "password": PASSWORD}).json()["user"]["email"] == me.email


# --- stepping up ------------------------------------------------------------------------------------------------------


def test_a_factor_makes_a_session_fresh_and_keeps_it_remembered(tmp_path: Path) -> None:
    with factored("asgi", tmp_path, auth={"remember": Remember()}) as one:
        one.member()
        browser = one.browser()
        asked = browser.post("/login", {"email": EMAIL, "password": PASSWORD, "remember": "true"})
        browser.follow(asked)
        done = one.answer(browser, WORD)
        assert "Max-Age" in done.response.headers["set-cookie"]
        before = browser.cookies["__Host-auth"]
        one.site.clock.now += timedelta(days=2).total_seconds()
        page = browser.get("/account/factors")
        refused = browser.send(page, "remove", factor="word", id="1")
        assert refused.location == "/login?next=/account/factors"
        assert browser.get("/login/factor?next=/account/factors").status == 200
        done = one.answer(browser, WORD, next="/account/factors")
        assert (done.status, done.location) == (303, "/account/factors")
        assert browser.cookies["__Host-auth"] != before
        assert any("Max-Age=2" in each for each in done.response.headers.get_list("set-cookie")), "not remembered"
        assert browser.send(browser.get("/account/factors"), "remove", factor="word", id="1").status == 303


def test_a_password_alone_does_not_step_up(one: Factored) -> None:
    one.member()
    browser = one.browser()
    one.password(browser)
    one.answer(browser, WORD)
    one.site.clock.now += 16 * 60
    one.password(browser)
    assert browser.send(browser.get("/account/factors"), "remove", factor="word", id="1").status == 303
    assert one.words.words


def test_a_challenge_of_a_step_up_belongs_to_its_session(one: Factored) -> None:
    one.member()
    browser, other = one.browser(), one.browser()
    for each in (browser, other):
        one.password(each)
        one.answer(each, WORD)
    browser.get("/login/factor")
    other.client.cookies.update({"__Host-auth_factor": challenge_of(browser)})
    assert one.answer(other, WORD).location == "/login?done=challenge_invalid"
    assert one.answer(browser, WORD).status == 303


def test_whoever_has_no_factor_cannot_step_up(one: Factored) -> None:
    one.member(word=None)
    program = one.program()
    assert program.get("/login/factor").status_code == 403
    program.post("/login", json={"email": EMAIL, "password": PASSWORD})
    refused = program.get("/login/factor")
    assert (refused.status_code, refused.json()["error"]) == (403, "no_second_factor")


def test_a_guard_names_the_methods(one: Factored) -> None:
    one.member()
    connection = FakeConnection()
    bound: RequestAuth[Any, Any] = RequestAuth(one.auth, connection)
    drive(bound.sign_in_user(one.member("ann@example.com", word=None)))
    assert require_fresh(bound) is not None
    with pytest.raises(NotFresh) as caught:
        require_fresh(bound, methods=["otp", "hwk"])
    answer = answer_to(caught.value)
    assert answer is not None
    assert json.loads(answer.body) == {"error": "fresh_sign_in_required", "methods": ["otp", "hwk"]}
    for wrong in ([], "otp", [7], ["OTP"]):
        with pytest.raises(ConfigError, match=r"(methods|amr) must be"):
            require_fresh(bound, methods=wrong)  # type: ignore[arg-type]


def test_mfa_a_guard_asks_the_users_who_have_a_factor_for_a_fresh_one(one: Factored) -> None:
    bound: RequestAuth[Any, Any] = RequestAuth(one.auth, FakeConnection())
    drive(one.auth.call(bound.connection))
    with pytest.raises(NotSignedIn):
        drive(require_all_fresh(bound))
    ann, mia = one.member("ann@example.com", word=None), one.member()
    drive(bound.sign_in_user(ann))
    assert drive(require_all_fresh(bound)) == ann
    drive(bound.sign_in_user(mia, amr=["mfa"]))
    assert drive(require_all_fresh(bound)) == mia
    one.site.clock.now += 16 * 60
    drive(bound.sign_in_user(mia, amr=None))
    assert require_fresh(bound) == mia
    with pytest.raises(NotFresh) as caught:
        drive(require_all_fresh(bound))
    assert caught.value.methods == ("mfa",)
    assert drive(require_all_fresh(bound, timedelta(minutes=20))) == mia
    one.words.broken = True
    with pytest.raises(StoreUnavailable):
        drive(require_all_fresh(bound))
