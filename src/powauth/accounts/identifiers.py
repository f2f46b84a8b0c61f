"""User ids, and the one stored spelling of each.

An `Identifier` normalises a typed user id. powauth stores, looks up, compares and counts the normalised form. An
identifier refuses values that are no user id.

One rule protects accounts (CVE-2019-19844): **two inputs share a form only if they are the same id under the rules of
its kind**. Therefore the identifiers fold the case of ASCII letters only, by a table. `str.lower` would turn the Kelvin
sign into "k", and the compatibility forms a full-width at sign into "@". An id with a character outside ASCII never
becomes a plain ASCII id.
"""

import re
import unicodedata
from typing import Protocol

from powauth._extras import needs

with needs("users", "EmailIdentifier", "email_validator"):
    import email_validator
    from email_validator import EmailNotValidError, validate_email

__all__ = ["EmailIdentifier", "Identifier", "UsernameIdentifier"]

MAX_EMAIL_LENGTH = 254
"""Characters and bytes: the longest path of RFC 5321, section 4.5.3.1.3 (with erratum 1690 to RFC 3696)."""

MAX_LOCAL_PART_LENGTH = 64
"""Bytes (RFC 5321, section 4.5.3.1.1)."""

MAX_USERNAME_LENGTH = 64
"""Characters. No name that people choose is longer."""

BLANKS = " \t"
"""Characters to trim at both ends. `str.strip` would trim a dozen more and so allow more spellings of one id."""

TO_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
"""Folds the case of ASCII letters only, for `str.translate`."""

_FORBIDDEN = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff\"<>()\[\]\\,;:]")
"""Controls, spaces, lone surrogates, and characters that could end an address in a header or an SMTP command."""

_USERNAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9_])?\Z")

_COMMON_EMAIL = re.compile(
    r"(?=[^@]{1,64}@)[a-z0-9_+-]+(?:\.[a-z0-9_+-]+)*"
    r"@((?:(?=[^.]{1,63}\.)[a-z0-9]+(?:-[a-z0-9]+)*\.)+[a-z]{1,63})"
)
"""Matches nearly every address in lower case. The group is its domain. Such an address is already normalised.

The local part is one of RFC 5322's dot-atoms. The domain has two or more labels of letters, digits and single hyphens,
so it contains no Punycode and no other reserved label. The last label has only letters, like all top-level domains.
Lengths are those of RFC 5321, section 4.5.3.1.1, and RFC 1035, section 2.3.1.
"""

_BLANK_MESSAGE = "can't be blank"
_FORMAT_MESSAGE = "has invalid format"


class Identifier(Protocol):
    """A kind of user id."""

    @property
    def field(self) -> str:
        """The usual name of its field, such as ``"email"``."""

    def normalize(self, value: object) -> str:
        """Return the normalised form of a user id. Normalising it again changes nothing.

        Raises:
            ValueError: if the value is no user id. The message is for a form.
        """


class EmailIdentifier:
    """E-mail addresses, in lower case.

    The whole address is folded, including the local part: no provider in use distinguishes "Mia" from "mia", and people
    type both. The domain is stored in its ASCII form (IDNA 2008). All spellings of a domain give the same form, and a
    look-alike domain gives another. powauth does not check whether the address exists.

    Args:
        allow_international: whether to accept local parts outside ASCII (SMTPUTF8, RFC 6531). The default is off,
            because few mail systems deliver to them, and each script adds look-alikes.

    >>> EmailIdentifier().normalize(" Mia@Example.COM")
    'mia@example.com'
    >>> EmailIdentifier().normalize("mia@Bücher.example")
    'mia@xn--bcher-kva.example'
    """

    field = "email"

    def __init__(self, *, allow_international: bool = False) -> None:
        self.allow_international = allow_international

    def normalize(self, value: object) -> str:
        """Return the address in its stored form; see `Identifier.normalize`."""
        text = _text(value, MAX_EMAIL_LENGTH)
        if text.isascii() and _is_common(lower := text.lower()):
            return lower  # the library returns the same, but takes a hundred times as long
        if _FORBIDDEN.search(text):
            raise ValueError(_FORMAT_MESSAGE)
        local, _, domain = text.rpartition("@")
        if len(local.encode()) > MAX_LOCAL_PART_LENGTH:
            raise ValueError(f"should be at most {MAX_LOCAL_PART_LENGTH} characters before the @")
        try:
            # Pass all options: the library takes its defaults from module globals.
            found = validate_email(
                text.translate(TO_LOWER),
                allow_smtputf8=self.allow_international,
                allow_empty_local=False,
                allow_quoted_local=False,
                allow_domain_literal=False,
                allow_display_name=False,
                check_deliverability=False,
                test_environment=False,
                strict=True,
            )
        except EmailNotValidError:
            raise ValueError(_FORMAT_MESSAGE) from None
        if found.ascii_domain is None or not _same_labels(domain, found.ascii_domain):
            raise ValueError(_FORMAT_MESSAGE)
        address = f"{_fold(found.local_part)}@{found.ascii_domain.translate(TO_LOWER)}"
        if (not local.isascii() and address.isascii()) or len(address.encode()) > MAX_EMAIL_LENGTH:
            raise ValueError(_FORMAT_MESSAGE)
        return address

    def spellings(self, address: str) -> tuple[str, ...]:
        """Return the other forms in which another program may have stored a normalised address.

        If the domain is encoded (IDNA), the other form has the domain in Unicode.

        >>> EmailIdentifier().spellings("mia@xn--bcher-kva.example")
        ('mia@bücher.example',)
        """
        local, _, domain = address.rpartition("@")
        if "xn--" not in domain:
            return ()
        decoded = validate_email(
            f"a@{domain}", check_deliverability=False, test_environment=False, allow_domain_literal=False
        ).domain
        return (f"{local}@{decoded}",)


class UsernameIdentifier:
    """User names: 1 to 64 of ``a-z 0-9 . _ -``. They begin with a letter or digit, and do not end with ``.`` or ``-``.

    Upper case is folded. A user name has no "@", so it cannot be the e-mail address of another user.

    >>> UsernameIdentifier().normalize("Mia_93")
    'mia_93'
    """

    field = "username"

    def normalize(self, value: object) -> str:
        """Return the name in its stored form; see `Identifier.normalize`."""
        text = _text(value, MAX_USERNAME_LENGTH).translate(TO_LOWER)
        if not _USERNAME.match(text):
            raise ValueError("may hold letters from a to z, digits, and . _ - between them")
        return text


def _text(value: object, most: int) -> str:
    """Return the text of a user id, trimmed.

    The length is checked first, so that a long input costs no time.

    Raises:
        ValueError: if the value is no text, is blank, or is longer than ``most`` characters.
    """
    if value is None or value == "":
        raise ValueError(_BLANK_MESSAGE)
    if not isinstance(value, str):
        raise ValueError("is invalid")
    if len(value) > most + 64:  # a few blanks around it are allowed
        raise ValueError(f"should be at most {most} characters")
    text = value.strip(BLANKS)
    if not text:
        raise ValueError(_BLANK_MESSAGE)
    if len(text) > most:
        raise ValueError(f"should be at most {most} characters")
    return text


def _is_common(address: str) -> bool:
    """Return whether email-validator would accept a lower-case address unchanged."""
    match = _COMMON_EMAIL.fullmatch(address)
    # Read the library's list each time, because an app may add names to it. A domain that only ends like one of them is
    # not common, either: the library decides about it.
    return match is not None and not match[1].endswith(tuple(email_validator.SPECIAL_USE_DOMAIN_NAMES))


def _same_labels(domain: str, ascii_domain: str) -> bool:
    """Return whether each label outside ASCII became an encoded label, and no other character became a dot.

    IDNA's mapping (UTS 46) turns full-width letters into plain ones. No real address is written with them.
    """
    written, encoded = domain.split("."), ascii_domain.split(".")
    return len(written) == len(encoded) and all(
        each.isascii() or code.lower().startswith("xn--") for each, code in zip(written, encoded, strict=True)
    )


def _fold(local_part: str) -> str:
    if local_part.isascii():
        return local_part.translate(TO_LOWER)
    # Lower-casing can undo the composition. Composing can turn a sign into a capital letter (ANGSTROM SIGN into Å).
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", local_part).lower())
