"""The page on extensions lists what an extension may have, and the reasons that it hears."""

import re
from typing import get_type_hints

import pytest
from scripts.page_programs import ROOT

from powauth import Extension
from powauth.accounts import changes

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def first_cells(title: str) -> set[str]:
    """Return the names in the first column of a section's first table."""
    section = re.split(r"\n#+ ", PAGE.partition(f" {title}\n")[2], maxsplit=1)[0]
    rows = re.findall(r"^\| (`.*?) \| ", section, re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)", row)}


def test_the_table_has_all_methods_and_attributes_of_an_extension_and_no_others() -> None:
    public = {name for name in {*vars(Extension), *get_type_hints(Extension)} if not name.startswith("_")}
    assert first_cells("An extension of your own") == public


def test_the_table_has_all_reasons_and_no_others() -> None:
    reasons = {name for name, value in vars(changes).items() if name.isupper() and isinstance(value, str)}
    assert first_cells("Why credentials change") - {"why"} == reasons


@pytest.mark.parametrize("title", ["An extension of your own", "Why credentials change"])
def test_there_is_one_section_of_each_title(title: str) -> None:
    assert len(re.findall(rf"^#+ {title}$", PAGE, re.MULTILINE)) == 1
