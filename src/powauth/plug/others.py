"""`Others`: the authenticators that extensions add beside that of the sessions, such as the one for API keys.

If a request presents credentials for one of them, this authenticator alone identifies the user, even if the credentials
are not valid. powauth then neither reads nor changes the session's cookie or token.
"""

from collections.abc import Sequence
from typing import Any, Generic

from powauth._options import instance
from powauth.accounts.identity import I
from powauth.errors import ConfigError
from powauth.http.carriers import BearerCarrier
from powauth.http.connection import Connection
from powauth.plug.authenticator import Authenticator
from powauth.plug.reader import RequestReader
from powauth.sessions.presence import Began, Elsewhere, Ended, State


class Others(Generic[I]):
    """Checks each request for other credentials first. If it finds none, it passes the request to the session reader.

    Args:
        reader: finds users by their sessions, and keeps the state of requests.
        session: the kind of credentials of the sessions.
        authenticators: the others.

    Raises:
        ConfigError: if one is no authenticator, or two have the same kind of credentials or of tokens.
    """

    __slots__ = ("_reader", "authenticators", "credentials")

    def __init__(self, reader: RequestReader[I], session: str, authenticators: Sequence[Authenticator[Any, I]]) -> None:
        prefixes = [each.carrier.prefix for each in reader.channels if isinstance(each.carrier, BearerCarrier)]
        for each in authenticators:
            instance("the authenticator of an extension", each, Authenticator, "an Authenticator")
            if any((each.bearer_format or "").lower().startswith(prefix.lower()) for prefix in prefixes):
                raise ConfigError(f"two kinds of tokens begin with {prefixes[0]!r}: give one of them another prefix")
        self._reader = reader
        self.authenticators = tuple(authenticators)
        self.credentials = (session, *(each.credential for each in authenticators))
        if len({*self.credentials}) < len(self.credentials):
            raise ConfigError(f"two authenticators have the same kind of credentials: {', '.join(self.credentials)}")

    def of(self, connection: Connection) -> Authenticator[Any, I] | None:
        """Return the authenticator whose credentials a request presents; ``None`` if it presents none of them."""
        for each in self.authenticators:
            if each.presents(connection):
                return each
        return None

    def vary(self, fields: tuple[bytes, ...]) -> tuple[bytes, ...]:
        """Return the request headers that identify the user, with those of the sessions first."""
        return tuple(dict.fromkeys([*fields, *(field for each in self.authenticators for field in each.vary)]))

    def scopes_of(self, identity: I) -> frozenset[str] | None:
        """Return the scopes of a user; see `Authenticator.scopes_of`."""
        found = (each.scopes_of(identity) for each in self.authenticators)
        return next((scopes for scopes in found if scopes is not None), None)

    async def read_state(self, connection: Connection) -> State[I]:
        """See `RequestReader.read_state`."""
        presence = self._reader.presence(connection)
        other = None if isinstance(presence, Began | Ended) else self.of(connection)
        if other is None:
            return await self._reader.read_state(connection)
        found: State[I] = Elsewhere(await other.fetch(connection))
        self._reader.set_presence(connection, found)
        return found
