"""REP-30: a user without a password sets one after a fresh sign-in."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from harness.small_users import SmallUsers, Store
from harness.support import SECRET, Clock, FakeConnection
from harness.users_databases import (
    BLOCKING,
    OTHER_PASSWORD,
    PASSWORD,
    BareUser,
    Base,
    blocking_engine,
    cheap_hasher,
    run_async,
    table_name,
)
from powauth import Authenticator, SessionAuth
from powauth.accounts.anywhere import anywhere
from powauth.accounts.offloaded import OffloadedUsers
from powauth.accounts.sqlalchemy import SQLAlchemyUsers
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.errors import InvalidParams, NotSignedIn
from powauth.http.guards import FRESH

HASHER = cheap_hasher()
EMAIL = "mia@example.com"


class Person(BareUser, Base):
    __tablename__ = table_name()


class App:
    """A user whom the app has signed in by other means."""

    def __init__(self, engine: sa.Engine, stored: str | None) -> None:
        self.engine = engine
        with Session(engine) as session:
            session.add(Person(id=1, email=EMAIL, password_hash=stored))
            session.commit()
        self.users: SQLAlchemyUsers[Any, Any] = SQLAlchemyUsers(engine, Person, hasher=HASHER)
        self.clock = Clock()
        self.auth: Any = SessionAuth(secret_key=SECRET, users=self.users, backend=MemoryBackend(), clock=self.clock)
        self.connection = FakeConnection()
        drive(self.auth.call(self.connection))
        assert drive(self.auth.accounts.sign_in_user(self.connection, 1)) is not None

    def update(self, **params: object) -> Any:
        return drive(self.auth.accounts.update_user(self.connection, params))

    def errors(self, **params: object) -> list[str]:
        with pytest.raises(InvalidParams) as refused:
            self.update(**params)
        return list(refused.value.errors)

    def signs_in(self, password: object) -> bool:
        return drive(self.users.authenticate({"email": EMAIL, "password": password})) is not None


@pytest.fixture(params=BLOCKING)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    with blocking_engine(request.param, str(tmp_path), Person) as made:
        yield made


@pytest.mark.parametrize("stored", [None, "", "!unusable"])
def test_rep_30_a_user_without_a_password_sets_one_after_a_fresh_sign_in(engine: sa.Engine, stored: str | None) -> None:
    app = App(engine, stored)
    for nothing in ("", None, " ", "!unusable", stored):
        assert not app.signs_in(nothing)
    assert app.errors(password="short") == ["password"]
    assert app.update(password=PASSWORD).email == EMAIL
    assert app.signs_in(PASSWORD)
    # Now there is a password, and it is needed.
    assert app.errors(password=OTHER_PASSWORD) == ["current_password"]
    assert app.update(password=OTHER_PASSWORD, current_password=PASSWORD).email == EMAIL
    assert app.signs_in(OTHER_PASSWORD)


def test_rep_30_an_old_sign_in_is_not_enough(engine: sa.Engine) -> None:
    app = App(engine, None)
    app.clock.advance((FRESH + timedelta(seconds=1)).total_seconds())
    assert app.errors(password=PASSWORD) == ["current_password"]
    assert not app.signs_in(PASSWORD)


def test_trm_01_a_session_that_has_ended_meanwhile_sets_no_password(engine: sa.Engine) -> None:
    """A request whose session was read before somebody ended it, such as one that sends its body slowly."""
    app = App(engine, None)
    drive(app.auth.revoke_user(1))
    with pytest.raises(NotSignedIn):
        app.update(password=PASSWORD)
    assert not app.signs_in(PASSWORD)


def test_rep_30_only_a_change_with_a_password_goes_without_the_current_one(engine: sa.Engine) -> None:
    app = App(engine, None)
    assert app.errors(email="noa@example.com") == ["current_password"]
    assert app.errors(password=PASSWORD, current_password=OTHER_PASSWORD) == ["current_password"]
    assert not app.signs_in(PASSWORD)
    assert app.update(password=PASSWORD, email="noa@example.com").email == "noa@example.com"


def test_rep_30_no_user_with_a_password_goes_without_it(engine: sa.Engine) -> None:
    app = App(engine, HASHER.hash(OTHER_PASSWORD))
    assert app.errors(password=PASSWORD) == ["current_password"]
    assert drive(app.users.set_first_password(1, {"password": PASSWORD})) is None
    with Session(engine) as session:  # a format that the hasher does not read is a password, too
        session.execute(sa.update(Person).values(password_hash="$2b$12$unread"))
        session.commit()
    assert drive(app.users.set_first_password(1, {"password": PASSWORD})) is None


def test_no_first_password_for_nobody_or_a_locked_user(engine: sa.Engine) -> None:
    app = App(engine, None)
    drive(app.users.update(1, {"is_active": False}, trusted=True))
    for key in (1, 2):
        with pytest.raises(InvalidParams, match="base"):
            drive(app.users.set_first_password(key, {"password": PASSWORD}))


def test_a_password_that_was_set_meanwhile_stays(engine: sa.Engine) -> None:
    app = App(engine, None)

    class Slow(SQLAlchemyUsers[Any, Any]):
        async def _hashing(self, job: Any) -> Any:
            hashed = await super()._hashing(job)
            with Session(engine) as session:
                session.execute(sa.update(Person).values(password_hash=HASHER.hash(OTHER_PASSWORD)))
                session.commit()
            return hashed

    users: SQLAlchemyUsers[Any, Any] = Slow(engine, Person, hasher=HASHER)
    assert drive(users.set_first_password(1, {"password": PASSWORD})) is None
    assert app.signs_in(OTHER_PASSWORD)
    assert not app.signs_in(PASSWORD)


def test_an_authenticator_without_sessions_knows_no_fresh_sign_in(engine: sa.Engine) -> None:
    app = App(engine, None)
    assert app.auth.signed_in_recently(app.connection) is True
    assert Authenticator.signed_in_recently(app.auth, app.connection) is False


def test_a_context_without_this_ability_demands_the_current_password() -> None:
    users = SmallUsers(Store())
    mia = drive(users.create({"email": EMAIL, "password": PASSWORD}))
    assert drive(users.set_first_password(mia.key, {"password": OTHER_PASSWORD})) is None


@pytest.mark.parametrize("wrap", [anywhere, lambda users: OffloadedUsers(users, in_place)])
def test_the_wrappers_pass_it_on(engine: sa.Engine, wrap: Any) -> None:
    app = App(engine, None)
    users = wrap(app.users)
    assert drive(users.throttle_key({"email": "Mia@example.com"})) == EMAIL
    assert users.other_user_id_fields == ()
    assert drive(users.set_first_password(1, {"password": PASSWORD})) is not None
    assert app.signs_in(PASSWORD)


async def in_place(job: Any) -> Any:
    return job()


def test_on_an_event_loop(tmp_path: Path) -> None:
    async def scenario(engine: Any) -> bool:
        async with engine.begin() as connection:
            await connection.execute(sa.insert(Person), [{"id": 1, "email": EMAIL, "is_active": True}])
        users: SQLAlchemyUsers[Any, Any] = SQLAlchemyUsers(engine, Person, hasher=HASHER)
        await users.set_first_password(1, {"password": PASSWORD})
        return await users.authenticate({"email": EMAIL, "password": PASSWORD}) is not None

    assert run_async("sqlite+aiosqlite", str(tmp_path), [Person], scenario)
