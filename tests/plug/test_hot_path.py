"""What an authenticated request does not do: make a user nobody reads, leave a circle behind, check an id twice."""

import gc
import inspect
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request

from harness.core_support import the_id
from harness.support import SECRET, Clock, CountingBackend, FakeConnection, Me, MemoryUsers, User, account_of
from powauth import ConfigError, CredentialsCache, RequestAuth, SessionAuth
from powauth.backends.base import Millis, Record, WouldWaitError, drive
from powauth.backends.memory import MemoryBackend
from powauth.errors import StoreUnavailable
from powauth.http.connection import Connection, Effects
from powauth.integrations import asgi, litestar, wsgi
from powauth.sessions.recognition import CACHED_IDS, MAX_CACHED_BYTES

OTHER_SECRET = SECRET[::-1]


class Scope(dict[str, Any]):
    """A dict that can be referred to weakly."""


class Plug:
    """A `SessionAuth`, one user who is signed in, and the middleware's connection."""

    def __init__(self, kind: type[SessionAuth[Any, Any]] = SessionAuth, **options: Any) -> None:
        self.users = MemoryUsers()
        self.clock = Clock()
        self.events: list[str] = []
        options.setdefault("backend", MemoryBackend())
        self.auth = kind(
            secret_key=SECRET,
            users=self.users,
            clock=self.clock,
            on_event=lambda event: self.events.append(event.name),
            **options,
        )
        self.user = self.users.add("ada@example.org")
        self.cookie = self.sign_in()

    def sign_in(self) -> str:
        connection = FakeConnection()
        drive(RequestAuth(self.auth, connection).sign_in_user(self.user))
        (cookie,) = drive(self.auth.respond(connection)).cookies
        return cookie.partition(";")[0]

    def scope(self, **more: Any) -> Scope:
        headers = [(b"host", b"app.example"), (b"cookie", self.cookie.encode())]
        return Scope(type="http", method="GET", path="/", headers=headers, client=("192.0.2.1", 1), **more)

    def serve(self, app: Any, scope: Scope) -> list[Any]:
        """Ask an ASGI app behind the middleware, without an event loop; what was sent."""
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        drive(asgi.SessionAuthMiddleware(app, self.auth)(scope, nothing, send))
        return sent


async def nothing() -> Any:
    return {"type": "http.request"}


async def answer(send: Any, body: bytes = b"") -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def reads_nobody(scope: Any, receive: Any, send: Any) -> None:
    await answer(send)


def reader(read: Callable[[Any], Any]) -> tuple[Any, list[Any]]:
    """An app that reads the current user in its own way, twice, and what it read."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.extend((read(scope), read(scope)))
        await answer(send)

    return app, seen


@pytest.mark.parametrize("kind", ["ASGI", "WSGI"])
def test_requests_share_the_identity_as_long_as_the_record_is_unchanged(kind: str) -> None:
    plug = Plug()
    app, seen = reader(lambda scope: scope["state"]["current_user"])

    def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(environ["powauth.current_user"])
        start_response("200 OK", [])
        return []

    for _ in range(3):
        if kind == "ASGI":
            plug.serve(app, plug.scope(state={}))
        else:
            wsgi.SessionAuthMiddleware(wsgi_app, plug.auth)({"HTTP_COOKIE": plug.cookie}, lambda *_: None)  # type: ignore[arg-type]
    assert len(seen) >= 3
    assert None not in seen
    assert len({id(user) for user in seen}) == 1
    with pytest.raises(AttributeError):
        seen[0].name = "somebody else"


def test_the_identity_is_another_once_the_user_was_changed() -> None:
    plug = Plug()
    app, seen = reader(lambda scope: scope["state"]["current_user"])
    for name in ("Mia", "Tom"):
        drive(plug.auth.update_account(seen[0] if seen else plug.user, {"name": name}))
        for _ in range(2):
            plug.serve(app, plug.scope(state={}))
    assert [user.name for user in seen] == ["Mia"] * 4 + ["Tom"] * 4


def test_an_authenticator_that_nobody_holds_any_more_goes_with_all_that_it_remembers() -> None:
    plug = Plug()
    for _ in range(2):
        plug.serve(reads_nobody, plug.scope(state={}))
    alive = weakref.ref(plug.auth)
    del plug
    gc.collect()
    assert alive() is None


def test_log_02_what_a_request_looks_like_to_an_error_reporter_is_not_what_it_holds() -> None:
    plug = Plug()
    scope = plug.scope(state={})
    plug.serve(reads_nobody, scope)
    secret = plug.cookie.partition("=")[2]
    assert secret not in repr(asgi.ASGIConnection(scope))
    assert secret not in repr(wsgi.WSGIConnection({"HTTP_COOKIE": plug.cookie}))
    bound = scope["powauth"]["current_user"]
    _, states = bound
    (stored,) = drive(plug.auth.store.sessions(plug.user.id, plug.auth.now()))
    assert len(states) == 1
    for remembered in (bound, *states.values(), stored, stored.session):
        text = repr(remembered)
        assert secret not in text
        assert repr(stored.session.salt)[2:-1] not in text


READS: dict[str, Callable[[Any], Any]] = {
    "by name": lambda scope: scope["state"]["current_user"],
    "get": lambda scope: scope["state"].get("current_user"),
    "setdefault": lambda scope: scope["state"].setdefault("current_user", None),
    "items": lambda scope: dict(scope["state"].items())["current_user"],
    "values": lambda scope: next(value for value in scope["state"].values() if hasattr(value, "id")),
    "a copy": lambda scope: scope["state"].copy()["current_user"],
    "dict": lambda scope: dict(scope["state"])["current_user"],
    "unpacked": lambda scope: {**scope["state"]}["current_user"],
    "Starlette": lambda scope: Request(scope).state.current_user,
    "request_auth": lambda scope: asgi.request_auth(scope).current_user,
    "require_user": lambda scope: asgi.request_auth(scope).require_user(),
}


@pytest.mark.parametrize("given", [{}, {"state": {}}, {"state": {"more": 1}}], ids=["no state", "empty", "some"])
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_the_identity_is_in_the_state_however_it_is_read(read: Callable[[Any], Any], given: dict[str, Any]) -> None:
    plug = Plug()
    app, seen = reader(read)
    # The dict of a parameter lives on in this test; a server's is the scope's alone.
    plug.serve(app, plug.scope(**{name: dict(value) for name, value in given.items()}))
    assert [user.id for user in seen] == [plug.user.id] * 2
    assert seen[0] is seen[1]


def test_sto_07_one_authenticators_outage_is_not_anothers() -> None:
    plug = Plug()
    away = Plug(backend=Away(), current_user_key="admin", session_key="admin")
    plug.cookie = f"{plug.cookie}; {away.cookie}"
    app, seen = reader(lambda scope: scope["state"]["current_user"])
    plug_app = asgi.SessionAuthMiddleware(app, plug.auth)
    away_app = asgi.SessionAuthMiddleware(plug_app, away.auth)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = plug.scope(state={})
    drive(away_app(scope, nothing, send))
    assert (sent[0]["status"], seen[0].id) == (200, plug.user.id)
    with pytest.raises(StoreUnavailable):
        _ = asgi.request_auth(scope, "admin").current_user


def test_an_outer_middleware_that_holds_the_state_finds_the_user_in_it() -> None:
    plug = Plug()
    state: dict[str, Any] = {"request_id": 7}
    plug.serve(reads_nobody, plug.scope(state=state))
    assert state["current_user"].id == plug.user.id


@pytest.mark.anyio
async def test_starlettes_outer_middleware_that_has_touched_the_state_finds_the_user_in_it() -> None:
    plug = Plug()
    seen: list[object] = []

    async def dispatch(request: Request, call_next: Any) -> Any:
        request.state.request_id = 7
        response = await call_next(request)
        seen.append(request.state.current_user.id)
        return response

    app = BaseHTTPMiddleware(asgi.SessionAuthMiddleware(reads_nobody, plug.auth), dispatch)

    async def send(message: Any) -> None:
        del message

    await app(plug.scope(state={}), nothing, send)
    assert seen == [plug.user.id]


def test_ses_04_who_signs_in_during_a_request_is_who_is_fetched_after_it() -> None:
    plug = Plug(store=CredentialsCache(MemoryBackend(), reload=True), backend=None)
    connection = FakeConnection([plug.cookie])
    found = drive(plug.auth.fetch(connection))
    assert found == account_of(plug.user).identity
    grace = plug.users.add("grace@example.org")
    drive(RequestAuth(plug.auth, connection).sign_in_user(grace))
    found = drive(plug.auth.fetch(connection))
    assert found is not None
    assert found.id == grace.id
    drive(RequestAuth(plug.auth, connection).sign_out())
    assert plug.auth.current_identity(connection) is None
    assert drive(plug.auth.fetch(FakeConnection([plug.cookie]))) is None


class AdmitsNoAda(SessionAuth[User, Me]):
    """A subclass with a say in who is let in."""

    def admits(self, connection: Connection, identity: Me) -> bool:
        return not identity.email.startswith("ada")


class AsksTwice(SessionAuth[User, Me]):
    """A subclass with a say in who is fetched."""

    def call_at_once(self, connection: Connection) -> bool:
        return False

    async def fetch(self, connection: Connection) -> Me | None:
        user = await super().fetch(connection)
        return None if user is not None and user.email.startswith("ada") else user


class Calls(SessionAuth[User, Me]):
    """A subclass with a say in the whole of what the middleware does."""

    def call_at_once(self, connection: Connection) -> bool:
        return False

    async def call(self, connection: Connection) -> None:
        await super().call(connection)
        connection.assign(self.current_user_key, None)


@pytest.mark.parametrize("kind", [AdmitsNoAda, AsksTwice, Calls])
def test_aut_05_a_subclass_has_a_say_in_every_request(kind: type[SessionAuth[User, Me]]) -> None:
    plug = Plug(kind)
    app, seen = reader(lambda scope: scope["state"]["current_user"])
    for _ in range(3):  # a record that is known is no way round it
        plug.serve(app, plug.scope(state={}))
    assert seen == [None] * 6


def test_aut_05_another_look_asks_the_app_too_and_ends_no_session() -> None:
    class Hours(SessionAuth[User, Me]):
        open = True

        def admits(self, connection: Connection, identity: Me) -> bool:
            return type(self).open

    plug = Plug(Hours)
    connection = FakeConnection([plug.cookie])
    drive(plug.auth.call(connection))
    bound = RequestAuth(plug.auth, connection)
    assert drive(bound.recheck())
    Hours.open = False
    assert not drive(bound.recheck())
    assert bound.current_user is None
    Hours.open = True
    assert drive(plug.auth.fetch(FakeConnection([plug.cookie]))) is not None


@pytest.mark.parametrize("name", ["fetch", "do_fetch", "call", "assign"])
def test_aut_05_a_subclass_whose_say_would_not_be_heard_is_refused(name: str) -> None:
    async def own(self: object, connection: Connection) -> None:
        del self, connection

    with pytest.raises(ConfigError, match=f"overrides {name}, .* override admits instead"):
        type("Own", (SessionAuth,), {name: own})
    mixin = type("Mixin", (), {name: own})
    for base in (SessionAuth, Calls):
        with pytest.raises(ConfigError, match=f"overrides {name}, .* override admits instead"):
            type("Mixed", (mixin, base), {})
    assert issubclass(type("Heard", (mixin, SessionAuth), {"call_at_once": Calls.call_at_once}), SessionAuth)


def test_an_asgi_request_leaves_no_circle_for_the_collector() -> None:
    plug = Plug()
    app, seen = reader(lambda scope: asgi.request_auth(scope).session)
    gc.disable()
    try:
        scope = plug.scope(state={})
        alive = weakref.ref(scope)
        plug.serve(app, scope)
        assert seen[0] is not None
        del scope
        assert alive() is None
    finally:
        gc.enable()


def test_a_wsgi_request_leaves_no_circle_for_the_collector() -> None:
    plug = Plug()
    seen: list[object] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        seen.append(wsgi.request_auth(environ).current_user)
        start_response("200 OK", [])
        return [b""]

    gc.disable()
    try:
        environ = Scope(REQUEST_METHOD="GET", PATH_INFO="/", HTTP_COOKIE=plug.cookie, REMOTE_ADDR="192.0.2.1")
        alive = weakref.ref(environ)
        wsgi.SessionAuthMiddleware(app, plug.auth)(environ, lambda *_: lambda _: None)
        assert isinstance(seen[0], Me)
        del environ
        assert alive() is None
    finally:
        gc.enable()


def test_row_03_a_response_with_nothing_to_do_is_not_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Connection] = []
    real = SessionAuth.respond

    async def respond(self: SessionAuth[User, Me], connection: Connection, *, failed: bool = False) -> Effects:
        asked.append(connection)
        return await real(self, connection, failed=failed)

    monkeypatch.setattr(SessionAuth, "respond", respond)
    plug = Plug()
    asked.clear()
    plug.serve(reads_nobody, plug.scope())
    assert asked == []
    plug.clock.advance(900)
    sent = plug.serve(reads_nobody, plug.scope())
    assert len(asked) == 1
    assert any(name == b"set-cookie" for name, _ in sent[0]["headers"])


class Speaks(SessionAuth[User, Me]):
    """A subclass with a say in what is sent."""

    async def respond(self, connection: Connection, *, failed: bool = False) -> Effects:
        await super().respond(connection, failed=failed)
        return Effects(("said=1",), no_store=True)

    def is_due(self, connection: Connection) -> bool:
        return True


def test_what_a_subclass_makes_of_respond_is_sent() -> None:
    plug = Plug(Speaks)
    sent = plug.serve(reads_nobody, plug.scope())
    assert (b"set-cookie", b"said=1") in sent[0]["headers"]


def test_trm_01_a_second_look_after_a_sign_out_takes_the_cookie_all_the_same() -> None:
    plug = Plug()
    connection = FakeConnection([plug.cookie])
    drive(plug.auth.call(connection))
    drive(RequestAuth(plug.auth, connection).sign_out())
    assert drive(plug.auth.fetch(connection)) is None
    assert plug.auth.is_due(connection)
    (cleared,) = drive(plug.auth.respond(connection)).cookies
    assert "Max-Age=0" in cleared


# --- verified ids are remembered ----------------------------------------------------------------------------------


class CountedMac:
    """Counts the codes that are computed."""

    def __init__(self, mac: Any) -> None:
        self.mac = mac
        self.verified = 0

    def verify(self, message: bytes, code: bytes) -> bool:
        self.verified += 1
        return bool(self.mac.verify(message, code))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> tuple[Plug, CountedMac]:
    from powauth.sessions import keyring

    made: list[CountedMac] = []
    real = keyring.Keyring.mac

    def mac(self: keyring.Keyring, purpose: str, *context: str) -> Any:
        found = real(self, purpose, *context)
        if purpose != "session":
            return found
        made.append(CountedMac(found))
        made[-1].sign = found.sign  # type: ignore[attr-defined]
        return made[-1]

    monkeypatch.setattr(keyring.Keyring, "mac", mac)
    plug = Plug()
    return plug, made[0]


def look(plug: Plug, value: str) -> Me | None:
    return drive(plug.auth.fetch(FakeConnection([f"{plug.auth.carrier.name}={value}"])))


def test_an_id_is_verified_once(counted: tuple[Plug, CountedMac]) -> None:
    plug, mac = counted
    value = plug.cookie.partition("=")[2]
    assert [look(plug, value) for _ in range(3)] != [None] * 3
    assert mac.verified == 1


def test_key_03_forged_ids_are_refused_each_time_and_push_nobody_out(counted: tuple[Plug, CountedMac]) -> None:
    plug, _ = counted
    value = plug.cookie.partition("=")[2]
    assert look(plug, value) is not None
    for number in range(CACHED_IDS + 10):
        forged = f"{number:08}{value[8:]}"
        assert look(plug, forged) is None
    forged = ("A" if value[-1] != "A" else "B").join((value[:-1], ""))
    assert look(plug, forged) is None
    assert look(plug, forged) is None
    assert look(plug, value) is not None


def test_cke_06_values_that_are_no_ids_take_no_memory(counted: tuple[Plug, CountedMac]) -> None:
    plug, mac = counted
    for length in (0, 1, 71, 73, 8_000, 65_536):
        assert look(plug, "A" * length) is None
    assert mac.verified == 0


def test_key_06_what_one_authenticator_has_verified_is_nothing_to_another_with_other_keys() -> None:
    backend = MemoryBackend()
    ours = Plug(backend=backend)
    value = ours.cookie.partition("=")[2]
    assert look(ours, value) is not None
    theirs = SessionAuth(secret_key=OTHER_SECRET, users=ours.users, backend=backend, clock=ours.clock)
    connection = FakeConnection([f"{theirs.carrier.name}={value}"])
    assert drive(theirs.fetch(connection)) is None


def test_trm_01_a_remembered_id_opens_nothing_once_its_session_is_gone() -> None:
    plug = Plug()
    value = plug.cookie.partition("=")[2]
    assert look(plug, value) is not None
    drive(plug.auth.revoke_user(plug.user))
    assert look(plug, value) is None


def test_an_id_of_the_next_generation_is_another_id() -> None:
    plug = Plug()
    stored = drive(plug.auth.store.sessions(plug.user.id, plug.auth.now()))[0]
    ahead = the_id(stored.session, generation=1)
    assert ahead != plug.cookie.partition("=")[2]
    assert look(plug, ahead) is not None  # row 10: the store has lost a write


# --- what follows from a record is remembered, as long as the store still holds it --------------------------------


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The keys of the records that were decoded."""
    keys: list[bytes] = []
    real = CredentialsCache.read

    def read(self: CredentialsCache, record: Record) -> Any:
        keys.append(record.key)
        return real(self, record)

    monkeypatch.setattr(CredentialsCache, "read", read)
    return keys


def ask(plug: Plug) -> tuple[object, list[str]]:
    """The current user's id, of a request through the middleware, and the verbs that it took."""
    app, seen = reader(lambda scope: scope["state"]["current_user"])
    backend = plug.auth.store.backend
    assert isinstance(backend, CountingBackend)
    with backend.counting() as verbs:
        plug.serve(app, plug.scope(state={}))
    return seen[0] and seen[0].id, verbs


def counting_plug(**options: Any) -> Plug:
    return Plug(backend=CountingBackend(MemoryBackend()), **options)


def test_row_03_the_same_record_is_read_each_time_and_decoded_once(decoded: list[bytes]) -> None:
    plug = counting_plug()
    for _ in range(4):
        assert ask(plug) == (plug.user.id, ["get"])
    assert len(decoded) == 1


def test_row_05_a_remembered_record_grows_old_all_the_same(decoded: list[bytes]) -> None:
    plug = counting_plug()
    ask(plug)
    plug.clock.advance(899.999)
    assert ask(plug) == (plug.user.id, ["get"])
    plug.clock.advance(0.001)
    assert ask(plug) == (plug.user.id, ["get", "update"])
    assert len(decoded) == 2


def test_row_11_a_remembered_record_expires_all_the_same() -> None:
    plug = counting_plug()
    ask(plug)
    plug.clock.advance(1800)
    assert ask(plug) == (None, ["get"])


def test_row_02_a_clock_set_back_is_noticed_though_the_record_is_remembered() -> None:
    plug = counting_plug()
    ask(plug)
    plug.clock.advance(-301)
    assert ask(plug) == (None, ["get"])


def test_trm_01_a_remembered_session_is_gone_with_its_record() -> None:
    plug = counting_plug()
    ask(plug)
    drive(plug.auth.revoke_user(plug.user))
    assert ask(plug) == (None, ["get"])


def test_a_record_that_has_changed_is_read_once_and_decoded_again(decoded: list[bytes]) -> None:
    plug = counting_plug()
    ask(plug)
    plug.users.rows[plug.user.id] = replace(plug.users.rows[plug.user.id], name="new")
    drive(plug.auth.refresh(plug.user.id))
    decoded.clear()
    assert ask(plug) == (plug.user.id, ["get"])
    assert ask(plug) == (plug.user.id, ["get"])
    assert len(decoded) == 1


def test_a_record_moved_to_another_key_is_not_taken_for_the_one_remembered() -> None:
    backend = MemoryBackend()
    plug = Plug(backend=backend)
    now = plug.auth.now()
    mine = drive(
        backend.get(plug.auth.store.key(drive(plug.auth.store.sessions(plug.user.id, now))[0].session.sid), now)
    )
    assert mine is not None
    assert look(plug, plug.cookie.partition("=")[2]) is not None
    planted = msgspec.structs.replace(mine, owner=b"credentials:somebody")
    drive(backend.delete(mine.key, now))
    assert drive(backend.create(planted, None, now))
    assert look(plug, plug.cookie.partition("=")[2]) is None
    assert plug.events[-1] == "unreadable_record"


def test_a_long_record_is_decoded_each_time(decoded: list[bytes]) -> None:
    plug = counting_plug(metadata=lambda connection: {"note": "x" * MAX_CACHED_BYTES})
    for _ in range(3):
        assert ask(plug) == (plug.user.id, ["get"])
    assert len(decoded) == 3


def test_with_reload_the_user_is_asked_for_each_time(decoded: list[bytes]) -> None:
    plug = Plug(store=CredentialsCache(CountingBackend(MemoryBackend()), reload=True), backend=None)
    for _ in range(3):
        assert ask(plug) == (plug.user.id, ["get"])
    assert len(decoded) == 3
    plug.users.rows.clear()
    assert ask(plug)[0] is None


def test_sto_07_a_closed_store_is_out_of_reach_at_once() -> None:
    plug = Plug()
    plug.serve(reads_nobody, plug.scope())
    drive(plug.auth.store.backend.close())
    app, _ = reader(lambda scope: asgi.request_auth(scope).current_user)
    assert plug.serve(app, plug.scope(state={}))[0]["status"] == 503
    assert plug.events[-1] == "store_unavailable"


class Away(MemoryBackend):
    def peek(self, key: bytes, now: Millis) -> Record | None:
        raise WouldWaitError

    async def get(self, key: bytes, now: Millis) -> Record | None:
        raise StoreUnavailable("away")


def test_sto_07_in_an_outage_the_state_refuses_and_a_page_that_asks_nothing_is_served() -> None:
    backend = Away()
    plug = Plug(backend=backend)
    assert plug.serve(reads_nobody, plug.scope(state={}))[0]["status"] == 200
    app, _ = reader(lambda scope: asgi.request_auth(scope).current_user)
    assert plug.serve(app, plug.scope(state={}))[0]["status"] == 503


@pytest.mark.parametrize("guard", [litestar.require_user, litestar.require_no_user, litestar.require_fresh()])
def test_litestars_guards_take_no_worker_thread(guard: object) -> None:
    assert inspect.iscoroutinefunction(guard)
