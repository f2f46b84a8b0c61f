"""A TCP proxy on the event loop that can truncate or delay replies."""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER of zero seconds: closing sends a reset."""


class Proxy:
    """A proxy between a client and the server at port ``target`` of the loopback.

    Attributes:
        resets: the share of replies that are cut in half and followed by a reset.
        delay: seconds by which each reply is delayed.
        round_trips: the number of times that the client sends first, or again after the server has sent.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.resets = 0.0
        self.delay = 0.0
        self.round_trips = 0
        self.broken = 0
        self._dice = random.Random(7)
        self._tasks: set[asyncio.Task[None]] = set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await self._connect(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        turn = {"client": False}

        async def requests() -> None:
            while data := await reader.read(65536):
                self.round_trips += not turn["client"]
                turn["client"] = True
                back.write(data)

        async def replies() -> None:
            while data := await there.read(65536):
                turn["client"] = False
                if self.delay:
                    await asyncio.sleep(self.delay)
                if self.resets and self._dice.random() < self.resets:
                    self.broken += 1
                    writer.write(data[: len(data) // 2])
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    return
                writer.write(data)

        pumps = [asyncio.create_task(requests()), asyncio.create_task(replies())]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            back.transport.abort()

    async def close(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def proxy(target: int) -> AsyncIterator[Proxy]:
    """Yield a running proxy."""
    made = Proxy(target)
    server = await asyncio.start_server(made._serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        await made.close()
