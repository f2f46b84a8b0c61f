"""An integration for aiohttp over `powauth.http.visit`: ``setup(app, auth)``, and in handlers `request_auth`."""

import weakref
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeVar

from aiohttp import web

from powauth import Authenticator, PowauthError, RequestAuth
from powauth.http.answers import Answers
from powauth.http.connection import Connection, States
from powauth.http.visit import Visit, Visits, bound_in
from powauth.integrations.websockets import Sockets

U = TypeVar("U")
I = TypeVar("I")  # noqa: E741 - powauth's own name for the class of identities
Holder = MutableMapping[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
HOLDER: web.RequestKey[Holder] = web.RequestKey("powauth", dict)


class AiohttpConnection(Connection):
    def __init__(self, holder: Holder, states: States) -> None:
        self.request: web.Request = holder["request"]
        self.states = states

    def method(self) -> str:
        return self.request.method

    def target(self) -> str:
        return self.request.raw_path

    def cookies(self) -> str:
        return "; ".join(self.request.headers.getall("cookie", ()))

    def header(self, name: str) -> str | None:
        return ", ".join(self.request.headers.getall(name, ())) or None

    def client_ip(self) -> str | None:
        return self.request.remote


def setup(app: web.Application, auth: Authenticator[Any, Any], answers: Answers | None = None) -> None:
    auth.check_asgi()
    visits = Visits(auth, AiohttpConnection, answers or Answers())
    sockets = Sockets(auth)

    @web.middleware
    async def serve(request: web.Request, handler: Handler) -> web.StreamResponse:
        # The request holds this mapping, so the mapping must not hold the request.
        holder = request.setdefault(HOLDER, {"request": weakref.proxy(request)})
        visit = visits.enter(holder)
        if visit is None:  # an outer app has the same authenticator
            return await handler(request)
        if "upgrade" in request.headers and not sockets.admits(visit.connection):
            raise web.HTTPForbidden
        await visit.begin()
        holder["visit"] = visit
        try:
            return await handler(request)
        except PowauthError as error:
            answer = visit.answer(error) if "visit" in holder else None  # the response may have started
            if answer is None:
                raise
            return web.Response(status=answer.status, reason=answer.reason, headers=answer.fields, body=answer.body)

    async def prepare(request: web.Request, response: web.StreamResponse) -> None:
        visit: Visit | None = request.get(HOLDER, {}).pop("visit", None)
        if visit is not None:
            headers = await visit.headers(response.headers.items(), failed=response.status >= 500)
            response.headers.clear()
            response.headers.extend(headers)

    app.middlewares.append(serve)
    app.on_response_prepare.append(prepare)


def request_auth(request: web.Request, auth: Authenticator[U, I]) -> RequestAuth[U, I]:
    holder = request.get(HOLDER, {})
    visits, states = bound_in(holder, auth.current_user_key, "call setup(app, auth)")
    return RequestAuth(auth, visits.connect(holder, states))
