"""Users contexts with a fault that shows with two calls at once, with another process, or when the database fails.

The suite must catch each of them in every run.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from harness.mutants import Mutant, Mutants, assert_caught
from harness.small_users import GONE, TAKEN, Me, Row, SmallUsers, Store
from harness.small_users_suites import SmallSuite, small
from powauth.accounts.base import Account
from powauth.accounts.identity import Key
from powauth.backends.base import Mode
from powauth.errors import InvalidParams, StoreUnavailable
from powauth.testing import UsersConformance


def asynchronous(kind: type[SmallUsers]) -> Callable[[], SmallSuite]:
    """Return a function that makes the suite on a kind of context that suspends before each command."""
    return small(type(kind.__name__, (kind,), {"mode": "async"}))


at_once = Mutants(inline=small, suspending=asynchronous)
mutants = Mutants(inline=small)

TWO_REGISTRATIONS = "test_rep_63_no_step_of_a_registration_lets_another_one_take_the_user_id"
REGISTRATION_THEN_CHANGE = "test_rep_63_no_step_of_a_registration_lets_a_change_take_the_user_id"
CHANGE_THEN_REGISTRATION = "test_rep_63_no_step_of_a_change_lets_a_registration_take_the_user_id"
CHANGE_WITH_A_PROOF = "test_no_step_of_a_change_with_a_proof_overwrites_another_change"
TWO_CHANGES_WITH_A_PROOF = "test_of_two_changes_with_one_proof_one_is_written_at_each_step"
CHANGE_THEN_DELETION = "test_no_step_of_a_change_revives_a_deleted_user"


class Steps(SmallUsers):
    """For mutants: a registration and a change in several commands."""

    async def gap(self) -> None:
        """Between two commands: where other calls may come."""
        if self.mode == "async":
            await asyncio.sleep(0)

    def write(self, row: Row) -> None:
        with self.rows() as rows:
            rows[row.key] = row

    async def is_free(self, email: str, key: int | None = None) -> bool:
        found = self.row_by_email(email)
        await self.gap()
        return found is None or found.key == key


class InOneStep(Steps):
    """No mutant: the fault must be in the gap."""

    async def create(self, params: Mapping[str, object]) -> Account[Me]:
        await self.gap()
        account = await super().create(params)
        await self.gap()
        return account

    async def update(
        self, key: Key, params: Mapping[str, object], *, trusted: bool = False, proof: bytes | None = None
    ) -> Account[Me]:
        await self.gap()
        account = await super().update(key, params, trusted=trusted, proof=proof)
        await self.gap()
        return account


class TestInOneStep(SmallSuite):
    kind = InOneStep


class InOneStepAsync(InOneStep):
    mode: Mode = "async"


class TestInOneStepAsync(SmallSuite):
    kind = InOneStepAsync


@at_once.caught_by(TWO_REGISTRATIONS)
class ChecksFirst(Steps):
    """A registration looks whether the user id is free, and inserts later."""

    async def create(self, params: Mapping[str, object]) -> Account[Me]:
        errors = self.errors(params, changing=False)
        if errors:
            raise InvalidParams(errors)
        email = self.normalized(params["email"])
        if not await self.is_free(email):
            raise InvalidParams({"email": TAKEN})
        row = self.new_row(params, email, str(params["password"]))
        self.write(row)
        return self.account(row)


@at_once.caught_by(TWO_REGISTRATIONS)
class ChecksLast(Steps):
    """A registration hashes first, then looks whether the user id is free, and inserts."""

    async def create(self, params: Mapping[str, object]) -> Account[Me]:
        errors = self.errors(params, changing=False)
        if errors:
            raise InvalidParams(errors)
        row = self.new_row(params, self.normalized(params["email"]), str(params["password"]))
        if not await self.is_free(row.email):
            raise InvalidParams({"email": TAKEN})
        self.write(row)
        return self.account(row)


@at_once.caught_by(TWO_REGISTRATIONS)
class RemovesBoth(Steps):
    """A registration inserts, looks whether there are two now, and then removes both."""

    async def create(self, params: Mapping[str, object]) -> Account[Me]:
        errors = self.errors(params, changing=False)
        if errors:
            raise InvalidParams(errors)
        row = self.new_row(params, self.normalized(params["email"]), str(params["password"]))
        self.write(row)
        await self.gap()
        with self.rows() as rows:
            same = [other.key for other in rows.values() if other.email == row.email]
            if len(same) > 1:
                for key in same:
                    del rows[key]
                raise InvalidParams({"email": TAKEN})
        return self.account(row)


@at_once.caught_by(TWO_REGISTRATIONS)
class ReturnsWhoIsThere(Steps):
    """A registration returns whoever has the user id once it is done."""

    async def create(self, params: Mapping[str, object]) -> Account[Me]:
        errors = self.errors(params, changing=False)
        if errors:
            raise InvalidParams(errors)
        row = self.new_row(params, self.normalized(params["email"]), str(params["password"]))
        if not await self.is_free(row.email):
            raise InvalidParams({"email": TAKEN})
        self.put(row, new=True)
        found = self.row_by_email(row.email)
        assert found is not None
        return self.account(found)


@at_once.caught_by(REGISTRATION_THEN_CHANGE)
class ChecksRegistrationsAlone(Steps):
    """Registrations exclude each other, and no change of an address."""

    async def create(self, params: Mapping[str, object]) -> Account[Me]:
        errors = self.errors(params, changing=False)
        if errors:
            raise InvalidParams(errors)
        email = self.normalized(params["email"])
        with self.rows():
            registered: set[str] = vars(self.store).setdefault("registered", set())
            if email in registered:
                raise InvalidParams({"email": TAKEN})
            registered.add(email)
        if not await self.is_free(email):
            raise InvalidParams({"email": TAKEN})
        row = self.new_row(params, email, str(params["password"]))
        self.write(row)
        return self.account(row)


class ChangesInSteps(Steps):
    """For mutants of changes."""

    def written(self, before: Row, changed: Row) -> None:
        raise NotImplementedError

    async def update(
        self, key: Key, params: Mapping[str, object], *, trusted: bool = False, proof: bytes | None = None
    ) -> Account[Me]:
        row = self.row(key)
        if row is None:
            raise InvalidParams(GONE)
        errors = self.errors(params, changing=True)
        if errors:
            raise InvalidParams(errors)
        if not trusted:
            self.prove(row, params)
        changed = row
        if "email" in params:
            changed = replace(changed, email=self.normalized(params["email"]))
        if params.get("password"):
            changed = replace(changed, password_hash=self.hashed(str(params["password"])))
        if not await self.is_free(changed.email, row.key):
            raise InvalidParams({"email": TAKEN})
        self.check_proof(row, proof)
        self.written(row, changed)
        return self.account(changed)


class ComparesFirst(Steps):
    """For mutants: the proof is compared in one command, and the change is written in another."""

    async def update(
        self, key: Key, params: Mapping[str, object], *, trusted: bool = False, proof: bytes | None = None
    ) -> Account[Me]:
        row = self.row(key)
        if row is not None:
            self.check_proof(row, proof)
            await self.gap()
        return await super().update(key, params, trusted=trusted)


@at_once.caught_by(CHANGE_WITH_A_PROOF)
class ComparesTheProofFirst(ComparesFirst):
    """The proof is compared, and a change that comes before the write is overwritten."""


@at_once.caught_by(TWO_CHANGES_WITH_A_PROOF)
class UsesOneProofTwice(ComparesFirst):
    """Two changes compare the same proof, and both are written."""


@at_once.caught_by(CHANGE_THEN_REGISTRATION)
class ChecksChangesFirst(ChangesInSteps):
    """A change looks whether the user id is free, and writes later."""

    def written(self, before: Row, changed: Row) -> None:
        with self.rows() as rows:
            if before.key not in rows:
                raise InvalidParams(GONE)
            rows[changed.key] = changed


@at_once.caught_by(CHANGE_THEN_DELETION)
class WritesTheDead(ChangesInSteps):
    """A change writes the whole row back, though the user was deleted meanwhile."""

    def written(self, before: Row, changed: Row) -> None:
        self.put(changed, new=True)


# Another process

OTHERS_CHANGES = "test_rep_63_a_sign_in_knows_what_another_process_has_changed"
OTHERS_DELETIONS = "test_rep_63_a_sign_in_knows_whom_another_process_has_deleted_or_registered"
OTHERS_LOCKS = "test_rep_63_a_sign_in_knows_whom_another_process_has_locked"


class Caching(SmallUsers):
    """For mutants: remembers rows, and forgets those that it has changed itself."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.cached: dict[str, Row] = {}

    def row_by_email(self, email: str) -> Row | None:
        if email not in self.cached:
            found = super().row_by_email(email)
            if found is None:
                return None
            self.cached[email] = found
        return self.cached[email]

    def put(self, row: Row, *, new: bool) -> bool:
        self.cached.clear()
        return super().put(row, new=new)

    def replace_hash(self, row: Row, stronger: str) -> bool:
        self.cached.clear()
        return super().replace_hash(row, stronger)

    async def delete(self, key: Key, params: Mapping[str, object] | None = None) -> bool:
        self.cached.clear()
        return await super().delete(key, params)


@mutants.caught_by(OTHERS_CHANGES)
class SignsInACopy(Caching):
    """A sign-in answers with a copy from before the call."""


@mutants.caught_by(OTHERS_DELETIONS)
class SignsInTheDead(Caching):
    """A copy outlives the user."""


@mutants.caught_by(OTHERS_LOCKS)
class SignsInACopyOfTheLocked(Caching):
    """A copy is from before the lock."""


@mutants.caught_by("test_rep_63_what_is_returned_is_what_the_users_are_now")
class NeverForgets(Caching):
    """A copy stays, whatever the context itself changes."""

    def put(self, row: Row, *, new: bool) -> bool:
        return SmallUsers.put(self, row, new=new)


@mutants.caught_by(OTHERS_CHANGES)
class RemembersPasswords(SmallUsers):
    """A password that was right once is not verified again."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.right: set[tuple[object, object]] = set()

    async def authenticate(self, params: Mapping[str, object]) -> Account[Me] | None:
        given = (params.get("email"), params.get("password"))
        if all(isinstance(each, str) for each in given) and given in self.right:
            return await self.find(given[0])
        account = await super().authenticate(params)
        if account is not None:
            self.right.add(given)
        return account

    def put(self, row: Row, *, new: bool) -> bool:
        self.right.clear()
        return super().put(row, new=new)


@mutants.caught_by(OTHERS_CHANGES)
class ReturnsACopyOfTheProof(SmallUsers):
    """The proof is that of the context's last look at the user."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.proofs: dict[int, bytes] = {}

    def proof(self, row: Row) -> bytes:
        return self.proofs.setdefault(row.key, super().proof(row))

    def put(self, row: Row, *, new: bool) -> bool:
        self.proofs.pop(row.key, None)
        return super().put(row, new=new)


@mutants.caught_by(OTHERS_DELETIONS)
class RemembersWhoIsUnknown(SmallUsers):
    """Who was unknown once stays unknown."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.unknown: set[str] = set()

    def row_by_email(self, email: str) -> Row | None:
        found = None if email in self.unknown else super().row_by_email(email)
        if found is None:
            self.unknown.add(email)
        return found

    def put(self, row: Row, *, new: bool) -> bool:
        self.unknown.clear()
        return super().put(row, new=new)


# A database that fails

FAILS = "test_rep_63_a_database_that_fails_is_unavailable"
ANSWERS = "test_rep_63_a_database_that_fails_is_no_reason_to_answer_anybody"


@mutants.caught_by(FAILS)
class LeaksErrors(SmallUsers):
    """An error of the database gets out."""

    @contextmanager
    def rows(self) -> Iterator[dict[int, Row]]:
        with self.store.locked() as rows:
            yield rows


@mutants.caught_by(FAILS)
class LeaksErrorsOfLookUps(SmallUsers):
    """An error of the database gets out of a look-up."""

    def row(self, key: Key) -> Row | None:
        with self.store.locked() as rows:
            return rows.get(key) if type(key) is int else None


@mutants.caught_by(FAILS)
class LeaksErrorsOfDeletions(SmallUsers):
    """An error of the database gets out of a deletion."""

    async def delete(self, key: Key, params: Mapping[str, object] | None = None) -> bool:
        with self.store.locked():
            return await super().delete(key, params)


@mutants.caught_by(FAILS)
class HidesTheCause(SmallUsers):
    """Nobody is told why the database failed."""

    @contextmanager
    def rows(self) -> Iterator[dict[int, Row]]:
        try:
            with self.store.locked() as rows:
                yield rows
        except OSError:
            raise StoreUnavailable("the users cannot be reached") from None


@mutants.caught_by(FAILS)
class BlamesTheClient(SmallUsers):
    """A registration that the database failed is said to be invalid."""

    async def create(self, params: Mapping[str, object]) -> Account[Me]:
        try:
            return await super().create(params)
        except StoreUnavailable as error:
            raise InvalidParams({"base": ["could not be saved"]}) from error


@mutants.caught_by(FAILS)
class SaysNobodyIsThere(SmallUsers):
    """A user who cannot be read is said not to exist."""

    async def get(self, key: Key) -> Account[Me] | None:
        try:
            return await super().get(key)
        except StoreUnavailable:
            return None


@mutants.caught_by(FAILS)
class SaysItWasDeleted(SmallUsers):
    """A deletion that failed is said to have found nobody."""

    async def delete(self, key: Key, params: Mapping[str, object] | None = None) -> bool:
        try:
            return await super().delete(key, params)
        except StoreUnavailable:
            return False


@mutants.caught_by(ANSWERS)
class SaysThePasswordIsWrong(SmallUsers):
    """A sign-in that the database failed is said to be wrong, and counted as a guess."""

    async def authenticate(self, params: Mapping[str, object]) -> Account[Me] | None:
        try:
            return await super().authenticate(params)
        except StoreUnavailable:
            return None


@mutants.caught_by(ANSWERS)
class SignsInWithoutADatabase(SmallUsers):
    """While the database fails, users who signed in before sign in with any password."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.seen: dict[object, Account[Me]] = {}

    async def authenticate(self, params: Mapping[str, object]) -> Account[Me] | None:
        try:
            account = await super().authenticate(params)
        except StoreUnavailable:
            if params.get("email") in self.seen:
                return self.seen[params["email"]]
            raise
        if account is not None:
            self.seen[params["email"]] = account
        return account


@mutants.caught_by("test_what_needs_no_database_asks_none")
class AsksForTheKey(SmallUsers):
    """The key of a failed sign-in needs the database."""

    def login_key(self, params: Mapping[str, object]) -> str | None:
        key = super().login_key(params)
        return None if key is None or not self._is_there() else key

    def _is_there(self) -> bool:
        with self.rows():
            return True


@mutants.caught_by("test_what_needs_no_database_asks_none")
class AsksToValidate(SmallUsers):
    """A form that is checked needs the database."""

    def validate(self, params: Mapping[str, object], identity: Me | None = None) -> Mapping[str, list[str]]:
        errors = dict(super().validate(params, identity))
        email = self.login_key(params)
        if email is not None and self.row_by_email(email) is not None:
            errors["email"] = TAKEN
        return errors


@mutants.caught_by("test_what_needs_no_database_asks_none")
class AsksWhoseIdentityItIs(SmallUsers):
    """The key of an identity needs the database."""

    def key_of(self, subject: object) -> Key | None:
        key = super().key_of(subject)
        return key if isinstance(subject, Account) or key is None else getattr(self.row(key), "key", None)


@mutants.caught_by("test_no_step_of_a_sign_in_answers_with_what_the_user_never_was")
class MixesTwoReads(Steps):
    """The proof is made of two reads, between which the password may change."""

    async def authenticate(self, params: Mapping[str, object]) -> Account[Me] | None:
        found = await super().authenticate(params)
        if found is None:
            return None
        row = self.row(found.key)
        if row is None:
            return None
        mixed = found.proof if self.proof(row) == found.proof else found.proof[:16] + self.proof(row)[16:]
        return msgspec.structs.replace(found, proof=mixed)


ALL: list[Any] = [*at_once.all, *mutants.all]


@pytest.mark.parametrize("mutant", ALL, ids=str)
def test_the_suite_catches(mutant: Mutant) -> None:
    assert_caught(mutant)


def test_every_test_of_the_suite_that_is_named_exists() -> None:
    for mutant in ALL:
        assert callable(getattr(UsersConformance, mutant.caught_by))
