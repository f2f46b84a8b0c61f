"""The page with a user's factors, recovery codes, an administrator's reset, notices and events."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.authenticators import Authenticated, Code, authenticated, secret_on
from harness.pages_support import EMAIL, PASSWORD, Browser
from powauth import ConfigError, Event
from powauth.accounts.user_keys import user_key_text
from powauth.backends.base import drive
from powauth.extensions.second_factor import MFA, RecoveryCodes, Totp
from powauth.extensions.second_factor import SecondFactor as Engine

SecondFactor: Any = Engine  # wrong options are no options for a type checker

FRAMEWORKS = ("asgi", "wsgi")


@pytest.fixture(params=FRAMEWORKS)
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Authenticated]:
    with authenticated(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Authenticated]:
    with authenticated("wsgi", tmp_path) as made:
        yield made


def mails(one: Authenticated) -> list[str]:
    drive(one.auth.accounts.hooks.aclose())
    return [str(each["Subject"]) for each in one.mailer.messages]


def remove(browser: Browser, factor: str = "totp") -> Any:
    page = browser.get("/account/factors")
    (fields,) = [
        {str(each["name"]): str(each.get("value")) for each in inputs if "name" in each}
        for _, inputs in page.forms
        if any(each.get("value") == factor for each in inputs)
    ]
    return browser.post("/account/factors", fields)


# --- recovery codes ---------------------------------------------------------------------------------------------------


def test_a_recovery_code_replaces_a_lost_factor_once(here: Authenticated) -> None:
    browser = here.signed_in()
    here.enrol(browser)
    codes = here.codes(browser)
    assert len(set(codes)) == 10
    assert all(code not in str(here.rows(Code)) for code in codes)
    lost = here.browser()
    lost.sign_in()
    assert here.answer(lost, codes[0].upper().replace("-", " "), "recovery_code").status == 303
    assert lost.is_signed_in()
    again = here.browser()
    again.sign_in()
    assert here.answer(again, codes[0], "recovery_code").status == 401
    assert here.answer(again, codes[1], "recovery_code").status == 303
    assert len(here.rows(Code)) == 8
    assert mails(here) == [
        "A second factor was added to your account",
        "New recovery codes for your account",
        "A recovery code of your account was used",
        "A recovery code of your account was used",
    ]


def test_new_codes_replace_the_earlier_ones(one: Authenticated) -> None:
    browser = one.signed_in()
    one.enrol(browser)
    first, second = one.codes(browser), one.codes(browser)
    assert not {*first} & {*second}
    lost = one.browser()
    lost.sign_in()
    assert one.answer(lost, first[0], "recovery_code").status == 401
    assert one.answer(lost, second[0], "recovery_code").status == 303


def test_codes_are_shown_once(one: Authenticated) -> None:
    browser = one.signed_in()
    one.enrol(browser)
    codes = one.codes(browser)
    shown = browser.get("/account/factors/recovery").html + browser.get("/account/factors").html
    assert not [code for code in codes if code in shown]
    assert "10 left" in browser.get("/account/factors").text


def test_recovery_codes_alone_are_no_second_factor(one: Authenticated) -> None:
    browser = one.signed_in()
    refused = browser.post("/account/factors/recovery", {"action": "make"})
    assert (refused.status, one.rows(Code)) == (403, [])
    assert "Set up another factor first" in refused.text


def test_a_code_of_another_user_is_wrong(one: Authenticated) -> None:
    ben, mia = one.signed_in("ben@example.com"), one.signed_in()
    one.enrol(ben)
    one.enrol(mia)
    codes = one.codes(ben)
    one.codes(mia)
    lost = one.browser()
    lost.sign_in()
    assert one.answer(lost, codes[0], "recovery_code").status == 401
    assert len(one.rows(Code)) == 20


@pytest.mark.parametrize(
    "code", ["x", "a" * 65, "aaaa-aaaa-aaaa-aaa", "\u00e4" * 16, "9999-9999-9999-9999", 7, ["a"], {}]
)
def test_aut_04_codes_of_any_kind_are_refused(one: Authenticated, code: object) -> None:
    browser = one.signed_in()
    one.enrol(browser)
    one.codes(browser)
    program = one.program()
    program.post("/login", json={"email": EMAIL, "password": PASSWORD})
    refused = program.post("/login/factor", json={"factor": "recovery_code", "code": code})
    assert (refused.status_code, refused.json()) == (422, {"errors": {"code": ["is invalid"]}})


def test_guesses_of_codes_and_apps_count_together(one: Authenticated) -> None:
    browser = one.signed_in()
    secret = one.enrol(browser)
    one.codes(browser)
    guesser = one.browser()
    guesser.sign_in()
    for _ in range(5):
        assert one.answer(guesser, "000000").status == 401
        assert one.answer(guesser, "aaaa-aaaa-aaaa-aaaa", "recovery_code").status == 401
    one.clock.now += 60
    assert one.answer(guesser, one.code(secret)).status == 429


# --- the list ---------------------------------------------------------------------------------------------------------


def test_a_user_sees_and_removes_factors(here: Authenticated) -> None:
    browser = here.signed_in()
    empty = browser.get("/account/factors")
    assert "by its password alone" in empty.text
    secret = here.enrol(browser)
    here.codes(browser)
    here.clock.now += 60
    other = here.browser()
    here.sign_in(other, secret)
    page = other.get("/account/factors")
    assert ("Authenticator app" in page.text, "Recovery codes" in page.text) == (True, True)
    assert remove(other).location == "/account/factors?done=factor_removed"
    assert (here.rows(), here.rows(Code)) == ([], []), "codes without a factor would work with the next one"
    assert here.browser().sign_in().location == "/account"
    assert mails(here)[-1] == "A second factor was removed from your account"


def test_the_account_page_leads_to_the_list(one: Authenticated) -> None:
    assert one.signed_in().get("/account").find("a", href="/account/factors")


def test_pwd_09_a_factor_is_removed_only_after_a_fresh_factor(one: Authenticated) -> None:
    browser = one.signed_in()
    secret = one.enrol(browser)
    one.clock.now += 16 * 60
    assert remove(browser).location == "/login?next=/account/factors"
    assert len(one.rows()) == 1
    browser.get("/login/factor")
    assert one.answer(browser, one.code(secret)).status == 303
    assert remove(browser).location == "/account/factors?done=factor_removed"


def test_a_new_password_does_not_make_a_factor_fresh(one: Authenticated) -> None:
    """Whoever has a stolen session and the password must not get rid of the factor."""
    browser = one.signed_in()
    one.enrol(browser)
    one.clock.now += 16 * 60
    fields = {"action": "password", "password": "eleven grey geese", "current_password": PASSWORD}
    assert browser.post("/account", fields).status == 303
    assert browser.is_signed_in()
    assert remove(browser).location == "/login?next=/account/factors"


def test_the_json_twin_removes_a_factor(one: Authenticated) -> None:
    one.member()
    program = one.program()
    program.post("/login", json={"email": EMAIL, "password": PASSWORD})
    shown = program.post("/account/factors/totp", json={"action": "begin"}).json()
    program.post("/account/factors/totp", json={"action": "confirm", "code": one.code(shown["secret"])})
    (listed,) = program.get("/account/factors").json()["factors"]
    made = program.post("/account/factors/recovery", json={})
    assert len(made.json()["codes"]) == 10
    assert program.get("/account/factors/recovery").json() == {"left": 10}
    fields = {"action": "remove", "factor": "totp", "id": listed["id"]}
    for wrong in ({"id": "x"}, {"factor": "other"}, {"id": 7}, {"factor": None}):
        refused = program.post("/account/factors", json=fields | wrong)
        assert (refused.status_code, refused.json()) == (404, {"error": "not_found"})
    assert program.post("/account/factors", json=fields | {"action": "x"}).status_code == 422
    assert program.post("/account/factors", json=fields).status_code == 204
    assert program.get("/account/factors").json() == {"factors": []}


def test_another_users_factor_is_not_removed(one: Authenticated) -> None:
    ben, mia = one.signed_in("ben@example.com"), one.signed_in()
    one.enrol(ben)
    one.enrol(mia)
    theirs = next(row["name"] for row in one.rows() if row["user_key"] == user_key_text(one.key_of("ben@example.com")))
    refused = mia.post("/account/factors", {"action": "remove", "factor": "totp", "id": theirs})
    assert refused.status == 404
    assert len(one.rows()) == 2


# --- administrators ---------------------------------------------------------------------------------------------------


def test_a_reset_removes_all_factors_and_leaves_a_trace(tmp_path: Path) -> None:
    events: list[Event] = []
    with authenticated("wsgi", tmp_path, auth={"on_event": events.append}) as here:
        admin, browser = here.member("admin@example.com"), here.signed_in()
        here.enrol(browser)
        here.codes(browser)
        assert drive(here.factors.reset(here.key_of(), by=admin)) == 2
        assert not browser.is_signed_in()
        assert (here.rows(), here.rows(Code)) == ([], [])
        (trace,) = [event for event in events if event.name == "factors_reset"]
        assert trace.user_key == here.key_of()
        assert trace.actor == here.key_of("admin@example.com")
        assert here.browser().sign_in().location == "/account"
        assert mails(here)[-1] == "The second factors of your account were reset"


def test_a_deleted_user_has_no_factor(one: Authenticated) -> None:
    browser = one.signed_in()
    one.enrol(browser)
    one.codes(browser)
    drive(one.auth.delete_account(one.key_of()))
    assert (one.rows(), one.rows(Code)) == ([], [])


def test_a_lock_and_a_new_password_leave_the_factor_on(one: Authenticated) -> None:
    """RST-05: otherwise a mailbox would be enough."""
    secret = one.enrolled()
    drive(one.auth.update_account(one.key_of(), password="eleven grey geese"))
    browser = one.browser()
    assert browser.sign_in(password="eleven grey geese").location == "/login/factor"
    assert one.answer(browser, one.code(secret)).status == 303


# --- required ---------------------------------------------------------------------------------------------------------


def test_a_required_factor_is_set_up_during_the_sign_in(tmp_path: Path) -> None:
    with authenticated("asgi", tmp_path, required=True) as here:
        here.member()
        browser = here.browser()
        page = browser.follow(browser.sign_in())
        assert "must be protected" in page.text
        assert not browser.is_signed_in()
        secret = secret_on(page)
        assert here.answer(browser, "000000").status == 401
        assert here.answer(browser, here.code(secret)).status == 303
        assert browser.is_signed_in()
        assert len(here.rows()) == 1
        assert remove(browser).status == 403
        assert len(here.rows()) == 1
        here.clock.now += 60
        assert here.sign_in(here.browser(), secret).status == 303


def test_a_registration_goes_on_with_the_required_factor(tmp_path: Path) -> None:
    with authenticated("wsgi", tmp_path, required=lambda me: me.email == EMAIL) as here:
        program = here.program()
        made = program.post("/register", json={"email": EMAIL, "password": PASSWORD})
        assert (made.status_code, made.json()) == (401, {"error": "second_factor_required", "factors": ["totp"]})
        shown = program.get("/login/factor").json()
        assert (shown["enrol"], shown["factors"]) == (True, ["totp"])
        code = here.code(shown["options"]["totp"]["secret"])
        done = program.post("/login/factor", json={"code": code, "label": "Phone"})
        assert done.status_code == 200
        assert here.browser().sign_in().location == "/login/factor"
        here.member("ann@example.com")
        assert here.browser().sign_in("ann@example.com").location == "/account"


def test_a_factor_that_is_on_cannot_be_set_up_again_by_a_password(tmp_path: Path) -> None:
    """Two sign-ins begin. One sets the factor up, and the other one's offer is void then."""
    with authenticated("wsgi", tmp_path, required=True) as here:
        here.member()
        owner, other = here.browser(), here.browser()
        for browser in (owner, other):
            browser.sign_in()
        secret = secret_on(owner.get("/login/factor"))
        stolen = other.client.cookies
        assert here.answer(owner, here.code(secret)).status == 303
        assert stolen
        assert other.get("/login/factor").location == "/login?done=challenge_invalid"
        assert here.answer(other, here.code(secret)).location == "/login?done=challenge_invalid"


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda totp, codes: SecondFactor(), "can stand alone"),
        (lambda totp, codes: SecondFactor(codes), "can stand alone"),
        (lambda totp, codes: SecondFactor(totp, totp), "two factors of one name"),
        (lambda totp, codes: SecondFactor("totp"), "each factor of SecondFactor must be"),
        (lambda totp, codes: SecondFactor(totp, required="yes"), "required must be"),
        (lambda totp, codes: SecondFactor(totp, failures=None), "failures must be"),
        (lambda totp, codes: SecondFactor(totp, path="login"), "path of the page second_factor"),
        (lambda totp, codes: SecondFactor(totp, mailer=object()), "mailer must be"),
        (lambda totp, codes: SecondFactor(totp, address_field="x", mailer=None), None),
    ],
)
def test_wrong_options_are_refused(one: Authenticated, made: Any, told: str | None) -> None:
    totp, codes = one.totp, one.factors.factor(RecoveryCodes)
    if told is None:
        assert made(totp, codes) is not None
        return
    with pytest.raises(ConfigError, match=told):
        made(totp, codes)


def test_a_factor_that_is_missing_is_an_error_of_the_app(one: Authenticated) -> None:
    assert isinstance(one.factors.factor(Totp), Totp)

    class Others(Totp[Any]):
        pass

    with pytest.raises(ConfigError, match="no Others among the factors"):
        one.factors.factor(Others)


def test_the_session_tells_what_was_proven(one: Authenticated) -> None:
    browser = one.signed_in()
    one.enrol(browser)
    (stored,) = drive(one.auth.store.sessions(one.key_of().bytes, one.auth.now()))
    assert set(stored.session.amr) == {"pwd", "otp", MFA}
