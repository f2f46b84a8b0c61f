"""Tests of two parallel calls. One of them is stopped at each of its steps; see `powauth.testing.stepping`."""

# ruff: noqa: D102 the name of a test is its sentence

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from powauth.accounts.base import Account, UsersContext
from powauth.backends.base import drive
from powauth.errors import InvalidParams, Overtaken
from powauth.testing.stepping import Own, Race, run_at_each_step
from powauth.testing.users.suite import BEST, BETTER, GOOD, Suite, Users, scenario

Outcome = Account[Any] | InvalidParams | bool


class RaceTests(Suite):
    """One user id belongs to one user, in any order of the calls."""

    async def at_each_step(self, users: Users, prepare: Callable[[str], Awaitable[Race[Any, Any]]]) -> None:
        """Stop a call at each of its steps in turn and run another one there.

        Args:
            users: the context.
            prepare: sets up one race, for users whose names begin with its argument.
        """
        number = 0

        async def next_race() -> Race[Any, Any]:
            nonlocal number
            number += 1
            return await prepare(f"step{number}")

        own = Own(UsersContext, self.steps_into, self.steps_over)
        await run_at_each_step(users, own, next_race, self.patience)

    @scenario
    async def test_rep_63_no_step_of_a_registration_lets_another_one_take_the_user_id(self, users: Users) -> None:
        async def prepare(name: str) -> Race[Outcome, Outcome]:
            async def check(first: Outcome, second: Outcome) -> None:
                await self._assert_one_winner(users, name, {GOOD: first, BETTER: second})

            return Race(
                lambda: _outcome(users.create(self.params(name, GOOD))),
                lambda: _outcome(users.create(self.params(name, BETTER))),
                check,
            )

        await self.at_each_step(users, prepare)

    @scenario
    async def test_rep_63_no_step_of_a_registration_lets_a_change_take_the_user_id(self, users: Users) -> None:
        async def prepare(name: str) -> Race[Outcome, Outcome]:
            other = await users.create(self.params(f"{name}-other", BETTER))

            async def check(first: Outcome, second: Outcome) -> None:
                await self._assert_one_winner(users, name, {GOOD: first, BETTER: second})

            return Race(
                lambda: _outcome(users.create(self.params(name, GOOD))),
                lambda: _outcome(users.update(other.key, self.named(self.user_id(name)), trusted=True)),
                check,
            )

        await self.at_each_step(users, prepare)

    @scenario
    async def test_rep_63_no_step_of_a_change_lets_a_registration_take_the_user_id(self, users: Users) -> None:
        async def prepare(name: str) -> Race[Outcome, Outcome]:
            other = await users.create(self.params(f"{name}-other", GOOD))

            async def check(first: Outcome, second: Outcome) -> None:
                await self._assert_one_winner(users, name, {GOOD: first, BETTER: second})

            change = {"current_password": GOOD, self.user_id_field: self.user_id(name)}
            return Race(
                lambda: _outcome(users.update(other.key, change)),
                lambda: _outcome(users.create(self.params(name, BETTER))),
                check,
            )

        await self.at_each_step(users, prepare)

    @scenario
    async def test_no_step_of_a_change_revives_a_deleted_user(self, users: Users) -> None:
        async def prepare(name: str) -> Race[Outcome, Outcome]:
            created = await users.create(self.params(name))

            async def check(changed: Outcome, deleted: Outcome) -> None:
                assert deleted is True
                assert await users.get(created.key) is None, "a change has brought a deleted user back"
                assert await users.find(self.user_id(name)) is None
                for password in (GOOD, BETTER):
                    assert await users.authenticate(self.params(name, password)) is None
                assert isinstance(changed, Account) or list(changed.errors) == ["base"]  # type: ignore[union-attr]

            return Race(
                lambda: _outcome(users.update(created.key, {"password": BETTER}, trusted=True)),
                lambda: _outcome(users.delete(created.key)),
                check,
            )

        await self.at_each_step(users, prepare)

    @scenario
    async def test_no_step_of_a_change_with_a_proof_overwrites_another_change(self, users: Users) -> None:
        async def prepare(name: str) -> Race[Outcome, Outcome]:
            created = await users.create(self.params(name))

            async def check(first: Outcome, second: Outcome) -> None:
                assert isinstance(second, Account)
                assert isinstance(first, Account | Overtaken)
                assert await users.authenticate(self.params(name, BETTER)) is None, "a change was overwritten"
                await self.assert_signs_in(users, self.params(name, BEST), second)

            return Race(
                lambda: _outcome(users.update(created.key, {"password": BETTER}, trusted=True, proof=created.proof)),
                lambda: _outcome(users.update(created.key, {"password": BEST}, trusted=True)),
                check,
            )

        await self.at_each_step(users, prepare)

    @scenario
    async def test_of_two_changes_with_one_proof_one_is_written_at_each_step(self, users: Users) -> None:
        async def prepare(name: str) -> Race[Outcome, Outcome]:
            created = await users.create(self.params(name))

            async def check(first: Outcome, second: Outcome) -> None:
                winners = [
                    (each, word) for each, word in ((first, BETTER), (second, BEST)) if isinstance(each, Account)
                ]
                assert len(winners) == 1, f"{len(winners)} changes with one proof were written"
                ((winner, password),) = winners
                assert Overtaken in (type(first), type(second))
                await self.assert_signs_in(users, self.params(name, password), winner)

            return Race(
                lambda: _outcome(users.update(created.key, {"password": BETTER}, trusted=True, proof=created.proof)),
                lambda: _outcome(users.update(created.key, {"password": BEST}, trusted=True, proof=created.proof)),
                check,
            )

        await self.at_each_step(users, prepare)

    @scenario
    async def test_no_step_of_a_sign_in_answers_with_what_the_user_never_was(self, users: Users) -> None:
        async def prepare(name: str) -> Race[Account[Any] | None, Outcome]:
            created = await users.create(self.params(name))

            async def check(found: Account[Any] | None, changed: Outcome) -> None:
                assert isinstance(changed, Account)
                assert found is None or found.proof in {created.proof, changed.proof}

            return Race(
                lambda: users.authenticate(self.params(name)),
                lambda: _outcome(users.update(created.key, {"password": BETTER}, trusted=True)),
                check,
            )

        await self.at_each_step(users, prepare)

    @scenario
    async def test_parallel_registrations_of_one_user_id_make_one_user(self, users: Users) -> None:
        passwords = [f"{GOOD} {number}" for number in range(self.contenders)]
        starts = [partial(self._register, users, password) for password in passwords]
        results = await self._at_once(users, starts)
        await self._assert_one_winner(users, "mia", dict(zip(passwords, results, strict=True)))

    async def _register(self, users: Users, password: str) -> Outcome:
        return await _outcome(users.create(self.params("mia", password)))

    async def _at_once(
        self, users: Users, starts: Sequence[Callable[[], Coroutine[Any, Any, Outcome]]]
    ) -> list[Outcome]:
        if users.mode == "async":
            return list(await asyncio.gather(*(start() for start in starts)))
        results: list[Outcome | None] = [None] * len(starts)
        errors: list[BaseException] = []
        barrier = threading.Barrier(len(starts))

        def body(position: int) -> None:
            try:
                barrier.wait(timeout=60)
                results[position] = drive(starts[position]())
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=body, args=(position,)) for position in range(len(starts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return [each for each in results if each is not None]

    async def _assert_one_winner(self, users: Users, name: str, outcomes: dict[str, Outcome]) -> None:
        """Check that one call got the user id with its password, and that the others report the reason."""
        winners = {password: each for password, each in outcomes.items() if isinstance(each, Account)}
        assert len(winners) == 1, f"{len(winners)} calls have got one user id"
        ((password, winner),) = winners.items()
        for other, each in outcomes.items():
            if isinstance(each, InvalidParams):
                assert list(each.errors) == [self.user_id_field]
                assert await users.authenticate(self.params(name, other)) is None
        await self.assert_signs_in(users, self.params(name, password), winner)
        found = await users.find(self.user_id(name))
        assert found is not None
        assert found.key == winner.key


async def _outcome(attempt: Awaitable[Account[Any] | bool]) -> Outcome:
    try:
        return await attempt
    except InvalidParams as error:
        return error
