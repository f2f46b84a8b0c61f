"""AUT-05: only the documented success authenticates, and without the middleware nothing passes. Over HTTP."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
from fastapi import Depends, FastAPI
from flask import Flask

from harness.core_support import KINDS
from harness.http_support import COMBINATION_IDS, COMBINATIONS, App, apps, request_asgi
from harness.support import Browser, CountingBackend, Kind, Me, MemoryUsers, Request, User, account_of
from powauth import Account, ConfigError
from powauth.accounts.identity import Key
from powauth.backends.base import ReadsInPlace, drive
from powauth.integrations import asgi, fastapi, flask, wsgi

MakeApp = Callable[..., App]


@pytest.fixture(params=COMBINATIONS, ids=COMBINATION_IDS)
def make_app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeApp]:
    with apps(request.param, tmp_path) as make:
        yield make


class Stranger:
    """Has all that an account has, and is none."""

    def __init__(self, user: User) -> None:
        account = account_of(user)
        self.key, self.identity, self.proof, self.active = account.key, account.identity, account.proof, True
        self.rehash = None

    def __repr__(self) -> str:
        return "a stranger"


class OddUsers(MemoryUsers):
    """A users context whose `authenticate` answers what it is told to."""

    answer: Any = None

    async def authenticate(self, params: Mapping[str, object]) -> Account[Me] | None:
        if isinstance(self.answer, Exception):
            raise self.answer
        answer: Account[Me] | None = self.answer
        return answer


async def sign_in(request: Request) -> object:
    user = await request.call("sign_in", {"email": "ada@example.org", "password": "correct horse"})
    return None if user is None else user.email


@pytest.mark.parametrize("answer", [None, False, True, 0, 1, "", "ada", b"", (), {}, User, Account], ids=repr)
def test_aut_05_an_answer_that_is_no_user_signs_nobody_in(make_app: MakeApp, answer: object) -> None:
    users = OddUsers()
    app = make_app(users=users)
    users.answer = answer
    browser = app.browser()
    response, verbs = app.run(browser, sign_in)
    assert (response.status, response.json(), response.set_cookies, verbs) == (200, None, [], ["epoch"])
    assert (app.count, app.event_names) == (0, ["sign_in_refused"])
    assert browser.get("/private").status == 401


def test_aut_05_another_type_signs_nobody_in(make_app: MakeApp) -> None:
    users = OddUsers()
    app = make_app(users=users)
    users.answer = Stranger(app.user)
    response, verbs = app.run(app.browser(), sign_in)
    assert (response.json(), verbs) == (None, ["epoch"])


def test_aut_05_the_documented_answer_signs_in(make_app: MakeApp) -> None:
    users = OddUsers()
    app = make_app(users=users)
    users.answer = account_of(app.user)
    assert app.run(app.browser(), sign_in)[0].json() == app.user.email


def test_aut_05_a_user_of_no_account_signs_nobody_in(make_app: MakeApp) -> None:
    users = OddUsers()
    app = make_app(users=users, wrap=EpochsApart)  # so the account is read again
    users.answer = account_of(User("nobody", "nobody@example.org"))
    assert app.run(app.browser(), sign_in)[0].status == 503
    assert app.count == 0


class EpochsApart(CountingBackend):
    """A store in which the epochs of users have nothing in common."""

    abilities = (ReadsInPlace,)


@pytest.mark.parametrize("error", [RuntimeError("odd"), KeyError("email"), ValueError("odd")], ids=repr)
def test_aut_05_a_context_that_raises_signs_nobody_in(make_app: MakeApp, error: Exception) -> None:
    users = OddUsers()
    app = make_app(users=users)
    users.answer = error
    app.do = sign_in
    browser = app.browser()
    with pytest.raises(type(error)):
        browser.get("/do")
    assert app.count == 0
    assert browser.get("/private").status == 401


def test_aut_05_a_refused_sign_in_leaves_the_one_before(make_app: MakeApp) -> None:
    users = OddUsers()
    app = make_app(users=users)
    users.answer = account_of(app.user)
    browser = app.browser()
    app.run(browser, sign_in)
    users.answer = False
    assert app.run(browser, sign_in)[0].json() is None
    assert browser.get("/private").json() == {"user": app.user.email}


@pytest.mark.parametrize("reloaded", [None, False, 0, "", "ada", Stranger(User("1", "ada"))], ids=str)
def test_aut_05_a_reload_that_finds_no_user_signs_nobody_in(make_app: MakeApp, reloaded: Any) -> None:
    app = make_app(reload=True)
    browser = app.signed_in()

    async def answer(key: Key) -> Account[Me] | None:
        del key
        found: Account[Me] | None = reloaded
        return found

    app.users.get = answer  # type: ignore[method-assign]
    assert browser.get("/private").status == 401
    assert app.count == 0
    assert app.run(browser, _vouched(app.user))[0].json() is None
    assert app.count == 0


def _vouched(user: User) -> Any:
    async def sign_in(request: Request) -> object:
        return await request.call("sign_in_user", user)

    return sign_in


@pytest.mark.parametrize("identity", [None, False, 0, "ada", User("1", "ada")], ids=str)
def test_aut_05_an_account_whose_identity_is_none_signs_nobody_in(make_app: MakeApp, identity: Any) -> None:
    users = OddUsers()
    app = make_app(users=users)
    users.answer = msgspec.structs.replace(account_of(app.user), identity=identity)
    app.do = sign_in
    with pytest.raises(ConfigError, match="identity"):
        app.browser().get("/do")
    assert app.count == 0


def test_aut_05_a_stored_identity_that_cannot_be_read_is_rebuilt_of_the_account(make_app: MakeApp) -> None:
    app = make_app()
    browser = app.signed_in()
    (stored,) = app.stored
    garbage = msgspec.structs.replace(stored.session, identity=b"garbage")
    assert drive(app.look.update(stored, garbage, stored.expires_at, app.auth.now()))
    assert browser.get("/private").json() == {"user": app.user.email}
    (again,) = app.stored
    assert again.session.identity == stored.session.identity


def test_aut_05_a_stored_identity_is_not_rebuilt_for_another_proof(make_app: MakeApp) -> None:
    app = make_app()
    browser = app.signed_in()
    (stored,) = app.stored
    garbage = msgspec.structs.replace(stored.session, identity=b"garbage")
    assert drive(app.look.update(stored, garbage, stored.expires_at, app.auth.now()))
    app.users.rows[app.user.id] = replace(app.user, password_hash="another user's")
    assert browser.get("/private").status == 401
    assert app.count == 0


# --- the middleware is missing, or comes too late ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_aut_05_a_handler_without_the_middleware_refuses(kind: Kind) -> None:
    with pytest.raises(ConfigError, match="no SessionAuthMiddleware has run for 'current_user'"):
        _ = asgi.request_auth({}) if kind == "asgi" else wsgi.request_auth({})
    with pytest.raises(ConfigError, match="no SessionAuthMiddleware has run for 'admin'"):
        _ = asgi.blocking_request_auth({}, "admin") if kind == "asgi" else wsgi.request_auth({}, "admin")


def test_aut_05_a_handler_outside_of_the_middleware_refuses(make_app: MakeApp) -> None:
    app = make_app()
    browser = app.signed_in()
    if app.kind == "asgi":

        async def outer(scope: Any, receive: Any, send: Any) -> None:
            asgi.request_auth(scope).require_user()
            await app.app(scope, receive, send)

    else:

        def outer(environ: Any, start_response: Any) -> Any:  # type: ignore[misc]
            wsgi.request_auth(environ).require_user()
            return app.app(environ, start_response)

    with pytest.raises(ConfigError):
        Browser(outer, app.kind, browser.jar).get("/private")


def test_aut_05_fastapi_without_the_middleware_refuses() -> None:
    app = FastAPI()

    @app.get("/me")
    async def me(user: Annotated[User, Depends(fastapi.auth_dependency)]) -> str:
        return user.email

    @app.get("/maybe")
    def maybe(user: Annotated[User | None, Depends(fastapi.optional_auth_dependency)]) -> str:
        return str(user)

    assert request_asgi(app, "/me").status_code == 500
    assert request_asgi(app, "/maybe").status_code == 500


def test_aut_05_flask_without_the_extension_refuses() -> None:
    app = Flask(__name__)

    @app.get("/me")
    @flask.login_required
    def me() -> str:
        return "secret"

    @app.get("/maybe")
    def maybe() -> str:
        return "somebody" if flask.current_user else "nobody"

    client = app.test_client()
    assert client.get("/me").status_code == 500
    assert client.get("/maybe").status_code == 500


def test_aut_05_a_planted_user_is_not_taken_from_a_client(make_app: MakeApp) -> None:
    app = make_app()
    headers = {"powauth.current_user": "ada", "Current-User": "ada", "X-Powauth-Current-User": "ada"}
    assert app.browser().send("/private", "powauth.current_user=ada", headers).status == 401


@pytest.mark.parametrize("kind", KINDS)
def test_aut_05_the_middleware_wants_an_authenticator(kind: Kind) -> None:
    middleware: Any = asgi.SessionAuthMiddleware if kind == "asgi" else wsgi.SessionAuthMiddleware
    with pytest.raises(ConfigError, match="auth must be an Authenticator"):
        middleware(None, object())
