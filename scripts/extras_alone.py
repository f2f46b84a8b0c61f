"""Checks each extra of powauth alone: its feature must work with no other extra installed."""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from scripts.empty_environments import outcome_of_command, project

POSTGRESQL = os.environ.get("POWAUTH_TEST_POSTGRESQL", "//postgres@127.0.0.1:5432/test")
MARIADB = os.environ.get("POWAUTH_TEST_MARIADB", "//root@127.0.0.1:3306/test")
REDIS = os.environ.get("POWAUTH_TEST_REDIS", "redis://127.0.0.1:6379/0")

IMPORTED = {
    "users": "powauth.accounts.sqlalchemy",
    "bcrypt": "powauth.accounts.bcrypt_schemes",
    "starlette": "powauth.integrations.starlette",
    "fastapi": "powauth.integrations.fastapi",
    "litestar": "powauth.integrations.litestar",
    "flask": "powauth.integrations.flask",
    "events": "powauth.integrations.signals",
    "pages": "powauth.pages.rendering",
    "passkeys": "powauth.extensions.passkeys",
}
"""The module that needs an extra, by extra."""

STORES = {
    "async": ["sqlite+aiosqlite:///sessions.db"],
    "redis": [REDIS],
    "postgresql": [f"postgresql+psycopg:{POSTGRESQL}"],
    "asyncpg": [f"postgresql+asyncpg:{POSTGRESQL}"],
    "mariadb": [f"mariadb+pymysql:{MARIADB}"],
    "mariadb-async": [f"mariadb+asyncmy:{MARIADB}"],
}
"""The URLs of stores that need an extra, by extra."""

MAKE = {
    "lmdb": "from powauth.backends.lmdb import LMDBBackend; LMDBBackend('sessions')",
    "users": "from powauth.backends.base import drive; from powauth.backends.sql import SQLBackend; "
    "drive(SQLBackend('sqlite:///sessions.db').create_tables())",
    "totp": "import secrets; from powauth.extensions.sealing import Sealer; "
    "from powauth.sessions.keyring import Keyring; import pyotp, segno; "
    "Sealer(Keyring(secrets.token_bytes(32)), 'seed').seal(b'a seed', 'row')",
}

OTHERS = {
    6: "ok",  # the database answers, and has no powauth tables
    3: "the driver is there, and no server answers",
}
"""Exit statuses of ``powauth`` that are no failure of the extra."""


def extras() -> list[str]:
    """Return the extras for users. ``demo`` is only for a copy of the repository."""
    return [extra for extra in project()["optional-dependencies"] if extra != "demo"]


def check_extra(extra: str, place: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """Use the feature of an extra.

    Yields:
        Each command with its outcome: "ok", or the failure.
    """
    if module := IMPORTED.get(extra):
        yield f"import {module}", outcome_of_command([str(place / "python"), "-c", f"import {module}"], folder)
    if code := MAKE.get(extra):
        yield f"make a store ({extra})", outcome_of_command([str(place / "python"), "-c", code], folder)
    urls = {"lmdb": ["lmdb:sessions"], "users": ["sqlite:///sessions.db"]}.get(extra, STORES.get(extra, []))
    for url in urls:
        shown = f"powauth sessions --backend {urlsplit(url).scheme}: count"
        command = [str(place / "powauth"), "sessions", "--backend", url, "count"]
        yield shown, outcome_of_command(command, folder, others=OTHERS)
