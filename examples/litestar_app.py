"""Litestar. Run it with ``uvicorn litestar_app:app``."""

from typing import Annotated, Any

from accounts import User, auth
from litestar import Litestar, Request, get, post
from litestar.exceptions import NotAuthorizedException
from litestar.params import Body

from powauth.integrations.litestar import CurrentRequestAuth, PowAuthPlugin, require_user

JSON = Annotated[dict[str, Any], Body()]


@post("/register")
async def register(data: JSON, request_auth: CurrentRequestAuth[User]) -> dict[str, str]:
    return {"email": (await request_auth.create_user(data)).email}


@post("/login", status_code=200)
async def login(data: JSON, request_auth: CurrentRequestAuth[User]) -> dict[str, str]:
    if (user := await request_auth.authenticate_user(data)) is None:
        raise NotAuthorizedException("wrong e-mail or password")
    return {"email": user.email}


@post("/logout", status_code=204)
async def logout(request_auth: CurrentRequestAuth[User]) -> None:
    await request_auth.clear_authenticated_user()


@get("/me", guards=[require_user])
async def me(request: Request[User, Any, Any]) -> dict[str, str]:
    return {"email": request.user.email}


app = Litestar([register, login, logout, me], plugins=[PowAuthPlugin(auth)])
