"""`Invitation`: a thief of an account that may invite, a session that has ended, an inviter who may invite no more."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from harness.confirming import NEW, OTHER_PASSWORD, Base, Confirming, Link, confirming, link_in
from harness.pages_support import EMAIL, ORIGIN, PASSWORD
from harness.slow_bodies import during_the_body
from powauth import Event, Extension, Hooks, Refused
from powauth.backends.base import drive
from powauth.extensions.invitation import Invitation
from powauth.extensions.reset_password import ResetPassword
from powauth.extensions.second_factor import SecondFactor, Totp, TotpMixin
from powauth.testing import MemoryMailer

PAGE = "/account/invitations"
THIRD = "twelve white swans"
ADA = "ada@example.com"


class App(TotpMixin, Base):
    __tablename__ = "apps_of_inviters"


class World:
    """A site with `Invitation`, whose users of ``example.com`` may invite, and its events."""

    def __init__(self, here: Confirming, events: list[Event]) -> None:
        self.here = here
        self.events = events
        self.site = here.site
        self.auth = here.site.auth
        self.me = here.member(EMAIL, confirmed=False)

    def program(self, email: str = EMAIL, password: str = PASSWORD) -> httpx.Client:
        client: httpx.Client = self.here.program()
        assert client.post("/login", json={"email": email, "password": password}).status_code == 200
        return client

    def link(self, client: httpx.Client | None = None) -> Link:
        answer = (client or self.program()).post(PAGE, json={"action": "link"})
        assert answer.status_code == 201, answer.text
        path, _, token = answer.json()["link"].removeprefix(ORIGIN).partition("#")
        return Link(path, token)

    def accepted(self, link: Link, email: str = NEW) -> int:
        fields = {"token": link.token, "email": email, "password": THIRD}
        return int(self.here.program().post(link.path, json=fields).status_code)

    def open(self) -> int:
        return len(drive(self.auth.extension(Invitation).invitations.list(self.me.id)))

    def named(self, name: str) -> list[Event]:
        return [event for event in self.events if event.name == name]


def world(
    folder: Path, framework: str = "wsgi", *, factor: bool = False, auth: Any = None, **options: Any
) -> Iterator[World]:
    mailer, events = MemoryMailer(), list[Event]()

    def extensions(engine: sa.Engine) -> tuple[Extension[Any], ...]:
        invitation: Invitation[Any] = Invitation(mailer, may_invite=lambda user: user.email.endswith("@example.com"))
        own: tuple[Extension[Any], ...] = (invitation, ResetPassword(mailer))
        asks: SecondFactor[Any] = SecondFactor(Totp(engine, App), required=lambda user: user.email != EMAIL)
        return (*own, asks) if factor else own

    given: dict[str, Any] = {
        "mailer": mailer,
        "extensions": extensions,
        "auth": {"on_event": events.append, **(auth or {})},
    }
    with confirming(framework, folder, **given, **{"confirms": False, **options}) as here:
        yield World(here, events)


@pytest.fixture(params=["asgi", "wsgi"])
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    yield from world(tmp_path, request.param)


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[World]:
    yield from world(tmp_path)


# --- what the owner of the account does -------------------------------------------------------------------------------


def reset(app: World) -> None:
    owner = app.here.program()
    owner.post("/password/forgot", json={"email": EMAIL})
    link = link_in(app.here.to(EMAIL)[-1])
    answer = owner.post(link.path, json={"token": link.token, "password": OTHER_PASSWORD})
    assert answer.status_code == 204, answer.text


def revocation(app: World) -> None:
    drive(app.auth.revoke_user(app.me))


def own_reason(app: World) -> None:
    drive(app.auth.credentials_changed(app.me, "moved"))


def new_password(app: World) -> None:
    answer = app.program().post("/account", json={"password": OTHER_PASSWORD, "current_password": PASSWORD})
    assert answer.status_code == 200, answer.text


def new_user_id(app: World) -> None:
    answer = app.program().post("/account", json={"email": "mia@example.com", "current_password": PASSWORD})
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("end", [reset, revocation, own_reason], ids=lambda end: end.__name__)
def test_trm_04_the_invitations_of_a_thief_end_when_the_owner_is_back(app: World, end: Callable[[World], None]) -> None:
    link, mailed = app.link(), app.program().post(PAGE, json={"email": "b@example.org"})
    assert mailed.status_code == 201
    sent = app.here.link("b@example.org")
    end(app)
    assert app.open() == 0
    assert [app.accepted(link), app.accepted(sent)] == [422, 422]
    assert app.here.addresses == [EMAIL]


@pytest.mark.parametrize("change", [new_password, new_user_id], ids=lambda change: change.__name__)
def test_inv_01_invitations_survive_a_change_that_the_user_makes(app: World, change: Callable[[World], None]) -> None:
    link = app.link()
    change(app)
    assert app.open() == 1
    assert app.accepted(link) == 201


# --- a session that ends while its client sends the body --------------------------------------------------------------


def sign_out(app: World) -> None:
    """The user ends all other sessions, on another device."""
    assert app.program().post("/account/sessions", json={"action": "end_others"}).status_code == 200


@pytest.mark.parametrize("end", [revocation, reset, sign_out], ids=lambda end: end.__name__)
@pytest.mark.parametrize("action", ["link", "invite", "burn"])
def test_trm_01_a_session_that_ends_during_a_slow_request_makes_no_invitation(
    slow: World, action: str, end: Callable[[World], None]
) -> None:
    thief = slow.program()
    with during_the_body(slow.site, lambda: end(slow)):
        answer = thief.post(PAGE, json={"action": action, "email": "b@example.org"})
    assert (answer.status_code, answer.json()) == (401, {"error": "not_signed_in"})
    assert (slow.open(), slow.here.to("b@example.org")) == (0, [])


@pytest.mark.parametrize("action", ["again", "end"])
def test_trm_01_a_session_that_ends_during_a_slow_request_changes_no_invitation(slow: World, action: str) -> None:
    thief = slow.program()
    link = slow.link(thief)
    name = thief.get(PAGE).json()["invitations"][0]["id"]
    with during_the_body(slow.site, lambda: sign_out(slow)):
        answer = thief.post(PAGE, json={"action": action, "id": name})
    assert answer.status_code == 401
    assert slow.accepted(link) == 201


@pytest.mark.parametrize("outer", ["the request", "the revocation"])
def test_trm_01_no_order_of_a_request_and_a_revocation_leaves_an_invitation(slow: World, outer: str) -> None:
    """One of the two runs as a whole before each step of the other."""

    def request() -> None:
        thief.post(PAGE, json={"action": "link"})

    def revoke() -> None:
        revocation(slow)

    backend = slow.site.backend
    first, second = (request, revoke) if outer == "the request" else (revoke, request)
    for number in range(1, 100):
        thief, left = slow.program(), [number]

        async def rival(verb: str, left: list[int] = left) -> None:
            del verb
            left[0] -= 1
            if left[0] == 0:
                backend.before = None
                second()

        backend.before = rival
        first()
        backend.before = None
        if left[0] > 0:
            break
        assert slow.open() == 0, f"before step {number}"
        slow.site.clock.advance(3600)
    assert number > 3


# --- an inviter who may invite no more --------------------------------------------------------------------------------


def test_inv_02_the_links_of_an_inviter_who_lost_the_permission_are_invalid(app: World) -> None:
    thief = app.program()
    link = app.link(thief)
    mailed = thief.post(PAGE, json={"email": "b@example.org"})
    assert mailed.status_code == 201
    sent = app.here.link("b@example.org")
    app.here.change(EMAIL, email="mia@other.example")  # by another program: the identity of the session is the old one
    assert [app.accepted(link), app.accepted(sent)] == [422, 422]
    app.here.change("mia@other.example", email=EMAIL)
    assert app.accepted(link) == 201


def test_inv_02_an_old_session_of_such_an_inviter_makes_no_invitation(app: World) -> None:
    me = app.me
    app.here.change(EMAIL, email="mia@other.example")
    with pytest.raises(Refused):
        drive(app.auth.extension(Invitation).invitations.make(me.id, me, None))
    assert app.open() == 0


# --- the event --------------------------------------------------------------------------------------------------------


def refusing(step: Any) -> None:
    if step.identity.email != EMAIL:
        raise Refused("not now")


REFUSALS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a second factor": {"factor": True},
    "an unconfirmed address": {"confirms": True, "required": True, "password": "at_registration"},
    "a hook": {"auth": {"hooks": Hooks(before_sign_in=refusing)}},
}


@pytest.mark.parametrize("by", REFUSALS)
def test_log_an_accepted_invitation_is_an_event_even_if_the_sign_in_is_refused(tmp_path: Path, by: str) -> None:
    for app in world(tmp_path, **REFUSALS[by]):
        if by == "an unconfirmed address":
            drive(app.auth.update_account(app.me, email_confirmed_at=datetime.now(UTC)))
        status = app.accepted(app.link())
        assert status == 201 if by == "nothing" else status in (401, 403)
        assert app.here.addresses == [EMAIL, NEW]
        (event,) = app.named("invitation_accepted")
        assert (event.user_key, event.actor) == (app.here.row(NEW)["id"], app.me.id)


@pytest.mark.parametrize("refused", [False, True])
def test_log_an_account_that_an_invitation_takes_over_is_an_event_too(tmp_path: Path, refused: bool) -> None:
    options: dict[str, Any] = {"auth": {"hooks": Hooks(before_sign_in=refusing)}} if refused else {}
    for app in world(tmp_path, confirms=True, **options):
        app.here.member(NEW, OTHER_PASSWORD, confirmed=False)
        assert app.program().post(PAGE, json={"email": NEW}).status_code == 201
        assert app.named("invitation_accepted") == []
        assert app.accepted(app.here.link(NEW)) == (403 if refused else 201)
        (event,) = app.named("invitation_accepted")
        assert (event.user_key, event.actor) == (app.here.row(NEW)["id"], app.me.id)


def test_log_without_an_account_there_is_no_event(tmp_path: Path) -> None:
    def none(step: Any) -> None:
        del step
        raise Refused("no registrations today")

    for app in world(tmp_path, auth={"hooks": Hooks(before_registration=none)}):
        assert app.accepted(app.link()) == 403
        assert app.here.addresses == [EMAIL]
        assert app.named("invitation_accepted") == []
