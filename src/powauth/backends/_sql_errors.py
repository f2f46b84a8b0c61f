"""Sentences for an operator that explain a SQL driver's errors, for sessions and for users.

For each kind of database, `_SENTENCES` maps the driver's code to a sentence. The driver's own words are added only for
these codes, and for errors while connecting. Such messages name tables, roles and limits. All other messages may quote
values of the statement, which are keys, sessions and password hashes.
"""

import re
import socket
import ssl
from typing import Final, NamedTuple

from powauth._extras import needs
from powauth._outages import Failure, one_line, unavailable
from powauth.errors import StoreUnavailable

with needs("users", "SQLBackend", "sqlalchemy"):
    from sqlalchemy.exc import DBAPIError, StatementError
    from sqlalchemy.exc import TimeoutError as PoolTimeout


class FailedDatabase(NamedTuple):
    """The words for a database in error messages.

    Attributes:
        name: the subject of each sentence, such as "the session database".
        create: the instruction to create the tables, which follows "… lacks a table: ".
    """

    name: str
    create: str


_CONNECT = "cannot be reached: check that the server runs, and the host and port of its URL"
_CREDENTIALS = "refused the user name or the password of its URL"
_PERMISSION = "does not allow this user what powauth needs: SELECT, INSERT, UPDATE and DELETE on the table"
_NO_DATABASE = "does not exist on the server: create it, or correct the URL"
_TABLE = "lacks a table: {create}"
_COLUMN = (
    "has a table without a column that is needed, so a migration has not run: add the column by a migration. What "
    "creates tables, such as metadata.create_all, adds no column to one that exists. A database of development can be "
    "deleted and made again"
)
_CONNECTIONS = "has no connection left: raise its limit, or lower the pool sizes of the workers"
_FULL = "has no space left"
_READ_ONLY = "takes no writes: it is a replica, or was set to read-only; point powauth at the primary"
_SLOW = "did not answer within the time limit"
_LOCKED = "did not get a lock within the time limit: another transaction holds it"
_CONFLICT = "rolled the transaction back again and again: too many others change the same rows"
_CLOSED = "closed the connection"
_STARTING = "is starting or shutting down"
_POOLER = (
    "lost a prepared statement, as behind a pooler in transaction mode: add pooler=transaction to the URL, or set your "
    "engine up for it, see docs/backends.md"
)
_THREAD = (
    "has a connection that one thread opened and another one uses, which SQLite refuses: use a file and the engine's "
    "default pool, or give create_engine(…, poolclass=StaticPool) also connect_args=dict(check_same_thread=False)"
)
_STARTUP = (
    "or a pooler in front of it refused the settings of the connection: for a pooler in transaction mode add "
    "pooler=transaction to the URL"
)

_SENTENCES: Final[dict[str | int, str]] = {
    # PostgreSQL, by SQLSTATE
    **dict.fromkeys(("08000", "08001", "08003", "08004", "08006"), _CONNECT),
    "08P01": _STARTUP,
    "25006": _READ_ONLY,
    **dict.fromkeys(("26000", "42P05"), _POOLER),
    **dict.fromkeys(("28000", "28P01"), _CREDENTIALS),
    "3D000": _NO_DATABASE,
    **dict.fromkeys(("42P01", "3F000"), _TABLE),
    "42703": _COLUMN,
    "42501": _PERMISSION,
    **dict.fromkeys(("40001", "40P01"), _CONFLICT),
    **dict.fromkeys(("53100", "53200"), _FULL),
    "53300": _CONNECTIONS,
    "55P03": _LOCKED,
    "57014": _SLOW,
    **dict.fromkeys(("57P01", "57P02", "57P05"), _CLOSED),
    "57P03": _STARTING,
    # MariaDB, by error number
    **dict.fromkeys((2002, 2003, 2005), _CONNECT),
    **dict.fromkeys((1045, 1130, 1698), _CREDENTIALS),
    **dict.fromkeys((1044, 1142, 1143, 1227), _PERMISSION),
    1049: _NO_DATABASE,
    1146: _TABLE,
    1054: _COLUMN,
    **dict.fromkeys((1040, 1203, 1226), _CONNECTIONS),
    **dict.fromkeys((1020, 1213), _CONFLICT),
    1205: _LOCKED,
    **dict.fromkeys((1021, 1041, 1114), _FULL),
    **dict.fromkeys((1290, 1836), _READ_ONLY),
    1969: _SLOW,
    **dict.fromkeys((1053, 1927, 2006, 2013, 2055, 4031), _CLOSED),
    # SQLite, by name
    "SQLITE_CANTOPEN": "cannot be opened: check its path, and the owner and mode of the file and of its folder",
    "SQLITE_PERM": "does not let this process in: check the owner and the mode of the file",
    "SQLITE_READONLY": "cannot be written: check the owner and the mode of the file and of its folder",
    "SQLITE_NOTADB": "is not a SQLite file",
    "SQLITE_CORRUPT": "is damaged: restore it",
    "SQLITE_FULL": _FULL,
    "SQLITE_BUSY": _LOCKED,
    "SQLITE_LOCKED": _LOCKED,
    "SQLITE_IOERR": "cannot be read or written: the disk failed",
}

_SQLITE_MESSAGES: Final = (("no such table", _TABLE), ("no such column", _COLUMN), ("has no column", _COLUMN))
"""Errors that share one SQLite code."""

_MISSING: Final = frozenset({_TABLE, _COLUMN, _NO_DATABASE})

_CONNECTING: Final = (
    # libpq gives no code if connecting fails, only the server's words.
    (re.compile(r"password authentication failed|no password supplied|role .* does not exist|pg_hba"), _CREDENTIALS),
    (re.compile(r"database .* does not exist"), _NO_DATABASE),
    (re.compile(r"too many (clients|connections)|remaining connection slots"), _CONNECTIONS),
    (re.compile(r"starting up|shutting down|recovery mode"), _STARTING),
    (re.compile(r"unsupported startup parameter"), _STARTUP),
    (re.compile(r"did not answer in time|timeout expired|timed out"), _SLOW),
    (re.compile(r"SSL|TLS|certificate"), "and this process do not agree on TLS: check sslmode and the certificates"),
)

_HOST: Final = re.compile(r"resolve|translate host|Name or service|nodename nor servname|getaddrinfo")
_NO_HOST: Final = (
    "has a host name that cannot be resolved: check the URL, in which '@', '/', '#' and '?' of a password are written "
    "as %40, %2F, %23 and %3F"
)


_ROLLED_BACK: Final = frozenset({"40001", "40P01", 1020, 1213})
"""PostgreSQL: serialization_failure, deadlock_detected. MariaDB: ER_CHECKREAD (a row changed since the snapshot),
ER_LOCK_DEADLOCK."""

_DRIVERS: Final = frozenset(
    {"asyncpg", "psycopg", "psycopg2", "pg8000", "pymysql", "asyncmy", "MySQLdb", "mysql", "aiosqlite", "sqlite3"}
)
"""Packages whose errors SQLAlchemy may pass on unchanged while it connects."""


def is_failure(error: Exception) -> bool:
    """Return whether an exception comes from the database, its driver, the pool or the network, not from a program.

    An app's own engine runs code of the app: listeners, a ``creator``, types. Errors of that code are not outages.
    """
    if isinstance(error, DBAPIError | PoolTimeout | OSError | EOFError):
        return True
    if isinstance(error, StatementError) and isinstance(error.orig, Exception):
        # SQLAlchemy wraps an error outside the driver's own classes, such as a ConnectionResetError, in the same way
        # as an error that a type of the app raises.
        return is_failure(error.orig)
    return any(kind.__module__.partition(".")[0] in _DRIVERS for kind in type(error).__mro__)


def broke(error: StatementError) -> bool:
    """Return whether the connection broke while a statement was under way."""
    if isinstance(error, DBAPIError):
        return error.connection_invalidated
    return isinstance(error.orig, ConnectionError | EOFError)


def was_rolled_back(error: StatementError) -> bool:
    """Return whether the server rolled the transaction back because of a rival, so that it may succeed now."""
    return _code(error) in _ROLLED_BACK


def sql_unavailable(error: BaseException | None, database: FailedDatabase) -> StoreUnavailable:
    """Log the cause of a database's failure, and return the error to raise."""
    if isinstance(error, StatementError):
        # The app's own engine may show parameters in its messages, and so in logs.
        error.hide_parameters = True
    code = _code(error)
    sentence, detail = _explain(error, code)
    named = sentence.format(create=database.create) if "{" in sentence else sentence
    return unavailable(Failure(f"{database.name} {named}", detail, sentence in _MISSING), _driver_error(error), code)


def _driver_error(error: BaseException | None) -> BaseException | None:
    return error.orig if isinstance(error, StatementError) and error.orig is not None else error


def _code(error: BaseException | None) -> str | int | None:
    """Return the SQLSTATE, MariaDB's number, or SQLite's name of the error."""
    original = _driver_error(error)
    name = getattr(original, "sqlite_errorname", None)
    if isinstance(name, str):
        return "_".join(name.split("_")[:2])  # without an extension such as FSYNC in SQLITE_IOERR_FSYNC
    number = next(iter(getattr(original, "args", ())), None)
    if isinstance(number, int) and not isinstance(original, OSError):
        return number
    return sqlstate(original)


def sqlstate(original: object) -> str | None:
    """Return the SQLSTATE of a driver's error; ``None`` if it has none. psycopg2 and pg8000 keep it elsewhere."""
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    if state is None and isinstance(original, Exception) and original.args and isinstance(original.args[0], dict):
        state = original.args[0].get("C")
    return state if isinstance(state, str) else None


def _explain(error: BaseException | None, code: str | int | None) -> tuple[str, str]:
    """Return the sentence, without its subject, and the driver's words if they hold no value."""
    original = _driver_error(error)
    words = one_line(_words(original))
    if isinstance(error, PoolTimeout):
        return "has no free connection in the pool: the app holds them too long, or the pool is too small", ""
    if isinstance(original, TimeoutError):
        return _SLOW, ""
    if isinstance(original, socket.gaierror) or (code in (None, 2003, 2005) and _HOST.search(words)):
        return _NO_HOST, ""  # if the URL was parsed wrongly, the host is a part of the password
    if isinstance(original, ssl.SSLError):
        return _CONNECTING[-1][1], one_line(original.reason or "")
    if isinstance(original, OSError):
        return _CONNECT, one_line(original.strerror or "")
    sentence = next((found for text, found in _SQLITE_MESSAGES if code == "SQLITE_ERROR" and text in words), None)
    sentence = sentence or (None if code is None else _SENTENCES.get(code))
    if sentence is not None:
        return sentence, words
    if isinstance(error, DBAPIError) and broke(error):
        return _CLOSED, words if code is None else ""
    if "can only be used in that same thread" in words:
        return _THREAD, ""
    if code is None and isinstance(error, DBAPIError) and error.statement is None:
        return next((found for pattern, found in _CONNECTING if pattern.search(words)), _CONNECT), words
    return "failed", ""


def _words(original: BaseException | None) -> object:
    arguments: tuple[object, ...] = getattr(original, "args", ())
    return arguments[1] if len(arguments) > 1 and isinstance(arguments[0], int) else (original or "")
