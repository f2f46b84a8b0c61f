"""`ApiKeys` passes the suite for extensions: what survives a new password, and what ends the keys."""

from typing import Any

import pytest

from harness.fixtures import NewEngine
from harness.keys_support import ApiKey, ask
from powauth import Account, Extension, RequestAuth
from powauth.extensions.api_keys import ApiKeys
from powauth.testing import ExtensionConformance
from powauth.testing.extension import Auth

PASSWORD_CHANGES = ("a user's new password", "a user's new user id", "the app's new password", "the app's new user id")


class KeysSuite(ExtensionConformance):
    ends_with_password = False

    @pytest.fixture(autouse=True)
    def _engines(self, new_engine: NewEngine) -> None:
        self.new_engine = new_engine

    def make_extension(self) -> Extension[Any]:
        return ApiKeys(self.new_engine(ApiKey), ApiKey, ends_with_password=self.ends_with_password)

    async def hold(self, auth: Auth, account: Account[Any]) -> object:
        bound = RequestAuth(auth, ask())
        assert await bound.sign_in_user(account) is not None
        return (await auth.extension(ApiKeys).create(bound, "a program")).key

    async def is_valid(self, auth: Auth, held: object) -> bool:
        connection = ask(str(held))
        await auth.call(connection)
        return auth.current_identity(connection) is not None


class TestByDefault(KeysSuite):
    """Keys survive a new password and a new user id, and nothing else."""

    survives = (*PASSWORD_CHANGES, "a change elsewhere")


class TestThatEndWithThePassword(KeysSuite):
    """Nothing survives."""

    ends_with_password = True
