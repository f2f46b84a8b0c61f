"""The current user while the store is unreachable: reading it raises `StoreUnavailable`."""

from collections.abc import MutableMapping
from typing import Any, NoReturn

from powauth._outages import report
from powauth.errors import StoreUnavailable


class Unreachable:
    """Takes the place of the current user. Any use raises `StoreUnavailable`, so an outage makes nobody anonymous.

    A handler that tests whether somebody is signed in gets an error, never the answer "nobody". Only ``is None`` cannot
    raise: the result is false, and the next use of the user raises. `StateInOutage` has no such gap, so protocols whose
    mappings may be subclasses of dict use that.
    """

    __slots__ = ("_cause",)

    _cause: StoreUnavailable

    def __init__(self, cause: StoreUnavailable) -> None:
        report(cause)
        object.__setattr__(self, "_cause", cause)

    def raise_cause(self) -> NoReturn:
        """Raise the error.

        Raises:
            StoreUnavailable: always.
        """
        raise StoreUnavailable(str(self._cause)) from self._cause

    def _raise(self, *_: object, **__: object) -> Any:
        self.raise_cause()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):  # protocols test whether there is such a method
            raise AttributeError(name)
        self.raise_cause()

    # isinstance(), match, vars() and JSON encoders read these two.
    __class__ = __dict__ = property(_raise)
    __setattr__ = __delattr__ = __dir__ = _raise
    __bool__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = _raise
    __str__ = __format__ = __bytes__ = __int__ = __float__ = __index__ = _raise
    __len__ = __iter__ = __aiter__ = __reversed__ = __contains__ = __getitem__ = __setitem__ = __delitem__ = _raise
    __call__ = __await__ = __enter__ = __exit__ = __reduce_ex__ = _raise

    def __repr__(self) -> str:
        return "<current user unknown: the session store is out of reach>"


class StateInOutage(dict[str, Any]):
    """Takes the place of a mapping in which handlers read the current user. Reading the user raises `StoreUnavailable`.

    Every way to read the key raises, so a handler never finds "nobody is signed in" or a placeholder for the user. All
    other keys are as in the mapping that this one replaces. Changes reach both, because a middleware outside of
    powauth's may hold the other one.
    """

    __slots__ = ("_replaced", "_unknown")

    def __init__(self, replaced: MutableMapping[str, Any]) -> None:
        super().__init__(replaced)
        self._replaced = replaced
        self._unknown: dict[object, Unreachable] = {}

    @classmethod
    def of(cls, mapping: MutableMapping[str, Any], key: str, unreachable: Unreachable) -> "StateInOutage":
        """Return the mapping to use in place of another, in which reading ``key`` raises until a value is assigned."""
        state = mapping if isinstance(mapping, cls) else cls(mapping)
        state._unknown[key] = unreachable
        return state

    def __missing__(self, key: object) -> NoReturn:
        if key in self._unknown:
            self._unknown[key].raise_cause()
        raise KeyError(key)

    def __contains__(self, key: object) -> bool:
        try:
            self[key]  # type: ignore[index]
        except KeyError:
            return False
        return True

    def get(self, key: str, default: Any = None) -> Any:
        """See `dict.get`."""
        try:
            return self[key]
        except KeyError:
            return default

    def setdefault(self, key: str, default: Any = None) -> Any:
        """See `dict.setdefault`."""
        if key not in self:
            self[key] = default
        return self[key]

    def pop(self, key: str, *default: Any) -> Any:
        """See `dict.pop`."""
        value = self.get(key, *default) if default else self[key]
        if key in self:
            del self[key]
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        self._replaced[key] = value

    def __delitem__(self, key: str) -> None:
        super().__delitem__(key)
        self._replaced.pop(key, None)

    # `MutableMapping` writes these with the methods above. Those of a dict would bypass them.
    clear = MutableMapping.clear
    popitem = MutableMapping.popitem
    update = MutableMapping.update
