"""Finds the authenticators of a framework's app, for programs that are given the app."""

from collections.abc import Iterator
from typing import Any

from powauth.plug.authenticator import Authenticator


def authenticators_of(app: Any) -> Iterator[Authenticator[Any, Any]]:
    """Yield the authenticators in an app's middleware, extensions and plugins, and in the apps that it wraps."""
    seen: set[int] = set()
    while app and id(app) not in seen:
        seen.add(id(app))
        extensions = getattr(app, "extensions", None)
        parts = [app, *(extensions.get("powauth", {}).values() if isinstance(extensions, dict) else ())]
        parts += getattr(app, "plugins", ())
        values = [getattr(part, "auth", None) for part in parts]
        for middleware in getattr(app, "user_middleware", ()):
            values += [*middleware.args, *middleware.kwargs.values()]
        yield from (value for value in values if isinstance(value, Authenticator))
        wrapped = getattr(app, "wsgi_app", None)
        app = wrapped if hasattr(wrapped, "app") else getattr(app, "app", None)
