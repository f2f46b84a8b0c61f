"""`BackendWrapper`: the base class of a backend that passes its verbs on to another one.

A wrapper has the abilities of the backend that it wraps: ``isinstance`` gives the same answer for both.
"""

from abc import abstractmethod
from collections.abc import Callable, Coroutine, Sequence
from functools import cache
from typing import Any, ClassVar, Self, TypeVar, cast

from powauth._overrides import bypasses
from powauth.backends.base import (
    Backend,
    Change,
    CountsEpochs,
    Millis,
    PerProcess,
    ReadsInPlace,
    Record,
    ScanPage,
    ServesCopies,
    Transactional,
)

T = TypeVar("T")


class BackendWrapper(Backend):
    """Passes each verb on to `here`. A subclass overrides the methods that differ.

    An object's class combines the called class and the abilities of the wrapped backend. A subclass may define the
    methods of an ability, such as ``peek``. They are used if the wrapped backend has the ability.

    Args:
        inner: the backend to wrap.

    Attributes:
        abilities: the abilities that the wrapper takes over from the wrapped backend.
    """

    abilities: ClassVar[tuple[type, ...]] = (ReadsInPlace, ServesCopies, Transactional, CountsEpochs, PerProcess)

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if bypasses(cls, "get", "peek") and bypasses(cls, "get", "abilities"):
            raise TypeError(
                f"{cls.__name__} overrides get, and peek would bypass it: override peek, too, or leave ReadsInPlace "
                "out of its abilities"
            )

    def __new__(cls, inner: Backend, *_: Any, **__: Any) -> Self:
        """Make an object of the class with the abilities of ``inner``."""
        return cast("Self", super().__new__(_with_abilities(cls, tuple(_abilities_of(cls, inner)))))

    @abstractmethod
    def here(self) -> Backend:
        """Return the backend for a call in the current thread and event loop."""

    def ask(self, verb: str, call: Callable[[Backend], Coroutine[Any, Any, T]]) -> Coroutine[Any, Any, T]:
        """Call a verb of the wrapped backend. Every verb goes through this method.

        Args:
            verb: the name of the verb.
            call: a function that calls the verb on a backend.
        """
        del verb
        return call(self.here())

    async def create(self, record: Record, epoch: int | None, now: Millis) -> bool:
        """See `Backend.create`."""
        return await self.ask("create", lambda backend: backend.create(record, epoch, now))

    async def get(self, key: bytes, now: Millis) -> Record | None:
        """See `Backend.get`."""
        return await self.ask("get", lambda backend: backend.get(key, now))

    async def update(self, record: Record, expected_version: int, now: Millis) -> bool:
        """See `Backend.update`."""
        return await self.ask("update", lambda backend: backend.update(record, expected_version, now))

    async def delete(self, key: bytes, now: Millis) -> bool:
        """See `Backend.delete`."""
        return await self.ask("delete", lambda backend: backend.delete(key, now))

    async def list(self, owner: bytes, now: Millis) -> list[Record]:
        """See `Backend.list`."""
        return await self.ask("list", lambda backend: backend.list(owner, now))

    async def epoch(self, owner: bytes, now: Millis, *, advance: bool = False) -> int:
        """See `Backend.epoch`."""
        return await self.ask("epoch", lambda backend: backend.epoch(owner, now, advance=advance))

    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        """See `Backend.delete_owner`."""
        return await self.ask("delete_owner", lambda backend: backend.delete_owner(owner, now, keep))

    async def purge(self, limit: int, now: Millis) -> int:
        """See `Backend.purge`."""
        return await self.ask("purge", lambda backend: backend.purge(limit, now))

    async def scan(self, namespace: str, cursor: str | None, limit: int, now: Millis) -> ScanPage:
        """See `Backend.scan`."""
        return await self.ask("scan", lambda backend: backend.scan(namespace, cursor, limit, now))

    async def count(self, namespace: str, now: Millis) -> int:
        """See `Backend.count`."""
        return await self.ask("count", lambda backend: backend.count(namespace, now))

    async def close(self) -> None:
        """See `Backend.close`."""
        await self.ask("close", lambda backend: backend.close())


class _ReadsInPlace(BackendWrapper, ReadsInPlace):
    def peek(self, key: bytes, now: Millis) -> object:
        return cast("ReadsInPlace", self.here()).peek(key, now)

    def record_of(self, key: bytes, seen: Any, now: Millis) -> Record | None:
        return cast("ReadsInPlace", self.here()).record_of(key, seen, now)


class _ServesCopies(BackendWrapper, ServesCopies):
    async def get_fresh(self, key: bytes, now: Millis) -> Record | None:
        return await self.ask("get_fresh", lambda backend: cast("ServesCopies", backend).get_fresh(key, now))


class _Transactional(BackendWrapper, Transactional):
    async def change(self, changes: Sequence[Change], now: Millis) -> int:
        return await self.ask("change", lambda backend: cast("Transactional", backend).change(changes, now))


class _CountsEpochs(BackendWrapper, CountsEpochs):
    async def latest_epoch(self, now: Millis) -> int:
        return await self.ask("latest_epoch", lambda backend: cast("CountsEpochs", backend).latest_epoch(now))


class _PerProcess(BackendWrapper, PerProcess):
    pass


_PARTS: dict[type, Any] = {
    ReadsInPlace: _ReadsInPlace,
    ServesCopies: _ServesCopies,
    Transactional: _Transactional,
    CountsEpochs: _CountsEpochs,
    PerProcess: _PerProcess,
}
"""The class that gives a wrapper an ability."""


def _abilities_of(kind: type[BackendWrapper], inner: Backend) -> list[type]:
    return [ability for ability in kind.abilities if isinstance(inner, ability)]


@cache
def _with_abilities(kind: type[BackendWrapper], abilities: tuple[type, ...]) -> type[BackendWrapper]:
    if not abilities:
        return kind
    return type(kind.__name__, (kind, *(_PARTS[each] for each in abilities)), {"__doc__": kind.__doc__})
