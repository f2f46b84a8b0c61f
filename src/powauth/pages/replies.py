"""Complete responses of the pages: headers, redirects and JSON."""

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from powauth.errors import ConfigError
from powauth.pages.request import JSON, PageResponse

Csp = Mapping[str, Sequence[str]]
"""Sources by directive."""

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

_SOURCE: Final = re.compile(r"[!-+\-.-:<-~]+\Z")
"""A source: printable ASCII without spaces, "," and ";"."""

_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Cache-Control", "no-store"),
    ("Vary", "Accept"),
)


REFERRER: Final = "same-origin"
"""Not ``no-referrer``: browsers then send ``Origin: null`` with a page's forms (Fetch, "append a request Origin")."""

WIDENED: Final = (
    "script-src",
    "style-src",
    "img-src",
    "font-src",
    "connect-src",
    "media-src",
    "frame-src",
    "manifest-src",
    "worker-src",
)
"""The directives that an app and a page may widen. The others hold for every page (ASVS 3.4.3 and 3.4.6)."""

_SCRIPTS: Final = ("script-src", "worker-src")
"""Directives of code."""

_ANY_CODE: Final = re.compile(r"('unsafe-.*|((https?|wss?|data|blob|filesystem):)?(//)?(\*(:.*)?)?)\Z", re.IGNORECASE)
"""Sources that let injected code run: every source, every origin, or the page's own text."""


def checked_csp(additions: Mapping[str, Sequence[str]]) -> Csp:
    """Return additions to the policy.

    Raises:
        ConfigError: if a directive cannot be widened, or a source is not valid or would let injected scripts run.
    """
    example = "csp must be sources by directive, such as {'style-src': ['https://cdn.example']}"
    if not isinstance(additions, Mapping):
        raise ConfigError(f"{example}, not {type(additions).__name__}")
    for name, sources in additions.items():
        if name not in WIDENED:
            raise ConfigError(f"csp cannot widen {name!r}: the directives to widen are {', '.join(WIDENED)}")
        if isinstance(sources, str) or not isinstance(sources, Sequence):
            raise ConfigError(f"{example}; {name} has {sources!r}, which is no list")
        for source in sources:
            if not isinstance(source, str) or not _SOURCE.match(source):
                raise ConfigError(f"csp must have one source in each text of {name}, without spaces, not {source!r}")
            if source.lower() == "'none'":
                raise ConfigError(f"csp only adds sources, so {name} cannot have {source}")
            if name in _SCRIPTS and _ANY_CODE.match(source):
                raise ConfigError(
                    f"csp refuses {source} in {name}: whoever injects text into a page could read the password from "
                    "it; put the script into a file of your origin ('self'), or allow it by its hash ('sha256-...')"
                )
    return {name: tuple(sources) for name, sources in additions.items()}


def security_policy(*additions: Csp) -> str:
    """Return the value of ``Content-Security-Policy`` with additions. They replace ``'none'``.

    >>> security_policy({"script-src": ("'self'",)}).rpartition("; ")[2]
    "script-src 'self'"
    """
    directives = {name: [sources] for name, sources in CONTENT_SECURITY_POLICY.items()}
    for name, sources in ((name, sources) for each in additions for name, sources in each.items()):
        found = directives.setdefault(name, [])
        found += [source for source in sources if source not in found]
    return "; ".join(f"{name} {' '.join(sources)}" for name, sources in directives.items() if sources)


STRICT: Final = security_policy()


def headers(*own: tuple[str, str], csp: str = STRICT, referrer: str = REFERRER) -> list[tuple[str, str]]:
    """Return a response's own headers, followed by the headers of every response except the style sheet's."""
    return [*own, ("Content-Security-Policy", csp), ("Referrer-Policy", referrer), *_HEADERS]


def typed(status: int, content_type: str, body: bytes, csp: str = STRICT, *, referrer: str = REFERRER) -> PageResponse:
    """Return a response with a body."""
    return PageResponse(status, headers(("Content-Type", content_type), csp=csp, referrer=referrer), body)


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
