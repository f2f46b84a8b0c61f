"""A blocking backend on an event loop: each verb runs in a worker thread, except reads that do not wait."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from powauth._running import InThread
from powauth.backends.base import (
    Backend,
    Millis,
    Mode,
    ReadsInPlace,
    Record,
    WouldWaitError,
    drive,
)
from powauth.backends.wrapping import BackendWrapper

T = TypeVar("T")


class OffloadedBackend(BackendWrapper):
    """Wraps a backend whose coroutines block, so that they suspend instead.

    Args:
        inner: the backend.
        in_thread: runs a function in a worker thread.
    """

    mode: Mode = "async"

    def __init__(self, inner: Backend, in_thread: InThread) -> None:
        self._inner = inner
        self._in_place = inner if isinstance(inner, ReadsInPlace) else None
        self._in_thread = in_thread

    def here(self) -> Backend:
        """See `BackendWrapper.here`."""
        return self._inner

    async def ask(self, verb: str, call: Callable[[Backend], Coroutine[Any, Any, T]]) -> T:
        """See `BackendWrapper.ask`."""
        del verb
        return await self._in_thread(lambda: drive(call(self._inner)))

    async def get(self, key: bytes, now: Millis) -> Record | None:
        """See `Backend.get`: in place, if that takes no wait."""
        if self._in_place is not None:
            try:
                return self._in_place.get_at_once(key, now)
            except WouldWaitError:
                pass
        return await super().get(key, now)

    def peek(self, key: bytes, now: Millis) -> object:
        """See `ReadsInPlace.peek`."""
        if self._in_place is None:
            raise WouldWaitError
        return self._in_place.peek(key, now)
