"""The plug: composes sessions, accounts and HTTP. Integrations put it in front of an app."""

from powauth.plug.authenticator import Authenticator, current_user_key_of
from powauth.plug.options import Remember
from powauth.plug.session_auth import SessionAuth

__all__ = ["Authenticator", "Remember", "SessionAuth", "current_user_key_of"]
