"""One `SessionAuth` configuration for both apps, from the environment."""

import contextlib
import os
import secrets
import warnings
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from powauth import ConfigWarning, CookieCarrier, CredentialsCache, Extension, Remember, SessionAuth
from powauth.accounts.sqlalchemy import SQLAlchemyUsers
from powauth.backends import backend_from_url
from powauth.backends.base import drive
from powauth.backends.sql import SQLBackend
from powauth.extensions import ConsoleMailer, Mailer, SMTPMailer
from powauth.extensions.api_keys import ApiKeys
from powauth.extensions.audit import Audit
from powauth.extensions.breached_passwords import BreachedPasswords
from powauth.extensions.confirm_email import ConfirmEmail
from powauth.extensions.invitation import Invitation
from powauth.extensions.lock import Lock
from powauth.extensions.passkeys import Passkeys
from powauth.extensions.reset_password import ResetPassword
from powauth.extensions.second_factor import RecoveryCodes, SecondFactor, Totp

from .administration import Administration
from .identity import Me
from .passwords import SmallRanges
from .tables import Activity, ApiKey, Authenticator, Passkey, RecoveryCode, User, appoint, create_tables

__all__ = ["Me", "Settings", "User", "mailer_of", "make_auth", "pages_of", "prepare", "settings"]

PREFIX = "POWAUTH_DEMO_"
TITLE = "powauth demo"
SENDER = "powauth demo <no-reply@demo.example>"
REMEMBERED = timedelta(days=30)
LONGEST_REMEMBERED = timedelta(days=90)
SCOPES = ("profile",)
"""The scopes that a user may give to an API key."""


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
    smtp: str | None
    administrator: str | None
    asks_service: bool
    fresh: timedelta
    challenge: timedelta

    @property
    def database(self) -> Path:
        """The database file of the users."""
        return self.data / "users.sqlite3"

    @property
    def url(self) -> str:
        """The address of the FastAPI app. Browsers make passkeys for this name, and for no IP address."""
        return f"http://localhost:{self.port}"

    @property
    def flask_url(self) -> str:
        """The address of the Flask app."""
        return f"http://localhost:{self.flask_port}"


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
        smtp=_get("SMTP", "") or None,
        administrator=_get("ADMINISTRATOR", "") or None,
        asks_service=_get("BREACHED", "offline") == "online",
        fresh=timedelta(seconds=float(_get("FRESH", "900"))),
        challenge=timedelta(seconds=float(_get("CHALLENGE", "300"))),
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
        create_tables(connection)
        if chosen.administrator is not None and not appoint(connection, chosen.administrator):
            warnings.warn(f"nobody has registered with {chosen.administrator}: register, and start again", stacklevel=1)
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


def mailer_of(chosen: Settings) -> Mailer:
    """Return the mailer: it prints mail, or sends it to an SMTP server (``host`` or ``host:port``) without encryption.

    Such a server runs on this machine and shows the mail, as a development tool.
    """
    if chosen.smtp is None:
        return ConsoleMailer()
    host, _, port = chosen.smtp.partition(":")
    return SMTPMailer(host, sender=SENDER, port=int(port or 25), security="none")


def remember_of(chosen: Settings) -> Remember:
    """Return the times of remembered sessions. They are always longer than those of other sessions."""
    ttl = max(REMEMBERED, 2 * chosen.ttl)
    return Remember(ttl=ttl, max_lifetime=max(LONGEST_REMEMBERED, ttl, chosen.max_lifetime))


def extensions_of(chosen: Settings, engine: object, users: SQLAlchemyUsers[User, Me]) -> list[Extension[Any]]:
    """Return all extensions.

    A registration signs in at once, and the address is confirmed later. Both apps use the same passkeys.
    """
    mailer = mailer_of(chosen)
    passkeys: Passkeys[Me] = Passkeys(engine, Passkey, title=TITLE, origins=[chosen.url, chosen.flask_url])
    totp, codes = Totp[Me](engine, Authenticator), RecoveryCodes[Me](engine, RecoveryCode)
    return [
        Lock(),
        ConfirmEmail(mailer, password="at_registration", title=TITLE),  # noqa: S106 - no password
        ResetPassword(mailer),
        Invitation(mailer, may_invite=lambda me: me.administrator, title=TITLE),
        ApiKeys(engine, ApiKey, scopes=lambda me: SCOPES),
        passkeys,
        SecondFactor(passkeys.factor(), totp, codes, mailer=mailer, ttl=chosen.challenge),
        BreachedPasswords(None if chosen.asks_service else SmallRanges()),
        Audit(engine, Activity),
        Administration(users),
    ]


def pages_of() -> dict[str, Any]:
    """Return the options of the pages in both apps."""
    return {"title": TITLE, "fresh": settings().fresh}


def make_auth(*, asynchronous: bool) -> SessionAuth[User, Me]:
    """Return the authenticator, with asynchronous drivers for ASGI or synchronous ones for WSGI."""
    chosen = settings()
    engine = (
        create_async_engine(f"sqlite+aiosqlite:///{chosen.database}")
        if asynchronous
        else create_engine(f"sqlite:///{chosen.database}")
    )
    users = SQLAlchemyUsers(engine, User, identity=Me)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConfigWarning)  # plain http and long durations are intended here
        return SessionAuth(
            secret_key=(chosen.data / "secret_key").read_text(),
            users=users,
            store=CredentialsCache(chosen.backend, ttl=chosen.ttl),
            session_ttl_renewal=chosen.renewal,
            grace=chosen.grace,
            max_lifetime=chosen.max_lifetime,
            remember=remember_of(chosen),
            carrier=CookieCarrier(insecure_http=True),
            public_url=chosen.url if asynchronous else chosen.flask_url,
            extensions=extensions_of(chosen, engine, users),
        )


def _get(name: str, default: str) -> str:
    return os.environ.get(PREFIX + name) or default
