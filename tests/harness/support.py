"""Shared parts of many tests: a manual clock, users in a dict, a counting backend, and a browser for ASGI and WSGI."""

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.cookies import SimpleCookie
from io import BytesIO
from typing import Any, ClassVar, Literal, TypeVar

import msgspec

from powauth import Account, SessionAuth, UsersContext
from powauth.accounts.identity import Key
from powauth.backends.base import (
    Backend,
    CountsEpochs,
    Millis,
    Mode,
    PerProcess,
    ReadsInPlace,
    ServesCopies,
    WouldWaitError,
    drive,
)
from powauth.backends.wrapping import BackendWrapper
from powauth.errors import InvalidParams, Overtaken
from powauth.http.connection import MISSING, Connection
from powauth.integrations import asgi, wsgi

T = TypeVar("T")

SECRET = "Wq9Zx7rT4yUj1aSdPkLmB6eHgQoIi83N2fC5cN0v"
OTHER_SECRET = "z0YqUO3cTn5bWvD8kRrE2xJ7hGfLs4MpAi6Vd1Xt"
START = 1_900_000_000.0


class Clock:
    """A clock that moves when told to; seconds since the epoch."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass(frozen=True)
class User:
    """A row of these tests' users."""

    id: str
    email: str
    password_hash: str = field(repr=False, default="")
    name: str = ""
    locked: bool = False


class Me(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of these tests."""

    id: str
    email: str
    name: str = ""
    locked: bool = False


def cheap_hash(password: str) -> str:
    """For tests of sessions only; `powauth.accounts.passwords` is tested on its own."""
    return hashlib.sha256(password.encode()).hexdigest()


def account_of(user: User) -> Account[Me]:
    """The account of a row."""
    return Account(
        key=user.id,
        identity=Me(id=user.id, email=user.email, name=user.name, locked=user.locked),
        proof=f"{user.email} {user.password_hash}".encode(),
        active=not user.locked,
    )


class MemoryUsers(UsersContext[User, Me]):
    """A users context in a dict. Counts what would be queries."""

    identity = Me

    def __init__(self, mode: Mode = "inline") -> None:
        self.mode: Mode = mode
        self.rows: dict[str, User] = {}
        self.queries = 0

    async def _query(self) -> None:
        self.queries += 1

    def add(self, email: str, password: str = "correct horse", **fields: Any) -> User:
        user = User(secrets.token_hex(8), email, cheap_hash(password), **fields)
        self.rows[user.id] = user
        return user

    def key_of(self, subject: object) -> Key | None:
        return subject.id if isinstance(subject, User) else super().key_of(subject)

    async def authenticate(self, params: Mapping[str, object]) -> Account[Me] | None:
        await self._query()
        for user in list(self.rows.values()):
            if user.email == params.get("email"):
                proven = user.password_hash == cheap_hash(str(params.get("password")))
                return account_of(user) if proven and not user.locked else None
        return None

    async def create(self, params: Mapping[str, object]) -> Account[Me]:
        await self._query()
        email, password = params.get("email"), params.get("password")
        if not isinstance(email, str) or any(user.email == email for user in self.rows.values()):
            raise InvalidParams({"email": ["has already been taken"]})
        return account_of(self.add(email, str(password), name=str(params.get("name", ""))))

    async def update(
        self, key: Key, params: Mapping[str, object], *, trusted: bool = False, proof: bytes | None = None
    ) -> Account[Me]:
        await self._query()
        row = self.rows.get(str(key))
        if row is None:
            raise InvalidParams({"base": ["no longer exists"]})
        if proof is not None and not (account_of(row).proof == proof and not row.locked):
            raise Overtaken
        if not trusted and row.password_hash != cheap_hash(str(params.get("current_password"))):
            raise InvalidParams({"current_password": ["is wrong"]})
        changes: dict[str, Any] = {name: params[name] for name in ("email", "name", "locked") if name in params}
        if "password" in params:
            changes["password_hash"] = cheap_hash(str(params["password"]))
        self.rows[row.id] = replace(row, **changes)
        return account_of(self.rows[row.id])

    async def delete(self, key: Key, params: Mapping[str, object] | None = None) -> bool:
        await self._query()
        row = self.rows.get(str(key))
        if params is not None and row and row.password_hash != cheap_hash(str(params.get("current_password"))):
            raise InvalidParams({"current_password": ["is wrong"]})
        return self.rows.pop(str(key), None) is not None

    async def get(self, key: Key) -> Account[Me] | None:
        await self._query()
        row = self.rows.get(str(key))
        return None if row is None else account_of(row)

    async def find(self, user_id: object) -> Account[Me] | None:
        await self._query()
        return next((account_of(user) for user in self.rows.values() if user.email == user_id), None)

    def validate(self, params: Mapping[str, object], identity: Me | None = None) -> Mapping[str, list[str]]:
        del identity
        return {} if params.get("email") else {"email": ["can't be blank"]}


class CountingBackend(BackendWrapper):
    """A backend that counts verbs, and can be told to fail or to run something before a verb."""

    # No transactions: each change is a verb that counts.
    abilities: ClassVar[tuple[type, ...]] = (ReadsInPlace, ServesCopies, CountsEpochs, PerProcess)

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.mode = inner.mode
        self.calls: list[str] = []
        self.fail: dict[str, Exception] = {}
        self.before: Callable[[str], Awaitable[None]] | None = None

    def here(self) -> Backend:
        return self.inner

    async def ask(self, verb: str, call: Callable[[Backend], Coroutine[Any, Any, T]]) -> T:
        if verb != "close":
            await self._enter({"get_fresh": "get", "latest_epoch": "epoch"}.get(verb, verb))
        return await call(self.inner)

    async def _enter(self, verb: str) -> None:
        self.calls.append(verb)
        if self.before is not None:
            await self.before(verb)
        error = self.fail.get(verb, self.fail.get("*"))
        if error is not None:
            raise error

    @contextmanager
    def counting(self) -> Iterator[list[str]]:
        """The verbs called within the block."""
        seen: list[str] = []
        start = len(self.calls)
        try:
            yield seen
        finally:
            seen.extend(self.calls[start:])

    def peek(self, key: bytes, now: Millis) -> object:
        if self.fail or self.before is not None:  # those belong to `get`
            raise WouldWaitError
        assert isinstance(self.inner, ReadsInPlace)
        seen = self.inner.peek(key, now)
        self.calls.append("get")
        return seen


class FakeConnection(Connection):
    """A request and response without a server: for tests of the core."""

    def __init__(self, cookies: list[str] | None = None, **headers: str) -> None:
        self.states = {}
        self.cookie_fields = cookies or []
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.assigns: dict[str, object] = {}
        self.framework_session: dict[str, Any] | None = None
        self.ip: str | None = "192.0.2.1"

    def method(self) -> str:
        return "GET"

    def target(self) -> str:
        return "/"

    def cookies(self) -> str:
        return "; ".join(self.cookie_fields)

    def header(self, name: str) -> str | None:
        return self.headers.get(name)

    def client_ip(self) -> str | None:
        return self.ip

    def session(self) -> dict[str, Any] | None:
        return self.framework_session

    def renew_session(self) -> bool:
        return True

    def assigned(self, key: str) -> object:
        return self.assigns.get(key, MISSING)

    def assign(self, key: str, value: object) -> None:
        self.assigns[key] = value


@dataclass
class Response:
    """What a `Browser` got."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """All values of a header, joined."""
        values = [value for header, value in self.headers if header.lower() == name.lower()]
        return ", ".join(values) if values else None

    @property
    def set_cookies(self) -> list[str]:
        return [value for name, value in self.headers if name.lower() == "set-cookie"]

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


Kind = Literal["asgi", "wsgi"]
Handler = Callable[[Any], Awaitable[object]]
"""A handler of the small app: takes the `App` request below, and gives what goes into the JSON body."""


@dataclass
class Request:
    """What a handler of `make_app` gets: the request-bound object behind one face for ASGI and WSGI."""

    path: str
    bound: Any
    kind: Kind

    async def call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call an operation of the request-bound object, awaited where it is a coroutine."""
        result = getattr(self.bound, name)(*args, **kwargs)
        return await result if self.kind == "asgi" else result

    @property
    def user(self) -> Any:
        return self.bound.current_user


def make_app(kind: Kind, auth: SessionAuth[Any, Any], handlers: Mapping[str, Handler]) -> Any:
    """An app of one middleware and some handlers, by path; ``/`` tells the current user's e-mail."""

    async def index(request: Request) -> object:
        return {"user": request.user.email if request.user is not None else None}

    async def private(request: Request) -> object:
        return {"user": request.bound.require_user().email}

    routes: dict[str, Handler] = {"/": index, "/private": private, **handlers}
    key = auth.current_user_key
    if kind == "asgi":

        async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
            del receive
            body = msgspec.json.encode(
                await routes[scope["path"]](Request(scope["path"], asgi.request_auth(scope, key), kind))
            )
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": body})

        return asgi.SessionAuthMiddleware(asgi_app, auth)

    def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
        request = Request(environ["PATH_INFO"], wsgi.request_auth(environ, key), kind)
        body = msgspec.json.encode(drive(_run(routes[request.path], request)))
        start_response("200 OK", [("Content-Type", "application/json")])
        return [body]

    return wsgi.SessionAuthMiddleware(wsgi_app, auth)


async def _run(handler: Handler, request: Request) -> object:
    return await handler(request)


class Browser:
    """A client with a cookie jar for one app of `make_app`."""

    def __init__(self, app: Any, kind: Kind, jar: dict[str, str] | None = None) -> None:
        self.app = app
        self.kind = kind
        self.jar: dict[str, str] = {} if jar is None else jar

    def copy(self) -> "Browser":
        """Another client with the same cookies: a thief, or a second tab's stale request."""
        return Browser(self.app, self.kind, dict(self.jar))

    def get(self, path: str = "/", *, keep_cookies: bool = True, **headers: str) -> Response:
        response = self.send(path, self.cookie_header(), headers)
        if keep_cookies:
            self.take(response)
        return response

    def cookie_header(self) -> str | None:
        return "; ".join(f"{name}={value}" for name, value in self.jar.items()) or None

    def take(self, response: Response) -> None:
        """Keep the response's cookies, as a browser does."""
        for line in response.set_cookies:
            for name, morsel in SimpleCookie(line).items():
                if morsel["max-age"] == "0":
                    self.jar.pop(name, None)
                else:
                    self.jar[name] = morsel.value

    def send(self, path: str, cookie: str | None, headers: Mapping[str, str]) -> Response:
        if self.kind == "asgi":
            return asyncio.run(self.send_asgi(path, cookie, headers))
        return self._send_wsgi(path, cookie, headers)

    async def send_asgi(self, path: str, cookie: str | None, headers: Mapping[str, str]) -> Response:
        raw = [(name.lower().replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
        if cookie is not None:
            raw.append((b"cookie", cookie.encode("latin-1")))
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": b"",
            "headers": raw,
            "client": ("192.0.2.1", 1),
        }
        await self.app(scope, receive, send)
        start = sent[0]
        found = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]]
        return Response(start["status"], found, b"".join(message.get("body", b"") for message in sent[1:]))

    def _send_wsgi(self, path: str, cookie: str | None, headers: Mapping[str, str]) -> Response:
        environ: dict[str, Any] = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": path,
            "QUERY_STRING": "",
            "REMOTE_ADDR": "192.0.2.1",
            "wsgi.input": BytesIO(),
        }
        environ.update({f"HTTP_{name.upper().replace('-', '_')}": value for name, value in headers.items()})
        if cookie is not None:
            environ["HTTP_COOKIE"] = cookie
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status: str, found: list[tuple[str, str]], exc_info: Any = None) -> None:
            del exc_info
            started.append((status, found))

        body = b"".join(self.app(environ, start_response))
        status, found = started[-1]
        return Response(int(status.split()[0]), found, body)
