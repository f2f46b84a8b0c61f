"""Plain ASGI, no framework. Run it with ``uvicorn asgi_app:app --lifespan off``."""

import json
from typing import Any

from accounts import auth

from powauth import NotSignedIn
from powauth.http.guards import require_same_origin
from powauth.integrations.asgi import Receive, Scope, Send, SessionAuthMiddleware, request_auth


async def routes(scope: Scope, params: dict[str, Any]) -> tuple[int, dict[str, str]]:
    session = request_auth(scope)
    require_same_origin(session)  # a page of another site must sign nobody in or out
    match scope["method"], scope["path"]:
        case "POST", "/register":
            return 201, {"email": (await session.register(params)).email}
        case "POST", "/login":
            if (user := await session.sign_in(params)) is None:
                raise NotSignedIn("wrong e-mail or password")  # the middleware answers it with a 401
            return 200, {"email": user.email}
        case "POST", "/logout":
            await session.sign_out()
            return 200, {}
        case "GET", "/me":
            return 200, {"email": session.require_user().email}
    return 404, {"error": "not_found"}


async def serve(scope: Scope, receive: Receive, send: Send) -> None:
    body = (await receive()).get("body") or b"{}"  # for large bodies, read further messages
    status, content = await routes(scope, json.loads(body))
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})


app = SessionAuthMiddleware(serve, auth)
