"""``powauth``: a secret, the pages' templates, and the administration of sessions over a backend's URL.

    powauth secret
    powauth templates app/templates/auth
    powauth sessions --backend lmdb:///var/lib/app/sessions list --user 42

What it prints of sessions opens none of them: ids are public ones. The exit status tells a script what happened; see
`Status`.
"""

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence

from powauth.cli.status import Status, status_of
from powauth.errors import PowauthError

__all__ = ["Status", "main"]

_nowhere = logging.NullHandler()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, and return the exit status of the process: a `Status`.

    Raises:
        SystemExit: from the parser of arguments, for ``--help``, ``--version`` and what it cannot read.
    """
    # The error is told in a sentence of ours. Without a handler, Python would print what powauth and drivers log, too.
    logging.getLogger().addHandler(_nowhere)
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character is no reason to fail.
        with contextlib.suppress(AttributeError):  # a stream that is closed is None; one of a test may be its own
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        try:
            status = _run(arguments)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # else Python would do it when nobody can catch the error any more
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
    from powauth.cli.parser import parse  # here, so that Ctrl-C is quiet meanwhile

    options = parse(arguments)
    try:
        return int(options.run(options))
    except PowauthError as error:
        _complain(str(error))
        return status_of(error)


def _complain(sentence: str) -> None:
    with contextlib.suppress(OSError):
        print(f"powauth: {sentence}", file=sys.stderr)


def _silence() -> None:
    """Send what is still buffered nowhere: Python flushes it at its exit, and would complain."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
