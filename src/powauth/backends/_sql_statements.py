"""The tables of `powauth.backends.sql.SQLBackend`, and every statement that it sends, for each kind of database."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from powauth._extras import needs
from powauth._options import matching
from powauth.backends.base import MAX_OWNER_BYTES

with needs("users", "SQLBackend", "sqlalchemy"):
    from sqlalchemy import (
        BigInteger,
        BindParameter,
        Column,
        ColumnElement,
        Connection,
        CursorResult,
        Engine,
        Index,
        Integer,
        LargeBinary,
        MetaData,
        Select,
        Table,
        bindparam,
        delete,
        func,
        insert,
        literal,
        select,
        text,
        type_coerce,
        update,
    )
    from sqlalchemy.dialects import mysql, postgresql, sqlite
    from sqlalchemy.engine.interfaces import Dialect
    from sqlalchemy.schema import CreateIndex, CreateTable
    from sqlalchemy.sql.base import Executable
    from sqlalchemy.types import NULLTYPE

_TABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}\Z")
"""The form of a table's name. It leaves room for the suffixes of the indexes within PostgreSQL's 63 bytes."""

_BINARY = LargeBinary().with_variant(mysql.VARBINARY(MAX_OWNER_BYTES), "mysql", "mariadb")
_VALUE = LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")


class Tables(NamedTuple):
    """The two tables of a backend.

    Attributes:
        sessions: the records.
        epochs: the epochs. Only owners who signed in or were revoked within about `EPOCH_LIFETIME` have a row.
    """

    sessions: Table
    epochs: Table


def sessions_table(metadata: MetaData, name: str = "powauth_sessions", schema: str | None = None) -> Tables:
    """Describe the tables in ``metadata``, for an app whose own migrations make them.

    Keys and owners are binary, so the database compares bytes and not letters: it folds neither case nor trailing
    spaces, and accepts NUL.

    >>> [table.name for table in sessions_table(MetaData())]
    ['powauth_sessions', 'powauth_sessions_epochs']

    Raises:
        ConfigError: if the name is not 1 to 40 letters, digits or ``_``, the first not a digit.
    """
    matching("table", name, _TABLE_NAME, "1 to 40 letters, digits or '_' that do not begin with a digit")
    sessions = Table(
        name,
        metadata,
        Column("key", _BINARY, primary_key=True),
        Column("owner", _BINARY, nullable=False),
        Column("version", BigInteger, nullable=False),
        Column("created_at", BigInteger, nullable=False),
        Column("expires_at", BigInteger, nullable=False),
        Column("value", _VALUE, nullable=False),
        Index(f"{name}_owner", "owner", "created_at"),
        Index(f"{name}_expires_at", "expires_at"),
        schema=schema,
        mysql_engine="InnoDB",
        mariadb_engine="InnoDB",
    )
    epochs = Table(
        f"{name}_epochs",
        metadata,
        Column("owner", _BINARY, primary_key=True),
        Column("epoch", BigInteger, nullable=False),
        Column("moved_at", BigInteger, nullable=False),
        Index(f"{name}_epochs_moved_at", "moved_at"),
        schema=schema,
        mysql_engine="InnoDB",
        mariadb_engine="InnoDB",
    )
    return Tables(sessions, epochs)


def create_tables(connectable: Engine | Connection, tables: Tables | None = None) -> None:
    """Create the tables and indexes that do not exist. Several workers may call it at once.

    On a ``Connection`` it uses the caller's transaction and does not commit.

    Args:
        connectable: the database.
        tables: the result of `sessions_table`; if ``None``, that of its default arguments.
    """
    if isinstance(connectable, Engine):
        with connectable.begin() as connection:
            create_tables(connection, tables)
        return
    wanted = sessions_table(MetaData()) if tables is None else tables
    if connectable.dialect.name == "postgresql":
        # IF NOT EXISTS first checks, then creates. Two workers that check at once would collide in the catalogue.
        name = func.hashtext(f"powauth {wanted.sessions.fullname}")
        connectable.execute(select(func.pg_advisory_xact_lock(name)))
    for table in wanted:
        connectable.execute(CreateTable(table, if_not_exists=True))
        for index in sorted(table.indexes, key=lambda index: str(index.name)):
            connectable.execute(CreateIndex(index, if_not_exists=True))


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement that can be executed. SQLAlchemy caches its compiled form."""

    executable: Executable

    def __call__(self, connection: Connection, /, **values: object) -> CursorResult[Any]:
        """Execute it: ``key=…`` binds the parameter ``p_key``."""
        return connection.execute(self.executable, {f"p_{name}": value for name, value in values.items()})


@dataclass(frozen=True, slots=True)
class Create:
    """The three ways to create a record: unguarded, at epoch 0 (the owner may have no row), or at another epoch.

    Attributes:
        prepare: sent before ``at_zero``, if one statement is not enough.
        make_room: removes an expired record after a duplicate key; ``None`` if the statements replace it themselves.
    """

    unguarded: Statement
    at_zero: Statement
    at_epoch: Statement
    prepare: Statement | None = None
    make_room: Statement | None = None


@dataclass(frozen=True, slots=True)
class Statements:
    """All statements of a backend."""

    create: Create
    get: Statement
    update: Statement
    delete: Statement
    list_owner: Statement
    epoch: Statement
    advance: Statement
    delete_owner: Statement
    delete_owner_but_one: Statement
    purge: Statement
    forget: Statement
    scan: Statement
    count: Statement


def _binary(name: str) -> BindParameter[bytes]:
    return bindparam(f"p_{name}", type_=LargeBinary())


def _integer(name: str) -> BindParameter[int]:
    return bindparam(f"p_{name}", type_=BigInteger())


_KEY, _OWNER, _NOW, _EPOCH = _binary("key"), _binary("owner"), _integer("now"), _integer("epoch")
_LIMIT = bindparam("p_limit", type_=Integer())
_FIELDS: dict[str, BindParameter[Any]] = {
    "key": _KEY,
    "owner": _OWNER,
    "version": _integer("version"),
    "created_at": _integer("created_at"),
    "expires_at": _integer("expires_at"),
    "value": _binary("value"),
}


def _as_sent(column: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return the column without type conversion: a value of another type is then a miss and not an error."""
    return type_coerce(column, NULLTYPE)


def _new_row() -> Select[Any]:
    return select(*(field.label(name) for name, field in _FIELDS.items()))


def build_statements(tables: Tables, dialect: Dialect) -> Statements:
    """Return the statements for a dialect: ``sqlite``, ``postgresql``, ``mysql`` or ``mariadb``."""
    sessions, epochs = tables
    s, e = sessions.c, epochs.c
    create: Create
    move: Executable
    oldest: Callable[[Table, str], Executable]
    if dialect.name == "sqlite":
        create, move, oldest = _sqlite_create(tables), _sqlite_advance(tables), _sqlite_oldest
    elif dialect.name == "postgresql":
        create, move, oldest = _postgresql_create(tables), _postgresql_advance(tables), _postgresql_oldest
    else:
        create, move = _mariadb_create(tables), _mariadb_advance(tables)

        def oldest(table: Table, time: str) -> Executable:
            # Before MariaDB 11.1, an IN over a subquery reads the whole table.
            name = dialect.identifier_preparer.format_table(table)
            return text(f"DELETE FROM {name} WHERE {time} <= :p_now ORDER BY {time} LIMIT :p_limit")  # noqa: S608

    columns = [_as_sent(s[name]) for name in _FIELDS]
    live = s.expires_at > _NOW
    within = (s.key >= _binary("start"), s.key < _binary("end"))
    gone = _as_sent(s.expires_at)
    changed = {name: _FIELDS[name] for name in ("version", "expires_at", "value")}
    return Statements(
        create=create,
        get=Statement(select(*columns).where(s.key == _KEY, live)),
        update=Statement(
            update(sessions).where(s.key == _KEY, s.version == _integer("expected"), live).values(changed)
        ),
        delete=Statement(delete(sessions).where(s.key == _KEY).returning(gone)),
        list_owner=Statement(
            select(*columns).where(s.owner == _OWNER, live).order_by(s.created_at.desc(), s.key.desc())
        ),
        epoch=Statement(select(_as_sent(e.epoch)).where(e.owner == _OWNER)),
        advance=Statement(move),
        delete_owner=Statement(delete(sessions).where(s.owner == _OWNER).returning(gone)),
        delete_owner_but_one=Statement(delete(sessions).where(s.owner == _OWNER, s.key != _KEY).returning(gone)),
        purge=Statement(oldest(sessions, "expires_at")),
        forget=Statement(oldest(epochs, "moved_at")),
        # Read expired records, too. Otherwise a long run of them would make one step as long as the run.
        scan=Statement(select(*columns).where(*within).order_by(s.key).limit(_LIMIT)),
        count=Statement(select(func.count()).select_from(sessions).where(*within, live)),
    )


# SQLite: a statement that writes excludes other writers, so it is enough to read the epoch in it.


def _sqlite_create(tables: Tables) -> Create:
    s, e = tables.sessions.c, tables.epochs.c

    def replacing(statement: sqlite.Insert) -> Statement:
        return Statement(
            statement.on_conflict_do_update(
                index_elements=[s.key],
                set_={name: statement.excluded[name] for name in _FIELDS},
                where=s.expires_at <= _NOW,
            ).returning(s.version)
        )

    present = func.coalesce(select(e.epoch).where(e.owner == _OWNER).scalar_subquery(), 0)
    guarded = sqlite.insert(tables.sessions).from_select(list(_FIELDS), _new_row().where(present == _EPOCH))
    unguarded = sqlite.insert(tables.sessions).values(_FIELDS)
    return Create(replacing(unguarded), replacing(guarded), replacing(guarded))


def _sqlite_advance(tables: Tables) -> Executable:
    e = tables.epochs.c
    row = sqlite.insert(tables.epochs).values(owner=_OWNER, epoch=literal(1), moved_at=_NOW)
    return row.on_conflict_do_update(
        index_elements=[e.owner], set_={"epoch": e.epoch + 1, "moved_at": func.max(e.moved_at, row.excluded.moved_at)}
    ).returning(_as_sent(e.epoch))


def _sqlite_oldest(table: Table, time: str) -> Executable:
    (primary,) = table.primary_key
    chosen = select(primary).where(table.c[time] <= _NOW).order_by(table.c[time]).limit(_LIMIT)
    return delete(table).where(primary.in_(chosen))


# PostgreSQL: the statement that inserts the record also writes the owner's epoch row, if its epoch is the expected one.
# The time in that row never decreases. Otherwise a machine whose clock is slow could make the row expire early.


def _postgresql_create(tables: Tables) -> Create:
    s, e = tables.sessions.c, tables.epochs.c

    def replacing(statement: postgresql.Insert) -> Statement:
        return Statement(
            statement.on_conflict_do_update(
                index_elements=[s.key],
                set_={name: statement.excluded[name] for name in _FIELDS},
                where=s.expires_at <= _NOW,
            ).returning(s.version)
        )

    row = postgresql.insert(tables.epochs).values(owner=_OWNER, epoch=literal(0), moved_at=_NOW)
    at_zero = (
        row.on_conflict_do_update(
            index_elements=[e.owner],
            set_={"moved_at": func.greatest(e.moved_at, row.excluded.moved_at)},
            where=e.epoch == _EPOCH,
        )
        .returning(e.epoch)
        .cte("guard")
    )
    at_epoch = (
        update(tables.epochs)
        .where(e.owner == _OWNER, e.epoch == _EPOCH)
        .values(moved_at=func.greatest(e.moved_at, _NOW))
        .returning(e.epoch)
        .cte("guard")
    )
    into = postgresql.insert(tables.sessions)
    return Create(
        replacing(into.values(_FIELDS)),
        replacing(into.from_select(list(_FIELDS), _new_row().select_from(at_zero))),
        replacing(into.from_select(list(_FIELDS), _new_row().select_from(at_epoch))),
    )


def _postgresql_advance(tables: Tables) -> Executable:
    e = tables.epochs.c
    row = postgresql.insert(tables.epochs).values(owner=_OWNER, epoch=literal(1), moved_at=_NOW)
    later = func.greatest(e.moved_at, row.excluded.moved_at)
    return row.on_conflict_do_update(
        index_elements=[e.owner], set_={"epoch": e.epoch + 1, "moved_at": later}
    ).returning(_as_sent(e.epoch))


def _postgresql_oldest(table: Table, time: str) -> Executable:
    (primary,) = table.primary_key
    # Two concurrent purges share the work. The CTE is evaluated once under any plan.
    chosen = (
        select(primary)
        .where(table.c[time] <= _NOW)
        .order_by(table.c[time])
        .limit(_LIMIT)
        .with_for_update(skip_locked=True)
        .cte("oldest")
    )
    return delete(table).where(primary.in_(select(chosen.c[primary.name])))


# MariaDB: a first statement makes sure that the owner's epoch row exists. The second inserts the record from a locking
# read of that row. A missing row could be locked only as a gap, and not at every isolation level.


def _mariadb_create(tables: Tables) -> Create:
    s, e = tables.sessions.c, tables.epochs.c
    row = mysql.insert(tables.epochs).values(owner=_OWNER, epoch=literal(0), moved_at=_NOW)
    prepare = row.on_duplicate_key_update(moved_at=func.greatest(e.moved_at, row.inserted.moved_at))
    locked = _new_row().select_from(tables.epochs).where(e.owner == _OWNER, e.epoch == _EPOCH)
    guarded = Statement(
        insert(tables.sessions).from_select(list(_FIELDS), locked.with_for_update(read=True)).returning(s.version)
    )
    return Create(
        Statement(insert(tables.sessions).values(_FIELDS).returning(s.version)),
        guarded,
        guarded,
        prepare=Statement(prepare),
        make_room=Statement(delete(tables.sessions).where(s.key == _KEY, s.expires_at <= _NOW)),
    )


def _mariadb_advance(tables: Tables) -> Executable:
    e = tables.epochs.c
    row = mysql.insert(tables.epochs).values(owner=_OWNER, epoch=literal(1), moved_at=_NOW)
    return row.on_duplicate_key_update(
        epoch=e.epoch + 1, moved_at=func.greatest(e.moved_at, row.inserted.moved_at)
    ).returning(_as_sent(e.epoch))
