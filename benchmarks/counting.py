"""The commands that an authenticated request sends to engines, counted at the engine."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from benchmarks.subject import Counts, Subject

REQUESTS = 10
CHANGES = ("INSERT", "UPDATE", "DELETE", "REPLACE")
NO_STATEMENTS = ("BEGIN", "COMMIT", "ROLLBACK", "SAVEPOINT", "RELEASE", "PRAGMA")


def count(subject: Subject) -> Counts:
    """Return the mean over a few requests of the app with its layer. No request is due for a renewal."""

    def visit() -> None:
        for number in range(REQUESTS):
            subject.ask(subject.cookies[number % len(subject.cookies)])

    noting, redis_counts = subject.pair.noting, (0, 0, 0)
    subject.settle()
    with nullcontext([]) if noting is None else noting() as statements:
        if subject.contender.redis:
            redis_counts = _count_redis(subject.place.redis_url, visit)
        else:
            visit()
    round_trips, commands, redis_writes = redis_counts
    sql = [each.lstrip().upper() for each in statements]
    sql = [each for each in sql if not each.startswith(NO_STATEMENTS)]
    engines = subject.contender.redis or noting is not None
    return Counts(
        round_trips=round_trips / REQUESTS if subject.contender.redis else None,
        commands=commands / REQUESTS if subject.contender.redis else None,
        writes=(redis_writes + sum(each.startswith(CHANGES) for each in sql)) / REQUESTS if engines else None,
        statements=len(sql) / REQUESTS if noting is not None else None,
    )


def _count_redis(url: str, visit: Callable[[], None]) -> tuple[int, int, int]:
    """Return the number of packets that the server read, of commands in them, and of commands that change data.

    The numbers come from the server's own counters, minus the cost of reading these. MONITOR would slow the server.
    ``HELLO`` does not count: it is a near cache's heartbeat, twice a second.
    """
    import redis

    with redis.Redis.from_url(url) as client:

        def counters() -> tuple[int, dict[str, int]]:
            stats: dict[str, Any] = client.info("commandstats")
            calls = {name.removeprefix("cmdstat_"): int(values["calls"]) for name, values in stats.items()}
            reads = int(client.info("stats")["total_reads_processed"])
            return reads, calls

        idle, before = counters(), counters()
        visit()
        after = counters()
        own_reads = before[0] - idle[0]
        made = {name: calls - before[1].get(name, 0) for name, calls in after[1].items() if name != "info"}
        made = {name: calls for name, calls in made.items() if calls}
        heartbeats = made.pop("hello", 0)
        flags = client.execute_command("COMMAND INFO", *made) if made else []
        changing = {_text(command[0]) for command in flags if b"write" in command[2] or "write" in command[2]}
        return (
            after[0] - before[0] - own_reads - heartbeats,
            sum(made.values()),
            sum(calls for name, calls in made.items() if name in changing),
        )


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name
