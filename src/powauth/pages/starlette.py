"""The pages as Starlette routes."""

from collections.abc import Mapping
from typing import Any, Unpack

from powauth._extras import needs
from powauth.integrations.asgi import Scope
from powauth.pages.asgi import PageApp
from powauth.pages.base import BasePages
from powauth.pages.site import PagesOptions, framed_pages_of
from powauth.plug import SessionAuth

with needs("starlette", "the pages' routes", "starlette"):
    from starlette.requests import Request
    from starlette.routing import Route


def pages(auth: SessionAuth[Any, Any] | BasePages, **options: Unpack[PagesOptions]) -> list[Route]:
    """Return a route for each page, for ``Starlette(routes=[*pages(auth), …])`` or for a ``Mount``.

    Args:
        auth: the authenticator, or `BasePages` (such as `Pages`) made from it.
        options: the options of `Pages`, if ``auth`` is an authenticator.
    """
    site = framed_pages_of(auth, options)
    # The pages answer every method, so that a 405 lists the allowed methods and looks like the other pages.
    return [
        Route(path, PageApp(site, path, _variables), include_in_schema=False, name=_name(path)) for path in site.paths
    ]


def _variables(scope: Scope) -> Mapping[str, object]:
    return {"request": Request(scope)}  # `url_for` in templates needs it


def _name(path: str) -> str:
    return "powauth:" + path.removeprefix("/")
