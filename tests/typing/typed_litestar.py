"""Litestar: the dependencies have the app's own types."""

from datetime import timedelta
from typing import Annotated, Any, assert_type

from litestar import Litestar, Request, get, post
from litestar.params import Body
from model import Me, User, auth

from powauth import BlockingRequestAuth, RequestAuth
from powauth.integrations.litestar import (
    CurrentBlockingRequestAuth,
    CurrentRequestAuth,
    CurrentUser,
    PowAuthPlugin,
    require_fresh,
    require_user,
)

JSON = Annotated[dict[str, Any], Body()]

plugin = PowAuthPlugin(auth)
assert_type(plugin, PowAuthPlugin[User, Me])


@post("/register")
async def register(data: JSON, request_auth: CurrentRequestAuth[User, Me]) -> str:
    assert_type(request_auth, RequestAuth[User, Me])
    return (await request_auth.register(data)).nick


@post("/login")
async def login(data: JSON, request_auth: CurrentRequestAuth[User, Me]) -> str | None:
    user = await request_auth.sign_in(data)
    assert_type(user, Me | None)
    return user.nick if user else None


@post("/logout", sync_to_thread=True)
def logout(blocking_request_auth: CurrentBlockingRequestAuth[User, Me]) -> None:
    assert_type(blocking_request_auth, BlockingRequestAuth[User, Me])
    assert_type(blocking_request_auth.require_user(), Me)
    blocking_request_auth.sign_out()


@get("/row")
async def row(current_user: CurrentUser[User], optional_current_user: CurrentUser[User | None]) -> str:
    assert_type(current_user, User)
    assert_type(optional_current_user, User | None)
    return current_user.nick


@get("/me", guards=[require_user, plugin.require_fresh(timedelta(minutes=5)), require_fresh()])
async def me(request: Request[Me, Any, Any]) -> str:
    assert_type(request.user, Me)
    return request.user.nick


app = Litestar([register, login, logout, me], plugins=[plugin])
