"""WebSockets: the Origin at the handshake, and the close when a session ends; in this process, on asyncio and trio."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import anyio
import msgspec
import pytest
from anyio.abc import TaskGroup
from fastapi import FastAPI
from litestar import Litestar
from litestar import WebSocket as LitestarWebSocket
from litestar import websocket as litestar_websocket
from litestar.exceptions import WebSocketDisconnect as LitestarDisconnect
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from harness.core_support import Site
from harness.http_support import request_asgi
from harness.support import CountingBackend, FakeConnection, Me, MemoryUsers, User, account_of
from powauth import Account, BlockingRequestAuth, ConfigError, CookieCarrier, CredentialsCache, FrameworkSessionCarrier
from powauth.backends.base import make_key
from powauth.backends.memory import MemoryBackend
from powauth.errors import ConfigWarning, NotFresh, NotSignedIn, StoreUnavailable
from powauth.http.connection import Connection
from powauth.integrations import websockets
from powauth.integrations.asgi import SessionAuthMiddleware, blocking_request_auth, request_auth
from powauth.integrations.websockets import SocketClosed
from powauth.plug import Authenticator

pytestmark = pytest.mark.anyio

SOON = 0.005
"""An interval so short that a test need not wait for it."""

NEVER = 3600.0
"""An interval so long that nothing is read again for its sake."""

HOST, ORIGIN = (b"host", b"app.example"), (b"origin", b"https://app.example")
ENDED = {"type": "websocket.close", "code": 1008, "reason": "session ended"}


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


class Peer:
    """A server and a client at once: what the middleware is given, and what it sends."""

    def __init__(self, *headers: tuple[bytes, bytes]) -> None:
        self.scope: dict[str, Any] = {
            "type": "websocket",
            "scheme": "wss",
            "path": "/",
            "query_string": b"",
            "headers": list(headers),
            "client": None,
            "server": ("127.0.0.1", 443),
            "subprotocols": [],
        }
        self.sent: list[Any] = []
        self._news, self._incoming = anyio.create_memory_object_stream[Any](100)
        self._out, self._outgoing = anyio.create_memory_object_stream[Any](100)
        self._news.send_nowait({"type": "websocket.connect"})
        self.before_send: Callable[[Any], Any] = lambda message: None

    def close(self) -> None:
        for stream in (self._news, self._incoming, self._out, self._outgoing):
            stream.close()

    async def receive(self) -> Any:
        return await self._incoming.receive()

    async def send(self, message: Any) -> None:
        await anyio.lowlevel.checkpoint()
        self.before_send(message)
        self.sent.append(message)
        self._out.send_nowait(message)
        if message["type"] == "websocket.close":
            self._news.send_nowait({"type": "websocket.disconnect", "code": message["code"]})

    def say(self, text: str) -> None:
        self._news.send_nowait({"type": "websocket.receive", "text": text})

    def leave(self) -> None:
        self._news.send_nowait({"type": "websocket.disconnect", "code": 1001})

    async def next(self) -> Any:
        """The next thing that the client gets."""
        with anyio.fail_after(20):
            return await self._outgoing.receive()


class Echo:
    """An app that repeats what it is told; ``heard`` is all that it received."""

    def __init__(self) -> None:
        self.heard: list[Any] = []
        self.user: object = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.user = request_auth(scope).current_user
        self.heard.append(await receive())
        await send({"type": "websocket.accept"})
        while True:
            self.heard.append(message := await receive())
            if message["type"] == "websocket.disconnect":
                return
            await send({"type": "websocket.send", "text": message["text"]})


class Chat(Site):
    """A `Site` whose user opens sockets."""

    def __init__(self, **options: Any) -> None:
        backend = CountingBackend(MemoryBackend())
        if reload := options.pop("reload", False):
            options["store"] = CredentialsCache(backend, reload=reload)
        super().__init__(backend, **options)
        self.group: TaskGroup

    async def cookie(self) -> tuple[bytes, bytes]:
        connection = FakeConnection()
        await self.auth.do_create(connection, account_of(self.user))
        (set_cookie,) = (await self.auth.respond(connection)).cookies
        return b"cookie", set_cookie.partition(";")[0].encode()

    async def session(self) -> Any:
        (stored,) = await self.auth.store.sessions(self.user.id, self.auth.now())
        return stored

    async def looked(self, times: int = 2) -> None:
        """Wait until the store has been read so many times."""
        before = len(self.backend.calls)
        while len(self.backend.calls) < before + times:  # noqa: ASYNC110
            await anyio.sleep(SOON)

    @asynccontextmanager
    async def serving(self, app: Any, peer: Peer, *, recheck: float = NEVER) -> AsyncIterator[Peer]:
        """The app at work for this peer; at the end it must have ended by itself."""
        async with anyio.create_task_group() as group:
            self.group = group
            group.start_soon(
                SessionAuthMiddleware(app, self.auth, websocket_recheck=timedelta(seconds=recheck)), *self._ends(peer)
            )
            with anyio.fail_after(20):
                yield peer
        peer.close()

    @staticmethod
    def _ends(peer: Peer) -> tuple[Any, Any, Any]:
        return peer.scope, peer.receive, peer.send

    @asynccontextmanager
    async def talking(self, app: Any, *, recheck: float = NEVER) -> AsyncIterator[Peer]:
        """A socket of the user's, accepted, over which one word has gone to and fro."""
        async with self.serving(app, Peer(HOST, ORIGIN, await self.cookie()), recheck=recheck) as peer:
            assert (await peer.next())["type"] == "websocket.accept"
            peer.say("hello")
            assert (await peer.next())["text"] == "hello"
            yield peer


# --- how a session ends -----------------------------------------------------------------------------------------------


async def sign_out(chat: Chat) -> None:
    stored = await chat.session()
    await chat.auth.store.delete(stored.session.sid, chat.auth.now())


async def end_all(chat: Chat) -> None:
    await chat.auth.revoke_user(chat.user)


async def lock(chat: Chat) -> None:
    locked = replace(chat.user, locked=True)
    chat.users.rows[locked.id] = locked
    await chat.auth.credentials_changed(locked)


async def delete_account(chat: Chat) -> None:
    await chat.auth.delete_account(chat.user)


async def let_idle(chat: Chat) -> None:
    chat.clock.advance(1800)


async def let_age(chat: Chat) -> None:
    for _ in range(24):
        chat.clock.advance(1790)
        stored = await chat.session()
        session = msgspec.structs.replace(stored.session, renewed_at=chat.auth.now())
        await chat.auth.store.update(stored, session, chat.auth.now() + 1_800_000, chat.auth.now())
    chat.clock.advance(250)


async def spoil(chat: Chat) -> None:
    stored = await chat.session()
    key = make_key(chat.auth.store.namespace, stored.session.sid)
    record = await chat.backend.inner.get(key, chat.auth.now())
    assert record is not None
    garbage = msgspec.structs.replace(record, version=record.version + 1, value=b"garbage")
    assert await chat.backend.inner.update(garbage, record.version, chat.auth.now())


WAYS = [sign_out, end_all, lock, delete_account, let_idle, let_age, spoil]


@pytest.mark.parametrize("end", WAYS, ids=lambda way: way.__name__)
async def test_trm_07_a_socket_is_closed_when_its_session_ends(end: Any) -> None:
    chat, echo = Chat(), Echo()
    async with chat.talking(echo, recheck=SOON) as peer:
        assert echo.user == account_of(chat.user).identity
        await end(chat)
        assert await peer.next() == ENDED
        peer.say("after the end")
    assert [message.get("text") for message in echo.heard] == [None, "hello", None]
    assert echo.heard[-1]["type"] == "websocket.disconnect"
    assert echo.heard[-1]["code"] == 1008
    assert peer.sent[-1] == ENDED


@pytest.mark.parametrize("change", ["locked", "gone"])
async def test_trm_07_a_reloading_store_sees_a_user_locked_or_gone_behind_its_back(change: str) -> None:
    chat, echo = Chat(reload=True), Echo()
    async with chat.talking(echo, recheck=SOON) as peer:
        if change == "gone":
            del chat.users.rows[chat.user.id]
        else:
            chat.users.rows[chat.user.id] = replace(chat.user, locked=True)
        assert await peer.next() == ENDED
    assert await chat.auth.store.sessions(chat.user.id, chat.auth.now()) == []


async def test_trm_07_other_sessions_of_the_user_stay_open() -> None:
    chat, echo = Chat(), Echo()
    async with chat.talking(echo, recheck=SOON) as peer:
        mine = await chat.session()
        await chat.cookie()
        await chat.auth.store.delete_sessions(chat.user.id, chat.auth.now(), keep=mine.session.sid)
        await chat.looked()
        peer.say("still here")
        assert (await peer.next())["text"] == "still here"
        peer.leave()
    assert echo.heard[-1] == {"type": "websocket.disconnect", "code": 1001}


async def test_trm_07_nothing_is_delivered_past_the_expiry_whatever_the_interval() -> None:
    chat, echo = Chat(), Echo()
    async with chat.talking(echo) as peer:
        chat.clock.advance(1800)
        peer.say("too late")
        assert await peer.next() == ENDED
    assert [message.get("text") for message in echo.heard] == [None, "hello", None]


async def test_trm_07_nothing_is_sent_past_the_expiry_whatever_the_interval() -> None:
    chat = Chat()
    go = anyio.Event()
    refused: list[str] = []

    async def pump(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "one"})
        await go.wait()
        for text in ("two", "three"):
            try:
                await send({"type": "websocket.send", "text": text})
            except OSError:
                refused.append(text)
        assert (await receive())["type"] == "websocket.disconnect"
        assert (await receive())["type"] == "websocket.disconnect"
        await send({"type": "websocket.close", "code": 1000})  # nothing any more, and no error
        await send({"type": "websocket.send", "text": "four"})
        raise AssertionError("unreachable")

    async with chat.serving(pump, Peer(HOST, ORIGIN, await chat.cookie())) as peer:
        assert (await peer.next())["type"] == "websocket.accept"
        assert (await peer.next())["text"] == "one"
        chat.clock.advance(1800)
        go.set()
        assert await peer.next() == ENDED
    assert refused == ["two", "three"]
    assert peer.sent[-1] == ENDED


async def test_a_renewal_elsewhere_prolongs_a_socket() -> None:
    chat, echo = Chat(), Echo()
    async with chat.talking(echo) as peer:
        chat.clock.advance(1000)
        stored = await chat.session()
        session = msgspec.structs.replace(stored.session, generation=1, renewed_at=chat.auth.now())
        await chat.auth.store.update(stored, session, chat.auth.now() + 1_800_000, chat.auth.now())
        chat.clock.advance(1000)
        with chat.backend.counting() as verbs:
            for text in ("renewed", "and known to be"):
                peer.say(text)
                assert (await peer.next())["text"] == text
        assert verbs == ["get"]
        peer.leave()


async def test_a_socket_is_no_use_of_the_session() -> None:
    chat, echo = Chat(), Echo()
    async with chat.talking(echo) as peer:
        before = await chat.session()
        chat.clock.advance(1700)
        peer.say("busy")
        assert (await peer.next())["text"] == "busy"
        assert await chat.session() == before
        peer.leave()


async def test_reads_are_one_at_each_interval_and_none_for_messages() -> None:
    chat, echo = Chat(), Echo()
    async with chat.talking(echo) as peer:
        with chat.backend.counting() as verbs:
            for number in range(20):
                peer.say(str(number))
                await peer.next()
        assert verbs == []
        peer.leave()


async def looks_elsewhere(times: int = 5) -> None:
    """Wait until a socket of another site was looked at so often. Any socket with that period was then due, too."""
    chat = Chat()
    async with chat.talking(Echo(), recheck=SOON) as peer:
        await chat.looked(times)
        peer.leave()


async def crowd(chat: Chat) -> None:
    """Many sockets at once, until the store has been read often; it is asked for few of them at a time."""
    reading = most = 0

    async def counted(verb: str) -> None:
        nonlocal reading, most
        reading += 1
        most = max(most, reading)
        await anyio.sleep(SOON)
        reading -= 1

    cookie = await chat.cookie()
    async with AsyncExitStack() as stack:
        peers = [
            await stack.enter_async_context(chat.serving(Echo(), Peer(HOST, ORIGIN, cookie), recheck=SOON))
            for _ in range(5 * websockets.READS_AT_ONCE)
        ]
        for peer in peers:
            assert (await peer.next())["type"] == "websocket.accept"
        chat.backend.before = counted
        await chat.looked(3 * len(peers))
        chat.backend.before = None
        await end_all(chat)
        for peer in peers:
            assert await peer.next() == ENDED
    assert most == websockets.READS_AT_ONCE


async def test_many_sockets_leave_the_stores_connections_to_requests() -> None:
    await crowd(Chat())


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_many_sockets_without_anyio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websockets, "HAS_ANYIO", False)
    await crowd(Chat())


# --- outages and faults -----------------------------------------------------------------------------------------------


async def test_trm_07_in_an_outage_a_socket_stays_open_until_its_session_would_have_expired(
    caplog: pytest.LogCaptureFixture,
) -> None:
    chat, echo = Chat(), Echo()
    with caplog.at_level(logging.WARNING, "powauth"):
        async with chat.talking(echo, recheck=SOON) as peer:
            chat.backend.fail["*"] = StoreUnavailable("down")
            await chat.looked(5)
            peer.say("in the dark")
            assert (await peer.next())["text"] == "in the dark"
            chat.clock.advance(1800)
            assert (await peer.next())["code"] == 1013
    assert echo.heard[-1]["type"] == "websocket.disconnect"
    assert sum("unreachable" in record.message for record in caplog.records) == 1


async def test_after_an_outage_a_socket_goes_on() -> None:
    chat, echo = Chat(), Echo()
    async with chat.talking(echo, recheck=SOON) as peer:
        chat.backend.fail["*"] = StoreUnavailable("down")
        await chat.looked()
        chat.backend.fail.clear()
        await end_all(chat)
        assert await peer.next() == ENDED


async def test_a_fault_in_looking_closes_the_socket(caplog: pytest.LogCaptureFixture) -> None:
    chat, echo = Chat(), Echo()
    async with chat.talking(echo, recheck=SOON) as peer:
        chat.backend.fail["*"] = ZeroDivisionError("a mistake")
        assert (await peer.next())["code"] == 1011
    assert "cannot read the session of a WebSocket" in caplog.text


async def test_a_client_that_is_gone_when_it_is_told_harms_nobody() -> None:
    chat, echo = Chat(), Echo()
    async with chat.talking(echo, recheck=SOON) as peer:
        told = anyio.Event()

        def broken(message: Any) -> None:
            told.set()
            raise RuntimeError("after websocket.disconnect")

        peer.before_send = broken
        await end_all(chat)
        await told.wait()
        peer.leave()
    assert echo.heard[-1]["code"] == 1008


# --- before the socket is accepted ------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["websocket.accept", "websocket.close", "websocket.http.response.start"])
async def test_a_session_that_ends_before_the_accept_is_a_refused_handshake(answer: str) -> None:
    chat = Chat()
    heard: list[Any] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        heard.append(await receive())
        await end_all(chat)
        chat.clock.advance(1800)
        await send({"type": answer, "status": 403, "headers": []})
        heard.append(await receive())

    async with chat.serving(slow, Peer(HOST, ORIGIN, await chat.cookie())) as peer:
        assert await peer.next() == ENDED
    assert peer.sent == [ENDED]
    assert len(heard) == (2 if answer == "websocket.close" else 1)


async def test_a_session_that_ends_while_the_accept_is_sent_is_closed_after_it() -> None:
    chat, echo = Chat(), Echo()
    peer = Peer(HOST, ORIGIN, await chat.cookie())
    plain = peer.send

    async def held(message: Any) -> None:
        if message["type"] == "websocket.accept":
            await sign_out(chat)
            await chat.looked(1)
        await plain(message)

    peer.send = held  # type: ignore[method-assign]
    async with chat.serving(echo, peer, recheck=SOON):
        assert (await peer.next())["type"] == "websocket.accept"
        assert await peer.next() == ENDED
    assert [message["type"] for message in echo.heard] == ["websocket.connect"]


# --- the app's own ways -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (StoreUnavailable("down"), 1013, "store unavailable"),
        (NotSignedIn("no"), 1008, "not_signed_in"),
        (NotFresh("old"), 1008, "fresh_sign_in_required"),
    ],
    ids=["outage", "nobody", "stale"],
)
async def test_an_error_of_powauths_closes_a_signed_in_socket(error: Exception, code: int, reason: str) -> None:
    chat = Chat()

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        raise error

    async with chat.serving(failing, Peer(HOST, ORIGIN, await chat.cookie())) as peer:
        pass
    assert peer.sent[-1] == {"type": "websocket.close", "code": code, "reason": reason}


async def test_an_error_of_the_apps_own_reaches_the_server_as_it_is() -> None:
    chat = Chat()

    async def failing(scope: Any, receive: Any, send: Any) -> None:
        raise ZeroDivisionError("the app's")

    peer = Peer(HOST, ORIGIN, await chat.cookie())
    with pytest.raises(ZeroDivisionError, match="the app's"):
        await SessionAuthMiddleware(failing, chat.auth)(peer.scope, peer.receive, peer.send)
    peer.close()


async def test_a_socket_that_the_app_has_closed_is_not_closed_again() -> None:
    chat = Chat()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.close", "code": 1000})
        await end_all(chat)
        with chat.backend.counting() as verbs:
            await looks_elsewhere()
        assert verbs == []

    async with chat.serving(app, Peer(HOST, ORIGIN, await chat.cookie()), recheck=SOON) as peer:
        pass
    assert [message["type"] for message in peer.sent] == ["websocket.accept", "websocket.close"]


async def test_a_socket_that_the_app_closes_during_a_look_is_not_closed_again() -> None:
    chat = Chat()
    looking, closed = anyio.Event(), anyio.Event()

    async def held(verb: str) -> None:
        if verb == "get":
            looking.set()
            await closed.wait()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await sign_out(chat)  # without suspending, so that no look comes between
        chat.backend.before = held
        await looking.wait()
        await send({"type": "websocket.close", "code": 1000})
        closed.set()
        await looks_elsewhere()

    async with chat.serving(app, Peer(HOST, ORIGIN, await chat.cookie()), recheck=SOON) as peer:
        pass
    assert [message.get("code") for message in peer.sent] == [None, 1000]


async def test_a_sign_out_by_the_socket_itself_closes_it() -> None:
    chat = Chat()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await request_auth(scope).sign_out()
        with pytest.raises(SocketClosed):
            await send({"type": "websocket.send", "text": "you are signed out"})

    async with chat.serving(app, Peer(HOST, ORIGIN, await chat.cookie())) as peer:
        pass
    assert [message["type"] for message in peer.sent] == ["websocket.accept", "websocket.close"]


async def test_a_user_whom_another_layer_signed_in_is_that_layers_to_end() -> None:
    chat, echo = Chat(), Echo()
    peer = Peer(HOST)
    peer.scope["state"] = {"current_user": chat.user}
    async with chat.serving(echo, peer, recheck=SOON):
        assert (await peer.next())["type"] == "websocket.accept"
        await end_all(chat)
        chat.clock.advance(10_000)
        await looks_elsewhere()
        peer.say("still me")
        assert (await peer.next())["text"] == "still me"
        peer.leave()


async def starlette_chat(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text)


@litestar_websocket("/")
async def litestar_chat(socket: LitestarWebSocket[Any, Any, Any]) -> None:
    await socket.accept()
    with suppress(LitestarDisconnect):
        while True:
            await socket.send_text(await socket.receive_text())


def chat_app(framework: str) -> Any:
    if framework == "starlette":
        return Starlette(routes=[WebSocketRoute("/", starlette_chat)])
    if framework == "fastapi":
        app = FastAPI()
        app.add_api_websocket_route("/", starlette_chat)
        return app
    return Litestar([litestar_chat])


@pytest.mark.parametrize("framework", ["starlette", "fastapi", "litestar"])
async def test_trm_07_in_a_framework_the_close_is_a_disconnect_like_any_other(framework: str) -> None:
    chat = Chat()
    async with chat.talking(chat_app(framework), recheck=SOON) as peer:
        await end_all(chat)
        assert await peer.next() == ENDED
        peer.say("after the end")
    assert peer.sent[-1] == ENDED


async def test_trm_07_in_starlette_to_send_after_the_close_is_a_disconnect() -> None:
    chat = Chat()
    raised: list[int] = []

    async def pump(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        chat.clock.advance(1800)
        with pytest.raises(WebSocketDisconnect) as disconnect:
            await socket.send_text("too late")
        raised.append(disconnect.value.code)

    async with chat.talking(Starlette(routes=[WebSocketRoute("/", pump)])) as peer:
        assert await peer.next() == ENDED
    assert raised == [1006]


async def test_an_app_that_returns_at_once_does_not_cut_off_the_close() -> None:
    await return_at_once(Chat())


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_an_app_that_returns_at_once_does_not_cut_off_the_close_without_anyio(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(websockets, "HAS_ANYIO", False)
    await return_at_once(Chat())


async def return_at_once(chat: Chat) -> None:
    """Serve an app that returns while powauth closes the socket. The client gets the close."""
    peer = Peer(HOST, ORIGIN, await chat.cookie())
    plain, closing = peer.send, anyio.Event()

    async def slow(message: Any) -> None:
        if message["type"] == "websocket.close":
            closing.set()
            for _ in range(10):
                await anyio.lowlevel.checkpoint()
        await plain(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await end_all(chat)
        await closing.wait()
        assert (await receive())["type"] == "websocket.disconnect"

    peer.send = slow  # type: ignore[method-assign]
    async with chat.serving(app, peer, recheck=SOON):
        assert (await peer.next())["type"] == "websocket.accept"
        assert await peer.next() == ENDED


async def test_a_message_of_another_kind_does_not_end_the_watch() -> None:
    chat = Chat()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.ping"})
        await end_all(chat)
        await receive()
        assert (await receive())["type"] == "websocket.disconnect"

    async with chat.serving(app, Peer(HOST, ORIGIN, await chat.cookie()), recheck=SOON) as peer:
        assert [(await peer.next())["type"] for _ in range(2)] == ["websocket.accept", "websocket.ping"]
        assert await peer.next() == ENDED


async def test_a_server_that_stops_cancels_app_and_watch() -> None:
    chat, echo = Chat(), Echo()
    async with chat.talking(echo, recheck=SOON) as peer:
        chat.group.cancel_scope.cancel()
    before = len(chat.backend.calls)
    await looks_elsewhere()
    assert len(chat.backend.calls) == before
    assert [message.get("type") for message in peer.sent] == ["websocket.accept", "websocket.send"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_without_anyio_it_works_on_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websockets, "HAS_ANYIO", False)
    chat, echo = Chat(), Echo()
    async with chat.talking(echo, recheck=SOON) as peer:
        await end_all(chat)
        assert await peer.next() == ENDED
    async with chat.talking(echo, recheck=SOON) as peer:
        peer.leave()


# --- whose page opens it ----------------------------------------------------------------------------------------------


async def handshake(chat: Chat, *headers: tuple[bytes, bytes], origins: tuple[str, ...] = ()) -> bool:
    """Whether a handshake with these headers is accepted, and then as the user's."""
    echo = Echo()
    peer = Peer(*headers)
    peer.leave()
    before = len(chat.backend.calls)
    await SessionAuthMiddleware(echo, chat.auth, origins=origins)(peer.scope, peer.receive, peer.send)
    peer.close()
    if peer.sent[0]["type"] == "websocket.accept":
        return echo.user is not None
    assert peer.sent == [{"type": "websocket.close", "code": 1008, "reason": "cross_site_request"}]
    assert echo.heard == []  # the app has seen nothing of it
    assert chat.backend.calls[before:] == []  # nor the store
    return False


FOREIGN = [
    b"null",
    b"",
    b"https://evil.example",
    b"http://app.example",
    b"https://app.example:8443",
    b"https://app.example.evil.example",
    b"https://evilapp.example",
    b"https://sub.app.example",
    b"https://app.example@evil.example",
    b"https://user@app.example",
    b"https://app.example/",
    b"https://app.example\\@evil.example",
    b"https://app.example https://evil.example",
    b"wss://app.example",
    b"*",
    b"file://",
    "https://äpp.example".encode(),
]


@pytest.mark.parametrize("origin", FOREIGN, ids=lambda origin: origin.decode())
async def test_csr_07_a_handshake_with_the_cookie_and_a_foreign_origin_is_refused(origin: bytes) -> None:
    chat = Chat()
    assert not await handshake(chat, HOST, (b"origin", origin), await chat.cookie())


async def test_csr_07_a_handshake_with_the_cookie_and_no_origin_or_two_is_refused() -> None:
    chat = Chat()
    cookie = await chat.cookie()
    assert not await handshake(chat, HOST, cookie)
    assert not await handshake(chat, HOST, cookie, (b"sec-fetch-site", b"same-origin"))
    assert not await handshake(chat, HOST, cookie, (b"referer", b"https://app.example/"))
    assert not await handshake(chat, HOST, ORIGIN, (b"origin", b"https://evil.example"), cookie)
    assert not await handshake(chat, HOST, (b"host", b"evil.example"), ORIGIN, cookie)
    assert not await handshake(chat, ORIGIN, cookie)


async def test_rep_47_a_handshake_with_a_header_twice_is_refused_also_where_both_are_allowed() -> None:
    chat = Chat()
    cookie = await chat.cookie()
    shop, allowed = (b"origin", b"https://shop.example"), ("https://shop.example", "https://app.example")
    for origins in ((ORIGIN, ORIGIN), (ORIGIN, shop), (shop, ORIGIN), (ORIGIN, (b"origin", b""))):
        assert not await handshake(chat, HOST, *origins, cookie, origins=allowed)
    assert not await handshake(chat, HOST, HOST, ORIGIN, cookie, origins=allowed)
    assert await handshake(chat, HOST, shop, cookie, origins=allowed)


async def test_csr_07_the_own_origin_and_the_configured_ones_are_let_in() -> None:
    chat = Chat()
    cookie = await chat.cookie()
    shop = (b"origin", b"https://shop.example")
    assert await handshake(chat, HOST, ORIGIN, cookie)
    assert await handshake(chat, (b"host", b"app.example:443"), ORIGIN, cookie)
    assert await handshake(chat, (b"host", b"app.example:8443"), (b"origin", b"https://app.example:8443"), cookie)
    assert not await handshake(chat, HOST, shop, cookie)
    assert await handshake(chat, HOST, shop, cookie, origins=("https://shop.example",))
    assert await handshake(chat, shop, cookie, origins=("https://shop.example",))
    assert not await handshake(chat, HOST, (b"origin", b"http://shop.example"), cookie, origins=(shop[1].decode(),))


async def test_csr_07_what_claims_to_be_a_session_is_checked_too() -> None:
    chat = Chat()
    name = chat.auth.carrier.name.encode()
    evil = (b"origin", b"https://evil.example")
    assert not await handshake(chat, HOST, evil, (b"cookie", name + b"=forged"))
    assert not await handshake(chat, HOST, evil, (b"cookie", name + b"=one; " + name + b"=two"))


async def test_csr_07_no_cors_header_is_sent() -> None:
    chat = Chat()
    evil = {"origin": "https://evil.example"}
    response = await anyio.to_thread.run_sync(lambda: request_asgi(chat.app, headers=evil))
    assert [name for name in response.headers if name.startswith("access-control")] == []


async def test_a_socket_without_the_cookie_is_nobodys_and_open_to_all() -> None:
    chat, echo = Chat(), Echo()
    peer = Peer(HOST, (b"origin", b"https://elsewhere.example"), (b"cookie", b"other=1"))
    async with chat.serving(echo, peer, recheck=SOON):
        assert (await peer.next())["type"] == "websocket.accept"
        with chat.backend.counting() as verbs:
            peer.say("hello")
            assert (await peer.next())["text"] == "hello"
            await looks_elsewhere()
        assert verbs == []
        peer.leave()
    assert echo.user is None


async def test_in_an_outage_at_the_handshake_only_who_asks_for_the_user_is_closed() -> None:
    chat, echo = Chat(), Echo()
    cookie = await chat.cookie()
    chat.backend.fail["*"] = StoreUnavailable("down")
    async with chat.serving(echo, Peer(HOST, ORIGIN, cookie)) as peer:
        assert (await peer.next())["code"] == 1013
    assert echo.heard == []


async def test_in_development_the_own_origin_is_on_http() -> None:
    with pytest.warns(ConfigWarning):
        carrier = CookieCarrier(insecure_http=True)
    chat = Chat(carrier=carrier)
    cookie = await chat.cookie()
    host = (b"host", b"localhost:8000")
    assert await handshake(chat, host, (b"origin", b"http://localhost:8000"), cookie)
    assert not await handshake(chat, host, (b"origin", b"http://localhost:5173"), cookie)
    assert not await handshake(chat, host, (b"origin", b"https://localhost:8000"), cookie)


async def test_the_id_in_a_frameworks_session_is_checked_too() -> None:
    chat = Chat(carrier=FrameworkSessionCarrier())
    connection = FakeConnection()
    connection.framework_session = {}
    await chat.auth.do_create(connection, account_of(chat.user))
    await chat.auth.respond(connection)
    for origin, ended in ((b"https://evil.example", "websocket.close"), (ORIGIN[1], "websocket.accept")):
        peer = Peer(HOST, (b"origin", origin))
        peer.scope["session"] = connection.framework_session
        peer.leave()
        await SessionAuthMiddleware(Echo(), chat.auth)(peer.scope, peer.receive, peer.send)
        peer.close()
        assert peer.sent[0]["type"] == ended


class HeaderAuth(Authenticator[User, Me]):
    """Users by a header, as a program sends it."""

    async def fetch(self, connection: Connection) -> Me | None:
        account = await self.users.find(connection.header("x-user"))
        return None if account is None else account.identity

    async def create(self, connection: Connection, account: Account[Me], grant: Any = None) -> Account[Me] | None:
        raise NotImplementedError

    async def delete(self, connection: Connection) -> None:
        raise NotImplementedError


async def test_another_authenticator_is_asked_again_and_programs_need_no_origin() -> None:
    users = MemoryUsers()
    user = users.add("ada@example.org")
    auth, echo = HeaderAuth(users), Echo()
    name = (b"x-user", b"ada@example.org")
    peer = Peer(HOST, name)
    async with anyio.create_task_group() as group:
        group.start_soon(
            SessionAuthMiddleware(echo, auth, websocket_recheck=timedelta(seconds=SOON)),
            peer.scope,
            peer.receive,
            peer.send,
        )
        assert (await peer.next())["type"] == "websocket.accept"
        peer.say("hello")
        assert (await peer.next())["text"] == "hello"
        del users.rows[user.id]
        assert await peer.next() == ENDED
    peer.close()
    for more, expected in (
        ((b"origin", b"https://evil.example"), "websocket.close"),
        ((b"cookie", b"sso=1"), "websocket.close"),
        (ORIGIN, "websocket.accept"),
    ):
        peer = Peer(HOST, name, more)
        peer.leave()
        await SessionAuthMiddleware(Echo(), auth)(peer.scope, peer.receive, peer.send)
        peer.close()
        assert peer.sent[0]["type"] == expected


@pytest.mark.parametrize(
    "options",
    [{"origins": "https://one.example"}, {"origins": ["*"]}, {"origins": ["https://a.example/"]}]
    + [{"websocket_recheck": value} for value in (timedelta(0), timedelta(seconds=-1), 1, "1", None)],
)
async def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        SessionAuthMiddleware(Echo(), Chat().auth, **options)


# --- responses that last ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", WAYS, ids=lambda way: way.__name__)
async def test_trm_07_a_stream_of_events_asks_whether_the_user_is_still_signed_in(end: Any) -> None:
    chat = Chat()
    cookie = await chat.cookie()
    sent: list[Any] = []

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        auth = request_auth(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        assert await auth.recheck()
        assert auth.require_user().email == chat.user.email
        await end(chat)
        assert not await auth.recheck()
        assert auth.current_user is None
        assert not await auth.recheck()
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [HOST, cookie]}
    await SessionAuthMiddleware(stream, chat.auth)(scope, None, send)  # type: ignore[arg-type]
    assert len(sent) == 2


async def test_to_ask_again_in_an_outage_is_no_answer_and_nobody_is_nobody() -> None:
    chat = Chat()
    connection = FakeConnection()
    await chat.auth.call(connection)
    assert not await chat.auth.recheck(connection)
    _, value = await chat.cookie()
    connection = FakeConnection([value.decode()])
    await chat.auth.call(connection)
    chat.backend.fail["*"] = StoreUnavailable("down")
    with pytest.raises(StoreUnavailable):
        await chat.auth.recheck(connection)
    assert chat.auth.current_identity(connection) is not None
    connection = FakeConnection([value.decode()])
    await chat.auth.call(connection)
    chat.backend.fail.clear()
    with pytest.raises(StoreUnavailable):
        await chat.auth.recheck(connection)  # who it was at the start nobody knows


async def test_a_plain_handler_can_ask_too() -> None:
    chat = Chat()
    cookie = await chat.cookie()
    answers: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        bound: BlockingRequestAuth[Any, Any] = blocking_request_auth(scope)
        answers.append(await anyio.to_thread.run_sync(bound.recheck))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Any) -> None:
        del message

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [HOST, cookie]}
    await SessionAuthMiddleware(app, chat.auth)(scope, None, send)  # type: ignore[arg-type]
    assert answers == [True]
