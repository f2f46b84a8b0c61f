"""Links in mail that carry a one-time token, and the pages to which they lead.

A link is ``public_url + path + "#" + token``. The token is in the fragment, which browsers send to no server. So no
log, no ``Referer`` and no mail scanner gets it. `LINK_SCRIPT` moves it into the page's form. Without scripts, the page
shows a field, into which the person pastes the code or the whole link. Only ``POST`` takes the token.

A page for such a link has ``folder=FOLDER`` or includes `LINK_SCRIPT` among the extension's pages, and these values:
``csp=LINK_CSP``, ``no_referrer=True``, and ``{% import "_token.html" as tokens %}`` with
``{{ tokens.field(...) }}`` in the form of its template.

Sources: RFC 9110, section 10.1.3 (no fragment in ``Referer``); OWASP Forgot Password Cheat Sheet, "URL Tokens".
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from powauth._options import instance
from powauth.accounts.hooks import Parts
from powauth.errors import ConfigError
from powauth.pages.page import Page
from powauth.pages.request import PageResponse
from powauth.pages.routes import is_path
from powauth.pages.visit import PageVisit

FOLDER: Final = Path(__file__).parent / "templates"
"""The folder of the templates that extensions share."""

TOKEN: Final = "token"  # noqa: S105 - the name of a field
"""The field of the token, in the form and in JSON."""

LINK_CSP: Final[Mapping[str, Sequence[str]]] = {"script-src": ["'self'"]}
"""The addition to the policy of a page that has `LINK_SCRIPT`."""

MAX_CODE = 2048
"""The most characters of a pasted code or link."""

SCRIPT_SECONDS = 3600
"""Seconds for which browsers may cache the script."""

_SCRIPT: Final = (FOLDER / "link.js").read_bytes()


class Links:
    """Makes the links of one extension.

    Args:
        parts: the parts that `Extension.bind` was given.
        who: the name of the extension's class, for the error.

    Raises:
        ConfigError: if the app has no ``public_url``.
    """

    def __init__(self, parts: Parts[Any], who: str) -> None:
        instance("the parts of links", parts, Parts, "the Parts that bind was given")
        if parts.public_url is None:
            raise ConfigError(
                f"{who} sends links, so SessionAuth needs public_url, the address below which the pages are mounted: "
                "public_url='https://example.org'"
            )
        self._base: Final = parts.public_url

    def to(self, path: str, token: str | None = None) -> str:
        """Return the link to a page, with a token in its fragment.

        Args:
            path: the path of the page below the mount.
            token: the one-time token; ``None`` for a link without one.

        Raises:
            ConfigError: if the path is not valid.
        """
        if not is_path(path):
            raise ConfigError(f"a link must lead to a path such as '/password/reset', not {path!r}")
        return f"{self._base}{path}" + ("" if token is None else f"#{token}")


def token_in(value: object) -> str | None:
    """Return the token in what a client sends: a token, or a whole link that somebody pasted. ``None`` for no text.

    >>> token_in(" https://example.org/password/reset#abc "), token_in("abc"), token_in(["abc"])
    ('abc', 'abc', None)
    """
    if not isinstance(value, str) or len(value) > MAX_CODE:
        return None
    return value.strip().rpartition("#")[2]


def script_page(name: str, path: str, script: bytes, folder: Path | None = None) -> Page:
    """Return a page that is a script. Browsers may cache it for an hour."""

    async def show(visit: PageVisit) -> PageResponse:
        del visit
        headers = [
            ("Content-Type", "text/javascript; charset=utf-8"),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", f"public, max-age={SCRIPT_SECONDS}"),
        ]
        return PageResponse(200, headers, script)

    return Page(name=name, path=path, get=show, folder=folder)


LINK_SCRIPT: Final = script_page("link_script", "/powauth-link.js", _SCRIPT, FOLDER)
"""The script that moves the token from the address into the form. Each extension with such a page returns this object
among its pages. The pages mount it once."""
