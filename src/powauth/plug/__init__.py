"""The plug: composes sessions, accounts and HTTP. Integrations put it in front of an app."""

from powauth.plug.authenticator import Authenticator, key_of
from powauth.plug.options import Remember
from powauth.plug.session_auth import SessionAuth

__all__ = ["Authenticator", "Remember", "SessionAuth", "key_of"]
