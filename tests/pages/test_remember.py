"""The checkbox of the sign-in page, and its mark in the list of devices."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.pages_support import EMAIL, MOUNTS, PASSWORD, Site, site
from powauth import MoreNeeded, Remember
from powauth.accounts.hooks import Hooks

MARK = "Stays signed in"
A_MONTH = 30 * 24 * 3600


@pytest.fixture(params=MOUNTS)
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with site(request.param, tmp_path, auth_options={"remember": Remember()}) as made:
        made.browser().register()
        yield made


def test_the_box_is_not_ticked_and_a_session_is_remembered_only_if_it_is(here: Site) -> None:
    plain, remembered = here.browser(), here.browser()
    box = plain.get("/login").by_id("login-remember")
    assert (box["type"], "checked" in box) == ("checkbox", False)
    fields = {"email": EMAIL, "password": PASSWORD}
    assert "max-age" not in str(plain.post("/login", fields).header("set-cookie")).lower()
    done = remembered.post("/login", {**fields, "remember": "true"})
    assert f"max-age={A_MONTH}" in str(done.header("set-cookie")).lower()
    page = remembered.get("/account/sessions")
    assert page.text.count(MARK) == 1
    here.clock.advance(3600)
    assert not plain.is_signed_in()
    assert remembered.is_signed_in()


def test_a_refused_form_keeps_the_tick(here: Site) -> None:
    browser = here.browser()
    page = browser.post("/login", {"email": EMAIL, "password": "wrong", "remember": "true"})
    assert page.status == 401
    assert "checked" in page.by_id("login-remember")
    assert "checked" not in browser.post("/login", {"email": EMAIL, "password": "wrong"}).by_id("login-remember")


def test_who_confirms_the_password_is_not_asked_and_stays_remembered(here: Site) -> None:
    browser = here.browser()
    browser.post("/login", {"email": EMAIL, "password": PASSWORD, "remember": "true"})
    page = browser.get("/login?next=/safe")
    assert not page.find("input", name="remember")
    again = browser.send(page, password=PASSWORD)
    assert f"max-age={A_MONTH}" in str(again.header("set-cookie")).lower()


def test_programs_ask_for_it_in_json(here: Site) -> None:
    program, fields = here.program(), {"email": EMAIL, "password": PASSWORD}
    assert program.get("/login").json() == {"fields": ["email", "password", "remember"]}
    assert not program.post("/login", json=fields).json()["session"]["remembered"]
    assert program.post("/login", json={**fields, "remember": True}).json()["session"]["remembered"]
    assert program.get("/account").json()["session"]["remembered"]
    assert program.post("/login", json=fields).json()["session"]["remembered"], "as the session that it replaces"
    assert not program.post("/login", json={**fields, "remember": False}).json()["session"]["remembered"]
    wrong: object
    for wrong in (1, "yes", [True], {}):
        refused = program.post("/login", json={**fields, "remember": wrong})
        assert (refused.status_code, refused.json()) == (422, {"errors": {"remember": ["is invalid"]}})


def test_nothing_is_offered_where_the_app_does_not_remember(tmp_path: Path) -> None:
    with site("asgi", tmp_path) as here:
        browser = here.browser()
        browser.register()
        browser.post("/logout", {})
        assert not browser.get("/login").find("input", name="remember")
        done = browser.post("/login", {"email": EMAIL, "password": PASSWORD, "remember": "true"})
        assert done.status == 303
        assert "max-age" not in str(done.header("set-cookie")).lower()
        assert MARK not in browser.get("/account/sessions").text


def test_a_second_factor_keeps_the_tick(tmp_path: Path) -> None:
    def ask(step: object) -> None:
        raise MoreNeeded(["code"])

    options = {"remember": Remember(), "hooks": Hooks(before_sign_in=ask)}
    with site("asgi", tmp_path, auth_options=options) as here:
        here.browser().post("/register", {"email": EMAIL, "password": PASSWORD})
        page = here.browser().post("/login", {"email": EMAIL, "password": PASSWORD, "remember": "true"})
        assert page.status == 401
        assert "checked" in page.by_id("login-remember")
