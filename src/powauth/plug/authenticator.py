"""`Authenticator`: the contract that every integration accepts.

A subclass that implements `fetch`, `create` and `delete` is another way to authenticate requests: by a token, or by a
header that a trusted proxy sets. `powauth.plug.session_auth.SessionAuth` is the session plug.

A middleware calls ``call_at_once`` for each request. If that returns false, it awaits ``call``, which calls
``do_fetch``, which calls ``fetch``. Only ``fetch`` is for the subclass. ``call`` turns an outage into a placeholder for
the user, and ``do_fetch`` assigns the user. ``call_at_once`` is a shortcut for subclasses that can do all this without
waiting.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Final, Generic, TypeVar, cast

import msgspec

from powauth._options import instance, wrong
from powauth.accounts.anywhere import anywhere
from powauth.accounts.base import Account, U, UsersContext, key_of_user
from powauth.accounts.changes import BY_APP, ChangeListener
from powauth.accounts.fan_out import FanOut
from powauth.accounts.flow_hooks import FlowHooks, check_events
from powauth.accounts.grant import AS_BEFORE, Grant, times_of
from powauth.accounts.hooks import Extension, Hooks
from powauth.accounts.identity import I, Key
from powauth.accounts.records import UserRecords
from powauth.accounts.service import AccountService
from powauth.accounts.throttle import PURPOSE as COUNTERS
from powauth.backends.base import Millis
from powauth.errors import ConfigError, StoreUnavailable
from powauth.events import EventName, log
from powauth.http.connection import MISSING, NO_EFFECTS, Connection, Effects
from powauth.http.unreachable import Unreachable

E = TypeVar("E", bound=Extension[Any])


def current_user_key_of(authenticator: "str | Authenticator[Any, Any]") -> str:
    """Return the ``current_user_key`` of an authenticator. Return a key unchanged."""
    return authenticator if isinstance(authenticator, str) else authenticator.current_user_key


class Authenticator(ABC, Generic[U, I]):
    """The base class of all ways to authenticate requests. Implement `fetch`, `create` and `delete`.

    An authenticator holds no state of a request, so one object serves all threads, tasks and apps. Do not change it
    after it was made.

    Args:
        users: the users context.
        current_user_key: the name under which the current user is assigned to a request.
        hooks: the app's own functions before and after each flow.
        extensions: features around the plug, in the order in which they run.
        records: follows changes of accounts, and counts attempts to sign in. ``None`` does neither.
        following: makes the listener for changes that the app's own code makes; see `UsersContext.add_listener`.

    Attributes:
        accounts: the flows: sign in, register, change, delete, sign out.
        vary: the request headers that identify the user, for ``Vary``.
        places: the places in which clients keep its ids: the kind of each carrier, and its ``session_key``. Two
            authenticators of one app have no place in common.
        secure: whether clients must use https.
        credential: the kind of credentials by which it signs users in, for `powauth.http.guards.require_access`.
        bearer_format: the form of its tokens in ``Authorization: Bearer``, for OpenAPI. ``None`` if it takes none.
        in_authorization: whether its credentials are in ``Authorization`` alone. powauth then calls `presents` only for
            requests with that header, so it costs the others next to nothing.
        others: authenticators of extensions beside it, which sign users in by credentials of other kinds.

    Raises:
        ConfigError: if an option is wrong.
    """

    credential: ClassVar[str] = "custom"
    bearer_format: str | None = None
    in_authorization: ClassVar[bool] = False
    others: "Sequence[Authenticator[Any, I]]" = ()
    vary: tuple[bytes, ...] = (b"Cookie",)
    places: frozenset[tuple[str, str]] = frozenset()
    secure: bool = True

    def __init__(
        self,
        users: UsersContext[U, I],
        *,
        current_user_key: str = "current_user",
        hooks: Hooks[I] | None = None,
        extensions: Sequence[Extension[I]] = (),
        records: UserRecords[I] | None = None,
        following: Callable[[AccountService[I]], ChangeListener] = FanOut,
    ) -> None:
        check_users(users)
        if not isinstance(current_user_key, str) or not current_user_key.isidentifier():
            raise wrong("current_user_key", "a Python identifier", current_user_key)
        instance("hooks", hooks, Hooks | None, "Hooks(before_sign_in=..., ...) or None")
        check_extensions(extensions, users)
        check_events(extensions)
        self.users: Final = users
        self.current_user_key: Final = current_user_key
        self.accounts: Final[AccountService[I]] = AccountService(
            anywhere(users),
            FlowHooks(Hooks() if hooks is None else hooks, extensions),
            self,
            UserRecords() if records is None else records,
        )
        users.add_listener(following(self.accounts))

    # --- the contract -------------------------------------------------------------------------------------------------

    @abstractmethod
    async def fetch(self, connection: Connection) -> I | None:
        """Return the identity of the request's user; ``None`` if nobody is signed in.

        Raises:
            StoreUnavailable: if the user cannot be determined.
        """

    @abstractmethod
    async def create(self, connection: Connection, account: Account[I], grant: Grant = AS_BEFORE) -> Account[I] | None:
        """Sign an account in on this connection. Return the account as it is now.

        Return ``None`` if the account is gone or locked, or no longer has the proof that was checked.
        """

    @abstractmethod
    async def delete(self, connection: Connection) -> None:
        """Sign out on this connection. Once this returns, none of its credentials is valid."""

    def is_due(self, connection: Connection) -> bool:
        """Return whether `respond` may change the response. If not, powauth does not call it."""
        del connection
        return True

    async def respond(self, connection: Connection, *, failed: bool = False) -> Effects:
        """Return the changes to a response. powauth calls this once, when the response starts.

        ``failed``: the status is 500 or more, or the handler raised an error.
        """
        del connection, failed
        return NO_EFFECTS

    def is_presented(self, connection: Connection) -> bool:
        """Return whether the ``Origin`` of a WebSocket's handshake must be checked.

        It must be, if a browser may have added credentials automatically, for a page of any site. By default powauth
        checks every handshake that has a cookie or an ``Origin``, unless the credentials are not ambient; see
        `is_ambient`.
        """
        if not self.is_ambient(connection):
            return False
        return bool(connection.cookies()) or connection.header("origin") is not None

    async def recheck(self, connection: Connection) -> bool:
        """Return whether the user of a long-lived connection is still signed in.

        Raises:
            StoreUnavailable: if that cannot be determined.
        """
        return await self.fetch(connection) is not None

    def is_expired(self, connection: Connection) -> bool:
        """Return whether the user's session has expired, as far as is known without a read."""
        del connection
        return False

    def emit(
        self, name: EventName, request: Connection | None, *, key: Key | None = None, detail: str | None = None
    ) -> None:
        """Emit an event of a flow."""

    def is_ambient(self, connection: Connection) -> bool:
        """Return whether a browser may have added the credentials in use automatically.

        If so, a page of another site may have made the request, and the cross-site defence applies. For the handshake
        of a WebSocket, powauth asks `is_presented`.
        """
        del connection
        return True

    def presents(self, connection: Connection) -> bool:
        """Return whether a request presents credentials of this authenticator, valid or not, without waiting.

        powauth asks this of an extension's authenticator, to choose who identifies the user. If it does, no session of
        the request counts. This decides no cross-site check: those are `is_ambient` and `is_presented`.
        """
        del connection
        return False

    def challenge(self, connection: Connection) -> str | None:
        """Return the challenge for programs in the ``WWW-Authenticate`` of a 401; ``None`` if there is none.

        Browsers open no dialog for the scheme ``Bearer``.
        """
        del connection
        return None

    @property
    def credentials(self) -> tuple[str, ...]:
        """The kinds of credentials by which users may be signed in here."""
        return (self.credential,)

    def credential_of(self, connection: Connection) -> str:
        """Return the kind of credentials that count in a request."""
        del connection
        return self.credential

    def scopes_of(self, identity: I) -> frozenset[str] | None:
        """Return the scopes of a user; ``None`` if they are not known."""
        del identity
        return None

    def scopes(self, connection: Connection) -> frozenset[str] | None:
        """Return the scopes of a request: what its credentials allow. ``None`` if they are not known.

        Raises:
            StoreUnavailable: if the user could not be determined.
        """
        identity = self.current_identity(connection)
        return frozenset() if identity is None else self.scopes_of(identity)

    def check_session(self, request: Connection) -> None:
        """Refuse a request that presents credentials of another kind than a session.

        Flows that begin, list or end sessions, and those that change an account, call it.

        Raises:
            Refused: if it does (403, ``session_required``).
        """

    def check_asgi(self) -> None:
        """Log which parts are slow on an event loop.

        The users context is called at a sign-in and at a change of an account, so its line is no warning.
        """
        if self.users.mode == "blocking":
            log(
                logging.INFO,
                "the users context is synchronous: each sign-in on ASGI takes a worker thread; "
                "an AsyncEngine needs none",
            )

    def check_wsgi(self) -> None:
        """Check that all parts work without an event loop.

        Raises:
            ConfigError: if one does not.
        """
        if self.users.mode == "async":
            raise ConfigError("a WSGI app needs a synchronous users context: give SQLAlchemyUsers an Engine")
        self.accounts.hooks.check_plain()

    # --- the plug -----------------------------------------------------------------------------------------------------

    def call_at_once(self, connection: Connection) -> bool:
        """Do the work of `call` if that needs no waiting. Return whether it is done."""
        del connection
        return False

    async def call(self, connection: Connection) -> None:
        """Fetch the current user and assign it, unless a user or ``None`` is assigned already.

        If the store is unreachable, assign an `Unreachable`. It raises `StoreUnavailable` when it is used, so pages
        that do not use the current user are still served, and the others never read "nobody is signed in".
        """
        if connection.assigned(self.current_user_key) is not MISSING:
            return
        try:
            await self.do_fetch(connection)
        except StoreUnavailable as error:
            connection.assign_unreachable(self.current_user_key, Unreachable(error))

    async def do_fetch(self, connection: Connection) -> I | None:
        """Call `fetch`, and assign the current user."""
        identity = await self.fetch(connection)
        self.assign(connection, identity)
        return identity

    async def do_create(self, connection: Connection, account: Account[I], grant: Grant = AS_BEFORE) -> I | None:
        """Call `create` with the hooks around it, and assign the current user. Every sign-in uses this method.

        Raises:
            Refused: if a hook or an extension refuses the sign-in.
        """
        grant = msgspec.structs.replace(grant, amr=self.proven_methods(connection, account.key, grant))
        await self.accounts.before_sign_in(connection, account, grant)
        signed_in = await self.create(connection, account, grant)
        if signed_in is None:
            return None
        self.assign(connection, signed_in.identity)
        await self.accounts.after_sign_in(connection, signed_in)
        return signed_in.identity

    def proven_methods(self, connection: Connection, key: Key, grant: Grant) -> Mapping[str, Millis]:
        """Return what a user has proven who is about to be signed in, with the time of each; see `Grant`.

        An authenticator without sessions remembers nothing, and has no clock.
        """
        del connection, key
        return times_of(grant)

    async def do_delete(self, connection: Connection) -> None:
        """Call `delete`, and assign ``None`` as the current user."""
        await self.delete(connection)
        self.assign(connection, None)

    def assign(self, request: Connection, identity: I | None) -> None:
        """Make the identity visible to the request's handlers."""
        request.assign(self.current_user_key, identity)

    def current_identity(self, request: Connection) -> I | None:
        """Return the identity of the user who is signed in on a connection.

        Raises:
            StoreUnavailable: if the user could not be determined.
        """
        assigned = request.assigned(self.current_user_key)
        if assigned is MISSING:
            return None
        if isinstance(assigned, Unreachable):
            assigned.raise_cause()
        return cast("I | None", assigned)

    def current_key(self, request: Connection) -> Key | None:
        """Return the key of the user who is signed in on a connection.

        Raises:
            StoreUnavailable: if the user could not be determined.
        """
        identity = self.current_identity(request)
        return None if identity is None else self.users.key_of(identity)

    def is_current(self, request: Connection, account: Account[I]) -> bool:
        """Return whether an account that was just read is still the one that signed in on a connection."""
        del request
        return account.active

    async def dismiss(self, connection: Connection, account: Account[I] | None = None) -> bool:
        """Make a request anonymous whose user is gone, is locked, or has another proof.

        Return ``False``, and change nothing, if the session is known by now to be that of the ``account``.
        """
        del account
        self.assign(connection, None)
        return True

    def signed_in_recently(self, request: Connection) -> bool:
        """Return whether the current user has just signed in. Such a user may set a first password.

        By default it returns ``False``: an authenticator without sessions does not know.
        """
        del request
        return False

    # --- for the app's own code ---------------------------------------------------------------------------------------

    def extension(self, kind: type[E]) -> E:
        """Return the extension of a class.

        Raises:
            ConfigError: if there is none.
        """
        for extension in self.accounts.hooks.extensions:
            if isinstance(extension, kind):
                return extension
        raise ConfigError(f"there is no {kind.__name__} among the extensions")

    def key_of(self, user: object) -> Key:
        """Return the key of a user: of an identity, a row, an account, or the key itself.

        Raises:
            ConfigError: if ``user`` is none of these.
        """
        return key_of_user(self.users, user)

    async def create_account(self, params: Mapping[str, object] | None = None, /, **fields: object) -> I:
        """Create a user without a request; see `AccountService.create_account`."""
        return await self.accounts.create_account({**(params or {}), **fields})

    async def update_account(self, user: object, params: Mapping[str, object] | None = None, /, **fields: object) -> I:
        """Change any user; see `AccountService.update_account`. ``user`` is an identity, a row, or a key."""
        return await self.accounts.update_account(self.key_of(user), {**(params or {}), **fields})

    async def refresh(self, user: object) -> None:
        """Update the identity of any user in all of their sessions, after the app has changed the user's row itself.

        ``user`` is an identity, a row, or a key. `update_account` does this.
        """
        await self.accounts.records.refresh(self.key_of(user))

    async def delete_account(self, user: object) -> bool:
        """Delete any user; see `AccountService.delete_account`. ``user`` is an identity, a row, or a key."""
        return await self.accounts.delete_account(self.key_of(user))

    async def credentials_changed(self, user: object, why: str = BY_APP) -> int:
        """End all sessions and tokens of a user; see `AccountService.credentials_changed`."""
        return await self.accounts.credentials_changed(self.key_of(user), why)


def check_users(users: object) -> None:
    """Check that ``users`` is a users context.

    Raises:
        ConfigError: if it is not.
    """
    instance("users", users, UsersContext, "a UsersContext, such as SQLAlchemyUsers")


def check_extensions(extensions: Sequence[Extension[I]], users: UsersContext[Any, I]) -> None:
    """Check the extensions that an authenticator was given.

    Raises:
        ConfigError: if they are no sequence, or one needs another that is missing, or see `check_extension`.
    """
    instance("extensions", extensions, Sequence, "a list of extensions")
    for extension in extensions:
        check_extension(extension, users)
    for extension in extensions:
        for needed in extension.companions():
            if not any(isinstance(each, needed) for each in extensions):
                own, other = type(extension).__name__, needed.__name__
                raise ConfigError(f"this {own} needs {other}: give extensions the {other}, too")


def check_extension(extension: Extension[I], users: UsersContext[Any, I]) -> Extension[I]:
    """Return an extension that an authenticator was given.

    Raises:
        ConfigError: if it is not an `Extension`, or the app's model lacks a mixin that the extension needs.
    """
    instance("each of the extensions", extension, Extension, "an object of an Extension, such as Lock()")
    if extension.name == COUNTERS:
        raise ConfigError(f"an extension must not have the name {COUNTERS!r}: the counters of attempts have it")
    model = users.model
    missing = [each.__name__ for each in extension.needs if not (isinstance(model, type) and issubclass(model, each))]
    if missing:
        name = model.__name__ if isinstance(model, type) else "the users context's model"
        raise ConfigError(
            f"the extension {extension.name!r} needs columns: derive {name} from {', '.join(missing)}, too"
        )
    return extension
