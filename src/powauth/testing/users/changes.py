"""Tests of changes and deletions."""

# ruff: noqa: D102 the name of a test is its sentence

from unittest import SkipTest

from powauth.errors import InvalidParams
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


class ChangeTests(Suite):
    """`UsersContext.update` and `UsersContext.delete`."""

    @scenario
    async def test_a_new_password_replaces_the_old_one(self, users: Users) -> None:
        created = await users.create(self.params())
        changed = await users.update(created.key, {"current_password": GOOD, "password": BETTER})
        assert changed.proof != created.proof
        assert await users.authenticate(self.params()) is None
        await self.assert_signs_in(users, self.params(password=BETTER), changed)

    @scenario
    async def test_rep_30_only_a_user_without_a_password_sets_a_first_one(self, users: Users) -> None:
        created = await users.create(self.params())
        assert await users.set_first_password(created.key, {"password": BETTER}) is None
        await self.assert_signs_in(users, self.params(), created)
        await self.remove_password(users, created)
        without = await self.got(users, created.key)
        changed = await users.set_first_password(created.key, {"password": BETTER})
        if changed is None:
            raise SkipTest("this context sets no first password: override `set_first_password` if it should")
        assert changed.proof != without.proof
        await self.assert_signs_in(users, self.params(password=BETTER), changed)
        assert await users.set_first_password(created.key, {"password": GOOD}) is None
        for bad in NO_PASSWORDS:
            await self.remove_password(users, created)
            assert list(await self.refused(users.set_first_password(created.key, {"password": bad}))) == ["password"]

    @scenario
    async def test_it_knows_who_has_a_password(self, users: Users) -> None:
        created = await users.create(self.params())
        assert await users.has_password(created.key) is True
        await self.remove_password(users, created)
        assert await users.has_password(created.key) is False, "override `has_password`: it returns True by default"

    @scenario
    async def test_a_new_user_id_replaces_the_old_one(self, users: Users) -> None:
        created = await users.create(self.params())
        change = {"current_password": GOOD, self.user_id_field: self.user_id("mia2")}
        changed = await users.update(created.key, change)
        assert changed.proof != created.proof
        assert await users.find(self.user_id()) is None
        assert await users.authenticate(self.params()) is None
        await self.assert_signs_in(users, self.params("mia2"), changed)
        noa = await users.create(self.params(password=BETTER))
        assert noa.key != created.key

    @scenario
    async def test_rep_63_what_is_returned_is_what_the_users_are_now(self, users: Users) -> None:
        created = await users.create(self.params())
        await self.assert_signs_in(users, self.params(), created)
        for password in (BETTER, GOOD, BETTER):
            changed = await users.update(created.key, {"password": password}, trusted=True)
            found = await users.authenticate(self.params(password=password))
            assert found is not None
            assert_same(found, changed)
            assert_same(await self.got(users, created.key), changed)
            by_id = await users.find(self.user_id())
            assert by_id is not None
            assert_same(by_id, changed)

    @scenario
    async def test_the_app_needs_no_current_password(self, users: Users) -> None:
        created = await users.create(self.params())
        changed = await users.update(created.key, {"password": BETTER}, trusted=True)
        await self.assert_signs_in(users, self.params(password=BETTER), changed)
        assert await users.delete(created.key) is True

    @scenario
    async def test_a_change_with_a_proof_is_written_while_the_account_has_it(self, users: Users) -> None:
        created = await users.create(self.params())
        noa = await users.create(self.params("noa"))
        for wrong in (b"", created.proof + b"\0", created.proof[:-1], noa.proof):
            await self.overtaken(users.update(created.key, {"password": BETTER}, trusted=True, proof=wrong))
        await self.assert_signs_in(users, self.params(), created)
        changed = await users.update(created.key, {"password": BETTER}, trusted=True, proof=created.proof)
        await self.assert_signs_in(users, self.params(password=BETTER), changed)
        own = {"current_password": BETTER, "password": GOOD}
        await self.overtaken(users.update(created.key, {"password": GOOD}, trusted=True, proof=created.proof))
        await self.overtaken(users.update(created.key, own, proof=created.proof))
        await self.assert_signs_in(users, self.params(password=BETTER), changed)
        moved = await users.update(created.key, self.named(self.user_id("mia2")), trusted=True, proof=changed.proof)
        await self.overtaken(users.update(created.key, {"password": GOOD}, trusted=True, proof=changed.proof))
        await self.assert_signs_in(users, self.params("mia2", BETTER), moved)
        changed = await users.update(created.key, own, proof=moved.proof)
        await self.assert_signs_in(users, self.params("mia2"), changed)
        assert await users.delete(created.key) is True
        gone = await self.refused(users.update(created.key, {"password": BETTER}, trusted=True, proof=changed.proof))
        assert list(gone) == ["base"]
        assert await users.get(created.key) is None

    @scenario
    async def test_a_change_with_a_proof_needs_an_active_account(self, users: Users) -> None:
        created = await users.create(self.params())
        await self.deactivate(users, created)
        locked = await self.got(users, created.key)
        for proof in (created.proof, locked.proof):
            await self.overtaken(users.update(created.key, {"password": BETTER}, trusted=True, proof=proof))
        assert_same(await self.got(users, created.key), locked)

    @scenario
    async def test_a_change_of_ones_own_needs_the_current_password(self, users: Users) -> None:
        created = await users.create(self.params())
        noa = await users.create(self.params("noa", BETTER))
        for wrong in (*HOSTILE, BETTER, GOOD.upper(), GOOD + " "):
            change = {"current_password": wrong, "password": BETTER, self.user_id_field: self.user_id("mia2")}
            proof = {"current_password": wrong, "password": GOOD}
            with unbroken(wrong):
                assert list(await self.refused(users.update(created.key, change))) == ["current_password"]
                assert list(await self.refused(users.delete(created.key, proof))) == ["current_password"]
        assert "current_password" in await self.refused(users.update(created.key, {"password": BETTER}))
        assert "current_password" in await self.refused(users.delete(created.key, {}))
        await self.assert_signs_in(users, self.params(), created)
        assert_same(await self.got(users, noa.key), noa)

    @scenario
    async def test_what_is_refused_changes_nothing(self, users: Users) -> None:
        created = await users.create(self.params())
        change = {"current_password": GOOD, "password": BETTER}
        for value in HOSTILE:
            with unbroken(value):
                errors = await self.refused(users.update(created.key, change | self.named(value)))
            assert list(errors) == [self.user_id_field]
        moved = self.named(self.user_id("mia2"))
        for value in NO_PASSWORDS:
            if value != "":  # see the next test
                with unbroken(value):
                    refused = await self.refused(users.update(created.key, change | moved | {"password": value}))
                assert list(refused) == ["password"]
        await self.assert_signs_in(users, self.params(), created)
        assert_same(await self.got(users, created.key), created)

    @scenario
    async def test_an_empty_password_is_never_set(self, users: Users) -> None:
        created = await users.create(self.params())
        try:  # an empty field of a form: a context may refuse it or change nothing
            changed = await users.update(created.key, {"current_password": GOOD, "password": ""})
        except InvalidParams as error:
            assert list(error.errors) == ["password"]  # noqa: PT017 - the suite does not import pytest
        else:
            assert_same(changed, created)
        assert await users.authenticate(self.params(password="")) is None
        await self.assert_signs_in(users, self.params(), created)

    @scenario
    async def test_another_users_id_cannot_be_taken(self, users: Users) -> None:
        mia = await users.create(self.params())
        noa = await users.create(self.params("noa", BETTER))
        for spelling in (self.user_id(), self.user_id().upper(), f" {self.user_id()}"):
            own = users.update(noa.key, {"current_password": BETTER, self.user_id_field: spelling})
            assert list(await self.refused(own)) == [self.user_id_field]
            others = users.update(noa.key, self.named(spelling), trusted=True)
            assert list(await self.refused(others)) == [self.user_id_field]
        await self.assert_signs_in(users, self.params(), mia)
        await self.assert_signs_in(users, self.params("noa", BETTER), noa)

    @scenario
    async def test_ones_own_user_id_can_be_kept(self, users: Users) -> None:
        created = await users.create(self.params())
        change = {"current_password": GOOD, self.user_id_field: self.user_id().upper(), "password": BETTER}
        changed = await users.update(created.key, change)
        await self.assert_signs_in(users, self.params(password=BETTER), changed)

    @scenario
    async def test_a_change_reaches_nobody_else(self, users: Users) -> None:
        mia = await users.create(self.params())
        noa = await users.create(self.params("noa"))
        await users.update(mia.key, {"current_password": GOOD, "password": BETTER})
        await users.update(mia.key, self.named(self.user_id("mia2")), trusted=True)
        assert_same(await self.got(users, noa.key), noa)
        assert await users.delete(mia.key) is True
        await self.assert_signs_in(users, self.params("noa"), noa)

    @scenario
    async def test_a_deleted_user_is_gone(self, users: Users) -> None:
        created = await users.create(self.params())
        assert await users.delete(created.key, {"current_password": GOOD}) is True
        assert await users.delete(created.key) is False
        assert await users.delete(created.key, {"current_password": GOOD}) is False
        assert await users.get(created.key) is None
        assert await users.find(self.user_id()) is None
        assert await users.authenticate(self.params()) is None
        gone = await self.refused(users.update(created.key, {"password": BETTER}, trusted=True))
        assert list(gone) == ["base"]
        gone = await self.refused(users.update(created.key, {"current_password": GOOD, "password": BETTER}))
        assert list(gone) == ["base"]
        assert await users.get(created.key) is None

    @scenario
    async def test_a_change_of_a_user_in_another_spelling_is_found(self, users: Users) -> None:
        created = await users.create(self.params())
        found = await users.find(self.user_id().upper())
        assert found is not None
        assert_same(found, created)
