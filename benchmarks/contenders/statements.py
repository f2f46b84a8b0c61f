"""Records the SQL statements of an app, but only while the comparison counts them, because recording takes time."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine

Noting = Callable[[], AbstractContextManager[list[str]]]
"""A function that opens a list. Until the list is closed, each statement is appended to it."""


def noting(engine: Engine | AsyncEngine) -> Noting:
    """Return a recorder for an engine of SQLite that has not connected yet."""
    return _noting_driver(engine) if isinstance(engine, Engine) else _noting_engine(engine.sync_engine)


def _noting_driver(engine: Engine) -> Noting:
    """Record at the driver's connections, because powauth reads through some that SQLAlchemy does not use."""
    connections: list[sqlite3.Connection] = []
    event.listen(engine, "connect", lambda connection, _: connections.append(connection))

    def trace(note: Callable[[str], None] | None) -> None:
        for connection in connections:
            with suppress(sqlite3.ProgrammingError):  # it is closed
                connection.set_trace_callback(note)

    @contextmanager
    def opened() -> Iterator[list[str]]:
        statements: list[str] = []
        trace(statements.append)
        try:
            yield statements
        finally:
            trace(None)

    return opened


def _noting_engine(engine: Engine) -> Noting:
    """Record in SQLAlchemy, because the connections of aiosqlite live in their own threads."""

    @contextmanager
    def opened() -> Iterator[list[str]]:
        statements: list[str] = []

        def note(connection: Any, cursor: Any, statement: str, *more: Any) -> None:
            del connection, cursor, more
            statements.append(statement)

        event.listen(engine, "before_cursor_execute", note)
        try:
            yield statements
        finally:
            event.remove(engine, "before_cursor_execute", note)

    return opened
