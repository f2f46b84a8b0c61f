"""Litestar, with its own session authentication and with powauth's plugin."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.contenders.base import EMAIL, Contender, Login, Pair, Place
from benchmarks.contenders.powauth_users import CHECKS, PARAMS, guarded, keeps, memory


@dataclass
class User:
    email: str


def _bare() -> Any:
    from litestar import Litestar, get

    @get("/me")
    async def me() -> dict[str, str]:
        return {"email": EMAIL}

    return Litestar([me], openapi_config=None)


def _own(store: Any) -> Any:
    from litestar import Litestar, Request, get, post
    from litestar.connection import ASGIConnection
    from litestar.middleware.session.server_side import ServerSideSessionBackend, ServerSideSessionConfig
    from litestar.security.session_auth import SessionAuth

    async def user_of(session: dict[str, Any], connection: ASGIConnection[Any, Any, Any, Any]) -> User | None:
        del connection
        return User(session["email"]) if "email" in session else None

    @get("/me")
    async def me(request: Request[User, Any, Any]) -> dict[str, str]:
        return {"email": request.user.email}

    @post("/login")
    async def login(request: Request[Any, Any, Any]) -> None:
        request.set_session({"email": EMAIL})

    auth = SessionAuth[User, ServerSideSessionBackend](
        retrieve_user_handler=user_of,
        session_backend_config=ServerSideSessionConfig(max_age=1_800, secure=True),
        exclude=["/login"],
    )
    return Litestar([me, login], on_app_init=[auth.on_app_init], stores={"sessions": store}, openapi_config=None)


@asynccontextmanager
async def _memory(place: Place) -> AsyncIterator[Pair]:
    del place
    from litestar.stores.memory import MemoryStore

    yield Pair(_own(MemoryStore()), _bare())


@asynccontextmanager
async def _redis(place: Place) -> AsyncIterator[Pair]:
    from litestar.stores.redis import RedisStore

    store = RedisStore.with_client(url=place.redis_url)
    async with store:
        yield Pair(_own(store), _bare())


@asynccontextmanager
async def _powauth(place: Place) -> AsyncIterator[Pair]:
    from litestar import Litestar, Request, get, post

    from powauth.integrations.litestar import CurrentRequestAuth, PowAuthPlugin, require_user

    @get("/me", guards=[require_user])
    async def me(request: Request[Any, Any, Any]) -> dict[str, str]:
        return {"email": request.user.email}

    @post("/login")
    async def login(request_auth: CurrentRequestAuth[Any, Any]) -> None:
        assert await request_auth.sign_in(PARAMS) is not None

    async with guarded(place, memory, asynchronous=True) as (auth, _, noted, _):
        app = Litestar([me, login], plugins=[PowAuthPlugin(auth)], openapi_config=None)
        yield Pair(app, _bare(), Login(), noted)


def _row(where: str, opens: Callable[[Place], AbstractAsyncContextManager[Pair]], *needs: str) -> Contender:
    return Contender(
        f"litestar-{where.lower()}",
        f"Litestar SessionAuth, {where}",
        "asgi",
        opens,
        f"an id in the cookie; a dict in {'Redis' if needs else 'the process'}, of which the user is made",
        "that there is a record; no signature; writes the record with every response",
        ("litestar", *needs),
        redis=bool(needs),
    )


CONTENDERS = (
    Contender(
        "powauth-litestar-memory",
        "powauth, memory, on Litestar",
        "asgi",
        _powauth,
        keeps("the process"),
        CHECKS,
        ("litestar",),
    ),
    _row("memory", _memory),
    _row("Redis", _redis, "redis"),
)
