"""`CredentialsCache`: sessions as records and back, on both local backends."""

import asyncio
import math
import secrets
import warnings
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core_support import BACKENDS, NOW, POLICY, a_session, hurried, open_backend
from harness.support import SECRET, CountingBackend, MemoryUsers
from powauth import SessionAuth
from powauth.backends.base import EPOCH_LIFETIME, PerProcess, Record, drive, make_key, make_owner
from powauth.backends.memory import MemoryBackend
from powauth.errors import ConfigError, ConfigWarning, StoreUnavailable
from powauth.sessions.ids import MAX_GENERATION, SALT_BYTES, SID_BYTES
from powauth.sessions.record import GRACE_STEPS, MAX_TIME, Session, expires_at, renewed
from powauth.sessions.store import (
    REWRITE_ATTEMPTS,
    CredentialsCache,
    Stored,
    UnreadableRecord,
)

T = TypeVar("T")

ENDS = NOW + POLICY.ttl


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[CountingBackend]:
    opened = CountingBackend(open_backend(request.param, tmp_path))
    yield opened
    drive(opened.close())


@pytest.fixture
def cache(backend: CountingBackend) -> CredentialsCache:
    return CredentialsCache(backend)


def added(cache: CredentialsCache, session: Session | None = None) -> Stored:
    """A session that has been put into the cache."""
    session = session or a_session()
    epoch = drive(cache.epoch(session.user_key, NOW))
    assert drive(cache.create(session, epoch, ENDS, NOW))
    return Stored(session, 0, ENDS)


def all_of(iterator: AsyncIterator[T]) -> list[T]:
    async def collect() -> list[T]:
        return [item async for item in iterator]

    return drive(collect())


def plant(cache: CredentialsCache, value: bytes, *, sid: bytes | None = None, **changes: Any) -> bytes:
    """Put a value into the backend as somebody might who can write there; the sid that it lies under."""
    sid = a_session().sid if sid is None else sid
    record = Record(make_key(cache.namespace, sid), cache.owner("42"), 0, NOW, ENDS, value)
    assert drive(cache.backend.create(msgspec.structs.replace(record, **changes), None, NOW))
    return sid


# --- records ------------------------------------------------------------------------------------------------------


def test_a_session_comes_back_as_it_was(cache: CredentialsCache) -> None:
    session = a_session(metadata={"a": 1, "b": 1.5, "c": True, "d": None, "e": "ä"}, identity=secrets.token_bytes(300))
    session = renewed(renewed(session, NOW + 1, POLICY), NOW + 50_000, POLICY)
    stored = added(cache, session)
    assert drive(cache.get(session.sid, NOW)) == stored
    assert drive(cache.sessions("42", NOW)) == [stored]


def test_a_session_that_is_not_there_is_none(cache: CredentialsCache) -> None:
    assert drive(cache.get(a_session().sid, NOW)) is None
    assert drive(cache.sessions("42", NOW)) == []
    assert not drive(cache.delete(a_session().sid, NOW))
    assert drive(cache.delete_sessions("42", NOW)) == 0


def test_an_expired_session_is_not_there(cache: CredentialsCache) -> None:
    sid = added(cache).session.sid
    assert drive(cache.get(sid, ENDS - 1)) is not None
    assert drive(cache.get(sid, ENDS)) is None
    assert drive(cache.sessions("42", ENDS)) == []


def test_no_session_replaces_another(cache: CredentialsCache) -> None:
    stored = added(cache)
    assert not drive(cache.create(stored.session, drive(cache.epoch("42", NOW)), ENDS, NOW))


def test_a_change_must_find_what_was_read(cache: CredentialsCache) -> None:
    stored = added(cache)
    changed = renewed(stored.session, NOW + 1, POLICY)
    done = drive(cache.update(stored, changed, expires_at(changed, POLICY), NOW + 1))
    assert done == Stored(changed, 1, NOW + 1 + POLICY.ttl)
    assert drive(cache.get(changed.sid, NOW + 1)) == done
    assert drive(cache.update(stored, changed, ENDS, NOW + 1)) is None
    assert drive(cache.get(changed.sid, NOW + 1)) == done


def test_a_change_creates_nothing(cache: CredentialsCache) -> None:
    stored = added(cache)
    assert drive(cache.delete(stored.session.sid, NOW))
    assert drive(cache.update(stored, stored.session, ENDS, NOW)) is None
    assert drive(cache.get(stored.session.sid, NOW)) is None


def test_sessions_are_listed_newest_first_and_each_users_own(cache: CredentialsCache) -> None:
    made = [added(cache, a_session(now=NOW - age)) for age in (2, 0, 1)]
    added(cache, a_session("43"))
    assert drive(cache.sessions("42", NOW)) == [made[1], made[2], made[0]]
    assert drive(cache.sessions("4", NOW)) == []


def test_ending_a_users_sessions_keeps_the_one_named(cache: CredentialsCache) -> None:
    kept, *_ = [added(cache) for _ in range(3)]
    other = added(cache, a_session("43"))
    assert drive(cache.delete_sessions("42", NOW, keep=kept.session.sid)) == 2
    assert drive(cache.sessions("42", NOW)) == [kept]
    assert drive(cache.delete_sessions("42", NOW)) == 1
    assert drive(cache.sessions("43", NOW)) == [other]


@pytest.mark.parametrize("revoke", ["delete_sessions", "epoch"])
def test_a_sign_in_that_began_before_a_revocation_creates_nothing(cache: CredentialsCache, revoke: str) -> None:
    epoch = drive(cache.epoch("42", NOW))
    drive(cache.delete_sessions("42", NOW) if revoke == "delete_sessions" else cache.epoch("42", NOW, advance=True))
    assert not drive(cache.create(a_session(), epoch, ENDS, NOW))
    assert drive(cache.create(a_session("43"), drive(cache.epoch("43", NOW)), ENDS, NOW))


def test_users_with_a_colon_are_told_apart(cache: CredentialsCache) -> None:
    one, two = added(cache, a_session("a:b")), added(cache, a_session("b"))
    assert drive(cache.sessions("a:b", NOW)) == [one]
    assert drive(cache.sessions("b", NOW)) == [two]
    assert sorted(all_of(cache.users(NOW))) == ["a:b", "b"]


# --- values that hold no session ----------------------------------------------------------------------------------

FIELDS = (
    "tag", "sid", "salt", "generation", "user_key", "proofs", "created_at", "renewed_at", "authenticated_at", "settled",
    "recent", "remembered", "resumed_at", "metadata", "names", "identity",
)  # fmt: skip
TEMPLATE = a_session(sid=bytes(range(SID_BYTES)), salt=bytes(SALT_BYTES))


def encoded(session: Session, **changes: object) -> bytes:
    """The record of a session with parts exchanged for anything."""
    parts = msgspec.msgpack.decode(msgspec.msgpack.encode(session))
    for name, value in changes.items():
        parts[FIELDS.index(name)] = value
    return msgspec.msgpack.encode(parts)


def whole() -> list[Any]:
    parts: list[Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(TEMPLATE))
    return parts


UNREADABLE: dict[str, bytes] = {
    "empty": b"",
    "zeros": bytes(200),
    "json": b'[1, "a"]',
    "nil": b"\xc0",
    "an integer": b"\x05",
    "text": b"\xa3abc",
    "a map": msgspec.msgpack.encode(msgspec.structs.asdict(TEMPLATE)),
    "no fields": b"\x90",
    "the tag alone": b"\x91\x02",
    "one field less": msgspec.msgpack.encode(whole()[:-2]),  # besides the last one, which has a default
    "one field more": msgspec.msgpack.encode([*whole(), 0]),
    "another value after it": msgspec.msgpack.encode(TEMPLATE) + b"\xc0",
    "deep nesting": b"\x91" * 60_000 + b"\x01",
    "deep nesting after the fields": b"\xdc\x00\x11"
    + msgspec.msgpack.encode(TEMPLATE)[3:]
    + b"\x91" * 60_000
    + b"\x01",
    "a huge array": b"\xdd\xff\xff\xff\xff",
    "a huge text": b"\xdc\x00\x10\x02\xc6\xff\xff\xff\xff",
    "invalid UTF-8": encoded(TEMPLATE, user_key="ABCD").replace(b"\xa4ABCD", b"\xa4\xff\xfe\xfd\xfc"),
    "a surrogate": encoded(TEMPLATE, user_key="ABC").replace(b"\xa3ABC", b"\xa3\xed\xa0\x80"),
    **{
        f"{name} is {value!r:.40}": encoded(TEMPLATE, **{name: value})
        for name, value in (
            ("tag", 0),
            ("tag", 1),
            ("tag", 3),
            ("tag", "1"),
            ("tag", None),
            ("sid", None),
            ("sid", "x" * SID_BYTES),
            ("sid", TEMPLATE.sid[:-1]),
            ("sid", TEMPLATE.sid + b"x"),
            ("salt", b""),
            ("salt", bytes(SALT_BYTES - 1)),
            ("salt", bytes(SALT_BYTES + 1)),
            ("salt", None),
            ("generation", -1),
            ("generation", MAX_GENERATION + 1),
            ("generation", 2**64 - 1),
            ("generation", 0.5),
            ("generation", math.nan),
            ("generation", "0"),
            ("user_key", ""),
            ("user_key", None),
            ("user_key", 43),
            ("user_key", True),
            ("user_key", 4.2),
            ("user_key", ["42"]),
            ("user_key", b"42"),
            ("proofs", None),
            ("proofs", ["text"]),
            ("proofs", [b"1", b"2", b"3"]),
            ("remembered", None),
            ("remembered", 1),
            ("resumed_at", -1),
            ("resumed_at", MAX_TIME + 1),
            ("names", None),
            ("identity", {}),
            ("created_at", -1),
            ("created_at", MAX_TIME + 1),
            ("renewed_at", 2**63),
            ("renewed_at", math.inf),
            ("authenticated_at", None),
            ("authenticated_at", True),
            ("settled", -1),
            ("recent", None),
            ("recent", [[1]]),
            ("recent", [[1, 2, 3]]),
            ("recent", [[-1, 0]]),
            ("recent", [[0, 0]] * (GRACE_STEPS + 3)),
            ("metadata", []),
            ("metadata", {"a": []}),
            ("metadata", {"a": {"b": "c"}}),
        )
    },
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_a_value_that_is_no_session_counts_as_absent(cache: CredentialsCache, kind: str) -> None:
    sid = plant(cache, UNREADABLE[kind], sid=TEMPLATE.sid)
    readable = added(cache)
    with pytest.raises(UnreadableRecord):
        drive(cache.get(sid, NOW))
    assert drive(cache.sessions("42", NOW)) == [readable]
    assert all_of(cache.scan(NOW)) == [readable]
    record = drive(cache.backend.get(make_key(cache.namespace, sid), NOW))
    assert record is not None
    assert record.value == UNREADABLE[kind]


def test_the_template_itself_can_be_read(cache: CredentialsCache) -> None:
    plant(cache, encoded(TEMPLATE), sid=TEMPLATE.sid)
    assert drive(cache.get(TEMPLATE.sid, NOW)) == Stored(TEMPLATE, 0, ENDS)


memory_cache = CredentialsCache(MemoryBackend())


@hurried
@given(st.one_of(st.binary(max_size=300), st.integers(0, 90).map(lambda cut: msgspec.msgpack.encode(TEMPLATE)[:cut])))
def test_no_bytes_make_a_session_or_fail_otherwise(value: bytes) -> None:
    sid = secrets.token_bytes(SID_BYTES)
    plant(memory_cache, value, sid=sid)
    with pytest.raises(UnreadableRecord):
        drive(memory_cache.get(sid, NOW))


def test_a_session_moved_under_another_key_is_none(cache: CredentialsCache) -> None:
    sid = plant(cache, encoded(TEMPLATE))
    assert sid != TEMPLATE.sid
    with pytest.raises(UnreadableRecord):
        drive(cache.get(sid, NOW))
    assert drive(cache.sessions("42", NOW)) == []


@pytest.mark.parametrize("owner", [b"credentials:43", b"credentials:1:42", b"credentials:", b"42", b"credentials:\xff"])
def test_a_session_that_its_users_revocation_cannot_reach_is_none(cache: CredentialsCache, owner: bytes) -> None:
    plant(cache, encoded(TEMPLATE), sid=TEMPLATE.sid, owner=owner)
    with pytest.raises(UnreadableRecord):
        drive(cache.get(TEMPLATE.sid, NOW))


def test_a_session_that_ends_beyond_all_times_is_none(cache: CredentialsCache) -> None:
    plant(cache, encoded(TEMPLATE), sid=TEMPLATE.sid, expires_at=MAX_TIME + 1)
    with pytest.raises(UnreadableRecord):
        drive(cache.get(TEMPLATE.sid, NOW))


# --- rewriting ---------------------------------------------------------------------------------------------------


class Loader:
    """Gives a user's identity, and notes among the backend's calls when it was asked."""

    def __init__(self, backend: CountingBackend, identity: bytes | None = b"new") -> None:
        self.backend = backend
        self.identity = identity

    async def __call__(self) -> bytes | None:
        self.backend.calls.append("load")
        return self.identity


def change(session: Session, identity: bytes) -> Session:
    return msgspec.structs.replace(session, identity=identity)


def contend(cache: CredentialsCache, backend: CountingBackend, times: int) -> None:
    """Before each of the next updates another writer is faster, and renews the session."""

    async def before(verb: str) -> None:
        nonlocal times
        if verb == "update" and times > 0:
            times -= 1
            inner = CredentialsCache(backend.inner)
            for stored in await inner.sessions("42", NOW):
                changed = renewed(stored.session, NOW, POLICY)
                assert await inner.update(stored, changed, stored.expires_at, NOW) is not None

    backend.before = before


def test_a_rewrite_reaches_all_sessions_of_the_user_and_no_others(
    cache: CredentialsCache, backend: CountingBackend
) -> None:
    made = [added(cache) for _ in range(3)]
    other = added(cache, a_session("43"))
    assert drive(cache.rewrite("42", Loader(backend), change, NOW)) == 3
    for stored in made:
        found = drive(cache.get(stored.session.sid, NOW))
        assert found == Stored(msgspec.structs.replace(stored.session, identity=b"new"), 1, ENDS)
    assert drive(cache.get(other.session.sid, NOW)) == other


def test_a_rewrite_moves_the_epoch_and_reads_the_sessions_before_it_reads_the_user(
    cache: CredentialsCache, backend: CountingBackend
) -> None:
    added(cache)
    begun = drive(cache.epoch("42", NOW))
    with backend.counting() as calls:
        drive(cache.rewrite("42", Loader(backend), change, NOW))
    assert calls == ["epoch", "list", "load", "update"]
    assert not drive(cache.create(a_session(), begun, ENDS, NOW))


def test_a_rewrite_of_nothing_reads_no_user(cache: CredentialsCache, backend: CountingBackend) -> None:
    with backend.counting() as calls:
        assert drive(cache.rewrite("42", Loader(backend), change, NOW)) == 0
    assert calls == ["epoch", "list"]


def test_a_rewrite_that_changes_nothing_writes_nothing(cache: CredentialsCache, backend: CountingBackend) -> None:
    added(cache, a_session(identity=b"same"))
    with backend.counting() as calls:
        assert drive(cache.rewrite("42", Loader(backend, b"same"), change, NOW)) == 1
    assert calls == ["epoch", "list", "load"]


def test_a_user_who_is_gone_is_rewritten_nowhere(cache: CredentialsCache, backend: CountingBackend) -> None:
    stored = added(cache)
    assert drive(cache.rewrite("42", Loader(backend, None), change, NOW)) == 1
    assert drive(cache.get(stored.session.sid, NOW)) == stored


@pytest.mark.parametrize("times", [1, 3, REWRITE_ATTEMPTS - 1])
def test_a_rewrite_that_loses_reads_session_and_user_again(
    cache: CredentialsCache, backend: CountingBackend, times: int
) -> None:
    sid = added(cache).session.sid
    contend(cache, backend, times)
    with backend.counting() as calls:
        assert drive(cache.rewrite("42", Loader(backend), change, NOW)) == 1
    assert calls == ["epoch", "list", "load", "update", *["get", "load", "update"] * times]
    found = drive(cache.get(sid, NOW))
    assert found is not None
    assert (found.session.identity, found.session.generation) == (b"new", times)


def test_a_rewrite_that_always_loses_gives_up(cache: CredentialsCache, backend: CountingBackend) -> None:
    added(cache)
    contend(cache, backend, 10_000)
    with pytest.raises(StoreUnavailable, match="too fast"):
        drive(cache.rewrite("42", Loader(backend), change, NOW))
    assert backend.calls.count("update") == REWRITE_ATTEMPTS


@pytest.mark.parametrize("unreadable", [False, True])
def test_a_session_that_ends_during_a_rewrite_is_left_alone(
    cache: CredentialsCache, backend: CountingBackend, unreadable: bool
) -> None:
    sid = added(cache).session.sid

    async def before(verb: str) -> None:
        if verb == "update":
            await backend.inner.delete(make_key(cache.namespace, sid), NOW)
            if unreadable:
                record = Record(make_key(cache.namespace, sid), cache.owner("42"), 9, NOW, ENDS, b"garbage")
                await backend.inner.create(record, None, NOW)

    backend.before = before
    assert drive(cache.rewrite("42", Loader(backend), change, NOW)) == 1
    assert drive(cache.sessions("42", NOW)) == []


def test_a_failure_during_a_rewrite_is_told(cache: CredentialsCache, backend: CountingBackend) -> None:
    added(cache)
    backend.fail["update"] = StoreUnavailable("down")
    with pytest.raises(StoreUnavailable, match="down"):
        drive(cache.rewrite("42", Loader(backend), change, NOW))


# --- for administrators -------------------------------------------------------------------------------------------


def test_users_are_told_once_each_over_several_pages(cache: CredentialsCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("powauth.sessions.store.SCAN_STEP", 2)
    for number in range(9):
        added(cache, a_session(str(number % 4)))
    other = CredentialsCache(cache.backend, namespace="credentials2")
    session = a_session("elsewhere")
    drive(other.create(session, 0, ENDS, NOW))
    assert sorted(all_of(cache.users(NOW))) == ["0", "1", "2", "3"]
    assert all_of(other.users(NOW)) == ["elsewhere"]
    assert len(all_of(cache.scan(NOW))) == drive(cache.count(NOW)) == 9
    assert all_of(cache.users(ENDS)) == []


def test_an_owner_that_is_no_text_hides_no_other(cache: CredentialsCache) -> None:
    plant(cache, b"garbage", owner=b"credentials:\xff\xfe")
    added(cache)
    assert all_of(cache.users(NOW)) == ["42"]


def test_purging_removes_what_has_expired_in_bounded_steps(cache: CredentialsCache) -> None:
    sids = [added(cache).session.sid for _ in range(5)]
    late = added(cache, a_session("43"))
    assert drive(cache.update(late, late.session, ENDS + 1, NOW)) is not None
    assert drive(cache.purge(100, ENDS - 1)) == 0
    assert drive(cache.purge(2, ENDS)) == 2
    assert drive(cache.purge(100, ENDS)) == 3
    assert all(drive(cache.get(sid, NOW)) is None for sid in sids)
    assert drive(cache.get(late.session.sid, NOW)) is not None


def test_purging_forgets_epochs_when_no_sign_in_can_remember_them(cache: CredentialsCache) -> None:
    drive(cache.epoch("42", NOW, advance=True))
    drive(cache.purge(100, NOW + EPOCH_LIFETIME - 1))
    assert drive(cache.epoch("42", NOW)) != 0


def test_rep_17_a_backend_that_the_app_gave_stays_open(cache: CredentialsCache) -> None:
    stored = added(cache)
    drive(cache.close())
    assert drive(cache.get(stored.session.sid, NOW)) == stored


def test_rep_17_a_backend_by_url_is_closed_and_opened_again_when_it_is_used(tmp_path: Path) -> None:
    cache = CredentialsCache(f"lmdb://{tmp_path / 'db'}")
    stored = added(cache)
    for _ in range(2):
        drive(cache.close())
        assert drive(cache.get(stored.session.sid, NOW)) == stored
    memory = CredentialsCache("memory://")
    added(memory)
    drive(memory.close())
    assert drive(memory.count(NOW)) == 0
    added(memory)
    assert drive(memory.count(NOW)) == 1


# --- options ------------------------------------------------------------------------------------------------------


def test_the_defaults() -> None:
    cache = CredentialsCache("memory://")
    assert isinstance(cache.backend, PerProcess)
    assert (cache.ttl, cache.namespace, cache.reload) == (timedelta(minutes=30), "credentials", False)
    assert cache.owner("42") == make_owner("credentials", "42")


def test_reload_is_a_flag() -> None:
    yes: Any = "no"
    with pytest.raises(ConfigError, match="reload must be True or False, not 'no'"):
        CredentialsCache(MemoryBackend(), reload=yes)


@pytest.mark.parametrize("backend", [None, 5, MemoryBackend, object(), Path("db"), b"memory://"])
def test_something_else_than_a_backend_is_refused(backend: Any) -> None:
    with pytest.raises(ConfigError, match="backend must be a Backend or a URL"):
        CredentialsCache(backend)


@pytest.mark.parametrize(
    "namespace", ["", ":", "a:b", "a b", "-a", ".a", "ä", "a\n", "a" * 64, None, 5, b"a", "a/b", "a*"]
)
def test_a_wrong_namespace_is_refused(namespace: Any) -> None:
    with pytest.raises(ConfigError, match="namespace"):
        CredentialsCache("memory://", namespace=namespace)


@pytest.mark.parametrize("namespace", ["a", "0", "Staging.users_2-b", "a" * 63])
def test_a_namespace_may_be(namespace: str) -> None:
    assert CredentialsCache("memory://", namespace=namespace).namespace == namespace


def test_a_ttl_over_thirty_minutes_warns_where_it_was_given() -> None:
    with pytest.warns(ConfigWarning, match="30 minutes") as caught:
        CredentialsCache("memory://", ttl=timedelta(minutes=30, milliseconds=1))
    assert Path(caught[0].filename) == Path(__file__)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CredentialsCache("memory://", ttl=timedelta(minutes=30))


class Blocking(MemoryBackend):
    """A backend that blocks, so powauth wraps it for event loops."""

    mode = "blocking"


@pytest.mark.parametrize("kind", [MemoryBackend, Blocking])
def test_the_backend_that_the_app_gave_is_at_hand_also_where_it_is_wrapped(kind: type[MemoryBackend]) -> None:
    given_backend = kind()
    assert CredentialsCache(given_backend).given_backend is given_backend
    auth: SessionAuth[Any, Any] = SessionAuth(secret_key=SECRET, users=MemoryUsers(), backend=given_backend)
    assert auth.store.given_backend is given_backend


def test_of_a_url_the_backend_is_the_one_that_powauth_opened() -> None:
    cache = CredentialsCache("memory://")
    assert cache.given_backend is cache.backend


def test_a_cache_within_a_namespace_is_otherwise_the_same(cache: CredentialsCache) -> None:
    stored = added(cache)
    within = cache.within("admin")
    assert within.backend is cache.backend
    assert within.given_backend is cache.given_backend
    assert (within.ttl, within.namespace, within.reload) == (cache.ttl, f"{cache.namespace}.admin", cache.reload)
    assert drive(within.get(stored.session.sid, NOW)) is None
    with pytest.raises(ConfigError, match="shorten it"):
        cache.within("x" * 63)


def test_the_cache_works_on_an_event_loop_too(cache: CredentialsCache) -> None:
    stored = added(cache)

    async def read() -> Stored | None:
        return await cache.get(stored.session.sid, NOW)

    assert asyncio.run(read()) == stored
