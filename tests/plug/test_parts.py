"""The parts of an authenticator that an extension gets: changes of accounts, limits, the public address."""

import logging
from datetime import timedelta
from typing import Any, Self

import pytest

from harness.support import SECRET, Clock, Me, MemoryUsers, User
from powauth import (
    ConfigError,
    Event,
    Extension,
    InvalidParams,
    Limit,
    Overtaken,
    Parts,
    SessionAuth,
    StoreUnavailable,
    Throttled,
)
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend

ADDRESS = "ada@example.org"
THREE = Limit(3, timedelta(minutes=5))


class Holding(Extension[Me]):
    """Keeps its parts, and notes what it is told."""

    name = "holding"
    parts: Parts[Me]

    def __init__(self, said: list[str], error: Exception | None = None) -> None:
        self.said = said
        self.error = error

    def bind(self, parts: Parts[Me]) -> Self:
        bound = type(self)(self.said, self.error)
        bound.parts = parts
        return bound

    async def credentials_changed(self, key: object, why: str) -> None:
        self.said.append(f"changed {why}")

    async def address_proven(self, key: object, address: str) -> None:
        self.said.append(f"{key} proved {address}")
        if self.error is not None:
            raise self.error


class Failing(Holding):
    """Fails when an address is proven."""

    name = "failing"


class World:
    """An app with one user and extensions."""

    def __init__(self, error: Exception | None = None, **options: Any) -> None:
        self.said: list[str] = []
        self.events: list[Event] = []
        self.clock, self.users = Clock(), MemoryUsers()
        self.user: User = self.users.add(ADDRESS)
        given: dict[str, Any] = {"secret_key": SECRET, "backend": MemoryBackend()}
        given["extensions"] = [Failing(self.said, error), Holding(self.said)]
        self.auth: SessionAuth[User, Me] = SessionAuth(
            users=self.users, clock=self.clock, on_event=self.events.append, **{**given, **options}
        )

    @property
    def parts(self) -> Parts[Me]:
        return next(each.parts for each in self.auth.accounts.hooks.extensions if type(each) is Holding)


# --- changes ----------------------------------------------------------------------------------------------------------


def test_an_extension_changes_an_account_with_all_that_follows() -> None:
    world = World()
    proof = drive(world.auth.users.get(world.user.id))
    assert proof is not None
    changed = drive(world.parts.change(world.user.id, {"password": "new"}, proof=proof.proof))
    assert changed.proof != proof.proof
    assert world.said == ["changed credentials changed"] * 2
    assert [event.name for event in world.events] == ["updated", "revoked"]
    with pytest.raises(Overtaken):
        drive(world.parts.change(world.user.id, {"password": "newer"}, proof=proof.proof))
    assert drive(world.auth.users.get(world.user.id)) == changed
    assert world.said == ["changed credentials changed"] * 2


def test_a_change_that_leaves_the_credentials_only_refreshes_the_sessions() -> None:
    world = World()
    changed = drive(world.parts.change(world.user.id, {"name": "Ada"}))
    assert (changed.identity.name, world.said) == ("Ada", [])
    with pytest.raises(InvalidParams):
        drive(world.parts.change("nobody", {"name": "Ada"}))


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"throttle": None}])
def test_attempts_are_limited_by_purpose_and_subject(options: dict[str, Any]) -> None:
    world = World(**options)
    limits = world.parts.limits
    for _ in range(3):
        drive(limits.admit("holding.address", ADDRESS, THREE))
    with pytest.raises(Throttled) as caught:
        drive(limits.admit("holding.address", ADDRESS, THREE))
    assert (caught.value.scope, caught.value.retry_after) == ("holding.address", timedelta(minutes=5))
    assert [(event.name, event.detail) for event in world.events] == [("throttled", "holding.address")]
    drive(limits.admit("holding.address", "bob@example.org", THREE))
    drive(limits.admit("holding.token", ADDRESS, THREE))
    world.clock.advance(301)
    drive(limits.admit("holding.address", ADDRESS, THREE))


def test_an_attempt_can_be_taken_back() -> None:
    world = World()
    for _ in range(5):
        admission = drive(world.parts.limits.admit("holding.token", ADDRESS, THREE))
        drive(admission.undo())


def test_sources_are_counted_as_the_throttle_sees_them() -> None:
    limits = World().parts.limits
    for host in range(3):
        drive(limits.admit_source("holding.source", f"2001:db8::{host}", THREE))
    with pytest.raises(Throttled):
        drive(limits.admit_source("holding.source", "[2001:db8::9]:443", THREE))
    drive(limits.admit_source("holding.source", "2001:db8:0:1::9", THREE))
    for _ in range(4):
        drive(limits.admit_source("holding.source", None, THREE))


@pytest.mark.parametrize("purpose", ["account", "source", "factor", "current_password", "", "a.", ".a", "A.b", "a b.c"])
def test_a_purpose_cannot_be_one_of_the_throttle(purpose: str) -> None:
    with pytest.raises(ConfigError, match=r"^the purpose of a limit must be a text such as 'reset.address'"):
        drive(World().parts.limits.admit(purpose, ADDRESS, THREE))


# --- proven addresses -------------------------------------------------------------------------------------------------


def test_all_extensions_hear_of_a_proven_address(caplog: pytest.LogCaptureFixture) -> None:
    world = World(error=StoreUnavailable("out of order"))
    with caplog.at_level(logging.ERROR, "powauth"):
        drive(world.parts.address_proven(world.user.id, ADDRESS))
    assert world.said == [f"{world.user.id} proved {ADDRESS}"] * 2
    assert [record.getMessage() for record in caplog.records] == ["the extension failing failed on a proven address"]


# --- the public address -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ("https://example.org", "https://example.org"),
        ("https://example.org/", "https://example.org"),
        ("https://example.org:8443/auth/pages/", "https://example.org:8443/auth/pages"),
        ("https://xn--bcher-kva.example/a", "https://xn--bcher-kva.example/a"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://shop.localhost/auth", "http://shop.localhost/auth"),
        ("http://127.0.0.1:8000/auth", "http://127.0.0.1:8000/auth"),
        ("http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_extensions_know_the_public_address(given: str | None, expected: str | None) -> None:
    assert World(public_url=given).parts.public_url == expected


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "example.org",
        "//example.org",
        "ftp://example.org",
        "https://",
        "https:///auth",
        "https://good@evil.example",
        "https://example.org?next=/",
        "https://example.org/#top",
        "https://example.org//auth",
        "https://example.org/../auth",
        "https://example.org/a b",
        "https://example.org\n",
        "https://example.org:99999",
        "https://bücher.example",
        b"https://example.org",
        7,
    ],
)
def test_a_public_address_is_one_address(wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"^public_url must be the address of the pages, such as 'https://"):
        World(public_url=wrong)


@pytest.mark.parametrize(
    "wrong", ["http://example.org", "http://localhost.example.org", "http://10.0.0.1", "http://[::2]"]
)
def test_a_public_address_is_on_https(wrong: str) -> None:
    with pytest.raises(ConfigError, match=r"^public_url must be on https"):
        World(public_url=wrong)


def test_the_public_address_is_checked_without_extensions() -> None:
    with pytest.raises(ConfigError, match=r"^public_url"):
        World(public_url="http://example.org", extensions=[])
