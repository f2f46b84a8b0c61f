"""The ASGI middleware, Starlette's session, FastAPI's dependencies, plain handlers, threads, asyncio and trio."""

import logging
import sys
import threading
from collections.abc import Mapping
from typing import Annotated, Any

import anyio
import anyio.to_thread
import httpx
import pytest
from fastapi import Depends, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from harness.core_support import Site
from harness.support import SECRET, Clock, CountingBackend, FakeConnection, Me, MemoryUsers, User
from powauth import (
    Account,
    BlockingRequestAuth,
    ConfigError,
    FrameworkSessionCarrier,
    NotSignedIn,
    RequestAuth,
    SessionAuth,
)
from powauth._running import THREADS, store_threads  # to fill the threads that stores share
from powauth.backends.base import Backend, CountsEpochs, Mode
from powauth.backends.memory import MemoryBackend
from powauth.errors import Overloaded, StoreUnavailable
from powauth.integrations import asgi, fastapi
from powauth.integrations.asgi import SessionAuthMiddleware
from powauth.integrations.fastapi import (
    CurrentRequestAuth,
    auth_dependency,
    blocking_request_auth,
    optional_auth_dependency,
)

PARAMS = {"email": "ada@example.org", "password": "correct horse"}

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def client(app: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="https://app.example")


class Noting(CountingBackend):
    """A backend that says in which thread it was called."""

    abilities = (CountsEpochs,)

    def __init__(self, inner: Backend, mode: Mode = "inline") -> None:
        super().__init__(inner)
        self.mode = mode
        self.threads: set[int] = set()

    async def _enter(self, verb: str) -> None:
        self.threads.add(threading.get_ident())
        await super()._enter(verb)


class NotingUsers(MemoryUsers):
    """Users that say in which thread they were asked."""

    def __init__(self, mode: Mode = "inline") -> None:
        super().__init__(mode)
        self.threads: set[int] = set()

    async def _query(self) -> None:
        self.threads.add(threading.get_ident())
        await super()._query()


class Api:
    """A FastAPI app with one user; ``/plain`` handlers are functions, the others coroutines."""

    def __init__(self, mode: Mode = "inline", **options: Any) -> None:
        self.users = NotingUsers(mode)
        self.user = self.users.add(PARAMS["email"])
        self.backend = Noting(MemoryBackend(), mode)
        self.clock = Clock()
        chosen: dict[str, Any] = {"secret_key": SECRET, "users": self.users, "backend": self.backend}
        self.auth: SessionAuth[User, Me] = SessionAuth(**chosen | {"clock": self.clock} | options)
        self.handler_threads: set[int] = set()
        self.app = app = FastAPI()
        app.add_middleware(SessionAuthMiddleware, auth=self.auth)

        @app.post("/login")
        async def login(auth: CurrentRequestAuth[User, Me]) -> str:
            user = await auth.sign_in(PARAMS)
            assert user is not None
            email: str = user.email
            return email

        @app.post("/logout")
        async def logout(auth: CurrentRequestAuth[User, Me]) -> None:
            await auth.sign_out()

        @app.get("/me")
        async def me(user: Annotated[User, Depends(auth_dependency)]) -> str:
            return user.email

        @app.get("/maybe")
        async def maybe(user: Annotated[User | None, Depends(optional_auth_dependency)]) -> str | None:
            return None if user is None else user.email

        @app.get("/plain/me")
        def plain_me(user: Annotated[User, Depends(auth_dependency)]) -> str:
            return user.email

        @app.get("/state")
        async def state(request: Request) -> str | None:
            user: User | None = request.state.current_user
            return None if user is None else user.email

        @app.post("/plain/login")
        def plain_login(auth: Annotated[BlockingRequestAuth[User, Me], Depends(blocking_request_auth)]) -> list[Any]:
            self.handler_threads.add(threading.get_ident())
            user = auth.sign_in(PARAMS)
            assert user is not None
            assert user == auth.current_user == auth.require_user()
            return [user.email, len(auth.sessions())]

        @app.post("/plain/everything")
        def plain_everything(
            auth: Annotated[BlockingRequestAuth[User, Me], Depends(blocking_request_auth)],
        ) -> list[Any]:
            grace = auth.register({"email": "grace@example.org", "password": "x"})
            assert auth.session is not None
            assert auth.validate_user({}) == {"email": ["can't be blank"]}
            assert auth.update_user({"current_password": "x", "name": "Grace"}).name == "Grace"
            assert auth.update_metadata(theme="dark")["theme"] == "dark"
            signed_in = auth.sign_in_user(grace)
            assert signed_in is not None
            assert auth.revoke("nothing") is False
            counts = [auth.revoke_others(), auth.revoke_all(), auth.current_user]
            auth.sign_in_user(grace)
            auth.sign_out()
            auth.sign_in_user(grace)
            auth.delete_user({"current_password": "x"})
            assert auth.connection is not None
            return counts

        @app.post("/plain/on-the-loop")
        async def wrong(auth: Annotated[BlockingRequestAuth[User, Me], Depends(blocking_request_auth)]) -> None:
            auth.sign_in(PARAMS)


@pytest.mark.parametrize("mode", ["inline", "blocking"])
async def test_fastapi_dependencies(mode: Mode) -> None:
    api = Api(mode)
    async with client(api.app) as browser:
        refused = await browser.get("/me")
        assert (refused.status_code, refused.json()) == (401, {"detail": "Not authenticated"})
        assert (await browser.get("/plain/me")).status_code == 401
        assert (await browser.get("/maybe")).json() is None
        assert (await browser.get("/state")).json() is None
        signed_in = await browser.post("/login")
        assert signed_in.json() == api.user.email
        assert signed_in.headers["cache-control"] == "no-store"
        for path in ("/me", "/plain/me", "/maybe", "/state"):
            assert (await browser.get(path)).json() == api.user.email, path
        api.clock.advance(900)
        renewed = await browser.get("/me")
        assert "set-cookie" in renewed.headers
        assert (await browser.get("/me")).json() == api.user.email
        await browser.post("/logout")
        assert (await browser.get("/me")).status_code == 401


@pytest.mark.parametrize("mode", ["inline", "blocking"])
async def test_handlers_that_are_plain_functions_sign_in_through_the_event_loop(mode: Mode) -> None:
    api = Api(mode)
    async with client(api.app) as browser:
        answer = await browser.post("/plain/login")
        assert answer.json() == [api.user.email, 1]
        assert (await browser.get("/me")).json() == api.user.email
        assert (await browser.post("/plain/everything")).json() == [0, 1, None]
        assert "grace@example.org" not in {user.email for user in api.users.rows.values()}
    assert threading.get_ident() not in api.handler_threads


async def test_a_blocking_object_on_the_event_loop_is_an_error_and_not_a_hang() -> None:
    api = Api()
    async with client(api.app) as browser:
        assert (await browser.post("/plain/on-the-loop")).status_code == 500
    assert api.backend.calls == []


async def test_blocking_parts_leave_the_event_loop_free(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="powauth"):
        api = Api("blocking")
        async with client(api.app) as browser:
            await browser.post("/login")
            assert (await browser.get("/me")).json() == api.user.email
            await browser.post("/logout")
    loop = threading.get_ident()
    assert api.backend.threads
    assert api.users.threads
    assert loop not in api.backend.threads | api.users.threads
    said = {record.getMessage().partition(":")[0]: record.levelname for record in caplog.records}
    assert said["the users context is synchronous"] == "INFO", "it is called at a sign-in, and not at each request"
    assert said["the backend is synchronous"] == "WARNING"


async def test_other_parts_stay_on_the_event_loop() -> None:
    api = Api("inline")
    async with client(api.app) as browser:
        await browser.post("/login")
        await browser.get("/me")
    assert api.backend.threads == api.users.threads == {threading.get_ident()}


async def test_the_event_loop_turns_while_a_verb_waits() -> None:
    meeting = threading.Barrier(2)

    class Slow(Noting):
        async def _enter(self, verb: str) -> None:
            meeting.wait(60)
            await super()._enter(verb)

    backend = Slow(MemoryBackend(), "blocking")
    site = Site(backend, "asgi")
    answers: list[int] = []

    async def sign_in() -> None:
        answers.append((await site.browser().send_asgi("/login", None, {})).status)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sign_in)
        for _ in range(3):
            await anyio.to_thread.run_sync(meeting.wait, 20)
    assert (answers, backend.calls) == ([200], ["epoch", "create", "epoch"])


async def test_plain_handlers_in_all_threads_do_not_wait_for_each_other() -> None:
    api = Api("blocking")
    threads = anyio.to_thread.current_default_thread_limiter()
    threads.total_tokens = 2
    meeting = threading.Barrier(2)

    @api.app.post("/plain/both")
    def both(auth: Annotated[BlockingRequestAuth[User, Me], Depends(blocking_request_auth)]) -> bool:
        meeting.wait(60)
        return auth.sign_in(PARAMS) is not None

    answers: list[bool] = []

    async def ask() -> None:
        async with client(api.app) as browser:
            answers.append((await browser.post("/plain/both")).json())

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(ask)
    assert answers == [True, True]


# --- Starlette's session ----------------------------------------------------------------------------------------------


def starlette_app(auth: SessionAuth[User, Me], *, outside: bool = True) -> Starlette:
    async def login(request: Request) -> JSONResponse:
        user = await asgi.request_auth(request.scope).sign_in(request.query_params)
        return JSONResponse(user and user.email)

    async def logout(request: Request) -> JSONResponse:
        await asgi.request_auth(request.scope).sign_out()
        return JSONResponse(None)

    async def fill(request: Request) -> JSONResponse:
        request.session["cart"] = "ada's"
        return JSONResponse(None)

    async def look(request: Request) -> JSONResponse:
        user: User | None = request.state.current_user
        return JSONResponse([user and user.email, request.session.get("cart")])

    both = [
        Middleware(SessionMiddleware, secret_key="a secret of starlette's own", https_only=True),
        Middleware(SessionAuthMiddleware, auth=auth),
    ]
    routes = [
        Route("/login", login, methods=["POST"]),
        Route("/logout", logout, methods=["POST"]),
        Route("/fill", fill),
        Route("/look", look),
    ]
    return Starlette(routes=routes, middleware=both if outside else both[::-1])


def session_auth(**options: Any) -> SessionAuth[User, Me]:
    users = MemoryUsers()
    users.add(PARAMS["email"])
    users.add("grace@example.org")
    chosen: dict[str, Any] = {"secret_key": SECRET, "users": users, "backend": CountingBackend(MemoryBackend())}
    return SessionAuth(**chosen | options)


async def test_starlettes_session_carries_the_id() -> None:
    clock = Clock()
    auth = session_auth(carrier=FrameworkSessionCarrier(), clock=clock)
    async with client(starlette_app(auth)) as browser:
        assert (await browser.get("/look")).json() == [None, None]
        signed_in = await browser.post("/login", params=PARAMS)
        assert signed_in.json() == PARAMS["email"]
        assert [cookie.partition("=")[0] for cookie in signed_in.headers.get_list("set-cookie")] == ["session"]
        assert signed_in.headers["cache-control"] == "no-store"
        await browser.get("/fill")
        assert (await browser.get("/look")).json() == [PARAMS["email"], "ada's"]
        before = dict(browser.cookies)
        clock.advance(900)
        await browser.get("/look")
        assert dict(browser.cookies) != before
        assert (await browser.get("/look")).json() == [PARAMS["email"], "ada's"]
        other = PARAMS | {"email": "grace@example.org"}
        assert (await browser.post("/login", params=other)).json() == other["email"]
        assert (await browser.get("/look")).json() == [other["email"], None]
        await browser.post("/logout")
        assert (await browser.get("/look")).json() == [None, None]
    async with client(starlette_app(auth)) as thief:
        thief.cookies.update(before)
        assert (await thief.get("/look")).json() == [None, "ada's"]


async def test_a_session_middleware_in_the_wrong_place_is_said() -> None:
    auth = session_auth(carrier=FrameworkSessionCarrier())
    transport = httpx.ASGITransport(starlette_app(auth, outside=False))
    async with httpx.AsyncClient(transport=transport, base_url="https://app.example") as browser:
        with pytest.raises(ConfigError, match="install its session middleware outside"):
            await browser.get("/look")


# --- several in one app -----------------------------------------------------------------------------------------------


async def test_users_and_admins_share_nothing() -> None:
    backend = CountingBackend(MemoryBackend())
    people = session_auth(backend=backend)
    admins = session_auth(backend="memory://", session_key="admin", current_user_key="current_admin")
    app = FastAPI()
    app.add_middleware(SessionAuthMiddleware, auth=people)
    app.add_middleware(SessionAuthMiddleware, auth=admins)

    @app.post("/login/{key}")
    async def login(request: Request, key: str) -> bool:
        return await asgi.request_auth(request.scope, key).sign_in(PARAMS) is not None

    @app.post("/logout/{key}")
    async def logout(request: Request, key: str) -> None:
        await asgi.request_auth(request.scope, key).sign_out()

    @app.get("/")
    async def who(request: Request) -> list[bool]:
        return [request.state.current_user is not None, request.state.current_admin is not None]

    async with client(app) as browser:
        assert (await browser.get("/")).json() == [False, False]
        response = await browser.post("/login/current_admin")
        assert [cookie.partition("=")[0] for cookie in response.headers.get_list("set-cookie")] == ["__Host-admin"]
        assert backend.calls == []
        assert (await browser.get("/")).json() == [False, True]
        browser.cookies.set("__Host-auth", browser.cookies["__Host-admin"], domain="app.example")
        assert (await browser.get("/")).json() == [False, True]
        browser.cookies.delete("__Host-auth")
        await browser.post("/login/current_user")
        assert (await browser.get("/")).json() == [True, True]
        await browser.post("/logout/current_admin")
        assert (await browser.get("/")).json() == [True, False]


async def test_one_middleware_twice_reads_once() -> None:
    backend = CountingBackend(MemoryBackend())
    auth = session_auth(backend=backend)
    app = starlette_app(auth)
    app.add_middleware(SessionAuthMiddleware, auth=auth)
    async with client(app) as browser:
        await browser.post("/login", params=PARAMS)
        with backend.counting() as verbs:
            assert (await browser.get("/look")).json() == [PARAMS["email"], None]
        assert verbs == ["get"]


# --- the middleware itself --------------------------------------------------------------------------------------------


async def run(app: Any, scope: Mapping[str, Any]) -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await app(dict(scope), None, send)
    return sent


async def test_other_scopes_pass_untouched() -> None:
    scopes: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)

    await run(SessionAuthMiddleware(app, session_auth()), {"type": "lifespan"})
    assert scopes == [{"type": "lifespan"}]


@pytest.mark.parametrize(
    ("error", "code"), [(StoreUnavailable("down"), 1013), (NotSignedIn("no"), 1008)], ids=["outage", "nobody"]
)
async def test_a_websocket_closes_with_a_reason(error: Exception, code: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise error

    sent = await run(SessionAuthMiddleware(app, session_auth()), {"type": "websocket", "headers": []})
    assert [(message["type"], message["code"]) for message in sent] == [("websocket.close", code)]


async def test_a_websocket_knows_its_user() -> None:
    auth = session_auth()
    app = FastAPI()
    app.add_middleware(SessionAuthMiddleware, auth=auth)

    @app.websocket("/ws")
    async def talk(socket: WebSocket, user: Annotated[User | None, Depends(optional_auth_dependency)]) -> None:
        await socket.accept()
        await socket.send_text("nobody" if user is None else user.email)

    @app.post("/login")
    async def login(auth: CurrentRequestAuth[User, Me]) -> None:
        await auth.sign_in(PARAMS)

    async with client(app) as browser:
        await browser.post("/login")
        cookie = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    page = [(b"host", b"app.example"), (b"origin", b"https://app.example")]
    for headers, text in (([], "nobody"), ([*page, (b"cookie", cookie.encode())], PARAMS["email"])):
        messages: list[Any] = []

        async def send(message: Any, into: list[Any] = messages) -> None:
            into.append(message)

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        scope = {"type": "websocket", "path": "/ws", "query_string": b"", "headers": headers, "subprotocols": []}
        await app(scope, receive, send)
        assert messages[1] == {"type": "websocket.send", "text": text}


async def test_an_error_after_the_start_is_the_servers() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise StoreUnavailable("too late")

    with pytest.raises(StoreUnavailable):
        await run(SessionAuthMiddleware(app, session_auth()), {"type": "http", "headers": []})


async def test_errors_are_answered_as_wsgi_answers_them() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise Overloaded("busy")

    start, body = await run(SessionAuthMiddleware(app, session_auth()), {"type": "http", "headers": []})
    assert (start["status"], body["body"]) == (503, b'{"error":"overloaded"}')


async def test_a_scope_with_little_in_it() -> None:
    connection = asgi.ASGIConnection({"headers": [(b"user-agent", b"a browser"), (b"x", b"y")]})
    assert connection.client_ip() is None
    assert connection.session() is None
    assert connection.header("user-agent") == "a browser"
    assert connection.header("accept") is None
    assert connection.cookies() == ""


async def test_without_anyio_asyncio_lends_its_threads(
    anyio_backend_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asgi, "HAS_ANYIO", False)
    monkeypatch.setitem(sys.modules, "anyio", None)
    with pytest.raises(ConfigError, match="need anyio"):
        asgi.blocking_request_auth({})
    if anyio_backend_name == "asyncio":
        assert await store_threads(threading.get_ident) != threading.get_ident()


def test_fastapi_gives_the_dependencies_no_threads() -> None:
    import inspect

    for name in ("request_auth", "blocking_request_auth", "auth_dependency", "optional_auth_dependency"):
        assert inspect.iscoroutinefunction(getattr(fastapi, name))


async def test_all_of_a_blocking_part_is_lent_threads() -> None:
    auth = session_auth(backend=Noting(MemoryBackend(), "blocking"), users=NotingUsers("blocking"))
    now = auth.now()
    assert await auth.store.purge(10, now) == 0
    assert await auth.store.count(now) == 0
    assert await auth.revoke_everyone() == 0
    assert await auth.accounts.users.find("nobody") is None
    assert auth.accounts.users.validate({}) == {"email": ["can't be blank"]}
    await auth.aclose()


class SlowUsers(NotingUsers):
    """Users whose passwords take until they are told to go on."""

    def __init__(self) -> None:
        super().__init__("blocking")
        self.waiting = threading.Semaphore(0)
        self.go_on = threading.Event()

    async def authenticate(self, params: Mapping[str, object]) -> Account[Me] | None:
        if params["password"] == "slow":
            self.waiting.release()
            assert self.go_on.wait(60)
        return await super().authenticate(params)


async def test_pwd_10_sign_ins_that_wait_in_every_thread_keep_no_sign_out_waiting() -> None:
    users = SlowUsers()
    auth = session_auth(backend=Noting(MemoryBackend(), "blocking"), users=users)
    user = users.add(PARAMS["email"])
    signed_in = FakeConnection()
    assert await RequestAuth(auth, signed_in).sign_in_user(user) is not None
    async with anyio.create_task_group() as group:
        for number in range(THREADS):
            params = {"email": f"{number}@example.org", "password": "slow"}
            group.start_soon(RequestAuth(auth, FakeConnection()).sign_in, params)
        for _ in range(THREADS):
            assert await anyio.to_thread.run_sync(lambda: users.waiting.acquire(timeout=60))
        with anyio.fail_after(60):
            await RequestAuth(auth, signed_in).sign_out()
        users.go_on.set()
    assert auth.current_identity(signed_in) is None
