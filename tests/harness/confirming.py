"""A site with `ConfirmEmail`: its pages, its JSON, its mail and its table."""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from harness.pages_support import EMAIL, ORIGIN, PASSWORD, Page, Site, SyncASGI, site
from harness.users_databases import cheap_hasher
from powauth import Extension
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.base import drive
from powauth.extensions.confirm_email import ConfirmEmail, ConfirmEmailMixin
from powauth.testing import MemoryMailer

NEW = "mia@new.example"
OTHER_PASSWORD = "eleven grey geese"
_LINK = re.compile(rf"{re.escape(ORIGIN)}(/\S*?)#(\S+)")


class Base(DeclarativeBase):
    pass


class Member(ConfirmEmailMixin, UserMixin, Base):
    __tablename__ = "members"

    locked: Mapped[bool] = mapped_column(default=False)

    @property
    def is_active(self) -> bool:
        return not self.locked


class NamedBase(DeclarativeBase):
    pass


class NamedMember(ConfirmEmailMixin, UserMixin, NamedBase):
    """A user whose row needs more than an address and a password."""

    __tablename__ = "members"

    full_name: Mapped[str] = mapped_column(sa.String(40))
    locked: Mapped[bool] = mapped_column(default=False)


@dataclass
class Link:
    """A link in a mail."""

    path: str
    token: str


class Confirming:
    """A site, its mailer and its users."""

    def __init__(self, here: Site, mailer: MemoryMailer, engine: sa.Engine, model: type[DeclarativeBase]) -> None:
        self.site = here
        self.mailer = mailer
        self.engine = engine
        self.table: Any = model.__table__
        self.loop: asyncio.AbstractEventLoop | None = None
        self.browser = here.browser
        self.program = here.program

    def settle(self) -> None:
        """Wait until no extension works in the background any more."""
        closing = self.site.auth.accounts.hooks.aclose()
        if self.loop is None:
            drive(closing)
        else:
            asyncio.run_coroutine_threadsafe(closing, self.loop).result(30)

    @property
    def extension(self) -> ConfirmEmail[Any]:
        return self.site.auth.extension(ConfirmEmail)

    def mails(self) -> list[EmailMessage]:
        """Everything that was sent, once nothing waits any more."""
        self.settle()
        return self.mailer.messages

    def to(self, address: str) -> list[EmailMessage]:
        return [each for each in self.mails() if each["To"] == address]

    def link(self, address: str = EMAIL) -> Link:
        """The link in the newest mail to an address."""
        return link_in(self.to(address)[-1])

    def row(self, address: str = EMAIL) -> dict[str, Any]:
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(self.table).where(self.table.c.email == address))
            return dict(rows.mappings().one())

    @property
    def addresses(self) -> list[str]:
        with self.engine.connect() as connection:
            return sorted(connection.scalars(sa.select(self.table.c.email)))

    def change(self, address: str = EMAIL, **values: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.update(self.table).where(self.table.c.email == address).values(values))

    def member(self, address: str = EMAIL, password: str = PASSWORD, *, confirmed: bool = True, **more: str) -> Any:
        """Make a user in the way of an app, and return the identity."""
        identity = drive(self.site.auth.create_account(email=address, password=password, **more))
        if confirmed:
            drive(self.site.auth.update_account(identity, email_confirmed_at=datetime.now(UTC)))
        return identity

    def opened(self, browser: Any, link: Link, **fields: str) -> Page:
        """Open a link in a browser, paste the token, fill in the form, and send it."""
        page = browser.get(link.path)
        assert page.status == 200, page.text
        sent: Page = browser.post(link.path, {"token": link.token, **fields})
        return sent


@contextmanager
def _on_one_loop(here: Confirming) -> Iterator[None]:
    """Answer all requests to an ASGI site on one event loop, as a server does, so that tasks can go on between them."""
    transport = here.site.transport
    assert isinstance(transport, SyncASGI)
    here.loop = loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    transport.run = lambda answer: asyncio.run_coroutine_threadsafe(answer, loop).result(30)
    try:
        yield
    finally:
        here.settle()
        here.loop = None
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def link_in(message: EmailMessage) -> Link:
    body = message.get_body(("plain",))
    assert body is not None
    found = _LINK.search(body.get_content())
    assert found is not None, body.get_content()
    return Link(found[1], found[2])


@contextmanager
def confirming(
    framework: str,
    folder: Path,
    *,
    extensions: tuple[Extension[Any], ...] | Callable[[sa.Engine], tuple[Extension[Any], ...]] = (),
    auth: Any = None,
    mailer: MemoryMailer | None = None,
    confirms: bool = True,
    named: bool = False,
    **options: Any,
) -> Iterator[Confirming]:
    """A new site. ``options`` are those of `ConfirmEmail`, unless the site has only other extensions.

    ``extensions`` may be a function of the engine. With ``named``, a registration needs a full name, too.
    """
    engine = sa.create_engine(f"sqlite:///{folder / 'members.sqlite3'}")
    model: type[Any] = NamedMember if named else Member
    model.metadata.create_all(engine)
    mailer = mailer or MemoryMailer()
    users = SQLAlchemyUsers(engine, model, fields=["full_name"] if named else [], hasher=cheap_hasher())
    own = [ConfirmEmail[Any](mailer, **options)] if confirms else []
    others = extensions(engine) if callable(extensions) else extensions
    given = {"extensions": [*own, *others], "public_url": ORIGIN, **(auth or {})}
    with site(framework, folder, users=users, auth_options=given) as here:
        made = Confirming(here, mailer, engine, model)
        with _on_one_loop(made) if framework == "asgi" else nullcontext():
            yield made
        made.settle()
        drive(users.close())
    engine.dispose()
