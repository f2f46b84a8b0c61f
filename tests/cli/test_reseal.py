"""``powauth reseal``: after a rotation, the stored secrets of an app are sealed with the newest one."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from powauth.cli import Status, main

APP = """
import os

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase

from powauth import Extension, SessionAuth
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.extensions.second_factor import RecoveryCodeMixin, RecoveryCodes, SecondFactor, Totp, TotpMixin


class Base(DeclarativeBase): ...
class User(UserMixin, Base): __tablename__ = "users"
class Authenticator(TotpMixin, Base): __tablename__ = "authenticators"
class Code(RecoveryCodeMixin, Base): __tablename__ = "recovery_codes"


class Vault(Extension):
    name = "vault"

    async def reseal(self, told=None):
        for so_far in (1, 2):
            told(so_far)
        return 2


def make(*secrets, waits=False, extensions=None):
    url = "sqlite+aiosqlite:///app.sqlite3" if waits else "sqlite:///app.sqlite3"
    engine = (create_async_engine if waits else sa.create_engine)(url, poolclass=sa.pool.NullPool)
    users = SQLAlchemyUsers(engine, User)
    if extensions is None:
        extensions = [SecondFactor(Totp(engine, Authenticator), RecoveryCodes(engine, Code))]
    return SessionAuth(secret_key=secrets, users=users, backend=MemoryBackend(), extensions=extensions)


OLD, NEW = "h7Qw2xKd0ZrT5vYb9LmNc3PsJf8Ge1Ua", "Xk4Vt8Bq1Rz6Wd3Hn0Ys7Mf2Lj5Pc9Eg"
def old(): return make(OLD)
def both(): return make(NEW, OLD)
def both_async(): return make(NEW, OLD, waits=True)
def new(): return make(NEW)
def several(): return make(NEW, extensions=[Vault(), Vault2()])
def plain(): return make(NEW, extensions=[])


class Vault2(Vault):
    name = "vault2"
"""

SEED = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
USERS = 203
"""More than two pages of the table."""


@pytest.fixture(autouse=True)
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An app with users whose seeds the old secret has sealed."""
    (tmp_path / "bank_app.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("bank_app", None)


def enrolled(number: int = USERS) -> None:
    import bank_app  # type: ignore[import-not-found]

    from powauth.backends.base import drive
    from powauth.extensions.second_factor import SecondFactor, Totp

    engine = sa.create_engine("sqlite:///app.sqlite3")
    bank_app.Base.metadata.create_all(engine)
    engine.dispose()
    totp = bank_app.old().extension(SecondFactor).factor(Totp)
    for each in range(number):
        assert drive(totp.adopt(f"user {each}", SEED))


def run(*arguments: str) -> int:
    return main(["--app", *arguments])


@pytest.mark.parametrize("name", ["both", "both_async"])
def test_all_seeds_are_sealed_again_and_counted(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    enrolled()
    assert run("bank_app:new()", "reseal") == Status.STORE_MISSING
    assert f"{USERS} of the seeds of authenticator apps cannot be opened" in capsys.readouterr().err
    assert run(f"bank_app:{name}()", "reseal") == Status.DONE
    assert capsys.readouterr().out == f"second_factor: {USERS} sealed again\n"
    assert run(f"bank_app:{name}()", "reseal", "--json") == Status.DONE
    assert json.loads(capsys.readouterr().out) == {"second_factor": 0}
    assert run("bank_app:new()", "reseal") == Status.DONE, "the old secret is needed no more"
    assert capsys.readouterr().out == "second_factor: 0 sealed again\n"


def test_a_seed_that_cannot_be_opened_keeps_no_other_from_being_sealed(capsys: pytest.CaptureFixture[str]) -> None:
    enrolled(4)
    engine = sa.create_engine("sqlite:///app.sqlite3")
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE authenticators SET seed = x'00' WHERE user_key = (SELECT min(user_key) FROM authenticators)"
        )
    engine.dispose()
    assert run("bank_app:both()", "reseal") == Status.STORE_MISSING
    assert "1 of the seeds of authenticator apps cannot be opened, 3 were sealed: " in capsys.readouterr().err


def test_every_extension_is_asked_and_the_others_are_not_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert run("bank_app:several()", "reseal") == Status.DONE
    printed = capsys.readouterr()
    assert printed.out == "vault: 2 sealed again\nvault2: 2 sealed again\n"
    assert "vault: 1 sealed again" in printed.err
    assert run("bank_app:plain()", "reseal") == Status.DONE
    assert capsys.readouterr().out == "no extension of this app keeps sealed secrets\n"


def test_it_needs_an_app(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reseal"]) == Status.USAGE
    assert "give --app" in capsys.readouterr().err
