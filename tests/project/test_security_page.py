"""The security page is held to the tests, and the tests to the page."""

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "security.md").read_text()
HOLDS, WAITS = PAGE.split("## Requirements that wait")


def rows(text: str) -> list[str]:
    return re.findall(r"^\| ([A-Z]{3}-\d\d)", text, re.MULTILINE)


def ids_of_tests() -> set[str]:
    sources = (path.read_text() for path in TESTS.rglob("*.py"))
    return {
        f"{area.upper()}-{number}"
        for source in sources
        for area, number in re.findall(r"def test_([a-z]{3})_(\d\d)_", source)
        if area not in ("row", "rep")  # rows of the life of a session, and reported failures, are not of this page
    }


def test_every_row_that_holds_has_a_test_named_after_it() -> None:
    assert [row for row in rows(HOLDS) if row not in ids_of_tests()] == []


def test_no_row_is_listed_twice_or_both_ways() -> None:
    listed = rows(HOLDS) + rows(WAITS)
    assert len(listed) == len(set(listed))


def test_every_named_test_is_of_a_row_on_the_page() -> None:
    assert sorted(ids_of_tests() - set(rows(PAGE))) == []
