"""Flask: an extension with `current_user` and `login_required`.

It uses Flask's own hooks, so that Flask's ``session`` can carry the id and Flask's error handlers see powauth's errors.
"""

from collections.abc import Callable, MutableMapping
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from powauth.authenticator import Authenticator
from powauth.backends.base import drive
from powauth.errors import ConfigError, PowauthError
from powauth.integrations import wsgi
from powauth.integrations.answers import answer_to
from powauth.request_auth import BlockingRequestAuth

try:
    from flask import Flask, Response, current_app, g, request, session
    from werkzeug.datastructures import Headers
    from werkzeug.local import LocalProxy
except ImportError as error:
    raise ConfigError("Flask is not installed: pip install 'powauth[flask]'") from error

P = ParamSpec("P")
R = TypeVar("R")

EXTENSION = "powauth"


class FlaskConnection(wsgi.WSGIConnection):
    """A Flask request as the plug sees it: a WSGI environ, Flask's session, and ``g``."""

    __slots__ = ()

    def session(self) -> MutableMapping[str, Any] | None:
        """See `Connection.session`."""
        return session

    def assign(self, key: str, value: object) -> None:
        """See `Connection.assign`."""
        super().assign(key, value)
        setattr(g, key, value)


class PowAuth:
    """The extension: ``PowAuth(app, auth)``, or ``PowAuth(auth=auth)`` and later ``init_app(app)``.

    The current user is `current_user`, ``g.current_user`` and ``environ["powauth.current_user"]``; `request_auth` is
    the request-bound object. Several extensions with different ``current_user_key`` live side by side in one app.

    Raises:
        ConfigError: if a part of the authenticator needs an event loop, or the key is taken in this app.
    """

    def __init__(self, app: Flask | None = None, auth: Authenticator[Any] | None = None) -> None:
        if not isinstance(auth, Authenticator):
            raise ConfigError("PowAuth needs auth=, an Authenticator such as a SessionAuth")
        self.auth = auth.for_wsgi()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Hook into an app."""
        installed: dict[str, PowAuth] = app.extensions.setdefault(EXTENSION, {})
        key = self.auth.current_user_key
        if key in installed:
            raise ConfigError(
                f"this app has a PowAuth for {key!r} already: give the other one its own current_user_key"
            )
        installed[key] = self
        app.before_request(self._fetch)
        app.after_request(self._respond)
        if len(installed) == 1:
            app.register_error_handler(PowauthError, _answer)

    def _fetch(self) -> None:
        connection = FlaskConnection(request.environ)
        drive(self.auth.call(connection))
        setattr(g, self.auth.current_user_key, connection.assigned(self.auth.current_user_key))
        wsgi.bind(request.environ, self.auth, connection)

    def _respond(self, response: Response) -> Response:
        bound = request.environ.get(wsgi.REQUEST_AUTH_KEY, {}).get(self.auth.current_user_key)
        if bound is not None:  # an earlier hook may have answered before this one's turn came
            effects = drive(self.auth.respond(bound.connection, failed=response.status_code >= 500))  # noqa: PLR2004
            response.headers = Headers(wsgi.amended(response.headers, effects))
        return response


def _answer(error: PowauthError) -> Response:
    answer = answer_to(error)
    if answer is None:
        raise error
    headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in answer.headers]
    return Response(answer.body, answer.status, headers)


def request_auth(current_user_key: str = "current_user") -> BlockingRequestAuth[Any]:
    """The request-bound object of the current request.

    Raises:
        ConfigError: if the app has no `PowAuth` with that ``current_user_key``.
    """
    return wsgi.request_auth(request.environ, current_user_key)


def _current_user() -> Any:
    return request_auth().current_user


current_user: Any = LocalProxy(_current_user)
"""Who is signed in on the current request; false if nobody is.

Ask ``if current_user``, never ``current_user is None``: a proxy is not what it stands for, and never ``None``.

Using it raises `StoreUnavailable` if nobody could tell, which is answered with 503.
"""


def login_required(view: Callable[P, R]) -> Callable[P, R]:
    """A view for signed-in users only: anybody else gets 401, and 503 while nobody can tell."""

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        request_auth().require_user()
        return current_app.ensure_sync(view)(*args, **kwargs)  # type: ignore[no-any-return]

    return guarded
