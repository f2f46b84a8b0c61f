"""TRM-01: a session ends while its client is still sending the body of a request. The request then changes nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.confirming import OTHER_PASSWORD, Base, Confirming, confirming
from harness.pages_support import EMAIL, PASSWORD
from harness.slow_bodies import during_the_body
from powauth.extensions.api_keys import ApiKeyMixin, ApiKeys


class Key(ApiKeyMixin, Base):
    __tablename__ = "keys_of_slow_requests"


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Confirming]:
    with confirming("wsgi", tmp_path, confirms=False, extensions=lambda engine: (ApiKeys(engine, Key),)) as made:
        made.member(EMAIL, confirmed=False)
        yield made


def signed_in(here: Confirming) -> Any:
    program = here.program()
    assert program.post("/login", json={"email": EMAIL, "password": PASSWORD}).status_code == 200
    return program


def sent_slowly(here: Confirming, thief: Any, path: str, fields: dict[str, object]) -> Any:
    """Send a request, and end its session before the body comes. Return the answer and a newer session of the owner."""
    owners = []

    def owner_ends_the_others() -> None:
        owners.append(signed_in(here))
        assert owners[0].post("/account/sessions", json={"action": "end_others"}).status_code == 200

    with during_the_body(here.site, owner_ends_the_others):
        answer = thief.post(path, json=fields)
    assert (answer.status_code, answer.json()) == (401, {"error": "not_signed_in"})
    assert thief.get("/account").status_code == 401
    return owners[0]


@pytest.mark.parametrize("action", ["end", "end_others", "burn"])
def test_trm_01_it_ends_no_session(here: Confirming, action: str) -> None:
    other = signed_in(here)
    sid = other.get("/account/sessions").json()["sessions"][0]["id"]
    owner = sent_slowly(here, signed_in(here), "/account/sessions", {"action": action, "id": sid})
    assert owner.get("/account").status_code == 200


@pytest.mark.parametrize(
    "fields",
    [{"password": OTHER_PASSWORD}, {"email": "thief@example.org"}, {"action": "delete"}],
    ids=["password", "user id", "deletion"],
)
def test_trm_01_it_changes_no_account_and_begins_no_session(here: Confirming, fields: dict[str, object]) -> None:
    """The thief knows the password. A second factor would keep the thief out, but the change would sign in again."""
    owner = sent_slowly(here, signed_in(here), "/account", {**fields, "current_password": PASSWORD})
    assert owner.get("/account").json()["user"]["email"] == EMAIL
    assert signed_in(here).get("/account").status_code == 200
    assert here.addresses == [EMAIL]


@pytest.mark.parametrize("action", ["create", "end", "burn"])
def test_trm_01_it_neither_makes_nor_ends_nor_lists_keys(here: Confirming, action: str) -> None:
    thief = signed_in(here)
    made = thief.post("/account/keys", json={"name": "backup", "scopes": []}).json()
    fields = {"action": action, "id": made["id"], "name": "later", "scopes": []}
    owner = sent_slowly(here, thief, "/account/keys", fields)
    assert [key["name"] for key in owner.get("/account/keys").json()["keys"]] == ["backup"]
