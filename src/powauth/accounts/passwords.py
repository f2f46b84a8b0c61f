"""Passwords: the policy that decides which ones may be set, and the hasher.

**One form.** powauth converts a password to Unicode's composed form (NFC) and encodes it in UTF-8, both when it is set
and when it is verified. Some keyboards type "é" as one code point and others as two. Both give the same password.
RFC 8265 (OpaqueString) does the same. The compatibility forms (NFKC) would also merge characters that look different.
powauth never trims, folds or truncates a password. A NUL is a character like any other.

**One limit.** `MAX_PASSWORD_BYTES` bounds the raw password before powauth processes it. The composed form is at most
three times as long.

**One cost.** Every verification costs one Argon2id computation with the hasher's parameters (ASVS 6.3.8). This includes
unknown users, passwords over the limit, and stored values that are no hash.
"""

import asyncio
import base64
import gzip
import logging
import os
import re
import secrets
import string
import threading
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TypeVar

from powauth import _forks
from powauth._extras import needs
from powauth.errors import ConfigError, Overloaded

with needs("users", "PasswordHasher", "argon2"):
    from argon2.exceptions import Argon2Error, VerifyMismatchError
    from argon2.low_level import Type, hash_secret, hash_secret_raw, verify_secret

__all__ = ["MAX_PASSWORD_BYTES", "PasswordHasher", "PasswordPolicy", "common_passwords", "normalize_password"]

T = TypeVar("T")

log = logging.getLogger("powauth.accounts")

MAX_PASSWORD_BYTES = 4096
"""Maximum length of a password, in bytes of UTF-8. It allows any passphrase, and checking it costs very little."""

MIN_LENGTH = 8
"""The lowest minimum length that a policy may have, in code points (ASVS 6.2.1)."""

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

_AFFIXES = string.digits + string.punctuation + string.whitespace


def normalize_password(password: object) -> bytes:
    r"""Return the bytes to hash: NFC, UTF-8.

    >>> normalize_password("e\u0301") == normalize_password("\u00e9")
    True

    Raises:
        ValueError: if the password is no text, is over `MAX_PASSWORD_BYTES`, or has a lone surrogate. The message is
            for a form.
    """
    _check_size(password, MAX_PASSWORD_BYTES)
    assert isinstance(password, str)  # noqa: S101 - narrowed by the check
    return unicodedata.normalize("NFC", password).encode()


def _check_size(password: object, max_bytes: int) -> None:
    if not isinstance(password, str):
        raise ValueError("is invalid")
    try:
        # Check the number of code points first. Encoding 100 MB only to reject it would waste time.
        too_long = len(password) > max_bytes or len(password.encode()) > max_bytes
    except UnicodeEncodeError:
        raise ValueError("holds a character that is not allowed") from None
    if too_long:
        raise ValueError(f"should be at most {max_bytes} bytes")


@cache
def common_passwords() -> frozenset[str]:
    """Return some 40,000 passwords, names and words that attackers try first, in lower case, of 8 characters or more.

    They are the 11,000 most frequent leaked passwords (ASVS 6.2.4 asks for 3,000), and further word lists of zxcvbn.
    ``common_passwords.LICENSE`` names the source and its licence. The first call loads the list.

    >>> "baseball" in common_passwords()
    True
    """
    packed = resources.files("powauth.accounts").joinpath("common_passwords.txt.gz").read_bytes()
    return frozenset(gzip.decompress(packed).decode("ascii").splitlines())


@dataclass(frozen=True, slots=True)
class PasswordPolicy:
    """Decides which passwords may be set. It checks the length, and refuses passwords that attackers try first.

    It has no composition rules, no expiry and by default no maximum below `MAX_PASSWORD_BYTES` (ASVS 6.2.5, 6.2.9,
    6.2.10).

    Attributes:
        min_length: minimum length in code points, at least 8. Use 15 if users have no second factor.
        max_bytes: maximum length in bytes of UTF-8, at most `MAX_PASSWORD_BYTES`.
        breached: a function that takes a password, called if all other checks pass. If it returns ``True``, the
            password is refused (ASVS 6.2.12). It may call a service over the network: powauth never calls it on an
            event loop. If it raises, powauth logs a warning and accepts the password, so that an outage of the service
            stops no reset. To refuse the password instead, catch the error and return ``True``.
        service_names: names of the service, its domain and its makers. They are refused as passwords (ASVS 6.2.11).

    >>> PasswordPolicy(service_names=["Example Shop"]).check("example shop 24!", "mia@example.com")
    ['is too easy to guess: it is the name of this service']
    """

    min_length: int = MIN_LENGTH
    max_bytes: int = MAX_PASSWORD_BYTES
    breached: Callable[[str], bool] | None = None
    service_names: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not _is_int(self.min_length) or self.min_length < MIN_LENGTH:
            raise ConfigError(f"min_length must be a whole number of at least {MIN_LENGTH}; got {self.min_length!r}")
        if not _is_int(self.max_bytes) or not 64 * 4 <= self.max_bytes <= MAX_PASSWORD_BYTES:
            raise ConfigError(
                f"max_bytes must be between 256 (64 characters of any kind) and {MAX_PASSWORD_BYTES}; "
                f"got {self.max_bytes!r}"
            )
        if self.min_length * 4 > self.max_bytes:
            raise ConfigError("min_length leaves no room under max_bytes: lower it to a quarter of max_bytes")
        if self.breached is not None and not callable(self.breached):
            raise ConfigError("breached must be a function that takes a password and returns a bool, or None")
        names = self.service_names
        if isinstance(names, str) or not all(isinstance(name, str) and name.strip() for name in names):
            raise ConfigError("service_names must be a sequence of names, such as ['Example Shop', 'example.com']")
        object.__setattr__(self, "service_names", tuple(names))

    def check(self, password: object, user_id: str | None = None, *, offline: bool = False) -> list[str]:
        """Return what is wrong with a password for this user, as messages for a form. It never raises.

        Args:
            password: the password.
            user_id: the user id of the user, which is refused as a password.
            offline: whether to skip the `breached` hook.
        """
        try:
            _check_size(password, self.max_bytes)
            text = normalize_password(password).decode()
        except ValueError as error:
            return [str(error)]
        if len(text) < self.min_length:
            return [f"should be at least {self.min_length} characters"]
        folded = text.casefold()
        if folded in common_passwords() or text.lower() in common_passwords():
            return ["is too easy to guess: it is among the most common passwords"]
        if user_id is not None and _is_made_of(folded, [user_id, user_id.rpartition("@")[0]]):
            return ["is too easy to guess: it is your user name or address"]
        if _is_made_of(folded, self.service_names):
            return ["is too easy to guess: it is the name of this service"]
        if not offline and self.breached is not None and self._is_breached(text):
            return ["has appeared in a data breach"]
        return []

    def _is_breached(self, password: str) -> bool:
        assert self.breached is not None  # noqa: S101 - the caller has checked
        try:
            return bool(self.breached(password))
        except Exception as error:
            # Log only the type: the message may contain the password.
            log.warning(
                "the breached-password hook failed (%s); the password counts as not breached", type(error).__name__
            )
            return False


def _is_made_of(folded: str, words: Sequence[str]) -> bool:
    """Return whether a folded password is one of the words. Digits, punctuation and spaces around it do not count."""
    core = folded.strip(_AFFIXES)
    for word in words:
        plain = word.casefold()
        if plain and (folded == plain or (core and core in {plain, plain.strip(_AFFIXES)})):
            return True
    return False


def _usable_cpus() -> int:
    """Return the number of CPUs that this process may use. A pinned process or a container may not use all of them."""
    if hasattr(os, "sched_getaffinity"):  # on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


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
        cheap_and_unsafe: whether to allow parameters below OWASP's minimum. Use it only in tests.

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
            if not _is_int(value) or not least <= value <= most:
                raise ConfigError(f"{name} must be a whole number between {least} and {most}; got {value!r}")
        if memory_cost < 8 * parallelism:
            raise ConfigError(f"memory_cost must be at least 8 KiB for each lane; got {memory_cost} for {parallelism}")
        self._cost = _Cost(memory_cost, time_cost, parallelism, _SALT_BYTES, _HASH_BYTES)
        # An attacker who can write to the table must not make each sign-in use gigabytes.
        self._memory_bound = max(8 * memory_cost, 262_144)
        self._dummy = _encode(self._cost, secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_HASH_BYTES))
        self._gate = _Gate(concurrent, max_waiting)

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
        missing work. Only a hash of higher cost than the hasher's own takes longer.

        Raises:
            Overloaded: if too many are waiting.
        """
        try:
            secret: bytes | None = normalize_password(password)
        except ValueError:
            secret = None
        cost = self._parse(stored)
        with self._gate.turn():
            correct = None if secret is None or cost is None else self._compare(str(stored), secret)
            if correct is None or cost is None:
                self._compare(self._dummy, secret or b"")
                return False
            self._top_up(cost, secret or b"")
            return correct

    def dummy_verify(self, password: object = "") -> None:
        """Do the work of `verify` for a user who does not exist, against a hash that no password has."""
        self.verify(None, password)

    def needs_rehash(self, stored: object) -> bool:
        """Return whether a new hash would be stronger than the stored one in some parameter, and weaker in none."""
        cost = self._parse(stored)
        if cost is None:
            return False
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

    def _parse(self, stored: object) -> _Cost | None:
        match = _ENCODED.match(stored) if isinstance(stored, str) else None
        if match is None:
            return None
        memory, time, lanes = (int(number) for number in match.group(1, 2, 3))
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


class _Gate:
    """Runs a bounded number of jobs at once, lets a bounded number wait, and refuses the rest.

    Threads of the app wait in `turn`. Jobs from an event loop wait in the queue of the gate's own threads. Both kinds
    count.
    """

    def __init__(self, concurrent: int, waiting: int) -> None:
        self._concurrent = concurrent
        self._most = concurrent + waiting
        self._inside = threading.local()
        self.reset()
        _forks.on_fork(self, _Gate.reset)

    def reset(self) -> None:
        """Reset the state. A forked process has its parent's counts, but neither its threads nor its waiting jobs."""
        self._lock = threading.Lock()
        self._free = threading.Semaphore(self._concurrent)
        self._admitted = 0
        self._pool: ThreadPoolExecutor | None = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        if getattr(self._inside, "turn", False):  # inside a job that has a turn already
            yield
            return
        self._admit()
        try:
            with self._within():
                yield
        finally:
            self._leave()

    def submit(self, job: Callable[[], T]) -> Future[T]:
        def work() -> T:
            with self._within():
                return job()

        self._admit()
        try:
            future = self._threads().submit(work)
        except BaseException:
            self._leave()
            raise
        # The callback also runs if the waiting task was cancelled before its turn.
        future.add_done_callback(lambda _: self._leave())
        return future

    def close(self) -> None:
        _forks.check()
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    @contextmanager
    def _within(self) -> Iterator[None]:
        with self._free:
            self._inside.turn = True
            try:
                yield
            finally:
                self._inside.turn = False

    def _admit(self) -> None:
        _forks.check()
        with self._lock:
            if self._admitted >= self._most:
                raise Overloaded("too many passwords are waiting to be hashed; try again later")
            self._admitted += 1

    def _leave(self) -> None:
        with self._lock:
            self._admitted -= 1

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._concurrent, thread_name_prefix="powauth-password")
            return self._pool
