"""A thief adds a passkey while the owner ends everything: no order of the steps leaves a passkey or a session."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from harness.authenticator import Authenticator
from harness.passkey_sites import ADA, MODELS, ORIGIN, PasskeyRow, PasskeySite
from harness.users_databases import OTHER_PASSWORD, PASSWORD, blocking_engine
from powauth import Extension, Hooks, Refused, Step
from powauth.accounts.changes import CLAIMED, CREATED
from powauth.backends.base import drive
from powauth.extensions.passkeys import Passkeys
from powauth.extensions.second_factor import SecondFactor


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    with blocking_engine("sqlite", str(tmp_path), *MODELS) as made:
        yield made


def factored(engine: sa.Engine, **options: Any) -> PasskeySite:
    """A site on which every user must have a passkey beside the password."""
    factor = Passkeys[Any](engine, PasskeyRow).factor()
    site = PasskeySite("wsgi", engine, [SecondFactor[Any](factor, required=True)], members=False, **options)
    drive(site.auth.create_account(email=ADA, password=PASSWORD))
    return site


@contextmanager
def before_insert(engine: sa.Engine, work: Callable[[], object]) -> Iterator[None]:
    """Do work once, right before a passkey is written."""
    waiting = [work]

    def look(connection: Any, cursor: Any, statement: str, *rest: object) -> None:
        if statement.startswith(f"INSERT INTO {PasskeyRow.__tablename__}") and waiting:
            waiting.pop()()

    sa.event.listen(engine, "before_cursor_execute", look)
    yield
    sa.event.remove(engine, "before_cursor_execute", look)
    assert not waiting, "no passkey was about to be written"


def removal(site: PasskeySite) -> None:
    drive(site.passkeys.remove_all(site.key()))


def revocation(site: PasskeySite) -> None:
    drive(site.auth.revoke_user(site.key()))


def claim(site: PasskeySite) -> None:
    drive(site.auth.accounts.change_account(site.key(), {"password": OTHER_PASSWORD}, why=CLAIMED))


def new_password(site: PasskeySite) -> None:
    drive(site.auth.update_account(site.key(), password=OTHER_PASSWORD))


ENDINGS = [removal, revocation, claim, new_password]


@pytest.mark.parametrize("end", ENDINGS, ids=lambda end: end.__name__)
def test_lif_07_a_session_that_ends_meanwhile_adds_no_passkey(
    engine: sa.Engine, end: Callable[[PasskeySite], None]
) -> None:
    site = PasskeySite("wsgi", engine)
    thief, key = site.program().sign_in(), Authenticator(ORIGIN)
    credential = key.create(thief.creation_options())
    with before_insert(engine, lambda: end(site)):
        answer = thief.post("/account/passkeys", action="add", credential=credential)
    assert site.rows() == []
    assert thief.who() is None
    assert site.program().use(key).status_code == 401
    assert answer.status_code == 401


class Between(Extension[Any]):
    """Does work once, between the end of what the extensions hold and the end of the sessions."""

    name = "between"

    def __init__(self) -> None:
        self.work: list[Callable[[], object]] = []

    async def credentials_changed(self, key: object, why: str) -> None:
        del key, why
        if self.work:
            self.work.pop()()


@pytest.mark.parametrize("why", [CLAIMED, CREATED])
def test_trm_03_a_session_adds_no_passkey_before_it_ends(engine: sa.Engine, why: str) -> None:
    between = Between()
    site = PasskeySite("wsgi", engine, [between])
    thief, key = site.program().sign_in(), Authenticator(ORIGIN)
    added: list[int] = []
    between.work.append(lambda: added.append(thief.add(key).status_code))
    drive(site.auth.credentials_changed(site.key(), why))
    assert added == [201]
    assert site.rows() == []
    assert thief.who() is None
    assert site.program().use(key).status_code == 401


@pytest.mark.parametrize("end", [revocation, claim, new_password], ids=lambda end: end.__name__)
def test_trm_03_a_sign_in_that_fails_leaves_no_passkey(engine: sa.Engine, end: Callable[[PasskeySite], None]) -> None:
    """A thief knows the password of a user who must have a factor, and turns on a passkey."""
    site = factored(engine)
    thief, key = site.program(), Authenticator(ORIGIN)
    assert thief.post("/login", email=ADA, password=PASSWORD).status_code == 401
    asked = thief.post("/login/factor", action="options").json()["options"]["passkey"]
    made = {"factor": "passkey", "credential": key.create(asked)}
    with before_insert(engine, lambda: end(site)):
        answer = thief.post("/login/factor", **made)
    if end is revocation:  # it ends sessions, and there was none
        assert (answer.status_code, thief.who()) == (200, ADA)
        return
    assert site.rows() == []
    assert thief.who() is None
    assert site.program().use(key).status_code == 401
    assert site.names()[-2:] == [("passkey_removed", None), ("passkey_refused", "unknown passkey")]


def test_a_sign_in_that_a_hook_refuses_leaves_no_passkey(engine: sa.Engine) -> None:
    def refuse(step: Step[Any]) -> None:
        if step.grant is not None and "mfa" in (step.grant.amr or {}):
            raise Refused("not today")

    site = factored(engine, hooks=Hooks(before_sign_in=refuse))
    browser = site.program()
    assert browser.post("/login", email=ADA, password=PASSWORD).status_code == 401
    asked = browser.post("/login/factor", action="options").json()["options"]["passkey"]
    answer = browser.post("/login/factor", factor="passkey", credential=Authenticator(ORIGIN).create(asked))
    assert (answer.status_code, answer.json()["error"]) == (403, "refused")
    assert site.rows() == []
