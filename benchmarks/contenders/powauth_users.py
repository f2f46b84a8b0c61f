"""The users of powauth's contenders, in a table of the app, as in any app that uses powauth."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from benchmarks.contenders.base import EMAIL, PASSWORD, Place
from benchmarks.contenders.statements import Noting, noting
from powauth import SessionAuth
from powauth.accounts.passwords import PasswordHasher
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.base import Backend, drive
from powauth.backends.memory import MemoryBackend
from powauth.backends.sql import SQLBackend

SECRET = secrets.token_urlsafe(48)
PARAMS = {"email": EMAIL, "password": PASSWORD}


class Base(DeclarativeBase): ...


class User(UserMixin, Base):
    __tablename__ = "users"


def cheap_hasher() -> PasswordHasher:
    """Return a cheap hasher: the comparison does not measure sign-ins."""
    return PasswordHasher(time_cost=1, memory_cost=8, cheap_and_unsafe=True)


def create_user_table(directory: Path) -> str:
    """Make a SQLite database with one user, and return the path of its file."""
    path = directory / "app.sqlite3"
    engine = create_engine(f"sqlite:///{path}")
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        Base.metadata.create_all(engine)
        drive(SQLAlchemyUsers(engine, User, hasher=cheap_hasher()).create(PARAMS))
    finally:
        engine.dispose()
    return str(path)


class Guarded(NamedTuple):
    """powauth and the app's database, for one contender.

    Attributes:
        noting: of the database of its users, and of its sessions where they are there too.
        engine: the engine of that database.
    """

    auth: SessionAuth[Any, Any]
    backend: Backend
    noting: Noting
    engine: Any


MakeBackend = Callable[[Place, "Engine | AsyncEngine"], Backend]
"""A function that makes a backend. The engine is that of the app's database, where the users are."""


@asynccontextmanager
async def guarded(place: Place, make_backend: MakeBackend, *, asynchronous: bool) -> AsyncIterator[Guarded]:
    """Make a `SessionAuth` over users in the app's database. ``asynchronous`` makes an `AsyncEngine`.

    With a plain `Engine` it never suspends.
    """
    path = create_user_table(place.directory)
    engine: Engine | AsyncEngine
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}") if asynchronous else create_engine(f"sqlite:///{path}")
    noted = noting(engine)
    users = SQLAlchemyUsers(engine, User, hasher=cheap_hasher())
    backend = make_backend(place, engine)
    try:
        if isinstance(backend, SQLBackend):
            await backend.create_tables()
        yield Guarded(SessionAuth(secret_key=SECRET, users=users, backend=backend), backend, noted, engine)
    finally:
        await backend.close()
        await users.close()
        if isinstance(engine, AsyncEngine):
            await engine.dispose()
        else:
            engine.dispose()


def memory(place: Place, engine: object) -> Backend:
    """Keep sessions in the memory of the process."""
    del place, engine
    return MemoryBackend()


def lmdb(place: Place, engine: object) -> Backend:
    """Keep sessions in LMDB files, with the default durability."""
    del engine
    from powauth.backends.lmdb import LMDBBackend

    return LMDBBackend(place.directory / "sessions")


def redis(place: Place, engine: object) -> Backend:
    """Keep sessions in Redis. The client is for asyncio if the engine is."""
    from powauth.backends.redis import RedisBackend

    return RedisBackend(place.redis_url, asynchronous=isinstance(engine, AsyncEngine))


def redis_near(place: Place, engine: object) -> Backend:
    """Keep sessions in Redis with a near cache, which the server notifies of changes."""
    del engine
    from powauth.backends.redis import RedisBackend

    return RedisBackend(place.redis_url, asynchronous=True, near_cache=10_000)


def sql(place: Place, engine: "Engine | AsyncEngine") -> Backend:
    """Keep sessions in the app's database, through the app's engine."""
    del place
    return SQLBackend(engine)


CHECKS = "MAC, expiry, salt, reuse of an old id; renews the id; what is revoked is refused from the next request on"


def keeps(where: str) -> str:
    """Return the words with which a row of the table names the place of the sessions."""
    return f"signed id in the cookie; session and the identity of the user in {where}"
