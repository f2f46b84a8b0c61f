"""STO-07 and STO-12: what a store that fails does to requests, and what an unshared one says at start. Over HTTP."""

import logging
from pathlib import Path
from typing import Any

import pytest

from harness.core_support import KINDS, open_backend
from harness.fixtures import MakeApp
from harness.http_support import App
from harness.support import Browser, Kind, Request
from powauth.backends.base import drive
from powauth.backends.lmdb import LMDBBackend
from powauth.backends.memory import MemoryBackend
from powauth.errors import StoreUnavailable
from powauth.integrations import asgi, wsgi

RENEWAL = 900

SMALLEST = 256 * 1024
"""The smallest map that LMDBBackend takes."""


async def public(request: Request) -> object:
    return f"public {request.path}"


def assert_outage(app: App, browser: Browser) -> None:
    """Pages that ask who is there are refused, others served; the cookie stays."""
    jar = dict(browser.jar)
    for path in ("/private", "/"):
        response = browser.get(path)
        assert (response.status, response.json()) == (503, {"error": "store_unavailable"})
        assert response.header("retry-after") == "5"
        assert response.header("cache-control") == "no-store"
        assert response.set_cookies == []
    response, verbs = app.run(browser, public)
    assert (response.status, response.json(), response.set_cookies) == (200, "public /do", [])
    assert verbs == ["get"]
    assert browser.jar == jar


def test_sto_07_a_store_out_of_reach_is_503_where_a_user_is_asked_for_and_recovers(app: App) -> None:
    browser = app.signed_in()
    app.backend.fail["*"] = StoreUnavailable("connection refused at 10.0.0.1")
    assert_outage(app, browser)
    assert app.event_names[-1] == "store_unavailable"
    app.backend.fail.clear()
    assert browser.get("/private").json() == {"user": app.user.email}


def test_sto_07_without_an_id_an_outage_is_not_noticed(app: App) -> None:
    app.backend.fail["*"] = StoreUnavailable("down")
    response, verbs = app.visit(app.browser())
    assert (response.status, response.json(), verbs) == (200, {"user": None}, [])
    assert app.browser().get("/private").status == 401


def test_sto_07_a_closed_engine_is_an_outage(tmp_path: Path) -> None:
    for kind in KINDS:
        app = App(LMDBBackend(tmp_path / kind, durable=False), kind)
        browser = app.signed_in()
        drive(app.backend.inner.close())
        assert_outage(app, browser)
        assert app.browser().get("/login").status == 503
        assert browser.copy().get("/logout").status == 503


@pytest.mark.parametrize("kind", KINDS)
def test_sto_07_a_full_store_keeps_who_is_signed_in_and_lets_them_out(kind: Kind, tmp_path: Path) -> None:
    backend = LMDBBackend(tmp_path / "db", map_size=SMALLEST, max_map_size=SMALLEST, durable=False)
    app = App(backend, kind)
    browser = app.signed_in()
    signing_in = (app.browser().get("/login") for _ in range(10_000))
    refused = next(response for response in signing_in if response.status != 200)
    assert (refused.status, refused.set_cookies) == (503, [])
    assert browser.get("/private").status == 200
    app.clock.advance(RENEWAL)
    response = browser.get("/private")
    assert response.status == 200
    assert browser.get("/logout").status == 200
    assert browser.get().json() == {"user": None}
    drive(app.auth.revoke_user(app.user))
    assert app.browser().get("/login").status == 200
    drive(backend.close())


def test_sto_07_a_store_that_fails_mid_request_retries_nothing(app: App) -> None:
    browser = app.signed_in()
    app.clock.advance(RENEWAL)

    async def fail_from_now_on(request: Request) -> object:
        app.backend.fail["*"] = StoreUnavailable("gone")
        return request.user.email

    response, verbs = app.run(browser, fail_from_now_on)
    assert (response.json(), response.set_cookies) == (app.user.email, [])
    assert verbs == ["get", "update"]
    app.backend.fail.clear()
    assert len(browser.get().set_cookies) == 1


@pytest.mark.parametrize("verb", ["get", "update"])
def test_sto_07_a_response_that_cannot_read_again_sends_no_id(app: App, verb: str) -> None:
    browser = app.signed_in()
    stale = browser.copy()
    app.clock.advance(RENEWAL)
    browser.get()

    async def fail(request: Request) -> object:
        app.backend.fail[verb] = StoreUnavailable("gone")
        return request.user.email

    response, _ = app.run(stale, fail)
    assert response.json() == app.user.email
    assert bool(response.set_cookies) == (verb == "update")


def test_sto_07_a_read_only_store_serves_requests_and_refuses_sign_ins(app: App) -> None:
    browser = app.signed_in()
    for verb in ("create", "update", "delete", "delete_owner"):
        app.backend.fail[verb] = StoreUnavailable("read-only")
    app.clock.advance(RENEWAL)
    assert browser.get("/private").status == 200
    assert app.browser().get("/login").status == 503
    assert browser.copy().get("/logout").status == 503


def test_sto_07_nobody_is_authenticated_from_a_stale_copy(app: App) -> None:
    browser = app.signed_in()
    for _ in range(3):
        assert browser.get("/private").status == 200
    app.backend.fail["get"] = StoreUnavailable("down")
    assert browser.get("/private").status == 503


def test_sto_07_a_users_database_out_of_reach_is_an_outage_too(make_app: MakeApp) -> None:
    app = make_app(reload=True)
    browser = app.signed_in()

    async def down() -> None:
        raise StoreUnavailable("the users' database did not answer")

    app.users._query = down  # type: ignore[method-assign]  # the one place where these users could wait
    assert browser.get("/private").status == 503
    assert app.browser().get("/login").status == 503
    assert app.count == 1
    del app.users._query  # as above
    assert browser.get("/private").status == 200


def test_sto_07_an_engines_own_error_is_no_anonymous_answer(app: App) -> None:
    browser = app.signed_in()
    app.backend.fail["get"] = ValueError("a driver's own mistake")
    with pytest.raises(ValueError, match="driver"):
        browser.get("/private")
    with pytest.raises(ValueError, match="driver"):
        browser.get()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["memory", "lmdb"])
def test_sto_12_an_unshared_store_warns_at_start(
    kind: Kind, name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = open_backend(name, tmp_path)
    with caplog.at_level(logging.WARNING, logger="powauth"):
        app = App(backend, kind)
        caplog.clear()
        middleware: Any = asgi.SessionAuthMiddleware if kind == "asgi" else wsgi.SessionAuthMiddleware
        middleware(app.app, app.auth)
    warned = [record.getMessage() for record in caplog.records]
    if isinstance(backend, MemoryBackend):
        (message,) = warned
        assert "sign-out" in message
        assert "renewal" in message
        assert "other worker processes" in message
    else:
        assert warned == []
    drive(backend.close())
