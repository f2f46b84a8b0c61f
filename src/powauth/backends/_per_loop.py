"""One backend per event loop, closed when the loop ends.

A connection belongs to the event loop that opened it. Some callers run each request on a new loop: a plain
``TestClient(app)``, or Flask with coroutines as views. The connections of a loop that has ended can be neither used nor
closed. So they must be closed before: an asynchronous generator holds each backend, and asyncio closes the generators
of a loop as its last step (`loop.shutdown_asyncgens`, which `asyncio.run` calls).
"""

from asyncio import AbstractEventLoop, Task, get_running_loop
from collections.abc import AsyncGenerator

from powauth.backends.base import Backend, drive


class PerLoop:
    """Backends by the event loop on which they are used."""

    def __init__(self) -> None:
        self._held: dict[AbstractEventLoop, tuple[Backend, AsyncGenerator[None, None]]] = {}

    def get(self, loop: AbstractEventLoop) -> Backend | None:
        """Return the backend of a loop; ``None`` if it has none."""
        held = self._held.get(loop)
        return None if held is None else held[0]

    def hold(self, loop: AbstractEventLoop, backend: Backend) -> None:
        """Keep a backend for the running loop, and close it when the loop ends."""
        for other in list(self._held):
            if other.is_closed():  # without ``shutdown_asyncgens``: its sockets are unusable
                self._held.pop(other, None)
        holder = self._until_the_end(loop, backend)
        self._held[loop] = backend, holder

        async def begin() -> None:
            await anext(holder)  # asyncio registers a generator when it begins

        drive(begin())

    async def close(self) -> None:
        """Close all backends: that of the running loop now, the others soon, each on its own loop."""
        try:
            here: AbstractEventLoop | None = get_running_loop()
        except RuntimeError:
            here = None
        held, self._held = self._held, {}
        for loop, (_, holder) in held.items():
            if loop is here:
                await holder.aclose()
            elif not loop.is_closed():
                loop.call_soon_threadsafe(_end, loop, holder)

    async def _until_the_end(self, loop: AbstractEventLoop, backend: Backend) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            if self.get(loop) is backend:
                del self._held[loop]
            await backend.close()


def _end(loop: AbstractEventLoop, holder: AsyncGenerator[None, None]) -> None:
    async def end() -> None:
        await holder.aclose()

    task = loop.create_task(end())
    _ending.add(task)
    task.add_done_callback(_ending.discard)


_ending: set[Task[None]] = set()
"""Tasks that must not be collected: an event loop holds its tasks weakly."""
