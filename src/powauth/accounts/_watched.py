"""The columns of an app's model whose changes concern sessions, and the users whom a bulk statement changes."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, cast

import sqlalchemy as sa
from sqlalchemy import orm

from powauth.accounts._mapped import MappedUsers, plain_key
from powauth.accounts.base import U
from powauth.accounts.changes import Change
from powauth.accounts.identity import Key
from powauth.errors import ConfigError

_ACTIVE = "is_active"


class WatchedColumns(Generic[U]):
    """Finds out who is changed, and how.

    Args:
        users: the model.
        names: the attributes of the model that an account needs.

    Attributes:
        mapper: the mapper of the model.
    """

    def __init__(self, users: MappedUsers[U], names: Iterable[str]) -> None:
        self._users = users
        self.mapper = users.mapper
        table = users.mapper.local_table
        self._key = cast("sa.Column[Any]", users.mapper.primary_key[0])
        self._columns = {column.name: column for column in table.columns if isinstance(column, sa.Column)}
        wanted = {name: self._column_of(name) for name in names}
        credentials = {self._key, *map(wanted.get, (*users.user_ids, users.password_hash, _ACTIVE, *users.restricting))}
        self._credentials = {column for column in credentials if column is not None}
        self._identity = {column for column in wanted.values() if column is not None}
        # The columns behind a property are unknown, and so are those that the database or SQLAlchemy sets by itself.
        self._any = any(column is None for column in wanted.values()) or any(
            _sets_itself(each, users.mapper) for each in self._identity
        )
        self._reads_active = _ACTIVE in wanted and wanted[_ACTIVE] is None

    def _column_of(self, name: str) -> "sa.Column[Any] | None":
        if name not in self._users.mapper.column_attrs:
            return None
        (first, *_) = self._users.mapper.column_attrs[name].columns
        return first if isinstance(first, sa.Column) and first.table is self._key.table else None

    def covers(self, mapper: "orm.Mapper[Any]") -> bool:
        """Return whether objects of a mapper are users: of the model, or of another class over the same table."""
        return mapper.isa(self._users.mapper) or mapper.local_table is self._key.table

    def key_of(self, state: "orm.InstanceState[Any]") -> Key | None:
        """Return the key under which the user of a persistent object was loaded; ``None`` if nobody signs in by it."""
        return None if state.identity is None else _key(state.identity[0])

    def change_of(self, state: "orm.InstanceState[Any]") -> Change | None:
        """Return the kind of the changes of an object that were just flushed; ``None`` if they concern no session."""
        change = self._kind(self._own_columns(state, lambda name: state.attrs[name].history.has_changes()))
        if change is Change.IDENTITY and self._reads_active and state.mapper.isa(self._users.mapper):
            return change if getattr(state.object, _ACTIVE) is True else Change.CREDENTIALS
        return change

    def computed_change_of(self, state: "orm.InstanceState[Any]") -> Change | None:
        """Return the kind of the changes that are SQL expressions. After the flush, the object has no trace of them."""
        return self._kind(self._own_columns(state, lambda name: _is_expression(state.dict.get(name))))

    def _own_columns(self, state: "orm.InstanceState[Any]", chosen: Callable[[str], bool]) -> "set[sa.Column[Any]]":
        """Return the columns of the users' table behind the chosen attributes of an object."""
        found: set[sa.Column[Any]] = set()
        for attribute in state.mapper.column_attrs:
            own = [column for column in attribute.columns if isinstance(column, sa.Column)]
            if own and chosen(attribute.key):
                found.update(column for column in own if column.table is self._key.table)
        return found

    def _kind(self, changed: "set[sa.Column[Any]]") -> Change | None:
        if changed & self._credentials:
            return Change.CREDENTIALS
        return Change.IDENTITY if changed & self._identity or (changed and self._any) else None

    # --- bulk statements ----------------------------------------------------------------------------------------------

    def changes_by(self, state: "orm.ORMExecuteState") -> Iterator[tuple[Key, Change]]:
        """Yield the users whom a statement is about to change, with the kind of the change.

        One SELECT finds them by the statement's own condition, and locks their rows. It goes past the app's own
        filters, such as those that hide users of another tenant from its queries.

        A user whom another transaction makes fit between the SELECT and the statement is not found. The proof ends the
        sessions of that user.
        """
        statement = getattr(state.statement, "element", state.statement)  # inside of `select(User).from_statement(…)`
        if not isinstance(statement, sa.Update | sa.Delete):
            return
        key = statement.table.corresponding_column(self._key)
        if key is None:
            return
        several = _parameters(state)
        by_key = state.is_orm_statement and state.is_executemany and statement.whereclause is None
        if by_key and isinstance(statement, sa.Update):
            yield from self._by_key(state, several)
            return
        change: Change | None = Change.CREDENTIALS
        if isinstance(statement, sa.Update):
            change = self._kind(self._set_by(statement, state, several[0]))
        if change is None:
            return
        connection = state.session.connection(bind_arguments={**state.bind_arguments})
        # Lock the rows, as a flush has done by its UPDATE before the sessions end. In another order, two transactions
        # could wait for each other. On MariaDB, a plain SELECT would also read an older snapshot than the statement.
        query = sa.select(key).with_for_update(of=statement.table, key_share=True)
        if statement.whereclause is not None:
            query = query.where(statement.whereclause)
        for parameters in several:
            for (value,) in connection.execute(query, parameters).all():
                yield from _changed(value, change)

    def _by_key(
        self, state: "orm.ORMExecuteState", several: Sequence[Mapping[str, Any]]
    ) -> Iterator[tuple[Key, Change]]:
        """Yield the users of ``session.execute(update(User), [{"id": …, "name": …}, …])``."""
        mapper = state.bind_mapper or self._users.mapper
        name = mapper.get_property_by_column(self._key).key
        for parameters in several:
            change = self._kind(self._named(mapper, parameters.keys() - {name}))
            if change is not None and name in parameters:
                yield from _changed(parameters[name], change)

    def _set_by(
        self, statement: "sa.Update", state: "orm.ORMExecuteState", parameters: Mapping[str, Any]
    ) -> "set[sa.Column[Any]]":
        """Return the columns that an UPDATE sets: in its text, and those that its parameters name.

        SQLAlchemy has no public name for them, but it renders each as ``name=`` after ``SET`` or a comma. It puts
        spaces around the sign in a comparison.
        """
        mapper = state.bind_mapper or self._users.mapper
        dialect = state.session.get_bind(**state.bind_arguments).dialect
        text = str(statement.compile(dialect=dialect, column_keys=list(parameters) or None))
        quoted = dialect.identifier_preparer.format_column
        found = {column for column in self._columns.values() if _is_set(quoted(column), text)}
        return found | self._named(mapper, parameters.keys())

    def _named(self, mapper: "orm.Mapper[Any]", names: Iterable[str]) -> "set[sa.Column[Any]]":
        """Return the columns that parameters name, by attribute or by column."""
        found: set[sa.Column[Any]] = set()
        for name in names:
            if name in mapper.column_attrs:
                found.update(each for each in mapper.column_attrs[name].columns if isinstance(each, sa.Column))
            if name in self._columns:
                found.add(self._columns[name])
        return {column for column in found if column.table is self._key.table}


def _key(value: object) -> Key | None:
    """Return a user's key; ``None`` for a text or a number that no session can have, such as an empty text.

    Nobody can sign in as this user, so a change of the row concerns no session. The app may change and delete the row.

    Raises:
        ConfigError: if the value has another type. The database may read it as the key of a user with sessions.
    """
    try:
        return plain_key(value)
    except ConfigError:
        if isinstance(value, str | int) and not isinstance(value, bool):
            return None
        raise


def _changed(value: object, change: Change) -> Iterator[tuple[Key, Change]]:
    key = _key(value)
    if key is not None:
        yield key, change


def _is_expression(value: object) -> bool:
    return isinstance(value, sa.ClauseElement) or hasattr(value, "__clause_element__")


def _is_set(name: str, text: str) -> bool:
    return re.search(rf"(?:SET |, )(?:[^\s,=]+\.)?{re.escape(name)}=", text) is not None


def _sets_itself(column: "sa.Column[Any]", mapper: "orm.Mapper[Any]") -> bool:
    return bool(
        column.onupdate is not None
        or column.server_onupdate is not None
        or column.computed is not None
        or column is mapper.version_id_col
    )


def _parameters(state: "orm.ORMExecuteState") -> Sequence[Mapping[str, Any]]:
    given = state.parameters or {}
    return [given] if isinstance(given, Mapping) else given
