"""Users made of rows: the same as the ORM makes them, and by the ORM where an app asks for more."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.orm.exc import DetachedInstanceError

from harness.users_databases import BLOCKING, PASSWORD, Base, blocking_engine, cheap_hasher, run_async, table_name
from powauth.accounts import _database
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin, UTCDateTime
from powauth.backends.base import drive
from powauth.errors import StoreUnavailable

HASHER = cheap_hasher()
MIA: dict[str, object] = {"email": "mia@example.com", "password": PASSWORD}


class Plain(UserMixin, Base):
    __tablename__ = table_name()

    name: Mapped[str | None] = mapped_column(sa.String(20))
    seen_at: Mapped[Any] = mapped_column(UTCDateTime(), nullable=True)
    settings: Mapped[dict[str, Any] | None] = mapped_column(sa.JSON)
    notes: Mapped[str | None] = mapped_column(sa.Text, deferred=True)
    greeting = orm.column_property(sa.func.lower("HELLO"))
    later = orm.column_property(sa.func.lower("LATER"), deferred=True)


class Band(Base):
    __tablename__ = table_name()

    id: Mapped[int] = mapped_column(primary_key=True)


class Eager(UserMixin, Base):
    __tablename__ = table_name()

    band_id: Mapped[int | None] = mapped_column(sa.ForeignKey(Band.id))
    band: Mapped[Band | None] = orm.relationship(lazy="joined")


class Point:
    def __init__(self, x: int | None, y: int | None) -> None:
        self.x, self.y = x, y

    def __composite_values__(self) -> tuple[int | None, int | None]:
        return self.x, self.y


class Composed(UserMixin, Base):
    __tablename__ = table_name()

    x: Mapped[int | None]
    y: Mapped[int | None]
    point: Mapped[Point] = orm.composite(Point, "x", "y")


class Hidden(UserMixin, Base):
    __tablename__ = table_name()

    notes: Mapped[str | None] = mapped_column(sa.Text, deferred=True, deferred_raiseload=True)


class Account(UserMixin, Base):
    __tablename__ = table_name()


class Member(Account):
    __tablename__ = table_name()

    member_id: Mapped[Any] = mapped_column(sa.ForeignKey(Account.id), primary_key=True)


class Refused(sa.types.TypeDecorator[str]):
    """Text that is never "bad"."""

    impl = sa.String(20)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        del dialect
        if value == "bad":
            raise ValueError("bad")
        return value


class Picky(UserMixin, Base):
    __tablename__ = table_name()

    name: Mapped[str | None] = mapped_column(Refused())


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    with blocking_engine(
        "sqlite", str(tmp_path), Plain, Band, Eager, Composed, Hidden, Account, Member, Picky
    ) as engine:
        yield engine


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The ORM sessions that are made."""
    made: list[object] = []

    def make(*arguments: Any, **options: Any) -> orm.Session:
        session = orm.Session(*arguments, **options)
        made.append(session)
        return session

    monkeypatch.setattr(_database, "Session", make)
    return made


def context(engine: sa.Engine, model: type[Any] = Plain) -> tuple[SQLAlchemyUsers[Any], Any]:
    users = SQLAlchemyUsers(engine, model, hasher=HASHER)
    return users, drive(users.create(MIA))


READS: list[Callable[[SQLAlchemyUsers[Any], Any], Any]] = [
    lambda users, mia: drive(users.reload(mia)),
    lambda users, _: drive(users.authenticate(MIA)),
    lambda users, _: drive(users.get_by(email="mia@example.com")),
]


@pytest.mark.parametrize("driver", BLOCKING)
@pytest.mark.parametrize("watched", [False, True], ids=["unwatched", "watched"])
def test_a_row_makes_the_user_that_the_orm_makes(
    driver: str, watched: bool, tmp_path: Path, sessions: list[object]
) -> None:
    with blocking_engine(driver, str(tmp_path), Plain) as engine:
        users, mia = context(engine)
        with engine.begin() as connection:
            connection.execute(sa.update(Plain).values(name="Mia", settings={"a": [1]}, notes="n"))
        sessions.clear()
        with orm.Session(engine, expire_on_commit=False) as session:
            by_orm = session.scalars(sa.select(Plain)).one()
        if watched:
            sa.event.listen(engine, "before_cursor_execute", lambda *_: None)
        for read in READS:
            found = read(users, mia)
            assert {name: value for name, value in vars(found).items() if name != "_sa_instance_state"} == {
                name: value for name, value in vars(by_orm).items() if name != "_sa_instance_state"
            }
            assert (found.settings, found.greeting) == ({"a": [1]}, "hello")
            state = sa.inspect(found)
            assert state.detached
            assert not state.modified
            assert state.key == sa.inspect(by_orm).key
            assert users.snapshot(found) == users.snapshot(by_orm)
            for name in ("notes", "later"):
                with pytest.raises(DetachedInstanceError):
                    getattr(found, name)
            with orm.Session(engine) as session:
                session.add(found)
                assert found not in session.dirty
                assert (found.notes, found.later) == ("n", "later")
                found.name = "Maria"
                assert list(session.dirty) == [found]
    assert sessions == []


def test_an_asynchronous_context_makes_users_of_rows_too(tmp_path: Path, sessions: list[object]) -> None:
    async def scenario(engine: Any) -> None:
        users = SQLAlchemyUsers(engine, Plain, hasher=HASHER)
        mia = await users.create(MIA)
        sessions.clear()
        found = await users.authenticate(MIA)
        assert found is not None
        assert (found.id, found.greeting) == (mia.id, "hello")
        assert await users.get_by(email="nobody@example.com") is None
        await users.close()

    run_async("sqlite+aiosqlite", str(tmp_path), [Plain], scenario)
    assert sessions == []


@pytest.mark.parametrize("model", [Eager, Composed, Hidden, Member], ids=lambda model: str(model.__name__))
def test_what_a_row_is_not_all_of_is_the_orms(engine: sa.Engine, model: type[Any], sessions: list[object]) -> None:
    users, mia = context(engine, model)
    for read in READS:
        sessions.clear()
        found = read(users, mia)
        assert found.id == mia.id
        assert len(sessions) == 1
        if model is Eager:
            assert found.band is None
        if model is Composed:
            assert found.point.x is None


def test_who_listens_to_sessions_has_a_say_in_what_is_found(engine: sa.Engine, sessions: list[object]) -> None:
    users, mia = context(engine)
    assert READS[0](users, mia) is not None

    def nobody(state: Any) -> None:
        state.statement = state.statement.options(orm.with_loader_criteria(Plain, sa.false()))

    sessions.clear()
    sa.event.listen(orm.Session, "do_orm_execute", nobody)
    try:
        assert [read(users, mia) for read in READS] == [None] * 3
    finally:
        sa.event.remove(orm.Session, "do_orm_execute", nobody)
    assert len(sessions) == 3
    assert READS[0](users, mia) is not None
    assert len(sessions) == 3


@pytest.mark.parametrize("name", ["after_begin", "after_transaction_create", "loaded_as_persistent"])
def test_other_listeners_to_sessions_are_called(engine: sa.Engine, name: str) -> None:
    users, mia = context(engine)
    called: list[object] = []

    def note(*_: object) -> None:
        called.append(name)

    sa.event.listen(orm.Session, name, note)
    try:
        READS[0](users, mia)
    finally:
        sa.event.remove(orm.Session, name, note)
    assert called


def test_who_listens_to_loading_is_given_the_orms_own_context(engine: sa.Engine) -> None:
    users, mia = context(engine)
    seen: list[tuple[object, object]] = []

    def note(target: Plain, context: Any) -> None:
        seen.append((target, context.session))

    sa.event.listen(Plain, "load", note)
    try:
        found = READS[0](users, mia)
    finally:
        sa.event.remove(Plain, "load", note)
    ((target, session),) = seen
    assert target is found
    assert isinstance(session, orm.Session)


# The driver of SQLite


def traced(engine: sa.Engine) -> list[str]:
    """Every statement that the driver executes from now on."""
    seen: list[str] = []
    sa.event.listen(engine, "checkout", lambda connection, *_: connection.set_trace_callback(seen.append))
    return seen


@pytest.mark.parametrize("event", ["before_cursor_execute", "after_cursor_execute", "before_execute", "after_execute"])
def test_who_watches_an_engine_sees_what_is_read(engine: sa.Engine, event: str) -> None:
    users, mia = context(engine)
    by_driver = traced(engine)
    READS[0](users, mia)
    assert len(by_driver) == 1
    seen: list[object] = []

    def note(*_: object) -> None:
        seen.append(event)

    sa.event.listen(engine, event, note)
    READS[0](users, mia)
    assert len(seen) == 1
    sa.event.remove(engine, event, note)
    READS[0](users, mia)
    assert (len(seen), len(by_driver)) == (1, 3)
    assert len(set(by_driver)) == 1  # the same statement either way


def test_who_takes_the_execution_over_is_asked(engine: sa.Engine) -> None:
    users, mia = context(engine)
    seen: list[str] = []

    def note(cursor: Any, statement: str, *_: object) -> None:
        del cursor
        seen.append(statement)

    sa.event.listen(engine, "do_execute", note)
    READS[0](users, mia)
    assert len(seen) == 1


@pytest.mark.parametrize("how", ["echo", "logging"])
def test_what_is_read_is_logged(engine: sa.Engine, how: str, caplog: pytest.LogCaptureFixture) -> None:
    if how == "echo":
        users, mia = context(engine)
        engine.echo = True
        READS[0](users, mia)
    else:
        with caplog.at_level(logging.INFO, "sqlalchemy.engine"):
            watched = sa.create_engine(engine.url)
            users, mia = context(watched)
            READS[0](users, mia)
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
    users, mia = context(engine.execution_options(schema_translate_map={None: "tenant"}))
    assert READS[0](users, mia) is not None
    assert READS[0](SQLAlchemyUsers(engine, Plain, hasher=HASHER), mia) is None


def _attach(connection: Any, path: Path) -> None:
    if not any(name == "tenant" for _, name, _ in connection.execute("PRAGMA database_list")):
        connection.execute(f"ATTACH DATABASE '{path}' AS tenant")


def test_a_value_that_the_column_refuses_finds_nobody(engine: sa.Engine) -> None:
    users, _ = context(engine, Picky)
    with pytest.raises(ValueError, match="bad"):
        Refused().process_bind_param("bad", None)
    assert drive(users.get_by(name="bad")) is None


def test_a_database_that_fails_is_unavailable_and_the_connection_goes_back(engine: sa.Engine) -> None:
    users, mia = context(engine)
    with engine.begin() as connection:
        connection.execute(sa.schema.DropTable(Plain.__table__))  # type: ignore[arg-type]
    for read in READS:
        with pytest.raises(StoreUnavailable, match="the users' database lacks a table"):
            read(users, mia)
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    Base.metadata.create_all(engine, [Plain.__table__])  # type: ignore[list-item]
    assert READS[0](users, mia) is None


def test_a_read_sees_what_was_committed_before_it(engine: sa.Engine) -> None:
    users, mia = context(engine)
    for number in range(5):
        with engine.begin() as connection:
            connection.execute(sa.update(Plain).values(name=str(number)))
        assert READS[0](users, mia).name == str(number)
