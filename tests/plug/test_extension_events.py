"""Events of extensions: declared, checked, logged, and delivered to the app and to other extensions."""

import json
import logging
from typing import Any, ClassVar, Self

import pytest

from harness.support import Me
from harness.visits import PASSWORD, SmallApp
from powauth import ConfigError, Event, EventKind, Extension, Parts, Step
from powauth.backends.base import drive
from powauth.integrations.signals import Signals

ADA = "ada@example.org"
PLAYED = EventKind("song_played", "a song was played; `detail` is its number")
MISSED = EventKind("note_missed", "a note was missed", "warning")
TUNED = EventKind("tuned", "an instrument was tuned", "debug")


class Band(Extension[Me]):
    """Plays at each sign-in."""

    name = "band"
    events: ClassVar[tuple[EventKind, ...]] = (PLAYED, MISSED, TUNED)
    parts: Parts[Me]

    def bind(self, parts: Parts[Me]) -> Self:
        bound = type(self)()
        bound.parts = parts
        return bound

    async def after(self, step: Step[Me]) -> None:
        if step.flow == "sign_in":
            self.parts.emit(PLAYED, step.key, "7", request=step.request)


class Hearing(Extension[Me]):
    """Keeps every event."""

    name = "hearing"

    def __init__(self, heard: list[Event], failure: Exception | None = None) -> None:
        self.heard = heard
        self.failure = failure

    def on_event(self, event: Event) -> None:
        self.heard.append(event)
        if self.failure is not None:
            raise self.failure


def test_an_event_of_an_extension_reaches_the_app_and_names_the_request() -> None:
    app = SmallApp(extensions=[Band()])
    app.client().sign_in()
    (signed_in, played) = app.events
    assert (played.name, played.detail, played.user_key) == ("song_played", "7", app.ada.id)
    assert (played.ip, played.sid, played.at) == (signed_in.ip, signed_in.sid, signed_in.at)
    assert played.ip is not None
    assert played.sid is not None
    assert played.actor is None


@pytest.mark.parametrize(("kind", "level"), [(PLAYED, logging.INFO), (MISSED, logging.WARNING), (TUNED, logging.DEBUG)])
def test_an_event_is_logged_at_the_level_that_the_extension_declares(
    kind: EventKind, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "powauth")
    app = SmallApp(extensions=[Band()])
    app.auth.extension(Band).parts.emit(kind, app.ada.id, "a\r\n\x1b[2J\u202e", actor="the conductor")
    (record,) = [record for record in caplog.records if record.getMessage().startswith(kind.name)]
    assert record.levelno == level
    line = record.getMessage()
    assert line.isascii()
    assert line.isprintable()
    event = json.loads(line.partition(" ")[2])
    assert (event["name"], event["user_key"], event["actor"]) == (kind.name, app.ada.id, "the conductor")


def test_the_actor_is_named_only_if_it_is_another_user() -> None:
    app = SmallApp(extensions=[Band()])
    app.auth.extension(Band).parts.emit(PLAYED, app.ada.id, actor=app.ada.id)
    assert app.events[-1].actor is None


def test_other_extensions_get_every_event_after_the_app() -> None:
    heard: list[Event] = []
    app = SmallApp(extensions=[Hearing(heard), Band()])
    client = app.client()
    client.sign_in()
    client.send(lambda auth: auth.sign_out())
    assert [event.name for event in heard] == ["signed_in", "song_played", "signed_out"]
    assert heard == app.events


def test_log_01_an_extension_that_fails_on_an_event_breaks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Event] = []
    app = SmallApp(extensions=[Hearing(heard, RuntimeError("full")), Hearing(heard)])
    client = app.client()
    assert client.send(lambda auth: auth.sign_in(email=ADA, password="wrong")).status == 200
    assert client.who() is None
    client.sign_in()
    assert client.who() == ADA
    drive(app.auth.revoke_user(app.ada))
    assert client.who() is None
    assert [event.name for event in heard[::2]] == ["sign_in_refused", "signed_in", "revoked", "unknown_id"]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert errors[0].getMessage() == "the extension hearing failed on the event sign_in_refused"
    assert errors[0].exc_info is not None
    assert PASSWORD not in caplog.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("signed_in", "x"), "powauth has an event 'signed_in' already: choose another name for the extension's"),
        (("Song", "x"), "the name of an event must be lower-case letters, digits and underscores, not 'Song'"),
        (("song\n", "x"), "the name of an event must be lower-case letters"),
        (("x" * 64, "x"), "the name of an event must be lower-case letters"),
        ((7, "x"), "the name of an event must be lower-case letters"),
        (("song", " "), "the meaning of the event song must be a sentence for the operator"),
        (("song", "x", "error"), "the severity of the event song must be 'debug', 'info' or 'warning', not 'error'"),
    ],
)
def test_a_wrong_declaration_is_refused(values: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        EventKind(*values)


def test_two_extensions_have_no_different_events_of_one_name() -> None:
    class Orchestra(Extension[Me]):
        name = "orchestra"
        events = (EventKind("song_played", "another meaning"),)

    with pytest.raises(ConfigError, match="'band' and 'orchestra' have an event 'song_played' each: rename one"):
        SmallApp(extensions=[Band(), Orchestra()])


def test_two_extensions_may_declare_the_same_event() -> None:
    class Choir(Extension[Me]):
        name = "choir"
        events = (PLAYED,)

    app = SmallApp(extensions=[Band(), Choir()])
    app.client().sign_in()
    assert app.event_names == ["signed_in", "song_played"]


def test_a_declaration_must_be_a_kind() -> None:
    class Solo(Extension[Me]):
        name = "solo"
        events: ClassVar[Any] = ("song_played",)

    with pytest.raises(ConfigError, match="each of the events of solo must be an EventKind, not str"):
        SmallApp(extensions=[Solo()])


def test_a_signal_of_an_extensions_event() -> None:
    signals, heard = Signals(), []

    def hear(sender: object, event: Event) -> None:
        heard.append(event.name)

    signals[PLAYED].connect(hear)
    app = SmallApp(extensions=[Band()], on_event=signals)
    app.client().sign_in()
    app.auth.extension(Band).parts.emit(TUNED)  # nobody has asked for its signal
    assert heard == ["song_played"]
    assert signals[PLAYED] is signals[PLAYED]
