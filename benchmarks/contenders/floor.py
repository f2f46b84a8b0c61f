"""The floor: the least that a session on the server can cost in Python. It is written by hand for this purpose.

It finds the cookie, checks a MAC, looks up a dict, checks an expiry, and puts the user where the handler reads it. It
renews nothing, ends nothing, does not notice two cookies of one name, and tells caches nothing.
"""

import secrets
from collections.abc import Iterable
from hashlib import blake2b
from hmac import compare_digest
from time import time
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.contenders.base import EMAIL, ASGIApp, Contender, Receive, Scope, Send, constant
from benchmarks.contenders.plain import Headers, anyone, asgi_app, wsgi_app

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

NAME = "floor"
PREFIX = f"{NAME}="
VALUE_START = len(PREFIX)
MAC_START = VALUE_START + 22
LIFETIME_SECONDS = 1_800.0


class User(NamedTuple):
    email: str


class Entry(NamedTuple):
    user: User
    expires_at: float


class Sessions:
    """Signed ids in a dict."""

    def __init__(self) -> None:
        self._keyed = blake2b(digest_size=16, key=secrets.token_bytes(32))
        self._entries: dict[str, Entry] = {}

    def _mac(self, identifier: str) -> str:
        state = self._keyed.copy()  # a third cheaper than a new one with a key
        state.update(identifier.encode())
        return state.hexdigest()

    def create(self, user: User) -> str:
        """Begin a session, and return the value of its cookie."""
        identifier = secrets.token_urlsafe(16)
        self._entries[identifier] = Entry(user, time() + LIFETIME_SECONDS)
        return identifier + self._mac(identifier)

    def user_of(self, cookies: str) -> User | None:
        """Return the user of a request with this ``Cookie`` header; ``None`` if there is none."""
        for pair in cookies.split("; "):
            if pair.startswith(PREFIX):
                identifier = pair[VALUE_START:MAC_START]
                if not pair.isascii() or not compare_digest(pair[MAC_START:], self._mac(identifier)):
                    return None
                entry = self._entries.get(identifier)
                return entry.user if entry is not None and entry.expires_at > time() else None
        return None


class ASGIFloor:
    """The middleware for ASGI."""

    def __init__(self, app: ASGIApp, sessions: Sessions) -> None:
        self.app = app
        self.sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            user = None
            for name, value in scope["headers"]:
                if name == b"cookie":
                    user = self.sessions.user_of(value.decode("latin-1"))
                    break
            scope.setdefault("state", {})["current_user"] = user
        await self.app(scope, receive, send)


class WSGIFloor:
    """The middleware for WSGI."""

    def __init__(self, app: "WSGIApplication", sessions: Sessions) -> None:
        self.app = app
        self.sessions = sessions

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        cookies = environ.get("HTTP_COOKIE")
        environ["floor.user"] = None if cookies is None else self.sessions.user_of(cookies)
        return self.app(environ, start_response)


def _email(user: User | None) -> str | None:
    return None if user is None else user.email


def _sign_in(sessions: Sessions) -> Headers:
    cookie = f"{PREFIX}{sessions.create(User(EMAIL))}; Path=/; HttpOnly; Secure; SameSite=Lax"
    return [("set-cookie", cookie)]


def asgi() -> ASGIApp:
    """The plain app behind it."""
    sessions = Sessions()

    async def sign_in(scope: Scope) -> Headers:
        del scope
        return _sign_in(sessions)

    return ASGIFloor(asgi_app(lambda scope: _email(scope["state"]["current_user"]), sign_in), sessions)


def wsgi() -> "WSGIApplication":
    """The plain app behind it."""
    sessions = Sessions()
    return WSGIFloor(wsgi_app(lambda environ: _email(environ["floor.user"]), lambda _: _sign_in(sessions)), sessions)


KEEPS = "a signed id; user and expiry in a dict"
CHECKS = "MAC, expiry; nothing else"

CONTENDERS = (
    Contender("floor", "floor (hand-written)", "asgi", constant(asgi, lambda: asgi_app(anyone)), KEEPS, CHECKS),
    Contender("floor-wsgi", "floor (hand-written)", "wsgi", constant(wsgi, lambda: wsgi_app(anyone)), KEEPS, CHECKS),
)
