"""A handler's own session: the user's list, ending sessions, lasting connections, and changes that overtake others."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.support import FakeConnection, cheap_hash
from harness.visits import HOUR, MINUTE, PASSWORD, Auth, Client, Request, SmallApp
from powauth import ConfigError, CredentialsCache, NotSignedIn, StoreUnavailable, Throttle, Throttled
from powauth.backends.base import drive
from powauth.backends.lmdb import LMDBBackend
from powauth.sessions.ids import encode_sid

ADA = "ada@example.org"


def signed_in(app: SmallApp) -> Client:
    client = app.client()
    client.sign_in()
    app.clock.advance(1)
    return client


def reloading(app: SmallApp) -> SmallApp:
    """The same app with a store that loads the user at each request."""
    store = CredentialsCache(app.backend, reload=True)
    return SmallApp(store=store, users=app.users, clock=app.clock)


def lock(app: SmallApp) -> None:
    """Lock the user as another program would."""
    app.users.rows[app.ada.id] = replace(app.ada, locked=True)


def meanwhile(app: SmallApp, verb: str, request: Request) -> None:
    """Let another task of the same request sign out while the backend runs ``verb``."""

    async def sign_out(called: str) -> None:
        if called == verb:
            app.backend.before = None
            await request.auth.sign_out()

    app.backend.before = sign_out


# --- the user's sessions ----------------------------------------------------------------------------------------------


def test_a_user_ends_another_session_and_then_the_own_one() -> None:
    app = SmallApp()
    other, own = signed_in(app), signed_in(app)
    listed = own.send(lambda auth: auth.sessions()).result
    assert [info.current for info in listed] == [True, False]
    assert own.send(lambda auth: auth.revoke(listed[1].sid)).result is True
    assert other.who() is None
    reply = own.send(lambda auth: auth.revoke(listed[0].sid))
    assert reply.result is True
    assert reply.max_age == 0
    assert own.who() is None


@pytest.mark.parametrize("sid", ["", "nothing", None, 5, "A" * 24])
def test_an_id_of_no_session_ends_none(sid: object) -> None:
    client = signed_in(SmallApp())
    assert client.send(lambda auth: auth.revoke(sid)).result is False
    assert client.who() == ADA


def test_a_user_ends_all_sessions_with_the_own_one_or_without() -> None:
    app = SmallApp()
    clients = [signed_in(app) for _ in range(3)]
    assert clients[0].send(lambda auth: auth.revoke_others()).result == 2
    assert [client.who() for client in clients] == [ADA, None, None]
    other = signed_in(app)
    reply = clients[0].send(lambda auth: auth.revoke_all())
    assert reply.result == 2
    assert reply.max_age == 0
    assert other.who() is None


@pytest.mark.parametrize(
    "work",
    [
        lambda auth: auth.sessions(),
        lambda auth: auth.revoke("x"),
        lambda auth: auth.revoke_others(),
        lambda auth: auth.revoke_all(),
        lambda auth: auth.update_metadata(theme="dark"),
        lambda auth: auth.reseal(),
    ],
)
def test_nobody_has_no_sessions(work: Any) -> None:
    reply = SmallApp().client().send(work)
    assert reply.status == 401
    assert isinstance(reply.result, NotSignedIn)


def test_a_user_whom_another_middleware_has_assigned_has_no_session_here() -> None:
    app = SmallApp()
    connection = FakeConnection()
    connection.assign("current_user", drive(app.users.get(app.ada.id)).identity)
    assert app.auth.call_at_once(connection)
    assert app.auth.current_session.info(connection) is None
    assert not app.auth.current_session.is_fresh(connection, timedelta(minutes=1))
    assert app.auth.current_key(connection) == app.ada.id
    assert drive(app.auth.recheck(connection))
    assert not app.auth.is_expired(connection)
    with pytest.raises(NotSignedIn, match="was not signed in by a session"):
        drive(app.auth.current_session.list_all(connection))


@pytest.mark.parametrize("within", [timedelta(0), timedelta(-1), timedelta(40_000), "an hour", 60])
def test_freshness_is_within_a_length_of_time(within: Any) -> None:
    with pytest.raises(ConfigError, match="within must be"):
        signed_in(SmallApp()).send(lambda auth: auth.is_fresh(within))


# --- metadata and proofs ----------------------------------------------------------------------------------------------


def test_metadata_that_was_changed_is_seen_in_the_same_request() -> None:
    client = signed_in(SmallApp())

    async def work(auth: Auth) -> object:
        await auth.update_metadata(theme="dark")
        return None if auth.session is None else auth.session.metadata["theme"]

    assert client.send(work).result == "dark"


def test_a_sign_out_while_metadata_is_written_stands() -> None:
    app = SmallApp()
    client = signed_in(app)
    request = client.begin()
    meanwhile(app, "update", request)
    reply = request.answer(lambda auth: auth.update_metadata(theme="dark"))
    assert reply.status == 401  # the session has ended
    assert reply.max_age == 0
    assert client.who() is None


def test_a_sign_out_after_metadata_was_written_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    app = SmallApp()
    client = signed_in(app)
    request = client.begin()

    inner = app.backend.inner.update

    async def update(*args: Any) -> bool:
        done = await inner(*args)
        await request.auth.sign_out()
        return done

    monkeypatch.setattr(app.backend.inner, "update", update)
    reply = request.answer(lambda auth: auth.update_metadata(theme="dark"))
    assert reply.result["theme"] == "dark"
    assert reply.max_age == 0
    assert client.who() is None


@pytest.mark.parametrize("fate", ["gone", "locked"])
def test_a_session_of_a_user_who_may_not_sign_in_is_not_sealed_again(fate: str) -> None:
    app = SmallApp()
    client = signed_in(app)
    if fate == "gone":
        app.users.rows.clear()
    else:
        lock(app)
    assert client.send(lambda auth: auth.reseal()).status == 401


def test_a_session_that_has_ended_meanwhile_is_not_sealed_again() -> None:
    app = SmallApp()

    async def work(auth: Auth) -> None:
        await app.auth.revoke_user(app.ada.id)
        await auth.reseal()

    assert signed_in(app).send(work).status == 401


def test_a_seal_that_another_change_overtakes_is_made_again() -> None:
    app = SmallApp()
    client = signed_in(app)
    other = client.copy()

    async def work(auth: Auth) -> None:
        app.users.rows[app.ada.id] = replace(app.ada, password_hash=cheap_hash("staple battery"))
        await other.begin().auth.update_metadata(theme="dark")
        await auth.reseal()

    assert client.send(work).status == 200
    reply = client.send(lambda auth: auth.update_metadata())
    assert reply.result["theme"] == "dark"
    assert client.who() is not None


# --- connections that last --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reload", [False, True])
def test_a_lasting_connection_ends_with_its_session(reload: bool) -> None:
    app = reloading(SmallApp()) if reload else SmallApp()
    client = signed_in(app)
    request = client.begin()
    assert drive(request.auth.recheck())
    drive(app.auth.revoke_user(app.ada.id))
    assert not drive(request.auth.recheck())
    assert request.auth.identity is None
    assert not drive(request.auth.recheck())  # and so it stays
    assert app.auth.is_expired(request.auth.connection)


def test_a_lasting_connection_ends_with_the_users_lock_if_the_store_loads_users() -> None:
    app = reloading(SmallApp())
    request = signed_in(app).begin()
    assert drive(request.auth.recheck())
    lock(app)
    assert not drive(request.auth.recheck())
    assert app.events[-1].name == "revoked"


@pytest.mark.parametrize("fate", ["renamed", "locked"])
def test_a_lasting_connection_whose_identity_is_stale_reads_the_user(fate: str) -> None:
    app = SmallApp()
    request = signed_in(app).begin()
    if fate == "locked":
        lock(app)
    assert drive(app.auth.store.mark_stale(app.ada.id, app.auth.now())) == 1
    assert drive(request.auth.recheck()) == (fate == "renamed")
    assert drive(request.auth.recheck()) == (fate == "renamed")


def test_a_lasting_connection_without_a_user_stays_so() -> None:
    app = SmallApp()
    request = app.client().begin()
    assert not drive(request.auth.recheck())
    assert app.auth.is_expired(request.auth.connection)


def test_a_sign_out_while_a_lasting_connection_is_checked_stands() -> None:
    app = SmallApp()
    request = signed_in(app).begin()
    meanwhile(app, "get", request)
    drive(request.auth.recheck())
    assert request.auth.identity is None
    assert request.answer().max_age == 0


def test_a_sign_in_while_a_lasting_connection_is_checked_stands() -> None:
    app = SmallApp()
    request = signed_in(app).begin()

    async def sign_in(called: str) -> None:
        if called == "get":
            app.backend.before = None
            await request.auth.sign_in(email=ADA, password=PASSWORD)

    app.backend.before = sign_in
    assert drive(request.auth.recheck())  # the session before it has ended; the new one counts
    assert request.auth.identity is not None


def test_a_check_does_not_prolong_the_session() -> None:
    app = SmallApp()
    request = signed_in(app).begin()
    for _ in range(29):
        app.clock.advance(MINUTE)
        assert drive(request.auth.recheck())
    app.clock.advance(MINUTE)
    assert app.auth.is_expired(request.auth.connection)
    assert not drive(request.auth.recheck())


# --- for the app's own code -------------------------------------------------------------------------------------------


def test_support_forgets_the_failures_of_an_account() -> None:
    app = SmallApp(throttle=Throttle())
    wrong = {"email": ADA, "password": "not this one"}
    client = app.client()
    while not isinstance(client.send(lambda auth: auth.sign_in(wrong)).result, Throttled):
        app.clock.advance(0.001)
    assert drive(app.auth.forget_failures({"email": ADA})) is True
    assert drive(app.auth.forget_failures(email=ADA)) is False
    assert drive(app.auth.forget_failures({"email": None})) is False
    assert drive(SmallApp().auth.forget_failures({"email": ADA})) is False
    client.sign_in()


def test_everybody_is_signed_out_by_one_call() -> None:
    app = SmallApp()
    app.users.add("bob@example.org", PASSWORD)
    ada, bob = signed_in(app), app.client()
    bob.sign_in("bob@example.org")
    assert drive(app.auth.revoke_everyone()) == 2
    assert (app.events[-1].name, app.events[-1].detail) == ("revoked", "everyone: 2")
    assert (ada.who(), bob.who()) == (None, None)


def test_sessions_are_listed_with_their_times() -> None:
    app = SmallApp()
    client = signed_in(app)
    app.clock.advance(20 * MINUTE)
    client.send()
    (info,) = client.send(lambda auth: auth.sessions()).result
    assert (info.renewed_at - info.created_at).total_seconds() == 20 * MINUTE + 1
    assert (info.expires_at - info.renewed_at).total_seconds() == HOUR / 2
    assert info.authenticated_at == info.created_at


# --- how many sessions a user may have --------------------------------------------------------------------------------


def test_the_oldest_session_ends_for_the_newest() -> None:
    app = SmallApp(max_sessions=2)
    oldest, older, newest = (signed_in(app) for _ in range(3))
    assert [client.who() for client in (oldest, older, newest)] == [None, ADA, ADA]
    (event,) = [event for event in app.events if event.name == "revoked"]
    assert event.detail == "over max_sessions"


def test_of_two_sign_ins_of_one_browser_the_dead_one_sends_no_id() -> None:
    app = SmallApp(max_sessions=1)
    client = app.client()
    slow = client.begin()
    drive(slow.auth.sign_in(email=ADA, password=PASSWORD))
    app.clock.advance(1)
    client.sign_in()
    assert slow.answer().cookie is None
    assert client.who() == ADA


@pytest.mark.parametrize("throttle", [5, "strict", Throttle])
def test_a_throttle_is_a_throttle(throttle: object) -> None:
    with pytest.raises(ConfigError, match="throttle must be a Throttle"):
        SmallApp(throttle=throttle)


# --- records that cannot be read --------------------------------------------------------------------------------------


def spoil(app: SmallApp) -> str:
    """Make garbage of the newest session, and return its sid."""
    session = app.stored()[0].session
    record = drive(app.backend.get(app.auth.store.key(session.sid), app.auth.now()))
    assert record is not None
    garbage = msgspec.structs.replace(record, value=b"garbage", version=record.version + 1)
    assert drive(app.backend.update(garbage, record.version, app.auth.now()))
    return encode_sid(session.sid)


def test_a_lasting_connection_ends_if_its_record_cannot_be_read() -> None:
    app = SmallApp()
    request = signed_in(app).begin()
    spoil(app)
    assert not drive(request.auth.recheck())


def test_a_session_that_cannot_be_read_is_not_the_users_to_end() -> None:
    app = SmallApp()
    own = signed_in(app)
    signed_in(app)
    spoiled = spoil(app)
    assert own.send(lambda auth: auth.revoke(spoiled)).result is False
    assert own.send(lambda auth: auth.revoke_others()).result == 1  # which needs not read it


def test_a_sign_out_ends_a_session_that_cannot_be_read() -> None:
    app = SmallApp()
    client = signed_in(app)
    spoil(app)
    assert client.who() is None
    assert client.send(lambda auth: auth.sign_out()).max_age == 0
    assert drive(app.auth.store.count(app.auth.now())) == 0


# --- a response that lost to another ----------------------------------------------------------------------------------


def test_a_response_whose_session_ended_meanwhile_sends_nothing() -> None:
    app = SmallApp()
    client = signed_in(app)
    app.clock.advance(20 * MINUTE)
    request = client.begin()
    drive(app.auth.revoke_user(app.ada))
    assert request.answer().cookie is None
    assert client.who() is None


@pytest.mark.parametrize("changes", [{"size": 2**70}, {"size": -(2**70)}, {"name": "\ud800"}])
def test_metadata_that_no_record_can_hold_is_refused(changes: dict[str, Any]) -> None:
    client = signed_in(SmallApp())
    with pytest.raises(TypeError, match="64 bits"):
        client.send(lambda auth: auth.update_metadata(**changes))
    assert client.who() == ADA


def test_a_response_that_took_longer_than_the_grace_sends_no_id() -> None:
    app = SmallApp()
    client = signed_in(app)
    app.clock.advance(20 * MINUTE)
    slow = client.begin()
    fast = client.copy()
    fast.send()
    fast.send()
    app.clock.advance(MINUTE)
    assert slow.answer(lost=True).cookie is None
    assert fast.who() == ADA


def test_a_sign_out_in_an_outage_is_an_error_and_takes_the_cookie() -> None:
    app = SmallApp()
    client = signed_in(app)
    app.backend.fail["*"] = StoreUnavailable("down")
    reply = client.send(lambda auth: auth.sign_out())
    assert reply.status == 503
    assert client.cookie is None


def test_a_sign_in_takes_its_count_back_in_the_change_that_makes_the_session(tmp_path: Path) -> None:
    app = SmallApp(throttle=Throttle(), backend=LMDBBackend(tmp_path / "db", durable=False))
    for _ in range(15):  # more than the failures that an account may have
        app.client().sign_in()
