"""LIF: how long a session lives, and what renewing it must not break. Rows LIF-01 to LIF-09, over HTTP."""

import asyncio
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.core_support import NAMESPACE, a_mac, encode_id
from harness.fixtures import MakeApp
from harness.http_support import App, apps, ask_with
from harness.support import Browser, CountingBackend, Request
from powauth import NotSignedIn
from powauth.backends.base import CountsEpochs, Millis, Record, drive, make_key
from powauth.backends.lmdb import LMDBBackend
from powauth.integrations import asgi, wsgi
from powauth.sessions.record import Session

RENEWAL, GRACE, TTL, MAX_LIFETIME = 900, 30, 1800, 43_200
GRACE_AT_MOST = GRACE * 5 / 4


class Deaf(CountingBackend):
    """An engine that expires nothing."""

    abilities = (CountsEpochs,)

    async def get(self, key: bytes, now: Millis) -> Record | None:
        del now
        return await super().get(key, 0)


def is_user(app: App, browser: Browser) -> bool:
    response = browser.get()
    assert response.status == 200
    return bool(response.json()["user"] == app.user.email)


@pytest.mark.parametrize("wrap", [CountingBackend, Deaf])
def test_lif_01_the_record_alone_decides_when_an_idle_session_ends(
    make_app: MakeApp, wrap: type[CountingBackend]
) -> None:
    app = make_app(wrap=wrap, session_ttl_renewal=None)
    browser, other = app.signed_in(), app.signed_in()
    app.clock.advance(TTL - 1)
    assert is_user(app, browser)
    assert app.visit(browser)[0].set_cookies == []
    app.clock.advance(2)
    assert not is_user(app, browser)
    later = app.clock.now + 86_400
    edited = f"{other.cookie_header()}; Max-Age=999999; Expires={later}; {app.cookie_name}-expires={later}"
    assert app.user_of(edited) is None


def test_lif_01_the_cookie_says_nothing_of_time(app: App) -> None:
    browser = app.browser()
    (cookie,) = browser.get("/login").set_cookies
    assert "max-age" not in cookie.lower()
    assert "expires" not in cookie.lower()


def test_lif_02_a_request_each_minute_does_not_carry_a_session_past_its_longest_lifetime(app: App) -> None:
    browser = app.signed_in()
    begun = app.session.created_at
    for _ in range(MAX_LIFETIME // 60 - 1):
        app.clock.advance(60)
        assert is_user(app, browser)
        assert app.session.created_at == begun
        assert app.stored[0].expires_at <= begun + MAX_LIFETIME * 1000
    app.clock.advance(60)
    assert not is_user(app, browser)
    assert app.count == 0


def test_lif_03_a_renewal_gives_a_new_id_and_keeps_the_rest(app: App) -> None:
    browser = app.signed_in()

    async def note(request: Request) -> object:
        return await request.call("update_metadata", theme="dark")

    app.run(browser, note)
    before, old_id = app.session, app.id_of(browser)
    app.clock.advance(RENEWAL - 0.001)
    assert app.visit(browser)[0].set_cookies == []
    app.clock.advance(0.001)
    assert is_user(app, browser)
    assert app.id_of(browser) != old_id
    after = app.session
    assert after.metadata["theme"] == "dark"
    for kept in ("sid", "user_key", "identity", "created_at", "authenticated_at", "metadata"):
        assert getattr(after, kept) == getattr(before, kept), kept
    app.clock.advance(RENEWAL - 1)
    assert is_user(app, browser)
    app.clock.advance(1)
    assert len(app.visit(browser)[0].set_cookies) == 1


def test_lif_04_within_the_grace_an_old_id_mints_nothing_and_extends_nothing(app: App) -> None:
    browser = app.signed_in()
    old = browser.copy()
    app.clock.advance(RENEWAL)
    assert is_user(app, browser)
    before = app.stored
    for _ in range(3):
        replayed = old.copy()
        assert is_user(app, replayed)
        assert app.id_of(replayed) == app.id_of(browser)
    assert app.stored == before


def test_lif_04_after_the_grace_an_old_id_is_anonymous(app: App) -> None:
    browser = app.signed_in()
    old = browser.copy()
    app.clock.advance(RENEWAL)
    assert is_user(app, browser)
    assert is_user(app, browser)
    app.clock.advance(GRACE_AT_MOST + 0.001)
    assert not is_user(app, old)


def test_lif_04_without_a_grace_an_old_id_is_anonymous_once_the_new_one_was_seen(make_app: MakeApp) -> None:
    app = make_app(grace=timedelta(0))
    browser = app.signed_in()
    old = browser.copy()
    app.clock.advance(RENEWAL)
    assert is_user(app, browser)
    assert is_user(app, old.copy())
    assert is_user(app, browser)
    app.clock.advance(0.002)
    assert not is_user(app, old)


def test_lif_05_parallel_requests_with_one_stale_id_have_one_successor(app: App) -> None:
    browser = app.signed_in()
    app.clock.advance(RENEWAL)
    clients = [browser.copy() for _ in range(20)]
    with ThreadPoolExecutor(20) as threads:
        assert list(threads.map(lambda client: is_user(app, client), clients)) == [True] * 20
    assert (app.session.generation, app.count) == (1, 1)
    assert {app.id_of(client) for client in clients} == {encode_id(app.session, a_mac())}
    assert all(is_user(app, client) for client in clients)


def test_lif_05_parallel_processes_with_one_stale_id_have_one_successor(tmp_path: Path) -> None:
    with apps(("wsgi", "lmdb"), tmp_path) as make:
        app = make()
        browser = app.signed_in()
        app.clock.advance(RENEWAL)
        assert isinstance(app.backend.inner, LMDBBackend)
        task = (tmp_path / "db", app.clock.now, browser.jar, app.user)
        with multiprocessing.get_context("spawn").Pool(4) as processes:
            answers = processes.map(ask_with, [task] * 20, chunksize=1)
        current = encode_id(app.session, a_mac())
        assert answers == [(app.user.email, current)] * 20
        assert (app.session.generation, app.count) == (1, 1)


@pytest.mark.parametrize("which", ["old id within the grace", "new id"])
def test_lif_06_signing_out_with_any_id_ends_the_whole_family(app: App, which: str) -> None:
    browser = app.signed_in()
    old = browser.copy()
    app.clock.advance(RENEWAL)
    assert is_user(app, browser)
    leaving = old.copy() if which.startswith("old") else browser.copy()
    assert leaving.get("/logout").status == 200
    assert app.count == 0
    assert not is_user(app, old)
    assert not is_user(app, browser)


def test_lif_06_signing_out_everywhere_during_a_renewal_ends_both_ids(app: App) -> None:
    browser, elsewhere = app.signed_in(), app.signed_in()
    old = browser.copy()
    app.clock.advance(RENEWAL)

    async def before(verb: str) -> None:
        if verb == "update":
            app.backend.before = None
            assert await app.auth.revoke_user(app.user) == 2

    app.backend.before = before
    assert is_user(app, browser)
    assert app.count == 0
    assert not any(is_user(app, client) for client in (old, browser, elsewhere))


def test_lif_07_what_a_slow_request_writes_at_its_end_does_not_undo_a_sign_out(app: App) -> None:
    browser = app.signed_in()
    app.clock.advance(RENEWAL)
    slow = browser.copy()

    async def write_late(request: Request) -> object:
        if app.kind == "asgi":
            await asyncio.to_thread(browser.get, "/logout")
        else:
            browser.get("/logout")
        with pytest.raises(NotSignedIn):
            await request.call("update_metadata", seen=1)
        return "late"

    response, _ = app.run(slow, write_late)
    assert (response.json(), response.set_cookies) == ("late", [])
    assert app.count == 0
    assert not is_user(app, slow)
    assert not is_user(app, browser)


def test_lif_08_a_lost_cookie_signs_nobody_out(app: App) -> None:
    browser = app.signed_in()
    for _ in range(4):
        app.clock.advance(RENEWAL / 2)
        browser.get(keep_cookies=False)
        assert is_user(app, browser.copy())
    assert (app.session.generation, app.count) == (1, 1)
    assert is_user(app, browser)


def test_lif_08_a_handler_that_raised_leaves_the_session_as_it_was(app: App) -> None:
    browser = app.signed_in()
    app.clock.advance(RENEWAL)
    before = app.stored

    async def fail(request: Request) -> object:
        raise ZeroDivisionError(request.path)

    app.do = fail
    with pytest.raises(ZeroDivisionError):
        browser.get("/do")
    assert app.stored == before
    assert is_user(app, browser)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304), ("HEAD", 304), ("OPTIONS", 204)])
def test_lif_08_responses_without_a_body_carry_the_renewed_id(app: App, method: str, status: int) -> None:
    browser = app.signed_in()
    app.clock.advance(RENEWAL)
    answering = app.answering(status)
    cookie = app.deliver(answering, browser, method=method)
    assert cookie is not None
    assert encode_id(app.session, a_mac()) in cookie
    assert is_user(app, browser)


def test_lif_08_a_streamed_response_renews_once_at_its_start(app: App) -> None:
    browser = app.signed_in()
    app.clock.advance(RENEWAL)

    async def asgi_stream(scope: Any, receive: Any, send: Any) -> None:
        del scope, receive
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"part", "more_body": True})
            assert app.session.generation == 1
        await send({"type": "http.response.body", "body": b""})

    def wsgi_stream(environ: Any, start_response: Any) -> Iterator[bytes]:
        del environ
        start_response("200 OK", [])
        for _ in range(3):
            yield b"part"
            assert app.session.generation == 1

    stream = (
        asgi.SessionAuthMiddleware(asgi_stream, app.auth)
        if app.kind == "asgi"
        else wsgi.SessionAuthMiddleware(wsgi_stream, app.auth)
    )
    with app.backend.counting() as verbs:
        response = Browser(stream, app.kind, browser.jar).get()
    assert response.body == b"part" * 3
    assert verbs == ["get", "update"]
    assert is_user(app, browser)


def test_lif_08_a_client_that_goes_away_stays_signed_in(app: App) -> None:
    browser = app.signed_in()
    app.clock.advance(RENEWAL)
    stale = browser.copy()
    if app.kind == "asgi":

        async def gone(message: Any) -> None:
            raise OSError(message["type"])

        async def receive() -> Any:
            return {"type": "http.disconnect"}

        headers = [(b"cookie", (browser.cookie_header() or "").encode())]
        scope = {"type": "http", "method": "GET", "path": "/", "headers": headers}
        with pytest.raises(OSError, match="start"):
            asyncio.run(app.app(scope, receive, gone))
    else:
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "wsgi.input": BytesIO()}
        body = app.app(environ | {"HTTP_COOKIE": browser.cookie_header()}, lambda *_: None)
        del body
    assert (app.session.generation, app.count) == (1, 1)
    assert is_user(app, stale)
    assert app.id_of(stale) == encode_id(app.session, a_mac())


def test_lif_09_a_clock_that_jumps_back_makes_no_session_immortal(app: App) -> None:
    browser = app.signed_in()
    app.clock.advance(-86_400)
    now = app.clock.now
    assert not is_user(app, browser)
    app.clock.now = now + 86_400 + MAX_LIFETIME
    assert not is_user(app, browser)


def test_lif_09_a_small_step_back_keeps_the_user_and_the_limit(app: App) -> None:
    browser = app.signed_in()
    app.clock.advance(-120)
    assert is_user(app, browser)
    assert app.stored[0].expires_at <= app.auth.now() + (TTL + 120) * 1000
    for _ in range(MAX_LIFETIME // RENEWAL + 1):
        app.clock.advance(RENEWAL)
        browser.get()
    assert not is_user(app, browser)


def test_lif_09_a_clock_that_jumps_forward_ends_the_session(app: App) -> None:
    browser = app.signed_in()
    app.clock.advance(86_400)
    assert not is_user(app, browser)
    app.clock.advance(-86_400)
    assert browser.get().status == 200


def planted(app: App, session: Session, value: bytes | None = None, *, expires_at: Millis | None = None) -> Browser:
    """A browser with a valid id for a record that says what it is told to."""
    now = app.auth.now()
    key = make_key(NAMESPACE, session.sid)
    record = drive(app.backend.inner.get(key, now))
    assert record is not None
    changed = msgspec.structs.replace(
        record,
        version=record.version + 1,
        value=msgspec.msgpack.encode(session) if value is None else value,
        expires_at=now + 10**9 if expires_at is None else expires_at,
    )
    assert drive(app.backend.inner.update(changed, record.version, now))
    return Browser(app.app, app.kind, {app.cookie_name: encode_id(session, a_mac())})


@pytest.mark.parametrize(
    "times",
    [
        {"created_at": 10**9},
        {"created_at": 10**9, "renewed_at": 10**9},
        {"created_at": -(10**9)},
        {"renewed_at": -(10**9)},
    ],
    ids=str,
)
def test_lif_09_records_of_another_time_are_anonymous(app: App, times: dict[str, Millis]) -> None:
    app.signed_in()
    session = app.session
    shifted = {name: getattr(session, name) + offset for name, offset in times.items()}
    browser = planted(app, msgspec.structs.replace(session, **shifted))
    assert not is_user(app, browser)


def test_lif_09_a_renewal_in_the_future_does_not_outlive_the_longest_lifetime(app: App) -> None:
    app.signed_in()
    session = app.session
    browser = planted(app, msgspec.structs.replace(session, renewed_at=session.renewed_at + 10**9))
    app.clock.advance(MAX_LIFETIME)
    assert not is_user(app, browser)


@pytest.mark.parametrize("position", [6, 7, 8], ids=["created_at", "renewed_at", "authenticated_at"])
@pytest.mark.parametrize("junk", [None, "1900000000000", 1.9e12 + 0.5, -1, 2**63, float("nan"), [], True], ids=repr)
def test_lif_09_times_that_are_none_are_anonymous(app: App, position: int, junk: object) -> None:
    app.signed_in()
    session = app.session
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(session))
    assert fields[position] == session.created_at
    fields[position] = junk
    browser = planted(app, session, msgspec.msgpack.encode(fields))
    assert not is_user(app, browser)
    assert app.event_names[-1] == "unreadable_record"


def test_lif_09_a_missing_time_is_anonymous(app: App) -> None:
    app.signed_in()
    session = app.session
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(session))
    del fields[6]
    assert not is_user(app, planted(app, session, msgspec.msgpack.encode(fields)))
