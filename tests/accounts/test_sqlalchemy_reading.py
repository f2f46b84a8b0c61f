"""How `SQLAlchemyUsers` reads: columns alone, or the row for properties, and what the app's listeners can see."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, mapped_column

from harness.people import HASHER, MIA, errors_of
from harness.users_databases import (
    ASYNC,
    BLOCKING,
    OTHER_PASSWORD,
    PASSWORD,
    Base,
    blocking_engine,
    run_async,
    statements,
    table_name,
)
from powauth.accounts.base import Account
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.base import drive
from powauth.errors import StoreUnavailable


class Plain(UserMixin, Base):
    __tablename__ = table_name()

    name: Mapped[str | None] = mapped_column(sa.String(20))
    notes: Mapped[str | None] = mapped_column(sa.Text, deferred=True, deferred_raiseload=True)
    greeting = orm.column_property(sa.func.lower("HELLO"))


class Group(Base):
    __tablename__ = table_name()

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(20))
    closed: Mapped[bool] = mapped_column(default=False)
    member_id: Mapped[UUID] = mapped_column(sa.ForeignKey("members.id"))


class Member(UserMixin, Base):
    """A user whose account needs more than columns."""

    __tablename__ = "members"

    notes: Mapped[str | None] = mapped_column(sa.Text, deferred=True)
    groups: Mapped[list[Group]] = orm.relationship(lazy="select", cascade="all, delete-orphan")
    same_email = orm.synonym("email")

    @property
    def is_active(self) -> bool:
        return not any(group.closed for group in self.groups)

    @property
    def group_names(self) -> tuple[str, ...]:
        return tuple(group.name for group in self.groups)

    @property
    def initial(self) -> str:
        return self.email[0].upper()


class Mixed(UserMixin, Base):
    """A user whose ``is_active`` has a form for queries, too."""

    __tablename__ = table_name()

    state: Mapped[str] = mapped_column(sa.String(9), default="open")

    @hybrid_property
    def is_active(self) -> bool:
        return bool(self.state == "open")


class MeInPlain(msgspec.Struct, frozen=True, kw_only=True):
    id: UUID
    email: str
    name: str | None
    notes: str | None
    greeting: str


class MeInGroups(msgspec.Struct, frozen=True, kw_only=True):
    id: UUID
    same_email: str
    initial: str
    group_names: tuple[str, ...]
    notes: str | None


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    with blocking_engine("sqlite", str(tmp_path), Plain, Member, Group, Mixed) as engine:
        yield engine


def plain(engine: sa.Engine) -> SQLAlchemyUsers[Plain, MeInPlain]:
    return SQLAlchemyUsers(engine, Plain, identity=MeInPlain, hasher=HASHER)


def members(engine: sa.Engine | AsyncEngine) -> SQLAlchemyUsers[Member, MeInGroups]:
    return SQLAlchemyUsers(engine, Member, identity=MeInGroups, hasher=HASHER)


Read = Callable[[SQLAlchemyUsers[Any, Any], Account[Any]], Account[Any] | None]

READS: list[Read] = [
    lambda users, mia: drive(users.get(mia.key)),
    lambda users, _: drive(users.authenticate(MIA)),
    lambda users, _: drive(users.find("mia@example.com")),
    lambda users, _: drive(users.get_by(email="mia@example.com")),
]


@pytest.fixture
def selects(engine: sa.Engine) -> Iterator[list[str]]:
    """The texts of the queries."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        seen.append(statement)

    sa.event.listen(engine, "before_cursor_execute", note)
    yield seen
    sa.event.remove(engine, "before_cursor_execute", note)


def test_only_the_columns_that_an_account_needs_are_read(engine: sa.Engine, selects: list[str]) -> None:
    users = SQLAlchemyUsers(engine, Plain, hasher=HASHER)
    mia = drive(users.create(MIA))
    for read in READS:
        selects.clear()
        assert read(users, mia) == mia
        (statement,) = selects
        columns = statement.split("FROM")[0]
        assert columns.count(",") == 2
        assert all(name in columns for name in ("id", "email", "password_hash"))


@pytest.mark.parametrize("driver", BLOCKING)
def test_columns_of_every_kind_are_one_select(driver: str, tmp_path: Path) -> None:
    with blocking_engine(driver, str(tmp_path), Plain) as engine:
        users = plain(engine)
        mia = drive(users.create(MIA))
        with engine.begin() as connection:
            connection.execute(sa.update(Plain).values(name="Mia", notes="n"))
        for read in READS:
            with statements(engine) as seen:
                found = read(users, mia)
            assert seen == ["SELECT"]
            assert found is not None
            expected = {"id": mia.key, "email": "mia@example.com", "name": "Mia", "notes": "n", "greeting": "hello"}
            assert msgspec.structs.asdict(found.identity) == expected


def add_group(engine: sa.Engine, member: Account[Any], **values: Any) -> None:
    with orm.Session(engine) as session:
        session.add(Group(member_id=member.key, **values))
        session.commit()


@pytest.mark.parametrize("driver", BLOCKING)
def test_properties_and_relationships_are_read_in_a_session(driver: str, tmp_path: Path) -> None:
    with blocking_engine(driver, str(tmp_path), Member, Group) as engine:
        users = members(engine)
        mia = drive(users.create(MIA))
        assert mia.identity == MeInGroups(
            id=mia.key,  # type: ignore[arg-type]
            same_email="mia@example.com",
            initial="M",
            group_names=(),
            notes=None,
        )
        add_group(engine, mia, name="heron")
        for read in READS:
            found = read(users, mia)
            assert found is not None
            assert found.active is True
            assert found.identity.group_names == ("heron",)
        changed = drive(users.update(mia.key, {"notes": "n"}, trusted=True))
        assert (changed.identity.notes, changed.identity.group_names) == ("n", ("heron",))
        add_group(engine, mia, name="grebe", closed=True)
        locked = drive(users.get(mia.key))
        assert locked is not None
        assert locked.active is False
        assert drive(users.authenticate(MIA)) is None
        assert drive(users.delete(mia.key, {"current_password": PASSWORD})) is True


@pytest.mark.parametrize("driver", ASYNC)
def test_an_asynchronous_context_reads_properties_too(driver: str, tmp_path: Path) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        users = members(engine)
        mia = await users.create(MIA)
        async with engine.begin() as connection:
            await connection.execute(sa.insert(Group).values(name="heron", closed=False, member_id=mia.key))
        for found in (await users.get(mia.key), await users.find(MIA["email"]), await users.authenticate(MIA)):
            assert found is not None
            assert found.identity.group_names == ("heron",)
        HASHER.close()

    run_async(driver, str(tmp_path), [Member, Group], scenario)


def test_aut_02_a_wrong_password_takes_no_more_statements_for_a_user_than_for_nobody(engine: sa.Engine) -> None:
    users = members(engine)
    mia = drive(users.create(MIA))
    add_group(engine, mia, name="heron")
    for params in (MIA | {"password": OTHER_PASSWORD}, MIA | {"email": "nobody@example.com"}):
        with statements(engine) as seen:
            assert drive(users.authenticate(params)) is None
        assert seen == ["SELECT"]
    with statements(engine) as seen:
        assert drive(users.authenticate(MIA)) is not None
    assert seen == ["SELECT", "SELECT"]  # the groups, once the password is right


def test_an_is_active_that_queries_could_use_is_read_as_the_rows_own(engine: sa.Engine) -> None:
    users = SQLAlchemyUsers(engine, Mixed, hasher=HASHER)
    mia = drive(users.create(MIA))
    for read in READS:
        with statements(engine) as seen:
            found = read(users, mia)
        assert seen == ["SELECT"]
        assert found is not None
        assert found.active is True
    assert drive(users.update(mia.key, {"state": "closed"}, trusted=True)).active is False
    assert drive(users.authenticate(MIA)) is None


@pytest.mark.parametrize("stored", [1, 2, 0, -1])
def test_aut_05_a_number_is_no_permission(stored: int, tmp_path: Path) -> None:
    model = type(
        f"Numbered{stored % 10}",
        (UserMixin, Base),
        {"__tablename__": table_name(), "is_active": mapped_column(sa.Integer, default=stored)},
    )
    with blocking_engine("sqlite", str(tmp_path), model) as engine:
        users: SQLAlchemyUsers[Any, Any] = SQLAlchemyUsers(engine, model, hasher=HASHER)
        assert drive(users.create(MIA)).active is False
        assert drive(users.authenticate(MIA)) is None


def test_no_account_holds_a_row(engine: sa.Engine) -> None:
    contexts: list[SQLAlchemyUsers[Any, Any]] = [plain(engine), members(engine)]
    for users in contexts:
        mia = drive(users.create(MIA))
        for read in READS:
            found = read(users, mia)
            assert found is not None
            assert not isinstance(found.identity, users.model)
            assert msgspec.msgpack.encode(msgspec.structs.asdict(found.identity))  # values alone


# Listeners of the app


@pytest.mark.parametrize("context", [plain, members])
def test_who_listens_to_sessions_has_a_say_in_what_is_found(engine: sa.Engine, context: Any) -> None:
    users = context(engine)
    mia = drive(users.create(MIA))

    def nobody(state: Any) -> None:
        state.statement = state.statement.options(orm.with_loader_criteria(users.model, sa.false()))

    sa.event.listen(orm.Session, "do_orm_execute", nobody)
    try:
        assert [read(users, mia) for read in READS] == [None] * 4
        assert drive(users.delete(mia.key)) is False
        assert errors_of(users.create(MIA | {"email": "noa@example.com"})) == {"base": ["could not be saved"]}
    finally:
        sa.event.remove(orm.Session, "do_orm_execute", nobody)
    assert None not in [read(users, mia) for read in READS]
    assert drive(users.find("noa@example.com")) is None


@pytest.mark.parametrize("context", [plain, members])
def test_a_user_whom_a_listener_hides_meanwhile_is_neither_changed_nor_deleted(engine: sa.Engine, context: Any) -> None:
    users = context(engine)
    mia = drive(users.create(MIA))
    hidden: list[bool] = []

    def hide(state: Any) -> None:
        if state.is_update:
            hidden.append(True)
        elif len(hidden) % 2:
            hidden.append(False)  # for the one query that follows
            state.statement = state.statement.options(orm.with_loader_criteria(users.model, sa.false()))

    sa.event.listen(orm.Session, "do_orm_execute", hide)
    try:
        overtaken = {"base": ["was changed at the same time; try again"]}
        assert errors_of(users.update(mia.key, {"password": OTHER_PASSWORD}, trusted=True)) == overtaken
        assert errors_of(users.delete(mia.key)) == overtaken
    finally:
        sa.event.remove(orm.Session, "do_orm_execute", hide)
    assert hidden
    assert drive(users.get(mia.key)) == mia


@pytest.mark.parametrize("context", [plain, members])
@pytest.mark.parametrize("name", ["after_begin", "after_transaction_create"])
def test_other_listeners_to_sessions_are_called(engine: sa.Engine, name: str, context: Any) -> None:
    users = context(engine)
    mia = drive(users.create(MIA))
    called: list[object] = []

    def note(*_: object) -> None:
        called.append(name)

    sa.event.listen(orm.Session, name, note)
    try:
        READS[0](users, mia)
    finally:
        sa.event.remove(orm.Session, name, note)
    assert called


@pytest.mark.parametrize("how", ["echo", "logging"])
def test_what_is_read_is_logged(engine: sa.Engine, how: str, caplog: pytest.LogCaptureFixture) -> None:
    if how == "echo":
        users = plain(engine)
        mia = drive(users.create(MIA))
        engine.echo = True
        READS[0](users, mia)
    else:
        with caplog.at_level(logging.INFO, "sqlalchemy.engine"):
            watched = sa.create_engine(engine.url)
            users = plain(watched)
            READS[0](users, drive(users.create(MIA)))
            watched.dispose()
    assert any("SELECT" in record.getMessage() for record in caplog.records)


def test_options_of_an_engine_count(engine: sa.Engine, tmp_path: Path) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text(f"ATTACH DATABASE '{tmp_path / 'tenant'}' AS tenant"))
        Plain.metadata.create_all(
            connection.execution_options(schema_translate_map={None: "tenant"}),
            [Plain.__table__],  # type: ignore[list-item]
        )
    sa.event.listen(engine, "checkout", lambda connection, *_: _attach(connection, tmp_path / "tenant"))
    users = plain(engine.execution_options(schema_translate_map={None: "tenant"}))
    mia = drive(users.create(MIA))
    assert READS[0](users, mia) is not None
    assert READS[0](plain(engine), mia) is None


def _attach(connection: Any, path: Path) -> None:
    if not any(name == "tenant" for _, name, _ in connection.execute("PRAGMA database_list")):
        connection.execute(f"ATTACH DATABASE '{path}' AS tenant")


# Faults


@pytest.mark.parametrize("context", [plain, members])
def test_a_database_that_fails_is_unavailable_and_the_connection_goes_back(engine: sa.Engine, context: Any) -> None:
    users = context(engine)
    mia = drive(users.create(MIA))
    with engine.begin() as connection:
        connection.execute(sa.schema.DropTable(users.model.__table__))
    for read in READS:
        with pytest.raises(StoreUnavailable, match="the users' database lacks a table"):
            read(users, mia)
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    Base.metadata.create_all(engine, [users.model.__table__])
    assert READS[0](users, mia) is None


def test_an_error_of_the_apps_property_is_the_apps(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    users = members(engine)
    mia = drive(users.create(MIA))

    def broken(_: Member) -> str:
        raise LookupError("no initial")

    monkeypatch.setattr(Member, "initial", property(broken))
    for read in READS:
        with pytest.raises(LookupError, match="no initial"):
            read(users, mia)
    assert drive(users.authenticate(MIA | {"password": OTHER_PASSWORD})) is None
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_a_read_sees_what_was_committed_before_it(engine: sa.Engine) -> None:
    users = plain(engine)
    mia = drive(users.create(MIA))
    for number in range(5):
        with engine.begin() as connection:
            connection.execute(sa.update(Plain).values(name=str(number)))
        for read in READS:
            found = read(users, mia)
            assert found is not None
            assert found.identity.name == str(number)
