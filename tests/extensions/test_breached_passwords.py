"""`BreachedPasswords`, against a real HTTP server on this machine: right, slow, broken, padded, and hostile."""

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest

from harness.core_support import KINDS
from harness.support import SECRET, Browser, Clock, Kind, MemoryUsers, Request, make_app
from powauth import ConfigError, Event, Extension, InvalidParams, SessionAuth
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.extensions.breached_passwords import BreachedPasswords, UrllibClient
from powauth.extensions.reset_password import ResetPassword
from powauth.integrations import wsgi
from powauth.pages import wsgi as wsgi_pages
from powauth.testing import ExtensionConformance, MemoryMailer

ADA, OLD = "ada@example.org", "correct horse"
LEAKED, SAFE = "seven leaked herons", "eleven safe geese"


def code_of(password: str) -> str:
    return hashlib.sha1(password.encode(), usedforsecurity=False).hexdigest().upper()


def padding(count: int) -> list[str]:
    return [f"{hashlib.sha1(str(n).encode(), usedforsecurity=False).hexdigest().upper()[:35]}:0" for n in range(count)]


class Service:
    """An HTTP server that knows breached passwords, and answers as it is told to."""

    def __init__(self) -> None:
        self.counts = {code_of(LEAKED): 3}
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.answer: Callable[[Any, str], None] = self.right
        self.asked, self.release = threading.Event(), threading.Event()
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                service.asked.set()
                service.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                try:
                    service.answer(self, self.path.rpartition("/")[2])
                except OSError:
                    self.close_connection = True

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/range/"

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)

    def right(self, handler: Any, prefix: str) -> None:
        lines = [f"{code[5:]}:{count}" for code, count in self.counts.items() if code.startswith(prefix)]
        self.send(handler, "\r\n".join(padding(800) + lines).encode())

    @staticmethod
    def send(handler: Any, body: bytes, status: int = 200, **headers: str) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    # Answers that are wrong

    def zero(self, handler: Any, prefix: str) -> None:
        self.send(handler, "\r\n".join([*padding(3), f"{code_of(LEAKED)[5:]}:0"]).encode())

    def lower(self, handler: Any, prefix: str) -> None:
        self.send(handler, f"{code_of(LEAKED)[5:].lower()}:1\n".encode())

    def error(self, handler: Any, prefix: str) -> None:
        self.send(handler, b"down", 503)

    def page(self, handler: Any, prefix: str) -> None:
        self.send(handler, f"<html>log in to the network {code_of(LEAKED)[5:]}:3</html>".encode())

    def empty(self, handler: Any, prefix: str) -> None:
        self.send(handler, b"")

    def redirect(self, handler: Any, prefix: str) -> None:
        self.send(handler, b"", 302, Location=f"{self.url}elsewhere/{prefix}")

    def cut(self, handler: Any, prefix: str) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(f"{padding(1)[0]}\r\n".encode())

    def hang(self, handler: Any, prefix: str) -> None:
        self.release.wait(10)

    def drip(self, handler: Any, prefix: str) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not self.release.wait(0.02):
            handler.wfile.write(f"{padding(1)[0]}\r\n".encode())
            handler.wfile.flush()

    def endless(self, handler: Any, prefix: str) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(200):
            handler.wfile.write(b"A" * 65_536)


FAILURES = {
    "error": "HTTPError",
    "page": "ValueError",
    "empty": "ValueError",
    "redirect": "HTTPError",
    "cut": "OSError",
    "hang": "TimeoutError",
    "drip": "TimeoutError",
    "endless": "OSError",
}


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.close()


class Site:
    """An app with one user, ada."""

    def __init__(self, kind: Kind, service: Service, **options: Any) -> None:
        self.kind = kind
        self.events: list[Event] = []
        self.users = MemoryUsers()
        self.ada = self.users.add(ADA, OLD)
        self.auth: SessionAuth[Any, Any] = SessionAuth(
            secret_key=SECRET,
            users=self.users,
            backend=MemoryBackend(),
            clock=Clock(),
            throttle=None,
            on_event=self.events.append,
            extensions=[BreachedPasswords(url=service.url, **options)],
        )
        self.errors: object = None
        self._work: Callable[[Request], Any] | None = None
        self.browser = Browser(make_app(kind, self.auth, {"/do": self._do}), kind)

    async def _do(self, request: Request) -> object:
        assert self._work is not None
        try:
            return await self._work(request)
        except InvalidParams as error:
            self.errors = error.errors
            raise

    def call(self, name: str, params: Mapping[str, object]) -> int:
        async def work(request: Request) -> object:
            await request.call(name, params)
            return None

        self._work, self.errors = work, None
        return self.browser.get("/do").status

    @property
    def told(self) -> list[tuple[str, str | None]]:
        return [(event.name, event.detail) for event in self.events if event.name.startswith("password_")]


REFUSED = {"password": ["has appeared in a data breach"]}


@pytest.mark.parametrize("kind", KINDS)
def test_pwd_05_a_registration_with_a_breached_password_is_refused(kind: Kind, service: Service) -> None:
    site = Site(kind, service)
    assert site.call("register", {"email": "bob@example.org", "password": LEAKED}) == 422
    assert site.errors == REFUSED
    assert site.told == [("password_breached", None)]
    assert site.events[-1].ip == "192.0.2.1"
    assert [user.email for user in site.users.rows.values()] == [ADA]
    assert site.call("register", {"email": "bob@example.org", "password": SAFE}) == 200


@pytest.mark.parametrize("kind", KINDS)
def test_pwd_05_a_change_to_a_breached_password_is_refused(kind: Kind, service: Service) -> None:
    site = Site(kind, service)
    site.call("sign_in", {"email": ADA, "password": OLD})
    assert service.seen == []
    assert site.call("update_user", {"current_password": OLD, "password": LEAKED}) == 422
    assert site.errors == REFUSED
    assert site.call("update_user", {"current_password": OLD, "name": "Ada"}) == 200
    assert len(service.seen) == 1
    assert site.call("update_user", {"current_password": OLD, "password": SAFE}) == 200
    assert site.call("sign_in", {"email": ADA, "password": SAFE}) == 200


def test_pwd_05_the_apps_own_changes_and_resets_are_checked(service: Service) -> None:
    """A reset changes the account by `Parts.change`, which is `AccountService.change_account`."""
    site = Site("wsgi", service)
    for change in (
        site.auth.update_account(site.ada, password=LEAKED),
        site.auth.create_account(email="bob@example.org", password=LEAKED),
        site.auth.accounts.change_account(site.ada.id, {"password": LEAKED}),
    ):
        with pytest.raises(InvalidParams) as caught:
            drive(change)
        assert caught.value.errors == REFUSED
    assert site.call("sign_in", {"email": ADA, "password": OLD}) == 200


def test_pwd_05_a_refused_password_leaves_the_link_of_a_reset_valid(service: Service) -> None:
    users = MemoryUsers()
    ada = users.add(ADA, OLD)
    auth: SessionAuth[Any, Any] = SessionAuth(
        secret_key=SECRET,
        users=users,
        backend=MemoryBackend(),
        public_url="https://app.example",
        extensions=[ResetPassword(MemoryMailer()), BreachedPasswords(url=service.url)],
    )
    app = wsgi.SessionAuthMiddleware(wsgi_pages.PagesApp(auth), auth)
    token = drive(auth.extension(ResetPassword).tokens.issue(ada.id, ADA))
    with httpx.Client(transport=httpx.WSGITransport(app), base_url="https://app.example") as client:
        for password, status in ((LEAKED, 422), (SAFE, 204), (SAFE, 422)):
            asked = {"token": token, "password": password}
            headers = {"origin": "https://app.example", "accept": "application/json"}
            reply = client.post("/password/reset", json=asked, headers=headers)
            assert reply.status_code == status, reply.text
            if password == LEAKED:
                assert "has appeared in a data breach" in reply.text
    drive(auth.aclose())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("failure", FAILURES)
def test_a_service_that_fails_lets_the_password_through_with_an_event(
    kind: Kind, failure: str, service: Service
) -> None:
    site = Site(kind, service, timeout=timedelta(milliseconds=300))
    service.answer = getattr(service, failure)
    began = time.monotonic()
    assert site.call("register", {"email": "bob@example.org", "password": LEAKED}) == 200
    assert time.monotonic() - began < 5
    assert site.told == [("password_unchecked", FAILURES[failure])]


def test_a_service_that_cannot_be_reached_lets_the_password_through(service: Service) -> None:
    site = Site("wsgi", service)
    service.close()
    assert site.call("register", {"email": "bob@example.org", "password": LEAKED}) == 200
    assert site.told == [("password_unchecked", "URLError")]


def test_padding_with_the_count_zero_is_no_breach(service: Service) -> None:
    site = Site("wsgi", service)
    service.answer = service.zero
    assert site.call("register", {"email": "bob@example.org", "password": LEAKED}) == 200
    assert site.told == []


def test_the_case_of_the_answer_does_not_matter(service: Service) -> None:
    site = Site("wsgi", service)
    service.answer = service.lower
    assert site.call("register", {"email": "bob@example.org", "password": LEAKED}) == 422


def test_the_service_learns_five_digits_and_nothing_else(service: Service) -> None:
    site = Site("wsgi", service)
    site.call("register", {"email": "bob@example.org", "password": LEAKED})
    ((path, headers),) = service.seen
    assert path == f"/range/{code_of(LEAKED)[:5]}"
    assert headers["add-padding"] == "true"
    sent = f"{path}{headers}"
    for secret in (LEAKED, code_of(LEAKED)[5:], "bob", "cookie", "192.0.2.1"):
        assert secret not in sent


def test_a_password_is_asked_about_in_the_form_that_is_hashed(service: Service) -> None:
    composed, decomposed = "sieben graue h\u00e4her", "sieben graue ha\u0308her"
    service.counts = {code_of(composed): 1}
    site = Site("wsgi", service)
    assert site.call("register", {"email": "bob@example.org", "password": decomposed}) == 422


@pytest.mark.parametrize("seen", [3, 4])
def test_the_number_of_times_is_an_option(seen: int, service: Service) -> None:
    site = Site("wsgi", service, seen=seen)
    status = site.call("register", {"email": "bob@example.org", "password": LEAKED})
    assert status == (422 if seen == 3 else 200)


@pytest.mark.parametrize("password", ["", None, 7, ["x"], "x" * 5000])
def test_what_is_no_password_is_left_to_the_users(password: object, service: Service) -> None:
    site = Site("wsgi", service)
    site.call("register", {"email": "bob@example.org", "password": password})
    assert service.seen == []
    assert site.told == []


def test_log_02_no_event_and_no_log_has_the_password_or_its_hash(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    site = Site("wsgi", service)
    for answer in (service.right, service.error):
        service.answer = answer
        site.call("register", {"email": f"{answer.__name__}@example.org", "password": LEAKED})
    told = f"{site.events}{caplog.text}"
    for secret in (LEAKED, code_of(LEAKED)[:5], code_of(LEAKED)[5:]):
        assert secret not in told


def test_an_app_brings_its_own_client(service: Service) -> None:
    class Own:
        def get(self, url: str, headers: Mapping[str, str], timeout: float) -> bytes:
            assert (url, headers["Add-Padding"], timeout) == (service.url + code_of(LEAKED)[:5], "true", 1.0)
            return f"{code_of(LEAKED)[5:]}:1".encode()

    site = Site("wsgi", service, client=Own())
    assert site.call("register", {"email": "bob@example.org", "password": LEAKED}) == 422
    assert service.seen == []


def test_the_loop_is_free_while_the_service_waits(service: Service) -> None:
    """On ASGI the request runs in a worker thread: another request is served meanwhile."""
    site = Site("asgi", service, timeout=timedelta(seconds=10))
    service.answer = service.hang

    async def both() -> None:
        waiting = asyncio.ensure_future(site.auth.create_account(email="bob@example.org", password=LEAKED))
        await asyncio.to_thread(service.asked.wait, 10)
        assert await site.auth.users.get(site.ada.id) is not None
        assert not waiting.done()
        service.release.set()
        await waiting

    asyncio.run(both())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"client": "urllib"}, "client must be an object with a method get"),
        ({"url": "http://example.org/range/"}, "url must be an address with https"),
        ({"url": "file:///etc/passwd/"}, "url must be an address"),
        ({"url": "https://example.org/range"}, "url must be an address that ends in a slash"),
        ({"url": None}, "url must be an address that ends in a slash"),
        ({"timeout": 1}, "timeout must be"),
        ({"timeout": timedelta(minutes=5)}, "timeout must be"),
        ({"seen": 0}, "seen must be a whole number of 1 or more"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BreachedPasswords(**options)


class Silent(UrllibClient):
    def get(self, url: str, headers: Mapping[str, str], timeout: float) -> bytes:
        return f"{'A' * 35}:0".encode()


class TestConformance(ExtensionConformance):
    def make_extension(self) -> Extension[Any]:
        return BreachedPasswords(Silent())
