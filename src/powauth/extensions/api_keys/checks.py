"""Checks of what an app and a client give for API keys."""

import re
from collections.abc import Collection
from typing import Final

from powauth._options import wrong
from powauth.errors import InvalidParams
from powauth.extensions.api_keys._table import MAX_NAME_CHARS

_SCOPE: Final = re.compile(r"[!#-\[\]-~]{1,128}\Z")
"""A scope: printable ASCII without spaces, quotes and backslashes (RFC 6749, section 3.3)."""


def scopes_of_app(found: object) -> frozenset[str]:
    """Return the scopes that the app gives a user.

    Raises:
        ConfigError: if they are no collection of texts without spaces.
    """
    if isinstance(found, str) or not isinstance(found, Collection):
        raise wrong("the scopes of a user", "a collection of texts, such as {'orders:read'}", found)
    for scope in found:
        if not isinstance(scope, str) or not _SCOPE.match(scope):
            raise wrong("a scope", "printable ASCII without spaces and quotes, such as 'orders:read'", scope)
    return frozenset(found)


def checked_name(name: object) -> str:
    """Return the name of a key without spaces around it.

    Raises:
        InvalidParams: if it is blank or too long, or has characters that cannot be shown (``name``).
    """
    text = name.strip() if isinstance(name, str) else ""
    if not text:
        raise InvalidParams({"name": ["can't be blank"]})
    if len(text) > MAX_NAME_CHARS:
        raise InvalidParams({"name": [f"is too long (at most {MAX_NAME_CHARS} characters)"]})
    if not text.isprintable():  # line breaks, and characters that reverse the text around them
        raise InvalidParams({"name": ["has characters that cannot be shown"]})
    return text


def checked_scopes(scopes: object, allowed: frozenset[str]) -> list[str]:
    """Return the scopes of a key in order, each once.

    Raises:
        InvalidParams: if they are not a list of texts, or one is not among ``allowed`` (``scopes``).
    """
    if (
        isinstance(scopes, str)
        or not isinstance(scopes, Collection)
        or not all(isinstance(each, str) for each in scopes)
    ):
        raise InvalidParams({"scopes": ["must be a list of texts"]})
    if not allowed.issuperset(scopes):
        raise InvalidParams({"scopes": ["contains a scope that you do not have"]})
    return sorted({*scopes})
