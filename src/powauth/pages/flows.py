"""The flows behind the pages: what each step decides, once, for people and for programs.

Nothing here knows a framework or a template engine. `Flows.respond` takes a `PageRequest` and gives a `PageResponse`;
for people it asks its renderer for a page, and without a renderer it serves programs alone.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol
from urllib.parse import quote, urlencode

import msgspec

from powauth.accounts.identity import key_text, stored_key
from powauth.errors import AlreadySignedIn, ConfigError, InvalidParams, MoreNeeded, NotFresh, NotSignedIn, PowauthError
from powauth.http.answers import answer_to
from powauth.http.connection import Connection
from powauth.http.cross_site import CrossSiteDefence
from powauth.http.guards import FRESH, require_fresh
from powauth.http.own_path import own_path, path_below
from powauth.pages.devices import device_name
from powauth.pages.messages import Messages
from powauth.pages.request import JSON, BadRequest, PageRequest, PageResponse, Params
from powauth.pages.routes import Routes
from powauth.plug import SessionAuth
from powauth.sessions.info import SessionInfo
from powauth.sessions.store import Duration

logger = logging.getLogger("powauth")

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'; object-src 'none'"
)
"""No script, no frame, nothing from elsewhere (ASVS 3.4.3)."""

HEADERS = [
    ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    # Not "no-referrer": browsers then send "Origin: null" with the pages' own forms (Fetch, "append a request Origin").
    ("Referrer-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
    ("Vary", "Accept"),
]
"""On every answer but the style sheet's."""

STYLE_SECONDS = 3600
"""How long browsers keep the style sheet; its link changes with its text."""

_GET, _POST = ("GET", "HEAD"), ("POST",)

_META = ("action", "next")
"""Fields of the pages' own, which the users context never sees."""

Handler = Callable[[PageRequest], Any]


class Renderer(Protocol):
    """What makes pages: Jinja2 by default (`powauth.pages.rendering.Templates`), or anything an app likes."""

    style: bytes
    """The style sheet."""

    style_version: str
    """Changes with the style sheet."""

    def render(self, name: str, context: Mapping[str, Any]) -> str:
        """The page of this name: ``register``, ``login``, ``account``, ``sessions`` or ``failure``."""


class Flows:
    """Registering, signing in and out, changing the account, ending sessions, for people and for programs.

    Args:
        auth: the authenticator whose users these pages are for; its middleware must run in front of them.
        routes: the pages' paths and where steps lead.
        messages: the texts, or a function that chooses them for a connection.
        defence: which origins may send forms and JSON.
        fresh: how recent a sign-in must be to end sessions (ASVS 7.5.2); ``None`` is never asked. A change of the
            account needs the current password instead.
        title: the app's name, for people.
        render: what makes pages; ``None`` answers everybody in JSON.

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
        fresh: Duration | None = FRESH,
        title: str = "Account",
        render: Renderer | None = None,
    ) -> None:
        if not isinstance(auth, SessionAuth):
            raise ConfigError(f"pages need a SessionAuth, not {type(auth).__name__}")
        self.current_user_key = auth.current_user_key
        self.routes = routes or Routes()
        self.messages = messages or Messages()
        self.defence = defence or CrossSiteDefence()
        self.title = title
        self._fresh = fresh
        self._renderer = render
        self._secure = auth.carrier.secure
        self._user_id = auth.users.user_id_field
        paths = self.routes
        self._handlers: dict[str, tuple[tuple[str, ...], dict[str, Handler]]] = {
            paths.register: (_GET + _POST, {"GET": self._show_register, "POST": self._register}),
            paths.login: (_GET + _POST, {"GET": self._show_login, "POST": self._login}),
            paths.logout: (_POST, {"POST": self._logout}),
            paths.account: (_GET + _POST, {"GET": self._show_account, "POST": self._change_account}),
            paths.sessions: (_GET + _POST, {"GET": self._show_sessions, "POST": self._end_sessions}),
        }
        if render is not None:
            self._handlers[paths.style] = (_GET, {"GET": self._style})

    @property
    def paths(self) -> tuple[str, ...]:
        """The paths that are answered, below where the pages are mounted."""
        return tuple(self._handlers)

    async def respond(self, request: PageRequest) -> PageResponse:
        """Answer one request. Whatever comes in, the answer is a response; what is a mistake of ours is logged.

        Cross-site requests are refused before anything else is looked at.
        """
        mount = request.mount.rstrip("/")  # routers that merge slashes leave some of "//login"
        if mount and own_path(mount) != mount:
            # A browser would take every link of these pages for one to another host.
            request = replace(request, mount="", path="")
        elif mount != request.mount:
            request = replace(request, mount=mount)
        try:
            response = await self._respond(request)
        except BadRequest as error:
            response = self._failure(request, error.status, error.reason)
        except PowauthError as error:
            response = self._refusal(request, error)
        except Exception:
            logger.exception("a page failed")
            response = self._failure(request, 500, "internal_error")
        response.headers.append(("Content-Length", str(len(response.body))))
        if request.method == "HEAD":
            return PageResponse(response.status, response.headers)
        return response

    async def _respond(self, request: PageRequest) -> PageResponse:
        self.defence.check(request.connection, request.method, secure=self._secure)
        if request.path not in self._handlers:
            raise BadRequest(404, "not_found")
        allowed, handlers = self._handlers[request.path]
        if request.method not in allowed:
            refused = self._failure(request, 405, "method_not_allowed")
            refused.headers.append(("Allow", ", ".join(allowed)))
            return refused
        response: PageResponse = await handlers["GET" if request.method == "HEAD" else request.method](request)
        return response

    # --- registering --------------------------------------------------------------------------------------------------

    async def _show_register(self, request: PageRequest) -> PageResponse:
        signed_in = request.auth.current_user is not None
        if self._for_program(request):
            if signed_in:
                raise AlreadySignedIn("somebody is signed in")
            return _json(200, {"fields": [self._user_id, "password"]})
        return self._after(request, self.routes.after_register) if signed_in else self._register_page(request)

    async def _register(self, request: PageRequest) -> PageResponse:
        params = await request.params()
        if request.auth.current_user is not None:
            if self._for_program(request):
                raise AlreadySignedIn("somebody is signed in")
            return self._after(request, self.routes.after_register)
        try:
            user = await request.auth.register(_fields(params))
        except InvalidParams as error:
            if self._for_program(request):
                raise
            return self._register_page(request, 422, params, error.errors)
        except NotSignedIn:  # the account was made, and must be activated before anybody signs in to it
            if self._for_program(request):
                return _json(201, {"user": None, "session": None})
            return self._own(request, self.routes.login, "created")
        if self._for_program(request):
            return _json(201, self._signed_in(request, user))
        return self._after(request, self.routes.after_register, params.get("next"), done="registered")

    def _register_page(
        self, request: PageRequest, status: int = 200, params: Params | None = None, errors: Any = None
    ) -> PageResponse:
        target = request.query_value("next") if params is None else params.get("next")
        return self._form(request, status, "register", params, errors, next=own_path(target))

    # --- signing in and out -------------------------------------------------------------------------------------------

    async def _show_login(self, request: PageRequest) -> PageResponse:
        if self._for_program(request):
            return _json(200, {"fields": [self._user_id, "password"]})
        signed_in = request.auth.current_user is not None
        # Who is signed in and is sent here to come back must sign in anew: a redirect would go round in a circle.
        if signed_in and own_path(request.query_value("next")) is None:
            return self._after(request, self.routes.after_login)
        return self._login_page(request)

    async def _login(self, request: PageRequest) -> PageResponse:
        params = await request.params()
        try:
            user = await request.auth.sign_in(_fields(params))
        except MoreNeeded as error:
            if self._for_program(request):
                raise
            return self._login_page(request, 401, params, factors=error.factors)
        if self._for_program(request):
            found = (401, {"error": "invalid_credentials"}) if user is None else (200, self._signed_in(request, user))
            return _json(*found)
        if user is None:
            return self._login_page(request, 401, params)
        return self._after(request, self.routes.after_login, params.get("next"))

    def _login_page(
        self, request: PageRequest, status: int = 200, params: Params | None = None, factors: Sequence[str] = ()
    ) -> PageResponse:
        target = request.query_value("next") if params is None else params.get("next")
        messages = self._messages(request)
        refused = {"base": [messages.sign_in_refused]} if params is not None and not factors else None
        notice = messages.second_factor if factors else None
        if params is None and own_path(target) is not None:
            known = request.auth.current_user is not None
            notice = messages.sign_in_again if known else messages.sign_in_first
        more = {"next": own_path(target), "notice": notice, "factors": factors}
        return self._form(request, status, "login", params, refused, **more)

    async def _logout(self, request: PageRequest) -> PageResponse:
        await request.params()
        await request.auth.sign_out()
        if self._for_program(request):
            return PageResponse(204, list(HEADERS))
        return self._after(request, self.routes.after_logout, done="signed_out", default=self.routes.login)

    # --- the account --------------------------------------------------------------------------------------------------

    async def _show_account(self, request: PageRequest) -> PageResponse:
        user = request.auth.require_user()
        if self._for_program(request):
            return _json(200, self._signed_in(request, user))
        return self._account_page(request)

    async def _change_account(self, request: PageRequest) -> PageResponse:
        request.auth.require_user()
        params = await request.params()
        action = params.get("action", "update")
        try:
            if action not in ("update", "user_id", "password", "delete"):
                raise InvalidParams({"action": ["is unknown"]})
            if action == "delete":
                await request.auth.delete_user({"current_password": params.get("current_password")})
                return self._deleted(request)
            user = await request.auth.update_user(self._changes(str(action), params))
        except InvalidParams as error:
            if self._for_program(request):
                raise
            return self._account_page(request, 422, params, error.errors)
        if self._for_program(request):
            return _json(200, self._signed_in(request, user))
        return self._own(request, self.routes.account, "updated" if action == "update" else str(action))

    def _changes(self, action: str, params: Params) -> dict[str, object]:
        """What the users context gets: a form's own fields, which must not be empty; a program's as they are."""
        if action == "update":
            return _fields(params)
        name = self._user_id if action == "user_id" else "password"
        if params.get(name) in (None, ""):
            raise InvalidParams({name: ["can't be blank"]})
        return {name: params[name], "current_password": params.get("current_password")}

    def _deleted(self, request: PageRequest) -> PageResponse:
        if self._for_program(request):
            return PageResponse(204, list(HEADERS))
        return self._after(request, self.routes.after_delete, done="deleted", default=self.routes.login)

    def _account_page(
        self, request: PageRequest, status: int = 200, params: Params | None = None, errors: Any = None
    ) -> PageResponse:
        action = str((params or {}).get("action", "update"))
        return self._form(request, status, "account", params, errors, action=action)

    # --- sessions -----------------------------------------------------------------------------------------------------

    async def _show_sessions(self, request: PageRequest) -> PageResponse:
        request.auth.require_user()
        if self._for_program(request):
            return _json(200, {"sessions": [_session(session) for session in await request.auth.sessions()]})
        return await self._sessions_page(request)

    async def _end_sessions(self, request: PageRequest) -> PageResponse:
        request.auth.require_user()
        params = await request.params()
        if self._fresh is not None:
            require_fresh(request.auth, self._fresh)
        action = params.get("action", "end")
        if action == "end_others":
            ended = await request.auth.revoke_others()
            if self._for_program(request):
                return _json(200, {"ended": ended})
            return self._own(request, self.routes.sessions, "ended_others")
        if action != "end":
            raise InvalidParams({"action": ["is unknown"]})
        existed = await request.auth.revoke(params.get("id"))
        if self._for_program(request):
            return PageResponse(204, list(HEADERS)) if existed else _json(404, {"error": "not_found"})
        if not existed:
            return await self._sessions_page(request, 404, self._messages(request).failures.get("no_such_session"))
        if request.auth.current_user is None:
            return self._after(request, self.routes.after_logout, done="signed_out", default=self.routes.login)
        return self._own(request, self.routes.sessions, "ended")

    async def _sessions_page(self, request: PageRequest, status: int = 200, failure: str | None = None) -> PageResponse:
        messages = self._messages(request)
        found = await request.auth.sessions()
        devices = [_device(session, messages) for session in sorted(found, key=lambda session: not session.current)]
        return self._page(request, status, "sessions", devices=devices, failure=failure)

    # --- what all of them share ---------------------------------------------------------------------------------------

    def _for_program(self, request: PageRequest) -> bool:
        return self._renderer is None or request.wants_json

    def _messages(self, request: PageRequest) -> Messages:
        return self.messages if isinstance(self.messages, Messages) else self.messages(request.connection)

    def _signed_in(self, request: PageRequest, user: Any) -> dict[str, Any]:
        session = request.auth.session
        return {
            "user": {"id": _id_of(request, user), self._user_id: getattr(user, self._user_id)},
            "session": None if session is None else _session(session),
        }

    def _after(
        self,
        request: PageRequest,
        destination: str | None,
        target: object = None,
        *,
        done: str | None = None,
        default: str | None = None,
    ) -> PageResponse:
        """On to the page asked for before, else to the app's own destination, else to one of these pages."""
        asked = own_path(target)
        if asked is not None:
            return _redirect(asked)
        if destination is not None:
            return _redirect(path_below(request.connection.prefix(), destination))
        return self._own(request, default or self.routes.account, done)

    def _own(self, request: PageRequest, path: str, done: str | None) -> PageResponse:
        return _redirect(request.mount + path + (f"?{urlencode({'done': done})}" if done else ""))

    def _refusal(self, request: PageRequest, error: PowauthError) -> PageResponse:
        """The answer to an error: the same status for everybody; people who must sign in are sent to do so."""
        if isinstance(error, NotSignedIn | NotFresh) and not self._for_program(request):
            asked = quote(request.mount + request.path, safe="/")
            return _redirect(f"{request.mount}{self.routes.login}?next={asked}")
        answer = answer_to(error)
        if answer is None:
            logger.error("a page failed", exc_info=error)
            return self._failure(request, 500, "internal_error")
        if self._for_program(request):
            response = PageResponse(answer.status, _with_type(JSON), answer.body)
        elif isinstance(error, InvalidParams):
            response = self._failure(request, answer.status, "bad_request")
        else:
            response = self._failure(request, answer.status, msgspec.json.decode(answer.body)["error"])
        retry = [value.decode() for name, value in answer.headers if name == b"retry-after"]
        response.headers.extend(("Retry-After", value) for value in retry)
        return response

    def _failure(self, request: PageRequest, status: int, reason: str) -> PageResponse:
        if not self._for_program(request):
            try:
                messages = self._messages(request)
                return self._page(request, status, "failure", failure=messages.failures.get(reason) or messages.failure)
            except Exception:
                logger.exception("the page for a failure failed")
                return PageResponse(max(status, 500), _with_type("text/plain; charset=utf-8"), b"Something went wrong.")
        return _json(status, {"error": reason})

    def _form(
        self,
        request: PageRequest,
        status: int,
        name: str,
        params: Params | None,
        errors: Mapping[str, list[str]] | None,
        **more: Any,
    ) -> PageResponse:
        messages = self._messages(request)
        values = {key: value for key, value in (params or {}).items() if "password" not in key}
        # What the users context says belongs to no form field unless this form has that field: then it is said above.
        sentences = {
            field: [texts if field == "base" else messages.error(field, texts) for texts in found]
            for field, found in (errors or {}).items()
        }
        return self._page(request, status, name, **{"values": values, "errors": sentences, **more})

    def _page(self, request: PageRequest, status: int, name: str, **context: Any) -> PageResponse:
        renderer = self._renderer
        assert renderer is not None  # noqa: S101 - `_for_program` has been asked
        messages = self._messages(request)
        done = request.query_value("done") if status == 200 else None  # noqa: PLR2004
        links = {field: request.mount + getattr(self.routes, field) for field in _LINKS}
        everything = {
            "title": self.title,
            "messages": messages,
            "links": links,
            "style": f"{links['style']}?v={renderer.style_version}",
            "user_id_field": self._user_id,
            "user_id": self._known_user_id(request),
            "done": None if done is None else messages.done.get(done),
            "notice": None,
            "failure": None,
            "factors": (),
            "next": None,
            "action": None,
            "values": {},
            "errors": {},
            **context,
        }
        body = renderer.render(name, everything)
        return PageResponse(status, _with_type("text/html; charset=utf-8"), body.encode())

    def _known_user_id(self, request: PageRequest) -> str | None:
        """Who the page says is signed in; the page for an outage must not fail for want of it."""
        try:
            user = request.auth.current_user
        except PowauthError:
            return None
        return None if user is None else str(getattr(user, self._user_id))

    async def _style(self, request: PageRequest) -> PageResponse:
        renderer = self._renderer
        assert renderer is not None  # noqa: S101 - its route exists with a renderer only
        headers = [
            ("Content-Type", "text/css; charset=utf-8"),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", f"public, max-age={STYLE_SECONDS}"),
        ]
        del request
        return PageResponse(200, headers, renderer.style)


_LINKS = ("register", "login", "logout", "account", "sessions", "style")


def _id_of(request: PageRequest, identity: object) -> str:
    return key_text(stored_key(request.auth.auth.key_of(identity)))


def _fields(params: Params) -> dict[str, object]:
    return {name: value for name, value in params.items() if name not in _META}


def _with_type(content_type: str) -> list[tuple[str, str]]:
    return [("Content-Type", content_type), *HEADERS]


def _json(status: int, content: object) -> PageResponse:
    return PageResponse(status, _with_type(JSON), msgspec.json.encode(content))


def _redirect(path: str) -> PageResponse:
    """To a path of the own origin, by ``GET`` (303: a form with a password must not be sent again; RFC 9700, 4.12)."""
    return PageResponse(303, [("Location", path), *HEADERS])


def _session(session: SessionInfo) -> dict[str, Any]:
    return {
        "id": session.id,
        "current": session.current,
        "created_at": _iso(session.created_at),
        "renewed_at": _iso(session.renewed_at),
        "expires_at": _iso(session.expires_at),
        "ip": session.metadata.get("ip"),
        "user_agent": session.metadata.get("user_agent"),
    }


def _device(session: SessionInfo, messages: Messages) -> dict[str, Any]:
    """A session as the page shows it."""
    return {
        "id": session.id,
        "current": session.current,
        "name": device_name(session.metadata.get("user_agent"), messages),
        "ip": session.metadata.get("ip") or messages.unknown,
        "signed_in": _moment(session.created_at, messages),
        "seen": _moment(session.renewed_at, messages),
    }


def _moment(moment: datetime, messages: Messages) -> dict[str, str]:
    return {"iso": _iso(moment), "text": moment.astimezone(UTC).strftime(messages.time_format)}


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
