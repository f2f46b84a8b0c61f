"""What is told of what happened, to whom, and what is never told."""

import json
import logging
import uuid
from datetime import UTC, datetime
from typing import get_args

import msgspec
import pytest

from powauth.accounts.identity import Key, key_text, stored_key
from powauth.events import Event, EventName, deliver, emit, severity_of

AT = datetime(2030, 3, 17, 17, 46, 40, tzinfo=UTC)

WARNINGS = {
    "reuse_detected",
    "sign_out_failed",
    "conflicting_ids",
    "unreadable_record",
    "store_unavailable",
    "forwarded",
    "throttled",
    "mail_failed",
}


@pytest.mark.parametrize("name", get_args(EventName))
def test_an_event_is_one_line_of_the_log(name: EventName, caplog: pytest.LogCaptureFixture) -> None:
    event = Event(name=name, at=AT, user_key="42", sid="abc")
    with caplog.at_level(logging.DEBUG, logger="powauth"):
        emit(event, severity_of(name))
    (record,) = caplog.records
    assert record.name == "powauth"
    quiet = logging.DEBUG if name == "unknown_id" else logging.INFO
    assert record.levelno == (logging.WARNING if name in WARNINGS else quiet)
    word, _, rest = record.getMessage().partition(" ")
    assert word == name
    assert json.loads(rest) == {
        "name": name,
        "at": AT.isoformat().replace("+00:00", "Z"),
        "user_key": "42",
        "sid": "abc",
    }


@pytest.mark.parametrize("key", [7, "7", uuid.UUID(int=7)])
def test_a_user_is_named_in_the_log_as_on_the_command_line(key: Key, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="powauth"):
        emit(Event(name="signed_in", at=AT, user_key=key, actor=key), "info")
    line = json.loads(caplog.records[0].getMessage().partition(" ")[2])
    assert line["user_key"] == line["actor"] == key_text(stored_key(key))


def test_what_came_from_outside_makes_no_second_line(caplog: pytest.LogCaptureFixture) -> None:
    event = Event(
        name="signed_in", at=AT, user_key="a\r\nroot signed_in", ip="\x1b[2J\x7f\x9b", detail="\u202e\u2028\ud800"
    )
    with caplog.at_level(logging.INFO, logger="powauth"):
        emit(event, "info")
    line = caplog.records[0].getMessage()
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line.partition(" ")[2])["user_key"] == event.user_key


def test_a_quiet_logger_costs_no_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="powauth"):
        emit(Event(name="signed_in", at=AT), "info")
    assert caplog.records == []


def test_a_listener_gets_the_event() -> None:
    heard: list[Event] = []
    event = Event(name="signed_in", at=AT)
    deliver(event, heard.append, "on_event")
    assert heard == [event]


def test_a_listener_that_fails_is_logged_and_changes_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    def listener(event: Event) -> None:
        raise RuntimeError(event.name)

    with caplog.at_level(logging.INFO, logger="powauth"):
        deliver(Event(name="signed_out", at=AT), listener, "on_event")
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "on_event failed on the event signed_out")
    assert record.exc_info is not None


def test_a_listener_may_end_the_program() -> None:
    def listener(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        deliver(Event(name="signed_out", at=AT), listener, "on_event")


def test_an_event_cannot_be_changed_and_leaves_out_what_it_does_not_know() -> None:
    event = Event(name="signed_in", at=AT)
    with pytest.raises(AttributeError):
        event.at = AT  # type: ignore[misc]
    assert msgspec.json.decode(msgspec.json.encode(event)) == {"name": "signed_in", "at": "2030-03-17T17:46:40Z"}
