"""The life of a session: the table of ``docs/design.md`` row by row, and what must hold of every course of events.

Row 12, a user who no longer exists, needs a users context; it is decided, and tested, in the plug.
"""

import binascii
from typing import Literal, NamedTuple

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from harness.core_support import NOW, POLICY, a_mac, a_session, a_subject, decode_id, encode_id, hurried, presented
from harness.support import OTHER_SECRET, SECRET
from powauth.backends.base import Millis, make_owner, shard_of
from powauth.sessions.ids import (
    ID_CHARS,
    MAX_GENERATION,
    SALT_BYTES,
    SHARD_BYTES,
    SID_BYTES,
    SID_CHARS,
    PresentedId,
    decode_sid,
    encode_sid,
)
from powauth.sessions.keyring import Mac
from powauth.sessions.record import (
    CLOCK_TOLERANCE,
    GRACE_STEPS,
    Outcome,
    Policy,
    Session,
    confirmed,
    current_between,
    decide,
    expires_at,
    forwarded,
    new_session,
    renewed,
)

MINUTE: Millis = 60_000


def after_renewals(times: int, *, every: Millis = 15 * MINUTE) -> tuple[Session, Millis]:
    """A session renewed that often, each time when it was due, and the time of the last renewal."""
    session, now = a_session(), NOW
    for _ in range(times):
        now += every
        session = renewed(session, now, POLICY)
    return session, now


ages = st.integers(-CLOCK_TOLERANCE - 2, 2 * POLICY.max_lifetime)


@given(
    st.sampled_from(
        [POLICY, msgspec.structs.replace(POLICY, renewal=None), msgspec.structs.replace(POLICY, renewal=0)]
    ),
    st.integers(0, 3),
    st.sampled_from([0, MAX_GENERATION]),
    ages,
    ages,
)
def test_row_03_lasts_as_long_as_current_between_says(
    policy: Policy, renewals: int, generation: int, age: Millis, later: Millis
) -> None:
    session, _ = after_renewals(renewals)
    if generation:
        session = msgspec.structs.replace(session, generation=generation, settled=generation)
    since, until = current_between(session, policy)
    outcome = decide(session, presented(session), NOW + age, policy)
    assert (outcome is Outcome.CURRENT) <= (since <= NOW + age < until)
    if outcome is Outcome.CURRENT and since <= NOW + later < until:
        assert decide(session, presented(session), NOW + later, policy) is Outcome.CURRENT


# --- the table ----------------------------------------------------------------------------------------------------


def test_decide_row_01_what_is_no_id_is_nothing() -> None:
    assert decode_id("", a_mac()) is None


def test_decide_row_02_another_salt_is_a_stranger() -> None:
    session = a_session()
    other = msgspec.structs.replace(presented(session), salt=bytes(SALT_BYTES))
    assert decide(session, other, NOW, POLICY) is Outcome.STRANGER


def test_decide_row_02_another_salt_is_a_stranger_whatever_else_is_true() -> None:
    session, now = after_renewals(3)
    for generation in (0, 2, 3, 4):
        for later in (0, MINUTE, 60 * MINUTE):
            other = PresentedId(session.sid, bytes(SALT_BYTES), generation)
            assert decide(session, other, now + later, POLICY) is Outcome.STRANGER


def test_decide_row_02_a_record_from_the_future_is_not_believed() -> None:
    session = a_session(now=NOW + CLOCK_TOLERANCE + 1)
    assert decide(session, presented(session), NOW, POLICY) is Outcome.STRANGER
    assert decide(session, presented(session), NOW + 1, POLICY) is Outcome.CURRENT


def test_decide_row_03_the_current_generation_while_young() -> None:
    session = a_session()
    for now in (NOW, NOW + 1, NOW + 15 * MINUTE - 1):
        assert decide(session, presented(session), now, POLICY) is Outcome.CURRENT


def test_decide_row_04_the_current_generation_is_confirmed_once() -> None:
    session, now = after_renewals(1)
    assert not session.confirmed
    assert decide(session, presented(session), now + 1, POLICY) is Outcome.CONFIRM
    session = confirmed(session, now + 1, POLICY)
    assert session.confirmed
    assert decide(session, presented(session), now + 1, POLICY) is Outcome.CURRENT
    assert session.renewed_at == now


def test_decide_row_04_a_renewal_confirms_in_the_same_write() -> None:
    session, now = after_renewals(1)
    later = now + 15 * MINUTE
    assert decide(session, presented(session), later, POLICY) is Outcome.RENEW
    session = renewed(session, later, POLICY)
    assert session.recent == ((1, later),)
    assert not session.confirmed


def test_decide_row_05_the_current_generation_at_the_renewal_age() -> None:
    session = a_session()
    assert decide(session, presented(session), NOW + 15 * MINUTE, POLICY) is Outcome.RENEW
    assert decide(session, presented(session), NOW + 29 * MINUTE, POLICY) is Outcome.RENEW
    session = renewed(session, NOW + 15 * MINUTE, POLICY)
    assert (session.generation, session.renewed_at) == (1, NOW + 15 * MINUTE)
    assert (session.created_at, session.authenticated_at) == (NOW, NOW)


def test_decide_row_05_renewal_never_and_always() -> None:
    session = a_session()
    never = msgspec.structs.replace(POLICY, renewal=None)
    always = msgspec.structs.replace(POLICY, renewal=0)
    assert decide(session, presented(session), NOW + 29 * MINUTE, never) is Outcome.CURRENT
    assert decide(session, presented(session), NOW, always) is Outcome.RENEW


def test_decide_row_05_the_last_generation_is_not_renewed() -> None:
    session = a_session(generation=MAX_GENERATION)
    assert decide(session, presented(session), NOW + 15 * MINUTE, POLICY) is Outcome.CONFIRM
    session = confirmed(session, NOW, POLICY)
    assert decide(session, presented(session), NOW + 15 * MINUTE, POLICY) is Outcome.CURRENT
    assert decode_id(encode_id(session, a_mac()), a_mac()) == presented(session)


@pytest.mark.parametrize("generation", [0, 1, 2])
def test_decide_row_06_an_earlier_generation_whose_successor_is_not_confirmed(generation: int) -> None:
    session = a_session(generation=generation + 1, settled=generation)
    for now in (NOW, NOW + 14 * MINUTE, NOW + 29 * MINUTE):
        assert decide(session, presented(session, generation), now, POLICY) is Outcome.RESEND


@pytest.mark.parametrize("elapsed", [0, 1, 29_999, 30_000])
def test_decide_row_07_an_earlier_generation_within_the_grace(elapsed: Millis) -> None:
    session, now = after_renewals(1)
    session = confirmed(session, now, POLICY)
    assert decide(session, presented(session, 0), now + elapsed, POLICY) is Outcome.RESEND


def test_decide_row_07_the_grace_does_not_slide() -> None:
    session, now = after_renewals(1)
    session = confirmed(session, now, POLICY)
    for later in (10_000, 20_000, 30_000):
        assert decide(session, presented(session, 0), now + later, POLICY) is Outcome.RESEND
        assert confirmed(session, now + later, POLICY).recent == session.recent
    assert decide(session, presented(session, 0), now + 30_001, POLICY) is Outcome.REUSE


def test_decide_row_07_holds_for_each_of_several_generations_inside_the_grace() -> None:
    quick = msgspec.structs.replace(POLICY, renewal=0)
    session, now = a_session(), NOW
    for _ in range(12):
        now += 1_000
        session = renewed(session, now, quick)
    assert all(decide(session, presented(session, old), now, quick) is Outcome.RESEND for old in range(12))


def test_decide_row_08_an_earlier_generation_after_the_grace() -> None:
    session, now = after_renewals(1)
    session = confirmed(session, now, POLICY)
    assert decide(session, presented(session, 0), now + 30_001, POLICY) is Outcome.REUSE


def test_decide_row_08_without_grace_the_next_moment_is_too_late() -> None:
    none = msgspec.structs.replace(POLICY, grace=0)
    session = confirmed(renewed(a_session(), NOW, none), NOW, none)
    assert decide(session, presented(session, 0), NOW, none) is Outcome.RESEND
    assert decide(session, presented(session, 0), NOW + 1, none) is Outcome.REUSE


def test_decide_row_09_an_earlier_generation_whose_time_is_forgotten() -> None:
    session, now = after_renewals(5)
    session = confirmed(session, now, POLICY)
    assert session.settled == 3
    assert all(decide(session, presented(session, old), now, POLICY) is Outcome.REUSE for old in range(3))
    assert all(decide(session, presented(session, old), now, POLICY) is Outcome.RESEND for old in (3, 4))


def test_decide_row_10_a_newer_generation_than_the_records() -> None:
    session = a_session()
    assert decide(session, presented(session, 3), NOW + MINUTE, POLICY) is Outcome.AHEAD
    moved = forwarded(session, 3, NOW + MINUTE, POLICY)
    assert (moved.generation, moved.renewed_at, moved.confirmed) == (3, NOW + MINUTE, True)
    assert decide(moved, presented(moved), NOW + MINUTE, POLICY) is Outcome.CURRENT
    assert moved.created_at == NOW


def test_decide_row_10_the_lost_generations_have_their_grace_from_now() -> None:
    moved = forwarded(a_session(), 3, NOW + MINUTE, POLICY)
    for old in (0, 1, 2):
        assert decide(moved, presented(moved, old), NOW + MINUTE + 30_000, POLICY) is Outcome.RESEND
        assert decide(moved, presented(moved, old), NOW + MINUTE + 30_001, POLICY) is Outcome.REUSE


def test_decide_row_11_an_idle_session_ends() -> None:
    session = a_session()
    never = msgspec.structs.replace(POLICY, renewal=None)
    assert decide(session, presented(session), NOW + 30 * MINUTE - 1, never) is Outcome.CURRENT
    for generation in (0, 1):
        assert decide(session, presented(session, generation), NOW + 30 * MINUTE, POLICY) is Outcome.EXPIRED


def test_decide_row_11_a_busy_session_ends_too() -> None:
    session, now = after_renewals(47)
    assert expires_at(session, POLICY) == NOW + POLICY.max_lifetime
    assert decide(session, presented(session), now + 15 * MINUTE - 1, POLICY) is Outcome.CONFIRM
    assert decide(session, presented(session), now + 15 * MINUTE, POLICY) is Outcome.EXPIRED


def test_expires_at_is_the_earlier_of_the_two_ends() -> None:
    assert expires_at(a_session(), POLICY) == NOW + POLICY.ttl
    late = a_session(renewed_at=NOW + POLICY.max_lifetime - 1)
    assert expires_at(late, POLICY) == NOW + POLICY.max_lifetime


@pytest.mark.parametrize("outcome", list(Outcome))
def test_which_outcomes_are_the_users(outcome: Outcome) -> None:
    refused = {Outcome.STRANGER, Outcome.REUSE, Outcome.EXPIRED}
    assert outcome.accepted == (outcome not in refused)


# --- what the record remembers ------------------------------------------------------------------------------------

Action = Literal["renew", "confirm", "restore"]

LONG = 10**9


class Course(NamedTuple):
    """A course of events: the grace, and steps of (time passed, what happens)."""

    grace: Millis
    steps: list[tuple[Millis, Action]]


def courses(*actions: Action, backwards: bool = False) -> st.SearchStrategy[Course]:
    def of(grace: Millis) -> st.SearchStrategy[Course]:
        passed = st.one_of(st.integers(0, 3), st.integers(-2 * grace if backwards else 0, 2 * grace + 1))
        return st.builds(Course, st.just(grace), st.lists(st.tuples(passed, st.sampled_from(actions)), max_size=60))

    return st.one_of(st.integers(0, 12), st.integers(0, 100_000)).flatmap(of)


def policy_of(course: Course) -> Policy:
    return Policy(ttl=LONG, renewal=0, max_lifetime=LONG, grace=course.grace)


class Run:
    """Carries a course out, and keeps beside the record when each generation was really first used."""

    def __init__(self, course: Course) -> None:
        self.policy = policy_of(course)
        self.now = NOW
        self.session = a_session()
        self.newest = 0
        self.lost: Session | None = None
        self.first_used: dict[int, Millis] = {0: NOW}

    def step(self, passed: Millis, action: Action) -> None:
        self.now += passed
        before = self.session
        if action == "restore" and self.lost is not None:
            self.session, self.lost = self.lost, None
            return
        self.lost = before
        if self.session.generation < self.newest:
            self.first_used.setdefault(self.newest, self.now)
            self.session = forwarded(self.session, self.newest, self.now, self.policy)
        elif action == "renew":
            self.first_used.setdefault(before.generation, self.now)
            self.session = renewed(before, self.now, self.policy)
            self.newest = self.session.generation
        else:
            self.first_used.setdefault(before.generation, self.now)
            self.session = confirmed(before, self.now, self.policy)

    def noted(self, generation: int) -> Millis | None:
        """When the record has it that a generation was first used; ``None`` if it has no time for it."""
        return next((at for other, at in self.session.recent if other >= generation), None)

    def outcomes(self) -> dict[int, Outcome]:
        return {
            old: decide(self.session, presented(self.session, old), self.now, self.policy)
            for old in range(self.session.generation)
        }


@hurried
@given(courses("renew", "confirm"))
def test_first_uses_are_kept_in_bounded_space_and_never_older_than_they_were(course: Course) -> None:
    run = Run(course)
    for step in course.steps:
        run.step(*step)
        assert len(run.session.recent) <= GRACE_STEPS + 2
        for generation, really in run.first_used.items():
            noted = run.noted(generation)
            if generation > run.session.settled:
                assert noted is not None
                assert really <= noted <= really + course.grace / GRACE_STEPS


@hurried
@given(courses("renew", "confirm"))
def test_an_old_id_is_answered_for_the_grace_and_at_most_a_quarter_longer(course: Course) -> None:
    run = Run(course)
    for step in course.steps:
        run.step(*step)
        for old, outcome in run.outcomes().items():
            successor = run.first_used.get(old + 1)
            if successor is None or run.now - successor <= course.grace:
                assert outcome is Outcome.RESEND
            elif run.now - successor > course.grace * (1 + 1 / GRACE_STEPS):
                assert outcome is Outcome.REUSE


@hurried
@given(courses("renew", "confirm"))
def test_reuse_is_for_ever(course: Course) -> None:
    run = Run(course)
    reused: set[int] = set()
    for step in course.steps:
        run.step(*step)
        outcomes = run.outcomes()
        assert all(outcomes[old] is Outcome.REUSE for old in reused)
        reused.update(old for old, outcome in outcomes.items() if outcome is Outcome.REUSE)


@hurried
@given(courses("renew", "confirm"), st.lists(st.integers(0, 200_000), max_size=8))
def test_reuse_stays_reuse_while_time_passes_over_one_record(course: Course, passed: list[Millis]) -> None:
    run = Run(course)
    for step in course.steps:
        run.step(*step)
    reused: set[int] = set()
    for more in passed:
        run.now += more
        outcomes = run.outcomes()
        assert all(outcomes[old] is Outcome.REUSE for old in reused)
        reused.update(old for old, outcome in outcomes.items() if outcome is Outcome.REUSE)


@hurried
@given(courses("renew", "confirm", "restore"))
def test_a_store_that_loses_writes_never_makes_an_honest_id_old(course: Course) -> None:
    run = Run(course)
    for step in course.steps:
        run.step(*step)
        assert len(run.session.recent) <= GRACE_STEPS + 2
        newest = decide(run.session, presented(run.session, run.newest), run.now, run.policy)
        assert newest.accepted
        for old, outcome in run.outcomes().items():
            successor = run.first_used.get(old + 1)
            if successor is None or run.now - successor <= course.grace:
                assert outcome is Outcome.RESEND


@hurried
@given(courses("renew", "confirm", "restore", backwards=True))
def test_a_clock_that_jumps_leaves_a_sound_record(course: Course) -> None:
    run = Run(course)
    for step in course.steps:
        settled = run.session.settled
        before = run.session
        run.step(*step)
        session = run.session
        times = [at for _, at in session.recent]
        generations = [generation for generation, _ in session.recent]
        assert len(times) <= GRACE_STEPS + 2
        assert times == sorted(times)
        assert generations == sorted(set(generations))
        assert all(session.settled < generation <= session.generation for generation in generations)
        if step[1] != "restore" and session != before:
            assert session.settled >= settled
            assert all(run.now - course.grace <= at <= run.now for at in times)
        current = decide(session, presented(session), run.now, run.policy)
        assert current.accepted or run.now < NOW - CLOCK_TOLERANCE


@pytest.mark.parametrize("grace", range(42))
def test_a_renewal_in_every_millisecond_is_remembered_in_bounded_space(grace: Millis) -> None:
    run = Run(Course(grace, []))
    for _ in range(3 * grace + 10):
        run.step(1, "renew")
        assert len(run.session.recent) <= GRACE_STEPS + 2


def test_a_first_use_that_a_clock_set_back_left_in_the_future_counts_from_now() -> None:
    session = confirmed(renewed(a_session(), NOW + 60 * MINUTE, POLICY), NOW + 60 * MINUTE, POLICY)
    session = renewed(session, NOW, POLICY)
    assert session.recent == ((1, NOW),)
    assert decide(session, presented(session, 0), NOW + 30_000, POLICY) is Outcome.RESEND
    assert decide(session, presented(session, 0), NOW + 30_001, POLICY) is Outcome.REUSE


def test_confirming_twice_changes_nothing() -> None:
    session = confirmed(renewed(a_session(), NOW, POLICY), NOW, POLICY)
    assert confirmed(session, NOW + 1, POLICY) == session


# --- new sessions, and ids ----------------------------------------------------------------------------------------


def test_a_new_session_begins_confirmed_and_holds_what_it_was_given() -> None:
    owner = make_owner("credentials", "42")
    session = new_session(owner, a_subject(), NOW, {"ip": "192.0.2.1"})
    assert session.confirmed
    assert (session.generation, session.settled, session.recent) == (0, 0, ())
    assert session.created_at == session.renewed_at == session.authenticated_at == NOW
    assert (session.user_key, session.proofs, session.metadata) == ("42", (b"a proof",), {"ip": "192.0.2.1"})
    assert session.sid[:SHARD_BYTES] == shard_of(owner)
    assert (len(session.sid), len(session.salt)) == (SID_BYTES, SALT_BYTES)


def test_no_two_new_sessions_are_alike() -> None:
    sessions = [a_session() for _ in range(200)]
    assert len({session.sid for session in sessions}) == len({session.salt for session in sessions}) == 200


def test_a_session_shows_its_sid_and_nothing_else() -> None:
    session = a_session()
    assert repr(session) == f"<Session {encode_sid(session.sid)} generation 0>"
    assert repr(presented(session)) == f"<PresentedId {encode_sid(session.sid)} generation 0>"


@hurried
@given(st.integers(0, MAX_GENERATION), st.sampled_from(["", "my_app.", "a-b."]))
def test_an_id_says_what_went_in(generation: int, prefix: str) -> None:
    session = a_session(generation=generation)
    value = encode_id(session, a_mac(), prefix)
    assert value.startswith(prefix)
    assert len(value) == len(prefix) + ID_CHARS
    assert decode_id(value, a_mac(), prefix) == presented(session)
    assert encode_id(session, a_mac(), prefix) == value


def test_an_id_is_signed_anew_with_the_newest_secret() -> None:
    session = a_session()
    old = encode_id(session, a_mac(OTHER_SECRET))
    both = a_mac([SECRET, OTHER_SECRET])
    assert decode_id(old, both) == presented(session)
    assert encode_id(session, both) == encode_id(session, a_mac()) != old


@pytest.mark.parametrize(("made", "read"), [("", "a."), ("a.", ""), ("a.", "b."), ("a.", "A."), ("a.", "a.a.")])
def test_an_id_with_another_prefix_is_none(made: str, read: str) -> None:
    assert decode_id(encode_id(a_session(), a_mac(), made), a_mac(), read) is None


@hurried
@given(st.one_of(st.text(max_size=100), st.text(min_size=ID_CHARS, max_size=ID_CHARS)), st.sampled_from(["", "app."]))
def test_no_text_makes_decoding_fail(text: str, prefix: str) -> None:
    assert decode_id(text, a_mac(), prefix) is None
    assert decode_id(prefix + text, a_mac(), prefix) is None


@hurried
@given(st.integers(0, ID_CHARS - 1), st.characters())
def test_an_id_with_one_character_changed_is_none(position: int, character: str) -> None:
    value = encode_id(a_session(), a_mac())
    assume(value[position] != character)
    assert decode_id(value[:position] + character + value[position + 1 :], a_mac()) is None


def test_what_is_too_long_costs_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[bytes] = []

    def verify(self: Mac, message: bytes, code: bytes) -> bool:
        del self, code
        verified.append(message)
        return False

    monkeypatch.setattr(Mac, "verify", verify)
    for length in (0, 1, ID_CHARS - 1, ID_CHARS + 1, 65_536):
        assert decode_id("A" * length, a_mac()) is None
    assert decode_id("A" * (ID_CHARS - 1) + "\n", a_mac()) is None
    assert verified == []
    decode_id("A" * ID_CHARS, a_mac())
    assert len(verified) == 1


def test_a_sid_is_spelled_in_one_way() -> None:
    sid = a_session().sid
    value = encode_sid(sid)
    assert len(value) == SID_CHARS
    assert decode_sid(value) == sid
    assert binascii.a2b_base64(value.replace("-", "+").replace("_", "/")) == sid


@pytest.mark.parametrize(
    "wrong", [None, 5, b"A" * SID_CHARS, "", "A" * 23, "A" * 25, "A" * 23 + "=", "A" * 23 + "\n", "é" * 24]
)
def test_what_is_no_sid_is_none(wrong: object) -> None:
    assert decode_sid(wrong) is None
