"""Passwords as text: the form in which powauth hashes them, and the policy that decides which ones may be set."""

import gzip
import logging
import string
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from powauth._options import whole_number, wrong, wrong_type
from powauth.errors import ConfigError

__all__ = ["MAX_PASSWORD_BYTES", "PasswordPolicy", "common_passwords", "normalize_password", "password_forms"]

log = logging.getLogger("powauth.accounts")

MAX_PASSWORD_BYTES = 4096
"""Maximum length of a password, in bytes of UTF-8. It allows any passphrase, and checking it costs very little."""

MIN_LENGTH = 8
"""The lowest minimum length that a policy may have, in code points (ASVS 6.2.1)."""

_MIN_MAX_BYTES = 64 * 4
"""The lowest maximum length that a policy may have, in bytes: 64 characters of any kind (ASVS 6.2.9)."""

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


def password_forms(password: object) -> tuple[bytes, ...]:
    r"""Return the bytes that a stored hash of a password may have been made of: one to three values.

    The first is what powauth hashes. Another program may have hashed the password as it was typed: composed, or
    decomposed (NFD). All of them are one password to the user. A password in ASCII has one form.

    >>> password_forms("e\u0301") == ("\u00e9".encode(), "e\u0301".encode())
    True

    Raises:
        ValueError: as `normalize_password` does, and if the password is empty.
    """
    composed = normalize_password(password)
    if not composed or not isinstance(password, str):
        raise ValueError("can't be blank")
    return tuple(dict.fromkeys((composed, password.encode(), unicodedata.normalize("NFD", password).encode())))


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
        whole_number("min_length", self.min_length, at_least=MIN_LENGTH)
        whole_number("max_bytes", self.max_bytes, at_least=_MIN_MAX_BYTES, at_most=MAX_PASSWORD_BYTES)
        if self.min_length * 4 > self.max_bytes:
            raise ConfigError("min_length leaves no room under max_bytes: lower it to a quarter of max_bytes")
        if self.breached is not None and not callable(self.breached):
            raise wrong_type("breached", "a function that takes a password and returns a bool, or None", self.breached)
        names = self.service_names
        if isinstance(names, str) or not all(isinstance(name, str) and name.strip() for name in names):
            raise wrong("service_names", "a sequence of names, such as ['Example Shop', 'example.com']", names)
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
