"""`ConfirmEmail` on every users' database: what is written, compared, and refused there."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from harness.confirming import NEW, OTHER_PASSWORD, link_in
from harness.pages_support import EMAIL, ORIGIN, PASSWORD
from harness.support import SECRET, Clock
from harness.users_databases import ASYNC, BLOCKING, Base, blocking_engine, cheap_hasher, run_async, table_name
from powauth import InvalidParams, SessionAuth
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.extensions.confirm_email import ConfirmEmail, ConfirmEmailMixin
from powauth.testing import MemoryMailer

SWANS = "twelve white swans"


class Member(ConfirmEmailMixin, UserMixin, Base):
    __tablename__ = table_name()


class App:
    """An app on an engine."""

    def __init__(self, engine: sa.Engine | AsyncEngine) -> None:
        self.mailer, self.clock = MemoryMailer(), Clock()
        self.auth: SessionAuth[Member, Any] = SessionAuth(
            secret_key=SECRET,
            users=SQLAlchemyUsers(engine, Member, hasher=cheap_hasher()),
            backend=MemoryBackend(),
            extensions=[ConfirmEmail(self.mailer, password="at_registration")],
            public_url=ORIGIN,
            clock=self.clock,
        )
        self.users = self.auth.accounts.users
        self.addresses = self.auth.extension(ConfirmEmail).addresses

    async def token(self, address: str) -> str:
        await self.auth.extension(ConfirmEmail).aclose()
        return link_in([each for each in self.mailer.messages if each["To"] == address][-1]).token

    async def unconfirmed(self) -> tuple[Any, str]:
        """A new user, and the token that confirms the address."""
        account = await self.users.create({"email": EMAIL, "password": PASSWORD})
        await self.addresses.send(account.key, None)
        return account.key, await self.token(EMAIL)


async def life(app: App) -> None:
    """A user confirms, changes, cannot change to an address that is taken meanwhile, and undoes the change."""
    addresses = app.addresses
    key, token = await app.unconfirmed()
    found = await addresses.asked(token)
    assert found is not None
    assert found[1] is not None
    await addresses.confirm(token, found[1], OTHER_PASSWORD)
    state = await addresses.state(key)
    assert state is not None
    assert state.confirmed_at == datetime.fromtimestamp(app.clock.now, UTC)
    assert await addresses.asked(token) is None
    assert await app.users.authenticate({"email": EMAIL, "password": OTHER_PASSWORD}) is not None

    await app.users.create({"email": "ann@example.com", "password": PASSWORD})
    await addresses.begin_change(key, "ben@example.com")
    blocked = await addresses.change(await app.token("ben@example.com"))
    assert blocked is not None
    await app.users.create({"email": "ben@example.com", "password": PASSWORD})
    with pytest.raises(InvalidParams, match="token"):
        await addresses.complete_change(await app.token("ben@example.com"), *blocked)

    await addresses.begin_change(key, NEW)
    token = await app.token(NEW)
    change = await addresses.change(token)
    assert change is not None
    changed = await addresses.complete_change(token, *change)
    assert changed.identity.email == NEW
    assert await app.users.find(EMAIL) is None
    undo = link_in([each for each in app.mailer.messages if each["To"] == EMAIL][-2]).token
    back = await addresses.undo(undo)
    assert back is not None
    await addresses.complete_undo(undo, back[0], SWANS)
    state = await addresses.state(key)
    assert state is not None
    assert (state.address, state.pending) == (EMAIL, None)
    assert await app.users.authenticate({"email": EMAIL, "password": SWANS}) is not None
    assert await addresses.undo(undo) is None
    await app.users.close()


@pytest.mark.parametrize("driver", BLOCKING)
def test_the_life_of_an_address_for_threads(driver: str, tmp_path: Path) -> None:
    with blocking_engine(driver, str(tmp_path), Member) as engine:
        drive(life(App(engine)))


@pytest.mark.parametrize("driver", ASYNC)
def test_the_life_of_an_address_on_an_event_loop(driver: str, tmp_path: Path) -> None:
    run_async(driver, str(tmp_path), [Member], lambda engine: life(App(engine)))


@pytest.mark.parametrize("driver", BLOCKING)
def test_of_20_parallel_confirmations_one_wins(driver: str, tmp_path: Path) -> None:
    with blocking_engine(driver, str(tmp_path), Member) as engine:
        app = App(engine)
        key, token = drive(app.unconfirmed())

        def confirm(number: int) -> bool:
            found = drive(app.addresses.asked(token))
            if found is None or found[1] is None:
                return False
            try:
                drive(app.addresses.confirm(token, found[1], f"{SWANS} {number}"))
            except InvalidParams:
                return False
            return True

        with ThreadPoolExecutor(20) as pool:
            won = list(pool.map(confirm, range(20)))
        assert sum(won) == 1
        password = f"{SWANS} {won.index(True)}"
        assert drive(app.users.authenticate({"email": EMAIL, "password": password})) is not None
        assert drive(app.addresses.state(key)) is not None
        drive(app.users.close())
