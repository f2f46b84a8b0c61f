"""The stored values that a typed user id may mean.

Rows that another program wrote may hold user ids that powauth would not store: ``Mia@Example.com``, ``Ann Lee``,
``root@localhost``. A sign-in therefore looks for the user id as typed and in its normalised form. Format rules apply
only to registrations.

**One counter.** All spellings of a typed user id have one `login_key`. So no choice of a spelling gives an attacker
further guesses at the same account.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeGuard

from powauth.accounts.base import MAX_LOGIN_KEY
from powauth.accounts.identifiers import BLANKS, TO_LOWER, Identifier

MOST_SPELLINGS = 3
"""The most spellings of a user id: as typed, normalised, and with a decoded domain.

A text without a normalised form has two: as typed, and in lower case.
"""

_END_OF_LETTERS = 0x20000
"""The planes of Unicode from here on have only ideographs and marks, which have no case."""

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

    def in_ascii(self) -> "TypedId | None":
        """Return the spellings in ASCII, as many as there are now; ``None`` if a column has none, or no others."""
        found = {name: [each for each in texts if each.isascii()] for name, texts in self.spellings.items()}
        if not all(found.values()) or all(text.isascii() for texts in self.spellings.values() for text in texts):
            return None
        return TypedId({name: (*each, *[each[0]] * (MOST_SPELLINGS - len(each))) for name, each in found.items()})


def login_key(identifier: Identifier, value: object) -> str | None:
    """Return the one form under which failed sign-ins with a user id count; ``None`` if no user can have it.

    It is the normalised form. A text that the format rules refuse is folded more coarsely: in NFKC, without case.
    """
    if not _may_be_id(value):
        return None
    normal = normal_form(identifier, value)
    return folded(value) if normal is None else normal


def spellings_of(identifier: Identifier, value: object) -> tuple[str, ...]:
    """Return the values to look for, the best first: none, or exactly `MOST_SPELLINGS` of them, with repetitions."""
    if not _may_be_id(value):
        return ()
    typed = str(value)
    normal = normal_form(identifier, typed)
    others: tuple[str, ...]
    if normal is None:
        key, others = folded(typed), (typed.translate(TO_LOWER),)
    else:
        key, others = normal, (normal, *other_forms(identifier, normal))
    # A spelling with another key would be a second counter for the same account.
    further = [each for each in dict.fromkeys(others) if each != typed and login_key(identifier, each) == key]
    return (typed, *further, *[typed] * (MOST_SPELLINGS - 1 - len(further)))


def normal_form(identifier: Identifier, value: str) -> str | None:
    """Return the form of a user id that a registration would store; ``None`` if it would refuse the value."""
    try:
        return identifier.normalize(value)
    except ValueError:
        return None


def _may_be_id(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and len(value) <= MAX_LOGIN_KEY and bool(value.strip()) and not _NO_ID.search(value)


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


@cache
def _capitals() -> tuple[tuple[str, str], ...]:
    """Return the letters outside ASCII that have another form in lower case, each with that form."""
    letters = (each for each in map(chr, range(0x80, _END_OF_LETTERS)) if each.lower() != each)
    return tuple((each, lower) for each in letters if (lower := lowered(each)) != each)


def capitals_of(texts: Iterable[str]) -> list[tuple[str, str]]:
    """Return the capitals outside ASCII of the letters in texts that are in lower case, each with its lower case.

    The ``lower()`` of SQLite, and of PostgreSQL with some locales, leaves such letters as they are.

    >>> capitals_of(["rené@example.org"])
    [('É', 'é')]
    """
    text = " ".join(texts)
    return [] if text.isascii() else [pair for pair in _capitals() if pair[1] in text]


def folded(text: str) -> str:
    """Return a text without differences of case and of compatible characters."""
    return unicodedata.normalize("NFKC", text.strip(BLANKS)).casefold()
