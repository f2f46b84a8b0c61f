"""The current user while the store is unreachable: reading it raises `StoreUnavailable`."""

from collections.abc import Iterator, MutableMapping
from typing import Any, NoReturn

from powauth._outages import report
from powauth.errors import StoreUnavailable


class Unreachable:
    """Takes the place of the current user. Any use raises `StoreUnavailable`, so an outage makes nobody anonymous.

    A handler that tests whether somebody is signed in gets an error, never the answer "nobody". Only ``is None`` cannot
    raise: the result is false, and the next use of the user raises. `StateInOutage` has no such gap. ASGI uses that.
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


class StateInOutage(MutableMapping[str, Any]):
    """Takes the place of a mapping in which handlers read the current user. Reading the user raises `StoreUnavailable`.

    Every way to read the key raises, so a handler never finds "nobody is signed in" or a placeholder for the user. All
    other keys are those of the mapping that this one replaces, which takes the changes, too.
    """

    __slots__ = ("_replaced", "_unknown")

    def __init__(self, replaced: MutableMapping[str, Any]) -> None:
        self._replaced = replaced
        self._unknown: dict[object, Unreachable] = {}

    @classmethod
    def of(cls, mapping: MutableMapping[str, Any], key: str, unreachable: Unreachable) -> "StateInOutage":
        """Return the mapping to use in place of another, in which reading ``key`` raises until a value is assigned."""
        state = mapping if isinstance(mapping, cls) else cls(mapping)
        state._unknown[key] = unreachable
        return state

    def __getitem__(self, key: str) -> Any:
        if key in self._unknown and key not in self._replaced:
            self._unknown[key].raise_cause()
        return self._replaced[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._replaced[key] = value

    def __delitem__(self, key: str) -> None:
        del self._replaced[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._replaced)

    def __len__(self) -> int:
        return len(self._replaced)
