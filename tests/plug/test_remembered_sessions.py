"""Remembered sessions: a longer life for a session, not a second credential.

REM-01 to REM-05 speak of "the token". Here that is the remembered session.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import msgspec
import pytest

from harness.support import cheap_hash
from harness.visits import DAY, HOUR, MINUTE, PASSWORD, Auth, Client, SmallApp
from powauth import ConfigError, Hooks, MoreNeeded, NotFresh, Remember, Step, StoreUnavailable
from powauth.backends.base import drive
from powauth.http.carriers import MAX_AGE
from powauth.http.guards import require_fresh

FRESH = timedelta(minutes=15)


def lasting(ttl: float = 30 * DAY, max_lifetime: float = 90 * DAY) -> Remember:
    """The option with times in seconds."""
    return Remember(ttl=timedelta(seconds=ttl), max_lifetime=timedelta(seconds=max_lifetime))


def remembering(ttl: float = 30 * DAY, max_lifetime: float = 90 * DAY, **options: Any) -> SmallApp:
    return SmallApp(remember=lasting(ttl, max_lifetime), **options)


def signed_in(app: SmallApp) -> Client:
    client = app.client()
    client.sign_in(remember=True)
    return client


def is_fresh(client: Client) -> bool:
    return bool(client.send(lambda auth: auth.is_fresh(FRESH)).result)


# --- the cookie -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("remember", [None, False])
def test_rem_01_without_the_box_the_cookie_goes_with_the_browser(remember: bool | None) -> None:
    app = remembering()
    client = app.client()
    assert client.sign_in(remember=remember).max_age is None
    client.close_browser()
    assert client.who() is None
    assert app.stored()[0].session.remembered is False


def test_rem_01_with_the_box_the_cookie_stays_for_thirty_days() -> None:
    client = remembering().client()
    reply = client.sign_in(remember=True)
    assert reply.max_age == 30 * DAY <= MAX_AGE
    assert reply.cookie is not None
    assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= set(reply.cookie.split("; "))
    assert reply.cookie.startswith("__Host-auth=")
    assert reply.all("cache-control") == ["no-store"]
    client.close_browser()
    assert client.who() == "ada@example.org"


def test_rem_01_each_device_has_an_id_of_its_own_which_no_record_holds() -> None:
    app = remembering()
    devices = [signed_in(app) for _ in range(3)]
    assert len({device.cookie for device in devices}) == 3
    for stored in app.stored():
        encoded = msgspec.msgpack.encode(stored.session)
        assert not any(device.cookie and device.cookie.encode() in encoded for device in devices)
    assert {len(stored.session.salt) for stored in app.stored()} == {16}  # 128 random bits


def test_the_max_age_is_the_rest_of_the_sessions_life() -> None:
    app = remembering(ttl=30 * DAY, max_lifetime=40 * DAY)
    client = signed_in(app)
    app.clock.advance(20 * DAY)
    assert client.send().max_age == 20 * DAY  # 20 of 40 are over, and 30 more would be too many
    app.clock.advance(19 * DAY)
    assert client.send().max_age == DAY


def test_the_max_age_is_at_most_400_days() -> None:
    app = remembering(ttl=500 * DAY, max_lifetime=600 * DAY)
    assert app.client().sign_in(remember=True).max_age == MAX_AGE == 400 * DAY


def test_a_registration_can_ask_to_be_remembered() -> None:
    client = remembering().client()
    reply = client.send(lambda auth: auth.register(email="bob@example.org", password=PASSWORD, remember=True))
    assert reply.max_age == 30 * DAY
    client.close_browser()
    assert client.who() == "bob@example.org"


# --- the life of the session ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("idle", [31 * MINUTE, 12 * HOUR, 20 * DAY, 30 * DAY - 1])
def test_a_remembered_user_returns_after_the_short_ttl(idle: float) -> None:
    app = remembering()
    client = signed_in(app)
    client.close_browser()
    app.clock.advance(idle)
    assert client.who() == "ada@example.org"


def test_a_session_that_is_not_remembered_ends_after_the_short_ttl() -> None:
    app = remembering()
    client = app.client()
    client.sign_in()
    app.clock.advance(31 * MINUTE)
    assert client.who() is None


def test_a_return_that_is_never_answered_is_a_return_all_the_same() -> None:
    app = remembering()
    client = signed_in(app)
    app.clock.advance(20 * DAY)
    assert client.send(lost=True).user is not None
    app.clock.advance(DAY)
    assert client.who() == "ada@example.org"  # the successor's id was lost, and is sent again
    assert client.who() == "ada@example.org"
    assert not is_fresh(client)


def test_a_restored_backup_of_the_browser_counts_as_reuse_and_costs_one_sign_in() -> None:
    app = remembering()
    client = signed_in(app)
    backup = client.copy()
    app.clock.advance(5 * DAY)
    client.send()
    assert client.who() == "ada@example.org"  # with the new id
    app.clock.advance(DAY)
    assert backup.who() is None
    assert "reuse_detected" in app.event_names
    assert client.who() is None
    client.sign_in(remember=True)
    assert client.who() == "ada@example.org"


def test_shorter_times_take_effect_at_once() -> None:
    long = remembering()
    client = signed_in(long)
    short = remembering(ttl=7 * DAY, max_lifetime=14 * DAY, backend=long.backend, users=long.users, clock=long.clock)
    long.clock.advance(8 * DAY)
    assert client.copy(short).who() is None
    assert "expired" in short.event_names


def test_a_return_within_the_short_ttl_needs_no_query() -> None:
    app = remembering()
    client = signed_in(app)
    app.users.queries = 0
    app.clock.advance(29 * MINUTE)
    assert client.who() == "ada@example.org"
    assert app.users.queries == 0


def change(app: SmallApp, **fields: Any) -> None:
    """Change the row as another program would: powauth does not hear of it."""
    app.users.rows[app.ada.id] = replace(app.ada, **fields)


def test_a_return_after_the_short_ttl_loads_the_user_once() -> None:
    app = remembering()
    client = signed_in(app)
    change(app, name="Ada L.")
    app.users.queries = 0
    app.clock.advance(2 * HOUR)
    reply = client.send()
    assert reply.user is not None
    assert reply.user.name == "Ada L."
    assert client.send().user == reply.user  # the record has the new name
    assert app.users.queries == 1


def test_an_outage_at_the_return_makes_nobody_anonymous() -> None:
    app = remembering()
    client = signed_in(app)
    app.clock.advance(2 * HOUR)
    get, app.users.get = app.users.get, _unreachable
    assert client.send(lambda auth: auth.require_user()).status == 503
    app.users.get = get
    assert client.who() == "ada@example.org"


async def _unreachable(key: object) -> None:
    raise StoreUnavailable("the database is down")


# --- once only --------------------------------------------------------------------------------------------------------


def test_rem_02_a_return_within_the_overlap_gets_the_same_successor() -> None:
    app = remembering()
    client = signed_in(app)
    other_tab = client.copy()
    app.clock.advance(5 * DAY)
    assert client.who() == "ada@example.org"
    app.clock.advance(10)
    assert other_tab.who() == "ada@example.org"
    assert other_tab.cookie == client.cookie
    assert app.stored()[0].session.generation == 1
    assert app.event_names.count("renewed") == 1


@pytest.mark.parametrize("tabs", [2, 20])
def test_rem_02_parallel_returns_have_one_successor(tabs: int) -> None:
    app = remembering()
    client = signed_in(app)
    app.clock.advance(5 * DAY)
    browsers = [client.copy() for _ in range(tabs)]
    requests = [browser.begin() for browser in browsers]
    replies = [request.answer() for request in requests]
    assert all(reply.user is not None for reply in replies)
    assert len({browser.cookie for browser in browsers}) == 1
    assert len(app.stored()) == 1
    assert app.event_names.count("renewed") == 1
    assert browsers[-1].who() == "ada@example.org"


def test_rem_02_an_old_id_ends_the_session_for_the_thief_and_for_the_user() -> None:
    app = remembering()
    client = signed_in(app)
    thief = client.copy()
    app.clock.advance(5 * DAY)
    client.send()
    assert client.who() == "ada@example.org"  # with the new id
    app.clock.advance(HOUR)
    assert thief.who() is None
    assert client.who() is None
    assert app.stored() == []
    assert [event for event in app.events if event.name == "reuse_detected"]


# --- the end ----------------------------------------------------------------------------------------------------------


def test_rem_03_no_use_carries_a_session_past_its_longest_lifetime() -> None:
    app = remembering(ttl=30 * DAY, max_lifetime=90 * DAY)
    client = signed_in(app)
    for _ in range(89):
        app.clock.advance(DAY)
        assert client.who() == "ada@example.org"
    app.clock.advance(DAY)
    assert client.who() is None


def test_rem_03_signing_out_ends_it() -> None:
    app = remembering()
    client = signed_in(app)
    stolen = client.copy()
    reply = client.send(lambda auth: auth.sign_out())
    assert reply.max_age == 0
    assert client.cookie is None
    assert stolen.who() is None


ENDS: dict[str, Callable[[SmallApp], object]] = {
    "a new password": lambda app: drive(app.auth.update_account(app.ada.id, password="staple battery")),
    "a new address": lambda app: drive(app.auth.update_account(app.ada.id, email="ada@example.com")),
    "a lock": lambda app: drive(app.auth.update_account(app.ada.id, locked=True)),
    "a deletion": lambda app: drive(app.auth.delete_account(app.ada.id)),
    "a revocation": lambda app: drive(app.auth.revoke_user(app.ada.id)),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("idle", [0, 20 * DAY])
def test_rem_03_what_changes_the_account_ends_it(end: str, idle: float) -> None:
    app = remembering()
    client = signed_in(app)
    app.clock.advance(idle)
    ENDS[end](app)
    assert client.who() is None


@pytest.mark.parametrize(
    "fields", [{"password_hash": cheap_hash("staple battery")}, {"email": "ada@example.com"}, {"locked": True}]
)
def test_rem_03_what_others_changed_in_the_table_ends_it_at_the_return(fields: dict[str, Any]) -> None:
    app = remembering()
    client = signed_in(app)
    change(app, **fields)
    app.clock.advance(2 * HOUR)
    assert client.who() is None
    assert app.stored() == []
    assert app.events[-1].name == "revoked"


@pytest.mark.parametrize("changed", [False, True])
def test_rem_03_a_request_that_lasts_past_the_short_ttl_resumes_nothing(changed: bool) -> None:
    app = remembering()
    client = signed_in(app)
    assert client.who() == "ada@example.org"
    app.clock.advance(20 * MINUTE)  # a renewal is due
    slow = client.begin()
    app.clock.advance(15 * MINUTE)
    if changed:
        app.users.rows[app.ada.id] = replace(app.ada, password_hash=cheap_hash("staple battery"))
    assert slow.answer().cookie is None, "nobody has compared the password since the session has begun to pause"
    assert client.who() == (None if changed else "ada@example.org")


def test_rem_03_a_row_that_others_deleted_ends_it_at_the_return() -> None:
    app = remembering()
    client = signed_in(app)
    app.users.rows.clear()
    app.clock.advance(2 * HOUR)
    assert client.who() is None
    assert drive(app.auth.store.count(app.auth.now())) == 0


def test_rem_03_switching_the_feature_off_ends_long_lives() -> None:
    app = remembering()
    client = signed_in(app)
    without = SmallApp(backend=app.backend, users=app.users, clock=app.clock)
    app.clock.advance(29 * MINUTE)
    young = client.copy(without)
    reply = young.send()
    assert reply.user is not None
    assert reply.max_age is None  # it lives on as any other session
    app.clock.advance(31 * MINUTE)
    assert young.who() is None


# --- the identity comes from the record -------------------------------------------------------------------------------


def test_rem_04_no_part_of_two_ids_fits_into_the_other() -> None:
    app = remembering()
    bob = app.users.add("bob@example.org", PASSWORD)
    ada, other = signed_in(app), app.client()
    other.sign_in("bob@example.org", remember=True)
    one, two = ada.cookie, other.cookie
    assert one is not None
    assert two is not None
    with app.backend.counting() as verbs:
        for cut in range(1, len(one)):
            for mixed in {one[:cut] + two[cut:], two[:cut] + one[cut:]} - {one, two}:
                ada.set_cookie(mixed)
                assert ada.who() is None
    assert verbs == []  # refused before the store is asked
    assert len(app.stored()) == len(app.stored(bob)) == 1


def test_rem_04_no_edit_of_an_id_names_anybody() -> None:
    app = remembering()
    client = signed_in(app)
    value = client.cookie
    assert value is not None
    for position, character in enumerate(value):
        client.set_cookie(value[:position] + ("A" if character != "A" else "B") + value[position + 1 :])
        assert client.who() is None
    client.set_cookie(value)
    assert client.who() == "ada@example.org"


# --- freshness --------------------------------------------------------------------------------------------------------


def test_rem_05_a_session_is_not_fresh_after_a_return() -> None:
    app = remembering()
    client = signed_in(app)
    assert is_fresh(client)
    before = client.cookie
    app.clock.advance(31 * MINUTE)
    reply = client.send(lambda auth: (require_fresh(auth, within=timedelta(days=1)), auth.is_fresh(FRESH)))
    assert isinstance(reply.result, NotFresh)
    assert reply.status == 403
    assert client.cookie not in (None, before)  # and the return has made a new id
    # The password was entered less than a day ago. The pause counts.
    assert client.send(lambda auth: auth.is_fresh(timedelta(days=1))).result is False
    assert app.stored()[0].session.resumed_at == app.auth.now()


def test_rem_05_the_password_makes_it_fresh_again_and_keeps_the_flag() -> None:
    app = remembering()
    client = signed_in(app)
    app.clock.advance(20 * DAY)
    client.send()
    before = client.cookie
    reply = client.sign_in()  # a step-up does not ask to be remembered
    assert reply.max_age == 30 * DAY
    assert client.cookie != before
    assert is_fresh(client)
    assert len(app.stored()) == 1
    assert client.send(lambda auth: auth.session.remembered if auth.session else None).result is True


def test_rem_05_the_password_at_the_return_itself_makes_it_fresh() -> None:
    app = remembering()
    client = signed_in(app)
    app.clock.advance(20 * DAY)
    assert client.sign_in().max_age == 30 * DAY
    assert is_fresh(client)


def test_rem_05_a_sign_in_can_take_the_flag_back() -> None:
    app = remembering()
    client = signed_in(app)
    assert client.sign_in(remember=False).max_age is None
    client.close_browser()
    assert client.who() is None


def test_rem_05_another_user_does_not_inherit_the_flag() -> None:
    app = remembering()
    app.users.add("bob@example.org", PASSWORD)
    client = signed_in(app)
    assert client.sign_in("bob@example.org").max_age is None
    assert app.stored() == []


def test_rem_05_a_change_of_password_keeps_the_flag_of_this_session() -> None:
    app = remembering()
    client = signed_in(app)
    before = client.cookie

    def work(auth: Auth) -> object:
        return auth.update_user(current_password=PASSWORD, password="staple battery")

    assert client.send(work).max_age == 30 * DAY
    assert client.cookie != before
    client.close_browser()
    assert client.who() == "ada@example.org"


def test_rem_05_an_id_that_was_planted_before_is_not_adopted() -> None:
    app = remembering()
    app.users.add("mallory@example.org", PASSWORD)
    attacker = app.client()
    attacker.sign_in("mallory@example.org", remember=True)
    victim = attacker.copy()
    victim.sign_in(remember=True)
    assert victim.cookie != attacker.cookie
    assert attacker.who() is None


def test_rem_05_a_pending_second_factor_is_not_skipped() -> None:
    def ask(step: Step[Any]) -> None:
        raise MoreNeeded(["code"])

    app = remembering(hooks=Hooks(before_sign_in=ask))
    client = app.client()
    reply = client.send(lambda auth: auth.sign_in(email="ada@example.org", password=PASSWORD, remember=True))
    assert reply.status == 401
    assert reply.cookie is None
    assert client.who() is None
    assert app.stored() == []


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"remember": True}, "remember must be Remember"),
        ({"remember": Remember(), "session_ttl_renewal": None}, "session_ttl_renewal"),
        ({"remember": lasting(ttl=30 * MINUTE)}, "longer than ttl"),
        ({"remember": lasting(ttl=2 * DAY, max_lifetime=DAY)}, "at least as long"),
        ({"remember": lasting(ttl=HOUR, max_lifetime=2 * HOUR)}, "at least as long"),
        ({"remember": lasting(ttl=0)}, "the ttl of remember"),
        ({"remember": lasting(max_lifetime=-1)}, "the max_lifetime of remember"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SmallApp(**options)


def test_remember_needs_the_option_and_says_so() -> None:
    client = SmallApp().client()
    with pytest.raises(ConfigError, match=r"SessionAuth\(remember=Remember\(\)\)"):
        client.send(lambda auth: auth.sign_in(email="ada@example.org", password=PASSWORD, remember=True))
    assert client.sign_in(remember=False).max_age is None


def test_the_list_of_devices_says_which_are_remembered() -> None:
    app = remembering()
    client = signed_in(app)
    app.clock.advance(1)
    app.client().sign_in()
    reply = client.send(lambda auth: auth.sessions())
    assert [info.remembered for info in reply.result] == [False, True]
