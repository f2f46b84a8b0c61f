"""`Page`: one path, for people and for programs. The ready-made pages and those of extensions are `Page` objects."""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from powauth._options import matching, wrong
from powauth.errors import ConfigError
from powauth.pages.replies import security_policy
from powauth.pages.request import PageResponse
from powauth.pages.routes import is_path
from powauth.pages.visit import PageAnswer, PageVisit

Handler = Callable[[PageVisit], Awaitable[PageAnswer | PageResponse]]
"""Answers a request. A `PageResponse`, such as a style sheet or an image, is sent unchanged to people and programs."""

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
        csp: additions to this page's Content-Security-Policy, such as ``{"script-src": "'self'"}``.

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
    csp: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        matching("the name of a page", self.name, _NAME, "letters, digits and underscores")
        if not is_path(self.path):
            raise wrong(f"the path of the page {self.name}", "a path such as '/activity'", self.path)
        if not self.methods:
            raise ConfigError(f"the page {self.name} needs a handler: give get or post")
        if self.folder is not None and not self.folder.is_dir():
            raise ConfigError(f"the folder of the page {self.name} does not exist: {str(self.folder)!r}")
        security_policy(self.csp)

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that this page answers."""
        return (("GET", "HEAD") if self.get is not None else ()) + (("POST",) if self.post is not None else ())

    def handler(self, method: str) -> Handler | None:
        """Return the handler of a method; ``None`` if the page does not allow the method."""
        return {"GET": self.get, "HEAD": self.get, "POST": self.post}.get(method)
