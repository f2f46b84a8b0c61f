"""The pages as Starlette's routes."""

from typing import Any, Unpack

from powauth._extras import needs
from powauth.pages.asgi import PageApp
from powauth.pages.flows import Flows
from powauth.pages.site import PagesOptions, flows_of
from powauth.plug import SessionAuth

with needs("starlette", "the pages' routes", "starlette"):
    from starlette.routing import Route


def pages(auth: SessionAuth[Any, Any] | Flows, **options: Unpack[PagesOptions]) -> list[Route]:
    """A route for each page: ``Starlette(routes=[*pages(auth), …])``, or below a path in a ``Mount``.

    Args:
        auth: the authenticator, or `Flows` (`Pages`) made of it.
        options: those of `Pages`, with an authenticator.
    """
    flows = flows_of(auth, options)
    # The flows answer every method, so that 405 says what is allowed here and looks like the other pages.
    return [Route(path, PageApp(flows, path), include_in_schema=False, name=_name(path)) for path in flows.paths]


def _name(path: str) -> str:
    return "powauth:" + path.removeprefix("/")
