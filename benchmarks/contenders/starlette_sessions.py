"""Starlette's SessionMiddleware: the whole session is in the cookie."""

from collections.abc import Callable

from benchmarks.contenders.base import EMAIL, ASGIApp, Contender, Scope, constant
from benchmarks.contenders.plain import Headers, anyone, asgi_app


def email_in_session(scope: Scope) -> str | None:
    """Return the address that the app put into the session at the sign-in."""
    email: str | None = scope["session"].get("email")
    return email


async def put_into_session(scope: Scope) -> Headers:
    """Sign in to an app whose session is a dict."""
    scope["session"]["email"] = EMAIL
    return []


def _layered() -> ASGIApp:
    from starlette.middleware.sessions import SessionMiddleware

    app: ASGIApp = SessionMiddleware(
        asgi_app(email_in_session, put_into_session), secret_key="a secret of this contender", https_only=True
    )
    return app


_bare: Callable[[], ASGIApp] = lambda: asgi_app(anyone)  # noqa: E731

CONTENDERS = (
    Contender(
        "starlette",
        "Starlette SessionMiddleware",
        "asgi",
        constant(_layered, _bare),
        "everything in a signed cookie, nothing on the server",
        "signature, age; cannot be revoked, and sets the cookie again with every response",
        ("starlette", "itsdangerous"),
    ),
)
