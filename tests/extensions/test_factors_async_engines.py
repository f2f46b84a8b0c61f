"""All factors over an `AsyncEngine`: set up, sign-ins by each, and removal, on every asynchronous driver."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from harness.authenticator import Authenticator
from harness.authenticators import code_at
from harness.passkey_sites import ADA, ORIGIN, PasskeyRow, Person
from harness.support import SECRET, Clock
from harness.users_databases import ASYNC, PASSWORD, Base, cheap_hasher, run_async, table_name
from powauth import SessionAuth
from powauth.accounts.sqlalchemy import SQLAlchemyUsers
from powauth.backends.memory import MemoryBackend
from powauth.extensions.passkeys import Passkeys
from powauth.extensions.second_factor import RecoveryCodeMixin, RecoveryCodes, SecondFactor, Totp, TotpMixin
from powauth.integrations.asgi import SessionAuthMiddleware
from powauth.pages.asgi import PagesApp


class AppRow(TotpMixin, Base):
    __tablename__ = table_name()


class CodeRow(RecoveryCodeMixin, Base):
    __tablename__ = table_name()


MODELS: list[Any] = [Person, PasskeyRow, AppRow, CodeRow]


class Flow:
    """A site with all factors, and what its user holds."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.clock = Clock()
        users: SQLAlchemyUsers[Person, Any] = SQLAlchemyUsers(engine, Person, hasher=cheap_hasher())
        passkeys: Passkeys[Any] = Passkeys(engine, PasskeyRow)
        factors = SecondFactor[Any](passkeys.factor(), Totp(engine, AppRow), RecoveryCodes(engine, CodeRow))
        self.auth: SessionAuth[Person, Any] = SessionAuth(
            secret_key=SECRET,
            users=users,
            backend=MemoryBackend(),
            clock=self.clock,
            public_url=ORIGIN,
            extensions=[passkeys, factors],
        )
        self.transport = httpx.ASGITransport(SessionAuthMiddleware(PagesApp(self.auth), self.auth))
        self.device = Authenticator(ORIGIN)
        self.secret = ""

    @asynccontextmanager
    async def program(self) -> AsyncIterator[httpx.AsyncClient]:
        headers = {"accept": "application/json"}
        async with httpx.AsyncClient(transport=self.transport, base_url=ORIGIN, headers=headers) as client:
            yield client

    def code(self) -> str:
        self.clock.advance(60)
        return code_at(self.secret, self.clock())

    async def sign_in(self, client: httpx.AsyncClient, offered: list[str], **answer: Any) -> None:
        asked = await client.post("/login", json={"email": ADA, "password": PASSWORD})
        assert (asked.status_code, asked.json().get("factors")) == (401, offered), asked.text
        if answer["factor"] == "passkey":
            shown = await client.get("/login/factor")
            answer["credential"] = self.device.get(shown.json()["options"]["passkey"])
        done = await client.post("/login/factor", json=answer)
        assert done.status_code == 200, done.text
        assert (await client.get("/account")).json()["user"]["email"] == ADA
        again = await client.post("/login/factor", json=answer)
        assert again.status_code == 403


async def listed(client: httpx.AsyncClient) -> dict[str, dict[str, Any]]:
    found = await client.get("/account/factors")
    assert found.status_code == 200
    return {each["factor"]: each for each in found.json()["factors"]}


async def all_factors(flow: Flow) -> None:
    async with flow.program() as ada, flow.program() as elsewhere:
        assert (await ada.post("/register", json={"email": ADA, "password": PASSWORD})).status_code == 201
        signed_in = await elsewhere.post("/login", json={"email": ADA, "password": PASSWORD})
        assert signed_in.status_code == 200
        begun = await ada.post("/account/factors/totp", json={"action": "begin"})
        flow.secret = begun.json()["secret"]
        wrong = await ada.post("/account/factors/totp", json={"action": "confirm", "code": "000000"})
        assert wrong.status_code == 422
        on = await ada.post("/account/factors/totp", json={"action": "confirm", "code": flow.code(), "label": "Phone"})
        assert on.status_code == 201, on.text
        assert (await elsewhere.get("/account")).status_code == 401, "the first factor ends older sessions"
        await flow.sign_in(elsewhere, ["totp"], factor="totp", code=flow.code())
        codes = (await ada.post("/account/factors/recovery", json={})).json()["codes"]
        await flow.sign_in(elsewhere, ["totp", "recovery_code"], factor="recovery_code", code=codes[0])
        assert (await listed(elsewhere))["recovery_code"]["left"] == 9
        asked = await elsewhere.post("/account/passkeys", json={"action": "options"})
        made = {"action": "add", "credential": flow.device.create(asked.json()["publicKey"]), "label": "Laptop"}
        assert (await elsewhere.post("/account/passkeys", json=made)).status_code == 201
    async with flow.program() as ada, flow.program() as elsewhere:
        await flow.sign_in(elsewhere, ["passkey", "totp", "recovery_code"], factor="passkey")
        asked = await ada.post("/login/passkey", json={"action": "options"})
        signed = await ada.post("/login/passkey", json={"credential": flow.device.get(asked.json()["publicKey"])})
        assert signed.status_code == 200, signed.text
        own = await listed(ada)
        assert {name: each["label"] for name, each in own.items() if name != "recovery_code"} == {
            "passkey": "Laptop",
            "totp": "Phone",
        }
        assert own["passkey"]["last_used_at"] is not None
        for name, left in (("passkey", {"totp", "recovery_code"}), ("totp", set())):
            gone = await ada.post("/account/factors", json={"action": "remove", "factor": name, "id": own[name]["id"]})
            assert gone.status_code == 204, gone.text
            assert (await listed(ada)).keys() == left, "codes go with the last factor"
        assert (await elsewhere.get("/account")).status_code == 401
        alone = await elsewhere.post("/login", json={"email": ADA, "password": PASSWORD})
        assert alone.status_code == 200
    factors = flow.auth.extension(SecondFactor)
    account = await flow.auth.users.find(ADA)
    assert account is not None
    assert await factors.reset(account) == 0
    assert await factors.factor(Totp).adopt(account, "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP")
    assert await factors.factor(Totp).reseal() == 0
    assert await factors.reset(account) == 1


@pytest.mark.parametrize("driver", ASYNC)
def test_the_whole_flow_of_all_factors_over_an_asynchronous_engine(driver: str, tmp_path: Path) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        flow = Flow(engine)
        await all_factors(flow)
        await flow.auth.aclose()

    run_async(driver, str(tmp_path), MODELS, scenario)
