"""The requests whose instructions are counted. `benchmarks.instructions` runs this under callgrind.

Everything that could differ between two runs is fixed: powauth's clock, the secret, the order of the scenarios. The
garbage collector is off. Ids are random, but no step of a request depends on their content. Each scenario warms up
until the interpreter has specialised its code. Then `BLOCKS` blocks of `REQUESTS` requests run, with a call of `mark`
around each. At each mark callgrind writes the count since the last one.
"""

import gc
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flask import Flask, g
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.pool import StaticPool

from benchmarks.contenders.base import EMAIL
from benchmarks.contenders.floor import NAME, ASGIFloor, Sessions
from benchmarks.contenders.floor import User as FloorUser
from benchmarks.site import COOKIE, People, Person
from powauth import Extension, Remember, SessionAuth
from powauth.accounts.base import UsersContext
from powauth.accounts.passwords import PasswordHasher
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.base import Backend, drive
from powauth.backends.lmdb import LMDBBackend
from powauth.backends.memory import MemoryBackend
from powauth.extensions import ConsoleMailer
from powauth.extensions.api_keys import ApiKeyMixin, ApiKeys
from powauth.extensions.audit import Audit, AuditMixin
from powauth.extensions.breached_passwords import BreachedPasswords
from powauth.extensions.confirm_email import ConfirmEmail, ConfirmEmailMixin
from powauth.extensions.invitation import Invitation
from powauth.extensions.lock import Lock, LockMixin
from powauth.extensions.passkeys import PasskeyMixin, Passkeys
from powauth.extensions.reset_password import ResetPassword
from powauth.extensions.second_factor import RecoveryCodeMixin, RecoveryCodes, SecondFactor, Totp, TotpMixin
from powauth.integrations import asgi, wsgi
from powauth.integrations.flask import PowAuth

BLOCKS = 3
"""The number of blocks. Their median counts: work in only one block (a list that grows) is not part of a request."""

REQUESTS = 50

WARM_UP = 100
"""Requests before the first block. CPython's adaptive interpreter needs some dozens to settle."""

SECRET = "q0V9p-3rTzK7wYdN5sXhB8mLcJ2fRgUa4eQiZ6vO1yt"
NOW = 1_800_000_000.0

HEADERS = [
    (b"host", b"example.com"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    (b"accept-language", b"en-GB,en;q=0.5"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"connection", b"keep-alive"),
    (b"cookie", b""),
    (b"sec-fetch-site", b"same-origin"),
]
"""The headers that a browser sends. The cookie is added later."""

Run = Callable[[], object]
"""One request."""


class Base(DeclarativeBase):
    pass


class User(ConfirmEmailMixin, LockMixin, UserMixin, Base):
    __tablename__ = "users"


class Activity(AuditMixin, Base):
    __tablename__ = "activity"


class ApiKey(ApiKeyMixin, Base):
    __tablename__ = "api_keys"


class Authenticator(TotpMixin, Base):
    __tablename__ = "authenticators"


class RecoveryCode(RecoveryCodeMixin, Base):
    __tablename__ = "recovery_codes"


class Passkey(PasskeyMixin, Base):
    __tablename__ = "passkeys"


def mark() -> None:
    """Call a function of the C library that nothing else here calls. Callgrind watches for it."""
    os.getsid(0)


def clock() -> float:
    return NOW


def cookie_header(value: bytes | None, name: str = COOKIE) -> bytes:
    """Return a header with the session's cookie between two of the app's own, as a browser would send it."""
    own = b"" if value is None else b"; %b=%b" % (name.encode(), value)
    return b"theme=dark%b; consent=necessary" % own


# --- ASGI -------------------------------------------------------------------------------------------------------------


async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
    """Read the current user, and answer a few bytes."""
    user = scope["state"]["current_user"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"somebody" if user is not None else b"nobody"})


async def asgi_public(scope: Any, receive: Any, send: Any) -> None:
    """Answer without reading the current user."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"somebody"})


def asgi_run(
    app: Any, value: bytes | None, expected: bytes, *, assigned: bool = False, cookie_name: str = COOKIE
) -> Run:
    """Return a request to an app. With ``assigned`` the scope already has a user, because there is no middleware."""
    cookie = cookie_header(value, cookie_name)
    headers = [(name, cookie if name == b"cookie" else content) for name, content in HEADERS]
    body = b""

    async def send(message: Any) -> None:
        nonlocal body
        if message["type"] == "http.response.body":
            body = message["body"]

    def run() -> None:
        scope: dict[str, Any] = {
            "type": "http",
            "method": "GET",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "headers": list(headers),
            "client": ("192.0.2.1", 1234),
        }
        if assigned:
            scope["state"] = {"current_user": "somebody"}
        drive(app(scope, None, send))
        assert body == expected

    return run


def authenticator(
    backend: Backend, users: UsersContext[Any, Any] | None = None, extensions: Sequence[Extension[Any]] = ()
) -> SessionAuth[Any, Any]:
    return SessionAuth(
        secret_key=SECRET,
        users=users or People(),
        backend=backend,
        metadata=None,
        clock=clock,
        remember=Remember() if extensions else None,
        extensions=extensions,
        public_url="https://example.com",
    )


# --- WSGI and Flask ---------------------------------------------------------------------------------------------------


def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
    """Do the same as `asgi_app`."""
    user = environ["powauth.current_user"]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"somebody" if user is not None else b"nobody"]


def wsgi_run(app: Any, value: bytes, *, assigned: bool = False) -> Run:
    """Return the same as `asgi_run`."""
    fields = {
        "HTTP_" + name.decode().upper().replace("-", "_"): content.decode()
        for name, content in ((name, cookie_header(value) if name == b"cookie" else it) for name, it in HEADERS)
    }

    def start_response(status: str, headers: Any, exc_info: Any = None) -> None:
        assert status == "200 OK"

    def run() -> None:
        environ: dict[str, Any] = {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": "/",
            "QUERY_STRING": "",
            "SERVER_NAME": "example.com",
            "SERVER_PORT": "443",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "192.0.2.1",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "https",
            "wsgi.input": None,
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": True,
            "wsgi.run_once": False,
            **fields,
        }
        if assigned:
            environ["powauth.current_user"] = "somebody"
        body = app(environ, start_response)
        assert b"".join(body) == b"somebody"

    return run


def sign_in(auth: SessionAuth[Any, Any], user: object) -> bytes:
    """Return the cookie's value of a new session. Use WSGI, which waits for a users context that blocks."""
    cookies: list[str] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        assert wsgi.request_auth(environ).sign_in_user(user) is not None
        start_response("200 OK", [])
        return []

    def start_response(status: str, headers: Any, exc_info: Any = None) -> None:
        cookies.extend(value for name, value in headers if name == "set-cookie")

    wsgi.SessionAuthMiddleware(app, auth)({"REQUEST_METHOD": "POST"}, start_response)  # type: ignore[arg-type]
    return cookies[0].partition("=")[2].partition(";")[0].encode()


def flask_app(auth: SessionAuth[Any, Any] | None) -> Flask:
    """Return a Flask app like `wsgi_app`. Without an authenticator, a hook of the app assigns a user."""
    app = Flask("counted", static_folder=None)

    @app.get("/")
    def index() -> str:
        return "somebody" if g.current_user is not None else "nobody"

    if auth is None:
        app.before_request(lambda: setattr(g, "current_user", "somebody"))
    else:
        PowAuth(app, auth)
    return app


# --- The scenarios ----------------------------------------------------------------------------------------------------


def floor() -> Run:
    """Return the yardstick. It reads the system's time, which always takes the same number of instructions."""
    sessions = Sessions()
    value = sessions.create(FloorUser(EMAIL)).encode()
    return asgi_run(ASGIFloor(asgi_app, sessions), value, b"somebody", cookie_name=NAME)


def needless(app: Any) -> Any:
    """Wrap an app in needless work, as small as a careless change: one more search through the headers."""

    async def with_a_look(scope: Any, receive: Any, send: Any) -> None:
        scope["names"] = sorted(name.lower() for name, _ in scope["headers"])
        await app(scope, receive, send)

    return with_a_look


def suite() -> tuple[SQLAlchemyUsers[User, Any], User, list[Extension[Any]]]:
    """Return users in a table, one of them, and all extensions."""
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    users = SQLAlchemyUsers(engine, User, hasher=PasswordHasher(time_cost=1, memory_cost=8, cheap_and_unsafe=True))
    with Session(engine, expire_on_commit=False) as session:
        session.add(user := User(email="mia@example.com"))
        session.commit()
    mailer = ConsoleMailer()
    extensions: list[Extension[Any]] = [
        Lock(),
        ConfirmEmail(mailer),
        ResetPassword(mailer),
        Invitation(mailer, may_invite=lambda user: True),
        BreachedPasswords(),
        SecondFactor(Totp(engine, Authenticator), RecoveryCodes(engine, RecoveryCode)),
        Passkeys(engine, Passkey),
        ApiKeys(engine, ApiKey),
        Audit(engine, Activity),
    ]
    return users, user, extensions


FLOOR = "ASGI, floor"

ADDED = {
    FLOOR: "ASGI",
    "ASGI, memory, user not read": "ASGI, public",
    "ASGI, memory": "ASGI",
    "ASGI, memory, needless": "ASGI",
    "ASGI, memory, SQLAlchemy": "ASGI",
    "ASGI, LMDB": "ASGI",
    "ASGI, anonymous": "ASGI",
    "ASGI, forged": "ASGI",
    "WSGI, memory": "WSGI",
    "Flask, memory": "Flask",
}
"""The scenario without a middleware that each scenario with one is compared with."""


def scenarios(folder: Path) -> dict[str, Run]:
    """Return all scenarios, in the order in which they run."""
    person = Person("mia")
    memory = authenticator(MemoryBackend())
    lmdb = authenticator(LMDBBackend(folder / "sessions"))
    users, user, extensions = suite()
    relational = authenticator(MemoryBackend(), users, extensions)
    value = sign_in(memory, person)
    forged = value[:-1] + (b"A" if value[-1:] != b"A" else b"B")
    middleware = asgi.SessionAuthMiddleware(asgi_app, memory)
    return {
        "ASGI": asgi_run(asgi_app, value, b"somebody", assigned=True),
        "ASGI, public": asgi_run(asgi_public, value, b"somebody"),
        "WSGI": wsgi_run(wsgi_app, value, assigned=True),
        "Flask": wsgi_run(flask_app(None), value),
        FLOOR: floor(),
        "ASGI, memory, user not read": asgi_run(asgi.SessionAuthMiddleware(asgi_public, memory), value, b"somebody"),
        "ASGI, memory": asgi_run(middleware, value, b"somebody"),
        "ASGI, memory, needless": asgi_run(needless(middleware), value, b"somebody"),
        "ASGI, memory, SQLAlchemy": asgi_run(
            asgi.SessionAuthMiddleware(asgi_app, relational), sign_in(relational, user), b"somebody"
        ),
        "ASGI, LMDB": asgi_run(asgi.SessionAuthMiddleware(asgi_app, lmdb), sign_in(lmdb, person), b"somebody"),
        "ASGI, anonymous": asgi_run(middleware, None, b"nobody"),
        "ASGI, forged": asgi_run(middleware, forged, b"nobody"),
        "WSGI, memory": wsgi_run(wsgi.SessionAuthMiddleware(wsgi_app, memory), value),
        "Flask, memory": wsgi_run(flask_app(memory), value),
    }


def main() -> None:
    """Run each scenario. Print their names in the order of their blocks."""
    logging.getLogger("powauth").setLevel(logging.ERROR)
    runs = scenarios(Path(sys.argv[1]))
    gc.collect()
    gc.disable()
    gc.freeze()
    for run in runs.values():
        for _ in range(WARM_UP):
            run()
        for _ in range(BLOCKS):
            mark()
            for _ in range(REQUESTS):
                run()
        mark()
    print("\n".join(runs))


if __name__ == "__main__":
    main()
