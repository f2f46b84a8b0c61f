"""API keys in tests: a model of keys and of users with scopes, and an app that has them."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from harness.support import Browser, FakeConnection, Kind, Request, Response
from harness.tables_support import TableSite
from harness.users_databases import Base, table_name
from powauth import Extension
from powauth.accounts.sqlalchemy import UserMixin
from powauth.extensions.api_keys import ApiKeyMixin, ApiKeys
from powauth.extensions.lock import LockMixin
from powauth.integrations import asgi, wsgi

EVE = "eve@example.org"


class ApiKey(ApiKeyMixin, Base):
    """The keys of the tests."""

    __tablename__ = table_name()


class Member(LockMixin, UserMixin, Base):
    """A user with scopes, which are words in a text."""

    __tablename__ = table_name()

    rights: Mapped[str] = mapped_column(sa.String(255), default="read write")


class Me(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of a user with scopes."""

    id: UUID
    email: str
    rights: str


def rights_of(identity: Any) -> list[str]:
    """The scopes of an identity."""
    return str(identity.rights).split()


def ask(key: str | None = None) -> FakeConnection:
    """A request, with a key or without."""
    return FakeConnection() if key is None else FakeConnection(authorization=f"Bearer {key}")


class KeySite(TableSite):
    """An app with the extension and one user, ada.

    Args:
        kind: ASGI or WSGI.
        engine: the database of the users and the keys.
        others: further extensions.
        options: options of `ApiKeys`, and as ``auth`` those of `SessionAuth`.
    """

    def __init__(self, kind: Kind, engine: sa.Engine, others: Sequence[Extension[Any]] = (), **options: Any) -> None:
        given = options.pop("auth", {})
        given["users"] = {"identity": Me} | given.get("users", {})
        made: ApiKeys[Any] = ApiKeys(engine, ApiKey, **{"scopes": rights_of} | options)
        super().__init__(kind, engine, Member, [made, *others], **given)

    @property
    def keys(self) -> ApiKeys[Any]:
        """The bound extension."""
        return self.auth.extension(ApiKeys)

    def key(self, browser: Browser, name: str = "a program", scopes: Any = (), **options: Any) -> str:
        """A new key of the browser's user, who has just signed in."""
        made: list[str] = []

        async def work(request: Request) -> object:
            bound = getattr(request.bound, "bound", request.bound)
            made.append((await self.keys.create(bound, name, scopes, **options)).key)
            return {}

        response = self.do(browser, work)
        assert response.status == 200, response.body
        return made[0]

    def a_key(self, **options: Any) -> str:
        """A new key of ada, made in a browser of its own."""
        return self.key(self.browser(signed_in=True), **options)

    def alone(self) -> Browser:
        """A client of the same app behind the authenticator of the keys alone, without sessions."""
        middleware = asgi.SessionAuthMiddleware if self.kind == "asgi" else wsgi.SessionAuthMiddleware
        return Browser(middleware(self.app.app, self.keys.authenticator), self.kind)

    def use(self, key: str | None, path: str = "/private", **headers: str) -> Response:
        """The response to a program that has no cookie."""
        if key is not None:
            headers["authorization"] = f"Bearer {key}"
        return Browser(self.app, self.kind).send(path, None, headers)
