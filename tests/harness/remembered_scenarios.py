"""Plans of concurrent requests with remembered sessions, with bearer tokens, and with extensions."""

from collections.abc import Awaitable, Callable, Mapping
from copy import copy
from functools import partial
from typing import Any, ClassVar, Self

from harness.interleavings import PASSWORD, RENEWAL, TTL, Browser, Plan, Scenario, World
from harness.scenarios import (
    AGAIN,
    SCENARIOS,
    STALE,
    Auth,
    check_dead,
    check_identities,
    check_records,
    check_renewed,
    check_signed_in,
    delete_account,
    ended_by,
    sign_in,
    sign_in_and_end_of,
    sign_in_and_password_change,
    sign_out,
    update,
)
from harness.support import Me, User, account_of
from powauth import Account, AnyOf, BearerCarrier, CookieCarrier, Extension, Parts, Remember
from powauth.accounts.identity import Key, key_text, stored_key
from powauth.accounts.service import Grant
from powauth.backends.base import Record, drive, make_key, make_owner, shard_of

AWAY = TTL + 3 * 86_400
"""The age of a remembered session whose user comes back after three days."""

REMEMBERED = {"remember": Remember()}
PROGRAMS = {"carrier": AnyOf(CookieCarrier(), BearerCarrier())}


# What must hold


def check_returned(world: World, browser: Browser, *tasks: str) -> None:
    """The requests were the user's and led to one id. The session is remembered, and knows of the pause."""
    check_records(world, 1)
    [session] = world.records()
    world.expect(session.remembered, "the session is no longer remembered")
    world.expect(session.resumed_at > session.authenticated_at, "the session does not know that the user was away")
    world.expect(not world.is_fresh(browser), "the session is fresh after a pause")
    check_renewed(world, browser, *tasks)


def check_stepped_up(world: World, browser: Browser, before: str | None) -> None:
    """The session of a user who entered the password again is remembered and fresh, and the only one."""
    check_signed_in(world, browser)
    check_records(world, 1)
    world.expect(world.who(before) is None, "the session from before the step-up is alive")
    world.expect(world.records()[0].remembered, "the step-up forgot that the session is remembered")
    world.expect(world.is_fresh(browser), "the session is not fresh after a step-up")


# Remembered sessions


def returns(*tasks: str) -> Callable[[World], Plan]:
    """The browser is opened again, and all its tabs ask at once."""

    def plan(world: World) -> Plan:
        browser = world.browser(world.person(), age=AWAY, remember=True)
        return Plan({task: world.request(browser) for task in tasks}, lambda: check_returned(world, browser, *tasks))

    return plan


return_ended_by = partial(ended_by, age=AWAY, remember=True)


def return_and_password_change(world: World) -> Plan:
    """The password is changed, by the app, while the user comes back."""
    user = world.person()
    browser = world.browser(user, age=AWAY, remember=True)

    async def change() -> None:
        await world.auth.update_account(user, {"password": "battery staple"})
        await world.returned(lambda: check_dead(world))

    def check() -> None:
        check_dead(world)
        check_records(world, 0)

    return Plan({"return": world.request(browser), "change": change()}, check)


def foreign_change(*tasks: str, **fields: Any) -> Callable[[World], Plan]:
    """Something else than powauth changes the password, or locks the user. Whoever comes back after that is nobody."""

    def plan(world: World) -> Plan:
        user = world.person()
        browser = world.browser(user, age=AWAY, remember=True)

        async def change() -> None:
            await world.users.update(user.id, fields, trusted=True)

        def check() -> None:
            changed = world.when("change", "users.update")
            late = all(world.history.index((task, "get")) > changed for task in tasks)
            refused = [task for task in tasks if world.when(task, "users.get") > changed]
            for task in tasks if late else refused:
                world.expect(world.response(task).user is None, f"{task} came back after the change")
            if late or refused:
                check_dead(world)
                check_records(world, 0)
            else:
                check_returned(world, browser, *tasks)

        return Plan({**{task: world.request(browser) for task in tasks}, "change": change()}, check)

    return plan


def return_and_update(world: World) -> Plan:
    user = world.person()
    browser = world.browser(user, age=AWAY, remember=True)

    def check() -> None:
        check_identities(world, "second")
        check_returned(world, browser, "return")

    return Plan({"return": world.request(browser), "update": update(world, user, "second")}, check)


def step_up(age: float, *, leaving: bool = False) -> Callable[[World], Plan]:
    """The user enters the password again in one tab, while the other renews the session, or comes back.

    With ``leaving`` a third one signs out. It ends the session that it presents, and not the one of the step-up.
    """

    def plan(world: World) -> Plan:
        browser = world.browser(world.person(), age=age, remember=True)
        before = browser.id

        async def again(auth: Auth) -> None:
            await sign_in()(auth)
            await world.returned(lambda: check_records(world, 1))

        def check() -> None:
            new = world.response("step-up").sent
            world.expect(new and world.who(new), "the step-up does not hold")
            check_dead(world, new)
            check_records(world, 1)
            if world.response("other").sent is None and not leaving:
                check_stepped_up(world, browser, before)

        tasks = {"other": world.request(browser), "step-up": world.request(browser, again)}
        return Plan({**tasks, "out": world.request(browser, sign_out)} if leaving else tasks, check)

    return plan


def restored_backup(world: World) -> Plan:
    """A copy of the browser from before its last renewals comes back while the browser itself is in use: reuse."""
    browser = world.browser(world.person(), age=RENEWAL, remember=True)
    backup = Browser("backup", browser.id)
    for _ in range(2):
        drive(world.request(browser))
        world.clock.advance(AWAY)

    def check() -> None:
        world.expect(world.response("backup").user is None, "the backup opened the session")
        world.expect(world.response("backup").sent is None, "the backup got an id")
        check_dead(world)
        check_records(world, 0)

    return Plan({"use": world.request(browser), "backup": world.request(backup)}, check)


# A browser and a program


def as_program(auth: Auth) -> Awaitable[object]:
    return auth.sign_in({"email": "ann@example.org", "password": PASSWORD}, bearer=True)


def cookie_and_token(world: World) -> Plan:
    """A sign-in for a cookie and one for a token at once: each replaces what its own carrier presented."""
    user = world.person()
    browser = world.browser(user, age=60)
    program = world.browser(user, "program", bearer=True)
    before = {browser.id, program.token}

    def check() -> None:
        check_signed_in(world, browser)
        check_signed_in(world, program)
        check_dead(world, browser.id, program.token)
        world.expect(not before & {browser.id, program.token}, "an id was not replaced")
        check_records(world, 2)

    tasks = {"cookie": world.request(browser, sign_in()), "token": world.request(program, as_program)}
    return Plan(tasks, check)


def renewals_of_both(world: World) -> Plan:
    """One client that holds a cookie and a token: the token counts, and the cookie's session stays as it is."""
    user = world.person()
    browser = world.browser(user)
    program = world.browser(user, "program", age=STALE, bearer=True)

    def check() -> None:
        for task in ("one", "two", "cookie"):
            world.expect(world.response(task).user is not None, f"{task} was refused")
        tokens = {world.response(task).token for task in ("one", "two")} - {None}
        world.expect(len(tokens) == 1, f"{len(tokens)} tokens were sent instead of one")
        world.expect(all(world.response(task).sent is None for task in ("one", "two")), "a program got a cookie")
        world.expect(world.response("cookie").token is None, "a browser got a token")
        check_signed_in(world, browser)
        check_signed_in(world, program)
        check_records(world, 2)

    tasks = {"one": world.request(program), "two": world.request(program), "cookie": world.request(browser)}
    return Plan(tasks, check)


def program_signs_out(world: World) -> Plan:
    """A program renews and signs out. The user's browser stays signed in."""
    user = world.person()
    browser = world.browser(user)
    program = world.browser(user, "program", age=STALE, bearer=True)

    async def out(auth: Auth) -> None:
        await auth.sign_out()
        await world.returned(lambda: check_records(world, 1))

    def check() -> None:
        check_signed_in(world, browser)
        check_dead(world, browser.id)
        world.expect(world.who(program.token) is None, "the program is signed in again")
        check_records(world, 1)

    return Plan({"renewal": world.request(program), "sign-out": world.request(program, out)}, check)


def program_changes_its_password(world: World) -> Plan:
    """A program changes the password while another request of it renews: it gets one token, and no cookie."""
    user = world.person()
    browser = world.browser(user)
    program = world.browser(user, "program", age=STALE, bearer=True)

    async def change(auth: Auth) -> None:
        await auth.update_user({"current_password": PASSWORD, "password": "battery staple"})
        await world.returned(lambda: check_records(world, 1))

    def check() -> None:
        response = world.response("change")
        world.expect(response.error is None, "the change was refused")
        world.expect(response.sent is None and response.token, "the program got no token")
        world.expect(world.who(response.token), "the new token does not work")
        world.expect(world.who(browser.id) is None, "the browser is signed in after the change")
        check_dead(world, response.token)
        check_records(world, 1)

    return Plan({"renewal": world.request(program), "change": world.request(program, change)}, check)


def two_carriers_in_one_request(ended_by_token: bool) -> Callable[[World], Plan]:
    """One request signs in twice, once for each carrier, while a revocation of everything is under way."""

    def plan(world: World) -> Plan:
        user = world.person()
        browser, other = world.browser(user, age=60), Browser("other")

        async def twice(auth: Auth) -> None:
            for bearer in (not ended_by_token, ended_by_token):
                await auth.sign_in({"email": "ann@example.org", "password": PASSWORD}, bearer=bearer)
            await world.returned(lambda: check_records(world, 0, 1, 2))

        async def revoke(auth: Auth) -> None:
            await auth.revoke_all()

        def check() -> None:
            began = max(world.when("twice", verb) for verb in ("latest_epoch", "epoch"))
            alive = began > world.when("revoke", "delete_owner")
            check_records(world, int(alive))
            check_dead(world, *((other.id, other.token) if alive else ()))
            response = world.response("twice")
            sent = response.token if ended_by_token else response.sent
            world.expect((response.sent is None) is ended_by_token, "both ids were sent")
            world.expect((world.who(sent) is not None) is alive, "the second sign-in does not hold")

        return Plan({"twice": world.request(other, twice), "revoke": world.request(browser, revoke)}, check)

    return plan


# Extensions


class Pass(Extension[Me]):
    """Signs in whoever takes the one pass of a user, once, as a link in a mail does.

    A pass is a record with the user's proof, so a change of the user voids it wherever it was made.
    """

    name: ClassVar[str] = "pass"
    parts: Parts[Me]

    def bind(self, parts: Parts[Me]) -> Self:
        bound = copy(self)
        bound.parts = parts
        return bound

    def _owner(self, key: Key) -> bytes:
        return make_owner(f"{self.parts.namespace}.{self.name}", key_text(stored_key(key)))

    def _record(self, key: Key, proof: bytes) -> Record:
        now, owner = self.parts.now(), self._owner(key)
        name = make_key(f"{self.parts.namespace}.{self.name}", shard_of(owner) + b"the pass")
        return Record(name, owner, 0, now, now + 3_600_000, proof)

    async def issue(self, account: Account[Me]) -> None:
        """Make a user's pass."""
        assert await self.parts.backend.create(self._record(account.key, account.proof), None, self.parts.now())

    async def take(self, auth: Auth, key: Key) -> None:
        """Sign in with a pass. The return value of ``delete`` decides who wins."""
        name, now = self._record(key, b"").key, self.parts.now()
        account, found = await self.parts.users.get(key), await self.parts.backend.get(name, now)
        if account is None or found is None or found.value != account.proof:
            return
        if await self.parts.backend.delete(name, now):
            await auth.auth.do_create(auth.connection, account, Grant(same_proof=True))

    async def credentials_changed(self, key: Key, why: str) -> None:
        del why
        await self.parts.backend.delete_owner(self._owner(key), self.parts.now())


PASSES: Mapping[str, Any] = {"extensions": [Pass()]}


def a_pass(world: World) -> tuple[User, Browser, Pass]:
    """A user, a browser of theirs, and a pass that nobody has taken."""
    user, passes = world.person(), world.auth.extension(Pass)
    browser = world.browser(user, age=60)
    drive(passes.issue(account_of(user)))
    return user, browser, passes


def pass_and_change(change: Callable[[World, User], Awaitable[object]]) -> Callable[[World], Plan]:
    """A pass is taken while the user's credentials change: no session of it is left, and the pass is void."""

    def plan(world: World) -> Plan:
        user, browser, passes = a_pass(world)
        other, later = Browser("other"), Browser("later")

        async def end() -> None:
            await change(world, user)
            await world.returned(lambda: check_dead(world))

        def check() -> None:
            drive(world.request(later, lambda auth: passes.take(auth, user.id)))
            world.expect(later.id is None, "the pass is still good")
            check_dead(world)
            world.expect(world.who(browser.id) is None, "the user's own browser is signed in")
            check_records(world, 0)

        return Plan({"pass": world.request(other, lambda auth: passes.take(auth, user.id)), "end": end()}, check)

    return plan


def pass_taken_twice(world: World) -> Plan:
    user, _, passes = a_pass(world)
    browsers = {name: Browser(name) for name in ("one", "two")}

    def check() -> None:
        world.expect(sum(each.id is not None for each in browsers.values()) == 1, "a pass was good for not exactly one")
        check_records(world, 2)

    take = lambda auth: passes.take(auth, user.id)  # noqa: E731
    return Plan({name: world.request(browser, take) for name, browser in browsers.items()}, check)


async def change_password(world: World, user: User) -> object:
    return await world.auth.update_account(user, {"password": "battery staple"})


# The scenarios

REMEMBERED_SCENARIOS = {
    scenario.name: scenario
    for scenario in [
        Scenario("two returns", returns("one", "two"), REMEMBERED),
        Scenario("three returns", returns("one", "two", "three"), REMEMBERED, reduced=True),
        Scenario("return and sign-out", return_ended_by(sign_out), REMEMBERED),
        Scenario(
            "two returns and sign-out",
            ended_by(sign_out, renewing=2, age=AWAY, remember=True),
            REMEMBERED,
            reduced=True,
        ),
        Scenario(
            "return and revoke-all",
            ended_by(lambda auth: auth.revoke_all(), age=AWAY, remember=True),
            REMEMBERED,
            reduced=True,
        ),
        Scenario(
            "two returns and revoke-all",
            return_ended_by(lambda auth: auth.revoke_all(), renewing=2),
            REMEMBERED,
            reduced=True,
        ),
        Scenario("return and password change", return_and_password_change, REMEMBERED),
        Scenario(
            "two returns and a foreign password change",
            foreign_change("one", "two", password="battery"),
            REMEMBERED,  # not reduced: the check compares the places of a `get` and the change, which do not conflict
        ),
        Scenario("return and a foreign lock", foreign_change("one", locked=True), REMEMBERED),
        Scenario("return and user update", return_and_update, REMEMBERED, reduced=True),
        Scenario("step-up and renewal", step_up(STALE), REMEMBERED, reduced=True),
        Scenario("step-up and return", step_up(AWAY), REMEMBERED, reduced=True),
        Scenario("step-up, return and sign-out", step_up(AWAY, leaving=True), REMEMBERED, reduced=True),
        Scenario("a restored backup and the browser itself", restored_backup, REMEMBERED),
        Scenario("a cookie and a token at once", cookie_and_token, PROGRAMS, reduced=True),
        Scenario("two renewals of a token and a request with a cookie", renewals_of_both, PROGRAMS, reduced=True),
        Scenario("a program's renewal and sign-out", program_signs_out, PROGRAMS),
        Scenario("a program's renewal and password change", program_changes_its_password, PROGRAMS, reduced=True),
        Scenario("cookie, token, and revoke-all", two_carriers_in_one_request(True), PROGRAMS, reduced=True),
        Scenario("token, cookie, and revoke-all", two_carriers_in_one_request(False), PROGRAMS | AGAIN, reduced=True),
        Scenario("sign-in and deletion, with an extension", sign_in_and_end_of(delete_account), PASSES),
        Scenario("sign-in and password change, with an extension", sign_in_and_password_change, PASSES, reduced=True),
        Scenario("a pass and a change of password", pass_and_change(change_password), PASSES, reduced=True),
        Scenario("a pass and deletion", pass_and_change(delete_account), PASSES, reduced=True),
        Scenario("a pass taken twice", pass_taken_twice, PASSES, reduced=True),
    ]
}

ALL = {**SCENARIOS, **REMEMBERED_SCENARIOS}
"""Every scenario."""
