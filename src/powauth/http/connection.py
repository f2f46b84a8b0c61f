"""What the plug needs of a request and its response, and nothing more.

An integration subclasses `Connection` for its protocol (ASGI, WSGI, Flask); the core reads from it and leaves what is
to be done to the response in `Effects`.
"""

from abc import ABC, ABCMeta, abstractmethod
from collections.abc import Callable, Iterable, MutableMapping
from typing import Any, Final, NamedTuple

import msgspec

Headers = list[tuple[bytes, bytes]]
"""Names and values as on the wire; the case of names does not matter."""


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()
"""Nothing has been assigned, which is not the same as ``None``: nobody is signed in."""


class Later(msgspec.Struct, frozen=True):
    """Stands for a value that is made when it is first looked up: ``make(of)``. Must lead to no connection."""

    make: Callable[[Any], object]
    of: object

    def value(self) -> object:
        """Make it."""
        make = self.make  # called as ``self.make(…)`` it would be looked for among the methods first
        return make(self.of)


class Effects(NamedTuple):
    """What the plug wants of the response.

    Attributes:
        set_cookie: the value of a ``Set-Cookie`` header to add.
        no_store: the response concerns one client only; no cache may keep it.
    """

    set_cookie: str | None = None
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

    @abstractmethod
    def assigned(self, key: str) -> object:
        """What is assigned to the request under ``key``, or `MISSING`."""

    @abstractmethod
    def assign(self, key: str, value: object) -> None:
        """Assign a value to the request, where the app's handlers look for it."""

    def assign_later(self, key: str, later: Later) -> None:
        """`assign` what ``later`` makes: when it is looked up, where the framework permits that, and now elsewhere."""
        self.assign(key, later.value())


class ConnectionStruct(msgspec.StructMeta, ABCMeta):
    """The metaclass of a `Connection` that is a `msgspec.Struct`.

    One is made for every request, and is made sooner than by an ``__init__`` in Python.
    """


def with_effects(headers: Iterable[tuple[bytes, bytes]], effects: Effects) -> Headers:
    """The response's headers once the plug has had its say.

    ``Vary: Cookie`` is always among them, because who is signed in has been looked at; what the app said of ``Vary`` is
    kept. ``no-store`` replaces anything weaker, for shared caches too (RFC 9213: ``CDN-Cache-Control`` and its kin
    overrule ``Cache-Control`` where they are known).

    >>> with_effects([(b"vary", b"Accept")], NO_EFFECTS)
    [(b'vary', b'Accept'), (b'vary', b'Cookie')]
    """
    headers = [*headers]
    for name, value in headers:
        if len(name) == _VARY_LENGTH and name.lower() == b"vary" and _names(value, b"cookie", b"*"):
            break
    else:
        headers.append(_VARY)
    if effects is NO_EFFECTS:
        return headers
    if effects.no_store:
        controls = [header for header in headers if header[0].lower() == b"cache-control"]
        strict = any(_names(value, b"no-store") for _, value in controls)
        if not strict or any(_names(value, b"public") for _, value in controls):
            controls = [(b"cache-control", b"no-store")]
        headers = [header for header in headers if not header[0].lower().endswith(_CACHE_CONTROLS)] + controls
    if effects.set_cookie is not None:
        headers.append((b"set-cookie", effects.set_cookie.encode("ascii")))
    return headers


_VARY: Final = (b"vary", b"Cookie")
_VARY_LENGTH: Final = len(b"vary")

_CACHE_CONTROLS: Final = (b"cache-control", b"surrogate-control")


def _names(value: bytes, *wanted: bytes) -> bool:
    return any(part.strip().lower() in wanted for part in value.split(b","))
