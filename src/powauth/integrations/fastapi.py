"""FastAPI: the middleware, and dependencies for the current user and the request-bound object.

The dependencies are coroutines, because FastAPI would give each plain function a worker thread.
"""

from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import timedelta
from functools import partial
from inspect import Parameter, Signature, isasyncgenfunction, iscoroutinefunction, signature
from typing import Annotated, Any, Final, Generic, TypeAlias, TypeVar

from powauth._extras import needs
from powauth._options import instance, wrong_type
from powauth._times import duration
from powauth.accounts.base import U, UsersContext
from powauth.accounts.identity import I
from powauth.errors import ConfigError, CrossSiteRequest, NotFresh, NotSignedIn, Refused
from powauth.http.answers import SEE_OTHER, reason
from powauth.http.carriers import BearerCarrier, Carrier, CookieCarrier, each_of
from powauth.http.connection import PREFIX
from powauth.http.cross_site import CrossSiteDefence
from powauth.http.guards import (
    FRESH,
    OWN_ORIGIN,
    check_credential,
    require_access,
    require_fresh,
    require_no_user,
    require_same_origin,
    require_user,
)
from powauth.http.visit import answers_in
from powauth.integrations import asgi
from powauth.integrations._pydantic import BodySchema, Uncalled, response_model
from powauth.integrations._refusals import refusals
from powauth.integrations.asgi import SessionAuthMiddleware
from powauth.plug import Authenticator, SessionAuth
from powauth.plug.rows import rows_of
from powauth.request_auth import BlockingRequestAuth, RequestAuth

with needs("fastapi", "the FastAPI integration", "fastapi", "starlette"):
    from fastapi import Depends, HTTPException
    from fastapi.exception_handlers import http_exception_handler
    from fastapi.openapi.models import SecurityBase as SecurityScheme
    from fastapi.params import Depends as DependsMarker
    from fastapi.requests import HTTPConnection
    from fastapi.security import APIKeyCookie, APIKeyHeader, HTTPBearer
    from fastapi.security.base import SecurityBase

__all__ = [
    "Auth",
    "BodySchema",
    "CurrentRequestAuth",
    "Forbidden",
    "NotAuthenticated",
    "SessionAuthMiddleware",
    "auth_dependency",
    "blocking_request_auth",
    "optional_auth_dependency",
    "refusals",
    "request_auth",
    "response_model",
]

R = TypeVar("R")

Dependency: TypeAlias = Callable[[HTTPConnection], Awaitable[R]]
"""A function that FastAPI calls with the request, to make an argument of a handler."""

SessionDependency: TypeAlias = Callable[..., Any] | DependsMarker
"""The app's dependency of a database session: ``get_db``, or ``Depends(get_db, scope="function")``."""


class NotAuthenticated(NotSignedIn, HTTPException):
    """`NotSignedIn` as an `HTTPException`: 401. The app's exception handlers of either class get it."""

    def __init__(self, error: NotSignedIn, challenges: str) -> None:
        # Not through `NotSignedIn`: its ``super()`` is `HTTPException`, which would take the message for a status.
        HTTPException.__init__(self, 401, "Not authenticated", {"WWW-Authenticate": challenges})
        self.current_user_key = error.current_user_key


class Forbidden(Refused, HTTPException):
    """The refusal of another guard as an `HTTPException`: 403, with the reason as its detail."""

    def __init__(self, error: Refused) -> None:
        HTTPException.__init__(self, 403, reason(error))
        self.current_user_key = error.current_user_key


class FromElsewhere(CrossSiteRequest, HTTPException):
    """`CrossSiteRequest` as an `HTTPException`: 403, with the reason as its detail."""

    def __init__(self, error: CrossSiteRequest) -> None:
        del error
        HTTPException.__init__(self, 403, "cross_site_request")


class FreshSignInRequired(Forbidden, NotFresh):
    """`NotFresh` as an `HTTPException`: 403."""


class Auth(Generic[U, I]):
    """The dependencies of one authenticator, with the app's own user type.

    Define them once as types, and use the types in routes::

        session = Auth(auth)  # auth: SessionAuth[User, Me]
        CurrentUser = Annotated[User, Depends(session.row(get_db))]  # the row, in the handler's own database session
        CurrentIdentity = Annotated[Me, Depends(session.identity)]  # needs no database
        FreshIdentity = Annotated[Me, Depends(session.fresh(timedelta(minutes=5)))]

    Routes that use them show the cookie, the bearer token or both as their security schemes in the OpenAPI document.
    A guard refuses a request by an `HTTPException` (401, 403), unless the middleware has its own answer: from
    ``on_error``, or from ``sign_in_path`` for browsers.

    Make it before the routes. Routes declared after it may return identities; see `response_model`.

    The bodies annotate the parameter of a handler that signs in or registers. The OpenAPI document shows their fields::

        @app.post("/register", responses=refusals(422))
        async def register(params: Annotated[dict[str, Any], session.registration_body], auth: Session) -> Me:
            return await auth.register(params)

    Args:
        auth: the authenticator of the middleware.
        cookie_name: the cookie that the OpenAPI document shows if the framework's session carries the id.

    Attributes:
        identity: the identity of the current user; refuses if nobody is signed in. This needs no database.
        optional_identity: the identity of the current user, or ``None``.
        no_user: refuses if somebody is signed in.
        request_auth: the request-bound object, for handlers that are coroutines.
        blocking_request_auth: the same for handlers that are plain functions.
        sign_in_body: annotates the dictionary that `RequestAuth.sign_in` takes: user id and password.
        registration_body: annotates the dictionary that `RequestAuth.register` takes: also the other fields that the
            users context lets users set.

    Raises:
        ConfigError: if ``auth`` is no authenticator.
    """

    def __init__(self, auth: Authenticator[U, I], *, cookie_name: str = "session") -> None:
        instance("auth", auth, Authenticator, "an Authenticator, such as a SessionAuth")
        response_model(auth.users.identity)
        self._auth = auth
        self._key = auth.current_user_key
        self._schemes = _schemes_of(auth, cookie_name)
        self.identity: Dependency[I] = self._dependency(RequestAuth[U, I].require_user)
        self.optional_identity: Dependency[I | None] = self._dependency(_identity)
        self.no_user: Dependency[None] = self._dependency(require_no_user)
        self.sign_in_body = _sign_in_body(auth.users)
        self.registration_body = _registration_body(auth.users, auth.accounts.hooks.registers_with())

    def row(self, db: Annotated[SessionDependency, Uncalled("row")]) -> Callable[..., Any]:
        """Return a dependency: the current user's row, in the database session that the handler itself has.

        It refuses if nobody is signed in, or the user is gone, is locked, or has another password; see
        `RequestAuth.load_user`. One SELECT.

        FastAPI must give the handler the same session. So the handler's own ``Depends(get_db)`` must not have
        ``use_cache=False`` or another scope. If it has a scope, give the same object here:
        ``session.row(Depends(get_db, scope="function"))``.

        Args:
            db: the app's dependency of a database session, such as ``get_db``: of a ``Session``, an ``AsyncSession``,
                or SQLModel's sessions.

        Raises:
            ConfigError: if ``db`` is no dependency, or the users are not rows of a table.
        """
        return self._row(db, self.identity)

    def optional_row(self, db: Annotated[SessionDependency, Uncalled("optional_row")]) -> Callable[..., Any]:
        """Return a dependency: the current user's row, or ``None``; see `row`."""
        return self._row(db, self.optional_identity)

    def fresh(
        self, within: Annotated[timedelta, Uncalled("fresh")] = FRESH, methods: Collection[str] | None = None
    ) -> Dependency[I]:
        """Return a dependency: the current user, who signed in no longer than ``within`` ago.

        ``methods`` are those of `powauth.http.guards.require_fresh`.
        """
        duration("within", within, at_least=1)
        return self._dependency(lambda auth: require_fresh(auth, within, methods))

    def access(
        self, *, scope: Annotated[str | None, Uncalled("access")] = None, by: str | None = None
    ) -> Dependency[I]:
        """Return a dependency: the current user, signed in by the right credentials, with the right scope.

        See `powauth.http.guards.require_access`.

        Raises:
            ConfigError: if there are no such credentials.
        """
        check_credential(self._auth, by)
        return self._dependency(lambda auth: require_access(auth, scope=scope, by=by), by)

    def same_origin(
        self, defence: Annotated[CrossSiteDefence, Uncalled("same_origin")] = OWN_ORIGIN
    ) -> Dependency[None]:
        """Return a dependency that refuses changes by other sites; see `require_same_origin`.

        For all routes: ``FastAPI(dependencies=[Depends(session.same_origin())])``.
        """
        return _Dependency(self._key, lambda auth: require_same_origin(auth, defence))

    async def request_auth(self, connection: HTTPConnection) -> RequestAuth[U, I]:
        """Return the request-bound object, for handlers that are coroutines."""
        return asgi.request_auth(connection.scope, self._key)

    async def blocking_request_auth(self, connection: HTTPConnection) -> BlockingRequestAuth[U, I]:
        """Return the request-bound object, for handlers that are plain functions."""
        return asgi.blocking_request_auth(connection.scope, self._key)

    def _row(self, db: SessionDependency, guard: Dependency[Any]) -> Callable[..., Any]:
        rows_of(self._auth)
        session = db if isinstance(db, DependsMarker) else Depends(db) if callable(db) else None
        if session is None or session.dependency is None:
            raise wrong_type("db", "the app's dependency of a database session, such as get_db", db)
        if any(each.kind is Parameter.VAR_KEYWORD for each in signature(session.dependency).parameters.values()):
            # FastAPI takes ``**local_kw`` of a sessionmaker for a parameter of the query, and answers 422.
            raise ConfigError(
                "db must be your dependency of a database session, such as get_db. A sessionmaker is none: write a "
                "function that yields one of its sessions and closes it"
            )
        kind = _AsyncRow if _is_coroutine(session.dependency) else _BlockingRow
        return kind(self._key, guard, session, required=guard is self.identity)

    def _dependency(self, guard: Callable[[RequestAuth[U, I]], R], by: str | None = None) -> "_Dependency[R]":
        schemes = [scheme for credential, scheme in self._schemes if by in (None, credential)]
        if not schemes:
            return _Dependency(self._key, guard)
        return _SecuredDependency(self._key, guard, *schemes)


class _Dependency(Generic[R]):
    """A guard as a dependency."""

    def __init__(self, key: str, guard: Callable[[RequestAuth[Any, Any]], R]) -> None:
        self._key = key
        self._guard = guard

    async def __call__(self, connection: HTTPConnection) -> R:
        bound = asgi.request_auth(connection.scope, self._key)
        try:
            return self._guard(bound)
        except (Refused, CrossSiteRequest) as error:
            raise _as_fastapi_raises_it(error, bound, connection) from None


class _Row:
    """The row of the current user as a dependency. It depends on a guard and on the app's database session.

    The guard comes first, so a request of nobody opens no database session.
    """

    def __init__(self, key: str, guard: Dependency[Any], session: DependsMarker, *, required: bool) -> None:
        self._key = key
        self._required = required
        self.__signature__ = Signature(
            [
                Parameter("connection", Parameter.POSITIONAL_OR_KEYWORD, annotation=HTTPConnection),
                Parameter("identity", Parameter.KEYWORD_ONLY, default=Depends(guard)),
                Parameter("db", Parameter.KEYWORD_ONLY, default=session),
            ]
        )

    def _checked(self, row: Any, connection: HTTPConnection) -> Any:
        """Return the row. Refuse if the guard has accepted a user whom the row refutes."""
        if row is None and self._required:
            error = NotSignedIn("the user is gone or has changed", current_user_key=self._key)
            raise _as_fastapi_raises_it(error, asgi.request_auth(connection.scope, self._key), connection)
        return row


class _AsyncRow(_Row):
    async def __call__(self, connection: HTTPConnection, *, identity: object, db: object) -> Any:
        row = await asgi.request_auth(connection.scope, self._key).load_user(db)
        return self._checked(row, connection)


class _BlockingRow(_Row):
    """FastAPI runs it in a worker thread, as it does with the app's own plain functions."""

    def __call__(self, connection: HTTPConnection, *, identity: object, db: object) -> Any:
        row = asgi.blocking_request_auth(connection.scope, self._key).load_user(db)
        return self._checked(row, connection)


def _is_coroutine(call: Any) -> bool:
    """Return whether FastAPI awaits a dependency on the event loop."""
    while isinstance(call, partial):
        call = call.func
    calls = (call, getattr(call, "__call__", None))  # noqa: B004 - an object may have a coroutine as `__call__`
    return any(iscoroutinefunction(each) or isasyncgenfunction(each) for each in calls)


class _Scheme(SecurityBase):
    """A security scheme of the OpenAPI document. As a dependency it does nothing: the guards check the request."""

    def __init__(self, name: str, model: SecurityScheme) -> None:
        self.scheme_name = name
        self.model = model

    async def __call__(self) -> None:
        """Do nothing."""


def _scheme(carrier: Carrier, cookie_name: str) -> _Scheme:
    """Return the security scheme of a carrier. The cookie of the framework's session has another name."""
    if isinstance(carrier, BearerCarrier):
        return _Scheme(f"{carrier.name}-bearer", _model_of_tokens(carrier))
    name = carrier.name if isinstance(carrier, CookieCarrier) else cookie_name
    return _Scheme(name, APIKeyCookie(name=name).model)


def _model_of_tokens(carrier: BearerCarrier) -> SecurityScheme:
    """Return the model of a token. Swagger UI sends a value under ``http`` for Bearer only, else by ``apiKey``."""
    token = f"{carrier.prefix}<id>"
    if carrier.scheme.lower() == "bearer":
        return HTTPBearer(bearerFormat=token).model
    return APIKeyHeader(name="Authorization", description=f"{carrier.scheme} {token}").model


def _schemes_of(auth: Authenticator[Any, Any], cookie_name: str) -> list[tuple[str, _Scheme]]:
    """Return the security schemes of an authenticator and of those beside it, each with its kind of credentials."""
    carriers = each_of(auth.carrier) if isinstance(auth, SessionAuth) else ()
    tokens = [each for each in (auth, *auth.others) if each.bearer_format is not None]
    return [
        *((auth.credential, _scheme(carrier, cookie_name)) for carrier in carriers),
        *((each.credential, _Scheme(each.credential, _bearer(each.bearer_format))) for each in tokens),
    ]


def _bearer(form: str | None) -> SecurityScheme:
    return HTTPBearer(bearerFormat=form).model


class _SecuredDependency(_Dependency[R], SecurityBase):
    """A guard as a dependency that shows its credentials in the OpenAPI document.

    A dependency has one scheme. Each further scheme is a dependency of this one.
    """

    def __init__(
        self, key: str, guard: Callable[[RequestAuth[Any, Any]], R], scheme: _Scheme, *further: _Scheme
    ) -> None:
        super().__init__(key, guard)
        self.model, self.scheme_name = scheme.model, scheme.scheme_name
        connection = Parameter("connection", Parameter.POSITIONAL_OR_KEYWORD, annotation=HTTPConnection)
        schemes = [
            Parameter(f"scheme_{number}", Parameter.KEYWORD_ONLY, default=Depends(each))
            for number, each in enumerate(further)
        ]
        self.__signature__ = Signature([connection, *schemes])

    async def __call__(self, connection: HTTPConnection, **further: None) -> R:
        return await super().__call__(connection)


PASSWORD: Final = {"type": "string", "format": "password", "writeOnly": True}


def _user_id_and_password(users: UsersContext[Any, Any]) -> dict[str, dict[str, Any]]:
    name = users.user_id_field
    return {name: {"type": "string", **({"format": "email"} if name == "email" else {})}, "password": PASSWORD}


def _sign_in_body(users: UsersContext[Any, Any]) -> BodySchema:
    return BodySchema("SignInBody", _user_id_and_password(users), {})


def _registration_body(users: UsersContext[Any, Any], first: Sequence[str] | None) -> BodySchema:
    """Return the body of a registration. An extension may take only the fields ``first``."""
    missing = users.validate({})
    further: dict[str, dict[str, Any]] = {name: {} for name in (*users.other_user_id_fields, *users.fields)}
    required = {name: shown for name, shown in further.items() if name in missing}
    every = {**further, **_user_id_and_password(users), **required}
    if first is not None:
        return BodySchema("RegistrationBody", {name: every.get(name, {}) for name in first}, {})
    return BodySchema("RegistrationBody", {**_user_id_and_password(users), **required}, further)


def _as_fastapi_raises_it(
    error: Refused | CrossSiteRequest, bound: RequestAuth[Any, Any], connection: HTTPConnection
) -> Exception:
    if connection.scope["type"] != "http":
        return error  # no response can be sent: the middleware closes the WebSocket
    root = getattr(connection.scope.get("app"), "root_path", "")
    if root and "app_root_path" not in connection.scope:
        # FastAPI puts its ``root_path`` into the scope only for the middleware inside it.
        bound.connection.states.setdefault(PREFIX, root)
    raised = _as_http_exception(error, bound)
    answers = answers_in(connection.scope).get(bound.auth.current_user_key)
    if answers is None:
        return raised
    if answers.on_error:
        return error
    answer = answers.for_person(error, bound.connection)
    shown = answer is not None and (answer.status == SEE_OTHER or _is_left_to_fastapi(raised, connection))
    return error if shown else raised


def _as_http_exception(error: Refused | CrossSiteRequest, bound: RequestAuth[Any, Any]) -> HTTPException:
    if isinstance(error, CrossSiteRequest):
        return FromElsewhere(error)
    if isinstance(error, NotSignedIn):
        return NotAuthenticated(error, _challenges(bound))
    return FreshSignInRequired(error) if isinstance(error, NotFresh) else Forbidden(error)


def _challenges(bound: RequestAuth[Any, Any]) -> str:
    """Return the challenges, the one for programs first: a browser answers none of them."""
    auth, connection = bound.auth, bound.connection
    carriers = each_of(auth.carrier) if isinstance(auth, SessionAuth) else ()
    browsers = [each.challenge(connection) for each in carriers if not isinstance(each, BearerCarrier)]
    return ", ".join(filter(None, [auth.challenge(connection), *browsers])) or "APIKey"


def _is_left_to_fastapi(error: HTTPException, connection: HTTPConnection) -> bool:
    """Return whether FastAPI's own handler would answer. The app's own handlers may have pages of their own."""
    handlers = getattr(connection.scope.get("app"), "exception_handlers", {})
    found = [handlers[key] for key in (error.status_code, *type(error).__mro__) if key in handlers]
    return found[:1] in ([], [http_exception_handler])


def _identity(auth: RequestAuth[U, I]) -> I | None:
    return auth.identity


async def request_auth(connection: HTTPConnection) -> RequestAuth[Any, Any]:
    """Return the request-bound object, for handlers that are coroutines."""
    return asgi.request_auth(connection.scope)


async def blocking_request_auth(connection: HTTPConnection) -> BlockingRequestAuth[Any, Any]:
    """Return the request-bound object, for handlers that are plain functions."""
    return asgi.blocking_request_auth(connection.scope)


async def optional_auth_dependency(connection: HTTPConnection) -> Any:
    """Return the identity, or ``None``: ``me: Annotated[Me | None, Depends(optional_auth_dependency)]``."""
    return asgi.request_auth(connection.scope).identity


async def auth_dependency(connection: HTTPConnection) -> Any:
    """Return the identity: ``Annotated[Me, Depends(auth_dependency)]``. Refuses as ``Auth.identity`` does."""
    return await _require_user(connection)


_require_user: _Dependency[Any] = _Dependency("current_user", require_user)

CurrentRequestAuth: TypeAlias = Annotated[RequestAuth[U, I], Depends(request_auth)]
"""The request-bound object as a parameter's type: ``auth: CurrentRequestAuth[User, Me]``."""
