"""FastAPI. Run it with ``uvicorn fastapi_app:app``."""

from typing import Annotated, Any

from accounts import Me, User, auth
from fastapi import Depends, FastAPI, HTTPException

from powauth import RequestAuth
from powauth.integrations.fastapi import Auth, SessionAuthMiddleware

session = Auth(auth)
CurrentUser = Annotated[Me, Depends(session.identity)]
Session = Annotated[RequestAuth[User, Me], Depends(session.request_auth)]
app = FastAPI(lifespan=auth.lifespan)
app.add_middleware(SessionAuthMiddleware, auth=auth)


@app.post("/register", status_code=201)
async def register(params: dict[str, Any], session: Session) -> dict[str, str]:
    return {"email": (await session.register(params)).email}


@app.post("/login")
async def login(params: dict[str, Any], session: Session) -> dict[str, str]:
    if (user := await session.sign_in(params)) is None:
        raise HTTPException(401, "wrong e-mail or password")
    return {"email": user.email}


@app.post("/logout", status_code=204)
async def logout(session: Session) -> None:
    await session.sign_out()


@app.get("/me")
async def me(user: CurrentUser) -> dict[str, str]:
    return {"email": user.email}
