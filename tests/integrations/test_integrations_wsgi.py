"""The WSGI middleware beyond plain requests: generators, repeated starts, streams, and what it refuses."""

import asyncio
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.core_support import Site
from harness.support import SECRET, Browser, CountingBackend, FakeConnection, MemoryUsers
from powauth import BlockingAuth, ConfigError, InvalidParams, NotSignedIn, RequestAuth, SessionAuth, StoreUnavailable
from powauth.backends.base import Backend, Mode, drive
from powauth.backends.memory import MemoryBackend
from powauth.errors import MetadataTooLarge, Overloaded
from powauth.integrations import wsgi

Started = list[tuple[str, list[tuple[str, str]], Any]]


@pytest.fixture
def site() -> Site:
    return Site(MemoryBackend(), "wsgi")


def call(app: Any, browser: Browser) -> tuple[Started, list[bytes]]:
    """What the server sees of one request."""
    started: Started = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        started.append((status, headers, exc_info))
        return lambda data: None

    body = app(
        {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_COOKIE": browser.cookie_header() or ""}, start_response
    )
    try:
        return started, list(body)
    finally:
        if hasattr(body, "close"):
            body.close()


def due(site: Site) -> Browser:
    browser = site.signed_in()
    site.clock.advance(900)
    return browser


def cookies(headers: list[tuple[str, str]]) -> list[str]:
    return [value for name, value in headers if name.lower() == "set-cookie"]


def test_an_app_that_is_a_generator_starts_at_its_first_part(site: Site) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        wsgi.request_auth(environ).require_user()
        start_response("200 OK", [])
        yield b"one"
        yield b"two"

    guarded = wsgi.SessionAuthMiddleware(app, site.auth)
    started, body = call(guarded, due(site))
    assert (started[0][0], len(cookies(started[0][1])), body) == ("200 OK", 1, [b"one", b"two"])
    started, body = call(guarded, site.browser())
    assert (started[0][0], body) == ("401 Unauthorized", [b'{"error":"not_signed_in"}'])


def test_a_generator_that_says_nothing_at_all(site: Site) -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("204 No Content", [])
        yield from ()

    started, body = call(wsgi.SessionAuthMiddleware(app, site.auth), due(site))
    assert (started[0][0], len(cookies(started[0][1])), body) == ("204 No Content", 1, [])


class Body:
    """A body that tells whether the server closed it."""

    def __init__(self, *parts: bytes, begin: Callable[[], object] = bool, error: Exception | None = None) -> None:
        self.parts, self.begin, self.error, self.closed = parts, begin, error, 0

    def __iter__(self) -> Iterator[bytes]:
        self.begin()
        if self.error is not None:
            raise self.error
        return iter(self.parts)

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("early", [True, False], ids=["started at once", "started by the body"])
def test_a_body_is_closed_once(site: Site, early: bool) -> None:
    bodies: list[Body] = []

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        def begin() -> None:
            start_response("200 OK", [])

        if early:
            begin()
        bodies.append(Body(b"one", b"two", begin=bool if early else begin))
        return bodies[-1]

    _, parts = call(wsgi.SessionAuthMiddleware(app, site.auth), site.browser())
    assert (parts, bodies[0].closed) == ([b"one", b"two"], 1)


@pytest.mark.parametrize("error", [StoreUnavailable("down"), NotSignedIn("no")], ids=["503", "401"])
def test_a_body_that_fails_before_it_starts_is_closed_and_answered(site: Site, error: Exception) -> None:
    body = Body(error=error)
    started, _ = call(wsgi.SessionAuthMiddleware(lambda *_: body, site.auth), site.browser())
    assert started[0][0] == ("401 Unauthorized" if isinstance(error, NotSignedIn) else "503 Service Unavailable")
    assert body.closed == 1


def test_a_body_that_fails_otherwise_is_closed_and_raises(site: Site) -> None:
    body = Body(error=ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        call(wsgi.SessionAuthMiddleware(lambda *_: body, site.auth), site.browser())
    assert body.closed == 1


def test_starting_again_with_an_error_carries_no_renewed_id(site: Site) -> None:
    browser = due(site)
    stale = browser.copy()

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("X-Page", "first")])
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            start_response("500 Internal Server Error", [("X-Page", "second")], sys.exc_info())
        return [b"sorry"]

    started, _ = call(wsgi.SessionAuthMiddleware(app, site.auth), browser)
    first, second = started
    assert len(cookies(first[1])) == 1
    assert (second[0], cookies(second[1])) == ("500 Internal Server Error", [])
    assert second[2][0] is ZeroDivisionError
    assert stale.get().json() == {"user": site.user.email}
    assert site.event_names.count("renewed") == 1


def test_starting_twice_repeats_the_same_id(site: Site) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        start_response("200 OK", [])
        return []

    started, _ = call(wsgi.SessionAuthMiddleware(app, site.auth), due(site))
    assert cookies(started[0][1]) == cookies(started[1][1]) != []
    assert site.event_names.count("renewed") == 1


def test_an_error_after_the_start_is_the_servers(site: Site) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        raise StoreUnavailable("too late")

    with pytest.raises(StoreUnavailable):
        call(wsgi.SessionAuthMiddleware(app, site.auth), site.browser())


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (InvalidParams({"email": ["is odd"]}), "422 Unprocessable Content", b'{"errors":{"email":["is odd"]}}'),
        (NotSignedIn("detail"), "401 Unauthorized", b'{"error":"not_signed_in"}'),
        (StoreUnavailable("redis at 10.0.0.1"), "503 Service Unavailable", b'{"error":"store_unavailable"}'),
        (Overloaded("busy"), "503 Service Unavailable", b'{"error":"overloaded"}'),
    ],
    ids=str,
)
def test_powauths_errors_are_answered(site: Site, error: Exception, status: str, body: bytes) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        raise error

    started, parts = call(wsgi.SessionAuthMiddleware(app, site.auth), site.browser())
    assert (started[0][0], parts) == (status, [body])
    headers = dict(started[0][1])
    assert headers["content-type"] == "application/json"
    assert headers["content-length"] == str(len(body))
    assert headers["cache-control"] == "no-store"
    assert ("retry-after" in headers) == status.startswith("503")


@pytest.mark.parametrize("error", [ConfigError("odd"), MetadataTooLarge("much")], ids=str)
def test_the_apps_own_mistakes_are_raised(site: Site, error: Exception) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        raise error

    with pytest.raises(type(error)):
        call(wsgi.SessionAuthMiddleware(app, site.auth), site.browser())


def test_an_app_without_headers_of_the_request(site: Site) -> None:
    connection = wsgi.WSGIConnection({})
    assert connection.cookies() == ""
    assert connection.header("user-agent") is None
    assert connection.client_ip() is None
    assert connection.session() is None
    assert wsgi.WSGIConnection({"HTTP_USER_AGENT": "a browser"}).header("user-agent") == "a browser"


class Asynchronous(CountingBackend):
    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.mode = "async"


@pytest.mark.parametrize("part", ["backend", "users"])
def test_an_asynchronous_part_is_refused_at_start(part: str) -> None:
    parts: dict[str, Any] = {"backend": MemoryBackend(), "users": MemoryUsers()}
    parts[part] = Asynchronous(MemoryBackend()) if part == "backend" else MemoryUsers("async")
    auth = SessionAuth(secret_key=SECRET, **parts)
    with pytest.raises(ConfigError, match="a WSGI app needs a synchronous"):
        wsgi.SessionAuthMiddleware(lambda *_: [], auth)


@pytest.mark.parametrize("mode", ["inline", "blocking"])
def test_a_part_that_blocks_is_fine(mode: Mode) -> None:
    backend = CountingBackend(MemoryBackend())
    backend.mode = mode
    site = Site(backend, "wsgi", users=MemoryUsers(mode))
    assert site.signed_in().get().json() == {"user": site.user.email}


@pytest.mark.parametrize("work", ["delete_account", "revoke_user"])
def test_a_call_that_would_block_an_event_loop_does_nothing_later_either(work: str) -> None:
    users = MemoryUsers()
    ada = users.add("ada@example.org")
    auth = SessionAuth(secret_key=SECRET, users=users, backend="memory://")
    bound = RequestAuth(auth, FakeConnection())
    drive(bound.sign_in_user(ada))

    async def on_event_loop() -> None:
        with pytest.raises(ConfigError, match="would block the event loop of its thread"):
            getattr(BlockingAuth(auth), work)(ada)
        for _ in range(5):
            await asyncio.sleep(0)

    asyncio.run(on_event_loop())
    assert drive(users.get(ada.id)) is not None
    assert drive(bound.recheck())


def test_on_the_thread_of_an_event_loop_a_wsgi_app_is_told_where_to_run(tmp_path: Path) -> None:
    users = MemoryUsers()
    ada = users.add("ada@example.org")
    auth = SessionAuth(secret_key=SECRET, users=users, backend=f"sqlite:///{tmp_path}/sessions.db")

    def app(environ: Any, start_response: Any) -> list[bytes]:
        wsgi.request_auth(environ).sign_in_user(ada)
        return []

    async def on_event_loop() -> None:
        wsgi.SessionAuthMiddleware(app, auth)({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *_: bool)

    with pytest.raises(ConfigError, match="would block the event loop of its thread: make it in a worker thread"):
        asyncio.run(on_event_loop())
