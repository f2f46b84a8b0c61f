"""Session-based user authentication for Python web apps.

The client holds a random id, and a store of your choice holds the user's session. Ids in use are renewed. Signing in,
signing out and changing an account take one call each. One core serves ASGI and WSGI.
"""

from powauth.accounts.base import Account, Rehash, UsersContext
from powauth.accounts.hooks import Extension, Hooks, Parts, Step
from powauth.accounts.throttle import Limit, Throttle
from powauth.errors import (
    AlreadySignedIn,
    ConfigError,
    ConfigWarning,
    CrossSiteRequest,
    InvalidParams,
    MetadataTooLarge,
    MissingExtra,
    MoreNeeded,
    NotFresh,
    NotSignedIn,
    Overloaded,
    PowauthError,
    Refused,
    StoreMissing,
    StoreUnavailable,
    Throttled,
)
from powauth.events import Event
from powauth.http.carriers import AnyOf, BearerCarrier, CookieCarrier, FrameworkSessionCarrier
from powauth.http.cross_site import CrossSiteDefence
from powauth.plug import Authenticator, Remember, SessionAuth
from powauth.request_auth import BlockingAuth, BlockingRequestAuth, RequestAuth
from powauth.sessions.info import SessionInfo
from powauth.sessions.keyring import Keyring
from powauth.sessions.store import CredentialsCache

__all__ = [
    "Account",
    "AlreadySignedIn",
    "AnyOf",
    "Authenticator",
    "BearerCarrier",
    "BlockingAuth",
    "BlockingRequestAuth",
    "ConfigError",
    "ConfigWarning",
    "CookieCarrier",
    "CredentialsCache",
    "CrossSiteDefence",
    "CrossSiteRequest",
    "Event",
    "Extension",
    "FrameworkSessionCarrier",
    "Hooks",
    "InvalidParams",
    "Keyring",
    "Limit",
    "MetadataTooLarge",
    "MissingExtra",
    "MoreNeeded",
    "NotFresh",
    "NotSignedIn",
    "Overloaded",
    "Parts",
    "PowauthError",
    "Refused",
    "Rehash",
    "Remember",
    "RequestAuth",
    "SessionAuth",
    "SessionInfo",
    "Step",
    "StoreMissing",
    "StoreUnavailable",
    "Throttle",
    "Throttled",
    "UsersContext",
]
