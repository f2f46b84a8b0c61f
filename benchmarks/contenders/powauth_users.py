"""The users behind powauth's contenders: a table of the app's own, as in any app that uses powauth."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event
from sqlalchemy.orm import DeclarativeBase

from benchmarks.contenders.base import EMAIL, PASSWORD
from powauth.backends.base import drive
from powauth.users.passwords import PasswordHasher
from powauth.users.sqlalchemy import SQLAlchemyUsers, UserMixin

SECRET = secrets.token_urlsafe(48)
PARAMS = {"email": EMAIL, "password": PASSWORD}


class Base(DeclarativeBase): ...


class User(UserMixin, Base):
    __tablename__ = "users"


def cheap_hasher() -> PasswordHasher:
    """Signing in is not what is measured."""
    return PasswordHasher(time_cost=1, memory_cost=8, cheap_and_unsafe=True)


def note_statements(engine: Engine, statements: list[str]) -> None:
    """Append every statement that the engine's databases are given."""

    @event.listens_for(engine, "before_cursor_execute")
    def note(connection: Any, cursor: Any, statement: str, *more: Any) -> None:
        del connection, cursor, more
        statements.append(statement)


@contextmanager
def user_table(directory: Path, statements: list[str]) -> Iterator[Engine]:
    """A SQLite database with one user in it."""
    engine = create_engine(f"sqlite:///{directory / 'app.sqlite3'}")
    try:
        Base.metadata.create_all(engine)
        drive(SQLAlchemyUsers(engine, User, hasher=cheap_hasher()).create(PARAMS))
        note_statements(engine, statements)
        yield engine
    finally:
        engine.dispose()
