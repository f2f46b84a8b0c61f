"""Plans of concurrent takes, issues and ends of one-time tokens, and an extension that has such tokens."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Self

from harness.interleavings import Plan, Scenario, World
from harness.scenarios import check_records
from harness.support import Me, User
from powauth import Extension, Parts
from powauth.accounts.identity import Key
from powauth.backends.base import drive
from powauth.extensions import Claim, OneTimeTokens

Tokens = OneTimeTokens[Me]


class Links(Extension[Me]):
    """Sends nothing, but has a one-time token for each user who wants one."""

    name: ClassVar[str] = "links"
    tokens: Tokens

    def __init__(self, kind: type[Tokens] = OneTimeTokens) -> None:
        self._kind = kind

    def bind(self, parts: Parts[Me]) -> Self:
        bound = type(self)(self._kind)
        bound.tokens = self._kind(parts, self.name)
        return bound

    async def credentials_changed(self, key: Key, why: str) -> None:
        del why
        await self.tokens.end(key)


def a_token(world: World) -> tuple[User, Tokens, str]:
    """A user, the tokens, and a token that nobody has taken."""
    user, tokens = world.person(), world.auth.extension(Links).tokens
    return user, tokens, issued(tokens, user)


def issued(tokens: Tokens, user: User) -> str:
    token = drive(tokens.issue(user.id, user.email))
    assert token is not None
    return token


def taken(world: World, task: str) -> bool:
    """Whether a task that takes a token has won it."""
    return isinstance(world.results[task], Claim)


def live(tokens: Tokens, *candidates: object) -> list[object]:
    return [each for each in candidates if drive(tokens.find(each)) is not None]


# The plans


def take_twice(*tasks: str) -> Callable[[World], Plan]:
    def plan(world: World) -> Plan:
        _, tokens, token = a_token(world)

        def check() -> None:
            world.expect(sum(taken(world, task) for task in tasks) == 1, "a token had not exactly one winner")
            world.expect(not live(tokens, token), "a token is valid after it was taken")

        return Plan({task: tokens.take(token) for task in tasks}, check)

    return plan


Change = Callable[[World, User], Awaitable[object]]


def take_and_change(change: Change, write: str) -> Callable[[World], Plan]:
    """A token is taken while something ends it. ``write`` is the step of the change from which on it must be void."""

    def plan(world: World) -> Plan:
        user, tokens, token = a_token(world)

        async def end() -> None:
            await change(world, user)
            await world.returned(lambda: world.expect(not live(tokens, token), "the token outlives the change"))

        def check() -> None:
            world.expect(not live(tokens, token), "the token is valid after the change")
            if taken(world, "take"):
                last = world.when("take", "users.get" if write.startswith("users") else "delete")
                world.expect(last < world.when("end", write), "a token was taken after the change")

        return Plan({"take": tokens.take(token), "end": end()}, check)

    return plan


def take_and_sign_out_everywhere(world: World) -> Plan:
    """A token is taken while its user signs out everywhere: the sessions end, and the token is void."""
    user, tokens, token = a_token(world)
    browser = world.browser(user)

    async def end() -> object:
        response = await world.request(browser, lambda auth: auth.revoke_all())
        await world.returned(lambda: world.expect(not live(tokens, token), "the token outlives the sign-out"))
        return response

    def check() -> None:
        world.expect(not live(tokens, token), "the token is valid after the sign-out")
        check_records(world, 0)

    return Plan({"take": tokens.take(token), "end": end()}, check)


def take_and_newer(*takes: str) -> Callable[[World], Plan]:
    """A newer token is issued while the older one is taken: the newer one lives, whoever wins the older one."""

    def plan(world: World) -> Plan:
        user, tokens, token = a_token(world)

        def check() -> None:
            newer = world.results["issue"]
            world.expect(live(tokens, newer, token) == [newer], "not exactly the newer token is valid")
            world.expect(sum(taken(world, task) for task in takes) <= 1, "the older token had two winners")

        takers = {task: tokens.take(token) for task in takes}
        return Plan({**takers, "issue": tokens.issue(user.id, user.email)}, check)

    return plan


def issue_at_once(*tasks: str) -> Callable[[World], Plan]:
    def plan(world: World) -> Plan:
        user, tokens, token = a_token(world)

        def check() -> None:
            found = [each for each in (world.results[task] for task in tasks) if each is not None]
            world.expect(len(live(tokens, *found)) == 1, "not exactly one of the new tokens is valid")
            world.expect(not live(tokens, token), "the oldest token is valid")

        return Plan({task: tokens.issue(user.id, user.email) for task in tasks}, check)

    return plan


def issue_and_end(change: Change) -> Callable[[World], Plan]:
    """A token is issued while everything of the user ends: it lives only if it was begun after the end."""

    def plan(world: World) -> Plan:
        user, tokens, token = a_token(world)

        async def end() -> None:
            await change(world, user)
            await world.returned(lambda: world.expect(not live(tokens, token), "the older token outlives the end"))

        def check() -> None:
            # The first `delete_owner` of the end is that of the tokens. A revocation then ends the sessions.
            steps = [at for at, step in enumerate(world.history) if step == ("end", "delete_owner")]
            world.expect(steps, "the end ended nothing")
            ended = steps[0]
            found = world.results["issue"]
            if live(tokens, found):
                world.expect(world.when("issue", "epoch") > ended, "a token that was begun before the end is valid")
            else:
                whole = found is None or world.when("issue", "list") < ended
                world.expect(whole, "the token was issued after the end, and is not valid")

        return Plan({"issue": tokens.issue(user.id, user.email), "end": end()}, check)

    return plan


async def revoke(world: World, user: User) -> object:
    return await world.auth.revoke_user(user)


async def change_password(world: World, user: User) -> object:
    return await world.auth.update_account(user, {"password": "battery staple"})


async def change_address(world: World, user: User) -> object:
    return await world.auth.update_account(user, {"email": "ann@example.com"})


async def lock(world: World, user: User) -> object:
    return await world.auth.update_account(user, {"locked": True})


async def delete(world: World, user: User) -> object:
    return await world.auth.delete_account(user)


async def change_elsewhere(world: World, user: User) -> object:
    """Something else than powauth changes the password, so nothing tells the extension."""
    return await world.users.update(user.id, {"password": "battery staple"}, trusted=True)


async def end_only(world: World, user: User) -> object:
    return await world.auth.extension(Links).tokens.end(user.id)


def scenarios(kind: type[Tokens] = OneTimeTokens) -> dict[str, Scenario]:
    """The scenarios by name, with tokens of a class."""
    options: Mapping[str, Any] = {"extensions": [Links(kind)]}
    make = partial(Scenario, options=options)
    found = [
        make("two takes", take_twice("one", "two")),
        make("three takes", take_twice("one", "two", "three"), reduced=True),
        make("a take and a change of password", take_and_change(change_password, "users.update")),
        make("a take and a change of address", take_and_change(change_address, "users.update")),
        make("a take and a lock", take_and_change(lock, "users.update")),
        make("a take and a deletion", take_and_change(delete, "users.delete")),
        make("a take and a change elsewhere", take_and_change(change_elsewhere, "users.update")),
        make("a take and a revoke-all", take_and_change(revoke, "delete_owner")),
        make("a take and a sign-out everywhere", take_and_sign_out_everywhere),
        make("a take and a newer token", take_and_newer("take")),
        make("two takes and a newer token", take_and_newer("one", "two"), reduced=True),
        make("two tokens at once", issue_at_once("one", "two")),
        make("a new token and an end", issue_and_end(end_only)),
        make("a new token and a revoke-all", issue_and_end(revoke), reduced=True),
    ]
    return {each.name: each for each in found}


TOKEN_SCENARIOS = scenarios()
