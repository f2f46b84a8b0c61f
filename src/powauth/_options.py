"""Checks of options that constructors share, so that one kind of mistake has one message. See `_times` for times.

Every message is one sentence: the option's name, "must be", what it should be, "not", and what was given.
"""

import re
from types import UnionType

from powauth.errors import ConfigError

_SHORT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}\Z")


def wrong(name: str, wanted: str, value: object) -> ConfigError:
    """Return the error for an option with a wrong value.

    >>> print(wrong("on_reuse", "'revoke' or 'reject'", "ignore"))
    on_reuse must be 'revoke' or 'reject', not 'ignore'
    """
    return ConfigError(f"{name} must be {wanted}, not {value!r}")


def instance(name: str, value: object, kinds: type | UnionType, wanted: str) -> None:
    """Check an option that is an object of a class. The message names the type, because a value may hold secrets.

    >>> instance("users", "users.db", dict, "a dict of users")
    Traceback (most recent call last):
    powauth.errors.ConfigError: users must be a dict of users, not str

    Raises:
        ConfigError: if it is of another class, or is a class itself: a class has the methods of a protocol, too.
    """
    if isinstance(value, type) or not isinstance(value, kinds):
        raise wrong_type(name, wanted, value)


def callable_or_none(name: str, value: object, wanted: str) -> None:
    """Check an option that is a function or ``None``.

    >>> callable_or_none("on_event", "print", "a function of an Event, or None")
    Traceback (most recent call last):
    powauth.errors.ConfigError: on_event must be a function of an Event, or None, not str

    Raises:
        ConfigError: if it is neither.
    """
    if value is not None and not callable(value):
        raise wrong_type(name, wanted, value)


def wrong_type(name: str, wanted: str, value: object) -> ConfigError:
    """Return the error for an option that is an object of a wrong class; see `instance`.

    >>> print(wrong_type("mailer", "an object with a method send", dict))
    mailer must be an object with a method send, not the class dict
    """
    given = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
    return ConfigError(f"{name} must be {wanted}, not {given}")


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
    raise wrong(name, f"a whole number {bounds}", value)


def flag(name: str, value: object) -> bool:
    """Return an option that is true or false.

    >>> flag("durable", True)
    True

    Raises:
        ConfigError: if it is anything but ``True`` or ``False``: a text such as ``"no"`` would count as true.
    """
    if isinstance(value, bool):
        return value
    raise wrong(name, "True or False", value)


def choice(name: str, value: object, *choices: str) -> str:
    """Return an option that is one of a few texts.

    >>> choice("same_site", "Lax", "Lax", "Strict", "None")
    'Lax'

    Raises:
        ConfigError: if it is anything else.
    """
    if isinstance(value, str) and value in choices:
        return value
    *others, last = map(repr, choices)
    raise wrong(name, f"{', '.join(others)} or {last}", value)


def matching(name: str, value: object, pattern: re.Pattern[str], wanted: str) -> str:
    r"""Return an option that is a text of a certain form.

    >>> matching("prefix", "pow_", re.compile(r"[a-z]+_\Z"), "letters and an underscore, such as 'pow_'")
    'pow_'

    Raises:
        ConfigError: if it is anything else.
    """
    if isinstance(value, str) and pattern.match(value):
        return value
    raise wrong(name, wanted, value)


def short_name(name: str, value: object) -> str:
    """Return an option that is a name: 1 to 63 of ``A-Z a-z 0-9 _ . -``, the first a letter or digit.

    >>> short_name("prefix", "shop")
    'shop'

    Raises:
        ConfigError: if it is anything else.
    """
    wanted = "1 to 63 characters of A-Z, a-z, 0-9, '_', '.' and '-' that begin with a letter or digit"
    return matching(name, value, _SHORT_NAME, wanted)
