"""Pure ASGI: the middleware that fetches the current user, and carries the id back when the response starts."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeVar
from urllib.parse import quote, unquote

import msgspec

from powauth._extras import is_missing
from powauth.authenticator import Authenticator, Unreachable, known
from powauth.errors import ConfigError, PowauthError
from powauth.http.answers import Answers, OnError, chosen
from powauth.http.connection import (
    MISSING,
    NO_EFFECTS,
    PREFIX,
    Connection,
    ConnectionStruct,
    Later,
    States,
    with_effects,
)
from powauth.integrations._cors import warn_if_cors_is_inside
from powauth.integrations.websockets import POLICY_VIOLATION, RECHECK_SECONDS, Sockets
from powauth.request_auth import BlockingRequestAuth, RequestAuth
from powauth.sessions.store import Duration

if TYPE_CHECKING:
    from _collections_abc import dict_items, dict_values

try:
    import anyio
    import anyio.from_thread
    import anyio.to_thread
    from anyio.lowlevel import RunVar

    HAS_ANYIO = True
except ImportError as error:  # frameworks that do without it run on asyncio
    if not is_missing(error, "anyio"):
        raise
    HAS_ANYIO = False

T = TypeVar("T")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

SCOPE_KEY = "powauth"
"""Where in a scope what `request_auth` binds is, by ``current_user_key``: a `Bound` for each middleware."""

THREADS = 40
"""Worker threads at once, for each event loop. They are not those that plain handlers run in: a handler that waits for
one of its own kind, while all are taken by handlers that do the same, would wait for ever."""


SERVER_ERROR: Final = 500
"""The status of a response to an error that the app did not expect."""

MAX_HELD_BYTES: Final = 65_536
"""The longest body of status 500 that is held; error pages are shorter."""


class GuardedState(dict[str, Any]):
    """A scope's state in which the current user is made when it is looked up, or cannot be told.

    A handler that asks ``request.state.current_user is None`` must not be told "somebody is there" by an `Unreachable`:
    to look that up raises `StoreUnavailable`.
    """

    def __getitem__(self, key: str) -> Any:
        value = dict.__getitem__(self, key)
        kind = type(value)
        if kind is Later:
            value = self[key] = value.value()
        elif kind is Unreachable:
            known(value)
        return value

    def get(self, key: str, default: Any = None) -> Any:
        """See `dict.get`."""
        return self[key] if key in self else default  # noqa: SIM401 that would be this method

    def pop(self, key: str, *default: Any) -> Any:
        """See `dict.pop`."""
        value = super().pop(key, *default)
        return known(value.value() if type(value) is Later else value)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """See `dict.setdefault`."""
        return known(super().setdefault(key, default)) if key not in self else self[key]

    # Whoever looks at all of it at once, or copies it (``dict`` and ``**`` ask for the keys), gets the values.

    def __iter__(self) -> Iterator[str]:
        for key, value in [*super().items()]:
            if type(value) is Later:
                self[key] = value.value()
        return super().__iter__()

    def items(self) -> "dict_items[str, Any]":
        """See `dict.items`."""
        iter(self)
        return super().items()

    def values(self) -> "dict_values[str, Any]":
        """See `dict.values`."""
        iter(self)
        return super().values()

    def copy(self) -> "GuardedState":
        """See `dict.copy`."""
        return GuardedState(self.items())


class ASGIConnection(Connection, msgspec.Struct, metaclass=ConnectionStruct, eq=False):
    """An ASGI scope as the plug sees it."""

    scope: Scope
    states: States = msgspec.field(default_factory=dict)

    __repr__ = object.__repr__  # the scope holds secrets: error reporters keep what local variables look like

    def method(self) -> str:
        """See `Connection.method`."""
        method: str = self.scope.get("method", "GET")
        return method

    def target(self) -> str:
        """See `Connection.target`."""
        raw: bytes | None = self.scope.get("raw_path")
        # Some clients of tests put the query into it; in a path, a question mark is encoded.
        path = quote(self.scope["path"]) if raw is None else raw.partition(b"?")[0].decode("latin-1")
        root, plain = _deployed_at(self.scope), unquote(path)
        if root and plain != root and not plain.startswith(f"{root}/"):  # the server or a proxy has taken it off
            path = quote(root) + path
        query = self.scope.get("query_string", b"").decode("latin-1")
        return f"{path}?{query}" if query else path

    def prefix(self) -> str:
        """See `Connection.prefix`."""
        return quote(self.states.get(PREFIX, ""))

    def cookies(self) -> str:
        """See `Connection.cookies`."""
        found = b""
        for name, value in self.scope["headers"]:
            if name == b"cookie":
                found = b"%b; %b" % (found, value) if found else value
        return found.decode("latin-1")

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
        return self.scope.get("session")

    def assigned(self, key: str) -> object:
        """See `Connection.assigned`."""
        state = self.scope.get("state")
        if not state or key not in state:
            return MISSING
        value = dict.get(state, key)
        return state[key] if type(value) is Later else value

    def assign(self, key: str, value: object) -> None:
        """See `Connection.assign`."""
        state = self.scope.setdefault("state", {})
        if type(value) is Unreachable and type(state) is not GuardedState:
            state = self.scope["state"] = GuardedState(state)
        state[key] = value

    def assign_later(self, key: str, later: Later) -> None:
        """See `Connection.assign_later`.

        A state that an outer middleware holds on to (Starlette's ``request.state``, once touched) stays the plain one
        that it is: what is assigned here must be there, too.
        """
        state = self.scope.get("state")
        if state is None:
            guarded = self.scope["state"] = GuardedState()
            guarded[key] = later
        elif type(state) is GuardedState:  # another authenticator's work; a copy would look its user up
            state[key] = later
        elif _getrefcount(state) == _SCOPE_ALONE:
            guarded = self.scope["state"] = GuardedState(state)
            guarded[key] = later
        else:
            self.assign(key, later.value())


def _deployed_at(scope: Scope) -> str:
    """The ``root_path`` of the outermost app; Starlette's mounts make ``root_path`` longer, in this same scope."""
    root: str = scope.get("app_root_path", scope.get("root_path", ""))
    return root.rstrip("/")


_getrefcount = getattr(sys, "getrefcount", lambda _: -1)
"""Not every interpreter counts."""


def _count_alone() -> int:
    scope: Scope = {"state": {}}
    state = scope.get("state")
    return int(_getrefcount(state))


_SCOPE_ALONE = max(_count_alone(), 0)
"""What a state counts that only its scope, and one variable, hold; where nobody counts no state does."""


Bound = tuple["SessionAuthMiddleware", States]
"""What makes a `RequestAuth` of a scope: the middleware that has run, and what its authenticator remembers of it."""


class SessionAuthMiddleware:
    """Puts an authenticator in front of an ASGI app.

    The current user is in ``scope["state"]`` under the authenticator's ``current_user_key`` (Starlette:
    ``request.state.current_user``), and the request-bound object is what `request_auth` returns. A response that
    starts carries what there is to carry; a WebSocket's handshake cannot, and renews nothing. A powauth error that the
    app lets through is answered by `Answers`, if the response has not started.

    Args:
        app: the app behind it.
        auth: how to tell who a request is from.
        on_error: the app's own answers to powauth's errors; see `Answers`.
        sign_in_path: where people who must sign in are sent; see `Answers`.
        origins: further origins whose pages may open WebSockets in the user's name, such as ``"https://app.example"``.
        websocket_recheck: how often the session of an open WebSocket is read again; a number is seconds.

    Raises:
        ConfigError: if a part of the authenticator cannot work here, or an option is wrong.
    """

    connection_type: ClassVar[type[ASGIConnection]] = ASGIConnection

    def __init__(
        self,
        app: ASGIApp,
        auth: Authenticator[Any],
        *,
        on_error: OnError | None = None,
        sign_in_path: str | None = None,
        origins: Sequence[str] = (),
        websocket_recheck: Duration = RECHECK_SECONDS,
    ) -> None:
        if not isinstance(auth, Authenticator):
            raise ConfigError(f"auth must be an Authenticator, such as a SessionAuth, not {type(auth).__name__}")
        warn_if_cors_is_inside(app)
        self.app = app
        self.auth = auth.for_asgi(in_thread, users_in_thread)
        self.answers = Answers(on_error, sign_in_path)
        self.sockets = Sockets(self.auth, origins, websocket_recheck)
        self._connect = self.connection_type  # found at once, where the class would be searched

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        is_websocket = scope["type"] == "websocket"
        if not is_websocket and scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        auth = self.auth
        key = auth.current_user_key
        bound: dict[str, Bound] = scope.setdefault(SCOPE_KEY, {})
        if key in bound:
            auth.check_key_is_free(bound[key][0].auth)
            # The same authenticator again, in a sub-app: the outer one sees to everything.
            await self.app(scope, receive, send)
            return
        connect, app = self._connect, self.app  # see `Later.value`
        connection = connect(scope)
        if root := scope.get("root_path"):  # a mount inside of this middleware makes it longer
            connection.states[PREFIX] = root
        if is_websocket and not self.sockets.admits(connection):
            await send({"type": "websocket.close", "code": POLICY_VIOLATION, "reason": "cross_site_request"})
            return
        if not auth.call_at_once(connection):
            await auth.call(connection)
        scope = connection.scope
        bound[key] = (self, connection.states)
        if is_websocket:
            await self.sockets.serve(self.app, scope, connection, receive, send)
            return
        response = _Response(auth, connection, self.answers, send, send)
        try:
            await app(scope, receive, response.send)
        except PowauthError as error:
            if not await response.answer(error):
                await response.release()
                raise
        except Exception as error:
            if response.answered and isinstance(error.__cause__, PowauthError):
                return  # Litestar has an error of its own for one that comes after a response
            await response.release()
            raise
        else:
            if response.held is not None:
                await response.release()


class _Response(msgspec.Struct):
    """The way back of a request: what its app sends, with what the authenticator wants of it.

    A sub-app with its own error handling makes a response of status 500 out of an error of powauth's. Starlette and
    FastAPI then raise the error to the middleware outside, so the response is held until they have done so. Others
    only send it, while they handle the error. In both cases the client gets the answer to the error instead.

    Attributes:
        server: the server's ``send``.
        forward: where messages of the app go: to the server, to `held`, or nowhere.
        started: the server has got the start of a response.
        answered: that response was the answer to an error.
        held: the messages of a response of status 500.
    """

    auth: Authenticator[Any]
    connection: ASGIConnection
    answers: Answers
    server: Send
    forward: Send
    started: bool = False
    answered: bool = False
    held: list[Message] | None = None

    def send(self, message: Message) -> Awaitable[None]:
        forward = self.forward  # see `Later.value`
        if message["type"] == "http.response.start":
            if message["status"] == SERVER_ERROR and not self.started:
                return self._fail(message, sys.exception())
            if self.held is not None:  # the app has thought better of it
                self.held = None
                forward = self.forward = self.server
            self.started = True
            if self.auth.is_due(self.connection):
                return self._start(message)
            # In place, for what is added is no client's own: an app that sends one message to all may.
            message["headers"] = with_effects(message.get("headers", ()), NO_EFFECTS)
        return forward(message)

    async def _start(self, message: Message) -> None:
        effects = await self.auth.respond(self.connection, failed=message["status"] >= SERVER_ERROR)
        await self.server({**message, "headers": with_effects(message.get("headers", ()), effects)})

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
        """Send what is held."""
        held, self.held, self.forward = self.held, None, self.server
        for message in held or ():
            if message["type"] == "http.response.start":
                self.started = True
                await self._start(message)
            else:
                await self.server(message)

    async def answer(self, error: PowauthError) -> bool:
        """Send the answer to an error instead of the app's response; whether the client has got one."""
        if self.started:
            return self.answered
        answer = chosen(answers_in(self.connection.scope), error, self.answers)(error, self.connection)
        if answer is None:
            return False
        self.held, self.forward, self.started, self.answered = None, _discard, True, True
        headers = with_effects(answer.headers, await self.auth.respond(self.connection, failed=True))
        await self.server({"type": "http.response.start", "status": answer.status, "headers": headers})
        await self.server({"type": "http.response.body", "body": answer.body})
        return True


async def _discard(message: Message) -> None:
    del message


def request_auth(scope: Scope, current_user_key: str = "current_user") -> RequestAuth[Any]:
    """The request-bound object of a scope that the middleware has seen.

    Raises:
        ConfigError: if no middleware with that ``current_user_key`` has run: so a protected route refuses.
    """
    bound: Bound | None = scope.get(SCOPE_KEY, {}).get(current_user_key)
    if bound is None:
        raise ConfigError(f"no SessionAuthMiddleware has run for {current_user_key!r}: add it to the app")
    middleware, states = bound
    return RequestAuth(middleware.auth, middleware.connection_type(scope, states), whole)


def answers_in(scope: Scope) -> dict[str, Answers]:
    """The `Answers` of each middleware that has run, by its ``current_user_key``."""
    bound: dict[str, Bound] = scope.get(SCOPE_KEY, {})
    return {key: middleware.answers for key, (middleware, _) in bound.items()}


def connection_of(scope: Scope) -> ASGIConnection:
    """The connection of a scope, with the states that a middleware which has run keeps of it."""
    bound: dict[str, Bound] = scope.get(SCOPE_KEY, {})
    return ASGIConnection(scope, *(states for _, states in [*bound.values()][:1]))


def blocking_request_auth(scope: Scope, current_user_key: str = "current_user") -> BlockingRequestAuth[Any]:
    """`request_auth` for a plain function that the framework runs in a worker thread of anyio's.

    Raises:
        ConfigError: as `request_auth` does; and without anyio.
    """
    if not HAS_ANYIO:
        raise ConfigError("handlers that are plain functions need anyio: pip install anyio")
    return BlockingRequestAuth(request_auth(scope, current_user_key), _run_from_thread)


def _run_from_thread(coroutine: Coroutine[Any, Any, T]) -> T:
    async def run() -> T:
        return await coroutine

    try:
        return anyio.from_thread.run(run)
    finally:
        coroutine.close()  # it has not run where this is not a thread of anyio's


_unfinished: set[asyncio.Future[Any]] = set()
"""The event loop itself holds its tasks weakly."""


async def whole(coroutine: Coroutine[Any, Any, T]) -> T:
    """Await ``coroutine``, and let it go on to its end if that is cancelled, on whichever event loop is running."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # trio's
        with anyio.CancelScope(shield=True):
            return await coroutine
    # A task of its own is out of reach of a scope of anyio's and of `Task.cancel` alike.
    task = asyncio.ensure_future(coroutine)
    _unfinished.add(task)
    task.add_done_callback(_unfinished.discard)
    return await asyncio.shield(task)


class WorkerThreads:
    """Threads for what blocks, at most `THREADS` at once on each event loop; others than those of plain handlers."""

    def __init__(self, name: str) -> None:
        self._limiter: Any = RunVar(f"powauth {name}") if HAS_ANYIO else None

    async def __call__(self, function: Callable[[], T], /) -> T:
        """Run ``function`` in one of them, for whichever event loop is running."""
        if not HAS_ANYIO:
            return await asyncio.to_thread(function)
        limiter = self._limiter.get(None)
        if limiter is None:
            limiter = anyio.CapacityLimiter(THREADS)
            self._limiter.set(limiter)
        return await anyio.to_thread.run_sync(function, limiter=limiter)


in_thread = WorkerThreads("store")
"""Where a store that blocks is read and written."""

users_in_thread = WorkerThreads("users")
"""Where a users context that blocks works: sign-ins that wait for a password's hash keep no sign-out waiting."""
