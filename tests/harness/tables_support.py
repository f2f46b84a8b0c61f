"""An app over users in a table, for extensions with columns or tables: one face for ASGI and WSGI."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from harness.support import SECRET, Browser, Clock, Kind, Request, make_app
from harness.users_databases import PASSWORD, cheap_hasher
from powauth import Event, Extension, SessionAuth
from powauth.accounts.sqlalchemy import SQLAlchemyUsers
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend

ADA = "ada@example.org"


class TableSite:
    """An app with one user, ada, over an ``Engine``.

    Args:
        kind: ASGI or WSGI.
        engine: the database of the users.
        model: the model. Its table exists, and is empty.
        extensions: the extensions.
        options: options of `SessionAuth`.
    """

    def __init__(
        self, kind: Kind, engine: sa.Engine, model: type[Any], extensions: Sequence[Extension[Any]], **options: Any
    ) -> None:
        self.kind = kind
        self.engine = engine
        self.model = model
        self.clock = Clock()
        self.events: list[Event] = []
        chosen = {"hasher": cheap_hasher(), "clock": self.now} | options.pop("users", {})
        self.users: SQLAlchemyUsers[Any, Any] = SQLAlchemyUsers(engine, model, **chosen)
        given: dict[str, Any] = {"backend": MemoryBackend(), "throttle": None, "on_event": self.events.append}
        self.auth: SessionAuth[Any, Any] = SessionAuth(
            secret_key=SECRET, users=self.users, clock=self.clock, extensions=extensions, **given | options
        )
        self._work: Callable[[Request], Any] | None = None
        self.app = make_app(kind, self.auth, {"/do": self._do})
        self.ada = drive(self.auth.create_account({"email": ADA, "password": PASSWORD}))
        self.events.clear()

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock(), UTC)

    async def _do(self, request: Request) -> object:
        assert self._work is not None
        return await self._work(request)

    def browser(self, *, signed_in: bool = False, **options: Any) -> Browser:
        browser = Browser(self.app, self.kind)
        if signed_in:
            assert self.sign_in(browser, **options) == ADA
        return browser

    def to_do(self, work: Callable[[Request], Any]) -> None:
        """Let the handler at ``/do`` do ``work`` from now on."""
        self._work = work

    def do(self, browser: Browser, work: Callable[[Request], Any]) -> Any:
        """The response to a request whose handler does ``work``."""
        self.to_do(work)
        return browser.get("/do")

    def call(self, browser: Browser, name: str, *arguments: object, **options: object) -> Any:
        """The response to a request whose handler calls an operation of the request-bound object."""

        async def work(request: Request) -> object:
            await request.call(name, *arguments, **options)
            return None

        return self.do(browser, work)

    def sign_in(self, browser: Browser, password: str = PASSWORD, **options: Any) -> str | None:
        """Sign ada in, and return the user of the next request."""
        self.call(browser, "sign_in", {"email": ADA, "password": password}, **options)
        return self.who(browser)

    def who(self, browser: Browser) -> str | None:
        user: str | None = browser.get("/").json()["user"]
        return user

    def sql(self, statement: Any) -> None:
        """Run a statement of the app's own."""
        with self.engine.begin() as connection:
            connection.execute(statement)

    def row(self) -> Any:
        with Session(self.engine) as session:
            return session.scalars(sa.select(self.model).where(self.model.email == ADA)).one()

    @property
    def event_names(self) -> list[str]:
        return [event.name for event in self.events]
