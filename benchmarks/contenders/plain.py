"""The smallest honest apps: no framework, one page for the signed-in user and one to sign in."""

from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

from benchmarks.contenders.base import EMAIL, READ_PATH, ASGIApp, Receive, Scope, Send

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

EmailOf = Callable[[Any], str | None]
"""A function of a scope or an environ. It returns the signed-in user's e-mail address; ``None`` if there is none."""

Headers = list[tuple[str, str]]


def anyone(_: object) -> str:
    """Return the user's address in the app without a layer."""
    return EMAIL


def asgi_app(email_of: EmailOf, sign_in: Callable[[Scope], Awaitable[Headers]] | None = None) -> ASGIApp:
    """Make an ASGI app. ``sign_in`` handles any path but `READ_PATH`, and returns headers of the response."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        del receive
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        if scope["path"] == READ_PATH:
            email = email_of(scope)
            status, body = (200, email.encode()) if email is not None else (401, b"")
        else:
            assert sign_in is not None
            headers += [(name.encode(), value.encode()) for name, value in await sign_in(scope)]
            status, body = 200, b""
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return app


def wsgi_app(email_of: EmailOf, sign_in: Callable[[Any], Headers] | None = None) -> "WSGIApplication":
    """Make the same app for WSGI."""

    def app(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        headers = [("Content-Type", "text/plain; charset=utf-8")]
        if environ["PATH_INFO"] == READ_PATH:
            email = email_of(environ)
            status, body = ("200 OK", email.encode()) if email is not None else ("401 Unauthorized", b"")
        else:
            assert sign_in is not None
            headers += sign_in(environ)
            status, body = "200 OK", b""
        start_response(status, headers)
        return [body]

    return app
