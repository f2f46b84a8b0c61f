"""Flask: an extension with `current_user` and `login_required`.

It uses Flask's own hooks, so that Flask's ``session`` can carry the id and Flask's error handlers see powauth's errors.
"""

from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import timedelta
from functools import partial, wraps
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

import msgspec

from powauth._extras import needs
from powauth._options import wrong_type
from powauth._times import duration
from powauth.accounts.as_json import as_json
from powauth.accounts.base import U
from powauth.accounts.identity import I
from powauth.errors import ConfigError, PowauthError, StoreUnavailable
from powauth.http.answers import Answers, OnError, chosen
from powauth.http.cross_site import CrossSiteDefence
from powauth.http.guards import (
    FRESH,
    OWN_ORIGIN,
    require_access,
    require_fresh,
    require_no_user,
    require_same_origin,
    require_user,
)
from powauth.http.visit import HOLDER_KEY, check_places
from powauth.integrations import wsgi
from powauth.integrations._flask_requests import (
    EXTENSION,
    GUARDED,
    SERVER_ERROR,
    C,
    FlashText,
    FlaskAnswers,
    FlaskConnection,
    FlaskRequestAuth,
    FlaskVisits,
    Installed,
    request_auth,
)
from powauth.plug import Authenticator
from powauth.plug.rows import rows_of

with needs("flask", "the Flask integration", "flask", "werkzeug"):
    from flask import Flask, Response, current_app, got_request_exception, has_request_context, request
    from flask.json.provider import DefaultJSONProvider
    from werkzeug.local import LocalProxy

__all__ = [
    "FlashText",
    "FlaskRequestAuth",
    "PowAuth",
    "access_required",
    "current_identity",
    "current_user",
    "fresh_login_required",
    "login_required",
    "refuse_cross_site",
    "request_auth",
    "same_origin_required",
    "signed_out_required",
]

P = ParamSpec("P")
R = TypeVar("R")


class PowAuth(Generic[U, I, C]):
    """The extension: ``PowAuth(app, auth, session=db.session)``. With an app factory: ``PowAuth()`` and `init_app`.

    The current user is `current_user`, in views and in templates, and the same object is ``g.current_user`` and
    ``environ["powauth.current_user"]``. With ``session`` it is the row of the app's table in the app's own database
    session. It is loaded when a handler first uses it, at most once per request. `current_identity` is the identity.
    `request_auth` returns the request-bound object. An app can have several extensions with different
    ``current_user_key``. Each has its own ``current_user``, `PowAuth.login_required` and so on. Those of the
    module are for the extension whose key is ``current_user``.

    ``jsonify(current_identity)`` gives the identity as JSON, and ``null`` if nobody is signed in. If the app has its
    own JSON provider, pass it ``as_json(identity)`` (`powauth.accounts.as_json`).

    Args:
        app: the app; or give it to `init_app`.
        auth: the authenticator; or give it to `init_app`.
        session: the app's database session: Flask-SQLAlchemy's ``db.session``, another ``scoped_session``, or a
            function that returns the session of the current request. Without it, ``current_user`` is the identity.
        on_error: the app's own answers to powauth's errors; see `Answers`. Handlers that the app registers with Flask
            for powauth's errors have precedence.
        sign_in_path: the path of the sign-in page; see `Answers`.
        sign_in_endpoint: the endpoint of the sign-in page, such as ``"auth.login"``, instead of ``sign_in_path``. The
            first request checks it.
        flash: the category of the flash message that a person gets who is redirected to the sign-in page. ``None``
            flashes none. Without a secret key the app has no session, and so no message.
        flash_text: a function of the error that returns the text of that message, for example a translated one. With
            ``None`` it is a text of powauth.

    Raises:
        ConfigError: if a part of the authenticator needs an event loop, the key is taken in this app, or an option is
            wrong.
    """

    @overload
    def __init__(self, *, on_error: OnError | None = None, sign_in_path: str | None = None) -> None: ...

    @overload
    def __init__(
        self: "PowAuth[U, I, I]",
        app: Flask | None = None,
        auth: Authenticator[U, I] | None = None,
        *,
        session: None = None,
        on_error: OnError | None = None,
        sign_in_path: str | None = None,
        sign_in_endpoint: str | None = None,
        flash: str | None = None,
        flash_text: FlashText | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self: "PowAuth[U, I, U]",
        app: Flask | None = None,
        auth: Authenticator[U, I] | None = None,
        *,
        session: Callable[[], Any],
        on_error: OnError | None = None,
        sign_in_path: str | None = None,
        sign_in_endpoint: str | None = None,
        flash: str | None = None,
        flash_text: FlashText | None = None,
    ) -> None: ...

    def __init__(
        self,
        app: Flask | None = None,
        auth: Authenticator[U, I] | None = None,
        *,
        session: Callable[[], Any] | None = None,
        on_error: OnError | None = None,
        sign_in_path: str | None = None,
        sign_in_endpoint: str | None = None,
        flash: str | None = None,
        flash_text: FlashText | None = None,
    ) -> None:
        self._given: Any = (auth, session)
        self._answers = FlaskAnswers(on_error, sign_in_path, sign_in_endpoint, flash, flash_text)
        if app is not None or auth is not None:
            _check(auth, session)
        # A proxy behaves like the object behind it, so it has the type of that object.
        self.current_user: C = cast("C", LocalProxy(lambda: _read(self, "current_user")))
        self.current_identity: I = cast("I", LocalProxy(lambda: _read(self, "identity")))
        if app is not None:
            self.init_app(app)

    def init_app(
        self,
        app: Flask,
        auth: Authenticator[U, I] | None = None,
        *,
        session: Callable[[], Any] | None = None,
        on_error: OnError | None = None,
        sign_in_path: str | None = None,
        sign_in_endpoint: str | None = None,
        flash: str | None = None,
        flash_text: FlashText | None = None,
    ) -> None:
        """Install the extension in an app. Options that the constructor did not get are given here.

        Raises:
            ConfigError: see the class.
        """
        given_auth, given_session = self._given
        auth, source = _check(auth or given_auth, session or given_session)
        options = (on_error, sign_in_path, sign_in_endpoint, flash, flash_text)
        answers = self._answers if options == (None,) * len(options) else FlaskAnswers(*options)
        installed: dict[str, Installed[Any, Any]] = app.extensions.setdefault(EXTENSION, {})
        key = auth.current_user_key
        if key in installed:
            raise ConfigError(
                f"this app has a PowAuth for {key!r} already: give the other one its own current_user_key"
            )
        check_places(auth, [other.auth for other in installed.values()])
        here = installed[key] = Installed(self, auth, FlaskVisits(auth, answers, source, self.current_user))

        # Flask inspects each hook at each request. It inspects a function twice as fast as a bound method.
        @app.before_request
        def fetch() -> None:
            here.fetch()

        @app.after_request
        def respond(response: Response) -> Response:
            return here.respond(response)

        if answers.sign_in_endpoint is not None:
            app.before_request(answers.check)
        app.context_processor(here.for_templates)
        if len(installed) == 1:
            if isinstance(app.json, DefaultJSONProvider):
                app.json.default = partial(_jsonable, app.json.default)
            app.register_error_handler(PowauthError, partial(_answer, here.visits.answers))
            app.handle_user_exception = partial(  # type: ignore[method-assign]
                _handle_user_exception, here.visits.answers, app, app.handle_user_exception
            )
            app.handle_exception = partial(  # type: ignore[method-assign]
                _handle_exception, app, app.handle_exception
            )

    @property
    def installed(self) -> Installed[U, I]:
        """This extension in the current app.

        Raises:
            ConfigError: if it is not installed there.
        """
        for installed in current_app.extensions.get(EXTENSION, {}).values():
            if installed.extension is self:
                found: Installed[U, I] = installed
                return found
        raise ConfigError("this PowAuth is not installed in the current app: call init_app(app, auth)")

    def request_auth(self) -> FlaskRequestAuth[U, I, C]:
        """Return the request-bound object of the current request.

        Raises:
            ConfigError: if this extension is not installed in the app.
        """
        return request_auth(self.installed.auth.current_user_key)

    def login_required(self, view: Callable[P, R]) -> Callable[P, R]:
        """Return a view for signed-in users only. Others get 401 or the sign-in page; in an outage, 503."""
        return _guarded(view, lambda: require_user(self.request_auth()))

    @overload
    def fresh_login_required(self, view: Callable[P, R]) -> Callable[P, R]: ...

    @overload
    def fresh_login_required(
        self, *, within: timedelta = FRESH, methods: Collection[str] | None = None
    ) -> Callable[[Callable[P, R]], Callable[P, R]]: ...

    def fresh_login_required(
        self,
        view: Callable[P, R] | None = None,
        *,
        within: timedelta = FRESH,
        methods: Collection[str] | None = None,
    ) -> Any:
        """Return a view for users who signed in at most ``within`` ago; see `powauth.http.guards.require_fresh`."""
        duration("within", within, at_least=1)
        guard = partial(_guarded, guard=lambda: require_fresh(self.request_auth(), within, methods))
        return guard if view is None else guard(view)

    def access_required(
        self, *, scope: str | None = None, by: str | None = None
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Return a decorator of views that need the right credentials and the right scope.

        See `powauth.http.guards.require_access`.
        """
        return partial(_guarded, guard=lambda: require_access(self.request_auth(), scope=scope, by=by))

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


def _check(
    auth: Authenticator[U, I] | None, session: object
) -> tuple[Authenticator[U, I], Callable[[], object] | None]:
    """Check the options of `PowAuth`. Return the authenticator, and the function that returns the database session."""
    if not isinstance(auth, Authenticator):
        raise wrong_type("auth", "an Authenticator, such as a SessionAuth", auth)
    auth.check_wsgi()
    return auth, None if session is None else rows_of(auth).source(session)


def _read(extension: PowAuth[Any, Any, Any], name: str) -> Any:
    return getattr(extension.request_auth(), name) if has_request_context() else None


def _handle_user_exception(answers: Answers, app: Flask, handle: Callable[..., Any], *arguments: Any) -> Any:
    """Let Flask handle an error first. Answer a powauth error if the result has status 500.

    A blueprint's handler of all exceptions hides the app's handler of powauth errors.
    """
    handled, error = handle(*arguments), arguments[-1]
    if not isinstance(error, PowauthError):
        return handled
    response = app.make_response(handled)
    return _answer(answers, error) if response.status_code == SERVER_ERROR else response


def _handle_exception(app: Flask, handle: Callable[[Exception], Response], error: Exception) -> Response:
    """Answer an outage that appears after the view, when Flask encodes the dictionary that the view returned."""
    if isinstance(error, StoreUnavailable):
        return app.finalize_request(app.handle_user_exception(error), from_error_handler=True)
    return handle(error)


def _answer(own: Answers, error: PowauthError) -> Response:
    answers = {key: installed.visits.answers for key, installed in current_app.extensions[EXTENSION].items()}
    used = chosen(answers, error, own)
    answer = used(error, FlaskConnection(request.environ))
    if answer is None:
        raise error
    if isinstance(used, FlaskAnswers):
        used.tell(answer, error)
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
    with suppress(TypeError):  # an object that cannot be hashed or weakly referenced
        GUARDED.add(view)

    @wraps(view)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        guard()
        return current_app.ensure_sync(view)(*args, **kwargs)  # type: ignore[no-any-return]

    return guarded


def _of_module(name: str) -> Any:
    return getattr(request_auth(), name) if has_request_context() else None


current_user: Any = LocalProxy(partial(_of_module, "current_user"))
"""The current user of the current request: the row, or the identity if the app gives no database session.

It is false if nobody is signed in. Write ``if current_user``, never ``current_user is None``: the object is a proxy,
and a proxy is never ``None``.

Using it raises `StoreUnavailable` if the user could not be determined. The answer is 503.
"""

current_identity: Any = LocalProxy(partial(_of_module, "identity"))
"""The identity of the current user. Reading it needs no query. It is false if nobody is signed in."""


def login_required(view: Callable[P, R]) -> Callable[P, R]:
    """See `PowAuth.login_required`."""
    return _guarded(view, lambda: require_user(request_auth()))


@overload
def fresh_login_required(view: Callable[P, R]) -> Callable[P, R]: ...


@overload
def fresh_login_required(
    *, within: timedelta = FRESH, methods: Collection[str] | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def fresh_login_required(
    view: Callable[P, R] | None = None, *, within: timedelta = FRESH, methods: Collection[str] | None = None
) -> Any:
    """See `PowAuth.fresh_login_required`: ``@fresh_login_required``, or ``@fresh_login_required(within=…)``."""
    duration("within", within, at_least=1)
    guard = partial(_guarded, guard=lambda: require_fresh(request_auth(), within, methods))
    return guard if view is None else guard(view)


def access_required(*, scope: str | None = None, by: str | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """See `PowAuth.access_required`: ``@access_required(scope="orders:read")``."""
    return partial(_guarded, guard=lambda: require_access(request_auth(), scope=scope, by=by))


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
