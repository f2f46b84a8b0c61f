"""Pages of an extension outside of the package, made from public names alone."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from harness.pages_support import EMAIL, MOUNTS, PASSWORD, Site, site
from harness.support import SECRET, MemoryUsers
from powauth import ConfigError, CrossSiteDefence, Extension, SessionAuth, Step
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.extensions.reset_password import ResetPassword
from powauth.integrations.fastapi import SessionAuthMiddleware
from powauth.pages import BasePages, Messages, Page, PageAnswer, PagePart, PageResponse, PageVisit, Routes
from powauth.pages.fastapi import pages
from powauth.testing import MemoryMailer

TEMPLATE = """{% extends "base.html" %}
{% block heading %}{{ texts.activity_heading }}{% endblock %}
{% block content %}
<ul>{% for each in seen %}<li>{{ each }}</li>{% endfor %}</ul>
<script src="{{ links.activity_script }}"></script>
<form method="post" action="{{ links.activity }}"><button type="submit">{{ texts.activity_clear }}</button></form>
{% endblock %}
"""


class Activity(Extension[Any]):
    """Notes the flows of each user, and shows them."""

    name = "activity"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[str] = []

    async def after(self, step: Step[Any]) -> None:
        self.seen.append(step.flow)

    def pages(self) -> Sequence[Page]:
        texts = {"activity_heading": "Recent activity", "activity_clear": "Clear", "done_cleared": "All clear."}
        return [
            Page(
                name="activity",
                path="/account/activity",
                get=self.show,
                post=self.clear,
                template="activity",
                folder=self.folder,
                messages=texts,
                csp={"script-src": ["'self'"], "style-src": ["data:"]},
            ),
            Page(name="activity_script", path="/activity.js", get=self.script),
        ]

    async def show(self, visit: PageVisit) -> PageAnswer:
        visit.auth.require_user()
        return PageAnswer(json={"activity": self.seen}, context={"seen": self.seen})

    async def clear(self, visit: PageVisit) -> PageAnswer:
        visit.auth.require_user()
        params = await visit.params()
        if params.get("all") == "no":
            return PageAnswer(status=422, json={"errors": {"all": ["is refused"]}}, context={"seen": ["refused"]})
        self.seen.clear()
        return PageAnswer(status=204, to=visit.link("activity", "cleared"))

    async def script(self, visit: PageVisit) -> PageResponse:
        del visit
        return PageResponse(200, [("Content-Type", "text/javascript")], b"// nothing")


@pytest.fixture(params=[(name, mount) for name in MOUNTS for mount in ("", "/auth")])
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    name, mount = request.param
    folder = tmp_path / "templates"
    folder.mkdir()
    (folder / "activity.html").write_text(TEMPLATE)
    with site(name, tmp_path, mount=mount, auth_options={"extensions": [Activity(folder)]}) as made:
        yield made


def test_an_extension_adds_a_page_under_every_framework(here: Site) -> None:
    browser = here.browser()
    sent = browser.get("/account/activity")
    assert (sent.status, sent.location) == (303, f"{here.mount}/login?next={here.mount}/account/activity")
    browser.register()
    page = browser.get("/account/activity")
    assert (page.status, page.header("content-type")) == (200, "text/html; charset=utf-8")
    assert "Recent activity" in page.text
    assert "registration" in page.text
    assert page.find("script", src=f"{here.mount}/activity.js")
    assert browser.get("/activity.js").html == "// nothing"
    cleared = browser.follow(browser.send(page))
    assert "All clear." in cleared.text
    assert "registration" not in cleared.text
    refused = browser.post("/account/activity", {"all": "no"})
    assert (refused.status, "refused" in refused.text) == (422, True)


def test_the_page_of_an_extension_has_a_json_twin_and_the_defence_of_all_pages(here: Site) -> None:
    program = here.program()
    assert program.get("/account/activity").json() == {"error": "not_signed_in"}
    program.post("/register", json={"email": EMAIL, "password": PASSWORD})
    shown = program.get("/account/activity")
    assert (shown.status_code, shown.json()) == (200, {"activity": ["registration", "sign_in"]})
    refused = program.post("/account/activity", json={"all": "no"})
    assert (refused.status_code, refused.json()) == (422, {"errors": {"all": ["is refused"]}})
    foreign = here.browser().post("/account/activity", {}, origin="https://evil.example", sec_fetch_site="cross-site")
    assert foreign.status == 403
    cleared = program.post("/account/activity", json={})
    assert (cleared.status_code, cleared.content) == (204, b"")
    assert program.get("/account/activity").json() == {"activity": []}
    wrong = program.delete("/account/activity", headers={"content-type": "application/json"})
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD, POST")
    assert program.post("/activity.js", json={}).headers["allow"] == "GET, HEAD"


def test_the_content_security_policy_is_widened_for_that_page_alone(here: Site) -> None:
    browser = here.browser()
    browser.register()
    policy = str(browser.get("/account/activity").header("content-security-policy"))
    assert "script-src 'self'" in policy
    assert "style-src 'self' data:" in policy
    assert "default-src 'none'" in policy
    assert "script-src" not in str(browser.get("/account").header("content-security-policy"))


def test_texts_and_templates_of_an_extension_are_replaced_by_the_app(tmp_path: Path) -> None:
    folder, own = tmp_path / "theirs", tmp_path / "own"
    folder.mkdir()
    own.mkdir()
    (folder / "activity.html").write_text(TEMPLATE)
    options = {"extensions": [Activity(folder)]}
    messages = Messages(more={"activity_heading": "Verlauf"})
    with site("asgi", tmp_path, auth_options=options, messages=messages, templates=own) as here:
        browser = here.browser()
        browser.register()
        assert "Verlauf" in browser.get("/account/activity").text
        (own / "activity.html").write_text("mine")
    with site("asgi", tmp_path, auth_options=options, templates=own) as here:
        browser = here.browser()
        browser.sign_in()
        assert browser.get("/account/activity").html == "mine"


async def empty(visit: PageVisit) -> PageAnswer:
    del visit
    return PageAnswer(json={})


GOOD: dict[str, Any] = {"name": "extra", "path": "/extra", "get": empty}


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "Extra page"},
        {"path": "extra"},
        {"path": "/a/../b"},
        {"get": None},
        {"folder": Path("/nowhere")},
        {"csp": {"script-src": "'self'"}},
    ],
)
def test_a_page_that_is_wrong_is_refused(wrong: dict[str, Any]) -> None:
    Page(**GOOD)
    with pytest.raises(ConfigError):
        Page(**{**GOOD, **wrong})


class Contributes(Extension[Any]):
    """Contributes whatever it is given."""

    name = "contributes"

    def __init__(self, *given: Any) -> None:
        self.given = given

    def pages(self) -> Sequence[Any]:
        return self.given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([object()], "Contributes.pages"),
        ([Page(**{**GOOD, "path": "/login"})], "same path: /login"),
        ([Page(**{**GOOD, "name": "login"})], "same name: login"),
        ([Page(**GOOD), Page(**GOOD)], "same path: /extra"),
    ],
)
def test_pages_that_collide_are_refused(given: list[Any], message: str) -> None:
    auth = SessionAuth(
        secret_key=SECRET, users=MemoryUsers(), backend=MemoryBackend(), extensions=[Contributes(*given)]
    )
    with pytest.raises(ConfigError, match=message):
        BasePages(auth)


def with_extensions(*extensions: Extension[Any]) -> SessionAuth[Any, Any]:
    return SessionAuth(secret_key=SECRET, users=MemoryUsers(), backend=MemoryBackend(), extensions=extensions)


def test_an_app_with_a_sign_in_of_its_own_mounts_only_the_pages_of_extensions() -> None:
    auth = with_extensions(Contributes(Page(**GOOD)))
    assert BasePages(auth, ready_made=False).paths == ("/extra",)
    app = FastAPI()
    app.add_middleware(SessionAuthMiddleware, auth=auth)
    app.include_router(pages(BasePages(auth, ready_made=False)), prefix="/api")
    with TestClient(app) as client:
        assert client.get("/api/extra").json() == {}
        assert {client.get(f"/api{path}").status_code for path in ("/login", "/register", "/account")} == {404}


def test_a_frontend_on_another_origin_shows_the_forms_of_an_extension() -> None:
    """As docs/reset-password.md describes it."""
    mailer, users = MemoryMailer(), MemoryUsers()
    drive(users.create({"email": EMAIL, "password": PASSWORD}))
    auth = SessionAuth(
        secret_key=SECRET,
        users=users,
        backend=MemoryBackend(),
        public_url="https://app.example",
        extensions=[ResetPassword(mailer, forgot_path="/password-recovery", reset_path="/reset-password")],
    )
    defence = CrossSiteDefence(["https://app.example"])
    app = FastAPI(lifespan=auth.lifespan)
    app.add_middleware(SessionAuthMiddleware, auth=auth)
    app.include_router(pages(BasePages(auth, title="Shop", ready_made=False, defence=defence)), prefix="/api")
    own = {"origin": "https://app.example", "sec-fetch-site": "same-site"}
    with TestClient(app, base_url="https://api.example") as client:
        assert client.post("/api/password-recovery", json={"email": EMAIL}, headers=own).status_code == 202
        [message] = mailer.wait(1)
        body = message.get_body(("plain",))
        assert body is not None
        found = re.search(r"https://app\.example/reset-password#(\S+)", str(body.get_content()))
        assert found is not None
        params = {"token": found[1], "password": "eleven grey geese"}
        evil = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
        assert client.post("/api/reset-password", json=params, headers=evil).status_code == 403
        assert client.post("/api/reset-password", json=params, headers=own).status_code == 204


def test_pages_without_the_ready_made_ones_need_an_extension_and_no_templates() -> None:
    with pytest.raises(ConfigError, match="no extension of this SessionAuth has one"):
        BasePages(with_extensions(), ready_made=False)
    templates: Any = object()
    with pytest.raises(ConfigError, match="ready_made=False needs render=None"):
        BasePages(with_extensions(Contributes(Page(**GOOD))), ready_made=False, render=templates)


def test_options_for_pages_that_exist_already_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"give routes, title to BasePages\(…\)"):
        pages(BasePages(with_extensions()), title="Shop", routes=Routes(register=None))


def test_a_page_without_a_template_must_send_people_elsewhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with site("asgi", tmp_path, auth_options={"extensions": [Contributes(Page(**GOOD))]}) as here:
        assert here.program().get("/extra").json() == {}
        assert here.browser().get("/extra").status == 500
        assert "the page extra has no template" in caplog.text


PART = """<form class="card"><button>{{ texts.part_action }}</button></form>
<script src="{{ links.activity_script }}"></script>
"""


class Adds(Activity):
    """Adds a part to the page to sign in."""

    name = "adds"

    def page_parts(self) -> Sequence[PagePart]:
        csp = {"script-src": ["'self'"]}
        texts = {"part_action": "Another way"}
        return [PagePart(on="login", template="part", folder=self.folder, messages=texts, csp=csp)]


@pytest.mark.parametrize("framework", ["asgi", "wsgi"])
def test_an_extension_adds_a_part_to_another_page(framework: str, tmp_path: Path) -> None:
    folder = tmp_path / "templates"
    folder.mkdir()
    (folder / "activity.html").write_text(TEMPLATE)
    (folder / "part.html").write_text(PART)
    options = {"extensions": [Adds(folder)]}
    with site(framework, tmp_path, auth_options=options) as here:
        browser = here.browser()
        page = browser.get("/login")
        assert "Another way" in page.text
        assert page.find("script", src="/activity.js")
        assert "script-src 'self'" in str(page.header("content-security-policy"))
        refused = browser.post("/login", {"email": EMAIL, "password": "wrong wrong"})
        assert (refused.status, "Another way" in refused.text) == (401, True)
        other = browser.get("/register")
        assert "Another way" not in other.text
        assert "script-src" not in str(other.header("content-security-policy"))
        assert here.program().get("/login").json() == {"fields": ["email", "password"]}
    with site(framework, tmp_path, auth_options=options, messages=Messages(more={"part_action": "Anders"})) as here:
        assert "Anders" in here.browser().get("/login").text


def test_a_part_must_fit_a_page(tmp_path: Path) -> None:
    good: dict[str, Any] = {"on": "login", "template": "part", "folder": tmp_path}
    assert PagePart(**good).csp == {}
    for wrong in (
        {"on": "Login"},
        {"template": "part.html"},
        {"folder": tmp_path / "none"},
        {"csp": {"script-src": ["'unsafe-inline'"]}},
    ):
        with pytest.raises(ConfigError):
            PagePart(**good | wrong)

    class Lost(Extension[Any]):
        name = "lost"
        parts: Sequence[Any] = [PagePart(**good | {"on": "nowhere"})]

        def page_parts(self) -> Sequence[Any]:
            return self.parts

    class NoPart(Lost):
        parts: Sequence[Any] = ["login"]

    for kind, message in ((Lost, "a page that does not exist: nowhere"), (NoPart, "must return PagePart objects")):
        users = MemoryUsers()
        auth = SessionAuth(secret_key=SECRET, users=users, backend=MemoryBackend(), extensions=[kind()])
        with pytest.raises(ConfigError, match=message):
            BasePages(auth)
