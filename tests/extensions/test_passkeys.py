"""`Passkeys` over HTTP: adding, signing in, confirming, naming and removing."""

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from harness.authenticator import USER_PRESENT, USER_VERIFIED, Authenticator
from harness.passkey_sites import ADA, EVE, MODELS, ORIGIN, PasskeyRow, PasskeySite, Person, device
from harness.support import Kind
from harness.users_databases import OTHER_PASSWORD, PASSWORD, Base, blocking_engine, table_name
from powauth import ConfigError, Event, Extension, Hooks, SessionAuth, Step
from powauth.accounts.sqlalchemy import UserMixin
from powauth.accounts.throttle import Limit
from powauth.accounts.user_keys import user_key_text
from powauth.backends.base import drive
from powauth.extensions.confirm_email import ConfirmEmail, ConfirmEmailMixin
from powauth.extensions.lock import Lock
from powauth.extensions.passkeys import Passkeys, Paths
from powauth.pages import Messages
from powauth.plug.options import Remember
from powauth.testing import MemoryMailer


class Unconfirmed(ConfirmEmailMixin, UserMixin, Base):
    __tablename__ = table_name()


@pytest.fixture(params=["asgi", "wsgi"])
def kind(request: pytest.FixtureRequest) -> Kind:
    chosen: Kind = request.param
    return chosen


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    with blocking_engine("sqlite", str(tmp_path), *MODELS) as made:
        yield made


@pytest.fixture
def site(kind: Kind, engine: sa.Engine) -> PasskeySite:
    return PasskeySite(kind, engine)


# --- adding -----------------------------------------------------------------------------------------------------------


def test_a_user_adds_a_passkey_and_signs_in_with_it(site: PasskeySite) -> None:
    key = device(site)
    anybody = site.program()
    answer = anybody.use(key)
    assert (answer.status_code, answer.json()["user"]["email"]) == (200, ADA)
    assert anybody.who() == ADA
    assert site.names() == [("passkey_used", "sign_in")]
    [passkey] = anybody.passkeys()
    assert (passkey["label"], passkey["backed_up"]) == ("Firefox on Linux", True)
    assert passkey["last_used_at"] is not None


def test_a_new_passkey_is_an_event_and_a_row_and_has_a_name(site: PasskeySite) -> None:
    ada = site.program().sign_in()
    site.events.clear()
    answer = ada.add(Authenticator(ORIGIN), "  Laptop ")
    assert (answer.status_code, answer.json()["label"], answer.json()["last_used_at"]) == (201, "Laptop", None)
    assert site.names() == [("passkey_added", None)]
    assert {event.user_key for event in site.events} == {site.key()}
    [row] = site.rows()
    assert (len(row.user_handle), row.sign_count, row.transports) == (32, 0, "hybrid internal")
    assert str(row.id) == answer.json()["id"]


def test_a_user_has_one_handle_and_no_authenticator_gets_a_second_passkey(site: PasskeySite) -> None:
    first, second = Authenticator(ORIGIN), Authenticator(ORIGIN)
    ada = site.program().sign_in()
    assert [ada.add(each).status_code for each in (first, second)] == [201, 201]
    assert len({row.user_handle for row in site.rows()}) == 1
    with pytest.raises(ValueError, match="InvalidStateError"):
        ada.add(first)
    assert site.program().sign_in(EVE).add(first).status_code == 201  # of another user
    assert len({row.user_handle for row in site.rows()}) == 2
    assert [site.program().use(first, which=place).json()["user"]["email"] for place in (0, 1)] == [ADA, EVE]


def test_a_new_passkey_ends_the_other_sessions_and_renews_this_one(site: PasskeySite) -> None:
    elsewhere, ada = site.program().sign_in(), site.program().sign_in()
    before = dict(ada.client.cookies)
    assert ada.add(Authenticator(ORIGIN)).status_code == 201
    assert (elsewhere.who(), ada.who()) == (None, ADA)
    assert dict(ada.client.cookies)["__Host-auth"] != before["__Host-auth"]


def test_a_passkey_needs_a_fresh_sign_in_to_be_added_and_removed(site: PasskeySite) -> None:
    device(site)
    ada = site.program().sign_in()
    options = ada.creation_options()
    [passkey] = ada.passkeys()
    site.clock.advance(16 * 60)
    for fields in (
        {"action": "options"},
        {"action": "add", "credential": Authenticator(ORIGIN).create(options)},
        {"action": "remove", "id": passkey["id"]},
        {"action": "unknown"},
        {},
    ):
        answer = ada.post("/account/passkeys", **fields)
        assert (answer.status_code, answer.json()) == (403, {"error": "fresh_sign_in_required"})
    assert ada.post("/account/passkeys", action="rename", id=passkey["id"], label="Phone").status_code == 204
    assert [each["label"] for each in ada.passkeys()] == ["Phone"]


def test_nobody_sees_or_changes_passkeys_without_a_session(site: PasskeySite) -> None:
    device(site)
    anybody = site.program()
    assert anybody.client.get("/account/passkeys").status_code == 401
    for action in ("options", "add", "rename", "remove", None):
        answer = anybody.post("/account/passkeys", action=action)
        assert (answer.status_code, answer.json()) == (401, {"error": "not_signed_in"})
    assert len(site.rows()) == 1


def test_the_id_of_a_passkey_is_unique_across_users(site: PasskeySite) -> None:
    ada = Authenticator(ORIGIN)
    assert site.program().sign_in().add(ada, credential_id=bytes(20)).status_code == 201
    eve = Authenticator(ORIGIN)
    answer = site.program().sign_in(EVE).add(eve, credential_id=bytes(20))
    assert (answer.status_code, answer.json()) == (422, {"errors": {"credential": ["has already been registered"]}})
    assert ("passkey_refused", "registered already") in site.names()
    assert site.program().use(ada).json()["user"]["email"] == ADA
    assert site.program().use(eve).status_code == 401


@pytest.mark.parametrize("label", ["x" * 65, "a\nb", "a\u202eb", "a\0b", 1, ["x"], True, "\u200b"])
def test_a_label_is_a_short_line(site: PasskeySite, label: object) -> None:
    key = device(site)
    ada = site.program().sign_in()
    [passkey] = ada.passkeys()
    answer = ada.post("/account/passkeys", action="rename", id=passkey["id"], label=label)
    assert (answer.status_code, list(answer.json()["errors"])) == (422, ["label"])
    credential = Authenticator(ORIGIN).create(ada.creation_options())
    answer = ada.post("/account/passkeys", action="add", credential=credential, label=label)
    assert (answer.status_code, list(answer.json()["errors"])) == (422, ["label"])
    assert ada.post("/account/passkeys", action="add", credential=credential, label="Ok").status_code == 201
    assert site.program().use(key).status_code == 200


def test_the_default_label_is_made_of_the_browser_without_what_is_hidden(engine: sa.Engine) -> None:
    site = PasskeySite("asgi", engine)  # the tests' client of WSGI sends ASCII alone
    for agent, label in (("curl/8 \x9b\xad" + "x" * 90, "curl/8 " + "x" * 57), ("", "Unknown device")):
        ada = site.program().sign_in()
        ada.client.headers.encoding = "latin-1"
        ada.client.headers["user-agent"] = agent
        assert ada.add(Authenticator(ORIGIN)).json()["label"] == label


def test_a_user_has_a_limited_number_of_passkeys(kind: Kind, engine: sa.Engine) -> None:
    site = PasskeySite(kind, engine, passkeys={"most": 2})
    ada = site.program().sign_in()
    third = Authenticator(ORIGIN).create(ada.creation_options())
    assert [ada.add(Authenticator(ORIGIN)).status_code for _ in range(2)] == [201, 201]
    for answer in (
        ada.post("/account/passkeys", action="options"),
        ada.post("/account/passkeys", action="add", credential=third),
    ):
        assert (answer.status_code, answer.json()["errors"]) == (
            422,
            {"base": ["has the maximum number of passkeys: remove one first"]},
        )
    assert len(site.rows()) == 2


# --- signing in -------------------------------------------------------------------------------------------------------


def test_the_options_of_a_sign_in_are_the_same_for_everybody(site: PasskeySite) -> None:
    found = []
    for email in (ADA, EVE, "nobody@example.org", None):
        if email == ADA:
            device(site)
        answer = site.program().post("/login/passkey", action="options", email=email, username=email)
        options = answer.json()["publicKey"]
        assert len(options.pop("challenge")) == 72
        found.append((answer.status_code, options))
    assert (
        found
        == [
            (200, {"timeout": 120_000, "rpId": "app.example.test", "userVerification": "required"}),
        ]
        * 4
    )


def test_a_page_makes_no_challenge_and_sets_no_cookie(site: PasskeySite) -> None:
    backend: Any = site.auth.store.backend
    before = drive(backend.count(f"{site.auth.store.namespace}.passkeys.sign_in", 0))
    for path in ("/login", "/login/passkey", "/powauth-passkeys.js"):
        page = site.program().client.get(path, headers={"accept": "text/html"})
        assert (page.status_code, page.headers.get("set-cookie")) == (200, None)
    assert drive(backend.count(f"{site.auth.store.namespace}.passkeys.sign_in", 0)) == before == 0


def test_the_cookie_of_a_challenge_is_for_this_host_and_no_script(site: PasskeySite) -> None:
    anybody = site.program()
    answer = anybody.post("/login/passkey", action="options")
    [cookie] = answer.headers.get_list("set-cookie")
    name, _, rest = cookie.partition("=")
    assert name.startswith("__Host-")
    assert name.endswith("_passkeys")
    for part in ("Path=/", "Secure", "HttpOnly", "SameSite=Lax", "Max-Age=120"):
        assert part in rest.split("; ")
    assert "no-store" in answer.headers["cache-control"]


def test_two_tabs_of_a_browser_have_challenges_of_their_own(site: PasskeySite) -> None:
    key = device(site)
    browser = site.program()
    first, second = browser.options(), browser.options()
    assert first["challenge"] != second["challenge"]
    assert browser.answer(key.get(first)).status_code == 200
    assert browser.answer(key.get(second)).status_code == 200  # the same user confirms


def test_an_answer_is_good_in_one_browser(site: PasskeySite) -> None:
    key = device(site)
    browser, thief = site.program(), site.program()
    answer = key.get(browser.options())
    thief.options()  # a cookie of its own
    for value in (None, "x" * 32, "x", dict(thief.client.cookies)["__Host-auth_passkeys"]):
        thief.client.cookies.clear()
        if value is not None:
            thief.client.cookies.set("__Host-auth_passkeys", value, domain="app.example.test")
        assert thief.answer(answer).status_code == 401
        assert site.names()[-1] == ("passkey_refused", "challenge")
    assert browser.answer(answer).status_code == 200


def test_a_passkey_is_added_to_the_user_who_asked(site: PasskeySite) -> None:
    browser = site.program().sign_in()
    answer = Authenticator(ORIGIN).create(browser.creation_options())
    browser.post("/logout")
    browser.sign_in(EVE)
    assert browser.post("/account/passkeys", action="add", credential=answer).status_code == 422
    assert site.rows() == []


def test_a_challenge_is_good_for_two_minutes(site: PasskeySite) -> None:
    key = device(site)
    browser, late = site.program(), site.program()
    first, second = key.get(browser.options()), key.get(late.options())
    site.clock.advance(119)
    assert browser.answer(first).status_code == 200
    site.clock.advance(1)
    assert late.answer(second).status_code == 401


def test_a_passkey_proves_two_factors(kind: Kind, engine: sa.Engine) -> None:
    seen: list[Any] = []
    hooks: Hooks[Any] = Hooks(before_sign_in=lambda step: seen.append(step.grant))
    site = PasskeySite(kind, engine, hooks=hooks)
    one_device: dict[str, Any] = {"flags": USER_PRESENT | USER_VERIFIED, "counts": True}
    synced: dict[str, Any] = {}
    for options, method in ((synced, "swk"), (one_device, "hwk")):
        key = device(site, **options)
        assert {*seen[-1].amr} == {"pwd", method, "user", "mfa"}  # the session that has added it
        assert site.program().use(key).status_code == 200
        assert {*seen[-1].amr} == {method, "user", "mfa"}


def test_a_sign_in_can_be_remembered(kind: Kind, engine: sa.Engine) -> None:
    site = PasskeySite(kind, engine, remember=Remember())
    key = device(site)
    for remember, expected in ((True, True), ("true", True), (False, False), (None, False)):
        browser = site.program()
        answer = browser.answer(key.get(browser.options()), remember=remember)
        assert answer.json()["session"]["remembered"] is expected
    browser = site.program()
    assert browser.answer(key.get(browser.options()), remember="perhaps").status_code == 422


def test_a_form_signs_in_and_goes_where_it_was_asked(site: PasskeySite) -> None:
    key = device(site)
    browser = site.program()
    for target, expected in (("/shop", "/shop"), ("https://evil.test/", "/account"), (None, "/account")):
        credential = json.dumps(key.get(browser.options()))
        fields = {"credential": credential} | ({} if target is None else {"next": target})
        answer = browser.client.post(
            "/login/passkey",
            data=fields,
            headers={"accept": "text/html", "origin": ORIGIN, "sec-fetch-site": "same-origin"},
        )
        assert (answer.status_code, answer.headers["location"]) == (303, expected)
        assert browser.who() == ADA
        browser.post("/logout")
    refused = browser.client.post(
        "/login/passkey", data={"credential": ""}, headers={"accept": "text/html", "origin": ORIGIN}
    )
    assert refused.status_code == 401
    assert "That passkey was not accepted." in refused.text


def test_csr_01_other_sites_neither_ask_nor_answer(site: PasskeySite) -> None:
    key = device(site)
    browser = site.program()
    credential = key.get(browser.options())
    for fields in ({"action": "options"}, {"credential": credential}):
        answer = browser.client.post("/login/passkey", json=fields, headers={"origin": "https://evil.test"})
        assert (answer.status_code, answer.json()) == (403, {"error": "cross_site_request"})
    assert browser.answer(credential).status_code == 200


def test_a_source_gets_a_limited_number_of_challenges_and_gives_as_many_answers(kind: Kind, engine: sa.Engine) -> None:
    site = PasskeySite(kind, engine, passkeys={"per_source": Limit(3, timedelta(minutes=1))})
    browser = site.program()
    assert [browser.post("/login/passkey", action="options").status_code for _ in range(5)] == [200] * 3 + [429] * 2
    assert [browser.answer("x").status_code for _ in range(5)] == [401] * 3 + [429] * 2
    assert site.names() == [("passkey_refused", "malformed")] * 3
    assert site.program().sign_in().who() == ADA
    site.clock.advance(61)
    assert browser.post("/login/passkey", action="options").status_code == 200


def test_log_02_no_cookie_and_no_challenge_is_logged(
    kind: Kind, engine: sa.Engine, caplog: pytest.LogCaptureFixture
) -> None:
    site = PasskeySite(kind, engine)
    caplog.set_level(logging.DEBUG)
    for name in ("sqlalchemy.engine", "httpx", "httpcore"):  # they log what the tests themselves send
        caplog.set_level(logging.WARNING, name)
    key, browser = Authenticator(ORIGIN), site.program()
    ada = site.program().sign_in()
    register = ada.creation_options()
    ada.post("/account/passkeys", action="add", credential=key.create(register))
    asked = browser.options()
    browser.answer(key.get(asked, flags=USER_PRESENT))
    browser.answer(key.get(asked))
    browser.answer(key.get(asked))
    secrets = [register["challenge"], asked["challenge"], *dict(ada.client.cookies).values()]
    secrets += dict(browser.client.cookies).values()
    seen = caplog.text + repr(site.events) + repr(site.passkeys) + repr(vars(site.passkeys))
    assert {name for name, _ in site.names()} == {"passkey_added", "passkey_refused", "passkey_used"}
    assert [secret for secret in secrets if secret in seen or secret[24:] in seen] == []


# --- confirming -------------------------------------------------------------------------------------------------------


def test_a_passkey_makes_a_session_fresh_again(site: PasskeySite) -> None:
    key = device(site)
    ada = site.program().sign_in()
    site.clock.advance(16 * 60)
    assert ada.post("/account/passkeys", action="options").status_code == 403
    before = dict(ada.client.cookies)["__Host-auth"]
    options = ada.options()
    assert [each["type"] for each in options["allowCredentials"]] == ["public-key"]
    assert ada.answer(key.get(options)).status_code == 200
    assert dict(ada.client.cookies)["__Host-auth"] != before
    assert ada.post("/account/passkeys", action="options").status_code == 200
    assert ("passkey_used", "confirm") in site.names()


def test_ghsa_f66q_9rf6_8795_a_passkey_of_another_user_confirms_nothing(site: PasskeySite) -> None:
    ada, eve = device(site), device(site, EVE)
    browser = site.program().sign_in()
    site.clock.advance(16 * 60)
    options = browser.options()
    del options["allowCredentials"]  # the thief's own client
    assert browser.answer(eve.get(options)).status_code == 401
    assert ("passkey_refused", "passkey of another user") in site.names()
    assert browser.who() == ADA
    assert browser.post("/account/passkeys", action="options").status_code == 403
    assert browser.use(ada).status_code == 200
    assert browser.who() == ADA


def test_ghsa_f66q_9rf6_8795_also_with_a_challenge_from_before_the_sign_in(site: PasskeySite) -> None:
    eve = device(site, EVE)
    browser = site.program()
    options = browser.options()
    browser.sign_in()
    assert browser.answer(eve.get(options)).status_code == 401
    assert browser.who() == ADA


def test_a_challenge_of_a_user_is_good_for_this_user_alone(site: PasskeySite) -> None:
    ada, eve = device(site), device(site, EVE)
    browser = site.program().sign_in()
    options = browser.options()
    del options["allowCredentials"]
    browser.post("/logout")
    for key in (ada, eve):
        assert browser.answer(key.get(options)).status_code == 401
    browser.sign_in(EVE)
    for key in (ada, eve):
        assert browser.answer(key.get(options)).status_code == 401
    assert browser.who() == EVE


def test_a_user_without_passkeys_cannot_confirm_with_one(site: PasskeySite) -> None:
    answer = site.program().sign_in().post("/login/passkey", action="options")
    assert (answer.status_code, answer.json()) == (422, {"errors": {"base": ["has no passkey"]}})


# --- removing ---------------------------------------------------------------------------------------------------------


def test_a_removed_passkey_opens_nothing_and_ends_other_sessions(site: PasskeySite) -> None:
    key = device(site)
    ada, elsewhere = site.program().sign_in(), site.program()
    options = site.program().options()
    assert elsewhere.use(key).status_code == 200
    [passkey] = ada.passkeys()
    assert ada.remove(passkey["id"]).status_code == 204
    assert site.names()[-1] == ("passkey_removed", None)
    assert (ada.who(), elsewhere.who()) == (ADA, None)
    assert site.program().use(key).status_code == 401
    assert site.program().answer(key.get(options)).status_code == 401
    assert ada.passkeys() == []


def test_a_sign_in_in_flight_does_not_survive_the_removal(site: PasskeySite) -> None:
    key = device(site)
    passkeys = site.passkeys
    original, ada = passkeys.authentication.note, site.program().sign_in()
    [passkey] = ada.passkeys()

    async def removed_first(proof: Any) -> bool:
        await passkeys.registration.remove(None, proof.passkey.key, str(proof.passkey.id))
        return await original(proof)

    passkeys.authentication.note = removed_first  # type: ignore[method-assign]
    browser = site.program()
    answer = browser.use(key)
    passkeys.authentication.note = original  # type: ignore[method-assign]
    assert answer.status_code == 403
    assert browser.who() is None
    assert passkey["id"] not in [str(row.id) for row in site.rows()]


def test_a_removal_after_the_last_look_at_the_passkey_ends_the_sign_in_too(kind: Kind, engine: sa.Engine) -> None:
    armed: list[PasskeySite] = []

    async def remove(step: Step[Any]) -> None:
        if armed:  # the extension has noted the use of the passkey, and the session does not exist yet
            site = armed.pop()
            assert await site.passkeys.remove_all(step.key) == 1

    hook: Any = remove if kind == "asgi" else lambda step: drive(remove(step))
    site = PasskeySite(kind, engine, hooks=Hooks(before_sign_in=hook))
    key, browser = device(site), site.program()
    armed.append(site)
    assert browser.use(key).status_code == 403
    assert armed == []
    assert browser.who() is None
    assert [name for name, _ in site.names(of="signed_in")] == []


@pytest.mark.parametrize("name", [None, 1, [], "", "x", "\u0661" * 32, "{00000000-0000-0000-0000-000000000000}"])
def test_there_is_no_such_passkey(site: PasskeySite, name: object) -> None:
    device(site)
    ada = site.program().sign_in()
    for action in ("remove", "rename"):
        answer = ada.post("/account/passkeys", action=action, id=name, label="x")
        assert (answer.status_code, answer.json()) == (404, {"error": "not_found"})
    assert len(site.rows()) == 1


def test_nobody_removes_or_renames_the_passkey_of_another_user(site: PasskeySite) -> None:
    device(site)
    [row] = site.rows()
    eve = site.program().sign_in(EVE)
    assert eve.remove(str(row.id)).status_code == 404
    assert eve.post("/account/passkeys", action="rename", id=str(row.id), label="mine").status_code == 404
    assert eve.passkeys() == []
    assert [each.label for each in site.rows()] == [row.label]


def test_the_last_way_in_cannot_be_removed(site: PasskeySite) -> None:
    first, second = device(site), device(site)
    site.sql(sa.update(Person).where(Person.email == ADA).values(password_hash=None))
    ada = site.program()
    assert ada.use(first).status_code == 200
    assert ada.remove(ada.passkeys()[0]["id"]).status_code == 204
    [left] = ada.passkeys()
    answer = ada.remove(left["id"])
    message = "is the last way to sign in: set a password or add another passkey first"
    assert (answer.status_code, answer.json()) == (422, {"errors": {"base": [message]}})
    page = ada.client.post(
        "/account/passkeys",
        data={"action": "remove", "id": left["id"]},
        headers={"accept": "text/html", "origin": ORIGIN},
    )
    assert (page.status_code, "This is your last way to sign in." in page.text) == (422, True)
    assert site.program().use(second).status_code == 200
    assert ada.post("/account", password=OTHER_PASSWORD).status_code == 200  # a first password
    assert ada.remove(left["id"]).status_code == 204


def test_support_removes_all_passkeys_and_it_leaves_a_trace(site: PasskeySite) -> None:
    key = device(site)
    browser = site.program()
    assert browser.use(key).status_code == 200
    site.events.clear()
    ada, eve = drive(site.auth.users.find(ADA)), site.key(EVE)
    assert ada is not None
    assert [each.label for each in drive(site.passkeys.of_user(ada.identity))] == ["Firefox on Linux"]
    assert drive(site.passkeys.remove_all(ada.key, by=eve)) == 1
    [removed] = [event for event in site.events if event.name == "passkey_removed"]
    assert (removed.user_key, removed.actor) == (site.key(), eve)
    assert browser.who() is None
    assert site.rows() == []
    with pytest.raises(ConfigError):
        drive(site.passkeys.remove_all(object()))


# --- accounts ---------------------------------------------------------------------------------------------------------


def test_trm_02_a_locked_user_cannot_tell_the_lock_from_an_unknown_passkey(kind: Kind, engine: sa.Engine) -> None:
    site = PasskeySite(kind, engine, [Lock()])
    key = device(site)
    browser = site.program()
    options = browser.options()
    drive(site.auth.extension(Lock).lock(site.key(), "x"))
    for answer in (browser.answer(key.get(options)), site.program().use(key)):
        assert (answer.status_code, answer.json()) == (401, {"error": "invalid_passkey"})
    assert ("passkey_refused", "account") in site.names()
    drive(site.auth.extension(Lock).unlock(site.key()))
    assert site.program().use(key).status_code == 200


def test_trm_03_a_deleted_user_leaves_no_passkey(site: PasskeySite) -> None:
    keys = {email: device(site, email) for email in (ADA, EVE)}
    browser = site.program().sign_in()
    assert browser.post("/account", action="delete", current_password=PASSWORD).status_code == 204
    assert site.program().use(keys[ADA]).status_code == 401
    drive(site.auth.delete_account(drive(site.auth.users.find(EVE))))
    assert site.rows() == []
    assert site.program().use(keys[EVE]).status_code == 401


def test_a_passkey_of_a_deleted_user_is_not_one_of_a_new_user_of_the_key(site: PasskeySite) -> None:
    key = device(site)
    site.sql(sa.delete(Person).where(Person.email == ADA))  # behind everybody's back
    assert site.program().use(key).status_code == 401
    eve = site.key(EVE)
    site.sql(sa.update(PasskeyRow).values(user_key=user_key_text(eve)))  # as if Eve had got the key of Ada
    assert site.program().use(key).status_code == 401
    assert ("passkey_refused", "account") in site.names()
    assert site.program().sign_in(EVE).passkeys() == []
    assert drive(site.passkeys.of_user(eve)) == []


def test_a_new_user_gets_no_passkey_of_an_earlier_user_of_the_key(site: PasskeySite) -> None:
    device(site)
    site.sql(sa.update(PasskeyRow).values(user_created_at=None))
    keys = [row.user_key for row in site.rows()]
    drive(site.passkeys.registration.clear(site.key(EVE)))
    assert [row.user_key for row in site.rows()] == keys
    mia = site.program()
    mia.register("mia@example.org")
    assert mia.passkeys() == []


def test_trm_04_a_new_password_and_a_new_address_leave_the_passkeys(site: PasskeySite) -> None:
    key = device(site)
    ada = site.key()
    browser = site.program()
    options = browser.options()
    drive(site.auth.update_account(ada, password=OTHER_PASSWORD))
    drive(site.auth.update_account(ada, email="ada.l@example.org"))
    assert browser.answer(key.get(options)).json()["user"]["email"] == "ada.l@example.org"


def test_a_change_of_the_account_ends_what_the_user_was_asked(site: PasskeySite) -> None:
    key, ada = device(site), site.program().sign_in()
    confirm, register = ada.options(), ada.creation_options()
    drive(site.auth.update_account(drive(site.auth.users.find(ADA)), password=OTHER_PASSWORD))
    ada.post("/login", email=ADA, password=OTHER_PASSWORD)
    assert ada.who() == ADA
    assert ada.answer(key.get(confirm)).status_code == 401
    answer = ada.post("/account/passkeys", action="add", credential=Authenticator(ORIGIN).create(register))
    assert (answer.status_code, answer.json()) == (422, {"errors": {"credential": ["is invalid"]}})


def test_pwd_09_an_older_session_of_a_changed_account_adds_no_passkey(site: PasskeySite) -> None:
    thief = site.program().sign_in()
    options = thief.creation_options()
    other = sa.select(Person.password_hash).where(Person.email == EVE).scalar_subquery()
    site.sql(sa.update(Person).where(Person.email == ADA).values(password_hash=other + "x"))  # by another program
    for fields in (
        {"action": "add", "credential": Authenticator(ORIGIN).create(options)},
        {"action": "options"},
        {"action": "remove", "id": "x"},
    ):
        assert thief.post("/account/passkeys", **fields).status_code == 401
    assert site.rows() == []


def test_mails_go_to_the_user(kind: Kind, engine: sa.Engine) -> None:
    mailer = MemoryMailer()
    site = PasskeySite(kind, engine, passkeys={"mailer": mailer, "title": "Shop"})
    ada = site.program().sign_in()
    assert ada.add(Authenticator(ORIGIN), "Work <b>phone</b>").status_code == 201
    [passkey] = ada.passkeys()
    assert ada.remove(passkey["id"]).status_code == 204
    drive(site.auth.aclose())
    added, removed = mailer.messages
    assert (added["To"], removed["To"]) == (ADA, ADA)
    assert added["Subject"] == "A passkey was added to your account at Shop"
    assert removed["Subject"] == "A passkey was removed from your account at Shop"
    text, html = (part.get_content() for part in added.iter_parts())
    assert "“Work <b>phone</b>”" in text
    assert f"{ORIGIN}/account/passkeys" in text
    assert "Work &lt;b&gt;phone&lt;/b&gt;" in html


def test_aut_06_an_unconfirmed_user_is_refused_as_everywhere(kind: Kind, tmp_path: Path) -> None:
    models: Any = [Unconfirmed, PasskeyRow]
    with blocking_engine("sqlite", str(tmp_path), *models) as engine:
        confirm: ConfirmEmail[Any] = ConfirmEmail(MemoryMailer(), required=True, password="at_registration")
        site = PasskeySite(kind, engine, [confirm], model=Unconfirmed, members=False)
        drive(site.auth.create_account(email=ADA, password=PASSWORD))
        confirmed = sa.update(Unconfirmed).values(email_confirmed_at=datetime.now(UTC))
        site.sql(confirmed)
        key = device(site)
        site.sql(sa.update(Unconfirmed).values(email_confirmed_at=None))
        answer = site.program().use(key)
        assert (answer.status_code, answer.json()["error"]) == (403, "address_not_confirmed")
        site.sql(confirmed)
        assert site.program().use(key).status_code == 200
        drive(site.auth.aclose())


class Meanwhile(Extension[Any]):
    """Another program changes the password of ada as soon as a passkey was added."""

    name = "meanwhile"
    site: PasskeySite

    def on_event(self, event: Event) -> None:
        if event.name == "passkey_added":
            other = sa.select(Person.password_hash).where(Person.email == EVE).scalar_subquery()
            self.site.sql(sa.update(Person).where(Person.email == ADA).values(password_hash=other + "x"))


def test_a_passkey_that_is_added_while_the_account_changes_does_not_stay(kind: Kind, engine: sa.Engine) -> None:
    site = PasskeySite(kind, engine, [Meanwhile()])
    site.auth.extension(Meanwhile).site = site
    ada = site.program().sign_in()
    assert ada.add(Authenticator(ORIGIN)).status_code == 401
    assert site.rows() == []
    assert ada.who() is None


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"title": " "}, "title must be"),
        ({"most": 0}, "most must be"),
        ({"mailer": 1}, "mailer must be"),
        ({"per_source": 3}, "per_source"),
        ({"per_source": None}, "per_source must be a Limit"),
        ({"paths": "/x"}, "paths must be"),
        ({"mail_texts": {"x": "y"}}, "no text of Passkeys"),
        ({"origins": ["https://evil.test"]}, "browsers refuse"),
        ({"rp_id": "evil.test"}, "browsers refuse"),
        ({"mailer": MemoryMailer(), "address_field": "mail"}, "address_field"),
        ({"mailer": MemoryMailer(), "mail_templates": "/nowhere"}, "templates of mail"),
    ],
)
def test_wrong_options_fail_at_construction(engine: sa.Engine, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PasskeySite("wsgi", engine, passkeys=options)


def test_the_engine_the_model_and_the_address_of_the_site_are_checked(engine: sa.Engine) -> None:
    for arguments in ((None, PasskeyRow), (engine, Person), (engine, object), (engine, None)):
        with pytest.raises(ConfigError):
            Passkeys(*arguments)
    for url, message in ((None, "needs public_url"), ("http://127.0.0.1:8000", "IP address")):
        with pytest.raises(ConfigError, match=message):
            PasskeySite("wsgi", engine, public_url=url)


@pytest.mark.parametrize("paths", [{"sign_in": "x"}, {"script": "/a/../b"}, {"passkeys": "/login/passkey"}])
def test_the_paths_are_checked(paths: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        Paths(**paths)


def test_the_paths_and_the_texts_can_be_changed(engine: sa.Engine) -> None:
    messages = Messages(more={"passkey_action": "Mit Passkey anmelden", "passkeys_heading": "Deine Passkeys"})
    paths = Paths(passkeys="/keys", sign_in="/login/key", script="/keys.js")
    site = PasskeySite("wsgi", engine, passkeys={"paths": paths}, pages={"messages": messages})
    html = {"accept": "text/html"}
    page: httpx.Response = site.program().client.get("/login", headers=html)
    assert "Mit Passkey anmelden" in page.text
    assert '<script src="/keys.js" defer>' in page.text
    assert "Deine Passkeys" in site.program().sign_in().client.get("/keys", headers=html).text


def test_only_pages_with_passkeys_run_scripts(site: PasskeySite) -> None:
    ada, html = site.program().sign_in(), {"accept": "text/html"}
    for client, path, scripts in (
        (site.program(), "/login", True),
        (site.program(), "/login/passkey", True),
        (ada, "/account/passkeys", True),
        (ada, "/account", False),
        (ada, "/account/sessions", False),
        (site.program(), "/register", False),
    ):
        page = client.client.get(path, headers=html)
        policy = page.headers["content-security-policy"].split("; ")
        assert (page.status_code, "script-src 'self'" in policy, "<script" in page.text) == (200, scripts, scripts)
        assert ("connect-src 'self'" in policy) is scripts
        assert "default-src 'none'" in policy


def test_the_extension_is_bound_to_each_authenticator(site: PasskeySite) -> None:
    auth: SessionAuth[Any, Any] = site.auth
    assert auth.extension(Passkeys) is site.passkeys
    assert repr(site.passkeys).startswith("<powauth.extensions.passkeys")
