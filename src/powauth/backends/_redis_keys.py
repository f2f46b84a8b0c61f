"""The keys and values of `powauth.backends.redis`. Its docstring describes them."""

from functools import lru_cache

from powauth.backends._redis_scripts import BODY, HEADER, MARKS, RECORD
from powauth.backends.base import Millis, Record, check_namespace

NAMESPACES = 1024
"""The most namespaces whose check is cached. An app has a few, or one for each tenant."""


@lru_cache(maxsize=NAMESPACES)
def head(prefix: str, namespace: bytes) -> bytes:
    """Return the beginning of all keys of a namespace, up to the shard."""
    # Check again before the engine: a namespace with a brace could name another slot, or another record.
    check_namespace(namespace.decode(errors="replace"))
    return b"%b:{%b." % (prefix.encode(), namespace)


class Place:
    """The keys of one shard of one namespace."""

    __slots__ = ("base", "namespace")

    def __init__(self, prefix: str, namespace: bytes, shard: bytes) -> None:
        self.namespace = namespace
        self.base = b"%b%b}:" % (head(prefix, namespace), shard.hex().encode())

    @property
    def records(self) -> bytes:
        return self.base + b"r:"

    @property
    def indexes(self) -> bytes:
        return self.base + b"o:"

    @property
    def epochs(self) -> bytes:
        return self.base + b"e:"


def unpack(key: bytes, packed: object, now: Millis) -> Record | None:
    """Return the live record in a value; ``None`` if there is none or powauth did not write it."""
    if not isinstance(packed, bytes) or len(packed) < BODY or not packed.startswith(RECORD):
        return None
    version, created_at, expires_at, size = HEADER.unpack_from(packed, MARKS)
    end = BODY + size
    if expires_at <= now or len(packed) < end:
        return None
    owner = b"%b:%b" % (key.partition(b":")[0], packed[BODY:end])
    return Record(key, owner, version, created_at, expires_at, packed[end:])
