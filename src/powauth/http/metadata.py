"""What a session keeps besides its user, and what of it anybody may see."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from powauth.accounts.addresses import client_address
from powauth.backends.base import Millis
from powauth.errors import MetadataTooLarge
from powauth.http.connection import Connection
from powauth.sessions.record import Metadata, encode_sid
from powauth.sessions.store import Stored

MAX_METADATA_BYTES = 4096
"""The longest encoded metadata of one session."""

MAX_USER_AGENT_CHARS = 256
"""What is kept of a ``User-Agent``: enough to tell devices apart, too little to fill a store with."""

MAX_IP_CHARS = 64
"""What is kept of an address: the longest of IPv6 has 45, but a proxy that is trusted may pass on anything."""

MetadataSource = Callable[[Connection], Metadata]


def default_metadata(connection: Connection) -> Metadata:
    """Where a session was begun: ``ip`` (64 characters) and ``user_agent`` (256): what is longer is cut."""
    agent = connection.header("user-agent")
    return {"ip": shown_address(connection), "user_agent": agent and agent[:MAX_USER_AGENT_CHARS]}


def shown_address(connection: Connection) -> str | None:
    """Return the client's address for people to read, without a port. What is no address is cut and else left as is."""
    reported = connection.client_ip()
    return client_address(reported) or (reported and reported[:MAX_IP_CHARS])


class SessionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A session as its user, or an administrator, may see it: nothing in here opens it.

    Attributes:
        id: the public id, for `RequestAuth.revoke`.
        current: whether it is the session of the request that asked.
        created_at: when the user signed in.
        renewed_at: when its id was last renewed.
        authenticated_at: when the user last proved who they are.
        expires_at: when it ends if it is not renewed.
        metadata: ``first_seen``, ``ip``, ``user_agent`` by default, and what the app added.
    """

    id: str
    current: bool
    created_at: datetime
    renewed_at: datetime
    authenticated_at: datetime
    expires_at: datetime
    metadata: Metadata


def session_info(stored: Stored, *, current: bool) -> SessionInfo:
    """What may be seen of a stored session."""
    session = stored.session
    return SessionInfo(
        id=encode_sid(session.sid),
        current=current,
        created_at=_utc(session.created_at),
        renewed_at=_utc(session.renewed_at),
        authenticated_at=_utc(session.authenticated_at),
        expires_at=_utc(stored.expires_at),
        metadata=dict(session.metadata),
    )


def _utc(millis: Millis) -> datetime:
    return datetime.fromtimestamp(millis / 1000, UTC)


_PLAIN = (str, int, float, bool, type(None))


def changed_metadata(metadata: Metadata, changes: Mapping[str, Any]) -> Metadata:
    """Return the metadata with ``changes``, in which ``None`` removes a key.

    Raises:
        MetadataTooLarge, TypeError: as `checked_metadata` does.
    """
    removed = {name for name, value in changes.items() if value is None}
    merged = {**metadata, **changes}
    return checked_metadata({name: value for name, value in merged.items() if name not in removed})


def checked_metadata(metadata: Mapping[str, Any]) -> Metadata:
    """The metadata, if it is flat, plain and short enough; refused whole otherwise.

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
