"""A warning about a CORS middleware inside powauth's middleware: powauth's own answers do not pass through it."""

import warnings
from typing import Any

from powauth.errors import ConfigWarning
from powauth.integrations._parts import apps_in

_NAMES = frozenset({"CORSMiddleware", "CORS"})
"""Classes of Starlette, Litestar and wsgicors."""


def warn_if_cors_is_inside(app: object) -> None:
    """Warn if a CORS middleware is among the visible parts of ``app``."""
    if any(_is_cors(part) for part in apps_in(app)):
        warnings.warn(
            "the CORS middleware is inside of powauth's, so powauth's own answers (401, 403, 422, 429, 503) carry no "
            "Access-Control-Allow-Origin, and scripts of the origins that you allow cannot read them: put it outside. "
            "With add_middleware, the middleware that is added last is outermost; in a list, the first one is",
            ConfigWarning,
            stacklevel=3,
        )


def _is_cors(part: Any) -> bool:
    kinds = {kind.__name__ for kind in type(part).__mro__}
    if "Starlette" in kinds:  # FastAPI is a subclass
        return any(getattr(each.cls, "__name__", None) in _NAMES for each in part.user_middleware)
    if "Litestar" in kinds:
        return part.cors_config is not None
    if "Flask" in kinds:
        functions = part.after_request_funcs.get(None, ())
        return any(function.__module__.startswith("flask_cors") for function in functions)
    return not kinds.isdisjoint(_NAMES)
