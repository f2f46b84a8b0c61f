"""The request-bound objects: what a handler calls to sign a user in or out and to change an account.

`RequestAuth` is for handlers that are coroutines, `BlockingRequestAuth` for plain functions. Both bind an authenticator
to one connection, and add nothing to it.
"""

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Generic

from powauth.accounts.base import U
from powauth.authenticator import Authenticator
from powauth.errors import ConfigError, NotSignedIn
from powauth.http.connection import Connection
from powauth.http.metadata import SessionInfo
from powauth.session_auth import SessionAuth
from powauth.sessions.record import Metadata
from powauth.sessions.store import Duration

Params = Mapping[str, object]


Whole = Callable[[Coroutine[Any, Any, Any]], Awaitable[Any]]
"""Awaits a coroutine to its end, also if whoever waits for it is cancelled meanwhile."""


class RequestAuth(Generic[U]):
    """An authenticator bound to one request.

    A change or a deletion of a user, once begun, goes on to its end although the request is cancelled: the sessions
    that a new password ends must not live on because a client hung up at the right moment.
    """

    __slots__ = ("_whole", "auth", "connection")

    def __init__(self, auth: Authenticator[U], connection: Connection, whole: Whole | None = None) -> None:
        self.auth = auth
        self.connection = connection
        self._whole = _plainly if whole is None else whole

    def __repr__(self) -> str:
        return f"<RequestAuth of {self.auth!r}>"

    @property
    def current_user(self) -> U | None:
        """Who is signed in.

        Raises:
            StoreUnavailable: if nobody could tell.
        """
        return self.auth.current_user(self.connection)

    def require_user(self) -> U:
        """Who is signed in, for what needs somebody.

        Raises:
            NotSignedIn: if nobody is; the middleware answers 401.
            StoreUnavailable: if nobody could tell; the middleware answers 503.
        """
        user = self.current_user
        if user is None:
            raise NotSignedIn("sign in first", current_user_key=self.auth.current_user_key)
        return user

    async def authenticate_user(self, params: Params) -> U | None:
        """See `Authenticator.authenticate_user`."""
        return await self.auth.authenticate_user(self.connection, params)

    async def create_user(self, params: Params) -> U:
        """See `Authenticator.create_user`."""
        return await self.auth.create_user(self.connection, params)

    async def update_user(self, params: Params) -> U:
        """See `Authenticator.update_user`."""
        user: U = await self._whole(self.auth.update_user(self.connection, params))
        return user

    async def delete_user(self, params: Params | None = None, *, vouched: bool = False) -> None:
        """See `Authenticator.delete_user`."""
        await self._whole(self.auth.delete_user(self.connection, params, vouched=vouched))

    def change_user(self, params: Params) -> Mapping[str, list[str]]:
        """See `Authenticator.change_user`."""
        return self.auth.change_user(self.connection, params)

    async def sign_in(self, user: U) -> U | None:
        """See `Authenticator.sign_in`."""
        return await self.auth.sign_in(self.connection, user)

    async def clear_authenticated_user(self) -> None:
        """See `Authenticator.clear_authenticated_user`."""
        await self.auth.clear_authenticated_user(self.connection)

    async def recheck(self) -> bool:
        """Whether the user is still signed in, for a response that lasts (server-sent events): one read of the store.

        Raises:
            StoreUnavailable: if nobody can tell.
        """
        return await self.auth.recheck(self.connection)

    @property
    def session(self) -> SessionInfo | None:
        """See `SessionAuth.session`."""
        return self._sessions.session(self.connection)

    def is_fresh(self, within: Duration) -> bool:
        """See `SessionAuth.is_fresh`."""
        return self._sessions.is_fresh(self.connection, within)

    async def sessions(self) -> list[SessionInfo]:
        """See `SessionAuth.sessions`."""
        return await self._sessions.sessions(self.connection)

    async def revoke(self, session_id: object) -> bool:
        """See `SessionAuth.revoke`."""
        return await self._sessions.revoke(self.connection, session_id)

    async def revoke_others(self) -> int:
        """See `SessionAuth.revoke_others`."""
        return await self._sessions.revoke_others(self.connection)

    async def revoke_all(self) -> int:
        """See `SessionAuth.revoke_all`."""
        return await self._sessions.revoke_all(self.connection)

    async def update_metadata(self, /, **changes: str | int | float | bool | None) -> Metadata:
        """See `SessionAuth.update_metadata`."""
        return await self._sessions.update_metadata(self.connection, **changes)

    @property
    def _sessions(self) -> SessionAuth[U]:
        if not isinstance(self.auth, SessionAuth):
            raise ConfigError(f"{type(self.auth).__name__} keeps no sessions; use a SessionAuth")
        return self.auth


async def _plainly(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return await coroutine


class BlockingRequestAuth(Generic[U]):
    """`RequestAuth` for handlers that are plain functions: each call returns when it is done.

    ``run`` drives a coroutine to its end: in one step under WSGI, on the event loop's thread under ASGI.
    """

    __slots__ = ("_auth", "_run")

    def __init__(self, auth: RequestAuth[U], run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._auth = auth
        self._run = run

    def __repr__(self) -> str:
        return f"<BlockingRequestAuth of {self._auth.auth!r}>"

    @property
    def auth(self) -> Authenticator[U]:
        """The authenticator that this binds."""
        return self._auth.auth

    @property
    def connection(self) -> Connection:
        """The connection that this is bound to."""
        return self._auth.connection

    @property
    def current_user(self) -> U | None:
        """See `RequestAuth.current_user`."""
        return self._auth.current_user

    def require_user(self) -> U:
        """See `RequestAuth.require_user`."""
        return self._auth.require_user()

    def authenticate_user(self, params: Params) -> U | None:
        """See `Authenticator.authenticate_user`."""
        user: U | None = self._run(self._auth.authenticate_user(params))
        return user

    def create_user(self, params: Params) -> U:
        """See `Authenticator.create_user`."""
        user: U = self._run(self._auth.create_user(params))
        return user

    def update_user(self, params: Params) -> U:
        """See `Authenticator.update_user`."""
        user: U = self._run(self._auth.update_user(params))
        return user

    def delete_user(self, params: Params | None = None, *, vouched: bool = False) -> None:
        """See `Authenticator.delete_user`."""
        self._run(self._auth.delete_user(params, vouched=vouched))

    def change_user(self, params: Params) -> Mapping[str, list[str]]:
        """See `Authenticator.change_user`."""
        return self._auth.change_user(params)

    def sign_in(self, user: U) -> U | None:
        """See `RequestAuth.sign_in`."""
        signed_in: U | None = self._run(self._auth.sign_in(user))
        return signed_in

    def clear_authenticated_user(self) -> None:
        """See `Authenticator.clear_authenticated_user`."""
        self._run(self._auth.clear_authenticated_user())

    def recheck(self) -> bool:
        """See `RequestAuth.recheck`."""
        alive: bool = self._run(self._auth.recheck())
        return alive

    @property
    def session(self) -> SessionInfo | None:
        """See `SessionAuth.session`."""
        return self._auth.session

    def is_fresh(self, within: Duration) -> bool:
        """See `SessionAuth.is_fresh`."""
        return self._auth.is_fresh(within)

    def sessions(self) -> list[SessionInfo]:
        """See `SessionAuth.sessions`."""
        found: list[SessionInfo] = self._run(self._auth.sessions())
        return found

    def revoke(self, session_id: object) -> bool:
        """See `SessionAuth.revoke`."""
        existed: bool = self._run(self._auth.revoke(session_id))
        return existed

    def revoke_others(self) -> int:
        """See `SessionAuth.revoke_others`."""
        ended: int = self._run(self._auth.revoke_others())
        return ended

    def revoke_all(self) -> int:
        """See `SessionAuth.revoke_all`."""
        ended: int = self._run(self._auth.revoke_all())
        return ended

    def update_metadata(self, /, **changes: str | int | float | bool | None) -> Metadata:
        """See `SessionAuth.update_metadata`."""
        metadata: Metadata = self._run(self._auth.update_metadata(**changes))
        return metadata
