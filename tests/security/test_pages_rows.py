"""TRM-06, SES-12 and AUT-01 over HTTP: the pages and their JSON twins, on every framework."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.pages_support import EMAIL, MOUNTS, PASSWORD, Browser, Page, Site, site
from powauth.errors import StoreUnavailable

EVE = "eve@example.com"


@pytest.fixture(params=MOUNTS)
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with site(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def browser(here: Site) -> Browser:
    signed_in = here.browser()
    signed_in.register()
    return signed_in


def test_trm_06_a_link_an_image_or_a_prefetch_signs_nobody_out(browser: Browser) -> None:
    kept = browser.cookies
    for method in ("GET", "HEAD"):
        for headers in ({}, {"sec-fetch-dest": "image"}, {"sec-purpose": "prefetch"}, {"accept": "application/json"}):
            answer = browser.client.request(method, "/logout", headers={**headers, "sec-fetch-site": "same-origin"})
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
            assert "set-cookie" not in answer.headers
    assert browser.cookies == kept
    assert browser.is_signed_in()
    assert browser.follow(browser.post("/logout", {})).status == 200
    assert not browser.is_signed_in()


def test_trm_06_every_signed_in_page_offers_to_sign_out(browser: Browser, here: Site) -> None:
    pages: list[Page] = [
        browser.get("/account"),
        browser.get("/account/sessions"),
        browser.get("/login?next=/x"),
        browser.send(browser.get("/account"), "delete", current_password="wrong"),
        browser.post("/login", {"email": EMAIL, "password": "wrong"}),
        browser.post("/account/sessions", {"action": "end", "id": "x"}),
        browser.get("/logout"),
        browser.post("/account", {}, sec_fetch_site="cross-site"),
    ]
    assert [page.status for page in pages] == [200, 200, 200, 422, 401, 404, 405, 403]
    for page in pages:
        (form,) = page.find("form", action="/logout")
        assert form["method"] == "post"
        assert "Sign out" in page.text
    for path in ("/login", "/register"):
        assert not here.browser().get(path).find("form", action="/logout")


def test_trm_06_a_sign_out_that_fails_says_so(browser: Browser, here: Site) -> None:
    here.backend.fail["delete"] = StoreUnavailable("down")
    page = browser.post("/logout", {})
    assert page.status == 503
    assert browser.cookies == {}


def handles(here: Site, client: httpx.Client) -> list[str]:
    found: list[dict[str, Any]] = client.get("/account/sessions", headers={"accept": "application/json"}).json()[
        "sessions"
    ]
    return [session["id"] for session in found]


def test_ses_12_a_foreign_handle_looks_like_one_that_never_was(browser: Browser, here: Site) -> None:
    eve = here.browser()
    eve.register(EVE)
    (foreign,) = handles(here, eve.client)
    answers = []
    for handle in (foreign, "A" * 24, "nonsense", "", foreign.lower(), foreign + "A", "../" + foreign):
        page = browser.post("/account/sessions", {"action": "end", "id": handle})
        program = browser.client.post("/account/sessions", json={"id": handle}, headers={"accept": "application/json"})
        answers.append((page.status, page.html, program.status_code, program.content))
    assert len(set(answers)) == 1
    assert (answers[0][0], answers[0][2:]) == (404, (404, b'{"error":"not_found"}'))
    for value in (None, 1, ["x"], {"id": foreign}, True):
        program = browser.client.post("/account/sessions", json={"id": value})
        assert program.status_code == 404
    assert eve.is_signed_in()
    assert foreign not in handles(here, browser.client)
    browser.post("/account/sessions", {"action": "end_others"})
    assert eve.is_signed_in()


def test_ses_12_ending_the_own_session_signs_out(browser: Browser, here: Site) -> None:
    (own,) = handles(here, browser.client)
    page = browser.post("/account/sessions", {"action": "end", "id": own})
    assert page.location == "/login?done=signed_out"
    assert browser.cookies == {}


def test_ses_12_anonymous_requests_list_and_end_nothing(here: Site, browser: Browser) -> None:
    (handle,) = handles(here, browser.client)
    nobody = here.program()
    for body in ({"id": handle}, {"action": "end_others"}):
        assert nobody.post("/account/sessions", json=body).status_code == 401
    assert nobody.get("/account/sessions").status_code == 401
    assert browser.is_signed_in()


TYPED = {"email": EMAIL, "password": "some wrong words"}


@pytest.mark.parametrize("framework", MOUNTS)
def test_aut_01_failed_sign_ins_look_the_same(framework: str, tmp_path: Path) -> None:
    """Unknown, wrong, locked, without a password; over-long and missing: the same answer to the byte."""
    with site(framework, tmp_path, auth_options={"throttle": None}) as here:
        failed_sign_ins_look_the_same(here)


def failed_sign_ins_look_the_same(here: Site) -> None:
    pages: list[Any] = []
    programs: list[Any] = []

    def try_to_sign_in(**fields: str | None) -> None:
        sent = {name: value for name, value in {**TYPED, **fields}.items() if value is not None}
        page = here.browser().post("/login", sent)
        # What was typed is shown again, whatever the reason: without it the pages are equal.
        shown = re.sub(r' value="[^"]*" autocapitalize', " autocapitalize", page.html)
        headers = {name: value for name, value in page.response.headers.items() if name != "content-length"}
        pages.append((page.status, shown, headers))
        if page.by_id("login-email")["value"] == EMAIL:
            assert page.header("content-length") == str(len(page.response.content))
        program = here.program().post("/login", json=sent)
        programs.append((program.status_code, program.content, dict(program.headers)))

    try_to_sign_in()  # an unknown user
    here.browser().register()
    try_to_sign_in()
    here.change(locked=True)
    try_to_sign_in(password=PASSWORD)
    here.change(locked=False, password_hash=None)
    try_to_sign_in(password=PASSWORD)
    here.change(password_hash="no hash at all")
    try_to_sign_in(password=PASSWORD)
    try_to_sign_in(password="")
    try_to_sign_in(password=None)
    try_to_sign_in(password="x" * 5000)
    try_to_sign_in(password="\0")
    try_to_sign_in(email=None)
    try_to_sign_in(email="")
    try_to_sign_in(email="no address")
    try_to_sign_in(email="x" * 5000)
    for answers in (pages, programs):
        assert answers[0][0] == 401
        assert all(answer == answers[0] for answer in answers)
    assert programs[0][1] == b'{"error":"invalid_credentials"}'
