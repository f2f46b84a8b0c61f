"""powauth on FastAPI: the middleware, and the user as a dependency."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any

from benchmarks.contenders.base import EMAIL, Contender, Login, Pair, Place
from benchmarks.contenders.powauth_users import (
    CHECKS,
    PARAMS,
    MakeBackend,
    User,
    create_user_table,
    guarded,
    keeps,
    memory,
    redis,
    sql,
)
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
    """Return a dependency of a database session: an `AsyncSession` for an `AsyncEngine`, else a `Session`.

    It is a coroutine in both cases. FastAPI would give a plain function a worker thread, which costs more than SQLite.
    """
    from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
    from sqlalchemy.orm import sessionmaker

    if isinstance(engine, AsyncEngine):
        asynchronous = async_sessionmaker(engine, expire_on_commit=False)

        async def get_async_db() -> AsyncIterator[Any]:
            async with asynchronous() as db:
                yield db

        return get_async_db
    blocking = sessionmaker(engine)

    async def get_db() -> AsyncIterator[Any]:
        with blocking() as db:
            yield db

    return get_db


@asynccontextmanager
async def _open_get(place: Place) -> AsyncIterator[Pair]:
    """Open FastAPI with a handler that only gets a row by its key, through an `AsyncSession`."""
    from fastapi import Depends, FastAPI, Response
    from sqlalchemy import select
    from sqlalchemy.ext.asyncio import create_async_engine

    from benchmarks.contenders.statements import noting

    engine = create_async_engine(f"sqlite+aiosqlite:///{create_user_table(place.directory)}")
    noted = noting(engine)
    get_db = _database(engine)
    async with engine.connect() as connection:
        key = (await connection.execute(select(User.id))).scalar_one()
    app = FastAPI(openapi_url=None)

    @app.get("/me")
    async def me(db: Annotated[Any, Depends(get_db)]) -> dict[str, str]:
        return {"email": (await db.get(User, key)).email}

    @app.post("/login")
    async def login(response: Response) -> None:
        response.set_cookie("session", "nobody looks at it")

    try:
        yield Pair(app, bare(), noting=noted)
    finally:
        await engine.dispose()


def _with_row(name: str, title: str, *, asynchronous: bool) -> Contender:
    return Contender(
        name,
        f"powauth, memory, on FastAPI; the row read through {title}",
        "asgi",
        _open(memory, asynchronous=asynchronous, row=True),
        keeps("the process") + "; the row from the app's SQLite, by SQLAlchemy",
        CHECKS + "; the row's password hash, user id and active flag",
        ("fastapi", "aiosqlite"),
    )


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
    _with_row("powauth-fastapi-memory-row", "an AsyncSession", asynchronous=True),
    _with_row("powauth-fastapi-memory-row-session", "a Session on the event loop", asynchronous=False),
    Contender(
        "sqlalchemy-get",
        "SQLAlchemy's get through an AsyncSession, on FastAPI",
        "asgi",
        _open_get,
        "nothing; the row from the app's SQLite, by its key",
        "nothing: no layer that reads the row through an AsyncSession can do less",
        ("fastapi", "aiosqlite"),
        guarded=False,
    ),
    _row("SQLite of the app", "the app's SQLite", sql),
    _row("Redis", "Redis", redis, "redis", on_redis=True),
)
