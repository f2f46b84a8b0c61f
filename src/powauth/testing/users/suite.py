"""The base of the suite: the methods that a subclass provides, and the tools that the tests share."""

from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import Any, ClassVar
from unittest import SkipTest
from uuid import uuid4

import msgspec

from powauth.accounts.base import Account, UsersContext
from powauth.accounts.identity import Key
from powauth.errors import InvalidParams, Overtaken
from powauth.testing.scenarios import run_scenario, scenario
from powauth.testing.stepping import PATIENCE

__all__ = ["BEST", "BETTER", "GOOD", "HOSTILE", "NO_PASSWORDS", "Suite", "Users", "scenario"]

MOST_SHOWN = 60
"""Maximum characters of a hostile value that an error shows."""

Users = UsersContext[Any, Any]
"""A users context of any kind."""

GOOD = "seven red herons"
BETTER = "eleven grey geese"
BEST = "twelve white swans"
"""Passwords that any policy should accept."""

HOSTILE: tuple[object, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    float("nan"),
    10**400,
    b"bytes",
    [],
    ["a@example.com"],
    {},
    {"$ne": ""},
    {"a", "b"},
    object(),
    "",
    " ",
    "\x00",
    "a\x00@example.com",
    "\ud800",
    "\ud800@example.com",
    "a@example.com\r\nBcc: b@example.com",
    "' OR 1=1 --",
    "%",
    "*",
    "x" * 100_000,
    "@" * 10_000,
    "a@" + "b." * 50_000 + "c",
)
"""Values that a client may send instead of any text."""

NO_PASSWORDS = (
    *(value for value in HOSTILE if not isinstance(value, str)),
    "",
    " ",
    "seven red herons \ud800",
    "x" * 100_000,
)
"""Values that no policy can accept as a password."""

FORBIDDEN: Mapping[str, object] = {
    "id": "00000000-0000-0000-0000-000000000007",
    "key": 7,
    "pk": 7,
    "active": False,
    "is_active": False,
    "disabled": True,
    "locked": True,
    "is_locked": True,
    "admin": True,
    "is_admin": True,
    "is_staff": True,
    "is_superuser": True,
    "role": "admin",
    "roles": ["admin"],
    "groups": ["admin"],
    "permissions": ["admin"],
    "verified": True,
    "email_verified": True,
    "password_hash": "forged",
    "hashed_password": "forged",
    "hash": "forged",
    "proof": "forged",
    "created_at": "1970-01-01T00:00:00Z",
    "updated_at": "1970-01-01T00:00:00Z",
    "__class__": "forged",
    "__dict__": {},
}
"""Usual names of fields that no user may set, with values that a client could send."""

DISTINCT = frozenset(
    {"id", "key", "pk", "password_hash", "hashed_password", "hash", "proof", "created_at", "updated_at"}
)
"""Names in `FORBIDDEN` whose values differ from user to user."""


class Suite:
    """The methods that a subclass of `powauth.testing.UsersConformance` provides, and the tools of its tests.

    Attributes:
        user_id_field: the name of the user id in params.
        forbidden: further names in params that no user may set, each with a valid value that no new user has.
        contenders: registrations that compete for one user id.
        steps_into: names of further modules or packages in which the tests of races stop. They always stop in the
            packages of the context's classes. An ``async`` context does not need it: it is stopped where it suspends.
        steps_over: names of modules in which the tests need not stop, such as a module that hashes passwords.
        patience: the time that a call gets while another call is stopped. After that, the suite assumes that it waits
            for the other. A higher value finds more on a slow database, and takes longer.
    """

    user_id_field: str = "email"
    forbidden: ClassVar[Mapping[str, object]] = {}
    contenders: int = 4
    steps_into: Sequence[str] = ()
    steps_over: Sequence[str] = ()
    patience: timedelta = PATIENCE

    # What a subclass provides

    def make_users(self) -> Users | Awaitable[Users]:
        """Return a context without users, for one test. May be ``async def``.

        An event loop runs during the call. The test of an ``async`` context runs in the same loop.
        """
        raise NotImplementedError

    async def dispose(self, users: Users) -> None:
        """Clean up after a test."""
        await users.close()

    def user_id(self, name: str = "mia") -> str:
        """Return a normalised user id that is unique to this test."""
        return f"{name}.{self.name}@example.com"

    async def deactivate(self, users: Users, account: Account[Any]) -> None:
        """Lock or disable a user. Without this method, the tests of inactive users are skipped."""
        raise SkipTest("this suite cannot lock a user: override `deactivate` if users can be locked")

    async def remove_password(self, users: Users, account: Account[Any]) -> None:
        """Remove a user's password, as if the user was invited or signs in elsewhere.

        Without this method, the tests of such users are skipped.
        """
        raise SkipTest("this suite cannot remove a password: override `remove_password` if users can lack one")

    async def store_user_id(self, users: Users, account: Account[Any], user_id: str) -> None:
        """Store a user id as it is, without normalising it, as an older release of the app would have.

        Without this method, the tests of such user ids are skipped.
        """
        raise SkipTest("this suite stores no user id as it is: override `store_user_id` if old rows may hold some")

    async def weaken_hash(self, users: Users, account: Account[Any]) -> None:
        """Store a weaker hash of the password `GOOD`, as an older release of the app would have.

        Without this method, the tests of stronger hashes are skipped.
        """
        raise SkipTest("this suite has no weaker hash: override `weaken_hash` if the context makes hashes stronger")

    async def stored(self, users: Users, account: Account[Any]) -> Mapping[str, object]:
        """Return the stored values of a user, by name. Add values that are not in the identity, such as permissions."""
        return msgspec.structs.asdict((await self.got(users, account.key)).identity)

    def hashing_work(self, users: Users) -> int:
        """Return the total work of hashing passwords so far.

        Add the cost of each computed hash. Without this method, the test of equal work is skipped.
        """
        raise SkipTest("this suite does not count the work of hashing: override `hashing_work`")

    def second(self, users: Users) -> Users | Awaitable[Users]:
        """Return another context over the same users, like another process has. The suite closes it.

        Without this method, its tests are skipped.
        """
        raise SkipTest("this suite makes no second context: override `second` if the users can have one")

    async def break_database(self, users: Users) -> None:
        """Make the database of a context fail, without the context's knowledge: stop it, or drop its table.

        Undo it in `mend_database`. Without this method, the tests of a broken database are skipped.
        """
        raise SkipTest("this suite cannot break its database: override `break_database` and `mend_database`")

    async def mend_database(self, users: Users) -> None:
        """Undo `break_database`. The earlier users may be lost."""
        raise NotImplementedError

    # What the tests use

    @cached_property
    def name(self) -> str:
        """The name of this test. It is unique, because pytest makes an object for each test."""
        return f"t{uuid4().hex[:16]}"

    def params(self, name: str = "mia", password: object = GOOD) -> dict[str, object]:
        """Return the params to register or sign in with."""
        return {self.user_id_field: self.user_id(name), "password": password}

    def named(self, value: object) -> dict[str, object]:
        """Return params with a user id and nothing else."""
        return {self.user_id_field: value}

    def run(self, scenario: Callable[[Users], Coroutine[Any, Any, None]]) -> None:
        """Make a context, run the scenario on it, and dispose of it. If it is ``async``, all run in one event loop."""
        assert self.name  # computed before threads read it: `cached_property` takes no lock
        run_scenario(self.make_users, scenario, self.dispose)

    async def refused(self, attempt: Awaitable[object]) -> Mapping[str, list[str]]:
        """Return the errors of an attempt that must be refused."""
        try:
            await attempt
        except InvalidParams as error:
            errors = error.errors
        else:
            raise AssertionError("it was not refused")
        assert_errors(errors)
        return errors

    async def overtaken(self, attempt: Awaitable[object]) -> None:
        """Check that an attempt is refused because the account has changed meanwhile."""
        try:
            await attempt
        except Overtaken as error:
            assert_errors(error.errors)
        else:
            raise AssertionError("it was not refused, though the account has another proof")

    async def got(self, users: Users, key: Key) -> Account[Any]:
        """Return the account with a key, which must exist."""
        found = await users.get(key)
        assert found is not None, "the user is gone"
        return found

    async def assert_signs_in(self, users: Users, params: Mapping[str, object], account: Account[Any]) -> None:
        """Check that params prove a user, and that look-ups return the same account."""
        found = await users.authenticate(params)
        assert found is not None, "the user cannot sign in"
        assert found.active is True
        assert found.key == account.key
        assert_same(found, await self.got(users, account.key))


@contextmanager
def unbroken(value: object) -> Iterator[None]:
    """Check that an input makes a context raise no error except `InvalidParams`."""
    try:
        yield
    except (AssertionError, InvalidParams):
        raise
    except Exception as error:
        shown = ascii(value)[:MOST_SHOWN]
        raise AssertionError(f"{shown} breaks the context: {error!r}") from error


def assert_errors(errors: Mapping[str, list[str]]) -> None:
    """Check that errors can be shown in a form."""
    assert errors
    for name, messages in errors.items():
        assert isinstance(name, str)
        assert messages
        assert all(isinstance(each, str) and each for each in messages)


def assert_same(one: Account[Any], other: Account[Any]) -> None:
    """Check that two accounts show the same user in the same state. The classes of their identities may differ."""
    assert (type(one.key), one.key) == (type(other.key), other.key)
    assert msgspec.structs.asdict(one.identity) == msgspec.structs.asdict(other.identity)
    assert one.proof == other.proof
    assert one.active is other.active
