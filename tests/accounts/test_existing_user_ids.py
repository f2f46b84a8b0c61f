"""REP-28: user ids that an older program wrote sign in, and nobody else registers one of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.orm import Session

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
    statements,
    table_name,
)
from powauth import SessionAuth, Throttled
from powauth.accounts.checking import UserIdProblem
from powauth.accounts.identifiers import EmailIdentifier, UsernameIdentifier
from powauth.accounts.identity import Key
from powauth.accounts.spellings import MOST_SPELLINGS, login_key, spellings_of
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin, UsernameMixin
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.errors import ConfigError, InvalidParams

HASHER = cheap_hasher()
STORED = HASHER.hash(PASSWORD)
OTHER_STORED = HASHER.hash(OTHER_PASSWORD)


class Person(BareUser, Base):
    __tablename__ = table_name()


class AnyName:
    field = "username"

    def normalize(self, value: object) -> str:
        return str(value)


class Exact(UserMixin, Base):
    """A model whose user ids every database compares exactly."""

    __tablename__ = table_name()


class Both(UsernameMixin, UserMixin, Base):
    __tablename__ = table_name()


MODELS: list[type[Any]] = [Person, Exact, Both]


@pytest.fixture(params=BLOCKING)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    with blocking_engine(request.param, str(tmp_path), *MODELS) as made:
        yield made


def add(engine: sa.Engine, model: type[Any], **values: Any) -> Key:
    """Insert a row as another program would, and return its key."""
    with Session(engine) as session:
        row = model(**{"password_hash": STORED} | values)
        session.add(row)
        session.commit()
        key: Key = row.id
        return key


def people(engine: sa.Engine, model: type[Any] = Person, **options: Any) -> SQLAlchemyUsers[Any, Any]:
    return SQLAlchemyUsers(engine, model, **{"hasher": HASHER} | options)


def key_for(
    users: SQLAlchemyUsers[Any, Any], user_id: str, password: str = PASSWORD, name: str = "email"
) -> Key | None:
    found = drive(users.authenticate({name: user_id, "password": password}))
    return None if found is None else found.key


def errors_of(work: Any) -> dict[str, list[str]]:
    with pytest.raises(InvalidParams) as refused:
        drive(work)
    return dict(refused.value.errors)


EXISTING = (
    "Mia@Example.com",
    "Bob2",
    "Ann Lee",
    "root@localhost",
    "bob@corp.local",
    "mia@bücher.example",
    "noa@xn--bcher-kva.example",
    "tom@example.com ",
)


@pytest.mark.parametrize("model", [Person, Exact])
def test_rep_28_every_user_id_in_the_table_signs_in(engine: sa.Engine, model: type[Any]) -> None:
    users = people(engine, model)
    keys = {user_id: add(engine, model, email=user_id) for user_id in EXISTING}
    for user_id, key in keys.items():
        with statements(engine) as seen:
            assert key_for(users, user_id) == key, user_id
            assert key_for(users, user_id, OTHER_PASSWORD) is None
        assert seen == ["SELECT"] * 2
        found = drive(users.find(user_id))
        assert found is not None
        assert found.key == key
    for typed, user_id in {
        "mia@xn--bcher-kva.example": "mia@bücher.example",
        " MIA@Bücher.example": "mia@bücher.example",
        "Noa@bücher.example": "noa@xn--bcher-kva.example",
        "Root@LOCALHOST": "root@localhost",
    }.items():
        assert key_for(users, typed) == keys[user_id]


@pytest.mark.parametrize("model", [Person, Exact])
@pytest.mark.parametrize("user_id", ["Mia@Example.com", "mia@EXAMPLE.com", "MIA@example.com"])
def test_rep_28_nobody_registers_another_spelling_of_an_existing_address(
    engine: sa.Engine, model: type[Any], user_id: str
) -> None:
    users = people(engine, model)
    key = add(engine, model, email=user_id)
    for typed in ("mia@example.com", "Mia@Example.com", "MIA@EXAMPLE.COM", " mia@example.com"):
        assert errors_of(users.create({"email": typed, "password": OTHER_PASSWORD})) == {
            "email": ["has already been taken"]
        }
    noa = drive(users.create({"email": "noa@example.com", "password": PASSWORD}))
    change = {"email": "mia@example.com", "current_password": PASSWORD}
    assert errors_of(users.update(noa.key, change)) == {"email": ["has already been taken"]}
    assert errors_of(users.update(noa.key, change, trusted=True)).keys() == {"current_password"}
    assert errors_of(users.update(noa.key, {"email": "mia@example.com"}, trusted=True)) == {
        "email": ["has already been taken"]
    }
    assert drive(users.get(noa.key)) == noa
    with Session(engine) as session:
        assert session.scalar(sa.select(sa.func.count()).select_from(model)) == 2
    assert key_for(users, user_id) == key
    # The user's own address may get its normalised form.
    drive(users.update(key, {"email": "mia@example.com"}, trusted=True))
    assert key_for(users, "MIA@example.com") == key


def test_rep_28_nobody_registers_the_encoded_form_of_an_existing_address(engine: sa.Engine) -> None:
    users = people(engine)
    add(engine, Person, email="mia@Bücher.example")
    for typed in ("mia@xn--bcher-kva.example", "mia@bücher.example"):
        assert errors_of(users.create({"email": typed, "password": PASSWORD})) == {"email": ["has already been taken"]}


@pytest.mark.parametrize("stored", ["mia@BÜCHER.example", "MIA@BüCHER.example"])
def test_rep_28_nobody_registers_an_existing_address_with_capitals_outside_ascii(
    engine: sa.Engine, stored: str
) -> None:
    """The `lower()` of SQLite leaves them as they are."""
    users = people(engine, Exact)
    key = add(engine, Exact, email=stored)
    for typed in ("mia@xn--bcher-kva.example", "mia@bücher.example", stored):
        assert errors_of(users.create({"email": typed, "password": PASSWORD})) == {"email": ["has already been taken"]}
    assert key_for(users, stored) == key
    assert drive(users.create({"email": "mia@bucher.example", "password": PASSWORD})).key != key


@pytest.mark.parametrize(
    ("stored", "typed", "free"),
    [("ÉMILE", "émile", "emile"), ("Ωmega", "ωmega", "omega"), ("ИВАН", "иван", "ивана"), ("GROẞ", "groß", "gross")],
)
def test_rep_28_nobody_registers_an_existing_name_with_capitals_outside_ascii(
    engine: sa.Engine, stored: str, typed: str, free: str
) -> None:
    users = people(engine, Exact, user_id_field="email", identifier=AnyName())
    add(engine, Exact, email=stored)
    assert errors_of(users.create({"email": typed, "password": PASSWORD})) == {"email": ["has already been taken"]}
    if engine.dialect.name != "mysql" or free == "ивана":  # its usual collation takes accents for no difference
        drive(users.create({"email": free, "password": PASSWORD}))


def test_rep_28_two_users_whose_ids_differ_only_by_case_sign_in_with_their_own(engine: sa.Engine) -> None:
    users = people(engine, Exact)
    upper = add(engine, Exact, email="Mia@Example.com")
    lower = add(engine, Exact, email="mia@example.com", password_hash=OTHER_STORED)
    assert key_for(users, "Mia@Example.com") == upper
    assert key_for(users, "mia@example.com", OTHER_PASSWORD) == lower
    assert key_for(users, "mia@example.com") is None
    assert key_for(users, "Mia@Example.com", OTHER_PASSWORD) is None
    assert key_for(users, "MIA@example.com") is None
    assert key_for(users, "MIA@example.com", OTHER_PASSWORD) == lower


def test_get_by_finds_a_user_id_as_it_is_stored_and_in_its_normalised_form(engine: sa.Engine) -> None:
    users = people(engine)
    mia = add(engine, Person, email="Mia@Example.com")
    ann = add(engine, Person, email="Ann Lee")
    noa = add(engine, Person, email="noa@example.com")
    cases: list[tuple[dict[str, object], Key | None, int]] = [
        ({"email": "Mia@Example.com"}, mia, 2),
        ({"email": "Ann Lee", "is_active": True}, ann, 1),
        ({"email": "NOA@example.com"}, noa, 1),
        ({"email": "tom@example.com"}, None, 1),
        ({"email": "Ann Lee", "is_active": "perhaps"}, None, 0),
        ({"email": 7}, None, 0),
        ({"id": noa}, noa, 1),
    ]
    for clauses, key, queries in cases:
        with statements(engine) as seen:
            found = drive(users.get_by(**clauses))
        assert (None if found is None else found.key) == key
        assert len(seen) == queries


def test_an_old_user_id_stays_valid_in_a_form_that_does_not_change_it(engine: sa.Engine) -> None:
    users = people(engine)
    key = add(engine, Person, email="root@localhost")
    before = drive(users.get(key))
    assert before is not None
    form = {"email": "root@localhost", "current_password": PASSWORD}
    assert users.validate(form, before.identity) == {}
    assert drive(users.update(key, form)) == before
    assert errors_of(users.update(key, form | {"email": "Root@localhost"})) == {"email": ["has invalid format"]}
    assert list(users.validate(form | {"email": None}, before.identity)) == ["email"]
    assert list(users.validate(form)) == ["email", "password"]


def test_what_no_user_id_can_be_finds_nobody_without_a_query(engine: sa.Engine) -> None:
    users = people(engine)
    with statements(engine) as seen:
        for value in (None, 7, "", " ", "\t", "a\0", "a\r\nb", "\ud800", "x" * 1025, ["Bob2"], b"Bob2"):
            assert drive(users.find(value)) is None
            assert users.login_key({"email": value}) is None
    assert seen == []


SPELLINGS = st.text(alphabet="aAkKmM@.- \t\u212a\u00fc\u00dc\uff20xn1e\u0301\u00e9", min_size=1, max_size=20)


@given(typed=SPELLINGS | SPELLINGS.map(lambda text: f"{text}@b\u00fccher.example"))
def test_rep_62_all_values_that_a_typed_user_id_may_mean_count_under_one_key(typed: str) -> None:
    for identifier in (EmailIdentifier(), EmailIdentifier(allow_international=True), UsernameIdentifier()):
        found = spellings_of(identifier, typed)
        assert len(found) == (MOST_SPELLINGS if login_key(identifier, typed) else 0)
        assert {login_key(identifier, each) for each in found} <= {login_key(identifier, typed)}
        assert not found or found[0] == typed


def auth_of(users: SQLAlchemyUsers[Any, Any]) -> SessionAuth[Any, Any]:
    return SessionAuth(secret_key=SECRET, users=users, backend=MemoryBackend(), clock=Clock())


def attempts_until_throttled(users: SQLAlchemyUsers[Any, Any], spellings: list[dict[str, str]]) -> int:
    auth = auth_of(users)
    for number in range(20):
        params = spellings[number % len(spellings)] | {"password": OTHER_PASSWORD}
        connection = FakeConnection()
        drive(auth.call(connection))
        try:
            assert drive(auth.accounts.sign_in(connection, params)) is None
        except Throttled:
            return number
    return 20


@pytest.mark.parametrize("stored", ["Mia@Example.com", "Ann Lee", "root@localhost", "mia@bücher.example"])
def test_rep_62_guesses_in_different_spellings_count_together(engine: sa.Engine, stored: str) -> None:
    users = people(engine)
    add(engine, Person, email=stored)
    spellings = [stored, stored.upper(), stored.lower(), stored.title(), f" {stored}", f"{stored}\t", stored.swapcase()]
    assert attempts_until_throttled(users, [{"email": each} for each in spellings]) == 10


TWINS = ("Mia@Example.com", "mia@example.com")


@pytest.mark.parametrize(("own", "other"), [TWINS, TWINS[::-1]])
def test_rep_62_a_twin_who_signs_in_resets_no_guesses_at_the_other(engine: sa.Engine, own: str, other: str) -> None:
    """Old tables may hold two users whose ids differ only by case. One of them may be an attacker."""
    users = people(engine, Exact)
    keys = {each: add(engine, Exact, email=each, password_hash=HASHER.hash(f"{each} {PASSWORD}")) for each in TWINS}
    auth = auth_of(users)

    def attempt(user_id: str, password: str) -> Key | None:
        connection = FakeConnection()
        drive(auth.call(connection))
        found = drive(auth.accounts.sign_in(connection, {"email": user_id, "password": password}))
        return None if found is None else auth.key_of(found)

    for _ in range(10):
        assert attempt(own, f"{own} {PASSWORD}") == keys[own]
        assert attempt(other, OTHER_PASSWORD) is None
    with pytest.raises(Throttled):
        attempt(other, f"{other} {PASSWORD}")
    assert attempt(own, f"{own} {PASSWORD}") == keys[own]
    assert drive(auth.forget_failures({"email": other}))
    assert attempt(other, f"{other} {PASSWORD}") == keys[other]


@pytest.mark.parametrize(
    "typed", ["Mia@Example.com", "mia@example.com", "MIA@example.com", "Ann Lee", "root@localhost"]
)
def test_rep_62_the_statements_of_a_count_do_not_tell_who_exists(engine: sa.Engine, typed: str) -> None:
    users = people(engine, Exact)

    def statements_of() -> list[str]:
        with statements(engine) as seen:
            drive(users.throttle_key({"email": typed}))
            drive(users.authenticate({"email": typed, "password": OTHER_PASSWORD}))
        return seen

    nobody = statements_of()
    add(engine, Exact, email=typed)
    assert statements_of() == nobody
    if typed != typed.lower():
        add(engine, Exact, email=typed.lower())
        assert statements_of() == nobody


# Several user ids


def both(engine: sa.Engine, **options: Any) -> SQLAlchemyUsers[Any, Any]:
    return people(engine, Both, **{"user_id_field": ("email", "username")} | options)


MIA = {"email": "mia@example.com", "username": "mia", "password": PASSWORD}


def test_users_sign_in_with_either_of_two_ids(engine: sa.Engine) -> None:
    users = both(engine)
    assert (users.user_id_field, users.other_user_id_fields) == ("email", ("username",))
    mia = drive(users.create(MIA))
    assert (mia.identity.email, mia.identity.username) == ("mia@example.com", "mia")
    for typed in ("mia@example.com", "MIA@example.com", "mia", "Mia"):
        with statements(engine) as seen:
            assert key_for(users, typed) == mia.key
            assert key_for(users, typed, name="username") == mia.key
            assert key_for(users, typed, OTHER_PASSWORD) is None
        assert seen == ["SELECT"] * 3
        assert drive(users.find(typed)) == mia
    assert drive(users.authenticate({"email": "", "username": "mia", "password": PASSWORD})) == mia
    assert drive(users.authenticate({"email": "noa", "username": "mia", "password": PASSWORD})) is None
    changed = drive(users.update(mia.key, {"username": "mia2"}, trusted=True))
    assert changed.proof != mia.proof  # so the sessions end
    assert key_for(users, "mia") is None


def test_guesses_at_both_ids_of_a_user_count_together(engine: sa.Engine) -> None:
    users = both(engine)
    drive(users.create(MIA))
    typed = [{"email": "mia"}, {"email": "mia@example.com"}, {"username": "MIA"}, {"username": "Mia@example.com"}]
    assert attempts_until_throttled(users, typed) == 10
    assert attempts_until_throttled(users, [{"email": "nobody"}, {"email": "Nobody"}]) == 10
    assert drive(users.throttle_key({"email": ""})) is None
    assert users.login_key({"email": "A b"}) == "a b"


def test_nobody_takes_the_address_of_another_user_as_a_user_name(engine: sa.Engine) -> None:
    users = both(engine, identifier={"username": AnyName()})
    mia = drive(users.create(MIA))
    mallory = {"email": "mallory@example.com", "username": "MIA@example.com", "password": OTHER_PASSWORD}
    assert errors_of(users.create(mallory)) == {"username": ["has already been taken"]}
    drive(users.create(mallory | {"username": "mallory"}))
    # Even if another program has written it, the address finds its owner.
    add(engine, Both, email="eve@example.com", username="mia@example.com", password_hash=OTHER_STORED)
    for typed in ("mia@example.com", "MIA@example.com"):
        assert key_for(users, typed) == mia.key
        assert key_for(users, typed, OTHER_PASSWORD) is None
        found = drive(users.find(typed))
        assert found is not None
        assert found.key == mia.key
    problems = drive(problems_of(users))
    assert {each.user_id for each in problems if each.collides_with} == {"mia@example.com"}
    assert len(problems) == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"user_id_field": ()}, "a name, or a tuple of different names"),
        ({"user_id_field": ("email", "email")}, "a name, or a tuple of different names"),
        ({"user_id_field": 7}, "a name, or a tuple of different names"),
        ({"user_id_field": ("email", "nickname")}, "has no column 'nickname'"),
        ({"user_id_field": ("email", "password_hash")}, "must be unique"),
        ({"identifier": EmailIdentifier()}, "identifier must be a mapping for several user ids"),
        ({"identifier": {"name": EmailIdentifier()}}, "identifier names 'name'"),
        ({"identifier": {"email": "lower"}}, "must have a method normalize"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        both(sa.create_engine("sqlite://"), **options)


# The check of a table


async def problems_of(users: SQLAlchemyUsers[Any, Any], **options: Any) -> list[UserIdProblem]:
    return [each async for each in users.check_user_ids(**options)]


@pytest.mark.parametrize("batch", [1, 2, 1000])
def test_rep_28_the_check_lists_rows_that_are_not_normalised_and_rows_that_collide(
    engine: sa.Engine, batch: int
) -> None:
    users = people(engine, Exact)
    stored = ("Mia@Example.com", "mia@example.com", "Tom@example.com", "noa@example.com", "Ann Lee", "root@localhost")
    keys = {user_id: add(engine, Exact, email=user_id) for user_id in stored}
    found = {each.user_id: each for each in drive(problems_of(users, batch=batch))}
    assert found.keys() == {"Mia@Example.com", "mia@example.com", "Tom@example.com", "Ann Lee"}
    assert found["Mia@Example.com"].collides_with == (keys["mia@example.com"],)
    assert found["mia@example.com"].collides_with == (keys["Mia@Example.com"],)
    assert found["Tom@example.com"] == UserIdProblem(
        key=keys["Tom@example.com"], field="email", user_id="Tom@example.com", normalized="tom@example.com"
    )
    assert found["Ann Lee"].normalized is None
    assert [each for each in found if found[each].is_safe_to_normalize] == ["Tom@example.com"]


def test_the_check_lists_a_user_id_with_which_nobody_can_sign_in(engine: sa.Engine) -> None:
    users = people(engine, Exact)
    add(engine, Exact, email="red\x07@example.com")
    assert drive(users.find("red\x07@example.com")) is None
    (problem,) = drive(problems_of(users))
    assert (problem.user_id, problem.normalized, problem.is_safe_to_normalize) == ("red\x07@example.com", None, False)


def test_the_check_runs_on_an_event_loop(tmp_path: Path) -> None:
    async def scenario(engine: Any) -> list[UserIdProblem]:
        async with engine.begin() as connection:
            row = {"id": 1, "email": "Bob@example.com", "is_active": True}
            await connection.execute(sa.insert(Person), [row])
        users: SQLAlchemyUsers[Any, Any] = SQLAlchemyUsers(engine, Person, hasher=HASHER)
        return await problems_of(users)

    (problem,) = run_async("sqlite+aiosqlite", str(tmp_path), [Person], scenario)
    assert problem.user_id == "Bob@example.com"


@pytest.mark.parametrize("driver", ["sqlite", "postgresql+psycopg"])
def test_an_index_on_the_lower_case_value_answers_the_query_and_stops_other_programs(
    driver: str, tmp_path: Path
) -> None:
    with blocking_engine(driver, str(tmp_path), Exact) as engine:
        index = sa.Index(f"{Exact.__tablename__}_lower", sa.func.lower(Exact.email), unique=True)
        try:
            index.create(engine)
            users = people(engine, Exact)
            drive(users.create(MIA))
            with pytest.raises(sa.exc.IntegrityError):
                add(engine, Exact, email="Mia@Example.com")
            if driver == "sqlite":
                with engine.connect() as connection:
                    plan = connection.exec_driver_sql(
                        f"EXPLAIN QUERY PLAN SELECT email FROM {Exact.__tablename__} WHERE lower(email) IN ('a')"
                    ).all()
                assert "USING INDEX" in str(plan)
        finally:
            Exact.__table__.indexes.discard(index)  # type: ignore[attr-defined]
