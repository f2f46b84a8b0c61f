"""The renewal rules, exhausted in small cases: the real functions of `sessions.record`, every order of events.

A case may hold pauses that are longer than the short ttl of a remembered session. A request may stand still between its
read and its write meanwhile, as one of a process that is suspended does.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec
import pytest

from harness.core_support import a_subject
from powauth.backends.base import Millis
from powauth.sessions.ids import PresentedId
from powauth.sessions.record import (
    GRACE_STEPS,
    Outcome,
    Policy,
    Remembered,
    Session,
    confirmed,
    decide,
    forwarded,
    is_fresh,
    new_session,
    renewed,
)

pytestmark = pytest.mark.untraced

Decide = Callable[[Session, PresentedId, Millis, Policy], Outcome]

TICK: Millis = 8_000
HORIZON = 6
"""Ticks that pass in each case: a grace, and what may follow it."""

SHORT_TTL, PAUSE = 20, 50
"""Ticks: how long an ordinary session lives, and how long a pause takes. A remembered session outlives some."""

_SESSION = new_session(b"credentials:1", a_subject("1"), 0, {}, remembered=True)


class Kept(NamedTuple):
    """What changes in a record, and the version that a compare-and-set asks for. Times are milliseconds."""

    version: int
    generation: int
    renewed_at: Millis
    settled: int
    recent: tuple[tuple[int, Millis], ...]
    resumed_at: Millis = 0

    def session(self) -> Session:
        return msgspec.structs.replace(
            _SESSION,
            generation=self.generation,
            renewed_at=self.renewed_at,
            settled=self.settled,
            recent=self.recent,
            resumed_at=self.resumed_at,
        )

    def then(self, session: Session, now: Millis, policy: Policy) -> "Kept":
        away = policy.remembered is not None and now - self.renewed_at >= policy.ttl
        moved = session.generation != self.generation
        assert session.remembered
        assert session.resumed_at == (now if away and moved else self.resumed_at)
        assert is_fresh(session, 10**12, now, policy) == (session.resumed_at == 0 and (moved or not away))
        assert len(session.recent) <= GRACE_STEPS + 2
        assert list(session.recent) == sorted(session.recent)
        assert (session.created_at, session.authenticated_at) == (0, 0)
        kept = (session.generation, session.renewed_at, session.settled, session.recent, session.resumed_at)
        return Kept(self.version + 1, *kept)


class Request(NamedTuple):
    """A request under way: what it presents and since when, the record that it has read, and what it is sent.

    ``at`` is where it is: 0 at the server's door, 1 in its handler, 2 on its way back. ``stopped``: a pause has passed
    while it was in its handler.
    """

    at: int
    presented: int
    sent_at: int
    read: Kept | None
    answer: int | None
    stopped: bool = False


class State(NamedTuple):
    """Everything at one moment. ``record`` is ``None`` once signed out; ``lost`` is it before the last write."""

    time: int
    record: Kept | None
    lost: Kept | None
    cookie: int
    requests: tuple[Request, ...]
    left: int
    failed: bool
    paused: int = 0
    restored: bool = False
    shortened: bool = False

    @property
    def now(self) -> Millis:
        """Milliseconds: ticks and pauses."""
        return (self.time + PAUSE * self.paused) * TICK


class Case(NamedTuple):
    """One small case, in ticks; no request, with its response, takes longer than ``delay``, but for pauses.

    ``restores``: the browser may be restored from a backup of its first id. ``shortens``: sessions may cease to be
    remembered.
    """

    renewal: int
    grace: int
    delay: int
    requests: int
    failover: bool = False
    pauses: int = 0
    restores: bool = False
    shortens: bool = False

    def policy(self, *, shortened: bool = False) -> Policy:
        ttl = SHORT_TTL * TICK if self.pauses else 10**9
        remembered = Remembered(10**9, 10**9) if self.pauses and not shortened else None
        return Policy(ttl, self.renewal * TICK, 10**9, self.grace * TICK, remembered)


class Refused(Exception):
    """An honest browser was refused, or something came of a session that was signed out."""


def presents(generation: int) -> PresentedId:
    return PresentedId(_SESSION.sid, _SESSION.salt, generation)


def respond(state: State, request: Request, policy: Policy, rule: Decide) -> tuple[Kept | None, int | None]:
    """The record after a response has started, and the generation that it carries."""
    now = state.now
    read, again = request.read, False
    while read is not None:
        outcome = rule(read.session(), presents(request.presented), now, policy)
        if outcome in (Outcome.CURRENT, Outcome.RESEND):
            if outcome is Outcome.CURRENT or again:
                return state.record, read.generation if outcome is Outcome.RESEND else None
        elif not outcome.accepted:
            if request.stopped or state.restored or state.shortened:
                return state.record, None  # nothing is written or sent; the session is as it was
            raise Refused(f"{outcome.name} at the response")
        elif state.record is not None and state.record.version == read.version:
            session = read.session()
            if outcome is Outcome.RENEW:
                written = state.record.then(renewed(session, now, policy), now, policy)
                return written, written.generation
            if outcome is Outcome.CONFIRM:
                return state.record.then(confirmed(session, now, policy), now, policy), None
            return state.record.then(forwarded(session, request.presented, now, policy), now, policy), None
        read, again = state.record, True
    return state.record, None


def refused(state: State, case: Case, outcome: Outcome) -> bool:
    """Whether a request may be refused: a restored backup costs a sign-in, and so do durations that are shortened."""
    assert state.record is not None
    idle = state.now - state.record.renewed_at
    if outcome is Outcome.EXPIRED:
        return state.shortened and idle >= SHORT_TTL * TICK
    return outcome is Outcome.REUSE and state.restored


def moves(state: State, case: Case, rule: Decide) -> Iterator[State]:
    """All that may happen next."""
    now, policy = state.now, case.policy(shortened=state.shortened)
    if state.time < HORIZON and all(state.time - request.sent_at < case.delay for request in state.requests):
        yield state._replace(time=state.time + 1)
    if state.left:
        request = Request(0, state.cookie, state.time, None, None)
        yield state._replace(requests=tuple(sorted((*state.requests, request), key=repr)), left=state.left - 1)
    if state.record is not None:
        yield state._replace(record=None, lost=None)
    if state.paused < case.pauses and all(request.at == 1 for request in state.requests):
        still = tuple(request._replace(stopped=True) for request in state.requests)
        yield state._replace(paused=state.paused + 1, requests=still)
    if case.restores and not state.restored:
        yield state._replace(cookie=0, restored=True)
    if case.shortens and not state.shortened:
        yield state._replace(shortened=True)
    if case.failover and not state.failed and state.lost is not None:
        yield state._replace(record=state.lost, lost=None, failed=True)
    for index, request in enumerate(state.requests):
        rest = state.requests[:index] + state.requests[index + 1 :]

        def under_way(**changes: object) -> tuple[Request, ...]:
            moved = request._replace(**changes)  # type: ignore[arg-type] # noqa: B023
            return tuple(sorted((*rest, moved), key=repr))  # noqa: B023

        if request.at == 0 and state.record is None:
            yield state._replace(requests=rest)
        elif request.at == 0 and state.record is not None:
            outcome = rule(state.record.session(), presents(request.presented), now, policy)
            if not outcome.accepted and refused(state, case, outcome):
                yield state._replace(record=None, lost=None, requests=rest)
                continue
            if state.shortened and now - state.record.renewed_at >= SHORT_TTL * TICK:
                raise Refused(f"{outcome.name} after the durations of today at {state}")
            if not outcome.accepted:
                raise Refused(f"{outcome.name} of generation {request.presented} at {state}")
            yield state._replace(requests=under_way(at=1, read=state.record))
        elif request.at == 1:
            record, answer = respond(state, request, policy, rule)
            if state.record is None and (record is not None or answer is not None):
                raise Refused("something came of a session that was signed out")
            lost = state.lost if record == state.record else state.record
            answered = under_way(at=2, read=None, answer=answer)
            yield state._replace(record=record, lost=lost, requests=answered)
        else:
            yield state._replace(requests=rest)
            if request.answer is not None:
                yield state._replace(requests=rest, cookie=request.answer)


def exhaust(case: Case, rule: Decide = decide) -> int:
    """Visit everything that can come to be; how many states that were.

    Raises:
        Refused: if one of them must not be.
    """
    start = State(0, Kept(0, 0, 0, 0, ()), None, 0, (), case.requests, False)
    seen, queue = {start}, deque([start])
    while queue:
        for state in moves(queue.popleft(), case, rule):
            if state not in seen:
                seen.add(state)
                queue.append(state)
    return len(seen)


def only_the_one_before(session: Session, presented: PresentedId, now: Millis, policy: Policy) -> Outcome:
    """A rule that is not good enough: with a slow response, two renewals sign an honest browser out."""
    outcome = decide(session, presented, now, policy)
    old = outcome is Outcome.RESEND and presented.generation < session.generation - 1
    return Outcome.REUSE if old else outcome


@pytest.mark.parametrize(
    "case",
    [
        Case(renewal=3, grace=1, delay=1, requests=3),
        Case(renewal=3, grace=2, delay=2, requests=3),
        Case(renewal=1, grace=2, delay=2, requests=3),
        Case(renewal=0, grace=2, delay=2, requests=3),
        Case(renewal=1, grace=3, delay=3, requests=3),
        Case(renewal=3, grace=0, delay=0, requests=3),
        Case(renewal=0, grace=1, delay=1, requests=4),
        Case(renewal=2, grace=2, delay=2, requests=3, failover=True),
        Case(renewal=0, grace=2, delay=2, requests=3, failover=True),
        Case(renewal=3, grace=1, delay=1, requests=3, pauses=1),
        Case(renewal=1, grace=2, delay=2, requests=3, pauses=2),
        Case(renewal=3, grace=1, delay=1, requests=2, pauses=1, failover=True),
        Case(renewal=1, grace=1, delay=1, requests=3, pauses=1, restores=True),
        Case(renewal=3, grace=1, delay=1, requests=2, pauses=2, shortens=True),
        Case(renewal=3, grace=1, delay=1, requests=2, pauses=2, restores=True, shortens=True),
    ],
    ids=str,
)
def test_an_honest_browser_is_never_refused(case: Case, report: Callable[[str], None]) -> None:
    report(f"renewal model: {case}: {exhaust(case)} states")


@pytest.mark.parametrize(
    ("case", "rule"),
    [
        (Case(renewal=0, grace=2, delay=2, requests=4), only_the_one_before),
        (Case(renewal=1, grace=1, delay=3, requests=3), decide),
    ],
    ids=["only the one before", "slower than the grace"],
)
def test_the_model_finds_a_rule_that_is_too_strict(case: Case, rule: Decide) -> None:
    with pytest.raises(Refused):
        exhaust(case, rule)


def expires_late(session: Session, presented: PresentedId, now: Millis, policy: Policy) -> Outcome:
    """A rule that is not good enough: a session keeps the durations with which it began."""
    outcome = decide(session, presented, now, policy)
    return Outcome.CURRENT if outcome is Outcome.EXPIRED else outcome


def expires_early(session: Session, presented: PresentedId, now: Millis, policy: Policy) -> Outcome:
    """A rule that is too strict: a pause ends every session."""
    idle = now - session.renewed_at
    return Outcome.EXPIRED if idle >= policy.ttl else decide(session, presented, now, policy)


@pytest.mark.parametrize("rule", [expires_late, expires_early])
def test_the_model_finds_a_rule_that_mistakes_a_pause(rule: Decide) -> None:
    with pytest.raises(Refused):
        exhaust(Case(renewal=3, grace=1, delay=1, requests=1, pauses=1, shortens=True), rule)


def test_a_renewal_that_forgets_the_pause_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(session: Session, now: Millis, policy: Policy) -> Session:
        return msgspec.structs.replace(right(session, now, policy), resumed_at=0)

    right = renewed
    monkeypatch.setitem(globals(), "renewed", forgetful)
    with pytest.raises(AssertionError):
        exhaust(Case(renewal=3, grace=1, delay=1, requests=1, pauses=1))


def test_every_earlier_generation_is_answered_for_the_grace_and_not_much_longer() -> None:
    """Against the times of first use as they were: never refused in the grace, always after it and a quarter."""
    policy = Policy(ttl=10**9, renewal=1, max_lifetime=10**9, grace=4 * TICK)
    first_uses: dict[int, Millis] = {}
    cases = 0

    def follow(session: Session, now: Millis, depth: int) -> None:
        nonlocal cases
        for generation in range(session.generation):
            cases += 1
            used = [first_uses[later] for later in range(generation + 1, session.generation + 1) if later in first_uses]
            outcome = decide(msgspec.structs.replace(session, renewed_at=now), presents(generation), now, policy)
            if not used or now - min(used) <= policy.grace:
                assert outcome is Outcome.RESEND, (session, generation, now, first_uses)
            elif now - min(used) > policy.grace + policy.grace // GRACE_STEPS:
                assert outcome is Outcome.REUSE, (session, generation, now, first_uses)
            else:
                assert outcome in (Outcome.RESEND, Outcome.REUSE)
        if not depth:
            return
        for wait in (1, TICK // 2, TICK, 2 * TICK, 5 * TICK):
            follow(session, now + wait, depth - 1)
        fresh = session.generation not in first_uses
        if fresh:
            first_uses[session.generation] = now
            follow(confirmed(session, now, policy), now, depth - 1)
        follow(renewed(session, now, policy), now, depth - 1)
        if fresh:
            del first_uses[session.generation]

    follow(_SESSION, 0, 6)
    assert cases > 50_000
