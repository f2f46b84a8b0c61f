"""The channel between Redis and a `NearCache`: one connection on which the server reports every write under a prefix.

It sends ``CLIENT TRACKING ON BCAST PREFIX prefix:{`` on a separate connection, in RESP3. In the other mode the server
remembers the keys that each connection has read. That mode costs memory for each key and process, must be turned on for
every connection of a pool, and becomes silent when the connection that it redirects to is gone. Broadcasting needs no
memory and leaves the app's connections unchanged. It costs one message per write to each process that listens.

redis-py's own client-side caching has four limits: it works only in the synchronous client, refuses Valkey and servers
before 7.4, takes a pool's connection for each hit, and detects a silently dead connection only when it writes to it.

The server sends invalidations before the replies to the writers that caused them, and answers in order. The heartbeat
is ``HELLO``, which names the server's role: a master that became a replica may report late. Behind Sentinel, each
heartbeat also asks for the master's address, and a channel to another server ends.

redis-py makes the connection. `powauth.backends._redis_messages` parses the data from its socket or stream. By then
redis-py has read all replies to its own commands. The server sends nothing unasked before the subscription.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, cast

import redis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from powauth.backends._near_channel import ChannelLost, LoopChannel, NearChannel, ThreadChannel
from powauth.backends._redis_clients import Client
from powauth.backends._redis_messages import Messages
from powauth.backends.near_cache import HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, NearCache, clock

READ_SIZE = 1 << 16
"""The most bytes that one read takes."""


class Invalidations(NearChannel):
    """The conversation with Redis. Subclasses add the waiting.

    Args:
        cache: the cache that receives the reported changes.
        client: returns the client whose server, credentials and options the connection shares.
        prefix: the beginning of the backend's keys.
        timeout: seconds for making the connection.
    """

    store = "Redis"
    telling = (redis.ResponseError, ChannelLost)

    def __init__(self, cache: NearCache, client: Callable[[], Client], prefix: str, timeout: float) -> None:
        super().__init__(cache, timeout)
        self._client = client
        self._prefix = b"%b:{" % prefix.encode()
        self._messages = Messages()
        self._subscribed = False
        self._answered = 0
        self._sentinels: Any = None

    def _connection(self, retry: object) -> Any:
        """Return a connection of the class and options that the client's pool uses, without options about pools."""
        pool: Any = cast("Any", self._client()).connection_pool
        self._sentinels = pool if hasattr(pool, "sentinel_manager") else None
        about_pools = ("maint_", "orig_", "himport_", "event_dispatcher")
        options = {name: value for name, value in pool.connection_kwargs.items() if not name.startswith(about_pools)}
        limits = {"socket_timeout": self._timeout, "socket_connect_timeout": self._timeout, "health_check_interval": 0}
        return pool.connection_class(**{**options, **limits, "protocol": 3, "retry": retry})

    @property
    def _subscription(self) -> tuple[object, ...]:
        return "CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", self._prefix

    def _begin(self) -> None:
        """Expect the messages of a new connection."""
        self._messages = Messages()
        self._subscribed = False

    def _receive(self, data: bytes) -> None:
        """Handle the data that the connection has received."""
        if not data:
            raise redis.ConnectionError("closed by the server")
        for message in self._messages.feed(data):
            self._take(message)

    def _take(self, message: Any) -> None:
        """Handle one message of the server: changed keys, or the answer to the subscription or to a heartbeat."""
        if message == b"OK" and not self._subscribed:
            self._subscribed = True
        elif isinstance(message, dict) and self._subscribed:
            role = message.get(b"role")
            if role != b"master":
                raise ChannelLost("no longer a master")
            self._answered += 1
        elif isinstance(message, list) and len(message) == 2 and message[0] == b"invalidate":  # noqa: PLR2004
            if message[1] is None:
                self._cache.flushed()
            else:
                for key in message[1]:
                    self._changed(key)
        else:
            raise ChannelLost("an unknown message")

    def _changed(self, key: bytes) -> None:
        place, _, name = key.removeprefix(self._prefix).partition(b"}:")
        if name.startswith(b"r:"):
            # The namespace, without the shard's dot and four digits; see `powauth.backends.redis`.
            self._cache.drop(b"%b:%b" % (place[:-5], name[2:]))

    def _check(self, connection: Any, master: tuple[str, int]) -> None:
        if master != (connection.host, connection.port):
            raise ChannelLost("another master")


class LoopInvalidations(Invalidations, LoopChannel):
    """The channel of an asyncio client."""

    _heard: asyncio.Event

    async def _run(self) -> None:
        generation = self._cache.opened()
        self._begin()
        self._heard = asyncio.Event()
        connection: Any = None
        try:
            connection = self._connection(AsyncRetry(NoBackoff(), 0))
            async with asyncio.timeout(self._timeout):
                await connection.connect()
                await connection.send_command(*self._subscription)
            _raise_lost_cancellation()
            async with asyncio.TaskGroup() as both:
                both.create_task(self._listen(connection, generation))
                both.create_task(self._beat(connection, generation))
        except Exception as error:
            self._complain(error)
        finally:
            self._cache.lost(generation)
            with contextlib.suppress(Exception):
                await connection.disconnect(nowait=True)

    async def _listen(self, connection: Any, generation: int) -> None:
        try:
            while True:
                self._receive(await connection._reader.read(READ_SIZE))
                self._heard.set()
        finally:
            # Now, and not only when the other task has ended, too.
            self._cache.lost(generation)

    async def _beat(self, connection: Any, generation: int) -> None:
        while True:
            sent, due = clock(), self._answered + 1
            async with asyncio.timeout(HEARTBEAT_TIMEOUT):
                await connection.send_command("HELLO")
                if self._sentinels is not None:
                    self._check(connection, await self._sentinels.get_master_address())
                while self._answered < due:
                    self._heard.clear()
                    await self._heard.wait()
            self._stands(generation, sent)
            await asyncio.sleep(HEARTBEAT_INTERVAL)


def _raise_lost_cancellation() -> None:
    """Raise ``CancelledError`` if this task was cancelled and ``wait_for`` of Python 3.11 has swallowed that.

    Otherwise `asyncio.run` would wait for the channel for ever if its coroutine ended while the channel was opening.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


class ThreadInvalidations(Invalidations, ThreadChannel):
    """The channel of a synchronous client."""

    def _wake(self, line: Any) -> None:
        line.disconnect()

    def _abandon(self, line: Any) -> None:
        # In a child redis-py closes the descriptor, but does not shut down the connection, which is the parent's.
        line.disconnect()

    def _run(self) -> None:
        generation = self._cache.opened()
        self._begin()
        connection: Any = None
        try:
            connection = self._line = self._connection(Retry(NoBackoff(), 0))
            connection.connect()
            connection.send_command(*self._subscription)
            while not self._closed:
                self._beat(connection, generation)
        except Exception as error:
            self._complain(error)
        finally:
            self._cache.lost(generation)
            with contextlib.suppress(Exception):
                connection.disconnect()

    def _beat(self, connection: Any, generation: int) -> None:
        """Send one heartbeat, and handle the changes until the next."""
        sent, due = clock(), self._answered + 1
        connection.send_command("HELLO")
        if self._sentinels is not None:
            self._check(connection, self._sentinels.get_master_address())
        while self._answered < due:
            if not self._wait(connection, sent + HEARTBEAT_TIMEOUT):
                raise ChannelLost("no answer in time")
        self._stands(generation, sent)
        pause = clock() + HEARTBEAT_INTERVAL
        while self._wait(connection, pause):
            pass

    def _wait(self, connection: Any, until: float) -> bool:
        """Handle the next data. Return ``False`` if none arrived before that time."""
        seconds = until - clock()
        if seconds <= 0:
            return False
        line = connection._sock
        if line is None:  # another thread has closed it
            raise redis.ConnectionError("closed")
        line.settimeout(seconds)
        try:
            data = line.recv(READ_SIZE)
        except TimeoutError:
            return False
        self._receive(data)
        return True
