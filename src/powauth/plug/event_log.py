"""`EventLog`: emits the events of sessions and accounts."""

from collections.abc import Callable, Iterable
from typing import Any

from powauth._times import moment
from powauth.accounts.hooks import Extension
from powauth.accounts.identity import loaded_key
from powauth.backends.base import Millis
from powauth.events import Event, EventKind, EventName, Listener, deliver, emit, severity_of
from powauth.http.connection import Connection
from powauth.http.metadata import shown_address
from powauth.sessions.ids import encode_sid
from powauth.sessions.manager import Emit
from powauth.sessions.record import Session, StoredKey


class EventLog:
    """Emits the events of one authenticator.

    Args:
        now: the time in milliseconds.
        listener: the app's own, in addition to the log.
        with_ip: whether events hold the client's address.
    """

    __slots__ = ("_listeners", "_now", "_with_ip")

    def __init__(self, now: Callable[[], Millis], listener: Listener | None, *, with_ip: bool) -> None:
        self._now = now
        self._listeners: tuple[tuple[Listener, str], ...] = () if listener is None else ((listener, "on_event"),)
        self._with_ip = with_ip

    def deliver_to(self, extensions: Iterable[Extension[Any]]) -> None:
        """Deliver each later event to extensions, too, after the app's own listener."""
        self._listeners += tuple((each.on_event, f"the extension {each.name}") for each in extensions)

    def emit(
        self,
        name: EventName | EventKind,
        connection: Connection | None,
        session: Session | None = None,
        *,
        user_key: StoredKey | None = None,
        sid: bytes | None = None,
        detail: str | None = None,
        actor: StoredKey | None = None,
    ) -> None:
        """Emit an event about a request, a session or a user."""
        if session is not None:
            user_key, sid = session.user_key, session.sid
        event = Event(
            name=name if isinstance(name, str) else name.name,
            at=moment(self._now()),
            user_key=None if user_key is None else loaded_key(user_key),
            sid=None if sid is None else encode_sid(sid),
            ip=shown_address(connection) if connection is not None and self._with_ip else None,
            detail=detail,
            actor=None if actor is None or actor == user_key else loaded_key(actor),
        )
        emit(event, severity_of(name))
        for listener, whose in self._listeners:
            deliver(event, listener, whose)

    def about(self, connection: Connection | None) -> Emit:
        """Return a function that emits events about one request."""

        def emit_about(
            name: EventName,
            session: Session | None = None,
            *,
            user_key: StoredKey | None = None,
            sid: bytes | None = None,
            detail: str | None = None,
        ) -> None:
            self.emit(name, connection, session, user_key=user_key, sid=sid, detail=detail)

        return emit_about
