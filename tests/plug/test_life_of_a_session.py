"""The life of a session over HTTP: the table in ``docs/design.md`` row by row, and what is written below it.

Each test runs on two middlewares and on every engine that goes with them, and tells the backend's verbs that a request
may take.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.all_backends import ASYNC, LOCAL, SYNC, Stores, stores
from harness.core_support import NAMESPACE, a_mac, encode_id
from harness.http_support import App, apps, apps_on
from harness.support import OTHER_SECRET, Browser, CountingBackend, Kind, Me, Request
from powauth.backends.base import CountsEpochs, Millis, Record, drive, make_key
from powauth.errors import InvalidParams, StoreUnavailable
from powauth.integrations import asgi
from powauth.sessions.ids import ID_CHARS, encode_sid

RENEWAL, GRACE, TTL, MAX_LIFETIME = 900, 30, 1800, 43_200
GRACE_AT_MOST = GRACE * 5 / 4

MakeApp = Callable[..., App]


__all__ = ["stores"]

COMBINATIONS: list[tuple[Kind, str]] = [
    *(("asgi", name) for name in (*LOCAL, *ASYNC)),
    *(("wsgi", name) for name in (*LOCAL, *SYNC)),
]


@pytest.fixture(params=COMBINATIONS, ids=[f"{kind}-{name}" for kind, name in COMBINATIONS])
def make_app(request: pytest.FixtureRequest, tmp_path: Path, stores: Stores) -> Iterator[MakeApp]:
    kind, name = request.param
    with stores.store(name, tmp_path) as backend:
        yield apps_on(kind, backend)


@pytest.fixture
def app(make_app: MakeApp) -> App:
    return make_app()


def assert_user(app: App, browser: Browser, verbs: list[str], *, cookie: bool = False) -> None:
    """The user; exactly these verbs; and a new or repeated id, or none."""
    response, seen = app.visit(browser)
    assert response.json() == {"user": app.user.email}
    assert seen == verbs
    assert len(response.set_cookies) == cookie
    if cookie:
        assert app.id_of(browser) == encode_id(app.session, a_mac())


def assert_anonymous(app: App, browser: Browser, verbs: list[str]) -> None:
    """Nobody; exactly these verbs; the client's cookie is left alone."""
    response, seen = app.visit(browser)
    assert (response.status, response.json()) == (200, {"user": None})
    assert seen == verbs
    assert response.set_cookies == []


def renewed_app(app: App) -> tuple[Browser, Browser]:
    """A browser whose id has been renewed once, unconfirmed, and one that still has the id before."""
    browser = app.signed_in()
    stale = browser.copy()
    app.clock.advance(RENEWAL)
    assert_user(app, browser, ["get", "update"], cookie=True)
    return browser, stale


def raw_record(app: App) -> Record:
    record = drive(app.backend.inner.get(make_key(NAMESPACE, app.session.sid), app.auth.now()))
    assert record is not None
    return record


# --- the table --------------------------------------------------------------------------------------------------------


def test_row_01_no_id_or_a_forged_one_is_anonymous_without_io(app: App) -> None:
    browser = app.signed_in()
    genuine, session = app.id_of(browser), app.session
    before = app.stored
    forged = [
        genuine[:-1] + ("A" if genuine[-1] != "A" else "B"),
        genuine[:-1],
        genuine + "A",
        "A" * ID_CHARS,
        encode_id(session, a_mac(OTHER_SECRET)),
        encode_id(session, a_mac(context="other")),
        encode_id(session, a_mac(purpose="reset")),
    ]
    assert_anonymous(app, app.browser(), [])
    for value in forged:
        assert_anonymous(app, Browser(app.app, app.kind, {app.cookie_name: value}), [])
    assert app.stored == before


def test_row_02_a_valid_id_without_a_record_is_anonymous_and_keeps_its_cookie(app: App) -> None:
    browser = app.signed_in()
    drive(app.look.delete(app.session.sid, app.auth.now()))
    assert_anonymous(app, browser, ["get"])
    assert app.cookie_name in browser.jar
    assert app.count == 0


def test_row_02_a_salt_that_is_not_the_records_is_anonymous_and_touches_nothing(app: App) -> None:
    browser = app.signed_in()
    before = app.stored
    other = msgspec.structs.replace(app.session, salt=bytes(16))
    browser.jar[app.cookie_name] = encode_id(other, a_mac())
    assert_anonymous(app, browser, ["get"])
    assert app.stored == before


def test_row_03_a_young_current_id_is_the_user_with_one_read_and_no_cookie(app: App) -> None:
    browser = app.signed_in()
    before = app.stored
    app.clock.advance(RENEWAL - 0.001)
    assert_user(app, browser, ["get"])
    assert app.stored == before


def test_row_04_an_unconfirmed_current_id_is_confirmed_once(app: App) -> None:
    browser, _ = renewed_app(app)
    assert not app.session.confirmed
    before = app.stored[0]
    assert_user(app, browser, ["get", "update"])
    after = app.stored[0]
    assert after.session.confirmed
    assert after.expires_at == before.expires_at
    assert after.session.generation == before.session.generation
    assert_user(app, browser, ["get"])


def test_row_04_an_unconfirmed_current_id_past_the_renewal_age_is_confirmed_in_the_same_write(app: App) -> None:
    browser, _ = renewed_app(app)
    app.clock.advance(RENEWAL)
    assert_user(app, browser, ["get", "update"], cookie=True)
    assert app.session.generation == 2
    assert [generation for generation, _ in app.session.recent] == [1]


def test_row_05_a_current_id_at_the_renewal_age_is_renewed_at_the_response(app: App) -> None:
    browser = app.signed_in()
    old_id, before = app.id_of(browser), app.stored[0]
    app.clock.advance(RENEWAL)
    assert_user(app, browser, ["get", "update"], cookie=True)
    after = app.stored[0]
    assert app.id_of(browser) != old_id
    assert (after.session.generation, after.version) == (1, before.version + 1)
    assert not after.session.confirmed
    assert after.session.renewed_at == app.auth.now()
    for kept in ("sid", "salt", "user_key", "created_at", "authenticated_at", "metadata", "identity", "proofs"):
        assert getattr(after.session, kept) == getattr(before.session, kept), kept
    assert after.expires_at == app.auth.now() + TTL * 1000
    assert app.event_names[-1] == "renewed"


def test_row_06_an_earlier_id_whose_successor_is_unconfirmed_gets_the_current_id_again(app: App) -> None:
    browser, stale = renewed_app(app)
    before = app.stored
    for seconds in (0, GRACE, RENEWAL - 1, TTL - RENEWAL - GRACE):
        app.clock.advance(seconds)
        lost = stale.copy()
        assert_user(app, lost, ["get", "get"], cookie=True)
        assert app.id_of(lost) == app.id_of(browser)
        assert app.stored == before


def test_row_07_an_earlier_id_within_the_grace_gets_the_current_id_and_the_grace_does_not_slide(app: App) -> None:
    browser, stale = renewed_app(app)
    assert_user(app, browser, ["get", "update"])
    before = app.stored
    for _ in range(3):
        app.clock.advance(GRACE / 3)
        late = stale.copy()
        assert_user(app, late, ["get", "get"], cookie=True)
        assert app.id_of(late) == app.id_of(browser)
        assert app.stored == before
    app.clock.advance(GRACE_AT_MOST - GRACE + 0.001)
    assert_anonymous(app, stale, ["get", "delete"])


def test_row_08_an_earlier_id_after_the_grace_revokes_the_session(app: App) -> None:
    browser, stale = renewed_app(app)
    assert_user(app, browser, ["get", "update"])
    session = app.session
    app.clock.advance(GRACE_AT_MOST + 0.001)
    assert_anonymous(app, stale, ["get", "delete"])
    event = app.events[-1]
    assert (event.name, event.user_key, event.at) == (
        "reuse_detected",
        app.user.id,
        datetime.fromtimestamp(app.auth.now() / 1000, UTC),
    )
    assert event.sid == encode_sid(session.sid)
    assert_anonymous(app, browser, ["get"])
    assert app.count == 0


def test_row_08_reject_refuses_only_the_request(make_app: MakeApp) -> None:
    app = make_app(on_reuse="reject")
    browser, stale = renewed_app(app)
    assert_user(app, browser, ["get", "update"])
    app.clock.advance(GRACE_AT_MOST + 0.001)
    before = app.stored
    assert_anonymous(app, stale, ["get"])
    assert (app.event_names[-1], app.events[-1].detail) == ("reuse_detected", "reject")
    assert app.stored == before
    assert_user(app, browser, ["get"])


def test_row_09_an_earlier_id_that_the_record_no_longer_knows_revokes_the_session(app: App) -> None:
    browser, stale = renewed_app(app)
    for _ in range(3):
        app.clock.advance(RENEWAL)
        assert_user(app, browser, ["get", "update"], cookie=True)
    assert app.session.settled >= 1
    assert all(generation > 1 for generation, _ in app.session.recent)
    assert_anonymous(app, stale, ["get", "delete"])
    assert app.event_names[-1] == "reuse_detected"
    assert app.count == 0


def test_row_10_a_newer_id_than_the_records_brings_the_record_forward(app: App) -> None:
    browser = app.signed_in()
    lost = raw_record(app)
    app.clock.advance(RENEWAL)
    assert_user(app, browser, ["get", "update"], cookie=True)
    drive(app.backend.inner.delete(lost.key, app.auth.now()))
    assert drive(app.backend.inner.create(lost, None, app.auth.now()))
    assert app.session.generation == 0
    app.clock.advance(5)
    assert_user(app, browser, ["get", "update"])
    assert (app.session.generation, app.session.confirmed) == (1, True)
    assert app.session.created_at == lost.created_at
    assert app.event_names[-1] == "forwarded"
    assert_user(app, browser, ["get"])


class Deaf(CountingBackend):
    """An engine that does not look at what expires."""

    abilities = (CountsEpochs,)

    async def get(self, key: bytes, now: Millis) -> Record | None:
        del now
        return await super().get(key, 0)


def test_row_11_an_expired_record_is_anonymous_and_gone(app: App) -> None:
    browser = app.signed_in()
    app.clock.advance(TTL)
    assert_anonymous(app, browser, ["get"])
    assert app.count == 0


def test_row_11_an_expired_record_is_deleted_where_the_engine_keeps_it(make_app: MakeApp) -> None:
    app = make_app(wrap=Deaf)
    browser = app.signed_in()
    app.clock.advance(TTL - 0.001)
    assert_user(app, browser, ["get", "update"], cookie=True)
    app.clock.advance(TTL)
    assert_anonymous(app, browser, ["get", "delete"])
    assert app.event_names[-1] == "expired"
    assert_anonymous(app, browser, ["get"])


@pytest.mark.parametrize("fate", ["deleted", "locked"])
def test_row_12_a_user_who_is_gone_on_reload_is_anonymous_and_the_record_deleted(make_app: MakeApp, fate: str) -> None:
    app = make_app(reload=True)
    browser = app.signed_in()
    assert_user(app, browser, ["get"])
    if fate == "deleted":
        del app.users.rows[app.user.id]
    else:
        app.users.rows[app.user.id] = replace(app.user, locked=True)
    assert_anonymous(app, browser, ["get", "delete"])
    assert app.count == 0
    assert_anonymous(app, browser, ["get"])


# --- below the table --------------------------------------------------------------------------------------------------


def test_create_replaces_the_session_presented_and_adopts_nothing(app: App) -> None:
    browser = app.signed_in()
    old, thief = app.session, browser.copy()
    response, verbs = app.visit(browser, "/login")
    assert verbs == ["get", "epoch", "create", "epoch", "delete"]
    assert len(response.set_cookies) == 1
    new = app.session
    assert new.generation == 0
    assert new.sid != old.sid
    assert new.salt != old.salt
    assert app.id_of(browser) == encode_id(new, a_mac())
    assert_anonymous(app, thief, ["get"])


def test_create_makes_no_session_under_an_id_that_the_client_brought(app: App) -> None:
    browser = app.signed_in()
    brought = app.session
    drive(app.look.delete(brought.sid, app.auth.now()))
    fixed = browser.copy()
    app.visit(browser, "/login")
    assert app.session.sid != brought.sid
    assert_anonymous(app, fixed, ["get"])


def test_a_first_sign_in_takes_three_verbs(app: App) -> None:
    response, verbs = app.visit(app.browser(), "/login")
    assert verbs == ["epoch", "create", "epoch"]
    assert len(response.set_cookies) == 1


def test_delete_removes_the_record_before_the_response_and_then_the_cookie(app: App) -> None:
    browser = app.signed_in()
    captured = browser.copy()
    left: list[int] = []

    async def sign_out(request: Request) -> object:
        await request.call("sign_out")
        left.append(app.count)
        return request.user

    response, verbs = app.run(browser, sign_out)
    assert (response.json(), left) == (None, [0])
    assert verbs == ["get", "delete"]
    assert "Max-Age=0" in response.set_cookies[0]
    assert browser.jar == {}
    assert_anonymous(app, captured, ["get"])
    assert app.event_names[-2:] == ["signed_out", "unknown_id"]


def test_a_refused_delete_is_an_error_and_not_signed_out(app: App) -> None:
    browser = app.signed_in()
    app.backend.fail["delete"] = StoreUnavailable("read-only")
    response, verbs = app.visit(browser, "/logout", keep_cookies=False)
    assert response.status == 503
    assert verbs == ["get", "delete"]
    assert "Max-Age=0" in response.set_cookies[0]
    assert app.event_names[-1] == "sign_out_failed"
    app.backend.fail.clear()
    assert_user(app, browser, ["get"])


@pytest.mark.parametrize("verb", ["epoch", "create", "delete"])
def test_a_refused_create_is_an_error_and_not_signed_in(app: App, verb: str) -> None:
    browser = app.signed_in()
    app.backend.fail[verb] = StoreUnavailable("read-only")
    response, _ = app.visit(browser, "/login")
    assert response.status == 503
    assert response.set_cookies == []
    app.backend.fail.clear()
    assert_user(app, browser, ["get"])


def test_a_refused_renewal_leaves_the_id_good(app: App) -> None:
    browser = app.signed_in()
    app.clock.advance(RENEWAL)
    app.backend.fail["update"] = StoreUnavailable("read-only")
    assert_user(app, browser, ["get", "update"])
    assert app.event_names[-1] == "store_unavailable"
    app.backend.fail.clear()
    assert_user(app, browser, ["get", "update"], cookie=True)


def test_a_handler_that_raised_renews_nothing(app: App) -> None:
    browser = app.signed_in()
    before = app.stored
    app.clock.advance(RENEWAL)

    async def fail(request: Request) -> object:
        raise RuntimeError(request.user.email)

    app.do = fail
    with app.backend.counting() as verbs, pytest.raises(RuntimeError):
        browser.get("/do")
    assert verbs == ["get"]

    async def refuse(request: Request) -> object:
        raise InvalidParams({"name": ["is odd"]})

    response, verbs = app.run(browser, refuse)
    assert (response.status, response.json()) == (422, {"errors": {"name": ["is odd"]}})
    assert (verbs, response.set_cookies) == (["get"], [])
    assert app.stored == before


@pytest.mark.parametrize(("status", "renews"), [(200, True), (404, True), (500, False), (503, False)])
def test_a_5xx_renews_nothing(app: App, status: int, renews: bool) -> None:
    browser = app.signed_in()
    app.clock.advance(RENEWAL)
    with app.backend.counting() as verbs:
        response = Browser(app.answering(status), app.kind, browser.jar).get()
    assert response.status == status
    assert verbs == (["get", "update"] if renews else ["get"])
    assert bool(response.set_cookies) == renews


@pytest.mark.parametrize("name", LOCAL)
def test_a_websocket_renews_nothing(name: str, tmp_path: Path) -> None:
    with apps(("asgi", name), tmp_path) as make:
        app = make()
        browser = app.signed_in()
        before = app.stored
        app.clock.advance(RENEWAL)
        users: list[str] = []

        async def handler(scope: Any, receive: Any, send: Any) -> None:
            del receive
            users.append(asgi.request_auth(scope).require_user().email)
            await send({"type": "websocket.accept", "headers": []})

        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        page = [(b"host", b"app.example"), (b"origin", b"https://app.example")]
        headers = [*page, (b"cookie", (browser.cookie_header() or "").encode())]
        scope = {"type": "websocket", "path": "/", "headers": headers}
        with app.backend.counting() as verbs:
            asyncio.run(asgi.SessionAuthMiddleware(handler, app.auth)(scope, None, send))  # type: ignore[arg-type]
        assert users == [app.user.email]
        assert sent == [{"type": "websocket.accept", "headers": []}]
        assert verbs == ["get"]
        assert app.stored == before


def test_a_response_with_a_cookie_is_not_stored_and_each_varies_by_cookie(app: App) -> None:
    browser = app.browser()
    assert browser.get("/").header("vary") == "Cookie"
    signed_in = browser.get("/login")
    assert (signed_in.header("cache-control"), signed_in.header("vary")) == ("no-store", "Cookie")
    plain = browser.get("/")
    assert (plain.header("cache-control"), plain.header("vary")) == (None, "Cookie")
    app.clock.advance(RENEWAL)
    renewed = browser.get("/")
    assert (renewed.header("cache-control"), renewed.header("vary")) == ("no-store", "Cookie")
    signed_out = browser.get("/logout")
    assert (signed_out.header("cache-control"), signed_out.header("vary")) == ("no-store", "Cookie")


@pytest.mark.parametrize(
    ("said", "kept"),
    [("public, max-age=600", "no-store"), ("private", "no-store"), ("no-store, private", "no-store, private")],
)
def test_no_store_replaces_only_what_is_weaker(app: App, said: str, kept: str) -> None:
    browser = app.signed_in()
    answering = Browser(app.answering(200, ("Cache-Control", said), ("Vary", "Accept")), app.kind, browser.jar)
    plain = answering.get()
    assert (plain.header("cache-control"), plain.header("vary")) == (said, "Accept, Cookie")
    app.clock.advance(RENEWAL)
    renewed = answering.get()
    assert (renewed.header("cache-control"), renewed.header("vary")) == (kept, "Accept, Cookie")
    assert len(renewed.set_cookies) == 1


@pytest.mark.parametrize("change", [{"password": "a new password"}, {"email": "lovelace@example.org"}])
def test_a_new_password_or_user_id_ends_the_others_and_replaces_this_one(app: App, change: dict[str, str]) -> None:
    browser, other = app.signed_in(), app.signed_in()
    own = app.id_of(browser)
    thief = browser.copy()

    async def update(request: Request) -> object:
        await request.call("update_user", {"current_password": "correct horse", **change})
        return request.user.email

    response, verbs = app.run(browser, update)
    assert response.json() == change.get("email", app.user.email)
    assert verbs == ["get", "epoch", "delete_owner", "epoch", "create", "epoch", "delete"]
    assert app.id_of(browser) != own
    assert len(app.stored) == 1
    assert_anonymous(app, other, ["get"])
    assert_anonymous(app, thief, ["get"])
    assert browser.get().json() == {"user": change.get("email", app.user.email)}


def test_deleting_the_user_ends_all_sessions(app: App) -> None:
    browser, other = app.signed_in(), app.signed_in()

    async def delete(request: Request) -> object:
        await request.call("delete_user", {"current_password": "correct horse"})
        return request.user

    response, verbs = app.run(browser, delete)
    assert response.json() is None
    assert verbs == ["get", "epoch", "delete_owner", "delete"]
    assert browser.jar == {}
    assert app.count == 0
    assert_anonymous(app, other, ["get"])


def test_locking_the_user_ends_all_sessions(app: App) -> None:
    browser, other = app.signed_in(), app.signed_in()
    app.settle(app.auth.update_account(app.user, {"locked": True}))
    assert app.count == 0
    assert_anonymous(app, browser, ["get"])
    assert_anonymous(app, other, ["get"])


def test_an_update_refreshes_all_identities_before_it_returns(app: App) -> None:
    browser, other = app.signed_in(), app.signed_in()

    async def update(request: Request) -> object:
        await request.call("update_user", {"current_password": "correct horse", "name": "Ada"})
        return [msgspec.msgpack.decode(stored.session.identity, type=Me).name for stored in app.stored]

    response, verbs = app.run(browser, update)
    assert response.json() == ["Ada", "Ada"]
    assert response.set_cookies == []
    assert verbs == ["get", "epoch", "epoch", "list", "update", "update"]

    async def name(request: Request) -> object:
        return request.user.name

    for each in (browser, other):
        assert app.run(each, name)[0].json() == "Ada"


def test_a_slow_response_after_two_renewals_keeps_the_user_signed_in(make_app: MakeApp) -> None:
    app = make_app(session_ttl_renewal=timedelta(seconds=10))
    browser = app.signed_in()
    app.clock.advance(10)
    slow = browser.copy()

    def two_renewals() -> None:
        assert_user(app, browser, ["get", "update"], cookie=True)
        app.clock.advance(10)
        assert_user(app, browser, ["get", "update"], cookie=True)
        app.clock.advance(GRACE)

    app.during = two_renewals
    response = slow.get("/slow")
    assert response.json() == {"user": app.user.email}
    assert app.id_of(slow) == app.id_of(browser)
    assert app.session.generation == 2
    assert_user(app, slow, ["get", "update"], cookie=True)


def test_a_late_response_does_not_overwrite_a_new_sign_in(app: App) -> None:
    browser = app.signed_in()
    app.clock.advance(RENEWAL)
    late = browser.copy()
    app.during = lambda: browser.get("/login")
    response = late.get("/slow")
    assert response.json() == {"user": app.user.email}
    assert response.set_cookies == []
    assert app.session.generation == 0
    assert_user(app, browser, ["get"])


def test_a_late_resent_id_does_not_overwrite_a_new_sign_in(app: App) -> None:
    browser, late = renewed_app(app)
    app.during = lambda: browser.get("/login")
    response = late.get("/slow")
    assert response.set_cookies == []
    assert_user(app, browser, ["get"])


@pytest.mark.parametrize("age", [0, RENEWAL])
def test_a_session_revoked_between_request_and_response_is_not_revived(app: App, age: int) -> None:
    browser = app.signed_in()
    app.clock.advance(age)
    app.during = lambda: app.settle(app.auth.revoke_user(app.user))
    response, verbs = app.visit(browser, "/slow")
    assert response.json() == {"user": app.user.email}
    assert response.set_cookies == []
    assert verbs == (["get", "delete_owner", "update", "get"] if age else ["get", "delete_owner"])
    assert app.count == 0
    assert_anonymous(app, browser, ["get"])


def test_a_renewal_in_flight_cannot_undo_a_sign_out(app: App) -> None:
    browser = app.signed_in()
    app.clock.advance(RENEWAL)
    late = browser.copy()
    app.during = lambda: browser.get("/logout")
    assert late.get("/slow").set_cookies == []
    assert app.count == 0
    assert_anonymous(app, late, ["get"])


def test_a_session_ends_at_its_longest_lifetime_however_busy(app: App) -> None:
    browser = app.signed_in()
    begun = app.session.created_at
    for _ in range(MAX_LIFETIME // RENEWAL - 1):
        app.clock.advance(RENEWAL)
        assert_user(app, browser, ["get", "update"], cookie=True)
    assert app.session.created_at == begun
    assert app.stored[0].expires_at == begun + MAX_LIFETIME * 1000
    app.clock.advance(RENEWAL - 0.001)
    assert browser.get().json() == {"user": app.user.email}
    app.clock.advance(0.001)
    assert_anonymous(app, browser, ["get"])


def test_an_outage_is_neither_anonymous_nor_a_sign_out(app: App) -> None:
    browser = app.signed_in()
    app.backend.fail["*"] = StoreUnavailable("down")
    response, verbs = app.visit(browser, "/private")
    assert (response.status, response.set_cookies, verbs) == (503, [], ["get"])
    assert response.header("retry-after") == "5"
    app.backend.fail.clear()
    assert_user(app, browser, ["get"])
