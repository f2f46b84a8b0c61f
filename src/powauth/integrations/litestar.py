"""Litestar: a plugin, guards, ``request.user``, and the request-bound object as a dependency."""

from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from copy import copy
from datetime import timedelta
from functools import partial
from threading import get_ident
from typing import Annotated, Any, Generic, NoReturn, TypeAlias, TypeVar, cast, get_args

from powauth._extras import needs
from powauth._options import instance
from powauth._times import duration
from powauth.accounts.base import U
from powauth.accounts.identity import I
from powauth.errors import ConfigError, NotSignedIn, PowauthError, Refused, StoreUnavailable
from powauth.http import guards
from powauth.http.answers import Answers, OnError, chosen, reason
from powauth.http.carriers import FrameworkSessionCarrier, each_of
from powauth.http.connection import Connection, Vary, vary_on, with_vary
from powauth.http.cross_site import CrossSiteDefence
from powauth.http.guards import FRESH, OWN_ORIGIN, check_credential
from powauth.http.own_path import path_below
from powauth.http.unreachable import StateInOutage, Unreachable
from powauth.http.visit import HOLDER_KEY, Bound, answers_in, check_places
from powauth.integrations import asgi
from powauth.integrations._framework_sessions import has_litestars_cookie
from powauth.integrations.websockets import POLICY_VIOLATION, RECHECK, TRY_AGAIN_LATER
from powauth.plug import Authenticator, SessionAuth
from powauth.plug.rows import rows_of
from powauth.request_auth import BlockingRequestAuth, RequestAuth

with needs("litestar", "PowAuthPlugin", "litestar", "anyio"):
    import anyio.from_thread
    import anyio.to_thread
    from anyio.lowlevel import current_token
    from litestar import Litestar, di, params
    from litestar.config.app import AppConfig
    from litestar.connection import ASGIConnection, Request
    from litestar.datastructures import State
    from litestar.di import Provide
    from litestar.exceptions import NoRouteMatchFoundException, WebSocketException
    from litestar.handlers import BaseRouteHandler
    from litestar.middleware import DefineMiddleware
    from litestar.middleware.session.server_side import ServerSideSessionBackend
    from litestar.plugins import InitPlugin
    from litestar.response import Response
    from litestar.types import Message, Scope

__all__ = ["PowAuthPlugin", "require_access", "require_fresh", "require_no_user", "require_same_origin", "require_user"]

T = TypeVar("T")

AnyConnection = ASGIConnection[Any, Any, Any, Any]
Guard = Callable[[AnyConnection, BaseRouteHandler], Awaitable[None]]
Check = Callable[[RequestAuth[Any, Any]], object]


def _by_name() -> object:
    """Return Litestar's marker of a dependency. Release 2.23 replaced it by another."""
    marked = getattr(di, "NamedDependency", None)
    return params.DependencyKwarg() if marked is None else get_args(marked[object])[1]


_BY_NAME = _by_name()

CurrentRequestAuth: TypeAlias = Annotated[RequestAuth[U, I], _BY_NAME]
"""The request-bound object as a parameter's type: ``request_auth: CurrentRequestAuth[User, Me]``.

The parameter has the plugin's ``dependency`` as its name. The type works on each supported release of Litestar.
"""

CurrentBlockingRequestAuth: TypeAlias = Annotated[BlockingRequestAuth[U, I], _BY_NAME]
"""The same for plain functions: ``blocking_request_auth: CurrentBlockingRequestAuth[User, Me]``."""


CurrentUser: TypeAlias = Annotated[U, _BY_NAME]
"""The current user's row as a parameter's type: ``current_user: CurrentUser[User]``.

It needs ``PowAuthPlugin(auth, session=…)``. Litestar also accepts ``current_user: User``, and warns from release 2.23.
"""


class LitestarConnection(asgi.ASGIConnection):
    """A Litestar connection as the plug sees it."""

    def renew_session(self) -> bool:
        """See `Connection.renew_session`. The session of ``CookieBackendConfig`` is in the cookie."""
        return super().renew_session() or has_litestars_cookie(_app_in(self.scope).middleware)


class FirstLitestarConnection(LitestarConnection):
    """The connection for the first plugin: the current user is ``request.user`` too."""

    def assign(self, key: str, value: object) -> None:
        """See `Connection.assign`."""
        super().assign(key, value)
        self.scope["user"] = value

    def assign_unreachable(self, key: str, unreachable: Unreachable) -> None:
        """See `Connection.assign_unreachable`. Reading ``request.user`` raises the error, too.

        Litestar copies a state that is no dict. So ``request.state`` has the placeholder, whose every use raises.
        """
        self.states[key] = unreachable
        self.scope.setdefault("state", {})[key] = unreachable
        self.scope = StateInOutage.of(self.scope, "user", unreachable)


class SessionAuthMiddleware(asgi.SessionAuthMiddleware):
    """The ASGI middleware of a plugin."""

    connection_type = LitestarConnection


class FirstSessionAuthMiddleware(SessionAuthMiddleware):
    """The ASGI middleware of the first plugin, whose user is ``request.user``."""

    connection_type = FirstLitestarConnection


class PowAuthPlugin(InitPlugin, Generic[U, I]):
    """The plugin: ``Litestar(..., plugins=[PowAuthPlugin(auth)])``.

    It installs the middleware, answers to powauth's errors, and two dependencies: ``request_auth``, the request-bound
    object for coroutines, and ``blocking_request_auth`` for plain functions with ``sync_to_thread=True``. The
    middleware is outermost, or innermost if Litestar's own session carries the id. The current user is ``request.user``
    and ``request.state.current_user``. With several plugins ``request.user`` is the first one's.

    Args:
        auth: the authenticator.
        session: the app's database session: the config of advanced-alchemy's plugin (``alchemy_config``), or a function
            of Litestar's ``state`` and ``scope`` that returns the session of the request. Then there are two more
            dependencies: ``current_user``, the current user's row in the handler's own database session, and
            ``optional_current_user``, the row or ``None``. Their names come from ``current_user_key``.
        dependency: the name of the dependency. The other one has the prefix ``blocking_``.
        on_error: the app's own answers to powauth's errors; see `Answers`. Exception handlers that the app gives to
            Litestar for them have precedence.
        sign_in_path: the path of the sign-in page; see `Answers`.
        sign_in_endpoint: the name of the sign-in page's handler, instead of ``sign_in_path``. powauth looks it up when
            the app starts.
        origins, websocket_recheck: see `powauth.integrations.asgi.SessionAuthMiddleware`.

    Raises:
        ConfigError: if an option is wrong.
    """

    def __init__(
        self,
        auth: Authenticator[U, I],
        *,
        session: object | None = None,
        dependency: str = "request_auth",
        on_error: OnError | None = None,
        sign_in_path: str | None = None,
        sign_in_endpoint: str | None = None,
        origins: Sequence[str] = (),
        websocket_recheck: timedelta = RECHECK,
    ) -> None:
        instance("auth", auth, Authenticator, "an Authenticator, such as a SessionAuth")
        self.auth = auth
        self._session = None if session is None else _source(auth, session)
        self.dependency = dependency
        # Reject wrong options here, not only when an app installs the plugin.
        self._answers = Answers(on_error, sign_in_path, sign_in_endpoint=sign_in_endpoint, resolve=_path_of)
        self._options: dict[str, Any] = {
            "on_error": on_error,
            "sign_in_path": sign_in_path,
            "origins": origins,
            "websocket_recheck": websocket_recheck,
        }
        self.require_user: Guard = _guard(guards.require_user, auth.current_user_key)
        self.require_no_user: Guard = _guard(guards.require_no_user, auth.current_user_key)

    def require_fresh(self, within: timedelta = FRESH, methods: Collection[str] | None = None) -> Guard:
        """Return a guard: the user signed in no longer than ``within`` ago; see `powauth.http.guards.require_fresh`."""
        return _fresh_guard(within, methods, self.auth.current_user_key)

    def require_access(self, *, scope: str | None = None, by: str | None = None) -> Guard:
        """Return a guard: the right credentials and the right scope; see `powauth.http.guards.require_access`.

        Raises:
            ConfigError: if there are no such credentials.
        """
        check_credential(self.auth, by)
        return _access_guard(scope, by, self.auth.current_user_key)

    def require_same_origin(self, defence: CrossSiteDefence = OWN_ORIGIN) -> Guard:
        """Return a guard: the request changes nothing, or comes from the app's own pages or from a program."""
        return _guard(lambda auth: guards.require_same_origin(auth, defence), self.auth.current_user_key)

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """See Litestar's ``InitPlugin``."""
        key = self.auth.current_user_key
        plugins = [plugin for plugin in app_config.plugins if isinstance(plugin, PowAuthPlugin)]
        if any(plugin is not self and plugin.auth.current_user_key == key for plugin in plugins):
            raise ConfigError(f"this app has two plugins for {key!r}: give one its own current_user_key")
        check_places(self.auth, [plugin.auth for plugin in plugins])
        if self.dependency in app_config.dependencies:
            raise ConfigError(
                f"there is a dependency {self.dependency!r} already: give this plugin its own name for it"
            )
        middleware = FirstSessionAuthMiddleware if plugins[0] is self else SessionAuthMiddleware
        options = {**self._options, "sign_in_path": _below(app_config.path, self._options["sign_in_path"])}
        prototype = middleware(_nothing, self.auth, **options)
        if self._answers.sign_in_endpoint is not None:
            prototype.answers = prototype.visits.answers = self._answers.with_challenge(self.auth.challenge)
            app_config.on_startup.append(self._check_endpoint)

        def around(app: asgi.ASGIApp) -> asgi.ASGIApp:
            # Litestar makes one for each route. They share the authenticator and its clients.
            for_route = copy(prototype)
            for_route.app = app
            return for_route

        carrier = each_of(self.auth.carrier)[0] if isinstance(self.auth, SessionAuth) else None
        inmost = isinstance(carrier, FrameworkSessionCarrier)
        if inmost and any(_keeps_sessions_on_the_server(each) for each in app_config.middleware):
            raise ConfigError(
                "FrameworkSessionCarrier: Litestar cannot renew the id of a session on the server at sign-in, so an "
                "attacker could plant it (session fixation); use the default CookieCarrier, or Litestar's "
                "CookieBackendConfig"
            )
        app_config.middleware.insert(len(app_config.middleware) if inmost else 0, cast("Any", around))
        app_config.dependencies[self.dependency] = Provide(self._request_auth, sync_to_thread=False)
        app_config.dependencies[f"blocking_{self.dependency}"] = Provide(self._blocking, sync_to_thread=False)
        if self._session is not None:
            app_config.dependencies.setdefault(key, Provide(self._row))
            app_config.dependencies.setdefault(f"optional_{key}", Provide(self._optional_row))
        if app_config.cors_config is not None and _keep_vary not in app_config.before_send:
            app_config.before_send.append(_keep_vary)
        if plugins[0] is self:
            app_config.exception_handlers.setdefault(PowauthError, partial(_answer, prototype.answers))
        return app_config

    async def _optional_row(self, state: State, scope: Scope) -> Any:
        bound = asgi.request_auth(cast("asgi.Scope", scope), self.auth.current_user_key)
        if bound.identity is None or self._session is None:
            return None
        session = self._session(state, scope)
        if rows_of(self.auth).plain(session) is None:
            return await bound.load_user(session)
        return await anyio.to_thread.run_sync(self._blocking(scope).load_user, session)

    async def _row(self, state: State, scope: Scope) -> Any:
        row = await self._optional_row(state, scope)
        if row is None:
            raise NotSignedIn("sign in first", current_user_key=self.auth.current_user_key)
        return row

    def _check_endpoint(self, app: Litestar) -> None:
        _path_in(app, self._answers.sign_in_endpoint or "")

    def _request_auth(self, scope: Scope) -> Any:
        return asgi.request_auth(cast("asgi.Scope", scope), self.auth.current_user_key)

    def _blocking(self, scope: Scope) -> Any:
        bound = asgi.request_auth(cast("asgi.Scope", scope), self.auth.current_user_key)
        token, loop_thread = current_token(), get_ident()

        def run(coroutine: Coroutine[Any, Any, T]) -> T:
            async def finish() -> T:
                return await coroutine

            try:
                if get_ident() == loop_thread:
                    raise RuntimeError("blocking_request_auth is for plain functions with sync_to_thread=True")
                return anyio.from_thread.run(finish, token=token)
            finally:
                coroutine.close()

        return BlockingRequestAuth(bound, run)


def _source(auth: Authenticator[Any, Any], given: object) -> Callable[[State, Scope], object]:
    """Return a function that returns the database session of a request.

    Raises:
        ConfigError: if ``given`` would open a new session at each call, or the users are not rows of a table.
    """
    source = rows_of(auth).source(getattr(given, "provide_session", given))
    return cast("Callable[[State, Scope], object]", source)


def _answer(own: Answers, request: Request[Any, Any, Any], error: PowauthError) -> Response[bytes]:
    scope = cast("asgi.Scope", request.scope)
    answer = chosen(answers_in(scope), error, own)(error, asgi.connection_of(scope))
    if answer is None:
        raise error
    headers = dict(answer.fields)
    media_type = headers.pop("content-type", "").removesuffix("; charset=utf-8")  # Litestar adds it to text
    return Response(answer.body, status_code=answer.status, headers=headers, media_type=media_type)


def _vary_of(scope: Scope) -> Vary:
    bound: dict[str, Bound] = cast("asgi.Scope", scope)[HOLDER_KEY]
    return vary_on(dict.fromkeys(field for visits, _ in bound.values() for field in visits.auth.vary))


async def _keep_vary(message: Message, scope: Scope) -> None:
    """Put back ``Vary: Cookie``. Litestar's CORS is outermost and replaces all of ``Vary`` by ``Origin``."""
    if message["type"] == "http.response.start" and HOLDER_KEY in scope:
        message["headers"] = with_vary(message["headers"], _vary_of(scope))


def _path_of(name: str, connection: Connection) -> str:
    return _path_in(_app_in(cast("LitestarConnection", connection).scope), name)


def _app_in(scope: asgi.Scope) -> Litestar:
    app: Litestar = scope.get("litestar_app") or scope["app"]
    return app


def _path_in(app: Litestar, name: str) -> str:
    try:
        return app.route_reverse(name)
    except NoRouteMatchFoundException as error:
        raise ConfigError(f"sign_in_endpoint {name!r}: no handler has this name, or it has parameters") from error


def _below(path: str | None, sign_in_path: str | None) -> str | None:
    """Return the path of the app's sign-in page. Litestar puts the app's ``path`` before the paths of all handlers."""
    if not path or sign_in_path is None or "{" in path:
        return sign_in_path
    return path_below(path if path.startswith("/") else f"/{path}", sign_in_path)


async def _nothing(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
    """Do nothing: a placeholder for the app."""


def _guard(check: Check, key: str) -> Guard:
    # A coroutine although it awaits nothing: Litestar runs a plain function in a worker thread at each request.
    async def guard(connection: AnyConnection, handler: BaseRouteHandler) -> None:
        del handler
        scope = cast("asgi.Scope", connection.scope)
        try:
            check(asgi.request_auth(scope, key))
        except PowauthError as error:
            if scope["type"] == "websocket":
                _close(error)
            raise

    return guard


def _keeps_sessions_on_the_server(middleware: object) -> bool:
    backend = middleware.kwargs.get("backend") if isinstance(middleware, DefineMiddleware) else None
    return isinstance(backend, ServerSideSessionBackend)


def _close(error: PowauthError) -> NoReturn:
    """Raise Litestar's own exception: before a WebSocket is accepted, Litestar answers no other."""
    if isinstance(error, StoreUnavailable):
        raise WebSocketException(detail="store_unavailable", code=TRY_AGAIN_LATER) from error
    detail = reason(error) if isinstance(error, Refused) else "refused"
    raise WebSocketException(detail=detail, code=POLICY_VIOLATION) from error


def _fresh_guard(within: timedelta, methods: Collection[str] | None, key: str) -> Guard:
    duration("within", within, at_least=1)
    return _guard(lambda auth: guards.require_fresh(auth, within, methods), key)


require_user: Guard = _guard(guards.require_user, "current_user")
"""A guard: somebody is signed in. ``@get("/", guards=[require_user])``; see `powauth.http.guards.require_user`."""

require_no_user: Guard = _guard(guards.require_no_user, "current_user")
"""A guard: nobody is signed in; see `powauth.http.guards.require_no_user`."""


def _access_guard(scope: str | None, by: str | None, key: str) -> Guard:
    return _guard(lambda auth: guards.require_access(auth, scope=scope, by=by), key)


def require_access(*, scope: str | None = None, by: str | None = None) -> Guard:
    """Return a guard: the right credentials and the right scope; see `powauth.http.guards.require_access`."""
    return _access_guard(scope, by, "current_user")


def require_fresh(within: timedelta = FRESH, methods: Collection[str] | None = None) -> Guard:
    """Return a guard: the user signed in no longer than ``within`` ago; see `powauth.http.guards.require_fresh`."""
    return _fresh_guard(within, methods, "current_user")


def require_same_origin(defence: CrossSiteDefence = OWN_ORIGIN) -> Guard:
    """Return a guard against requests of other sites, for handlers that change something.

    For all handlers: ``Litestar(..., guards=[require_same_origin()])``; see `powauth.http.guards.require_same_origin`.
    """
    return _guard(lambda auth: guards.require_same_origin(auth, defence), "current_user")
