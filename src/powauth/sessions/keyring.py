"""Secret keys: one derived per purpose, the newest signs, all verify.

A message authenticated for one purpose and context is nothing to another, because each has a key of its own. Which key
and which algorithm verify is decided here and never by what is verified: a token carries no header to choose with.

Keyed BLAKE2b (RFC 7693, section 2.9) makes the codes: its keyed state is prepared once and copied for each message.
"""

import hashlib
import hmac
from collections.abc import Sequence

from powauth.errors import ConfigError

Secrets = str | bytes | Sequence[str | bytes]
"""One secret, or several, newest first."""

MIN_SECRET_BYTES = 32
"""The shortest secret: 256 bits if it is random (ASVS 11.2.3 asks for 128 bits of security and more)."""

MAC_BYTES = 16
"""128 bits of code: out of reach of guessing, and short enough for a cookie."""

MIN_DISTINCT_BYTES = 8
"""A random secret of 32 bytes, even in hexadecimal, has more different bytes than this; a typed one often fewer."""

PLACEHOLDERS = ("changeme", "change-me", "change_me", "change this", "secret", "password", "placeholder", "example")
"""Words that no random secret holds, and copied configuration does."""

_HINT = "make one with: python -c 'import secrets; print(secrets.token_urlsafe(48))'"


class Mac:
    """Signs and verifies the messages of one purpose in one context. Made by `Keyring.mac`.

    >>> import secrets
    >>> ring = Keyring(secrets.token_bytes(32))
    >>> session, reset = ring.mac("session", "credentials"), ring.mac("reset", "credentials")
    >>> code = session.sign(b"message")
    >>> session.verify(b"message", code), reset.verify(b"message", code)
    (True, False)
    """

    __slots__ = ("_newest", "_older")

    def __init__(self, roots: Sequence[bytes], purpose: str, *context: str) -> None:
        parts = [part.encode() for part in (purpose, *context)]
        scope = b"".join(len(part).to_bytes(4) + part for part in parts)
        states = [hashlib.blake2b(scope, key=root, digest_size=MAC_BYTES, person=b"powauth mac") for root in roots]
        self._newest = states[0]
        self._older = states[1:]

    def sign(self, message: bytes) -> bytes:
        """The message's code under the newest key: 16 bytes."""
        state = self._newest.copy()
        state.update(message)
        return state.digest()

    def verify(self, message: bytes, code: bytes) -> bool:
        """Whether one of the keys made the code; compared in constant time."""
        state = self._newest.copy()
        state.update(message)
        if hmac.compare_digest(state.digest(), code):
            return True
        for older in self._older:
            state = older.copy()
            state.update(message)
            if hmac.compare_digest(state.digest(), code):
                return True
        return False


class Keyring:
    """An app's secret keys, newest first.

    Args:
        secret_key: one secret or several; each at least 32 bytes. There is no default. The first one signs, and all of
            them verify. To rotate while old and new workers run, add the new one last everywhere, then move it to
            the front. Drop the old one when the longest session made with it has ended.

    Raises:
        ConfigError: if there is none, or one is short, repeats itself, or looks like a placeholder.

    >>> Keyring("changeme")
    Traceback (most recent call last):
    ...
    powauth.errors.ConfigError: secret_key must be at least 32 bytes, not 8; make one with: ...
    """

    __slots__ = ("_roots",)

    def __init__(self, secret_key: Secrets) -> None:
        several = isinstance(secret_key, Sequence) and not isinstance(secret_key, str | bytes)
        secrets = secret_key if several else [secret_key]
        if not secrets or secret_key is None:
            raise ConfigError(f"secret_key is missing and has no default; {_HINT}")
        self._roots = [
            hashlib.blake2b(_checked(secret), digest_size=64, person=b"powauth keyring").digest() for secret in secrets
        ]

    def mac(self, purpose: str, *context: str) -> Mac:
        """Return the signer of a purpose (``session``, ``csrf``, …) in a context, such as the store's namespace."""
        return Mac(self._roots, purpose, *context)

    def __repr__(self) -> str:
        return f"<Keyring of {len(self._roots)}>"


def _checked(secret: object) -> bytes:
    if not isinstance(secret, str | bytes):
        raise ConfigError(f"secret_key must be a string or bytes, not {type(secret).__name__}; {_HINT}")
    try:
        raw = secret.encode() if isinstance(secret, str) else secret
    except UnicodeEncodeError:  # which holds the secret
        raise ConfigError(f"secret_key is a string that UTF-8 cannot hold; {_HINT}") from None
    if len(raw) < MIN_SECRET_BYTES:
        raise ConfigError(f"secret_key must be at least {MIN_SECRET_BYTES} bytes, not {len(raw)}; {_HINT}")
    lowered = raw.lower()
    if any(word.encode() in lowered for word in PLACEHOLDERS):
        raise ConfigError(f"secret_key looks like a placeholder; {_HINT}")
    # A text that repeats one of at most half its length begins again, as it is, where the repetition does.
    repeats = any(raw.startswith(raw[period:]) for period in range(1, len(raw) // 2 + 1))
    if len(set(raw)) < MIN_DISTINCT_BYTES or repeats:
        raise ConfigError(f"secret_key repeats itself and can be guessed; {_HINT}")
    return raw
