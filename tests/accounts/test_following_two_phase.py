"""Two-phase commits of the app's database sessions, and the sessions follow."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.orm import sessionmaker

from harness.following import EMAILS, NEW_HASH, App, following_app, who
from powauth.errors import StoreUnavailable

MIA, NOA = EMAILS


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    """MariaDB prepares transactions without any setting. PostgreSQL's default allows none, and SQLite has none."""
    with following_app("mariadb+pymysql", str(tmp_path)) as made:
        made.maker = sessionmaker(made.engine, twophase=True)
        made.users.follow(made.maker)
        yield made


def test_the_sessions_have_ended_once_the_transaction_is_prepared(app: App) -> None:
    browser, other = app.browser(), app.browser(NOA)
    with app.maker() as session:
        app.user(session).password_hash = NEW_HASH
        session.prepare()
        assert who(browser) is None  # whoever commits it later, even after a crash
        late = app.browser()
        session.commit()
    assert (who(late), who(other)) == (None, NOA)


def test_a_prepared_transaction_that_is_rolled_back_changes_nothing_but_the_sessions(app: App) -> None:
    browser, before = app.browser(), app.row()
    with app.maker() as session:
        app.user(session).password_hash = NEW_HASH
        session.prepare()
        session.rollback()
    assert (app.row(), who(browser)) == (before, None)
    assert who(app.browser()) == MIA


def test_if_the_store_is_down_nothing_is_prepared(app: App) -> None:
    browser, before = app.browser(), app.row()

    async def refuse(*_: object) -> int:
        raise StoreUnavailable("down")

    with app.maker() as session:
        app.user(session).password_hash = NEW_HASH
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(app.backend, "delete_owner", refuse)
            with pytest.raises(StoreUnavailable):
                session.prepare()
        session.rollback()
    assert (app.row(), who(browser)) == (before, MIA)
    with app.maker() as session:  # no prepared transaction has a lock
        app.user(session).password_hash = NEW_HASH
        session.commit()
    assert who(browser) is None
