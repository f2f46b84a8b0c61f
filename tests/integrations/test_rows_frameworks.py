"""The current user's row under Litestar, Starlette, plain ASGI and plain WSGI, and with other authenticators."""

import asyncio
import inspect
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from litestar import Litestar, get
from litestar.testing import TestClient as LitestarClient
from sqlalchemy.ext.asyncio import async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    relationship,
    scoped_session,
    sessionmaker,
)
from sqlalchemy.pool import NullPool
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from harness.rows import add_user, auth_over, counted, hash_of, needs_alchemy, unique
from harness.support import CountingBackend, FakeConnection
from harness.users_databases import PASSWORD, url_of
from powauth import Account, Authenticator, BlockingAuth, BlockingRequestAuth, RequestAuth, SessionAuth
from powauth.accounts.service import AS_BEFORE, Grant
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.errors import ConfigError, StoreUnavailable
from powauth.http.connection import Connection
from powauth.integrations import wsgi
from powauth.integrations.litestar import CurrentUser, PowAuthPlugin
from powauth.integrations.starlette import (
    SessionAuthBackend,
    SessionAuthMiddleware,
    blocking_request_auth,
    request_auth,
)
from powauth.testing import sign_in

PAIRS = [("sqlite", "sqlite+aiosqlite"), ("postgresql+psycopg", "postgresql+asyncpg")]


class World:
    """A table of users, its engines, and an authenticator over it."""

    def __init__(self, sync: str, asynchronous: str, folder: str) -> None:
        class Base(DeclarativeBase):
            pass

        class User(Base):
            __tablename__ = unique("users")
            id: Mapped[int] = mapped_column(primary_key=True)
            email: Mapped[str] = mapped_column(sa.String(200), unique=True)
            password_hash: Mapped[str | None] = mapped_column(sa.String(200))
            locked: Mapped[bool] = mapped_column(default=False)

            @property
            def is_active(self) -> bool:
                return not self.locked

        self.Base, self.User = Base, User
        self.url = url_of(sync, folder)
        self.engine = sa.create_engine(self.url, poolclass=NullPool)
        self.async_engine = create_async_engine(self.url.replace(sync, asynchronous), poolclass=NullPool)
        Base.metadata.create_all(self.engine)
        self.backend = CountingBackend(MemoryBackend())
        self.auth = auth_over(self.engine, User, backend=self.backend)
        self.me = add_user(self.auth)
        self.maker = sessionmaker(self.engine)
        self.async_maker = async_sessionmaker(self.async_engine, expire_on_commit=False)

    def execute(self, statement: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(statement)

    def lock(self) -> None:
        self.execute(sa.update(self.User.__table__).values(locked=True))  # type: ignore[arg-type]

    def connection(self) -> FakeConnection:
        """A connection on which the user is signed in."""
        connection = FakeConnection()
        assert drive(RequestAuth(self.auth, connection).sign_in_user(self.me)) == self.me
        return connection

    def close(self) -> None:
        self.Base.metadata.drop_all(self.engine)
        self.engine.dispose()
        asyncio.run(self.async_engine.dispose())


@pytest.fixture(params=PAIRS, ids=["sqlite", "postgresql"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    sync, asynchronous = request.param
    with tempfile.TemporaryDirectory() as folder:
        made = World(sync, asynchronous, folder)
        yield made
        made.close()


# --- Litestar ---------------------------------------------------------------------------------------------------------


@needs_alchemy
@pytest.mark.parametrize("kind", ["async", "sync", "function"])
def test_litestar_gives_the_row_in_the_handlers_own_session(world: World, kind: str) -> None:
    from advanced_alchemy.extensions.litestar import SQLAlchemyAsyncConfig, SQLAlchemyPlugin, SQLAlchemySyncConfig

    config: Any = (
        SQLAlchemySyncConfig(engine_instance=world.engine)
        if kind == "sync"
        else SQLAlchemyAsyncConfig(engine_instance=world.async_engine)
    )
    session = config.provide_session if kind == "function" else config

    @get("/")
    async def same(current_user: CurrentUser[Any], db_session: CurrentUser[Any]) -> list[Any]:
        return [current_user in db_session, current_user.email]

    @get("/maybe")
    async def maybe(optional_current_user: CurrentUser[Any]) -> bool:
        return optional_current_user is None

    @get("/none")
    async def none() -> None:
        """Does not ask who it is."""

    plugins = [SQLAlchemyPlugin(config=config), PowAuthPlugin(world.auth, session=session)]
    with LitestarClient(Litestar([same, maybe, none], plugins=plugins)) as client:
        engine = config.get_engine()
        assert client.get("/").status_code == 401
        assert client.get("/maybe").json() is True
        sign_in(client, world.me)
        with counted(getattr(engine, "sync_engine", engine)) as seen:
            assert client.get("/").json() == [True, world.me.email]
            assert client.get("/none").status_code == 200
        assert len([each for each in seen if world.User.__tablename__ in each]) == 1
        assert client.get("/maybe").json() is False
        world.lock()
        assert client.get("/maybe").json() is True
        assert client.get("/").status_code == 401
    assert drive(world.auth.sessions.live(world.me.id)) == []


@needs_alchemy
def test_rep_27_litestar_refuses_a_user_who_has_changed(world: World) -> None:
    from advanced_alchemy.extensions.litestar import SQLAlchemyAsyncConfig, SQLAlchemyPlugin

    @get("/")
    async def row(current_user: CurrentUser[Any]) -> str:
        email: str = current_user.email
        return email

    config = SQLAlchemyAsyncConfig(engine_instance=world.async_engine)
    plugins = [SQLAlchemyPlugin(config=config), PowAuthPlugin(world.auth, session=config, sign_in_path="/login")]
    with LitestarClient(Litestar([row], plugins=plugins)) as client:
        sign_in(client, world.me)
        assert client.get("/").text == world.me.email
        world.execute(sa.update(world.User.__table__).values(password_hash=hash_of()))  # type: ignore[arg-type]
        answer = client.get("/", headers={"Accept": "text/html"}, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=/")
        world.backend.fail["*"] = StoreUnavailable("down")
        assert client.get("/").status_code == 503


def test_litestar_refuses_what_opens_a_session_at_each_call(world: World) -> None:
    with pytest.raises(ConfigError, match="opens a new session at each call"):
        PowAuthPlugin(world.auth, session=world.async_maker)


# --- Starlette --------------------------------------------------------------------------------------------------------


def test_starlette_has_the_identity_and_one_call_loads_the_row(world: World) -> None:
    async def row(request: Request) -> Response:
        async with world.async_maker() as db:
            user = await request_auth(request, world.auth).load_user(db)
            if user is None:
                return JSONResponse(None)
            return JSONResponse([user == request.user, request.state.current_user == user, user in db])

    def in_thread(request: Request) -> Response:
        with world.maker() as db:
            user = blocking_request_auth(request, world.auth).load_user(db)
            return JSONResponse(user is not None and user in db)

    app = Starlette(
        routes=[Route("/", row), Route("/thread", in_thread)],
        middleware=[
            Middleware(SessionAuthMiddleware, auth=world.auth),
            Middleware(AuthenticationMiddleware, backend=SessionAuthBackend()),
        ],
    )
    client = TestClient(app)
    assert client.get("/").json() is None
    sign_in(client, world.me)
    assert client.get("/").json() == [True, True, True]
    assert client.get("/thread").json() is True
    world.lock()
    assert client.get("/thread").json() is False
    assert drive(world.auth.sessions.live(world.me.id)) == []


# --- plain ASGI and WSGI ----------------------------------------------------------------------------------------------


def test_every_kind_of_session_gives_the_row(world: World) -> None:
    connection = world.connection()
    bound = RequestAuth(world.auth, connection)

    async def asynchronously() -> None:
        scoped = async_scoped_session(world.async_maker, asyncio.current_task)
        for db in (world.async_maker(), scoped, world.maker()):
            row = await bound.load_user(db)
            assert row is not None
            assert row in db
            assert row == world.me
            assert await bound.load_user(db) is row
            closed = db.close()
            if closed is not None:
                await closed

    asyncio.run(asynchronously())
    blocking = BlockingRequestAuth(bound, drive)
    for db in (world.maker(), scoped_session(world.maker)):
        assert blocking.load_user(db) in db
        db.close()
    for wrong in (None, world.maker, world.engine):
        with pytest.raises(ConfigError, match="a row needs a database session"):
            blocking.load_user(wrong)


def test_a_row_with_a_collection_that_is_joined_takes_one_select(world: World) -> None:
    class Base(DeclarativeBase):
        pass

    class Owner(Base):
        __tablename__ = unique("owners")
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[str] = mapped_column(sa.String(200), unique=True)
        password_hash: Mapped[str | None] = mapped_column(sa.String(200))
        is_active = True
        notes: Mapped[list["Note"]] = relationship(lazy="joined")

    class Note(Base):
        __tablename__ = unique("notes")
        id: Mapped[int] = mapped_column(primary_key=True)
        owner: Mapped[int] = mapped_column(sa.ForeignKey(f"{Owner.__tablename__}.id"))

    Base.metadata.create_all(world.engine)
    auth = auth_over(world.engine, Owner)
    me = add_user(auth)
    connection = FakeConnection()
    with world.maker() as db:
        db.add_all([Note(owner=me.id), Note(owner=me.id)])
        db.commit()
    assert drive(RequestAuth(auth, connection).sign_in_user(me)) == me
    blocking = BlockingRequestAuth(RequestAuth(auth, connection), drive)
    with counted(world.engine) as statements, world.maker() as db:
        row = blocking.load_user(db)
        assert row is not None
        assert len(row.notes) == 2
    assert len(statements) == 1
    Base.metadata.drop_all(world.engine)


def test_a_wsgi_app_loads_the_row(world: World) -> None:
    def app(environ: Any, start: Any) -> list[bytes]:
        with world.maker() as db:
            user = wsgi.request_auth(environ, world.auth).load_user(db)
        start("200 OK", [])
        return [b"nobody" if user is None else user.email.encode()]

    served: Any = wsgi.SessionAuthMiddleware(app, world.auth)
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "SCRIPT_NAME": ""}
    assert b"".join(served(environ, lambda *_: None)) == b"nobody"


def test_a_user_who_signs_out_or_in_meanwhile_has_precedence(world: World) -> None:
    connection = world.connection()
    blocking = BlockingRequestAuth(RequestAuth(world.auth, connection), drive)
    with world.maker() as db:
        assert blocking.load_user(db) is not None
        blocking.sign_out()
        assert blocking.load_user(db) is None
        other = add_user(world.auth, "ida@example.org")
        assert blocking.sign_in(email=other.email, password=PASSWORD) == other
        assert blocking.load_user(db) == other


def test_a_sign_out_before_a_doubt_is_settled_has_precedence(world: World) -> None:
    bound = RequestAuth(world.auth, world.connection())
    world.lock()

    def run(coroutine: Any) -> Any:
        drive(bound.sign_out())
        return drive(coroutine)

    with world.maker() as db:
        assert BlockingRequestAuth(bound, run).load_user(db) is None
    assert bound.identity is None


def test_a_sign_out_while_a_doubt_is_settled_has_precedence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = RequestAuth(world.auth, world.connection())
    world.lock()
    reader: Any = world.auth.users.row_reader
    read = reader.standing

    async def standing(key: Any) -> Any:
        await bound.sign_out()
        return await read(key)

    monkeypatch.setattr(reader, "standing", standing)
    with world.maker() as db:
        assert BlockingRequestAuth(bound, drive).load_user(db) is None
    assert bound.identity is None
    assert drive(world.auth.sessions.live(world.me.id)) == []


# --- a filter of the app, where `is_active` is a property -------------------------------------------------------------


@pytest.mark.parametrize("locked", [False, True])
def test_a_hidden_row_with_a_property_ends_no_session(world: World, locked: bool) -> None:
    hidden = [True]

    def hide(state: Any) -> None:
        if hidden[0] and state.is_select:
            state.statement = state.statement.where(sa.false())

    connection = world.connection()
    blocking = BlockingRequestAuth(RequestAuth(world.auth, connection), drive)
    if locked:
        world.lock()
    sa.event.listen(Session, "do_orm_execute", hide)
    try:
        with world.maker() as db:
            assert blocking.load_user(db) is None
    finally:
        sa.event.remove(Session, "do_orm_execute", hide)
    assert blocking.identity is None
    assert len(drive(world.auth.sessions.live(world.me.id))) == 1


def test_a_filter_of_the_apps_own_sessions_does_not_hide_that_a_user_is_locked(world: World) -> None:
    class OwnSession(Session):
        """The app filters its own class of sessions."""

    def hide(state: Any) -> None:
        state.statement = state.statement.where(sa.false())

    blocking = BlockingRequestAuth(RequestAuth(world.auth, world.connection()), drive)
    world.lock()
    sa.event.listen(OwnSession, "do_orm_execute", hide)
    with OwnSession(world.engine) as db:
        assert blocking.load_user(db) is None
    assert drive(world.auth.sessions.live(world.me.id)) == []


# --- other authenticators ---------------------------------------------------------------------------------------------


class ByHeader(Authenticator[Any, Any]):
    """Requests of a trusted proxy: no sessions, so no proof."""

    async def fetch(self, connection: Connection) -> Any:
        account = await self.users.find(connection.header("x-user"))
        return None if account is None else account.identity

    async def create(self, connection: Connection, account: Account[Any], grant: Grant = AS_BEFORE) -> Account[Any]:
        return account

    async def delete(self, connection: Connection) -> None:
        """There is nothing to end."""


def test_an_authenticator_without_sessions_compares_what_it_can(world: World) -> None:
    auth = ByHeader(world.auth.users)

    def look() -> tuple[Any, Any]:
        connection = FakeConnection(x_user=world.me.email)
        drive(auth.do_fetch(connection))
        blocking = BlockingRequestAuth(RequestAuth(auth, connection), drive)
        with world.maker() as db:
            row = blocking.load_user(db)
            return (None if row is None else row.email), blocking.identity

    assert look() == (world.me.email, world.me)
    world.lock()
    assert look() == (None, None)


# --- REP-35: blocking twins -------------------------------------------------------------------------------------------


def test_rep_35_every_operation_on_any_user_has_a_blocking_twin(world: World) -> None:
    connection = world.connection()
    blocking = BlockingRequestAuth(RequestAuth(world.auth, connection), drive)
    outside = BlockingAuth(world.auth)
    assert outside.update_account(world.me, email="new@example.org").email == "new@example.org"
    assert blocking.sign_in(email="new@example.org", password=PASSWORD) is not None
    assert outside.revoke_user(world.me) == 1
    assert blocking.revoke_user(world.me) == 0
    assert blocking.revoke_everyone() == 0
    assert blocking.forget_failures(email="new@example.org") is False
    assert outside.credentials_changed(world.me, "imported") == 0
    assert blocking.delete_account(world.me) is True
    outside.close()


def test_rep_35_an_authenticator_without_sessions_says_so(world: World) -> None:
    with pytest.raises(ConfigError, match="ByHeader keeps no sessions"):
        BlockingAuth(ByHeader(world.auth.users)).revoke_user(world.me)


def test_rep_35_no_coroutine_method_lacks_a_blocking_twin() -> None:
    def coroutines(cls: type[Any]) -> set[str]:
        return {name for name in dir(cls) if inspect.iscoroutinefunction(getattr(cls, name)) and name[0] != "_"}

    twins = set(dir(BlockingRequestAuth))
    assert coroutines(RequestAuth) <= twins
    of_the_app = {"credentials_changed", "delete_account", "forget_failures", "revoke_everyone", "revoke_user"}
    assert of_the_app | {"update_account"} <= coroutines(SessionAuth) & twins & set(dir(BlockingAuth))
    assert not coroutines(BlockingRequestAuth) | coroutines(BlockingAuth)
