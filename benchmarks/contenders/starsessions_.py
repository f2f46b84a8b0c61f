"""starsessions: a dict on the server, loaded at each request, in which the app stores the user."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from benchmarks.contenders.base import Contender, Pair, Place
from benchmarks.contenders.plain import anyone, asgi_app
from benchmarks.contenders.starlette_sessions import email_in_session, put_into_session

LIFETIME_SECONDS = 1_800


def _app(store: Any) -> Any:
    from starsessions import SessionAutoloadMiddleware, SessionMiddleware

    app = SessionAutoloadMiddleware(asgi_app(email_in_session, put_into_session))
    return SessionMiddleware(app, store=store, lifetime=LIFETIME_SECONDS)


@asynccontextmanager
async def _memory(place: Place) -> AsyncIterator[Pair]:
    del place
    from starsessions import InMemoryStore

    yield Pair(_app(InMemoryStore()), asgi_app(anyone))


@asynccontextmanager
async def _redis(place: Place) -> AsyncIterator[Pair]:
    from redis.asyncio import Redis
    from starsessions.stores.redis import RedisStore

    async with Redis.from_url(place.redis_url) as client:
        yield Pair(_app(RedisStore(connection=client)), asgi_app(anyone))


def _row(where: str, opens: Callable[[Place], AbstractAsyncContextManager[Pair]], *needs: str) -> Contender:
    return Contender(
        f"starsessions-{where.lower()}",
        f"starsessions, {where}",
        "asgi",
        opens,
        f"an id in the cookie; a dict in {'Redis' if needs else 'the process'}, of which the handler reads the address",
        "that there is a record; no user, no signature; writes the record with every response",
        ("starsessions", *needs),
        redis=bool(needs),
    )


CONTENDERS = (_row("memory", _memory), _row("Redis", _redis, "redis"))
