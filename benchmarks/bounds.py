"""The bounds that this comparison must meet, beside the measured values. docs/benchmarks.md explains each of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from benchmarks.backends import Row
from benchmarks.beside_sign_ins import Beside
from benchmarks.end_to_end import Throughput
from benchmarks.figures import Measured, Spread, ratio
from benchmarks.signing_in import SignIn

Direction = Literal["at most", "at least"]


@dataclass
class Results:
    """The results of the parts of the comparison that were run."""

    measured: Mapping[str, Measured] = field(default_factory=dict)
    throughput: Sequence[Throughput] = ()
    stores: Sequence[Row] = ()
    sign_ins: Sequence[SignIn] = ()
    disk_sync: Spread | None = None
    beside: Sequence[Beside] = ()


class Verdict(NamedTuple):
    """One bound beside the measured value."""

    what: str
    bound: str
    measured: str
    holds: bool


class Added(NamedTuple):
    """A bound on the ratio of two contenders' added costs: ``one`` divided by ``other``."""

    what: str
    one: str
    other: str
    direction: Direction
    limit: float


READ = {"": "the user read", "-unread": "the user not read"}
"""The use that the handler makes of the current user, by the end of the contender's name."""


def _for_each(what: str, one: str, other: str, direction: Direction, limit: float) -> list[Added]:
    """Return the same bound for each of `READ`. ``*`` ends the name of powauth's contender."""
    return [
        Added(f"{what}; {said}", one.replace("*", suffix), other.replace("*", suffix), direction, limit)
        for suffix, said in READ.items()
    ]


PEERS = (
    Added("Starlette's SessionMiddleware to memory, ASGI", "starlette", "powauth-memory", "at least", 3),
    Added("starsessions on Redis to Redis, asyncio", "starsessions-redis", "powauth-redis", "at least", 2),
    Added("Litestar on Redis to Redis, asyncio", "litestar-redis", "powauth-redis", "at least", 2),
    Added("Flask-Session on Redis to Redis, asyncio", "flask-session-redis", "powauth-redis", "at least", 2),
    Added("fastapi-users on SQLite to SQLite, ASGI", "fastapi-users-sqlite", "powauth-sqlite", "at least", 10),
    Added("Django's sessions in SQLite to SQLite, WSGI", "django-sqlite", "powauth-wsgi-sqlite", "at least", 10),
    Added("Flask-Login to memory, on Flask", "flask-login", "powauth-flask-memory", "at least", 8),
    Added("Flask-Login to LMDB, on Flask", "flask-login", "powauth-flask-lmdb", "at least", 8),
)
"""Lower bounds on the cost of other libraries, as multiples of powauth's cost."""

ROWS = (
    Added("on Flask, to Flask-Login", "powauth-flask-memory-row", "flask-login", "at most", 1.1),
    Added(
        "on FastAPI through a Session, to fastapi-users",
        "powauth-fastapi-memory-row-session",
        "fastapi-users-sqlite",
        "at most",
        0.33,
    ),
    Added(
        "on FastAPI through an AsyncSession, to fastapi-users",
        "powauth-fastapi-memory-row",
        "fastapi-users-sqlite",
        "at most",
        0.6,
    ),
    Added(
        "on FastAPI through an AsyncSession, to SQLAlchemy's get",
        "powauth-fastapi-memory-row",
        "sqlalchemy-get",
        "at most",
        1.2,
    ),
)
"""Upper bounds on powauth's cost if the handler reads the user's row, as multiples of a peer's or of the query's."""

OWN = (
    *_for_each("Redis, asyncio, to a bare MGET", "powauth-redis*", "redis-mget", "at most", 1.15),
    *_for_each("Redis, asyncio, near cache, to the floor", "powauth-redis-near*", "floor", "at most", 2.5),
)
"""Upper bounds on powauth's cost, as multiples of the least that a layer can cost."""

GROWTH_NOISE = 0.15
"""The share of a read's time in a small store that may be noise in the extra time of a large store."""


def peer_verdicts(results: Results) -> list[Verdict]:
    """Return the verdicts on the comparison with peers, as far as there are results."""
    return _added(PEERS, results)


def row_verdicts(results: Results) -> list[Verdict]:
    """Return the verdicts on requests that read the user's row, as far as there are results."""
    return _added(ROWS, results)


def verdicts(results: Results) -> list[Verdict]:
    """Return the verdicts on powauth's own bounds, as far as there are results."""
    return [*_added(OWN, results), *_stores(results)]


def _added(limits: Sequence[Added], results: Results) -> list[Verdict]:
    found = results.measured
    return [
        _verdict(each.what, ratio(found[each.one], found[each.other]), each.direction, each.limit)
        for each in limits
        if each.one in found and each.other in found
    ]


def _stores(results: Results) -> list[Verdict]:
    found = []
    for name in dict.fromkeys(row.name for row in results.stores):
        of_size = sorted((row for row in results.stores if row.name == name), key=lambda row: row.sessions)
        least, most = of_size[0], of_size[-1]
        if least is most:
            continue
        grown, bare = most.read_ns - least.read_ns, most.bare_ns - least.bare_ns
        allowed = round(bare + GROWTH_NOISE * least.read_ns)
        bound = f"at most {allowed} (that of a bare read, {bare}, and {GROWTH_NOISE:.0%} of the smaller store's read)"
        what = f"{name}: a read's growth from {least.sessions:,} to {most.sessions:,} sessions, in ns"
        found.append(Verdict(what, bound, str(grown), grown <= allowed))
    return found


def _verdict(what: str, found: Spread, direction: Direction, limit: float) -> Verdict:
    holds = found.median <= limit if direction == "at most" else found.median >= limit
    return Verdict(what, f"{direction} {limit:g}", found.text(), holds)


PEERS_HEAD = ["a peer's added cost to powauth's", "bound", "measured", ""]
ROWS_HEAD = ["powauth's added cost with the user's row", "bound", "measured", ""]
HEAD = ["powauth's own bounds", "bound", "measured", ""]


def rows(found: Sequence[Verdict]) -> list[list[str]]:
    """Return the rows of the table."""
    return [[each.what, each.bound, each.measured, "holds" if each.holds else "does not hold"] for each in found]
