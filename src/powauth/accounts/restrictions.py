"""`Restriction`: a condition, besides ``is_active``, that a user must meet to sign in and to stay signed in.

A mixin of a model carries it as a class attribute:

>>> def paid(values: Mapping[str, Any], now: datetime) -> bool:
...     return values["paid_until"] is None or now < values["paid_until"]
>>> class Subscriber:
...     paid_until = None  # a column
...     restriction = Restriction(("paid_until",), paid)
>>> [each.columns for each in restrictions_of(Subscriber)]
[('paid_until',)]

An account is active only if ``is_active`` is true and all restrictions of its model return ``True``. powauth evaluates
them whenever it reads the user. So a restriction also applies to values that the app's own SQL has written, and a time
can pass without a write.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import msgspec


class Restriction(msgspec.Struct, frozen=True):
    """A condition on columns of a model.

    Attributes:
        columns: the names of the columns. No user may set them, whatever ``fields`` says.
        allows: returns ``True`` if a user with these values, by name, may sign in now. Nothing else counts as ``True``.
            The time is aware. The function must not wait.
    """

    columns: tuple[str, ...]
    allows: Callable[[Mapping[str, Any], datetime], bool]


def restrictions_of(model: type) -> tuple[Restriction, ...]:
    """Return the restrictions of a class and of all its mixins."""
    found = (each for cls in model.__mro__ for each in vars(cls).values())
    return tuple(dict.fromkeys(each for each in found if isinstance(each, Restriction)))
