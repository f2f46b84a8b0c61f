"""`ConfirmEmail` together with `ResetPassword`: what a reset proves, and what it ends."""

from pathlib import Path
from typing import Any

from harness.confirming import NEW, OTHER_PASSWORD, Confirming, Link, confirming
from harness.pages_support import EMAIL, PASSWORD
from powauth import Remember
from powauth.backends.base import drive
from powauth.extensions.reset_password import ResetPassword
from powauth.testing import MemoryMailer


def site(folder: Path, *, remember: bool = False, **options: Any) -> Any:
    mailer = MemoryMailer()
    auth = {"remember": Remember()} if remember else {}
    given = {"password": "at_registration", **options}
    return confirming("wsgi", folder, mailer=mailer, extensions=(ResetPassword(mailer),), auth=auth, **given)


def reset_link(here: Confirming) -> Link:
    """The newest link to reset the password."""
    asked = here.program().post("/password/forgot", json={"email": EMAIL})
    assert asked.status_code == 202
    link = here.link()
    assert link.path == "/password/reset"
    return link


def test_eml_04_what_an_attacker_prepared_is_void_once_the_owner_resets_the_password(tmp_path: Path) -> None:
    with site(tmp_path, remember=True) as here:
        attacker, remembered = here.browser(), here.browser()
        attacker.register(EMAIL, PASSWORD)
        page = remembered.get("/login")
        assert remembered.send(page, email=EMAIL, password=PASSWORD, remember="true").status == 303
        fields = {"action": "user_id", "email": "evil@attacker.example", "current_password": PASSWORD}
        assert attacker.post("/account", fields).status == 303
        trap, confirmation = here.link("evil@attacker.example"), here.link(EMAIL)
        assert confirmation.path == "/confirm-email"
        link = reset_link(here)
        done = here.program().post(link.path, json={"token": link.token, "password": OTHER_PASSWORD})
        assert done.status_code == 204
        assert not attacker.is_signed_in()
        assert not remembered.is_signed_in()
        assert here.browser().sign_in(EMAIL, PASSWORD).status == 401
        owner = here.browser()
        assert owner.sign_in(EMAIL, OTHER_PASSWORD).status == 303
        for old in (trap, confirmation):
            fields = {"token": old.token, "password": "twelve white swans"}
            assert owner.post(old.path, fields).status == 422
        row = here.row()
        assert (row["unconfirmed_email"], row["email_confirmed_at"] is not None) == (None, True)


def test_a_reset_confirms_no_other_address_than_that_of_its_token(tmp_path: Path) -> None:
    with site(tmp_path) as here:
        me = here.member(EMAIL, confirmed=False)
        link = reset_link(here)
        drive(here.site.auth.update_account(me, email=NEW))
        used = here.program().post(link.path, json={"token": link.token, "password": OTHER_PASSWORD})
        assert used.status_code == 422
        assert here.row(NEW)["email_confirmed_at"] is None


def test_a_reset_lets_a_user_in_who_had_to_confirm_the_address(tmp_path: Path) -> None:
    with site(tmp_path, required=True) as here:
        here.member(EMAIL, confirmed=False)
        link = reset_link(here)
        here.program().post(link.path, json={"token": link.token, "password": OTHER_PASSWORD})
        assert here.browser().sign_in(EMAIL, OTHER_PASSWORD).location == "/account"


def test_an_invited_address_has_no_account_to_reset(tmp_path: Path) -> None:
    with site(tmp_path, password="at_confirmation") as here:
        assert here.program().post("/register", json={"email": EMAIL}).status_code == 202
        before = len(here.mails())
        assert here.program().post("/password/forgot", json={"email": EMAIL}).status_code == 202
        assert len(here.mails()) == before
        assert here.addresses == []
