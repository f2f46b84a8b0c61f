"""What it takes to delete one's own account."""

from typing import Any

import pytest

from harness.support import SECRET, Browser, Kind, MemoryUsers, Request, make_app
from powauth import SessionAuth
from powauth.backends.memory import MemoryBackend

KINDS: tuple[Kind, ...] = ("asgi", "wsgi")
PASSWORD = "correct horse"


def _browser(kind: Kind, users: MemoryUsers, *args: Any, **options: Any) -> Browser:
    async def login(request: Request) -> object:
        return bool(await request.call("sign_in", {"email": "ada@example.com", "password": PASSWORD}))

    async def delete(request: Request) -> object:
        await request.call("delete_user", *args, **options)
        return None

    users.add("ada@example.com", PASSWORD)
    auth = SessionAuth(secret_key=SECRET, users=users, backend=MemoryBackend())
    browser = Browser(make_app(kind, auth, {"/login": login, "/delete": delete}), kind)
    browser.get("/login")
    return browser


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("args", [(), (None,), ({},), ({"current_password": None},), ({"current_password": "guess"},)])
def test_pwd_09_no_body_and_no_password_delete_nothing(kind: Kind, args: tuple[Any, ...]) -> None:
    users = MemoryUsers()
    browser = _browser(kind, users, *args)
    answer = browser.get("/delete")
    assert (answer.status, list(answer.json()["errors"])) == (422, ["current_password"])
    assert len(users.rows) == 1
    assert browser.get("/").json() == {"user": "ada@example.com"}


@pytest.mark.parametrize("kind", KINDS)
def test_an_app_that_vouches_needs_no_password(kind: Kind) -> None:
    users = MemoryUsers()
    browser = _browser(kind, users, vouched=True)
    assert browser.get("/delete").status == 200
    assert not users.rows


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_password_is_wrong_whoever_vouches(kind: Kind) -> None:
    users = MemoryUsers()
    browser = _browser(kind, users, {"current_password": "guess"}, vouched=True)
    assert browser.get("/delete").status == 422
    assert len(users.rows) == 1
