"""Two authenticators in front of one request, or over one store: neither lends its users or sessions to the other."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from harness.core_support import Site
from harness.support import SECRET, Browser, CountingBackend, Kind, MemoryUsers, Request, make_app
from powauth import ConfigError, CredentialsCache, SessionAuth
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend

KINDS: tuple[Kind, ...] = ("asgi", "wsgi")


def _auth(namespace: str, **options: Any) -> SessionAuth[Any, Any]:
    store = CredentialsCache(MemoryBackend(), namespace=namespace)
    return SessionAuth(secret_key=SECRET, users=MemoryUsers(), store=store, session_key=namespace, **options)


def _nested(kind: Kind, outer: SessionAuth[Any, Any], inner: SessionAuth[Any, Any]) -> Browser:
    async def sign_in(request: Request) -> object:
        user = outer.users.add("ada@example.com")  # type: ignore[attr-defined]
        await request.call("sign_in_user", user)
        return None

    inside = make_app(kind, inner, {})
    around = make_app(kind, outer, {"/sign-in": sign_in})
    around.app = _router(kind, {"/private": inside}, around.app)
    browser = Browser(around, kind)
    browser.get("/sign-in")
    return browser


def _router(kind: Kind, mounts: dict[str, Any], otherwise: Any) -> Any:
    if kind == "asgi":

        async def asgi_router(scope: Any, receive: Any, send: Any) -> None:
            await mounts.get(scope["path"], otherwise)(scope, receive, send)

        return asgi_router
    return lambda environ, start: mounts.get(environ["PATH_INFO"], otherwise)(environ, start)


@pytest.mark.parametrize("kind", KINDS)
def test_the_users_of_one_are_not_taken_for_those_of_another_under_the_same_key(kind: Kind) -> None:
    browser = _nested(kind, _auth("shop"), _auth("admins"))
    with pytest.raises(ConfigError, match="its own current_user_key"):
        browser.get("/private")


@pytest.mark.parametrize("kind", KINDS)
def test_with_keys_of_their_own_each_knows_its_own_users_alone(kind: Kind) -> None:
    browser = _nested(kind, _auth("shop"), _auth("admins", current_user_key="admin"))
    assert browser.get("/").json() == {"user": "ada@example.com"}
    assert browser.get("/private").status == 401


@pytest.mark.parametrize("kind", KINDS)
def test_one_authenticator_may_be_in_front_twice(kind: Kind) -> None:
    auth = _auth("shop")
    assert _nested(kind, auth, auth).get("/private").json() == {"user": "ada@example.com"}


# --- one backend and one namespace --------------------------------------------------------------------------------

NAMES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"session_key": "admin"}),
    ({"session_key": "shop"}, {"session_key": "admin"}),
    ({"app_name": "shop"}, {"app_name": "admin"}),
    ({"session_key": "auth"}, {"app_name": "shop"}),
    ({"session_key": "a" * 64}, {"session_key": "a" * 63 + "b"}),
    ({"session_key": "shop_admin"}, {"app_name": "shop", "session_key": "admins"}),
]
"""Options of two authenticators that share a backend and its namespace."""


class Side:
    """One of two sites over one store and one table of users."""

    def __init__(self, kind: Kind, backend: CountingBackend, users: MemoryUsers, **options: Any) -> None:
        self.site = Site(backend, kind, users=users, **options)

    def signed_in(self) -> str:
        """The id of a new session."""
        return self.site.id_of(self.site.signed_in())

    def knows(self, value: str) -> bool:
        """Whether an id opens a session here."""
        return self.site.user_of_id(value) is not None

    def call(self, value: str, name: str, *args: object) -> Any:
        """The answer to a request with this id, whose handler calls an operation."""

        async def work(request: Request) -> object:
            return await request.call(name, *args)

        browser = self.site.browser()
        browser.jar[self.site.cookie_name] = value
        return self.site.serve({"/do": work}, browser).get("/do").json()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture(params=NAMES, ids=str)
def sides(request: pytest.FixtureRequest, kind: Kind) -> tuple[Side, Side]:
    backend, users = CountingBackend(MemoryBackend()), MemoryUsers()
    one, two = request.param
    return Side(kind, backend, users, **one), Side(kind, backend, users, **two)


def test_rep_42_an_id_of_one_opens_nothing_of_the_other(sides: tuple[Side, Side]) -> None:
    for one, two in (sides, sides[::-1]):
        value = one.signed_in()
        assert (one.knows(value), two.knows(value)) == (True, False)
        prefixed = two.signed_in().rpartition(".")[0] + "." + value.rpartition(".")[2]
        assert not two.knows(prefixed)
        assert one.knows(value)


@pytest.mark.parametrize("operation", ["revoke_others", "revoke_all"])
def test_rep_42_what_one_revokes_leaves_the_other_alone(sides: tuple[Side, Side], operation: str) -> None:
    for one, two in (sides, sides[::-1]):
        own, others, foreign = one.signed_in(), one.signed_in(), two.signed_in()
        one.call(own, operation)
        assert (one.knows(own), one.knows(others)) == (operation == "revoke_others", False)
        assert two.knows(foreign)


def test_rep_42_each_lists_and_ends_its_own_sessions(sides: tuple[Side, Side]) -> None:
    one, two = sides
    value, foreign = one.signed_in(), two.signed_in()
    assert len(one.call(value, "sessions")) == 1
    [listed] = two.call(foreign, "sessions")
    assert one.call(value, "revoke", listed["sid"]) is False
    assert two.knows(foreign)


def test_rep_42_the_app_revokes_in_one_of_them(sides: tuple[Side, Side]) -> None:
    one, two = sides
    value, foreign = one.signed_in(), two.signed_in()
    assert one.site.auth.store.namespace != two.site.auth.store.namespace
    user = one.site.user
    assert _settle(one, one.site.auth.revoke_user(user)) == 1
    assert (one.knows(value), two.knows(foreign)) == (False, True)
    value = one.signed_in()
    assert _settle(one, one.site.auth.revoke_everyone()) == 1
    assert (one.knows(value), two.knows(foreign)) == (False, True)


def test_rep_42_a_change_of_password_must_end_the_sessions_of_both() -> None:
    """One of them makes the change. The other compares the proof where it loads the user, and is told by the app."""
    backend, users = CountingBackend(MemoryBackend()), MemoryUsers()
    one, two = Side("wsgi", backend, users), Side("wsgi", backend, users, session_key="admin")
    value, foreign = one.signed_in(), two.signed_in()
    drive(one.site.auth.update_account(one.site.user, password="battery staple"))
    assert (one.knows(value), two.knows(foreign)) == (False, True)
    drive(two.site.auth.credentials_changed(one.site.user))
    assert not two.knows(foreign)


def _settle(side: Side, coroutine: Coroutine[Any, Any, int]) -> int:
    return asyncio.run(coroutine) if side.site.kind == "asgi" else drive(coroutine)
