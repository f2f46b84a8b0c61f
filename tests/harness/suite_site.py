"""A site with the whole account suite on a real server: all extensions, mail over SMTP, and an injected clock."""

import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import fastapi
import flask
import sqlalchemy as sa
from scripts.ports import free_port
from sqlalchemy.orm import DeclarativeBase
from werkzeug.serving import WSGIRequestHandler, make_server

from harness.live_servers import serving
from harness.smtp import Server
from harness.support import SECRET, Clock, Kind
from harness.users_databases import cheap_hasher
from powauth import CookieCarrier, Limit, Remember, SessionAuth
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.errors import ConfigWarning
from powauth.extensions import SMTPMailer
from powauth.extensions.audit import Audit, AuditMixin
from powauth.extensions.confirm_email import ConfirmEmail, ConfirmEmailMixin
from powauth.extensions.invitation import Invitation
from powauth.extensions.lock import Lock, LockMixin
from powauth.extensions.reset_password import ResetPassword
from powauth.integrations.asgi import SessionAuthMiddleware
from powauth.integrations.flask import PowAuth
from powauth.pages import fastapi as fastapi_pages
from powauth.pages import flask as flask_pages

T = TypeVar("T")
TITLE = "Heronry"
INVITER = "ada@example.org"
"""The user who may invite."""

HOME = "<!doctype html><title>Home</title><p>A page of the app, whose policy allows its scripts to send requests."
OFTEN = Limit(1000, timedelta(minutes=5))
"""All browsers of a test have one address."""


class Base(DeclarativeBase):
    pass


class Member(ConfirmEmailMixin, LockMixin, UserMixin, Base):
    __tablename__ = "members"


class Activity(AuditMixin, Base):
    __tablename__ = "activity"


@dataclass
class Losing:
    """Loses the next responses to some path: the client gets an error in their place.

    Attributes:
        app: the app.
        path: the path.
        lost: the number of responses that are still to be lost.
    """

    app: Any = None
    path: str = ""
    lost: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def loses(self, path: str) -> bool:
        with self.lock:
            if path != self.path or not self.lost:
                return False
            self.lost -= 1
            return True


class LosingWSGI(Losing):
    def __call__(self, environ: Any, start_response: Any) -> Any:
        if not self.loses(environ["PATH_INFO"]):
            return self.app(environ, start_response)
        for _ in self.app(environ, lambda *_: None):
            pass
        start_response("502 Bad Gateway", [("Content-Type", "text/plain")])
        return [b"lost"]


class LosingASGI(Losing):
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not self.loses(scope["path"]):
            await self.app(scope, receive, send)
            return

        async def lose(message: Any) -> None:
            del message

        await self.app(scope, receive, lose)
        await send({"type": "http.response.start", "status": 502, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"lost"})


def apart(work: Callable[[], T]) -> T:
    """Run a function in a thread of its own: an event loop of Playwright runs in that of the test."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


@dataclass
class Suite:
    """A site that runs."""

    url: str
    auth: SessionAuth[Any, Any]
    clock: Clock
    mail: Server
    responses: Losing

    def member(self, email: str, password: str, **columns: Any) -> Any:
        """Make a user in the way of an app."""

        def work() -> Any:
            identity = drive(self.auth.create_account(email=email, password=password))
            if columns:
                drive(self.auth.update_account(identity, **columns))
            return identity

        return apart(work)

    def column(self, email: str, name: str) -> Any:
        """The value of a column of a user; ``None`` if there is no such user."""

        def work() -> Any:
            found = drive(self.auth.users.find(email))
            read = None if found is None else drive(self.auth.users.read(found.key, [name]))
            return None if read is None else read[1][name]

        return apart(work)


class _Quiet(WSGIRequestHandler):
    def log(self, *args: Any) -> None:
        """Log nothing."""


@contextmanager
def _threaded(app: Any, port: int) -> Iterator[None]:
    server = make_server("127.0.0.1", port, app, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _auth(engine: sa.Engine, clock: Clock, mail: Server, url: str, options: dict[str, Any]) -> SessionAuth[Any, Any]:
    mailer = SMTPMailer("127.0.0.1", sender=f"{TITLE} <no-reply@example.org>", port=mail.port, security="none")
    carrier = CookieCarrier(insecure_http=True)
    limits: dict[str, Any] = {"per_source": OFTEN, "per_address": OFTEN}
    return SessionAuth(
        secret_key=SECRET,
        users=SQLAlchemyUsers(engine, Member, hasher=cheap_hasher()),
        backend=MemoryBackend(),
        clock=clock,
        carrier=carrier,
        remember=Remember(),
        throttle=None,
        public_url=url,
        extensions=[
            Lock(),
            ConfirmEmail(mailer, title=TITLE, **limits, **options),
            ResetPassword(mailer, **limits),
            Invitation(mailer, may_invite=lambda user: user.email == INVITER, title=TITLE),
            Audit(engine, Activity, synchronous=True),
        ],
    )


@contextmanager
def suite(kind: Kind, folder: Path, mail: Server, **options: Any) -> Iterator[Suite]:
    """Serve a site, by FastAPI or by Flask. ``options`` are those of `ConfirmEmail`."""
    engine = sa.create_engine(f"sqlite:///{folder / 'members.sqlite3'}", connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    clock, port, responses = Clock(), free_port(), LosingASGI() if kind == "asgi" else LosingWSGI()
    url = f"http://127.0.0.1:{port}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)
        auth = _auth(engine, clock, mail, url, options)
    made = Suite(url, auth, clock, mail, responses)
    if kind == "asgi":
        app = fastapi.FastAPI(lifespan=auth.lifespan)
        app.add_middleware(SessionAuthMiddleware, auth=auth)
        app.include_router(fastapi_pages.pages(auth, title=TITLE))
        app.add_api_route("/", lambda: fastapi.responses.HTMLResponse(HOME))
        responses.app = app
        server: Any = serving(responses, "asgi", port=port, lifespan="on")
    else:
        flask_app = flask.Flask("suite")
        PowAuth(flask_app, auth)
        flask_app.register_blueprint(flask_pages.pages(auth, title=TITLE))
        flask_app.add_url_rule("/", "home", lambda: HOME)
        responses.app = flask_app
        server = _threaded(responses, port)
    with server:
        yield made
    apart(lambda: drive(auth.aclose()))
    engine.dispose()
