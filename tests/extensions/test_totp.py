"""`Totp`: enrolling, signing in, and what a code is good for."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from harness.authenticators import Authenticated, Authenticator, Base, authenticated, secret_on
from harness.pages_support import EMAIL, PASSWORD
from powauth import ConfigError, Event
from powauth.accounts.user_keys import user_key_text
from powauth.backends.base import drive
from powauth.errors import StoreMissing

FRAMEWORKS = ("asgi", "wsgi")


@pytest.fixture(params=FRAMEWORKS)
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Authenticated]:
    with authenticated(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Authenticated]:
    with authenticated("asgi", tmp_path) as made:
        yield made


def test_a_user_sets_up_an_app_and_signs_in_with_its_codes(here: Authenticated) -> None:
    other, browser = here.browser(), here.signed_in()
    assert other.sign_in().status == 303
    secret = here.enrol(browser)
    assert browser.is_signed_in()
    assert not other.is_signed_in(), "a sign-in without the factor is still valid"
    (row,) = here.rows()
    assert secret.replace(" ", "").encode() not in row["seed"]
    here.clock.now += 30
    again = here.browser()
    done = here.sign_in(again, secret)
    assert (done.status, again.is_signed_in()) == (303, True)


def test_the_page_shows_a_qr_code_without_styles(one: Authenticated) -> None:
    page = one.signed_in().post("/account/factors/totp", {"action": "begin"})
    assert page.find("svg")
    assert "style=" not in page.html
    assert 'class="qrline' not in page.html


def test_a_code_is_accepted_once(here: Authenticated) -> None:
    secret = here.enrolled()
    first, second = here.browser(), here.browser()
    assert first.sign_in().status == second.sign_in().status == 303
    code = here.code(secret)
    assert here.answer(first, code).status == 303
    assert here.answer(second, code).status == 401
    assert not second.is_signed_in()


def test_twenty_parallel_uses_of_a_code_sign_in_once(tmp_path: Path) -> None:
    with authenticated("wsgi", tmp_path) as here:
        secret = here.enrolled()
        browsers = [here.browser() for _ in range(20)]
        assert all(browser.sign_in().status == 303 for browser in browsers)
        code = here.code(secret)
        with ThreadPoolExecutor(20) as pool:
            done = list(pool.map(lambda browser: here.answer(browser, code).status, browsers))
        assert done.count(303) == 1, done
        assert [browser.is_signed_in() for browser in browsers].count(True) == 1


@pytest.mark.parametrize(("step", "right"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_a_code_of_the_next_and_the_last_step_is_right(one: Authenticated, step: int, right: bool) -> None:
    secret, browser = one.enrolled(), one.browser()
    one.clock.now += 300
    browser.sign_in()
    assert one.answer(browser, one.code(secret, step)).status == (303 if right else 401)


def test_a_step_is_not_accepted_after_a_later_one(one: Authenticated) -> None:
    secret, first, second = one.enrolled(), one.browser(), one.browser()
    first.sign_in()
    assert one.answer(first, one.code(secret, 1)).status == 303
    second.sign_in()
    assert one.answer(second, one.code(secret, 0)).status == 401
    one.clock.now += 60
    assert one.answer(second, one.code(secret)).status == 303


def test_a_code_of_another_user_is_wrong(one: Authenticated) -> None:
    theirs, own = one.enrolled("ben@example.com"), one.enrolled()
    browser = one.browser()
    browser.sign_in()
    assert one.answer(browser, one.code(theirs)).status == 401
    assert one.answer(browser, one.code(own)).status == 303


def test_a_code_of_an_earlier_enrolment_is_wrong(one: Authenticated) -> None:
    browser = one.signed_in()
    old = one.enrol(browser)
    one.clock.now += 60
    new = one.enrol(browser)
    one.clock.now += 60
    later = one.browser()
    later.sign_in()
    assert one.answer(later, one.code(old)).status == 401
    assert one.answer(later, one.code(new)).status == 303
    assert len(one.rows()) == 1


def test_the_code_of_the_enrolment_is_used_up(one: Authenticated) -> None:
    secret, browser = one.enrol(one.signed_in()), one.browser()
    browser.sign_in()
    assert one.answer(browser, one.code(secret)).status == 401


def test_another_users_answer_does_not_complete_a_sign_in(one: Authenticated) -> None:
    """Ben knows Mia's password. His challenge names her, so his own code is of no use to him."""
    one.enrolled()
    theirs, ben = one.enrolled("ben@example.com"), one.browser()
    ben.sign_in()
    assert one.answer(ben, one.code(theirs)).status == 401
    assert not ben.is_signed_in()


# --- enrolling --------------------------------------------------------------------------------------------------------


def test_a_seed_is_in_no_table_before_the_first_code(one: Authenticated) -> None:
    browser = one.signed_in()
    page = browser.post("/account/factors/totp", {"action": "begin"})
    assert one.rows() == []
    wrong = browser.send(page, "confirm", code="000000")
    assert (wrong.status, secret_on(page) in wrong.html) == (422, True)
    assert one.browser().sign_in().location == "/account"
    assert one.rows() == []


def test_an_enrolment_ends_after_ten_minutes(one: Authenticated) -> None:
    browser = one.signed_in()
    page = browser.post("/account/factors/totp", {"action": "begin"})
    one.clock.now += 601
    done = browser.send(page, "confirm", code=one.code(secret_on(page)))
    assert (done.status, "Begin again" in done.text) == (422, True)
    assert one.rows() == []


def test_an_enrolment_belongs_to_the_session_that_began_it(one: Authenticated) -> None:
    browser, other = one.signed_in(), one.browser()
    other.sign_in()
    page = browser.post("/account/factors/totp", {"action": "begin"})
    secret = secret_on(page)
    assert other.send(page, "confirm", code=one.code(secret)).status == 422
    assert browser.send(page, "confirm", code=one.code(secret)).status == 303


def test_of_two_enrolments_the_last_one_counts(one: Authenticated) -> None:
    browser = one.signed_in()
    first = browser.post("/account/factors/totp", {"action": "begin"})
    second = browser.post("/account/factors/totp", {"action": "begin"})
    assert browser.send(first, "confirm", code=one.code(secret_on(first))).status == 422
    assert browser.send(second, "confirm", code=one.code(secret_on(second))).status == 303


def test_trm_03_a_new_password_ends_an_enrolment(one: Authenticated) -> None:
    browser = one.signed_in()
    page = browser.post("/account/factors/totp", {"action": "begin"})
    fields = {"action": "password", "password": "eleven grey geese", "current_password": PASSWORD}
    assert browser.post("/account", fields).status == 303
    assert browser.send(page, "confirm", code=one.code(secret_on(page))).status == 422


def test_the_pages_option_fresh_holds_for_apps_and_recovery_codes(tmp_path: Path) -> None:
    with authenticated("wsgi", tmp_path, pages={"fresh": timedelta(minutes=2)}) as one:
        browser = one.signed_in()
        one.enrol(browser)
        paths = ("/account/factors/totp", "/account/factors/recovery", "/account/factors")
        one.clock.now += 119
        assert [browser.get(path).status for path in paths] == [200, 200, 200]
        one.clock.now += 2
        for path in paths[:2]:
            assert str(browser.get(path).location).startswith("/login?next="), path
        assert str(browser.post(paths[0], {"action": "begin"}).location).startswith("/login?next=")
        assert str(browser.post(paths[1], {"action": "make"}).location).startswith("/login?next=")


def test_pwd_09_only_a_fresh_sign_in_sets_up_an_app(one: Authenticated) -> None:
    browser = one.signed_in()
    page = browser.post("/account/factors/totp", {"action": "begin"})
    secret = secret_on(page)
    one.clock.now += 16 * 60
    for again in (browser.get("/account/factors/totp"), browser.send(page, "confirm", code=one.code(secret))):
        assert (again.status, str(again.location).startswith("/login?next=")) == (303, True)
    program = one.program()
    assert program.post("/account/factors/totp", json={"action": "begin"}).status_code == 401
    assert one.rows() == []


@pytest.mark.parametrize(
    ("fields", "errors"),
    [
        ({}, {"code": ["can't be blank"]}),
        ({"code": ""}, {"code": ["can't be blank"]}),
        ({"code": "12345"}, {"code": ["is invalid"]}),
        ({"code": "1234567"}, {"code": ["is invalid"]}),
        ({"code": "\u0661\u0662\u0663\u0664\u0665\u0666"}, {"code": ["is invalid"]}),
        ({"code": ["123456"]}, {"code": ["is invalid"]}),
        ({"code": 123456}, {"code": ["is invalid"]}),
        ({"code": "123456", "label": "x" * 65}, {"label": ["is invalid"]}),
        ({"code": "123456", "label": "a\u202eb"}, {"label": ["is invalid"]}),
        ({"code": "123456", "label": {}}, {"label": ["is invalid"]}),
    ],
)
def test_aut_04_fields_of_any_kind_are_refused(one: Authenticated, fields: dict[str, object], errors: object) -> None:
    one.member()
    program = one.program()
    program.post("/login", json={"email": EMAIL, "password": PASSWORD})
    assert program.post("/account/factors/totp", json={"action": "begin"}).status_code == 200
    refused = program.post("/account/factors/totp", json={"action": "confirm", **fields})
    assert (refused.status_code, refused.json()) == (422, {"errors": errors})


def test_the_json_twin_shows_the_seed_and_turns_it_on(one: Authenticated) -> None:
    one.member()
    program = one.program()
    program.post("/login", json={"email": EMAIL, "password": PASSWORD})
    shown = program.post("/account/factors/totp", json={"action": "begin"}).json()
    assert shown["uri"].startswith("otpauth://totp/Account:mia%40example.com?secret=")
    assert (shown["digits"], shown["period"]) == (6, 30)
    code = one.code(shown["secret"])
    done = program.post("/account/factors/totp", json={"action": "confirm", "code": code, "label": " My  phone "})
    assert done.status_code == 201
    (listed,) = program.get("/account/factors").json()["factors"]
    assert listed == {
        "factor": "totp",
        "id": done.json()["id"],
        "label": "My phone",
        "created_at": listed["created_at"],
        "last_used_at": None,
        "left": None,
    }
    assert program.get("/account/factors/totp").json()["enrolled"] is True


# --- sealed seeds -----------------------------------------------------------------------------------------------------

OLD, NEW = b"k7#Vq2!mZ9$wL4xT8&bN1cR6@hJ3dF5g", b"pW3^yE8*uI1(oA6)sD0_fG5+hK2=jL9~"


def with_secrets(folder: Path, *secrets: bytes) -> AbstractContextManager[Authenticated]:
    """The same tables in an app with these secrets."""
    return authenticated("wsgi", folder, auth={"secret_key": secrets})


def test_after_a_rotation_a_seed_is_sealed_again_when_it_is_used(tmp_path: Path) -> None:
    with with_secrets(tmp_path, OLD) as here:
        secret = here.enrolled()
        (before,) = here.rows()
    with with_secrets(tmp_path, NEW, OLD) as here:
        here.clock.now += 120
        assert here.sign_in(here.browser(), secret).status == 303
        (after,) = here.rows()
        assert after["seed"] != before["seed"]
    with with_secrets(tmp_path, NEW) as here:
        here.clock.now += 240
        assert here.sign_in(here.browser(), secret).status == 303
        (last,) = here.rows()
        assert last["seed"] == after["seed"]


def test_after_a_rotation_all_seeds_are_sealed_again_by_one_call(tmp_path: Path) -> None:
    with with_secrets(tmp_path, OLD) as here:
        secrets = {email: here.enrolled(email) for email in ("ann@example.com", "ben@example.com", "mia@example.com")}
    with with_secrets(tmp_path, NEW, OLD) as here:
        assert drive(here.totp.reseal()) == 3
        assert drive(here.totp.reseal()) == 0
    with with_secrets(tmp_path, NEW) as here:
        here.clock.now += 600
        for email, secret in secrets.items():
            assert here.sign_in(here.browser(), secret, email).status == 303


def test_a_seed_whose_secret_is_gone_lets_nobody_past(tmp_path: Path) -> None:
    with with_secrets(tmp_path, OLD) as here:
        secret = here.enrolled()
    with with_secrets(tmp_path, NEW) as here:
        here.clock.now += 120
        browser = here.browser()
        assert browser.sign_in().location == "/login/factor"
        assert here.answer(browser, here.code(secret)).status == 503
        assert not browser.is_signed_in()
        with pytest.raises(StoreMissing, match="secret_key"):
            drive(here.totp.reseal())


def test_a_seed_of_another_row_cannot_be_opened(one: Authenticated) -> None:
    """Whoever can write to the table gives a user the seed of an account of their own."""
    one.enrolled()
    theirs = one.enrolled("ben@example.com")
    with one.engine.begin() as connection:
        table: Any = Authenticator.__table__
        mine, ben = (user_key_text(one.key_of(email)) for email in (EMAIL, "ben@example.com"))
        row = connection.execute(sa.select(table).where(table.c.user_key == ben)).mappings().one()
        changed = {"seed": row["seed"], "name": row["name"]}
        connection.execute(sa.update(table).where(table.c.user_key == mine).values(changed))
    browser = one.browser()
    browser.sign_in()
    assert one.answer(browser, one.code(theirs)).status == 503
    assert not browser.is_signed_in()


def test_log_02_no_seed_and_no_code_is_in_a_log_an_event_or_a_repr(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Event] = []
    with authenticated("wsgi", tmp_path, auth={"on_event": events.append}) as here:
        caplog.set_level(logging.DEBUG)
        logging.getLogger("powauth").setLevel(logging.DEBUG)
        browser = here.signed_in()
        secret = here.enrol(browser)
        codes = here.codes(browser)
        here.clock.now += 60
        other = here.browser()
        other.sign_in()
        code = here.code(secret)
        here.answer(other, "000000")
        here.answer(other, code)
        record = drive(here.totp.store.get(here.rows()[0]["user_key"]))
        written = "\n".join([caplog.text, repr(events), repr(here.totp), repr(record), repr(here.factors)])
        for hidden in (secret, secret.replace(" ", ""), code, *codes):
            assert hidden not in written
        assert {event.name for event in events} >= {"factor_enrolled", "factor_refused", "factor_used"}


# --- moving here ------------------------------------------------------------------------------------------------------


def test_a_seed_of_another_library_is_taken_over(one: Authenticated) -> None:
    me, secret = one.member(), "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
    at = datetime(2020, 5, 4, tzinfo=UTC)
    step = int(one.clock()) // 30
    assert drive(one.totp.adopt(me, secret.lower(), label="Phone", created_at=at, step=step)) is True
    assert drive(one.totp.adopt(me, secret)) is False
    browser = one.browser()
    browser.sign_in()
    assert one.answer(browser, one.code(secret)).status == 401, "the other library has accepted this code"
    one.clock.now += 60
    assert one.answer(browser, one.code(secret)).status == 303
    (listed,) = drive(one.factors.enrolled(me))
    assert (listed.label, listed.created_at) == ("Phone", at)


@pytest.mark.parametrize("seed", ["JBSWY3DP", "no Base32!", b"short"])
def test_a_seed_that_is_too_weak_is_refused_when_it_is_taken_over(one: Authenticated, seed: str | bytes) -> None:
    me = one.member()
    with pytest.raises(ConfigError, match="the seed must be"):
        drive(one.totp.adopt(me, seed))
    assert one.rows() == []


def test_a_store_that_is_away_lets_nobody_past(tmp_path: Path) -> None:
    with authenticated("wsgi", tmp_path) as here:
        secret = here.enrolled()
        browser = here.browser()
        browser.sign_in()
        Base.metadata.drop_all(here.engine)
        assert here.answer(browser, here.code(secret)).status == 503
        assert here.browser().sign_in().status == 503
        assert not browser.is_signed_in()


def test_a_session_that_ends_meanwhile_replaces_no_app(one: Authenticated) -> None:
    """A thief sets up an app in a stolen session. The owner ends all sessions meanwhile, and keeps the own app."""
    browser = one.signed_in()
    own = one.enrol(browser)
    one.clock.now += 60
    page = browser.send(browser.get("/account/factors/totp"), "begin")
    put, key, calls = one.totp.store.put, one.key_of(), list[int]()

    async def ended_after(user: str, record: Any) -> None:
        await put(user, record)
        calls.append(1)
        if len(calls) == 1:
            await one.auth.revoke_user(key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one.totp.store, "put", ended_after)
        done = browser.send(page, "confirm", code=one.code(secret_on(page)))
    assert str(done.location).startswith("/login"), done.text
    assert not browser.is_signed_in()
    one.clock.now += 60
    assert one.sign_in(one.browser(), own).status == 303
