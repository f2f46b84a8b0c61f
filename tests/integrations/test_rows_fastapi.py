"""FastAPI: a dependency gives the current user's row in the handler's own database session."""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from importlib.metadata import version
from inspect import signature
from typing import Annotated, Any

import pytest
import sqlalchemy as sa
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from packaging.version import Version
from sqlalchemy import orm
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.pool import NullPool
from sqlmodel import Field, SQLModel
from sqlmodel import Session as SQLModelSession

from harness.rows import add_user, auth_over, counted, hash_of, unique
from harness.support import CountingBackend, MemoryUsers
from harness.users_databases import url_of
from powauth import SessionAuth
from powauth.backends.memory import MemoryBackend
from powauth.errors import ConfigError, StoreUnavailable
from powauth.integrations.fastapi import Auth, SessionAuthMiddleware
from powauth.testing import sign_in

PAIRS = [("sqlite", "sqlite+aiosqlite"), ("postgresql+psycopg", "postgresql+asyncpg")]


class World:
    """An app with a sync and an async session over one table."""

    def __init__(self, sync: str, asynchronous: str, folder: str) -> None:
        class Base(DeclarativeBase):
            pass

        users, notes = unique("users"), unique("notes")

        class User(Base):
            __tablename__ = users
            id: Mapped[int] = mapped_column(primary_key=True)
            email: Mapped[str] = mapped_column(sa.String(200), unique=True)
            password_hash: Mapped[str | None] = mapped_column(sa.String(200))
            is_active: Mapped[bool] = mapped_column(default=True)
            nick: Mapped[str] = mapped_column(sa.String(40), default="")
            notes: Mapped[list["Note"]] = orm.relationship(lambda: Note)

        class Note(Base):
            __tablename__ = notes
            id: Mapped[int] = mapped_column(primary_key=True)
            user_id: Mapped[int] = mapped_column(sa.ForeignKey(f"{users}.id"))

        self.Base, self.User = Base, User
        url = url_of(sync, folder)
        self.engine = sa.create_engine(url, poolclass=NullPool)
        self.async_engine = create_async_engine(url.replace(sync, asynchronous), poolclass=NullPool)
        Base.metadata.create_all(self.engine)
        self.backend = CountingBackend(MemoryBackend())
        self.auth = auth_over(self.engine, User, backend=self.backend)
        self.me = add_user(self.auth)
        self.session = Auth(self.auth)
        self.maker = sessionmaker(self.engine)
        self.async_maker = async_sessionmaker(self.async_engine, expire_on_commit=False)
        self.opened = 0
        self.app = FastAPI()
        self.app.add_middleware(SessionAuthMiddleware, auth=self.auth)
        self.client = TestClient(self.app)
        sign_in(self.client, self.me)

    async def get_db(self) -> AsyncIterator[AsyncSession]:
        self.opened += 1
        async with self.async_maker() as session:
            yield session

    def get_sync(self) -> Iterator[Session]:
        self.opened += 1
        with self.maker() as session:
            yield session

    def execute(self, statement: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(statement)

    def get(self, path: str = "/") -> Any:
        response = self.client.get(path)
        return response.json() if response.status_code == 200 else response.status_code

    @property
    def lives(self) -> bool:
        """Whether the session of the client is still there."""

        async def who(me: Annotated[Any, Depends(self.session.optional_identity)]) -> bool:
            return me is not None

        self.app.add_api_route("/lives", who)
        return bool(self.get("/lives"))

    def close(self) -> None:
        self.Base.metadata.drop_all(self.engine)
        self.engine.dispose()
        asyncio.run(self.async_engine.dispose())


@pytest.fixture(params=PAIRS, ids=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with tempfile.TemporaryDirectory() as folder:
        sync, asynchronous = request.param
        made = World(sync, asynchronous, folder)
        yield made
        made.close()


# --- REP-20, 21, 25: the row is in the handler's own session ----------------------------------------------------------


def test_rep_20_a_change_of_the_row_is_saved(world: World) -> None:
    async def rename(
        user: Annotated[Any, Depends(world.session.row(world.get_db))],
        db: Annotated[AsyncSession, Depends(world.get_db)],
    ) -> str:
        user.nick = "x"
        await db.commit()
        nick: str = user.nick  # the session keeps values after a commit: expire_on_commit=False
        return nick

    def rename_sync(
        user: Annotated[Any, Depends(world.session.row(world.get_sync))],
        db: Annotated[Session, Depends(world.get_sync)],
    ) -> str:
        seen: str = user.nick
        user.nick = "y"
        db.commit()
        return f"{seen}{user.nick}"

    world.app.add_api_route("/async", rename)
    world.app.add_api_route("/sync", rename_sync)
    assert world.get("/async") == "x"
    assert world.get("/sync") == "xy"
    assert world.opened == 2


def test_the_row_is_that_of_every_kind_of_dependency(world: World) -> None:
    class Opener:
        """A dependency that is an object."""

        async def __call__(self) -> AsyncIterator[AsyncSession]:
            async with world.async_maker() as session:
                yield session

    async def plain_in_coroutine() -> AsyncIterator[Session]:
        with world.maker() as session:
            yield session

    def asynchronous_in_function() -> AsyncSession:
        return world.async_maker()

    dependencies: list[Callable[..., Any]] = [
        world.get_db,
        world.get_sync,
        Opener(),
        plain_in_coroutine,
        asynchronous_in_function,
    ]
    for number, get_db in enumerate(dependencies):
        current = Annotated[Any, Depends(world.session.row(get_db))]

        async def same(user: current, db: Annotated[Any, Depends(get_db)]) -> list[Any]:
            found = [user in db, user.email]
            if isinstance(db, AsyncSession):
                await db.close()
            return found

        def in_thread(user: current, db: Annotated[Any, Depends(get_db)]) -> list[Any]:
            return [user in db, user.email]

        world.app.add_api_route(f"/{number}", same)
        assert world.get(f"/{number}") == [True, world.me.email], get_db
        if get_db is not asynchronous_in_function:  # the thread could not close it
            world.app.add_api_route(f"/{number}/thread", in_thread)
            assert world.get(f"/{number}/thread") == [True, world.me.email], get_db


PEOPLE = unique("people")


class Person(SQLModel, table=True):
    __tablename__ = PEOPLE
    id: int | None = Field(default=None, primary_key=True)
    email: str = Field(unique=True)
    password_hash: str
    is_active: bool = True


def test_the_row_is_in_a_session_of_sqlmodel(world: World) -> None:
    table = SQLModel.metadata.tables[PEOPLE]
    SQLModel.metadata.create_all(world.engine, [table])
    auth = auth_over(world.engine, Person, identity=None)
    person = add_user(auth)
    app = FastAPI()
    app.add_middleware(SessionAuthMiddleware, auth=auth)

    def get_session() -> Iterator[SQLModelSession]:
        with SQLModelSession(world.engine) as session:
            yield session

    @app.get("/", response_model=None)
    def same(
        user: Annotated[Any, Depends(Auth(auth).row(get_session))],
        db: Annotated[SQLModelSession, Depends(get_session)],
    ) -> list[Any]:
        return [user in db, user.email, isinstance(user, Person)]

    client = TestClient(app)
    assert client.get("/").status_code == 401
    sign_in(client, person)
    assert client.get("/").json() == [True, person.email, True]
    SQLModel.metadata.drop_all(world.engine, [table])


def test_rep_21_the_identity_equals_the_row(world: World) -> None:
    async def compare(
        user: Annotated[Any, Depends(world.session.row(world.get_db))],
        me: Annotated[Any, Depends(world.session.identity)],
    ) -> list[bool]:
        return [user == me, me == user, user != me]

    world.app.add_api_route("/", compare, response_model=None)
    assert world.get() == [True, True, False]


def test_rep_25_a_relationship_of_the_row_works(world: World) -> None:
    async def load(
        user: Annotated[Any, Depends(world.session.row(world.get_db))],
        db: Annotated[AsyncSession, Depends(world.get_db)],
    ) -> int:
        await db.refresh(user, ["notes"])
        return len(user.notes)

    def lazily(user: Annotated[Any, Depends(world.session.row(world.get_sync))]) -> int:
        return len(user.notes)

    world.app.add_api_route("/async", load)
    world.app.add_api_route("/sync", lazily)
    assert (world.get("/async"), world.get("/sync")) == (0, 0)


# --- one SELECT -------------------------------------------------------------------------------------------------------


def test_the_row_takes_one_select_and_the_identity_none(world: World) -> None:
    async def row(
        user: Annotated[Any, Depends(world.session.row(world.get_db))],
        again: Annotated[Any, Depends(world.session.optional_row(world.get_db))],
    ) -> bool:
        return user is again

    async def identity(me: Annotated[Any, Depends(world.session.identity)]) -> int:
        number: int = me.id
        return number

    world.app.add_api_route("/row", row)
    world.app.add_api_route("/identity", identity)
    for path, result, statements in (("/row", True, 1), ("/identity", world.me.id, 0)):
        with counted(world.async_engine.sync_engine) as seen, counted(world.engine) as own:
            assert world.get(path) == result
        assert [each for each in [*seen, *own] if "users_" in each and each.startswith("SELECT")] == seen[-statements:]
        assert len([each for each in seen if "users_" in each]) == statements


def test_a_request_of_nobody_opens_no_session(world: World) -> None:
    async def row(user: Annotated[Any, Depends(world.session.row(world.get_db))]) -> None:
        """Nobody gets here."""

    async def maybe(user: Annotated[Any, Depends(world.session.optional_row(world.get_db))]) -> bool:
        return user is None

    world.app.add_api_route("/row", row)
    world.app.add_api_route("/maybe", maybe)
    stranger = TestClient(world.app)
    assert stranger.get("/row").status_code == 401
    assert world.opened == 0
    assert stranger.get("/maybe").json() is True


def test_the_document_shows_the_cookie(world: World) -> None:
    async def row(user: Annotated[Any, Depends(world.session.row(world.get_db))]) -> None:
        """Never called."""

    world.app.add_api_route("/row", row)
    operation = world.app.openapi()["paths"]["/row"]["get"]
    assert operation["security"] == [{"__Host-auth": []}]
    assert operation.get("parameters", []) == []


# --- REP-27: a user who has changed is signed out ---------------------------------------------------------------------


@pytest.mark.parametrize("change", ["password", "locked", "deleted", "key of another"])
@pytest.mark.parametrize("kind", ["async", "sync"])
def test_rep_27_a_change_elsewhere_signs_out(world: World, change: str, kind: str) -> None:
    get_db: Any = world.get_db if kind == "async" else world.get_sync

    async def row(user: Annotated[Any, Depends(world.session.row(get_db))]) -> str:
        email: str = user.email
        return email

    world.app.add_api_route("/", row)
    assert world.get() == world.me.email
    users: Any = world.User.__table__
    if change == "password":
        world.execute(sa.update(users).values(password_hash=hash_of()))
    elif change == "locked":
        world.execute(sa.update(users).values(is_active=False))
    else:
        world.execute(sa.delete(users))
    if change == "key of another":
        eve = {"id": world.me.id, "email": "eve@example.org", "password_hash": hash_of(), "nick": "", "is_active": True}
        world.execute(sa.insert(users).values(**eve))
    response = world.client.get("/")
    assert (response.status_code, response.json()) == (401, {"detail": "Not authenticated"})
    assert not world.lives


def test_rep_27_the_optional_row_is_none_after_a_change(world: World) -> None:
    async def row(user: Annotated[Any, Depends(world.session.optional_row(world.get_db))]) -> bool:
        return user is None

    world.app.add_api_route("/", row)
    world.execute(sa.update(world.User.__table__).values(is_active=False))  # type: ignore[arg-type]
    assert world.get() is True
    assert not world.lives


def test_rep_27_the_sign_in_page_is_the_answer_to_a_person(world: World) -> None:
    app = FastAPI()
    app.add_middleware(SessionAuthMiddleware, auth=world.auth, sign_in_path="/login")

    @app.get("/")
    async def row(user: Annotated[Any, Depends(world.session.row(world.get_db))]) -> None:
        """The user is gone."""

    client = TestClient(app, follow_redirects=False)
    sign_in(client, world.me, auth=world.auth)
    world.execute(sa.update(world.User.__table__).values(password_hash=hash_of()))  # type: ignore[arg-type]
    assert client.get("/", headers={"Accept": "text/html"}).headers["location"] == "/login?next=/"


# --- the traps --------------------------------------------------------------------------------------------------------


def test_another_session_has_another_row(world: World) -> None:
    async def uncached(
        user: Annotated[Any, Depends(world.session.row(world.get_db))],
        db: Annotated[AsyncSession, Depends(world.get_db, use_cache=False)],
    ) -> bool:
        return user in db

    world.app.add_api_route("/", uncached)
    assert world.get() is False


@pytest.mark.skipif("scope" not in signature(Depends).parameters, reason="FastAPI before 0.121 has no scopes")
def test_a_session_of_another_scope_has_another_row(world: World) -> None:
    """A trap of the docs, and the way out of it."""
    scoped = Depends(world.get_db, scope="function")

    async def other_scope(user: Annotated[Any, Depends(world.session.row(world.get_db))], db: Any = scoped) -> bool:
        return user in db

    async def same_scope(user: Annotated[Any, Depends(world.session.row(scoped))], db: Any = scoped) -> bool:
        return user in db

    for handler, expected in ((other_scope, False), (same_scope, True)):
        world.app.add_api_route(f"/{handler.__name__}", handler)
        assert world.get(f"/{handler.__name__}") is expected


def test_an_override_of_the_session_counts_for_the_row(world: World) -> None:
    async def same(
        user: Annotated[Any, Depends(world.session.row(world.get_db))],
        db: Annotated[AsyncSession, Depends(world.get_db)],
    ) -> bool:
        return user in db

    async def other() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(world.async_engine) as session:
            yield session

    world.app.add_api_route("/", same)
    world.app.dependency_overrides[world.get_db] = other
    assert world.get() is True
    assert world.opened == 0


# --- failures ---------------------------------------------------------------------------------------------------------


def test_an_outage_of_the_store_is_503(world: World) -> None:
    async def row(user: Annotated[Any, Depends(world.session.row(world.get_db))]) -> None:
        """Nobody gets here."""

    world.app.add_api_route("/", row)
    world.backend.fail["*"] = StoreUnavailable("down")
    assert world.get() == 503


def test_what_is_no_dependency_is_refused(world: World) -> None:
    for wrong in (None, "get_db", Depends()):
        with pytest.raises(ConfigError, match="db must be the app's dependency of a database session"):
            world.session.row(wrong)  # type: ignore[arg-type]
    for maker in (sessionmaker(), async_sessionmaker()):
        with pytest.raises(ConfigError, match="A sessionmaker is none: write a function that yields"):
            world.session.row(maker)
    plain = SessionAuth(secret_key=world.auth.keyring, users=MemoryUsers(), backend="memory://")
    with pytest.raises(ConfigError, match="MemoryUsers has no rows"):
        Auth(plain).row(world.get_db)


@pytest.mark.skipif(
    Version(version("fastapi")) < Version("0.123.5"), reason="FastAPI before 0.123.5 awaits no partial of a coroutine"
)
def test_a_dependency_that_is_a_partial_of_a_coroutine_runs_on_the_event_loop(world: World) -> None:
    async def get_named(name: str) -> AsyncSession:
        assert name == "main"
        return world.async_maker()

    get_db = partial(get_named, "main")

    async def row(
        user: Annotated[Any, Depends(world.session.row(get_db))], db: Annotated[AsyncSession, Depends(get_db)]
    ) -> bool:
        found = user in db
        await db.close()
        return found

    world.app.add_api_route("/", row)
    assert world.get() is True


def test_a_handler_that_changes_its_own_users_password_reseals(world: World) -> None:
    async def change(
        user: Annotated[Any, Depends(world.session.row(world.get_db))],
        db: Annotated[AsyncSession, Depends(world.get_db)],
        auth: Annotated[Any, Depends(world.session.request_auth)],
    ) -> str:
        user.password_hash = hash_of()
        await db.commit()
        await auth.reseal()
        email: str = (await auth.load_user(db)).email
        return email

    async def row(user: Annotated[Any, Depends(world.session.row(world.get_db))]) -> str:
        email: str = user.email
        return email

    world.app.add_api_route("/change", change)
    world.app.add_api_route("/", row)
    assert world.get("/change") == world.get("/") == world.me.email
