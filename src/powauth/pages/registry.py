"""The registry of pages: the ready-made pages, then the pages of the extensions."""

from collections.abc import Mapping, Sequence
from typing import Any

from powauth.errors import ConfigError
from powauth.pages import account, register, sessions, sign_in, sign_out, style
from powauth.pages.page import Page
from powauth.pages.routes import Routes
from powauth.plug import SessionAuth


def ready_made(routes: Routes) -> list[Page]:
    """Return the ready-made pages. Add a new page here."""
    return [each.page(routes) for each in (register, sign_in, sign_out, account, sessions)]


def contributed(auth: SessionAuth[Any, Any]) -> list[Page]:
    """Return the pages of an authenticator's extensions, in the order of the extensions.

    Raises:
        ConfigError: if an extension returns an object that is no `Page`.
    """
    found = [(extension, page) for extension in auth.accounts.hooks.extensions for page in extension.pages()]
    for extension, page in found:
        if not isinstance(page, Page):
            kind = type(extension).__name__
            raise ConfigError(f"{kind}.pages() must return Page objects, not {type(page).__name__}")
    return [page for _, page in found]


def by_path(auth: SessionAuth[Any, Any], routes: Routes, sheet: bytes | None) -> Mapping[str, Page]:
    """Return all pages by their path. ``sheet`` is the style sheet, or ``None``.

    Raises:
        ConfigError: if two pages have the same path or the same name.
    """
    styles: Sequence[Page] = [] if sheet is None else [style.page(routes, sheet)]
    pages = [*ready_made(routes), *styles, *contributed(auth)]
    for kind, given in (("path", [page.path for page in pages]), ("name", [page.name for page in pages])):
        twice = sorted({each for each in given if given.count(each) > 1})
        if twice:
            raise ConfigError(f"two pages have the same {kind}: {', '.join(twice)}")
    return {page.path: page for page in pages}
