"""The placeholder for the current user while the store is unreachable."""

from typing import Any, NoReturn

from powauth._outages import report
from powauth.errors import StoreUnavailable


class Unreachable:
    """Takes the place of the current user. Any use raises `StoreUnavailable`, so an outage makes nobody anonymous.

    A handler that tests whether somebody is signed in gets an error, never the answer "nobody". Only ``is None`` cannot
    raise: the result is false, and the next use of the user raises.
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
