"""What a session keeps by default of the request that signed in."""

from collections.abc import Callable

from powauth.accounts.addresses import client_address
from powauth.http.connection import Connection
from powauth.sessions.record import Metadata

MAX_USER_AGENT_CHARS = 256
"""Length of a stored ``User-Agent``: enough to tell devices apart, too little to fill a store."""

MAX_IP_CHARS = 64
"""Length of a stored address: the longest of IPv6 has 45, but a trusted proxy may pass on anything."""

MetadataSource = Callable[[Connection], Metadata]


def default_metadata(connection: Connection) -> Metadata:
    """Return where a session began: ``ip`` (64 characters) and ``user_agent`` (256). What is longer is cut."""
    agent = connection.header("user-agent")
    return {"ip": shown_address(connection), "user_agent": agent and agent[:MAX_USER_AGENT_CHARS]}


def shown_address(connection: Connection) -> str | None:
    """Return the client's address for people to read, without a port. What is no address is cut and else left as is."""
    reported = connection.client_ip()
    return client_address(reported) or (reported and reported[:MAX_IP_CHARS])
