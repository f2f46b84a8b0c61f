"""crudauth: sessions in memory or in Redis. It loads the user from the database at each request."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any
from urllib.parse import urlencode

from benchmarks.contenders.base import EMAIL, PASSWORD, Contender, Login, Pair, Place
from benchmarks.contenders.powauth_fastapi import bare
from benchmarks.subject import SESSIONS


def _open(*, on_redis: bool) -> Callable[[Place], AbstractAsyncContextManager[Pair]]:
    @asynccontextmanager
    async def open_pair(place: Place) -> AsyncIterator[Pair]:
        from crudauth import CRUDAuth, Principal, SessionTransport
        from crudauth.models import AuthUserMixin
        from crudauth.utils import get_password_hash
        from fastapi import Depends, FastAPI
        from redis.asyncio import Redis
        from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
        from sqlalchemy.orm import DeclarativeBase

        from benchmarks.contenders.statements import noting

        class Base(DeclarativeBase): ...

        class User(Base, AuthUserMixin):
            __tablename__ = "users"

        engine = create_async_engine(f"sqlite+aiosqlite:///{place.directory / 'app.sqlite3'}")
        noted = noting(engine)
        async with engine.begin() as connection:
            await connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            await connection.run_sync(Base.metadata.create_all)
        sessions = async_sessionmaker(engine, expire_on_commit=False)
        async with sessions() as session, session.begin():
            user: Any = User(email=EMAIL, username="ada", hashed_password=get_password_hash(PASSWORD))
            session.add(user)

        async def get_session() -> AsyncIterator[AsyncSession]:
            async with sessions() as session:
                yield session

        client = Redis.from_url(place.redis_url) if on_redis else None
        auth = CRUDAuth(
            session=get_session,
            user_model=User,
            SECRET_KEY="a secret of this contender, of over 32 bytes",
            transports=[SessionTransport(max_sessions_per_user=2 * SESSIONS)],
            redis_client=client,
            warn_on_memory_backend=False,
        )
        app = FastAPI(openapi_url=None)
        app.include_router(auth.router, prefix="/auth")

        @app.get("/me")
        async def me(principal: Annotated[Principal, Depends(auth.current_user())]) -> dict[str, str]:
            return {"email": principal.user.email}

        body = urlencode({"username": EMAIL, "password": PASSWORD}).encode()
        try:
            yield Pair(app, bare(), Login("/auth/login", body), noted)
        finally:
            if client is not None:
                await client.aclose()
            await engine.dispose()

    return open_pair


def _row(where: str, *needs: str) -> Contender:
    return Contender(
        f"crudauth-{where.lower()}",
        f"crudauth, {where}",
        "asgi",
        _open(on_redis=bool(needs)),
        f"an id in the cookie; a session in {'Redis' if needs else 'the process'}; the user in the app's SQLite, "
        "loaded for each request",
        "that there is a session, its age, the user's version; writes the time of the last activity at each request",
        ("crudauth", "fastapi", "aiosqlite", *needs),
        redis=bool(needs),
    )


CONTENDERS = (_row("memory"), _row("Redis", "redis"))
