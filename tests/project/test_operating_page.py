"""The page on operating lists all events, each with the level at which it is logged."""

import importlib
import logging
import pkgutil
import re
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from scripts.page_programs import ROOT

import powauth.extensions
from powauth import Extension
from powauth.events import Event, EventName, emit, severity_of

PAGE = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
OWN, _, OF_EXTENSIONS = (
    PAGE.partition("\n## Events\n")[2].partition("\n## ")[0].partition("\n### Events of extensions\n")
)
ROW = re.compile(r"^\| `(\w+)` \| (DEBUG|INFO|WARNING) \| \S", re.MULTILINE)
LISTED = ROW.findall(OWN)


def declared() -> dict[str, str]:
    """The events of powauth's own extensions, with their levels."""
    for module in pkgutil.walk_packages(powauth.extensions.__path__, "powauth.extensions."):
        importlib.import_module(module.name)
    pending: list[type[Extension[Any]]] = [Extension]
    found: dict[str, str] = {}
    while pending:
        kind = pending.pop()
        pending += kind.__subclasses__()
        if kind.__module__.startswith("powauth.extensions."):
            found |= {event.name: event.severity.upper() for event in kind.events}
    return found


def test_the_page_lists_the_events_of_all_extensions() -> None:
    assert dict(ROW.findall(OF_EXTENSIONS)) == declared()


def test_the_page_lists_every_event_in_order() -> None:
    assert tuple(name for name, _ in LISTED) == get_args(EventName)


@pytest.mark.parametrize(("name", "level"), LISTED)
def test_an_event_is_logged_at_the_level_on_the_page(
    name: EventName, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "powauth")
    emit(Event(name=name, at=datetime(2026, 1, 1, tzinfo=UTC)), severity_of(name))
    assert [record.levelname for record in caplog.records] == [level]
