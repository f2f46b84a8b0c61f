"""Requests and responses of the pages, independent of any framework."""

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from powauth.accounts.base import Params
from powauth.http.connection import Connection
from powauth.http.cross_site import media_type
from powauth.http.people import quality
from powauth.pages.layouts import Surroundings
from powauth.request_auth import RequestAuth

MAX_BODY_BYTES = 65_536
"""Maximum length of a body. The longest field is a password: 4096 bytes, and three times that if percent-encoded."""

MAX_LENGTH_DIGITS = 18
"""Maximum digits of a ``Content-Length``. More may not fit into 64 bits, and Python cannot parse thousands of them."""

MAX_FIELDS = 100
"""Maximum number of fields of a form."""

META = ("action", "next")
"""Fields that the pages' forms use themselves. The users context does not get them."""

FORM, JSON = "application/x-www-form-urlencoded", "application/json"

_SURROGATE = re.compile("[\ud800-\udfff]")

ALONE = Surroundings()


class BadRequest(Exception):
    """The request is malformed or not allowed.

    Attributes:
        status: the status of the answer.
        reason: the error code for programs.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PageRequest:
    """One request for a page.

    Attributes:
        path: the path below the mount: a page's path, or an unknown one.
        mount: the path below which the pages are mounted, percent-encoded, such as ``""`` or ``/auth``.
        query: the raw query, without the question mark.
        auth: the request-bound object. Its connection has the headers and the method.
        read: returns the next part of the body, and ``b""`` at its end. It is not called again once the parts exceed
            `MAX_BODY_BYTES`. If the client has disconnected, it may raise `BadRequest`.
        surroundings: what the framework adds to a base template of the app.
    """

    path: str
    mount: str
    query: str
    auth: RequestAuth[Any, Any]
    read: Callable[[], Awaitable[bytes]]
    surroundings: Surroundings = ALONE

    @property
    def connection(self) -> Connection:
        """The connection that `auth` is bound to."""
        return self.auth.connection

    @property
    def method(self) -> str:
        """The request's method."""
        return self.connection.method()

    def query_value(self, name: str) -> str | None:
        """Return a value of the query; ``None`` if there is no such value, or several."""
        try:
            pairs = parse_qsl(self.query, encoding="utf-8", errors="strict", max_num_fields=MAX_FIELDS)
        except ValueError:
            return None
        values = [value for key, value in pairs if key == name]
        return values[0] if len(values) == 1 else None

    @property
    def wants_json(self) -> bool:
        """True if the client is a program: it sends JSON, or prefers JSON to a page."""
        if media_type(self.connection) == JSON:
            return True
        accept = self.connection.header("accept") or ""
        return quality(accept, JSON) > quality(accept, "text/html")

    async def params(self) -> dict[str, object]:
        """Return the fields of the body.

        Raises:
            BadRequest: 413 if the body is too long, 415 if its type is not supported, 400 if it is malformed.
        """
        kind = media_type(self.connection)
        if kind is not None:
            self._check_type(kind)
        body = await self._body()
        if not body:
            return {}
        if kind is None:
            raise BadRequest(415, "unsupported_media_type")
        return _object(body) if kind == JSON else _form(body)

    def _check_type(self, kind: str) -> None:
        # A client that wants JSON must send JSON. Otherwise a form on another site could send a program's request.
        taken = (JSON,) if self.wants_json else (FORM,)
        parameters = (self.connection.header("content-type") or "").lower().split(";")[1:]
        charsets = [text.strip() for text in parameters if text.strip().startswith("charset")]
        if kind not in taken or any(text not in ("charset=utf-8", 'charset="utf-8"') for text in charsets):
            raise BadRequest(415, "unsupported_media_type")

    async def _body(self) -> bytes:
        announced = self.connection.header("content-length") or "0"
        if not (announced.isascii() and announced.isdigit()):
            raise BadRequest(400, "bad_request")
        if len(announced) > MAX_LENGTH_DIGITS or int(announced) > MAX_BODY_BYTES:
            raise BadRequest(413, "too_large")
        body = bytearray()
        while part := await self.read():
            body += part
            if len(body) > MAX_BODY_BYTES:
                raise BadRequest(413, "too_large")
        if len(body) < int(announced):  # the connection was cut; a part of a form may be a valid form
            raise BadRequest(400, "bad_request")
        return bytes(body)


@dataclass(frozen=True, slots=True)
class PageResponse:
    """A complete response."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    __repr__ = object.__repr__  # error reporters record what local variables look like


def account_fields(params: Params) -> dict[str, object]:
    """Return the params without the fields of `META`, for the users context."""
    return {name: value for name, value in params.items() if name not in META}


def _form(body: bytes) -> dict[str, object]:
    try:
        pairs = parse_qsl(
            body.decode(), keep_blank_values=True, encoding="utf-8", errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError:
        raise BadRequest(400, "bad_request") from None
    return _once(list(pairs))


def _object(body: bytes) -> dict[str, object]:
    try:
        found = json.loads(body.decode(), object_pairs_hook=_once, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise BadRequest(400, "bad_request") from None
    if not isinstance(found, dict) or any(_is_broken(text) for pair in found.items() for text in pair):
        raise BadRequest(400, "bad_request")
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, object]:
    """Return the fields. Refuse a repeated field, because parsers disagree on which of its values counts."""
    fields = dict(pairs)
    if len(fields) != len(pairs) or len(fields) > MAX_FIELDS:
        raise BadRequest(400, "bad_request")
    return fields


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)


def _is_broken(text: object) -> bool:
    return isinstance(text, str) and _SURROGATE.search(text) is not None
