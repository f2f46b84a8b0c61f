"""powauth on FastAPI: the middleware, and the user as a dependency."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any

from benchmarks.contenders.base import EMAIL, Contender, Login, Pair, Place
from benchmarks.contenders.powauth_users import CHECKS, PARAMS, MakeBackend, User, guarded, keeps, memory, redis, sql
from powauth import RequestAuth


def bare() -> Any:
    """Return FastAPI without a layer. All contenders on FastAPI are compared with it."""
    from fastapi import FastAPI

    app = FastAPI(openapi_url=None)

    @app.get("/me")
    async def me() -> dict[str, str]:
        return {"email": EMAIL}

    return app


def _open(
    make_backend: MakeBackend, *, asynchronous: bool, row: bool = False
) -> Callable[[Place], AbstractAsyncContextManager[Pair]]:
    @asynccontextmanager
    async def open_pair(place: Place) -> AsyncIterator[Pair]:
        from fastapi import Depends, FastAPI

        from powauth.integrations.fastapi import Auth, SessionAuthMiddleware, auth_dependency, request_auth

        async with guarded(place, make_backend, asynchronous=asynchronous) as guard:
            app = FastAPI(openapi_url=None)
            app.add_middleware(SessionAuthMiddleware, auth=guard.auth)
            current_user = Auth(guard.auth).row(_database(guard.engine)) if row else auth_dependency

            @app.get("/me")
            async def me(user: Annotated[User, Depends(current_user)]) -> dict[str, str]:
                return {"email": user.email}

            @app.post("/login")
            async def login(session: Annotated[RequestAuth[User, Any], Depends(request_auth)]) -> None:
                assert await session.sign_in(PARAMS) is not None

            yield Pair(app, bare(), Login(), guard.noting)

    return open_pair


def _database(engine: Any) -> Callable[[], AsyncIterator[Any]]:
    from sqlalchemy.ext.asyncio import async_sessionmaker

    sessions = async_sessionmaker(engine, expire_on_commit=False)

    async def get_db() -> AsyncIterator[Any]:
        async with sessions() as db:
            yield db

    return get_db


def _row(name: str, where: str, make_backend: MakeBackend, *needs: str, on_redis: bool = False) -> Contender:
    return Contender(
        f"powauth-fastapi-{name.lower().split()[0]}",
        f"powauth, {name}, on FastAPI",
        "asgi",
        _open(make_backend, asynchronous=make_backend is not sql),
        keeps(where),
        CHECKS,
        ("fastapi", *needs),
        redis=on_redis,
    )


CONTENDERS = (
    _row("memory", "the process", memory),
    Contender(
        "powauth-fastapi-memory-row",
        "powauth, memory, on FastAPI; the row read",
        "asgi",
        _open(memory, asynchronous=True, row=True),
        keeps("the process") + "; the row from the app's SQLite, by SQLAlchemy",
        CHECKS + "; the row's password hash, user id and active flag",
        ("fastapi", "aiosqlite"),
    ),
    _row("SQLite of the app", "the app's SQLite", sql),
    _row("Redis", "Redis", redis, "redis", on_redis=True),
)
