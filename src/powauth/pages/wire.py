"""The JSON form of users, sessions and times, for programs."""

from datetime import UTC, datetime
from typing import Any

from powauth.accounts.identity import key_text, stored_key
from powauth.pages.visit import PageVisit
from powauth.sessions.info import SessionInfo


def signed_in_json(visit: PageVisit, user: Any) -> dict[str, Any]:
    """Return the current user and the session of this request."""
    key = visit.auth.auth.key_of(user)
    session = visit.auth.session
    first, *others = visit.settings.user_ids
    # An identity of the app need not have the others.
    ids = {first: getattr(user, first)} | {name: getattr(user, name) for name in others if hasattr(user, name)}
    return {
        "user": {"id": key_text(stored_key(key)), **ids},
        "session": None if session is None else session_json(session),
    }


def session_json(session: SessionInfo) -> dict[str, Any]:
    """Return a session as its user may see it."""
    return {
        "id": session.sid,
        "current": session.current,
        "created_at": iso(session.created_at),
        "renewed_at": iso(session.renewed_at),
        "expires_at": iso(session.expires_at),
        "remembered": session.remembered,
        "ip": session.metadata.get("ip"),
        "user_agent": session.metadata.get("user_agent"),
    }


def iso(moment: datetime) -> str:
    """Return a time in UTC to the millisecond (RFC 3339)."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
