"""Two authenticators in front of one request: neither lends its users to the other."""

from typing import Any

import pytest

from harness.support import SECRET, Browser, Kind, MemoryUsers, Request, make_app
from powauth import ConfigError, CredentialsCache, SessionAuth
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
