"""One `SessionAuth` configuration for both apps, from the environment."""

import contextlib
import os
import secrets
import warnings
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

import msgspec
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase

from powauth import ConfigWarning, CookieCarrier, CredentialsCache, SessionAuth
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends import backend_from_url
from powauth.backends.base import drive
from powauth.backends.sql import SQLBackend

PREFIX = "POWAUTH_DEMO_"


class Base(DeclarativeBase):
    """The demo's tables."""


class User(UserMixin, Base):
    """The demo's users."""

    __tablename__ = "users"


class Me(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a user that requests see."""

    id: UUID
    email: str
    created_at: datetime


@dataclass(frozen=True)
class Settings:
    """The settings from the environment. Durations in the environment are in seconds."""

    port: int
    flask_port: int
    data: Path
    workers: int
    backend: str
    ttl: timedelta
    renewal: timedelta
    grace: timedelta
    max_lifetime: timedelta

    @property
    def database(self) -> Path:
        """The database file of the users."""
        return self.data / "users.sqlite3"


def settings() -> Settings:
    """Return the settings, with defaults for variables that are not set."""
    data = Path(_get("DATA", ".demo")).resolve()
    ttl = float(_get("TTL", "1800"))
    return Settings(
        port=int(_get("PORT", "8000")),
        flask_port=int(_get("FLASK_PORT", "8001")),
        data=data,
        workers=int(_get("WORKERS", "2")),
        backend=_get("BACKEND", f"lmdb://{data}/sessions"),
        ttl=timedelta(seconds=ttl),
        renewal=timedelta(seconds=float(_get("RENEWAL", str(min(900.0, ttl / 2))))),
        grace=timedelta(seconds=float(_get("GRACE", str(min(30.0, ttl / 2))))),
        max_lifetime=timedelta(seconds=float(_get("MAX_LIFETIME", str(max(43200.0, ttl))))),
    )


def prepare(chosen: Settings) -> None:
    """Create the folder, the secret and the tables once, before any worker starts. Only their owner can read them."""
    chosen.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    secret = chosen.data / "secret_key"
    _make_private(secret)
    if not secret.stat().st_size:
        secret.write_text(secrets.token_urlsafe(48))
    _make_private(chosen.database)
    engine = create_engine(f"sqlite:///{chosen.database}")
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        Base.metadata.create_all(connection)
    engine.dispose()
    backend = backend_from_url(chosen.backend, asynchronous=False)
    if isinstance(backend, SQLBackend):
        drive(backend.create_tables())
    drive(backend.close())


def _make_private(path: Path) -> None:
    """Create an empty file that only its owner can read. Restrict the mode of existing files.

    SQLite would create a database file with mode 0644. It gives new ``-wal`` and ``-shm`` files the mode of the
    database file, but does not change existing ones.
    """
    with contextlib.suppress(FileExistsError):  # closing an existing file would drop SQLite's locks on it
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    for file in path.parent.glob(f"{path.name}*"):
        if file.stat().st_mode & 0o077:
            file.chmod(0o600)


def make_auth(*, asynchronous: bool) -> SessionAuth[User, Me]:
    """Return the authenticator, with asynchronous drivers for ASGI or synchronous ones for WSGI."""
    chosen = settings()
    engine = (
        create_async_engine(f"sqlite+aiosqlite:///{chosen.database}")
        if asynchronous
        else create_engine(f"sqlite:///{chosen.database}")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)  # plain http and long durations are intended here
        return SessionAuth(
            secret_key=(chosen.data / "secret_key").read_text(),
            users=SQLAlchemyUsers(engine, User, identity=Me),
            store=CredentialsCache(chosen.backend, ttl=chosen.ttl),
            session_ttl_renewal=chosen.renewal,
            grace=chosen.grace,
            max_lifetime=chosen.max_lifetime,
            carrier=CookieCarrier(insecure_http=True),
        )


def _get(name: str, default: str) -> str:
    return os.environ.get(PREFIX + name) or default
