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
    """What requests see of a user."""

    id: UUID
    email: str
    created_at: datetime


@dataclass(frozen=True)
class Settings:
    """The settings from the environment, in which lengths of time are numbers of seconds."""

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
        """The file that the users are in."""
        return self.data / "users.sqlite3"


def settings() -> Settings:
    """The settings, with defaults for what the environment leaves out."""
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
    """Make the folder, the secret and the tables, once, before any worker starts. Nobody else can read them."""
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
    """Make an empty file that its owner alone can read, or take the others' rights from the one that is there.

    SQLite would make the file of a database with mode 0644. It gives the files beside it (``-wal``, ``-shm``) the mode
    of that file, but leaves those that are there as they are.
    """
    with contextlib.suppress(FileExistsError):  # closing a file that exists would drop the locks of SQLite on it
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    for file in path.parent.glob(f"{path.name}*"):
        if file.stat().st_mode & 0o077:
            file.chmod(0o600)


def make_auth(*, asynchronous: bool) -> SessionAuth[User, Me]:
    """The configuration, with asynchronous drivers for ASGI and synchronous ones for WSGI."""
    chosen = settings()
    engine = (
        create_async_engine(f"sqlite+aiosqlite:///{chosen.database}")
        if asynchronous
        else create_engine(f"sqlite:///{chosen.database}")
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)  # plain http and long times are asked for here
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
