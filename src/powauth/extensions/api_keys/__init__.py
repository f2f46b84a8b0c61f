"""`ApiKeys`: users make keys for their programs. A key signs each request in as its owner, within scopes."""

from powauth.extensions.api_keys._table import ApiKeyMixin
from powauth.extensions.api_keys.authenticator import ApiKeyAuthenticator
from powauth.extensions.api_keys.extension import ApiKeyInfo, ApiKeys, NewApiKey

__all__ = ["ApiKeyAuthenticator", "ApiKeyInfo", "ApiKeyMixin", "ApiKeys", "NewApiKey"]
