"""Tests of the parts of accounts: keys, identities and proofs."""

# ruff: noqa: D102 the name of a test is its sentence

from typing import Any
from uuid import UUID, uuid4

from powauth.accounts.base import Account
from powauth.accounts.identity import IdentityCodec, Key, loaded_key, stored_key
from powauth.testing.users.suite import BETTER, GOOD, HOSTILE, Suite, Users, assert_same, scenario, unbroken

UNKNOWN_KEYS: tuple[Key, ...] = (
    -1,
    2**62,
    2**64 - 1,
    -(2**63),
    "",
    "nobody",
    "%",
    "' OR 1=1 --",
    "\x00",
    "\ud800",
    "x" * 100_000,
    uuid4(),
    UUID(int=0),
)
"""Keys that no user has."""


class AccountTests(Suite):
    """`powauth.accounts.base.Account`, `UsersContext.get`, `UsersContext.find` and `UsersContext.key_of`."""

    async def _everywhere(self, users: Users) -> list[Account[Any]]:
        """Return one user's account from every method that returns accounts."""
        created = await users.create(self.params())
        found = [
            created,
            await users.authenticate(self.params()),
            await users.get(created.key),
            await users.find(self.user_id()),
            await users.update(created.key, {"current_password": GOOD}),
            await users.update(created.key, {}, trusted=True),
            await users.get(loaded_key(stored_key(created.key))),
        ]
        accounts = [each for each in found if each is not None]
        assert len(accounts) == len(found)
        return accounts

    @scenario
    async def test_an_account_is_the_same_wherever_it_comes_from(self, users: Users) -> None:
        accounts = await self._everywhere(users)
        for account in accounts:
            assert isinstance(account, Account)
            assert_same(account, accounts[0])

    # Keys

    @scenario
    async def test_rep_22_a_key_has_one_type_and_comes_back_from_a_record(self, users: Users) -> None:
        for account in await self._everywhere(users):
            assert type(account.key) in {int, str, UUID}
            again = loaded_key(stored_key(account.key))
            assert (type(again), again) == (type(account.key), account.key)

    @scenario
    async def test_keys_are_distinct_and_stay(self, users: Users) -> None:
        mia, noa = await users.create(self.params()), await users.create(self.params("noa"))
        assert mia.key != noa.key
        moved = await users.update(mia.key, self.named(self.user_id("mia2")), trusted=True)
        assert moved.key == mia.key
        assert_same(await self.got(users, mia.key), moved)
        assert_same(await self.got(users, noa.key), noa)

    @scenario
    async def test_whoever_gets_the_key_of_a_deleted_user_has_another_proof(self, users: Users) -> None:
        first = await users.create(self.params())
        assert await users.delete(first.key) is True
        second = await users.create(self.params())
        assert (second.key, second.proof) != (first.key, first.proof)

    @scenario
    async def test_key_of_knows_accounts_and_identities_and_nothing_else(self, users: Users) -> None:
        account = await users.create(self.params())
        codec = _codec_of(users)
        for subject in (account, account.identity, codec.decode(codec.names, codec.encode(account.identity))):
            found = users.key_of(subject)
            assert (type(found), found) == (type(account.key), account.key)
        for other in (None, account.key, self.user_id(), account.proof, object(), {}, []):
            assert users.key_of(other) is None

    @scenario
    async def test_no_unknown_key_finds_a_user_or_breaks_it(self, users: Users) -> None:
        await users.create(self.params())
        for key in UNKNOWN_KEYS:
            with unbroken(key):
                assert await users.get(key) is None
                assert await users.delete(key) is False
                assert list(await self.refused(users.update(key, {"password": BETTER}, trusted=True))) == ["base"]

    @scenario
    async def test_no_input_finds_a_user_or_breaks_it(self, users: Users) -> None:
        await users.create(self.params())
        for value in HOSTILE:
            with unbroken(value):
                assert await users.find(value) is None
        assert await users.find(self.user_id("nobody")) is None

    @scenario
    async def test_rep_31_a_blank_finds_nobody(self, users: Users) -> None:
        account = await users.create(self.params())
        for value in (None, "", " ", "\t", b"", 0, False):
            assert await users.find(value) is None
            assert await users.authenticate(self.params() | self.named(value)) is None
        assert_same(await self.got(users, account.key), account)

    # Identities

    @scenario
    async def test_an_identity_comes_back_from_a_record(self, users: Users) -> None:
        codec = _codec_of(users)
        for account in await self._everywhere(users):
            assert type(account.identity) is users.identity
            with unbroken(account.identity):
                stored = codec.encode(account.identity)
            assert codec.decode(codec.names, stored) == account.identity

    @scenario
    async def test_an_identity_holds_nothing_that_proves_a_user(self, users: Users) -> None:
        account = await users.create(self.params())
        stored = _codec_of(users).encode(account.identity)
        for secret in (GOOD.encode(), account.proof, b"$argon2", b"$2b$", b"pbkdf2", b"scrypt"):
            assert secret not in stored

    # Proofs

    @scenario
    async def test_a_proof_is_no_password(self, users: Users) -> None:
        account = await users.create(self.params())
        assert isinstance(account.proof, bytes)
        assert len(account.proof) >= 16
        assert GOOD.encode() not in account.proof
        assert GOOD not in repr(account)

    @scenario
    async def test_rep_27_a_proof_changes_with_the_password_and_with_the_user_id(self, users: Users) -> None:
        seen = [await users.create(self.params())]
        changes: list[dict[str, object]] = [
            {"password": BETTER},
            self.named(self.user_id("mia2")),
            {"password": GOOD, **self.named(self.user_id("mia3"))},
        ]
        for change in changes:
            seen.append(await users.update(seen[0].key, change, trusted=True))
            assert_same(await self.got(users, seen[0].key), seen[-1])
        assert len({account.proof for account in seen}) == len(seen)


def _codec_of(users: Users) -> IdentityCodec[Any]:
    with unbroken(users.identity):
        return IdentityCodec(users.identity)
