"""The extension of ``examples/``, an audit log: what is written at which step, and what it refuses."""

import stat
from pathlib import Path
from typing import Any

import pytest
from audit_log import AuditLog

from harness.support import SECRET, Clock, FakeConnection, MemoryUsers
from powauth import BlockingRequestAuth, ConfigError, Refused, RequestAuth, SessionAuth
from powauth.backends.base import drive

ADA = {"email": "ada@example.org", "password": "correct horse"}


class Site:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = Clock()
        self.users = MemoryUsers()
        self.auth: SessionAuth[Any, Any] = SessionAuth(
            secret_key=SECRET, users=self.users, backend="memory://", clock=self.clock, extensions=[AuditLog(path)]
        )
        self.log = self.auth.extension(AuditLog)

    def request(self) -> BlockingRequestAuth[Any, Any]:
        return BlockingRequestAuth(RequestAuth(self.auth, FakeConnection()), drive)

    def lines(self) -> list[str]:
        return [entry.what for entry in self.log.entries()]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "audit.log")


def test_each_flow_leaves_its_lines(site: Site) -> None:
    request = site.request()
    user = request.register(ADA)
    request.update_user(password="six brown owls hoot", current_password=ADA["password"])
    request.sign_out()
    assert site.request().sign_in(ADA) is None
    assert site.lines() == [
        "started",
        "before registration",
        "credentials changed",
        "registration",
        "before sign_in",
        "sign_in",
        "before update",
        "credentials changed",
        "update",
        "before sign_in",
        "sign_in",
        "before sign_out",
        "sign_out",
        "before authentication",
    ]
    started, before, _, registered, *_, tried = site.log.entries()
    assert started.who is None
    assert (before.who, registered.who, tried.who) == (ADA["email"], user.id, ADA["email"])
    assert registered.source == "192.0.2.1"
    assert started.at == int(site.clock.now * 1000)


def test_the_apps_own_changes_leave_a_line(site: Site) -> None:
    ada = site.users.add(ADA["email"])
    drive(site.auth.revoke_user(ada))
    drive(site.auth.delete_account(ada))
    assert [(entry.what, entry.who, entry.why) for entry in site.log.entries()[1:]] == [
        ("credentials changed", ada.id, "all"),
        ("credentials changed", ada.id, "user deleted"),
    ]


def test_no_line_holds_a_password(site: Site) -> None:
    site.request().register(ADA)
    site.request().sign_in(ADA)
    assert ADA["password"] not in site.path.read_text()
    assert stat.S_IMODE(site.path.stat().st_mode) == 0o600


def test_a_line_that_was_changed_is_found(site: Site) -> None:
    site.request().register(ADA)
    site.path.write_text(site.path.read_text().replace("registration", "deletion"))
    with pytest.raises(ValueError, match="changed"):
        site.log.entries()


def test_while_the_log_cannot_be_written_no_account_changes(site: Site) -> None:
    request = site.request()
    request.register(ADA)
    site.path.unlink()
    site.path.mkdir()
    with pytest.raises(Refused, match="now"):
        request.update_user(email="bo@example.org", current_password=ADA["password"])
    with pytest.raises(Refused, match="now"):
        site.request().register(ADA | {"email": "bo@example.org"})
    with pytest.raises(Refused, match="now"):
        request.delete_user(current_password=ADA["password"])
    assert site.request().sign_in(ADA) is not None, "the rest goes on"


def test_a_log_that_cannot_be_written_is_refused_at_construction(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="audit log"):
        Site(tmp_path / "nowhere" / "audit.log")
