"""The exit statuses of ``powauth``, for scripts."""

from enum import IntEnum

from powauth.errors import InvalidParams, MissingExtra, PowauthError, StoreMissing, StoreUnavailable


class AppError(PowauthError):
    """The app of ``--app`` cannot be imported, or has no `SessionAuth`. The app's own error is the ``__cause__``."""


class UsageError(PowauthError):
    """The command line is wrong in a way that its parser does not see."""


class Status(IntEnum):
    """The exit status of a command. A status never changes its meaning."""

    DONE = 0
    NO_SESSION = 1
    USAGE = 2
    UNREACHABLE = 3
    MISSING_DRIVER = 4
    CONFIGURATION = 5
    STORE_MISSING = 6
    NO_USER = 7
    INVALID = 8
    APP = 9
    FOUND = 10
    MISTAKE = 70
    OUTPUT = 74
    INTERRUPTED = 130
    PIPE_CLOSED = 141


MEANINGS = {
    Status.DONE: "done",
    Status.NO_SESSION: "there is no such session",
    Status.USAGE: "the command line is wrong",
    Status.UNREACHABLE: "the store did not answer, or refused",
    Status.MISSING_DRIVER: "a package is missing; the message names the extra that installs it",
    Status.CONFIGURATION: "the URL or an option of the store is wrong, or its files are not this user's",
    Status.STORE_MISSING: "there is no store: a directory, a file, a database or a table does not exist",
    Status.NO_USER: "there is no such user",
    Status.INVALID: "the users refused a value, such as a weak password; the message says why",
    Status.APP: "the app of `--app` cannot be imported, or has no `SessionAuth`; a traceback shows the app's own error",
    Status.FOUND: "`users check` has found something",
    Status.MISTAKE: "a mistake in powauth; the traceback says where",
    Status.OUTPUT: "the output cannot be written",
    Status.INTERRUPTED: "interrupted by Ctrl-C",
    Status.PIPE_CLOSED: "the reader of the output has gone, as head does; not an error",
}

_STATUSES = {
    MissingExtra: Status.MISSING_DRIVER,
    StoreMissing: Status.STORE_MISSING,
    StoreUnavailable: Status.UNREACHABLE,
    InvalidParams: Status.INVALID,
    AppError: Status.APP,
    UsageError: Status.USAGE,
}
"""The statuses of errors. A subclass stands before its base class. Every other error is one of the configuration."""


def status_of(error: PowauthError) -> Status:
    """Return the exit status for an error."""
    return next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), Status.CONFIGURATION)


def table() -> str:
    """Return the statuses and their meanings, one per line."""
    return "\n".join(f"  {status:>3}  {MEANINGS[status]}" for status in Status)
