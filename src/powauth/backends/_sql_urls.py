"""URLs of SQL databases: which driver one means, and the backend over it."""

from importlib.util import find_spec
from typing import Final

from powauth.backends.base import Backend
from powauth.errors import ConfigError

ASYNC_DRIVERS: Final = {
    "postgresql+psycopg": "postgresql+psycopg_async",
    "mariadb+pymysql": "mariadb+asyncmy",
    "mysql+pymysql": "mysql+asyncmy",
}
"""The driver for an event loop in the place of one for threads. SQLite needs none: its plain driver reads in place
(`powauth.backends.sql.SQLiteBackend`), and writes in a worker thread, as ``aiosqlite`` does in one of its own."""

SYNC_DRIVERS: Final = {driver: plain for plain, driver in ASYNC_DRIVERS.items()} | {
    "postgresql+asyncpg": "postgresql+psycopg",
    "sqlite+aiosqlite": "sqlite",
}
"""The driver for threads in the place of one for an event loop."""

_CHOICES: Final = {
    "postgresql": ("psycopg", "asyncpg"),
    "mariadb": ("pymysql", "asyncmy"),
    "mysql": ("pymysql", "asyncmy"),
}
"""The drivers for a URL that names none, best first: the first serves threads, and leads to one for event loops."""


def from_url(url: str, *, asynchronous: bool | None = None, create: bool = True) -> Backend:
    """Return a `powauth.backends.sql.SQLBackend`; see `powauth.backends.backend_from_url`."""
    scheme, _, rest = url.partition(":")
    dialect = scheme.partition("+")[0]
    if not rest.startswith("//") or (dialect == "sqlite" and rest[2:3] not in ("", "/", "?")):
        begins = "sqlite:/// and a path" if dialect == "sqlite" else f"{scheme}://user@host/database"
        raise ConfigError(f"the backend URL misses slashes: did you mean {begins}?")
    scheme = with_driver(scheme)
    if asynchronous is not None:
        scheme = (ASYNC_DRIVERS if asynchronous else SYNC_DRIVERS).get(scheme, scheme)
    from powauth.backends.sql import SQLBackend

    if not create:
        from powauth.backends._sql_engine import check_exists

        check_exists(f"{scheme}:{rest}")
    return SQLBackend(f"{scheme}:{rest}")


def with_driver(scheme: str) -> str:
    """Return the scheme with a driver that is installed, if it names none.

    Raises:
        ConfigError: if none is installed.
    """
    dialect, plus, driver = scheme.partition("+")
    dialect = "postgresql" if dialect == "postgres" else dialect
    choices = _CHOICES.get(dialect, ())
    if plus or not choices:
        return dialect + plus + driver
    for choice in choices:
        if find_spec(choice) is not None:
            return f"{dialect}+{choice}"
    extra = "postgresql" if dialect == "postgresql" else "mariadb"
    meant = " or ".join(f"{dialect}+{choice}://" for choice in choices)
    raise ConfigError(
        f"{scheme}:// names no driver, and none is installed: did you mean {meant}? pip install 'powauth[{extra}]'"
    )
