"""The page on options has every option of every object on it, with the default that the code has."""

import importlib
import inspect
import re
import time
from datetime import timedelta

import pytest
from scripts.page_programs import ROOT

import powauth
import powauth.accounts.sqlalchemy
from powauth.accounts.throttle import DEFAULT_THROTTLE
from powauth.http.metadata import default_metadata

PAGE = (ROOT / "docs" / "options.md").read_text(encoding="utf-8")
OBJECTS = re.findall(r"^## (\w+)$", PAGE, re.MULTILINE)

NAMES = {
    "Limit": powauth.Limit,
    "Throttle": lambda: DEFAULT_THROTTLE,  # a throttle has no equality
    "default_metadata": default_metadata,
    "time": time,
    "timedelta": timedelta,
    "utc_now": powauth.accounts.sqlalchemy.utc_now,
}


def rows(name: str) -> list[tuple[str, str]]:
    """The names of the options of an object, and their defaults, in the order of the page."""
    section = PAGE.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \| (.*?) \| .* \|$", section, re.MULTILINE)


def test_the_page_has_the_objects_that_options_take() -> None:
    assert [
        *("SessionAuth", "CredentialsCache", "Remember", "Throttle"),
        *("CookieCarrier", "BearerCarrier", "FrameworkSessionCarrier"),
        *("SQLAlchemyUsers", "PasswordHasher", "PasswordPolicy", "Hooks"),
        *("MemoryBackend", "LMDBBackend", "SQLBackend", "RedisBackend"),
    ] == OBJECTS


@pytest.mark.parametrize("name", OBJECTS)
def test_each_option_is_there_with_its_default(name: str) -> None:
    module = re.search(rf"^## {name}\n\nOf `(.+?)`", PAGE, re.MULTILINE)
    kind = getattr(powauth if module is None else importlib.import_module(module[1]), name)
    signature = inspect.signature(kind.__init__ if "__new__" in vars(kind) else kind)  # `__new__` may only choose
    parameters = [each for each in signature.parameters.values() if each.name != "self"]
    shown = [
        (option, inspect.Parameter.empty if default == "required" else eval(default.strip("`"), dict(NAMES)))
        for option, default in rows(name)
    ]
    assert shown == [(parameter.name, parameter.default) for parameter in parameters]


@pytest.mark.parametrize("page", ["README.md", "docs/design.md"])
def test_other_pages_lead_to_this_one(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert "options.md)" in text
    assert "| `session_ttl_renewal` |" not in text
