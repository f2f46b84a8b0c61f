"""Guards protect handlers. A guard that refuses a request raises an error, and every integration answers that error.

Guards take the request-bound object, so that one guard serves every framework. A guard inside a handler or on its route
runs after the router has chosen, so no spelling of a path bypasses it.
"""

from collections.abc import Collection
from datetime import timedelta
from typing import Any, Final, Protocol, TypeVar

from powauth.errors import AlreadySignedIn, ConfigError, NotFresh, Refused
from powauth.http.connection import Connection
from powauth.http.cross_site import CrossSiteDefence

OWN_ORIGIN: Final = CrossSiteDefence()
"""Allows the app's own origin and no other."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

FRESH = timedelta(minutes=15)
"""The default age limit of a sign-in for actions that cannot be undone."""


class Guarded(Protocol[T_co]):
    """The part of a request-bound object that guards use; see `powauth.RequestAuth`."""

    @property
    def auth(self) -> Any:
        """The authenticator."""
        ...

    @property
    def connection(self) -> Connection:
        """The request."""
        ...

    @property
    def current_user(self) -> T_co | None:
        """The current user."""
        ...

    def require_user(self) -> T_co:
        """Return the current user. Raise `NotSignedIn` if there is none."""
        ...

    def is_fresh(self, within: timedelta, methods: Collection[str] | None = None) -> bool:
        """Return whether the user proved who they are within a time, and one of ``methods`` within it."""
        ...


def require_user(auth: Guarded[T]) -> T:
    """Return the current user.

    Raises:
        NotSignedIn: if nobody is signed in (401).
        StoreUnavailable: if the user could not be determined (503).
    """
    return auth.require_user()


def require_access(auth: Guarded[T], *, scope: str | None = None, by: str | None = None) -> T:
    """Return the current user, whom the right kind of credentials signed in, with the right scope.

    Without options it accepts what `require_user` accepts: a session, and the credentials of extensions.

    Args:
        auth: the request-bound object.
        scope: a scope that the request must have. A session has all scopes of its user.
        by: the kind of credentials: ``"session"``, or that of an extension's authenticator. ``None`` accepts each.

    Raises:
        NotSignedIn: if nobody is signed in (401).
        Refused: if the user is signed in by other credentials (403, ``session_required``), or lacks the scope (403,
            ``insufficient_scope``).
        StoreUnavailable: if the user could not be determined (503).
        ConfigError: if there are no such credentials, or nothing knows the scopes of users.
    """
    user, own, connection = auth.require_user(), auth.auth, auth.connection
    check_credential(own, by)
    if by is not None and own.credential_of(connection) != by:
        text = f"this needs other credentials: {by.replace('_', ' ')}"
        raise Refused(text, code=f"{by}_required", current_user_key=own.current_user_key)
    if scope is not None:
        scopes = own.scopes(connection)
        if scopes is None:
            raise ConfigError("a guard with a scope needs an extension that knows the scopes of users")
        if scope not in scopes:
            text = f"this needs the scope {scope}"
            raise Refused(text, code="insufficient_scope", current_user_key=own.current_user_key)
    return user


def check_credential(auth: Any, by: str | None) -> None:
    """Check the ``by`` of `require_access`.

    Args:
        auth: the authenticator.
        by: a kind of credentials, or ``None``.

    Raises:
        ConfigError: if the authenticator signs nobody in by them.
    """
    if by is not None and by not in auth.credentials:
        raise ConfigError(f"by must be one of {', '.join(map(repr, auth.credentials))}, not {by!r}")


def require_no_user(auth: Guarded[Any]) -> None:
    """Check that nobody is signed in, for pages that a signed-in user does not need.

    Raises:
        AlreadySignedIn: if somebody is signed in (403).
        StoreUnavailable: if the user could not be determined (503).
    """
    if auth.current_user is not None:
        raise AlreadySignedIn("somebody is signed in", current_user_key=auth.auth.current_user_key)


def require_fresh(auth: Guarded[T], within: timedelta = FRESH, methods: Collection[str] | None = None) -> T:
    """Return the current user, who proved who they are no longer than ``within`` ago (ASVS 7.5.1).

    Neither use nor renewal makes a session fresh again. Only a sign-in does, or a second factor.

    With ``methods``, the user must also have proven one of them within that time: ``["mfa"]`` is any second factor,
    ``["otp"]`` a code of an app, ``["hwk", "swk"]`` a passkey. The error names them.

    Raises:
        NotSignedIn: if nobody is signed in (401).
        NotFresh: if the sign-in is older than that, or no session recorded it (403).
        StoreUnavailable: if the user could not be determined (503).
        ConfigError: if the authenticator keeps no sessions, or ``within`` is no length of time.
    """
    user = auth.require_user()
    if not auth.is_fresh(within, methods):
        needed = None if methods is None else tuple(methods)
        raise NotFresh("sign in again", current_user_key=auth.auth.current_user_key, methods=needed)
    return user


async def require_all_fresh(auth: Guarded[T], within: timedelta = FRESH) -> T:
    """Return the current user, who proved who they are no longer than ``within`` ago, with all that extensions ask for.

    Use it before a change that opens the account, such as a new credential. A user who has a second factor must have
    proven it within that time: a new password does not make an old factor fresh.

    Raises:
        NotSignedIn: if nobody is signed in (401).
        NotFresh: if the sign-in or the factor is older than that (403).
        StoreUnavailable: if the user, or what an extension asks for, could not be determined (503).
        ConfigError: if the authenticator keeps no sessions, or ``within`` is no length of time.
    """
    auth.require_user()
    own = auth.auth
    for methods in await own.accounts.hooks.fresh_methods(own.current_key(auth.connection)):
        require_fresh(auth, within, methods)
    return require_fresh(auth, within)


def require_same_origin(auth: Guarded[Any], defence: CrossSiteDefence = OWN_ORIGIN) -> None:
    """Check that a request changes nothing, or comes from the app's own pages or from a program.

    Use it in handlers that change something, including sign-in and sign-out. A browser sends the user's cookie also
    with requests that other pages make: pages of any site with ``same_site="None"``, otherwise pages of a sibling host.
    `CrossSiteDefence` has the rules. A program without a JSON body must send an ``Origin``, a ``Sec-Fetch-Site`` or
    a ``Referer``, unless it presents a bearer token.

    Args:
        auth: the request-bound object.
        defence: `CrossSiteDefence` with the other origins that may send such requests.

    Raises:
        CrossSiteRequest: if the request comes from elsewhere, or does not say where it comes from (403).
    """
    connection = auth.connection
    if auth.auth.is_ambient(connection):
        defence.check(connection, connection.method(), secure=auth.auth.secure)
