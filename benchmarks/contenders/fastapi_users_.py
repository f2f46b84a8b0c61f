"""fastapi-users with a cookie: tokens in the database or in Redis. It loads the user at each request."""

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any
from urllib.parse import urlencode

from benchmarks.contenders.base import EMAIL, PASSWORD, Contender, Login, Pair, Place
from benchmarks.contenders.powauth_fastapi import bare

LIFETIME_SECONDS = 1_800


def _open(*, on_redis: bool) -> Callable[[Place], AbstractAsyncContextManager[Pair]]:
    @asynccontextmanager
    async def open_pair(place: Place) -> AsyncIterator[Pair]:
        from fastapi import Depends, FastAPI
        from fastapi_users import BaseUserManager, FastAPIUsers, UUIDIDMixin, schemas
        from fastapi_users.authentication import AuthenticationBackend, CookieTransport, RedisStrategy
        from fastapi_users.authentication.strategy.db import DatabaseStrategy
        from fastapi_users.db import SQLAlchemyBaseUserTableUUID, SQLAlchemyUserDatabase
        from fastapi_users_db_sqlalchemy.access_token import (
            SQLAlchemyAccessTokenDatabase,
            SQLAlchemyBaseAccessTokenTableUUID,
        )
        from redis.asyncio import Redis
        from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
        from sqlalchemy.orm import DeclarativeBase

        from benchmarks.contenders.statements import noting

        class Base(DeclarativeBase): ...

        class User(SQLAlchemyBaseUserTableUUID, Base): ...

        class AccessToken(SQLAlchemyBaseAccessTokenTableUUID, Base): ...

        class UserManager(UUIDIDMixin, BaseUserManager[User, uuid.UUID]):
            reset_password_token_secret = "a secret of this contender"
            verification_token_secret = "another of its secrets"

        engine = create_async_engine(f"sqlite+aiosqlite:///{place.directory / 'app.sqlite3'}")
        noted = noting(engine)
        async with engine.begin() as connection:
            await connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            await connection.run_sync(Base.metadata.create_all)
        sessions = async_sessionmaker(engine, expire_on_commit=False)
        async with sessions() as session:
            manager = UserManager(SQLAlchemyUserDatabase(session, User))
            await manager.create(schemas.BaseUserCreate(email=EMAIL, password=PASSWORD))

        async def get_session() -> AsyncIterator[AsyncSession]:
            async with sessions() as session:
                yield session

        async def get_manager(session: Annotated[AsyncSession, Depends(get_session)]) -> AsyncIterator[UserManager]:
            yield UserManager(SQLAlchemyUserDatabase(session, User))

        def database_strategy(session: Annotated[AsyncSession, Depends(get_session)]) -> Any:
            tokens = SQLAlchemyAccessTokenDatabase(session, AccessToken)
            return DatabaseStrategy(tokens, lifetime_seconds=LIFETIME_SECONDS)

        client = Redis.from_url(place.redis_url or "redis://127.0.0.1:1", decode_responses=True)

        def redis_strategy() -> Any:
            return RedisStrategy(client, lifetime_seconds=LIFETIME_SECONDS)

        backend: Any = AuthenticationBackend(
            name="cookie",
            transport=CookieTransport(cookie_max_age=LIFETIME_SECONDS),
            get_strategy=redis_strategy if on_redis else database_strategy,
        )
        users: Any = FastAPIUsers[User, uuid.UUID](get_manager, [backend])
        app = FastAPI(openapi_url=None)
        app.include_router(users.get_auth_router(backend))

        @app.get("/me")
        async def me(user: Annotated[User, Depends(users.current_user(active=True))]) -> dict[str, str]:
            return {"email": user.email}

        body = urlencode({"username": EMAIL, "password": PASSWORD}).encode()
        try:
            yield Pair(app, bare(), Login(body=body), noted)
        finally:
            await client.aclose()
            await engine.dispose()

    return open_pair


def _row(name: str, title: str, where: str, *, on_redis: bool) -> Contender:
    return Contender(
        f"fastapi-users-{name}",
        title,
        "asgi",
        _open(on_redis=on_redis),
        f"a token in the cookie and in {where}; the user in the app's SQLite, loaded for each request",
        "that there is a token, its age, and that the user is active",
        ("fastapi_users", "fastapi_users_db_sqlalchemy", "aiosqlite", "redis"),
        redis=on_redis,
    )


CONTENDERS = (
    _row("sqlite", "fastapi-users, SQLite of the app", "the app's SQLite", on_redis=False),
    _row("redis", "fastapi-users, Redis", "Redis", on_redis=True),
)
