"""Formats of password hashes with bcrypt: plain, Django's and passlib's. See `powauth.accounts.schemes`.

They need ``pip install 'powauth[bcrypt]'``.

bcrypt reads the first 72 bytes of a password. The plain formats ignore the rest, as the programs did that made the
hashes. So a sign-in with 72 bytes or more renews no hash. The formats with SHA-256 read all of it.
"""

import base64
import hashlib
import hmac
import re

from powauth._extras import needs
from powauth._options import whole_number
from powauth.accounts.schemes import Scheme

with needs("bcrypt", "Bcrypt", "bcrypt"):
    import bcrypt

__all__ = ["Bcrypt", "DjangoBcrypt", "DjangoBcryptSHA256", "PasslibBcryptSHA256"]

MIN_ROUNDS = 4
MAX_ROUNDS = 16
"""Each round more doubles the work. A hash with 16 takes seconds."""

MAX_BYTES = 72
"""Bytes of a password that bcrypt reads."""

_HASH = r"(?P<hash>\$2[aby]\$(?P<rounds>[0-9]{2})\$[./A-Za-z0-9]{53})\Z"
_PLAIN = re.compile(_HASH)
_DJANGO = re.compile(rf"bcrypt\${_HASH}")
_DJANGO_SHA256 = re.compile(rf"bcrypt_sha256\${_HASH}")
_PASSLIB_SHA256 = re.compile(
    r"\$bcrypt-sha256\$(?:(?P<old>2[ab]),|v=2,t=2b,r=)(?P<rounds>[0-9]{1,2})"
    r"\$(?P<salt>[./A-Za-z0-9]{22})\$(?P<tag>[./A-Za-z0-9]{31})\Z"
)


class Bcrypt(Scheme):
    """Plain bcrypt: ``$2b$12$…``, also ``$2a$`` and ``$2y$``. Flask-Bcrypt, passlib and many other programs write it.

    Args:
        rounds: the rounds of a usual hash, from 4 to 16.
        renew: see `powauth.accounts.schemes.Scheme`.
    """

    max_cost = 2**MAX_ROUNDS
    _pattern = _PLAIN

    def __init__(self, rounds: int = 12, *, renew: bool = True) -> None:
        whole_number("rounds", rounds, at_least=MIN_ROUNDS, at_most=MAX_ROUNDS)
        super().__init__(2**rounds, renew=renew)

    def cost_of(self, stored: str) -> int | None:
        """See `powauth.accounts.schemes.Scheme.cost_of`."""
        match = self._pattern.match(stored)
        rounds = 0 if match is None else int(match["rounds"])
        return 2**rounds if MIN_ROUNDS <= rounds <= MAX_ROUNDS else None

    def verify(self, stored: str, secret: bytes) -> bool:
        """See `powauth.accounts.schemes.Scheme.verify`."""
        match = self._pattern.match(stored)
        if match is None:
            return False
        try:
            return bool(bcrypt.checkpw(self.prepared(match, secret)[:MAX_BYTES], self.hash_in(match).encode("ascii")))
        except ValueError:
            return False

    def spend(self, cost: int, secret: bytes) -> None:
        """See `powauth.accounts.schemes.Scheme.spend`. Powers of two add up to the cost."""
        while cost >= 2**MIN_ROUNDS:
            rounds = cost.bit_length() - 1
            bcrypt.hashpw(secret[:MAX_BYTES], b"$2b$%02d$......................" % rounds)
            cost -= 2**rounds

    def proves_all(self, stored: str, secret: bytes) -> bool:
        """See `powauth.accounts.schemes.Scheme.proves_all`. 72 bytes may be the beginning of a longer password."""
        match = self._pattern.match(stored)
        return match is not None and len(self.prepared(match, secret)) < MAX_BYTES

    def prepared(self, match: "re.Match[str]", secret: bytes) -> bytes:
        """Return what bcrypt gets of a password."""
        del match
        return secret

    def hash_in(self, match: "re.Match[str]") -> str:
        """Return the hash in bcrypt's own notation."""
        return match["hash"]


class DjangoBcrypt(Bcrypt):
    """Hashes of Django's ``BCryptPasswordHasher``: ``bcrypt$$2b$12$…``."""

    _pattern = _DJANGO


class DjangoBcryptSHA256(Bcrypt):
    """Hashes of Django's ``BCryptSHA256PasswordHasher``: ``bcrypt_sha256$$2b$12$…``."""

    _pattern = _DJANGO_SHA256

    def prepared(self, match: "re.Match[str]", secret: bytes) -> bytes:
        """See `Bcrypt.prepared`."""
        del match
        return hashlib.sha256(secret).hexdigest().encode("ascii")


class PasslibBcryptSHA256(Bcrypt):
    """Hashes of passlib's ``bcrypt_sha256``, in both versions: ``$bcrypt-sha256$v=2,t=2b,r=12$…``."""

    _pattern = _PASSLIB_SHA256

    def prepared(self, match: "re.Match[str]", secret: bytes) -> bytes:
        """See `Bcrypt.prepared`."""
        if match["old"]:
            return base64.b64encode(hashlib.sha256(secret).digest())
        return base64.b64encode(hmac.digest(match["salt"].encode("ascii"), secret, "sha256"))

    def hash_in(self, match: "re.Match[str]") -> str:
        """See `Bcrypt.hash_in`."""
        return f"${match['old'] or '2b'}${int(match['rounds']):02d}${match['salt']}{match['tag']}"
