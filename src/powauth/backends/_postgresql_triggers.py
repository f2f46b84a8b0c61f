"""The triggers that make PostgreSQL tell the near caches of every change of a record, whoever makes it.

They are the database's and not the backend's, so that no writer can leave them out: a process without a near cache, one
of an older release, ``purge``, psql. One for each statement, not for each row: what one statement changes goes in
messages of some hundred keys. None for ``INSERT``: nobody has a copy of what was not there.

The channel is named after the table's OID, so that neither schemas nor their search paths matter. A message is the keys
in hexadecimal, with commas; an empty one says that anything may have changed.
"""

from sqlalchemy import Connection, Engine, MetaData, func, select, text
from sqlalchemy.dialects import postgresql

from powauth.backends._sql_statements import Statement, Tables, sessions_table
from powauth.backends.base import MAX_OWNER_BYTES
from powauth.errors import ConfigError

_PREPARER = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]

CHANNEL = "powauth_"
"""What the names of channels begin with; the table's OID follows."""

MESSAGE = 7000
"""Characters of a message from which on the next one begins; with the last key's they stay below PostgreSQL's 8000."""

SOURCE = f"""
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM pg_notify('{CHANNEL}' || TG_RELID, '');
    ELSE
        -- A key that is too long for a record is in no message: anything may have changed.
        PERFORM pg_notify(
            '{CHANNEL}' || TG_RELID,
            CASE WHEN count(name) = count(*) THEN string_agg(name, ',') ELSE '' END
        )
        FROM (
            SELECT
                CASE WHEN length(key) <= {MAX_OWNER_BYTES} THEN encode(key, 'hex') END AS name,
                sum(2 * least(length(key), {MAX_OWNER_BYTES}) + 1) OVER (ROWS UNBOUNDED PRECEDING) / {MESSAGE} AS part
            FROM gone
        ) AS named
        GROUP BY part;
    END IF;
    RETURN NULL;
END
"""  # noqa: S608 nothing but constants
"""What the triggers do, in PL/pgSQL. Part of what is looked at, so that a changed one is not taken for ours."""

EVENTS = {"update": 16, "delete": 8, "truncate": 32}
"""Event to ``tgtype`` in ``pg_trigger``: after, for each statement."""

REPORTED = f"""
SELECT '{CHANNEL}' || c.oid
FROM pg_catalog.pg_class AS c
WHERE c.oid = pg_catalog.to_regclass({{table}}) AND c.relkind = 'r' AND NOT c.relhassubclass
AND ARRAY{[*EVENTS.values()]} OPERATOR(pg_catalog.<@) ARRAY(
    SELECT CAST(t.tgtype AS int)
    FROM pg_catalog.pg_trigger AS t JOIN pg_catalog.pg_proc AS p ON p.oid = t.tgfoid
    WHERE t.tgrelid = c.oid AND t.tgenabled = 'A' AND p.prosrc = {{source}}
)
"""  # noqa: S608 nothing but constants
"""The channel of a table all of whose changes are reported; no row for any other table. Parameters are to be filled in.
A table that has parts elsewhere (partitions, heirs) is none: a statement's triggers are those of the table it names."""

REPORTED_NOW = Statement(text(REPORTED.format(table=":p_table", source=":p_source")))


def report_changes(connectable: Engine | Connection, tables: Tables | None = None) -> None:
    """Have PostgreSQL report every change of a record, which `SQLBackend` with a ``near_cache`` needs.

    `SQLBackend.create_tables` of such a backend calls it; with migrations call it in one, after the tables are there.
    Nothing is done, and no table locked, if all is in place. On a ``Connection`` it takes part in the caller's
    transaction and does not commit. Needs the table's owner.

    Args:
        connectable: where to.
        tables: what `sessions_table` gave; its defaults if ``None``.

    Raises:
        ConfigError: if the database is not PostgreSQL.
    """
    if isinstance(connectable, Engine):
        with connectable.begin() as connection:
            report_changes(connection, tables)
        return
    if connectable.dialect.name != "postgresql":
        raise ConfigError(f"changes are reported by PostgreSQL; not by {connectable.dialect.name!r}")
    wanted = sessions_table(MetaData()) if tables is None else tables
    connectable.execute(select(func.pg_advisory_xact_lock(func.hashtext(f"powauth {wanted.sessions.fullname}"))))
    table = quoted(wanted)
    if REPORTED_NOW(connectable, table=table, source=SOURCE).first() is not None:
        return
    function = quoted(wanted, "_report")
    connectable.execute(
        text(
            f"CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql "
            f"SET search_path = pg_catalog, pg_temp AS $powauth${SOURCE}$powauth$"
        )
    )
    for event in EVENTS:
        trigger = _PREPARER.quote(f"{wanted.sessions.name}_report_{event}")
        gone = "" if event == "truncate" else "REFERENCING OLD TABLE AS gone"
        after = f"AFTER {event} ON {table} {gone} FOR EACH STATEMENT"
        for statement in (
            f"DROP TRIGGER IF EXISTS {trigger} ON {table}",
            f"CREATE TRIGGER {trigger} {after} EXECUTE FUNCTION {function}()",
            # Also where session_replication_role turns other triggers off.
            f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}",
        ):
            connectable.execute(text(statement))


def quoted(tables: Tables, suffix: str = "") -> str:
    """The table's name as PostgreSQL reads it, in a statement and in ``to_regclass``; or that of what is beside it."""
    schema = tables.sessions.schema
    name = _PREPARER.quote(tables.sessions.name + suffix)
    return name if schema is None else f"{_PREPARER.quote(schema)}.{name}"
