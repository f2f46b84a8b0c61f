"""The conformance suites for stores of factors, including those that you write.

Subclass them in your own tests, and provide a method that makes a store. pytest collects the rest::

    class TestDirectoryTotp(TotpStoreConformance):
        def make_store(self) -> TotpStore:
            return DirectoryTotp(directory_for_tests())

Each test has its own event loop and store. Each test uses its own users, so the store may keep the records of other
tests. The suites use pytest only to collect the tests. Do not run them under ``python -O``.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from powauth.errors import StoreUnavailable
from powauth.extensions.second_factor.stores import RecoveryCodeStore, TotpRecord, TotpStore

__all__ = ["RecoveryCodeStoreConformance", "TotpStoreConformance"]

AT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
LATER = AT + timedelta(minutes=1)

PARALLEL = 20
"""Calls at once, of which one may succeed."""


class _Suite:
    """Runs scenarios."""

    def run(self, scenario: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        """Run a scenario with a new store. Override it if the store needs another event loop."""

        async def main() -> None:
            store = await self.opened()
            try:
                await scenario(store)
            finally:
                await self.close(store)

        asyncio.run(main())

    async def opened(self) -> Any:
        """Return a store, on the event loop of the test."""
        raise NotImplementedError

    async def close(self, store: Any) -> None:
        """Close what the store needs, on the event loop of the test."""
        del store


def _user() -> str:
    return f"user-{secrets.token_hex(8)}"


def _record(name: str = "first", step: int = 100, seed: bytes = b"a sealed seed \x00\xff") -> TotpRecord:
    return TotpRecord(id=name, label="Mia's phone \u2713", seed=seed, step=step, created_at=AT)


class TotpStoreConformance(_Suite):
    """Tests of everything that `powauth.extensions.second_factor.TotpStore` asks of a store."""

    def make_store(self) -> TotpStore:
        """Return a store. Override `opened` instead if that needs an event loop."""
        raise NotImplementedError

    async def opened(self) -> TotpStore:
        """See `_Suite.opened`."""
        return self.make_store()

    def test_a_record_comes_back_as_it_was_stored(self) -> None:
        """The seed may have any bytes, and the label any text. Times are kept to the microsecond."""

        async def scenario(store: TotpStore) -> None:
            user = _user()
            assert await store.get(user) is None
            await store.put(user, _record())
            assert await store.get(user) == _record()

        self.run(scenario)

    def test_a_new_record_replaces_the_old_one(self) -> None:
        """A user has at most one."""

        async def scenario(store: TotpStore) -> None:
            user = _user()
            await store.put(user, _record())
            await store.put(user, _record("second", 7))
            assert await store.get(user) == _record("second", 7)

        self.run(scenario)

    def test_of_records_that_are_added_at_once_one_is_stored(self) -> None:
        """A sign-in that turns the first app on must not replace another one."""

        async def scenario(store: TotpStore) -> None:
            user = _user()
            names = [f"app-{number}" for number in range(PARALLEL)]
            won = await asyncio.gather(*(store.add(user, _record(name)) for name in names))
            assert won.count(True) == 1, f"{won.count(True)} of {PARALLEL} parallel calls succeed"
            assert await store.get(user) == _record(names[won.index(True)])
            assert await store.add(user, _record("late")) is False

        self.run(scenario)

    def test_users_are_told_apart_by_each_character(self) -> None:
        """Many databases take "a" and "A" for the same text."""

        async def scenario(store: TotpStore) -> None:
            user = _user()
            await store.put(user, _record())
            for other in (user.upper(), f"{user}0", user[:-1], "", f"\\{user}"):
                assert await store.get(other) is None, f"{other!r} finds the record of {user!r}"
                assert await store.delete(other) is False

        self.run(scenario)

    def test_a_step_is_accepted_once_and_only_forwards(self) -> None:
        """RFC 6238, section 5.2: a code is good for one use."""

        async def scenario(store: TotpStore) -> None:
            user = _user()
            await store.put(user, _record(step=100))
            assert await store.accept(user, "first", 100, AT) is False, "the last step is accepted again"
            assert await store.accept(user, "first", 99, AT) is False, "an earlier step is accepted"
            assert await store.accept(user, "first", 101, LATER) is True
            assert await store.accept(user, "first", 101, LATER) is False, "a step is accepted twice"
            found = await store.get(user)
            assert found == msgspec.structs.replace(_record(), step=101, last_used_at=LATER)

        self.run(scenario)

    def test_a_step_of_another_enrolment_or_user_is_not_accepted(self) -> None:
        """Another request may replace the record between the read and this call."""

        async def scenario(store: TotpStore) -> None:
            user, other = _user(), _user()
            await store.put(user, _record("second"))
            assert await store.accept(user, "first", 200, AT) is False
            assert await store.accept(other, "second", 200, AT) is False
            assert await store.get(user) == _record("second")

        self.run(scenario)

    def test_of_parallel_uses_of_a_step_one_wins(self) -> None:
        """Twenty requests with one code."""

        async def scenario(store: TotpStore) -> None:
            user = _user()
            await store.put(user, _record(step=100))
            won = await asyncio.gather(*(store.accept(user, "first", 101, LATER) for _ in range(PARALLEL)))
            assert won.count(True) == 1, f"{won.count(True)} of {PARALLEL} parallel uses succeed"

        self.run(scenario)

    def test_a_seed_is_sealed_again_only_as_it_was_read(self) -> None:
        """Another process may have sealed it, or replaced it."""

        async def scenario(store: TotpStore) -> None:
            user = _user()
            await store.put(user, _record(seed=b"old"))
            assert await store.reseal(user, "first", b"other", b"new") is False
            assert await store.reseal(user, "second", b"old", b"new") is False
            assert await store.reseal(user, "first", b"old", b"new") is True
            assert await store.reseal(user, "first", b"old", b"newer") is False
            assert await store.get(user) == _record(seed=b"new")

        self.run(scenario)

    def test_a_record_is_deleted_once(self) -> None:
        """If the call names an id, only a record with this id is deleted."""

        async def scenario(store: TotpStore) -> None:
            user, other = _user(), _user()
            await store.put(user, _record())
            await store.put(other, _record())
            assert await store.delete(user, "second") is False
            assert await store.delete(user, "first") is True
            assert await store.delete(user) is False
            assert await store.get(user) is None
            assert await store.get(other) == _record()
            assert await store.delete(other) is True

        self.run(scenario)

    def test_all_records_are_found_page_by_page(self) -> None:
        """`Totp.reseal` reads them."""

        async def scenario(store: TotpStore) -> None:
            users = {_user() for _ in range(7)}
            for user in users:
                await store.put(user, _record())
            found: list[tuple[str, TotpRecord]] = []
            after = None
            while page := await store.page(after, 3):
                assert len(page) <= 3, "a page is too long"
                found += page
                after = page[-1][0]
            names = [user for user, _ in found]
            assert len(set(names)) == len(names), "a record is found twice"
            assert users <= set(names), "a record is not found"
            assert all(record == _record() for user, record in found if user in users)

        self.run(scenario)


HASHES = [bytes([number]) * 32 for number in range(10)]


class RecoveryCodeStoreConformance(_Suite):
    """Tests of everything that `powauth.extensions.second_factor.RecoveryCodeStore` asks of a store."""

    def make_store(self) -> RecoveryCodeStore:
        """Return a store. Override `opened` instead if that needs an event loop."""
        raise NotImplementedError

    async def opened(self) -> RecoveryCodeStore:
        """See `_Suite.opened`."""
        return self.make_store()

    def test_each_code_is_taken_once(self) -> None:
        """A used code is deleted."""

        async def scenario(store: RecoveryCodeStore) -> None:
            user, other = _user(), _user()
            assert await store.left(user) == (0, None)
            await store.put(user, HASHES, AT)
            assert await store.left(user) == (10, AT)
            assert await store.take(other, HASHES[0]) is False, "another user takes the code"
            assert await store.take(user, bytes(31) + b"x") is False
            assert await store.take(user, HASHES[3]) is True
            assert await store.take(user, HASHES[3]) is False
            assert await store.left(user) == (9, AT)

        self.run(scenario)

    def test_new_codes_replace_all_old_ones(self) -> None:
        """An old code must not work any more."""

        async def scenario(store: RecoveryCodeStore) -> None:
            user, other = _user(), _user()
            await store.put(other, HASHES[:2], AT)
            await store.put(user, HASHES[:4], AT)
            await store.put(user, HASHES[6:8], LATER)
            assert await store.left(user) == (2, LATER)
            assert await store.take(user, HASHES[0]) is False
            assert await store.take(user, HASHES[6]) is True
            assert await store.left(other) == (2, AT)

        self.run(scenario)

    def test_of_codes_that_are_made_at_once_only_one_set_is_left(self) -> None:
        """Otherwise a thief could keep a set beside the owner's new one."""

        async def put(store: RecoveryCodeStore, user: str, number: int) -> None:
            with contextlib.suppress(StoreUnavailable):
                await store.put(user, [bytes([number, each]) * 16 for each in range(10)], AT)

        async def scenario(store: RecoveryCodeStore) -> None:
            for _ in range(5):
                user = _user()
                await asyncio.gather(*(put(store, user, number) for number in range(4)))
                left, _ = await store.left(user)
                assert left in (0, 10), f"{left} codes are left of sets of 10"

        self.run(scenario)

    def test_of_parallel_uses_of_a_code_one_wins(self) -> None:
        """Twenty requests with one code."""

        async def scenario(store: RecoveryCodeStore) -> None:
            user = _user()
            await store.put(user, HASHES, AT)
            won = await asyncio.gather(*(store.take(user, HASHES[5]) for _ in range(PARALLEL)))
            assert won.count(True) == 1, f"{won.count(True)} of {PARALLEL} parallel uses succeed"
            assert await store.left(user) == (9, AT)

        self.run(scenario)

    def test_all_codes_of_a_user_are_deleted(self) -> None:
        """The codes of other users stay."""

        async def scenario(store: RecoveryCodeStore) -> None:
            user, other = _user(), _user()
            await store.put(user, HASHES, AT)
            await store.put(other, HASHES, AT)
            assert await store.delete(user) == 10
            assert await store.delete(user) == 0
            assert await store.left(other) == (10, AT)

        self.run(scenario)
