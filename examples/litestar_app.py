"""Litestar. Run it with ``uvicorn litestar_app:app``."""

from typing import Any

from accounts import User, auth
from litestar import Litestar, Request, get, post
from litestar.di import NamedDependency
from litestar.exceptions import NotAuthorizedException
from litestar.params import JSONBody

from powauth import RequestAuth
from powauth.integrations.litestar import PowAuthPlugin, require_user


@post("/register")
async def register(data: JSONBody[dict[str, Any]], request_auth: NamedDependency[RequestAuth[User]]) -> dict[str, str]:
    return {"email": (await request_auth.create_user(data)).email}


@post("/login", status_code=200)
async def login(data: JSONBody[dict[str, Any]], request_auth: NamedDependency[RequestAuth[User]]) -> dict[str, str]:
    if (user := await request_auth.authenticate_user(data)) is None:
        raise NotAuthorizedException("wrong e-mail or password")
    return {"email": user.email}


@post("/logout", status_code=204)
async def logout(request_auth: NamedDependency[RequestAuth[User]]) -> None:
    await request_auth.clear_authenticated_user()


@get("/me", guards=[require_user])
async def me(request: Request[User, Any, Any]) -> dict[str, str]:
    return {"email": request.user.email}


app = Litestar([register, login, logout, me], plugins=[PowAuthPlugin(auth)])
