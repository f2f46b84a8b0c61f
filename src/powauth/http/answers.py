"""The responses to errors that a handler did not catch: JSON for programs, the sign-in page for people."""

import math
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import NamedTuple
from urllib.parse import quote

import msgspec

from powauth._options import wrong
from powauth._outages import report
from powauth.errors import (
    AlreadySignedIn,
    CrossSiteRequest,
    InvalidParams,
    MoreNeeded,
    NotFresh,
    NotSignedIn,
    Overloaded,
    PowauthError,
    Refused,
    StoreUnavailable,
    Throttled,
)
from powauth.http.connection import Connection, Headers
from powauth.http.own_path import own_path, path_below

RETRY_AFTER = timedelta(seconds=5)
"""The ``Retry-After`` of an outage. Engines restart and fail over in seconds."""


class Answer(NamedTuple):
    """A whole response."""

    status: int
    reason: str
    headers: Headers
    body: bytes

    @property
    def fields(self) -> list[tuple[str, str]]:
        """The headers as text."""
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self.headers]


OnError = Callable[[PowauthError, Connection], Answer | None]
"""An app's own response to an error. ``None`` leaves the response to powauth."""


class Answers:
    """Makes the responses of one integration to errors.

    Args:
        on_error: the app's own function, called first.
        sign_in_path: the sign-in page, as a path of the app. powauth puts the ``root_path`` or ``SCRIPT_NAME`` of the
            app in front of it. If a browser asks for a page that needs a sign-in, powauth redirects it there, with the
            requested path as ``next``. Programs get 401 or 403. ``None`` turns the redirect off.

    Raises:
        ConfigError: if ``sign_in_path`` is no path of this origin.
    """

    def __init__(self, on_error: OnError | None = None, sign_in_path: str | None = None) -> None:
        if on_error is not None and not callable(on_error):
            raise wrong("on_error", "a function of an error and a connection", on_error)
        if sign_in_path is not None and (own_path(sign_in_path) != sign_in_path or {*"?#"} & {*sign_in_path}):
            raise wrong("sign_in_path", "a path without a query, such as '/login'", sign_in_path)
        self.on_error = on_error
        self.sign_in_path = sign_in_path

    def __call__(self, error: PowauthError, connection: Connection) -> Answer | None:
        """Return the response, or ``None`` if the error is a mistake in the app."""
        answer = None if self.on_error is None else self.on_error(error, connection)
        return answer or self.redirect(error, connection) or answer_to(error)

    def redirect(self, error: PowauthError, connection: Connection) -> Answer | None:
        """Return a redirect to the sign-in page if a person made the request and signing in would help."""
        if self.sign_in_path is None or not isinstance(error, NotSignedIn | NotFresh):
            return None
        target = own_path(connection.target())
        sign_in_path = path_below(connection.prefix(), self.sign_in_path)
        if not for_people(connection) or (target or "").partition("?")[0] == sign_in_path:
            return None
        query = "" if target is None else f"?next={quote(target, safe='/')}"
        return see_other(sign_in_path + query)


def chosen(answers: Mapping[str, Answers], error: PowauthError, own: Answers) -> Answers:
    """Return the answers of the authenticator whose guard raised the error, if an app has several authenticators."""
    key = error.current_user_key if isinstance(error, Refused) else None
    return own if key is None else answers.get(key, own)


def for_people(connection: Connection) -> bool:
    """Return whether a browser asks for a page: a ``GET`` or ``HEAD`` whose ``Accept`` names ``text/html``."""
    if connection.method() not in ("GET", "HEAD") or connection.header("x-requested-with") is not None:
        return False
    return any(_takes_html(part) for part in (connection.header("accept") or "").split(","))


def _takes_html(part: str) -> bool:
    media, *parameters = (piece.strip().lower() for piece in part.split(";"))
    return media == "text/html" and not any(piece.replace(" ", "") in ("q=0", "q=0.0") for piece in parameters)


def see_other(path: str) -> Answer:
    """Return a redirect to a path of this origin. The client follows it with ``GET`` (RFC 9110, section 15.4.4)."""
    headers = [(b"location", path.encode("ascii")), (b"content-length", b"0"), (b"cache-control", b"no-store")]
    return Answer(303, "See Other", headers, b"")


def answer_to(error: PowauthError) -> Answer | None:
    """Return the JSON response to ``error``, or ``None`` if the error is a mistake in the app.

    - 401: `NotSignedIn`; `MoreNeeded` with ``{"factors": [name, …]}``
    - 403: `AlreadySignedIn`, `NotFresh`, `CrossSiteRequest`, `Refused`
    - 422: `InvalidParams` with ``{"errors": {field: [message, …]}}``
    - 429 with ``Retry-After``: `Throttled`
    - 503 with ``Retry-After``: `StoreUnavailable`, `Overloaded`

    The response holds no message of an engine. The log has it.
    """
    if isinstance(error, InvalidParams):
        return _json(422, "Unprocessable Content", {"errors": error.errors})
    if isinstance(error, NotSignedIn):
        return _json(401, "Unauthorized", {"error": reason(error)})
    if isinstance(error, MoreNeeded):
        return _json(401, "Unauthorized", {"error": reason(error), "factors": error.factors})
    if isinstance(error, Refused):
        why = {"reason": str(error)} if type(error) is Refused and str(error) else {}  # the app's own message
        return _json(403, "Forbidden", {"error": reason(error), **why})
    if isinstance(error, CrossSiteRequest):
        return _json(403, "Forbidden", {"error": "cross_site_request"})
    if isinstance(error, Throttled):
        return _json(429, "Too Many Requests", {"error": "throttled"}, _retry(error.retry_after))
    if isinstance(error, StoreUnavailable):
        report(error)
        return _json(503, "Service Unavailable", {"error": "store_unavailable"}, _retry(RETRY_AFTER))
    if isinstance(error, Overloaded):
        return _json(503, "Service Unavailable", {"error": "overloaded"}, _retry(error.retry_after))
    return None


def reason(error: Refused) -> str:
    """Return the machine-readable reason of a refusal."""
    if isinstance(error, NotSignedIn):
        return "not_signed_in"
    if isinstance(error, MoreNeeded):
        return "second_factor_required"
    if isinstance(error, NotFresh):
        return "fresh_sign_in_required"
    return "already_signed_in" if isinstance(error, AlreadySignedIn) else "refused"


def _retry(wait: timedelta) -> tuple[bytes, bytes]:
    return b"retry-after", str(math.ceil(wait.total_seconds())).encode()


def _json(status: int, phrase: str, content: object, *more: tuple[bytes, bytes]) -> Answer:
    body = msgspec.json.encode(content)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    return Answer(status, phrase, [*headers, (b"cache-control", b"no-store")], body)
