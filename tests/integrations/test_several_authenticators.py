"""Several authenticators in one app: each needs its own ``session_key``, or one would accept the users of another."""

from collections.abc import Callable
from typing import Any

import flask
import litestar
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.testclient import TestClient
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import Client

from harness.support import SECRET, MemoryUsers
from powauth import (
    AnyOf,
    BearerCarrier,
    ConfigError,
    ConfigWarning,
    CookieCarrier,
    FrameworkSessionCarrier,
    SessionAuth,
)
from powauth.backends.memory import MemoryBackend
from powauth.integrations import asgi, wsgi
from powauth.integrations.flask import PowAuth
from powauth.integrations.litestar import PowAuthPlugin

HTTPS = "https://app.example"
SAME = "give one of them its own session_key"

BACKEND = MemoryBackend()

Auth = SessionAuth[Any, Any]


def make(**options: Any) -> Auth:
    return SessionAuth(secret_key=SECRET, users=MemoryUsers(), backend=BACKEND, **options)


def staff(**options: Any) -> Auth:
    return make(current_user_key="current_admin", **options)


async def asgi_page(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": repr(sorted(scope["state"])).encode()})


def wsgi_page(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [repr(sorted(key for key in environ if key.startswith("powauth."))).encode()]


class Opaque:
    """A middleware that does not show which app is behind it."""

    def __init__(self, app: Any) -> None:
        self._behind = app

    def __call__(self, *arguments: Any) -> Any:
        return self._behind(*arguments)


def _asgi(outer: Auth, inner: Auth) -> None:
    asgi.SessionAuthMiddleware(asgi.SessionAuthMiddleware(asgi_page, inner), outer)


def _asgi_hidden(outer: Auth, inner: Auth) -> None:
    app = asgi.SessionAuthMiddleware(Opaque(asgi.SessionAuthMiddleware(asgi_page, inner)), outer)
    TestClient(app, base_url=HTTPS).get("/")


def _asgi_socket(outer: Auth, inner: Auth) -> None:
    app = asgi.SessionAuthMiddleware(Opaque(asgi.SessionAuthMiddleware(asgi_page, inner)), outer)
    with TestClient(app, base_url=HTTPS).websocket_connect("/", headers={"origin": HTTPS}):
        pass


def _starlette(outer: Auth, inner: Auth) -> None:
    middleware = [Middleware(asgi.SessionAuthMiddleware, auth=auth) for auth in (outer, inner)]
    Starlette(middleware=middleware).build_middleware_stack()


def _around_starlette(outer: Auth, inner: Auth) -> None:
    asgi.SessionAuthMiddleware(Starlette(middleware=[Middleware(asgi.SessionAuthMiddleware, auth=inner)]), outer)


def _wsgi(outer: Auth, inner: Auth) -> None:
    wsgi.SessionAuthMiddleware(wsgi.SessionAuthMiddleware(wsgi_page, inner), outer)


def _wsgi_hidden(outer: Auth, inner: Auth) -> None:
    app = wsgi.SessionAuthMiddleware(Opaque(wsgi.SessionAuthMiddleware(wsgi_page, inner)), outer)
    Client(app).get("/", base_url=HTTPS)


def _dispatched(outer: Auth, inner: Auth) -> None:
    mounts: dict[str, Any] = {"/admin": wsgi.SessionAuthMiddleware(wsgi_page, inner)}
    app = wsgi.SessionAuthMiddleware(DispatcherMiddleware(wsgi_page, mounts), outer)
    assert Client(app).get("/", base_url=HTTPS).status_code == 200
    Client(app).get("/admin/", base_url=HTTPS)


def _litestar(outer: Auth, inner: Auth) -> None:
    litestar.Litestar(plugins=[PowAuthPlugin(outer), PowAuthPlugin(inner, dependency="admin_auth")])


def _flask(outer: Auth, inner: Auth) -> None:
    app = flask.Flask("shop")
    PowAuth(app, outer)
    PowAuth(app, inner)


def _around_flask(outer: Auth, inner: Auth) -> None:
    app = flask.Flask("shop")
    PowAuth(app, inner)
    app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
    wsgi.SessionAuthMiddleware(app.wsgi_app, outer)


def _around_flask_hidden(outer: Auth, inner: Auth) -> None:
    app = flask.Flask("shop")
    app.config["PROPAGATE_EXCEPTIONS"] = True
    app.wsgi_app = wsgi.SessionAuthMiddleware(app.wsgi_app, outer)  # type: ignore[method-assign]
    PowAuth(app, inner)
    app.test_client().get("/", base_url=HTTPS)


Combine = Callable[[Auth, Auth], None]

ANY: list[Combine] = [
    _asgi,
    _asgi_hidden,
    _asgi_socket,
    _starlette,
    _around_starlette,
    _wsgi,
    _wsgi_hidden,
    _dispatched,
    _litestar,
    _flask,
    _around_flask,
    _around_flask_hidden,
]
ways = pytest.mark.parametrize("combine", ANY, ids=lambda combine: combine.__name__[1:])


@ways
def test_two_authenticators_with_one_session_key_are_refused(combine: Combine) -> None:
    with pytest.raises(ConfigError, match=SAME):
        combine(make(), staff())


@pytest.mark.parametrize("combine", [each for each in ANY if each not in (_litestar, _flask, _asgi_socket)])
def test_two_with_keys_of_their_own_and_one_twice_are_not(combine: Combine) -> None:
    auth = make()
    combine(auth, staff(session_key="admin"))
    combine(auth, auth)


def test_frameworks_take_two_with_keys_of_their_own() -> None:
    for combine in (_litestar, _flask):
        combine(make(), staff(session_key="admin"))


def _plain_http() -> CookieCarrier:
    with pytest.warns(ConfigWarning):
        return CookieCarrier(insecure_http=True)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: AnyOf(CookieCarrier(), BearerCarrier()), CookieCarrier),
        (lambda: AnyOf(CookieCarrier(), BearerCarrier()), BearerCarrier),
        (lambda: AnyOf(FrameworkSessionCarrier(), BearerCarrier()), FrameworkSessionCarrier),
        (BearerCarrier, BearerCarrier),
        # The names of the cookies differ, but a client can copy an id from one to the other.
        (CookieCarrier, lambda: CookieCarrier(path="/admin")),
        (CookieCarrier, _plain_http),
    ],
    ids=["cookies", "tokens", "framework's", "tokens alone", "prefixes", "plain http"],
)
def test_each_part_of_a_carrier_counts(one: Callable[[], Any], other: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError, match=SAME):
        _wsgi(make(carrier=one()), staff(carrier=other()))
    _wsgi(make(carrier=one()), staff(carrier=other(), session_key="admin"))


def test_carriers_of_two_kinds_stand_side_by_side() -> None:
    _wsgi(make(carrier=CookieCarrier()), staff(carrier=BearerCarrier()))
    _wsgi(make(carrier=CookieCarrier()), staff(carrier=FrameworkSessionCarrier()))


def test_the_app_name_is_part_of_the_name() -> None:
    with pytest.raises(ConfigError, match=SAME):
        _wsgi(make(session_key="shop_admin"), staff(app_name="shop", session_key="admin"))
    _wsgi(make(app_name="shop"), staff(app_name="admin"))


@pytest.mark.parametrize("app", [type("App", (), {"plugins": 3, "user_middleware": None})(), Opaque(None)])
def test_an_app_of_any_form_is_examined(app: Any) -> None:
    assert asgi.SessionAuthMiddleware(app, make()).app is app


def test_an_endless_chain_of_apps_ends() -> None:
    class Endless:
        @property
        def app(self) -> "Endless":
            return Endless()

        def __call__(self, *arguments: Any) -> Any: ...

    app: Any = Endless()
    assert wsgi.SessionAuthMiddleware(app, make()).app is app
