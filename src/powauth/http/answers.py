"""The responses to errors that a handler did not catch: JSON for programs, pages for people."""

import math
from collections.abc import Callable, Mapping
from copy import copy
from datetime import timedelta
from typing import NamedTuple, Self
from urllib.parse import quote

import msgspec

from powauth._options import wrong
from powauth._outages import report
from powauth.errors import (
    Accepted,
    AlreadySignedIn,
    ConfigError,
    CrossSiteRequest,
    InvalidParams,
    MoreNeeded,
    NotFresh,
    NotSignedIn,
    Overloaded,
    PowauthError,
    Refused,
    StoreUnavailable,
    Throttled,
)
from powauth.http.connection import Connection, Headers
from powauth.http.own_path import own_path, path_below
from powauth.http.people import asked_page, for_people, page, sentences

RETRY_AFTER = timedelta(seconds=5)
"""The ``Retry-After`` of an outage. Engines restart and fail over in seconds."""


SEE_OTHER = 303
"""The status of a redirect that the client follows with ``GET``."""

UNAUTHORIZED = 401
"""The status of a response to a client that is not signed in."""

CLIENT_ERROR = 400
"""The lowest status of an error. The response to an error below it is a success, and carries a session that began."""


class Answer(NamedTuple):
    """A whole response.

    Attributes:
        message: what a person is told who is redirected. Frameworks with flash messages show it on the next page.
    """

    status: int
    reason: str
    headers: Headers
    body: bytes
    message: str = ""

    @property
    def fields(self) -> list[tuple[str, str]]:
        """The headers as text."""
        return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in self.headers]


OnError = Callable[[PowauthError, Connection], Answer | None]
"""An app's own response to an error. ``None`` leaves the response to powauth."""


Resolve = Callable[[str, Connection], str]
"""Returns the path of a route by its name, for a request. It raises `ConfigError` if there is no such route."""


Challenge = Callable[[Connection], str | None]
"""Returns the ``WWW-Authenticate`` of a 401 to a request; ``None`` sends none."""


def _no_challenge(connection: Connection) -> None:
    del connection


class Answers:
    """Makes the responses of one integration to errors.

    People get a redirect to the sign-in page if signing in helps, and otherwise a plain page. Programs get JSON; see
    `answer_to` and `powauth.http.people.for_people`.

    Args:
        on_error: the app's own function, called first. With ``lambda error, connection: answer_to(error)`` people get
            JSON, too.
        sign_in_path: the sign-in page, as a path of the app. powauth puts the ``root_path`` or ``SCRIPT_NAME`` of the
            app in front of it. If a person asks for a page that needs a sign-in, powauth redirects to it, with the
            requested path as ``next``. After a form, ``next`` is the page with the form. ``None`` turns the redirect
            off.
        sign_in_endpoint: the name of the sign-in page's route, instead of ``sign_in_path``.
        resolve: finds the path of that route.

    Raises:
        ConfigError: if ``sign_in_path`` is no path of this origin, or both are given.
    """

    def __init__(
        self,
        on_error: OnError | None = None,
        sign_in_path: str | None = None,
        *,
        sign_in_endpoint: str | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        if on_error is not None and not callable(on_error):
            raise wrong("on_error", "a function of an error and a connection", on_error)
        if sign_in_path is not None and sign_in_endpoint is not None:
            raise ConfigError("give sign_in_path or sign_in_endpoint, not both: they name the same page")
        if sign_in_endpoint is not None and not (isinstance(sign_in_endpoint, str) and sign_in_endpoint):
            raise wrong("sign_in_endpoint", "the name of a route, such as 'auth.login'", sign_in_endpoint)
        if sign_in_endpoint is not None and resolve is None:
            raise ConfigError("sign_in_endpoint needs a framework whose routes have names: give sign_in_path instead")
        if sign_in_path is not None and not _is_page(sign_in_path):
            raise wrong("sign_in_path", "a path without a query, such as '/login'", sign_in_path)
        self.on_error = on_error
        self.sign_in_path = sign_in_path
        self.sign_in_endpoint = sign_in_endpoint
        self._resolve = resolve
        self._challenge: Challenge = _no_challenge

    def __call__(self, error: PowauthError, connection: Connection) -> Answer | None:
        """Return the response, or ``None`` if the error is a mistake in the app."""
        answer = None if self.on_error is None else self.on_error(error, connection)
        return answer or self.for_person(error, connection) or self._challenging(answer_to(error), connection)

    def with_challenge(self, challenge: Challenge) -> Self:
        """Return these answers with a challenge in each 401 (RFC 9110, section 15.5.2)."""
        made = copy(self)
        made._challenge = challenge
        return made

    def for_person(self, error: PowauthError, connection: Connection) -> Answer | None:
        """Return the response if a person made the request; ``None`` for a program, and for a mistake in the app."""
        if not for_people(connection):
            return None
        return self._redirect(error, connection) or self._challenging(self._page(error, connection), connection)

    def sign_in_page(self, connection: Connection) -> str | None:
        """Return the path of the sign-in page for a request; ``None`` if the app names none.

        Raises:
            ConfigError: if no route has the name, or its path is no path of this origin.
        """
        path = self.sign_in_path
        if self.sign_in_endpoint is not None and self._resolve is not None:
            path = self._resolve(self.sign_in_endpoint, connection)
            if not _is_page(path):
                raise ConfigError(f"sign_in_endpoint {self.sign_in_endpoint!r} is no page of this origin: {path!r}")
        return None if path is None else path_below(connection.prefix(), path)

    def _challenging(self, answer: Answer | None, connection: Connection) -> Answer | None:
        challenge = self._challenge(connection) if answer is not None and answer.status == UNAUTHORIZED else None
        if answer is None or challenge is None:
            return answer
        return answer._replace(headers=[*answer.headers, (b"www-authenticate", challenge.encode("latin-1"))])

    def _redirect(self, error: PowauthError, connection: Connection) -> Answer | None:
        if not isinstance(error, NotSignedIn | NotFresh) or connection.method() not in _REPEATABLE:
            return None
        sign_in_page = self.sign_in_page(connection)
        if sign_in_page is None or _without_query(own_path(connection.target())) == sign_in_page:
            return None
        target = asked_page(connection)
        known = target is not None and _without_query(target) != sign_in_page
        query = f"?next={quote(target or '', safe='/')}" if known else ""
        return see_other(sign_in_page + query)._replace(message=" ".join(sentences(error)))

    def _page(self, error: PowauthError, connection: Connection) -> Answer | None:
        answer = answer_to(error)
        if answer is None:
            return None
        headers, body = page(answer.status, error, self.sign_in_page(connection))
        replaced = {name for name, _ in headers}
        kept = [(name, value) for name, value in answer.headers if name not in replaced]
        return answer._replace(headers=[*headers, *kept], body=body)


_REPEATABLE = ("GET", "HEAD", "POST")
"""Methods of links and forms. A browser turns a redirect of them into a ``GET``."""


def _is_page(path: object) -> bool:
    return isinstance(path, str) and own_path(path) == path and not {*"?#"} & {*path}


def _without_query(path: str | None) -> str:
    return (path or "").partition("?")[0]


def chosen(answers: Mapping[str, Answers], error: PowauthError, own: Answers) -> Answers:
    """Return the answers of the authenticator whose guard raised the error, if an app has several authenticators."""
    key = error.current_user_key if isinstance(error, Refused) else None
    return own if key is None else answers.get(key, own)


def see_other(path: str) -> Answer:
    """Return a redirect to a path of this origin. The client follows it with ``GET`` (RFC 9110, section 15.4.4)."""
    headers = [(b"location", path.encode("ascii")), (b"content-length", b"0"), (b"cache-control", b"no-store")]
    return Answer(SEE_OTHER, "See Other", headers, b"")


def answer_to(error: PowauthError) -> Answer | None:
    """Return the JSON response to ``error``, or ``None`` if the error is a mistake in the app.

    - 202: `Accepted` with ``{"accepted": code}``
    - 401: `NotSignedIn`; `MoreNeeded` with ``{"factors": [name, …]}``, and ``challenge`` if there is one
    - 403: `AlreadySignedIn`, `NotFresh`, `CrossSiteRequest`, `Refused`
    - 422: `InvalidParams` with ``{"errors": {field: [message, …]}}``
    - 429 with ``Retry-After``: `Throttled`
    - 503 with ``Retry-After``: `StoreUnavailable`, `Overloaded`

    The response holds no message of an engine. The log has it.
    """
    if isinstance(error, Accepted):
        return _json(202, "Accepted", {"accepted": error.code})
    if isinstance(error, InvalidParams):
        return _json(422, "Unprocessable Content", {"errors": error.errors})
    if isinstance(error, NotSignedIn):
        return _json(401, "Unauthorized", {"error": reason(error)})
    if isinstance(error, MoreNeeded):
        given = {} if error.challenge is None else {"challenge": error.challenge}
        return _json(401, "Unauthorized", {"error": reason(error), "factors": error.factors, **given})
    if isinstance(error, NotFresh) and error.methods is not None:
        return _json(403, "Forbidden", {"error": reason(error), "methods": error.methods})
    if isinstance(error, Refused):
        why = {"reason": str(error)} if type(error) is Refused and str(error) else {}  # the app's own message
        return _json(403, "Forbidden", {"error": reason(error), **why})
    if isinstance(error, CrossSiteRequest):
        return _json(403, "Forbidden", {"error": "cross_site_request"})
    if isinstance(error, Throttled):
        return _json(429, "Too Many Requests", {"error": "throttled"}, _retry(error.retry_after))
    if isinstance(error, StoreUnavailable):
        report(error)
        return _json(503, "Service Unavailable", {"error": "store_unavailable"}, _retry(RETRY_AFTER))
    if isinstance(error, Overloaded):
        return _json(503, "Service Unavailable", {"error": "overloaded"}, _retry(error.retry_after))
    return None


def reason(error: Refused) -> str:
    """Return the machine-readable reason of a refusal."""
    if isinstance(error, NotSignedIn):
        return "not_signed_in"
    if isinstance(error, MoreNeeded):
        return "second_factor_required"
    if isinstance(error, NotFresh):
        return "fresh_sign_in_required"
    return "already_signed_in" if isinstance(error, AlreadySignedIn) else error.code


def _retry(wait: timedelta) -> tuple[bytes, bytes]:
    return b"retry-after", str(math.ceil(wait.total_seconds())).encode()


def _json(status: int, phrase: str, content: object, *more: tuple[bytes, bytes]) -> Answer:
    body = msgspec.json.encode(content)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    return Answer(status, phrase, [*headers, (b"cache-control", b"no-store")], body)
