"""A sign-in and the turning on of a factor, in every order of their steps: no session is left without the factor."""

from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from harness.factors import WORD, Words
from harness.support import SECRET, FakeConnection, MemoryUsers
from powauth import MoreNeeded, PowauthError, RequestAuth, SessionAuth
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.extensions.second_factor import MFA, Enrolment, SecondFactor
from powauth.testing.extension.suite import BreakableBackend

PASSWORD = "seven red herons"

STEPS = 30
"""More calls of the store than either of the two takes."""

Bound = RequestAuth[Any, Any]


class World:
    """An app with one user, who is signed in and has no factor yet."""

    def __init__(self) -> None:
        self.backend = BreakableBackend(MemoryBackend())
        self.users = MemoryUsers()
        self.user = self.users.add("ada@example.org", PASSWORD)
        self.auth: SessionAuth[Any, Any] = SessionAuth(
            secret_key=SECRET, users=self.users, backend=self.backend, extensions=[SecondFactor(Words())]
        )
        self.engine = self.auth.extension(SecondFactor)
        self.words = self.engine.factor(Words)
        self.cookie = ""
        drive(self.send(lambda bound: bound.sign_in(email="ada@example.org", password=PASSWORD), keep=True))

    async def send(self, work: Callable[[Bound], Coroutine[Any, Any, Any]], *, keep: bool = False) -> Any:
        """A request with the cookie of the user's browser, whose answer it gets if ``keep``."""
        connection = FakeConnection([self.cookie] if keep and self.cookie else [])
        await self.auth.call(connection)
        try:
            result = await work(RequestAuth(self.auth, connection))
        except PowauthError as error:
            result = error
        for cookie in (await self.auth.respond(connection)).cookies:
            if keep and cookie.startswith("__Host-auth="):
                self.cookie = cookie.partition(";")[0]
        return result

    async def turn_on(self) -> Any:
        async def write() -> bool:
            # A real factor takes its enrolment from the store.
            await self.backend.get(b"credentials:" + bytes(18), self.auth.now())
            self.words.give(self.user.id)
            return True

        async def undo() -> None:
            await self.words.reset(self.user.id)

        enrolment = Enrolment("My word", {"kba"}, write, undo)
        return await self.send(lambda bound: self.engine.enrol(bound, self.words, enrolment), keep=True)

    async def sign_in(self) -> Any:
        return await self.send(lambda bound: bound.sign_in(email="ada@example.org", password=PASSWORD))

    async def sign_in_by_the_app(self) -> Any:
        return await self.send(lambda bound: bound.sign_in_user(self.user))

    def sessions(self) -> list[Any]:
        return drive(self.auth.store.sessions(self.user.id, self.auth.now()))

    def check(self) -> None:
        assert self.words.words, "the factor is not on"
        assert [each.session for each in self.sessions() if MFA not in each.session.amr] == []
        assert len(self.sessions()) == 1, "the user's own session has not survived"


@pytest.mark.parametrize("way", ["sign_in", "sign_in_by_the_app"])
def test_a_factor_that_is_turned_on_at_any_step_of_a_sign_in(way: str) -> None:
    for step in range(1, STEPS):
        world = World()
        world.backend.run_before(step, world.turn_on)
        drive(getattr(world, way)())
        if not world.words.words:  # the sign-in has fewer steps than that
            assert step > 2
            break
        world.check()
    else:
        pytest.fail("the sign-in has more steps than this test tries")


@pytest.mark.parametrize("way", ["sign_in", "sign_in_by_the_app"])
def test_a_sign_in_at_any_step_of_turning_a_factor_on(way: str) -> None:
    seen: set[str] = set()
    for step in range(1, STEPS):
        world, outcomes = World(), list[Any]()

        async def rival(world: World = world, outcomes: list[Any] = outcomes) -> None:
            outcomes.append(await getattr(world, way)())

        world.backend.run_before(step, rival)
        assert drive(world.turn_on()) is True
        world.check()
        if not outcomes:
            assert seen == {"signed in", "asked"}, "the sign-in came always before, or always after"
            break
        seen.add("asked" if isinstance(outcomes[0], MoreNeeded) else "signed in")
    else:
        pytest.fail("turning a factor on has more steps than this test tries")


async def new_password(world: World) -> None:
    await world.auth.update_account(world.user.id, password="eleven grey geese")


async def revocation(world: World) -> None:
    await world.auth.revoke_user(world.user.id)


@pytest.mark.parametrize("change", [new_password, revocation], ids=lambda change: change.__name__)
def test_a_session_that_ends_meanwhile_turns_nothing_on(change: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    """A thief's request is under way when the owner ends all sessions. It leaves neither a session nor a factor."""
    outcomes: set[bool] = set()
    for step in range(1, STEPS):
        world, ran = World(), list[bool]()

        async def rival(world: World = world, ran: list[bool] = ran) -> None:
            ran.append(True)
            await change(world)

        world.backend.run_before(step, rival)
        done = drive(world.turn_on())
        if not ran:
            assert outcomes == {True, False}
            break
        outcomes.add(done is True)
        assert world.sessions() == [], f"a session is left (step {step})"
        assert bool(world.words.words) == (done is True), f"a factor is left (step {step})"
    else:
        pytest.fail("turning a factor on has more steps than this test tries")


def test_an_answer_at_any_step_of_a_new_password() -> None:
    """TRM-03: the challenge of the old password gives no session that outlives the change."""
    for step in range(1, STEPS):
        world = World()
        world.words.give(world.user.id)
        challenge: list[str] = []

        async def ask(bound: Bound, challenge: list[str] = challenge, world: World = world) -> None:
            with pytest.raises(MoreNeeded):
                await bound.sign_in(email="ada@example.org", password=PASSWORD)
            cookies = (await world.auth.respond(bound.connection)).cookies
            challenge.extend(cookie.partition(";")[0] for cookie in cookies)

        drive(world.send(ask))
        ran: list[bool] = []

        async def answer(challenge: list[str] = challenge, world: World = world, ran: list[bool] = ran) -> None:
            ran.append(True)
            connection = FakeConnection(challenge)
            await world.auth.call(connection)
            bound: Bound = RequestAuth(world.auth, connection)
            try:
                await world.engine.answer(bound, {"code": WORD})
            except PowauthError:
                return

        world.backend.run_before(step, answer)
        drive(world.auth.update_account(world.user.id, password="eleven grey geese"))
        if not ran:
            break
        assert world.sessions() == [], f"a session of the old password survives (step {step})"
    else:
        pytest.fail("the change has more steps than this test tries")
