"""API-01, API-05: the page of the API keys and its JSON twin, which take no key."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from harness.authenticators import authenticated
from harness.keys_support import ApiKey
from harness.pages_support import EMAIL, PASSWORD, Browser, Site, site
from harness.users_databases import memory_engine
from powauth import AnyOf, BearerCarrier, CookieCarrier
from powauth.backends.base import drive
from powauth.extensions.api_keys import ApiKeys

PAGE = "/account/keys"
OTHER = "ben@example.com"


@pytest.fixture(params=["asgi", "wsgi"])
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with memory_engine(ApiKey) as engine:
        keys: ApiKeys[Any] = ApiKeys(engine, ApiKey, scopes=lambda user: ["orders:read", "orders:write"])
        with site(request.param, tmp_path, auth_options={"extensions": [keys], "throttle": None}) as made:
            for email in (EMAIL, OTHER):
                drive(made.auth.create_account({"email": email, "password": PASSWORD}))
            yield made


def program(here: Site, email: str = EMAIL) -> httpx.Client:
    client = here.program()
    assert client.post("/login", json={"email": email, "password": PASSWORD}).status_code == 200
    return client


def signed_in(here: Site) -> Browser:
    browser = here.browser()
    assert browser.sign_in().status == 303
    return browser


def with_key(here: Site, key: str) -> httpx.Client:
    return here.program(authorization=f"Bearer {key}")


def test_api_01_the_page_shows_a_new_key_once(here: Site) -> None:
    browser = signed_in(here)
    assert PAGE in str(browser.get("/account").find("a", href=PAGE))
    empty = browser.get(PAGE)
    assert "You have no API keys" in empty.text
    assert "Expires in days" in empty.text
    fields = {"name": "Nightly <report>", "scope:orders:read": "true", "expires_in_days": "30"}
    made = browser.post(PAGE, {"action": "create", **fields})
    assert made.status == 201
    (key,) = {word for word in made.text.split() if word.startswith("powkey_") and len(word) == 55}
    assert made.header("cache-control") == "no-store"
    for page in (browser.get(PAGE), browser.get("/account")):
        assert key not in page.html
    listed = browser.get(PAGE)
    assert "Nightly <report>" in listed.text
    assert "<report>" not in listed.html
    assert key[:17] in listed.text
    assert "orders:read" in listed.text
    ended = browser.follow(browser.post(PAGE, {"action": "end", "id": key[7:17]}))
    assert "The key is no longer valid" in ended.text
    assert "You have no API keys" in ended.text


def test_api_01_the_owner_is_that_of_the_session_whatever_the_body_says(here: Site) -> None:
    """better-auth, CVE-2025-61928: the id of another user in the body made a key of that user."""
    mia, ben = program(here), program(here, OTHER)
    other = ben.get("/account").json()["user"]["id"]
    names = ("user", "user_id", "userId", "owner", "user_key", "key", "email", "namespace", "proof", "id")
    body = {"name": "mine", **dict.fromkeys(names, other), "secret_hash": "0" * 64, "public_id": "x" * 10}
    made = mia.post(PAGE, json=body)
    assert made.status_code == 201
    assert made.json()["id"] != "x" * 10
    assert with_key(here, made.json()["key"]).get("/account").status_code == 403
    assert [each["name"] for each in mia.get(PAGE).json()["keys"]] == ["mine"]
    assert ben.get(PAGE).json()["keys"] == []


def test_api_01_no_get_returns_a_key(here: Site) -> None:
    client = program(here)
    made = client.post(PAGE, json={"name": "a", "scopes": ["orders:read"], "expires_in_days": 1})
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    key = made.json().pop("key")
    info = {name: value for name, value in made.json().items() if name != "key"}
    assert client.get(PAGE).json() == {"keys": [info], "scopes": ["orders:read", "orders:write"]}
    assert info == {
        "id": key[7:17],
        "prefix": key[:17],
        "name": "a",
        "scopes": ["orders:read"],
        "created_at": "2030-03-17T17:46:40.000Z",
        "last_used_at": None,
        "expires_at": "2030-03-18T17:46:40.000Z",
    }


@pytest.mark.parametrize("framework", ["asgi", "wsgi"])
def test_api_01_a_key_is_made_after_a_fresh_second_factor(framework: str, tmp_path: Path) -> None:
    """A key skips second factors. A new password makes the session fresh, but not the factor that it has proven."""
    with memory_engine(ApiKey) as engine:
        keys: ApiKeys[Any] = ApiKeys(engine, ApiKey)
        with authenticated(framework, tmp_path, engine=engine, extensions=(keys,)) as one:
            secret, client = one.enrolled(), one.program()
            assert client.post("/login", json={"email": EMAIL, "password": PASSWORD}).status_code == 401
            assert client.post("/login/factor", json={"factor": "totp", "code": one.code(secret)}).status_code == 200
            assert client.post(PAGE, json={"name": "a"}).status_code == 201
            one.clock.now += 16 * 60
            fields = {"action": "password", "password": "eleven grey geese", "current_password": PASSWORD}
            assert client.post("/account", json=fields).status_code == 200
            refused = client.post(PAGE, json={"name": "b"})
            assert (refused.status_code, refused.json()["error"]) == (403, "fresh_sign_in_required")
            assert refused.json()["methods"] == ["mfa"]
            assert [each["name"] for each in client.get(PAGE).json()["keys"]] == ["a"]
            client.get("/login/factor")
            assert client.post("/login/factor", json={"factor": "totp", "code": one.code(secret)}).status_code == 200
            assert client.post(PAGE, json={"name": "b"}).status_code == 201


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": 7}, "name"),
        ({"name": "a", "scopes": ["admin"]}, "scopes"),
        ({"name": "a", "scopes": "orders:read"}, "scopes"),
        ({"name": "a", "scopes": {"orders:read": True}, "action": "create"}, None),
        ({"name": "a", "scope:admin": "true"}, "scopes"),
        ({"name": "a", "expires_in_days": 0}, "expires_in_days"),
        ({"name": "a", "expires_in_days": -1}, "expires_in_days"),
        ({"name": "a", "expires_in_days": 3651}, "expires_in_days"),
        ({"name": "a", "expires_in_days": True}, "expires_in_days"),
        ({"name": "a", "expires_in_days": 1.5}, "expires_in_days"),
        ({"name": "a", "expires_in_days": "\u0661"}, "expires_in_days"),
        ({"name": "a", "expires_in_days": "9" * 5000}, "expires_in_days"),
        ({"name": "a", "expires_in_days": [1]}, "expires_in_days"),
        ({"name": "a", "action": "renew"}, "action"),
        ({"name": "a", "action": ["end"]}, "action"),
    ],
)
def test_wrong_fields_are_named(here: Site, body: dict[str, Any], field: str | None) -> None:
    answer = program(here).post(PAGE, json=body)
    if field is None:
        assert answer.status_code == 201
        return
    assert (answer.status_code, [*answer.json()["errors"]]) == (422, [field])


def test_a_refused_form_keeps_what_was_entered(here: Site) -> None:
    browser = signed_in(here)
    fields = {"action": "create", "name": "report", "scope:orders:read": "true", "expires_in_days": "x"}
    page = browser.post(PAGE, fields)
    assert page.status == 422
    assert page.find("input", name="name")[0]["value"] == "report"
    assert "checked" in page.find("input", name="scope:orders:read")[0]
    assert "checked" not in page.find("input", name="scope:orders:write")[0]
    assert "from 1 to 3650" in page.text


def test_api_05_another_users_key_and_no_key_answer_alike(here: Site) -> None:
    mia, ben = program(here), program(here, OTHER)
    theirs = ben.post(PAGE, json={"name": "b"}).json()
    for public_id in (theirs["id"], theirs["key"], "0" * 10, "", None, 7, {"a": 1}, "\0"):
        answer = mia.post(PAGE, json={"action": "end", "id": public_id})
        assert (answer.status_code, answer.json()) == (404, {"error": "not_found"})
    assert len(ben.get(PAGE).json()["keys"]) == 1
    ended = ben.post(PAGE, json={"action": "end", "id": theirs["id"]})
    assert (ended.status_code, ended.content) == (204, b"")
    browser = signed_in(here)
    assert "This key no longer exists" in browser.post(PAGE, {"action": "end", "id": theirs["id"]}).text


def test_api_02_no_page_takes_a_key(here: Site) -> None:
    """Also beside the cookie of a session, and for the pages that need nobody."""
    client = program(here)
    key = client.post(PAGE, json={"name": "a", "scopes": ["orders:write"]}).json()["key"]
    bodies: dict[str, dict[str, Any]] = {
        "/login": {"email": EMAIL, "password": PASSWORD},
        "/register": {"email": "new@example.com", "password": PASSWORD},
        "/logout": {},
        "/account": {"current_password": PASSWORD, "password": "eleven grey geese"},
        "/account/sessions": {"action": "end_others"},
        PAGE: {"name": "another"},
    }
    client.headers["authorization"] = f"Bearer {key}"
    for sender in (client, with_key(here, key)):
        for path, body in bodies.items():
            answers = [sender.post(path, json=body)] + ([] if path == "/logout" else [sender.get(path)])
            for answer in answers:
                assert (answer.status_code, answer.json()["error"]) == (403, "session_required"), path
                assert "set-cookie" not in answer.headers
    del client.headers["authorization"]
    assert len(client.get(PAGE).json()["keys"]) == 1
    assert len(client.get("/account/sessions").json()["sessions"]) == 1


def test_a_key_needs_a_fresh_sign_in_and_its_end_does_not(here: Site) -> None:
    client, browser = program(here), signed_in(here)
    made = client.post(PAGE, json={"name": "a"}).json()
    here.clock.advance(16 * 60)
    refused = client.post(PAGE, json={"name": "b"})
    assert (refused.status_code, refused.json()) == (403, {"error": "fresh_sign_in_required"})
    assert browser.post(PAGE, {"action": "create", "name": "b"}).location == f"/login?next={PAGE}"
    assert client.post(PAGE, json={"action": "end", "id": made["id"]}).status_code == 204


def test_api_06_a_page_that_needs_a_user_is_401_in_json_with_a_challenge(here: Site) -> None:
    answer = here.program().get(PAGE)
    assert (answer.status_code, answer.json()) == (401, {"error": "not_signed_in"})
    assert answer.headers["www-authenticate"] == 'Bearer realm="api_key"'
    assert here.browser().get(PAGE).location == f"/login?next={PAGE}"
    wrong = here.program().post("/login", json={"email": EMAIL, "password": "wrong"})
    assert (wrong.status_code, wrong.headers["www-authenticate"]) == (401, 'Bearer realm="api_key"')


def test_api_06_pages_of_an_app_with_bearer_tokens_have_their_challenge(tmp_path: Path) -> None:
    carrier = AnyOf(CookieCarrier(), BearerCarrier())
    with site("wsgi", tmp_path, auth_options={"carrier": carrier}) as made:
        assert made.program().get("/account").headers["www-authenticate"] == 'Bearer realm="auth"'
    with site("wsgi", tmp_path) as made:
        assert "www-authenticate" not in made.program().get("/account").headers


def test_the_page_can_be_elsewhere_or_nowhere() -> None:
    engine = sa.create_engine("sqlite://")
    for path, shown in (("/tokens", ["/tokens"]), (None, [])):
        keys: ApiKeys[Any] = ApiKeys(engine, ApiKey, path=path)
        assert [page.path for page in keys.pages()] == shown
    engine.dispose()
