"""The app that `harness.process_servers` serves. It uses its store and its users' database before a server forks.

The names ``wsgi`` and ``asgi`` are the app for servers of each kind. The environment contains the URL of the store.
"""

import asyncio
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase

from powauth import CredentialsCache, NotSignedIn, SessionAuth
from powauth.accounts.passwords import PasswordHasher
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.base import Backend, drive
from powauth.backends.lmdb import LMDBBackend
from powauth.backends.redis import RedisBackend
from powauth.backends.sql import SQLBackend
from powauth.integrations import asgi as asgi_integration
from powauth.integrations import wsgi as wsgi_integration

SECRET = "processes-that-a-server-forks-0123456789-0123456789"
PASSWORD = "seven red herons"

CLIENTS = 4
"""Users, each with a client of its own."""

ASYNC_DRIVERS = {"postgresql+psycopg": "postgresql+psycopg_async", "mariadb+pymysql": "mariadb+asyncmy"}

NAME = os.environ.get("POWAUTH_PROCESSES_NAME", "processes")
"""Of the tables, or of the prefix of keys."""

IMPORTED_IN = os.getpid()
"""The process that loaded the app and used the store; a worker that was forked from it is another."""


class Base(DeclarativeBase):
    """The tables of the app."""


class User(UserMixin, Base):
    """Its users."""

    __tablename__ = f"{NAME}_users"


def make_backend(store: str, apps_engine: Any, *, asynchronous: bool) -> Backend:
    """The store by its URL; ``engine`` in its place is for the engine that the app has made for its users."""
    scheme, _, rest = store.partition(":")
    if store == "engine":
        return SQLBackend(apps_engine, table=NAME)
    if scheme == "lmdb":
        return LMDBBackend(rest)
    if scheme == "redis":
        return RedisBackend(store, prefix=NAME, asynchronous=asynchronous)
    return SQLBackend(f"{ASYNC_DRIVERS.get(scheme, scheme) if asynchronous else scheme}:{rest}", table=NAME)


def make_auth(*, asynchronous: bool) -> tuple[SessionAuth[User, Any], Backend]:
    """The plug and its backend, with an engine of the app's own for the users."""
    scheme, _, rest = os.environ["POWAUTH_PROCESSES_USERS"].partition(":")
    engine: Any
    if asynchronous and scheme in ASYNC_DRIVERS:
        engine = create_async_engine(f"{ASYNC_DRIVERS[scheme]}:{rest}")
    else:
        engine = create_engine(f"{scheme}:{rest}")
    hasher = PasswordHasher(time_cost=1, memory_cost=64, cheap_and_unsafe=True)
    backend = make_backend(os.environ["POWAUTH_PROCESSES_STORE"], engine, asynchronous=asynchronous)
    auth = SessionAuth(
        secret_key=SECRET,
        users=SQLAlchemyUsers(engine, User, hasher=hasher),
        store=CredentialsCache(backend, namespace="processes"),
        throttle=None,
    )
    return auth, backend


def answer(email: str | None, backend: Backend) -> bytes:
    """Who was recognised, by which process, and whether a near cache helped."""
    cache = getattr(backend, "near_cache", None)
    near = cache is not None and cache.up
    return json.dumps({"user": email, "process": os.getpid(), "imported_in": IMPORTED_IN, "near": near}).encode()


# WSGI


def wsgi_routes(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    session = wsgi_integration.request_auth(environ)
    path, name = environ["PATH_INFO"], environ["QUERY_STRING"]
    if path == "/login":
        if session.sign_in({"email": name, "password": PASSWORD}) is None:
            raise NotSignedIn("wrong password")
    elif path == "/logout":
        session.sign_out()
    user = session.current_user
    start_response("200 OK", [("Content-Type", "application/json")])
    return [answer(user and user.email, wsgi_backend)]


def use_wsgi() -> None:
    """Sign in, be recognised, sign out: connections to the store and to the users' database are open after it."""
    cookies: list[str] = []

    def start_response(status: str, headers: list[tuple[str, str]], *_: object) -> None:
        assert status == "200 OK", status
        cookies.extend(value.partition(";")[0] for name, value in headers if name.lower() == "set-cookie")

    for path in ("/login", "/me", "/logout"):
        environ = {
            "REQUEST_METHOD": "GET" if path == "/me" else "POST",
            "PATH_INFO": path,
            "QUERY_STRING": "client-0@example.com",
            "HTTP_COOKIE": cookies[-1] if cookies else "",
            "REMOTE_ADDR": "127.0.0.1",
            "wsgi.url_scheme": "http",
            "wsgi.multiprocess": True,
        }
        for _ in wsgi(environ, start_response):
            pass


wsgi_auth, wsgi_backend = make_auth(asynchronous=False)
wsgi: Any = wsgi_integration.SessionAuthMiddleware(wsgi_routes, wsgi_auth)


# ASGI


async def asgi_routes(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    session = asgi_integration.request_auth(scope)
    path, name = scope["path"], scope["query_string"].decode()
    if path == "/login":
        if await session.sign_in({"email": name, "password": PASSWORD}) is None:
            raise NotSignedIn("wrong password")
    elif path == "/logout":
        await session.sign_out()
    user = session.current_user
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer(user and user.email, asgi_backend)})


async def use_asgi() -> None:
    """As `use_wsgi`, on an event loop that has ended when the server forks."""
    cookies = [b""]

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 200, message
            cookies.extend(value.partition(b";")[0] for name, value in message["headers"] if name == b"set-cookie")

    for path in ("/login", "/me", "/logout"):
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET" if path == "/me" else "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"client-0@example.com",
            "headers": [(b"cookie", cookies[-1])] if cookies[-1] else [],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 1),
        }
        await asgi(scope, receive, send)


asgi_auth, asgi_backend = make_auth(asynchronous=True)
asgi: Any = asgi_integration.SessionAuthMiddleware(asgi_routes, asgi_auth)


# Before the fork


def create_everything() -> None:
    """Make the tables, and the users that sign in: ``python -m harness.process_app``."""
    engine = create_engine(os.environ["POWAUTH_PROCESSES_USERS"])
    Base.metadata.create_all(engine)
    engine.dispose()
    if isinstance(wsgi_backend, SQLBackend):
        drive(wsgi_backend.create_tables())
    for number in range(CLIENTS):
        drive(wsgi_auth.users.create({"email": f"client-{number}@example.com", "password": PASSWORD}))


if __name__ == "__main__":
    create_everything()
else:
    with ThreadPoolExecutor(1) as elsewhere:  # uvicorn imports an app on its event loop, where a WSGI app cannot work
        elsewhere.submit(use_wsgi).result()
    if os.environ.get("POWAUTH_PROCESSES_ASGI"):  # for an ASGI server that forks
        asyncio.run(use_asgi())
