"""The app's own ORM changes users, and the sessions follow."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import sqlalchemy as sa
from sqlalchemy import orm
from sqlalchemy.orm import Session

from harness.following import EMAILS, NEW_HASH, NEW_PASSWORD, App, Citizen, beside_the_commit, following_app, named, who
from harness.redis_servers import SHARED, clear_shared, shared_answers, unique_prefix
from harness.tcp_proxy import Proxy
from harness.users_databases import PASSWORD, statements
from powauth.backends.base import drive
from powauth.backends.redis import RedisBackend
from powauth.errors import StoreUnavailable

MIA, NOA = EMAILS
DRIVERS = ["sqlite", "postgresql+psycopg"]


@pytest.fixture(params=DRIVERS)
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[App]:
    with following_app(request.param, str(tmp_path)) as made:
        yield made


Change = Callable[[App, Session], object]


def new_hash(app: App, session: Session) -> None:
    app.user(session).password_hash = NEW_HASH


def new_name(app: App, session: Session) -> None:
    app.user(session).name = "Mia"


def locked(app: App, session: Session) -> None:
    app.user(session).is_active = False


def hash_that_the_database_computes(app: App, session: Session) -> None:
    app.user(session).password_hash = sa.func.lower(NEW_HASH)


def locked_by_an_expression(app: App, session: Session) -> None:
    app.user(session).is_active = Citizen.visits > 0


def new_user_id(app: App, session: Session) -> None:
    app.user(session).email = "maria@example.com"


def deleted(app: App, session: Session) -> None:
    session.delete(app.user(session))


def visited(app: App, session: Session) -> None:
    app.user(session).visits += 1


def visited_by_an_expression(app: App, session: Session) -> None:
    app.user(session).visits = Citizen.visits + 1


ENDING = [new_hash, hash_that_the_database_computes, locked, locked_by_an_expression, new_user_id, deleted]


def commit(app: App, *changes: Change) -> None:
    with app.maker() as session:
        for change in changes:
            change(app, session)
        session.commit()


# --- what follows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ENDING)
def test_rep_27_a_change_of_the_credentials_ends_all_sessions_of_the_user(app: App, change: Change) -> None:
    first, second, other = app.browser(), app.browser(), app.browser(NOA)
    commit(app, change)
    assert (who(first), who(second), who(other)) == (None, None, NOA)
    assert [event.name for event in app.events].count("revoked") == 2  # before the commit and after it


def test_rep_27_a_new_password_works_and_the_old_one_does_not(app: App) -> None:
    commit(app, new_hash)
    assert who(app.browser(password=PASSWORD)) is None
    assert who(app.browser(password=NEW_PASSWORD)) == MIA


def test_a_change_of_another_column_of_the_identity_is_seen_by_the_next_request(app: App) -> None:
    first, second = app.browser(), app.browser()
    assert named(first) == ""
    commit(app, new_name)
    assert (named(first), named(second)) == ("Mia", "Mia")


def test_an_identity_that_the_database_computes_is_seen_by_the_next_request(app: App) -> None:
    browser = app.browser()
    commit(app, lambda app, session: setattr(app.user(session), "name", sa.func.upper("mia")))
    assert (who(browser), named(browser)) == (MIA, "MIA")


def test_a_session_that_a_change_marks_stale_reads_the_user_once(app: App) -> None:
    browser = app.browser()
    commit(app, new_name)
    with statements(app.engine) as seen:
        assert [named(browser), named(browser)] == ["Mia", "Mia"]
    assert seen == ["SELECT"]


@pytest.mark.parametrize(
    "change", [visited, visited_by_an_expression, lambda app, session: app.user(session), lambda app, session: None]
)
def test_a_commit_that_changes_no_user_adds_no_statement_and_touches_no_session(app: App, change: Change) -> None:
    browser = app.browser()

    def count(maker: Any) -> list[str]:
        with statements(app.engine) as seen, maker() as session:
            change(app, session)
            session.commit()
        return seen

    assert count(app.maker) == count(orm.sessionmaker(app.engine))
    before = app.backend
    assert who(browser) == MIA
    assert before is app.backend


def test_a_column_that_is_set_to_its_own_value_is_no_change(app: App) -> None:
    browser = app.browser()

    def same(app: App, session: Session) -> None:
        user = app.user(session)
        user.password_hash = str(user.password_hash)

    commit(app, same)
    assert who(browser) == MIA


def test_powauths_own_changes_are_passed_over(app: App) -> None:
    app.users.follow(Session)
    browser, other = app.browser(), app.browser()

    async def change(request: Any) -> object:
        params = {"password": NEW_PASSWORD, "current_password": PASSWORD}
        return (await request.call("update_user", params)).email

    app.handlers["/change"] = change
    again = app.browser()
    assert again.get("/change").json() == MIA
    assert (who(again), who(browser), who(other)) == (MIA, None, None)
    assert [event.name for event in app.events].count("revoked") == 1


# --- transactions -----------------------------------------------------------------------------------------------------


def test_what_is_rolled_back_ends_nothing(app: App) -> None:
    browser = app.browser()
    with app.maker() as session:
        new_hash(app, session)
        session.flush()
        session.rollback()
        visited(app, session)
        session.commit()
    assert who(browser) == MIA


def test_a_session_that_is_closed_without_a_commit_ends_nothing(app: App) -> None:
    browser = app.browser()
    with app.maker() as session:
        new_hash(app, session)
        session.flush()
        session.close()
        visited(app, session)
        session.commit()
    assert who(browser) == MIA


def test_a_savepoint_that_is_rolled_back_takes_its_notes_along(app: App) -> None:
    browser = app.browser()
    with app.maker() as session:
        savepoint = session.begin_nested()
        new_hash(app, session)
        session.flush()
        savepoint.rollback()
        new_name(app, session)
        session.commit()
    assert named(browser) == "Mia"


def test_a_savepoint_that_is_released_passes_its_notes_on(app: App) -> None:
    browser = app.browser()
    with app.maker() as session:
        with session.begin_nested():
            new_hash(app, session)
        new_name(app, session)
        session.commit()
    assert who(browser) is None


def test_a_released_savepoint_within_one_that_is_rolled_back_ends_nothing(app: App) -> None:
    browser = app.browser()
    with app.maker() as session:
        outer = session.begin_nested()
        with session.begin_nested():
            new_hash(app, session)
        outer.rollback()
        session.commit()
    assert who(browser) == MIA


def test_a_released_savepoint_within_a_transaction_that_is_rolled_back_ends_nothing(app: App) -> None:
    browser = app.browser()
    with app.maker() as session:
        with session.begin_nested():
            new_hash(app, session)
        session.rollback()
        session.commit()
    assert who(browser) == MIA


def test_a_savepoint_that_is_open_at_the_commit_is_committed(app: App) -> None:
    browser = app.browser()
    with app.maker() as session:
        session.begin_nested()
        new_hash(app, session)
        session.commit()
    assert who(browser) is None


def test_several_transactions_of_one_database_session_are_kept_apart(app: App) -> None:
    mia, noa = app.browser(), app.browser(NOA)
    with app.maker() as session:
        new_name(app, session)
        session.commit()
        assert named(mia) == "Mia"
        app.user(session, NOA).password_hash = NEW_HASH
        session.commit()
        assert (who(mia), who(noa)) == (MIA, None)
        new_hash(app, session)
    assert who(mia) == MIA


def test_a_listener_of_the_app_that_changes_a_user_at_the_commit_is_followed(app: App) -> None:
    browser = app.browser()
    sa.event.listen(app.maker, "before_commit", lambda session: new_hash(app, session))
    with app.maker() as session:
        session.commit()
    assert who(browser) is None


# --- races ------------------------------------------------------------------------------------------------------------


def test_a_sign_in_between_the_end_of_the_sessions_and_the_commit_does_not_survive(app: App) -> None:
    browsers = [app.browser()]
    sa.event.listen(app.maker, "before_commit", lambda session: browsers.append(app.browser()))
    with app.maker() as session:
        new_hash(app, session)
        session.flush()
        browsers.append(app.browser())
        assert who(browsers[-1]) == MIA
        session.commit()
    assert len(browsers) == 3
    assert [who(browser) for browser in browsers] == [None] * 3


def test_of_two_commits_that_race_the_older_value_does_not_remain(app: App) -> None:
    """The request that rebuilds the identity reads the older value, and the second commit is faster than its write."""
    if app.engine.dialect.name == "sqlite":
        with app.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")  # a reader stops no writer
    browser = app.browser()
    commit(app, lambda app, session: setattr(app.user(session), "name", "older"))
    raced: list[str] = []

    def race(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if not raced and statement.startswith("SELECT"):
            raced.append(statement)
            commit(app, lambda app, session: setattr(app.user(session), "name", "newer"))

    sa.event.listen(app.engine, "after_cursor_execute", race)
    assert named(browser) == "older"  # the request has read the user before the second commit
    sa.event.remove(app.engine, "after_cursor_execute", race)
    assert raced
    assert named(browser) == "newer"


# --- a store that is down ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ENDING)
def test_if_the_store_is_down_the_commit_fails_and_nothing_is_written(app: App, change: Change) -> None:
    before = app.row()
    with app.maker() as session:
        change(app, session)
        session.flush()
        close(app)
        with pytest.raises(StoreUnavailable):
            session.commit()
        session.rollback()
    assert app.row() == before


@pytest.mark.parametrize("nested", [1, 2])
def test_if_the_store_is_down_a_commit_with_an_open_savepoint_fails_and_nothing_is_written(
    app: App, nested: int
) -> None:
    if app.engine.dialect.name == "sqlite":
        real_transactions(app.engine)
    browser, before = app.browser(), app.row()
    with app.maker() as session:
        for _ in range(nested):
            session.begin_nested()
        new_hash(app, session)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(app.backend, "delete_owner", refuse)
            with pytest.raises(StoreUnavailable):
                session.commit()
        session.rollback()
        assert not session.in_transaction()
        assert (app.row(), who(browser)) == (before, MIA)
        for _ in range(nested):
            session.begin_nested()
        new_hash(app, session)
        session.commit()
    assert who(browser) is None


def test_a_store_that_comes_back_lets_the_same_transaction_commit(app: App) -> None:
    browser = app.browser()
    with app.maker() as session:
        new_hash(app, session)
        session.flush()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(app.backend, "delete_owner", refuse)
            with pytest.raises(StoreUnavailable):
                session.commit()
        session.commit()
    assert who(browser) is None


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_outage_of_redis_around_the_commit(when: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if not shared_answers():
        pytest.skip("needs Redis")
    prefix, address = unique_prefix(), urlsplit(SHARED)
    with Proxy(str(address.hostname), address.port or 6379) as proxy:
        client = redis.Redis(port=proxy.port, socket_timeout=2)
        with following_app("sqlite", str(tmp_path), RedisBackend(client, prefix=prefix)) as app:
            before, browser = app.row(), app.browser()

            def fail(session: object) -> None:
                proxy.refuse()
                proxy.cut()

            with app.maker() as session:
                new_hash(app, session)
                session.flush()
                if when == "before":
                    fail(session)
                    with pytest.raises(StoreUnavailable):
                        session.commit()
                else:
                    sa.event.listen(app.maker, "after_commit", fail)
                    session.commit()
                    assert "the sessions may not have followed it" in caplog.text
            assert (app.row() == before) == (when == "before")
            proxy.refuse(refusing=False)
            assert who(browser) == (MIA if when == "before" else None)  # they ended before the commit
        client.close()
    clear_shared(prefix)


async def refuse(*_: Any) -> int:
    raise StoreUnavailable("down")


@pytest.mark.parametrize("change", [new_hash, new_name])
def test_if_the_store_goes_down_during_the_commit_it_stands_and_the_log_says_so(
    app: App, change: Change, caplog: pytest.LogCaptureFixture
) -> None:
    sa.event.listen(app.maker, "after_commit", lambda session: close(app))
    commit(app, change)
    assert (app.row().password_hash, app.row().name) in [(NEW_HASH, ""), (app.row().password_hash, "Mia")]
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"][-1:] == [
        "a user's change is committed, but the sessions may not have followed it"
    ]


def real_transactions(engine: sa.Engine) -> None:
    """Set up Python's driver for SQLite as SQLAlchemy's docs say. Otherwise a savepoint begins no transaction."""
    engine.dispose()
    sa.event.listen(engine, "connect", lambda connection, record: setattr(connection, "isolation_level", None))
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))


def close(app: App) -> None:
    assert not isinstance(app.backend, str)
    drive(app.backend.close())


# --- the request that makes the change --------------------------------------------------------------------------------


def test_a_view_that_changes_its_own_users_password_keeps_its_session(app: App) -> None:
    async def change(request: Any) -> object:
        with app.maker() as session:
            user = session.get(Citizen, request.user.id)
            assert user is not None
            user.password_hash = NEW_HASH
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
