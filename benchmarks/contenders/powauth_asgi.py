"""powauth in front of a plain ASGI app, on each kind of backend."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

from benchmarks.contenders.base import EMAIL, Contender, Pair, Place, Scope
from benchmarks.contenders.plain import Headers, anyone, asgi_app
from benchmarks.contenders.powauth_users import (
    CHECKS,
    PARAMS,
    MakeBackend,
    User,
    guarded,
    keeps,
    lmdb,
    memory,
    redis,
    redis_near,
    sql,
)
from powauth.backends.base import Backend
from powauth.integrations.asgi import SessionAuthMiddleware, request_auth

EmailOf = Callable[[Scope], str | None]


def _email_of(scope: Scope) -> str | None:
    user: User | None = scope["state"]["current_user"]
    return None if user is None else user.email


def _public(scope: Scope) -> str:
    del scope
    return EMAIL


async def _sign_in(scope: Scope) -> Headers:
    assert await request_auth(scope).sign_in(PARAMS) is not None
    return []


async def _channel_stands(backend: Backend) -> None:
    """Let the event loop run. The near cache serves copies only while the server answers its heartbeat."""
    from powauth.backends.redis import RedisBackend

    assert isinstance(backend, RedisBackend)
    assert backend.near_cache is not None
    await asyncio.sleep(0.01)  # whatever is overdue has its turn
    while not backend.near_cache.up:
        await backend.get(b"credentials:nobody", 0)  # which has the channel made
        await asyncio.sleep(0.001)


Settle = Callable[[Backend], Awaitable[None]]


def _open(
    make_backend: MakeBackend,
    email_of: EmailOf = _email_of,
    *,
    asynchronous: bool = True,
    settle: Settle | None = None,
) -> Callable[[Place], AbstractAsyncContextManager[Pair]]:
    @asynccontextmanager
    async def open_pair(place: Place) -> AsyncIterator[Pair]:
        async with guarded(place, make_backend, asynchronous=asynchronous) as (auth, backend, noted, _):
            layered = SessionAuthMiddleware(asgi_app(email_of, _sign_in), auth)
            yield Pair(layered, asgi_app(anyone), noting=noted, settle=settle and partial(settle, backend))

    return open_pair


def _contenders(
    name: str,
    title: str,
    make_backend: MakeBackend,
    where: str,
    needs: tuple[str, ...] = (),
    settle: Settle | None = None,
) -> Iterator[Contender]:
    """Return two contenders: the handler of the first reads the current user, and that of the second does not."""
    for suffix, said, email_of in (("", "", _email_of), ("-unread", "; user not read", _public)):
        yield Contender(
            name + suffix,
            title + said,
            "asgi",
            _open(make_backend, email_of, settle=settle),
            keeps(where),
            CHECKS,
            needs,
            redis="redis" in needs,
            guarded=email_of is not _public,
        )


CONTENDERS = (
    *_contenders("powauth-memory", "powauth, memory", memory, "the process"),
    *_contenders("powauth-lmdb", "powauth, LMDB", lmdb, "files of the machine", ("lmdb",)),
    *_contenders("powauth-redis", "powauth, Redis", redis, "Redis", ("redis",)),
    *_contenders(
        "powauth-redis-near",
        "powauth, Redis with a near cache",
        redis_near,
        "Redis, and a copy in the process",
        ("redis",),
        settle=_channel_stands,
    ),
    Contender(
        "powauth-sqlite",
        "powauth, SQLite of the app",
        "asgi",
        _open(sql, asynchronous=False),  # its reads are made in place, which aiosqlite's are not
        keeps("the app's SQLite"),
        CHECKS,
    ),
)
