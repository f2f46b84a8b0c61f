"""The view of a request and its response that the plug works with.

An integration subclasses `Connection` for its protocol (ASGI, WSGI, Flask). The core reads from it, and returns its
changes to the response as `Effects`.
"""

from abc import ABC, ABCMeta, abstractmethod
from collections.abc import Iterable, MutableMapping
from typing import Any, Final, NamedTuple

import msgspec

from powauth.http.unreachable import Unreachable

Headers = list[tuple[bytes, bytes]]
"""Names and values as on the wire. The case of names does not matter."""

Credentials = tuple[str, str | None]
"""The two fields of a request that carry credentials: those of `Connection.cookies`, and ``Authorization``."""


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()
"""Nothing has been assigned. (``None`` means that nobody is signed in.)"""


class Effects(NamedTuple):
    """The changes that the plug makes to a response.

    Attributes:
        cookies: values of ``Set-Cookie`` headers.
        headers: other headers.
        no_store: whether the response is for one client only, so that no cache may keep it.
    """

    cookies: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    no_store: bool = False

    def __repr__(self) -> str:  # error reporters record what local variables look like
        return object.__repr__(self)


NO_EFFECTS: Final = Effects()


PREFIX: Final = "prefix"
"""The key in a connection's states of the path under which the middleware is mounted, if there is one."""

States = dict[object, Any]
"""The state that is kept between a request and its response.

The keys are the ``RequestReader`` of each `SessionAuth` (its value is the presence), `PREFIX`, each
``current_user_key`` whose value is not assigned to an object of the protocol, and each extension that keeps a note.
"""


class Connection(ABC):
    """One request and its future response, as a view of the objects of a protocol.

    An integration may make several connections of one request if they share their ``states``. Nothing that the request
    holds may refer to a connection: such a cycle would leave each request to the garbage collector.

    Attributes:
        states: the states that authenticators keep for the request. Empty at first.
    """

    __slots__ = ()

    states: States

    @abstractmethod
    def method(self) -> str:
        """Return the request's method. A WebSocket's handshake is a ``GET``."""

    @abstractmethod
    def target(self) -> str:
        """Return the path and query as the client sent them, including a prefix that a mount has removed."""

    def prefix(self) -> str:
        """Return the path below which the app is served, percent-encoded: ``""`` or, for example, ``/api``.

        It is the ``root_path`` of ASGI or the ``SCRIPT_NAME`` of WSGI at powauth's middleware. A mount inside the
        middleware does not count.
        """
        return ""

    @abstractmethod
    def cookies(self) -> str:
        """Return the ``Cookie`` field, undecoded (ISO 8859-1). Several are joined by ``"; "`` (RFC 9113, 8.2.3)."""

    def credentials(self) -> Credentials:
        """Return the fields ``Cookie`` and ``Authorization``.

        powauth reads both for each request. Override this if one look at the headers can find the two.
        """
        return self.cookies(), self.header("authorization")

    @abstractmethod
    def header(self, name: str) -> str | None:
        """Return a header of the request, by its lower-case name.

        Several fields of one name are one value with commas between them (RFC 9110, section 5.2), as under WSGI. So two
        values of a header that allows only one are an invalid value, on every protocol.
        """

    @abstractmethod
    def client_ip(self) -> str | None:
        """Return the peer's address. A proxy's headers count only if the server is configured to trust the proxy."""

    def session(self) -> MutableMapping[str, Any] | None:
        """Return the framework's own session, if it has one and its middleware runs outside powauth's."""
        return None

    def renew_session(self) -> bool:
        """Renew the id of the framework's session. Return whether the old id, if there was one, is invalid now.

        Return ``True`` for a session that lives only in the client's cookie: it has no id that an attacker could plant.
        """
        return False

    def assigned(self, key: str) -> object:
        """Return the value that is assigned to the request under ``key``, or `MISSING`."""
        return self.states.get(key, MISSING)

    def assign(self, key: str, value: object) -> None:
        """Assign a value to the request.

        Override this and `assigned` if the app's handlers read the value from an object of the protocol. Otherwise they
        use the request-bound object.
        """
        self.states[key] = value

    def assign_unreachable(self, key: str, unreachable: Unreachable) -> None:
        """Assign the placeholder for the user while the store is unreachable.

        Override this if reading the user can raise `StoreUnavailable` at once; see `http.unreachable`. In both cases
        `assigned` returns the placeholder.
        """
        self.assign(key, unreachable)


class ConnectionStruct(msgspec.StructMeta, ABCMeta):
    """The metaclass of a `Connection` that is a `msgspec.Struct`.

    Every request makes one. A struct is made faster than an object with an ``__init__`` in Python.
    """


class Vary(msgspec.Struct, frozen=True):
    """The headers ``Vary`` that powauth adds to a response. A middleware makes them once.

    Attributes:
        raw: one for each request header that identifies the user.
        text: the same as text.
    """

    raw: tuple[tuple[bytes, bytes], ...]
    text: tuple[tuple[str, str], ...]


def vary_on(fields: Iterable[bytes]) -> Vary:
    """Return the headers for the names of request headers, such as `powauth.plug.Authenticator.vary`."""
    raw = tuple((b"vary", field) for field in fields)
    return Vary(raw, tuple(("vary", field.decode("ascii")) for _, field in raw))


def with_vary(headers: Iterable[tuple[bytes, bytes]], vary: Vary) -> Headers:
    """Return the result of `with_effects` for a response that does not change otherwise."""
    headers, added = [*headers], vary.raw
    for name, _ in headers:
        if len(name) == _VARY_LENGTH and name.lower() == b"vary":
            added = _not_in_vary(headers, vary)
            break
    headers += added
    return headers


def with_effects(headers: Iterable[tuple[bytes, bytes]], effects: Effects, vary: Vary) -> Headers:
    """Return the headers of a response with the plug's own added.

    The request headers that carry the id are always in ``Vary``, because the response may depend on them. The app's own
    ``Vary`` stays. ``no-store`` replaces every weaker directive, for shared caches too (RFC 9213: ``CDN-Cache-Control``
    and similar fields overrule ``Cache-Control`` in caches that know them).

    >>> with_effects([(b"vary", b"Accept")], NO_EFFECTS, vary_on([b"Cookie"]))
    [(b'vary', b'Accept'), (b'vary', b'Cookie')]
    """
    headers = with_vary(headers, vary)
    if effects.no_store:
        controls = [header for header in headers if header[0].lower() == b"cache-control"]
        strict = any(_names(value, b"no-store") for _, value in controls)
        if not strict or any(_names(value, b"public") for _, value in controls):
            controls = [(b"cache-control", b"no-store")]
        headers = [header for header in headers if not header[0].lower().endswith(_CACHE_CONTROLS)] + controls
    headers.extend((b"set-cookie", cookie.encode("ascii")) for cookie in effects.cookies)
    headers.extend((name.encode("ascii"), value.encode("ascii")) for name, value in effects.headers)
    return headers


def amended(headers: Iterable[tuple[str, str]], effects: Effects, vary: Vary) -> list[tuple[str, str]]:
    """Return the result of `with_effects` for headers that are text, as in WSGI. The app's own texts stay unchanged.

    They may have characters outside ISO 8859-1: Werkzeug and aiohttp encode a header only when they send it.
    """
    headers = [*headers]
    if effects is NO_EFFECTS and not has_vary(headers):  # most responses: nothing is encoded
        headers.extend(vary.text)
        return headers
    raw = [(_encoded(name), _encoded(value)) for name, value in headers]
    return [(_decoded(name), _decoded(value)) for name, value in with_effects(raw, effects, vary)]


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # every text can be encoded and decoded again


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")


def has_vary(headers: Iterable[tuple[str, str]]) -> bool:
    """Return whether a response has the header ``Vary``."""
    for name, _ in headers:  # noqa: SIM110 - `any` would make a generator for each response
        if len(name) == _VARY_LENGTH and name.lower() == "vary":
            return True
    return False


_VARY_LENGTH: Final = len(b"vary")

_CACHE_CONTROLS: Final = (b"cache-control", b"surrogate-control")


def _not_in_vary(headers: Headers, vary: Vary) -> tuple[tuple[bytes, bytes], ...]:
    varied = [value for name, value in headers if name.lower() == b"vary"]
    return tuple(each for each in vary.raw if not any(_names(value, each[1].lower(), b"*") for value in varied))


def _names(value: bytes, *wanted: bytes) -> bool:
    return any(part.strip().lower() in wanted for part in value.split(b","))
