"""An integration for Quart over `powauth.http.visit`: ``session = PowAuth(app, auth)``."""

from typing import Any, Generic, TypeVar, cast

from quart import Quart, Response, g, request

from powauth import Authenticator, PowauthError, RequestAuth
from powauth.http.answers import Answers
from powauth.http.visit import Visits
from powauth.integrations.asgi import ASGIConnection, request_auth

U = TypeVar("U")
I = TypeVar("I")  # noqa: E741 - powauth's own name for the class of identities


class PowAuth(Generic[U, I]):
    def __init__(self, app: Quart, auth: Authenticator[U, I], answers: Answers | None = None) -> None:
        auth.check_asgi()
        self.auth = auth
        self.visits = Visits(auth, ASGIConnection, answers or Answers())
        app.before_request(self.begin)
        app.after_request(self.end)
        app.register_error_handler(PowauthError, self.answer)

    def request_auth(self) -> RequestAuth[U, I]:
        return request_auth(cast("dict[str, Any]", request.scope), self.auth)

    async def begin(self) -> None:
        visit = self.visits.enter(cast("dict[str, Any]", request.scope))
        if visit is not None:  # otherwise an ASGI middleware has the same authenticator
            g.visit = visit
            await visit.begin()

    async def end(self, response: Response) -> Response:
        if "visit" in g:  # an earlier hook may have answered already
            headers = await g.visit.headers(response.headers.items(), failed=response.status_code >= 500)
            response.headers.clear()
            response.headers.extend(headers)
        return response

    async def answer(self, error: PowauthError) -> Response:
        answer = g.visit.answer(error) if "visit" in g else None
        if answer is None:
            raise error
        return Response(answer.body, answer.status, answer.fields)
