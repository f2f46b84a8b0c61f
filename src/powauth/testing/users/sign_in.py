"""Tests of sign-ins: their results, and the work that each costs."""

# ruff: noqa: D102 the name of a test is its sentence

import unicodedata
from collections.abc import Iterator, Mapping

from powauth.accounts.base import MAX_LOGIN_KEY
from powauth.testing.users.suite import (
    BETTER,
    GOOD,
    HOSTILE,
    NO_PASSWORDS,
    Suite,
    Users,
    assert_same,
    scenario,
    unbroken,
)

BLANKS = (" ", "\t", "\n", "\r\n", "\x0b", "\x00", "\u00a0", "\u200b", "\u2003", "\u3000", "\ufeff")

LOOKALIKES = {
    "a": "\u0430\uff41",
    "e": "\u0435\u212f",
    "i": "\u0131\u0456\u2170",
    "k": "\u212a",
    "m": "\uff4d\u217f",
    "s": "\u017f",
    "x": "\u0445\uff58",
    "@": "\uff20\ufe6b",
    ".": "\uff0e\u3002",
}
"""Characters that some case folding, collation or compatibility form treats as an ASCII character."""


def spellings_of(user_id: str) -> Iterator[str]:
    """Return a user id and other spellings of it. A context may accept some of them for the same user."""
    yield user_id
    yield from (user_id.upper(), user_id.title(), user_id.capitalize(), user_id.swapcase())
    yield from (user_id[:position] + user_id[position:].upper() for position in range(1, len(user_id), 5))
    for blank in BLANKS:
        yield from (blank + user_id, user_id + blank, blank * 3 + user_id + blank)
        yield user_id.replace("@", blank + "@").replace(".", "." + blank, 1)
    for plain, others in LOOKALIKES.items():
        if plain in user_id:
            yield from (user_id.replace(plain, other, 1) for other in others)
    for form in ("NFD", "NFKC", "NFKD"):
        yield unicodedata.normalize(form, user_id)
    yield from (f"{user_id}.", f"<{user_id}>", f'"{user_id}"', f"mailto:{user_id}", f"({user_id})", f"\u202e{user_id}")


class SignInTests(Suite):
    """`UsersContext.authenticate` and `UsersContext.login_key`."""

    @scenario
    async def test_what_does_not_prove_a_user_gives_none(self, users: Users) -> None:
        await users.create(self.params())
        await users.create(self.params("noa", BETTER))
        for params in (
            self.params(password=BETTER),
            self.params(password=GOOD.upper()),
            self.params(password=GOOD + " "),
            self.params(password=" " + GOOD),
            self.params(password=GOOD + "\x00"),
            self.params(password=GOOD[:-1]),
            self.params(password=""),
            self.params("nobody"),
            {"password": GOOD},
            {self.user_id_field: self.user_id()},
            {self.user_id_field: self.user_id(), "current_password": GOOD},
            {},
        ):
            assert await users.authenticate(params) is None

    @scenario
    async def test_no_input_signs_anybody_in_or_breaks_it(self, users: Users) -> None:
        await users.create(self.params())
        for value in HOSTILE:
            with unbroken(value):
                assert await users.authenticate(self.params() | self.named(value)) is None
                assert await users.authenticate(self.params(password=value)) is None
                assert await users.authenticate({self.user_id_field: value, "password": value}) is None

    @scenario
    async def test_every_character_of_a_long_password_counts(self, users: Users) -> None:
        long = "seven red herons wade " * 6  # 132 bytes; plain bcrypt would truncate it at 72
        created = await users.create(self.params(password=long))
        await self.assert_signs_in(users, self.params(password=long), created)
        for wrong in (long[:72], long[:-1], long + "x", long[:-1] + "x"):
            assert await users.authenticate(self.params(password=wrong)) is None

    @scenario
    async def test_a_sign_in_changes_nothing(self, users: Users) -> None:
        created = await users.create(self.params())
        before = await self.stored(users, created)
        for password in (GOOD, BETTER, GOOD):
            await users.authenticate(self.params(password=password))
        assert await self.stored(users, created) == before
        found = await users.get(created.key)
        assert found is not None
        assert_same(found, created)

    # The name under which failures are counted

    @scenario
    async def test_rep_62_every_spelling_that_signs_a_user_in_counts_under_one_key(self, users: Users) -> None:
        created = await users.create(self.params())
        expected = users.login_key(self.params())
        assert isinstance(expected, str)
        for spelling in spellings_of(self.user_id()):
            params = {self.user_id_field: spelling, "password": GOOD}
            found = await users.authenticate(params)
            if found is not None:
                assert found.key == created.key
                assert users.login_key(params) == expected, f"{spelling!r} gets a limit of its own"
            if await users.find(spelling) is not None:
                assert users.login_key(params) == expected, f"{spelling!r} gets a limit of its own"

    @scenario
    async def test_rep_62_a_wrong_password_counts_under_the_same_key_as_the_right_one(self, users: Users) -> None:
        expected = users.login_key(self.params())
        await users.create(self.params())
        assert users.login_key(self.params()) == expected  # whether or not the user exists
        for password in (BETTER, None, "", b"x", 5):
            assert users.login_key(self.params(password=password)) == expected
        assert users.login_key(self.params() | {"remember": True, "nonce": object()}) == expected
        assert users.login_key({self.user_id_field: self.user_id()}) == expected

    @scenario
    async def test_two_users_do_not_share_a_limit(self, users: Users) -> None:
        keys = {users.login_key(self.params(name)) for name in ("mia", "noa", "tom")}
        assert len(keys) == 3

    @scenario
    async def test_rep_62_no_input_breaks_the_key_or_makes_it_long(self, users: Users) -> None:
        for value in HOSTILE:
            for params in (self.named(value), self.params() | self.named(value)):
                with unbroken(value):
                    key = users.login_key(params)
                assert key is None or isinstance(key, str)
                # Case folding turns some characters into three or four.
                assert key is None or len(key) <= 4 * MAX_LOGIN_KEY
                assert users.login_key(params) == key
        assert users.login_key({}) is None

    @scenario
    async def test_rep_62_failures_of_every_spelling_count_together(self, users: Users) -> None:
        created = await users.create(self.params())
        expected = await users.throttle_key(self.params())
        assert isinstance(expected, str)
        for spelling in spellings_of(self.user_id()):
            found = await users.find(spelling)
            if found is not None:
                assert found.key == created.key
                assert await users.throttle_key(self.named(spelling)) == expected, f"{spelling!r} has its own limit"
        assert await users.throttle_key({}) is None

    # User ids that an older release has stored

    @scenario
    async def test_rep_28_a_user_id_signs_in_as_it_is_stored(self, users: Users) -> None:
        created = await users.create(self.params())
        for stored in (self.user_id().title(), f"{self.name} Lee", f"{self.name}@localhost"):
            await self.store_user_id(users, created, stored)
            params = {self.user_id_field: stored, "password": GOOD}
            found = await users.authenticate(params)
            assert found is not None, f"{stored!r} does not sign in"
            assert found.key == created.key
            assert await users.authenticate(params | {"password": BETTER}) is None
            assert isinstance(await users.throttle_key(params), str), f"guesses at {stored!r} are not counted"

    @scenario
    async def test_rep_28_nobody_registers_another_case_of_a_stored_user_id(self, users: Users) -> None:
        created = await users.create(self.params())
        noa = await users.create(self.params("noa"))
        await self.store_user_id(users, created, self.user_id().title())
        for spelling in (self.user_id(), self.user_id().title(), self.user_id().upper()):
            attempt = self.named(spelling) | {"password": BETTER}
            assert list(await self.refused(users.create(attempt))) == [self.user_id_field]
            change = self.named(spelling) | {"current_password": GOOD}
            assert list(await self.refused(users.update(noa.key, change))) == [self.user_id_field]
        assert await users.authenticate(self.named(self.user_id()) | {"password": BETTER}) is None
        assert_same(await self.got(users, noa.key), noa)

    # Inactive users, and users without a password

    @scenario
    async def test_rep_63_an_inactive_user_does_not_sign_in_and_is_not_forgotten(self, users: Users) -> None:
        created = await users.create(self.params())
        await self.deactivate(users, created)
        assert await users.authenticate(self.params()) is None
        for found in (await users.get(created.key), await users.find(self.user_id())):
            assert found is not None, "an inactive user is not found any more"
            assert found.active is False
            assert found.key == created.key
        assert list(await self.refused(users.create(self.params(password=BETTER)))) == [self.user_id_field]

    @scenario
    async def test_rep_63_an_inactive_user_does_not_become_active_by_a_change(self, users: Users) -> None:
        created = await users.create(self.params())
        await self.deactivate(users, created)
        changed = await users.update(created.key, {"password": BETTER}, trusted=True)
        assert changed.active is False
        for password in (GOOD, BETTER):
            assert await users.authenticate(self.params(password=password)) is None

    @scenario
    async def test_rep_63_no_password_signs_in_a_user_without_one(self, users: Users) -> None:
        created = await users.create(self.params())
        await self.remove_password(users, created)
        for password in (GOOD, "None", "null", "!", "$argon2id$", *NO_PASSWORDS):
            assert await users.authenticate(self.params(password=password)) is None
            change = {"current_password": password, self.user_id_field: self.user_id("mia2")}
            assert "current_password" in await self.refused(users.update(created.key, change))
            assert "current_password" in await self.refused(users.delete(created.key, change))
        assert await users.authenticate(self.named(self.user_id())) is None

    @scenario
    async def test_a_user_without_a_password_is_found_and_can_get_one(self, users: Users) -> None:
        created = await users.create(self.params())
        await self.remove_password(users, created)
        without = await users.get(created.key)
        assert without is not None
        assert without.proof != created.proof
        changed = await users.update(created.key, {"password": BETTER}, trusted=True)
        assert changed.proof not in {without.proof, created.proof}
        await self.assert_signs_in(users, self.params(password=BETTER), changed)

    # The work

    @scenario
    async def test_rep_63_every_refusal_takes_the_same_work(self, users: Users) -> None:
        await users.create(self.params())
        expected = await self._work(users, self.params(password=BETTER))
        assert expected > 0, "no work is counted for a wrong password"
        unknown = await self._work(users, self.params("nobody", BETTER))
        assert unknown == expected, "an unknown user takes another work than a known one"
        assert await self._work(users, self.params("nobody", GOOD)) == expected

    @scenario
    async def test_rep_63_an_inactive_user_takes_the_same_work(self, users: Users) -> None:
        await users.create(self.params())
        expected = await self._work(users, self.params(password=BETTER))
        await self.deactivate(users, await users.create(self.params("noa")))
        for password in (GOOD, BETTER):
            assert await self._work(users, self.params("noa", password)) == expected

    @scenario
    async def test_rep_63_a_user_without_a_password_takes_the_same_work(self, users: Users) -> None:
        await users.create(self.params())
        expected = await self._work(users, self.params(password=BETTER))
        await self.remove_password(users, await users.create(self.params("noa")))
        for password in (GOOD, BETTER):
            assert await self._work(users, self.params("noa", password)) == expected

    async def _work(self, users: Users, params: Mapping[str, object]) -> int:
        before = self.hashing_work(users)
        assert await users.authenticate(params) is None
        return self.hashing_work(users) - before

    # Stronger hashes

    @scenario
    async def test_a_stronger_hash_is_written_when_the_caller_says_so(self, users: Users) -> None:
        created = await users.create(self.params())
        await self.weaken_hash(users, created)
        weak = await users.get(created.key)
        found = await users.authenticate(self.params())
        assert weak is not None
        assert found is not None
        assert found.rehash is not None, "no stronger hash is offered"
        assert found.proof == weak.proof != found.rehash.proof
        assert_same(await self.got(users, created.key), weak)
        assert await users.authenticate(self.params(password=BETTER)) is None
        assert await found.rehash.write() is True
        assert (await self.got(users, created.key)).proof == found.rehash.proof
        again = await users.authenticate(self.params())
        assert again is not None
        assert again.rehash is None
        assert again.proof == found.rehash.proof
        assert await found.rehash.write() is False

    @scenario
    async def test_a_stronger_hash_never_replaces_another_password(self, users: Users) -> None:
        created = await users.create(self.params())
        await self.weaken_hash(users, created)
        found = await users.authenticate(self.params())
        assert found is not None
        assert found.rehash is not None
        changed = await users.update(created.key, {"password": BETTER}, trusted=True)
        assert await found.rehash.write() is False
        assert_same(await self.got(users, created.key), changed)
        assert await users.authenticate(self.params()) is None
        await self.assert_signs_in(users, self.params(password=BETTER), changed)

    @scenario
    async def test_a_stronger_hash_never_revives_a_user(self, users: Users) -> None:
        created = await users.create(self.params())
        await self.weaken_hash(users, created)
        found = await users.authenticate(self.params())
        assert found is not None
        assert found.rehash is not None
        assert await users.delete(created.key) is True
        assert await found.rehash.write() is False
        assert await users.get(created.key) is None
        assert await users.authenticate(self.params()) is None
