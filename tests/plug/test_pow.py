"""Pow's plug, function by function and option by option, on powauth's names. Times are the defaults unless given."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from msgspec import Struct, msgpack, structs

from harness.core_support import the_ids
from harness.support import (
    OTHER_SECRET,
    SECRET,
    Clock,
    CountingBackend,
    FakeConnection,
    Me,
    MemoryUsers,
    User,
    account_of,
)
from powauth import (
    Account,
    Authenticator,
    BlockingRequestAuth,
    ConfigError,
    CookieCarrier,
    CredentialsCache,
    FrameworkSessionCarrier,
    Hooks,
    InvalidParams,
    MetadataTooLarge,
    NotSignedIn,
    RequestAuth,
    SessionAuth,
    StoreUnavailable,
    Throttle,
)
from powauth.accounts.base import UsersContext
from powauth.accounts.identity import Key
from powauth.accounts.service import AS_BEFORE, Grant
from powauth.backends.base import EPOCH_LIFETIME, Backend, Millis, Mode, PerProcess, ReadsInPlace, drive, make_key
from powauth.backends.memory import MemoryBackend
from powauth.http.connection import MISSING, NO_EFFECTS, Connection, Effects
from powauth.sessions.ids import decode_sid
from powauth.sessions.manager import METADATA_ATTEMPTS

ADA = {"email": "ada@example.org", "password": "correct horse"}
NAME = "__Host-auth"


def seen(user: User) -> Me:
    """The user as handlers see them: the identity."""
    return account_of(user).identity


class Plug:
    """A `SessionAuth` with one user and a counting backend, and requests to it without a server."""

    def __init__(self, backend: Backend | None = None, **options: Any) -> None:
        self.backend = CountingBackend(backend or MemoryBackend())
        self.users = options.pop("users", None) or MemoryUsers()
        self.ada = self.users.add(ADA["email"])
        self.clock = Clock()
        if "store" not in options:
            options["backend"] = self.backend
        chosen: dict[str, Any] = {"secret_key": SECRET, "users": self.users, "clock": self.clock}
        self.auth: SessionAuth[User, Me] = SessionAuth(**chosen | options)

    def id_from(self, effects: Effects) -> str:
        (cookie,) = effects.cookies
        return cookie.partition("=")[2].partition(";")[0]

    def bound(self, connection: FakeConnection) -> RequestAuth[User, Me]:
        return RequestAuth(self.auth, connection)

    def request(self, value: str | None = None) -> FakeConnection:
        return FakeConnection([] if value is None else [f"{self.auth.carrier.name}={value}"])

    def sign_in(self) -> str:
        """The id of a new session."""
        connection = self.request()
        assert drive(self.bound(connection).sign_in_user(self.ada)) == seen(self.ada)
        return self.id_from(drive(self.auth.respond(connection)))

    def who(self, value: str | None) -> Me | None:
        return drive(self.auth.fetch(self.request(value)))


# --- the functions of Pow.Plug.Session --------------------------------------------------------------------------------


def test_init_validates_once_and_is_immutable_afterwards() -> None:
    auth = Plug().auth
    for name, value in (("on_reuse", "reject"), ("users", None), ("store", None), ("new", 1)):
        with pytest.raises(AttributeError, match="cannot be changed"):
            setattr(auth, name, value)
    assert repr(auth) == "<SessionAuth '__Host-auth' in 'credentials'>"
    assert SECRET not in repr(vars(auth))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"users": object()}, "users must be a UsersContext"),
        ({"users": None}, "users must be a UsersContext"),
        ({"backend": None}, "give either backend"),
        ({"store": CredentialsCache(MemoryBackend())}, "give either backend"),
        ({"backend": None, "store": object()}, "store must be a CredentialsCache"),
        ({"backend": 7}, "backend must be a Backend or a URL"),
        ({"backend": "nowhere://"}, "scheme is unknown"),
        ({"on_reuse": "ignore"}, "on_reuse must be"),
        (
            {"metadata": {"ip": "x"}},
            "metadata must be a function of a connection that returns a dict, or None, not dict",
        ),
        ({"on_event": "print"}, "on_event must be a function of an Event, or None, not str"),
        ({"clock": 5}, "clock must be a function that returns the time in seconds, not 5"),
        ({"max_sessions": 0}, "max_sessions must be"),
        ({"max_sessions": True}, "max_sessions must be"),
        ({"max_sessions": 1.5}, "max_sessions must be"),
        ({"current_user_key": "current user"}, "current_user_key must be"),
        ({"current_user_key": ""}, "current_user_key must be"),
        ({"current_user_key": 1}, "current_user_key must be"),
        ({"session_key": "a b"}, r"session_key \(with app_name\) must"),
        ({"session_key": "__Host-auth"}, "without the prefix"),
        ({"app_name": "a;b"}, r"session_key \(with app_name\) must"),
        ({"session_ttl_renewal": timedelta(minutes=30)}, "session_ttl_renewal must be shorter"),
        ({"session_ttl_renewal": "15"}, "session_ttl_renewal must be"),
        ({"session_ttl_renewal": timedelta(seconds=-1)}, "session_ttl_renewal must be"),
        ({"max_lifetime": timedelta(minutes=1)}, "max_lifetime must be"),
        ({"max_lifetime": timedelta(0)}, "max_lifetime must be"),
        ({"grace": timedelta(minutes=30)}, "grace must be shorter"),
        ({"grace": 30}, "grace must be"),
        ({"secret_key": ""}, "secret_key"),
        ({"secret_key": "short"}, "secret_key"),
        ({"secret_key": []}, "secret_key"),
    ],
    ids=lambda value: value if isinstance(value, str) else "option",
)
def test_init_refuses_what_is_wrong(options: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"secret_key": SECRET, "users": MemoryUsers(), "backend": MemoryBackend()}
    with pytest.raises(ConfigError, match=message):
        SessionAuth(**good | options)


def test_call_assigns_the_current_user() -> None:
    plug = Plug()
    connection = plug.request(plug.sign_in())
    drive(plug.auth.call(connection))
    assert connection.assigned("current_user") == seen(plug.ada)
    anonymous = plug.request()
    assert anonymous.assigned("current_user") is MISSING
    drive(plug.auth.call(anonymous))
    assert anonymous.assigned("current_user") is None


@pytest.mark.parametrize("assigned", [None, User("7", "grace@example.org")], ids=["nobody", "somebody"])
def test_call_leaves_what_is_assigned_already(assigned: User | None) -> None:
    plug = Plug()
    connection = plug.request(plug.sign_in())
    connection.assign("current_user", assigned)
    with plug.backend.counting() as verbs:
        drive(plug.auth.call(connection))
    assert (connection.assigned("current_user"), verbs) == (assigned, [])


def test_fetch_reads_and_assigns_nothing() -> None:
    plug = Plug()
    connection = plug.request(plug.sign_in())
    with plug.backend.counting() as verbs:
        assert drive(plug.auth.fetch(connection)) == seen(plug.ada)
    assert verbs == ["get"]
    assert connection.assigns == {}
    assert drive(plug.auth.fetch(plug.request())) is None


def test_do_fetch_assigns_what_it_fetched() -> None:
    plug = Plug()
    connection = plug.request(plug.sign_in())
    assert drive(plug.auth.do_fetch(connection)) == connection.assigned("current_user") == seen(plug.ada)
    anonymous = plug.request()
    assert drive(plug.auth.do_fetch(anonymous)) is None
    assert anonymous.assigned("current_user") is None


def test_create_makes_a_session_and_assigns_nothing() -> None:
    plug = Plug()
    connection = plug.request()
    assert drive(plug.auth.create(connection, account_of(plug.ada))) == account_of(plug.ada)
    assert connection.assigns == {}
    effects = drive(plug.auth.respond(connection))
    assert effects.no_store
    assert plug.who(plug.id_from(effects)) == seen(plug.ada)


def test_create_looks_first_at_what_the_request_presents() -> None:
    plug = Plug()
    old = plug.sign_in()
    connection = plug.request(old)
    with plug.backend.counting() as verbs:
        drive(plug.auth.create(connection, account_of(plug.ada)))
    assert verbs == ["get", "epoch", "create", "epoch", "delete"]
    assert plug.who(old) is None


def test_do_create_assigns_the_user() -> None:
    plug = Plug()
    connection = plug.request()
    assert (
        drive(plug.auth.do_create(connection, account_of(plug.ada)))
        == connection.assigned("current_user")
        == seen(plug.ada)
    )


@pytest.mark.parametrize("fate", ["locked", "gone", "another proof"])
def test_do_create_of_who_may_not_sign_in_assigns_and_keeps_nothing(fate: str) -> None:
    plug = Plug()
    checked = account_of(plug.ada)
    if fate == "locked":
        plug.users.rows[plug.ada.id] = replace(plug.ada, locked=True)
    elif fate == "gone":
        del plug.users.rows[plug.ada.id]
    else:
        checked = structs.replace(checked, proof=b"of another password")
    connection = plug.request()
    assert drive(plug.auth.do_create(connection, checked, Grant(same_proof=True))) is None
    assert connection.assigns == {}
    assert drive(plug.auth.respond(connection)) == NO_EFFECTS
    assert drive(plug.auth.store.count(plug.auth.now())) == 0


def test_create_gives_up_when_revocations_do_not_end() -> None:
    plug = Plug()

    async def revoke(verb: str) -> None:
        if verb == "create":
            await plug.backend.inner.delete_owner(plug.auth.store.owner(plug.ada.id), plug.auth.now())

    plug.backend.before = revoke
    with pytest.raises(StoreUnavailable, match="again and again"):
        drive(plug.auth.create(plug.request(), account_of(plug.ada)))


def test_create_starts_over_when_it_took_so_long_that_its_epoch_may_be_forgotten() -> None:
    plug = Plug()

    async def dawdle(verb: str) -> None:
        if verb == "epoch":
            plug.backend.before = None
            plug.clock.advance(EPOCH_LIFETIME / 2000 + 1)

    plug.backend.before = dawdle
    with plug.backend.counting() as verbs:
        assert drive(plug.auth.create(plug.request(), account_of(plug.ada))) == account_of(plug.ada)
    assert verbs == ["epoch", "epoch", "create", "epoch"]


# --- reading the user once --------------------------------------------------------------------------------------------


class SlowToCheck(MemoryUsers):
    """Users whose passwords take so long to check that an epoch may be forgotten meanwhile."""

    clock: Clock

    async def authenticate(self, params: Any) -> Account[Me] | None:
        found = await super().authenticate(params)
        self.clock.advance(EPOCH_LIFETIME / 2000 + 1)
        return found


def attempt(plug: Plug) -> tuple[Me | None, list[str], int]:
    """Who is signed in, the verbs, and the queries."""
    before = plug.users.queries
    with plug.backend.counting() as verbs:
        found = drive(plug.bound(plug.request()).sign_in(ADA))
    return found, verbs, plug.users.queries - before


def test_a_sign_in_reads_its_user_once() -> None:
    plug = Plug(throttle=None)
    assert attempt(plug) == (seen(plug.ada), ["epoch", "create", "epoch"], 1)


def test_a_sign_in_reads_its_user_again_when_the_check_took_too_long() -> None:
    users = SlowToCheck()
    plug = Plug(throttle=None, users=users)
    users.clock = plug.clock
    assert attempt(plug) == (seen(plug.ada), ["epoch", "epoch", "create", "epoch"], 2)


def test_a_sign_in_reads_its_user_again_where_a_hook_runs_in_between() -> None:
    plug = Plug(throttle=None, hooks=Hooks(before_sign_in=lambda step: None))
    assert attempt(plug) == (seen(plug.ada), ["epoch", "create", "epoch"], 2)


def test_an_attempt_that_failed_serves_no_sign_in_after_it() -> None:
    plug = Plug(throttle=None)
    connection = plug.request()
    old = plug.ada
    plug.users.rows[old.id] = replace(old, password_hash="another")
    drive(plug.auth.credentials_changed(old, "another password"))
    assert drive(plug.bound(connection).sign_in(ADA)) is None
    assert drive(plug.auth.do_create(connection, account_of(old), Grant(same_proof=True))) is None
    assert drive(plug.auth.store.count(plug.auth.now())) == 0


def test_an_attempt_whose_epoch_cannot_be_read_is_not_counted() -> None:
    plug = Plug(throttle=Throttle(per_source=None))
    plug.backend.fail["epoch"] = StoreUnavailable("down")
    with pytest.raises(StoreUnavailable):
        attempt(plug)
    assert plug.backend.calls == ["create", "epoch", "update"]
    plug.backend.fail.clear()
    assert attempt(plug)[0] == seen(plug.ada)


def test_delete_ends_the_session_and_assigns_nothing() -> None:
    plug = Plug()
    value = plug.sign_in()
    connection = plug.request(value)
    with plug.backend.counting() as verbs:
        drive(plug.auth.delete(connection))
    assert verbs == ["get", "delete"]
    assert connection.assigns == {}
    (cookie,) = drive(plug.auth.respond(connection)).cookies
    assert cookie.startswith(f"{NAME}=;")
    assert plug.who(value) is None


def test_delete_of_nobody_clears_the_cookie_and_writes_nothing() -> None:
    plug = Plug()
    connection = plug.request()
    with plug.backend.counting() as verbs:
        drive(plug.auth.delete(connection))
    assert verbs == []
    assert drive(plug.auth.respond(connection)).cookies


def test_delete_without_having_seen_the_session_deletes_it_all_the_same() -> None:
    plug = Plug()
    value = plug.sign_in()
    plug.backend.fail["get"] = StoreUnavailable("down")
    drive(plug.auth.delete(plug.request(value)))
    plug.backend.fail.clear()
    assert plug.who(value) is None


def test_do_delete_clears_the_current_user() -> None:
    plug = Plug()
    connection = plug.request(plug.sign_in())
    drive(plug.auth.call(connection))
    drive(plug.auth.do_delete(connection))
    assert connection.assigned("current_user") is None


def test_signing_in_after_signing_out_in_one_request_signs_in() -> None:
    plug = Plug()
    connection = plug.request(plug.sign_in())
    drive(plug.auth.do_delete(connection))
    drive(plug.auth.do_create(connection, account_of(plug.ada)))
    assert plug.who(plug.id_from(drive(plug.auth.respond(connection)))) is not None
    drive(plug.auth.do_delete(connection))
    assert drive(plug.auth.store.count(plug.auth.now())) == 0


def test_respond_of_a_request_that_nobody_looked_at_does_nothing() -> None:
    plug = Plug()
    assert drive(plug.auth.respond(plug.request(plug.sign_in()))) == NO_EFFECTS


def test_an_unfinished_response_gives_up_when_others_are_always_faster() -> None:
    plug = Plug()
    value = plug.sign_in()
    plug.clock.advance(900)
    connection = plug.request(value)
    drive(plug.auth.fetch(connection))
    busy = plug.backend.inner.update

    async def lose(record: Any, expected_version: int, now: Millis) -> bool:
        del record, expected_version, now
        return False

    plug.backend.inner.update = lose  # type: ignore[method-assign]
    with plug.backend.counting() as verbs:
        assert drive(plug.auth.respond(connection)) == NO_EFFECTS
    assert verbs == ["update", "get"] * 8
    plug.backend.inner.update = busy  # type: ignore[method-assign]
    assert plug.who(value) is not None


def test_row_13_two_live_sessions_under_one_name_are_nobodys() -> None:
    events: list[Any] = []
    plug = Plug(on_event=events.append)
    connection = FakeConnection([f"{NAME}={plug.sign_in()}; {NAME}={plug.sign_in()}"])
    assert drive(plug.auth.fetch(connection)) is None
    assert events[-1].name == "conflicting_ids"
    assert drive(plug.auth.respond(connection)) == NO_EFFECTS


@pytest.mark.parametrize("order", ["live first", "live last"])
@pytest.mark.parametrize("kind", ["ended", "forged", "unknown", "earlier"])
def test_row_13_the_value_whose_session_is_live_counts(kind: str, order: str) -> None:
    plug = Plug()
    live = other = plug.sign_in()
    if kind == "ended":
        other = plug.sign_in()
        drive(plug.auth.delete(plug.request(other)))
    elif kind == "forged":
        other = live[:-1] + ("A" if live[-1] != "A" else "B")
    elif kind == "unknown":
        other = "x"
    else:  # the same session's, from before a renewal, which changed the cookie's path: a leftover is no reuse
        plug.clock.advance(900)
        renewing = plug.request(live)
        drive(plug.auth.fetch(renewing))
        live = plug.id_from(drive(plug.auth.respond(renewing)))
        assert plug.who(live) is not None
        plug.clock.advance(60)
    values = [live, other] if order == "live first" else [other, live]
    connection = FakeConnection(["; ".join(f"{NAME}={value}" for value in values)])
    assert drive(plug.auth.fetch(connection)) == seen(plug.ada)
    drive(plug.auth.respond(connection))
    assert plug.who(live) == seen(plug.ada)


def test_row_13_an_outage_makes_nobody_of_two_values_anonymous() -> None:
    plug = Plug()
    connection = FakeConnection([f"{NAME}={plug.sign_in()}; {NAME}={plug.sign_in()}"])
    plug.backend.fail["get"] = StoreUnavailable("down")
    with pytest.raises(StoreUnavailable):
        drive(plug.auth.fetch(connection))


def test_an_id_that_is_gone_when_the_request_is_looked_at_again_is_not_renewed() -> None:
    plug = Plug()
    connection = plug.request(plug.sign_in())
    drive(plug.auth.fetch(connection))
    plug.clock.advance(900)
    connection.cookie_fields = []
    assert drive(plug.auth.fetch(connection)) is None
    assert drive(plug.auth.respond(connection)) == NO_EFFECTS


def test_a_record_that_became_garbage_before_the_response_is_not_sent() -> None:
    plug = Plug()
    value = plug.sign_in()
    plug.clock.advance(900)
    late, fast = plug.request(value), plug.request(value)
    for connection in (late, fast):
        drive(plug.auth.fetch(connection))
    assert drive(plug.auth.respond(fast)).cookies
    sid = drive(plug.auth.store.sessions(plug.ada.id, plug.auth.now()))[0].session.sid
    record = drive(plug.backend.inner.get(make_key("credentials", sid), plug.auth.now()))
    assert record is not None
    garbage = structs.replace(record, value=b"garbage", version=record.version + 1)
    assert drive(plug.backend.inner.update(garbage, record.version, plug.auth.now()))
    assert drive(plug.auth.respond(late)) == NO_EFFECTS


def test_under_max_sessions_a_store_that_fails_after_the_sign_in_still_gives_the_id() -> None:
    plug = Plug(max_sessions=1)
    connection = plug.request()
    drive(plug.auth.do_create(connection, account_of(plug.ada)))
    plug.backend.fail["get"] = StoreUnavailable("down")
    effects = drive(plug.auth.respond(connection))
    plug.backend.fail.clear()
    assert plug.who(plug.id_from(effects)) is not None


# --- the options of the seed configuration ----------------------------------------------------------------------------


def test_option_users_context_is_asked_for_everything() -> None:
    asked: list[str] = []

    class Noting(MemoryUsers):
        async def authenticate(self, params: Mapping[str, object]) -> Account[Me] | None:
            asked.append("authenticate")
            return await super().authenticate(params)

        async def get(self, key: Key) -> Account[Me] | None:
            asked.append("get")
            return await super().get(key)

    plug = Plug(users=Noting())
    connection = plug.request()
    drive(plug.bound(connection).sign_in(ADA))
    plug.who(plug.id_from(drive(plug.auth.respond(connection))))
    assert asked == ["authenticate"]
    drive(plug.auth.revoke_user(plug.ada))
    drive(plug.bound(connection).sign_in_user(plug.ada))
    assert asked == ["authenticate", "get", "get"]


def test_option_user_is_seen_as_the_apps_own_identity() -> None:
    plug = Plug()
    assert plug.auth.users.identity is Me
    assert type(plug.who(plug.sign_in())) is Me


def test_option_repo_and_user_are_the_database_and_the_model(tmp_path: Path) -> None:
    from sqlalchemy import create_engine
    from sqlalchemy.orm import DeclarativeBase

    from powauth.accounts.passwords import PasswordHasher
    from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin

    class Base(DeclarativeBase):
        pass

    class Person(UserMixin, Base):
        __tablename__ = "people"

    engine = create_engine(f"sqlite:///{tmp_path / 'app'}")
    Base.metadata.create_all(engine)

    class Myself(Struct, frozen=True):
        id: UUID
        email: str

    users = SQLAlchemyUsers(
        engine, Person, identity=Myself, hasher=PasswordHasher(time_cost=1, memory_cost=8, cheap_and_unsafe=True)
    )
    auth = SessionAuth(secret_key=SECRET, users=users, backend="memory://")
    connection = FakeConnection()
    params = {"email": "ada@example.org", "password": "five brown owls hoot"}
    assert drive(RequestAuth(auth, connection).register(params)).email == "ada@example.org"
    (cookie,) = drive(auth.respond(connection)).cookies
    user = drive(auth.fetch(FakeConnection([cookie.partition(";")[0]])))
    assert type(user) is Myself
    assert user.email == "ada@example.org"
    drive(users.close())
    engine.dispose()


def test_option_current_user_assigns_key_names_where_the_user_is() -> None:
    plug = Plug(current_user_key="current_admin")
    connection = plug.request(plug.sign_in())
    drive(plug.auth.call(connection))
    assert connection.assigned("current_admin") == seen(plug.ada)
    assert connection.assigned("current_user") is MISSING
    assert plug.auth.current_identity(connection) == seen(plug.ada)


def test_option_session_key_names_the_cookie() -> None:
    plug = Plug(session_key="login")
    assert plug.auth.carrier.name == "__Host-login"
    value = plug.sign_in()
    assert plug.who(value) is not None
    assert drive(plug.auth.fetch(FakeConnection([f"{NAME}={value}"]))) is None


def test_option_session_key_names_the_key_in_the_frameworks_session() -> None:
    plug = Plug(session_key="login", carrier=FrameworkSessionCarrier())
    connection = plug.request()
    connection.framework_session = {"cart": 1}
    drive(plug.auth.do_create(connection, account_of(plug.ada)))
    assert drive(plug.auth.respond(connection)) == Effects(no_store=True)
    assert set(connection.framework_session) == {"login", "login.user", "cart"}
    again = plug.request()
    again.framework_session = connection.framework_session
    assert drive(plug.auth.fetch(again)) is not None


def test_option_otp_app_comes_before_the_session_key_and_the_id() -> None:
    plug = Plug(app_name="my_app")
    assert plug.auth.carrier.name == "__Host-my_app_auth"
    value = plug.sign_in()
    assert value.startswith("my_app.")
    assert (
        the_ids(namespace="credentials.my_app_auth", session_key="my_app_auth", prefix="my_app.").decode(value)
        is not None
    )
    assert plug.who(value) is not None
    assert plug.who(value.removeprefix("my_app.")) is None
    assert plug.who("other" + value) is None


def test_option_session_store_has_its_own_ttl() -> None:
    backend = MemoryBackend()
    store = CredentialsCache(backend, ttl=timedelta(minutes=5))
    plug = Plug(store=store, session_ttl_renewal=timedelta(minutes=2))
    assert plug.auth.policy.ttl == 300_000
    value = plug.sign_in()
    plug.clock.advance(299.999)
    assert plug.who(value) is not None
    plug.clock.advance(0.001)
    assert plug.who(value) is None


def test_option_session_store_has_its_own_namespace() -> None:
    backend = MemoryBackend()
    people = Plug(store=CredentialsCache(backend, namespace="people"))
    robots = Plug(store=CredentialsCache(backend, namespace="robots"), users=people.users)
    value = people.sign_in()
    assert people.who(value) is not None
    assert robots.who(value) is None
    assert drive(robots.auth.store.count(robots.auth.now())) == 0
    assert drive(robots.auth.revoke_everyone()) == 0
    assert people.who(value) is not None


def test_option_session_ttl_renewal_of_none_never_renews() -> None:
    plug = Plug(session_ttl_renewal=None)
    value = plug.sign_in()
    plug.clock.advance(1799)
    connection = plug.request(value)
    assert drive(plug.auth.fetch(connection)) is not None
    with plug.backend.counting() as verbs:
        assert drive(plug.auth.respond(connection)) == NO_EFFECTS
    assert verbs == []
    plug.clock.advance(1)
    assert plug.who(value) is None


def test_option_session_ttl_renewal_of_zero_renews_at_every_request() -> None:
    plug = Plug(session_ttl_renewal=timedelta(0))
    value = plug.sign_in()
    seen = {value}
    for number in range(1, 6):
        connection = plug.request(value)
        assert drive(plug.auth.fetch(connection)) is not None
        value = plug.id_from(drive(plug.auth.respond(connection)))
        decoded = the_ids().decode(value)
        assert decoded is not None
        assert decoded.generation == number
        seen.add(value)
    assert len(seen) == 6


def test_option_session_ttl_renewal_is_an_age() -> None:
    plug = Plug(session_ttl_renewal=timedelta(minutes=5))
    value = plug.sign_in()
    for age, renews in ((299.999, False), (0.001, True)):
        plug.clock.advance(age)
        connection = plug.request(value)
        assert drive(plug.auth.fetch(connection)) is not None
        assert bool(drive(plug.auth.respond(connection)).cookies) == renews


def test_option_cache_store_backend_is_an_object_or_a_url(tmp_path: Path) -> None:
    made = MemoryBackend()
    users = MemoryUsers()
    assert SessionAuth(secret_key=SECRET, users=users, backend=made).store.backend is made
    by_url = SessionAuth(secret_key=SECRET, users=users, backend="memory://")
    assert isinstance(by_url.store.backend, PerProcess)
    (tmp_path / "app").mkdir()
    lmdb = SessionAuth(secret_key=SECRET, users=users, backend=f"lmdb://{tmp_path}/app/sessions")
    assert isinstance(lmdb.store.backend, ReadsInPlace)
    assert not isinstance(lmdb.store.backend, PerProcess)
    drive(lmdb.store.close())
    sqlite = SessionAuth(secret_key=SECRET, users=users, backend=f"sqlite:///{tmp_path}/sessions")
    assert not isinstance(sqlite.store.backend, PerProcess)
    drive(sqlite.store.close())


def test_option_secret_key_signs_and_an_older_one_still_verifies() -> None:
    backend = MemoryBackend()
    users = MemoryUsers()
    old = Plug(backend, secret_key=OTHER_SECRET, users=users)
    value = old.sign_in()
    new = Plug(backend, secret_key=[SECRET, OTHER_SECRET], users=users)
    alone = Plug(backend, secret_key=SECRET, users=users)
    assert new.who(value) is not None
    assert alone.who(value) is None
    new.clock.advance(900)
    connection = new.request(value)
    drive(new.auth.fetch(connection))
    resigned = new.id_from(drive(new.auth.respond(connection)))
    alone.clock.advance(900)
    assert alone.who(resigned) is not None


def test_option_plug_session_is_the_carrier() -> None:
    plug = Plug(carrier=CookieCarrier(path="/app", same_site="Strict"))
    connection = plug.request()
    drive(plug.auth.do_create(connection, account_of(plug.ada)))
    (cookie,) = drive(plug.auth.respond(connection)).cookies
    assert cookie.startswith("__Secure-auth=")
    assert cookie.endswith("; Path=/app; Secure; HttpOnly; SameSite=Strict")


@pytest.mark.parametrize("metadata", [None, lambda connection: {"agent": connection.header("user-agent")}])
def test_option_metadata_says_what_is_kept_of_a_sign_in(metadata: Any) -> None:
    events: list[Any] = []
    plug = Plug(metadata=metadata, on_event=events.append)
    connection = FakeConnection(user_agent="a browser")
    drive(plug.auth.do_create(connection, account_of(plug.ada)))
    info = plug.auth.current_session.info(connection)
    assert info is not None
    kept = {"first_seen": plug.auth.now(), "agent": "a browser"} if metadata else {}
    assert info.metadata == kept
    assert events[-1].ip == ("192.0.2.1" if metadata else None)


# --- the helpers of Pow.Plug ------------------------------------------------------------------------------------------


def test_authenticate_user_signs_in_who_is_proven() -> None:
    plug = Plug()
    connection = plug.request()
    assert drive(plug.bound(connection).sign_in(ADA)) == seen(plug.ada)
    assert plug.auth.current_identity(connection) == seen(plug.ada)
    assert plug.who(plug.id_from(drive(plug.auth.respond(connection)))) is not None


def test_authenticate_user_of_nobody_leaves_all_as_it_was() -> None:
    plug = Plug()
    value = plug.sign_in()
    connection = plug.request(value)
    drive(plug.auth.call(connection))
    assert drive(plug.bound(connection).sign_in(ADA | {"password": "wrong"})) is None
    assert plug.auth.current_identity(connection) == seen(plug.ada)
    assert drive(plug.auth.respond(connection)) == NO_EFFECTS
    assert plug.who(value) is not None


def test_create_user_registers_and_signs_in() -> None:
    plug = Plug()
    connection = plug.request()
    user = drive(plug.bound(connection).register({"email": "grace@example.org", "password": "x"}))
    assert seen(plug.users.rows[user.id]) == user == plug.auth.current_identity(connection)
    assert plug.who(plug.id_from(drive(plug.auth.respond(connection)))) == user


def test_create_user_of_wrong_params_signs_nobody_in() -> None:
    plug = Plug()
    connection = plug.request()
    with pytest.raises(InvalidParams) as raised:
        drive(plug.bound(connection).register(ADA))
    assert raised.value.errors == {"email": ["has already been taken"]}
    assert plug.auth.current_identity(connection) is None


def test_create_user_who_begins_locked_is_told_so() -> None:
    class Reviewed(MemoryUsers):
        async def create(self, params: Mapping[str, object]) -> Account[Me]:
            account = await super().create(params)
            key = str(account.key)
            self.rows[key] = replace(self.rows[key], locked=True)
            return account

    plug = Plug(users=Reviewed())
    connection = plug.request()
    with pytest.raises(NotSignedIn, match="may not sign in"):
        drive(plug.bound(connection).register({"email": "grace@example.org", "password": "x"}))
    assert drive(plug.auth.respond(connection)) == NO_EFFECTS


def signed_in_connection(plug: Plug) -> FakeConnection:
    connection = plug.request(plug.sign_in())
    drive(plug.auth.call(connection))
    return connection


def test_update_user_changes_the_current_user() -> None:
    plug = Plug()
    connection = signed_in_connection(plug)
    user = drive(plug.bound(connection).update_user({"current_password": ADA["password"], "name": "Ada"}))
    assert user.name == "Ada"
    assert plug.auth.current_identity(connection) == user
    assert drive(plug.auth.respond(connection)) == NO_EFFECTS


def test_update_user_of_the_password_renews_the_session() -> None:
    plug = Plug()
    connection = signed_in_connection(plug)
    user = drive(plug.bound(connection).update_user({"current_password": ADA["password"], "password": "new"}))
    assert plug.who(plug.id_from(drive(plug.auth.respond(connection)))) == user
    assert drive(plug.auth.store.count(plug.auth.now())) == 1


def test_update_user_who_is_locked_by_it_is_signed_out() -> None:
    plug = Plug()
    connection = signed_in_connection(plug)
    with pytest.raises(NotSignedIn, match="may not sign in any more"):
        drive(plug.bound(connection).update_user({"current_password": ADA["password"], "locked": True}))
    assert plug.auth.current_identity(connection) is None
    assert drive(plug.auth.store.count(plug.auth.now())) == 0


@pytest.mark.parametrize("call", ["update_user", "delete_user"])
def test_update_user_and_delete_user_want_a_signed_in_user_who_exists(call: str) -> None:
    plug = Plug()
    with pytest.raises(NotSignedIn, match="sign in first"):
        drive(getattr(plug.bound(plug.request()), call)({}))
    connection = signed_in_connection(plug)
    del plug.users.rows[plug.ada.id]
    with pytest.raises(NotSignedIn, match="no longer exists"):
        drive(getattr(plug.bound(connection), call)({}))
    assert plug.auth.current_identity(connection) is None
    assert drive(plug.auth.store.count(plug.auth.now())) == 0


def test_a_user_who_goes_while_sessions_are_refreshed_stops_the_refresh() -> None:
    plug = Plug()
    plug.sign_in()

    async def remove(verb: str) -> None:
        if verb == "list":
            plug.users.rows.clear()

    plug.backend.before = remove
    drive(plug.auth.update_account(plug.ada, {"name": "Ada"}))
    plug.backend.before = None
    (stored,) = drive(plug.auth.store.sessions(plug.ada.id, plug.auth.now()))
    assert msgpack.decode(stored.session.identity, type=Me).name == ""


def test_delete_user_ends_everything() -> None:
    plug = Plug()
    other = plug.sign_in()
    connection = signed_in_connection(plug)
    with pytest.raises(InvalidParams):
        drive(plug.bound(connection).delete_user({"current_password": "wrong"}))
    assert plug.who(other) is not None
    drive(plug.bound(connection).delete_user({"current_password": ADA["password"]}))
    assert plug.users.rows == {}
    assert plug.auth.current_identity(connection) is None
    assert plug.who(other) is None
    assert drive(plug.auth.delete_account(plug.ada)) is False


def test_change_user_says_what_is_wrong_and_changes_nothing() -> None:
    plug = Plug()
    assert plug.bound(plug.request()).validate_user({}) == {"email": ["can't be blank"]}
    assert plug.bound(plug.request()).validate_user(ADA) == {}
    assert plug.users.queries == 0


def test_current_user_is_who_was_assigned() -> None:
    plug = Plug()
    connection = plug.request()
    assert plug.auth.current_identity(connection) is None
    connection.assign("current_user", plug.ada)
    assert plug.auth.current_identity(connection) == plug.ada


def test_clear_authenticated_user_signs_out() -> None:
    plug = Plug()
    connection = signed_in_connection(plug)
    drive(plug.bound(connection).sign_out())
    assert plug.auth.current_identity(connection) is None
    assert drive(plug.auth.store.count(plug.auth.now())) == 0


# --- beyond Pow: metadata ---------------------------------------------------------------------------------------------


def test_update_metadata_adds_and_changes() -> None:
    plug = Plug()
    connection = signed_in_connection(plug)
    assert drive(plug.bound(connection).update_metadata(theme="dark", size=1))["size"] == 1
    assert drive(plug.bound(connection).update_metadata(size=2))["theme"] == "dark"
    info = plug.auth.current_session.info(connection)
    assert info is not None
    assert info.metadata["size"] == 2
    with pytest.raises(MetadataTooLarge):
        drive(plug.bound(connection).update_metadata(note="x" * 5000))
    with pytest.raises(TypeError):
        drive(plug.bound(connection).update_metadata(note=object()))  # type: ignore[arg-type]


def test_update_metadata_tries_again_after_another_writer_and_not_for_ever() -> None:
    plug = Plug()
    connection = signed_in_connection(plug)
    other = signed_in_connection(plug)
    other.states = dict(connection.states)
    info = plug.bound(connection).session
    assert info is not None
    sid = decode_sid(info.sid)
    (stored,) = [one for one in drive(plug.auth.store.sessions(plug.ada.id, plug.auth.now())) if one.session.sid == sid]
    assert drive(plug.auth.store.update(stored, stored.session, stored.expires_at, plug.auth.now())) is not None
    with plug.backend.counting() as verbs:
        assert drive(plug.bound(connection).update_metadata(theme="dark"))["theme"] == "dark"
    assert verbs == ["update", "get", "update"]

    async def lose(record: Any, expected_version: int, now: Millis) -> bool:
        del record, expected_version, now
        return False

    plug.backend.inner.update = lose  # type: ignore[method-assign]
    with plug.backend.counting() as verbs, pytest.raises(StoreUnavailable, match="too fast"):
        drive(plug.bound(connection).update_metadata(theme="light"))
    assert verbs == ["update", "get"] * METADATA_ATTEMPTS


def test_a_user_whom_no_session_signed_in_has_none() -> None:
    plug = Plug()
    connection = plug.request()
    connection.assign("current_user", plug.ada)
    drive(plug.auth.call(connection))
    assert plug.auth.current_session.info(connection) is None
    with pytest.raises(NotSignedIn, match="not signed in by a session"):
        drive(plug.bound(connection).sessions())


# --- Authenticator: another kind of authentication --------------------------------------------------------------------


class HeaderAuth(Authenticator[User, Me]):
    """Takes the user from a header that a trusted proxy sets."""

    async def fetch(self, connection: Connection) -> Me | None:
        account = await self.users.find(connection.header("x-user"))
        return None if account is None else account.identity

    async def create(
        self, connection: Connection, account: Account[Me], grant: Grant = AS_BEFORE
    ) -> Account[Me] | None:
        del connection, grant
        return account

    async def delete(self, connection: Connection) -> None:
        del connection


@pytest.fixture
def header_auth() -> HeaderAuth:
    users = MemoryUsers()
    users.add(ADA["email"])
    return HeaderAuth(users)


class AwayAuth(HeaderAuth):
    """Cannot tell."""

    async def fetch(self, connection: Connection) -> Me | None:
        raise StoreUnavailable("away")


def test_another_authenticator_is_called_as_the_session_plug_is(header_auth: HeaderAuth) -> None:
    assigned = FakeConnection(x_user=ADA["email"])
    assigned.assign("current_user", None)
    drive(header_auth.call(assigned))
    assert header_auth.current_identity(assigned) is None
    assert header_auth.is_due(assigned)
    away = AwayAuth(header_auth.users)
    connection = FakeConnection()
    drive(away.call(connection))
    with pytest.raises(StoreUnavailable):
        away.current_identity(connection)


def test_another_authenticator_fetches_and_has_every_helper(header_auth: HeaderAuth) -> None:
    connection = FakeConnection(x_user=ADA["email"])
    drive(header_auth.call(connection))
    user = header_auth.current_identity(connection)
    assert user is not None
    change = {"current_password": ADA["password"], "password": "new"}
    before = header_auth.users.rows[user.id].password_hash  # type: ignore[attr-defined]
    assert drive(RequestAuth(header_auth, connection).update_user(change)) == user
    assert header_auth.users.rows[user.id].password_hash != before  # type: ignore[attr-defined]
    assert drive(header_auth.respond(connection)) == NO_EFFECTS
    assert drive(RequestAuth(header_auth, connection).sign_in({})) is None
    assert drive(header_auth.update_account(user, {"name": "Ada"})).name == "Ada"
    drive(RequestAuth(header_auth, connection).delete_user({"current_password": "new"}))
    assert header_auth.current_identity(connection) is None


def test_another_authenticator_keeps_no_sessions(header_auth: HeaderAuth) -> None:
    bound = RequestAuth(header_auth, FakeConnection())
    with pytest.raises(ConfigError, match="HeaderAuth keeps no sessions"):
        _ = bound.session
    with pytest.raises(ConfigError, match="keeps no sessions"):
        drive(bound.sessions())
    assert repr(bound).startswith("<RequestAuth of <")
    assert repr(BlockingRequestAuth(bound, drive)).startswith("<BlockingRequestAuth of <")


def test_another_authenticator_checks_its_users(header_auth: HeaderAuth) -> None:
    header_auth.check_asgi()
    header_auth.check_wsgi()
    modes: dict[Mode, UsersContext[User, Me]] = {mode: MemoryUsers(mode) for mode in ("blocking", "async")}
    HeaderAuth(modes["blocking"]).check_wsgi()
    HeaderAuth(modes["async"]).check_asgi()
    with pytest.raises(ConfigError, match="synchronous users context"):
        HeaderAuth(modes["async"]).check_wsgi()


@pytest.mark.parametrize("params", [[], "text", 7])
def test_params_that_are_no_mapping_are_invalid_and_never_a_500(params: Any) -> None:
    plug = Plug()
    plug.sign_in()
    connection = plug.request()
    bound = plug.bound(connection)
    for operation in (bound.sign_in, bound.register, bound.update_user):
        with pytest.raises(InvalidParams) as refused:
            drive(operation(params))
        assert list(refused.value.errors) == ["base"]
    with pytest.raises(InvalidParams) as refused:
        bound.validate_user(params)
    assert list(refused.value.errors) == ["base"]


def test_what_a_handler_is_given_of_a_user_is_the_identity() -> None:
    plug = Plug()
    connection = plug.request()
    assert type(drive(plug.bound(connection).sign_in(ADA))) is Me
    changed = drive(plug.bound(connection).update_user(current_password=ADA["password"], name="Ada L."))
    assert (type(changed), changed.name) == (Me, "Ada L.")


def test_operations_take_a_mapping_keywords_or_both() -> None:
    plug = Plug()
    calls: list[Any] = [
        lambda bound: bound.sign_in(ADA),
        lambda bound: bound.sign_in(**ADA),
        lambda bound: bound.sign_in({"email": ADA["email"], "password": "wrong"}, password=ADA["password"]),
    ]
    for call in calls:
        assert drive(call(plug.bound(plug.request()))) == seen(plug.ada)


def test_fetch_after_a_sign_in_in_one_request_is_the_user_who_signed_in() -> None:
    plug = Plug()
    connection = plug.request()
    drive(plug.auth.do_create(connection, account_of(plug.ada)))
    assert drive(plug.auth.do_fetch(connection)) == seen(plug.ada)
