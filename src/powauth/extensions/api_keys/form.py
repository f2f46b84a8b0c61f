"""The format of API keys, and the checks that need no database.

These are the parts of a key::

    powkey_ 8fJ2kQm0Zx Tn4… 0aB3xY
    prefix  public id  secret  checksum

- The *prefix* distinguishes a key from other tokens, such as the ``pow_`` of a bearer session. Scanners for leaked
  secrets find keys by the prefix, and verify them by the checksum, without a request to the server.
- The *public id* is 10 random characters. It names the key in lists, events and the table. It opens nothing.
- The *secret* is 32 random characters of 62, which is 190 bits.
- The *checksum* is the CRC-32 of all that precedes it. A mistyped or shortened key is refused without a query.
"""

import hashlib
import re
import secrets
import string
import zlib
from typing import Final, NamedTuple

from powauth._options import matching

ALPHABET: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
"""Letters and digits: a double click selects the whole key."""

ID_CHARS: Final = 10
SECRET_CHARS: Final = 32
CHECKSUM_CHARS: Final = 6
"""62 ** 6 exceeds 2 ** 32."""

PREFIX: Final = "powkey_"

_PREFIX: Final = re.compile(r"[A-Za-z0-9]{2,16}_\Z")
_BODY: Final = re.compile(f"[0-9A-Za-z]{{{ID_CHARS + SECRET_CHARS + CHECKSUM_CHARS}}}\\Z")

SCHEME: Final = "Bearer "
"""The scheme of the header, with the one space that follows it."""


class MadeKey(NamedTuple):
    """A key that was just made.

    Attributes:
        key: the key. Only its owner keeps it.
        public_id: its public id.
        secret_hash: the hash that the table keeps.
    """

    key: str
    public_id: str
    secret_hash: str

    def __repr__(self) -> str:
        return f"<MadeKey {self.public_id}>"


class PresentedKey(NamedTuple):
    """A well-formed key of a request, without its secret.

    Attributes:
        public_id: its public id.
        secret_hash: the hash of the whole key.
    """

    public_id: str
    secret_hash: str

    def __repr__(self) -> str:
        return f"<PresentedKey {self.public_id}>"


class KeyForm:
    """Makes keys, and finds them in the ``Authorization`` of a request.

    Args:
        prefix: the beginning of each key: 2 to 16 letters and digits, and an underscore.

    Raises:
        ConfigError: if the prefix is anything else.
    """

    def __init__(self, prefix: str = PREFIX) -> None:
        what = f"2 to 16 letters or digits and an underscore, such as {PREFIX!r}"
        self.prefix: Final = matching("the prefix of API keys", prefix, _PREFIX, what)
        self._begins: Final = re.compile(f"(?<![A-Za-z0-9._~+/-]){self.prefix}", re.IGNORECASE)

    def make(self) -> MadeKey:
        """Make a key."""
        public_id = _random(ID_CHARS)
        start = f"{self.prefix}{public_id}{_random(SECRET_CHARS)}"
        key = start + checksum(start)
        return MadeKey(key, public_id, hash_of(key))

    def shown(self, public_id: str) -> str:
        """Return the part of a key that may be shown."""
        return self.prefix + public_id

    def is_in(self, authorization: str | None) -> bool:
        """Return whether a header presents a key, well-formed or not.

        It finds any token that begins with the prefix, in upper or lower case: in one of two headers, after another
        scheme, or with other spaces around it. So powauth never treats a request with a key as one without credentials.
        """
        return authorization is not None and self._begins.search(authorization) is not None

    def read(self, authorization: str | None) -> PresentedKey | None:
        """Return the key in a header; ``None`` if it is not exactly ``Bearer``, one space and a well-formed key."""
        start = SCHEME + self.prefix
        if authorization is None or not authorization.startswith(start):
            return None
        key = authorization[len(SCHEME) :]
        body = key[len(self.prefix) :]
        if not _BODY.match(body) or checksum(key[:-CHECKSUM_CHARS]) != key[-CHECKSUM_CHARS:]:
            return None
        return PresentedKey(body[:ID_CHARS], hash_of(key))


def hash_of(key: str) -> str:
    """Return the hash of a key, in hexadecimal.

    A plain SHA-256 is enough: nobody can try all secrets of 190 bits. A slow hash or a keyed one would not make guesses
    harder. A hash with the app's secret would void all keys when the app replaces the secret.
    """
    return hashlib.sha256(key.encode("ascii")).hexdigest()


def checksum(text: str) -> str:
    """Return the checksum of a text.

    >>> checksum("powkey_example")
    '0gGCtz'
    """
    number, digits = zlib.crc32(text.encode("ascii")), ""
    for _ in range(CHECKSUM_CHARS):
        number, digit = divmod(number, len(ALPHABET))
        digits = ALPHABET[digit] + digits
    return digits


def _random(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))
