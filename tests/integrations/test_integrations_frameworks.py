"""FastAPI's typed dependencies, Starlette's authentication backend, Litestar's plugin."""

import logging
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any, cast

import litestar
import litestar.testing
import pytest
from fastapi import Depends, FastAPI
from fastapi.responses import PlainTextResponse
from litestar.middleware.session.server_side import ServerSideSessionConfig
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.datastructures import State
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from harness.support import SECRET, Clock, CountingBackend, Me, MemoryUsers, User
from powauth import (
    Account,
    AnyOf,
    Authenticator,
    BearerCarrier,
    BlockingRequestAuth,
    ConfigError,
    FrameworkSessionCarrier,
    InvalidParams,
    NotSignedIn,
    RequestAuth,
    SessionAuth,
    StoreUnavailable,
)
from powauth.backends.memory import MemoryBackend
from powauth.http.connection import Connection
from powauth.integrations import asgi
from powauth.integrations import fastapi as powauth_fastapi
from powauth.integrations.asgi import SessionAuthMiddleware
from powauth.integrations.fastapi import Auth, auth_dependency
from powauth.integrations.litestar import (
    CurrentBlockingRequestAuth,
    CurrentRequestAuth,
    PowAuthPlugin,
    require_fresh,
    require_no_user,
    require_user,
)
from powauth.integrations.starlette import SessionAuthBackend, blocking_request_auth, request_auth
from powauth.testing import sign_in

PARAMS = {"email": "ada@example.org", "password": "correct horse"}
PAGE = {"accept": "text/html"}
HTTPS = "https://app.example"


class Parts:
    """A SessionAuth with one user, over a backend that can be told to fail."""

    def __init__(self, **options: Any) -> None:
        self.users = MemoryUsers()
        self.ada = self.users.add(PARAMS["email"])
        self.backend = CountingBackend(MemoryBackend())
        self.clock = Clock()
        chosen: dict[str, Any] = {"secret_key": SECRET, "users": self.users, "backend": self.backend}
        self.auth: SessionAuth[User, Me] = SessionAuth(**chosen | {"clock": self.clock} | options)


# --- FastAPI --------------------------------------------------------------------------------------------------------


class Api(Parts):
    """A FastAPI app that uses every dependency of `Auth`."""

    def __init__(self, middleware: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.session = session = Auth(self.auth)
        self.app = app = FastAPI()
        app.add_middleware(SessionAuthMiddleware, auth=self.auth, **middleware or {})

        @app.get("/user")
        async def user(user: Annotated[User, Depends(session.identity)]) -> str:
            return user.email

        @app.get("/optional")
        async def optional(user: Annotated[User | None, Depends(session.optional_identity)]) -> str | None:
            return None if user is None else user.email

        @app.get("/fresh")
        async def fresh(user: Annotated[User, Depends(session.fresh(timedelta(minutes=5)))]) -> str:
            return user.email

        @app.get("/nobody", dependencies=[Depends(session.no_user)])
        async def nobody() -> str:
            return "nobody"

        @app.get("/plain")
        def plain(
            user: Annotated[Me, Depends(session.identity)],
            auth: Annotated[BlockingRequestAuth[User, Me], Depends(session.blocking_request_auth)],
        ) -> int:
            assert auth.current_user == user
            return len(auth.sessions())

        @app.post("/login")
        async def login(auth: Annotated[RequestAuth[User, Me], Depends(session.request_auth)]) -> str:
            user = await auth.sign_in(PARAMS)
            assert user is not None
            return user.email

        @app.get("/public")
        async def public() -> None: ...

    def client(self) -> TestClient:
        return TestClient(self.app, base_url=HTTPS, follow_redirects=False)


def test_fastapi_typed_dependencies() -> None:
    api = Api()
    client = api.client()
    assert client.get("/optional").json() is None
    assert client.get("/nobody").json() == "nobody"
    assert client.post("/login").json() == api.ada.email
    assert [client.get(path).json() for path in ("/user", "/optional", "/fresh")] == [api.ada.email] * 3
    assert client.get("/plain").json() == 1
    api.clock.advance(301)
    stale = client.get("/fresh")
    assert (stale.status_code, stale.json()) == (403, {"detail": "fresh_sign_in_required"})
    signed_in = client.get("/nobody")
    assert (signed_in.status_code, signed_in.json()) == (403, {"detail": "already_signed_in"})


def test_fastapi_answers_401_as_it_does() -> None:
    client = Api().client()
    for path in ("/user", "/fresh", "/plain"):
        refused = client.get(path)
        assert (refused.status_code, refused.json()) == (401, {"detail": "Not authenticated"})
        assert refused.headers["www-authenticate"] == "APIKey"


def test_rep_02_older_releases_of_starlette_take_no_message_for_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 0.52 an `HTTPException` looks its status up at once, so whatever else is given for one raises."""
    made = StarletteHTTPException.__init__

    def strict(self: StarletteHTTPException, status_code: int, *args: Any, **options: Any) -> None:
        HTTPStatus(status_code)
        made(self, status_code, *args, **options)

    monkeypatch.setattr(StarletteHTTPException, "__init__", strict)
    api = Api()
    api.app.add_api_route("/own", lambda: None, methods=["POST"], dependencies=[Depends(api.session.same_origin())])
    client = api.client()
    assert client.get("/user").status_code == 401
    assert client.get("/fresh").status_code == 401
    assert client.post("/own", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    client.post("/login")
    assert client.get("/nobody").status_code == 403
    api.clock.advance(301)
    assert client.get("/fresh").status_code == 403


@pytest.mark.parametrize("handled", [NotSignedIn, powauth_fastapi.NotAuthenticated, 401])
def test_fastapis_handlers_see_what_guards_refuse(handled: Any) -> None:
    api = Api()

    async def handler(request: Request, error: Exception) -> Response:
        return PlainTextResponse(f"{type(error).__name__}: {error}", 401)

    api.app.add_exception_handler(handled, handler)
    assert "NotAuthenticated" in api.client().get("/user").text


def test_fastapi_sends_people_to_sign_in_and_programs_nowhere() -> None:
    api = Api({"sign_in_path": "/login"})
    client = api.client()
    assert client.get("/user", headers=PAGE).headers["location"] == "/login?next=/user"
    assert client.get("/user").json() == {"detail": "Not authenticated"}
    sign_in(client, api.ada)
    api.clock.advance(301)
    assert client.get("/fresh", headers=PAGE).headers["location"] == "/login?next=/fresh"
    assert client.get("/nobody").json() == {"detail": "already_signed_in"}
    assert "You are signed in already." in client.get("/nobody", headers=PAGE).text


def test_fastapi_leaves_answers_to_an_app_that_has_its_own() -> None:
    def on_error(error: Exception, connection: Any) -> None:
        asked.append(type(error))

    asked: list[type[Exception]] = []
    client = Api({"on_error": on_error}).client()
    assert client.get("/user").json() == {"error": "not_signed_in"}
    assert asked == [NotSignedIn]


def test_fastapi_shows_the_cookie_as_a_security_scheme() -> None:
    document = Api().app.openapi()
    scheme = {"type": "apiKey", "in": "cookie", "name": "__Host-auth"}
    assert document["components"]["securitySchemes"] == {"__Host-auth": scheme}
    operations = [(path, found) for path, methods in document["paths"].items() for found in methods.values()]
    secured = {path for path, operation in operations if "security" in operation}
    assert secured == {"/user", "/optional", "/fresh", "/nobody", "/plain"}
    assert document["paths"]["/user"]["get"]["security"] == [{"__Host-auth": []}]


def test_fastapi_shows_the_frameworks_cookie_where_that_carries_the_id() -> None:
    auth = Parts(carrier=FrameworkSessionCarrier()).auth
    app = FastAPI()
    app.get("/", dependencies=[Depends(Auth(auth, cookie_name="my_session").identity)])(lambda: None)
    assert app.openapi()["components"]["securitySchemes"]["my_session"]["name"] == "my_session"


def test_fastapi_shows_nothing_for_an_authenticator_without_a_cookie() -> None:
    class ProxyAuth(Authenticator[User, Me]):
        """A header that a proxy sets would be looked at here."""

        async def fetch(self, connection: Connection) -> Me | None:
            return None

        async def create(self, connection: Connection, account: Account[Me], grant: Any = None) -> Account[Me] | None:
            return None

        async def delete(self, connection: Connection) -> None: ...

    app = FastAPI()
    app.get("/", dependencies=[Depends(Auth(ProxyAuth(MemoryUsers())).identity)])(lambda: None)
    assert "components" not in app.openapi()


def test_fastapi_refuses_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match="Authenticator"):
        Auth("auth")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="within"):
        Auth(Parts().auth).fresh(timedelta(0))
    app = FastAPI()
    app.get("/")(lambda user: user)
    app.get("/user", dependencies=[Depends(Auth(Parts().auth).identity)])(lambda: None)
    with pytest.raises(ConfigError, match="no SessionAuthMiddleware"):
        TestClient(app).get("/user")


def test_fastapi_in_an_outage() -> None:
    api = Api()
    client = api.client()
    sign_in(client, api.ada)
    api.backend.fail["*"] = StoreUnavailable("down")
    assert [client.get(path).status_code for path in ("/user", "/optional", "/fresh", "/nobody")] == [503] * 4
    assert client.get("/public").status_code == 200


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda state: state.current_user is None, id="attribute"),
        pytest.param(lambda state: getattr(state, "current_user", None) is None, id="getattr"),
        pytest.param(lambda state: hasattr(state, "current_user"), id="hasattr"),
        pytest.param(
            lambda state: state["current_user"],
            id="item",
            marks=pytest.mark.skipif(not hasattr(State, "__getitem__"), reason="this Starlette's State has no items"),
        ),
    ],
)
@pytest.mark.parametrize("app", [FastAPI, Starlette])
def test_in_an_outage_reading_the_state_is_503(app: Any, read: Callable[[Any], object]) -> None:
    parts = Parts()

    async def guarded(request: Request) -> JSONResponse:
        return JSONResponse(str(read(request.state)))

    async def public(request: Request) -> JSONResponse:
        request.state.seen = True
        return JSONResponse(request.state.seen)

    site = app()
    site.add_route("/guarded", guarded)
    site.add_route("/public", public)
    site.add_middleware(SessionAuthMiddleware, auth=parts.auth)
    client = TestClient(site, base_url=HTTPS)
    sign_in(client, parts.ada)
    assert client.get("/guarded").status_code == 200
    parts.backend.fail["*"] = StoreUnavailable("down")
    refused = client.get("/guarded")
    assert (refused.status_code, refused.json()) == (503, {"error": "store_unavailable"})
    assert refused.headers["retry-after"] == "5"
    assert client.get("/public").json() is True
    parts.backend.fail.clear()
    assert client.get("/guarded").status_code == 200


def test_fastapi_guards_a_websocket() -> None:
    api = Api()

    @api.app.websocket("/ws")
    async def socket(websocket: WebSocket, user: Annotated[User, Depends(auth_dependency)]) -> None:
        await websocket.accept()
        await websocket.send_text(user.email)
        await websocket.close()

    client = api.client()
    with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect("wss://app.example/ws"):
        pass
    assert (refused.value.code, refused.value.reason) == (1008, "not_signed_in")
    sign_in(client, api.ada)
    with client.websocket_connect("wss://app.example/ws", headers={"origin": HTTPS}) as connected:
        assert connected.receive_text() == api.ada.email


# --- Starlette ------------------------------------------------------------------------------------------------------


class Site(Parts):
    """A Starlette app over Starlette's own authentication middleware."""

    def __init__(self, backend: Callable[[], SessionAuthBackend] = SessionAuthBackend) -> None:
        super().__init__()

        @requires("authenticated")
        async def user(request: Request) -> Response:
            return JSONResponse([request.user.email, request.auth.scopes])

        @requires("authenticated", redirect="login")
        def page(request: Request) -> Response:
            return JSONResponse(request.user.email)

        @requires("admin")
        async def admin(request: Request) -> Response:
            return JSONResponse(request.user.email)

        async def who(request: Request) -> Response:
            return JSONResponse(request.user.email if request.user.is_authenticated else None)

        async def login(request: Request) -> Response:
            user = await request_auth(request).sign_in(PARAMS)
            assert user is not None
            return JSONResponse(user.email)

        def plain(request: Request) -> Response:
            return JSONResponse(len(blocking_request_auth(request).sessions()))

        async def public(request: Request) -> Response:
            return JSONResponse({})

        @requires("authenticated")
        async def socket(websocket: WebSocket) -> None:
            await websocket.accept()
            await websocket.send_text(websocket.user.email)
            await websocket.close()

        views = [user, page, admin, who, plain, public]
        self.app = Starlette(
            routes=[
                *(Route(f"/{view.__name__}", view) for view in views),
                Route("/login", login, methods=["GET", "POST"], name="login"),
                WebSocketRoute("/ws", socket),
            ],
            middleware=[
                Middleware(SessionAuthMiddleware, auth=self.auth),
                Middleware(AuthenticationMiddleware, backend=backend()),
            ],
        )

    def client(self) -> TestClient:
        return TestClient(self.app, base_url=HTTPS, follow_redirects=False)


def test_starlettes_user_auth_and_requires() -> None:
    site = Site()
    client = site.client()
    assert client.get("/who").json() is None
    assert client.get("/user").status_code == 403
    assert client.get("/page").headers["location"].startswith(f"{HTTPS}/login?next=")
    assert client.post("/login").json() == site.ada.email
    assert client.get("/user").json() == [site.ada.email, ["authenticated"]]
    assert client.get("/page").json() == site.ada.email
    assert client.get("/admin").status_code == 403
    assert client.get("/plain").json() == 1


def test_starlettes_scopes_may_be_roles() -> None:
    site = Site(lambda: SessionAuthBackend(scopes=lambda user: ["admin"] if user.name == "boss" else []))
    boss = site.users.add("boss@example.org", name="boss")
    client, other = site.client(), site.client()
    sign_in(client, boss)
    sign_in(other, site.ada)
    assert (client.get("/admin").status_code, other.get("/admin").status_code) == (200, 403)


def test_starlette_in_an_outage_takes_nobody_for_anonymous() -> None:
    site = Site()
    client = site.client()
    sign_in(client, site.ada)
    site.backend.fail["*"] = StoreUnavailable("down")
    for path in ("/user", "/page", "/admin", "/who", "/plain"):
        refused = client.get(path)
        assert (refused.status_code, refused.json()) == (503, {"error": "store_unavailable"})
    assert client.get("/public").status_code == 200


def test_starlette_guards_a_websocket() -> None:
    site = Site()
    client = site.client()
    with (
        pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)),
        client.websocket_connect("wss://app.example/ws"),
    ):
        pass
    sign_in(client, site.ada)
    with client.websocket_connect("wss://app.example/ws", headers={"origin": HTTPS}) as socket:
        assert socket.receive_text() == site.ada.email


def test_starlettes_backend_needs_the_middleware() -> None:
    app = Starlette(middleware=[Middleware(AuthenticationMiddleware, backend=SessionAuthBackend())])
    with pytest.raises(ConfigError, match="no SessionAuthMiddleware"):
        TestClient(app).get("/")


# --- Litestar -------------------------------------------------------------------------------------------------------


NEWER = """
import warnings
import litestar, litestar.di, litestar.params
vars(litestar.di).pop("NamedDependency", None)
warnings.simplefilter("ignore")
from powauth.integrations.litestar import CurrentRequestAuth, PowAuthPlugin
from powauth import RequestAuth
assert CurrentRequestAuth[int, int].__origin__ == RequestAuth[int, int]
assert type(CurrentRequestAuth[int, int].__metadata__[0]) is litestar.params.DependencyKwarg
"""


def test_rep_04_dependencies_have_the_mark_of_releases_before_2_23() -> None:
    subprocess.run([sys.executable, "-c", NEWER], check=True, timeout=60)


@litestar.post("/login")
async def login(request_auth: CurrentRequestAuth[User, Me], request: litestar.Request[User, Any, Any]) -> str:
    assert await request_auth.sign_in(PARAMS)
    return request.user.email


@litestar.post("/logout")
async def logout(request_auth: CurrentRequestAuth[User, Me], request: litestar.Request[User | None, Any, Any]) -> str:
    await request_auth.sign_out()
    return str(request.user)


@litestar.get("/user", guards=[require_user])
async def user(request: litestar.Request[User, Any, Any]) -> str:
    return request.user.email


@litestar.get("/fresh", guards=[require_fresh(timedelta(minutes=5))])
async def fresh(request: litestar.Request[User, Any, Any]) -> str:
    return request.user.email


@litestar.get("/nobody", guards=[require_no_user])
async def nobody() -> str:
    return "nobody"


@litestar.get("/who")
async def who(request: litestar.Request[User | None, Any, Any]) -> str:
    return "nobody" if request.user is None else request.user.email


@litestar.get("/state")
async def state(request: litestar.Request[User | None, Any, Any]) -> str:
    return "nobody" if request.state.current_user is None else str(request.state.current_user.email)


@litestar.get("/plain", sync_to_thread=True)
def plain(blocking_request_auth: CurrentBlockingRequestAuth[User, Me]) -> int:
    return len(blocking_request_auth.sessions())


@litestar.get("/plain/user", sync_to_thread=False, guards=[require_user])
def plain_user(blocking_request_auth: CurrentBlockingRequestAuth[User, Me]) -> str:
    return blocking_request_auth.require_user().email


@litestar.get("/plain/wrong", sync_to_thread=False)
def plain_wrong(blocking_request_auth: CurrentBlockingRequestAuth[User, Me]) -> int:
    return len(blocking_request_auth.sessions())


@litestar.get("/public")
async def public() -> None: ...


@litestar.get("/invalid")
async def invalid() -> None:
    raise InvalidParams({"name": ["is odd"]})


@litestar.get("/mistake")
async def mistake() -> None:
    raise ConfigError("odd")


@litestar.websocket("/ws", guards=[require_user])
async def socket(socket: litestar.WebSocket[User, Any, Any]) -> None:
    await socket.accept()
    await socket.send_text(socket.user.email)
    await socket.close()


HANDLERS = [login, logout, user, fresh, nobody, who, state, plain, plain_user, plain_wrong, public, invalid, mistake]


class Lite(Parts):
    """A Litestar app with one plugin."""

    def __init__(self, plugin: dict[str, Any] | None = None, middleware: Any = (), **options: Any) -> None:
        super().__init__(**options)
        self.app = litestar.Litestar(
            [*HANDLERS, socket],
            plugins=[PowAuthPlugin(self.auth, **plugin or {})],
            middleware=middleware,
            logging_config=None,
        )

    def client(self, backend: Any = "asyncio", **options: Any) -> litestar.testing.TestClient[Any]:
        client = litestar.testing.TestClient(self.app, base_url=HTTPS, backend=backend, **options)
        client.follow_redirects = False
        return client


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_litestars_user_guards_and_dependencies(backend: str) -> None:
    site = Lite()
    with site.client(backend) as client:
        assert (client.get("/who").text, client.get("/state").text) == ("nobody", "nobody")
        assert client.get("/nobody").text == "nobody"
        refused = client.get("/user")
        assert (refused.status_code, refused.json()) == (401, {"error": "not_signed_in"})
        assert client.post("/login").text == site.ada.email
        for path in ("/user", "/fresh", "/who", "/state", "/plain/user"):
            assert client.get(path).text == site.ada.email
        assert client.get("/plain").text == "1"
        assert client.get("/plain/wrong").status_code == 500
        assert client.get("/nobody").json() == {"error": "already_signed_in"}
        site.clock.advance(301)
        stale = client.get("/fresh")
        assert (stale.status_code, stale.json()) == (403, {"error": "fresh_sign_in_required"})
        site.clock.advance(600)
        assert "set-cookie" in client.get("/user").headers
        assert client.post("/logout").text == "None"
        assert client.get("/who").text == "nobody"


def test_litestar_answers_powauths_errors() -> None:
    with Lite({"sign_in_path": "/login"}).client() as client:
        assert client.get("/user", headers=PAGE).headers["location"] == "/login?next=/user"
        invalid = client.get("/invalid")
        assert (invalid.status_code, invalid.json()) == (422, {"errors": {"name": ["is odd"]}})
        assert invalid.headers["content-type"] == "application/json"
        assert client.get("/user").headers["cache-control"] == "no-store"
    with pytest.raises(ConfigError), Lite().client() as client:
        client.get("/mistake")


def test_litestar_in_an_outage() -> None:
    site = Lite()
    with site.client() as client:
        sign_in(client, site.ada)
        site.backend.fail["*"] = StoreUnavailable("down")
        for path in ("/user", "/fresh", "/nobody", "/plain", "/who", "/state"):
            refused = client.get(path)
            assert (refused.status_code, refused.json()) == (503, {"error": "store_unavailable"}), path
            assert refused.headers["retry-after"] == "5"
        assert client.get("/public").status_code == 200


def test_litestar_guards_a_websocket() -> None:
    site = Lite()
    with site.client() as client:
        with pytest.raises(litestar.exceptions.WebSocketException) as refused, client.websocket_connect("/ws"):
            pass
        assert refused.value.code == 1008
        sign_in(client, site.ada)
        with client.websocket_connect("wss://app.example/ws", headers={"origin": HTTPS}) as connected:
            assert connected.receive_text() == site.ada.email
        site.backend.fail["*"] = StoreUnavailable("down")
        with (
            pytest.raises(litestar.exceptions.WebSocketException) as away,
            client.websocket_connect("wss://app.example/ws", headers={"origin": HTTPS}),
        ):
            pass
        assert away.value.code == 1013


def test_litestars_own_session_may_carry_the_id() -> None:
    pytest.importorskip("cryptography", reason="Litestar's sessions in a cookie need cryptography")
    from litestar.middleware.session.client_side import CookieBackendConfig

    site = Lite(middleware=[CookieBackendConfig(secret=bytes(16)).middleware], carrier=FrameworkSessionCarrier())
    with site.client() as client:
        signed_in = client.post("/login")
        assert signed_in.text == site.ada.email
        assert list(client.cookies) == ["session"]
        assert client.get("/user").text == site.ada.email
        client.post("/logout")
        assert client.get("/who").text == "nobody"


def test_rep_40_litestars_sessions_on_the_server_are_refused_at_start() -> None:
    with pytest.raises(ConfigError, match="session fixation"):
        Lite(middleware=[ServerSideSessionConfig().middleware], carrier=FrameworkSessionCarrier())


def test_litestars_own_session_may_carry_the_id_beside_a_token_and_for_a_second_plugin() -> None:
    pytest.importorskip("cryptography", reason="Litestar's sessions in a cookie need cryptography")
    from litestar.middleware.session.client_side import CookieBackendConfig

    admins = Parts(
        current_user_key="current_admin",
        session_key="admin",
        carrier=AnyOf(FrameworkSessionCarrier(), BearerCarrier()),
    )

    @litestar.post("/login")
    async def login(request: litestar.Request[Any, Any, Any]) -> str:
        await asgi.request_auth(cast("asgi.Scope", request.scope), "current_admin").sign_in_user(admins.ada)
        return "done"

    @litestar.get("/")
    async def who(request: litestar.Request[Any, Any, Any]) -> str:
        admin = request.state.current_admin
        return "nobody" if admin is None else admin.email

    app = litestar.Litestar(
        [login, who],
        plugins=[PowAuthPlugin(Parts().auth), PowAuthPlugin(admins.auth, dependency="admin_auth")],
        middleware=[CookieBackendConfig(secret=bytes(16)).middleware],
    )
    with litestar.testing.TestClient(app, base_url=HTTPS) as client:
        assert client.post("/login").text == "done"
        assert client.get("/").text == admins.ada.email


def test_rep_40_litestars_sessions_on_the_server_are_refused_beside_a_token() -> None:
    carrier = AnyOf(FrameworkSessionCarrier(), BearerCarrier())
    with pytest.raises(ConfigError, match="session fixation"):
        Lite(middleware=[ServerSideSessionConfig().middleware], carrier=carrier)


@pytest.mark.parametrize("client_side", [False, True])
def test_rep_40_a_session_of_an_unknown_middleware_refuses_to_sign_in_with_litestar(client_side: bool) -> None:
    kept: dict[str, Any] = {}

    def on_server(app: Any) -> Any:
        async def serve(scope: Any, receive: Any, send: Any) -> None:
            scope["session"] = kept
            await app(scope, receive, send)

        return serve

    site = Lite(middleware=[on_server], carrier=FrameworkSessionCarrier(client_side=client_side))
    with site.client() as client:
        with nullcontext() if client_side else pytest.raises(ConfigError, match="session fixation"):
            client.post("/login")
        assert client.get("/who").text == (site.ada.email if client_side else "nobody")


def test_litestar_makes_one_client_for_all_routes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "powauth")
    Lite()
    assert [record.message.split(":")[0] for record in caplog.records] == ["sessions live in this process's memory"]


def test_litestars_plugins_are_told_apart() -> None:
    auth = Parts().auth
    with pytest.raises(ConfigError, match="two plugins"):
        litestar.Litestar(plugins=[PowAuthPlugin(auth), PowAuthPlugin(auth, dependency="other")])
    admins = Parts(current_user_key="current_admin", session_key="admin").auth
    with pytest.raises(ConfigError, match="dependency"):
        litestar.Litestar(plugins=[PowAuthPlugin(auth), PowAuthPlugin(admins)])
    with pytest.raises(ConfigError, match="Authenticator"):
        PowAuthPlugin("auth")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="within"):
        PowAuthPlugin(auth).require_fresh(timedelta(0))
