"""Starlette. Run it with ``uvicorn starlette_app:app``."""

from accounts import auth
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware as Authentication
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from powauth.integrations.starlette import SessionAuthBackend, SessionAuthMiddleware, request_auth, same_origin_required


async def register(request: Request) -> Response:
    user = await request_auth(request).register(await request.json())
    return JSONResponse({"email": user.email}, 201)


async def login(request: Request) -> Response:
    user = await request_auth(request).sign_in(await request.json())
    return JSONResponse({"email": user.email}) if user else JSONResponse({"error": "wrong"}, 401)


async def logout(request: Request) -> Response:
    await request_auth(request).sign_out()
    return Response(status_code=204)


@requires("authenticated", status_code=401)
async def me(request: Request) -> Response:
    return JSONResponse({"email": request.user.email})


middleware = [Middleware(SessionAuthMiddleware, auth=auth), Middleware(Authentication, backend=SessionAuthBackend())]
posts = [Route(f"/{view.__name__}", same_origin_required(view), methods=["POST"]) for view in (register, login, logout)]
app = Starlette(routes=[*posts, Route("/me", me)], middleware=middleware)
