"""The public view of a session, and the metadata that an app keeps about it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from powauth._times import moment
from powauth.errors import MetadataTooLarge
from powauth.sessions.ids import encode_sid
from powauth.sessions.record import Metadata
from powauth.sessions.store import Stored

MAX_METADATA_BYTES = 4096
"""The largest size of one session's encoded metadata."""

_PLAIN = (str, int, float, bool, type(None))


class SessionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A session as its user or an administrator may see it. It holds no secret that opens the session.

    Attributes:
        sid: the public name of the session, for `RequestAuth.revoke`. It is not the id that the client holds.
        current: whether it is the session of the current request.
        created_at: when the user signed in.
        renewed_at: when its id was last renewed.
        authenticated_at: when the user last proved who they are; 1970 if powauth does not know (``fresh=False``).
        expires_at: when it ends if it is not renewed.
        remembered: whether it outlives the browser's own session.
        metadata: ``first_seen``, ``ip``, ``user_agent`` by default, and the app's own. It holds values of JSON's
            plain types, so ``first_seen`` is a number: milliseconds since the Unix epoch.
        amr: the ways in which the user has proven who they are, for this session, with the time of each: ``"pwd"`` for
            a password, and what second factors add, such as ``"otp"`` and ``"mfa"`` (RFC 8176).
    """

    sid: str
    current: bool
    created_at: datetime
    renewed_at: datetime
    authenticated_at: datetime
    expires_at: datetime
    remembered: bool
    metadata: Metadata
    amr: Mapping[str, datetime] = {}


def session_info(stored: Stored, *, current: bool) -> SessionInfo:
    """Return the public view of a stored session."""
    session = stored.session
    return SessionInfo(
        sid=encode_sid(session.sid),
        current=current,
        created_at=moment(session.created_at),
        renewed_at=moment(session.renewed_at),
        authenticated_at=moment(session.authenticated_at),
        expires_at=moment(stored.expires_at),
        remembered=session.remembered,
        metadata=dict(session.metadata),
        amr={method: moment(at) for method, at in session.amr.items()},
    )


def changed_metadata(metadata: Metadata, changes: Mapping[str, Any]) -> Metadata:
    """Return the metadata with ``changes`` made. A value of ``None`` removes a key.

    Raises:
        MetadataTooLarge, TypeError: as `checked_metadata` does.
    """
    removed = {name for name, value in changes.items() if value is None}
    merged = {**metadata, **changes}
    return checked_metadata({name: value for name, value in merged.items() if name not in removed})


def checked_metadata(metadata: Mapping[str, Any]) -> Metadata:
    """Return the metadata if all of it is flat, plain and short enough.

    Raises:
        MetadataTooLarge: if it is over `MAX_METADATA_BYTES`.
        TypeError: if a value is not of JSON's plain types, or an integer is over 64 bits.
    """
    for name, value in metadata.items():
        if not isinstance(name, str) or not isinstance(value, _PLAIN):
            raise TypeError(f"session metadata {name!r} must be a string, a number, a boolean or None")
    try:
        size = len(msgspec.msgpack.encode(metadata))
    except (OverflowError, UnicodeEncodeError) as error:
        raise TypeError("session metadata must be of integers of 64 bits and of text that UTF-8 can hold") from error
    if size > MAX_METADATA_BYTES:
        raise MetadataTooLarge(
            f"session metadata may take {MAX_METADATA_BYTES} bytes; keep what is larger in a database"
        )
    return dict(metadata)
