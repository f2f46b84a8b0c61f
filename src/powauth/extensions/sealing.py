"""`Sealer`: encrypts stored secrets that powauth must read again, such as the seed of an authenticator app.

It uses AES-256-GCM. The key is derived from a secret of the keyring, for one purpose and one row. So a sealed value
cannot be opened in another row or for another purpose.

    sealed = version (1) | key id (8) | nonce (12) | ciphertext | tag (16)

The key id tells which secret has sealed a value. After a rotation, values are sealed again when they are used; see
`Sealer.is_current`.
"""

import hashlib
import secrets
from typing import Final

from powauth._extras import needs
from powauth.errors import StoreMissing
from powauth.sessions.keyring import Keyring

_VERSION: Final = b"\x01"
_KEY_ID_BYTES: Final = 8
_NONCE_BYTES: Final = 12
_HEAD: Final = len(_VERSION) + _KEY_ID_BYTES
_BODY: Final = _HEAD + _NONCE_BYTES


class Sealer:
    """Seals and opens the secrets of one purpose. It has no namespace: authenticators with the same users may share it.

    Args:
        keyring: the secrets of the app. The newest one seals, and all of them open.
        purpose: the purpose of the secrets.

    Raises:
        MissingExtra: if ``cryptography`` is not installed.

    >>> import secrets
    >>> old, new = secrets.token_bytes(32), secrets.token_bytes(32)
    >>> sealed = Sealer(Keyring(old), "seed").seal(b"a seed", "row 1")
    >>> rotated = Sealer(Keyring([new, old]), "seed")
    >>> rotated.open(sealed, "row 1"), rotated.is_current(sealed)
    (b'a seed', False)
    """

    def __init__(self, keyring: Keyring, purpose: str) -> None:
        with needs("totp", "sealed secrets", "cryptography"):
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._cipher: Final = AESGCM
        self._invalid: Final = InvalidTag
        keys = keyring.keys("seal", purpose)
        self._newest: Final = _key_id(keys[0])
        self._keys: Final = {_key_id(key): key for key in reversed(keys)}

    def __repr__(self) -> str:
        return f"<Sealer of {len(self._keys)}>"

    def seal(self, secret: bytes, row: str) -> bytes:
        """Return a secret sealed for a row, with the newest key."""
        head = _VERSION + self._newest
        nonce = secrets.token_bytes(_NONCE_BYTES)
        cipher = self._cipher(_of_row(self._keys[self._newest], row))
        return head + nonce + cipher.encrypt(nonce, secret, head)

    def open(self, sealed: bytes, row: str) -> bytes:
        """Return the secret.

        Raises:
            StoreMissing: if no secret of the keyring has sealed it for this row. The caller must then refuse the user.
        """
        head, nonce = sealed[:_HEAD], sealed[_HEAD:_BODY]
        key = self._keys.get(head[len(_VERSION) :]) if head[:1] == _VERSION else None
        if key is None:
            raise StoreMissing(
                "a stored secret was sealed with a secret_key that is missing: append that secret_key to the list "
                "again, and run `powauth reseal`"
            )
        try:
            return self._cipher(_of_row(key, row)).decrypt(nonce, sealed[_BODY:], head)
        except (self._invalid, ValueError):
            raise StoreMissing("a sealed secret was changed, or belongs to another row") from None

    def is_current(self, sealed: bytes) -> bool:
        """Return whether the newest key has sealed a value. Otherwise open it, and seal it again."""
        return sealed[:_HEAD] == _VERSION + self._newest


def _key_id(key: bytes) -> bytes:
    return hashlib.blake2b(key, digest_size=_KEY_ID_BYTES, person=b"powauth key id").digest()


def _of_row(key: bytes, row: str) -> bytes:
    return hashlib.blake2b(
        row.encode("utf-8", "surrogatepass"), key=key, digest_size=32, person=b"powauth row"
    ).digest()
