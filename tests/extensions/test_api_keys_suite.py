"""`ApiKeys` passes the suite for extensions: what survives a new password, and what ends the keys."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.pool import StaticPool

from harness.keys_support import ApiKey, ask
from harness.users_databases import Base
from powauth import Account, Extension, RequestAuth
from powauth.extensions.api_keys import ApiKeys
from powauth.testing import ExtensionConformance
from powauth.testing.extension import Auth

PASSWORD_CHANGES = ("a user's new password", "a user's new user id", "the app's new password", "the app's new user id")


class KeysSuite(ExtensionConformance):
    ends_with_password = False

    def make_extension(self) -> Extension[Any]:
        engine = sa.create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
        Base.metadata.create_all(engine, [ApiKey.__table__])  # type: ignore[list-item]
        return ApiKeys(engine, ApiKey, ends_with_password=self.ends_with_password)

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
