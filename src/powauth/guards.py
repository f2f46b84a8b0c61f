"""Guards: who may go on. Each raises when the answer is no, and every integration answers what they raise.

They take the request-bound object, so that one guard serves every framework. A guard inside the handler, or on its
route, decides on what the router has chosen: no spelling of a path gets around it.
"""

from datetime import timedelta

from powauth.accounts.base import U
from powauth.errors import AlreadySignedIn, NotFresh
from powauth.request_auth import BlockingRequestAuth, RequestAuth
from powauth.sessions.store import Duration

FRESH = timedelta(minutes=15)
"""How recent a sign-in must be for what cannot be undone, unless the app says otherwise."""

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
