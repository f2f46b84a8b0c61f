"""The account suite of the demo: all extensions in both apps, and the administrator's page."""

import itertools
import sqlite3
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pyotp
import pytest
from demo.config import make_auth, prepare, settings
from sqlalchemy import NullPool, create_engine

from harness.authenticator import Authenticator
from harness.demo_support import Demo
from harness.smtp import Server, smtp_server
from powauth.backends.base import drive

PASSWORD, NEW_PASSWORD = "nine grey herons wade", "ten grey herons wade"
MAX = "max@example.org"
"""Stands for the address of a user to whom nothing may happen."""
ADA = "ada@example.org"
"""The first user, and so the administrator."""


_HOSTS = itertools.count(1)


def program() -> httpx.Client:
    """A client with an address of its own, because the demo limits the mail that one address may ask for."""
    transport = httpx.HTTPTransport(local_address=f"127.0.1.{next(_HOSTS)}")
    return httpx.Client(transport=transport, headers={"accept": "application/json"})


def port_of(app: str) -> str:
    return app.rpartition(":")[2]


@pytest.fixture(scope="module")
def mail() -> Iterator[Server]:
    with smtp_server() as server:
        yield server


@pytest.fixture(scope="module")
def demo(mail: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    running = Demo(tmp_path_factory.mktemp("demo") / "data", WORKERS="1", SMTP=f"127.0.0.1:{mail.port}")
    with program() as first:
        assert register(first, running.urls[0], ADA).status_code == 201
    yield running
    running.stop()


@pytest.fixture(scope="module", params=[0, 1], ids=["fastapi", "flask"])
def app(demo: Demo, request: pytest.FixtureRequest) -> str:
    return demo.urls[request.param]


@pytest.fixture
def mia(app: str) -> str:
    return f"mia{port_of(app)}@example.org"


@pytest.fixture
def browser() -> Iterator[httpx.Client]:
    with program() as client:
        yield client


@pytest.fixture(scope="module")
def administrator(app: str) -> Iterator[httpx.Client]:
    with program() as client:
        assert sign_in(client, app, ADA).status_code == 200
        yield client


@pytest.fixture(scope="module")
def max_(app: str) -> str:
    """A user to whom nothing may happen."""
    email = f"max{port_of(app)}@example.org"
    with program() as client:
        assert register(client, app, email).status_code == 201
    return email


def register(browser: httpx.Client, app: str, email: str, **more: Any) -> httpx.Response:
    return browser.post(f"{app}/registration", json={"email": email, "password": PASSWORD, **more})


def sign_in(browser: httpx.Client, app: str, email: str, password: str = PASSWORD, **more: Any) -> httpx.Response:
    return browser.post(f"{app}/login", json={"email": email, "password": password, **more})


def test_a_registration_signs_in_and_the_address_is_confirmed_by_mail(
    app: str, browser: httpx.Client, mail: Server, mia: str
) -> None:
    assert register(browser, app, mia).status_code == 201
    assert browser.get(f"{app}/session").status_code == 200
    confirmed = browser.post(f"{app}/confirm-email", json={"token": mail.link(mia, "/confirm-email")})
    assert (confirmed.status_code, confirmed.json()) == (200, {"email": mia})


def test_a_new_address_waits_for_the_link_in_the_mail_to_it(app: str, browser: httpx.Client, mail: Server) -> None:
    before, after = f"old{len(mail.messages)}@example.org", f"new{len(mail.messages)}@example.org"
    register(browser, app, before)
    change = {"email": after, "current_password": PASSWORD}
    waiting = browser.patch(f"{app}/registration", json=change)
    assert (waiting.status_code, waiting.json()) == (202, {"accepted": "mail_sent"})
    assert browser.get(f"{app}/session").json()["user"]["email"] == before
    done = browser.post(f"{app}/confirm-email/change", json={"token": mail.link(after, "/confirm-email/change")})
    assert done.status_code == 200
    assert browser.get(f"{app}/session").json()["user"]["email"] == after


def test_a_session_is_remembered_if_the_sign_in_asks_for_it(app: str, browser: httpx.Client) -> None:
    for asked in (True, False):
        done = sign_in(browser, app, ADA, remember=asked)
        assert done.json()["session"]["remembered"] is asked
        assert ("max-age" in done.headers["set-cookie"].lower()) is asked


def test_a_breached_password_is_refused_without_a_network(app: str, browser: httpx.Client) -> None:
    refused = register(browser, app, "leo@example.org", password="correct horse battery staple")
    assert (refused.status_code, refused.json()) == (
        422,
        {"errors": {"password": ["has appeared in a data breach"]}},
    )


def test_nobody_registers_as_administrator(app: str, browser: httpx.Client) -> None:
    register(browser, app, f"eve{port_of(app)}@example.org", administrator=True)
    assert browser.get(f"{app}/session").status_code == 200
    page = browser.get(f"{app}/account", headers={"accept": "text/html"})
    assert "/account/activity" in page.text
    for path in ("/administration", "/account/invitations"):
        assert browser.get(f"{app}{path}").status_code == 403
        assert path not in page.text


def test_the_administrator_locks_and_unlocks_a_user_and_reads_the_audit_log(
    app: str, administrator: httpx.Client, browser: httpx.Client
) -> None:
    email = f"leo{port_of(app)}@example.org"
    register(browser, app, email)
    page = administrator.get(f"{app}/account", headers={"accept": "text/html"})
    assert {"/administration", "/account/invitations"} <= set(page.text.split('"'))
    lock = {"action": "lock", "email": email, "until": "day"}
    assert administrator.post(f"{app}/administration", json=lock).status_code == 204
    assert browser.get(f"{app}/session").status_code == 401
    assert sign_in(browser, app, email).status_code == 401
    users = {each["email"]: each["active"] for each in administrator.get(f"{app}/administration").json()["users"]}
    assert (users[email], users[ADA]) == (False, True)
    assert administrator.post(f"{app}/administration", json={**lock, "action": "unlock"}).status_code == 204
    assert sign_in(browser, app, email).status_code == 200
    shown = ""
    deadline = time.monotonic() + 30
    while f"account_unlocked: {email}" not in shown:  # entries are written in the background
        assert time.monotonic() < deadline, shown
        shown = administrator.get(f"{app}/administration", headers={"accept": "text/html"}).text
    assert f"registered: {email}" in shown
    assert f"account_locked: {email}, by {ADA}" in shown
    log = [each["event"] for each in administrator.get(f"{app}/administration").json()["log"]]
    assert log.index("account_unlocked") < log.index("account_locked"), "the newest entry comes first"


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"action": "lock", "email": ADA}, "email"),
        ({"action": "lock", "email": "nobody@example.org"}, "email"),
        ({"action": "lock", "email": ["x"]}, "email"),
        ({"action": "delete", "email": "leo@example.org"}, "action"),
        ({"action": ["lock"], "email": "leo@example.org"}, "action"),
        ({"email": "leo@example.org"}, "action"),
        ({"action": "lock", "email": MAX, "until": "never"}, "until"),
        ({"action": "lock", "email": MAX, "until": 1}, "until"),
        ({"action": "lock", "email": MAX, "reason": "x" * 300}, "locked_reason"),
    ],
)
def test_a_wrong_change_is_refused_and_changes_nothing(
    app: str, administrator: httpx.Client, max_: str, fields: dict[str, Any], wrong: str
) -> None:
    fields = {name: max_ if value == MAX else value for name, value in fields.items()}
    refused = administrator.post(f"{app}/administration", json=fields)
    assert (refused.status_code, list(refused.json()["errors"])) == (422, [wrong])
    if all(isinstance(value, str) for value in fields.values()):
        origin = {"origin": app, "accept": "text/html"}
        page = administrator.post(f"{app}/administration", data=fields, headers=origin)
        assert (page.status_code, 'role="alert"' in page.text) == (422, True)
    assert all(each["active"] for each in administrator.get(f"{app}/administration").json()["users"])


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "same-site", "origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {},
    ],
)
def test_no_other_site_makes_the_administrator_lock_somebody(
    app: str, administrator: httpx.Client, max_: str, headers: dict[str, str]
) -> None:
    form = {"action": "lock", "email": max_}
    refused = administrator.post(f"{app}/administration", data=form, headers=headers)
    assert refused.status_code == 403
    assert administrator.get(f"{app}/administration?action=lock&email={max_}").status_code == 200
    users = {each["email"]: each["active"] for each in administrator.get(f"{app}/administration").json()["users"]}
    assert users[max_]


def test_the_administrator_invites_somebody(
    app: str, administrator: httpx.Client, browser: httpx.Client, mail: Server
) -> None:
    email = f"ivy{port_of(app)}@example.org"
    assert administrator.post(f"{app}/account/invitations", json={"email": email}).status_code == 201
    new = {"token": mail.link(email, "/invitation"), "password": PASSWORD}
    assert browser.post(f"{app}/invitation", json=new).status_code == 201
    assert browser.get(f"{app}/session").json()["user"]["email"] == email
    assert browser.get(f"{app}/administration").status_code == 403


def test_a_key_of_one_app_is_taken_by_the_other(demo: Demo, app: str, browser: httpx.Client) -> None:
    register(browser, app, f"pat{port_of(app)}@example.org")
    key = browser.post(f"{app}/account/keys", json={"name": "curl", "scopes": ["profile"]}).json()["key"]
    other = next(each for each in demo.urls if each != app)
    with program() as client:
        client.headers["authorization"] = f"Bearer {key}"
        found = client.get(f"{other}/session")
        assert (found.status_code, found.json()["session"]) == (200, None)
        deletion = client.request("DELETE", f"{other}/registration", json={"current_password": PASSWORD})
        assert deletion.status_code == 403
        assert client.get(f"{other}/sessions").status_code == 403
    assert browser.get(f"{app}/session").status_code == 200


def test_a_second_factor_is_asked_for_once_it_is_on(app: str, browser: httpx.Client) -> None:
    email = f"tim{port_of(app)}@example.org"
    register(browser, app, email)
    begun = browser.post(f"{app}/account/factors/totp", json={"action": "begin"}).json()
    codes, now = pyotp.parse_uri(begun["uri"]), time.time()
    assert isinstance(codes, pyotp.TOTP)
    on = browser.post(f"{app}/account/factors/totp", json={"action": "confirm", "code": codes.at(now)})
    assert on.status_code == 201, on.text
    with program() as client:
        asked = client.post(f"{app}/session", json={"email": email, "password": PASSWORD})
        assert (asked.status_code, asked.json()["error"]) == (401, "second_factor_required")
        assert client.get(f"{app}/session").status_code == 401
        answer = {"factor": "totp", "code": codes.at(now + codes.interval)}  # each code is good for one use
        assert client.post(f"{app}/login/factor", json=answer).status_code == 200
        assert client.get(f"{app}/session").json()["user"]["email"] == email


def test_the_administrator_removes_the_second_factors_of_a_user(
    app: str, administrator: httpx.Client, browser: httpx.Client
) -> None:
    email = f"ben{port_of(app)}@example.org"
    register(browser, app, email)
    begun = browser.post(f"{app}/account/factors/totp", json={"action": "begin"}).json()
    codes = pyotp.parse_uri(begun["uri"])
    assert isinstance(codes, pyotp.TOTP)
    code = codes.at(time.time())
    assert browser.post(f"{app}/account/factors/totp", json={"action": "confirm", "code": code}).status_code == 201
    reset = {"action": "reset_factors", "email": email}
    assert browser.post(f"{app}/administration", json=reset).status_code == 403
    page = administrator.get(f"{app}/administration", headers={"accept": "text/html"})
    assert f"Remove second factors of {email}" in page.text
    assert administrator.post(f"{app}/administration", json=reset).status_code == 204
    assert browser.get(f"{app}/session").status_code == 401
    assert sign_in(browser, app, email).status_code == 200
    assert browser.get(f"{app}/account/factors").json() == {"factors": []}


def test_a_passkey_of_one_app_works_on_both_and_nowhere_else(demo: Demo, app: str) -> None:
    one = demo.public_urls[demo.urls.index(app)]
    other = next(each for each in demo.public_urls if each != one)
    device = Authenticator(one)
    with program() as client:
        register(client, one, f"zoe{port_of(app)}@example.org")
        options = client.post(f"{one}/account/passkeys", json={"action": "options"}).json()["publicKey"]
        assert options["rp"] == {"id": "localhost", "name": "powauth demo"}
        added = {"action": "add", "credential": device.create(options)}
        assert client.post(f"{one}/account/passkeys", json=added).status_code == 201
        page = client.get(f"{one}/account", headers={"accept": "text/html"}).text
        assert {"/account/passkeys", "/account/factors"} <= set(page.split('"'))
    for origin, status in ((other, 200), ("http://localhost:1", 401), ("http://127.0.0.1", 401), (one, 200)):
        with program() as client:
            options = client.post(f"{other}/login/passkey", json={"action": "options"}).json()["publicKey"]
            credential = device.get(options, origin=origin)
            done = client.post(f"{other}/login/passkey", json={"credential": credential})
            assert done.status_code == status, done.text


def test_the_guide_leads_browsers_to_localhost(demo: Demo) -> None:
    printed = demo.log.read_text()
    assert all(url in printed for url in demo.public_urls)


def test_users_see_their_own_activity_and_nobody_elses(app: str, browser: httpx.Client) -> None:
    register(browser, app, f"kim{port_of(app)}@example.org")
    seen: list[str] = []
    deadline = time.monotonic() + 30
    while "signed_in" not in seen:  # the entry is written in the background
        assert time.monotonic() < deadline, seen
        seen = [each["event"] for each in browser.get(f"{app}/account/activity").json()["activity"]]
    assert seen == ["signed_in", "registered"]


def test_an_older_demos_users_get_the_new_columns_and_an_administrator_is_appointed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POWAUTH_DEMO_DATA", str(tmp_path))
    monkeypatch.setattr("demo.config.create_engine", partial(create_engine, poolclass=NullPool))  # nothing stays open
    with sqlite3.connect(tmp_path / "users.sqlite3") as users:
        users.execute(
            "CREATE TABLE users (id CHAR(32) PRIMARY KEY, email VARCHAR(254) UNIQUE, password_hash VARCHAR(255),"
            " created_at DATETIME, updated_at DATETIME)"
        )
        day = "2030-01-01 00:00:00"
        users.execute("INSERT INTO users VALUES (?, 'old@example.org', NULL, ?, ?)", ("0" * 32, day, day))
    users.close()
    prepare(settings())
    monkeypatch.setenv("POWAUTH_DEMO_ADMINISTRATOR", "OLD@example.org")
    prepare(settings())
    auth = make_auth(asynchronous=False)
    old = drive(auth.users.find("old@example.org"))
    assert old is not None
    assert old.identity.administrator
    assert not drive(auth.create_account(email="next@example.org", password=PASSWORD)).administrator
    drive(auth.aclose())
    monkeypatch.setenv("POWAUTH_DEMO_ADMINISTRATOR", "nobody@example.org")
    with pytest.warns(UserWarning, match="nobody has registered with nobody@example.org"):
        prepare(settings())
