"""The session id that a client holds: its format and its codec.

    id = base64url( sid (18) | salt (16) | generation (4) | mac (16) )

The 54 bytes are exactly 72 characters, without padding or spare bits, so an id has only one spelling. The record and
the key of the MAC determine the id of each generation: every process computes the same one.
"""

import binascii
import re
from typing import Final

import msgspec

from powauth.sessions.keyring import MAC_BYTES, Mac

SHARD_BYTES = 2
SID_BYTES = SHARD_BYTES + 16
"""Two bytes of shard and 128 random bits (ASVS 7.2.3)."""

SALT_BYTES = 16
"""128 random bits that only the client and the record hold."""

GENERATION_BYTES = 4
ID_CHARS = (SID_BYTES + SALT_BYTES + GENERATION_BYTES + MAC_BYTES) * 4 // 3
SID_CHARS = SID_BYTES * 4 // 3

MAX_GENERATION = 2 ** (8 * GENERATION_BYTES) - 1
"""The last generation. Its id is not renewed."""

_GENERATION_AT = SID_BYTES + SALT_BYTES
_MAC_AT = _GENERATION_AT + GENERATION_BYTES

_SID = re.compile(rf"[A-Za-z0-9_-]{{{SID_CHARS}}}\Z")
_TO_STANDARD = bytes.maketrans(b"-_+/", b"+/!!")
"""Translates the URL-safe alphabet to the standard one, and the standard one's own characters to invalid ones."""
_TO_URLSAFE = bytes.maketrans(b"+/", b"-_")


class PresentedId(msgspec.Struct, frozen=True, gc=False):
    """The content of a well-formed id whose MAC has been verified."""

    sid: bytes
    salt: bytes
    generation: int

    def __repr__(self) -> str:  # without the salt: error reporters record the repr of local variables
        return f"<PresentedId {encode_sid(self.sid)} generation {self.generation}>"


class IdCodec:
    """Encodes and decodes the ids of one carrier.

    Args:
        mac: signs and verifies. Its key depends on the namespace, the carrier and the ``session_key``, so the id of one
            is not valid for another.
        prefix: text before each id, where several apps share a host.

    Attributes:
        length: characters of each id. Reject a value of another length before it reaches a cache or a store.
    """

    __slots__ = ("_mac", "_prefix", "length")

    def __init__(self, mac: Mac, prefix: str = "") -> None:
        self._mac: Final = mac
        self._prefix: Final = prefix
        self.length: Final = len(prefix) + ID_CHARS

    def encode(self, sid: bytes, salt: bytes, generation: int) -> str:
        """Return the id of a generation."""
        body = sid + salt + generation.to_bytes(GENERATION_BYTES)
        return self._prefix + _b64(body + self._mac.sign(body))

    def decode(self, value: str) -> PresentedId | None:
        """Return the content of an id; ``None`` for a value that `encode` did not make with one of the keys.

        This does no I/O and raises no error.
        """
        if len(value) != self.length or not value.startswith(self._prefix):
            return None
        text = value[len(self._prefix) :]
        try:
            raw = binascii.a2b_base64(text.encode("ascii").translate(_TO_STANDARD), strict_mode=True)
        except ValueError:  # characters that no id has, such as a lone surrogate
            return None
        body = raw[:_MAC_AT]
        if not self._mac.verify(body, raw[_MAC_AT:]):
            return None
        return PresentedId(raw[:SID_BYTES], raw[SID_BYTES:_GENERATION_AT], int.from_bytes(raw[_GENERATION_AT:_MAC_AT]))


def encode_sid(sid: bytes) -> str:
    """Return the public text of a sid: 24 characters. It is safe to log and to show."""
    return _b64(sid)


def decode_sid(value: object) -> bytes | None:
    """Return the sid of a text that `encode_sid` made; ``None`` for anything else."""
    if not isinstance(value, str) or not _SID.match(value):
        return None
    return binascii.a2b_base64(value.encode().translate(_TO_STANDARD))


def _b64(raw: bytes) -> str:
    return binascii.b2a_base64(raw, newline=False).translate(_TO_URLSAFE).decode()
