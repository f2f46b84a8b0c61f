"""Bulk statements of the app's ORM change users, and the sessions follow."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy import delete, event, update
from sqlalchemy.orm import Mapped, Session, aliased, mapped_column, with_loader_criteria

from harness.following import EMAILS, NEW_HASH, App, Citizen, following_app, named, who
from harness.users_databases import Base, statements, table_name
from powauth.accounts.sqlalchemy import UserMixin
from powauth.errors import ConfigError

MIA, NOA = EMAILS
DRIVERS = ["sqlite", "postgresql+psycopg", "mariadb+pymysql"]


@pytest.fixture(params=DRIVERS)
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[App]:
    with following_app(request.param, str(tmp_path)) as made:
        yield made


Work = Callable[[App, Session], object]


def run(app: App, work: Work) -> None:
    with app.maker() as session:
        work(app, session)
        session.commit()


def key(app: App) -> Any:
    return app.row().id


def by_condition(app: App, session: Session) -> object:
    return session.execute(update(Citizen).where(Citizen.email == MIA).values(password_hash=NEW_HASH))


def by_condition_on_what_it_sets(app: App, session: Session) -> object:
    change = update(Citizen).where(Citizen.email == MIA, Citizen.is_active).values(is_active=False)
    return session.execute(change)


def by_parameter(app: App, session: Session) -> object:
    change = update(Citizen).where(Citizen.email == sa.bindparam("who")).values(password_hash=NEW_HASH)
    return session.execute(change, {"who": MIA})


def by_parameters_that_name_columns(app: App, session: Session) -> object:
    return session.execute(update(Citizen).where(Citizen.email == MIA), {"password_hash": NEW_HASH})


def by_key(app: App, session: Session) -> object:
    return session.execute(update(Citizen), [{"id": key(app), "password_hash": NEW_HASH}])


def by_expression(app: App, session: Session) -> object:
    change = update(Citizen).where(Citizen.email == MIA).values({Citizen.password_hash: Citizen.email})
    return session.execute(change)


def by_table(app: App, session: Session) -> object:
    table = sa.inspect(Citizen).local_table
    assert isinstance(table, sa.Table)
    return session.execute(update(table).where(table.c.email == MIA).values(password_hash=NEW_HASH))


def by_table_and_many_parameters(app: App, session: Session) -> object:
    table = sa.inspect(Citizen).local_table
    assert isinstance(table, sa.Table)
    change = update(table).where(table.c.email == sa.bindparam("who")).values(password_hash=sa.bindparam("new"))
    return session.execute(change, [{"who": MIA, "new": NEW_HASH}, {"who": "nobody@example.com", "new": NEW_HASH}])


def by_query(app: App, session: Session) -> object:
    return session.query(Citizen).filter_by(email=MIA).update({"password_hash": NEW_HASH})


def by_subquery(app: App, session: Session) -> object:
    other = aliased(Citizen)
    chosen = sa.select(other.id).where(other.email == MIA).scalar_subquery()
    if session.get_bind().dialect.name == "mysql":  # it takes no subquery of the table that it changes
        chosen = sa.select(sa.select(other.id).where(other.email == MIA).subquery().c.id).scalar_subquery()
    return session.execute(
        update(Citizen)
        .where(Citizen.id == chosen)
        .values(password_hash=NEW_HASH)
        .execution_options(synchronize_session=False)
    )


def by_statement_that_returns_objects(app: App, session: Session) -> object:
    change = update(Citizen).where(Citizen.email == MIA).values(password_hash=NEW_HASH)
    if not session.get_bind().dialect.update_returning:
        return session.execute(change)
    return session.scalars(sa.select(Citizen).from_statement(change.returning(Citizen))).all()


def by_delete(app: App, session: Session) -> object:
    return session.execute(delete(Citizen).where(Citizen.email == MIA))


def by_delete_of_a_query(app: App, session: Session) -> object:
    return session.query(Citizen).filter_by(email=MIA).delete()


ENDING = [
    by_condition,
    by_condition_on_what_it_sets,
    by_parameter,
    by_parameters_that_name_columns,
    by_key,
    by_expression,
    by_table,
    by_table_and_many_parameters,
    by_query,
    by_subquery,
    by_statement_that_returns_objects,
    by_delete,
    by_delete_of_a_query,
]


@pytest.mark.parametrize("work", ENDING)
def test_a_bulk_statement_ends_the_sessions_of_the_users_that_it_changes(app: App, work: Work) -> None:
    mia, noa = app.browser(), app.browser(NOA)
    before = app.row()
    run(app, work)
    assert app.row() != before
    assert (who(mia), who(noa)) == (None, NOA)


@pytest.mark.parametrize("synchronize", ["auto", "fetch", "evaluate", False])
def test_every_way_to_synchronize_is_followed(app: App, synchronize: Any) -> None:
    mia, noa = app.browser(), app.browser(NOA)

    def work(app: App, session: Session) -> object:
        held = app.user(session)
        change = update(Citizen).where(Citizen.email == MIA).values(password_hash=NEW_HASH)
        session.execute(change, execution_options={"synchronize_session": synchronize})
        return held

    run(app, work)
    assert (who(mia), who(noa)) == (None, NOA)


def test_a_bulk_update_of_the_identity_marks_it_stale(app: App) -> None:
    mia, noa = app.browser(), app.browser(NOA)
    run(app, lambda app, session: session.execute(update(Citizen).values(name=Citizen.email)))
    assert (named(mia), named(noa)) == (MIA, NOA)


def test_a_bulk_update_by_key_of_the_identity_marks_it_stale(app: App) -> None:
    mia, noa = app.browser(), app.browser(NOA)
    run(app, lambda app, session: session.execute(update(Citizen), [{"id": key(app), "name": "Mia"}]))
    assert (named(mia), named(noa)) == ("Mia", "")


@pytest.mark.parametrize(
    "work",
    [
        lambda app, session: session.execute(update(Citizen).where(Citizen.password_hash != "").values(visits=5)),
        lambda app, session: session.execute(update(Citizen), [{"id": key(app), "visits": 5}]),
    ],
)
def test_a_bulk_update_of_other_columns_adds_no_statement_and_ends_nothing(app: App, work: Work) -> None:
    mia = app.browser()
    identifier = app.row().id
    app.row = lambda *_: app_row(identifier)  # type: ignore[method-assign]
    with statements(app.engine) as seen:
        run(app, work)
    assert seen == ["UPDATE"]
    assert who(mia) == MIA


def app_row(identifier: Any) -> Any:
    return sa.literal(identifier) if identifier is None else type("Row", (), {"id": identifier})


def test_a_bulk_statement_that_is_rolled_back_ends_nothing(app: App) -> None:
    mia = app.browser()
    with app.maker() as session:
        by_condition(app, session)
        session.rollback()
        session.commit()
    assert who(mia) == MIA


def test_a_filter_of_the_apps_queries_hides_nobody_from_powauth(app: App) -> None:
    """Such a filter is for queries alone, so the UPDATE reaches the user all the same."""
    mia = app.browser()

    def hide(state: Any) -> None:
        if state.is_select:
            state.statement = state.statement.options(with_loader_criteria(Citizen, Citizen.email == NOA))

    event.listen(app.maker, "do_orm_execute", hide)
    run(app, by_condition)
    assert who(mia) is None


def test_a_user_whom_only_the_update_sees_is_followed(app: App) -> None:
    """MariaDB's queries read the snapshot of the transaction, and its UPDATE reads what was committed meanwhile."""
    if app.engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time, and refuses to write after an older read")
    mia = app.browser()
    with app.maker() as session:
        assert app.user(session).name == ""  # the snapshot
        with app.engine.begin() as connection:  # nobody follows this
            connection.execute(update(Citizen).where(Citizen.email == MIA).values(name="chosen"))
        session.execute(update(Citizen).where(Citizen.name == "chosen").values(password_hash=NEW_HASH))
        session.commit()
    assert app.row().password_hash == NEW_HASH
    assert who(mia) is None


def test_a_user_who_fits_only_after_the_look_is_found_by_the_proof(tmp_path: Path) -> None:
    """At READ COMMITTED another transaction may commit between powauth's SELECT and the statement itself."""
    with following_app("postgresql+psycopg", str(tmp_path)) as app:
        mia, noa = app.browser(), app.browser(NOA)
        run(app, lambda app, session: session.execute(update(Citizen).where(Citizen.email == MIA).values(visits=1)))

        def meanwhile(state: Any) -> None:
            with app.engine.begin() as connection:
                connection.execute(update(Citizen).where(Citizen.email == NOA).values(visits=1))

        event.listen(app.maker, "do_orm_execute", meanwhile)  # after powauth's own listener
        run(
            app,
            lambda app, session: session.execute(update(Citizen).where(Citizen.visits == 1).values(is_active=False)),
        )
        event.remove(app.maker, "do_orm_execute", meanwhile)
        assert (who(mia), who(noa)) == (None, NOA)
        assert (app.row(MIA).is_active, app.row(NOA).is_active) == (False, False)
        run(app, lambda app, session: setattr(app.user(session, NOA), "name", "Noa"))  # her next request reads the row
        assert who(noa) is None


def test_other_tables_and_statements_are_passed_over(app: App) -> None:
    mia = app.browser()
    run(app, lambda app, session: session.execute(sa.insert(Citizen), [{"email": "new@example.com"}]))
    assert who(mia) == MIA


@pytest.mark.parametrize(
    "work",
    [
        lambda app, session: session.execute(sa.text(f"UPDATE {Citizen.__tablename__} SET password_hash = 'x'")),
        lambda app, session: session.bulk_update_mappings(Citizen, [{"id": key(app), "password_hash": "x"}]),
        lambda app, session: session.connection().execute(update(Citizen).values(password_hash="x")),
    ],
)
def test_what_goes_past_the_orms_events_is_not_seen_but_the_proof_ends_the_session(app: App, work: Work) -> None:
    mia = app.browser()
    run(app, work)
    assert who(mia) == MIA  # as the docs say
    run(app, lambda app, session: setattr(app.user(session), "name", "Mia"))
    assert who(mia) is None  # the user is loaded, and the proof differs


# Keys that no session can have


class Keyed(UserMixin, Base):
    """A user whose key is a text. The database allows an empty one."""

    __tablename__ = table_name()

    id: Mapped[str] = mapped_column(  # type: ignore[assignment]
        sa.String(300), primary_key=True, default=lambda: str(uuid.uuid4())
    )
    is_active: Mapped[bool] = mapped_column(default=True)


class KeyedMe(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of a `Keyed`."""

    id: str
    email: str


LONG = "x" * 256


@pytest.fixture(params=DRIVERS)
def keyed(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[App]:
    """An app with two users, and two rows whose keys no session can have."""
    with following_app(request.param, str(tmp_path), model=Keyed, identity=KeyedMe) as made:
        run(made, lambda _, session: session.add_all(Keyed(id=key, email=f"{len(key)}@x.org") for key in ("", LONG)))
        yield made


@pytest.mark.parametrize(
    "work",
    [
        lambda _, session: session.execute(delete(Keyed)),
        lambda _, session: session.execute(delete(Keyed.metadata.tables[Keyed.__tablename__])),
        lambda _, session: [session.delete(user) for user in session.scalars(sa.select(Keyed))],
    ],
    ids=["bulk", "table", "flush"],
)
def test_a_row_whose_key_no_session_can_have_is_deleted_with_the_others(keyed: App, work: Work) -> None:
    mia, noa = keyed.browser(MIA), keyed.browser(NOA)
    run(keyed, work)
    assert (who(mia), who(noa)) == (None, None)
    with keyed.maker() as session:
        assert session.scalars(sa.select(Keyed)).all() == []


def test_a_row_whose_key_no_session_can_have_is_changed_by_its_key(keyed: App) -> None:
    mia, noa = keyed.browser(MIA), keyed.browser(NOA)
    changes = [{"id": key, "password_hash": NEW_HASH} for key in ("", LONG, keyed.row(MIA).id)]
    run(keyed, lambda _, session: session.execute(update(Keyed), changes))
    assert (who(mia), who(noa)) == (None, NOA)
    with keyed.maker() as session:
        assert session.get_one(Keyed, "").password_hash == session.get_one(Keyed, LONG).password_hash == NEW_HASH


@pytest.mark.parametrize("key", [True, 1.0, b"1"])
def test_a_key_of_a_type_that_the_database_may_convert_is_refused(key: object, tmp_path: Path) -> None:
    """The database could read it as the key of a user, whose sessions would stay."""
    with (
        following_app("sqlite", str(tmp_path), model=Keyed, identity=KeyedMe) as app,
        app.maker() as session,
        pytest.raises(ConfigError, match="a user's key must be an int, a str or a UUID, not"),
    ):
        session.execute(update(Keyed), [{"id": key, "password_hash": NEW_HASH}])
