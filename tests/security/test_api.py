"""API-03, API-04: tokens of programs, which are bearer sessions. The token is access token and renewal token in one.

A token in use is replaced by its successor. The one before is accepted only as long as the client may not have the
successor, and for the grace after that, and leads to the same successor. Later use of it is reuse, which ends the
session.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from harness.visits import DAY, HOUR, MINUTE, PASSWORD, Auth, Client, SmallApp
from powauth import AnyOf, BearerCarrier, CookieCarrier, CredentialsCache, Remember
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend

ADA = "ada@example.org"


def an_app(**options: Any) -> SmallApp:
    return SmallApp(carrier=AnyOf(CookieCarrier(), BearerCarrier()), **options)


def a_program(app: SmallApp, **options: Any) -> Client:
    client = app.client()

    async def work(auth: Auth) -> str:
        assert await auth.sign_in(email=ADA, password=PASSWORD, bearer=True, **options) is not None
        return auth.access_token

    client.token = client.send(work).result
    return client


def test_api_03_of_twenty_renewals_at_once_one_wins_and_all_get_its_token() -> None:
    app = an_app()
    client = a_program(app)
    old = client.token
    app.clock.advance(20 * MINUTE)
    copies = [client.copy() for _ in range(20)]
    with ThreadPoolExecutor(20) as pool:
        users = list(pool.map(lambda copy: copy.send().user, copies))
    assert all(users)
    (renewed,) = {copy.token for copy in copies}
    assert renewed != old
    assert app.event_names.count("renewed") == 1
    assert len(app.stored()) == 1


def test_api_03_every_order_of_two_renewals_leads_to_one_token() -> None:
    """Both requests have read the record before either of them renews."""
    app = an_app()
    client = a_program(app)
    app.clock.advance(20 * MINUTE)
    one, other = client.copy(), client.copy()
    first, second = one.begin(), other.begin()
    second.answer()
    first.answer()
    assert one.token == other.token != client.token
    assert app.event_names.count("renewed") == 1


@pytest.mark.parametrize("who_is_late", ["the thief", "the program"])
def test_api_03_a_token_that_is_used_again_after_its_renewal_ends_the_whole_session(who_is_late: str) -> None:
    app = an_app()
    program = a_program(app)
    thief = program.copy()
    early, late = (program, thief) if who_is_late == "the thief" else (thief, program)
    app.clock.advance(20 * MINUTE)
    early.send()
    early.send()  # presents the successor: from now on the token before is old
    app.clock.advance(MINUTE)
    assert late.who() is None
    assert early.who() is None
    assert app.stored() == []
    assert "reuse_detected" in app.event_names


def test_api_03_a_token_before_the_last_renewal_is_dead_even_if_reuse_only_refuses() -> None:
    app = an_app(on_reuse="reject")
    client = a_program(app)
    old = client.copy()
    app.clock.advance(20 * MINUTE)
    client.send()
    client.send()
    app.clock.advance(MINUTE)
    assert old.who() is None
    assert client.who() == ADA


def test_api_03_a_response_that_was_lost_costs_nothing() -> None:
    app = an_app()
    client = a_program(app)
    app.clock.advance(20 * MINUTE)
    assert client.send(lost=True).user is not None
    app.clock.advance(5 * MINUTE)
    assert client.who() == ADA
    assert app.event_names.count("reuse_detected") == 0


ENDS: dict[str, Callable[[SmallApp], object]] = {
    "a lock": lambda app: drive(app.auth.update_account(app.ada, locked=True)),
    "a deletion": lambda app: drive(app.auth.delete_account(app.ada)),
    "a new password": lambda app: drive(app.auth.update_account(app.ada, password="staple battery")),
    "a revocation": lambda app: drive(app.auth.revoke_user(app.ada)),
}


@pytest.mark.parametrize("due", [False, True])
@pytest.mark.parametrize("end", ENDS)
def test_api_04_no_token_outlives_the_account_nor_is_renewed_after_it(end: str, due: bool) -> None:
    app = an_app(remember=Remember())
    programs = [a_program(app), a_program(app, remember=True)]
    if due:
        app.clock.advance(20 * MINUTE)
    ENDS[end](app)
    assert [program.who() for program in programs] == [None, None]
    assert "renewed" not in app.event_names


@pytest.mark.parametrize("end", ["a lock", "a deletion", "a new password"])
def test_api_04_a_change_that_powauth_does_not_see_ends_it_with_reload(end: str) -> None:
    """Another program changes the users. The proof then differs."""
    changes: dict[str, Callable[[SmallApp], object]] = {
        "a lock": lambda app: drive(app.users.update(app.ada.id, {"locked": True}, trusted=True)),
        "a deletion": lambda app: drive(app.users.delete(app.ada.id)),
        "a new password": lambda app: drive(app.users.update(app.ada.id, {"password": "staple"}, trusted=True)),
    }
    app = an_app(store=CredentialsCache(MemoryBackend(), reload=True))
    program = a_program(app)
    app.clock.advance(20 * MINUTE)
    changes[end](app)
    assert program.who() is None
    assert "renewed" not in app.event_names


def test_api_04_a_token_ends_when_it_is_idle_too_long() -> None:
    app = an_app()
    program = a_program(app)
    app.clock.advance(31 * MINUTE)
    assert program.who() is None


@pytest.mark.parametrize(("remember", "longest"), [(False, 12 * HOUR), (True, 90 * DAY)])
def test_api_04_a_token_ends_at_its_longest_life_however_busy_it_is(remember: bool, longest: float) -> None:
    app = an_app(remember=Remember())
    program = a_program(app, remember=remember)
    step = longest / 60
    for _ in range(59):
        app.clock.advance(step)
        assert program.who() == ADA
    app.clock.advance(step)
    assert program.who() is None
