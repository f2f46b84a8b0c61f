"""The counters of a throttle: options, windows, clocks, garbage, contention."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any, cast

import msgspec
import pytest

from harness.support import SECRET, Clock, CountingBackend, MemoryUsers
from powauth import ConfigError, CredentialsCache, Limit, SessionAuth, StoreUnavailable, Throttle, Throttled
from powauth.accounts.throttle import COUNT_ATTEMPTS, LINGER, Admission, Counters
from powauth.backends.base import Delete, Record, Update, drive, make_changes
from powauth.backends.memory import MemoryBackend
from powauth.sessions.keyring import Keyring

NAMESPACE = "credentials.throttle"
NOW = 1_900_000_000_000
MINUTE = timedelta(minutes=1)


class Desk:
    """Counters of three attempts in a minute, over a memory that counts."""

    def __init__(self, **options: Any) -> None:
        self.now = NOW
        self.backend = CountingBackend(MemoryBackend())
        throttle = Throttle(**{"per_account": Limit(3, MINUTE), "per_source": Limit(5, MINUTE)} | options)
        self.counters = Counters(throttle, Keyring(SECRET), "credentials")

    def time(self) -> int:
        return self.now

    def admit(self, account: str | None = "ada", source: str | None = None) -> Admission:
        return drive(self.counters.admit(self.backend, self.time, account=account, source=source))

    def refused(self, account: str | None = "ada", source: str | None = None) -> int:
        with pytest.raises(Throttled) as caught:
            self.admit(account, source)
        return int(caught.value.retry_after.total_seconds())

    @property
    def record(self) -> Record:
        (record,) = drive(self.backend.inner.scan(NAMESPACE, None, 10, self.now)).records
        return record

    @property
    def count(self) -> int:
        return msgspec.msgpack.decode(self.record.value, type=int)

    def put(self, **changes: Any) -> None:
        found = self.record
        changed = msgspec.structs.replace(found, version=found.version + 1, **changes)
        assert drive(self.backend.inner.update(changed, found.version, self.now))


def test_the_window_begins_with_the_first_attempt_and_does_not_slide() -> None:
    desk = Desk()
    for _ in range(3):
        desk.admit()
        desk.now += 10_000
    assert desk.refused() == 30
    desk.now += 29_001
    assert desk.refused() == 1
    desk.now += 999
    for _ in range(3):
        desk.admit()
    assert desk.refused() == 60


def test_accounts_sources_and_proofs_have_counters_of_their_own() -> None:
    desk = Desk()
    for _ in range(3):
        desk.admit("ada", None)
        desk.admit(None, "ada")
        drive(desk.counters.admit_current_password(desk.backend, desk.time, "ada"))
    desk.refused("ada")
    with pytest.raises(Throttled) as caught:
        drive(desk.counters.admit_current_password(desk.backend, desk.time, "ada"))
    assert (caught.value.scope, str(caught.value)) == ("current_password", "too many attempts; try again later")
    desk.admit(None, "ada")
    desk.admit("bob", None)


def test_proofs_are_counted_as_accounts_are_or_not_at_all() -> None:
    desk = Desk(per_account=None)
    for _ in range(10):
        drive(drive(desk.counters.admit_current_password(desk.backend, desk.time, "ada")).undo())
    assert desk.backend.calls == []


def test_a_success_forgets_and_an_undone_attempt_is_given_back() -> None:
    desk = Desk()
    desk.admit()
    admission = desk.admit()
    assert desk.count == 2
    drive(admission.undo())
    assert desk.count == 1
    drive(desk.admit().succeed())
    assert drive(desk.backend.inner.count(NAMESPACE, desk.now)) == 0


def test_a_counter_that_is_back_at_zero_is_soon_gone_and_meanwhile_begins_anew() -> None:
    desk = Desk()
    drive(desk.admit(None, "s").succeed())
    assert (desk.count, desk.record.expires_at) == (0, NOW + LINGER)
    desk.now += 10
    desk.admit(None, "s")
    assert (desk.count, desk.record.expires_at) == (1, NOW + 10 + 60_000)
    drive(desk.admit(None, "s").succeed())
    assert (desk.count, desk.record.expires_at) == (1, NOW + 10 + 60_000)


def test_what_is_given_back_late_takes_nothing_from_a_later_window() -> None:
    desk = Desk()
    late = desk.admit(None, "s")
    desk.now += 60_000
    desk.admit(None, "s")
    drive(late.succeed())
    assert desk.count == 1
    desk.now += 60_000
    drive(late.undo())
    assert drive(desk.backend.inner.count(NAMESPACE, desk.now)) == 0


def test_what_was_given_back_already_stays_at_zero() -> None:
    desk = Desk()
    admission = desk.admit(None, "s")
    drive(admission.undo())
    drive(admission.undo())
    assert desk.count == 0


@pytest.mark.parametrize("value", [b"", b"\xc1", msgspec.msgpack.encode("3"), msgspec.msgpack.encode(-1)])
def test_garbage_counts_as_full_for_a_period_at_most(value: bytes) -> None:
    desk = Desk()
    admission = desk.admit()
    desk.put(value=value)
    assert desk.refused() == 60
    drive(admission.undo())
    desk.put(value=value, expires_at=NOW + 10**9)
    assert desk.refused() == 60
    assert desk.record.expires_at == NOW + 60_000
    desk.now += 60_000
    desk.admit()


def test_garbage_is_not_given_back() -> None:
    desk = Desk()
    admission = desk.admit()
    desk.put(value=b"\xc1")
    drive(admission.undo())
    assert desk.record.value == b"\xc1"


def test_a_clock_set_back_locks_nobody_out_for_longer_than_a_period() -> None:
    desk = Desk()
    for _ in range(3):
        desk.admit()
    desk.now -= 365 * 86_400_000
    assert desk.refused() == 60
    desk.now += 60_000
    desk.admit()


def interfere(desk: Desk, verb: str, act: Callable[[], Any]) -> None:
    busy = False

    async def before(called: str) -> None:
        nonlocal busy
        if called == verb and not busy:
            busy = True
            act()
            busy = False

    hook: Callable[[str], Awaitable[None]] = before
    desk.backend.before = hook


def test_who_loses_every_time_is_throttled_and_not_let_through() -> None:
    desk = Desk(per_account=Limit(100, MINUTE))
    desk.admit()
    interfere(desk, "update", lambda: desk.put(value=msgspec.msgpack.encode(1)))
    with desk.backend.counting() as verbs:
        assert desk.refused() == 1
    assert verbs == ["create", *["get", "update"] * COUNT_ATTEMPTS]


def test_a_counter_that_vanishes_between_two_steps_is_made_again() -> None:
    desk = Desk()
    desk.admit()
    gone: list[bool] = []

    def forget() -> None:
        if not gone:
            gone.append(drive(desk.backend.inner.delete(desk.record.key, desk.now)))

    interfere(desk, "get", forget)
    with desk.backend.counting() as verbs:
        desk.admit()
    assert (verbs, desk.count, gone) == (["create", "get", "create"], 1, [True])


def test_giving_back_gives_up_and_leaves_one_too_many() -> None:
    desk = Desk()
    admission = desk.admit()
    interfere(desk, "update", lambda: desk.put(value=msgspec.msgpack.encode(2)))
    drive(admission.undo())
    assert desk.count == 2


def test_a_store_that_fails_after_the_password_was_right_takes_nothing_back() -> None:
    desk = Desk()
    admission = desk.admit("ada", "s")
    desk.backend.fail["*"] = StoreUnavailable("down")
    drive(admission.succeed())
    drive(admission.undo())


def settle(desk: Desk, admission: Admission) -> int:
    """As a sign-in does: make the changes of a success together with one of its own. Return how many were made."""
    changes = admission.success_changes()
    made = drive(make_changes(desk.backend, changes, desk.now))
    admission.note_made(made)
    return made


def test_changes_made_with_the_sign_in_are_not_made_twice() -> None:
    desk = Desk()
    desk.admit(None, "s")
    admission = desk.admit("ada", "s")
    assert [type(change) for change in admission.success_changes()] == [Delete, Update]
    assert settle(desk, admission) == 2
    assert admission.success_changes() == []
    assert desk.count == 1
    with desk.backend.counting() as verbs:
        drive(admission.succeed())
    assert (verbs, desk.count) == ([], 1)


def test_changes_that_failed_with_the_sign_in_are_made_after_it() -> None:
    desk = Desk()
    admission = desk.admit("ada", "s")
    desk.admit("bob", "s")
    drive(desk.counters.forget(desk.backend, "ada", desk.now))
    assert settle(desk, admission) == 0  # support has forgotten the account, so the source's turn did not come
    with desk.backend.counting() as verbs:
        drive(admission.succeed())
    assert verbs == ["update", "get", "update"]
    drive(desk.counters.forget(desk.backend, "bob", desk.now))
    assert desk.count == 1

    admission = desk.admit("ada", "s")
    desk.admit("bob", "s")
    assert settle(desk, admission) == 1  # the account; the source has been counted again
    with desk.backend.counting() as verbs:
        drive(admission.succeed())
    assert verbs == ["get", "update"]
    drive(desk.counters.forget(desk.backend, "bob", desk.now))
    assert desk.count == 2


def test_a_source_that_is_full_counts_no_account_also_when_its_clock_went_wrong() -> None:
    desk = Desk(per_source=Limit(1, MINUTE))
    desk.admit(None, "s")
    desk.put(expires_at=NOW + 10**9)
    assert desk.refused("ada", "s") == 60
    assert desk.record.expires_at == NOW + 60_000
    assert desk.refused("ada", "s") == 60
    assert drive(desk.backend.inner.count(NAMESPACE, desk.now)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per_account": 10}, "per_account must be a Limit"),
        ({"per_account": (10, 900)}, "per_account must be a Limit"),
        ({"per_source": Limit(0, MINUTE)}, "the attempts of per_source must be a whole number of 1 or more"),
        ({"per_source": Limit(True, MINUTE)}, "the attempts of per_source must be a whole number of 1 or more"),
        ({"per_source": Limit(1, timedelta(0))}, "the period of per_source must be 0:00:01 or more"),
        ({"per_source": Limit(1, timedelta(milliseconds=999))}, "the period of per_source must be 0:00:01 or more"),
        ({"per_source": Limit(1, cast("Any", 900))}, "the period of per_source must be a timedelta"),
        ({"per_account": Limit(101, MINUTE)}, "the attempts of per_account must be a whole number from 1 to 100"),
    ],
    ids=repr,
)
def test_wrong_limits_are_refused(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Throttle(**options)


def test_the_options_of_session_auth() -> None:
    parts: Any = {"secret_key": SECRET, "users": MemoryUsers(), "clock": Clock()}
    with pytest.raises(ConfigError, match="throttle must be a Throttle"):
        SessionAuth(**parts | {"backend": "memory://", "throttle": Limit(1, MINUTE)})
    long = CredentialsCache("memory://", namespace="n" * 60)
    with pytest.raises(ConfigError, match=r"leave room for '\.throttle'"):
        SessionAuth(**parts, store=long)
    SessionAuth(**parts, store=long, throttle=None)
    assert repr(Throttle(per_source=Limit(1, timedelta(seconds=2)), per_account=None)) == (
        "<Throttle per_account=None per_source=1 in 2 s>"
    )


def test_the_usual_key_of_a_users_context_joins_spellings() -> None:
    users = MemoryUsers()
    spellings = ("Ada@Example.org", " ada@example.org ", "\uff41da@example.org")
    keys = {users.login_key({"email": text}) for text in spellings}
    assert keys == {"ada@example.org"}
    for unusable in ({}, {"email": 7}, {"email": b"ada"}):
        assert users.login_key(unusable) is None
    assert users.login_key({"email": "a" * 10**6}) == "a" * 1024
    desk = Desk()
    desk.admit("\ud800")
