"""Litestar. Run it with ``uvicorn litestar_app:app``."""

from typing import Annotated, Any

from accounts import Me, User, auth
from litestar import Litestar, Request, get, post
from litestar.exceptions import NotAuthorizedException
from litestar.params import Body

from powauth.integrations.litestar import CurrentRequestAuth, PowAuthPlugin, require_same_origin, require_user

JSON = Annotated[dict[str, Any], Body()]


@post("/register")
async def register(data: JSON, request_auth: CurrentRequestAuth[User, Me]) -> dict[str, str]:
    return {"email": (await request_auth.register(data)).email}


@post("/login", status_code=200)
async def login(data: JSON, request_auth: CurrentRequestAuth[User, Me]) -> dict[str, str]:
    if (user := await request_auth.sign_in(data)) is None:
        raise NotAuthorizedException("wrong e-mail or password")
    return {"email": user.email}


@post("/logout", status_code=204)
async def logout(request_auth: CurrentRequestAuth[User, Me]) -> None:
    await request_auth.sign_out()


@get("/me", guards=[require_user])
async def me(request: Request[Me, Any, Any]) -> dict[str, str]:
    return {"email": request.user.email}


app = Litestar([register, login, logout, me], guards=[require_same_origin()], plugins=[PowAuthPlugin(auth)])
