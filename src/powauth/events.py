"""What happened: typed events, each logged as one line and handed to the app's own listener.

An event names sessions by their sid, which opens nothing, and users by their key. It never holds an id, a salt, a
password or what a client sent.
"""

import logging
from collections.abc import Callable
from typing import Literal

import msgspec

from powauth.backends.base import Millis

logger = logging.getLogger("powauth")

EventName = Literal[
    "signed_in",
    "sign_in_refused",
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


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Something that an operator may want to know.

    Attributes:
        name: what happened.
        at: milliseconds since the Unix epoch.
        user_key: whose session or account it concerns.
        session_id: the public id (sid) of the session.
        ip: where the request came from, if the app lets powauth know.
        detail: a word or a number more: a reason, a count. Never input from outside.
    """

    name: EventName
    at: Millis
    user_key: str | None = None
    session_id: str | None = None
    ip: str | None = None
    detail: str | None = None


Listener = Callable[[Event], None]


def emit(event: Event, listener: Listener | None) -> None:
    """Log the event and hand it to the listener. A listener that fails is logged and changes nothing else."""
    level = logging.WARNING if event.name in _WARNINGS else logging.INFO
    if logger.isEnabledFor(level):
        logger.log(level, "%s %s", event.name, msgspec.json.encode(event).decode())
    if listener is not None:
        try:
            listener(event)
        except Exception:
            logger.exception("the event listener failed on %s", event.name)
