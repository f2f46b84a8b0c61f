"""Where records live: the protocol (`powauth.backends.base`) and the backends that ship with powauth."""

from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from powauth.backends.base import Backend
from powauth.errors import ConfigError

SCHEMES = (
    "memory://, lmdb:///path, sqlite:///path, postgresql+psycopg://…, mariadb+pymysql://…, "
    "redis://…, rediss://…, redis+sentinel://…, redis+cluster://…"
)

ASYNC_DRIVERS = {
    "postgresql+psycopg": "postgresql+psycopg_async",
    "mariadb+pymysql": "mariadb+asyncmy",
    "mysql+pymysql": "mysql+asyncmy",
}
"""The driver for an event loop in the place of one for threads. SQLite needs none: its plain driver reads at once
(`powauth.backends.sql.SQLiteBackend`), and writes in a worker thread, as ``aiosqlite`` does in one of its own."""

SYNC_DRIVERS = {driver: plain for plain, driver in ASYNC_DRIVERS.items()} | {
    "postgresql+asyncpg": "postgresql+psycopg",
    "sqlite+aiosqlite": "sqlite",
}
"""The driver for threads in the place of one for an event loop."""


def _lmdb_options(query: str) -> bool:
    """The value of ``group_access`` in the query of an LMDB URL."""
    options = dict(parse_qsl(query, keep_blank_values=True))
    chosen = options.pop("group_access", "0")
    if options or chosen not in ("0", "1"):
        raise ConfigError("an LMDB URL has no option but group_access=1; for others, make the LMDBBackend yourself")
    return chosen == "1"


def backend_from_url(url: str, *, asynchronous: bool | None = None, create: bool = True) -> Backend:
    """The backend that a URL names; its driver is imported only now, and nothing is connected to yet.

    >>> backend_from_url("memory://").mode
    'inline'

    Args:
        url: ``memory://``, ``lmdb:///path`` (``lmdb:path`` from the working directory; with ``?group_access=1`` for the
            option of `LMDBBackend`), or another of the schemes in ``docs/backends.md``.
        asynchronous: choose the driver for an event loop (true) or for threads (false), whichever the URL names;
            ``None`` keeps to the URL, and takes the one for threads where it leaves that open. SQLite's plain driver
            serves both.
        create: make the directory of an LMDB store, or the file of a SQLite database, if there is none.

    Raises:
        ConfigError: if the URL is none of these, or the driver's package is missing.
        StoreMissing: if ``create`` is false, and there is no such directory or file.
    """
    scheme, _, rest = url.partition(":")
    scheme = scheme.lower()
    if url.lower() == "memory://":
        from powauth.backends.memory import MemoryBackend

        return MemoryBackend()
    if scheme == "lmdb":
        from powauth.backends.lmdb import LMDBBackend

        parts = urlsplit(url)
        if parts.netloc or parts.path in ("", "/"):
            raise ConfigError("an LMDB URL is lmdb:/// and a path, lmdb:///var/lib/app/sessions, or lmdb:relative/path")
        path, group_access = unquote(parts.path), _lmdb_options(parts.query)
        if not create:
            from powauth.backends._lmdb_files import check_exists

            check_exists(Path(path).absolute())
        return LMDBBackend(path, group_access=group_access)
    if scheme in ("redis", "rediss", "unix") or scheme.startswith("redis+"):
        from powauth.backends.redis import RedisBackend

        return RedisBackend(url, asynchronous=bool(asynchronous))
    if scheme.partition("+")[0] in ("sqlite", "postgresql", "mariadb", "mysql"):
        from powauth.backends.sql import SQLBackend

        if asynchronous is not None:
            scheme = (ASYNC_DRIVERS if asynchronous else SYNC_DRIVERS).get(scheme, scheme)
        if not create:
            from powauth.backends._sql_engine import check_exists as check_sqlite

            check_sqlite(f"{scheme}:{rest}")
        return SQLBackend(f"{scheme}:{rest}")
    raise ConfigError(f"the backend URL's scheme is unknown; use one of {SCHEMES}")
