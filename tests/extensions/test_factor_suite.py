"""The suite for extensions, on `SecondFactor`: what it holds for a user is a challenge."""

from typing import Any

from harness.factors import Words
from harness.support import FakeConnection
from powauth import Account, Extension
from powauth.accounts.grant import Grant
from powauth.extensions.second_factor import SecondFactor
from powauth.testing import ExtensionConformance
from powauth.testing.extension import Auth


class TestChallenges(ExtensionConformance):
    def make_extension(self) -> Extension[Any]:
        return SecondFactor(Words())

    async def hold(self, auth: Auth, account: Account[Any]) -> object:
        engine = auth.extension(SecondFactor)
        begun = await engine.challenges.begin(FakeConnection(), account, Grant(bearer=True, amr={"pwd": 1}))
        return begun.token

    async def is_valid(self, auth: Auth, held: object) -> bool:
        if held is None:
            return False
        return await auth.extension(SecondFactor).challenges.find(FakeConnection(), held) is not None

    async def use(self, auth: Auth, held: object) -> bool:
        challenges, request = auth.extension(SecondFactor).challenges, FakeConnection()
        found = None if held is None else await challenges.find(request, held)
        return found is not None and await challenges.take(request, found)
