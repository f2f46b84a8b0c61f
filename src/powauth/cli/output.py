"""Output of the commands: tables for people, JSON for programs, and progress on stderr."""

import argparse
import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from powauth.cli.status import Status

Row = dict[str, Any]

BLOCK_ROWS = 500
"""Rows of a table in each printed block."""


class Table:
    """A table that is printed in blocks, so that the first rows of a long table appear early.

    The first block sets the widths of the columns. A longer cell in a later block shifts the rest of its line.

    Args:
        columns: the headings, which are names of the rows' values.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._widths = [0] * len(columns)
        self._waiting = [list(columns)]

    def add(self, row: Row) -> None:
        """Add a row. It is printed with its block."""
        self._waiting.append([printable(row[name]) for name in self._columns])
        if len(self._waiting) > BLOCK_ROWS:
            self._print()

    def end(self) -> None:
        """Print the remaining rows."""
        self._print()

    def _print(self) -> None:
        if not any(self._widths):
            self._widths = [max(len(line[column]) for line in self._waiting) for column in range(len(self._columns))]
        for line in self._waiting:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, self._widths, strict=True)).rstrip())
        self._waiting.clear()


def print_json(value: object) -> None:
    """Print a value as one line."""
    print(escaped(msgspec.json.encode(value).decode()))


def print_result(options: argparse.Namespace, result: dict[str, int], text: str) -> None:
    """Print the result of a command: as JSON if ``--json`` was given, otherwise as text."""
    if options.json:
        print_json(result)
    else:
        print(text)


def printable(value: object) -> str:
    r"""Return the text of a value in a table; see `escaped`.

    >>> print(printable(None), printable(True), printable("mia\x1b"))
    - yes mia\u001b
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else escaped(str(value))


def escaped(text: str) -> str:
    """Return a text with the escapes of JSON for unprintable characters, which could control the terminal."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text)


def progress(text: str) -> None:
    """Show the progress of a command on stderr if it is a terminal. A text that ends its line is always shown."""
    if sys.stderr is not None and (sys.stderr.isatty() or text.endswith("\n")):
        print(f"\r\x1b[K{text}" if sys.stderr.isatty() else text, end="", file=sys.stderr, flush=True)


def no_such_session() -> Status:
    """Report that there is no such session."""
    print("powauth: no such session", file=sys.stderr)
    return Status.NO_SESSION


def no_such_user() -> Status:
    """Report that there is no such user."""
    print("powauth: no such user", file=sys.stderr)
    return Status.NO_USER


def iso(moment: datetime) -> str:
    """Return a time in UTC, to the second. A time without a zone counts as UTC."""
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
