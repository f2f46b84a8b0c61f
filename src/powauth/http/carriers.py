"""Carriers of the id between client and server: a cookie, a bearer token, or the framework's session.

The cookie is named ``__Host-…``. Browsers accept such a cookie only over https, only from this host and only for all of
its paths (RFC 6265bis, section 4.1.3.2). So no sibling host and no page on plain http can plant one.
"""

import copy
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import MutableMapping
from typing import Any, ClassVar, Literal, Self

from powauth._options import choice, flag, matching
from powauth.errors import ConfigError, ConfigWarning, PowauthError
from powauth.http.connection import Connection, Credentials, Effects
from powauth.http.cross_site import PlainHttpNote

SameSite = Literal["Lax", "Strict", "None"]

MAX_AGE = 400 * 24 * 3600
"""400 days in seconds. Browsers keep no cookie longer (RFC 6265bis, section 5.5)."""

USER_SUFFIX = ".user"
"""The suffix of the key under which a framework's session keeps the user who was signed in last."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")
_DOMAIN = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?\Z")
_PATH = re.compile(r"/[A-Za-z0-9_./~-]{0,255}\Z")
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}\Z")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,31}\Z")
_PREFIX = re.compile(r"[A-Za-z0-9]{1,16}_\Z")


class SeveralIds(PowauthError):
    """The request carries several different values under one name.

    Attributes:
        values: the values, without duplicates.
    """

    def __init__(self, values: tuple[str, ...]) -> None:
        super().__init__("several values under one name")
        self.values = values


class Carrier(ABC):
    """Moves the id between client and server.

    Attributes:
        kind: the kind of carrier. An id of one kind is not valid for another.
        name: the name given to `named`, with the carrier's own prefix.
        secure: whether clients must use https. It is false only in development.
        ambient: whether browsers add the id to requests automatically, for pages of any site.
        vary: the request headers that it reads.
    """

    __slots__ = ("name",)  # `copy` gives an object without slots a dict, and each later look-up is slower

    kind: ClassVar[str]
    name: str
    secure: bool = True
    ambient: bool = True
    vary: tuple[bytes, ...] = (b"Cookie",)

    def named(self, name: str) -> Self:
        """Return this carrier under the name that a `SessionAuth` gives it.

        Raises:
            ConfigError: if the name is not valid for a cookie.
        """
        matching("session_key (with app_name)", name, _NAME, "1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'")
        if name.lower().startswith(("__host-", "__secure-")):
            raise ConfigError(f"session_key must come without the prefix of {name!r}: the carrier adds it")
        named = copy.copy(self)
        named.name = name
        return named

    def read(self, connection: Connection) -> str | None:
        """Return the value that the request presents, unverified; ``None`` if it presents none.

        Raises:
            SeveralIds: if it presents several values that differ.
        """
        return self.find(connection, connection.credentials())

    @abstractmethod
    def find(self, connection: Connection, credentials: Credentials) -> str | None:
        """Return the result of `read`. ``credentials`` are those of the request, which the caller has looked for."""

    @abstractmethod
    def write(self, connection: Connection, value: str, max_age: int | None = None) -> Effects:
        """Give the client an id to keep for ``max_age`` seconds, or for the browser's session."""

    @abstractmethod
    def clear(self, connection: Connection) -> Effects:
        """Remove the id from the client."""

    def challenge(self, connection: Connection) -> str:
        """Return the challenge of this carrier in the ``WWW-Authenticate`` of a 401 (RFC 9110, section 11.6.1).

        No scheme is registered for a cookie. ``APIKey`` is the name that FastAPI gives it.
        """
        del connection
        return "APIKey"

    def prepare(self, connection: Connection, user: str) -> None:
        """Prepare for a sign-in. ``user`` is a text that identifies the user, the same at each of their sign-ins.

        Raises:
            ConfigError: if the sign-in would be open to session fixation.
        """

    def forget(self, connection: Connection) -> None:
        """Delete the data that the client keeps beside the id, because the user's session ends."""


class CookieCarrier(Carrier):
    """Keeps the id in its own cookie, which lasts as long as the browser's session unless the user is remembered.

    Args:
        same_site: with ``Lax`` the user stays signed in after following a link from another site, with ``Strict`` not.
            ``None`` lets other sites send the cookie. It warns, because the app's own handlers must then refuse
            requests of other sites: `powauth.http.guards.require_same_origin`.
        domain: share the cookie with the hosts below this one. Any of them can then plant one, and the ``__Host-`` name
            is lost: the cookie is named ``__Secure-…``.
        path: the path below which browsers send it. With any path but ``/`` the ``__Host-`` name is lost, too.
        partitioned: keep one cookie for each site in which the app is embedded (CHIPS). It needs ``same_site="None"``.
        insecure_http: for development on plain http only. The cookie has no ``Secure``, and a name that an app in
            secure mode ignores. Warns.

    Raises:
        ConfigError: if an option is wrong or contradicts another.
    """

    __slots__ = ("_attributes", "_named", "_plain_http", "_prefix", "secure")

    kind = "cookie"

    def __init__(
        self,
        *,
        same_site: SameSite = "Lax",
        domain: str | None = None,
        path: str = "/",
        partitioned: bool = False,
        insecure_http: bool = False,
    ) -> None:
        choice("same_site", same_site, "Lax", "Strict", "None")
        if domain is not None:
            matching("domain", domain, _DOMAIN, "a host name without a leading dot, such as 'example.org'")
        matching("path", path, _PATH, "a path such as '/shop', of A-Z, a-z, 0-9, '_', '.', '/', '~' and '-'")
        flag("partitioned", partitioned)
        flag("insecure_http", insecure_http)
        if partitioned and same_site != "None":
            raise ConfigError("partitioned=True needs same_site='None': the cookie is for pages on other sites")
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
                "your own handlers with powauth.http.guards.require_same_origin, or its form for your framework, or "
                "use same_site='Lax'",
                ConfigWarning,
                stacklevel=2,
            )
        self.secure = not insecure_http
        self._plain_http = PlainHttpNote()
        self._prefix = "" if insecure_http else "__Secure-" if domain is not None or path != "/" else "__Host-"
        self._attributes = "".join(
            (
                f"; Path={path}",
                f"; Domain={domain}" if domain is not None else "",
                "" if insecure_http else "; Secure",
                "; HttpOnly",
                f"; SameSite={same_site}",
                "; Partitioned" if partitioned else "",
            )
        )

    def named(self, name: str) -> Self:
        """See `Carrier.named`."""
        named = super().named(name)
        named.name = named._prefix + name
        named._named = f"; {named.name}="
        return named

    def find(self, connection: Connection, credentials: Credentials) -> str | None:
        """Return the value of the cookie; see `Carrier.find`.

        The name must match exactly, with only spaces and tabs around it (RFC 6265bis, section 5.4). No other cookie can
        hide it, however malformed. Quotes and escapes in the value are left as they are.
        """
        own, cookies = self.name, credentials[0]
        before, named, after = f"; {cookies}".partition(self._named)
        # Browsers normally send the name once or never, after "; ". Parse anything else pair by pair.
        if own not in before and own not in after:
            return after.partition(";")[0].strip(" \t") if named else None
        found = tuple(dict.fromkeys(_values(cookies, own)))
        if len(found) > 1:
            raise SeveralIds(found)
        return found[0] if found else None

    def write(self, connection: Connection, value: str, max_age: int | None = None) -> Effects:
        """See `Carrier.write`."""
        if self.secure:
            self._plain_http.tell(connection, "sent a cookie that the browser drops to the page", remote=True)
        kept = "" if max_age is None else f"; Max-Age={min(max_age, MAX_AGE)}"
        return Effects((f"{self.name}={value}{self._attributes}{kept}",), no_store=True)

    def clear(self, connection: Connection) -> Effects:
        """See `Carrier.clear`."""
        expired = f"{self.name}={self._attributes}; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
        return Effects((expired,), no_store=True)

    _named: str


def _values(header: str, own: str) -> list[str]:
    """Return the values of all cookies named ``own`` in a ``Cookie`` header."""
    values = []
    for pair in header.split(";"):
        name, equals, value = pair.strip(" \t").partition("=")
        if equals and name.rstrip(" \t") == own:
            values.append(value.lstrip(" \t"))
    return values


class BearerCarrier(Carrier):
    """Keeps the id in ``Authorization: Bearer pow_<id>`` (RFC 6750, section 2.1), for mobile and command-line clients.

    The server's endpoint chooses it with ``sign_in(…, bearer=True)``. powauth does not read a token from a query or a
    form, because both end up in logs.

    Args:
        header: the response header that carries a renewed id. It is empty once the session has ended.
        prefix: text before each id. Scanners for leaked secrets recognize it. powauth ignores tokens without it. The
            underscore is in no credential that a browser sends by itself, whatever the scheme: Basic and Negotiate are
            base64.
        scheme: the word before the token, in any case, for clients that send ``Authorization: Token …`` already.

    Raises:
        ConfigError: if an option is wrong.
    """

    __slots__ = ("_scheme", "header", "prefix", "scheme")

    kind = "bearer"
    ambient = False
    vary = (b"Authorization",)

    def __init__(self, *, header: str = "Powauth-Token", prefix: str = "pow_", scheme: str = "Bearer") -> None:
        self.header = matching("header", header, _HEADER, "the name of a header, such as 'Powauth-Token'")
        self.prefix = matching("prefix", prefix, _PREFIX, "1 to 16 letters or digits and an underscore, such as 'pow_'")
        self.scheme = matching("scheme", scheme, _SCHEME, "one word, such as 'Bearer' or 'Token'")
        self._scheme = self.scheme.lower()

    def find(self, connection: Connection, credentials: Credentials) -> str | None:
        """See `Carrier.find`. This ignores credentials of another scheme and tokens of another issuer.

        The field holds one credential (RFC 9110, section 11.6.2). If there is a list, or several fields, which are read
        as a list, the first one counts, and what follows makes it invalid.
        """
        scheme, _, token = (credentials[1] or "").partition(" ")
        token = token.strip(" ")
        if scheme.lower() != self._scheme or not token.startswith(self.prefix):
            return None
        return token[len(self.prefix) :]

    def write(self, connection: Connection, value: str, max_age: int | None = None) -> Effects:
        """See `Carrier.write`."""
        return self._sent(self.token(value))

    def clear(self, connection: Connection) -> Effects:
        """See `Carrier.clear`."""
        return self._sent("")

    def challenge(self, connection: Connection) -> str:
        """See `Carrier.challenge`. It names an error only if the request presents a token (RFC 6750, section 3.1)."""
        realm = f'{self.scheme} realm="{self.name}"'
        return realm if self.read(connection) is None else f'{realm}, error="invalid_token"'

    def token(self, value: str) -> str:
        """Return the token that the client keeps for an id."""
        return self.prefix + value

    def _sent(self, token: str) -> Effects:
        return Effects(headers=((self.header, token), ("Access-Control-Expose-Headers", self.header)), no_store=True)


class FrameworkSessionCarrier(Carrier):
    """Keeps the id in the framework's own session: Starlette's ``SessionMiddleware``, Flask's ``session``.

    The framework's cookie then holds the id, and its rules apply. powauth still decides who is signed in.

    A sign-in renews the framework's session id. It keeps an anonymous visitor's data in the session. It deletes the
    data of another user who was signed in, even if that user's session has expired. A sign-out deletes all data.

    powauth knows the sessions of Starlette, Litestar and Flask that are whole in the client's cookie, and the libraries
    Flask-Session and starsessions, which renew the id of a session on the server. It refuses a sign-in with others.

    Args:
        client_side: the framework's session is whole in the client's cookie, and no part of it is on the server. Give
            it for a session middleware that powauth does not know. Wrong use allows session fixation.

    Raises:
        ConfigError: if an option is wrong.
    """

    __slots__ = ("client_side",)

    kind = "framework"

    def __init__(self, *, client_side: bool = False) -> None:
        self.client_side = flag("client_side", client_side)

    def find(self, connection: Connection, credentials: Credentials) -> str | None:
        """See `Carrier.find`."""
        del credentials
        value = self._session(connection).get(self.name)
        return value if isinstance(value, str) else None

    def write(self, connection: Connection, value: str, max_age: int | None = None) -> Effects:
        """See `Carrier.write`."""
        self._session(connection)[self.name] = value
        return Effects(no_store=True)

    def clear(self, connection: Connection) -> Effects:
        """See `Carrier.clear`."""
        self._session(connection).pop(self.name, None)
        return Effects(no_store=True)

    def prepare(self, connection: Connection, user: str) -> None:
        """See `Carrier.prepare`. This renews the session's id, because an attacker may have planted the present one.

        The session keeps ``user`` beside the id, because an expired id does not tell whose data the session holds.
        """
        session, key = self._session(connection), f"{self.name}{USER_SUFFIX}"
        if session.get(key, user) != user:
            session.clear()
        session[key] = user  # before the renewal: Flask-Session does not renew the id of an empty session
        if not connection.renew_session() and not self.client_side:
            raise ConfigError(
                "FrameworkSessionCarrier: powauth cannot renew the id of this framework's session at sign-in, so an "
                "attacker could plant it (session fixation): use the default CookieCarrier, or a session middleware "
                "that powauth knows (Starlette's, added by add_middleware or middleware=[…]; Litestar's "
                "CookieBackendConfig; Flask's; Flask-Session; starsessions). Only if the session is whole in the "
                "client's cookie, without an id, give FrameworkSessionCarrier(client_side=True)"
            )

    def forget(self, connection: Connection) -> None:
        """See `Carrier.forget`."""
        self._session(connection).clear()

    @staticmethod
    def _session(connection: Connection) -> MutableMapping[str, Any]:
        session = connection.session()
        if session is None:
            raise ConfigError("the framework has no session here: install its session middleware outside of powauth's")
        return session


class AnyOf:
    """Several carriers side by side, such as a cookie for browsers and a bearer token for programs.

    If a request presents a powauth bearer token, only the token counts, even if it is invalid.

    Args:
        carriers: one for browsers and a `BearerCarrier`.

    Attributes:
        name: the name of the carrier for browsers.
        secure: whether clients must use https.
        vary: the request headers that the two read.

    Raises:
        ConfigError: if they are anything else.
    """

    name: str

    def __init__(self, *carriers: Carrier) -> None:
        bearers = [each for each in carriers if isinstance(each, BearerCarrier)]
        others = [each for each in carriers if isinstance(each, CookieCarrier | FrameworkSessionCarrier)]
        if len(bearers) != 1 or len(others) != 1 or len(carriers) != 2:  # noqa: PLR2004
            raise ConfigError("give AnyOf a carrier for browsers and a bearer: AnyOf(CookieCarrier(), BearerCarrier())")
        self.browser: Carrier = others[0]
        self.bearer: BearerCarrier = bearers[0]
        self.secure = self.browser.secure
        self.vary = (*self.browser.vary, *self.bearer.vary)

    def named(self, name: str) -> Self:
        """See `Carrier.named`."""
        named = copy.copy(self)
        named.browser, named.bearer = self.browser.named(name), self.bearer.named(name)
        named.name = named.browser.name
        return named


def each_of(carrier: Carrier | AnyOf) -> tuple[Carrier, ...]:
    """Return the parts of an `AnyOf`, the one for browsers first, or the carrier itself."""
    return (carrier.browser, carrier.bearer) if isinstance(carrier, AnyOf) else (carrier,)
