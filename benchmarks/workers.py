"""Each contender in its own process, which is idle between calls. The imports of one do not slow down another.

Django has one set of settings per process, and a garbage collector examines all objects of a process.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.contenders import contenders
from benchmarks.contenders.base import Place
from benchmarks.counting import count
from benchmarks.subject import Counts, Sample, Subject

Samples = dict[str, list[Sample]]


def cores() -> tuple[set[int], set[int]]:
    """Return the processor of the app, and that of the servers and clients: the last two allowed ones.

    On a machine with one processor they share it, and the figures of engines mean little.
    """
    allowed = sorted(os.sched_getaffinity(0))
    return {allowed[-1]}, {allowed[-2] if len(allowed) > 1 else allowed[-1]}


class Worker:
    """A process with one open `Subject`. It is idle between calls."""

    def __init__(self, name: str, place: Place, core: set[int]) -> None:
        self.name = name
        ours, theirs = get_context("spawn").Pipe()
        self._pipe = ours
        self._process = get_context("spawn").Process(target=_serve, args=(name, place, core, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def ready(self) -> None:
        """Wait until it is signed in and warm."""
        self._result()

    def requests_within(self, seconds: float) -> int:
        """See `Subject.requests_within`."""
        return int(self._call("requests_within", seconds))

    def sample(self, requests: int, layered_first: bool) -> Sample:
        """See `Subject.sample`."""
        found: Sample = self._call("sample", requests, layered_first)
        return found

    def counts(self) -> Counts:
        """See `count`."""
        found: Counts = self._call("counts")
        return found

    def close(self) -> None:
        """End the process."""
        if self._process.is_alive():
            try:
                self._call("close")
            except (EOFError, OSError):
                self._process.terminate()
        self._process.join(30)
        if self._process.is_alive():
            self._process.kill()

    def _call(self, *call: object) -> Any:
        self._pipe.send(call)
        return self._result()

    def _result(self) -> Any:
        try:
            worked, value = self._pipe.recv()
        except EOFError:
            raise RuntimeError(f"the process of {self.name} has ended") from None
        if not worked:
            raise RuntimeError(f"{self.name}: {value}")
        return value


def _serve(name: str, place: Place, core: set[int], pipe: Connection) -> None:
    """Execute the calls from the pipe until it sends the end."""
    os.sched_setaffinity(0, core)
    quiet()
    try:
        with Subject(contenders()[name], place) as subject:
            pipe.send((True, None))
            calls: dict[str, Callable[..., Any]] = {
                "requests_within": subject.requests_within,
                "sample": lambda requests, layered_first: subject.sample(requests, layered_first=layered_first),
                "counts": lambda: count(subject),
            }
            while (call := pipe.recv())[0] != "close":
                pipe.send((True, calls[call[0]](*call[1:])))
    except Exception as error:
        pipe.send((False, f"{type(error).__name__}: {error}"))
        raise
    pipe.send((True, None))


def quiet() -> None:
    """Silence the libraries' logs and warnings, which do not belong into the table."""
    import logging
    import warnings

    logging.disable(logging.WARNING)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


@contextmanager
def opened(names: Sequence[str], directory: Path, redis_url: str) -> Iterator[list[Worker]]:
    """Yield a ready worker for each contender."""
    app_core, _ = cores()
    with ExitStack() as stack:
        workers = []
        for name in names:
            place = Place(directory / name, redis_url)
            place.directory.mkdir()
            worker = Worker(name, place, app_core)
            stack.callback(worker.close)
            workers.append(worker)
        for worker in workers:
            worker.ready()
        yield workers


def turns(names: Sequence[str], rounds: int) -> Iterator[tuple[str, bool]]:
    """Yield the contenders in their order, and whether the layered app comes first.

    Each round has every contender once. Every other round is reversed, so that no contender always follows the same
    one. Each contender's layered app comes first in every other of its turns.
    """
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            yield name, number // 2 % 2 == 0


def run(workers: Sequence[Worker], rounds: int, block_seconds: float, samples: Samples) -> None:
    """Run the rounds. Each round adds a sample to every contender's samples."""
    by_name = {worker.name: worker for worker in workers}
    sizes = {worker.name: worker.requests_within(block_seconds) for worker in workers}
    for name, layered_first in turns(list(by_name), rounds):
        samples.setdefault(name, []).append(by_name[name].sample(sizes[name], layered_first))
