"""The page on the design names what there is: its modules and its packages."""

import importlib
import operator
import re

import pytest
from scripts.page_programs import ROOT

PAGE = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
SOURCE = ROOT / "src" / "powauth"


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\b\w+(?:/\w+)*\.py\b", PAGE))))
def test_each_module_that_the_page_names_is_there(path: str) -> None:
    assert (SOURCE / path).is_file() or (ROOT / path).is_file()


def test_the_house_has_all_packages_and_no_others() -> None:
    named = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", section("The house"), re.MULTILINE)
    shown = {name for row in named for name in re.findall(r"\w+", row)}
    there = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert shown == there - {"__init__"}


def test_the_drawing_of_the_house_has_all_packages() -> None:
    drawing = section("The house").split("```")[1]
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")} | {"events", "request_auth"}
    assert packages <= set(re.findall(r"\w+", drawing))


@pytest.mark.parametrize(("path", "name"), re.findall(r"`([\w/]+)\.py:([\w.]+)`", PAGE))
def test_each_function_on_a_requests_way_is_there(path: str, name: str) -> None:
    module = importlib.import_module(f"powauth.{path.replace('/', '.')}")
    owner, _, function = f"{name}".rpartition(".")
    holder = operator.attrgetter(owner)(module) if owner else module
    assert function in vars(holder)  # defined there, and not in a base class or another module


@pytest.mark.parametrize("row", range(1, 14))
def test_the_table_of_the_life_has_every_row(row: int) -> None:
    assert f"\n| {row} | " in section("The life of a session")


@pytest.mark.parametrize(
    ("what", "where"),
    [
        ("the cookie's name", "http/carriers.py"),
        ("the cookie's name", "signs everybody out"),
        ("what happens at reuse", "sessions/record.py"),
        ("what happens at reuse", "plug/reader.py"),
        ("a new backend", "examples/backend.py"),
        ("a new backend", "backends/_schemes.py"),
        ("a new field of the identity", "accounts/_reading.py"),
        ("a header for bearer clients", "BearerCarrier._sent"),
        ("what a wrong password says", "accounts/forms.py"),
        ("what a wrong password says", "pages/sign_in.py"),
        ("a new page", "pages/routes.py"),
        ("a new page", "Extension.pages()"),
        ("a new event", "operating.md#events"),
        ("a new backend", "backends/base.py"),
        ("a new field of the identity", "accounts/identity.py"),
        ("a header for bearer clients", "http/carriers.py"),
        ("what a wrong password says", "pages/messages.py"),
        ("a new page", "pages/registry.py"),
        ("a new event", "events.py"),
        ("a new event", "EventKind"),
        ("what a proof covers", "accounts/_reading.py"),
        ("what a proof covers", "plug/subjects.py"),
        ("epochs", "plug/signing.py"),
        ("epochs", "sessions/store.py"),
        ("epochs", "backends/base.py"),
        ("how an extension hears of a change", "Extension.credentials_changed"),
        ("the values of `why`", "accounts/changes.py"),
        ("a new command", "cli/parser.py"),
        ("a new command", "cli/resealing.py"),
    ],
)
def test_a_newcomer_finds_where_to_change(what: str, where: str) -> None:
    (row,) = [line for line in section("Where to change what").splitlines() if line.startswith(f"| {what}")]
    assert where in row
