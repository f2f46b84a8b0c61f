"""Shared parts of the tests over HTTP: a site whose handlers a test defines, and functions that read its store."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx

from harness.core_support import BACKENDS, KINDS, Site, open_backend
from harness.support import Browser, Clock, CountingBackend, Kind, MemoryUsers, Request, Response, User, make_app
from powauth import CredentialsCache
from powauth.backends.base import Backend, drive
from powauth.backends.lmdb import LMDBBackend
from powauth.backends.memory import MemoryBackend
from powauth.integrations import asgi, wsgi
from powauth.sessions.record import Session
from powauth.sessions.store import Stored

T = TypeVar("T")

COMBINATIONS = [(kind, name) for kind in KINDS for name in BACKENDS]
COMBINATION_IDS = [f"{kind}-{name}" for kind, name in COMBINATIONS]

Work = Callable[[Request], Awaitable[object]]


class App(Site):
    """A `Site` with two more paths: ``/do`` runs `do`, and ``/slow`` runs `during` before its response starts."""

    def __init__(self, backend: Backend, kind: Kind, **options: Any) -> None:
        super().__init__(backend, kind, **options)
        self.do: Work
        self.during: Callable[[], object]
        handlers = {"/login": self._login, "/logout": self._logout, "/do": self._do, "/slow": self._slow}
        self.app = make_app(kind, self.auth, handlers)
        inner = self.backend.inner
        # A handler of an ASGI app looks as well, and cannot await it where `look` is driven.
        waiting: Backend = getattr(inner, "waiting", inner)
        self.look = CredentialsCache(MemoryBackend(), namespace=self.auth.store.namespace)
        self.look.backend = waiting

    async def _do(self, request: Request) -> object:
        return await self.do(request)

    async def _slow(self, request: Request) -> object:
        if self.kind == "asgi":
            await asyncio.to_thread(self.during)
        else:
            self.during()
        return {"user": request.user.email if request.user is not None else None}

    @property
    def stored(self) -> list[Stored]:
        """All live sessions of the user, newest first."""
        return drive(self.look.sessions(self.user.id, self.auth.now()))

    @property
    def session(self) -> Session:
        """The user's one session."""
        (stored,) = self.stored
        return stored.session

    @property
    def count(self) -> int:
        return drive(self.look.count(self.auth.now()))

    def settle(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the authenticator where the app would: on an event loop, or without one."""
        return asyncio.run(coroutine) if self.kind == "asgi" else drive(coroutine)

    def visit(self, browser: Browser, path: str = "/", **options: Any) -> tuple[Response, list[str]]:
        """The response, and the backend's verbs that it took."""
        with self.backend.counting() as verbs:
            response = browser.get(path, **options)
        return response, verbs

    def run(self, browser: Browser, work: Work) -> tuple[Response, list[str]]:
        """`visit`, with ``work`` in the handler."""
        self.do = work
        return self.visit(browser, "/do")

    def answering(self, status: int, *headers: tuple[str, str]) -> Any:
        """An app behind the same authenticator that answers everything so."""
        return bare_app(self.kind, self.auth, status, *headers)

    def deliver(self, app: Any, browser: Browser, *, method: str) -> str | None:
        """Send a request of any method to ``app``; the ``Set-Cookie`` of its response."""
        cookie = browser.cookie_header() or ""
        if self.kind == "asgi":
            sent: list[Any] = []

            async def send(message: Any) -> None:
                sent.append(message)

            scope = {"type": "http", "method": method, "path": "/", "headers": [(b"cookie", cookie.encode())]}
            asyncio.run(app(scope, None, send))
            found = {name: value.decode() for name, value in sent[0]["headers"]}
            return found.get(b"set-cookie")
        started: list[Any] = []
        environ = {"REQUEST_METHOD": method, "PATH_INFO": "/", "HTTP_COOKIE": cookie}
        list(app(environ, lambda *arguments: started.append(arguments)))
        return dict(started[0][1]).get("set-cookie")


def ask_with(task: tuple[Path, float, dict[str, str], User]) -> tuple[str | None, str]:
    """In another process: who a browser with this jar is, and the id that it then has."""
    folder, now, jar, user = task
    users = MemoryUsers()
    users.rows[user.id] = user
    app = App(LMDBBackend(folder, durable=False), "wsgi", users=users, clock=Clock(now))
    browser = Browser(app.app, app.kind, dict(jar))
    return browser.get().json()["user"], app.id_of(browser)


def request_asgi(app: Any, path: str = "/", method: str = "GET", **options: Any) -> httpx.Response:
    """The response of an ASGI app to one request of httpx; an error of the app is a 500, as a server answers it."""

    async def send() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="https://app.example") as client:
            return await client.request(method, path, **options)

    return asyncio.run(send())


def bare_app(kind: Kind, auth: Any, status: int, *headers: tuple[str, str]) -> Any:
    if kind == "asgi":

        async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
            del scope, receive
            raw = [(name.encode(), value.encode()) for name, value in headers]
            await send({"type": "http.response.start", "status": status, "headers": raw})
            await send({"type": "http.response.body", "body": b""})

        return asgi.SessionAuthMiddleware(asgi_app, auth)

    def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
        del environ
        start_response(f"{status} Status", list(headers))
        return []

    return wsgi.SessionAuthMiddleware(wsgi_app, auth)


def apps_on(kind: Kind, inner: Backend) -> Callable[..., App]:
    """Makes an `App` of the options of a `SessionAuth`, and ``reload`` and ``namespace`` of its store."""

    def make(*, wrap: type[CountingBackend] = CountingBackend, users: MemoryUsers | None = None, **options: Any) -> App:
        backend = wrap(inner)
        cache = {key: options.pop(key) for key in ("reload", "namespace", "ttl") if key in options}
        if cache:
            options["store"] = CredentialsCache(backend, **cache)
        return App(backend, kind, users=users, **options)

    return make


@contextmanager
def apps(combination: tuple[Kind, str], folder: Path) -> Iterator[Callable[..., App]]:
    """`apps_on` a new backend within the process."""
    kind, name = combination
    inner = open_backend(name, folder)
    yield apps_on(kind, inner)
    drive(inner.close())
