"""A request of a Flask app in front of the plug, and the request-bound object of its views."""

import logging
from collections.abc import Callable, Coroutine, Iterator, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Final, Generic, TypeVar, cast
from urllib.parse import quote
from weakref import WeakSet

from powauth._extras import needs
from powauth._options import wrong
from powauth._running import on_event_loop
from powauth.accounts.base import U
from powauth.accounts.identity import I
from powauth.backends.base import drive
from powauth.errors import ConfigError, NotSignedIn, PowauthError
from powauth.http.answers import Answer, Answers, OnError
from powauth.http.connection import MISSING, NO_EFFECTS, Connection, amended, has_vary, vary_on
from powauth.http.unreachable import StateInOutage, Unreachable
from powauth.http.visit import HOLDER_KEY, Visit, Visits, bound_in
from powauth.integrations import wsgi
from powauth.plug import Authenticator
from powauth.plug.rows import rows_of
from powauth.request_auth import BlockingRequestAuth, RequestAuth

with needs("flask", "the Flask integration", "flask", "werkzeug"):
    from flask import Response, current_app, flash, g, request, session, url_for
    from flask.globals import app_ctx
    from flask.sessions import NullSession, SecureCookieSessionInterface
    from werkzeug.datastructures import Headers
    from werkzeug.routing import BuildError

logger = logging.getLogger("powauth")

C = TypeVar("C")
"""The type of ``current_user``: the app's rows, or the identities."""

T = TypeVar("T")

EXTENSION = "powauth"
"""The key in ``app.extensions`` of the mapping from each ``current_user_key`` to an `Installed`."""

SERVER_ERROR = 500
"""The status of a response to an error that the app did not expect."""

_REQUIRED = "flask.required"
"""The key in a connection's states of the mark that a guard has accepted the identity."""

_DISMISSED = "flask.dismissed"
"""The key in a connection's states of the mark that the row has refuted an identity that a guard accepted."""


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
        regenerate = getattr(interface, "regenerate", None)
        if regenerate is None:
            return isinstance(interface, SecureCookieSessionInterface)
        regenerate(session)
        return True

    def assign(self, key: str, value: object) -> None:
        """See `Connection.assign`."""
        super().assign(key, value)
        setattr(g, key, value)

    def assign_unreachable(self, key: str, unreachable: Unreachable) -> None:
        """See `Connection.assign_unreachable`. Reading the user in ``g`` raises. The environ has the placeholder."""
        super().assign(key, unreachable)
        _hide(key, unreachable)


class GlobalsInOutage:
    """Takes the place of ``g`` in an outage of the store. Reading the current user in it raises `StoreUnavailable`.

    Every way to read the user raises, so ``g.current_user is None`` and ``g.get("current_user")`` give no answer. All
    else is that of the ``g`` that this one replaces, which takes the changes, too.
    """

    __slots__ = ("_replaced", "_state")

    _replaced: Any
    _state: StateInOutage

    def __init__(self, replaced: object) -> None:
        object.__setattr__(self, "_replaced", replaced)
        object.__setattr__(self, "_state", StateInOutage(vars(replaced)))

    def hide(self, key: str, unreachable: Unreachable) -> None:
        """Make reading ``key`` raise until a value is assigned."""
        vars(self._replaced).pop(key, None)
        StateInOutage.of(self._state, key, unreachable)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._state[name]
        except KeyError:
            return getattr(self._replaced, name)

    def __setattr__(self, name: str, value: object) -> None:
        self._state[name] = value

    def __delattr__(self, name: str) -> None:
        delattr(self._replaced, name)

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute or a default, as ``g.get`` does."""
        return self._state.get(name, default)

    def pop(self, name: str, *default: Any) -> Any:
        """Return and remove an attribute, as ``g.pop`` does."""
        return self._state.pop(name, *default)

    def setdefault(self, name: str, default: Any = None) -> Any:
        """Return an attribute, or assign a default, as ``g.setdefault`` does."""
        return self._state.setdefault(name, default)

    def __contains__(self, name: str) -> bool:
        return name in self._state

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)


def _hide(key: str, unreachable: Unreachable) -> None:
    """Replace the ``g`` of the app context by one in which reading the user raises."""
    present = app_ctx.g
    hiding = present if isinstance(present, GlobalsInOutage) else GlobalsInOutage(present)
    hiding.hide(key, unreachable)
    app_ctx.g = cast("Any", hiding)


FlashText = Callable[[PowauthError], str]
"""Returns the text of a flash message, in the language of the current request."""


class FlaskAnswers(Answers):
    """The answers of a Flask app: the sign-in page may have an endpoint, and redirects may flash a message.

    Args:
        on_error, sign_in_path, sign_in_endpoint: see `Answers`.
        category: the category of the message; ``None`` flashes none.
        text: returns the message for an error. ``None`` uses powauth's own text.

    Raises:
        ConfigError: if an option is wrong.
    """

    def __init__(
        self,
        on_error: OnError | None = None,
        sign_in_path: str | None = None,
        sign_in_endpoint: str | None = None,
        category: str | None = None,
        text: FlashText | None = None,
    ) -> None:
        if category is not None and not (isinstance(category, str) and category):
            raise wrong("flash", "a category, such as 'message'", category)
        if text is not None and not callable(text):
            raise wrong("flash_text", "a function of an error that returns a text", text)
        if text is not None and category is None:
            raise ConfigError("flash_text needs flash, the category of the message, such as 'message'")
        super().__init__(on_error, sign_in_path, sign_in_endpoint=sign_in_endpoint, resolve=_path_of)
        self._category = category
        self._text = text
        self._checked = False

    def check(self) -> None:
        """Check the endpoint, once, at the first request: an app adds its routes after the extension.

        Raises:
            ConfigError: if there is no such endpoint, or its path is no page.
        """
        if not self._checked:
            self.sign_in_page(FlaskConnection(request.environ))
            self._checked = True

    def tell(self, answer: Answer, error: PowauthError) -> None:
        """Flash the message of a redirect. Without a secret key the app has no session."""
        if self._category is not None and answer.message and not isinstance(session, NullSession):
            flash(answer.message if self._text is None else str(self._text(error)), self._category)


def _path_of(endpoint: str, connection: Connection) -> str:
    """Return the path of an endpoint in the app. Flask puts the prefix in front, but does not quote it.

    A proxy may take the prefix from a header of the client. So the answers check it and put it in front themselves.
    """
    del connection
    try:
        return url_for(endpoint).removeprefix(request.root_path)
    except BuildError as error:
        raise ConfigError(f"sign_in_endpoint {endpoint!r}: no route has this endpoint, or it has parameters") from error


class FlaskRowConnection(FlaskConnection):
    """The connection of an app whose ``current_user`` is the row.

    The core reads the identity from the states. ``g`` and the environ hold the proxy, so no request loads the row
    unless a handler uses it.
    """

    def assigned(self, key: str) -> object:
        """See `Connection.assigned`."""
        found = self.states.get(key, MISSING)
        return super().assigned(key) if found is MISSING else found

    def assign(self, key: str, value: object) -> None:
        """See `Connection.assign`."""
        self.states[key] = value
        installed = installed_for(key)
        super().assign(key, value if installed is None else installed.visits.visible(value))

    def assign_unreachable(self, key: str, unreachable: Unreachable) -> None:
        """See `Connection.assign_unreachable`."""
        self.states[key] = unreachable
        super().assign_unreachable(key, unreachable)


class FlaskRequestAuth(BlockingRequestAuth[U, I], Generic[U, I, C]):
    """The request-bound object of a Flask app. Its ``current_user`` is the row if the app gives a database session."""

    __slots__ = ("_session",)

    def __init__(self, bound: RequestAuth[U, I], session: "Callable[[], object] | None") -> None:
        super().__init__(bound, _run)
        self._session = session

    @property
    def current_user(self) -> C | None:  # type: ignore[override]
        """The current user: the row in the app's database session, or the identity if the app gives none.

        Raises:
            StoreUnavailable: if the user could not be determined.
            NotSignedIn: if a guard such as ``login_required`` accepted the identity, but the user is gone, is locked,
                or has another password.
        """
        identity = self.identity
        if self._session is None:
            return cast("C | None", identity)
        states = self.connection.states
        row = None if identity is None else self.load_user(_same(self._session, self.auth))
        if row is not None:
            return cast("C", row)
        if identity is not None and _REQUIRED in states:
            states[_DISMISSED] = True
        if _DISMISSED in states:
            raise NotSignedIn("the user is gone or has changed", current_user_key=self.auth.current_user_key)
        return None

    def require_user(self) -> I:
        """See `BoundAuth.require_user`."""
        identity = super().require_user()
        if self._session is not None:
            self.connection.states[_REQUIRED] = True
        return identity


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end. A view that is a coroutine has its own event loop, which may wait."""
    if not on_event_loop():
        return drive(coroutine)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(copy_context().run, drive, coroutine).result()


def _same(session: Callable[[], object], auth: Authenticator[Any, Any]) -> object:
    """Return the current database session of the app.

    Raises:
        ConfigError: if the app's function opens a new one at each call, or returns none for plain functions.
    """
    found = session()
    if session() is not found:
        raise ConfigError("session returned two sessions in one request: return the session of the current request")
    if rows_of(auth).plain(found) is None:
        raise ConfigError("current_user needs a synchronous database session: give one over an Engine")
    return found


class FlaskVisits(Visits):
    """The visits of one extension in one app.

    Attributes:
        session: returns the current database session; ``None`` if ``current_user`` is the identity.
        proxy: the proxy ``current_user``.
    """

    __slots__ = ("proxy", "session")

    def __init__(
        self, auth: Authenticator[Any, Any], answers: Answers, session: Callable[[], object] | None, proxy: object
    ) -> None:
        super().__init__(auth, FlaskConnection if session is None else FlaskRowConnection, answers)
        self.session = session
        self.proxy = proxy

    def visible(self, value: object) -> object:
        """Return the object that ``g`` holds for the value of an authenticator."""
        return value if self.session is None or value is None else self.proxy


GUARDED: Final[WeakSet[Callable[..., Any]]] = WeakSet()
"""The views that a guard wraps. Flask should know the guards, and not these."""


def report_open_views() -> None:
    """Log the views that Flask calls without their guard, because the guard stands above the route decorator."""
    for endpoint, view in current_app.view_functions.items():
        with suppress(TypeError):  # an object that cannot be hashed or weakly referenced was never wrapped
            if view in GUARDED:
                logger.error(
                    "the view %r is open to everybody: Flask has registered it without its guard. Put the guard, "
                    "such as login_required, below the route decorator",
                    endpoint,
                )


class Installed(Generic[U, I]):
    """An extension in one app.

    Args:
        extension: the extension.
        auth: the authenticator.
        visits: begins the visits of requests.
    """

    def __init__(self, extension: object, auth: Authenticator[U, I], visits: FlaskVisits) -> None:
        self.extension = extension
        self.auth = auth
        self.visits = visits
        self._is_checked = False
        self._vary = vary_on(auth.vary)
        self._visit_key = f"_powauth_{auth.current_user_key}"

    def fetch(self) -> None:
        """Assign the current user: before each request, or at its first use if the request has no such hooks."""
        if not self._is_checked:
            self._is_checked = True
            report_open_views()
        environ, key = request.environ, self.auth.current_user_key
        visit = self.visits.enter(environ)
        if visit is None:  # a middleware around the app has begun the visit, and does not set ``g``
            outer = wsgi.WSGIConnection(environ).assigned(key)
            if isinstance(outer, Unreachable):
                _hide(key, outer)
            elif outer is not MISSING:
                setattr(g, key, self.visits.visible(outer))
            return
        setattr(g, self._visit_key, visit)
        outer = visit.connection.assigned(key)
        if isinstance(outer, Unreachable):
            visit.connection.assign_unreachable(key, outer)
        elif outer is not MISSING:
            visit.connection.assign(key, outer)
        if not self.auth.call_at_once(visit.connection):
            drive(visit.begin())

    def respond(self, response: Response) -> Response:
        """Add the changes of the authenticator to a response."""
        visit: Visit | None = g.pop(self._visit_key, None)
        if visit is not None:  # there is none if an earlier hook has answered
            failed = response.status_code >= SERVER_ERROR
            effects = visit.blocking_effects(failed=failed)
            if effects is NO_EFFECTS and not has_vary(response.headers):
                for name, field in self._vary.text:  # most responses: keep the headers object
                    response.headers.add(name, field)
            else:
                response.headers = Headers(amended(response.headers, effects, self._vary))
        return response

    def for_templates(self) -> dict[str, Any]:
        """Return the variable of templates."""
        return {self.auth.current_user_key: self.visits.proxy}


def installed_for(key: str) -> Installed[Any, Any] | None:
    """Return the installed extension of the current app for a ``current_user_key``."""
    installed: Installed[Any, Any] | None = current_app.extensions.get(EXTENSION, {}).get(key)
    return installed


def request_auth(current_user_key: str = "current_user") -> FlaskRequestAuth[Any, Any, Any]:
    """Return the request-bound object of the current request.

    Raises:
        ConfigError: if the app has no `PowAuth` with that ``current_user_key``.
    """
    environ = request.environ
    if current_user_key not in environ.get(HOLDER_KEY, {}):  # no hook has run, as in ``test_request_context``
        installed = installed_for(current_user_key)
        if installed is not None:
            installed.fetch()
    visits, states = bound_in(environ, current_user_key, "add PowAuth(app, auth)")
    if not isinstance(visits, FlaskVisits):  # a middleware around the app has begun the visit
        installed = installed_for(current_user_key)
        if installed is None:
            return FlaskRequestAuth(RequestAuth(visits.auth, FlaskConnection(environ, states)), None)
        visits = installed.visits
    return FlaskRequestAuth(RequestAuth(visits.auth, visits.connect(environ, states)), visits.session)
