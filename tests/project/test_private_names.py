"""Tests go through public names. Each use of a private one says why, and there are few."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from scripts.page_programs import ROOT

TESTS = ROOT / "tests"

MOST = 59
"""More uses than that would make each change of the code expensive."""

PUBLIC = {"_asdict", "_field_defaults", "_fields", "_make", "_replace"}
"""The methods of named tuples, whose documentation gives them these names."""

LIBRARY = {"asyncio", "asyncio.events", "os", "sys"}
"""Modules of Python with documented names such as ``os._exit``."""


class Use(NamedTuple):
    """One use of a private name, and the reason beside it."""

    file: str
    line: int
    what: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}: {self.reason or 'says nothing'}"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_attribute(node: ast.AST) -> str | None:
    """The text of an attribute that is private to another object."""
    if not isinstance(node, ast.Attribute) or not is_private(node.attr) or node.attr in PUBLIC:
        return None
    owner = ast.unparse(node.value)
    return None if owner in {"self", "cls", "super()", *LIBRARY} else ast.unparse(node)


def private_import(node: ast.AST) -> str | None:
    """The text of an import of a private module of powauth, or of a private name of one."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return None
    mine = any(name.startswith("powauth.") and any(map(is_private, name.split("."))) for name in names)
    return ast.unparse(node) if mine else None


def comments_of(source: str) -> dict[int, str]:
    """The comment of each line that has one."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
    reasons = {line: re.sub(r"# (type: ignore|noqa)\S*( |$)|# ---.*", "", text) for line, text in comments.items()}
    return {line: text.strip("# ") for line, text in reasons.items()}


def docstrings_of(tree: ast.Module) -> dict[int, str]:
    """The docstring of the harness' function around each line: it says why for all that the function does."""
    found: dict[int, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                found.update(dict.fromkeys(range(node.lineno, (node.end_lineno or node.lineno) + 1), text))
    return found


def uses_in(source: str, file: str, *, by_docstring: bool) -> Iterator[Use]:
    """The uses of private names in a file, by line."""
    tree = ast.parse(source)
    found: list[tuple[int, int, str]] = []
    for node in ast.walk(tree):
        what = private_attribute(node) or private_import(node)
        if what is not None and isinstance(node, ast.expr | ast.stmt):
            found.append((node.lineno, node.end_lineno or node.lineno, what))
    if not found:
        return
    comments, docstrings = comments_of(source), docstrings_of(tree) if by_docstring else {}
    for line, end, what in sorted(found, key=lambda each: each[0]):
        reason = comments.get(line) or comments.get(end) or comments.get(line - 1) or docstrings.get(line) or ""
        yield Use(file, line, what, reason)


@cache
def all_uses() -> list[Use]:
    return [
        use
        for path in sorted(TESTS.rglob("*.py"))
        for use in uses_in(
            path.read_text(encoding="utf-8"),
            str(path.relative_to(ROOT)),
            by_docstring=path.is_relative_to(TESTS / "harness"),
        )
    ]


def test_there_are_few_uses_of_private_names() -> None:
    found = all_uses()
    assert len(found) <= MOST, "\n".join(map(str, found))


def test_each_use_of_a_private_name_says_why() -> None:
    silent = [use for use in all_uses() if not use.reason]
    assert silent == [], "\n".join(map(str, silent))


def test_what_is_counted() -> None:
    source = """
from powauth._forks import stay  # the reason
import powauth._times
from powauth.plug import _hidden
from powauth.plug import SessionAuth
from elsewhere import _theirs
self._own = cls._own = super()._own
pair._replace(a=1)
os._exit(0)
backend._engine.pool._all
# Above.
cache._copies
name.__class__
"""
    found = list(uses_in(source, "a", by_docstring=False))
    assert [(use.line, use.what) for use in found] == [
        (2, "from powauth._forks import stay"),
        (3, "import powauth._times"),
        (4, "from powauth.plug import _hidden"),
        (10, "backend._engine.pool._all"),
        (10, "backend._engine"),
        (12, "cache._copies"),
    ]
    assert [use.reason for use in found] == ["the reason", "the reason", "", "", "", "Above."]


def test_the_harness_says_why_in_a_docstring() -> None:
    source = 'def engine_of(backend):\n    """To listen to it."""\n    return backend._engine\n'
    assert [use.reason for use in uses_in(source, "a", by_docstring=True)] == ["To listen to it."]
    assert [use.reason for use in uses_in(source, "a", by_docstring=False)] == [""]


if __name__ == "__main__":
    print(*all_uses(), sep="\n")
    print(Path(__file__).name, len(all_uses()))
