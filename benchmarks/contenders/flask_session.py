"""Flask-Session on Redis: a dict on the server, in which the app stores the user."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from benchmarks.contenders.base import EMAIL, Contender, Pair, Place
from benchmarks.contenders.flask_bare import bare


@asynccontextmanager
async def open_pair(place: Place) -> AsyncIterator[Pair]:
    """Open a pair with the library's defaults. They write the record and the cookie with every response."""
    import redis
    from flask import Flask, abort, session
    from flask_session import Session

    client = redis.Redis.from_url(place.redis_url)
    app = Flask(__name__)
    app.config.update(SESSION_TYPE="redis", SESSION_REDIS=client)
    Session(app)

    @app.get("/me")
    def me() -> Any:
        return session["email"] if "email" in session else abort(401)

    @app.post("/login")
    def login() -> str:
        session["email"] = EMAIL
        return ""

    try:
        yield Pair(app, bare())
    finally:
        client.close()


CONTENDERS = (
    Contender(
        "flask-session-redis",
        "Flask-Session, Redis",
        "wsgi",
        open_pair,
        "an id in the cookie; a dict in Redis, of which the handler reads the user's address",
        "that there is a record; no user, no signature",
        ("flask", "flask_session", "redis"),
        redis=True,
    ),
)
