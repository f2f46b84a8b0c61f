"""The page on operating lists all events, each with the level at which it is logged."""

import logging
import re
from datetime import UTC, datetime
from typing import get_args

import pytest
from scripts.page_programs import ROOT

from powauth.events import Event, EventName, emit

PAGE = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")
LISTED = re.findall(
    r"^\| `(\w+)` \| (DEBUG|INFO|WARNING) \| \S", PAGE.partition("\n## Events\n")[2].partition("\n## ")[0], re.MULTILINE
)


def test_the_page_lists_every_event_in_order() -> None:
    assert tuple(name for name, _ in LISTED) == get_args(EventName)


@pytest.mark.parametrize(("name", "level"), LISTED)
def test_an_event_is_logged_at_the_level_on_the_page(
    name: EventName, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "powauth")
    emit(Event(name=name, at=datetime(2026, 1, 1, tzinfo=UTC)), None)
    assert [record.levelname for record in caplog.records] == [level]
