"""`BreachedPasswords`: refuses passwords that have appeared in a data breach (ASVS 6.2.12).

It asks a service for all breached passwords whose SHA-1 begins with the same five hexadecimal digits. So the service
learns 20 bits of the hash. About a thousand breached passwords share these bits. Padding hides the number of results
from an observer who sees the length of the response. powauth compares the other digits itself.

If the service does not answer in time, or sends an invalid answer, powauth accepts the password and emits an event.
"""

import hashlib
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import timedelta
from http.client import HTTPMessage
from typing import IO, Any, ClassVar, Final, Protocol, Self, runtime_checkable
from urllib.parse import urlsplit

from powauth._options import instance, whole_number, wrong
from powauth._running import WorkerThreads, on_event_loop
from powauth._times import duration
from powauth.accounts.hooks import Extension, Parts
from powauth.accounts.identity import I
from powauth.accounts.policy import normalize_password
from powauth.events import EventKind

__all__ = ["BreachedPasswords", "RangeClient", "UrllibClient"]

SERVICE: Final = "https://api.pwnedpasswords.com/range/"
"""The free service of Have I Been Pwned. It needs no key."""

TIMEOUT: Final = timedelta(seconds=1)
"""The default time for an answer. It is short, because a person waits for the response."""

MAX_TIMEOUT: Final = timedelta(seconds=30)

MAX_BYTES: Final = 1_048_576
"""The longest response. A padded one has some 70 kB."""

PREFIX_CHARS: Final = 5

HEADERS: Final[Mapping[str, str]] = {"Add-Padding": "true", "User-Agent": "powauth"}

MESSAGE: Final = "has appeared in a data breach"

REFUSED: Final = EventKind("password_breached", "a password was refused, because it has appeared in a data breach")
UNCHECKED: Final = EventKind(
    "password_unchecked",
    "a password was accepted without a check, because the service for breached passwords failed; `detail` is the error",
    "warning",
)

_LINE: Final = re.compile(rb"([0-9A-Fa-f]{35}):([0-9]{1,12})\Z")
_LOCAL: Final = ("127.0.0.1", "localhost", "::1")

_threads = WorkerThreads("breached passwords")


@runtime_checkable
class RangeClient(Protocol):
    """Sends an HTTP request. An app may bring its own, such as one over httpx with a pool of connections."""

    def get(self, url: str, headers: Mapping[str, str], timeout: float) -> bytes:
        """Return the body of the response to a ``GET``. powauth never calls this on an event loop.

        Args:
            url: the address.
            headers: the headers to send.
            timeout: the longest time in seconds for the whole response.

        Raises:
            Exception: if there is no response with the status 200 in time.
        """
        ...


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        """Follow no redirect. urllib then raises an error with the status."""


class UrllibClient:
    """The default client, over the standard library. It opens a connection for each request.

    The time-out bounds each step and the whole response, but not the look-up of the host's name.
    """

    def __init__(self) -> None:
        self._opener = urllib.request.build_opener(_NoRedirects)

    def get(self, url: str, headers: Mapping[str, str], timeout: float) -> bytes:
        """See `RangeClient.get`.

        Raises:
            OSError: if the service cannot be reached, does not answer in time, or answers with another status.
        """
        deadline = time.monotonic() + timeout
        request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310 - the scheme was checked
        body = bytearray()
        try:
            response = self._opener.open(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            error.close()  # it holds the connection
            raise
        with response:
            while part := response.read1(65_536):
                body += part
                if time.monotonic() > deadline:
                    raise TimeoutError("the response took too long")
                if len(body) > MAX_BYTES:
                    raise OSError("the response is too long")
            if response.length:  # the missing part might contain the password
                raise OSError("the response was cut")
        return bytes(body)


class BreachedPasswords(Extension[I]):
    """Refuses passwords that have appeared in a data breach: at registrations, changes and resets.

    Args:
        client: sends the requests. ``None`` is a `UrllibClient`.
        url: the address of the service, to which the five digits are appended. It must be https, except on this host.
        timeout: the longest time for an answer.
        seen: the number of appearances from which on a password is refused.

    Raises:
        ConfigError: if an option is wrong.
    """

    name: ClassVar[str] = "breached_passwords"
    events: ClassVar[tuple[EventKind, ...]] = (REFUSED, UNCHECKED)

    _parts: Parts[I]

    def __init__(
        self,
        client: RangeClient | None = None,
        *,
        url: str = SERVICE,
        timeout: timedelta = TIMEOUT,
        seen: int = 1,
    ) -> None:
        instance("client", client, RangeClient | None, "an object with a method get, such as UrllibClient, or None")
        self._client: Final[RangeClient] = UrllibClient() if client is None else client
        self._url: Final = _checked(url)
        self._timeout: Final = timeout
        self._seconds: Final = duration("timeout", timeout, at_least=1, at_most=MAX_TIMEOUT) / 1000
        self._seen: Final = whole_number("seen", seen)

    def bind(self, parts: Parts[I]) -> Self:
        """See `Extension.bind`."""
        bound = type(self)(self._client, url=self._url, timeout=self._timeout, seen=self._seen)
        bound._parts = parts
        return bound

    async def check_password(self, password: str, request: Any) -> Sequence[str]:
        """See `Extension.check_password`. One HTTP request, in a worker thread on an event loop."""
        try:
            code = hashlib.sha1(normalize_password(password), usedforsecurity=False).hexdigest().upper()
        except ValueError:
            return ()  # the users context refuses it
        try:
            found = await self._count(code)
        except Exception as error:
            # Only the type: a message may hold the address, and with it a part of the hash.
            self._parts.emit(UNCHECKED, None, type(error).__name__, request=request)
            return ()
        if found < self._seen:
            return ()
        self._parts.emit(REFUSED, request=request)
        return (MESSAGE,)

    async def _count(self, code: str) -> int:
        url = self._url + code[:PREFIX_CHARS]

        def ask() -> bytes:
            return self._client.get(url, HEADERS, self._seconds)

        body = await _threads(ask) if on_event_loop() else ask()
        return count_in(body, code[PREFIX_CHARS:])


def count_in(body: bytes, suffix: str) -> int:
    """Return how often a password was seen, by a response of the service. Padding has the count 0.

    >>> count_in(b"0018A45C4D1DEF81644B54AB7F969B88D65:10", "0018A45C4D1DEF81644B54AB7F969B88D65")
    10

    Raises:
        ValueError: if the response is none of this service, such as the page of a proxy.
    """
    found = 0
    lines = body.split()
    if not lines:
        raise ValueError("the response is empty")
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            raise ValueError("the response has a line of another kind")
        if match[1].upper() == suffix.encode():
            found = max(found, int(match[2]))
    return found


def _checked(url: object) -> str:
    parts = urlsplit(url) if isinstance(url, str) else None
    if parts is None or not parts.hostname or parts.query or parts.fragment or not parts.path.endswith("/"):
        raise wrong("url", f"an address that ends in a slash, such as {SERVICE!r}", url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOCAL):
        raise wrong("url", "an address with https: whoever sees the answers could learn which passwords are set", url)
    return str(url)
