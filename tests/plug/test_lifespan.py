"""The lifespan of an app: what powauth opened is closed at its end, and opened again when it is used again.

Named after REP-17: tests enter an app a second time.
"""

import asyncio
from pathlib import Path

import pytest

from harness.support import SECRET, FakeConnection, Me, MemoryUsers, User, account_of
from powauth import CredentialsCache, SessionAuth
from powauth.backends import backend_from_url
from powauth.backends.base import Backend, Millis, drive
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


# A change whose client has hung up


class SlowBackend(MemoryBackend):
    """Its ends of sessions wait for ``gate``."""

    mode = "async"

    def __init__(self) -> None:
        super().__init__()
        self.reached, self.gate = asyncio.Event(), asyncio.Event()

    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        self.reached.set()
        await self.gate.wait()
        return await super().delete_owner(owner, now, keep)


class LateLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock a test sets forward."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


async def hung_up(auth: SessionAuth[User, Me], backend: SlowBackend) -> str:
    """Change the password of a user with a session, and cancel the change where it ends the session. Return the id."""
    cookie = await sign_in(auth)
    assert isinstance(auth.users, MemoryUsers)
    (key,) = auth.users.rows
    changing = asyncio.ensure_future(auth.accounts.update_account(key, {"password": "eleven grey geese"}))
    await backend.reached.wait()
    changing.cancel()
    await asyncio.wait([changing])
    assert changing.cancelled()
    return cookie


async def several_turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_aclose_waits_for_a_change_whose_client_has_hung_up() -> None:
    async def run() -> None:
        backend, users = SlowBackend(), ClosingUsers()
        auth = an_auth(backend, users)
        cookie = await hung_up(auth, backend)
        closing = asyncio.ensure_future(auth.aclose())
        await several_turns()
        assert (closing.done(), users.closed) == (False, 0)
        backend.gate.set()
        await closing
        assert users.closed == 1
        assert await backend.count("credentials", auth.now()) == 0
        assert await who(auth, cookie) is None

    asyncio.run(run())


def test_aclose_gives_up_after_ten_seconds_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        backend, users = SlowBackend(), ClosingUsers()
        auth = an_auth(backend, users)
        await hung_up(auth, backend)
        closing = asyncio.ensure_future(auth.aclose())
        await several_turns()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LateLoop)
        loop.ahead = 9.5
        await several_turns()
        assert users.closed == 0
        loop.ahead = 10.5
        await closing
        assert users.closed == 1
        assert "a call has not ended 10 seconds after the app began to close" in caplog.text
        backend.gate.set()
        await auth.aclose()

    with asyncio.Runner(loop_factory=LateLoop) as runner:
        runner.run(run())


def test_another_event_loop_has_no_calls_to_wait_for() -> None:
    async def run() -> None:
        backend, users = SlowBackend(), ClosingUsers()
        auth = an_auth(backend, users)
        await hung_up(auth, backend)
        await asyncio.to_thread(asyncio.run, auth.aclose())
        assert users.closed == 1
        backend.gate.set()
        await auth.aclose()

    asyncio.run(run())
