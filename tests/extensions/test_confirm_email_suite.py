"""The suite for extensions, on both kinds of links of `ConfirmEmail`."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from harness.confirming import Base, Member, link_in
from harness.pages_support import ORIGIN
from harness.users_databases import cheap_hasher
from powauth import Account, Extension, InvalidParams, UsersContext
from powauth.accounts.sqlalchemy import SQLAlchemyUsers
from powauth.backends.base import Backend
from powauth.extensions.confirm_email import ConfirmEmail
from powauth.testing import ExtensionConformance, MemoryMailer
from powauth.testing.extension import Auth

SWANS = "twelve white swans"


class Links(ExtensionConformance):
    """An app with `ConfirmEmail` and users in a file."""

    survives = ("a user's new user id",)  # it waits for its confirmation, so nothing has changed yet

    @pytest.fixture(autouse=True)
    def folder(self) -> Iterator[None]:
        self.mailer, self.engines = MemoryMailer(), list[sa.Engine]()
        with tempfile.TemporaryDirectory() as folder:
            self.path = Path(folder)
            yield
            for engine in self.engines:
                engine.dispose()

    def make_extension(self) -> Extension[Any]:
        return ConfirmEmail(self.mailer, password="at_registration")

    def make_users(self) -> UsersContext[Any, Any]:
        engine = sa.create_engine(f"sqlite:///{self.path / f'{len(self.engines)}.sqlite3'}")
        self.engines.append(engine)
        Base.metadata.create_all(engine)
        return SQLAlchemyUsers(engine, Member, hasher=cheap_hasher())

    def auth(self, backend: Backend, **options: Any) -> Auth:
        return super().auth(backend, **{"public_url": ORIGIN, **options})

    async def token(self, auth: Auth, address: str) -> str:
        """The token in the newest mail to an address."""
        await auth.extension(ConfirmEmail).aclose()
        return link_in([each for each in self.mailer.messages if each["To"] == address][-1]).token


class TestConfirmations(Links):
    async def hold(self, auth: Auth, account: Account[Any]) -> object:
        await auth.extension(ConfirmEmail).addresses.send(account.key, None)
        return await self.token(auth, account.identity.email)

    async def is_valid(self, auth: Auth, held: object) -> bool:
        return await auth.extension(ConfirmEmail).addresses.asked(held) is not None

    async def use(self, auth: Auth, held: object) -> bool:
        addresses = auth.extension(ConfirmEmail).addresses
        found = await addresses.asked(held)
        if found is None or found[1] is None:
            return False
        try:
            await addresses.confirm(held, found[1], SWANS)
        except InvalidParams:
            return False
        return True


class TestChanges(Links):
    async def hold(self, auth: Auth, account: Account[Any]) -> object:
        address = f"new.{account.identity.email}"
        await auth.extension(ConfirmEmail).addresses.begin_change(account.key, address)
        return await self.token(auth, address)

    async def is_valid(self, auth: Auth, held: object) -> bool:
        return await auth.extension(ConfirmEmail).addresses.change(held) is not None

    async def use(self, auth: Auth, held: object) -> bool:
        addresses = auth.extension(ConfirmEmail).addresses
        found = await addresses.change(held)
        if found is None:
            return False
        try:
            await addresses.complete_change(held, *found)
        except InvalidParams:
            return False
        return True
