"""Flask: `current_user` is the row in the app's own database session."""

import gc
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import flask
import pytest
import sqlalchemy as sa
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import event, orm
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from harness.rows import DRIVERS, add_user, auth_over, counted, hash_of, unique
from harness.support import SECRET, CountingBackend, MemoryUsers
from harness.users_databases import OTHER_PASSWORD, PASSWORD, url_of
from powauth import SessionAuth
from powauth.backends.memory import MemoryBackend
from powauth.errors import ConfigError, NotSignedIn, StoreUnavailable
from powauth.integrations.flask import (
    PowAuth,
    current_identity,
    current_user,
    login_required,
    request_auth,
    signed_out_required,
)
from powauth.integrations.wsgi import SessionAuthMiddleware
from powauth.testing import sign_in

Handler = Callable[[], Any]


class World:
    """A Flask app whose users are in a bind of their own, and whose notes are in another database."""

    def __init__(self, driver: str, folder: str) -> None:
        class Base(DeclarativeBase):
            pass

        self.db = db = SQLAlchemy(model_class=Base)
        users, notes = unique("users"), unique("notes")

        class User(db.Model):  # type: ignore[name-defined, misc]
            __bind_key__ = "people"
            __tablename__ = users
            id: Mapped[int] = mapped_column(primary_key=True)
            email: Mapped[str] = mapped_column(sa.String(200), unique=True)
            password_hash: Mapped[str | None] = mapped_column(sa.String(200), deferred=True)
            is_active: Mapped[bool] = mapped_column(default=True)
            nick: Mapped[str] = mapped_column(sa.String(40), default="")
            notes: Mapped[list["Note"]] = orm.relationship(
                primaryjoin=lambda: User.id == orm.foreign(Note.user_id), back_populates="user"
            )

        class Note(db.Model):  # type: ignore[name-defined, misc]
            __tablename__ = notes
            id: Mapped[int] = mapped_column(primary_key=True)
            user_id: Mapped[int]
            user: Mapped[User] = orm.relationship(
                primaryjoin=lambda: User.id == orm.foreign(Note.user_id), back_populates="notes"
            )

        self.User, self.Note = User, Note
        self.app = app = flask.Flask("world")
        app.config["SQLALCHEMY_DATABASE_URI"] = url_of("sqlite", folder)
        app.config["SQLALCHEMY_BINDS"] = {"people": url_of(driver, folder)}
        db.init_app(app)
        self.backend = CountingBackend(MemoryBackend())
        with app.app_context():
            db.create_all()
            self.engine = db.engines["people"]
            self.auth = auth_over(self.engine, User, backend=self.backend)
        self.extension = PowAuth(app, self.auth, session=db.session)
        self.handler: Handler = dict
        app.add_url_rule("/", view_func=lambda: flask.jsonify(self.handler()))
        app.add_url_rule("/guarded", "guarded", login_required(lambda: flask.jsonify(self.handler())))
        app.add_url_rule("/out", "out", signed_out_required(lambda: "welcome"))
        self.me = add_user(self.auth)
        self.client = self.signed_in()

    def signed_in(self, user: Any = None) -> Any:
        client = self.app.test_client()
        sign_in(client, user or self.me, current_user_key="current_user")
        return client

    def serve(self, handler: Handler, path: str = "/", client: Any = None, **options: Any) -> Any:
        """Serve a request by this handler. Return what it returned, or the status of the response."""
        self.handler = handler
        response = (client or self.client).get(path, base_url="https://localhost", **options)
        return response.json if response.status_code == 200 else response.status_code

    def execute(self, statement: Any) -> None:
        """Change the users from elsewhere, such as by another process."""
        with self.engine.begin() as connection:
            connection.execute(statement)

    def row(self) -> Any:
        return self.db.session.get(self.User, self.me.id)

    @property
    def lives(self) -> bool:
        """Whether the session of the client is still there."""
        return bool(self.serve(lambda: bool(current_identity)))

    def close(self) -> None:
        with self.app.app_context():
            self.db.drop_all()
            for engine in self.db.engines.values():
                engine.dispose()


@pytest.fixture(params=DRIVERS)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with tempfile.TemporaryDirectory() as folder:
        made = World(request.param, folder)
        yield made
        made.close()


# --- REP-20, 21, 25: the row is the app's own -------------------------------------------------------------------------


def test_rep_20_a_change_of_current_user_is_saved(world: World) -> None:
    def change() -> None:
        current_user.nick = "x"
        gc.collect()
        world.db.session.commit()

    world.serve(change)
    assert world.serve(lambda: current_user.nick) == "x"


def test_rep_20_the_row_may_be_part_of_a_relationship(world: World) -> None:
    def add() -> str:
        note = world.Note(user=request_auth().current_user)
        world.db.session.add(note)
        world.db.session.commit()
        email: str = note.user.email
        return email

    assert world.serve(add) == world.me.email
    assert world.serve(lambda: len(current_user.notes)) == 1  # REP-25: a relationship
    assert world.serve(lambda: world.db.session.scalars(sa.select(world.Note)).one().user == current_user)


def test_rep_21_current_user_equals_the_row_of_its_user(world: World) -> None:
    other = add_user(world.auth, "ida@example.org")

    def compare() -> list[bool]:
        mine, hers = world.row(), world.db.session.get(world.User, other.id)
        row = request_auth().current_user
        return [mine == current_user, current_user == mine, row is mine, hers == current_user, current_user != mine]

    assert world.serve(compare) == [True, True, True, False, False]


def test_rep_21_the_identity_equals_the_row_of_its_user(world: World) -> None:
    other = add_user(world.auth, "ida@example.org")

    def compare() -> list[bool]:
        mine, hers, me = world.row(), world.db.session.get(world.User, other.id), request_auth().identity
        return [
            mine == me,
            me == mine,
            mine == current_identity,
            me in [hers, mine],
            hers == me,
            me != mine,
            me != hers,
        ]

    assert world.serve(compare) == [True, True, True, True, False, False, True]


def test_rep_25_a_missing_field_of_the_identity_says_how_to_get_the_row(world: World) -> None:
    def read() -> str:
        with pytest.raises(AttributeError, match="load the user's row") as caught:
            _ = current_identity.nick
        return str(caught.value)

    assert "'nick'" in world.serve(read)


# --- one SELECT -------------------------------------------------------------------------------------------------------


def test_the_row_is_loaded_by_one_select_at_its_first_use(world: World) -> None:
    for handler, statements in (
        (lambda: [current_user.email, current_user.nick, bool(current_user), request_auth().require_user().id], 1),
        (lambda: current_identity.email, 0),
        (lambda: flask.g.current_user is world.extension.current_user, 0),
        (dict, 0),
    ):
        with counted(world.engine) as seen:
            assert world.serve(handler) is not None
        assert len(seen) == statements, seen
        assert all(each.startswith("SELECT") for each in seen)


def test_a_row_that_the_handler_has_loaded_costs_nothing_more(world: World) -> None:
    def both() -> bool:
        mine = world.db.session.get(world.User, world.me.id, options=[orm.undefer(world.User.password_hash)])
        return bool(request_auth().current_user is mine)

    with counted(world.engine) as seen:
        assert world.serve(both)
    assert len(seen) == 1


def test_a_guard_takes_no_select(world: World) -> None:
    with counted(world.engine) as seen:
        assert world.serve(lambda: "served", "/guarded") == "served"
    assert seen == []


def test_nobody_costs_no_select(world: World) -> None:
    stranger = world.app.test_client()
    with counted(world.engine) as seen:
        assert world.serve(lambda: [bool(current_user), flask.g.current_user], client=stranger) == [False, None]
        assert world.serve(dict, "/guarded", stranger) == 401
    assert seen == []


def test_reading_the_current_user_writes_nothing_that_is_pending(world: World) -> None:
    def read() -> str:
        world.db.session.add(world.User(email=world.me.email))  # not unique: a flush would fail
        email: str = current_user.email
        world.db.session.rollback()
        return email

    assert world.serve(read) == world.me.email


# --- REP-27: a user who has changed is signed out ---------------------------------------------------------------------


def changes(world: World) -> dict[str, Any]:
    users = world.User.__table__
    return {
        "password": sa.update(users).values(password_hash=hash_of()),
        "user id": sa.update(users).values(email="new@example.org"),
        "locked": sa.update(users).values(is_active=False),
        "deleted": sa.delete(users),
    }


CHANGES = ["password", "user id", "locked", "deleted"]


@pytest.mark.parametrize("change", CHANGES)
def test_rep_27_a_change_elsewhere_signs_out(world: World, change: str) -> None:
    world.execute(changes(world)[change])
    assert world.serve(lambda: bool(current_identity))  # no query, so not known yet
    assert world.serve(lambda: [bool(current_user), bool(current_identity), flask.g.current_user]) == [
        False,
        False,
        None,
    ]
    assert not world.lives
    assert world.client.get("/out", base_url="https://localhost").text == "welcome"


@pytest.mark.parametrize("change", CHANGES)
def test_rep_27_a_change_by_the_apps_own_orm_signs_out(world: World, change: str) -> None:
    def apply() -> None:
        user = world.row()
        if change == "deleted":
            world.db.session.delete(user)
        elif change == "locked":
            user.is_active = False
        elif change == "user id":
            user.email = "new@example.org"
        else:
            user.password_hash = hash_of()
        world.db.session.commit()

    world.serve(apply, client=world.app.test_client())
    assert world.serve(lambda: bool(current_user)) is False
    assert not world.lives


@pytest.mark.parametrize("change", CHANGES)
def test_rep_27_a_guarded_view_sends_the_user_to_sign_in(world: World, change: str) -> None:
    world.execute(changes(world)[change])
    assert world.serve(lambda: current_user.email, "/guarded") == 401
    assert not world.lives


def test_a_guarded_view_never_takes_a_refuted_user_for_nobody(world: World) -> None:
    def twice() -> Any:
        try:
            return current_user.email
        except Exception:
            return current_user.email

    world.execute(changes(world)["locked"])
    assert world.serve(twice, "/guarded") == 401


def test_a_guarded_view_may_sign_out(world: World) -> None:
    def leave() -> list[bool]:
        before = bool(current_user)
        request_auth().sign_out()
        return [before, bool(current_user)]

    assert world.serve(leave, "/guarded") == [True, False]


def test_another_change_signs_nobody_out(world: World) -> None:
    world.execute(sa.update(world.User.__table__).values(nick="new"))
    assert world.serve(lambda: current_user.nick) == "new"


def test_a_key_that_another_user_has_by_now_is_nobodys(world: World) -> None:
    users = world.User.__table__
    world.execute(sa.delete(users))
    world.execute(sa.insert(users).values(id=world.me.id, email="eve@example.org", password_hash=hash_of(), nick=""))
    assert world.serve(lambda: current_user.email if current_user else None) is None
    assert not world.lives


def test_a_filter_of_the_app_hides_the_row_but_ends_no_session(world: World) -> None:
    hidden = [True]

    def hide(state: orm.ORMExecuteState) -> None:
        if hidden[0] and state.is_select:
            state.statement = state.statement.options(
                orm.with_loader_criteria(world.User, lambda cls: cls.nick == "tenant")
            )

    for target in (world.db.session, Session):  # on the app's session alone, or on the class of all sessions
        event.listen(target, "do_orm_execute", hide)
        try:
            hidden[0] = True
            assert world.serve(lambda: [bool(current_user), bool(current_identity)]) == [False, False]
            hidden[0] = False
            assert world.serve(lambda: current_user.email) == world.me.email
        finally:
            event.remove(target, "do_orm_execute", hide)


# --- within one request -----------------------------------------------------------------------------------------------


def test_after_a_commit_the_row_is_read_again_once(world: World) -> None:
    def work() -> str:
        assert current_user
        world.db.session.commit()
        return f"{current_user.email} {current_user.nick}"

    with counted(world.engine) as seen:
        assert world.serve(work) == f"{world.me.email} "
    assert len(seen) == 2


def test_a_rollback_takes_a_change_back(world: World) -> None:
    def work() -> str:
        current_user.nick = "x"
        world.db.session.rollback()
        nick: str = current_user.nick
        return nick

    assert world.serve(work) == ""


@pytest.mark.parametrize("end", ["remove", "close"])
def test_a_new_database_session_has_its_own_row(world: World, end: str) -> None:
    def work() -> list[Any]:
        before = request_auth().current_user
        getattr(world.db.session, end)()
        after = request_auth().current_user
        return [before is after, after in world.db.session, current_user.email]

    assert world.serve(work) == [False, True, world.me.email]


def test_an_app_context_within_a_request_has_its_own_row(world: World) -> None:
    def work() -> list[Any]:
        outer = request_auth().current_user
        with world.app.app_context():
            inner: Any = request_auth().current_user
            inner.nick = "inner"
            world.db.session.commit()
        return [inner is outer, request_auth().current_user is outer]

    assert world.serve(work) == [False, True]
    assert world.serve(lambda: current_user.nick) == "inner"


def test_a_user_deleted_after_the_first_use_is_gone(world: World) -> None:
    def work() -> list[bool]:
        before = bool(current_user)
        world.execute(sa.delete(world.User.__table__))
        world.db.session.commit()
        return [before, bool(current_user)]

    assert world.serve(work) == [True, False]
    assert not world.lives


def test_a_handler_may_delete_its_own_user(world: World) -> None:
    def work() -> list[bool]:
        world.db.session.delete(request_auth().current_user)
        world.db.session.commit()
        return [bool(current_user)]

    assert world.serve(work) == [False]
    assert not world.lives


def test_a_value_that_is_not_written_decides_nothing(world: World) -> None:
    def work() -> list[Any]:
        user = world.row()
        user.password_hash, user.is_active = hash_of(), False
        return [current_user.email, current_user.is_active]

    assert world.serve(work) == [world.me.email, False]
    assert world.lives


def test_a_password_that_a_handler_has_written_needs_a_reseal(world: World) -> None:
    def change(*, resealed: bool) -> Any:
        current_user.password_hash = hash_of(str(resealed))
        world.db.session.commit()
        if resealed:
            request_auth().reseal()
        return current_user.email  # the row was compared already, at its first use

    assert world.serve(lambda: change(resealed=True)) == world.me.email
    assert world.serve(lambda: current_user.email) == world.me.email
    assert world.serve(lambda: change(resealed=False)) == world.me.email
    assert world.serve(lambda: bool(current_user)) is False
    assert not world.lives


def test_a_change_that_is_not_committed_ends_no_session(world: World) -> None:
    def work() -> bool:
        user = world.row()
        user.password_hash = hash_of()
        world.db.session.flush()
        found = bool(current_user)
        world.db.session.rollback()
        return found

    assert world.serve(work) is False
    assert world.serve(lambda: current_user.email) == world.me.email


def test_the_row_stays_after_powauths_own_change_of_the_password(world: World) -> None:
    def change() -> str:
        mine = world.row()  # the database session holds the old hash from now on
        assert mine.password_hash
        request_auth().update_user(current_password=PASSWORD, password=OTHER_PASSWORD)
        email: str = current_user.email
        return email

    assert world.serve(change) == world.me.email
    assert world.serve(lambda: current_user.email) == world.me.email


def test_a_sign_in_and_a_sign_out_change_the_current_user(world: World) -> None:
    other = add_user(world.auth, "ida@example.org")

    def work() -> list[Any]:
        seen = [current_user.email, flask.g.current_user == current_user]
        request_auth().sign_in(email=other.email, password=PASSWORD)
        seen += [current_user.email, flask.request.environ["powauth.current_user"].email, flask.g.current_user.email]
        request_auth().sign_out()
        return [*seen, bool(current_user), flask.g.current_user]

    mia, ida = world.me.email, other.email
    assert world.serve(work) == [mia, True, ida, ida, ida, False, None]


# --- REP-33: templates and test_request_context -----------------------------------------------------------------------


def test_rep_33_a_template_knows_the_current_user(world: World) -> None:
    page = "{% if current_user %}{{ current_user.nick or current_user.email }}{% else %}nobody{% endif %}"
    assert world.serve(lambda: flask.render_template_string(page)) == world.me.email
    assert world.serve(lambda: flask.render_template_string(page), client=world.app.test_client()) == "nobody"
    with world.app.app_context():  # a mail, for example
        assert flask.render_template_string(page) == "nobody"


def test_rep_33_a_test_request_context_is_anonymous(world: World) -> None:
    with world.app.test_request_context():
        assert not current_user
        assert not world.extension.current_user
        assert request_auth().identity is None
        with pytest.raises(NotSignedIn):
            request_auth().require_user()


def test_rep_33_a_test_request_context_with_the_cookie_has_the_user(world: World) -> None:
    cookie = world.client.get_cookie("__Host-auth")
    with world.app.test_request_context(headers={"Cookie": f"__Host-auth={cookie.value}"}):
        assert current_user.email == world.me.email
        assert flask.g.current_user.email == world.me.email


def test_a_hook_that_runs_before_powauths_own_may_read_the_user(world: World) -> None:
    world.app.before_request_funcs[None].insert(0, lambda: flask.g.setdefault("early", current_user.email) and None)
    assert world.serve(lambda: [flask.g.early, current_user.email]) == [world.me.email] * 2


def test_outside_a_request_there_is_nobody(world: World) -> None:
    assert not current_user
    assert not current_identity
    assert not world.extension.current_user


# --- failures ---------------------------------------------------------------------------------------------------------


def test_an_outage_of_the_store_makes_nobody_anonymous(world: World) -> None:
    world.backend.fail["*"] = StoreUnavailable("down")
    reads: list[Callable[[], object]] = [
        lambda: bool(current_user),
        lambda: current_user.email,
        lambda: bool(flask.g.current_user),
        lambda: flask.g.current_user is None,
        lambda: flask.g.get("current_user"),
    ]
    for handler in reads:
        assert world.serve(handler) == 503
    assert world.serve(dict, "/guarded") == 503
    assert world.serve(lambda: "served") == "served"


def test_an_outage_of_the_store_while_a_session_ends_is_503(world: World) -> None:
    world.execute(sa.delete(world.User.__table__))

    def read() -> bool:
        world.backend.fail["delete"] = StoreUnavailable("down")
        return bool(current_user)

    assert world.serve(read) == 503
    world.backend.fail.clear()
    assert world.serve(lambda: bool(current_user)) is False


def test_an_error_of_the_apps_database_is_the_apps(world: World) -> None:
    def fail(*_: Any) -> None:
        raise OperationalError("SELECT", {}, Exception("the database is away"))

    def read() -> str:
        event.listen(world.engine, "before_cursor_execute", fail)
        try:
            with pytest.raises(OperationalError):
                bool(current_user)
        finally:
            event.remove(world.engine, "before_cursor_execute", fail)
        world.db.session.rollback()
        email: str = current_user.email
        return email

    assert world.serve(read) == world.me.email


# --- REP-36 and other apps --------------------------------------------------------------------------------------------


def test_rep_36_an_app_factory_gives_everything_later(world: World) -> None:
    extension: PowAuth[Any, Any, Any] = PowAuth()

    def create_app() -> flask.Flask:
        app = flask.Flask("made")
        app.config.update(world.app.config)
        world.db.init_app(app)
        with app.app_context():
            auth = auth_over(world.db.engines["people"], world.User)
        extension.init_app(app, auth, session=world.db.session, sign_in_path="/login")

        @app.get("/me")
        @extension.login_required
        def me() -> Any:
            return {"nick": extension.current_user.nick, "id": extension.current_identity.id}

        return app

    apps = [create_app(), create_app()]
    for app in apps:
        client = app.test_client()
        assert client.get("/me", headers={"Accept": "text/html"}).headers["Location"] == "/login?next=/me"
        sign_in(client, world.me.id)
        assert client.get("/me", base_url="https://localhost").json == {"nick": "", "id": world.me.id}
        with app.app_context():
            world.db.engines["people"].dispose()
            world.db.engine.dispose()


def test_what_is_missing_is_said_clearly(world: World) -> None:
    with pytest.raises(ConfigError, match="auth must be an Authenticator"):
        PowAuth().init_app(flask.Flask("bare"))
    with world.app.app_context(), pytest.raises(ConfigError, match=r"call init_app\(app, auth\)"):
        _ = PowAuth(auth=world.auth).installed
    plain = SessionAuth(secret_key=SECRET, users=MemoryUsers(), backend="memory://")
    with pytest.raises(ConfigError, match="MemoryUsers has no rows: use SQLAlchemyUsers"):
        PowAuth(flask.Flask("bare"), plain, session=world.db.session)


def test_a_session_that_is_none_is_refused(world: World) -> None:
    maker = orm.sessionmaker(world.engine)
    for given in (maker, Session, type("OwnSession", (Session,), {})):
        with pytest.raises(ConfigError, match="opens a new session at each call"):
            PowAuth(flask.Flask("bare"), world.auth, session=given)
    extension: Any = world.db
    with maker() as session, pytest.raises(ConfigError, match="one database session for all requests"):
        PowAuth(flask.Flask("bare"), world.auth, session=session)  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="session must be"):
        PowAuth(flask.Flask("bare"), world.auth, session=extension)


def test_an_app_without_the_extension_of_flask_gives_a_function(world: World) -> None:
    app = flask.Flask("plain")
    maker = orm.sessionmaker(world.engine)

    def get_db() -> Session:
        if "db" not in flask.g:
            flask.g.db = maker()
        session: Session = flask.g.db
        return session

    @app.teardown_appcontext
    def close(_: BaseException | None) -> None:
        if "db" in flask.g:
            flask.g.pop("db").close()

    PowAuth(app, world.auth, session=get_db)
    app.add_url_rule("/", view_func=lambda: flask.jsonify(request_auth().current_user in get_db()))
    client = app.test_client()
    sign_in(client, world.me)
    assert client.get("/", base_url="https://localhost").json is True


@pytest.mark.parametrize("given", ["new", "none", "async"])
def test_a_function_that_returns_no_session_of_the_request_is_refused(world: World, given: str) -> None:
    one = AsyncSession()
    app = flask.Flask("wrong")
    app.testing = True
    source: Any = {"new": lambda: Session(world.engine), "none": lambda: None, "async": lambda: one}
    PowAuth(app, world.auth, session=source[given])
    app.add_url_rule("/", view_func=lambda: str(bool(current_user)))
    client = app.test_client()
    sign_in(client, world.me)
    match = {"new": "two sessions in one request", "none": "a row needs a database session", "async": "synchronous"}
    with pytest.raises(ConfigError, match=match[given]):
        client.get("/", base_url="https://localhost")


def test_a_middleware_around_the_app_shares_the_row(world: World) -> None:
    world.app.wsgi_app = SessionAuthMiddleware(world.app.wsgi_app, world.auth)  # type: ignore[method-assign]

    def read() -> list[Any]:
        return [current_user.nick, flask.g.current_user.nick, current_user == world.row()]

    assert world.serve(read) == ["", "", True]
    assert world.serve(lambda: flask.g.current_user, client=world.app.test_client()) is None


def test_a_view_that_is_a_coroutine_signs_out(world: World) -> None:
    @login_required
    async def leave() -> Any:
        request_auth().sign_out()
        return flask.jsonify(current_user is None or not current_user)

    world.app.add_url_rule("/leave", view_func=leave)
    assert world.client.get("/leave", base_url="https://localhost").json is True
    assert not world.lives


def test_a_view_that_is_a_coroutine_has_the_row(world: World) -> None:
    @login_required
    async def change() -> Any:
        current_user.nick = "from a coroutine"
        world.db.session.commit()
        return flask.jsonify([current_user.nick, len(request_auth().sessions())])

    @login_required
    async def gone() -> Any:
        world.execute(sa.delete(world.User.__table__))
        return flask.jsonify(current_user.email)

    world.app.add_url_rule("/change", view_func=change)
    world.app.add_url_rule("/gone", view_func=gone)
    assert world.client.get("/change", base_url="https://localhost").json == ["from a coroutine", 1]
    assert world.client.get("/gone", base_url="https://localhost").status_code == 401
    assert not world.lives
