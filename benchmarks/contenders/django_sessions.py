"""Django's sessions and users, on each of three session engines."""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from types import ModuleType
from typing import Any

from benchmarks.contenders.base import EMAIL, PASSWORD, Contender, Login, Pair, Place

URLS = "benchmarks.contenders.django_sessions_urls"
MIDDLEWARE = (
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
)


def _configure(place: Place, engine: str, cache: dict[str, Any]) -> None:
    """Configure Django. Its settings are global, so one process serves one contender."""
    import django
    from django.conf import settings

    settings.configure(
        SECRET_KEY="a secret of this contender",
        ALLOWED_HOSTS=["*"],
        DATABASES={
            "default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": str(place.directory / "app.sqlite3"),
                "CONN_MAX_AGE": None,
                "OPTIONS": {"init_command": "PRAGMA journal_mode=WAL"},
            }
        },
        CACHES={"default": cache},
        SESSION_ENGINE=engine,
        SESSION_COOKIE_SECURE=True,
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
        PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],  # signing in is not what is measured
        MIDDLEWARE=[],
        ROOT_URLCONF=URLS,
        USE_TZ=True,
        LOGGING_CONFIG=None,
    )
    django.setup()


def _urls() -> ModuleType:
    from django.contrib.auth import authenticate, login
    from django.http import HttpResponse
    from django.urls import path

    def me(request: Any) -> Any:
        user = getattr(request, "user", None)  # without the middleware there is none
        if user is None:
            return HttpResponse(EMAIL)
        return HttpResponse(user.email) if user.is_authenticated else HttpResponse(status=401)

    def sign_in(request: Any) -> Any:
        login(request, authenticate(request, username="ada", password=PASSWORD))
        return HttpResponse()

    module = ModuleType(URLS)
    module.__dict__["urlpatterns"] = [path("me", me), path("login", sign_in)]
    return module


def _make() -> tuple[Any, Any]:
    from django.contrib.auth import get_user_model
    from django.core.handlers.wsgi import WSGIHandler
    from django.core.management import call_command
    from django.test.utils import override_settings

    call_command("migrate", verbosity=0)
    get_user_model().objects.create_user("ada", EMAIL, PASSWORD)

    bare = WSGIHandler()
    with override_settings(MIDDLEWARE=MIDDLEWARE):  # a handler reads them when it is made
        return WSGIHandler(), bare


@contextmanager
def _noting() -> Iterator[list[str]]:
    from django.db import connection

    statements: list[str] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        statements.append(sql)
        return execute(sql, params, many, context)

    with connection.execute_wrapper(note):
        yield statements


def _open(
    engine: str, cache: Callable[[Place], dict[str, Any]]
) -> Callable[[Place], AbstractAsyncContextManager[Pair]]:
    @asynccontextmanager
    async def open_pair(place: Place) -> AsyncIterator[Pair]:
        from django.db import connections

        _configure(place, engine, cache(place))
        sys.modules[URLS] = _urls()
        layered, bare = _make()
        try:
            yield Pair(layered, bare, Login(), _noting)
        finally:
            connections.close_all()

    return open_pair


def _in_process(place: Place) -> dict[str, Any]:
    del place
    return {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}


def _on_redis(place: Place) -> dict[str, Any]:
    return {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": place.redis_url}


def _row(
    name: str, title: str, where: str, engine: str, cache: Callable[[Place], dict[str, Any]], *needs: str
) -> Contender:
    return Contender(
        f"django-{name}",
        f"Django, {title}",
        "wsgi",
        _open(f"django.contrib.sessions.backends.{engine}", cache),
        f"an id in the cookie; a session in {where}; the user in the app's SQLite, loaded for each request",
        "that there is a session, its age, and that the password is still the one signed in with",
        ("django", *needs),
        redis=bool(needs),
    )


CONTENDERS = (
    _row("cache", "cache sessions (local memory)", "the process", "cache", _in_process),
    _row("cache-redis", "cache sessions (Redis)", "Redis", "cache", _on_redis, "redis"),
    _row("sqlite", "database sessions (SQLite)", "the app's SQLite", "db", _in_process),
)
