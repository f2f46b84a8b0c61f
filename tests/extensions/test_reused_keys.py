"""A new user has the integer key of a deleted one, of whose end powauth did not hear, and gets nothing of theirs."""

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from harness.keys_support import ask
from harness.support import Request
from harness.tables_support import ADA, TableSite
from harness.users_databases import PASSWORD, BareUser, Base, blocking_engine, table_name
from powauth import Extension, RequestAuth, StoreUnavailable
from powauth.accounts.changes import CREATED
from powauth.accounts.identity import Key
from powauth.accounts.user_keys import user_key_text
from powauth.backends.base import drive
from powauth.extensions.api_keys import ApiKeyMixin, ApiKeys
from powauth.extensions.invitation import Invitation
from powauth.extensions.passkeys import PasskeyMixin, Passkeys
from powauth.extensions.second_factor import RecoveryCodeMixin, RecoveryCodes, SecondFactor, Totp, TotpMixin
from powauth.plug.options import Remember
from powauth.testing import MemoryMailer

EVE = {"email": "eve@example.org", "password": PASSWORD}
SEED = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"


class Numbered(BareUser, Base):
    """Without ``created_at``. SQLite gives the highest number out again."""

    __tablename__ = table_name()


class KeyRow(ApiKeyMixin, Base):
    __tablename__ = table_name()


class TotpRow(TotpMixin, Base):
    __tablename__ = table_name()


class CodeRow(RecoveryCodeMixin, Base):
    __tablename__ = table_name()


class PasskeyRow(PasskeyMixin, Base):
    __tablename__ = table_name()


ROWS: list[Any] = [KeyRow, TotpRow, CodeRow, PasskeyRow]


def everybody(identity: object) -> bool:
    del identity
    return True


class Reused(TableSite):
    """An app whose user ada has something of each extension, and then disappears."""

    def __init__(self, engine: sa.Engine, *others: Extension[Any]) -> None:
        passkeys: Passkeys[Any] = Passkeys(engine, PasskeyRow, mailer=MemoryMailer())
        codes: RecoveryCodes[Any] = RecoveryCodes(engine, CodeRow)
        extensions: list[Any] = [
            SecondFactor(Totp(engine, TotpRow), codes, passkeys.factor()),
            passkeys,
            ApiKeys(engine, KeyRow),
            Invitation(MemoryMailer(), may_invite=everybody),
            *others,
        ]
        options: dict[str, Any] = {"public_url": "https://app.example", "remember": Remember()}
        super().__init__("wsgi", engine, Numbered, extensions, **options)
        bound = RequestAuth(self.auth, ask())
        drive(bound.sign_in(email=ADA, password=PASSWORD))
        self.key = drive(self.auth.extension(ApiKeys).create(bound, "a program")).key
        drive(self.auth.extension(Invitation).invitations.make(self.ada.id, self.ada, None))
        self.old = self.browser(signed_in=True, remember=True)
        user = user_key_text(self.ada.id)
        drive(self.auth.extension(SecondFactor).factor(Totp).adopt(self.ada, SEED))
        drive(codes.store.put(user, [secrets.token_bytes(32)], self.now()))
        row = {
            "credential_id": b"id",
            "user_handle": bytes(32),
            "public_key": b"key",
            "sign_count": 0,
            "transports": "",
        }
        with Session(engine) as session:
            session.add(PasskeyRow(user_key=user, label="Laptop", backed_up=False, created_at=self.now(), **row))
            session.commit()
        assert self.held == ROWS
        self.sql(sa.delete(Numbered))

    @property
    def held(self) -> list[Any]:
        """The tables with a row of ada's number."""
        own = user_key_text(self.ada.id)
        with Session(self.engine) as session:
            return [each for each in ROWS if session.scalars(sa.select(each).where(each.user_key == own)).all()]

    def uses_key(self) -> int:
        return self.browser().send("/private", None, {"authorization": f"Bearer {self.key}"}).status


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    with blocking_engine("sqlite", str(tmp_path), Numbered, KeyRow, TotpRow, CodeRow, PasskeyRow) as engine:
        yield engine


def registers(site: Reused) -> int:
    status: int = site.call(site.browser(), "register", EVE).status
    return status


def creates(site: Reused) -> int:
    try:
        drive(site.auth.create_account(EVE))
    except StoreUnavailable:
        return 503
    return 200


Make = Callable[[Reused], int]
MAKES: list[Make] = [registers, creates]


@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__)
def test_uid_04_a_new_user_inherits_nothing_of_the_former_one(make: Make, engine: sa.Engine) -> None:
    site = Reused(engine)
    assert make(site) == 200
    eve = drive(site.users.find("eve@example.org"))
    assert eve is not None
    assert eve.key == site.ada.id
    assert site.held == []
    assert site.uses_key() == 401
    assert drive(site.auth.extension(SecondFactor).enrolled(eve)) == []
    assert drive(site.auth.extension(Invitation).invitations.list(eve.key)) == []
    assert site.who(site.old) is None
    names = site.event_names
    assert names.index("registered") > max(names.index(each) for each in ("api_key_ended", "factors_reset", "revoked"))


@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__)
def test_uid_04_a_remembered_session_of_the_former_user_is_refused(make: Make, engine: sa.Engine) -> None:
    site = Reused(engine)
    assert make(site) == 200
    site.clock.advance(24 * 3600)
    assert site.who(site.old) is None


def test_uid_04_a_session_of_the_former_user_never_loads_the_new_one(engine: sa.Engine) -> None:
    """Another program makes the new user, so powauth does not hear of that either. The proof differs."""
    site = Reused(engine)
    site.sql(sa.insert(Numbered).values(id=site.ada.id, email="eve@example.org", is_active=True))
    loaded: list[Any] = []

    async def work(request: Request) -> object:
        with Session(engine) as session:
            loaded.append(await request.call("load_user", session))
        return None

    site.do(site.old, work)
    assert loaded == [None]
    assert site.who(site.old) is None


def test_uid_04_no_session_of_the_former_user_begins_meanwhile(engine: sa.Engine) -> None:
    """Such as by an old passkey, after the new row and before the passkey is removed."""
    began: list[RequestAuth[Any, Any]] = []

    class SignsIn(Extension[Any]):
        name = "signs_in"

        async def credentials_changed(self, key: Key, why: str) -> None:
            if why == CREATED and site:
                began.append(RequestAuth(site[0].auth, ask()))
                assert await began[0].sign_in_user(key, amr=["mfa"]) is not None

    site: list[Reused] = []
    site.append(Reused(engine, SignsIn()))
    drive(site[0].auth.create_account(EVE))
    assert drive(began[0].recheck()) is False


@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__)
def test_uid_04_nobody_is_created_if_something_may_be_left(make: Make, engine: sa.Engine) -> None:
    site = Reused(engine)
    Base.metadata.tables[KeyRow.__tablename__].drop(engine)
    assert make(site) == 503
    assert drive(site.users.find("eve@example.org")) is None
    assert "registered" not in site.event_names
    Base.metadata.tables[KeyRow.__tablename__].create(engine)
    assert make(site) == 200
    assert drive(site.users.find("eve@example.org")) is not None


def test_a_new_user_is_told_nothing_of_the_former_one(engine: sa.Engine) -> None:
    site = Reused(engine)
    assert registers(site) == 200
    mailer: Any = site.auth.extension(Passkeys).mailer
    drive(site.auth.aclose())
    assert mailer.messages == []


def test_without_a_former_user_nothing_is_reported(engine: sa.Engine) -> None:
    site = TableSite("wsgi", engine, Numbered, [ApiKeys(engine, KeyRow)])
    drive(site.auth.create_account(EVE))
    assert site.event_names == ["registered"]
