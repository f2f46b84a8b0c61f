"""`FormField`: one field of a form to register, for pages that show such a form."""

import re
from typing import Literal

import msgspec

FieldKind = Literal["text", "email", "integer", "number", "flag", "date"]
"""Kinds of values. A ``flag`` is true or false. A ``number`` may have a fraction."""

_INTEGER = re.compile(r"[+-]?[0-9]{1,18}\Z")
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?\Z")


class FormField(msgspec.Struct, frozen=True, kw_only=True):
    """One field of a form to register.

    Attributes:
        name: its name in ``params``.
        kind: the kind of its values.
        required: whether a registration fails without it. An optional field may be left empty.
        max_length: the maximum number of characters; ``None`` if there is none.
    """

    name: str
    kind: FieldKind = "text"
    required: bool = True
    max_length: int | None = None

    def parsed(self, text: object) -> object:
        """Return the value for a text that an HTML form sent. ``None`` is a checkbox that is not ticked.

        If the text does not fit the kind, it is returned unchanged. The users context then reports the error.

        >>> FormField(name="age", kind="integer").parsed("42"), FormField(name="news", kind="flag").parsed(None)
        (42, False)
        """
        if self.kind == "flag":
            return {None: False, "true": True, "on": True}.get(text, text) if isinstance(text, str | None) else text
        if self.kind == "integer" and isinstance(text, str) and _INTEGER.match(text):
            return int(text)
        if self.kind == "number" and isinstance(text, str) and _NUMBER.match(text):
            return float(text)
        return text
