"""The answer to an error that a handler let through: JSON for programs, the sign-in page for people."""

from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import quote

import msgspec

from powauth._outages import report
from powauth.errors import (
    AlreadySignedIn,
    ConfigError,
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

RETRY_AFTER_SECONDS = 5
"""How long a client is asked to wait: engines restart and fail over in seconds."""


class Answer(NamedTuple):
    """A whole response."""

    status: int
    reason: str
    headers: Headers
    body: bytes


OnError = Callable[[PowauthError, Connection], Answer | None]
"""An app's own answer to an error; ``None`` leaves it to powauth."""


class Answers:
    """What one integration answers to the errors that come its way.

    Args:
        on_error: asked first.
        sign_in_path: where people sign in, as a path of the app: a ``root_path`` or ``SCRIPT_NAME`` that the app is
            served below is put before it. Whoever asks for a page and may not see it is sent there, and the path asked
            for goes along as ``next``; programs get 401 or 403. ``None`` sends nobody anywhere.

    Raises:
        ConfigError: if ``sign_in_path`` is no path of this origin.
    """

    def __init__(self, on_error: OnError | None = None, sign_in_path: str | None = None) -> None:
        if on_error is not None and not callable(on_error):
            raise ConfigError(f"on_error must be a function of an error and a connection, not {on_error!r}")
        if sign_in_path is not None and (own_path(sign_in_path) != sign_in_path or {*"?#"} & {*sign_in_path}):
            raise ConfigError(f"sign_in_path must be a path such as '/login', without a query, not {sign_in_path!r}")
        self.on_error = on_error
        self.sign_in_path = sign_in_path

    def __call__(self, error: PowauthError, connection: Connection) -> Answer | None:
        """The answer, or ``None`` if the error is the app's own mistake."""
        answer = None if self.on_error is None else self.on_error(error, connection)
        return answer or self.redirect(error, connection) or answer_to(error)

    def redirect(self, error: PowauthError, connection: Connection) -> Answer | None:
        """The way to the sign-in page, for people whom signing in would help."""
        if self.sign_in_path is None or not isinstance(error, NotSignedIn | NotFresh):
            return None
        target = own_path(connection.target())
        sign_in_path = path_below(connection.prefix(), self.sign_in_path)
        if not for_people(connection) or (target or "").partition("?")[0] == sign_in_path:
            return None
        query = "" if target is None else f"?next={quote(target, safe='/')}"
        return see_other(sign_in_path + query)


def chosen(answers: Mapping[str, Answers], error: PowauthError, own: Answers) -> Answers:
    """Who answers where an app has several authenticators: the one whose guard raised the error."""
    key = error.current_user_key if isinstance(error, Refused) else None
    return own if key is None else answers.get(key, own)


def for_people(connection: Connection) -> bool:
    """Whether a page is asked for: a ``GET`` or ``HEAD`` that takes HTML by name, as browsers do and scripts do not."""
    if connection.method() not in ("GET", "HEAD") or connection.header("x-requested-with") is not None:
        return False
    return any(_takes_html(part) for part in (connection.header("accept") or "").split(","))


def _takes_html(part: str) -> bool:
    media, *parameters = (piece.strip().lower() for piece in part.split(";"))
    return media == "text/html" and not any(piece.replace(" ", "") in ("q=0", "q=0.0") for piece in parameters)


def see_other(path: str) -> Answer:
    """A redirect to a path of this origin; the request's method is not repeated there (RFC 9110, section 15.4.4)."""
    headers = [(b"location", path.encode("ascii")), (b"content-length", b"0"), (b"cache-control", b"no-store")]
    return Answer(303, "See Other", headers, b"")


def answer_to(error: PowauthError) -> Answer | None:
    """What a program is told of ``error``, or ``None`` if it is the app's own mistake.

    401 `NotSignedIn`, and `MoreNeeded` with ``{"factors": [name, …]}``, 403 `AlreadySignedIn`, `NotFresh` and
    `CrossSiteRequest`, 422 `InvalidParams` with ``{"errors": {field: [message, …]}}``; with ``Retry-After`` 429
    `Throttled`, and 503 `StoreUnavailable` and `Overloaded`. No message of an engine is passed on: the log has it.
    """
    if isinstance(error, InvalidParams):
        return _json(422, "Unprocessable Content", {"errors": error.errors})
    if isinstance(error, NotSignedIn):
        return _json(401, "Unauthorized", {"error": reason(error)})
    if isinstance(error, MoreNeeded):
        return _json(401, "Unauthorized", {"error": reason(error), "factors": error.factors})
    if isinstance(error, Refused):
        why = {"reason": str(error)} if type(error) is Refused and str(error) else {}  # the words of the app's own hook
        return _json(403, "Forbidden", {"error": reason(error), **why})
    if isinstance(error, CrossSiteRequest):
        return _json(403, "Forbidden", {"error": "cross_site_request"})
    if isinstance(error, Throttled):
        return _json(429, "Too Many Requests", {"error": "throttled"}, _retry(error.retry_after))
    if isinstance(error, StoreUnavailable):
        report(error)
        return _json(503, "Service Unavailable", {"error": "store_unavailable"}, _retry(RETRY_AFTER_SECONDS))
    if isinstance(error, Overloaded):
        return _json(503, "Service Unavailable", {"error": "overloaded"}, _retry(error.retry_after))
    return None


def reason(error: Refused) -> str:
    """The word for a guard's no that a program can tell from others."""
    if isinstance(error, NotSignedIn):
        return "not_signed_in"
    if isinstance(error, MoreNeeded):
        return "second_factor_required"
    if isinstance(error, NotFresh):
        return "fresh_sign_in_required"
    return "already_signed_in" if isinstance(error, AlreadySignedIn) else "refused"


def _retry(seconds: int) -> tuple[bytes, bytes]:
    return b"retry-after", str(seconds).encode()


def _json(status: int, phrase: str, content: object, *more: tuple[bytes, bytes]) -> Answer:
    body = msgspec.json.encode(content)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    return Answer(status, phrase, [*headers, (b"cache-control", b"no-store")], body)
