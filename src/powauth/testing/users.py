"""The suite that every users context passes: ours, and one that you write.

Subclass `UsersConformance` in your own tests, say how to make a context, and pytest collects the rest::

    class TestMyUsers(UsersConformance):
        def make_users(self) -> UsersContext[MyUser]:
            return MyUsers(directory=self.name)

As with `powauth.testing.BackendConformance`, each test is a plain method with plain asserts.
"""

# ruff: noqa: D102 the name of a test is its sentence

import asyncio
import contextlib
import inspect
import unittest
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import cached_property
from typing import Any
from uuid import uuid4

from powauth.accounts.base import UsersContext
from powauth.backends.base import drive
from powauth.errors import InvalidParams

Scenario = Callable[[UsersContext[Any]], Coroutine[Any, Any, None]]
"""What a test does with a users context."""

MAX_KEY_BYTES = 255
"""The longest key that a user may have; see `UsersContext.key`."""

GOOD = "seven red herons"
BETTER = "eleven grey geese"
"""Two passwords that any policy should take."""

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
"""What a client may put in the place of any text."""

NO_PASSWORDS = (
    *(value for value in HOSTILE if not isinstance(value, str)),
    "",
    " ",
    "seven red herons \ud800",
    "x" * 100_000,
)
"""What no policy can take for a password."""


class UsersConformance:
    """What `powauth.accounts.base.UsersContext` promises; subclass it as ``Test…``.

    Attributes:
        user_id_field: the name of the user id in params and clauses.
    """

    user_id_field: str = "email"

    # What a subclass says

    def make_users(self) -> UsersContext[Any] | Awaitable[UsersContext[Any]]:
        """A context without users, for one test; may be ``async def``, and then runs in that test's event loop."""
        raise NotImplementedError

    async def dispose(self, users: UsersContext[Any]) -> None:
        """Clean up after a test."""
        await users.close()

    async def deactivate(self, users: UsersContext[Any], user: Any) -> Any:
        """Lock a user; the user as it is then. Where there is no such thing, leave this: its test is skipped."""
        raise unittest.SkipTest("this context has no inactive users")

    def user_id(self, name: str = "mia") -> str:
        """A user id in its normal form."""
        return f"{name}.{self.name}@example.com"

    # What the tests use

    @cached_property
    def name(self) -> str:
        """A name of this test alone (pytest makes an object for each test)."""
        return f"t{uuid4().hex[:16]}"

    def params(self, name: str = "mia", password: object = GOOD, **others: object) -> dict[str, object]:
        """What somebody signs up or in with."""
        return {self.user_id_field: self.user_id(name), "password": password, **others}

    def run(self, scenario: Scenario) -> None:
        """Make a context, run the scenario on it, dispose of it: in one event loop if the context is ``async``."""

        async def whole(users: UsersContext[Any]) -> None:
            try:
                await scenario(users)
            finally:
                await self.dispose(users)

        async def make() -> UsersContext[Any] | None:
            made = self.make_users()
            users = await made if inspect.isawaitable(made) else made
            assert users.mode in {"inline", "blocking", "async"}
            if users.mode != "async":
                return users
            await whole(users)
            return None

        synchronous = asyncio.run(make())
        if synchronous is not None:
            drive(whole(synchronous))

    async def refused(self, attempt: Awaitable[object]) -> Mapping[str, list[str]]:
        """The errors of an attempt that must be refused."""
        try:
            await attempt
        except InvalidParams as error:
            errors = error.errors
        else:
            raise AssertionError("it was not refused")
        assert errors
        assert all(isinstance(each, str) and each for messages in errors.values() for each in messages or [""])
        return errors

    # Registration and sign-in

    def test_a_registered_user_signs_in(self) -> None:
        async def scenario(users: UsersContext[Any]) -> None:
            created = await users.create(self.params())
            assert isinstance(created, users.user_type)
            assert users.is_active(created) is True
            found = await users.authenticate(self.params())
            assert isinstance(found, users.user_type)
            assert users.key(found) == users.key(created)
            assert users.fingerprint(found) == users.fingerprint(created)

        self.run(scenario)

    def test_what_does_not_prove_a_user_gives_none(self) -> None:
        async def scenario(users: UsersContext[Any]) -> None:
            await users.create(self.params())
            for params in (
                self.params(password=BETTER),
                self.params(password=GOOD.upper()),
                self.params(password=GOOD + " "),
                self.params(password=GOOD + "\x00"),
                self.params(password=GOOD[:-1]),
                self.params("nobody"),
                {"password": GOOD},
                {self.user_id_field: self.user_id()},
                {},
            ):
                assert await users.authenticate(params) is None

        self.run(scenario)

    def test_no_input_signs_anybody_in_or_breaks_it(self) -> None:
        async def scenario(users: UsersContext[Any]) -> None:
            await users.create(self.params())
            for value in HOSTILE:
                assert await users.authenticate(self.params() | {self.user_id_field: value}) is None
                assert await users.authenticate(self.params(password=value)) is None
                if value is not None:
                    assert await users.get_by(**{self.user_id_field: value}) is None

        self.run(scenario)

    def test_a_look_up_of_none_is_an_error(self) -> None:
        async def scenario(users: UsersContext[Any]) -> None:
            await users.create(self.params())
            try:
                await users.get_by(**{self.user_id_field: None})
            except ValueError:
                return
            raise AssertionError("get_by looked up None")

        self.run(scenario)

    def test_no_input_makes_an_invalid_user_or_breaks_it(self) -> None:
        async def scenario(users: UsersContext[Any]) -> None:
            for value in HOSTILE:
                bad_id = self.params() | {self.user_id_field: value}
                assert self.user_id_field in await self.refused(users.create(bad_id))
                assert self.user_id_field in users.change(bad_id)
            for value in NO_PASSWORDS:
                assert list(await self.refused(users.create(self.params(password=value)))) == ["password"]
            assert await users.get_by(**{self.user_id_field: self.user_id()}) is None
            assert {self.user_id_field, "password"} <= set(await self.refused(users.create({})))

        self.run(scenario)

    def test_a_user_id_is_given_once_whatever_its_letter_case(self) -> None:
        async def scenario(users: UsersContext[Any]) -> None:
            await users.create(self.params())
            for spelling in (self.user_id(), self.user_id().upper(), f" {self.user_id()}"):
                errors = await self.refused(users.create({self.user_id_field: spelling, "password": BETTER}))
                assert list(errors) == [self.user_id_field]
            assert await users.authenticate(self.params(password=BETTER)) is None

        self.run(scenario)

    def test_parallel_registrations_of_one_user_id_make_one_user(self) -> None:
        async def scenario(users: UsersContext[Any]) -> None:
            attempts = [users.create(self.params()) for _ in range(4)]
            if users.mode == "async":
                results = await asyncio.gather(*attempts, return_exceptions=True)
            else:
                results = [await _outcome(each) for each in attempts]
            assert [isinstance(each, InvalidParams) for each in results].count(False) == 1

        self.run(scenario)

    def test_an_inactive_user_does_not_sign_in(self) -> None:
        async def scenario(users: UsersContext[Any]) -> None:
            locked = await self.deactivate(users, await users.create(self.params()))
            assert users.is_active(locked) is False
            assert await users.authenticate(self.params()) is None
            reloaded = await users.reload(locked)
            assert reloaded is not None
            assert users.is_active(reloaded) is False

        self.run(scenario)

    # Keys and snapshots

    def test_keys_are_short_distinct_and_stay(self) -> None:
        async def scenario(users: UsersContext[Any]) -> None:
            mia, noa = await users.create(self.params()), await users.create(self.params("noa"))
            key = users.key(mia)
            assert 0 < len(key.encode()) <= MAX_KEY_BYTES
            assert key != users.key(noa)
            moved = await users.update(mia, {self.user_id_field: self.user_id("mia2")}, trusted=True)
            assert users.key(moved) == key

        self.run(scenario)

    def test_a_key_is_never_given_again(self) -> None:
        async def scenario(users: UsersContext[Any]) -> None:
            first = await users.create(self.params())
            assert await users.delete(first) is True
            second = await users.create(self.params())
            assert await users.reload(first) is None
            assert users.key(second) != users.key(first)

        self.run(scenario)

    def test_a_snapshot_comes_back_as_the_same_user(self) -> None:
        async def scenario(users: UsersContext[Any]) -> None:
            user = await users.create(self.params())
            snapshot = users.snapshot(user)
            assert isinstance(snapshot, bytes)
            assert GOOD.encode() not in snapshot
            assert b"argon2" not in snapshot
            restored = users.restore(snapshot)
            assert isinstance(restored, users.user_type)
            assert users.key(restored) == users.key(user)
            assert users.is_active(restored) is True
            assert users.snapshot(restored) == snapshot

        self.run(scenario)

    def test_users_who_are_said_to_be_immutable_are(self) -> None:
        async def scenario(users: UsersContext[Any]) -> None:
            user = users.restore(users.snapshot(await users.create(self.params())))
            if users.immutable:
                with contextlib.suppress(AttributeError, TypeError):
                    setattr(user, self.user_id_field, self.user_id("tom"))
                    raise AssertionError("a user's attribute could be set")

        self.run(scenario)

    def test_what_is_no_snapshot_is_a_value_error(self) -> None:
        async def scenario(users: UsersContext[Any]) -> None:
            good = users.snapshot(await users.create(self.params()))
            for snapshot in (b"", b"\xc0", b"\xff" * 100, b"\x81\xa1a\x01", good[:-1], good + b"\x00", b"\xc1" + good):
                try:
                    users.restore(snapshot)
                except ValueError:
                    continue
                raise AssertionError(f"restored {snapshot!r}")

        self.run(scenario)

    # Changes

    def test_a_new_password_replaces_the_old_one(self) -> None:
        async def scenario(users: UsersContext[Any]) -> None:
            user = await users.create(self.params())
            changed = await users.update(user, {"current_password": GOOD, "password": BETTER})
            assert users.fingerprint(changed) != users.fingerprint(user)
            assert await users.authenticate(self.params()) is None
            assert await users.authenticate(self.params(password=BETTER)) is not None

        self.run(scenario)

    def test_a_new_user_id_changes_the_fingerprint(self) -> None:
        async def scenario(users: UsersContext[Any]) -> None:
            user = await users.create(self.params())
            change = {"current_password": GOOD, self.user_id_field: self.user_id("mia2")}
            changed = await users.update(user, change)
            assert users.fingerprint(changed) != users.fingerprint(user)
            assert await users.get_by(**{self.user_id_field: self.user_id()}) is None
            assert await users.authenticate(self.params("mia2")) is not None

        self.run(scenario)

    def test_a_change_of_ones_own_needs_the_current_password(self) -> None:
        async def scenario(users: UsersContext[Any]) -> None:
            user = await users.create(self.params())
            for wrong in (*HOSTILE, BETTER):
                change = {"current_password": wrong, "password": BETTER, self.user_id_field: self.user_id("mia2")}
                assert list(await self.refused(users.update(user, change))) == ["current_password"]
                assert list(await self.refused(users.delete(user, {"current_password": wrong}))) == ["current_password"]
            assert "current_password" in await self.refused(users.update(user, {"password": BETTER}))
            assert "current_password" in await self.refused(users.delete(user, {}))
            assert await users.authenticate(self.params()) is not None

        self.run(scenario)

    def test_another_users_id_cannot_be_taken(self) -> None:
        async def scenario(users: UsersContext[Any]) -> None:
            await users.create(self.params())
            noa = await users.create(self.params("noa"))
            change: dict[str, object] = {self.user_id_field: self.user_id()}
            own = users.update(noa, change | {"current_password": GOOD})
            assert list(await self.refused(own)) == [self.user_id_field]
            assert list(await self.refused(users.update(noa, change, trusted=True))) == [self.user_id_field]

        self.run(scenario)

    def test_a_deleted_user_is_gone(self) -> None:
        async def scenario(users: UsersContext[Any]) -> None:
            user = await users.create(self.params())
            assert await users.delete(user, {"current_password": GOOD}) is True
            assert await users.delete(user) is False
            assert await users.reload(user) is None
            assert await users.authenticate(self.params()) is None
            assert list(await self.refused(users.update(user, {"password": BETTER}, trusted=True))) == ["base"]

        self.run(scenario)

    def test_reload_and_get_by_find_the_user_as_it_is_now(self) -> None:
        async def scenario(users: UsersContext[Any]) -> None:
            old = await users.create(self.params())
            new = await users.update(old, {"password": BETTER}, trusted=True)
            reloaded = await users.reload(users.restore(users.snapshot(old)))
            found = await users.get_by(**{self.user_id_field: self.user_id().upper()})
            assert reloaded is not None
            assert found is not None
            assert users.fingerprint(reloaded) == users.fingerprint(found) == users.fingerprint(new)

        self.run(scenario)


async def _outcome(attempt: Awaitable[object]) -> object:
    try:
        return await attempt
    except InvalidParams as error:
        return error
