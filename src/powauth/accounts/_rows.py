"""Users made of rows, as the ORM would make them, at a third of its cost.

A sign-in reads its user by a query of its own. What an ORM session does for one query takes longer than the query: it
keeps track of objects that are let go of at once. Where a row is all that the ORM would make a user of, the user is
made of it here. Where the app has asked for more, by what it maps or by listening to events, the ORM does it.
"""

from collections.abc import Iterable
from typing import Any, Generic, TypeVar

from sqlalchemy import Row
from sqlalchemy.orm import InstrumentedAttribute, Mapper, Session
from sqlalchemy.orm.attributes import instance_state

U = TypeVar("U")

_LAZY = frozenset({True, "select", "raise", "raise_on_sql", "dynamic", "write_only"})
"""How relationships are loaded of which nothing happens before somebody reads them."""


class RowLoader(Generic[U]):
    """Makes detached users of rows of `attributes`.

    Attributes:
        attributes: What to select, in order: every column that the ORM would load, and those of ``names``.
    """

    def __init__(self, model: type[U], mapper: Mapper[U], key: str, names: Iterable[str]) -> None:
        wanted = frozenset(names)
        loaded = [each for each in mapper.column_attrs if not each.deferred or each.key in wanted]
        self._names = tuple(each.key for each in loaded)
        self.attributes: list[InstrumentedAttribute[Any]] = [getattr(model, name) for name in self._names]
        self._key = self._names.index(key)
        self._manager = mapper.class_manager
        self._identity_class = mapper.identity_key_from_primary_key((None,))[0]
        self._plain = (
            mapper.inherits is None
            and not mapper.composites
            and not any(each.raiseload for each in mapper.column_attrs)
            and all(each.lazy in _LAZY for each in mapper.relationships)
        )
        self._sessions = Session()  # none is opened: it knows who listens to all of them

    def suffices(self) -> bool:
        """Whether a row is all that the ORM would make a user of: as things stand, for listeners may come late."""
        of_sessions = self._sessions.dispatch
        return self._plain and not (
            self._manager.dispatch.load
            # Where an app may narrow every query, choose a tenant on the connection, or change what was loaded.
            or of_sessions.do_orm_execute
            or of_sessions.after_begin
            or of_sessions.after_transaction_create
            or of_sessions.loaded_as_persistent
        )

    def make(self, row: "Row[Any]") -> U:
        """The user of a row, detached."""
        user: U = self._manager.new_instance()
        user.__dict__.update(zip(self._names, row, strict=True))
        instance_state(user).key = (self._identity_class, (row[self._key],), None)
        return user
