"""Models and options that `SQLAlchemyUsers` accepts, and those that it refuses with what to do."""

import uuid
from typing import Any, assert_type

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import DeclarativeBase, mapped_column

from harness.people import HASHER, MIA, Me, Person, Pet, people
from harness.users_databases import OTHER_PASSWORD, PASSWORD, statements, table_name
from powauth.accounts.policy import PasswordPolicy
from powauth.accounts.sqlalchemy import SQLAlchemyUsers
from powauth.backends.base import drive
from powauth.errors import ConfigError


class OtherBase(DeclarativeBase):
    pass


def broken(name: str, **attributes: Any) -> type[Any]:
    """A model with some attribute replaced, or removed with ``None``."""
    columns: dict[str, Any] = {
        "__tablename__": table_name(),
        "id": mapped_column(sa.Uuid, primary_key=True, default=uuid.uuid4),
        "email": mapped_column(sa.String(254), unique=True),
        "password_hash": mapped_column(sa.String(255)),
        "is_active": True,
    } | attributes
    return type(name, (OtherBase,), {key: value for key, value in columns.items() if value is not None})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (object, "must be a SQLAlchemy declarative class"),
        (broken("A", email=None), "has no column 'email' for the user id: .* as user_id_field"),
        (broken("B", password_hash=None), "has no column 'password_hash' for .*: .* as hash_field"),
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


class Tagged(sa.types.TypeDecorator[Any]):
    """Text that becomes an object of the app's own."""

    impl = sa.String(255)
    cache_ok = True

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        return None if value is None else [value]


@pytest.mark.parametrize("name", ["email", "password_hash"])
def test_a_user_id_and_a_hash_that_are_no_text_are_an_error_that_says_so(engine: sa.Engine, name: str) -> None:
    model = broken(f"Tagged{name}", **{name: mapped_column(Tagged(), unique=name == "email")})
    OtherBase.metadata.create_all(engine, [model.__table__])
    users = SQLAlchemyUsers(engine, model, hasher=HASHER)
    with pytest.raises(ConfigError, match=f"Tagged{name}.{name} must hold text, not list"):
        drive(users.create(MIA))


def test_a_model_over_two_tables_with_one_name_is_refused(engine: sa.Engine) -> None:
    parent = broken("Parent")
    key = mapped_column(sa.ForeignKey(parent.id), primary_key=True)
    child = type("Child", (parent,), {"__tablename__": table_name(), "id": key})
    with pytest.raises(ConfigError, match=r"Child.id joins columns of two tables; use a single table"):
        SQLAlchemyUsers(engine, child, hasher=HASHER)


def made_identity(*, frozen: bool = True, **fields: Any) -> type[Any]:
    return msgspec.defstruct("Me", list(fields.items()), frozen=frozen, kw_only=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fields": ["nonsense"]}, "fields names 'nonsense'"),
        ({"policy": PasswordPolicy}, "policy must be a PasswordPolicy or None, not the class PasswordPolicy"),
        ({"hasher": "argon2"}, "hasher must be a PasswordHasher or None, not str"),
        ({"fields": ["id"]}, "which no user may set"),
        ({"fields": ["password_hash"]}, "which no user may set"),
        ({"fields": ["created_at"]}, "which no user may set"),
        ({"fields": ["settings"]}, "cannot come from a form"),
        ({"fields": "name"}, "sequence of names"),
        ({"user_id_field": "nonsense"}, "has no column 'nonsense'"),
        ({"user_id_field": "name"}, "must be unique"),
        ({"user_id_field": "nickname"}, "say how 'nickname' is normalised"),
        ({"identifier": "email"}, "must have a method normalize"),
        ({"clock": 5}, "clock must be a function"),
        ({"hash_field": "nonsense"}, "has no column 'nonsense'"),
        ({"hash_field": "age"}, "must be a column of text"),
        ({"identity": dict}, "must be a frozen struct"),
        ({"identity": made_identity(id=uuid.UUID, frozen=False)}, "must have frozen=True"),
        ({"identity": made_identity(email=str)}, "must have a field 'id'"),
        ({"identity": made_identity(id=uuid.UUID, nonsense=str)}, "'nonsense', and Person has none"),
        ({"identity": made_identity(id=uuid.UUID, password_hash=str)}, "must not hold password_hash"),
        ({"identity": made_identity(id=uuid.UUID, settings=dict[str, int])}, "could be changed through 'settings'"),
    ],
)
def test_a_wrong_option_is_refused_with_what_to_do(engine: sa.Engine, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        people(engine, **options)


def test_what_is_no_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be a SQLAlchemy Engine or AsyncEngine, not str"):
        SQLAlchemyUsers("sqlite://", Person)  # type: ignore[call-overload]


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
    assert users.model is model
    assert users.key_name == "id"


class Celsius(sa.types.UserDefinedType[float]):
    """A type that does not say what Python makes of it."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "FLOAT"


def test_columns_of_unknown_type_are_the_apps_alone_and_computed_ones_are_no_fields(engine: sa.Engine) -> None:
    email = mapped_column(sa.String(254), unique=True)
    size = orm.column_property(sa.func.length(email))
    model = broken("Odd", email=email, warmth=mapped_column(Celsius()), size=size)
    for name in ("warmth", "size"):
        with pytest.raises(ConfigError, match=r"warmth|size"):
            SQLAlchemyUsers(engine, model, hasher=HASHER, fields=[name])
    OtherBase.metadata.create_all(engine, [model.__table__])
    with orm.Session(engine) as session:
        session.add(model(id=uuid.uuid4(), email="mia@example.com"))
        session.commit()
    identity = made_identity(id=uuid.UUID, warmth=float | None, size=int)
    users = SQLAlchemyUsers(engine, model, identity=identity, hasher=HASHER)
    with statements(engine) as seen:
        mia = drive(users.find("mia@example.com"))
    assert seen == ["SELECT"]
    assert mia is not None
    changed = drive(users.update(mia.key, {"warmth": 21.5}, trusted=True))
    assert (changed.identity.warmth, changed.identity.size) == (21.5, 15)


def test_the_password_hash_may_have_another_name(engine: sa.Engine) -> None:
    hashed = mapped_column(sa.String(255))
    model = broken("Hashed", password_hash=None, hashed_password=hashed)
    OtherBase.metadata.create_all(engine, [model.__table__])
    users = SQLAlchemyUsers(engine, model, hasher=HASHER, hash_field="hashed_password", identity=made_identity(id=str))
    with pytest.raises(ConfigError, match="cannot store its field 'id' as annotated"):
        drive(users.create(MIA | {"id": uuid.uuid4()}))
    users = SQLAlchemyUsers(engine, model, hasher=HASHER, hash_field="hashed_password")
    with orm.Session(engine) as session:
        session.add(model(id=uuid.uuid4(), email="mia@example.com", hashed_password=HASHER.hash(PASSWORD)))
        session.commit()
    found = drive(users.authenticate(MIA))
    assert found is not None
    changed = drive(users.update(found.key, {"current_password": PASSWORD, "password": OTHER_PASSWORD}))
    assert changed.proof != found.proof
    assert drive(users.authenticate(MIA | {"password": OTHER_PASSWORD})) == changed
    assert drive(users.delete(found.key, {"current_password": OTHER_PASSWORD})) is True
    with pytest.raises(ConfigError, match="fields names 'hashed_password', which no user may set"):
        SQLAlchemyUsers(engine, model, hasher=HASHER, hash_field="hashed_password", fields=["hashed_password"])


def test_the_users_of_a_context_are_typed(engine: sa.Engine) -> None:
    declared = SQLAlchemyUsers(engine, Person, identity=Me, hasher=HASHER)
    made = SQLAlchemyUsers(engine, Person, hasher=HASHER)
    assert_type(declared, SQLAlchemyUsers[Person, Me])
    assert_type(made, SQLAlchemyUsers[Person, Any])
    assert_type(drive(declared.create(MIA)).identity, Me)
    assert declared.identity is Me
    assert made.identity.__struct_fields__ == ("id", "email")


def test_key_of_knows_accounts_identities_and_rows_and_asks_nobody(engine: sa.Engine) -> None:
    users = people(engine)
    mia = drive(users.create(MIA))
    with orm.Session(engine) as session:
        row = session.scalars(sa.select(Person)).one()
        expired = session.merge(row)
        session.expire(expired)
        with statements(engine) as seen:
            for subject in (mia, mia.identity, row, expired, Person(id=mia.key)):
                assert users.key_of(subject) == mia.key
            for other in (Person(), None, "x", mia.key, Pet(id=1), object()):
                assert users.key_of(other) is None
        assert seen == []
        session.expunge_all()
    assert users.key_of(row) == mia.key


def test_a_context_closes_the_hasher_that_it_made(engine: sa.Engine) -> None:
    users = SQLAlchemyUsers(engine, Person)
    drive(users.close())
    shared = people(engine)
    drive(shared.close())
    assert drive(shared.authenticate(MIA)) is None
