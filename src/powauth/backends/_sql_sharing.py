"""Checks if an app's connection can end sessions: it must be to the same database, and in a transaction."""

import os
from typing import TYPE_CHECKING, Any

from powauth.backends._sql_engine import is_memory

# isort: split
# The module above says what to install where SQLAlchemy is missing.
from sqlalchemy import URL, Connection, Engine

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

_DEFAULT_PORTS = {"postgresql": 5432, "mysql": 3306}


def joins(connection: Connection, own: "Engine | AsyncEngine | None") -> bool:
    """Return whether a connection's transaction can change the tables of a backend with the engine ``own``.

    The answer is ``False`` for autocommit, and if the connection maps schemas: its tables may be others.
    """
    options = connection.get_execution_options()
    if options.get("isolation_level") == "AUTOCOMMIT" or options.get("schema_translate_map"):
        return False
    engine = own if isinstance(own, Engine) else getattr(own, "sync_engine", None)
    return isinstance(engine, Engine) and are_same(connection.engine, engine)


def are_same(one: Engine, other: Engine) -> bool:
    """Return whether two engines connect to the same database as the same user, with the same options."""
    if one.pool is other.pool:
        return True
    place = _place(one.url)
    return place is not None and place == _place(other.url)


def _place(url: URL) -> tuple[Any, ...] | None:
    """Return what identifies the database of a URL; ``None`` if the URL does not tell, as with a ``creator``."""
    name = url.get_backend_name().replace("mariadb", "mysql")
    if not url.database:
        return None
    if name == "sqlite":
        # SQLite locks the whole file, so a second connection would wait for the app's transaction.
        return None if is_memory(url) or url.database.startswith("file:") else (name, os.path.realpath(url.database))
    port = url.port or _DEFAULT_PORTS.get(name)
    return name, url.username, url.host, port, url.database, url.query
