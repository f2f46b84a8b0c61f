import os
import random
import select
import time
from pathlib import Path

import msgspec

from harness import lmdb_processes as processes
from harness.lmdb_processes import NOW, TINY, Child, Operation, apply, check_indexes, content
from powauth.backends.base import Record, drive, make_owner
from powauth.backends.lmdb import LMDBBackend

ROUNDS = 100
"""Two workers are killed in each."""


class Worker:
    """A process that writes; what it said that it was about to do, and had done."""

    def __init__(self, nursery: Child, fifo: Path, path: Path, seed: int, user: str) -> None:
        os.mkfifo(fifo, 0o600)
        self.descriptor = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        nursery.connection.send((str(fifo), path, seed, user))
        self.pid = nursery.receive()
        fifo_opened = select.select([self.descriptor], [], [], 60)[0]
        assert fifo_opened, "the worker does not begin"
        fifo.unlink()
        self.buffer = b""
        self.acknowledged: list[Operation] = []
        self.pending: Operation | None = None

    def read(self) -> bool:
        """Wait for more; False at the end of the process."""
        assert select.select([self.descriptor], [], [], 60)[0], "the worker hangs"
        more = os.read(self.descriptor, 1 << 20)
        *lines, self.buffer = (self.buffer + more).split(b"\n")
        for line in lines:
            what, operation = msgspec.json.decode(line, type=tuple[str, Operation])
            if what == "begin":
                self.pending = operation
            else:
                assert operation == self.pending
                self.acknowledged.append(operation)
                self.pending = None
        return bool(more)

    def read_until(self, number: int) -> None:
        """Wait until so many operations are acknowledged."""
        while len(self.acknowledged) < number:
            assert self.read(), "the worker fails"

    def kill(self) -> None:
        """Kill it, and hear its last words."""
        os.kill(self.pid, 9)
        while self.read():
            pass
        os.close(self.descriptor)

    def outcomes(self, before: dict[bytes, Record]) -> list[dict[bytes, Record]]:
        """What may be in the store: what was acknowledged, and perhaps what was in flight."""
        state = dict(before)
        for operation in self.acknowledged:
            apply(state, operation)
        if self.pending is None:
            return [state]
        further = dict(state)
        apply(further, self.pending)
        return [state, further]


def test_sto_05_kill_9_loses_nothing_acknowledged_and_leaves_nothing_half_done(tmp_path: Path) -> None:
    chance = random.Random(20)
    path = tmp_path / "store"
    users = ["1", "2"]
    states: dict[str, dict[bytes, Record]] = {user: {} for user in users}
    kills = in_flight = landed = 0
    nursery = Child(processes.nursery)
    for number in range(ROUNDS):
        workers = {
            user: Worker(nursery, tmp_path / f"{number}-{user}", path, 2 * number + place, user)
            for place, user in enumerate(users)
        }
        victim, survivor = chance.sample(users, 2)
        workers[victim].read_until(chance.randrange(12))
        moment = time.perf_counter() + chance.uniform(0, 0.001)
        while time.perf_counter() < moment:
            pass
        workers[victim].kill()
        # The other goes on, whatever lock the killed one held.
        workers[survivor].read_until(len(workers[survivor].acknowledged) + 3)
        workers[survivor].kill()
        kills += 2

        backend = LMDBBackend(path, map_size=TINY, max_map_size=1 << 30)
        records = check_indexes(backend)
        for record in records.values():
            assert record.value == content(record.key, record.version)
        for user, worker in workers.items():
            outcomes = worker.outcomes(states[user])
            owner = make_owner("app", user)
            found = {key: record for key, record in records.items() if record.owner == owner}
            assert found in outcomes
            assert {record.key: record for record in drive(backend.list(owner, NOW))} == found
            in_flight += worker.pending is not None
            landed += len(outcomes) == 2 and found == outcomes[1] != outcomes[0]
            states[user] = found
        drive(backend.close())
    nursery.connection.send(None)
    nursery.finish()
    assert kills == 200
    assert in_flight > 50, "most were killed in the midst of something"
    assert landed < in_flight
