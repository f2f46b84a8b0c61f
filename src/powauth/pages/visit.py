"""`PageVisit`, the request that a page's handler gets, and `PageAnswer`, the result of a handler."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any
from urllib.parse import urlencode

import msgspec

from powauth.accounts.base import Params
from powauth.accounts.fields import FormField
from powauth.errors import NotSignedIn, PowauthError
from powauth.http.answers import answer_to
from powauth.http.connection import Connection
from powauth.http.own_path import own_path, path_below
from powauth.pages.messages import Messages
from powauth.pages.request import PageRequest
from powauth.pages.routes import Routes
from powauth.request_auth import RequestAuth


@dataclass(frozen=True, kw_only=True)
class PageAnswer:
    """The result of a handler: one decision, for people and for programs.

    Attributes:
        json: the body for programs.
        status: the status for programs, and of the page for people. 204 has no body.
        to: the path to which people are redirected with status 303, instead of the page. `PageVisit.link` and
            `PageVisit.destination` return such paths.
        context: the variables of the page's template.
    """

    json: object = None
    status: int = 200
    to: str | None = None
    context: Mapping[str, object] = field(default_factory=dict)

    __repr__ = object.__repr__  # error reporters record what local variables look like


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options that all pages share.

    Attributes:
        routes: the paths of the pages and the destinations of steps.
        messages: the texts, or a function that chooses them for a connection.
        fresh: the maximum age of a sign-in for ending sessions. ``None`` sets no maximum.
        fields: the fields of the form to register, without the password; empty if the app offers no such page.
        asks_password: whether that form has the password. If not, an extension asks for it later.
        user_ids: the names of the fields that users sign in with. The first is the user id of the pages.
        remember: whether sign-in offers to remember the session.
        title: the name of the app.
    """

    routes: Routes
    messages: Messages | Callable[[Connection], Messages]
    fresh: timedelta | None
    fields: Sequence[FormField]
    asks_password: bool
    user_ids: Sequence[str]
    remember: bool
    title: str


class PageVisit:
    """One request for a page.

    Args:
        request: the request.
        settings: the options of the pages.
        links: the path of each page by its name, below the mount.
        texts: the default texts of an extension's page.

    Attributes:
        request: the request.
        auth: the request-bound object.
        settings: the options of the pages.
    """

    def __init__(
        self, request: PageRequest, settings: Settings, links: Mapping[str, str], texts: Mapping[str, str]
    ) -> None:
        self.request = request
        self.auth: RequestAuth[Any, Any] = request.auth
        self.settings = settings
        self._links = links
        self._texts = texts

    @cached_property
    def messages(self) -> Messages:
        """The texts for this request. They name what users sign in with."""
        chosen = self.settings.messages
        found = chosen if isinstance(chosen, Messages) else chosen(self.request.connection)
        return found.naming(self.settings.user_ids)

    @property
    def texts(self) -> Mapping[str, str]:
        """The texts of an extension's page. Texts in `Messages.more` replace its own."""
        return {**self._texts, **self.messages.more}

    @property
    def user_id_field(self) -> str:
        """The field of the user id that the pages show."""
        return self.settings.user_ids[0]

    async def params(self) -> Params:
        """Return the fields of the body: of a form or of a JSON object.

        Raises:
            BadRequest: if the body is too long, malformed or of another type. The pages answer it.
        """
        return await self.request.params()

    async def check_signed_in(self) -> None:
        """Check that the session is still alive. Call it after `params`, before a handler changes anything.

        The session may have ended while the client was sending the body. This takes one read.

        Raises:
            NotSignedIn: if it has ended.
            StoreUnavailable: if that cannot be determined.
        """
        if not await self.auth.recheck():
            raise NotSignedIn("the session has ended: sign in again")

    def user_id(self) -> str | None:
        """Return the user id of the current user; ``None`` if nobody is signed in, or the store is unreachable.

        The page that reports an outage must not fail because of it.
        """
        try:
            user = self.auth.current_user
        except PowauthError:
            return None
        return None if user is None else str(getattr(user, self.user_id_field))

    def user_ids(self) -> dict[str, str]:
        """Return all user ids of the current user by their fields, as far as the identity has them."""
        try:
            user = self.auth.current_user
        except PowauthError:
            user = None
        found = {name: getattr(user, name, None) for name in self.settings.user_ids}
        return {name: "" if value is None else str(value) for name, value in found.items()}

    # --- paths --------------------------------------------------------------------------------------------------------

    @property
    def links(self) -> dict[str, str]:
        """The path of each page by its name, including the mount."""
        return {name: self.request.mount + path for name, path in self._links.items()}

    def link(self, name: str, done: str | None = None) -> str:
        """Return the path of a page. ``done`` is the key of the confirmation that the page shows."""
        return self.links[name] + (f"?{urlencode({'done': done})}" if done else "")

    def destination(
        self, chosen: str | None, asked: object = None, *, done: str | None = None, default: str = "account"
    ) -> str:
        """Return the destination after a step: the requested path, else the app's choice, else a page.

        Args:
            chosen: the app's choice: a path of the app.
            asked: the path that the client requested. It is ignored unless it is a path of this origin.
            done: see `link`.
            default: the name of the page to use if there is no other path.
        """
        own = own_path(asked)
        if own is not None:
            return own
        if chosen is not None:
            return path_below(self.request.connection.prefix(), chosen)
        return self.link(default, done)

    # --- answers ------------------------------------------------------------------------------------------------------

    def form(
        self, params: Params | None = None, errors: Mapping[str, list[str]] | None = None, **context: object
    ) -> dict[str, object]:
        """Return the context of a page with a form: the entered values without passwords, and the errors."""
        messages = self.messages
        values = {name: value for name, value in (params or {}).items() if "password" not in name}
        sentences = {
            name: [text if name == "base" else messages.error(name, text) for text in texts]
            for name, texts in (errors or {}).items()
        }
        return {"values": values, "errors": sentences, **context}

    @staticmethod
    def refused(
        error: PowauthError, *, to: str | None = None, context: Mapping[str, object] | None = None
    ) -> PageAnswer:
        """Return the answer to an error. People see the error in the page itself, or are redirected to ``to``.

        Programs get the same response as if the handler had raised the error.
        """
        answer = answer_to(error)
        if answer is None:
            raise error
        return PageAnswer(status=answer.status, json=msgspec.Raw(answer.body), to=to, context=context or {})
