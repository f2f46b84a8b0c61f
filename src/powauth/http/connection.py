"""What the plug needs of a request and its response, and nothing more.

An integration subclasses `Connection` for its protocol (ASGI, WSGI, Flask); the core reads from it and leaves what is
to be done to the response in `Effects`.
"""

from abc import ABC, ABCMeta, abstractmethod
from collections.abc import Iterable, MutableMapping
from typing import Any, Final, NamedTuple

import msgspec

Headers = list[tuple[bytes, bytes]]
"""Names and values as on the wire; the case of names does not matter."""


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()
"""Nothing has been assigned, which is not the same as ``None``: nobody is signed in."""


class Effects(NamedTuple):
    """What the plug adds to a response.

    Attributes:
        cookies: values of ``Set-Cookie`` headers.
        headers: other headers.
        no_store: the response concerns one client only, so no cache may keep it.
    """

    cookies: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    no_store: bool = False


NO_EFFECTS: Final = Effects()


PREFIX: Final = "prefix"
"""Where the states of a connection hold the path below which the middleware is mounted, if there is one."""

States = dict[object, Any]
"""What each authenticator remembers between a request and its response, by its ``identity``."""


class Connection(ABC):
    """One request and the response to come: a view that an integration makes of what its protocol hands around.

    Several may be made of one request, as long as they share their ``states``. Nothing that the request holds may hold
    a connection: the circle would leave each request for the garbage collector to find.

    Attributes:
        states: what authenticators remember of the request; empty at first.
    """

    __slots__ = ()

    states: States

    @abstractmethod
    def method(self) -> str:
        """The request's method; a WebSocket's handshake is a ``GET``."""

    @abstractmethod
    def target(self) -> str:
        """The path and query that the client asked for, as it spelled them, whatever a mount has taken off since."""

    def prefix(self) -> str:
        """Return the path below which the app is served, percent-encoded: ``""`` or, for example, ``/api``.

        It is the ``root_path`` of ASGI or the ``SCRIPT_NAME`` of WSGI that powauth's middleware has seen. A mount
        inside of the middleware does not count.
        """
        return ""

    @abstractmethod
    def cookies(self) -> str:
        """The request's ``Cookie`` field, undecoded (ISO 8859-1); several are joined by ``"; "`` (RFC 9113, 8.2.3)."""

    @abstractmethod
    def header(self, name: str) -> str | None:
        """Return a header of the request, by its lower-case name.

        Several fields of one name come back as one value, with commas between them (RFC 9110, section 5.2), as WSGI
        servers give them. So two values of a header that has only one are no valid value, on every protocol.
        """

    @abstractmethod
    def client_ip(self) -> str | None:
        """The peer's address. A proxy's headers count only once the server has been told to trust the proxy."""

    @abstractmethod
    def session(self) -> MutableMapping[str, Any] | None:
        """The framework's own session, if its middleware runs outside of powauth's."""

    def renew_session(self) -> bool:
        """Give the framework's session another id, if it has one; whether nobody who knew the id can use it now.

        True for a session that lives in the client's cookie alone: it has no id that could be planted.
        """
        return False

    @abstractmethod
    def assigned(self, key: str) -> object:
        """What is assigned to the request under ``key``, or `MISSING`."""

    @abstractmethod
    def assign(self, key: str, value: object) -> None:
        """Assign a value to the request, where the app's handlers look for it."""


class ConnectionStruct(msgspec.StructMeta, ABCMeta):
    """The metaclass of a `Connection` that is a `msgspec.Struct`.

    One is made for every request, and is made sooner than by an ``__init__`` in Python.
    """


def with_effects(headers: Iterable[tuple[bytes, bytes]], effects: Effects, vary: tuple[bytes, ...]) -> Headers:
    """Return the headers of a response with the plug's own.

    ``vary`` names the request headers by which users are told apart. They are always in ``Vary``, because the plug has
    looked at them. What the app says of ``Vary`` is kept. ``no-store`` replaces anything weaker, for shared caches too
    (RFC 9213: ``CDN-Cache-Control`` and its kin overrule ``Cache-Control`` where they are known).

    >>> with_effects([(b"vary", b"Accept")], NO_EFFECTS, (b"Cookie",))
    [(b'vary', b'Accept'), (b'vary', b'Cookie')]
    """
    headers = [*headers]
    varied = [value for name, value in headers if len(name) == _VARY_LENGTH and name.lower() == b"vary"]
    for field in vary:
        if not varied or not any(_names(value, field.lower(), b"*") for value in varied):
            headers.append((b"vary", field))
    if effects is NO_EFFECTS:
        return headers
    if effects.no_store:
        controls = [header for header in headers if header[0].lower() == b"cache-control"]
        strict = any(_names(value, b"no-store") for _, value in controls)
        if not strict or any(_names(value, b"public") for _, value in controls):
            controls = [(b"cache-control", b"no-store")]
        headers = [header for header in headers if not header[0].lower().endswith(_CACHE_CONTROLS)] + controls
    headers.extend((b"set-cookie", cookie.encode("ascii")) for cookie in effects.cookies)
    headers.extend((name.encode("ascii"), value.encode("ascii")) for name, value in effects.headers)
    return headers


_VARY_LENGTH: Final = len(b"vary")

_CACHE_CONTROLS: Final = (b"cache-control", b"surrogate-control")


def _names(value: bytes, *wanted: bytes) -> bool:
    return any(part.strip().lower() in wanted for part in value.split(b","))
