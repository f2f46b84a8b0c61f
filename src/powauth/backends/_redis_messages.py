"""A parser of Redis's protocol, RESP3, for the one connection that listens.

Each release of redis-py reads a server's unasked messages in a different way, and some do not read them at all. So
redis-py makes the connection, because it knows TLS, credentials and Sentinel, and this module parses the data.
"""

from collections.abc import Iterator

import redis

_Ends = tuple[object, int]
"""A value and the position after it."""


class _IncompleteError(Exception):
    """The rest of the message has not arrived yet."""


class Messages:
    r"""Splits the bytes of a connection into messages.

    >>> messages = Messages()
    >>> list(messages.feed(b"+OK\r\n>2\r\n$10\r\ninvalidate\r\n*1\r\n$3\r\nk"))
    [b'OK']
    >>> list(messages.feed(b"ey\r\n:7\r\n"))
    [[b'invalidate', [b'key']], 7]
    """

    def __init__(self) -> None:
        self._bytes = b""

    def feed(self, data: bytes) -> Iterator[object]:
        """Yield each message that is complete: bytes, numbers, lists, dictionaries and ``None``.

        A push is a list. An attribute (metadata of the next value) is left out.

        Raises:
            redis.ResponseError: if a message is an error. The text is the server's.
            redis.InvalidResponse: if the bytes do not follow the protocol.
        """
        self._bytes += data
        start = 0
        try:
            while True:
                value, end = self._read(start)
                start = end
                if isinstance(value, redis.ResponseError):
                    raise value
                yield value
        except _IncompleteError:
            self._bytes = self._bytes[start:]

    def _read(self, start: int) -> _Ends:
        end = self._bytes.find(b"\r\n", start)
        if end < 0:
            raise _IncompleteError
        kind, text = self._bytes[start : start + 1], self._bytes[start + 1 : end]
        end += 2
        try:
            return self._value(kind, text, end)
        except (ValueError, TypeError):  # an invalid number, or a list as the name of an entry
            raise redis.InvalidResponse("not a message of Redis's protocol") from None

    def _value(self, kind: bytes, text: bytes, end: int) -> _Ends:
        if kind in {b"+", b"(", b","}:
            return text, end
        if kind == b":":
            return int(text), end
        if kind == b"#":
            return text == b"t", end
        if kind == b"_" or (kind in {b"$", b"*"} and text == b"-1"):
            return None, end
        if kind == b"-":
            return redis.ResponseError(text.decode(errors="replace")), end
        if kind in {b"$", b"=", b"!"}:
            return self._bulk(kind, int(text), end)
        if kind in {b"*", b">", b"~"}:
            return self._several(int(text), end)
        if kind == b"%":
            items, end = self._several(2 * int(text), end)
            return dict(zip(items[::2], items[1::2], strict=True)), end
        if kind == b"|":
            _, end = self._several(2 * int(text), end)
            return self._read(end)
        raise ValueError

    def _bulk(self, kind: bytes, size: int, start: int) -> _Ends:
        if size < 0:
            raise ValueError
        end = start + size
        if len(self._bytes) < end + 2:
            raise _IncompleteError
        text = self._bytes[start:end]
        return (redis.ResponseError(text.decode(errors="replace")) if kind == b"!" else text), end + 2

    def _several(self, count: int, end: int) -> tuple[list[object], int]:
        if count < 0:
            raise ValueError
        items: list[object] = []
        for _ in range(count):
            item, end = self._read(end)
            items.append(item)
        return items, end
