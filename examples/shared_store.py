"""A Flask app and a FastAPI app on one store: ``gunicorn shared_store:web`` and ``uvicorn shared_store:api``."""

from typing import Annotated

from accounts import Me, User, auth
from fastapi import Depends, FastAPI
from flask import Flask, request
from flask.typing import ResponseReturnValue

from powauth import RequestAuth
from powauth.integrations import fastapi, flask

web, api, session = Flask(__name__), FastAPI(lifespan=auth.lifespan), fastapi.Auth(auth)
flask.PowAuth(web, auth)
api.add_middleware(fastapi.SessionAuthMiddleware, auth=auth)


@web.post("/register")
def register() -> ResponseReturnValue:
    return {"email": flask.request_auth().register(request.get_json()).email}, 201


@web.get("/me")
@flask.login_required
def who_on_flask() -> ResponseReturnValue:
    return {"email": flask.current_user.email}


@api.get("/me")
async def who_on_fastapi(user: Annotated[Me, Depends(session.identity)]) -> dict[str, str]:
    return {"email": user.email}


@api.post("/logout", status_code=204)
async def logout(session: Annotated[RequestAuth[User, Me], Depends(session.request_auth)]) -> None:
    await session.sign_out()
