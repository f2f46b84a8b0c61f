"""Plain ASGI and WSGI: the request-bound object has the app's own types, if the authenticator asks for it."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, assert_type

from model import Me, User, auth

from powauth import BlockingRequestAuth, RequestAuth
from powauth.http.guards import require_user
from powauth.integrations import asgi, wsgi

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


async def hello(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
    session = asgi.request_auth(scope, auth)
    assert_type(session, RequestAuth[User, Me])
    assert_type(asgi.blocking_request_auth(scope, auth), BlockingRequestAuth[User, Me])
    assert_type(require_user(session), Me)
    await send({"type": "http.response.start", "status": 204})


def hello_wsgi(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    session = wsgi.request_auth(environ, auth)
    assert_type(session, BlockingRequestAuth[User, Me])
    start_response("200 OK", [])
    return [require_user(session).nick.encode()]


asgi_app = asgi.SessionAuthMiddleware(hello, auth)
wsgi_app = wsgi.SessionAuthMiddleware(hello_wsgi, auth)
