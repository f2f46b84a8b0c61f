"""The text by which the tables of extensions name a user.

A key of a user is an int, a text or a UUID. `user_key_text` writes any of them as printable ASCII. `user_key_in` reads
the text. `powauth.accounts.sqlalchemy.user_key_string` is the type of the columns.

1. Two keys have two texts: the first letter names the type.
2. A key has one text.
3. Two texts differ also if a database ignores case, accents, or spaces at the end. The type of the columns ignores none
   of these, but a migration may change it.
4. A text has at most 511 characters.
5. People can read it, and SQL can compute it from the key.
"""

import re
import uuid
from typing import Final

from powauth.accounts.identity import MAX_KEY_BYTES, Key, stored_key

MAX_USER_KEY_CHARS: Final = 1 + 2 * MAX_KEY_BYTES
"""The longest text: a letter, and two characters for each byte of a text key."""

_PLAIN: Final = re.compile(r"[A-Za-z0-9._:@|-]+\Z")
_CAPITAL: Final = re.compile(r"[A-Z]")
_MARKED: Final = re.compile(r"\^([a-z])")


def user_key_text(key: Key) -> str:
    """Return the text of a user's key.

    ======== =========================================================================================
    an int   ``i`` and its digits
    a UUID   ``u`` and its 32 hexadecimal digits
    a text   ``s`` and the text, if it has only letters of ASCII, digits and ``._:@|-``. A capital letter is written as
             ``^`` and the small letter. Any other text is ``x`` and the hexadecimal digits of its UTF-8
    ======== =========================================================================================

    >>> user_key_text(42), user_key_text("42"), user_key_text("Ann"), user_key_text("zo\u00eb")
    ('i42', 's42', 's^ann', 'x7a6fc3ab')

    Raises:
        ConfigError: if the value is no key.
    """
    stored = stored_key(key)
    if isinstance(stored, bytes):
        return f"u{stored.hex()}"
    if isinstance(stored, int):
        return f"i{stored}"
    if _PLAIN.match(stored) is None:
        return f"x{stored.encode().hex()}"
    return "s" + _CAPITAL.sub(lambda found: f"^{found[0].lower()}", stored)


def user_key_in(text: str) -> Key:
    """Return the key that `user_key_text` wrote.

    >>> [user_key_in(user_key_text(key)) for key in (42, "42", "Ann", "zo\u00eb")]
    [42, '42', 'Ann', 'zo\u00eb']
    """
    kind, rest = text[:1], text[1:]
    if kind == "u":
        return uuid.UUID(hex=rest)
    if kind == "i":
        return int(rest)
    if kind == "x":
        return bytes.fromhex(rest).decode()
    return _MARKED.sub(lambda found: found[1].upper(), rest)
