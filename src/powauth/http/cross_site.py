"""The cross-site defence: a request that changes something must come from the app's own pages, or from a program.

Browsers say where a request comes from, in headers that no page can forge: ``Sec-Fetch-Site`` (Fetch Metadata),
``Origin`` (RFC 6454, section 7) and ``Referer``. So there is no token to mint, store, mask, or fix in advance.
"""

import re
from collections.abc import Sequence

from powauth.errors import ConfigError, CrossSiteRequest
from powauth.http.connection import Connection

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that change nothing (RFC 9110, section 9.2.1). Case counts: ``get`` is none of them."""

_ORIGIN = re.compile(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?\Z")
"""A scheme, a host, a port perhaps, and nothing else: no user, no path, no blank."""

_SEVERAL_REFERERS = re.compile(r"[ \t]|,(?:[A-Za-z][A-Za-z0-9+.-]*://|\Z)")
"""Two ``Referer`` fields as one value. A comma may also be part of a path or a query, where no blank is."""

_DEFAULT_PORTS = {"http": "80", "https": "443"}


class CrossSiteDefence:
    """Refuses requests with an unsafe method unless they come from an allowed origin.

    1. ``Sec-Fetch-Site: same-origin`` passes, and ``none``: the user typed it. With any other value the ``Origin`` must
       be one of ``origins``.
    2. Without it (old browsers; plain http) the ``Origin`` must be the app's own or one of ``origins``: scheme, host
       and port. ``null``, which sandboxed frames and data: pages send, never is.
    3. Without that too, the same is asked of the ``Referer``'s origin.
    4. With none of the three it was no browser's form. Only ``application/json`` passes, which no browser sends to
       another site without asking first (Fetch, "CORS-safelisted request-header"): so programs need no ceremony.

    Two values of one of these headers are no valid value, and two of ``Host`` are refused: nobody can tell which one a
    proxy has looked at.

    The own origin is made of the ``Host`` header and of ``https``, whatever a proxy in front says; of ``http`` where
    the cookie is in development mode. A proxy that changes ``Host`` needs the public origin in ``origins``.

    Args:
        origins: further origins that may send such requests, such as ``"https://shop.example"``: all that they do is
            done in the user's name.

    Raises:
        ConfigError: if one is no origin.

    >>> CrossSiteDefence(["https://shop.example/"])
    Traceback (most recent call last):
    powauth.errors.ConfigError: an origin is scheme://host or scheme://host:port, not 'https://shop.example/'
    """

    def __init__(self, origins: Sequence[str] = ()) -> None:
        if isinstance(origins, str):
            raise ConfigError(f"origins must be a sequence of origins, such as [{origins!r}]")
        self.origins = frozenset(_configured(origin) for origin in origins)

    def check(self, connection: Connection, method: str, *, secure: bool = True) -> None:
        """Pass, or raise. ``secure`` is the carrier's: whether the own origin is on https.

        Raises:
            CrossSiteRequest: if the request is to be refused.
        """
        if method not in SAFE_METHODS and not self._passes(connection, secure):
            raise CrossSiteRequest("the request does not come from this app's own pages")

    def allows(self, connection: Connection, origin: str, *, secure: bool = True) -> bool:
        """Whether ``origin``, as a browser sends it, is the request's own or one of `origins`."""
        normal = _normalized(origin)
        if normal is None or _has_several_hosts(connection):
            return False
        return normal in self.origins or normal == _own(connection, secure)

    def _passes(self, connection: Connection, secure: bool) -> bool:
        if _has_several_hosts(connection):
            return False
        site, origin = connection.header("sec-fetch-site"), connection.header("origin")
        if site is not None:
            return site in ("same-origin", "none") or (origin is not None and _normalized(origin) in self.origins)
        if origin is not None:
            return self.allows(connection, origin, secure=secure)
        referer = connection.header("referer")
        if referer is not None:
            if _SEVERAL_REFERERS.search(referer):
                return False
            scheme, separator, rest = referer.partition("://")
            host = rest.partition("/")[0].partition("?")[0].partition("#")[0]
            return self.allows(connection, scheme + separator + host, secure=secure)
        return media_type(connection) == "application/json"


def media_type(connection: Connection) -> str | None:
    """The request's media type in lower case, without parameters; ``None`` if it names none."""
    content_type = connection.header("content-type")
    return None if content_type is None else content_type.partition(";")[0].strip(" \t").lower()


def _has_several_hosts(connection: Connection) -> bool:
    return "," in (connection.header("host") or "")


def _own(connection: Connection, secure: bool) -> str | None:
    host = connection.header("host")
    return None if host is None else _normalized(f"{'https' if secure else 'http'}://{host}")


def _configured(origin: str) -> str:
    normal = _normalized(origin) if isinstance(origin, str) else None
    if normal is None:
        raise ConfigError(f"an origin is scheme://host or scheme://host:port, not {origin!r}")
    return normal


def _normalized(origin: str) -> str | None:
    """One spelling for each origin: lower case, without the scheme's default port. ``None`` for what is no origin."""
    found = _ORIGIN.match(origin.lower()) if origin.isascii() else None
    if found is None:
        return None
    scheme, host, port = found.groups()
    return f"{scheme}://{host}" if port in (None, _DEFAULT_PORTS[scheme]) else found[0]
