"""The default metadata of a session, taken from the request that signed in."""

from collections.abc import Callable

from powauth.accounts.addresses import client_address
from powauth.http.connection import Connection
from powauth.sessions.record import Metadata

MAX_USER_AGENT_CHARS = 256
"""Length of a stored ``User-Agent``: enough to tell devices apart, too little to fill a store."""

MAX_IP_CHARS = 64
"""Length of a stored address. An IPv6 address has at most 45, but a trusted proxy may pass on any text."""

MetadataSource = Callable[[Connection], Metadata]


def default_metadata(connection: Connection) -> Metadata:
    """Return the ``ip`` (64 characters) and the ``user_agent`` (256) of a request. Longer values are cut."""
    agent = connection.header("user-agent")
    return {"ip": shown_address(connection), "user_agent": agent and agent[:MAX_USER_AGENT_CHARS]}


def shown_address(connection: Connection) -> str | None:
    """Return the client's address without a port. Text that is no address is only cut to `MAX_IP_CHARS`."""
    reported = connection.client_ip()
    return client_address(reported) or (reported and reported[:MAX_IP_CHARS])
