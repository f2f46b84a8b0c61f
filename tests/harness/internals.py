"""Access to private parts for tests. There is one function for each part, with the reason, so a change has one place.

Tests use these functions only for state that no caller of powauth can see: limits of memory, the state of connections
after a fault, and records that a third party has damaged.
"""

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from powauth.backends.lmdb import LMDBBackend
from powauth.backends.memory import MemoryBackend
from powauth.backends.near_cache import NearCache
from powauth.backends.redis import RedisBackend
from powauth.backends.sql import SQLBackend

# --- SQL --------------------------------------------------------------------------------------------------------------


def async_sql_engine_of(backend: SQLBackend) -> AsyncEngine:
    """The engine that a backend has made of a URL, to listen to its statements and to hold its connections."""
    engine = backend._async_engine
    assert engine is not None
    return engine


def sql_engine_of(backend: SQLBackend) -> sa.Engine:
    """The engine of a backend; of an asynchronous one, the synchronous engine inside, which has the events."""
    engine = backend._engine
    return async_sql_engine_of(backend).sync_engine if engine is None else engine


def create_statement_of(backend: SQLBackend) -> Any:
    """The statement that creates a record, to run it between two others in the order of a race."""
    return backend._statements.create


# --- Redis ------------------------------------------------------------------------------------------------------------


def commands_of(backend: RedisBackend) -> Any:
    """The connections of a backend made of a URL, to see that none is lost, busy or one too many after a fault."""
    return backend._commands


def client_of(backend: RedisBackend) -> Any:
    """The client of the app, to look into its own pool after a fault."""
    return backend._client


def opened_client_of(backend: RedisBackend) -> Any:
    """The client that a backend makes of a URL, to see which options reach redis-py."""
    return backend._open()


def retries_of(options: Mapping[str, Any]) -> int:
    """The retries of a connection. redis-py has a public name for them only from release 6 on."""
    found: int = options["retry"]._retries
    return found


def owner_place(backend: RedisBackend, owner: bytes) -> Any:
    """The place of an owner's keys in Redis, to damage or remove them as another client could."""
    return backend._home(owner)


def record_place(backend: RedisBackend, key: bytes) -> Any:
    """The place of a record's key in Redis, to damage or remove it as another client could."""
    return backend._locate(key)


async def send(backend: RedisBackend, *command: Any, refusable: bool = False) -> Any:
    """Send one command over the backend's own connections, to see what a refusal or a lost reply does to them."""
    return await backend._send(*command, refusable=refusable)


# --- memory -----------------------------------------------------------------------------------------------------------


class MemoryTables(NamedTuple):
    """The structures of a `MemoryBackend`. That they do not grow without bound is nothing that a verb shows."""

    records: Any
    epochs: Any
    owners: dict[bytes, Any]


def tables_of(backend: MemoryBackend) -> MemoryTables:
    """The structures of a backend."""
    # As the class says.
    return MemoryTables(backend._records, backend._epochs, backend._owners)


def expiries_of(table: Any) -> list[tuple[int, Hashable]]:
    """The queue of expiries of one table, stale entries among them."""
    found: list[tuple[int, Hashable]] = table._expiries
    return found


# --- the near cache ---------------------------------------------------------------------------------------------------


class CacheTables(NamedTuple):
    """The structures of a `NearCache`. That they do not grow without bound is nothing that a method shows."""

    copies: dict[bytes, Any]
    owned: dict[bytes, Any]
    reading: dict[bytes, Any]


def cache_tables(cache: NearCache) -> CacheTables:
    """The structures of a near cache."""
    # As the class says.
    return CacheTables(cache._copies, cache._owned, cache._reading)


# --- LMDB -------------------------------------------------------------------------------------------------------------


def environment_of(backend: LMDBBackend) -> Any:
    """The environment of a backend, to plant broken records and to count its transactions."""
    return backend._open().env
