"""Pure WSGI: the same core, driven to its end in one step, with no event loop and no thread."""

import sys
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from itertools import chain
from typing import Any, overload
from urllib.parse import quote
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import msgspec

from powauth._options import instance
from powauth.accounts.base import U
from powauth.accounts.identity import I
from powauth.backends.base import drive
from powauth.errors import PowauthError
from powauth.http.answers import CLIENT_ERROR, Answers, OnError
from powauth.http.connection import (
    MISSING,
    PREFIX,
    Connection,
    ConnectionStruct,
    Credentials,
    States,
    Vary,
    amended,
    vary_on,
)
from powauth.http.visit import Visit, Visits, bound_in, check_places
from powauth.integrations._cors import warn_if_cors_is_inside
from powauth.integrations._finding import authenticators_of
from powauth.plug import Authenticator, current_user_key_of
from powauth.request_auth import BlockingRequestAuth, RequestAuth

ENVIRON_PREFIX = "powauth."
"""``environ["powauth.current_user"]`` is the current user."""

ERROR_KEY = "powauth.error"
"""The key in an environ of the error that a framework turns into a response. Its integration sets it."""

_UNPREFIXED = frozenset({"CONTENT_TYPE", "CONTENT_LENGTH"})
"""The two headers that WSGI names without ``HTTP_``. They may be empty when they are absent (PEP 3333)."""


class WSGIConnection(Connection, msgspec.Struct, metaclass=ConnectionStruct, eq=False):
    """A WSGI environ as the plug sees it."""

    environ: WSGIEnvironment
    states: States = msgspec.field(default_factory=dict)

    __repr__ = object.__repr__  # the environ holds secrets: error reporters record the repr of local variables

    def method(self) -> str:
        """See `Connection.method`."""
        method: str = self.environ["REQUEST_METHOD"]
        return method

    def target(self) -> str:
        """See `Connection.target`."""
        path = self.environ.get("SCRIPT_NAME", "") + self.environ.get("PATH_INFO", "")
        query = self.environ.get("QUERY_STRING", "")
        path = quote(path, encoding="latin-1")  # PEP 3333: a character for each byte
        return f"{path}?{query}" if query else path

    def prefix(self) -> str:
        """See `Connection.prefix`."""
        return quote(self.states.get(PREFIX, ""), encoding="latin-1")

    def cookies(self) -> str:
        """See `Connection.cookies`."""
        cookies: str = self.environ.get("HTTP_COOKIE", "")
        return cookies

    def credentials(self) -> Credentials:
        """See `Connection.credentials`."""
        environ = self.environ
        return environ.get("HTTP_COOKIE", ""), environ.get("HTTP_AUTHORIZATION")

    def header(self, name: str) -> str | None:
        """See `Connection.header`."""
        key = name.upper().replace("-", "_")
        if key in _UNPREFIXED:
            return self.environ.get(key) or None
        return self.environ.get(f"HTTP_{key}")

    def client_ip(self) -> str | None:
        """See `Connection.client_ip`."""
        return self.environ.get("REMOTE_ADDR")

    def assigned(self, key: str) -> object:
        """See `Connection.assigned`."""
        return self.environ.get(ENVIRON_PREFIX + key, MISSING)

    def assign(self, key: str, value: object) -> None:
        """See `Connection.assign`."""
        self.environ[ENVIRON_PREFIX + key] = value


class SessionAuthMiddleware:
    """Puts an authenticator in front of a WSGI app.

    The current user is ``environ["powauth.current_user"]``, and `request_auth` returns the request-bound object. If the
    app does not handle a powauth error, `Answers` answers it, unless the response has started.

    Args:
        app: the app behind it.
        auth: the authenticator.
        on_error: the app's own answers to powauth's errors; see `Answers`.
        sign_in_path: the path of the sign-in page; see `Answers`.

    Raises:
        ConfigError: if a part of the authenticator needs an event loop, ``app`` has an authenticator with the same
            ``session_key``, or an option is wrong.
    """

    def __init__(
        self,
        app: WSGIApplication,
        auth: Authenticator[Any, Any],
        *,
        on_error: OnError | None = None,
        sign_in_path: str | None = None,
    ) -> None:
        instance("auth", auth, Authenticator, "an Authenticator, such as a SessionAuth")
        auth.check_wsgi()
        warn_if_cors_is_inside(app)
        check_places(auth, authenticators_of(app))
        self.app = app
        self.auth = auth
        self.visits = Visits(auth, WSGIConnection, Answers(on_error, sign_in_path))
        self._vary = vary_on(auth.vary)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        visit = self.visits.enter(environ)
        if visit is None:  # a sub-app with the same authenticator: the outer middleware does all the work
            return self.app(environ, start_response)
        if root := environ.get("SCRIPT_NAME"):  # a mount inside this middleware extends it later
            visit.connection.states[PREFIX] = root
        if not self.auth.call_at_once(visit.connection):
            drive(visit.begin())
        response = _Response(visit, self._vary, start_response)
        try:
            body = self.app(environ, response.start)
            if not response.started:
                body = _BegunBody(body)
        except PowauthError as error:
            if response.answered is None and not response.answer(error):
                raise
            return [response.answered or b""]
        if response.answered is None:
            return body
        _close(body)
        return [response.answered]


class _Response(msgspec.Struct):
    """The response of an app, with the additions of the authenticator.

    A sub-app with its own error handling turns a powauth error into a response of status 500. The client gets powauth's
    answer instead.

    Attributes:
        visit: the request.
        vary: the headers ``Vary`` for the request headers that identify the user.
        server: the server's ``start_response``.
        started: the server has received the start of a response.
        answered: the body of the answer to an error, if that is the response.
    """

    visit: Visit
    vary: Vary
    server: StartResponse
    started: bool = False
    answered: bytes | None = None

    __repr__ = object.__repr__  # error reporters record the repr of local variables

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        failed = exc_info is not None or status.startswith("5")
        if failed and status.startswith("500"):
            error = _handled(self.visit.holder, exc_info)
            if isinstance(error, PowauthError) and self.answer(error):
                return _discard
        effects = self.visit.blocking_effects(failed=failed)
        self.started = True
        return self.server(status, amended(headers, effects, self.vary), exc_info)

    def answer(self, error: PowauthError) -> bool:
        """Start the answer to an error instead of the app's response. Return whether there is one."""
        answer = None if self.started else self.visit.answer(error)
        if answer is None:
            return False
        effects = self.visit.blocking_effects(failed=answer.status >= CLIENT_ERROR)
        self.started, self.answered = True, answer.body
        self.server(f"{answer.status} {answer.reason}", amended(answer.fields, effects, self.vary))
        return True


def _handled(environ: MutableMapping[str, Any], exc_info: Any) -> BaseException | None:
    """Return the error that the app turns into a response of status 500, if it is known."""
    noted: BaseException | None = environ.pop(ERROR_KEY, None)
    return noted or (exc_info[1] if exc_info else sys.exception())


def _discard(part: bytes) -> None:
    del part


def _close(body: object) -> None:
    close = getattr(body, "close", None)
    if close is not None:
        close()


class _BegunBody:
    """A body whose first part has been requested, so that an app that is a generator has started its response."""

    def __init__(self, body: Iterable[bytes]) -> None:
        self._body = body
        try:
            parts: Iterator[bytes] = iter(body)
            first = next(parts, None)
        except BaseException:
            self.close()
            raise
        self._parts = parts if first is None else chain((first,), parts)

    def __iter__(self) -> Iterator[bytes]:
        return self._parts

    def close(self) -> None:
        _close(self._body)


@overload
def request_auth(environ: WSGIEnvironment, auth: Authenticator[U, I], /) -> BlockingRequestAuth[U, I]: ...


@overload
def request_auth(environ: WSGIEnvironment, current_user_key: str = ...) -> BlockingRequestAuth[Any, Any]: ...


def request_auth(
    environ: WSGIEnvironment, current_user_key: str | Authenticator[Any, Any] = "current_user"
) -> BlockingRequestAuth[Any, Any]:
    """Return the request-bound object of an environ that the middleware has seen.

    Args:
        environ: the environ of the request.
        current_user_key: selects the authenticator if there are several. If you pass the authenticator itself, type
            checkers know its types.

    Raises:
        ConfigError: if no middleware with that ``current_user_key`` has run. A protected route then serves nobody.
    """
    visits, states = bound_in(environ, current_user_key_of(current_user_key), "wrap the app in it")
    return BlockingRequestAuth(RequestAuth(visits.auth, visits.connect(environ, states)), drive)
