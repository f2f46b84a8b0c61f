"""FastAPI: the middleware, and dependencies for the current user and the request-bound object.

The dependencies are coroutines, because FastAPI would give each plain function a worker thread.
"""

from typing import Annotated, Any

from powauth.errors import ConfigError
from powauth.integrations import asgi
from powauth.integrations.asgi import SessionAuthMiddleware
from powauth.request_auth import BlockingRequestAuth, RequestAuth

try:
    from fastapi import Depends, HTTPException
    from fastapi.requests import HTTPConnection
except ImportError as error:
    raise ConfigError("FastAPI is not installed: pip install 'powauth[fastapi]'") from error

__all__ = [
    "CurrentRequestAuth",
    "SessionAuthMiddleware",
    "auth_dependency",
    "blocking_request_auth",
    "optional_auth_dependency",
    "request_auth",
]


async def request_auth(connection: HTTPConnection) -> RequestAuth[Any]:
    """The request-bound object, for handlers that are coroutines."""
    return asgi.request_auth(connection.scope)


async def blocking_request_auth(connection: HTTPConnection) -> BlockingRequestAuth[Any]:
    """The request-bound object, for handlers that are plain functions."""
    return asgi.blocking_request_auth(connection.scope)


async def optional_auth_dependency(connection: HTTPConnection) -> Any:
    """The current user, or ``None``: ``user: Annotated[User | None, Depends(optional_auth_dependency)]``."""
    return asgi.request_auth(connection.scope).current_user


async def auth_dependency(connection: HTTPConnection) -> Any:
    """The current user: ``user: Annotated[User, Depends(auth_dependency)]``; 401 if nobody is signed in."""
    user = asgi.request_auth(connection.scope).current_user
    if user is None:
        raise HTTPException(401, "Not authenticated")
    return user


CurrentRequestAuth = Annotated[RequestAuth[Any], Depends(request_auth)]
"""The request-bound object as a parameter's type: ``auth: CurrentRequestAuth``."""
