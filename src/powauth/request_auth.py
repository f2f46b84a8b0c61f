"""The request-bound objects. Handlers use them to sign a user in or out and to change an account.

`RequestAuth` is for handlers that are coroutines, `BlockingRequestAuth` for plain functions. Both bind an authenticator
to one connection.
"""

from collections.abc import Callable, Collection, Coroutine, Mapping
from datetime import timedelta
from functools import wraps
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from powauth.accounts.base import Params, U
from powauth.accounts.grant import Grant, checked_amr
from powauth.accounts.hooks import Extension
from powauth.accounts.identity import I
from powauth.accounts.service import check_params
from powauth.backends.base import drive
from powauth.errors import ConfigError, NotSignedIn
from powauth.http.connection import Connection
from powauth.plug import Authenticator, SessionAuth
from powauth.plug.rows import CurrentRow, Run
from powauth.sessions.info import SessionInfo
from powauth.sessions.record import Metadata

P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E", bound=Extension[Any])


def with_sessions(auth: Authenticator[U, I]) -> SessionAuth[U, I]:
    """Return an authenticator that keeps sessions.

    Raises:
        ConfigError: if it keeps none.
    """
    if not isinstance(auth, SessionAuth):
        raise ConfigError(f"{type(auth).__name__} keeps no sessions; use a SessionAuth")
    return auth


class BoundAuth(Generic[U, I]):
    """An authenticator bound to one request: the operations that need no waiting."""

    __slots__ = ("auth", "connection")

    def __init__(self, auth: Authenticator[U, I], connection: Connection) -> None:
        self.auth = auth
        self.connection = connection

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.auth!r}>"

    @property
    def identity(self) -> I | None:
        """The identity of the signed-in user; ``None`` if nobody is signed in.

        Raises:
            StoreUnavailable: if the user could not be determined.
        """
        return self.auth.current_identity(self.connection)

    @property
    def current_user(self) -> I | None:
        """The current user: the identity.

        Raises:
            StoreUnavailable: if the user could not be determined.
        """
        return self.identity

    def require_user(self) -> I:
        """Return the identity of the signed-in user.

        Raises:
            NotSignedIn: if nobody is signed in (401).
            StoreUnavailable: if the user could not be determined (503).
        """
        identity = self.identity
        if identity is None:
            raise NotSignedIn("sign in first", current_user_key=self.auth.current_user_key)
        return identity

    def validate_user(self, params: Params | None = None, /, **fields: object) -> Mapping[str, list[str]]:
        """Return the errors in a change of the current user, or in a registration: a list of messages per field.

        Raises:
            InvalidParams: if ``params`` is no mapping.
        """
        merged = _merged(params, fields)
        check_params(merged)
        return self.auth.users.validate(merged, self.identity)

    @property
    def access_token(self) -> str:
        """The bearer token of a session that began in this request; see `SessionAuth.access_token`."""
        return self.session_auth.access_token(self.connection)

    @property
    def session(self) -> SessionInfo | None:
        """The session of this request, as its user may see it; ``None`` if nobody is signed in."""
        return self.session_auth.current_session.info(self.connection)

    @property
    def signed_in_by(self) -> str | None:
        """The kind of credentials that signed the user in, such as ``"session"``; ``None`` if nobody is signed in.

        Raises:
            StoreUnavailable: if the user could not be determined.
        """
        return None if self.identity is None else self.auth.credential_of(self.connection)

    @property
    def scopes(self) -> frozenset[str] | None:
        """The scopes of this request; see `Authenticator.scopes`.

        Raises:
            StoreUnavailable: if the user could not be determined.
        """
        return self.auth.scopes(self.connection)

    def is_fresh(self, within: timedelta, methods: Collection[str] | None = None) -> bool:
        """Return whether the user proved who they are, for this session, no longer than ``within`` ago.

        With ``methods``, the user must also have proven one of these within that time, such as ``["otp", "hwk"]``. The
        names are those of `SessionInfo.amr`.

        Raises:
            ConfigError: if ``within`` is no length of time, or ``methods`` are no names.
        """
        return self.session_auth.current_session.is_fresh(self.connection, within, methods)

    def extension(self, kind: type[E]) -> E:
        """Return the extension of a class; see `Authenticator.extension`."""
        return self.auth.extension(kind)

    @property
    def session_auth(self) -> SessionAuth[U, I]:
        """The authenticator, for operations that need sessions.

        Raises:
            ConfigError: if it keeps no sessions.
        """
        return with_sessions(self.auth)


class RequestAuth(BoundAuth[U, I]):
    """An authenticator bound to one request, for handlers that are coroutines.

    Operations take a mapping, keywords, or both: ``sign_in(params)`` and ``sign_in(email=…, password=…)``.

    A change or a deletion of a user, and every end of sessions, completes even if the request is cancelled. Otherwise a
    client could hang up at the right moment and so keep the sessions that a new password ends.
    """

    __slots__ = ()

    async def recheck(self) -> bool:
        """Return whether the user is still signed in, for long responses (server-sent events). Takes one read.

        Raises:
            StoreUnavailable: if that cannot be determined.
        """
        return await self.auth.recheck(self.connection)

    async def load_user(self, db: object) -> U | None:
        """Return the current user's row in a database session of the app, sync or async.

        Return ``None`` if nobody is signed in, or the user is gone, is locked, or has another password or user id. The
        request is then anonymous, and the session ends. This takes one SELECT at the first call for a session, and
        none if the database session holds the row.

        Raises:
            StoreUnavailable: if the user could not be determined. Errors of the app's own database are raised as such.
            ConfigError: if ``db`` is no database session, or the users are not rows of a table.
        """
        return await CurrentRow(self.auth, self.connection).load(db)

    # --- signing in and out -------------------------------------------------------------------------------------------

    async def sign_in(
        self, params: Params | None = None, /, *, remember: bool | None = None, bearer: bool = False, **fields: object
    ) -> I | None:
        """Sign in a user by user id and password. Return ``None`` if they are not valid.

        ``remember`` asks for a session that outlives the browser's. ``None`` keeps the choice of the user's session
        that this one replaces. ``bearer`` asks for a token, for `access_token`. See `AccountService.sign_in`.
        """
        grant = Grant(remember=remember, bearer=bearer)
        return await self.auth.accounts.sign_in(self.connection, _merged(params, fields), grant)

    async def sign_in_user(
        self,
        user: object,
        /,
        *,
        remember: bool | None = None,
        bearer: bool = False,
        fresh: bool = True,
        amr: Collection[str] | None = (),
    ) -> I | None:
        """Sign in a user whom the app has authenticated by other means; ``None`` if they are gone or locked.

        ``user`` is an identity, a row, or a key. See `AccountService.sign_in_user`. With ``fresh=False`` the session is
        not fresh until the user enters the password: the app knows the user from another library's cookie or token.

        ``amr`` names what the app has proven just now (RFC 8176). With ``["mfa"]`` it has checked two factors itself,
        and no second factor is asked for. By default it has proven nothing that counts as a factor. ``None`` keeps what
        the present session has proven, if it is one of the same user.
        """
        grant = Grant(remember=remember, bearer=bearer, fresh=fresh, amr=checked_amr(amr))
        return await self.auth.accounts.sign_in_user(self.connection, self.auth.key_of(user), grant)

    async def sign_out(self) -> None:
        """Sign out; see `AccountService.sign_out`."""
        await self.auth.accounts.sign_out(self.connection)

    # --- the account --------------------------------------------------------------------------------------------------

    async def register(
        self, params: Params | None = None, /, *, remember: bool | None = None, bearer: bool = False, **fields: object
    ) -> I:
        """Register a user and sign them in; see `AccountService.register`."""
        grant = Grant(remember=remember, bearer=bearer)
        return await self.auth.accounts.register(self.connection, _merged(params, fields), grant)

    async def update_user(self, params: Params | None = None, /, **fields: object) -> I:
        """Change the current user, whose ``current_password`` must be right; see `AccountService.update_user`."""
        return await self.auth.accounts.update_user(self.connection, _merged(params, fields))

    async def delete_user(self, params: Params | None = None, /, *, vouched: bool = False, **fields: object) -> None:
        """Delete the current user, whose ``current_password`` must be right; see `AccountService.delete_user`."""
        merged = _merged(params, fields) if params is not None or fields else None
        await self.auth.accounts.delete_user(self.connection, merged, vouched=vouched)

    # --- the user's sessions ------------------------------------------------------------------------------------------

    async def sessions(self) -> list[SessionInfo]:
        """Return the current user's live sessions, newest first.

        Raises:
            NotSignedIn: if nobody is signed in.
        """
        return await self.session_auth.current_session.list_all(self.connection)

    async def revoke(self, sid: object) -> bool:
        """End the session of the current user that ``sid`` names, and return whether there was one.

        The result is the same for another user's session and for no session. Revoking the current one signs out.

        Raises:
            NotSignedIn: if nobody is signed in.
        """
        return await self.session_auth.current_session.revoke(self.connection, sid)

    async def revoke_others(self) -> int:
        """End all of the current user's sessions but this one, and sign-ins in flight. Return how many ended.

        Raises:
            NotSignedIn: if nobody is signed in.
        """
        return await self.session_auth.current_session.revoke_others(self.connection)

    async def revoke_all(self) -> int:
        """End all of the current user's sessions, this one among them, and tokens. Return how many sessions ended.

        Raises:
            NotSignedIn: if nobody is signed in.
            StoreUnavailable: if anything may still be valid.
        """
        return await self.session_auth.current_session.revoke_all(self.connection)

    async def update_metadata(self, /, **changes: str | int | float | bool | None) -> Metadata:
        """Change the session's metadata. ``None`` removes a key. Return all of the metadata.

        Raises:
            NotSignedIn: if nobody is signed in, or the session has ended meanwhile.
            MetadataTooLarge: if it would be over 4096 bytes.
            TypeError: if a value is not of JSON's plain types.
        """
        return await self.session_auth.current_session.update_metadata(self.connection, changes)

    async def reseal(self) -> None:
        """Write the current proof of the user into this session, after a handler has changed its own user's password.

        Raises:
            NotSignedIn: if nobody is signed in, or the user is gone or locked.
        """
        await self.session_auth.current_session.reseal(self.connection)


def _merged(params: Params | None, fields: Params) -> Params:
    """Return a mapping and keywords as one mapping. Other values are passed on, for the flow to reject."""
    if params is None:
        return fields
    return {**params, **fields} if fields else params


def _blocking(
    method: Callable[Concatenate[RequestAuth[U, I], P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate["BlockingRequestAuth[U, I]", P], R]:
    """Return a method that runs a coroutine method to its end."""

    @wraps(method)
    def call(self: "BlockingRequestAuth[U, I]", /, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = self.run(method(self.bound, *args, **kwargs))
        return result

    return call


def _operation(
    method: Callable[Concatenate[Authenticator[U, I], P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate["BlockingOperations[U, I]", P], R]:
    """Return a method that runs a coroutine method of the authenticator to its end."""

    @wraps(method)
    def call(self: "BlockingOperations[U, I]", /, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = self.run(method(self.auth, *args, **kwargs))
        return result

    return call


def _session_operation(
    method: Callable[Concatenate[SessionAuth[U, I], P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate["BlockingOperations[U, I]", P], R]:
    """Return a method that runs a coroutine method of an authenticator with sessions to its end."""

    @wraps(method)
    def call(self: "BlockingOperations[U, I]", /, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = self.run(method(with_sessions(self.auth), *args, **kwargs))
        return result

    return call


class BlockingOperations(Generic[U, I]):
    """The operations of an authenticator on any user, for plain functions. Each call returns when it is done."""

    __slots__ = ()

    auth: Authenticator[U, I]
    run: Run

    credentials_changed = _operation(Authenticator[U, I].credentials_changed)
    delete_account = _operation(Authenticator[U, I].delete_account)
    update_account = _operation(Authenticator[U, I].update_account)
    forget_failures = _session_operation(SessionAuth[U, I].forget_failures)
    revoke_everyone = _session_operation(SessionAuth[U, I].revoke_everyone)
    revoke_user = _session_operation(SessionAuth[U, I].revoke_user)


class BlockingAuth(BlockingOperations[U, I]):
    """An authenticator for plain functions outside a request: commands, jobs, scripts.

    A view of Flask or of a WSGI app calls the same methods on its request-bound object.

    >>> from powauth import BlockingAuth
    >>> def revoke(auth: SessionAuth[Any, Any], user: object) -> int:
    ...     return BlockingAuth(auth).revoke_user(user)

    Args:
        auth: the authenticator. Its parts must work without an event loop.
    """

    __slots__ = ("auth", "run")

    def __init__(self, auth: Authenticator[U, I]) -> None:
        self.auth = auth
        self.run = drive

    close = _session_operation(SessionAuth[U, I].aclose)


class BlockingRequestAuth(BoundAuth[U, I], BlockingOperations[U, I]):
    """`RequestAuth` for handlers that are plain functions: each call returns when it is done.

    Args:
        bound: the object for coroutines.
        run: runs a coroutine to its end: in one step under WSGI, on the event loop's thread under ASGI.
    """

    __slots__ = ("bound", "run")

    def __init__(self, bound: RequestAuth[U, I], run: Run) -> None:
        super().__init__(bound.auth, bound.connection)
        self.bound = bound
        self.run = run

    def load_user(self, db: object) -> U | None:
        """See `RequestAuth.load_user`. The handler's own thread uses the database session."""
        return CurrentRow(self.auth, self.connection).load_blocking(db, self.run)

    recheck = _blocking(RequestAuth[U, I].recheck)
    sign_in = _blocking(RequestAuth[U, I].sign_in)
    sign_in_user = _blocking(RequestAuth[U, I].sign_in_user)
    sign_out = _blocking(RequestAuth[U, I].sign_out)
    register = _blocking(RequestAuth[U, I].register)
    update_user = _blocking(RequestAuth[U, I].update_user)
    delete_user = _blocking(RequestAuth[U, I].delete_user)
    sessions = _blocking(RequestAuth[U, I].sessions)
    revoke = _blocking(RequestAuth[U, I].revoke)
    revoke_others = _blocking(RequestAuth[U, I].revoke_others)
    revoke_all = _blocking(RequestAuth[U, I].revoke_all)
    update_metadata = _blocking(RequestAuth[U, I].update_metadata)
    reseal = _blocking(RequestAuth[U, I].reseal)
