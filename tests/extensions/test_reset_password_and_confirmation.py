"""A reset beside the confirmation of addresses. Neither extension knows the other."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.confirming import NEW, OTHER_PASSWORD, Confirming, confirming, link_in
from harness.pages_support import EMAIL, PASSWORD
from powauth.backends.base import drive
from powauth.extensions.reset_password import ResetPassword
from powauth.testing import MemoryMailer


class World:
    """A site with both extensions. Each has a mailer of its own."""

    def __init__(self, app: Confirming, mailer: MemoryMailer) -> None:
        self.app, self.mailer = app, mailer

    def ask(self, email: str = EMAIL) -> tuple[int, bytes]:
        answer = self.app.program().post("/password/forgot", json={"email": email})
        drive(self.app.site.auth.extension(ResetPassword).aclose())
        return answer.status_code, answer.content

    def reset(self, password: str = OTHER_PASSWORD) -> int:
        link = link_in(self.mailer.messages[-1])
        answer = self.app.program().post(link.path, json={"token": link.token, "password": password})
        return answer.status_code

    def signs_in(self, password: str, email: str = EMAIL) -> bool:
        return self.app.program().post("/login", json={"email": email, "password": password}).status_code == 200


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    mailer = MemoryMailer()
    with confirming("wsgi", tmp_path, extensions=(ResetPassword(mailer),), required=True) as app:
        yield World(app, mailer)


def test_rst_01_an_unconfirmed_user_gets_the_same_answer_and_a_reset_confirms_the_address(world: World) -> None:
    world.app.member(confirmed=False)
    assert not world.signs_in(PASSWORD)
    assert world.ask() == world.ask("nobody@example.com") == (202, b"{}")
    assert world.app.row()["email_confirmed_at"] is None
    assert world.reset() == 204
    assert world.app.row()["email_confirmed_at"] is not None
    assert world.signs_in(OTHER_PASSWORD)


def test_trm_04_a_reset_voids_a_change_of_address_that_somebody_has_begun(world: World) -> None:
    world.app.member()
    attacker = world.app.browser()
    attacker.post("/login", {"email": EMAIL, "password": PASSWORD})
    attacker.post("/account", {"action": "user_id", "email": NEW, "current_password": PASSWORD})
    change = world.app.link(NEW)
    world.ask()
    assert world.reset() == 204
    world.app.opened(world.app.browser(), change)
    assert world.app.addresses == [EMAIL]
    assert attacker.get("/account").status == 303
    assert world.signs_in(OTHER_PASSWORD)


def test_a_link_for_a_reset_is_void_after_the_address_was_changed(world: World) -> None:
    world.app.member()
    world.ask()
    browser = world.app.browser()
    browser.post("/login", {"email": EMAIL, "password": PASSWORD})
    browser.post("/account", {"action": "user_id", "email": NEW, "current_password": PASSWORD})
    world.app.opened(browser, world.app.link(NEW))
    assert world.app.addresses == [NEW]
    assert world.reset() == 422
    assert world.signs_in(PASSWORD, NEW)
