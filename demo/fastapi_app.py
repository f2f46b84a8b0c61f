"""The demo on FastAPI."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from powauth import RequestAuth
from powauth.integrations.fastapi import SessionAuthMiddleware, auth_dependency, request_auth
from powauth.pages.fastapi import pages

from .config import Me, User, make_auth, pages_of
from .wire import (
    MAX_BODY_BYTES,
    BodyTooLarge,
    UnsupportedBody,
    deletion_params,
    params_of,
    session_json,
    signed_in_json,
)

session_auth = make_auth(asynchronous=True)
app = FastAPI(title="powauth demo", lifespan=session_auth.lifespan)
app.add_middleware(SessionAuthMiddleware, auth=session_auth)
app.include_router(pages(session_auth, **pages_of()))


async def read_params(request: Request) -> Mapping[str, object]:
    """Return the request's JSON object. Stop reading a body that is too long."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLarge
    return params_of(request.headers.get("content-type"), bytes(body))


Params = Annotated[Mapping[str, object], Depends(read_params)]
Auth = Annotated[RequestAuth[User, Me], Depends(request_auth)]
CurrentUser = Annotated[Me, Depends(auth_dependency)]


@app.get("/", include_in_schema=False)
async def index(auth: Auth) -> Response:
    """Redirect to the pages."""
    return RedirectResponse("/login" if auth.current_user is None else "/account", 303)


@app.post("/registration", status_code=201)
async def register(params: Params, auth: Auth) -> dict[str, Any]:
    """Register and sign in."""
    return signed_in_json(await auth.register(params), auth.session)


@app.patch("/registration")
async def change(params: Params, auth: Auth) -> dict[str, Any]:
    """Change e-mail or password."""
    return signed_in_json(await auth.update_user(params), auth.session)


@app.delete("/registration", status_code=204)
async def unregister(params: Params, user: CurrentUser, auth: Auth) -> None:
    """Delete the account."""
    del user
    proof = deletion_params(params, auth.session)
    await auth.delete_user(proof, vouched=proof is None)


@app.post("/session", response_model=None)
async def sign_in(params: Params, auth: Auth) -> dict[str, Any] | Response:
    """Sign in."""
    user = await auth.sign_in(params)
    if user is None:
        return JSONResponse({"error": "invalid_credentials"}, 401)
    return signed_in_json(user, auth.session)


@app.get("/session")
async def whoami(user: CurrentUser, auth: Auth) -> dict[str, Any]:
    """Return the current user and session."""
    return signed_in_json(user, auth.session)


@app.delete("/session", status_code=204)
async def sign_out(auth: Auth) -> None:
    """Sign out."""
    await auth.sign_out()


@app.get("/sessions")
async def sessions(auth: Auth) -> dict[str, Any]:
    """List the user's sessions."""
    return {"sessions": [session_json(session) for session in await auth.sessions()]}


@app.delete("/sessions/{sid}", response_model=None)
async def revoke(sid: str, auth: Auth) -> Response:
    """End one session."""
    return Response(status_code=204) if await auth.revoke(sid) else JSONResponse({"error": "not_found"}, 404)


@app.delete("/sessions", status_code=204)
async def revoke_others(auth: Auth) -> None:
    """End all other sessions."""
    await auth.revoke_others()


@app.exception_handler(UnsupportedBody)
async def unsupported(request: Request, error: UnsupportedBody) -> Response:
    """Answer 415 to a body that is not JSON."""
    del request, error
    return JSONResponse({"error": "send application/json"}, 415)


@app.exception_handler(BodyTooLarge)
async def too_large(request: Request, error: BodyTooLarge) -> Response:
    """Answer 413 to a body that is too long."""
    del request, error
    return JSONResponse({"error": "too_large"}, 413)
