"""The cost of one round trip without authentication: a bare ``MGET`` of redis-py at each request."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.contenders.base import EMAIL, Contender, Pair, Place, Receive, Scope, Send
from benchmarks.contenders.plain import Headers, anyone, asgi_app

KEYS = (b"powauth:{bench}:r:record", b"powauth:{bench}:r:epoch")
VALUE_BYTES = 300


@asynccontextmanager
async def open_pair(place: Place) -> AsyncIterator[Pair]:
    """Open a pair. The value has about the length of a session with its user."""
    from redis.asyncio import Redis

    async with Redis.from_url(place.redis_url) as client:
        await client.set(KEYS[0], EMAIL.encode().ljust(VALUE_BYTES))

        async def sign_in(scope: Scope) -> Headers:
            del scope
            return [("set-cookie", "nobody=checks; Path=/")]

        inner = asgi_app(lambda scope: str(scope["state"]["email"]), sign_in)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            first, _ = await client.mget(KEYS)
            assert isinstance(first, bytes)
            scope["state"]["email"] = first.rstrip().decode()
            await inner(scope, receive, send)

        yield Pair(app, asgi_app(anyone))


CONTENDERS = (
    Contender(
        "redis-mget",
        "a bare MGET by redis-py's asyncio client",
        "asgi",
        open_pair,
        "nothing: a yardstick for what is on Redis",
        "nothing",
        ("redis",),
        redis=True,
        guarded=False,
    ),
)
