"""One-time tokens, through an extension that has some."""

import base64
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest

from harness.all_backends import ASYNC, LOCAL, SYNC, Stores, stores
from harness.support import OTHER_SECRET, SECRET, Clock, CountingBackend, FakeConnection, Me, MemoryUsers, User
from harness.token_scenarios import Links, Tokens, issued
from powauth import Account, ConfigError, Event, Parts, RequestAuth, SessionAuth, StoreUnavailable
from powauth.backends.base import Backend, Record, drive, make_key, make_owner
from powauth.backends.memory import MemoryBackend
from powauth.extensions import Claim, OneTimeTokens
from powauth.sessions.keyring import Keyring

__all__ = ["stores"]

ADDRESS = "ada@example.org"
NAMESPACE = "credentials.links"


class World:
    """An app with one user and one-time tokens, over a backend that counts."""

    def __init__(self, backend: Backend | None = None, **options: Any) -> None:
        self.backend = CountingBackend(backend or MemoryBackend())
        self.clock, self.users = Clock(), MemoryUsers()
        self.user: User = self.users.add(ADDRESS)
        self.auth = self.make(**options)
        self.tokens: Tokens = self.auth.extension(Links).tokens

    def make(self, **options: Any) -> SessionAuth[User, Me]:
        given: dict[str, Any] = {"secret_key": SECRET, "extensions": [Links()]}
        return SessionAuth(users=self.users, backend=self.backend, clock=self.clock, **{**given, **options})

    def issue(self) -> str:
        return issued(self.tokens, self.user)

    def find(self, token: object) -> Claim[Me] | None:
        return drive(self.tokens.find(token))

    def take(self, token: object) -> Claim[Me] | None:
        return drive(self.tokens.take(token))

    def records(self) -> list[Record]:
        page = drive(self.backend.inner.scan(NAMESPACE, None, 100, self.auth.now()))
        return page.records


@pytest.fixture
def world() -> World:
    return World()


# --- the life of a token ----------------------------------------------------------------------------------------------


def test_a_token_is_taken_once(world: World) -> None:
    token = world.issue()
    world.clock.advance(60)
    assert all(world.find(token) is not None for _ in range(3))
    found = world.find(token)
    assert found is not None
    assert (found.account.identity.email, found.address) == (ADDRESS, ADDRESS)
    assert found.issued_at == datetime.fromtimestamp(world.clock.now - 60, UTC)
    taken = world.take(token)
    assert taken is not None
    assert (taken.account, taken.address, taken.issued_at) == (found.account, found.address, found.issued_at)
    assert world.take(token) is None
    assert world.find(token) is None
    assert world.records() == []


def test_log_01_a_token_is_an_event_when_it_is_issued_used_and_refused() -> None:
    events: list[Event] = []
    world = World(on_event=events.append)
    token = world.issue()
    assert world.find(token) is not None
    assert world.take(token) is not None
    assert world.take(token) is None
    assert world.find("made up\r\n\x1b[2J") is None
    another = world.issue()
    world.take(another[:-1] + ("A" if another[-1] != "A" else "B"))
    later = world.issue()
    drive(world.users.update(world.user.id, {"password": "staple battery"}, trusted=True))
    assert world.find(later) is None
    key = world.user.id
    assert [(event.name, event.user_key) for event in events] == [
        ("token_issued", key),
        ("token_used", key),
        ("token_refused", None),
        ("token_refused", None),
        ("token_issued", key),
        ("token_refused", None),
        ("token_issued", key),
        ("token_refused", key),
    ]
    assert {event.detail for event in events} == {"links"}
    assert not any(token in repr(event) for event in events)


def test_a_token_ends_with_its_time(world: World) -> None:
    token = world.issue()
    world.clock.advance(3599)
    assert world.find(token) is not None
    world.clock.advance(1)
    assert world.find(token) is None
    assert world.take(token) is None


def test_the_time_of_a_token_is_an_option(world: World) -> None:
    tokens = OneTimeTokens(parts_of(world), "later", ttl=timedelta(days=7))
    token = issued(tokens, world.user)
    world.clock.advance(7 * 86_400 - 1)
    assert drive(tokens.find(token)) is not None
    world.clock.advance(1)
    assert drive(tokens.take(token)) is None


def test_a_token_has_256_random_bits_and_a_mac_and_the_store_holds_no_token(world: World) -> None:
    tokens = [world.issue() for _ in range(50)]
    assert len(set(tokens)) == 50
    raw = base64.urlsafe_b64decode(tokens[-1])
    assert (len(tokens[-1]), len(raw)) == (72, 54)
    name, secret, mac = raw[:18], raw[18:34], raw[38:]
    (record,) = world.records()
    assert record.key == make_key(NAMESPACE, name)
    stored = record.key + record.owner + record.value
    assert secret not in stored
    assert mac not in stored
    assert ADDRESS.encode() in stored


def test_a_newer_token_ends_the_older_one(world: World) -> None:
    first, second = world.issue(), world.issue()
    assert world.find(first) is None
    assert world.take(first) is None
    assert world.take(second) is not None


def test_tokens_of_two_users_do_not_touch(world: World) -> None:
    other = world.users.add("bob@example.org")
    mine, theirs = world.issue(), issued(world.tokens, other)
    assert drive(world.tokens.end(other.id)) == 1
    assert world.take(theirs) is None
    assert world.take(mine) is not None


@pytest.mark.parametrize("change", [{"password": "staple battery"}, {"email": "ada@example.com"}, {"locked": True}])
@pytest.mark.parametrize("told", [True, False])
def test_trm_03_a_change_of_the_user_voids_the_token_wherever_it_is_made(
    world: World, change: dict[str, Any], told: bool
) -> None:
    token = world.issue()
    if told:
        drive(world.auth.update_account(world.user, change))
        assert world.records() == []
    else:
        drive(world.users.update(world.user.id, change, trusted=True))
        assert len(world.records()) == 1
    assert world.find(token) is None
    assert world.take(token) is None
    assert world.records() == []


def test_trm_02_an_end_of_the_account_ends_the_token(world: World) -> None:
    token = world.issue()
    drive(world.auth.revoke_user(world.user))
    assert world.take(token) is None
    token = world.issue()
    drive(world.auth.delete_account(world.user))
    assert world.records() == []
    world.users.rows[world.user.id] = world.user  # as if the deletion had not told anybody
    assert world.take(token) is None


def test_a_token_of_a_user_who_is_gone_is_void(world: World) -> None:
    token = world.issue()
    del world.users.rows[world.user.id]
    assert world.find(token) is None
    assert world.take(token) is None


def test_a_change_that_keeps_the_credentials_keeps_the_token(world: World) -> None:
    token = world.issue()
    drive(world.auth.update_account(world.user, {"name": "Ada L."}))
    assert world.take(token) is not None


def test_nobody_gets_a_token_for_a_user_who_is_gone_or_locked(world: World) -> None:
    token = world.issue()
    assert drive(world.tokens.issue("nobody", ADDRESS)) is None
    drive(world.users.update(world.user.id, {"locked": True}, trusted=True))
    assert drive(world.tokens.issue(world.user.id, ADDRESS)) is None
    assert world.take(token) is None
    assert world.records() == []


@pytest.mark.parametrize("step", ["create", "list"])
def test_a_token_that_is_overtaken_by_an_end_is_not_issued(world: World, step: str) -> None:
    async def end(verb: str) -> None:
        if verb == step:
            world.backend.before = None
            await world.auth.revoke_user(world.user)

    world.backend.before = end
    assert drive(world.tokens.issue(world.user.id, ADDRESS)) is None
    assert world.records() == []


@pytest.mark.parametrize("key", [7, "seven", uuid4()])
def test_a_users_key_may_be_of_any_kind(key: int | str | UUID) -> None:
    class Users(MemoryUsers):
        async def get(self, wanted: Any) -> Account[Me] | None:
            found = Account(key=key, identity=Me(id="x", email=ADDRESS), proof=b"proof")
            return found if (type(wanted), wanted) == (type(key), key) else None

    world = World()
    world.users = Users()
    tokens = world.make().extension(Links).tokens
    token = drive(tokens.issue(key, ADDRESS))
    taken = drive(tokens.take(token))
    assert taken is not None
    assert taken.account.key == key


# --- what is no token -------------------------------------------------------------------------------------------------


def variants(token: str) -> dict[str, object]:
    at = len(token) // 2
    changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
    return {
        "nothing": None,
        "empty": "",
        "a number": 7,
        "bytes": token.encode(),
        "a list": [token],
        "shorter": token[:-1],
        "longer": token + "A",
        "huge": token * 100_000,
        "padded": token + "==",
        "a space": " " + token[1:],
        "one character changed": changed,
        "the standard alphabet": token[:-1] + "+",
        "a lone surrogate": token[:-1] + "\ud800",
        "zeros": "A" * len(token),
    }


@pytest.mark.parametrize("kind", variants("A" * 72))
def test_what_is_no_token_is_refused_without_io(world: World, kind: str) -> None:
    value = variants(world.issue())[kind]
    queries = world.users.queries
    with world.backend.counting() as verbs:
        assert world.find(value) is None
        assert world.take(value) is None
    assert verbs == []
    assert world.users.queries == queries
    assert len(world.records()) == 1


def parts_of(world: World) -> Parts[Me]:
    """The parts that the world's authenticator gives an extension."""
    found: list[Parts[Me]] = []

    class Keeping(Links):
        def bind(self, parts: Parts[Me]) -> "Keeping":
            found.append(parts)
            return self

    world.make(extensions=[Keeping()])
    return found[0]


def test_a_token_is_good_for_one_purpose_and_one_app(world: World) -> None:
    token = world.issue()
    confirm = OneTimeTokens(parts_of(world), "confirm")
    assert drive(confirm.take(token)) is None
    foreign = [world.make(secret_key=OTHER_SECRET), world.make(session_key="admin")]
    for auth in foreign:
        assert drive(auth.extension(Links).tokens.take(token)) is None
    connection = FakeConnection([f"{world.auth.carrier.name}={token}"])
    drive(world.auth.call(connection))
    assert RequestAuth(world.auth, connection).identity is None
    assert world.take(token) is not None


def test_a_token_of_another_purpose_is_refused_even_if_somebody_copies_records(world: World) -> None:
    confirm = OneTimeTokens(parts_of(world), "links.confirm")
    ours, theirs = world.issue(), issued(confirm, world.user)
    (record,) = world.records()
    page = drive(world.backend.inner.scan("credentials.links.confirm", None, 10, world.auth.now()))
    swapped = msgspec.structs.replace(record, value=page.records[0].value, version=1)
    assert drive(world.backend.update(swapped, 0, world.auth.now()))
    assert world.take(ours) is None
    assert drive(confirm.take(theirs)) is not None


@pytest.mark.parametrize(
    "value", [b"", b"junk", msgspec.msgpack.encode(["links"]), msgspec.msgpack.encode(["links", b"", [], "", b""])]
)
def test_a_record_that_cannot_be_read_is_no_token(world: World, value: bytes) -> None:
    token = world.issue()
    (record,) = world.records()
    drive(world.backend.update(msgspec.structs.replace(record, value=value, version=1), 0, world.auth.now()))
    assert world.find(token) is None
    assert world.take(token) is None


def test_a_record_with_another_secret_is_no_token(world: World) -> None:
    """The name of a record is no secret: an operator sees it. Whoever restores a record restores no token."""
    token = world.issue()
    (record,) = world.records()
    content = msgspec.msgpack.decode(record.value)
    content[1] = bytes(16)
    value = msgspec.msgpack.encode(content)
    drive(world.backend.update(msgspec.structs.replace(record, value=value, version=1), 0, world.auth.now()))
    assert world.take(token) is None
    assert len(world.records()) == 1


def test_a_rotated_secret_keeps_tokens(world: World) -> None:
    token = world.issue()
    rotated = world.make(secret_key=[OTHER_SECRET, SECRET]).extension(Links).tokens
    assert drive(rotated.take(token)) is not None
    token = issued(rotated, world.user)
    assert world.take(token) is None


def test_nothing_shows_a_token_or_a_proof(world: World) -> None:
    claim = world.take(world.issue())
    assert claim is not None
    assert "proof" not in repr(claim)
    assert ADDRESS not in repr(claim)


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["delete_owner", "epoch", "create", "list", "delete"])
def test_an_issue_whose_store_fails_raises(world: World, verb: str) -> None:
    if verb == "delete":  # a second token, as from a parallel call, is to be removed

        async def rival(called: str) -> None:
            if called == "create":
                world.backend.before = None
                world.backend.fail = {}
                owner, now = make_owner(NAMESPACE, world.user.id), world.auth.now()
                record = Record(make_key(NAMESPACE, b"\0\0rival"), owner, 0, now, now + 1000, b"")
                assert await world.backend.inner.create(record, None, now)
                world.backend.fail = {"delete": StoreUnavailable("down")}

        world.backend.before = rival
    else:
        world.backend.fail = {verb: StoreUnavailable("down")}
    with pytest.raises(StoreUnavailable):
        drive(world.tokens.issue(world.user.id, ADDRESS))


@pytest.mark.parametrize("verb", ["get", "delete"])
def test_a_take_whose_store_fails_raises(world: World, verb: str) -> None:
    token = world.issue()
    world.backend.fail = {verb: StoreUnavailable("down")}
    with pytest.raises(StoreUnavailable):
        world.take(token)
    world.backend.fail = {}
    assert world.take(token) is not None


def test_an_error_after_the_take_costs_the_token(world: World) -> None:
    token = world.issue()

    class Down(MemoryUsers):
        async def get(self, key: object) -> Account[Me] | None:
            raise StoreUnavailable("the users are down")

    users, world.users = world.users, Down()
    tokens = world.make().extension(Links).tokens
    with pytest.raises(StoreUnavailable):
        drive(tokens.take(token))
    world.users = users
    assert world.take(token) is None


@pytest.mark.parametrize("purpose", ["", "two words", "x" * 64, "a:b", None, 7])
def test_a_purpose_is_a_short_name(world: World, purpose: Any) -> None:
    with pytest.raises(ConfigError, match="the purpose of one-time tokens must be 1 to 63 characters"):
        OneTimeTokens(parts_of(world), purpose)


def test_a_namespace_must_leave_room_for_the_purpose(world: World) -> None:
    with pytest.raises(ConfigError, match="the namespace and the purpose of one-time tokens must be 1 to 63"):
        OneTimeTokens(parts_of(world), "x" * 60)


def test_the_purpose_of_the_counters_is_refused(world: World) -> None:
    with pytest.raises(ConfigError, match="must not have the purpose 'throttle'"):
        OneTimeTokens(parts_of(world), "throttle")


@pytest.mark.parametrize("ttl", [timedelta(0), timedelta(milliseconds=10), 3600, None])
def test_a_ttl_is_a_time(world: World, ttl: Any) -> None:
    with pytest.raises(ConfigError, match="the ttl of one-time tokens must be"):
        OneTimeTokens(parts_of(world), "later", ttl=ttl)


def test_parts_are_those_of_an_authenticator() -> None:
    with pytest.raises(ConfigError, match="must be the Parts that bind was given, not Keyring"):
        OneTimeTokens(Keyring(SECRET), "reset")  # type: ignore[arg-type]


# --- every engine -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", [*LOCAL, *SYNC, *ASYNC])
def test_of_20_parallel_takes_one_wins_on_every_engine(engine: str, tmp_path: Path, stores: Stores) -> None:
    with stores.store(engine, tmp_path) as backend, ThreadPoolExecutor(20) as pool:
        world = World(backend)
        for _ in range(5):
            old, token = world.issue(), world.issue()

            def work(candidate: str) -> Callable[[], Claim[Me] | None]:
                return lambda: drive(world.tokens.take(candidate))

            jobs = [pool.submit(work(token)) for _ in range(20)] + [pool.submit(work(old)) for _ in range(5)]
            results = [job.result() for job in jobs]
            assert sum(each is not None for each in results[:20]) == 1
            assert results[20:] == [None] * 5
            assert world.find(token) is None


@pytest.mark.parametrize("engine", [*LOCAL, *SYNC, *ASYNC])
def test_of_parallel_issues_one_token_lives_on_every_engine(engine: str, tmp_path: Path, stores: Stores) -> None:
    with stores.store(engine, tmp_path) as backend, ThreadPoolExecutor(8) as pool:
        world = World(backend)
        first = world.issue()
        jobs = [pool.submit(lambda: drive(world.tokens.issue(world.user.id, ADDRESS))) for _ in range(8)]
        found = [job.result() for job in jobs]
        live = [each for each in found if each is not None and world.find(each) is not None]
        assert len(live) == 1
        assert world.find(first) is None
        assert world.take(live[0]) is not None
