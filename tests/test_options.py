"""Each helper for options accepts what it should, and refuses the rest with one form of message."""

import re
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

import powauth
from powauth import ConfigError

# The messages of constructors come from these helpers, and each way to be wrong has a test here only.
from powauth._options import choice, flag, instance, matching, short_name, whole_number, wrong
from powauth.extensions import Mailer


@pytest.mark.parametrize(("value", "bounds"), [(1, {}), (0, {"at_least": 0}), (7, {"at_most": 7})])
def test_a_whole_number_is_returned(value: int, bounds: dict[str, int]) -> None:
    assert whole_number("size", value, **bounds) == value


@pytest.mark.parametrize("value", [0, -1, True, 1.0, "1", None])
def test_anything_else_is_no_whole_number(value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^size must be a whole number of 1 or more, not {re.escape(repr(value))}$"):
        whole_number("size", value)
    with pytest.raises(ConfigError, match=r"^size must be a whole number from 1 to 9, not "):
        whole_number("size", value, at_most=9)


@pytest.mark.parametrize("value", ["no", 0, 1, None])
def test_only_a_bool_is_a_flag(value: Any) -> None:
    assert flag("durable", False) is False
    with pytest.raises(ConfigError, match=r"^durable must be True or False, not "):
        flag("durable", value)


@pytest.mark.parametrize("value", ["c", "", None, 1, ["a"]])
def test_a_choice_is_one_of_the_choices(value: Any) -> None:
    assert choice("how", "b", "a", "b") == "b"
    with pytest.raises(ConfigError, match=r"^how must be 'a', 'b' or 'C', not "):
        choice("how", value, "a", "b", "C")


@pytest.mark.parametrize("value", ["", "b", b"a", None])
def test_a_text_has_its_form(value: Any) -> None:
    assert matching("letter", "a", re.compile("a"), "an a") == "a"
    with pytest.raises(ConfigError, match=r"^letter must be an a, not "):
        matching("letter", value, re.compile("a"), "an a")


@pytest.mark.parametrize("value", ["", "-a", "a b", "a\n", "a" * 64, b"a", None])
def test_a_short_name_is_one(value: Any) -> None:
    assert short_name("prefix", "shop-1.eu") == "shop-1.eu"
    with pytest.raises(ConfigError, match=r"^prefix must be 1 to 63 characters of "):
        short_name("prefix", value)


def test_the_message_on_a_class_names_the_type_and_not_the_value() -> None:
    instance("store", {}, dict | None, "a dict or None")
    instance("store", None, dict | None, "a dict or None")
    with pytest.raises(ConfigError) as caught:
        instance("store", "secret", dict | None, "a dict or None")
    assert str(caught.value) == "store must be a dict or None, not str"
    with pytest.raises(ConfigError, match=r"^store must be a dict, not NoneType$"):
        instance("store", None, dict, "a dict")


def test_the_form_of_all_messages() -> None:
    assert str(wrong("path", "a path", 7)) == "path must be a path, not 7"


def test_every_message_names_what_was_given_in_the_same_form() -> None:
    source = Path(powauth.__file__).parent
    assert [path.name for path in source.rglob("*.py") if "; got " in path.read_text(encoding="utf-8")] == []


def test_a_class_is_no_object_of_a_protocol() -> None:
    class Printer:
        def send(self, message: EmailMessage) -> None: ...

    instance("mailer", Printer(), Mailer, "a mailer")
    with pytest.raises(ConfigError, match=r"^mailer must be a mailer, not the class Printer$"):
        instance("mailer", Printer, Mailer, "a mailer")
