"""TRM: sessions that end, and stay ended. Rows TRM-01 to TRM-05, over HTTP."""

from dataclasses import replace

import msgspec
import pytest

from harness.core_support import a_subject
from harness.fixtures import MakeApp
from harness.http_support import App
from harness.support import Browser, Me, Request
from powauth.backends.base import Millis, drive, make_owner
from powauth.backends.memory import MemoryBackend
from powauth.errors import StoreUnavailable
from powauth.sessions.ids import encode_sid
from powauth.sessions.record import new_session

RENEWAL = 900


def who(app: App, browser: Browser) -> str | None:
    response = browser.get()
    assert response.status == 200
    user: str | None = response.json()["user"]
    return user


def attributes(cookie: str) -> tuple[str, list[str]]:
    """The name of a ``Set-Cookie``, and what scopes it."""
    first, *rest = cookie.split("; ")
    return first.partition("=")[0], [part for part in rest if not part.startswith(("Max-Age", "Expires"))]


def test_trm_01_a_captured_cookie_is_dead_once_the_user_signed_out(app: App) -> None:
    browser = app.browser()
    (set_cookie,) = browser.get("/login").set_cookies
    captured = browser.copy()
    response, verbs = app.visit(browser, "/logout")
    assert verbs == ["get", "delete"]
    (cleared,) = response.set_cookies
    assert attributes(cleared) == attributes(set_cookie)
    assert "Max-Age=0" in cleared
    assert (app.count, who(app, captured)) == (0, None)


@pytest.mark.parametrize("error", [StoreUnavailable("refused"), StoreUnavailable("timed out")], ids=str)
def test_trm_01_a_refused_delete_is_an_error_with_the_cookie_cleared(app: App, error: StoreUnavailable) -> None:
    browser = app.browser()
    (set_cookie,) = browser.get("/login").set_cookies
    captured = browser.copy()
    app.backend.fail["delete"] = error
    response = browser.get("/logout")
    assert response.status == 503
    assert response.json() == {"error": "store_unavailable"}
    assert str(error).encode() not in response.body
    (cleared,) = response.set_cookies
    assert attributes(cleared) == attributes(set_cookie)
    assert browser.jar == {}
    assert app.event_names[-1] == "sign_out_failed"
    assert app.events[-1].detail == encode_sid(app.session.sid)
    app.backend.fail.clear()
    assert captured.get("/logout").status == 200
    assert app.count == 0


def test_trm_01_a_store_that_could_not_be_read_at_first_still_loses_the_record(app: App) -> None:
    browser = app.signed_in()
    app.backend.fail["get"] = StoreUnavailable("down")
    response, verbs = app.visit(browser, "/logout")
    assert (response.status, verbs) == (200, ["get", "delete"])
    assert (browser.jar, app.count) == ({}, 0)


def test_trm_01_signing_out_twice_is_no_error(app: App) -> None:
    browser = app.signed_in()
    again = browser.copy()
    assert browser.get("/logout").status == 200
    response, verbs = app.visit(again, "/logout")
    assert (response.status, verbs, again.jar) == (200, ["get"], {})


@pytest.mark.parametrize("fate", ["locked", "deleted"])
@pytest.mark.parametrize("reload", [False, True])
def test_trm_02_a_user_who_is_locked_or_deleted_is_out_at_the_next_request(
    make_app: MakeApp, fate: str, reload: bool
) -> None:
    app = make_app(reload=reload)
    browser, elsewhere = app.signed_in(), app.signed_in()
    for _ in range(3):
        app.clock.advance(RENEWAL)
        assert who(app, browser) == who(app, elsewhere) == app.user.email
    if fate == "locked":
        drive(app.auth.update_account(app.user, {"locked": True}))
    else:
        assert drive(app.auth.delete_account(app.user))
    assert (who(app, browser), who(app, elsewhere), app.count) == (None, None, 0)
    app.clock.advance(RENEWAL)
    assert (who(app, browser), app.count) == (None, 0)


def test_trm_02_with_reload_a_change_behind_powauths_back_counts_at_the_next_request(make_app: MakeApp) -> None:
    app = make_app(reload=True)
    browser = app.signed_in()
    app.users.rows[app.user.id] = replace(app.user, locked=True)
    assert (who(app, browser), app.count) == (None, 0)


def test_trm_02_a_new_role_is_seen_at_the_next_request_and_survives_the_renewal(app: App) -> None:
    browser = app.signed_in()

    async def role(request: Request) -> object:
        return request.user.name

    assert app.run(browser, role)[0].json() == ""
    drive(app.auth.update_account(app.user, {"name": "admin"}))
    assert app.run(browser, role)[0].json() == "admin"
    app.clock.advance(RENEWAL)
    assert app.run(browser, role)[0].json() == "admin"
    assert app.session.generation == 1
    assert app.run(browser, role)[0].json() == "admin"


def test_trm_02_a_renewal_in_flight_does_not_carry_the_old_role_on(app: App) -> None:
    browser = app.signed_in()
    app.clock.advance(RENEWAL)

    async def role(request: Request) -> object:
        return request.user.name

    app.during = lambda: drive(app.auth.update_account(app.user, {"name": "admin"}))
    assert browser.get("/slow").status == 200
    assert app.session.generation == 1
    assert msgspec.msgpack.decode(app.session.identity, type=Me).name == "admin"
    assert app.run(browser, role)[0].json() == "admin"


@pytest.mark.parametrize("when", ["epoch", "create"])
def test_trm_02_a_locked_user_cannot_sign_in_and_loses_a_sign_in_under_way(app: App, when: str) -> None:
    browser = app.browser()

    async def lock(verb: str) -> None:
        if verb == when:
            app.backend.before = None
            await app.auth.update_account(app.user, {"locked": True})

    app.backend.before = lock

    async def sign_in(request: Request) -> object:
        return await request.call("sign_in", {"email": app.user.email, "password": "correct horse"})

    for _ in range(2):
        response, _ = app.run(browser, sign_in)
        assert (response.json(), response.set_cookies, app.count) == (None, [], 0)
    assert app.event_names[-1] == "sign_in_refused"


@pytest.mark.parametrize("change", [{"password": "a new password"}, {"email": "lovelace@example.org"}], ids=str)
def test_trm_03_a_new_password_or_user_id_renews_this_session_and_ends_the_others(
    app: App, change: dict[str, str]
) -> None:
    browser, other = app.signed_in(), app.signed_in()
    old_id = app.id_of(browser)
    thief = browser.copy()

    async def update(request: Request) -> object:
        return (await request.call("update_user", {"current_password": "correct horse", **change})).email

    response, _ = app.run(browser, update)
    assert (response.status, len(response.set_cookies)) == (200, 1)
    assert app.id_of(browser) != old_id
    email = change.get("email", app.user.email)
    assert (who(app, browser), who(app, other), who(app, thief)) == (email, None, None)


def test_trm_03_a_wrong_current_password_changes_nothing(app: App) -> None:
    browser, other = app.signed_in(), app.signed_in()
    before = app.stored

    async def update(request: Request) -> object:
        return await request.call("update_user", {"current_password": "guess", "password": "a new password"})

    response, _ = app.run(browser, update)
    assert (response.status, response.json()) == (422, {"errors": {"current_password": ["is wrong"]}})
    assert response.set_cookies == []
    assert app.stored == before
    assert who(app, other) == app.user.email


def test_trm_03_a_store_out_of_reach_stops_the_change_before_it_is_made(app: App) -> None:
    browser = app.signed_in()

    async def update(request: Request) -> object:
        app.backend.fail["*"] = StoreUnavailable("down")
        return await request.call("update_user", {"current_password": "correct horse", "password": "new"})

    response, _ = app.run(browser, update)
    app.backend.fail.clear()
    assert response.status == 503
    assert app.users.rows[app.user.id] == app.user
    assert who(app, browser) == app.user.email


def test_trm_03_a_sign_in_that_checked_the_old_password_gets_no_session(app: App) -> None:
    victim, thief = app.signed_in(), app.browser()

    async def change(verb: str) -> None:
        if verb == "create":
            app.backend.before = None
            await app.auth.update_account(app.user, {"password": "a new password"})

    app.backend.before = change

    async def sign_in(request: Request) -> object:
        return await request.call("sign_in", {"email": app.user.email, "password": "correct horse"})

    response, verbs = app.run(thief, sign_in)
    assert (response.json(), response.set_cookies) == (None, [])
    assert "create" in verbs
    assert (app.count, who(app, victim), who(app, thief)) == (0, None, None)


def test_trm_04_a_reset_by_the_apps_own_code_voids_what_an_attacker_holds(app: App) -> None:
    attacker, victim = app.signed_in(), app.browser()
    drive(app.auth.update_account(app.user, {"password": "after the reset"}))
    assert (who(app, attacker), app.count) == (None, 0)

    async def sign_in(request: Request) -> object:
        user = await request.call("sign_in", {"email": app.user.email, "password": "after the reset"})
        return user.email

    assert app.run(victim, sign_in)[0].json() == app.user.email
    assert (who(app, victim), who(app, attacker)) == (app.user.email, None)


def add_sessions(app: App, user_key: str, number: int) -> None:
    now: Millis = app.auth.now()
    for _ in range(number):
        session = new_session(make_owner("credentials", user_key), a_subject(user_key), now, {})
        assert drive(app.look.create(session, drive(app.look.epoch(user_key, now)), now + 10**6, now))


def second_worker(app: App) -> App:
    """Another authenticator, as another process has it, on the same store."""
    return App(app.backend.inner, app.kind, users=app.users, clock=app.clock)


def test_trm_05_all_sessions_of_one_user_end_on_every_worker(app: App) -> None:
    browsers = [app.signed_in() for _ in range(3)]
    bystander = app.users.add("bystander@example.org")
    add_sessions(app, app.user.id, 200)
    add_sessions(app, bystander.id, 3)
    worker = second_worker(app)
    assert drive(worker.auth.revoke_user(app.user)) == 203
    assert app.stored == []
    assert app.count == 3
    for browser in browsers:
        for other in (app, worker):
            assert who(other, Browser(other.app, other.kind, browser.jar)) is None


def test_trm_05_all_sessions_of_everyone_end(app: App) -> None:
    browser = app.signed_in()
    users = 1_000 if isinstance(app.backend.inner, MemoryBackend) else 60  # LMDB's writes wait for the disk
    for number in range(users):
        add_sessions(app, f"user-{number}", 10)
    assert app.count == 10 * users + 1
    assert drive(app.auth.revoke_everyone()) == 10 * users + 1
    assert (app.count, who(app, browser)) == (0, None)


def test_trm_05_a_crash_half_way_leaves_whole_users_and_the_rest_to_the_next_run(app: App) -> None:
    browser = app.signed_in()
    for number in range(20):
        add_sessions(app, f"user-{number}", 5)
    done = 0

    async def crash(verb: str) -> None:
        nonlocal done
        done += verb == "delete_owner"
        if done == 8:
            raise StoreUnavailable("killed")

    app.backend.before = crash
    with pytest.raises(StoreUnavailable):
        drive(app.auth.revoke_everyone())
    keys = [f"user-{number}" for number in range(20)]
    assert {len(drive(app.look.sessions(key, app.auth.now()))) for key in keys} == {0, 5}
    app.backend.before = None
    left = app.count
    assert drive(app.auth.revoke_everyone()) == left
    assert (app.count, who(app, browser)) == (0, None)
