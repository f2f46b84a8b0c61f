"""Real processes and threads on one store: many workers with one stale id (LIF-05), and workers that are killed."""

import multiprocessing
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.session_processes import ANN, CARRIED_ON, ROUNDS, Answer, ask, kill_again_and_again, make_auth, serve
from harness.support import START, Clock
from powauth.backends.base import Backend, drive
from powauth.backends.lmdb import LMDBBackend
from powauth.backends.memory import MemoryBackend

WORKERS = 20
REQUESTS = 50
STALE = 16 * 60
"""Seconds after which an id is to be renewed."""

SHARES = [len(range(worker, REQUESTS, WORKERS)) for worker in range(WORKERS)]
"""How many of the requests each worker makes."""


def signed_in(backend: Backend) -> str:
    """The id of a session begun at `START`."""
    answer = ask(make_auth(backend, Clock()), None, sign_in=True)
    assert answer.sent is not None
    return answer.sent


def check_one_successor(backend: Backend, stale: str, answers: list[Answer]) -> None:
    assert [answer.user for answer in answers] == [ANN.email] * REQUESTS
    successors = {answer.sent for answer in answers} - {None}
    assert len(successors) == 1
    assert stale not in successors
    assert all(answer.sent is not None for answer in answers), "a client was left with the stale id alone"
    clock = Clock(START + STALE)
    assert drive(backend.count("credentials", int(clock() * 1000))) == 1
    [successor] = successors
    auth = make_auth(backend, clock)
    assert ask(auth, successor) == Answer(ANN.email, None)
    assert ask(auth, stale) == Answer(ANN.email, successor)


def test_lif_05_twenty_processes_with_one_stale_id_make_one_successor(quick_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    path = quick_path / "sessions"
    backend = LMDBBackend(path, durable=False)
    stale = signed_in(backend)
    barrier = context.Barrier(WORKERS)
    workers = []
    for share in SHARES:
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs, path, barrier, stale, START + STALE, share), daemon=True)
        process.start()
        theirs.close()
        workers.append((process, ours))
    answers: list[Answer] = []
    for process, ours in workers:
        assert ours.poll(90), "a worker does not answer"
        answers += ours.recv()
        process.join(30)
        assert process.exitcode == 0
    check_one_successor(backend, stale, answers)
    drive(backend.close())


@pytest.mark.parametrize("engine", ["memory", "lmdb"])
def test_lif_05_twenty_threads_with_one_stale_id_make_one_successor(engine: str, quick_path: Path) -> None:
    backend: Backend = MemoryBackend() if engine == "memory" else LMDBBackend(quick_path / "sessions", durable=False)
    for _ in range(20):
        stale = signed_in(backend)
        auth = make_auth(backend, Clock(START + STALE))
        barrier = threading.Barrier(WORKERS)
        answers: list[Answer] = []

        def work(share: int) -> None:
            barrier.wait(60)  # noqa: B023
            answers.extend([ask(auth, stale) for _ in range(share)])  # noqa: B023

        threads = [threading.Thread(target=work, args=(share,)) for share in SHARES]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        check_one_successor(backend, stale, answers)
        drive(auth.revoke_user(ANN))
    drive(backend.close())


def test_no_acknowledged_session_is_lost_when_workers_are_killed(
    quick_path: Path, report: Callable[[str], None]
) -> None:
    """kill -9, 200 times, in the midst of sign-ins and renewals: no session is lost, none is half there."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=kill_again_and_again, args=(theirs, quick_path / "sessions", 1), daemon=False)
    process.start()
    theirs.close()
    assert ours.poll(240), "no answer"
    wrong, answered, begun, clients = ours.recv()
    process.join(30)
    assert process.exitcode == 0
    assert wrong == []
    assert clients == begun > ROUNDS // 4
    assert answered - begun > ROUNDS * CARRIED_ON // 4
    report(f"kill -9: {ROUNDS} times, in {begun} sign-ins and {answered - begun} renewals: nothing lost")
