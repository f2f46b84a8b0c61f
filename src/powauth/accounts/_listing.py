"""Reads the users' table in the order of the primary key, a page at a time, and the table's constraints."""

import inspect
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic

import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.exc import SAWarning

from powauth.accounts._database import Database
from powauth.accounts._forms import lacks_password
from powauth.accounts._mapped import MappedUsers, plain_key
from powauth.accounts.base import U
from powauth.accounts.identity import Key
from powauth.accounts.listing import PAGE, Listed, ListsUsers
from powauth.accounts.passwords import PasswordHasher

_ACTIVE, _CREATED = "is_active", "created_at"


class UserLister(Generic[U]):
    """Reads pages of users. It reads columns, or rows if ``is_active`` is a property of the model.

    Args:
        database: runs the work.
        users: the model.
        hasher: knows which stored hashes a sign-in can verify.
        clock: returns the current time as an aware datetime.
    """

    def __init__(
        self, database: Database, users: MappedUsers[U], hasher: PasswordHasher, clock: Callable[[], datetime]
    ) -> None:
        self._database = database
        self._hasher = hasher
        self._users = users
        self._clock = clock
        constant = inspect.getattr_static(users.model, _ACTIVE)
        self._active = constant if isinstance(constant, bool) else None
        names = dict.fromkeys((users.key, users.user_id, users.password_hash, _ACTIVE, _CREATED, *users.restricting))
        self._names = [name for name in names if name in users.columns]
        self._needs_row = self._active is None and _ACTIVE not in users.columns

    async def page(self, after: Key | None, limit: int) -> list[Listed]:
        """See `ListsUsers.list_users`."""
        users = self._users
        key = users.attribute(users.key)
        # The parameters of `Select` differ between SQLAlchemy 2.0 and 2.1.
        query: Any = sa.select(*([users.model] if self._needs_row else map(users.attribute, self._names)))
        query = query.order_by(key).limit(limit)
        if after is not None:
            try:
                query = query.where(key > users.columns[users.key].check_key(after))
            except ValueError:
                return []

        def work(session: orm.Session) -> list[Listed]:
            result = session.execute(query)
            if not self._needs_row:
                return [self._listed(dict(zip(self._names, row, strict=True))) for row in result]
            names = [*self._names, _ACTIVE]
            return [self._listed({name: getattr(row, name) for name in names}) for row in result.unique().scalars()]

        return await self._database.run(work)

    def _listed(self, values: Mapping[str, Any]) -> Listed:
        users = self._users
        active = values[_ACTIVE] if self._active is None else self._active
        created_at = values.get(_CREATED)
        password_hash = values[users.password_hash]
        has_password = not lacks_password(password_hash)
        return Listed(
            key=plain_key(values[users.key]),
            user_id=values[users.user_id],
            active=active is True and users.is_allowed(values, self._clock()),  # as in a sign-in
            has_password=has_password,
            is_readable=not has_password or self._hasher.reads(password_hash),
            hash_format=self._hasher.format_of(password_hash) if has_password else None,
            created_at=created_at if isinstance(created_at, datetime) else None,
        )

    async def columns_not_unique(self) -> list[str]:
        """See `ListsUsers.columns_not_unique`. It asks the database, and not the model."""
        return await self._database.connected(self._not_unique)

    def _not_unique(self, connection: sa.Connection) -> list[str]:
        table = self._users.mapper.local_table
        if not isinstance(table, sa.Table):
            return []
        inspector, name, schema = sa.inspect(connection), table.name, table.schema
        unique: list[Sequence[str | None]] = [inspector.get_pk_constraint(name, schema)["constrained_columns"]]
        unique += [each["column_names"] for each in inspector.get_unique_constraints(name, schema)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SAWarning)  # of an index over expressions, which SQLite does not describe
            indexes = [each for each in inspector.get_indexes(name, schema) if each["unique"]]
        # An index over lower(email) is stricter than one over the column. One with a condition does not hold for all.
        partial = [any(option.endswith("_where") for option in each.get("dialect_options", {})) for each in indexes]
        complete = [each for each, is_partial in zip(indexes, partial, strict=True) if not is_partial]
        unique += [each.get("expressions") or each["column_names"] for each in complete]
        alone = [str(columns[0]) for columns in unique if len(columns) == 1]
        column_of = {name: self._users.mapper.columns[name].name for name in self._users.user_ids}
        return [name for name, column in column_of.items() if not any(_names(text, column) for text in alone)]


def _names(expression: str, column: str) -> bool:
    return column in re.findall(r"\w+", expression)


class ListedTable(ListsUsers):
    """The part of `powauth.accounts.sqlalchemy.SQLAlchemyUsers` that lists the users."""

    _lister: UserLister[Any]

    async def list_users(self, after: Key | None = None, limit: int = PAGE) -> Sequence[Listed]:
        """See `ListsUsers.list_users`. One SELECT, by the index of the primary key."""
        return await self._lister.page(after, limit)

    async def columns_not_unique(self) -> Sequence[str]:
        """See `ListsUsers.columns_not_unique`. Some SELECTs of the database's catalogue."""
        return await self._lister.columns_not_unique()
