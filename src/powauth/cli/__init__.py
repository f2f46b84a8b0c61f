"""``powauth``: a secret, the pages' templates, and the administration of sessions, users and sealed secrets.

    powauth secret
    powauth templates app/templates/auth
    powauth sessions --backend lmdb:///var/lib/app/sessions list --user 42
    powauth --app shop.main:auth users deactivate mia@example.com
    powauth --app shop.main:auth reseal

The printed ids are public: nobody can use a session with them. The exit status tells a script what happened; see
`Status`.
"""

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence

from powauth.cli.status import AppError, Status, status_of
from powauth.errors import InvalidParams, PowauthError

__all__ = ["Status", "main"]

_nowhere = logging.NullHandler()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit status of the process: a `Status`.

    Raises:
        SystemExit: from the argument parser, for ``--help``, ``--version`` and invalid arguments.
    """
    # The command reports errors itself. Without a handler, Python would also print the logs of powauth and drivers.
    logging.getLogger().addHandler(_nowhere)
    for stream in (sys.stdout, sys.stderr):
        # Do not fail because the terminal cannot show a character.
        with contextlib.suppress(AttributeError):  # a closed stream is None, and a test may replace the stream
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        try:
            status = _run(arguments)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # otherwise Python flushes at exit, where the error cannot be caught
    except BrokenPipeError:
        _silence()
        return Status.PIPE_CLOSED
    except KeyboardInterrupt:
        return Status.INTERRUPTED
    except OSError as error:
        _complain(f"cannot write the output: {error.strerror or type(error).__name__}")
        _silence()
        return Status.OUTPUT
    except Exception:
        traceback.print_exc()
        return Status.MISTAKE
    return status


def _run(arguments: Sequence[str] | None) -> int:
    from powauth.cli.parser import parse  # imported here, so that Ctrl-C during the import prints no traceback

    options = parse(arguments)
    try:
        return int(options.run(options))
    except PowauthError as error:
        if isinstance(error, AppError) and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        for sentence in _sentences(error):
            _complain(sentence)
        return status_of(error)


def _sentences(error: PowauthError) -> list[str]:
    if not isinstance(error, InvalidParams):
        return [str(error)]
    return [
        message if field == "base" else f"{field}: {message}"
        for field, messages in error.errors.items()
        for message in messages
    ]


def _complain(sentence: str) -> None:
    with contextlib.suppress(OSError):
        print(f"powauth: {sentence}", file=sys.stderr)


def _silence() -> None:
    """Discard the buffered output. Otherwise Python flushes it at exit and reports the error."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
