"""The pages as a Litestar router."""

from collections.abc import Mapping
from typing import Any, Unpack

from powauth._extras import needs
from powauth.pages.asgi import PageApp
from powauth.pages.base import BasePages
from powauth.pages.site import PagesOptions, framed_pages_of
from powauth.plug import SessionAuth

with needs("litestar", "the pages' router", "litestar"):
    from litestar import Request, Router, asgi
    from litestar.types import Receive, Scope, Send


def pages(auth: SessionAuth[Any, Any] | BasePages, *, path: str = "/", **options: Unpack[PagesOptions]) -> Router:
    """Return a router with all pages, for ``Litestar(route_handlers=[pages(auth)])``.

    Args:
        auth: the authenticator, or `BasePages` (such as `Pages`) made from it.
        path: the path below which the pages are mounted.
        options: the options of `Pages`, if ``auth`` is an authenticator.
    """
    site = framed_pages_of(auth, options)
    return Router(path, route_handlers=[_handler(PageApp(site, page, _variables)) for page in site.paths])


def _variables(scope: Any) -> Mapping[str, object]:
    return {"request": Request(scope)}  # `url_for` in templates needs it


def _handler(app: PageApp) -> asgi:
    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)  # type: ignore[arg-type]

    # The pages have a defence of their own, and no field for Litestar's token.
    return asgi(app.path, copy_scope=True, opt={"exclude_from_csrf": True})(page)
