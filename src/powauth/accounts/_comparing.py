"""Comparisons of identities with rows.

An app compares the current user with a row: ``if user == current_user``. Python would answer that a row and an identity
are never equal, and a check that depends on it would silently do the wrong thing.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import msgspec

from powauth.accounts.identity import Key

KeyOf = Callable[[Any], Key | None]
"""Returns the key of a row."""

_OF_STRUCTS: Any = msgspec.Struct.__eq__

_models: WeakKeyDictionary[type[Any], dict[type[Any], tuple[str, KeyOf]]] = WeakKeyDictionary()
"""The models of each identity class, with the name of the key's field and the function that returns a row's key."""


def compare_with_rows(identity: type[Any], model: type[Any], key_name: str, key_of: KeyOf) -> None:
    """Make an identity equal to the row of its user, and to no other row of the model.

    This changes nothing in a class that has comparisons of its own. If the class serves two models, a comparison with
    a row raises `TypeError`, because keys of two tables have nothing in common.
    """
    if identity in _models:
        _models[identity][model] = (key_name, key_of)
    elif getattr(identity, "__eq__") in (_OF_STRUCTS, _equal):  # noqa: B009 - a base class may be an identity, too
        _models[identity] = {model: (key_name, key_of)}
        # Type checkers must not see these: they describe the class as the app declares it.
        setattr(identity, "__eq__", _equal)  # noqa: B010
        setattr(identity, "__ne__", _unequal)  # noqa: B010


def _equal(self: Any, other: object) -> Any:
    if type(other) is type(self):
        return msgspec.Struct.__eq__(self, other)
    models = _models.get(type(self), {})
    found = [known for model, known in models.items() if isinstance(other, model)]
    if not found:
        return NotImplemented
    if len(models) > 1:
        raise TypeError(
            f"{type(self).__name__} is the identity of several models, so it cannot be compared with a row: "
            "compare the keys, or give each model its own identity class"
        )
    ((key_name, key_of),) = found
    return key_of(other) == getattr(self, key_name)


def _unequal(self: Any, other: object) -> Any:
    equal = _equal(self, other)
    return equal if equal is NotImplemented else not equal
