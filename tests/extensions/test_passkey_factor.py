"""Passkeys as second factors: after a password, for a step-up, and in the list of factors."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from harness.authenticator import USER_PRESENT, Authenticator
from harness.factors import WORD, Words
from harness.passkey_sites import ADA, EVE, MODELS, ORIGIN, PasskeyRow, PasskeySite, Person, Program, device
from harness.support import SECRET, FakeConnection, Kind
from harness.users_databases import PASSWORD, blocking_engine, cheap_hasher
from powauth import AnyOf, BearerCarrier, ConfigError, CookieCarrier, MoreNeeded, RequestAuth, SessionAuth
from powauth.accounts.sqlalchemy import SQLAlchemyUsers
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.extensions.passkeys import Passkeys
from powauth.extensions.second_factor import SecondFactor
from powauth.testing import MemoryMailer
from powauth.testing.extension.suite import BreakableBackend

FACTOR = "/login/factor"


def factored(
    kind: Kind, engine: sa.Engine, mailer: MemoryMailer | None = None, *, members: bool = True, **options: Any
) -> PasskeySite:
    factor = Passkeys[Any](engine, PasskeyRow, mailer=mailer).factor()
    return PasskeySite(kind, engine, [SecondFactor[Any](factor, **options)], {"mailer": mailer}, members=members)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    with blocking_engine("sqlite", str(tmp_path), *MODELS) as made:
        yield made


@pytest.fixture(params=["asgi", "wsgi"])
def site(request: pytest.FixtureRequest, engine: sa.Engine) -> PasskeySite:
    return factored(request.param, engine)


def half_way(site: PasskeySite, email: str = ADA) -> Program:
    """A client that has given the right password, and is asked for the passkey."""
    browser = site.program()
    answer = browser.post("/login", email=email, password=PASSWORD)
    assert (answer.status_code, answer.json()["error"]) == (401, "second_factor_required")
    assert answer.json()["factors"] == ["passkey"]
    assert browser.who() is None
    return browser


def options(browser: Program) -> dict[str, Any]:
    answer = browser.post(FACTOR, action="options")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["options"]["passkey"]
    return found


def test_a_passkey_as_a_factor_needs_the_extension(engine: sa.Engine) -> None:
    factors = SecondFactor[Any](Passkeys[Any](engine, PasskeyRow).factor(), required=True)
    users: SQLAlchemyUsers[Any, Any] = SQLAlchemyUsers(engine, Person, hasher=cheap_hasher())
    with pytest.raises(ConfigError, match=r"^this SecondFactor needs Passkeys: give extensions the Passkeys, too$"):
        SessionAuth(secret_key=SECRET, users=users, backend="memory://", public_url=ORIGIN, extensions=[factors])


def test_a_passkey_after_a_password(site: PasskeySite) -> None:
    key = device(site)
    browser = half_way(site)
    asked = options(browser)
    assert [each["type"] for each in asked["allowCredentials"]] == ["public-key"]
    answer = browser.post(FACTOR, factor="passkey", credential=key.get(asked, user_handle=None))
    assert (answer.status_code, answer.json()["user"]["email"]) == (200, ADA)
    assert browser.who() == ADA
    assert site.names()[-1] == ("passkey_used", "second_factor")
    assert [row.last_used_at is not None for row in site.rows()] == [True]


@pytest.mark.parametrize("path", ["/account/passkeys", "/account/factors"])
@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_a_removal_on_either_page_ends_other_sessions_and_mails_one_notice(
    engine: sa.Engine, kind: Kind, path: str
) -> None:
    mailer = MemoryMailer()
    passkeys = Passkeys[Any](engine, PasskeyRow)
    site = PasskeySite(kind, engine, [SecondFactor[Any](passkeys.factor(), mailer=mailer)])
    key = device(site)
    owner, elsewhere = site.program(), site.program()
    for each in (owner, elsewhere):
        assert each.use(key).status_code == 200
    begun = half_way(site)
    asked = options(begun)
    name = owner.passkeys()[0]["id"]
    assert owner.post(path, action="remove", factor="passkey", id=name).status_code == 204
    assert (owner.who(), elsewhere.who()) == (ADA, None)
    answer = begun.post(FACTOR, factor="passkey", credential=key.get(asked))
    assert (answer.status_code, answer.json()["error"]) == (403, "challenge_invalid")
    drive(site.auth.aclose())
    assert [message["Subject"] for message in mailer.messages] == ["A second factor was removed from your account"]


def test_mfa_an_answer_in_flight_does_not_survive_the_removal_of_the_passkey(engine: sa.Engine) -> None:
    """The owner removes the lost passkey at any step of the thief's answer, and keeps another one."""
    backend = BreakableBackend(MemoryBackend())
    factor = Passkeys[Any](engine, PasskeyRow).factor()
    site = PasskeySite("wsgi", engine, [SecondFactor[Any](factor)], backend=backend)
    kept, owner = device(site), site.program()
    assert owner.use(kept).status_code == 200
    for step in range(60):
        lost = Authenticator(ORIGIN)
        added = owner.add(lost)
        assert added.status_code == 201, added.text
        thief, removed = half_way(site), list[int]()
        credential = lost.get(options(thief))

        async def remove(name: object = added.json()["id"], removed: list[int] = removed) -> None:
            removed.append(owner.remove(name).status_code)

        backend.run_before(step, remove)
        answer = thief.post(FACTOR, factor="passkey", credential=credential)
        backend.run_before(0, remove)
        if step == 0:
            assert (answer.status_code, thief.who(), owner.who()) == (200, ADA, ADA)
            drive(remove())
        if step > 0 and not removed:  # the answer has fewer steps than that
            assert step > 5
            return
        assert (step, removed, thief.who(), owner.who()) == (step, [204], None, ADA)
    pytest.fail("the answer has more steps than this test tries")


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_a_program_with_a_bearer_token_answers_with_a_passkey_and_begins_no_other_ceremony(
    engine: sa.Engine, kind: Kind
) -> None:
    factor = Passkeys[Any](engine, PasskeyRow).factor()
    site = PasskeySite(kind, engine, [SecondFactor[Any](factor)], carrier=AnyOf(CookieCarrier(), BearerCarrier()))
    key = device(site)
    connection = FakeConnection()
    drive(site.auth.call(connection))
    bound: RequestAuth[Any, Any] = RequestAuth(site.auth, connection)
    with pytest.raises(MoreNeeded) as asked:
        drive(bound.sign_in({"email": ADA, "password": PASSWORD}, bearer=True))
    challenge = asked.value.challenge
    program = site.program()
    shown = program.post(FACTOR, action="options", challenge=challenge).json()["options"]["passkey"]
    done = program.post(FACTOR, factor="passkey", credential=key.get(shown), challenge=challenge)
    assert done.status_code == 200, done.text
    assert not program.client.cookies
    program.client.headers["authorization"] = f"Bearer {done.json()['access_token']}"
    assert program.who() == ADA
    new = Authenticator(ORIGIN)
    made = new.create(program.creation_options())
    confirmed = key.get(program.options())
    program.client.cookies.clear()
    refused = program.post("/account/passkeys", action="add", credential=made)
    assert (refused.status_code, refused.json()) == (422, {"errors": {"credential": ["is invalid"]}})
    assert program.answer(confirmed).status_code == 401
    stepping = program.client.get(FACTOR).json()
    again = program.post(
        FACTOR,
        factor="passkey",
        credential=key.get(stepping["options"]["passkey"]),
        challenge=stepping["challenge"],
    )
    assert (again.status_code, "access_token" in again.json()) == (200, True)


def test_a_passkey_alone_is_two_factors(site: PasskeySite) -> None:
    key = device(site)
    browser = site.program()
    assert browser.use(key).status_code == 200
    assert browser.who() == ADA


def test_a_user_without_a_passkey_is_asked_for_none(site: PasskeySite) -> None:
    device(site)
    assert site.program().sign_in(EVE).who() == EVE


def test_the_session_that_adds_the_first_passkey_is_complete(site: PasskeySite) -> None:
    elsewhere, ada = site.program().sign_in(), site.program().sign_in()
    first, second = Authenticator(ORIGIN), Authenticator(ORIGIN)
    assert ada.add(first).status_code == 201
    assert (ada.who(), elsewhere.who()) == (ADA, None)
    assert ada.add(second).status_code == 201  # a change of factors needs a session with a factor


@pytest.mark.parametrize("fault", [{"flags": USER_PRESENT}, {"origin": "https://evil.test"}, {"challenge": "AAAA"}])
def test_a_wrong_answer_is_refused(site: PasskeySite, fault: dict[str, Any]) -> None:
    key = device(site)
    browser = half_way(site)
    answer = browser.post(FACTOR, factor="passkey", credential=key.get(options(browser), **fault))
    assert (answer.status_code, answer.json()["error"]) == (401, "second_factor_refused")
    assert browser.who() is None
    right = browser.post(FACTOR, factor="passkey", credential=key.get(options(browser)))
    assert right.status_code == 200


@pytest.mark.parametrize("credential", [1, [], {}, "x", {"response": {}}, "[" * 40_000])
def test_no_input_is_more_than_wrong(site: PasskeySite, credential: object) -> None:
    device(site)
    browser = half_way(site)
    assert browser.post(FACTOR, factor="passkey", credential=credential).status_code == 401
    for missing in ({}, {"credential": None}, {"credential": ""}):
        answer = browser.post(FACTOR, factor="passkey", **missing)
        assert (answer.status_code, answer.json()) == (422, {"errors": {"credential": ["can't be blank"]}})
    assert browser.who() is None


def test_a_passkey_of_another_user_is_no_second_factor(site: PasskeySite) -> None:
    device(site)
    eve = device(site, EVE)
    browser = half_way(site)
    asked = options(browser)
    del asked["allowCredentials"]
    assert browser.post(FACTOR, factor="passkey", credential=eve.get(asked)).status_code == 401
    assert ("passkey_refused", "passkey of another user") in site.names()


def test_an_answer_to_another_question_is_refused(site: PasskeySite) -> None:
    key = device(site)
    first, second = half_way(site), half_way(site)
    answer = key.get(options(first))
    assert second.post(FACTOR, factor="passkey", credential=answer).status_code == 401
    anonymous = key.get(site.program().options())
    assert second.post(FACTOR, factor="passkey", credential=anonymous).status_code == 401
    browser = site.program()
    browser.options()
    assert browser.answer(answer).status_code == 401  # nor is it one for the sign-in without a password
    assert first.post(FACTOR, factor="passkey", credential=answer).status_code == 200


def test_guesses_are_counted_for_the_user(site: PasskeySite) -> None:
    key = device(site)
    statuses = []
    for _ in range(6):
        browser = half_way(site)
        for _ in range(2):
            wrong = key.get(options(browser), flags=USER_PRESENT)
            statuses.append(browser.post(FACTOR, factor="passkey", credential=wrong).status_code)
    assert statuses == [401] * 10 + [429] * 2


def test_of_20_parallel_answers_one_begins_a_session(engine: sa.Engine) -> None:
    site = factored("wsgi", engine)
    key = device(site)
    browser = half_way(site)
    answer, cookies = key.get(options(browser)), dict(browser.client.cookies)

    def send() -> int:
        client = site.program()
        client.client.cookies.update(cookies)
        return client.post(FACTOR, factor="passkey", credential=answer).status_code

    with ThreadPoolExecutor(20) as pool:
        statuses = [job.result() for job in [pool.submit(send) for _ in range(20)]]
    assert statuses.count(200) == 1
    assert {*statuses} <= {200, 401, 403, 429}


def test_a_step_up(site: PasskeySite) -> None:
    key = device(site)
    browser = site.program()
    assert browser.use(key).status_code == 200
    site.clock.advance(16 * 60)
    assert browser.post("/account/passkeys", action="options").status_code == 403
    asked = browser.client.get(FACTOR).json()
    answer = browser.post(FACTOR, factor="passkey", credential=key.get(asked["options"]["passkey"]))
    assert answer.status_code == 200
    assert browser.post("/account/passkeys", action="options").status_code == 200


def test_the_list_of_factors_has_passkeys(engine: sa.Engine) -> None:
    mailer = MemoryMailer()
    site = factored("wsgi", engine, mailer)
    key = device(site)
    browser = site.program()
    assert browser.use(key).status_code == 200
    assert browser.add(Authenticator(ORIGIN)).status_code == 201
    found = browser.client.get("/account/factors").json()["factors"]
    assert [(each["factor"], each["label"]) for each in found] == [("passkey", "Firefox on Linux")] * 2
    assert [each["id"] for each in found] == [each["id"] for each in browser.passkeys()]
    gone = browser.post("/account/factors", action="remove", factor="passkey", id=found[1]["id"])
    assert gone.status_code == 204
    assert len(browser.passkeys()) == 1
    drive(site.auth.aclose())
    assert [message["Subject"].split(" to ")[0] for message in mailer.messages[-1:]] == [
        "A passkey was removed from your account at Account"
    ]


def test_the_list_of_factors_leads_to_the_passkeys(site: PasskeySite) -> None:
    ada, html = site.program().sign_in(), {"accept": "text/html"}
    page = ada.client.get("/account/factors", headers=html)
    assert '<a href="/account/passkeys/add">Add a passkey</a>' in page.text
    answer = ada.client.get("/account/passkeys/add", headers=html)
    assert (answer.status_code, answer.headers["location"]) == (303, "/account/passkeys")
    assert site.program().client.get("/account/passkeys/add").status_code == 401


def test_the_last_way_in_stays_on_both_pages(site: PasskeySite) -> None:
    key = device(site)
    site.sql(sa.update(Person).where(Person.email == ADA).values(password_hash=None))
    browser = site.program()
    assert browser.use(key).status_code == 200
    [passkey] = browser.passkeys()
    for path in ("/account/factors", "/account/passkeys"):
        answer = browser.post(path, action="remove", factor="passkey", id=passkey["id"])
        assert answer.status_code in (403, 422), answer.text
    assert len(site.rows()) == 1


def test_a_user_who_must_have_a_factor_makes_a_passkey_during_the_sign_in(engine: sa.Engine) -> None:
    site = factored("wsgi", engine, required=lambda identity: identity.email == ADA, members=False)
    for email in (ADA, EVE):
        drive(site.auth.create_account(email=email, password=PASSWORD))
    assert site.program().sign_in(EVE).who() == EVE
    browser, key = half_way(site), Authenticator(ORIGIN)
    asked = options(browser)
    assert asked["user"]["name"] == ADA
    for fault in ({"flags": USER_PRESENT}, {"challenge": "AAAA"}, {"type": "webauthn.get"}):
        wrong = Authenticator(ORIGIN).create(asked, **fault)
        assert browser.post(FACTOR, factor="passkey", credential=wrong).status_code == 401
    assert browser.post(FACTOR, factor="passkey").status_code == 422
    assert (browser.who(), site.rows()) == (None, [])
    page = browser.client.get(FACTOR, headers={"accept": "text/html"})
    assert 'data-powauth-passkey="create"' in page.text
    made = {"factor": "passkey", "credential": key.create(asked), "label": "Laptop"}
    assert browser.post(FACTOR, **made).status_code == 200
    assert browser.who() == ADA
    [row] = site.rows()
    assert (row.label, row.user_handle) == ("Laptop", key.passkeys[0].user_handle)
    assert site.names()[-1] == ("passkey_added", None)
    assert site.program().use(key).status_code == 200
    again = half_way(site)
    assert again.post(FACTOR, factor="passkey", credential=key.get(options(again))).status_code == 200


def test_a_required_factor_stays_on_both_pages(engine: sa.Engine) -> None:
    site = factored("wsgi", engine, required=True, members=False)
    drive(site.auth.create_account(email=ADA, password=PASSWORD))
    ada, key = half_way(site), Authenticator(ORIGIN)
    assert ada.post(FACTOR, factor="passkey", credential=key.create(options(ada))).status_code == 200
    [passkey] = ada.passkeys()
    for path in ("/account/factors", "/account/passkeys"):
        answer = ada.post(path, action="remove", factor="passkey", id=passkey["id"])
        assert (answer.status_code, answer.json()["error"]) == (403, "factor_required"), answer.text
    assert ada.add(Authenticator(ORIGIN)).status_code == 201
    assert ada.remove(passkey["id"]).status_code == 204


def test_a_reset_removes_all_passkeys(site: PasskeySite) -> None:
    key = device(site)
    engine = site.auth.extension(SecondFactor)
    assert drive(engine.reset(site.key())) == 1
    assert site.rows() == []
    assert site.program().use(key).status_code == 401
    assert site.program().sign_in().who() == ADA


def test_trm_03_a_deleted_user_leaves_no_passkey(site: PasskeySite) -> None:
    device(site)
    drive(site.auth.delete_account(site.key()))
    assert site.rows() == []


def test_the_page_for_people_has_the_options_in_it(site: PasskeySite) -> None:
    device(site)
    browser = half_way(site)
    page = browser.client.get(FACTOR, headers={"accept": "text/html"})
    assert page.status_code == 200
    assert "data-powauth-options=" in page.text
    assert "allowCredentials" in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]
    assert "connect-src" not in page.headers["content-security-policy"]


def test_passkeys_beside_another_factor_need_that_factor_to_be_changed(engine: sa.Engine) -> None:
    word = Words()
    site = PasskeySite("wsgi", engine, [SecondFactor[Any](word)])
    ada = site.program().sign_in()
    word.give(site.key())  # behind everybody's back: the session has not proven it
    for action in ("options", "add", "remove"):
        answer = ada.post("/account/passkeys", action=action)
        assert (answer.status_code, answer.json()["error"]) == (403, "fresh_sign_in_required")
    browser = site.program()
    assert browser.post("/login", email=ADA, password=PASSWORD).status_code == 401
    assert browser.post(FACTOR, factor="word", code=WORD).status_code == 200
    key = Authenticator(ORIGIN)
    assert browser.add(key).status_code == 201
    assert browser.remove(browser.passkeys()[0]["id"]).status_code == 204
    assert browser.add(key).status_code == 201
    assert site.program().use(key).status_code == 200  # it is two factors by itself
