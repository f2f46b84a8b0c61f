"""Values that a person types, or that a program writes to stdin."""

import getpass
import sys
import warnings
from collections.abc import Iterable

import msgspec

from powauth.cli.output import escaped
from powauth.cli.status import UsageError

MAX_BYTES = 65_536
"""Bytes of a password on stdin. The longest password is far shorter."""


def ask_password(user: str, *, from_stdin: bool) -> str:
    """Return a new password: the one line on stdin, or what a person types twice. It is never shown.

    Args:
        user: the user id or key, for the prompt.
        from_stdin: read stdin, and not the terminal.

    Raises:
        UsageError: if there is no terminal, the two differ, or stdin holds no single line of UTF-8.
    """
    password = _on_stdin() if from_stdin else _typed(user)
    if not password:
        raise UsageError("the password is empty")
    return password


def _on_stdin() -> str:
    data = sys.stdin.buffer.read(MAX_BYTES + 1)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise UsageError("the password on stdin is not UTF-8") from None
    line = text.removesuffix("\n").removesuffix("\r")
    if len(data) > MAX_BYTES or "\n" in line:
        raise UsageError("stdin must hold the password in one line, and nothing else")
    return line


def _typed(user: str) -> str:
    with warnings.catch_warnings():
        # Without a terminal, getpass would warn and then show the password.
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            first = getpass.getpass(f"New password of {escaped(user)}: ")
            again = getpass.getpass("The same again: ")
        except (getpass.GetPassWarning, EOFError):
            raise UsageError("there is no terminal to ask for the password: use --password-stdin") from None
    if first != again:
        raise UsageError("the two passwords differ")
    return first


def ask(name: str) -> str:
    """Return the value of a field that a person types. The prompt goes to stderr."""
    print(f"{name}: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().rstrip("\r\n")


def settings(given: Iterable[str]) -> dict[str, object]:
    """Return the fields of ``--set``: ``name=text``, or ``name:=JSON``.

    >>> settings(["name=Mia", "age:=42"])
    {'name': 'Mia', 'age': 42}

    Raises:
        UsageError: if one has another form.
    """
    found: dict[str, object] = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not equals or not name.removesuffix(":"):
            raise UsageError("--set is name=text, or name:=JSON")
        if not name.endswith(":"):
            found[name] = value
            continue
        try:
            found[name.removesuffix(":")] = msgspec.json.decode(value)
        except msgspec.DecodeError as error:
            raise UsageError(f"--set {name}=: {error}") from None
    return found
