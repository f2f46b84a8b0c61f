"""`Passkeys`: users sign in with passkeys (WebAuthn), without a password and without a user name."""

from powauth.extensions.passkeys.extension import Passkeys
from powauth.extensions.passkeys.pages import Paths
from powauth.extensions.passkeys.table import PasskeyMixin, StoredPasskey

__all__ = ["PasskeyMixin", "Passkeys", "Paths", "StoredPasskey"]
