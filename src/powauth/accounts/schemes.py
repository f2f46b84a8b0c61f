"""Formats of password hashes that other programs have made: werkzeug, Django and passlib, without their code.

Give the formats that your table holds to the hasher::

    PasswordHasher(existing=[WerkzeugScrypt(), DjangoPBKDF2(renew=False)])

At a sign-in, powauth replaces such a hash by an Argon2id hash and keeps the user's sessions ("verify and renew"). With
``renew=False`` it never rewrites the hash, so that another part of the app can go on reading it ("verify and leave").

The formats with bcrypt are in `powauth.accounts.bcrypt_schemes`. Argon2id in the usual notation needs no scheme.

**Equal work.** Each scheme says what a usual hash costs. Every verification costs that much, whatever is stored, so the
time does not tell who exists or who has an old hash. Set the cost to that of most of your hashes. A hash of a higher
cost takes longer.

**Damaged hashes.** A malformed hash matches nothing. The same holds for a hash with an absurd cost, which would occupy
the server.
"""

import base64
import binascii
import hashlib
import hmac
import re
from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from powauth._extras import needs
from powauth._options import choice, flag, whole_number

with needs("users", "PasswordHasher", "argon2"):
    from argon2.exceptions import Argon2Error
    from argon2.low_level import Type, hash_secret_raw, verify_secret

__all__ = [
    "Argon2",
    "DjangoArgon2",
    "DjangoPBKDF2",
    "DjangoScrypt",
    "PasslibPBKDF2",
    "Scheme",
    "WerkzeugPBKDF2",
    "WerkzeugScrypt",
]

Digest = Literal["sha1", "sha256", "sha512"]

MAX_MEMORY = 256 * 1024 * 1024
"""Bytes that the verification of one hash may use."""

_DIGESTS = {"sha1": 20, "sha256": 32, "sha512": 64}
"""Length of each digest, in bytes. The tag of a hash is as long."""

_SCRYPT_BYTES = 64
_MAX_LANES = 64
_MAX_PASSES = 64
"""Passes of Argon2. Many passes over little memory take far longer than as many blocks in few passes."""

_ARGON2_TYPES = {"i": Type.I, "d": Type.D, "id": Type.ID}

_NUMBER = "[1-9][0-9]{0,9}"
_SALT = "[!-#%-~]{1,128}"
_BASE64 = "[A-Za-z0-9+/]{20,100}={0,2}"
_ARGON2 = (
    rf"\$v=19\$m=(?P<m>{_NUMBER}),t=(?P<t>{_NUMBER}),p=(?P<p>{_NUMBER})"
    r"\$[A-Za-z0-9+/]{11,86}\$[A-Za-z0-9+/]{22,86})\Z"
)

_WERKZEUG_PBKDF2 = re.compile(rf"pbkdf2:(sha1|sha256|sha512):({_NUMBER})\$({_SALT})\$((?:[0-9a-f]{{2}}){{20,64}})\Z")
_WERKZEUG_SCRYPT = re.compile(rf"scrypt:({_NUMBER}):({_NUMBER}):({_NUMBER})\$({_SALT})\$((?:[0-9a-f]{{2}}){{64}})\Z")
_DJANGO_PBKDF2 = re.compile(rf"pbkdf2_(sha1|sha256)\$({_NUMBER})\$({_SALT})\$({_BASE64})\Z")
_DJANGO_SCRYPT = re.compile(rf"scrypt\$({_NUMBER})\$({_SALT})\$({_NUMBER})\$({_NUMBER})\$({_BASE64})\Z")
_PASSLIB_PBKDF2 = re.compile(
    rf"\$pbkdf2(?:-(sha256|sha512))?\$({_NUMBER})\$([A-Za-z0-9./]{{0,200}})\$([A-Za-z0-9./]{{27,86}})\Z"
)
_ARGON2_HASH = re.compile(rf"(?P<hash>\$argon2(?P<type>[id]){_ARGON2}")
_DJANGO_ARGON2_HASH = re.compile(rf"argon2(?P<hash>\$argon2(?P<type>id|i|d){_ARGON2}")


class Scheme(ABC):
    """A format of password hashes. Subclass it for a format of your own.

    Args:
        cost: the work of a usual hash of the table, in the scheme's own unit.
        renew: whether a sign-in replaces such a hash by an Argon2id hash.

    Attributes:
        max_cost: the highest cost of a stored hash that is verified at all.
    """

    max_cost: ClassVar[int]

    def __init__(self, cost: int, *, renew: bool = True) -> None:
        whole_number(f"the cost of {type(self).__name__}", cost, at_most=self.max_cost)
        flag("renew", renew)
        self.cost = cost
        self.renew = renew

    @abstractmethod
    def cost_of(self, stored: str) -> int | None:
        """Return the work that a stored hash costs; ``None`` if it is malformed or of another format."""

    @abstractmethod
    def verify(self, stored: str, secret: bytes) -> bool:
        """Return whether a password matches a stored hash whose cost is known. This must not raise."""

    @abstractmethod
    def spend(self, cost: int, secret: bytes) -> None:
        """Do this much work, and nothing else."""

    def proves_all(self, stored: str, secret: bytes) -> bool:
        """Return whether a password that matches a stored hash is the user's whole password. By default it is.

        Override this for a format that ignores a part of the password. Otherwise a renewal would set a password that
        the user has mistyped in that part.
        """
        del stored, secret
        return True


def is_affordable(scheme: Scheme, stored: str) -> bool:
    """Return whether a stored hash is of a scheme's format, and its cost is not absurd."""
    cost = scheme.cost_of(stored)
    return cost is not None and 0 < cost <= scheme.max_cost


class _PBKDF2(Scheme):
    """PBKDF2. The cost is the number of iterations."""

    max_cost = 5_000_000

    def __init__(self, iterations: int, *, digest: Digest = "sha256", renew: bool = True) -> None:
        super().__init__(iterations, renew=renew)
        choice("digest", digest, *_DIGESTS)
        self._digest = digest

    @abstractmethod
    def parts_of(self, stored: str) -> tuple[str, int, bytes, bytes] | None:
        """Return the digest, the iterations, the salt and the tag of a stored hash."""

    def cost_of(self, stored: str) -> int | None:
        """See `Scheme.cost_of`."""
        parts = self.parts_of(stored)
        return None if parts is None or len(parts[3]) != _DIGESTS[parts[0]] else parts[1]

    def verify(self, stored: str, secret: bytes) -> bool:
        """See `Scheme.verify`."""
        parts = self.parts_of(stored)
        if parts is None:
            return False
        digest, iterations, salt, tag = parts
        return hmac.compare_digest(hashlib.pbkdf2_hmac(digest, secret, salt, iterations), tag)

    def spend(self, cost: int, secret: bytes) -> None:
        """See `Scheme.spend`."""
        hashlib.pbkdf2_hmac(self._digest, secret, b"no salt of a user", cost)


class WerkzeugPBKDF2(_PBKDF2):
    """Hashes of ``werkzeug.security.generate_password_hash`` with PBKDF2: ``pbkdf2:sha256:1000000$…``.

    Args:
        iterations: of a usual hash. werkzeug's default has grown from 150,000 (1.0) through 260,000 and 600,000 to
            1,000,000.
        digest: of a usual hash.
        renew: see `Scheme`.
    """

    def __init__(self, iterations: int = 1_000_000, *, digest: Digest = "sha256", renew: bool = True) -> None:
        super().__init__(iterations, digest=digest, renew=renew)

    def parts_of(self, stored: str) -> tuple[str, int, bytes, bytes] | None:
        """See `_PBKDF2.parts_of`."""
        match = _WERKZEUG_PBKDF2.match(stored)
        return None if match is None else (match[1], int(match[2]), match[3].encode(), bytes.fromhex(match[4]))


class DjangoPBKDF2(_PBKDF2):
    """Hashes of Django's ``PBKDF2PasswordHasher`` and ``PBKDF2SHA1PasswordHasher``: ``pbkdf2_sha256$1000000$…``.

    Args:
        iterations: of a usual hash. Django's default grows with each version: 390,000 (4.1), 600,000 (4.2), 720,000
            (5.0), 870,000 (5.1), 1,000,000 (5.2).
        digest: of a usual hash.
        renew: see `Scheme`.
    """

    def __init__(self, iterations: int = 1_000_000, *, digest: Digest = "sha256", renew: bool = True) -> None:
        super().__init__(iterations, digest=digest, renew=renew)

    def parts_of(self, stored: str) -> tuple[str, int, bytes, bytes] | None:
        """See `_PBKDF2.parts_of`."""
        match = _DJANGO_PBKDF2.match(stored)
        tag = None if match is None else decoded(match[4])
        return None if match is None or tag is None else (match[1], int(match[2]), match[3].encode(), tag)


class PasslibPBKDF2(_PBKDF2):
    """Hashes of passlib's ``pbkdf2_sha1``, ``pbkdf2_sha256`` and ``pbkdf2_sha512``: ``$pbkdf2-sha256$29000$…``.

    Args:
        iterations: of a usual hash. The default is passlib's for ``pbkdf2_sha256``.
        digest: of a usual hash.
        renew: see `Scheme`.
    """

    def __init__(self, iterations: int = 29_000, *, digest: Digest = "sha256", renew: bool = True) -> None:
        super().__init__(iterations, digest=digest, renew=renew)

    def parts_of(self, stored: str) -> tuple[str, int, bytes, bytes] | None:
        """See `_PBKDF2.parts_of`."""
        match = _PASSLIB_PBKDF2.match(stored)
        if match is None:
            return None
        salt, tag = (decoded(match[part].replace(".", "+"), padded=False) for part in (3, 4))
        return None if salt is None or tag is None else (match[1] or "sha1", int(match[2]), salt, tag)


class _Scrypt(Scheme):
    """Scrypt. The cost is the number of blocks of 128 bytes that are mixed: N * r * p."""

    max_cost = 2**22

    def __init__(self, n: int, r: int, p: int, *, renew: bool = True) -> None:
        for name, value in (("n", n), ("r", r), ("p", p)):
            whole_number(name, value)
        super().__init__(n * r * p, renew=renew)

    @abstractmethod
    def parts_of(self, stored: str) -> tuple[int, int, int, bytes, bytes] | None:
        """Return N, r, p, the salt and the tag of a stored hash."""

    def cost_of(self, stored: str) -> int | None:
        """See `Scheme.cost_of`."""
        parts = self.parts_of(stored)
        if parts is None:
            return None
        n, r, p, _, tag = parts
        valid = n > 1 and not n & (n - 1) and 128 * n * r + 128 * r * p <= MAX_MEMORY and len(tag) == _SCRYPT_BYTES
        return n * r * p if valid else None

    def verify(self, stored: str, secret: bytes) -> bool:
        """See `Scheme.verify`."""
        parts = self.parts_of(stored)
        if parts is None:
            return False
        n, r, p, salt, tag = parts
        try:
            return hmac.compare_digest(_scrypt(secret, salt, n, r, p), tag)
        except ValueError:  # OpenSSL refuses some combinations
            return False

    def spend(self, cost: int, secret: bytes) -> None:
        """See `Scheme.spend`. Powers of two add up to the cost, except for a hundredth of it."""
        least = max(2, cost // 1024)
        while cost // 8 >= least:
            n = min(2 ** ((cost // 8).bit_length() - 1), 2**15)
            _scrypt(secret, b"no salt of a user", n, 8, 1)
            cost -= n * 8


class WerkzeugScrypt(_Scrypt):
    """Hashes of ``werkzeug.security.generate_password_hash`` with scrypt: ``scrypt:32768:8:1$…``.

    Args:
        n: N of a usual hash.
        r: r of a usual hash.
        p: p of a usual hash.
        renew: see `Scheme`.
    """

    def __init__(self, n: int = 2**15, r: int = 8, p: int = 1, *, renew: bool = True) -> None:
        super().__init__(n, r, p, renew=renew)

    def parts_of(self, stored: str) -> tuple[int, int, int, bytes, bytes] | None:
        """See `_Scrypt.parts_of`."""
        match = _WERKZEUG_SCRYPT.match(stored)
        if match is None:
            return None
        return int(match[1]), int(match[2]), int(match[3]), match[4].encode(), bytes.fromhex(match[5])


class DjangoScrypt(_Scrypt):
    """Hashes of Django's ``ScryptPasswordHasher``: ``scrypt$16384$…``.

    Args:
        n: N of a usual hash.
        r: r of a usual hash.
        p: p of a usual hash; 1 before Django 5.1.
        renew: see `Scheme`.
    """

    def __init__(self, n: int = 2**14, r: int = 8, p: int = 5, *, renew: bool = True) -> None:
        super().__init__(n, r, p, renew=renew)

    def parts_of(self, stored: str) -> tuple[int, int, int, bytes, bytes] | None:
        """See `_Scrypt.parts_of`."""
        match = _DJANGO_SCRYPT.match(stored)
        tag = None if match is None else decoded(match[5])
        if match is None or tag is None:
            return None
        return int(match[1]), int(match[3]), int(match[4]), match[2].encode(), tag


class Argon2(Scheme):
    """Argon2i and Argon2d in the usual notation, as older releases of argon2-cffi and passlib wrote them.

    The hasher itself reads Argon2id. The cost is the number of blocks of 1 KiB that are filled.

    Args:
        time_cost: passes of a usual hash.
        memory_cost: memory of a usual hash, in KiB.
        renew: see `Scheme`.
    """

    max_cost = 2**22
    _pattern: ClassVar[re.Pattern[str]] = _ARGON2_HASH
    _usual: ClassVar[Type] = Type.I

    def __init__(self, time_cost: int = 2, memory_cost: int = 102_400, *, renew: bool = True) -> None:
        whole_number("time_cost", time_cost, at_most=_MAX_PASSES)
        whole_number("memory_cost", memory_cost)
        super().__init__(time_cost * memory_cost, renew=renew)

    def cost_of(self, stored: str) -> int | None:
        """See `Scheme.cost_of`."""
        match = self._pattern.match(stored)
        if match is None:
            return None
        memory, time, lanes = (int(number) for number in match.group("m", "t", "p"))
        valid = 8 * lanes <= memory <= MAX_MEMORY // 1024 and lanes <= _MAX_LANES and time <= _MAX_PASSES
        return memory * time if valid else None

    def verify(self, stored: str, secret: bytes) -> bool:
        """See `Scheme.verify`."""
        match = self._pattern.match(stored)
        if match is None:
            return False
        try:
            return bool(verify_secret(match["hash"].encode("ascii"), secret, _ARGON2_TYPES[match["type"]]))
        except Argon2Error:
            return False

    def spend(self, cost: int, secret: bytes) -> None:
        """See `Scheme.spend`."""
        passes = -(-cost // (MAX_MEMORY // 4096))
        hash_secret_raw(secret, b"no salt of a user", passes, max(8, cost // passes), 1, 32, self._usual)


class DjangoArgon2(Argon2):
    """Hashes of Django's ``Argon2PasswordHasher``: ``argon2$argon2id$…``.

    Args:
        time_cost: passes of a usual hash.
        memory_cost: memory of a usual hash, in KiB.
        renew: see `Scheme`.
    """

    _pattern = _DJANGO_ARGON2_HASH
    _usual = Type.ID


_KINDS = (
    (re.compile(r"\$2[abxy]?\$"), "Bcrypt"),
    (re.compile("scrypt:"), "WerkzeugScrypt"),
    (re.compile("pbkdf2:"), "WerkzeugPBKDF2"),
    (re.compile("pbkdf2_sha"), "DjangoPBKDF2"),
    (re.compile(r"scrypt\$"), "DjangoScrypt"),
    (re.compile(r"argon2\$"), "DjangoArgon2"),
    (re.compile(r"bcrypt_sha256\$"), "DjangoBcryptSHA256"),
    (re.compile(r"bcrypt\$"), "DjangoBcrypt"),
    (re.compile(r"\$pbkdf2"), "PasslibPBKDF2"),
    (re.compile(r"\$bcrypt-sha256\$"), "PasslibBcryptSHA256"),
    (re.compile(r"\$argon2[id]\$"), "Argon2"),
)


def kind_of(stored: str) -> str | None:
    """Return the name of the scheme that a stored hash seems to have; ``None`` if it looks like none of them.

    >>> kind_of("$2b$12$damaged"), kind_of("!")
    ('Bcrypt', None)
    """
    return next((name for pattern, name in _KINDS if pattern.match(stored)), None)


def decoded(text: str, *, padded: bool = True) -> bytes | None:
    """Return the bytes of a text in base64; ``None`` if it is malformed."""
    try:
        return base64.b64decode(text if padded else text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _scrypt(secret: bytes, salt: bytes, n: int, r: int, p: int) -> bytes:
    memory = 128 * n * r + 128 * r * p + 1024 * 1024
    return hashlib.scrypt(secret, salt=salt, n=n, r=r, p=p, maxmem=memory, dklen=_SCRYPT_BYTES)
