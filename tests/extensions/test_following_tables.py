"""The app's own ORM changes users for whom extensions hold rows in the same database."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from harness.following import EMAILS, NEW_HASH, App, Citizen, following_app, who
from harness.users_databases import BLOCKING, Base, table_name
from powauth import Extension, StoreUnavailable
from powauth.accounts.identity import Key
from powauth.accounts.user_keys import user_key_text
from powauth.extensions.api_keys import ApiKeyMixin, ApiKeys
from powauth.extensions.passkeys import PasskeyMixin, Passkeys
from powauth.extensions.second_factor import RecoveryCodeMixin, RecoveryCodes, SecondFactor, Totp, TotpMixin

MIA, NOA = EMAILS
NEW = "ida@example.com"
NOW = datetime(2026, 1, 2, tzinfo=UTC)
DRIVERS = ["sqlite", "postgresql+psycopg"]


class ApiKeyRow(ApiKeyMixin, Base):
    __tablename__ = table_name()


class TotpRow(TotpMixin, Base):
    __tablename__ = table_name()


class CodeRow(RecoveryCodeMixin, Base):
    __tablename__ = table_name()


class PasskeyRow(PasskeyMixin, Base):
    __tablename__ = table_name()


Make = Callable[[Any], list[Extension[Any]]]

EXTENSIONS: dict[str, Make] = {
    "none": lambda _: [],
    "keys": lambda engine: [ApiKeys(engine, ApiKeyRow)],
    "factors": lambda engine: [SecondFactor(Totp(engine, TotpRow), RecoveryCodes(engine, CodeRow))],
    "passkeys": lambda engine: [Passkeys(engine, PasskeyRow)],
}

ROWS: list[Any] = [ApiKeyRow, TotpRow, CodeRow, PasskeyRow]


@contextmanager
def app_with(driver: str, folder: str, *names: str) -> Iterator[App]:
    """An app that follows its database sessions, with extensions over the same engine."""
    with following_app(driver, folder) as app:
        tables: Any = [model.__table__ for model in ROWS]
        Base.metadata.create_all(app.engine, tables)
        try:
            extensions = [each for name in names for each in EXTENSIONS[name](app.engine)]
            app.auth = app.another_auth(extensions=extensions, public_url="https://app.example")
            yield app
        finally:
            Base.metadata.drop_all(app.engine, tables)


def hold(app: App, key: uuid.UUID) -> None:
    """Give a user a row in each table of the extensions."""
    user, random = user_key_text(key), uuid.uuid4().hex
    common: dict[str, Any] = {"user_key": user, "created_at": NOW}
    owned: dict[str, Any] = {"user_created_at": None, "last_used_at": None}
    with Session(app.engine) as session:
        session.add(
            ApiKeyRow(
                public_id=random[:10],
                secret_hash="a" * 64,
                namespace=app.auth.store.namespace,
                proof="b" * 64,
                name="backup",
                scopes="",
                **common,
                **owned,
            )
        )
        session.add(TotpRow(name=random[:10], label="Phone", seed=b"seed", step=1, **common))
        session.add(CodeRow(code_hash="c" * 64, **common))
        session.add(
            PasskeyRow(
                credential_id=random.encode(),
                user_handle=bytes(32),
                public_key=b"key",
                sign_count=0,
                label="Laptop",
                backed_up=False,
                transports="",
                **common,
                **owned,
            )
        )
        session.commit()


def held(app: App, key: uuid.UUID) -> list[str]:
    """The tables of the extensions in which a user has a row."""
    with Session(app.engine) as session:
        own = [session.scalars(sa.select(each).where(each.user_key == user_key_text(key))).all() for each in ROWS]
    return [each.__name__ for each, rows in zip(ROWS, own, strict=True) if rows]


def locked(app: App, session: Session) -> None:
    app.user(session).is_active = False


def unlocked(app: App, session: Session) -> None:
    app.user(session).is_active = True


def deleted(app: App, session: Session) -> None:
    session.delete(app.user(session))


def made(app: App, session: Session) -> None:
    user = Citizen(id=uuid.uuid5(uuid.NAMESPACE_DNS, NEW), email=NEW)
    session.add(user)
    session.flush()
    user.password_hash = NEW_HASH


WORK = [locked, unlocked, made, deleted]


@pytest.mark.parametrize("holds", [False, True], ids=["nothing held", "rows held"])
@pytest.mark.parametrize("work", WORK, ids=lambda work: work.__name__)
@pytest.mark.parametrize("extension", EXTENSIONS)
@pytest.mark.parametrize("driver", BLOCKING)
def test_the_commit_succeeds_whatever_an_extension_holds(
    driver: str, extension: str, work: Callable[[App, Session], None], holds: bool, tmp_path: Path
) -> None:
    with app_with(driver, str(tmp_path), extension) as app:
        key = uuid.uuid5(uuid.NAMESPACE_DNS, NEW) if work is made else app.row().id
        if work is unlocked:  # by a statement that powauth does not see
            with app.engine.begin() as connection:
                connection.execute(sa.update(Citizen).where(Citizen.email == MIA).values(is_active=False))
        if holds:
            hold(app, key)
        with app.maker() as session:
            work(app, session)
            session.commit()
        row = app.row(NEW if work is made else MIA)
        assert row is None if work is deleted else row.is_active is (work is not locked)
        own = {"keys": ["ApiKeyRow"], "factors": ["TotpRow", "CodeRow"], "passkeys": ["PasskeyRow"]}.get(extension, [])
        if holds and work is deleted:
            assert [each for each in held(app, key) if each in own] == []
        if holds and work is locked:
            assert [each for each in held(app, key) if each in own] == ([] if extension == "keys" else own)


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_lock_by_the_orm_ends_sessions_and_keys_and_can_be_taken_back(driver: str, tmp_path: Path) -> None:
    with app_with(driver, str(tmp_path), "keys", "factors", "passkeys") as app:
        browser = app.browser()
        assert who(browser) == MIA
        for work in (locked, unlocked):
            with app.maker() as session:
                work(app, session)
                session.commit()
            assert who(browser) is None
        assert who(app.browser()) == MIA


class Held(Extension[Any]):
    """Holds something for users in a place that may be unreachable."""

    name = "held"

    def __init__(self) -> None:
        self.ended: list[Key] = []
        self.broken = False

    async def credentials_changed(self, key: Key, why: str) -> None:
        if self.broken:
            raise StoreUnavailable("the place of the extension cannot be reached")
        self.ended.append(key)


@pytest.mark.parametrize(("driver", "calls"), [("sqlite", 1), ("postgresql+psycopg", 2)])
def test_an_extension_is_called_after_the_commit_and_except_on_sqlite_before_it(
    driver: str, calls: int, tmp_path: Path
) -> None:
    with following_app(driver, str(tmp_path)) as app:
        extension = Held()
        app.auth = app.another_auth(extensions=[extension])
        key = app.row().id
        with app.maker() as session:
            locked(app, session)
            session.commit()
        assert extension.ended == [key] * calls


def test_an_extension_that_fails_after_the_commit_on_sqlite_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with following_app("sqlite", str(tmp_path)) as app:
        extension = Held()
        app.auth = app.another_auth(extensions=[extension])
        browser = app.browser()
        extension.broken = True
        with app.maker() as session:
            locked(app, session)
            session.commit()
        assert not app.row().is_active
        assert who(browser) is None
    assert "the sessions may not have followed it" in caplog.text


def test_an_extension_that_fails_before_the_commit_fails_it_on_postgresql(tmp_path: Path) -> None:
    with following_app("postgresql+psycopg", str(tmp_path)) as app:
        extension = Held()
        app.auth = app.another_auth(extensions=[extension])
        extension.broken = True
        with app.maker() as session:
            locked(app, session)
            with pytest.raises(StoreUnavailable):
                session.commit()
        assert app.row().is_active
