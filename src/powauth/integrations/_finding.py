"""Finds the authenticators of a framework's app, for programs that are given the app."""

from collections.abc import Iterable, Iterator
from typing import Any

from powauth.integrations._parts import MAX_DEPTH
from powauth.plug.authenticator import Authenticator


def authenticators_of(app: Any) -> Iterator[Authenticator[Any, Any]]:
    """Yield the authenticators in an app's middleware, extensions and plugins, and in the apps that it wraps."""
    seen: set[int] = set()
    while app and id(app) not in seen and len(seen) < MAX_DEPTH:
        seen.add(id(app))
        extensions = getattr(app, "extensions", None)
        parts = [app, *(extensions.get("powauth", {}).values() if isinstance(extensions, dict) else ())]
        parts += _each(app, "plugins")
        values = [getattr(part, "auth", None) for part in parts]
        for middleware in _each(app, "user_middleware"):
            values += [*middleware.args, *middleware.kwargs.values()]
        yield from (value for value in values if isinstance(value, Authenticator))
        wrapped = getattr(app, "wsgi_app", None)
        app = wrapped if hasattr(wrapped, "app") else getattr(app, "app", None)
        app = getattr(app, "__self__", app)  # ``app.wsgi_app`` of Flask is a method


def _each(app: object, name: str) -> Iterable[Any]:
    found = getattr(app, name, ())
    return found if isinstance(found, Iterable) else ()
