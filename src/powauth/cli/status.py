"""The exit statuses of ``powauth``, for scripts."""

from enum import IntEnum

from powauth.errors import MissingExtra, PowauthError, StoreMissing, StoreUnavailable


class Status(IntEnum):
    """The exit status of a command. A status never changes its meaning."""

    DONE = 0
    NO_SESSION = 1
    USAGE = 2
    UNREACHABLE = 3
    MISSING_DRIVER = 4
    CONFIGURATION = 5
    STORE_MISSING = 6
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
    Status.MISTAKE: "a mistake in powauth; the traceback says where",
    Status.OUTPUT: "the output cannot be written",
    Status.INTERRUPTED: "interrupted by Ctrl-C",
    Status.PIPE_CLOSED: "the reader of the output has gone, as head does; not an error",
}


def status_of(error: PowauthError) -> Status:
    """Return the exit status for an error."""
    if isinstance(error, MissingExtra):
        return Status.MISSING_DRIVER
    if isinstance(error, StoreMissing):
        return Status.STORE_MISSING
    return Status.UNREACHABLE if isinstance(error, StoreUnavailable) else Status.CONFIGURATION


def table() -> str:
    """Return the statuses and their meanings, one per line."""
    return "\n".join(f"  {status:>3}  {MEANINGS[status]}" for status in Status)
