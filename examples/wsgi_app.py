"""Plain WSGI, no framework. Run it with ``python wsgi_app.py 8000``."""

import json
import sys
from typing import Any
from wsgiref.simple_server import make_server

from accounts import auth

from powauth import NotSignedIn
from powauth.http.guards import require_same_origin
from powauth.integrations.wsgi import SessionAuthMiddleware, request_auth


def routes(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    session, status, content = request_auth(environ), "200 OK", {}
    require_same_origin(session)  # a page of another site must sign nobody in or out
    params = json.loads(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)) or b"{}")
    match environ["REQUEST_METHOD"], environ["PATH_INFO"]:
        case "POST", "/register":
            status, content = "201 Created", {"email": session.register(params).email}
        case "POST", "/login":
            if (user := session.sign_in(params)) is None:
                raise NotSignedIn("wrong e-mail or password")  # the middleware answers it with a 401
            content = {"email": user.email}
        case "POST", "/logout":
            session.sign_out()
        case "GET", "/me":
            content = {"email": session.require_user().email}
        case _:
            status = "404 Not Found"
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(content).encode()]


app = SessionAuthMiddleware(routes, auth)
if __name__ == "__main__":
    make_server("127.0.0.1", int(sys.argv[1]), app).serve_forever()
