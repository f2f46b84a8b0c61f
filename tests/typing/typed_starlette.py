"""Starlette: the request-bound object has the app's own types, if it is asked for with the authenticator."""

from typing import assert_type

from model import Me, User, auth
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from powauth import BlockingRequestAuth, RequestAuth
from powauth.http.guards import require_fresh, require_user
from powauth.integrations.starlette import (
    SessionAuthMiddleware,
    blocking_request_auth,
    request_auth,
    same_origin_required,
)


async def login(request: Request) -> Response:
    session = request_auth(request, auth)
    assert_type(session, RequestAuth[User, Me])
    user = await session.sign_in(await request.json())
    assert_type(user, Me | None)
    return JSONResponse(user.nick if user else None)


async def me(request: Request) -> Response:
    user = require_user(request_auth(request, auth))
    assert_type(user, Me)
    assert_type(require_fresh(request_auth(request, auth)), Me)
    return JSONResponse(user.nick)


@same_origin_required
async def logout(request: Request) -> Response:
    session: RequestAuth[User, Me] = request_auth(request)
    await session.sign_out()
    return Response(status_code=204)


def plain(request: Request) -> Response:
    session = blocking_request_auth(request, auth)
    assert_type(session, BlockingRequestAuth[User, Me])
    assert_type(session.current_user, Me | None)
    return JSONResponse(len(session.sessions()))


app = Starlette(
    routes=[Route("/login", login), Route("/me", me), Route("/logout", logout), Route("/plain", plain)],
    middleware=[Middleware(SessionAuthMiddleware, auth=auth, sign_in_path="/login")],
)
