"""Tests of registrations: refused parameters, and fields that no client can set."""

# ruff: noqa: D102 the name of a test is its sentence

from collections.abc import Awaitable, Mapping
from types import MappingProxyType
from typing import Any

from powauth.accounts.base import Account
from powauth.errors import InvalidParams
from powauth.testing.users.suite import (
    BETTER,
    DISTINCT,
    FORBIDDEN,
    GOOD,
    HOSTILE,
    NO_PASSWORDS,
    Suite,
    Users,
    assert_errors,
    assert_same,
    scenario,
    unbroken,
)


class RegistrationTests(Suite):
    """`UsersContext.create` and `UsersContext.validate`."""

    @scenario
    async def test_a_registered_user_signs_in(self, users: Users) -> None:
        created = await users.create(self.params())
        assert isinstance(created, Account)
        assert created.active is True
        assert created.rehash is None
        await self.assert_signs_in(users, self.params(), created)

    @scenario
    async def test_params_may_be_any_mapping(self, users: Users) -> None:
        created = await users.create(MappingProxyType(self.params()))
        await self.assert_signs_in(users, MappingProxyType(self.params()), created)
        change = {"current_password": GOOD, "password": BETTER}
        await users.update(created.key, MappingProxyType(change))
        assert await users.delete(created.key, MappingProxyType({"current_password": BETTER})) is True

    @scenario
    async def test_no_input_makes_an_invalid_user_or_breaks_it(self, users: Users) -> None:
        for value in HOSTILE:
            bad_id = self.params() | self.named(value)
            with unbroken(value):
                assert self.user_id_field in await self.refused(users.create(bad_id))
                errors = users.validate(bad_id)
            assert_errors(errors)
            assert self.user_id_field in errors
        for value in NO_PASSWORDS:
            bad = self.params(password=value)
            with unbroken(value):
                assert list(await self.refused(users.create(bad))) == ["password"]
                assert list(users.validate(bad)) == ["password"]
        assert await users.find(self.user_id()) is None
        assert {self.user_id_field, "password"} <= set(await self.refused(users.create({})))

    @scenario
    async def test_what_is_valid_has_no_errors(self, users: Users) -> None:
        assert dict(users.validate(self.params())) == {}
        created = await users.create(self.params())
        change = {"current_password": GOOD, "password": BETTER}
        assert dict(users.validate(change, created.identity)) == {}
        assert dict(users.validate({"current_password": GOOD}, created.identity)) == {}

    @scenario
    async def test_to_validate_is_not_to_register(self, users: Users) -> None:
        users.validate(self.params())
        assert await users.find(self.user_id()) is None
        assert await users.authenticate(self.params()) is None

    @scenario
    async def test_a_user_id_is_given_once_whatever_its_letter_case(self, users: Users) -> None:
        created = await users.create(self.params())
        for spelling in (self.user_id(), self.user_id().upper(), f" {self.user_id()}"):
            errors = await self.refused(users.create(self.named(spelling) | {"password": BETTER}))
            assert list(errors) == [self.user_id_field]
        assert await users.authenticate(self.params(password=BETTER)) is None
        await self.assert_signs_in(users, self.params(), created)

    # A context may ignore a parameter that no user may set, or refuse it.

    @scenario
    async def test_rep_63_a_registration_sets_nothing_that_no_user_may_set(self, users: Users) -> None:
        expected = await self.stored(users, await users.create(self.params("plain")))
        for number, (name, value) in enumerate(self._forbidden().items()):
            params = self.params(f"user{number}") | {name: value}
            account = await _unless_refused(users.create(params))
            if account is not None:
                _assert_not_set(name, value, await self.stored(users, account), expected)
                await self.assert_signs_in(users, params, account)

    @scenario
    async def test_rep_63_a_users_own_change_sets_nothing_that_no_user_may_set(self, users: Users) -> None:
        account = await users.create(self.params())
        before = await self.stored(users, account)
        for name, value in self._forbidden().items():
            changed = await _unless_refused(users.update(account.key, {"current_password": GOOD, name: value}))
            assert changed is None or (changed.active is True and changed.proof == account.proof)
            _assert_not_set(name, value, await self.stored(users, account), before)
            await self.assert_signs_in(users, self.params(), account)

    @scenario
    async def test_rep_63_no_client_chooses_the_key_of_another_user(self, users: Users) -> None:
        noa = await users.create(self.params("noa"))
        keys: dict[str, object] = dict.fromkeys(("id", "key", "pk", getattr(users, "key_name", "id")), noa.key)
        mia = await _unless_refused(users.create(self.params() | keys))
        if mia is not None:
            assert mia.key != noa.key
            await _unless_refused(users.update(mia.key, {"current_password": GOOD, **keys}))
        found = await users.get(noa.key)
        assert found is not None
        assert_same(found, noa)

    def _forbidden(self) -> Mapping[str, object]:
        return {**FORBIDDEN, **self.forbidden}


async def _unless_refused(attempt: Awaitable[Account[Any]]) -> Account[Any] | None:
    try:
        return await attempt
    except InvalidParams:
        return None


def _assert_not_set(name: str, value: object, stored: Mapping[str, object], expected: Mapping[str, object]) -> None:
    if name in stored:
        # A context may have converted the value to another type, such as text to a date.
        like = str(stored[name]).casefold().startswith(str(value).casefold()[:10])
        kept = not like if name in DISTINCT else stored[name] == expected[name]
        assert kept, f"a client has set {name!r} to {stored[name]!r}"
