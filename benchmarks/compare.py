"""The cost that a layer of authentication adds to a request, beside a hand-written floor and beside its peers.

Each contender runs in its own process and is called without a server. Blocks of requests alternate in rounds. Each
block is scaled by a yardstick that runs beside it. docs/benchmarks.md explains how to read the results.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks import servers
from benchmarks.contenders import contenders
from benchmarks.contenders.base import Contender
from benchmarks.figures import Measured, Spread, normal_yard, ratio, scaled, spread
from benchmarks.subject import Counts
from benchmarks.tables import table
from benchmarks.workers import Samples, cores, opened, run

BLOCK_SECONDS = 0.012
LAPS = 3
"""The number of times that all processes are restarted: their memory layout changes the figures by some percent."""

ROUNDS = 14
"""The number of rounds in each lap."""

FLOOR = {"asgi": "floor", "wsgi": "floor-wsgi"}


def chosen(only: Sequence[str], left: dict[str, str]) -> list[Contender]:
    """Return the contenders whose names contain one of the words (all without words), and the floors.

    Note in ``left`` those that cannot run here.
    """
    found = []
    for contender in contenders().values():
        named = not only or any(word in contender.name for word in only) or contender.name == "floor"
        if not named:
            continue
        if missing := contender.missing():
            left[contender.name] = f"not installed: {', '.join(missing)}"
        elif contender.redis and servers.redis_executable() is None:
            left[contender.name] = servers.MISSING_REDIS
        else:
            found.append(contender)
    return found


@contextmanager
def redis_beside(needed: bool) -> Iterator[str]:
    """Yield the URL of a Redis server on the other processor, or an empty string if none is needed."""
    if not needed:
        yield ""
        return
    with servers.directory() as directory, ExitStack() as stack:
        server = servers.RedisServer(directory, durable=False)
        stack.enter_context(servers.running(server))
        server.pin(cores()[1])
        yield server.url


def measure(
    found: Sequence[Contender], *, laps: int = LAPS, rounds: int = ROUNDS, block_seconds: float = BLOCK_SECONDS
) -> dict[str, Measured]:
    """Measure all contenders, side by side."""
    samples: Samples = {}
    counts: dict[str, Counts] = {}
    with redis_beside(any(contender.redis for contender in found)) as redis_url:
        for _ in range(laps):
            with tempfile.TemporaryDirectory(prefix="powauth-bench-") as directory:
                names = [contender.name for contender in found]
                with opened(names, Path(directory), redis_url) as workers:
                    run(workers, rounds, block_seconds, samples)
                    for worker in workers:
                        counts[worker.name] = worker.counts()
    yard = normal_yard([sample for each in samples.values() for sample in each])
    return {name: scaled(each, yard, counts[name]) for name, each in samples.items()}


HEAD = ["contender", "added µs", "quartiles", "x floor", "bare µs", "trips", "writes", "SQL"]


def rows(found: Sequence[Contender], measured: Mapping[str, Measured]) -> list[list[str]]:
    """Return one row for each contender, grouped by interface."""
    result = []
    for interface in ("asgi", "wsgi"):
        for contender in found:
            if contender.interface != interface or contender.name not in measured:
                continue
            figures = measured[contender.name]
            added = spread(figures.added)
            floor = measured.get(FLOOR[interface])
            counts = figures.counts
            result.append(
                [
                    f"{contender.title} ({interface.upper()})",
                    f"{added.median:.2f}",
                    f"{added.low:.2f} - {added.high:.2f}",
                    "" if floor is None else _times(ratio(figures, floor)),
                    f"{spread(figures.bare).median:.2f}",
                    *(_count(each) for each in (counts.round_trips, counts.writes, counts.statements)),
                ]
            )
    return result


def _times(found: Spread) -> str:
    return f"{found.median:.2f} ({found.low:.2f} - {found.high:.2f})"


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="words, with commas between: contenders whose names contain one")
    parser.add_argument("--quick", action="store_true", help="a few rounds, to see that it works")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="in each of the laps")
    parser.add_argument("--laps", type=int, default=LAPS, help="how often all processes are started anew")
    options = parser.parse_args(arguments)
    laps, rounds = (1, 5) if options.quick else (options.laps, options.rounds)
    left: dict[str, str] = {}
    found = chosen([word for word in options.only.split(",") if word], left)
    measured = measure(found, laps=laps, rounds=rounds)
    print(table(HEAD, rows(found, measured)))
    for name, reason in left.items():
        print(f"left out: {name} ({reason})", file=sys.stderr)


if __name__ == "__main__":
    main()
