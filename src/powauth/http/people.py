"""Responses for people: who is a person, and the plain page that says why a request was refused.

The page needs no template engine. It has no script and nothing from elsewhere.
"""

import base64
import hashlib
import math
from collections.abc import Iterable, Sequence
from datetime import timedelta
from html import escape
from typing import Final

from powauth.errors import (
    Accepted,
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
from powauth.http.cross_site import media_type
from powauth.http.own_path import own_path

JSON: Final = "application/json"

TITLES: Final = {
    202: "Almost done",
    401: "Sign in first",
    403: "This is not allowed",
    422: "Please check what you entered",
    429: "Too many attempts",
    503: "Try again soon",
}
"""Headings of the plain page, by status."""

STYLE: Final = (
    ":root{color-scheme:light dark}"
    "body{max-width:34rem;margin:0 auto;padding:12vh 1.25rem 2rem;font:1.0625rem/1.55 system-ui,sans-serif;"
    "overflow-wrap:anywhere}"
    "h1{margin:0 0 .75rem;font-size:1.75rem;line-height:1.2}"
    "a{display:inline-block;padding:.625rem 0}"
)
"""The style of the plain page. The policy allows it by its hash, and no other."""

_POLICY = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_MINUTE, _HOUR = 60, 3600


def for_people(connection: Connection) -> bool:
    """Return whether a person made the request: ``Accept`` names ``text/html``, and the client does not want JSON.

    A program sends JSON, prefers JSON to a page, or names itself by ``X-Requested-With``.
    """
    if connection.header("x-requested-with") is not None or media_type(connection) == JSON:
        return False
    accept = connection.header("accept") or ""
    return quality(accept, "text/html") > quality(accept, JSON)


def quality(accept: str, wanted: str) -> float:
    """Return the quality of a media type in ``Accept``. Wildcards do not count.

    >>> quality("text/html, application/json;q=0.5", "application/json"), quality("*/*", "text/html")
    (0.5, 0.0)
    """
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


def asked_page(connection: Connection) -> str | None:
    """Return the path to which a person can come back by ``GET``; ``None`` if there is none.

    It is the requested page. For a form it is the page with the form, from ``Referer``, if that is of this host.
    """
    if connection.method() in ("GET", "HEAD"):
        return own_path(connection.target())
    scheme, separator, rest = (connection.header("referer") or "").partition("://")
    host, slash, path = rest.partition("#")[0].partition("/")
    if not separator or scheme not in ("http", "https") or host != connection.header("host"):
        return None
    return own_path(slash + path)


def wait(retry_after: timedelta) -> tuple[str, int]:
    """Return a time to wait as a unit and a count of at least 2, rounded up.

    >>> wait(timedelta(seconds=45)), wait(timedelta(seconds=840)), wait(timedelta(hours=5))
    (('seconds', 45), ('minutes', 14), ('hours', 5))
    """
    seconds = max(2, math.ceil(retry_after.total_seconds()))
    if seconds < 2 * _MINUTE:
        return "seconds", seconds
    if seconds < 2 * _HOUR:
        return "minutes", math.ceil(seconds / _MINUTE)
    return "hours", math.ceil(seconds / _HOUR)


def sentences(error: PowauthError) -> Sequence[str]:
    """Return what a person is told of an error, in English."""
    if isinstance(error, InvalidParams):
        return [
            text if name == "base" else f"{name.replace('_', ' ').capitalize()}: {text}"
            for name, texts in error.errors.items()
            for text in texts
        ]
    if isinstance(error, Throttled):
        unit, count = wait(error.retry_after)
        return [f"To keep accounts safe, only a few attempts are allowed. Try again in {count} {unit}."]
    if isinstance(error, StoreUnavailable):
        return ["We cannot reach your account right now. You are not signed out: try again in a few seconds."]
    if isinstance(error, Overloaded):
        return ["Too much is going on right now. Try again in a few seconds."]
    if isinstance(error, CrossSiteRequest):
        return ["For your safety, this was refused: it did not come from this site's own pages."]
    return [_refusal(error)]


def _refusal(error: PowauthError) -> str:
    known: dict[type[PowauthError], str] = {
        NotSignedIn: "This page is for people who are signed in.",
        NotFresh: "Confirm that it is you: sign in again.",
        MoreNeeded: "This needs a second confirmation that it is you.",
        AlreadySignedIn: "You are signed in already.",
    }
    text = next((text for kind, text in known.items() if isinstance(error, kind)), None)
    own = str(error) if type(error) in (Refused, Accepted) else ""  # the message of the app or of an extension
    return text or own or "You may not do this."


def page(status: int, error: PowauthError, sign_in_path: str | None) -> tuple[Headers, bytes]:
    """Return the headers and the body of the plain page.

    Args:
        status: the status of the response.
        error: the error.
        sign_in_path: the sign-in page, for a link to it if signing in helps; ``None`` if it is not known.
    """
    title = TITLES[status]
    helps = sign_in_path is not None and isinstance(error, NotSignedIn | NotFresh)
    link = f'<p><a href="{escape(sign_in_path or "")}">Sign in</a></p>' if helps else ""
    document = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>"
        f"<body><main><h1>{title}</h1>{_paragraphs(sentences(error))}{link}</main></body></html>"
    )
    body = document.encode(errors="replace")
    headers = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"content-security-policy", _POLICY.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"same-origin"),
    ]
    return headers, body


def _paragraphs(texts: Iterable[str]) -> str:
    return "".join(f"<p>{escape(text)}</p>" for text in texts)
