"""A site with passkeys on one database and one store, for ASGI and WSGI, and programs that use it."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import httpx
import sqlalchemy as sa
from sqlalchemy.orm import Session

from harness.authenticator import Authenticator
from harness.pages_support import SyncASGI
from harness.support import SECRET, Clock, Kind
from harness.users_databases import PASSWORD, Base, cheap_hasher, table_name
from powauth import Event, Extension, SessionAuth
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.extensions.lock import LockMixin
from powauth.extensions.passkeys import PasskeyMixin, Passkeys
from powauth.integrations import asgi, wsgi
from powauth.pages import Pages
from powauth.pages import asgi as asgi_pages
from powauth.pages import wsgi as wsgi_pages

ORIGIN = "https://app.example.test"
ADA, EVE = "ada@example.org", "eve@example.org"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


class Person(LockMixin, UserMixin, Base):
    __tablename__ = table_name()


class PasskeyRow(PasskeyMixin, Base):
    __tablename__ = table_name()


MODELS = [Person, PasskeyRow]


class PasskeySite:
    """A site with two users, ada and eve.

    Args:
        kind: ASGI or WSGI.
        engine: the database, with the tables of `MODELS`.
        extensions: extensions besides `Passkeys`.
        passkeys: options of `Passkeys`.
        options: options of `SessionAuth`.
    """

    def __init__(
        self,
        kind: Kind,
        engine: sa.Engine,
        extensions: Sequence[Extension[Any]] = (),
        passkeys: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.engine, self.clock = engine, Clock()
        self.events: list[Event] = []
        model = options.pop("model", Person)
        users: SQLAlchemyUsers[Any, Any] = SQLAlchemyUsers(engine, model, hasher=cheap_hasher())
        pages, members = options.pop("pages", {}), options.pop("members", True)
        given: dict[str, Any] = {"backend": MemoryBackend(), "throttle": None, "public_url": ORIGIN}
        self.auth: SessionAuth[Any, Any] = SessionAuth(
            secret_key=SECRET,
            users=users,
            clock=self.clock,
            extensions=[Passkeys(engine, PasskeyRow, **(passkeys or {})), *extensions],
            on_event=self.events.append,
            **{**given, **options},
        )
        self.passkeys = self.auth.extension(Passkeys)
        made = Pages(self.auth, **pages)
        self.app: Any
        if kind == "asgi":
            self.app = asgi.SessionAuthMiddleware(asgi_pages.PagesApp(made), self.auth)
            self.transport: httpx.BaseTransport = SyncASGI(self.app)
        else:
            self.app = wsgi.SessionAuthMiddleware(wsgi_pages.PagesApp(made), self.auth)
            self.transport = httpx.WSGITransport(self.app)
        self.ada, self.eve = (self.program().register(each) if members else "" for each in (ADA, EVE))
        self.events.clear()

    def program(self) -> "Program":
        return Program(self)

    def names(self, *, of: str = "passkey") -> list[tuple[str, str | None]]:
        """The events with this beginning, with their details."""
        return [(each.name, each.detail) for each in self.events if each.name.startswith(of)]

    def key(self, email: str = ADA) -> UUID:
        """The key of a user."""
        account = drive(self.auth.users.find(email))
        assert account is not None
        assert isinstance(account.key, UUID)
        return account.key

    def rows(self) -> list[Any]:
        with Session(self.engine) as session:
            return list(session.scalars(sa.select(PasskeyRow)))

    def sql(self, statement: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(statement)


class Program:
    """A client that speaks JSON, with a cookie jar."""

    def __init__(self, site: PasskeySite) -> None:
        self.site = site
        headers = {"accept": "application/json", "user-agent": FIREFOX}
        self.client = httpx.Client(transport=site.transport, base_url=ORIGIN, headers=headers)

    def post(self, path: str, **fields: object) -> httpx.Response:
        return self.client.post(path, json=fields)

    def register(self, email: str) -> Any:
        made = self.post("/register", email=email, password=PASSWORD)
        assert made.status_code == 201, made.text
        return made.json()["user"]["id"]

    def sign_in(self, email: str = ADA, **more: object) -> "Program":
        assert self.post("/login", email=email, password=PASSWORD, **more).status_code == 200
        return self

    def who(self) -> str | None:
        found = self.client.get("/account")
        return found.json()["user"]["email"] if found.status_code == 200 else None

    def creation_options(self) -> dict[str, Any]:
        answer = self.post("/account/passkeys", action="options")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["publicKey"]
        return found

    def options(self) -> dict[str, Any]:
        answer = self.post("/login/passkey", action="options")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()["publicKey"]
        return found

    def add(self, device: Authenticator, label: str = "", **faults: Any) -> httpx.Response:
        credential = device.create(self.creation_options(), **faults)
        return self.post("/account/passkeys", action="add", credential=credential, label=label)

    def use(self, device: Authenticator, **faults: Any) -> httpx.Response:
        return self.answer(device.get(self.options(), **faults))

    def answer(self, credential: object, **more: object) -> httpx.Response:
        return self.post("/login/passkey", credential=credential, **more)

    def passkeys(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.get("/account/passkeys").json()["passkeys"]
        return found

    def remove(self, name: object) -> httpx.Response:
        return self.post("/account/passkeys", action="remove", id=name)


def device(site: PasskeySite, email: str = ADA, **options: Any) -> Authenticator:
    """A new authenticator with a passkey of a user."""
    made = Authenticator(ORIGIN, **options)
    answer = site.program().sign_in(email).add(made)
    assert answer.status_code == 201, answer.text
    site.events.clear()
    site.clock.advance(1)
    return made
