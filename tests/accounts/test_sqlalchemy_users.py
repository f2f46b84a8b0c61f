"""`SQLAlchemyUsers`: the rows on users, statement counts, races, faults, and wrong models."""

import asyncio
import datetime as dt
import enum
import logging
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from argon2 import low_level
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.orm.exc import DetachedInstanceError
from sqlalchemy.pool import QueuePool

from harness.users_databases import (
    ASYNC,
    BLOCKING,
    OTHER_PASSWORD,
    PASSWORD,
    Base,
    blocking_engine,
    cheap_hasher,
    run_async,
    statements,
    table_name,
)
from powauth.accounts import passwords
from powauth.accounts.passwords import PasswordHasher, PasswordPolicy
from powauth.accounts.sqlalchemy import AccountMixin, SQLAlchemyUsers, UserMixin, UsernameMixin, UTCDateTime
from powauth.backends.base import drive
from powauth.errors import ConfigError, ConfigWarning, InvalidParams, Overloaded, StoreUnavailable

HASHER = cheap_hasher()
MIA: dict[str, object] = {"email": "mia@example.com", "password": PASSWORD}


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Person(UserMixin, Base):
    """A user model with columns of many kinds."""

    __tablename__ = table_name()

    name: Mapped[str | None] = mapped_column(sa.String(20))
    nickname: Mapped[str | None] = mapped_column(sa.String(20), unique=True)
    age: Mapped[int | None]
    height: Mapped[float | None]
    balance: Mapped[Decimal | None] = mapped_column(sa.Numeric(10, 2))
    colour: Mapped[Colour | None] = mapped_column(
        sa.Enum(Colour, native_enum=False)
    )  # a type would have one name for all
    birthday: Mapped[dt.date | None]
    seen_at: Mapped[dt.datetime | None] = mapped_column(UTCDateTime())
    token: Mapped[uuid.UUID | None]
    picture: Mapped[bytes | None]
    settings: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON)
    role: Mapped[str] = mapped_column(sa.String(20), default="user")
    is_admin: Mapped[bool] = mapped_column(default=False)
    locked: Mapped[bool] = mapped_column(default=False)
    visits: Mapped[int] = mapped_column(server_default="0")
    __table_args__ = (sa.CheckConstraint("age < 200"),)

    @property
    def is_active(self) -> bool:
        return not self.locked


class Pet(Base):
    __tablename__ = table_name()

    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey(Person.id))


FIELDS = ["name", "nickname", "age", "height", "balance", "colour", "birthday", "seen_at", "token"]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    with blocking_engine("sqlite", str(tmp_path), Person, Pet) as engine:
        sa.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))
        engine.dispose()  # the connections that were made before
        yield engine


def people(engine: sa.Engine | AsyncEngine, **options: Any) -> SQLAlchemyUsers[Person]:
    chosen: dict[str, Any] = {"fields": FIELDS, "snapshot": ["name", "locked"], "hasher": HASHER} | options
    return SQLAlchemyUsers(engine, Person, **chosen)


def errors_of(attempt: Any) -> dict[str, list[str]]:
    with pytest.raises(InvalidParams) as refused:
        drive(attempt)
    return refused.value.errors


def row_of(engine: sa.Engine, user: Person) -> Any:
    with engine.connect() as connection:
        return connection.execute(sa.select(Person.__table__).where(Person.__table__.c.id == user.id)).one()


def set_row(engine: sa.Engine, user: Person, **values: object) -> None:
    with engine.begin() as connection:
        connection.execute(sa.update(Person).where(Person.id == user.id).values(**values))


# Statement counts


def test_counts_of_statements(engine: sa.Engine) -> None:
    users = people(engine)
    with statements(engine) as seen:
        mia = drive(users.create(MIA))
    assert seen[:1] == ["INSERT"]
    assert seen[1:] in ([], ["SELECT"])  # visits is made by the database
    with statements(engine) as seen:
        assert drive(users.authenticate(MIA)) is not None
        assert seen == ["SELECT"]
        drive(users.authenticate(MIA | {"password": OTHER_PASSWORD}))
        drive(users.authenticate(MIA | {"email": "nobody@example.com"}))
        assert seen == ["SELECT"] * 3
    with statements(engine) as seen:
        drive(users.reload(mia))
        users.change({"name": "Mia"}, mia)
        users.restore(users.snapshot(mia))
        users.key(mia)
        users.fingerprint(mia)
    assert seen == ["SELECT"]
    with statements(engine) as seen:
        drive(users.update(mia, {"current_password": PASSWORD, "name": "Mia"}))
    assert seen == ["SELECT", "UPDATE", "SELECT"]
    with statements(engine) as seen:
        drive(users.update(mia, {"current_password": PASSWORD, "name": "Mia"}))
    assert seen == ["SELECT"]


def test_a_plain_model_is_created_with_one_insert(tmp_path: Path) -> None:
    class Plain(UserMixin, Base):
        __tablename__ = table_name()

    with blocking_engine("sqlite", str(tmp_path), Plain) as engine:
        users = SQLAlchemyUsers(engine, Plain, hasher=HASHER)
        with statements(engine) as seen:
            drive(users.create(MIA))
        assert seen == ["INSERT"]


# AUT: who is let in


@pytest.fixture
def verifications(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The blocks of memory filled in each verification; they are filled all the same."""
    done: list[int] = []
    verify, raw = low_level.verify_secret, low_level.hash_secret_raw

    def counting_verify(encoded: bytes, secret: bytes, kind: Any) -> bool:
        memory, passes = (int(part[2:]) for part in encoded.decode().split("$")[3].split(",")[:2])
        done.append(memory * passes)
        return verify(encoded, secret, kind)

    def counting_raw(secret: bytes, salt: bytes, passes: int, memory: int, *rest: Any) -> bytes:
        done.append(memory * passes)
        return raw(secret, salt, passes, memory, *rest)

    monkeypatch.setattr(passwords, "verify_secret", counting_verify)
    monkeypatch.setattr(passwords, "hash_secret_raw", counting_raw)
    return done


def refused_sign_ins(engine: sa.Engine, users: SQLAlchemyUsers[Person]) -> dict[str, dict[str, object]]:
    hashes = {
        "locked": HASHER.hash(PASSWORD),
        "no password": None,
        "empty hash": "",
        "no hash": "!",
        "unknown scheme": "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW",
        "huge": "$argon2id$v=19$m=4294967295,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$" + "A" * 43,
        "older": cheap_hasher(memory_cost=32).hash(OTHER_PASSWORD),
    }
    cases: dict[str, dict[str, object]] = {}
    for number, (name, stored) in enumerate(hashes.items()):
        params: dict[str, object] = {"email": f"user{number}@example.com", "password": PASSWORD}
        set_row(engine, drive(users.create(params)), password_hash=stored, locked=name == "locked")
        cases[name] = params
    drive(users.create(MIA))
    return cases | {
        "unknown": MIA | {"email": "nobody@example.com"},
        "wrong password": MIA | {"password": OTHER_PASSWORD},
        "over-long": MIA | {"password": "a" * 5000},
        "surrogate": MIA | {"password": "seven \ud800 herons"},
        "empty password": MIA | {"password": ""},
        "no password given": {"email": MIA["email"]},
        "no user id given": {"password": PASSWORD},
        "malformed user id": MIA | {"email": "mia"},
        "nothing": {},
    }


def test_aut_01_and_02_every_refusal_is_none_after_the_same_work(engine: sa.Engine, verifications: list[int]) -> None:
    users = people(engine)
    for name, params in refused_sign_ins(engine, users).items():
        verifications.clear()
        with statements(engine) as seen:
            assert drive(users.authenticate(params)) is None, name
        assert sum(verifications) == 64, name
        assert seen == (["SELECT"] if "user id" not in name and name != "nothing" else []), name


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -1, 1.5, float("nan"), b"mia@example.com", ["mia@example.com"], [], {}, {"$ne": ""}, object()],
    ids=lambda value: type(value).__name__,
)
def test_aut_04_odd_values_sign_nobody_in_and_set_nothing(engine: sa.Engine, value: object) -> None:
    users = people(engine)
    mia = drive(users.create(MIA))
    for name in ("email", "password"):
        assert drive(users.authenticate(MIA | {name: value})) is None
    assert set(errors_of(users.create({"email": value, "password": value}))) == {"email", "password"}
    for name in ("name", "nickname"):
        assert list(errors_of(users.create({"email": "noa@example.com", "password": PASSWORD, name: value}))) == [name]
        assert list(errors_of(users.update(mia, {"current_password": PASSWORD, name: value}))) == [name]
    assert list(errors_of(users.update(mia, {"current_password": value, "name": "Mia"}))) == ["current_password"]
    assert list(errors_of(users.update(mia, {"current_password": PASSWORD, "email": value}))) == ["email"]
    assert list(errors_of(users.update(mia, {"current_password": PASSWORD, "password": value}))) == ["password"]
    assert row_of(engine, mia).name is None


def test_aut_04_only_the_named_fields_are_ever_assigned(engine: sa.Engine) -> None:
    users = people(engine, fields=["name"])
    extra = {
        "id": str(uuid.uuid4()),
        "is_admin": True,
        "role": "admin",
        "password_hash": "$argon2id$forged",
        "created_at": "1970-01-01T00:00:00Z",
        "locked": False,
        "nickname": "x",
        "email[$ne]": "",
        "__class__": "x",
        "_sa_instance_state": "x",
        "metadata": {},
    }
    mia = drive(users.create(MIA | extra | {"name": "Mia"}))
    changed = drive(users.update(mia, extra | {"current_password": PASSWORD, "name": "Maria"}))
    for user in (mia, changed, drive(users.reload(mia))):
        assert user is not None
        assert (user.is_admin, user.role, user.nickname, user.locked) == (False, "user", None, False)
        assert str(user.id) != extra["id"]
        assert user.password_hash == mia.password_hash != "$argon2id$forged"
        assert user.created_at == mia.created_at > dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
    assert changed.name == "Maria"


@pytest.mark.parametrize(
    "answer", [False, None, 0, 1, "", "no", "True", [1], object()], ids=lambda value: type(value).__name__
)
def test_aut_05_only_true_is_active(engine: sa.Engine, answer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    users = people(engine)
    mia = drive(users.create(MIA))
    monkeypatch.setattr(Person, "is_active", answer)
    assert users.is_active(mia) is False
    assert drive(users.authenticate(MIA)) is None
    assert errors_of(users.update(mia, {"current_password": PASSWORD, "name": "Mia"})) == {
        "base": ["the user no longer exists"]
    }


def test_aut_05_an_is_active_that_raises_lets_nobody_in(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    users = people(engine)
    drive(users.create(MIA))

    def broken(_: Person) -> bool:
        raise LookupError

    monkeypatch.setattr(Person, "is_active", property(broken))
    with pytest.raises(LookupError):
        drive(users.authenticate(MIA))


# PWD


def test_pwd_01_to_05_the_policy_holds_on_every_way_to_set_a_password(engine: sa.Engine) -> None:
    policy = PasswordPolicy(service_names=["Example Shop"], breached=lambda password: password == "leaked herons")
    users = people(engine, policy=policy)
    mia = drive(users.create(MIA | {"email": "mia.heron@example.com"}))
    bad = [
        "short",
        "a" * 5000,
        "basketball",
        "mia.heron",
        "MIA.HERON@example.com",
        "example shop",
        "leaked herons",
        "\ud800" * 9,
    ]
    for password in bad:
        own = {"current_password": PASSWORD, "password": password}
        assert list(errors_of(users.update(mia, own))) == ["password"]
        assert list(errors_of(users.update(mia, {"password": password}, trusted=True))) == ["password"]
        if "mia" not in password.lower():
            assert list(errors_of(users.create({"email": "noa@example.com", "password": password}))) == ["password"]
    # Against the user id as it will be.
    both = {"current_password": PASSWORD, "password": "noa.heron", "email": "noa.heron@example.com"}
    assert list(errors_of(users.update(mia, both))) == ["password"]
    assert drive(users.authenticate({"email": "mia.heron@example.com", "password": PASSWORD})) is not None


def test_pwd_05_the_breached_hook_is_asked_off_the_event_loop(tmp_path: Path) -> None:
    threads: list[int] = []

    def breached(password: str) -> bool:
        threads.append(threading.get_ident())
        return password == PASSWORD

    async def scenario(engine: AsyncEngine) -> None:
        users = people(engine, policy=PasswordPolicy(breached=breached))
        assert users.change(MIA) == {}  # asks nobody
        with pytest.raises(InvalidParams) as refused:
            await users.create(MIA | {"email": "mia"})
        assert refused.value.errors == {"email": ["has invalid format"], "password": ["has appeared in a data breach"]}

    run_async("sqlite+aiosqlite", str(tmp_path), [Person], scenario)
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_pwd_07_an_older_hash_is_made_again_once_and_only_after_success(engine: sa.Engine) -> None:
    mia = drive(people(engine, hasher=cheap_hasher(memory_cost=32)).create(MIA))
    old = row_of(engine, mia)
    users = people(engine)
    assert drive(users.authenticate(MIA | {"password": OTHER_PASSWORD})) is None
    assert row_of(engine, mia) == old
    with statements(engine) as seen:
        signed_in = drive(users.authenticate(MIA))
    assert seen == ["SELECT", "UPDATE"]
    assert signed_in is not None
    new = row_of(engine, mia)
    assert new.password_hash != old.password_hash
    assert "m=64," in new.password_hash
    assert new.updated_at == old.updated_at
    assert signed_in.password_hash == new.password_hash
    with statements(engine) as seen:
        assert drive(users.authenticate(MIA)) is not None
        assert (
            drive(people(engine, hasher=cheap_hasher(memory_cost=32)).authenticate(MIA)) is not None
        )  # never weakened
    assert seen == ["SELECT"] * 2
    assert row_of(engine, mia) == new


class Meanwhile(PasswordHasher):
    """Does something else between reading a hash and writing the next one."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=64, cheap_and_unsafe=True)
        self.todo: list[Callable[[], None]] = []

    def hash(self, password: str) -> str:
        if self.todo:
            self.todo.pop(0)()
        return super().hash(password)


def test_pwd_07_two_sign_ins_in_parallel_make_the_hash_again_once(engine: sa.Engine) -> None:
    mia = drive(people(engine, hasher=cheap_hasher(memory_cost=32)).create(MIA))
    hasher = Meanwhile()
    winners: list[Person | None] = []
    hasher.todo = [lambda: winners.append(drive(people(engine).authenticate(MIA)))]
    loser = drive(people(engine, hasher=hasher).authenticate(MIA))
    assert loser is not None
    assert winners[0] is not None
    assert loser.password_hash == winners[0].password_hash == row_of(engine, mia).password_hash


@pytest.mark.parametrize("deleted", [False, True])
def test_pwd_07_a_sign_in_loses_to_a_change_of_the_password(engine: sa.Engine, deleted: bool) -> None:
    mia = drive(people(engine, hasher=cheap_hasher(memory_cost=32)).create(MIA))
    users, hasher = people(engine), Meanwhile()

    def change() -> None:
        if deleted:
            drive(users.delete(mia))
        else:
            drive(users.update(mia, {"password": OTHER_PASSWORD}, trusted=True))

    hasher.todo = [change]
    assert drive(people(engine, hasher=hasher).authenticate(MIA)) is None
    assert (drive(users.authenticate(MIA | {"password": OTHER_PASSWORD})) is None) is deleted


def test_pwd_07_a_sign_in_that_is_overtaken_for_ever_gives_up(engine: sa.Engine) -> None:
    weak = cheap_hasher(memory_cost=32)
    mia = drive(people(engine, hasher=weak).create(MIA))
    hasher = Meanwhile()
    hasher.todo = [lambda: set_row(engine, mia, password_hash=weak.hash(PASSWORD))] * 9
    assert drive(people(engine, hasher=hasher).authenticate(MIA)) is None


def test_pwd_09_the_current_password_is_the_databases_not_the_snapshots(engine: sa.Engine) -> None:
    users = people(engine)
    mia = drive(users.create(MIA))
    old = users.restore(users.snapshot(mia))
    drive(users.update(mia, {"password": OTHER_PASSWORD}, trusted=True))
    change = {"current_password": PASSWORD, "email": "eve@example.com"}
    for user in (mia, old):
        assert errors_of(users.update(user, change)) == {"current_password": ["is invalid"]}
        assert errors_of(users.delete(user, change)) == {"current_password": ["is invalid"]}
    assert drive(users.update(old, change | {"current_password": OTHER_PASSWORD})).email == "eve@example.com"


def test_pwd_09_a_change_that_is_overtaken_by_a_new_password_is_refused(engine: sa.Engine) -> None:
    users, hasher = people(engine), Meanwhile()
    mia = drive(users.create(MIA))
    hasher.todo = [lambda: set_row(engine, mia, password_hash=HASHER.hash(OTHER_PASSWORD))]
    change = {"current_password": PASSWORD, "password": "thirteen blue owls"}
    assert errors_of(people(engine, hasher=hasher).update(mia, change)) == {"current_password": ["is invalid"]}
    assert drive(users.authenticate(MIA | {"password": OTHER_PASSWORD})) is not None


def test_a_trusted_change_that_is_overtaken_is_made_again_and_at_last_given_up(engine: sa.Engine) -> None:
    users, hasher = people(engine), Meanwhile()
    mia = drive(users.create(MIA))
    overtaken = people(engine, hasher=hasher)
    hasher.todo = [lambda: set_row(engine, mia, password_hash="!", name="Mia")]
    changed = drive(overtaken.update(mia, {"password": OTHER_PASSWORD}, trusted=True))
    assert changed.name == "Mia"  # only what was asked for is written
    hasher.todo = [lambda: set_row(engine, mia, password_hash=str(uuid.uuid4()))] * 9
    errors = errors_of(overtaken.update(mia, {"password": PASSWORD}, trusted=True))
    assert errors == {"base": ["was changed at the same time; try again"]}


def test_a_deletion_that_is_overtaken_is_proved_again(engine: sa.Engine) -> None:
    class Changing(PasswordHasher):
        def verify(self, stored: object, password: object) -> bool:
            correct = super().verify(stored, password)
            set_row(engine, mia, password_hash=HASHER.hash(PASSWORD))
            return correct

    mia = drive(people(engine).create(MIA))
    hasher = Changing(time_cost=1, memory_cost=64, cheap_and_unsafe=True)
    errors = errors_of(people(engine, hasher=hasher).delete(mia, {"current_password": PASSWORD}))
    assert errors == {"base": ["was changed at the same time; try again"]}
    assert drive(people(engine).delete(mia, {"current_password": PASSWORD})) is True


def test_pwd_10_an_asynchronous_context_hashes_in_bounded_threads(tmp_path: Path) -> None:
    names: set[str] = set()

    class Noting(PasswordHasher):
        def verify(self, stored: object, password: object) -> bool:
            names.add(threading.current_thread().name)
            return super().verify(stored, password)

    async def scenario(engine: AsyncEngine) -> None:
        hasher = Noting(time_cost=1, memory_cost=64, cheap_and_unsafe=True, max_concurrent=2, max_waiting=2)
        users = people(engine, hasher=hasher)
        await users.create(MIA)
        results = await asyncio.gather(*(users.authenticate(MIA) for _ in range(40)), return_exceptions=True)
        assert {type(each) for each in results} <= {Person, Overloaded}
        assert any(isinstance(each, Person) for each in results)
        assert isinstance(await users.authenticate(MIA), Person)
        hasher.close()

    run_async("sqlite+aiosqlite", str(tmp_path), [Person], scenario)
    assert names
    assert all(name.startswith("powauth-password") for name in names)
    assert len(names) <= 2


# UID


@pytest.mark.parametrize("driver", BLOCKING)
def test_uid_01_parallel_registrations_of_one_address_make_one_row(driver: str, tmp_path: Path) -> None:
    spellings = ["A@Ex.com", " a@ex.com ", "a@ex.com", "A@EX.COM"] * 2
    with blocking_engine(driver, str(tmp_path), Person) as engine:
        users = people(engine, hasher=cheap_hasher(max_concurrent=8))
        barrier = threading.Barrier(len(spellings))
        outcomes: list[object] = []

        def register(spelling: str) -> None:
            barrier.wait(30)
            try:
                outcomes.append(drive(users.create({"email": spelling, "password": PASSWORD})))
            except InvalidParams as error:
                outcomes.append(error.errors)

        threads = [threading.Thread(target=register, args=(spelling,)) for spelling in spellings]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sum(isinstance(each, Person) for each in outcomes) == 1
        assert outcomes.count({"email": ["has already been taken"]}) == len(spellings) - 1
        with engine.connect() as connection:
            assert connection.scalars(sa.select(Person.__table__.c.email)).all() == ["a@ex.com"]
        for spelling in spellings:
            assert drive(users.authenticate({"email": spelling, "password": PASSWORD})) is not None
            assert drive(users.get_by(email=spelling)) is not None


class Lax(AccountMixin, Base):
    """A model of an app that leaves its user id to the database's collation."""

    __tablename__ = table_name()

    email: Mapped[str] = mapped_column(sa.String(200), unique=True)


class As:
    """An identifier that changes nothing: what a careless app might write."""

    field = "email"

    def normalize(self, value: object) -> str:
        return str(value)


LOOKALIKES = [
    "m\u0131ke@example.com",
    "mi\u212ae@example.com",
    "MIKE@example.com",
    "mike@example.com ",
    "m\u00efke@example.com",
]


@pytest.mark.parametrize("driver", BLOCKING)
@pytest.mark.parametrize("model", [Person, Lax])
def test_uid_02_no_collation_resolves_a_lookalike_to_the_account(driver: str, model: type[Any], tmp_path: Path) -> None:
    with blocking_engine(driver, str(tmp_path), model) as engine:
        users: SQLAlchemyUsers[Any] = SQLAlchemyUsers(engine, model, hasher=HASHER, identifier=As())
        mike = {"email": "mike@example.com", "password": PASSWORD}
        drive(users.create(mike))
        assert drive(users.authenticate(mike)) is not None
        for lookalike in LOOKALIKES:
            assert drive(users.authenticate(mike | {"email": lookalike})) is None
            assert drive(users.get_by(email=lookalike)) is None
        if model is Person:  # and each may have an account of its own
            distinct = [each for each in LOOKALIKES if not each.endswith(" ")]  # MariaDB pads, and no form ends so
            others = [drive(users.create(mike | {"email": lookalike})) for lookalike in distinct]
            assert [user.email for user in others] == distinct


def test_uid_03_hostile_addresses_never_reach_the_driver(engine: sa.Engine) -> None:
    users = people(engine)
    for address in (
        "a\0@example.com",
        "a@example.com\r\nBcc: b@c.de",
        "\ud800@example.com",
        "a@" + "b." * 50_000 + "c",
    ):
        with statements(engine) as seen:
            assert list(errors_of(users.create({"email": address, "password": PASSWORD}))) == ["email"]
            assert drive(users.get_by(email=address)) is None
            assert drive(users.authenticate({"email": address, "password": PASSWORD})) is None
            assert drive(users.get_by(name=address)) is None
        assert seen == []


def test_uid_04_who_takes_over_an_address_is_somebody_else(engine: sa.Engine) -> None:
    users = people(engine)
    mia = drive(users.create(MIA))
    snapshot = users.snapshot(mia)
    drive(users.update(mia, {"current_password": PASSWORD, "email": "mia2@example.com"}))
    noa = drive(users.create(MIA | {"password": OTHER_PASSWORD}))
    assert users.key(noa) != users.key(mia)
    reloaded = drive(users.reload(users.restore(snapshot)))
    assert reloaded is not None
    assert reloaded.email == "mia2@example.com"


class Numbered(UserMixin, Base):
    """A model whose keys SQLite gives out again."""

    __tablename__ = table_name()

    id: Mapped[int] = mapped_column(primary_key=True)  # type: ignore[assignment]


def test_uid_04_a_number_that_is_given_out_again_is_another_user(tmp_path: Path) -> None:
    with blocking_engine("sqlite", str(tmp_path), Numbered) as engine:
        users = SQLAlchemyUsers(engine, Numbered, hasher=HASHER)
        mia = drive(users.create(MIA))
        restored = users.restore(users.snapshot(mia))
        assert drive(users.reload(restored)) is not None
        assert drive(users.delete(restored)) is True
        noa = drive(users.create({"email": "noa@example.com", "password": OTHER_PASSWORD}))
        assert users.key(noa) == users.key(mia) == "1"
        for stale in (mia, restored):
            assert drive(users.reload(stale)) is None
            assert drive(users.delete(stale)) is False
            assert list(errors_of(users.update(stale, {"password": PASSWORD}, trusted=True))) == ["base"]
        assert drive(users.reload(noa)) is not None


def test_uid_04_a_key_that_may_be_given_again_without_a_time_of_creation_is_warned_about(engine: sa.Engine) -> None:
    class Timeless(Base):
        __tablename__ = table_name()
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[str] = mapped_column(sa.String(254), unique=True)
        password_hash: Mapped[str | None]
        is_active: Mapped[bool] = mapped_column(default=True)

    with pytest.warns(ConfigWarning, match="add created_at as a UTCDateTime"):
        SQLAlchemyUsers(engine, Timeless, hasher=HASHER)


# STO


def test_sto_04_a_snapshot_holds_what_was_named_and_no_more(engine: sa.Engine) -> None:
    users = people(engine)
    mia = drive(users.create(MIA | {"name": "Mia", "nickname": "secret nick", "token": str(uuid.uuid4())}))
    assert mia.password_hash is not None
    snapshot = users.snapshot(mia)
    decoded = msgspec.msgpack.decode(snapshot)
    assert decoded[1:3] == [str(mia.id), "mia@example.com"]
    assert decoded[5:] == ["Mia", False]
    for secret in (mia.password_hash, PASSWORD, "secret nick", mia.password_hash.split("$")[-1]):
        assert secret.encode() not in snapshot
    restored = users.restore(snapshot)
    for absent in ("password_hash", "nickname", "token"):
        with pytest.raises(DetachedInstanceError):
            getattr(restored, absent)


def test_a_snapshot_keeps_every_kind_of_column(engine: sa.Engine) -> None:
    names = [*FIELDS, "picture", "locked"]
    users = people(engine, snapshot=names)
    values = {
        "name": "Mia",
        "nickname": "m",
        "age": 40,
        "height": 1.75,
        "balance": "12.50",
        "colour": "red",
        "birthday": "1986-02-28",
        "seen_at": "2026-01-02T03:04:05.000006+02:00",
        "token": "8c5f5d7e-2f9b-4e3b-9b1f-0f6f3f5c6c11",
    }
    mia = drive(users.create(MIA | values))
    mia = drive(users.update(mia, {"picture": b"\0\xff"}, trusted=True))
    restored = users.restore(users.snapshot(mia))
    assert {name: getattr(restored, name) for name in names} == {name: getattr(mia, name) for name in names}
    assert restored.seen_at == dt.datetime(2026, 1, 2, 1, 4, 5, 6, tzinfo=dt.UTC)
    assert (restored.colour, restored.balance, restored.birthday) == (
        Colour.RED,
        Decimal("12.50"),
        dt.date(1986, 2, 28),
    )


def test_a_restored_user_is_attached_and_loads_the_rest(engine: sa.Engine) -> None:
    users = people(engine)
    mia = drive(users.create(MIA | {"name": "Mia", "nickname": "m"}))
    snapshot = users.snapshot(mia)
    restored = users.restore(snapshot)
    state = sa.inspect(restored)
    assert state.detached
    assert not state.modified
    with orm.Session(engine) as session:
        session.add(restored)
        assert restored not in session.dirty
        assert restored.nickname == "m"
        restored.name = "Maria"
        session.commit()
    assert row_of(engine, mia).name == "Maria"
    with orm.Session(engine) as session:
        merged = session.merge(users.restore(snapshot), load=False)
        assert (merged.name, merged.password_hash) == ("Mia", mia.password_hash)


def test_a_restored_user_runs_the_models_load_events(engine: sa.Engine) -> None:
    users = people(engine)
    snapshot = users.snapshot(drive(users.create(MIA)))
    loaded: list[Person] = []

    def note(target: Person, _: object) -> None:
        loaded.append(target)

    sa.event.listen(Person, "load", note)
    try:
        restored = users.restore(snapshot)
    finally:
        sa.event.remove(Person, "load", note)
    assert loaded == [restored]


def test_a_snapshot_of_another_model_or_older_columns_is_refused(engine: sa.Engine) -> None:
    users = people(engine)
    mia = drive(users.create(MIA))
    for other in (people(engine, snapshot=["name"]), people(engine, snapshot=["locked", "name"])):
        with pytest.raises(ValueError, match="not a snapshot of this model"):
            other.restore(users.snapshot(mia))
    restored = people(engine, snapshot=[]).restore(people(engine, snapshot=[]).snapshot(mia))
    with pytest.raises(ConfigError, match="name it in snapshot="):
        users.is_active(restored)  # reads locked
    mia.name = 5  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="another type than it declares"):
        users.snapshot(mia)


# Fields


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("name", "x" * 21, "should be at most 20 characters"),
        ("name", "a\0b", "holds a character that is not allowed"),
        ("name", "\ud800", "holds a character that is not allowed"),
        ("age", "5", "is invalid"),
        ("age", True, "is invalid"),
        ("age", 1.0, "is invalid"),
        ("age", 2**31, "is out of range"),
        ("age", 10**400, "is out of range"),
        ("height", float("inf"), "is invalid"),
        ("height", "1e999", "is invalid"),
        ("balance", "NaN", "is invalid"),
        ("colour", "green", "is invalid"),
        ("birthday", "2026-02-30", "is invalid"),
        ("token", "x", "is invalid"),
    ],
)
def test_aut_04_a_value_that_does_not_fit_its_column_is_a_message(
    engine: sa.Engine, name: str, value: object, message: str
) -> None:
    users = people(engine)
    assert users.change(MIA | {name: value}) == {name: [message]}
    assert errors_of(users.create(MIA | {name: value})) == {name: [message]}


@pytest.mark.parametrize("value", [{"age": 500}, {"seen_at": "2026-01-02T03:04:05"}, {"nickname": "taken"}])
@pytest.mark.parametrize("driver", BLOCKING)
def test_what_the_database_refuses_is_a_message(driver: str, value: dict[str, object], tmp_path: Path) -> None:
    with blocking_engine(driver, str(tmp_path), Person) as engine:
        users = people(engine)
        noa = drive(users.create({"email": "noa@example.com", "password": PASSWORD, "nickname": "taken"}))
        mia = drive(users.create(MIA))
        nickname = "nickname" in value
        expected = {"nickname": ["has already been taken"]} if nickname else {"base": ["could not be saved"]}
        assert errors_of(users.create({"email": "eve@example.com", "password": PASSWORD} | value)) == expected
        assert errors_of(users.update(mia, value | {"current_password": PASSWORD})) == expected
        if nickname:  # one's own value is nobody else's
            kept = value | {"current_password": PASSWORD, "name": "Noa"}
            assert drive(users.update(noa, kept)).name == "Noa"


def test_everything_that_is_wrong_is_said_at_once(engine: sa.Engine) -> None:
    users = people(engine)
    bad = {"email": "mia", "password": "short", "age": "5"}
    expected = {"email": ["has invalid format"], "age": ["is invalid"], "password": ["should be at least 8 characters"]}
    assert users.change(bad) == errors_of(users.create(bad)) == expected
    assert errors_of(users.create({})) == {"email": ["can't be blank"], "password": ["can't be blank"]}
    mia = drive(users.create(MIA))
    assert users.change({}, mia) == {"current_password": ["can't be blank"]}
    assert users.change({"current_password": "x", "password": ""}, mia) == {}
    assert users.change({"current_password": "x", "password": None}, mia) == {"password": ["can't be blank"]}
    assert users.change({"current_password": "x", "password": "mia@example.com"}, mia) == {
        "password": ["is too easy to guess: it is your user name or address"]
    }


def test_a_trusted_change_reaches_every_column_but_the_key(engine: sa.Engine) -> None:
    users = people(engine)
    mia = drive(users.create(MIA))
    changed = drive(
        users.update(mia, {"role": "admin", "locked": True, "settings": {"a": [1]}, "name": None}, trusted=True)
    )
    assert (changed.role, changed.locked, changed.settings) == ("admin", True, {"a": [1]})
    changed = drive(users.update(changed, {"password_hash": None, "email": " New@Example.com"}, trusted=True))
    assert (changed.password_hash, changed.email) == (None, "new@example.com")
    changed = drive(users.update(changed, {"password": OTHER_PASSWORD}, trusted=True))
    assert HASHER.verify(changed.password_hash, OTHER_PASSWORD)
    assert errors_of(
        users.update(mia, {"id": uuid.uuid4(), "nonsense": 1, "role": None, "is_admin": 1}, trusted=True)
    ) == {
        "id": ["cannot be set"],
        "nonsense": ["cannot be set"],
        "role": ["is invalid"],
        "is_admin": ["is invalid"],
    }


def test_times_come_from_the_clock_and_only_a_change_moves_them(engine: sa.Engine) -> None:
    now = dt.datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=dt.UTC)
    users = people(engine, clock=lambda: now)
    mia = drive(users.create(MIA))
    later = dt.datetime(2026, 5, 2, 9, 0, tzinfo=dt.timezone(dt.timedelta(hours=9)))
    users = people(engine, clock=lambda: later)
    same = drive(users.update(mia, {"name": None}, trusted=True))
    assert (same.created_at, same.updated_at) == (now, now)
    changed = drive(users.update(mia, {"name": "Mia"}, trusted=True))
    assert (changed.created_at, changed.updated_at) == (now, later)
    assert changed.updated_at.tzinfo is dt.UTC


def test_get_by_finds_one_user_or_none(engine: sa.Engine) -> None:
    users = people(engine)
    mia = drive(users.create(MIA | {"name": "Mia", "age": 40}))
    drive(users.create({"email": "noa@example.com", "password": PASSWORD, "age": 40, "colour": "blue"}))
    found = [
        drive(users.get_by(**clauses))
        for clauses in (
            {"email": " MIA@example.com"},
            {"name": "Mia", "age": 40},
            {"id": mia.id},
            {"id": str(mia.id)},
        )
    ]
    assert [user and user.id for user in found] == [mia.id] * 4
    for clauses in (
        {"age": 40},
        {"age": "40"},
        {"id": "x"},
        {"name": "mia"},
        {"email": "x"},
        {"settings": {1}},
    ):
        assert drive(users.get_by(**clauses)) is None
    for wrong in ({}, {"nonsense": 1}, {"__class__": 1}):
        with pytest.raises(ConfigError, match="get_by"):
            drive(users.get_by(**wrong))


def test_rep_31_a_look_up_of_none_is_an_error_and_of_nothing_finds_nobody(engine: sa.Engine) -> None:
    users = people(engine)
    mia = drive(users.create(MIA))
    none: dict[str, Any]
    for none in ({"token": None}, {"email": None}, {"id": None}, {"email": MIA["email"], "name": None}):
        with pytest.raises(ConfigError, match="is None, which names nobody"):
            drive(users.get_by(**none))
    set_row(engine, mia, name="", nickname="", picture=b"")
    empty: dict[str, Any]
    for empty in ({"nickname": ""}, {"name": ""}, {"picture": b""}, {"email": ""}, {"email": MIA["email"], "name": ""}):
        assert drive(users.get_by(**empty)) is None


def test_rep_31_a_value_that_nobody_has_is_not_called_taken(engine: sa.Engine) -> None:
    users = people(engine)
    drive(users.create(MIA))
    noa = drive(users.create({"email": "noa@example.com", "password": PASSWORD, "nickname": "noa"}))
    with pytest.raises(InvalidParams) as caught:
        drive(users.update(noa, {"email": MIA["email"], "nickname": None}, trusted=True))
    assert caught.value.errors == {"email": ["has already been taken"]}


def test_a_user_that_others_need_is_not_deleted(engine: sa.Engine) -> None:
    users = people(engine)
    mia = drive(users.create(MIA))
    with orm.Session(engine) as session:
        session.add(Pet(id=1, owner_id=mia.id))
        session.commit()
    assert errors_of(users.delete(mia)) == {"base": ["cannot be deleted while other records need it"]}
    assert drive(users.reload(mia)) is not None


def test_deletion_follows_the_models_cascades(tmp_path: Path) -> None:
    class Owner(UserMixin, Base):
        __tablename__ = table_name()
        notes: Mapped[list["Note"]] = orm.relationship(cascade="all, delete-orphan")

    class Note(Base):
        __tablename__ = table_name()
        id: Mapped[int] = mapped_column(primary_key=True)
        owner_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey(Owner.id))

    with blocking_engine("sqlite", str(tmp_path), Owner, Note) as engine:
        users = SQLAlchemyUsers(engine, Owner, hasher=HASHER)
        owner = drive(users.create(MIA))
        with orm.Session(engine) as session:
            session.add(Note(owner_id=owner.id))
            session.commit()
        assert drive(users.delete(owner, {"current_password": PASSWORD})) is True
        with orm.Session(engine) as session:
            assert session.scalars(sa.select(Note)).all() == []


def test_keys_of_every_kind(engine: sa.Engine) -> None:
    users = people(engine)
    mia = drive(users.create(MIA))
    assert users.key(mia) == mia.id.hex
    assert users.key(Person(id=mia.id)) == mia.id.hex
    with pytest.raises(ConfigError, match="never saved"):
        users.key(Person())


def test_user_names_beside_and_instead_of_addresses(tmp_path: Path) -> None:
    class Named(UsernameMixin, AccountMixin, Base):
        __tablename__ = table_name()

    class Both(UsernameMixin, UserMixin, Base):
        __tablename__ = table_name()

    with blocking_engine("sqlite", str(tmp_path), Named, Both) as engine:
        named = SQLAlchemyUsers(engine, Named, user_id_field="username", hasher=HASHER)
        assert drive(named.create({"username": "Mia_93", "password": PASSWORD})).username == "mia_93"
        assert drive(named.authenticate({"username": " MIA_93", "password": PASSWORD})) is not None
        assert errors_of(named.create({"username": "mi\u212ae", "password": PASSWORD})).keys() == {"username"}
        both = SQLAlchemyUsers(engine, Both, user_id_field="username", fields=["email"], hasher=HASHER)
        mia = {"username": "mia", "email": "Mia@Example.com", "password": PASSWORD}
        assert drive(both.create(mia)).email == "mia@example.com"
        assert errors_of(both.create(mia | {"username": "noa"})) == {"email": ["has already been taken"]}
        assert errors_of(both.create(mia)) == {
            "username": ["has already been taken"],
            "email": ["has already been taken"],
        }
        assert errors_of(both.create({"username": "noa", "password": PASSWORD})) == {"email": ["can't be blank"]}


# Faults


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "mariadb+pymysql"])
def test_a_database_that_does_not_answer_is_store_unavailable(driver: str) -> None:
    engine = sa.create_engine(f"{driver}://root@127.0.0.1:{free_port()}/test")
    users = people(engine)
    for attempt in (users.authenticate(MIA), users.create(MIA), users.get_by(email="mia@example.com")):
        with pytest.raises(StoreUnavailable) as refused:
            drive(attempt)
        assert refused.value.__cause__ is not None
        assert "root" not in str(refused.value)


@pytest.mark.parametrize("driver", ["postgresql+psycopg", "postgresql+asyncpg", "mariadb+asyncmy"])
def test_an_asynchronous_database_that_does_not_answer_is_store_unavailable(driver: str) -> None:
    async def main() -> None:
        engine = create_async_engine(f"{driver}://root@127.0.0.1:{free_port()}/test")
        with pytest.raises(StoreUnavailable):
            await people(engine).authenticate(MIA)
        await engine.dispose()

    asyncio.run(main())


def test_a_table_that_is_not_there_is_store_unavailable() -> None:
    engine = sa.create_engine("sqlite://")
    with pytest.raises(StoreUnavailable, match="lacks a table"):
        drive(people(engine).authenticate(MIA))
    engine.dispose()


def test_a_pool_without_a_free_connection_is_store_unavailable(engine: sa.Engine) -> None:
    small = sa.create_engine(engine.url, poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=0.01)
    with small.connect(), pytest.raises(StoreUnavailable, match="no free connection in the pool"):
        drive(people(small).authenticate(MIA))
    drive(people(small).create(MIA))
    assert drive(people(small).authenticate(MIA)) is not None
    small.dispose()


def test_a_connection_that_breaks_is_store_unavailable_and_the_next_one_works(engine: sa.Engine) -> None:
    users = people(engine)
    drive(users.create(MIA))

    def breaks(*_: object) -> None:
        raise OSError("cut off")

    sa.event.listen(engine, "before_cursor_execute", breaks)
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        drive(users.authenticate(MIA))
    sa.event.remove(engine, "before_cursor_execute", breaks)
    assert drive(users.authenticate(MIA)) is not None


def test_a_refusal_is_logged_without_values(engine: sa.Engine, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "powauth.accounts"):
        errors_of(people(engine).create(MIA | {"age": 500}))
    assert "IntegrityError" in caplog.text
    assert "mia" not in caplog.text


def test_no_error_shows_the_values_of_a_statement(engine: sa.Engine) -> None:
    users = people(engine)
    drive(users.create(MIA))
    with pytest.raises(InvalidParams) as taken:
        drive(users.create(MIA))
    with engine.begin() as connection:
        connection.execute(sa.text(f"DROP TABLE {Person.__tablename__}"))
    with pytest.raises(StoreUnavailable) as gone:
        drive(users.create(MIA))
    for refused in (taken.value, gone.value):
        assert "argon2" not in str(refused.__cause__)
        assert "mia@example.com" not in str(refused.__cause__)


# Construction


class OtherBase(DeclarativeBase):
    pass


def broken(name: str, **attributes: Any) -> type[Any]:
    """A model with some attribute replaced, or removed with ``None``."""
    columns: dict[str, Any] = {
        "__tablename__": table_name(),
        "id": mapped_column(sa.Uuid, primary_key=True),
        "email": mapped_column(sa.String(254), unique=True),
        "password_hash": mapped_column(sa.String(255)),
        "is_active": True,
    } | attributes
    return type(name, (OtherBase,), {key: value for key, value in columns.items() if value is not None})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (object, "must be a SQLAlchemy declarative class"),
        (broken("A", email=None), "has no column 'email'"),
        (broken("B", password_hash=None), "has no column 'password_hash'"),
        (broken("C", email=mapped_column(sa.String(254))), "must be unique"),
        (broken("D", is_active=None), "needs is_active"),
        (broken("E", part=mapped_column(sa.Integer, primary_key=True)), "one primary key column; it has 2"),
        (broken("F", id=mapped_column(sa.Date, primary_key=True)), "a UUID, an integer or text"),
        (broken("G", email=mapped_column(sa.Integer, unique=True)), "must be a column of text"),
        (
            broken("H", kind=mapped_column(sa.String(9)), __mapper_args__={"polymorphic_on": "kind"}),
            "polymorphic_on",
        ),
    ],
)
def test_a_wrong_model_is_refused_with_what_to_do(engine: sa.Engine, model: type[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SQLAlchemyUsers(engine, model, hasher=HASHER)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fields": ["nonsense"]}, "fields names 'nonsense'"),
        ({"fields": ["id"]}, "which no user may set"),
        ({"fields": ["password_hash"]}, "which no user may set"),
        ({"fields": ["created_at"]}, "which no user may set"),
        ({"fields": ["settings"]}, "cannot come from a form"),
        ({"fields": "name"}, "sequence of names"),
        ({"snapshot": ["nonsense"]}, "snapshot names 'nonsense'"),
        ({"snapshot": ["password_hash"]}, "must not hold password_hash"),
        ({"snapshot": ["settings"]}, "snapshot cannot hold settings"),
        ({"snapshot": "name"}, "sequence of names"),
        ({"user_id_field": "nonsense"}, "has no column 'nonsense'"),
        ({"user_id_field": "name"}, "must be unique"),
        ({"user_id_field": "nickname"}, "say how 'nickname' is normalised"),
        ({"identifier": "email"}, "must have a method normalize"),
        ({"clock": 5}, "clock must be a function"),
    ],
)
def test_a_wrong_option_is_refused_with_what_to_do(engine: sa.Engine, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        people(engine, **options)


def test_what_is_no_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be a SQLAlchemy Engine or AsyncEngine; got str"):
        SQLAlchemyUsers("sqlite://", Person)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [
        [sa.UniqueConstraint("email")],
        [sa.Index(None, "email", unique=True)],
    ],
)
def test_a_user_id_may_be_unique_in_any_way(engine: sa.Engine, arguments: list[Any]) -> None:
    model = broken(f"Unique{uuid.uuid4().hex}", email=mapped_column(sa.String(254)), __table_args__=tuple(arguments))
    users = SQLAlchemyUsers(engine, model, hasher=HASHER)
    assert users.mode == "blocking"
    assert users.user_type is model


class Celsius(sa.types.UserDefinedType[float]):
    """A type that does not say what Python makes of it."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "FLOAT"


def test_columns_of_unknown_type_are_the_apps_alone_and_computed_ones_are_no_fields(engine: sa.Engine) -> None:
    email = mapped_column(sa.String(254), unique=True)
    size = orm.column_property(sa.func.length(email))
    model = broken("Odd", email=email, warmth=mapped_column(Celsius()), size=size)
    options: list[dict[str, Any]] = [
        {option: [name]} for option in ("fields", "snapshot") for name in ("warmth", "size")
    ]
    for option in options:
        with pytest.raises(ConfigError, match=r"warmth|size"):
            SQLAlchemyUsers(engine, model, hasher=HASHER, **option)
    OtherBase.metadata.create_all(engine, [model.__table__])
    with orm.Session(engine) as session:
        session.add(model(id=uuid.uuid4(), email="mia@example.com"))
        session.commit()
    users = SQLAlchemyUsers(engine, model, hasher=HASHER)
    mia = drive(users.get_by(email="mia@example.com"))
    assert mia is not None
    changed = drive(users.update(mia, {"warmth": 21.5}, trusted=True))
    assert (changed.warmth, changed.size) == (21.5, 15)


def test_a_context_closes_the_hasher_that_it_made(engine: sa.Engine) -> None:
    users = SQLAlchemyUsers(engine, Person)
    drive(users.close())
    shared = people(engine)
    drive(shared.close())
    assert drive(shared.authenticate(MIA)) is None


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="without a zone"):
        UTCDateTime().process_bind_param(dt.datetime(2026, 1, 1), sa.create_engine("sqlite://").dialect)  # noqa: DTZ001


@pytest.mark.parametrize("driver", ASYNC)
def test_the_asynchronous_context_end_to_end(driver: str, tmp_path: Path) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        hasher = cheap_hasher()
        users = people(engine, hasher=hasher)
        assert users.mode == "async"
        mia = await users.create(MIA | {"name": "Mia", "balance": "1.25", "colour": "red"})
        found = await users.authenticate(MIA)
        assert found is not None
        assert (found.id, found.created_at, found.balance) == (mia.id, mia.created_at, Decimal("1.25"))
        with pytest.raises(InvalidParams) as refused:
            await users.create(MIA)
        assert refused.value.errors == {"email": ["has already been taken"]}
        with pytest.raises(InvalidParams) as refused:
            await users.update(mia, {"current_password": PASSWORD, "age": 500})
        assert refused.value.errors == {"base": ["could not be saved"]}
        changed = await users.update(mia, {"current_password": PASSWORD, "age": 50})
        assert changed.age == 50
        assert changed.updated_at > mia.updated_at
        results = await asyncio.gather(*(users.delete(mia) for _ in range(3)))
        assert sorted(results) == [False, False, True]
        hasher.close()

    run_async(driver, str(tmp_path), [Person], scenario)
