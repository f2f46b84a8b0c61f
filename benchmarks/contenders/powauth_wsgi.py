"""powauth in front of a plain WSGI app, and as an extension of Flask."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from benchmarks.contenders.base import Contender, Login, Pair, Place
from benchmarks.contenders.flask_bare import bare
from benchmarks.contenders.plain import Headers, anyone, wsgi_app
from benchmarks.contenders.powauth_users import (
    CHECKS,
    PARAMS,
    Guarded,
    MakeBackend,
    User,
    guarded,
    keeps,
    lmdb,
    memory,
    redis,
    sql,
)
from powauth import SessionAuth
from powauth.integrations.wsgi import SessionAuthMiddleware, request_auth

Layer = Callable[[Guarded], Any]


def _email_of(environ: dict[str, Any]) -> str | None:
    user: User | None = environ["powauth.current_user"]
    return None if user is None else user.email


def _sign_in(environ: dict[str, Any]) -> Headers:
    assert request_auth(environ).sign_in(PARAMS) is not None
    return []


def plain(auth: SessionAuth[User, Any]) -> Any:
    """The plain app behind powauth's middleware."""
    return SessionAuthMiddleware(wsgi_app(_email_of, _sign_in), auth)


def _plain(guard: Guarded) -> Any:
    return plain(guard.auth)


def _flask(guard: Guarded) -> Any:
    return _on_flask(guard, None)


def _flask_with_row(guard: Guarded) -> Any:
    """``current_user`` is the row in the app's database session, which is closed after each request."""
    from sqlalchemy.orm import scoped_session, sessionmaker

    database = scoped_session(sessionmaker(guard.engine))
    app = _on_flask(guard, database)

    @app.teardown_appcontext
    def close(error: BaseException | None) -> None:
        del error
        database.remove()

    return app


def _on_flask(guard: Guarded, database: Any) -> Any:
    from flask import Flask

    from powauth.integrations import flask as powauth_flask

    app = Flask(__name__)
    powauth_flask.PowAuth(app, guard.auth, session=database)

    @app.get("/me")
    @powauth_flask.login_required
    def me() -> str:
        email: str = powauth_flask.current_user.email
        return email

    @app.post("/login")
    def login() -> str:
        assert powauth_flask.request_auth().sign_in(PARAMS) is not None
        return ""

    return app


def _open(
    make_backend: MakeBackend, layer: Layer, bare_app: Callable[[], Any]
) -> Callable[[Place], AbstractAsyncContextManager[Pair]]:
    @asynccontextmanager
    async def open_pair(place: Place) -> AsyncIterator[Pair]:
        async with guarded(place, make_backend, asynchronous=False) as guard:
            yield Pair(layer(guard), bare_app(), Login(), guard.noting)

    return open_pair


def _row(kind: str, name: str, where: str, make_backend: MakeBackend, *needs: str, on_redis: bool = False) -> Contender:
    flask = kind == "flask"
    layer, bare_app = (_flask, bare) if flask else (_plain, lambda: wsgi_app(anyone))
    return Contender(
        f"powauth-{kind}-{name.lower().split()[0]}",
        f"powauth, {name}{', on Flask' if flask else ''}",
        "wsgi",
        _open(make_backend, layer, bare_app),
        keeps(where),
        CHECKS,
        (*needs, *(["flask"] if flask else [])),
        redis=on_redis,
    )


CONTENDERS = (
    _row("wsgi", "memory", "the process", memory),
    _row("wsgi", "LMDB", "files of the machine", lmdb, "lmdb"),
    _row("wsgi", "SQLite of the app", "the app's SQLite", sql),
    _row("flask", "memory", "the process", memory),
    Contender(
        "powauth-flask-memory-row",
        "powauth, memory, on Flask; the row read",
        "wsgi",
        _open(memory, _flask_with_row, bare),
        keeps("the process") + "; the row from the app's SQLite, by SQLAlchemy",
        CHECKS + "; the row's password hash, user id and active flag",
        ("flask",),
    ),
    _row("flask", "LMDB", "files of the machine", lmdb, "lmdb"),
    _row("flask", "SQLite of the app", "the app's SQLite", sql),
    _row("flask", "Redis", "Redis", redis, "redis", on_redis=True),
)
