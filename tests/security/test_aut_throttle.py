"""AUT-03: how often a password may be guessed, over HTTP, in processes and threads, on the local and the real engines.

And AUT-06, as far as there are doors.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase

from harness.core_support import KINDS, Site, open_backend
from harness.http_support import COMBINATION_IDS, COMBINATIONS
from harness.internals import sql_engine_of
from harness.support import Browser, FakeConnection, Kind, Me, MemoryUsers, Request, Response, User, make_app
from powauth import (
    Account,
    Hooks,
    Limit,
    Refused,
    RequestAuth,
    SessionAuth,
    Step,
    StoreUnavailable,
    Throttle,
    Throttled,
)
from powauth.accounts.passwords import PasswordHasher
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.base import Backend, Millis, drive, reads_engine_in_place
from powauth.backends.lmdb import LMDBBackend
from powauth.backends.memory import MemoryBackend
from powauth.backends.sql import SQLBackend, create_tables
from powauth.errors import InvalidParams, Overloaded

PERIOD = 900
WRONG = "six black herons"
RIGHT = "correct horse"


class Door(Site):
    """A site whose ``/login`` takes the e-mail and the password from headers, with the default throttle."""

    def __init__(self, backend: Backend, kind: Kind = "wsgi", **options: Any) -> None:
        super().__init__(backend, kind, **{"throttle": Throttle()} | options)
        self.params: dict[str, object] = {}
        self.app = make_app(kind, self.auth, {"/login": self._try, "/update": self._update})

    async def _try(self, request: Request) -> object:
        return (await request.call("sign_in", self.params)) is not None

    async def _update(self, request: Request) -> object:
        return (await request.call("update_user", self.params)).email

    def guess(self, email: object = "ada@example.org", password: str = WRONG, **headers: str) -> Response:
        self.params = {"email": email, "password": password}
        return self.browser().send("/login", None, headers)

    def guesses(self, times: int, **more: Any) -> Counter[int]:
        return Counter(self.guess(**more).status for _ in range(times))


@pytest.fixture(params=COMBINATIONS, ids=COMBINATION_IDS)
def door(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Door]:
    kind, name = request.param
    backend = open_backend(name, tmp_path)
    yield Door(backend, kind)
    drive(backend.close())


def throttled(response: Response) -> tuple[int, object, str | None, list[str]]:
    return response.status, response.json(), response.header("retry-after"), response.set_cookies


def test_aut_03_150_wrong_passwords_in_a_row_are_10_guesses_in_each_period(door: Door) -> None:
    for _ in range(3):
        assert door.guesses(150) == {200: 10, 429: 140}
        door.clock.advance(PERIOD - 1)
        assert throttled(door.guess()) == (429, {"error": "throttled"}, "1", [])
        assert door.guess(password=RIGHT).status == 429  # nobody learns that it is right
        door.clock.advance(1)
    assert door.guess(password=RIGHT).json() is True


def test_aut_03_spellings_of_an_account_and_forwarded_addresses_share_its_limit(door: Door) -> None:
    spellings = ["ada@example.org", "ADA@example.org", " ada@example.org", "Ada@Example.ORG\t", "\tADA@EXAMPLE.ORG "]
    statuses = Counter(
        door.guess(spellings[turn % 5], x_forwarded_for=f"198.51.100.{turn}", forwarded=f"for=198.51.100.{turn}").status
        for turn in range(50)
    )
    assert statuses == {200: 10, 429: 40}


def test_aut_03_the_answer_is_the_same_whether_or_not_there_is_such_an_account(door: Door) -> None:
    answers = []
    for email in ("ada@example.org", "nobody@example.org"):
        assert door.guesses(10, email=email) == {200: 10}
        answers.append(throttled(door.guess(email)))
    assert answers[0] == answers[1] == (429, {"error": "throttled"}, "900", [])


def test_aut_03_a_source_that_sprays_accounts_is_throttled_whatever_it_says_of_itself(door: Door) -> None:
    tried = [door.guess(f"user{turn}@example.org", x_forwarded_for=f"203.0.113.{turn % 250}") for turn in range(150)]
    assert [response.status for response in tried] == [200] * 100 + [429] * 50
    before = len(door.backend.calls)
    assert door.guess("another@example.org").status == 429
    glances = ["get", "get"] if reads_engine_in_place(door.backend) else []
    assert door.backend.calls[before:] == [*glances, "create", "get"]  # and leaves no counter of the account behind
    door.clock.advance(PERIOD)
    assert door.guess(password=RIGHT).json() is True


def test_aut_03_malformed_user_ids_count_for_their_source(door: Door) -> None:
    for turn in range(100):
        assert door.guess([None, 7, ["ada@example.org"], {"$ne": ""}][turn % 4]).status == 200
    assert door.guess(None).status == 429


def test_aut_03_success_forgets_the_account_and_costs_its_source_nothing(door: Door) -> None:
    for _ in range(30):
        assert door.guesses(3) == {200: 3}
        assert door.guess(password=RIGHT).json() is True
    assert door.guesses(9) == {200: 9}
    for turn in range(200):
        assert door.guess(password=RIGHT).json() is True, turn
    assert door.guess().status == 200
    assert door.guess().status == 429  # 30 times 3, and 10, were this source's failures


def test_aut_03_who_is_signed_in_stays_so_and_can_change_the_password(door: Door) -> None:
    door.params = {"email": "ada@example.org", "password": RIGHT}
    browser = door.browser()
    assert browser.get("/login").json() is True
    assert door.guesses(20) == {200: 10, 429: 10}
    assert browser.get().json() == {"user": "ada@example.org"}
    door.params = {"current_password": RIGHT, "password": "seven red herons"}
    assert browser.get("/update").status == 200
    assert browser.get().json() == {"user": "ada@example.org"}


def test_pwd_09_current_passwords_are_throttled(door: Door) -> None:
    door.params = {"email": "ada@example.org", "password": RIGHT}
    browser = door.browser()
    browser.get("/login")
    door.params = {"current_password": WRONG, "name": "Eve"}
    assert [browser.get("/update").status for _ in range(12)] == [422] * 10 + [429] * 2
    door.params = {"current_password": RIGHT, "name": "Eve"}
    assert throttled(browser.get("/update"))[:3] == (429, {"error": "throttled"}, "900")
    assert door.users.rows[door.user.id].name == ""
    assert [event.detail for event in door.events if event.name == "throttled"] == ["current_password"] * 3
    door.clock.advance(PERIOD)
    assert browser.get("/update").status == 200
    door.params = {"current_password": None, "name": "Eve"}
    assert [browser.get("/update").status for _ in range(20)] == [422] * 20  # nothing was guessed


@pytest.mark.parametrize("error", [InvalidParams({"name": ["too long"]}), StoreUnavailable("down"), Overloaded("busy")])
def test_pwd_09_a_change_that_fails_for_another_reason_does_not_count(door: Door, error: Exception) -> None:
    async def fail(*_: object, **__: object) -> Any:
        raise error

    door.params = {"email": "ada@example.org", "password": RIGHT}
    browser = door.browser()
    browser.get("/login")
    door.params = {"current_password": RIGHT, "name": "Eve"}
    update = door.users.update
    door.users.update = fail  # type: ignore[method-assign]
    assert {browser.get("/update").status for _ in range(20)} <= {422, 503}
    door.users.update = update  # type: ignore[method-assign]
    with door.backend.counting() as verbs:
        assert browser.get("/update").status == 200
    assert verbs[:2] == ["get", "epoch"]
    assert verbs.count("create") == (0 if reads_engine_in_place(door.backend) else 1)  # a glance finds the one at zero
    assert verbs.count("delete") == 1


def test_aut_03_nothing_that_counts_tells_whom(tmp_path: Path) -> None:
    door = Door(open_backend("lmdb", tmp_path))
    door.guesses(3)
    page = drive(door.backend.scan("credentials.throttle", None, 100, door.auth.now()))
    assert len(page.records) == 2
    for record in page.records:
        whole = record.key + record.owner + record.value
        assert b"ada" not in whole
        assert b"example" not in whole
        assert b"192.0.2" not in whole
        assert record.expires_at == door.auth.now() + PERIOD * 1000
    other = Door(door.backend.inner, secret_key="z0YqUO3cTn5bWvD8kRrE2xJ7hGfLs4MpAi6Vd1Xt", users=door.users)
    other.guess()
    keys = {record.key for record in drive(door.backend.scan("credentials.throttle", None, 100, 0)).records}
    assert len(keys) == 4  # another secret names them otherwise
    drive(door.backend.close())


def test_aut_03_a_store_that_cannot_count_lets_nobody_try(door: Door) -> None:
    for verb in ("create", "get"):
        door.guess()
        before = door.users.queries
        door.backend.fail[verb] = StoreUnavailable("down")
        response = door.guess(password=RIGHT)
        assert (response.status, response.json()) == (503, {"error": "store_unavailable"})
        assert door.users.queries == before
        door.backend.fail.clear()


@pytest.mark.parametrize("verb", ["delete", "update"])
def test_aut_03_a_count_that_cannot_be_taken_back_keeps_nobody_out(door: Door, verb: str) -> None:
    door.backend.fail[verb] = StoreUnavailable("down")
    assert door.guess(password=RIGHT).json() is True
    assert drive(door.auth.store.count(door.auth.now())) == 1


def burst(backend: Backend, auths: list[SessionAuth[User, Me]], emails: list[str]) -> Counter[str]:
    """All at once, in threads; what each came to."""
    del backend
    gate = threading.Barrier(len(emails))

    def attempt(number: int) -> str:
        connection = FakeConnection()
        connection.ip = "192.0.2.1"
        gate.wait(60)
        try:
            params = {"email": emails[number], "password": WRONG}
            found = drive(RequestAuth(auths[number % len(auths)], connection).sign_in(params))
        except Throttled as error:
            return error.scope
        return "signed in" if found else "wrong"

    with ThreadPoolExecutor(len(emails)) as pool:
        return Counter(pool.map(attempt, range(len(emails))))


class Guarded(MemoryUsers):
    """Counts how often a password was looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.looked = 0
        self._lock = threading.Lock()

    async def authenticate(self, params: Any) -> Account[Me] | None:
        with self._lock:
            self.looked += 1
        return await super().authenticate(params)


@pytest.mark.parametrize("name", ["memory", "lmdb", "sqlite"])
def test_aut_03_100_guesses_at_once_are_10(name: str, tmp_path: Path) -> None:
    if name == "sqlite":
        engine = create_engine(f"sqlite:///{tmp_path / 'db'}", connect_args={"timeout": 60})
        create_tables(engine)
        backend: Backend = SQLBackend(engine)
    else:
        backend = open_backend(name, tmp_path)
    users = Guarded()
    users.add("ada@example.org")
    auths = [
        SessionAuth(secret_key="Wq9Zx7rT4yUj1aSdPkLmB6eHgQoIi83N2fC5cN0v", users=users, backend=backend) for _ in "ab"
    ]
    outcome = burst(backend, auths, ["ada@example.org", "ADA@example.org"] * 50)
    assert outcome["wrong"] == users.looked == 10
    assert outcome["account"] + outcome["source"] == 90
    drive(backend.close())
    if isinstance(backend, SQLBackend):
        sql_engine_of(backend).dispose()


@pytest.mark.parametrize("name", ["memory", "lmdb"])
def test_aut_03_guesses_at_once_over_many_accounts_are_the_sources_limit(name: str, tmp_path: Path) -> None:
    backend = open_backend(name, tmp_path)
    users = Guarded()
    throttle = Throttle(per_source=Limit(20, timedelta(seconds=PERIOD)))
    auth = SessionAuth(
        secret_key="Wq9Zx7rT4yUj1aSdPkLmB6eHgQoIi83N2fC5cN0v", users=users, backend=backend, throttle=throttle
    )
    outcome = burst(backend, [auth], [f"user{number}@example.org" for number in range(100)])
    assert outcome == {"wrong": 20, "source": 80}
    assert users.looked == 20
    drive(backend.close())


class Base(DeclarativeBase):
    pass


class Person(UserMixin, Base):
    __tablename__ = "accounts_of_throttle"


@pytest.mark.parametrize("kind", KINDS)
def test_aut_03_the_users_contexts_own_normalisation_counts(kind: Kind, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'users'}")
    Base.metadata.create_all(engine)
    hasher = PasswordHasher(time_cost=1, memory_cost=8, cheap_and_unsafe=True)
    users = SQLAlchemyUsers(engine, Person, hasher=hasher)
    drive(users.create({"email": "mia@bücher.example", "password": RIGHT}))
    auth: Any = SessionAuth(
        secret_key="Wq9Zx7rT4yUj1aSdPkLmB6eHgQoIi83N2fC5cN0v", users=users, backend=LMDBBackend(tmp_path / "s")
    )
    spellings = [
        "mia@bücher.example",
        "MIA@BÜCHER.example",
        " mia@xn--bcher-kva.example",
        "Mia@XN--BCHER-KVA.EXAMPLE\t",
    ]
    params: dict[str, object] = {}

    async def login(request: Request) -> object:
        return (await request.call("sign_in", params)) is not None

    browser = Browser(make_app(kind, auth, {"/login": login}), kind)
    statuses = []
    for turn in range(12):
        params.update(email=spellings[turn % 4], password=WRONG)
        statuses.append(browser.get("/login").status)
    assert statuses == [200] * 10 + [429] * 2
    assert users.login_key({"email": "mia@bücher.example"}) == "mia@xn--bcher-kva.example"
    for value in (None, 7, "", " ", "mia@\ud800.example", b"mia@example.org", ["mia@example.org"], "a" * 10**6):
        assert users.login_key({"email": value}) is None
    assert users.login_key({}) is None
    drive(users.close())
    engine.dispose()


def test_aut_03_ipv6_neighbours_are_one_source() -> None:
    door = Door(MemoryBackend(), throttle=Throttle(per_source=Limit(5, timedelta(seconds=PERIOD))))

    def attempts(*addresses: str | None) -> list[bool]:
        found = []
        for number, address in enumerate(addresses):
            connection = FakeConnection()
            connection.ip = address
            try:
                drive(RequestAuth(door.auth, connection).sign_in({"email": f"u{number}{address}", "password": WRONG}))
                found.append(True)
            except Throttled as error:
                found.append(error.scope != "source")
        return found

    assert attempts(*(f"2001:db8:0:1:{number:x}::1" for number in range(7))) == [True] * 5 + [False] * 2
    assert attempts("2001:db8:0:2::1", "fe80::1%eth0") == [True, True]
    assert attempts(*["192.0.2.9", "::ffff:192.0.2.9"] * 3) == [True] * 5 + [False]
    assert attempts(*["unix:peer"] * 6) == [True] * 5 + [False]
    assert attempts(*[None] * 8, *[""] * 8) == [True] * 16  # the server knows no source: accounts still count


def test_aut_03_an_attempt_that_was_not_looked_at_does_not_count(door: Door) -> None:
    async def unavailable(params: Any) -> Account[Me] | None:
        raise StoreUnavailable("the users' database is down")

    authenticate = door.users.authenticate
    door.users.authenticate = unavailable  # type: ignore[method-assign]
    assert door.guesses(120) == {503: 120}
    door.users.authenticate = authenticate  # type: ignore[method-assign]
    assert door.guesses(11) == {200: 10, 429: 1}


def test_aut_03_an_attempt_that_is_cut_off_counts() -> None:
    door = Door(MemoryBackend(), "asgi")
    entered = asyncio.Event()

    async def slow(params: Any) -> Account[Me] | None:
        entered.set()
        await asyncio.Event().wait()
        return None

    async def scenario() -> None:
        authenticate = door.users.authenticate
        door.users.authenticate = slow  # type: ignore[method-assign]
        for _ in range(10):
            entered.clear()
            attempt = asyncio.create_task(
                RequestAuth(door.auth, FakeConnection()).sign_in({"email": "ada@example.org", "password": WRONG})
            )
            await entered.wait()
            attempt.cancel()
            await asyncio.wait([attempt])
        door.users.authenticate = authenticate  # type: ignore[method-assign]
        with pytest.raises(Throttled):
            await RequestAuth(door.auth, FakeConnection()).sign_in({"email": "ada@example.org", "password": RIGHT})

    asyncio.run(scenario())


def test_aut_03_support_can_let_an_account_in_again(door: Door) -> None:
    assert door.guesses(11) == {200: 10, 429: 1}
    assert drive(door.auth.forget_failures(email="ADA@example.org")) is True
    assert drive(door.auth.forget_failures({"email": "ada@example.org"})) is False
    assert drive(door.auth.forget_failures({})) is False
    assert door.guess(password=RIGHT).json() is True


def test_aut_03_it_can_be_switched_off_in_whole_and_in_part(tmp_path: Path) -> None:
    backend = MemoryBackend()
    assert Door(backend, throttle=None).guesses(150) == {200: 150}
    assert Door(backend, throttle=Throttle(per_source=None)).guesses(150) == {200: 10, 429: 140}
    off = Door(MemoryBackend(), throttle=Throttle(per_account=None, per_source=None))
    assert off.guesses(150) == {200: 150}
    assert set(off.backend.calls) == {"epoch"}
    assert Door(MemoryBackend(), throttle=Throttle(per_account=None)).guesses(150) == {200: 100, 429: 50}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door_name", ["sign_in", "sign_in_user", "register", "update_user"])
def test_aut_06_each_door_asks_the_same(kind: Kind, door_name: str) -> None:
    def unconfirmed(step: Step[Me]) -> None:
        assert step.identity is not None
        if step.identity.name == "unconfirmed":
            raise Refused("confirm your address first")

    site = Site(MemoryBackend(), kind, hooks=Hooks(before_sign_in=unconfirmed))
    browser = site.signed_in()
    user = site.users.add("eve@example.org", name="unconfirmed")

    async def enter(request: Request) -> object:
        arguments: dict[str, object] = {
            "sign_in": {"email": user.email, "password": RIGHT},
            "sign_in_user": user,
            "register": {"email": "new@example.org", "password": RIGHT, "name": "unconfirmed"},
            "update_user": {"current_password": RIGHT, "password": "seven red herons", "name": "unconfirmed"},
        }
        return (await request.call(door_name, arguments[door_name])).email

    response = site.serve({"/enter": enter}, browser).get("/enter")
    assert response.status == 403
    assert response.json() == {"error": "refused", "reason": "confirm your address first"}
    assert site.event_names[-1] in ("refused", "signed_out")
    assert "refused" in site.event_names
    signed_in = {"user": None if door_name == "update_user" else "ada@example.org"}
    assert site.serve({}, browser).get().json() == signed_in


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("door_name", ["sign_in", "sign_in_user", "update_user", "renewal"])
def test_aut_06_no_door_lets_a_locked_user_in(kind: Kind, door_name: str) -> None:
    site = Site(MemoryBackend(), kind)
    browser = site.signed_in()
    drive(site.auth.update_account(site.user, {"locked": True}))

    async def enter(request: Request) -> object:
        if door_name == "renewal":
            return request.user
        arguments: dict[str, object] = {
            "sign_in": {"email": site.user.email, "password": RIGHT},
            "sign_in_user": site.user,
            "update_user": {"current_password": RIGHT, "name": "Eve"},
        }
        return await request.call(door_name, arguments[door_name])

    response = site.serve({"/enter": enter}, browser).get("/enter")
    assert (response.status, response.set_cookies) == ((401 if door_name == "update_user" else 200), [])
    if response.status == 200:
        assert response.json() is None
    assert drive(site.auth.store.count(Millis(site.auth.now()))) == 0
