"""The pages and their JSON twins: the same suite over every framework."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from harness.pages_support import EMAIL, MOUNTS, ORIGIN, PASSWORD, Page, Site, site

NEW_PASSWORD = "eight blue herons"
WHERE = [(name, mount) for name in MOUNTS for mount in ("", "/auth")]


@pytest.fixture(params=WHERE, ids=[f"{name}{mount}" for name, mount in WHERE])
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    name, mount = request.param
    with site(name, tmp_path, mount=mount, title="Heronry") as made:
        yield made


def test_register_sign_out_sign_in(here: Site) -> None:
    browser = here.browser()
    page = browser.get("/register")
    assert page.status == 200
    assert browser.cookies == {}
    account = browser.register()
    assert (account.status, "Your account is ready" in account.text) == (200, True)
    assert EMAIL in account.text
    assert here.emails == [EMAIL]
    out = browser.send(account)  # the last form of the page is "delete": sent without a password
    assert out.status == 422
    out = browser.post("/logout", {})
    assert browser.follow(out).status == 200
    assert browser.cookies == {}
    again = browser.get("/account")
    assert (again.status, again.location) == (303, f"{here.mount}/login?next={here.mount}/account")
    login = browser.follow(again)
    assert "Sign in to go on" in login.text
    done = browser.send(login, email=" Mia@Example.com", password=PASSWORD)
    assert done.location == f"{here.mount}/account"
    assert browser.is_signed_in()


def test_wrong_input_is_said_beside_its_field_and_what_was_typed_stays(here: Site) -> None:
    browser = here.browser()
    page = browser.send(browser.get("/register"), email="mia at example", password="short")
    assert page.status == 422
    assert page.by_id("register-email")["value"] == "mia at example"
    for name, message in (
        ("email", "E-mail has invalid format."),
        ("password", "Password should be at least 8 characters."),
    ):
        field = page.by_id(f"register-{name}")
        assert field["aria-invalid"] == "true"
        assert f"register-{name}-error" in str(field["aria-describedby"]).split()
        assert message in page.text
    assert "short" not in page.html
    summary = page.find("div", role="alert")
    assert len(summary) == 1
    assert {"autofocus", "tabindex"} <= summary[0].keys()
    assert {a["href"] for a in page.find("a") if str(a["href"]).startswith("#")} == {
        "#register-email",
        "#register-password",
    }
    assert page.html.count("<title>Error: ") == 1
    assert here.emails == []


def test_wrong_credentials(here: Site) -> None:
    here.browser().register()
    browser = here.browser()
    page = browser.send(browser.get("/login?next=/reports"), email=EMAIL, password="not the one")
    assert (page.status, browser.cookies) == (401, {})
    assert "do not match" in page.text
    assert page.by_id("login-email")["value"] == EMAIL
    assert page.find("input", name="next")[0]["value"] == "/reports"
    assert browser.send(page, password=PASSWORD).location == "/reports"


def test_the_account_is_changed(here: Site) -> None:
    browser, other = here.browser(), here.browser()
    browser.register()
    other.sign_in()
    before = browser.cookies
    wrong = browser.send(browser.get("/account"), "password", current_password="no", password=NEW_PASSWORD)
    assert wrong.status == 422
    assert wrong.by_id("password-current_password")["aria-invalid"] == "true"
    assert "aria-invalid" not in wrong.by_id("delete-current_password")
    empty = browser.send(browser.get("/account"), "password", current_password=PASSWORD, password="")
    assert (empty.status, browser.cookies) == (422, before)
    changed = browser.send(browser.get("/account"), "password", current_password=PASSWORD, password=NEW_PASSWORD)
    assert "Your password has been changed" in browser.follow(changed).text
    assert not other.is_signed_in()
    assert browser.cookies != before
    moved = browser.send(browser.get("/account"), "user_id", current_password=NEW_PASSWORD, email="ada@example.com")
    page = browser.follow(moved)
    assert "ada@example.com" in page.text
    assert "Your e-mail address has been changed" in page.text
    assert here.emails == ["ada@example.com"]


def test_the_account_is_deleted(here: Site) -> None:
    browser, other = here.browser(), here.browser()
    browser.register()
    other.sign_in()
    page = browser.send(browser.get("/account"), "delete", current_password="no")
    assert (page.status, here.emails) == (422, [EMAIL])
    gone = browser.follow(browser.send(page, "delete", current_password=PASSWORD))
    assert "has been deleted" in gone.text
    assert here.emails == []
    assert not browser.is_signed_in()
    assert not other.is_signed_in()


def test_devices_are_shown_and_ended(here: Site) -> None:
    browser, phone, third = here.browser(), here.browser(**{"user-agent": "curl/8"}), here.browser()
    browser.register()
    for each in (phone, third):
        here.clock.advance(60)
        each.sign_in()
    page = browser.get("/account/sessions")
    assert page.text.count("Firefox on Linux") == 2
    assert page.text.count("This device") == 1
    assert "curl/8" in page.text
    (button,) = [each for each in page.find("button") if "curl/8" in str(each.get("aria-label"))]
    assert button["aria-label"] == "Sign out curl/8, signed in 2030-03-17 17:47 UTC"
    ids = [each["value"] for each in page.find("input", name="id")]
    assert len(ids) == 2
    ended = browser.follow(browser.post("/account/sessions", {"action": "end", "id": str(ids[1])}))
    assert "signed out" in ended.text
    assert not phone.is_signed_in()
    assert third.is_signed_in()
    browser.follow(browser.send(ended, "end_others"))
    assert not third.is_signed_in()
    assert browser.is_signed_in()
    assert "signed in nowhere else" in browser.get("/account/sessions").text


def test_a_session_that_ended_elsewhere_mid_form_leads_to_sign_in_and_back(here: Site) -> None:
    browser, other = here.browser(), here.browser()
    form = browser.register()
    other.sign_in()
    other.post("/account/sessions", {"action": "end_others"})
    lost = browser.send(form, "user_id", current_password=PASSWORD, email="ada@example.com")
    assert lost.location == f"{here.mount}/login?next={here.mount}/account"
    assert here.emails == [EMAIL]
    assert browser.send(browser.follow(lost), email=EMAIL, password=PASSWORD).location == f"{here.mount}/account"


def test_who_is_signed_in_needs_no_form_unless_they_are_asked_to_confirm(here: Site) -> None:
    browser = here.browser()
    browser.register()
    for path in ("/login", "/register", "/login?next=//evil.example"):
        assert browser.get(path).location == f"{here.mount}/account"
    page = browser.get("/login?next=/safe")
    assert page.status == 200
    assert "Confirm that it is you" in page.text
    assert page.by_id("login-email")["value"] == EMAIL
    before = browser.cookies
    assert browser.send(page, password=PASSWORD).location == "/safe"
    assert browser.cookies != before


def test_ending_sessions_needs_a_fresh_sign_in(here: Site) -> None:
    browser, program = here.browser(), here.program()
    browser.register()
    program.post("/login", json={"email": EMAIL, "password": PASSWORD})
    here.clock.advance(timedelta(minutes=14, seconds=59).total_seconds())
    assert browser.post("/account/sessions", {"action": "end_others"}).location == (
        f"{here.mount}/account/sessions?done=ended_others"
    )
    program.post("/login", json={"email": EMAIL, "password": PASSWORD})
    here.clock.advance(2)
    stale = browser.post("/account/sessions", {"action": "end_others"})
    assert stale.location == f"{here.mount}/login?next={here.mount}/account/sessions"
    assert browser.send(browser.follow(stale), password=PASSWORD).location == f"{here.mount}/account/sessions"
    here.clock.advance(899)
    refused = program.post("/account/sessions", json={"action": "end_others"})
    assert (refused.status_code, refused.json()) == (403, {"error": "fresh_sign_in_required"})


def test_programs_get_the_same_in_json(here: Site) -> None:
    program, other = here.program(), here.program(**{"user-agent": "another"})
    assert program.get("/account").status_code == 401
    assert program.get("/account").json() == {"error": "not_signed_in"}
    assert program.get("/login").json() == {"fields": ["email", "password"]}
    assert program.get("/register").json() == {"fields": ["email", "password"]}
    bad = program.post("/register", json={"email": 1, "password": None})
    assert (bad.status_code, bad.json()) == (
        422,
        {"errors": {"email": ["is invalid"], "password": ["can't be blank"]}},
    )
    made = program.post("/register", json={"email": EMAIL, "password": PASSWORD})
    assert made.status_code == 201
    assert made.json()["user"]["email"] == EMAIL
    assert made.json()["session"]["current"]
    assert made.json()["session"]["user_agent"] == "a program"
    assert program.post("/register", json={"email": EMAIL, "password": PASSWORD}).json() == {
        "error": "already_signed_in"
    }
    assert program.get("/register").status_code == 403
    refused = other.post("/login", json={"email": EMAIL, "password": "wrong"})
    assert (refused.status_code, refused.json()) == (401, {"error": "invalid_credentials"})
    signed_in = other.post("/login", json={"email": EMAIL, "password": PASSWORD})
    assert signed_in.status_code == 200
    assert signed_in.json()["user"] == made.json()["user"] == program.get("/account").json()["user"]
    sessions = program.get("/account/sessions").json()["sessions"]
    assert sorted(each["current"] for each in sessions) == [False, True]
    ended = program.post("/account/sessions", json={"id": signed_in.json()["session"]["id"]})
    assert (ended.status_code, ended.content) == (204, b"")
    assert other.get("/account").status_code == 401
    other.post("/login", json={"email": EMAIL, "password": PASSWORD})
    assert program.post("/account/sessions", json={"action": "end_others"}).json() == {"ended": 1}
    no_password = program.post("/account", json={"email": "ada@example.com"})
    assert no_password.json() == {"errors": {"current_password": ["can't be blank"]}}
    changes = {"email": "ada@example.com", "password": NEW_PASSWORD, "current_password": PASSWORD}
    changed = program.post("/account", json=changes)
    assert (changed.status_code, changed.json()["user"]["email"]) == (200, "ada@example.com")
    assert program.post("/account", json={"action": "fly"}).json() == {"errors": {"action": ["is unknown"]}}
    assert program.post("/account/sessions", json={"action": "fly"}).status_code == 422
    assert program.post("/account", json={"action": "delete"}).status_code == 422
    assert here.emails == ["ada@example.com"]
    deleted = program.post("/account", json={"action": "delete", "current_password": NEW_PASSWORD})
    assert (deleted.status_code, deleted.content, here.emails) == (204, b"", [])
    assert program.get("/account").status_code == 401


def test_programs_sign_out(here: Site) -> None:
    program = here.program()
    program.post("/register", json={"email": EMAIL, "password": PASSWORD})
    kept = dict(program.cookies)
    out = program.post("/logout", headers={"content-type": "application/json"})
    assert (out.status_code, out.content, dict(program.cookies)) == (204, b"", {})
    program.cookies.update(kept)
    assert program.get("/account").status_code == 401


def test_every_page_is_whole(here: Site) -> None:
    browser = here.browser()
    pages: list[Page] = [browser.get("/login"), browser.get("/register")]
    browser.register()
    pages += [browser.get("/account"), browser.get("/account/sessions"), browser.get("/login?next=/x")]
    for page in pages:
        assert page.status == 200
        assert page.header("content-type") == "text/html; charset=utf-8"
        assert page.header("content-length") == str(len(page.response.content))
        assert "Heronry</title>" in page.html
        assert page.find("html", lang="en", dir="ltr")
        assert len(page.find("h1")) == len(page.find("main")) == 1
        ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        labelled = {label["for"] for label in page.find("label")}
        for field in page.find("input"):
            if field["type"] != "hidden" and "hidden" not in field:
                assert field["id"] in labelled
                assert field["autocomplete"] in ("username", "current-password", "new-password")
        for _, attributes in page.tags:
            for each in str(attributes.get("aria-describedby") or "").split():
                assert each in ids
        assert not page.find("script")
        assert not page.find("style")
        assert not [attributes for _, attributes in page.tags if "style" in attributes]
        (style,) = page.find("link", rel="stylesheet")
        assert browser.client.get(str(style["href"])).status_code == 200


def test_head_is_get_without_a_body(here: Site) -> None:
    browser = here.browser()
    for path in ("/login", "/register", "/account", "/powauth.css"):
        got = browser.client.get(here.mount + path)
        head = browser.client.head(here.mount + path)
        assert (head.status_code, head.content) == (got.status_code, b"")
        assert dict(head.headers) == dict(got.headers)


def test_the_style_sheet_may_be_cached_and_the_pages_may_not(here: Site) -> None:
    browser = here.browser()
    style = browser.get("/powauth.css")
    assert style.header("content-type") == "text/css; charset=utf-8"
    assert style.header("cache-control") == "public, max-age=3600"
    assert style.header("x-content-type-options") == "nosniff"
    assert browser.get("/login").header("cache-control") == "no-store"
    assert here.program().get("/login").headers["cache-control"] == "no-store"


def test_what_was_done_is_said_in_our_words_only(here: Site) -> None:
    page = here.browser().get("/login?done=Your+bank+calls")
    assert page.status == 200
    assert "bank" not in page.html
    assert "You are signed out" in here.browser().get("/login?done=signed_out").text


def test_links_stay_below_the_mount(here: Site) -> None:
    browser = here.browser()
    browser.register()
    for path in ("/account", "/account/sessions", "/login?next=/x"):
        page = browser.get(path)
        targets = [a["href"] for a in page.find("a")] + [f["action"] for f in page.find("form")]
        targets += [link["href"] for link in page.find("link")]
        for target in targets:
            assert str(target).startswith((f"{here.mount}/", "#")), target
    assert ORIGIN not in browser.get("/account").html
