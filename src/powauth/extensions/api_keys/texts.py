"""The texts of the page of `ApiKeys`."""

from typing import Final

TEXTS: Final = {
    "api_keys": "API keys",
    "api_keys_link": "API keys",
    "api_keys_intro": "A key lets a program act for you. Keep it secret, and give it only the rights it needs.",
    "api_keys_none": "You have no API keys.",
    "api_keys_new": "New key",
    "api_keys_name": "Name",
    "api_keys_name_hint": "The program that will use the key.",
    "api_keys_scopes": "Rights",
    "api_keys_days": "Expires in days",
    "api_keys_days_hint": "Leave it empty for a key that does not expire.",
    "api_keys_create": "Create key",
    "api_keys_made": "Copy your new key now. It is not shown again:",
    "api_keys_prefix": "Begins with",
    "api_keys_created": "Created",
    "api_keys_last_used": "Last used",
    "api_keys_expires": "Valid until",
    "api_keys_never": "never",
    "api_keys_no_end": "does not expire",
    "api_keys_no_scopes": "none",
    "api_keys_end": "End",
    "api_keys_end_of": "End the key {name}",
    "api_keys_gone": "This key no longer exists.",
    "done_api_key_ended": "The key is no longer valid.",
}
"""The texts of the page. `powauth.pages.Messages.more` replaces them."""
