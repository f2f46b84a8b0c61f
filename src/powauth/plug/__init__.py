"""The plug: what composes sessions, accounts and HTTP, and what integrations put in front of an app."""

from powauth.plug.authenticator import Authenticator, key_of
from powauth.plug.options import Remember
from powauth.plug.session_auth import SessionAuth

__all__ = ["Authenticator", "Remember", "SessionAuth", "key_of"]
