"""Rows out of SQLite by its driver: it answers in a tenth of the time that SQLAlchemy takes to ask it.

The connection is the pool's, as always, and SQLAlchemy compiles the statement and knows the types. What is left out is
what it does around each execution. Where somebody wants to see that (a listener, a log, options of the engine), or
where anything goes wrong, the statement goes by SQLAlchemy.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Engine, Select

Row = Sequence[Any]
Processor = Callable[[Any], Any]

_engine_log = logging.getLogger("sqlalchemy.engine.Engine")


class _Statement(NamedTuple):
    """Compiled: the names and fixed values of its parameters in order, and how values go in and come out."""

    sql: str
    parameters: tuple[tuple[str, Any, Processor | None], ...]
    results: tuple[Processor | None, ...]


class SQLiteRows:
    """Executes statements on an engine of SQLite."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._statements: dict[object, _Statement] = {}
        self._error: type[Exception] = engine.dialect.loaded_dbapi.Error

    @staticmethod
    def suits(engine: Engine) -> bool:
        """Whether it is an engine for this."""
        return engine.dialect.driver == "pysqlite" and not engine.get_execution_options()

    @property
    def observed(self) -> bool:
        """Whether somebody wants to see each statement."""
        engine = self._engine
        events = engine.dispatch
        return bool(
            events.before_cursor_execute
            or events.after_cursor_execute
            or events.before_execute
            or events.after_execute
            or engine.dialect.dispatch.do_execute
            or engine.echo
            or _engine_log.isEnabledFor(logging.INFO)
        )

    # The parameters of `Select` differ between SQLAlchemy 2.0 and 2.1.
    def read(self, connection: Any, query: "Select[Any]", values: Mapping[str, object]) -> list[Row] | None:
        """All rows, by a connection of the pool; ``None`` if SQLAlchemy is to find out why there are none.

        A value that a column's type refuses is such a reason too.
        """
        try:
            statement = self._compiled(query)
            parameters = [
                values.get(name, fixed) if process is None else process(values.get(name, fixed))
                for name, fixed, process in statement.parameters
            ]
            cursor = connection.cursor()
            try:
                rows = cursor.execute(statement.sql, parameters).fetchall()
            finally:
                cursor.close()
            results = statement.results
            return [
                [value if process is None else process(value) for value, process in zip(row, results, strict=True)]
                for row in rows
            ]
        except (self._error, ValueError, TypeError):
            return None

    def _compiled(self, query: "Select[Any]") -> _Statement:
        known = self._statements.get(query)
        if known is None:
            dialect = self._engine.dialect
            compiled: Any = query.compile(dialect=dialect)
            parameters = tuple(
                (name, compiled.params[name], compiled.binds[name].type.dialect_impl(dialect).bind_processor(dialect))
                for name in compiled.positiontup
            )
            results = tuple(
                column.type.dialect_impl(dialect).result_processor(dialect, None) for column in query.selected_columns
            )
            known = self._statements[query] = _Statement(str(compiled), parameters, results)
        return known
