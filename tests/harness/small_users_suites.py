"""The suite on a users context in a dict, with all optional methods of the suite."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

from harness.small_users import WEAK_ROUNDS, SmallUsers, Store
from powauth.accounts.base import Account
from powauth.testing import UsersConformance
from powauth.testing.users import GOOD, Users


class SmallSuite(UsersConformance):
    """Runs on `SmallUsers`, or on a mutant of it."""

    kind: type[SmallUsers] = SmallUsers
    patience = timedelta(milliseconds=20)  # a mutant is caught only if the second call runs, on a busy machine too
    steps_over = ("harness.small_users_suites", "harness.mutants")

    def make_users(self) -> Users:
        self.store = Store()
        return self.kind(self.store)

    def second(self, users: Users) -> Users:
        return self.kind(self.store)

    async def deactivate(self, users: Users, account: Account[Any]) -> None:
        self.set(account, locked=True)

    async def remove_password(self, users: Users, account: Account[Any]) -> None:
        self.set(account, password_hash=None)

    async def weaken_hash(self, users: Users, account: Account[Any]) -> None:
        self.set(account, password_hash=SmallUsers(Store()).hashed(GOOD, WEAK_ROUNDS))

    async def stored(self, users: Users, account: Account[Any]) -> Mapping[str, object]:
        return asdict(self.store.rows[account.key])  # type: ignore[index]

    def hashing_work(self, users: Users) -> int:
        return self.store.work

    async def break_database(self, users: Users) -> None:
        self.store.broken = True

    async def mend_database(self, users: Users) -> None:
        self.store.broken = False

    def set(self, account: Account[Any], **values: Any) -> None:
        """Change a row without the context."""
        key = account.key
        assert isinstance(key, int)
        self.store.rows[key] = replace(self.store.rows[key], **values)


def small(kind: type[SmallUsers]) -> Callable[[], SmallSuite]:
    """Return a function that makes the suite on a kind of context."""

    def make() -> SmallSuite:
        suite = SmallSuite()
        suite.kind = kind
        return suite

    return make
