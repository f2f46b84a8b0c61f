"""Passwords: which ones are good enough, and how they are kept.

**One form.** A password is taken as typed, in Unicode's composed form (NFC) and encoded in UTF-8, when it is set and
when it is verified alike: "é" typed on one keyboard as one code point and on another as two is one password. So does
RFC 8265 (OpaqueString); the compatibility forms (NFKC) would also merge characters that look different.
Nothing is trimmed, folded or cut off, and a NUL is a character like any other.

**One limit.** `MAX_PASSWORD_BYTES` bounds the raw password, before anything is done with it; its composed form is at
most three times as long.

**One cost.** Whatever is verified, an unknown user's password, one over the limit, a hash that is none, takes one
Argon2id computation with the hasher's parameters (ASVS 6.3.8).
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
"""The longest password, in bytes of UTF-8: long enough for any passphrase, short enough to cost nothing."""

MIN_LENGTH = 8
"""The shortest minimum, in code points (ASVS 6.2.1)."""

MIN_MEMORY_COST = 19_456
"""KiB: the memory of OWASP's weakest advised Argon2id setting, 19 MiB (Password Storage Cheat Sheet)."""

MIN_TIME_COST = 2
"""Passes: those of the same setting."""

MAX_MEMORY_COST = 1_048_576
"""KiB: the most that a hasher may be configured to, 1 GiB for each sign-in in progress."""

MAX_TIME_COST = 64
"""Passes: far beyond any published advice; a stored hash that asks for more is damage, not a hash."""

MAX_PARALLELISM = 64
"""Lanes: as for the passes."""

_SALT_BYTES = 16
_HASH_BYTES = 32

# What this or another RFC 9106 library writes: Argon2id, version 0x13, a salt of 8 to 64 and a tag of 16 to 64 bytes.
_ENCODED = re.compile(
    r"\$argon2id\$v=19\$m=([1-9][0-9]{0,9}),t=([1-9][0-9]{0,9}),p=([1-9][0-9]{0,9})"
    r"\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})\Z",
    re.ASCII,
)

_AFFIXES = string.digits + string.punctuation + string.whitespace


def normalize_password(password: object) -> bytes:
    r"""The bytes that are hashed: NFC, UTF-8.

    >>> normalize_password("e\u0301") == normalize_password("\u00e9")
    True

    Raises:
        ValueError: no text, over `MAX_PASSWORD_BYTES`, or not Unicode (a lone surrogate); says which, for the form.
    """
    _check_size(password, MAX_PASSWORD_BYTES)
    assert isinstance(password, str)  # noqa: S101 - narrowed by the check
    return unicodedata.normalize("NFC", password).encode()


def _check_size(password: object, max_bytes: int) -> None:
    if not isinstance(password, str):
        raise ValueError("is invalid")
    try:
        # The length in code points first: encoding 100 MB to learn that it is too long is work for nothing.
        too_long = len(password) > max_bytes or len(password.encode()) > max_bytes
    except UnicodeEncodeError:
        raise ValueError("holds a character that is not allowed") from None
    if too_long:
        raise ValueError(f"should be at most {max_bytes} bytes")


@cache
def common_passwords() -> frozenset[str]:
    """Some 40,000 passwords, names and words that guessing begins with, in lower case and of 8 characters or more.

    The 11,000 most frequent leaked passwords (ASVS 6.2.4 asks for 3,000) and the words that zxcvbn keeps beside them;
    the source and its licence are in ``common_passwords.LICENSE``. Loaded on the first call.

    >>> "baseball" in common_passwords()
    True
    """
    packed = resources.files("powauth.accounts").joinpath("common_passwords.txt.gz").read_bytes()
    return frozenset(gzip.decompress(packed).decode("ascii").splitlines())


@dataclass(frozen=True, slots=True)
class PasswordPolicy:
    """Which passwords may be set: long enough, not too long, and nothing that guessing begins with.

    There is no rule of composition, no expiry and no maximum below `MAX_PASSWORD_BYTES` (ASVS 6.2.5, 6.2.9, 6.2.10).

    Attributes:
        min_length: Code points, at least 8; 15 is advised where nobody has a second factor.
        max_bytes: Bytes of UTF-8, at most `MAX_PASSWORD_BYTES`.
        breached: Called with a password that is fine otherwise; ``True`` refuses it (ASVS 6.2.12). It may ask a service
            over the network: it is never called on an event loop. If it raises, the password counts as not breached,
            and a warning is logged, so that nobody's outage stops a reset; a hook that returns ``True`` on trouble
            closes that door instead.
        service_names: Names of the service, its domain and its makers, which make no password (ASVS 6.2.11).

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
        """What is wrong with a password for this user, as messages for a form; empty if it is fine. Never raises.

        ``offline`` leaves the `breached` hook out.
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
        assert self.breached is not None  # noqa: S101 - the caller looked
        try:
            return bool(self.breached(password))
        except Exception as error:
            # The type alone: the message may hold the password.
            log.warning(
                "the breached-password hook failed (%s); the password counts as not breached", type(error).__name__
            )
            return False


def _is_made_of(folded: str, words: Sequence[str]) -> bool:
    """Whether a folded password is one of the words, but for digits, punctuation and spaces around it."""
    core = folded.strip(_AFFIXES)
    for word in words:
        plain = word.casefold()
        if plain and (folded == plain or (core and core in {plain, plain.strip(_AFFIXES)})):
            return True
    return False


def _usable_cpus() -> int:
    """How many this process may run on: fewer than the machine has, where it is pinned or in a container's set."""
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

    The default, 19 MiB and four passes in one lane, is twice the work that OWASP advises at least. ``max_concurrent``
    times ``memory_cost`` is the memory that sign-ins can take. Raise the parameters as machines get faster: stored
    hashes follow at each user's next sign-in. Raise the passes first: until then a hash of fewer passes takes as long
    to refuse as a new one, to a few percent, but one of less memory, whose blocks stay closer to the processor, up to
    a tenth less.

    Args:
        time_cost: Passes over the memory.
        memory_cost: KiB.
        parallelism: Lanes, each a thread of its own for the time of one hash.
        max_concurrent: How many are computed at once; by default one fewer than the CPUs that this process may use,
            and at least one: while passwords are hashed on all of them, every other request waits for a CPU.
        max_waiting: How many more may wait for their turn; any beyond are refused with `Overloaded` at once.
        cheap_and_unsafe: Allows parameters below OWASP's minimum: for tests alone.

    Raises:
        ConfigError: a parameter is out of range.

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
        # Someone who can write the table must not turn each sign-in into gigabytes.
        self._memory_bound = max(8 * memory_cost, 262_144)
        self._dummy = _encode(self._cost, secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_HASH_BYTES))
        self._gate = _Gate(concurrent, max_waiting)

    def hash(self, password: str) -> str:
        """The password's hash with a new random salt, self-describing (``$argon2id$…``), some 100 ASCII characters.

        Raises:
            ValueError: the password is none; see `normalize_password`.
            Overloaded: too many are waiting.
        """
        secret = normalize_password(password)
        with self._gate.turn():
            cost = self._cost
            encoded = hash_secret(
                secret, secrets.token_bytes(cost.salt), cost.time, cost.memory, cost.lanes, cost.tag, Type.ID
            )
        return encoded.decode("ascii")

    def verify(self, stored: object, password: object) -> bool:
        """Whether a stored hash is this password's. Anything that is no hash, or no password, is ``False``.

        Costs what `dummy_verify` costs, always. A hash of older, cheaper parameters is followed by the work that it was
        short of; only one of higher cost than the hasher's own takes longer.

        Raises:
            Overloaded: too many are waiting.
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
        """The work of `verify`, for where there is no user: against a hash that no password has."""
        self.verify(None, password)

    def needs_rehash(self, stored: object) -> bool:
        """Whether hashing again would make a stored hash stronger, and in nothing weaker."""
        cost = self._parse(stored)
        if cost is None:
            return False
        own, old = (self._strength(each) for each in (self._cost, cost))
        return own != old and all(mine >= theirs for mine, theirs in zip(own, old, strict=True))

    def run(self, job: Callable[[], T]) -> T:
        """Run a job that hashes or verifies, any number of times, in one turn.

        Raises:
            Overloaded: too many are waiting.
        """
        with self._gate.turn():
            return job()

    async def run_in_thread(self, job: Callable[[], T]) -> T:
        """As `run`, in one of the hasher's own threads: an asyncio event loop goes on meanwhile."""
        return await asyncio.wrap_future(self._gate.submit(job))

    def close(self) -> None:
        """Let go of the threads; jobs that have begun end."""
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
        # More salt or tag than ours adds nothing that a rehash would take away.
        return cost.memory, cost.time, min(cost.salt, _SALT_BYTES), min(cost.tag, _HASH_BYTES)

    @staticmethod
    def _compare(encoded: str, secret: bytes) -> bool | None:
        """Whether they match; ``None`` if Argon2 found no hash in it and so did no work (base64 with spare bits)."""
        try:
            return verify_secret(encoded.encode("ascii"), secret, Type.ID)
        except VerifyMismatchError:
            return False
        except Argon2Error:
            return None

    def _top_up(self, cost: _Cost, secret: bytes) -> None:
        """The blocks of memory that a cheaper hash was short of, in the fewest passes that own memory allows."""
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
    """Lets a bounded number of jobs run at once, a bounded number wait, and refuses the rest.

    Threads of the app wait at `turn`; jobs from an event loop wait in the queue of the gate's own threads. Both count.
    """

    def __init__(self, concurrent: int, waiting: int) -> None:
        self._concurrent = concurrent
        self._most = concurrent + waiting
        self._inside = threading.local()
        self.reset()
        _forks.on_fork(self, _Gate.reset)

    def reset(self) -> None:
        """Begin anew: a forked process has its parent's counts, but neither its threads nor those that wait."""
        self._lock = threading.Lock()
        self._free = threading.Semaphore(self._concurrent)
        self._admitted = 0
        self._pool: ThreadPoolExecutor | None = None

    @contextmanager
    def turn(self) -> Iterator[None]:
        if getattr(self._inside, "turn", False):  # a job that was admitted as a whole
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
        # Also called if the waiting task was cancelled before its turn came.
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
