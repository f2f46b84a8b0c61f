"""Links in mail, the script that reads them, and what a page of an extension needs for them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from harness.pages_support import Site, site
from harness.support import SECRET, Me, MemoryUsers
from powauth import ConfigError, Extension, Parts, SessionAuth
from powauth.backends.memory import MemoryBackend
from powauth.extensions.links import LINK_CSP, LINK_SCRIPT, Links, token_in
from powauth.pages import Messages, Page, PageAnswer, PageVisit

URL = "https://app.example/auth"
TEMPLATE = """{% extends "base.html" %}{% import "_token.html" as tokens %}
{% block heading %}Use it{% endblock %}
{% block content %}<form method="post" action="{{ links.use }}">
{{ tokens.field("use", "Code", "Paste it", values, errors, links) }}<button>Go</button></form>{% endblock %}"""


class Uses(Extension[Any]):
    """Has a page for a link. Two of these share the script."""

    name = "uses"
    links: Links

    def __init__(self, folder: Path, page: str = "use", **options: Any) -> None:
        self._folder, self._page, self._options = folder, page, options

    def bind(self, parts: Parts[Any]) -> Self:
        bound = type(self)(self._folder, self._page, **self._options)
        bound.links = Links(parts, type(self).__name__)
        return bound

    def pages(self) -> Sequence[Page]:
        given: dict[str, Any] = {
            "offered_on": "login",
            "messages": {f"{self._page}_link": "Have a code?"},
            "template": "use",
            "folder": self._folder,
            "csp": LINK_CSP,
            "no_referrer": True,
        }
        page = Page(name=self._page, path=f"/{self._page}", get=self.show, post=self.take, **{**given, **self._options})
        return [page, LINK_SCRIPT]

    async def show(self, visit: PageVisit) -> PageAnswer:
        return PageAnswer(context=visit.form())

    async def take(self, visit: PageVisit) -> PageAnswer:
        params = await visit.params()
        token = token_in(params.get("token"))
        errors = {} if token == "right" else {"token": ["is wrong"]}
        return PageAnswer(status=422, json={"errors": errors}, context=visit.form(params, errors))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "theirs"
    made.mkdir()
    (made / "use.html").write_text(TEMPLATE)
    return made


@pytest.fixture
def here(folder: Path, tmp_path: Path) -> Any:
    extensions = [Uses(folder), Uses(folder, "again")]
    with site("wsgi", tmp_path, mount="/auth", auth_options={"extensions": extensions, "public_url": URL}) as made:
        yield made


def bound(**options: Any) -> Links:
    class Holds(Extension[Me]):
        parts: Parts[Me]

        def bind(self, parts: Parts[Me]) -> Self:
            self.parts = parts
            return self

    held = Holds()
    SessionAuth(secret_key=SECRET, users=MemoryUsers(), backend=MemoryBackend(), extensions=[held], **options)
    return Links(held.parts, "ResetPassword")


def test_a_link_begins_with_the_public_address_and_has_its_token_in_the_fragment() -> None:
    links = bound(public_url=f"{URL}/")
    assert links.to("/password/reset", "abc") == "https://app.example/auth/password/reset#abc"
    assert links.to("/login") == "https://app.example/auth/login"


def test_an_extension_with_links_needs_the_public_address() -> None:
    with pytest.raises(ConfigError, match=r"^ResetPassword sends links, so SessionAuth needs public_url, the address"):
        bound()


@pytest.mark.parametrize("path", ["", "reset", "//evil.example", "/a/../b", "/a?b", "/a#b", "https://evil.example"])
def test_a_link_leads_to_a_path_of_the_pages(path: str) -> None:
    with pytest.raises(ConfigError, match="a link must lead to a path"):
        bound(public_url=URL).to(path, "abc")


@pytest.mark.parametrize(
    ("given", "token"),
    [
        ("abc", "abc"),
        (" abc\n", "abc"),
        (f"{URL}/use#abc", "abc"),
        ("#abc", "abc"),
        ("", ""),
        ("x" * 3000, None),
        (None, None),
        (7, None),
        (["abc"], None),
    ],
)
def test_a_person_pastes_the_code_or_the_link(given: object, token: str | None) -> None:
    assert token_in(given) == token


def test_a_page_for_a_link_has_the_script_or_a_field_and_names_itself_to_nobody(here: Site) -> None:
    browser = here.browser()
    page = browser.get("/use")
    assert page.header("referrer-policy") == "no-referrer"
    assert "script-src 'self'" in str(page.header("content-security-policy"))
    assert page.find("script", src="/auth/powauth-link.js")
    assert page.find("input", name="token", type="text")
    assert "Paste it" in page.text
    script = browser.get("/powauth-link.js")
    assert script.header("content-type") == "text/javascript; charset=utf-8"
    assert "window.location.hash" in script.html
    assert browser.get("/again").status == 200
    assert browser.get("/login").header("referrer-policy") == "same-origin"


def test_a_form_with_other_errors_keeps_the_token(here: Site) -> None:
    browser = here.browser()
    kept = browser.post("/use", {"token": "right"})
    assert kept.find("input", name="token", type="hidden", value="right")
    refused = browser.post("/use", {"token": "wrong"})
    assert refused.find("input", name="token", type="text")


def test_a_page_is_offered_on_another_one(here: Site) -> None:
    page = here.browser().get("/login")
    assert page.find("a", href="/auth/use")
    assert page.text.count("Have a code?") == 2
    assert not here.browser().get("/register").find("a", href="/auth/use")


def test_the_text_of_an_offer_can_be_replaced(folder: Path, tmp_path: Path) -> None:
    given = {"extensions": [Uses(folder)], "public_url": URL}
    messages = Messages(more={"use_link": "Code vorhanden?"})
    with site("asgi", tmp_path, auth_options=given, messages=messages) as made:
        assert "Code vorhanden?" in made.browser().get("/login").text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offered_on": "nowhere"}, "^the page use is offered on a page that does not exist: nowhere$"),
        ({"messages": {}}, "^the page use is offered on another page, so messages needs 'use_link'$"),
    ],
)
def test_an_offer_must_be_complete(folder: Path, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    given = {"extensions": [Uses(folder, **options)], "public_url": URL}
    with pytest.raises(ConfigError, match=message), site("wsgi", tmp_path, auth_options=given):
        pass
