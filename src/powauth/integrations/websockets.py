"""WebSockets: check the origin of a handshake, and close each socket when its session ends.

A browser sends cookies with a handshake, whichever site's page opens the socket, and no preflight protects it. So the
``Origin`` header, which browsers always send here (RFC 6455, section 4.1), must be the app's own or an allowed one.

An open socket sends no further id. So powauth reads its session again at an interval, and closes the socket when the
session has ended.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, Final
from weakref import WeakKeyDictionary

from powauth._extras import is_missing
from powauth._times import duration
from powauth.errors import Refused, StoreUnavailable
from powauth.http.answers import reason
from powauth.http.connection import Connection
from powauth.http.cross_site import CrossSiteDefence
from powauth.plug import Authenticator

try:
    import anyio
    from anyio.lowlevel import RunVar

    HAS_ANYIO = True
    _turns: RunVar[anyio.Semaphore] = RunVar("powauth socket reads")
except ImportError as error:  # frameworks without anyio run on asyncio
    if not is_missing(error, "anyio"):
        raise
    HAS_ANYIO = False

logger = logging.getLogger("powauth")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
Work = Callable[[], Coroutine[Any, Any, None]]

TRY_AGAIN_LATER: Final = 1013
"""The close code for an outage (IANA registry; RFC 6455, section 7.4)."""

POLICY_VIOLATION: Final = 1008
"""The close code for a refused client (RFC 6455, section 7.4.1). Before the end of the handshake it is a 403."""

INTERNAL_ERROR: Final = 1011
"""The close code for an error in the server (RFC 6455, section 7.4.1)."""

RECHECK: Final = timedelta(milliseconds=800)
"""The interval between two reads of a socket's session. With the read and the close, this stays within a second."""

READS_AT_ONCE: Final = 4
"""Sockets per event loop whose sessions are read at the same time. Requests need the other connections of the store's
pool. The pool of redis-py raises an error when it has no free connection."""

CLOSING_SECONDS: Final = 1.0
"""The longest time for which a close goes on after the app has returned, or the server has cancelled it."""

SECONDS_BETWEEN_NOTES: Final = 60.0
"""An outage concerns every open socket at every interval. powauth logs it once a minute."""


class SocketClosed(OSError):
    """The app sent a message on a socket whose session has ended.

    ASGI servers raise an `OSError` when a client has disconnected, so frameworks handle this error in the same way.
    """


class Sockets:
    """Serves the WebSockets of a middleware.

    Args:
        auth: the authenticator.
        origins: further origins whose pages may open sockets in the user's name. See `CrossSiteDefence`.
        recheck: the interval between two reads of an open socket's session.

    Raises:
        ConfigError: if an option is wrong.
    """

    def __init__(
        self, auth: Authenticator[Any, Any], origins: Sequence[str] = (), recheck: timedelta = RECHECK
    ) -> None:
        self.auth = auth
        self.defence = CrossSiteDefence(origins)
        self.interval = duration("websocket_recheck", recheck, at_least=1) / 1000
        self._silent_until = 0.0

    def admits(self, connection: Connection) -> bool:
        """Return whether a handshake is allowed: it presents no credential, or it comes from an allowed origin."""
        if not self.auth.is_presented(connection):
            return True
        origin = connection.header("origin")
        if origin is not None and self.defence.allows(connection, origin, secure=self.auth.secure):
            return True
        logger.warning(
            "refused a WebSocket with the user's cookie from the origin %.200r: to allow an origin, name it in the "
            "middleware's origins=[…]; in development on plain http, use CookieCarrier(insecure_http=True)",
            origin,
        )
        return False

    async def serve(
        self,
        app: ASGIApp,
        scope: MutableMapping[str, Any],
        connection: Connection,
        receive: Receive,
        send: Send,
    ) -> None:
        """Run the app on a socket, and close the socket when its session ends.

        An error of powauth that the app does not catch closes the socket: 1013 in an outage, 1008 for a refusal.
        """
        try:
            signed_in = self.auth.current_identity(connection) is not None
        except StoreUnavailable:
            signed_in = False
        socket = _Socket(self, connection, receive, send, watched=signed_in)

        async def run() -> None:
            try:
                await app(scope, socket.receive, socket.send)
            except SocketClosed:
                logger.debug("the app sent a message on a WebSocket whose session had ended")
            except StoreUnavailable:
                await socket.send({"type": "websocket.close", "code": TRY_AGAIN_LATER, "reason": "store unavailable"})
            except Refused as error:
                await socket.send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": reason(error)})

        await (_beside(run, socket.watch) if signed_in else run())

    def note_outage(self) -> None:
        """Log that sockets stay open although powauth cannot read their sessions."""
        now = time.monotonic()
        if now >= self._silent_until:
            self._silent_until = now + SECONDS_BETWEEN_NOTES
            logger.warning("the store is unreachable: open WebSockets stay open until their sessions expire")


class _Socket:
    """One socket: the app's ``receive`` and ``send``, which stop when its session ends."""

    __slots__ = ("_accepted", "_connection", "_ended", "_over", "_receive", "_send", "_sockets", "_watched")

    def __init__(
        self, sockets: Sockets, connection: Connection, receive: Receive, send: Send, *, watched: bool
    ) -> None:
        self._sockets = sockets
        self._connection = connection
        self._receive = receive
        self._send = send
        self._watched = watched
        self._accepted = False
        self._over = False  # the client or the app has closed it
        self._ended: Message | None = None  # the message with which powauth closes it

    async def receive(self) -> Message:
        if self._is_ended():
            return self._disconnect()
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            self._over = True
        elif message["type"] == "websocket.receive":
            await self._look_if_expired()
        return self._disconnect() if self._is_ended() else message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        await self._look_if_expired()
        if self._is_ended():
            await self._refuse(kind)
        elif kind == "websocket.accept":
            await self._send(message)
            self._accepted = True
            if self._is_ended():  # the session ended during the handshake
                await self._close()
                raise SocketClosed
        else:
            if kind == "websocket.close" or kind.startswith("websocket.http.response"):
                self._over = True
            await self._send(message)

    async def watch(self) -> None:
        """Read the session at the interval until the socket is closed."""
        # The first wait is random: sockets that reconnect all at once spread their reads.
        wait = self._sockets.interval * random.random()  # noqa: S311
        while not (self._over or self._is_ended()):
            await _sleep(wait)
            async with _turn():
                if not self._over:
                    await self._look()
            wait = self._sockets.interval

    async def _look_if_expired(self) -> None:
        # Between two reads the session can expire. Another process may have renewed it, so read it again.
        if self._watched and not self._over and self._sockets.auth.is_expired(self._connection):
            await self._look()

    async def _look(self) -> None:
        try:
            if await self._sockets.auth.recheck(self._connection):
                return
            code, text = POLICY_VIOLATION, "session ended"
        except StoreUnavailable:
            self._sockets.note_outage()
            if not self._sockets.auth.is_expired(self._connection):
                return
            code, text = TRY_AGAIN_LATER, "store unavailable"
        except Exception:
            logger.exception("cannot read the session of a WebSocket: the socket is closed")
            code, text = INTERNAL_ERROR, "internal error"
        if self._over or self._is_ended():
            return
        self._ended = {"type": "websocket.close", "code": code, "reason": text}
        if self._accepted:
            await _completed(self._close)  # the app may return as soon as it knows, and the client must know, too

    def _is_ended(self) -> bool:
        return self._ended is not None

    def _disconnect(self) -> Message:
        ended = self._ended or {}
        return {**ended, "type": "websocket.disconnect"}

    async def _refuse(self, kind: str) -> None:
        if not self._accepted and not self._over:
            self._over = True
            await self._close()
        if kind != "websocket.close":
            raise SocketClosed

    async def _close(self) -> None:
        try:
            await self._send(dict(self._ended or {}))
        except Exception:  # each server has its own error for a disconnected client
            logger.debug("could not send the close to a WebSocket whose session has ended", exc_info=True)


_turns_on_asyncio: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


def _turn() -> AbstractAsyncContextManager[object]:
    """Return the semaphore that limits the reads of the running event loop to `READS_AT_ONCE`."""
    if not HAS_ANYIO:
        return _turns_on_asyncio.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(READS_AT_ONCE))
    turns = _turns.get(None)
    if turns is None:
        turns = anyio.Semaphore(READS_AT_ONCE)
        _turns.set(turns)
    return turns


async def _sleep(seconds: float) -> None:
    await (anyio.sleep(seconds) if HAS_ANYIO else asyncio.sleep(seconds))


async def _completed(work: Work) -> None:
    """Run ``work``. A cancellation meanwhile takes effect when it has ended, or after `CLOSING_SECONDS`."""
    if HAS_ANYIO:
        with anyio.move_on_after(CLOSING_SECONDS, shield=True):
            await work()
        return
    task = asyncio.ensure_future(work())
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=CLOSING_SECONDS)
        raise


async def _beside(main: Work, other: Work) -> None:
    """Run ``main``, and ``other`` beside it until ``main`` ends. Raise the error of ``main`` unchanged."""
    if not HAS_ANYIO:
        task = asyncio.ensure_future(other())
        try:
            await main()
        finally:
            task.cancel()
            await asyncio.wait([task])
        return
    raised: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(other)
        try:
            await main()
        except Exception as error:  # the task group would wrap the error
            raised = error
        group.cancel_scope.cancel()
    if raised is not None:
        raise raised
