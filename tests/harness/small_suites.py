"""The backend suite on the small backends, with an engine that can be unreachable or broken."""

from collections.abc import Callable
from datetime import timedelta
from typing import ClassVar

from harness.small_backend import NearBackend, PlacedBackend, SmallBackend, SmallTransactional, Store
from powauth.backends.base import Backend, Mode
from powauth.testing import BackendConformance


class SmallSuite(BackendConformance):
    contenders = 8
    patience = timedelta(milliseconds=20)  # a mutant is caught only if the second verb runs, on a busy machine too
    kind: ClassVar[type[SmallBackend]] = SmallBackend
    mode: ClassVar[Mode] = "inline"

    def make_backend(self) -> Backend:
        return self.kind(mode=self.mode)

    def second(self, backend: Backend) -> Backend:
        assert isinstance(backend, SmallBackend)
        return self.kind(backend.store, self.mode)

    def make_unreachable(self) -> Backend:
        store = Store()
        store.is_up = False
        return self.kind(store, self.mode)

    async def break_engine(self, backend: Backend) -> None:
        assert isinstance(backend, SmallBackend)
        backend.store.is_up = False

    async def mend_engine(self, backend: Backend) -> None:
        assert isinstance(backend, SmallBackend)
        backend.store.is_up = True


class AsyncSuite(SmallSuite):
    mode = "async"


class TransactionalSuite(SmallSuite):
    kind = SmallTransactional


class PlacedSuite(SmallSuite):
    kind = PlacedBackend


class NearSuite(SmallSuite):
    kind = NearBackend


class NearAsyncSuite(NearSuite):
    mode = "async"


def small(kind: type[SmallBackend]) -> Callable[[], BackendConformance]:
    """The suite on a mutant of one of the small backends; the synchronous one."""
    return _made(NearSuite if issubclass(kind, NearBackend) else SmallSuite, kind)


def small_async(kind: type[SmallBackend]) -> Callable[[], BackendConformance]:
    """The suite on a mutant of one of the small backends, in mode ``async``."""
    return _made(NearAsyncSuite if issubclass(kind, NearBackend) else AsyncSuite, kind)


def _made(suite: type[SmallSuite], kind: type[SmallBackend]) -> Callable[[], BackendConformance]:
    return type(f"{suite.__name__}Of{kind.__name__}", (suite,), {"kind": kind})
