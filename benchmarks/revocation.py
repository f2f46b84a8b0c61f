"""The revocation of one user's very many sessions, while that user keeps signing in."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.load import bounded
from benchmarks.proxy import Proxy, proxy
from benchmarks.servers import PostgresServer, RedisServer, running
from benchmarks.site import People, Site, account_of
from powauth import CookieCarrier, SessionAuth
from powauth.backends.base import Backend
from powauth.backends.lmdb import LMDBBackend
from powauth.backends.redis import RedisBackend
from powauth.backends.sql import SQLBackend
from powauth.plug.options import DEFAULT_SESSION_KEY
from powauth.plug.reader import SESSION_PURPOSE
from powauth.plug.session_auth import PROOF_PURPOSE
from powauth.plug.subjects import Subjects
from powauth.sessions.ids import IdCodec
from powauth.sessions.record import Session, expires_at, new_session

SIGNING_IN = 20
"""The number of clients that repeatedly sign in as the user."""

USER = account_of("crowded")

TIMEOUT = timedelta(seconds=30)

SAMPLE = 200
"""The number of revoked sessions whose ids are presented afterwards. The store is asked about the others."""


@dataclass
class Revocation:
    """One row of the table.

    Attributes:
        ended: the number of ended sessions that the revocation returned.
        seconds: its duration.
        round_trips: the round trips to the engine; ``None`` if the engine is not on a network.
        survivors: live sessions after the revocation that were made, or whose sign-in was done, before it began.
            (A sign-in under way starts again. Its session then belongs to the time after the revocation.)
        sign_ins: the number of sign-ins that were done during it, and the seconds of the slowest.
        lost: sign-ins that began after it had returned, and whose session has ended.
    """

    engine: str
    ended: int = 0
    seconds: float = 0.0
    round_trips: int | None = None
    survivors: int = 0
    sign_ins: int = 0
    slowest: float = 0.0
    lost: int = 0


def new_sessions(auth: SessionAuth[Any, Any], count: int) -> list[Session]:
    """Return sessions of the user as a sign-in makes them. The store does not hold them yet."""
    mac = auth.keyring.mac(PROOF_PURPOSE, auth.store.namespace)
    subject, now = Subjects(People(), mac).subject(USER), auth.now()
    return [new_session(auth.store.owner(subject.user_key), subject, now, {}) for _ in range(count)]


async def revoke_under_sign_ins(
    engine: str, site: Site, revoker: Site, sessions: int, through: Proxy | None
) -> Revocation:
    """Make the sessions, revoke them all during sign-ins, and count the remaining ones."""
    found = Revocation(engine)
    auth = site.auth
    now = auth.now()
    made = new_sessions(auth, sessions)

    async def create(number: int) -> None:
        assert await auth.store.create(made[number], 0, expires_at(made[number], auth.policy), now)

    await bounded([create(number) for number in range(sessions)], 16)
    over = asyncio.Event()
    signed_in: list[tuple[float, float, str]] = []

    async def sign_in() -> None:
        while not over.is_set():
            begun = time.monotonic()
            answer = await site.ask(f"/login/{USER.identity.name}")
            assert answer.status == 200, answer
            assert answer.cookie
            signed_in.append((begun, time.monotonic(), answer.cookie))
            await asyncio.sleep(0.001)

    await revoker.auth.accounts.records.check_ready(USER.key)  # connects
    signers = [asyncio.create_task(sign_in()) for _ in range(SIGNING_IN)]
    await asyncio.sleep(0.3)
    before = 0 if through is None else through.round_trips
    begun = time.monotonic()
    found.ended = await revoker.auth.revoke_user(USER)
    returned = time.monotonic()
    found.round_trips = None if through is None else through.round_trips - before
    await asyncio.sleep(0.1)
    over.set()
    await asyncio.gather(*signers)

    found.seconds = returned - begun
    meanwhile = [end - start for start, end, _ in signed_in if end > begun and start < returned]
    found.sign_ins, found.slowest = len(meanwhile), max(meanwhile, default=0.0)
    alive = {stored.session.sid for stored in await auth.store.sessions(USER.identity.name, auth.now())}
    found.survivors = sum(session.sid in alive for session in made)
    ids = IdCodec(auth.keyring.mac(SESSION_PURPOSE, auth.store.namespace, CookieCarrier.kind, DEFAULT_SESSION_KEY))
    for session in made[: SAMPLE // 2] + made[-SAMPLE // 2 :]:
        answer = await site.ask("/private", ids.encode(session.sid, session.salt, session.generation))
        found.survivors += answer.status != 401
    for start, end, cookie in signed_in:
        served = (await site.ask("/private", cookie)).status == 200
        found.survivors += served and end < begun
        found.lost += not served and start > returned
    return found


@asynccontextmanager
async def redis_sites(folder: Path) -> AsyncIterator[tuple[Site, Site, Proxy | None]]:
    server = RedisServer(folder)
    with running(server):
        async with proxy(server.port) as through:
            urls = (server.url, f"redis://127.0.0.1:{through.port}/0")
            backends: list[Backend] = [RedisBackend(url, timeout=TIMEOUT, asynchronous=True) for url in urls]
            async with sites(*backends) as (direct, other):
                yield direct, other, through


@asynccontextmanager
async def postgres_sites(folder: Path) -> AsyncIterator[tuple[Site, Site, Proxy | None]]:
    server = await asyncio.to_thread(PostgresServer, folder)
    with running(server):
        async with proxy(server.port) as through:
            driver = "postgresql+asyncpg"
            made = [SQLBackend(server.url(driver, port), timeout=TIMEOUT) for port in (None, through.port)]
            await made[0].create_tables()
            async with sites(*made) as (direct, other):
                yield direct, other, through


@asynccontextmanager
async def sqlite_sites(folder: Path) -> AsyncIterator[tuple[Site, Site, Proxy | None]]:
    made = [SQLBackend(f"sqlite+aiosqlite:///{folder / 'sessions.db'}", timeout=TIMEOUT) for _ in range(2)]
    await made[0].create_tables()
    async with sites(*made) as (direct, other):
        yield direct, other, None


@asynccontextmanager
async def lmdb_sites(folder: Path) -> AsyncIterator[tuple[Site, Site, Proxy | None]]:
    async with sites(LMDBBackend(folder / "sessions"), LMDBBackend(folder / "sessions")) as (direct, other):
        yield direct, other, None


@asynccontextmanager
async def sites(*backends: Backend) -> AsyncIterator[tuple[Site, Site]]:
    """Yield two sites on two backends of one store, and close them at the end."""
    async with AsyncExitStack() as stack:
        for backend in backends:
            stack.push_async_callback(backend.close)
        one, two = (Site(backend) for backend in backends)
        yield one, two


ENGINES: dict[str, Callable[[Path], AbstractAsyncContextManager[tuple[Site, Site, Proxy | None]]]] = {
    "Redis": redis_sites,
    "PostgreSQL": postgres_sites,
    "LMDB": lmdb_sites,
    "SQLite": sqlite_sites,
}


async def revoke_on(engine: str, folder: Path, sessions: int) -> Revocation:
    """Return one row of the table, measured on a new engine."""
    async with ENGINES[engine](folder) as (direct, other, through):
        return await revoke_under_sign_ins(engine, direct, other, sessions, through)


HEAD = (
    "engine",
    "sessions",
    "ended",
    "took",
    "round trips",
    "alive of before",
    "sign-ins meanwhile",
    "slowest sign-in",
)


def row(found: Revocation, sessions: int) -> tuple[object, ...]:
    return (
        found.engine,
        sessions,
        found.ended,
        f"{found.seconds * 1000:.0f} ms",
        "none" if found.round_trips is None else found.round_trips,
        found.survivors,
        found.sign_ins,
        f"{found.slowest * 1000:.0f} ms",
    )
