"""Which SQL statements an app sends, noted while somebody counts them and at no other time: noting takes time."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.ext.asyncio import AsyncEngine

Noting = Callable[[], AbstractContextManager[list[str]]]
"""Opens a list, to which every statement that is sent before it is closed is appended."""


def noting(engine: Engine | AsyncEngine) -> Noting:
    """For an engine of SQLite that has not connected yet."""
    return _noting_driver(engine) if isinstance(engine, Engine) else _noting_engine(engine.sync_engine)


def _noting_driver(engine: Engine) -> Noting:
    """By the driver's connections: powauth reads by some that SQLAlchemy has made and then left alone."""
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
    """By SQLAlchemy: aiosqlite's connections live in threads of their own."""

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
