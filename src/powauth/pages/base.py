"""`BasePages`: answers requests with the pages of the registry, for people and for programs.

This module knows no framework and no template engine. `BasePages.respond` takes a `PageRequest` and returns a
`PageResponse`. A renderer makes the pages for people. Without a renderer, all clients get JSON.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol
from urllib.parse import quote

import msgspec

from powauth._options import instance, wrong_type
from powauth._times import duration
from powauth.accounts.fields import FormField
from powauth.errors import (
    Accepted,
    ConfigError,
    InvalidParams,
    NotFresh,
    NotSignedIn,
    PowauthError,
    Refused,
    Throttled,
)
from powauth.http.answers import UNAUTHORIZED, answer_to
from powauth.http.connection import Connection
from powauth.http.cross_site import CrossSiteDefence
from powauth.http.guards import FRESH
from powauth.http.own_path import own_path
from powauth.http.people import wait
from powauth.pages.layouts import Surroundings
from powauth.pages.messages import Messages
from powauth.pages.page import Page, PageLink
from powauth.pages.registry import by_path, contributed, page_parts_of
from powauth.pages.replies import REFERRER, Csp, checked_csp, json_reply, redirect, security_policy, typed
from powauth.pages.request import BadRequest, PageRequest, PageResponse
from powauth.pages.routes import Routes
from powauth.pages.visit import PageAnswer, PageVisit, Settings
from powauth.plug import SessionAuth

logger = logging.getLogger("powauth")

NOTHING: Csp = {}

HTML, TEXT = "text/html; charset=utf-8", "text/plain; charset=utf-8"


class Renderer(Protocol):
    """Makes pages: Jinja2 by default (`powauth.pages.rendering.Templates`), or another template engine of the app."""

    style: bytes
    """The style sheet."""

    style_version: str
    """A value that changes with the style sheet."""

    def render(self, name: str, context: Mapping[str, Any], surroundings: Surroundings) -> str:
        """Return the page with a name. The name is ``failure``, or the template of a `Page`.

        ``surroundings`` render a Jinja template with the framework's own variables, such as the request.
        """


def _registration(auth: SessionAuth[Any, Any]) -> tuple[FormField, ...]:
    """Return the fields of the form to register, without the password.

    Raises:
        ConfigError: if no registration could succeed.
    """
    first = auth.accounts.hooks.registers_with()
    return tuple(each for each in auth.users.registration_fields() if first is None or each.name in first)


class BasePages:
    """The pages, for people and for programs.

    Args:
        auth: the authenticator whose users these pages are for. Its middleware must run in front of them. The pages of
            its extensions are included.
        routes: the paths of the pages and the destinations of steps.
        messages: the texts, or a function that chooses them for a connection.
        defence: the origins that may send forms and JSON.
        fresh: the maximum age of a sign-in for ending sessions (ASVS 7.5.2). ``None`` sets no maximum. A change of the
            account needs the current password instead.
        title: the name of the app.
        csp: additions to the Content-Security-Policy of all pages: a mapping from directives to sources, such as
            ``{"style-src": ["https://cdn.example"]}``.
        render: makes the pages for people. ``None`` answers all clients in JSON.
        ready_made: whether the ready-made pages are included. ``False`` leaves the pages of the extensions, for an app
            with a sign-in of its own. It needs ``render=None``, because pages for people link to the ready-made ones.

    Raises:
        ConfigError: if an option is wrong, or if the page to register could never succeed: a column of the model is
            ``NOT NULL``, has no default, and is not among the fields that users may set.
    """

    def __init__(
        self,
        auth: SessionAuth[Any, Any],
        *,
        routes: Routes | None = None,
        messages: Messages | Callable[[Connection], Messages] | None = None,
        defence: CrossSiteDefence | None = None,
        fresh: timedelta | None = FRESH,
        title: str = "Account",
        csp: Mapping[str, Sequence[str]] | None = None,
        render: Renderer | None = None,
        ready_made: bool = True,
    ) -> None:
        if not isinstance(auth, SessionAuth):
            raise ConfigError(f"pages need a SessionAuth, not {type(auth).__name__}")
        if not ready_made and render is not None:
            raise ConfigError("ready_made=False needs render=None: pages for people link to the ready-made pages")
        instance("routes", routes, Routes | None, "Routes(login=..., ...) or None")
        instance("title", title, str, "a text, the name of the app")
        instance("defence", defence, CrossSiteDefence | None, "a CrossSiteDefence or None")
        if not (messages is None or isinstance(messages, Messages) or callable(messages)):
            raise wrong_type("messages", "Messages(...), or a function of the connection that returns one", messages)
        if fresh is not None:
            duration("fresh", fresh, at_least=1)
        self.current_user_key = auth.current_user_key
        self.defence = defence or CrossSiteDefence()
        self.title = title
        self._csp = checked_csp(csp or {})
        routes = routes or Routes()
        users = auth.users
        self.settings = Settings(
            routes=routes,
            messages=messages or Messages(),
            fresh=fresh,
            fields=_registration(auth) if ready_made and routes.register is not None else (),
            asks_password=auth.accounts.hooks.registers_with() is None,
            user_ids=(users.user_id_field, *users.other_user_id_fields),
            remember=auth.policy.remembered is not None,
            title=title,
        )
        self._renderer = render
        self._secure = auth.carrier.secure
        known = by_path(auth, routes, None if render is None else render.style)
        self._links = {page.name: page.path for page in known.values()}
        self._pages = known if ready_made else {page.path: page for page in contributed(auth)}
        if not self._pages:
            raise ConfigError("ready_made=False leaves no page: no extension of this SessionAuth has one")
        self._offered = [page for page in self._pages.values() if page.offered_on is not None]
        self._parts = page_parts_of(auth, {*self._links})
        self._texts = {name: text for page in self._pages.values() for name, text in page.messages.items()}

    def check_environment(self, environment: Any = None) -> None:
        """Check the framework's Jinja environment. Each integration calls this when it mounts the pages.

        Args:
            environment: the environment; ``None`` if the framework has none.

        Raises:
            ConfigError: if the pages cannot be rendered in it. The default needs none.
        """

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths of the pages, below the mount."""
        return tuple(self._pages)

    async def respond(self, request: PageRequest) -> PageResponse:
        """Answer one request. Every error becomes a response. An unexpected one is logged.

        Cross-site requests are refused first.
        """
        mount = request.mount.rstrip("/")  # routers that merge slashes leave slashes of "//login" here
        if mount and own_path(mount) != mount:
            # A browser would take every link of these pages for a link to another host.
            request = replace(request, mount="", path="")
        elif mount != request.mount:
            request = replace(request, mount=mount)
        page = self._pages.get(request.path)
        visit = PageVisit(request, self.settings, self._links, page.messages if page is not None else {})
        try:
            response = await self._respond(visit, page)
        except BadRequest as error:
            response = self._failure(visit, error.status, error.reason)
        except PowauthError as error:
            response = self._refusal(visit, error)
        except Exception:
            logger.exception("a page failed")
            response = self._failure(visit, 500, "internal_error")
        challenge = request.auth.auth.challenge(request.connection) if response.status == UNAUTHORIZED else None
        if challenge is not None:
            response.headers.append(("WWW-Authenticate", challenge))
        response.headers.append(("Content-Length", str(len(response.body))))
        if request.method == "HEAD":
            return PageResponse(response.status, response.headers)
        return response

    async def _respond(self, visit: PageVisit, page: Page | None) -> PageResponse:
        request = visit.request
        self.defence.check(request.connection, request.method, secure=self._secure)
        if page is None:
            raise BadRequest(404, "not_found")
        visit.auth.auth.check_session(request.connection)  # pages are about accounts: no other credential opens them
        handler = page.handler(request.method)
        if handler is None:
            refused = self._failure(visit, 405, "method_not_allowed")
            refused.headers.append(("Allow", ", ".join(page.methods)))
            return refused
        answer = await handler(visit)
        return answer if isinstance(answer, PageResponse) else await self._reply(visit, page, answer)

    async def _reply(self, visit: PageVisit, page: Page, answer: PageAnswer) -> PageResponse:
        if self._for_program(visit):
            return json_reply(answer.status, answer.json)
        if answer.to is not None:
            return redirect(answer.to)
        if page.template is None:
            raise ConfigError(f"the page {page.name} has no template, so its answers must send people elsewhere (to)")
        context = {"offered": await self._offers(page, visit), **answer.context}
        return self._page(visit, answer.status, page.template, context, page)

    def _for_program(self, visit: PageVisit) -> bool:
        return self._renderer is None or visit.request.wants_json

    def _refusal(self, visit: PageVisit, error: PowauthError) -> PageResponse:
        """Return the answer to an error, with one status for all clients. People who must sign in are redirected."""
        if isinstance(error, NotSignedIn | NotFresh) and not self._for_program(visit):
            asked = quote(visit.request.mount + visit.request.path, safe="/")
            return redirect(f"{visit.link('login')}?next={asked}")
        if isinstance(error, Accepted | Refused) and error.page in visit.links and not self._for_program(visit):
            return redirect(visit.link(error.page, error.done))
        answer = answer_to(error)
        if answer is None:
            logger.error("a page failed", exc_info=error)
            return self._failure(visit, 500, "internal_error")
        if self._for_program(visit):
            response = json_reply(answer.status, msgspec.Raw(answer.body))
        elif isinstance(error, InvalidParams):
            response = self._failure(visit, answer.status, "bad_request")
        else:
            later = error.retry_after if isinstance(error, Throttled) else None
            response = self._failure(visit, answer.status, msgspec.json.decode(answer.body)["error"], later)
        retry = [value.decode() for name, value in answer.headers if name == b"retry-after"]
        response.headers.extend(("Retry-After", value) for value in retry)
        return response

    def _failure(
        self, visit: PageVisit, status: int, reason: str, retry_after: timedelta | None = None
    ) -> PageResponse:
        if self._for_program(visit):
            return json_reply(status, {"error": reason})
        try:
            messages = visit.messages
            failure = messages.failures.get(reason) or messages.failure
            if retry_after is not None:
                unit, count = wait(retry_after)
                failure = messages.try_again[unit].format(count=count)
            heading = messages.headings.get(reason) or messages.failure
            return self._page(visit, status, "failure", {"failure": failure, "failure_heading": heading})
        except Exception:
            logger.exception("the page for a failure failed")
            return typed(max(status, 500), TEXT, b"Something went wrong.")

    def _done(self, visit: PageVisit, name: str) -> str | None:
        """Return the confirmation of a step of an extension. Any page can show it, such as the account page."""
        return visit.messages.more.get(f"done_{name}") or self._texts.get(f"done_{name}")

    def _page(
        self,
        visit: PageVisit,
        status: int,
        name: str,
        context: Mapping[str, object],
        page: Page | None = None,
    ) -> PageResponse:
        renderer = self._renderer
        assert renderer is not None  # noqa: S101 - only people get pages, and only with a renderer
        messages, links = visit.messages, visit.links
        parts = [] if page is None else [each for each in self._parts if each.on == page.name]
        texts = {name: text for each in parts for name, text in each.messages.items()} | dict(visit.texts)
        done = visit.request.query_value("done") if status == 200 else None  # noqa: PLR2004
        everything = {
            "title": self.title,
            "messages": messages,
            "texts": texts,
            "links": links,
            "style": f"{links['style']}?v={renderer.style_version}",
            "user_id_field": visit.user_id_field,
            "user_ids": visit.user_ids(),
            "user_id": visit.user_id(),
            "done": None if done is None else messages.done.get(done) or self._done(visit, done),
            "notice": None,
            "failure": None,
            "factors": (),
            "next": None,
            "action": None,
            "values": {},
            "errors": {},
            "parts": [f"{each.template}.html" for each in parts],
            "offered": [],
            **context,
        }
        body = renderer.render(name, everything, visit.request.surroundings).encode()
        policy = security_policy(self._csp, NOTHING if page is None else page.csp, *(each.csp for each in parts))
        referrer = "no-referrer" if page is not None and page.no_referrer else REFERRER
        return typed(status, HTML, body, policy, referrer=referrer)

    async def _offers(self, page: Page, visit: PageVisit) -> list[dict[str, object]]:
        """Return the links to other pages that a page offers to this user."""
        more, links = visit.messages.more, visit.links
        found: list[dict[str, object]] = []
        for each in self._offered:
            if each.offered_on != page.name:
                continue
            offer = PageLink() if each.offered_to is None else await each.offered_to(visit)
            if offer is not None:
                text = offer.text or more.get(each.link_text) or each.messages[each.link_text]
                found.append({"link": links[each.name], "text": text, "urgent": offer.urgent})
        return found
