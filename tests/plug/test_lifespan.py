"""The lifespan of an app: what powauth opened is closed at its end, and opened again when it is used again.

Named after REP-17: tests enter an app a second time.
"""

import asyncio
from pathlib import Path

import pytest

from harness.support import SECRET, FakeConnection, Me, MemoryUsers, User, account_of
from powauth import CredentialsCache, SessionAuth
from powauth.backends import backend_from_url
from powauth.backends.base import Backend, drive
from powauth.backends.memory import MemoryBackend
from powauth.backends.sql import SQLBackend


class ClosingUsers(MemoryUsers):
    """Counts how often it was closed."""

    closed = 0

    async def close(self) -> None:
        self.closed += 1


class ClosingBackend(MemoryBackend):
    """Counts how often it was closed."""

    closed = 0

    async def close(self) -> None:
        self.closed += 1
        await super().close()


def an_auth(given: Backend | CredentialsCache | str, users: MemoryUsers | None = None) -> SessionAuth[User, Me]:
    store = given if isinstance(given, CredentialsCache) else CredentialsCache(given)
    return SessionAuth(secret_key=SECRET, users=users or ClosingUsers(), store=store)


async def sign_in(auth: SessionAuth[User, Me]) -> str:
    """Sign a user in, and return the id."""
    user = MemoryUsers().add("ada@example.org")
    assert isinstance(auth.users, MemoryUsers)
    auth.users.rows[user.id] = user
    connection = FakeConnection()
    assert await auth.do_create(connection, account_of(user)) is not None
    (cookie,) = (await auth.respond(connection)).cookies
    return cookie.partition(";")[0]


async def who(auth: SessionAuth[User, Me], cookie: str) -> str | None:
    identity = await auth.fetch(FakeConnection([cookie]))
    return None if identity is None else identity.email


@pytest.fixture(params=["lmdb", "sqlite", "sqlite+aiosqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a backend that is ready to be used."""
    if request.param == "lmdb":
        return f"lmdb://{tmp_path}/sessions"
    path = tmp_path / "sessions.sqlite3"
    backend = backend_from_url(f"sqlite:///{path}")
    assert isinstance(backend, SQLBackend)
    drive(backend.create_tables())
    drive(backend.close())
    return f"{request.param}:///{path}"


def test_rep_17_the_lifespan_can_be_entered_again(url: str) -> None:
    users = ClosingUsers()
    auth = an_auth(url, users)
    cookie = ""

    async def enter(times: int) -> None:
        nonlocal cookie
        for _ in range(times):
            closed = users.closed
            async with auth.lifespan("an app"):
                cookie = cookie or await sign_in(auth)
                assert await who(auth, cookie) == "ada@example.org"
            assert users.closed == closed + 1

    asyncio.run(enter(2))
    asyncio.run(enter(1))  # on another event loop


def test_rep_17_the_lifespan_can_be_entered_after_aclose(url: str) -> None:
    auth = an_auth(url)

    async def run() -> None:
        cookie = await sign_in(auth)
        for _ in range(2):
            await auth.aclose()
            assert await who(auth, cookie) == "ada@example.org"
            async with auth.lifespan():
                assert await who(auth, cookie) == "ada@example.org"

    asyncio.run(run())


@pytest.mark.parametrize("within", [False, True], ids=["a backend", "a store"])
def test_rep_17_what_the_app_gave_stays_open(within: bool) -> None:
    backend = ClosingBackend()
    given: Backend | CredentialsCache = CredentialsCache(backend) if within else backend
    auth = an_auth(given)

    async def run() -> None:
        async with auth.lifespan():
            cookie = await sign_in(auth)
        await auth.aclose()
        assert await who(auth, cookie) == "ada@example.org"

    asyncio.run(run())
    assert backend.closed == 0


def test_rep_17_what_another_authenticator_opened_is_closed_by_either() -> None:
    """A store of one URL may serve two authenticators. Each of them closes it, and each opens it again."""
    store = CredentialsCache("memory://")
    shop, admin = an_auth(store), an_auth(store)

    async def run() -> None:
        cookie = await sign_in(shop)
        await admin.aclose()
        assert await who(shop, cookie) is None  # this process's memory was the store
        cookie = await sign_in(shop)
        assert await who(shop, cookie) == "ada@example.org"

    asyncio.run(run())


def test_an_app_that_fails_in_its_lifespan_closes_too() -> None:
    users = ClosingUsers()
    auth = an_auth("memory://", users)

    async def run() -> None:
        async with auth.lifespan():
            raise RuntimeError("the port is taken")

    with pytest.raises(RuntimeError, match="the port is taken"):
        asyncio.run(run())
    assert users.closed == 1


def test_a_plain_program_closes_without_an_event_loop(url: str) -> None:
    auth = an_auth(url)
    cookie = drive(sign_in(auth))
    drive(auth.aclose())
    assert drive(who(auth, cookie)) == "ada@example.org"
    drive(auth.aclose())
