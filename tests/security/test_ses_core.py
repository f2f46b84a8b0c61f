"""SES-01, SES-07, SES-10 and LIF-10: ids, namespaces kept apart, empty ids, and options that contradict each other."""

import base64
import datetime
import math
import random
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core_support import (
    NAMESPACE,
    NOW,
    Site,
    a_mac,
    a_session,
    a_subject,
    encode_id,
    hurried,
    subject_of,
)
from harness.fixtures import Start
from harness.support import SECRET, MemoryUsers, Request
from powauth import ConfigError, ConfigWarning, CredentialsCache, SessionAuth
from powauth.backends.base import Record, drive, make_key, make_owner, shard_of, split_key
from powauth.backends.memory import MemoryBackend
from powauth.sessions.ids import GENERATION_BYTES, SALT_BYTES, SHARD_BYTES, SID_BYTES, decode_sid, encode_sid
from powauth.sessions.record import new_session
from powauth.sessions.store import UnreadableRecord

OLD_TTL = datetime.timedelta(minutes=30)
ALMOST = OLD_TTL - datetime.timedelta(milliseconds=1)


# --- SES-01 -------------------------------------------------------------------------------------------------------


@pytest.mark.untraced
def test_ses_01_a_hundred_thousand_ids_are_distinct_and_not_of_pythons_generator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random.seed(0)
    for name in ("random", "getrandbits", "randbytes", "randint", "randrange", "choice", "choices", "uniform"):
        monkeypatch.setattr(random, name, lambda *_, **__: 0)
    mac, owner = a_mac(), make_owner(NAMESPACE, "42")
    count = 100_000
    sessions = [new_session(owner, a_subject(), NOW, {}) for _ in range(count)]
    assert len({session.sid for session in sessions}) == count
    assert len({session.salt for session in sessions}) == count
    assert len({encode_id(session, mac) for session in sessions}) == count

    # 128 random bits each: not one is fixed, as six of a UUID4 are. 6 sigma of a fair coin is 950 of 100,000.
    for parts in ([session.sid[SHARD_BYTES:] for session in sessions], [session.salt for session in sessions]):
        assert {len(part) for part in parts} == {16}
        for bit in range(128):
            ones = sum(part[bit // 8] >> bit % 8 & 1 for part in parts)
            assert abs(ones - count / 2) < 950


def test_ses_01_an_id_says_nothing_but_its_generation_and_shard(start: Start) -> None:
    site = start()
    raw = base64.urlsafe_b64decode(site.id_of(site.signed_in()))
    assert raw[:SHARD_BYTES] == shard_of(make_owner(NAMESPACE, site.user.id))
    assert raw[SID_BYTES + SALT_BYTES :][:GENERATION_BYTES] == bytes(GENERATION_BYTES)
    now = site.auth.now()
    times = [struct.pack(form, value) for form in (">I", "<I") for value in (now // 1000, now // 60_000)]
    times += [struct.pack(form, value) for form in (">Q", "<Q") for value in (now, now // 1000)]
    for told in (site.user.id.encode(), bytes.fromhex(site.user.id), b"ada", b"example", bytes([192, 0, 2, 1]), *times):
        assert told not in raw


# --- SES-07 -------------------------------------------------------------------------------------------------------


def two_apps(start: Start, one: str, two: str) -> tuple[Site, Site]:
    """Two apps with one backend, one key and one set of users, in two namespaces."""
    plain = start()
    first, second = (
        start(store=CredentialsCache(plain.backend, namespace=namespace), clock=plain.clock) for namespace in (one, two)
    )
    first.backend = second.backend = plain.backend
    return first, second


@pytest.mark.parametrize(("one", "two"), [("app", "app1"), ("app1", "app"), ("staging", "production"), ("a", "a.b")])
def test_ses_07_an_id_of_one_namespace_is_nobodys_in_another(start: Start, one: str, two: str) -> None:
    first, second = two_apps(start, one, two)
    browser = first.signed_in()
    value = first.id_of(browser)
    with second.backend.counting() as calls:
        assert second.user_of_id(value) is None
    assert calls == []
    assert first.user_of_id(value) == first.user.email


@pytest.mark.parametrize(("one", "two"), [("app", "app1"), ("app1", "app"), ("a", "a-b")])
def test_ses_07_no_namespace_reads_lists_or_deletes_anothers_records(start: Start, one: str, two: str) -> None:
    first, second = two_apps(start, one, two)
    now = first.auth.now()
    browser = first.signed_in()
    ours, theirs = first.auth.store, second.auth.store
    (stored,) = drive(ours.sessions(first.user.id, now))
    sid = stored.session.sid

    async def everyone() -> list[object]:
        return [key async for key in theirs.users(now)]

    assert drive(theirs.get(sid, now)) is None
    assert drive(theirs.sessions(first.user.id, now)) == []
    assert not drive(theirs.delete(sid, now))
    assert drive(theirs.update(stored, stored.session, stored.expires_at, now)) is None
    assert drive(theirs.delete_sessions(first.user.id, now)) == 0
    assert drive(second.auth.revoke_user(first.user)) == 0
    assert drive(second.auth.revoke_everyone()) == 0
    assert drive(everyone()) == []
    assert drive(theirs.count(now)) == 0
    assert drive(ours.sessions(first.user.id, now)) == [stored]
    assert first.user_of_id(first.id_of(browser)) == first.user.email


def test_ses_07_a_user_cannot_revoke_across_namespaces(start: Start) -> None:
    first, second = two_apps(start, "app", "app1")
    first.signed_in()
    (stored,) = drive(first.auth.store.sessions(first.user.id, first.auth.now()))
    revoked: list[object] = []

    async def revoke(request: Request) -> object:
        revoked.append(await request.call("revoke", encode_sid(stored.session.sid)))
        revoked.append(await request.call("revoke_others"))
        return None

    browser = second.signed_in()
    second.serve({"/revoke": revoke}, browser).get("/revoke")
    assert revoked == [False, 0]
    assert drive(first.auth.store.sessions(first.user.id, first.auth.now())) == [stored]


namespaces = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,8}", fullmatch=True)


@hurried
@given(namespaces, namespaces, st.binary(max_size=24), st.binary(max_size=24))
def test_ses_07_no_two_namespaces_share_a_key(one: str, two: str, first: bytes, second: bytes) -> None:
    assert (make_key(one, first) == make_key(two, second)) == ((one, first) == (two, second))
    assert split_key(make_key(one, first)) == (one, first)


@hurried
@given(namespaces, namespaces, st.text(max_size=12), st.text(max_size=12))
def test_ses_07_no_two_namespaces_share_an_owner(one: str, two: str, first: str, second: str) -> None:
    assert (make_owner(one, first) == make_owner(two, second)) == ((one, first) == (two, second))


# --- SES-10 -------------------------------------------------------------------------------------------------------

EMPTY = (
    "",
    '""',
    "''",
    "null",
    "None",
    "nil",
    "undefined",
    "0",
    "false",
    "NaN",
    " ",
    "%00",
    "\0",
    "[]",
    "{}",
    "-",
    "=",
)


def plant_under_empty_keys(site: Site) -> None:
    """Records that somebody has put where an empty id, or the word for nothing, would be looked up."""
    now = site.auth.now()
    for identifier in (b"", b"None", b"null", bytes(SID_BYTES), b"0"):
        subject = subject_of(site.user)
        session = a_session(site.user.id, now=now, sid=identifier, proof=subject.proof, identity=subject.identity)
        record = Record(
            make_key(NAMESPACE, identifier), make_owner(NAMESPACE, site.user.id), 0, now, now + 60_000,
            msgspec.msgpack.encode(session),
        )  # fmt: skip
        assert drive(site.backend.create(record, None, now))


@pytest.mark.parametrize("value", EMPTY)
def test_ses_10_an_empty_id_is_nobodys_and_never_looked_up(start: Start, value: str) -> None:
    site = start()
    plant_under_empty_keys(site)
    with site.backend.counting() as calls:
        assert site.user_of_id(value) is None
        assert site.user_of(f"{site.cookie_name}") is None
        assert site.user_of(value) is None
        assert site.user_of("") is None
        assert site.user_of(None) is None
    assert calls == []


@pytest.mark.parametrize("sid", [b"", b"None", b"null", b"0"])
def test_ses_10_a_record_under_an_empty_key_is_no_session(start: Start, sid: bytes) -> None:
    site = start()
    plant_under_empty_keys(site)
    with pytest.raises(UnreadableRecord):
        drive(site.auth.store.get(sid, site.auth.now()))


def test_ses_10_none_is_no_key(start: Start) -> None:
    site = start()
    store: Any = site.auth.store
    with site.backend.counting() as calls:
        for sid in (None, "", "None", 0):
            for verb in (store.get, store.delete):
                with pytest.raises(TypeError):
                    drive(verb(sid, site.auth.now()))
    assert calls == []
    assert [decode_sid(value) for value in (None, "", "None", 0, b"", False)] == [None] * 6


def test_ses_10_revoking_nothing_revokes_nothing(start: Start) -> None:
    site = start()
    plant_under_empty_keys(site)
    revoked: list[object] = []
    nothing: tuple[object, ...] = (*EMPTY, None, 0, b"", False, [])

    async def revoke(request: Request) -> object:
        revoked.extend([await request.call("revoke", value) for value in nothing])
        return None

    browser = site.signed_in()
    before = drive(site.backend.count(NAMESPACE, site.auth.now()))
    site.serve({"/revoke": revoke}, browser).get("/revoke")
    assert len(revoked) > len(EMPTY)
    assert not any(revoked)
    assert drive(site.backend.count(NAMESPACE, site.auth.now())) == before


# --- LIF-10 -------------------------------------------------------------------------------------------------------

NO_LENGTHS: tuple[Any, ...] = (
    "15",
    "PT15M",
    True,
    b"9",
    [],
    math.nan,
    math.inf,
    -math.inf,
    10**400,
    -1,
    datetime.timedelta(seconds=-1),
)


def an_auth(**options: Any) -> SessionAuth[Any, Any]:
    defaults: dict[str, Any] = {"secret_key": SECRET, "users": MemoryUsers(), "backend": MemoryBackend()}
    return SessionAuth(**defaults | options)


@pytest.mark.parametrize("ttl", [*NO_LENGTHS, 0, 0.0, None, datetime.timedelta(0)])
def test_lif_10_a_wrong_ttl_refuses_to_start(ttl: Any) -> None:
    with pytest.raises(ConfigError, match="ttl must be"):
        CredentialsCache("memory://", ttl=ttl)


@pytest.mark.parametrize("option", ["session_ttl_renewal", "max_lifetime", "grace"])
@pytest.mark.parametrize("value", NO_LENGTHS)
def test_lif_10_what_is_no_length_of_time_refuses_to_start(option: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"{option} must be"):
        an_auth(**{option: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"session_ttl_renewal": OLD_TTL}, "shorter than ttl"),
        ({"session_ttl_renewal": OLD_TTL + datetime.timedelta(seconds=1)}, "shorter than ttl"),
        ({"max_lifetime": OLD_TTL - datetime.timedelta(seconds=1)}, "at least as long as ttl"),
        ({"max_lifetime": datetime.timedelta(0)}, "max_lifetime must be more than zero"),
        ({"max_lifetime": None}, "max_lifetime must be"),
        ({"grace": OLD_TTL}, "grace must be shorter"),
        ({"grace": None}, "grace must be"),
        ({"on_reuse": "ignore"}, "on_reuse"),
        ({"on_reuse": None}, "on_reuse"),
        ({"max_sessions": 0}, "max_sessions"),
        ({"max_sessions": -1}, "max_sessions"),
        ({"max_sessions": True}, "max_sessions"),
        ({"max_sessions": 1.5}, "max_sessions"),
        ({"max_sessions": "5"}, "max_sessions"),
        ({"session_key": ""}, "session_key"),
        ({"session_key": None}, "session_key"),
        ({"current_user_key": ""}, "current_user_key"),
        ({"current_user_key": "current-user"}, "current_user_key"),
        ({"current_user_key": None}, "current_user_key"),
        ({"users": None}, "users must be"),
        ({"backend": None}, "either backend"),
        ({"backend": MemoryBackend(), "store": CredentialsCache("memory://")}, "either backend"),
        ({"backend": None, "store": MemoryBackend()}, "store must be a CredentialsCache"),
    ],
)
def test_lif_10_options_that_contradict_each_other_refuse_to_start(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        an_auth(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"session_ttl_renewal": ALMOST, "grace": ALMOST, "max_lifetime": OLD_TTL},
        {"session_ttl_renewal": datetime.timedelta(0), "grace": datetime.timedelta(0)},
        {"session_ttl_renewal": None, "max_lifetime": datetime.timedelta(days=30)},
    ],
)
def test_lif_10_the_bounds_themselves_are_taken(options: dict[str, Any]) -> None:
    an_auth(**options)


def test_lif_10_an_idle_time_over_thirty_minutes_warns() -> None:
    CredentialsCache("memory://", ttl=OLD_TTL)
    with pytest.warns(ConfigWarning, match="30 minutes"):
        CredentialsCache("memory://", ttl=OLD_TTL + datetime.timedelta(seconds=1))
