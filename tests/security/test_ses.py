"""SES: whose session it is. Rows SES-02 to 06, 08, 09, 11 and 12, over HTTP."""

import asyncio
import base64
import json
import logging
import random
import secrets
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from msgspec.structs import replace

from harness.core_support import KINDS, a_mac, encode_id, open_backend, subject_of
from harness.http_support import COMBINATION_IDS, COMBINATIONS, App, apps
from harness.support import Browser, Kind, Request, Response, User
from powauth import NotSignedIn
from powauth.backends.base import Backend, drive
from powauth.errors import StoreUnavailable
from powauth.integrations import flask
from powauth.sessions.ids import SID_CHARS, encode_sid
from powauth.sessions.record import new_session

RENEWAL = 900

MakeApp = Callable[..., App]


@pytest.fixture(params=COMBINATIONS, ids=COMBINATION_IDS, name="make")
def fixture_make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeApp]:
    with apps(request.param, tmp_path) as make:
        yield make


@pytest.fixture
def app(make: MakeApp) -> App:
    return make()


def who(app: App, browser: Browser) -> str | None:
    response = browser.get()
    assert response.status == 200
    user: str | None = response.json()["user"]
    return user


def signing_in(email: str) -> Any:
    async def sign_in(request: Request) -> object:
        return (await request.call("sign_in", {"email": email, "password": "correct horse"})).email

    return sign_in


def test_ses_02_a_signed_id_that_was_never_stored_is_not_adopted(app: App) -> None:
    now = app.auth.now()
    planted = new_session(app.look.owner(app.user.id), subject_of(app.user), now, {})
    value = encode_id(planted, a_mac())
    browser = Browser(app.app, app.kind, {app.cookie_name: value})
    attacker = browser.copy()
    assert (who(app, browser), app.count) == (None, 0)
    assert browser.get("/login").status == 200
    assert app.id_of(browser) != value
    assert app.session.sid != planted.sid
    assert app.session.salt != planted.salt
    assert who(app, attacker) is None


@pytest.mark.parametrize("change", ["before sign-in", "signing in again", "a new role", "another user"])
def test_ses_03_each_change_of_privilege_makes_a_new_id_and_kills_the_old(app: App, change: str) -> None:
    other = app.users.add("grace@example.org")
    browser = app.signed_in()
    if change == "before sign-in":
        browser.get("/logout", keep_cookies=False)
    before = browser.copy()
    old_id = app.id_of(browser)
    if change == "a new role":

        async def promote(request: Request) -> object:
            user = await app.auth.update_account(request.user, {"name": "admin"})
            return (await request.call("sign_in_user", user)).name

        response, _ = app.run(browser, promote)
    else:
        response, _ = app.run(browser, signing_in(other.email if change == "another user" else app.user.email))
    assert (response.status, len(response.set_cookies)) == (200, 1)
    assert app.id_of(browser) != old_id
    assert who(app, before) is None
    assert app.count == 1
    assert who(app, browser) == (other.email if change == "another user" else app.user.email)


def test_ses_04_the_next_user_of_a_browser_finds_nothing_of_the_one_before(app: App) -> None:
    other = app.users.add("grace@example.org")
    browser = app.signed_in()

    async def fill(request: Request) -> object:
        return await request.call("update_metadata", csrf="token of ada", note="ada's")

    assert app.run(browser, fill)[0].json()["note"] == "ada's"
    left = browser.copy()
    app.run(browser, signing_in(other.email))

    async def look(request: Request) -> object:
        return [request.user.email, request.bound.session.metadata, len(await request.call("sessions"))]

    email, metadata, number = app.run(browser, look)[0].json()
    assert (email, number) == (other.email, 1)
    assert "ada" not in json.dumps(metadata)
    assert set(metadata) == {"first_seen", "ip", "user_agent"}
    assert (app.stored, who(app, left)) == ([], None)


def send_elsewhere(app: App, value: str, place: str) -> Response:
    """A request that carries an id anywhere but in its cookie."""
    name = app.cookie_name
    query = f"{name}={value}&auth={value}&session_id={value}" if place == "query" else ""
    body = f"{name}={value}&auth={value}" if place == "form" else ""
    headers = {
        "X-Session-Id": value,
        "X-Auth": value,
        "Authorization": f"Bearer {value}",
        "Sec-WebSocket-Protocol": value,
        "Set-Cookie": f"{name}={value}",
        "Cookie2": f"{name}={value}",
    }
    headers = {place: headers[place]} if place in headers else {}
    if app.kind == "wsgi":
        found: list[Any] = []
        environ = {
            "REQUEST_METHOD": "POST",
            "PATH_INFO": "/",
            "QUERY_STRING": query,
            "wsgi.input": BytesIO(body.encode()),
            **{f"HTTP_{key.upper().replace('-', '_')}": text for key, text in headers.items()},
        }
        parts = b"".join(app.app(environ, lambda *arguments: found.append(arguments)))
        return Response(int(found[0][0][:3]), found[0][1], parts)
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body.encode()}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(key.lower().encode(), text.encode()) for key, text in headers.items()]
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": query.encode(), "headers": raw}
    asyncio.run(app.app(scope, receive, send))
    return Response(sent[0]["status"], [], sent[1]["body"])


@pytest.mark.parametrize(
    "place",
    ["query", "form", "X-Session-Id", "X-Auth", "Authorization", "Sec-WebSocket-Protocol", "Set-Cookie", "Cookie2"],
)
def test_ses_05_an_id_counts_only_in_its_cookie(app: App, place: str) -> None:
    browser = app.signed_in()
    with app.backend.counting() as verbs:
        response = send_elsewhere(app, app.id_of(browser), place)
    assert (response.status, response.json(), verbs) == (200, {"user": None}, [])


@pytest.mark.parametrize("name", ["auth", "__Secure-auth", "__host-auth", "__Host-Auth", "session", "__Host-auth2"])
def test_ses_05_an_id_counts_only_under_its_own_name(app: App, name: str) -> None:
    value = app.id_of(app.signed_in())
    assert app.user_of(f"{name}={value}") is None
    assert app.user_of(f"{app.cookie_name}={value}") == app.user.email


def test_ses_06_the_id_is_in_set_cookie_and_nowhere_else(app: App, caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []

    async def show(request: Request) -> object:
        bound = request.bound
        sessions = await request.call("sessions")
        shown = [bound, bound.connection, app.auth, app.auth.store, app.auth.carrier, request.user, *sessions]
        seen.extend([repr(each) + str(each) for each in shown])
        return [session.sid for session in sessions]

    with caplog.at_level(logging.DEBUG):
        browser = app.browser()
        responses = [browser.get(path) for path in ("/", "/private", "/login", "/", "/private")]
        ids = {app.id_of(browser)}
        app.clock.advance(RENEWAL)
        responses.append(browser.get())
        ids.add(app.id_of(browser))
        responses.append(app.run(browser, show)[0])
        app.backend.fail["*"] = StoreUnavailable("down")
        responses += [browser.get("/private"), browser.copy().get("/logout")]
        app.backend.fail.clear()
        salt = app.session.salt
        responses.append(browser.get("/logout"))
    assert len(ids) == 2
    for response in responses:
        seen.append(response.body.decode())
        seen += [value for name, value in response.headers if name.lower() != "set-cookie"]
    seen += [record.getMessage() for record in caplog.records]
    seen += [repr(event) for event in app.events]
    everything = "\n".join(seen)
    # The id's first 24 characters are the sid, which opens nothing; the rest must appear nowhere.
    secret_parts = [value[SID_CHARS:] for value in ids] + [salt.hex(), repr(salt), base64.b64encode(salt).decode()]
    for part in secret_parts:
        assert part not in everything


def test_ses_06_a_sid_opens_nothing(app: App) -> None:
    app.signed_in()
    handle = encode_sid(app.session.sid)
    assert app.user_of_id(handle) is None


# --- SES-08: nothing is shared between requests -----------------------------------------------------------------------

USERS, REQUESTS = 20, 200


def crowd(app: App) -> list[tuple[User, dict[str, str]]]:
    """Twenty users and their cookies, whose ids are due for renewal."""
    found = []
    for number in range(USERS):
        user = app.users.add(f"user{number}@example.org")
        browser = app.browser()
        app.run(browser, signing_in(user.email))
        found.append((user, browser.jar))
    app.clock.advance(RENEWAL)
    return found


def shuffled(people: list[tuple[User, dict[str, str]]]) -> list[tuple[User, dict[str, str]]]:
    order = people * (REQUESTS // USERS)
    random.Random(8).shuffle(order)
    return order


def assert_own(app: App, user: User, response: Response) -> None:
    assert response.json() == [user.email, user.email, user.id]
    for cookie in response.set_cookies:
        stored = drive(app.look.sessions(user.id, app.auth.now()))
        assert [encode_id(one.session, a_mac()) in cookie for one in stored] == [True]


@pytest.fixture(params=["memory", "lmdb"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    opened = open_backend(request.param, tmp_path)
    yield opened
    drive(opened.close())


def test_ses_08_concurrent_async_handlers_see_their_own_user_only(backend: Backend) -> None:
    app = App(backend, "asgi")
    people = crowd(app)
    dice = random.Random(4)
    spawned: list[tuple[str, str]] = []
    tasks: list[asyncio.Task[None]] = []

    async def in_background(request: Request, expected: str) -> None:
        await asyncio.sleep(dice.random() / 50)
        spawned.append((expected, request.user.email))

    async def handler(request: Request) -> object:
        first = request.user.email
        tasks.append(asyncio.create_task(in_background(request, first)))
        await asyncio.sleep(dice.random() / 100)
        (info,) = await request.call("sessions")
        await asyncio.sleep(dice.random() / 100)
        assert info.current
        return [first, request.user.email, request.user.id]

    app.do = handler

    async def everybody() -> None:
        order = shuffled(people)
        browsers = [Browser(app.app, "asgi", dict(jar)) for _, jar in order]
        answers = await asyncio.gather(*(browser.send_asgi("/do", browser.cookie_header(), {}) for browser in browsers))
        for (user, _), answer in zip(order, answers, strict=True):
            assert_own(app, user, answer)
        await asyncio.gather(*tasks)

    asyncio.run(everybody())
    assert len(spawned) == REQUESTS
    assert all(expected == seen for expected, seen in spawned)


@pytest.mark.parametrize("kind", KINDS)
def test_ses_08_concurrent_threads_see_their_own_user_only(kind: Kind, backend: Backend) -> None:
    app = App(backend, kind)
    people = crowd(app)
    meeting = threading.Barrier(8)

    async def handler(request: Request) -> object:
        first = request.user.email
        meeting.wait(20)
        (info,) = await request.call("sessions")
        assert info.current
        return [first, request.user.email, request.user.id]

    app.do = handler
    order = shuffled(people)

    def ask(person: tuple[User, dict[str, str]]) -> Response:
        return Browser(app.app, kind, dict(person[1])).get("/do")

    with ThreadPoolExecutor(8) as threads:
        for (user, _), response in zip(order, threads.map(ask, order), strict=True):
            assert_own(app, user, response)


def test_ses_08_concurrent_flask_requests_see_their_own_user_only(backend: Backend) -> None:
    app = App(backend, "wsgi")
    people = crowd(app)
    flask_app = Flask(__name__)
    flask.PowAuth(flask_app, app.auth)
    meeting = threading.Barrier(8)

    @flask_app.get("/do")
    @flask.login_required
    def do() -> list[str]:
        first = flask.current_user.email
        meeting.wait(20)
        (info,) = flask.request_auth().sessions()
        assert info.current
        return [first, flask.current_user.email, flask.current_user.id]

    order = shuffled(people)

    def ask(person: tuple[User, dict[str, str]]) -> Response:
        cookie = "; ".join(f"{key}={value}" for key, value in person[1].items())
        answer = flask_app.test_client(use_cookies=False).get("/do", headers={"Cookie": cookie})
        return Response(answer.status_code, list(answer.headers), answer.data)

    with ThreadPoolExecutor(8) as threads:
        for (user, _), response in zip(order, threads.map(ask, order), strict=True):
            assert_own(app, user, response)


# --- SES-09: nothing is stored for nobody -----------------------------------------------------------------------------


def test_ses_09_requests_of_nobody_leave_the_store_as_it_was(app: App) -> None:
    app.signed_in()
    before = app.stored
    dice = random.Random(9)
    browser = app.browser()
    with app.backend.counting() as verbs, asyncio.Runner() as runner:
        for _ in range(10_000):
            value = secrets.token_urlsafe(dice.randrange(0, 90))
            cookie = dice.choice([None, "", f"{app.cookie_name}={value}", f"other={value}", value])
            path = dice.choice(["/", "/logout"])
            if app.kind == "asgi":  # on one event loop: a new one for each request would take most of the time
                response = runner.run(browser.send_asgi(path, cookie, {}))
            else:
                response = browser.send(path, cookie, {})
            assert response.status == 200
    assert verbs == []
    assert app.stored == before


def test_ses_09_a_valid_id_of_no_record_signs_out_without_a_write(app: App) -> None:
    browser = app.signed_in()
    drive(app.look.delete(app.session.sid, app.auth.now()))
    response, verbs = app.visit(browser, "/logout")
    assert (response.status, verbs, app.count) == (200, ["get"], 0)


# --- SES-11: how many at once -----------------------------------------------------------------------------------------


def test_ses_11_parallel_sign_ins_leave_at_most_so_many_and_the_newest(make: MakeApp) -> None:
    app = make(max_sessions=3)
    first = app.signed_in()
    app.clock.advance(1)
    with ThreadPoolExecutor(10) as threads:
        browsers = list(threads.map(lambda _: app.signed_in(), range(50)))
    assert len(app.stored) == 3
    assert who(app, first) is None
    assert sum(who(app, browser) is not None for browser in browsers) == 3


def test_ses_11_the_oldest_ends_for_the_newest(make: MakeApp) -> None:
    app = make(max_sessions=2)
    browsers = []
    for _ in range(3):
        browsers.append(app.signed_in())
        app.clock.advance(1)
    assert [who(app, browser) for browser in browsers] == [None, app.user.email, app.user.email]
    revoked = [event for event in app.events if event.name == "revoked"]
    assert [event.detail for event in revoked] == ["over max_sessions"]


def test_ses_11_without_a_limit_all_stay(app: App) -> None:
    assert app.auth.sessions.max_sessions is None
    browsers = [app.signed_in() for _ in range(20)]
    assert [who(app, browser) for browser in browsers] == [app.user.email] * 20


# --- SES-12: one's own sessions ---------------------------------------------------------------------------------------


def test_ses_12_sessions_are_listed_newest_first_with_the_current_one_marked(app: App) -> None:
    app.signed_in()
    app.clock.advance(5)
    browser = app.signed_in()

    async def sessions(request: Request) -> object:
        found = await request.call("sessions")
        return [[one.sid, one.current, one.created_at.timestamp(), one.metadata["ip"]] for one in found]

    found = app.run(browser, sessions)[0].json()
    now = app.clock.now
    assert [one[1:] for one in found] == [[True, now, "192.0.2.1"], [False, now - 5, "192.0.2.1"]]
    assert [one[0] for one in found] == [encode_sid(stored.session.sid) for stored in app.stored]


def test_ses_12_one_session_ends_by_its_public_id(app: App) -> None:
    lost, browser = app.signed_in(), app.signed_in()
    (handle,) = [
        encode_sid(stored.session.sid) for stored in app.stored if encode_id(stored.session, a_mac()) == app.id_of(lost)
    ]

    async def revoke(request: Request) -> object:
        return [await request.call("revoke", handle) for _ in range(2)]

    assert app.run(browser, revoke)[0].json() == [True, False]
    assert (who(app, lost), who(app, browser)) == (None, app.user.email)


def test_ses_12_ones_own_session_ends_with_its_cookie(app: App) -> None:
    browser = app.signed_in()
    captured = browser.copy()

    async def revoke(request: Request) -> object:
        return [await request.call("revoke", request.bound.session.sid), request.user]

    assert app.run(browser, revoke)[0].json() == [True, None]
    assert (browser.jar, app.count, who(app, captured)) == ({}, 0, None)


@pytest.mark.parametrize(("call", "left"), [("revoke_others", 1), ("revoke_all", 0)])
def test_ses_12_the_others_or_all_end_at_once(app: App, call: str, left: int) -> None:
    elsewhere = [app.signed_in() for _ in range(3)]
    browser = app.signed_in()

    async def revoke(request: Request) -> object:
        return await request.call(call)

    response, verbs = app.run(browser, revoke)
    assert response.json() == (3 if left else 4)
    assert verbs == (["get", "delete_owner"] if left else ["get", "delete_owner", "delete"])
    assert len(app.stored) == left
    assert [who(app, each) for each in elsewhere] == [None] * 3
    assert who(app, browser) == (app.user.email if left else None)


def test_ses_12_a_foreign_handle_gets_the_answer_of_one_that_never_was(app: App) -> None:
    stranger = app.users.add("grace@example.org")
    victim = app.signed_in()
    handle = encode_sid(app.session.sid)
    attacker = app.browser()
    app.run(attacker, signing_in(stranger.email))
    never = encode_sid(new_session(app.look.owner(app.user.id), subject_of(app.user), 1, {}).sid)

    async def revoke(request: Request) -> object:
        guesses = [handle, never, handle + "A", handle[:-1], "", None, 7, handle.swapcase()]
        return [await request.call("revoke", guess) for guess in guesses]

    response, _ = app.run(attacker, revoke)
    assert response.json() == [False] * 8
    assert who(app, victim) == app.user.email
    for foreign in (handle, never):
        with app.backend.counting() as verbs:
            app.run(attacker, _revoking(foreign))
        assert verbs == ["get", "get"]


def _revoking(handle: str) -> Any:
    async def revoke(request: Request) -> object:
        return await request.call("revoke", handle)

    return revoke


def test_ses_12_an_unreadable_record_gets_the_same_answer(app: App) -> None:
    app.signed_in()
    handle = encode_sid(app.session.sid)
    browser = app.signed_in()

    async def revoke(request: Request) -> object:
        return await request.call("revoke", handle)

    (target,) = [one for one in app.stored if encode_sid(one.session.sid) == handle]
    record = drive(app.backend.inner.get(b"credentials:" + target.session.sid, app.auth.now()))
    assert record is not None
    assert drive(app.backend.inner.update(replace(record, value=b"junk", version=1), 0, app.auth.now()))
    assert app.run(browser, revoke)[0].json() is False
    assert who(app, browser) == app.user.email


@pytest.mark.parametrize("call", ["sessions", "revoke_others", "revoke_all", "update_metadata"])
def test_ses_12_nobody_has_no_sessions(app: App, call: str) -> None:
    async def ask(request: Request) -> object:
        with pytest.raises(NotSignedIn):
            await request.call(call)
        assert request.bound.session is None
        return "refused"

    assert app.run(app.browser(), ask)[0].json() == "refused"
