"""Guards: who may go on. Each raises when the answer is no, and every integration answers what they raise.

They take the request-bound object, so that one guard serves every framework. A guard inside the handler, or on its
route, decides on what the router has chosen: no spelling of a path gets around it.
"""

from datetime import timedelta
from typing import Any, Final

from powauth.accounts.base import U
from powauth.errors import AlreadySignedIn, NotFresh
from powauth.http.cross_site import CrossSiteDefence
from powauth.request_auth import BlockingRequestAuth, RequestAuth
from powauth.session_auth import SessionAuth
from powauth.sessions.store import Duration

FRESH = timedelta(minutes=15)
"""How recent a sign-in must be for what cannot be undone, unless the app says otherwise."""

OWN_ORIGIN: Final = CrossSiteDefence()
"""Allows the app's own origin and no other."""

BoundAuth = RequestAuth[U] | BlockingRequestAuth[U]


def require_user(auth: BoundAuth[U]) -> U:
    """The current user.

    Raises:
        NotSignedIn: if nobody is signed in: 401.
        StoreUnavailable: if nobody could tell: 503.
    """
    return auth.require_user()


def require_no_user(auth: BoundAuth[U]) -> None:
    """Nobody is signed in: for pages that a signed-in user has no use for.

    Raises:
        AlreadySignedIn: if somebody is: 403.
        StoreUnavailable: if nobody could tell: 503.
    """
    if auth.current_user is not None:
        raise AlreadySignedIn("somebody is signed in", current_user_key=auth.auth.current_user_key)


def require_fresh(auth: BoundAuth[U], within: Duration = FRESH) -> U:
    """The current user, who proved who they are no longer than ``within`` ago (ASVS 7.5.1).

    Neither use nor renewal makes a session fresh again; only a sign-in does.

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


def require_same_origin(auth: BoundAuth[Any], defence: CrossSiteDefence = OWN_ORIGIN) -> None:
    """Pass a request that changes nothing, or that comes from the app's own pages or from a program.

    Use it in handlers that change something, signing in and out included. A browser sends the user's cookie also with a
    request that another page makes: a page of any site with ``same_site="None"``, of a sibling host otherwise.
    `CrossSiteDefence` says what passes. A program without a body in JSON must send an ``Origin`` or ``Sec-Fetch-Site``.

    Args:
        auth: the request-bound object.
        defence: `CrossSiteDefence` with the other origins that may send such requests.

    Raises:
        CrossSiteRequest: if the request comes from elsewhere, or does not say where it comes from: 403.
    """
    connection = auth.connection
    secure = auth.auth.carrier.secure if isinstance(auth.auth, SessionAuth) else True
    defence.check(connection, connection.method(), secure=secure)
