"""Keys and values whose Python type the column does not reveal: they are the same at sign-in and ever after."""

import enum
import ipaddress
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import CHAR, TypeDecorator

from harness.people import HASHER, MIA, Person, errors_of, people
from harness.users_databases import (
    ASYNC,
    BLOCKING,
    OTHER_PASSWORD,
    PASSWORD,
    Base,
    blocking_engine,
    run_async,
    table_name,
)
from powauth.accounts.base import Account
from powauth.accounts.identity import IdentityCodec, loaded_key, stored_key
from powauth.accounts.sqlalchemy import EmailMixin, SQLAlchemyUsers, UserMixin, UTCDateTime
from powauth.backends.base import drive
from powauth.errors import ConfigError


class GUID(TypeDecorator[uuid.UUID]):
    """The recipe of SQLAlchemy's documentation: a UUID over CHAR, except on PostgreSQL."""

    impl = CHAR
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        return dialect.type_descriptor(sa.Uuid() if dialect.name == "postgresql" else CHAR(32))

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return (value if isinstance(value, uuid.UUID) else uuid.UUID(value)).hex

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        return value if value is None or isinstance(value, uuid.UUID) else uuid.UUID(value)


class UsersGUID(TypeDecorator[uuid.UUID]):
    """As that of fastapi-users: the type that it declares is no class."""

    class UUIDChar(CHAR):
        python_type = uuid.UUID | None

    impl = UUIDChar
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        return dialect.type_descriptor(sa.Uuid() if dialect.name == "postgresql" else CHAR(36))

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        if value is None or dialect.name == "postgresql":
            return value
        return str(value if isinstance(value, uuid.UUID) else uuid.UUID(value))

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        return value if value is None or isinstance(value, uuid.UUID) else uuid.UUID(value)


class Packed(TypeDecorator[uuid.UUID]):
    """A UUID over 16 bytes."""

    impl = sa.LargeBinary(16)
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        return dialect.type_descriptor(sa.BINARY(16) if dialect.name in {"mysql", "mariadb"} else sa.LargeBinary(16))

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        return None if value is None else value.bytes

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        return None if value is None else uuid.UUID(bytes=bytes(value))


class Role(enum.Enum):
    USER = 1
    BANNED = 0


class Number(TypeDecorator[enum.Enum]):
    """An Enum that is stored as a number."""

    impl = sa.Integer
    cache_ok = True

    def __init__(self, kind: type[enum.Enum]) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        return None if value is None else value.value

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        return None if value is None else self.kind(value)


class Address(str):
    """Text with methods of the app's own."""

    __slots__ = ()

    @property
    def domain(self) -> str:
        return self.rpartition("@")[2]

    def __str__(self) -> str:
        return "hidden"


class AddressText(TypeDecorator[Address]):
    impl = sa.String(200)
    cache_ok = True

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        return None if value is None else Address(value)


class IPText(TypeDecorator[Any]):
    impl = sa.String(45)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        return None if value is None else str(value)

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        return None if value is None else ipaddress.ip_address(value)


class Account0(EmailMixin):
    """The columns of an account but the key."""

    password_hash: Mapped[str | None] = mapped_column(sa.String(255))
    is_active: Mapped[bool] = mapped_column(default=True)


def model_with_key(name: str, **column: Any) -> type[Any]:
    key: Any = mapped_column(column.pop("type"), primary_key=True, **column)
    return type(name, (Account0, Base), {"__tablename__": table_name(), "id": key})


KEYED = {
    "uuid": model_with_key("Keyed", type=sa.Uuid(), default=uuid.uuid4),
    "uuid as text": model_with_key("KeyedByText", type=sa.Uuid(as_uuid=False), default=lambda: str(uuid.uuid4())),
    "guid": model_with_key("KeyedByGUID", type=GUID(), default=uuid.uuid4),
    "guid set as text": model_with_key("KeyedByGUIDText", type=GUID(), default=lambda: str(uuid.uuid4())),
    "guid of fastapi-users": model_with_key("KeyedByUsersGUID", type=UsersGUID(), default=uuid.uuid4),
    "packed": model_with_key("KeyedByBytes", type=Packed(), default=uuid.uuid4),
    "integer": model_with_key("KeyedByNumber", type=sa.Integer()),
    "big integer": model_with_key(
        "KeyedByBigNumber", type=sa.BigInteger().with_variant(sa.Integer(), "sqlite"), default=lambda: 2**40
    ),
    "text": model_with_key("KeyedByName", type=sa.String(40), default=lambda: f"User {uuid.uuid4().hex}"),
    "text, or uuid on PostgreSQL": model_with_key(
        "KeyedByVariant",
        type=sa.Uuid(as_uuid=False).with_variant(sa.Uuid(), "postgresql"),
        default=lambda: str(uuid.uuid4()),
    ),
}


def stored_and_loaded(users: SQLAlchemyUsers[Any, Any], account: Account[Any]) -> Any:
    """The identity as another process gets it from a record."""
    codec = IdentityCodec(users.identity)
    again = codec.decode(codec.names, codec.encode(account.identity))
    assert again is not None
    return again


def check_key(users: SQLAlchemyUsers[Any, Any], row: Any, accounts: list[Account[Any] | None]) -> None:
    """Whichever way a user was found, the key is one value of one type."""
    key = users.key_of(row)
    assert key is not None
    for account in accounts:
        assert account is not None
        identity = stored_and_loaded(users, account)
        for found in (
            account.key,
            account.identity.id,
            identity.id,
            users.key_of(account),
            users.key_of(identity),
            loaded_key(stored_key(account.key)),
        ):
            assert (type(found), found) == (type(key), key)
        assert account.identity == identity


@pytest.mark.parametrize("kind", KEYED)
@pytest.mark.parametrize("driver", BLOCKING)
def test_rep_22_a_key_has_one_type_whatever_the_column(driver: str, kind: str, tmp_path: Path) -> None:
    model = KEYED[kind]
    with blocking_engine(driver, str(tmp_path), model) as engine:
        users = SQLAlchemyUsers(engine, model, hasher=HASHER)
        created = drive(users.create(MIA))
        with orm.Session(engine) as session:
            row = session.scalars(sa.select(model)).one()
        changed = drive(users.update(created.key, {"current_password": PASSWORD, "password": OTHER_PASSWORD}))
        found = [
            drive(users.authenticate(MIA | {"password": OTHER_PASSWORD})),
            drive(users.get(created.key)),
            drive(users.get(loaded_key(stored_key(created.key)))),
            drive(users.find(MIA["email"])),
            drive(users.get_by(id=created.key)),
        ]
        check_key(users, row, [created, changed, *found])
        assert drive(users.delete(created.key)) is True
        assert drive(users.get(created.key)) is None


@pytest.mark.parametrize("kind", ["uuid", "guid", "guid of fastapi-users", "text, or uuid on PostgreSQL"])
@pytest.mark.parametrize("driver", ASYNC)
def test_rep_22_a_key_has_one_type_with_every_asynchronous_driver(driver: str, kind: str, tmp_path: Path) -> None:
    model = KEYED[kind]

    async def scenario(engine: AsyncEngine) -> None:
        users = SQLAlchemyUsers(engine, model, hasher=HASHER)
        created = await users.create(MIA)
        async with engine.connect() as connection:
            row = await connection.run_sync(lambda inner: orm.Session(inner).scalars(sa.select(model)).one())
        found = [await users.authenticate(MIA), await users.get(created.key), await users.find(MIA["email"])]
        check_key(users, row, [created, *found])
        HASHER.close()

    run_async(driver, str(tmp_path), [model], scenario)


@pytest.mark.parametrize("kind", KEYED)
@pytest.mark.parametrize("driver", BLOCKING)
def test_a_key_of_another_type_is_nobodys(driver: str, kind: str, tmp_path: Path) -> None:
    model = KEYED[kind]
    with blocking_engine(driver, str(tmp_path), model) as engine:
        users = SQLAlchemyUsers(engine, model, hasher=HASHER)
        mia = drive(users.create(MIA))
        for key in (7, -1, 2**63, "nobody", "", uuid.uuid4(), None, b"\0" * 16, 1.5, object()):
            assert drive(users.get(key)) is None  # type: ignore[arg-type]
            assert drive(users.delete(key)) is False  # type: ignore[arg-type]
            assert list(errors_of(users.update(key, {"password": PASSWORD}, trusted=True))) == ["base"]  # type: ignore[arg-type]
        assert drive(users.get(mia.key)) == mia


def test_a_value_that_is_no_key_is_an_error_that_says_so(tmp_path: Path) -> None:
    class Dated(TypeDecorator[Any]):
        impl = sa.String(40)
        cache_ok = True

        def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
            return datetime.fromisoformat(value)

    model = model_with_key("KeyedByDate", type=Dated(), default=lambda: "2026-01-02T03:04:05")
    with blocking_engine("sqlite", str(tmp_path), model) as engine:
        users = SQLAlchemyUsers(engine, model, hasher=HASHER)
        with pytest.raises(ConfigError, match="a user's key must be an int, a str or a UUID, not datetime"):
            drive(users.create(MIA))


# Values


class Rich(UserMixin, Base):
    """A user with values that a column's type does not tell."""

    __tablename__ = table_name()

    id: Mapped[uuid.UUID] = mapped_column(GUID(), primary_key=True, default=uuid.uuid4)
    email: Mapped[str] = mapped_column(AddressText(), unique=True)
    role: Mapped[Role] = mapped_column(Number(Role), default=Role.USER)
    former_role: Mapped[Role | None] = mapped_column(Number(Role))
    money: Mapped[Decimal] = mapped_column(sa.Numeric(12, 4), default=Decimal("12.3400"))
    seen_at: Mapped[datetime] = mapped_column(UTCDateTime(), default=lambda: datetime.now(UTC))
    pause: Mapped[timedelta] = mapped_column(sa.Interval(), default=timedelta(seconds=90))
    ip: Mapped[Any] = mapped_column(IPText(), default="2001:db8::1")
    tenant: Mapped[uuid.UUID] = mapped_column(sa.Uuid(), default=uuid.uuid4)


class MeInFull(msgspec.Struct, frozen=True, kw_only=True):
    id: uuid.UUID
    email: Address
    role: Role
    former_role: Role | None
    money: Decimal
    seen_at: datetime
    pause: timedelta
    ip: ipaddress.IPv6Address
    tenant: uuid.UUID


def rich(engine: Any) -> SQLAlchemyUsers[Rich, MeInFull]:
    return SQLAlchemyUsers(engine, Rich, identity=MeInFull, fields=["role", "pause"], hasher=HASHER)


def types_of(identity: MeInFull) -> dict[str, type]:
    return {name: type(value) for name, value in msgspec.structs.asdict(identity).items()}


def check_rich(users: SQLAlchemyUsers[Rich, MeInFull], created: Account[MeInFull], found: Account[MeInFull]) -> None:
    assert found.identity == created.identity
    for account in (created, found):
        identity = account.identity
        again = stored_and_loaded(users, account)
        assert again == identity
        assert types_of(again) == types_of(identity)
        assert identity.role is again.role is Role.USER
        assert again.email.domain == "example.com"
        assert type(identity.id) is type(identity.tenant) is uuid.UUID
        assert str(again.money) == "12.3400"
        assert again.pause == timedelta(seconds=90)


@pytest.mark.parametrize("driver", BLOCKING)
def test_rep_23_an_enum_that_is_stored_as_a_number_stays_an_enum(driver: str, tmp_path: Path) -> None:
    with blocking_engine(driver, str(tmp_path), Rich) as engine:
        users = rich(engine)
        created = drive(users.create(MIA))
        found = drive(users.authenticate(MIA))
        assert found is not None
        check_rich(users, created, found)
        banned = drive(users.update(created.key, {"role": Role.BANNED, "former_role": Role.USER}, trusted=True))
        assert banned.identity.role is stored_and_loaded(users, banned).role is Role.BANNED
        assert banned.identity.former_role is stored_and_loaded(users, banned).former_role is Role.USER
        by_role = drive(users.get_by(role=Role.BANNED))
        assert by_role is not None
        assert by_role.key == created.key


@pytest.mark.parametrize("known", [False, True], ids=["first", "connected"])
def test_rep_22_a_mysql_url_of_a_mariadb_server_reads_its_own_type_of_uuids(known: bool, tmp_path: Path) -> None:
    with blocking_engine("mariadb+pymysql", str(tmp_path), Person) as engine:
        key = drive(people(engine).create(MIA)).key
        again = sa.create_engine(engine.url.set(drivername="mysql+pymysql"))
        if known:
            again.connect().close()
        users = people(again)  # before the first connection, SQLAlchemy takes the server for MySQL
        found = drive(users.authenticate(MIA))
        assert found is not None
        assert (found.key, found.identity.id, type(found.key)) == (key, key, uuid.UUID)
        again.dispose()


@pytest.mark.parametrize("driver", ASYNC)
def test_rep_23_values_stay_what_they_are_with_every_asynchronous_driver(driver: str, tmp_path: Path) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        users = rich(engine)
        created = await users.create(MIA)
        found = await users.authenticate(MIA)
        assert found is not None
        check_rich(users, created, found)
        HASHER.close()

    run_async(driver, str(tmp_path), [Rich], scenario)


@pytest.mark.parametrize("role", [0, "BANNED", True, [], None])
def test_a_number_from_outside_does_not_become_an_enum_by_accident(tmp_path: Path, role: object) -> None:
    with blocking_engine("sqlite", str(tmp_path), Rich) as engine:
        users = rich(engine)
        assert errors_of(users.create(MIA | {"role": role})).keys() <= {"role", "base"}
        assert drive(users.find(MIA["email"])) is None


def test_an_interval_from_outside_is_one(tmp_path: Path) -> None:
    with blocking_engine("sqlite", str(tmp_path), Rich) as engine:
        users = rich(engine)
        assert drive(users.create(MIA | {"pause": "PT5M"})).identity.pause == timedelta(minutes=5)
        assert errors_of(users.create({"email": "noa@example.com", "password": PASSWORD, "pause": "5"})) == {
            "pause": ["is invalid"]
        }


def test_rep_23_an_annotation_that_would_change_a_value_is_refused(tmp_path: Path) -> None:
    wrong: list[tuple[str, Any]] = [("role", int), ("email", str), ("money", float), ("ip", str), ("seen_at", str)]
    with blocking_engine("sqlite", str(tmp_path), Rich) as engine:
        drive(rich(engine).create(MIA))
        for name, annotation in wrong:
            identity = msgspec.defstruct("Me", [("id", uuid.UUID), (name, annotation)], frozen=True, kw_only=True)
            users = SQLAlchemyUsers(engine, Rich, identity=identity, hasher=HASHER)
            with pytest.raises(ConfigError, match=f"the identity Me cannot store its field '{name}' as annotated"):
                drive(users.authenticate(MIA))


def test_an_identity_that_powauth_makes_holds_the_user_id_as_plain_text(tmp_path: Path) -> None:
    with blocking_engine("sqlite", str(tmp_path), Rich) as engine:
        users = SQLAlchemyUsers(engine, Rich, hasher=HASHER)
        mia = drive(users.create(MIA))
        assert type(mia.identity.email) is str
        assert mia.identity.email == MIA["email"]
        assert mia.proof == drive(rich(engine).authenticate(MIA)).proof  # type: ignore[union-attr]


# fastapi-users


def check_fastapi_users_table(engine: sa.Engine, model: type[Any]) -> None:
    users = SQLAlchemyUsers(engine, model, hash_field="hashed_password", hasher=HASHER)
    stored = HASHER.hash(PASSWORD)
    with orm.Session(engine) as session:
        row = model(email="mia@example.com", hashed_password=stored)
        session.add(row)
        session.commit()
        key = row.id
    found = drive(users.authenticate(MIA))
    assert found is not None
    assert (type(found.key), found.key) == (uuid.UUID, key)
    check_key(users, row, [found, drive(users.get(key)), drive(users.find("mia@example.com"))])
    noa = drive(users.create({"email": "noa@example.com", "password": PASSWORD}))
    assert type(noa.key) is uuid.UUID
    assert drive(users.update(noa.key, {"is_active": False}, trusted=True)).active is False
    assert drive(users.authenticate({"email": "noa@example.com", "password": PASSWORD})) is None


class FastAPIUsersTable(Base):
    """The columns of fastapi-users' base table, as its release 7.0 of the adapter declares them."""

    __tablename__ = table_name()

    id: Mapped[uuid.UUID] = mapped_column(UsersGUID, primary_key=True, default=uuid.uuid4)
    email: Mapped[str] = mapped_column(sa.String(320), unique=True, index=True)
    hashed_password: Mapped[str] = mapped_column(sa.String(1024))
    is_active: Mapped[bool] = mapped_column(default=True)
    is_superuser: Mapped[bool] = mapped_column(default=False)
    is_verified: Mapped[bool] = mapped_column(default=False)


@pytest.mark.parametrize("driver", BLOCKING)
def test_rep_24_a_table_like_that_of_fastapi_users_works(driver: str, tmp_path: Path) -> None:
    with blocking_engine(driver, str(tmp_path), FastAPIUsersTable) as engine:
        check_fastapi_users_table(engine, FastAPIUsersTable)


@pytest.mark.skipif(
    find_spec("fastapi_users_db_sqlalchemy") is None,
    reason="fastapi-users-db-sqlalchemy is not installed; the test above has the same columns",
)
def test_rep_24_the_table_of_fastapi_users_works(tmp_path: Path) -> None:
    from fastapi_users_db_sqlalchemy import SQLAlchemyBaseUserTableUUID

    class Own(DeclarativeBase):
        pass

    model = type("User", (SQLAlchemyBaseUserTableUUID, Own), {})
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'users.db'}")
    Own.metadata.create_all(engine)
    check_fastapi_users_table(engine, model)
    engine.dispose()


class Naive(UserMixin, Base):
    """A table of an app whose times have no time zone, as SQLAlchemy makes a ``Mapped[datetime]`` by default."""

    __tablename__ = table_name()

    created_at: Mapped[datetime] = mapped_column(sa.DateTime())
    updated_at: Mapped[datetime] = mapped_column(sa.DateTime())


NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def naive_users(engine: Any) -> tuple[SQLAlchemyUsers[Naive, Any], list[datetime]]:
    times = [NOON]
    return SQLAlchemyUsers(engine, Naive, hasher=HASHER, clock=lambda: times[-1]), times


NAIVE_TIMES = sa.select(Naive.created_at, Naive.updated_at)


@pytest.mark.parametrize("driver", [*BLOCKING, "postgresql+psycopg2"])
def test_times_without_a_time_zone_are_in_utc(driver: str, tmp_path: Path) -> None:
    with blocking_engine(driver, str(tmp_path), Naive) as engine:
        if driver.startswith("postgresql"):

            def elsewhere(connection: Any, _: object) -> None:
                with connection.cursor() as cursor:
                    cursor.execute("SET TIME ZONE 'Asia/Tokyo'")
                connection.commit()

            sa.event.listen(engine, "connect", elsewhere)
            engine.dispose()
        users, times = naive_users(engine)
        key = drive(users.create(MIA)).key
        times.append(NOON + timedelta(hours=1))
        drive(users.update(key, {"password": OTHER_PASSWORD}, trusted=True))
        with engine.connect() as connection:
            assert connection.execute(NAIVE_TIMES).one() == tuple(each.replace(tzinfo=None) for each in times)


@pytest.mark.parametrize("driver", ASYNC)
def test_times_without_a_time_zone_are_in_utc_with_every_asynchronous_driver(driver: str, tmp_path: Path) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        users, times = naive_users(engine)
        key = (await users.create(MIA)).key
        times.append(NOON + timedelta(hours=1))
        await users.update(key, {"password": OTHER_PASSWORD}, trusted=True)
        async with engine.connect() as connection:
            found = (await connection.execute(NAIVE_TIMES)).one()
        assert found == tuple(each.replace(tzinfo=None) for each in times)

    run_async(driver, str(tmp_path), [Naive], scenario)


def test_a_dataclass_may_leave_columns_out_of_its_constructor(tmp_path: Path) -> None:
    class Data(orm.MappedAsDataclass, DeclarativeBase):
        pass

    class Sailor(Data):
        __tablename__ = "sailors"

        id: Mapped[int] = mapped_column(primary_key=True, init=False)
        email: Mapped[str] = mapped_column(sa.String(254), unique=True)
        password_hash: Mapped[str | None] = mapped_column(sa.String(255), default=None)
        is_active: Mapped[bool] = mapped_column(default=True)
        created_at: Mapped[datetime] = mapped_column(UTCDateTime(), init=False)

    engine = sa.create_engine(f"sqlite:///{tmp_path}/sailors.db")
    Data.metadata.create_all(engine)
    users: SQLAlchemyUsers[Sailor, Any] = SQLAlchemyUsers(engine, Sailor, hasher=HASHER, clock=lambda: NOON)
    drive(users.create(MIA))
    with orm.Session(engine) as session:
        assert session.scalars(sa.select(Sailor.created_at)).one() == NOON
    engine.dispose()
