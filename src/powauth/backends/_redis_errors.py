"""Sentences for an operator that explain redis-py's errors.

The server's own words are repeated only for the codes of the tables below. Other messages may quote the arguments of a
command, which are keys and sessions.
"""

import re
import socket
import ssl
from typing import Final

from powauth._outages import Failure, one_line, unavailable
from powauth.backends._redis_clients import NO_MASTER
from powauth.errors import ConfigError, StoreUnavailable

# isort: split
# The modules above say what to install where redis-py is missing.
import redis
import redis.exceptions as errors

FAILURES: Final = (redis.RedisError, errors.RedisClusterException, OSError, EOFError)
"""Errors of the server, the network and redis-py. Any other error is a mistake in a program."""

_FULL = "is full: raise its maxmemory, or give sessions a server of their own"
_PERMISSION = "does not allow this user what powauth needs: docs/backends.md has the rules for an ACL"
_PASSWORD = "wants a password: write it into the URL, redis://:password@host"  # noqa: S105
_CREDENTIALS = "refused the user name or the password of its URL"
_REPLICA = "takes no writes: it is a replica; point powauth at the master, or use redis+sentinel://"
_LOADING = "is starting: it loads its data"
_INCOMPLETE = "is a cluster that is not complete: a slot has no master"
_CLUSTER = "is a cluster: write redis+cluster:// in the URL"
_SLOW = "did not answer within the time limit"
_UNREACHABLE = "cannot be reached: check that the server runs, and the host and port of its URL"
_NO_MASTER = "has no master that Sentinel names: check the service's name in the URL, and the Sentinels"
_NO_HOST = (
    "has a host name that cannot be resolved: check the URL, in which '@', '/', '#' and '?' of a password are written "
    "as %40, %2F, %23 and %3F"
)

_CLASSES: Final[tuple[tuple[type[Exception] | tuple[type[Exception], ...], str], ...]] = (
    (NO_MASTER, _NO_MASTER),
    (errors.BusyLoadingError, _LOADING),
    (errors.OutOfMemoryError, _FULL),
    (errors.NoPermissionError, _PERMISSION),
    (errors.ReadOnlyError, _REPLICA),
    ((errors.AskError, errors.ClusterCrossSlotError), _CLUSTER),
    (errors.TryAgainError, "is a cluster that moves this slot to another master"),
    (errors.MasterDownError, "is a replica that has lost its master"),
    ((errors.ClusterError, errors.RedisClusterException), _INCOMPLETE),
    ((redis.TimeoutError, TimeoutError), _SLOW),
)
"""Classes of redis-py whose messages are the server's own and name no key, or are not repeated."""

_WORDS: Final = (
    ("MISCONF", "takes no writes, because it cannot save its data to the disk"),
    ("NOREPLICAS", "takes no writes, because too few replicas are connected (min-replicas-to-write)"),
    ("max number of clients", "has no connection left: raise its maxclients"),
    ("DB index", "has no database of the number in the URL"),
    ("SELECT is not allowed", _CLUSTER),
    ("unknown command", "lacks a command that powauth needs: GET, MGET, SCAN, EVAL and EVALSHA must not be renamed"),
    ("without any password configured", "has no password, and the URL has one"),
    ("no password is set", "has no password, and the URL has one"),
)
"""Parts of other replies, and their meaning."""

_HOST: Final = re.compile(r"^Error -\d+ |Name or service|getaddrinfo|nodename nor servname")


def redis_unavailable(error: BaseException) -> StoreUnavailable:
    """Log the cause of a failure of Redis, and return the error to raise."""
    sentence, detail = _explain(error, str(error))
    return unavailable(Failure(f"Redis {sentence}", detail), error)


def check_loop(error: RuntimeError) -> None:
    """Raise `ConfigError` if the error says that the app's own client belongs to another event loop.

    Raises:
        ConfigError: if the error is about event loops.
    """
    if "loop" in str(error):
        raise ConfigError(
            "the Redis client was used on another event loop, and its connections work only there: make one client for "
            "each loop, or give RedisBackend a URL"
        ) from error


def _explain(error: BaseException, words: str) -> tuple[str, str]:
    """Return the sentence without its subject, and the words of server or driver if they hold no value."""
    found = next((sentence for kinds, sentence in _CLASSES if isinstance(error, kinds)), None)
    if found is not None:
        return found, "" if found in (_INCOMPLETE, _CLUSTER, _SLOW) else one_line(words)
    found = next((sentence for part, sentence in _WORDS if part in words), None)
    if found is not None:
        return found, one_line(words.partition(",")[0])  # an unknown command's arguments come after the comma
    if isinstance(error, errors.AuthenticationError):
        return (_CREDENTIALS if "invalid" in words else _PASSWORD), ""
    if isinstance(error, errors.ResponseError):
        return "refused a command", ""
    if isinstance(error.__context__, socket.gaierror) or isinstance(error, socket.gaierror) or _HOST.search(words):
        return _NO_HOST, ""  # if the URL was parsed wrongly, the host is a part of the password
    if isinstance(error, ssl.SSLError) or "SSL" in words or "CERTIFICATE" in words:
        return "and this process do not agree on TLS: check rediss:// and the certificates", one_line(words)
    if isinstance(error, OSError):
        return _UNREACHABLE, one_line(error.strerror or "")
    return (_UNREACHABLE, one_line(words)) if isinstance(error, redis.ConnectionError) else ("failed", "")
