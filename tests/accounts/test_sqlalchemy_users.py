"""`SQLAlchemyUsers`: the requirements for sign-in, passwords and user ids, statement counts, and races."""

import asyncio
import datetime as dt
import threading
import uuid
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from argon2 import low_level
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Mapped, mapped_column

from harness.people import (
    HASHER,
    MIA,
    Colour,
    Me,
    Meanwhile,
    Person,
    errors_of,
    people,
    row_of,
    set_row,
    signed_in,
)
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
from powauth.accounts.base import Account
from powauth.accounts.passwords import PasswordHasher, PasswordPolicy
from powauth.accounts.sqlalchemy import AccountMixin, SQLAlchemyUsers, UserMixin, UsernameMixin
from powauth.backends.base import drive
from powauth.errors import InvalidParams, Overloaded


class Plain(UserMixin, Base):
    """A model with the columns of the mixin alone."""

    __tablename__ = table_name()


# Statement counts


def test_counts_of_statements(engine: sa.Engine) -> None:
    users = people(engine)
    with statements(engine) as seen:
        mia = drive(users.create(MIA))
    assert seen == ["INSERT", "SELECT", "SELECT"]  # other spellings, and the values that the database gives
    with statements(engine) as seen:
        assert drive(users.authenticate(MIA)) is not None
        assert seen == ["SELECT"]
        drive(users.authenticate(MIA | {"password": OTHER_PASSWORD}))
        drive(users.authenticate(MIA | {"email": "nobody@example.com"}))
        assert seen == ["SELECT"] * 3
    with statements(engine) as seen:
        drive(users.get(mia.key))
        drive(users.find("mia@example.com"))
        drive(users.get_by(email="mia@example.com"))
        assert seen == ["SELECT"] * 3
        users.validate({"name": "Mia"}, mia.identity)
        users.login_key(MIA)
        users.key_of(mia.identity)
    assert seen == ["SELECT"] * 3
    with statements(engine) as seen:
        drive(users.update(mia.key, {"current_password": PASSWORD, "name": "Mia"}))
    assert seen == ["SELECT", "UPDATE", "SELECT"]
    with statements(engine) as seen:
        drive(users.update(mia.key, {"current_password": PASSWORD, "name": "Mia"}))
    assert seen == ["SELECT"]


@pytest.mark.parametrize("driver", BLOCKING)
def test_a_sign_in_is_one_select_on_every_database(driver: str, tmp_path: Path) -> None:
    with blocking_engine(driver, str(tmp_path), Plain, Person) as engine:
        for users in (SQLAlchemyUsers(engine, Plain, hasher=HASHER), people(engine)):
            drive(users.create(MIA))
            with statements(engine) as seen:
                assert drive(users.authenticate(MIA)) is not None
                assert drive(users.authenticate(MIA | {"password": OTHER_PASSWORD})) is None
                assert drive(users.authenticate(MIA | {"email": "nobody@example.com"})) is None
            assert seen == ["SELECT"] * 3


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


def refused_sign_ins(engine: sa.Engine, users: SQLAlchemyUsers[Person, Me]) -> dict[str, dict[str, object]]:
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
        assert seen == (["SELECT"] if "no user id" not in name and name != "nothing" else []), name


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
        assert list(errors_of(users.update(mia.key, {"current_password": PASSWORD, name: value}))) == [name]
    assert list(errors_of(users.update(mia.key, {"current_password": value, "name": "Mia"}))) == ["current_password"]
    assert list(errors_of(users.update(mia.key, {"current_password": PASSWORD, "email": value}))) == ["email"]
    assert list(errors_of(users.update(mia.key, {"current_password": PASSWORD, "password": value}))) == ["password"]
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
    before = row_of(engine, mia)
    changed = drive(users.update(mia.key, extra | {"current_password": PASSWORD, "name": "Maria"}))
    for row in (before, row_of(engine, mia)):
        assert (row.is_admin, row.role, row.nickname, row.locked) == (False, "user", None, False)
        assert str(row.id) != extra["id"]
        assert row.password_hash == before.password_hash != "$argon2id$forged"
        assert row.created_at == before.created_at > dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
    assert changed.identity.name == "Maria"


@pytest.mark.parametrize(
    "answer", [False, None, 0, 1, "", "no", "True", [1], object()], ids=lambda value: type(value).__name__
)
def test_aut_05_only_true_is_active(engine: sa.Engine, answer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    users = people(engine)
    mia = drive(users.create(MIA))
    monkeypatch.setattr(Person, "is_active", answer)
    found = drive(users.get(mia.key))
    assert found is not None
    assert found.active is False
    assert drive(users.authenticate(MIA)) is None
    assert errors_of(users.update(mia.key, {"current_password": PASSWORD, "name": "Mia"})) == {
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
        assert list(errors_of(users.update(mia.key, own))) == ["password"]
        assert list(errors_of(users.update(mia.key, {"password": password}, trusted=True))) == ["password"]
        if "mia" not in password.lower():
            assert list(errors_of(users.create({"email": "noa@example.com", "password": password}))) == ["password"]
    # Against the user id as it will be.
    both = {"current_password": PASSWORD, "password": "noa.heron", "email": "noa.heron@example.com"}
    assert list(errors_of(users.update(mia.key, both))) == ["password"]
    assert drive(users.authenticate({"email": "mia.heron@example.com", "password": PASSWORD})) is not None


def test_pwd_05_the_breached_hook_is_asked_off_the_event_loop(tmp_path: Path) -> None:
    threads: list[int] = []

    def breached(password: str) -> bool:
        threads.append(threading.get_ident())
        return password == PASSWORD

    async def scenario(engine: AsyncEngine) -> None:
        users = people(engine, policy=PasswordPolicy(breached=breached))
        assert users.validate(MIA) == {}  # asks nobody
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
    with statements(engine) as seen:
        found = drive(users.authenticate(MIA))
    assert seen == ["SELECT"]
    assert row_of(engine, mia) == old  # powauth lets the user's sessions accept the new proof first
    assert found is not None
    assert found.proof == mia.proof
    assert found.rehash is not None
    with statements(engine) as seen:
        assert drive(written(found)) is True
    assert seen == ["UPDATE"]
    new = row_of(engine, mia)
    assert new.password_hash != old.password_hash
    assert "m=64," in new.password_hash
    assert new.updated_at == old.updated_at
    assert drive(written(found)) is False  # it is another hash by now
    with statements(engine) as seen:
        again = drive(users.authenticate(MIA))
        weaker = drive(people(engine, hasher=cheap_hasher(memory_cost=32)).authenticate(MIA))
    assert seen == ["SELECT"] * 2
    for account in (again, weaker):
        assert account is not None
        assert account.proof == found.rehash.proof
        assert account.rehash is None  # never weakened
    assert row_of(engine, mia) == new


async def written(account: Account[Any]) -> bool:
    assert account.rehash is not None
    return await account.rehash.write()


def test_pwd_07_two_sign_ins_in_parallel_make_the_hash_again_once(engine: sa.Engine) -> None:
    mia = drive(people(engine, hasher=cheap_hasher(memory_cost=32)).create(MIA))
    hasher = Meanwhile()
    winners: list[Account[Me] | None] = []
    hasher.todo = [lambda: winners.append(drive(signed_in(people(engine), MIA)))]
    assert drive(signed_in(people(engine, hasher=hasher), MIA)) is None  # so the sign-in starts over
    (winner,) = winners
    again = drive(people(engine).authenticate(MIA))
    current = drive(people(engine).get(mia.key))
    assert winner is not None
    assert again is not None
    assert current is not None
    assert again.proof == winner.proof == current.proof
    assert again.rehash is None


@pytest.mark.parametrize("deleted", [False, True])
def test_pwd_07_a_sign_in_loses_to_a_change_of_the_password(engine: sa.Engine, deleted: bool) -> None:
    mia = drive(people(engine, hasher=cheap_hasher(memory_cost=32)).create(MIA))
    users, hasher = people(engine), Meanwhile()

    def change() -> None:
        if deleted:
            drive(users.delete(mia.key))
        else:
            drive(users.update(mia.key, {"password": OTHER_PASSWORD}, trusted=True))

    hasher.todo = [change]
    assert drive(signed_in(people(engine, hasher=hasher), MIA)) is None
    assert (drive(users.authenticate(MIA | {"password": OTHER_PASSWORD})) is None) is deleted
    assert drive(users.authenticate(MIA)) is None


def test_pwd_09_the_current_password_is_the_databases(engine: sa.Engine) -> None:
    users = people(engine)
    mia = drive(users.create(MIA))
    drive(users.update(mia.key, {"password": OTHER_PASSWORD}, trusted=True))
    change = {"current_password": PASSWORD, "email": "eve@example.com"}
    assert errors_of(users.update(mia.key, change)) == {"current_password": ["is invalid"]}
    assert errors_of(users.delete(mia.key, change)) == {"current_password": ["is invalid"]}
    changed = drive(users.update(mia.key, change | {"current_password": OTHER_PASSWORD}))
    assert changed.identity.email == "eve@example.com"


def test_pwd_09_a_change_that_is_overtaken_by_a_new_password_is_refused(engine: sa.Engine) -> None:
    users, hasher = people(engine), Meanwhile()
    mia = drive(users.create(MIA))
    hasher.todo = [lambda: set_row(engine, mia, password_hash=HASHER.hash(OTHER_PASSWORD))]
    change = {"current_password": PASSWORD, "password": "thirteen blue owls"}
    assert errors_of(people(engine, hasher=hasher).update(mia.key, change)) == {"current_password": ["is invalid"]}
    assert drive(users.authenticate(MIA | {"password": OTHER_PASSWORD})) is not None


def test_a_trusted_change_that_is_overtaken_is_made_again_and_at_last_given_up(engine: sa.Engine) -> None:
    users, hasher = people(engine), Meanwhile()
    mia = drive(users.create(MIA))
    overtaken = people(engine, hasher=hasher)
    hasher.todo = [lambda: set_row(engine, mia, password_hash="!", name="Mia")]
    changed = drive(overtaken.update(mia.key, {"password": OTHER_PASSWORD}, trusted=True))
    assert changed.identity.name == "Mia"  # only what was asked for is written
    hasher.todo = [lambda: set_row(engine, mia, password_hash=str(uuid.uuid4()))] * 9
    errors = errors_of(overtaken.update(mia.key, {"password": PASSWORD}, trusted=True))
    assert errors == {"base": ["was changed at the same time; try again"]}


def test_a_deletion_that_is_overtaken_is_proved_again(engine: sa.Engine) -> None:
    class Changing(PasswordHasher):
        def verify(self, stored: object, password: object) -> bool:
            correct = super().verify(stored, password)
            set_row(engine, mia, password_hash=HASHER.hash(PASSWORD))
            return correct

    mia = drive(people(engine).create(MIA))
    hasher = Changing(time_cost=1, memory_cost=64, cheap_and_unsafe=True)
    errors = errors_of(people(engine, hasher=hasher).delete(mia.key, {"current_password": PASSWORD}))
    assert errors == {"base": ["was changed at the same time; try again"]}
    assert drive(people(engine).delete(mia.key, {"current_password": PASSWORD})) is True


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
        assert {type(each) for each in results} <= {Account, Overloaded}
        assert any(isinstance(each, Account) for each in results)
        assert isinstance(await users.authenticate(MIA), Account)
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
        assert sum(isinstance(each, Account) for each in outcomes) == 1
        assert outcomes.count({"email": ["has already been taken"]}) == len(spellings) - 1
        with engine.connect() as connection:
            assert connection.scalars(sa.select(Person.__table__.c.email)).all() == ["a@ex.com"]
        for spelling in spellings:
            assert drive(users.authenticate({"email": spelling, "password": PASSWORD})) is not None
            assert drive(users.find(spelling)) is not None


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
        users: SQLAlchemyUsers[Any, Any] = SQLAlchemyUsers(engine, model, hasher=HASHER, identifier=As())
        mike = {"email": "mike@example.com", "password": PASSWORD}
        drive(users.create(mike))
        assert drive(users.authenticate(mike)) is not None
        for lookalike in LOOKALIKES:
            assert drive(users.authenticate(mike | {"email": lookalike})) is None
            assert drive(users.find(lookalike)) is None
        if model is Person:  # and each may have an account of its own
            # Only the case differs, or MariaDB pads and no form ends so.
            distinct = [each for each in LOOKALIKES if each not in ("MIKE@example.com", "mike@example.com ")]
            assert list(errors_of(users.create(mike | {"email": "MIKE@example.com"}))) == ["email"]
            others = [drive(users.create(mike | {"email": lookalike})) for lookalike in distinct]
            assert [user.identity.email for user in others] == distinct


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
            assert drive(users.find(address)) is None
            assert drive(users.get_by(email=address)) is None
            assert drive(users.authenticate({"email": address, "password": PASSWORD})) is None
            assert drive(users.get_by(name=address)) is None
        assert seen == []


def test_uid_04_who_takes_over_an_address_is_somebody_else(engine: sa.Engine) -> None:
    users = people(engine)
    mia = drive(users.create(MIA))
    moved = drive(users.update(mia.key, {"current_password": PASSWORD, "email": "mia2@example.com"}))
    noa = drive(users.create(MIA | {"password": OTHER_PASSWORD}))
    assert noa.key != mia.key == moved.key
    assert len({mia.proof, moved.proof, noa.proof}) == 3
    found = drive(users.get(mia.key))
    assert found is not None
    assert found.identity.email == "mia2@example.com"


class Numbered(UserMixin, Base):
    """A model whose keys SQLite gives out again."""

    __tablename__ = table_name()

    id: Mapped[int] = mapped_column(primary_key=True)  # type: ignore[assignment]


@pytest.mark.parametrize("password", [PASSWORD, OTHER_PASSWORD])
@pytest.mark.parametrize("email", [MIA["email"], "noa@example.com"])
def test_uid_04_a_number_that_is_given_out_again_has_another_proof(email: str, password: str, tmp_path: Path) -> None:
    with blocking_engine("sqlite", str(tmp_path), Numbered) as engine:
        users = SQLAlchemyUsers(engine, Numbered, hasher=HASHER)
        mia = drive(users.create(MIA))
        assert drive(users.delete(mia.key)) is True
        assert drive(users.get(mia.key)) is None
        noa = drive(users.create({"email": email, "password": password}))
        assert noa.key == mia.key == 1
        assert noa.proof != mia.proof
        found = drive(users.get(mia.key))
        assert found is not None
        assert found.proof == noa.proof


def test_user_names_beside_and_instead_of_addresses(tmp_path: Path) -> None:
    class Named(UsernameMixin, AccountMixin, Base):
        __tablename__ = table_name()

    class Both(UsernameMixin, UserMixin, Base):
        __tablename__ = table_name()

    with blocking_engine("sqlite", str(tmp_path), Named, Both) as engine:
        named = SQLAlchemyUsers(engine, Named, user_id_field="username", hasher=HASHER)
        assert drive(named.create({"username": "Mia_93", "password": PASSWORD})).identity.username == "mia_93"
        assert drive(named.authenticate({"username": " MIA_93", "password": PASSWORD})) is not None
        assert errors_of(named.create({"username": "mi\u212ae", "password": PASSWORD})).keys() == {"username"}
        both = SQLAlchemyUsers(engine, Both, user_id_field="username", fields=["email"], hasher=HASHER)
        mia = {"username": "mia", "email": "Mia@Example.com", "password": PASSWORD}
        made = drive(both.create(mia))
        assert made.identity.username == "mia"
        found = drive(both.get_by(email="mia@example.com"))
        assert found is not None
        assert found.key == made.key
        assert errors_of(both.create(mia | {"username": "noa"})) == {"email": ["has already been taken"]}
        assert errors_of(both.create(mia)) == {
            "username": ["has already been taken"],
            "email": ["has already been taken"],
        }
        assert errors_of(both.create({"username": "noa", "password": PASSWORD})) == {"email": ["can't be blank"]}


@pytest.mark.parametrize("driver", ASYNC)
def test_the_asynchronous_context_end_to_end(driver: str, tmp_path: Path) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        hasher = cheap_hasher()
        users = people(engine, hasher=hasher)
        assert users.mode == "async"
        mia = await users.create(MIA | {"name": "Mia", "balance": "1.25", "colour": "red"})
        found = await users.authenticate(MIA)
        assert found is not None
        assert (found.key, found.proof, found.identity) == (mia.key, mia.proof, mia.identity)
        assert found.identity.colour is Colour.RED
        assert await users.get_by(balance=Decimal("1.25")) == found
        with pytest.raises(InvalidParams) as refused:
            await users.create(MIA)
        assert refused.value.errors == {"email": ["has already been taken"]}
        with pytest.raises(InvalidParams) as refused:
            await users.update(mia.key, {"current_password": PASSWORD, "age": 500})
        assert refused.value.errors == {"base": ["could not be saved"]}
        changed = await users.update(mia.key, {"current_password": PASSWORD, "age": 50})
        assert changed.identity.age == 50
        assert changed.identity.updated_at > mia.identity.updated_at
        weak = cheap_hasher(memory_cost=32)
        await people(engine, hasher=weak).update(mia.key, {"password": OTHER_PASSWORD}, trusted=True)
        assert await signed_in(users, MIA | {"password": OTHER_PASSWORD}) is not None
        results = await asyncio.gather(*(users.delete(mia.key) for _ in range(3)))
        assert sorted(results) == [False, False, True]
        weak.close()
        hasher.close()

    run_async(driver, str(tmp_path), [Person], scenario)
