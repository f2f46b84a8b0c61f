"""Secret keys: powauth derives one key per purpose. The newest secret signs, and all of them verify.

Each purpose and context has its own key, so a code for one is invalid for every other. This module alone chooses the
key and the algorithm: a token has no header that could choose.

The codes are keyed BLAKE2b (RFC 7693, section 2.9). Its keyed state is prepared once and copied for each message.
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
"""Length of a code: 128 bits. Nobody can guess that, and it is short enough for a cookie."""

KEY_BYTES = 32
"""Length of a key for a cipher: 256 bits."""

MIN_DISTINCT_BYTES = 8
"""The fewest different bytes of a secret. A random secret of 32 bytes has more, even in hexadecimal."""

PLACEHOLDERS = ("changeme", "change-me", "change_me", "change this", "secret", "password", "placeholder", "example")
"""Words of copied configuration, which no random secret contains."""

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
        scope = _scope(purpose, *context)
        states = [hashlib.blake2b(scope, key=root, digest_size=MAC_BYTES, person=b"powauth mac") for root in roots]
        self._newest = states[0]
        self._older = states[1:]

    def sign(self, message: bytes) -> bytes:
        """Return the message's code under the newest key: 16 bytes."""
        state = self._newest.copy()
        state.update(message)
        return state.digest()

    def codes(self, message: bytes) -> list[bytes]:
        """Return the message's code under each key, the newest first, to look up what is stored under a code."""
        codes = []
        for key in (self._newest, *self._older):
            state = key.copy()
            state.update(message)
            codes.append(state.digest())
        return codes

    def verify(self, message: bytes, code: bytes) -> bool:
        """Return whether one of the keys made the code. The comparison takes constant time."""
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
        ConfigError: if there is no secret, or one is too short, repeats itself, or looks like a placeholder.

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

    def keys(self, purpose: str, *context: str) -> tuple[bytes, ...]:
        """Return keys of 32 bytes for a cipher, the newest first. No other purpose or context has the same ones."""
        scope = _scope(purpose, *context)
        return tuple(
            hashlib.blake2b(scope, key=root, digest_size=KEY_BYTES, person=b"powauth key").digest()
            for root in self._roots
        )

    def __repr__(self) -> str:
        return f"<Keyring of {len(self._roots)}>"


def _scope(*parts: str) -> bytes:
    """Return texts as bytes that no other texts give."""
    encoded = [part.encode() for part in parts]
    return b"".join(len(part).to_bytes(4) + part for part in encoded)


def _checked(secret: object) -> bytes:
    if not isinstance(secret, str | bytes):
        raise ConfigError(f"secret_key must be a string or bytes, not {type(secret).__name__}; {_HINT}")
    try:
        raw = secret.encode() if isinstance(secret, str) else secret
    except UnicodeEncodeError:  # the error holds the secret, so it is no cause
        raise ConfigError(f"secret_key is a string that UTF-8 cannot hold; {_HINT}") from None
    if len(raw) < MIN_SECRET_BYTES:
        raise ConfigError(f"secret_key must be at least {MIN_SECRET_BYTES} bytes, not {len(raw)}; {_HINT}")
    lowered = raw.lower()
    if any(word.encode() in lowered for word in PLACEHOLDERS):
        raise ConfigError(f"secret_key looks like a placeholder; {_HINT}")
    # A text that repeats a part of at most half its length equals its own beginning, shifted by that part.
    repeats = any(raw.startswith(raw[period:]) for period in range(1, len(raw) // 2 + 1))
    if len(set(raw)) < MIN_DISTINCT_BYTES or repeats:
        raise ConfigError(f"secret_key repeats itself and can be guessed; {_HINT}")
    return raw
