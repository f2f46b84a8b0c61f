"""Where a CORS middleware belongs: outside of powauth's, so that allowed origins can read powauth's answers."""

import warnings
from collections.abc import Callable
from typing import Any

import flask
import flask_cors
import litestar
import pytest
from fastapi import FastAPI
from litestar.config.cors import CORSConfig
from litestar.middleware import DefineMiddleware
from litestar.testing import TestClient as LitestarClient
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.testclient import TestClient
from werkzeug.test import Client

from harness.core_support import Site
from harness.support import User
from powauth import ConfigWarning, InvalidParams, SessionAuth
from powauth.backends.memory import MemoryBackend
from powauth.http.guards import require_user
from powauth.integrations import flask as flask_auth
from powauth.integrations import wsgi
from powauth.integrations.asgi import SessionAuthMiddleware
from powauth.integrations.flask import PowAuth
from powauth.integrations.litestar import PowAuthPlugin
from powauth.integrations.litestar import require_user as litestar_guard
from powauth.integrations.starlette import request_auth

HTTPS = "https://app.example"
ORIGIN = "https://shop.example"
ALLOWED = {"allow_origins": [ORIGIN], "allow_credentials": True}
FROM = {"origin": ORIGIN}
WARNING = "the CORS middleware is inside of powauth's"


@pytest.fixture
def auth() -> SessionAuth[User, Any]:
    return Site(MemoryBackend()).auth


async def guarded(request: Request) -> Response:
    require_user(request_auth(request))
    raise AssertionError


async def invalid(request: Request) -> Response:
    raise InvalidParams({"email": ["is taken"]})


async def public(request: Request) -> Response:
    return Response("public")


ROUTES = [
    Route("/guarded", guarded),
    Route("/invalid", invalid),
    Route("/public", public),
    Mount("/sub", FastAPI(routes=[Route("/guarded", guarded), Route("/invalid", invalid)])),
]


def cors(app: Any) -> Any:
    app.add_middleware(CORSMiddleware, **ALLOWED)


def starts(app: Any) -> None:
    """Start an app as a server does: its middlewares are made."""
    with TestClient(app, base_url=HTTPS) as client:
        assert client.get("/public").status_code in (200, 404)


def readable(response: Any) -> bool:
    """Whether a script of the allowed origin can read a response that was made with the user's cookie."""
    headers = response.headers
    found = (headers.get("access-control-allow-origin"), headers.get("access-control-allow-credentials"))
    varies = ", ".join(headers.get_list("vary") if hasattr(headers, "get_list") else headers.getlist("vary"))
    assert "cookie" in varies.lower()
    return found == (ORIGIN, "true")


@pytest.mark.parametrize("framework", [Starlette, FastAPI])
def test_rep_45_every_answer_passes_a_cors_middleware_that_is_outside(
    auth: SessionAuth[User, Any], framework: Callable[..., Any]
) -> None:
    app = framework(routes=ROUTES)
    app.add_middleware(SessionAuthMiddleware, auth=auth)
    cors(app)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with TestClient(app, base_url=HTTPS, headers=FROM) as client:
            answers = {path: client.get(path) for path in ("/guarded", "/invalid", "/sub/guarded", "/sub/invalid")}
            assert [answer.status_code for answer in answers.values()] == [401, 422, 401, 422]
            assert all(readable(answer) for answer in answers.values())
            preflight = client.options("/guarded", headers={"access-control-request-method": "GET"})
            assert preflight.status_code == 200
            assert (
                "access-control-allow-origin"
                not in client.get("/guarded", headers={"origin": "https://x.example"}).headers
            )


class Passing:
    """A middleware of the app's own."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


@pytest.mark.parametrize("framework", [Starlette, FastAPI])
@pytest.mark.parametrize("between", [[], [GZipMiddleware], [GZipMiddleware, Passing]])
def test_rep_45_a_cors_middleware_that_is_inside_warns_at_start(
    auth: SessionAuth[User, Any], framework: Callable[..., Any], between: list[Any]
) -> None:
    app = framework(routes=ROUTES)
    cors(app)
    for each in between:
        app.add_middleware(each)
    app.add_middleware(SessionAuthMiddleware, auth=auth)
    with pytest.warns(ConfigWarning, match=WARNING) as caught:
        starts(app)
    assert len(caught) == 1
    assert not readable(TestClient(app, base_url=HTTPS, headers=FROM).get("/guarded"))  # which is what it warns of


def test_rep_45_the_order_of_a_list_of_middlewares_counts(auth: SessionAuth[User, Any]) -> None:
    own = Middleware(SessionAuthMiddleware, auth=auth)
    other = Middleware(CORSMiddleware, **ALLOWED)  # type: ignore[arg-type]
    starts(Starlette(routes=ROUTES, middleware=[other, own]))
    with pytest.warns(ConfigWarning, match=WARNING):
        starts(Starlette(routes=ROUTES, middleware=[own, other]))


class OwnCORS(CORSMiddleware):
    """An app's own kind of it."""


def test_rep_45_a_middleware_around_the_app_warns_at_construction(auth: SessionAuth[User, Any]) -> None:
    app = Starlette(routes=ROUTES)
    SessionAuthMiddleware(app, auth)
    cors(app)
    for inside in (app, GZipMiddleware(app), OwnCORS(Starlette(), **ALLOWED), CORSMiddleware(app, **ALLOWED)):  # type: ignore[arg-type]
        with pytest.warns(ConfigWarning, match=WARNING):
            SessionAuthMiddleware(inside, auth)


@litestar.get("/guarded", guards=[litestar_guard])
async def litestar_guarded() -> None: ...


@litestar.get("/invalid")
async def litestar_invalid() -> None:
    raise InvalidParams({"email": ["is taken"]})


@litestar.get("/public")
async def litestar_public() -> str:
    return "public"


HANDLERS: list[Any] = [litestar_guarded, litestar_invalid, litestar_public]
STARLETTES: Any = CORSMiddleware
CONFIG = CORSConfig(allow_origins=[ORIGIN], allow_credentials=True)


@pytest.mark.parametrize(
    "options",
    [{"cors_config": CONFIG}, {"middleware": [DefineMiddleware(STARLETTES, **ALLOWED)]}],
    ids=["config", "middleware"],
)
def test_rep_45_every_answer_of_the_litestar_plugin_passes_cors(
    auth: SessionAuth[User, Any], options: dict[str, Any]
) -> None:
    app = litestar.Litestar(HANDLERS, plugins=[PowAuthPlugin(auth)], openapi_config=None, **options)
    with LitestarClient(app, base_url=HTTPS) as client:
        for path, status in (("/guarded", 401), ("/invalid", 422), ("/public", 200)):
            response = client.get(path, headers=FROM)
            assert response.status_code == status
            assert readable(response)
            assert "origin" in ", ".join(response.headers.get_list("vary")).lower()


def test_rep_45_a_middleware_around_litestar_with_cors_warns(auth: SessionAuth[User, Any]) -> None:
    plain: Any = litestar.Litestar(HANDLERS, openapi_config=None)
    SessionAuthMiddleware(plain, auth)
    inside: Any = litestar.Litestar(HANDLERS, openapi_config=None, cors_config=CONFIG)
    with pytest.warns(ConfigWarning, match=WARNING):
        SessionAuthMiddleware(inside, auth)


def flask_app(auth: SessionAuth[User, Any], *parts: str) -> flask.Flask:
    """A Flask app with the extension and Flask-CORS, installed in the order of ``parts``."""
    app = flask.Flask(__name__)
    for part in parts:
        if part == "powauth":
            PowAuth(app, auth)
        else:
            flask_cors.CORS(app, origins=[ORIGIN], supports_credentials=True)

    @app.get("/guarded")
    @flask_auth.login_required
    def guarded() -> str:
        return "guarded"

    @app.get("/invalid")
    def invalid() -> str:
        raise InvalidParams({"email": ["is taken"]})

    return app


@pytest.mark.parametrize("parts", [("powauth", "cors"), ("cors", "powauth")])
def test_rep_45_every_answer_of_the_flask_extension_passes_flask_cors(
    auth: SessionAuth[User, Any], parts: tuple[str, ...]
) -> None:
    client = flask_app(auth, *parts).test_client()
    for path, status in (("/guarded", 401), ("/invalid", 422)):
        response = client.get(path, headers=FROM)
        assert response.status_code == status
        assert readable(response)
    assert client.options("/guarded", headers={**FROM, "access-control-request-method": "POST"}).status_code == 200


def test_rep_45_a_wsgi_middleware_around_an_app_with_flask_cors_warns(auth: SessionAuth[User, Any]) -> None:
    plain = flask_app(auth)
    wsgi.SessionAuthMiddleware(plain, auth)
    wsgi.SessionAuthMiddleware(plain.wsgi_app, auth)
    app = flask_app(auth, "cors")
    for inside in (app, app.wsgi_app):
        with pytest.warns(ConfigWarning, match=WARNING):
            outside = wsgi.SessionAuthMiddleware(inside, auth)
        assert "access-control-allow-origin" not in Client(outside).get("/guarded", headers=FROM).headers


class Endless:
    """An app that hands everything on to itself."""

    app: Any

    def __init__(self) -> None:
        self.app = self

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


def test_rep_45_looking_for_it_ends(auth: SessionAuth[User, Any]) -> None:
    SessionAuthMiddleware(Endless(), auth)
