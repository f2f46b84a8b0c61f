"""An app whose own ORM changes users: a model, its database sessions, and browsers that are signed in."""

import uuid
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column, sessionmaker

from harness.support import SECRET, Browser, Clock, Request, make_app
from harness.users_databases import PASSWORD, Base, blocking_engine, cheap_hasher, table_name
from powauth import SessionAuth
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.base import Backend, drive
from powauth.backends.memory import MemoryBackend
from powauth.events import Event

HASHER = cheap_hasher()
NEW_PASSWORD = "nine brown otters"
NEW_HASH = HASHER.hash(NEW_PASSWORD)
EMAILS = ("mia@example.com", "noa@example.com")


class Citizen(UserMixin, Base):
    __tablename__ = table_name()

    name: Mapped[str] = mapped_column(sa.String(40), default="")
    is_active: Mapped[bool] = mapped_column(default=True)
    visits: Mapped[int] = mapped_column(default=0)
    updated_at = None  # type: ignore[assignment]


class Me(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of a `Citizen`."""

    id: uuid.UUID
    email: str
    name: str


class App:
    """Users in a database, sessions in a store, and a small WSGI app in front of them.

    Attributes:
        users: the users context, which follows nothing yet.
        auth: the authenticator.
        maker: makes the app's own database sessions.
    """

    def __init__(self, engine: sa.Engine, backend: Backend | str | None = None, **options: Any) -> None:
        self.engine = engine
        self.backend = MemoryBackend() if backend is None else backend
        self.events: list[Event] = []
        self.users: SQLAlchemyUsers[Any, Any] = SQLAlchemyUsers(
            engine, options.pop("model", Citizen), identity=options.pop("identity", Me), hasher=HASHER
        )
        self.auth = self.another_auth(**options)
        self.maker = sessionmaker(engine)
        self.handlers: dict[str, Callable[[Request], Awaitable[object]]] = {"/sign-in": _sign_in, "/name": _name}

    def another_auth(self, **options: Any) -> SessionAuth[Any, Any]:
        chosen: dict[str, Any] = {"backend": self.backend, "throttle": None, "clock": Clock()} | options
        return SessionAuth(secret_key=SECRET, users=self.users, on_event=self.events.append, **chosen)

    def register(self, *emails: str) -> None:
        for email in emails or EMAILS:
            drive(self.users.create({"email": email, "password": PASSWORD}))

    def browser(self, email: str = EMAILS[0], password: str = PASSWORD) -> Browser:
        """A browser that has tried to sign in."""
        browser = Browser(make_app("wsgi", self.auth, self.handlers), "wsgi")
        browser.get("/sign-in", email=email, password=password)
        return browser

    def user(self, session: Session, email: str = EMAILS[0]) -> Any:
        return session.scalars(sa.select(self.users.model).where(self.users.model.email == email)).one()

    def row(self, email: str = EMAILS[0]) -> Any:
        """The row as the database has it."""
        with self.engine.connect() as connection:
            table = self.users.model.__table__
            return connection.execute(sa.select(table).where(table.c.email == email)).one_or_none()


def who(browser: Browser) -> str | None:
    """The user id of a browser's user."""
    email: str | None = browser.get().json()["user"]
    return email


def named(browser: Browser) -> str | None:
    """The name in the identity of a browser's user."""
    name: str | None = browser.get("/name").json()
    return name


async def _sign_in(request: Request) -> object:
    connection = request.bound.connection
    identity = await request.call("sign_in", email=connection.header("email"), password=connection.header("password"))
    return identity is not None


async def _name(request: Request) -> object:
    return None if request.user is None else request.user.name


def beside_the_commit(app: App, path: str = "/change") -> list[str | None]:
    """Let a view change its own user's password. Return who a second request of the same client is, at each moment.

    The moments are the end of the flush, the commit before the session of powauth has followed, and the end.
    """
    found: list[str | None] = []

    async def change(request: Request) -> object:
        with app.maker() as session:
            app.user(session).password_hash = NEW_HASH
            session.flush()
            look(session)
            session.commit()
        return True

    async def row(request: Request) -> object:
        with app.maker() as session:
            user = await request.call("load_user", session)
            return None if user is None else user.email

    def look(_: Session) -> None:
        with ThreadPoolExecutor(1) as worker:  # as in a server: the request has a context of its own
            found.append(worker.submit(own.copy().get, "/row").result().json())

    app.handlers |= {path: change, "/row": row}
    own = app.browser()
    sa.event.listen(app.maker, "after_commit", look, insert=True)
    try:
        own.get(path)
    finally:
        sa.event.remove(app.maker, "after_commit", look)
    found.append(own.get("/row").json())
    return found


@contextmanager
def following_app(driver: str, folder: str, backend: Backend | str | None = None, **options: Any) -> Iterator[App]:
    """An app with two users that follows its own database sessions."""
    with blocking_engine(driver, folder, options.get("model", Citizen)) as engine:
        app = App(engine, backend, **options)
        app.register()
        app.users.follow(app.maker)
        yield app
        app.users.unfollow()
