"""The rules of `NearCache`, and every order in which reads, changes and their messages can meet."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from harness.interleavings import Core, Op, Plan, Scenario, SteppingBackend, Violation, World, explore
from harness.internals import cache_tables
from harness.scenarios import STALE
from harness.support import CountingBackend
from powauth import CredentialsCache
from powauth.backends.base import Backend, CountsEpochs, Millis, Record, make_key, make_owner, shard_of
from powauth.backends.memory import MemoryBackend
from powauth.backends.near_cache import MAX_AGE, STALENESS, NearCache, Ticket
from powauth.errors import ConfigError

NOW: Millis = 1_900_000_000_000


def record(name: bytes = b"a", user: str = "42", version: int = 0) -> Record:
    owner = make_owner("credentials", user)
    return Record(make_key("credentials", shard_of(owner) + name), owner, version, NOW, NOW + 1000, b"value")


class Seconds:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at = 5.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def seconds() -> Seconds:
    return Seconds()


@pytest.fixture
def cache(seconds: Seconds) -> NearCache:
    """With a channel that was heard of now, under the name of 1."""
    made = NearCache(16, seconds)
    assert made.begin(record().key) is None, "nothing is kept before there is a channel"
    made.heard(made.opened(), seconds.at)
    return made


def keep(cache: NearCache, kept: Record) -> bool:
    ticket = cache.begin(kept.key)
    assert ticket is not None
    cache.end(ticket, kept)
    return cache.get(kept.key, NOW) is not None


def test_a_copy_is_served_until_it_expires(cache: NearCache) -> None:
    assert keep(cache, record())
    assert cache.get(record().key, record().expires_at - 1) == record()
    assert cache.get(record().key, record().expires_at) is None


def test_absence_is_not_kept(cache: NearCache) -> None:
    ticket = cache.begin(record().key)
    assert ticket is not None
    cache.end(ticket, None)
    assert len(cache) == 0
    assert cache_tables(cache).reading == {}


@pytest.mark.parametrize("change", ["drop", "drop_owner", "flushed", "lost", "opened", "close", "another read"])
def test_what_comes_between_a_read_and_its_end_voids_it(cache: NearCache, change: str) -> None:
    ticket = cache.begin(record().key)
    assert ticket is not None
    changes: dict[str, Callable[[], object]] = {
        "drop": lambda: cache.drop(record().key),
        "drop_owner": lambda: cache.drop_owner(record().owner),
        "flushed": cache.flushed,
        "lost": lambda: cache.lost(1),
        "opened": cache.opened,
        "close": cache.close,
        "another read": lambda: cache.begin(record().key),
    }
    changes[change]()
    cache.end(ticket, record())
    assert len(cache) == 0


def test_only_an_owners_copies_go_with_the_owner(cache: NearCache) -> None:
    assert all([keep(cache, record(b"a")), keep(cache, record(b"b")), keep(cache, record(b"c", "43"))])
    cache.drop_owner(record().owner)
    assert [cache.get(each.key, NOW) for each in (record(b"a"), record(b"b"))] == [None, None]
    assert cache.get(record(b"c", "43").key, NOW) is not None


def test_copies_are_trusted_for_as_long_as_the_channel_was_heard_of(cache: NearCache, seconds: Seconds) -> None:
    assert keep(cache, record())
    sent = seconds.at
    seconds.at += STALENESS - 0.001
    assert cache.get(record().key, NOW) is not None
    seconds.at = sent + STALENESS
    assert cache.get(record().key, NOW) is None
    assert cache.begin(record().key) is None
    # The time of the question counts, not that of its answer.
    cache.heard(1, sent + 0.5)
    assert cache.get(record().key, NOW) is not None
    seconds.at += 0.5
    assert cache.get(record().key, NOW) is None


def test_a_channel_that_is_over_has_no_say(cache: NearCache, seconds: Seconds) -> None:
    assert keep(cache, record())
    second = cache.opened()
    assert len(cache) == 0
    cache.heard(1, seconds.at)
    assert not cache.up
    cache.heard(second, seconds.at)
    assert keep(cache, record())
    cache.lost(1)
    assert cache.get(record().key, NOW) is not None
    cache.lost(second)
    assert len(cache) == 0
    assert not cache.up


def test_no_copy_gets_older_than_a_minute(cache: NearCache, seconds: Seconds) -> None:
    ticket = cache.begin(record().key)
    assert ticket is not None
    seconds.at += 1
    cache.heard(1, seconds.at)
    cache.end(ticket, record())
    seconds.at += MAX_AGE - 1.001
    cache.heard(1, seconds.at)
    assert cache.get(record().key, NOW) is not None
    seconds.at += 0.001
    assert cache.get(record().key, NOW) is None


def test_sto_12_a_full_cache_makes_room_oldest_first(seconds: Seconds) -> None:
    cache = NearCache(32, seconds)
    cache.heard(cache.opened(), seconds.at)
    for number in range(100):
        assert keep(cache, record(b"%d" % number))
        assert len(cache) <= 32
    assert cache.get(record(b"75").key, NOW) is not None
    assert cache.get(record(b"60").key, NOW) is None


def test_sto_12_owners_are_known_for_as_long_as_their_copies_are(seconds: Seconds) -> None:
    cache = NearCache(8, seconds)
    generation = cache.opened()
    cache.heard(generation, seconds.at)
    for number in range(100):
        assert keep(cache, record(b"%d" % number, str(number % 3)))
        assert keep(cache, record(b"%d" % number, str(number % 3), version=1)), "in the place of the former"
        owned = {key for keys in cache_tables(cache).owned.values() for key in keys}
        assert owned == cache_tables(cache).copies.keys()
    cache.drop(record(b"99", "0").key)
    cache.drop(record(b"99", "0").key)
    cache.drop_owner(record(user="1").owner)
    cache.drop_owner(record(user="1").owner)
    assert (
        {kept.owner for kept, _ in cache_tables(cache).copies.values()}
        == cache_tables(cache).owned.keys()
        == {record(user="2").owner, record(user="0").owner}
    )
    for number in range(8):
        cache.drop(record(b"%d" % (99 - number), str((99 - number) % 3)).key)
    assert (cache_tables(cache).owned, cache_tables(cache).copies) == ({}, {})
    assert keep(cache, record())
    cache.lost(generation)
    assert cache_tables(cache).owned == {}


@pytest.mark.parametrize("number", [0, -1, True, 1.5, "10"])
def test_the_bound_is_a_number(number: Any) -> None:
    with pytest.raises(ConfigError, match="near_cache"):
        NearCache(number)


def test_sto_05_threads_that_read_and_drop_leave_nothing_old(seconds: Seconds) -> None:
    cache, store = NearCache(16, seconds), {record().key: record()}
    cache.heard(cache.opened(), seconds.at)
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            ticket = cache.begin(record().key)
            assert ticket is not None
            cache.end(ticket, store[record().key])

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    try:
        for version in range(1, 2000):
            store[record().key] = record(version=version)
            cache.drop(record().key)
            seen = cache.get(record().key, NOW)
            assert seen is None or seen.version == version
    finally:
        over.set()
        for reader in readers:
            reader.join()


# Interleavings: two processes on one store, of which one has a near cache, and messages that arrive when they will


class Network:
    """Messages under way to the process with the near cache."""

    def __init__(self, cache: NearCache) -> None:
        self.cache = cache
        self.messages: list[bytes] = []

    def deliver(self) -> None:
        for key in self.messages:
            self.cache.drop(key)
        self.messages.clear()


class Reporting(CountingBackend):
    """A store that reports each change in the same step in which it makes it."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.networks: list[Network] = []

    def _report(self, key: bytes) -> None:
        for network in self.networks:
            network.messages.append(key)

    async def update(self, record: Record, expected_version: int, now: Millis) -> bool:
        done = await self.inner.update(record, expected_version, now)
        self._report(record.key)
        return done

    async def delete(self, key: bytes, now: Millis) -> bool:
        done = await self.inner.delete(key, now)
        self._report(key)
        return done

    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        for each in await self.inner.list(owner, now):
            self._report(each.key)
        return await self.inner.delete_owner(owner, now, keep)


class Near(CountingBackend):
    """What `RedisBackend` does with its near cache, over a store that stops before each verb, and before it keeps."""

    abilities = (CountsEpochs,)

    def __init__(self, inner: SteppingBackend, cache: NearCache) -> None:
        super().__init__(inner)
        self.cache, self.world = cache, inner.world

    async def get(self, key: bytes, now: Millis) -> Record | None:
        await self.world.step(Op("near", (b"near:",), ()))
        found = self.cache.get(key, now)
        if found is not None:
            return found
        ticket = self.cache.begin(key)
        assert ticket is not None
        read = await self.inner.get(key, now)
        await self.world.step(Op("keep", (), (b"near:",)))
        self.cache.end(ticket, read)
        return read

    async def update(self, record: Record, expected_version: int, now: Millis) -> bool:
        self.cache.drop(record.key)
        done = await self.inner.update(record, expected_version, now)
        self.cache.drop(record.key)
        return done

    async def delete(self, key: bytes, now: Millis) -> bool:
        self.cache.drop(key)
        done = await self.inner.delete(key, now)
        self.cache.drop(key)
        return done


class Careless(NearCache):
    """Keeps what it read, whatever was reported meanwhile."""

    def end(self, ticket: Ticket, record: Record | None) -> None:
        self._reading[ticket.key] = ticket
        super().end(ticket, record)


def explored(kind: type[NearCache], age: float, *, cold: bool) -> int:
    """A request of a process with a near cache, a revocation by another process, and the delivery of its message.

    After the revocation has returned and its message was delivered nobody is served, in any order; and no Set-Cookie
    leaves for a dead session, delivered or not (`World.request` looks).
    """
    networks: list[Network] = []

    class Store(CredentialsCache):
        def __init__(self, backend: SteppingBackend, **options: Any) -> None:
            seconds = Seconds()
            cache = kind(16, seconds)
            cache.heard(cache.opened(), seconds.at)
            near = Near(backend, cache)
            networks.append(Network(cache))
            assert isinstance(backend.inner, Reporting)
            backend.inner.networks.append(networks[-1])
            super().__init__(near, **options)

    def plan(world: World) -> Plan:
        network = networks[-1]
        elsewhere = CredentialsCache(
            SteppingBackend(world.auth.store.backend.inner.inner, world),  # type: ignore[attr-defined]
            namespace=world.namespace,
        )
        browser = world.browser(world.person(), age=age)
        network.deliver()
        # The copy that the process has from the request before, or not.
        assert cold or world.who(browser.id) is not None
        found = world._sid(browser.id)  # the sid of an id, which only a keyring decodes
        assert found is not None

        async def revoke() -> None:
            await elsewhere.delete(found, world.auth.now())

        async def deliver() -> None:
            for _ in range(2):
                await world.step(Op("deliver", (), (b"near:",)))
                network.deliver()

        def check() -> None:
            network.deliver()
            world.expect(world.who(browser.id) is None, "a revoked session is served after its message")

        tasks = {"request": world.request(browser), "revoke": revoke(), "deliver": deliver()}
        return Plan(tasks, check)

    core = Core(store=Store, backend=Reporting)
    return explore(Scenario("near", plan), MemoryBackend(), core).orders


@pytest.mark.parametrize("cold", [False, True], ids=["hit", "miss"])
@pytest.mark.parametrize("age", [0, STALE], ids=["plain", "renewing"])
def test_sto_06_no_order_serves_a_revoked_session_after_its_message(age: float, cold: bool) -> None:
    assert explored(NearCache, age, cold=cold) >= 30


def test_the_model_finds_a_cache_that_keeps_what_was_reported_changed() -> None:
    with pytest.raises(Violation, match="after its message"):
        explored(Careless, 0, cold=True)
