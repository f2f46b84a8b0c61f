"""Starlette: ``request.user``, ``request.auth`` and ``@requires`` over the ASGI middleware."""

import inspect
from collections.abc import Callable, Sequence
from functools import partial, wraps
from typing import Any, NoReturn, ParamSpec, TypeVar, overload

from powauth._extras import needs
from powauth.accounts.base import U
from powauth.accounts.identity import I
from powauth.errors import StoreUnavailable
from powauth.http.cross_site import CrossSiteDefence
from powauth.http.guards import OWN_ORIGIN, require_same_origin
from powauth.http.unreachable import Unreachable
from powauth.integrations import asgi
from powauth.integrations.asgi import SessionAuthMiddleware
from powauth.plug import Authenticator, current_user_key_of
from powauth.request_auth import BlockingRequestAuth, RequestAuth

with needs("starlette", "the Starlette integration", "starlette"):
    from starlette.authentication import AuthCredentials, AuthenticationBackend
    from starlette.requests import HTTPConnection

__all__ = [
    "SessionAuthBackend",
    "SessionAuthMiddleware",
    "blocking_request_auth",
    "request_auth",
    "same_origin_required",
]

P = ParamSpec("P")
R = TypeVar("R")

AUTHENTICATED = "authenticated"
"""The scope that every signed-in user has: ``@requires("authenticated")``."""


class SessionAuthBackend(AuthenticationBackend):
    """The backend for Starlette's ``AuthenticationMiddleware``. Install that inside `SessionAuthMiddleware`.

    ``request.user`` is the identity, or Starlette's ``UnauthenticatedUser``. While the store is unreachable, pages that
    use neither ``request.user`` nor ``request.auth`` are served. Any use raises `StoreUnavailable`, which is answered
    with 503. Both show the state when the request began: after a sign-in, ``request.user`` changes with the next
    request.

    Args:
        current_user_key: selects the authenticator if there are several.
        scopes: returns a user's scopes in addition to ``authenticated``, such as roles for ``@requires("admin")``. A
            request by other credentials than a session has only those that its credentials allow, too. ``None`` takes
            the scopes that an extension knows.
    """

    def __init__(
        self,
        current_user_key: str = "current_user",
        *,
        scopes: Callable[[Any], Sequence[str]] | None = None,
    ) -> None:
        self._key = current_user_key
        self._scopes = scopes

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, Any] | None:
        """See Starlette's ``AuthenticationBackend``."""
        try:
            bound = asgi.request_auth(conn.scope, self._key)
            user = bound.current_user
        except StoreUnavailable as error:
            return _UnknownCredentials(error), Unreachable(error)
        if user is None:
            return None
        allowed = bound.scopes or frozenset()
        if self._scopes is None:
            more = sorted(allowed)
        else:
            by_session = bound.auth.credential_of(bound.connection) == bound.auth.credential
            more = [scope for scope in self._scopes(user) if by_session or scope in allowed]
        return AuthCredentials([AUTHENTICATED, *more]), user


class _UnknownCredentials(AuthCredentials):
    """The credentials while the store is unreachable: reading the scopes raises `StoreUnavailable`."""

    def __init__(self, cause: StoreUnavailable) -> None:
        self._cause = cause

    def _raise(self, *_: object) -> NoReturn:
        raise StoreUnavailable(str(self._cause)) from self._cause

    scopes = property(_raise)


@overload
def request_auth(connection: HTTPConnection, auth: Authenticator[U, I], /) -> RequestAuth[U, I]: ...


@overload
def request_auth(connection: HTTPConnection, current_user_key: str = ...) -> RequestAuth[Any, Any]: ...


def request_auth(
    connection: HTTPConnection, current_user_key: str | Authenticator[Any, Any] = "current_user"
) -> RequestAuth[Any, Any]:
    """Return the request-bound object of a ``Request`` or ``WebSocket``, for handlers that are coroutines.

    Args:
        connection: the request or socket.
        current_user_key: selects the authenticator if there are several. If you pass the authenticator itself, type
            checkers know its types.

    Raises:
        ConfigError: if no middleware with that ``current_user_key`` has run.
    """
    return asgi.request_auth(connection.scope, current_user_key_of(current_user_key))


@overload
def blocking_request_auth(connection: HTTPConnection, auth: Authenticator[U, I], /) -> BlockingRequestAuth[U, I]: ...


@overload
def blocking_request_auth(connection: HTTPConnection, current_user_key: str = ...) -> BlockingRequestAuth[Any, Any]: ...


def blocking_request_auth(
    connection: HTTPConnection, current_user_key: str | Authenticator[Any, Any] = "current_user"
) -> BlockingRequestAuth[Any, Any]:
    """Return the request-bound object, for handlers that are plain functions.

    Raises:
        ConfigError: if no middleware with that ``current_user_key`` has run.
    """
    return asgi.blocking_request_auth(connection.scope, current_user_key_of(current_user_key))


@overload
def same_origin_required(endpoint: Callable[P, R]) -> Callable[P, R]: ...


@overload
def same_origin_required(
    *, defence: CrossSiteDefence = ..., current_user_key: str = ...
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def same_origin_required(
    endpoint: Callable[P, R] | None = None,
    *,
    defence: CrossSiteDefence = OWN_ORIGIN,
    current_user_key: str = "current_user",
) -> Any:
    """Return an endpoint that refuses changes by other sites; see `powauth.http.guards.require_same_origin`.

    The endpoint is a function of a request, a coroutine function of one, or a method of an ``HTTPEndpoint``.
    """
    if endpoint is None:
        return partial(same_origin_required, defence=defence, current_user_key=current_user_key)

    def check(arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        (connection,) = (each for each in (*arguments, *named.values()) if isinstance(each, HTTPConnection))
        require_same_origin(request_auth(connection, current_user_key), defence)

    if inspect.iscoroutinefunction(endpoint):

        @wraps(endpoint)
        async def awaited(*args: P.args, **kwargs: P.kwargs) -> Any:
            check(args, kwargs)
            return await endpoint(*args, **kwargs)

        return awaited

    @wraps(endpoint)
    def called(*args: P.args, **kwargs: P.kwargs) -> Any:
        check(args, kwargs)
        return endpoint(*args, **kwargs)

    return called
