"""One `SessionAuth` configuration for both apps, from the environment."""

import os
import secrets
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path

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


@dataclass(frozen=True)
class Settings:
    """What the environment says; lengths of time in seconds."""

    port: int
    flask_port: int
    data: Path
    workers: int
    backend: str
    ttl: float
    renewal: float
    grace: float
    max_lifetime: float

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
        ttl=ttl,
        renewal=float(_get("RENEWAL", str(min(900.0, ttl / 2)))),
        grace=float(_get("GRACE", str(min(30.0, ttl / 2)))),
        max_lifetime=float(_get("MAX_LIFETIME", str(max(43200.0, ttl)))),
    )


def prepare(chosen: Settings) -> None:
    """Make the folder, the secret and the tables, once, before any worker starts."""
    chosen.data.mkdir(parents=True, exist_ok=True)
    secret = chosen.data / "secret_key"
    if not secret.exists():
        secret.touch(stat.S_IRUSR | stat.S_IWUSR)
        secret.write_text(secrets.token_urlsafe(48))
    engine = create_engine(f"sqlite:///{chosen.database}")
    with engine.begin() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        Base.metadata.create_all(connection)
    engine.dispose()
    backend = backend_from_url(chosen.backend, asynchronous=False)
    if isinstance(backend, SQLBackend):
        drive(backend.create_tables())
    drive(backend.close())


def make_auth(*, asynchronous: bool) -> SessionAuth[User]:
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
            users=SQLAlchemyUsers(engine, User),
            store=CredentialsCache(chosen.backend, ttl=chosen.ttl),
            session_ttl_renewal=chosen.renewal,
            grace=chosen.grace,
            max_lifetime=chosen.max_lifetime,
            carrier=CookieCarrier(insecure_http=True),
        )


def _get(name: str, default: str) -> str:
    return os.environ.get(PREFIX + name) or default
