"""A deployment changes what a session keeps of its user: old and new workers share a store, nobody is signed out."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase

from harness.core_support import KINDS, Site
from harness.support import (
    SECRET,
    Browser,
    Clock,
    CountingBackend,
    Kind,
    MemoryUsers,
    Request,
    User,
    account_of,
    make_app,
)
from powauth import Account, CredentialsCache, Remember, SessionAuth
from powauth.accounts.identity import Key
from powauth.accounts.passwords import PasswordHasher
from powauth.accounts.sqlalchemy import SQLAlchemyUsers
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend


class Before(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    email: str
    name: str | None = None


class Added(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    email: str
    name: str | None = None
    role: str = "nobody"


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    email: str


class Reordered(msgspec.Struct, frozen=True, kw_only=True):
    name: str | None
    email: str
    id: str


class NotNull(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    email: str
    name: str


class Renamed(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    email: str
    full_name: str


class Retyped(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    email: str
    name: int


def _another_class() -> type[Any]:
    return msgspec.defstruct("Person", [("id", str), ("email", str), ("name", str | None)], frozen=True, kw_only=True)


VERSIONS: Mapping[str, type[Any]] = {
    "before": Before,
    "a field added": Added,
    "a field removed": Removed,
    "fields in another order": Reordered,
    "a field that may not be null": NotNull,
    "a field renamed": Renamed,
    "a field of another type": Retyped,
    "a class of another name": _another_class(),
}

FILLED = {"name": "Ada", "full_name": "Ada", "role": "admin"}
"""The values of the user's row, whatever the version reads of it."""


class VersionUsers(MemoryUsers):
    """The users context of one version of the app. All versions share the rows."""

    def __init__(self, identity: type[Any], rows: dict[str, User]) -> None:
        super().__init__()
        self.identity = identity
        self.rows = rows

    def _of(self, account: Account[Any]) -> Account[Any]:
        row = {"id": account.identity.id, "email": account.identity.email, **FILLED}
        if self.identity.__name__ == "Retyped":
            row["name"] = 7
        fields = {field.name: row[field.name] for field in msgspec.structs.fields(self.identity)}
        return msgspec.structs.replace(account, identity=self.identity(**fields))

    async def authenticate(self, params: Mapping[str, object]) -> Account[Any] | None:
        found = await super().authenticate(params)
        return None if found is None else self._of(found)

    async def get(self, key: Key) -> Account[Any] | None:
        found = await super().get(key)
        return None if found is None else self._of(found)


async def look(request: Request) -> object:
    """A handler: the identity of the current user, field by field."""
    return None if request.user is None else msgspec.structs.asdict(request.user)


class Deployment:
    """Workers of several versions of one app, over one store and one table of users."""

    def __init__(self, kind: Kind, *, reload: bool) -> None:
        self.backend = CountingBackend(MemoryBackend())
        self.clock = Clock()
        self.rows: dict[str, User] = {}
        self.kind, self.reload = kind, reload
        self.sites: dict[str, Site] = {}

    def worker(self, version: str) -> Site:
        """A worker of a version."""
        if version not in self.sites:
            self.sites[version] = Site(
                self.backend,
                self.kind,
                users=VersionUsers(VERSIONS[version], self.rows),
                clock=self.clock,
                store=CredentialsCache(self.backend, reload=self.reload),
            )
        return self.sites[version]

    def check(self, version: str, browser: Browser) -> int:
        """A request to a worker, which must see its own user as its version does. Returns how often it wrote."""
        site = self.worker(version)
        # The identity that this version of the app makes of an account; apps get it from requests only.
        expected = site.users._of(account_of(site.user)).identity  # type: ignore[attr-defined]
        with self.backend.counting() as verbs:
            assert site.serve({"/look": look}, browser).get("/look").json() == msgspec.structs.asdict(expected)
        return verbs.count("update")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


PAIRS = list(itertools.permutations(VERSIONS, 2))


@pytest.mark.parametrize("reload", [False, True], ids=["", "reload"])
@pytest.mark.parametrize(("old", "new"), PAIRS, ids=[f"{old} to {new}" for old, new in PAIRS])
def test_rep_26_old_and_new_workers_side_by_side_sign_nobody_out(old: str, new: str, reload: bool) -> None:
    deployment = Deployment("wsgi", reload=reload)
    browser = deployment.worker(old).signed_in()
    writes = [deployment.check(version, browser) for version in (old, new, old, new, new, old)]
    if "a field of another type" not in (old, new):  # whose values the other cannot read: each rebuilds it in its turn
        assert sum(writes) <= 2
    deployment.clock.advance(900)  # a renewal by either of them is one for both
    for version in (new, old, new):
        deployment.check(version, browser)
    assert drive(deployment.backend.count("credentials", deployment.worker(new).auth.now())) == 1


def test_rep_26_workers_of_all_versions_side_by_side_sign_nobody_out(kind: Kind) -> None:
    deployment = Deployment(kind, reload=False)
    browser = deployment.worker("before").signed_in()
    for version in [*VERSIONS, *reversed(list(VERSIONS))]:
        deployment.check(version, browser)


def test_rep_26_a_user_who_was_locked_or_has_another_password_is_not_rebuilt(kind: Kind) -> None:
    for change in ({"locked": True}, {"password_hash": "another"}):
        deployment = Deployment(kind, reload=False)
        site = deployment.worker("before")
        browser = site.signed_in()
        site.users.rows[site.user.id] = replace(site.user, **change)  # by something else than powauth
        new = deployment.worker("a field added")
        assert new.serve({"/look": look}, browser).get("/look").json() is None
        assert drive(deployment.backend.count("credentials", new.auth.now())) == 0


# --- a table that a migration changes -----------------------------------------------------------------------------


def table(*columns: sa.Column[Any], name: str = "User") -> type[Any]:
    """A mapped class of the users' table, with more columns than the necessary ones."""

    class Base(DeclarativeBase):
        pass

    fixed: dict[str, Any] = {
        "__tablename__": "users",
        "id": sa.Column(sa.Integer, primary_key=True),
        "email": sa.Column(sa.String(254), unique=True),
        "password_hash": sa.Column(sa.String(255)),
        "is_active": True,
    }
    return type(name, (Base,), {**fixed, **{column.name: column for column in columns}})


class Account1(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    email: str
    nickname: str | None
    city: str | None


class Account2(msgspec.Struct, frozen=True, kw_only=True):
    city: str
    level: int
    email: str
    id: int


@pytest.mark.parametrize("reload", [False, True], ids=["", "reload"])
def test_rep_26_a_migration_of_the_users_table_signs_nobody_out(reload: bool, tmp_path: Path, kind: Kind) -> None:
    """A column removed, one added and one made NOT NULL; the rest in another order, and a class of another name."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/app.db", poolclass=sa.NullPool)
    hasher = PasswordHasher(time_cost=1, memory_cost=64, cheap_and_unsafe=True)
    old = table(sa.Column("nickname", sa.String(20)), sa.Column("city", sa.String(20)))
    new = table(
        sa.Column("city", sa.String(20), nullable=False), sa.Column("level", sa.Integer, nullable=False), name="Person"
    )
    old.metadata.create_all(engine)
    backend = MemoryBackend()

    jar: dict[str, str] = {}

    async def register(request: Request) -> object:
        return (await request.call("register", email="ada@example.org", password="a long enough pass phrase")).id

    def worker(row: type[Any], identity: type[Any]) -> Browser:
        users = SQLAlchemyUsers(engine, row, identity=identity, hasher=hasher)
        store = CredentialsCache(backend, reload=reload)
        auth = SessionAuth(secret_key=SECRET, users=users, store=store, throttle=None)
        return Browser(make_app(kind, auth, {"/register": register, "/look": look}), kind, jar)

    before = worker(old, Account1)
    assert before.get("/register").json() == 1
    assert before.get("/look").json() == {"id": 1, "email": "ada@example.org", "nickname": None, "city": None}
    with engine.begin() as connection:  # as a migration in two steps does: what old workers read is dropped last
        connection.execute(sa.text("ALTER TABLE users ADD COLUMN level INTEGER NOT NULL DEFAULT 3"))
        connection.execute(sa.text("UPDATE users SET city = 'Paris' WHERE city IS NULL"))
    after = worker(new, Account2)
    seen = {"city": "Paris", "level": 3, "email": "ada@example.org", "id": 1}
    for _ in range(2):
        assert after.get("/look").json() == seen
        assert before.get("/look").json()["email"] == "ada@example.org"
    with engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE users DROP COLUMN nickname"))
    assert after.get("/look").json() == seen


# --- durations that a deployment shortens -------------------------------------------------------------------------


async def ends(request: Request) -> object:
    """A handler: when the sessions end, in days from the sign-in, as a page of devices shows it."""
    infos = [request.bound.session, *await request.call("sessions")]
    return [round((info.expires_at - info.created_at).total_seconds() / 86_400, 2) for info in infos]


def test_rem_03_durations_that_are_shortened_are_in_force_at_once(kind: Kind) -> None:
    backend, users, clock = CountingBackend(MemoryBackend()), MemoryUsers(), Clock()
    sites = [
        Site(backend, kind, users=users, clock=clock, remember=remember, max_sessions=2)
        for remember in (Remember(), Remember(ttl=timedelta(days=5), max_lifetime=timedelta(days=10)), None)
    ]

    async def remembered(request: Request) -> None:
        await request.call("sign_in_user", sites[0].user, remember=True)

    def signed_in() -> Browser:
        browser = sites[0].serve({"/in": remembered}, sites[0].browser())
        browser.get("/in")
        return browser

    browser = signed_in()
    seen = [site.serve({"/ends": ends}, browser).get("/ends").json() for site in sites]
    assert seen == [[30, 30], [5, 5], [round(1 / 48, 2)] * 2]
    clock.advance(6 * 86_400)
    young = signed_in()
    assert sites[0].serve({"/ends": ends}, young).get("/ends").json() == [30, 30, 30]
    assert sites[1].serve({"/ends": ends}, young).get("/ends").json() == [5, 5]  # the older one is over, and not shown
    assert sites[1].user_of_id(sites[1].id_of(browser)) is None
    signed_in()
    assert sites[1].user_of_id(sites[1].id_of(young)) is not None
