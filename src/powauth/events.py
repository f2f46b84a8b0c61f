"""Typed events, each logged as one line of ASCII and passed to the app's own listener.

If a log or a listener fails, the operation that the event reports is not affected: it neither fails nor lets anything
through (ASVS 16.5.2). An event names a session by its sid, which opens nothing, and a user by the user's key. It never
holds an id, a salt, a password or input from a client.

docs/operating.md lists the events with their levels and meanings.
"""

import contextlib
import json
import logging
import re
from collections.abc import Callable
from datetime import datetime
from typing import Final, Literal, get_args
from uuid import UUID

import msgspec

from powauth._options import choice, matching, wrong
from powauth.errors import ConfigError

logger = logging.getLogger("powauth")

EventName = Literal[
    "signed_in",
    "sign_in_refused",
    "refused",
    "second_factor_required",
    "throttled",
    "signed_out",
    "sign_out_failed",
    "renewed",
    "forwarded",
    "reuse_detected",
    "expired",
    "revoked",
    "registered",
    "updated",
    "deleted",
    "forged_id",
    "unknown_id",
    "conflicting_ids",
    "unreadable_record",
    "store_unavailable",
    "mail_failed",
    "token_issued",
    "token_used",
    "token_refused",
]
"""The events of powauth itself. An extension declares its own: see `EventKind`."""

_WARNINGS = frozenset(
    {
        "reuse_detected",
        "throttled",
        "sign_out_failed",
        "conflicting_ids",
        "unreadable_record",
        "store_unavailable",
        "forwarded",
        "mail_failed",
    }
)


_QUIET = frozenset({"unknown_id"})
"""Logged at DEBUG. A browser that kept the id of an ended session sends it with every request."""


Severity = Literal["debug", "info", "warning"]
"""The level at which an event is logged."""

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING}

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,62}\Z")


class EventKind(msgspec.Struct, frozen=True):
    """An event that an extension declares in `Extension.events`, and emits with ``parts.emit``.

    >>> PLAYED = EventKind("song_played", "a song was played; ``detail`` is its number")

    Attributes:
        name: the name: lower-case letters, digits and underscores, at most 63. powauth has no event of this name.
        meaning: what happened, and the meaning of ``detail``, for the operator.
        severity: the level at which it is logged.

    Raises:
        ConfigError: if a value is wrong.
    """

    name: str
    meaning: str
    severity: Severity = "info"

    def __post_init__(self) -> None:
        matching("the name of an event", self.name, _NAME, "lower-case letters, digits and underscores")
        if self.name in get_args(EventName):
            raise ConfigError(f"powauth has an event {self.name!r} already: choose another name for the extension's")
        if not isinstance(self.meaning, str) or not self.meaning.strip():
            raise wrong(f"the meaning of the event {self.name}", "a sentence for the operator", self.meaning)
        choice(f"the severity of the event {self.name}", self.severity, *get_args(Severity))


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that an operator may want to know.

    Attributes:
        name: what happened: an `EventName`, or the name of an `EventKind` of an extension.
        at: the time in UTC.
        user_key: the key of the user whose session or account it concerns. In the log it is a text, as on the command
            line.
        sid: the public name of the session.
        ip: the client's address, if the app keeps metadata of sign-ins.
        detail: a reason, a count or the like. Never input from a client.
        actor: the key of the user who caused it, if that is known to be another one than ``user_key``.
    """

    name: str
    at: datetime
    user_key: int | str | UUID | None = None
    sid: str | None = None
    ip: str | None = None
    detail: str | None = None
    actor: int | str | UUID | None = None


Listener = Callable[[Event], None]


def severity_of(kind: EventName | EventKind) -> Severity:
    """Return the level at which an event is logged.

    >>> severity_of("throttled"), severity_of("signed_in")
    ('warning', 'info')
    """
    if isinstance(kind, str):
        return "warning" if kind in _WARNINGS else "debug" if kind in _QUIET else "info"
    return kind.severity


def emit(event: Event, severity: Severity) -> None:
    """Log an event as one line."""
    log(_LEVELS[severity], "%s %s", event.name, _Line(event))


def deliver(event: Event, listener: Listener, whose: str) -> None:
    """Pass an event to a listener. Log an error of the listener, which has no other effect."""
    try:
        listener(event)
    except Exception as error:
        log(logging.ERROR, "%s failed on the event %s", whose, event.name, error=error)


def log(level: int, message: str, *values: object, error: Exception | None = None) -> None:
    """Log a message. An error of a log handler is ignored, so that it does not fail the request.

    The traceback of ``error`` is logged without that of its context. Error collectors keep the variables of each frame,
    and those of a sign-in hold the password.
    """
    if error is not None:
        error.__suppress_context__ = True
    with contextlib.suppress(Exception):
        logger.log(level, message, *values, exc_info=error)


class _Line:
    """An event in JSON: ASCII without control characters, so that it cannot end the line or control a terminal.

    The text is made only when the line is written, so a disabled level costs nothing.
    """

    __slots__ = ("_event",)

    def __init__(self, event: Event) -> None:
        self._event = event

    def __str__(self) -> str:
        event = msgspec.structs.replace(
            self._event, user_key=_key_text(self._event.user_key), actor=_key_text(self._event.actor)
        )
        return json.dumps(msgspec.to_builtins(event), separators=(",", ":")).replace("\x7f", "\\u007f")


def _key_text(key: int | str | UUID | None) -> str | None:
    """Return a user's key as the command line writes it."""
    return None if key is None else key.hex if isinstance(key, UUID) else str(key)
