"""Each extra of powauth alone: what it is for works with nothing else installed."""

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
    "starlette": "powauth.integrations.starlette",
    "fastapi": "powauth.integrations.fastapi",
    "litestar": "powauth.integrations.litestar",
    "flask": "powauth.integrations.flask",
    "events": "powauth.integrations.signals",
    "pages": "powauth.pages.rendering",
}
"""Extras to what of powauth needs them."""

STORES = {
    "async": ["sqlite+aiosqlite:///sessions.db"],
    "redis": [REDIS],
    "postgresql": [f"postgresql+psycopg:{POSTGRESQL}"],
    "asyncpg": [f"postgresql+asyncpg:{POSTGRESQL}"],
    "mariadb": [f"mariadb+pymysql:{MARIADB}"],
    "mariadb-async": [f"mariadb+asyncmy:{MARIADB}"],
}
"""Extras to the stores that they are for."""

MAKE = {
    "lmdb": "from powauth.backends.lmdb import LMDBBackend; LMDBBackend('sessions')",
    "users": "from powauth.backends.base import drive; from powauth.backends.sql import SQLBackend; "
    "drive(SQLBackend('sqlite:///sessions.db').create_tables())",
}

OTHERS = {
    6: "ok",  # the database answers, and has no tables of powauth's
    3: "the driver is there, and no server answers",
}
"""Exit statuses of the command that are no failure of the extra."""


def extras() -> list[str]:
    """Return the extras that a user may want; ``demo`` is for a copy of the repository."""
    return [extra for extra in project()["optional-dependencies"] if extra != "demo"]


def check_extra(extra: str, place: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """Use what the extra is for.

    Yields:
        Each command with what came out: "ok", or what failed.
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
