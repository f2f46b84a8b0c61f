"""The users context that mutants are made of passes the suite, and skips nothing of it."""

import threading
from collections.abc import Mapping
from unittest import SkipTest

import pytest

from harness.small_users import Me, SmallUsers, Store
from harness.small_users_suites import SmallSuite, small
from powauth.accounts.base import Account
from powauth.backends.base import Mode
from powauth.testing import UsersConformance
from powauth.testing.users import Users


class TestSmallUsers(SmallSuite):
    pass


class AsyncUsers(SmallUsers):
    mode: Mode = "async"


class TestAsyncUsers(SmallSuite):
    kind = AsyncUsers


class StrictUsers(SmallUsers):
    """Refuses what no user may set, where others ignore it."""

    def errors(self, params: Mapping[str, object], *, changing: bool) -> dict[str, list[str]]:
        known = {"email", "password", "current_password", *self.trusted_changes(params)}
        unknown = {name: ["cannot be set"] for name in params.keys() - known | params.keys() & {"role", "locked"}}
        return super().errors(params, changing=changing) | unknown


class TestStrictUsers(SmallSuite):
    kind = StrictUsers


class CrowdedUsers(SmallUsers):
    """Breaks if two users register at once."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.registering = threading.Lock()

    async def create(self, params: Mapping[str, object]) -> Account[Me]:
        if not self.registering.acquire(blocking=False):
            raise LookupError("two at once")
        return await super().create(params)


def test_an_error_of_a_context_in_a_thread_of_the_suite_is_the_tests_error() -> None:
    with pytest.raises(LookupError, match="two at once"):
        small(CrowdedUsers)().test_parallel_registrations_of_one_user_id_make_one_user()


HOOKS = ["deactivate", "remove_password", "store_user_id", "weaken_hash", "hashing_work", "second", "break_database"]


class BareSuite(UsersConformance):
    """Offers nothing that the suite can do without."""

    def make_users(self) -> Users:
        return SmallUsers(Store())


def skipped(name: str) -> str | None:
    """The reason for which a test of the bare suite is skipped."""
    try:
        getattr(BareSuite(), name)()
    except SkipTest as reason:
        return str(reason)
    return None


def test_rep_64_what_a_context_does_not_offer_is_skipped_with_what_to_do() -> None:
    reasons = {name: skipped(name) for name in dir(BareSuite) if name.startswith("test_")}
    found = {name: reason for name, reason in reasons.items() if reason is not None}
    hooks: dict[str, list[str]] = {}
    for name, reason in found.items():
        (hook,) = [each for each in HOOKS if f"`{each}`" in reason]
        assert "override" in reason
        hooks.setdefault(hook, []).append(name)
    assert hooks.keys() == set(HOOKS)
    assert len(found) < len(reasons) / 3
    for name in hooks["hashing_work"]:
        assert name.endswith("the_same_work")
    for name in hooks["break_database"]:
        assert "database" in name
