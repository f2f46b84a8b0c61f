"""The answer to an error that a handler let through: what a client can be told, as JSON."""

from typing import NamedTuple

import msgspec

from powauth.connection import Headers
from powauth.errors import InvalidParams, NotSignedIn, Overloaded, PowauthError, StoreUnavailable

RETRY_AFTER_SECONDS = 5
"""How long a client is asked to wait: engines restart and fail over in seconds."""


class Answer(NamedTuple):
    """A whole response."""

    status: int
    reason: str
    headers: Headers
    body: bytes


def answer_to(error: PowauthError) -> Answer | None:
    """What to answer to ``error``, or ``None`` if it is the app's own mistake.

    401 `NotSignedIn`, 422 `InvalidParams` with ``{"errors": {field: [message, …]}}``, 503 with ``Retry-After``
    `StoreUnavailable` and `Overloaded`. No message of an engine's is passed on.
    """
    if isinstance(error, InvalidParams):
        return _json(422, "Unprocessable Content", {"errors": error.errors})
    if isinstance(error, NotSignedIn):
        return _json(401, "Unauthorized", {"error": "not_signed_in"})
    if isinstance(error, StoreUnavailable):
        return _json(503, "Service Unavailable", {"error": "store_unavailable"}, _RETRY)
    if isinstance(error, Overloaded):
        return _json(503, "Service Unavailable", {"error": "overloaded"}, _RETRY)
    return None


_RETRY = (b"retry-after", str(RETRY_AFTER_SECONDS).encode())


def _json(status: int, reason: str, content: object, *more: tuple[bytes, bytes]) -> Answer:
    body = msgspec.json.encode(content)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    return Answer(status, reason, [*headers, (b"cache-control", b"no-store")], body)
