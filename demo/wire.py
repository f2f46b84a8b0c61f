"""The JSON that both apps send and accept."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from powauth import InvalidParams, SessionInfo

from .identity import Me

MAX_BODY_BYTES = 65_536
FRESH = timedelta(minutes=5)
"""Maximum age of a sign-in to delete the account without the password."""


class UnsupportedBody(Exception):
    """The body's type is not JSON. The apps answer 415, so that no form on another site can send it."""


class BodyTooLarge(Exception):
    """The body is longer than `MAX_BODY_BYTES`. The apps answer 413."""


def params_of(content_type: str | None, body: bytes) -> Mapping[str, object]:
    """Return the object in a JSON body. A missing body counts as an empty object."""
    if not body:
        return {}
    if len(body) > MAX_BODY_BYTES:
        raise BodyTooLarge
    if (content_type or "").partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedBody
    try:
        params = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise InvalidParams({"base": ["must be a JSON object"]}) from error
    return params


def user_json(user: Me) -> dict[str, Any]:
    """Return the JSON of a user."""
    return {"id": str(user.id), "email": user.email, "created_at": _iso(user.created_at)}


def session_json(session: SessionInfo) -> dict[str, Any]:
    """Return the JSON of a session, for its user."""
    return {
        "id": session.sid,
        "current": session.current,
        "created_at": _iso(session.created_at),
        "renewed_at": _iso(session.renewed_at),
        "expires_at": _iso(session.expires_at),
        "ip": session.metadata.get("ip"),
        "user_agent": session.metadata.get("user_agent"),
    }


def signed_in_json(user: Me, session: SessionInfo | None) -> dict[str, Any]:
    """Return the JSON of the current user and session."""
    return {"user": user_json(user), "session": None if session is None else session_json(session)}


def deletion_params(params: Mapping[str, object], session: SessionInfo | None) -> Mapping[str, object] | None:
    """Return the params with the current password; ``None`` if the sign-in is recent enough to need no password.

    Raises:
        InvalidParams: if the password is needed and missing.
    """
    if "current_password" in params:
        return params
    if session is not None and datetime.now(UTC) - session.authenticated_at <= FRESH:
        return None
    raise InvalidParams({"current_password": ["is needed, because you signed in a while ago"]})


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
