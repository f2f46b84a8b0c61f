"""The cross-site defence: a request that changes something must come from the app's own pages, or from a program.

Browsers name the origin of a request in headers that no page can forge: ``Sec-Fetch-Site`` (Fetch Metadata), ``Origin``
(RFC 6454, section 7) and ``Referer``. So the defence needs no token.
"""

import logging
import re
from collections.abc import Sequence

from powauth._options import wrong
from powauth.errors import CrossSiteRequest
from powauth.http.connection import Connection

logger = logging.getLogger("powauth")

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that change nothing (RFC 9110, section 9.2.1). They are case-sensitive: ``get`` is not one of them."""

_ORIGIN = re.compile(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?\Z")
"""A scheme, a host and optionally a port, with no user, path or blank."""

_SEVERAL_REFERERS = re.compile(r"[ \t]|,(?:[A-Za-z][A-Za-z0-9+.-]*://|\Z)")
"""Two ``Referer`` fields as one value. A comma without a blank may be part of a path or a query."""

_DEFAULT_PORTS = {"http": "80", "https": "443"}

_ON_THIS_MACHINE = re.compile(r"http://([a-z0-9._-]+\.)?(localhost|127\.0\.0\.1|\[::1\])(:|\Z)")
"""Origins for which Chromium and Firefox keep a ``Secure`` cookie also over plain http."""


class PlainHttpNote:
    """Tells the log, once, that the app's own pages are on plain http and that the cookie needs https.

    The request's scheme does not show it: behind a proxy that ends TLS, the scheme is ``http``, too. The ``Origin``
    comes from the browser, so it shows the scheme of the page. Any client can send such a request. So there is one line
    and not one for each request.
    """

    def __init__(self) -> None:
        self._told = False

    def tell(self, connection: Connection, what: str, *, remote: bool = False) -> None:
        """Log ``what`` has happened, if the request comes from the app's own page on plain http.

        Args:
            connection: the request.
            what: the beginning of the line.
            remote: only if browsers count the host as another machine than their own.
        """
        origin = None if self._told else connection.header("origin")
        if origin is None or _normalized(origin) != _own(connection, secure=False):
            return
        if remote and _ON_THIS_MACHINE.match(origin.lower()):
            return
        self._told = True
        logger.warning(
            "%s %.200r, which is on plain http, and the cookie needs https. Serve https; in development on plain http, "
            "give SessionAuth carrier=CookieCarrier(insecure_http=True)",
            what,
            origin,
        )


class CrossSiteDefence:
    """Refuses requests with an unsafe method unless they come from an allowed origin.

    1. ``Sec-Fetch-Site: same-origin`` passes. ``none`` passes too: the user typed the address. With any other value the
       ``Origin`` must be one of ``origins``.
    2. Without it (old browsers, plain http) the ``Origin`` must be the app's own or one of ``origins``, in scheme, host
       and port. ``null``, which sandboxed frames and data: pages send, never passes.
    3. Without an ``Origin`` too, the same rule applies to the origin of the ``Referer``.
    4. With none of the three, no browser's form sent the request. Only ``application/json`` passes. No browser sends
       that to another site without asking it first (Fetch, "CORS-safelisted request-header"). So programs need no
       special header.

    Two values of one of these headers are invalid. Two values of ``Host`` are refused: a proxy may have used the other.

    The app's own origin is the ``Host`` header with ``https``, whatever a proxy in front says (with ``http`` if the
    cookie is in development mode). If a proxy changes ``Host``, put the public origin into ``origins``.

    Args:
        origins: further origins that may send such requests, such as ``"https://shop.example"``. They act in the
            user's name.

    Raises:
        ConfigError: if one of them is not an origin.

    >>> CrossSiteDefence(["https://shop.example/"])
    Traceback (most recent call last):
    powauth.errors.ConfigError: an origin must be scheme://host or scheme://host:port, not 'https://shop.example/'
    """

    def __init__(self, origins: Sequence[str] = ()) -> None:
        if isinstance(origins, str):
            raise wrong("origins", f"a sequence of origins, such as [{origins!r}]", origins)
        self.origins = frozenset(_configured(origin) for origin in origins)
        self._plain_http = PlainHttpNote()

    def check(self, connection: Connection, method: str, *, secure: bool = True) -> None:
        """Raise if the request must be refused. ``secure`` says whether the app's own origin is on https.

        Raises:
            CrossSiteRequest: if the request must be refused.
        """
        if method not in SAFE_METHODS and not self._passes(connection, secure):
            if secure:
                self._plain_http.tell(connection, "refused a request of the app's own page")
            raise CrossSiteRequest("the request does not come from this app's own pages")

    def allows(self, connection: Connection, origin: str, *, secure: bool = True) -> bool:
        """Return whether ``origin``, as a browser sends it, is the request's own or one of ``origins``."""
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
    """Return the request's media type in lower case, without parameters. ``None`` if it has none."""
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
        raise wrong("an origin", "scheme://host or scheme://host:port", origin)
    return normal


def _normalized(origin: str) -> str | None:
    """Return the one spelling of an origin: lower case, without a default port. ``None`` if it is not an origin."""
    found = _ORIGIN.match(origin.lower()) if origin.isascii() else None
    if found is None:
        return None
    scheme, host, port = found.groups()
    return f"{scheme}://{host}" if port in (None, _DEFAULT_PORTS[scheme]) else found[0]
