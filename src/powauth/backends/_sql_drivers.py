"""The drivers of SQL databases, and the choice of one for a URL."""

from importlib.util import find_spec
from typing import Final

from powauth.errors import ConfigError

ASYNC_DRIVERS: Final = {
    "postgresql+psycopg": "postgresql+psycopg_async",
    "mariadb+pymysql": "mariadb+asyncmy",
    "mysql+pymysql": "mysql+asyncmy",
}
"""The driver for an event loop, by the driver for threads. SQLite needs none: its plain driver reads in place
(`powauth.backends.sql.SQLiteBackend`) and writes in a worker thread, as ``aiosqlite`` does."""

SYNC_DRIVERS: Final = {driver: plain for plain, driver in ASYNC_DRIVERS.items()} | {
    "postgresql+asyncpg": "postgresql+psycopg",
    "sqlite+aiosqlite": "sqlite",
}
"""The driver for threads, by the driver for an event loop."""

_CHOICES: Final = {
    "postgresql": ("psycopg", "asyncpg"),
    "mariadb": ("pymysql", "asyncmy"),
    "mysql": ("pymysql", "asyncmy"),
}
"""The drivers for a URL that names none, best first."""


def driver_for(scheme: str, *, asynchronous: bool | None) -> str:
    """Return the scheme with the driver for event loops (true) or threads (false). ``None`` keeps the URL's driver.

    Raises:
        ConfigError: if the scheme names no driver, and none is installed.
    """
    scheme = with_driver(scheme)
    if asynchronous is None:
        return scheme
    return (ASYNC_DRIVERS if asynchronous else SYNC_DRIVERS).get(scheme, scheme)


def with_driver(scheme: str) -> str:
    """Return the scheme. If it names no driver, add one that is installed.

    Raises:
        ConfigError: if the scheme names none, and none is installed.
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
