"""Complete responses of the pages: headers, redirects and JSON."""

from collections.abc import Mapping
from typing import Final

import msgspec

from powauth.errors import ConfigError
from powauth.pages.request import JSON, PageResponse

CONTENT_SECURITY_POLICY: Final[Mapping[str, str]] = {
    "default-src": "'none'",
    "style-src": "'self'",
    "img-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
    "object-src": "'none'",
}
"""The policy of all pages. It allows no script, no frame, and nothing from another origin (ASVS 3.4.3)."""

_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    # Not "no-referrer": browsers then send "Origin: null" with the pages' own forms (Fetch, "append a request Origin").
    ("Referrer-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
    ("Vary", "Accept"),
)


def security_policy(additions: Mapping[str, str]) -> str:
    """Return the value of ``Content-Security-Policy`` with the additions of a page.

    An addition is appended to the sources of its directive. It replaces ``'none'``.

    Raises:
        ConfigError: if an addition is no valid directive.

    >>> security_policy({"script-src": "'self'"}).rpartition("; ")[2]
    "script-src 'self'"
    """
    directives = dict(CONTENT_SECURITY_POLICY)
    for name, sources in additions.items():
        if not all(isinstance(text, str) and text.isascii() and text.isprintable() for text in (name, sources)):
            raise ConfigError(f"csp must be directives and sources, such as {{'script-src': \"'self'\"}}, not {name!r}")
        if {*";,"} & {*name, *sources}:
            raise ConfigError(f"csp must have one directive a key, not {name!r}: {sources!r}")
        before = directives.get(name, "'none'")
        directives[name] = sources if before == "'none'" else f"{before} {sources}"
    return "; ".join(f"{name} {sources}" for name, sources in directives.items())


STRICT: Final = security_policy({})


def headers(*own: tuple[str, str], csp: str = STRICT) -> list[tuple[str, str]]:
    """Return a response's own headers, followed by the headers of every response except the style sheet's."""
    return [*own, ("Content-Security-Policy", csp), *_HEADERS]


def typed(status: int, content_type: str, body: bytes, csp: str = STRICT) -> PageResponse:
    """Return a response with a body."""
    return PageResponse(status, headers(("Content-Type", content_type), csp=csp), body)


def json_reply(status: int, content: object) -> PageResponse:
    """Return a response in JSON. With status 204 it has no body."""
    if status == 204:  # noqa: PLR2004
        return PageResponse(status, headers())
    return typed(status, JSON, msgspec.json.encode(content))


def redirect(path: str) -> PageResponse:
    """Redirect to a path of this origin by ``GET``.

    The status is 303, because the browser must not send a form with a password again (RFC 9700, section 4.12).
    """
    return PageResponse(303, headers(("Location", path)))
