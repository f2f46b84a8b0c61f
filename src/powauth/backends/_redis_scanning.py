"""The administrator's scan of `powauth.backends.redis`: its steps through the keys, and its cursors."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from powauth.backends._redis_keys import Place, unpack
from powauth.backends.base import Millis, Record

SCAN_COUNT = 100
"""The least number of keys that one step examines. The namespace may own few of a shared server's keys."""


class Scanner:
    """Goes through the records of a namespace.

    Args:
        prefix: the beginning of all keys.
        clustered: whether the client is a cluster's.
        send: sends a command and returns the reply.
        opened: returns the client.
    """

    def __init__(
        self,
        prefix: str,
        send: Callable[..., Coroutine[Any, Any, Any]],
        opened: Callable[[], Any],
        *,
        clustered: bool,
    ) -> None:
        self._prefix = prefix
        self._clustered = clustered
        self._send = send
        self._open = opened

    async def step(
        self, namespace: str, node: str, position: int, count: int
    ) -> tuple[str, int | None, Sequence[bytes]]:
        """Send one ``SCAN``. Return the next node and position (``None`` at the end), and the identifiers found."""
        # Each '?' stands for one byte of the shard. The brace after them ends it, so no other namespace matches.
        command = ("SCAN", position, "MATCH", f"{self._prefix}:{{{namespace}.????}}:r:*", "COUNT", count)
        successor = ""
        if self._clustered:
            masters = await self._masters()
            names = sorted(masters)
            if node not in masters:
                node, command = names[0], ("SCAN", 0, *command[2:])
            following = [name for name in names if name > node]
            successor = following[0] if following else ""
            reply = await self._send(*command, target_nodes=masters[node])
            reply = only(reply)
        else:
            reply = await self._send(*command)
        after, keys = int(only(reply[0])), reply[1]
        start = len(f"{self._prefix}:{{{namespace}.????}}:r:")
        found = [key[start:] for key in keys]
        if after:
            return node, after, found
        return (successor, 0, found) if successor else (node, None, found)

    async def _masters(self) -> dict[str, Any]:
        """Return the masters of the cluster by name."""
        # A new client learns them with its first command.
        await self._send("PING", target_nodes="random")
        return {master.name: master for master in self._open().get_primaries()}

    async def fetch(self, namespace: str, identifiers: Sequence[bytes], now: Millis) -> Sequence[Record]:
        if not identifiers:
            return []
        name = namespace.encode()
        keys = [Place(self._prefix, name, each[:2]).records + each for each in identifiers]
        values = await self._send("MGET", *keys)
        found = (unpack(b"%b:%b" % (name, each), value, now) for each, value in zip(identifiers, values, strict=True))
        return [record for record in found if record is not None]


def only(reply: Any) -> Any:
    """Return the reply itself, or the only value of a cluster's mapping from node to reply."""
    return next(iter(reply.values())) if isinstance(reply, dict) else reply


def format_cursor(node: str, position: int | None, waiting: Iterable[bytes]) -> str:
    encoded = ",".join(urlsafe_b64encode(each).decode() for each in waiting)
    return f"{'' if position is None else position}|{node}|{encoded}"


def parse_cursor(cursor: str | None) -> tuple[str, int | None, list[bytes]]:
    if cursor is None:
        return "", 0, []
    try:
        position, node, encoded = cursor.split("|")
        waiting = [urlsafe_b64decode(each) for each in encoded.split(",") if each]
        return node, int(position) if position else None, waiting
    except ValueError:
        raise ValueError("not a cursor of this scan") from None
