"""What `users.follow` takes, whom it tells, and models of other shapes."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship, scoped_session, sessionmaker

from harness.following import EMAILS, NEW_HASH, App, Citizen, following_app, named, who
from harness.users_databases import Base, blocking_engine, statements, table_name
from powauth import Authenticator
from powauth.accounts.following import session_class
from powauth.accounts.hooks import Extension
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.errors import ConfigError

MIA, NOA = EMAILS


class OwnSession(Session):
    """A subclass of the app."""


class OwnAsyncSession(AsyncSession):
    sync_session_class = OwnSession


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    with blocking_engine("sqlite", str(tmp_path), Citizen) as engine:
        made = App(engine)
        made.register()
        yield made
        made.users.unfollow()


def change_in(app: App, session: Session) -> None:
    app.user(session).password_hash = NEW_HASH
    session.commit()
    session.close()


def test_a_session_class_is_followed_with_its_subclasses(app: App) -> None:
    app.users.follow(OwnSession)
    browser = app.browser()
    change_in(app, Session(app.engine))
    assert who(browser) == MIA
    browser = app.browser(password="nine brown otters")
    change_in(app, sessionmaker(app.engine, class_=OwnSession)())
    assert who(browser) == "mia@example.com"  # the hash is the same as before
    with OwnSession(app.engine) as session:
        session.delete(app.user(session))
        session.commit()
    assert who(browser) is None


def test_a_scoped_session_is_followed(app: App) -> None:
    registry = scoped_session(sessionmaker(app.engine))
    app.users.follow(registry)
    browser = app.browser()
    app.user(registry()).password_hash = NEW_HASH
    registry.commit()
    registry.remove()
    assert who(browser) is None


def test_other_database_sessions_are_not_followed(app: App) -> None:
    app.users.follow(sessionmaker(app.engine))
    browser = app.browser()
    change_in(app, app.maker())
    assert who(browser) == MIA


def test_whoever_follows_twice_hears_once(app: App) -> None:
    app.users.follow(app.maker)
    app.users.follow(app.maker)
    app.users.follow(scoped_session(app.maker))
    app.users.follow(app.maker.class_)
    app.browser()
    change_in(app, app.maker())
    assert [event.name for event in app.events].count("revoked") == 2  # before and after the commit


def test_whoever_follows_all_sessions_hears_each_once(app: App) -> None:
    app.users.follow(app.maker)
    app.users.follow(Session)
    app.users.follow(app.maker)
    app.browser()
    change_in(app, app.maker())
    assert [event.name for event in app.events].count("revoked") == 2


@pytest.mark.parametrize(
    ("target", "inside"),
    [
        (AsyncSession, Session),
        (OwnAsyncSession, OwnSession),
        (async_sessionmaker(sync_session_class=OwnSession), OwnSession),
        (scoped_session(OwnSession), OwnSession),  # type: ignore[arg-type]
    ],
)
def test_the_class_inside_of_a_target_is_listened_to(target: object, inside: type[Session]) -> None:
    assert session_class(target) is inside


def test_an_async_sessionmaker_gets_a_class_of_its_own() -> None:
    maker = async_sessionmaker(class_=OwnAsyncSession)
    found = session_class(async_scoped_session(maker, scopefunc=lambda: 1))
    assert issubclass(found, OwnSession)
    assert found is not OwnSession
    assert session_class(maker) is found
    assert session_class(async_sessionmaker(class_=OwnAsyncSession)) is not found


@pytest.mark.parametrize("target", [None, object(), Citizen, "db.session", Session()])
def test_anything_else_is_refused_with_the_list_of_what_is_not(app: App, target: Any) -> None:
    with pytest.raises(ConfigError, match="a sessionmaker, an async_sessionmaker or a scoped_session"):
        app.users.follow(target)


def test_what_is_not_followed_any_more_is_not_heard(app: App) -> None:
    app.users.follow(app.maker)
    app.users.unfollow()
    browser = app.browser()
    change_in(app, app.maker())
    assert who(browser) == MIA
    app.users.follow(app.maker)
    with app.maker() as session:
        session.delete(app.user(session))
        session.commit()
    assert who(browser) is None


def test_every_authenticator_of_the_users_is_told(app: App) -> None:
    first = app.browser()
    app.users.follow(app.maker)
    other = App.__new__(App)
    vars(other).update(vars(app), auth=app.another_auth(session_key="admin"))
    second = other.browser()
    assert (who(first), who(second)) == (MIA, MIA)
    change_in(app, app.maker())
    assert (who(first), who(second)) == (None, None)


class Tokens(Extension[Any]):
    name = "tokens"

    def __init__(self) -> None:
        self.ended: list[Any] = []

    async def credentials_changed(self, key: Any, why: str) -> None:
        self.ended.append(key)


class Header(Authenticator[Any, Any]):
    """Keeps no sessions."""

    async def fetch(self, connection: Any) -> Any: ...
    async def create(self, connection: Any, account: Any, grant: Any = None) -> Any: ...
    async def delete(self, connection: Any) -> None: ...


def test_an_authenticator_without_sessions_tells_its_extensions(app: App) -> None:
    tokens = Tokens()
    Header(app.users, extensions=[tokens])
    app.users.follow(app.maker)
    key = app.row().id
    with app.maker() as session:
        app.user(session).name = "Mia"
        session.commit()
        assert tokens.ended == []
        app.user(session).password_hash = NEW_HASH
        session.commit()
    on_sqlite = app.engine.dialect.name == "sqlite"  # there, nothing is called before the commit
    assert tokens.ended == ([key] if on_sqlite else [key, key])


# --- the request that makes the change --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["locked", "deleted"])
def test_a_view_that_locks_or_deletes_its_own_user_ends_its_session_too(app: App, how: str) -> None:
    app.users.follow(app.maker)

    async def change(request: Any) -> object:
        with app.maker() as session:
            user = app.user(session)
            if how == "locked":
                user.is_active = False
            else:
                session.delete(user)
            session.commit()
        return True

    app.handlers["/change"] = change
    own = app.browser()
    assert own.get("/change").status == 200
    assert who(own) is None


def test_a_view_that_changes_another_user_keeps_no_session_of_that_user(app: App) -> None:
    app.users.follow(app.maker)

    async def change(request: Any) -> object:
        with app.maker() as session:
            app.user(session, NOA).password_hash = NEW_HASH
            session.commit()
        return True

    app.handlers["/change"] = change
    own, other = app.browser(), app.browser(NOA)
    own.get("/change")
    assert (who(own), who(other)) == (MIA, None)


def test_a_view_keeps_the_session_of_its_own_authenticator(app: App) -> None:
    app.users.follow(app.maker)
    other = App.__new__(App)
    vars(other).update(vars(app), auth=app.another_auth(session_key="admin", current_user_key="admin"), handlers={})
    other.handlers |= app.handlers

    async def change(request: Any) -> object:
        with app.maker() as session:
            app.user(session).password_hash = NEW_HASH
            session.commit()
        return True

    app.handlers["/change"] = change
    own, admin = app.browser(), other.browser()
    assert own.get("/change").status == 200
    assert (who(own), who(admin)) == (MIA, None)


def test_a_request_that_is_over_keeps_nothing(app: App) -> None:
    app.users.follow(app.maker)
    browser = app.browser()
    assert who(browser) == MIA
    change_in(app, app.maker())
    assert who(browser) is None


# --- other models -----------------------------------------------------------------------------------------------------


class Club(Base):
    __tablename__ = table_name()

    id: Mapped[int] = mapped_column(primary_key=True)
    members: Mapped[list["TeamMember"]] = relationship(cascade="all, delete-orphan")


class TeamMember(UserMixin, Base):
    """Whether a member is active is a property, and so is the label."""

    __tablename__ = table_name()

    club_id: Mapped[int | None] = mapped_column(sa.ForeignKey(Club.id))
    name: Mapped[str] = mapped_column(sa.String(40), default="")
    locked: Mapped[bool] = mapped_column(default=False)

    @property
    def is_active(self) -> bool:
        return not self.locked

    @property
    def label(self) -> str:
        return f"{self.name} <{self.email}>"


class MemberIdentity(msgspec.Struct, frozen=True, kw_only=True):
    id: uuid.UUID
    email: str
    name: str
    label: str


@pytest.fixture
def club(tmp_path: Path) -> Iterator[App]:
    with blocking_engine("sqlite", str(tmp_path), Club, TeamMember) as engine:
        made = App(engine, model=TeamMember, identity=MemberIdentity)
        made.register()
        made.users.follow(made.maker)
        yield made


def test_an_orphan_that_a_flush_deletes_is_followed(club: App) -> None:
    with club.maker() as session:
        session.add(Club(id=1, members=[club.user(session)]))
        session.commit()
    browser = club.browser()
    with club.maker() as session:
        found = session.get_one(Club, 1)
        found.members.clear()
        session.commit()
    assert club.row() is None
    assert who(browser) is None
    assert [event.name for event in club.events].count("revoked") == 2


def test_a_property_that_says_the_user_is_locked_ends_the_sessions(club: App) -> None:
    browser = club.browser()
    with club.maker() as session:
        club.user(session).locked = True
        session.commit()
    assert [event.name for event in club.events].count("revoked") == 2
    assert who(browser) is None


def test_any_column_may_be_behind_a_property(club: App) -> None:
    browser, other = club.browser(), club.browser(NOA)
    with club.maker() as session:
        club.user(session).name = "Mia"
        session.commit()
    assert named(browser) == "Mia"
    with club.maker() as session:
        session.execute(sa.update(TeamMember).where(TeamMember.email == MIA).values(locked=True))
        session.commit()
    assert (who(browser), who(other)) == (None, NOA)  # the next request reads the user


class Visitor(UserMixin, Base):
    """Its identity has a column that SQLAlchemy sets at each UPDATE."""

    __tablename__ = table_name()

    name: Mapped[str] = mapped_column(sa.String(40), default="")
    note: Mapped[str] = mapped_column("order", sa.String(40), default="")
    edits: Mapped[int] = mapped_column(default=0, onupdate=1)


class VisitorIdentity(msgspec.Struct, frozen=True, kw_only=True):
    id: uuid.UUID
    email: str
    edits: int


def test_a_column_that_every_update_sets_makes_each_change_count(tmp_path: Path) -> None:
    with following_app("sqlite", str(tmp_path), model=Visitor, identity=VisitorIdentity) as app:

        async def edits(request: Any) -> object:
            return request.user.edits

        app.handlers["/edits"] = edits
        first, second = app.browser(), app.browser(NOA)
        with app.maker() as session:
            app.user(session).note = "here"
            session.commit()
            session.execute(sa.update(Visitor).where(Visitor.email == NOA).values(note="there"))
            session.commit()
        assert (first.get("/edits").json(), second.get("/edits").json()) == (1, 1)


def test_another_class_over_the_same_table_is_followed(app: App) -> None:
    registry = sa.orm.registry()

    class Contact:
        id: Any
        email: Any
        password_hash: Any

    registry.map_imperatively(Contact, Citizen.__table__)
    app.users.follow(app.maker)
    browser = app.browser()
    with app.maker() as session:
        found = session.scalars(sa.select(Contact).where(Contact.email == MIA)).one()
        found.password_hash = NEW_HASH
        session.commit()
    assert who(browser) is None
    registry.dispose()


def test_the_default_identity_needs_no_look_at_other_columns(tmp_path: Path) -> None:
    with following_app("sqlite", str(tmp_path), identity=None) as app:
        browser = app.browser()
        with statements(app.engine) as seen, app.maker() as session:
            session.execute(sa.update(Citizen).values(name="x"))
            session.commit()
        assert seen == ["UPDATE"]
        assert who(browser) == MIA


def test_users_without_an_authenticator_are_followed_for_nothing(tmp_path: Path) -> None:
    with blocking_engine("sqlite", str(tmp_path), Citizen) as engine:
        users: SQLAlchemyUsers[Any, Any] = SQLAlchemyUsers(engine, Citizen)
        maker = sessionmaker(engine)
        users.follow(maker)
        with maker() as session:
            session.add(Citizen(email=MIA, password_hash="x"))
            session.commit()
            session.scalars(sa.select(Citizen)).one().password_hash = "y"
            session.commit()
