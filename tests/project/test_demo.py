"""The demo as people run it: real servers, two worker processes each, one browser on both apps."""

import os
import secrets
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from demo.config import prepare, settings

from harness.demo_support import Demo
from harness.engines import database
from harness.redis_servers import EXECUTABLE, MISSING, own_server
from harness.smtp import smtp_server

PASSWORD = "nine grey herons wade"
DATABASE_FILES = ("users.sqlite3", "users.sqlite3-wal", "users.sqlite3-shm")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    running = Demo(tmp_path_factory.mktemp("demo") / "data")
    yield running
    running.stop()


@pytest.fixture(params=["fastapi then flask", "flask then fastapi"])
def both(demo: Demo, request: pytest.FixtureRequest) -> tuple[str, str]:
    """The two apps' addresses, in both orders."""
    one, other = demo.urls
    return (one, other) if request.param.startswith("fastapi") else (other, one)


@pytest.fixture
def browser() -> Iterator[httpx.Client]:
    with httpx.Client(headers={"user-agent": "a test's browser"}) as client:
        yield client


def modes(folder: Path) -> dict[str, int]:
    """The modes of all that is in a folder, by path."""
    return {str(path.relative_to(folder)): path.stat().st_mode & 0o777 for path in folder.rglob("*")}


def register(browser: httpx.Client, app: str) -> str:
    email = f"{secrets.token_hex(8)}@example.org"
    response = browser.post(f"{app}/registration", json={"email": email, "password": PASSWORD})
    assert response.status_code == 201, response.text
    assert response.json()["user"]["email"] == email
    return email


def known(browser: httpx.Client, app: str) -> bool:
    return browser.get(f"{app}/session").status_code == 200


def test_signed_in_on_one_is_known_on_the_other_and_signed_out_on_one_is_gone_on_both(
    both: tuple[str, str], browser: httpx.Client
) -> None:
    one, other = both
    assert browser.get(f"{one}/session").status_code == 401
    email = register(browser, one)
    ids = {browser.get(f"{app}/session").json()["session"]["id"] for app in both for _ in range(6)}
    assert len(ids) == 1
    stolen = dict(browser.cookies)
    response = browser.delete(f"{other}/session")
    assert response.status_code == 204
    assert not browser.cookies
    assert not known(browser, one)
    assert not known(browser, other)
    with httpx.Client(cookies=stolen) as thief:
        assert not known(thief, one)
        assert not known(thief, other)
    signed_in = browser.post(f"{other}/session", json={"email": email.upper(), "password": PASSWORD})
    assert signed_in.status_code == 200
    assert signed_in.json()["user"]["email"] == email
    assert known(browser, one)


def test_wrong_credentials_are_401_and_everything_stays_as_it_was(both: tuple[str, str], browser: httpx.Client) -> None:
    one, other = both
    email = register(browser, one)
    wrong = browser.post(f"{other}/session", json={"email": email, "password": "a wrong pass phrase"})
    unknown = browser.post(f"{other}/session", json={"email": "nobody@example.org", "password": PASSWORD})
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.content == unknown.content
    assert known(browser, one)


def test_devices_are_listed_and_ended(both: tuple[str, str], browser: httpx.Client) -> None:
    one, other = both
    email = register(browser, one)
    with httpx.Client(headers={"user-agent": "a phone"}) as phone, httpx.Client() as stranger:
        assert phone.post(f"{other}/session", json={"email": email, "password": PASSWORD}).status_code == 200
        found = browser.get(f"{other}/sessions").json()["sessions"]
        assert [(session["user_agent"], session["current"]) for session in found] == [
            ("a phone", False),
            ("a test's browser", True),
        ]
        assert all(session["ip"] == "127.0.0.1" for session in found)
        assert all(session["created_at"].endswith("Z") and session["renewed_at"] for session in found)
        register(stranger, one)
        for foreign in (found[0]["id"], "A" * 24, "nonsense"):
            refused = stranger.delete(f"{other}/sessions/{foreign}")
            assert (refused.status_code, refused.json()) == (404, {"error": "not_found"})
        assert known(phone, one)
        assert browser.delete(f"{one}/sessions/{found[0]['id']}").status_code == 204
        assert not known(phone, other)
        assert phone.post(f"{one}/session", json={"email": email, "password": PASSWORD}).status_code == 200
        assert browser.delete(f"{other}/sessions").status_code == 204
        assert not known(phone, one)
        assert known(browser, one)
    assert browser.get(f"{one}/sessions").json()["sessions"][0]["current"]


def test_an_account_is_changed_and_deleted(both: tuple[str, str], browser: httpx.Client) -> None:
    one, other = both
    email = register(browser, one)
    with httpx.Client() as elsewhere:
        elsewhere.post(f"{one}/session", json={"email": email, "password": PASSWORD})
        before = browser.get(f"{one}/session").json()["session"]["id"]
        new = {"password": "ten grey herons wade"}
        refused = browser.patch(f"{other}/registration", json=new)
        assert refused.status_code == 422
        assert "current_password" in refused.json()["errors"]
        changed = browser.patch(f"{other}/registration", json={**new, "current_password": PASSWORD})
        assert changed.status_code == 200
        assert changed.json()["session"]["id"] != before
        assert known(browser, one)
        assert not known(elsewhere, one)
        assert not known(elsewhere, other)
    wrong = browser.request("DELETE", f"{one}/registration", json={"current_password": PASSWORD})
    assert wrong.status_code == 422
    right = browser.request("DELETE", f"{one}/registration", json={"current_password": new["password"]})
    assert right.status_code == 204
    assert not known(browser, one)
    gone = browser.post(f"{other}/session", json={"email": email, **new})
    assert gone.status_code == 401


def test_a_fresh_sign_in_may_delete_without_the_password(both: tuple[str, str], browser: httpx.Client) -> None:
    one, other = both
    register(browser, one)
    assert browser.delete(f"{other}/registration").status_code == 204
    assert not known(browser, one)


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b'{"email": 1, "password": []}', "application/json", 422),
        (b'{"email": "a@b", "password": "short"}', "application/json", 422),
        (b"[" * 60_000, "application/json", 422),
        (b"[]", "application/json", 422),
        (b"\xff\xfe", "application/json", 422),
        (b'"\\ud800"', "application/json", 422),
        (b"", "application/json", 422),
        (b"email=a%40b.org", "application/x-www-form-urlencoded", 415),
        (b"{}", "text/plain; x=application/json", 415),
        (b'{"a": "%s"}' % (b"x" * 70_000), "application/json", 413),
    ],
)
def test_bad_input_is_never_a_500(
    both: tuple[str, str], browser: httpx.Client, body: bytes, content_type: str, status: int
) -> None:
    one, _ = both
    response = browser.post(f"{one}/registration", content=body, headers={"content-type": content_type})
    assert response.status_code == status, response.text
    if status == 422:
        errors: dict[str, Any] = response.json()["errors"]
        assert all(isinstance(messages, list) and messages for messages in errors.values())


def test_settings_come_from_the_environment(tmp_path: Path) -> None:
    short = {"TTL": "60", "RENEWAL": "0", "GRACE": "5", "MAX_LIFETIME": "120", "WORKERS": "1"}
    running = Demo(tmp_path / "data", **short)
    try:
        with httpx.Client() as browser:
            register(browser, running.urls[0])
            first = browser.cookies["auth"]
            assert known(browser, running.urls[1])
            assert browser.cookies["auth"] != first, "renewed at every request"
    finally:
        running.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_leaves_no_process_behind(tmp_path: Path, number: int) -> None:
    running = Demo(tmp_path / "data")
    below = running.children()
    assert len(below) >= 6, "two servers of two workers each"
    assert running.stop(number) == 0
    deadline = time.monotonic() + 30
    while alive := [pid for pid in below if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)


@pytest.mark.parametrize("kind", ["sqlite", "postgresql", "mariadb", "redis"])
def test_on_each_backend_with_the_driver_of_each_side(kind: str, tmp_path: Path, browser: httpx.Client) -> None:
    with ExitStack() as stack:
        if kind == "redis":
            if EXECUTABLE is None:
                pytest.skip(MISSING)
            url = stack.enter_context(own_server(tmp_path / "redis")).url
        else:
            found = database(kind, tmp_path)
            url = found.through({"sqlite": "sqlite", "postgresql": "psycopg", "mariadb": "mariadb_pymysql"}[kind])
            stack.callback(found.drop, "powauth_sessions", "powauth_sessions_epochs")
        running = Demo(tmp_path / "data", BACKEND=url, WORKERS="1")
        stack.callback(running.stop)
        one, other = running.urls
        email = register(browser, one)
        assert known(browser, other)
        assert browser.delete(f"{other}/session").status_code == 204
        assert not known(browser, one)
        assert browser.post(f"{other}/session", json={"email": email, "password": PASSWORD}).status_code == 200
        assert known(browser, one)
        assert "synchronous" not in running.log.read_text(), "each side has a driver of its own kind"


def test_rep_52_nobody_else_can_read_a_file_of_the_running_demo(demo: Demo, browser: httpx.Client) -> None:
    register(browser, demo.urls[0])
    found = modes(demo.data)
    assert found.pop("sessions") == 0o700
    assert {
        "secret_key",
        "users.sqlite3",
        "users.sqlite3-wal",
        "users.sqlite3-shm",
        "sessions/data.mdb",
    } <= found.keys()
    assert {name: oct(mode) for name, mode in found.items() if mode != 0o600} == {}


@pytest.fixture
def no_umask() -> Iterator[None]:
    """The umask of somebody who gives everybody every right."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.mark.usefixtures("no_umask")
@pytest.mark.parametrize("backend", ["lmdb://{data}/sessions", "sqlite:///{data}/sessions.db"])
def test_rep_52_files_of_the_demo_are_private_from_the_moment_they_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    data = tmp_path / "data"
    monkeypatch.setenv("POWAUTH_DEMO_DATA", str(data))
    monkeypatch.setenv("POWAUTH_DEMO_BACKEND", backend.format(data=data))
    late: list[str] = []
    chmod = os.chmod

    def spy(path: Any, *args: Any, **options: Any) -> None:
        if not Path(path).is_dir():
            late.append(str(path))
        chmod(path, *args, **options)

    monkeypatch.setattr(os, "chmod", spy)
    prepare(settings())
    assert late == []
    with sqlite3.connect(settings().database) as users:  # SQLite makes the two files beside it for who comes first
        users.execute("SELECT count(*) FROM users")
        assert data.stat().st_mode & 0o777 == 0o700
        found = modes(data)
    users.close()
    assert found.pop("sessions", 0o700) == 0o700
    assert {"secret_key", *DATABASE_FILES} < found.keys()
    assert {name: oct(mode) for name, mode in found.items() if mode != 0o600} == {}


def test_rep_52_files_of_an_older_demo_are_made_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWAUTH_DEMO_DATA", str(tmp_path))
    prepare(settings())
    secret = (tmp_path / "secret_key").read_text()
    left = [tmp_path / name for name in DATABASE_FILES]
    for path in left:
        path.touch()
        path.chmod(0o644)
    prepare(settings())
    assert {oct(path.stat().st_mode & 0o777) for path in left if path.exists()} == {"0o600"}
    assert (tmp_path / "secret_key").read_text() == secret


def test_a_forgotten_password_is_reset_by_a_link_that_goes_to_an_smtp_server(
    tmp_path: Path, browser: httpx.Client
) -> None:
    with smtp_server() as server:
        running = Demo(tmp_path / "data", WORKERS="1", SMTP=f"127.0.0.1:{server.port}")
        try:
            for app, public in zip(running.urls, running.public_urls, strict=True):
                email = register(browser, app)
                assert browser.post(f"{app}/password/forgot", json={"email": email}).status_code == 202
                link = server.link(email, "/password/reset")
                assert link.startswith(f"{public}/password/reset#")
                new = {"token": link, "password": "ten grey herons wade"}
                assert browser.post(f"{app}/password/reset", json=new).status_code == 204
                assert not known(browser, app)
                assert browser.post(f"{app}/session", json={"email": email, **new}).status_code == 200
        finally:
            running.stop()
