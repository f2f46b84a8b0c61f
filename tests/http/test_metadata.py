"""What a session keeps besides its user, and what of it anybody may see."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from harness.core_support import NOW, a_session
from harness.support import FakeConnection
from powauth.errors import MetadataTooLarge
from powauth.http.metadata import MAX_USER_AGENT_CHARS, default_metadata
from powauth.sessions.ids import encode_sid
from powauth.sessions.info import MAX_METADATA_BYTES, checked_metadata, session_info
from powauth.sessions.record import MAX_TIME
from powauth.sessions.store import Stored


def test_the_default_is_where_the_session_was_begun() -> None:
    assert default_metadata(FakeConnection(user_agent="Lynx")) == {"ip": "192.0.2.1", "user_agent": "Lynx"}


def test_a_long_user_agent_is_cut() -> None:
    agent = default_metadata(FakeConnection(user_agent="\xff" * 60_000))["user_agent"]
    assert agent == "\xff" * MAX_USER_AGENT_CHARS


@pytest.mark.parametrize(("headers", "agent"), [({}, None), ({"user_agent": ""}, "")])
def test_a_request_may_say_nothing_of_itself(headers: dict[str, str], agent: str | None) -> None:
    connection = FakeConnection(**headers)  # type: ignore[arg-type]
    connection.ip = None
    assert default_metadata(connection) == {"ip": None, "user_agent": agent}


@pytest.mark.parametrize(
    "metadata", [{}, {"a": "b"}, {"a": 1, "b": 1.5, "c": True, "d": None}, {"n": -(2**63), "p": 2**64 - 1}, {"": "ä\0"}]
)
def test_flat_plain_metadata_is_taken_as_it_is(metadata: dict[str, Any]) -> None:
    checked = checked_metadata(metadata)
    assert checked == metadata
    assert checked is not metadata


@pytest.mark.parametrize(
    "metadata",
    [
        {"a": []},
        {"a": {}},
        {"a": b"bytes"},
        {"a": datetime.now(UTC)},
        {"a": object()},
        {5: "a"},
        {None: "a"},
        {b"a": "a"},
    ],
)
def test_anything_else_is_refused(metadata: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="must be a string, a number, a boolean or None"):
        checked_metadata(metadata)


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, 10**400, "\ud800", "a\udcff"])
def test_what_cannot_be_stored_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="64 bits"):
        checked_metadata({"a": value})


def test_metadata_over_the_limit_is_refused_whole() -> None:
    room = MAX_METADATA_BYTES - len(msgspec.msgpack.encode({"a": "b" * 4000})) + 4000
    assert checked_metadata({"a": "b" * room})["a"] == "b" * room
    for metadata in ({"a": "b" * (room + 1)}, {"a": "ä" * room}, {str(number): number for number in range(2_000)}):
        with pytest.raises(MetadataTooLarge, match="4096 bytes"):
            checked_metadata(metadata)


def test_session_info_shows_times_as_datetimes_and_nothing_that_opens_the_session() -> None:
    session = a_session(
        identity=b"IDENTITY",
        proofs=(b"A PROOF",),
        metadata={"ip": "192.0.2.1"},
        renewed_at=NOW + 1_000,
        authenticated_at=NOW + 500,
    )
    info = session_info(Stored(session, 0, NOW + 60_000), current=True)
    assert info.sid == encode_sid(session.sid)
    assert info.current
    assert info.created_at == datetime.fromtimestamp(NOW / 1000, UTC)
    assert (info.renewed_at - info.created_at).total_seconds() == 1
    assert (info.authenticated_at - info.created_at).total_seconds() == 0.5
    assert (info.expires_at - info.created_at).total_seconds() == 60
    shown = msgspec.json.encode(info)
    assert b"IDENTITY" not in shown
    assert b"PROOF" not in shown
    assert msgspec.json.encode(session.salt).strip(b'"') not in shown


def test_session_info_is_a_copy() -> None:
    session = a_session(metadata={"a": 1})
    session_info(Stored(session, 0, NOW), current=False).metadata["a"] = 2
    assert session.metadata == {"a": 1}


def test_every_time_that_a_record_may_hold_can_be_shown() -> None:
    for at in (0, MAX_TIME):
        session = a_session(created_at=at, renewed_at=at, authenticated_at=at)
        assert session_info(Stored(session, 0, at), current=False).created_at.tzinfo is UTC
