"""Tests of a database that fails, and of a second context over the same users."""

# ruff: noqa: D102 the name of a test is its sentence

import inspect
from collections.abc import Awaitable, Callable

from powauth.accounts.base import Account
from powauth.errors import StoreUnavailable
from powauth.testing.users.suite import BETTER, GOOD, HOSTILE, Suite, Users, assert_same, scenario, unbroken


class FaultTests(Suite):
    """`StoreUnavailable`, and users who are changed elsewhere."""

    # A database that fails

    @scenario
    async def test_rep_63_a_database_that_fails_is_unavailable(self, users: Users) -> None:
        created = await users.create(self.params())
        await self.break_database(users)
        try:
            for name, attempt in self._attempts(users, created).items():
                await _assert_unavailable(name, attempt)
        finally:
            await self.mend_database(users)
        again = await users.create(self.params("again"))
        await self.assert_signs_in(users, self.params("again"), again)

    @scenario
    async def test_rep_63_a_database_that_fails_is_no_reason_to_answer_anybody(self, users: Users) -> None:
        created = await users.create(self.params())
        await self.assert_signs_in(users, self.params(), created)
        await self.break_database(users)
        try:  # answer neither from a cache nor with "there is no such user"
            for params in (self.params(), self.params(password=BETTER), self.params("nobody")):
                await _assert_unavailable("authenticate", lambda params=params: users.authenticate(params))  # type: ignore[misc]
        finally:
            await self.mend_database(users)

    @scenario
    async def test_what_needs_no_database_asks_none(self, users: Users) -> None:
        created = await users.create(self.params())
        expected = users.login_key(self.params())
        await self.break_database(users)
        try:
            with unbroken("a database that fails"):
                assert users.login_key(self.params()) == expected
                assert users.key_of(created) == users.key_of(created.identity) == created.key
                assert dict(users.validate(self.params("noa"))) == {}
                assert dict(users.validate({"current_password": GOOD, "password": BETTER}, created.identity)) == {}
                for value in HOSTILE:
                    users.login_key(self.named(value))
                    assert self.user_id_field in users.validate(self.params() | self.named(value))
        finally:
            await self.mend_database(users)

    def _attempts(self, users: Users, account: Account[object]) -> dict[str, Callable[[], Awaitable[object]]]:
        key = account.key
        return {
            "authenticate": lambda: users.authenticate(self.params()),
            "authenticate, unknown": lambda: users.authenticate(self.params("nobody")),
            "create": lambda: users.create(self.params("noa")),
            "create, taken": lambda: users.create(self.params()),
            "update": lambda: users.update(key, {"current_password": GOOD, "password": BETTER}),
            "update, trusted": lambda: users.update(key, {"password": BETTER}, trusted=True),
            "delete": lambda: users.delete(key),
            "delete, proven": lambda: users.delete(key, {"current_password": GOOD}),
            "get": lambda: users.get(key),
            "find": lambda: users.find(self.user_id()),
            "find, unknown": lambda: users.find(self.user_id("nobody")),
        }

    # Another process

    async def _second(self, users: Users) -> Users:
        made = self.second(users)
        return await made if inspect.isawaitable(made) else made

    @scenario
    async def test_rep_63_a_sign_in_knows_what_another_process_has_changed(self, users: Users) -> None:
        other = await self._second(users)
        try:
            created = await users.create(self.params())
            await self.assert_signs_in(users, self.params(), created)
            changed = await other.update(created.key, {"password": BETTER}, trusted=True)
            assert await users.authenticate(self.params()) is None, "the old password is still accepted"
            found = await users.authenticate(self.params(password=BETTER))
            assert found is not None
            assert_same(found, changed)
            assert_same(await self.got(users, created.key), changed)
            moved = await other.update(created.key, self.named(self.user_id("mia2")), trusted=True)
            assert await users.find(self.user_id()) is None
            assert await users.authenticate(self.params(password=BETTER)) is None
            await self.assert_signs_in(users, self.params("mia2", BETTER), moved)
        finally:
            await other.close()

    @scenario
    async def test_rep_63_a_sign_in_knows_whom_another_process_has_deleted_or_registered(self, users: Users) -> None:
        other = await self._second(users)
        try:
            created = await users.create(self.params())
            await self.assert_signs_in(users, self.params(), created)
            assert await other.delete(created.key) is True
            assert await users.authenticate(self.params()) is None, "a deleted user signs in"
            assert await users.get(created.key) is None
            assert await users.find(self.user_id()) is None
            again = await other.create(self.params(password=BETTER))
            await self.assert_signs_in(users, self.params(password=BETTER), again)
            assert await users.authenticate(self.params()) is None
        finally:
            await other.close()

    @scenario
    async def test_rep_63_a_sign_in_knows_whom_another_process_has_locked(self, users: Users) -> None:
        other = await self._second(users)
        try:
            created = await users.create(self.params())
            await self.assert_signs_in(users, self.params(), created)
            await self.deactivate(other, created)
            assert await users.authenticate(self.params()) is None, "a locked user signs in"
            assert (await self.got(users, created.key)).active is False
        finally:
            await other.close()


async def _assert_unavailable(name: str, attempt: Callable[[], Awaitable[object]]) -> None:
    error: Exception | None = None
    found: object = None
    try:
        found = await attempt()
    except Exception as raised:
        error = raised
    assert error is not None, f"{name} answers {found!r} although the database fails"
    assert isinstance(error, StoreUnavailable), f"{name} lets an error of the database out: {error!r}"
    assert error.__cause__ is not None, f"{name} hides why the database failed"
