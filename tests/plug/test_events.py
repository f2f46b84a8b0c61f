"""What is told of what happened, to whom, and what is never told."""

import json
import logging
from datetime import UTC, datetime
from typing import get_args

import msgspec
import pytest

from powauth.events import Event, EventName, emit

AT = datetime(2030, 3, 17, 17, 46, 40, tzinfo=UTC)

WARNINGS = {
    "reuse_detected",
    "sign_out_failed",
    "conflicting_ids",
    "unreadable_record",
    "store_unavailable",
    "forwarded",
    "throttled",
}


@pytest.mark.parametrize("name", get_args(EventName))
def test_an_event_is_one_line_of_the_log(name: EventName, caplog: pytest.LogCaptureFixture) -> None:
    event = Event(name=name, at=AT, user_key="42", sid="abc")
    with caplog.at_level(logging.DEBUG, logger="powauth"):
        emit(event, None)
    (record,) = caplog.records
    assert record.name == "powauth"
    quiet = logging.DEBUG if name == "unknown_id" else logging.INFO
    assert record.levelno == (logging.WARNING if name in WARNINGS else quiet)
    word, _, rest = record.getMessage().partition(" ")
    assert word == name
    assert msgspec.json.decode(rest, type=Event) == event


def test_what_came_from_outside_makes_no_second_line(caplog: pytest.LogCaptureFixture) -> None:
    event = Event(
        name="signed_in", at=AT, user_key="a\r\nroot signed_in", ip="\x1b[2J\x7f\x9b", detail="\u202e\u2028\ud800"
    )
    with caplog.at_level(logging.INFO, logger="powauth"):
        emit(event, None)
    line = caplog.records[0].getMessage()
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line.partition(" ")[2])["user_key"] == event.user_key


def test_a_quiet_logger_costs_no_line_and_the_listener_hears_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Event] = []
    event = Event(name="signed_in", at=AT)
    with caplog.at_level(logging.ERROR, logger="powauth"):
        emit(event, heard.append)
    assert caplog.records == []
    assert heard == [event]


def test_a_listener_that_fails_is_logged_and_changes_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    def listener(event: Event) -> None:
        raise RuntimeError(event.name)

    with caplog.at_level(logging.INFO, logger="powauth"):
        emit(Event(name="signed_out", at=AT), listener)
    assert [record.levelno for record in caplog.records] == [logging.INFO, logging.ERROR]
    assert caplog.records[1].exc_info is not None


def test_a_listener_may_end_the_program() -> None:
    def listener(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        emit(Event(name="signed_out", at=AT), listener)


def test_an_event_cannot_be_changed_and_leaves_out_what_it_does_not_know() -> None:
    event = Event(name="signed_in", at=AT)
    with pytest.raises(AttributeError):
        event.at = AT  # type: ignore[misc]
    assert msgspec.json.decode(msgspec.json.encode(event)) == {"name": "signed_in", "at": "2030-03-17T17:46:40Z"}
