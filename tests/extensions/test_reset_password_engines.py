"""A reset on every engine, on an event loop, and in the suite for extensions."""

import asyncio
import logging
import re
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from harness.all_backends import ASYNC, LOCAL, SYNC, Stores, stores
from harness.pages_support import EMAIL, ORIGIN, PASSWORD, Base, User
from harness.reset_scenarios import NEW, WORDS
from harness.support import SECRET, MemoryUsers, cheap_hash
from powauth import Account, Event, Extension, SessionAuth
from powauth.accounts.passwords import PasswordHasher
from powauth.accounts.sqlalchemy import SQLAlchemyUsers
from powauth.backends.base import Backend, drive
from powauth.backends.memory import MemoryBackend
from powauth.extensions.reset_password import ResetPassword
from powauth.integrations.asgi import SessionAuthMiddleware
from powauth.pages.asgi import PagesApp
from powauth.testing import ExtensionConformance, MemoryMailer
from powauth.testing.extension import Auth

__all__ = ["stores"]

CODE = re.compile(r"/password/reset#([A-Za-z0-9_-]{72})")


def code_in(mailer: MemoryMailer) -> str:
    return str(CODE.findall(mailer.messages[-1].as_string().replace("=\n", ""))[-1])


# --- every engine -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [*LOCAL, *SYNC, *ASYNC])
def test_rst_03_of_20_parallel_resets_one_succeeds_on_every_engine(engine: str, tmp_path: Path, stores: Stores) -> None:
    with stores.store(engine, tmp_path) as backend, ThreadPoolExecutor(20) as pool:
        users, extension = MemoryUsers(), ResetPassword(MemoryMailer())
        user = users.add("ada@example.org")
        auth = SessionAuth(secret_key=SECRET, users=users, backend=backend, public_url=ORIGIN, extensions=[extension])
        bound = auth.extension(ResetPassword)
        token = drive(bound.tokens.issue(user.id, user.email))
        jobs = [pool.submit(lambda word=f"{NEW} {n}": drive(bound.reset(token, word, WORDS))) for n in range(20)]  # type: ignore[misc]
        results = [job.result() for job in jobs]
        (winner,) = [number for number, each in enumerate(results) if each is not None]
        assert users.rows[user.id].password_hash == cheap_hash(f"{NEW} {winner}")
        assert drive(bound.tokens.find(token)) is None
        drive(bound.aclose())


# --- an event loop ----------------------------------------------------------------------------------------------------


class Site:
    """A site on an event loop, with asynchronous users."""

    def __init__(
        self, folder: Path, backend: Backend, kind: type[SQLAlchemyUsers[User, Any]] = SQLAlchemyUsers
    ) -> None:
        self.engine = create_async_engine(f"sqlite+aiosqlite:///{folder / 'users.sqlite3'}")
        hasher = PasswordHasher(time_cost=1, memory_cost=8, cheap_and_unsafe=True)
        self.mailer, self.events = MemoryMailer(), list[Event]()
        self.auth: SessionAuth[User, Any] = SessionAuth(
            secret_key=SECRET,
            users=kind(self.engine, User, hasher=hasher),
            backend=backend,
            public_url=ORIGIN,
            extensions=[ResetPassword(self.mailer)],
            on_event=self.events.append,
            throttle=None,
        )
        app = SessionAuthMiddleware(PagesApp(self.auth), self.auth)
        headers = {"accept": "application/json"}
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=ORIGIN, headers=headers)

    async def start(self) -> None:
        async with self.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        made = await self.client.post("/register", json={"email": EMAIL, "password": PASSWORD})
        assert made.status_code == 201

    async def stop(self) -> None:
        await self.client.aclose()
        await self.auth.aclose()
        await self.engine.dispose()

    async def post(self, path: str, **fields: object) -> httpx.Response:
        return await self.client.post(path, json=fields)


def served(site: Site, scenario: Coroutine[Any, Any, None]) -> None:
    async def run() -> None:
        await site.start()
        try:
            await scenario
        finally:
            await site.stop()

    asyncio.run(run())


def test_a_reset_on_an_event_loop(tmp_path: Path) -> None:
    site = Site(tmp_path, MemoryBackend())

    async def scenario() -> None:
        for email in ("nobody@example.com", EMAIL):
            asked = await site.post("/password/forgot", email=email)
            assert (asked.status_code, asked.json()) == (202, {})
        await site.auth.aclose()
        assert [message["To"] for message in site.mailer.messages] == [EMAIL]
        token = code_in(site.mailer)
        sent = [site.post("/password/reset", token=token, password=f"{NEW} {number}") for number in range(20)]
        answers = await asyncio.gather(*sent)
        assert sorted(answer.status_code for answer in answers) == [204] + [422] * 19
        (winner,) = [number for number, answer in enumerate(answers) if answer.status_code == 204]
        assert (await site.client.get("/account")).status_code == 401
        assert (await site.post("/login", email=EMAIL, password=PASSWORD)).status_code == 401
        assert (await site.post("/login", email=EMAIL, password=f"{NEW} {winner}")).status_code == 200

    served(site, scenario())


def test_log_02_no_token_and_no_password_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("sqlalchemy.engine", "aiosqlite"):  # they log the parameters of statements, with hashes
        caplog.set_level(logging.WARNING, name)
    site = Site(tmp_path, MemoryBackend())
    secrets: list[str] = [NEW, PASSWORD]

    async def scenario() -> None:
        await site.post("/password/forgot", email=EMAIL)
        await site.auth.aclose()
        token = code_in(site.mailer)
        secrets.extend((token, token[24:]))
        for given in (token[:-2] + "AA", token, token):
            await site.post("/password/reset", token=given, password="short")
            await site.post("/password/reset", token=given, password=NEW)

    served(site, scenario())
    assert {event.name for event in site.events} >= {"token_issued", "token_used", "token_refused", "password_reset"}
    seen = caplog.text + repr(site.events) + repr(site.auth.extension(ResetPassword))
    assert "token_used" in seen
    assert [secret for secret in secrets if secret in seen] == []


def test_rst_01_the_answer_does_not_wait_for_the_look_up(tmp_path: Path) -> None:
    gate = asyncio.Event()

    class Slow(SQLAlchemyUsers[User, Any]):
        async def find(self, user_id: object) -> Account[Any] | None:
            await gate.wait()
            return await super().find(user_id)

    site = Site(tmp_path, MemoryBackend(), Slow)

    async def scenario() -> None:
        for email in (EMAIL, "nobody@example.com"):
            assert (await site.post("/password/forgot", email=email)).status_code == 202
        assert site.mailer.messages == []
        gate.set()
        await site.auth.aclose()
        assert len(site.mailer.messages) == 1

    served(site, scenario())


# --- the suite --------------------------------------------------------------------------------------------------------


class TestResetPassword(ExtensionConformance):
    def make_extension(self) -> Extension[Any]:
        return ResetPassword(MemoryMailer())

    def auth(self, backend: Backend, **options: Any) -> Auth:
        return super().auth(backend, **{"public_url": ORIGIN, **options})

    async def hold(self, auth: Auth, account: Account[Any]) -> object:
        return await auth.extension(ResetPassword).tokens.issue(account.key, account.identity.email)

    async def is_valid(self, auth: Auth, held: object) -> bool:
        return await auth.extension(ResetPassword).tokens.find(held) is not None

    async def use(self, auth: Auth, held: object) -> bool:
        return await auth.extension(ResetPassword).reset(held, NEW, WORDS) is not None
