"""Plans of a reset of a password beside other changes of the same user."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Self

from harness.interleavings import Plan, Scenario, World
from harness.support import Me, User, cheap_hash
from powauth import Account, Extension, Parts
from powauth.backends.base import drive
from powauth.extensions import OneTimeTokens
from powauth.extensions.letters import Words
from powauth.extensions.reset_password import ResetPassword
from powauth.extensions.reset_password.texts import MESSAGES
from powauth.testing import MemoryMailer

NEW, OTHER, THIRD = "eleven grey geese", "twelve white swans", "nine black crows"
WORDS = Words(MESSAGES, "en", "ltr", "Shop")


class Issues(Extension[Me]):
    """Issues the tokens of the reset, as its background does."""

    name: ClassVar[str] = "issues"
    tokens: OneTimeTokens[Me]

    def bind(self, parts: Parts[Me]) -> Self:
        bound = type(self)()
        bound.tokens = OneTimeTokens(parts, ResetPassword.name)
        return bound


def a_token(world: World) -> tuple[User, ResetPassword, OneTimeTokens[Me], str]:
    """A user, the extension, its tokens, and a token that nobody has taken."""
    user, tokens = world.person(), world.auth.extension(Issues).tokens
    token = drive(tokens.issue(user.id, user.email))
    assert token is not None
    return user, world.auth.extension(ResetPassword), tokens, token


def won(world: World, task: str) -> bool:
    return isinstance(world.results[task], Account)


def has(world: World, user: User, password: str) -> bool:
    """Whether the stored password is this one."""
    return world.users.rows[user.id].password_hash == cheap_hash(password)


def two_resets(world: World) -> Plan:
    user, extension, tokens, token = a_token(world)

    def check() -> None:
        winners = [password for task, password in (("one", NEW), ("two", OTHER)) if won(world, task)]
        world.expect(len(winners) == 1, "a token had not exactly one winner")
        world.expect(has(world, user, winners[0]), "the password is not the winner's")
        world.expect(drive(tokens.find(token)) is None, "a token is valid after it was taken")

    return Plan({"one": extension.reset(token, NEW, WORDS), "two": extension.reset(token, OTHER, WORDS)}, check)


Change = Callable[[World, User], Awaitable[object]]


async def change_password(world: World, user: User) -> object:
    return await world.auth.update_account(user, {"password": THIRD})


async def change_elsewhere(world: World, user: User) -> object:
    """Something else than powauth changes the password, so nothing tells the extension."""
    return await world.users.update(user.id, {"password": THIRD}, trusted=True)


async def change_address(world: World, user: User) -> object:
    return await world.auth.update_account(user, {"email": "ann@example.com"})


async def lock(world: World, user: User) -> object:
    return await world.auth.update_account(user, {"locked": True})


def reset_and_change(change: Change, *, password: str | None = None) -> Callable[[World], Plan]:
    """A password is reset while something else changes the user. What the change wrote stays."""

    def plan(world: World) -> Plan:
        user, extension, tokens, token = a_token(world)

        def check() -> None:
            world.expect(drive(tokens.find(token)) is None, "the token is valid after the change")
            if won(world, "reset"):
                first = world.when("reset", "users.update") < world.when("change", "users.update")
                world.expect(first, "a reset was written over a later change")
            if password is not None:
                world.expect(has(world, user, password), "the change was overwritten")
            elif not won(world, "reset"):
                world.expect(not has(world, user, NEW), "a refused reset has set the password")

        return Plan({"reset": extension.reset(token, NEW, WORDS), "change": change(world, user)}, check)  # type: ignore[dict-item]

    return plan


def reset_and_newer_token(world: World) -> Plan:
    """A password is reset while a newer token is issued. The older token is good for at most one reset."""
    user, extension, tokens, token = a_token(world)

    def check() -> None:
        world.expect(drive(tokens.find(token)) is None, "the older token is valid")
        world.expect(has(world, user, NEW) == won(world, "reset"), "the password is not as the reset says")
        newer = world.results["issue"]
        if drive(tokens.find(newer)) is not None and won(world, "reset"):
            after = world.when("issue", "users.get") > world.when("reset", "users.update")
            world.expect(after, "a token from before the reset is valid")

    return Plan({"reset": extension.reset(token, NEW, WORDS), "issue": tokens.issue(user.id, user.email)}, check)


def reset_and_revocation(world: World) -> Plan:
    user, extension, tokens, token = a_token(world)

    def check() -> None:
        world.expect(drive(tokens.find(token)) is None, "the token is valid after the revocation")
        world.expect(has(world, user, NEW) == won(world, "reset"), "the password is not as the reset says")

    return Plan({"reset": extension.reset(token, NEW, WORDS), "revoke": world.auth.revoke_user(user)}, check)


def reset_and_sign_in(world: World) -> Plan:
    """A thief signs in with the old password during the reset. No session of theirs is left."""
    user, extension, _, token = a_token(world)
    thief = world.browser()

    async def sign_in() -> object:
        return await world.request(thief, lambda auth: auth.sign_in(email=user.email, password="correct horse"))

    def check() -> None:
        world.expect(won(world, "reset"), "the token was not taken")
        world.expect(world.records() == [], "a session of the old password outlives the reset")

    return Plan({"reset": extension.reset(token, NEW, WORDS), "sign_in": sign_in()}, check)


def scenarios(kind: type[ResetPassword] = ResetPassword) -> dict[str, Scenario]:
    """The scenarios by name, with an extension of a class."""
    options: Mapping[str, Any] = {
        "extensions": [kind(MemoryMailer()), Issues()],
        "public_url": "https://shop.example",
    }
    make = partial(Scenario, options=options, reduced=True)
    found = [
        make("two resets", two_resets),
        make("a reset and a change of password", reset_and_change(change_password, password=THIRD)),
        make("a reset and a change elsewhere", reset_and_change(change_elsewhere, password=THIRD)),
        make("a reset and a change of address", reset_and_change(change_address)),
        make("a reset and a lock", reset_and_change(lock)),
        make("a reset and a newer token", reset_and_newer_token),
        make("a reset and a revoke-all", reset_and_revocation),
        make("a reset and a sign-in", reset_and_sign_in),
    ]
    return {each.name: each for each in found}


RESET_SCENARIOS = scenarios()
