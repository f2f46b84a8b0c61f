"""powauth in front of a plain ASGI app, on each kind of backend."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

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
    sql,
)
from powauth.integrations.asgi import SessionAuthMiddleware, request_auth

EmailOf = Callable[[Scope], str | None]


def _email_of(scope: Scope) -> str | None:
    user: User | None = scope["state"]["current_user"]
    return None if user is None else user.email


def _public(scope: Scope) -> str:
    del scope
    return EMAIL


async def _sign_in(scope: Scope) -> Headers:
    assert await request_auth(scope).authenticate_user(PARAMS) is not None
    return []


def _open(
    make_backend: MakeBackend, email_of: EmailOf = _email_of, *, asynchronous: bool = True
) -> Callable[[Place], AbstractAsyncContextManager[Pair]]:
    @asynccontextmanager
    async def open_pair(place: Place) -> AsyncIterator[Pair]:
        async with guarded(place, make_backend, asynchronous=asynchronous) as (auth, statements):
            layered = SessionAuthMiddleware(asgi_app(email_of, _sign_in), auth)
            yield Pair(layered, asgi_app(anyone), statements=statements)

    return open_pair


CONTENDERS = (
    Contender("powauth-memory", "powauth, memory", "asgi", _open(memory), keeps("the process"), CHECKS),
    Contender(
        "powauth-memory-unread",
        "powauth, memory; user not read",
        "asgi",
        _open(memory, _public),
        keeps("the process"),
        CHECKS,
        guarded=False,
    ),
    Contender("powauth-lmdb", "powauth, LMDB", "asgi", _open(lmdb), keeps("files of the machine"), CHECKS, ("lmdb",)),
    Contender("powauth-redis", "powauth, Redis", "asgi", _open(redis), keeps("Redis"), CHECKS, ("redis",), redis=True),
    Contender(
        "powauth-sqlite",
        "powauth, SQLite of the app",
        "asgi",
        _open(sql),
        keeps("the app's SQLite"),
        CHECKS,
        ("aiosqlite",),
    ),
    Contender(
        "powauth-sqlite-engine",
        "powauth, SQLite of the app, by a plain Engine",
        "asgi",
        _open(sql, asynchronous=False),
        keeps("the app's SQLite"),
        CHECKS,
    ),
)
