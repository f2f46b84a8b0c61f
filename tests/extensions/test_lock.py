"""`Lock`: nobody enters while locked, by any door, and nobody outside can tell a lock from a wrong password."""

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from harness.core_support import KINDS
from harness.support import SECRET, Browser, Kind, Request, Response
from harness.tables_support import ADA, TableSite
from harness.users_databases import BLOCKING, PASSWORD, Base, blocking_engine, cheap_hasher, run_async, table_name
from powauth import Account, ConfigError, CredentialsCache, Extension, InvalidParams, Parts, Remember, SessionAuth
from powauth.accounts.identity import Key
from powauth.accounts.passwords import PasswordHasher
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.extensions import OneTimeTokens
from powauth.extensions.lock import Lock, LockMixin
from powauth.testing import ExtensionConformance
from powauth.testing.extension import Auth
from powauth.testing.users.sign_in import SignInTests


class Locked(LockMixin, UserMixin, Base):
    __tablename__ = table_name()


class Plain(UserMixin, Base):
    __tablename__ = table_name()


class Links(Extension[Any]):
    """Has a one-time token for each user."""

    name = "links"
    tokens: OneTimeTokens[Any]

    def bind(self, parts: Parts[Any]) -> "Links":
        bound = type(self)()
        bound.tokens = OneTimeTokens(parts, self.name)
        return bound

    async def credentials_changed(self, key: Key, why: str) -> None:
        await self.tokens.end(key)


Make = Callable[..., TableSite]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with blocking_engine("sqlite", str(tmp_path), Locked) as engine:

        def site(kind: Kind = "wsgi", **options: Any) -> TableSite:
            return TableSite(kind, engine, Locked, [Links(), Lock()], **options)

        yield site


def lock(site: TableSite, reason: str = "spam", **options: Any) -> None:
    drive(site.auth.extension(Lock).lock(site.ada, reason, **options))


def unlock(site: TableSite, **options: Any) -> None:
    drive(site.auth.extension(Lock).unlock(site.ada, **options))


def seen(response: Response) -> tuple[int, bytes, list[tuple[str, str]]]:
    return response.status, response.body, response.headers


# --- what a lock does -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_trm_02_a_lock_ends_everything_that_the_user_holds(kind: Kind, make: Make) -> None:
    site = make(kind, remember=Remember())
    browsers = [site.browser(signed_in=True, remember=remember) for remember in (False, True)]
    tokens = site.auth.extension(Links).tokens
    token = drive(tokens.issue(site.ada.id, ADA))
    lock(site)
    assert [site.who(browser) for browser in browsers] == [None, None]
    assert drive(tokens.find(token)) is None
    assert drive(tokens.issue(site.ada.id, ADA)) is None


@pytest.mark.parametrize("kind", KINDS)
def test_aut_01_a_lock_looks_like_a_wrong_password(kind: Kind, make: Make) -> None:
    site = make(kind)
    wrong = site.call(site.browser(), "sign_in", {"email": ADA, "password": "six black herons"})
    lock(site)
    locked = site.call(site.browser(), "sign_in", {"email": ADA, "password": PASSWORD})
    assert seen(locked) == seen(wrong)
    both_wrong = site.call(site.browser(), "sign_in", {"email": ADA, "password": "six black herons"})
    assert seen(both_wrong) == seen(wrong)


class CountingHasher(PasswordHasher):
    """Counts the verifications."""

    verified = 0

    def verify(self, stored: object, password: object) -> bool:
        self.verified += 1
        return super().verify(stored, password)


class TestLockedUsers(SignInTests):
    """AUT-01 and AUT-02: the work of a refused sign-in does not depend on the lock. Here `deactivate` is a lock."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> Iterator[None]:
        with blocking_engine("sqlite", str(tmp_path), Locked) as self.engine:
            yield

    def make_users(self) -> SQLAlchemyUsers[Any, Any]:
        self.hasher = CountingHasher(time_cost=1, memory_cost=64, cheap_and_unsafe=True)
        return SQLAlchemyUsers(self.engine, Locked, hasher=self.hasher)

    def hashing_work(self, users: Any) -> int:
        return self.hasher.verified

    async def deactivate(self, users: Any, account: Account[Any]) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.update(Locked).where(Locked.id == account.key).values(locked_at=datetime.now(UTC)))


DOORS: dict[str, Callable[[TableSite, Browser], object]] = {
    "a password": lambda site, browser: site.sign_in(browser),
    "the app's own proof": lambda site, browser: site.call(browser, "sign_in_user", site.ada.id),
    "a row of the app": lambda site, browser: site.call(browser, "sign_in_user", site.row()),
    "a remembered session": lambda site, browser: site.call(browser, "sign_in_user", site.ada, remember=True),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door", DOORS)
def test_aut_06_no_door_is_open_to_a_locked_user(kind: Kind, door: str, make: Make) -> None:
    site = make(kind, remember=Remember())
    lock(site)
    browser = site.browser()
    DOORS[door](site, browser)
    assert site.who(browser) is None
    assert browser.jar == {}
    unlock(site)
    DOORS[door](site, browser)
    assert site.who(browser) == ADA


@pytest.mark.parametrize("kind", KINDS)
def test_aut_06_a_locked_user_does_not_return_by_a_remembered_session(kind: Kind, make: Make) -> None:
    site = make(kind, remember=Remember())
    browser = site.browser(signed_in=True, remember=True)
    site.clock.advance(7200)
    site.sql(sa.update(Locked).values(locked_at=site.now()))
    assert site.who(browser) is None
    site.sql(sa.update(Locked).values(locked_at=None))
    assert site.who(browser) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_with_an_end_ends_without_a_write(kind: Kind, make: Make) -> None:
    site = make(kind)
    lock(site, until=site.now() + timedelta(days=1))
    browser = site.browser()
    site.clock.advance(86_399)
    assert site.sign_in(browser) is None
    site.clock.advance(1)
    assert site.sign_in(browser) == ADA
    assert site.row().locked_reason == "spam"


def test_a_second_lock_replaces_the_first_and_an_unlock_clears_it(make: Make) -> None:
    site = make()
    lock(site, until=site.now() + timedelta(days=1))
    lock(site, "fraud")
    row = site.row()
    assert (row.locked_at, row.locked_reason, row.locked_until) == (site.now(), "fraud", None)
    unlock(site)
    row = site.row()
    assert (row.locked_at, row.locked_reason, row.locked_until) == (None, None, None)
    assert site.sign_in(site.browser()) == ADA


def test_an_unlock_revives_no_session(make: Make) -> None:
    site = make()
    browser = site.browser(signed_in=True)
    lock(site)
    unlock(site)
    assert site.who(browser) is None


@pytest.mark.parametrize("driver", BLOCKING)
def test_a_lock_holds_on_every_database(driver: str, tmp_path: Path) -> None:
    with blocking_engine(driver, str(tmp_path), Locked) as engine:
        site = TableSite("wsgi", engine, Locked, [Lock()])
        browser = site.browser(signed_in=True)
        until = site.now() + timedelta(hours=1, microseconds=1)
        lock(site, "spam \u00fc\u202e\r\n", until=until)
        assert site.who(browser) is None
        assert site.sign_in(browser) is None
        row = site.row()
        assert (row.locked_at, row.locked_reason, row.locked_until) == (site.now(), "spam \u00fc\u202e\r\n", until)
        site.clock.advance(3601)
        assert site.sign_in(browser) == ADA


@pytest.mark.parametrize("driver", ["sqlite+aiosqlite", "postgresql+asyncpg", "mariadb+asyncmy"])
def test_a_lock_over_an_asynchronous_engine(driver: str, tmp_path: Path) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        users: SQLAlchemyUsers[Locked, Any] = SQLAlchemyUsers(engine, Locked, hasher=cheap_hasher())
        auth = SessionAuth(secret_key=SECRET, users=users, backend=MemoryBackend(), extensions=[Lock()])
        params = {"email": ADA, "password": PASSWORD}
        key = auth.key_of(await auth.create_account(params))
        await auth.extension(Lock).lock(key, "spam")
        assert await users.authenticate(params) is None
        await auth.extension(Lock).unlock(key)
        assert await users.authenticate(params) is not None

    run_async(driver, str(tmp_path), [Locked], scenario)


# --- a lock that the app writes itself --------------------------------------------------------------------------------


LOCKS: dict[str, Callable[[TableSite], dict[str, Any]]] = {
    "for good": lambda site: {"locked_at": site.now()},
    "until a time": lambda site: {"locked_at": site.now(), "locked_until": site.now() + timedelta(hours=1)},
    "by the end alone": lambda site: {"locked_until": site.now() + timedelta(hours=1)},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("values", LOCKS)
def test_trm_02_a_live_session_ends_where_the_row_is_loaded(kind: Kind, values: str, make: Make) -> None:
    site = make(kind)
    browser = site.browser(signed_in=True)

    async def load(request: Request) -> object:
        with Session(site.engine) as session:
            row = await request.call("load_user", session)
        return None if row is None else row.email

    assert site.do(browser, load).json() == ADA
    site.sql(sa.update(Locked).values(LOCKS[values](site)))
    assert site.do(browser, load).json() is None
    assert site.who(browser) is None
    site.sql(sa.update(Locked).values(locked_at=None, locked_until=None))
    assert site.who(browser) is None


@pytest.mark.parametrize("kind", KINDS)
def test_trm_02_a_live_session_ends_at_the_next_request_with_reload(kind: Kind, make: Make) -> None:
    site = make(kind, backend=None, store=CredentialsCache(MemoryBackend(), reload=True))
    browser = site.browser(signed_in=True)
    site.sql(sa.update(Locked).values(locked_at=site.now()))
    assert site.who(browser) is None


def test_a_filter_of_the_app_that_hides_a_row_is_no_lock(make: Make) -> None:
    """The row is read again without filters, and that read sees the lock, too."""
    site = make()
    standing = drive(site.users.row_reader.standing(site.ada.id))  # type: ignore[union-attr]
    assert standing is not None
    assert standing.active is True
    site.sql(sa.update(Locked).values(locked_at=site.now()))
    standing = drive(site.users.row_reader.standing(site.ada.id))  # type: ignore[union-attr]
    assert standing is not None
    assert standing.active is False


def own_object(session: Session, site: TableSite) -> None:
    session.scalars(sa.select(Locked)).one().locked_at = site.now()


def own_statement(session: Session, site: TableSite) -> None:
    session.execute(sa.update(Locked).values(locked_until=site.now() + timedelta(days=1)))


@pytest.mark.parametrize("change", [own_object, own_statement])
def test_trm_02_sessions_follow_a_lock_that_the_app_commits(change: Callable[..., None], make: Make) -> None:
    site = make()
    browser = site.browser(signed_in=True)

    class Followed(Session):
        pass

    site.users.follow(Followed)
    try:
        with Followed(site.engine) as session:
            change(session, site)
            session.commit()
    finally:
        site.users.unfollow()
    site.sql(sa.update(Locked).values(locked_at=None, locked_until=None))
    assert site.who(browser) is None


def test_the_list_of_users_shows_a_lock(make: Make) -> None:
    site = make()
    lock(site, until=site.now() + timedelta(hours=1))
    assert [user.active for user in drive(site.users.list_users())] == [False]
    site.clock.advance(3600)
    assert [user.active for user in drive(site.users.list_users())] == [True]


# --- nobody sets it from outside --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_aut_04_no_client_sets_or_clears_a_lock(kind: Kind, make: Make) -> None:
    site = make(kind)
    browser = site.browser(signed_in=True)
    later = (site.now() + timedelta(days=9)).isoformat()
    extra = {"locked_at": later, "locked_until": later, "locked_reason": "x", "lock_restriction": None}
    site.call(browser, "update_user", {"current_password": PASSWORD, **extra})
    assert site.who(browser) == ADA
    site.call(site.browser(), "register", {"email": "bob@example.org", "password": PASSWORD, **extra})
    with Session(site.engine) as session:
        rows = session.scalars(sa.select(Locked)).all()
    assert [(row.locked_at, row.locked_reason, row.locked_until) for row in rows] == [(None, None, None)] * 2


@pytest.mark.parametrize("field", ["locked_at", "locked_until"])
def test_aut_04_the_columns_are_no_fields_of_a_form(field: str, make: Make) -> None:
    site = make()
    with pytest.raises(ConfigError, match=f"fields names '{field}', which no user may set"):
        SQLAlchemyUsers(site.engine, Locked, fields=[field])


# --- events and errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_log_01_a_lock_is_an_event_that_names_who_locked(kind: Kind, make: Make) -> None:
    site = make(kind)
    admin = drive(site.auth.create_account(email="root@example.org", password=PASSWORD))
    until = site.now() + timedelta(days=1)

    async def work(request: Request) -> object:
        extension, connection = request.bound.extension(Lock), request.bound.connection
        locking = extension.lock(site.ada, "spam", until=until, by=admin, request=connection)
        await (locking if kind == "asgi" else _done(request.bound.run(locking)))
        return None

    site.events.clear()
    assert site.do(site.browser(), work).status == 200
    unlock(site, by=admin.id)
    found = [event for event in site.events if event.name.startswith("account_")]
    assert [event.name for event in found] == ["account_locked", "account_unlocked"]
    assert {event.user_key for event in found} == {site.ada.id}
    assert {event.actor for event in found} == {admin.id}
    assert (found[0].detail, found[0].ip) == (until.isoformat(timespec="seconds"), "192.0.2.1")
    assert [event.detail for event in site.events if event.name == "updated"] == ["locked", "profile"]


async def _done(result: object) -> object:
    return result


@pytest.mark.parametrize(
    ("options", "errors"),
    [
        ({"reason": " "}, {"locked_reason": ["can't be blank"]}),
        ({"reason": None}, {"locked_reason": ["can't be blank"]}),
        ({"reason": "x" * 256}, {"locked_reason": ["should be at most 255 characters"]}),
        ({"reason": "a\0b"}, {"locked_reason": ["holds a character that is not allowed"]}),
        ({"reason": "x", "until": datetime(2020, 1, 1, tzinfo=UTC)}, {"locked_until": ["must be in the future"]}),
    ],
)
def test_what_is_wrong_locks_nobody(options: dict[str, Any], errors: dict[str, list[str]], make: Make) -> None:
    site = make()
    with pytest.raises(InvalidParams) as caught:
        drive(site.auth.extension(Lock).lock(site.ada, **options))
    assert caught.value.errors == errors
    assert site.sign_in(site.browser()) == ADA
    assert "account_locked" not in site.event_names


def test_mistakes_of_the_app(make: Make) -> None:
    site = make()
    with pytest.raises(ConfigError, match="until must be an aware time"):
        lock(site, until=datetime(2999, 1, 1))  # noqa: DTZ001
    with pytest.raises(ConfigError, match="a user's key must be"):
        drive(site.auth.extension(Lock).lock(None, "spam"))
    drive(site.auth.delete_account(site.ada))
    for call in (lock, unlock):
        with pytest.raises(InvalidParams) as caught:
            call(site)
        assert "base" in caught.value.errors


def test_a_model_without_the_columns_is_refused(tmp_path: Path) -> None:
    message = "the extension 'lock' needs columns: derive Plain from LockMixin, too"
    with blocking_engine("sqlite", str(tmp_path), Plain) as engine, pytest.raises(ConfigError, match=message):
        TableSite("wsgi", engine, Plain, [Lock()])


class TestConformance(ExtensionConformance):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> Iterator[None]:
        self.folder = str(tmp_path)
        self.engines: list[sa.Engine] = []
        yield
        for engine in self.engines:
            engine.dispose()

    def make_extension(self) -> Extension[Any]:
        return Lock()

    def make_users(self) -> SQLAlchemyUsers[Any, Any]:
        engine = sa.create_engine(f"sqlite:///{self.folder}/{len(self.engines)}.db")
        self.engines.append(engine)
        Base.metadata.create_all(engine, [Locked.__table__])  # type: ignore[list-item]
        return SQLAlchemyUsers(engine, Locked, hasher=cheap_hasher())


def test_the_lock_of_a_user_stands_while_the_store_is_down(make: Make) -> None:
    """The extension raises, and the app tries again. The user is locked all the same."""

    class Down(Links):
        async def credentials_changed(self, key: Key, why: str) -> None:
            raise OSError("down")

    site = make()
    auth: Auth = SessionAuth(secret_key=SECRET, users=site.users, backend=MemoryBackend(), extensions=[Down(), Lock()])
    with pytest.raises(OSError, match="down"):
        asyncio.run(auth.extension(Lock).lock(site.ada, "spam"))
    assert site.sign_in(site.browser()) is None
