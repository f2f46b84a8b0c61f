"""The visible parts of an app: the app, and the apps to which it passes requests."""

from collections.abc import Iterator

MAX_DEPTH = 100
"""The most middlewares that are examined. A stack has about a dozen."""


def apps_in(app: object) -> Iterator[object]:
    """Yield an app, and the apps to which it passes requests."""
    part: object = app
    for _ in range(MAX_DEPTH):
        if part is None:
            return
        part = getattr(part, "__self__", part)  # ``app.wsgi_app`` of Flask is a method
        yield part
        part = getattr(part, "app", None) or getattr(part, "application", None)
