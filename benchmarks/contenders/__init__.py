"""The libraries to compare. Each module makes apps with a layer of authentication, and the same apps without it."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.contenders.base import Contender

MODULES = (
    "floor",
    "powauth_asgi",
    "powauth_fastapi",
    "powauth_wsgi",
    "starlette_sessions",
    "starsessions_",
    "fastapi_users_",
    "crudauth_",
    "litestar_sessions",
    "redis_mget",
    "flask_login",
    "flask_session",
    "django_sessions",
)
"""The modules, in the order of the tables. A module imports its library only when a pair is opened."""


def contenders() -> "dict[str, Contender]":
    """Return all contenders by name, also those whose libraries are not installed."""
    found: dict[str, Contender] = {}
    for module in MODULES:
        for contender in import_module(f"{__name__}.{module}").CONTENDERS:
            found[contender.name] = contender
    return found
