"""Records in Redis or Valkey: one server, Sentinel, or Cluster, through redis-py's clients, synchronous or asyncio.

Each verb is one command, so one round trip. `RedisBackend.get` is a ``GET``. Every other verb is a Lua script, which
the server runs atomically. Only the administrator's `RedisBackend.scan` and ``count`` look for keys by pattern.

**Keys.** A key is ``prefix:{namespace.shard}:`` and then one of three: ``r:`` with a record's identifier, ``o:`` with a
user's key for that user's index, or ``e:`` with a user's key for the epoch. The shard is four hexadecimal digits.
Neither prefix nor namespace can hold ``:``, ``{`` or a wildcard, and the arbitrary part stands last, so two names never
produce one key. The part in braces is the hash tag of Redis Cluster: all keys of one user are in one slot. A script can
therefore use records that it finds in the index, although they are not among its ``KEYS``: a cluster runs it on the
slot's master. While a slot moves to another master, the cluster refuses a verb that needs keys on both masters, or a
key that does not exist yet (a sign-in). The verb then changes nothing and raises `StoreUnavailable`, after redis-py has
waited for some tenths of a second.

**Expiry.** Every key has a time to live. The server receives it as a duration, so its clock need not agree with the
app's. The index is a sorted set by ``expires_at`` and lives as long as its longest member. Code that drops an expired
member from the index also removes the record, so `RedisBackend.list` and ``delete_owner`` know every record.

**Unreadable values count as absent**: another type under our key, or a value that powauth did not write. A record of a
newer format is not overwritten.

**Connections.** Of a client made from a URL, powauth uses only the connections, without redis-py's layers over them;
see `powauth.backends._redis_connections`. Commands to a cluster, or through the app's own client, go through the
client.

**Retries.** With a URL, a command is repeated once if a connection breaks that had served before. In a cluster it is
repeated once after the client has learned the new topology. A client that the app made may repeat a command whose reply
was lost (redis-py: up to ten times). The first attempt may have taken effect, so each write carries a random mark that
the server keeps. A repeated ``create`` or ``update`` finds its own mark and answers ``True`` again. ``delete`` leaves a
tombstone of 26 bytes for `RETRY_WINDOW`, which tells a repetition of any of the three that the write was done. Two
answers may be too low after a hidden repetition: the count of ``delete_owner``, and that of an ``update`` whose record
others have replaced meanwhile (``False``; the caller reads again anyway).

**Losses.** Replication is asynchronous. A failover to a replica that lags, or a crash between two syncs of the
append-only file, loses the last acknowledged writes. The session's next request brings a lost renewal forward. A user
repeats a lost sign-in. *A lost sign-out or revocation is undone.* If that matters, set ``appendfsync always`` on a
single server; otherwise bound the loss with ``min-replicas-to-write``. powauth never reads from replicas. Epochs grow
by random steps, so an epoch that was returned and then lost is not returned again.

**Memory.** Set ``maxmemory-policy noeviction`` (`RedisBackend.check` verifies it). A server that evicts records signs
users out. If it evicts an index, powauth cannot revoke the sessions in it. A full server refuses new
sessions and renewals (`StoreUnavailable`). Signing out and revoking existing sessions still work.
"""

import re
import secrets
import threading
import warnings
from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from powauth import _forks
from powauth._options import short_name
from powauth._outages import Failure, unavailable
from powauth._times import duration
from powauth.backends._redis_clients import Client, client_from_url, close_client, forget_connections, inspect_client
from powauth.backends._redis_connections import (
    MAX_AT_ONCE,
    Commands,
    LoopConnections,
    ThreadConnections,
    ThroughClient,
)
from powauth.backends._redis_errors import FAILURES, check_loop, redis_unavailable
from powauth.backends._redis_invalidations import Invalidations, LoopInvalidations, ThreadInvalidations
from powauth.backends._redis_keys import Place, head, unpack
from powauth.backends._redis_scanning import SCAN_COUNT, Scanner, format_cursor, parse_cursor
from powauth.backends._redis_scripts import (
    ADVANCE,
    CHUNK,
    CREATE,
    DELETE,
    DELETE_OWNER,
    HEADER,
    LIST,
    RETRY_WINDOW,
    UPDATE,
    Script,
)
from powauth.backends.base import (
    EPOCH_LIFETIME,
    MAX_TIMEOUT,
    Backend,
    Millis,
    Mode,
    ReadsInPlace,
    Record,
    ScanPage,
    ServesCopies,
    WouldWaitError,
    check_namespace,
    shard_of,
)
from powauth.backends.near_cache import NearCache, changing, near_cache_option, read_and_keep
from powauth.errors import ConfigError, ConfigWarning, StoreUnavailable

# isort: split
# The modules above say what to install where redis-py is missing.
from redis.exceptions import NoScriptError, ResponseError

if TYPE_CHECKING:
    import redis
    import redis.asyncio
    import redis.cluster

MAX_TTL: Millis = 1 << 52
"""The longest time to live that a command asks for. The server refuses absurd ones."""


class RedisBackend(Backend, ReadsInPlace, ServesCopies):
    """Records in Redis or Valkey. The module's docstring describes the design, and the writes that an engine can lose.

    Construction sends nothing. Methods raise `StoreUnavailable` as those of every backend do, also for a full server, a
    replica in place of the master, or a cluster without one of its slots. They work again when the server does.

    >>> backend = RedisBackend("redis://127.0.0.1:6379/0", prefix="shop", timeout=timedelta(seconds=1))
    >>> backend.mode
    'blocking'

    Args:
        client: a client of redis-py or a URL. The client is a `redis.Redis`, a `redis.cluster.RedisCluster`, one of
            their namesakes in `redis.asyncio`, or the result of ``Sentinel.master_for``. The app closes it. The URL is
            ``redis://[user:password@]host:port/db``, ``rediss://`` (TLS), ``unix://path``,
            ``redis+sentinel://[user:password@]host:port,host:port/service/db``, or
            ``redis+cluster://[user:password@]host:port,host:port``; ``valkey`` may stand for ``redis``. A password is
            for the servers of the data. For Sentinels with a password, and for TLS to Sentinel or Cluster, make the
            client yourself.
        prefix: the beginning of all keys: 1 to 63 of ``A-Z a-z 0-9 _ . -``.
        timeout: the longest wait for one command, at most an hour. It bounds each command of an asyncio client.
            A synchronous client made from a URL waits as long for a connection, and again for a reply, from each
            Sentinel or node that it asks. A synchronous client that the app made follows its own options.
        asynchronous: whether a URL is for an asyncio client.
        near_cache: the number of records to keep in the process, so that `get` asks the server only for others.
            ``None`` keeps none. A record that others change is dropped within the time of a message; see
            `powauth.backends.near_cache` and ``docs/backends.md`` for the consequences. A URL may set it, too:
            ``redis://host:port/db?near_cache=10000``. Not for a cluster.

    Raises:
        ConfigError: if an argument is wrong. The message never holds a password.
    """

    def __init__(
        self,
        client: "str | redis.Redis | redis.cluster.RedisCluster | redis.asyncio.Redis | redis.asyncio.RedisCluster",
        *,
        prefix: str = "powauth",
        timeout: timedelta = timedelta(seconds=2),
        asynchronous: bool = False,
        near_cache: int | None = None,
    ) -> None:
        self._prefix = short_name("prefix", prefix)
        self._timeout = duration("timeout", timeout, at_least=1, at_most=MAX_TIMEOUT) / 1000
        self._closed = False
        self._owned = isinstance(client, str)
        self._lock = threading.Lock()
        if isinstance(client, str):
            client, near_cache = near_cache_option(client, near_cache)
            self.mode: Mode = "async" if asynchronous else "blocking"
            self._connect, self._clustered = client_from_url(client, self._timeout, asynchronous)
            self._client: Client | None = None
        else:
            self.mode, self._clustered = inspect_client(client)
            self._client = cast("Client", client)
        self._commands: Commands
        if self._clustered or not self._owned:
            at_once = MAX_AT_ONCE if self._owned else None
            self._commands = ThroughClient(self._open, self.mode, self._clustered, self._timeout, at_once)
        elif asynchronous:
            self._commands = LoopConnections(self._open, self._timeout)
        else:
            self._commands = ThreadConnections(self._open)
        self._scanner = Scanner(prefix, self._send, self._open, clustered=self._clustered)
        _forks.on_fork(self, RedisBackend._leave_to_parent)
        self.near_cache: NearCache | None = None
        self._invalidations: Invalidations | None = None
        if near_cache is not None:
            if self._clustered:
                raise ConfigError(
                    "near_cache is for one server, or one behind Sentinel: in a cluster each master reports its own "
                    "changes, and slots move between them"
                )
            self.near_cache = NearCache(near_cache)
            kind = LoopInvalidations if self.mode == "async" else ThreadInvalidations
            self._invalidations = kind(self.near_cache, self._open, prefix, self._timeout)

    async def create(self, record: Record, epoch: int | None, now: Millis) -> bool:
        """See `Backend.create`: one ``EVALSHA``."""
        return await self._write(CREATE, record, b"" if epoch is None else b"%d" % epoch, now)

    async def get(self, key: bytes, now: Millis) -> Record | None:
        """See `Backend.get`: one ``GET``, or none if the near cache has the record."""
        near = self.near_cache
        if near is not None:
            record = near.get(key, now)
            return record or await read_and_keep(near, key, partial(self.get_fresh, key, now))
        return await self.get_fresh(key, now)

    def peek(self, key: bytes, now: Millis) -> Record:
        """See `ReadsInPlace.peek`: return the near cache's copy. Without a near cache, every read takes a wait."""
        copy = None if self.near_cache is None else self.near_cache.get(key, now)
        if copy is None:
            raise WouldWaitError
        return copy

    def record_of(self, key: bytes, seen: Record, now: Millis) -> Record | None:
        """See `ReadsInPlace.record_of`."""
        del key, now  # the near cache has compared them
        return seen

    async def get_fresh(self, key: bytes, now: Millis) -> Record | None:
        """See `ServesCopies.get_fresh`: one ``GET``."""
        # `_locate` in one expression, because every request runs this.
        namespace, _, identifier = key.partition(b":")
        name = b"%b%b}:r:%b" % (head(self._prefix, namespace), identifier[:2].hex().encode(), identifier)
        return unpack(key, await self._get(name), now)

    async def update(self, record: Record, expected_version: int, now: Millis) -> bool:
        """See `Backend.update`: one ``EVALSHA``."""
        return await self._write(UPDATE, record, expected_version.to_bytes(8, "big", signed=True), now)

    async def delete(self, key: bytes, now: Millis) -> bool:
        """See `Backend.delete`: one ``EVALSHA``."""
        place, identifier = self._locate(key)
        arguments = (secrets.token_bytes(8), now, identifier, place.indexes, RETRY_WINDOW)
        with changing(self.near_cache, key):
            return bool(await self._run(DELETE, (place.records + identifier,), arguments))

    async def list(self, owner: bytes, now: Millis) -> list[Record]:
        """See `Backend.list`: one ``EVALSHA`` for up to `CHUNK` records, or several for more.

        Each of several returns a half to a whole `CHUNK`. Up to `CHUNK` records are a snapshot. A longer list holds
        each record that is live during the whole call. It may hold or miss a record that is created or removed
        meanwhile.
        """
        place, user = self._home(owner)
        records: dict[bytes, Record] = {}
        position = b"0"
        while True:
            position, ids, values = await self._run(
                LIST, (place.indexes + user,), (now, place.records, CHUNK, position)
            )
            for identifier, value in zip(ids, values, strict=True):
                record = unpack(b"%b:%b" % (place.namespace, identifier), value, now)
                # The index may name another owner's record if others have written into it.
                if record is not None and record.owner == owner:
                    records[record.key] = record
            if position == b"0":
                return sorted(records.values(), key=lambda record: (record.created_at, record.key), reverse=True)

    async def epoch(self, owner: bytes, now: Millis, *, advance: bool = False) -> int:
        """See `Backend.epoch`: one ``GET``, or one ``EVALSHA``. An epoch is a number below 2**53, not a count."""
        place, user = self._home(owner)
        if advance:
            return int(await self._run(ADVANCE, (place.epochs + user,), (_random(), EPOCH_LIFETIME)))
        value = await self._get(place.epochs + user)
        return int(value) if isinstance(value, bytes) and re.fullmatch(rb"[1-9]\d{0,15}", value) else 0

    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        """See `Backend.delete_owner`: one ``EVALSHA`` for up to `CHUNK` records, and one for each further `CHUNK`.

        The epoch advances with the first chunk. The records of later chunks exist until their turn; when this returns,
        none is left. If it raises between two chunks, the remaining records are unchanged: call it again.
        """
        place, user = self._home(owner)
        kept = b"" if keep is None else keep.partition(b":")[2]
        keys = (place.indexes + user, place.epochs + user)
        random: int | bytes = _random()
        total, more = 0, 1
        with changing(self.near_cache, owner, whole=True):
            while more:
                arguments = (now, place.records, CHUNK, kept, random, EPOCH_LIFETIME)
                went, more = await self._run(DELETE_OWNER, keys, arguments)
                total += went
                random = b""
        return total

    async def purge(self, limit: int, now: Millis) -> int:
        """See `Backend.purge`: send nothing. The server removes expired keys itself."""
        self._check_open()
        return 0

    async def scan(self, namespace: str, cursor: str | None, limit: int, now: Millis) -> ScanPage:
        """See `Backend.scan`: one ``SCAN`` of `SCAN_COUNT` keys or ``limit``, whichever is more, and one ``MGET``.

        A page may be empty before the end of the scan, because the server's other keys are examined, too. In a cluster
        the scan visits one master after the other. If a master is replaced meanwhile, the scan begins again. If slots
        move meanwhile, it may miss their records.

        Raises:
            ValueError: if ``cursor`` does not come from an earlier call.
        """
        check_namespace(namespace)
        self._check_open()
        node, position, waiting = parse_cursor(cursor)
        # A step may find more than ``limit`` records. The cursor carries the rest.
        if position is not None and len(waiting) < limit:
            node, position, found = await self._scanner.step(namespace, node, position, max(limit, SCAN_COUNT))
            waiting += found
        now_due, waiting = waiting[:limit], waiting[limit:]
        records = await self._scanner.fetch(namespace, now_due, now)
        done = position is None and not waiting
        return ScanPage([*records], None if done else format_cursor(node, position, waiting))

    async def count(self, namespace: str, now: Millis) -> int:
        """See `Backend.count`: a whole scan in steps of `CHUNK`."""
        seen: set[bytes] = set()
        cursor: str | None = None
        while True:
            page = await self.scan(namespace, cursor, CHUNK, now)
            seen.update(record.key for record in page.records)
            cursor = page.cursor
            if cursor is None:
                return len(seen)

    async def check(self) -> None:
        """Warn (`ConfigWarning`) of an eviction policy that may drop sessions or their index. Call it at start.

        It does not warn if the server refuses ``CONFIG GET``, as managed servers often do.
        """
        options: dict[str, object] = {"target_nodes": "primaries"} if self._clustered else {}
        try:
            reply = await self._send("CONFIG GET", "maxmemory-policy", refusable=True, **options)
        except ResponseError:
            return
        policies = {policy for policy in _policies(reply) if policy != "noeviction"}
        if policies:
            warnings.warn(
                f"Redis evicts keys when its memory is full (maxmemory-policy {', '.join(sorted(policies))}), which "
                "signs users out and can hide sessions from revocation: set maxmemory-policy noeviction",
                ConfigWarning,
                stacklevel=2,
            )

    async def close(self) -> None:
        """Close the client, if it was made from a URL. Calls after it raise `StoreUnavailable`."""
        _forks.check()
        self._closed = True
        if self._invalidations is not None:
            await self._invalidations.close()
        await self._commands.close()
        with self._lock:
            client, self._client = self._client, None
        if self._owned and client is not None:
            await close_client(client, self.mode)

    # Keys

    def _locate(self, key: bytes) -> tuple[Place, bytes]:
        """Return the place of a key's record, and its identifier."""
        namespace, _, identifier = key.partition(b":")
        return Place(self._prefix, namespace, identifier[:2]), identifier

    def _home(self, owner: bytes) -> tuple[Place, bytes]:
        """Return the place of an owner's records, and the user's key."""
        namespace, _, user = owner.partition(b":")
        return Place(self._prefix, namespace, shard_of(owner)), user

    # Commands

    async def _write(self, script: Script, record: Record, condition: bytes, now: Millis) -> bool:
        place, identifier = self._locate(record.key)
        home, user = self._home(record.owner)
        if home.base != place.base:
            raise ValueError("the key of a record holds its owner's namespace and shard: see make_key and shard_of")
        packed = HEADER.pack(record.version, record.created_at, record.expires_at, len(user)) + user + record.value
        keys = (place.records + identifier, place.indexes + user, place.epochs + user)
        ttl = min(max(record.expires_at - now, 1), MAX_TTL)
        mark = secrets.token_bytes(8)
        arguments = (mark, packed, ttl, record.expires_at, now, identifier, place.records, condition)
        with changing(self.near_cache, record.key):
            return bool(await self._run(script, keys if script is CREATE else keys[:2], arguments))

    async def _run(self, script: Script, keys: Sequence[bytes], arguments: Iterable[object]) -> Any:
        """Run a script by its digest. Send its source to a server that does not know it (a new or restarted one)."""
        rest = (len(keys), *keys, *arguments)
        try:
            return await self._send("EVALSHA", script.sha, *rest, refusable=True)
        except NoScriptError:
            return await self._send("EVAL", script.source, *rest)
        except ResponseError as error:
            raise redis_unavailable(error) from error

    async def _get(self, key: bytes) -> object:
        try:
            return await self._send("GET", key, refusable=True)
        except ResponseError as error:
            if str(error).startswith("WRONGTYPE"):
                return None
            raise redis_unavailable(error) from error

    async def _send(self, *command: object, refusable: bool = False, **options: object) -> Any:
        """Send a command and return its reply. Raise `StoreUnavailable` on failure.

        ``refusable``: raise a `ResponseError` unchanged, for the caller to handle.
        """
        _forks.check()
        if self._closed:
            self._check_open()
        try:
            return await self._commands.ask(*command, **options)
        except StoreUnavailable:
            raise
        except FAILURES as error:
            if refusable and isinstance(error, ResponseError):
                raise
            raise redis_unavailable(error) from error
        except Exception as error:
            if isinstance(error, RuntimeError):
                check_loop(error)
            # When the topology of a cluster changes, redis-py's asyncio client closes connections that others are
            # using. Their commands then fail with any error. All other errors are mistakes of a program.
            if self._clustered:
                raise redis_unavailable(error) from error
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise unavailable(Failure("the Redis backend is closed"))

    def _open(self) -> Client:
        client = self._client
        if client is None or self._closed:
            with self._lock:
                self._check_open()
                client = self._client
                if client is None:
                    client = self._client = self._connect()
        return client

    def _leave_to_parent(self) -> None:
        """Forget the parent's connections, in a forked child."""
        self._lock = threading.Lock()
        self._commands.forget()
        if self._owned:
            _forks.keep(self._client)
            self._client = None
        elif self._client is not None:
            forget_connections(self._client)


def from_url(url: str, *, asynchronous: bool | None = None, create: bool = True) -> RedisBackend:
    """Return a `RedisBackend`; see `powauth.backends.backend_from_url`."""
    del create
    return RedisBackend(url, asynchronous=bool(asynchronous))


def _random() -> int:
    return secrets.randbelow(1 << 51) + 1


def _policies(reply: Any) -> Iterable[str]:
    """Yield the policies in a reply to ``CONFIG GET maxmemory-policy``: of one server, or of several by node."""
    if isinstance(reply, list):  # RESP2
        reply = dict(zip(reply[::2], reply[1::2], strict=True))
    if isinstance(reply, dict):
        for name, value in reply.items():
            if name in {"maxmemory-policy", b"maxmemory-policy"}:
                yield value.decode() if isinstance(value, bytes) else value
            else:
                yield from _policies(value)
