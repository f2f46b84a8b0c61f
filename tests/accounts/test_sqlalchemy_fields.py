"""The columns that parameters reach in `SQLAlchemyUsers`, and the values that fit them."""

import datetime as dt
import uuid
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Mapped, mapped_column

from harness.people import HASHER, MIA, Colour, Person, Pet, errors_of, people, row_of
from harness.users_databases import BLOCKING, OTHER_PASSWORD, PASSWORD, Base, blocking_engine, table_name
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin, UTCDateTime
from powauth.backends.base import drive
from powauth.errors import ConfigError


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
    assert users.validate(MIA | {name: value}) == {name: [message]}
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
        assert errors_of(users.update(mia.key, value | {"current_password": PASSWORD})) == expected
        if nickname:  # one's own value is nobody else's
            kept = value | {"current_password": PASSWORD, "name": "Noa"}
            assert drive(users.update(noa.key, kept)).identity.name == "Noa"


def test_everything_that_is_wrong_is_said_at_once(engine: sa.Engine) -> None:
    users = people(engine)
    bad = {"email": "mia", "password": "short", "age": "5"}
    expected = {"email": ["has invalid format"], "age": ["is invalid"], "password": ["should be at least 8 characters"]}
    assert users.validate(bad) == errors_of(users.create(bad)) == expected
    assert errors_of(users.create({})) == {"email": ["can't be blank"], "password": ["can't be blank"]}
    mia = drive(users.create(MIA))
    assert users.validate({}, mia.identity) == {"current_password": ["can't be blank"]}
    assert users.validate({"current_password": "x", "password": ""}, mia.identity) == {}
    assert users.validate({"current_password": "x", "password": None}, mia.identity) == {"password": ["can't be blank"]}
    assert users.validate({"current_password": "x", "password": "mia@example.com"}, mia.identity) == {
        "password": ["is too easy to guess: it is your user name or address"]
    }


def test_a_trusted_change_reaches_every_column_but_the_key(engine: sa.Engine) -> None:
    users = people(engine)
    mia = drive(users.create(MIA))
    values = {"role": "admin", "locked": True, "settings": {"a": [1]}, "name": None}
    changed = drive(users.update(mia.key, values, trusted=True))
    row = row_of(engine, mia)
    assert (row.role, row.locked, row.settings) == ("admin", True, {"a": [1]})
    assert (changed.identity.role, changed.active) == ("admin", False)
    changed = drive(users.update(mia.key, {"password_hash": None, "email": " New@Example.com"}, trusted=True))
    assert (row_of(engine, mia).password_hash, changed.identity.email) == (None, "new@example.com")
    drive(users.update(mia.key, {"password": OTHER_PASSWORD}, trusted=True))
    assert HASHER.verify(row_of(engine, mia).password_hash, OTHER_PASSWORD)
    wrong = {"id": uuid.uuid4(), "nonsense": 1, "role": None, "is_admin": 1}
    assert errors_of(users.update(mia.key, wrong, trusted=True)) == {
        "id": ["cannot be set"],
        "nonsense": ["cannot be set"],
        "role": ["is invalid"],
        "is_admin": ["is invalid"],
    }


def test_columns_keep_every_kind_of_value(engine: sa.Engine) -> None:
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
    row = row_of(engine, drive(people(engine).create(MIA | values)))
    assert row.seen_at == dt.datetime(2026, 1, 2, 1, 4, 5, 6, tzinfo=dt.UTC)
    assert (row.colour, row.balance, row.birthday) == (Colour.RED, Decimal("12.50"), dt.date(1986, 2, 28))
    assert (row.name, row.nickname, row.age, row.height, str(row.token)) == ("Mia", "m", 40, 1.75, values["token"])


def test_times_come_from_the_clock_and_only_a_change_moves_them(engine: sa.Engine) -> None:
    now = dt.datetime(2026, 5, 1, 12, 0, 0, 123456, tzinfo=dt.UTC)
    users = people(engine, clock=lambda: now)
    mia = drive(users.create(MIA))
    later = dt.datetime(2026, 5, 2, 9, 0, tzinfo=dt.timezone(dt.timedelta(hours=9)))
    users = people(engine, clock=lambda: later)
    drive(users.update(mia.key, {"name": None}, trusted=True))
    assert row_of(engine, mia)[-2:] == (now, now)
    changed = drive(users.update(mia.key, {"name": "Mia"}, trusted=True))
    assert row_of(engine, mia)[-2:] == (now, later)
    assert changed.identity.updated_at == later
    assert changed.identity.updated_at.tzinfo is dt.UTC


def test_get_by_finds_one_user_or_none(engine: sa.Engine) -> None:
    users = people(engine)
    mia = drive(users.create(MIA | {"name": "Mia", "age": 40}))
    drive(users.create({"email": "noa@example.com", "password": PASSWORD, "age": 40, "colour": "blue"}))
    found: list[dict[str, object]] = [
        {"email": " MIA@example.com"},
        {"name": "Mia", "age": 40},
        {"id": mia.key},
        {"id": str(mia.key)},
    ]
    for clauses in found:
        account = drive(users.get_by(**clauses))
        assert account is not None
        assert account.key == mia.key
    several_or_none: list[dict[str, object]] = [
        {"age": 40},
        {"age": "40"},
        {"id": "x"},
        {"name": "mia"},
        {"email": "x"},
        {"settings": {1}},
    ]
    for clauses in several_or_none:
        assert drive(users.get_by(**clauses)) is None


@pytest.mark.parametrize("value", [None, "", " ", "\t\n", b""], ids=repr)
def test_rep_31_a_look_up_of_a_blank_is_an_error(engine: sa.Engine, value: object) -> None:
    users = people(engine)
    drive(users.create(MIA))  # without a nickname and a token
    clauses: list[dict[str, object]] = [
        {"nickname": value},
        {"token": value},
        {"email": "mia@example.com", "nickname": value},
    ]
    for each in clauses:
        with pytest.raises(ConfigError, match="is blank, which identifies nobody"):
            drive(users.get_by(**each))
    assert drive(users.find(value)) is None
    for name in ("email", "password"):
        assert drive(users.authenticate(MIA | {name: value})) is None


@pytest.mark.parametrize("clauses", [{}, {"nonsense": 1}, {"__class__": 1}, {"is_active": True}], ids=repr)
def test_get_by_refuses_what_is_no_column(engine: sa.Engine, clauses: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="get_by"):
        drive(people(engine).get_by(**clauses))


def test_a_user_that_others_need_is_not_deleted(engine: sa.Engine) -> None:
    users = people(engine)
    mia = drive(users.create(MIA))
    with orm.Session(engine) as session:
        session.add(Pet(id=1, owner_id=mia.key))
        session.commit()
    assert errors_of(users.delete(mia.key)) == {"base": ["cannot be deleted while other records need it"]}
    assert drive(users.get(mia.key)) is not None


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
            session.add(Note(owner_id=owner.key))
            session.commit()
        assert drive(users.delete(owner.key, {"current_password": PASSWORD})) is True
        with orm.Session(engine) as session:
            assert session.scalars(sa.select(Note)).all() == []


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="without a zone"):
        UTCDateTime().process_bind_param(dt.datetime(2026, 1, 1), sa.create_engine("sqlite://").dialect)  # noqa: DTZ001
