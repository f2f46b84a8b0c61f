"""The clients of `powauth.backends.redis`: made from a URL, or made by the app and inspected here."""

import re
import warnings
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, cast
from urllib.parse import unquote, urlsplit

from powauth import _forks
from powauth._extras import needs
from powauth._options import wrong_type
from powauth.backends.base import Mode
from powauth.errors import ConfigError, ConfigWarning

with needs("redis", "RedisBackend", "redis"):
    import redis
    import redis.asyncio
    import redis.asyncio.cluster
    import redis.asyncio.sentinel
    import redis.cluster
    import redis.sentinel
    from redis.asyncio.retry import Retry as AsyncRetry
    from redis.backoff import NoBackoff
    from redis.retry import Retry

NO_MASTER = (redis.sentinel.MasterNotFoundError, redis.asyncio.sentinel.MasterNotFoundError)
"""The errors of redis-py if no Sentinel names a master. No command was sent, so another attempt is safe. It can help:
redis-py reorders its list of Sentinels while other tasks iterate over it, so they may try a dead one twice and skip a
live one."""


MANY = 1 << 20
"""More connections than a process has threads."""


class Client(Protocol):
    """The part of redis-py's four kinds of client that powauth uses. Replies are values, or awaitables of them."""

    def execute_command(self, *args: object, **options: object) -> Any: ...


def inspect_client(client: object) -> tuple[Mode, bool]:
    """Return the mode of the app's client, and whether it is a cluster's.

    Raises:
        ConfigError: if it is not a client, decodes replies, or reads from replicas.
    """
    pool: Any = None
    asynchronous = isinstance(client, redis.asyncio.Redis | redis.asyncio.RedisCluster)
    clustered = isinstance(client, redis.cluster.RedisCluster | redis.asyncio.RedisCluster)
    if not (asynchronous or clustered or isinstance(client, redis.Redis)):
        raise wrong_type(
            "client",
            "a URL, a redis.Redis, redis.cluster.RedisCluster, redis.asyncio.Redis or redis.asyncio.RedisCluster",
            client,
        )
    known = cast("Any", client)
    if known.get_encoder().decode_responses:
        raise ConfigError("records are bytes: make the Redis client with decode_responses=False")
    if clustered:
        replicas = known.read_from_replicas or getattr(known, "load_balancing_strategy", None)
        if not asynchronous:
            # The client connected when it was made. Its nodes have its options.
            pool = known.get_default_node().redis_connection.connection_pool
    else:
        replicas = not getattr(known.connection_pool, "is_master", True)
        pool = known.connection_pool
    if replicas:
        raise ConfigError(
            "a replica may not know yet of a sign-out: make the client with Sentinel.master_for, or without "
            "read_from_replicas and load_balancing_strategy"
        )
    if not asynchronous and pool.connection_kwargs.get("socket_timeout") is None:
        warnings.warn(
            "the Redis client waits for ever on a server that hangs: make it with a socket_timeout",
            ConfigWarning,
            stacklevel=3,
        )
    return ("async" if asynchronous else "blocking"), clustered


def client_from_url(url: str, timeout: float, asynchronous: bool) -> tuple[Callable[[], Client], bool]:
    """Return a function that makes the client for a URL on first use, and whether it is a cluster's."""
    scheme, _, rest = url.partition(":")
    scheme = scheme.replace("valkey", "redis")
    if not rest.startswith("//"):
        raise ConfigError(f"the URL of the Redis backend misses slashes: did you mean {scheme}://?")
    url = f"{scheme}:{rest}"
    try:
        if scheme == "redis+sentinel":
            return _sentinel(_split(url), timeout, asynchronous), False
        if scheme == "redis+cluster":
            return _cluster(_split(url), timeout, asynchronous), True
        if scheme in {"redis", "rediss", "unix"}:
            return _single(url, timeout, asynchronous), False
    except ConfigError:
        raise
    except (ValueError, TypeError, AttributeError):
        # The original message may quote the URL, and so the password.
        raise ConfigError(
            f"the {scheme}:// URL of the Redis backend cannot be read: check host, port, database and options"
        ) from None
    raise ConfigError(
        "the URL of a Redis backend begins with redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://"
    )


def _options(timeout: float, asynchronous: bool) -> dict[str, Any]:
    """Return the options of powauth's own connections. No retries: only the caller knows what a lost reply means."""
    if asynchronous:
        # The backend bounds each command as a whole. redis-py would also bound sending, with a task per command
        # (asyncio's wait_for before Python 3.12), and the reply, with a second timer. This costs half as much as the
        # command.
        return {"socket_timeout": None, "socket_connect_timeout": timeout, "retry": AsyncRetry(NoBackoff(), 0)}
    # A thread uses one connection, so the number of threads bounds them. redis-py would refuse more than 100.
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "max_connections": MANY,
    }


def _single(url: str, timeout: float, asynchronous: bool) -> Callable[[], Client]:
    parts = urlsplit(url)
    if parts.scheme == "unix":
        if not parts.path:
            raise ValueError
    elif not parts.hostname or not re.fullmatch(r"/?\d*", parts.path) or parts.port == 0:
        raise ValueError
    kind: Any = redis.asyncio.Redis if asynchronous else redis.Redis

    def connect() -> Client:
        return cast("Client", kind.from_url(url, **_options(timeout, asynchronous)))

    # The constructor of a connection refuses unknown options, so make one here, without opening it.
    trial = cast("Any", connect())
    inspect_client(trial)
    trial.connection_pool.connection_class(**trial.connection_pool.connection_kwargs)
    return connect


class _Parts(NamedTuple):
    """The parts of a URL after its scheme."""

    hosts: str
    path: str
    options: str

    def __repr__(self) -> str:  # error reporters record what local variables look like
        return object.__repr__(self)


def _split(url: str) -> _Parts:
    """Split a URL that may name several hosts.

    In newer patch releases of each Python, `urlsplit` refuses an IPv6 address before another host.
    """
    parts = re.fullmatch(r"([^/?#]*)([^?#]*)(.*)", url.partition("://")[2], re.DOTALL)
    assert parts is not None  # noqa: S101 - it matches any text
    return _Parts(*parts.groups())


def _sentinel(url: _Parts, timeout: float, asynchronous: bool) -> Callable[[], Client]:
    service, _, database = url.path.removeprefix("/").partition("/")
    if not service or url.options:
        raise ConfigError(
            "a URL for Sentinel is redis+sentinel://[user:password@]host:port,host:port/service/db, without options"
        )
    credentials, addresses = _addresses(url, 26379)
    db = int(database) if database else 0
    kind: Any = redis.asyncio.sentinel.Sentinel if asynchronous else redis.sentinel.Sentinel

    def connect() -> Client:
        options = _options(timeout, asynchronous)
        asking = options | {"socket_timeout": timeout}
        sentinel = kind(addresses, sentinel_kwargs=asking, **options, **credentials)
        return cast("Client", sentinel.master_for(unquote(service), db=db))

    return connect


def _cluster(url: _Parts, timeout: float, asynchronous: bool) -> Callable[[], Client]:
    if url.path.strip("/") or url.options:
        raise ConfigError(
            "a URL for a cluster is redis+cluster://[user:password@]host:port,host:port, without database or options"
        )
    credentials, addresses = _addresses(url, 6379)

    module: Any = redis.asyncio.cluster if asynchronous else redis.cluster
    retry: Any = AsyncRetry if asynchronous else Retry

    def connect() -> Client:
        # A cluster's client learns a new topology when a command fails. The one retry then finds the new master. By
        # default it closes all connections at every fifth moved slot, which would fail the requests of others.
        options = _options(timeout, asynchronous) | {"retry": retry(NoBackoff(), 1), "reinitialize_steps": 0}
        nodes = [module.ClusterNode(*address) for address in addresses]
        return cast("Client", module.RedisCluster(startup_nodes=nodes, **options, **credentials))

    return connect


def _addresses(url: _Parts, default_port: int) -> tuple[dict[str, str], list[tuple[str, int]]]:
    """Return the credentials as options, and the hosts with their ports."""
    userinfo, _, hosts = url.hosts.rpartition("@")
    username, _, password = userinfo.partition(":")
    credentials = {"username": unquote(username), "password": unquote(password)}
    addresses = []
    for host in hosts.split(","):
        parts = urlsplit(f"//{host}")
        if not parts.hostname or parts.port == 0:
            raise ValueError
        addresses.append((parts.hostname, parts.port or default_port))
    return {name: value for name, value in credentials.items() if value}, addresses


def forget_connections(client: object) -> None:
    """Make the app's client connect again, in a forked child. Its present connections are the parent's.

    The pools of redis-py's synchronous clients do so themselves: they compare the process id at each command.
    """
    known: Any = client
    if isinstance(known, redis.cluster.RedisCluster):
        return
    if isinstance(known, redis.asyncio.RedisCluster):
        manager: Any = known.nodes_manager
        for node in (*manager.nodes_cache.values(), *manager.startup_nodes.values()):  # older releases hash no node
            _forks.keep(node._connections)
            node._connections, node._free = [], deque(maxlen=node.max_connections)
        return
    _forks.keep(known.connection)  # of a client with one connection
    known.connection = None
    if isinstance(known, redis.asyncio.Redis):
        for each in (known, *_sentinels(client)):
            pool: Any = each.connection_pool
            _forks.keep(dict(vars(pool)))
            pool.reset()


def _sentinels(client: object) -> list[Any]:
    """Return the clients through which a client asks Sentinels."""
    manager = getattr(getattr(client, "connection_pool", None), "sentinel_manager", None)
    return [] if manager is None else list(manager.sentinels)


async def close_client(client: Any, mode: Mode) -> None:
    """Close one of powauth's own clients, and the clients through which it asks Sentinels."""
    for each in (client, *_sentinels(client)):
        if mode == "async":
            await each.aclose()
        else:
            each.close()
