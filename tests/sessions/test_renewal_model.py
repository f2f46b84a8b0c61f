"""The renewal rules, exhausted in small cases: the real functions of `sessions.record`, every order of events."""

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
    Session,
    confirmed,
    decide,
    forwarded,
    new_session,
    renewed,
)

pytestmark = pytest.mark.untraced

Decide = Callable[[Session, PresentedId, Millis, Policy], Outcome]

TICK: Millis = 8_000
HORIZON = 6
"""Ticks that pass in each case: a grace, and what may follow it."""

_SESSION = new_session(b"credentials:1", a_subject("1"), 0, {})


class Kept(NamedTuple):
    """What changes in a record, and the version that a compare-and-set asks for. Times are milliseconds."""

    version: int
    generation: int
    renewed_at: Millis
    settled: int
    recent: tuple[tuple[int, Millis], ...]

    def session(self) -> Session:
        return msgspec.structs.replace(
            _SESSION,
            generation=self.generation,
            renewed_at=self.renewed_at,
            settled=self.settled,
            recent=self.recent,
        )

    def then(self, session: Session) -> "Kept":
        assert len(session.recent) <= GRACE_STEPS + 2
        assert list(session.recent) == sorted(session.recent)
        assert (session.created_at, session.authenticated_at) == (0, 0)
        return Kept(self.version + 1, session.generation, session.renewed_at, session.settled, session.recent)


class Request(NamedTuple):
    """A request under way: what it presents and since when, the record that it has read, and what it is sent.

    ``at`` is where it is: 0 at the server's door, 1 in its handler, 2 on its way back.
    """

    at: int
    presented: int
    sent_at: int
    read: Kept | None
    answer: int | None


class State(NamedTuple):
    """Everything at one moment. ``record`` is ``None`` once signed out; ``lost`` is it before the last write."""

    time: int
    record: Kept | None
    lost: Kept | None
    cookie: int
    requests: tuple[Request, ...]
    left: int
    failed: bool


class Case(NamedTuple):
    """One small case, in ticks; no request, with its response, takes longer than ``delay``."""

    renewal: int
    grace: int
    delay: int
    requests: int
    failover: bool = False

    def policy(self) -> Policy:
        return Policy(ttl=10**9, renewal=self.renewal * TICK, max_lifetime=10**9, grace=self.grace * TICK)


class Refused(Exception):
    """An honest browser was refused, or something came of a session that was signed out."""


def presents(generation: int) -> PresentedId:
    return PresentedId(_SESSION.sid, _SESSION.salt, generation)


def respond(state: State, request: Request, policy: Policy, rule: Decide) -> tuple[Kept | None, int | None]:
    """The record after a response has started, and the generation that it carries."""
    now = state.time * TICK
    read, again = request.read, False
    while read is not None:
        outcome = rule(read.session(), presents(request.presented), now, policy)
        if outcome in (Outcome.CURRENT, Outcome.RESEND):
            if outcome is Outcome.CURRENT or again:
                return state.record, read.generation if outcome is Outcome.RESEND else None
        elif not outcome.accepted:
            raise Refused(f"{outcome.name} at the response")
        elif state.record is not None and state.record.version == read.version:
            session = read.session()
            if outcome is Outcome.RENEW:
                written = state.record.then(renewed(session, now, policy))
                return written, written.generation
            if outcome is Outcome.CONFIRM:
                return state.record.then(confirmed(session, now, policy)), None
            return state.record.then(forwarded(session, request.presented, now, policy)), None
        read, again = state.record, True
    return state.record, None


def moves(state: State, case: Case, policy: Policy, rule: Decide) -> Iterator[State]:
    """All that may happen next."""
    now = state.time * TICK
    if state.time < HORIZON and all(state.time - request.sent_at < case.delay for request in state.requests):
        yield state._replace(time=state.time + 1)
    if state.left:
        request = Request(0, state.cookie, state.time, None, None)
        yield state._replace(requests=tuple(sorted((*state.requests, request), key=repr)), left=state.left - 1)
    if state.record is not None:
        yield state._replace(record=None, lost=None)
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
    policy = case.policy()
    start = State(0, Kept(0, 0, 0, 0, ()), None, 0, (), case.requests, False)
    seen, queue = {start}, deque([start])
    while queue:
        for state in moves(queue.popleft(), case, policy, rule):
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
