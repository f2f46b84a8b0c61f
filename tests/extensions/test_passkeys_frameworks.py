"""Passkeys under every framework, at the root and below a prefix."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from harness.authenticator import Authenticator
from harness.pages_support import EMAIL, MOUNTS, ORIGIN, PASSWORD, site
from harness.passkey_sites import PasskeyRow
from powauth.extensions.passkeys import Passkeys


@pytest.mark.parametrize("mount", ["", "/auth"])
@pytest.mark.parametrize("framework", MOUNTS)
def test_adding_a_passkey_and_signing_in(framework: str, mount: str, tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'users.sqlite3'}")
    PasskeyRow.metadata.create_all(engine, [PasskeyRow.__table__])  # type: ignore[list-item]
    options = {"public_url": ORIGIN + mount, "extensions": [Passkeys(engine, PasskeyRow)]}
    with site(framework, tmp_path, mount=mount, auth_options=options) as here:
        key, ada, browser = Authenticator(ORIGIN), here.program(), here.program()
        assert ada.post("/register", json={"email": EMAIL, "password": PASSWORD}).status_code == 201
        asked = ada.post("/account/passkeys", json={"action": "options"})
        made = {"action": "add", "credential": key.create(asked.json()["publicKey"])}
        assert ada.post("/account/passkeys", json=made).status_code == 201
        asked = browser.post("/login/passkey", json={"action": "options"})
        answer = browser.post("/login/passkey", json={"credential": key.get(asked.json()["publicKey"])})
        assert (answer.status_code, answer.json()["user"]["email"]) == (200, EMAIL)
        assert browser.get("/account").status_code == 200
        page = here.browser().get("/login")
        assert page.find("script", src=f"{mount}/powauth-passkeys.js")
        assert page.find("form", action=f"{mount}/login/passkey")
        script = here.browser().get("/powauth-passkeys.js")
        assert (script.status, script.header("content-type")) == (200, "text/javascript; charset=utf-8")
    engine.dispose()
