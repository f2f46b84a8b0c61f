"""Typed events, each logged as one line of ASCII and passed to the app's own listener.

If a log or a listener fails, the operation that the event reports is not affected: it neither fails nor lets anything
through (ASVS 16.5.2). An event names a session by its sid, which opens nothing, and a user by the user's key. It never
holds an id, a salt, a password or input from a client.

docs/operating.md lists the events with their levels and meanings.
"""

import contextlib
import json
import logging
from collections.abc import Callable
from datetime import datetime
from typing import Literal

import msgspec

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
]

_WARNINGS = frozenset(
    {
        "reuse_detected",
        "throttled",
        "sign_out_failed",
        "conflicting_ids",
        "unreadable_record",
        "store_unavailable",
        "forwarded",
    }
)


_QUIET = frozenset({"unknown_id"})
"""Logged at DEBUG. A browser that kept the id of an ended session sends it with every request."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that an operator may want to know.

    Attributes:
        name: what happened.
        at: the time in UTC.
        user_key: the key of the user whose session or account it concerns.
        sid: the public name of the session.
        ip: the client's address, if the app keeps metadata of sign-ins.
        detail: a reason, a count or the like. Never input from a client.
    """

    name: EventName
    at: datetime
    user_key: str | None = None
    sid: str | None = None
    ip: str | None = None
    detail: str | None = None


Listener = Callable[[Event], None]


def emit(event: Event, listener: Listener | None) -> None:
    """Log the event and pass it to the listener. An error of the listener is logged and has no other effect."""
    level = logging.WARNING if event.name in _WARNINGS else logging.DEBUG if event.name in _QUIET else logging.INFO
    log(level, "%s %s", event.name, _Line(event))
    if listener is not None:
        try:
            listener(event)
        except Exception as error:
            log(logging.ERROR, "the event listener failed on %s", event.name, error=error)


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
        return json.dumps(msgspec.to_builtins(self._event), separators=(",", ":")).replace("\x7f", "\\u007f")
