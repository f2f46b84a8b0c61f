"""The users context that mutants are made of passes the suite, and skips nothing of it."""

from unittest import SkipTest

from harness.small_users import SmallUsers, Store
from harness.small_users_suites import SmallSuite
from powauth.backends.base import Mode
from powauth.testing import UsersConformance
from powauth.testing.users import Users


class TestSmallUsers(SmallSuite):
    pass


class AsyncUsers(SmallUsers):
    mode: Mode = "async"


class TestAsyncUsers(SmallSuite):
    kind = AsyncUsers


HOOKS = ["deactivate", "remove_password", "weaken_hash", "hashing_work", "second", "break_database"]


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
