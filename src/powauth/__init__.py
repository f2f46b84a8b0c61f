"""Session-based user authentication for Python web apps.

The client holds a random id, and a store of your choice holds the user's session. Ids in use are renewed. Signing in,
signing out and changing an account take one call each. One core serves ASGI and WSGI.
"""

from powauth.accounts.base import Account, Rehash, UsersContext
from powauth.accounts.hooks import Diversion, Extension, Hooks, Parts, Step
from powauth.accounts.throttle import Limit, Throttle
from powauth.errors import (
    Accepted,
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
    Overtaken,
    PowauthError,
    Refused,
    StoreMissing,
    StoreUnavailable,
    Throttled,
)
from powauth.events import Event, EventKind
from powauth.http.carriers import AnyOf, BearerCarrier, CookieCarrier, FrameworkSessionCarrier
from powauth.http.cross_site import CrossSiteDefence
from powauth.plug import Authenticator, Remember, SessionAuth
from powauth.request_auth import BlockingAuth, BlockingRequestAuth, RequestAuth
from powauth.sessions.info import SessionInfo
from powauth.sessions.keyring import Keyring
from powauth.sessions.store import CredentialsCache

__all__ = [
    "Accepted",
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
    "Diversion",
    "Event",
    "EventKind",
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
    "Overtaken",
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
