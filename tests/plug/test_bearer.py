"""Bearer sessions: an id in ``Authorization: Bearer pow_<id>``, beside the cookie of browsers."""

from typing import Any

import pytest

from harness.visits import DAY, HOUR, MINUTE, PASSWORD, Auth, Client, Reply, SmallApp
from powauth import (
    AnyOf,
    BearerCarrier,
    ConfigError,
    CookieCarrier,
    CredentialsCache,
    CrossSiteRequest,
    FrameworkSessionCarrier,
    Remember,
    StoreUnavailable,
)
from powauth.backends.base import drive
from powauth.http.guards import require_same_origin

ADA = "ada@example.org"


def both(**options: Any) -> SmallApp:
    return SmallApp(carrier=AnyOf(CookieCarrier(), BearerCarrier()), **options)


async def sign_in_for_a_token(auth: Auth) -> str:
    assert await auth.sign_in(email=ADA, password=PASSWORD, bearer=True) is not None
    return auth.access_token


def with_token(app: SmallApp) -> Client:
    client = app.client()
    client.token = client.send(sign_in_for_a_token).result
    return client


def token_headers(reply: Reply) -> list[str]:
    return reply.all("powauth-token")


# --- signing in -------------------------------------------------------------------------------------------------------


def test_a_program_gets_a_token_and_no_cookie() -> None:
    app = both()
    client = app.client()
    reply = client.send(sign_in_for_a_token)
    token = reply.result
    assert token.startswith("pow_")
    assert reply.cookie is None
    assert token_headers(reply) == [token]
    assert reply.all("cache-control") == ["no-store"]
    client.token = token
    assert client.who() == ADA


def test_a_browser_gets_a_cookie_and_no_token() -> None:
    client = both().client()
    reply = client.sign_in()
    assert reply.cookie is not None
    assert token_headers(reply) == []
    assert client.who() == ADA


def test_a_registration_can_ask_for_a_token() -> None:
    client = both().client()

    async def work(auth: Auth) -> str:
        await auth.register(email="bob@example.org", password=PASSWORD, bearer=True)
        return auth.access_token

    client.token = client.send(work).result
    assert client.who() == "bob@example.org"


def test_an_app_that_has_proven_the_user_itself_can_ask_for_a_token() -> None:
    app = both()
    client = app.client()

    async def work(auth: Auth) -> str:
        await auth.sign_in_user(app.ada.id, bearer=True)
        return auth.access_token

    client.token = client.send(work).result
    assert client.who() == ADA


def test_the_token_is_for_the_body_of_the_response_that_began_its_session() -> None:
    client = with_token(both())
    with pytest.raises(ConfigError, match="began in this request"):
        client.send(lambda auth: auth.access_token)


@pytest.mark.parametrize("when", ["at the sign-in", "later"])
def test_no_token_shows_what_the_cookie_hides_from_scripts(when: str) -> None:
    client = both().client()

    async def work(auth: Auth) -> str:
        await auth.sign_in(email=ADA, password=PASSWORD)
        return auth.access_token

    if when == "later":
        client.sign_in()
    with pytest.raises(ConfigError, match="bearer=True"):
        client.send(work if when == "at the sign-in" else lambda auth: auth.access_token)


def test_nobody_has_no_token() -> None:
    with pytest.raises(ConfigError, match="bearer=True"):
        both().client().send(lambda auth: auth.access_token)


def test_a_token_needs_a_carrier_for_it() -> None:
    client = SmallApp().client()
    with pytest.raises(ConfigError, match=r"AnyOf\(CookieCarrier\(\), BearerCarrier\(\)\)"):
        client.send(sign_in_for_a_token)


def test_an_app_for_programs_alone_needs_no_cookie() -> None:
    app = SmallApp(carrier=BearerCarrier(header="X-Token", prefix="acme_"))
    client = app.client()
    reply = client.sign_in()  # there is one carrier, so nothing else can be meant
    assert reply.cookie is None
    (client.token,) = reply.all("x-token")
    assert client.token.startswith("acme_")
    assert client.who() == ADA
    assert client.send().all("vary") == ["Authorization"]


# --- which one counts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broken", ["pow_", "pow_nothing", "edited", "ended"])
def test_of_a_cookie_and_a_token_the_token_counts_even_if_it_is_invalid(broken: str) -> None:
    app = both()
    client = app.client()
    client.sign_in()
    client.token = broken
    if broken in ("edited", "ended"):
        program = with_token(app)
        token = program.token
        assert token is not None
        if broken == "ended":
            program.send(lambda auth: auth.sign_out())
        client.token = token if broken == "ended" else token[:-1] + ("A" if token[-1] != "A" else "B")
    assert client.who() is None
    client.token = None
    assert client.who() == ADA


def test_the_token_of_another_user_counts_and_not_the_cookie() -> None:
    app = both()
    app.users.add("bob@example.org", PASSWORD)
    client = with_token(app)
    client.token, token = None, client.token
    client.sign_in("bob@example.org")
    assert client.who() == "bob@example.org"
    client.token = token
    assert client.who() == ADA


@pytest.mark.parametrize("field", ["Basic YWRhOngK", "Bearer ghp_0123456789", "Bearer", "Digest pow_x", ""])
def test_a_foreign_authorization_header_is_ignored(field: str) -> None:
    client = both().client()
    client.sign_in()
    client.headers["authorization"] = field
    assert client.who() == ADA


def test_a_list_of_credentials_is_no_token() -> None:
    """The header holds one credential (RFC 9110, 11.6.2). The first counts, and what follows it makes it invalid."""
    app = both()
    token = with_token(app).token
    program, browser = app.client(), app.client()
    browser.sign_in()
    for field, beside_a_cookie in {
        f"Basic eA==, Bearer {token}": ADA,
        f"Bearer foreign, Bearer {token}": ADA,
        f"Bearer {token}, Basic eA==": None,
        f"Bearer {token}, Bearer {token}": None,
        f"Bearer {token},": None,
    }.items():
        for client, who in ((program, None), (browser, beside_a_cookie)):
            client.headers["authorization"] = field
            assert client.who() == who, field


def test_the_id_of_a_cookie_is_no_token_and_a_token_is_no_cookie() -> None:
    app = both()
    browser, program = app.client(), with_token(app)
    browser.sign_in()
    value, token = browser.cookie, program.token
    assert value is not None
    assert token is not None
    thief = app.client()
    with app.backend.counting() as verbs:
        for taken in (value, token, token.removeprefix("pow_")):
            thief.set_cookie(taken)
            if taken is not value:
                assert thief.who() is None
        thief.cookies.clear()
        thief.token = f"pow_{value}"
        assert thief.who() is None
    assert verbs == []


# --- the life of a token ----------------------------------------------------------------------------------------------


def test_a_renewed_token_comes_in_a_header() -> None:
    app = both()
    client = with_token(app)
    before = client.token
    app.clock.advance(10 * MINUTE)
    assert token_headers(client.send()) == []
    app.clock.advance(10 * MINUTE)
    reply = client.send()
    (renewed,) = token_headers(reply)
    assert renewed == client.token != before
    assert reply.cookie is None
    assert reply.all("access-control-expose-headers") == ["Powauth-Token"]
    assert reply.all("cache-control") == ["no-store"]
    assert client.who() == ADA


def test_a_program_that_lost_the_renewed_token_gets_it_again() -> None:
    app = both()
    client = with_token(app)
    app.clock.advance(20 * MINUTE)
    assert client.send(lost=True).user is not None
    app.clock.advance(5 * MINUTE)
    assert client.who() == ADA
    assert len(app.stored()) == 1


def test_an_old_token_after_the_grace_ends_the_session() -> None:
    app = both()
    client = with_token(app)
    thief = client.copy()
    app.clock.advance(20 * MINUTE)
    client.send()
    client.send()
    app.clock.advance(MINUTE)
    assert thief.who() is None
    assert client.who() is None
    assert "reuse_detected" in app.event_names


def test_a_sign_out_takes_the_token_and_no_cookie() -> None:
    app = both()
    client = with_token(app)
    stolen = client.copy()
    reply = client.send(lambda auth: auth.sign_out())
    assert token_headers(reply) == [""]
    assert reply.cookie is None
    assert stolen.who() is None


def test_a_sign_out_in_the_request_of_the_sign_in_takes_the_token() -> None:
    app = both()
    client = app.client()

    async def work(auth: Auth) -> None:
        await sign_in_for_a_token(auth)
        await auth.sign_out()

    assert token_headers(client.send(work)) == [""]
    assert app.stored() == []


def test_a_remembered_token_lives_on_and_says_nothing_of_an_age() -> None:
    app = both(remember=Remember())
    client = app.client()

    async def work(auth: Auth) -> str:
        await auth.sign_in(email=ADA, password=PASSWORD, bearer=True, remember=True)
        return auth.access_token

    reply = client.send(work)
    client.token = reply.result
    app.clock.advance(20 * DAY)
    assert client.who() == ADA
    app.clock.advance(31 * DAY)
    assert client.who() is None


# --- side by side -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reload", [False, True])
@pytest.mark.parametrize("seen", [False, True], ids=["unseen", "seen before"])
def test_a_sign_in_replaces_only_the_session_of_the_same_carrier(reload: bool, seen: bool) -> None:
    app = both()
    app = both(store=CredentialsCache(app.backend, reload=reload), users=app.users)
    client = app.client()
    client.sign_in()
    if seen:
        assert client.who() == ADA
    token = client.send(sign_in_for_a_token).result
    assert len(app.stored()) == 2
    assert client.who() == ADA  # by the cookie
    program = app.client()
    program.token = token
    again = program.send(sign_in_for_a_token).result
    assert len(app.stored()) == 2
    assert program.who() == ADA
    assert program.token == again
    program.token = token
    assert program.who() is None  # replaced


def test_a_browser_that_presents_a_token_and_asks_for_a_cookie_keeps_the_tokens_session() -> None:
    app = both()
    client = with_token(app)
    assert client.sign_in().cookie is not None
    assert len(app.stored()) == 2
    client.token = None
    assert client.who() == ADA


def test_two_sign_ins_in_one_request_for_both_carriers() -> None:
    app = both()
    client = app.client()

    async def work(auth: Auth) -> str:
        await auth.sign_in(email=ADA, password=PASSWORD)
        return await sign_in_for_a_token(auth)

    client.token = client.send(work).result
    assert client.who() == ADA


@pytest.mark.parametrize("bearer", [False, True])
def test_a_sign_in_while_the_other_carriers_session_cannot_be_read(bearer: bool) -> None:
    app = both()
    client = app.client()
    client.sign_in()
    app.backend.fail["get"] = StoreUnavailable("down")
    reply = client.send(lambda auth: auth.sign_in(email=ADA, password=PASSWORD, bearer=bearer))
    # The session of the same carrier must end, so the sign-in needs to know it. The other's does not matter.
    assert reply.status == (200 if bearer else 503)


def test_both_are_devices_of_the_user() -> None:
    app = both()
    browser, program = app.client(), with_token(app)
    app.clock.advance(1)
    browser.sign_in()
    listed = program.send(lambda auth: auth.sessions()).result
    assert [info.current for info in listed] == [False, True]
    assert program.send(lambda auth: auth.revoke_others()).result == 1
    assert browser.who() is None
    assert program.who() == ADA


# --- the response, and other sites ------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed_in", [False, True])
def test_responses_vary_by_both(signed_in: bool) -> None:
    app = both()
    client = with_token(app) if signed_in else app.client()
    assert client.send().all("vary") == ["Cookie", "Authorization"]


def test_the_cross_site_defence_is_for_what_browsers_send_by_themselves() -> None:
    app = both()
    program, browser = with_token(app), app.client()
    browser.sign_in()

    def change(auth: Auth) -> None:
        auth.connection.method = lambda: "POST"  # type: ignore[method-assign]
        require_same_origin(auth)

    for client in (program, browser):
        client.headers["sec-fetch-site"] = "cross-site"
    assert program.send(change).status == 200
    refused = browser.send(change)
    assert refused.status == 403
    assert isinstance(refused.result, CrossSiteRequest)


def test_a_token_is_nothing_that_another_sites_page_makes_a_browser_send() -> None:
    app = both()
    program, browser, nobody = with_token(app), app.client(), app.client()
    browser.sign_in()
    assert [app.auth.is_presented(each.begin().auth.connection) for each in (program, browser, nobody)] == [
        False,
        True,
        False,
    ]


def test_a_frameworks_session_may_carry_the_other_id() -> None:
    app = SmallApp(carrier=AnyOf(FrameworkSessionCarrier(), BearerCarrier()))
    with pytest.raises(ConfigError, match="no session here"):
        app.client().send()
    client = app.client()
    client.token = "pow_"
    client.token = client.send(sign_in_for_a_token).result
    assert client.who() == ADA


def test_lasting_connections_with_a_token_are_checked_by_their_record() -> None:
    app = both()
    client = with_token(app)
    request = client.begin()
    assert drive(request.auth.recheck())
    app.clock.advance(HOUR)
    assert app.auth.is_expired(request.auth.connection)
    assert not drive(request.auth.recheck())
