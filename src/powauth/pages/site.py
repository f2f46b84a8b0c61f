"""`Pages`: the pages with their templates."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypedDict

from powauth.http.connection import Connection
from powauth.http.cross_site import CrossSiteDefence
from powauth.http.guards import FRESH
from powauth.pages.base import BasePages
from powauth.pages.messages import Messages
from powauth.pages.registry import contributed
from powauth.pages.routes import Routes
from powauth.plug import SessionAuth


class Pages(BasePages):
    """The ready-made pages and their JSON twins.

    Args:
        auth: the authenticator whose users these pages are for. Its middleware must run in front of them.
        routes: the paths of the pages and the destinations of steps.
        messages: the texts, or a function that chooses them for a connection.
        templates: a folder of the app's own templates; see `powauth.pages.rendering.Templates`.
        defence: the origins that may send forms and JSON.
        fresh: the maximum age of a sign-in for ending sessions. ``None`` sets no maximum.
        title: the name of the app.

    Raises:
        ConfigError: if an option is wrong, or Jinja2 is not installed.
    """

    def __init__(
        self,
        auth: SessionAuth[Any, Any],
        *,
        routes: Routes | None = None,
        messages: Messages | Callable[[Connection], Messages] | None = None,
        templates: str | Path | None = None,
        defence: CrossSiteDefence | None = None,
        fresh: timedelta | None = FRESH,
        title: str = "Account",
    ) -> None:
        from powauth.pages.rendering import Templates  # `BasePages` needs no Jinja2

        folders = {page.folder for page in contributed(auth) if page.folder} if isinstance(auth, SessionAuth) else set()
        super().__init__(
            auth,
            routes=routes,
            messages=messages,
            defence=defence,
            fresh=fresh,
            title=title,
            render=Templates(templates, sorted(folders)),
        )


class PagesOptions(TypedDict, total=False):
    """The options of `Pages`, for functions that make pages."""

    routes: Routes
    messages: Messages | Callable[[Connection], Messages]
    templates: str | Path | None
    defence: CrossSiteDefence
    fresh: timedelta | None
    title: str


def pages_of(auth: SessionAuth[Any, Any] | BasePages, options: PagesOptions) -> BasePages:
    """Return ``auth`` if it is `BasePages`. Otherwise make `Pages` with the options."""
    return auth if isinstance(auth, BasePages) else Pages(auth, **options)
