"""`Page`: one path, for people and for programs. The ready-made pages and those of extensions are `Page` objects.

`PagePart` is a part that an extension adds to a page of somebody else.
"""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from powauth._options import matching, wrong
from powauth.errors import ConfigError
from powauth.pages.replies import checked_csp
from powauth.pages.request import PageResponse
from powauth.pages.routes import is_path
from powauth.pages.visit import PageAnswer, PageVisit

Handler = Callable[[PageVisit], Awaitable[PageAnswer | PageResponse]]
"""Answers a request. A `PageResponse`, such as a style sheet or an image, is sent unchanged to people and programs."""


@dataclass(frozen=True, kw_only=True)
class PageLink:
    """The link to a page as a user sees it on another page.

    Attributes:
        text: the text of the link; ``None`` is that of the page's messages.
        urgent: whether the link looks like a notice, because it tells the user something new.
    """

    text: str | None = None
    urgent: bool = False


Offered = Callable[[PageVisit], Awaitable[PageLink | None]]
"""Returns the link to a page as the user of a request sees it; ``None`` if this user does not see it."""

_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")


@dataclass(frozen=True, kw_only=True)
class Page:
    """One path and its handlers.

    A handler is a coroutine function. It returns one `PageAnswer` for people and for programs, so each page has a JSON
    twin on the same path. It can raise powauth's errors, such as `NotSignedIn`. The pages answer them.

    Attributes:
        name: the name of its link in templates, unique among the pages.
        path: the path below the mount.
        get: the handler of ``GET`` and ``HEAD``.
        post: the handler of ``POST``. Cross-site requests do not reach it.
        template: the name of the template, without ``.html``. With ``None``, the answers must send people elsewhere.
        folder: the folder with the template. Templates in the app's own folder override it.
        messages: the texts of the template, by name. `Messages.more` replaces them.
        csp: additions to this page's Content-Security-Policy, such as ``{"script-src": ["'self'"]}``.
        offered_on: the name of another page that links to this one, such as ``"login"``. The text of the link is in
            ``messages``, under this page's name and ``_link``.
        offered_to: a coroutine function that takes the `PageVisit` of the other page, and returns a `PageLink`, or
            ``None`` for a user who does not see the link. It guards nothing: the handlers must still refuse other
            users. By default everybody sees the link.
        no_referrer: whether browsers name this page in no request, also not to this site. Browsers without
            ``Sec-Fetch-Site`` then cannot send its forms: they send ``Origin: null``.

    Raises:
        ConfigError: if a value is wrong.
    """

    name: str
    path: str
    get: Handler | None = None
    post: Handler | None = None
    template: str | None = None
    folder: Path | None = None
    messages: Mapping[str, str] = field(default_factory=dict)
    csp: Mapping[str, Sequence[str]] = field(default_factory=dict)
    offered_on: str | None = None
    offered_to: Offered | None = None
    no_referrer: bool = False

    def __post_init__(self) -> None:
        matching("the name of a page", self.name, _NAME, "letters, digits and underscores")
        if not is_path(self.path):
            raise wrong(f"the path of the page {self.name}", "a path such as '/activity'", self.path)
        if not self.methods:
            raise ConfigError(f"the page {self.name} needs a handler: give get or post")
        if self.folder is not None and not self.folder.is_dir():
            raise ConfigError(f"the folder of the page {self.name} does not exist: {str(self.folder)!r}")
        checked_csp(self.csp)
        if self.offered_on is not None and self.link_text not in self.messages:
            raise ConfigError(f"the page {self.name} is offered on another page, so messages needs {self.link_text!r}")

    @property
    def link_text(self) -> str:
        """The name of the text of the link to this page; see ``offered_on``."""
        return f"{self.name}_link"

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that this page answers."""
        return (("GET", "HEAD") if self.get is not None else ()) + (("POST",) if self.post is not None else ())

    def handler(self, method: str) -> Handler | None:
        """Return the handler of a method; ``None`` if the page does not allow the method."""
        return {"GET": self.get, "HEAD": self.get, "POST": self.post}.get(method)


@dataclass(frozen=True, kw_only=True)
class PagePart:
    """A part that an extension adds to another page, such as a button on the page to sign in.

    Parts appear where a page offers links to other pages. Programs do not see them.

    Attributes:
        on: the name of the page.
        template: the name of the template, without ``.html``. It gets the variables of the page.
        folder: the folder with the template. Templates in the app's own folder override it.
        messages: the texts of the template, by name. `Messages.more` replaces them.
        csp: additions to the page's Content-Security-Policy, such as ``{"script-src": ["'self'"]}``.

    Raises:
        ConfigError: if a value is wrong.
    """

    on: str
    template: str
    folder: Path
    messages: Mapping[str, str] = field(default_factory=dict)
    csp: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        matching("the page of a part", self.on, _NAME, "letters, digits and underscores")
        matching("the template of a part", self.template, _NAME, "letters, digits and underscores")
        if not self.folder.is_dir():
            raise ConfigError(f"the folder of the part {self.template} does not exist: {str(self.folder)!r}")
        checked_csp(self.csp)
