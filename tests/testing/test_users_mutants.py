"""Users contexts with a planted fault each, which the suite must catch in every run.

The docstring of a class says what is wrong with it. Faults that need two calls at once, another process, or a database
that fails are in `test_users_mutants_at_once`.
"""

import re
import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from harness.mutants import Mutant, Mutants, assert_caught
from harness.small_users import GONE, ROUNDS, Me, Row, SmallUsers, derived
from harness.small_users_suites import small
from powauth.accounts.base import Account, Rehash
from powauth.accounts.identity import Key
from powauth.errors import InvalidParams, Overtaken
from powauth.testing import UsersConformance

mutants = Mutants(inline=small)

# The name under which failures are counted

SPELLINGS = "test_rep_62_every_spelling_that_signs_a_user_in_counts_under_one_key"
WRONG_PASSWORDS = "test_rep_62_a_wrong_password_counts_under_the_same_key_as_the_right_one"
ODD_NAMES = "test_rep_62_no_input_breaks_the_key_or_makes_it_long"


class FindsByNormalForm(SmallUsers):
    """For mutants of `login_key`: a sign-in normalises the user id itself."""

    async def authenticate(self, params: Mapping[str, object]) -> Account[Me] | None:
        return await Plain(self.store).authenticate(params)


class Plain(SmallUsers):
    """No mutant."""


@mutants.caught_by(SPELLINGS)
class CountsWhatWasTyped(FindsByNormalForm):
    """Each spelling of a user id has a limit of its own, so 20 guesses of 20 pass a limit of 3."""

    def login_key(self, params: Mapping[str, object]) -> str | None:
        value = params.get("email")
        return value[:200] if isinstance(value, str) else None


@mutants.caught_by(SPELLINGS)
class CountsWithBlanks(FindsByNormalForm):
    """Blanks around a user id make another limit."""

    def login_key(self, params: Mapping[str, object]) -> str | None:
        value = params.get("email")
        return value[:200].lower() if isinstance(value, str) else None


@mutants.caught_by(SPELLINGS)
class CountsByCase(FindsByNormalForm):
    """Letter case makes another limit."""

    def login_key(self, params: Mapping[str, object]) -> str | None:
        value = params.get("email")
        return value[:200].strip() if isinstance(value, str) else None


@mutants.caught_by(SPELLINGS)
class CountsByLocalCase(FindsByNormalForm):
    """Only the domain's letter case is folded, as some advise."""

    def login_key(self, params: Mapping[str, object]) -> str | None:
        value = params.get("email")
        if not isinstance(value, str):
            return None
        local, _, domain = value[:200].strip().rpartition("@")
        return f"{local}@{domain.lower()}"


@mutants.caught_by(SPELLINGS)
class AcceptsMoreSpellingsThanItCounts(SmallUsers):
    """A sign-in takes an address in brackets, which the key does not know."""

    async def authenticate(self, params: Mapping[str, object]) -> Account[Me] | None:
        value = params.get("email")
        if isinstance(value, str) and value.startswith("<") and value.endswith(">"):
            params = {**params, "email": value[1:-1]}
        return await super().authenticate(params)


@mutants.caught_by(WRONG_PASSWORDS)
class CountsEachPassword(SmallUsers):
    """The password is part of the key, so every guess is the first one."""

    def login_key(self, params: Mapping[str, object]) -> str | None:
        key = super().login_key(params)
        return None if key is None else f"{key} {params.get('password')}"

    async def authenticate(self, params: Mapping[str, object]) -> Account[Me] | None:
        return await Plain(self.store).authenticate(params)


@mutants.caught_by(WRONG_PASSWORDS)
class CountsAllParams(FindsByNormalForm):
    """Whatever else a client sends makes another limit."""

    def login_key(self, params: Mapping[str, object]) -> str | None:
        key = super().login_key(params)
        return None if key is None else f"{key} {len(params)}"


@mutants.caught_by(WRONG_PASSWORDS)
class CountsKnownUsersAlone(FindsByNormalForm):
    """Only users who exist are counted, so a limit tells who exists."""

    def login_key(self, params: Mapping[str, object]) -> str | None:
        key = super().login_key(params)
        return key if key is not None and self.row_by_email(key) is not None else None


@mutants.caught_by("test_two_users_do_not_share_a_limit")
class CountsAllUsersTogether(FindsByNormalForm):
    """Guesses at one user lock out all of them."""

    def login_key(self, params: Mapping[str, object]) -> str | None:
        return "everybody" if super().login_key(params) is not None else None


@mutants.caught_by(ODD_NAMES)
class CountsLongNames(FindsByNormalForm):
    """A key is as long as a client likes."""

    def login_key(self, params: Mapping[str, object]) -> str | None:
        value = params.get("email")
        return value.strip().lower() if isinstance(value, str) else None


@mutants.caught_by(ODD_NAMES)
class BreaksOnOddNames(FindsByNormalForm):
    """A user id that is no text breaks the key."""

    def login_key(self, params: Mapping[str, object]) -> str | None:
        return params["email"].strip().lower()[:200]  # type: ignore[attr-defined, no-any-return]


@mutants.caught_by(WRONG_PASSWORDS)
class CountsAtRandom(FindsByNormalForm):
    """A key is another one each time."""

    def login_key(self, params: Mapping[str, object]) -> str | None:
        key = super().login_key(params)
        return None if key is None else f"{key} {secrets.token_hex(4)}"


# Who signs in


@mutants.caught_by("test_what_does_not_prove_a_user_gives_none")
class AcceptsAnyPassword(SmallUsers):
    """A password is not verified."""

    def verified(self, stored: str | None, password: object) -> bool:
        return stored is not None


@mutants.caught_by("test_what_does_not_prove_a_user_gives_none")
class AcceptsAnybodysPassword(SmallUsers):
    """Any user's password is accepted."""

    def verified(self, stored: str | None, password: object) -> bool:
        return any(super(AcceptsAnybodysPassword, self).verified(row.password_hash, password) for row in self._all())

    def _all(self) -> list[Row]:
        with self.rows() as rows:
            return list(rows.values())


@mutants.caught_by("test_what_does_not_prove_a_user_gives_none")
class FoldsPasswords(SmallUsers):
    """The letter case of a password does not count."""

    def hashed(self, password: str, rounds: int = ROUNDS) -> str:
        return super().hashed(password.lower(), rounds)

    def verified(self, stored: str | None, password: object) -> bool:
        return super().verified(stored, password.lower() if isinstance(password, str) else password)


@mutants.caught_by("test_what_does_not_prove_a_user_gives_none")
class TrimsPasswords(SmallUsers):
    """Blanks around a password do not count."""

    def hashed(self, password: str, rounds: int = ROUNDS) -> str:
        return super().hashed(password.strip(), rounds)

    def verified(self, stored: str | None, password: object) -> bool:
        return super().verified(stored, password.strip() if isinstance(password, str) else password)


@mutants.caught_by("test_what_does_not_prove_a_user_gives_none")
class EndsPasswordsAtNul(SmallUsers):
    """A password ends at its first NUL, as in a library in C."""

    def verified(self, stored: str | None, password: object) -> bool:
        return super().verified(stored, password.partition("\0")[0] if isinstance(password, str) else password)


@mutants.caught_by("test_every_character_of_a_long_password_counts")
class CutsPasswords(SmallUsers):
    """A password is cut off at 72 bytes, as by bcrypt."""

    def hashed(self, password: str, rounds: int = ROUNDS) -> str:
        return super().hashed(password[:72], rounds)

    def verified(self, stored: str | None, password: object) -> bool:
        return super().verified(stored, password[:72] if isinstance(password, str) else password)


@mutants.caught_by("test_no_input_signs_anybody_in_or_breaks_it")
class BreaksOnOddPasswords(SmallUsers):
    """A password that is no text breaks the sign-in."""

    def verified(self, stored: str | None, password: object) -> bool:
        return super().verified(stored, password.encode().decode())  # type: ignore[attr-defined]


@mutants.caught_by("test_no_input_signs_anybody_in_or_breaks_it")
class MatchesPatterns(SmallUsers):
    """A user id may be a pattern."""

    def login_key(self, params: Mapping[str, object]) -> str | None:
        value = params.get("email")
        if value in ("%", "*"):
            return next((row.email for row in self.store.rows.values()), None)
        return super().login_key(params)


@mutants.caught_by("test_a_sign_in_changes_nothing")
class CountsSignInsInTheProof(SmallUsers):
    """A sign-in changes the hash, and with it the proof of the user's other sessions."""

    async def authenticate(self, params: Mapping[str, object]) -> Account[Me] | None:
        found = await super().authenticate(params)
        if found is None:
            return None
        row = self.row(found.key)
        assert row is not None
        self.put(replace(row, password_hash=self.hashed(str(params["password"]))), new=False)
        return await self.get(found.key)


# Inactive users

LOCKED = "test_rep_63_an_inactive_user_does_not_sign_in_and_is_not_forgotten"


@mutants.caught_by(LOCKED)
class SignsInTheLocked(SmallUsers):
    """A locked user signs in."""

    async def authenticate(self, params: Mapping[str, object]) -> Account[Me] | None:
        email = self.login_key(params)
        row = None if email is None else self.row_by_email(email)
        correct = self.verified(None if row is None else row.password_hash, params.get("password"))
        return self.account(row) if row is not None and correct else None


@mutants.caught_by(LOCKED)
class ForgetsTheLocked(SmallUsers):
    """A locked user has no account."""

    def row(self, key: Key) -> Row | None:
        row = super().row(key)
        return None if row is None or row.locked else row


@mutants.caught_by(LOCKED)
class DoesNotFindTheLocked(SmallUsers):
    """A locked user is not found by the user id."""

    async def find(self, user_id: object) -> Account[Me] | None:
        account = await super().find(user_id)
        return account if account is not None and account.active else None


@mutants.caught_by(LOCKED)
class CallsEverybodyActive(SmallUsers):
    """Nobody's account is inactive."""

    def account(self, row: Row) -> Account[Me]:
        return msgspec.structs.replace(super().account(row), active=True)


@mutants.caught_by(LOCKED)
class CallsTheLockedFalsy(SmallUsers):
    """An account's ``active`` is a number."""

    def is_active(self, row: Row) -> Any:
        return int(not row.locked)


@mutants.caught_by(LOCKED)
class GivesTheirIdsAway(SmallUsers):
    """The user id of a locked user can be registered again."""

    def put(self, row: Row, *, new: bool) -> bool:
        with self.rows() as rows:
            if any(other.email == row.email and not other.locked and other.key != row.key for other in rows.values()):
                return False
            rows[row.key] = row
            return True


@mutants.caught_by("test_rep_63_an_inactive_user_does_not_become_active_by_a_change")
class UnlocksByAChange(SmallUsers):
    """A new password unlocks a user."""

    def put(self, row: Row, *, new: bool) -> bool:
        return super().put(replace(row, locked=False), new=new)


# Users without a password

NO_PASSWORD = "test_rep_63_no_password_signs_in_a_user_without_one"


@mutants.caught_by(NO_PASSWORD)
class AcceptsAnEmptyPassword(SmallUsers):
    """An empty password signs in a user without one."""

    def verified(self, stored: str | None, password: object) -> bool:
        return super().verified(stored, password) or (stored is None and password == "")


@mutants.caught_by(NO_PASSWORD)
class AcceptsAMissingPassword(SmallUsers):
    """A password that was not sent signs in a user without one."""

    def verified(self, stored: str | None, password: object) -> bool:
        return super().verified(stored, password) or stored is password


@mutants.caught_by(NO_PASSWORD)
class AcceptsTheWordNone(SmallUsers):
    """The password of a user without one is the word None."""

    def verified(self, stored: str | None, password: object) -> bool:
        return super().verified(stored, password) or (stored is None and str(password) == "None")


@mutants.caught_by(NO_PASSWORD)
class AcceptsAllForThem(SmallUsers):
    """Any password signs in a user without one."""

    def verified(self, stored: str | None, password: object) -> bool:
        return super().verified(stored, password) or (stored is None and password == "seven red herons")

    async def authenticate(self, params: Mapping[str, object]) -> Account[Me] | None:
        email = self.login_key(params)
        known = email is not None and self.row_by_email(email) is not None
        return await super().authenticate(params) if known else None


@mutants.caught_by(NO_PASSWORD)
class NeedsNoProofOfThem(SmallUsers):
    """A user without a password needs no current password."""

    def prove(self, row: Row, params: Mapping[str, object]) -> None:
        if row.password_hash is not None:
            super().prove(row, params)


@mutants.caught_by("test_a_user_without_a_password_is_found_and_can_get_one")
class KeepsTheirProof(SmallUsers):
    """A password that is removed leaves the proof as it was."""

    def proof(self, row: Row) -> bytes:
        return super().proof(row) if row.password_hash is not None else self._last.get(row.key, b"0" * 32)

    @property
    def _last(self) -> dict[int, bytes]:
        found: dict[int, bytes] = vars(self.store).setdefault("last", {})
        return found

    def put(self, row: Row, *, new: bool) -> bool:
        self._last[row.key] = super().proof(row)
        return super().put(row, new=new)


# The work

WORK = "test_rep_63_every_refusal_takes_the_same_work"


class Early(SmallUsers):
    """For mutants that spare work for some users."""

    def spared(self, row: Row | None) -> bool:
        raise NotImplementedError

    async def authenticate(self, params: Mapping[str, object]) -> Account[Me] | None:
        email = self.login_key(params)
        row = None if email is None else self.row_by_email(email)
        return None if self.spared(row) else await super().authenticate(params)


@mutants.caught_by(WORK)
class SparesTheUnknown(Early):
    """No hash is computed for an unknown user, so the time tells who exists."""

    def spared(self, row: Row | None) -> bool:
        return row is None


@mutants.caught_by("test_rep_63_an_inactive_user_takes_the_same_work")
class SparesTheLocked(Early):
    """No hash is computed for a locked user."""

    def spared(self, row: Row | None) -> bool:
        return row is not None and row.locked


@mutants.caught_by("test_rep_63_a_user_without_a_password_takes_the_same_work")
class SparesThoseWithoutAPassword(Early):
    """No hash is computed for a user without a password."""

    def spared(self, row: Row | None) -> bool:
        return row is not None and row.password_hash is None


@mutants.caught_by(WORK)
class WorksTwiceForTheUnknown(SmallUsers):
    """Two hashes are computed for an unknown user: one to compare with, and its own."""

    def verified(self, stored: str | None, password: object) -> bool:
        return super().verified(self.hashed("dummy") if stored is None else stored, password) and stored is not None


@mutants.caught_by(WORK)
class WorksLessForTheUnknown(SmallUsers):
    """The hash that an unknown user is compared with is cheaper."""

    def verified(self, stored: str | None, password: object) -> bool:
        if stored is None:
            self.store.work += 1
            return False
        return super().verified(stored, password)


# Registration

TAKEN = "test_a_user_id_is_given_once_whatever_its_letter_case"


@mutants.caught_by(TAKEN)
class RegistersTwice(SmallUsers):
    """A user id can be registered twice."""

    def put(self, row: Row, *, new: bool) -> bool:
        with self.rows() as rows:
            rows[row.key] = row
            return True


@mutants.caught_by(TAKEN)
class RegistersOver(SmallUsers):
    """A registration replaces the user who has the user id."""

    def put(self, row: Row, *, new: bool) -> bool:
        with self.rows() as rows:
            before = next((other.key for other in rows.values() if other.email == row.email), row.key)
            rows[before] = replace(row, key=before)
            return True


@mutants.caught_by(TAKEN)
class RegistersByCase(SmallUsers):
    """Two user ids may differ in letter case alone."""

    def normalized(self, value: object) -> str:
        super().normalized(value)
        return str(value).strip()


@mutants.caught_by(TAKEN)
class SaysTooLittle(SmallUsers):
    """The error does not name the field of the user id."""

    async def create(self, params: Mapping[str, object]) -> Account[Me]:
        try:
            return await super().create(params)
        except InvalidParams as error:
            raise InvalidParams({"base": [message for each in error.errors.values() for message in each]}) from None


ODD_REGISTRATIONS = "test_no_input_makes_an_invalid_user_or_breaks_it"


@mutants.caught_by(ODD_REGISTRATIONS)
class RegistersAnybody(SmallUsers):
    """A user id is not checked."""

    def normalized(self, value: object) -> str:
        return str(value)[:200].strip().lower()


@mutants.caught_by(ODD_REGISTRATIONS)
class AcceptsEmptyPasswords(SmallUsers):
    """A password is not checked."""

    def password_errors(self, password: object) -> list[str]:
        return [] if isinstance(password, str) and password.isascii() and len(password) < 300 else ["is invalid"]


@mutants.caught_by(ODD_REGISTRATIONS)
class BreaksOnOddRegistrations(SmallUsers):
    """A password that is no text breaks the registration."""

    def password_errors(self, password: object) -> list[str]:
        return [] if len(password) >= 8 else ["is too short"]  # type: ignore[arg-type]


@mutants.caught_by(ODD_REGISTRATIONS)
class ValidatesNothing(SmallUsers):
    """Forms are never told what is wrong."""

    def validate(self, params: Mapping[str, object], identity: Me | None = None) -> Mapping[str, list[str]]:
        return {}


@mutants.caught_by("test_what_is_valid_has_no_errors")
class FindsFaultWithEverything(SmallUsers):
    """A change without a new password is said to lack one."""

    def validate(self, params: Mapping[str, object], identity: Me | None = None) -> Mapping[str, list[str]]:
        return {} if params.get("password") else {"password": ["can't be blank"]}


@mutants.caught_by("test_to_validate_is_not_to_register")
class RegistersWhatItValidates(SmallUsers):
    """A form that is checked makes a user."""

    def validate(self, params: Mapping[str, object], identity: Me | None = None) -> Mapping[str, list[str]]:
        errors = super().validate(params, identity)
        if not errors and identity is None:
            self.put(self.new_row(params, self.normalized(params["email"]), str(params["password"])), new=True)
        return errors


@mutants.caught_by("test_params_may_be_any_mapping")
class NeedsADict(SmallUsers):
    """Parameters must be a dict."""

    async def create(self, params: Mapping[str, object]) -> Account[Me]:
        assert isinstance(params, dict)
        return await super().create(params)


# Mass assignment

AT_REGISTRATION = "test_rep_63_a_registration_sets_nothing_that_no_user_may_set"
AT_A_CHANGE = "test_rep_63_a_users_own_change_sets_nothing_that_no_user_may_set"


def sent(row: Row, params: Mapping[str, object], *names: str) -> Row:
    return replace(row, **{name: params[name] for name in names if name in params})  # type: ignore[arg-type]


@mutants.caught_by(AT_REGISTRATION)
class RegistersWithARole(SmallUsers):
    """A client chooses the role at registration."""

    def new_row(self, params: Mapping[str, object], email: str, password: str) -> Row:
        return sent(super().new_row(params, email, password), params, "role")


@mutants.caught_by(AT_REGISTRATION)
class RegistersWithALock(SmallUsers):
    """A client sets a column at registration that the identity does not show."""

    def new_row(self, params: Mapping[str, object], email: str, password: str) -> Row:
        return sent(super().new_row(params, email, password), params, "locked")

    def is_active(self, row: Row) -> bool:
        return True


@mutants.caught_by(AT_REGISTRATION)
class RegistersWithAHash(SmallUsers):
    """A client chooses the stored hash."""

    def new_row(self, params: Mapping[str, object], email: str, password: str) -> Row:
        row = super().new_row(params, email, password)
        if params.get("password_hash") == "forged":
            return replace(row, password_hash=f"2$salt${derived('forged', 'salt', 2)}")
        return row


@mutants.caught_by("test_rep_63_no_client_chooses_the_key_of_another_user")
class RegistersWithAKey(SmallUsers):
    """A client chooses the key, and so replaces another user."""

    def new_row(self, params: Mapping[str, object], email: str, password: str) -> Row:
        row = super().new_row(params, email, password)
        key = params.get("id")
        return replace(row, key=key) if isinstance(key, int) else row


@mutants.caught_by(AT_A_CHANGE)
class ChangesTheRole(SmallUsers):
    """A user sets the role."""

    def own_changes(self, params: Mapping[str, object]) -> dict[str, Any]:
        return {"role": params["role"]} if "role" in params else {}


@mutants.caught_by(AT_A_CHANGE)
class ChangesAllColumns(SmallUsers):
    """A user sets whatever the app's own code may set."""

    def own_changes(self, params: Mapping[str, object]) -> dict[str, Any]:
        return self.trusted_changes(params)


@mutants.caught_by(AT_A_CHANGE)
class TrustsWhoSaysSo(SmallUsers):
    """A user locks or unlocks an account."""

    def own_changes(self, params: Mapping[str, object]) -> dict[str, Any]:
        return {"locked": params["is_locked"]} if "is_locked" in params else {}


# Changes

PROOF = "test_a_change_of_ones_own_needs_the_current_password"


@mutants.caught_by(PROOF)
class ChangesWithoutAProof(SmallUsers):
    """A current password is asked for and not verified."""

    def prove(self, row: Row, params: Mapping[str, object]) -> None:
        return


@mutants.caught_by(PROOF)
class DeletesWithoutAProof(SmallUsers):
    """A deletion needs no current password."""

    async def delete(self, key: Key, params: Mapping[str, object] | None = None) -> bool:
        return await super().delete(key)


@mutants.caught_by(PROOF)
class DeletesWithoutAnyPassword(SmallUsers):
    """A deletion verifies a current password only if there is one."""

    async def delete(self, key: Key, params: Mapping[str, object] | None = None) -> bool:
        return await super().delete(key, params if params and params.get("current_password") else None)


@mutants.caught_by(PROOF)
class ChangesTheAddressWithoutAProof(SmallUsers):
    """Only a new password needs the current one."""

    def prove(self, row: Row, params: Mapping[str, object]) -> None:
        if "password" in params and "email" not in params:
            super().prove(row, params)


@mutants.caught_by(PROOF)
class AcceptsTheNewPasswordAsProof(SmallUsers):
    """The new password is verified in the place of the current one, by a slip."""

    def prove(self, row: Row, params: Mapping[str, object]) -> None:
        if params.get("password") != "seven red herons":
            super().prove(row, params)


@mutants.caught_by("test_a_change_with_a_proof_is_written_while_the_account_has_it")
class IgnoresTheProof(SmallUsers):
    """A change that was checked long ago is written over a later one."""

    def check_proof(self, row: Row, proof: bytes | None) -> None:
        return


@mutants.caught_by("test_a_change_with_a_proof_is_written_while_the_account_has_it")
class ComparesTheBeginning(SmallUsers):
    """A part of the proof is enough, by a slip."""

    def check_proof(self, row: Row, proof: bytes | None) -> None:
        if proof is not None and not self.proof(row).startswith(proof):
            raise Overtaken


@mutants.caught_by("test_a_change_with_a_proof_needs_an_active_account")
class ChangesTheLocked(SmallUsers):
    """A link in a mail changes a user who was locked after the mail was sent."""

    def check_proof(self, row: Row, proof: bytes | None) -> None:
        super().check_proof(replace(row, locked=False), proof)


@mutants.caught_by("test_what_is_refused_changes_nothing")
class ChangesHalf(SmallUsers):
    """A change is written field by field, until one is refused."""

    async def update(
        self, key: Key, params: Mapping[str, object], *, trusted: bool = False, proof: bytes | None = None
    ) -> Account[Me]:
        rest = {name: value for name, value in params.items() if name != "password"}
        if "email" in rest and "password" in params:
            await super().update(key, rest, trusted=trusted, proof=proof)
        return await super().update(key, params, trusted=trusted, proof=proof)


@mutants.caught_by("test_an_empty_password_is_never_set")
class SetsAnEmptyPassword(SmallUsers):
    """The empty box of a form sets an empty password."""

    async def update(
        self, key: Key, params: Mapping[str, object], *, trusted: bool = False, proof: bytes | None = None
    ) -> Account[Me]:
        account = await super().update(key, params, trusted=trusted, proof=proof)
        if params.get("password") != "":
            return account
        row = self.row(account.key)
        assert row is not None
        self.put(replace(row, password_hash=self.hashed("")), new=False)
        return account


@mutants.caught_by("test_a_new_password_replaces_the_old_one")
class KeepsTheOldPassword(SmallUsers):
    """A new password is accepted and forgotten."""

    def put(self, row: Row, *, new: bool) -> bool:
        before = self.row(row.key)
        return super().put(replace(row, password_hash=before.password_hash) if before else row, new=new)


@mutants.caught_by("test_another_users_id_cannot_be_taken")
class TakesAnothersId(SmallUsers):
    """A change can take another user's id."""

    def put(self, row: Row, *, new: bool) -> bool:
        if new:
            return super().put(row, new=new)
        with self.rows() as rows:
            rows[row.key] = row
            return True


@mutants.caught_by("test_a_deleted_user_is_gone")
class DeletesInName(SmallUsers):
    """A deleted user is only locked."""

    async def delete(self, key: Key, params: Mapping[str, object] | None = None) -> bool:
        row = self.row(key)
        if row is None:
            return False
        if params is not None:
            self.prove(row, params)
        return self.put(replace(row, locked=True), new=False)


@mutants.caught_by("test_a_deleted_user_is_gone")
class DeletesForEver(SmallUsers):
    """A deletion of nobody is reported as done."""

    async def delete(self, key: Key, params: Mapping[str, object] | None = None) -> bool:
        await super().delete(key, params)
        return True


@mutants.caught_by("test_a_deleted_user_is_gone")
class ChangesTheDead(SmallUsers):
    """A change of a user who is gone makes a new one."""

    async def update(
        self, key: Key, params: Mapping[str, object], *, trusted: bool = False, proof: bytes | None = None
    ) -> Account[Me]:
        try:
            return await super().update(key, params, trusted=trusted, proof=proof)
        except InvalidParams as error:
            if error.errors != GONE or not isinstance(key, int):
                raise
            row = Row(key, f"{key}@example.com", self.hashed(str(params["password"])))
            self.put(row, new=True)
            return self.account(row)


@mutants.caught_by("test_a_change_reaches_nobody_else")
class DeletesEverybody(SmallUsers):
    """A deletion reaches other users."""

    async def delete(self, key: Key, params: Mapping[str, object] | None = None) -> bool:
        existed = await super().delete(key, params)
        with self.rows() as rows:
            rows.clear()
        return existed


# Accounts


@mutants.caught_by("test_an_account_is_the_same_wherever_it_comes_from")
class ProvesAtRandom(SmallUsers):
    """A proof is another one each time."""

    def proof(self, row: Row) -> bytes:
        return secrets.token_bytes(32)


@mutants.caught_by("test_an_account_is_the_same_wherever_it_comes_from")
class RegistersAnotherProof(SmallUsers):
    """A registration returns another proof than a sign-in."""

    async def create(self, params: Mapping[str, object]) -> Account[Me]:
        return msgspec.structs.replace(await super().create(params), proof=b"0" * 32)


PROOFS = "test_rep_27_a_proof_changes_with_the_password_and_with_the_user_id"


@mutants.caught_by(PROOFS)
class ProvesThePasswordAlone(SmallUsers):
    """A new user id leaves the proof as it was."""

    def proof(self, row: Row) -> bytes:
        return super().proof(replace(row, email=""))


@mutants.caught_by(PROOFS)
class ProvesTheUserIdAlone(SmallUsers):
    """A new password leaves the proof as it was."""

    def proof(self, row: Row) -> bytes:
        return super().proof(replace(row, password_hash=None))


@mutants.caught_by("test_a_proof_is_no_password")
class ProvesByThePassword(SmallUsers):
    """The proof is the password."""

    def new_row(self, params: Mapping[str, object], email: str, password: str) -> Row:
        return replace(super().new_row(params, email, password), role=password)

    def proof(self, row: Row) -> bytes:
        return f"{row.email} {row.role}".encode()


@mutants.caught_by("test_a_proof_is_no_password")
class ProvesLittle(SmallUsers):
    """A proof is so short that two of them may be one."""

    def proof(self, row: Row) -> bytes:
        return super().proof(row)[:2]


@mutants.caught_by("test_whoever_gets_the_key_of_a_deleted_user_has_another_proof")
class GivesKeysAgain(SmallUsers):
    """A key is given again, and the password's hash has no salt."""

    def new_row(self, params: Mapping[str, object], email: str, password: str) -> Row:
        row = super().new_row(params, email, password)
        return replace(row, key=len(self.store.rows) + 1, password_hash=f"2$salt${derived(password, 'salt', 2)}")


@mutants.caught_by("test_rep_22_a_key_has_one_type_and_comes_back_from_a_record")
class HasAKeyOfItsOwnType(SmallUsers):
    """A key is of a type of the app's own."""

    def account(self, row: Row) -> Account[Me]:
        return msgspec.structs.replace(super().account(row), key=Number(row.key))

    def row(self, key: Key) -> Row | None:
        return super().row(int(key) if isinstance(key, Number) else key)


class Number(int):
    pass


@mutants.caught_by("test_an_account_is_the_same_wherever_it_comes_from")
class RegistersAKeyOfAnotherType(SmallUsers):
    """A registration returns the key as text."""

    async def create(self, params: Mapping[str, object]) -> Account[Me]:
        account = await super().create(params)
        return msgspec.structs.replace(account, key=str(account.key))

    def row(self, key: Key) -> Row | None:
        return super().row(int(key) if isinstance(key, str) and key.isdecimal() else key)


@mutants.caught_by("test_keys_are_distinct_and_stay")
class HasKeysThatChange(SmallUsers):
    """The key is the user id."""

    def account(self, row: Row) -> Account[Me]:
        return msgspec.structs.replace(super().account(row), key=row.email)

    def row(self, key: Key) -> Row | None:
        return self.row_by_email(str(key))


@mutants.caught_by("test_key_of_knows_accounts_and_identities_and_nothing_else")
class TakesAnythingForAKey(SmallUsers):
    """Any text or number is somebody's key."""

    def key_of(self, subject: object) -> Key | None:
        return subject if isinstance(subject, int | str) else super().key_of(subject)


@mutants.caught_by("test_no_unknown_key_finds_a_user_or_breaks_it")
class BreaksOnOddKeys(SmallUsers):
    """A key of another type breaks a look-up."""

    def row(self, key: Key) -> Row | None:
        return super().row(int(key))


@mutants.caught_by("test_no_input_finds_a_user_or_breaks_it")
class FindsByPattern(SmallUsers):
    """A user id may be a pattern in a look-up."""

    async def find(self, user_id: object) -> Account[Me] | None:
        if isinstance(user_id, str) and "%" in user_id:
            pattern = re.escape(user_id[:100]).replace("%", ".*")
            row = next((row for row in self.store.rows.values() if re.fullmatch(pattern, row.email)), None)
            return None if row is None else self.account(row)
        return await super().find(user_id)


@mutants.caught_by("test_rep_31_a_blank_finds_nobody")
class FindsTheFirstByNothing(SmallUsers):
    """A blank finds the first user."""

    async def find(self, user_id: object) -> Account[Me] | None:
        if not user_id:
            return next((self.account(row) for row in self.store.rows.values()), None)
        return await super().find(user_id)


class Open(msgspec.Struct, kw_only=True):
    id: int
    email: str


@mutants.caught_by("test_an_identity_comes_back_from_a_record")
class HasMutableIdentities(SmallUsers):
    """An identity can be changed by a request, for all others."""

    identity = Open  # type: ignore[assignment]

    def identity_of(self, row: Row) -> Any:
        return Open(id=row.key, email=row.email)


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    email: str
    roles: list[str]


@mutants.caught_by("test_an_identity_comes_back_from_a_record")
class HasAListInIdentities(SmallUsers):
    """A list in an identity can be changed by a request."""

    identity = Listed  # type: ignore[assignment]

    def identity_of(self, row: Row) -> Any:
        return Listed(id=row.key, email=row.email, roles=[row.role])


@mutants.caught_by("test_an_identity_comes_back_from_a_record")
class HasAnotherAnnotation(SmallUsers):
    """An identity's value is of another type than its annotation says."""

    def identity_of(self, row: Row) -> Any:
        return Me(id=row.key, email=row.email, role=b"user")  # type: ignore[arg-type]


class WithHash(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    email: str
    password_hash: str | None


@mutants.caught_by("test_an_identity_holds_nothing_that_proves_a_user")
class KeepsTheHashInIdentities(SmallUsers):
    """The password's hash is stored in every session."""

    identity = WithHash  # type: ignore[assignment]

    def hashed(self, password: str, rounds: int = ROUNDS) -> str:
        return super().hashed(password, rounds)

    def identity_of(self, row: Row) -> Any:
        return WithHash(id=row.key, email=row.email, password_hash=f"$argon2id${row.password_hash}")


# Stronger hashes

STRONGER = "test_a_stronger_hash_is_written_when_the_caller_says_so"


@mutants.caught_by(STRONGER)
class WritesAtOnce(SmallUsers):
    """The stronger hash is written before the user's sessions accept its proof."""

    def rehash(self, row: Row, password: str) -> Rehash:
        stronger = self.hashed(password)
        self.replace_hash(row, stronger)

        async def write() -> bool:
            return True

        return Rehash(self.proof(replace(row, password_hash=stronger)), write)


@mutants.caught_by(STRONGER)
class SaysTheOldProof(SmallUsers):
    """The proof that is announced is not the one that follows."""

    def rehash(self, row: Row, password: str) -> Rehash:
        return Rehash(self.proof(row), super().rehash(row, password).write)


@mutants.caught_by(STRONGER)
class NeverMakesHashesStronger(SmallUsers):
    """A weak hash stays."""

    def needs_rehash(self, row: Row) -> bool:
        return False


@mutants.caught_by(STRONGER)
class RehashesForEver(SmallUsers):
    """Every sign-in offers another hash."""

    def needs_rehash(self, row: Row) -> bool:
        return True


@mutants.caught_by("test_a_stronger_hash_never_replaces_another_password")
class RevivesPasswords(SmallUsers):
    """A stronger hash of the old password replaces a new password."""

    def replace_hash(self, row: Row, stronger: str) -> bool:
        with self.rows() as rows:
            if row.key not in rows:
                return False
            written = rows[row.key].password_hash != stronger
            rows[row.key] = replace(rows[row.key], password_hash=stronger)
            return written


@mutants.caught_by("test_a_stronger_hash_never_revives_a_user")
class RevivesUsers(SmallUsers):
    """A stronger hash brings a deleted user back."""

    def replace_hash(self, row: Row, stronger: str) -> bool:
        with self.rows() as rows:
            written = rows.get(row.key, row).password_hash == row.password_hash
            if written:
                rows[row.key] = replace(row, password_hash=stronger)
            return written


@pytest.mark.parametrize("mutant", mutants.all, ids=str)
def test_the_suite_catches(mutant: Mutant) -> None:
    assert_caught(mutant)


def test_every_test_of_the_suite_that_is_named_exists() -> None:
    assert len(mutants.all) >= 30
    for mutant in mutants.all:
        assert callable(getattr(UsersConformance, mutant.caught_by))
