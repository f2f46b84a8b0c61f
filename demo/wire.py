"""What both apps say and accept, in JSON."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from powauth import InvalidParams, SessionInfo

from .config import Me

MAX_BODY_BYTES = 65_536
FRESH = timedelta(minutes=5)
"""How recent a sign-in must be to delete the account without giving the password again."""


class UnsupportedBody(Exception):
    """The body is not announced as JSON: 415, so that no form on another site can send it."""


class BodyTooLarge(Exception):
    """The body is longer than anything that this app takes: 413."""


def params_of(content_type: str | None, body: bytes) -> Mapping[str, object]:
    """The object in a JSON body; an absent body is an empty one."""
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
    """A user, as others may see them."""
    return {"id": str(user.id), "email": user.email, "created_at": _iso(user.created_at)}


def session_json(session: SessionInfo) -> dict[str, Any]:
    """A session, as its user may see it."""
    return {
        "id": session.id,
        "current": session.current,
        "created_at": _iso(session.created_at),
        "renewed_at": _iso(session.renewed_at),
        "expires_at": _iso(session.expires_at),
        "ip": session.metadata.get("ip"),
        "user_agent": session.metadata.get("user_agent"),
    }


def signed_in_json(user: Me, session: SessionInfo | None) -> dict[str, Any]:
    """Who is signed in, and by which session."""
    return {"user": user_json(user), "session": None if session is None else session_json(session)}


def deletion_params(params: Mapping[str, object], session: SessionInfo | None) -> Mapping[str, object] | None:
    """What proves that the user wants the account deleted: the password, or having signed in just now."""
    if "current_password" in params:
        return params
    if session is not None and datetime.now(UTC) - session.authenticated_at <= FRESH:
        return None
    raise InvalidParams({"current_password": ["is needed, because you signed in a while ago"]})


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
