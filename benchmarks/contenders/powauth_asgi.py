"""powauth in front of a plain ASGI app, on each kind of backend."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from benchmarks.contenders.base import EMAIL, ASGIApp, Contender, Pair, Place, Scope
from benchmarks.contenders.plain import Headers, anyone, asgi_app
from benchmarks.contenders.powauth_users import PARAMS, SECRET, User, cheap_hasher, user_table
from powauth import SessionAuth
from powauth.backends.base import Backend
from powauth.backends.memory import MemoryBackend
from powauth.integrations.asgi import SessionAuthMiddleware, request_auth
from powauth.users.sqlalchemy import SQLAlchemyUsers

MakeBackend = Callable[[Place], Backend]


def _email_of(scope: Scope) -> str | None:
    user: User | None = scope["state"]["current_user"]
    return None if user is None else user.email


async def _sign_in(scope: Scope) -> Headers:
    assert await request_auth(scope).authenticate_user(PARAMS) is not None
    return []


def guarded(auth: SessionAuth[User], *, email_of: Callable[[Scope], str | None] = _email_of) -> ASGIApp:
    """The plain app behind powauth's middleware."""
    return SessionAuthMiddleware(asgi_app(email_of, _sign_in), auth)


def _open(
    make_backend: MakeBackend, email_of: Callable[[Scope], str | None] = _email_of
) -> Callable[[Place], AbstractAsyncContextManager[Pair]]:
    @asynccontextmanager
    async def open_pair(place: Place) -> AsyncIterator[Pair]:
        statements: list[str] = []
        with user_table(place.directory, statements) as engine:
            users = SQLAlchemyUsers(engine, User, hasher=cheap_hasher())
            backend = make_backend(place)
            try:
                auth = SessionAuth(secret_key=SECRET, users=users, backend=backend)
                yield Pair(guarded(auth, email_of=email_of), asgi_app(anyone), statements=statements)
            finally:
                await backend.close()

    return open_pair


def memory(_: Place) -> Backend:
    """In the process."""
    return MemoryBackend()


def lmdb(place: Place) -> Backend:
    """In files, with the durability that powauth gives them unasked."""
    from powauth.backends.lmdb import LMDBBackend

    return LMDBBackend(place.directory / "sessions")


def redis(place: Place) -> Backend:
    """On a server, through redis-py's asyncio client."""
    from powauth.backends.redis import RedisBackend

    return RedisBackend(place.redis_url, asynchronous=True)


def _public(scope: Scope) -> str:
    """A page that does not ask who is there."""
    del scope
    return EMAIL


CHECKS = "MAC, expiry, record and its salt, reuse of an old id; renews; ended anywhere, ended at once"
USER = "record with the user's snapshot"

CONTENDERS = (
    Contender("powauth-memory", "powauth, memory", "asgi", _open(memory), f"id; {USER} in the process", CHECKS),
    Contender(
        "powauth-memory-unread",
        "powauth, memory, user not read",
        "asgi",
        _open(memory, _public),
        f"id; {USER} in the process",
        f"{CHECKS}; the handler does not look at the user",
        guarded=False,
    ),
    Contender("powauth-lmdb", "powauth, LMDB", "asgi", _open(lmdb), f"id; {USER} in LMDB", CHECKS, needs=("lmdb",)),
    Contender(
        "powauth-redis", "powauth, Redis", "asgi", _open(redis), f"id; {USER} in Redis", CHECKS, ("redis",), redis=True
    ),
)
