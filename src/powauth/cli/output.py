"""What the commands print: tables for people, JSON for programs, progress on the side."""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from powauth.cli.status import Status

Row = dict[str, Any]

BLOCK_ROWS = 500
"""Rows of a table that are printed at once."""


class Table:
    """A table that is printed in blocks, so that a long one begins at once.

    The first block decides how wide the columns are. A longer cell of a later one moves the rest of its line.

    Args:
        columns: the headings, which are names of the rows' values.
    """

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._widths = [0] * len(columns)
        self._waiting = [list(columns)]

    def add(self, row: Row) -> None:
        """Print a row, soon."""
        self._waiting.append([printable(row[name]) for name in self._columns])
        if len(self._waiting) > BLOCK_ROWS:
            self._print()

    def end(self) -> None:
        """Print what is left."""
        self._print()

    def _print(self) -> None:
        if not any(self._widths):
            self._widths = [max(len(line[column]) for line in self._waiting) for column in range(len(self._columns))]
        for line in self._waiting:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, self._widths, strict=True)).rstrip())
        self._waiting.clear()


def print_json(value: object) -> None:
    """Print a value as one line."""
    print(msgspec.json.encode(value).decode())


def print_result(options: argparse.Namespace, result: dict[str, int], text: str) -> None:
    """Print the result of a command: as JSON if that was asked for, else as text."""
    if options.json:
        print_json(result)
    else:
        print(text)


def printable(value: object) -> str:
    """A cell that cannot move the cursor or change the terminal, whatever a client called itself."""
    text = "-" if value is None else str(value)
    return "".join(character if character.isprintable() else "?" for character in text)


def progress(text: str) -> None:
    """Show how far a command is, on a terminal. A text that ends its line is shown everywhere."""
    if sys.stderr is not None and (sys.stderr.isatty() or text.endswith("\n")):
        print(f"\r{text}" if sys.stderr.isatty() else text, end="", file=sys.stderr, flush=True)


def no_such_session() -> Status:
    """Say so."""
    print("powauth: no such session", file=sys.stderr)
    return Status.NO_SESSION


def iso(moment: datetime) -> str:
    """A moment in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
