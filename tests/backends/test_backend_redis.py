"""`RedisBackend` against real servers: one, Sentinel, Cluster; redis-py synchronous and asyncio."""

import asyncio
import importlib.util
import random
import secrets
import sys
import threading
import time
import warnings
from collections.abc import Callable, Coroutine, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.sentinel
import redis.cluster
import redis.sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from harness.internals import client_of, commands_of, opened_client_of, owner_place, record_place, retries_of
from harness.redis_servers import (
    EXECUTABLE,
    MISSING,
    PATIENCE,
    RUN,
    SHARED,
    Monitor,
    Proxy,
    Server,
    clear_shared,
    info,
    own_cluster,
    own_sentinel,
    own_server,
    shared_answers,
    unique_prefix,
    wait_for,
    wait_for_replica,
)
from powauth.backends._redis_scripts import CHUNK, SWEEP  # the bounds that these tests cross
from powauth.backends.base import EPOCH_LIFETIME, Backend, Millis, Record, drive, make_key, make_owner, shard_of
from powauth.backends.redis import RedisBackend
from powauth.errors import ConfigError, ConfigWarning, StoreUnavailable
from powauth.testing import BackendConformance

pytestmark = pytest.mark.skipif(EXECUTABLE is None, reason=MISSING)

NOW: Millis = 1_900_000_000_000
TTL: Millis = 1_800_000
NAMESPACE = "credentials"
OWNER = make_owner(NAMESPACE, "42")

T = TypeVar("T")

REPLICAS: dict[str, Any] = (
    {"load_balancing_strategy": redis.cluster.LoadBalancingStrategy.ROUND_ROBIN}
    if hasattr(redis.cluster, "LoadBalancingStrategy")
    else {"read_from_replicas": True}  # before redis-py 5.3
)

Scenario = Callable[[RedisBackend], Coroutine[Any, Any, None]]

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "asyncio"])


def record(
    name: bytes = b"a",
    owner: bytes = OWNER,
    *,
    version: int = 0,
    created_at: Millis = NOW,
    expires_at: Millis = NOW + TTL,
    value: bytes = b"value",
) -> Record:
    namespace = owner.partition(b":")[0].decode()
    return Record(make_key(namespace, shard_of(owner) + name), owner, version, created_at, expires_at, value)


def run(scenario: Scenario, make: Callable[[], RedisBackend]) -> None:
    """Make a backend, run the scenario on it, close it; in an event loop where it needs one."""

    async def whole(backend: RedisBackend) -> None:
        try:
            await scenario(backend)
        finally:
            await backend.close()

    async def made() -> RedisBackend | None:
        backend = make()
        if backend.mode == "blocking":
            return backend
        await whole(backend)
        return None

    synchronous = asyncio.run(made())
    if synchronous is not None:
        drive(whole(synchronous))


def run_url(url: str, scenario: Scenario, asynchronous: bool, timeout: float = 10, prefix: str = "powauth") -> None:
    run(
        scenario,
        lambda: RedisBackend(url, prefix=prefix, timeout=timedelta(seconds=timeout), asynchronous=asynchronous),
    )


async def close_app_client(backend: RedisBackend, client: Any) -> None:
    """What the app does with a client that it made; the backend leaves it open."""
    closed = client.aclose() if backend.mode == "async" else client.close()
    if backend.mode == "async":
        await closed


async def refused(verb: Coroutine[Any, Any, object]) -> BaseException:
    """The cause of the `StoreUnavailable` that the verb ends with."""
    with pytest.raises(StoreUnavailable) as caught:
        await verb
    assert "powauth:" not in str(caught.value), "no key"
    assert caught.value.__cause__ is not None
    return caught.value.__cause__


# Servers


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the shared server, or of an own one where there is none; not to be flushed or stopped."""
    if shared_answers():
        yield SHARED
        clear_shared(f"test-{RUN}-")
        return
    with own_server(tmp_path_factory.mktemp("single")) as server:
        yield server.url


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """An own server to do with as a test likes."""
    with own_server(tmp_path / "server") as started:
        yield started


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    with own_cluster(tmp_path_factory.mktemp("cluster")) as servers:
        yield servers


@pytest.fixture(scope="module")
def sentinel_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with own_sentinel(tmp_path_factory.mktemp("sentinel")) as (_, _, sentinel):
        yield f"redis+sentinel://127.0.0.1:1,{sentinel.address}/main"


def cluster_url(servers: list[Server]) -> str:
    return "redis+cluster://" + ",".join(server.address for server in servers)


# Conformance


class RedisConformance(BackendConformance):
    engine_expires = True
    asynchronous = False
    url: str
    unreachable = "redis://127.0.0.1:1/0"

    def make_backend(self) -> Backend:
        return RedisBackend(
            self.url, prefix=self.namespace, timeout=timedelta(seconds=10), asynchronous=self.asynchronous
        )

    def make_unreachable(self) -> Backend:
        return RedisBackend(self.unreachable, timeout=timedelta(seconds=10), asynchronous=self.asynchronous)

    def second(self, backend: Backend) -> Backend:
        return self.make_backend()

    async def dispose(self, backend: Backend) -> None:
        await backend.close()
        if self.url == SHARED:
            clear_shared(f"{self.namespace}:")


class TestSingle(RedisConformance):
    @pytest.fixture(autouse=True)
    def _server(self, single: str) -> None:
        self.url = single


class TestSingleAsyncio(TestSingle):
    asynchronous = True


class TestCluster(RedisConformance):
    contenders = 20
    unreachable = "redis+cluster://127.0.0.1:1"

    @pytest.fixture(autouse=True)
    def _server(self, cluster: list[Server]) -> None:
        self.url = cluster_url(cluster)


class TestClusterAsyncio(TestCluster):
    asynchronous = True


class TestSentinel(RedisConformance):
    contenders = 20
    unreachable = "redis+sentinel://127.0.0.1:1/main"

    @pytest.fixture(autouse=True)
    def _server(self, sentinel_url: str) -> None:
        self.url = sentinel_url


class TestSentinelAsyncio(TestSentinel):
    asynchronous = True


# Round trips


@both
def test_each_verb_is_one_command(server: Server, asynchronous: bool) -> None:
    async def scenario(backend: RedisBackend) -> None:
        async def warm_up() -> None:
            await backend.create(record(b"w"), await backend.epoch(OWNER, NOW), NOW)
            await backend.update(record(b"w", version=1), 0, NOW)
            await backend.delete(record(b"w").key, NOW)
            await backend.list(OWNER, NOW)
            await backend.epoch(OWNER, NOW, advance=True)
            await backend.delete_owner(OWNER, NOW)

        await warm_up()
        epoch = await backend.epoch(OWNER, NOW)
        monitor = Monitor(server)
        try:
            monitor.since()
            verbs: list[tuple[str, Callable[[], Coroutine[Any, Any, object]], object]] = [
                ("EVALSHA", lambda: backend.create(record(), epoch, NOW), True),
                ("EVALSHA", lambda: backend.create(record(), epoch, NOW), False),
                ("EVALSHA", lambda: backend.create(record(b"b"), None, NOW), True),
                ("GET", lambda: backend.get(record().key, NOW), record()),
                ("GET", lambda: backend.get(record(b"absent").key, NOW), None),
                ("EVALSHA", lambda: backend.update(record(version=1), 0, NOW), True),
                ("EVALSHA", lambda: backend.update(record(version=1), 0, NOW), False),
                ("EVALSHA", lambda: backend.list(OWNER, NOW), [record(b"b"), record(version=1)]),
                ("EVALSHA", lambda: backend.delete(record().key, NOW), True),
                ("EVALSHA", lambda: backend.delete(record().key, NOW), False),
                ("GET", lambda: backend.epoch(OWNER, NOW), epoch),
                ("EVALSHA", lambda: backend.delete_owner(OWNER, NOW), 1),
                ("EVALSHA", lambda: backend.delete_owner(OWNER, NOW, keep=record(b"b").key), 0),
            ]
            for command, verb, answer in verbs:
                assert await verb() == answer
                sent, inside = monitor.since()
                assert [*sent] == [command]
                assert not {"KEYS", "SCAN", "DEL", "FLUSHDB"} & {*inside}
            await backend.epoch(OWNER, NOW, advance=True)
            assert monitor.since()[0] == ["EVALSHA"]
            assert await backend.purge(100, NOW) == 0
            assert monitor.since()[0] == []
        finally:
            monitor.close()

    run_url(server.url, scenario, asynchronous)


@both
def test_many_sessions_of_one_user_are_handled_in_bounded_steps(server: Server, asynchronous: bool) -> None:
    count = 3 * CHUNK
    records = [record(b"%04d" % number, created_at=NOW + number) for number in range(count)]

    async def scenario(backend: RedisBackend) -> None:
        for each in records:
            assert await backend.create(each, None, NOW)
        await backend.list(OWNER, NOW)
        await backend.delete_owner(make_owner(NAMESPACE, "other"), NOW)
        monitor = Monitor(server)
        try:
            monitor.since()
            assert await backend.list(OWNER, NOW) == records[::-1]
            sent, _ = monitor.since()
            assert {*sent} == {"EVALSHA"}
            assert len(sent) <= 2 * count // CHUNK + 2
            earlier = await backend.epoch(OWNER, NOW)
            monitor.since()
            assert await backend.delete_owner(OWNER, NOW, keep=records[7].key) == count - 1
            sent, _ = monitor.since()
            assert sent == ["EVALSHA"] * (count // CHUNK)
            assert await backend.create(record(b"late"), earlier, NOW) is False
        finally:
            monitor.close()
        assert await backend.list(OWNER, NOW) == [records[7]]
        assert await backend.delete_owner(OWNER, NOW) == 1

    run_url(server.url, scenario, asynchronous)


def test_no_command_touches_more_than_a_chunk_of_records(server: Server) -> None:
    """Redis serves one command at a time, so what one of them touches is what the others wait for."""
    count = 20 * CHUNK
    most = CHUNK + CHUNK // 5  # ZSCAN reads its COUNT and the rest of the last bucket

    async def scenario(backend: RedisBackend) -> None:
        for number in range(count):
            await backend.create(record(b"%05d" % number, value=b"v" * 400), None, NOW)
        monitor = Monitor(server)
        try:
            for verb in (backend.list, backend.delete_owner):
                monitor.words_since()
                await verb(OWNER, NOW)
                clients, scripts = monitor.words_since()
                words = {command[0]: len(command) for command in sorted(clients + scripts, key=len)}
                assert CHUNK // 2 < max(words.values()) <= most, words
                ranges = [int(each[3]) for each in scripts if each[0] == "ZRANGE"]
                counts = [int(each[-1]) for each in scripts if each[0] == "ZSCAN"]
                assert max(ranges + counts) <= CHUNK
                assert not {command[0] for command in scripts} & {"KEYS", "SMEMBERS", "HGETALL"}
        finally:
            monitor.close()
        assert await backend.list(OWNER, NOW) == []

    run_url(server.url, scenario, False)


@both
def test_scripts_are_told_again_after_they_were_forgotten(server: Server, asynchronous: bool) -> None:
    async def scenario(backend: RedisBackend) -> None:
        assert await backend.create(record(), None, NOW) is True
        server.ask("SCRIPT FLUSH")
        monitor = Monitor(server)
        try:
            monitor.since()
            assert await backend.create(record(b"b"), None, NOW) is True
            assert monitor.since()[0] == ["EVALSHA", "EVAL"]
            assert await backend.create(record(b"c"), None, NOW) is True
            assert monitor.since()[0] == ["EVALSHA"]
        finally:
            monitor.close()
        assert len(await backend.list(OWNER, NOW)) == 3
        server.kill()
        await refused(backend.create(record(), None, NOW))
        server.start()
        assert await backend.create(record(), None, NOW) is True
        assert await backend.list(OWNER, NOW) == [record()]

    run_url(server.url, scenario, asynchronous)


# STO-06, STO-10: keys and expiry


def test_sto_10_no_key_without_time_to_live(server: Server) -> None:
    async def scenario(backend: RedisBackend) -> None:
        now = int(time.time() * 1000)
        for user in range(20):
            owner = make_owner(NAMESPACE, str(user))
            records = [
                record(b"%d" % number, owner, created_at=now, expires_at=now + TTL + number) for number in range(5)
            ]
            for fresh in records:
                assert await backend.create(fresh, await backend.epoch(owner, now), now)
            fresh = records[-1]
            assert await backend.update(msgspec.structs.replace(fresh, version=1, expires_at=now + 2 * TTL), 0, now)
            assert await backend.delete(record(b"1", owner).key, now)
            await backend.list(owner, now)
            if user % 3 == 0:
                await backend.delete_owner(owner, now, keep=fresh.key)
            if user % 3 == 1:
                await backend.epoch(owner, now, advance=True)
        with server.client() as client:
            lives = {key: client.pttl(key) for key in client.scan_iter()}
            kinds = {key.split(b"}:")[1][:2] for key in lives}
        assert kinds == {b"r:", b"o:", b"e:"}
        assert len(lives) > 60
        for key, life in lives.items():
            longest = EPOCH_LIFETIME if b"}:e:" in key else 2 * TTL
            assert 0 < life <= longest, key

    run_url(server.url, scenario, False)


@pytest.mark.parametrize(
    "namespace",
    ["a:b", "a*", "?", "[a]", "a\r\nDEL x", "a\n", "", "a" * 64, "{a}", "a}", "crеdentials", "cre\u0301", "a b", "-a"],  # noqa: RUF001
)
def test_sto_10_what_would_be_a_wildcard_or_delimiter_is_refused(single: str, namespace: str) -> None:
    with pytest.raises(ConfigError, match="prefix"):
        RedisBackend(single, prefix=namespace)
    backend = RedisBackend(single, prefix=unique_prefix())
    with pytest.raises(ConfigError, match="namespace"):
        drive(backend.scan(namespace, None, 10, NOW))
    with pytest.raises(ConfigError, match="namespace"):
        drive(backend.count(namespace, NOW))
    raw = namespace.encode()
    verbs = (backend.list(raw + b":1", NOW), backend.epoch(raw + b":1", NOW), backend.get(raw + b":\0\0a", NOW))
    for verb in verbs:
        # A colon ends the namespace, so what comes after one is a name, not a delimiter.
        if b":" in raw:
            verb.close()
            continue
        with pytest.raises(ConfigError, match="namespace"):
            drive(verb)
    drive(backend.close())


def test_sto_10_names_never_meet_in_one_key() -> None:
    backend = RedisBackend("redis://127.0.0.1:1/0")
    names = [b"", b"a", b":", b"r:", b"}:r:", b"a}:o:b", b"\x00", b"{", b"e:42"]
    keys: list[bytes] = []
    for namespace in ("a", "a.b", "a.0000", "A", "a-"):
        for name in names:
            place, user = owner_place(backend, make_owner(namespace, name.decode()))
            keys += [place.records + shard_of(make_owner(namespace, name.decode())) + name]
            keys += [place.indexes + user, place.epochs + user]
    assert len(keys) == len({*keys})
    tags = [key[key.index(b"{") + 1 : key.index(b"}")] for key in keys]
    assert all(tag.count(b"{") == 0 for tag in tags)


def test_sto_06_the_server_removes_what_expired(server: Server) -> None:
    async def scenario(backend: RedisBackend) -> None:
        assert await backend.create(record(expires_at=NOW + 40), None, NOW)
        assert await backend.create(record(b"b", expires_at=NOW + 20), None, NOW)
        assert await backend.get(record().key, NOW + 40) is None
        wait_for(lambda: server.ask("DBSIZE") == 0, "an empty server", 5)
        # By a clock that is behind, the record would still be alive; the server has the last word.
        assert await backend.get(record().key, NOW) is None
        assert await backend.list(OWNER, NOW) == []

    run_url(server.url, scenario, False)


def test_the_index_lives_as_long_as_its_longest_member(server: Server) -> None:
    async def scenario(backend: RedisBackend) -> None:
        place, user = owner_place(backend, OWNER)
        index = place.indexes + user

        def life() -> int:
            with server.client() as client:
                return int(client.pttl(index))

        await backend.create(record(expires_at=NOW + 100_000), None, NOW)
        assert 90_000 < life() <= 100_000
        await backend.create(record(b"b", expires_at=NOW + 50_000), None, NOW)
        assert 90_000 < life() <= 100_000
        await backend.update(record(b"b", version=1, expires_at=NOW + 200_000), 0, NOW)
        assert 190_000 < life() <= 200_000
        await backend.update(record(b"b", version=2, expires_at=NOW + 10_000), 1, NOW)
        assert 190_000 < life() <= 200_000
        assert len(await backend.list(OWNER, NOW + 50_000)) == 1
        assert await backend.delete(record().key, NOW)
        assert await backend.delete_owner(OWNER, NOW) == 0
        assert server.ask("EXISTS", index) == 0

    run_url(server.url, scenario, False)


def test_sign_ins_of_one_user_do_not_grow_the_index(server: Server) -> None:
    """10,000 sign-ins, one each minute, none signed out; each session lives half an hour of an imagined clock."""

    async def scenario(backend: RedisBackend) -> None:
        place, user = owner_place(backend, OWNER)
        longest = most = 0
        now = NOW
        with server.client() as client:
            for number in range(10_000):
                now = NOW + number * 60_000
                fresh = record(b"%d" % number, created_at=now, expires_at=now + TTL)
                assert await backend.create(fresh, None, now)
                if number % 100 == 0:
                    longest = max(longest, client.zcard(place.indexes + user))
                    most = max(most, client.dbsize())
            assert 30 <= longest <= 31
            assert most <= longest + 1, "records that expired went with their members of the index"
            assert len(await backend.list(OWNER, now)) == 30
            # After a long absence each command drops a bounded number.
            later = now + 2 * TTL
            fresh = record(b"later", created_at=later, expires_at=later + TTL)
            assert await backend.create(fresh, None, later)
            assert client.zcard(place.indexes + user) == 1
            for number in range(SWEEP + 10):
                await backend.create(record(b"x%d" % number, expires_at=later + TTL + 1), None, later)
            assert await backend.list(OWNER, later + 2 * TTL) == []
            assert client.zcard(place.indexes + user) == 11
            assert await backend.list(OWNER, later + 2 * TTL) == []
            assert client.zcard(place.indexes + user) == 0

    run_url(server.url, scenario, False)


def test_every_record_is_in_its_owners_index_whatever_happens(server: Server) -> None:
    """Random verbs with clocks that disagree by up to a minute; then the server's keys are looked at."""
    chance = random.Random(7)
    owners = [make_owner(NAMESPACE, str(number)) for number in range(3)]
    names = [b"%d" % number for number in range(8)]

    async def scenario(backend: RedisBackend) -> None:
        with server.client() as client:
            for step in range(3000):
                now = NOW + step * 500 + chance.randint(-60_000, 60_000)
                owner, name = chance.choice(owners), chance.choice(names)
                fresh = record(name, owner, version=step, created_at=now, expires_at=now + chance.randint(1, 90_000))
                match chance.randrange(8):
                    case 0 | 1 | 2:
                        await backend.create(fresh, await backend.epoch(owner, now), now)
                    case 3 | 4:
                        found = await backend.get(fresh.key, now)
                        if found is not None:
                            assert await backend.update(fresh, found.version, now)
                    case 5:
                        await backend.delete(fresh.key, now)
                    case 6:
                        await backend.list(owner, now)
                    case _ if step % 5 == 0:
                        await backend.delete_owner(owner, now, keep=fresh.key)
                if step % 50 == 0:
                    members = 0
                    for owner in owners:
                        place, user = owner_place(backend, owner)
                        index = dict(client.zrange(place.indexes + user, 0, -1, withscores=True))
                        members += len(index)
                        for key in client.scan_iter(match=place.records.replace(b"\\", b"\\\\") + b"*"):
                            value = client.get(key)
                            if value is not None and value.startswith(b"P1"):
                                assert key.removeprefix(place.records) in index
                                assert client.pttl(place.indexes + user) >= client.pttl(key)
                    assert members <= len(owners) * len(names)

    run_url(server.url, scenario, False)


# STO-02: what cannot be read


GARBAGE = [
    b"",
    b"P1",
    b"P1" + bytes(41),
    b"P1" + b"\xff" * 60,
    b"D1" + bytes(24),
    b"D1",
    b"\x80\x04\x95" + random.Random(1).randbytes(20),
    b'{"a":' * 50,
    random.Random(2).randbytes(500),
]


@both
@pytest.mark.parametrize("value", GARBAGE, ids=range(len(GARBAGE)))
def test_sto_02_garbage_is_a_miss(single: str, value: bytes, asynchronous: bool) -> None:
    prefix = unique_prefix()

    async def scenario(backend: RedisBackend) -> None:
        place, identifier = record_place(backend, record().key)
        with redis.Redis.from_url(single) as client:
            client.set(place.records + identifier, value, px=60_000)
            client.zadd(place.indexes + b"42", {identifier: NOW + TTL, b"zz-absent": NOW + TTL})
            client.pexpire(place.indexes + b"42", 60_000)
            client.set(place.epochs + b"42", value, px=60_000)
        assert await backend.get(record().key, NOW) is None
        assert await backend.list(OWNER, NOW) == []
        assert await backend.update(record(version=1), 0, NOW) is False
        assert await backend.delete(record().key, NOW) is False
        assert await backend.count(NAMESPACE, NOW) == 0
        assert await backend.epoch(OWNER, NOW) == 0
        assert await backend.create(record(), 0, NOW) is True
        assert await backend.get(record().key, NOW) == record()
        assert await backend.epoch(OWNER, NOW, advance=True) > 0
        assert await backend.delete_owner(OWNER, NOW) == 1

    run_url(single, scenario, asynchronous, prefix=prefix)


@both
def test_sto_02_keys_of_another_type_are_a_miss(single: str, asynchronous: bool) -> None:
    prefix = unique_prefix()

    async def scenario(backend: RedisBackend) -> None:
        place, identifier = record_place(backend, record().key)
        keys = (place.records + identifier, place.indexes + b"42", place.epochs + b"42")
        with redis.Redis.from_url(single) as client:

            def plant() -> None:
                for key in keys:
                    client.unlink(key)
                    client.rpush(key, "x")
                    client.pexpire(key, 60_000)

            plant()
            assert await backend.get(record().key, NOW) is None
            assert await backend.epoch(OWNER, NOW) == 0
            assert await backend.update(record(version=1), 0, NOW) is False
            assert await backend.delete(record().key, NOW) is False
            assert await backend.count(NAMESPACE, NOW) == 0
            assert await backend.list(OWNER, NOW) == []
            plant()
            assert await backend.delete_owner(OWNER, NOW) == 0
            plant()
            assert await backend.create(record(), 0, NOW) is True
            assert await backend.list(OWNER, NOW) == [record()]

    run_url(single, scenario, asynchronous, prefix=prefix)


def test_sto_02_a_newer_format_is_a_miss_and_is_not_overwritten(single: str) -> None:
    async def scenario(backend: RedisBackend) -> None:
        place, identifier = record_place(backend, record().key)
        with redis.Redis.from_url(single) as client:
            client.set(place.records + identifier, b"P2" + bytes(80), px=60_000)
            assert await backend.get(record().key, NOW) is None
            assert await backend.create(record(), None, NOW) is False
            assert await backend.update(record(version=1), 0, NOW) is False
            assert await backend.delete(record().key, NOW) is False
            assert client.get(place.records + identifier) == b"P2" + bytes(80)

    run_url(single, scenario, False, prefix=unique_prefix())


def test_another_owners_record_planted_in_an_index_is_not_listed(single: str) -> None:
    async def scenario(backend: RedisBackend) -> None:
        place, identifier = record_place(backend, record().key)
        assert await backend.create(record(), None, NOW)
        with redis.Redis.from_url(single) as client:
            client.zadd(place.indexes + b"mallory", {identifier: NOW + TTL})
            # A list is asked for by an owner, whose shard is another: the planted index is where mallory's would be.
            mallory, user = owner_place(backend, make_owner(NAMESPACE, "mallory"))
            client.zadd(mallory.indexes + user, {identifier: NOW + TTL})
            client.copy(place.records + identifier, mallory.records + identifier)
            prefix = backend._prefix  # the keys of this backend alone, on a shared server
            for key in client.scan_iter(match=f"{prefix}:*", count=1000):
                client.pexpire(key, 60_000)
        assert await backend.list(make_owner(NAMESPACE, "mallory"), NOW) == []
        assert await backend.list(OWNER, NOW) == [record()]

    run_url(single, scenario, False, prefix=unique_prefix())


def test_the_key_of_a_record_must_suit_its_owner() -> None:
    backend = RedisBackend("redis://127.0.0.1:1/0")
    stray = msgspec.structs.replace(record(), owner=make_owner(NAMESPACE, "43"))
    other = msgspec.structs.replace(record(), owner=make_owner("other", "42"))
    for wrong in (stray, other):
        with pytest.raises(ValueError, match="shard"):
            drive(backend.create(wrong, None, NOW))


# Repeated commands


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    before = Proxy(server)
    yield before
    before.close()


def run_repeating(proxy: Proxy, scenario: Scenario, asynchronous: bool) -> None:
    """On a client that repeats what it got no reply to, as redis-py's do unless told otherwise."""

    async def closing(backend: RedisBackend) -> None:
        client = client_of(backend)
        try:
            await scenario(backend)
        finally:
            await close_app_client(backend, client)

    def make() -> RedisBackend:
        # Before release 6 they repeat only after the errors that they are told.
        options: dict[str, Any] = {"port": proxy.port, "socket_timeout": 5, "retry_on_error": [redis.ConnectionError]}
        if asynchronous:
            client = redis.asyncio.Redis(retry=AsyncRetry(NoBackoff(), 3), **options)
            return RedisBackend(client, timeout=timedelta(seconds=10))
        return RedisBackend(redis.Redis(retry=Retry(NoBackoff(), 3), **options))

    run(closing, make)


@both
@pytest.mark.parametrize("by_url", [False, True])
def test_a_repeated_write_finds_that_it_was_done(
    server: Server, proxy: Proxy, by_url: bool, asynchronous: bool
) -> None:
    async def scenario(backend: RedisBackend) -> None:
        epoch = await backend.epoch(OWNER, NOW)
        await backend.create(record(b"w"), None, NOW)
        await backend.update(record(b"w", version=1), 0, NOW)
        await backend.delete(record(b"w").key, NOW)
        await backend.delete_owner(OWNER, NOW)
        await backend.epoch(OWNER, NOW, advance=True)
        epoch = await backend.epoch(OWNER, NOW)
        verbs: list[tuple[Callable[[], Coroutine[Any, Any, object]], object, object]] = [
            (lambda: backend.create(record(), epoch, NOW), True, record()),
            (lambda: backend.create(record(), epoch, NOW), False, record()),
            (lambda: backend.update(record(version=1), 0, NOW), True, record(version=1)),
            (lambda: backend.update(record(version=1), 0, NOW), False, record(version=1)),
            (lambda: backend.get(record().key, NOW), record(version=1), record(version=1)),
            (lambda: backend.delete(record().key, NOW), True, None),
            (lambda: backend.delete(record().key, NOW), False, None),
        ]
        for number, (verb, answer, left) in enumerate(verbs):
            proxy.lose_next_reply()
            assert await verb() == answer
            assert proxy.lost == number + 1
            assert await backend.get(record().key, NOW) == left
        before = await backend.epoch(OWNER, NOW)
        assert before == epoch
        proxy.lose_next_reply()
        moved = await backend.epoch(OWNER, NOW, advance=True)
        assert moved == await backend.epoch(OWNER, NOW) > before
        assert await backend.create(record(b"c"), moved, NOW) is True
        proxy.lose_next_reply()
        await backend.delete_owner(OWNER, NOW)
        assert await backend.list(OWNER, NOW) == []
        assert await backend.create(record(b"c"), moved, NOW) is False

    if by_url:
        run_url(proxy.url, scenario, asynchronous)
    else:
        run_repeating(proxy, scenario, asynchronous)
    assert proxy.lost == 9


@both
def test_a_repeated_write_does_not_undo_what_others_did_meanwhile(
    server: Server, proxy: Proxy, asynchronous: bool
) -> None:
    """The reply is lost, another client deletes the record, and only then the command is repeated."""

    async def scenario(backend: RedisBackend) -> None:
        marks: list[bytes] = []
        real = secrets.token_bytes

        def same_mark(size: int) -> bytes:
            # What a repetition is: the same command, with the same mark, once more.
            if not marks:
                marks.append(real(size))
            return marks[0]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(secrets, "token_bytes", same_mark)
            assert await backend.create(record(), None, NOW) is True
        other = RedisBackend(server.url)
        assert drive(other.delete(record().key, NOW)) is True
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(secrets, "token_bytes", same_mark)
            assert await backend.create(record(), None, NOW) is True, "it had been created"
        assert await backend.get(record().key, NOW) is None, "and stays deleted"
        assert drive(other.list(OWNER, NOW)) == []
        drive(other.close())

    run_repeating(proxy, scenario, asynchronous)


@both
def test_clients_from_a_url_repeat_a_command_once(proxy: Proxy, asynchronous: bool) -> None:
    async def scenario(backend: RedisBackend) -> None:
        proxy.lose_next_reply()  # of a connection that had never served: nothing was cut there
        assert isinstance(await refused(backend.get(record().key, NOW)), redis.ConnectionError)
        assert await backend.create(record(), None, NOW)
        proxy.lose_next_reply(2)
        assert isinstance(await refused(backend.get(record().key, NOW)), redis.ConnectionError)
        assert await backend.get(record().key, NOW) == record()

    run_url(proxy.url, scenario, asynchronous)
    assert proxy.lost == 3


# STO-08: cancellation


async def cancel_at_random(backend: RedisBackend, users: int, wanted: int) -> None:
    """Reads whose tasks are cancelled at random points, while others check that each reply belongs to its asker."""
    chance = random.Random(8)
    records = [
        record(b"a", make_owner(NAMESPACE, str(number)), value=b"%d " % number * chance.randint(1, 2000))
        for number in range(users)
    ]
    for each in records:
        assert await backend.create(each, 0, NOW)
    cancelled = done = 0

    async def ask(expected: Record, verb: int) -> None:
        nonlocal done
        if verb == 0:
            assert await backend.list(expected.owner, NOW) == [expected]
        elif verb == 1:
            assert await backend.epoch(expected.owner, NOW) == 0
        else:
            assert await backend.get(expected.key, NOW) == expected
        done += 1

    while cancelled < wanted:
        tasks = [asyncio.create_task(ask(chance.choice(records), chance.randrange(5))) for _ in range(20)]
        doomed = chance.sample(tasks, 12)
        for task in doomed:
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(0)
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, asyncio.CancelledError):
                cancelled += 1
            elif outcome is not None:
                raise outcome
        for expected in chance.sample(records, 5):
            await ask(expected, 2)
    assert done > wanted / 2


def test_sto_08_a_cancelled_request_leaves_its_reply_to_nobody(single: str) -> None:
    async def scenario(backend: RedisBackend) -> None:
        await cancel_at_random(backend, 50, 1000)
        connections: Any = commands_of(backend)
        assert not connections.busy
        assert not connections.waiting
        assert len(connections.free) <= 20

    run_url(single, scenario, True, prefix=unique_prefix())


def test_sto_08_a_cancelled_request_leaves_its_reply_to_nobody_in_a_cluster(cluster: list[Server]) -> None:
    async def scenario(backend: RedisBackend) -> None:
        await cancel_at_random(backend, 50, 1000)
        client: Any = client_of(backend)
        # Releases of redis-py before 8 forget a connection whose making was cancelled. It is closed.
        for node in client.get_primaries():
            free = node._free  # redis-py has no public name for the connections of a node
            lost = [each for each in node._connections if each not in free]  # as above
            assert not any(each.is_connected for each in lost)
            assert len(free) <= 20

    run_url(cluster_url(cluster), scenario, True, prefix=unique_prefix())


# STO-07: a server that is away, hangs, is full, or may not


@both
def test_sto_07_a_server_that_is_away_and_comes_back(server: Server, asynchronous: bool) -> None:
    async def scenario(backend: RedisBackend) -> None:
        assert await backend.create(record(), None, NOW)
        server.kill()
        verbs: list[Callable[[], Coroutine[Any, Any, object]]] = [
            lambda: backend.create(record(), None, NOW),
            lambda: backend.get(record().key, NOW),
            lambda: backend.update(record(), 0, NOW),
            lambda: backend.delete(record().key, NOW),
            lambda: backend.list(OWNER, NOW),
            lambda: backend.epoch(OWNER, NOW),
            lambda: backend.epoch(OWNER, NOW, advance=True),
            lambda: backend.delete_owner(OWNER, NOW),
            lambda: backend.scan(NAMESPACE, None, 10, NOW),
            lambda: backend.count(NAMESPACE, NOW),
            backend.check,
        ]
        for verb in verbs:
            assert isinstance(await refused(verb()), redis.ConnectionError)
        server.start()
        assert await backend.get(record().key, NOW) is None
        assert await backend.create(record(), None, NOW)

    run_url(server.url, scenario, asynchronous)


@both
def test_sto_07_a_server_that_hangs_costs_no_more_than_the_timeout(server: Server, asynchronous: bool) -> None:
    async def scenario(backend: RedisBackend) -> None:
        assert await backend.create(record(), None, NOW)
        server.pause()
        try:
            started = time.monotonic()
            await refused(backend.get(record().key, NOW))
            await refused(backend.delete(record().key, NOW))
            assert time.monotonic() - started < 4
        finally:
            server.resume()
        wait_for(server.answers, "awake again")
        assert await backend.get(record(b"other").key, NOW) is None
        await backend.delete(record().key, NOW)
        assert await backend.get(record().key, NOW) is None

    run_url(server.url, scenario, asynchronous, timeout=1)


def test_sto_07_an_asyncio_client_of_the_app_is_held_to_the_timeout(server: Server) -> None:
    async def scenario(backend: RedisBackend) -> None:
        assert await backend.get(record().key, NOW) is None
        server.pause()
        try:
            started = time.monotonic()
            assert isinstance(await refused(backend.get(record().key, NOW)), TimeoutError)
            assert time.monotonic() - started < 5
        finally:
            server.resume()
        wait_for(server.answers, "awake again")
        assert await backend.create(record(), None, NOW)
        await close_app_client(backend, client_of(backend))

    def make() -> RedisBackend:
        client = redis.asyncio.Redis(port=server.port, socket_timeout=None)
        return RedisBackend(client, timeout=timedelta(seconds=1))

    run(scenario, make)


@both
def test_sto_07_a_full_server_refuses_sign_in_and_still_signs_out(server: Server, asynchronous: bool) -> None:
    async def scenario(backend: RedisBackend) -> None:
        for name in (b"a", b"b", b"c"):
            assert await backend.create(record(name), 0, NOW)
        await backend.check()
        server.ask("CONFIG SET", "maxmemory", "1")
        assert isinstance(await refused(backend.create(record(b"d"), 0, NOW)), redis.ResponseError)
        await refused(backend.update(record(version=1), 0, NOW))
        assert await backend.get(record().key, NOW) == record()
        assert len(await backend.list(OWNER, NOW)) == 3
        assert await backend.delete(record(b"a").key, NOW) is True
        assert await backend.get(record(b"a").key, NOW) is None
        assert await backend.delete_owner(OWNER, NOW) == 2
        assert await backend.list(OWNER, NOW) == []
        server.ask("CONFIG SET", "maxmemory", "0")
        assert await backend.create(record(b"d"), 0, NOW) is False, "the epoch was moved"
        assert await backend.create(record(b"d"), await backend.epoch(OWNER, NOW), NOW) is True

    run_url(server.url, scenario, asynchronous)


@both
def test_sto_07_a_replica_in_place_of_the_master_refuses_writes(server: Server, asynchronous: bool) -> None:
    async def scenario(backend: RedisBackend) -> None:
        assert await backend.create(record(), None, NOW)
        server.ask("REPLICAOF", "127.0.0.1", "1")
        assert isinstance(await refused(backend.update(record(version=1), 0, NOW)), redis.ResponseError)
        await refused(backend.delete(record().key, NOW))
        server.ask("CONFIG SET", "replica-serve-stale-data", "no")
        assert "MASTER is down" in str(await refused(backend.get(record().key, NOW)))
        server.ask("REPLICAOF", "NO", "ONE")
        assert await backend.update(record(version=1), 0, NOW) is True

    run_url(server.url, scenario, asynchronous)


@both
def test_sto_07_a_server_that_is_loading_is_out_of_reach_until_it_has(tmp_path: Path, asynchronous: bool) -> None:
    with own_server(tmp_path / "first") as server:
        with server.client() as client:
            client.config_set("rdbcompression", "no")
            for number in range(600):
                client.set(f"k{number}", "x" * 20_000)
            client.save()
        server.kill()
        # While it loads, it answers after every 2 MB.
        server.options = ("--key-load-delay", "1000")

        async def scenario(backend: RedisBackend) -> None:
            starting = threading.Thread(target=server.start)
            starting.start()
            seen: list[str] = []
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                try:
                    assert await backend.create(record(), None, NOW)
                    break
                except StoreUnavailable as error:
                    seen.append(type(error.__cause__).__name__)
            starting.join()
            assert "BusyLoadingError" in seen
            assert await backend.get(record().key, NOW) == record()

        run_url(server.url, scenario, asynchronous)


# Sentinel


async def patiently(verb: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What the verb answers once the store is back."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return await verb()
        except StoreUnavailable:
            if time.monotonic() > deadline:
                raise


def sentinel_failover(directory: Path, asynchronous: bool) -> None:
    with own_sentinel(directory) as (master, replica, sentinel):
        url = f"redis+sentinel://{sentinel.address}/main/0"

        async def scenario(backend: RedisBackend) -> None:
            assert await backend.create(record(value=b"old"), 0, NOW)
            settled = await backend.epoch(OWNER, NOW, advance=True)
            wait_for_replica(master)
            # From here on the replica hears nothing, and says so to nobody for as long as this takes.
            replica.ask("REPLICAOF", "127.0.0.1", "1")
            assert await backend.update(record(version=1, value=b"new"), 0, NOW)
            assert await backend.create(record(b"b"), None, NOW)
            forgotten = await backend.epoch(OWNER, NOW, advance=True)
            master.kill()
            await refused(backend.get(record().key, NOW))
            wait_for(lambda: info(replica, "replication")["role"] == "master", "a new master")

            # The last acknowledged writes are lost, and the backend says what there is.
            assert await patiently(lambda: backend.get(record().key, NOW)) == record(value=b"old")
            assert await backend.get(record(b"b").key, NOW) is None
            assert await backend.list(OWNER, NOW) == [record(value=b"old")]
            assert await backend.update(record(version=2, value=b"forward"), 1, NOW) is False
            assert await backend.update(record(version=2, value=b"forward"), 0, NOW) is True
            # A sign-in that read the epoch which the store forgot does not pass, now or after the next move.
            assert await backend.epoch(OWNER, NOW) == settled
            assert await backend.create(record(b"c"), forgotten, NOW) is False
            assert await backend.delete_owner(OWNER, NOW) == 1
            assert await backend.epoch(OWNER, NOW) != forgotten
            assert await backend.create(record(b"c"), forgotten, NOW) is False

            # The old master comes back, still thinking that it is one, and is not written to.
            place, identifier = record_place(backend, record(b"d").key)
            keys = (place.records + identifier, place.indexes + b"42")
            master.start()
            assert await backend.create(record(b"d"), None, NOW) is True
            assert replica.ask("EXISTS", *keys) == len(keys)
            assert master.ask("EXISTS", *keys) == 0

        run_url(url, scenario, asynchronous, timeout=2)


def test_sentinel_failover_that_loses_the_last_writes(tmp_path: Path) -> None:
    sentinel_failover(tmp_path, False)


def test_sentinel_failover_that_loses_the_last_writes_asyncio(tmp_path: Path) -> None:
    sentinel_failover(tmp_path, True)


def test_clients_that_sentinel_makes(sentinel_url: str) -> None:
    host = sentinel_url.split(",")[1].split("/", maxsplit=1)[0]
    addresses = [(host.split(":")[0], int(host.split(":")[1]))]

    async def scenario(backend: RedisBackend) -> None:
        assert await backend.create(record(), None, NOW) is True
        assert await backend.get(record().key, NOW) == record()
        client: Any = client_of(backend)
        await close_app_client(backend, client)
        for each in client.connection_pool.sentinel_manager.sentinels:
            await close_app_client(backend, each)

    def make(module: Any) -> RedisBackend:
        sentinel = module.Sentinel(addresses, socket_timeout=5)
        with pytest.raises(ConfigError, match="replica"):
            RedisBackend(sentinel.slave_for("main"))
        return RedisBackend(sentinel.master_for("main"), prefix=unique_prefix())

    run(scenario, lambda: make(redis.sentinel))
    run(scenario, lambda: make(redis.asyncio.sentinel))


# Cluster


@both
def test_all_keys_of_a_user_are_in_one_slot_and_users_are_spread(cluster: list[Server], asynchronous: bool) -> None:
    prefix = unique_prefix()

    async def scenario(backend: RedisBackend) -> None:
        for user in range(60):
            owner = make_owner(NAMESPACE, str(user))
            epoch = await backend.epoch(owner, NOW, advance=True)
            for name in (b"a", b"b", b"c"):
                assert await backend.create(record(name, owner), epoch, NOW)
        with redis.cluster.RedisCluster(host="127.0.0.1", port=cluster[0].port) as client:
            places: dict[bytes, set[int]] = {}
            for key in client.scan_iter(match=f"{prefix}:*", count=1000):
                tag = key[key.index(b"{") : key.index(b"}")]
                places.setdefault(tag, set()).add(client.keyslot(key))
        assert len(places) == 60
        assert all(len(slots) == 1 for slots in places.values())
        third = [sum(1 for slots in places.values() if min(slots) // 5462 == part) for part in range(3)]
        assert all(part > 5 for part in third)

    run_url(cluster_url(cluster), scenario, asynchronous, prefix=prefix)


@both
def test_many_sessions_of_one_user_in_a_cluster(cluster: list[Server], asynchronous: bool) -> None:
    async def scenario(backend: RedisBackend) -> None:
        records = [record(b"%04d" % number, created_at=NOW + number) for number in range(CHUNK + 100)]
        for each in records:
            assert await backend.create(each, 0, NOW)
        assert await backend.list(OWNER, NOW) == records[::-1]
        assert await backend.delete_owner(OWNER, NOW) == len(records)
        assert await backend.list(OWNER, NOW) == []

    run_url(cluster_url(cluster), scenario, asynchronous, prefix=unique_prefix())


def test_clients_of_a_cluster_that_the_app_made(cluster: list[Server]) -> None:
    prefix = unique_prefix()
    port = cluster[0].port

    async def scenario(backend: RedisBackend) -> None:
        await backend.create(record(), None, NOW)
        assert await backend.get(record().key, NOW) == record()
        await backend.check()
        await backend.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await backend.get(record().key, NOW)

    with redis.cluster.RedisCluster(host="127.0.0.1", port=port, socket_timeout=10) as client:
        run(scenario, lambda: RedisBackend(client, prefix=prefix))
        assert client.ping()

    async def asynchronous() -> None:
        async with redis.asyncio.RedisCluster(host="127.0.0.1", port=port) as client:
            await scenario(RedisBackend(client, prefix=prefix))
            assert await client.ping()
            reading = redis.asyncio.RedisCluster(host="127.0.0.1", port=port, **REPLICAS)
            with pytest.raises(ConfigError, match="read_from_replicas"):
                RedisBackend(reading)
            with pytest.raises(ConfigError, match="decode_responses"):
                RedisBackend(redis.asyncio.RedisCluster(host="127.0.0.1", port=port, decode_responses=True))

    asyncio.run(asynchronous())


@both
def test_a_cluster_that_cannot_be_reached(asynchronous: bool) -> None:
    async def scenario(backend: RedisBackend) -> None:
        await refused(backend.get(record().key, NOW))
        await refused(backend.scan(NAMESPACE, None, 10, NOW))

    run_url("redis+cluster://127.0.0.1:1,127.0.0.1:2", scenario, asynchronous)


# Scanning


def test_a_page_of_a_scan_is_no_longer_than_asked_for(single: str) -> None:
    async def scenario(backend: RedisBackend) -> None:
        for number in range(250):
            assert await backend.create(record(b"%d" % number, make_owner(NAMESPACE, str(number % 7))), None, NOW)
        seen: set[bytes] = set()
        cursor = None
        while True:
            page = await backend.scan(NAMESPACE, cursor, 7, NOW)
            assert len(page.records) <= 7
            seen.update(each.key for each in page.records)
            cursor = page.cursor
            if cursor is None:
                break
            assert "powauth" not in cursor
        assert len(seen) == 250

    run_url(single, scenario, False, prefix=unique_prefix())


@pytest.mark.parametrize("cursor", ["", "x", "1|", "a||", "0||***|", "1||é", "0||A"])
def test_a_cursor_that_is_none(single: str, cursor: str) -> None:
    backend = RedisBackend(single)
    with pytest.raises(ValueError, match="not a cursor"):
        drive(backend.scan(NAMESPACE, cursor, 10, NOW))


def test_a_scan_whose_node_is_no_master_any_more_begins_again(cluster: list[Server]) -> None:
    async def scenario(backend: RedisBackend) -> None:
        owners = [make_owner(NAMESPACE, str(number)) for number in range(30)]
        for owner in owners:
            assert await backend.create(record(b"a", owner), None, NOW)
        seen: set[bytes] = set()
        cursor: str | None = "77|127.0.0.1:1|"
        while cursor is not None:
            page = await backend.scan(NAMESPACE, cursor, 100, NOW)
            seen.update(each.owner for each in page.records)
            cursor = page.cursor
        assert seen == {*owners}

    run_url(cluster_url(cluster), scenario, False, prefix=unique_prefix())


# Eviction


@both
def test_check_warns_of_a_server_that_evicts(server: Server, asynchronous: bool) -> None:
    async def scenario(backend: RedisBackend) -> None:
        await backend.check()
        server.ask("CONFIG SET", "maxmemory-policy", "volatile-ttl")
        with pytest.warns(ConfigWarning, match="volatile-ttl"):
            await backend.check()
        server.ask("ACL SETUSER", "default", "-config")
        await backend.check()

    run_url(server.url, scenario, asynchronous)


def test_check_asks_every_master_of_a_cluster(cluster: list[Server]) -> None:
    cluster[1].ask("CONFIG SET", "maxmemory-policy", "allkeys-lru")
    try:
        for asynchronous in (False, True):

            async def scenario(backend: RedisBackend) -> None:
                with pytest.warns(ConfigWarning, match="allkeys-lru"):
                    await backend.check()

            run_url(cluster_url(cluster), scenario, asynchronous)
    finally:
        cluster[1].ask("CONFIG SET", "maxmemory-policy", "noeviction")


# Configuration


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://u:hunter2@localhost",
        "u:hunter2@localhost",
        "redis://u:hunter2@:6379/0",
        "redis://u:hunter2@localhost:port/0",
        "redis://localhost:hunter2",
        "redis://u:hunter2@localhost:70000/0",
        "redis://u:hunter2@localhost:0/0",
        "redis://u:hunter2@localhost/zero",
        "redis://u:hunter2@localhost/0?no_such_option=1",
        "redis://u:hunter2@localhost/0?socket_timeout=soon",
        "redis://u:hunter2@localhost/0?decode_responses=true",
        "redis://u:hunter2@[::1/0",
        "unix://",
        "redis+sentinel://u:hunter2@localhost:26379",
        "redis+sentinel://u:hunter2@localhost:26379/",
        "redis+sentinel://u:hunter2@localhost:26379,/main",
        "redis+sentinel://u:hunter2@localhost:26379/main/zero",
        "redis+sentinel://u:hunter2@localhost:26379/main?x=1",
        "redis+sentinel://u:hunter2@localhost:x/main",
        "redis+cluster://u:hunter2@",
        "redis+cluster://u:hunter2@localhost:7000,localhost:x",
        "redis+cluster://u:hunter2@localhost:7000/1",
        "redis+cluster://u:hunter2@localhost:7000?x=1",
        "redis+cluster://u:hunter2@[::1:7000",
    ],
)
@both
def test_a_url_that_is_wrong_is_refused_in_one_sentence_without_the_password(url: str, asynchronous: bool) -> None:
    with pytest.raises(ConfigError) as caught:
        RedisBackend(url, asynchronous=asynchronous)
    message = str(caught.value)
    assert "hunter2" not in message
    assert "\n" not in message
    assert len(message) > 20
    chain: BaseException | None = caught.value
    while chain is not None:
        assert "hunter2" not in str(chain)
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)


@both
def test_urls_become_clients_with_our_limits(asynchronous: bool) -> None:
    backend = RedisBackend(
        "rediss://u:p%40ss@example.test:7/3?client_name=app", timeout=timedelta(seconds=1.5), asynchronous=asynchronous
    )
    options = opened_client_of(backend).connection_pool.connection_kwargs
    assert options["host"] == "example.test"
    assert (options["port"], options["db"], options["username"], options["password"]) == (7, 3, "u", "p@ss")
    # Over asyncio the backend bounds each command as a whole.
    assert options["socket_timeout"] == (None if asynchronous else 1.5)
    assert options["socket_connect_timeout"] == 1.5
    assert retries_of(options) == 0
    assert options["client_name"] == "app"

    backend = RedisBackend("redis+sentinel://u:p%40ss@[::1],b:27000/my%20name/2", asynchronous=asynchronous)
    pool = opened_client_of(backend).connection_pool
    assert pool.service_name == "my name"
    assert (pool.connection_kwargs["db"], pool.connection_kwargs["password"]) == (2, "p@ss")
    sentinels = [each.connection_pool.connection_kwargs for each in pool.sentinel_manager.sentinels]
    assert [(each["host"], each["port"]) for each in sentinels] == [("::1", 26379), ("b", 27000)]
    assert all(each["socket_timeout"] == 2 for each in sentinels)
    assert all(retries_of(each) == 0 for each in sentinels)


def test_unix_sockets(tmp_path: Path) -> None:
    # A path in tmp_path may be too long for a socket's name.
    name = Path("/tmp") / f"{unique_prefix()[:20]}.sock"
    try:
        with own_server(tmp_path, "--unixsocket", str(name)):

            async def scenario(backend: RedisBackend) -> None:
                assert await backend.create(record(), None, NOW)
                assert await backend.get(record().key, NOW) == record()

            for number, asynchronous in enumerate((False, True)):
                run_url(f"unix://{name}?db={number}", scenario, asynchronous)
    finally:
        name.unlink(missing_ok=True)


@pytest.mark.parametrize("timeout", [timedelta(0), timedelta(seconds=-1), timedelta(hours=2)])
def test_a_timeout_out_of_range_is_refused(timeout: timedelta) -> None:
    with pytest.raises(ConfigError, match="timeout must be more than zero and at most 1:00:00"):
        RedisBackend("redis://localhost", timeout=timeout)


@pytest.mark.parametrize("timeout", [2, 0.5, float("nan"), True, "5", None])
def test_a_timeout_is_a_timedelta(timeout: object) -> None:
    with pytest.raises(ConfigError, match="timeout must be a timedelta"):
        RedisBackend("redis://localhost", timeout=timeout)  # type: ignore[arg-type]


def test_clients_of_the_app(single: str) -> None:
    with pytest.raises(ConfigError, match="object"):
        RedisBackend(object())  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="decode_responses"):
        RedisBackend(redis.Redis(decode_responses=True))
    with pytest.raises(ConfigError, match="decode_responses"):
        RedisBackend(redis.asyncio.Redis(decode_responses=True))
    with pytest.warns(ConfigWarning, match="socket_timeout"):
        RedisBackend(redis.Redis(socket_timeout=None))
    with redis.Redis.from_url(single, socket_timeout=5) as client:
        backend = RedisBackend(client, prefix=unique_prefix())
        assert backend.mode == "blocking"
        assert drive(backend.create(record(), None, NOW))
        drive(backend.close())
        assert client.ping(), "the app's client stays open"
        with pytest.raises(StoreUnavailable, match="closed"):
            drive(backend.get(record().key, NOW))


def test_without_redis_py_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    for name in ("_redis_clients", "redis"):
        spec = importlib.util.find_spec(f"powauth.backends.{name}")
        assert spec is not None
        assert spec.loader is not None
        monkeypatch.delitem(sys.modules, "powauth.backends._redis_clients", raising=False)
        with pytest.raises(ConfigError, match=r"powauth\[redis\]"):
            spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_nothing_is_sent_at_construction() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for url in ("redis://127.0.0.1:1", "redis+sentinel://127.0.0.1:1/main", "redis+cluster://127.0.0.1:1"):
            for asynchronous in (False, True):
                RedisBackend(url, asynchronous=asynchronous)
