"""Checks of options that constructors share, so that one kind of mistake has one message. See `_times` for times."""

import re

from powauth.errors import ConfigError

_SHORT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z")


def whole_number(name: str, value: object, *, at_least: int = 1, at_most: int | None = None) -> int:
    """Return an option that is a whole number.

    >>> whole_number("max_records", 100)
    100

    Raises:
        ConfigError: if it is no ``int``, or out of its bounds. ``True`` is no number.
    """
    if type(value) is int and at_least <= value and (at_most is None or value <= at_most):
        return value
    bounds = f"of {at_least} or more" if at_most is None else f"from {at_least} to {at_most}"
    raise ConfigError(f"{name} must be a whole number {bounds}; got {value!r}")


def flag(name: str, value: object) -> bool:
    """Return an option that is true or false.

    >>> flag("durable", True)
    True

    Raises:
        ConfigError: if it is anything but ``True`` or ``False``: a text such as ``"no"`` would count as true.
    """
    if isinstance(value, bool):
        return value
    raise ConfigError(f"{name} must be True or False; got {value!r}")


def short_name(name: str, value: object) -> str:
    """Return an option that is a name: 1 to 63 of ``A-Z a-z 0-9 _ . -``, the first a letter or digit.

    >>> short_name("prefix", "shop")
    'shop'

    Raises:
        ConfigError: if it is anything else.
    """
    if isinstance(value, str) and _SHORT_NAME.match(value):
        return value
    raise ConfigError(
        f"{name} must be 1 to 63 characters of A-Z, a-z, 0-9, '_', '.', '-', the first a letter or digit; got {value!r}"
    )
