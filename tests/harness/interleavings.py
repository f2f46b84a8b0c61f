"""Drives concurrent requests over the real core through every order of their steps (stateless model checking).

The core suspends only at its awaits. Each await that uses shared state is a checkpoint here: every verb of the backend
and every query of the users context announces the state that it uses, and waits to be chosen. The start of a response
and its arrival at the client are checkpoints, too, and a clock may be one of the tasks. Between two checkpoints a
request only computes, so two executions can differ only in the order of checkpoints.

`explore` runs a scenario repeatedly until it has tried all paths of choices, depth first. Each run has an empty
namespace. Two adjacent steps that use different state, or only read, can be swapped without any effect on later steps.
With ``reduced``, only one order of each such class of orders is run, and the orders that it represents are counted.
(Sleep sets: P. Godefroid, "Partial-Order Methods for the Verification of Concurrent Systems", 1996, chapter 5.)
"""

import hashlib
import itertools
import logging
import random
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any, ClassVar, NamedTuple
from unittest.mock import patch

import msgspec

import powauth.extensions.records
import powauth.sessions.record
from harness.core_support import the_ids
from harness.support import SECRET, Clock, FakeConnection, Me, MemoryUsers, User, account_of
from powauth import Account, CredentialsCache, PowauthError, RequestAuth, SessionAuth
from powauth.accounts.identity import Key
from powauth.backends.base import (
    Backend,
    CountsEpochs,
    Millis,
    Mode,
    PerProcess,
    Record,
    ScanPage,
    ServesCopies,
    drive,
    make_key,
    shard_of,
)
from powauth.backends.wrapping import BackendWrapper
from powauth.sessions.ids import PresentedId, decode_sid
from powauth.sessions.record import Session

Task = Coroutine["Op", None, object]
Handler = Callable[[RequestAuth[User, Me]], Awaitable[object]]

PASSWORD = "correct horse"
TTL, RENEWAL, GRACE = 1800, 900, 30
PREFIX, HEADER = "pow_", "Powauth-Token"
"""What a bearer token begins with, and the header of a response that carries one."""


class Op(NamedTuple):
    """What a task is about to do. Things are paths: a path touches all that begin with it."""

    verb: str
    reads: tuple[bytes, ...] = ()
    writes: tuple[bytes, ...] = ()

    def conflicts(self, other: "Op") -> bool:
        """Whether the order of the two can matter."""
        return _touch(self.writes, other.writes + other.reads) or _touch(self.reads, other.writes)


def _touch(some: tuple[bytes, ...], others: tuple[bytes, ...]) -> bool:
    return any(one.startswith(other) or other.startswith(one) for one in some for other in others)


Trace = list[tuple[str, Op]]
"""The steps of one execution, each with the task that made it."""

_CLOCK = b"clock"
_USERS = b"users"


@types.coroutine
def _announce(op: Op) -> Generator[Op, None, None]:
    yield op


class SteppingBackend(BackendWrapper):
    """A backend that stops before each verb."""

    abilities: ClassVar[tuple[type, ...]] = (ServesCopies, CountsEpochs, PerProcess)

    def __init__(self, inner: Backend, world: "World") -> None:
        self.inner, self.world = inner, world
        self.mode: Mode = inner.mode

    async def _step(self, verb: str, reads: tuple[bytes, ...] = (), writes: tuple[bytes, ...] = ()) -> None:
        await self.world.step(Op(verb, (*reads, _CLOCK), writes))

    def here(self) -> Backend:
        return self.inner

    @staticmethod
    def _all(owner: bytes) -> bytes:
        # Keys hold the shard of their owner, so what is an owner's is found under one path.
        return b"record:" + make_key(owner.partition(b":")[0].decode(), shard_of(owner))

    async def create(self, record: Record, epoch: int | None, now: Millis) -> bool:
        await self._step("create", (b"epoch:" + record.owner,), (b"record:" + record.key,))
        return await self.inner.create(record, epoch, now)

    async def get(self, key: bytes, now: Millis) -> Record | None:
        await self._step("get", (b"record:" + key,))
        return await self.inner.get(key, now)

    async def get_fresh(self, key: bytes, now: Millis) -> Record | None:
        await self._step("get", (b"record:" + key,))
        assert isinstance(self.inner, ServesCopies)
        return await self.inner.get_fresh(key, now)

    async def update(self, record: Record, expected_version: int, now: Millis) -> bool:
        await self._step("update", (), (b"record:" + record.key,))
        return await self.inner.update(record, expected_version, now)

    async def delete(self, key: bytes, now: Millis) -> bool:
        await self._step("delete", (), (b"record:" + key,))
        return await self.inner.delete(key, now)

    async def list(self, owner: bytes, now: Millis) -> list[Record]:
        await self._step("list", (self._all(owner),))
        return await self.inner.list(owner, now)

    async def epoch(self, owner: bytes, now: Millis, *, advance: bool = False) -> int:
        if owner.endswith(b":"):  # the epoch of everyone, apart from those of users, which it would be a prefix of
            everyone = (b"everyone:" + owner,)
            writes = (*everyone, b"epoch:") if advance else ()  # where epochs are counted, they have it in common
            await self._step("revoke everyone" if advance else "everyone", () if advance else everyone, writes)
            return await self.inner.epoch(owner, now, advance=advance)
        thing = (b"epoch:" + owner,)
        await self._step("advance" if advance else "epoch", () if advance else thing, thing if advance else ())
        return await self.inner.epoch(owner, now, advance=advance)

    async def latest_epoch(self, now: Millis) -> int:
        await self._step("latest_epoch", (b"epoch:",))
        assert isinstance(self.inner, CountsEpochs)
        return await self.inner.latest_epoch(now)

    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        await self._step("delete_owner", (), (b"epoch:" + owner, self._all(owner)))
        return await self.inner.delete_owner(owner, now, keep)

    async def purge(self, limit: int, now: Millis) -> int:
        await self._step("purge", (), (b"record:", b"epoch:"))
        return await self.inner.purge(limit, now)

    async def scan(self, namespace: str, cursor: str | None, limit: int, now: Millis) -> ScanPage:
        await self._step("scan", (b"record:",))
        return await self.inner.scan(namespace, cursor, limit, now)

    async def count(self, namespace: str, now: Millis) -> int:
        await self._step("count", (b"record:",))
        return await self.inner.count(namespace, now)


class SteppingWithoutCount(SteppingBackend):
    """One whose owners have epochs that have nothing in common."""

    abilities = (ServesCopies, PerProcess)


class SteppingUsers(MemoryUsers):
    """Users whose every query is a checkpoint. Keeps each state of a user that was ever written."""

    def __init__(self, world: "World") -> None:
        super().__init__()
        self.world = world
        self.written: list[Me] = []

    async def authenticate(self, params: Mapping[str, object]) -> Account[Me] | None:
        await self.world.step(Op("users.authenticate", (_USERS, _CLOCK)))
        return await super().authenticate(params)

    async def get(self, key: Key) -> Account[Me] | None:
        await self.world.step(Op("users.get", (_USERS, _CLOCK)))
        return await super().get(key)

    async def update(
        self, key: Key, params: Mapping[str, object], *, trusted: bool = False, proof: bytes | None = None
    ) -> Account[Me]:
        await self.world.step(Op("users.update", (_CLOCK,), (_USERS,)))
        changed = await super().update(key, params, trusted=trusted, proof=proof)
        self.written.append(changed.identity)
        return changed

    async def delete(self, key: Key, params: Mapping[str, object] | None = None) -> bool:
        await self.world.step(Op("users.delete", (_CLOCK,), (_USERS,)))
        return await super().delete(key, params)


@dataclass
class Browser:
    """A client with one cookie or one token, which it keeps in the order in which responses arrive."""

    name: str
    id: str | None = None
    token: str | None = None


class Response(NamedTuple):
    """What a request came to.

    Attributes:
        user: who the request was found to be from, before its handler.
        sent: the id in its Set-Cookie, ``""`` for one that drops the cookie, ``None`` for none.
        error: what its handler raised.
        token: the bearer token in its header, ``""`` for one that drops the token, ``None`` for none.
    """

    user: Me | None
    sent: str | None
    error: PowauthError | None
    token: str | None = None


@dataclass(frozen=True)
class Core:
    """What is explored: the real core, or one that a self-test has broken."""

    auth: type[SessionAuth[User, Me]] = SessionAuth
    store: type[CredentialsCache] = CredentialsCache
    backend: Callable[[Backend], Backend] = lambda backend: backend


class Wrong(AssertionError):
    """Something that must never be, in one order of steps."""


class World:
    """One execution's store, users, clock and browsers."""

    def __init__(self, backend: Backend, namespace: str, core: Core, options: Mapping[str, Any]) -> None:
        self.stepping = False
        self.running = "setup"
        self.tokens: dict[str, int] = {}
        self.history: list[tuple[str, str]] = []
        self.results: dict[str, object] = {}
        self.ids: set[str] = set()
        self.clock = Clock()
        self.users = SteppingUsers(self)
        self.namespace = namespace
        self.inner = backend
        self.core = core
        self._people: list[User] = []
        self.outcome = ""
        self.configure(options)

    def configure(self, options: Mapping[str, Any]) -> None:
        """Start the workers, or start them again with other options: over the same store, users and clock."""
        options = dict(options)
        reload = bool(options.pop("reload", False))
        kind = SteppingBackend if options.pop("reads_once", True) else SteppingWithoutCount
        stepping = kind(self.core.backend(self.inner), self)
        self.auth: SessionAuth[User, Me] = self.core.auth(
            secret_key=SECRET,
            users=self.users,
            store=self.core.store(stepping, ttl=timedelta(seconds=TTL), namespace=self.namespace, reload=reload),
            clock=self.clock,
            metadata=None,
            **{
                "session_ttl_renewal": timedelta(seconds=RENEWAL),
                "grace": timedelta(seconds=GRACE),
                "throttle": None,
                **options,
            },
        )

    # For scenarios

    async def step(self, op: Op) -> None:
        """A checkpoint, while tasks are being scheduled."""
        if self.stepping:
            await _announce(op)

    def person(self, email: str = "ann@example.org") -> User:
        """A new user."""
        user = self.users.add(email, PASSWORD, name="first")
        self.users.written.append(account_of(user).identity)
        self._people.append(user)
        return user

    def browser(self, user: User | None = None, name: str = "browser", age: float = 0, **how: Any) -> Browser:
        """A new browser, of a user who signed in ``age`` seconds ago, or of nobody. ``how`` is for `sign_in_user`."""
        browser = Browser(name)
        if user is not None:
            drive(self.request(browser, lambda auth: auth.sign_in_user(user, **how)))
            assert browser.id or browser.token
            self.clock.advance(age)
        return browser

    async def request(self, browser: Browser, handler: Handler | None = None) -> Response:
        """One request with the cookie that the browser has now, through the plug, to the response's arrival."""
        before = {browser.id, browser.token}
        connection = self._connection(browser.id, browser.token)
        await self.auth.call(connection)
        user = self.auth.current_identity(connection)
        error: PowauthError | None = None
        if handler is not None:
            try:
                await handler(RequestAuth(self.auth, connection))
            except PowauthError as raised:
                error = raised
        found = self.auth.current_session.info(connection)
        seen = () if found is None else (b"record:" + make_key(self.namespace, decode_sid(found.sid) or b""),)
        await self.step(Op("respond", (*seen, _CLOCK)))
        effects = await self.auth.respond(connection, failed=error is not None)
        sent = effects.cookies[0].partition(";")[0].partition("=")[2] if effects.cookies else None
        token = dict(effects.headers).get(HEADER)
        for value in filter(None, (sent, token)):
            self.ids.add(value)
            # A sign-in does not read its session again, unless other sign-ins may end it: three round trips are enough
            # for it, and the dead id of one that a revocation has overtaken opens nothing.
            begun = self._sid(value) not in {self._sid(each) for each in before}
            if self.session(value) is None and not (begun and self.auth.sessions.max_sessions is None):
                raise Wrong("an id of a dead session left")
        if sent is not None or token is not None:
            await self.step(Op("arrive", (_CLOCK,), (b"browser:" + browser.name.encode(),)))
            browser.id = browser.id if sent is None else sent or None
            browser.token = browser.token if token is None else token or None
        return Response(user, sent, error, token)

    async def send(self) -> None:
        """Before a request: it may come at any time between the steps of the others."""
        await self.step(Op("send", (_CLOCK, b"browser:")))

    async def tick(self, *seconds: float) -> None:
        """A task that lets time pass, between any two steps of the others."""
        for amount in seconds:
            await self.step(Op("tick", (), (b"",)))
            self.clock.advance(amount)

    async def returned(self, check: Callable[[], None]) -> None:
        """A checkpoint right after a call returned: ``check`` looks at the store and at the users."""
        if self.stepping:
            await _announce(Op("returned", (b"record:", _USERS, _CLOCK)))
            self.stepping = False
            check()
            self.stepping = True

    # For checks

    def session(self, value: str) -> Session | None:
        """The live session that an id names, whatever its generation."""
        presented = self._decoded(value)
        assert presented is not None
        stored = drive(CredentialsCache(self.inner, namespace=self.namespace).get(presented.sid, self.auth.now()))
        return None if stored is None else stored.session

    def _decoded(self, value: str | None) -> PresentedId | None:
        """What an id or a token says."""
        if not value:
            return None
        token = value.removeprefix(PREFIX)
        kind = "cookie" if token == value else "bearer"
        return the_ids(namespace=self.namespace, kind=kind).decode(token)

    def _sid(self, value: str | None) -> bytes | None:
        presented = self._decoded(value)
        return None if presented is None else presented.sid

    def _connection(self, value: str | None, token: str | None = None) -> FakeConnection:
        """A request with a cookie, with a token, with both or with none."""
        cookies = [] if value is None else [f"{self.auth.carrier.name}={value}"]
        return FakeConnection(cookies) if token is None else FakeConnection(cookies, authorization=f"Bearer {token}")

    def records(self) -> list[Session]:
        """Every live session of everybody."""
        cache = CredentialsCache(self.inner, namespace=self.namespace)
        return [stored.session for user in self._people for stored in drive(cache.sessions(user.id, self.auth.now()))]

    def identities(self) -> list[Me]:
        """The identities that the sessions hold."""
        return [msgspec.msgpack.decode(session.identity, type=Me) for session in self.records()]

    def who(self, value: str | None) -> Me | None:
        """Whose a fresh request with that id or token is."""
        return self.auth.current_identity(self._asked(value))

    def is_fresh(self, browser: Browser) -> bool:
        """Whether the browser's user has just entered the password."""
        return self.auth.current_session.is_fresh(self._asked(browser.token or browser.id), timedelta(seconds=TTL))

    def _asked(self, value: str | None) -> FakeConnection:
        token = value if value is not None and value.startswith(PREFIX) else None
        connection = self._connection(value if token is None else None, token)
        drive(self.auth.call(connection))
        return connection

    def response(self, task: str) -> Response:
        """What the request of that task came to."""
        result = self.results[task]
        assert isinstance(result, Response)
        return result

    def when(self, task: str, verb: str) -> int:
        """At which step a task did something for the last time; -1 for never."""
        return max((at for at, step in enumerate(self.history) if step == (task, verb)), default=-1)

    def expect(self, condition: object, message: str) -> None:
        """Raise `Wrong` unless the condition holds."""
        if not condition:
            raise Wrong(message)

    # For the explorer

    def describe(self) -> str:
        """What the clients and the store have come to, without what differs between two worlds."""
        told = [
            (
                task,
                result.user and result.user.name,
                self._generation(result.sent),
                self._generation(result.token),
                type(result.error).__name__,
            )
            for task, result in sorted(self.results.items())
            if isinstance(result, Response)
        ]
        kept = sorted(
            (session.generation, user.name) for session, user in zip(self.records(), self.identities(), strict=True)
        )
        return f"{told} {kept}"

    def _generation(self, sent: str | None) -> object:
        presented = self._decoded(sent)
        return sent if presented is None else presented.generation

    def token_bytes(self, size: int) -> bytes:
        """In the place of the system's generator: the same task gets the same bytes in every order."""
        count = self.tokens[self.running] = self.tokens.get(self.running, 0) + 1
        return hashlib.blake2b(f"{self.running} {count}".encode(), digest_size=size).digest()


class Plan(NamedTuple):
    """What a scenario does in a new world: its tasks, all begun at once, and what must be so when all are done."""

    tasks: Mapping[str, Task]
    check: Callable[[], None]


@dataclass(frozen=True)
class Scenario:
    """Some concurrent requests, and what must hold after each order of their steps.

    Attributes:
        plan: sets up a world.
        options: of `SessionAuth`; ``reload``; and ``reads_once=False`` for a backend that has no latest epoch.
        reduced: run one order of each class of equivalent ones. The check may then compare the places of two steps in
            the history only if the steps conflict: the order of any others differs within a class.
    """

    name: str
    plan: Callable[[World], Plan]
    options: Mapping[str, Any] = field(default_factory=dict)
    reduced: bool = False


@dataclass
class Report:
    """What `explore` did.

    Attributes:
        orders: executions that ran to their end.
        stand_for: orders that these stand for; as many, unless reduced.
        abandoned: executions given up because each way on had been covered.
        outcomes: all that the clients and the store came to.
    """

    orders: int = 0
    stand_for: int = 0
    abandoned: int = 0
    outcomes: set[str] = field(default_factory=set)


class Violation(AssertionError):
    """An order of steps after which, or in which, something is wrong."""


@dataclass
class _Node:
    """One choice of the path: which tasks need not be chosen here, which are still to be, and which is now."""

    asleep: set[str]
    todo: list[str]
    chosen: str


_numbers = itertools.count()
_logger = logging.getLogger("powauth")


def explore(scenario: Scenario, backend: Backend, core: Core | None = None, *, limit: int = 100_000) -> Report:
    """Run a scenario in every order of its steps.

    Raises:
        Violation: for the first order that breaks what the scenario expects.
        RuntimeError: if there are more than ``limit`` executions.
    """
    report = Report()
    path: list[_Node] = []
    while True:
        trace, world = _execute(scenario, backend, core or Core(), path)
        if trace is None:
            report.abandoned += 1
        else:
            report.orders += 1
            report.outcomes.add(world.outcome)
            report.stand_for += _orders_of(trace) if scenario.reduced else 1
        if report.orders + report.abandoned > limit:
            raise RuntimeError(f"{scenario.name}: more than {limit} orders")
        while path and not path[-1].todo:
            path.pop()
        if not path:
            return report
        path[-1].asleep.add(path[-1].chosen)
        path[-1].chosen = path[-1].todo.pop(0)


def sample(scenario: Scenario, backend: Backend, count: int, seed: int) -> Report:
    """Run a scenario in so many orders of its steps, taken at random: where there are too many for an engine's speed.

    Raises:
        Violation: as `explore` does.
    """
    report = Report()
    dice = random.Random(seed)
    for _ in range(count):
        _, world = _execute(scenario, backend, Core(), [], dice)
        report.orders += 1
        report.outcomes.add(world.outcome)
    return report


@contextmanager
def _determined(world: World) -> Generator[None, None, None]:
    """The system's generator made the same in every order, and no log line for each of thousands of revocations."""
    generator = types.SimpleNamespace(token_bytes=world.token_bytes)
    with (
        patch.object(powauth.sessions.record, "secrets", generator),
        patch.object(powauth.extensions.records, "secrets", generator),
        patch.object(_logger, "disabled", True),
    ):
        yield


def _execute(
    scenario: Scenario, backend: Backend, core: Core, path: list[_Node], dice: random.Random | None = None
) -> tuple[Trace | None, World]:
    """Run once along ``path`` and on from its end, which is added to it; no trace if all that follows is covered.

    With ``dice`` they say where to go on.
    """
    world = World(backend, f"n{next(_numbers)}", core, scenario.options)
    trace: Trace = []
    tasks: dict[str, Task] = {}
    with _determined(world):
        try:
            plan = scenario.plan(world)
            tasks = dict(plan.tasks)
            world.stepping = True
            pending: dict[str, Op] = {}
            for name in tasks:
                _advance(world, tasks, pending, name)
            asleep: set[str] = set()
            for depth in itertools.count():
                if not pending:
                    break
                if depth == len(path):
                    todo = [name for name in pending if name not in asleep]
                    if not todo:
                        return None, world
                    if dice is not None:
                        dice.shuffle(todo)
                    path.append(_Node(asleep, todo[1:], todo[0]))
                node = path[depth]
                op = pending[node.chosen]
                asleep = {name for name in node.asleep if scenario.reduced and not pending[name].conflicts(op)}
                trace.append((node.chosen, op))
                world.history.append((node.chosen, op.verb))
                _advance(world, tasks, pending, node.chosen)
            world.stepping = False
            world.running = "check"
            world.outcome = world.describe()
            plan.check()
        except AssertionError as error:
            steps = " ".join(f"{name}:{op.verb}" for name, op in trace)
            raise Violation(f"{scenario.name}: {error}\n  in the order {steps}") from error
        finally:
            world.stepping = False
            for task in tasks.values():
                task.close()
    return trace, world


def _advance(world: World, tasks: Mapping[str, Task], pending: dict[str, Op], name: str) -> None:
    """Carry out what a task had announced, up to its next checkpoint or its end."""
    world.running = name
    try:
        pending[name] = tasks[name].send(None)
    except StopIteration as stop:
        pending.pop(name, None)
        world.results[name] = stop.value
    except PowauthError as error:
        raise Wrong(f"{name} raised {error!r}") from error


def _orders_of(trace: Trace) -> int:
    """How many orders of a trace's steps keep each two that conflict, and each task's own, in their order."""
    names = sorted({name for name, _ in trace})
    place = {name: number for number, name in enumerate(names)}
    needs: list[list[list[int]]] = [[] for _ in names]
    done = [0] * len(names)
    for at, (name, op) in enumerate(trace):
        own = needs[place[name]]
        need = list(own[-1]) if own else [0] * len(names)
        seen = [0] * len(names)
        for other, earlier in trace[:at]:
            seen[place[other]] += 1
            if other != name and earlier.conflicts(op):
                need[place[other]] = max(need[place[other]], seen[place[other]])
        own.append(need)
        done[place[name]] += 1

    @cache
    def ways(position: tuple[int, ...]) -> int:
        if not any(position):
            return 1
        total = 0
        for last, count in enumerate(position):
            # The last step done may be this task's, unless one that is done as well needs it to come before.
            if count and not any(
                needs[other][position[other] - 1][last] >= count
                for other in range(len(names))
                if other != last and position[other]
            ):
                total += ways((*position[:last], count - 1, *position[last + 1 :]))
        return total

    return ways(tuple(done))


def find_violation(scenario: Scenario, backend: Backend, core: Core) -> str | None:
    """What is wrong in the first order that is, or ``None`` if no order is."""
    try:
        explore(scenario, backend, core)
    except Violation as violation:
        return str(violation)
    return None
