"""Pure ASGI: the middleware that fetches the current user, and sends the id back when the response starts."""

import sys
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar, Final, TypeVar, cast, overload
from urllib.parse import quote, unquote

import msgspec

from powauth._extras import is_missing
from powauth._options import instance
from powauth.accounts.base import U
from powauth.accounts.identity import I
from powauth.errors import ConfigError, PowauthError, StoreUnavailable
from powauth.http.answers import CLIENT_ERROR, Answers, OnError
from powauth.http.connection import (
    MISSING,
    PREFIX,
    Connection,
    ConnectionStruct,
    Credentials,
    States,
    Vary,
    vary_on,
    with_effects,
    with_vary,
)
from powauth.http.unreachable import StateInOutage, Unreachable
from powauth.http.visit import HOLDER_KEY, Bound, Visit, Visits, bound_in, check_places
from powauth.integrations._cors import warn_if_cors_is_inside
from powauth.integrations._finding import authenticators_of
from powauth.integrations._framework_sessions import OUTER_APP, is_of_starlette
from powauth.integrations._routes import path_of_route
from powauth.integrations.websockets import POLICY_VIOLATION, RECHECK, Sockets
from powauth.plug import Authenticator, current_user_key_of
from powauth.request_auth import BlockingRequestAuth, RequestAuth

try:
    import anyio.from_thread

    HAS_ANYIO = True
except ImportError as error:  # frameworks without anyio run on asyncio
    if not is_missing(error, "anyio"):
        raise
    HAS_ANYIO = False

T = TypeVar("T")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

SERVER_ERROR: Final = 500
"""The status of a response to an error that the app did not expect."""

MAX_HELD_BYTES: Final = 65_536
"""The longest body of status 500 that is held. Error pages are shorter."""

OWNER_KEY: Final = "powauth_request"
"""The key in a scope's state that marks it as the state of one request. Its value is what that request has bound."""


class ASGIConnection(Connection, msgspec.Struct, metaclass=ConnectionStruct, eq=False):
    """An ASGI scope as the plug sees it."""

    scope: Scope
    states: States = msgspec.field(default_factory=dict)

    __repr__ = object.__repr__  # the scope holds secrets: error reporters record the repr of local variables

    def method(self) -> str:
        """See `Connection.method`."""
        method: str = self.scope.get("method", "GET")
        return method

    def target(self) -> str:
        """See `Connection.target`."""
        raw: bytes | None = self.scope.get("raw_path")
        # Some test clients include the query. In a path, a question mark is encoded.
        path = quote(self.scope["path"]) if raw is None else raw.partition(b"?")[0].decode("latin-1")
        root, plain = _deployed_at(self.scope), unquote(path)
        if root and plain != root and not plain.startswith(f"{root}/"):  # the server or a proxy has removed it
            path = quote(root) + path
        query = self.scope.get("query_string", b"").decode("latin-1")
        return f"{path}?{query}" if query else path

    def prefix(self) -> str:
        """See `Connection.prefix`."""
        return quote(self.states.get(PREFIX, ""))

    def cookies(self) -> str:
        """See `Connection.cookies`."""
        return self.credentials()[0]

    def credentials(self) -> Credentials:
        """See `Connection.credentials`."""
        cookies = b""
        authorization: bytes | None = None
        for name, value in self.scope["headers"]:
            if name == b"cookie":
                cookies = b"%b; %b" % (cookies, value) if cookies else value
            elif name == b"authorization":
                authorization = value if authorization is None else b"%b, %b" % (authorization, value)
        return cookies.decode("latin-1"), None if authorization is None else authorization.decode("latin-1")

    def header(self, name: str) -> str | None:
        """See `Connection.header`."""
        wanted = name.encode("ascii")
        found: bytes | None = None
        for header, value in self.scope["headers"]:
            if header == wanted:
                found = value if found is None else b"%b, %b" % (found, value)
        return None if found is None else found.decode("latin-1")

    def client_ip(self) -> str | None:
        """See `Connection.client_ip`."""
        client = self.scope.get("client")
        return None if client is None else client[0]

    def session(self) -> MutableMapping[str, Any] | None:
        """See `Connection.session`."""
        session: MutableMapping[str, Any] | None = self.scope.get("session")
        if type(session) is dict:
            self.states.setdefault(OUTER_APP, self.scope.get("app"))  # a mounted app replaces it in the scope later
        return session

    def renew_session(self) -> bool:
        """See `Connection.renew_session`. Starlette's own session is in the cookie. That of starsessions has an id."""
        handler = self.scope.get("session_handler")
        if handler is not None and hasattr(handler, "regenerate_id"):
            handler.regenerate_id()
            return True
        return is_of_starlette(self.scope.get("session"), self.states.get(OUTER_APP))

    def assigned(self, key: str) -> object:
        """See `Connection.assigned`."""
        state = self.scope.get("state")
        try:
            if state is not None and key in state:
                return state[key]
        except StoreUnavailable:
            return self.states[key]
        return self.states.get(key, MISSING) if self.states else MISSING  # nothing is kept yet when a request begins

    def assign(self, key: str, value: object) -> None:
        """See `Connection.assign`."""
        state = self.scope.get("state")
        if state is None:
            self.scope["state"] = {key: value}
        else:
            state[key] = value

    def assign_unreachable(self, key: str, unreachable: Unreachable) -> None:
        """See `Connection.assign_unreachable`.

        The scope's state gets no value. With one, a handler that tests ``state["current_user"] is None`` would conclude
        that somebody is signed in. Reading the key raises `StoreUnavailable` instead.
        """
        self.states[key] = unreachable
        self.scope["state"] = StateInOutage.of(self.scope.get("state", {}), key, unreachable)


def _deployed_at(scope: Scope) -> str:
    """Return the ``root_path`` of the outermost app. Starlette's mounts extend it in the same scope."""
    root: str = scope.get("app_root_path", scope.get("root_path", ""))
    return root.rstrip("/")


class SessionAuthMiddleware:
    """Puts an authenticator in front of an ASGI app.

    The current user is in ``scope["state"]`` under the authenticator's ``current_user_key`` (Starlette:
    ``request.state.current_user``). `request_auth` returns the request-bound object. powauth adds an id to a response
    when it starts. The handshake of a WebSocket cannot carry an id, so it renews nothing. If the app does not handle a
    powauth error, `Answers` answers it, unless the response has started.

    Args:
        app: the app behind it.
        auth: the authenticator.
        on_error: the app's own answers to powauth's errors; see `Answers`.
        sign_in_path: the path of the sign-in page; see `Answers`.
        sign_in_endpoint: the name of the sign-in page's route in a Starlette or FastAPI app, instead of
            ``sign_in_path``. powauth looks it up when the app makes its middleware: before it serves the first request.
        origins: further origins whose pages may open WebSockets in the user's name, such as ``"https://app.example"``.
        websocket_recheck: the interval at which the session of an open WebSocket is read again.

    Raises:
        ConfigError: if a part of the authenticator cannot work here, ``app`` has an authenticator with the same
            ``session_key``, or an option is wrong.
    """

    connection_type: ClassVar[type[ASGIConnection]] = ASGIConnection

    def __init__(
        self,
        app: ASGIApp,
        auth: Authenticator[Any, Any],
        *,
        on_error: OnError | None = None,
        sign_in_path: str | None = None,
        sign_in_endpoint: str | None = None,
        origins: Sequence[str] = (),
        websocket_recheck: timedelta = RECHECK,
    ) -> None:
        instance("auth", auth, Authenticator, "an Authenticator, such as a SessionAuth")
        auth.check_asgi()
        warn_if_cors_is_inside(app)
        check_places(auth, authenticators_of(app))
        self.app = app
        self.auth = auth
        answers = self._answers(app, on_error, sign_in_path, sign_in_endpoint)
        self.sockets = Sockets(auth, origins, websocket_recheck)
        self.visits = Visits(auth, self.connection_type, answers)
        self._vary = vary_on(auth.vary)
        self.answers = self.visits.answers

    def _answers(
        self, app: ASGIApp, on_error: OnError | None, sign_in_path: str | None, sign_in_endpoint: str | None
    ) -> Answers:
        if sign_in_endpoint is None or sign_in_path is not None:
            return Answers(on_error, sign_in_path, sign_in_endpoint=sign_in_endpoint)
        return Answers(on_error, path_of_route(app, sign_in_endpoint))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        kind = scope["type"]
        visit = self.visits.enter(scope) if kind in ("http", "websocket") else None
        if visit is None:  # the server's lifespan, or a sub-app whose outer middleware has the same authenticator
            await self.app(scope, receive, send)
            return
        state = scope.get("state")
        if state is not None and state.setdefault(OWNER_KEY, scope[HOLDER_KEY]) is not scope[HOLDER_KEY]:
            _leave_shared_state(scope)
        if root := scope.get("root_path"):  # a mount inside this middleware extends it later
            visit.connection.states[PREFIX] = root
        if kind == "websocket":
            await self._serve_socket(visit, receive, send)
            return
        if not self.auth.call_at_once(visit.connection):
            scope = await self._begun(visit)
        response = _Response(visit, self._vary, send, send)
        try:
            await self.app(scope, receive, response.send)
        except PowauthError as error:
            if not await response.answer(error):
                await response.release()
                raise
        except Exception as error:
            if response.answered and isinstance(error.__cause__, PowauthError):
                return  # Litestar raises its own error for one that follows a response
            await response.release()
            raise
        else:
            if response.held is not None:
                await response.release()

    async def _serve_socket(self, visit: Visit, receive: Receive, send: Send) -> None:
        connection = cast("ASGIConnection", visit.connection)
        if not self.sockets.admits(connection):
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": "cross_site_request"})
            return
        scope = connection.scope if self.auth.call_at_once(connection) else await self._begun(visit)
        await self.sockets.serve(self.app, scope, connection, receive, send)

    @staticmethod
    async def _begun(visit: Visit) -> Scope:
        """Begin a visit, and return its scope. In an outage the connection may have made another one."""
        await visit.begin()
        return cast("ASGIConnection", visit.connection).scope


class _Response(msgspec.Struct):
    """The response of an app, with the additions of the authenticator.

    A sub-app with its own error handling turns a powauth error into a response of status 500. Starlette and FastAPI
    then raise the error to the middleware outside, so the response is held until they have done so. Other frameworks
    only send the response while they handle the error. In both cases the client gets powauth's answer instead.

    Attributes:
        visit: the request.
        vary: the headers ``Vary`` for the request headers that identify the user.
        server: the server's ``send``.
        forward: where messages of the app go: to the server, to `held`, or nowhere.
        started: the server has received the start of a response.
        answered: that response was the answer to an error.
        held: the messages of a response of status 500.
    """

    visit: Visit
    vary: Vary
    server: Send
    forward: Send
    started: bool = False
    answered: bool = False
    held: list[Message] | None = None

    __repr__ = object.__repr__  # error reporters record the repr of local variables

    def send(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            if message["status"] == SERVER_ERROR and not self.started:
                return self._fail(message, sys.exception())
            if self.held is not None:  # the app sends another response instead
                self.held, self.forward = None, self.server
            self.started = True
            visit = self.visit
            if visit.auth.is_due(visit.connection):
                return self._start(message)
            # Change the message in place: the added headers are the same for every client.
            message["headers"] = with_vary(message.get("headers", ()), self.vary)
        return self.forward(message)

    async def _start(self, message: Message) -> None:
        effects = await self.visit.effects(failed=message["status"] >= SERVER_ERROR)
        await self.server({**message, "headers": with_effects(message.get("headers", ()), effects, self.vary)})

    async def _fail(self, message: Message, handled: BaseException | None) -> None:
        if not (isinstance(handled, PowauthError) and await self.answer(handled)):
            self.held = [message]
            self.forward = self._hold

    async def _hold(self, message: Message) -> None:
        held = self.held = [*(self.held or ()), message]
        size = sum(len(part.get("body", b"")) for part in held)
        if message["type"] != "http.response.body" or size > MAX_HELD_BYTES:
            await self.release()

    async def release(self) -> None:
        """Send the held messages."""
        held, self.held, self.forward = self.held, None, self.server
        for message in held or ():
            if message["type"] == "http.response.start":
                self.started = True
                await self._start(message)
            else:
                await self.server(message)

    async def answer(self, error: PowauthError) -> bool:
        """Send the answer to an error instead of the app's response. Return whether the client gets one."""
        if self.started:
            return self.answered
        answer = self.visit.answer(error)
        if answer is None:
            return False
        self.held, self.forward, self.started, self.answered = None, _discard, True, True
        effects = await self.visit.effects(failed=answer.status >= CLIENT_ERROR)
        headers = with_effects(answer.headers, effects, self.vary)
        await self.server({"type": "http.response.start", "status": answer.status, "headers": headers})
        await self.server({"type": "http.response.body", "body": answer.body})
        return True


def _leave_shared_state(scope: Scope) -> None:
    """Give a request a state of its own, without the user of another request that has the same state.

    A server copies the state of the lifespan for each request (ASGI, "Lifespan Protocol", section "Lifespan State").
    Hypercorn 0.17 copies it once for each connection, and a proxy sends the requests of many clients over one.
    """
    others = scope["state"][OWNER_KEY]
    scope["state"] = {key: value for key, value in scope["state"].items() if key not in others}
    scope["state"][OWNER_KEY] = scope[HOLDER_KEY]


async def _discard(message: Message) -> None:
    del message


def connection_of(scope: Scope) -> ASGIConnection:
    """Return the connection of a scope, with the states of a middleware that has run."""
    bound: dict[str, Bound] = scope.get(HOLDER_KEY, {})
    return ASGIConnection(scope, *(states for _, states in [*bound.values()][:1]))


@overload
def request_auth(scope: Scope, auth: Authenticator[U, I], /) -> RequestAuth[U, I]: ...


@overload
def request_auth(scope: Scope, current_user_key: str = ...) -> RequestAuth[Any, Any]: ...


def request_auth(
    scope: Scope, current_user_key: str | Authenticator[Any, Any] = "current_user"
) -> RequestAuth[Any, Any]:
    """Return the request-bound object of a scope that the middleware has seen.

    Args:
        scope: the scope of the request.
        current_user_key: selects the authenticator if there are several. If you pass the authenticator itself, type
            checkers know its types.

    Raises:
        ConfigError: if no middleware with that ``current_user_key`` has run. A protected route then serves nobody.
    """
    visits, states = bound_in(scope, current_user_key_of(current_user_key), "add it to the app")
    return RequestAuth(visits.auth, visits.connect(scope, states))


@overload
def blocking_request_auth(scope: Scope, auth: Authenticator[U, I], /) -> BlockingRequestAuth[U, I]: ...


@overload
def blocking_request_auth(scope: Scope, current_user_key: str = ...) -> BlockingRequestAuth[Any, Any]: ...


def blocking_request_auth(
    scope: Scope, current_user_key: str | Authenticator[Any, Any] = "current_user"
) -> BlockingRequestAuth[Any, Any]:
    """Return the request-bound object for a plain function that the framework runs in an anyio worker thread.

    Raises:
        ConfigError: as `request_auth` does, and if anyio is not installed.
    """
    if not HAS_ANYIO:
        raise ConfigError("handlers that are plain functions need anyio: pip install anyio")
    return BlockingRequestAuth(request_auth(scope, current_user_key_of(current_user_key)), _run_from_thread)


def _run_from_thread(coroutine: Coroutine[Any, Any, T]) -> T:
    async def run() -> T:
        return await coroutine

    try:
        return anyio.from_thread.run(run)
    finally:
        coroutine.close()  # it did not run if this is not an anyio thread
