"""A warning about a CORS middleware that is inside of powauth's, where powauth's own answers do not pass it."""

import warnings
from collections.abc import Iterator
from typing import Any

from powauth.errors import ConfigWarning

MAX_DEPTH = 100
"""Middlewares to look through; a stack has a dozen."""

_NAMES = frozenset({"CORSMiddleware", "CORS"})
"""Classes of Starlette, Litestar and wsgicors."""


def warn_if_cors_is_inside(app: object) -> None:
    """Warn if a CORS middleware is among what ``app`` consists of, as far as that can be seen."""
    if any(_is_cors(part) for part in _parts(app)):
        warnings.warn(
            "the CORS middleware is inside of powauth's, so powauth's own answers (401, 403, 422, 429, 503) carry no "
            "Access-Control-Allow-Origin, and scripts of the origins that you allow cannot read them: put it outside. "
            "With add_middleware, the middleware that is added last is outermost; in a list, the first one is",
            ConfigWarning,
            stacklevel=3,
        )


def _parts(app: object) -> Iterator[object]:
    """An app, and what it hands requests on to."""
    part: object = app
    for _ in range(MAX_DEPTH):
        if part is None:
            return
        part = getattr(part, "__self__", part)  # ``app.wsgi_app`` of Flask is a method
        yield part
        part = getattr(part, "app", None) or getattr(part, "application", None)


def _is_cors(part: Any) -> bool:
    kinds = {kind.__name__ for kind in type(part).__mro__}
    if "Starlette" in kinds:  # and FastAPI, which is one
        return any(getattr(each.cls, "__name__", None) in _NAMES for each in part.user_middleware)
    if "Litestar" in kinds:
        return part.cors_config is not None
    if "Flask" in kinds:
        functions = part.after_request_funcs.get(None, ())
        return any(function.__module__.startswith("flask_cors") for function in functions)
    return not kinds.isdisjoint(_NAMES)
