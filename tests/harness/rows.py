"""Apps of a user's own, with a table of users on a real database, for the tests of rows."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from harness.support import SECRET
from harness.users_databases import OTHER_PASSWORD, PASSWORD, cheap_hasher, url_of
from powauth import SessionAuth
from powauth.accounts.sqlalchemy import SQLAlchemyUsers
from powauth.backends.base import drive

DRIVERS = ["sqlite", "postgresql+psycopg"]
EMAIL = "mia@example.org"


def _alchemy_suits_litestar() -> bool:
    try:
        import advanced_alchemy.extensions.litestar  # noqa: F401
    except ImportError:
        return False
    return True


ALCHEMY_SUITS_LITESTAR = _alchemy_suits_litestar()
"""True if the installed advanced-alchemy works with the installed Litestar: 1.11 needs 2.23, and does not say so."""

needs_alchemy = pytest.mark.skipif(not ALCHEMY_SUITS_LITESTAR, reason="this advanced-alchemy needs a newer Litestar")


def identity_class() -> type[Any]:
    """An identity class. Each app has its own: keys of two tables have nothing in common."""

    class Me(msgspec.Struct, frozen=True, kw_only=True):
        id: int
        email: str

    return Me


def auth_over(engine: sa.Engine | AsyncEngine, model: Any, **options: Any) -> SessionAuth[Any, Any]:
    """An authenticator over a table, with sessions in memory."""
    identity = options.pop("identity", None) or identity_class()
    users: SQLAlchemyUsers[Any, Any] = SQLAlchemyUsers(engine, model, identity=identity, hasher=cheap_hasher())
    chosen: dict[str, Any] = {"secret_key": SECRET, "users": users, "backend": "memory://", "throttle": None}
    return SessionAuth(**chosen | options)


def add_user(auth: SessionAuth[Any, Any], email: str = EMAIL) -> Any:
    """Register a user without signing in. Return the identity."""
    return drive(auth.users.create({"email": email, "password": PASSWORD})).identity


def hash_of(password: str = OTHER_PASSWORD) -> str:
    """A hash that an app sets by itself."""
    return cheap_hasher().hash(password)


@contextmanager
def counted(engine: sa.Engine) -> Iterator[list[str]]:
    """The statements of an engine."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)


def unique(name: str) -> str:
    """A name of a table."""
    return f"{name}_{uuid.uuid4().hex}"


__all__ = ["DRIVERS", "EMAIL", "identity_class", "add_user", "auth_over", "counted", "hash_of", "unique", "url_of"]
