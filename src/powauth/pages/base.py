"""`BasePages`: answers requests with the pages of the registry, for people and for programs.

This module knows no framework and no template engine. `BasePages.respond` takes a `PageRequest` and returns a
`PageResponse`. A renderer makes the pages for people. Without a renderer, all clients get JSON.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol
from urllib.parse import quote

import msgspec

from powauth.errors import ConfigError, InvalidParams, NotFresh, NotSignedIn, PowauthError
from powauth.http.answers import answer_to
from powauth.http.connection import Connection
from powauth.http.cross_site import CrossSiteDefence
from powauth.http.guards import FRESH
from powauth.http.own_path import own_path
from powauth.pages.messages import Messages
from powauth.pages.page import Page
from powauth.pages.registry import by_path
from powauth.pages.replies import STRICT, json_reply, redirect, security_policy, typed
from powauth.pages.request import BadRequest, PageRequest, PageResponse
from powauth.pages.routes import Routes
from powauth.pages.visit import PageAnswer, PageVisit, Settings
from powauth.plug import SessionAuth

logger = logging.getLogger("powauth")

HTML, TEXT = "text/html; charset=utf-8", "text/plain; charset=utf-8"


class Renderer(Protocol):
    """Makes pages: Jinja2 by default (`powauth.pages.rendering.Templates`), or another template engine of the app."""

    style: bytes
    """The style sheet."""

    style_version: str
    """A value that changes with the style sheet."""

    def render(self, name: str, context: Mapping[str, Any]) -> str:
        """Return the page with a name. The name is ``failure``, or the template of a `Page`."""


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
        render: makes the pages for people. ``None`` answers all clients in JSON.

    Raises:
        ConfigError: if an option is wrong.
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
        render: Renderer | None = None,
    ) -> None:
        if not isinstance(auth, SessionAuth):
            raise ConfigError(f"pages need a SessionAuth, not {type(auth).__name__}")
        self.current_user_key = auth.current_user_key
        self.defence = defence or CrossSiteDefence()
        self.title = title
        self.settings = Settings(
            routes=routes or Routes(),
            messages=messages or Messages(),
            fresh=fresh,
            user_id_field=auth.users.user_id_field,
            remember=auth.policy.remembered is not None,
        )
        self._renderer = render
        self._secure = auth.carrier.secure
        self._pages = by_path(auth, self.settings.routes, None if render is None else render.style)
        self._links = {page.name: page.path for page in self._pages.values()}

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
        response.headers.append(("Content-Length", str(len(response.body))))
        if request.method == "HEAD":
            return PageResponse(response.status, response.headers)
        return response

    async def _respond(self, visit: PageVisit, page: Page | None) -> PageResponse:
        request = visit.request
        self.defence.check(request.connection, request.method, secure=self._secure)
        if page is None:
            raise BadRequest(404, "not_found")
        handler = page.handler(request.method)
        if handler is None:
            refused = self._failure(visit, 405, "method_not_allowed")
            refused.headers.append(("Allow", ", ".join(page.methods)))
            return refused
        answer = await handler(visit)
        return answer if isinstance(answer, PageResponse) else self._reply(visit, page, answer)

    def _reply(self, visit: PageVisit, page: Page, answer: PageAnswer) -> PageResponse:
        if self._for_program(visit):
            return json_reply(answer.status, answer.json)
        if answer.to is not None:
            return redirect(answer.to)
        if page.template is None:
            raise ConfigError(f"the page {page.name} has no template, so its answers must send people elsewhere (to)")
        return self._page(visit, answer.status, page.template, answer.context, security_policy(page.csp))

    def _for_program(self, visit: PageVisit) -> bool:
        return self._renderer is None or visit.request.wants_json

    def _refusal(self, visit: PageVisit, error: PowauthError) -> PageResponse:
        """Return the answer to an error, with one status for all clients. People who must sign in are redirected."""
        if isinstance(error, NotSignedIn | NotFresh) and not self._for_program(visit):
            asked = quote(visit.request.mount + visit.request.path, safe="/")
            return redirect(f"{visit.link('login')}?next={asked}")
        answer = answer_to(error)
        if answer is None:
            logger.error("a page failed", exc_info=error)
            return self._failure(visit, 500, "internal_error")
        if self._for_program(visit):
            response = json_reply(answer.status, msgspec.Raw(answer.body))
        elif isinstance(error, InvalidParams):
            response = self._failure(visit, answer.status, "bad_request")
        else:
            response = self._failure(visit, answer.status, msgspec.json.decode(answer.body)["error"])
        retry = [value.decode() for name, value in answer.headers if name == b"retry-after"]
        response.headers.extend(("Retry-After", value) for value in retry)
        return response

    def _failure(self, visit: PageVisit, status: int, reason: str) -> PageResponse:
        if self._for_program(visit):
            return json_reply(status, {"error": reason})
        try:
            messages = visit.messages
            failure = messages.failures.get(reason) or messages.failure
            return self._page(visit, status, "failure", {"failure": failure})
        except Exception:
            logger.exception("the page for a failure failed")
            return typed(max(status, 500), TEXT, b"Something went wrong.")

    def _page(
        self, visit: PageVisit, status: int, name: str, context: Mapping[str, object], csp: str = STRICT
    ) -> PageResponse:
        renderer = self._renderer
        assert renderer is not None  # noqa: S101 - only people get pages, and only with a renderer
        messages, texts, links = visit.messages, visit.texts, visit.links
        done = visit.request.query_value("done") if status == 200 else None  # noqa: PLR2004
        everything = {
            "title": self.title,
            "messages": messages,
            "texts": texts,
            "links": links,
            "style": f"{links['style']}?v={renderer.style_version}",
            "user_id_field": visit.user_id_field,
            "user_id": visit.user_id(),
            "done": None if done is None else messages.done.get(done) or texts.get(f"done_{done}"),
            "notice": None,
            "failure": None,
            "factors": (),
            "next": None,
            "action": None,
            "values": {},
            "errors": {},
            **context,
        }
        return typed(status, HTML, renderer.render(name, everything).encode(), csp)
