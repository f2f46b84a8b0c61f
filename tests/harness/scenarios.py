"""Plans of concurrent requests. Every order of their steps must have a correct result; see `interleavings`."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

from harness.interleavings import (
    GRACE,
    PASSWORD,
    RENEWAL,
    Browser,
    Plan,
    Response,
    Scenario,
    World,
)
from harness.support import FakeConnection, Me, User, account_of
from powauth import RequestAuth
from powauth.accounts.throttle import Limit, Throttle
from powauth.backends.base import drive
from powauth.errors import Throttled

STALE = RENEWAL + 60
"""The age of a session that is to be renewed."""

TWO_GUESSES = Throttle(per_account=Limit(2, timedelta(minutes=15)), per_source=None)

Auth = RequestAuth[User, Me]


# What requests do


def sign_in(password: str = PASSWORD) -> Callable[[Auth], Awaitable[object]]:
    return lambda auth: auth.sign_in({"email": "ann@example.org", "password": password})


def sign_out(auth: Auth) -> Awaitable[object]:
    return auth.sign_out()


# What must hold


def check_dead(world: World, *but: str | None) -> None:
    """No id that any response ever carried opens anything, save those named."""
    for value in world.ids - set(but):
        world.expect(world.who(value) is None, "an id that is to be dead opens a session")


def check_signed_in(world: World, browser: Browser) -> None:
    world.expect(world.who(browser.token or browser.id) is not None, f"{browser.name} was signed out")


def check_records(world: World, *counts: int) -> None:
    found = len(world.records())
    world.expect(found in counts, f"{found} records are left instead of {counts}")


def check_one_id(world: World, browser: Browser) -> None:
    """Once a new id has been seen, and the grace is over, it is the only one."""
    for _ in range(2):
        world.expect(drive(world.request(browser)).user is not None, f"{browser.name} was signed out")
    world.clock.advance(1.25 * GRACE + 1)
    check_signed_in(world, browser)
    check_dead(world, browser.id)


def check_renewed(world: World, browser: Browser, *tasks: str) -> None:
    """The requests were all the user's, and led to one new id, in one record."""
    for task in tasks:
        world.expect(world.response(task).user is not None, f"{task} was refused")
    sent = {world.response(task).sent for task in tasks} - {None}
    world.expect(len(sent) == 1, f"{len(sent)} ids were sent instead of one")
    check_records(world, 1)
    check_one_id(world, browser)


def names_from(world: World, written: str) -> set[str]:
    """The names that the user had from the time on when ``written`` was."""
    names = [user.name for user in world.users.written]
    return set(names[names.index(written) :])


def check_identities(world: World, written: str) -> None:
    """No session shows the user as they were before ``written`` was."""
    fresh = names_from(world, written)
    world.expect(all(user.name in fresh for user in world.identities()), "a session has an old identity")


async def update(world: World, user: User, name: str) -> None:
    await world.auth.update_account(user, {"name": name})
    await world.returned(lambda: check_identities(world, name))


# The scenarios


def renewals(*tasks: str) -> Callable[[World], Plan]:
    def plan(world: World) -> Plan:
        browser = world.browser(world.person(), age=STALE)
        return Plan({task: world.request(browser) for task in tasks}, lambda: check_renewed(world, browser, *tasks))

    return plan


def renewals_in_the_grace(world: World) -> Plan:
    """A response that takes as long as the grace signs nobody out."""
    browser = world.browser(world.person(), age=STALE)
    tasks = {"one": world.request(browser), "two": world.request(browser), "clock": world.tick(GRACE)}
    return Plan(tasks, lambda: check_renewed(world, browser, "one", "two"))


def coming_of_age(world: World) -> Plan:
    """The id becomes old enough to be renewed while one request is under way, and before or after the other is sent."""
    browser = world.browser(world.person(), age=RENEWAL - 1)

    async def sent_some_time() -> Response:
        await world.send()
        return await world.request(browser)

    def check() -> None:
        world.expect(all(world.response(task).user for task in ("one", "two")), "a request was refused")
        check_records(world, 1)
        check_one_id(world, browser)

    return Plan({"one": world.request(browser), "two": sent_some_time(), "clock": world.tick(1)}, check)


def slow_tab(world: World) -> Plan:
    """Each request renews; while a slow one is under way the other tab makes two."""
    browser = world.browser(world.person(), age=1)

    async def clicks() -> None:
        for _ in range(2):
            response = await world.request(browser)
            world.expect(response.user is not None, "a click was refused")

    def check() -> None:
        world.expect(world.response("slow").user is not None, "the slow request was refused")
        check_records(world, 1)
        check_signed_in(world, browser)

    return Plan({"slow": world.request(browser), "clicks": clicks()}, check)


def ended_by(
    handler: Callable[[Auth], Awaitable[object]], *, renewing: int = 1, age: float = STALE, **how: Any
) -> Callable[[World], Plan]:
    """Renewals, and in another tab something that ends the session."""

    def plan(world: World) -> Plan:
        browser = world.browser(world.person(), age=age, **how)
        ended: list[bool] = []

        async def end(auth: Auth) -> None:
            await handler(auth)
            ended.append(True)
            await world.returned(lambda: check_dead(world))

        def check() -> None:
            world.expect(ended, "the end was refused")
            check_dead(world)
            world.expect(world.who(browser.id) is None, "the browser is signed in again")
            check_records(world, 0)

        tasks = {f"renewal {number}": world.request(browser) for number in range(renewing)}
        return Plan({**tasks, "end": world.request(browser, end)}, check)

    return plan


def late_response(world: World) -> Plan:
    """Sign-out and a new sign-in in one tab, while the other's renewal responds, or arrives, late."""
    browser = world.browser(world.person(), age=STALE)

    async def tab() -> object:
        await world.request(browser, sign_out)
        return await world.request(browser, sign_in())

    def check() -> None:
        new = world.response("tab").sent
        world.expect(new and world.who(new), "the new sign-in does not hold")
        check_dead(world, new)
        check_records(world, 1)
        # A response that left before the sign-out, and arrives after the sign-in, does overwrite it: nobody but the
        # network can help that. One that left later does not.
        left_late = world.when("renewal", "respond") > world.when("tab", "delete")
        if left_late:
            check_signed_in(world, browser)

    return Plan({"renewal": world.request(browser), "tab": tab()}, check)


def sign_in_and_renewal(world: World) -> Plan:
    """A sign-in replaces the session that the other tab is renewing: no id of the old one outlives it."""
    browser = world.browser(world.person(), age=STALE)

    async def again(auth: Auth) -> None:
        await sign_in()(auth)
        await world.returned(lambda: check_records(world, 1))

    def check() -> None:
        new = world.response("sign-in").sent
        world.expect(new and world.who(new), "the new sign-in does not hold")
        check_dead(world, new)
        check_records(world, 1)
        if world.response("renewal").sent is None:
            check_signed_in(world, browser)

    return Plan({"renewal": world.request(browser), "sign-in": world.request(browser, again)}, check)


def two_sign_ins(world: World) -> Plan:
    """Twice the button: either answer may arrive last, and each of the two sessions is its own."""
    browser = world.browser(world.person(), age=STALE)
    before = browser.id

    def check() -> None:
        check_signed_in(world, browser)
        world.expect(world.who(before) is None, "the session from before the sign-ins is alive")
        check_dead(world, world.response("one").sent, world.response("two").sent)
        check_records(world, 2)

    return Plan({"one": world.request(browser, sign_in()), "two": world.request(browser, sign_in())}, check)


def sign_in_and_revoke_all(world: World) -> Plan:
    browser = world.browser(world.person(), age=60)
    other = Browser("other")

    async def revoke(auth: Auth) -> None:
        await auth.revoke_all()

    def check() -> None:
        began = max(world.when("sign-in", verb) for verb in ("latest_epoch", "epoch"))
        began_after = began > world.when("revoke", "delete_owner")
        check_dead(world, *([other.id] if began_after else []))
        check_records(world, int(began_after))
        if began_after:
            check_signed_in(world, other)

    return Plan({"sign-in": world.request(other, sign_in()), "revoke": world.request(browser, revoke)}, check)


def sign_in_and_revoke_everyone(*, revocations: int = 1) -> Callable[[World], Plan]:
    """A sign-in of a user who has no session yet, so that the scan does not find the user."""

    def plan(world: World) -> Plan:
        world.person()
        other = Browser("other")

        async def revoke() -> None:
            for _ in range(revocations):
                await world.auth.revoke_everyone()

        def check() -> None:
            began, begun = world.when("sign-in", "everyone"), world.when("sign-in", "create")
            if began < world.when("revoke", "revoke everyone"):
                check_dead(world)
                check_records(world, 0)
            elif begun > max(world.when("revoke", verb) for verb in ("scan", "delete_owner")):
                check_records(world, 1)
                check_signed_in(world, other)
            check_dead(world, other.id)

        return Plan({"sign-in": world.request(other, sign_in()), "revoke": revoke()}, check)

    return plan


def sign_in_and_password_change(world: World) -> Plan:
    browser = world.browser(world.person(), age=STALE)
    thief = Browser("thief")

    async def change(auth: Auth) -> None:
        await auth.update_user({"current_password": PASSWORD, "password": "battery staple"})
        await world.returned(lambda: check_records(world, 1))

    def check() -> None:
        check_signed_in(world, browser)
        check_dead(world, browser.id)
        check_records(world, 1)

    return Plan({"thief": world.request(thief, sign_in()), "change": world.request(browser, change)}, check)


def password_change_and_renewal(world: World) -> Plan:
    """A thief who is signed in renews, another signs in, while the user changes the password: both are out."""
    user = world.person()
    stolen = world.browser(user, "stolen", age=STALE)
    browser = world.browser(user)
    thief = Browser("thief")

    async def change(auth: Auth) -> None:
        await auth.update_user({"current_password": PASSWORD, "password": "battery staple"})
        await world.returned(lambda: check_records(world, 1))

    def check() -> None:
        check_signed_in(world, browser)
        check_dead(world, browser.id)
        check_records(world, 1)

    tasks = {"thief": world.request(thief, sign_in()), "renewal": world.request(stolen)}
    return Plan({**tasks, "change": world.request(browser, change)}, check)


def sign_in_and_update(world: World) -> Plan:
    user = world.person()
    browser, other = world.browser(user, age=60), Browser("other")

    def check() -> None:
        check_identities(world, "second")
        check_signed_in(world, browser)
        check_signed_in(world, other)
        check_records(world, 2)

    return Plan({"sign-in": world.request(other, sign_in()), "update": update(world, user, "second")}, check)


def renewal_and_update(world: World) -> Plan:
    user = world.person()
    browser = world.browser(user, age=STALE)

    def check() -> None:
        check_identities(world, "second")
        check_renewed(world, browser, "renewal")

    return Plan({"renewal": world.request(browser), "update": update(world, user, "second")}, check)


def sign_out_and_update(world: World) -> Plan:
    user = world.person()
    browser = world.browser(user, age=60)

    def check() -> None:
        check_dead(world)
        check_records(world, 0)

    return Plan({"sign-out": world.request(browser, sign_out), "update": update(world, user, "second")}, check)


def two_updates(world: World) -> Plan:
    user = world.person()
    browser = world.browser(user, age=60)

    def check() -> None:
        world.expect(
            [user.name for user in world.identities()] == [world.users.written[-1].name], "an old identity won"
        )
        check_signed_in(world, browser)

    return Plan({"one": update(world, user, "second"), "two": update(world, user, "third")}, check)


def two_updates_and_renewal(world: World) -> Plan:
    user = world.person()
    browser = world.browser(user, age=STALE)

    def check() -> None:
        world.expect(
            [user.name for user in world.identities()] == [world.users.written[-1].name], "an old identity won"
        )
        check_renewed(world, browser, "renewal")

    async def bare_update(name: str) -> None:
        await world.users.update(user.id, {"name": name}, trusted=True)
        await world.auth.refresh(user.id)

    tasks = {name: bare_update(name) for name in ("second", "third")}
    return Plan({**tasks, "renewal": world.request(browser)}, check)


def own_update_and_renewal(world: World) -> Plan:
    """The user's own change, which must not take the renewal's cookie away."""
    browser = world.browser(world.person(), age=STALE)

    async def change(auth: Auth) -> None:
        await auth.update_user({"current_password": PASSWORD, "name": "second"})
        await world.returned(lambda: check_identities(world, "second"))

    def check() -> None:
        check_identities(world, "second")
        check_renewed(world, browser, "renewal", "change")

    return Plan({"renewal": world.request(browser), "change": world.request(browser, change)}, check)


def revoke_others(world: World) -> Plan:
    user = world.person()
    other = world.browser(user, "other")
    browser = world.browser(user, age=STALE)

    async def revoke(auth: Auth) -> None:
        await auth.revoke_others()
        await world.returned(lambda: world.expect(world.who(other.id) is None, "the other session is alive"))

    def check() -> None:
        world.expect(world.who(other.id) is None, "the other session is alive")
        check_renewed(world, browser, "renewal", "revoke")

    return Plan({"renewal": world.request(browser), "revoke": world.request(browser, revoke)}, check)


def revoke_a_renewing_device(world: World) -> Plan:
    user = world.person()
    other = world.browser(user, "other", age=STALE)
    browser = world.browser(user)

    async def revoke(auth: Auth) -> None:
        [found] = [info for info in await auth.sessions() if not info.current]
        world.expect(await auth.revoke(found.sid), "the device had no session")
        await world.returned(lambda: world.expect(world.who(other.id) is None, "the revoked device is signed in"))

    def check() -> None:
        check_dead(world, browser.id)
        check_signed_in(world, browser)
        check_records(world, 1)

    return Plan({"renewal": world.request(other), "revoke": world.request(browser, revoke)}, check)


def sign_in_and_end_of(change: Callable[[World, User], Awaitable[object]]) -> Callable[[World], Plan]:
    """A sign-in while the account is deleted or locked: nothing of it is left when that returns."""

    def plan(world: World) -> Plan:
        user = world.person()
        world.browser(user, age=60)
        other = Browser("other")

        async def end() -> None:
            await change(world, user)
            await world.returned(lambda: check_dead(world))

        def check() -> None:
            check_dead(world)
            check_records(world, 0)

        return Plan({"sign-in": world.request(other, sign_in()), "end": end()}, check)

    return plan


def reload_and_deletion(by_powauth: bool) -> Callable[[World], Plan]:
    """With ``reload=True`` a user whom something else deletes is signed out by the next request."""

    def plan(world: World) -> Plan:
        user = world.person()
        browser = world.browser(user, age=STALE)

        async def delete() -> None:
            await (world.auth.delete_account(user) if by_powauth else world.users.delete(user.id))
            await world.returned(lambda: check_dead(world))

        def check() -> None:
            check_dead(world)
            check_records(world, 0)

        return Plan({"one": world.request(browser), "two": world.request(browser), "delete": delete()}, check)

    return plan


def metadata(*keys: str, age: float) -> Callable[[World], Plan]:
    """What an app adds to a session is not lost to a renewal, nor to another addition; nor is the renewal to it."""

    def plan(world: World) -> Plan:
        browser = world.browser(world.person(), age=age)

        def adding(key: str) -> Callable[[Auth], Awaitable[object]]:
            return lambda auth: auth.update_metadata(**{key: True})

        def check() -> None:
            found = [session.metadata for session in world.records()]
            world.expect(found == [dict.fromkeys(keys, True)], f"metadata got lost: {found}")
            if age >= RENEWAL:
                check_renewed(world, browser, "plain", *keys)
            else:
                check_one_id(world, browser)

        adds = {key: world.request(browser, adding(key)) for key in keys}
        return Plan({"plain": world.request(browser), **adds}, check)

    return plan


def parallel_sign_ins(limit: int, count: int, *, before: int = 1) -> Callable[[World], Plan]:
    """SES-11: however many sign in at once, the limit holds when each of them returns."""

    def plan(world: World) -> Plan:
        user = world.person()
        for number in range(before):
            world.browser(user, f"old {number}", age=1)
        browsers = [Browser(f"browser {number}") for number in range(count)]

        def check() -> None:
            check_records(world, min(limit, before + count))
            live = sum(world.who(browser.id) is not None for browser in browsers)
            world.expect(live == min(limit, count), f"{live} of the new ones are signed in")

        return Plan({browser.name: world.request(browser, sign_in()) for browser in browsers}, check)

    return plan


def bare_sign_ins(world: World) -> Plan:
    """SES-11 with three at once, without what is before and behind the plug's `create`."""
    user = world.person()

    def check() -> None:
        check_records(world, 1)

    return Plan(
        {name: world.auth.create(FakeConnection(), account_of(user)) for name in ("one", "two", "three")}, check
    )


def guesses(count: int, allowed: int) -> Callable[[World], Plan]:
    """However many guess at once, no more passwords are looked at than the throttle lets through."""

    def plan(world: World) -> Plan:
        world.person()
        tasks = {f"guess {number}": world.request(Browser("thief"), sign_in("wrong")) for number in range(count)}

        def check() -> None:
            looked_at = sum(verb == "users.authenticate" for _, verb in world.history)
            world.expect(looked_at == allowed, f"{looked_at} guesses were looked at")
            refused = sum(isinstance(world.response(task).error, Throttled) for task in tasks)
            world.expect(refused == count - allowed, f"{refused} guesses were refused")

        return Plan(tasks, check)

    return plan


async def delete_account(world: World, user: User) -> object:
    return await world.auth.delete_account(user)


async def lock_account(world: World, user: User) -> object:
    return await world.auth.update_account(user, {"locked": True})


AGAIN = {"reads_once": False}

SCENARIOS = {
    scenario.name: scenario
    for scenario in [
        Scenario("two renewals", renewals("one", "two")),
        Scenario("three renewals", renewals("one", "two", "three"), reduced=True),
        Scenario("two renewals, time passing in the grace", renewals_in_the_grace, reduced=True),
        Scenario("two requests, and the id comes of age", coming_of_age),
        Scenario(
            "a slow request, two quick ones, each renews", slow_tab, {"session_ttl_renewal": timedelta(0)}, reduced=True
        ),
        Scenario("renewal and sign-out", ended_by(sign_out)),
        Scenario("two renewals and sign-out", ended_by(sign_out, renewing=2), reduced=True),
        Scenario("renewal and revoke-all", ended_by(lambda auth: auth.revoke_all())),
        Scenario("two renewals and revoke-all", ended_by(lambda auth: auth.revoke_all(), renewing=2), reduced=True),
        Scenario("renewal, sign-out, sign-in, late response", late_response),
        Scenario("renewal and sign-in in one browser", sign_in_and_renewal, reduced=True),
        Scenario("two sign-ins in one browser", two_sign_ins, reduced=True),
        Scenario("sign-in and revoke-all", sign_in_and_revoke_all, reduced=True),
        Scenario("sign-in and password change", sign_in_and_password_change, reduced=True),
        Scenario("sign-in, password change, a thief's renewal", password_change_and_renewal, reduced=True),
        Scenario("sign-in and user update", sign_in_and_update, reduced=True),
        Scenario("sign-in and revoke-all, the user read again", sign_in_and_revoke_all, AGAIN, reduced=True),
        Scenario("sign-in and revoke-everyone", sign_in_and_revoke_everyone()),
        Scenario("sign-in and revoke-everyone, the user read again", sign_in_and_revoke_everyone(), AGAIN),
        Scenario("sign-in and two of revoke-everyone", sign_in_and_revoke_everyone(revocations=2), reduced=True),
        Scenario("sign-in and password change, the user read again", sign_in_and_password_change, AGAIN, reduced=True),
        Scenario(
            "sign-in, password change, a thief's renewal, the user read again",
            password_change_and_renewal,
            AGAIN,
            reduced=True,
        ),
        Scenario("sign-in and user update, the user read again", sign_in_and_update, AGAIN, reduced=True),
        Scenario("renewal and user update", renewal_and_update, reduced=True),
        Scenario("renewal and the user's own update", own_update_and_renewal, reduced=True),
        Scenario("sign-out and refresh of identities", sign_out_and_update),
        Scenario("two user updates", two_updates, reduced=True),
        Scenario("two user updates and renewal", two_updates_and_renewal, reduced=True),
        Scenario("revoke-others and renewal of the kept one", revoke_others),
        Scenario("revoke of a device and its renewal", revoke_a_renewing_device),
        Scenario("sign-in and deletion", sign_in_and_end_of(delete_account)),
        Scenario("sign-in and lock", sign_in_and_end_of(lock_account)),
        Scenario("sign-in and deletion, the user read again", sign_in_and_end_of(delete_account), AGAIN),
        Scenario("sign-in and lock, the user read again", sign_in_and_end_of(lock_account), AGAIN),
        Scenario("reload and deletion", reload_and_deletion(True), {"reload": True}, reduced=True),
        Scenario("reload and deletion by the app", reload_and_deletion(False), {"reload": True}, reduced=True),
        Scenario("metadata update and renewal", metadata("theme", age=STALE)),
        Scenario("two metadata updates and a request", metadata("theme", "tz", age=60), reduced=True),
        Scenario("two sign-ins, at most one session", parallel_sign_ins(1, 2), {"max_sessions": 1}, reduced=True),
        Scenario("three guesses, two allowed", guesses(3, 2), {"throttle": TWO_GUESSES}, reduced=True),
        Scenario("three sign-ins, at most one session", bare_sign_ins, {"max_sessions": 1}, reduced=True),
        Scenario(
            "two sign-ins, at most two sessions", parallel_sign_ins(2, 2, before=2), {"max_sessions": 2}, reduced=True
        ),
    ]
}
