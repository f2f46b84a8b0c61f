"""The stored values that a typed user id may mean.

Rows that another program wrote may hold user ids that powauth would not store: ``Mia@Example.com``, ``Ann Lee``,
``root@localhost``. A sign-in therefore looks for the user id as typed and in its normalised form. Format rules apply
only to registrations.

**One counter.** All spellings of a typed user id have one `login_key`. So no choice of a spelling gives an attacker
further guesses at the same account.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from powauth.accounts.base import MAX_LOGIN_KEY
from powauth.accounts.identifiers import BLANKS, TO_LOWER, Identifier

MOST_SPELLINGS = 3
"""As typed, normalised, and with a decoded domain. A text without a normalised form: as typed, and in lower case."""

_NO_ID = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
"""Controls and lone surrogates, which no user id holds. Most databases cannot store some of them."""


@dataclass(frozen=True, slots=True)
class TypedId:
    """A user id as somebody typed it.

    Attributes:
        spellings: the values to look for, by the name of the column, the best first. A column always has as many
            values, so that each look-up is the same statement.
    """

    spellings: Mapping[str, tuple[str, ...]]


def login_key(identifier: Identifier, value: object) -> str | None:
    """Return the one form under which failed sign-ins with a user id count; ``None`` if no user can have it.

    It is the normalised form. A text that the format rules refuse is folded more coarsely: in NFKC, without case.
    """
    if not isinstance(value, str) or len(value) > MAX_LOGIN_KEY:
        return None
    if not value.strip() or _NO_ID.search(value):
        return None
    try:
        return identifier.normalize(value)
    except ValueError:
        return folded(value)


def spellings_of(identifier: Identifier, value: object) -> tuple[str, ...]:
    """Return the values to look for, the best first: none, or exactly `MOST_SPELLINGS` of them, with repetitions."""
    key = login_key(identifier, value)
    if key is None:
        return ()
    # A spelling with another key would be a second counter for the same account.
    found = [each for each in dict.fromkeys(_candidates(identifier, str(value))) if login_key(identifier, each) == key]
    return (*found, *[found[0]] * (MOST_SPELLINGS - len(found)))


def _candidates(identifier: Identifier, value: str) -> Iterator[str]:
    yield value
    try:
        normal = identifier.normalize(value)
    except ValueError:
        yield value.translate(TO_LOWER)
        return
    yield normal
    yield from other_forms(identifier, normal)


def other_forms(identifier: Identifier, normal: str) -> tuple[str, ...]:
    """Return the other forms in which a table may hold a normalised user id: at most one, or none."""
    method = getattr(identifier, "spellings", None)
    return () if method is None else tuple(method(normal))[:1]


def lowered(text: str) -> str:
    """Return a text in lower case.

    A letter outside ASCII never becomes an ASCII letter: the Kelvin sign is no "K" (CVE-2019-19844).

    >>> lowered("Mia@Ä.example"), lowered("\u212aim") == "\u212aim"
    ('mia@ä.example', True)
    """
    return "".join(each if not each.isascii() and each.lower().isascii() else each.lower() for each in text)


def folded(text: str) -> str:
    """Return a text without differences of case and of compatible characters."""
    return unicodedata.normalize("NFKC", text.strip(BLANKS)).casefold()
