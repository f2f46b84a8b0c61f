"""Passkeys on every database and every store, on an event loop, and in the suite for extensions."""

import asyncio
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from harness.all_backends import ASYNC as ASYNC_STORES
from harness.all_backends import LOCAL, SYNC, Stores, stores
from harness.authenticator import Authenticator
from harness.fixtures import NewEngine
from harness.passkey_sites import ADA, MODELS, ORIGIN, PasskeyRow, PasskeySite, Person, device
from harness.support import SECRET, FakeConnection, MemoryUsers
from harness.users_databases import ASYNC, BLOCKING, PASSWORD, blocking_engine, cheap_hasher, run_async
from powauth import Account, Extension, SessionAuth
from powauth.accounts.sqlalchemy import SQLAlchemyUsers
from powauth.backends.base import Backend, drive
from powauth.backends.memory import MemoryBackend
from powauth.extensions.passkeys import Passkeys
from powauth.extensions.passkeys.answers import MAX_CREDENTIAL_ID_BYTES, CeremonyFailed, registration_in
from powauth.extensions.passkeys.ceremonies import NewCredential, RelyingParty, Use
from powauth.extensions.passkeys.table import PasskeyTable
from powauth.integrations.asgi import SessionAuthMiddleware
from powauth.pages.asgi import PagesApp
from powauth.testing import ExtensionConformance
from powauth.testing.extension import Auth

__all__ = ["stores"]

PARTY = RelyingParty(ORIGIN, "Account", timeout=1000)
NOW = datetime(2026, 11, 29, 8, 0, 0, 123456, tzinfo=UTC)
KEYS: list[Any] = [7, 2**63 - 1, "7", "Ann", "ann", "ann ", "\u00e4" * 127, "x" * 255, uuid.UUID(int=7)]


def credential(name: bytes, count: int = 0) -> NewCredential:
    return NewCredential(
        credential_id=name,
        public_key=bytes(range(256)) * 4,
        sign_count=count,
        backed_up=False,
        transports=("hybrid", "smart-card"),
    )


async def whole_table(table: PasskeyTable) -> None:
    """Everything that the table does."""
    handle, longest = bytes(range(32)), bytes([255]) * MAX_CREDENTIAL_ID_BYTES
    for place, key in enumerate(KEYS):
        name = b"\0\xff" + bytes([place])
        added = await table.add(key, NOW, handle, credential(name), "\U0001f511 Laptop", NOW)
        assert added is not None
        assert await table.find(name) == added
        assert await table.of_user(key) == [added]
        assert added.key == key
        assert (added.user_created_at, added.created_at, added.last_used_at) == (NOW, NOW, None)
    for similar in (b"\0\xff", b"\0\xff\0\0", b"\0\xff\0 ", b""):
        assert await table.find(similar) is None
    assert await table.add(8, None, handle, credential(b"\0\xff\0"), "Twice", NOW) is None
    assert await table.of_user(8) == []
    last = await table.add(7, None, handle, credential(longest, 2**32 - 1), "Longest", NOW + timedelta(seconds=1))
    assert last is not None
    assert last.user_created_at is None
    assert [each.label for each in await table.of_user(7)] == ["\U0001f511 Laptop", "Longest"]
    # A counter never falls, whatever order uses come in.
    first = (await table.of_user(7))[0]
    for count in (5, 9, 3):
        assert await table.used(first, Use(count, backed_up=True), NOW)
    found = await table.find(first.credential_id)
    assert found is not None
    assert (found.sign_count, found.backed_up, found.last_used_at) == (9, True, NOW)
    # Names belong to one user.
    assert not await table.rename("7", first.id, "stolen")
    assert await table.rename(7, first.id, "Desk")
    assert await table.remove("7", first.id, keep_one=False) is None
    assert (await table.remove(7, first.id, keep_one=True)) is not None
    assert await table.remove(7, last.id, keep_one=True) is None
    assert [each.label for each in await table.of_user(7)] == ["Longest"]
    assert await table.remove(7, last.id, keep_one=False) is not None
    assert not await table.used(last, Use(1, backed_up=False), NOW)
    assert await table.remove_all(7) == 0
    assert await table.remove_all("ann") == 1
    assert len(await table.of_user("Ann")) == len(await table.of_user("ann ")) == 1


@pytest.mark.parametrize("driver", BLOCKING)
def test_the_table_on_every_database(driver: str, tmp_path: Path) -> None:
    with blocking_engine(driver, str(tmp_path), PasskeyRow) as engine:
        drive(whole_table(PasskeyTable(engine, PasskeyRow)))


@pytest.mark.parametrize("driver", ASYNC)
def test_the_table_over_an_asynchronous_engine(driver: str, tmp_path: Path) -> None:
    run_async(driver, str(tmp_path), [PasskeyRow], lambda engine: whole_table(PasskeyTable(engine, PasskeyRow)))


@pytest.mark.parametrize("driver", BLOCKING)
def test_of_parallel_removals_of_all_passkeys_one_passkey_stays(driver: str, tmp_path: Path) -> None:
    with blocking_engine(driver, str(tmp_path), PasskeyRow) as engine, ThreadPoolExecutor(8) as pool:
        table = PasskeyTable(engine, PasskeyRow)
        for number in range(8):
            drive(table.add(1, None, bytes(32), credential(bytes([number])), "x", NOW))
        names = [each.id for each in drive(table.of_user(1))]
        jobs = [pool.submit(lambda name=name: drive(table.remove(1, name, keep_one=True))) for name in names]  # type: ignore[misc]
        removed = [job.result() for job in jobs]
        assert [each is None for each in removed].count(True) == 1
        assert len(drive(table.of_user(1))) == 1


@pytest.mark.parametrize("driver", BLOCKING)
def test_of_parallel_registrations_of_one_id_one_wins(driver: str, tmp_path: Path) -> None:
    with blocking_engine(driver, str(tmp_path), PasskeyRow) as engine, ThreadPoolExecutor(8) as pool:
        table = PasskeyTable(engine, PasskeyRow)
        jobs = [
            pool.submit(lambda key=key: drive(table.add(key, None, bytes(32), credential(b"one"), "x", NOW)))  # type: ignore[misc]
            for key in range(8)
        ]
        added = [job.result() for job in jobs]
        assert [each is None for each in added].count(False) == 1


@pytest.mark.parametrize("driver", BLOCKING)
def test_a_site_on_every_database(driver: str, tmp_path: Path) -> None:
    with blocking_engine(driver, str(tmp_path), *MODELS) as engine:
        site = PasskeySite("wsgi", engine)
        key = device(site)
        browser = site.program()
        assert browser.use(key).json()["user"]["email"] == ADA
        assert [each["label"] for each in browser.passkeys()] == ["Firefox on Linux"]
        drive(site.auth.delete_account(site.key()))
        assert site.rows() == []


@pytest.mark.parametrize("driver", ASYNC)
def test_a_site_over_an_asynchronous_engine(driver: str, tmp_path: Path) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        users: SQLAlchemyUsers[Person, Any] = SQLAlchemyUsers(engine, Person, hasher=cheap_hasher())
        auth: SessionAuth[Person, Any] = SessionAuth(
            secret_key=SECRET,
            users=users,
            backend=MemoryBackend(),
            public_url=ORIGIN,
            extensions=[Passkeys(engine, PasskeyRow)],
        )
        transport = httpx.ASGITransport(SessionAuthMiddleware(PagesApp(auth), auth))
        headers = {"accept": "application/json"}
        key = Authenticator(ORIGIN)
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=headers) as ada:
            assert (await ada.post("/register", json={"email": ADA, "password": PASSWORD})).status_code == 201
            asked = await ada.post("/account/passkeys", json={"action": "options"})
            made = {"action": "add", "credential": key.create(asked.json()["publicKey"])}
            assert (await ada.post("/account/passkeys", json=made)).status_code == 201
        async with httpx.AsyncClient(transport=transport, base_url=ORIGIN, headers=headers) as browser:
            asked = await browser.post("/login/passkey", json={"action": "options"})
            answer = {"credential": key.get(asked.json()["publicKey"])}
            sent = await asyncio.gather(*(browser.post("/login/passkey", json=answer) for _ in range(20)))
            assert sorted(each.status_code for each in sent) == [200] + [401] * 19
        await auth.aclose()

    run_async(driver, str(tmp_path), [Person, PasskeyRow], scenario)


async def stored(extension: Passkeys[Any], key: Authenticator, user_key: Any) -> None:
    """Make a passkey of a user in an authenticator, and store it, without a session."""
    options = await extension.registration.begin(FakeConnection(), user_key, "x")
    new = PARTY.check_registration(registration_in(key.create(options)))
    handle = key.passkeys[0].user_handle
    assert await extension.table.add(user_key, None, handle, new, "x", NOW) is not None


# --- every store ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", [*LOCAL, *SYNC, *ASYNC_STORES])
def test_of_20_parallel_answers_to_one_challenge_one_succeeds_on_every_store(
    store: str, tmp_path: Path, stores: Stores
) -> None:
    with (
        blocking_engine("sqlite", str(tmp_path), PasskeyRow) as engine,
        stores.store(store, tmp_path) as backend,
        ThreadPoolExecutor(20) as pool,
    ):
        users = MemoryUsers()
        user = users.add(ADA)
        auth = SessionAuth(
            secret_key=SECRET,
            users=users,
            backend=backend,
            public_url=ORIGIN,
            extensions=[Passkeys(engine, PasskeyRow)],
        )
        flows, key = auth.extension(Passkeys).authentication, Authenticator(ORIGIN)
        drive(stored(auth.extension(Passkeys), key, user.id))
        request = FakeConnection()
        answer = key.get(drive(flows.ask(request, None)))
        cookie = cookie_of(auth, request)

        def prove() -> bool | None:
            try:
                drive(flows.prove(FakeConnection([cookie]), answer, None))
            except CeremonyFailed as error:
                return None if error.reason == "challenge" else False
            return True

        results = [job.result() for job in [pool.submit(prove) for _ in range(20)]]
        assert (results.count(True), results.count(None)) == (1, 19)


def cookie_of(auth: SessionAuth[Any, Any], request: FakeConnection) -> str:
    """The cookie of the challenge that a response sets."""
    effects = drive(auth.respond(request))
    [cookie] = [each for each in effects.cookies if "_passkeys=" in each]
    return cookie.partition(";")[0]


# --- the suite --------------------------------------------------------------------------------------------------------


class _Suite(ExtensionConformance):
    @pytest.fixture(autouse=True)
    def _engines(self, new_engine: NewEngine) -> None:
        self.new_engine = new_engine

    def make_extension(self) -> Extension[Any]:
        return Passkeys(self.new_engine(PasskeyRow), PasskeyRow)

    def auth(self, backend: Backend, **options: Any) -> Auth:
        return super().auth(backend, **{"public_url": ORIGIN, **options})


class TestChallenges(_Suite):
    """What a user is asked ends with every change of the account."""

    async def hold(self, auth: Auth, account: Account[Any]) -> object:
        request = FakeConnection()
        challenge = await auth.extension(Passkeys).registration.challenges.issue(
            request, "register", account.key, bytes(32)
        )
        effects = await auth.respond(request)
        return challenge, effects.cookies[0].partition(";")[0]

    async def is_valid(self, auth: Auth, held: object) -> bool:
        challenge, cookie = held if isinstance(held, tuple) else (held, "x=y")
        request = FakeConnection([cookie])
        return await auth.extension(Passkeys).registration.challenges.find(request, challenge, "register") is not None

    async def use(self, auth: Auth, held: object) -> bool:
        challenge = held[0] if isinstance(held, tuple) else held
        return await auth.extension(Passkeys).registration.challenges.take(challenge, "register")


class TestPasskeys(_Suite):
    """A passkey survives every change but the end of its user. A locked user cannot use it."""

    survives = (
        "a user's new password",
        "a user's new user id",
        "a user's sign-out everywhere",
        "the app's new password",
        "the app's new user id",
        "a revocation",
        "the app's own reason",
        "a change elsewhere",
    )

    async def hold(self, auth: Auth, account: Account[Any]) -> object:
        key = Authenticator(ORIGIN)
        await stored(auth.extension(Passkeys), key, account.key)
        return key

    async def is_valid(self, auth: Auth, held: object) -> bool:
        flows, request = auth.extension(Passkeys).authentication, FakeConnection()
        options = await flows.ask(request, None)
        cookie = (await auth.respond(request)).cookies[0].partition(";")[0]
        answer = held.get(options) if isinstance(held, Authenticator) else held
        try:
            await flows.prove(FakeConnection([cookie]), answer, None)
        except CeremonyFailed:
            return False
        return True

    def test_it_serves_two_authenticators(self) -> None:
        """A passkey belongs to a user, as the password does. So it is valid at each authenticator of the users."""

        async def scenario(auth: Auth, backend: Backend) -> None:
            given = self.make_extension()
            options = {"extensions": [given], "users": auth.users, "secret_key": auth.keyring}
            site = self.auth(backend, session_key="site", **options)
            admin = self.auth(backend, session_key="admin", **options)
            held = await self.hold(site, await self.person(auth))
            assert await self.is_valid(site, held)
            assert await self.is_valid(admin, held)

        self.run(scenario)
