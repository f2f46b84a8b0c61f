"""The transport of `powauth.backends.redis`: it sends commands over redis-py's connections, or through its client.

Of a *client made from a URL*, powauth uses only the connections. They know how to connect (TLS, credentials, database,
Sentinel), to send and to read. The client's own layers (the pool's locks, closures for retries, metrics) take longer
than all the rest of a ``GET``. `ThreadConnections` and `LoopConnections` replace them by one rule: **a connection is
given back only after its whole reply has been read**. In any other case it is closed. So no caller can receive the
reply to another command. A connection must also be silent before it is used again. One that the server has closed, or
on which it has sent anything unasked, is closed and reconnected, so a restart of the server fails no request. If a
connection that has served before breaks during a command, the command is sent once more on a new connection. The
backend's commands allow that; see **Retries** in `powauth.backends.redis`.

Commands to a cluster, or through the *app's own client*, go through the client (`ThroughClient`).

All of them raise the original errors. `powauth.backends.redis` turns these into `StoreUnavailable`.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, cast

from powauth import _forks
from powauth.backends._redis_clients import NO_MASTER, Client
from powauth.backends.base import Mode

# isort: split
# The modules above say what to install where redis-py is missing.
import redis

MAX_AT_ONCE = 100
"""The most commands under way at once over asyncio. Further ones wait, within the time limit: a burst of requests is no
outage, and more connections do not help a server that has one thread."""

_LOOKS_ASIDE = not hasattr(redis.asyncio.Connection, "can_read")

BROKEN = (redis.ConnectionError, redis.TimeoutError, OSError)
"""The errors that redis-py raises when it examines a closed connection."""


class Commands(Protocol):
    """Sends commands and returns their replies, raw or as redis-py has parsed them."""

    async def ask(self, *command: object, **options: object) -> Any:
        """Return the reply to a command. ``options`` are redis-py's, for a cluster."""
        ...

    async def close(self) -> None:
        """Close its own connections."""
        ...

    def forget(self) -> None:
        """Drop the parent's connections, in a child after a fork."""
        ...


def pack(command: tuple[object, ...]) -> bytes:
    r"""Encode a command in Redis's protocol: bytes as they are, all else as text.

    >>> pack(("CONFIG GET", b"port"))
    b'*3\r\n$6\r\nCONFIG\r\n$3\r\nGET\r\n$4\r\nport\r\n'
    """
    names = str(command[0]).split()
    parts = [b"*%d\r\n" % (len(names) + len(command) - 1)]
    for argument in (*names, *command[1:]):
        value = argument if isinstance(argument, bytes) else str(argument).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(value), value))
    return b"".join(parts)


class ThroughClient:
    """Commands through a client of redis-py, with the client's own options.

    Args:
        client: returns the client, which is made on first use.
        timeout: the limit for one command over asyncio, in seconds.
        at_once: the most commands under way over asyncio. ``None`` leaves it to the client.
    """

    def __init__(
        self, client: Callable[[], Client], mode: Mode, clustered: bool, timeout: float, at_once: int | None
    ) -> None:
        self._client = client
        self._blocking = mode == "blocking"
        self._clustered = clustered
        self._timeout = timeout
        self._at_once = at_once
        self.forget()

    def forget(self) -> None:
        """See `Commands.forget`. `powauth.backends.redis` takes care of the clients."""
        self._limit: contextlib.AbstractAsyncContextManager[None] = (
            contextlib.nullcontext() if self._at_once is None else asyncio.Semaphore(self._at_once)
        )

    async def ask(self, *command: object, **options: object) -> Any:
        """See `Commands.ask`."""
        try:
            return await self._attempt(command, options)
        except NO_MASTER:  # see NO_MASTER
            return await self._attempt(command, options)

    async def _attempt(self, command: tuple[object, ...], options: dict[str, object]) -> Any:
        client: Any = self._client()
        if self._blocking:
            return self._call(client, command, options)
        async with asyncio.timeout(self._timeout), self._limit:
            if self._clustered:
                # Otherwise redis-py sends the first commands to any node, which redirects it.
                await client.initialize()
            return await self._call(client, command, options)

    def _call(self, client: Any, command: tuple[object, ...], options: dict[str, object]) -> Any:
        if self._clustered and command[0] == "MGET":
            return client.mget_nonatomic(command[1:])  # the keys are in slots of several nodes
        return client.execute_command(*command, **options)

    async def close(self) -> None:
        """See `Commands.close`. It has no connections of its own."""


class Connections:
    """Connections with the options of a client's pool. The pool itself stays empty.

    Args:
        client: returns the client, which is made on first use.
    """

    def __init__(self, client: Callable[[], Client]) -> None:
        self._client = client
        self._known_pool: Any = None
        self._closed = False

    def _pool(self) -> Any:
        if self._known_pool is None:
            self._known_pool = cast("Any", self._client()).connection_pool
        return self._known_pool

    def forget(self) -> None:
        """See `Commands.forget`."""
        self._known_pool = None


class ThreadConnections(Connections):
    """Connections for threads. Each thread takes the connection that was given back last, or a new one.

    So there are no more connections than threads. redis-py's own time limits apply: for connecting, and for each step
    of sending and reading.
    """

    def __init__(self, client: Callable[[], Client]) -> None:
        super().__init__(client)
        self.free: list[Any] = []
        self._making = threading.Lock()

    async def ask(self, *command: object, **options: object) -> Any:
        """See `Commands.ask`; never suspends."""
        packed = pack(command)
        try:
            connection = self.free.pop()
        except IndexError:
            with self._making:
                connection = self._pool().make_connection()  # raises an error beyond the URL's max_connections
        try:
            used = _is_ready(connection)
            if not used:
                _connect(connection)
            try:
                reply = _converse(connection, packed)
            except Exception as error:
                if self._closed or not used or not _is_cut(error):
                    raise
                _connect(connection)
                reply = _converse(connection, packed)
        except BaseException:
            connection.disconnect()
            self.give_back(connection)
            raise
        self.give_back(connection)
        return _raised(reply)

    def give_back(self, connection: Any) -> None:
        self.free.append(connection)
        if self._closed:
            self._disconnect()

    def _disconnect(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self.free.pop().disconnect()

    async def close(self) -> None:
        """See `Commands.close`. The thread that uses a connection closes it."""
        self._closed = True
        self._disconnect()

    def forget(self) -> None:
        """See `Commands.forget`."""
        super().forget()
        _forks.keep(self.free)
        self.free = []
        self._making = threading.Lock()


class Slot:
    """Room for one command under way, with a connection that the next command reuses."""

    __slots__ = ("cancelling", "connection", "late", "loop", "task", "until")

    loop: asyncio.AbstractEventLoop
    """The event loop on which it may be used."""
    connection: Any
    """The connection; ``None`` if there is none yet, or the last one failed."""
    task: asyncio.Task[Any]
    """The task that sends the command."""
    cancelling: int
    """The number of cancellation requests of that task by others, as in `asyncio.Timeout`."""
    until: float
    """The deadline of the reply, in the loop's time."""
    late: bool
    """True if the task was cancelled because the deadline passed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.connection = None


class LoopConnections(Connections):
    """Connections for the tasks of an event loop, in `MAX_AT_ONCE` slots. A task takes the slot that was freed last.

    A command has ``timeout`` seconds in all for waiting for a slot, connecting, sending and reading. The limit is the
    same for all commands, so *one* timer serves them all. It is set again when it fires, not for every command as
    `asyncio.timeout` would be. Late tasks are cancelled, as there.

    On another event loop it starts again with empty slots: connections of the former loop cannot be used.
    """

    def __init__(self, client: Callable[[], Client], timeout: float) -> None:
        super().__init__(client)
        self._timeout = timeout
        self._begin(None)

    def _begin(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self._loop = loop
        self._left = 0 if loop is None else min(MAX_AT_ONCE, self._pool().max_connections)
        self.free: list[Slot] = []
        self.busy: set[Slot] = set()
        self.waiting: deque[asyncio.Future[Slot]] = deque()
        self.timer: asyncio.TimerHandle | None = None

    async def ask(self, *command: object, **options: object) -> Any:
        """See `Commands.ask`.

        Raises:
            TimeoutError: if the reply does not arrive in time.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._begin(loop)
        packed = pack(command)
        until = loop.time() + self._timeout
        slot = self.free.pop() if self.free else await self._wait(loop, until)
        self.watch(slot, loop, until)
        try:
            connection = slot.connection
            used = connection is not None and await _is_ready_async(connection)
            if not used:
                connection = await self._connect(slot)
            try:
                reply = await _converse_async(connection, packed)
            except Exception as error:
                closed = slot.loop is not self._loop
                if closed or not used or not _is_cut(error):
                    raise
                connection = await self._connect(slot)
                reply = await _converse_async(connection, packed)
        except BaseException as error:
            self.busy.discard(slot)
            late = slot.late and slot.task.uncancel() <= slot.cancelling
            failed, slot.connection = slot.connection, None
            self.give_back(slot)
            with contextlib.suppress(Exception):
                await failed.disconnect(nowait=True)
            if late and isinstance(error, asyncio.CancelledError):
                raise TimeoutError from error
            raise
        self.busy.discard(slot)
        if not self.give_back(slot):
            await connection.disconnect(nowait=True)
        return _raised(reply)

    async def _wait(self, loop: asyncio.AbstractEventLoop, until: float) -> Slot:
        """Return a slot that has not been used yet, or the next that is given back."""
        if self._left:
            self._left -= 1
            return Slot(loop)
        waiter: asyncio.Future[Slot] = loop.create_future()
        self.waiting.append(waiter)
        try:
            async with asyncio.timeout_at(until):
                return await waiter
        except BaseException:
            if waiter.done() and not waiter.cancelled():
                self.give_back(waiter.result())
            raise

    def give_back(self, slot: Slot) -> bool:
        """Pass the slot to the next waiting task, or keep it. Return ``False`` after `close` or a change of loop."""
        if slot.loop is not self._loop:
            return False
        while self.waiting:
            waiter = self.waiting.popleft()
            if not waiter.done():
                waiter.set_result(slot)
                return True
        self.free.append(slot)
        return True

    async def _connect(self, slot: Slot) -> Any:
        connection = slot.connection
        if connection is None:
            connection = slot.connection = self._pool().make_connection()
        await connection.disconnect(nowait=True)
        try:
            await connection.connect()
        except NO_MASTER:  # see NO_MASTER
            await connection.connect()
        return connection

    def watch(self, slot: Slot, loop: asyncio.AbstractEventLoop, until: float) -> None:
        task = slot.task = cast("asyncio.Task[Any]", asyncio.current_task())
        slot.cancelling = task.cancelling()
        slot.until = until
        slot.late = False
        self.busy.add(slot)
        # A task that waited for its slot has an earlier deadline than tasks that began meanwhile.
        if self.timer is None or until < self.timer.when():
            if self.timer is not None:
                self.timer.cancel()
            self.timer = loop.call_at(until, self.look, loop)

    def look(self, loop: asyncio.AbstractEventLoop) -> None:
        if loop is not self._loop:
            return
        now = loop.time()
        for slot in self.busy:
            if slot.until <= now and not slot.late:
                slot.late = True
                slot.task.cancel()
        due = [slot.until for slot in self.busy if not slot.late]
        self.timer = loop.call_at(min(due), self.look, loop) if due else None

    async def close(self) -> None:
        """See `Commands.close`."""
        self._closed = True
        if self.timer is not None:
            self.timer.cancel()
        slots = [*self.free, *self.busy] if self._loop is asyncio.get_running_loop() else []
        waiting = self.waiting
        self._begin(None)
        for waiter in waiting:
            if not waiter.done():
                waiter.set_exception(redis.ConnectionError("closed"))
        for slot in slots:
            if slot.connection is not None:
                await slot.connection.disconnect()

    def forget(self) -> None:
        """See `Commands.forget`."""
        super().forget()
        # Closing them would also remove them from the selector, which the child may share with its parent.
        _forks.keep(self.free, self.busy)
        self._begin(None)


def _is_current(connection: Any) -> bool:
    """Return whether a connection is to the master that Sentinel named last, if there is a Sentinel."""
    pool = getattr(connection, "connection_pool", None)
    return pool is None or pool.master_address == (connection.host, connection.port)


def _is_ready(connection: Any) -> bool:
    """Return whether a connection is open and silent. Every release of redis-py from 5.0.1 on has these names."""
    try:
        return connection._sock is not None and _is_current(connection) and not connection.can_read()
    except BROKEN:
        return False


async def _is_ready_async(connection: Any) -> bool:
    """See `_is_ready`."""
    try:
        return connection.is_connected and _is_current(connection) and not await _has_spoken(connection)
    except BROKEN:
        return False


def _is_cut(error: Exception) -> bool:
    """Return whether the error means that an open connection broke, on the server's side or in between."""
    # Exclude subclasses: redis-py's errors of authentication and of a server that loads its data are among them.
    return type(error) is redis.ConnectionError or isinstance(error, ConnectionError)


def _converse(connection: Any, packed: bytes) -> Any:
    connection.send_packed_command((packed,))
    try:
        return connection.read_response()
    except redis.ResponseError as error:  # a reply, too, and read whole
        return error


async def _converse_async(connection: Any, packed: bytes) -> Any:
    await connection.send_packed_command((packed,))
    try:
        return await connection.read_response()
    except redis.ResponseError as error:  # a reply, too, and read whole
        return error


async def _has_spoken(connection: Any) -> bool:
    """Return whether the server has sent anything unasked, or closed the connection.

    Up to release 7 redis-py may consume the data, and examines only its own buffer, not that of the stream.
    """
    if _LOOKS_ASIDE:
        taken = await connection.can_read_destructive()
        return bool(taken or connection._reader._buffer or connection._reader.at_eof())
    spoken: bool = await connection.can_read()
    return spoken


def _connect(connection: Any) -> None:
    connection.disconnect()
    try:
        connection.connect()
    except NO_MASTER:  # see NO_MASTER
        connection.connect()


def _raised(reply: Any) -> Any:
    """Return the reply, or raise it if it is an error."""
    if isinstance(reply, redis.ResponseError):
        try:
            raise reply
        finally:
            del reply  # otherwise its traceback would refer to it
    return reply
