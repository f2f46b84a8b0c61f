"""Guards: who may go on. Each raises when the answer is no, and every integration answers what they raise.

They take the request-bound object, so that one guard serves every framework. A guard inside the handler, or on its
route, decides on what the router has chosen: no spelling of a path gets around it.
"""

from datetime import timedelta
from typing import Any, Final, Protocol, TypeVar

from powauth.errors import AlreadySignedIn, NotFresh
from powauth.http.connection import Connection
from powauth.http.cross_site import CrossSiteDefence

OWN_ORIGIN: Final = CrossSiteDefence()
"""Allows the app's own origin and no other."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

FRESH = timedelta(minutes=15)
"""How recent a sign-in must be for what cannot be undone, unless the app says otherwise."""


class Guarded(Protocol[T_co]):
    """What guards need of a request-bound object; see `powauth.RequestAuth`."""

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
        """Return the current user, or raise."""
        ...

    def is_fresh(self, within: timedelta) -> bool:
        """Return whether the user entered the password within a time."""
        ...


def require_user(auth: Guarded[T]) -> T:
    """Return the current user.

    Raises:
        NotSignedIn: if nobody is signed in: 401.
        StoreUnavailable: if nobody could tell: 503.
    """
    return auth.require_user()


def require_no_user(auth: Guarded[Any]) -> None:
    """Pass if nobody is signed in: for pages that a signed-in user has no use for.

    Raises:
        AlreadySignedIn: if somebody is: 403.
        StoreUnavailable: if nobody could tell: 503.
    """
    if auth.current_user is not None:
        raise AlreadySignedIn("somebody is signed in", current_user_key=auth.auth.current_user_key)


def require_fresh(auth: Guarded[T], within: timedelta = FRESH) -> T:
    """Return the current user, who entered the password no longer than ``within`` ago (ASVS 7.5.1).

    Neither use nor renewal makes a session fresh again. Only a sign-in does.

    Raises:
        NotSignedIn: if nobody is signed in: 401.
        NotFresh: if the sign-in is older than that, or there was none that a session remembers: 403.
        StoreUnavailable: if nobody could tell: 503.
        ConfigError: if the authenticator keeps no sessions, or ``within`` is no length of time.
    """
    user = auth.require_user()
    if not auth.is_fresh(within):
        raise NotFresh("sign in again", current_user_key=auth.auth.current_user_key)
    return user


def require_same_origin(auth: Guarded[Any], defence: CrossSiteDefence = OWN_ORIGIN) -> None:
    """Pass a request that changes nothing, or that comes from the app's own pages or from a program.

    Use it in handlers that change something, signing in and out included. A browser sends the user's cookie also with a
    request that another page makes: a page of any site with ``same_site="None"``, of a sibling host otherwise.
    `CrossSiteDefence` says what passes. A program without a body in JSON must send an ``Origin`` or ``Sec-Fetch-Site``,
    unless it presents a bearer token.

    Args:
        auth: the request-bound object.
        defence: `CrossSiteDefence` with the other origins that may send such requests.

    Raises:
        CrossSiteRequest: if the request comes from elsewhere, or does not say where it comes from: 403.
    """
    connection = auth.connection
    if auth.auth.is_ambient(connection):
        defence.check(connection, connection.method(), secure=auth.auth.secure)
