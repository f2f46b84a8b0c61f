"""Pure WSGI: the same core, driven to its end in one step, with no event loop and no thread."""

import sys
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from itertools import chain
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from powauth.authenticator import Authenticator
from powauth.backends.base import drive
from powauth.errors import ConfigError, PowauthError
from powauth.http.answers import Answers, OnError, chosen
from powauth.http.connection import (
    MISSING,
    NO_EFFECTS,
    PREFIX,
    Connection,
    ConnectionStruct,
    Effects,
    States,
    with_effects,
)
from powauth.integrations._cors import warn_if_cors_is_inside
from powauth.request_auth import BlockingRequestAuth, RequestAuth

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

ENVIRON_PREFIX = "powauth."
"""``environ["powauth.current_user"]`` is the current user."""

REQUEST_AUTH_KEY = "powauth.request_auth"
"""Where in an environ what `request_auth` binds is, by ``current_user_key``: a `Bound` for each middleware."""

ERROR_KEY = "powauth.error"
"""Where in an environ a framework's integration notes the error that the framework makes a response out of."""

ANSWERS_KEY = "powauth.answers"
"""Where in an environ the `Answers` of each middleware are, by its ``current_user_key``."""


VARY = ("vary", "Cookie")
"""What `with_effects` adds where there is nothing else to do."""

_UNPREFIXED = frozenset({"CONTENT_TYPE", "CONTENT_LENGTH"})
"""The two headers that CGI, and so WSGI, names otherwise; empty when they are absent (PEP 3333)."""


class WSGIConnection(Connection, msgspec.Struct, metaclass=ConnectionStruct, eq=False):
    """A WSGI environ as the plug sees it."""

    environ: "WSGIEnvironment"
    states: States = msgspec.field(default_factory=dict)

    __repr__ = object.__repr__  # the environ holds secrets: error reporters keep what local variables look like

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

    def header(self, name: str) -> str | None:
        """See `Connection.header`."""
        key = name.upper().replace("-", "_")
        if key in _UNPREFIXED:
            return self.environ.get(key) or None
        return self.environ.get(f"HTTP_{key}")

    def client_ip(self) -> str | None:
        """See `Connection.client_ip`."""
        return self.environ.get("REMOTE_ADDR")

    def session(self) -> MutableMapping[str, Any] | None:
        """See `Connection.session`: none is standard in WSGI."""
        return None

    def assigned(self, key: str) -> object:
        """See `Connection.assigned`."""
        return self.environ.get(ENVIRON_PREFIX + key, MISSING)

    def assign(self, key: str, value: object) -> None:
        """See `Connection.assign`."""
        self.environ[ENVIRON_PREFIX + key] = value


Bound = tuple[Authenticator[Any], type[WSGIConnection], States]
"""What makes a `BlockingRequestAuth` of an environ: who authenticates, how they see it, what they remember of it."""


class SessionAuthMiddleware:
    """Puts an authenticator in front of a WSGI app.

    The current user is ``environ["powauth.current_user"]``, and the request-bound object is what `request_auth`
    returns. A powauth error that the app lets through is answered by `Answers`, if the response has not started.

    Args:
        app: the app behind it.
        auth: how to tell who a request is from.
        on_error: the app's own answers to powauth's errors; see `Answers`.
        sign_in_path: where people who must sign in are sent; see `Answers`.

    Raises:
        ConfigError: if a part of the authenticator needs an event loop, or an option is wrong.
    """

    def __init__(
        self,
        app: "WSGIApplication",
        auth: Authenticator[Any],
        *,
        on_error: OnError | None = None,
        sign_in_path: str | None = None,
    ) -> None:
        if not isinstance(auth, Authenticator):
            raise ConfigError(f"auth must be an Authenticator, such as a SessionAuth, not {type(auth).__name__}")
        warn_if_cors_is_inside(app)
        self.app = app
        self.auth = auth.for_wsgi()
        self.answers = Answers(on_error, sign_in_path)

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Serve one request."""
        auth = self.auth
        key = auth.current_user_key
        bound = environ.get(REQUEST_AUTH_KEY)
        if bound is not None and key in bound:
            auth.check_key_is_free(bound[key][0])
            return self.app(environ, start_response)  # the same one again, in a sub-app: the outer one sees to all
        connection = WSGIConnection(environ)
        if root := environ.get("SCRIPT_NAME"):  # a mount inside of this middleware makes it longer
            connection.states[PREFIX] = root
        if not auth.call_at_once(connection):
            drive(auth.call(connection))
        bind(environ, auth, connection)
        environ[ANSWERS_KEY] = {**environ.get(ANSWERS_KEY, {}), key: self.answers}
        response = _Response(auth, connection, self.answers, start_response)
        app = self.app  # see `Later.value`
        try:
            body = app(environ, response.start)
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
    """The way back of a request: what its app starts, with what the authenticator wants of it.

    A sub-app with its own error handling makes a response of status 500 out of an error of powauth's. The client gets
    the answer to the error instead.

    Attributes:
        started: the server has got the start of a response.
        answered: the body of the answer to an error, if that is the response.
    """

    auth: Authenticator[Any]
    connection: WSGIConnection
    answers: Answers
    server: "StartResponse"
    started: bool = False
    answered: bytes | None = None

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        if status.startswith("5"):
            return self._start_failed(status, headers, exc_info)
        auth, server = self.auth, self.server  # see `Later.value`
        effects = respond(auth, self.connection, failed=exc_info is not None)
        self.started = True
        return server(status, amended(headers, effects), exc_info)

    def _start_failed(self, status: str, headers: list[tuple[str, str]], exc_info: Any) -> Callable[[bytes], object]:
        error = _handled(self.connection.environ, exc_info)
        if status.startswith("500") and isinstance(error, PowauthError) and self.answer(error):
            return _discard
        effects = respond(self.auth, self.connection, failed=True)
        self.started = True
        return self.server(status, amended(headers, effects), exc_info)

    def answer(self, error: PowauthError) -> bool:
        """Start the answer to an error instead of the app's response; whether there is one."""
        answers = self.connection.environ[ANSWERS_KEY]
        answer = None if self.started else chosen(answers, error, self.answers)(error, self.connection)
        if answer is None:
            return False
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers]
        effects = respond(self.auth, self.connection, failed=True)
        self.started, self.answered = True, answer.body
        self.server(f"{answer.status} {answer.reason}", amended(headers, effects))
        return True


def _handled(environ: "WSGIEnvironment", exc_info: Any) -> BaseException | None:
    """The error that the app makes a response of status 500 out of, as far as it tells."""
    noted: BaseException | None = environ.pop(ERROR_KEY, None)
    return noted or (exc_info[1] if exc_info else sys.exception())


def _discard(part: bytes) -> None:
    del part


def _close(body: object) -> None:
    close = getattr(body, "close", None)
    if close is not None:
        close()


class _BegunBody:
    """A body whose first part has been asked for, so that an app which is a generator has started its response."""

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


def bind(environ: "WSGIEnvironment", auth: Authenticator[Any], connection: WSGIConnection) -> None:
    """Put what `request_auth` binds where it finds it."""
    bound: Bound = (auth, type(connection), connection.states)
    environ.setdefault(REQUEST_AUTH_KEY, {})[auth.current_user_key] = bound


def request_auth(environ: "WSGIEnvironment", current_user_key: str = "current_user") -> BlockingRequestAuth[Any]:
    """The request-bound object of an environ that the middleware has seen.

    Raises:
        ConfigError: if no middleware with that ``current_user_key`` has run: so a protected route refuses.
    """
    bound: Bound | None = environ.get(REQUEST_AUTH_KEY, {}).get(current_user_key)
    if bound is None:
        raise ConfigError(f"no SessionAuthMiddleware has run for {current_user_key!r}: wrap the app in it")
    auth, connection_type, states = bound
    return BlockingRequestAuth(RequestAuth(auth, connection_type(environ, states)), drive)


def respond(auth: Authenticator[Any], connection: Connection, *, failed: bool) -> Effects:
    """See `Authenticator.respond`."""
    return drive(auth.respond(connection, failed=failed)) if auth.is_due(connection) else NO_EFFECTS


def amended(headers: Iterable[tuple[str, str]], effects: Effects) -> list[tuple[str, str]]:
    """`with_effects` for headers as WSGI has them."""
    headers = list(headers)
    if effects is NO_EFFECTS and not any(name.lower() == "vary" for name, _ in headers):
        return [*headers, VARY]
    raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in with_effects(raw, effects)]
