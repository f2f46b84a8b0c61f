"""Flask: an extension with `current_user` and `login_required`.

It uses Flask's own hooks, so that Flask's ``session`` can carry the id and Flask's error handlers see powauth's errors.
"""

from collections.abc import Callable, MutableMapping
from datetime import timedelta
from functools import partial, wraps
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload
from urllib.parse import quote

import msgspec

from powauth._extras import needs
from powauth._options import wrong_type
from powauth._times import duration
from powauth.accounts.as_json import as_json
from powauth.accounts.base import U
from powauth.accounts.identity import I
from powauth.backends.base import drive
from powauth.errors import ConfigError, PowauthError, StoreUnavailable
from powauth.http.answers import Answers, OnError, chosen
from powauth.http.connection import MISSING, NO_EFFECTS, amended, has_vary
from powauth.http.cross_site import CrossSiteDefence
from powauth.http.guards import FRESH, OWN_ORIGIN, require_fresh, require_no_user, require_same_origin, require_user
from powauth.http.visit import HOLDER_KEY, Visit, Visits, bound_in
from powauth.integrations import wsgi
from powauth.plug import Authenticator
from powauth.request_auth import BlockingRequestAuth, RequestAuth

with needs("flask", "the Flask integration", "flask", "werkzeug"):
    from flask import Flask, Response, current_app, g, got_request_exception, request, session
    from flask.json.provider import DefaultJSONProvider
    from flask.sessions import SecureCookieSessionInterface
    from werkzeug.datastructures import Headers
    from werkzeug.local import LocalProxy

P = ParamSpec("P")
R = TypeVar("R")

EXTENSION = "powauth"

SERVER_ERROR = 500
"""The status of a response to an error that the app did not expect."""


class FlaskConnection(wsgi.WSGIConnection):
    """A Flask request as the plug sees it: a WSGI environ, Flask's session, and ``g``."""

    def session(self) -> MutableMapping[str, Any] | None:
        """See `Connection.session`."""
        return session

    def prefix(self) -> str:
        """See `Connection.prefix`. This is the path at which the Flask app itself is mounted."""
        return quote(self.environ.get("SCRIPT_NAME", ""), encoding="latin-1")

    def renew_session(self) -> bool:
        """See `Connection.renew_session`. Flask's own session is in the cookie. Flask-Session can renew its id."""
        interface = current_app.session_interface
        if isinstance(interface, SecureCookieSessionInterface):
            return True
        regenerate = getattr(interface, "regenerate", None)
        if regenerate is None:
            return False
        regenerate(session)
        return True

    def assign(self, key: str, value: object) -> None:
        """See `Connection.assign`."""
        super().assign(key, value)
        setattr(g, key, value)


class PowAuth(Generic[U, I]):
    """The extension: ``PowAuth(app, auth)``, or ``PowAuth(auth=auth)`` and later ``init_app(app)``.

    The current user is `current_user`, ``g.current_user`` and ``environ["powauth.current_user"]``. `request_auth`
    returns the request-bound object. An app can have several extensions with different ``current_user_key``. Each has
    its own `PowAuth.current_user`, `PowAuth.login_required` and so on. Those of the module are for the extension whose
    key is ``current_user``.

    ``jsonify(current_user)`` gives the identity as JSON, and ``null`` if nobody is signed in. If the app has its own
    JSON provider, pass it ``as_json(identity)`` (`powauth.accounts.as_json`).

    Args:
        app: the app; or give it to `init_app`.
        auth: the authenticator.
        on_error: the app's own answers to powauth's errors; see `Answers`. Handlers that the app registers with Flask
            for powauth's errors have precedence.
        sign_in_path: the path of the sign-in page; see `Answers`.

    Raises:
        ConfigError: if a part of the authenticator needs an event loop, the key is taken in this app, or an option is
            wrong.
    """

    def __init__(
        self,
        app: Flask | None = None,
        auth: Authenticator[U, I] | None = None,
        *,
        on_error: OnError | None = None,
        sign_in_path: str | None = None,
    ) -> None:
        if not isinstance(auth, Authenticator):
            raise wrong_type("auth", "an Authenticator, such as a SessionAuth", auth)
        auth.check_wsgi()
        self.auth: Authenticator[U, I] = auth
        self.answers = Answers(on_error, sign_in_path)
        self.visits = Visits(auth, FlaskConnection, self.answers)
        self._vary = [field.decode("ascii") for field in auth.vary]
        self._visit_key = f"_powauth_{auth.current_user_key}"
        # A proxy behaves like the object behind it, so it has the type of that object.
        self.current_user: I = cast("I", LocalProxy(lambda: self.request_auth().current_user))
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Install the extension in an app."""
        installed: dict[str, PowAuth[Any, Any]] = app.extensions.setdefault(EXTENSION, {})
        key = self.auth.current_user_key
        if key in installed:
            raise ConfigError(
                f"this app has a PowAuth for {key!r} already: give the other one its own current_user_key"
            )
        installed[key] = self

        # Flask inspects each hook at each request. It inspects a function twice as fast as a bound method.
        @app.before_request
        def fetch() -> None:
            self._fetch()

        @app.after_request
        def respond(response: Response) -> Response:
            return self._respond(response)

        if len(installed) == 1:
            if isinstance(app.json, DefaultJSONProvider):
                app.json.default = partial(_jsonable, app.json.default)
            app.register_error_handler(PowauthError, self._answer)
            app.handle_user_exception = partial(  # type: ignore[method-assign]
                self._handle_user_exception, app, app.handle_user_exception
            )
            app.handle_exception = partial(  # type: ignore[method-assign]
                self._handle_exception, app, app.handle_exception
            )

    def request_auth(self) -> BlockingRequestAuth[U, I]:
        """Return the request-bound object of the current request.

        Raises:
            ConfigError: if this extension is not installed in the app.
        """
        return request_auth(self.auth.current_user_key)

    def login_required(self, view: Callable[P, R]) -> Callable[P, R]:
        """Return a view for signed-in users only. Others get 401 or the sign-in page; in an outage, 503."""
        return _guarded(view, lambda: require_user(self.request_auth()))

    @overload
    def fresh_login_required(self, view: Callable[P, R]) -> Callable[P, R]: ...

    @overload
    def fresh_login_required(self, *, within: timedelta) -> Callable[[Callable[P, R]], Callable[P, R]]: ...

    def fresh_login_required(self, view: Callable[P, R] | None = None, *, within: timedelta = FRESH) -> Any:
        """Return a view for users who signed in at most ``within`` ago; see `powauth.http.guards.require_fresh`."""
        duration("within", within, at_least=1)
        guard = partial(_guarded, guard=lambda: require_fresh(self.request_auth(), within))
        return guard if view is None else guard(view)

    def signed_out_required(self, view: Callable[P, R]) -> Callable[P, R]:
        """Return a view that refuses signed-in users; see `powauth.http.guards.require_no_user`."""
        return _guarded(view, lambda: require_no_user(self.request_auth()))

    @overload
    def same_origin_required(self, view: Callable[P, R]) -> Callable[P, R]: ...

    @overload
    def same_origin_required(self, *, defence: CrossSiteDefence) -> Callable[[Callable[P, R]], Callable[P, R]]: ...

    def same_origin_required(
        self, view: Callable[P, R] | None = None, *, defence: CrossSiteDefence = OWN_ORIGIN
    ) -> Any:
        """Return a view that refuses changes by other sites; see `powauth.http.guards.require_same_origin`."""
        guard = partial(_guarded, guard=lambda: require_same_origin(self.request_auth(), defence))
        return guard if view is None else guard(view)

    def refuse_cross_site(self) -> None:
        """Refuse a request of another site that changes something: ``app.before_request(extension.refuse_cross_site)``.

        For other origins, call `powauth.http.guards.require_same_origin` in a function of your own.
        """
        require_same_origin(self.request_auth())

    def _fetch(self) -> None:
        environ, key = request.environ, self.auth.current_user_key
        visit = self.visits.enter(environ)
        if visit is None:  # a middleware around the app has begun the visit, and does not set ``g``
            outer = wsgi.WSGIConnection(environ).assigned(key)
            if outer is not MISSING:
                setattr(g, key, outer)
            return
        setattr(g, self._visit_key, visit)
        outer = visit.connection.assigned(key)
        if outer is not MISSING:
            setattr(g, key, outer)
        if not self.auth.call_at_once(visit.connection):
            drive(visit.begin())

    def _respond(self, response: Response) -> Response:
        visit: Visit | None = g.pop(self._visit_key, None)
        if visit is not None:  # there is none if an earlier hook has answered
            failed = response.status_code >= SERVER_ERROR
            effects = visit.blocking_effects(failed=failed)
            if effects is NO_EFFECTS and not has_vary(response.headers):
                for field in self._vary:  # most responses: keep the headers object
                    response.headers.add("vary", field)
            else:
                response.headers = Headers(amended(response.headers, effects, self.auth.vary))
        return response

    def _handle_user_exception(self, app: Flask, handle: Callable[..., Any], *arguments: Any) -> Any:
        """Let Flask handle an error first. Answer a powauth error if the result has status 500.

        A blueprint's handler of all exceptions hides the app's handler of powauth errors.
        """
        handled, error = handle(*arguments), arguments[-1]
        if not isinstance(error, PowauthError):
            return handled
        response = app.make_response(handled)
        return self._answer(error) if response.status_code == SERVER_ERROR else response

    def _handle_exception(self, app: Flask, handle: Callable[[Exception], Response], error: Exception) -> Response:
        """Answer an outage that appears after the view, when Flask encodes the dictionary that the view returned."""
        if isinstance(error, StoreUnavailable):
            return app.finalize_request(app.handle_user_exception(error), from_error_handler=True)
        return handle(error)

    def _answer(self, error: PowauthError) -> Response:
        answers = {key: installed.answers for key, installed in current_app.extensions[EXTENSION].items()}
        answer = chosen(answers, error, self.answers)(error, FlaskConnection(request.environ))
        if answer is None:
            raise error
        return Response(answer.body, answer.status, answer.fields)


def _jsonable(default: Callable[[Any], Any], value: Any) -> Any:
    """Return a value that Flask's JSON encoder accepts for an identity, or for a proxy such as `current_user`."""
    if type(value) is LocalProxy:
        return value._get_current_object()  # the name that werkzeug documents for it
    return as_json(value) if isinstance(value, msgspec.Struct) else default(value)


def _note(sender: Flask, exception: BaseException, **_: object) -> None:
    """Pass an error that Flask answers with status 500 to the WSGI middleware around an app without the extension."""
    if isinstance(exception, PowauthError) and HOLDER_KEY in request.environ:
        request.environ[wsgi.ERROR_KEY] = exception


got_request_exception.connect(_note)


def _guarded(view: Callable[P, R], guard: Callable[[], object]) -> Callable[P, R]:
    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        guard()
        return current_app.ensure_sync(view)(*args, **kwargs)  # type: ignore[no-any-return]

    return guarded


def request_auth(current_user_key: str = "current_user") -> BlockingRequestAuth[Any, Any]:
    """Return the request-bound object of the current request.

    Raises:
        ConfigError: if the app has no `PowAuth` with that ``current_user_key``.
    """
    visits, states = bound_in(request.environ, current_user_key, "add PowAuth(app, auth)")
    return BlockingRequestAuth(RequestAuth(visits.auth, FlaskConnection(request.environ, states)), drive)


def _current_user() -> Any:
    return request_auth().current_user


current_user: Any = LocalProxy(_current_user)
"""The current user of the current request. It is false if nobody is signed in.

Write ``if current_user``, never ``current_user is None``: the object is a proxy, and a proxy is never ``None``.

Using it raises `StoreUnavailable` if the user could not be determined. The answer is 503.
"""


def login_required(view: Callable[P, R]) -> Callable[P, R]:
    """See `PowAuth.login_required`."""
    return _guarded(view, lambda: require_user(request_auth()))


@overload
def fresh_login_required(view: Callable[P, R]) -> Callable[P, R]: ...


@overload
def fresh_login_required(*, within: timedelta) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def fresh_login_required(view: Callable[P, R] | None = None, *, within: timedelta = FRESH) -> Any:
    """See `PowAuth.fresh_login_required`: ``@fresh_login_required``, or ``@fresh_login_required(within=…)``."""
    duration("within", within, at_least=1)
    guard = partial(_guarded, guard=lambda: require_fresh(request_auth(), within))
    return guard if view is None else guard(view)


def signed_out_required(view: Callable[P, R]) -> Callable[P, R]:
    """See `PowAuth.signed_out_required`."""
    return _guarded(view, lambda: require_no_user(request_auth()))


@overload
def same_origin_required(view: Callable[P, R]) -> Callable[P, R]: ...


@overload
def same_origin_required(*, defence: CrossSiteDefence) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def same_origin_required(view: Callable[P, R] | None = None, *, defence: CrossSiteDefence = OWN_ORIGIN) -> Any:
    """See `PowAuth.same_origin_required`: ``@same_origin_required``, or ``@same_origin_required(defence=…)``."""
    guard = partial(_guarded, guard=lambda: require_same_origin(request_auth(), defence))
    return guard if view is None else guard(view)


def refuse_cross_site() -> None:
    """See `PowAuth.refuse_cross_site`: ``app.before_request(refuse_cross_site)``."""
    require_same_origin(request_auth())
