"""The integrations of ``examples/`` for aiohttp and Quart, on real apps: they do what powauth's own do."""

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from http.cookies import SimpleCookie
from typing import Any

import aiohttp_integration
import httpx
import pytest
import quart
import quart_integration
from aiohttp import web

from harness.live_servers import serving
from harness.support import SECRET, Clock, CountingBackend, MemoryUsers
from powauth import ConfigError, NotSignedIn, SessionAuth, StoreUnavailable
from powauth.backends.memory import MemoryBackend
from powauth.http.answers import Answers

ADA = {"email": "ada@example.org", "password": "five brown owls hoot"}
COOKIE = "__Host-auth"


class Site:
    """A SessionAuth with a clock and a store that can fail, and an app behind it on a real server."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.backend = CountingBackend(MemoryBackend())
        self.auth: SessionAuth[Any, Any] = SessionAuth(
            secret_key=SECRET, users=MemoryUsers(), backend=self.backend, clock=self.clock
        )
        self.requests: list[weakref.ref[Any]] = []


def aiohttp_app(site: Site) -> web.Application:
    app, auth = web.Application(), site.auth
    aiohttp_integration.setup(app, auth, Answers(sign_in_path="/login"))
    request_auth = aiohttp_integration.request_auth

    async def register(request: web.Request) -> web.Response:
        user = await request_auth(request, auth).register(await request.json())
        return web.json_response({"email": user.email}, status=201)

    async def login(request: web.Request) -> web.Response:
        if (user := await request_auth(request, auth).sign_in(await request.json())) is None:
            raise NotSignedIn("wrong e-mail or password")
        return web.json_response({"email": user.email})

    async def logout(request: web.Request) -> web.Response:
        await request_auth(request, auth).sign_out()
        raise web.HTTPNoContent

    async def me(request: web.Request) -> web.Response:
        site.requests.append(weakref.ref(request))
        return web.json_response({"email": request_auth(request, auth).require_user().email})

    async def public(request: web.Request) -> web.Response:
        return web.Response(text=request.query.get("x", ""), headers={"vary": "Accept"})

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begun")
        request_auth(request, auth).require_user()
        return response

    async def broken(request: web.Request) -> web.Response:
        raise ConfigError("a mistake of the app")

    async def socket(request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        await websocket.close()
        return websocket

    app.router.add_post("/register", register)
    app.router.add_post("/login", login)
    app.router.add_post("/logout", logout)
    for path, handler in {"/me": me, "/public": public, "/stream": stream, "/broken": broken, "/ws": socket}.items():
        app.router.add_get(path, handler)
    inner = web.Application()
    aiohttp_integration.setup(inner, auth)
    inner.router.add_get("/me", me)
    app.add_subapp("/inner", inner)
    return app


def quart_app(site: Site) -> quart.Quart:
    app = quart.Quart("shop")
    session = quart_integration.PowAuth(app, site.auth, Answers(sign_in_path="/login"))

    @app.post("/register")
    async def register() -> Any:
        user = await session.request_auth().register(await quart.request.get_json())
        return {"email": user.email}, 201

    @app.post("/login")
    async def login() -> Any:
        if (user := await session.request_auth().sign_in(await quart.request.get_json())) is None:
            raise NotSignedIn("wrong e-mail or password")
        return {"email": user.email}

    @app.post("/logout")
    async def logout() -> Any:
        await session.request_auth().sign_out()
        return "", 204

    @app.get("/me")
    async def me() -> Any:
        return {"email": session.request_auth().require_user().email}

    @app.get("/public")
    async def public() -> Any:
        return quart.request.args.get("x", ""), 200, {"vary": "Accept"}

    @app.get("/broken")
    async def broken() -> Any:
        raise ConfigError("a mistake of the app")

    return app


@contextmanager
def aiohttp_server(app: web.Application) -> Iterator[tuple[str, int]]:
    """Serve an app on an event loop of its own."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(app, access_log=None)

    async def start() -> tuple[str, int]:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        host, port = runner.addresses[0][:2]
        return host, port

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()


class Browser:
    """A client that keeps the cookie, as a browser on https would."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.client = httpx.Client(base_url="http://{}:{}".format(*address))
        self.id = ""

    def __call__(self, method: str, path: str, headers: Any = (), **options: Any) -> httpx.Response:
        cookie = {"cookie": f"a=1; {COOKIE}={self.id}"} if self.id else {}
        response = self.client.request(method, path, headers={**cookie, **dict(headers)}, **options)
        for value in response.headers.get_list("set-cookie"):
            morsel = SimpleCookie(value)[COOKIE]
            assert morsel["secure"]
            assert morsel["httponly"]
            self.id = morsel.value
        return response


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.fixture(params=["aiohttp", "quart"])
def browser(request: pytest.FixtureRequest, site: Site) -> Iterator[Browser]:
    server = aiohttp_server(aiohttp_app(site)) if request.param == "aiohttp" else serving(quart_app(site), "asgi")
    with server as address:
        browser = Browser(address)
        with browser.client:
            yield browser


def test_a_user_registers_is_known_signs_out_and_in(browser: Browser) -> None:
    assert browser("GET", "/me").status_code == 401
    registered = browser("POST", "/register", json=ADA)
    assert (registered.status_code, registered.json()) == (201, {"email": ADA["email"]})
    assert registered.headers["cache-control"] == "no-store"
    assert browser("GET", "/me").json() == {"email": ADA["email"]}
    stolen = browser.id
    signed_out = browser("POST", "/logout")
    assert (signed_out.status_code, browser.id) == (204, "")
    assert browser("GET", "/me").status_code == 401
    browser.id = stolen
    assert browser("GET", "/me").status_code == 401
    browser.id = ""
    wrong = browser("POST", "/login", json={**ADA, "password": "six brown owls hoot"})
    assert (wrong.status_code, browser.id) == (401, "")
    assert browser("POST", "/login", json=ADA).json() == {"email": ADA["email"]}
    assert browser("GET", "/me").json() == {"email": ADA["email"]}


def test_an_id_is_renewed_on_a_response(browser: Browser, site: Site) -> None:
    browser("POST", "/register", json=ADA)
    first = browser.id
    assert "set-cookie" not in browser("GET", "/me").headers
    site.clock.advance(15 * 60)
    assert browser("GET", "/me").status_code == 200
    assert browser.id != first
    site.clock.advance(20 * 60)
    assert browser("GET", "/me").status_code == 200


def test_a_response_that_failed_renews_nothing(browser: Browser, site: Site) -> None:
    browser("POST", "/register", json=ADA)
    first = browser.id
    site.clock.advance(15 * 60)
    assert browser("GET", "/broken").status_code == 500
    assert browser.id == first


def test_an_outage_is_503_where_the_user_is_asked_for(browser: Browser, site: Site) -> None:
    browser("POST", "/register", json=ADA)
    site.backend.fail["*"] = StoreUnavailable("down")
    answer = browser("GET", "/me")
    assert (answer.status_code, answer.json()) == (503, {"error": "store_unavailable"})
    assert answer.headers["retry-after"] == "5"
    assert browser("GET", "/public").status_code == 200
    site.backend.fail.clear()
    assert browser("GET", "/me").status_code == 200


def test_what_is_wrong_is_said_as_powauth_says_it(browser: Browser) -> None:
    browser("POST", "/register", json=ADA)
    taken = browser("POST", "/register", json=ADA)
    assert (taken.status_code, taken.json()) == (422, {"errors": {"email": ["has already been taken"]}})


def test_people_are_sent_to_sign_in(browser: Browser) -> None:
    sent = browser("GET", "/me?a=%C3%A9", {"accept": "text/html"})
    assert (sent.status_code, sent.headers["location"]) == (303, "/login?next=/me%3Fa%3D%25C3%25A9")


def test_users_are_told_apart_by_their_cookie(browser: Browser) -> None:
    answer = browser("GET", "/public?x=y")
    assert (answer.text, answer.headers.get_list("vary")) == ("y", ["Accept", "Cookie"])
    assert browser("GET", "/nowhere").status_code == 404


# --- what only one of them has ----------------------------------------------------------------------------------------


@pytest.fixture
def client(site: Site) -> Iterator[Browser]:
    with aiohttp_server(aiohttp_app(site)) as address:
        browser = Browser(address)
        with browser.client:
            yield browser


def test_aiohttps_inner_apps_share_the_visit(client: Browser, site: Site) -> None:
    client("POST", "/register", json=ADA)
    with site.backend.counting() as calls:
        assert client("GET", "/inner/me").json() == {"email": ADA["email"]}
    assert calls == ["get"]


def test_aiohttps_streams_that_have_begun_end_with_the_error(client: Browser) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        client("GET", "/stream")


def test_aiohttps_requests_leave_nothing_for_the_garbage_collector(client: Browser, site: Site) -> None:
    client("POST", "/register", json=ADA)
    gc.disable()
    try:
        for _ in range(3):
            client("GET", "/me")
        # The server holds its latest request until the next one comes.
        assert [reference() for reference in site.requests[:-1]] == [None, None]
    finally:
        gc.enable()


UPGRADE = {
    "upgrade": "websocket",
    "connection": "upgrade",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def test_aiohttps_sockets_open_for_the_apps_own_pages_alone(client: Browser) -> None:
    client("POST", "/register", json=ADA)
    assert client("GET", "/ws", {**UPGRADE, "origin": "https://evil.example"}).status_code == 403


def test_quart_answers_of_an_earlier_hook_carry_nothing(site: Site) -> None:
    app = quart.Quart("shop")

    @app.before_request
    async def closed() -> Any:
        return "closed", 503

    quart_integration.PowAuth(app, site.auth)
    with serving(app, "asgi") as address:
        assert httpx.get("http://{}:{}/".format(*address)).text == "closed"
