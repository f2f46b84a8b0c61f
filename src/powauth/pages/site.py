"""`Pages`: the pages with their templates."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, TypedDict

from powauth.errors import ConfigError
from powauth.http.connection import Connection
from powauth.http.cross_site import CrossSiteDefence
from powauth.http.guards import FRESH
from powauth.pages.base import BasePages
from powauth.pages.messages import Messages
from powauth.pages.registry import contributed, page_parts_of
from powauth.pages.routes import Routes
from powauth.plug import SessionAuth


class Pages(BasePages):
    """The ready-made pages and their JSON twins.

    Args:
        auth: the authenticator whose users these pages are for. Its middleware must run in front of them.
        routes: the paths of the pages and the destinations of steps.
        messages: the texts, or a function that chooses them for a connection.
        templates: a folder of the app's own templates; see `powauth.pages.rendering.Templates`.
        base: the name of the app's own base template, such as ``"layout.html"``. It has a block ``content``, in which
            each page appears, and may have a block ``title``. ``None`` makes whole pages.
        environment: the ``jinja2.Environment`` that has the base template. Under Flask, the default is the app's own.
        defence: the origins that may send forms and JSON.
        fresh: the maximum age of a sign-in for ending sessions. ``None`` sets no maximum.
        title: the name of the app.
        csp: additions to the Content-Security-Policy of all pages: a mapping from directives to sources, such as
            ``{"style-src": ["https://cdn.example"]}``.

    Raises:
        ConfigError: if an option is wrong, or Jinja2 is not installed; see also `BasePages`.
    """

    def __init__(
        self,
        auth: SessionAuth[Any, Any],
        *,
        routes: Routes | None = None,
        messages: Messages | Callable[[Connection], Messages] | None = None,
        templates: str | Path | None = None,
        base: str | None = None,
        environment: Any = None,
        defence: CrossSiteDefence | None = None,
        fresh: timedelta | None = FRESH,
        title: str = "Account",
        csp: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        from powauth.pages.rendering import Templates  # `BasePages` needs no Jinja2

        folders: set[Path] = set()
        if isinstance(auth, SessionAuth):
            folders = {page.folder for page in contributed(auth) if page.folder} | {
                each.folder for each in page_parts_of(auth)
            }
        self._templates = Templates(templates, sorted(folders), base=base, environment=environment)
        super().__init__(
            auth,
            routes=routes,
            messages=messages,
            defence=defence,
            fresh=fresh,
            title=title,
            csp=csp,
            render=self._templates,
        )

    def check_environment(self, environment: Any = None) -> None:
        """See `BasePages.check_environment`."""
        if environment is not None:
            self._templates.check_environment(environment)
        elif self._templates.needs_environment:
            raise ConfigError("base needs environment, the app's jinja2.Environment: only Flask has one of its own")


class PagesOptions(TypedDict, total=False):
    """The options of `Pages`, for functions that make pages."""

    routes: Routes
    messages: Messages | Callable[[Connection], Messages]
    templates: str | Path | None
    base: str | None
    environment: Any
    defence: CrossSiteDefence
    fresh: timedelta | None
    title: str
    csp: Mapping[str, Sequence[str]] | None


def pages_of(auth: SessionAuth[Any, Any] | BasePages, options: PagesOptions) -> BasePages:
    """Return ``auth`` if it is `BasePages`. Otherwise make `Pages` with the options.

    Raises:
        ConfigError: if there are options for `BasePages`, which have been made already.
    """
    if not isinstance(auth, BasePages):
        return Pages(auth, **options)
    if options:
        kind = type(auth).__name__
        raise ConfigError(f"give {', '.join(sorted(options))} to {kind}(…), and not to the function that mounts them")
    return auth


def framed_pages_of(auth: SessionAuth[Any, Any] | BasePages, options: PagesOptions) -> BasePages:
    """Return the same as `pages_of`, for a framework without a Jinja environment of its own.

    Raises:
        ConfigError: if the pages need one.
    """
    site = pages_of(auth, options)
    site.check_environment()
    return site
