"""The channel between PostgreSQL and a `NearCache`: one connection that listens to what the table's triggers report.

The connection is made like those of the app's engine, by its pool, and is then taken out of it. Notifications come in
the order of the commits that caused them, each right after its commit.

**Opening** proves the whole way: a notification sent by the engine, as a writer's would be, must reach the connection
while nothing is asked on it. Behind a pooler that gives each transaction another connection (PgBouncer's transaction
mode) it does not, and neither if the engine's connections go to another database.

**The heartbeat** is a query on the connection: is the server's process the one that was told to listen, does it still,
and are the table and its triggers what they were? PostgreSQL (from 13) sends what a process has been notified of before
it says that the process is ready for the next query, so the answer is also the proof that all up to then was heard. It
is no ``NOTIFY`` to oneself: each of those wakes every process that listens in the database (80 of them take more than
half a processor, where queries take a twentieth), takes a transaction id, and waits for all writers that notify.

**Who else may notify?** Anyone connected to the database, and all that a forged notification does is drop copies.
"""

import asyncio
import contextlib
import os
import secrets
import selectors
import socket
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, text
from sqlalchemy.engine.interfaces import Dialect

from powauth.backends._near_channel import ChannelLost, LoopChannel, NearChannel, ThreadChannel
from powauth.backends._postgresql_triggers import CHANNEL, REPORTED, REPORTED_NOW, SOURCE
from powauth.backends._sql_statements import Statement
from powauth.backends.base import drive
from powauth.backends.near_cache import HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT, NearCache, clock
from powauth.errors import ConfigError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

REFUSED_INTERVAL = 30.0
"""Seconds to the next attempt where the last one found what only an operator can mend."""

UNTAKEN_TIMEOUT = 30_000
"""Milliseconds after which the server gives up a connection that takes no messages: of a stopped process, say. What it
has not taken stays in the server's queue, and a full queue (8 GB) fails the commits of all who notify."""

PROOF = "proof "
"""What a message begins with that only says that messages arrive; the rest is random."""

BEAT = f"""{REPORTED.format(table="$1", source="$2")}
AND CAST(pg_catalog.pg_backend_pid() AS text) = $3
AND '{CHANNEL}' || c.oid IN (SELECT pg_catalog.pg_listening_channels())
"""

PREPARED = b"powauth_near_cache"
"""Name of a line's prepared statement: to plan the heartbeat takes the server three times as long as to answer it."""

_NOTIFY = Statement(text("SELECT pg_catalog.pg_notify(:p_channel, :p_message)"))

_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)
"""Not epoll, whose registrations a forked process would share."""

Run = Callable[[Callable[[Connection], Any]], Awaitable[Any]]
"""How the backend carries out work on a connection of its engine's."""


class ChannelRefused(ChannelLost):
    """The database is not as it must be, and will not be until somebody changes it."""


class Line(ABC):
    """A connection that listens.

    Args:
        connection: the driver's.
        take: called with each message.
    """

    def __init__(self, connection: Any, take: Callable[[str], None]) -> None:
        self._connection = connection
        self._take = take

    @property
    @abstractmethod
    def in_transaction(self) -> bool:
        """Whether a transaction is open on it."""

    @abstractmethod
    async def ask(self, statement: str, *values: str, until: float) -> str | None:
        """The first column of the first row, once all messages that came before it are taken.

        A statement with values is prepared: it is asked again and again.

        Raises:
            TimeoutError: if there is no answer until then.
        """

    @abstractmethod
    async def listen(self, channel: str, until: float) -> None:
        """Have the server send the messages of this channel."""

    @abstractmethod
    async def hear(self, until: float) -> bool:
        """Take messages; ``False`` once that time has come."""

    @abstractmethod
    def end(self) -> None:
        """Close the connection, at once."""


class PsycopgLine(Line):
    """Over libpq, which psycopg wraps: psycopg itself cannot ask and listen on one connection at once."""

    def __init__(self, connection: Any, take: Callable[[str], None]) -> None:
        super().__init__(connection, take)
        self._pg = connection.pgconn
        self._prepared = ""

    @property
    def in_transaction(self) -> bool:
        """See `Line.in_transaction`."""
        from psycopg.pq import TransactionStatus

        return bool(self._pg.transaction_status != TransactionStatus.IDLE)

    async def ask(self, statement: str, *values: str, until: float) -> str | None:
        """See `Line.ask`."""
        if not values:
            return await self._exchange(lambda: self._pg.send_query_params(statement.encode(), []), until)
        if statement != self._prepared:
            await self._exchange(lambda: self._pg.send_prepare(PREPARED, statement.encode()), until)
            self._prepared = statement
        encoded = [value.encode() for value in values]
        return await self._exchange(lambda: self._pg.send_query_prepared(PREPARED, encoded), until)

    async def _exchange(self, send: Callable[[], None], until: float) -> str | None:
        from psycopg.pq import ExecStatus

        send()
        if self._pg.flush():
            raise ChannelLost("the server takes nothing")
        answer = None
        while True:
            while not self._pg.is_busy():
                result = self._pg.get_result()
                if result is None:
                    self._drain()
                    return answer
                if result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK):
                    raise ChannelLost("the server refused a query")
                if result.ntuples:
                    answer = result.get_value(0, 0).decode()
            if not await self.hear(until):
                raise TimeoutError

    async def listen(self, channel: str, until: float) -> None:
        """See `Line.listen`."""
        await self.ask(f"LISTEN {channel}", until=until)

    def end(self) -> None:
        """See `Line.end`."""
        self._pg.finish()

    def _consume(self) -> None:
        self._pg.consume_input()
        self._drain()

    def _drain(self) -> None:
        while (message := self._pg.notifies()) is not None:
            self._take(message.extra.decode())


class ThreadLine(PsycopgLine):
    """In a thread, which waits for the server, or for another thread to wake it."""

    def __init__(self, connection: Any, take: Callable[[str], None]) -> None:
        super().__init__(connection, take)
        self._waker, self._woken = socket.socketpair()
        self._selector = _Selector()
        for each in (self._pg.socket, self._woken):
            self._selector.register(each, selectors.EVENT_READ)

    async def hear(self, until: float) -> bool:
        """See `Line.hear`."""
        seconds = until - clock()
        if seconds <= 0:
            return False
        for key, _ in self._selector.select(seconds):
            if key.fileobj is self._woken:
                raise ChannelLost("closed")
            self._consume()
        return True

    def wake(self) -> None:
        """From another thread: end what the line's own waits for."""
        self._waker.send(b"x")

    def abandon(self) -> None:
        """In a forked child: let go of the descriptors, and say nothing to the server."""
        for each in (self._waker, self._woken):
            each.close()
        os.close(self._pg.socket)

    def end(self) -> None:
        """See `Line.end`."""
        super().end()
        self._selector.close()
        for each in (self._waker, self._woken):
            each.close()


class LoopLine(PsycopgLine):
    """On an event loop: messages are taken the moment that they come."""

    def __init__(self, connection: Any, take: Callable[[str], None]) -> None:
        super().__init__(connection, take)
        self._loop = asyncio.get_running_loop()
        self._came = asyncio.Event()
        self._error: Exception | None = None
        self._descriptor = self._pg.socket
        self._loop.add_reader(self._descriptor, self._read)

    def _read(self) -> None:
        try:
            self._consume()
        except Exception as error:
            self._error = error
            self._loop.remove_reader(self._descriptor)
        self._came.set()

    async def hear(self, until: float) -> bool:
        """See `Line.hear`."""
        try:
            async with asyncio.timeout(until - clock()):
                await self._came.wait()
        except TimeoutError:
            return False
        self._came.clear()
        if self._error is not None:
            raise self._error
        return True

    def end(self) -> None:
        """See `Line.end`."""
        try:
            self._loop.remove_reader(self._descriptor)
        finally:
            super().end()


class AsyncpgLine(Line):
    """Over asyncpg, which takes messages by itself."""

    def __init__(self, connection: Any, take: Callable[[str], None]) -> None:
        super().__init__(connection, take)
        self._ended = asyncio.Event()
        connection.add_termination_listener(lambda _connection: self._ended.set())

    @property
    def in_transaction(self) -> bool:
        """See `Line.in_transaction`."""
        return bool(self._connection.is_in_transaction())

    async def ask(self, statement: str, *values: str, until: float) -> str | None:
        """See `Line.ask`."""
        answer: str | None = await self._connection.fetchval(statement, *values, timeout=max(until - clock(), 0.001))
        return answer

    async def listen(self, channel: str, until: float) -> None:
        """See `Line.listen`."""
        async with asyncio.timeout(until - clock()):
            await self._connection.add_listener(channel, self._notified)

    def _notified(self, _connection: object, _pid: int, _channel: str, message: str) -> None:
        self._take(message)

    async def hear(self, until: float) -> bool:
        """See `Line.hear`. What it returns for are not the messages, but the end of the time, or of the connection."""
        try:
            async with asyncio.timeout(until - clock()):
                await self._ended.wait()
        except TimeoutError:
            return False
        raise ChannelLost("the connection has ended")

    def end(self) -> None:
        """See `Line.end`."""
        self._connection.terminate()


class Notifications(NearChannel):
    """The conversation with PostgreSQL, but for how it waits.

    Args:
        cache: who is told.
        engine: whose connections reach the table.
        table: its name, quoted.
        run: carries out work on a connection of the engine's, and commits.
        timeout: seconds for making the connection, and for proving it.
    """

    store = "PostgreSQL"
    line: type[Line]
    process = 0
    """The server's process that listens."""
    _line: Any = None

    def __init__(self, cache: NearCache, engine: "Engine | AsyncEngine", table: str, run: Run, timeout: float) -> None:
        super().__init__(cache, timeout)
        self._engine = engine
        self._table = table
        self._run_work = run
        self._proof = ""
        self._proven = False

    async def _converse(self) -> None:
        generation, process_here = self._cache.opened(), os.getpid()
        line: Line | None = None
        try:
            channel = await self._look()
            line = self._line = self.line(await self._connect(), self._take)
            await self._open(line, channel)
            while not self._closed:
                sent = clock()
                answer = await line.ask(BEAT, self._table, SOURCE, str(self.process), until=sent + HEARTBEAT_TIMEOUT)
                if answer != channel:
                    raise ChannelLost("the connection does not listen any more, or the table or its triggers changed")
                self._stands(generation, sent)
                pause = clock() + HEARTBEAT_INTERVAL
                while await line.hear(pause):
                    pass
        except Exception as error:
            if isinstance(error, ChannelRefused):
                self._retry_at = clock() + REFUSED_INTERVAL
            self._complain(error)
        finally:
            self._cache.lost(generation)
            # Not in a forked process: the connection is its parent's.
            if line is not None and os.getpid() == process_here:
                with contextlib.suppress(Exception):
                    line.end()

    async def _look(self) -> str:
        """The channel of the table, if its changes are reported."""
        found = await self._run_work(
            lambda connection: REPORTED_NOW(connection, table=self._table, source=SOURCE).scalar()
        )
        if found is None:
            raise ChannelRefused(
                f"the triggers that report changes of {self._table} are missing: call the backend's create_tables(), "
                "or report_changes() in a migration"
            )
        return str(found)

    async def _connect(self) -> Any:
        if isinstance(self._engine, Engine):
            taken = self._engine.raw_connection()
        else:
            async with asyncio.timeout(self._timeout):
                taken = await self._engine.raw_connection()
        connection = taken.driver_connection
        taken.detach()
        return connection

    async def _open(self, line: Line, channel: str) -> None:
        """Listen, and prove that it is heard."""
        until = clock() + self._timeout
        # What the app's hooks on new connections may have begun: nothing is sent within a transaction.
        if line.in_transaction:
            await line.ask("COMMIT", until=until)
        await line.ask(
            f"SELECT set_config('application_name', 'powauth near cache', false), "
            f"set_config('tcp_user_timeout', '{UNTAKEN_TIMEOUT}', false)",
            until=until,
        )
        await line.listen(channel, until)
        self.process = int(await line.ask("SELECT pg_backend_pid()::text", until=until) or 0)
        self._proof, self._proven = PROOF + secrets.token_hex(16), False
        await self._run_work(lambda connection: _NOTIFY(connection, channel=channel, message=self._proof).close())
        # Nothing is asked meanwhile: what arrives only with an answer may not arrive at all. And looked at again and
        # again: not every line's `hear` ends with a message.
        while not self._proven:
            if not await line.hear(min(until, clock() + 0.01)) and clock() >= until:
                raise ChannelRefused("notifications do not arrive, as behind a pooler in transaction mode")

    def _take(self, message: str) -> None:
        """One message: changed keys, or a proof."""
        if message.startswith(PROOF):
            self._proven = self._proven or message == self._proof
            return
        try:
            keys = [bytes.fromhex(name) for name in message.split(",")] if message else []
        except ValueError:
            keys = []
        if not keys:
            self._cache.flushed()
        for key in keys:
            self._cache.drop(key)


class LoopNotifications(Notifications, LoopChannel):
    """For psycopg's asynchronous connections."""

    line: type[Line] = LoopLine

    async def _run(self) -> None:
        await self._converse()


class AsyncpgNotifications(LoopNotifications):
    """For asyncpg."""

    line = AsyncpgLine


class ThreadNotifications(Notifications, ThreadChannel):
    """For psycopg's synchronous connections."""

    line = ThreadLine

    def _run(self) -> None:
        drive(self._converse())

    def _wake(self, line: ThreadLine) -> None:
        line.wake()

    def _abandon(self, line: ThreadLine) -> None:
        line.abandon()


KINDS: dict[tuple[str, bool], type[Notifications]] = {
    ("psycopg", False): ThreadNotifications,
    ("psycopg", True): LoopNotifications,
    ("asyncpg", True): AsyncpgNotifications,
}
"""SQLAlchemy's name of a driver, and whether the engine is asynchronous, to what listens by it."""


def kind_for(dialect: Dialect) -> type[Notifications]:
    """What listens by a driver.

    Raises:
        ConfigError: if the database sends no notifications, or nothing here listens by the driver.
    """
    if dialect.name != "postgresql":
        raise ConfigError(f"near_cache is for PostgreSQL, which reports changes; not for {dialect.name!r}")
    kind = KINDS.get((dialect.driver.removesuffix("_async"), dialect.is_async))
    if kind is None:
        raise ConfigError(f"near_cache cannot listen by the driver {dialect.driver!r}: use psycopg or asyncpg")
    return kind
