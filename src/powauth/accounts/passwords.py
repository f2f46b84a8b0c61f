"""Passwords: the policy that decides which ones may be set, and the hasher.

**One form.** powauth converts a password to Unicode's composed form (NFC) and encodes it in UTF-8, both when it is set
and when it is verified. Some keyboards type "é" as one code point and others as two. Both give the same password.
RFC 8265 (OpaqueString) does the same. The compatibility forms (NFKC) would also merge characters that look different.
powauth never trims, folds or truncates a password. A NUL is a character like any other.

**One limit.** `MAX_PASSWORD_BYTES` bounds the raw password before powauth processes it. The composed form is at most
three times as long.

A hash that another program made may be of the password as it was typed. A verification therefore tries the composed,
the typed and the decomposed form (`powauth.accounts.policy.password_forms`). In ASCII they are one.

**One cost.** Every verification costs one Argon2id computation with the hasher's parameters (ASVS 6.3.8), and the work
of each scheme in ``existing``, for each form of the typed password. This includes unknown users, passwords over the
limit, and stored values that are no hash.
"""

import asyncio
import base64
import logging
import os
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from powauth._extras import needs
from powauth._options import whole_number, wrong
from powauth.accounts._gate import Gate
from powauth.accounts.policy import (
    MAX_PASSWORD_BYTES,
    PasswordPolicy,
    common_passwords,
    normalize_password,
    password_forms,
)
from powauth.accounts.schemes import Scheme, is_affordable, kind_of

with needs("users", "PasswordHasher", "argon2"):
    from argon2.exceptions import Argon2Error, VerifyMismatchError
    from argon2.low_level import Type, hash_secret, hash_secret_raw, verify_secret

__all__ = ["MAX_PASSWORD_BYTES", "PasswordHasher", "PasswordPolicy", "common_passwords", "normalize_password"]

T = TypeVar("T")

log = logging.getLogger("powauth.accounts")

MIN_MEMORY_COST = 19_456
"""Memory of the weakest Argon2id setting that OWASP advises, in KiB (Password Storage Cheat Sheet)."""

MIN_TIME_COST = 2
"""Passes of the same setting."""

MAX_MEMORY_COST = 1_048_576
"""Maximum memory of a hasher, in KiB: 1 GiB for each sign-in in progress."""

MAX_TIME_COST = 64
"""Maximum passes, far above any published advice. A stored hash with more is damaged."""

MAX_PARALLELISM = 64
"""Maximum lanes. A stored hash with more is damaged."""

_SALT_BYTES = 16
_HASH_BYTES = 32

# Hashes as this and other libraries for RFC 9106 write them: Argon2id, version 0x13, a salt of 8 to 64 bytes, a tag of
# 16 to 64 bytes.
_ENCODED = re.compile(
    r"\$argon2id\$v=19\$m=([1-9][0-9]{0,9}),t=([1-9][0-9]{0,9}),p=([1-9][0-9]{0,9})"
    r"\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})\Z",
    re.ASCII,
)


def _usable_cpus() -> int:
    """Return the number of CPUs that this process may use. A pinned process or a container may not use all of them."""
    if hasattr(os, "sched_getaffinity"):  # on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class _Cost:
    memory: int
    time: int
    lanes: int
    salt: int
    tag: int

    @property
    def blocks(self) -> int:
        return self.memory * self.time


class PasswordHasher:
    """Hashes and verifies passwords with Argon2id, a bounded number at a time.

    The default is 19 MiB and four passes in one lane: twice the minimum work that OWASP advises. All sign-ins together
    use at most ``max_concurrent`` times ``memory_cost`` of memory.

    Raise the parameters as machines get faster. powauth replaces each user's hash at the next sign-in. Raise the passes
    first: until the hash is replaced, a wrong password takes as long as for a new hash, within a few percent. If a hash
    has less memory than the hasher, it takes up to a tenth less time, because its blocks stay closer to the processor.

    Args:
        time_cost: passes over the memory.
        memory_cost: memory in KiB.
        parallelism: lanes. Each lane is a thread while a hash is computed.
        max_concurrent: the number of hashes that are computed at once. The default is one fewer than the CPUs that this
            process may use, and at least one. Hashing on all CPUs would make every other request wait.
        max_waiting: the number of further hashes that may wait. Any more are refused with `Overloaded` at once.
        existing: the formats of hashes that another program has made and that are still in the table, such as
            ``[Bcrypt(), WerkzeugScrypt(renew=False)]``. Every verification also does the work of each of them. Leave
            out formats that no user has any more.
        cheap_and_unsafe: whether to allow parameters below OWASP's minimum. Use it only in tests.

    Attributes:
        existing: the formats.
        max_length: the number of characters that a new hash needs in its column.

    Raises:
        ConfigError: if a parameter is out of range.

    >>> hasher = PasswordHasher(time_cost=1, memory_cost=64, cheap_and_unsafe=True)
    >>> stored = hasher.hash("correct horse")
    >>> hasher.verify(stored, "correct horse"), hasher.verify(stored, "incorrect"), hasher.verify(None, "")
    (True, False, False)
    """

    def __init__(
        self,
        *,
        time_cost: int = 4,
        memory_cost: int = MIN_MEMORY_COST,
        parallelism: int = 1,
        max_concurrent: int | None = None,
        max_waiting: int = 64,
        existing: Sequence[Scheme] = (),
        cheap_and_unsafe: bool = False,
    ) -> None:
        least_memory, least_time = (8, 1) if cheap_and_unsafe else (MIN_MEMORY_COST, MIN_TIME_COST)
        concurrent = max(1, _usable_cpus() - 1) if max_concurrent is None else max_concurrent
        for name, value, least, most in (
            ("time_cost", time_cost, least_time, MAX_TIME_COST),
            ("memory_cost", memory_cost, least_memory, MAX_MEMORY_COST),
            ("parallelism", parallelism, 1, MAX_PARALLELISM),
            ("max_concurrent", concurrent, 1, 1024),
            ("max_waiting", max_waiting, 0, 100_000),
        ):
            whole_number(name, value, at_least=least, at_most=most)
        if memory_cost < 8 * parallelism:
            raise wrong("memory_cost", f"8 KiB or more for each of {parallelism} lanes", memory_cost)
        self._cost = _Cost(memory_cost, time_cost, parallelism, _SALT_BYTES, _HASH_BYTES)
        # An attacker who can write to the table must not make each sign-in use gigabytes.
        self._memory_bound = max(8 * memory_cost, 262_144)
        self._dummy = _encode(self._cost, secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_HASH_BYTES))
        self._gate = Gate(concurrent, max_waiting)
        if not isinstance(existing, Sequence) or not all(isinstance(each, Scheme) for each in existing):
            raise wrong("existing", "a list of schemes of powauth.accounts.schemes, such as [Bcrypt()]", existing)
        self.existing = tuple(existing)
        self.max_length = len(self._dummy)
        self._reported: set[str] = set()

    def hash(self, password: str) -> str:
        """Return a password's hash with a new random salt: ``$argon2id$…``, some 100 ASCII characters.

        Raises:
            ValueError: if the password is not valid; see `normalize_password`.
            Overloaded: if too many are waiting.
        """
        secret = normalize_password(password)
        with self._gate.turn():
            cost = self._cost
            encoded = hash_secret(
                secret, secrets.token_bytes(cost.salt), cost.time, cost.memory, cost.lanes, cost.tag, Type.ID
            )
        return encoded.decode("ascii")

    def verify(self, stored: object, password: object) -> bool:
        """Return whether a password matches a stored hash; ``False`` if either of them is not valid.

        This always does the same work as `dummy_verify`. If the hash has older, cheaper parameters, the hasher adds the
        missing work. Only a hash of higher cost than usual takes longer. An empty password matches nothing.

        Raises:
            Overloaded: if too many are waiting.
        """
        text = stored if isinstance(stored, str) else ""
        try:
            forms = password_forms(password)
        except ValueError:
            text, forms = "", (b"",)
        else:
            self._report(text)
        with self._gate.turn():
            results = [self._matches(text, form) for form in forms]  # all of them: the time must not tell which fits
        return True in results

    def dummy_verify(self, password: object = "") -> None:
        """Do the work of `verify` for a user who does not exist, against a hash that no password has."""
        self.verify(None, password)

    def needs_rehash(self, stored: object, password: object = "") -> bool:
        """Return whether a new hash would be stronger than the stored one in some parameter, and weaker in none.

        A hash of one of the existing formats needs one, unless the format is left as it is (``renew=False``), or the
        hash does not prove all of the verified ``password`` (`Scheme.proves_all`).
        """
        cost = self._parse(stored)
        if cost is None:
            text = stored if isinstance(stored, str) else ""
            forms = password_forms(password) if password else ()
            return any(
                scheme.renew and is_affordable(scheme, text) and all(scheme.proves_all(text, form) for form in forms)
                for scheme in self.existing
            )
        own, old = (self._strength(each) for each in (self._cost, cost))
        return own != old and all(mine >= theirs for mine, theirs in zip(own, old, strict=True))

    def run(self, job: Callable[[], T]) -> T:
        """Run a job in one turn and return its result. The job may hash and verify any number of times.

        Raises:
            Overloaded: if too many are waiting.
        """
        with self._gate.turn():
            return job()

    async def run_in_thread(self, job: Callable[[], T]) -> T:
        """Run a job as `run` does, in one of the hasher's own threads. It does not block the event loop of asyncio."""
        return await asyncio.wrap_future(self._gate.submit(job))

    def close(self) -> None:
        """Close the threads. Jobs that have begun run to their end."""
        self._gate.close()

    def _matches(self, stored: str, secret: bytes) -> bool:
        """Compare one form of a password, and do the work of the hasher and of each existing format."""
        cost = self._parse(stored)
        correct = None if cost is None else self._compare(stored, secret)
        if correct is None or cost is None:
            self._compare(self._dummy, secret)
        else:
            self._top_up(cost, secret)
        matched = correct is True
        for scheme in self.existing:
            spent = 0
            if cost is None and is_affordable(scheme, stored):
                spent = scheme.cost_of(stored) or 0
                matched = scheme.verify(stored, secret) or matched
            if spent < scheme.cost:
                scheme.spend(scheme.cost - spent, secret)
        return matched

    def reads(self, stored: str) -> bool:
        """Return whether a stored text is a hash that `verify` can compare with a password. It costs no hashing."""
        return self._parse(stored) is not None or any(is_affordable(each, stored) for each in self.existing)

    def format_of(self, stored: str) -> str | None:
        """Return the format that a stored hash seems to have: ``"Argon2id"``, or the name of a scheme.

        It need not be one of the existing formats. The result is ``None`` if no scheme has such hashes.
        """
        return "Argon2id" if self._parse(stored) is not None else kind_of(stored)

    def _report(self, stored: str) -> None:
        """Log once that the table holds hashes of a format that no scheme reads. Their users cannot sign in."""
        if not stored or self.reads(stored):
            return
        kind = kind_of(stored)
        if kind is not None and kind not in self._reported:
            self._reported.add(kind)
            log.warning(
                "a stored password hash looks like one of %s, and the hasher does not read it: give "
                "PasswordHasher(existing=[%s()]), or raise its cost if it is there",
                kind,
                kind,
            )

    def _parse(self, stored: object) -> _Cost | None:
        match = _ENCODED.match(stored) if isinstance(stored, str) else None
        if match is None:
            return None
        memory, time, lanes = int(match[1]), int(match[2]), int(match[3])
        if memory > self._memory_bound or time > MAX_TIME_COST or lanes > MAX_PARALLELISM or memory < 8 * lanes:
            return None
        return _Cost(memory, time, lanes, len(match[4]) * 3 // 4, len(match[5]) * 3 // 4)

    @staticmethod
    def _strength(cost: _Cost) -> tuple[int, int, int, int]:
        # A longer salt or tag than the hasher's own adds no strength, so a new hash would not be weaker.
        return cost.memory, cost.time, min(cost.salt, _SALT_BYTES), min(cost.tag, _HASH_BYTES)

    @staticmethod
    def _compare(encoded: str, secret: bytes) -> bool | None:
        """Return whether they match; ``None`` if Argon2 rejects the hash and did no work (spare bits in base64)."""
        try:
            return verify_secret(encoded.encode("ascii"), secret, Type.ID)
        except VerifyMismatchError:
            return False
        except Argon2Error:
            return None

    def _top_up(self, cost: _Cost, secret: bytes) -> None:
        """Fill the memory blocks that a cheaper hash did not, in the fewest passes that the hasher's memory allows."""
        short = self._cost.blocks - cost.blocks
        if short <= 0:
            return
        passes = -(-short // self._cost.memory)
        memory = max(8 * self._cost.lanes, short // passes)
        hash_secret_raw(secret, b"\0" * _SALT_BYTES, passes, memory, self._cost.lanes, _HASH_BYTES, Type.ID)


def _encode(cost: _Cost, salt: bytes, tag: bytes) -> str:
    salt64, tag64 = (base64.b64encode(part).decode("ascii").rstrip("=") for part in (salt, tag))
    return f"$argon2id$v=19$m={cost.memory},t={cost.time},p={cost.lanes}${salt64}${tag64}"
