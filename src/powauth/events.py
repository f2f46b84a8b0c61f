"""What happened: typed events, each logged as one line of ASCII and handed to the app's own listener.

No log or listener that fails breaks what the event tells of, or lets anything through (ASVS 16.5.2). An event names
sessions by their sid, which opens nothing, and users by their key. It never holds an id, a salt, a password or what a
client sent.
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
"""Browsers that kept the id of a session which has ended send it with every request."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that an operator may want to know.

    Attributes:
        name: what happened.
        at: the time in UTC.
        user_key: whose session or account it concerns.
        session_id: the public id (sid) of the session.
        ip: where the request came from, if the app lets powauth know.
        detail: a word or a number more: a reason, a count. Never input from outside.
    """

    name: EventName
    at: datetime
    user_key: str | None = None
    session_id: str | None = None
    ip: str | None = None
    detail: str | None = None


Listener = Callable[[Event], None]


def emit(event: Event, listener: Listener | None) -> None:
    """Log the event and hand it to the listener. A listener that fails is logged and changes nothing else."""
    level = logging.WARNING if event.name in _WARNINGS else logging.DEBUG if event.name in _QUIET else logging.INFO
    log(level, "%s %s", event.name, _Line(event))
    if listener is not None:
        try:
            listener(event)
        except Exception as error:
            log(logging.ERROR, "the event listener failed on %s", event.name, error=error)


def log(level: int, message: str, *values: object, error: Exception | None = None) -> None:
    """Log, if the log can be written: a handler that raises is the operator's trouble, and not the request's.

    Of ``error``, its own traceback is logged, and not that of what was being handled when it came: collectors of
    errors keep the variables of each frame, and a sign-in's hold the password.
    """
    if error is not None:
        error.__suppress_context__ = True
    with contextlib.suppress(Exception):
        logger.log(level, message, *values, exc_info=error)


class _Line:
    """An event in JSON: ASCII without a control, so that nothing in it can end the line or steer a terminal.

    Made when the line is: a level that is off costs nothing.
    """

    __slots__ = ("_event",)

    def __init__(self, event: Event) -> None:
        self._event = event

    def __str__(self) -> str:
        return json.dumps(msgspec.to_builtins(self._event), separators=(",", ":")).replace("\x7f", "\\u007f")
