"""What the flows need of a request, and what they answer: no framework's types."""

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from powauth.http.connection import Connection
from powauth.http.cross_site import media_type
from powauth.request_auth import RequestAuth

MAX_BODY_BYTES = 65_536
"""The longest body: a password may take 4096 bytes, thrice that when percent-encoded, and nothing here is longer."""

MAX_LENGTH_DIGITS = 18
"""Digits of a ``Content-Length``: more fit no 64 bits, and Python refuses thousands of them with an error."""

MAX_FIELDS = 100
"""The most fields of one form."""

META = ("action", "next")
"""Fields of the pages' own forms, which the users context does not see."""

FORM, JSON = "application/x-www-form-urlencoded", "application/json"

_SURROGATE = re.compile("[\ud800-\udfff]")

Params = Mapping[str, object]


class BadRequest(Exception):
    """The request cannot be taken as it is.

    Attributes:
        status: of the answer.
        reason: the word for programs.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class PageRequest:
    """One request for a page.

    Attributes:
        path: below where the pages are mounted: one of `Routes`' paths, or unknown.
        mount: what comes before it, percent-encoded: ``""`` or ``/auth``.
        query: as it came, without the question mark.
        auth: the request-bound object; its connection has the headers and the method.
        read: the next part of the body; ``b""`` at its end. Not called for more than `MAX_BODY_BYTES` and one part.
    """

    path: str
    mount: str
    query: str
    auth: RequestAuth[Any, Any]
    read: Callable[[], Awaitable[bytes]]

    @property
    def connection(self) -> Connection:
        """The connection that `auth` is bound to."""
        return self.auth.connection

    @property
    def method(self) -> str:
        """The request's method."""
        return self.connection.method()

    def query_value(self, name: str) -> str | None:
        """A value of the query; ``None`` if there is none, or several."""
        try:
            pairs = parse_qsl(self.query, encoding="utf-8", errors="strict", max_num_fields=MAX_FIELDS)
        except ValueError:
            return None
        values = [value for key, value in pairs if key == name]
        return values[0] if len(values) == 1 else None

    @property
    def wants_json(self) -> bool:
        """Whether a program asks: it sends JSON, or takes it rather than a page."""
        if media_type(self.connection) == JSON:
            return True
        accept = self.connection.header("accept") or ""
        return _quality(accept, JSON) > _quality(accept, "text/html")

    async def params(self) -> dict[str, object]:
        """The fields of the body.

        Raises:
            BadRequest: 413 if it is too long, 415 if it is of a type that is not taken, 400 if it is broken.
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
        # A form in answer to "I take JSON" would be a program's request that another site's form can send.
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
        return bytes(body)


@dataclass(frozen=True, slots=True)
class PageResponse:
    """A whole response."""

    status: int
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""


def account_fields(params: Params) -> dict[str, object]:
    """Return the fields for the users context."""
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
    """The fields, each of which is there once: of two, one parser takes the first and another the last."""
    fields = dict(pairs)
    if len(fields) != len(pairs) or len(fields) > MAX_FIELDS:
        raise BadRequest(400, "bad_request")
    return fields


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)


def _is_broken(text: object) -> bool:
    return isinstance(text, str) and _SURROGATE.search(text) is not None


def _quality(accept: str, wanted: str) -> float:
    """How much the client wants a media type, which must be named: ``*/*`` asks for a page."""
    for part in accept.lower().split(","):
        media, *parameters = (piece.strip() for piece in part.split(";"))
        if media == wanted:
            return next((_number(text[2:]) for text in parameters if text.startswith("q=")), 1.0)
    return 0.0


def _number(text: str) -> float:
    try:
        return min(1.0, max(0.0, float(text)))
    except ValueError:
        return 0.0
