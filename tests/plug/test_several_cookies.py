"""Several values under one name: row 13 of the table "The life of a session".

A change of the cookie's ``domain`` or ``path`` leaves browsers with two cookies of one name, and they send both.
"""

import itertools

import msgspec
import pytest

from harness.visits import HOUR, MINUTE, PASSWORD, Client, SmallApp
from powauth import CredentialsCache, StoreUnavailable
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend

ADA = "ada@example.org"

FORGED = "A" * 72

MAX_READS = 8
"""The most records that one request waits for."""


def an_app(*, reload: bool = False) -> SmallApp:
    return SmallApp(store=CredentialsCache(MemoryBackend(), reload=reload))


def value_of(client: Client) -> str:
    assert client.cookie is not None
    return client.cookie


def ended(app: SmallApp) -> str:
    """An id whose session has ended."""
    client = app.client()
    client.sign_in()
    value = value_of(client)
    client.send(lambda auth: auth.sign_out())
    return value


def live(app: SmallApp, email: str = ADA) -> str:
    client = app.client()
    client.sign_in(email)
    return value_of(client)


def presenting(app: SmallApp, *values: str) -> Client:
    client = app.client()
    client.set_cookie(values[0])
    client.leftovers = list(values[1:])
    return client


@pytest.mark.parametrize("reload", [False, True])
def test_row_13_of_several_values_the_one_counts_whose_session_is_live(reload: bool) -> None:
    app = an_app(reload=reload)
    values = [live(app), ended(app), FORGED]
    for order in itertools.permutations(values):
        client = presenting(app, *order)
        assert client.who() == ADA
        assert client.who() == ADA  # and once more, when the record has been seen
    assert "conflicting_ids" not in app.event_names


@pytest.mark.parametrize("reload", [False, True])
def test_row_13_two_live_sessions_are_nobodys_and_an_event(reload: bool) -> None:
    app = an_app(reload=reload)
    app.users.add("bob@example.org", PASSWORD)
    one, two = live(app), live(app, "bob@example.org")
    for order in ((one, two), (two, one)):
        reply = presenting(app, *order).send()
        assert (reply.user, reply.cookie) == (None, None)
    assert app.event_names.count("conflicting_ids") == 2
    assert presenting(app, one).who() == ADA  # neither has ended
    assert presenting(app, two).who() == "bob@example.org"


def test_row_13_values_of_which_none_is_an_id_are_nobodys() -> None:
    app = an_app()
    assert presenting(app, FORGED, "B" * 72, "x", "").who() is None
    assert app.event_names == ["conflicting_ids"]


def test_row_13_values_whose_sessions_have_all_ended_are_nobodys() -> None:
    app = an_app()
    client = presenting(app, ended(app), ended(app))
    app.events.clear()
    assert client.who() is None
    assert app.event_names == ["unknown_id", "unknown_id"]


def test_row_13_of_two_ids_of_one_session_the_later_counts_and_the_earlier_is_no_reuse() -> None:
    app = an_app()
    client = app.client()
    client.sign_in()
    first = value_of(client)
    app.clock.advance(20 * MINUTE)
    client.send()
    client.send()
    app.clock.advance(MINUTE)
    second = value_of(client)
    for order in ((first, second), (second, first)):
        assert presenting(app, *order).who() == ADA
    assert "reuse_detected" not in app.event_names


def test_row_13_the_live_one_is_renewed_as_if_it_came_alone() -> None:
    app = an_app()
    client = presenting(app, live(app), ended(app))
    before = client.cookie
    app.clock.advance(20 * MINUTE)
    assert client.who() == ADA
    assert client.cookie != before
    assert client.who() == ADA


def test_row_13_a_user_who_is_gone_is_not_live() -> None:
    app = an_app(reload=True)
    bob = app.users.add("bob@example.org", PASSWORD)
    client = presenting(app, live(app, "bob@example.org"), live(app))
    del app.users.rows[bob.id]
    assert client.who() == ADA


def test_row_13_a_record_that_cannot_be_read_counts_as_absent() -> None:
    app = an_app()
    broken = live(app)
    backend = app.auth.store.backend
    record = drive(backend.get(app.auth.store.key(app.stored()[0].session.sid), app.auth.now()))
    whole = live(app)
    assert record is not None
    garbage = msgspec.structs.replace(record, value=b"garbage", version=record.version + 1)
    assert drive(backend.update(garbage, record.version, app.auth.now()))
    assert len(app.stored()) == 1
    assert presenting(app, broken, whole).who() == presenting(app, whole, broken).who() == ADA
    assert "unreadable_record" in app.event_names


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_row_13_in_an_outage_nobody_can_tell(order: tuple[int, int]) -> None:
    app = SmallApp()
    values = [live(app), ended(app)]
    client = presenting(app, *(values[place] for place in order))
    app.backend.fail["get"] = StoreUnavailable("down")
    assert client.send(lambda auth: auth.require_user()).status == 503
    app.backend.fail.clear()
    assert client.who() == ADA


def test_row_13_so_many_values_cost_no_more_than_a_few_reads() -> None:
    app = SmallApp()
    values = [ended(app) for _ in range(MAX_READS + 5)]
    client = presenting(app, *values)

    async def wait(verb: str) -> None:
        """Let no read be done in place."""

    app.backend.before = wait
    with app.backend.counting() as verbs:
        assert client.who() is None
    assert verbs == ["get"] * MAX_READS


def test_rep_43_a_changed_path_of_the_cookie_signs_nobody_out_for_ever() -> None:
    app = an_app()
    client = presenting(app, ended(app), ended(app))
    assert client.who() is None
    client.sign_in()
    assert client.who() == ADA
    client.send(lambda auth: auth.sign_out())
    assert client.who() is None
    client.sign_in()
    assert client.who() == ADA
    app.clock.advance(HOUR)
    assert client.who() is None


def test_rep_43_signing_out_ends_the_session_of_the_value_that_counts() -> None:
    app = an_app()
    value = live(app)
    client = presenting(app, ended(app), value)
    assert client.who() == ADA
    assert client.send(lambda auth: auth.sign_out()).max_age == 0
    assert presenting(app, value).who() is None
    assert app.stored() == []


def test_several_values_are_presented_to_a_handshake() -> None:
    app = an_app()
    assert app.auth.is_presented(presenting(app, FORGED, "B" * 72).begin().auth.connection)
