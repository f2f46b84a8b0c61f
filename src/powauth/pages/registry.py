"""The registry of pages: the ready-made pages, then the pages of the extensions."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from powauth.errors import ConfigError
from powauth.pages import account, register, sessions, sign_in, sign_out, style
from powauth.pages.page import Page, PagePart
from powauth.pages.routes import Routes
from powauth.plug import SessionAuth


def ready_made(routes: Routes) -> list[Page]:
    """Return the ready-made pages. Add a new page here."""
    registration = [] if routes.register is None else [register.page(routes.register)]
    return [*registration, *(each.page(routes) for each in (sign_in, sign_out, account, sessions))]


def contributed(auth: SessionAuth[Any, Any]) -> list[Page]:
    """Return the pages of an authenticator's extensions, in the order of the extensions.

    Several extensions may return the same object, such as a script that they share.

    Raises:
        ConfigError: if an extension returns an object that is no `Page`.
    """
    found = [(extension, page) for extension in auth.accounts.hooks.extensions for page in extension.pages()]
    for extension, page in found:
        if not isinstance(page, Page):
            kind = type(extension).__name__
            raise ConfigError(f"{kind}.pages() must return Page objects, not {type(page).__name__}")
    return list({id(page): page for _, page in found}.values())


def page_parts_of(auth: SessionAuth[Any, Any], names: Collection[str] | None = None) -> Sequence[PagePart]:
    """Return what the extensions of an authenticator add to pages, in the order of the extensions.

    Raises:
        ConfigError: if an extension returns an object that is no `PagePart`, or the part is for a page that is not
            among ``names``.
    """
    found = [(extension, part) for extension in auth.accounts.hooks.extensions for part in extension.page_parts()]
    for extension, part in found:
        kind = type(extension).__name__
        if not isinstance(part, PagePart):
            raise ConfigError(f"{kind}.page_parts() must return PagePart objects, not {type(part).__name__}")
        if names is not None and part.on not in names:
            raise ConfigError(f"{kind} adds a part to a page that does not exist: {part.on}")
    return [part for _, part in found]


def by_path(auth: SessionAuth[Any, Any], routes: Routes, sheet: bytes | None) -> Mapping[str, Page]:
    """Return all pages by their path. ``sheet`` is the style sheet, or ``None``.

    Raises:
        ConfigError: if two pages have the same path or the same name, or one is offered on a page that does not exist.
    """
    styles: Sequence[Page] = [] if sheet is None else [style.page(routes, sheet)]
    pages = [*ready_made(routes), *styles, *contributed(auth)]
    for kind, given in (("path", [page.path for page in pages]), ("name", [page.name for page in pages])):
        twice = sorted({each for each in given if given.count(each) > 1})
        if twice:
            raise ConfigError(f"two pages have the same {kind}: {', '.join(twice)}")
    names = {page.name for page in pages}
    lost = [page for page in pages if page.offered_on is not None and page.offered_on not in names]
    if lost:
        raise ConfigError(f"the page {lost[0].name} is offered on a page that does not exist: {lost[0].offered_on}")
    return {page.path: page for page in pages}
