"""Recognizes a framework's session that is whole in the client's cookie, so that no attacker can plant an id of it."""

import sys
from collections.abc import Iterable
from typing import Any, Final

OUTER_APP: Final = "asgi.app"
"""The key in a connection's states of the framework's app around the middleware, if the session is a plain dict."""

_STARLETTE: Final = "starlette.middleware.sessions"

_LITESTAR: Final = "litestar.middleware.session.client_side"


def is_of_starlette(session: object, app: Any) -> bool:
    """Return whether Starlette's own ``SessionMiddleware`` has made a session.

    From release 1.0 on the session has a class of its own. Earlier releases make a plain dict, as many middlewares do
    that keep sessions on the server. So the middleware must be one that was added to ``app``, a Starlette app.
    """
    if type(session) is not dict:
        return _is(session, _STARLETTE, "Session")
    if hasattr(sys.modules.get(_STARLETTE), "Session"):
        return False
    return any(_is_class(each.cls, _STARLETTE, "SessionMiddleware") for each in getattr(app, "user_middleware", ()))


def has_litestars_cookie(middleware: Iterable[object]) -> bool:
    """Return whether the middleware of a Litestar app has that of ``CookieBackendConfig``."""
    backends = (getattr(each, "kwargs", {}).get("backend") for each in middleware)
    return any(_is(backend, _LITESTAR, "ClientSideSessionBackend") for backend in backends)


def _is(instance: object, module: str, name: str) -> bool:
    return _is_class(type(instance), module, name)


def _is_class(kind: Any, module: str, name: str) -> bool:
    """Return whether ``kind`` is this class itself. A subclass may keep its sessions on the server."""
    return getattr(kind, "__module__", None) == module and getattr(kind, "__qualname__", None) == name
