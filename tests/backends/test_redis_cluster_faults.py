"""`RedisBackend` on a Redis Cluster whose slots move and whose masters die: what holds, and what Redis can lose."""

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import timedelta
from typing import Any, cast

import msgspec
import pytest
import redis.cluster
from redis.crc import key_slot

from harness.internals import owner_place, record_place
from harness.redis_servers import Server, info, node_id, own_cluster, unique_prefix, wait_for, wait_for_replica
from powauth.backends.base import Millis, Record, drive, make_key, make_owner, shard_of
from powauth.backends.redis import RedisBackend
from powauth.errors import StoreUnavailable

NOW: Millis = 1_900_000_000_000
TTL: Millis = 1_800_000
OWNER = make_owner("credentials", "42")

Verb = Callable[[RedisBackend], Coroutine[Any, Any, object]]

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "asyncio"])


def record(name: bytes = b"a", owner: bytes = OWNER, *, version: int = 0, value: bytes = b"value") -> Record:
    return Record(make_key("credentials", shard_of(owner) + name), owner, version, NOW, NOW + TTL, value)


def cluster_url(servers: list[Server]) -> str:
    return "redis+cluster://" + ",".join(server.address for server in servers)


@pytest.fixture(scope="module")
def masters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    with own_cluster(tmp_path_factory.mktemp("moving")) as servers:
        yield servers


class Move:
    """One slot on its way from the master that has it to another."""

    def __init__(self, masters: list[Server], slot: int, source: int) -> None:
        self.masters = masters
        self.slot = slot
        self.source = next(server for server in masters if server.port == source)
        self.target = masters[(masters.index(self.source) + 1) % len(masters)]

    def begin(self) -> None:
        self.target.ask("CLUSTER SETSLOT", self.slot, "IMPORTING", node_id(self.source))
        self.source.ask("CLUSTER SETSLOT", self.slot, "MIGRATING", node_id(self.target))

    def key(self, key: bytes) -> None:
        assert self.source.ask("MIGRATE", "127.0.0.1", self.target.port, key, 0, 5000) in {b"OK", b"NOKEY"}

    def rest(self) -> None:
        # In two words: redis-py would decode the keys of the one command that it knows.
        while keys := self.source.ask("CLUSTER", "GETKEYSINSLOT", self.slot, 100):
            assert isinstance(keys, list)
            for key in keys:
                self.key(key)

    def end(self) -> None:
        # The target first: were it last, nobody would own the slot in between.
        for server in (self.target, self.source, *self.masters):
            server.ask("CLUSTER SETSLOT", self.slot, "NODE", node_id(self.target))
        # A master that has not heard of this move yet could end the next at the same epoch: both would own the slot.
        wait_for(lambda: len({epochs(server) for server in self.masters}) == 1, "masters that agree")


def epochs(server: Server) -> frozenset[tuple[bytes, bytes]]:
    """Each node and its epoch, as this one knows them."""
    answer = server.ask("CLUSTER", "NODES")
    assert isinstance(answer, bytes)
    return frozenset((fields[0], fields[6]) for fields in map(bytes.split, answer.splitlines()))


def slot_of(backend: RedisBackend) -> int:
    return int(key_slot(owner_place(backend, OWNER)[0].base))


def port_of(client: redis.cluster.RedisCluster, slot: int) -> int:
    """Of the master that has the slot, as the client knows."""
    node = cast("Any", client).nodes_manager.get_node_from_slot(slot)
    return int(node.port)


VERBS: dict[str, Verb] = {
    "list": lambda backend: backend.list(OWNER, NOW),
    "create": lambda backend: backend.create(record(b"c"), None, NOW),
    "update": lambda backend: backend.update(record(b"a", version=1), 0, NOW),
    "delete": lambda backend: backend.delete(record(b"a").key, NOW),
    "epoch": lambda backend: backend.epoch(OWNER, NOW, advance=True),
    "delete_owner": lambda backend: backend.delete_owner(OWNER, NOW),
    "delete_owner-keep": lambda backend: backend.delete_owner(OWNER, NOW, keep=record(b"a").key),
    "list-one": lambda backend: backend.list(OWNER, NOW),
    "delete_owner-one": lambda backend: backend.delete_owner(OWNER, NOW),
}


@pytest.mark.parametrize("with_epoch", [False, True], ids=["no-epoch", "epoch"])
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_in_the_midst_of_a_move_is_done_or_refused_but_never_half_done(
    masters: list[Server], verb: str, with_epoch: bool
) -> None:
    """Each verb, with each part of the owner's keys moved and the others not."""
    # A single missing key is another case for a cluster than one of several.
    base = [record(b"b")] if verb.endswith("-one") else [record(b"b"), record(b"a")]

    async def attempt(backend: RedisBackend, moved: tuple[int, ...]) -> bool:
        for each in base:
            assert await backend.create(each, None, NOW)
        before = await backend.epoch(OWNER, NOW, advance=True) if with_epoch else 0
        place, user = owner_place(backend, OWNER)
        keys = [place.records + each.key.partition(b":")[2] for each in base]
        keys += [place.indexes + user, place.epochs + user]
        slot = slot_of(backend)
        move = Move(masters, slot, port_of(client, slot))
        move.begin()
        for position in moved:
            move.key(keys[position])
        for each in base:
            assert await backend.get(each.key, NOW) == each
        assert await backend.epoch(OWNER, NOW) == before
        answer: object = None
        try:
            answer = await VERBS[verb](backend)
        except StoreUnavailable:
            pass
        finally:
            move.rest()
            move.end()
        outcomes: dict[str, tuple[object, list[Record]]] = {
            "list": (base, base),
            "create": (True, [record(b"c"), *base]),
            "update": (True, [record(b"b"), record(b"a", version=1)]),
            "delete": (True, [record(b"b")]),
            "epoch": (await backend.epoch(OWNER, NOW), base),
            "delete_owner": (2, []),
            "delete_owner-keep": (1, [record(b"a")]),
            "list-one": (base, base),
            "delete_owner-one": (1, []),
        }
        right, left = outcomes[verb]
        if answer is None:
            left = base
            assert await backend.epoch(OWNER, NOW) == before
        else:
            assert answer == right
        assert await backend.list(OWNER, NOW) == left
        for each in (record(b"a"), record(b"b"), record(b"c")):
            assert (await backend.get(each.key, NOW) is not None) == (each.key in {one.key for one in left})
        assert await backend.delete_owner(OWNER, NOW) == len(left)
        return answer is not None

    done = 0
    count = len(base) + 1 + with_epoch
    with redis.cluster.RedisCluster(host="127.0.0.1", port=masters[0].port, socket_timeout=5) as client:
        # redis-py waits for the end of a move, up to half a second; this one does not end before it gives up.
        cast("Any", client).RedisClusterRequestTTL = 2
        for size in range(count + 1):
            for moved in itertools.combinations(range(count), size):
                done += drive(attempt(RedisBackend(client, prefix=unique_prefix()), moved))
    # These need a key that is not there yet, of which a cluster cannot tell whether it has moved already.
    always_refused = verb == "create" or (verb.startswith("delete_owner") and not with_epoch)
    assert (done == 0) == always_refused


class Load:
    """Workers that sign in, renew and sign out, each with sessions of its own, and remember what was acknowledged."""

    def __init__(self, backend: RedisBackend, owners: list[bytes]) -> None:
        self.backend = backend
        self.owners = owners
        self.stop = False
        self.states: dict[bytes, set[int | None]] = {}
        self.done = self.refused = 0
        self.errors: list[BaseException] = []

    async def worker(self, number: int) -> None:
        """States of a key: the versions that may be there now; ``None`` is absence."""
        for turn in itertools.count():
            owner = self.owners[(number + turn) % len(self.owners)]
            fresh = record(b"%d-%d" % (number, turn), owner)
            for version in range(4):
                if self.stop:
                    return
                states = self.states.setdefault(fresh.key, {None})
                after: int | None = version if version < 3 else None
                try:
                    if version == 0:
                        done = await self.backend.create(fresh, None, NOW)
                    elif version < 3:
                        done = await self.backend.update(
                            msgspec.structs.replace(fresh, version=version), version - 1, NOW
                        )
                    elif turn % 2:
                        done = await self.backend.delete(fresh.key, NOW)
                    else:
                        break
                except StoreUnavailable:
                    # Whether it was done nobody knows.
                    states.add(after)
                    self.refused += 1
                    break
                assert done is True, (fresh.key, version)
                self.states[fresh.key] = {after}
                self.done += 1

    def run(self, meanwhile: Callable[[], None], workers: int = 4) -> None:
        """Workers in threads, while something else happens in this one."""
        threads = [threading.Thread(target=self._body, args=(number,)) for number in range(workers)]
        for thread in threads:
            thread.start()
        try:
            meanwhile()
        finally:
            self.stop = True
            for thread in threads:
                thread.join()
        for error in self.errors:
            raise error

    def _body(self, number: int) -> None:
        try:
            drive(self.worker(number))
        except BaseException as error:
            self.errors.append(error)

    async def run_tasks(self, meanwhile: Callable[[], None], workers: int = 4) -> None:
        """Workers in tasks, while something else happens in a thread."""

        async def lead() -> None:
            try:
                await asyncio.to_thread(meanwhile)
            finally:
                self.stop = True

        await asyncio.gather(lead(), *(self.worker(number) for number in range(workers)))

    async def check(self, tolerated: Callable[[bytes, int | None], bool] = lambda key, version: False) -> int:
        """Every key is as acknowledged, or as tolerated; how many were tolerated."""
        lost = 0
        live: set[bytes] = set()
        for key, states in self.states.items():
            found = await self.backend.get(key, NOW)
            version = None if found is None else found.version
            if version not in states:
                assert tolerated(key, version), (key, version, states)
                lost += 1
            if found is not None:
                live.add(key)
        listed = [each.key for owner in self.owners for each in await self.backend.list(owner, NOW)]
        assert {*listed} == live
        assert len(listed) == len(live)
        return lost


@both
def test_a_slot_that_moves_under_load_loses_nothing(masters: list[Server], asynchronous: bool) -> None:
    prefix = unique_prefix()

    def make() -> RedisBackend:
        return RedisBackend(
            cluster_url(masters), prefix=prefix, timeout=timedelta(seconds=10), asynchronous=asynchronous
        )

    def moves() -> None:
        slot = slot_of(RedisBackend("redis://127.0.0.1:1", prefix=prefix))
        with redis.cluster.RedisCluster(host="127.0.0.1", port=masters[0].port) as client:
            source = port_of(client, slot)
        for _ in range(6):
            move = Move(masters, slot, source)
            source = move.target.port
            move.begin()
            time.sleep(0.02)
            move.rest()
            move.end()
            time.sleep(0.1)

    async def whole(backend: RedisBackend) -> None:
        load = Load(backend, [OWNER])
        if asynchronous:
            await load.run_tasks(moves)
        else:
            load.run(moves)
        assert load.done > 50
        assert await load.check() == 0
        await backend.close()

    async def in_loop() -> None:
        await whole(make())

    if asynchronous:
        asyncio.run(in_loop())
    else:
        drive(whole(make()))


def test_a_master_that_dies_under_load(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Its replica takes over; what it had confirmed is there, the last moments before may be lost, as documented."""
    with own_cluster(tmp_path_factory.mktemp("dying"), replicas=1) as servers:
        prefix = unique_prefix()
        backend = RedisBackend(cluster_url(servers), prefix=prefix, timeout=timedelta(seconds=1))
        owners = [make_owner("credentials", str(number)) for number in range(12)]
        # Confirmed by the replicas, so whoever dies has not had them alone.
        early = [record(b"early", owner) for owner in owners]
        for each in early:
            assert drive(backend.create(each, 0, NOW))
        for server in servers[:3]:
            wait_for_replica(server)
        victim, heir = servers[0], servers[3]
        load = Load(backend, owners)

        def death() -> None:
            time.sleep(0.3)
            victim.kill()
            wait_for(lambda: info(heir, "replication")["role"] == "master", "the replica a master")
            before = load.done
            wait_for(lambda: load.done > before + 200, "work going on")

        load.run(death)
        assert load.refused > 0, "while nobody had the slots"
        assert load.done > 300
        for each in early:
            assert drive(backend.get(each.key, NOW)) == each
        victims = {each.key.partition(b":")[2][:2] for each in early if heir_has(heir, backend, each)}
        assert victims

        def lost_by_the_victim(key: bytes, version: int | None) -> bool:
            # Only what the victim had may be older than acknowledged, never newer, never anything else.
            newest = max((state for state in load.states[key] if state is not None), default=3)
            return key.partition(b":")[2][:2] in victims and (version is None or version <= newest)

        for each in early:
            load.states[each.key] = {0}
        lost = drive(load.check(lost_by_the_victim))
        assert lost < 20

        # The old master comes back as a replica of the new one. Nothing is read from it.
        victim.start()
        wait_for(lambda: info(victim, "replication")["role"] == "slave", "the old master a replica")
        for each in early:
            assert drive(backend.update(msgspec.structs.replace(each, version=1), 0, NOW)) is True

        # Neither master nor replica: those slots are out of reach, the others are not.
        heir.kill()
        victim.kill()
        survivors = [each for each in early if each.key.partition(b":")[2][:2] not in victims]
        doomed = next(each for each in early if each.key.partition(b":")[2][:2] in victims)
        with pytest.raises(StoreUnavailable):
            drive(backend.get(doomed.key, NOW))
        for each in survivors:
            wait_for(lambda one=each: answers(backend, one), "the others within reach")  # type: ignore[misc]
            found = drive(backend.get(each.key, NOW))
            assert found is not None
            assert found.version == 1
        with pytest.raises(StoreUnavailable):
            drive(backend.create(record(b"late", doomed.owner), None, NOW))
        drive(backend.close())


def heir_has(heir: Server, backend: RedisBackend, each: Record) -> bool:
    place, identifier = record_place(backend, each.key)
    try:
        return heir.ask("EXISTS", place.records + identifier) == 1
    except redis.ResponseError:
        return False


def answers(backend: RedisBackend, each: Record) -> bool:
    try:
        drive(backend.get(each.key, NOW))
    except StoreUnavailable:
        return False
    return True
