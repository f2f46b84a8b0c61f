"""How the id travels between client and server: powauth's own cookie, or the framework's session.

The cookie is named ``__Host-…``, so that browsers accept it only over https, only from this host and for the whole of
it (RFC 6265bis, section 4.1.3.2): no sibling host and no page on plain http can plant one.
"""

import copy
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import MutableMapping
from typing import Any, Literal, Self

from powauth.errors import ConfigError, ConfigWarning, PowauthError
from powauth.http.connection import Connection

SameSite = Literal["Lax", "Strict", "None"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_DOMAIN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\Z")
_PATH = re.compile(r"/[A-Za-z0-9_./~-]{0,255}\Z")


class ConflictingIds(PowauthError):
    """The request carries several different ids; which is the user's own cannot be told, so none counts."""


class Carrier(ABC):
    """Where the client keeps the id."""

    name: str
    secure = True
    """Whether clients are to use https, as they must save in development."""

    def named(self, name: str) -> Self:
        """This carrier under the name that a `SessionAuth` gives it.

        Raises:
            ConfigError: if the name cannot be a cookie's.
        """
        if not isinstance(name, str) or not _NAME.match(name):
            raise ConfigError(f"session_key and app_name must be made of A-Z, a-z, 0-9, '_' and '-', not {name!r}")
        if name.lower().startswith(("__host-", "__secure-")):
            raise ConfigError(f"session_key must come without the prefix of {name!r}: the carrier adds it")
        named = copy.copy(self)
        named.name = name
        return named

    @abstractmethod
    def read(self, connection: Connection) -> str | None:
        """What the request presents, unverified; ``None`` if it presents nothing.

        Raises:
            ConflictingIds: if it presents several that differ.
        """

    @abstractmethod
    def write(self, connection: Connection, value: str) -> str | None:
        """Give the client an id; the ``Set-Cookie`` value that does it, if one is needed."""

    @abstractmethod
    def clear(self, connection: Connection) -> str | None:
        """Take the id from the client; the ``Set-Cookie`` value that does it, if one is needed."""

    def forget(self, connection: Connection) -> None:
        """Drop whatever else the client kept beside the id, because another user begins or this one ends."""
        del connection


class CookieCarrier(Carrier):
    """The id in a cookie of its own, for the browser's session only (no ``Max-Age``: NIST SP 800-63B, section 7.1.1).

    Args:
        same_site: ``Lax`` keeps the user signed in when a link from elsewhere leads to the app; ``Strict`` does not;
            ``None`` lets other sites send it. ``None`` warns, because the app's own handlers must then refuse requests
            of other sites: `powauth.guards.require_same_origin`.
        domain: share the cookie with the hosts below this one. Any of them can then plant one, and the ``__Host-`` name
            is lost: the cookie is named ``__Secure-…``.
        path: the only paths that get it. Other than ``/`` costs the ``__Host-`` name too.
        insecure_http: for development on plain http alone: no ``Secure``, and another name, which an app in secure mode
            does not look at. Warns.

    Raises:
        ConfigError: if an option is wrong or contradicts another.
    """

    def __init__(
        self,
        *,
        same_site: SameSite = "Lax",
        domain: str | None = None,
        path: str = "/",
        insecure_http: bool = False,
    ) -> None:
        if same_site not in ("Lax", "Strict", "None"):
            raise ConfigError(f"same_site must be 'Lax', 'Strict' or 'None', not {same_site!r}")
        if domain is not None and not (isinstance(domain, str) and _DOMAIN.match(domain)):
            raise ConfigError(f"domain must be a host name such as 'example.org', no leading dot, not {domain!r}")
        if not isinstance(path, str) or not _PATH.match(path):
            raise ConfigError(f"path must begin with '/' and hold no characters that a header cannot, not {path!r}")
        if insecure_http:
            if same_site == "None":
                raise ConfigError("same_site='None' needs Secure: browsers refuse it with insecure_http=True")
            warnings.warn(
                "insecure_http=True: the session id travels in clear and anybody on the way can take it; "
                "for development only",
                ConfigWarning,
                stacklevel=2,
            )
        if same_site == "None":
            warnings.warn(
                "same_site='None': pages of every other site can send requests with the user's cookie; refuse them in "
                "your own handlers with powauth.guards.require_same_origin, or its form for your framework, or use "
                "same_site='Lax'",
                ConfigWarning,
                stacklevel=2,
            )
        self.secure = not insecure_http
        self._prefix = "" if insecure_http else "__Secure-" if domain is not None or path != "/" else "__Host-"
        self._attributes = "".join(
            (
                f"; Path={path}",
                f"; Domain={domain}" if domain is not None else "",
                "" if insecure_http else "; Secure",
                "; HttpOnly",
                f"; SameSite={same_site}",
            )
        )

    def named(self, name: str) -> Self:
        """See `Carrier.named`."""
        return super().named(name)._prefixed()

    def _prefixed(self) -> Self:
        self.name = self._prefix + self.name
        self._named = f"; {self.name}="
        return self

    def read(self, connection: Connection) -> str | None:
        """The one value of the cookie; see `Carrier.read`.

        The name must match exactly, with only spaces and tabs around it (RFC 6265bis, section 5.4); no neighbour,
        however broken, can hide it, and no quoting or escape is undone.
        """
        own, cookies = self.name, connection.cookies()
        before, named, after = f"; {cookies}".partition(self._named)
        # What browsers send: the name once, after "; ", or not at all. Anything else is looked at pair by pair.
        if own not in before and own not in after:
            return after.partition(";")[0].strip(" \t") if named else None
        found: str | None = None
        for value in _values(cookies, own):
            if found is not None and found != value:
                raise ConflictingIds
            found = value
        return found

    def write(self, connection: Connection, value: str) -> str | None:
        """See `Carrier.write`."""
        return f"{self.name}={value}{self._attributes}"

    def clear(self, connection: Connection) -> str | None:
        """See `Carrier.clear`."""
        return f"{self.name}={self._attributes}; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"


def _values(header: str, own: str) -> list[str]:
    """The values of all cookies named ``own`` in a ``Cookie`` header."""
    values = []
    for pair in header.split(";"):
        name, equals, value = pair.strip(" \t").partition("=")
        if equals and name.rstrip(" \t") == own:
            values.append(value.lstrip(" \t"))
    return values


class FrameworkSessionCarrier(Carrier):
    """The id in the framework's own session: Starlette's `SessionMiddleware`, Flask's ``session``.

    The framework's cookie then holds the id, and its rules apply; powauth still decides who is signed in. At sign-out,
    and when another user signs in, the rest of the framework's session goes too, so that nobody inherits it.
    """

    def read(self, connection: Connection) -> str | None:
        """See `Carrier.read`."""
        value = self._session(connection).get(self.name)
        return value if isinstance(value, str) else None

    def write(self, connection: Connection, value: str) -> str | None:
        """See `Carrier.write`."""
        self._session(connection)[self.name] = value
        return None

    def clear(self, connection: Connection) -> str | None:
        """See `Carrier.clear`."""
        self._session(connection).pop(self.name, None)
        return None

    def forget(self, connection: Connection) -> None:
        """See `Carrier.forget`."""
        self._session(connection).clear()

    @staticmethod
    def _session(connection: Connection) -> MutableMapping[str, Any]:
        session = connection.session()
        if session is None:
            raise ConfigError("the framework has no session here: install its session middleware outside of powauth's")
        return session
