"""Session-based user authentication for Python web apps.

A random id with the client, the user's session in a store you choose, ids renewed while in use; one call each to sign
in, to sign out and to change an account. One core serves ASGI and WSGI.
"""

from powauth.accounts.base import UsersContext
from powauth.accounts.throttle import Limit, Throttle
from powauth.authenticator import Authenticator
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
from powauth.hooks import Hooks, Step
from powauth.http.carriers import CookieCarrier, FrameworkSessionCarrier
from powauth.http.cross_site import CrossSiteDefence
from powauth.http.metadata import SessionInfo
from powauth.request_auth import BlockingRequestAuth, RequestAuth
from powauth.session_auth import SessionAuth
from powauth.sessions.store import CredentialsCache

__all__ = [
    "AlreadySignedIn",
    "Authenticator",
    "BlockingRequestAuth",
    "ConfigError",
    "ConfigWarning",
    "CookieCarrier",
    "CredentialsCache",
    "CrossSiteDefence",
    "CrossSiteRequest",
    "Event",
    "FrameworkSessionCarrier",
    "Hooks",
    "InvalidParams",
    "Limit",
    "MetadataTooLarge",
    "MissingExtra",
    "MoreNeeded",
    "NotFresh",
    "NotSignedIn",
    "Overloaded",
    "PowauthError",
    "Refused",
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
