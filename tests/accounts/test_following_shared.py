"""The sessions are in the app's own database: they end in the app's transaction."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.pool import QueuePool

from harness.following import EMAILS, NEW_HASH, App, Citizen, beside_the_commit, named, who
from harness.users_databases import blocking_engine, statements, table_name, url_of
from powauth.accounts.hooks import Extension
from powauth.backends.base import drive
from powauth.backends.sql import SQLBackend
from powauth.errors import StoreUnavailable

MIA, NOA = EMAILS
DRIVERS = ["sqlite", "postgresql+psycopg", "mariadb+pymysql"]


class Tokens(Extension[Any]):
    """An extension that holds something for its users, in the store of the sessions."""

    name = "tokens"

    def __init__(self) -> None:
        self.ended: list[str] = []

    def bind(self, parts: Any) -> "Tokens":
        self.parts = parts
        return self

    async def credentials_changed(self, key: Any, why: str) -> None:
        await self.parts.backend.delete_owner(b"tokens:%b" % str(key).encode(), self.parts.now())
        self.ended.append(why)

    async def sessions_ended(self, key: Any, why: str) -> None:
        assert (await self.parts.users.get(key)) is not None  # the app's transaction is at its end
        self.ended.append(f"after that, {why}")


@pytest.fixture(params=DRIVERS)
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[App]:
    """The backend has the app's own engine. Its pool gives a thread two connections at most."""
    table = "s" + table_name()[-30:]
    with blocking_engine(request.param, str(tmp_path), Citizen) as engine:
        backend = SQLBackend(engine, table=table)
        drive(backend.create_tables())
        made = App(engine, backend, extensions=[Tokens()])
        made.register()
        made.users.follow(made.maker)
        yield made
        drive(backend.close())
        for each in reversed(backend.tables):
            with engine.begin() as connection:
                each.drop(connection)


def tokens(app: App) -> list[str]:
    return app.auth.extension(Tokens).ended


def test_the_sessions_end_with_the_commit(app: App) -> None:
    first, second, other = app.browser(), app.browser(), app.browser(NOA)
    with app.maker() as session:
        app.user(session).password_hash = NEW_HASH
        session.flush()
        if app.engine.dialect.name != "sqlite":  # SQLite's file is locked, but it is not for its readers
            assert who(first) == MIA
        session.commit()
    assert (who(first), who(second), who(other)) == (None, None, NOA)
    assert tokens(app)[-2:] == ["changed in the app's database", "after that, changed in the app's database"]
    assert {*tokens(app)[:-2]} <= {"changed in the app's database"}


def test_a_rollback_brings_the_sessions_back(app: App) -> None:
    browser = app.browser()
    with app.maker() as session:
        app.user(session).password_hash = NEW_HASH
        session.flush()
        session.rollback()
        assert who(browser) == MIA
        savepoint = session.begin_nested()
        app.user(session).password_hash = NEW_HASH
        session.flush()
        savepoint.rollback()
        app.user(session).name = "Mia"
        session.commit()
    assert named(browser) == "Mia"
    assert tokens(app) == []


def test_a_failure_of_the_app_during_the_commit_takes_both_back(app: App) -> None:
    browser = app.browser()

    def fail(session: object) -> None:
        raise RuntimeError("a listener of the app")

    sa.event.listen(app.maker, "before_commit", fail)
    with app.maker() as session:
        app.user(session).password_hash = NEW_HASH
        session.flush()
        with pytest.raises(RuntimeError, match="listener of the app"):
            session.commit()
    sa.event.remove(app.maker, "before_commit", fail)
    assert who(browser) == MIA


def test_one_statement_ends_sessions_and_one_moves_the_epoch(app: App) -> None:
    app.browser()
    with app.maker() as session:
        user = app.user(session)
        user.password_hash = NEW_HASH
        with statements(app.engine) as seen:
            session.flush()
    assert len(seen) == (4 if app.engine.dialect.name == "mysql" else 3)
    assert seen[0] == "UPDATE"


LOCKING: dict[str, Any] = {
    "a flush": lambda app, session: setattr(app.user(session), "password_hash", NEW_HASH),
    "an expression": lambda app, session: setattr(app.user(session), "password_hash", sa.func.lower(NEW_HASH)),
    "an UPDATE": lambda app, session: session.execute(
        sa.update(Citizen).where(Citizen.email == MIA).values(password_hash=NEW_HASH)
    ),
    "a DELETE": lambda app, session: session.execute(sa.delete(Citizen).where(Citizen.email == MIA)),
}


@pytest.mark.parametrize("work", LOCKING)
def test_the_users_row_is_locked_before_the_sessions_end(app: App, work: str) -> None:
    """All transactions take the locks in one order, so no two of them wait for each other."""
    if app.engine.dialect.name == "sqlite":
        pytest.skip("SQLite locks the whole file")
    browser = app.browser()
    attempt = sa.select(Citizen.email).where(Citizen.email == MIA).with_for_update(nowait=True)
    seen: list[str] = []

    def look(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if "_epochs" in statement and not seen:
            seen.append(statement)
            with app.engine.connect() as other, pytest.raises(sa.exc.OperationalError):
                other.execute(attempt)

    with app.maker() as session:
        sa.event.listen(app.engine, "before_cursor_execute", look)
        LOCKING[work](app, session)
        session.flush()
        sa.event.remove(app.engine, "before_cursor_execute", look)
        assert seen
        session.commit()
    assert who(browser) is None


def test_a_view_keeps_its_session(app: App) -> None:
    async def change(request: Any) -> object:
        with app.maker() as session:
            app.user(session).password_hash = NEW_HASH
            session.commit()
        return True

    app.handlers["/change"] = change
    own, other = app.browser(), app.browser()
    assert own.get("/change").status == 200
    assert (who(own), who(other)) == (MIA, None)


def test_a_second_request_in_the_moment_of_the_commit_does_not_end_the_session(app: App) -> None:
    other = app.browser()
    assert beside_the_commit(app) == [MIA, MIA, MIA]
    assert who(other) is None


def test_a_session_accepts_no_password_of_a_rolled_back_transaction(app: App) -> None:
    async def change(request: Any) -> object:
        with app.maker() as session:
            app.user(session).password_hash = NEW_HASH
            session.flush()
            session.rollback()
        return True

    app.handlers["/change"] = change
    own, other = app.browser(), app.browser()
    assert own.get("/change").status == 200
    assert (who(own), who(other)) == (MIA, MIA)
    with app.engine.begin() as connection:  # nothing follows this
        connection.execute(sa.update(Citizen).values(password_hash=NEW_HASH))
    assert (who(own), who(other)) == (MIA, MIA), "the store has no reload"
    with app.maker() as session:
        app.user(session).email = "mia@example.org"
        session.commit()
    assert (who(own), who(other)) == (None, None)


def test_a_missing_table_fails_the_flush(app: App) -> None:
    assert isinstance(app.backend, SQLBackend)
    before = app.row()
    with app.engine.begin() as connection:
        app.backend.tables.epochs.drop(connection)
    with app.maker() as session:
        app.user(session).password_hash = NEW_HASH
        with pytest.raises(StoreUnavailable):
            session.commit()
    assert app.row() == before
    drive(app.backend.create_tables())


def test_a_commit_takes_no_second_connection_while_it_holds_one(tmp_path: Path) -> None:
    """A pool of one connection: each step after the commit would wait for it for ever."""
    url = url_of("postgresql+psycopg", str(tmp_path))
    engine = sa.create_engine(url, poolclass=QueuePool, pool_size=1, max_overflow=0, pool_timeout=1)
    backend = SQLBackend(engine, table="s" + table_name()[-30:])
    drive(backend.create_tables())
    Citizen.metadata.create_all(engine, [Citizen.__table__])  # type: ignore[list-item]
    try:
        app = App(engine, backend)
        app.register()
        app.users.follow(app.maker)
        browser = app.browser()
        with app.maker() as session:
            app.user(session).name = "Mia"
            session.commit()
        assert named(browser) == "Mia"
    finally:
        Citizen.metadata.drop_all(engine, [Citizen.__table__, *backend.tables])  # type: ignore[list-item]
        engine.dispose()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_url_of_the_same_database_is_the_same_database(kind: str, tmp_path: Path) -> None:
    driver = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}[kind]
    with blocking_engine(driver, str(tmp_path), Citizen) as engine:
        url = engine.url.render_as_string(hide_password=False)
        backend = SQLBackend(url)
        drive(backend.create_tables())
        app = App(engine, url)
        app.register()
        app.users.follow(app.maker)
        browser = app.browser()
        with app.maker() as session:
            app.user(session).password_hash = NEW_HASH
            session.flush()
            session.rollback()
            assert who(browser) == MIA
            app.user(session).password_hash = NEW_HASH
            session.commit()
        assert who(browser) is None
        drive(app.auth.aclose())
        drive(backend.close())
